//! `--clock wall`: the benchmark. One thread a worker, frames from memory, what is sent is swallowed.
//!
//! Frames are dealt to the workers by their addresses and ports, as a device that spreads flows over its queues would;
//! what then belongs to another worker is handed over, as on the appliance.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::report::{Durations, Report};
use super::{Finished, Options, ReplayError, input};
use crate::forward::{PortId, Setup};
use crate::io::PacketIo;
use crate::io::mem::{BenchIo, Frames, MemPool};
use crate::net::{Family, FlowKey, HashKey, L3, Tick, parse};
use crate::worker::assemble::{self, PortParts};
use crate::worker::lockstep::StartError;
use crate::worker::{Defence, Plane, SyncDuty, Worker};

/// Bytes of captures that are held in memory.
const MEMORY_MAX: usize = 4 << 30;
/// Buffers of each worker.
const BUFFERS: usize = 4096;

/// How often templates whose time is over are ended.
const SWEEP: Duration = Duration::from_millis(100);

/// Frames for each worker and port, in order.
type Dealt = Vec<Vec<Vec<Vec<u8>>>>;

pub(super) fn run(
    setup: &Setup,
    options: &Options,
    inputs: &[(PortId, PathBuf)],
    rate: Option<u64>,
) -> Result<Finished, ReplayError> {
    let mut merge = input::Merge::open(inputs).map_err(ReplayError::Input)?;
    let dealt = deal(&mut merge, setup.ports.len(), options.workers)?;
    let frames: u64 = dealt.iter().flatten().map(|f| f.len() as u64).sum();
    let (plane, workers) = prepare(setup, options, dealt)?;
    let per_worker = rate.map(|pps| (pps / options.workers as u64).max(1));
    let wall = race(workers, per_worker, &plane, frames * options.repeat);
    let wall_s = wall.as_secs_f64();
    let took = Durations {
        duration_s: wall_s,
        wall_s,
    };
    let mut report = Report::new(&plane, took);
    rate_workers(&mut report, wall_s);
    Ok(Finished {
        report,
        cut: merge.failure().map(|e| e.to_string()),
    })
}

/// Reads all captures and deals the frames out.
fn deal(merge: &mut input::Merge, ports: usize, workers: usize) -> Result<Dealt, ReplayError> {
    let key = HashKey::from_seed(0);
    let mut dealt: Dealt = (0..workers).map(|_| vec![Vec::new(); ports]).collect();
    let mut bytes = 0;
    let mut frame = Vec::new();
    while let Some((port, _)) = merge.next(&mut frame) {
        bytes += frame.len() + size_of::<Vec<u8>>();
        if bytes > MEMORY_MAX {
            return Err(ReplayError::TooMuch { limit: MEMORY_MAX });
        }
        let worker = spread(&frame, &key, workers);
        dealt[worker][usize::from(port.0)].push(frame.clone());
    }
    Ok(dealt)
}

/// The worker whose queue a frame comes to: by the flow, alike in both directions.
#[allow(clippy::cast_possible_truncation)]
fn spread(frame: &[u8], key: &HashKey, workers: usize) -> usize {
    fn hash<F: Family>(flow: &FlowKey<F>, key: &HashKey) -> u64 {
        F::hash(flow, key) ^ F::hash(&flow.reversed(), key)
    }
    let hash = match parse(frame).map(|p| p.l3) {
        Ok(L3::V4(ip)) => hash(&ip.flow, key),
        Ok(L3::V6(ip)) => hash(&ip.flow, key),
        _ => 0,
    };
    (hash % workers as u64) as usize
}

type Prepared = (Arc<Plane>, Vec<Worker<BenchIo>>);

fn prepare(setup: &Setup, options: &Options, dealt: Dealt) -> Result<Prepared, ReplayError> {
    let n = options.workers;
    let mut registry = crate::forward::Registry::new(
        options.sizes.services,
        options.sizes.servers,
        options.sizes.seed,
    );
    let snapshot = crate::worker::lockstep::static_snapshot(&mut registry, setup, None)
        .map_err(|e| ReplayError::Start(StartError::Build(e)))?;
    let plane = Arc::new(Plane {
        snapshot: ArcSwap::from_pointee(snapshot),
        workers: assemble::shared(n, &[], &options.sizes),
        templates: assemble::templates(&options.sizes)
            .map_err(|e| ReplayError::Start(StartError::Table(e)))?,
        stop: AtomicBool::new(false),
        defence: Defence::default(),
        connections_capacity: options.sizes.connections as u64,
        sync: SyncDuty::default(),
    });
    plane.judge();
    let largest = setup
        .ports
        .iter()
        .map(|p| usize::from(p.mtu))
        .max()
        .unwrap_or(0);
    let mut ports: Vec<Vec<Option<BenchIo>>> = setup.ports.iter().map(|_| Vec::new()).collect();
    for worker in dealt {
        let pool = MemPool::with_large(BUFFERS, (largest + 64).max(2048), 64);
        for (port, frames) in worker.into_iter().enumerate() {
            let limit = (frames.len() as u64).saturating_mul(options.repeat);
            let io = BenchIo::new(frames.into_iter().collect::<Frames>(), &pool).with_limit(limit);
            ports[port].push(Some(io));
        }
    }
    let parts = ports.into_iter().map(PortParts::plain).collect();
    let directors = assemble::directors(setup, n, &options.sizes)
        .map_err(|e| ReplayError::Start(StartError::Table(e)))?;
    let workers = assemble::workers(&plane, directors, parts, true);
    Ok((plane, workers))
}

/// Runs all workers until every frame has met its fate. Returns the time of the slowest.
fn race<I: PacketIo + 'static>(
    workers: Vec<Worker<I>>,
    rate: Option<u64>,
    plane: &Arc<Plane>,
    frames: u64,
) -> Duration {
    let start = Arc::new(Barrier::new(workers.len() + 1));
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let threads: Vec<_> = workers
        .into_iter()
        .enumerate()
        .map(|(i, mut worker)| {
            let (start, plane) = (Arc::clone(&start), Arc::clone(plane));
            // From the last processor down: the first has the interrupts and everybody else.
            let core = cores.iter().rev().cycle().nth(i).copied();
            std::thread::spawn(move || {
                if let Some(core) = core {
                    core_affinity::set_for_current(core);
                }
                start.wait();
                drive(&mut worker, rate, &plane);
                worker
            })
        })
        .collect();
    start.wait();
    let began = Instant::now();
    let sum = |f: fn(&crate::table::WorkerCounters) -> u64| {
        plane.workers.iter().map(|w| f(&w.counters)).sum::<u64>()
    };
    let mut last = (0, Instant::now());
    let mut swept = began;
    // Frames that no buffer holds are never given out, so the end is also where nothing moves any more.
    loop {
        std::thread::sleep(Duration::from_millis(1));
        let received = sum(|c| c.received.get());
        let idle = received == last.0 && last.1.elapsed() > Duration::from_secs(2);
        if received >= frames || idle {
            break;
        }
        if received != last.0 {
            last = (received, Instant::now());
        }
        // The management core's work, by the management core's clock.
        if swept.elapsed() >= SWEEP {
            swept = Instant::now();
            plane.sweep_templates(plane.now());
        }
    }
    let took = began.elapsed();
    plane.stop.store(true, Ordering::Release);
    let mut workers: Vec<_> = threads
        .into_iter()
        .map(|t| t.join().expect("a worker never panics"))
        .collect();
    // What is still between two workers.
    for _ in 0..2 {
        for worker in &mut workers {
            worker.poll(Tick::from_elapsed(took));
        }
    }
    for worker in &mut workers {
        worker.stop();
    }
    plane.sweep_templates(plane.now());
    took
}

/// One worker's loop.
fn drive<I: PacketIo>(worker: &mut Worker<I>, rate: Option<u64>, plane: &Plane) {
    let began = Instant::now();
    let mut done: u64 = 0;
    let mut now = Tick(0);
    let mut polls = 0u32;
    while !plane.stop.load(Ordering::Relaxed) {
        // Ticks are 10 ms; looking at the clock every 16 polls is a few microseconds of error.
        if polls.is_multiple_of(16) || rate.is_some() {
            now = Tick::from_elapsed(began.elapsed());
        }
        polls = polls.wrapping_add(1);
        if let Some(pps) = rate {
            let due = began.elapsed().as_secs_f64() * pps as f64;
            if done as f64 > due {
                std::hint::spin_loop();
                continue;
            }
        }
        done += worker.poll(now) as u64;
    }
}

/// Puts each worker's own rates into the report.
#[allow(clippy::cast_precision_loss)]
fn rate_workers(report: &mut Report, wall_s: f64) {
    let ghz = cpu_ghz();
    for w in &mut report.workers {
        if w.received > 0 {
            w.ns_per_packet = wall_s * 1e9 / w.received as f64;
            w.mpps = 1e3 / w.ns_per_packet;
            w.cycles_per_packet = w.ns_per_packet * ghz;
        }
    }
}

/// The processor's nominal frequency in GHz as the system tells it; 0 where it does not.
fn cpu_ghz() -> f64 {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("cpu MHz"));
    let mhz = line
        .and_then(|l| l.split(':').nth(1))
        .and_then(|v| v.trim().parse::<f64>().ok());
    mhz.unwrap_or(0.0) / 1e3
}
