//! One receive and one transmit queue of a port, as a worker polls them.
//!
//! Owns the queue numbers, nothing else; it keeps the port running by holding it. Invariant: there is at most one
//! `DpdkQueue` per number of a port, so no two threads poll the same queue.

use std::fmt;
use std::sync::Arc;

use dpdk_sys as sys;

use super::mbuf::Mbuf;
use super::running::Running;
use crate::io::{Burst, PacketIo};

/// A queue pair of a port. A device may have fewer of one kind than workers want: then the pair has one half only.
pub struct DpdkQueue {
    port: Arc<Running>,
    index: u16,
    receives: bool,
    transmits: bool,
}

impl DpdkQueue {
    /// The caller makes one per index.
    pub(super) fn new(port: Arc<Running>, index: u16, receives: bool, transmits: bool) -> Self {
        Self {
            port,
            index,
            receives,
            transmits,
        }
    }

    /// Whether frames can come. If not, `rx_burst` always returns 0.
    #[must_use]
    pub fn receives(&self) -> bool {
        self.receives
    }

    /// Whether frames can be sent. If not, `tx_burst` takes none.
    #[must_use]
    pub fn transmits(&self) -> bool {
        self.transmits
    }

    /// Mends the frames from `first` on that are not whole in one buffer of their own; those that cannot be are freed
    /// and counted.
    #[cold]
    fn mend(&self, out: &mut Burst<Mbuf>, first: usize) {
        let mut at = first;
        while at < out.len() {
            if out[at].is_plain() {
                at += 1;
                continue;
            }
            match self.mended(out.remove(at)) {
                Some(frame) => {
                    out.insert(at, frame);
                    at += 1;
                }
                None => self.port.count_unfit(self.index),
            }
        }
    }

    fn mended(&self, frame: Mbuf) -> Option<Mbuf> {
        let mut frame = if frame.is_shared_or_chained() {
            self.port.pool.copy_of(&frame)?
        } else {
            frame
        };
        frame.restore_tag().then_some(frame)
    }
}

impl PacketIo for DpdkQueue {
    type Buf = Mbuf;

    #[inline]
    fn rx_burst(&mut self, out: &mut Burst<Mbuf>) -> usize {
        let first = out.len();
        let room = out.remaining_capacity();
        if !self.receives || room == 0 {
            return 0;
        }
        let free = out
            .as_mut_ptr()
            .wrapping_add(first)
            .cast::<*mut sys::rte_mbuf>();
        // SAFETY: `free` has room for `room` pointers, as wide as a `Mbuf` each; the port runs while `self` holds it,
        // and this is the only user of the queue.
        let came = unsafe { sys::polder_rx_burst(self.port.id, self.index, free, room as u16) };
        // SAFETY: the driver wrote `came` mbufs, non-null and ours now, into the first free slots.
        unsafe { out.set_len(first + usize::from(came)) };
        if !out[first..].iter().all(Mbuf::is_plain) {
            self.mend(out, first);
        }
        out.len() - first
    }

    #[inline]
    fn tx_burst(&mut self, burst: &mut Burst<Mbuf>) -> usize {
        let count = burst.len();
        if !self.transmits || count == 0 {
            return 0;
        }
        let frames = burst.as_mut_ptr();
        let raw = frames.cast::<*mut sys::rte_mbuf>();
        // SAFETY: the list holds `count` mbufs that we own; the port runs while `self` holds it, and this is the only
        // user of the queue.
        let sent = unsafe { sys::polder_tx_burst(self.port.id, self.index, raw, count as u16) };
        let (sent, left) = (usize::from(sent), count - usize::from(sent));
        // SAFETY: both ranges are within the list's `count` elements, and overlap is allowed.
        unsafe { frames.wrapping_add(sent).copy_to(frames, left) };
        // SAFETY: the driver took ownership of the first `sent` mbufs, so exactly those leave the list undropped; the
        // remaining `left` are at its front.
        unsafe { burst.set_len(left) };
        sent
    }

    fn alloc(&mut self) -> Option<Mbuf> {
        self.port.pool.alloc()
    }
}

impl fmt::Debug for DpdkQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DpdkQueue({}/{})", self.port.id, self.index)
    }
}
