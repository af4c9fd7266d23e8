//! The appliance: workers on their cores, and the management core around them, from start to stop.
//!
//! Knows no kind of device: it is given open ports ([`OpenPort`]), which `cli::run` opens with DPDK and tests make of
//! memory. Invariant: whatever was started is stopped when [`run`] returns, also when the start failed half-way.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::control::ControlServer;
use super::kernel::{KernelError, Mirror, Tap, TapError, Targets, tap_name};
use super::manager::{
    Loaded, Loader, Manager, Options, PortStatsSource, Shared, empty_snapshot, lock,
};
use super::metrics::{Detail, MetricsServer};
use super::sync::tables::Tables;
use super::sync::takeover::Inheritance;
use super::sync::{SyncControl, task};
use crate::forward::{PortId, Prefix, Snapshot, Way};
use crate::io::PacketIo;
use crate::net::{Mac, PacketBuf, Tick};
use crate::worker::assemble::{self, PortParts, Sizes};
use crate::worker::{Defence, Plane, Ring, SyncDuty, Worker};

/// How often the management core looks at the rings of the exception path. The kernel's answers are late by so much.
const PUMP: Duration = Duration::from_millis(1);
/// Frames moved to the kernel from one port at each look.
const PUMP_BURST: usize = 256;
/// How often snapshots are reaped and workers watched.
const HOUSEKEEPING: Duration = Duration::from_millis(200);
/// Polls without work after which a worker that may sleep does.
const IDLE_POLLS: u32 = 256;

/// Makes a frame of these bytes in a device's buffer, if it has one.
pub type FrameMaker<B> = Box<dyn Fn(&[u8]) -> Option<B>>;

/// A port whose device is open.
pub struct OpenPort<I: PacketIo> {
    /// Its queues, in the workers' order.
    pub queues: Vec<Option<I>>,
    /// The MAC address that the device has.
    pub mac: Mac,
    /// Makes a frame of these bytes in a buffer of the device's, for the management core.
    pub frame: FrameMaker<I::Buf>,
}

impl<I: PacketIo> fmt::Debug for OpenPort<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenPort")
            .field("mac", &self.mac)
            .finish_non_exhaustive()
    }
}

/// What a worker's thread holds while it lives: a registration with a library, for instance.
pub type ThreadGuard = Box<dyn Fn() -> Result<Box<dyn std::any::Any>, String> + Send + Sync>;

/// What an appliance is started with.
pub struct Start<I: PacketIo> {
    /// The configuration, as loaded.
    pub loaded: Loaded,
    /// Its file.
    pub config_path: PathBuf,
    /// Loads it again.
    pub loader: Loader,
    /// Open ports in the configuration's order.
    pub ports: Vec<OpenPort<I>>,
    /// Tells the ports' counters.
    pub port_stats: PortStatsSource,
    /// Processors of the workers; their number is the number of workers.
    pub cores: Vec<usize>,
    /// Capacities and secrets.
    pub sizes: Sizes,
    /// How long a worker that finds no work sleeps; zero for never, as on cores of its own.
    pub idle_sleep: Duration,
    /// Taken by every worker's thread for as long as it lives.
    pub thread_guard: ThreadGuard,
    /// Path of the control socket.
    pub control: PathBuf,
    /// What a process before this one had.
    pub inherited: Inheritance,
    /// Where metrics are served, and how fine.
    pub metrics: (std::net::SocketAddr, Detail),
}

impl<I: PacketIo> fmt::Debug for Start<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("config_path", &self.config_path)
            .finish_non_exhaustive()
    }
}

/// Why the appliance did not start, or ended.
#[derive(Debug)]
pub enum RunError {
    /// The configuration can't be published.
    Config(Vec<String>),
    /// The tables' memory can't be had.
    Tables(crate::table::TableError),
    /// A port's kernel interface can't be made.
    Tap {
        /// The port.
        port: String,
        /// Why.
        error: TapError,
    },
    /// The kernel's tables can't be followed, or its addresses set.
    Kernel(KernelError),
    /// A listener or the runtime can't be had; a sentence.
    Listen(String),
    /// A worker could not start.
    Worker(String),
    /// A worker died. The others were stopped.
    Died {
        /// Its number.
        worker: usize,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(problems) => f.write_str(&problems.join("\n")),
            Self::Tables(e) => write!(
                f,
                "{e}; set `limits.connections` or `limits.templates` lower"
            ),
            Self::Tap { port, error } => write!(f, "port `{port}`: {error}"),
            Self::Kernel(e) => e.fmt(f),
            Self::Listen(sentence) | Self::Worker(sentence) => f.write_str(sentence),
            Self::Died { worker } => {
                write!(
                    f,
                    "worker {worker} died; the appliance was stopped. Please report this"
                )
            }
        }
    }
}

impl std::error::Error for RunError {}

/// Runs the appliance until `stop` is done. `ready` is called once traffic is taken.
///
/// The calling thread becomes the management core.
///
/// # Errors
/// See [`RunError`].
pub fn run<I: PacketIo + 'static>(
    start: Start<I>,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(&Shared),
) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| RunError::Listen(format!("the management core's runtime can't start: {e}")))?;
    // Tasks are not Send: they hold the ports' buffers and allocators, which stay on this thread.
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run_here(start, stop, ready))
}

async fn run_here<I: PacketIo + 'static>(
    start: Start<I>,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(&Shared),
) -> Result<(), RunError> {
    let Start {
        loaded,
        config_path,
        loader,
        ports,
        port_stats,
        cores,
        sizes,
        ..
    } = start;
    let setup = loaded.setup.clone();
    let sync = Arc::new(task::Control::new(
        loaded.sync.clone(),
        sizes.connections + sizes.templates,
    ));
    let control = ControlServer::bind(&start.control).map_err(RunError::Listen)?;
    // A process that was killed left it as it was. Nobody must believe it once the kernel's interfaces are back.
    task::tell_ready(&loaded.sync, false);
    let metrics = MetricsServer::bind(start.metrics.0)
        .await
        .map_err(RunError::Listen)?;
    let taps = make_taps(&setup, &ports)?;
    let interfaces: Vec<_> = taps
        .iter()
        .map(|(id, tap)| (*id, tap.name().to_owned()))
        .collect();
    let mirror = Mirror::start(&interfaces).await.map_err(RunError::Kernel)?;

    let directors = assemble::directors(&setup, cores.len(), &sizes).map_err(RunError::Tables)?;
    let plane = Arc::new(Plane {
        snapshot: ArcSwap::from_pointee(empty_snapshot()),
        workers: assemble::shared(cores.len(), &cores, &sizes),
        templates: assemble::templates(&sizes).map_err(RunError::Tables)?,
        stop: AtomicBool::new(false),
        defence: Defence::default(),
        connections_capacity: sizes.connections as u64,
        sync: SyncDuty {
            // What comes before the tables are filled waits in the ports' queues.
            deaf: AtomicBool::new(!start.inherited.is_empty()),
            ..SyncDuty::default()
        },
    });
    let manager = Manager::new(
        Options {
            plane: Arc::clone(&plane),
            loaded,
            config_path,
            loader,
            port_stats,
            port_macs: ports.iter().map(|p| Some(p.mac)).collect(),
            seed: sizes.seed,
        },
        Instant::now(),
        SystemTime::now(),
    )
    .map_err(RunError::Config)?
    .shared();
    lock(&manager).set_sync_control(Arc::clone(&sync) as Arc<dyn SyncControl>);

    let mut parts = Vec::new();
    let mut frames = Vec::new();
    for (i, port) in ports.into_iter().enumerate() {
        let mut part = PortParts::plain(port.queues);
        if taps.iter().any(|(id, _)| usize::from(id.0) == i) {
            part.add_kernel_rings();
        }
        frames.push(Some((part.punts.clone(), part.injects.clone(), port.frame)));
        parts.push(part);
    }
    let workers = assemble::workers(&plane, directors, parts, false);
    mirror_now(&manager, &mirror)
        .await
        .map_err(RunError::Kernel)?;
    let threads = Threads::start(workers, &plane, start.idle_sleep, start.thread_guard)?;

    let (stopping, stopped) = watch::channel(false);
    let quit = || {
        let mut stopped = stopped.clone();
        async move {
            // An error means that the sender is gone, which is a stop, too.
            let _ = stopped.wait_for(|s| *s).await;
        }
    };
    let serve = {
        let control = control.serve(Arc::clone(&manager), quit());
        let metrics = metrics.serve(Arc::clone(&manager), start.metrics.1, quit());
        tokio::task::spawn_local(async move { tokio::join!(control, metrics) })
    };
    let mut tasks = Vec::new();
    let mirror = Rc::new(mirror);
    for (id, tap) in taps {
        let port = usize::from(id.0);
        let Some((Some(punts), Some(injects), frame)) = frames[port].take() else {
            continue;
        };
        let tap = Rc::new(tap);
        tasks.push(tokio::task::spawn_local(to_kernel(punts, Rc::clone(&tap))));
        let mtu = setup.ports[port].mtu;
        tasks.push(tokio::task::spawn_local(from_kernel(
            injects, tap, frame, mtu,
        )));
    }
    tasks.push(tokio::task::spawn_local(follow_kernel(
        Arc::clone(&manager),
        Rc::clone(&mirror),
    )));
    tasks.push(tokio::task::spawn_local(resolve(
        Arc::clone(&plane),
        Rc::clone(&mirror),
    )));
    if !start.inherited.is_empty() {
        let (connections, templates) = start.inherited.counts();
        let tables = Tables::new(Arc::clone(&plane), sizes.owner_key());
        let lost = start.inherited.put(&plane, tables).await;
        plane.sync.deaf.store(false, Ordering::Relaxed);
        eprintln!(
            "polder took over {connections} connections and {templates} templates; {lost} of them found no place"
        );
    }
    let machine = task::Machine {
        plane: Arc::clone(&plane),
        owner_key: sizes.owner_key(),
        control: Arc::clone(&sync),
        entries_max: sizes.connections + sizes.templates,
    };
    tasks.push(tokio::task::spawn_local(machine.run()));
    ready(&manager);

    let died = supervise(&manager, &mirror, &threads, stop).await;
    if !manager_left(&manager) {
        task::tell_ready(&sync.settings(), false);
    }

    // Answers in progress get a moment; listings that wait for a worker end by themselves.
    let _ = stopping.send(true);
    plane.stop.store(true, Ordering::Release);
    let died = threads.join().or(died);
    for task in &tasks {
        task.abort();
    }
    for task in tasks {
        let _ = task.await;
    }
    let _ = tokio::time::timeout(Duration::from_secs(2), serve).await;
    if let Ok(mirror) = Rc::try_unwrap(mirror) {
        mirror.stop().await;
    }
    died.map_or(Ok(()), |worker| Err(RunError::Died { worker }))
}

/// Makes the kernel interfaces of the ports that are to have one.
fn make_taps<I: PacketIo>(
    setup: &crate::forward::Setup,
    ports: &[OpenPort<I>],
) -> Result<Vec<(PortId, Tap)>, RunError> {
    let mut taps = Vec::new();
    for (i, (def, open)) in setup.ports.iter().zip(ports).enumerate() {
        if !def.kernel_interface {
            continue;
        }
        let mac = def.mac.unwrap_or(open.mac);
        let tap =
            Tap::create(&tap_name(&def.name), mac, def.mtu).map_err(|error| RunError::Tap {
                port: def.name.clone(),
                error,
            })?;
        taps.push((PortId(u16::try_from(i).unwrap_or(u16::MAX)), tap));
    }
    Ok(taps)
}

/// The workers' threads.
struct Threads {
    plane: Arc<Plane>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts all workers. When this returns, every one polls.
    fn start<I: PacketIo + 'static>(
        workers: Vec<Worker<I>>,
        plane: &Arc<Plane>,
        idle_sleep: Duration,
        guard: ThreadGuard,
    ) -> Result<Self, RunError> {
        let guard: Arc<ThreadGuard> = Arc::new(guard);
        let (started, starts) = std::sync::mpsc::channel();
        let began = Instant::now();
        let mut all = Self {
            plane: Arc::clone(plane),
            threads: Vec::new(),
        };
        let n = workers.len();
        for (id, worker) in workers.into_iter().enumerate() {
            let (plane, guard, started) = (Arc::clone(plane), Arc::clone(&guard), started.clone());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{id}"))
                .spawn(move || {
                    let body = AssertUnwindSafe(|| {
                        work(worker, id, &plane, began, idle_sleep, &guard, &started);
                    });
                    // A panic ends this worker only; the management core sees that it has stopped, and stops the rest.
                    let _ = std::panic::catch_unwind(body);
                    plane.workers[id].stopped.store(true, Ordering::Release);
                });
            match thread {
                Ok(t) => all.threads.push(t),
                Err(e) => {
                    all.stop();
                    return Err(RunError::Worker(format!(
                        "worker {id} can't be started: {e}"
                    )));
                }
            }
        }
        drop(started);
        for _ in 0..n {
            let failure = match starts.recv() {
                Ok(Ok(())) => continue,
                Ok(Err(sentence)) => sentence,
                Err(_) => "a worker died as it started".to_owned(),
            };
            all.stop();
            return Err(RunError::Worker(failure));
        }
        Ok(all)
    }

    /// The number of a worker that has ended, if one has.
    fn ended(&self) -> Option<usize> {
        self.threads.iter().position(JoinHandle::is_finished)
    }

    fn stop(self) {
        self.plane.stop.store(true, Ordering::Release);
        self.join();
    }

    /// Waits for all workers. Returns the number of one whose thread panicked beyond repair.
    fn join(self) -> Option<usize> {
        let mut died = None;
        for (id, thread) in self.threads.into_iter().enumerate() {
            if thread.join().is_err() {
                died.get_or_insert(id);
            }
        }
        died
    }
}

/// One worker's thread.
fn work<I: PacketIo>(
    mut worker: Worker<I>,
    id: usize,
    plane: &Plane,
    began: Instant,
    idle_sleep: Duration,
    guard: &ThreadGuard,
    started: &std::sync::mpsc::Sender<Result<(), String>>,
) {
    let shared = &plane.workers[id];
    let result = pin(shared.core).and_then(|()| guard());
    let guard = match result {
        Ok(guard) => guard,
        Err(e) => {
            let _ = started.send(Err(format!("worker {id}: {e}")));
            return;
        }
    };
    let _ = started.send(Ok(()));
    let counters = &shared.counters;
    let mut last = Instant::now();
    let mut idle_polls = 0;
    while !plane.stop.load(Ordering::Relaxed) {
        let work = worker.poll(Tick::from_elapsed(last.duration_since(began)));
        let now = Instant::now();
        let spent = u64::try_from((now - last).as_nanos()).unwrap_or(u64::MAX);
        last = now;
        counters.polls.inc();
        if work > 0 {
            counters.busy_cycles.add(spent);
            idle_polls = 0;
        } else {
            counters.idle_cycles.add(spent);
            idle_polls += 1;
            if !idle_sleep.is_zero() && idle_polls > IDLE_POLLS {
                std::thread::sleep(idle_sleep);
            }
        }
    }
    worker.stop();
    // Buffers go back to their pools while the thread is still registered with whoever owns those.
    drop(worker);
    drop(guard);
}

/// Pins the calling thread to a processor.
fn pin(core: Option<usize>) -> Result<(), String> {
    let Some(core) = core else { return Ok(()) };
    if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        Ok(())
    } else {
        Err(format!(
            "can't be pinned to processor {core}; `dpdk.cores` must name processors that this process may use \
             (see `taskset -p $$`)"
        ))
    }
}

/// Housekeeping until it is time to stop. Returns a worker that died.
async fn supervise(
    manager: &Shared,
    mirror: &Mirror,
    threads: &Threads,
    stop: impl Future<Output = ()>,
) -> Option<usize> {
    let mut stop = std::pin::pin!(stop);
    let mut ticks = interval(HOUSEKEEPING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut mirrored = lock(manager).generation();
    loop {
        tokio::select! {
            () = &mut stop => return None,
            _ = ticks.tick() => {}
        }
        lock(manager).tick(Instant::now());
        if manager_left(manager) {
            return None;
        }
        if let Some(worker) = threads.ended() {
            return Some(worker);
        }
        let generation = lock(manager).generation();
        if generation != mirrored {
            // What the kernel refuses now it may take later; it is in the mirror's statistics.
            if mirror_now(manager, mirror).await.is_ok() {
                mirrored = generation;
            }
        }
    }
}

/// Whether another process has taken over.
fn manager_left(manager: &Shared) -> bool {
    lock(manager).plane().sync.leave.load(Ordering::Relaxed)
}

/// Tells the kernel which addresses are ours and whose neighbours to keep fresh.
async fn mirror_now(manager: &Shared, mirror: &Mirror) -> Result<(), KernelError> {
    let (addresses, targets) = {
        let manager = lock(manager);
        let snapshot = manager.plane().snapshot.load();
        (wanted_addresses(&snapshot), wanted_neighbours(&snapshot))
    };
    mirror.set_targets(targets).await?;
    mirror.set_addresses(addresses).await
}

/// The ports' own addresses with their prefixes, and each virtual address on the port of its network, or else on the
/// first port that the kernel has an interface of.
fn wanted_addresses(snapshot: &Snapshot) -> Vec<(PortId, Prefix)> {
    let kernel_ports: Vec<_> = snapshot
        .ports
        .iter()
        .enumerate()
        .filter(|(_, p)| p.kernel_interface)
        .map(|(i, p)| (PortId(u16::try_from(i).unwrap_or(u16::MAX)), p))
        .collect();
    let mut wanted: Vec<_> = kernel_ports
        .iter()
        .flat_map(|(id, p)| p.addresses.iter().map(|a| (*id, *a)))
        .collect();
    for addr in virtual_addresses(snapshot) {
        let home = kernel_ports
            .iter()
            .find(|(_, p)| p.addresses.iter().any(|a| covers(a, addr)))
            .or_else(|| kernel_ports.first());
        let own = wanted.iter().any(|(_, p)| p.addr == addr);
        if let (Some((id, _)), false) = (home, own) {
            let len = if addr.is_ipv4() { 32 } else { 128 };
            wanted.push((*id, Prefix { addr, len }));
        }
    }
    wanted
}

fn virtual_addresses(snapshot: &Snapshot) -> Vec<IpAddr> {
    let v4 = snapshot.services.v4.virtual_addrs().map(IpAddr::from);
    let v6 = snapshot.services.v6.virtual_addrs().map(IpAddr::from);
    let mut all: Vec<_> = v4.chain(v6).collect();
    all.sort_unstable();
    all
}

fn covers(prefix: &Prefix, addr: IpAddr) -> bool {
    let (net, own) = match (prefix.addr, addr) {
        (IpAddr::V4(p), IpAddr::V4(a)) => (
            u128::from(u32::from(p)) << 96,
            u128::from(u32::from(a)) << 96,
        ),
        (IpAddr::V6(p), IpAddr::V6(a)) => (p.into(), a.into()),
        _ => return false,
    };
    let mask = u128::MAX
        .checked_shl(128 - u32::from(prefix.len))
        .unwrap_or(0);
    net & mask == own & mask
}

/// Real servers, and the next hops that only the configuration knows.
fn wanted_neighbours(snapshot: &Snapshot) -> Targets {
    let servers: Vec<_> = snapshot
        .services
        .dests
        .iter()
        .flatten()
        .filter(|d| d.available)
        .map(|d| d.addr)
        .collect();
    let next_hops = servers
        .iter()
        .filter_map(|addr| match snapshot.fib.way_to(*addr) {
            Way::Unresolved { port, next_hop } => Some((port, next_hop)),
            _ => None,
        })
        .collect();
    Targets { servers, next_hops }
}

/// Moves punted frames to the kernel.
async fn to_kernel<B: PacketBuf>(punts: Ring<B>, tap: Rc<Tap>) {
    let mut ticks = interval(PUMP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        for _ in 0..PUMP_BURST {
            let Some(buf) = punts.pop() else { break };
            // A frame that the kernel has no room for is lost, as on a wire.
            let _ = tap.try_send(buf.data());
        }
    }
}

/// Moves the kernel's frames to the worker that sends them.
async fn from_kernel<B: PacketBuf>(injects: Ring<B>, tap: Rc<Tap>, frame: FrameMaker<B>, mtu: u16) {
    let mut bytes = vec![0; usize::from(mtu) + 22];
    loop {
        match tap.recv(&mut bytes).await {
            Ok(n) => {
                if let Some(buf) = frame(&bytes[..n]) {
                    // A full ring loses the frame, as a full queue of a device would.
                    drop(injects.push(buf));
                }
            }
            // The interface was deleted by somebody; without it there is nothing to move.
            Err(_) => tokio::time::sleep(HOUSEKEEPING).await,
        }
    }
}

/// Publishes what the kernel knows whenever it changes.
async fn follow_kernel(manager: Shared, mirror: Rc<Mirror>) {
    let mut view = mirror.view();
    view.mark_changed();
    while view.changed().await.is_ok() {
        let now = Arc::clone(&view.borrow_and_update());
        lock(&manager).set_kernel_view(now.routes.clone(), now.neighbours.clone());
    }
}

/// Passes the workers' wishes for neighbours on to the kernel.
async fn resolve(plane: Arc<Plane>, mirror: Rc<Mirror>) {
    let mut ticks = interval(PUMP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        for worker in &plane.workers {
            while let Some((port, addr)) = worker.resolve.pop() {
                mirror.resolve(port, addr);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_its_own_network_and_family_only() {
        let p = |s: &str, len| Prefix {
            addr: s.parse().expect("address"),
            len,
        };
        let a = |s: &str| s.parse::<IpAddr>().expect("address");
        assert!(covers(&p("192.0.2.10", 24), a("192.0.2.200")));
        assert!(!covers(&p("192.0.2.10", 24), a("192.0.3.1")));
        assert!(covers(&p("0.0.0.0", 0), a("203.0.113.1")));
        assert!(covers(&p("2001:db8::1", 64), a("2001:db8::ffff")));
        assert!(!covers(&p("2001:db8::1", 64), a("192.0.2.1")));
    }
}
