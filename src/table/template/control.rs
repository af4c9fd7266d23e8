//! The control word of a template: its deadline, how many connections it controls, and whether it
//! lives.
//!
//! Knows neither keys nor the table. Everything that decides between life and death is in this one
//! word, so that a connection that comes under a template's control and the sweeper that ends it can
//! not both succeed.

use super::word::{high, low, pair};
use crate::net::Tick;

/// What a template's timeout becomes when it fires while it controls connections: 60 s
/// (specification §2.7).
pub const STEP: u32 = 60 * Tick::PER_SECOND;
/// The longest timeout; beyond it a deadline could not be told from one that has passed.
pub const TIMEOUT_MAX: u32 = u32::MAX / 2;
/// The most connections that one template can control.
pub const CONTROLLED_MAX: u32 = (1 << 24) - 1;

/// Where an entry is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// On the free stack.
    Free,
    /// Being filled, or published a moment ago. Whoever reaches it through a chain may take it as
    /// live: only published entries can be reached.
    Private,
    /// A template.
    Live,
    /// Ended; waits for the sweeper, and for the end of the connections that it controls.
    Dead,
}

/// The unpacked word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// When the timer fires.
    pub deadline: Tick,
    /// How many connections hold the entry.
    pub controlled: u32,
    /// Live: the stored timeout has become [`STEP`]. Dead: the end was reported.
    pub mark: bool,
    /// Where the entry is in its life.
    pub state: State,
    /// The low bits of the number of this life.
    pub life: u32,
}

impl Control {
    const LIFE: u32 = 0x1f;
    const STATE_SHIFT: u32 = 5;
    const MARK: u32 = 1 << 7;
    const CONTROLLED_SHIFT: u32 = 8;

    /// The first word of a life.
    pub fn new(deadline: Tick, life: u32) -> Self {
        Self {
            deadline,
            controlled: 0,
            mark: false,
            state: State::Private,
            life: life & Self::LIFE,
        }
    }

    #[inline]
    pub fn unpack(word: u64) -> Self {
        let bits = low(word);
        let state = match bits >> Self::STATE_SHIFT & 3 {
            0 => State::Free,
            1 => State::Private,
            2 => State::Live,
            _ => State::Dead,
        };
        Self {
            deadline: Tick(high(word)),
            controlled: bits >> Self::CONTROLLED_SHIFT,
            mark: bits & Self::MARK != 0,
            state,
            life: bits & Self::LIFE,
        }
    }

    #[inline]
    pub fn pack(self) -> u64 {
        let mark = if self.mark { Self::MARK } else { 0 };
        let state = (self.state as u32) << Self::STATE_SHIFT;
        pair(
            self.deadline.0,
            self.controlled << Self::CONTROLLED_SHIFT | mark | state | self.life,
        )
    }

    /// Whether the entry is a template, in the life with this number. The five bits that the word
    /// has of it suffice where the full number was compared a moment before: they would deceive only
    /// if 32 templates had lived and ended in the entry since.
    #[inline]
    pub fn lives(self, life: u32) -> bool {
        matches!(self.state, State::Live | State::Private) && self.life == life & Self::LIFE
    }

    /// What a live template's word is at `now`, whether or not the sweeper has come: nothing if its
    /// time is up; with the timer fired and restarted, as often as was due, if it controls
    /// connections (specification §2.7).
    #[inline]
    pub fn at(self, now: Tick) -> Option<Self> {
        if !now.reached(self.deadline) {
            return Some(self);
        }
        if self.controlled == 0 {
            return None;
        }
        let fired = now.since(self.deadline) / STEP + 1;
        Some(Self {
            deadline: self.deadline.plus(fired.saturating_mul(STEP)),
            mark: true,
            ..self
        })
    }

    /// The word after the template's use at `now`: its timer restarted with the stored timeout, of
    /// which `timeout` is the first value. Never earlier than it was: workers' clocks differ by a
    /// tick.
    #[inline]
    pub fn used(self, now: Tick, timeout: u32) -> Self {
        let deadline = now.plus(self.timeout(timeout));
        Self {
            deadline: if deadline.reached(self.deadline) {
                deadline
            } else {
                self.deadline
            },
            state: State::Live,
            ..self
        }
    }

    /// The stored timeout in ticks, of which `timeout` is the first value.
    #[inline]
    pub fn timeout(self, timeout: u32) -> u32 {
        if self.mark { STEP } else { timeout }
    }
}
