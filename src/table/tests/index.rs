//! The index against a list of pairs.

use proptest::prelude::*;

use crate::table::index::{Index, IndexFull};

/// A hash for a home bucket (of few) and a tag: the high half chooses the bucket.
fn hash(home: u64, tag: u64) -> u64 {
    home << 60 | tag
}

#[test]
fn references_of_one_hash_fill_sixteen_buckets_and_no_more() {
    let mut index = Index::new(4 * 64).unwrap();
    for value in 0..128 {
        assert_eq!(index.insert(hash(15, 9), value), Ok(()));
    }
    assert_eq!(index.insert(hash(15, 9), 128), Err(IndexFull));
    assert!((0..128).all(|value| index.find(hash(15, 9), |v| v == value) == Some(value)));
    // Whoever lives further on still fits and is found; what can't be stored leaves no trace.
    assert_eq!(index.insert(hash(0, 9), 500), Ok(()));
    index.remove(hash(15, 9), 0);
    assert_eq!(index.insert(hash(15, 9), 128), Ok(()));
    assert!(index.displaced() > 0);
    for value in 1..=128 {
        index.remove(hash(15, 9), value);
    }
    assert_eq!(index.displaced(), 12, "the one behind twelve full buckets");
    index.remove(hash(0, 9), 500);
    assert_eq!(index.displaced(), 0);
    index.insert(hash(0, 9), 500).unwrap();
    assert_eq!(index.find(hash(15, 9), |_| true), None);
    assert_eq!(index.find(hash(0, 9), |v| v == 500), Some(500));
}

#[test]
#[should_panic(expected = "not in the index")]
fn removing_what_is_not_stored_is_noticed() {
    Index::new(8).unwrap().remove(5, 5);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn the_index_finds_what_a_list_finds(
        buckets in 1usize..40,
        ops in prop::collection::vec((any::<bool>(), 0u64..16, 0u64..4, any::<prop::sample::Index>()), 1..300),
    ) {
        let mut index = Index::new(buckets * 4).unwrap();
        let mut list: Vec<(u64, u32)> = Vec::new();
        for (n, (insert, home, tag, which)) in (0u32..).zip(ops) {
            if insert || list.is_empty() {
                if index.insert(hash(home, tag), n).is_ok() {
                    list.push((hash(home, tag), n));
                } else {
                    prop_assert!(list.len() >= 8 * buckets.min(16), "full too early");
                }
            } else {
                let (hash, value) = list.swap_remove(which.index(list.len()));
                index.remove(hash, value);
            }
            for &(hash, value) in &list {
                prop_assert_eq!(index.find(hash, |v| v == value), Some(value));
            }
            for home in 0..16 {
                let mut found = Vec::new();
                index.find(hash(home, 2), |v| { found.push(v); false });
                // Another hash may share bucket and tag, so the list's are among those found.
                prop_assert!(list.iter().filter(|(h, _)| *h == hash(home, 2)).all(|(_, v)| found.contains(v)));
            }
        }
        for (hash, value) in list.drain(..) {
            index.remove(hash, value);
        }
        prop_assert_eq!(index.displaced(), 0);
        prop_assert!((0..16).all(|home| index.find(hash(home, 2), |_| true).is_none()));
    }
}
