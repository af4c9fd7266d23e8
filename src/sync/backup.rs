//! What a backup makes of a record of the `ipvs` format (specification §9.8, §9.9).
//!
//! Owns the rules: which records are good, what of them counts, and what becomes of an entry that is
//! there already. Knows no table: the caller looks the entry up, does what [`Update`] says, and
//! searches the real server as [`DestSearch`] says. Pure.
//!
//! A record says nothing of the link from a connection to its template: on a backup they live and
//! end each by themselves.

use super::ipvs::{AnyEnds, ConnRecord, Engine, Record, Rejected, flag};
use super::master::Told;
use crate::net::Tick;
use crate::net::packet::proto;
use crate::table::conn::MAX_TIMEOUT;
use crate::table::{Method, SctpState, StateTimeouts, TcpState};

/// Flags of a record that are taken over (specification §9.8). Linux takes all 16 of a version 0
/// record; the others mean nothing for an entry that came from a peer.
pub const FLAGS_MASK: u32 =
    flag::METHOD | flag::NOOUTPUT | flag::INACTIVE | flag::SEQ | flag::NO_CPORT | flag::TEMPLATE;

/// Timeout of a template whose record has none, in ticks.
pub const TEMPLATE_TIMEOUT: u32 = 180 * Tick::PER_SECOND;

/// What a backup needs to judge a record.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Names of the persistence engines that there are.
    pub engines: &'a [&'a str],
    /// Timeouts of connections whose records have none.
    pub timeouts: &'a StateTimeouts,
    /// The backup's own `sync_threshold`: packets that a received entry counts as having had.
    pub threshold: u32,
}

/// An entry that is to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Protocol and ends.
    pub ends: AnyEnds,
    /// Flags, masked, with [`flag::SYNC`]. In the bits of [`crate::table::flag`].
    pub flags: u16,
    /// State code.
    pub state: u8,
    /// The packet mark, 0 for none.
    pub mark: u32,
    /// Ticks from now to the end, unless it is used or told of again.
    pub timeout: u32,
    /// Packets that it counts as having had.
    pub in_pkts: u32,
}

/// What is to be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Install<'a> {
    /// A connection.
    Conn(Entry),
    /// A template.
    Template {
        /// As for connections.
        entry: Entry,
        /// Of a service with a persistence engine.
        engine: Option<Engine<'a>>,
    },
}

impl Install<'_> {
    /// What connections and templates have in common.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        match self {
            Self::Conn(entry) | Self::Template { entry, .. } => entry,
        }
    }
}

/// Judges a record. What it asks of a template is not what it asks of a connection: there a protocol
/// of 0 is one of a mark, and the state says only whether it is assured.
///
/// # Errors
/// Why the record is passed over; the next one of its message may be good.
pub fn accept<'a>(record: &Record<'a>, terms: &Terms<'_>) -> Result<Install<'a>, Rejected> {
    match record {
        Record::Conn(conn) => {
            let protocol = conn.ends.proto();
            let state = state(conn.state, states(protocol).ok_or(Rejected::Protocol)?)?;
            let usual = terms.timeouts.of(protocol, state);
            Ok(Install::Conn(entry(conn, state, usual, terms)))
        }
        Record::Template(template) => {
            let state = state(template.entry.state, TEMPLATE_STATES)?;
            if template.engine.is_some_and(|e| !known(&e, terms.engines)) {
                return Err(Rejected::EngineUnknown);
            }
            Ok(Install::Template {
                entry: entry(&template.entry, state, TEMPLATE_TIMEOUT, terms),
                engine: template.engine,
            })
        }
    }
}

/// States of a template: not assured, assured.
const TEMPLATE_STATES: u16 = 2;

/// How many states a protocol has; nothing for one that IPVS does not balance.
#[allow(clippy::cast_possible_truncation)] // There are 14 at most.
fn states(protocol: u8) -> Option<u16> {
    match protocol {
        proto::TCP => Some(TcpState::ALL.len() as u16),
        proto::SCTP => Some(SctpState::ALL.len() as u16),
        proto::UDP | proto::AH | proto::ESP => Some(1),
        _ => None,
    }
}

fn state(code: u16, states: u16) -> Result<u8, Rejected> {
    match u8::try_from(code) {
        Ok(state) if code < states => Ok(state),
        _ => Err(Rejected::State),
    }
}

fn known(engine: &Engine<'_>, engines: &[&str]) -> bool {
    engines.iter().any(|name| name.as_bytes() == engine.name)
}

#[allow(clippy::cast_possible_truncation)] // The mask has only lower bits.
fn entry(record: &ConnRecord, state: u8, usual: u32, terms: &Terms<'_>) -> Entry {
    let timeout = match record.timeout_s {
        0 => usual,
        seconds => seconds.saturating_mul(Tick::PER_SECOND),
    };
    Entry {
        ends: record.ends,
        flags: (record.flags & FLAGS_MASK | flag::SYNC) as u16,
        state,
        mark: record.mark,
        timeout: timeout.min(MAX_TIMEOUT),
        in_pkts: terms.threshold,
    }
}

/// Flags that a record changes of a connection that is there.
const UPDATED: u16 = (flag::INACTIVE | flag::SEQ) as u16;
const INACTIVE: u16 = flag::INACTIVE as u16;

impl Entry {
    /// Whether it does not count as active.
    #[must_use]
    pub fn is_inactive(&self) -> bool {
        self.flags & INACTIVE != 0
    }

    /// What is kept as told, so that this node as a master goes on from there.
    #[must_use]
    pub fn told(&self) -> Told {
        Told::received(self.state)
    }

    /// The forwarding method: that of the real server if there is one, else the record's. Polder has
    /// neither local delivery nor bypass.
    ///
    /// # Errors
    /// [`Rejected::Method`].
    pub fn method(&self, dest: Option<Method>) -> Result<Method, Rejected> {
        match (dest, u32::from(self.flags) & flag::METHOD) {
            (Some(method), _) => Ok(method),
            (None, 0) => Ok(Method::Masq),
            (None, 2) => Ok(Method::Tunnel),
            (None, 3) => Ok(Method::Direct),
            (None, _) => Err(Rejected::Method),
        }
    }

    /// The flags of a new entry; those of its real server, method and [`flag::NOOUTPUT`], replace the
    /// record's where there is one.
    #[must_use]
    pub fn flags_with(&self, dest: Option<u16>) -> u16 {
        const DEST: u16 = (flag::METHOD | flag::NOOUTPUT) as u16;
        match dest {
            Some(dest) => self.flags & !DEST | dest & DEST,
            None => self.flags,
        }
    }

    /// Where its real server is looked for.
    #[must_use]
    pub fn dest_search(&self) -> DestSearch {
        let [_, _, dest] = self.ends.all();
        let dport = dest.port();
        let masq = u32::from(self.flags) & flag::METHOD == 0;
        let (first, second) = if self.mark != 0 && !masq {
            (0, dport)
        } else {
            (dport, 0)
        };
        DestSearch {
            first,
            second: (first != second).then_some(second),
        }
    }
}

/// Which ports a real server may have in its service to be an entry's (specification §9.9). The
/// service is that of a packet with the entry's mark, protocol, virtual address and virtual port; the
/// address is the entry's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestSearch {
    /// The one to try first.
    pub first: u16,
    /// The one to try if there is no such server.
    pub second: Option<u16>,
}

/// A connection that is there under a record's protocol, client and virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Existing {
    /// Its ends.
    pub ends: AnyEnds,
    /// Its flags.
    pub flags: u16,
    /// Whether it has a real server.
    pub bound: bool,
}

/// What becomes of a table's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// There is none: make it.
    Create,
    /// End the one that is there, and make another: it leads to another server.
    Replace,
    /// Leave everything as it is: the record is the late end of a connection that was replaced.
    Ignore,
    /// Keep it, with the record's state, timeout and packets.
    Refresh {
        /// Its new flags.
        flags: u16,
        /// Change of its server's active connections: 1, 0 or -1.
        active: i8,
        /// Whether to search a server for it, of which it then takes method and
        /// [`flag::NOOUTPUT`].
        bind: bool,
    },
}

/// What a record makes of the connection that is there, if there is one.
#[must_use]
pub fn update_conn(record: &Entry, existing: Option<&Existing>) -> Update {
    let Some(existing) = existing else {
        return Update::Create;
    };
    let [_, _, theirs] = record.ends.all();
    let [_, _, ours] = existing.ends.all();
    if theirs != ours {
        return if record.is_inactive() {
            Update::Ignore
        } else {
            Update::Replace
        };
    }
    let active = match (existing.bound, existing.flags & INACTIVE != 0) {
        (true, true) if !record.is_inactive() => 1,
        (true, false) if record.is_inactive() => -1,
        _ => 0,
    };
    refresh(record, existing, active)
}

/// What a record makes of the template that is there, if there is one. Where it leads is not
/// compared: a template that is there is never led elsewhere by a record (specification §9.9).
#[must_use]
pub fn update_template(record: &Entry, existing: Option<&Existing>) -> Update {
    existing.map_or(Update::Create, |existing| refresh(record, existing, 0))
}

fn refresh(record: &Entry, existing: &Existing, active: i8) -> Update {
    Update::Refresh {
        flags: existing.flags & !UPDATED | record.flags & UPDATED,
        active,
        bind: !existing.bound,
    }
}

#[cfg(test)]
mod tests;
