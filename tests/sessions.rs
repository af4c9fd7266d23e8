//! Sessions that stay on their server: templates, engines, one-packet scheduling, payload keys, fragments, lost servers.

mod bed;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use bed::*;
use polder::forward::defs::{Grouping, MarkRule, OnNoKey, OnServerDown, Persistence, ServiceKind};
use polder::forward::{PortId, Prefix, ServiceDef, Setup};
use polder::net::Af;
use polder::net::build::fragment;
use polder::net::packet::{proto, tcp_flags};
use polder::persist::{Engine, Field, PayloadKey, QuicConfig, QuicLb, SessionKey, Unit, When};
use polder::table::{AdminState, Method};

fn tcp_persistent(secs: u64) -> ServiceDef {
    ServiceDef {
        persistence: Some(persistence(secs)),
        ..service(proto::TCP, VIP, three())
    }
}

fn syn(client: SocketAddr, to: &str) -> Vec<u8> {
    from_client().tcp(client, at(to), tcp_flags::SYN, 1, b"")
}

impl Bed {
    /// What is left of the only template's time, in seconds.
    fn template_secs(&self) -> u32 {
        let all = self.bed.templates();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].remaining / 100
    }
}

#[test]
fn a_client_stays_on_its_server_for_every_new_connection() {
    for workers in [1, 2, 4] {
        let mut bed = Bed::with(&setup(vec![tcp_persistent(300)]), workers);
        let first = bed.to(&syn(client(0), VIP));
        for n in 1..20 {
            assert_eq!(bed.to(&syn(client(n), VIP)), first);
        }
        let other = SocketAddr::new(ip("203.0.113.10"), 5000);
        assert_ne!(
            bed.to(&syn(other, VIP)),
            first,
            "another client is scheduled"
        );
        assert_eq!(bed.bed.templates().len(), 2);
        bed.check_counts();
    }
}

#[test]
fn a_netmask_makes_neighbours_one_client() {
    let mut service = tcp_persistent(300);
    service.persistence.as_mut().expect("there is one").grouping = Grouping::Mask4(0xffff_ff00);
    let mut bed = Bed::new(vec![service]);
    let from = |a: &str| SocketAddr::new(ip(a), 4000);
    let first = bed.to(&syn(from("203.0.113.9"), VIP));
    assert_eq!(bed.to(&syn(from("203.0.113.200"), VIP)), first);
    assert_ne!(bed.to(&syn(from("203.0.114.9"), VIP)), first);
    bed.check_counts();
}

/// Specification §14.4.
#[test]
fn the_templates_timeline_is_the_kernels() {
    let mut bed = Bed::new(vec![tcp_persistent(300)]);
    let server = bed.to(&syn(client(1), VIP));
    assert_eq!(bed.template_secs(), 300);
    // The first connection ends; the second one is kept alive by its packets.
    bed.client(&from_client().tcp(client(1), at(VIP), tcp_flags::RST, 2, b""));
    bed.pass(200);
    assert_eq!(bed.to(&syn(client(2), VIP)), server);
    assert_eq!(bed.template_secs(), 300, "restarted to expire at 500");
    bed.client(&from_client().tcp(client(2), at(VIP), tcp_flags::ACK, 2, b""));
    for _ in 0..5 {
        bed.pass(50);
        bed.client(&from_client().tcp(client(2), at(VIP), tcp_flags::ACK, 2, b""));
    }
    assert_eq!(
        bed.template_secs(),
        50,
        "packets of a connection leave the template's time alone"
    );
    bed.pass(50);
    assert_eq!(bed.template_secs(), 60, "re-armed at 500");
    bed.client(&from_client().tcp(client(2), at(VIP), tcp_flags::ACK, 2, b""));
    bed.pass(190);
    assert_eq!(bed.template_secs(), 50, "690: it fired at 560, 620 and 680");
    bed.pass(10);
    assert_eq!(bed.to(&syn(client(3), VIP)), server);
    assert_eq!(
        bed.template_secs(),
        60,
        "700: the stored timeout is 60 s now"
    );
    bed.check_counts();
    bed.client(&from_client().tcp(client(2), at(VIP), tcp_flags::RST, 2, b""));
    bed.client(&from_client().tcp(client(3), at(VIP), tcp_flags::ACK, 2, b""));
    bed.client(&from_client().tcp(client(3), at(VIP), tcp_flags::RST, 2, b""));
    bed.pass(11);
    assert_eq!(bed.bed.connections().len(), 0);
    bed.pass(49);
    assert_eq!(bed.bed.templates().len(), 0);
    bed.check_counts();
}

#[test]
fn port_zero_services_keep_a_client_on_one_server_for_all_ports_and_keep_the_port() {
    let mut service = service(
        proto::TCP,
        "198.51.100.1:0",
        vec![dest("10.0.0.11", 0), dest("10.0.0.12", 0)],
    );
    service.persistence = Some(persistence(300));
    let exact = ServiceDef {
        name: "exact".into(),
        ..tcp_service().remove(0)
    };
    let mut bed = Bed::new(vec![service, exact]);
    let first = bed.to(&syn(client(1), "198.51.100.1:443"));
    assert_eq!(first.port(), 443);
    let second = bed.to(&syn(client(2), "198.51.100.1:8443"));
    assert_eq!((second.ip(), second.port()), (first.ip(), 8443));
    assert_eq!(
        bed.to(&syn(client(3), VIP)).port(),
        8080,
        "a service of the port itself goes first"
    );
    let all = bed.bed.templates();
    assert_eq!((all.len(), all[0].key.vport), (1, 0));
    let reply =
        from_server("10.0.0.11").tcp(second, client(2), tcp_flags::SYN | tcp_flags::ACK, 1, b"");
    if second.ip() == ip("10.0.0.11") {
        assert_eq!(ends(&bed.server(&reply)[0].1).0, at("198.51.100.1:8443"));
    }
    bed.check_counts();
}

#[test]
fn a_marks_template_is_for_all_its_addresses_ports_and_protocols() {
    let marked = ServiceDef {
        kind: ServiceKind::Mark {
            af: Af::V4,
            mark: 7,
        },
        persistence: Some(persistence(300)),
        ..service(proto::TCP, VIP, three())
    };
    let rule = |to: &str, proto, ports| MarkRule {
        mark: 7,
        to: Some(Prefix {
            addr: ip(to),
            len: 32,
        }),
        proto: Some(proto),
        ports: Some(ports),
        ..MarkRule::default()
    };
    let setup = Setup {
        marks: vec![
            rule("198.51.100.1", proto::TCP, (80, 81)),
            rule("198.51.100.2", proto::UDP, (53, 53)),
        ],
        ..setup(vec![marked])
    };
    for workers in [1, 3] {
        let mut bed = Bed::with(&setup, workers);
        let web = bed.to(&syn(client(1), "198.51.100.1:80"));
        assert_eq!(web.port(), 80, "the server's own port is not looked at");
        let dns = bed.datagram(client(2), "198.51.100.2:53", b"?");
        assert_eq!((dns.ip(), dns.port()), (web.ip(), 53));
        let reply = from_server(&web.ip().to_string()).udp(dns, client(2), b"!");
        assert_eq!(ends(&bed.server(&reply)[0].1).0, at("198.51.100.2:53"));
        assert_eq!(bed.bed.templates().len(), 1);
        assert!(
            bed.client(&syn(client(3), "198.51.100.1:82")).is_empty(),
            "no rule gives it a mark"
        );
        bed.check_counts();
    }
}

#[test]
fn ipv6_clients_are_grouped_by_prefix() {
    let mut service = service(
        proto::TCP,
        "[2001:db8::80]:80",
        (11..=13)
            .map(|n| dest(&format!("2001:db8:2::{n}"), 8080))
            .collect(),
    );
    service.persistence = Some(Persistence {
        grouping: Grouping::Prefix6(64),
        ..persistence(300)
    });
    let mut bed = Bed::new(vec![service]);
    let vip = "[2001:db8::80]:80";
    let first = bed.to(&syn(at("[2001:db8:9::1]:1000"), vip));
    assert_eq!(bed.to(&syn(at("[2001:db8:9::ffff]:1001"), vip)), first);
    assert_ne!(bed.to(&syn(at("[2001:db8:a::1]:1000"), vip)), first);
    bed.check_counts();
}

#[test]
fn established_connections_and_answered_datagrams_assure_their_template() {
    let mut udp = service(proto::UDP, "198.51.100.1:53", three());
    udp.name = "dns".into();
    udp.persistence = Some(persistence(300));
    let mut bed = Bed::new(vec![tcp_persistent(300), udp]);
    let assured = |bed: &Bed| bed.bed.templates().iter().filter(|t| t.assured).count();
    let server = bed.to(&syn(client(1), VIP));
    let asked = bed.datagram(client(2), "198.51.100.1:53", b"?");
    assert_eq!(assured(&bed), 0);
    let answer = from_server(&server.ip().to_string());
    bed.server(&answer.tcp(server, client(1), tcp_flags::SYN | tcp_flags::ACK, 1, b""));
    bed.client(&from_client().tcp(client(1), at(VIP), tcp_flags::ACK, 2, b""));
    assert_eq!(assured(&bed), 1);
    bed.server(&from_server(&asked.ip().to_string()).udp(asked, client(2), b"!"));
    assert_eq!(assured(&bed), 2);
    bed.check_counts();
}

fn with_admin(mut service: ServiceDef, server: IpAddr, admin: AdminState) -> Setup {
    for d in service.servers.iter_mut().filter(|d| d.addr == server) {
        d.admin = admin;
    }
    setup(vec![service])
}

#[test]
fn a_drained_server_keeps_its_clients_unless_told_to_give_them_up() {
    for expire in [false, true] {
        let mut bed = Bed::new(vec![tcp_persistent(300)]);
        let server = bed.to(&syn(client(1), VIP));
        let next = Setup {
            expire_quiescent_template: expire,
            ..with_admin(tcp_persistent(300), server.ip(), AdminState::Drain)
        };
        bed.bed.apply(&next).expect("applies");
        let again = bed.to(&syn(client(2), VIP));
        assert_eq!(again == server, !expire);
        bed.check_counts();
        assert_eq!(bed.bed.templates().len(), 1);
    }
}

#[test]
fn the_clients_of_a_lost_server_go_to_one_other() {
    for workers in [1, 2, 4] {
        let mut bed = Bed::with(&setup(vec![tcp_persistent(300)]), workers);
        let server = bed.to(&syn(client(1), VIP));
        bed.bed
            .apply(&with_admin(
                tcp_persistent(300),
                server.ip(),
                AdminState::Maint,
            ))
            .expect("applies");
        let next = bed.to(&syn(client(2), VIP));
        assert_ne!(next, server);
        for n in 3..30 {
            assert_eq!(bed.to(&syn(client(n), VIP)), next);
        }
        bed.check_counts();
        bed.bed
            .apply(&setup(vec![tcp_persistent(300)]))
            .expect("applies");
        assert_eq!(
            bed.to(&syn(client(40), VIP)),
            next,
            "they stay when it comes back"
        );
        bed.check_counts();
    }
}

#[test]
fn a_removed_servers_templates_go_to_another_and_its_slot_is_kept_while_they_have_it() {
    let mut bed = Bed::new(vec![tcp_persistent(300)]);
    let server = bed.to(&syn(client(1), VIP));
    let mut fewer = tcp_persistent(300);
    fewer.servers.retain(|d| d.addr != server.ip());
    bed.bed.apply(&setup(vec![fewer.clone()])).expect("applies");
    bed.check_counts();
    assert_ne!(bed.to(&syn(client(2), VIP)).ip(), server.ip());
    bed.check_counts();
}

/// The example of the issue, to the letter.
#[test]
fn one_packet_datagrams_follow_their_call_and_leave_no_connection() {
    for workers in [1, 2, 4] {
        let mut bed = Bed::with(&setup(vec![sip_service()]), workers);
        let mut servers = BTreeMap::new();
        for round in 0..4u16 {
            for call in 0..30 {
                // One 5-tuple in the even rounds, others in the odd ones.
                let from = if round % 2 == 0 {
                    client(0)
                } else {
                    client(call)
                };
                let to = bed.datagram(from, SIP_VIP, &sip(&format!("{call}@host")));
                assert_eq!(*servers.entry(call).or_insert(to), to, "call {call}");
            }
        }
        let spread: BTreeSet<_> = servers.values().collect();
        assert_eq!(spread.len(), 3, "calls are spread");
        assert_eq!(bed.bed.connections().len(), 0);
        assert_eq!(bed.bed.templates().len(), 30);
        assert_eq!(bed.sum(|c| c.services[0].template_misses.get()), 30);
        assert_eq!(bed.sum(|c| c.services[0].template_hits.get()), 90);
        bed.check_counts();
        bed.pass(60);
        assert_eq!(bed.bed.templates().len(), 0, "60 s after their last use");
        bed.check_counts();
    }
}

#[test]
fn replies_and_requests_of_one_packet_servers_leave_from_the_virtual_address() {
    for engine in [None, Some(Engine::Sip)] {
        let mut service = sip_service();
        service.persistence = engine.map(|e| Persistence {
            engine: Some(e),
            ..service.persistence.clone().expect("there is one")
        });
        let mut bed = Bed::with(&setup(vec![service]), 2);
        let server = bed.datagram(client(1), SIP_VIP, &sip("a"));
        let answer = from_server(&server.ip().to_string());
        let out =
            bed.server(&answer.udp(server, client(1), b"SIP/2.0 200 OK\r\nCall-ID: a\r\n\r\n"));
        assert_eq!(
            (out[0].0, ends(&out[0].1)),
            (WAN, (at(SIP_VIP), client(1), 63))
        );
        // A call that the server starts.
        let peer = at("203.0.113.77:5062");
        let other = at("10.0.0.12:5060");
        let out = bed.server(&from_server("10.0.0.12").udp(other, peer, &sip("started")));
        assert_eq!(ends(&out[0].1).0, at(SIP_VIP));
        if engine.is_some() {
            assert_eq!(
                bed.datagram(peer, SIP_VIP, &sip("started")),
                other,
                "its answers come back to it"
            );
        }
        // Nothing to find a key in: still from the virtual address.
        let out =
            bed.server(&from_server("10.0.0.13").udp(at("10.0.0.13:5060"), peer, b"\r\n\r\n"));
        assert_eq!(ends(&out[0].1).0, at(SIP_VIP));
        assert_eq!(bed.bed.connections().len(), 0);
        bed.check_counts();
    }
}

#[test]
fn a_call_that_a_server_starts_makes_a_connection_where_datagrams_have_them() {
    for workers in [1, 3] {
        let service = ServiceDef {
            one_packet: false,
            ..sip_service()
        };
        let mut bed = Bed::with(&setup(vec![service]), workers);
        let peer = at("203.0.113.77:5062");
        let server = at("10.0.0.12:5060");
        let out = bed.server(&from_server("10.0.0.12").udp(server, peer, &sip("started")));
        assert_eq!(ends(&out[0].1).0, at(SIP_VIP));
        assert_eq!(bed.bed.connections().len(), 1);
        assert_eq!(bed.datagram(peer, SIP_VIP, b"anything"), server);
        assert_eq!(
            bed.datagram(client(5), SIP_VIP, &sip("started")),
            server,
            "from elsewhere, by its Call-ID"
        );
        bed.check_counts();
    }
}

#[test]
fn a_packet_without_a_key_falls_back_to_its_client_or_is_dropped() {
    let mut bed = Bed::new(vec![sip_service()]);
    let one = bed.datagram(client(1), SIP_VIP, b"\r\n\r\n");
    let two = bed.datagram(
        client(2),
        SIP_VIP,
        b"OPTIONS sip:x SIP/2.0\r\nTo: <y>\r\n\r\n",
    );
    assert_eq!(one, two, "the netmask makes all clients one");
    assert_eq!(bed.sum(|c| c.services[0].no_key_missing.get()), 2);
    bed.check_counts();

    let mut service = sip_service();
    service
        .persistence
        .as_mut()
        .expect("there is one")
        .on_no_key = OnNoKey::Drop;
    let mut bed = Bed::new(vec![service]);
    assert!(
        bed.client(&from_client().udp(client(1), at(SIP_VIP), b"\r\n\r\n"))
            .is_empty()
    );
    assert_eq!(bed.drops(), BTreeMap::from([("no_key", 1)]));
    bed.check_counts();
}

#[test]
fn hostile_call_ids_are_keys_like_any_other_and_a_full_table_changes_nothing_for_those_that_are_in()
{
    let mut bed = Bed::new(vec![sip_service()]);
    let hostile = |n: u32| {
        let mut id = vec![0u8, 0xff, b'\\', 0x1b];
        id.extend(n.to_be_bytes().map(|b| b | 0x80));
        let mut m = b"INVITE sip:b SIP/2.0\r\nCall-ID: ".to_vec();
        m.extend(id);
        m.extend(b"\r\n\r\n");
        m
    };
    let first = bed.datagram(client(1), SIP_VIP, &hostile(0));
    for n in 1..1024 {
        bed.datagram(client(1), SIP_VIP, &hostile(n % 128 + ((n / 128) << 8)));
    }
    assert_eq!(bed.bed.templates().len(), 1024);
    assert!(
        bed.client(&from_client().udp(client(1), at(SIP_VIP), &sip("one more")))
            .is_empty()
    );
    assert_eq!(bed.drops(), BTreeMap::from([("template_table_full", 1)]));
    assert_eq!(bed.datagram(client(9), SIP_VIP, &hostile(0)), first);
    bed.check_counts();
}

#[test]
fn limits_of_the_service_and_of_the_client_are_kept() {
    let mut service = sip_service();
    service
        .persistence
        .as_mut()
        .expect("there is one")
        .max_templates = 10;
    service
        .persistence
        .as_mut()
        .expect("there is one")
        .max_per_client = 4;
    let mut bed = Bed::new(vec![service]);
    let mut served = |from: &str, n: usize| {
        (0..n)
            .filter(|i| {
                let from = SocketAddr::new(ip(from), 5060);
                !bed.client(&from_client().udp(from, at(SIP_VIP), &sip(&format!("{from}{i}"))))
                    .is_empty()
            })
            .count()
    };
    assert_eq!(served("203.0.113.1", 10), 4);
    assert_eq!(served("203.0.113.2", 4), 4);
    assert_eq!(served("203.0.113.3", 4), 2);
    assert_eq!(bed.drops(), BTreeMap::from([("template_table_full", 8)]));
    bed.check_counts();
}

#[test]
fn the_calls_of_a_lost_server_go_elsewhere_with_their_next_packet_or_as_the_service_says() {
    for policy in [
        None,
        Some(OnServerDown::Reschedule),
        Some(OnServerDown::Keep),
        Some(OnServerDown::Drop),
    ] {
        let service = ServiceDef {
            on_server_down: policy,
            ..sip_service()
        };
        let mut bed = Bed::new(vec![service.clone()]);
        let server = bed.datagram(client(1), SIP_VIP, &sip("a"));
        bed.bed
            .apply(&with_admin(service, server.ip(), AdminState::Maint))
            .expect("applies");
        let frame = from_client().udp(client(1), at(SIP_VIP), &sip("a"));
        match policy {
            None | Some(OnServerDown::Reschedule) => {
                let next = bed.to(&frame);
                assert_ne!(next, server);
                assert_eq!(bed.to(&frame), next);
            }
            Some(OnServerDown::Keep) => assert_eq!(bed.to(&frame), server),
            Some(OnServerDown::Drop) => {
                assert!(bed.client(&frame).is_empty());
                assert_eq!(bed.drops(), BTreeMap::from([("dest_unavailable", 1)]));
            }
        }
        bed.check_counts();
    }
}

#[test]
fn a_client_that_never_pauses_does_not_keep_a_dead_entry_alive() {
    let udp = || service(proto::UDP, "198.51.100.1:1194", three());
    let mut bed = Bed::new(vec![udp()]);
    let server = bed.datagram(client(1), "198.51.100.1:1194", b"x");
    bed.bed
        .apply(&with_admin(udp(), server.ip(), AdminState::Maint))
        .expect("applies");
    let next = bed.datagram(client(1), "198.51.100.1:1194", b"x");
    assert_ne!(next, server);
    bed.check_counts();

    // What must not go elsewhere is given up instead.
    let keep = || ServiceDef {
        on_server_down: Some(OnServerDown::Drop),
        ..udp()
    };
    let mut bed = Bed::new(vec![keep()]);
    let server = bed.datagram(client(1), "198.51.100.1:1194", b"x");
    bed.bed
        .apply(&with_admin(keep(), server.ip(), AdminState::Maint))
        .expect("applies");
    let frame = from_client().udp(client(1), at("198.51.100.1:1194"), b"x");
    let mut dropped = 0;
    for _ in 0..40_000 {
        bed.now = bed.now.plus(1);
        if bed.client(&frame).is_empty() {
            dropped += 1;
        }
    }
    assert!(
        (29_999..=30_001).contains(&dropped),
        "300 s after its last use the entry ended: {dropped}"
    );
    bed.check_counts();
}

fn keyed(key: SessionKey) -> ServiceDef {
    ServiceDef {
        scheduler: "offh".into(),
        payload_key: Some(PayloadKey::Field(key)),
        hash_key: Some(1),
        ..service(
            proto::UDP,
            "198.51.100.1:1194",
            (11..=13)
                .map(|n| dest(&format!("10.0.0.{n}"), 1194))
                .collect(),
        )
    }
}

fn field(offset: u32, length: u32) -> SessionKey {
    SessionKey {
        field: Field::new(offset, length, Unit::Bytes).expect("there is one"),
        when: None,
    }
}

const VPN: &str = "198.51.100.1:1194";

fn vpn(session: u64) -> Vec<u8> {
    let mut p = vec![0x30];
    p.extend(session.to_be_bytes());
    p.extend(b"payload");
    p
}

#[test]
fn a_session_that_comes_from_elsewhere_keeps_its_server_and_its_old_entry_ends_then() {
    for workers in [1, 2, 4] {
        let mut bed = Bed::with(&setup(vec![keyed(field(1, 8))]), workers);
        let mut servers = BTreeMap::new();
        for s in 0..40u64 {
            servers.insert(s, bed.datagram(client(s as u16), VPN, &vpn(s)));
        }
        assert_eq!(bed.bed.connections().len(), 40);
        for s in 0..40u64 {
            assert_eq!(
                bed.datagram(client(100 + s as u16), VPN, &vpn(s)),
                servers[&s]
            );
        }
        let rows = bed.bed.connections();
        assert_eq!(rows.len(), 40, "the entries of the old 5-tuples are gone");
        assert!(rows.iter().all(|r| r.client.1 >= 10_100));
        assert_eq!(bed.sum(|c| c.services[0].rehomed.get()), 40);
        assert_eq!(bed.bed.templates().len(), 40);
        bed.check_counts();
        bed.pass(301);
        assert_eq!(bed.bed.connections().len(), 0);
        bed.pass(60);
        assert_eq!(bed.bed.templates().len(), 0);
        bed.check_counts();
    }
}

#[test]
fn another_sessions_key_on_a_known_5_tuple_is_scheduled_by_its_own_key_at_once() {
    for workers in [1, 2, 4] {
        let mut bed = Bed::with(&setup(vec![keyed(field(1, 8))]), workers);
        let servers: Vec<_> = (0..40u64)
            .map(|s| bed.datagram(client(s as u16), VPN, &vpn(s)))
            .collect();
        // All of them from one 5-tuple in turn, twice.
        for s in (0..80).map(|i| i % 40) {
            assert_eq!(bed.datagram(client(500), VPN, &vpn(s)), servers[s as usize]);
        }
        assert_eq!(bed.bed.connections().len(), 1);
        bed.check_counts();
    }
}

#[test]
fn replies_of_a_session_reach_the_client_where_it_is_now() {
    let mut bed = Bed::with(&setup(vec![keyed(field(1, 8))]), 2);
    let server = bed.datagram(client(1), VPN, &vpn(1));
    bed.datagram(client(2), VPN, &vpn(1));
    let reply = |to| from_server(&server.ip().to_string()).udp(server, to, b"r");
    assert_eq!(
        ends(&bed.server(&reply(client(2)))[0].1),
        (at(VPN), client(2), 63)
    );
    assert!(
        bed.server(&reply(client(1))).is_empty(),
        "the old one is no connection any more"
    );
}

#[test]
fn a_packet_too_short_for_the_field_follows_its_entry_or_is_scheduled_by_address() {
    let mut bed = Bed::new(vec![keyed(field(1, 8))]);
    let server = bed.datagram(client(1), VPN, &vpn(1));
    assert_eq!(bed.datagram(client(1), VPN, b"12345678"), server);
    let short = bed.datagram(client(2), VPN, b"");
    assert_eq!(bed.datagram(client(2), VPN, b"x"), short);
    assert_eq!(bed.sum(|c| c.services[0].no_key_short.get()), 3);
    assert_eq!(bed.bed.templates().len(), 1);
    bed.check_counts();
}

/// DTLS 1.2 with a connection ID (RFC 9146): records of content type 25 have it at offset 11.
#[test]
fn packets_without_the_condition_follow_their_5_tuple_and_the_session_they_made_keeps_its_server() {
    let key = SessionKey {
        when: Some(When {
            offset: 0,
            value: vec![25],
        }),
        ..field(11, 4)
    };
    for workers in [1, 4] {
        let mut bed = Bed::with(&setup(vec![keyed(key.clone())]), workers);
        let record = |kind: u8, cid: u32| {
            let mut r = vec![kind, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9];
            r.extend(cid.to_be_bytes());
            r.extend(b"data");
            r
        };
        for c in 0..30u16 {
            let cid = 0xc0de_0000 + u32::from(c);
            let server = bed.datagram(client(c), VPN, &record(22, 0));
            assert_eq!(
                bed.datagram(client(c), VPN, &record(25, cid)),
                server,
                "whoever shook hands has the session"
            );
            assert_eq!(bed.datagram(client(c), VPN, &record(21, 0)), server);
            assert_eq!(
                bed.datagram(client(1000 + c), VPN, &record(25, cid)),
                server,
                "from a new address too"
            );
        }
        assert_eq!(bed.bed.connections().len(), 30);
        bed.check_counts();
    }
}

#[test]
fn a_lost_servers_sessions_are_hashed_anew_and_drained_ones_stay() {
    let vpn_service = || keyed(field(1, 8));
    let mut bed = Bed::with(&setup(vec![vpn_service()]), 2);
    let servers: Vec<_> = (0..60u64)
        .map(|s| bed.datagram(client(s as u16), VPN, &vpn(s)))
        .collect();
    let gone = servers[0];
    bed.bed
        .apply(&with_admin(vpn_service(), gone.ip(), AdminState::Drain))
        .expect("applies");
    for s in 0..60u64 {
        assert_eq!(
            bed.datagram(client(200 + s as u16), VPN, &vpn(s)),
            servers[s as usize]
        );
    }
    for s in 60..120u64 {
        assert_ne!(
            bed.datagram(client(300 + s as u16), VPN, &vpn(s)),
            gone,
            "no new keys"
        );
    }
    bed.check_counts();
    bed.bed
        .apply(&with_admin(vpn_service(), gone.ip(), AdminState::Maint))
        .expect("applies");
    for s in 0..60u64 {
        let now = bed.datagram(client(200 + s as u16), VPN, &vpn(s));
        assert_ne!(now, gone);
        assert!(servers[s as usize] == gone || now == servers[s as usize]);
    }
    bed.check_counts();
}

/// All orders of three pieces.
fn orders(pieces: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ]
    .iter()
    .map(|o| o.iter().map(|i| pieces[*i].clone()).collect())
    .collect()
}

#[test]
fn the_engine_sees_the_whole_of_a_fragmented_message() {
    for workers in [1, 2, 4] {
        let mut bed = Bed::with(&setup(vec![sip_service()]), workers);
        // The Call-ID lies in the last of three fragments.
        let mut message = b"INVITE sip:b@example.com SIP/2.0\r\n".to_vec();
        for n in 0..30 {
            message.extend(format!("X-Filler-{n}: {}\r\n", "x".repeat(100)).bytes());
        }
        message.extend(b"Call-ID: late@host\r\n\r\nbody");
        let server = bed.datagram(client(1), SIP_VIP, &sip("late@host"));
        for n in 0..5 {
            bed.datagram(client(1), SIP_VIP, &sip(&format!("{n}")));
        }
        let whole = from_client().id(77).udp(client(2), at(SIP_VIP), &message);
        let pieces = fragment(&whole, 1500);
        assert_eq!(pieces.len(), 3);
        for (i, order) in orders(&pieces).iter().enumerate() {
            let mut out = Vec::new();
            for piece in order {
                out.extend(bed.client(piece));
            }
            assert_eq!(out.len(), 3, "order {i}: {:?}", bed.drops());
            let got = reassembled(&out);
            assert_eq!(got.0, client(2));
            assert_eq!(got.1, server);
            assert_eq!(got.2, message);
        }
        let received = bed.sum(|c| c.fragments_received.get());
        assert!(received >= 3);
        assert_eq!(bed.sum(|c| c.datagrams_reassembled.get()) * 3, received);
        assert_eq!(bed.sum(|c| c.fragments_held.get()), 0);
        assert_eq!(bed.sum(|c| c.held.get()), 0);
        bed.check_counts();
    }
}

/// Ends and payload of the datagram that frames carry in order; its checksums are right.
fn reassembled(out: &Out) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let first = &out[0].1;
    let mut whole = first[..34].to_vec();
    for (_, f) in out {
        let len = usize::from(u16::from_be_bytes([f[16], f[17]]));
        whole.extend(&f[34..14 + len]);
    }
    let total = u16::try_from(whole.len() - 14).expect("there is one");
    whole[16..18].copy_from_slice(&total.to_be_bytes());
    whole[20..22].copy_from_slice(&[0, 0]);
    whole[24..26].copy_from_slice(&[0, 0]);
    let sum = polder::net::checksum::ipv4_header(&whole[14..34]);
    whole[24..26].copy_from_slice(&sum.to_be_bytes());
    let (src, dst, _) = ends(&whole);
    (src, dst, whole[42..].to_vec())
}

#[test]
fn fragments_of_connections_and_of_replies_are_translated_on_any_worker() {
    for workers in [1, 2, 4] {
        let udp = service(
            proto::UDP,
            VPN,
            (11..=13)
                .map(|n| dest(&format!("10.0.0.{n}"), 1194))
                .collect(),
        );
        let mut bed = Bed::with(&setup(vec![udp]), workers);
        let payload: Vec<u8> = (0..4000u32).map(|n| n as u8).collect();
        for c in 0..20 {
            let pieces = fragment(&from_client().id(c).udp(client(c), at(VPN), &payload), 1500);
            let out: Out = pieces.iter().flat_map(|p| bed.client(p)).collect();
            let (src, server, got) = reassembled(&out);
            assert_eq!((src, got), (client(c), payload.clone()));
            let reply =
                from_server(&server.ip().to_string())
                    .id(c)
                    .udp(server, client(c), &payload);
            let out: Out = fragment(&reply, 1500)
                .iter()
                .rev()
                .flat_map(|p| bed.server(p))
                .collect();
            assert_eq!(out.len(), 3);
            assert_eq!(reassembled(&out), (at(VPN), client(c), payload.clone()));
        }
        assert_eq!(bed.bed.connections().len(), 20);
        assert_eq!(bed.bed.buffers_in_use(), 0);
        bed.check_counts();
    }
}

#[test]
fn fragments_that_never_become_whole_end_after_their_time_and_nothing_is_lost() {
    let mut bed = Bed::with(&setup(vec![sip_service()]), 2);
    let pieces = fragment(
        &from_client()
            .id(9)
            .udp(client(2), at(SIP_VIP), &[b'x'; 4000]),
        1500,
    );
    assert!(bed.client(&pieces[0]).is_empty());
    assert!(bed.client(&pieces[2]).is_empty());
    assert_eq!(bed.sum(|c| c.held.get()), 2);
    let seen = (
        bed.sum(|c| c.fragments_received.get()),
        bed.sum(|c| c.fragments_held.get()),
        bed.sum(|c| c.datagrams_reassembled.get()),
    );
    assert_eq!(seen, (2, 2, 0));
    bed.check_identity();
    bed.pass(31);
    assert_eq!(bed.drops(), BTreeMap::from([("fragment_timeout", 2)]));
    assert_eq!(
        (bed.sum(|c| c.held.get()), bed.bed.buffers_in_use()),
        (0, 0)
    );
    bed.check_counts();
}

#[test]
fn fragments_for_nobody_here_are_the_kernels() {
    let mut bed = Bed::new(vec![sip_service()]);
    for p in fragment(
        &from_client().udp(client(2), at("192.0.2.10:9"), &[0; 3000]),
        1500,
    ) {
        bed.client(&p);
    }
    assert_eq!(bed.sum(|c| c.punted.get()), 3);
    assert!(bed.drops().is_empty());
}

#[test]
fn direct_servers_get_the_fragments_as_they_came() {
    let mut service = sip_service();
    for d in &mut service.servers {
        d.method = Method::Direct;
    }
    let mut bed = Bed::with(&setup(vec![service]), 2);
    let pieces = fragment(
        &from_client()
            .id(9)
            .udp(client(2), at(SIP_VIP), &sip(&"y".repeat(3000))),
        1500,
    );
    let out: Out = pieces.iter().flat_map(|p| bed.client(p)).collect();
    assert_eq!(out.len(), 3);
    let to: BTreeSet<_> = out.iter().map(|(_, f)| macs(f).0).collect();
    assert_eq!(to.len(), 1, "all to one server");
    assert_eq!(reassembled(&out).1, at(SIP_VIP));
    let _: PortId = out[0].0;
    bed.check_counts();
}

#[test]
fn a_new_handshake_on_a_known_5_tuple_makes_a_new_session_of_the_same_server() {
    let key = SessionKey {
        when: Some(When {
            offset: 0,
            value: vec![25],
        }),
        ..field(1, 4)
    };
    let service = ServiceDef {
        scheduler: "wlc".into(),
        ..keyed(key)
    };
    let mut bed = Bed::with(&setup(vec![service]), 2);
    let named = |cid: u32| [&[25][..], &cid.to_be_bytes()].concat();
    for c in 0..20u16 {
        let server = bed.datagram(client(c), VPN, &[22]);
        for n in 0..5 {
            bed.datagram(client(c), VPN, &[22]);
            let cid = u32::from(c) * 100 + n;
            assert_eq!(bed.datagram(client(c), VPN, &named(cid)), server);
            assert_eq!(bed.datagram(client(c), VPN, &named(cid)), server);
        }
    }
    bed.check_counts();
}

#[test]
fn with_offh_another_sessions_key_goes_by_its_hash_also_after_packets_without_a_key() {
    let when = Some(When {
        offset: 0,
        value: vec![25],
    });
    let service = keyed(SessionKey {
        when,
        ..field(1, 4)
    });
    let named = |key: u32| [&[25][..], &key.to_be_bytes()].concat();
    let mut fresh = Bed::new(vec![service.clone()]);
    let mut bed = Bed::new(vec![service]);
    bed.datagram(client(0), VPN, &named(0));
    for key in 1..30 {
        bed.datagram(client(0), VPN, &[22]);
        let own = fresh.datagram(client(key), VPN, &named(u32::from(key)));
        assert_eq!(bed.datagram(client(0), VPN, &named(u32::from(key))), own);
    }
    bed.check_counts();
}

#[test]
fn a_session_that_moved_after_keyless_packets_still_ends_its_old_entry() {
    let key = SessionKey {
        when: Some(When {
            offset: 0,
            value: vec![25],
        }),
        ..field(1, 4)
    };
    let mut bed = Bed::new(vec![keyed(key)]);
    let server = bed.datagram(client(1), VPN, &[22]);
    bed.datagram(client(1), VPN, &[25, 1, 2, 3, 4]);
    bed.datagram(client(1), VPN, &[21]);
    assert_eq!(bed.datagram(client(2), VPN, &[25, 1, 2, 3, 4]), server);
    assert_eq!(bed.bed.connections().len(), 1);
    bed.check_counts();
}

#[test]
fn keys_of_one_packet_services_are_hashed_packet_by_packet() {
    for workers in [1, 4] {
        let service = ServiceDef {
            one_packet: true,
            ..keyed(field(4, 4))
        };
        let mut bed = Bed::with(&setup(vec![service.clone()]), workers);
        let tunnel = |id: u32| [&[0x30, 0xff, 0, 0][..], &id.to_be_bytes(), b"inner"].concat();
        let of = |bed: &mut Bed, id| bed.datagram(client(1), VPN, &tunnel(id));
        let servers: Vec<_> = (0..100).map(|id| of(&mut bed, id)).collect();
        for id in 0..100 {
            assert_eq!(of(&mut bed, id), servers[id as usize]);
        }
        assert_eq!(bed.bed.connections().len(), 0);
        bed.bed
            .apply(&with_admin(service, servers[0].ip(), AdminState::Maint))
            .expect("applies");
        for id in 0..100 {
            let now = of(&mut bed, id);
            assert_ne!(now, servers[0]);
            assert!(now == servers[id as usize] || servers[id as usize] == servers[0]);
        }
        bed.check_counts();
    }
}

fn quic_service() -> (ServiceDef, Vec<QuicConfig>) {
    let config = |codepoint, key| QuicConfig {
        codepoint,
        length_encoded: false,
        server_id_len: 3,
        nonce_len: 5,
        key,
    };
    let configs = vec![config(0, None), config(1, Some([7; 16]))];
    let mut servers = three();
    for (n, d) in (1u8..).zip(&mut servers) {
        d.quic_server_id = vec![0xaa, 0xbb, n];
    }
    let key = PayloadKey::Quic(QuicLb::new(&configs).expect("valid"));
    let service = ServiceDef {
        payload_key: Some(key),
        ..service(proto::UDP, "198.51.100.1:443", servers)
    };
    (service, configs)
}

/// A packet with a long header, whose destination connection ID is `cid`.
fn initial(cid: &[u8]) -> Vec<u8> {
    let mut p = vec![
        0xc3,
        0,
        0,
        0,
        1,
        u8::try_from(cid.len()).expect("there is one"),
    ];
    p.extend(cid);
    p.extend([0, 0, 0x44, 0xd0]);
    p.resize(1200, 0);
    p
}

fn short_header(cid: &[u8]) -> Vec<u8> {
    [&[0x43][..], cid, &[0x55; 40]].concat()
}

#[test]
fn quic_connections_stay_with_the_server_whose_id_they_carry_wherever_they_come_from() {
    const QUIC: &str = "198.51.100.1:443";
    for workers in [1, 2, 4] {
        let (service, configs) = quic_service();
        let mut bed = Bed::with(&setup(vec![service]), workers);
        for c in 0..30u16 {
            // The client's own choice, with a first octet of the codepoint that no configuration has.
            let chosen = [&[0xe0 | c as u8 & 0x1f][..], &[c as u8; 9]].concat();
            let server = bed.datagram(client(c), QUIC, &initial(&chosen));
            assert_eq!(
                bed.datagram(client(c), QUIC, &initial(&chosen)),
                server,
                "what names no server follows its 5-tuple"
            );
            let id = [0xaa, 0xbb, server_mac(server.ip()).0[5] - 10];
            for config in &configs {
                let cid = config.encode(&id, &[c as u8; 5]).expect("encodes");
                for packet in [initial(&cid), short_header(&cid)] {
                    assert_eq!(bed.datagram(client(c), QUIC, &packet), server);
                    assert_eq!(
                        bed.datagram(client(1000 + c), QUIC, &packet),
                        server,
                        "from another port, on a 5-tuple that is new"
                    );
                }
            }
            // The 5-tuple is another client's now, whose server is another.
            for n in 1..=3 {
                let cid = configs[0]
                    .encode(&[0xaa, 0xbb, n], &[9; 5])
                    .expect("encodes");
                let to = bed.datagram(client(c), QUIC, &short_header(&cid));
                assert_eq!(to.ip(), ip(&format!("10.0.0.{}", 10 + n)));
            }
            let unknown = configs[0].encode(&[1, 2, 3], &[9; 5]).expect("encodes");
            let now = ip("10.0.0.13");
            assert_eq!(
                bed.datagram(client(c), QUIC, &short_header(&unknown)).ip(),
                now
            );
        }
        bed.check_counts();
    }
}

#[test]
fn the_quic_connections_of_a_lost_server_are_scheduled_anew() {
    let (service, configs) = quic_service();
    let mut bed = Bed::new(vec![service.clone()]);
    let cid = configs[0]
        .encode(&[0xaa, 0xbb, 1], &[9; 5])
        .expect("encodes");
    let gone = ip("10.0.0.11");
    let vip = "198.51.100.1:443";
    assert_eq!(bed.datagram(client(1), vip, &short_header(&cid)).ip(), gone);
    bed.bed
        .apply(&with_admin(service, gone, AdminState::Maint))
        .expect("applies");
    assert_ne!(bed.datagram(client(1), vip, &short_header(&cid)).ip(), gone);
    assert_ne!(bed.datagram(client(2), vip, &short_header(&cid)).ip(), gone);
    bed.check_counts();
}

#[test]
fn on_server_down_says_what_becomes_of_the_quic_connections_of_a_lost_server() {
    let vip = "198.51.100.1:443";
    let (gone, other) = (ip("10.0.0.11"), ip("10.0.0.12"));
    for (mode, to) in [(OnServerDown::Keep, Some(gone)), (OnServerDown::Drop, None)] {
        let (mut service, configs) = quic_service();
        service.on_server_down = Some(mode);
        let cid = |n| configs[0].encode(&[0xaa, 0xbb, n], &[9; 5]);
        let packet = |n| short_header(&cid(n).expect("encodes"));
        let mut bed = Bed::new(vec![service.clone()]);
        assert_eq!(bed.datagram(client(1), vip, &packet(1)).ip(), gone);
        assert_eq!(bed.datagram(client(3), vip, &packet(2)).ip(), other);
        bed.bed
            .apply(&with_admin(service, gone, AdminState::Maint))
            .expect("applies");
        for (case, from) in [("its own", 1), ("a new", 2), ("another's", 3)] {
            let sent = bed.client(&from_client().udp(client(from), at(vip), &packet(1)));
            let sent = sent.first().map(|(_, frame)| ends(frame).1.ip());
            assert_eq!(sent, to, "{mode:?}, from {case} 5-tuple");
        }
        assert_eq!(bed.datagram(client(3), vip, &packet(2)).ip(), other);
        bed.check_counts();
    }
}

#[test]
fn schedulers_that_count_load_count_the_sessions_of_one_packet_services() {
    for scheduler in ["lc", "wlc", "sed"] {
        let service = ServiceDef {
            scheduler: scheduler.into(),
            ..sip_service()
        };
        let mut bed = Bed::new(vec![service]);
        let mut calls = BTreeMap::<SocketAddr, u32>::new();
        for n in 0..30 {
            let to = bed.datagram(client(1), SIP_VIP, &sip(&format!("{n}")));
            *calls.entry(to).or_default() += 1;
        }
        assert!(calls.values().all(|n| *n == 10), "{scheduler}: {calls:?}");
        bed.check_counts();
    }
}

#[test]
fn the_upper_threshold_of_a_one_packet_service_is_one_of_sessions() {
    let mut service = ServiceDef {
        scheduler: "hprio".into(),
        ..sip_service()
    };
    service.servers[0].weight = 10;
    service.servers[0].upper_threshold = 5;
    let mut bed = Bed::new(vec![service]);
    let first = at("10.0.0.11:5060");
    for n in 0..20 {
        let to = bed.datagram(client(1), SIP_VIP, &sip(&format!("{n}")));
        assert_eq!(to == first, n < 5, "call {n} went to {to}");
    }
    assert_eq!(
        bed.datagram(client(1), SIP_VIP, &sip("0")),
        first,
        "calls that it has stay"
    );
    bed.check_counts();
}

#[test]
fn replies_are_told_from_requests_where_a_marks_rule_fits_both() {
    let marked = ServiceDef {
        kind: ServiceKind::Mark {
            af: Af::V4,
            mark: 7,
        },
        ..service(proto::UDP, VPN, three())
    };
    let setup = Setup {
        marks: vec![MarkRule {
            mark: 7,
            proto: Some(proto::UDP),
            ..MarkRule::default()
        }],
        ..setup(vec![marked])
    };
    for workers in [1, 2, 4] {
        let mut bed = Bed::with(&setup, workers);
        for n in 0..40 {
            let server = bed.datagram(client(n), "198.51.100.7:9000", b"?");
            let reply = from_server(&server.ip().to_string()).udp(server, client(n), b"!");
            let out = bed.server(&reply);
            assert_eq!(ends(&out[0].1).0, at("198.51.100.7:9000"));
        }
        assert_eq!(bed.bed.connections().len(), 40);
        bed.check_counts();
    }
}

#[test]
fn a_server_that_a_one_packet_service_shares_answers_connections_in_their_own_name() {
    let server = || vec![dest("10.0.0.11", 5060)];
    let one_packet = ServiceDef {
        one_packet: true,
        ..service(proto::UDP, "192.0.2.101:5060", server())
    };
    let services = vec![
        service(proto::UDP, "192.0.2.100:5060", server()),
        one_packet,
    ];
    let mut bed = Bed::with(&setup(services), 4);
    for n in 0..16 {
        let from = client(n);
        bed.datagram(from, "192.0.2.100:5060", b"?");
        let reply = from_server("10.0.0.11").udp(at("10.0.0.11:5060"), from, b"!");
        for _ in 0..4 {
            // Wherever it comes in, it is known to whom it is an answer.
            let out = bed.server(&reply);
            assert_eq!(ends(&out[0].1).0, at("192.0.2.100:5060"));
        }
    }
    bed.check_identity();
}
