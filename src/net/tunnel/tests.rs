use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::net::build::{self, Frame, verify};
use crate::net::packet::tcp_flags;
use crate::net::{L3, parse};

const CLIENT: (&str, &str) = ("198.51.100.7:40000", "[2001:db8::7]:40000");
const VIP: (&str, &str) = ("192.0.2.10:5060", "[2001:db8:1::10]:5060");
const OWN: (&str, &str) = ("10.0.0.1:33000", "[2001:db8:2::1]:33000");
const SERVER: (&str, &str) = ("10.0.0.21:6080", "[2001:db8:2::21]:6080");
const KEY: HashKey = HashKey([1, 2, 3, 4]);

fn at(pair: (&str, &str), v6: bool) -> SocketAddr {
    if v6 { pair.1 } else { pair.0 }
        .parse()
        .expect("a socket address in a test")
}

fn tunnel(kind: TunnelKind, checksum: TunnelChecksum) -> Tunnel {
    Tunnel {
        kind,
        port: if kind == TunnelKind::Gue { 6080 } else { 0 },
        checksum,
    }
}

fn all_tunnels() -> [Tunnel; 6] {
    use TunnelChecksum::{Full, None, Remote};
    use TunnelKind::{Gre, Gue, Ipip};
    [
        tunnel(Ipip, None),
        tunnel(Gue, None),
        tunnel(Gue, Full),
        tunnel(Gue, Remote),
        tunnel(Gre, None),
        tunnel(Gre, Full),
    ]
}

/// Sends the packet in `frame` into a tunnel; `None` when it is too long.
fn wrapped(frame: &[u8], tunnel: Tunnel, outer_v6: bool, dont_fragment: bool) -> Option<Vec<u8>> {
    fn by<O: Family>(frame: &[u8], outer: &Outer<O>) -> Option<Vec<u8>> {
        let room = vec![0xee; usize::from(outer.tunnel.header_len(O::AF))];
        let with = |end: u16| [&room[..], &frame[14..usize::from(end)]].concat();
        let (written, packet) = match parse(frame).expect("a good frame").l3 {
            L3::V4(ip) => {
                let mut packet = with(ip.end);
                (write_outer(&mut packet, outer, &ip), packet)
            }
            L3::V6(ip) => {
                let mut packet = with(ip.end);
                (write_outer(&mut packet, outer, &ip), packet)
            }
            L3::Other(_) => panic!("IP"),
        };
        written.then(|| Frame::new().ethernet(O::ETHER_TYPE, &packet))
    }
    let (own, server) = (at(OWN, outer_v6), at(SERVER, outer_v6));
    let ends = (own.ip(), server.ip());
    if outer_v6 {
        let outer = Outer::<V6> {
            src: V6::from_ip(ends.0).expect("IPv6"),
            dst: V6::from_ip(ends.1).expect("IPv6"),
            id: 7,
            copy_dont_fragment: dont_fragment,
            tunnel,
            src_port: own.port(),
        };
        by(frame, &outer)
    } else {
        let outer = Outer::<V4> {
            src: V4::from_ip(ends.0).expect("IPv4"),
            dst: V4::from_ip(ends.1).expect("IPv4"),
            id: 7,
            copy_dont_fragment: dont_fragment,
            tunnel,
            src_port: own.port(),
        };
        by(frame, &outer)
    }
}

/// The checksum of RFC 1071, word by word.
fn naive_checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).expect("folded")).to_be_bytes()
}

/// What a sender that knows nothing of [`write_outer`] makes of it.
fn expected(inner: &[u8], tunnel: Tunnel, outer_v6: bool, like: &Frame) -> Vec<u8> {
    let inner_v6 = inner[0] >> 4 == 6;
    let (own, server) = (at(OWN, outer_v6), at(SERVER, outer_v6));
    let next = if inner_v6 { 41 } else { 4 };
    match tunnel.kind {
        TunnelKind::Ipip => like.ip(own.ip(), server.ip(), next, inner),
        TunnelKind::Gue => {
            let payload = [&[0, next, 0, 0], inner].concat();
            match tunnel.checksum {
                TunnelChecksum::None => like.clone().no_udp_checksum(),
                TunnelChecksum::Full | TunnelChecksum::Remote => like.clone(),
            }
            .udp(own, server, &payload)
        }
        TunnelKind::Gre => {
            let ether_type: [u8; 2] = if inner_v6 { [0x86, 0xdd] } else { [8, 0] };
            let mut gre = [&[0, 0], &ether_type[..], inner].concat();
            if tunnel.checksum != TunnelChecksum::None {
                gre = [&[0x80, 0], &ether_type[..], &[0; 4], inner].concat();
                let sum = naive_checksum(&gre);
                gre[4..6].copy_from_slice(&sum);
            }
            like.ip(own.ip(), server.ip(), 47, &gre)
        }
    }
}

/// What is within a frame, Ethernet header included.
fn unwrapped(frame: &[u8]) -> Option<(Within, Vec<u8>)> {
    let (within, end) = match parse(frame).expect("a good frame").l3 {
        L3::V4(ip) => (within(frame, &ip)?, ip.end),
        L3::V6(ip) => (within(frame, &ip)?, ip.end),
        L3::Other(_) => panic!("IP"),
    };
    let ether_type = match within.af {
        Af::V4 => V4::ETHER_TYPE,
        Af::V6 => V6::ETHER_TYPE,
    };
    let packet = &frame[usize::from(within.l3)..usize::from(end)];
    Some((within, Frame::new().ethernet(ether_type, packet)))
}

#[test]
fn every_encapsulation_in_all_four_mixes_is_what_another_sender_would_have_made() {
    for tunnel in all_tunnels() {
        for (inner_v6, outer_v6) in [(false, false), (false, true), (true, false), (true, true)] {
            for payload in [&b"odd"[..], b"even", b""] {
                let frame = Frame::new().ttl(9).tos(0xb9).dont_fragment().padding(3);
                let inner = frame.udp(at(CLIENT, inner_v6), at(VIP, inner_v6), payload);
                let got = wrapped(&inner, tunnel, outer_v6, true).expect("short enough");
                let mut like = Frame::new().ttl(9).tos(0xb9).id(7);
                if !inner_v6 {
                    like = like.dont_fragment();
                }
                let packet = &inner[14..inner.len() - 3];
                let what = format!("{tunnel:?}, inner v6 {inner_v6}, outer v6 {outer_v6}");
                assert_eq!(got, expected(packet, tunnel, outer_v6, &like), "{what}");
                if tunnel.checksum != TunnelChecksum::None {
                    assert_eq!(verify(&got), Ok(()), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_gue_packet_is_these_bytes() {
    let inner = Frame::new().ttl(63).id(0x1234).udp(
        "198.51.100.7:40000".parse().expect("address"),
        "192.0.2.10:5060".parse().expect("address"),
        b"hi",
    );
    let tunnel = tunnel(TunnelKind::Gue, TunnelChecksum::None);
    let got = wrapped(&inner, tunnel, false, true).expect("short enough");
    let bytes: &[u8] = &[
        0x45, 0, 0, 62, 0, 7, 0, 0, 63, 17, 0x67, 0x93, 10, 0, 0, 1, 10, 0, 0, 21, // IPv4
        0x80, 0xe8, 0x17, 0xc0, 0, 42, 0, 0, // UDP 33000 to 6080, no checksum
        0, 4, 0, 0, // GUE: data, IPv4
    ];
    assert_eq!(got[14..46], *bytes);
    assert_eq!(got[46..], inner[14..]);
}

#[test]
fn a_gre_packet_with_a_checksum_is_these_bytes() {
    // An inner packet that sums up to nothing but its Ethernet type and flag: 0x8000 + 0x86dd = 0x106dd, folded 0x06de.
    let mut packet = vec![0; 8 + 40];
    packet[8] = 0xff;
    packet[9] = 0xff;
    write_gre::<V6>(&mut packet, TunnelChecksum::Full);
    assert_eq!(packet[..8], [0x80, 0, 0x86, 0xdd, 0xf9, 0x21, 0, 0]);
}

#[test]
fn dont_fragment_is_copied_only_when_asked() {
    let frame = Frame::new().dont_fragment();
    let frame = frame.udp(at(CLIENT, false), at(VIP, false), b"x");
    for tunnel in all_tunnels() {
        for (asked, flags) in [(true, 0x40), (false, 0)] {
            let got = wrapped(&frame, tunnel, false, asked).expect("short enough");
            assert_eq!(got[20], flags, "{tunnel:?}");
        }
    }
}

#[test]
fn a_congestion_mark_stays_inside() {
    let table = [
        (0b00, 0b00),
        (0b01, 0b01),
        (0b10, 0b10),
        (0b11, 0b10),
        (0xff, 0xfe),
    ];
    for (inner, outer) in table {
        assert_eq!(outer_tos(inner), outer, "inner {inner:#04x}");
    }
}

#[test]
fn a_packet_of_more_than_64_kb_is_refused() {
    for tunnel in all_tunnels() {
        let room = 65_535 - usize::from(tunnel.header_len(Af::V4));
        for (payload, fits) in [(room - 28, true), (room - 27, false)] {
            let frame = Frame::new().udp(at(CLIENT, false), at(VIP, false), &vec![0; payload]);
            let got = wrapped(&frame, tunnel, false, true);
            assert_eq!(got.is_some(), fits, "{tunnel:?}, {payload} bytes");
        }
    }
}

fn port_of(frame: &[u8]) -> u16 {
    match parse(frame).expect("a good frame").l3 {
        L3::V4(ip) => source_port(&ip, &KEY),
        L3::V6(ip) => source_port(&ip, &KEY),
        L3::Other(_) => panic!("IP"),
    }
}

#[test]
fn a_flow_keeps_its_source_port_and_flows_are_spread_over_all_of_them() {
    for v6 in [false, true] {
        let of = |port: u16, payload: &[u8]| {
            let mut client = at(CLIENT, v6);
            client.set_port(port);
            port_of(&Frame::new().udp(client, at(VIP, v6), payload))
        };
        let ports: std::collections::BTreeSet<_> = (0..4000).map(|n| of(n, b"x")).collect();
        // 4,000 of 28,232 drawn at random leave about 3,730 different ones.
        assert!(ports.len() > 3500, "{}", ports.len());
        let (first, last) = (ports.first().expect("some"), ports.last().expect("some"));
        assert!((32_768..32_868).contains(first) && (60_899..61_000).contains(last));
        assert_eq!(of(77, b"x"), of(77, &[0; 900]));
    }
}

#[test]
fn all_fragments_of_a_datagram_have_one_source_port() {
    for v6 in [false, true] {
        let whole = Frame::new().udp(at(CLIENT, v6), at(VIP, v6), &[7; 3000]);
        let ports: std::collections::BTreeSet<_> = build::fragment(&whole, 1000)
            .iter()
            .map(|piece| port_of(piece))
            .collect();
        assert_eq!(ports.len(), 1);
    }
}

#[test]
fn what_only_looks_like_a_tunnel_is_not_read() {
    let inner = Frame::new().udp(at(CLIENT, false), at(VIP, false), b"x");
    let (own, server) = (at(OWN, false), at(SERVER, false));
    let gre = |header: &[u8]| {
        Frame::new().ip(own.ip(), server.ip(), 47, &[header, &inner[14..]].concat())
    };
    let gue = |header: &[u8]| Frame::new().udp(own, server, &[header, &inner[14..]].concat());
    let found = [
        ("GRE", gre(&[0, 0, 8, 0])),
        ("GUE", gue(&[0, 4, 0, 0])),
        ("GUE with options", gue(&[1, 4, 0, 1, 0x80, 0, 0, 0])),
    ];
    for (what, frame) in found {
        let within = unwrapped(&frame).map(|(_, inner)| inner);
        assert_eq!(within.as_deref(), Some(&inner[..]), "{what}");
    }
    let none = [
        ("GRE with a key", gre(&[0x20, 0, 8, 0, 0, 0, 0, 1])),
        ("GRE of version 1", gre(&[0, 1, 8, 0])),
        ("GRE around MPLS", gre(&[0, 0, 0x88, 0x47])),
        ("GUE control message", gue(&[0x20, 4, 0, 0])),
        ("GUE of version 1", gue(&[0x45, 0, 0, 40])),
        ("GUE around TCP", gue(&[0, 6, 0, 0])),
        ("cut GUE", Frame::new().udp(own, server, &[0, 4, 0])),
        ("empty GUE", Frame::new().udp(own, server, &[0, 4, 0, 0])),
        (
            "GUE options beyond the end",
            Frame::new().udp(own, server, &[0x1f, 4, 0, 0, 1]),
        ),
        (
            "cut GRE",
            Frame::new().ip(own.ip(), server.ip(), 47, &[0, 0, 8]),
        ),
        ("empty IPIP", Frame::new().ip(own.ip(), server.ip(), 4, &[])),
        (
            "TCP",
            Frame::new().tcp(own, server, tcp_flags::ACK, 1, &[0; 40]),
        ),
    ];
    for (what, frame) in none {
        assert_eq!(unwrapped(&frame), None, "{what}");
    }
}

#[test]
fn a_later_fragment_has_nothing_within() {
    let inner = Frame::new().udp(at(CLIENT, false), at(VIP, false), &[7; 2000]);
    let tunnel = tunnel(TunnelKind::Ipip, TunnelChecksum::None);
    let whole = wrapped(&inner, tunnel, false, true).expect("short enough");
    let pieces = build::fragment(&whole, 1000);
    assert!(unwrapped(&pieces[0]).is_some());
    assert_eq!(unwrapped(&pieces[1]), None);
}

proptest! {
    #[test]
    fn what_is_wrapped_comes_out_again(
        inner_v6: bool, outer_v6: bool, which in 0usize..6, tcp: bool,
        payload in prop::collection::vec(any::<u8>(), 0..600), options in prop::collection::vec(any::<u8>(), 0..40),
        tos: u8, ttl in 1u8.., padding in 0usize..9,
    ) {
        let tunnel = all_tunnels()[which];
        let sent = Frame::new().tos(tos).ttl(ttl).ip_options(&options).extension(60, &options);
        let (client, vip) = (at(CLIENT, inner_v6), at(VIP, inner_v6));
        let make = |sent: &Frame| if tcp {
            sent.tcp(client, vip, tcp_flags::ACK, 1, &payload)
        } else {
            sent.udp(client, vip, &payload)
        };
        let got = wrapped(&make(&sent.clone().padding(padding)), tunnel, outer_v6, true).expect("short");
        let (within, inner) = unwrapped(&got).expect("a tunnel's packet");
        prop_assert_eq!(inner, make(&sent));
        prop_assert_eq!((within.kind, within.port), (tunnel.kind, tunnel.port));
        prop_assert_eq!(usize::from(within.l3), 14 + usize::from(tunnel.header_len(if outer_v6 { Af::V6 } else { Af::V4 })));
        if tunnel.checksum != TunnelChecksum::None || tunnel.kind != TunnelKind::Gue {
            prop_assert_eq!(verify(&got), Ok(()));
        }
    }

    #[test]
    fn no_bytes_make_reading_panic(
        proto in prop::sample::select(vec![4u8, 17, 41, 47]), v6: bool, body in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let frame = Frame::new().padding(9).ip(at(OWN, v6).ip(), at(SERVER, v6).ip(), proto, &body);
        if let Ok(L3::V4(ip)) = parse(&frame).map(|p| p.l3) {
            let _ = within(&frame, &ip);
        } else if let Ok(L3::V6(ip)) = parse(&frame).map(|p| p.l3) {
            let _ = within(&frame, &ip);
        }
    }
}
