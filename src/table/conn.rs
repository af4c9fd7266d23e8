//! The record of one connection.
//!
//! Owns the fields of specification §2.1 in one cache line (IPv4) or two (IPv6). Knows nothing of
//! the table that holds it, except that the keys, the forwarding method and the timer fields are
//! the table's once it is stored: they can be read but not changed. Invariant: while stored,
//! `armed` is at or before the deadline.

#![allow(clippy::multiple_bound_locations)] // In what the derive macro of `Pod` makes.

use std::fmt;

use bytemuck::{Pod, Zeroable};

use super::dest::{DestId, Method, ServiceId};
use crate::net::{Family, FlowKey, Tick};

/// Bits of a connection's flags, as on the sync wire (specification §2.1).
pub mod flag {
    /// The forwarding method, in the numbers of [`Method`](crate::table::Method).
    pub const METHOD: u16 = 0x0007;
    /// Made by the sync receiver.
    pub const SYNC: u16 = 0x0020;
    /// Replies are not seen.
    pub const NOOUTPUT: u16 = 0x0080;
    /// Does not count as active.
    pub const INACTIVE: u16 = 0x0100;
}

/// "None" in the fields that hold a number.
pub const NONE: u32 = u32::MAX;

/// The longest timeout, in ticks: 31 days. Longer ones are cut to it.
pub const MAX_TIMEOUT: u32 = 31 * 24 * 3600 * Tick::PER_SECOND;

/// Index of a connection in its table. Meaningful until that connection is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnIdx(pub u32);

/// Which end of a connection sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Client to virtual address.
    FromClient = 0,
    /// Real server to client.
    FromServer = 1,
}

/// The three ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends<F: Family> {
    /// IP protocol number.
    pub proto: u8,
    /// Client address.
    pub caddr: F::Addr,
    /// Client port.
    pub cport: u16,
    /// Virtual address.
    pub vaddr: F::Addr,
    /// Virtual port.
    pub vport: u16,
    /// Real server's address.
    pub daddr: F::Addr,
    /// Real server's port.
    pub dport: u16,
}

/// A connection.
///
/// Packed, because that is what makes it plain data for any family without a word of `unsafe`;
/// every 32-bit and shorter field still lies at a multiple of its size. Public fields are copied,
/// not borrowed: `{ conn.state }` where a reference would be taken.
#[derive(Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, packed)]
pub struct Conn<F: Family> {
    caddr: F::Addr,
    vaddr: F::Addr,
    daddr: F::Addr,
    cport: u16,
    vport: u16,
    dport: u16,
    proto: u8,
    /// State code of the protocol's state machine; 0 for protocols that have none.
    pub state: u8,
    flags: u16,
    /// The table's mark: [`LIVE`] while stored, 0 in a free slot.
    life: u16,
    /// Slot of the real server, [`NONE`] for none.
    pub dest: u32,
    /// Slot of the virtual service, [`NONE`] for none.
    pub service: u32,
    /// The template that controls the connection, [`NONE`] for none.
    pub template: u32,
    /// Ticks from the last packet to the end.
    timeout: u32,
    /// Tick of the last packet.
    last_seen: Tick,
    /// Tick at which the timer wheel looks at the connection next.
    armed: Tick,
    /// Packets from the client, as far as anyone counts them: sync needs the number, eviction
    /// whether it is above 1.
    pub in_pkts: u32,
    /// The packet mark that the connection was scheduled by, 0 for none.
    pub mark: u32,
    /// Hash of the payload session that the connection belongs to, 0 for none.
    pub session: u64,
}

const _: () = assert!(
    size_of::<Conn<crate::net::V4>>() == 64,
    "an IPv4 entry is one cache line"
);
const _: () = assert!(
    size_of::<Conn<crate::net::V6>>() == 100,
    "an IPv6 entry fits two"
);

/// Value of `life` in a stored connection.
pub(super) const LIVE: u16 = 1;

impl<F: Family> Conn<F> {
    /// A new connection (specification §2.1): state 0, 3 s to live unless a state machine says
    /// otherwise, not active, and replies are expected to be seen only where they pass the director
    /// anyway.
    #[must_use]
    pub fn new(ends: &Ends<F>, method: Method) -> Self {
        let unseen = if method == Method::Masq {
            0
        } else {
            flag::NOOUTPUT
        };
        Self {
            caddr: ends.caddr,
            vaddr: ends.vaddr,
            daddr: ends.daddr,
            cport: ends.cport,
            vport: ends.vport,
            dport: ends.dport,
            proto: ends.proto,
            state: 0,
            flags: method as u16 | flag::INACTIVE | unseen,
            life: 0,
            dest: NONE,
            service: NONE,
            template: NONE,
            timeout: 3 * Tick::PER_SECOND,
            last_seen: Tick(0),
            armed: Tick(0),
            in_pkts: 0,
            mark: 0,
            session: 0,
        }
    }

    /// The connection with another timeout in ticks (cut to [`MAX_TIMEOUT`]). Saves the timer wheel
    /// work when it is known before the connection is stored.
    #[must_use]
    pub fn with_timeout(mut self, ticks: u32) -> Self {
        self.timeout = ticks.min(MAX_TIMEOUT);
        self
    }

    /// IP protocol number.
    #[inline]
    #[must_use]
    pub fn proto(&self) -> u8 {
        self.proto
    }

    /// Client address.
    #[inline]
    #[must_use]
    pub fn caddr(&self) -> F::Addr {
        self.caddr
    }

    /// Client port.
    #[inline]
    #[must_use]
    pub fn cport(&self) -> u16 {
        self.cport
    }

    /// Virtual address.
    #[inline]
    #[must_use]
    pub fn vaddr(&self) -> F::Addr {
        self.vaddr
    }

    /// Virtual port.
    #[inline]
    #[must_use]
    pub fn vport(&self) -> u16 {
        self.vport
    }

    /// Real server's address.
    #[inline]
    #[must_use]
    pub fn daddr(&self) -> F::Addr {
        self.daddr
    }

    /// Real server's port.
    #[inline]
    #[must_use]
    pub fn dport(&self) -> u16 {
        self.dport
    }

    /// The three ends.
    #[must_use]
    pub fn ends(&self) -> Ends<F> {
        Ends {
            proto: self.proto,
            caddr: self.caddr,
            cport: self.cport,
            vaddr: self.vaddr,
            vport: self.vport,
            daddr: self.daddr,
            dport: self.dport,
        }
    }

    /// Flags (see [`flag`]).
    #[inline]
    #[must_use]
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// Replaces the flags, except for the forwarding method, which decides how the connection is
    /// indexed.
    #[inline]
    pub fn set_flags(&mut self, flags: u16) {
        self.flags = flags & !flag::METHOD | self.flags & flag::METHOD;
    }

    /// Forwarding method.
    #[inline]
    #[must_use]
    pub fn method(&self) -> Method {
        match self.flags & flag::METHOD {
            2 => Method::Tunnel,
            3 => Method::Direct,
            _ => Method::Masq,
        }
    }

    /// Whether the connection counts as active.
    #[inline]
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.flags & flag::INACTIVE == 0
    }

    /// The real server.
    #[inline]
    #[must_use]
    pub fn dest_id(&self) -> Option<DestId> {
        (self.dest != NONE).then_some(DestId(self.dest))
    }

    /// The virtual service.
    #[inline]
    #[must_use]
    pub fn service_id(&self) -> Option<ServiceId> {
        (self.service != NONE).then_some(ServiceId(self.service))
    }

    /// Ticks from the last packet to the end.
    #[inline]
    #[must_use]
    pub fn timeout(&self) -> u32 {
        self.timeout
    }

    /// Tick of the last packet.
    #[inline]
    #[must_use]
    pub fn last_seen(&self) -> Tick {
        self.last_seen
    }

    /// Tick at which the connection ends unless it is used before.
    #[inline]
    #[must_use]
    pub fn deadline(&self) -> Tick {
        { self.last_seen }.plus(self.timeout)
    }

    /// Ticks that are left to the connection; 0 when its time is up.
    #[must_use]
    pub fn remaining(&self, now: Tick) -> u32 {
        self.deadline().since(now)
    }

    /// The key of packets from the client.
    #[inline]
    #[must_use]
    pub fn request_key(&self) -> FlowKey<F> {
        FlowKey {
            src: self.caddr,
            dst: self.vaddr,
            src_port: self.cport,
            dst_port: self.vport,
            proto: self.proto,
        }
    }

    /// The key of packets from the real server, where replies come with the server's own address
    /// (masquerading).
    #[inline]
    #[must_use]
    pub fn reply_key(&self) -> Option<FlowKey<F>> {
        (self.method() == Method::Masq).then_some(FlowKey {
            src: self.daddr,
            dst: self.caddr,
            src_port: self.dport,
            dst_port: self.cport,
            proto: self.proto,
        })
    }

    /// Whether a packet with `key` travels in `direction` of this connection.
    #[inline]
    pub(super) fn carries(&self, direction: Direction, key: &FlowKey<F>) -> bool {
        // Both comparisons are made and one is chosen: a branch on the direction would be
        // mispredicted every other time in a mixed burst.
        let request = ({ self.caddr } == key.src)
            & ({ self.vaddr } == key.dst)
            & (self.cport == key.src_port)
            & (self.vport == key.dst_port);
        let reply = ({ self.daddr } == key.src)
            & ({ self.caddr } == key.dst)
            & (self.dport == key.src_port)
            & (self.cport == key.dst_port);
        let from_client = direction == Direction::FromClient;
        (request & from_client | reply & !from_client) & (self.proto == key.proto)
    }

    #[inline]
    pub(super) fn is_live(&self) -> bool {
        self.life == LIVE
    }

    #[inline]
    pub(super) fn set_live(&mut self, live: bool) {
        self.life = if live { LIVE } else { 0 };
    }

    #[inline]
    pub(super) fn armed(&self) -> Tick {
        self.armed
    }

    #[inline]
    pub(super) fn set_armed(&mut self, at: Tick) {
        self.armed = at;
    }

    /// Notes a packet. Writes only when the tick changed, so that a busy connection's line stays
    /// clean.
    #[inline]
    pub(super) fn touch(&mut self, now: Tick) {
        if { self.last_seen } != now {
            self.last_seen = now;
        }
    }

    #[inline]
    pub(super) fn set_timer(&mut self, ticks: u32, now: Tick) {
        self.timeout = ticks.min(MAX_TIMEOUT);
        self.last_seen = now;
    }
}

impl<F: Family> fmt::Debug for Conn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{} -> {}:{} -> {}:{} proto {} state {} flags {:#06x} dest {} timeout {} seen {}",
            { self.caddr },
            { self.cport },
            { self.vaddr },
            { self.vport },
            { self.daddr },
            { self.dport },
            self.proto,
            self.state,
            { self.flags },
            { self.dest },
            { self.timeout },
            { self.last_seen }.0,
        )
    }
}
