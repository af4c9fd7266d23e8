//! A device whose wire is a handle that a test holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;

use super::{MemBuf, MemPool};
use crate::io::{Burst, PacketIo};
use crate::net::PacketBuf;

/// Frames that the two queues of a device hold at most; at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueCapacity {
    /// Frames that wait to be received.
    pub rx: usize,
    /// Frames that were sent and wait to be looked at. When it is reached the device takes no more.
    pub tx: usize,
}

#[derive(Debug)]
struct Wire {
    rx: ArrayQueue<MemBuf>,
    tx: ArrayQueue<MemBuf>,
    /// Frames that the device takes per call at most.
    tx_limit: AtomicUsize,
}

/// The device's side.
#[derive(Debug)]
pub struct MemIo {
    wire: Arc<Wire>,
    pool: MemPool,
}

/// The other end of the wire. It may live on another thread.
#[derive(Clone, Debug)]
pub struct MemHandle {
    wire: Arc<Wire>,
    pool: MemPool,
}

impl MemIo {
    /// A device with 1,024 buffers of 2,048 bytes, 16 large ones, and room for 512 frames in each direction.
    #[must_use]
    pub fn with_handle() -> (Self, MemHandle) {
        let pool = MemPool::with_large(1024, 2048, 16);
        Self::pair(&pool, QueueCapacity { rx: 512, tx: 512 })
    }

    /// A device on `pool`, which several may share.
    ///
    /// # Panics
    /// When a capacity is 0.
    #[must_use]
    pub fn pair(pool: &MemPool, capacity: QueueCapacity) -> (Self, MemHandle) {
        let wire = Arc::new(Wire {
            rx: ArrayQueue::new(capacity.rx),
            tx: ArrayQueue::new(capacity.tx),
            tx_limit: AtomicUsize::new(usize::MAX),
        });
        let device = Self {
            wire: Arc::clone(&wire),
            pool: pool.clone(),
        };
        (
            device,
            MemHandle {
                wire,
                pool: pool.clone(),
            },
        )
    }
}

impl PacketIo for MemIo {
    type Buf = MemBuf;

    fn rx_burst(&mut self, out: &mut Burst<MemBuf>) -> usize {
        let before = out.len();
        while !out.is_full() {
            let Some(buf) = self.wire.rx.pop() else { break };
            out.push(buf);
        }
        out.len() - before
    }

    fn tx_burst(&mut self, burst: &mut Burst<MemBuf>) -> usize {
        let queue = &self.wire.tx;
        // Only this device puts frames in, so the room can't shrink meanwhile.
        let room = queue.capacity() - queue.len();
        let n = burst
            .len()
            .min(room)
            .min(self.wire.tx_limit.load(Ordering::Relaxed));
        for buf in burst.drain(..n) {
            queue.push(buf).expect("there is room for n frames");
        }
        n
    }

    fn alloc(&mut self) -> Option<MemBuf> {
        self.pool.alloc()
    }
}

impl MemHandle {
    /// Puts a copy of `frame` on the wire to the device; `false` when the queue or the pool has no room for it.
    #[must_use = "a frame that found no room is lost"]
    pub fn push(&self, frame: &[u8]) -> bool {
        let Some(mut buf) = self.pool.alloc_for(frame.len()) else {
            return false;
        };
        buf.assign(frame) && self.wire.rx.push(buf).is_ok()
    }

    /// The oldest frame that the device sent and nobody took yet.
    #[must_use]
    pub fn pop(&self) -> Option<Vec<u8>> {
        self.wire.tx.pop().map(|buf| buf.data().to_vec())
    }

    /// Everything that the device sent and nobody took yet, oldest first.
    #[must_use]
    pub fn drain(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.pop()).collect()
    }

    /// Lets the device take at most `frames` per call from now on, as a busy card does.
    pub fn set_tx_limit(&self, frames: usize) {
        self.wire.tx_limit.store(frames, Ordering::Relaxed);
    }

    /// Frames that wait to be received.
    #[must_use]
    pub fn rx_pending(&self) -> usize {
        self.wire.rx.len()
    }

    /// Where the device's buffers come from.
    #[must_use]
    pub fn pool(&self) -> &MemPool {
        &self.pool
    }
}
