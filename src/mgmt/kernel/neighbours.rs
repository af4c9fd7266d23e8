//! The kernel's neighbour table as far as it is known: announcements and lists put together.
//!
//! Pure. The announcements are reliable until some are lost, which is noticed. The lists are not: the kernel walks a
//! hash table that grows and shrinks meanwhile, for every namespace of the machine at once, and may leave entries out
//! without saying so. Hence the rule, which is also the invariant: an entry is added by a list, but removed only by an
//! announcement or, after some were lost, by two lists in a row that lack it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::decode::Neighbour;

/// Interface index and address.
pub(super) type Key = (u32, IpAddr);

#[derive(Debug, Default)]
pub(super) struct Neighbours {
    entries: HashMap<Key, Neighbour>,
    /// Announcements were lost since the last list.
    lost: bool,
    /// What the last list lacked, after announcements were lost.
    doubted: HashSet<Key>,
}

impl Neighbours {
    pub(super) fn get(&self, key: Key) -> Option<Neighbour> {
        self.entries.get(&key).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, Neighbour)> {
        self.entries.iter().map(|(key, entry)| (*key, *entry))
    }

    /// Takes what the kernel announces: the entry as it is now, `None` when it is gone. Whether its MAC address changed.
    pub(super) fn announced(&mut self, key: Key, entry: Option<Neighbour>) -> bool {
        let new = entry.and_then(|e| e.mac);
        let old = match entry {
            Some(entry) => self.entries.insert(key, entry),
            None => self.entries.remove(&key),
        };
        old.and_then(|o| o.mac) != new
    }

    /// Announcements were lost: what is known may be gone.
    pub(super) fn announcements_lost(&mut self) {
        self.lost = true;
    }

    /// Takes a list of all entries. Whether the list has to be read once more before it can be relied on.
    pub(super) fn listed(&mut self, list: HashMap<Key, Neighbour>) -> bool {
        let doubted = std::mem::take(&mut self.doubted);
        let lost = std::mem::take(&mut self.lost);
        let missing = self.entries.keys().filter(|key| !list.contains_key(*key));
        let (gone, unsure): (Vec<Key>, Vec<Key>) =
            missing.copied().partition(|key| doubted.contains(key));
        if lost {
            self.doubted.extend(unsure);
        }
        let mut news = lost || !gone.is_empty();
        for key in gone {
            self.entries.remove(&key);
        }
        for (key, entry) in list {
            news |= self.announced(key, Some(entry));
        }
        news
    }

    /// Forgets what is on interfaces that are not `known`.
    pub(super) fn retain_interfaces(&mut self, known: impl Fn(u32) -> bool) {
        self.entries.retain(|(index, _), _| known(*index));
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::AddressFamily;
    use rtnetlink::packet_route::neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
    };

    use super::*;
    use crate::mgmt::kernel::decode;

    fn key(n: u8) -> Key {
        (7, [192, 0, 2, n].into())
    }

    fn entry(mac: u8) -> Neighbour {
        let mut m = NeighbourMessage::default();
        m.header.family = AddressFamily::Inet;
        m.header.state = NeighbourState::Reachable;
        let mac = vec![2, 0, 0, 0, 0, mac];
        let addr = NeighbourAddress::Inet([192, 0, 2, 1].into());
        m.attributes.push(NeighbourAttribute::Destination(addr));
        m.attributes.push(NeighbourAttribute::LinkLayerAddress(mac));
        decode::neighbour(&m).expect("an entry").2
    }

    fn list(entries: &[(u8, u8)]) -> HashMap<Key, Neighbour> {
        entries
            .iter()
            .map(|(n, mac)| (key(*n), entry(*mac)))
            .collect()
    }

    fn known(n: &Neighbours) -> Vec<Key> {
        let mut keys: Vec<Key> = n.iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn announcements_add_change_and_remove() {
        let mut n = Neighbours::default();
        assert!(n.announced(key(1), Some(entry(1))));
        assert!(!n.announced(key(1), Some(entry(1))), "nothing new");
        assert!(n.announced(key(1), Some(entry(2))));
        assert!(n.announced(key(1), None));
        assert_eq!(known(&n), []);
    }

    #[test]
    fn a_list_that_leaves_an_entry_out_does_not_remove_it() {
        let mut n = Neighbours::default();
        n.announced(key(1), Some(entry(1)));
        for _ in 0..3 {
            assert!(!n.listed(list(&[])));
            assert_eq!(known(&n), [key(1)]);
        }
    }

    #[test]
    fn after_a_loss_two_lists_in_a_row_remove_an_entry() {
        let mut n = Neighbours::default();
        n.announced(key(1), Some(entry(1)));
        n.announcements_lost();
        assert!(n.listed(list(&[])), "to be read again");
        assert_eq!(known(&n), [key(1)]);
        assert!(n.listed(list(&[])), "something changed: once more");
        assert_eq!(known(&n), []);
        assert!(!n.listed(list(&[])));
    }

    #[test]
    fn after_a_loss_an_entry_that_the_second_list_has_stays() {
        let mut n = Neighbours::default();
        n.announced(key(1), Some(entry(1)));
        n.announcements_lost();
        n.listed(list(&[]));
        assert!(!n.listed(list(&[(1, 1)])));
        assert!(!n.listed(list(&[])));
        assert_eq!(known(&n), [key(1)]);
    }

    #[test]
    fn lists_are_read_until_one_brings_nothing_new() {
        let mut n = Neighbours::default();
        assert!(n.listed(list(&[(1, 1)])));
        assert!(
            n.listed(list(&[(1, 1), (2, 2)])),
            "the first one was incomplete"
        );
        assert!(n.listed(list(&[(1, 3)])), "another MAC address");
        assert!(!n.listed(list(&[(1, 3), (2, 2)])));
    }

    #[test]
    fn entries_go_with_their_interface() {
        let mut n = Neighbours::default();
        n.announced(key(1), Some(entry(1)));
        n.retain_interfaces(|index| index != 7);
        assert_eq!(known(&n), []);
    }
}
