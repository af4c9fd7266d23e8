//! The memory device of the performance figures: endless input at next to no cost, output that is counted and gone.
//!
//! Expected per packet on one thread: the 60 bytes of a minimum frame are one cache line read in sequence (the
//! prefetcher's work) and one line of a warm buffer written; buffers move through a thread's own list. No atomic
//! operation per packet while every received buffer is sent on this device.

use super::{HEADROOM, MemBuf, MemCache, MemPool};
use crate::io::{BURST, Burst, PacketIo};
use crate::net::PacketBuf;

/// Bytes of a minimum Ethernet frame without its check sequence.
const MINIMUM: usize = 60;

/// A minimum frame in a cache line of its own.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Cell([u8; MINIMUM]);

/// The frames that a [`BenchIo`] repeats, laid out in one piece of memory.
#[derive(Clone, Debug)]
pub struct Frames(Layout);

#[derive(Clone, Debug)]
enum Layout {
    /// All frames have [`MINIMUM`] bytes.
    Minimum(Vec<Cell>),
    /// Frame `i` is `bytes[ends[i - 1]..ends[i]]`.
    Any { bytes: Vec<u8>, ends: Vec<usize> },
}

impl Frames {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Layout::Minimum(cells) => cells.len(),
            Layout::Any { ends, .. } => ends.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of frame `i`.
    ///
    /// # Panics
    /// When there is no such frame.
    #[must_use]
    pub fn get(&self, i: usize) -> &[u8] {
        match &self.0 {
            Layout::Minimum(cells) => &cells[i].0,
            Layout::Any { bytes, ends } => {
                let start = if i == 0 { 0 } else { ends[i - 1] };
                &bytes[start..ends[i]]
            }
        }
    }

    /// Those of at most `longest` bytes.
    fn up_to(self, longest: usize) -> Self {
        if (0..self.len()).all(|i| self.get(i).len() <= longest) {
            return self;
        }
        (0..self.len())
            .map(|i| self.get(i))
            .filter(|frame| frame.len() <= longest)
            .collect()
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Frames {
    fn from_iter<I: IntoIterator<Item = T>>(frames: I) -> Self {
        let mut cells = Vec::new();
        let mut frames = frames.into_iter();
        let odd = loop {
            let Some(frame) = frames.next() else {
                return Self(Layout::Minimum(cells));
            };
            match frame.as_ref().try_into() {
                Ok(minimum) => cells.push(Cell(minimum)),
                Err(_) => break frame,
            }
        };
        let mut bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.0).collect();
        let mut ends: Vec<usize> = (1..=cells.len()).map(|i| i * MINIMUM).collect();
        for frame in std::iter::once(odd).chain(frames) {
            bytes.extend_from_slice(frame.as_ref());
            ends.push(bytes.len());
        }
        Self(Layout::Any { bytes, ends })
    }
}

/// What a [`BenchIo`] counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BenchCounts {
    /// Frames given out.
    pub rx_frames: u64,
    /// Frames taken.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
}

/// A device that repeats a list of frames and swallows what it is given.
#[derive(Debug)]
pub struct BenchIo {
    frames: Frames,
    next: usize,
    /// Frames of the list that no buffer holds.
    left_out: usize,
    /// Frames still to give out.
    left: u64,
    pool: MemPool,
    cache: MemCache,
    counts: BenchCounts,
}

impl BenchIo {
    /// A device that repeats `frames` for ever, in copies in buffers of `pool`, but for frames that no buffer holds
    /// ([`Self::left_out`]). Without frames it gives none.
    ///
    /// # Panics
    /// When the pool's buffers are shorter than a minimum frame.
    #[must_use]
    pub fn new(frames: Frames, pool: &MemPool) -> Self {
        assert!(pool.longest() >= MINIMUM, "a buffer holds a minimum frame");
        let all = frames.len();
        let frames = frames.up_to(pool.longest());
        Self {
            next: 0,
            left_out: all - frames.len(),
            left: if frames.is_empty() { 0 } else { u64::MAX },
            frames,
            pool: pool.clone(),
            // Two bursts are what one worker holds between a receive and the next, with room for its own frames.
            cache: MemCache::new(pool, 4 * BURST),
            counts: BenchCounts::default(),
        }
    }

    /// Frames of the list that are never given out because no buffer holds them.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The same device, giving out `frames` frames only.
    #[must_use]
    pub fn with_limit(mut self, frames: u64) -> Self {
        self.left = self.left.min(frames);
        self
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> BenchCounts {
        self.counts
    }

    /// Appends up to `want` copies of minimum frames; the hot loop.
    #[inline]
    fn rx_minimum(&mut self, want: usize, out: &mut Burst<MemBuf>) {
        let Layout::Minimum(cells) = &self.frames.0 else {
            return;
        };
        for _ in 0..want {
            let Some(mut buf) = self.cache.alloc() else {
                break;
            };
            buf.assign_fixed(&cells[self.next].0);
            out.push(buf);
            self.next = if self.next + 1 == cells.len() {
                0
            } else {
                self.next + 1
            };
        }
    }

    /// Appends up to `want` copies of frames of any length.
    fn rx_any(&mut self, want: usize, out: &mut Burst<MemBuf>) {
        for _ in 0..want {
            let frame = self.frames.get(self.next);
            let Some(mut buf) = self.cache.alloc() else {
                break;
            };
            if !buf.assign(frame) {
                self.cache.free(buf);
                let Some(large) = self.pool.alloc_for(frame.len()) else {
                    break;
                };
                buf = large;
                assert!(
                    buf.assign(frame),
                    "frames that no buffer holds were left out"
                );
            }
            out.push(buf);
            self.next = if self.next + 1 == self.frames.len() {
                0
            } else {
                self.next + 1
            };
        }
    }
}

impl PacketIo for BenchIo {
    type Buf = MemBuf;

    #[inline]
    fn rx_burst(&mut self, out: &mut Burst<MemBuf>) -> usize {
        let before = out.len();
        let want = out
            .remaining_capacity()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        match self.frames.0 {
            Layout::Minimum(_) => self.rx_minimum(want, out),
            Layout::Any { .. } => self.rx_any(want, out),
        }
        self.cache.publish();
        let n = out.len() - before;
        // "For ever" is a number that no run reaches: 2^64 frames take centuries.
        self.left -= n as u64;
        self.counts.rx_frames += n as u64;
        n
    }

    #[inline]
    fn tx_burst(&mut self, burst: &mut Burst<MemBuf>) -> usize {
        let n = burst.len();
        let mut bytes = 0;
        for buf in burst.drain(..) {
            bytes += buf.data().len() as u64;
            self.cache.free(buf);
        }
        self.cache.publish();
        self.counts.tx_frames += n as u64;
        self.counts.tx_bytes += bytes;
        n
    }

    fn alloc(&mut self) -> Option<MemBuf> {
        self.cache.alloc()
    }
}

// A frame and its headroom never share their first cache line with what a buffer's neighbour writes.
const _: () = assert!(HEADROOM >= 64);
