//! State machines against a second copy of the specification's tables, turned by 90 degrees: a line per state.

use crate::net::packet::proto;
use crate::net::packet::tcp_flags::{ACK, FIN, PSH, RST, SYN};
use crate::table::state::{
    Row, SctpEvent, SctpState, StateTimeouts, Step, TcpEvent, TcpState, TcpTable, Worth, account,
    new_connection_expected, sctp_next, sctp_step, state_name, tcp_next, tcp_step,
};
use crate::table::{Direction, flag};

use Direction::{FromClient, FromServer};

/// Specification §7.1.
const NORMAL: &str = "
NO:  in syn>SR fin>CL ack>ES rst>CL  out syn>SS fin>TW ack>ES rst>CL  inonly syn>SR fin>CL ack>ES rst>CL
ES:  in syn>ES fin>CW ack>ES rst>CL  out syn>ES fin>FW ack>ES rst>CL  inonly syn>ES fin>FW ack>ES rst>CL
SS:  in syn>ES fin>SS ack>SS rst>CL  out syn>SS fin>SS ack>SS rst>SS  inonly syn>ES fin>SS ack>SS rst>CL
SR:  in syn>SR fin>TW ack>ES rst>SR  out syn>SR fin>TW ack>ES rst>CL  inonly syn>SR fin>TW ack>ES rst>SR
FW:  in syn>SR fin>TW ack>FW rst>CL  out syn>SS fin>FW ack>FW rst>CL  inonly syn>SR fin>FW ack>FW rst>CL
TW:  in syn>SR fin>TW ack>TW rst>CL  out syn>SS fin>TW ack>TW rst>TW  inonly syn>SR fin>TW ack>TW rst>CL
CL:  in syn>SR fin>CL ack>CL rst>CL  out syn>SS fin>CL ack>CL rst>CL  inonly syn>SR fin>CL ack>CL rst>CL
CW:  in syn>SR fin>CW ack>CW rst>CL  out syn>SS fin>TW ack>CW rst>CL  inonly syn>SR fin>CW ack>CW rst>CL
LA:  in syn>SR fin>LA ack>CL rst>LA  out syn>SS fin>LA ack>LA rst>CL  inonly syn>SR fin>LA ack>CL rst>LA
LI:  in syn>SR fin>LI ack>LI rst>LI  out syn>LI fin>LI ack>ES rst>CL  inonly syn>SR fin>LI ack>LI rst>LI
SA:  in syn>SR fin>TW ack>ES rst>SR  out syn>SR fin>TW ack>ES rst>CL  inonly syn>SR fin>TW ack>ES rst>CL
";

/// Specification §7.2.
const SECURE: &str = "
NO:  in syn>SR fin>CL ack>ES rst>CL  out syn>SS fin>TW ack>ES rst>CL  inonly syn>SA fin>CL ack>ES rst>CL
ES:  in syn>ES fin>CW ack>ES rst>CL  out syn>ES fin>FW ack>ES rst>CL  inonly syn>ES fin>FW ack>ES rst>CL
SS:  in syn>ES fin>SS ack>SS rst>CL  out syn>SS fin>SS ack>SS rst>SS  inonly syn>ES fin>SS ack>SS rst>CL
SR:  in syn>SR fin>TW ack>SR rst>SR  out syn>SA fin>TW ack>ES rst>CL  inonly syn>SR fin>TW ack>ES rst>SR
FW:  in syn>SR fin>TW ack>FW rst>CL  out syn>SS fin>FW ack>FW rst>CL  inonly syn>SA fin>FW ack>FW rst>CL
TW:  in syn>SR fin>TW ack>TW rst>CL  out syn>SS fin>TW ack>TW rst>TW  inonly syn>SA fin>TW ack>TW rst>CL
CL:  in syn>SR fin>CL ack>CL rst>CL  out syn>SS fin>CL ack>CL rst>CL  inonly syn>SA fin>CL ack>CL rst>CL
CW:  in syn>SR fin>CW ack>CW rst>CL  out syn>SS fin>TW ack>CW rst>CL  inonly syn>SA fin>CW ack>CW rst>CL
LA:  in syn>SR fin>LA ack>CL rst>LA  out syn>SS fin>LA ack>LA rst>CL  inonly syn>SA fin>LA ack>CL rst>LA
LI:  in syn>SR fin>LI ack>LI rst>LI  out syn>LI fin>LI ack>ES rst>CL  inonly syn>SA fin>LI ack>LI rst>LI
SA:  in syn>SA fin>SA ack>SA rst>CL  out syn>SA fin>TW ack>ES rst>CL  inonly syn>SA fin>TW ack>ES rst>CL
";

/// Specification §7.4.
const SCTP: &str = "
NO:  in d>ES i>I1 ia>CW ce>CR ca>ES s>SR sa>CL sc>CL e>CL ab>CL  out d>ES i>CW ia>CS ce>CE ca>ES s>SS sa>SA sc>CL e>CL ab>CL  inonly d>ES i>I1 ia>CE ce>ES ca>ES s>SR sa>CL sc>CL e>CL ab>CL
I1:  in d>I1 i>IN ia>CW ce>IN ca>I1 s>I1 sa>IN sc>CL e>I1 ab>CL  out d>I1 i>CW ia>CS ce>CE ca>ES s>SS sa>SA sc>I1 e>CL ab>RJ  inonly d>I1 i>IN ia>CE ce>ES ca>I1 s>I1 sa>IN sc>CL e>I1 ab>CL
IN:  in d>IN i>IN ia>CW ce>IN ca>IN s>IN sa>IN sc>CL e>IN ab>CL  out d>IN i>CW ia>CS ce>CE ca>ES s>SS sa>SA sc>IN e>CL ab>CL  inonly d>IN i>IN ia>CE ce>ES ca>IN s>IN sa>IN sc>CL e>IN ab>CL
CS:  in d>CS i>CS ia>CS ce>CR ca>CS s>CS sa>CS sc>CS e>CS ab>CL  out d>CS i>CW ia>CS ce>CE ca>ES s>SS sa>SA sc>CS e>CL ab>CL  inonly d>CS i>IN ia>CE ce>ES ca>ES s>CS sa>CS sc>CL e>CS ab>CL
CR:  in d>CR i>CR ia>CR ce>CR ca>CR s>CR sa>CR sc>CR e>CR ab>CL  out d>CR i>CW ia>CR ce>CE ca>ES s>SS sa>SA sc>CR e>CL ab>CL  inonly d>CR i>IN ia>CE ce>ES ca>ES s>CR sa>CR sc>CL e>CR ab>CL
CW:  in d>CW i>CW ia>CO ce>CW ca>CW s>CW sa>CW sc>CW e>CW ab>RJ  out d>CW i>CW ia>CW ce>CE ca>ES s>SS sa>CW sc>CW e>CW ab>CL  inonly d>ES i>IN ia>CE ce>ES ca>CW s>CW sa>CW sc>CW e>CW ab>RJ
CO:  in d>CO i>CO ia>CO ce>CO ca>CO s>CO sa>CO sc>CO e>CO ab>CL  out d>CO i>CW ia>CO ce>CE ca>ES s>SS sa>CO sc>CO e>CO ab>CL  inonly d>CO i>CO ia>CO ce>CO ca>ES s>CO sa>CO sc>CO e>CO ab>CL
CE:  in d>CE i>CE ia>CE ce>CE ca>ES s>CE sa>CE sc>CE e>CL ab>CL  out d>CE i>CW ia>CE ce>CE ca>ES s>SS sa>CE sc>CE e>CE ab>CL  inonly d>CE i>CE ia>CE ce>CE ca>ES s>CE sa>CE sc>CE e>CE ab>CL
ES:  in d>ES i>ES ia>ES ce>ES ca>ES s>SR sa>ES sc>ES e>ES ab>CL  out d>ES i>ES ia>ES ce>ES ca>ES s>SS sa>ES sc>ES e>ES ab>CL  inonly d>ES i>ES ia>ES ce>ES ca>ES s>SR sa>CL sc>ES e>ES ab>CL
SS:  in d>SS i>SS ia>SS ce>SS ca>SS s>SS sa>CL sc>SS e>SS ab>CL  out d>SS i>CW ia>SS ce>SS ca>SS s>SS sa>SA sc>SS e>SS ab>CL  inonly d>SS i>SS ia>SS ce>SS ca>SS s>SS sa>CL sc>SS e>SS ab>CL
SR:  in d>SR i>SR ia>SR ce>SR ca>SR s>SR sa>SR sc>SR e>SR ab>CL  out d>SR i>CW ia>SR ce>SR ca>SR s>SR sa>SA sc>SR e>SR ab>CL  inonly d>SR i>SR ia>SR ce>SR ca>SR s>SR sa>SR sc>CL e>SR ab>CL
SA:  in d>SA i>SA ia>SA ce>SA ca>SA s>SA sa>CL sc>CL e>SA ab>CL  out d>SA i>CW ia>SA ce>SA ca>SA s>SA sa>SA sc>SA e>SA ab>CL  inonly d>SA i>SA ia>SA ce>SA ca>SA s>SA sa>CL sc>CL e>SA ab>CL
RJ:  in d>RJ i>IN ia>RJ ce>RJ ca>RJ s>RJ sa>RJ sc>RJ e>RJ ab>CL  out d>RJ i>CW ia>RJ ce>RJ ca>RJ s>RJ sa>RJ sc>RJ e>RJ ab>CL  inonly d>RJ i>IN ia>RJ ce>RJ ca>RJ s>RJ sa>RJ sc>RJ e>RJ ab>CL
CL:  in d>CL i>IN ia>CL ce>CL ca>CL s>CL sa>CL sc>CL e>CL ab>CL  out d>CL i>CW ia>CL ce>CL ca>CL s>CL sa>CL sc>CL e>CL ab>CL  inonly d>CL i>IN ia>CL ce>CL ca>CL s>CL sa>CL sc>CL e>CL ab>CL
";

/// A cell of a table: row, event and state by name, and the state after.
type Cell<'a> = (Row, &'a str, &'a str, &'a str);

fn cells(text: &str) -> Vec<Cell<'_>> {
    let mut cells = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (from, rest) = line.split_once(':').unwrap();
        let mut row = None;
        for word in rest.split_whitespace() {
            match word {
                "in" => row = Some(Row::In),
                "out" => row = Some(Row::Out),
                "inonly" => row = Some(Row::InOnly),
                _ => {
                    let (event, to) = word.split_once('>').unwrap();
                    cells.push((row.unwrap(), event, from, to));
                }
            }
        }
    }
    cells
}

fn tcp(abbreviation: &str) -> TcpState {
    TcpState::ALL
        .into_iter()
        .find(|s| s.abbreviation() == abbreviation)
        .unwrap()
}

fn sctp(abbreviation: &str) -> SctpState {
    SctpState::ALL
        .into_iter()
        .find(|s| s.abbreviation() == abbreviation)
        .unwrap()
}

#[test]
fn every_tcp_transition_is_the_specified_one() {
    for (table, text) in [(TcpTable::Normal, NORMAL), (TcpTable::Secure, SECURE)] {
        let cells = cells(text);
        assert_eq!(cells.len(), 11 * 3 * 4);
        for (row, event, from, to) in cells {
            let flags = match event {
                "syn" => SYN,
                "fin" => FIN,
                "ack" => ACK,
                "rst" => RST,
                _ => unreachable!("{event}"),
            };
            let got = tcp_next(table, row, TcpEvent::of(flags), tcp(from));
            assert_eq!(got, tcp(to), "{table:?} {row:?} {event} in {from}");
        }
    }
}

#[test]
fn every_sctp_transition_is_the_specified_one() {
    let cells = cells(SCTP);
    assert_eq!(cells.len(), 14 * 3 * 10);
    for (row, event, from, to) in cells {
        let chunk = match event {
            "d" => 0,
            "i" => 1,
            "ia" => 2,
            "ce" => 10,
            "ca" => 11,
            "s" => 7,
            "sa" => 8,
            "sc" => 14,
            "e" => 9,
            "ab" => 6,
            _ => unreachable!("{event}"),
        };
        let got = sctp_next(row, SctpEvent::of(chunk, None), sctp(from));
        assert_eq!(got, sctp(to), "{row:?} {event} in {from}");
    }
}

#[test]
fn a_segment_is_a_reset_else_a_syn_else_a_fin_else_an_ack() {
    for (flags, event) in [
        (RST | SYN | FIN | ACK, Some(TcpEvent::Reset)),
        (SYN | FIN | ACK, Some(TcpEvent::Syn)),
        (FIN | ACK | PSH, Some(TcpEvent::Fin)),
        (ACK | PSH, Some(TcpEvent::Ack)),
        (PSH, None),
        (0, None),
    ] {
        assert_eq!(TcpEvent::of(flags), event, "{flags:#x}");
    }
}

#[test]
fn a_segment_without_flags_closes_in_every_state() {
    for state in TcpState::ALL {
        for row in [Row::In, Row::Out, Row::InOnly] {
            assert_eq!(
                tcp_next(TcpTable::Normal, row, None, state),
                TcpState::Close
            );
        }
    }
}

#[test]
fn an_abort_behind_a_cookie_prevails() {
    for (first, second, event) in [
        (10, None, SctpEvent::CookieEcho),
        (10, Some(0), SctpEvent::CookieEcho),
        (10, Some(6), SctpEvent::Abort),
        (11, Some(6), SctpEvent::Abort),
        (0, Some(6), SctpEvent::Data),
        (3, None, SctpEvent::Data),
        (4, None, SctpEvent::Data),
        (5, None, SctpEvent::Data),
        (12, None, SctpEvent::Data),
        (13, None, SctpEvent::Data),
        (200, None, SctpEvent::Data),
    ] {
        assert_eq!(SctpEvent::of(first, second), event, "{first} {second:?}");
    }
}

/// The states that a trace of segments goes through.
fn trace(table: TcpTable, mut flags: u16, segments: &[(Direction, u8)]) -> Vec<&'static str> {
    let mut state = 0;
    let mut seen = Vec::new();
    for &(direction, segment) in segments {
        let step = tcp_step(table, direction, segment, state, flags, true);
        (state, flags) = (step.state, step.flags);
        seen.push(TcpState::from_code(state).abbreviation());
    }
    seen
}

#[test]
fn the_specification_s_typical_traces_come_out() {
    let client_closes = [
        (FromClient, SYN),
        (FromServer, SYN | ACK),
        (FromClient, ACK),
        (FromClient, FIN | ACK),
        (FromServer, FIN | ACK),
    ];
    assert_eq!(
        trace(TcpTable::Normal, flag::INACTIVE, &client_closes),
        ["SR", "SR", "ES", "CW", "TW"]
    );
    let server_closes = [
        (FromClient, SYN),
        (FromServer, SYN | ACK),
        (FromClient, ACK),
        (FromServer, FIN | ACK),
        (FromClient, FIN | ACK),
    ];
    assert_eq!(
        trace(TcpTable::Normal, flag::INACTIVE, &server_closes),
        ["SR", "SR", "ES", "FW", "TW"]
    );
    let direct = [
        (FromClient, SYN),
        (FromClient, ACK),
        (FromClient, FIN | ACK),
        (FromClient, ACK),
    ];
    assert_eq!(
        trace(TcpTable::Normal, flag::INACTIVE | flag::NOOUTPUT, &direct),
        ["SR", "ES", "FW", "FW"]
    );
    let reset = [
        (FromClient, SYN),
        (FromClient, RST),
        (FromClient, ACK),
        (FromClient, RST),
    ];
    assert_eq!(
        trace(TcpTable::Normal, flag::INACTIVE, &reset),
        ["SR", "SR", "ES", "CL"]
    );
}

#[test]
fn secure_tcp_establishes_only_after_the_server_s_ack() {
    let segments = [
        (FromClient, SYN),
        (FromServer, SYN | ACK),
        (FromClient, ACK),
        (FromClient, ACK | PSH),
        (FromServer, ACK),
    ];
    assert_eq!(
        trace(TcpTable::Secure, flag::INACTIVE, &segments),
        ["SR", "SA", "SA", "SA", "ES"]
    );
}

#[test]
fn a_packet_from_the_server_ends_no_output() {
    let flags = flag::NOOUTPUT | flag::INACTIVE | 3;
    let unseen = tcp_step(TcpTable::Normal, FromClient, SYN, 0, flags, false);
    assert_eq!(unseen.flags, flags);
    let seen = tcp_step(TcpTable::Normal, FromServer, ACK, 3, flags, false);
    assert_eq!(seen.flags, flag::INACTIVE | 3);
    let seen = sctp_step(FromServer, SctpEvent::Data, 0, flags, false);
    assert_eq!(seen.flags, flag::INACTIVE | 3);
}

#[test]
fn only_a_change_of_class_counts() {
    let (established, syn_recv, close) = (
        TcpState::Established as u8,
        TcpState::SynRecv as u8,
        TcpState::Close as u8,
    );
    let step = |segment, state, flags, bound| {
        tcp_step(TcpTable::Normal, FromClient, segment, state, flags, bound)
    };
    let inactive = flag::INACTIVE;
    for (segment, state, flags, bound, want) in [
        (
            SYN,
            0,
            inactive,
            true,
            Step {
                state: syn_recv,
                flags: 0,
                active: 1,
            },
        ),
        (
            ACK,
            syn_recv,
            0,
            true,
            Step {
                state: established,
                flags: 0,
                active: 0,
            },
        ),
        (
            RST,
            established,
            0,
            true,
            Step {
                state: close,
                flags: inactive,
                active: -1,
            },
        ),
        (
            ACK,
            close,
            inactive,
            true,
            Step {
                state: close,
                flags: inactive,
                active: 0,
            },
        ),
        // The state does not change: the flag is left alone (specification §7.5).
        (
            ACK,
            established,
            inactive,
            true,
            Step {
                state: established,
                flags: inactive,
                active: 0,
            },
        ),
        (
            SYN,
            0,
            inactive,
            false,
            Step {
                state: syn_recv,
                flags: inactive,
                active: 0,
            },
        ),
    ] {
        assert_eq!(step(segment, state, flags, bound), want);
    }
    let associate = sctp_step(FromClient, SctpEvent::CookieAck, 7, inactive, true);
    assert_eq!(
        associate,
        Step {
            state: 8,
            flags: 0,
            active: 1
        }
    );
    let abort = sctp_step(FromServer, SctpEvent::Abort, 8, 0, true);
    assert_eq!(
        abort,
        Step {
            state: 13,
            flags: inactive,
            active: -1
        }
    );
}

#[test]
fn the_sum_of_changes_is_whether_the_connection_is_active() {
    for states in [[1, 3, 10, 4, 1, 6], [0, 6, 1, 5, 3, 0]] {
        let (mut flags, mut active) = (flag::INACTIVE, 0);
        for state in states.map(TcpState::from_code) {
            let (next, change) = account(flags, state.is_active());
            flags = next;
            active += change;
            assert_eq!(active, i8::from(state.is_active()));
            assert_eq!(flags & flag::INACTIVE == 0, state.is_active());
        }
    }
}

#[test]
fn codes_names_activity_and_timeouts_are_the_specified_ones() {
    let timeouts = StateTimeouts::default();
    let tcp = [
        ("NONE", 2, false),
        ("ESTABLISHED", 900, true),
        ("SYN_SENT", 120, true),
        ("SYN_RECV", 60, true),
        ("FIN_WAIT", 120, false),
        ("TIME_WAIT", 120, false),
        ("CLOSE", 10, false),
        ("CLOSE_WAIT", 60, false),
        ("LAST_ACK", 30, false),
        ("LISTEN", 120, false),
        ("SYNACK", 120, true),
    ];
    for (code, (name, seconds, active)) in (0..).zip(tcp) {
        let state = TcpState::from_code(code);
        assert_eq!(
            (state as u8, state.name(), state.is_active()),
            (code, name, active)
        );
        assert_eq!(state_name(proto::TCP, code), name);
        assert_eq!(timeouts.of(proto::TCP, code), seconds * 100);
    }
    let sctp = [
        ("NONE", 2),
        ("INIT1", 4),
        ("INIT", 61),
        ("C-SENT", 61),
        ("C-REPLIED", 61),
        ("C-WAIT", 61),
        ("COOKIE", 61),
        ("C-ECHOED", 61),
        ("ESTABLISHED", 900),
        ("S-SENT", 61),
        ("S-RECEIVED", 61),
        ("S-ACK-SENT", 61),
        ("REJECTED", 4),
        ("CLOSED", 61),
    ];
    for (code, (name, seconds)) in (0..).zip(sctp) {
        let state = SctpState::from_code(code);
        assert_eq!((state as u8, state.name()), (code, name));
        assert_eq!(state.is_active(), name == "ESTABLISHED");
        assert_eq!(state_name(proto::SCTP, code), name);
        assert_eq!(timeouts.of(proto::SCTP, code), seconds * 100);
    }
    assert_eq!(state_name(proto::UDP, 0), "UDP");
    assert_eq!(timeouts.of(proto::UDP, 0), 30_000);
}

#[test]
fn a_code_that_does_not_exist_counts_as_none() {
    for code in [11, 14, 255] {
        assert_eq!(TcpState::from_code(code), TcpState::None);
    }
    assert_eq!(SctpState::from_code(14), SctpState::None);
    assert_eq!(
        tcp_step(TcpTable::Normal, FromClient, SYN, 200, 0, true).state,
        3
    );
}

#[test]
fn a_new_connection_is_expected_where_the_old_one_is_over() {
    for state in TcpState::ALL {
        let over = matches!(state, TcpState::TimeWait | TcpState::Close);
        let waits = state == TcpState::FinWait;
        let expected = |flags, mode| new_connection_expected(proto::TCP, state as u8, flags, mode);
        assert!(!expected(0, 0));
        assert_eq!(expected(0, 1), over);
        assert_eq!(expected(flag::NOOUTPUT, 1), over);
        assert_eq!(expected(flag::NOOUTPUT, 2), over || waits);
        assert_eq!(expected(0, 2), over);
    }
    for state in SctpState::ALL {
        assert_eq!(
            new_connection_expected(proto::SCTP, state as u8, 0, 1),
            state == SctpState::Closed
        );
    }
    assert!(!new_connection_expected(proto::UDP, 0, 0, 3));
}

#[test]
fn worth_follows_the_state_and_for_udp_the_packets() {
    use Worth::{Closing, HalfOpen, InUse, OnePacket};
    for state in TcpState::ALL {
        let want = match state.abbreviation() {
            "ES" => InUse,
            "NO" | "SS" | "SR" | "SA" | "LI" => HalfOpen,
            _ => Closing,
        };
        assert_eq!(Worth::of(proto::TCP, state as u8, 0, 0), want, "{state:?}");
    }
    for (code, want) in [
        (0, HalfOpen),
        (7, HalfOpen),
        (8, InUse),
        (9, Closing),
        (12, Closing),
        (13, Closing),
    ] {
        assert_eq!(Worth::of(proto::SCTP, code, 0, 0), want, "{code}");
    }
    assert_eq!(Worth::of(proto::UDP, 0, 0, 1), OnePacket);
    assert_eq!(Worth::of(proto::UDP, 0, 0, 2), InUse);
    assert_eq!(Worth::of(proto::UDP, 0, flag::SYNC, 0), InUse);
}
