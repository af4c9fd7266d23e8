//! Who is told that a real server may take connections again.
//!
//! A scheduler that leaves out overloaded servers must hear when one is no longer overloaded. Each build of a scheduler
//! registers itself with its servers; those of replaced snapshots are forgotten when the last worker has left them.
//! Knows no scheduler. Telling takes no lock and allocates nothing.

use std::fmt::Debug;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;

/// What is told that servers may take connections again.
pub trait Openings: Send + Sync + Debug {
    /// The server at `place` may take connections again: its overload flag was cleared, or a session of it ended.
    fn open(&self, place: usize);
}

/// One that is told, and the number that it knows the server by.
#[derive(Clone, Debug)]
struct Watcher {
    openings: Weak<dyn Openings>,
    place: usize,
    /// Whether the end of a session is of interest, too.
    sessions: bool,
}

/// Those that watch one real server.
#[derive(Debug, Default)]
pub(super) struct Watchers(ArcSwapOption<Vec<Watcher>>);

impl Watchers {
    /// Adds one, and forgets those that are gone. Not for workers: it allocates.
    pub(super) fn add(&self, openings: Weak<dyn Openings>, place: usize, sessions: bool) {
        let watcher = Watcher {
            openings,
            place,
            sessions,
        };
        self.0.rcu(|before| {
            let alive = before.iter().flat_map(|all| all.iter());
            let alive = alive.filter(|watcher| watcher.openings.strong_count() > 0);
            let all = alive.cloned().chain([watcher.clone()]).collect();
            Some(Arc::new(all))
        });
        // Either whoever tells after this sees the list, or who looks at the server after this sees what was told of.
        fence(Ordering::SeqCst);
    }

    /// Tells all of them, or those that care about sessions.
    pub(super) fn tell(&self, session: bool) {
        fence(Ordering::SeqCst);
        for watcher in self.0.load().iter().flat_map(|all| all.iter()) {
            if (!session || watcher.sessions)
                && let Some(openings) = watcher.openings.upgrade()
            {
                openings.open(watcher.place);
            }
        }
    }
}
