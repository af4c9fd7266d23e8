//! Schedulers: which real server takes a new connection.
//!
//! One file each, one trait, one list (`KINDS`). A scheduler is built off the workers for one service and one list
//! of servers; a decision takes no lock, allocates nothing, and is at most linear in the servers. What must outlive a
//! rebuild (a round-robin position, a locality cache) is kept in the service's `SchedState` and shared by all
//! workers, so that the order of choices is IPVS's however many workers there are. A scheduler knows no packet, no
//! connection and no clock: what it may look at comes in a `Selection`.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::net::Tick;
use crate::table::Dest;

pub use spread::Spread;

mod cache;
mod hash;
mod load;
mod open_set;
mod ring;
#[cfg(test)]
mod testkit;
mod weight_tree;

mod dh;
mod fo;
mod hprio;
mod lblc;
mod lblcr;
mod lc;
mod mh;
mod nq;
mod offh;
mod ovf;
mod rr;
mod sed;
mod sh;
mod spread;
mod twos;
mod wlc;
mod wrr;

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
    /// The time of the burst; for schedulers that remember.
    pub now: Tick,
}

impl Selection<'_> {
    /// What `sh` and `mh` hash: the client's address, and its port where their flag says so (specification §6.9).
    fn hashed_client(&self, port: bool) -> u32 {
        let port = if port { self.client_port } else { 0 };
        self.client.wrapping_add(u32::from(port))
    }
}

/// Scheduler state of one service that outlives a rebuild.
///
/// Locked only while a scheduler is built; a built one holds what it needs of it. A service whose scheduler changes
/// starts afresh, as in IPVS (specification §1.1).
#[derive(Debug, Default)]
pub struct SchedState(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The scheduler that the rest belongs to.
    owner: &'static str,
    /// Positions of round-robin kinds, by a key of the scheduler's own.
    positions: BTreeMap<u32, Arc<AtomicU64>>,
    /// Builds at which a server was added, removed or edited.
    edits: u32,
    lblc: Option<Arc<lblc::Cache>>,
    lblcr: Option<Arc<lblcr::Cache>>,
}

impl SchedState {
    /// Works on the state as `owner`, which finds nothing of another scheduler's.
    fn with<T>(&self, owner: &'static str, f: impl FnOnce(&mut Kept) -> T) -> T {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.owner != owner {
            *kept = Kept {
                owner,
                ..Kept::default()
            };
        }
        f(&mut kept)
    }
}

/// What a scheduler is built from.
#[derive(Debug)]
pub struct Build<'a> {
    /// The servers in kernel list order: the newest (last in the configuration) first (specification §1.3).
    pub dests: &'a [Arc<Dest>],
    /// The servers of the last build, in its order; empty at first.
    pub previous: &'a [Arc<Dest>],
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
    ///
    /// # Panics
    /// May panic when `dests` is not the list it was built from.
    fn select(&self, dests: &[Arc<Dest>], selection: &Selection<'_>) -> Option<usize>;
}

/// Why a scheduler can't be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchedError {
    /// There is no scheduler of this name.
    UnknownScheduler {
        /// The name.
        name: String,
    },
    /// The scheduler has no such flag.
    UnknownFlag {
        /// The scheduler.
        scheduler: &'static str,
        /// The flag.
        flag: String,
        /// The flags that it has.
        accepts: &'static [&'static str],
    },
    /// The table size of a `table=` flag is not one of those that exist.
    BadTable {
        /// The value given.
        value: String,
        /// The sizes that exist.
        accepts: &'static [u32],
    },
    /// More servers than the scheduler has places for.
    TooManyServers {
        /// The scheduler.
        scheduler: &'static str,
        /// Servers of the service.
        servers: usize,
        /// Most that it can take.
        most: usize,
        /// What to do about it.
        remedy: &'static str,
    },
}

impl fmt::Display for SchedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownScheduler { name } => {
                write!(
                    f,
                    "there is no scheduler `{name}`; there are {}",
                    NAMES.join(", ")
                )
            }
            Self::UnknownFlag {
                scheduler,
                flag,
                accepts: [],
            } => {
                write!(f, "scheduler `{scheduler}` takes no flags, so not `{flag}`")
            }
            Self::UnknownFlag {
                scheduler,
                flag,
                accepts,
            } => {
                let accepts = accepts.join(", ");
                write!(
                    f,
                    "scheduler `{scheduler}` has no flag `{flag}`; it has {accepts}"
                )
            }
            Self::BadTable { value, accepts } => {
                let wanted = value.parse().unwrap_or(0);
                let near = accepts.iter().find(|size| **size >= wanted);
                let near = near.or_else(|| accepts.last()).copied().unwrap_or_default();
                write!(
                    f,
                    "there is no table of `{value}` slots; sizes are {accepts:?}; did you mean `table={near}`?"
                )
            }
            Self::TooManyServers {
                scheduler,
                servers,
                most,
                remedy,
            } => {
                write!(
                    f,
                    "{servers} servers are more than the {most} that `{scheduler}` has places for; {remedy}"
                )
            }
        }
    }
}

impl std::error::Error for SchedError {}

/// Flags of the hashing schedulers, checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Flags {
    /// Try further places when the first one's server is not available.
    fallback: bool,
    /// Hash the client port too.
    port: bool,
    /// The kernel's table, with its quirks.
    kernel_tables: bool,
    /// Slots of the table; 0 is the default.
    table: u32,
}

/// A scheduler in the list of them all.
struct Kind {
    name: &'static str,
    /// Flags it takes, as the operator writes them.
    accepts: &'static [&'static str],
    /// Most servers it takes.
    most: fn(Flags) -> usize,
    /// What to do about more of them.
    remedy: &'static str,
    make: fn(&Build<'_>, Flags) -> Box<dyn Scheduler>,
}

/// Most servers of a service: tables hold 16-bit indices, one of which means none.
pub const MAX_SERVERS: usize = u16::MAX as usize - 1;

impl Kind {
    /// A scheduler without flags or limits of its own.
    const fn plain(name: &'static str, make: fn(&Build<'_>, Flags) -> Box<dyn Scheduler>) -> Self {
        Self {
            name,
            accepts: &[],
            most: |_| MAX_SERVERS,
            remedy: "divide them among several services",
            make,
        }
    }
}

/// All schedulers: the one list.
const KINDS: &[Kind] = &[
    Kind::plain("rr", rr::build),
    Kind::plain("wrr", wrr::build),
    Kind::plain("lc", lc::build),
    Kind::plain("wlc", wlc::build),
    Kind::plain("sed", sed::build),
    Kind::plain("nq", nq::build),
    Kind::plain("fo", fo::build),
    Kind::plain("ovf", ovf::build),
    Kind {
        name: "dh",
        accepts: &[],
        most: dh::most,
        remedy: dh::REMEDY,
        make: dh::build,
    },
    Kind {
        name: "sh",
        accepts: sh::FLAGS,
        most: sh::most,
        remedy: sh::REMEDY,
        make: sh::build,
    },
    Kind {
        name: "mh",
        accepts: mh::FLAGS,
        most: mh::most,
        remedy: mh::REMEDY,
        make: mh::build,
    },
    Kind::plain("lblc", lblc::build),
    Kind::plain("lblcr", lblcr::build),
    Kind::plain("twos", twos::build),
    Kind::plain("hprio", hprio::build),
    Kind::plain("offh", offh::build),
];

/// The names of all schedulers.
pub const NAMES: [&str; KINDS.len()] = {
    let mut names = [""; KINDS.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = KINDS[i].name;
        i += 1;
    }
    names
};

/// Finds the scheduler `name` and checks `flags` and the number of `servers` against it.
fn resolve(
    name: &str,
    flags: &[String],
    servers: usize,
) -> Result<(&'static Kind, Flags), SchedError> {
    let kind = KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
        SchedError::UnknownScheduler {
            name: name.to_owned(),
        }
    })?;
    let flags = parse_flags(kind, flags)?;
    let most = (kind.most)(flags);
    if servers > most {
        return Err(SchedError::TooManyServers {
            scheduler: kind.name,
            servers,
            most,
            remedy: kind.remedy,
        });
    }
    Ok((kind, flags))
}

/// Reads flags in Polder's spelling or in ipvsadm's, which puts the scheduler's name before (`sh-port`).
fn parse_flags(kind: &Kind, flags: &[String]) -> Result<Flags, SchedError> {
    let mut parsed = Flags::default();
    for flag in flags {
        let bare = flag
            .strip_prefix(kind.name)
            .and_then(|f| f.strip_prefix('-'))
            .unwrap_or(flag);
        let (word, value) = bare
            .split_once('=')
            .map_or((bare, None), |(w, v)| (w, Some(v)));
        let known = kind
            .accepts
            .iter()
            .any(|a| a.split('=').next() == Some(word));
        match (word, value) {
            ("fallback", None) if known => parsed.fallback = true,
            ("port", None) if known => parsed.port = true,
            ("kernel_tables", None) if known => parsed.kernel_tables = true,
            ("table", Some(value)) if known => {
                parsed.table = mh::table_size(value).ok_or_else(|| SchedError::BadTable {
                    value: value.to_owned(),
                    accepts: mh::TABLE_SIZES,
                })?;
            }
            _ => {
                return Err(SchedError::UnknownFlag {
                    scheduler: kind.name,
                    flag: flag.clone(),
                    accepts: kind.accepts,
                });
            }
        }
    }
    Ok(parsed)
}

/// Checks what [`build`] would check, without servers at hand.
///
/// # Errors
/// As [`build`].
pub fn check(name: &str, flags: &[String], servers: usize) -> Result<(), SchedError> {
    resolve(name, flags, servers).map(|_| ())
}

/// Builds the scheduler `name`. Not for workers: it locks, allocates, and fills tables.
///
/// # Errors
/// When the name, a flag or the number of servers is not one that there can be; nothing is changed then.
pub fn build(name: &str, build: &Build<'_>) -> Result<Box<dyn Scheduler>, SchedError> {
    let (kind, flags) = resolve(name, build.flags, build.dests.len())?;
    Ok((kind.make)(build, flags))
}

/// Whether a server was added, removed or edited between two lists, so that a scheduler of the one is none of the
/// other. An edit that changes nothing does not count, for a reload repeats every server.
#[must_use]
pub fn edited(previous: &[Arc<Dest>], dests: &[Arc<Dest>]) -> bool {
    let identity = |d: &Arc<Dest>| (d.id, d.weight, d.last_weight, d.method, d.thresholds());
    !previous.iter().map(identity).eq(dests.iter().map(identity))
}

/// Chooses a server and takes a connection's place on it ([`Dest::try_reserve`]), so that no threshold is exceeded.
///
/// Another worker may take the last place between the choice and the reservation; the server is then overloaded and
/// the scheduler chooses again. The number of attempts is bounded, with a bound that only a run of so many lost races
/// in a row would reach.
#[must_use]
pub fn select_and_reserve(
    scheduler: &dyn Scheduler,
    dests: &[Arc<Dest>],
    selection: &Selection<'_>,
) -> Option<usize> {
    const LOST_RACES_MAX: usize = 64;
    for _ in 0..dests.len() + LOST_RACES_MAX {
        let index = scheduler.select(dests, selection)?;
        if dests[index].try_reserve() {
            return Some(index);
        }
    }
    None
}

/// Advances a position that all workers share, by compare-and-swap: `step` gives the next word and the choice that it
/// stands for.
///
/// The bound is never met in practice (each failure is another worker's success); past it the choice stands without
/// moving the position, which costs order, never a connection.
#[inline]
fn advance(position: &AtomicU64, step: impl Fn(u64) -> (u64, Option<usize>)) -> Option<usize> {
    const TRIES_MAX: usize = 1000;
    // Relaxed: the word carries all its meaning itself.
    let mut word = position.load(Ordering::Relaxed);
    let mut choice = None;
    for _ in 0..TRIES_MAX {
        let (next, chosen) = step(word);
        choice = chosen;
        if next == word {
            break;
        }
        match position.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => break,
            Err(seen) => word = seen,
        }
    }
    choice
}

#[cfg(test)]
mod tests;
