//! The specification's worked examples, packet for packet through the whole path (§6, §14).
//!
//! The same examples through `polder replay` are in `tests/spec_replay.rs`; here is also what is edited at run time. The
//! timeline of a template (§14.4) is in `tests/sessions.rs` and `tests/replay.rs`; the unit tests of each scheduler have
//! the vectors of its tables.

mod bed;

use std::net::{IpAddr, SocketAddr};

use bed::*;
use polder::forward::{DestDef, ServiceDef};
use polder::net::Tick;
use polder::net::packet::{proto, tcp_flags};

/// Servers in the kernel's list order, which is the reverse of the order in which they are added: weights and upper
/// thresholds.
fn listed(scheduler: &str, servers: &[(u32, u32)]) -> ServiceDef {
    let dest = |(n, (weight, upper)): (u8, &(u32, u32))| DestDef {
        weight: *weight,
        upper_threshold: *upper,
        ..dest(&format!("10.0.0.{n}"), 8080)
    };
    let mut dests: Vec<_> = (11..).zip(servers).map(dest).collect();
    dests.reverse();
    ServiceDef {
        scheduler: scheduler.into(),
        ..service(proto::TCP, VIP, dests)
    }
}

impl Bed {
    /// The place in the list of the server that a new connection goes to; `None` when it is refused.
    fn connect(&mut self, client: &str) -> Option<u8> {
        let frame = from_client().tcp(at(client), at(VIP), tcp_flags::SYN, 1, b"");
        let out = self.client(&frame);
        let (_, frame) = out.iter().find(|(port, _)| *port == LAN)?;
        match ends(frame).1.ip() {
            IpAddr::V4(a) => Some(a.octets()[3] - 11),
            IpAddr::V6(_) => None,
        }
    }

    /// The servers that so many new connections go to, by letter of their place in the list.
    fn order(&mut self, connections: u16) -> String {
        (0..connections)
            .map(|n| {
                let client = SocketAddr::new(ip("203.0.113.9"), 20_000 + n).to_string();
                self.connect(&client)
                    .map_or('-', |place| char::from(b'A' + place))
            })
            .collect()
    }

    fn end(&mut self, client: &str) {
        for flags in [tcp_flags::ACK, tcp_flags::RST] {
            self.client(&from_client().tcp(at(client), at(VIP), flags, 2, b""));
        }
        // A reset connection goes on for 10 s.
        self.now = Tick(self.now.0 + 1001);
        self.bed.advance(self.now);
    }

    fn total_and_flag(&self) -> (u32, bool) {
        let snapshot = self.bed.snapshot();
        let dest = snapshot.services.dests[0].as_ref().expect("one server");
        (dest.shared.total(), dest.shared.overloaded())
    }
}

/// §14.6, §6.2.
#[test]
fn weighted_round_robin_makes_the_classical_sequences() {
    for (weights, order) in [
        (&[4, 3, 2][..], "AABABCABCAABABCABC"),
        (&[6, 4], "AABABAABAB"),
        (&[2, 0, 1], "AACAACAAC"),
    ] {
        let servers: Vec<_> = weights.iter().map(|w| (*w, 0)).collect();
        let mut bed = Bed::new(vec![listed("wrr", &servers)]);
        let n = u16::try_from(order.len()).expect("short");
        assert_eq!(bed.order(n), order, "weights {weights:?}");
    }
}

/// §6.1: the pointer starts at the head, which is no server yet, so the first choice is the newest.
#[test]
fn round_robin_starts_with_the_newest() {
    let mut bed = Bed::new(vec![listed("rr", &[(1, 0), (1, 0), (1, 0)])]);
    assert_eq!(bed.order(7), "ABCABCA");
}

/// §6.3, §6.4: ties go to the newest.
#[test]
fn least_connection_schedulers_fill_from_the_newest() {
    let mut bed = Bed::new(vec![listed("lc", &[(1, 0), (1, 0), (1, 0)])]);
    assert_eq!(bed.order(6), "ABCABC");
    let mut bed = Bed::new(vec![listed("wlc", &[(1, 0), (2, 0)])]);
    // Overheads 0/1 and 0/2 tie; then by overhead × the other's weight.
    assert_eq!(bed.order(6), "ABBABB");
}

/// §6.5, §6.6: a half-open connection is an active one (§7.5).
#[test]
fn shortest_delay_and_never_queue_go_by_active_connections() {
    let mut bed = Bed::new(vec![listed("sed", &[(1, 0), (3, 0), (2, 0)])]);
    assert_eq!(bed.order(6), "BCBABC");
    let mut bed = Bed::new(vec![listed("nq", &[(1, 0), (3, 0), (2, 0)])]);
    assert_eq!(bed.order(4), "ABCB");
}

/// §6.7.
#[test]
fn failover_takes_the_heaviest_until_it_is_overloaded() {
    let mut bed = Bed::new(vec![listed("fo", &[(1, 0), (5, 2), (3, 1)])]);
    assert_eq!(bed.order(5), "BBCAA");
}

/// §6.9, §6.10 with the clients whose vectors the specification prints; servers .1, .2, .3 as there.
#[test]
fn hashed_clients_go_where_the_kernels_tables_send_them() {
    // `sh` with weight 1: bucket b belongs to list place b mod 3. Buckets 39, 137, 144, 185.
    let clients = ["10.0.0.1", "10.0.0.2", "192.168.1.77", "203.0.113.5"];
    let service = ServiceDef {
        flags: vec!["kernel_tables".into()],
        ..listed("sh", &[(1, 0), (1, 0), (1, 0)])
    };
    let mut bed = Bed::new(vec![service]);
    let places: Vec<_> = clients
        .iter()
        .map(|c| bed.connect(&format!("{c}:4000")).expect("served"))
        .collect();
    assert_eq!(places, [39 % 3, 137 % 3, 144 % 3, 185 % 3]);
}

/// §14.3, by connections that come and go.
#[test]
fn the_overload_flag_follows_the_worked_example() {
    let with = |upper| {
        setup(vec![ServiceDef {
            persistence: Some(persistence(3600)),
            ..listed("rr", &[(1, upper)])
        }])
    };
    let mut bed = Bed::with(&with(4), 1);
    for n in 1..=4 {
        assert!(bed.connect(&format!("203.0.113.{n}:5000")).is_some());
        assert_eq!(bed.total_and_flag(), (n, n == 4));
    }
    assert_eq!(bed.connect("203.0.113.5:5000"), None, "scheduling refuses");
    for port in [6000, 6001] {
        let through_a_template = format!("203.0.113.1:{port}");
        assert!(bed.connect(&through_a_template).is_some());
    }
    assert_eq!(bed.total_and_flag(), (6, true));
    // They would end by themselves after 60 s; each end here takes ten.
    for (client, expected) in [
        ("203.0.113.1:6001", (5, true)),
        ("203.0.113.1:6000", (4, true)),
        ("203.0.113.1:5000", (3, true)),
        ("203.0.113.2:5000", (2, false)),
    ] {
        bed.end(client);
        assert_eq!(bed.total_and_flag(), expected, "{client}");
    }
    bed.bed.apply(&with(2)).expect("applies");
    assert_eq!(bed.total_and_flag(), (2, true));
    bed.bed.apply(&with(3)).expect("applies");
    assert_eq!(bed.total_and_flag(), (2, false));
}

/// §14.3, the last row.
#[test]
fn a_raised_threshold_keeps_the_flag_down_to_its_low_mark() {
    let with = |upper| setup(vec![listed("rr", &[(1, upper)])]);
    let mut bed = Bed::with(&with(4), 1);
    for n in 0..4 {
        assert!(bed.connect(&format!("203.0.113.1:{}", 5000 + n)).is_some());
    }
    bed.bed.apply(&with(6)).expect("applies");
    // The low mark of 6 is 5, and 4 is below it; the flag is judged when the configuration changes.
    assert_eq!(bed.total_and_flag(), (4, false));
}
