//! When a master tells of an entry (specification §9.7).
//!
//! Owns the decision and nothing else: the caller keeps [`Told`] with each entry, offers entries at
//! the moments that [`Event`] names, and sends what it is told to. Pure, on virtual time.
//!
//! Cost: a connection of which nothing is to be told takes a few predicted branches and, where a
//! period is set, one division.

use std::fmt;

use super::ipvs::Version;
use crate::net::Tick;
use crate::net::packet::proto;
use crate::table::{SctpState, TcpState};

/// Most retries: IPVS has two bits for them.
pub const RETRIES_MAX: u8 = 3;
/// Part of the refresh period between two retries.
const RETRY_PART: u32 = 8;
/// An entry's end has moved enough for a refresh when half its timeout has passed, and this at least.
const MOVED_MIN: u32 = 10 * Tick::PER_SECOND;

/// How often a master tells of an entry (specification §2.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `sync_threshold`'s first number: packets from the client before the entry is told of.
    pub threshold: u32,
    /// Its second number: packets between two records; 0 for no repetition by packets.
    pub period: u32,
    /// `sync_refresh_period`, in ticks: entries whose end moved by less are not told of again; 0 for
    /// no such rule.
    pub refresh: u32,
    /// `sync_retries`: how often a record is repeated within a refresh period, 0 to [`RETRIES_MAX`].
    pub retries: u8,
    /// `sync_persist_mode`: of connections under a template only the template is told.
    pub templates_only: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            threshold: 3,
            period: 50,
            refresh: 0,
            retries: 0,
            templates_only: false,
        }
    }
}

/// Why a policy makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPolicy {
    /// No packet count would ever meet it.
    Threshold {
        /// As given.
        threshold: u32,
        /// As given.
        period: u32,
    },
    /// More than [`RETRIES_MAX`].
    Retries(u8),
}

impl fmt::Display for BadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Threshold { threshold, period } => {
                write!(
                    f,
                    "the sync threshold {threshold} must be below the period {period}"
                )
            }
            Self::Retries(n) => write!(f, "{n} sync retries are more than {RETRIES_MAX}"),
        }
    }
}

impl std::error::Error for BadPolicy {}

impl Policy {
    /// Whether the kernel would take it too (specification §2.9).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), BadPolicy> {
        if self.period != 0 && self.threshold >= self.period {
            return Err(BadPolicy::Threshold {
                threshold: self.threshold,
                period: self.period,
            });
        }
        if self.retries > RETRIES_MAX {
            return Err(BadPolicy::Retries(self.retries));
        }
        Ok(())
    }
}

/// What peers were told of an entry last. Kept with the entry; a new one has the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Told {
    /// The tick at which it would have ended then; nothing as long as it was never told of.
    pub end: Option<Tick>,
    /// Its state then.
    pub state: u8,
    /// Records sent again since the last one that the refresh period asked for.
    pub retries: u8,
}

impl Told {
    /// In one word, for tables that have no more room.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        let end = self.end.map_or(0, |t| 1 << 63 | u64::from(t.0));
        end | u64::from(self.state) << 32 | u64::from(self.retries) << 40
    }

    /// From [`Self::to_bits`].
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // Each is a field of the word.
    pub fn from_bits(bits: u64) -> Self {
        Self {
            end: (bits >> 63 != 0).then_some(Tick(bits as u32)),
            state: (bits >> 32) as u8,
            retries: (bits >> 40) as u8,
        }
    }

    /// Of an entry that a peer told of: its state counts as told, its end does not (specification
    /// §9.9).
    #[must_use]
    pub fn received(state: u8) -> Self {
        Self {
            state,
            ..Self::default()
        }
    }
}

/// A connection as the decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conn {
    /// IP protocol number.
    pub proto: u8,
    /// State code, after the packet.
    pub state: u8,
    /// Its timeout in ticks, after the packet.
    pub timeout: u32,
    /// What peers know of it.
    pub told: Told,
}

/// A template as the decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// Times that it was offered, this one included.
    pub in_pkts: u32,
    /// 1 when it is assured.
    pub state: u8,
    /// Its timeout in ticks.
    pub timeout: u32,
    /// Whether it is told of at all: one with a session's key and without a server is not.
    pub complete: bool,
    /// What peers know of it.
    pub told: Told,
}

/// Why entries are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A packet from the client, after everything that it did to the connection.
    Packet {
        /// Packets from the client so far, this one included.
        in_pkts: u32,
    },
    /// A datagram of a one-packet service: there is no connection to tell of.
    OnePacket,
    /// The timer of an entry that others need fired and was set again.
    Rearmed,
}

/// What is to be told: with each entry goes what to keep as its [`Told`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tell {
    /// Of the connection.
    pub conn: Option<Told>,
    /// Of its template.
    pub template: Option<Told>,
}

/// Decides on a connection and the template that controls it. For a template whose own timer fired
/// there is no connection, and `event` is [`Event::Rearmed`].
#[must_use]
pub fn offer(
    policy: &Policy,
    version: Version,
    event: Event,
    conn: Option<&Conn>,
    template: Option<&Template>,
    now: Tick,
) -> Tell {
    let conn = match event {
        Event::OnePacket if version == Version::V0 => return Tell::default(),
        Event::OnePacket => None,
        _ => conn,
    };
    let in_pkts = match event {
        Event::Packet { in_pkts } => in_pkts,
        Event::OnePacket | Event::Rearmed => policy.threshold,
    };
    let told = conn.and_then(|c| should_sync(policy, c, template.is_some(), in_pkts, now));
    // Version 0 stops at the first entry of the chain that is not told of.
    if version == Version::V0 && conn.is_some() && told.is_none() {
        return Tell::default();
    }
    let template = template.and_then(|t| {
        // Only a template that was offered for its own sake counts as if it had met the threshold.
        let in_pkts = match conn {
            None if event == Event::Rearmed => policy.threshold,
            _ => t.in_pkts,
        };
        should_sync_template(policy, t, in_pkts, now)
    });
    Tell {
        conn: told,
        template,
    }
}

/// Whether a connection is told of after `in_pkts` packets from the client, and what to keep if so.
#[inline]
#[must_use]
pub fn should_sync(
    policy: &Policy,
    conn: &Conn,
    under_template: bool,
    in_pkts: u32,
    now: Tick,
) -> Option<Told> {
    if policy.templates_only && under_template {
        return None;
    }
    let told = fresh(conn.state, conn.timeout, now);
    match significant(conn.proto, conn.state) {
        Significance::Silent => return None,
        Significance::Closing if conn.state != conn.told.state => return Some(told),
        Significance::Closing | Significance::Steady => {}
    }
    let told = refreshed(policy, &conn.told, told, conn.timeout, now)?;
    due(policy, in_pkts).then_some(told)
}

/// Whether a connection that no template controls may be told of, whatever peers know of it. What is no is so in
/// [`should_sync`], too.
#[inline]
#[must_use]
pub fn may_tell(policy: &Policy, proto: u8, state: u8, in_pkts: u32) -> bool {
    match significant(proto, state) {
        Significance::Silent => false,
        Significance::Closing => true,
        Significance::Steady => due(policy, in_pkts),
    }
}

/// Whether this packet is one at which connections are told of.
#[inline]
fn due(policy: &Policy, in_pkts: u32) -> bool {
    match (policy.period, policy.refresh) {
        (0, 0) => in_pkts == policy.threshold,
        (0, _) => true,
        (period, _) => in_pkts % period == policy.threshold,
    }
}

/// Whether a template is told of when it is offered for the `in_pkts`th time, and what to keep if so.
#[must_use]
pub fn should_sync_template(
    policy: &Policy,
    template: &Template,
    in_pkts: u32,
    now: Tick,
) -> Option<Told> {
    if !template.complete {
        return None;
    }
    let told = fresh(template.state, template.timeout, now);
    let told = refreshed(policy, &template.told, told, template.timeout, now)?;
    let due = policy.period != 0 || policy.refresh != 0 || in_pkts == policy.threshold;
    due.then_some(told)
}

/// What a state means for being told.
enum Significance {
    /// Not told of.
    Silent,
    /// Told of when it is due, and at once when it is new.
    Closing,
    /// Told of when it is due.
    Steady,
}

/// Whether connections in this state are worth telling of at all: not those that are half open or going.
#[inline]
#[must_use]
pub fn lasts(protocol: u8, state: u8) -> bool {
    !matches!(significant(protocol, state), Significance::Silent)
}

#[inline]
fn significant(protocol: u8, state: u8) -> Significance {
    match protocol {
        proto::TCP => match TcpState::from_code(state) {
            TcpState::Established => Significance::Steady,
            TcpState::FinWait | TcpState::TimeWait | TcpState::Close | TcpState::CloseWait => {
                Significance::Closing
            }
            _ => Significance::Silent,
        },
        proto::SCTP => match SctpState::from_code(state) {
            SctpState::Established => Significance::Steady,
            SctpState::ShutdownSent
            | SctpState::ShutdownReceived
            | SctpState::ShutdownAckSent
            | SctpState::Closed => Significance::Closing,
            _ => Significance::Silent,
        },
        _ => Significance::Steady,
    }
}

/// What to keep of an entry that is told of now.
fn fresh(state: u8, timeout: u32, now: Tick) -> Told {
    Told {
        end: Some(now.plus(timeout)),
        state,
        retries: 0,
    }
}

/// `told` unless the refresh period forbids to tell again yet; counted as a retry within it.
#[inline]
fn refreshed(policy: &Policy, last: &Told, told: Told, timeout: u32, now: Tick) -> Option<Told> {
    let (Some(last_end), true) = (last.end, policy.refresh > 0) else {
        return Some(told);
    };
    let moved = signed(now.plus(timeout), last_end).unsigned_abs();
    if moved >= policy.refresh.min((timeout / 2).max(MOVED_MIN)) {
        return Some(told);
    }
    let retry_at = Tick(last_end.0.wrapping_sub(timeout)).plus(policy.refresh / RETRY_PART);
    if last.retries >= policy.retries || signed(now, retry_at) < 0 {
        return None;
    }
    Some(Told {
        retries: last.retries + 1,
        ..told
    })
}

/// Ticks from `earlier` to `later`, negative when it is the other way round.
#[allow(clippy::cast_possible_wrap)] // Ticks are numbers on a circle.
fn signed(later: Tick, earlier: Tick) -> i32 {
    later.0.wrapping_sub(earlier.0) as i32
}

#[cfg(test)]
mod tests;
