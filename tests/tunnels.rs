//! Tunnels, packet by packet, in virtual time: what leaves, what is too large, and whom an ICMP error on the way reaches.

mod bed;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use bed::*;
use polder::forward::{DestDef, PortId, ServiceDef};
use polder::net::build::{Frame, fragment, verify};
use polder::net::icmp::IcmpError;
use polder::net::packet::{proto, tcp_flags};
use polder::net::pcap::Writer;
use polder::net::tunnel::{Tunnel, TunnelChecksum, TunnelKind};
use polder::net::{L3, parse};
use polder::table::Method;

const ETHERNET: usize = 14;
/// A router between the director and the servers.
const HOP: (&str, &str) = ("10.0.0.99", "2001:db8:2::99");
const OWN: (&str, &str) = ("10.0.0.1", "2001:db8:2::1");
const SERVER: (&str, &str) = ("10.0.0.11", "2001:db8:2::11");
const CLIENT: (&str, &str) = ("203.0.113.9:40000", "[2001:db8:7::9]:40000");
const SERVICE: (&str, &str) = ("198.51.100.1:80", "[2001:db8:9::1]:80");

/// That of IPv4 or IPv6.
fn of(pair: (&'static str, &'static str), v6: bool) -> &'static str {
    if v6 { pair.1 } else { pair.0 }
}

const MIXES: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

fn all_tunnels() -> Vec<Tunnel> {
    use TunnelChecksum::{Full, None, Remote};
    use TunnelKind::{Gre, Gue, Ipip};
    let table = [
        (Ipip, None),
        (Gue, None),
        (Gue, Full),
        (Gue, Remote),
        (Gre, None),
        (Gre, Full),
    ];
    let tunnel = |(kind, checksum)| Tunnel {
        kind,
        port: if kind == Gue { 6080 } else { 0 },
        checksum,
    };
    table.map(tunnel).into()
}

fn tunnelled(proto: u8, tunnel: Tunnel, inner_v6: bool, outer_v6: bool) -> ServiceDef {
    let server = DestDef {
        method: Method::Tunnel,
        tunnel,
        ..dest(of(SERVER, outer_v6), 80)
    };
    service(proto, of(SERVICE, inner_v6), vec![server])
}

/// Bytes in front of the inner packet, from the table of specification §8.4.
fn overhead(tunnel: Tunnel, outer_v6: bool) -> usize {
    let ip = if outer_v6 { 40 } else { 20 };
    ip + match (tunnel.kind, tunnel.checksum) {
        (TunnelKind::Ipip, _) => 0,
        (TunnelKind::Gue, _) => 12,
        (TunnelKind::Gre, TunnelChecksum::None) => 4,
        (TunnelKind::Gre, _) => 8,
    }
}

/// The packet within, as a frame.
fn inner(frame: &[u8], tunnel: Tunnel, inner_v6: bool, outer_v6: bool) -> Vec<u8> {
    let ether_type = if inner_v6 { 0x86dd } else { 0x0800 };
    let at = ETHERNET + overhead(tunnel, outer_v6);
    Frame::new().ethernet(ether_type, &frame[at..])
}

fn syn(inner_v6: bool, from: &Frame) -> Vec<u8> {
    let (client, vip) = (at(of(CLIENT, inner_v6)), at(of(SERVICE, inner_v6)));
    from.tcp(client, vip, tcp_flags::SYN, 1, b"")
}

#[test]
fn a_tunnels_end_gets_what_the_client_sent_with_one_hop_less() {
    for tunnel in all_tunnels() {
        for (inner_v6, outer_v6) in MIXES {
            for workers in [1, 2, 4] {
                let setup = setup(vec![tunnelled(proto::TCP, tunnel, inner_v6, outer_v6)]);
                let mut bed = Bed::with(&setup, workers);
                let what = format!("{tunnel:?}, inner v6 {inner_v6}, outer v6 {outer_v6}");
                let frame = from_client().tos(0x2b).dont_fragment();
                let out = bed.client(&syn(inner_v6, &frame));
                let [(LAN, got)] = &out[..] else {
                    panic!("{what}: {out:?}, {:?}", bed.drops())
                };
                assert_eq!(macs(got).0, server_mac(ip(of(SERVER, outer_v6))), "{what}");
                let less = Frame::new().tos(0x2b).dont_fragment().ttl(63);
                assert_eq!(
                    inner(got, tunnel, inner_v6, outer_v6),
                    syn(inner_v6, &less),
                    "{what}"
                );
                // CE stays inside; outside it is ECT(0).
                let tos = if outer_v6 {
                    got[14] << 4 | got[15] >> 4
                } else {
                    got[15]
                };
                assert_eq!(tos, 0x2a, "{what}");
                let no_checksum = tunnel.checksum == TunnelChecksum::None;
                if !(outer_v6 && tunnel.kind == TunnelKind::Gue && no_checksum) {
                    let (src, dst, ttl) = ends(got);
                    let ips = (src.ip(), dst.ip(), ttl);
                    assert_eq!(
                        ips,
                        (ip(of(OWN, outer_v6)), ip(of(SERVER, outer_v6)), 63),
                        "{what}"
                    );
                }
                bed.check_identity();
            }
        }
    }
}

#[test]
fn gue_packets_of_a_flow_have_one_source_port_whatever_the_worker() {
    let gue = all_tunnels()[2];
    let ports = |workers| {
        let mut bed = Bed::with(
            &setup(vec![tunnelled(proto::UDP, gue, false, false)]),
            workers,
        );
        let mut of = |n: u16| {
            let client = SocketAddr::new(ip("203.0.113.9"), 40_000 + n);
            let out = bed.client(&from_client().udp(client, at(SERVICE.0), b"x"));
            ends(&out[0].1).0.port()
        };
        let first: Vec<_> = (0..50).map(&mut of).collect();
        assert_eq!(first, (0..50).map(of).collect::<Vec<_>>());
        first
    };
    assert_eq!(ports(1), ports(4));
}

#[test]
fn the_mtu_of_a_tunnel_is_what_its_headers_leave() {
    for tunnel in all_tunnels() {
        for (inner_v6, outer_v6) in MIXES {
            let mut bed = Bed::new(vec![tunnelled(proto::UDP, tunnel, inner_v6, outer_v6)]);
            let (client, vip) = (at(of(CLIENT, inner_v6)), at(of(SERVICE, inner_v6)));
            let mtu = 1500 - overhead(tunnel, outer_v6);
            let headers = if inner_v6 { 48 } else { 28 };
            let what = format!("{tunnel:?}, inner v6 {inner_v6}, outer v6 {outer_v6}");
            let fits = from_client()
                .dont_fragment()
                .udp(client, vip, &vec![7; mtu - headers]);
            let out = bed.client(&fits);
            assert_eq!((out.len(), out[0].1.len()), (1, ETHERNET + 1500), "{what}");

            let more = from_client()
                .dont_fragment()
                .udp(client, vip, &vec![7; mtu - headers + 1]);
            let out = bed.client(&more);
            let [(WAN, error)] = &out[..] else {
                panic!("{what}: {} frames", out.len())
            };
            assert_eq!(verify(error), Ok(()), "{what}");
            let reported = if inner_v6 {
                &error[58..62]
            } else {
                &error[38..42]
            };
            assert_eq!(
                reported,
                u32::try_from(mtu).expect("small").to_be_bytes(),
                "{what}"
            );
            assert_eq!(bed.drops(), [("too_big", 1)].into(), "{what}");
            bed.check_identity();
        }
    }
}

#[test]
fn a_tunnel_whose_link_is_too_narrow_for_its_family_takes_nothing() {
    for (mtu, outer_v6, drops) in [
        (88, false, 0),
        (87, false, 1),
        (1320, true, 0),
        (1319, true, 1),
    ] {
        let ipip = Tunnel::default();
        let mut setup = setup(vec![tunnelled(proto::TCP, ipip, false, outer_v6)]);
        setup.ports[1].mtu = mtu;
        let mut bed = Bed::with(&setup, 1);
        bed.client(&syn(false, &from_client()));
        let dropped = bed.drops().get("too_big").copied().unwrap_or(0);
        assert_eq!(dropped, drops, "MTU {mtu}");
    }
}

#[test]
fn a_packet_that_may_be_split_is_split_outside() {
    for tunnel in all_tunnels() {
        for (outer_v6, behind) in [(false, 34), (true, 62)] {
            let mut bed = Bed::new(vec![tunnelled(proto::UDP, tunnel, false, outer_v6)]);
            let sent = |ttl| {
                from_client()
                    .ttl(ttl)
                    .udp(at(CLIENT.0), at(SERVICE.0), &[7; 1472])
            };
            let out = bed.client(&sent(64));
            let what = format!("{tunnel:?}, outer v6 {outer_v6}");
            assert_eq!(out.len(), 2, "{what}: {:?}", bed.drops());
            assert!(out.iter().all(|(_, f)| f.len() <= ETHERNET + 1500));
            let place = |f: &[u8]| match parse(f).expect("a good frame").l3 {
                L3::V4(ip) => ip.fragment.expect("a fragment"),
                L3::V6(ip) => ip.fragment.expect("a fragment"),
                L3::Other(_) => panic!("IP"),
            };
            let (first, last) = (place(&out[0].1), place(&out[1].1));
            assert_eq!(
                (first.offset, first.more, last.more),
                (0, true, false),
                "{what}"
            );
            assert_eq!(usize::from(last.offset), out[0].1.len() - behind, "{what}");
            assert_eq!(first.id, last.id, "{what}");
            let header = ETHERNET + if outer_v6 { 40 } else { 20 };
            let parts = [
                &out[0].1[..header],
                &out[0].1[behind..],
                &out[1].1[behind..],
            ];
            let got = inner(&parts.concat(), tunnel, false, outer_v6);
            assert_eq!(got[ETHERNET..], sent(63)[ETHERNET..], "{what}");
            let again = bed.client(&sent(64));
            assert_ne!(place(&again[0].1).id, first.id, "{what}: another packet");
            bed.check_identity();
        }
    }
}

#[test]
fn fragments_of_a_datagram_are_wrapped_one_by_one() {
    for tunnel in all_tunnels() {
        for workers in [1, 2, 4] {
            let setup = setup(vec![tunnelled(proto::UDP, tunnel, false, false)]);
            let mut bed = Bed::with(&setup, workers);
            let pieces = |ttl| {
                let whole = from_client()
                    .ttl(ttl)
                    .udp(at(CLIENT.0), at(SERVICE.0), &[7; 2000]);
                fragment(&whole, 1000)
            };
            let mut out = Vec::new();
            for piece in pieces(64) {
                out.extend(bed.client(&piece));
            }
            assert_eq!(out.len(), 3, "{tunnel:?}");
            for ((_, got), sent) in out.iter().zip(pieces(63)) {
                let got = inner(got, tunnel, false, false);
                assert_eq!(got[ETHERNET..], sent[ETHERNET..], "{tunnel:?}");
            }
            if tunnel.kind == TunnelKind::Gue {
                assert!(
                    out.iter().all(|(_, f)| f[34..36] == out[0].1[34..36]),
                    "one source port"
                );
            }
        }
    }
}

#[test]
fn the_source_is_another_ports_address_where_the_way_out_has_none() {
    let mut setup = setup(vec![tunnelled(proto::TCP, Tunnel::default(), false, false)]);
    setup.routes.push(polder::forward::RouteDef {
        to: polder::forward::Prefix {
            addr: ip("10.0.0.0"),
            len: 24,
        },
        via: None,
        port: LAN,
    });
    setup.ports[1].addresses.retain(|a| a.addr.is_ipv6());
    let mut bed = Bed::with(&setup, 1);
    let out = bed.client(&syn(false, &from_client()));
    assert_eq!(ends(&out[0].1).0.ip(), ip("192.0.2.10"));
    setup.ports[0].addresses.retain(|a| a.addr.is_ipv6());
    setup.routes[0].port = WAN;
    let mut bed = Bed::with(&setup, 1);
    assert!(bed.client(&syn(false, &from_client())).is_empty());
    assert_eq!(bed.drops(), [("no_route", 1)].into());
}

/// An ICMP error of the hop about a frame of the director's.
fn hop_says(kind: IcmpError, about: &[u8], outer_v6: bool) -> Vec<u8> {
    Frame::new()
        .macs(LAN_MAC, polder::net::Mac([2, 0, 0, 0, 1, 99]))
        .icmp_error(kind, ip(of(HOP, outer_v6)), about)
}

/// Type, code and second word of the ICMP error in a frame, and the packet that it quotes.
fn read_error(frame: &[u8], v6: bool) -> ((u8, u8, u32), Vec<u8>) {
    let icmp = &frame[if v6 { 54 } else { 34 }..];
    let word = u32::from_be_bytes(icmp[4..8].try_into().expect("four bytes"));
    ((icmp[0], icmp[1], word), icmp[8..].to_vec())
}

#[test]
fn what_a_router_says_of_a_tunnels_packet_reaches_the_client_about_its_own() {
    for tunnel in all_tunnels() {
        for (inner_v6, outer_v6) in MIXES {
            for workers in [1, 2, 4] {
                let what =
                    format!("{tunnel:?}, inner v6 {inner_v6}, outer v6 {outer_v6}, {workers}");
                let setup = setup(vec![tunnelled(proto::TCP, tunnel, inner_v6, outer_v6)]);
                let mut bed = Bed::with(&setup, workers);
                let (client, vip) = (at(of(CLIENT, inner_v6)), at(of(SERVICE, inner_v6)));
                let frame =
                    from_client()
                        .dont_fragment()
                        .tcp(client, vip, tcp_flags::SYN, 1, b"payload");
                let sent = bed.client(&frame).remove(0).1;
                let before = bed.bed.connections();
                let mtu = 1400 - u32::try_from(overhead(tunnel, outer_v6)).expect("small");
                let table = [
                    (IcmpError::TooBig { mtu: 1400 }, (3, 4, mtu), (2, 0, mtu)),
                    (IcmpError::TimeExceeded, (11, 0, 0), (3, 0, 0)),
                    (IcmpError::HostUnreachable, (3, 1, 0), (1, 3, 0)),
                ];
                for (kind, v4, v6) in table {
                    let out = bed.server(&hop_says(kind, &sent, outer_v6));
                    let [(WAN, error)] = &out[..] else {
                        panic!("{what}: {out:?}, {:?}", bed.drops())
                    };
                    let (src, dst, _) = ends(error);
                    assert_eq!((src.ip(), dst.ip()), (vip.ip(), client.ip()), "{what}");
                    assert_eq!(macs(error), (ROUTER, WAN_MAC), "{what}");
                    let (head, quote) = read_error(error, inner_v6);
                    assert_eq!(head, if inner_v6 { v6 } else { v4 }, "{what}");
                    let own = inner(&sent, tunnel, inner_v6, outer_v6);
                    assert_eq!(quote, own[ETHERNET..], "{what}");
                }
                let after = bed.bed.connections();
                assert_eq!(
                    (after.len(), after[0].state),
                    (1, before[0].state),
                    "{what}"
                );
                assert_eq!(after[0].expires, before[0].expires, "no timer is touched");
                bed.check_identity();
            }
        }
    }
}

#[test]
fn a_long_quote_is_cut_to_what_fits_the_smallest_link() {
    for (v6, len) in [(false, 576), (true, 1280)] {
        let mut bed = Bed::new(vec![tunnelled(proto::TCP, Tunnel::default(), v6, v6)]);
        bed.client(&syn(v6, &from_client()));
        let (client, vip) = (at(of(CLIENT, v6)), at(of(SERVICE, v6)));
        let frame = from_client()
            .dont_fragment()
            .tcp(client, vip, tcp_flags::ACK, 1, &[7; 1400]);
        let sent = bed.client(&frame).remove(0).1;
        let out = bed.server(&hop_says(IcmpError::TooBig { mtu: 1300 }, &sent, v6));
        ends(&out[0].1);
        assert!(out[0].1.len() <= ETHERNET + len);
    }
}

#[test]
fn the_icmp_type_is_passed_on_as_it_is_within_a_family() {
    let mut bed = Bed::new(vec![tunnelled(proto::TCP, Tunnel::default(), false, false)]);
    let sent = bed.client(&syn(false, &from_client())).remove(0).1;
    for (kind, code) in [(3, 13), (3, 2), (4, 0), (11, 1)] {
        let body = [&[0; 4][..], &sent[ETHERNET..]].concat();
        let error = from_server("10.0.0.99").icmp(ip(HOP.0), ip(OWN.0), kind, code, &body);
        let out = bed.server(&error);
        assert_eq!(read_error(&out[0].1, false).0, (kind, code, 0));
    }
}

#[test]
fn a_client_that_lets_its_packets_be_split_is_not_told_of_sizes() {
    let mut bed = Bed::new(vec![tunnelled(proto::TCP, Tunnel::default(), false, true)]);
    let sent = bed.client(&syn(false, &from_client())).remove(0).1;
    assert!(
        bed.server(&hop_says(IcmpError::TooBig { mtu: 1300 }, &sent, true))
            .is_empty()
    );
    assert_eq!(bed.drops(), [("icmp_untold", 1)].into());
    bed.check_identity();
}

#[test]
fn sizes_that_can_not_be_are_passed_on_as_they_are_but_not_below_what_ipv6_has() {
    for (inner_v6, reported, told) in [
        (false, 0, 0),
        (false, 88, 88),
        (false, 89, 69),
        (true, 500, 1280),
    ] {
        let mut bed = Bed::new(vec![tunnelled(
            proto::TCP,
            Tunnel::default(),
            inner_v6,
            false,
        )]);
        let sent = bed
            .client(&syn(inner_v6, &from_client().dont_fragment()))
            .remove(0)
            .1;
        let out = bed.server(&hop_says(IcmpError::TooBig { mtu: reported }, &sent, false));
        assert_eq!(read_error(&out[0].1, inner_v6).0.2, told, "{reported}");
    }
}

#[test]
fn an_error_that_nobody_could_have_caused_reaches_no_client() {
    let gue = all_tunnels()[1];
    let start = || {
        let mut bed = Bed::new(vec![tunnelled(proto::TCP, gue, false, false)]);
        let sent = bed
            .client(&syn(false, &from_client().dont_fragment()))
            .remove(0)
            .1;
        (bed, sent)
    };
    let kind = IcmpError::TooBig { mtu: 1400 };
    let patched = |at: usize, bytes: &[u8]| {
        let (mut bed, mut sent) = start();
        sent[at..at + bytes.len()].copy_from_slice(bytes);
        let before = bed.bed.connections()[0].expires;
        // A quoted header's own checksum is not looked at, but a frame's is.
        let sum = {
            let mut header = sent[14..34].to_vec();
            header[10..12].fill(0);
            polder::net::checksum::ipv4_header(&header)
        };
        sent[24..26].copy_from_slice(&sum.to_be_bytes());
        let out = bed.server(&hop_says(kind, &sent, false));
        bed.check_identity();
        assert_eq!(bed.bed.connections()[0].expires, before);
        (out, bed)
    };
    assert_eq!(patched(14, &[0x45]).0.len(), 1, "the true one does");
    let strange: [(&str, usize, &[u8]); 7] = [
        ("another source", 26, &[10, 0, 0, 77]),
        ("another end", 30, &[10, 0, 0, 12]),
        ("another port", 36, &[0x17, 0xc1]),
        ("control message", 42, &[0x20]),
        ("another client", 58, &[203, 0, 113, 8]),
        ("another client's port", 66, &[0x9c, 0x41]),
        ("another virtual address", 62, &[198, 51, 100, 2]),
    ];
    for (what, at, bytes) in strange {
        let (out, bed) = patched(at, bytes);
        assert!(out.is_empty(), "{what}: {out:?}");
        assert_eq!(bed.sum(|c| c.punted.get()), 1, "{what}: the kernel's");
    }
}

#[test]
fn a_damaged_or_cut_error_is_dropped() {
    let start = || {
        let mut bed = Bed::new(vec![tunnelled(proto::TCP, Tunnel::default(), false, false)]);
        let sent = bed
            .client(&syn(false, &from_client().dont_fragment()))
            .remove(0)
            .1;
        (bed, sent)
    };
    let (mut bed, sent) = start();
    let mut error = hop_says(IcmpError::TooBig { mtu: 1400 }, &sent, false);
    error[41] ^= 1;
    assert!(bed.server(&error).is_empty());
    assert_eq!(bed.drops(), [("l4_checksum", 1)].into());
    // A tunnel's packet with IP headers of 20 bytes each and the four of the ports.
    for quoted in 0..44 {
        let (mut bed, sent) = start();
        let body = [&[0, 0, 5, 0], &sent[ETHERNET..ETHERNET + quoted]].concat();
        let error = from_server("10.0.0.99").icmp(ip(HOP.0), ip(OWN.0), 3, 4, &body);
        assert!(bed.server(&error).is_empty(), "{quoted} bytes");
        bed.check_identity();
    }
}

#[test]
fn clients_are_told_at_a_limited_rate() {
    let mut bed = Bed::new(vec![tunnelled(proto::TCP, Tunnel::default(), false, false)]);
    let sent = bed
        .client(&syn(false, &from_client().dont_fragment()))
        .remove(0)
        .1;
    let error = hop_says(IcmpError::TooBig { mtu: 1400 }, &sent, false);
    let told: usize = (0..1200).map(|_| bed.server(&error).len()).sum();
    assert_eq!(told, 1000);
    assert_eq!(bed.drops(), [("icmp_untold", 200)].into());
    bed.check_identity();
}

#[test]
fn errors_about_tunnels_of_one_packet_services_reach_the_client_too() {
    for workers in [1, 2, 4] {
        let one_packet = ServiceDef {
            one_packet: true,
            ..tunnelled(proto::UDP, all_tunnels()[4], false, false)
        };
        let mut bed = Bed::with(&setup(vec![one_packet]), workers);
        let frame = from_client()
            .dont_fragment()
            .udp(at(CLIENT.0), at(SERVICE.0), b"x");
        let sent = bed.client(&frame).remove(0).1;
        let out = bed.server(&hop_says(IcmpError::TooBig { mtu: 1400 }, &sent, false));
        assert_eq!(read_error(&out[0].1, false).0, (3, 4, 1376));
        assert_eq!(ends(&out[0].1).1.ip(), at(CLIENT.0).ip());
        bed.check_identity();
    }
}

#[test]
fn an_error_of_a_one_packet_services_server_has_the_virtual_address() {
    for (v6, vport) in [(false, 5060), (true, 5060), (false, 0)] {
        for workers in [1, 2, 4] {
            let servers = vec![dest(of(SERVER, v6), if vport == 0 { 0 } else { 5062 })];
            let mut vip = at(of(SERVICE, v6));
            vip.set_port(vport);
            let one_packet = ServiceDef {
                one_packet: true,
                persistence: (vport == 0).then(|| persistence(60)),
                ..service(proto::UDP, &vip.to_string(), servers)
            };
            let mut bed = Bed::with(&setup(vec![one_packet]), workers);
            vip.set_port(5060);
            let client = at(of(CLIENT, v6));
            let request = from_client().udp(client, vip, b"x");
            let sent = bed.client(&request).remove(0).1;
            let server = ends(&sent).1;
            let error = from_server(of(SERVER, v6)).icmp_error(
                IcmpError::PortUnreachable,
                server.ip(),
                &sent,
            );
            let out = bed.server(&error);
            let [(WAN, told)] = &out[..] else {
                panic!("{out:?}, {:?}", bed.drops())
            };
            let (src, dst, _) = ends(told);
            assert_eq!((src.ip(), dst.ip()), (vip.ip(), client.ip()));
            let (_, quote) = read_error(told, v6);
            let (address, port) = if v6 {
                (24..40, 42..44)
            } else {
                (16..20, 22..24)
            };
            let expected: Vec<u8> = match vip.ip() {
                IpAddr::V4(a) => a.octets().into(),
                IpAddr::V6(a) => a.octets().into(),
            };
            assert_eq!(
                (&quote[address], &quote[port]),
                (&expected[..], &5060u16.to_be_bytes()[..])
            );
            bed.check_identity();

            // One for somebody else than the datagram's sender is not ours to send.
            let body = [&[0; 4][..], &sent[ETHERNET..]].concat();
            let (kind, code) = if v6 { (1, 4) } else { (3, 3) };
            let elsewhere = ip(if v6 { "2001:db8:7::1" } else { "203.0.113.77" });
            let stray = from_server(of(SERVER, v6)).icmp(server.ip(), elsewhere, kind, code, &body);
            assert!(bed.server(&stray).is_empty());
        }
    }
}

#[test]
fn hostile_errors_never_panic_and_always_meet_one_fate() {
    for outer_v6 in [false, true] {
        for tunnel in all_tunnels() {
            let mut bed = Bed::with(
                &setup(vec![tunnelled(proto::TCP, tunnel, outer_v6, outer_v6)]),
                2,
            );
            let sent = bed.client(&syn(outer_v6, &from_client())).remove(0).1;
            let good = hop_says(IcmpError::TimeExceeded, &sent, outer_v6);
            for cut in 0..good.len() {
                bed.put(PortId(1), &good[..cut]);
            }
            for i in 14..good.len() {
                let mut bad = good.clone();
                bad[i] ^= 0xff;
                bed.put(PortId(1), &bad);
            }
            bed.bed.finish();
            bed.check_identity();
            assert_eq!(bed.bed.buffers_in_use(), 0);
        }
    }
}

#[test]
fn tshark_finds_nothing_wrong_with_any_tunnel() {
    let there = Command::new("tshark").arg("--version").output();
    if !there.is_ok_and(|o| o.status.success()) {
        eprintln!("SKIPPED: tshark_finds_nothing_wrong_with_any_tunnel: there is no tshark");
        return;
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut pcap = Writer::new(file.reopen().expect("it opens"), false).expect("a header");
    let mut frames = 0;
    for tunnel in all_tunnels() {
        for (inner_v6, outer_v6) in MIXES {
            let mut bed = Bed::new(vec![tunnelled(proto::TCP, tunnel, inner_v6, outer_v6)]);
            for payload in [&b""[..], b"odd", &[7; 1000]] {
                let (client, vip) = (at(of(CLIENT, inner_v6)), at(of(SERVICE, inner_v6)));
                let frame = from_client().tcp(client, vip, tcp_flags::SYN, 1, payload);
                for (_, got) in bed.client(&frame) {
                    pcap.write(frames * 1000, &got).expect("written");
                    frames += 1;
                }
            }
        }
    }
    pcap.flush().expect("written");
    let count = |filter: &str| {
        let mut command = Command::new("tshark");
        for check in ["ip", "tcp", "udp"] {
            command
                .arg("-o")
                .arg(format!("{check}.check_checksum:TRUE"));
        }
        // GUE is read as UDP; what is within is not.
        command.arg("-r").arg(file.path()).args(["-Y", filter]);
        let out = command.output().expect("tshark runs");
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).lines().count()
    };
    let bad = "_ws.malformed || ip.checksum.status==\"Bad\" || tcp.checksum.status==\"Bad\" || \
               udp.checksum.status==\"Bad\" || gre.checksum.status==\"Bad\"";
    assert_eq!(count("frame"), 72);
    assert_eq!(count("gre && tcp"), 24, "GRE is read through to TCP");
    assert_eq!(count("gre.checksum.status==\"Good\""), 12);
    assert_eq!(count("udp.dstport==6080"), 36);
    assert_eq!(
        count("udp.dstport==6080 && udp.checksum.status==\"Good\""),
        24
    );
    assert_eq!(count("tcp && !gre"), 12, "and so is IPIP");
    // A UDP checksum of 0 over IPv6 is what `checksum: none` asks for (RFC 6935), and tshark does not like it.
    assert_eq!(
        count(&format!("({bad}) && !(ipv6 && udp.checksum == 0)")),
        0
    );
}
