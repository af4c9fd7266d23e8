//! Corners of schedulers, marks, tunnels and defences that no other test goes into: settings that each work by themselves,
//! together.

mod bed;

use std::net::SocketAddr;

use bed::*;
use polder::forward::defence::{Mode, Sysctls};
use polder::forward::defs::{MarkRule, ServiceKind};
use polder::forward::{DestDef, ServiceDef, Setup};
use polder::net::Af;
use polder::net::icmp::IcmpError;
use polder::net::packet::{proto, tcp_flags};
use polder::net::tunnel::{Tunnel, TunnelKind};
use polder::table::Method;

const SYN: u8 = tcp_flags::SYN;
const ACK: u8 = tcp_flags::ACK;

/// An error about what was sent to a server, by a router on the way to it.
fn on_the_way(error: IcmpError, sent: &[u8]) -> Vec<u8> {
    from_server("10.0.0.99").icmp_error(error, ip("10.0.0.99"), sent)
}

fn through_tunnels() -> Vec<DestDef> {
    let tunnel = |d| DestDef {
        method: Method::Tunnel,
        tunnel: Tunnel {
            kind: TunnelKind::Gre,
            ..Tunnel::default()
        },
        port: 80,
        ..d
    };
    three().into_iter().map(tunnel).collect()
}

/// A client whose packets leave nothing behind must hear of the tunnel's MTU as any other, or its large packets vanish.
#[test]
fn a_flow_that_is_not_remembered_hears_of_its_tunnels_mtu() {
    for workers in [1, 2, 4] {
        let limited = ServiceDef {
            new_connections_per_second: 1,
            ..service(proto::TCP, VIP, through_tunnels())
        };
        let mut bed = Bed::with(&setup(vec![limited]), workers);
        for n in 0..20 {
            bed.client(&from_client().tcp(client(n), at(VIP), SYN, 1, b""));
        }
        for n in 0..20 {
            let data = from_client()
                .dont_fragment()
                .tcp(client(n), at(VIP), ACK, 2, &[7; 1300]);
            let sent = bed.client(&data).remove(0).1;
            let out = bed.server(&on_the_way(IcmpError::TooBig { mtu: 1200 }, &sent));
            let [(WAN, told)] = &out[..] else {
                panic!("{workers} workers, client {n}: {out:?}, {:?}", bed.drops())
            };
            let (src, dst, _) = ends(told);
            assert_eq!((src.ip(), dst.ip()), (at(VIP).ip(), client(n).ip()));
        }
        bed.check_identity();
    }
}

/// A mark of packets that come in by the clients' port.
fn marked(proto_: u8, service: ServiceDef) -> Setup {
    Setup {
        marks: vec![MarkRule {
            mark: 7,
            proto: Some(proto_),
            input: Some(WAN),
            ..MarkRule::default()
        }],
        ..setup(vec![ServiceDef {
            kind: ServiceKind::Mark {
                af: Af::V4,
                mark: 7,
            },
            ..service
        }])
    }
}

/// The error comes in by the servers' port, the packet that it is about came in by the clients'.
#[test]
fn a_rule_with_an_input_port_does_not_keep_tunnels_errors_from_clients() {
    for (proto_, one_packet) in [(proto::TCP, false), (proto::UDP, false), (proto::UDP, true)] {
        for workers in [1, 3] {
            let def = ServiceDef {
                one_packet,
                ..service(proto_, VIP, through_tunnels())
            };
            let mut bed = Bed::with(&marked(proto_, def), workers);
            for n in 0..10 {
                let from = from_client().dont_fragment();
                let frame = match proto_ {
                    proto::TCP => from.tcp(client(n), at(VIP), SYN, 1, &[7; 1300]),
                    _ => from.udp(client(n), at(VIP), &[7; 1300]),
                };
                let sent = bed.client(&frame).remove(0).1;
                let out = bed.server(&on_the_way(IcmpError::TooBig { mtu: 1200 }, &sent));
                let [(WAN, told)] = &out[..] else {
                    panic!(
                        "{proto_} {one_packet} {workers}: {out:?}, {:?}",
                        bed.drops()
                    )
                };
                assert_eq!(ends(told).1.ip(), client(n).ip());
            }
            bed.check_identity();
        }
    }
}

mod source_port_zero {
    use super::*;

    /// Specification §2.3: there each packet of such a flow makes an entry of its own.
    #[test]
    fn is_a_port_like_any_other() {
        for proto_ in [proto::TCP, proto::UDP] {
            let mut bed = Bed::new(vec![service(proto_, VIP, three())]);
            let from = SocketAddr::new(client(0).ip(), 0);
            let homes: Vec<_> = [SYN, ACK, ACK]
                .into_iter()
                .map(|flags| match proto_ {
                    proto::TCP => bed.to(&from_client().tcp(from, at(VIP), flags, 1, b"")),
                    _ => bed.datagram(from, VIP, b"x"),
                })
                .collect();
            assert!(homes.iter().all(|h| *h == homes[0]), "{homes:?}");
            assert_eq!(bed.bed.connections().len(), 1);
        }
    }
}

/// Specification §8.2; RFC 8200 §8.1 has no zero in IPv6, and whoever sends one gets a computed one too.
#[test]
fn a_udp_checksum_of_zero_becomes_one_that_is_right_in_both_families_and_directions() {
    for (vip, server, client) in [
        ("198.51.100.1:53", "10.0.0.11:5353", "203.0.113.9:4000"),
        (
            "[2001:db8:9::1]:53",
            "[2001:db8:2::11]:5353",
            "[2001:db8:7::9]:4000",
        ),
    ] {
        let dests = vec![dest(&at(server).ip().to_string(), 5353)];
        let mut bed = Bed::new(vec![service(proto::UDP, vip, dests)]);
        let query = from_client()
            .no_udp_checksum()
            .udp(at(client), at(vip), b"odd");
        let out = bed.client(&query);
        let sum = |frame: &[u8]| {
            let l4 = if at(vip).is_ipv4() { 34 } else { 54 };
            u16::from_be_bytes([frame[l4 + 6], frame[l4 + 7]])
        };
        assert_eq!(ends(&out[0].1).1, at(server));
        assert_ne!(sum(&out[0].1), 0);
        let answer = from_server(&at(server).ip().to_string())
            .no_udp_checksum()
            .udp(at(server), at(client), b"odd");
        let out = bed.server(&answer);
        assert_eq!(ends(&out[0].1).0, at(vip));
        assert_ne!(sum(&out[0].1), 0);
    }
}

/// A replay has no management core that judges while nothing comes: what the table was like before a pause says nothing.
#[test]
fn automatic_defences_go_by_what_is_left_after_a_pause() {
    let sizes = polder::worker::assemble::Sizes {
        connections: 64,
        ..SIZES
    };
    for (drop_packet, secure_tcp) in [(Mode::Automatic, Mode::Off), (Mode::Off, Mode::Automatic)] {
        let setup = Setup {
            sysctls: Sysctls {
                drop_packet,
                secure_tcp,
                amemthresh: 32,
                ..Sysctls::default()
            },
            ..setup(tcp_service())
        };
        let mut bed = Bed::sized(&setup, 1, &sizes);
        for n in 0..60 {
            bed.client(&from_client().tcp(client(n), at(VIP), SYN, 1, b""));
        }
        bed.pass(2);
        let active = bed.bed.plane().defence.active.get();
        assert!(active.drop_rate == 1 || active.secure_tcp, "{active:?}");
        // The half-open connections are gone after a minute.
        bed.pass(200);
        bed.to(&from_client().tcp(client(100), at(VIP), SYN, 1, b""));
        let active = bed.bed.plane().defence.active.get();
        assert_eq!(active, polder::forward::defence::Active::default());
    }
}
