//! The fragment store of one worker, IPv4 (RFC 791 §3.2) and IPv6 (RFC 8200 §4.5).
//!
//! Holds the frames of a datagram as they came and gives them back in the order of their offsets once they are all
//! there; bytes are copied only for those who need the message in one piece ([`gather`]). Knows nothing of
//! services, routes or other workers, and no clock: `now` is handed in. Allocates only when it is made.
//!
//! Invariant: every frame that is given in comes out exactly once, through the `lose` callback of
//! [`Reassembly::add`], [`Reassembly::expire`] and [`Reassembly::drain`], or in a [`Datagram`]; and the parts held of
//! one datagram never overlap.
//!
//! # Bounds
//!
//! | What | At most | Beyond it |
//! |---|---|---|
//! | datagrams | [`DATAGRAMS_MAX`] | the oldest makes room ([`DropReason::FragmentTableFull`]) |
//! | frames | [`FRAMES_MAX`] | the oldest other datagram makes room (likewise) |
//! | datagrams of one source | [`SOURCE_DATAGRAMS_MAX`] | its oldest makes room ([`DropReason::FragmentSourceLimit`]) |
//! | fragments of a datagram | [`FRAGMENTS_MAX`] | the datagram is refused ([`DropReason::FragmentTooBig`]) |
//! | bytes of a datagram | [`DATAGRAM_BYTES_MAX`] | the fragment is dropped ([`DropReason::FragmentTooBig`]) |
//! | time | 30 s in IPv4, 60 s in IPv6 | [`DropReason::FragmentTimeout`] |
//!
//! The oldest goes rather than the newest, because a datagram that is not going to be whole is old, and one that is
//! going to be is young: its fragments follow each other within milliseconds. So whoever fills the store with
//! fragments that never complete, from one address or from a million, displaces his own, and a datagram whose
//! fragments come together completes as long as fewer than [`DATAGRAMS_MAX`] others begin meanwhile (and fewer than
//! [`SOURCE_DATAGRAMS_MAX`] in its source's name).
//!
//! The store itself takes [`Reassembly::MEMORY_BYTES`] per worker (about 300 kB), and holds at most [`FRAMES_MAX`]
//! buffers of the device's pool, which has to be larger by that.
//!
//! Expected cost of a fragment: two keyed hashes, one chain each, two or three cold lines of the store and one of the
//! frame it follows; measured at about 100 ns, the same under a flood, where each fragment displaces one.
//!
//! # Datagrams that are refused
//!
//! When fragments overlap, by as little as a byte, the whole datagram goes (RFC 5722 §4, RFC 8200 §4.5; for IPv4 no
//! sender does that either), and its key is remembered until its time is over, so that the rest goes the same way. An
//! exact duplicate, which a network may make, goes alone ([`DropReason::FragmentDuplicate`]).

mod datagram;
mod info;
mod lists;
#[cfg(test)]
mod tests;

pub use datagram::{Datagram, gather};
pub use info::{DatagramKey, FragmentInfo};

use crate::forward::{PIECES_MAX, Piece, Pieces, PortId};
use crate::net::{Addr6, Af, DropReason, HashKey, PacketBuf, Tick};
use lists::{Buckets, Ends, Links, NONE, Slot, slots};

/// Datagrams that are put together at once, with those that were refused and are remembered.
pub const DATAGRAMS_MAX: usize = 1_024;
/// Frames held at once.
pub const FRAMES_MAX: usize = 4_096;
/// Datagrams of one source address among [`DATAGRAMS_MAX`].
pub const SOURCE_DATAGRAMS_MAX: usize = 64;
/// Fragments of one datagram: 65,535 bytes in pieces of 1,024.
pub const FRAGMENTS_MAX: usize = PIECES_MAX;
/// Bytes of one datagram: what an IP length field can say, so its header counts in IPv4, and its extension headers in
/// IPv6.
pub const DATAGRAM_BYTES_MAX: u32 = 65_535;
/// How long an IPv4 datagram may take from the first of its fragments to arrive, in ticks. RFC 1122 §3.3.2 asks for 60 to
/// 120 s; IPVS hosts wait for 30, and what takes longer than that is not coming.
pub const TIMEOUT_V4: u32 = 30 * Tick::PER_SECOND;
/// The same for IPv6, in ticks (RFC 8200 §4.5).
pub const TIMEOUT_V6: u32 = 60 * Tick::PER_SECOND;

const _: () = assert!(FRAGMENTS_MAX < FRAMES_MAX, "no datagram holds every frame");

/// Why a fragment can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reject(DropReason);

/// A frame that leaves the store without its datagram having become whole.
#[derive(Debug)]
pub struct Lost<B> {
    /// The frame, as received.
    pub buf: B,
    /// The port that it came in by.
    pub ingress: PortId,
    /// Why.
    pub reason: DropReason,
    /// Offset of its payload in the datagram's, in bytes. The first fragment (0), which has the ports and is what an ICMP
    /// "fragment reassembly time exceeded" quotes (RFC 792, RFC 4443 §3.3), comes before the others of its datagram.
    pub offset: u16,
}

/// What became of a fragment.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // A box would be an allocation per datagram.
pub enum Added<B> {
    /// It waits for the others.
    Held,
    /// It went to the `lose` callback.
    Lost,
    /// It was the last one to arrive.
    Complete(Datagram<B>),
}

#[derive(Debug)]
struct Frame<B> {
    piece: Piece<B>,
    /// The next one of the datagram, by offset.
    next: Slot,
}

/// A datagram that is not whole, or was refused.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: DatagramKey,
    bucket: u16,
    source: Slot,
    born: Tick,
    /// Counts datagrams, so that the oldest of both families is known even within one tick.
    serial: u64,
    frames: Ends,
    count: usize,
    /// Bytes held.
    received: u32,
    /// Bytes of the payload, once the last fragment told.
    total: Option<u32>,
    /// What the first fragment said.
    first: First,
    /// Why every fragment of this datagram is dropped.
    refused: Option<DropReason>,
}

#[derive(Clone, Copy, Debug, Default)]
struct First {
    proto: u8,
    transport: u16,
    header_len: u16,
}

/// The datagrams of one source address, oldest first.
#[derive(Clone, Copy, Debug)]
struct Source {
    af: Af,
    addr: Addr6,
    bucket: u16,
    datagrams: Ends,
    count: usize,
}

/// The fragment store of one worker.
#[derive(Debug)]
pub struct Reassembly<B> {
    hash_key: HashKey,
    frames: Box<[Option<Frame<B>>]>,
    free_frames: Vec<Slot>,
    entries: Box<[Option<Entry>]>,
    free_entries: Vec<Slot>,
    by_key: Buckets,
    /// Each family's datagrams, oldest first: within a family they end in the order in which they began.
    by_age: [Ends; 2],
    age_links: Links,
    sources: Box<[Option<Source>]>,
    free_sources: Vec<Slot>,
    by_addr: Buckets,
    source_links: Links,
    serial: u64,
}

const IN_USE: &str = "a slot that is in a list is in use";

impl<B: PacketBuf> Reassembly<B> {
    /// Bytes that a store allocates when it is made, and never more; the frames' buffers are not its own.
    pub const MEMORY_BYTES: usize = FRAMES_MAX
        * (size_of::<Option<Frame<B>>>() + size_of::<Slot>())
        + DATAGRAMS_MAX
            * (size_of::<Option<Entry>>()
                + size_of::<Option<Source>>()
                + 2 * (size_of::<Slot>() + 3 * size_of::<Slot>() + 2 * size_of::<Slot>()));

    /// An empty store whose places can't be aimed at by who does not know `key`.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        Self {
            hash_key: key,
            frames: std::iter::repeat_with(|| None).take(FRAMES_MAX).collect(),
            free_frames: slots(FRAMES_MAX).rev().collect(),
            entries: vec![None; DATAGRAMS_MAX].into(),
            free_entries: slots(DATAGRAMS_MAX).rev().collect(),
            by_key: Buckets::new(DATAGRAMS_MAX),
            by_age: [Ends::EMPTY; 2],
            age_links: Links::new(DATAGRAMS_MAX),
            sources: vec![None; DATAGRAMS_MAX].into(),
            free_sources: slots(DATAGRAMS_MAX).rev().collect(),
            by_addr: Buckets::new(DATAGRAMS_MAX),
            source_links: Links::new(DATAGRAMS_MAX),
            serial: 0,
        }
    }

    /// Frames held.
    #[must_use]
    pub fn held(&self) -> usize {
        FRAMES_MAX - self.free_frames.len()
    }

    /// Datagrams that are put together, with those that were refused and are remembered.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        DATAGRAMS_MAX - self.free_entries.len()
    }

    /// Takes a fragment in. Whatever has to go, this frame or older ones that make room, goes to `lose`.
    pub fn add(
        &mut self,
        now: Tick,
        ingress: PortId,
        info: &FragmentInfo,
        buf: B,
        mut lose: impl FnMut(Lost<B>),
    ) -> Added<B> {
        let piece = Piece {
            buf,
            ingress,
            payload: info.payload,
            len: info.len,
            offset: info.offset,
        };
        if let Err(Reject(reason)) = info.check(piece.buf.data().len()) {
            return lost(piece, reason, &mut lose);
        }
        let slot = match self.find(now, &info.key, &mut lose) {
            Some(slot) => slot,
            None => self.open(now, info.key, &mut lose),
        };
        let after = match self.place(slot, info, &piece) {
            Ok(after) => after,
            Err(Reject(DropReason::FragmentDuplicate)) => {
                return lost(piece, DropReason::FragmentDuplicate, &mut lose);
            }
            Err(Reject(reason)) => {
                self.refuse(slot, reason, &mut lose);
                return lost(piece, reason, &mut lose);
            }
        };
        self.insert(slot, after, info, piece, &mut lose);
        self.finish(slot, &mut lose)
    }

    /// Ends at most `budget` datagrams whose time is over at `now`; returns how many it ended.
    pub fn expire(&mut self, now: Tick, budget: usize, mut lose: impl FnMut(Lost<B>)) -> usize {
        let mut ended = 0;
        for family in 0..self.by_age.len() {
            while ended < budget
                && let Some(slot) = some(self.by_age[family].head)
                && now.reached(self.entry(slot).deadline())
            {
                self.close(slot, DropReason::FragmentTimeout, &mut lose);
                ended += 1;
            }
        }
        ended
    }

    /// When [`Self::expire`] has something to do next; `None` when nothing is held or remembered.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        self.by_age
            .iter()
            .filter_map(|list| some(list.head))
            .map(|slot| self.entry(slot).deadline())
            .reduce(|a, b| if b.reached(a) { a } else { b })
    }

    /// Gives every frame out, at the end, as one whose others did not come in time.
    pub fn drain(&mut self, mut lose: impl FnMut(Lost<B>)) {
        while let Some(slot) = self.oldest(NONE) {
            self.close(slot, DropReason::FragmentTimeout, &mut lose);
        }
    }

    fn entry(&self, slot: Slot) -> &Entry {
        self.entries[usize::from(slot)].as_ref().expect(IN_USE)
    }

    fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        self.entries[usize::from(slot)].as_mut().expect(IN_USE)
    }

    fn frame(&self, slot: Slot) -> &Frame<B> {
        self.frames[usize::from(slot)].as_ref().expect(IN_USE)
    }

    fn frame_mut(&mut self, slot: Slot) -> &mut Frame<B> {
        self.frames[usize::from(slot)].as_mut().expect(IN_USE)
    }

    /// The datagram of `key`. One whose time is over is ended here, should [`Self::expire`] be behind.
    fn find(
        &mut self,
        now: Tick,
        key: &DatagramKey,
        lose: &mut impl FnMut(Lost<B>),
    ) -> Option<Slot> {
        let bucket = self.by_key.of(key.hash(&self.hash_key));
        let slot = self
            .by_key
            .find(bucket, |slot| self.entry(slot).key == *key)?;
        if now.reached(self.entry(slot).deadline()) {
            self.close(slot, DropReason::FragmentTimeout, lose);
            return None;
        }
        Some(slot)
    }

    /// Begins a datagram.
    fn open(&mut self, now: Tick, key: DatagramKey, lose: &mut impl FnMut(Lost<B>)) -> Slot {
        let source_bucket = self.by_addr.of(key.source_hash(&self.hash_key));
        if let Some(source) = self.source_of(source_bucket, &key)
            && source.count >= SOURCE_DATAGRAMS_MAX
        {
            let oldest = source.datagrams.head;
            self.close(oldest, DropReason::FragmentSourceLimit, lose);
        }
        if self.free_entries.is_empty() {
            let oldest = self.oldest(NONE).expect("a full table has an oldest");
            self.close(oldest, DropReason::FragmentTableFull, lose);
        }
        let slot = self.free_entries.pop().expect("room was made");
        let bucket = self.by_key.of(key.hash(&self.hash_key));
        self.by_key.insert(bucket, slot);
        self.age_links
            .push_back(&mut self.by_age[key.af as usize], slot);
        let source = self.join_source(source_bucket, &key, slot);
        self.serial += 1;
        self.entries[usize::from(slot)] = Some(Entry {
            key,
            bucket,
            source,
            born: now,
            serial: self.serial,
            frames: Ends::EMPTY,
            count: 0,
            received: 0,
            total: None,
            first: First::default(),
            refused: None,
        });
        slot
    }

    fn source_slot(&self, bucket: u16, key: &DatagramKey) -> Option<Slot> {
        self.by_addr.find(bucket, |slot| {
            let source = self.sources[usize::from(slot)].as_ref().expect(IN_USE);
            source.addr == key.src && source.af == key.af
        })
    }

    fn source_of(&self, bucket: u16, key: &DatagramKey) -> Option<&Source> {
        let slot = self.source_slot(bucket, key)?;
        self.sources[usize::from(slot)].as_ref()
    }

    /// Counts the datagram `slot` to its source.
    fn join_source(&mut self, bucket: u16, key: &DatagramKey, slot: Slot) -> Slot {
        let at = self.source_slot(bucket, key).unwrap_or_else(|| {
            let at = self
                .free_sources
                .pop()
                .expect("there are as many sources as datagrams");
            self.by_addr.insert(bucket, at);
            self.sources[usize::from(at)] = Some(Source {
                af: key.af,
                addr: key.src,
                bucket,
                datagrams: Ends::EMPTY,
                count: 0,
            });
            at
        });
        let source = self.sources[usize::from(at)].as_mut().expect(IN_USE);
        source.count += 1;
        self.source_links.push_back(&mut source.datagrams, slot);
        at
    }

    fn leave_source(&mut self, at: Slot, slot: Slot) {
        let source = self.sources[usize::from(at)].as_mut().expect(IN_USE);
        self.source_links.remove(&mut source.datagrams, slot);
        source.count -= 1;
        if source.count == 0 {
            self.by_addr.remove(source.bucket, at);
            self.sources[usize::from(at)] = None;
            self.free_sources.push(at);
        }
    }

    /// The oldest datagram, `except` left aside.
    fn oldest(&self, except: Slot) -> Option<Slot> {
        self.by_age
            .iter()
            .filter_map(|list| {
                let head = some(list.head)?;
                if head == except {
                    some(self.age_links.next(head))
                } else {
                    Some(head)
                }
            })
            .min_by_key(|&slot| self.entry(slot).serial)
    }

    /// Where the fragment belongs among those held: behind the frame of this number.
    fn place(&self, slot: Slot, info: &FragmentInfo, piece: &Piece<B>) -> Result<Slot, Reject> {
        let entry = self.entry(slot);
        if let Some(reason) = entry.refused {
            return Err(Reject(reason));
        }
        let after = self.predecessor(entry, info.offset);
        if let Some(at) = some(after)
            && self.is_duplicate(entry, at, info, piece)
        {
            return Err(Reject(DropReason::FragmentDuplicate));
        }
        let next = match some(after) {
            None => entry.frames.head,
            Some(at) => self.frame(at).next,
        };
        let before_end = some(after).map_or(0, |at| end_of(&self.frame(at).piece));
        let next_start = some(next).map_or(u32::MAX, |at| u32::from(self.frame(at).piece.offset));
        // The fragment without "more" is the end: nothing lies behind it, and there is only one.
        let is_beyond = match entry.total {
            Some(total) => info.end() > total || !info.more,
            None => !info.more && next != NONE,
        };
        if before_end > u32::from(info.offset) || info.end() > next_start || is_beyond {
            return Err(Reject(DropReason::FragmentOverlap));
        }
        if entry.count == FRAGMENTS_MAX {
            return Err(Reject(DropReason::FragmentTooBig));
        }
        Ok(after)
    }

    /// The last frame that starts at or before `offset`. Fragments mostly come in order, so the last is asked first.
    fn predecessor(&self, entry: &Entry, offset: u16) -> Slot {
        if let Some(tail) = some(entry.frames.tail)
            && self.frame(tail).piece.offset <= offset
        {
            return tail;
        }
        let mut after = NONE;
        let mut at = entry.frames.head;
        while at != NONE && self.frame(at).piece.offset <= offset {
            after = at;
            at = self.frame(at).next;
        }
        after
    }

    /// Whether the fragment says what the frame `at` says, byte for byte.
    fn is_duplicate(&self, entry: &Entry, at: Slot, info: &FragmentInfo, piece: &Piece<B>) -> bool {
        let held = &self.frame(at).piece;
        let held_is_last = entry.total == Some(end_of(held));
        held.offset == info.offset
            && held.len == info.len
            && held_is_last != info.more
            && held.bytes() == piece.bytes()
    }

    /// Puts the fragment behind the frame `after`.
    fn insert(
        &mut self,
        slot: Slot,
        after: Slot,
        info: &FragmentInfo,
        piece: Piece<B>,
        lose: &mut impl FnMut(Lost<B>),
    ) {
        while self.free_frames.is_empty() {
            let other = self.oldest(slot).expect("no datagram holds every frame");
            self.close(other, DropReason::FragmentTableFull, lose);
        }
        let at = self.free_frames.pop().expect("room was made");
        let next = match some(after) {
            None => std::mem::replace(&mut self.entry_mut(slot).frames.head, at),
            Some(after) => std::mem::replace(&mut self.frame_mut(after).next, at),
        };
        self.frames[usize::from(at)] = Some(Frame { piece, next });
        let entry = self.entry_mut(slot);
        if next == NONE {
            entry.frames.tail = at;
        }
        entry.count += 1;
        entry.received += u32::from(info.len);
        if !info.more {
            entry.total = Some(info.end());
        }
        if info.offset == 0 {
            entry.first = First {
                proto: info.proto,
                transport: info.l4 - info.payload,
                header_len: info.header_len,
            };
        }
    }

    /// Takes the datagram out if it is whole.
    fn finish(&mut self, slot: Slot, lose: &mut impl FnMut(Lost<B>)) -> Added<B> {
        let entry = *self.entry(slot);
        if entry.total != Some(entry.received) {
            return Added::Held;
        }
        if u32::from(entry.first.header_len) + entry.received > DATAGRAM_BYTES_MAX {
            self.refuse(slot, DropReason::FragmentTooBig, lose);
            return Added::Lost;
        }
        let mut datagram = Datagram {
            pieces: Pieces::new(),
            proto: entry.first.proto,
            transport: entry.first.transport,
            len: u16::try_from(entry.received).expect("compared just now"),
        };
        self.release(slot, |piece| datagram.pieces.push(piece));
        self.forget(slot);
        Added::Complete(datagram)
    }

    /// Drops what there is of the datagram, and from now on what comes of it.
    fn refuse(&mut self, slot: Slot, reason: DropReason, lose: &mut impl FnMut(Lost<B>)) {
        self.entry_mut(slot).refused = Some(reason);
        self.release(slot, |piece| {
            lost(piece, reason, lose);
        });
    }

    /// Drops the datagram.
    fn close(&mut self, slot: Slot, reason: DropReason, lose: &mut impl FnMut(Lost<B>)) {
        self.release(slot, |piece| {
            lost(piece, reason, lose);
        });
        self.forget(slot);
    }

    /// Takes the datagram's frames out, in the order of their offsets.
    fn release(&mut self, slot: Slot, mut out: impl FnMut(Piece<B>)) {
        let entry = self.entry_mut(slot);
        let mut at = std::mem::replace(&mut entry.frames, Ends::EMPTY).head;
        (entry.count, entry.received) = (0, 0);
        while at != NONE {
            let frame = self.frames[usize::from(at)].take().expect(IN_USE);
            self.free_frames.push(at);
            at = frame.next;
            out(frame.piece);
        }
    }

    /// Frees the slot of a datagram that has no frames.
    fn forget(&mut self, slot: Slot) {
        let entry = self.entries[usize::from(slot)].take().expect(IN_USE);
        debug_assert_eq!(entry.frames, Ends::EMPTY, "its frames were taken out");
        self.by_key.remove(entry.bucket, slot);
        self.age_links
            .remove(&mut self.by_age[entry.key.af as usize], slot);
        self.leave_source(entry.source, slot);
        self.free_entries.push(slot);
    }
}

impl Entry {
    fn deadline(&self) -> Tick {
        self.born.plus(match self.key.af {
            Af::V4 => TIMEOUT_V4,
            Af::V6 => TIMEOUT_V6,
        })
    }
}

fn some(slot: Slot) -> Option<Slot> {
    (slot != NONE).then_some(slot)
}

fn end_of<B>(piece: &Piece<B>) -> u32 {
    u32::from(piece.offset) + u32::from(piece.len)
}

fn lost<B>(piece: Piece<B>, reason: DropReason, lose: &mut impl FnMut(Lost<B>)) -> Added<B> {
    lose(Lost {
        buf: piece.buf,
        ingress: piece.ingress,
        reason,
        offset: piece.offset,
    });
    Added::Lost
}
