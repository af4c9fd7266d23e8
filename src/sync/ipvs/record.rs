//! What a record says of a connection or a template.

use std::net::SocketAddr;

use crate::net::{Af, Family, V4, V6};
use crate::table::Ends;

/// Bits of a record's flags (specification §2.1).
pub mod flag {
    /// The forwarding method: 0 masq, 1 local, 2 tunnel, 3 direct, 4 bypass.
    pub const METHOD: u32 = 0x0007;
    /// Made by the sync receiver; sent as it is.
    pub const SYNC: u32 = 0x0020;
    /// Is in the sender's table; never sent.
    pub const HASHED: u32 = 0x0040;
    /// Replies are not seen.
    pub const NOOUTPUT: u32 = 0x0080;
    /// Does not count as active.
    pub const INACTIVE: u32 = 0x0100;
    /// Sequence numbers are adjusted in one direction or both: there is a [`Seq`](super::Seq).
    pub const SEQ: u32 = 0x0600;
    /// The client's port is not known yet.
    pub const NO_CPORT: u32 = 0x0800;
    /// A template.
    pub const TEMPLATE: u32 = 0x1000;
    /// Of a one-packet service.
    pub const ONE_PACKET: u32 = 0x2000;
    /// Linux's connection tracking is kept.
    pub const NFCT: u32 = 0x1_0000;
}

/// Protocol and ends of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnyEnds {
    /// IPv4.
    V4(Ends<V4>),
    /// IPv6.
    V6(Ends<V6>),
}

impl AnyEnds {
    /// The family.
    #[must_use]
    pub fn af(&self) -> Af {
        match self {
            Self::V4(_) => Af::V4,
            Self::V6(_) => Af::V6,
        }
    }

    /// IP protocol number; 0 for templates of a mark.
    #[must_use]
    pub fn proto(&self) -> u8 {
        match self {
            Self::V4(e) => e.proto,
            Self::V6(e) => e.proto,
        }
    }

    /// Client, virtual service and real server, in this order.
    #[must_use]
    pub fn all(&self) -> [SocketAddr; 3] {
        fn of<F: Family>(e: &Ends<F>) -> [SocketAddr; 3] {
            [
                (e.caddr.into(), e.cport).into(),
                (e.vaddr.into(), e.vport).into(),
                (e.daddr.into(), e.dport).into(),
            ]
        }
        match self {
            Self::V4(e) => of(e),
            Self::V6(e) => of(e),
        }
    }
}

impl From<Ends<V4>> for AnyEnds {
    fn from(ends: Ends<V4>) -> Self {
        Self::V4(ends)
    }
}

impl From<Ends<V6>> for AnyEnds {
    fn from(ends: Ends<V6>) -> Self {
        Self::V6(ends)
    }
}

/// How sequence numbers of one direction are adjusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SeqPair {
    /// The sequence number from which on `delta` applies.
    pub init: u32,
    /// What is added there and later.
    pub delta: u32,
    /// What is added before.
    pub previous_delta: u32,
}

/// Sequence adjustment of both directions. Linux before 7.2 fills it with whatever its memory held
/// (specification §9.5), so nothing may depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Seq {
    /// Client to server.
    pub inward: SeqPair,
    /// Server to client.
    pub outward: SeqPair,
}

/// Bytes of [`Seq`] on the wire.
pub(super) const SEQ_LEN: usize = 24;

impl Seq {
    /// From its 24 bytes, each number read by `number`.
    pub(super) fn read(bytes: &[u8; SEQ_LEN], number: fn([u8; 4]) -> u32) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        let pair = |at: usize| SeqPair {
            init: number(words[at]),
            delta: number(words[at + 1]),
            previous_delta: number(words[at + 2]),
        };
        Self {
            inward: pair(0),
            outward: pair(3),
        }
    }

    /// Its 24 bytes, each number written by `number`.
    pub(super) fn bytes(&self, number: fn(u32) -> [u8; 4]) -> [u8; SEQ_LEN] {
        let mut out = [0; SEQ_LEN];
        let pairs = [self.inward, self.outward];
        let words = pairs
            .iter()
            .flat_map(|p| [p.init, p.delta, p.previous_delta]);
        for (to, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *to = number(word);
        }
        out
    }
}

/// What a record says of any entry, and all that it says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnRecord {
    /// Protocol and ends.
    pub ends: AnyEnds,
    /// See [`flag`]; as sent, so nothing is masked.
    pub flags: u32,
    /// State code of the protocol's state machine; of templates 1 for assured.
    pub state: u16,
    /// The packet mark, 0 for none. Version 0 has none.
    pub mark: u32,
    /// The entry's timeout in seconds, not what is left of it; 0 for the usual one. Version 0 has
    /// none.
    pub timeout_s: u32,
    /// Sequence adjustment. Sent only with a bit of [`flag::SEQ`].
    pub seq: Option<Seq>,
}

/// What a persistence engine knows a session by. Version 0 has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Engine<'a> {
    /// The engine's name: 1 to 16 bytes.
    pub name: &'a [u8],
    /// The session's key: 1 to 255 bytes.
    pub data: &'a [u8],
}

/// What a record says of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateRecord<'a> {
    /// What it has in common with connections.
    pub entry: ConnRecord,
    /// Of a service with a persistence engine.
    pub engine: Option<Engine<'a>>,
}

/// A record, by its template flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A connection.
    Conn(ConnRecord),
    /// A template.
    Template(TemplateRecord<'a>),
}

impl<'a> Record<'a> {
    /// The record of `entry`. An engine's key on a connection means nothing and is left out.
    #[must_use]
    pub fn new(entry: ConnRecord, engine: Option<Engine<'a>>) -> Self {
        if entry.flags & flag::TEMPLATE == 0 {
            Self::Conn(entry)
        } else {
            Self::Template(TemplateRecord { entry, engine })
        }
    }

    /// What connections and templates have in common.
    #[must_use]
    pub fn entry(&self) -> &ConnRecord {
        match self {
            Self::Conn(entry) => entry,
            Self::Template(template) => &template.entry,
        }
    }

    /// The engine's key, of templates that have one.
    #[must_use]
    pub fn engine(&self) -> Option<Engine<'a>> {
        match self {
            Self::Conn(_) => None,
            Self::Template(template) => template.engine,
        }
    }
}
