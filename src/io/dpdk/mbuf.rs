//! DPDK's packet buffer as ours. Every access to a field of `rte_mbuf` is in this file.
//!
//! Owns nothing but the pointer. Knows no port. Invariant: a `Mbuf` is the only owner of one direct or external buffer
//! with one segment, so its bytes may be changed and read as one slice (`DpdkQueue` sees to that at reception).
//!
//! Where a field is, the C compiler said when `dpdk-sys` was built: releases move them in and out of unions.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::slice;

use dpdk_sys as sys;

use crate::io::Burst;
use crate::net::PacketBuf;

/// A frame in DPDK's memory. Dropping it gives the buffer back to its pool.
///
/// It may be dropped, changed and sent by any thread, whichever received or allocated it. A thread that does so per
/// frame should be registered ([`super::Eal::register_thread`]): the pool's cache works for such threads only.
/// All of them must be dropped before the last [`super::Pool`] handle is for the pool's memory to be freed.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: a `Mbuf` is the only owner of its buffer, the buffer is in memory of the whole process, and a pool takes
// buffers back from any thread (it is created without the single-producer flag).
unsafe impl Send for Mbuf {}

/// A field of `rte_mbuf`.
struct Field<T> {
    offset: usize,
    kind: PhantomData<T>,
}

impl<T: Copy> Field<T> {
    /// # Safety
    /// There is a field of type `T` at `offset`.
    const unsafe fn at(offset: u32) -> Self {
        Self {
            offset: offset as usize,
            kind: PhantomData,
        }
    }

    #[inline(always)] // One load, as it is in C; the offset is a constant.
    fn get(&self, frame: &Mbuf) -> T {
        let field = frame.0.as_ptr().wrapping_byte_add(self.offset).cast::<T>();
        // SAFETY: the field is there by the contract of `at`, and aligned; only the frame's owner changes it.
        unsafe { field.read() }
    }

    #[inline(always)] // One store, as it is in C; the offset is a constant.
    fn set(&self, frame: &mut Mbuf, value: T) {
        let field = frame.0.as_ptr().wrapping_byte_add(self.offset).cast::<T>();
        // SAFETY: the field is there by the contract of `at`, and aligned; the frame is borrowed exclusively.
        unsafe { field.write(value) };
    }
}

/// Declares a field. Its place comes from C, and wrapper.h asserts that it is as wide as the type named here.
macro_rules! field {
    ($name:ident: $kind:ty = $offset:ident) => {
        // SAFETY: offsetof this field; wrapper.h asserts the width.
        const $name: Field<$kind> = unsafe { Field::at(sys::$offset) };
    };
}
field!(BUF_ADDR: *mut u8 = POLDER_MBUF_BUF_ADDR);
field!(DATA_OFF: u16 = POLDER_MBUF_DATA_OFF);
field!(REFCNT: u16 = POLDER_MBUF_REFCNT);
field!(NB_SEGS: u16 = POLDER_MBUF_NB_SEGS);
field!(OL_FLAGS: u64 = POLDER_MBUF_OL_FLAGS);
field!(PKT_LEN: u32 = POLDER_MBUF_PKT_LEN);
field!(DATA_LEN: u16 = POLDER_MBUF_DATA_LEN);
field!(VLAN_TCI: u16 = POLDER_MBUF_VLAN_TCI);
field!(BUF_LEN: u16 = POLDER_MBUF_BUF_LEN);

/// Bytes of the two MAC addresses, before which an 802.1Q tag does not go.
const ADDRESSES: usize = 12;
/// An 802.1Q tag.
const TAG: usize = 4;

impl Mbuf {
    /// Takes ownership of a buffer.
    ///
    /// # Safety
    /// `raw` points to an initialised mbuf that nobody else owns, and which is given back by this drop only.
    pub(super) unsafe fn from_raw(raw: *mut sys::rte_mbuf) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    pub(super) fn as_ptr(&self) -> *mut sys::rte_mbuf {
        self.0.as_ptr()
    }

    /// Whether the buffer is as the type promises and the frame whole. The three fields share a cache line.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        const ODD: u64 = sys::POLDER_INDIRECT | sys::POLDER_RX_VLAN_STRIPPED;
        NB_SEGS.get(self) == 1 && REFCNT.get(self) == 1 && OL_FLAGS.get(self) & ODD == 0
    }

    /// Whether the frame lies in several buffers, or in one that others read too.
    pub(super) fn is_shared_or_chained(&self) -> bool {
        NB_SEGS.get(self) != 1
            || REFCNT.get(self) != 1
            || OL_FLAGS.get(self) & sys::POLDER_INDIRECT != 0
    }

    /// The frame's length over all of its segments, in bytes.
    pub(super) fn total_len(&self) -> u32 {
        PKT_LEN.get(self)
    }

    /// Puts an 802.1Q tag that the device took out back into the frame. `false` when there is no room, and then the
    /// frame lacks it.
    pub(super) fn restore_tag(&mut self) -> bool {
        let flags = OL_FLAGS.get(self);
        if flags & sys::POLDER_RX_VLAN_STRIPPED == 0 {
            return true;
        }
        let tci = VLAN_TCI.get(self).to_be_bytes();
        if self.data().len() < ADDRESSES || self.prepend(TAG).is_none() {
            return false;
        }
        let data = self.data_mut();
        data.copy_within(TAG..TAG + ADDRESSES, 0);
        data[ADDRESSES..ADDRESSES + 2].copy_from_slice(&0x8100_u16.to_be_bytes());
        data[ADDRESSES + 2..ADDRESSES + TAG].copy_from_slice(&tci);
        let cleared = flags & !(sys::POLDER_RX_VLAN_STRIPPED | sys::POLDER_RX_VLAN);
        OL_FLAGS.set(self, cleared);
        true
    }

    /// Frees a burst of frames in one call, at two thirds of the cost of dropping them one by one.
    pub fn free_burst(burst: &mut Burst<Self>) {
        let count = burst.len();
        // SAFETY: zero is at most the capacity. The frames leave the list undropped and are freed below.
        unsafe { burst.set_len(0) };
        let frames = burst.as_mut_ptr().cast::<*mut sys::rte_mbuf>();
        // SAFETY: a `Mbuf` is one non-null pointer, so the first `count` slots hold that many mbufs that we own.
        unsafe { sys::rte_pktmbuf_free_bulk(frames, count as u32) };
    }

    #[inline]
    fn set_len(&mut self, len: u16) {
        DATA_LEN.set(self, len);
        PKT_LEN.set(self, u32::from(len));
    }

    /// Bytes free behind the frame.
    #[inline]
    fn tailroom(&self) -> usize {
        let used = usize::from(DATA_OFF.get(self)) + usize::from(DATA_LEN.get(self));
        usize::from(BUF_LEN.get(self)).saturating_sub(used)
    }
}

impl PacketBuf for Mbuf {
    #[inline]
    fn data(&self) -> &[u8] {
        let start = BUF_ADDR
            .get(self)
            .wrapping_add(usize::from(DATA_OFF.get(self)));
        // SAFETY: DPDK keeps data_off + data_len within the buffer and so do we; pool memory was zeroed by the kernel,
        // hence initialised; the frame is borrowed for as long as the slice.
        unsafe { slice::from_raw_parts(start, usize::from(DATA_LEN.get(self))) }
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        let start = BUF_ADDR
            .get(self)
            .wrapping_add(usize::from(DATA_OFF.get(self)));
        // SAFETY: as in `data`; the frame is the buffer's only owner and is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(start, usize::from(DATA_LEN.get(self))) }
    }

    #[inline]
    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        let added = u16::try_from(n).ok()?;
        let offset = DATA_OFF.get(self).checked_sub(added)?;
        let len = DATA_LEN.get(self).checked_add(added)?;
        DATA_OFF.set(self, offset);
        self.set_len(len);
        Some(&mut self.data_mut()[..n])
    }

    #[inline]
    fn trim_front(&mut self, n: usize) {
        let len = self.data().len();
        assert!(
            n <= len,
            "cannot remove {n} bytes from the front of a frame of {len}"
        );
        let removed = n as u16; // It is at most `len`, which came from 16 bits.
        let offset = DATA_OFF.get(self);
        DATA_OFF.set(self, offset + removed);
        self.set_len(len as u16 - removed);
    }

    #[inline]
    fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.tailroom() {
            return None;
        }
        let len = DATA_LEN.get(self);
        self.set_len(len + n as u16); // Together at most the buffer's length, which has 16 bits.
        Some(&mut self.data_mut()[usize::from(len)..])
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        if len < self.data().len() {
            self.set_len(len as u16); // Below a length that came from 16 bits.
        }
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        let mut raw = self.0.as_ptr();
        // SAFETY: this is the buffer's only owner, and it is given back once, here.
        unsafe { sys::rte_pktmbuf_free_bulk(&raw mut raw, 1) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mbuf({} bytes)", self.data().len())
    }
}

/// What drivers do to buffers and we never: for tests of what the queue makes of it.
#[cfg(test)]
impl Mbuf {
    /// As if the device had taken the frame's tag out.
    pub(super) fn mark_stripped(&mut self, tci: u16) {
        let flags = OL_FLAGS.get(self) | sys::POLDER_RX_VLAN_STRIPPED | sys::POLDER_RX_VLAN;
        OL_FLAGS.set(self, flags);
        VLAN_TCI.set(self, tci);
    }

    /// A second owner of the same buffer, which breaks the type's invariant until one of them goes.
    pub(super) fn share(&self) -> Self {
        let mut other = Self(self.0);
        REFCNT.set(&mut other, REFCNT.get(self) + 1);
        other
    }

    /// Appends a segment.
    pub(super) fn chain(&mut self, next: Self) {
        let field: Field<*mut sys::rte_mbuf> = {
            // SAFETY: offsetof this field; wrapper.h asserts the width.
            unsafe { Field::at(sys::POLDER_MBUF_NEXT) }
        };
        let total = PKT_LEN.get(self) + PKT_LEN.get(&next);
        PKT_LEN.set(self, total);
        NB_SEGS.set(self, 2);
        field.set(self, next.0.as_ptr());
        std::mem::forget(next);
    }
}
