//! Workers in virtual time, on one thread: the test bed of replay, golden tests and simulators.
//!
//! The same workers as on the appliance, over memory devices. A frame goes in, all workers are polled until nothing is
//! left to do, and only then comes the next; so no worker runs ahead of another, and every run of the same input is the
//! same, whatever the number of workers. Frames are dealt to the workers' receive queues in turn, as a device without
//! any steering would at its worst, so that every connection is handed over again and again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;

use super::Worker;
use super::assemble::{self, PortParts, Sizes};
use super::shared::{ConnPage, ConnRow, Defence, Plane, SyncDuty};
use crate::forward::defence::Mode;
use crate::forward::{BuildError, Fib, FibInput, PortId, Registry, Setup, Side, Snapshot};
use crate::io::mem::{MemHandle, MemIo, MemPool, QueueCapacity};
use crate::net::{Af, DropReason, Tick, V4, V6};
use crate::table::{DestId, TableError, TemplateRow, WorkerCounters, flag};

/// Buffers of the pool: what may wait for neighbours in eight workers, and more.
const BUFFERS: usize = 16 * 1024;
/// Buffers for frames that are larger than any MTU, as captures behind offloading have them.
const LARGE_BUFFERS: usize = 64;
/// What one frame may set off at once.
const QUEUE: QueueCapacity = QueueCapacity { rx: 2, tx: 4096 };

/// How often the management core ends templates, in ticks.
const SWEEP_TICKS: u32 = 10;

/// Why the workers could not be set up.
#[derive(Debug)]
pub enum StartError {
    /// The configuration can't be built.
    Build(BuildError),
    /// No memory for the tables.
    Table(TableError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build(e) => e.fmt(f),
            Self::Table(e) => write!(
                f,
                "{e}; set `limits.connections` or `limits.templates` lower"
            ),
        }
    }
}

impl std::error::Error for StartError {}

/// Workers in lockstep.
#[derive(Debug)]
pub struct Lockstep {
    plane: Arc<Plane>,
    workers: Vec<Worker<MemIo>>,
    /// By worker, by port.
    handles: Vec<Vec<MemHandle>>,
    pool: MemPool,
    buffers: usize,
    registry: Registry,
    turn: usize,
    now: Tick,
    swept: Tick,
    judged: Tick,
}

impl Lockstep {
    /// Workers for `setup`.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn new(setup: &Setup, workers: usize, sizes: &Sizes) -> Result<Self, StartError> {
        let mut registry = Registry::new(sizes.services, sizes.servers, sizes.seed);
        let snapshot = static_snapshot(&mut registry, setup, None).map_err(StartError::Build)?;
        let plane = Arc::new(Plane {
            snapshot: ArcSwap::from_pointee(snapshot),
            workers: assemble::shared(workers, &[], sizes),
            templates: assemble::templates(sizes).map_err(StartError::Table)?,
            stop: AtomicBool::new(false),
            defence: Defence::default(),
            connections_capacity: sizes.connections as u64,
            sync: SyncDuty::default(),
        });
        let largest = setup
            .ports
            .iter()
            .map(|p| usize::from(p.mtu))
            .max()
            .unwrap_or(0);
        let pool = MemPool::with_large(BUFFERS, (largest + 64).max(2048), LARGE_BUFFERS);
        let buffers = pool.available();
        let mut handles: Vec<Vec<MemHandle>> = (0..workers).map(|_| Vec::new()).collect();
        let ports = setup
            .ports
            .iter()
            .map(|_| {
                let queues = (0..workers).map(|w| {
                    let (io, handle) = MemIo::pair(&pool, QUEUE);
                    handles[w].push(handle);
                    Some(io)
                });
                PortParts::plain(queues.collect())
            })
            .collect();
        let directors = assemble::directors(setup, workers, sizes).map_err(StartError::Table)?;
        let workers = assemble::workers(&plane, directors, ports, true);
        plane.judge();
        Ok(Self {
            plane,
            workers,
            handles,
            pool,
            buffers,
            registry,
            turn: 0,
            now: Tick(0),
            swept: Tick(0),
            judged: Tick(0),
        })
    }

    /// Publishes another configuration, as a reload does.
    ///
    /// # Errors
    /// [`BuildError`]; nothing has changed then.
    pub fn apply(&mut self, setup: &Setup) -> Result<(), BuildError> {
        let old = self.plane.snapshot.load_full();
        let next = static_snapshot(&mut self.registry, setup, Some(&old))?;
        self.plane.snapshot.store(Arc::new(next));
        self.plane.judge();
        self.settle();
        Ok(())
    }

    /// Puts one frame into a port at `now` and lets the workers finish with it.
    pub fn frame(&mut self, port: PortId, frame: &[u8], now: Tick) {
        self.pass_to(now);
        let worker = self.turn % self.workers.len();
        self.turn = self.turn.wrapping_add(1);
        if !self.handles[worker][usize::from(port.0)].push(frame) {
            // No buffer holds it: a device would have lost it the same way.
            let counters = &self.plane.workers[worker].counters;
            counters.received.inc();
            counters.drop(DropReason::NoBuffer);
        }
        self.settle();
    }

    /// Lets time pass. Templates whose time is over are then gone from the counts as well.
    pub fn advance(&mut self, now: Tick) {
        self.pass_to(now);
        self.settle();
        self.sweep();
    }

    /// Time, and the management core's work that has come due with it.
    fn pass_to(&mut self, now: Tick) {
        self.step_to(now);
        self.now = now;
        self.judge();
        if now.since(self.swept) >= SWEEP_TICKS {
            self.sweep();
        }
    }

    fn sweep(&mut self) {
        self.swept = self.now;
        self.plane.sweep_templates(self.now);
    }

    /// Lets a pause pass tick by tick, for as long as it matters: whether a template is restarted when its timer fires
    /// hangs on which of its connections have ended before (specification §2.7), to the tick. Without connections, or
    /// without templates, nothing in a pause depends on what came first, and it is one step.
    fn step_to(&mut self, now: Tick) {
        while now.0.wrapping_sub(self.now.0) > 1 && now.reached(self.now) && self.is_timed() {
            self.now = self.now.plus(1);
            self.judge();
            for w in &mut self.workers {
                w.poll_to(self.now);
            }
        }
    }

    /// The management core's part of the defences, once a second.
    fn judge(&mut self) {
        if self.now.since(self.judged) >= Tick::PER_SECOND {
            self.judged = self.now;
            self.workers.iter().for_each(Worker::tell_fill);
            if self.plane.judge().drop_entry {
                self.plane.drop_templates(self.now);
            }
        }
    }

    /// Whether it matters in which tick of a pause something happens.
    fn is_timed(&self) -> bool {
        let snapshot = self.plane.snapshot.load();
        let sysctls = &snapshot.services.sysctls;
        let judged = sysctls.drop_entry != Mode::Off
            || [sysctls.drop_packet, sysctls.secure_tcp].contains(&Mode::Automatic);
        if judged && self.counters().any(|c| c.connections.get() > 0) {
            return true;
        }
        self.plane.templates.next_deadline().is_some()
            && self.counters().any(|c| c.connections.get() > 0)
    }

    /// All templates.
    #[must_use]
    pub fn templates(&self) -> Vec<TemplateRow> {
        super::list_templates(&self.plane.templates, self.now)
    }

    /// Ends the run: what still waits for a neighbour is dropped.
    pub fn finish(&mut self) {
        for w in &mut self.workers {
            w.stop();
        }
        self.settle();
        self.sweep();
    }

    fn settle(&mut self) {
        loop {
            let work: usize = self.workers.iter_mut().map(|w| w.poll_to(self.now)).sum();
            if work == 0 {
                return;
            }
        }
    }

    /// Takes what was transmitted since the last call, port by port.
    pub fn transmitted(&mut self, mut frame: impl FnMut(PortId, &[u8])) {
        for handles in &mut self.handles {
            for (port, handle) in handles.iter_mut().enumerate() {
                while let Some(bytes) = handle.pop() {
                    frame(PortId(u16::try_from(port).unwrap_or(u16::MAX)), &bytes);
                }
            }
        }
    }

    /// What the workers share with the management core.
    #[must_use]
    pub fn plane(&self) -> &Arc<Plane> {
        &self.plane
    }

    /// The published configuration.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.plane.snapshot.load_full()
    }

    /// The workers' counters.
    pub fn counters(&self) -> impl Iterator<Item = &WorkerCounters> + '_ {
        self.plane.workers.iter().map(|w| &w.counters)
    }

    /// Buffers that are in use.
    #[must_use]
    pub fn buffers_in_use(&self) -> usize {
        self.buffers - self.pool.available()
    }

    /// All connections, in the order of workers and tables.
    pub fn connections(&mut self) -> Vec<ConnRow> {
        let mut rows = Vec::new();
        for w in &mut self.workers {
            list::<V4>(w, Af::V4, self.now, &mut rows);
            list::<V6>(w, Af::V6, self.now, &mut rows);
        }
        rows
    }

    /// What the connection tables say of a server's counts: (active, all). For the check that the shared counts are true.
    pub fn walk(&mut self, dest: DestId) -> (u32, u32) {
        let rows = self.connections();
        let own: Vec<_> = rows.iter().filter(|r| r.dest_id == Some(dest)).collect();
        let active = own.iter().filter(|r| r.flags & flag::INACTIVE == 0).count();
        (
            u32::try_from(active).unwrap_or(u32::MAX),
            u32::try_from(own.len()).unwrap_or(u32::MAX),
        )
    }
}

fn list<F: Side>(worker: &mut Worker<MemIo>, af: Af, now: Tick, rows: &mut Vec<ConnRow>) {
    let mut page = ConnPage {
        af,
        cursor: 0,
        rows: Vec::with_capacity(1024),
        done: false,
    };
    while !page.done {
        page.rows.clear();
        super::list::<F>(worker.director_mut(), &mut page, now);
        rows.append(&mut page.rows);
        page.rows.reserve(1024);
    }
}

/// A snapshot with nothing but the configuration's own routes and neighbours.
///
/// # Errors
/// [`BuildError`]; the registry is unchanged then.
pub fn static_snapshot(
    registry: &mut Registry,
    setup: &Setup,
    previous: Option<&Snapshot>,
) -> Result<Snapshot, BuildError> {
    let oldest = previous.map_or(0, |s| s.generation);
    let services = registry.build(setup, previous.map(|s| &*s.services), oldest)?;
    let dests: Vec<_> = services
        .dests
        .iter()
        .flatten()
        .map(|d| (d.id, d.addr))
        .collect();
    let macs = vec![None; setup.ports.len()];
    let fib = Fib::build(
        registry.generation(),
        &FibInput {
            ports: &setup.ports,
            macs: &macs,
            routes: &setup.routes,
            neighbours: &setup.neighbours,
            dests: &dests,
        },
    );
    Ok(Snapshot {
        generation: registry.generation(),
        services: Arc::new(services),
        fib: Arc::new(fib),
        ports: setup.ports.clone().into(),
    })
}
