//! Buffers: one pool for all ports that exchange frames.
//!
//! Owns the mempool. Knows no port. Invariant: the memory is freed only when every buffer is back.

use std::error::Error;
use std::ffi::CString;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dpdk_sys as sys;

use super::eal::Eal;
use super::errno::Errno;
use super::mbuf::Mbuf;
use crate::io::BURST;

/// Frame bytes that every buffer has room for at least. Most devices want 2048.
const LEAST_ROOM: u16 = 2048;
/// What a frame has beside its IP packet: Ethernet header, two 802.1Q tags, the checksum some devices leave on, and the
/// header of virtio, whose driver wants room for it behind the headroom.
const FRAME_OVERHEAD: u16 = 14 + 8 + 4 + 12;
/// Buffers that a registered thread may keep for itself, at most.
const CACHE: u32 = 256;
/// Memory of a buffer beside its bytes: the mbuf, the mempool's headers and cache-line padding.
const BUFFER_OVERHEAD: u64 = 128 + 64 + 64;

/// How many buffers, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Number of buffers. One less than a power of two wastes no memory.
    pub buffers: u32,
    /// Bytes for a frame, behind the headroom.
    pub room: u16,
}

impl PoolConfig {
    /// A pool that the queues cannot exhaust: every descriptor of every queue filled, every worker's cache and bursts
    /// full, and `held` buffers in rings and reassembly.
    ///
    /// `queue_pairs` counts those of all ports, `descriptors` those of each queue, `mtu` is the largest of any port.
    #[must_use]
    pub fn for_queues(
        queue_pairs: u32,
        descriptors: u16,
        workers: u32,
        held: u32,
        mtu: u16,
    ) -> Self {
        let in_queues = queue_pairs.saturating_mul(2 * u32::from(descriptors));
        // A cache grows to one and a half times its size before it spills.
        let in_workers = workers.saturating_mul(CACHE * 3 / 2 + 4 * BURST as u32);
        let least = in_queues.saturating_add(in_workers).saturating_add(held);
        Self {
            // Not rounded up to a power of two: that would save 8 bytes for each place in the pool's ring and cost 2 kB
            // for each buffer.
            buffers: least.clamp(1023, (1 << 31) - 1),
            room: mtu.saturating_add(FRAME_OVERHEAD).max(LEAST_ROOM),
        }
    }

    /// Memory that the pool takes, in MiB, rounded up.
    #[must_use]
    pub fn memory_mb(&self) -> u64 {
        let each = u64::from(self.room) + u64::from(sys::POLDER_HEADROOM) + BUFFER_OVERHEAD;
        (u64::from(self.buffers) * each).div_ceil(1 << 20)
    }
}

/// Why there is no pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolError {
    /// No buffers, or more bytes per buffer than 16 bits count.
    Size(PoolConfig),
    /// DPDK refused, mostly for want of memory.
    Refused {
        /// What was asked for.
        config: PoolConfig,
        /// Its reason.
        errno: Errno,
        /// What it logged.
        said: String,
    },
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(config) => {
                write!(
                    f,
                    "a pool cannot have {} buffers of {} bytes",
                    config.buffers, config.room
                )
            }
            Self::Refused {
                config,
                errno,
                said,
            } => write!(
                f,
                "no memory for {} packet buffers ({} MB): {errno}{}{said}; raise `dpdk.memory`",
                config.buffers,
                config.memory_mb(),
                if said.is_empty() { "" } else { ", " },
            ),
        }
    }
}

impl Error for PoolError {}

/// A handle of a pool; clones are handles of the same.
///
/// When the last handle goes while buffers are outstanding (which [`Pool::outstanding`] tells), the memory stays mapped
/// until the process ends: their owners may still touch it.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    raw: NonNull<sys::rte_mempool>,
    config: PoolConfig,
    eal: Eal,
}

// SAFETY: a mempool is made for use by several threads (it is created with the multi-producer, multi-consumer default),
// and what is done through this handle beside that is reading counts and freeing it once.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Pool {
    /// Makes a pool in EAL's memory.
    ///
    /// # Errors
    /// `Size` and `Refused`.
    pub fn create(eal: &Eal, config: PoolConfig) -> Result<Self, PoolError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let data_room = config
            .room
            .checked_add(sys::POLDER_HEADROOM)
            .ok_or(PoolError::Size(config))?;
        if config.buffers == 0 {
            return Err(PoolError::Size(config));
        }
        let name = format!("polder{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(name).expect("the name is made of letters and digits");
        let cache = (config.buffers / 8).min(CACHE);
        let (raw, said) = eal.control(|_| {
            // SAFETY: EAL is running; the name is NUL-terminated and copied; -1 means memory of any NUMA node.
            let raw = unsafe {
                sys::rte_pktmbuf_pool_create(name.as_ptr(), config.buffers, cache, 0, data_room, -1)
            };
            NonNull::new(raw).ok_or_else(Errno::last)
        });
        let raw = raw.map_err(|errno| PoolError::Refused {
            config,
            errno,
            said,
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                raw,
                config,
                eal: eal.clone(),
            }),
        })
    }

    /// Number of buffers, free or not.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.shared.config.buffers
    }

    /// Bytes that a buffer has for a frame behind the headroom.
    #[must_use]
    pub fn room(&self) -> u16 {
        self.shared.config.room
    }

    /// The largest MTU whose frames fit a buffer.
    #[must_use]
    pub fn largest_mtu(&self) -> u16 {
        self.room().saturating_sub(FRAME_OVERHEAD)
    }

    /// Buffers that are free now, those in threads' caches included. Exact when no other thread is at it.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.shared.available()
    }

    /// Buffers that somebody holds: a driver's queue, a ring, a burst.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.size() - self.available()
    }

    /// An empty buffer with the headroom that DPDK was built with (128 bytes), or `None` when all are taken.
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool is alive as long as this handle.
        let raw = unsafe { sys::polder_alloc(self.as_ptr()) };
        // SAFETY: a non-null result is an initialised mbuf that the pool has just handed to us alone.
        unsafe { Mbuf::from_raw(raw) }
    }

    /// A copy of `frame` in one buffer of this pool, or `None` when it is too long or no buffer is free.
    pub(super) fn copy_of(&self, frame: &Mbuf) -> Option<Mbuf> {
        if frame.total_len() > u32::from(self.room()) {
            return None;
        }
        // SAFETY: both are alive; the length is clamped to the frame's by the callee.
        let raw = unsafe { sys::rte_pktmbuf_copy(frame.as_ptr(), self.as_ptr(), 0, u32::MAX) };
        // SAFETY: as in `alloc`. The frame fits one buffer, so the copy has one segment.
        unsafe { Mbuf::from_raw(raw) }
    }

    pub(super) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.shared.raw.as_ptr()
    }
}

impl Shared {
    fn available(&self) -> u32 {
        // SAFETY: the pool is alive as long as `self`.
        unsafe { sys::rte_mempool_avail_count(self.raw.as_ptr()) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.available() == self.config.buffers {
            let raw = self.raw.as_ptr();
            // SAFETY: this was the last handle, ports hold handles of their own, and no buffer is outstanding.
            self.eal.control(|_| unsafe { sys::rte_mempool_free(raw) });
        } else {
            self.eal.pin();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, room) = (self.size(), self.room());
        f.debug_struct("Pool")
            .field("size", &size)
            .field("room", &room)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_covers_every_place_where_a_buffer_can_be() {
        let config = PoolConfig::for_queues(4, 1024, 2, 0, 1500);
        assert!(config.buffers >= 4 * 2 * 1024 + 2 * 256, "{config:?}");
        assert!(config.buffers < 4 * 2 * 1024 + 2 * 1024, "{config:?}");
        assert_eq!(config.room, 2048);
    }

    #[test]
    fn a_buffer_holds_a_frame_of_the_largest_mtu() {
        assert_eq!(PoolConfig::for_queues(1, 64, 1, 0, 9000).room, 9038);
    }

    #[test]
    fn absurd_numbers_do_not_overflow() {
        let config = PoolConfig::for_queues(u32::MAX, u16::MAX, u32::MAX, u32::MAX, u16::MAX);
        assert!(
            config.memory_mb() > 0 && config.buffers > 1 << 30,
            "{config:?}"
        );
    }
}
