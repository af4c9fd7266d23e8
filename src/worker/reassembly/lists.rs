//! Lists and hash chains over numbered slots, so that the store finds, orders and removes without allocating.
//!
//! Knows only numbers. Invariant: a slot is in at most one list of a [`Links`] and in at most one chain of a
//! [`Buckets`], and whoever removes it names the list or chain that it is in.

/// Number of a slot.
pub(super) type Slot = u16;

/// No slot.
pub(super) const NONE: Slot = Slot::MAX;

/// Slot numbers from 0 to `count` - 1.
pub(super) fn slots(count: usize) -> impl DoubleEndedIterator<Item = Slot> {
    let count = Slot::try_from(count).expect("slots are numbered in 16 bits");
    assert!(count < NONE, "the last number means that there is none");
    0..count
}

/// First and last of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub head: Slot,
    pub tail: Slot,
}

impl Ends {
    pub const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
    };
}

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: Slot,
    next: Slot,
}

/// The links of doubly linked lists.
#[derive(Debug)]
pub(super) struct Links(Box<[Link]>);

impl Links {
    pub fn new(count: usize) -> Self {
        let link = Link {
            prev: NONE,
            next: NONE,
        };
        Self(vec![link; count].into())
    }

    pub fn next(&self, slot: Slot) -> Slot {
        self.0[usize::from(slot)].next
    }

    pub fn push_back(&mut self, list: &mut Ends, slot: Slot) {
        self.0[usize::from(slot)] = Link {
            prev: list.tail,
            next: NONE,
        };
        match list.tail {
            NONE => list.head = slot,
            tail => self.0[usize::from(tail)].next = slot,
        }
        list.tail = slot;
    }

    pub fn remove(&mut self, list: &mut Ends, slot: Slot) {
        let Link { prev, next } = self.0[usize::from(slot)];
        match prev {
            NONE => list.head = next,
            prev => self.0[usize::from(prev)].next = next,
        }
        match next {
            NONE => list.tail = prev,
            next => self.0[usize::from(next)].prev = prev,
        }
    }
}

/// Hash chains. With half as many slots as buckets and a secret hash, a chain has one slot or two.
#[derive(Debug)]
pub(super) struct Buckets {
    heads: Box<[Slot]>,
    next: Box<[Slot]>,
}

impl Buckets {
    pub fn new(count: usize) -> Self {
        Self {
            heads: vec![NONE; (2 * count).next_power_of_two()].into(),
            next: vec![NONE; count].into(),
        }
    }

    /// The bucket of a hash.
    #[allow(clippy::cast_possible_truncation)] // Masked before.
    pub fn of(&self, hash: u64) -> u16 {
        (hash >> 32) as u16 & (self.heads.len() - 1) as u16
    }

    pub fn insert(&mut self, bucket: u16, slot: Slot) {
        let head = &mut self.heads[usize::from(bucket)];
        self.next[usize::from(slot)] = *head;
        *head = slot;
    }

    pub fn find(&self, bucket: u16, is: impl Fn(Slot) -> bool) -> Option<Slot> {
        let mut at = self.heads[usize::from(bucket)];
        while at != NONE && !is(at) {
            at = self.next[usize::from(at)];
        }
        (at != NONE).then_some(at)
    }

    pub fn remove(&mut self, bucket: u16, slot: Slot) {
        let next = self.next[usize::from(slot)];
        let mut link = &mut self.heads[usize::from(bucket)];
        while *link != slot {
            debug_assert_ne!(*link, NONE, "the slot is in this chain");
            let at = usize::from(*link);
            link = &mut self.next[at];
        }
        *link = next;
    }
}
