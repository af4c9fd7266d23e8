//! What workers and the management core share: the published snapshot, counters, and bounded command rings.
//!
//! Nothing here can make a worker wait. A worker reads the snapshot pointer once per burst; commands and their answers
//! are boxes that the management core allocated, so a worker never allocates for them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;

use crate::forward::{PortId, Snapshot};
use crate::net::{Af, Tick};
use crate::table::{DestId, ServiceId, Templates, WorkerCounters};

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
            resolve: ArrayQueue::new(256),
            seen_generation: AtomicU64::new(0),
            heartbeat: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
        }
    }
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
    /// Connections that all workers' tables can hold together.
    pub connections_capacity: u64,
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

    /// Ends the templates whose time is over. The management core's part, and nobody else's.
    pub fn sweep_templates(&self, now: Tick) {
        let snapshot = self.snapshot.load();
        self.templates.sweep(now, |ended| {
            // A server that templates refer to keeps its slot.
            if let Some(dest) = snapshot.dest(ended.dest) {
                dest.shared.unbind_template();
            }
        });
    }
}
