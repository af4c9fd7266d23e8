//! Buffers, the pool that they come from, and the cache that keeps one thread off the pool's shared queue.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::net::PacketBuf;

/// Bytes in front of every fresh frame, for headers that are put before it.
pub const HEADROOM: usize = 128;

/// Bytes of frame that a large buffer holds: more than the largest IPv4 packet behind an Ethernet header (65,549), such
/// as captures of segmentation offload contain.
pub const LARGE_ROOM: usize = 65_550;

/// A buffer's memory and state. It is allocated once and never moves: a [`MemBuf`] is one pointer to it, so that moving
/// frames between lists costs what it costs with a card's buffers.
#[derive(Debug)]
struct Slot {
    start: u32,
    end: u32,
    /// Tells the size class by its length.
    storage: Box<[u8]>,
    /// Where it returns to; `None` while it is there, which would otherwise never end.
    home: Option<Arc<Home>>,
}

/// The free buffers of both sizes.
#[derive(Debug)]
struct Home {
    small: ArrayQueue<Box<Slot>>,
    large: ArrayQueue<Box<Slot>>,
    small_bytes: usize,
    /// The longest frame that one of the buffers can hold.
    longest: usize,
    /// Buffers that are free in some thread's cache.
    cached: AtomicUsize,
}

impl Home {
    fn give_back(&self, slot: Box<Slot>) {
        let small = slot.storage.len() == self.small_bytes;
        let queue = if small { &self.small } else { &self.large };
        queue
            .push(slot)
            .expect("the queue has a place for every buffer of its size");
    }
}

/// A pool of buffers with a fixed number and an exact free count. Clones share the buffers.
#[derive(Clone, Debug)]
pub struct MemPool {
    home: Arc<Home>,
}

impl MemPool {
    /// A pool of `count` buffers for frames of up to `data_room` bytes behind [`HEADROOM`] bytes of headroom.
    #[must_use]
    pub fn new(count: usize, data_room: usize) -> Self {
        Self::with_large(count, data_room, 0)
    }

    /// Like [`Self::new`], with `large_count` buffers of [`LARGE_ROOM`] besides.
    ///
    /// # Panics
    /// When `data_room` is not below [`LARGE_ROOM`] although there are large buffers.
    #[must_use]
    pub fn with_large(count: usize, data_room: usize, large_count: usize) -> Self {
        assert!(
            large_count == 0 || data_room < LARGE_ROOM,
            "small buffers are the smaller ones"
        );
        let small_bytes = HEADROOM + data_room;
        let home = Home {
            small: filled(count, small_bytes),
            large: filled(large_count, HEADROOM + LARGE_ROOM),
            small_bytes,
            longest: if large_count == 0 {
                data_room
            } else {
                LARGE_ROOM
            },
            cached: AtomicUsize::new(0),
        };
        Self {
            home: Arc::new(home),
        }
    }

    /// A free, empty buffer of the small size. Takes no lock and allocates nothing.
    #[must_use]
    pub fn alloc(&self) -> Option<MemBuf> {
        self.home
            .small
            .pop()
            .map(|slot| MemBuf::new(slot, &self.home))
    }

    /// A free, empty buffer that has room for `len` bytes, of the smallest size that has.
    #[must_use]
    pub fn alloc_for(&self, len: usize) -> Option<MemBuf> {
        if HEADROOM + len <= self.home.small_bytes {
            return self.alloc();
        }
        if len > LARGE_ROOM {
            return None;
        }
        self.home
            .large
            .pop()
            .map(|slot| MemBuf::new(slot, &self.home))
    }

    /// The longest frame that a buffer of this pool can hold, in bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.home.longest
    }

    /// Buffers that are free. Exact while no other thread is amid taking or returning one.
    #[must_use]
    pub fn available(&self) -> usize {
        // Pairs with the Release in `MemCache::publish`.
        self.home.small.len() + self.home.large.len() + self.home.cached.load(Ordering::Acquire)
    }
}

/// `count` buffers of `bytes` bytes. A queue has at least one place.
fn filled(count: usize, bytes: usize) -> ArrayQueue<Box<Slot>> {
    let queue = ArrayQueue::new(count.max(1));
    for _ in 0..count {
        let storage = vec![0; bytes].into_boxed_slice();
        let slot = Slot {
            start: 0,
            end: 0,
            storage,
            home: None,
        };
        queue
            .push(Box::new(slot))
            .expect("the queue has a place for each");
    }
    queue
}

/// One frame in memory. Dropping it, on whatever thread, returns the memory to its pool.
pub struct MemBuf(Option<Box<Slot>>);

/// Why [`MemBuf`] is never seen without its slot.
const HAS_SLOT: &str = "a buffer has its slot until it is dropped";

#[allow(clippy::cast_possible_truncation)] // Pools have buffers far below 4 GB.
impl MemBuf {
    fn new(mut slot: Box<Slot>, home: &Arc<Home>) -> Self {
        slot.home = Some(Arc::clone(home));
        let mut buf = Self(Some(slot));
        buf.clear();
        buf
    }

    #[inline]
    fn slot(&self) -> &Slot {
        self.0.as_ref().expect(HAS_SLOT)
    }

    #[inline]
    fn slot_mut(&mut self) -> &mut Slot {
        self.0.as_mut().expect(HAS_SLOT)
    }

    /// Makes the frame equal to `bytes`, with whole headroom. The constant length makes this a few moves, which is
    /// what the memory device's cost per packet rests on.
    ///
    /// # Panics
    /// When the buffer is smaller.
    #[inline]
    pub(super) fn assign_fixed<const N: usize>(&mut self, bytes: &[u8; N]) {
        let slot = self.slot_mut();
        slot.start = HEADROOM as u32;
        slot.end = (HEADROOM + N) as u32;
        slot.storage[HEADROOM..HEADROOM + N].copy_from_slice(bytes);
    }

    #[inline]
    fn clear(&mut self) {
        let slot = self.slot_mut();
        slot.start = HEADROOM as u32;
        slot.end = HEADROOM as u32;
    }
}

impl Slot {
    #[inline]
    fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl fmt::Debug for MemBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemBuf")
            .field("data", &self.data())
            .field("headroom", &self.slot().start)
            .field("bytes", &self.slot().storage.len())
            .finish()
    }
}

#[allow(clippy::cast_possible_truncation)] // Lengths are held against the buffer's before they are cut.
impl PacketBuf for MemBuf {
    #[inline]
    fn data(&self) -> &[u8] {
        let slot = self.slot();
        &slot.storage[slot.range()]
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        let slot = self.slot_mut();
        let range = slot.range();
        &mut slot.storage[range]
    }

    #[inline]
    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        let slot = self.slot_mut();
        let start = (slot.start as usize).checked_sub(n)?;
        slot.start = start as u32;
        Some(&mut slot.storage[start..start + n])
    }

    #[inline]
    fn trim_front(&mut self, n: usize) {
        let slot = self.slot_mut();
        assert!(
            n <= slot.range().len(),
            "a frame can't lose more bytes than it has"
        );
        slot.start += n as u32;
    }

    #[inline]
    fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        let slot = self.slot_mut();
        let end = slot.end as usize;
        let room = slot.storage.get_mut(end..end.checked_add(n)?)?;
        slot.end += n as u32;
        Some(room)
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        let slot = self.slot_mut();
        if len < slot.range().len() {
            slot.end = slot.start + len as u32;
        }
    }
}

impl Drop for MemBuf {
    fn drop(&mut self) {
        if let Some(mut slot) = self.0.take()
            && let Some(home) = slot.home.take()
        {
            home.give_back(slot);
        }
    }
}

/// The free buffers of one thread: taking and returning here costs neither an atomic operation nor a fence. What
/// other code drops goes to the pool's shared queue, from where the cache refills itself.
#[derive(Debug)]
pub struct MemCache {
    free: Vec<MemBuf>,
    home: Arc<Home>,
    /// How many of `free` the pool knows of.
    published: usize,
}

impl MemCache {
    /// An empty cache of at most `capacity` small buffers of `pool`.
    #[must_use]
    pub fn new(pool: &MemPool, capacity: usize) -> Self {
        let (free, home) = (Vec::with_capacity(capacity), Arc::clone(&pool.home));
        Self {
            free,
            home,
            published: 0,
        }
    }

    /// A free, empty buffer of the small size.
    #[inline]
    pub fn alloc(&mut self) -> Option<MemBuf> {
        if let Some(mut buf) = self.free.pop() {
            buf.clear();
            return Some(buf);
        }
        self.home
            .small
            .pop()
            .map(|slot| MemBuf::new(slot, &self.home))
    }

    /// Takes a buffer back. One of another pool or size, or beyond the capacity, goes to its pool.
    #[inline]
    pub fn free(&mut self, buf: MemBuf) {
        let slot = buf.slot();
        let ours = slot.storage.len() == self.home.small_bytes
            && slot
                .home
                .as_ref()
                .is_some_and(|home| Arc::ptr_eq(home, &self.home));
        if ours && self.free.len() < self.free.capacity() {
            self.free.push(buf);
        }
    }

    /// Tells the pool how many free buffers are here, for [`MemPool::available`]. Once per burst.
    #[inline]
    pub fn publish(&mut self) {
        let now = self.free.len();
        if now != self.published {
            // The difference wraps on purpose: adding it is subtracting its negative. Pairs with the Acquire in
            // `MemPool::available`.
            self.home
                .cached
                .fetch_add(now.wrapping_sub(self.published), Ordering::Release);
            self.published = now;
        }
    }
}

impl Drop for MemCache {
    fn drop(&mut self) {
        self.free.clear();
        self.publish();
    }
}
