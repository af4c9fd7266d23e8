//! Watches that workers live and how busy they are.
//!
//! Knows no clock: callers pass `now`. A worker lives while its heartbeat, the tick of its last poll, moves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::worker::WorkerShared;

/// A worker whose heartbeat stood still for longer than this is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(2);

/// Busy ratios are taken over at least this long.
const RATIO_OVER: Duration = Duration::from_secs(1);

/// How a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It polls.
    Running,
    /// It has not polled for so long.
    Stuck(Duration),
    /// It has stopped.
    Stopped,
}

impl Life {
    /// The word in listings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stuck(_) => "stuck",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    heartbeat: u32,
    moved_at: Instant,
    busy: u64,
    idle: u64,
    sampled_at: Instant,
    busy_ratio: f64,
}

/// What was last seen of every worker.
#[derive(Clone, Debug)]
pub struct Watch {
    seen: Vec<Seen>,
}

impl Watch {
    /// Starts to watch. Workers have [`STUCK_AFTER`] from `now` for their first poll.
    #[must_use]
    pub fn new(workers: &[Arc<WorkerShared>], now: Instant) -> Self {
        let seen = |w: &Arc<WorkerShared>| Seen {
            heartbeat: w.heartbeat.load(Ordering::Relaxed),
            moved_at: now,
            busy: w.counters.busy_cycles.get(),
            idle: w.counters.idle_cycles.get(),
            sampled_at: now,
            busy_ratio: 0.0,
        };
        Self {
            seen: workers.iter().map(seen).collect(),
        }
    }

    /// Looks at every worker.
    pub fn observe(&mut self, workers: &[Arc<WorkerShared>], now: Instant) {
        for (seen, w) in self.seen.iter_mut().zip(workers) {
            let heartbeat = w.heartbeat.load(Ordering::Relaxed);
            if heartbeat != seen.heartbeat {
                seen.heartbeat = heartbeat;
                seen.moved_at = now;
            }
            if now.saturating_duration_since(seen.sampled_at) >= RATIO_OVER {
                let (busy, idle) = (w.counters.busy_cycles.get(), w.counters.idle_cycles.get());
                seen.busy_ratio = ratio(busy.wrapping_sub(seen.busy), idle.wrapping_sub(seen.idle));
                (seen.busy, seen.idle, seen.sampled_at) = (busy, idle, now);
            }
        }
    }

    /// How a worker is, by what was last observed and its heartbeat now.
    #[must_use]
    pub fn life(&self, worker: &WorkerShared, now: Instant) -> Life {
        if worker.stopped.load(Ordering::Acquire) {
            return Life::Stopped;
        }
        let Some(seen) = self.seen.get(worker.id) else {
            return Life::Running;
        };
        let still = now.saturating_duration_since(seen.moved_at);
        if worker.heartbeat.load(Ordering::Relaxed) == seen.heartbeat && still > STUCK_AFTER {
            Life::Stuck(still)
        } else {
            Life::Running
        }
    }

    /// Share of a worker's time that found work, 0 to 1.
    #[must_use]
    pub fn busy_ratio(&self, worker: usize) -> f64 {
        self.seen.get(worker).map_or(0.0, |s| s.busy_ratio)
    }
}

fn ratio(busy: u64, idle: u64) -> f64 {
    match busy.saturating_add(idle) {
        0 => 0.0,
        all => busy as f64 / all as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_stuck_when_its_heartbeat_stands_still_and_lives_again_when_it_moves() {
        let workers = [Arc::new(WorkerShared::new(0, None, 0, 0))];
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut watch = Watch::new(&workers, start);
        assert_eq!(watch.life(&workers[0], at(2)), Life::Running);
        assert_eq!(
            watch.life(&workers[0], at(3)),
            Life::Stuck(Duration::from_secs(3))
        );
        workers[0].heartbeat.store(7, Ordering::Relaxed);
        assert_eq!(watch.life(&workers[0], at(3)), Life::Running);
        watch.observe(&workers, at(3));
        assert_eq!(watch.life(&workers[0], at(5)), Life::Running);
        assert!(matches!(watch.life(&workers[0], at(6)), Life::Stuck(_)));
        workers[0].stopped.store(true, Ordering::Release);
        assert_eq!(watch.life(&workers[0], at(6)), Life::Stopped);
    }

    #[test]
    fn the_busy_ratio_is_of_the_last_second_and_not_of_all_time() {
        let workers = [Arc::new(WorkerShared::new(0, None, 0, 0))];
        let start = Instant::now();
        let mut watch = Watch::new(&workers, start);
        workers[0].counters.idle_cycles.add(1_000_000);
        watch.observe(&workers, start + Duration::from_secs(1));
        assert_eq!(watch.busy_ratio(0), 0.0);
        workers[0].counters.busy_cycles.add(300);
        workers[0].counters.idle_cycles.add(100);
        watch.observe(&workers, start + Duration::from_millis(1500));
        assert_eq!(watch.busy_ratio(0), 0.0);
        watch.observe(&workers, start + Duration::from_secs(2));
        assert_eq!(watch.busy_ratio(0), 0.75);
    }
}
