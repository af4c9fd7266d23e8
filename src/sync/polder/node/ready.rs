//! Whether a director has what it needs to take over.

use crate::net::Tick;

/// How long a director that was ready may fall short before it is not any more, in ticks: what got lost is mended
/// sooner, and nothing should move for it.
const FALLS_AFTER: u32 = 5 * Tick::PER_SECOND;

/// What is known of those who are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// None is heard.
    None,
    /// All that are heard are covered.
    Covered,
    /// Of one at least too little came yet.
    Short,
}

/// The answer, and how it came about.
#[derive(Debug)]
pub struct Readiness {
    ready: bool,
    why: &'static str,
    timeout: u32,
    /// When somebody was heard last, or the start.
    heard: Tick,
    /// When a director that is ready was found short.
    short: Option<Tick>,
    /// It was taken for ready, and nothing was found for or against it yet.
    assumed: bool,
}

impl Readiness {
    /// Not ready, unless it follows nobody.
    pub fn new(follows: bool, timeout: u32, now: Tick) -> Self {
        Self {
            ready: !follows,
            why: if follows {
                "waits to hear of others"
            } else {
                "follows nobody"
            },
            timeout,
            heard: now,
            short: None,
            assumed: false,
        }
    }

    /// Is ready until it is found not to be.
    pub fn assume(&mut self) {
        self.set(true, "was ready when its settings changed");
        self.assumed = true;
    }

    /// Whether it was found to be ready.
    pub fn is_sure(&self) -> bool {
        self.ready && !self.assumed
    }

    pub fn is_ready(&self) -> bool {
        self.ready
    }

    pub fn why(&self) -> &'static str {
        self.why
    }

    /// Judges anew.
    pub fn judge(&mut self, now: Tick, seen: Seen) {
        if seen != Seen::None {
            self.heard = now;
        }
        if seen != Seen::Short {
            self.short = None;
        }
        match (seen, self.ready) {
            (Seen::Covered, _) => self.set(true, "has what the others have"),
            (Seen::None, _) if !self.is_sure() && now.since(self.heard) >= self.timeout => {
                self.set(true, "nobody was heard for the time of ready_timeout");
            }
            (Seen::None, true) => self.why = "the others are silent",
            (Seen::None, false) => self.why = "waits to hear of others",
            (Seen::Short, false) => self.why = "does not have what the others have yet",
            (Seen::Short, true) => {
                let since = *self.short.get_or_insert(now);
                if now.since(since) >= FALLS_AFTER {
                    self.set(false, "does not have what the others have");
                } else {
                    self.why = "is being brought up to date";
                }
            }
        }
    }

    fn set(&mut self, ready: bool, why: &'static str) {
        self.assumed = false;
        self.ready = ready;
        self.why = why;
    }
}
