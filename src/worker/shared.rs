//! What workers and the management core share: the published snapshot, counters, and bounded command rings.
//!
//! Nothing here can make a worker wait. A worker reads the snapshot pointer once per burst; commands and their answers
//! are boxes that the management core allocated, so a worker never allocates for them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam::queue::ArrayQueue;

use crate::forward::defence::{Active, Published};
use crate::forward::tell::Tell;
use crate::forward::{PeerOutcome, PeerTerms, PortId, Service, Snapshot};
use crate::net::{Af, Tick, V4, V6};
use crate::sync::entry::EntryId;
use crate::sync::ipvs::AnyEnds;
use crate::table::{Conn, Counter, DestId, Ended, ServiceId, Templates, WorkerCounters};

/// Commands that may wait for one worker.
pub const COMMANDS_MAX: usize = 64;

/// One connection for a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnRow {
    /// IP protocol number.
    pub proto: u8,
    /// State's number in its protocol's machine.
    pub state: u8,
    /// IPVS flags (specification §2.1).
    pub flags: u16,
    /// Client address and port.
    pub client: (IpAddr, u16),
    /// Virtual address and port.
    pub virtual_: (IpAddr, u16),
    /// Server address and port.
    pub dest: (IpAddr, u16),
    /// The real server's slot; `None` when it is unknown.
    pub dest_id: Option<DestId>,
    /// The service's slot.
    pub service: ServiceId,
    /// Index of the template that controls it; [`crate::table::NONE`] for none.
    pub template: u32,
    /// Time until it expires if nothing more comes, in ticks of 10 ms.
    pub expires: u32,
    /// Packets from the client, wrapping.
    pub in_pkts: u32,
}

/// A page of a worker's connections. The management core sends it empty, with capacity; the worker fills it.
#[derive(Debug)]
pub struct ConnPage {
    /// Family to list.
    pub af: Af,
    /// Where to go on: 0 at first, then what the worker left here.
    pub cursor: u32,
    /// Rows; at most its capacity is filled.
    pub rows: Vec<ConnRow>,
    /// Set by the worker when there is nothing behind this page.
    pub done: bool,
}

/// What the management core asks of a worker.
#[derive(Debug)]
pub enum Command {
    /// Fill a page of connections and push it to [`WorkerShared::pages`].
    List(Box<ConnPage>),
    /// Do a part of state sync and push it to [`WorkerShared::sync_done`].
    Sync(Box<SyncWork>),
}

/// What state sync asks of a worker. It comes back done.
#[derive(Debug)]
pub enum SyncWork {
    /// A page of the connections that peers are told of.
    Page(SyncPage),
    /// Connections of a peer to be taken over.
    Install(Vec<PeerRow>),
}

/// A page of the connections that peers are told of: those that last, without those that are only here because a peer
/// told of them. The management core sends it empty, with capacity; the worker fills it.
#[derive(Debug)]
pub struct SyncPage {
    /// The connections, of the family to list; as many entries are looked at as it has room for.
    pub rows: SyncRows,
    /// Where to go on: 0 at first, then what the worker left here.
    pub cursor: u32,
    /// Half-open connections are wanted, too.
    pub everything: bool,
    /// Those that are only here because a peer told of them are wanted, too.
    pub peers: bool,
    /// Set by the worker when there is nothing behind this page.
    pub done: bool,
}

/// Connections of one family.
#[derive(Debug)]
pub enum SyncRows {
    /// IPv4.
    V4(Vec<Conn<V4>>),
    /// IPv6.
    V6(Vec<Conn<V6>>),
}

/// A peer's connection, and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct PeerRow {
    /// The peer, by whatever the management core knows it by.
    pub peer: u64,
    /// The entry's number.
    pub id: EntryId,
    /// The connection's protocol and ends.
    pub ends: AnyEnds,
    /// What the peer tells of it.
    pub terms: PeerTerms,
    /// Set by the worker.
    pub outcome: Option<PeerOutcome>,
}

/// What one worker shares with the management core.
#[derive(Debug)]
pub struct WorkerShared {
    /// Worker number, from 0.
    pub id: usize,
    /// The processor it is pinned to, if it is.
    pub core: Option<usize>,
    /// Counters; the worker is the only writer.
    pub counters: WorkerCounters,
    /// Commands to the worker.
    pub commands: ArrayQueue<Command>,
    /// Answers to [`Command::List`].
    pub pages: ArrayQueue<Box<ConnPage>>,
    /// Answers to [`Command::Sync`].
    pub sync_done: ArrayQueue<Box<SyncWork>>,
    /// Neighbours that the worker wants resolved; a full ring loses requests, which are repeated.
    pub resolve: ArrayQueue<(PortId, IpAddr)>,
    /// Generation of the snapshot that the worker's last poll used.
    pub seen_generation: AtomicU64,
    /// The worker's tick at its last poll; the management core sees by it that the worker lives.
    pub heartbeat: AtomicU32,
    /// Set by the worker when it has stopped.
    pub stopped: AtomicBool,
}

impl WorkerShared {
    /// State for a worker with counters for so many service and server slots.
    #[must_use]
    pub fn new(id: usize, core: Option<usize>, services: usize, dests: usize) -> Self {
        Self {
            id,
            core,
            counters: WorkerCounters::new(services, dests),
            commands: ArrayQueue::new(COMMANDS_MAX),
            pages: ArrayQueue::new(COMMANDS_MAX),
            sync_done: ArrayQueue::new(COMMANDS_MAX),
            resolve: ArrayQueue::new(256),
            seen_generation: AtomicU64::new(0),
            heartbeat: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
        }
    }
}

/// The defences against floods as the management core directs them.
#[derive(Debug, Default)]
pub struct Defence {
    /// What is in force.
    pub active: Published,
    /// Templates that the management core ended.
    pub dropped_templates: Counter,
    /// Where its walk over the templates began last.
    random: AtomicU64,
}

/// All that the workers and the management core have in common.
#[derive(Debug)]
pub struct Plane {
    /// The published snapshot.
    pub snapshot: ArcSwap<Snapshot>,
    /// One per worker.
    pub workers: Vec<Arc<WorkerShared>>,
    /// Set once to stop all workers.
    pub stop: AtomicBool,
    /// Persistence templates; the management core sweeps them.
    pub templates: Templates,
    /// Defences in force.
    pub defence: Defence,
    /// Connections that all workers' tables can hold together.
    pub connections_capacity: u64,
    /// What state sync asks of the packet path.
    pub sync: SyncDuty,
}

/// What state sync asks of the packet path. Nothing, as long as it does not run.
#[derive(Debug, Default)]
pub struct SyncDuty {
    /// What peers of the `ipvs` format are told.
    pub tell: ArcSwapOption<Tell>,
    /// Set while another director serves and clients' packets are the kernel's (`backup_only`).
    pub off_duty: AtomicBool,
    /// Set while the worker takes no frames from its ports: its tables are being handed over, or filled.
    pub deaf: AtomicBool,
    /// Set when everything was handed over and this process is to end.
    pub leave: AtomicBool,
    /// Entries of a worker's tables, IPv4 and IPv6, as [`Tell::new`] wants them.
    pub places: OnceLock<(usize, usize)>,
}

impl Plane {
    /// The time by the workers' clocks: that of the last poll of whichever polled last.
    #[must_use]
    pub fn now(&self) -> Tick {
        let polls = self
            .workers
            .iter()
            .map(|w| Tick(w.heartbeat.load(Ordering::Relaxed)));
        polls
            .reduce(|a, b| if b.reached(a) { b } else { a })
            .unwrap_or_default()
    }

    /// Connections that can still be made, if all tables were as full as the fullest, that of templates included.
    #[must_use]
    pub fn free_entries(&self) -> u64 {
        const ONE: u64 = 1 << 32;
        let templates = self.templates.capacity() as u64;
        let of_templates = ((self.templates.len() as u64) << 32).checked_div(templates);
        let fill = self.workers.iter().map(|w| w.counters.fill.get());
        let fill = fill.chain(of_templates).max().unwrap_or(0).min(ONE);
        let free = u128::from(self.connections_capacity) * u128::from(ONE - fill);
        u64::try_from(free >> 32).unwrap_or(u64::MAX)
    }

    /// Puts the defences in force that the configuration asks for at the present fill (specification §2.9). To be
    /// called once a second by the management core, and when the configuration changes.
    pub fn judge(&self) -> Active {
        let active = Active::of(&self.snapshot.load().services.sysctls, self.free_entries());
        self.defence.active.set(active);
        active
    }

    /// The management core's part of `drop_entry`, once a second while that is in force: the templates among one in 32
    /// that control nothing and are not worth keeping (specification §2.10).
    pub fn drop_templates(&self, now: Tick) {
        let places = u32::try_from(self.templates.capacity()).unwrap_or(u32::MAX);
        if places == 0 {
            return;
        }
        let random = self
            .defence
            .random
            .load(Ordering::Relaxed)
            .wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.defence.random.store(random, Ordering::Relaxed);
        let snapshot = self.snapshot.load();
        let mut at = u32::try_from(((random >> 32) * u64::from(places)) >> 32).unwrap_or(0);
        let mut left = places.div_ceil(32);
        while left > 0 {
            let step = left.min(places - at);
            left -= step;
            let next = self.templates.dump(at, step, now, |row| {
                let one_packet = |s: &Arc<Service>| s.def.one_packet;
                let one_packet = snapshot.service(row.key.service).is_some_and(one_packet);
                let resting = row.timeout.saturating_sub(row.remaining) >= 60 * Tick::PER_SECOND;
                if (resting || !one_packet) && self.templates.end_unassured(row.at) {
                    self.defence.dropped_templates.inc();
                }
            });
            at = next.unwrap_or(0);
        }
    }

    /// Ends the templates whose time is over. The management core's part, and nobody else's. Peers are told of those that
    /// are kept for their connections' sake.
    pub fn sweep_templates(&self, now: Tick) {
        let snapshot = self.snapshot.load();
        let ended = |ended: Ended<'_>| {
            // A server that templates refer to keeps its slot.
            if let Some(dest) = snapshot.dest(ended.dest) {
                dest.shared.unbind_template();
            }
        };
        let tell = self.sync.tell.load();
        self.templates.sweep_telling(now, ended, |kept| {
            if let Some(tell) = &*tell {
                tell.kept(kept, &self.templates, now);
            }
        });
    }
}
