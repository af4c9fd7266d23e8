//! What one director has told, kept by the one who told it and by each of those who listen.
//!
//! Owns the entries by their numbers, and digests of them: of all, and of each of 256 buckets, so that two mirrors are
//! compared in a few bytes and mended in parts. Knows no message and no clock. Invariant: the digests are those of the
//! live entries, and never more than the given number of entries are kept.
//!
//! Cost: 144 bytes and five of index per entry, at most twice the latter while an index grows. A look-up is one hash
//! table of four-byte numbers and one slot.

use hashbrown::HashTable;

use super::rounds::Budget;
use super::wire::{BUCKETS, bucket_of};
use crate::net::Tick;
use crate::sync::entry::{Entry, EntryId};

/// Slots that are allocated at once.
const CHUNK: u32 = 1024;
/// No slot.
const NONE: u32 = u32::MAX;

/// Where an entry is within its bucket.
#[allow(clippy::cast_possible_truncation)]
fn hash(id: EntryId) -> u64 {
    id.0 as u64
}

/// Entries counted and summed. Two mirrors with equal digests have the same entries, told by the same datagrams: what
/// is summed are keyed hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Digest {
    /// Entries.
    pub count: u64,
    /// The wrapping sum of what each is worth, see [`worth`].
    pub sum: u64,
}

impl Digest {
    fn add(&mut self, worth: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(worth);
    }

    fn take(&mut self, worth: u64) {
        self.count -= 1;
        self.sum = self.sum.wrapping_sub(worth);
    }
}

/// What an entry adds to a digest: the hash of its content and the datagram that told of it last. With the latter a lost
/// refresh of its time is a difference too.
#[must_use]
pub fn worth(digest: u64, seq: u64) -> u64 {
    let mixed = digest ^ seq.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
    let product = u128::from(mixed) * 0xd6e8_feb8_6659_fd93;
    let bytes = product.to_le_bytes();
    let (halves, _) = bytes.as_chunks::<8>();
    u64::from_le_bytes(halves[0]) ^ u64::from_le_bytes(halves[1])
}

/// Bits of [`Slot::flags`], but for `DEAD` the affair of those who use the mirror.
pub mod flag {
    /// Is no entry of the mirror any more; waits for somebody to have heard of it.
    pub const DEAD: u8 = 1;
    /// Was named since its repair began.
    pub const NAMED: u8 = 2;
    /// Is in a queue.
    pub const QUEUED: u8 = 4;
    /// The tables have it.
    pub const INSTALLED: u8 = 8;
    /// The tables refused it.
    pub const REFUSED: u8 = 16;
    /// Its template was waited for.
    pub const WAITED: u8 = 32;
    /// Was handed out without the template it names.
    pub const UNLINKED: u8 = 64;
    /// Has another real server than the tables know.
    pub const MOVED: u8 = 128;
}

/// An entry of a mirror.
#[derive(Debug)]
pub struct Slot {
    /// Its number.
    pub id: EntryId,
    entry: Option<Entry>,
    worth: u64,
    /// When it ends, as far as it was told. Of a free slot, the next one.
    pub deadline: Tick,
    /// The pass that saw it last.
    pub pass: u16,
    /// See [`flag`].
    pub flags: u8,
}

impl Slot {
    const FREE: Self = Self {
        id: EntryId(0),
        entry: None,
        worth: 0,
        deadline: Tick(NONE),
        pass: 0,
        flags: 0,
    };

    /// The entry; none of a free slot. Its `remaining` means nothing, `deadline` does.
    #[must_use]
    pub fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    /// Whether one of the bits is set.
    #[must_use]
    pub fn is(&self, bits: u8) -> bool {
        self.flags & bits != 0
    }

    /// Whether it holds an entry of the mirror.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.entry.is_some() && !self.is(flag::DEAD)
    }
}

/// Entries by number.
#[derive(Debug)]
pub struct Mirror {
    chunks: Vec<Box<[Slot]>>,
    free: u32,
    index: Box<[HashTable<u32>]>,
    buckets: Box<[Digest]>,
    total: Digest,
    dead: usize,
    entries_max: usize,
}

impl Mirror {
    /// An empty one for `entries_max` live entries, and twice as many with the dead.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        Self {
            chunks: Vec::new(),
            free: NONE,
            index: (0..BUCKETS).map(|_| HashTable::new()).collect(),
            buckets: vec![Digest::default(); BUCKETS].into(),
            total: Digest::default(),
            dead: 0,
            // Slot numbers have 32 bits.
            entries_max: entries_max.min(1 << 30),
        }
    }

    /// Digest of all live entries.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.total
    }

    /// Digest of a bucket's live entries.
    #[must_use]
    pub fn bucket(&self, bucket: u8) -> Digest {
        self.buckets[usize::from(bucket)]
    }

    /// Live entries.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.total.count).unwrap_or(usize::MAX)
    }

    /// Whether there is no live entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total.count == 0
    }

    /// Dead entries that wait to be freed.
    #[must_use]
    pub fn dead(&self) -> usize {
        self.dead
    }

    /// Numbers of slots go from 0 to below this.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.chunks.len()).map_or(NONE, |n| n * CHUNK)
    }

    /// A slot.
    ///
    /// # Panics
    /// When there is none of this number.
    #[must_use]
    pub fn slot(&self, at: u32) -> &Slot {
        &self.chunks[(at / CHUNK) as usize][(at % CHUNK) as usize]
    }

    /// A slot, for its flags and times.
    ///
    /// # Panics
    /// When there is none of this number.
    pub fn slot_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.chunks[(at / CHUNK) as usize][(at % CHUNK) as usize]
    }

    /// Where the entry is, dead or alive.
    #[must_use]
    pub fn find(&self, id: EntryId) -> Option<u32> {
        let table = &self.index[usize::from(bucket_of(id))];
        table.find(hash(id), |&at| self.slot(at).id == id).copied()
    }

    /// The live entry with that number.
    #[must_use]
    pub fn get(&self, id: EntryId) -> Option<&Entry> {
        let slot = self.slot(self.find(id)?);
        slot.is_live().then_some(slot.entry.as_ref()?)
    }

    /// The slots of a bucket, dead ones too.
    pub fn in_bucket(&self, bucket: u8) -> impl Iterator<Item = u32> {
        self.index[usize::from(bucket)].iter().copied()
    }

    /// Whether another live entry has room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.len() < self.entries_max && self.len() + self.dead < 2 * self.entries_max
    }

    /// Takes an entry in that has no slot. `None` when the mirror is full.
    pub fn insert(&mut self, id: EntryId, entry: Entry, worth: u64, deadline: Tick) -> Option<u32> {
        debug_assert!(self.find(id).is_none(), "an entry has one slot");
        if !self.has_room() {
            return None;
        }
        let at = self.take_slot();
        *self.slot_mut(at) = Slot {
            id,
            entry: Some(entry),
            worth,
            deadline,
            pass: 0,
            flags: 0,
        };
        let chunks = &self.chunks;
        self.index[usize::from(bucket_of(id))].insert_unique(hash(id), at, |&at| {
            hash(chunks[(at / CHUNK) as usize][(at % CHUNK) as usize].id)
        });
        self.count(id, worth);
        Some(at)
    }

    /// Gives an entry, dead or alive, another content and time; a dead one lives again. `false` when it is dead and the
    /// mirror is full.
    ///
    /// # Panics
    /// When the slot is free.
    pub fn replace(&mut self, at: u32, entry: Entry, worth: u64, deadline: Tick) -> bool {
        let was_dead = self.slot(at).is(flag::DEAD);
        if was_dead && self.len() >= self.entries_max {
            return false;
        }
        let slot = self.slot_mut(at);
        assert!(slot.entry.is_some(), "a free slot can't be replaced");
        let (id, old) = (slot.id, slot.worth);
        slot.entry = Some(entry);
        slot.worth = worth;
        slot.deadline = deadline;
        slot.flags &= !flag::DEAD;
        if was_dead {
            self.dead -= 1;
        } else {
            self.uncount(id, old);
        }
        self.count(id, worth);
        true
    }

    /// Gives a live entry another worth: it was told of again.
    pub fn revalue(&mut self, at: u32, worth: u64) {
        let slot = self.slot_mut(at);
        debug_assert!(slot.is_live(), "only the living are counted");
        let (id, old) = (slot.id, std::mem::replace(&mut slot.worth, worth));
        self.uncount(id, old);
        self.count(id, worth);
    }

    /// Takes a live entry out of the digests and leaves it to be looked at until it is freed.
    pub fn kill(&mut self, at: u32) {
        let slot = self.slot_mut(at);
        debug_assert!(slot.is_live(), "only the living die");
        slot.flags |= flag::DEAD;
        let (id, worth) = (slot.id, slot.worth);
        self.dead += 1;
        self.uncount(id, worth);
    }

    /// Frees a slot, and gives back what was in it.
    ///
    /// # Panics
    /// When it is free already.
    pub fn free(&mut self, at: u32) -> Entry {
        let free = self.free;
        let slot = self.slot_mut(at);
        let (id, worth, dead) = (slot.id, slot.worth, slot.is(flag::DEAD));
        let entry = slot.entry.take().expect("a slot is freed once");
        slot.flags = 0;
        slot.deadline = Tick(free);
        self.free = at;
        if dead {
            self.dead -= 1;
        } else {
            self.uncount(id, worth);
        }
        if let Ok(found) = self.index[usize::from(bucket_of(id))].find_entry(hash(id), |&i| i == at)
        {
            found.remove();
        }
        entry
    }

    /// Frees the memory of about so many slots; whether that was all. For one that nobody uses any more.
    pub fn dismantle(&mut self, budget: &mut Budget) -> bool {
        while !self.chunks.is_empty() && !budget.is_spent() {
            self.chunks.pop();
            budget.take(2 * CHUNK);
        }
        self.chunks.is_empty()
    }

    fn take_slot(&mut self) -> u32 {
        if self.free == NONE {
            let first = self.slots();
            let chunk: Box<[Slot]> = (1..=CHUNK)
                .map(|next| Slot {
                    deadline: Tick(if next < CHUNK { first + next } else { NONE }),
                    ..Slot::FREE
                })
                .collect();
            self.chunks.push(chunk);
            self.free = first;
        }
        let at = self.free;
        self.free = self.slot(at).deadline.0;
        at
    }

    fn count(&mut self, id: EntryId, worth: u64) {
        self.total.add(worth);
        self.buckets[usize::from(bucket_of(id))].add(worth);
    }

    fn uncount(&mut self, id: EntryId, worth: u64) {
        self.total.take(worth);
        self.buckets[usize::from(bucket_of(id))].take(worth);
    }
}

/// Some of the buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BucketSet(pub [u8; BUCKETS / 8]);

impl BucketSet {
    /// All of them.
    pub const ALL: Self = Self([u8::MAX; BUCKETS / 8]);

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `bucket` is among them.
    #[must_use]
    pub fn has(&self, bucket: u8) -> bool {
        self.0[usize::from(bucket / 8)] & 1 << (bucket % 8) != 0
    }

    /// Puts `bucket` in or takes it out.
    pub fn set(&mut self, bucket: u8, is_in: bool) {
        let bit = 1 << (bucket % 8);
        let byte = &mut self.0[usize::from(bucket / 8)];
        *byte = if is_in { *byte | bit } else { *byte & !bit };
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Self) {
        for (byte, more) in self.0.iter_mut().zip(other.0) {
            *byte |= more;
        }
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(|&bucket| self.has(bucket))
    }
}

#[cfg(test)]
mod tests;
