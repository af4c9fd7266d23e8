//! What a director does with the connections and templates of another: two directors in virtual time, one after the
//! other in front of the same servers. How they come from one to the other is not this file's.

mod bed;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bed::*;
use polder::forward::defs::{Grouping, Persistence};
use polder::forward::tell::{Offer, Tell};
use polder::forward::{DestDef, PeerOutcome, PeerRule, ServiceDef, Setup};
use polder::mgmt::sync::tables::{Finds, Tables};
use polder::net::icmp::IcmpError;
use polder::net::packet::{proto, tcp_flags};
use polder::net::{HashKey, Tick};
use polder::persist::{Engine, Field, PayloadKey, SessionKey, Unit};
use polder::sync::entry::{Entry, EntryId, TemplateEntry};
use polder::sync::ipvs::Version;
use polder::sync::master::Policy;
use polder::table::Method;

const VPN: &str = "198.51.100.1:500";

/// A director and its tables as state sync sees them.
struct Node {
    bed: Bed,
    tables: Tables,
    /// Numbers that templates were given.
    templates: BTreeMap<u128, TemplateEntry>,
}

/// What a walk finds.
#[derive(Default)]
struct Found {
    entries: Vec<Entry>,
    /// Whether other peers tell of everything, too.
    is_told: bool,
}

fn number(t: &TemplateEntry) -> EntryId {
    let key = HashKey([1, 2, 3, 4]);
    let text = format!("{:?}{:?}{:?}{:?}", t.service, t.client, t.vaddr, t.data);
    EntryId(u128::from(polder::net::hash_bytes(text.as_bytes(), &key)))
}

impl Finds for Found {
    fn entry(&mut self, entry: Entry) {
        self.entries.push(entry);
    }
    fn number(&self, template: &TemplateEntry) -> EntryId {
        number(template)
    }
    fn is_told(&self, _: &Entry) -> bool {
        self.is_told
    }
}

impl Node {
    fn with(setup: &Setup, workers: usize) -> Self {
        let bed = Bed::with(setup, workers);
        let tables = Tables::new(bed.bed.plane().clone(), SIZES.owner_key());
        Self {
            bed,
            tables,
            templates: BTreeMap::new(),
        }
    }

    fn new(services: Vec<ServiceDef>) -> Self {
        Self::with(&setup(services), 1)
    }

    fn pass_time(&mut self, ticks: u32) {
        self.bed.now = self.bed.now.plus(ticks);
        self.bed.bed.advance(self.bed.now);
    }

    /// What peers are told of.
    fn told(&mut self) -> Vec<Entry> {
        self.walk(false, false)
    }

    /// The same in a walk that may make what gone peers told of its own, unless another peer tells of it, too.
    fn walk(&mut self, adopts: bool, is_told: bool) -> Vec<Entry> {
        let mut found = Found {
            is_told,
            ..Found::default()
        };
        self.tables.begin_pass(adopts);
        while !self.tables.step(self.bed.now, &mut found) {
            self.bed.bed.advance(self.bed.now);
        }
        self.tables.flush();
        self.bed.bed.advance(self.bed.now);
        found.entries
    }

    /// Takes over what a peer told of.
    fn take(&mut self, entries: &[Entry], ended: bool) -> Vec<PeerOutcome> {
        let now = self.bed.now;
        for entry in entries {
            match entry {
                Entry::Template(t) if ended => self.tables.remove_template(t, now),
                Entry::Template(t) => {
                    self.templates.insert(number(t).0, (**t).clone());
                    self.tables.install_template(t, now);
                }
                Entry::Conn(c) => {
                    let rule = if ended {
                        PeerRule::Ended
                    } else {
                        PeerRule::Latest
                    };
                    let link = c.template.and_then(|id| self.templates.get(&id.0)).cloned();
                    let id = EntryId(7);
                    assert!(
                        self.tables
                            .install_conn((1, id), c, link.as_ref(), rule, now)
                    );
                }
            }
        }
        self.tables.flush();
        self.bed.bed.advance(now);
        self.tables.step(now, &mut Found::default());
        std::iter::from_fn(|| self.tables.next_outcome())
            .map(|(_, _, outcome)| outcome)
            .collect()
    }

    /// Tells the other all.
    fn tell(&mut self, other: &mut Self) -> Vec<PeerOutcome> {
        let told = self.told();
        other.take(&told, false)
    }

    fn to(&mut self, frame: &[u8]) -> SocketAddr {
        let out = self.bed.client(frame);
        assert_eq!(
            out.len(),
            1,
            "one frame leaves; drops: {:?}",
            self.bed.drops()
        );
        ends(&out[0].1).1
    }

    /// A server's packet to a client.
    fn reply(&mut self, server: SocketAddr, to: SocketAddr, flags: u8) -> Out {
        let side = from_server(&server.ip().to_string());
        self.bed.server(&side.tcp(server, to, flags, 1, b"x"))
    }

    /// The same, which must leave in the name of the service.
    fn answers(&mut self, server: SocketAddr, to: SocketAddr) {
        let out = self.reply(server, to, tcp_flags::ACK);
        assert_eq!(ends(&out[0].1).0, at(VIP), "in the name of the service");
    }

    /// Whether another director serves.
    fn off_duty(&self, is: bool) {
        let off = &self.bed.bed.plane().sync.off_duty;
        off.store(is, Ordering::Relaxed);
    }

    fn connections(&mut self) -> usize {
        self.bed.bed.connections().len()
    }

    fn check_counts(&mut self) {
        self.bed.check_counts();
        self.bed.check_identity();
    }
}

fn tcp(from: SocketAddr, flags: u8) -> Vec<u8> {
    from_client().tcp(from, at(VIP), flags, 1, b"")
}

/// Opens a connection and returns its server.
fn open(node: &mut Node, from: SocketAddr) -> SocketAddr {
    let server = node.to(&tcp(from, tcp_flags::SYN));
    node.reply(server, from, tcp_flags::SYN | tcp_flags::ACK);
    node.to(&tcp(from, tcp_flags::ACK));
    server
}

/// What a router on the client's side says of a packet.
fn too_big_at_client(packet: &[u8]) -> Vec<u8> {
    let error = IcmpError::TooBig { mtu: 1400 };
    from_client().icmp_error(error, ip("203.0.113.1"), packet)
}

/// The service of [`tcp_service`] with persistence.
fn persistent(secs: u64) -> Vec<ServiceDef> {
    vec![ServiceDef {
        persistence: Some(persistence(secs)),
        ..service(proto::TCP, VIP, three())
    }]
}

/// Two directors with the same services.
fn pair(services: &[ServiceDef]) -> (Node, Node) {
    (Node::new(services.to_vec()), Node::new(services.to_vec()))
}

/// Two directors, the first with a client's connection.
fn with_one_connection() -> (Node, Node) {
    let (mut a, b) = pair(&tcp_service());
    open(&mut a, client(1));
    (a, b)
}

/// Two directors, with a client's connection of which the first has told.
fn with_one_told() -> (Node, Node) {
    let (mut a, mut b) = with_one_connection();
    a.tell(&mut b);
    (a, b)
}

#[test]
fn an_established_connection_goes_on_at_the_other_director() {
    for workers in 1..=3 {
        let setup = setup(tcp_service());
        let (mut a, mut b) = (Node::with(&setup, workers), Node::with(&setup, workers));
        let servers: Vec<_> = (0..60).map(|n| open(&mut a, client(n))).collect();
        let outcomes = a.tell(&mut b);
        assert_eq!(outcomes, vec![PeerOutcome::Created; 60]);
        b.check_counts();
        for (n, server) in (0..60).zip(servers) {
            assert_eq!(b.to(&tcp(client(n), tcp_flags::ACK)), server, "client {n}");
            b.answers(server, client(n));
        }
        b.check_counts();
        assert_eq!(b.connections(), 60);
    }
}

#[test]
fn half_open_connections_are_nobody_elses_business() {
    let mut a = Node::new(tcp_service());
    a.to(&tcp(client(1), tcp_flags::SYN));
    assert!(a.told().is_empty());
}

#[test]
fn what_came_from_a_peer_is_not_told_back_until_it_is_used() {
    let (_, mut b) = with_one_told();
    assert!(b.told().is_empty());
    b.to(&tcp(client(1), tcp_flags::ACK));
    assert_eq!(b.told().len(), 1);
}

#[test]
fn thresholds_count_what_a_peer_let_in() {
    let limited = || {
        let servers = three().into_iter().map(|d| DestDef {
            upper_threshold: 2,
            ..d
        });
        vec![service(proto::TCP, VIP, servers.collect())]
    };
    let (mut a, mut b) = pair(&limited());
    for n in 0..6 {
        open(&mut a, client(n));
    }
    a.tell(&mut b);
    let out = b.bed.client(&tcp(client(9), tcp_flags::SYN));
    let icmp = out.iter().all(|(port, _)| *port == WAN);
    assert!(icmp, "all servers are full: nothing goes to one");
    b.check_counts();
}

#[test]
fn a_record_again_changes_nothing_but_the_time() {
    let (mut a, mut b) = with_one_told();
    assert_eq!(a.tell(&mut b), [PeerOutcome::Refreshed]);
    assert_eq!(b.connections(), 1);
    b.check_counts();
}

#[test]
fn a_state_that_changed_is_taken_over() {
    let (mut a, mut b) = with_one_told();
    a.to(&tcp(client(1), tcp_flags::FIN | tcp_flags::ACK));
    a.tell(&mut b);
    let (rows_a, rows_b) = (a.bed.bed.connections(), b.bed.bed.connections());
    assert_eq!(rows_a[0].state, rows_b[0].state);
    b.check_counts();
}

#[test]
fn an_end_removes_what_nobody_used_here() {
    let (mut a, mut b) = with_one_connection();
    open(&mut a, client(2));
    let told = a.told();
    b.take(&told, false);
    b.to(&tcp(client(2), tcp_flags::ACK));
    let mut outcomes = b.take(&told, true);
    outcomes.sort_by_key(|o| format!("{o:?}"));
    assert_eq!(outcomes, [PeerOutcome::Ignored, PeerOutcome::Removed]);
    assert_eq!(b.connections(), 1, "the one that was used");
    b.check_counts();
}

#[test]
fn what_a_gone_peer_told_of_becomes_ones_own() {
    for workers in 1..=2 {
        let setup = setup(persistent(300));
        let (mut a, mut b) = (Node::with(&setup, workers), Node::with(&setup, workers));
        for n in 0..300 {
            open(&mut a, client(n));
        }
        let told = a.told();
        b.take(&told, false);
        assert!(b.walk(true, true).is_empty(), "another peer has them");
        assert!(b.told().is_empty(), "they are its");
        assert_eq!(b.walk(true, false).len(), 301, "template and connections");
        assert_eq!(b.told().len(), 301, "from now on");
        b.take(&told, true);
        assert_eq!(b.connections(), 300, "nobody else ends them");
        b.check_counts();
    }
}

#[test]
fn an_entry_of_a_peer_ends_by_itself_a_little_later_than_there() {
    let (_, mut b) = with_one_told();
    b.pass_time(900 * Tick::PER_SECOND);
    assert_eq!(b.connections(), 1);
    b.pass_time(13 * Tick::PER_SECOND);
    assert_eq!(b.connections(), 0);
    b.check_counts();
}

#[test]
fn whoever_saw_a_connection_last_is_right() {
    let (mut a, mut b) = with_one_told();
    // The client's packets go to B for a while; A's word is older.
    b.pass_time(100);
    b.to(&tcp(client(1), tcp_flags::FIN | tcp_flags::ACK));
    let told = a.told();
    let old: Vec<_> = told.iter().map(|e| e.clone().with_remaining(5)).collect();
    assert_eq!(b.take(&old, false), [PeerOutcome::Ignored]);
    // Then they go to A again.
    assert_eq!(b.take(&told, false), [PeerOutcome::Refreshed]);
    assert!(b.told().is_empty(), "it is A's again");
    b.check_counts();
}

#[test]
fn a_peers_older_word_does_not_undo_an_end_that_was_seen_here() {
    let (mut a, mut b) = with_one_told();
    a.pass_time(100);
    b.pass_time(100);
    b.to(&tcp(client(1), tcp_flags::FIN | tcp_flags::ACK));
    let closing = b.bed.bed.connections()[0];
    // A saw no packet since, but gives an established connection more time than B gives one that ends.
    assert_eq!(a.tell(&mut b), [PeerOutcome::Ignored]);
    assert_eq!(b.bed.bed.connections(), [closing]);
    b.check_counts();
}

#[test]
fn a_client_of_a_persistent_service_finds_its_server_again() {
    let (mut a, mut b) = pair(&persistent(300));
    let server = open(&mut a, client(1));
    a.tell(&mut b);
    for n in 10..20 {
        assert_eq!(b.to(&tcp(client(n), tcp_flags::SYN)), server);
    }
    b.check_counts();
}

#[test]
fn a_template_that_nobody_used_here_is_not_told_back_and_goes_with_its_director() {
    let (mut a, mut b) = pair(&persistent(300));
    open(&mut a, client(1));
    let told = a.told();
    assert_eq!(told.len(), 2, "template and connection");
    b.take(&told, false);
    assert!(b.told().is_empty());
    let removed: Vec<_> = told.iter().rev().cloned().collect();
    b.take(&removed, true);
    b.pass_time(1);
    assert_eq!(b.connections(), 0);
    assert!(b.bed.bed.templates().is_empty());
    let snapshot = b.bed.bed.snapshot();
    let templates = |d: &std::sync::Arc<polder::table::Dest>| d.shared.persistent();
    assert_eq!(
        snapshot
            .services
            .dests
            .iter()
            .flatten()
            .map(templates)
            .sum::<u32>(),
        0
    );
}

#[test]
fn who_tells_of_a_connection_tells_of_its_template() {
    let (mut a, mut b) = pair(&persistent(300));
    let server = open(&mut a, client(1));
    a.tell(&mut b);
    // A is gone. The client goes on with its connection at B, which does not use the template.
    b.to(&tcp(client(1), tcp_flags::ACK));
    let told = b.told();
    assert_eq!(told.len(), 2, "{told:?}");
    let mut c = Node::new(persistent(300));
    c.take(&told, false);
    assert_eq!(c.to(&tcp(client(7), tcp_flags::SYN)), server);
    assert_eq!(b.told().len(), 2, "and again");
    c.check_counts();
}

#[test]
fn calls_of_a_one_packet_service_stay_on_their_servers() {
    let sip = |call: &str| {
        format!(
            "INVITE sip:b@example.com SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nCall-ID: {call}\r\nCSeq: 1 INVITE\r\n\r\n"
        )
    };
    let services = || {
        vec![ServiceDef {
            one_packet: true,
            persistence: Some(Persistence {
                grouping: Grouping::Mask4(0),
                engine: Some(Engine::Sip),
                ..persistence(60)
            }),
            ..service(proto::UDP, "198.51.100.1:5060", servers(5060))
        }]
    };
    let (mut a, mut b) = pair(&services());
    let invite = |n: u32| {
        let text = sip(&format!("call-{n}@example.com"));
        from_client().udp(client(1), at("198.51.100.1:5060"), text.as_bytes())
    };
    let servers: Vec<_> = (0..100).map(|n| a.to(&invite(n))).collect();
    a.tell(&mut b);
    for (n, server) in (0..100).zip(servers) {
        assert_eq!(b.to(&invite(n)), server, "call {n}");
    }
    b.check_counts();
}

fn offh_service() -> Vec<ServiceDef> {
    let key = SessionKey {
        field: Field::new(1, 8, Unit::Bytes).expect("there is one"),
        when: None,
    };
    vec![ServiceDef {
        scheduler: "offh".into(),
        payload_key: Some(PayloadKey::Field(key)),
        ..service(proto::UDP, "198.51.100.1:1194", servers(1194))
    }]
}

#[test]
fn a_payload_session_keeps_its_server_and_leaves_its_old_ports_behind() {
    let (mut a, mut b) = pair(&offh_service());
    let packet = |from: SocketAddr, session: u64| {
        let mut payload = vec![0x38];
        payload.extend(session.to_be_bytes());
        from_client().udp(from, at("198.51.100.1:1194"), &payload)
    };
    let servers: Vec<_> = (0..50u16)
        .map(|n| a.to(&packet(client(n), 1000 + u64::from(n))))
        .collect();
    a.tell(&mut b);
    assert_eq!(b.connections(), 50);
    for (n, server) in (0..50u16).zip(&servers) {
        let moved = client(500 + n);
        assert_eq!(
            b.to(&packet(moved, 1000 + u64::from(n))),
            *server,
            "session {n}"
        );
    }
    assert_eq!(b.connections(), 50, "each session has one connection");
    b.check_counts();
    // A session that moved at A before it is told again moves at B, too.
    let (mut c, mut d) = pair(&offh_service());
    c.to(&packet(client(1), 77));
    c.tell(&mut d);
    c.to(&packet(client(2), 77));
    c.tell(&mut d);
    let rows = d.bed.bed.connections();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].client.1, client(2).port());
}

#[test]
fn a_connection_of_an_unknown_server_is_served_by_its_address_until_the_server_is_known() {
    let mut a = Node::new(tcp_service());
    let servers: Vec<_> = (0..3).map(|n| open(&mut a, client(n))).collect();
    let without: Vec<_> = three().into_iter().take(1).collect();
    let mut b = Node::new(vec![service(proto::TCP, VIP, without)]);
    a.tell(&mut b);
    for (n, server) in (0..3).zip(&servers) {
        assert_eq!(b.to(&tcp(client(n), tcp_flags::ACK)), *server);
        b.answers(*server, client(n));
    }
    b.check_counts();
    b.bed.bed.apply(&setup(tcp_service())).expect("built");
    for (n, server) in (0..3).zip(&servers) {
        assert_eq!(b.to(&tcp(client(n), tcp_flags::ACK)), *server);
    }
    let unbound = b
        .bed
        .bed
        .connections()
        .iter()
        .filter(|c| c.dest_id.is_none())
        .count();
    assert_eq!(unbound, 0, "all have their servers now");
    b.check_counts();
}

#[test]
fn late_binding_takes_the_servers_forwarding_method() {
    let mut a = Node::new(tcp_service());
    open(&mut a, client(1));
    let mut b = Node::new(vec![service(proto::TCP, VIP, Vec::new())]);
    a.tell(&mut b);
    let direct = three().into_iter().map(|d| DestDef {
        method: Method::Direct,
        ..d
    });
    let services = vec![service(proto::TCP, VIP, direct.collect())];
    b.bed.bed.apply(&setup(services)).expect("built");
    let out = b.bed.client(&tcp(client(1), tcp_flags::ACK));
    assert_eq!(ends(&out[0].1).1, at(VIP), "the address stays");
    b.check_counts();
}

#[test]
fn a_full_table_refuses_and_counts_nothing() {
    let setup = setup(tcp_service());
    let (mut a, mut b) = (Node::with(&setup, 1), Node::with(&setup, 1));
    while b.connections() < SIZES.connections {
        let n = u16::try_from(b.connections()).expect("a small table");
        open(&mut b, SocketAddr::new(ip("203.0.113.77"), 1000 + n));
    }
    open(&mut a, client(1));
    assert_eq!(a.tell(&mut b), [PeerOutcome::Refused]);
    b.check_counts();
}

/// What a master of the `ipvs` format would tell now.
fn offers(tell: &Tell) -> Vec<Offer> {
    tell.parts()
        .iter()
        .flat_map(|part| std::iter::from_fn(|| part.ring.pop()))
        .collect()
}

fn master(node: &Node, policy: Policy) -> Arc<Tell> {
    let plane = node.bed.bed.plane();
    let places = *plane.sync.places.get().expect("workers were made");
    let templates = plane.templates.capacity();
    let tell = Tell::new(policy, Version::V1, plane.workers.len(), places, templates);
    let tell = Arc::new(tell);
    plane.sync.tell.store(Some(Arc::clone(&tell)));
    tell
}

/// Specification §9.7 with its defaults: threshold 3, period 50; the end of a connection at once.
#[test]
fn connections_are_offered_at_the_packets_that_the_policy_names() {
    let mut a = Node::new(tcp_service());
    let tell = master(&a, Policy::default());
    let server = open(&mut a, client(1));
    assert!(offers(&tell).is_empty(), "two packets of the client");
    let mut at = Vec::new();
    for n in 3..=160 {
        a.to(&tcp(client(1), tcp_flags::ACK));
        if !offers(&tell).is_empty() {
            at.push(n);
        }
    }
    assert_eq!(at, [3, 53, 103, 153]);
    a.to(&tcp(client(1), tcp_flags::FIN | tcp_flags::ACK));
    assert_eq!(offers(&tell).len(), 1, "the end, at once");
    a.to(&tcp(client(1), tcp_flags::ACK));
    assert!(offers(&tell).is_empty(), "it was told");
    a.reply(server, client(1), tcp_flags::ACK);
    assert!(offers(&tell).is_empty(), "never for packets of servers");
    // Another connection in the same place begins afresh.
    a.pass_time(200 * Tick::PER_SECOND);
    assert_eq!(a.connections(), 0);
    open(&mut a, client(2));
    a.to(&tcp(client(2), tcp_flags::ACK));
    assert_eq!(offers(&tell).len(), 1);
}

/// Specification §9.7 (a) and (b): a template with each packet, and when its timer fires while it controls connections.
#[test]
fn templates_are_offered_with_their_connections_and_when_they_are_set_again() {
    let mut a = Node::new(persistent(30));
    let tell = master(&a, Policy::default());
    open(&mut a, client(1));
    let is_template = |o: &Offer| matches!(o, Offer::Template(_));
    assert_eq!(offers(&tell).iter().filter(|o| is_template(o)).count(), 2);
    a.pass_time(31 * Tick::PER_SECOND);
    assert_eq!(offers(&tell).iter().filter(|o| is_template(o)).count(), 1);
    a.pass_time(60 * Tick::PER_SECOND);
    assert_eq!(offers(&tell).iter().filter(|o| is_template(o)).count(), 1);
}

/// Specification §9.10: clients' packets are the kernel's, replies of what there is are translated.
#[test]
fn off_duty_clients_packets_are_left_to_the_kernel() {
    let mut a = Node::new(tcp_service());
    let server = open(&mut a, client(1));
    a.off_duty(true);
    assert!(a.bed.client(&tcp(client(1), tcp_flags::ACK)).is_empty());
    assert!(a.bed.client(&tcp(client(2), tcp_flags::SYN)).is_empty());
    assert_eq!(a.bed.sum(|c| c.punted.get()), 2);
    a.answers(server, client(1));
    a.off_duty(false);
    assert_eq!(a.to(&tcp(client(1), tcp_flags::ACK)), server);
    a.check_counts();
}

/// While tables are handed over, frames wait in the ports' queues.
#[test]
fn a_deaf_worker_takes_no_frames_but_does_what_it_is_asked() {
    let (mut a, mut b) = with_one_connection();
    let deaf = |node: &Node, is| node.bed.bed.plane().sync.deaf.store(is, Ordering::Relaxed);
    deaf(&b, true);
    let waits = b.bed.client(&tcp(client(1), tcp_flags::ACK));
    assert!(waits.is_empty() && b.bed.drops().is_empty());
    assert_eq!(a.tell(&mut b), [PeerOutcome::Created]);
    deaf(&b, false);
    b.bed.bed.advance(b.bed.now);
    assert_eq!(
        b.bed.taken().len(),
        1,
        "it goes on with the connection that came meanwhile"
    );
    b.check_counts();
}

#[test]
fn icmp_errors_about_a_connection_of_an_unknown_server_are_translated_too() {
    let mut a = Node::new(tcp_service());
    let server = open(&mut a, client(1));
    let mut b = Node::new(vec![service(proto::TCP, VIP, Vec::new())]);
    a.tell(&mut b);
    let side = from_server(&server.ip().to_string());
    let to_server = b.bed.client(&tcp(client(1), tcp_flags::ACK)).remove(0).1;
    let complaint = side.icmp_error(IcmpError::TooBig { mtu: 1400 }, server.ip(), &to_server);
    let out = b.bed.server(&complaint);
    assert_eq!(out.len(), 1, "drops: {:?}", b.bed.drops());
    let (from, to, _) = ends(&out[0].1);
    assert_eq!((from.ip(), to.ip()), (at(VIP).ip(), client(1).ip()));
    let to_client = b.reply(server, client(1), tcp_flags::ACK).remove(0).1;
    let complaint = too_big_at_client(&to_client);
    let out = b.bed.client(&complaint);
    assert_eq!(out.len(), 1, "drops: {:?}", b.bed.drops());
    assert_eq!(ends(&out[0].1).1.ip(), server.ip());
    b.check_counts();
}

#[test]
fn esp_goes_along_with_a_key_exchange_whose_server_is_unknown() {
    let mut a = Node::new(vec![service(proto::UDP, VPN, servers(500))]);
    let from = SocketAddr::new(ip("203.0.113.9"), 500);
    let server = a.to(&from_client().udp(from, at(VPN), b"ike"));
    let mut b = Node::new(vec![service(proto::UDP, VPN, Vec::new())]);
    a.tell(&mut b);
    let esp = from_client().ip(from.ip(), at(VPN).ip(), proto::ESP, &[0xee; 64]);
    assert_eq!(b.to(&esp).ip(), server.ip());
    let side = from_server(&server.ip().to_string());
    let out = b
        .bed
        .server(&side.ip(server.ip(), from.ip(), proto::ESP, &[0xee; 64]));
    assert_eq!(out.len(), 1, "drops: {:?}", b.bed.drops());
    assert_eq!(ends(&out[0].1).0.ip(), at(VPN).ip());
    b.check_counts();
}

/// Specification §9.10: a director that is a backup only leaves all that clients send to the kernel.
#[test]
fn a_director_off_duty_punts_what_clients_send_of_whatever_protocol() {
    let services = || {
        let vpn = service(proto::UDP, VPN, servers(500));
        vec![
            service(proto::TCP, VIP, three()),
            ServiceDef {
                name: "vpn".into(),
                ..vpn
            },
        ]
    };
    let (mut a, mut b) = pair(&services());
    let from = SocketAddr::new(ip("203.0.113.9"), 500);
    let server = open(&mut a, client(1));
    a.to(&from_client().udp(from, at(VPN), b"ike"));
    a.tell(&mut b);
    b.off_duty(true);
    let to_client = b.reply(server, client(1), tcp_flags::ACK);
    assert_eq!(to_client.len(), 1, "replies are translated all the same");
    let complaint = too_big_at_client(&to_client[0].1);
    let frames = [
        tcp(client(1), tcp_flags::ACK),
        tcp(client(2), tcp_flags::SYN),
        from_client().ip(from.ip(), at(VPN).ip(), proto::ESP, &[0xee; 64]),
        complaint,
    ];
    for (n, frame) in frames.iter().enumerate() {
        let punted = b.bed.sum(|c| c.punted.get());
        assert!(b.bed.client(frame).is_empty(), "frame {n}");
        assert_eq!(b.bed.sum(|c| c.punted.get()), punted + 1, "frame {n}");
    }
    assert_eq!(b.connections(), 2);
    b.check_counts();
}
