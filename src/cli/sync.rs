//! `polder sync decode`: what is in captured state sync traffic.
//!
//! Reads a capture and prints; asks no appliance. Decoding is `sync`'s; that nothing in a capture reaches the terminal
//! raw is this file's.

mod polder;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;

use serde_json::{Value, json};

use self::polder::Polder;
use super::args::{DecodeArgs, DecodeOutput, SyncArgs, SyncWhat};
use super::{Failure, sync_control};
use crate::mgmt::names;
use crate::net::packet::proto;
use crate::net::parse::{ETHERNET_LEN, quoted};
use crate::net::pcap::{LINK_TYPE_ETHERNET, Reader};
use crate::net::{Family, V4, V6};
use crate::persist::engine::Shown;
use crate::sync::backup::{Terms, accept};
use crate::sync::ipvs::{self, Message, Receiver, Record, Rejected, Rejections, flag};
use crate::sync::polder::Keys;
use crate::table::StateTimeouts;

/// Does what `args` ask for.
///
/// # Errors
/// A sentence.
pub fn run(args: &SyncArgs, out: &mut dyn Write) -> Result<(), Failure> {
    match &args.what {
        SyncWhat::Decode(args) => decode(args, out),
        SyncWhat::Status(args) => sync_control::status(args, out),
        SyncWhat::Start(args) => sync_control::start(args, out),
        SyncWhat::Stop(args) => sync_control::stop(args, out),
        SyncWhat::Role(args) => sync_control::role(args, out),
    }
}

/// Persistence engines whose keys a backup takes.
const ENGINES: [&str; 2] = ["sip", "payload"];

/// Link types besides Ethernet, by tcpdump.org's numbers.
const LINK_TYPE_RAW: u32 = 101;
const LINK_TYPE_SLL: u32 = 113;
const LINK_TYPE_IPV4: u32 = 228;
const LINK_TYPE_IPV6: u32 = 229;
const LINK_TYPE_SLL2: u32 = 276;

fn decode(args: &DecodeArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", args.file.display());
    let file = File::open(&args.file).map_err(|e| failed(&format!("can't be opened: {e}")))?;
    let mut reader = Reader::open(file).map_err(|e| failed(&e))?;
    let keys = args.key_file.as_deref().map(Keys::read).transpose();
    let keys = keys.map_err(|e| e.to_string())?;
    let mut listing = Listing::new(args.output, keys);
    super::print(out, listing.begin())?;
    let mut frame = Vec::new();
    let ended = loop {
        match reader.next(&mut frame) {
            Ok(Some(record)) => {
                let Some(at) = network_header(&frame, record.link_type) else {
                    break Err(format!(
                        "link type {} is not understood: Ethernet, Linux cooked and raw IP are",
                        record.link_type
                    ));
                };
                let datagram = datagram(&frame, at);
                let wanted = |d: &Datagram<'_>| {
                    d.dst.port() == ipvs::PORT || args.port.contains(&d.dst.port())
                };
                if let Some(datagram) = datagram.filter(wanted) {
                    super::print(out, &listing.message(record.ts_ns, &datagram))?;
                }
            }
            Ok(None) => break Ok(()),
            Err(e) => break Err(e.to_string()),
        }
    };
    // What came before the damage is worth its summary too.
    super::print(out, &listing.end())?;
    ended.map_err(|e| failed(&e).into())
}

/// Where a frame's network header is, and of which version; a frame of another protocol has neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    V4(usize),
    V6(usize),
    Elsewhere,
}

/// Where the network header of a frame is; nothing when its link type is not understood.
fn network_header(frame: &[u8], link_type: u32) -> Option<At> {
    let of = |ether_type: Option<u16>, at| match ether_type {
        Some(V4::ETHER_TYPE) => At::V4(at),
        Some(V6::ETHER_TYPE) => At::V6(at),
        _ => At::Elsewhere,
    };
    Some(match link_type {
        LINK_TYPE_ETHERNET => {
            let mut at = ETHERNET_LEN;
            // As many tags as anybody stacks; more of them are no sync traffic.
            while at < ETHERNET_LEN + 16
                && matches!(be16(frame, at - 2), Some(0x8100 | 0x88a8 | 0x9100))
            {
                at += 4;
            }
            of(be16(frame, at - 2), at)
        }
        LINK_TYPE_SLL => of(be16(frame, 14), 16),
        LINK_TYPE_SLL2 => of(be16(frame, 0), 20),
        LINK_TYPE_RAW => match frame.first().map(|b| b >> 4) {
            Some(4) => At::V4(0),
            Some(6) => At::V6(0),
            _ => At::Elsewhere,
        },
        LINK_TYPE_IPV4 => At::V4(0),
        LINK_TYPE_IPV6 => At::V6(0),
        _ => return None,
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*two))
}

/// Why a datagram's payload is not all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// It came in fragments.
    Fragmented,
    /// The capture did not take whole frames.
    NotCaptured,
}

impl Missing {
    fn name(self) -> &'static str {
        match self {
            Self::Fragmented => "fragmented",
            Self::NotCaptured => "not_captured",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Self::Fragmented => {
                "The datagram was sent in fragments, which are not put together here."
            }
            Self::NotCaptured => "The capture cut the frame; take it with `-s 0`.",
        }
    }
}

/// A UDP datagram of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Datagram<'a> {
    src: SocketAddr,
    dst: SocketAddr,
    payload: &'a [u8],
    missing: Option<Missing>,
}

fn datagram(frame: &[u8], at: At) -> Option<Datagram<'_>> {
    match at {
        At::V4(at) => udp::<V4>(frame, at),
        At::V6(at) => udp::<V6>(frame, at),
        At::Elsewhere => None,
    }
}

/// The UDP datagram whose network header is at `at`. Checksums are not looked at: a capture of the sender has none yet.
fn udp<F: Family>(frame: &[u8], at: usize) -> Option<Datagram<'_>> {
    let ip = quoted::<F>(frame, at).ok()?;
    if ip.flow.proto != proto::UDP || !ip.l4_whole {
        return None;
    }
    let (l4, end) = (usize::from(ip.l4), usize::from(ip.end));
    let len = usize::from(be16(frame, l4 + 4)?).checked_sub(8)?;
    let there = frame.get(l4 + 8..end)?;
    let missing = match ip.fragment {
        Some(fragment) if fragment.more => Some(Missing::Fragmented),
        _ if len > there.len() => Some(Missing::NotCaptured),
        _ => None,
    };
    Some(Datagram {
        src: SocketAddr::new(ip.flow.src.into(), ip.flow.src_port),
        dst: SocketAddr::new(ip.flow.dst.into(), ip.flow.dst_port),
        payload: &there[..len.min(there.len())],
        missing,
    })
}

/// What is printed, one message after the other, and what was counted on the way.
struct Listing {
    output: DecodeOutput,
    timeouts: StateTimeouts,
    messages: u64,
    records: u64,
    incomplete: u64,
    rejections: Rejections,
    polder: Polder,
}

impl Listing {
    fn new(output: DecodeOutput, keys: Option<Keys>) -> Self {
        Self {
            output,
            timeouts: StateTimeouts::default(),
            messages: 0,
            records: 0,
            incomplete: 0,
            rejections: Rejections::default(),
            polder: Polder::new(keys),
        }
    }

    fn begin(&self) -> &'static str {
        match self.output {
            DecodeOutput::Table => "",
            DecodeOutput::Json => "{\"messages\": [",
        }
    }

    /// A message with its records.
    fn message(&mut self, ts_ns: u64, datagram: &Datagram<'_>) -> String {
        self.messages += 1;
        if datagram.missing.is_none() && polder::is_one(datagram.payload) {
            return self.polder_message(ts_ns, datagram);
        }
        let opened = match datagram.missing {
            Some(missing) => {
                self.incomplete += 1;
                Err((missing.name(), missing.help()))
            }
            None => Receiver::default().open(datagram.payload).map_err(|e| {
                self.rejections.note(e);
                (e.name(), e.help())
            }),
        };
        match self.output {
            DecodeOutput::Table => self.message_table(ts_ns, datagram, opened),
            DecodeOutput::Json => self.message_json(ts_ns, datagram, opened),
        }
    }

    fn message_table(
        &mut self,
        ts_ns: u64,
        datagram: &Datagram<'_>,
        opened: Result<Message<'_>, (&str, &str)>,
    ) -> String {
        let mut out = datagram_text(ts_ns, datagram);
        // Nothing is written to a string that could fail, here and below.
        let message = match opened {
            Ok(message) => message,
            Err((name, help)) => {
                let _ = writeln!(out, ", rejected: {name}: {help}");
                return out;
            }
        };
        let _ = writeln!(
            out,
            ", ipvs version {}, sync id {}, records {}",
            message.version.number(),
            message.sync_id,
            message.count
        );
        let mut records = message.records();
        for record in &mut records {
            let line = match self.judge(&record) {
                (Some(record), why) => row(&record, why),
                (None, why) => why.map_or_else(String::new, rejected_text),
            };
            let _ = writeln!(out, "  {}", line.trim_end());
        }
        if records.unread() > 0 {
            let _ = writeln!(out, "  {} bytes were not read", records.unread());
        }
        out
    }

    fn message_json(
        &mut self,
        ts_ns: u64,
        datagram: &Datagram<'_>,
        opened: Result<Message<'_>, (&str, &str)>,
    ) -> String {
        let mut value = datagram_json(ts_ns, datagram);
        match opened {
            Ok(message) => {
                let mut records = message.records();
                let list: Vec<Value> = (&mut records)
                    .map(|r| match self.judge(&r) {
                        (Some(record), why) => record_json(&record, why),
                        (None, why) => json!({"rejected": why.map(rejected_json)}),
                    })
                    .collect();
                value["format"] = json!("ipvs");
                value["version"] = json!(message.version.number());
                value["sync_id"] = json!(message.sync_id);
                value["count"] = json!(message.count);
                value["records"] = list.into();
                value["unread_bytes"] = json!(records.unread());
            }
            Err((name, help)) => value["rejected"] = json!({"reason": name, "meaning": help}),
        }
        self.element(&value)
    }

    /// A message of the other format.
    fn polder_message(&mut self, ts_ns: u64, datagram: &Datagram<'_>) -> String {
        let printed = self.polder.print(datagram.payload);
        if let DecodeOutput::Table = self.output {
            let mut out = datagram_text(ts_ns, datagram);
            let _ = match printed {
                Ok(printed) => {
                    let _ = writeln!(out, ", {}", printed.head);
                    printed
                        .lines
                        .iter()
                        .try_for_each(|line| writeln!(out, "  {line}"))
                }
                Err(why) => writeln!(out, ", {}", polder::rejected_text(why)),
            };
            return out;
        }
        let mut value = datagram_json(ts_ns, datagram);
        match printed.map(|p| p.fields) {
            Ok(Value::Object(fields)) => value.as_object_mut().expect("it is one").extend(fields),
            Ok(_) => {}
            Err(why) => value["rejected"] = polder::rejected_json(why),
        }
        self.element(&value)
    }

    /// A message in the list of messages.
    fn element(&self, value: &Value) -> String {
        let comma = if self.messages > 1 { "," } else { "" };
        format!("{comma}\n{value}")
    }

    /// Counts a record. What could be read of it, and why a backup would not take it.
    fn judge<'a>(
        &mut self,
        record: &Result<Record<'a>, Rejected>,
    ) -> (Option<Record<'a>>, Option<Rejected>) {
        let (read, why) = match record {
            Ok(record) => {
                self.records += 1;
                let terms = Terms {
                    engines: &ENGINES,
                    timeouts: &self.timeouts,
                    threshold: 0,
                };
                (Some(*record), accept(record, &terms).err())
            }
            Err(e) => (None, Some(*e)),
        };
        if let Some(why) = why {
            self.rejections.note(why);
        }
        (read, why)
    }

    /// What was rejected in either format, by name.
    fn rejected(&self) -> Vec<(&'static str, u64)> {
        let mut out: Vec<(&str, u64)> = Vec::new();
        let ipvs = self.rejections.iter().map(|(why, n)| (why.name(), n));
        let polder = self.polder.rejections.iter();
        for (name, n) in ipvs.chain(polder.map(|(why, n)| (why.name(), n))) {
            match out.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += n,
                None => out.push((name, n)),
            }
        }
        out.retain(|(_, n)| *n > 0);
        out
    }

    fn end(&self) -> String {
        let rejected = self.rejected();
        let records = self.records + self.polder.records;
        let unchecked = self.polder.unchecked;
        match self.output {
            DecodeOutput::Table => {
                let mut out = format!("{} messages, {records} records", self.messages);
                if self.incomplete > 0 {
                    let _ = write!(out, ", {} messages incomplete", self.incomplete);
                }
                if unchecked > 0 {
                    let _ = write!(out, ", {unchecked} messages not checked");
                }
                let list: Vec<String> = rejected.iter().map(|(r, n)| format!("{r} {n}")).collect();
                let _ = match list.is_empty() {
                    true => writeln!(out, ", nothing rejected"),
                    false => writeln!(out, ", rejected: {}", list.join(", ")),
                };
                out
            }
            DecodeOutput::Json => {
                let list: serde_json::Map<String, Value> = rejected
                    .into_iter()
                    .map(|(r, n)| (r.to_owned(), n.into()))
                    .collect();
                let summary = json!({
                    "messages": self.messages,
                    "records": records,
                    "incomplete": self.incomplete,
                    "not_checked": unchecked,
                    "rejected": list,
                });
                format!("\n],\n\"summary\": {summary}}}\n")
            }
        }
    }
}

/// When a datagram came, from whom and to whom.
fn datagram_text(ts_ns: u64, datagram: &Datagram<'_>) -> String {
    let Datagram { src, dst, .. } = datagram;
    format!(
        "{}.{:06} {src} > {dst} {} bytes",
        ts_ns / 1_000_000_000,
        ts_ns / 1000 % 1_000_000,
        datagram.payload.len()
    )
}

fn datagram_json(ts_ns: u64, datagram: &Datagram<'_>) -> Value {
    json!({
        "time_ns": ts_ns,
        "source": datagram.src.to_string(),
        "destination": datagram.dst.to_string(),
        "bytes": datagram.payload.len(),
    })
}

fn rejected_text(why: Rejected) -> String {
    format!("rejected: {}: {}", why.name(), why.help())
}

fn rejected_json(why: Rejected) -> Value {
    json!({"reason": why.name(), "meaning": why.help()})
}

/// A record's line: protocol, timeout, state and ends as connections are listed, then what only sync says.
fn row(record: &Record<'_>, why: Option<Rejected>) -> String {
    let entry = record.entry();
    let [client, virtual_, dest] = entry.ends.all().map(|a| a.to_string());
    let mut out = format!(
        "{:<4} {:>5} {:<11} {:<21} {:<21} {:<21} {}",
        names::protocol(entry.ends.proto()),
        entry.timeout_s,
        state(record),
        client,
        virtual_,
        dest,
        method(entry.flags)
    );
    for name in flag_names(entry.flags) {
        let _ = write!(out, ",{name}");
    }
    if entry.mark != 0 {
        let _ = write!(out, " mark {}", entry.mark);
    }
    if let Some(seq) = &entry.seq {
        for (way, pair) in [("in", seq.inward), ("out", seq.outward)] {
            let _ = write!(out, " seq {way} {}", pair.init);
            let _ = write!(out, " delta {}", pair.delta);
            let _ = write!(out, " previous {}", pair.previous_delta);
        }
    }
    if let Some(engine) = record.engine() {
        let _ = write!(out, " pe {} {}", Shown::Text(engine.name), shown(&engine));
    }
    if let Some(why) = why {
        let _ = write!(out, " {}", rejected_text(why));
    }
    out
}

fn record_json(record: &Record<'_>, why: Option<Rejected>) -> Value {
    let entry = record.entry();
    let [client, virtual_, dest] = entry.ends.all().map(|a| a.to_string());
    let kind = match record {
        Record::Conn(_) => "connection",
        Record::Template(_) => "template",
    };
    let mut value = json!({
        "kind": kind,
        "protocol": names::protocol(entry.ends.proto()),
        "state": state(record),
        "timeout_s": entry.timeout_s,
        "client": client,
        "virtual": virtual_,
        "destination": dest,
        "method": method(entry.flags),
        "flags": flag_names(entry.flags).collect::<Vec<_>>(),
        "flags_value": entry.flags,
        "mark": entry.mark,
    });
    if let Some(seq) = &entry.seq {
        let pair = |p: &ipvs::SeqPair| json!({"init": p.init, "delta": p.delta, "previous_delta": p.previous_delta});
        value["seq"] = json!({"in": pair(&seq.inward), "out": pair(&seq.outward)});
    }
    if let Some(engine) = record.engine() {
        value["engine"] = json!(Shown::Text(engine.name).to_string());
        value["data"] = json!(shown(&engine).to_string());
    }
    if let Some(why) = why {
        value["rejected"] = rejected_json(why);
    }
    value
}

/// A key as its engine shows it.
fn shown<'a>(engine: &ipvs::Engine<'a>) -> Shown<'a> {
    match engine.name {
        b"payload" => Shown::Hex(engine.data),
        _ => Shown::Text(engine.data),
    }
}

/// A state's name, or its code where the protocol has no such state.
fn state(record: &Record<'_>) -> String {
    let entry = record.entry();
    let terms = Terms {
        engines: &[],
        timeouts: &StateTimeouts::default(),
        threshold: 0,
    };
    match (accept(record, &terms), u8::try_from(entry.state)) {
        (Err(Rejected::State | Rejected::Protocol), _) | (_, Err(_)) => entry.state.to_string(),
        (_, Ok(code)) => {
            let template = (entry.flags & flag::TEMPLATE) as u16;
            names::state(entry.ends.proto(), code, template).to_owned()
        }
    }
}

/// The forwarding method; a number where there is no such method.
fn method(flags: u32) -> String {
    let name = match flags & flag::METHOD {
        0 => "masq",
        1 => "local",
        2 => "tunnel",
        3 => "direct",
        4 => "bypass",
        n => return n.to_string(),
    };
    name.to_owned()
}

fn flag_names(flags: u32) -> impl Iterator<Item = String> {
    const NAMES: [(u32, &str); 10] = [
        (flag::SYNC, "sync"),
        (flag::HASHED, "hashed"),
        (flag::NOOUTPUT, "nooutput"),
        (flag::INACTIVE, "inactive"),
        (0x0200, "out_seq"),
        (0x0400, "in_seq"),
        (flag::NO_CPORT, "no_cport"),
        (flag::TEMPLATE, "template"),
        (flag::ONE_PACKET, "one_packet"),
        (flag::NFCT, "nfct"),
    ];
    let known = NAMES.iter().fold(flag::METHOD, |all, (bit, _)| all | bit);
    let unknown = flags & !known;
    NAMES
        .into_iter()
        .filter(move |(bit, _)| flags & bit != 0)
        .map(|(_, name)| name.to_owned())
        .chain((unknown != 0).then(|| format!("{unknown:#x}")))
}
