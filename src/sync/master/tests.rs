//! The worked example, and each rule by itself.

use super::*;

const NOW: Tick = Tick(1_000_000);
const SECOND: u32 = Tick::PER_SECOND;
const UDP: u8 = proto::UDP;
const TCP: u8 = proto::TCP;

fn conn(proto: u8, state: u8) -> Conn {
    Conn {
        proto,
        state,
        timeout: 300 * SECOND,
        told: Told::default(),
    }
}

fn template() -> Template {
    Template {
        in_pkts: 1,
        state: 0,
        timeout: 60 * SECOND,
        complete: true,
        told: Told::default(),
    }
}

/// The packets, by number, of which a record is made when the states after them are `states`.
fn told_at(policy: &Policy, proto: u8, states: impl IntoIterator<Item = u8>) -> Vec<u32> {
    let mut conn = conn(proto, 0);
    let mut out = Vec::new();
    for (in_pkts, state) in (1..).zip(states) {
        conn.state = state;
        if let Some(told) = should_sync(policy, &conn, false, in_pkts, NOW) {
            conn.told = told;
            out.push(in_pkts);
        }
    }
    out
}

/// Specification §14.5: SYN_RECV, then ESTABLISHED, a FIN at packet 60, the last ACK in TIME_WAIT.
#[test]
fn a_tcp_connection_is_told_of_as_in_the_worked_example() {
    for closing in [TcpState::CloseWait, TcpState::FinWait] {
        let mut states = vec![TcpState::Established; 59];
        states[0] = TcpState::SynRecv;
        states.extend([closing, TcpState::TimeWait, TcpState::TimeWait]);
        let states = states.into_iter().map(|s| s as u8);
        let told = told_at(&Policy::default(), TCP, states);
        assert_eq!(told, [3, 53, 60, 61]);
    }
}

#[test]
fn every_packet_of_the_worked_example_tells_of_its_template() {
    let conn = conn(TCP, TcpState::SynRecv as u8);
    for in_pkts in 1..=60 {
        let template = Template {
            in_pkts,
            ..template()
        };
        let event = Event::Packet { in_pkts };
        let tell = offer(
            &Policy::default(),
            Version::V1,
            event,
            Some(&conn),
            Some(&template),
            NOW,
        );
        assert_eq!((tell.conn, tell.template.is_some()), (None, true));
    }
}

#[test]
fn udp_is_told_of_at_the_threshold_and_every_period_after() {
    assert_eq!(
        told_at(&Policy::default(), UDP, [0; 160]),
        [3, 53, 103, 153]
    );
    let lab = Policy {
        threshold: 1,
        period: 3,
        ..Policy::default()
    };
    assert_eq!(told_at(&lab, UDP, [0; 8]), [1, 4, 7]);
}

#[test]
fn a_client_that_resets_is_told_of_at_once() {
    let (es, cl) = (TcpState::Established as u8, TcpState::Close as u8);
    assert_eq!(told_at(&Policy::default(), TCP, [3, es, cl, cl, es]), [3]);
    assert_eq!(
        told_at(&Policy::default(), TCP, [3, es, es, es, cl, cl]),
        [3, 5]
    );
    assert_eq!(told_at(&Policy::default(), TCP, [3, cl]), [2]);
}

#[test]
fn only_the_states_of_the_rule_are_told_of() {
    let every = Policy {
        threshold: 0,
        period: 1,
        ..Policy::default()
    };
    let told = |proto, states: u8| -> Vec<u8> {
        let all = 0..states;
        all.filter(|s| should_sync(&every, &conn(proto, *s), false, 9, NOW).is_some())
            .collect()
    };
    assert_eq!(told(TCP, 11), [1, 4, 5, 6, 7]);
    assert_eq!(told(proto::SCTP, 14), [8, 9, 10, 11, 13]);
    assert_eq!(told(UDP, 1), [0]);
}

#[test]
fn without_period_and_refresh_an_entry_is_told_of_once() {
    let once = Policy {
        period: 0,
        ..Policy::default()
    };
    assert_eq!(told_at(&once, UDP, [0; 200]), [3]);
    let told = |in_pkts| should_sync_template(&once, &template(), in_pkts, NOW).is_some();
    assert_eq!([1, 2, 3, 4].map(told), [false, false, true, false]);
}

/// The ticks, from [`NOW`] on, at which a template is told of that is used every second.
fn template_told_at(policy: &Policy, seconds: u32) -> Vec<u32> {
    let mut template = template();
    let mut out = Vec::new();
    for second in 0..seconds {
        let now = NOW.plus(second * SECOND);
        if let Some(told) = should_sync_template(policy, &template, 0, now) {
            template.told = told;
            out.push(second);
        }
    }
    out
}

#[test]
fn a_refresh_period_tames_templates() {
    let policy = Policy {
        refresh: 20 * SECOND,
        ..Policy::default()
    };
    assert_eq!(template_told_at(&policy, 61), [0, 20, 40, 60]);
    // Not longer than half the timeout of 60 s.
    let policy = Policy {
        refresh: 100 * SECOND,
        ..Policy::default()
    };
    assert_eq!(template_told_at(&policy, 61), [0, 30, 60]);
}

#[test]
fn retries_are_an_eighth_of_the_refresh_period_apart() {
    let policy = Policy {
        refresh: 24 * SECOND,
        retries: 2,
        ..Policy::default()
    };
    // A retry moves the end that the next one goes by.
    assert_eq!(template_told_at(&policy, 40), [0, 3, 6, 30, 33, 36]);
}

#[test]
fn a_refresh_period_does_not_hold_a_change_of_state_back() {
    let policy = Policy {
        refresh: 100 * SECOND,
        period: 0,
        ..Policy::default()
    };
    let (es, cw) = (TcpState::Established as u8, TcpState::CloseWait as u8);
    assert_eq!(told_at(&policy, TCP, [3, es, es, es, cw, cw]), [2, 5]);
}

#[test]
fn the_refresh_rule_holds_where_ticks_wrap() {
    let policy = Policy {
        refresh: 20 * SECOND,
        ..Policy::default()
    };
    let mut template = template();
    let now = Tick(u32::MAX - 30 * SECOND);
    template.told = should_sync_template(&policy, &template, 0, now).expect("the first");
    let at = |s: u32| should_sync_template(&policy, &template, 0, now.plus(s * SECOND)).is_some();
    assert_eq!([1, 19, 20, 40].map(at), [false, false, true, true]);
}

#[test]
fn persist_mode_tells_of_templates_only() {
    let policy = Policy {
        templates_only: true,
        ..Policy::default()
    };
    let event = Event::Packet { in_pkts: 3 };
    let conn = conn(UDP, 0);
    let under = offer(
        &policy,
        Version::V1,
        event,
        Some(&conn),
        Some(&template()),
        NOW,
    );
    assert!(under.conn.is_none() && under.template.is_some());
    let alone = offer(&policy, Version::V1, event, Some(&conn), None, NOW);
    assert!(alone.conn.is_some());
}

#[test]
fn version_0_stops_at_the_first_entry_that_is_not_told_of() {
    let conn = conn(UDP, 0);
    for (version, in_pkts, told) in [
        (Version::V0, 1, [false, false]),
        (Version::V0, 3, [true, true]),
        (Version::V1, 1, [false, true]),
        (Version::V1, 3, [true, true]),
    ] {
        let event = Event::Packet { in_pkts };
        let policy = Policy::default();
        let tell = offer(&policy, version, event, Some(&conn), Some(&template()), NOW);
        let is = [tell.conn.is_some(), tell.template.is_some()];
        assert_eq!(is, told, "{version:?} {in_pkts}");
    }
}

#[test]
fn of_one_packet_services_version_1_tells_the_template_and_version_0_nothing() {
    for (version, told) in [(Version::V0, false), (Version::V1, true)] {
        let policy = Policy::default();
        let tell = offer(
            &policy,
            version,
            Event::OnePacket,
            None,
            Some(&template()),
            NOW,
        );
        assert_eq!((tell.conn, tell.template.is_some()), (None, told));
    }
}

#[test]
fn an_entry_that_was_armed_again_counts_as_having_met_the_threshold() {
    let once = Policy {
        period: 0,
        ..Policy::default()
    };
    let tell = offer(
        &once,
        Version::V1,
        Event::Rearmed,
        None,
        Some(&template()),
        NOW,
    );
    assert!(tell.template.is_some());
    let tell = offer(
        &once,
        Version::V1,
        Event::Rearmed,
        Some(&conn(UDP, 0)),
        None,
        NOW,
    );
    assert!(tell.conn.is_some());
}

#[test]
fn a_template_without_its_server_is_not_told_of() {
    let incomplete = Template {
        complete: false,
        ..template()
    };
    let event = Event::Packet { in_pkts: 3 };
    let conn = conn(UDP, 0);
    let policy = Policy::default();
    let tell = offer(
        &policy,
        Version::V1,
        event,
        Some(&conn),
        Some(&incomplete),
        NOW,
    );
    assert!(tell.conn.is_some() && tell.template.is_none());
}

#[test]
fn policies_that_the_kernel_refuses_are_refused() {
    let with = |threshold, period, retries| Policy {
        threshold,
        period,
        retries,
        ..Policy::default()
    };
    assert_eq!(Policy::default().check(), Ok(()));
    assert_eq!(with(9, 0, 3).check(), Ok(()));
    let (threshold, period) = (50, 50);
    assert_eq!(
        with(50, 50, 0).check(),
        Err(BadPolicy::Threshold { threshold, period })
    );
    assert_eq!(with(3, 50, 4).check(), Err(BadPolicy::Retries(4)));
}

#[test]
fn what_was_told_fits_one_word() {
    for told in [
        Told::default(),
        Told::received(7),
        Told {
            end: Some(Tick(u32::MAX)),
            state: 13,
            retries: 3,
        },
        Told {
            end: Some(Tick(0)),
            ..Told::default()
        },
    ] {
        assert_eq!(Told::from_bits(told.to_bits()), told);
    }
    assert_eq!(Told::default().to_bits(), 0);
}
