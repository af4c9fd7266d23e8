//! Round robin over a service's servers, tier by tier, with positions that all workers share.
//!
//! A position names the server that was used last, not its place in the list, so it survives a rebuild: a removed
//! server hands it to its predecessor, an added one does not move it (specification §6.1). Overloaded servers are left
//! out until they are told of again ([`OpenSet`]), so a decision takes the same time however many there are.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::advance;
use super::open_set::OpenSet;
use crate::table::{Dest, DestId};

/// Servers that take turns, in tiers of which the first that has an open server takes the connections.
#[derive(Debug)]
pub(super) struct Tiers {
    /// Their indices in the service's list: tier by tier, and in the list's order within each.
    members: Box<[u16]>,
    /// Places in `members`.
    open: Arc<OpenSet>,
    /// None of them is empty.
    tiers: Box<[Tier]>,
    /// The tier of each place.
    tier_of: Box<[usize]>,
}

/// One tier.
#[derive(Debug)]
struct Tier {
    /// Its places in `members`.
    places: Range<usize>,
    /// The server used last: its id plus one in the low half, 0 for none yet; a hint of its place in the high half.
    position: Arc<AtomicU64>,
    /// Members of the last build that are gone, each with the place of its nearest remaining predecessor.
    gone: Box<[(DestId, Option<usize>)]>,
}

impl Tiers {
    /// Tiers with the `positions`, the first to be used first. `tier` says to which of them a server belongs; a server
    /// without one is never chosen. `previous` is the list of the last build and is needed to find the predecessors of
    /// members that are gone.
    pub(super) fn new(
        dests: &[Arc<Dest>],
        previous: &[Arc<Dest>],
        positions: Vec<Arc<AtomicU64>>,
        tier: impl Fn(&Dest) -> Option<usize>,
    ) -> Self {
        let mut lists = vec![(Vec::new(), Vec::new()); positions.len()];
        for (index, dest) in (0..u16::MAX).zip(dests) {
            if let Some(tier) = tier(dest) {
                lists[tier].0.push(index);
            }
        }
        for dest in previous {
            if let Some((_, before)) = tier(dest).and_then(|tier| lists.get_mut(tier)) {
                before.push(dest.id);
            }
        }
        let (mut members, mut tier_of, mut tiers) = (Vec::new(), Vec::new(), Vec::new());
        let in_use = positions.into_iter().zip(lists);
        for (position, (list, before)) in in_use.filter(|(_, (list, _))| !list.is_empty()) {
            let start = members.len();
            members.extend(list);
            tier_of.resize(members.len(), tiers.len());
            let at = |place: usize| dests[usize::from(members[place])].id;
            let places = (start..members.len())
                .map(|place| (at(place), place))
                .collect();
            tiers.push(Tier {
                places: start..members.len(),
                position,
                gone: gone(&before, &places),
            });
        }
        let open = OpenSet::watching(members.iter().map(|&index| &dests[usize::from(index)]));
        let tiers = Self {
            members: members.into(),
            open,
            tiers: tiers.into(),
            tier_of: tier_of.into(),
        };
        tiers.settle(dests);
        tiers
    }

    /// Moves positions off members that are gone while they can still be told from later ones in their slots.
    fn settle(&self, dests: &[Arc<Dest>]) {
        for tier in &self.tiers {
            // One failed exchange loses nothing: workers of the older build move it on, and `last_used` copes.
            let word = tier.position.load(Ordering::Relaxed);
            let settled = self
                .last_used(tier, word, dests)
                .map_or(0, |place| self.word(place, dests));
            let _ =
                tier.position
                    .compare_exchange(word, settled, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// The next eligible server of the first tier that has one; it becomes that tier's last used.
    #[inline]
    pub(super) fn next(&self, dests: &[Arc<Dest>]) -> Option<usize> {
        if let [only] = &*self.tiers {
            return self.turn(only, dests);
        }
        let mut from = 0;
        loop {
            let tier = &self.tiers[self.tier_of[self.open.next(from)?]];
            if let Some(index) = self.turn(tier, dests) {
                return Some(index);
            }
            from = tier.places.end;
        }
    }

    /// The next eligible server of a tier, which becomes the one used last.
    #[inline]
    fn turn(&self, tier: &Tier, dests: &[Arc<Dest>]) -> Option<usize> {
        let Range { start, end } = tier.places;
        advance(&tier.position, |word| {
            let last = self.last_used(tier, word, dests);
            let after = last.map_or(start, |place| place + 1);
            let next = if after < end { after } else { start };
            // As a rule it is the next one's turn, and the set need not be asked.
            let found = if self.may_take(next, dests) {
                Some(next)
            } else {
                self.search(tier, next, dests)
            };
            match found {
                Some(place) => (self.word(place, dests), Some(self.index(place))),
                None => (word, None),
            }
        })
    }

    /// The first place of a tier, from one on and around, whose server may take a connection.
    #[cold]
    fn search(&self, tier: &Tier, from: usize, dests: &[Arc<Dest>]) -> Option<usize> {
        let Range { start, end } = tier.places;
        let may_take = |place| self.may_take(place, dests);
        let later = self.open.first(from..end, may_take);
        later.or_else(|| self.open.first(start..from, may_take))
    }

    #[inline]
    fn may_take(&self, place: usize, dests: &[Arc<Dest>]) -> bool {
        dests[self.index(place)].eligible()
    }

    /// The place of the member used last, or `None` when that is none: the head of the tier.
    #[inline]
    fn last_used(&self, tier: &Tier, word: u64, dests: &[Arc<Dest>]) -> Option<usize> {
        let (hint, id) = (
            (word >> 32) as usize,
            DestId((word & 0xffff_ffff).checked_sub(1)? as u32),
        );
        if tier.places.contains(&hint) && dests[self.index(hint)].id == id {
            return Some(hint);
        }
        self.find(tier, id, dests)
    }

    /// The place of a member, or of the one before it when it is gone. Only after a rebuild, until the next choice.
    #[cold]
    fn find(&self, tier: &Tier, id: DestId, dests: &[Arc<Dest>]) -> Option<usize> {
        let gone = || tier.gone.iter().find(|(gone, _)| *gone == id);
        let mut places = tier.places.clone();
        places
            .find(|&place| dests[self.index(place)].id == id)
            .or_else(|| gone().and_then(|&(_, before)| before))
    }

    fn word(&self, place: usize, dests: &[Arc<Dest>]) -> u64 {
        let id = dests[self.index(place)].id.0.wrapping_add(1);
        (place as u64) << 32 | u64::from(id)
    }

    fn index(&self, place: usize) -> usize {
        usize::from(self.members[place])
    }
}

/// Those of `before`, a tier's members at the last build, that are not in `places`, each with the place of the nearest
/// one before it that is.
fn gone(before: &[DestId], places: &HashMap<DestId, usize>) -> Box<[(DestId, Option<usize>)]> {
    let mut last = None;
    let mut gone = Vec::new();
    for id in before {
        match places.get(id) {
            Some(&place) => last = Some(place),
            None => gone.push((*id, last)),
        }
    }
    gone.into()
}
