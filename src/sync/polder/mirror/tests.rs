use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::net::{Addr4, V4};
use crate::sync::entry::ConnEntry;
use crate::table::Ends;

fn entry(n: u16) -> Entry {
    Entry::Conn(ConnEntry {
        ends: Ends::<V4> {
            proto: 6,
            caddr: Addr4(1),
            cport: n,
            vaddr: Addr4(2),
            vport: 80,
            daddr: Addr4(3),
            dport: 80,
        }
        .into(),
        mark: 0,
        state: 1,
        flags: 0,
        timeout: 100,
        remaining: 100,
        template: None,
    })
}

fn id(n: u16) -> EntryId {
    EntryId(u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

#[test]
fn a_slot_has_144_bytes() {
    assert_eq!(size_of::<Slot>(), 144);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Put(u16, u64),
    Kill(u16),
    Free(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..60u16, any::<u64>()).prop_map(|(n, w)| Op::Put(n, w)),
        (0..60u16).prop_map(Op::Kill),
        (0..60u16).prop_map(Op::Free),
    ]
}

proptest! {
    /// Against a map of (worth, dead).
    #[test]
    fn digests_are_those_of_the_live_entries(ops in prop::collection::vec(op(), 0..400)) {
        let mut mirror = Mirror::new(40);
        let mut model: HashMap<u16, (u64, bool)> = HashMap::new();
        for op in ops {
            let live = model.values().filter(|m| !m.1).count();
            match op {
                Op::Put(n, w) => {
                    let fits = live < 40 || model.get(&n).is_some_and(|m| !m.1);
                    let put = match mirror.find(id(n)) {
                        Some(at) => mirror.replace(at, entry(n), w, Tick(7)),
                        None => mirror.insert(id(n), entry(n), w, Tick(7)).is_some(),
                    };
                    prop_assert_eq!(put, fits);
                    if fits {
                        model.insert(n, (w, false));
                    }
                }
                Op::Kill(n) => if let Some(at) = mirror.find(id(n)).filter(|&at| mirror.slot(at).is_live()) {
                    mirror.kill(at);
                    model.get_mut(&n).expect("both have it").1 = true;
                }
                Op::Free(n) => if let Some(at) = mirror.find(id(n)) {
                    prop_assert_eq!(mirror.free(at), entry(n));
                    model.remove(&n);
                }
            }
            let mut total = Digest::default();
            let mut buckets = vec![Digest::default(); BUCKETS];
            for (&n, &(w, dead)) in &model {
                prop_assert_eq!(mirror.get(id(n)).is_some(), !dead);
                if !dead {
                    total.add(w);
                    buckets[usize::from(bucket_of(id(n)))].add(w);
                }
            }
            prop_assert_eq!(mirror.digest(), total);
            prop_assert_eq!(&mirror.buckets[..], &buckets[..]);
            prop_assert_eq!(mirror.dead(), model.values().filter(|m| m.1).count());
        }
    }
}
