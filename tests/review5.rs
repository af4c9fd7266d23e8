//! Corners of schedulers, marks, tunnels and defences that no other test goes into: settings that each work by themselves,
//! together.

mod bed;

use std::net::SocketAddr;

use bed::*;
use polder::forward::defence::{Mode, Sysctls};
use polder::forward::defs::{MarkRule, ServiceKind};
use polder::forward::{DestDef, ServiceDef, Setup};
use polder::net::Af;
use polder::net::build::Frame;
use polder::net::icmp::IcmpError;
use polder::net::packet::{proto, tcp_flags};
use polder::net::tunnel::{Tunnel, TunnelKind};
use polder::table::{AdminState, Method};

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

mod hprio {
    use super::*;

    fn tier(addr: &str, weight: u32, upper: u32, lower: u32) -> DestDef {
        DestDef {
            weight,
            upper_threshold: upper,
            lower_threshold: lower,
            ..dest(addr, 8080)
        }
    }

    fn by_priority(servers: Vec<DestDef>) -> ServiceDef {
        ServiceDef {
            scheduler: "hprio".into(),
            ..service(proto::TCP, VIP, servers)
        }
    }

    /// The last byte of the server's address; 0 when the connection is refused.
    fn connect(bed: &mut Bed, n: u16) -> u8 {
        let out = bed.client(&from_client().tcp(client(n), at(VIP), SYN, 1, b""));
        let sent = out.iter().find(|(port, _)| *port == LAN);
        sent.map_or(0, |(_, frame)| match ends(frame).1.ip() {
            std::net::IpAddr::V4(a) => a.octets()[3],
            std::net::IpAddr::V6(a) => a.octets()[15],
        })
    }

    fn connect_all(bed: &mut Bed, clients: std::ops::Range<u16>) -> Vec<u8> {
        clients.map(|n| connect(bed, n)).collect()
    }

    #[test]
    fn edits_in_the_middle_of_spilling_over_take_effect_with_the_next_connection() {
        for workers in [1, 3] {
            let tiers = |upper, weight| {
                by_priority(vec![
                    tier("10.0.0.11", 5, upper, 0),
                    tier("10.0.0.12", 5, upper, 0),
                    tier("10.0.0.13", weight, 4, 2),
                ])
            };
            let mut bed = Bed::with(&setup(vec![tiers(2, 1)]), workers);
            assert_eq!(connect_all(&mut bed, 0..5), [12, 11, 12, 11, 13]);
            let edit = |bed: &mut Bed, service, clients: std::ops::Range<u16>| {
                let before = bed.bed.connections().len();
                bed.bed.apply(&setup(vec![service])).expect("a set-up");
                assert_eq!(
                    bed.bed.connections().len(),
                    before,
                    "nothing else is disturbed"
                );
                connect_all(bed, clients)
            };
            // A threshold that is raised gives the first tier room.
            let got = edit(&mut bed, tiers(3, 1), 10..13);
            assert_eq!(got, [12, 11, 13], "{workers} workers");
            // One that is lowered under load leaves what there is, and takes no new ones.
            assert_eq!(
                edit(&mut bed, tiers(1, 1), 20..21),
                [13],
                "{workers} workers"
            );
            // The spill-over becomes one of the first tier, and is full after one more.
            assert_eq!(
                edit(&mut bed, tiers(1, 5), 30..32),
                [13, 0],
                "{workers} workers"
            );
            // Without thresholds the first tier takes all in turn.
            let got = edit(&mut bed, tiers(0, 1), 40..44);
            assert!(got.iter().all(|n| [11, 12].contains(n)), "{got:?}");
            bed.check_counts();
        }
    }

    #[test]
    fn servers_that_leave_the_first_tier_by_any_door_hand_over_and_come_back() {
        let with = |f: &dyn Fn(&mut DestDef)| {
            let mut servers = vec![tier("10.0.0.11", 5, 0, 0), tier("10.0.0.12", 1, 0, 0)];
            f(&mut servers[0]);
            setup(vec![by_priority(servers)])
        };
        type Door<'d> = (&'static str, &'d dyn Fn(&mut DestDef));
        let doors: [Door<'_>; 4] = [
            ("weight 0", &|d| d.weight = 0),
            ("drain", &|d| d.admin = AdminState::Drain),
            ("maint", &|d| d.admin = AdminState::Maint),
            ("below", &|d| d.weight = 1),
        ];
        for (door, leave) in doors {
            let mut bed = Bed::with(&with(&|_| ()), 2);
            assert_eq!(connect_all(&mut bed, 0..2), [11, 11], "{door}");
            bed.bed.apply(&with(leave)).expect("a set-up");
            let got = connect_all(&mut bed, 10..12);
            let there = if door == "below" {
                vec![11, 12]
            } else {
                vec![12, 12]
            };
            let mut sorted = got.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, there, "{door}");
            bed.bed.apply(&with(&|_| ())).expect("a set-up");
            assert_eq!(connect_all(&mut bed, 20..22), [11, 11], "{door}");
            bed.check_counts();
        }
    }

    /// Specification §1.4: templates send clients to a server that is full, and only scheduling looks at the flag.
    #[test]
    fn templates_keep_their_clients_while_others_spill_over() {
        let persistent = ServiceDef {
            persistence: Some(persistence(300)),
            ..by_priority(vec![tier("10.0.0.11", 5, 2, 1), tier("10.0.0.12", 1, 0, 0)])
        };
        let mut bed = Bed::with(&setup(vec![persistent]), 2);
        let syn = |bed: &mut Bed, host: u8, port: u16| {
            let from = at(&format!("203.0.113.{host}:{port}"));
            bed.to(&from_client().tcp(from, at(VIP), SYN, 1, b"")).ip()
        };
        let (first, second) = (ip("10.0.0.11"), ip("10.0.0.12"));
        assert_eq!(syn(&mut bed, 1, 1), first);
        assert_eq!(syn(&mut bed, 2, 1), first);
        assert_eq!(syn(&mut bed, 3, 1), second, "it is full");
        assert_eq!(syn(&mut bed, 1, 2), first, "the template's");
        assert_eq!(syn(&mut bed, 3, 2), second, "also a spill-over's");
        // Half-open connections are over after a minute, templates are not.
        bed.pass(62);
        assert_eq!(syn(&mut bed, 4, 1), first);
        assert_eq!(syn(&mut bed, 3, 3), second, "it does not come back");
        bed.check_counts();
    }
}

mod kinds {
    use super::*;

    /// Specification §1.2, in IPv6: the port's service before that of every port, a mark before both.
    #[test]
    fn a_mark_a_port_and_every_port_of_one_address_are_told_apart() {
        let vip = "[2001:db8:9::1]";
        let of = |name: &str, kind: ServiceKind, server: &str, every: bool| ServiceDef {
            name: name.into(),
            kind,
            persistence: every.then(|| polder::forward::defs::Persistence {
                grouping: polder::forward::defs::Grouping::Prefix6(128),
                ..persistence(60)
            }),
            ..service(proto::TCP, &format!("{vip}:80"), vec![dest(server, 0)])
        };
        let address = |port| ServiceKind::Address {
            proto: proto::TCP,
            addr: at(&format!("{vip}:80")).ip(),
            port,
        };
        let mark = ServiceKind::Mark {
            af: Af::V6,
            mark: 9,
        };
        let mut all = setup(vec![
            of("any", address(0), "2001:db8:2::11", true),
            of("web", address(80), "2001:db8:2::12", false),
            of("mark", mark, "2001:db8:2::13", false),
        ]);
        let rule = |mark, ports, input| MarkRule {
            mark,
            ports: Some(ports),
            input,
            ..MarkRule::default()
        };
        all.marks = vec![
            // The first that fits wins, also where no service has its mark.
            rule(8, (90, 95), None),
            rule(9, (90, 99), Some(WAN)),
            rule(9, (80, 80), Some(LAN)),
        ];
        for workers in [1, 3] {
            let mut bed = Bed::with(&all, workers);
            let mut to = |port: u16, n: u16| {
                let from = at(&format!("[2001:db8:7::9]:{}", 1000 + n));
                let target = at(&format!("{vip}:{port}"));
                bed.to(&from_client().tcp(from, target, SYN, 1, b""))
            };
            for n in 0..6 {
                assert_eq!(to(80, n), at("[2001:db8:2::12]:80"));
                assert_eq!(to(81, n), at("[2001:db8:2::11]:81"));
                assert_eq!(to(96, n), at("[2001:db8:2::13]:96"));
                assert_eq!(to(92, n), at("[2001:db8:2::11]:92"));
            }
            bed.check_counts();
        }
    }

    /// Specification §7.6 with services of every port and of marks, in both families.
    #[test]
    fn esp_follows_the_key_exchange_of_a_service_of_every_port() {
        for (vip, server, from) in [
            ("198.51.100.1:0", "10.0.0.11", "203.0.113.9:500"),
            ("[2001:db8:9::1]:0", "2001:db8:2::11", "[2001:db8:7::9]:500"),
        ] {
            for workers in [1, 4] {
                let vpn = ServiceDef {
                    persistence: Some(polder::forward::defs::Persistence {
                        grouping: match at(vip).is_ipv4() {
                            true => polder::forward::defs::Grouping::Mask4(u32::MAX),
                            false => polder::forward::defs::Grouping::Prefix6(128),
                        },
                        ..persistence(60)
                    }),
                    ..service(proto::UDP, vip, vec![dest(server, 0)])
                };
                let mut bed = Bed::with(&setup(vec![vpn]), workers);
                let mut ike = at(vip);
                ike.set_port(500);
                let esp = |src: &SocketAddr, dst: std::net::IpAddr| {
                    Frame::new()
                        .macs(WAN_MAC, ROUTER)
                        .ip(src.ip(), dst, proto::ESP, &[1; 40])
                };
                assert!(bed.client(&esp(&at(from), ike.ip())).is_empty(), "none yet");
                bed.to(&from_client().udp(at(from), ike, b"ike"));
                let out = bed.client(&esp(&at(from), ike.ip()));
                assert_eq!(ends(&out[0].1).1.ip(), ip(server), "{workers} workers");
                let back = from_server(server).ip(ip(server), at(from).ip(), proto::ESP, &[2; 40]);
                let out = bed.server(&back);
                assert_eq!(ends(&out[0].1).0.ip(), ike.ip(), "{workers} workers");
                bed.check_identity();
            }
        }
    }

    /// Specification §8.6 for a service that keeps ports, in both families and directions.
    #[test]
    fn icmp_errors_of_services_of_every_port_are_translated_both_ways() {
        for (vip, server, from) in [
            ("198.51.100.1:0", "10.0.0.11", "203.0.113.9:4000"),
            (
                "[2001:db8:9::1]:0",
                "2001:db8:2::11",
                "[2001:db8:7::9]:4000",
            ),
        ] {
            for workers in [1, 4] {
                let any = ServiceDef {
                    persistence: Some(polder::forward::defs::Persistence {
                        grouping: match at(vip).is_ipv4() {
                            true => polder::forward::defs::Grouping::Mask4(u32::MAX),
                            false => polder::forward::defs::Grouping::Prefix6(128),
                        },
                        ..persistence(60)
                    }),
                    ..service(proto::TCP, vip, vec![dest(server, 0)])
                };
                let mut bed = Bed::with(&setup(vec![any]), workers);
                let mut target = at(vip);
                target.set_port(8443);
                let out = bed.client(&from_client().tcp(at(from), target, SYN, 1, b""));
                let error = from_server(server).icmp_error(
                    IcmpError::PortUnreachable,
                    ip(server),
                    &out[0].1,
                );
                let told = bed.server(&error);
                let (src, dst, _) = ends(&told[0].1);
                assert_eq!((src.ip(), dst.ip()), (target.ip(), at(from).ip()));
                let mut end = at(from);
                end.set_ip(ip(server));
                end.set_port(8443);
                let reply = from_server(server).tcp(end, at(from), SYN | ACK, 1, b"");
                let out = bed.server(&reply);
                let error = from_client().icmp_error(
                    IcmpError::HostUnreachable,
                    if at(vip).is_ipv4() {
                        ip("203.0.113.254")
                    } else {
                        ip("2001:db8:7::fe")
                    },
                    &out[0].1,
                );
                let told = bed.client(&error);
                assert_eq!((told[0].0, ends(&told[0].1).1.ip()), (LAN, ip(server)));
                bed.check_identity();
            }
        }
    }
}
