//! Schedulers, thresholds and defences under conditions that nobody wishes for: edits that are refused, thresholds that
//! change under traffic, errors that somebody made up.

mod bed;

use std::net::SocketAddr;

use bed::*;
use polder::forward::defence::{Mode, Sysctls};
use polder::forward::{DestDef, ServiceDef, Setup, Switches};
use polder::net::icmp::IcmpError;
use polder::net::packet::{proto, tcp_flags};
use polder::table::AdminState;
use proptest::prelude::*;

const SYN: u8 = tcp_flags::SYN;
const ACK: u8 = tcp_flags::ACK;
const RST: u8 = tcp_flags::RST;

fn client(n: u16) -> SocketAddr {
    SocketAddr::new(ip("203.0.113.9"), 10_000 + n)
}

impl Bed {
    fn tcp(&mut self, n: u16, flags: u8) -> Out {
        self.client(&from_client().tcp(client(n), at(VIP), flags, 1, b""))
    }

    /// The last byte of the address of the server that a new connection goes to; 0 when it is refused.
    fn connect(&mut self, n: u16) -> u8 {
        let out = self.tcp(n, SYN);
        let found = out.iter().find(|(port, _)| *port == LAN);
        found.map_or(0, |(_, frame)| match ends(frame).1.ip() {
            std::net::IpAddr::V4(a) => a.octets()[3],
            std::net::IpAddr::V6(a) => a.octets()[15],
        })
    }

    /// Total and overload flag of each server, by the last byte of its address.
    fn loads(&self) -> Vec<(u8, u32, bool)> {
        let snapshot = self.bed.snapshot();
        let service = snapshot.services_in_order().next().expect("a service");
        let load = |d: &std::sync::Arc<polder::table::Dest>| match d.addr {
            std::net::IpAddr::V4(a) => (a.octets()[3], d.shared.total(), d.shared.overloaded()),
            std::net::IpAddr::V6(a) => (a.octets()[15], d.shared.total(), d.shared.overloaded()),
        };
        let mut loads: Vec<_> = service.dests.iter().map(load).collect();
        loads.sort_unstable();
        loads
    }
}

/// A service with more servers than there are slots for.
fn too_many() -> ServiceDef {
    let servers = (0..70).map(|n| dest("10.0.0.13", 1000 + n)).collect();
    service(proto::TCP, "198.51.100.2:80", servers)
}

fn balanced(scheduler: &str, servers: Vec<DestDef>) -> ServiceDef {
    ServiceDef {
        scheduler: scheduler.into(),
        ..service(proto::TCP, VIP, servers)
    }
}

fn of_weight(addr: &str, weight: u32, upper: u32, lower: u32) -> DestDef {
    DestDef {
        weight,
        upper_threshold: upper,
        lower_threshold: lower,
        ..dest(addr, 8080)
    }
}

mod a_refused_edit_changes_nothing {
    use super::*;

    /// What a configuration that is refused says of the service.
    fn refused(bed: &mut Bed, service: ServiceDef) {
        let many = ServiceDef {
            name: "many".into(),
            ..too_many()
        };
        bed.bed
            .apply(&setup(vec![service, many]))
            .expect_err("more servers than slots");
    }

    #[test]
    fn not_even_the_overload_flag() {
        let unlimited = balanced("rr", vec![dest("10.0.0.11", 8080)]);
        let mut bed = Bed::new(vec![unlimited]);
        for n in 0..5 {
            bed.connect(n);
        }
        refused(
            &mut bed,
            balanced("rr", vec![of_weight("10.0.0.11", 1, 2, 0)]),
        );
        assert_eq!(bed.loads(), [(11, 5, false)]);
        assert_eq!(bed.connect(5), 11);
    }

    type Edit<'e> = &'e dyn Fn(&mut Vec<DestDef>);

    /// The order of choices from the fifth on, with a refused edit before it or without; then again after a reload that
    /// changes nothing.
    fn order(scheduler: &str, weights: [u32; 3], edit: Option<Edit<'_>>) -> Vec<u8> {
        let servers: Vec<_> = (11..)
            .zip(weights)
            .map(|(n, weight)| of_weight(&format!("10.0.0.{n}"), weight, 0, 0))
            .collect();
        let service = balanced(scheduler, servers.clone());
        let mut bed = Bed::new(vec![service.clone()]);
        for n in 0..4 {
            bed.connect(n);
        }
        if let Some(edit) = edit {
            let mut edited = servers;
            edit(&mut edited);
            refused(&mut bed, balanced(scheduler, edited));
        }
        let mut order: Vec<_> = (4..9).map(|n| bed.connect(n)).collect();
        bed.bed
            .apply(&setup(vec![service]))
            .expect("the same again");
        order.extend((9..14).map(|n| bed.connect(n)));
        order
    }

    #[test]
    fn not_even_the_order_of_a_scheduler() {
        let fewer = |servers: &mut Vec<DestDef>| {
            servers.remove(2);
        };
        let others = |servers: &mut Vec<DestDef>| servers.iter_mut().for_each(|s| s.weight += 1);
        for (scheduler, weights) in [
            ("rr", [1, 1, 1]),
            ("wrr", [4, 3, 2]),
            ("hprio", [5, 5, 5]),
            ("wlc", [1, 2, 3]),
        ] {
            let undisturbed = order(scheduler, weights, None);
            for edit in [&fewer as Edit<'_>, &others] {
                let got = order(scheduler, weights, Some(edit));
                assert_eq!(got, undisturbed, "{scheduler} {weights:?}");
            }
        }
    }
}

/// The example of hprio's author, packet for packet, on any number of workers.
#[test]
fn the_spill_over_gets_connection_151_and_none_once_the_first_tier_has_room() {
    for workers in [1, 4] {
        let mut servers: Vec<_> = (11..=13)
            .map(|n| of_weight(&format!("10.0.0.{n}"), 5, 50, 20))
            .collect();
        servers.push(of_weight("10.0.0.14", 1, 0, 0));
        let mut setup = setup(vec![balanced("hprio", servers)]);
        setup.neighbours.push(polder::forward::NeighbourDef {
            port: LAN,
            addr: ip("10.0.0.14"),
            mac: server_mac(ip("10.0.0.14")),
        });
        let mut bed = Bed::with(&setup, workers);
        let homes: Vec<_> = (0..160).map(|n| bed.connect(n)).collect();
        assert!(homes[..150].iter().all(|h| *h != 14), "{workers} workers");
        assert!(homes[150..].iter().all(|h| *h == 14), "{workers} workers");
        let full = [
            (11, 50, true),
            (12, 50, true),
            (13, 50, true),
            (14, 10, false),
        ];
        assert_eq!(bed.loads(), full);
        // Of server 12, thirty end: at 20 it is overloaded still, below it is not.
        let mut of_12 = (0..150).filter(|n| homes[usize::from(*n)] == 12);
        for (ended, next) in [(30, 14), (1, 12)] {
            for n in of_12.by_ref().take(ended) {
                bed.tcp(n, ACK);
                bed.tcp(n, RST);
            }
            for n in (0..150).filter(|n| homes[usize::from(*n)] != 12) {
                bed.tcp(n, ACK);
            }
            bed.pass(11);
            let first_new = 1000 + u16::try_from(ended).expect("small");
            assert_eq!(bed.connect(first_new), next, "{workers} workers");
        }
        // It takes what comes until it is full again, and then the spill-over does.
        let more: Vec<_> = (2000..2031).map(|n| bed.connect(n)).collect();
        assert!(more[..30].iter().all(|h| *h == 12), "{more:?}");
        assert_eq!(more[30], 14);
        bed.check_identity();
    }
}

/// Specification §2.6: what ends an association is no reason to complain.
#[test]
fn an_abort_of_no_association_is_not_answered() {
    let setup = Setup {
        sysctls: Sysctls {
            nat_icmp_send: true,
            ..Sysctls::default()
        },
        ..setup(vec![service(proto::SCTP, VIP, three())])
    };
    let mut bed = Bed::with(&setup, 1);
    let from = from_server("10.0.0.11");
    let say = |chunk: &[u8]| from.sctp(at("10.0.0.11:8080"), client(1), chunk);
    assert_eq!(bed.server(&say(&[0, 0, 0, 4])).len(), 1, "DATA is");
    assert!(bed.server(&say(&[6, 0, 0, 4])).is_empty(), "ABORT");
    assert_eq!(bed.sum(|c| c.punted.get()), 1);
}

mod sloppy_tcp_and_the_limit {
    use super::*;

    fn bed(method: polder::table::Method, limit: u32) -> Bed {
        let servers = three()
            .into_iter()
            .map(|d| DestDef {
                method,
                port: 80,
                ..d
            })
            .collect();
        let service = ServiceDef {
            new_connections_per_second: limit,
            ..service(proto::TCP, VIP, servers)
        };
        let setup = Setup {
            switches: Switches {
                sloppy_tcp: true,
                ..Switches::default()
            },
            ..setup(vec![service])
        };
        Bed::with(&setup, 1)
    }

    #[test]
    fn connections_that_begin_amid_are_limited_too() {
        let mut bed = bed(polder::table::Method::Masq, 5);
        let passed = (0..50).filter(|n| !bed.tcp(*n, ACK).is_empty()).count();
        assert_eq!((passed, bed.bed.connections().len()), (5, 5));
        assert_eq!(bed.drops(), [("overload", 45)].into());
    }

    #[test]
    fn flows_above_the_limit_keep_their_server() {
        let mut bed = bed(polder::table::Method::Direct, 5);
        let mac = |out: &Out| match &out[..] {
            [(LAN, frame)] => macs(frame).0,
            _ => panic!("one frame to a server: {out:?}"),
        };
        let homes: Vec<_> = (0..50).map(|n| mac(&bed.tcp(n, ACK))).collect();
        assert_eq!(bed.bed.connections().len(), 5);
        for second in 0..12 {
            for (n, home) in (0..).zip(&homes) {
                assert_eq!(mac(&bed.tcp(n, ACK)), *home, "flow {n}, second {second}");
            }
            bed.pass(1);
        }
        assert_eq!(
            bed.bed.connections().len(),
            50,
            "they were let in by and by"
        );
    }
}

/// Specification §8.6: errors of all kinds, in both directions, about packets that were and that were not.
#[test]
fn a_spoofed_error_changes_no_state() {
    for method in [polder::table::Method::Masq, polder::table::Method::Direct] {
        let servers = three().into_iter().map(|d| DestDef {
            method,
            port: 80,
            ..d
        });
        let mut bed = Bed::new(vec![service(proto::TCP, VIP, servers.collect())]);
        for n in 0..3 {
            bed.tcp(n, SYN);
            bed.tcp(n, ACK);
        }
        bed.pass(5);
        let rows = |bed: &mut Bed| {
            let mut rows: Vec<_> = bed
                .bed
                .connections()
                .iter()
                .map(|r| format!("{r:?}"))
                .collect();
            rows.sort();
            (rows, bed.loads())
        };
        let before = rows(&mut bed);
        let errors = [
            IcmpError::TooBig { mtu: 68 },
            IcmpError::TooBig { mtu: 0 },
            IcmpError::HostUnreachable,
            IcmpError::PortUnreachable,
            IcmpError::TimeExceeded,
        ];
        for error in errors {
            for n in 0..6 {
                let quoted = from_server("10.0.0.11").tcp(at(VIP), client(n), SYN | ACK, 9, b"");
                bed.client(&from_client().icmp_error(error, ip("203.0.113.77"), &quoted));
                for server in ["10.0.0.11:80", "10.0.0.12:80", "10.0.0.13:80"] {
                    let quoted = from_client().tcp(client(n), at(server), RST, 9, b"");
                    bed.server(&from_server("10.0.0.12").icmp_error(
                        error,
                        ip("10.0.0.12"),
                        &quoted,
                    ));
                }
            }
        }
        assert_eq!(rows(&mut bed), before, "{method:?}");
        bed.check_identity();
    }
}

mod edits_under_traffic {
    use std::sync::Arc;

    use polder::table::Dest;

    use super::*;

    const FIN: u8 = tcp_flags::FIN;
    const SCHEDULERS: [&str; 13] = [
        "rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "hprio", "twos", "sh", "mh", "lblc", "lblcr",
    ];
    /// Those that refuse some clients although a server would take them.
    const REFUSING: [&str; 2] = ["sh", "mh"];

    #[derive(Clone, Debug)]
    enum Op {
        Client(u16, u8),
        Reply(u16, u8),
        Pass(u32),
        Weight(usize, u32),
        Thresholds(usize, u32, u32),
        State(usize, AdminState),
        Scheduler(usize),
        Servers(usize),
        DropEntry(bool),
    }

    fn op() -> impl Strategy<Value = Op> {
        let flags = prop::sample::select(vec![SYN, SYN, SYN, ACK, FIN | ACK, RST]);
        let state = [AdminState::Ready, AdminState::Drain, AdminState::Maint];
        prop_oneof![
            12 => (0..40u16, flags.clone()).prop_map(|(n, f)| Op::Client(n, f)),
            4 => (0..40u16, flags).prop_map(|(n, f)| Op::Reply(n, f)),
            2 => (1..150u32).prop_map(Op::Pass),
            1 => (0..3usize, 0..4u32).prop_map(|(d, w)| Op::Weight(d, w)),
            2 => (0..3usize, 0..7u32, 0..7u32).prop_map(|(d, a, b)| Op::Thresholds(d, a, b)),
            1 => (0..3usize, prop::sample::select(state.to_vec())).prop_map(|(d, s)| Op::State(d, s)),
            1 => (0..SCHEDULERS.len()).prop_map(Op::Scheduler),
            1 => (0..4usize).prop_map(Op::Servers),
            1 => any::<bool>().prop_map(Op::DropEntry),
        ]
    }

    fn dests(bed: &Bed) -> Vec<Arc<Dest>> {
        let snapshot = bed.bed.snapshot();
        let dests = snapshot.services.dests.iter().flatten();
        dests.map(Arc::clone).collect()
    }

    fn check(bed: &mut Bed) {
        for dest in dests(bed) {
            let counts = dest.shared.counts();
            let walked = bed.bed.walk(dest.id);
            assert_eq!((counts.active, counts.total), walked, "{}", dest.name);
            let limits = dest.thresholds();
            if limits.upper != 0 && dest.available {
                let (full, low) = (
                    counts.total >= limits.upper,
                    counts.total < limits.low_mark(),
                );
                assert!(
                    !full || counts.overloaded,
                    "{} {limits:?} {counts:?}",
                    dest.name
                );
                assert!(
                    !low || !counts.overloaded,
                    "{} {limits:?} {counts:?}",
                    dest.name
                );
            }
        }
        bed.check_identity();
    }

    fn run(ops: Vec<Op>, workers: usize) {
        let all = three();
        let mut now = setup(vec![balanced("rr", all.clone())]);
        let mut bed = Bed::with(&now, workers);
        for op in ops {
            match op {
                Op::Client(n, SYN) => {
                    let before = dests(&bed);
                    let open: Vec<_> = before.iter().filter(|d| d.eligible()).collect();
                    let known = bed
                        .bed
                        .connections()
                        .iter()
                        .any(|r| r.client.1 == client(n).port());
                    let to = bed.connect(n);
                    if known {
                        continue;
                    }
                    let service = &now.services[0];
                    let chosen = open
                        .iter()
                        .find(|d| d.addr.to_string().ends_with(&format!(".{to}")));
                    match chosen {
                        Some(d) if service.scheduler == "hprio" || service.scheduler == "fo" => {
                            assert!(open.iter().all(|o| o.weight <= d.weight), "the heaviest");
                        }
                        Some(_) => {}
                        None => assert!(
                            to == 0 && (open.is_empty() || REFUSING.contains(&&*service.scheduler)),
                            "client {n} to {to}, {:?}",
                            service.scheduler
                        ),
                    }
                }
                Op::Client(n, flags) => drop(bed.tcp(n, flags)),
                Op::Reply(n, flags) => {
                    let rows = bed.bed.connections();
                    if let Some(r) = rows.iter().find(|r| r.client.1 == client(n).port()) {
                        let from = SocketAddr::new(r.dest.0, r.dest.1);
                        let frame = from_server(&from.ip().to_string());
                        bed.server(&frame.tcp(from, client(n), flags, 1, b""));
                    }
                }
                Op::Pass(seconds) => bed.pass(seconds),
                Op::DropEntry(on) => {
                    now.sysctls.drop_entry = if on { Mode::Always } else { Mode::Off };
                    bed.bed.apply(&now).expect("a set-up");
                }
                edit => {
                    let servers = &mut now.services[0].servers;
                    match edit {
                        Op::Weight(d, weight) if d < servers.len() => servers[d].weight = weight,
                        Op::Thresholds(d, a, b) if d < servers.len() => {
                            servers[d].upper_threshold = a.max(b);
                            servers[d].lower_threshold = a.min(b);
                        }
                        Op::State(d, state) if d < servers.len() => servers[d].admin = state,
                        Op::Servers(n) if n < servers.len() => drop(servers.remove(n)),
                        Op::Servers(_) => *servers = all.clone(),
                        Op::Scheduler(n) => now.services[0].scheduler = SCHEDULERS[n].into(),
                        _ => {}
                    }
                    bed.bed.apply(&now).expect("a set-up");
                }
            }
            check(&mut bed);
        }
        bed.pass(2000);
        assert!(bed.bed.connections().is_empty());
        check(&mut bed);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Counts are what a walk gives, the flag is where it must be, and the choice is of those who take connections.
        #[test]
        fn counts_flags_and_choices_are_right_whatever_is_edited(
            ops in prop::collection::vec(op(), 1..150),
            workers in 1..4usize,
        ) {
            run(ops, workers);
        }
    }
}
