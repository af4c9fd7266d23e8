//! `dh`, destination hashing (specification §6.8).

use std::sync::Arc;

use super::hash::{NONE, multiplicative};
use super::{Build, Flags, Scheduler, Selection};
use crate::table::Dest;

const BITS: u32 = 8;
const BUCKETS: usize = 1 << BITS;

#[derive(Debug)]
struct DestinationHashing {
    buckets: [u16; BUCKETS],
}

/// What to do about more servers than [`most`].
pub(super) const REMEDY: &str =
    "use a scheduler without a table of 256 places, such as `sh` or `mh`";

/// The kernel takes more servers than buckets and never uses the rest; here that is an error.
pub(super) fn most(_: Flags) -> usize {
    BUCKETS
}

pub(super) fn build(build: &Build<'_>, _: Flags) -> Box<dyn Scheduler> {
    let mut buckets = [NONE; BUCKETS];
    // Weights don't count, and a server of weight 0 keeps its buckets.
    let servers = (0..NONE).take(build.dests.len());
    for (bucket, server) in buckets.iter_mut().zip(servers.cycle()) {
        *bucket = server;
    }
    Box::new(DestinationHashing { buckets })
}

impl Scheduler for DestinationHashing {
    fn select(&self, dests: &[Arc<Dest>], selection: &Selection<'_>) -> Option<usize> {
        let bucket = multiplicative(selection.virtual_addr, BITS) as usize;
        let index = usize::from(self.buckets[bucket]);
        dests
            .get(index)
            .is_some_and(|dest| dest.eligible())
            .then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testkit::{Service, list, loaded_servers};
    use super::*;

    fn to(virtual_addr: u32) -> Selection<'static> {
        Selection {
            virtual_addr,
            ..Selection::default()
        }
    }

    #[test]
    fn buckets_go_round_the_list_whatever_the_weights() {
        // Specification §6.10: H(10.0.0.1, 8) is 39, H(10.0.0.2, 8) is 137, H(192.168.1.77, 8) is 144.
        let service = Service::new("dh", &[], list(&[1, 50, 1]));
        assert_eq!(service.select(&to(0x0a00_0001)), Some(39 % 3));
        assert_eq!(service.select(&to(0x0a00_0002)), Some(137 % 3));
        assert_eq!(service.select(&to(0xc0a8_014d)), Some(144 % 3));
    }

    #[test]
    fn a_quiesced_server_keeps_its_buckets_and_refuses() {
        let service = Service::new("dh", &[], list(&[0, 1, 1]));
        assert_eq!(service.select(&to(0x0a00_0001)), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_choice_is_the_server_of_the_bucket_if_it_is_eligible(
            dests in loaded_servers(), addr: u32
        ) {
            let bucket = (u64::from(addr) * 0x61c8_8647 % (1 << 32)) >> 24;
            let owner = (!dests.is_empty()).then(|| bucket as usize % dests.len());
            let expected = owner.filter(|&i| dests[i].weight > 0 && !dests[i].shared.overloaded());
            prop_assert_eq!(Service::new("dh", &[], dests).select(&to(addr)), expected);
        }
    }
}
