//! The datagrams of a stream: those that wait, and those that were sent and may be asked for again.
//!
//! Owns bodies by their numbers. Invariant: what was sent is kept up to a number and up to an amount of bytes.

use std::collections::VecDeque;

/// Datagrams that are kept after they were sent.
pub const HISTORY_MAX: u64 = 4096;
/// Bytes of them.
pub const HISTORY_BYTES_MAX: usize = 8 << 20;
/// Buffers that are kept to be filled again.
const SPARE_MAX: usize = 64;

/// Bodies in order of their numbers.
#[derive(Debug)]
pub struct Ring {
    first: u64,
    unsent: u64,
    bodies: VecDeque<Vec<u8>>,
    sent_bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Ring {
    /// One whose first body has number 1.
    pub fn new() -> Self {
        Self {
            first: 1,
            unsent: 1,
            bodies: VecDeque::new(),
            sent_bytes: 0,
            spare: Vec::new(),
        }
    }

    /// The number that the next body has.
    pub fn next_seq(&self) -> u64 {
        self.first + self.bodies.len() as u64
    }

    /// The number of the next body that is sent.
    pub fn unsent(&self) -> u64 {
        self.unsent
    }

    /// The lowest number that is still there.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Bodies that wait.
    pub fn queued(&self) -> usize {
        usize::try_from(self.next_seq() - self.unsent).expect("they are in memory")
    }

    /// Bodies that are kept, and their bytes.
    pub fn kept(&self) -> (u64, usize) {
        (self.unsent - self.first, self.sent_bytes)
    }

    /// Appends a body.
    pub fn push(&mut self, body: &[u8]) {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(body);
        self.bodies.push_back(buffer);
    }

    /// The next body that was not sent, which it is then.
    pub fn send(&mut self) -> Option<&[u8]> {
        let at = usize::try_from(self.unsent - self.first).ok()?;
        self.sent_bytes += self.bodies.get(at)?.len();
        self.unsent += 1;
        while self.unsent - self.first > HISTORY_MAX || self.sent_bytes > HISTORY_BYTES_MAX {
            let old = self.bodies.pop_front().expect("there is what was counted");
            self.sent_bytes -= old.len();
            self.first += 1;
            if self.spare.len() < SPARE_MAX {
                self.spare.push(old);
            }
        }
        self.sent(self.unsent - 1)
    }

    /// A body that was sent.
    pub fn sent(&self, seq: u64) -> Option<&[u8]> {
        let at = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.bodies
            .get(at)
            .filter(|_| seq < self.unsent)
            .map(Vec::as_slice)
    }
}
