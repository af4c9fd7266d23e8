//! Timer wheel: which items to look at, and when.
//!
//! Owns the links of the items and nothing else of them; knows no deadlines. An item is armed for a deadline and
//! comes out of [`Wheel::pop`] at that tick *or before*: the owner then knows whether the item is due or was used in
//! between, and arms it again. So a packet never touches the wheel, and a far deadline needs no exact place.
//!
//! Three levels of slots, 10 ms, 81.92 s and 23.3 h wide, 2³² ticks in all, so that the clock's wrap is no event. The first
//! level spans every TCP and UDP timeout of a connection that is not in use, so most timers are never moved between
//! levels. Bitmaps of the slots in use make a jump over empty time cost a scan of 152 words, however long it is.
//!
//! Invariants: a slot's bit is set iff its list is not empty; an item is in at most one list; no armed item's visit
//! lies before the cursor.

use bytemuck::{Pod, Zeroable};

use super::memory::{Pages, TableError};
use crate::net::Tick;

/// One level of the wheel.
struct Level {
    /// Log2 of the ticks in a slot.
    shift: u32,
    /// Log2 of the number of slots.
    bits: u32,
    /// Number of this level's first slot.
    base: u32,
}

const LEVELS: [Level; 3] = [
    Level {
        shift: 0,
        bits: 13,
        base: 0,
    },
    Level {
        shift: 13,
        bits: 10,
        base: 1 << 13,
    },
    Level {
        shift: 23,
        bits: 9,
        base: (1 << 13) + (1 << 10),
    },
];
const SLOTS: u32 = LEVELS[2].base + (1 << LEVELS[2].bits);
const _: () = assert!(
    LEVELS[2].shift + LEVELS[2].bits == u32::BITS,
    "the wheel spans all ticks"
);
const _: () = assert!(
    SLOTS.is_multiple_of(u64::BITS),
    "a bitmap word belongs to one level"
);

/// A node of a doubly linked ring: an item, or the head of a slot.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Link {
    next: u32,
    prev: u32,
}

/// A hierarchical timer wheel over items numbered `0..items`.
#[derive(Debug)]
pub struct Wheel {
    /// The items' links, then one head per slot: so that the ends of a list are no special case. Apart from the
    /// items themselves, because walking eight links to a line is what makes expiry cheap.
    links: Pages<Link>,
    items: u32,
    in_use: Box<[u64]>,
    /// The first tick whose slots may hold something.
    cursor: Tick,
    armed: u32,
}

impl Wheel {
    /// A wheel for the items `0..items`, none armed.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(items: u32) -> Result<Self, TableError> {
        let mut links = Pages::zeroed((items + SLOTS) as usize)?;
        for head in items..items + SLOTS {
            *links.at_mut(head) = Link {
                next: head,
                prev: head,
            };
        }
        let in_use = vec![0; (SLOTS / u64::BITS) as usize].into_boxed_slice();
        Ok(Self {
            links,
            items,
            in_use,
            cursor: Tick(0),
            armed: 0,
        })
    }

    /// Arms `item`, which must not be armed, and returns the tick at which it will come out: at `deadline` or before,
    /// or, where that has passed, at the next tick that is looked at.
    #[inline]
    pub fn arm(&mut self, item: u32, deadline: Tick, now: Tick) -> Tick {
        debug_assert!(item < self.items);
        if self.armed == 0 && self.cursor != now.plus(1) {
            // An empty wheel starts where the clock is, however long it rested; unless that tick is done already.
            self.cursor = now;
        }
        let at = if deadline.reached(self.cursor) {
            deadline
        } else {
            self.cursor
        };
        let level = match at.since(self.cursor) {
            0..0x2000 => &LEVELS[0],
            0x2000..0x80_0000 => &LEVELS[1],
            _ => &LEVELS[2],
        };
        self.push(level.slot(at), item);
        self.armed += 1;
        Tick(at.0 >> level.shift << level.shift)
    }

    /// Takes `item`, which must be armed, out of the wheel.
    #[inline]
    pub fn disarm(&mut self, item: u32) {
        debug_assert!(item < self.items);
        let Link { next, prev } = *self.links.at(item);
        self.links.at_mut(prev).next = next;
        self.links.at_mut(next).prev = prev;
        if next == prev {
            // Only a head is its own only neighbour's neighbour: the slot is empty now.
            let slot = next - self.items;
            self.in_use[(slot / u64::BITS) as usize] &= !(1 << (slot % u64::BITS));
        }
        self.armed -= 1;
    }

    /// Takes out the next item whose visit is at `now` or before, in the order of visits and, within one, of arming.
    ///
    /// The owner must end its work on an item by arming it for a deadline after `now`, or by forgetting it.
    #[inline]
    pub fn pop(&mut self, now: Tick) -> Option<u32> {
        while now.reached(self.cursor) {
            if let Some(item) = self.first_at_cursor() {
                self.disarm(item);
                return Some(item);
            }
            match self.next_visit() {
                Some(visit) if now.reached(visit) => self.cursor = visit,
                _ => self.cursor = now.plus(1),
            }
        }
        None
    }

    fn push(&mut self, slot: u32, item: u32) {
        let head = self.items + slot;
        let last = self.links.at(head).prev;
        *self.links.at_mut(item) = Link {
            next: head,
            prev: last,
        };
        self.links.at_mut(last).next = item;
        self.links.at_mut(head).prev = item;
        self.in_use[(slot / u64::BITS) as usize] |= 1 << (slot % u64::BITS);
    }

    fn first_at_cursor(&self) -> Option<u32> {
        let due = LEVELS
            .iter()
            .rev()
            .filter(|level| level.starts_at(self.cursor));
        due.map(|level| self.links.at(self.items + level.slot(self.cursor)).next)
            .find(|&first| first < self.items)
    }

    /// The first visit at or after the cursor.
    fn next_visit(&self) -> Option<Tick> {
        LEVELS
            .iter()
            .filter_map(|level| self.next_visit_of(level))
            .min_by_key(|visit| visit.since(self.cursor))
    }

    fn next_visit_of(&self, level: &Level) -> Option<Tick> {
        // A slot that has begun was visited when it began; what is in it now belongs to the next round.
        let begun = u32::from(!level.starts_at(self.cursor));
        let start = (self.cursor.0 >> level.shift).wrapping_add(begun);
        let slots = 1 << level.bits;
        let words = &self.in_use[(level.base / u64::BITS) as usize..][..slots / u64::BITS as usize];
        let ahead = next_set(words, start as usize % slots)?;
        Some(Tick(start.wrapping_add(ahead) << level.shift))
    }
}

impl Level {
    fn slot(&self, at: Tick) -> u32 {
        self.base + ((at.0 >> self.shift) & ((1 << self.bits) - 1))
    }

    fn starts_at(&self, at: Tick) -> bool {
        at.0 & ((1 << self.shift) - 1) == 0
    }
}

/// How far the next set bit lies from bit `start`, going round at the end.
#[allow(clippy::cast_possible_truncation)] // A level has at most 8,192 bits.
fn next_set(words: &[u64], start: usize) -> Option<u32> {
    let bits = u64::BITS as usize;
    let (first, offset) = (start / bits, start % bits);
    let here = words[first] >> offset;
    if here != 0 {
        return Some(here.trailing_zeros());
    }
    // The word of `start` comes again at the end, for its bits below `start`.
    (1..=words.len())
        .map(|i| (i, words[(first + i) % words.len()]))
        .find(|&(_, word)| word != 0)
        .map(|(i, word)| (i * bits - offset) as u32 + word.trailing_zeros())
}
