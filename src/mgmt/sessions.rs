//! Changes at run time of what keeps a service's sessions together: persistence, its engine, one-packet scheduling.
//!
//! Pure functions of definitions. Refuses what the configuration's rules refuse: what can be set can also be written
//! to the file.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::api;
use crate::config::model::Protocol;
use crate::config::sessions::Mix;
use crate::config::values::{Netmask, Period};
use crate::forward::defs::{Grouping, OnNoKey, Persistence};
use crate::forward::{ServiceDef, ServiceKind};
use crate::net::Af;
use crate::persist::{Engine, Field, PayloadKey, Unit};
use crate::table::Method;

const TCP: u8 = 6;

/// The timeouts that the configuration allows.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(31 * 86_400);

/// Whether two definitions differ in what can be set here.
#[must_use]
pub fn differ(a: &ServiceDef, b: &ServiceDef) -> bool {
    (a.one_packet, &a.persistence) != (b.one_packet, &b.persistence)
}

/// Persistence for a listing.
#[must_use]
pub fn listed(p: &Persistence) -> api::Persistence {
    api::Persistence {
        timeout_s: p.timeout.as_secs_f64(),
        netmask: netmask(p.grouping),
        engine: p.engine.as_ref().map(|e| e.name().to_owned()),
        field: match &p.engine {
            Some(Engine::Payload(field)) => Some(field.to_string()),
            Some(Engine::Sip) | None => None,
        },
        on_no_key: match p.on_no_key {
            OnNoKey::Fallback => "fallback",
            OnNoKey::Drop => "drop",
        }
        .to_owned(),
        max_templates: p.max_templates,
        max_templates_per_client: p.max_per_client,
    }
}

/// Persistence in words, for messages.
#[must_use]
pub fn describe(p: Option<&Persistence>) -> String {
    let Some(p) = p else {
        return "off".to_owned();
    };
    format!(
        "{} netmask {} engine {}",
        Period(p.timeout),
        netmask(p.grouping),
        describe_engine(p.engine.as_ref())
    )
}

/// Scheduler and flags in words, for messages.
#[must_use]
pub fn describe_scheduler(s: &ServiceDef) -> String {
    match s.flags.as_slice() {
        [] => s.scheduler.clone(),
        flags => format!("{} ({})", s.scheduler, flags.join(",")),
    }
}

fn describe_engine(engine: Option<&Engine>) -> String {
    match engine {
        None => "none".to_owned(),
        Some(Engine::Payload(field)) => format!("payload {field}"),
        Some(engine) => engine.name().to_owned(),
    }
}

fn netmask(grouping: Grouping) -> String {
    match grouping {
        Grouping::Mask4(mask) => Ipv4Addr::from(mask).to_string(),
        Grouping::Prefix6(len) => len.to_string(),
    }
}

/// Gives `s` of a new file what was set at run time where the file says the same as it did, and tells of it.
///
/// `before` is what the file said, `now` what runs. What does not go together with the rest of the new file is lost.
pub fn keep(s: &mut ServiceDef, before: &ServiceDef, now: &ServiceDef) -> Vec<String> {
    let mut out = Vec::new();
    let mut with = s.clone();
    if s.persistence == before.persistence && now.persistence != s.persistence {
        with.persistence.clone_from(&now.persistence);
        out.push((
            "persistence",
            describe(now.persistence.as_ref()),
            describe(s.persistence.as_ref()),
        ));
    }
    if s.one_packet == before.one_packet && now.one_packet != s.one_packet {
        with.one_packet = now.one_packet;
        out.push((
            "one_packet",
            now.one_packet.to_string(),
            s.one_packet.to_string(),
        ));
    }
    let lost = problem(&with).filter(|_| differ(&with, s));
    if lost.is_none() {
        s.clone_from(&with);
    }
    let told = out.into_iter().map(|(what, now, file)| match &lost {
        None => format!(
            "{} keeps {what} {now} that was set at run time (the file says {file})",
            s.name
        ),
        Some(why) => format!(
            "{} loses {what} {now} that was set at run time: {why}",
            s.name
        ),
    });
    told.collect()
}

/// Does what `update` asks for; tells what, a clause each. `file` is what the file says of the service, which is where
/// persistence that is switched on again takes from what the update does not say.
///
/// # Errors
/// Why it can't be so.
pub fn apply(
    s: &mut ServiceDef,
    file: Option<&ServiceDef>,
    update: &api::ServiceUpdate,
) -> Result<Vec<String>, String> {
    let mut done = Vec::new();
    if update.scheduler.is_some() || update.scheduler_flags.is_some() {
        let before = describe_scheduler(s);
        if let Some(scheduler) = &update.scheduler {
            s.scheduler.clone_from(scheduler);
            // Those of another scheduler mean nothing to it, or something else.
            s.flags.clear();
        }
        if let Some(flags) = &update.scheduler_flags {
            s.flags.clone_from(flags);
        }
        done.push(format!("scheduler {before} -> {}", describe_scheduler(s)));
    }
    if let Some(one_packet) = update.one_packet {
        done.push(format!("one_packet {} -> {one_packet}", s.one_packet));
        s.one_packet = one_packet;
    }
    if let Some(update) = &update.persistence {
        let before = describe(s.persistence.as_ref());
        persistence(s, file, update)?;
        let after = describe(s.persistence.as_ref());
        done.push(format!("persistence {before} -> {after}"));
    }
    if done.is_empty() {
        return Err(
            "nothing to change: give `scheduler`, `scheduler_flags`, `one_packet`, `persistence` or several"
                .to_owned(),
        );
    }
    if let Some(why) = problem(s) {
        return Err(why);
    }
    let engine = s.persistence.as_ref().is_some_and(|p| p.engine.is_some());
    let note = match protocol(s).filter(|_| engine) {
        Some(TCP) => {
            "on TCP the server is chosen at the SYN, before any payload: the service uses its normal persistence"
        }
        None if engine => {
            "only UDP packets of the mark are looked into; others use the service's normal persistence"
        }
        _ => return Ok(done),
    };
    done.push(note.to_owned());
    Ok(done)
}

fn persistence(
    s: &mut ServiceDef,
    file: Option<&ServiceDef>,
    update: &api::PersistenceUpdate,
) -> Result<(), String> {
    let api::PersistenceUpdate {
        timeout,
        netmask,
        engine,
        offset,
        length,
        unit,
    } = update;
    let fields = (*offset, *length, unit.as_deref());
    if *update == api::PersistenceUpdate::default() {
        return Err(
            "nothing to change of `persistence`: give `timeout`, `netmask` or `engine`".to_owned(),
        );
    }
    if timeout.as_deref() == Some("off") {
        if netmask.is_some() || engine.is_some() || fields != (None, None, None) {
            return Err("`timeout: off` leaves nothing that more could be said of".to_owned());
        }
        s.persistence = None;
        return Ok(());
    }
    let af = s.af();
    let mut p = match (&s.persistence, timeout) {
        (Some(p), _) => p.clone(),
        (None, Some(_)) => file
            .and_then(|f| f.persistence.clone())
            .unwrap_or_else(|| default(af)),
        (None, None) => {
            return Err(
                "it has no persistence; switch it on with a timeout, such as 360s, first"
                    .to_owned(),
            );
        }
    };
    if let Some(timeout) = timeout {
        p.timeout = parse_timeout(timeout)?;
    }
    if let Some(netmask) = netmask {
        p.grouping = parse_netmask(af, netmask)?;
    }
    match engine.as_deref() {
        Some(word) => p.engine = parse_engine(word, fields)?,
        None if fields != (None, None, None) => {
            return Err("`offset`, `length` and `unit` are for `engine: payload`".to_owned());
        }
        None => {}
    }
    if p.engine.is_none() {
        // Without an engine no key is looked for, so none can be missing.
        p.on_no_key = OnNoKey::Fallback;
    }
    s.persistence = Some(p);
    Ok(())
}

/// Persistence of which nothing but that it is wanted was said.
fn default(af: Af) -> Persistence {
    Persistence {
        timeout: Duration::from_secs(360),
        grouping: match af {
            Af::V4 => Grouping::Mask4(u32::MAX),
            Af::V6 => Grouping::Prefix6(128),
        },
        engine: None,
        on_no_key: OnNoKey::Fallback,
        max_templates: 0,
        max_per_client: 0,
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let Period(timeout) = text.parse()?;
    if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&timeout) {
        return Err(format!(
            "a timeout of {text} is out of range: 1s to 31d, or `off` for no persistence"
        ));
    }
    Ok(timeout)
}

fn parse_netmask(af: Af, text: &str) -> Result<Grouping, String> {
    match (af, text.parse()?) {
        (Af::V4, Netmask::Dotted(len) | Netmask::Length(len)) if len <= 32 => {
            let zeros = 32 - u32::from(len);
            let mask = u32::MAX.checked_shl(zeros).unwrap_or(0);
            Ok(Grouping::Mask4(mask))
        }
        (Af::V6, Netmask::Length(len)) => Ok(Grouping::Prefix6(len)),
        (Af::V4, _) => Err(format!(
            "the prefix length {text} is too long for IPv4; 0 to 32 is allowed"
        )),
        (Af::V6, Netmask::Dotted(_)) => Err(format!(
            "clients of an IPv6 service are grouped by a prefix length, 0 to 128, not by `{text}`"
        )),
    }
}

fn parse_engine(
    word: &str,
    (offset, length, unit): (Option<u32>, Option<u32>, Option<&str>),
) -> Result<Option<Engine>, String> {
    if word != "payload" && (offset, length, unit) != (None, None, None) {
        return Err("`offset`, `length` and `unit` are for `engine: payload`".to_owned());
    }
    match word {
        "none" => Ok(None),
        "sip" => Ok(Some(Engine::Sip)),
        "payload" => {
            let (Some(offset), Some(length)) = (offset, length) else {
                return Err(
                    "`engine: payload` needs `offset` and `length`, to find the field".to_owned(),
                );
            };
            let unit = match unit {
                None | Some("bytes") => Unit::Bytes,
                Some("bits") => Unit::Bits,
                Some(other) => return Err(format!("`{other}` is no unit; there is: bytes, bits")),
            };
            let field = Field::new(offset, length, unit).map_err(|e| e.to_string())?;
            Ok(Some(Engine::Payload(field)))
        }
        other => Err(format!(
            "`{other}` is no engine; there is: sip, payload, none"
        )),
    }
}

fn protocol(s: &ServiceDef) -> Option<u8> {
    match s.kind {
        ServiceKind::Address { proto, .. } => Some(proto),
        ServiceKind::Mark { .. } => None,
    }
}

/// Why a service can't be as it is defined, if it can't.
fn problem(s: &ServiceDef) -> Option<String> {
    let number = protocol(s);
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let mix = Mix {
        protocol: all.into_iter().find(|p| Some(p.number()) == number),
        mark: number.is_none(),
        any_port: number.is_some() && s.port() == 0,
        one_packet: s.one_packet,
        limited: s.new_connections_per_second != 0,
        masq: s.servers.iter().any(|d| d.method == Method::Masq),
        persistence: s.persistence.is_some(),
        engine: s.persistence.as_ref().is_some_and(|p| p.engine.is_some()),
        payload_key: s.payload_key.is_some(),
        quic: matches!(s.payload_key, Some(PayloadKey::Quic(_))),
    };
    mix.clashes().next().map(|clash| clash.why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{ip, persistence, service, sip_one_packet};
    use super::*;
    use crate::net::packet::proto::UDP;
    use crate::persist::SessionKey;

    fn update(json: &str) -> api::ServiceUpdate {
        serde_json::from_str(json).expect("as the API says")
    }

    /// A UDP service without anything, at port 5060 of an address.
    fn udp(addr: &str) -> ServiceDef {
        ServiceDef {
            kind: ServiceKind::Address {
                proto: UDP,
                addr: ip(addr),
                port: 5060,
            },
            persistence: None,
            one_packet: false,
            ..sip_one_packet()
        }
    }

    fn refused(s: &ServiceDef, json: &str) -> String {
        let mut changed = s.clone();
        apply(&mut changed, None, &update(json)).expect_err(json)
    }

    #[test]
    fn what_can_not_be_is_refused_with_the_reason() {
        let plain = udp("192.0.2.1");
        let sctp = ServiceDef {
            kind: ServiceKind::Address {
                proto: 132,
                addr: ip("192.0.2.1"),
                port: 5060,
            },
            ..plain.clone()
        };
        let every_port = ServiceDef {
            kind: ServiceKind::Address {
                proto: UDP,
                addr: ip("192.0.2.1"),
                port: 0,
            },
            persistence: Some(persistence(60, Grouping::Mask4(0), None)),
            ..plain.clone()
        };
        let (af, mark) = (Af::V4, 7);
        let marked = ServiceDef {
            kind: ServiceKind::Mark { af, mark },
            ..plain.clone()
        };
        let keyed = ServiceDef {
            payload_key: Some(PayloadKey::Field(SessionKey {
                field: Field::new(0, 4, Unit::Bytes).expect("a field"),
                when: None,
            })),
            ..plain.clone()
        };
        let limited = ServiceDef {
            new_connections_per_second: 10,
            ..plain.clone()
        };
        let engine = |more: &str| format!(r#"{{"persistence": {{"timeout": "60s", {more}}}}}"#);
        for (s, json, why) in [
            (&plain, "{}".to_owned(), "nothing to change"),
            (
                &plain,
                r#"{"persistence": {}}"#.to_owned(),
                "nothing to change",
            ),
            (
                &plain,
                r#"{"persistence": {"engine": "sip"}}"#.to_owned(),
                "switch it on",
            ),
            (
                &plain,
                r#"{"persistence": {"timeout": "0s"}}"#.to_owned(),
                "out of range",
            ),
            (
                &plain,
                r#"{"persistence": {"timeout": "60"}}"#.to_owned(),
                "did you mean `60s`?",
            ),
            (
                &plain,
                r#"{"persistence": {"timeout": "32d"}}"#.to_owned(),
                "out of range",
            ),
            (
                &plain,
                r#"{"persistence": {"timeout": "off", "engine": "sip"}}"#.to_owned(),
                "off",
            ),
            (&plain, engine(r#""netmask": "255.0.255.0""#), "has holes"),
            (&plain, engine(r#""netmask": "33""#), "too long for IPv4"),
            (
                &udp("2001:db8::1"),
                engine(r#""netmask": "255.0.0.0""#),
                "by a prefix length",
            ),
            (&plain, engine(r#""engine": "siip""#), "is no engine"),
            (
                &plain,
                engine(r#""engine": "payload""#),
                "needs `offset` and `length`",
            ),
            (
                &plain,
                engine(r#""engine": "payload", "offset": 1, "length": 0"#),
                "length 0",
            ),
            (
                &plain,
                engine(r#""engine": "payload", "offset": 66000, "length": 1"#),
                "behind",
            ),
            (
                &plain,
                engine(r#""engine": "sip", "length": 1"#),
                "are for `engine: payload`",
            ),
            (
                &plain,
                engine(r#""length": 1"#),
                "are for `engine: payload`",
            ),
            (&sctp, engine(r#""engine": "sip""#), "look into UDP packets"),
            (&sctp, r#"{"one_packet": true}"#.to_owned(), "is for UDP"),
            (
                &limited,
                r#"{"one_packet": true}"#.to_owned(),
                "nothing that this could limit",
            ),
            (
                &marked,
                r#"{"one_packet": true}"#.to_owned(),
                "a mark has none",
            ),
            (
                &keyed,
                r#"{"persistence": {"timeout": "60s"}}"#.to_owned(),
                "either",
            ),
            (
                &every_port,
                r#"{"persistence": {"timeout": "off"}}"#.to_owned(),
                "port 0",
            ),
        ] {
            let said = refused(s, &json);
            assert!(said.contains(why), "{json}: {said}");
        }
    }

    #[test]
    fn netmasks_are_read_as_the_configuration_reads_them() {
        for (af, text, want) in [
            (Af::V4, "255.255.255.0", Grouping::Mask4(0xffff_ff00)),
            (Af::V4, "0.0.0.0", Grouping::Mask4(0)),
            (Af::V4, "0", Grouping::Mask4(0)),
            (Af::V4, "32", Grouping::Mask4(u32::MAX)),
            (Af::V6, "0", Grouping::Prefix6(0)),
            (Af::V6, "128", Grouping::Prefix6(128)),
        ] {
            assert_eq!(parse_netmask(af, text), Ok(want), "{text}");
        }
    }

    #[test]
    fn an_engine_on_tcp_is_allowed_and_said_to_do_nothing() {
        let mut s = service("web", "192.0.2.80:80", &["10.0.0.1:80"]);
        let asked = update(r#"{"persistence": {"timeout": "60s", "engine": "sip"}}"#);
        let done = apply(&mut s, None, &asked).expect("allowed");
        assert!(done[1].contains("chosen at the SYN"), "{done:?}");
    }

    #[test]
    fn without_an_engine_no_key_can_be_missing() {
        let mut s = sip_one_packet();
        s.persistence.as_mut().expect("persistent").on_no_key = OnNoKey::Drop;
        let asked = update(r#"{"persistence": {"engine": "none"}}"#);
        apply(&mut s, None, &asked).expect("allowed");
        assert_eq!(
            s.persistence.expect("persistent").on_no_key,
            OnNoKey::Fallback
        );
    }
}
