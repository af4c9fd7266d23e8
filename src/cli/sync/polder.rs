//! Messages of the `polder` format as `sync decode` prints them.
//!
//! Owns the words. What a datagram proves and what its bytes mean is `sync`'s. Never prints the secret of a welcome, and
//! nothing raw that came from a peer.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::{flag_names, method};
use crate::mgmt::names;
use crate::net::{Af, Tick};
use crate::persist::engine::Shown;
use crate::sync::entry::{ConnEntry, Entry, EntryId, ServiceName, TemplateEntry};
use crate::sync::polder::seal::{self, Opened};
use crate::sync::polder::wire::{self, Joiner, Message, Record, Versions, Wanted};
use crate::sync::polder::{Keys, Rejected, Rejections};

/// Processes whose long records are put together at a time. A capture of more has been made up.
const JOINERS_MAX: usize = 64;

/// Whether a datagram is of this format; one of the other that begins so would have 17,490 bytes and more.
pub(super) fn is_one(payload: &[u8]) -> bool {
    payload.starts_with(&seal::MAGIC)
}

/// What is remembered from one datagram to the next.
pub(super) struct Polder {
    keys: Option<Keys>,
    joiners: HashMap<u64, Joiner>,
    pub rejections: Rejections,
    pub records: u64,
    /// Datagrams that no key was there for.
    pub unchecked: u64,
}

/// A datagram as it is printed: in one of the two ways, since nobody wants both.
pub(super) struct Printed {
    /// Behind the addresses, on the same line.
    pub head: String,
    /// A line for each record.
    pub lines: Vec<String>,
    /// All of it as fields of an object.
    pub fields: Value,
}

impl Polder {
    pub fn new(keys: Option<Keys>) -> Self {
        Self {
            keys,
            joiners: HashMap::new(),
            rejections: Rejections::default(),
            records: 0,
            unchecked: 0,
        }
    }

    /// What is in a datagram, or why nothing is.
    pub fn print(&mut self, datagram: &[u8]) -> Result<Printed, Rejected> {
        let mut datagram = datagram.to_vec();
        let opened = match &self.keys {
            Some(keys) => seal::open(keys, &mut datagram),
            None => seal::open_unchecked(&datagram),
        };
        let opened = self.noted(opened)?;
        let checked = self.keys.is_some();
        self.unchecked += u64::from(!checked);
        let mut printed = envelope(&opened, checked);
        if opened.encrypted && !checked {
            return Ok(printed);
        }
        let message = self.noted(wire::decode(opened.kind, opened.body))?;
        let (words, fields) = message_fields(&message);
        printed.head += &words;
        for (name, value) in fields {
            printed.fields[name] = value;
        }
        if let Message::Stream(stream) = &message {
            self.stream(opened.boot, stream, &mut printed);
        }
        Ok(printed)
    }

    fn noted<T>(&mut self, result: Result<T, Rejected>) -> Result<T, Rejected> {
        result.inspect_err(|why| self.rejections.note(*why))
    }

    fn stream(&mut self, boot: u64, stream: &wire::Stream<'_>, printed: &mut Printed) {
        let mut list = Vec::new();
        for record in stream.records() {
            let (line, value) = match self.noted(record) {
                Ok(record) => {
                    self.records += 1;
                    let whole = self.join(boot, &record);
                    let (line, value) = record_fields(&record);
                    match whole.as_ref().map(record_fields) {
                        Some((whole, entry)) => (
                            format!("{line}, the last of:\n  {whole}"),
                            merged(value, "whole", entry),
                        ),
                        None => (line, value),
                    }
                }
                Err(why) => (rejected_text(why), json!({"rejected": rejected_json(why)})),
            };
            printed.lines.push(line);
            list.push(value);
        }
        printed.fields["records"] = list.into();
    }

    /// The record that a piece completes. A capture may begin anywhere and have datagrams twice, so a piece that does
    /// not fit is no fault here.
    fn join(&mut self, boot: u64, record: &Record<'_>) -> Option<Record<'static>> {
        let Record::Piece(piece) = record else {
            return None;
        };
        if self.joiners.len() >= JOINERS_MAX && !self.joiners.contains_key(&boot) {
            self.joiners.clear();
        }
        let joiner = self.joiners.entry(boot).or_default();
        joiner.take(piece).ok().flatten()
    }
}

pub(super) fn rejected_text(why: Rejected) -> String {
    format!("rejected: {}: {}", why.name(), why.help())
}

pub(super) fn rejected_json(why: Rejected) -> Value {
    json!({"reason": why.name(), "meaning": why.help()})
}

fn merged(mut value: Value, name: &str, more: Value) -> Value {
    value[name] = more;
    value
}

fn envelope(opened: &Opened<'_>, checked: bool) -> Printed {
    let boot = boot(opened.boot);
    let state = match (checked, opened.encrypted) {
        (true, false) => "genuine",
        (true, true) => "genuine, encrypted",
        (false, false) => "not checked",
        (false, true) => "not checked, encrypted",
    };
    let Opened {
        kind,
        sync_id,
        counter,
        key_id,
        ..
    } = opened;
    let name = kind.name();
    Printed {
        head: format!(
            "polder {name}, boot {boot}, datagram {counter}, sync id {sync_id}, key {key_id}, {state}"
        ),
        lines: Vec::new(),
        fields: json!({
            "format": "polder",
            "version": seal::VERSION,
            "kind": name,
            "boot": boot,
            "datagram": counter,
            "sync_id": sync_id,
            "key_id": key_id,
            "encrypted": opened.encrypted,
            "checked": checked,
        }),
    }
}

fn boot(boot: u64) -> String {
    format!("{boot:016x}")
}

fn id(id: EntryId) -> String {
    format!("{:032x}", id.0)
}

/// A name of a director, as nothing that a terminal could take for a command.
fn name(name: &str) -> String {
    Shown::Text(name.as_bytes()).to_string()
}

fn versions(versions: Versions) -> String {
    format!("{}-{}", versions.min, versions.max)
}

type Fields = Vec<(&'static str, Value)>;

/// What a message says besides its records: words behind its envelope, and fields.
fn message_fields(message: &Message<'_>) -> (String, Fields) {
    let fields: Fields = match message {
        Message::Stream(stream) => vec![("seq", stream.seq.into())],
        Message::Hello(hello) => vec![
            ("name", name(hello.name).into()),
            ("versions", versions(hello.versions).into()),
            ("nonce", boot(hello.nonce).into()),
        ],
        Message::Welcome(welcome) => vec![
            ("name", name(welcome.name).into()),
            ("versions", versions(welcome.versions).into()),
            ("echo", boot(welcome.echo).into()),
            ("to", boot(welcome.hello_boot).into()),
            ("next_seq", welcome.next_seq.into()),
            ("entries", welcome.count.into()),
            ("master", welcome.roles.master.into()),
            ("backup", welcome.roles.backup.into()),
        ],
        Message::Nack(nack) => {
            let ranges = nack.ranges.iter().map(|(from, to)| format!("{from}-{to}"));
            let ranges: Vec<String> = ranges.collect();
            vec![("of", boot(nack.boot).into()), ("missing", ranges.into())]
        }
        Message::Lost(lost) => vec![("up_to", lost.up_to.into())],
        Message::Want(want) => {
            let what = match &want.what {
                Wanted::Vector => json!("vector"),
                Wanted::Repair(bitmap) => buckets_of(bitmap).into(),
            };
            vec![("of", boot(want.boot).into()), ("wanted", what)]
        }
        Message::Report(report) => vec![
            ("of", boot(report.boot).into()),
            ("applied_seq", report.applied_seq.into()),
            ("tick", report.tick.into()),
            ("have", report.have.into()),
            ("covered", report.covered.into()),
            ("uninstalled", report.uninstalled.into()),
            ("dirty", report.dirty.into()),
        ],
    };
    let mut words = String::new();
    for (name, value) in &fields {
        // Nothing is written to a string that could fail, here and below.
        let _ = write!(words, ", {name} {}", plain(value));
    }
    (words, fields)
}

/// The numbers of the bits that are set.
fn buckets_of(bitmap: &[u8; 32]) -> Vec<usize> {
    let set = |bucket: &usize| bitmap[bucket / 8] >> (bucket % 8) & 1 != 0;
    (0..wire::BUCKETS).filter(set).collect()
}

/// A value without JSON's punctuation.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(plain).collect();
            values.join(" ")
        }
        other => other.to_string(),
    }
}

/// A record's line and its fields.
fn record_fields(record: &Record<'_>) -> (String, Value) {
    match record {
        Record::Upsert(entry) => match &**entry {
            Entry::Conn(conn) => (conn_row(conn), conn_json(conn)),
            Entry::Template(template) => (template_row(template), template_json(template)),
        },
        Record::Remove(of) => {
            let id = id(*of);
            (format!("remove {id}"), json!({"type": "remove", "id": id}))
        }
        Record::Mark(mark) => {
            let (sum, versions) = (boot(mark.sum), versions(mark.versions));
            let line = format!(
                "mark tick {}, entries {}, digest {sum}, versions {versions}",
                mark.tick, mark.count
            );
            let value = json!({
                "type": "mark",
                "tick": mark.tick,
                "entries": mark.count,
                "digest": sum,
                "versions": versions,
            });
            (line, value)
        }
        Record::MarkVector {
            first_bucket,
            buckets,
        } => {
            let mut line = format!("buckets from {first_bucket}:");
            let mut list = Vec::new();
            for bucket in buckets.iter() {
                let _ = write!(line, " {}", bucket.count);
                list.push(json!({"entries": bucket.count, "digest": boot(bucket.sum)}));
            }
            let value = json!({"type": "buckets", "first_bucket": first_bucket, "buckets": list});
            (line, value)
        }
        Record::RepairBegin(bucket) => bounds("repair_begin", *bucket),
        Record::RepairEnd(bucket) => bounds("repair_end", *bucket),
        Record::Piece(piece) => {
            let (len, offset, total) = (piece.bytes.len(), piece.offset, piece.total);
            let line = format!("piece of {total} bytes: {len} at {offset}");
            let value = json!({"type": "piece", "total": total, "offset": offset, "bytes": len});
            (line, value)
        }
        Record::Unknown { kind, bytes } => {
            let len = bytes.len();
            let line = format!("unknown type {kind}, {len} bytes");
            (
                line,
                json!({"type": "unknown", "number": kind, "bytes": len}),
            )
        }
    }
}

fn bounds(what: &str, bucket: u8) -> (String, Value) {
    (
        format!("{what} bucket {bucket}"),
        json!({"type": what, "bucket": bucket}),
    )
}

fn seconds(ticks: u32) -> u32 {
    ticks / Tick::PER_SECOND
}

/// As the other format's rows, with the time that is left, and the id of the template.
fn conn_row(conn: &ConnEntry) -> String {
    let [client, virtual_, dest] = conn.ends.all().map(|a| a.to_string());
    let proto = conn.ends.proto();
    let mut out = format!(
        "{:<4} {:>5} {:<11} {client:<21} {virtual_:<21} {dest:<21} {}",
        names::protocol(proto),
        seconds(conn.remaining),
        names::state(proto, conn.state, 0),
        method(conn.flags.into())
    );
    for name in flag_names(conn.flags.into()) {
        let _ = write!(out, ",{name}");
    }
    let _ = write!(out, " of {}", seconds(conn.timeout));
    if conn.mark != 0 {
        let _ = write!(out, " mark {}", conn.mark);
    }
    if let Some(of) = conn.template {
        let _ = write!(out, " template {}", id(of));
    }
    out
}

fn conn_json(conn: &ConnEntry) -> Value {
    let [client, virtual_, dest] = conn.ends.all().map(|a| a.to_string());
    let proto = conn.ends.proto();
    json!({
        "type": "upsert",
        "kind": "connection",
        "protocol": names::protocol(proto),
        "state": names::state(proto, conn.state, 0),
        "remaining_s": seconds(conn.remaining),
        "timeout_s": seconds(conn.timeout),
        "client": client,
        "virtual": virtual_,
        "destination": dest,
        "method": method(conn.flags.into()),
        "flags": flag_names(conn.flags.into()).collect::<Vec<_>>(),
        "mark": conn.mark,
        "template": conn.template.map(id),
    })
}

/// The service's words: protocol and address, or its mark.
fn service(service: &ServiceName) -> String {
    match *service {
        ServiceName::Address { proto, addr, port } => {
            format!("{} {}", names::protocol(proto), names::endpoint(addr, port))
        }
        ServiceName::Mark { af, mark } => format!("mark {mark} {}", names::family(af)),
    }
}

/// The client, and the virtual end: the address, or the mark that stands there.
fn ends(template: &TemplateEntry) -> (String, String) {
    let addr = |bytes: [u8; 16]| -> IpAddr {
        let [a, b, c, d, ..] = bytes;
        match template.af {
            Af::V4 => Ipv4Addr::new(a, b, c, d).into(),
            Af::V6 => Ipv6Addr::from(bytes).into(),
        }
    };
    let [a, b, c, d, ..] = template.vaddr;
    let virtual_ = match template.service {
        ServiceName::Mark { .. } if template.proto == 0 => {
            format!("mark {}", u32::from_be_bytes([a, b, c, d]))
        }
        _ => names::endpoint(addr(template.vaddr), template.vport),
    };
    (addr(template.client).to_string(), virtual_)
}

fn template_row(template: &TemplateEntry) -> String {
    let (client, virtual_) = ends(template);
    let mut out = format!(
        "{:<4} {:>5} {:<11} {client:<21} {virtual_:<21} {:<21} template of {} service {}",
        names::protocol(template.proto),
        seconds(template.remaining),
        if template.assured { "ASSURED" } else { "NONE" },
        template.dest.to_string(),
        seconds(template.timeout),
        service(&template.service),
    );
    if let Some(data) = &template.data {
        let _ = write!(out, " data {}", Shown::Text(data));
    }
    out
}

fn template_json(template: &TemplateEntry) -> Value {
    let (client, virtual_) = ends(template);
    json!({
        "type": "upsert",
        "kind": "template",
        "protocol": names::protocol(template.proto),
        "assured": template.assured,
        "remaining_s": seconds(template.remaining),
        "timeout_s": seconds(template.timeout),
        "client": client,
        "virtual": virtual_,
        "destination": template.dest.to_string(),
        "service": service(&template.service),
        "data": template.data.as_ref().map(|data| Shown::Text(data).to_string()),
    })
}
