//! The connection table at its edges.

use crate::net::packet::proto;
use crate::net::{Addr4, FlowKey, HashKey, Tick, V4, V6};
use crate::table::{
    Conn, ConnIdx, ConnTable, Direction, Ends, Expiry, Hit, InsertError, Method, TableError,
    TcpState, flag,
};

const NOW: Tick = Tick(1_000);
const VIP: Addr4 = Addr4(0xc000_0201);

fn table(capacity: usize) -> ConnTable<V4> {
    ConnTable::new(capacity, HashKey::from_seed(3)).unwrap()
}

fn ends(client: u32, cport: u16) -> Ends<V4> {
    Ends {
        proto: proto::TCP,
        caddr: Addr4(0x0a00_0000 + client),
        cport,
        vaddr: VIP,
        vport: 80,
        daddr: Addr4(0xac10_0001),
        dport: 8080,
    }
}

fn masq(client: u32) -> Conn<V4> {
    Conn::new(&ends(client, 1024), Method::Masq)
}

fn in_state(client: u32, state: TcpState) -> Conn<V4> {
    let mut conn = masq(client);
    conn.state = state as u8;
    conn
}

fn udp(client: u32, in_pkts: u32) -> Conn<V4> {
    let mut conn = Conn::new(
        &Ends {
            proto: proto::UDP,
            ..ends(client, 1024)
        },
        Method::Masq,
    );
    conn.in_pkts = in_pkts;
    conn
}

fn found(table: &ConnTable<V4>, conn: &Conn<V4>) -> bool {
    table.lookup(&conn.request_key()).is_some()
}

#[test]
fn a_masqueraded_connection_is_found_from_both_ends() {
    let mut table = table(10);
    let conn = masq(1);
    let index = table.insert(&conn, NOW).unwrap();
    let hit = |direction| Some(Hit { index, direction });
    assert_eq!(
        table.lookup(&conn.request_key()),
        hit(Direction::FromClient)
    );
    assert_eq!(
        table.lookup(&conn.reply_key().unwrap()),
        hit(Direction::FromServer)
    );
    assert_eq!(table.lookup(&conn.request_key().reversed()), None);
}

#[test]
fn a_direct_connection_is_found_from_the_client_only() {
    let mut table = table(10);
    let conn = Conn::new(&ends(1, 1024), Method::Direct);
    table.insert(&conn, NOW).unwrap();
    assert!(found(&table, &conn));
    assert_eq!(conn.reply_key(), None);
    assert_eq!(table.lookup(&masq(1).reply_key().unwrap()), None);
}

#[test]
fn a_new_connection_has_the_specified_first_values() {
    let conn = masq(1);
    assert_eq!(conn.timeout(), 300);
    assert_eq!((conn.flags(), conn.state), (flag::INACTIVE, 0));
    assert_eq!(
        (conn.dest_id(), conn.service_id(), { conn.in_pkts }),
        (None, None, 0)
    );
    let direct = Conn::new(&ends(1, 1), Method::Direct);
    assert_eq!(direct.flags(), flag::INACTIVE | flag::NOOUTPUT | 3);
    assert_eq!(
        Conn::new(&ends(1, 1), Method::Tunnel).method(),
        Method::Tunnel
    );
}

#[test]
fn flags_can_change_but_not_the_forwarding_method() {
    let mut conn = Conn::new(&ends(1, 1), Method::Direct);
    conn.set_flags(flag::SYNC);
    assert_eq!(
        (conn.flags(), conn.method()),
        (flag::SYNC | 3, Method::Direct)
    );
}

#[test]
fn the_same_connection_is_not_stored_twice() {
    let mut table = table(10);
    let index = table.insert(&masq(1), NOW).unwrap();
    let mut other_server = ends(1, 1024);
    other_server.daddr = Addr4(1);
    let again = Conn::new(&other_server, Method::Masq);
    assert_eq!(table.insert(&again, NOW), Err(InsertError::Exists(index)));
    assert_eq!(
        table.insert_with_evict(&again, NOW),
        Err(InsertError::Exists(index))
    );
    assert_eq!(table.len(), 1);
}

#[test]
fn two_virtual_addresses_cannot_share_a_client_port_and_a_server_unseen() {
    let mut table = table(10);
    let index = table.insert(&masq(1), NOW).unwrap();
    let mut other = ends(1, 1024);
    other.vaddr = Addr4(VIP.0 + 1);
    let other = Conn::new(&other, Method::Masq);
    assert_eq!(
        table.insert(&other, NOW),
        Err(InsertError::Collision(index))
    );
    // The caller may choose to let the old one go.
    table.remove(index);
    assert!(table.insert(&other, NOW).is_ok());
}

#[test]
fn a_request_that_looks_like_another_connection_s_reply_is_refused() {
    let mut table = table(10);
    let index = table.insert(&masq(1), NOW).unwrap();
    let reply = masq(1).reply_key().unwrap();
    let posing = Ends {
        caddr: reply.src,
        cport: reply.src_port,
        vaddr: reply.dst,
        vport: reply.dst_port,
        ..ends(1, 1)
    };
    let posing = Conn::new(&posing, Method::Direct);
    assert_eq!(
        table.insert(&posing, NOW),
        Err(InsertError::Collision(index))
    );
}

#[test]
fn a_connection_of_an_end_with_itself_is_refused() {
    let mut own = ends(1, 80);
    (own.vaddr, own.vport, own.daddr, own.dport) = (own.caddr, 80, own.caddr, 80);
    assert_eq!(
        table(10).insert(&Conn::new(&own, Method::Masq), NOW),
        Err(InsertError::Loop)
    );
}

#[test]
fn a_table_of_one_takes_one() {
    let mut table = table(1);
    let index = table.insert(&masq(1), NOW).unwrap();
    assert_eq!(table.insert(&masq(2), NOW), Err(InsertError::Full));
    assert_eq!(table.remove(index).ends(), masq(1).ends());
    assert!(table.is_empty());
    assert!(table.insert(&masq(2), NOW).is_ok());
    assert!(found(&table, &masq(2)) && !found(&table, &masq(1)));
}

#[test]
fn impossible_capacities_are_refused_with_a_sentence() {
    for asked in [0, (1 << 30) + 1, usize::MAX] {
        let error = ConnTable::<V6>::new(asked, HashKey::from_seed(0)).unwrap_err();
        assert!(matches!(error, TableError::Capacity { .. }));
        assert!(
            error.to_string().contains("must have 1 to 1073741824"),
            "{error}"
        );
    }
}

#[test]
fn a_full_table_keeps_everything_and_refuses_the_new() {
    let mut table = table(2_000);
    for client in 0..2_000 {
        table
            .insert(&in_state(client, TcpState::Established), NOW)
            .unwrap();
    }
    assert_eq!(table.len(), table.capacity());
    for client in 2_000..2_500 {
        assert_eq!(
            table.insert_with_evict(&masq(client), NOW),
            Err(InsertError::Full)
        );
    }
    assert!((0..2_000).all(|client| found(&table, &masq(client))));
    assert_eq!(table.len(), 2_000);
}

#[test]
fn the_cheapest_connection_goes_first() {
    // In each row, the second of the two goes.
    let rows = [
        [in_state(1, TcpState::Close), in_state(2, TcpState::SynRecv)],
        [
            in_state(1, TcpState::Established),
            in_state(2, TcpState::TimeWait),
        ],
        [udp(1, 1), in_state(2, TcpState::LastAck)],
        [udp(1, 2), udp(2, 1)],
        [in_state(1, TcpState::Established), udp(2, 0)],
    ];
    for conns in rows {
        let mut table = table(2);
        for conn in &conns {
            table.insert(conn, NOW).unwrap();
        }
        let done = table
            .insert_with_evict(&in_state(9, TcpState::Established), NOW)
            .unwrap();
        assert_eq!(done.evicted.unwrap().ends(), conns[1].ends());
        assert!(found(&table, &conns[0]) && !found(&table, &conns[1]));
        assert_eq!(table.len(), 2);
    }
}

#[test]
fn nothing_is_evicted_while_there_is_room() {
    let mut table = table(2);
    table.insert(&in_state(1, TcpState::SynRecv), NOW).unwrap();
    assert_eq!(
        table.insert_with_evict(&masq(2), NOW).unwrap().evicted,
        None
    );
}

#[test]
fn the_search_for_a_victim_is_bounded_and_goes_on_where_it_stopped() {
    let mut table = table(1_000);
    for client in 0..1_000 {
        let state = if client == 999 {
            TcpState::SynRecv
        } else {
            TcpState::Established
        };
        table.insert(&in_state(client, state), NOW).unwrap();
    }
    // 64 entries at a time: the one at the end is found by the 16th attempt.
    for _ in 0..15 {
        assert_eq!(
            table.insert_with_evict(&masq(5_000), NOW),
            Err(InsertError::Full)
        );
    }
    let done = table.insert_with_evict(&masq(5_000), NOW).unwrap();
    assert_eq!(done.evicted.unwrap().ends(), masq(999).ends());
}

/// A key under which all flows from one client to one virtual address have one hash, whatever their
/// ports.
fn colliding_key() -> HashKey {
    HashKey([u64::from(0x0a00_0001u32) << 32 | u64::from(VIP.0), 0, 0, 0])
}

fn colliding(cport: u16) -> Conn<V4> {
    let mut conn = Conn::new(&ends(1, cport), Method::Direct);
    conn.state = TcpState::SynRecv as u8;
    conn
}

#[test]
fn an_attacker_who_knows_the_hash_fills_a_bounded_run_of_buckets_and_no_more() {
    let mut table = ConnTable::<V4>::new(1_000, colliding_key()).unwrap();
    assert_eq!(
        table.hash(&colliding(1).request_key()),
        table.hash(&colliding(2).request_key())
    );
    for cport in 0..128 {
        table.insert(&colliding(cport), NOW).unwrap();
    }
    assert_eq!(table.insert(&colliding(128), NOW), Err(InsertError::Full));
    assert_eq!(
        table.insert_with_evict(&colliding(128), NOW),
        Err(InsertError::Full)
    );
    assert!((0..128).all(|cport| found(&table, &colliding(cport))));
    let keys: Vec<_> = (0..130)
        .map(|cport| colliding(cport).request_key())
        .collect();
    let mut out = vec![None; keys.len()];
    table.lookup_burst(&keys, &mut out);
    assert!(out[..128].iter().all(Option::is_some) && out[128..].iter().all(Option::is_none));
    // Others are not concerned, and room that is made is used.
    assert!(table.insert(&masq(2), NOW).is_ok());
    table.remove(table.lookup(&keys[64]).unwrap().index);
    assert!(table.insert(&colliding(128), NOW).is_ok());
    assert!(found(&table, &colliding(128)) && !found(&table, &colliding(64)));
}

#[test]
fn nothing_is_evicted_for_a_connection_that_the_index_has_no_room_for() {
    let mut table = ConnTable::<V4>::new(129, colliding_key()).unwrap();
    for cport in 0..128 {
        table.insert(&colliding(cport), NOW).unwrap();
    }
    table.insert(&masq(0xab_cdef), NOW).unwrap();
    assert_eq!(table.len(), table.capacity());
    assert_eq!(
        table.insert_with_evict(&colliding(128), NOW),
        Err(InsertError::Full)
    );
    assert_eq!(table.len(), table.capacity());
}

#[test]
fn a_connection_whose_reply_key_finds_no_room_leaves_no_trace() {
    let reply = masq(1).reply_key().unwrap();
    let addresses = u64::from(reply.src.0) << 32 | u64::from(reply.dst.0);
    let mut table = ConnTable::<V4>::new(1_000, HashKey([addresses, 0, 0, 0])).unwrap();
    // Virtual addresses far apart, so that only the replies share their hash.
    let apart = |n: u16| Ends {
        vaddr: Addr4(u32::from(n).wrapping_mul(0x9e37_79b1)),
        ..ends(1, 20_000 + n)
    };
    let full = (0..200).find(|&n| {
        let inserted = table.insert(&Conn::new(&apart(n), Method::Masq), NOW);
        inserted == Err(InsertError::Full)
    });
    // The same request in the same entry, without a reply key: when it ends, nothing leads there.
    let direct = Conn::new(&apart(full.unwrap()), Method::Direct);
    let index = table.insert(&direct, NOW).unwrap();
    table.remove(index);
    assert!(!found(&table, &direct));
}

#[test]
fn a_result_of_a_burst_is_rechecked_when_the_table_changed() {
    let mut table = table(4);
    let (old, new) = (masq(1), masq(2));
    let index = table.insert(&old, NOW).unwrap();
    let keys = [old.request_key(), new.request_key()];
    let (mut out, then) = ([None; 2], table.changes());
    table.lookup_burst(&keys, &mut out);
    assert_eq!(table.recheck(&keys[0], out[0], then), out[0]);
    // The first packet of the burst ends the connection, and its entry goes to another.
    table.remove(index);
    assert_eq!(table.insert(&new, NOW), Ok(index));
    assert_eq!(table.recheck(&keys[0], out[0], then), None);
    let now = table.recheck(&keys[1], out[1], then).unwrap();
    assert_eq!((now.index, now.direction), (index, Direction::FromClient));
}

#[test]
#[should_panic(expected = "the connection has ended")]
fn an_ended_connection_can_t_be_read() {
    let mut table = table(4);
    let index = table.insert(&masq(1), NOW).unwrap();
    table.remove(index);
    let _ = table.get(index);
}

#[test]
#[should_panic(expected = "the connection has ended")]
fn a_connection_can_t_be_removed_twice() {
    let mut table = table(4);
    let index = table.insert(&masq(1), NOW).unwrap();
    table.remove(index);
    table.remove(index);
}

/// Runs the table tick by tick and returns the tick at which the only connection ended.
fn end_of(table: &mut ConnTable<V4>, mut now: Tick, limit: u32) -> Option<Tick> {
    let end = now.plus(limit);
    while now != end {
        now = now.plus(1);
        if table.expire(now, usize::MAX, |_, _| Expiry::Remove).removed > 0 {
            return Some(now);
        }
    }
    None
}

#[test]
fn a_connection_ends_its_timeout_after_its_last_packet() {
    for start in [Tick(0), Tick(8_100), Tick(u32::MAX - 150)] {
        let mut table = table(4);
        let index = table.insert(&masq(1).with_timeout(300), start).unwrap();
        assert_eq!(end_of(&mut table, start, 200), None);
        table.touch(index, start.plus(200));
        assert_eq!(
            end_of(&mut table, start.plus(200), 1_000),
            Some(start.plus(500))
        );
        assert!(table.is_empty());
    }
}

#[test]
fn a_shorter_timeout_takes_effect_at_once_and_a_longer_one_in_time() {
    let mut table = table(4);
    let index = table.insert(&masq(1).with_timeout(90_000), NOW).unwrap();
    table.set_timeout(index, 50, NOW);
    assert_eq!(end_of(&mut table, NOW, 100), Some(NOW.plus(50)));
    let index = table
        .insert(&masq(1).with_timeout(50), NOW.plus(50))
        .unwrap();
    table.set_timeout(index, 9_000, NOW.plus(60));
    assert_eq!(
        end_of(&mut table, NOW.plus(60), 10_000),
        Some(NOW.plus(9_060))
    );
}

#[test]
fn a_timeout_of_zero_ends_a_connection_in_the_next_tick() {
    let mut table = table(4);
    let index = table.insert(&masq(1), NOW).unwrap();
    table.expire(NOW, 10, |_, _| Expiry::Remove);
    table.set_timeout(index, 0, NOW);
    assert_eq!(table.expire(NOW, 10, |_, _| Expiry::Remove).removed, 0);
    assert_eq!(end_of(&mut table, NOW, 10), Some(NOW.plus(1)));
}

#[test]
fn a_timeout_beyond_31_days_is_cut_to_that() {
    const MONTH: u32 = 31 * 24 * 3600 * 100;
    let mut table = table(4);
    table.insert(&masq(1).with_timeout(u32::MAX), NOW).unwrap();
    assert_eq!(
        table
            .expire(NOW.plus(MONTH - 1), 10, |_, _| Expiry::Remove)
            .removed,
        0
    );
    assert_eq!(
        table
            .expire(NOW.plus(MONTH), 10, |_, _| Expiry::Remove)
            .removed,
        1
    );
}

#[test]
fn a_connection_that_is_given_more_time_keeps_that_timeout() {
    let mut table = table(4);
    let index = table.insert(&masq(1).with_timeout(10), NOW).unwrap();
    let swept = table.expire(NOW.plus(10), 10, |_, _| Expiry::Rearm(6_000));
    assert_eq!((swept.removed, swept.examined), (0, 1));
    assert_eq!(table.get(index).timeout(), 6_000);
    assert_eq!(table.get(index).remaining(NOW.plus(1_010)), 5_000);
    assert_eq!(
        end_of(&mut table, NOW.plus(10), 7_000),
        Some(NOW.plus(6_010))
    );
}

#[test]
fn a_sweep_stays_within_its_budget_and_goes_on_in_order() {
    let mut table = table(100);
    for client in 0..100 {
        table.insert(&masq(client), NOW).unwrap();
    }
    let mut order = Vec::new();
    for _ in 0..4 {
        let swept = table.expire(NOW.plus(300), 30, |index, _| {
            order.push(index);
            Expiry::Remove
        });
        assert_eq!(swept.examined, swept.removed);
        assert!(swept.removed <= 30);
    }
    assert!(order.into_iter().eq((0..100).map(ConnIdx)));
    assert!(table.is_empty());
}

#[test]
fn who_ends_is_told_while_still_readable() {
    let mut table = table(4);
    let mut conn = masq(1);
    conn.dest = 77;
    table.insert(&conn, NOW).unwrap();
    let mut dests = Vec::new();
    table.expire(NOW.plus(300), 10, |_, conn| {
        dests.extend(conn.dest_id());
        Expiry::Remove
    });
    assert_eq!(dests, [crate::table::DestId(77)]);
}

#[test]
fn packets_in_one_tick_leave_the_entry_alone() {
    let mut table = table(4);
    let index = table.insert(&masq(1), NOW).unwrap();
    let before = *table.get(index);
    table.touch(index, NOW);
    assert!(before == *table.get(index));
    table.touch(index, NOW.plus(1));
    assert_eq!(table.get(index).last_seen(), NOW.plus(1));
}

#[test]
fn a_listing_shows_each_lasting_connection_once_while_others_come_and_go() {
    let mut table = table(64);
    let indices: Vec<_> = (0..40)
        .map(|client| table.insert(&masq(client), NOW).unwrap())
        .collect();
    let mut shown = Vec::new();
    let (mut cursor, mut next) = (Some(0), 100);
    while let Some(at) = cursor {
        cursor = table.dump(at, 7, |_, conn| shown.push(conn.caddr().0 & 0xffff));
        // Between two steps, one that was not to last goes and a new one comes.
        if let Some(&index) = indices.get(next as usize - 100) {
            table.remove(index);
        }
        table.insert(&masq(next), NOW).unwrap();
        next += 1;
    }
    for client in 20..40 {
        assert_eq!(
            shown.iter().filter(|&&c| c == client).count(),
            1,
            "client {client}"
        );
    }
}

#[test]
fn protocols_are_told_apart() {
    let mut table = table(4);
    let tcp = table.insert(&masq(1), NOW).unwrap();
    let udp = table.insert(&udp(1, 0), NOW).unwrap();
    let key = |proto| FlowKey {
        proto,
        ..masq(1).request_key()
    };
    assert_eq!(table.lookup(&key(proto::TCP)).unwrap().index, tcp);
    assert_eq!(table.lookup(&key(proto::UDP)).unwrap().index, udp);
    assert_eq!(table.lookup(&key(proto::SCTP)), None);
}
