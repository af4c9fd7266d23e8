//! Round robin over some of a service's servers, with a position that all workers share.
//!
//! The position names the server that was used last, not its place in the list, so it survives a rebuild: a removed
//! server hands it to its predecessor, an added one does not move it (specification §6.1).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::advance;
use crate::table::{Dest, DestId};

/// Servers that take turns.
#[derive(Debug)]
pub(super) struct Ring {
    /// Their indices in the service's list, in its order.
    members: Box<[u16]>,
    /// The server used last: its id plus one in the low half, 0 for none yet; a hint of its place in the high half.
    position: Arc<AtomicU64>,
    /// Members of the last build that are gone, each with the place of its nearest remaining predecessor.
    gone: Box<[(DestId, Option<usize>)]>,
}

impl Ring {
    /// A ring of the servers of `dests` that `belongs` picks. `previous` is the list of the last build and is needed
    /// to find the predecessors of members that are gone.
    pub(super) fn new(
        dests: &[Arc<Dest>],
        previous: &[Arc<Dest>],
        position: Arc<AtomicU64>,
        belongs: impl Fn(&Dest) -> bool,
    ) -> Self {
        let members: Box<[u16]> = (0..u16::MAX)
            .zip(dests)
            .filter(|(_, dest)| belongs(dest))
            .map(|(index, _)| index)
            .collect();
        let places: HashMap<DestId, usize> = members
            .iter()
            .enumerate()
            .map(|(p, &m)| (dests[usize::from(m)].id, p))
            .collect();
        let mut before = None;
        let mut gone = Vec::new();
        for dest in previous.iter().filter(|dest| belongs(dest)) {
            match places.get(&dest.id) {
                Some(&place) => before = Some(place),
                None => gone.push((dest.id, before)),
            }
        }
        let ring = Self {
            members,
            position,
            gone: gone.into(),
        };
        ring.settle(dests);
        ring
    }

    /// Moves the position off a member that is gone while that member can still be told from a later one in its slot.
    fn settle(&self, dests: &[Arc<Dest>]) {
        // One failed exchange loses nothing: workers of the older build move it on, and `last_used` copes.
        let word = self.position.load(Ordering::Relaxed);
        let settled = self
            .last_used(word, dests)
            .map_or(0, |place| self.word(place, dests));
        let _ = self
            .position
            .compare_exchange(word, settled, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The next eligible member, which becomes the one used last.
    #[inline]
    pub(super) fn next(&self, dests: &[Arc<Dest>]) -> Option<usize> {
        advance(&self.position, |word| {
            let start = self.last_used(word, dests).map_or(0, |place| place + 1);
            let eligible = |&place: &usize| dests[self.index(place)].eligible();
            match (start..self.members.len()).chain(0..start).find(eligible) {
                Some(place) => (self.word(place, dests), Some(self.index(place))),
                None => (word, None),
            }
        })
    }

    /// The place of the member used last, or `None` when that is none: the head of the list.
    #[inline]
    fn last_used(&self, word: u64, dests: &[Arc<Dest>]) -> Option<usize> {
        let (hint, id) = (
            (word >> 32) as usize,
            DestId((word & 0xffff_ffff).checked_sub(1)? as u32),
        );
        let is_at = |place: usize| place < self.members.len() && dests[self.index(place)].id == id;
        if is_at(hint) {
            return Some(hint);
        }
        // Only after a rebuild, until the next choice.
        (0..self.members.len())
            .find(|&place| is_at(place))
            .or_else(|| {
                self.gone
                    .iter()
                    .find(|(gone, _)| *gone == id)
                    .and_then(|&(_, before)| before)
            })
    }

    fn word(&self, place: usize, dests: &[Arc<Dest>]) -> u64 {
        let id = dests[self.index(place)].id.0.wrapping_add(1);
        (place as u64) << 32 | u64::from(id)
    }

    fn index(&self, place: usize) -> usize {
        usize::from(self.members[place])
    }
}
