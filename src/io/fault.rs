//! A wrapper that makes any device a bad one, the same way every time for the same seed.
//!
//! Owns the frames that it holds back, at most a few bursts. Invariant: every frame of the inner device is delivered,
//! counted as dropped, or held; nothing is delivered that did not come, save counted duplicates.

use std::collections::VecDeque;

use super::rng::SplitMix64;
use super::{BURST, Burst, PacketIo};
use crate::net::PacketBuf;

/// How often what happens: so many of 1,000 received frames, or of 1,000 calls for `short_tx`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// The frame is lost.
    pub drop: u16,
    /// The frame comes twice.
    pub duplicate: u16,
    /// The frame comes after one or more that followed it.
    pub reorder: u16,
    /// The frame loses bytes at its end, perhaps all.
    pub truncate: u16,
    /// One bit of the frame is inverted.
    pub bit_flip: u16,
    /// The device is offered, and so takes, only some of the frames to be sent.
    pub short_tx: u16,
}

/// How often it did happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Frames lost.
    pub dropped: u64,
    /// Frames that came twice.
    pub duplicated: u64,
    /// Frames held back.
    pub reordered: u64,
    /// Frames that lost bytes.
    pub truncated: u64,
    /// Frames with a wrong bit.
    pub bit_flipped: u64,
    /// Calls that offered less than there was.
    pub short_tx: u64,
}

/// A device with faults. They befall received frames; of sending only the number taken is affected.
#[derive(Debug)]
pub struct Fault<I: PacketIo> {
    inner: I,
    rates: FaultRates,
    random: SplitMix64,
    /// Frames to be delivered, in order.
    ready: VecDeque<I::Buf>,
    /// The frame that is being held back.
    held: Option<I::Buf>,
    counts: FaultCounts,
}

impl<I: PacketIo> Fault<I> {
    /// `inner` with faults that `seed` decides.
    #[must_use]
    pub fn new(inner: I, rates: FaultRates, seed: u64) -> Self {
        let ready = VecDeque::with_capacity(4 * BURST);
        let (random, counts) = (SplitMix64(seed), FaultCounts::default());
        Self {
            inner,
            rates,
            random,
            ready,
            held: None,
            counts,
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// The wrapped device.
    pub fn inner_mut(&mut self) -> &mut I {
        &mut self.inner
    }

    /// The wrapped device; frames that are held go back to their pool.
    #[must_use]
    pub fn into_inner(self) -> I {
        self.inner
    }

    fn hit(&mut self, per_mille: u16) -> bool {
        // A fault that is off draws no number, so that adding one leaves the others' choices of other seeds alone.
        per_mille > 0 && self.random.below(1000) < usize::from(per_mille)
    }

    /// Receives one burst from the inner device and lets faults befall it. A frame that is held back while nothing
    /// follows it is delivered, so that none waits for ever.
    fn poll(&mut self) {
        let mut fresh = Burst::new();
        self.inner.rx_burst(&mut fresh);
        if fresh.is_empty() {
            self.ready.extend(self.held.take());
        }
        for buf in fresh {
            self.befall(buf);
        }
    }

    fn befall(&mut self, mut buf: I::Buf) {
        if self.hit(self.rates.drop) {
            self.counts.dropped += 1;
            return;
        }
        if self.hit(self.rates.truncate) {
            self.truncate(&mut buf);
        }
        if self.hit(self.rates.bit_flip) {
            self.flip(&mut buf);
        }
        if self.hit(self.rates.duplicate) {
            self.duplicate(&buf);
        }
        self.order(buf);
    }

    fn truncate(&mut self, buf: &mut I::Buf) {
        let len = buf.data().len();
        if len > 0 {
            buf.truncate(self.random.below(len));
            self.counts.truncated += 1;
        }
    }

    fn flip(&mut self, buf: &mut I::Buf) {
        let bits = buf.data().len() * 8;
        if bits > 0 {
            let bit = self.random.below(bits);
            buf.data_mut()[bit / 8] ^= 1 << (bit % 8);
            self.counts.bit_flipped += 1;
        }
    }

    /// Delivers a copy, where the device has a buffer that holds it.
    fn duplicate(&mut self, buf: &I::Buf) {
        if let Some(mut copy) = self.inner.alloc()
            && copy.assign(buf.data())
        {
            self.ready.push_back(copy);
            self.counts.duplicated += 1;
        }
    }

    /// Holds `buf` back, or delivers it and then, as often as not, the one that is held.
    fn order(&mut self, buf: I::Buf) {
        if self.held.is_none() && self.hit(self.rates.reorder) {
            self.held = Some(buf);
            self.counts.reordered += 1;
            return;
        }
        self.ready.push_back(buf);
        if self.held.is_some() && self.hit(500) {
            self.ready.extend(self.held.take());
        }
    }
}

impl<I: PacketIo> PacketIo for Fault<I> {
    type Buf = I::Buf;

    fn rx_burst(&mut self, out: &mut Burst<I::Buf>) -> usize {
        let room = out.remaining_capacity();
        // A burst becomes at most two and the held frame, so no more than three are ever waiting.
        if self.ready.len() < room {
            self.poll();
        }
        let n = room.min(self.ready.len());
        out.extend(self.ready.drain(..n));
        n
    }

    fn tx_burst(&mut self, burst: &mut Burst<I::Buf>) -> usize {
        if burst.is_empty() || !self.hit(self.rates.short_tx) {
            return self.inner.tx_burst(burst);
        }
        self.counts.short_tx += 1;
        let offered = self.random.below(burst.len());
        let rest: Burst<I::Buf> = burst.drain(offered..).collect();
        let taken = self.inner.tx_burst(burst);
        burst.extend(rest);
        taken
    }

    fn alloc(&mut self) -> Option<I::Buf> {
        self.inner.alloc()
    }
}
