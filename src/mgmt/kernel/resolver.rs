//! Which neighbours the kernel is asked for, and when: pure policy, callers pass `now`.
//!
//! Two kinds. The next hops of real servers and the gateways of routes are *kept*: the kernel is told to resolve them
//! and to keep them fresh by itself (`NTF_EXT_MANAGED`, Linux 5.16; on older kernels they are asked for anew at every
//! refresh). Addresses that a worker met are asked for *on demand*; as the kernel does not see the traffic to them, a
//! stale one is asked for again, so that a host that moved is noticed.
//!
//! Invariant: at most one request a second for an address, and at most [`MAX_ON_DEMAND`] addresses on demand.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::addresses::host_len;
use super::decode::Neighbour;
use crate::forward::defs::{PortId, Prefix, RouteDef};

/// Least time between two requests for one address.
const PAUSE: Duration = Duration::from_secs(1);
/// Age at which a stale entry on demand is asked for again, and one that is gone is forgotten.
const REFRESH: Duration = Duration::from_secs(30);
/// Addresses on demand that are remembered.
const MAX_ON_DEMAND: usize = 4096;
/// Gateways of routes that are kept; a route server may announce more than anyone sends to.
const MAX_GATEWAYS: usize = 256;

/// An address on a port's network.
pub(super) type Hop = (PortId, IpAddr);

/// Whose neighbours are to be kept fresh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Real servers' addresses, on any port's network or behind routers: the mirrored routes say who is asked for.
    pub servers: Vec<IpAddr>,
    /// Addresses on a port's own network: gateways of configured routes, servers that only configured routes lead to.
    pub next_hops: Vec<(PortId, IpAddr)>,
}

/// A request to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub hop: Hop,
    /// Whether the kernel is to keep it fresh from now on; if not, it no longer does.
    pub keep: bool,
}

/// What was asked for and what is to be asked for.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    kept: HashSet<Hop>,
    /// Last request for each hop, kept or on demand.
    asked: HashMap<Hop, Instant>,
}

impl Resolver {
    /// Takes what is to be kept from `targets` and `routes`; addresses that `is_own` are never asked for. Returns the
    /// requests that release what is no longer kept. What is newly kept is due ([`Resolver::due`]).
    pub(super) fn retarget(
        &mut self,
        targets: &Targets,
        routes: &[RouteDef],
        is_own: impl Fn(IpAddr) -> bool,
    ) -> Vec<Ask> {
        let table = RouteTable::new(routes);
        let gateways: HashSet<Hop> = routes
            .iter()
            .filter_map(|r| Some((r.port, r.via?)))
            .collect();
        let mut gateways: Vec<Hop> = gateways.into_iter().collect();
        gateways.sort_unstable();
        let kept: HashSet<Hop> = (targets.servers.iter())
            .filter(|a| !is_own(**a))
            .filter_map(|a| table.next_hop(*a))
            .chain(targets.next_hops.iter().copied())
            .chain(gateways.into_iter().take(MAX_GATEWAYS))
            .filter(|(_, addr)| is_unicast(*addr) && !is_own(*addr))
            .collect();
        let released = self.kept.difference(&kept).map(|hop| Ask {
            hop: *hop,
            keep: false,
        });
        let released: Vec<Ask> = released.collect();
        for ask in &released {
            self.asked.remove(&ask.hop);
        }
        self.kept = kept;
        released
    }

    /// A worker met `hop`. The request to send, if one is due.
    pub(super) fn on_demand(&mut self, hop: Hop, now: Instant) -> Option<Ask> {
        let known = self.asked.contains_key(&hop);
        if !is_unicast(hop.1) || (!known && self.asked.len() >= MAX_ON_DEMAND + self.kept.len()) {
            return None;
        }
        self.ask(hop, PAUSE, now)
    }

    /// The requests that are due at `now`, given the kernel's `entry` of each hop. Called every few seconds and
    /// whenever something that it depends on changed.
    pub(super) fn due(
        &mut self,
        now: Instant,
        entry: impl Fn(Hop) -> Option<Neighbour>,
    ) -> Vec<Ask> {
        let age = |last: Instant| now.saturating_duration_since(last);
        let kept = &self.kept;
        self.asked.retain(|hop, last| {
            kept.contains(hop) || age(*last) < REFRESH || entry(*hop).is_some()
        });
        let stale = |hop: Hop| entry(hop).is_some_and(Neighbour::is_stale);
        let on_demand = self
            .asked
            .keys()
            .filter(|h| !kept.contains(*h) && stale(**h));
        let unkept = kept
            .iter()
            .filter(|h| !entry(**h).is_some_and(|e| e.managed || e.is_fixed()));
        let due: Vec<(Hop, Duration)> = (unkept.map(|h| (*h, PAUSE)))
            .chain(on_demand.map(|h| (*h, REFRESH)))
            .collect();
        due.into_iter()
            .filter_map(|(hop, pause)| self.ask(hop, pause, now))
            .collect()
    }

    /// The requests that release everything that is kept.
    pub(super) fn release(&mut self) -> Vec<Ask> {
        self.asked.clear();
        self.kept
            .drain()
            .map(|hop| Ask { hop, keep: false })
            .collect()
    }

    /// A request for `hop`, unless the last one is less than `pause` ago.
    fn ask(&mut self, hop: Hop, pause: Duration, now: Instant) -> Option<Ask> {
        let last = self.asked.get(&hop);
        if last.is_some_and(|last| now.saturating_duration_since(*last) < pause) {
            return None;
        }
        self.asked.insert(hop, now);
        // A request without the flag would end what the kernel does by itself.
        Some(Ask {
            hop,
            keep: self.kept.contains(&hop),
        })
    }
}

fn is_unicast(addr: IpAddr) -> bool {
    let broadcast = matches!(addr, IpAddr::V4(a) if a.is_broadcast());
    !addr.is_multicast() && !addr.is_unspecified() && !addr.is_loopback() && !broadcast
}

/// Routes by prefix, for the longest match.
struct RouteTable<'a> {
    routes: HashMap<Prefix, &'a RouteDef>,
    /// Prefix lengths that occur, longest first.
    lengths: Vec<u8>,
}

impl<'a> RouteTable<'a> {
    fn new(routes: &'a [RouteDef]) -> Self {
        let mut lengths: Vec<u8> = routes.iter().map(|r| r.to.len).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        Self {
            routes: routes.iter().map(|r| (r.to, r)).collect(),
            lengths,
        }
    }

    /// Whom a packet to `addr` is handed to.
    fn next_hop(&self, addr: IpAddr) -> Option<Hop> {
        let host = host_len(Prefix { addr, len: 0 });
        let of = |len: &u8| {
            self.routes.get(&Prefix {
                addr: network(addr, *len),
                len: *len,
            })
        };
        let route = self
            .lengths
            .iter()
            .filter(|len| **len <= host)
            .find_map(of)?;
        Some((route.port, route.via.unwrap_or(addr)))
    }
}

/// `addr` with all but the first `len` bits cleared.
fn network(addr: IpAddr, len: u8) -> IpAddr {
    let len = u32::from(len);
    match addr {
        IpAddr::V4(a) => IpAddr::V4((a.to_bits() & !u32::MAX.checked_shr(len).unwrap_or(0)).into()),
        IpAddr::V6(a) => {
            IpAddr::V6((a.to_bits() & !u128::MAX.checked_shr(len).unwrap_or(0)).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::AddressFamily;
    use rtnetlink::packet_route::neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
    };

    use super::*;
    use crate::mgmt::kernel::decode;

    const PORT: PortId = PortId(3);

    fn ip(s: &str) -> IpAddr {
        s.parse().expect("an address in a test")
    }

    fn route(to: &str, via: Option<&str>) -> RouteDef {
        let (addr, len) = to.split_once('/').expect("a prefix in a test");
        let to = Prefix {
            addr: ip(addr),
            len: len.parse().expect("a length in a test"),
        };
        RouteDef {
            to,
            via: via.map(ip),
            port: PORT,
        }
    }

    fn servers(list: &[&str]) -> Targets {
        Targets {
            servers: list.iter().map(|s| ip(s)).collect(),
            next_hops: vec![],
        }
    }

    fn keep(addr: &str) -> Ask {
        Ask {
            hop: (PORT, ip(addr)),
            keep: true,
        }
    }

    fn entry(state: NeighbourState, managed: bool) -> Neighbour {
        let mut m = NeighbourMessage::default();
        m.header.family = AddressFamily::Inet;
        m.header.state = state;
        let addr = NeighbourAddress::Inet([192, 0, 2, 1].into());
        m.attributes.push(NeighbourAttribute::Destination(addr));
        if managed {
            m.attributes
                .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        }
        decode::neighbour(&m).expect("an entry").2
    }

    /// A resolver that keeps one on-link server, and a moment.
    fn keeping() -> (Resolver, Instant) {
        let mut r = Resolver::default();
        let routes = [route("192.0.2.0/24", None)];
        assert_eq!(
            r.retarget(&servers(&["192.0.2.1"]), &routes, |_| false),
            vec![]
        );
        (r, Instant::now())
    }

    #[test]
    fn an_onlink_server_and_the_router_before_a_remote_one_are_kept() {
        let mut r = Resolver::default();
        let routes = [
            route("192.0.2.0/24", None),
            route("10.0.0.0/8", Some("192.0.2.200")),
            route("0.0.0.0/0", Some("192.0.2.254")),
            route("2001:db8::/32", Some("fe80::1")),
        ];
        let t = servers(&["192.0.2.1", "10.1.1.1", "2001:db8::5", "fd00::1"]);
        let _ = r.retarget(&t, &routes, |_| false);
        let mut asked = r.due(Instant::now(), |_| None);
        asked.sort_by_key(|a| a.hop);
        let expected = ["192.0.2.1", "192.0.2.200", "192.0.2.254", "fe80::1"].map(keep);
        assert_eq!(
            asked, expected,
            "fd00::1 has no route; 10.1.1.1 is behind 192.0.2.200"
        );
    }

    #[test]
    fn addresses_of_the_directors_own_and_groups_are_never_asked_for() {
        let mut r = Resolver::default();
        let t = Targets {
            servers: vec![ip("192.0.2.10")],
            next_hops: ["224.0.0.5", "255.255.255.255", "::", "ff02::1", "127.0.0.1"]
                .map(|a| (PORT, ip(a)))
                .to_vec(),
        };
        let _ = r.retarget(&t, &[route("192.0.2.0/24", None)], |a| {
            a == ip("192.0.2.10")
        });
        assert_eq!(r.due(Instant::now(), |_| None), vec![]);
        assert_eq!(r.on_demand((PORT, ip("224.0.0.5")), Instant::now()), None);
    }

    #[test]
    fn a_server_that_is_kept_by_the_kernel_is_not_asked_for_again() {
        let (mut r, now) = keeping();
        assert_eq!(r.due(now, |_| None), vec![keep("192.0.2.1")]);
        let managed = entry(NeighbourState::Stale, true);
        assert_eq!(r.due(now + REFRESH, |_| Some(managed)), vec![]);
    }

    #[test]
    fn a_server_whose_entry_the_kernel_lost_or_does_not_keep_is_asked_for_again() {
        let (mut r, now) = keeping();
        assert_eq!(r.due(now, |_| None).len(), 1);
        assert_eq!(
            r.due(now + PAUSE / 2, |_| None),
            vec![],
            "not twice within the pause"
        );
        assert_eq!(r.due(now + PAUSE, |_| None), vec![keep("192.0.2.1")]);
        let unmanaged = entry(NeighbourState::Reachable, false);
        assert_eq!(
            r.due(now + 2 * PAUSE, |_| Some(unmanaged)),
            vec![keep("192.0.2.1")]
        );
    }

    #[test]
    fn an_entry_set_by_hand_is_left_alone() {
        let (mut r, now) = keeping();
        for state in [NeighbourState::Permanent, NeighbourState::Noarp] {
            assert_eq!(r.due(now, |_| Some(entry(state, false))), vec![]);
        }
    }

    #[test]
    fn what_is_no_longer_a_server_is_released() {
        let (mut r, now) = keeping();
        let _ = r.due(now, |_| None);
        let released = r.retarget(&Targets::default(), &[route("192.0.2.0/24", None)], |_| {
            false
        });
        assert_eq!(
            released,
            vec![Ask {
                hop: (PORT, ip("192.0.2.1")),
                keep: false
            }]
        );
        assert_eq!(r.due(now + PAUSE, |_| None), vec![]);
    }

    #[test]
    fn a_server_whose_route_changes_is_asked_for_by_its_new_next_hop() {
        let (mut r, now) = keeping();
        let _ = r.due(now, |_| None);
        let routes = [route("192.0.2.0/24", Some("198.51.100.1"))];
        let released = r.retarget(&servers(&["192.0.2.1"]), &routes, |_| false);
        assert_eq!(released.len(), 1);
        assert_eq!(r.due(now, |_| None), vec![keep("198.51.100.1")]);
    }

    #[test]
    fn demand_is_limited_to_one_request_a_second() {
        let (mut r, now) = keeping();
        let hop = (PORT, ip("192.0.2.77"));
        assert_eq!(r.on_demand(hop, now), Some(Ask { hop, keep: false }));
        assert_eq!(r.on_demand(hop, now + PAUSE / 2), None);
        assert_eq!(
            r.on_demand(hop, now + PAUSE),
            Some(Ask { hop, keep: false })
        );
    }

    #[test]
    fn demand_for_a_server_does_not_end_its_keeping() {
        let (mut r, now) = keeping();
        assert_eq!(
            r.on_demand((PORT, ip("192.0.2.1")), now),
            Some(keep("192.0.2.1"))
        );
    }

    #[test]
    fn a_stale_neighbour_that_was_asked_for_is_refreshed_and_a_gone_one_forgotten() {
        let mut r = Resolver::default();
        let (hop, now) = ((PORT, ip("192.0.2.77")), Instant::now());
        let _ = r.on_demand(hop, now);
        let stale = entry(NeighbourState::Stale, false);
        assert_eq!(r.due(now + REFRESH / 2, |_| Some(stale)), vec![]);
        assert_eq!(
            r.due(now + REFRESH, |_| Some(stale)),
            vec![Ask { hop, keep: false }]
        );
        assert_eq!(r.due(now + 3 * REFRESH, |_| None), vec![]);
        assert!(r.asked.is_empty());
    }

    #[test]
    fn addresses_on_demand_are_bounded() {
        let mut r = Resolver::default();
        let now = Instant::now();
        let hop = |n: u32| (PORT, IpAddr::V4((0x0a00_0000 + n).into()));
        let many = u32::try_from(MAX_ON_DEMAND).expect("a small number");
        assert!((0..many).all(|n| r.on_demand(hop(n), now).is_some()));
        assert_eq!(r.on_demand(hop(many), now), None);
        assert!(
            r.on_demand(hop(0), now + PAUSE).is_some(),
            "known ones are still asked for"
        );
    }

    #[test]
    fn the_longest_route_wins_whatever_the_order() {
        let mut routes = vec![
            route("0.0.0.0/0", Some("1.1.1.1")),
            route("10.0.0.0/8", Some("2.2.2.2")),
        ];
        routes.push(route("10.0.0.1/32", None));
        for _ in 0..2 {
            routes.reverse();
            let table = RouteTable::new(&routes);
            let via = |a: &str| table.next_hop(ip(a)).map(|h| h.1);
            assert_eq!(via("10.0.0.1"), Some(ip("10.0.0.1")));
            assert_eq!(via("10.0.0.2"), Some(ip("2.2.2.2")));
            assert_eq!(via("11.0.0.2"), Some(ip("1.1.1.1")));
            assert_eq!(via("::1"), None);
        }
    }
}
