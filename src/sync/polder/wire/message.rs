//! The kinds of messages, and those that are no stream.

use super::read::Fields;
use super::record::Versions;
use super::stream::Stream;
use crate::net::HashKey;
use crate::sync::polder::Rejected;

/// Longest name of a director, in bytes. Longer ones are cut.
pub const NAME_MAX: usize = 64;
/// Ranges of one [`Nack`] at most. What more is missing is asked for later.
pub const NACK_RANGES_MAX: usize = 64;

/// What a message is for; in the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Differences, in order.
    Stream = 1,
    /// A receiver asks a sender who it is.
    Hello = 2,
    /// The sender's answer.
    Welcome = 3,
    /// A receiver misses datagrams of the stream.
    Nack = 4,
    /// The sender does not have them any more.
    Lost = 5,
    /// A receiver asks for a part of what the sender has.
    Want = 6,
    /// A receiver says how far it is.
    Report = 7,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Stream,
        Self::Hello,
        Self::Welcome,
        Self::Nack,
        Self::Lost,
        Self::Want,
        Self::Report,
    ];

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.number() == number)
    }

    /// The word in listings and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Hello => "hello",
            Self::Welcome => "welcome",
            Self::Nack => "nack",
            Self::Lost => "lost",
            Self::Want => "want",
            Self::Report => "report",
        }
    }
}

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message<'a> {
    /// See [`Kind::Stream`].
    Stream(Stream<'a>),
    /// See [`Kind::Hello`].
    Hello(Hello<'a>),
    /// See [`Kind::Welcome`].
    Welcome(Welcome<'a>),
    /// See [`Kind::Nack`].
    Nack(Nack),
    /// See [`Kind::Lost`].
    Lost(Lost),
    /// See [`Kind::Want`].
    Want(Want),
    /// See [`Kind::Report`].
    Report(Report),
}

/// A receiver asks a sender that it does not trust yet who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// What the answer is to repeat.
    pub nonce: u64,
    /// Of the format that the receiver understands.
    pub versions: Versions,
    /// The receiver's name.
    pub name: &'a str,
}

/// A sender's answer to a [`Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The nonce of the question.
    pub echo: u64,
    /// The boot that asked.
    pub hello_boot: u64,
    /// Number of the next datagram of the stream.
    pub next_seq: u64,
    /// What ids and digests are computed with.
    pub id_key: HashKey,
    /// Entries that the sender has told of.
    pub count: u64,
    /// What the sender does.
    pub roles: Roles,
    /// Of the format that the sender understands.
    pub versions: Versions,
    /// The sender's name.
    pub name: &'a str,
}

/// What a director does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Roles {
    /// It tells of its entries.
    pub master: bool,
    /// It takes those of others.
    pub backup: bool,
}

/// Datagrams of a stream that did not come.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Nack {
    /// The boot whose stream it is.
    pub boot: u64,
    /// Numbers from and to, both missing; at most [`NACK_RANGES_MAX`].
    pub ranges: Vec<(u64, u64)>,
}

/// Datagrams that can't be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The last of them; the stream goes on behind it.
    pub up_to: u64,
}

/// A receiver asks for a part of what a sender has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The boot that is asked.
    pub boot: u64,
    /// What.
    pub what: Wanted,
}

/// What a [`Want`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The digests of all buckets.
    Vector,
    /// The entries of the buckets whose bit is set; that of bucket `b` is bit `b % 8` of byte `b / 8`.
    Repair([u8; 32]),
}

/// How far a receiver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// The boot whose stream it is.
    pub boot: u64,
    /// The last datagram that was applied with all before it.
    pub applied_seq: u64,
    /// Of the last mark that was applied.
    pub tick: u32,
    /// Entries in the receiver's mirror of the sender.
    pub have: u64,
    /// Those of them that are the same as the sender's, as far as is known.
    pub covered: u64,
    /// Those of them that could not be installed.
    pub uninstalled: u64,
    /// The mirrors are known to differ.
    pub dirty: bool,
}

/// Reads the body of a message.
///
/// # Errors
/// [`Rejected::Body`]. Records of a stream are judged when they are read.
pub fn decode(kind: Kind, body: &[u8]) -> Result<Message<'_>, Rejected> {
    let mut fields = Fields(body);
    let message = match kind {
        Kind::Stream => Stream::read(fields).map(Message::Stream),
        Kind::Hello => hello(&mut fields).map(Message::Hello),
        Kind::Welcome => welcome(&mut fields).map(Message::Welcome),
        Kind::Nack => nack(&mut fields).map(Message::Nack),
        Kind::Lost => fields.u64().map(|up_to| Message::Lost(Lost { up_to })),
        Kind::Want => want(&mut fields).map(Message::Want),
        Kind::Report => report(&mut fields).map(Message::Report),
    };
    message.ok_or(Rejected::Body)
}

fn name<'a>(fields: &mut Fields<'a>) -> Option<&'a str> {
    let len = usize::from(fields.u8()?);
    let bytes = fields.take(len).filter(|_| len <= NAME_MAX)?;
    std::str::from_utf8(bytes).ok()
}

fn put_name(name: &str, out: &mut Vec<u8>) {
    let name = &name[..name.floor_char_boundary(NAME_MAX)];
    out.push(u8::try_from(name.len()).expect("it was cut to 64 bytes"));
    out.extend_from_slice(name.as_bytes());
}

fn hello<'a>(fields: &mut Fields<'a>) -> Option<Hello<'a>> {
    Some(Hello {
        nonce: fields.u64()?,
        versions: Versions::read(fields)?,
        name: name(fields)?,
    })
}

/// The body of a [`Hello`].
#[must_use]
pub fn encode_hello(hello: &Hello<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(11 + NAME_MAX);
    out.extend_from_slice(&hello.nonce.to_be_bytes());
    out.extend_from_slice(&hello.versions.bytes());
    put_name(hello.name, &mut out);
    out
}

const ROLE_MASTER: u8 = 1;
const ROLE_BACKUP: u8 = 2;

fn welcome<'a>(fields: &mut Fields<'a>) -> Option<Welcome<'a>> {
    Some(Welcome {
        echo: fields.u64()?,
        hello_boot: fields.u64()?,
        next_seq: fields.u64()?,
        id_key: HashKey([fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?]),
        count: fields.u64()?,
        roles: fields.u8().map(|bits| Roles {
            master: bits & ROLE_MASTER != 0,
            backup: bits & ROLE_BACKUP != 0,
        })?,
        versions: Versions::read(fields)?,
        name: name(fields)?,
    })
}

/// The body of a [`Welcome`].
#[must_use]
pub fn encode_welcome(welcome: &Welcome<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(68 + NAME_MAX);
    for number in [welcome.echo, welcome.hello_boot, welcome.next_seq] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    for word in welcome.id_key.0 {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(&welcome.count.to_be_bytes());
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    let roles = &welcome.roles;
    out.push(bit(roles.master, ROLE_MASTER) | bit(roles.backup, ROLE_BACKUP));
    out.extend_from_slice(&welcome.versions.bytes());
    put_name(welcome.name, &mut out);
    out
}

fn nack(fields: &mut Fields<'_>) -> Option<Nack> {
    let boot = fields.u64()?;
    let count = usize::from(fields.u8()?);
    let bytes = fields
        .take(count * 16)
        .filter(|_| count <= NACK_RANGES_MAX)?;
    let ranges = bytes.as_chunks::<16>().0.iter().map(|range| {
        let mut range = Fields(range);
        let (from, to) = (range.u64()?, range.u64()?);
        (from <= to).then_some((from, to))
    });
    Some(Nack {
        boot,
        ranges: ranges.collect::<Option<_>>()?,
    })
}

/// The body of a [`Nack`]. Ranges beyond [`NACK_RANGES_MAX`] are left out.
#[must_use]
pub fn encode_nack(nack: &Nack) -> Vec<u8> {
    let ranges = &nack.ranges[..nack.ranges.len().min(NACK_RANGES_MAX)];
    let mut out = Vec::with_capacity(9 + 16 * ranges.len());
    out.extend_from_slice(&nack.boot.to_be_bytes());
    out.push(u8::try_from(ranges.len()).expect("they were cut to 64"));
    for (from, to) in ranges {
        out.extend_from_slice(&from.to_be_bytes());
        out.extend_from_slice(&to.to_be_bytes());
    }
    out
}

/// The body of a [`Lost`].
#[must_use]
pub fn encode_lost(lost: &Lost) -> Vec<u8> {
    lost.up_to.to_be_bytes().to_vec()
}

const WANT_VECTOR: u8 = 1;
const WANT_REPAIR: u8 = 2;

fn want(fields: &mut Fields<'_>) -> Option<Want> {
    Some(Want {
        boot: fields.u64()?,
        what: match fields.u8()? {
            WANT_VECTOR => Wanted::Vector,
            WANT_REPAIR => Wanted::Repair(fields.array()?),
            _ => return None,
        },
    })
}

/// The body of a [`Want`].
#[must_use]
pub fn encode_want(want: &Want) -> Vec<u8> {
    let mut out = Vec::with_capacity(41);
    out.extend_from_slice(&want.boot.to_be_bytes());
    match &want.what {
        Wanted::Vector => out.push(WANT_VECTOR),
        Wanted::Repair(bitmap) => {
            out.push(WANT_REPAIR);
            out.extend_from_slice(bitmap);
        }
    }
    out
}

const REPORT_DIRTY: u8 = 1;

fn report(fields: &mut Fields<'_>) -> Option<Report> {
    Some(Report {
        boot: fields.u64()?,
        applied_seq: fields.u64()?,
        tick: fields.u32()?,
        have: fields.u64()?,
        covered: fields.u64()?,
        uninstalled: fields.u64()?,
        dirty: fields.u8()? & REPORT_DIRTY != 0,
    })
}

/// The body of a [`Report`].
#[must_use]
pub fn encode_report(report: &Report) -> Vec<u8> {
    let mut out = Vec::with_capacity(45);
    out.extend_from_slice(&report.boot.to_be_bytes());
    out.extend_from_slice(&report.applied_seq.to_be_bytes());
    out.extend_from_slice(&report.tick.to_be_bytes());
    for count in [report.have, report.covered, report.uninstalled] {
        out.extend_from_slice(&count.to_be_bytes());
    }
    out.push(if report.dirty { REPORT_DIRTY } else { 0 });
    out
}
