//! Counters with one writer each.
//!
//! A worker owns a [`WorkerCounters`] and writes it with plain load-and-store (relaxed); anyone may read. Readers sum.

use std::sync::atomic::{AtomicU64, Ordering};

use super::dest::{DestId, ServiceId};
use crate::net::DropReason;

/// A 64-bit counter with one writing thread.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this: two writers would lose counts (never soundness).
    #[inline]
    pub fn add(&self, n: u64) {
        // A plain store instead of a locked add: there is one writer, and readers only need an untorn value.
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Adds 1.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets a gauge.
    #[inline]
    pub fn set(&self, v: u64) {
        self.0.store(v, Ordering::Relaxed);
    }
}

/// What a worker counts for one virtual service.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ServiceCounters {
    /// Packets from clients.
    pub packets_in: Counter,
    /// Bytes of IP packets from clients, as received.
    pub bytes_in: Counter,
    /// Packets to clients.
    pub packets_out: Counter,
    /// Bytes of IP packets to clients, after rewriting.
    pub bytes_out: Counter,
    /// Connections scheduled.
    pub connections: Counter,
    /// New connections refused for want of a server.
    pub rejected_no_server: Counter,
    /// New connections refused because the table was full.
    pub rejected_table_full: Counter,
    /// New connections refused because there was no room for a template, or for so long a key.
    pub rejected_template_table_full: Counter,
    /// New connections refused because the persistence engine found no key.
    pub rejected_no_key: Counter,
    /// Servers chosen by a template that was there.
    pub template_hits: Counter,
    /// New connections that the overload defences refused.
    pub rejected_overload: Counter,
    /// New flows that were placed by hash and not remembered: TCP SYNs, UDP packets.
    pub unremembered: Counter,
    /// Templates made.
    pub template_misses: Counter,
    /// Packets that end before their key does.
    pub no_key_short: Counter,
    /// Packets in which the persistence engine found no key.
    pub no_key_missing: Counter,
    /// Packets whose key is long while there was no room for long ones.
    pub no_key_long: Counter,
    /// Connections ended because their session moved to another 5-tuple.
    pub rehomed: Counter,
    /// Sessions that moved while their old connection's worker could not be told.
    pub rehome_lost: Counter,
    /// Sessions that are served without a template, since there was no room for one.
    pub sessions_untracked: Counter,
}

/// What a worker counts for one real server.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct DestCounters {
    /// Packets sent to the server.
    pub packets_in: Counter,
    /// Bytes of IP packets for the server, as received from clients.
    pub bytes_in: Counter,
    /// Packets from the server.
    pub packets_out: Counter,
    /// Bytes of IP packets from the server, after rewriting.
    pub bytes_out: Counter,
    /// Connections scheduled to it.
    pub connections: Counter,
}

/// Everything one worker counts. `received + generated = transmitted + punted + dropped + held`, where a packet handed to another
/// worker is counted as received by the one that took it from the device and by whatever becomes of it where it ends.
#[derive(Debug)]
pub struct WorkerCounters {
    /// Frames taken from devices.
    pub received: Counter,
    /// Frames that the worker itself made: ICMP errors, further fragments.
    pub generated: Counter,
    /// Frames given to devices.
    pub transmitted: Counter,
    /// Frames given to the kernel.
    pub punted: Counter,
    /// Frames that wait in this worker now: for a neighbour, for fragments, in a transmit buffer (a gauge).
    pub held: Counter,
    /// Frames handed to other workers.
    pub handed_out: Counter,
    /// Frames taken over from other workers.
    pub handed_in: Counter,
    /// Fragments that came to be put together.
    pub fragments_received: Counter,
    /// Datagrams whose fragments are all here.
    pub datagrams_reassembled: Counter,
    /// Fragments that wait in this worker now for others of their datagram (a gauge); `held` has them too.
    pub fragments_held: Counter,
    /// Drops by reason.
    pub drops: [Counter; DropReason::COUNT],
    /// Connections in the worker's tables now (a gauge).
    pub connections: Counter,
    /// How full the fullest of the worker's connection tables is, in parts of 2³² (a gauge).
    pub fill: Counter,
    /// Connections ended by `drop_entry`.
    pub dropped_entries: Counter,
    /// Templates ended by `drop_entry` with their last connection.
    pub dropped_templates: Counter,
    /// Connections evicted to make room.
    pub evicted: Counter,
    /// Connections that ended by timeout.
    pub expired: Counter,
    /// Time-stamp-counter cycles, or nanoseconds where there is none, of polls that found work.
    pub busy_cycles: Counter,
    /// The same of polls that found none.
    pub idle_cycles: Counter,
    /// Polls.
    pub polls: Counter,
    /// By service slot.
    pub services: Box<[ServiceCounters]>,
    /// By real server slot.
    pub dests: Box<[DestCounters]>,
}

impl WorkerCounters {
    /// Counters for so many service and server slots.
    #[must_use]
    pub fn new(services: usize, dests: usize) -> Self {
        let zero = Counter::default;
        Self {
            received: zero(),
            generated: zero(),
            transmitted: zero(),
            punted: zero(),
            held: zero(),
            handed_out: zero(),
            handed_in: zero(),
            fragments_received: zero(),
            datagrams_reassembled: zero(),
            fragments_held: zero(),
            drops: std::array::from_fn(|_| zero()),
            connections: zero(),
            fill: zero(),
            dropped_entries: zero(),
            dropped_templates: zero(),
            evicted: zero(),
            expired: zero(),
            busy_cycles: zero(),
            idle_cycles: zero(),
            polls: zero(),
            services: std::iter::repeat_with(ServiceCounters::default)
                .take(services)
                .collect(),
            dests: std::iter::repeat_with(DestCounters::default)
                .take(dests)
                .collect(),
        }
    }

    /// Counts a drop.
    #[inline]
    pub fn drop(&self, reason: DropReason) {
        self.drops[reason as usize].inc();
    }

    /// All drops.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(Counter::get).sum()
    }

    /// The counters of a service.
    #[inline]
    #[must_use]
    pub fn service(&self, id: ServiceId) -> &ServiceCounters {
        &self.services[id.0 as usize]
    }

    /// The counters of a real server.
    #[inline]
    #[must_use]
    pub fn dest(&self, id: DestId) -> &DestCounters {
        &self.dests[id.0 as usize]
    }
}
