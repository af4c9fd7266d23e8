//! Messages on their way out: what is being filled, and what waits to be sent (specification §9.6).
//!
//! Owns the buffers of one channel and the moments at which they go. Knows no socket and no clock:
//! the caller asks [`Outbox::next`] when [`Outbox::wake_at`] says so. Invariant: never more than the
//! given number of messages wait; what is too much is discarded and counted, the newest first.

use std::collections::VecDeque;

use super::ipvs::{Builder, CantCarry, Record, Version};
use crate::net::Tick;

/// How old the first record of a message becomes before the message goes without being full.
pub const AGE_MAX: u32 = 2 * Tick::PER_SECOND;
/// How long a full message waits for more, in ticks.
pub const GATHER: u32 = Tick::PER_SECOND / 50;
/// Full messages that do not wait.
pub const GATHER_MAX: usize = 8;

/// What went through an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Sent {
    /// Records taken in.
    pub records: u64,
    /// Records that the format can't carry.
    pub unfit: u64,
    /// Messages handed out.
    pub messages: u64,
    /// Messages discarded because too many waited.
    pub discarded: u64,
    /// Records in those.
    pub discarded_records: u64,
}

/// The messages of one channel.
#[derive(Debug)]
pub struct Outbox {
    filling: Builder,
    /// When the first record of `filling` came.
    since: Tick,
    waiting: VecDeque<Vec<u8>>,
    /// When the first of `waiting` is to go.
    due: Tick,
    /// Buffers of messages that were sent, to be used again.
    spare: Vec<Vec<u8>>,
    queue_max: usize,
    counts: Sent,
}

impl Outbox {
    /// An outbox for messages of `max_len` bytes, of which `queue_max` wait at most.
    #[must_use]
    pub fn new(version: Version, sync_id: u8, max_len: usize, queue_max: usize) -> Self {
        Self {
            filling: Builder::new(version, sync_id, max_len),
            since: Tick(0),
            waiting: VecDeque::new(),
            due: Tick(0),
            spare: Vec::new(),
            queue_max,
            counts: Sent::default(),
        }
    }

    /// What went through so far.
    #[must_use]
    pub fn counts(&self) -> Sent {
        self.counts
    }

    /// Messages that wait, without the one that is being filled.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a record in.
    ///
    /// # Errors
    /// What of it the format can't carry; it is counted.
    pub fn push(&mut self, record: &Record<'_>, now: Tick) -> Result<(), CantCarry> {
        let pushed = self.try_push(record, now);
        match pushed {
            Ok(()) => self.counts.records += 1,
            Err(_) => self.counts.unfit += 1,
        }
        pushed
    }

    fn try_push(&mut self, record: &Record<'_>, now: Tick) -> Result<(), CantCarry> {
        if !self.filling.push(record)? {
            self.queue(now);
            self.filling.push(record)?;
        }
        if self.filling.count() == 1 {
            self.since = now;
        }
        Ok(())
    }

    /// Moves the message that is being filled behind those that wait.
    fn queue(&mut self, now: Tick) {
        let records = u64::from(self.filling.count());
        let Some(message) = self.filling.finish() else {
            return;
        };
        if self.waiting.len() >= self.queue_max {
            self.counts.discarded += 1;
            self.counts.discarded_records += records;
            return;
        }
        if self.waiting.is_empty() {
            self.due = now.plus(GATHER);
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(message);
        self.waiting.push_back(buffer);
        if self.waiting.len() >= GATHER_MAX {
            self.due = now;
        }
    }

    /// When there is something to send next; now or earlier when there is already.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        match (self.waiting.is_empty(), self.filling.is_empty()) {
            (false, _) => Some(self.due),
            (true, false) => Some(self.since.plus(AGE_MAX)),
            (true, true) => None,
        }
    }

    /// The next message to send, if it is time. Once one of those that wait is due, all of them are.
    pub fn next(&mut self, now: Tick) -> Option<Vec<u8>> {
        if !now.reached(self.wake_at()?) {
            return None;
        }
        if self.waiting.is_empty() {
            // A queue of no length is for messages that would wait; this one goes.
            let message = self.filling.finish()?;
            let mut buffer = self.spare.pop().unwrap_or_default();
            buffer.clear();
            buffer.extend_from_slice(message);
            self.counts.messages += 1;
            return Some(buffer);
        }
        self.counts.messages += 1;
        self.waiting.pop_front()
    }

    /// Gives a message's buffer back once it was sent, so that the next one needs no memory.
    pub fn sent(&mut self, buffer: Vec<u8>) {
        if self.spare.len() <= GATHER_MAX {
            self.spare.push(buffer);
        }
    }

    /// Discards everything, as a master does that is stopped.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.filling.finish();
    }
}

#[cfg(test)]
mod tests;
