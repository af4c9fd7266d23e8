//! Which records are good, what of them counts, and what becomes of entries that are there.

use super::*;
use crate::net::Addr4;
use crate::table::Ends;

const SECOND: u32 = Tick::PER_SECOND;

fn record(proto: u8, flags: u32, state: u16) -> ConnRecord {
    ConnRecord {
        ends: AnyEnds::V4(Ends {
            proto,
            caddr: Addr4(0x0a00_0002),
            cport: 4001,
            vaddr: Addr4(0x0a00_0064),
            vport: 5060,
            daddr: Addr4(0x0a00_010b),
            dport: 5070,
        }),
        flags,
        state,
        mark: 0,
        timeout_s: 0,
        seq: None,
    }
}

fn judge<'a>(record: ConnRecord, engine: Option<Engine<'a>>) -> Result<Install<'a>, Rejected> {
    let terms = Terms {
        engines: &["sip"],
        timeouts: &StateTimeouts::default(),
        threshold: 3,
    };
    accept(&Record::new(record, engine), &terms)
}

fn entry(record: ConnRecord) -> Entry {
    *judge(record, None).expect("a good record").entry()
}

#[test]
fn only_states_of_registered_protocols_are_taken() {
    let tcp = |state| judge(record(6, 0, state), None).map(|_| ());
    assert_eq!(
        (tcp(10), tcp(11), tcp(257)),
        (Ok(()), Err(Rejected::State), Err(Rejected::State))
    );
    for (proto, states) in [(6, 11), (17, 1), (132, 14), (50, 1), (51, 1)] {
        let good = |s| judge(record(proto, 0, s), None).is_ok();
        assert!((0..states).all(good) && !good(states), "{proto}");
    }
    let of = |proto| judge(record(proto, 0, 0), None).map(|_| ());
    assert_eq!(
        (of(47), of(0)),
        (Err(Rejected::Protocol), Err(Rejected::Protocol))
    );
}

#[test]
fn a_template_may_have_any_protocol_and_two_states() {
    let of = |proto, state| judge(record(proto, flag::TEMPLATE, state), None).map(|_| ());
    assert_eq!(
        (of(0, 0), of(47, 1), of(17, 2)),
        (Ok(()), Ok(()), Err(Rejected::State))
    );
}

#[test]
fn a_template_of_an_engine_that_is_not_there_is_passed_over() {
    let of = |name| {
        judge(
            record(17, flag::TEMPLATE, 0),
            Some(Engine { name, data: b"x" }),
        )
    };
    assert!(of(b"sip").is_ok());
    assert_eq!(of(b"nosuchpe"), Err(Rejected::EngineUnknown));
    assert_eq!(of(b"sip\0"), Err(Rejected::EngineUnknown));
}

/// Specification §9.8.
#[test]
fn flags_are_masked_and_marked_as_synced() {
    assert_eq!(entry(record(6, !flag::TEMPLATE, 1)).flags, 0x0fa7);
    assert_eq!(entry(record(6, 0xffff_ffff, 1)).flags, 0x1fa7);
    assert_eq!(entry(record(6, flag::NFCT, 1)).flags, 0x0020);
}

#[test]
fn the_timeout_is_the_records_else_the_states_else_a_templates() {
    let with = |proto, flags, state, timeout_s| {
        let timeout_s = ConnRecord {
            timeout_s,
            ..record(proto, flags, state)
        };
        entry(timeout_s).timeout
    };
    assert_eq!(with(6, 0, 1, 700), 700 * SECOND);
    assert_eq!(with(6, 0, 1, 0), 900 * SECOND);
    assert_eq!(with(6, 0, 7, 0), 60 * SECOND);
    assert_eq!(with(17, 0, 0, 0), 300 * SECOND);
    assert_eq!(with(17, flag::TEMPLATE, 1, 0), 180 * SECOND);
    assert_eq!(with(17, flag::TEMPLATE, 1, 55), 55 * SECOND);
    assert_eq!(with(6, 0, 1, u32::MAX), MAX_TIMEOUT);
}

#[test]
fn an_entry_counts_as_having_met_the_threshold_and_its_state_as_told() {
    let entry = entry(record(6, 0, 7));
    assert_eq!((entry.in_pkts, entry.told()), (3, Told::received(7)));
}

#[test]
fn the_method_is_the_servers_where_there_is_one() {
    let of = |flags| entry(record(6, flags, 1));
    assert_eq!(of(0).method(None), Ok(Method::Masq));
    assert_eq!(of(3).method(None), Ok(Method::Direct));
    assert_eq!(of(3).method(Some(Method::Tunnel)), Ok(Method::Tunnel));
    for unknown in [1, 4, 5, 6, 7] {
        assert_eq!(of(unknown).method(None), Err(Rejected::Method));
        assert_eq!(of(unknown).method(Some(Method::Masq)), Ok(Method::Masq));
    }
    let record = of(3 | flag::NOOUTPUT | flag::INACTIVE);
    assert_eq!(record.flags_with(None), 0x01a3);
    assert_eq!(record.flags_with(Some(0)), 0x0120);
    assert_eq!(of(0).flags_with(Some(0x0182)), 0x00a2);
}

/// Specification §9.9: p0 = dport, except 0 for an entry of a mark that is not masqueraded.
#[test]
fn the_server_is_searched_by_the_ports_of_the_rule() {
    let of = |mark, method, dport| {
        let mut entry = entry(ConnRecord {
            mark,
            ..record(17, method, 0)
        });
        if let AnyEnds::V4(ends) = &mut entry.ends {
            ends.dport = dport;
        }
        let DestSearch { first, second } = entry.dest_search();
        (first, second)
    };
    assert_eq!(of(0, 0, 80), (80, Some(0)));
    assert_eq!(of(9, 0, 80), (80, Some(0)));
    assert_eq!(of(0, 3, 80), (80, Some(0)));
    assert_eq!(of(9, 3, 80), (0, Some(80)));
    assert_eq!(of(9, 3, 0), (0, None));
    assert_eq!(of(0, 0, 0), (0, None));
}

fn there(record: &Entry, dport: u16, flags: u16, bound: bool) -> Existing {
    let mut ends = record.ends;
    if let AnyEnds::V4(ends) = &mut ends {
        ends.dport = dport;
    }
    Existing { ends, flags, bound }
}

#[test]
fn a_connection_to_another_server_is_replaced_unless_the_record_is_a_late_goodbye() {
    let live = entry(record(6, 0, 1));
    let gone = entry(record(6, flag::INACTIVE, 5));
    assert_eq!(update_conn(&live, None), Update::Create);
    assert_eq!(
        update_conn(&live, Some(&there(&live, 1, 0, true))),
        Update::Replace
    );
    assert_eq!(
        update_conn(&gone, Some(&there(&gone, 1, 0, true))),
        Update::Ignore
    );
    assert!(matches!(
        update_conn(&gone, Some(&there(&gone, 5070, 0, true))),
        Update::Refresh { .. }
    ));
}

#[test]
fn a_template_is_never_led_elsewhere() {
    let template = entry(record(17, flag::TEMPLATE, 1));
    assert_eq!(update_template(&template, None), Update::Create);
    let existing = there(&template, 1, 0x1000, true);
    let kept = Update::Refresh {
        flags: 0x1000,
        active: 0,
        bind: false,
    };
    assert_eq!(update_template(&template, Some(&existing)), kept);
}

#[test]
fn only_inactive_and_seq_are_taken_from_a_record_of_a_connection_that_is_there() {
    let refreshed = |record_flags, flags, bound| {
        let record = entry(record(6, record_flags, 1));
        update_conn(&record, Some(&there(&record, 5070, flags, bound)))
    };
    let expect = |flags, active, bind| Update::Refresh {
        flags,
        active,
        bind,
    };
    // Activity follows the record and is counted where there is a server.
    assert_eq!(refreshed(0, 0x0100, true), expect(0, 1, false));
    assert_eq!(refreshed(0x0100, 0, true), expect(0x0100, -1, false));
    assert_eq!(refreshed(0x0100, 0x0100, true), expect(0x0100, 0, false));
    assert_eq!(refreshed(0, 0x0100, false), expect(0, 0, true));
    // Method, NOOUTPUT and the mark of sync stay as they are.
    assert_eq!(
        refreshed(0x0600 | 3 | 0x80, 0x0020, true),
        expect(0x0620, 0, false)
    );
}
