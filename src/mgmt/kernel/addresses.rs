//! Which addresses are to be put on the kernel's interfaces, and which to be taken off: pure set arithmetic.
//!
//! Invariant: an address that Polder did not put on an interface is never taken off it.

use std::collections::HashSet;

use crate::forward::defs::{PortId, Prefix};

/// An address on a port's kernel interface.
pub(super) type PortAddress = (PortId, Prefix);

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub remove: Vec<PortAddress>,
    pub add: Vec<PortAddress>,
}

/// Bits of an address of `prefix`'s family.
pub(super) fn host_len(prefix: Prefix) -> u8 {
    if prefix.addr.is_ipv4() { 32 } else { 128 }
}

/// What brings the interfaces from `present` to `wanted`, where `ours` were put on by us earlier.
///
/// A virtual address (a host prefix) that is on the interface already, with whatever prefix length, or that is wanted
/// with a shorter one as the port's own, is there and stays as it is.
pub(super) fn plan(
    wanted: &[PortAddress],
    present: &HashSet<PortAddress>,
    ours: &HashSet<PortAddress>,
) -> Plan {
    let is_host = |p: Prefix| p.len == host_len(p);
    let own: HashSet<_> = wanted
        .iter()
        .filter(|(_, p)| !is_host(*p))
        .map(|(port, p)| (*port, p.addr))
        .collect();
    let mut seen = HashSet::new();
    let wanted: Vec<PortAddress> = wanted
        .iter()
        .filter(|(port, p)| !is_host(*p) || !own.contains(&(*port, p.addr)))
        .copied()
        .filter(|w| seen.insert(*w))
        .collect();

    let mut remove: Vec<PortAddress> = ours
        .iter()
        .filter(|a| present.contains(*a) && !seen.contains(*a))
        .copied()
        .collect();
    remove.sort_by_key(|(port, p)| (*port, p.addr, p.len));
    let staying: HashSet<_> = present
        .iter()
        .filter(|a| !remove.contains(a))
        .map(|(port, p)| (*port, p.addr))
        .collect();
    let is_there = |(port, p): &PortAddress| {
        present.contains(&(*port, *p)) || (is_host(*p) && staying.contains(&(*port, p.addr)))
    };
    let add = wanted.into_iter().filter(|w| !is_there(w)).collect();
    Plan { remove, add }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(port: u16, text: &str) -> PortAddress {
        let (addr, len) = text.split_once('/').expect("a prefix in a test");
        let addr = addr.parse().expect("an address in a test");
        (
            PortId(port),
            Prefix {
                addr,
                len: len.parse().expect("a length in a test"),
            },
        )
    }

    fn set(list: &[PortAddress]) -> HashSet<PortAddress> {
        list.iter().copied().collect()
    }

    #[test]
    fn what_is_missing_is_added_in_the_order_wanted_and_once() {
        let wanted = [
            on(0, "192.0.2.10/24"),
            on(0, "10.4.3.192/32"),
            on(0, "10.4.3.192/32"),
        ];
        let p = plan(&wanted, &set(&[]), &set(&[]));
        assert_eq!(
            p,
            Plan {
                remove: vec![],
                add: wanted[..2].to_vec()
            }
        );
    }

    #[test]
    fn a_second_time_there_is_nothing_to_do() {
        let wanted = [on(0, "192.0.2.10/24"), on(1, "2001:db8::1/128")];
        assert_eq!(plan(&wanted, &set(&wanted), &set(&wanted)), Plan::default());
    }

    #[test]
    fn only_our_own_are_removed() {
        let (ours, theirs) = (on(0, "10.0.0.1/32"), on(0, "10.0.0.2/32"));
        let p = plan(&[], &set(&[ours, theirs]), &set(&[ours]));
        assert_eq!(
            p,
            Plan {
                remove: vec![ours],
                add: vec![]
            }
        );
    }

    #[test]
    fn ours_that_someone_else_removed_is_not_removed_again() {
        let ours = on(0, "10.0.0.1/32");
        assert_eq!(plan(&[], &set(&[]), &set(&[ours])), Plan::default());
    }

    #[test]
    fn a_virtual_address_that_is_there_with_another_length_is_there() {
        let present = set(&[on(0, "192.0.2.10/24")]);
        let vip = on(0, "192.0.2.10/32");
        assert_eq!(plan(&[vip], &present, &set(&[])), Plan::default());
        let elsewhere = on(1, "192.0.2.10/32");
        assert_eq!(plan(&[elsewhere], &present, &set(&[])).add, vec![elsewhere]);
    }

    #[test]
    fn a_virtual_address_that_is_also_the_ports_own_is_put_on_once() {
        let (own, vip) = (on(0, "2001:db8::10/64"), on(0, "2001:db8::10/128"));
        assert_eq!(plan(&[vip, own], &set(&[]), &set(&[])).add, vec![own]);
    }

    #[test]
    fn a_change_of_the_prefix_length_is_a_removal_and_an_addition() {
        let (before, after) = (on(0, "2001:db8::10/128"), on(0, "2001:db8::10/64"));
        let p = plan(&[after], &set(&[before]), &set(&[before]));
        assert_eq!(
            p,
            Plan {
                remove: vec![before],
                add: vec![after]
            }
        );
        let p = plan(&[before], &set(&[after]), &set(&[after]));
        assert_eq!(
            p,
            Plan {
                remove: vec![after],
                add: vec![before]
            }
        );
    }
}
