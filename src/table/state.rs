//! Protocol state machines: what a packet makes of a connection's state.
//!
//! Owns the transition tables of TCP (normal and secure), SCTP and UDP, the states' names, codes
//! and default timeouts, and the rule that tells active connections from inactive ones. Pure: knows
//! no table, no clock, no packet beyond its flags or chunk types. Invariant: the functions are
//! total; a state code that does not exist counts as state 0.

use super::conn::{Direction, flag};
use crate::net::Tick;
use crate::net::packet::{proto, tcp_flags};

/// Declares a protocol's states, in the order of their codes from 0 on: name in listings, and the two letters that the
/// specification's tables use.
macro_rules! states {
    ($(#[$doc:meta])* $states:ident; $($(#[$default:meta])? $state:ident = $code:literal $name:literal $letters:literal,)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        #[repr(u8)]
        #[allow(missing_docs)] // The protocol's own names.
        pub enum $states {
            $($(#[$default])? $state = $code,)*
        }

        impl $states {
            /// How many there are.
            const COUNT: usize = [$($code,)*].len();

            /// All states, in the order of their codes.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$state,)*];

            /// The state with this code; NONE where there is none.
            #[inline]
            #[must_use]
            pub fn from_code(code: u8) -> Self {
                Self::ALL.get(code as usize).copied().unwrap_or_default()
            }

            /// The name in listings.
            #[must_use]
            pub fn name(self) -> &'static str {
                const NAMES: [&str; $states::COUNT] = [$($name,)*];
                NAMES[self as usize]
            }

            /// The two letters that the specification's tables use.
            #[must_use]
            pub fn abbreviation(self) -> &'static str {
                const SHORT: [&str; $states::COUNT] = [$($letters,)*];
                SHORT[self as usize]
            }
        }
    };
}

states! {
    /// States of a TCP connection (specification §7.1). The numbers are IPVS's and appear on the sync
    /// wire.
    TcpState;
    #[default]
    None = 0 "NONE" "NO",
    Established = 1 "ESTABLISHED" "ES",
    SynSent = 2 "SYN_SENT" "SS",
    SynRecv = 3 "SYN_RECV" "SR",
    FinWait = 4 "FIN_WAIT" "FW",
    TimeWait = 5 "TIME_WAIT" "TW",
    Close = 6 "CLOSE" "CL",
    CloseWait = 7 "CLOSE_WAIT" "CW",
    LastAck = 8 "LAST_ACK" "LA",
    Listen = 9 "LISTEN" "LI",
    SynAck = 10 "SYNACK" "SA",
}

impl TcpState {
    /// Whether a connection in this state counts as active (specification §7.1).
    #[inline]
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(
            self,
            Self::Established | Self::SynSent | Self::SynRecv | Self::SynAck
        )
    }
}

states! {
    /// States of an SCTP association (specification §7.4). The numbers are IPVS's and appear on the
    /// sync wire.
    SctpState;
    #[default]
    None = 0 "NONE" "NO",
    Init1 = 1 "INIT1" "I1",
    Init = 2 "INIT" "IN",
    CookieSent = 3 "C-SENT" "CS",
    CookieReplied = 4 "C-REPLIED" "CR",
    CookieWait = 5 "C-WAIT" "CW",
    Cookie = 6 "COOKIE" "CO",
    CookieEchoed = 7 "C-ECHOED" "CE",
    Established = 8 "ESTABLISHED" "ES",
    ShutdownSent = 9 "S-SENT" "SS",
    ShutdownReceived = 10 "S-RECEIVED" "SR",
    ShutdownAckSent = 11 "S-ACK-SENT" "SA",
    Rejected = 12 "REJECTED" "RJ",
    Closed = 13 "CLOSED" "CL",
}

impl SctpState {
    /// Whether an association in this state counts as active (specification §7.4).
    #[inline]
    #[must_use]
    pub fn is_active(self) -> bool {
        self == Self::Established
    }
}

/// Which rows of a transition table apply to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// From the client; replies are seen.
    In = 0,
    /// From the server.
    Out = 1,
    /// From the client; replies take another way.
    InOnly = 2,
}

impl Row {
    /// The rows for a packet of a connection with these flags. A packet from the server always uses
    /// [`Row::Out`]: it proves that replies are seen, and the connection loses [`flag::NOOUTPUT`]
    /// by it (specification §7.1).
    #[inline]
    #[must_use]
    pub fn of(direction: Direction, flags: u16) -> Self {
        match direction {
            Direction::FromServer => Self::Out,
            Direction::FromClient if flags & flag::NOOUTPUT != 0 => Self::InOnly,
            Direction::FromClient => Self::In,
        }
    }
}

/// Which TCP transitions are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TcpTable {
    /// Specification §7.1.
    #[default]
    Normal,
    /// Specification §7.2, the defence against SYN floods: established only once a server sent data
    /// or an ACK after its SYN-ACK.
    Secure,
}

/// What a segment's flags mean to the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpEvent {
    /// RST.
    Reset = 0,
    /// SYN without RST.
    Syn = 1,
    /// FIN without RST and SYN.
    Fin = 2,
    /// ACK alone of the four.
    Ack = 3,
}

impl TcpEvent {
    /// The event of a segment with these flags: RST, else SYN, else FIN, else ACK (specification
    /// §7.1). `None` where none of them is set, which closes the connection.
    #[inline]
    #[must_use]
    pub fn of(flags: u8) -> Option<Self> {
        if flags & tcp_flags::RST != 0 {
            Some(Self::Reset)
        } else if flags & tcp_flags::SYN != 0 {
            Some(Self::Syn)
        } else if flags & tcp_flags::FIN != 0 {
            Some(Self::Fin)
        } else if flags & tcp_flags::ACK != 0 {
            Some(Self::Ack)
        } else {
            None
        }
    }
}

/// The state after `event` in state `from`.
#[inline]
#[must_use]
pub fn tcp_next(table: TcpTable, row: Row, event: Option<TcpEvent>, from: TcpState) -> TcpState {
    let rows = match table {
        TcpTable::Normal => &tcp::NORMAL,
        TcpTable::Secure => &tcp::SECURE,
    };
    event.map_or(TcpState::Close, |event| {
        rows[row as usize][event as usize][from as usize]
    })
}

/// What an SCTP packet's first chunks mean to the state machine (specification §7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The chunks' own names.
pub enum SctpEvent {
    /// DATA, SACK, HEARTBEAT and everything else that changes no state by itself.
    Data = 0,
    Init = 1,
    InitAck = 2,
    CookieEcho = 3,
    CookieAck = 4,
    Shutdown = 5,
    ShutdownAck = 6,
    ShutdownComplete = 7,
    Error = 8,
    Abort = 9,
}

impl SctpEvent {
    /// The event of a packet by the types (RFC 9260 §3.2) of its first chunk and, where there is
    /// one, its second: an ABORT bundled behind a COOKIE-ECHO or COOKIE-ACK prevails.
    #[must_use]
    pub fn of(first: u8, second: Option<u8>) -> Self {
        const ABORT: u8 = 6;
        match first {
            10 | 11 if second == Some(ABORT) => Self::Abort,
            1 => Self::Init,
            2 => Self::InitAck,
            ABORT => Self::Abort,
            7 => Self::Shutdown,
            8 => Self::ShutdownAck,
            9 => Self::Error,
            10 => Self::CookieEcho,
            11 => Self::CookieAck,
            14 => Self::ShutdownComplete,
            _ => Self::Data,
        }
    }
}

/// The state after `event` in state `from`.
#[inline]
#[must_use]
pub fn sctp_next(row: Row, event: SctpEvent, from: SctpState) -> SctpState {
    sctp::ROWS[row as usize][event as usize][from as usize]
}

/// What a packet does to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The new state's code.
    pub state: u8,
    /// The new flags.
    pub flags: u16,
    /// Change of the real server's active connections: 1, 0 or -1.
    pub active: i8,
}

/// What a TCP segment does to a connection in `state` with `flags`; `bound` says whether it has a
/// real server. Specification §7.1 and §7.5.
#[inline]
#[must_use]
pub fn tcp_step(
    table: TcpTable,
    direction: Direction,
    segment_flags: u8,
    state: u8,
    flags: u16,
    bound: bool,
) -> Step {
    let from = TcpState::from_code(state);
    let to = tcp_next(
        table,
        Row::of(direction, flags),
        TcpEvent::of(segment_flags),
        from,
    );
    step(
        direction,
        from as u8,
        to as u8,
        to.is_active(),
        flags,
        bound,
    )
}

/// What an SCTP packet does to a connection in `state` with `flags`; `bound` says whether it has a
/// real server. Specification §7.4 and §7.5.
#[must_use]
pub fn sctp_step(
    direction: Direction,
    event: SctpEvent,
    state: u8,
    flags: u16,
    bound: bool,
) -> Step {
    let from = SctpState::from_code(state);
    let to = sctp_next(Row::of(direction, flags), event, from);
    step(
        direction,
        from as u8,
        to as u8,
        to.is_active(),
        flags,
        bound,
    )
}

#[inline]
fn step(direction: Direction, from: u8, to: u8, to_active: bool, flags: u16, bound: bool) -> Step {
    let seen = if direction == Direction::FromServer {
        flag::NOOUTPUT
    } else {
        0
    };
    let flags = flags & !seen;
    // Only a change of state is looked at, so that a flag set by other means (sync) stays as it is
    // until then.
    if from == to || !bound {
        return Step {
            state: to,
            flags,
            active: 0,
        };
    }
    let (flags, active) = account(flags, to_active);
    Step {
        state: to,
        flags,
        active,
    }
}

/// The flags of a connection that enters a state of this class, and the change of its real server's
/// active connections (specification §7.5).
#[inline]
#[must_use]
pub fn account(flags: u16, active: bool) -> (u16, i8) {
    match (flags & flag::INACTIVE != 0, active) {
        (true, true) => (flags & !flag::INACTIVE, 1),
        (false, false) => (flags | flag::INACTIVE, -1),
        _ => (flags, 0),
    }
}

/// Whether a packet that opens a connection (a SYN, an INIT) on an entry in this state asks for a
/// new one, under `conn_reuse_mode` = `mode` (specification §2.4).
#[must_use]
pub fn new_connection_expected(protocol: u8, state: u8, flags: u16, mode: u32) -> bool {
    if mode == 0 {
        return false;
    }
    match protocol {
        proto::TCP => match TcpState::from_code(state) {
            TcpState::TimeWait | TcpState::Close => true,
            TcpState::FinWait => mode & 2 != 0 && flags & flag::NOOUTPUT != 0,
            _ => false,
        },
        proto::SCTP => SctpState::from_code(state) == SctpState::Closed,
        _ => false,
    }
}

/// The name of a connection's state in listings; a protocol without states is its own
/// (specification §7.3).
#[must_use]
pub fn state_name(protocol: u8, state: u8) -> &'static str {
    match protocol {
        proto::TCP => TcpState::from_code(state).name(),
        proto::SCTP => SctpState::from_code(state).name(),
        proto::UDP => "UDP",
        _ => "NONE",
    }
}

/// How dear a connection is when the table is full: the cheapest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// TCP and SCTP before the handshake is done.
    HalfOpen,
    /// TCP and SCTP after the end of either side.
    Closing,
    /// Anything else whose client sent one packet only.
    OnePacket,
    /// Established, or in use: never evicted for a new one.
    InUse,
}

impl Worth {
    /// The worth of a connection.
    #[must_use]
    pub fn of(protocol: u8, state: u8, flags: u16, in_pkts: u32) -> Self {
        match protocol {
            proto::TCP => match TcpState::from_code(state) {
                TcpState::Established => Self::InUse,
                TcpState::FinWait
                | TcpState::TimeWait
                | TcpState::Close
                | TcpState::CloseWait
                | TcpState::LastAck => Self::Closing,
                TcpState::None
                | TcpState::SynSent
                | TcpState::SynRecv
                | TcpState::Listen
                | TcpState::SynAck => Self::HalfOpen,
            },
            proto::SCTP => match SctpState::from_code(state) {
                SctpState::Established => Self::InUse,
                state if state > SctpState::Established => Self::Closing,
                _ => Self::HalfOpen,
            },
            // A connection that the master told of has passed its sync threshold, whatever was
            // counted here.
            _ if in_pkts <= 1 && flags & flag::SYNC == 0 => Self::OnePacket,
            _ => Self::InUse,
        }
    }
}

/// Timeouts by state, in ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateTimeouts {
    /// By [`TcpState`] code.
    pub tcp: [u32; 11],
    /// By [`SctpState`] code.
    pub sctp: [u32; 14],
    /// UDP, and protocols without states.
    pub udp: u32,
}

impl StateTimeouts {
    /// The timeout of a connection in this state.
    #[inline]
    #[must_use]
    pub fn of(&self, protocol: u8, state: u8) -> u32 {
        match protocol {
            proto::TCP => self.tcp[TcpState::from_code(state) as usize],
            proto::SCTP => self.sctp[SctpState::from_code(state) as usize],
            _ => self.udp,
        }
    }
}

impl Default for StateTimeouts {
    /// Specification §7.1, §7.3 and §7.4.
    fn default() -> Self {
        let ticks = |seconds: u32| seconds * Tick::PER_SECOND;
        Self {
            tcp: [2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120].map(ticks),
            sctp: [2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61].map(ticks),
            udp: ticks(300),
        }
    }
}

/// TCP's transitions: by row, event and state.
mod tcp {
    use super::TcpState;
    use super::TcpState::{
        Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA,
        Listen as LI, SynAck as SA, SynRecv as SR, SynSent as SS, TimeWait as TW,
    };

    type Rows = [[[TcpState; 11]; 4]; 3];

    /// Specification §7.1. Columns: NO ES SS SR FW TW CL CW LA LI SA.
    #[rustfmt::skip]
    pub const NORMAL: Rows = [
        [
            // From the client.
            [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR], // rst
            [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR], // syn
            [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW], // fin
            [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES], // ack
        ],
        [
            // From the server.
            [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL], // rst
            [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR], // syn
            [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW], // fin
            [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES], // ack
        ],
        [
            // From the client, replies unseen.
            [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL], // rst
            [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR], // syn
            [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW], // fin
            [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES], // ack
        ],
    ];

    /// Specification §7.2. Columns as above.
    #[rustfmt::skip]
    pub const SECURE: Rows = [
        [
            // From the client.
            [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL], // rst
            [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA], // syn
            [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA], // fin
            [ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA], // ack
        ],
        [
            // From the server.
            [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL], // rst
            [SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA], // syn
            [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW], // fin
            [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES], // ack
        ],
        [
            // From the client, replies unseen.
            [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL], // rst
            [SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA], // syn
            [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW], // fin
            [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES], // ack
        ],
    ];
}

/// SCTP's transitions: by row, event and state.
mod sctp {
    use super::SctpState;
    use super::SctpState::{
        Closed as CL, Cookie as CO, CookieEchoed as CE, CookieReplied as CR, CookieSent as CS,
        CookieWait as CW, Established as ES, Init as IN, Init1 as I1, Rejected as RJ,
        ShutdownAckSent as SA, ShutdownReceived as SR, ShutdownSent as SS,
    };

    /// Specification §7.4. Columns: NO I1 IN CS CR CW CO CE ES SS SR SA RJ CL.
    #[rustfmt::skip]
    pub const ROWS: [[[SctpState; 14]; 10]; 3] = [
        [
            // From the client.
            [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // d
            [I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN], // i
            [CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL], // ia
            [CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // ce
            [ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL], // ca
            [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL], // s
            [CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL], // sa
            [CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL], // sc
            [CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL], // e
            [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL], // ab
        ],
        [
            // From the server.
            [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // d
            [CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW], // i
            [CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // ia
            [CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL], // ce
            [ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL], // ca
            [SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL], // s
            [SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL], // sa
            [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // sc
            [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // e
            [CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL], // ab
        ],
        [
            // From the client, replies unseen.
            [ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL], // d
            [I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN], // i
            [CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL], // ia
            [ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL], // ce
            [ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL], // ca
            [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL], // s
            [CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL], // sa
            [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL], // sc
            [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // e
            [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL], // ab
        ],
    ];
}
