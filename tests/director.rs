//! The director's behaviour, packet by packet, in virtual time: what goes in, what comes out, what is counted.

mod bed;

use std::net::SocketAddr;

use bed::*;
use polder::forward::DestDef;
use polder::net::Mac;
use polder::net::build::{Frame, verify};
use polder::net::icmp::IcmpError;
use polder::net::packet::{proto, tcp_flags};
use polder::table::{AdminState, Method};
use polder::worker::assemble::Sizes;

#[test]
fn a_tcp_connection_is_masqueraded_both_ways() {
    let mut bed = Bed::new(tcp_service());
    let client = at("203.0.113.9:40000");
    let out = bed.client(&from_client().tcp(client, at(VIP), tcp_flags::SYN, 1, b""));
    let [(LAN, syn)] = &out[..] else {
        panic!("{out:?}")
    };
    let (src, dst, ttl) = ends(syn);
    assert_eq!((src, dst.port(), ttl), (client, 8080, 63));
    assert_eq!(macs(syn), (server_mac(dst.ip()), LAN_MAC));

    let reply = from_server(&dst.ip().to_string()).tcp(
        dst,
        client,
        tcp_flags::SYN | tcp_flags::ACK,
        1,
        b"",
    );
    let out = bed.server(&reply);
    let [(WAN, syn_ack)] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(ends(syn_ack), (at(VIP), client, 63));
    assert_eq!(macs(syn_ack), (ROUTER, WAN_MAC));

    let out = bed.client(&from_client().tcp(client, at(VIP), tcp_flags::ACK, 2, b"GET /"));
    assert_eq!(ends(&out[0].1).1, dst, "the connection stays on its server");
    let rows = bed.bed.connections();
    assert_eq!(
        (rows.len(), rows[0].state, rows[0].expires),
        (1, 1, 90_000),
        "established for 900 s"
    );
    bed.check_identity();
}

#[test]
fn round_robin_is_the_kernels_whatever_the_number_of_workers() {
    let mut orders = Vec::new();
    for workers in [1, 2, 3, 4] {
        let mut bed = Bed::with(&setup(tcp_service()), workers);
        let mut order = Vec::new();
        for n in 0..30u16 {
            let client = SocketAddr::new(ip("203.0.113.9"), 40_000 + n);
            let out = bed.client(&from_client().tcp(client, at(VIP), tcp_flags::SYN, 1, b""));
            order.push(ends(&out[0].1).1.ip());
        }
        bed.check_identity();
        orders.push(order);
    }
    assert!(orders.iter().all(|o| *o == orders[0]), "{orders:?}");
    let count = |n: u8| {
        orders[0]
            .iter()
            .filter(|a| server_mac(**a).0[5] == n)
            .count()
    };
    assert_eq!([count(11), count(12), count(13)], [10, 10, 10]);
}

#[test]
fn replies_find_their_connection_on_any_worker() {
    for workers in [1, 2, 3] {
        let mut bed = Bed::with(&setup(tcp_service()), workers);
        for n in 0..60u16 {
            let client = SocketAddr::new(ip("203.0.113.9"), 40_000 + n);
            let out = bed.client(&from_client().tcp(client, at(VIP), tcp_flags::SYN, 1, b""));
            let server = ends(&out[0].1).1;
            let reply = from_server(&server.ip().to_string()).tcp(
                server,
                client,
                tcp_flags::SYN | tcp_flags::ACK,
                1,
                b"",
            );
            let out = bed.server(&reply);
            assert_eq!(
                ends(&out[0].1),
                (at(VIP), client, 63),
                "{workers} workers, client {n}"
            );
        }
        assert_eq!(bed.bed.connections().len(), 60);
        if workers > 1 {
            assert!(
                bed.sum(|c| c.handed_in.get()) > 0,
                "the test hands frames over"
            );
        }
        bed.check_identity();
    }
}

#[test]
fn udp_without_a_checksum_gets_one_and_replies_come_from_the_virtual_address() {
    let servers = vec![dest("10.0.0.11", 5353)];
    let mut bed = Bed::new(vec![service(proto::UDP, "198.51.100.1:53", servers)]);
    let client = at("203.0.113.9:4000");
    let query = from_client()
        .no_udp_checksum()
        .udp(client, at("198.51.100.1:53"), b"odd");
    let out = bed.client(&query);
    let udp = &out[0].1[34..];
    assert_ne!(&udp[6..8], &[0, 0], "specification §8.2");
    assert_eq!(ends(&out[0].1).1, at("10.0.0.11:5353"));
    let out = bed.server(&from_server("10.0.0.11").udp(at("10.0.0.11:5353"), client, b"answer"));
    assert_eq!(ends(&out[0].1), (at("198.51.100.1:53"), client, 63));
}

#[test]
fn ipv6_is_masqueraded_the_same_way() {
    let servers = vec![dest("2001:db8:2::11", 8080)];
    let mut bed = Bed::new(vec![service(proto::TCP, "[2001:db8:9::1]:80", servers)]);
    let client = at("[2001:db8:7::9]:40000");
    let out =
        bed.client(&from_client().tcp(client, at("[2001:db8:9::1]:80"), tcp_flags::SYN, 1, b""));
    assert_eq!(ends(&out[0].1), (client, at("[2001:db8:2::11]:8080"), 63));
    let flags = tcp_flags::SYN | tcp_flags::ACK;
    let reply =
        from_server("2001:db8:2::11").tcp(at("[2001:db8:2::11]:8080"), client, flags, 1, b"");
    let out = bed.server(&reply);
    assert_eq!(ends(&out[0].1), (at("[2001:db8:9::1]:80"), client, 63));
}

#[test]
fn direct_routing_changes_nothing_but_the_time_to_live() {
    let servers = vec![DestDef {
        method: Method::Direct,
        ..dest("10.0.0.11", 80)
    }];
    let mut bed = Bed::new(vec![service(proto::TCP, VIP, servers)]);
    let sent = from_client().tcp(at("203.0.113.9:40000"), at(VIP), tcp_flags::SYN, 1, b"");
    let out = bed.client(&sent);
    let [(LAN, got)] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(ends(got), (at("203.0.113.9:40000"), at(VIP), 63));
    assert_eq!(macs(got).0, server_mac(ip("10.0.0.11")));
    assert_eq!(
        &got[26..],
        &sent[26..],
        "behind the IP header checksum nothing changed"
    );
}

#[test]
fn tunnels_wrap_in_all_four_mixes() {
    let mixes = [
        ("198.51.100.1:80", "203.0.113.9:4000", "10.0.0.11", 20, 4),
        (
            "198.51.100.1:80",
            "203.0.113.9:4000",
            "2001:db8:2::11",
            40,
            4,
        ),
        (
            "[2001:db8:9::1]:80",
            "[2001:db8:7::9]:4000",
            "10.0.0.11",
            20,
            41,
        ),
        (
            "[2001:db8:9::1]:80",
            "[2001:db8:7::9]:4000",
            "2001:db8:2::11",
            40,
            41,
        ),
    ];
    for (vip, client, server, outer_len, protocol) in mixes {
        let servers = vec![DestDef {
            method: Method::Tunnel,
            ..dest(server, 80)
        }];
        let mut bed = Bed::new(vec![service(proto::TCP, vip, servers)]);
        let sent = from_client().tcp(at(client), at(vip), tcp_flags::SYN, 1, b"x");
        let out = bed.client(&sent);
        let [(LAN, got)] = &out[..] else {
            panic!("{vip} {server}: {out:?}")
        };
        verify(got).expect("outer checksum");
        assert_eq!(macs(got).0, server_mac(ip(server)), "{vip} {server}");
        let next = if outer_len == 20 {
            got[14 + 9]
        } else {
            got[14 + 6]
        };
        assert_eq!(next, protocol, "{vip} {server}");
        let mut inner = got[..14].to_vec();
        inner.extend_from_slice(&got[14 + outer_len..]);
        let ether_type: u16 = if vip.starts_with('[') { 0x86dd } else { 0x0800 };
        inner[12..14].copy_from_slice(&ether_type.to_be_bytes());
        assert_eq!(ends(&inner), (at(client), at(vip), 63), "{vip} {server}");
        bed.check_identity();
    }
}

#[test]
fn no_server_is_answered_with_port_unreachable_from_the_virtual_address() {
    for (vip, client) in [
        (VIP, "203.0.113.9:4000"),
        ("[2001:db8:9::1]:80", "[2001:db8:7::9]:4000"),
    ] {
        let mut bed = Bed::new(vec![service(proto::TCP, vip, Vec::new())]);
        let out = bed.client(&from_client().tcp(at(client), at(vip), tcp_flags::SYN, 1, b""));
        let [(WAN, error)] = &out[..] else {
            panic!("{out:?}")
        };
        let (src, dst, _) = ends(error);
        assert_eq!((src.ip(), dst.ip()), (at(vip).ip(), at(client).ip()));
        let icmp = if at(vip).is_ipv4() {
            &error[34..36]
        } else {
            &error[54..56]
        };
        assert_eq!(icmp, if at(vip).is_ipv4() { [3, 3] } else { [1, 4] });
        assert_eq!(bed.drops(), [("no_server", 1)].into());
        bed.check_identity();
    }
}

#[test]
fn an_expired_time_to_live_is_told_in_both_directions() {
    let mut bed = Bed::new(tcp_service());
    let client = at("203.0.113.9:40000");
    let out = bed.client(
        &from_client()
            .ttl(1)
            .tcp(client, at(VIP), tcp_flags::SYN, 1, b""),
    );
    let [(WAN, error)] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(
        ends(error).0.ip(),
        at(VIP).ip(),
        "from the address that was asked, as in IPVS"
    );
    assert_eq!(error[34..36], [11, 0]);
    // The connection was made all the same; the server's reply with its last hop is told to the server.
    let out = bed.client(&from_client().tcp(client, at(VIP), tcp_flags::SYN, 1, b""));
    let server = ends(&out[0].1).1;
    let reply = from_server("10.0.0.11")
        .ttl(1)
        .tcp(server, client, tcp_flags::ACK, 1, b"");
    let out = bed.server(&reply);
    let [(LAN, error)] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(ends(error).0.ip(), ip("10.0.0.1"));
    assert_eq!(bed.drops(), [("ttl_exceeded", 2)].into());
}

#[test]
fn what_is_too_big_is_told_or_split() {
    let mut s = setup(tcp_service());
    s.ports[1].mtu = 1000;
    let mut bed = Bed::with(&s, 1);
    let client = at("203.0.113.9:40000");
    bed.client(&from_client().tcp(client, at(VIP), tcp_flags::SYN, 1, b""));
    let big = vec![7; 1400];
    let out =
        bed.client(
            &from_client()
                .dont_fragment()
                .tcp(client, at(VIP), tcp_flags::ACK, 1, &big),
        );
    let [(WAN, error)] = &out[..] else {
        panic!("{} frames", out.len())
    };
    verify(error).expect("checksums");
    assert_eq!(ends(error).0.ip(), at(VIP).ip());
    assert_eq!(
        (error[34], error[35], &error[40..42]),
        (3, 4, &1000u16.to_be_bytes()[..])
    );
    assert_eq!(bed.drops(), [("too_big", 1)].into());

    let out = bed.client(&from_client().tcp(client, at(VIP), tcp_flags::ACK, 1, &big));
    assert_eq!(out.len(), 2, "split in two");
    assert!(out.iter().all(|(p, f)| *p == LAN && f.len() <= 1014));
    let payload: usize = out.iter().map(|(_, f)| f.len() - 34).sum();
    assert_eq!(payload, 20 + 1400);
    bed.check_identity();
}

#[test]
fn icmp_errors_are_translated_in_both_directions() {
    let mut bed = Bed::new(tcp_service());
    let client = at("203.0.113.9:40000");
    let syn = from_client().tcp(client, at(VIP), tcp_flags::SYN, 1, b"");
    let to_server = bed.client(&syn).remove(0).1;
    let server = ends(&to_server).1;
    // The server's side complains about the packet it got: the client sees a complaint about what it sent.
    let complaint =
        from_server("10.0.0.11").icmp_error(IcmpError::HostUnreachable, server.ip(), &to_server);
    let out = bed.server(&complaint);
    let [(WAN, error)] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(
        (ends(error).0.ip(), ends(error).1.ip()),
        (at(VIP).ip(), client.ip())
    );
    assert_eq!(
        error[42 + 16..42 + 20],
        [198, 51, 100, 1],
        "the quoted destination is the virtual address"
    );
    assert_eq!(error[42 + 22..42 + 24], 80u16.to_be_bytes(), "and its port");

    let reply =
        from_server("10.0.0.11").tcp(server, client, tcp_flags::SYN | tcp_flags::ACK, 1, b"");
    let to_client = bed.server(&reply).remove(0).1;
    let complaint = from_client().icmp_error(
        IcmpError::TooBig { mtu: 1400 },
        ip("203.0.113.1"),
        &to_client,
    );
    let before = bed.bed.connections();
    let out = bed.client(&complaint);
    let [(LAN, error)] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(ends(error).1.ip(), server.ip());
    assert_eq!(
        error[42 + 20..42 + 22],
        8080u16.to_be_bytes(),
        "the quoted source port is the server's"
    );
    assert_eq!(
        bed.bed.connections()[0].expires,
        before[0].expires,
        "no timer is touched"
    );
    bed.check_identity();
}

#[test]
fn a_stray_segment_goes_to_the_kernel_and_so_does_all_that_is_not_ours_to_balance() {
    let mut bed = Bed::new(tcp_service());
    let client = at("203.0.113.9:40000");
    assert!(
        bed.client(&from_client().tcp(client, at(VIP), tcp_flags::ACK, 1, b""))
            .is_empty()
    );
    assert!(
        bed.client(&from_client().udp(client, at(VIP), b"x"))
            .is_empty()
    );
    assert!(
        bed.client(&from_client().tcp(client, at("198.51.100.1:81"), tcp_flags::SYN, 1, b""))
            .is_empty()
    );
    assert_eq!(bed.sum(|c| c.punted.get()), 3);
    let foreign = Frame::new().macs(Mac([2, 0, 0, 0, 9, 9]), ROUTER);
    assert!(
        bed.client(&foreign.tcp(client, at(VIP), tcp_flags::SYN, 1, b""))
            .is_empty()
    );
    assert_eq!(bed.drops(), [("not_for_us", 1)].into());
    bed.check_identity();
}

#[test]
fn a_packet_waits_for_its_neighbour_and_goes_or_is_dropped() {
    let mut s = setup(tcp_service());
    s.neighbours.retain(|n| n.port == WAN);
    let mut bed = Bed::with(&s, 1);
    let syn = |n: u16| {
        let client = SocketAddr::new(ip("203.0.113.9"), 40_000 + n);
        from_client().tcp(client, at(VIP), tcp_flags::SYN, 1, b"")
    };
    for n in 0..3 {
        assert!(bed.client(&syn(n)).is_empty());
    }
    assert_eq!(bed.sum(|c| c.held.get()), 3);
    bed.check_identity();
    bed.bed
        .apply(&setup(tcp_service()))
        .expect("the neighbours are known now");
    let out = bed.taken();
    assert_eq!(out.len(), 3, "what waited goes");
    assert_eq!(bed.sum(|c| c.held.get()), 0);

    bed.bed.apply(&s).expect("forgotten again");
    assert!(bed.client(&syn(9)).is_empty());
    bed.now = sec(10);
    bed.bed.advance(bed.now);
    assert_eq!(bed.drops(), [("neighbour_unresolved", 1)].into());
    bed.check_identity();
    assert_eq!(bed.bed.buffers_in_use(), 0);
}

#[test]
fn connections_end_when_their_time_is_over_and_counts_are_what_a_walk_gives() {
    let mut bed = Bed::with(&setup(tcp_service()), 2);
    for n in 0..90u16 {
        let client = SocketAddr::new(ip("203.0.113.9"), 40_000 + n);
        bed.client(&from_client().tcp(client, at(VIP), tcp_flags::SYN, 1, b""));
        if n % 3 == 0 {
            bed.client(&from_client().tcp(client, at(VIP), tcp_flags::FIN, 1, b""));
        }
    }
    let snapshot = bed.bed.snapshot();
    for d in &snapshot
        .services_in_order()
        .next()
        .expect("a service")
        .dests
    {
        assert_eq!(
            (d.shared.active(), d.shared.total()),
            bed.bed.walk(d.id),
            "{}",
            d.name
        );
    }
    bed.bed.advance(sec(59));
    assert_eq!(bed.bed.connections().len(), 90);
    bed.bed.advance(sec(61));
    // A client's FIN in SYN_RECV leads to TIME_WAIT (specification §7.1), 120 s.
    assert_eq!(bed.bed.connections().len(), 30);
    bed.bed.advance(sec(121));
    assert_eq!(bed.bed.connections().len(), 0);
    for d in &snapshot
        .services_in_order()
        .next()
        .expect("a service")
        .dests
    {
        assert_eq!((d.shared.active(), d.shared.total()), (0, 0), "{}", d.name);
    }
}

#[test]
fn a_syn_in_time_wait_starts_afresh_without_being_lost() {
    let mut bed = Bed::new(tcp_service());
    let client = at("203.0.113.9:40000");
    let send =
        |bed: &mut Bed, flags| bed.client(&from_client().tcp(client, at(VIP), flags, 1, b""));
    let first = ends(&send(&mut bed, tcp_flags::SYN)[0].1).1;
    send(&mut bed, tcp_flags::FIN);
    let again = send(&mut bed, tcp_flags::SYN);
    let second = ends(&again[0].1).1;
    assert_ne!(first, second, "scheduled anew");
    assert_eq!(bed.bed.connections().len(), 1);
}

#[test]
fn a_removed_server_loses_its_udp_flows_at_their_next_packet() {
    let vip = "198.51.100.1:53";
    let all = vec![service(proto::UDP, vip, three())];
    let mut bed = Bed::new(all.clone());
    let client = at("203.0.113.9:4000");
    let ask = |bed: &mut Bed| {
        ends(&bed.client(&from_client().udp(client, at(vip), b"?"))[0].1)
            .1
            .ip()
    };
    let first = ask(&mut bed);
    assert_eq!(ask(&mut bed), first);
    let mut without = all;
    without[0].servers.retain(|s| s.addr != first);
    bed.bed.apply(&setup(without.clone())).expect("applied");
    let second = ask(&mut bed);
    assert_ne!(second, first);
    // Maintenance is the same, and draining is not.
    without[0]
        .servers
        .iter_mut()
        .find(|s| s.addr == second)
        .expect("there")
        .admin = AdminState::Drain;
    bed.bed.apply(&setup(without.clone())).expect("applied");
    assert_eq!(ask(&mut bed), second, "a draining server keeps what it has");
    without[0]
        .servers
        .iter_mut()
        .find(|s| s.addr == second)
        .expect("there")
        .admin = AdminState::Maint;
    bed.bed.apply(&setup(without)).expect("applied");
    assert_ne!(ask(&mut bed), second);
    assert_eq!(bed.bed.connections().len(), 1);
}

#[test]
fn a_reload_that_changes_nothing_changes_nothing() {
    let mut bed = Bed::new(tcp_service());
    let mut order = Vec::new();
    for n in 0..12u16 {
        let client = SocketAddr::new(ip("203.0.113.9"), 40_000 + n);
        let out = bed.client(&from_client().tcp(client, at(VIP), tcp_flags::SYN, 1, b""));
        order.push(ends(&out[0].1).1.ip());
        bed.bed.apply(&setup(tcp_service())).expect("applied");
    }
    assert_eq!(order[..3], order[3..6], "round-robin goes on where it was");
    assert_eq!(order[..6], order[6..]);
    assert_eq!(bed.bed.connections().len(), 12);
}

#[test]
fn the_full_table_drops_new_flows_and_keeps_established_ones() {
    let sizes = Sizes {
        connections: 8,
        ..SIZES
    };
    let s = setup(tcp_service());
    let mut bed = Bed::sized(&s, 1, &sizes);
    let client = |n: u16| SocketAddr::new(ip("203.0.113.9"), 40_000 + n);
    for n in 0..8 {
        bed.client(&from_client().tcp(client(n), at(VIP), tcp_flags::SYN, 1, b""));
        bed.client(&from_client().tcp(client(n), at(VIP), tcp_flags::ACK, 1, b""));
    }
    let before = bed.bed.connections();
    bed.client(&from_client().tcp(client(100), at(VIP), tcp_flags::SYN, 1, b""));
    assert_eq!(bed.drops(), [("table_full", 1)].into());
    let clients =
        |rows: &[polder::worker::ConnRow]| rows.iter().map(|r| r.client).collect::<Vec<_>>();
    assert_eq!(clients(&bed.bed.connections()), clients(&before));
    let dests = bed.bed.snapshot();
    let total: u32 = dests
        .services_in_order()
        .next()
        .expect("one")
        .dests
        .iter()
        .map(|d| d.shared.total())
        .sum();
    assert_eq!(total, 8, "a refused connection is not counted");
}

#[test]
fn hostile_frames_never_panic_and_always_meet_one_fate() {
    let mut bed = Bed::with(&setup(tcp_service()), 2);
    let good = from_client().tcp(
        at("203.0.113.9:40000"),
        at(VIP),
        tcp_flags::SYN,
        1,
        b"payload",
    );
    bed.endure(&good);
}
