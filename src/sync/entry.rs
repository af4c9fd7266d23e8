//! Entries as directors of the `polder` format tell each other of them: by addresses, never by slots, which mean
//! nothing on another machine.
//!
//! Owns plain values. Knows no table, no service and no byte on the wire.

use std::net::{IpAddr, SocketAddr};

use super::ipvs::AnyEnds;
use crate::net::Af;

/// A number that an entry has by its key, the same on all directors that were given the same secret. Two entries of one
/// director never have the same in practice: it has 128 bits and is keyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub u128);

/// A virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceName {
    /// By its address.
    Address {
        /// IP protocol number.
        proto: u8,
        /// Virtual address.
        addr: IpAddr,
        /// Virtual port, 0 for any.
        port: u16,
    },
    /// By a packet mark.
    Mark {
        /// Family of its clients.
        af: Af,
        /// The mark, not 0.
        mark: u32,
    },
}

/// A connection. Its key is protocol, client and virtual end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnEntry {
    /// Protocol and ends.
    pub ends: AnyEnds,
    /// The packet mark that it was scheduled by, 0 for none.
    pub mark: u32,
    /// State code.
    pub state: u8,
    /// Method, [`NOOUTPUT`](crate::table::flag::NOOUTPUT) and [`INACTIVE`](crate::table::flag::INACTIVE) of
    /// [`crate::table::flag`]; no other bit.
    pub flags: u16,
    /// Ticks from its last packet to its end.
    pub timeout: u32,
    /// Ticks that are left.
    pub remaining: u32,
    /// The template that controls it.
    pub template: Option<EntryId>,
}

/// A persistence template, or the template of a payload session. All but server, times and `assured` are its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateEntry {
    /// The service.
    pub service: ServiceName,
    /// Family of the clients.
    pub af: Af,
    /// IP protocol number; 0 for services by mark.
    pub proto: u8,
    /// The client's address under the service's mask; an IPv4 one in the first four bytes.
    pub client: [u8; 16],
    /// The virtual address likewise, or the mark.
    pub vaddr: [u8; 16],
    /// The virtual port, or 0.
    pub vport: u16,
    /// The session's key, of services with an engine or a payload key.
    pub data: Option<Box<[u8]>>,
    /// The real server as it is configured; port 0 where it takes any.
    pub dest: SocketAddr,
    /// Ticks from its last use to its end.
    pub timeout: u32,
    /// Ticks that are left.
    pub remaining: u32,
    /// A connection under it was established.
    pub assured: bool,
}

/// Either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A connection.
    Conn(ConnEntry),
    /// A template.
    Template(Box<TemplateEntry>),
}

impl Entry {
    /// Ticks from its last use to its end.
    #[must_use]
    pub fn timeout(&self) -> u32 {
        match self {
            Self::Conn(conn) => conn.timeout,
            Self::Template(template) => template.timeout,
        }
    }

    /// Ticks that are left.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        match self {
            Self::Conn(conn) => conn.remaining,
            Self::Template(template) => template.remaining,
        }
    }

    /// The same with other ticks left.
    #[must_use]
    pub fn with_remaining(mut self, ticks: u32) -> Self {
        match &mut self {
            Self::Conn(conn) => conn.remaining = ticks,
            Self::Template(template) => template.remaining = ticks,
        }
        self
    }
}
