//! The processes that proved to hold a key, and which of their datagrams came.
//!
//! Invariant: a datagram is let in once at most, also of a process that was forgotten in between; and there is a bound
//! to how many are known, whatever is replayed.

use std::collections::VecDeque;

use crate::net::Tick;
use crate::sync::polder::Rejected;
use crate::sync::polder::seal::Window;

/// Processes that are known at once.
pub const KNOWN_MAX: usize = 64;
/// Processes that are remembered beyond that by their last datagram.
pub const FORGOTTEN_MAX: usize = 1024;

/// A process.
#[derive(Debug)]
pub struct Boot {
    /// Its random number.
    pub boot: u64,
    /// The name that it says it has, empty if it did not.
    pub name: String,
    /// When it may be greeted next, and when it may be answered next.
    pub hello_at: Tick,
    pub welcome_at: Tick,
    /// When it greeted first.
    pub greeted: Option<Tick>,
    /// When it told of entries last while it was not followed.
    pub unfollowed: Option<Tick>,
    heard: Tick,
    /// Nothing up to this one is let in.
    floor: u64,
    window: Window,
}

impl Boot {
    /// Lets nothing in any more that is not newer than everything that came. What was recorded before is
    /// worth nothing from now on, whether it ever came or not.
    pub fn begin_anew(&mut self) {
        self.floor = self.window.newest();
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Boots {
    known: Vec<Boot>,
    forgotten: VecDeque<(u64, u64)>,
}

impl Boots {
    /// Whether a datagram can be news, before it is proven to be genuine.
    pub fn is_fresh(&self, boot: u64, counter: u64) -> bool {
        match self.known.iter().find(|b| b.boot == boot) {
            Some(known) => counter > known.floor && known.window.is_fresh(counter),
            None => self.remembered(boot).is_none_or(|last| counter > last),
        }
    }

    fn remembered(&self, boot: u64) -> Option<u64> {
        let (_, last) = self.forgotten.iter().find(|(b, _)| *b == boot)?;
        Some(*last)
    }

    /// Lets a genuine datagram in. `is_needed` says which processes must not be forgotten.
    ///
    /// # Errors
    /// When it came before.
    pub fn note(
        &mut self,
        now: Tick,
        boot: u64,
        counter: u64,
        is_needed: impl Fn(u64) -> bool,
    ) -> Result<&mut Boot, Rejected> {
        if !self.is_fresh(boot, counter) {
            return Err(Rejected::Replayed);
        }
        let at = match self.known.iter().position(|b| b.boot == boot) {
            Some(at) => at,
            None => {
                self.make_room(now, is_needed);
                self.forgotten.retain(|(b, _)| *b != boot);
                self.known.push(Boot {
                    boot,
                    name: String::new(),
                    hello_at: now,
                    welcome_at: now,
                    greeted: None,
                    unfollowed: None,
                    heard: now,
                    // What was sent before is not needed, so none of it is let in.
                    floor: counter.saturating_sub(1),
                    window: Window::default(),
                });
                self.known.len() - 1
            }
        };
        let known = &mut self.known[at];
        known.window.note(counter)?;
        known.heard = now;
        Ok(known)
    }

    fn make_room(&mut self, now: Tick, is_needed: impl Fn(u64) -> bool) {
        if self.known.len() < KNOWN_MAX {
            return;
        }
        let others = self
            .known
            .iter()
            .enumerate()
            .filter(|(_, b)| !is_needed(b.boot));
        let oldest = others.max_by_key(|(_, b)| now.since(b.heard));
        let at = oldest
            .map(|(at, _)| at)
            .expect("fewer are needed than known");
        let old = self.known.swap_remove(at);
        if self.forgotten.len() >= FORGOTTEN_MAX {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back((old.boot, old.window.newest()));
    }

    /// The name that a process says it has.
    pub fn name(&self, boot: u64) -> &str {
        let known = self.known.iter().find(|b| b.boot == boot);
        known.map_or("", |b| &b.name)
    }

    pub fn get(&mut self, boot: u64) -> Option<&mut Boot> {
        self.known.iter_mut().find(|b| b.boot == boot)
    }

    /// Whether one told of entries not longer than `ticks` ago that was not followed then, nor is since.
    pub fn is_unfollowed(&self, now: Tick, ticks: u32) -> bool {
        let mut times = self.known.iter().filter_map(|b| b.unfollowed);
        times.any(|at| now.since(at) <= ticks)
    }

    /// How many are known, and how many remembered.
    pub fn len(&self) -> (usize, usize) {
        (self.known.len(), self.forgotten.len())
    }
}
