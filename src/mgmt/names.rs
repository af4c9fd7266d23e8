//! The words that listings, JSON and messages use for data path values, and near matches for words mistyped.

use std::net::{IpAddr, SocketAddr};

use crate::forward::defs::OnServerDown;
use crate::forward::{DestDef, ServiceDef, ServiceKind};
use crate::net::Af;
use crate::net::tunnel::{Tunnel, TunnelChecksum, TunnelKind};
use crate::persist::PayloadKey;
use crate::table::state::state_name;
use crate::table::{AdminState, Method};

/// IPVS's template flag (specification §2.1).
const TEMPLATE: u16 = 0x1000;

/// A connection state's name in listings (specification §7, §10.9).
#[must_use]
pub fn state(proto: u8, state: u8, flags: u16) -> &'static str {
    match (flags & TEMPLATE != 0, state) {
        (true, 0) => "NONE",
        (true, _) => "ASSURED",
        (false, state) => state_name(proto, state),
    }
}

/// A protocol's name in listings (specification §10.9).
#[must_use]
pub fn protocol(proto: u8) -> String {
    match proto {
        0 => "IP".to_owned(),
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        n => format!("IP_{n}"),
    }
}

/// `address:port`, IPv6 addresses in brackets.
#[must_use]
pub fn endpoint(addr: IpAddr, port: u16) -> String {
    SocketAddr::new(addr, port).to_string()
}

/// A service's protocol in the configuration's words, and its address and port.
#[must_use]
pub fn service_key(kind: &ServiceKind) -> (String, String) {
    match *kind {
        ServiceKind::Address { proto, addr, port } => {
            (protocol(proto).to_lowercase(), endpoint(addr, port))
        }
        ServiceKind::Mark { mark, .. } => ("mark".to_owned(), mark.to_string()),
    }
}

/// What a service is recognised by as one word, which no name of a service is: `@tcp:192.0.2.80:80`,
/// `@udp:[2001:db8::80]:53`, `@mark:7`, `@mark6:7`.
#[must_use]
pub fn handle(kind: &ServiceKind) -> String {
    match kind {
        ServiceKind::Mark { af: Af::V6, mark } => format!("@mark6:{mark}"),
        kind => {
            let (protocol, address) = service_key(kind);
            format!("@{protocol}:{address}")
        }
    }
}

/// The service of a [`handle`]; `None` for what is none.
#[must_use]
pub fn parse_handle(word: &str) -> Option<ServiceKind> {
    let (what, rest) = word.strip_prefix('@')?.split_once(':')?;
    let af = match what {
        "mark" => Af::V4,
        "mark6" => Af::V6,
        _ => {
            let proto = [(6, "tcp"), (17, "udp"), (132, "sctp")];
            let proto = proto.into_iter().find(|(_, name)| *name == what)?.0;
            let at: SocketAddr = rest.parse().ok()?;
            let (addr, port) = (at.ip(), at.port());
            return Some(ServiceKind::Address { proto, addr, port });
        }
    };
    let mark = rest.parse().ok()?;
    Some(ServiceKind::Mark { af, mark })
}

/// A service by name and address, for messages.
#[must_use]
pub fn service(def: &ServiceDef) -> String {
    let (protocol, address) = service_key(&def.kind);
    format!("{} ({protocol} {address})", def.name)
}

/// A forwarding method in the configuration's words.
#[must_use]
pub fn method(method: Method) -> &'static str {
    match method {
        Method::Masq => "masq",
        Method::Tunnel => "tunnel",
        Method::Direct => "direct",
    }
}

/// A tunnel as `ipvsadm --tun-info` has it (specification §10.5).
#[must_use]
pub fn tunnel(tunnel: Tunnel) -> String {
    let checksum = match tunnel.checksum {
        TunnelChecksum::None => "-c",
        TunnelChecksum::Full => "+c",
        TunnelChecksum::Remote => "r+c",
    };
    match tunnel.kind {
        TunnelKind::Ipip => "ipip".to_owned(),
        TunnelKind::Gue => format!("gue:{}:{checksum}", tunnel.port),
        TunnelKind::Gre => format!("gre:{checksum}"),
    }
}

/// How packets reach a server: the forwarding method, for a tunnel with its kind.
#[must_use]
pub fn forwarding(def: &DestDef) -> String {
    match def.method {
        Method::Tunnel => format!("tunnel ({})", tunnel(def.tunnel)),
        other => method(other).to_owned(),
    }
}

/// An address family's word.
#[must_use]
pub fn family(af: Af) -> &'static str {
    match af {
        Af::V4 => "ipv4",
        Af::V6 => "ipv6",
    }
}

/// Where a service's packets carry their session's key, in the configuration's words.
#[must_use]
pub fn payload_key(key: &PayloadKey) -> String {
    let PayloadKey::Field(key) = key else {
        return "quic".to_owned();
    };
    let when = key.when.as_ref().map(|w| {
        let value: String = w.value.iter().map(|b| format!("{b:02x}")).collect();
        format!(" when offset {} value {value}", w.offset)
    });
    format!("{}{}", key.field, when.unwrap_or_default())
}

/// What becomes of sessions without a server, in the configuration's words.
#[must_use]
pub fn on_server_down(what: OnServerDown) -> &'static str {
    match what {
        OnServerDown::Reschedule => "reschedule",
        OnServerDown::Drop => "drop",
        OnServerDown::Keep => "keep",
    }
}

/// An administrative state's word.
#[must_use]
pub fn admin(state: AdminState) -> &'static str {
    match state {
        AdminState::Ready => "ready",
        AdminState::Drain => "drain",
        AdminState::Maint => "maint",
    }
}

/// An operational state's word.
#[must_use]
pub fn up(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

/// The administrative state of a word.
#[must_use]
pub fn parse_admin(word: &str) -> Option<AdminState> {
    [AdminState::Ready, AdminState::Drain, AdminState::Maint]
        .into_iter()
        .find(|s| admin(*s) == word)
}

/// Names that a message lists before it gives up.
const LISTED_MAX: usize = 16;

/// A clause for messages about an unknown name: `; did you mean …?`, and what there is.
#[must_use]
pub fn suggestion<'a>(wanted: &str, there: impl Iterator<Item = &'a str>) -> String {
    let there: Vec<&str> = there.collect();
    let near = there
        .iter()
        .map(|n| (strsim::damerau_levenshtein(wanted, n), *n))
        .filter(|(d, n)| *d <= 1 + n.len() / 4)
        .min();
    let mut out = match near {
        Some((_, name)) => format!("; did you mean `{name}`?"),
        None => ".".to_owned(),
    };
    if there.is_empty() {
        out.push_str(" There is none.");
    } else {
        out.push_str(" There is: ");
        out.push_str(&there[..there.len().min(LISTED_MAX)].join(", "));
        if there.len() > LISTED_MAX {
            out.push_str(&format!(" and {} more", there.len() - LISTED_MAX));
        }
        out.push('.');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_names_of_the_specification() {
        assert_eq!(state(6, 1, 0), "ESTABLISHED");
        assert_eq!(state(6, 10, 0), "SYNACK");
        assert_eq!(state(17, 0, 0), "UDP");
        assert_eq!(state(17, 0, TEMPLATE), "NONE");
        assert_eq!(state(17, 1, TEMPLATE), "ASSURED");
    }

    #[test]
    fn every_service_has_a_handle_by_which_it_is_found() {
        let address = |proto, addr: &str, port| ServiceKind::Address {
            proto,
            addr: addr.parse().expect("an address"),
            port,
        };
        for (kind, handle_is) in [
            (address(6, "192.0.2.80", 80), "@tcp:192.0.2.80:80"),
            (address(17, "2001:db8::80", 0), "@udp:[2001:db8::80]:0"),
            (address(132, "192.0.2.80", 9), "@sctp:192.0.2.80:9"),
            (
                ServiceKind::Mark {
                    af: Af::V4,
                    mark: 7,
                },
                "@mark:7",
            ),
            (
                ServiceKind::Mark {
                    af: Af::V6,
                    mark: 7,
                },
                "@mark6:7",
            ),
        ] {
            assert_eq!(handle(&kind), handle_is);
            assert_eq!(parse_handle(handle_is), Some(kind));
        }
        for none in [
            "web",
            "tcp:192.0.2.80:80",
            "@tcp:192.0.2.80",
            "@ip:1.2.3.4:5",
        ] {
            assert_eq!(parse_handle(none), None, "{none}");
        }
    }

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let there = ["web", "sip-udp"];
        assert_eq!(
            suggestion("wbe", there.into_iter()),
            "; did you mean `web`? There is: web, sip-udp."
        );
        assert_eq!(
            suggestion("database", there.into_iter()),
            ". There is: web, sip-udp."
        );
        assert_eq!(suggestion("x", [].into_iter()), ". There is none.");
    }
}
