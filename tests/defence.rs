//! Defences against floods, packet by packet in virtual time: what is dropped, what is spared, what goes on without a
//! connection (specification §2.9, §2.10, §7.2, §8.4, §8.6).

mod bed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bed::*;
use polder::forward::defence::{Mode, Sysctls};
use polder::forward::{DestDef, Service, ServiceDef, Setup, Timeouts};
use polder::net::build::verify;
use polder::net::icmp::IcmpError;
use polder::net::packet::{proto, tcp_flags};
use polder::table::Method;
use polder::worker::assemble::Sizes;
use proptest::prelude::*;

const SYN: u8 = tcp_flags::SYN;
const ACK: u8 = tcp_flags::ACK;
const FIN: u8 = tcp_flags::FIN;
const RST: u8 = tcp_flags::RST;

const DNS: &str = "198.51.100.1:53";

fn guarded(services: Vec<ServiceDef>, sysctls: Sysctls) -> Setup {
    Setup {
        sysctls,
        ..setup(services)
    }
}

fn dns() -> ServiceDef {
    ServiceDef {
        name: "dns".into(),
        ..service(proto::UDP, DNS, vec![dest("10.0.0.11", 53)])
    }
}

fn by(method: Method) -> Vec<DestDef> {
    let one = |d: DestDef| DestDef {
        method,
        port: 80,
        ..d
    };
    three().into_iter().map(one).collect()
}

/// No connection ends by timeout.
fn patient() -> Timeouts {
    let day = Duration::from_secs(86_400);
    Timeouts {
        tcp_none: day,
        tcp_established: day,
        tcp_syn_sent: day,
        tcp_syn_recv: day,
        tcp_fin_wait: day,
        tcp_time_wait: day,
        tcp_close: day,
        tcp_close_wait: day,
        tcp_last_ack: day,
        tcp_listen: day,
        tcp_synack: day,
        udp: day,
        ..Timeouts::default()
    }
}

impl Bed {
    fn tcp(&mut self, n: u16, flags: u8) -> Out {
        self.client(&from_client().tcp(client(n), at(VIP), flags, 1, b""))
    }

    fn udp(&mut self, n: u16) -> Out {
        self.client(&from_client().udp(client(n), at(DNS), b"q"))
    }

    fn ports(&mut self) -> Vec<u16> {
        let rows = self.bed.connections();
        let mut ports: Vec<u16> = rows.iter().map(|r| r.client.1 - 10_000).collect();
        ports.sort_unstable();
        ports
    }

    fn first_service(&self) -> Arc<Service> {
        let snapshot = self.bed.snapshot();
        Arc::clone(snapshot.services_in_order().next().expect("one"))
    }

    fn apply(&mut self, setup: &Setup) {
        self.bed.apply(setup).expect("a set-up");
    }
}

/// What a router says of a packet that a client is sent directly.
fn error_about(n: u16) -> Vec<u8> {
    let sent = from_server("10.0.0.11").tcp(at(VIP), client(n), ACK, 1, &[0; 200]);
    from_client().icmp_error(IcmpError::TooBig { mtu: 1300 }, ip("203.0.113.254"), &sent)
}

/// The server that a packet left to, by its MAC address: with direct routing the addresses stay.
fn server_of(out: &Out) -> u8 {
    let [(LAN, frame)] = &out[..] else {
        panic!("one frame to a server: {out:?}")
    };
    macs(frame).0.0[5]
}

mod drop_packet {
    use super::*;

    /// One packet in `rate` is dropped, always.
    fn one_in(rate: u32) -> Sysctls {
        Sysctls {
            drop_packet: Mode::Always,
            am_droprate: rate,
            ..Sysctls::default()
        }
    }

    #[test]
    fn one_in_so_many_packets_that_need_a_server_is_dropped_and_no_other() {
        let mut bed = Bed::with(&guarded(tcp_service(), one_in(3)), 1);
        let passed: Vec<bool> = (0..9).map(|n| !bed.tcp(n, SYN).is_empty()).collect();
        let (y, n) = (true, false);
        assert_eq!(passed, [y, y, n, y, y, n, y, y, n]);
        for _ in 0..10 {
            assert_eq!(bed.tcp(0, ACK).len(), 1, "a connection's packets pass");
        }
        assert_eq!(bed.drops(), [("overload", 3)].into());
        let id = bed.first_service().id;
        assert_eq!(bed.sum(|c| c.service(id).rejected_overload.get()), 3);
        bed.check_identity();
    }

    #[test]
    fn one_packet_datagrams_each_need_a_server() {
        let service = ServiceDef {
            one_packet: true,
            ..dns()
        };
        let mut bed = Bed::with(&guarded(vec![service], one_in(2)), 1);
        let passed = (0..10).filter(|_| !bed.udp(1).is_empty()).count();
        assert_eq!(passed, 5);
    }

    #[test]
    fn packets_of_no_service_do_not_count() {
        let mut bed = Bed::with(&guarded(tcp_service(), one_in(2)), 1);
        assert_eq!(bed.tcp(0, SYN).len(), 1);
        for _ in 0..5 {
            bed.udp(0);
            bed.tcp(9, ACK);
        }
        assert!(bed.tcp(1, SYN).is_empty(), "the second one");
        assert_eq!(bed.drops(), [("overload", 1)].into());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// The oracle counts down as specification §2.9 says.
        #[test]
        fn every_packet_meets_its_fate_by_the_counter(
            rate in 1..6u32,
            clients in proptest::collection::vec(0..40u16, 1..120),
        ) {
            let mut bed = Bed::with(&guarded(vec![dns()], one_in(rate)), 1);
            let (mut known, mut counter) = (std::collections::BTreeSet::new(), rate);
            for n in clients {
                let passes = known.contains(&n) || {
                    counter -= 1;
                    let drop = counter == 0;
                    if drop {
                        counter = rate;
                    } else {
                        known.insert(n);
                    }
                    !drop
                };
                prop_assert_eq!(bed.udp(n).len(), usize::from(passes));
            }
        }
    }

    #[test]
    fn automatic_mode_drops_the_more_the_fuller_the_table_is_and_stops_when_it_is_not() {
        let sizes = Sizes {
            connections: 100,
            ..SIZES
        };
        let sysctls = Sysctls {
            drop_packet: Mode::Automatic,
            amemthresh: 40,
            ..Sysctls::default()
        };
        let mut setup = guarded(vec![dns()], sysctls);
        setup.timeouts.udp = Duration::from_secs(30);
        let mut bed = Bed::sized(&setup, 1, &sizes);
        (0..60).for_each(|n| assert_eq!(bed.udp(n).len(), 1));
        bed.pass(2);
        assert_eq!(bed.bed.plane().free_entries(), 40);
        assert_eq!(
            bed.bed.plane().defence.active.get().drop_rate,
            0,
            "not below"
        );
        (60..80).for_each(|n| assert_eq!(bed.udp(n).len(), 1, "a second is not over"));
        bed.pass(2);
        assert_eq!(bed.bed.plane().defence.active.get().drop_rate, 2);
        let passed = (80..100).filter(|n| !bed.udp(*n).is_empty()).count();
        assert_eq!(passed, 10);
        bed.pass(2);
        let rate = bed.bed.plane().defence.active.get().drop_rate;
        assert_eq!(
            rate,
            1,
            "40 / (40 - 10): {} free",
            bed.bed.plane().free_entries()
        );
        assert!(
            bed.udp(200).is_empty() && bed.udp(201).is_empty(),
            "all of them"
        );
        assert_eq!(bed.udp(0).len(), 1, "but not those of connections");
        bed.pass(40);
        bed.pass(2);
        assert_eq!(bed.bed.plane().defence.active.get().drop_rate, 0);
        (300..320).for_each(|n| assert_eq!(bed.udp(n).len(), 1));
    }
}

mod drop_entry {
    use super::*;

    fn always() -> Sysctls {
        Sysctls {
            drop_entry: Mode::Always,
            ..Sysctls::default()
        }
    }

    /// Makes the defence hold that was off while connections were made.
    fn begin(bed: &mut Bed, services: Vec<ServiceDef>) {
        bed.apply(&Setup {
            timeouts: patient(),
            ..guarded(services, always())
        });
    }

    fn quiet(services: Vec<ServiceDef>) -> Bed {
        Bed::with(
            &Setup {
                timeouts: patient(),
                ..setup(services)
            },
            1,
        )
    }

    /// With a defence that holds from the beginning, in some mode.
    fn watched(drop_entry: Mode, amemthresh: u64) -> Bed {
        let sysctls = Sysctls {
            drop_entry,
            amemthresh,
            ..Sysctls::default()
        };
        let mut setup = guarded(vec![dns()], sysctls);
        setup.timeouts = patient();
        Bed::with(&setup, 1)
    }

    /// Reply of the only server.
    fn reply(bed: &mut Bed, n: u16, flags: u8) {
        let frame = from_server("10.0.0.11").tcp(at("10.0.0.11:8080"), client(n), flags, 1, b"");
        assert_eq!(bed.server(&frame).len(), 1);
    }

    #[test]
    fn entries_end_by_the_table() {
        let services = || {
            let web = service(proto::TCP, VIP, vec![dest("10.0.0.11", 8080)]);
            vec![web, dns()]
        };
        let mut bed = quiet(services());
        // Half-open.
        bed.tcp(1, SYN);
        // Established with 2 packets, with 9, closing.
        bed.tcp(2, SYN);
        bed.tcp(2, ACK);
        bed.tcp(3, SYN);
        (0..8).for_each(|_| {
            bed.tcp(3, ACK);
        });
        bed.tcp(4, SYN);
        reply(&mut bed, 4, SYN | ACK);
        bed.tcp(4, ACK);
        bed.tcp(4, FIN | ACK);
        reply(&mut bed, 4, FIN | ACK);
        bed.tcp(5, SYN);
        bed.tcp(5, ACK);
        bed.tcp(5, RST);
        // UDP with 1 packet, 2, 8 and 9.
        for (n, packets) in [(11, 1), (12, 2), (18, 8), (19, 9)] {
            (0..packets).for_each(|_| {
                bed.udp(n);
            });
        }
        assert_eq!(bed.ports(), [1, 2, 3, 4, 5, 11, 12, 18, 19]);
        begin(&mut bed, services());
        bed.pass(58);
        let left = bed.ports();
        for n in [2, 3, 4, 5, 11, 12, 18, 19] {
            assert!(left.contains(&n), "{n} is spared for a minute: {left:?}");
        }
        // Every entry is met once in 32 s on average; 8 times are needed for the last.
        bed.pass(1200);
        assert_eq!(bed.ports(), [3, 4, 5, 19]);
        assert_eq!(bed.sum(|c| c.dropped_entries.get()), 5);
        let snapshot = bed.bed.snapshot();
        for d in snapshot.services_in_order().flat_map(|s| &s.dests) {
            let counts = (d.shared.active(), d.shared.total());
            assert_eq!(counts, bed.bed.walk(d.id), "{}", d.name);
        }
    }

    #[test]
    fn what_is_in_use_is_spared() {
        let mut bed = quiet(vec![dns()]);
        bed.udp(1);
        begin(&mut bed, vec![dns()]);
        for _ in 0..6 {
            bed.pass(55);
            bed.udp(1);
        }
        assert_eq!(bed.ports(), [1]);
    }

    #[test]
    fn a_second_sees_one_entry_in_32() {
        let mut bed = quiet(vec![dns()]);
        for n in 0..4096u16 {
            bed.udp(n);
        }
        bed.pass(100);
        begin(&mut bed, vec![dns()]);
        let lost = |bed: &mut Bed| {
            let before = bed.bed.connections().len();
            bed.now = bed.now.plus(sec(1).0);
            bed.bed.advance(bed.now);
            before - bed.bed.connections().len()
        };
        // The one that began when the defence did, too.
        let first = 4096 - bed.bed.connections().len();
        assert!((127..=129).contains(&first), "{first}");
        let second = lost(&mut bed);
        assert!((1..=129).contains(&second), "{second}");
    }

    #[test]
    fn nothing_ends_when_it_is_off_or_memory_is_there() {
        for mode in [Mode::Off, Mode::Automatic] {
            let mut bed = watched(mode, 4000);
            (0..50).for_each(|n| {
                bed.udp(n);
            });
            bed.pass(400);
            assert_eq!(bed.ports().len(), 50, "{mode:?}");
        }
    }

    #[test]
    fn automatic_mode_works_until_there_is_memory_again() {
        let mut bed = watched(Mode::Automatic, 3096);
        (0..2000).for_each(|n| {
            bed.udp(n);
        });
        bed.pass(200);
        let left = bed.ports().len();
        assert!((700..=1000).contains(&left), "{left}: 1000 leave 3096 free");
        assert!(!bed.bed.plane().defence.active.get().drop_entry);
    }

    fn persistent() -> ServiceDef {
        ServiceDef {
            persistence: Some(persistence(86_400)),
            ..service(proto::TCP, VIP, vec![dest("10.0.0.11", 8080)])
        }
    }

    #[test]
    fn a_template_that_was_made_for_a_dropped_connection_goes_with_it_and_an_assured_one_stays() {
        let mut bed = quiet(vec![persistent()]);
        let syn = |bed: &mut Bed, from: &str, flags| {
            bed.client(&from_client().tcp(at(from), at(VIP), flags, 1, b""))
        };
        syn(&mut bed, "203.0.113.1:1000", SYN);
        syn(&mut bed, "203.0.113.2:1000", SYN);
        syn(&mut bed, "203.0.113.2:1000", ACK);
        syn(&mut bed, "203.0.113.2:1000", RST);
        syn(&mut bed, "203.0.113.2:1001", SYN);
        assert_eq!(bed.bed.templates().len(), 2);
        begin(&mut bed, vec![persistent()]);
        bed.pass(1000);
        assert_eq!(bed.bed.connections().len(), 1, "the closed one is kept");
        let left = bed.bed.templates();
        assert_eq!((left.len(), left[0].assured), (1, true));
        assert_eq!(bed.sum(|c| c.dropped_templates.get()), 1);
        let dest = &bed.first_service().dests[0];
        assert_eq!(dest.shared.persistent(), 1);
    }

    #[test]
    fn a_template_that_controls_nothing_goes_unless_it_is_assured() {
        let mut bed = quiet(vec![persistent()]);
        // It ends by RST before it was established: the template stays behind, and nobody assured it.
        let mut short = Setup {
            timeouts: patient(),
            ..setup(vec![persistent()])
        };
        short.timeouts.tcp_syn_recv = Duration::from_secs(1);
        bed.apply(&short);
        bed.tcp(1, SYN);
        bed.pass(3);
        assert_eq!(
            (bed.bed.connections().len(), bed.bed.templates().len()),
            (0, 1)
        );
        begin(&mut bed, vec![persistent()]);
        // Nothing holds the virtual clock to a tick when there is no connection.
        for _ in 0..400 {
            bed.pass(1);
        }
        assert_eq!(bed.bed.templates().len(), 0);
        assert_eq!(bed.bed.plane().defence.dropped_templates.get(), 1);
    }
}

mod secure_tcp {
    use super::*;

    /// Specification §7.2, and the states' order.
    const STATES: [&str; 11] = [
        "NO", "ES", "SS", "SR", "FW", "TW", "CL", "CW", "LA", "LI", "SA",
    ];
    const ROWS: [(&str, u8, &str); 12] = [
        ("in", SYN, "SR ES ES SR SR SR SR SR SR SR SA"),
        ("in", FIN, "CL CW SS TW TW TW CL CW LA LI SA"),
        ("in", ACK, "ES ES SS SR FW TW CL CW CL LI SA"),
        ("in", RST, "CL CL CL SR CL CL CL CL LA LI CL"),
        ("out", SYN, "SS ES SS SA SS SS SS SS SS LI SA"),
        ("out", FIN, "TW FW SS TW FW TW CL TW LA LI TW"),
        ("out", ACK, "ES ES SS ES FW TW CL CW LA ES ES"),
        ("out", RST, "CL CL SS CL CL TW CL CL CL CL CL"),
        ("only", SYN, "SA ES ES SR SA SA SA SA SA SA SA"),
        ("only", FIN, "CL FW SS TW FW TW CL CW LA LI TW"),
        ("only", ACK, "ES ES SS ES FW TW CL CW CL LI ES"),
        ("only", RST, "CL CL CL SR CL CL CL CL LA LI CL"),
    ];

    fn next(row: &str, flag: u8, from: &str) -> &'static str {
        let column = STATES.iter().position(|s| *s == from).expect("a state");
        let (_, _, cells) = ROWS
            .iter()
            .find(|(r, f, _)| (*r, *f) == (row, flag))
            .expect("a row");
        cells.split(' ').nth(column).expect("a cell")
    }

    fn bed(mode: Mode, method: Method) -> Bed {
        let server = DestDef {
            method,
            ..dest("10.0.0.11", if method == Method::Masq { 8080 } else { 80 })
        };
        Bed::with(&secure(mode, server), 1)
    }

    fn secure(mode: Mode, server: DestDef) -> Setup {
        let sysctls = Sysctls {
            secure_tcp: mode,
            ..Sysctls::default()
        };
        Setup {
            timeouts: patient(),
            ..guarded(vec![service(proto::TCP, VIP, vec![server])], sysctls)
        }
    }

    fn state(bed: &mut Bed) -> &'static str {
        let rows = bed.bed.connections();
        assert_eq!(rows.len(), 1);
        STATES[usize::from(rows[0].state)]
    }

    fn reply(bed: &mut Bed, flags: u8) {
        bed.server(&from_server("10.0.0.11").tcp(at("10.0.0.11:8080"), client(1), flags, 1, b""));
    }

    #[test]
    fn a_masqueraded_connection_is_established_by_its_servers_ack() {
        let mut bed = bed(Mode::Always, Method::Masq);
        bed.tcp(1, SYN);
        assert_eq!(state(&mut bed), "SR");
        reply(&mut bed, SYN | ACK);
        assert_eq!(state(&mut bed), "SA");
        bed.tcp(1, ACK);
        assert_eq!(state(&mut bed), "SA");
        reply(&mut bed, ACK);
        assert_eq!(state(&mut bed), "ES");
    }

    #[test]
    fn it_is_switched_at_run_time_for_connections_that_there_are() {
        let server = dest("10.0.0.11", 8080);
        let mut bed = bed(Mode::Off, Method::Masq);
        bed.tcp(1, SYN);
        reply(&mut bed, SYN | ACK);
        assert_eq!(state(&mut bed), "SR");
        bed.apply(&secure(Mode::Always, server.clone()));
        reply(&mut bed, SYN | ACK);
        assert_eq!(state(&mut bed), "SA");
        bed.apply(&secure(Mode::Off, server));
        bed.tcp(1, ACK);
        assert_eq!(state(&mut bed), "ES");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn masqueraded_packets_walk_the_table(
            steps in proptest::collection::vec((any::<bool>(), 0..4usize), 1..40),
        ) {
            let flags = [SYN, FIN, ACK, RST];
            let mut bed = bed(Mode::Always, Method::Masq);
            bed.tcp(1, SYN);
            let mut want = next("in", SYN, "NO");
            for (from_client, i) in steps {
                if from_client {
                    bed.tcp(1, flags[i]);
                    let anew = flags[i] == SYN && matches!(want, "TW" | "CL");
                    want = next("in", flags[i], if anew { "NO" } else { want });
                } else {
                    reply(&mut bed, flags[i]);
                    want = next("out", flags[i], want);
                }
                prop_assert_eq!(state(&mut bed), want);
            }
        }

        #[test]
        fn packets_of_direct_routing_walk_the_table(
            steps in proptest::collection::vec(0..4usize, 1..30),
        ) {
            let flags = [SYN, FIN, ACK, RST];
            let mut bed = bed(Mode::Always, Method::Direct);
            bed.tcp(1, SYN);
            let mut want = next("only", SYN, "NO");
            prop_assert_eq!(want, "SA");
            for i in steps {
                bed.tcp(1, flags[i]);
                let anew = flags[i] == SYN && matches!(want, "TW" | "CL");
                want = next("only", flags[i], if anew { "NO" } else { want });
                prop_assert_eq!(state(&mut bed), want);
            }
        }
    }
}

mod limit {
    use super::*;

    fn limited(proto_: u8, vip: &str, servers: Vec<DestDef>, limit: u32) -> ServiceDef {
        ServiceDef {
            new_connections_per_second: limit,
            ..service(proto_, vip, servers)
        }
    }

    fn web(method: Method, limit: u32) -> Vec<ServiceDef> {
        vec![limited(proto::TCP, VIP, by(method), limit)]
    }

    fn unremembered(bed: &Bed) -> u64 {
        let id = bed.first_service().id;
        bed.sum(|c| c.service(id).unremembered.get())
    }

    #[test]
    fn flows_above_the_limit_go_to_servers_and_leave_no_connection() {
        let mut bed = Bed::new(web(Method::Direct, 10));
        let mut shares = BTreeMap::new();
        for n in 0..310 {
            let server = server_of(&bed.tcp(n, SYN));
            if n >= 10 {
                *shares.entry(server).or_insert(0) += 1;
            }
        }
        assert_eq!(bed.ports(), (0..10).collect::<Vec<_>>());
        assert_eq!(unremembered(&bed), 300);
        assert!(shares.values().all(|n| (70..130).contains(n)), "{shares:?}");
        assert_eq!(bed.drops(), BTreeMap::new());
        bed.check_identity();
    }

    #[test]
    fn what_follows_the_syn_of_such_a_flow_goes_to_the_same_server() {
        for (method, workers) in [
            (Method::Direct, 1),
            (Method::Direct, 3),
            (Method::Tunnel, 2),
        ] {
            let mut bed = Bed::with(&setup(web(method, 6)), workers);
            let first: Vec<u8> = (0..60).map(|n| server_of(&bed.tcp(n, SYN))).collect();
            for flags in [ACK, ACK, SYN, FIN | ACK, RST] {
                for (n, server) in (0..60).zip(&first) {
                    assert_eq!(
                        server_of(&bed.tcp(n, flags)),
                        *server,
                        "client {n}, {flags:#x}"
                    );
                }
            }
            assert!(unremembered(&bed) >= 54);
            bed.check_identity();
        }
    }

    #[test]
    fn such_a_flow_is_remembered_on_its_server_as_soon_as_the_limit_allows() {
        let mut bed = Bed::new(web(Method::Direct, 10));
        let first: Vec<u8> = (0..40).map(|n| server_of(&bed.tcp(n, SYN))).collect();
        for second in 1..=4u16 {
            bed.pass(1);
            for n in 0..40 {
                assert_eq!(server_of(&bed.tcp(n, ACK)), first[usize::from(n)]);
            }
            let want = 40.min(10 * (second + 1));
            assert_eq!(bed.bed.connections().len(), usize::from(want));
        }
        let rows = bed.bed.connections();
        assert!(
            rows.iter().all(|r| r.state == 1 || r.client.1 < 10_010),
            "established"
        );
        for d in &bed.first_service().dests {
            assert_eq!((d.shared.active(), d.shared.total()), bed.bed.walk(d.id));
        }
    }

    #[test]
    fn without_such_flows_a_packet_amid_is_still_the_kernels() {
        let mut bed = Bed::new(web(Method::Direct, 10));
        bed.tcp(1, SYN);
        let punted = |bed: &Bed| bed.sum(|c| c.punted.get());
        assert!(bed.tcp(2, ACK).is_empty());
        assert_eq!(punted(&bed) + bed.drops().values().sum::<u64>(), 1);
        // 15 minutes after the last such flow nobody expects it any more.
        (10..30).for_each(|n| {
            bed.tcp(n, SYN);
        });
        bed.pass(899);
        assert_eq!(bed.tcp(29, ACK).len(), 1);
        bed.pass(2);
        assert!(bed.tcp(28, ACK).is_empty());
    }

    #[test]
    fn the_limit_is_the_workers_together() {
        for workers in [1, 2, 4] {
            let mut bed = Bed::with(&setup(web(Method::Direct, 100)), workers);
            (0..1000).for_each(|n| {
                bed.tcp(n, SYN);
            });
            assert_eq!(bed.bed.connections().len(), 100, "{workers} workers");
        }
    }

    #[test]
    fn a_masqueraded_flow_above_the_limit_is_refused() {
        let mut bed = Bed::new(web(Method::Masq, 5));
        let passed = (0..20).filter(|n| !bed.tcp(*n, SYN).is_empty()).count();
        assert_eq!((passed, bed.drops()), (5, [("overload", 15)].into()));
        assert_eq!(unremembered(&bed), 0);
        bed.pass(1);
        assert_eq!(bed.tcp(19, SYN).len(), 1, "its next attempt");
        bed.check_identity();
    }

    #[test]
    fn what_sloppy_tcp_lets_begin_a_connection_counts_against_the_limit() {
        let sloppy = |method| {
            let mut setup = setup(web(method, 5));
            setup.switches.sloppy_tcp = true;
            setup
        };
        let mut bed = Bed::with(&sloppy(Method::Masq), 1);
        let passed = (0..20).filter(|n| !bed.tcp(*n, ACK).is_empty()).count();
        assert_eq!((passed, bed.drops()), (5, [("overload", 15)].into()));
        let mut bed = Bed::with(&sloppy(Method::Direct), 1);
        let first: Vec<u8> = (0..20).map(|n| server_of(&bed.tcp(n, ACK))).collect();
        assert_eq!(bed.ports(), [0, 1, 2, 3, 4]);
        assert_eq!(unremembered(&bed), 15);
        bed.pass(1);
        for n in (0..20).rev() {
            assert_eq!(server_of(&bed.tcp(n, ACK)), first[usize::from(n)]);
        }
        assert_eq!(bed.ports(), [0, 1, 2, 3, 4, 15, 16, 17, 18, 19]);
        bed.check_identity();
    }

    #[test]
    fn a_persistent_flow_above_the_limit_is_refused() {
        let service = ServiceDef {
            persistence: Some(persistence(60)),
            ..web(Method::Direct, 5).remove(0)
        };
        let mut bed = Bed::new(vec![service]);
        let passed = (0..20).filter(|n| !bed.tcp(*n, SYN).is_empty()).count();
        assert_eq!((passed, bed.drops()), (5, [("overload", 15)].into()));
    }

    #[test]
    fn udp_flows_stay_on_their_server_when_the_limit_allows_again() {
        let servers = || {
            by(Method::Direct)
                .into_iter()
                .map(|d| DestDef { port: 53, ..d })
        };
        let mut bed = Bed::new(vec![limited(proto::UDP, DNS, servers().collect(), 10)]);
        let first: Vec<u8> = (0..40).map(|n| server_of(&bed.udp(n))).collect();
        for _ in 0..5 {
            bed.pass(1);
            for n in 0..40 {
                assert_eq!(server_of(&bed.udp(n)), first[usize::from(n)], "client {n}");
            }
        }
        assert_eq!(bed.bed.connections().len(), 40);
    }

    #[test]
    fn a_flow_that_goes_on_keeps_its_server_however_long_the_crowd_is_there() {
        let servers = by(Method::Direct)
            .into_iter()
            .map(|d| DestDef { port: 53, ..d });
        let mut bed = Bed::new(vec![limited(proto::UDP, DNS, servers.collect(), 1)]);
        let crowd = |bed: &mut Bed, n: u16| {
            bed.udp(1000 + n);
        };
        crowd(&mut bed, 0);
        let server = server_of(&bed.udp(1));
        for n in 1..60 {
            bed.pass(20);
            crowd(&mut bed, n);
            assert_eq!(server_of(&bed.udp(1)), server, "after {} s", n * 20);
        }
        assert!(
            bed.ports().iter().all(|n| *n != 1),
            "it is not remembered yet"
        );
        assert_eq!(unremembered(&bed), 60);
    }

    #[test]
    fn a_reset_of_such_a_flow_is_passed_on_and_makes_no_connection() {
        let mut bed = Bed::new(web(Method::Direct, 1));
        bed.tcp(1, SYN);
        let server = server_of(&bed.tcp(2, SYN));
        bed.pass(2);
        assert_eq!(server_of(&bed.tcp(2, RST)), server);
        assert_eq!(bed.ports(), [1]);
    }

    #[test]
    fn a_servers_leaving_moves_few_flows_but_its_own() {
        let mut bed = Bed::new(web(Method::Direct, 1));
        let first: Vec<u8> = (0..300).map(|n| server_of(&bed.tcp(n, SYN))).collect();
        let mut left = web(Method::Direct, 1);
        left[0].servers.remove(0);
        bed.apply(&setup(left));
        let moved = (1..300u16).filter(|n| server_of(&bed.tcp(*n, ACK)) != first[usize::from(*n)]);
        let own = first[1..].iter().filter(|s| **s == 11).count();
        let moved = moved.count();
        assert!(
            (own..own + 20).contains(&moved),
            "{moved} moved, {own} had to"
        );
    }

    #[test]
    fn a_server_at_its_threshold_gets_no_such_flow() {
        let mut servers = by(Method::Direct);
        servers.truncate(1);
        servers[0].upper_threshold = 5;
        let mut bed = Bed::new(vec![limited(proto::TCP, VIP, servers, 5)]);
        (0..5).for_each(|n| assert_eq!(bed.tcp(n, SYN).len(), 1));
        assert!(bed.tcp(5, SYN).is_empty());
        assert_eq!(bed.drops(), [("overload", 1)].into());
    }

    #[test]
    fn errors_about_such_a_flow_go_to_its_server() {
        let mut bed = Bed::new(web(Method::Direct, 1));
        bed.tcp(1, SYN);
        let server = server_of(&bed.tcp(2, SYN));
        let error = error_about(2);
        assert_eq!(server_of(&bed.client(&error)), server);
    }
}

mod icmp_and_mtu {
    use super::*;

    #[test]
    fn a_servers_packet_of_no_connection_is_answered_when_nat_icmp_send_says_so() {
        let frame = |flags| {
            from_server("10.0.0.11").tcp(at("10.0.0.11:8080"), client(1), flags, 1, b"late")
        };
        for workers in [1, 3] {
            let off = setup(tcp_service());
            let on = guarded(
                tcp_service(),
                Sysctls {
                    nat_icmp_send: true,
                    ..Sysctls::default()
                },
            );
            let mut bed = Bed::with(&off, workers);
            assert!(bed.server(&frame(ACK)).is_empty(), "the kernel's");
            bed.apply(&on);
            let before = bed.drops();
            let out = bed.server(&frame(ACK));
            let [(LAN, error)] = &out[..] else {
                panic!("{out:?}")
            };
            verify(error).expect("checksums");
            assert_eq!((error[34], error[35]), (3, 3), "port unreachable");
            assert_eq!(ends(error).1.ip(), ip("10.0.0.11"));
            assert_eq!(bed.drops().get("no_connection"), Some(&1), "{before:?}");
            assert!(bed.server(&frame(RST)).is_empty(), "no answer to a RST");
            assert_eq!(bed.drops().get("no_connection"), Some(&1));
        }
    }

    #[test]
    fn schedule_icmp_makes_a_connection_of_three_seconds_for_an_error_about_none() {
        for method in [Method::Masq, Method::Direct] {
            let services = || {
                let port = if method == Method::Masq { 8080 } else { 80 };
                let server = DestDef {
                    method,
                    ..dest("10.0.0.11", port)
                };
                vec![service(proto::TCP, VIP, vec![server])]
            };
            let error = error_about(1);
            let mut bed = Bed::new(services());
            assert!(bed.client(&error).is_empty(), "the kernel's");
            bed.apply(&guarded(
                services(),
                Sysctls {
                    schedule_icmp: true,
                    ..Sysctls::default()
                },
            ));
            let out = bed.client(&error);
            assert_eq!(server_of(&out), 11, "{method:?}");
            verify(&out[0].1).expect("checksums");
            let rows = bed.bed.connections();
            assert_eq!((rows.len(), rows[0].state, rows[0].expires), (1, 0, 300));
            assert_eq!(
                (rows[0].client, rows[0].virtual_.1),
                ((client(1).ip(), 10_001), 80)
            );
            bed.pass(4);
            assert!(bed.bed.connections().is_empty());
        }
    }

    #[test]
    fn an_error_for_which_there_is_no_server_is_dropped_without_an_answer() {
        let services = vec![service(proto::TCP, VIP, Vec::new())];
        let sysctls = Sysctls {
            schedule_icmp: true,
            ..Sysctls::default()
        };
        let mut bed = Bed::with(&guarded(services, sysctls), 1);
        let error = error_about(1);
        assert!(bed.client(&error).is_empty());
        assert_eq!(bed.drops(), [("no_server", 1)].into());
    }

    #[test]
    fn without_pmtu_disc_what_is_too_large_for_a_tunnel_is_split_outside() {
        let services = || vec![service(proto::TCP, VIP, by(Method::Tunnel))];
        let syn = from_client()
            .dont_fragment()
            .tcp(client(1), at(VIP), SYN, 1, &[7; 1460]);
        let mut bed = Bed::new(services());
        let out = bed.client(&syn);
        assert!(matches!(&out[..], [(WAN, _)]), "only the error: {out:?}");
        assert_eq!(bed.drops(), [("too_big", 1)].into());
        let off = Sysctls {
            pmtu_disc: false,
            ..Sysctls::default()
        };
        let mut bed = Bed::with(&guarded(services(), off), 1);
        let out = bed.client(&syn);
        assert_eq!(out.len(), 2, "two pieces");
        for (port, frame) in &out {
            assert_eq!((*port, frame[23]), (LAN, 4), "IPIP");
            assert_eq!(frame[20] & 0x40, 0, "may be split");
            assert!(frame.len() <= 1514);
        }
    }
}
