//! Forwarding information: where a packet for an address leaves, and with which MAC addresses.
//!
//! Immutable; built by the management core from static and kernel routes and neighbours, and published with the
//! snapshot. The ways to every real server and to every next hop are resolved at build time, so towards servers no
//! lookup is left; towards clients it is one longest-prefix match, and a neighbour lookup for those on the link.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::defs::{NeighbourDef, PortDef, PortId, Prefix, RouteDef, address_bytes};
use crate::net::{Addr4, Addr6, Family, Mac, V4, V6};
use crate::table::DestId;

/// A resolved way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Port to leave by.
    pub port: PortId,
    /// IP MTU in bytes.
    pub mtu: u16,
    /// Destination MAC address.
    pub dst_mac: Mac,
    /// The port's MAC address.
    pub src_mac: Mac,
}

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// All is known.
    Known(Egress),
    /// The next hop's MAC address is not known yet.
    Unresolved {
        /// Port to leave by.
        port: PortId,
        /// Next hop.
        next_hop: IpAddr,
    },
    /// There is no route.
    None,
}

/// One port as the forwarding code needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibPort {
    /// The MAC address frames leave with; what is sent to it is ours.
    pub mac: Mac,
    /// Whether frames to any unicast MAC address are ours (no address is configured and there is no device: replay).
    pub any_mac: bool,
    /// IP MTU in bytes.
    pub mtu: u16,
    /// The director's first IPv4 address on the port, for packets that it makes itself.
    pub addr4: Option<Addr4>,
    /// The director's first IPv6 address on the port.
    pub addr6: Option<Addr6>,
}

/// The routes of one prefix length.
type Level<F> = (u8, HashMap<<F as Family>::Addr, Hop>);

/// Where a route leads.
#[derive(Clone, Copy, Debug)]
enum Hop {
    /// To a next hop, which is looked up when the table is built.
    Via(Way),
    /// To the address itself.
    OnLink(PortId),
}

/// Longest-prefix match: one hash table per prefix length in use, longest first.
#[derive(Debug)]
struct Lpm<F: Family> {
    levels: Vec<Level<F>>,
}

impl<F: Family> Lpm<F> {
    fn build(
        routes: &[(Prefix, PortId, Option<IpAddr>)],
        way_by: impl Fn(PortId, IpAddr) -> Way,
    ) -> Self {
        let mut levels: Vec<Level<F>> = Vec::new();
        for (to, port, via) in routes {
            let Some(addr) = F::from_ip(to.addr) else {
                continue;
            };
            let at = match levels.binary_search_by(|(len, _)| to.len.cmp(len)) {
                Ok(i) => i,
                Err(i) => {
                    levels.insert(i, (to.len, HashMap::new()));
                    i
                }
            };
            let hop = match via.filter(|via| F::from_ip(*via).is_some()) {
                Some(via) => Hop::Via(way_by(*port, via)),
                None => Hop::OnLink(*port),
            };
            // The first route given for a prefix wins, as the first of equal metric does in the kernel.
            levels[at].1.entry(mask::<F>(addr, to.len)).or_insert(hop);
        }
        Self { levels }
    }

    #[inline]
    fn lookup(&self, addr: F::Addr) -> Option<Hop> {
        self.levels
            .iter()
            .find_map(|(len, hops)| hops.get(&mask::<F>(addr, *len)).copied())
    }
}

/// `addr` with all but its first `len` bits cleared.
#[inline]
#[must_use]
pub fn mask<F: Family>(addr: F::Addr, len: u8) -> F::Addr {
    let bits = u128::from_be_bytes(address_bytes::<F>(addr));
    let kept = u128::MAX
        .checked_shl(128 - u32::from(len.min(128)))
        .unwrap_or(0);
    F::read(&(bits & kept).to_be_bytes())
}

/// Where packets leave.
#[derive(Debug)]
pub struct Fib {
    /// Goes up by one with each build.
    pub generation: u64,
    /// By [`PortId`].
    pub ports: Vec<FibPort>,
    v4: Lpm<V4>,
    v6: Lpm<V6>,
    neighbours: HashMap<(PortId, IpAddr), Mac>,
    dests: Vec<Way>,
}

/// What a [`Fib`] is built from.
#[derive(Debug)]
pub struct FibInput<'a> {
    /// Ports of the configuration.
    pub ports: &'a [PortDef],
    /// The MAC address each port really has, by [`PortId`].
    pub macs: &'a [Option<Mac>],
    /// Routes; where two have the same prefix the first wins.
    pub routes: &'a [RouteDef],
    /// Neighbours; the last entry for an address wins.
    pub neighbours: &'a [NeighbourDef],
    /// Real servers' slots and addresses.
    pub dests: &'a [(DestId, IpAddr)],
}

impl Fib {
    /// Builds the table. On-link routes of the ports' addresses are added to those given.
    #[must_use]
    pub fn build(generation: u64, input: &FibInput<'_>) -> Self {
        let ports = input
            .ports
            .iter()
            .zip(input.macs)
            .map(|(p, mac)| fib_port(p, *mac))
            .collect();
        let mut routes: Vec<_> = input.routes.iter().map(|r| (r.to, r.port, r.via)).collect();
        for (i, p) in input.ports.iter().enumerate() {
            let id = PortId(u16::try_from(i).unwrap_or(u16::MAX));
            routes.extend(p.addresses.iter().map(|a| (*a, id, None)));
        }
        let mut fib = Self {
            generation,
            ports,
            v4: Lpm { levels: Vec::new() },
            v6: Lpm { levels: Vec::new() },
            neighbours: input
                .neighbours
                .iter()
                .map(|n| ((n.port, n.addr), n.mac))
                .collect(),
            dests: Vec::new(),
        };
        fib.v4 = Lpm::build(&routes, |port, via| fib.way_by(port, via));
        fib.v6 = Lpm::build(&routes, |port, via| fib.way_by(port, via));
        let slots = input
            .dests
            .iter()
            .map(|(id, _)| id.0 as usize + 1)
            .max()
            .unwrap_or(0);
        let mut dests = vec![Way::None; slots];
        for (id, addr) in input.dests {
            dests[id.0 as usize] = fib.way_to(*addr);
        }
        fib.dests = dests;
        fib
    }

    /// The way to any address.
    #[must_use]
    pub fn way_to(&self, addr: IpAddr) -> Way {
        match addr {
            IpAddr::V4(a) => self.way::<V4>(a.into()),
            IpAddr::V6(a) => self.way::<V6>(a.into()),
        }
    }

    /// The way to an address of one family.
    #[inline]
    #[must_use]
    pub fn way<F: Family>(&self, addr: F::Addr) -> Way {
        let ip: IpAddr = addr.into();
        let hop = match ip {
            IpAddr::V4(a) => self.v4.lookup(a.into()),
            IpAddr::V6(a) => self.v6.lookup(a.into()),
        };
        match hop {
            Some(Hop::Via(way)) => way,
            Some(Hop::OnLink(port)) => self.way_by(port, ip),
            None => Way::None,
        }
    }

    /// The way to a real server.
    #[inline]
    #[must_use]
    pub fn way_to_dest(&self, id: DestId) -> Way {
        self.dests.get(id.0 as usize).copied().unwrap_or(Way::None)
    }

    /// The way to a next hop on a port, also for packets that waited for its MAC address; none by a port that is not
    /// there.
    #[inline]
    #[must_use]
    pub fn way_by(&self, port: PortId, next_hop: IpAddr) -> Way {
        let Some(p) = self.ports.get(usize::from(port.0)) else {
            return Way::None;
        };
        match self.neighbours.get(&(port, next_hop)) {
            Some(mac) => Way::Known(Egress {
                port,
                mtu: p.mtu,
                dst_mac: *mac,
                src_mac: p.mac,
            }),
            None => Way::Unresolved { port, next_hop },
        }
    }

    /// Neighbours, for listings.
    pub fn neighbours(&self) -> impl Iterator<Item = (PortId, IpAddr, Mac)> + '_ {
        self.neighbours
            .iter()
            .map(|((port, addr), mac)| (*port, *addr, *mac))
    }

    /// Next hops of real servers that have no MAC address yet.
    pub fn unresolved_dests(&self) -> impl Iterator<Item = (PortId, IpAddr)> + '_ {
        self.dests.iter().filter_map(|w| match w {
            Way::Unresolved { port, next_hop } => Some((*port, *next_hop)),
            _ => None,
        })
    }
}

fn fib_port(p: &PortDef, mac: Option<Mac>) -> FibPort {
    let mac = p.mac.or(mac);
    FibPort {
        mac: mac.unwrap_or_default(),
        any_mac: mac.is_none(),
        mtu: p.mtu,
        addr4: p.addresses.iter().find_map(|a| V4::from_ip(a.addr)),
        addr6: p.addresses.iter().find_map(|a| V6::from_ip(a.addr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(addr: &str, len: u8) -> PortDef {
        PortDef {
            name: "p".into(),
            device: "d".into(),
            addresses: vec![Prefix {
                addr: addr.parse().expect("address"),
                len,
            }],
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            mtu: 1500,
            kernel_interface: false,
        }
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().expect("address")
    }

    fn fib() -> Fib {
        let ports = [port("192.0.2.10", 24), port("2001:db8::1", 64)];
        let routes = [
            RouteDef {
                to: Prefix {
                    addr: ip("0.0.0.0"),
                    len: 0,
                },
                via: Some(ip("192.0.2.1")),
                port: PortId(0),
            },
            RouteDef {
                to: Prefix {
                    addr: ip("10.0.0.0"),
                    len: 8,
                },
                via: Some(ip("192.0.2.2")),
                port: PortId(0),
            },
        ];
        let n = |p, a, m| NeighbourDef {
            port: PortId(p),
            addr: ip(a),
            mac: Mac([2, 0, 0, 0, 1, m]),
        };
        let neighbours = [n(0, "192.0.2.1", 1), n(1, "2001:db8::5", 5)];
        Fib::build(
            1,
            &FibInput {
                ports: &ports,
                macs: &[None, None],
                routes: &routes,
                neighbours: &neighbours,
                dests: &[(DestId(3), ip("192.0.2.1"))],
            },
        )
    }

    #[test]
    fn the_longest_prefix_wins_and_an_unknown_neighbour_is_unresolved() {
        let fib = fib();
        assert!(matches!(fib.way_to(ip("198.51.100.7")), Way::Known(e) if e.dst_mac.0[5] == 1));
        assert_eq!(
            fib.way_to(ip("10.1.2.3")),
            Way::Unresolved {
                port: PortId(0),
                next_hop: ip("192.0.2.2")
            }
        );
        assert_eq!(
            fib.way_to(ip("192.0.2.77")),
            Way::Unresolved {
                port: PortId(0),
                next_hop: ip("192.0.2.77")
            }
        );
    }

    #[test]
    fn families_do_not_mix_and_no_route_is_said() {
        let fib = fib();
        assert!(matches!(fib.way_to(ip("2001:db8::5")), Way::Known(e) if e.port == PortId(1)));
        assert_eq!(fib.way_to(ip("2001:db8:1::5")), Way::None);
    }

    #[test]
    fn servers_are_resolved_at_build_time() {
        let fib = fib();
        assert!(matches!(fib.way_to_dest(DestId(3)), Way::Known(_)));
        assert_eq!(fib.way_to_dest(DestId(2)), Way::None);
        assert_eq!(fib.way_to_dest(DestId(99)), Way::None);
    }

    #[test]
    fn masks_keep_exactly_the_prefix() {
        let a = V4::from_ip(ip("255.255.255.255")).expect("v4");
        for len in 0..=32u8 {
            let want = if len == 0 {
                0
            } else {
                u32::MAX << (32 - u32::from(len))
            };
            assert_eq!(mask::<V4>(a, len).0, want, "/{len}");
        }
        let b = V6::from_ip(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")).expect("v6");
        assert_eq!(mask::<V6>(b, 65).0, [u64::MAX, 1 << 63]);
    }
}
