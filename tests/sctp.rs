//! SCTP, and AH and ESP, packet by packet in virtual time: the state machine against its table, the CRC, workers,
//! fragments, ICMP errors, and the switches that LVS has for starting and ending connections.

mod bed;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;

use bed::*;
use polder::forward::defs::MarkRule;
use polder::forward::{DestDef, ServiceDef, ServiceKind, Setup, Switches};
use polder::net::Af;
use polder::net::build::{fragment, verify};
use polder::net::icmp::IcmpError;
use polder::net::packet::{proto, tcp_flags};
use polder::table::state::{Row, SctpEvent, SctpState, StateTimeouts, sctp_next};
use polder::table::{AdminState, Direction, Method, flag};
use polder::worker::ConnRow;

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const ERROR: u8 = 9;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// One chunk for each of the ten events.
const EVENTS: [u8; 10] = [
    DATA,
    INIT,
    INIT_ACK,
    COOKIE_ECHO,
    COOKIE_ACK,
    SHUTDOWN,
    SHUTDOWN_ACK,
    SHUTDOWN_COMPLETE,
    ERROR,
    ABORT,
];

/// A chunk with an odd number of bytes in it, padded.
fn chunk(kind: u8) -> Vec<u8> {
    vec![kind, 0, 0, 9, 1, 2, 3, 4, 5, 0, 0, 0]
}

const VIP6: &str = "[2001:db8:9::1]:80";

fn sctp_service(servers: Vec<DestDef>) -> Vec<ServiceDef> {
    vec![service(proto::SCTP, VIP, servers)]
}

fn with(services: Vec<ServiceDef>, switches: Switches) -> Setup {
    Setup {
        switches,
        ..setup(services)
    }
}

fn client(n: u16) -> SocketAddr {
    SocketAddr::new(ip("203.0.113.9"), 40_000 + n)
}

/// The client's packet of one chunk.
fn asks(bed: &mut Bed, from: SocketAddr, kind: u8) -> Out {
    let to = if from.is_ipv4() { at(VIP) } else { at(VIP6) };
    bed.client(&from_client().sctp(from, to, &chunk(kind)))
}

/// The server's packet of one chunk to the client.
fn answers(bed: &mut Bed, server: SocketAddr, to: SocketAddr, kind: u8) -> Out {
    let frame = from_server(&server.ip().to_string()).sctp(server, to, &chunk(kind));
    bed.server(&frame)
}

fn row(bed: &mut Bed, of: SocketAddr) -> Option<ConnRow> {
    let rows = bed.bed.connections();
    rows.into_iter()
        .find(|row| row.client == (of.ip(), of.port()))
}

fn state(bed: &mut Bed, of: SocketAddr) -> Option<SctpState> {
    row(bed, of).map(|row| SctpState::from_code(row.state))
}

/// Shared counts are what a walk of the tables gives.
type Step = (Direction, u8);

/// A shortest way to every state that a connection can come to by `rows`, the first packet being the client's.
fn ways(rows: &[(Direction, Row)]) -> BTreeMap<SctpState, Vec<Step>> {
    let mut ways = BTreeMap::<SctpState, Vec<Step>>::new();
    let mut next = vec![(SctpState::None, Vec::<Step>::new())];
    while !next.is_empty() {
        let mut found = Vec::new();
        for (from, way) in &next {
            for (direction, row) in rows {
                let first = way.is_empty();
                for kind in EVENTS {
                    if first && (*direction == Direction::FromServer || kind == ABORT) {
                        continue;
                    }
                    let to = sctp_next(*row, SctpEvent::of(kind, None), *from);
                    let mut longer = way.clone();
                    longer.push((*direction, kind));
                    if let Entry::Vacant(place) = ways.entry(to) {
                        place.insert(longer.clone());
                        found.push((to, longer));
                    }
                }
            }
        }
        next = found;
    }
    ways
}

/// Walks every transition out of every state that packets can lead to, and returns how many states and transitions
/// those were.
fn walk_the_table(method: Method, rows: &[(Direction, Row)]) -> (usize, usize) {
    let servers = vec![DestDef {
        method,
        ..dest("10.0.0.11", 80)
    }];
    let switches = Switches {
        sloppy_sctp: true,
        conn_reuse_mode: 0,
        ..Switches::default()
    };
    let setup = with(sctp_service(servers), switches);
    let (timeouts, ways, mut walked) = (StateTimeouts::default(), ways(rows), 0);
    let server = at("10.0.0.11:80");
    for (from, way) in &ways {
        // One bed for each state: all of its connections are walked side by side.
        let mut bed = Bed::with(&setup, 1);
        let send = |bed: &mut Bed, client: SocketAddr, (direction, kind): Step| {
            let out = match direction {
                Direction::FromClient => asks(bed, client, kind),
                Direction::FromServer => answers(bed, server, client, kind),
            };
            assert_eq!(out.len(), 1, "{from:?} {direction:?} {kind}");
            verify(&out[0].1).expect("the CRC is right");
        };
        let mut expected = BTreeMap::new();
        for (direction, row) in rows {
            for kind in EVENTS {
                let client = client(u16::try_from(expected.len()).expect("few"));
                for step in way {
                    send(&mut bed, client, *step);
                }
                send(&mut bed, client, (*direction, kind));
                let to = sctp_next(*row, SctpEvent::of(kind, None), *from);
                expected.insert((client.ip(), client.port()), (to, *row, kind));
            }
        }
        for row in bed.bed.connections() {
            let (to, table_row, kind) = expected[&row.client];
            let got = SctpState::from_code(row.state);
            assert_eq!(got, to, "{table_row:?} {kind} in {from:?}");
            assert_eq!(row.expires, timeouts.of(proto::SCTP, row.state), "{got:?}");
            assert_eq!(row.flags & flag::INACTIVE == 0, got.is_active(), "{got:?}");
            walked += 1;
        }
        assert_eq!(bed.bed.connections().len(), expected.len());
        bed.check_counts();
    }
    (ways.len(), walked)
}

#[test]
fn packets_make_every_transition_that_the_table_has() {
    let rows = [
        (Direction::FromClient, Row::In),
        (Direction::FromServer, Row::Out),
    ];
    // All states but NONE, which no packet leads to.
    assert_eq!(walk_the_table(Method::Masq, &rows), (13, 260));
}

#[test]
fn packets_of_clients_whose_replies_are_not_seen_make_the_transitions_of_their_own_rows() {
    let (states, walked) = walk_the_table(Method::Direct, &[(Direction::FromClient, Row::InOnly)]);
    // An association that is not aborted before it is seen comes to INIT1, INIT, C-ECHOED, ESTABLISHED, S-RECEIVED and
    // CLOSED.
    assert_eq!((states, walked), (6, 60));
    walk_the_table(Method::Tunnel, &[(Direction::FromClient, Row::InOnly)]);
}

#[test]
fn an_association_is_masqueraded_both_ways_whatever_the_number_of_workers() {
    for workers in [1, 2, 4] {
        for v6 in [false, true] {
            let servers = |v6: bool| -> Vec<DestDef> {
                let net = if v6 { "2001:db8:2::" } else { "10.0.0." };
                (11..=13)
                    .map(|n| dest(&format!("{net}{n}"), 3868))
                    .collect()
            };
            let services = vec![
                service(proto::SCTP, VIP, servers(false)),
                service(proto::SCTP, VIP6, servers(true)),
            ];
            let mut bed = Bed::with(&setup(services), workers);
            let vip = at(if v6 { VIP6 } else { VIP });
            for n in 0..20 {
                let from = if v6 {
                    SocketAddr::new(ip("2001:db8:7::9"), 40_000 + n)
                } else {
                    client(n)
                };
                let out = asks(&mut bed, from, INIT);
                let (src, server, ttl) = ends(&out[0].1);
                assert_eq!((src, server.port(), ttl), (from, 3868, 63));
                for (kind, from_server, then) in [
                    (INIT_ACK, true, SctpState::CookieSent),
                    (COOKIE_ECHO, false, SctpState::CookieReplied),
                    (COOKIE_ACK, true, SctpState::Established),
                    (DATA, false, SctpState::Established),
                    (DATA, true, SctpState::Established),
                    (SHUTDOWN, false, SctpState::ShutdownReceived),
                    (SHUTDOWN_ACK, true, SctpState::ShutdownAckSent),
                    (SHUTDOWN_COMPLETE, false, SctpState::Closed),
                ] {
                    let (out, expected) = if from_server {
                        (answers(&mut bed, server, from, kind), (vip, from, 63))
                    } else {
                        (asks(&mut bed, from, kind), (from, server, 63))
                    };
                    assert_eq!(ends(&out[0].1), expected, "{workers} workers, chunk {kind}");
                    assert_eq!(state(&mut bed, from), Some(then), "chunk {kind}");
                }
            }
            assert_eq!(bed.bed.connections().len(), 20);
            assert_eq!(bed.sum(|c| c.handed_in.get()) > 0, workers > 1);
            bed.check_counts();
        }
    }
}

#[test]
fn round_robin_is_the_same_whatever_the_number_of_workers() {
    let run = |workers| {
        let mut bed = Bed::with(&setup(sctp_service(three())), workers);
        (0..30)
            .map(|n| ends(&asks(&mut bed, client(n), INIT)[0].1).1)
            .collect::<Vec<_>>()
    };
    let one = run(1);
    assert_eq!((run(2), run(4)), (one.clone(), one));
}

#[test]
fn only_an_init_starts_an_association() {
    let mut bed = Bed::new(sctp_service(three()));
    for (n, kind) in (0..).zip(EVENTS.into_iter().filter(|kind| *kind != INIT)) {
        assert!(asks(&mut bed, client(n), kind).is_empty(), "chunk {kind}");
    }
    assert_eq!(bed.sum(|c| c.punted.get()), 9, "the kernel answers");
    assert!(bed.bed.connections().is_empty());
    assert_eq!(asks(&mut bed, client(0), INIT).len(), 1);
    bed.check_counts();
}

#[test]
fn sloppy_sctp_starts_an_association_with_anything_but_an_abort() {
    let switches = Switches {
        sloppy_sctp: true,
        ..Switches::default()
    };
    let mut bed = Bed::with(&with(sctp_service(three()), switches), 1);
    for (n, kind) in (0..).zip(EVENTS) {
        let sent = asks(&mut bed, client(n), kind).len();
        assert_eq!(sent, usize::from(kind != ABORT), "chunk {kind}");
        let made =
            (kind != ABORT).then(|| sctp_next(Row::In, SctpEvent::of(kind, None), SctpState::None));
        assert_eq!(state(&mut bed, client(n)), made, "chunk {kind}");
    }
    assert_eq!(bed.sum(|c| c.punted.get()), 1);
}

#[test]
fn a_packet_without_a_whole_chunk_starts_nothing_and_changes_nothing() {
    let mut bed = Bed::new(sctp_service(three()));
    for len in 0..4 {
        let cut = &chunk(INIT)[..len];
        assert!(
            bed.client(&from_client().sctp(client(1), at(VIP), cut))
                .is_empty()
        );
    }
    assert_eq!(bed.drops(), [("l4_short", 4)].into());
    asks(&mut bed, client(1), INIT);
    let before = row(&mut bed, client(1));
    let out = bed.client(&from_client().sctp(client(1), at(VIP), &[ABORT, 0, 0]));
    ends(&out[0].1);
    let after = row(&mut bed, client(1));
    let state = |row: Option<ConnRow>| row.map(|row| (row.state, row.expires));
    assert_eq!(state(after), state(before), "INIT1 for 4 s");
    // Too short for the ports.
    let mut nine = from_client().ip(client(1).ip(), at(VIP).ip(), proto::SCTP, &[0x9c; 9]);
    assert!(bed.client(&nine).is_empty());
    nine.truncate(14 + 20);
    assert!(bed.client(&nine).is_empty());
    bed.check_identity();
}

#[test]
fn an_abort_behind_a_cookie_is_an_abort() {
    for (second, then) in [(ABORT, SctpState::Closed), (DATA, SctpState::CookieReplied)] {
        let mut bed = Bed::new(sctp_service(vec![dest("10.0.0.11", 80)]));
        asks(&mut bed, client(1), INIT);
        answers(&mut bed, at("10.0.0.11:80"), client(1), INIT_ACK);
        let two = [chunk(COOKIE_ECHO), chunk(second)].concat();
        bed.client(&from_client().sctp(client(1), at(VIP), &two));
        assert_eq!(state(&mut bed, client(1)), Some(then));
    }
    // A length that leads nowhere is not followed.
    for len in [0u16, 3, 5000, u16::MAX] {
        let mut bed = Bed::new(sctp_service(vec![dest("10.0.0.11", 80)]));
        asks(&mut bed, client(1), INIT);
        answers(&mut bed, at("10.0.0.11:80"), client(1), INIT_ACK);
        let mut two = [chunk(COOKIE_ECHO), chunk(ABORT)].concat();
        two[2..4].copy_from_slice(&len.to_be_bytes());
        bed.client(&from_client().sctp(client(1), at(VIP), &two));
        assert_eq!(
            state(&mut bed, client(1)),
            Some(SctpState::CookieReplied),
            "{len}"
        );
    }
}

#[test]
fn a_damaged_packet_is_still_damaged_when_it_leaves() {
    let mut bed = Bed::new(sctp_service(vec![dest("10.0.0.11", 8080)]));
    for at_byte in [14 + 20 + 4, 14 + 20 + 9, 14 + 20 + 20] {
        let mut frame = from_client().sctp(client(1), at(VIP), &chunk(INIT));
        frame[at_byte] ^= 0x40;
        let out = bed.client(&frame);
        let mut sent = out[0].1.clone();
        assert!(verify(&sent).is_err(), "byte {at_byte}");
        sent[at_byte] ^= 0x40;
        assert_eq!(verify(&sent), Ok(()));
    }
}

#[test]
fn where_no_port_changes_the_crc_is_left_alone() {
    let mut bed = Bed::new(sctp_service(vec![dest("10.0.0.11", 80)]));
    let frame = from_client().sctp(client(1), at(VIP), &chunk(INIT));
    let out = bed.client(&frame);
    assert_eq!(out[0].1[34..], frame[34..]);
}

#[test]
fn an_init_on_a_closed_association_is_scheduled_afresh_and_not_lost() {
    for (mode, moved) in [(1, true), (0, false), (3, true)] {
        let switches = Switches {
            conn_reuse_mode: mode,
            ..Switches::default()
        };
        let mut bed = Bed::with(&with(sctp_service(three()), switches), 1);
        let first = ends(&asks(&mut bed, client(1), INIT)[0].1).1;
        let repeated = ends(&asks(&mut bed, client(1), INIT)[0].1).1;
        assert_eq!(repeated, first, "in INIT1 it is the same association");
        asks(&mut bed, client(1), ABORT);
        assert_eq!(state(&mut bed, client(1)), Some(SctpState::Closed));
        let second = ends(&asks(&mut bed, client(1), INIT)[0].1).1;
        assert_eq!(second != first, moved, "conn_reuse_mode {mode}");
        let then = if moved {
            SctpState::Init1
        } else {
            SctpState::Init
        };
        assert_eq!(state(&mut bed, client(1)), Some(then));
        assert_eq!(bed.bed.connections().len(), 1);
        bed.check_counts();
    }
}

#[test]
fn conn_reuse_mode_says_what_a_syn_on_an_old_tcp_connection_means() {
    // Mode, what came before, forwarding, whether a server is chosen anew.
    for (mode, before, method, moved) in [
        (0, tcp_flags::RST, Method::Masq, false),
        (1, tcp_flags::RST, Method::Masq, true),
        (1, tcp_flags::FIN, Method::Direct, false),
        (2, tcp_flags::FIN, Method::Direct, true),
        (3, tcp_flags::FIN, Method::Direct, true),
        (2, tcp_flags::ACK, Method::Direct, false),
    ] {
        let servers = three().into_iter().map(|d| DestDef { method, ..d });
        let services = vec![service(proto::TCP, VIP, servers.collect())];
        let switches = Switches {
            conn_reuse_mode: mode,
            ..Switches::default()
        };
        let mut bed = Bed::with(&with(services, switches), 1);
        let send = |bed: &mut Bed, flags| {
            bed.client(&from_client().tcp(client(1), at(VIP), flags, 1, b""));
            let row = row(bed, client(1)).expect("a connection");
            row.dest
        };
        send(&mut bed, tcp_flags::SYN);
        let first = send(&mut bed, tcp_flags::ACK);
        send(&mut bed, before);
        let then = send(&mut bed, tcp_flags::SYN);
        assert_eq!(then != first, moved, "mode {mode}, {before:#x}, {method:?}");
    }
}

#[test]
fn sloppy_tcp_starts_a_connection_with_anything_but_a_reset() {
    for sloppy in [false, true] {
        let switches = Switches {
            sloppy_tcp: sloppy,
            ..Switches::default()
        };
        let mut bed = Bed::with(&with(tcp_service(), switches), 1);
        for (n, flags, with_it, state) in [
            (1, tcp_flags::ACK, true, 1),
            (2, tcp_flags::FIN, true, 6),
            (3, 0, true, 6),
            (4, tcp_flags::RST, false, 0),
            (5, tcp_flags::RST | tcp_flags::SYN, false, 0),
        ] {
            bed.client(&from_client().tcp(client(n), at(VIP), flags, 1, b""));
            let made = row(&mut bed, client(n)).map(|row| row.state);
            assert_eq!(made, (sloppy && with_it).then_some(state), "{flags:#x}");
        }
        bed.check_counts();
    }
}

#[test]
fn an_association_amid_is_not_given_to_another_server() {
    for (expire, sloppy) in [(false, false), (true, false), (true, true)] {
        let switches = Switches {
            expire_nodest_conn: expire,
            sloppy_sctp: sloppy,
            ..Switches::default()
        };
        let mut services = sctp_service(three());
        let mut bed = Bed::with(&with(services.clone(), switches), 1);
        let first = ends(&asks(&mut bed, client(1), INIT)[0].1).1;
        services[0].servers.retain(|s| s.addr != first.ip());
        bed.bed.apply(&with(services, switches)).expect("applied");
        let out = asks(&mut bed, client(1), DATA);
        if sloppy {
            assert_ne!(ends(&out[0].1).1, first);
        } else {
            assert!(out.is_empty());
            let dropped = usize::from(!expire);
            assert_eq!(
                bed.bed.connections().len(),
                dropped,
                "forgotten when told to"
            );
            assert_eq!(bed.drops().len(), dropped, "{:?}", bed.drops());
        }
        let out = asks(&mut bed, client(1), INIT);
        assert_ne!(ends(&out[0].1).1, first, "an INIT always begins anew");
        bed.check_counts();
    }
}

#[test]
fn expire_nodest_conn_lets_tcp_connections_of_a_removed_server_be_reset() {
    for expire in [false, true] {
        let switches = Switches {
            expire_nodest_conn: expire,
            ..Switches::default()
        };
        let mut services = tcp_service();
        let mut bed = Bed::with(&with(services.clone(), switches), 1);
        let send = |bed: &mut Bed, flags| {
            bed.client(&from_client().tcp(client(1), at(VIP), flags, 1, b""))
        };
        let first = ends(&send(&mut bed, tcp_flags::SYN)[0].1).1;
        services[0].servers.retain(|s| s.addr != first.ip());
        bed.bed.apply(&with(services, switches)).expect("applied");
        assert!(send(&mut bed, tcp_flags::ACK).is_empty());
        assert_eq!(bed.sum(|c| c.punted.get()), u64::from(expire));
        assert_eq!(bed.bed.connections().is_empty(), expire);
    }
}

#[test]
fn expire_nodest_conn_moves_a_client_that_begins_anew_off_a_server_of_weight_0() {
    for expire in [false, true] {
        let switches = Switches {
            expire_nodest_conn: expire,
            ..Switches::default()
        };
        let mut services = tcp_service();
        services.extend(sctp_service(three()));
        let mut bed = Bed::with(&with(services.clone(), switches), 1);
        let syn = |bed: &mut Bed, flags| {
            let frame = from_client().tcp(client(1), at(VIP), flags, 1, b"");
            ends(&bed.client(&frame)[0].1).1
        };
        let tcp = syn(&mut bed, tcp_flags::SYN);
        let sctp = ends(&asks(&mut bed, client(2), INIT)[0].1).1;
        for s in services.iter_mut().flat_map(|s| &mut s.servers) {
            s.weight = u32::from(s.addr != tcp.ip() && s.addr != sctp.ip());
        }
        bed.bed.apply(&with(services, switches)).expect("applied");
        assert_eq!(syn(&mut bed, tcp_flags::ACK), tcp, "what goes on goes on");
        assert_eq!(syn(&mut bed, tcp_flags::SYN) != tcp, expire);
        let again = ends(&asks(&mut bed, client(2), INIT)[0].1).1;
        assert_eq!(again != sctp, expire);
        bed.check_counts();
    }
}

#[test]
fn associations_of_a_client_stay_on_their_server_and_assure_its_template() {
    for workers in [1, 2, 4] {
        let mut services = sctp_service(three());
        services[0].persistence = Some(persistence(60));
        let mut bed = Bed::with(&setup(services), workers);
        let mut servers: Vec<_> = (0..12)
            .map(|n| ends(&asks(&mut bed, client(n), INIT)[0].1).1)
            .collect();
        let server = servers[0];
        servers.dedup();
        assert_eq!(servers.len(), 1, "{workers} workers");
        let assured = |bed: &Bed| bed.bed.templates().iter().map(|t| t.assured).collect();
        answers(&mut bed, server, client(3), INIT_ACK);
        let now: Vec<bool> = assured(&bed);
        assert_eq!(now, [false], "a server's packet alone says nothing");
        asks(&mut bed, client(3), COOKIE_ECHO);
        answers(&mut bed, server, client(3), COOKIE_ACK);
        let now: Vec<bool> = assured(&bed);
        assert_eq!(now, [true]);
        // Controlled: an INIT never begins anew on the same ports.
        asks(&mut bed, client(3), ABORT);
        asks(&mut bed, client(3), INIT);
        assert_eq!(state(&mut bed, client(3)), Some(SctpState::Init));
        bed.check_counts();
    }
}

#[test]
fn timeouts_of_sctp_are_the_configured_ones() {
    let mut setup = setup(sctp_service(three()));
    setup.timeouts.sctp_init1 = std::time::Duration::from_secs(7);
    let mut bed = Bed::with(&setup, 1);
    asks(&mut bed, client(1), INIT);
    assert_eq!(row(&mut bed, client(1)).expect("one").expires, 700);
    bed.bed.advance(sec(6));
    assert_eq!(bed.bed.connections().len(), 1);
    bed.bed.advance(sec(8));
    assert!(bed.bed.connections().is_empty());
    bed.check_counts();
}

#[test]
fn an_association_in_fragments_is_masqueraded_with_its_crc() {
    for workers in [1, 2, 4] {
        let mut bed = Bed::with(&setup(sctp_service(vec![dest("10.0.0.11", 8080)])), workers);
        let mut long = chunk(INIT);
        long[2..4].copy_from_slice(&2000u16.to_be_bytes());
        long.resize(2000, 7);
        let whole = from_client().id(9).sctp(client(1), at(VIP), &long);
        let mut out = Out::new();
        // The last comes first.
        for piece in fragment(&whole, 1000).iter().rev() {
            out.extend(bed.client(piece));
        }
        out.sort_by_key(|(_, f)| u16::from_be_bytes([f[20], f[21]]) & 0x1fff);
        let sent: Vec<u8> = out.iter().flat_map(|(_, f)| f[34..].to_vec()).collect();
        let expected = from_client().sctp(client(1), at("10.0.0.11:8080"), &long);
        assert_eq!(sent, expected[34..], "{workers} workers");
        assert_eq!(state(&mut bed, client(1)), Some(SctpState::Init1));
        bed.check_counts();
    }
}

#[test]
fn icmp_errors_about_an_association_reach_whom_they_concern() {
    for workers in [1, 2, 4] {
        let mut bed = Bed::with(&setup(sctp_service(vec![dest("10.0.0.11", 8080)])), workers);
        let server = at("10.0.0.11:8080");
        let to_server = asks(&mut bed, client(1), INIT).remove(0).1;
        let error = from_server("10.0.0.11").icmp_error(
            IcmpError::PortUnreachable,
            server.ip(),
            &to_server,
        );
        let out = bed.server(&error);
        let (src, dst, _) = ends(&out[0].1);
        assert_eq!((src.ip(), dst.ip()), (at(VIP).ip(), client(1).ip()));
        let quoted = &out[0].1[14 + 20 + 8 + 20..][..4];
        assert_eq!(
            quoted,
            [0x9c, 0x41, 0, 80],
            "the ports that the client knows"
        );
        let to_client = answers(&mut bed, server, client(1), INIT_ACK).remove(0).1;
        let error =
            from_client().icmp_error(IcmpError::TooBig { mtu: 1400 }, ip("192.0.2.1"), &to_client);
        let out = bed.client(&error);
        assert_eq!(ends(&out[0].1).1.ip(), server.ip());
        let quoted = &out[0].1[14 + 20 + 8 + 20..][..4];
        assert_eq!(quoted, [0x1f, 0x90, 0x9c, 0x41], "{workers} workers");
        assert_eq!(state(&mut bed, client(1)), Some(SctpState::CookieSent));
    }
}

#[test]
fn without_a_server_the_client_is_told() {
    let mut bed = Bed::new(sctp_service(Vec::new()));
    let out = asks(&mut bed, client(1), INIT);
    let (src, dst, _) = ends(&out[0].1);
    assert_eq!((src.ip(), dst.ip()), (at(VIP).ip(), client(1).ip()));
    assert_eq!(out[0].1[34..36], [3, 3], "port unreachable");
    assert_eq!(bed.drops(), [("no_server", 1)].into());
}

/// A service of the key exchange.
fn ike(method: Method) -> Vec<ServiceDef> {
    let servers = three().into_iter().map(|d| DestDef {
        method,
        port: 500,
        ..d
    });
    vec![service(proto::UDP, "198.51.100.1:500", servers.collect())]
}

/// ESP and AH between two hosts.
fn protected(from: SocketAddr, to: SocketAddr) -> Vec<(u8, Vec<u8>)> {
    [proto::ESP, proto::AH]
        .into_iter()
        .map(|kind| {
            let frame = if to.ip() == at(VIP).ip() {
                from_client()
            } else {
                from_server(&from.ip().to_string())
            };
            (kind, frame.ip(from.ip(), to.ip(), kind, &[0xee; 60]))
        })
        .collect()
}

#[test]
fn ah_and_esp_follow_the_key_exchange_both_ways_on_any_number_of_workers() {
    for workers in [1, 2, 4] {
        let mut bed = Bed::with(&setup(ike(Method::Masq)), workers);
        let vip = at("198.51.100.1:500");
        for n in 1..20 {
            let from = SocketAddr::new(ip(&format!("203.0.113.{n}")), 500);
            for (_, frame) in protected(from, vip) {
                assert!(bed.client(&frame).is_empty(), "nothing is scheduled");
            }
            let out = bed.client(&from_client().udp(from, vip, b"IKE"));
            let server = ends(&out[0].1).1;
            for (kind, frame) in protected(from, vip) {
                let out = bed.client(&frame);
                let (src, dst, ttl) = ends(&out[0].1);
                assert_eq!((src.ip(), dst.ip(), ttl), (from.ip(), server.ip(), 63));
                assert_eq!(out[0].1[23], kind);
                assert_eq!(out[0].1[34..], frame[34..], "nothing but the address");
            }
            for (kind, frame) in protected(server, from) {
                let out = bed.server(&frame);
                let (src, dst, _) = ends(&out[0].1);
                assert_eq!((src.ip(), dst.ip()), (vip.ip(), from.ip()), "{kind}");
            }
        }
        assert_eq!(bed.sum(|c| c.punted.get()), 38);
        let rows = bed.bed.connections();
        assert_eq!(rows.len(), 19);
        assert!(rows.iter().all(|row| row.in_pkts == 3), "{rows:?}");
        bed.check_counts();
    }
}

#[test]
fn esp_follows_the_key_exchange_of_a_marked_service() {
    for workers in [1, 3] {
        let mut services = ike(Method::Masq);
        services[0].kind = ServiceKind::Mark {
            af: Af::V4,
            mark: 7,
        };
        let mut setup = setup(services);
        setup.marks.push(MarkRule {
            mark: 7,
            proto: Some(proto::UDP),
            ports: Some((500, 500)),
            ..MarkRule::default()
        });
        let mut bed = Bed::with(&setup, workers);
        let vip = at("198.51.100.1:500");
        for n in 1..10 {
            let from = SocketAddr::new(ip(&format!("203.0.113.{n}")), 500);
            let out = bed.client(&from_client().udp(from, vip, b"IKE"));
            let server = ends(&out[0].1).1;
            let out = bed.client(&protected(from, vip)[0].1);
            assert_eq!(ends(&out[0].1).1.ip(), server.ip(), "{workers} workers");
            let out = bed.server(&protected(server, from)[0].1);
            assert_eq!(ends(&out[0].1).0.ip(), vip.ip(), "{workers} workers");
        }
        bed.check_counts();
    }
}

#[test]
fn esp_keeps_the_entry_that_it_follows() {
    let mut bed = Bed::new(ike(Method::Direct));
    let (from, vip) = (at("203.0.113.9:500"), at("198.51.100.1:500"));
    bed.client(&from_client().udp(from, vip, b"IKE"));
    bed.now = sec(299);
    let esp = &protected(from, vip)[0].1;
    let out = bed.client(esp);
    assert_eq!(
        out[0].1[30..34],
        esp[30..34],
        "direct: the virtual address stays"
    );
    bed.bed.advance(sec(598));
    assert_eq!(bed.bed.connections().len(), 1);
    bed.bed.advance(sec(600));
    assert!(bed.bed.connections().is_empty());
    bed.now = sec(600);
    assert!(bed.client(esp).is_empty());
    bed.check_counts();
}

#[test]
fn esp_in_fragments_and_through_a_tunnel_goes_the_same_way() {
    for method in [Method::Masq, Method::Tunnel, Method::Direct] {
        let mut bed = Bed::with(&setup(ike(method)), 2);
        let (from, vip) = (at("203.0.113.9:500"), at("198.51.100.1:500"));
        bed.client(&from_client().udp(from, vip, b"IKE"));
        let server = row(&mut bed, from).expect("one").dest.0;
        let esp = from_client().ip(from.ip(), vip.ip(), proto::ESP, &[0xee; 1400]);
        for piece in fragment(&esp, 600) {
            let out = bed.client(&piece);
            assert_eq!(macs(&out[0].1).0, server_mac(server), "{method:?}");
            if method != Method::Direct {
                assert_eq!(ends(&out[0].1).1.ip(), server);
            }
        }
        bed.check_identity();
    }
}

#[test]
fn icmp_errors_about_esp_are_translated() {
    let mut bed = Bed::with(&setup(ike(Method::Masq)), 3);
    let (from, vip) = (at("203.0.113.9:500"), at("198.51.100.1:500"));
    let out = bed.client(&from_client().udp(from, vip, b"IKE"));
    let server = ends(&out[0].1).1;
    let esp = bed.client(&protected(from, vip)[0].1).remove(0).1;
    let error = from_server(&server.ip().to_string()).icmp_error(
        IcmpError::TooBig { mtu: 1300 },
        ip("10.0.0.99"),
        &esp,
    );
    let out = bed.server(&error);
    let (src, dst, _) = ends(&out[0].1);
    assert_eq!((src.ip(), dst.ip()), (vip.ip(), from.ip()));
    assert_eq!(out[0].1[14 + 20 + 8 + 16..][..4], [198, 51, 100, 1]);
}

#[test]
fn esp_of_a_server_that_is_gone_is_not_sent_to_it() {
    let mut bed = Bed::new(ike(Method::Masq));
    let (from, vip) = (at("203.0.113.9:500"), at("198.51.100.1:500"));
    let out = bed.client(&from_client().udp(from, vip, b"IKE"));
    let server = ends(&out[0].1).1.ip();
    let mut services = ike(Method::Masq);
    for s in &mut services[0].servers {
        if s.addr == server {
            s.admin = AdminState::Maint;
        }
    }
    bed.bed.apply(&setup(services)).expect("applied");
    assert!(bed.client(&protected(from, vip)[0].1).is_empty());
    assert_eq!(bed.sum(|c| c.punted.get()), 1);
    let out = bed.client(&from_client().udp(from, vip, b"IKE"));
    let next = ends(&out[0].1).1.ip();
    assert_ne!(next, server, "the key exchange finds another server");
    let out = bed.client(&protected(from, vip)[0].1);
    assert_eq!(ends(&out[0].1).1.ip(), next, "and ESP follows it there");
    bed.check_counts();
}

#[test]
fn hostile_sctp_frames_meet_one_fate_each() {
    let mut bed = Bed::with(&setup(sctp_service(three())), 2);
    let good = from_client().sctp(client(1), at(VIP), &[chunk(INIT), chunk(ABORT)].concat());
    bed.endure(&good);
}
