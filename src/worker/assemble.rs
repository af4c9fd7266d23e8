//! Putting workers together: the rings between them, and who transmits where a device has fewer queues than there are
//! workers.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::Worker;
use super::outbound::{Moved, Ring, Wiring};
use super::shared::{Plane, WorkerShared};
use crate::forward::{Director, DirectorConfig, Setup};
use crate::io::PacketIo;
use crate::net::{Af, HashKey};
use crate::table::{TableError, Templates};

/// Frames that may wait between two workers.
pub const HANDOVER_RING: usize = 1024;
/// Frames that may wait for the kernel's interface, or from it, per port.
pub const KERNEL_RING: usize = 1024;

/// Capacities and secrets of all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Connections of all workers together.
    pub connections: usize,
    /// Persistence templates, which all workers share.
    pub templates: usize,
    /// Service slots.
    pub services: usize,
    /// Real server slots.
    pub servers: usize,
    /// Keys everything that must not be guessed. Random on the appliance, given in replay.
    pub seed: u64,
}

impl Sizes {
    /// The secret by which connections belong to workers and sessions have their numbers.
    #[must_use]
    pub fn owner_key(&self) -> HashKey {
        self.secret(1)
    }

    fn secret(&self, n: u64) -> HashKey {
        HashKey::from_seed(self.seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// One port's queues, and its rings to and from the kernel's interface.
#[derive(Debug)]
pub struct PortParts<I: PacketIo> {
    /// By worker; a device with fewer queues than workers has `None` for the rest. The first is always there.
    pub queues: Vec<Option<I>>,
    /// To the kernel's interface, if the port has one.
    pub punts: Option<Ring<I::Buf>>,
    /// From the kernel's interface, if the port has one; read by the first worker.
    pub injects: Option<Ring<I::Buf>>,
}

impl<I: PacketIo> PortParts<I> {
    /// A port without a kernel interface.
    #[must_use]
    pub fn plain(queues: Vec<Option<I>>) -> Self {
        Self {
            queues,
            punts: None,
            injects: None,
        }
    }

    /// Gives the port rings to and from the kernel's interface.
    pub fn add_kernel_rings(&mut self) {
        self.punts = Some(Arc::new(ArrayQueue::new(KERNEL_RING)));
        self.injects = Some(Arc::new(ArrayQueue::new(KERNEL_RING)));
    }
}

/// Directors for `workers` workers.
///
/// The connections are divided among the workers evenly. A family without a service gets a sixteenth of a worker's, so
/// that a reload may bring one; where both have services each gets half.
///
/// # Errors
/// When the memory can't be had.
pub fn directors(
    setup: &Setup,
    workers: usize,
    sizes: &Sizes,
) -> Result<Vec<Director>, TableError> {
    let own = sizes.connections.div_ceil(workers).max(2);
    let has = |af| setup.services.iter().any(|s| s.af() == af);
    let (v4, v6) = match (has(Af::V4), has(Af::V6)) {
        (true, true) => (own / 2, own / 2),
        (false, true) => ((own / 16).max(1), own),
        _ => (own, (own / 16).max(1)),
    };
    let seed = |n: u64| sizes.secret(n);
    (0..workers)
        .map(|worker| {
            Director::new(DirectorConfig {
                worker,
                workers,
                connections4: v4,
                connections6: v6,
                services: sizes.services,
                table_key: seed(worker as u64 + 2),
                owner_key: sizes.owner_key(),
            })
        })
        .collect()
}

/// Workers over the ports' queues, wired to each other.
///
/// # Panics
/// When a port has no queue for the first worker, or the plane has not as many workers as there are directors.
#[must_use]
pub fn workers<I: PacketIo>(
    plane: &Arc<Plane>,
    directors: Vec<Director>,
    mut ports: Vec<PortParts<I>>,
    punt_nowhere: bool,
) -> Vec<Worker<I>> {
    let n = directors.len();
    assert_eq!(plane.workers.len(), n, "one shared part for each worker");
    let rings: Vec<Vec<Ring<Moved<I::Buf>>>> = (0..n)
        .map(|_| {
            (0..n)
                .map(|_| Arc::new(ArrayQueue::new(HANDOVER_RING)))
                .collect()
        })
        .collect();
    if let Some(first) = directors.first() {
        // All have the same.
        let _ = plane.sync.places.set(first.places());
    }
    directors
        .into_iter()
        .enumerate()
        .map(|(me, director)| {
            let ring = |from: usize, to: usize| (from != to).then(|| Arc::clone(&rings[from][to]));
            let mut wiring = Wiring {
                queues: Vec::new(),
                tx_worker: Vec::new(),
                to_workers: (0..n).map(|to| ring(me, to)).collect(),
                from_workers: (0..n).map(|from| ring(from, me)).collect(),
                punts: Vec::new(),
                injects: Vec::new(),
                punt_nowhere,
            };
            for port in &mut ports {
                assert!(
                    me > 0 || port.queues[0].is_some(),
                    "a port has at least one queue"
                );
                let queue = port.queues.get_mut(me).and_then(Option::take);
                wiring.tx_worker.push(if queue.is_some() { me } else { 0 });
                wiring.queues.push(queue);
                wiring.punts.push(port.punts.clone());
                wiring
                    .injects
                    .push(if me == 0 { port.injects.clone() } else { None });
            }
            Worker::new(plane, Arc::clone(&plane.workers[me]), director, wiring)
        })
        .collect()
}

/// The table of persistence templates that all workers share.
///
/// # Errors
/// When the memory can't be had.
pub fn templates(sizes: &Sizes) -> Result<Templates, TableError> {
    let key = HashKey::from_seed(sizes.seed ^ 0x7465_6d70_6c61_7465);
    Templates::new(sizes.templates, sizes.services, key)
}

/// The shared parts of `n` workers.
#[must_use]
pub fn shared(n: usize, cores: &[usize], sizes: &Sizes) -> Vec<Arc<WorkerShared>> {
    (0..n)
        .map(|i| {
            let core = cores.get(i).copied();
            Arc::new(WorkerShared::new(i, core, sizes.services, sizes.servers))
        })
        .collect()
}
