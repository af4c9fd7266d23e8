//! Schedulers: which real server takes a new connection.
//!
//! One file each, one trait. A scheduler is built off the workers for one service and one set of servers; a decision
//! takes no lock, allocates nothing, and is at most linear in the servers. What must outlive a rebuild (a round-robin
//! position) lives in the service's [`SchedState`], one atomic word that all workers advance by compare-and-swap, so
//! that the order of choices is IPVS's however many workers there are.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::table::{Dest, DestId};

/// What a scheduler may look at besides the servers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection<'a> {
    /// Client address folded to 32 bits, host order ([`crate::net::Family::fold32`]).
    pub client: u32,
    /// Client port; 0 for protocols without ports.
    pub client_port: u16,
    /// Virtual address folded to 32 bits, host order.
    pub virtual_addr: u32,
    /// A number that differs from call to call and repeats in replay; for schedulers that choose at random.
    pub random: u64,
    /// The session key of `offh`, where the service has one and the packet carries it.
    pub session: Option<&'a [u8]>,
    /// Now.
    pub now: crate::net::Tick,
}

/// Scheduler state that outlives a rebuild; all zero at first.
#[derive(Debug, Default)]
pub struct SchedState {
    /// Meaning is the scheduler's own.
    pub word: AtomicU64,
}

/// What a scheduler is built from.
#[derive(Debug)]
pub struct Build<'a> {
    /// The servers in kernel list order: the newest (last in the configuration) first (specification §1.3).
    pub dests: &'a [Arc<Dest>],
    /// The servers' slots at the last build, in its order; empty at first.
    pub previous: &'a [DestId],
    /// Whether servers or weights differ from the last build.
    pub changed: bool,
    /// State to carry on.
    pub state: &'a Arc<SchedState>,
    /// Flags given with the scheduler (`fallback`, `port`, …).
    pub flags: &'a [String],
    /// Secret of keyed choices (`offh`).
    pub seed: u64,
}

/// The choice of a real server. Implementations are immutable but for atomics.
pub trait Scheduler: Send + Sync + Debug {
    /// Index into the `dests` it was built from, or `None` when no server can take the connection.
    fn select(&self, dests: &[Arc<Dest>], selection: &Selection<'_>) -> Option<usize>;
}

/// TEMPORARY until the schedulers are merged.
pub fn build(_name: &str, _b: &Build<'_>) -> Result<Box<dyn Scheduler>, String> {
    Err("none".into())
}

/// TEMPORARY
pub fn select_and_reserve(
    s: &dyn Scheduler,
    dests: &[Arc<Dest>],
    sel: &Selection<'_>,
) -> Option<usize> {
    s.select(dests, sel)
}
