//! What the kernel's messages mean: pure translation of netlink messages to neighbours and routes.
//!
//! Knows no socket and no port, only interface indices. Anything that is not understood is left out, never guessed.

use std::collections::HashMap;
use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags,
    RouteProtocol, RouteType, RouteVia,
};

use crate::forward::defs::{NeighbourDef, PortId, Prefix, RouteDef};
use crate::net::Mac;

/// What the kernel knows that the way out is made of: of ports with a kernel interface only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelView {
    /// Neighbours with a usable MAC address, by port and address.
    pub neighbours: Vec<NeighbourDef>,
    /// Unicast routes of the main table that leave by a port, one for each destination, by destination.
    ///
    /// Among routes to one destination the lowest metric wins, and the first listed among equals; routes by interfaces
    /// that are not Polder's do not compete, as Polder can't send there. Of a multipath route the first hop that
    /// leaves by a port is taken. A next hop may be of the other family (RFC 8950).
    pub routes: Vec<RouteDef>,
}

/// NUD states with a MAC address that may be used: REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT.
const USABLE: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;
/// NUD states that no one resolves: NOARP, PERMANENT.
const FIXED: u16 = 0x40 | 0x80;
const STALE: u16 = 0x04;

/// An entry of the kernel's neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// The MAC address, where it may be used.
    pub mac: Option<Mac>,
    /// NUD state bits.
    state: u16,
    /// The kernel keeps it resolved by itself (`NTF_EXT_MANAGED`).
    pub managed: bool,
}

impl Neighbour {
    /// Whether it was set by hand: the kernel does not resolve it, and asking would undo the setting.
    pub(super) fn is_fixed(self) -> bool {
        self.state & FIXED != 0
    }

    /// Whether the kernel has not heard from it lately.
    pub(super) fn is_stale(self) -> bool {
        self.state & STALE != 0
    }
}

/// A change of the neighbour table: interface index, address, entry.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, Neighbour)> {
    let header = &message.header;
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut addr, mut mac, mut managed) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => addr = Some((*a).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => addr = Some((*a).into()),
            NeighbourAttribute::LinkLayerAddress(a) => {
                mac = <[u8; 6]>::try_from(a.as_slice()).ok().map(Mac);
            }
            NeighbourAttribute::ExtFlags(flags) => {
                managed = flags.contains(NeighbourExtFlags::Managed);
            }
            _ => {}
        }
    }
    let state = u16::from(header.state);
    // Groups have entries, too; nobody resolves them.
    let mac = mac.filter(|m| state & USABLE != 0 && !m.is_group() && *m != Mac::default());
    Some((
        header.ifindex,
        addr?,
        Neighbour {
            mac,
            state,
            managed,
        },
    ))
}

/// A route that leaves by an interface of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    to: Prefix,
    metric: u32,
    via: Option<IpAddr>,
    interface: u32,
}

/// A hop: how far it is usable, where it leaves, by whom.
#[derive(Default)]
struct Hop {
    interface: Option<u32>,
    via: Option<IpAddr>,
    /// A tunnel of the kernel's would have to be applied.
    encapsulated: bool,
}

/// The unicast route of the main table that `message` tells of, if it leaves by an interface that `is_ours`.
pub(super) fn route(message: &RouteMessage, is_ours: impl Fn(u32) -> bool) -> Option<Route> {
    let header = &message.header;
    let mut to = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(0.into()),
        AddressFamily::Inet6 => IpAddr::V6(0.into()),
        _ => return None,
    };
    // What depends on more than the destination can't be mirrored: type of service, source address.
    if header.kind != RouteType::Unicast || header.tos != 0 || header.source_prefix_length != 0 {
        return None;
    }
    let (mut table, mut metric, mut hops) = (u32::from(header.table), 0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => to = address(a)?,
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Priority(p) => metric = *p,
            RouteAttribute::MultiPath(list) => hops = Some(list),
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let hop = match hops {
        None => Some(hop(&message.attributes))
            .filter(|_| !header.flags.contains(RouteFlags::Dead))
            .filter(|h| h.usable(&is_ours)),
        Some(list) => list
            .iter()
            .filter(|h| !h.flags.contains(RouteNextHopFlags::Dead))
            .map(|h| Hop {
                interface: Some(h.interface_index),
                ..hop(&h.attributes)
            })
            .find(|h| h.usable(&is_ours)),
    }?;
    let to = Prefix {
        addr: to,
        len: header.destination_prefix_length,
    };
    if is_local_matter(to, header.protocol, hop.via) {
        return None;
    }
    Some(Route {
        to,
        metric,
        via: hop.via,
        interface: hop.interface?,
    })
}

impl Hop {
    fn usable(&self, is_ours: impl Fn(u32) -> bool) -> bool {
        !self.encapsulated && self.interface.is_some_and(is_ours)
    }
}

fn hop(attributes: &[RouteAttribute]) -> Hop {
    let mut hop = Hop::default();
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => hop.interface = Some(*index),
            RouteAttribute::Gateway(a) => hop.via = address(a),
            RouteAttribute::Via(RouteVia::Inet(a)) => hop.via = Some((*a).into()),
            RouteAttribute::Via(RouteVia::Inet6(a)) => hop.via = Some((*a).into()),
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => hop.encapsulated = true,
            _ => {}
        }
    }
    hop
}

fn address(a: &RouteAddress) -> Option<IpAddr> {
    match a {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

/// Routes that say nothing about the way to others: the link-local network, which every interface has, and the host
/// route that the kernel makes for an IPv6 /128 of the interface itself.
fn is_local_matter(to: Prefix, protocol: RouteProtocol, via: Option<IpAddr>) -> bool {
    let IpAddr::V6(addr) = to.addr else {
        return false;
    };
    addr.is_unicast_link_local()
        || (to.len == 128 && protocol == RouteProtocol::Kernel && via.is_none())
}

/// The best route to each destination, in order of destinations.
pub(super) fn best(
    routes: impl IntoIterator<Item = Route>,
    port_of: impl Fn(u32) -> Option<PortId>,
) -> Vec<RouteDef> {
    let mut best: HashMap<Prefix, Route> = HashMap::new();
    for route in routes {
        let kept = best.entry(route.to).or_insert(route);
        if route.metric < kept.metric {
            *kept = route;
        }
    }
    let mut routes: Vec<RouteDef> = best
        .into_values()
        .filter_map(|r| {
            Some(RouteDef {
                to: r.to,
                via: r.via,
                port: port_of(r.interface)?,
            })
        })
        .collect();
    routes.sort_by_key(|r| (r.to.addr, r.to.len));
    routes
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rtnetlink::packet_route::neighbour::NeighbourState;
    use rtnetlink::packet_route::route::{RouteLwEnCapType, RouteNextHop};

    use super::*;

    const TAP: u32 = 7;
    const OTHER: u32 = 8;

    fn ip(s: &str) -> IpAddr {
        s.parse().expect("an address in a test")
    }

    fn prefix(s: &str) -> Prefix {
        let (addr, len) = s.split_once('/').expect("a prefix in a test");
        Prefix {
            addr: ip(addr),
            len: len.parse().expect("a length in a test"),
        }
    }

    /// `ip route add TO dev TAP` and whatever is appended.
    fn message(to: &str, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let to = prefix(to);
        let mut m = RouteMessage::default();
        m.header.address_family = if to.addr.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        m.header.destination_prefix_length = to.len;
        m.header.table = RouteHeader::RT_TABLE_MAIN;
        m.header.kind = RouteType::Unicast;
        if to.len > 0 {
            m.attributes
                .push(RouteAttribute::Destination(to.addr.into()));
        }
        m.attributes.extend(attributes);
        m
    }

    fn via(gateway: &str, interface: u32) -> Vec<RouteAttribute> {
        vec![
            RouteAttribute::Gateway(ip(gateway).into()),
            RouteAttribute::Oif(interface),
        ]
    }

    fn read(m: &RouteMessage) -> Option<(Prefix, Option<IpAddr>)> {
        route(m, |i| i == TAP).map(|r| (r.to, r.via))
    }

    #[test]
    fn gateway_onlink_and_default_routes_are_read() {
        for (m, to, gateway) in [
            (
                message("10.0.0.0/8", via("192.0.2.1", TAP)),
                "10.0.0.0/8",
                Some("192.0.2.1"),
            ),
            (
                message("192.0.2.0/24", vec![RouteAttribute::Oif(TAP)]),
                "192.0.2.0/24",
                None,
            ),
            (
                message("0.0.0.0/0", via("192.0.2.1", TAP)),
                "0.0.0.0/0",
                Some("192.0.2.1"),
            ),
            (
                message("::/0", via("fe80::1", TAP)),
                "::/0",
                Some("fe80::1"),
            ),
        ] {
            assert_eq!(read(&m), Some((prefix(to), gateway.map(ip))), "{to}");
        }
    }

    #[test]
    fn a_next_hop_may_be_of_the_other_family() {
        let hop = RouteVia::Inet6("fe80::1".parse().expect("an address"));
        let m = message(
            "10.0.0.0/8",
            vec![RouteAttribute::Via(hop), RouteAttribute::Oif(TAP)],
        );
        assert_eq!(read(&m), Some((prefix("10.0.0.0/8"), Some(ip("fe80::1")))));
    }

    #[test]
    fn what_is_not_a_plain_way_out_by_a_port_is_left_out() {
        let good = || message("10.0.0.0/8", via("192.0.2.1", TAP));
        let with = |change: fn(&mut RouteMessage)| {
            let mut m = good();
            change(&mut m);
            m
        };
        assert!(read(&good()).is_some());
        for (description, m) in [
            (
                "another interface",
                message("10.0.0.0/8", via("192.0.2.1", OTHER)),
            ),
            ("no interface", message("10.0.0.0/8", vec![])),
            ("a local route", with(|m| m.header.kind = RouteType::Local)),
            (
                "a blackhole",
                with(|m| m.header.kind = RouteType::BlackHole),
            ),
            (
                "another table",
                with(|m| m.attributes.push(RouteAttribute::Table(100))),
            ),
            ("a type of service", with(|m| m.header.tos = 0x10)),
            (
                "a source address",
                with(|m| m.header.source_prefix_length = 64),
            ),
            ("a dead hop", with(|m| m.header.flags = RouteFlags::Dead)),
            (
                "a tunnel",
                with(|m| {
                    m.attributes
                        .push(RouteAttribute::EncapType(RouteLwEnCapType::Mpls))
                }),
            ),
            (
                "the link-local network",
                message("fe80::/64", vec![RouteAttribute::Oif(TAP)]),
            ),
        ] {
            assert_eq!(read(&m), None, "{description}");
        }
    }

    #[test]
    fn the_kernels_host_route_for_an_address_of_ours_is_left_out() {
        let mut m = message("2001:db8::10/128", vec![RouteAttribute::Oif(TAP)]);
        m.header.protocol = RouteProtocol::Kernel;
        assert_eq!(read(&m), None);
        m.header.protocol = RouteProtocol::Static;
        assert!(read(&m).is_some());
    }

    #[test]
    fn of_a_multipath_route_the_first_live_hop_by_a_port_is_taken() {
        let hop = |gateway: &str, interface, flags| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = interface;
            hop.flags = flags;
            hop.attributes = vec![RouteAttribute::Gateway(ip(gateway).into())];
            hop
        };
        let hops = vec![
            hop("203.0.113.1", OTHER, RouteNextHopFlags::empty()),
            hop("192.0.2.1", TAP, RouteNextHopFlags::Dead),
            hop("192.0.2.2", TAP, RouteNextHopFlags::empty()),
            hop("192.0.2.3", TAP, RouteNextHopFlags::empty()),
        ];
        let m = message("10.0.0.0/8", vec![RouteAttribute::MultiPath(hops)]);
        assert_eq!(
            read(&m),
            Some((prefix("10.0.0.0/8"), Some(ip("192.0.2.2"))))
        );
    }

    #[test]
    fn the_lowest_metric_wins_and_the_first_among_equals() {
        let of = |gateway: &str, metric| Route {
            to: prefix("0.0.0.0/0"),
            metric,
            via: Some(ip(gateway)),
            interface: TAP,
        };
        let routes = [
            of("192.0.2.1", 20),
            of("192.0.2.2", 10),
            of("192.0.2.3", 10),
        ];
        let best = best(routes, |_| Some(PortId(0)));
        assert_eq!(best.len(), 1);
        assert_eq!(best[0].via, Some(ip("192.0.2.2")));
    }

    fn entry(state: NeighbourState, mac: &[u8]) -> NeighbourMessage {
        let mut m = NeighbourMessage::default();
        m.header.family = AddressFamily::Inet;
        m.header.ifindex = TAP;
        m.header.state = state;
        let addr = NeighbourAddress::Inet(Ipv4Addr::new(192, 0, 2, 1));
        m.attributes.push(NeighbourAttribute::Destination(addr));
        m.attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        m
    }

    #[test]
    fn a_mac_address_counts_in_usable_states_only() {
        use NeighbourState as N;
        let mac = [2, 0, 0, 0, 0, 1];
        for state in [
            N::Reachable,
            N::Stale,
            N::Delay,
            N::Probe,
            N::Permanent,
            N::Noarp,
        ] {
            let (index, addr, n) = neighbour(&entry(state, &mac)).expect("an entry");
            assert_eq!(
                (index, addr, n.mac),
                (TAP, ip("192.0.2.1"), Some(Mac(mac))),
                "{state}"
            );
        }
        for state in [N::None, N::Incomplete, N::Failed] {
            let (.., n) = neighbour(&entry(state, &mac)).expect("an entry");
            assert_eq!(n.mac, None, "{state}");
        }
    }

    #[test]
    fn what_is_no_unicast_ethernet_address_is_no_mac_address() {
        for mac in [&[1, 0, 0x5e, 0, 0, 1][..], &[0; 6], &[2, 0, 0, 0], &[]] {
            let (.., n) = neighbour(&entry(NeighbourState::Noarp, mac)).expect("an entry");
            assert_eq!(n.mac, None, "{mac:?}");
        }
    }

    #[test]
    fn proxy_entries_are_left_out() {
        let mut m = entry(NeighbourState::Permanent, &[2, 0, 0, 0, 0, 1]);
        m.header.flags = NeighbourFlags::Proxy;
        assert_eq!(neighbour(&m), None);
    }
}
