//! What a node says of itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

use super::{Node, Role};
use crate::net::Tick;
use crate::sync::polder::receiver::Receiver;
use crate::sync::polder::sender::Listener;

/// The state of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// What it does.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// This process.
    pub boot: u64,
    /// Its group of directors.
    pub sync_id: u8,
    /// Bodies are encrypted.
    pub encrypted: bool,
    /// Those it exchanges entries with.
    pub peers: Vec<Peer>,
    /// Datagrams and bytes sent and received.
    pub sent: Traffic,
    /// Genuine ones only.
    pub received: Traffic,
    /// Records of entries, and of those that are gone, in what came in.
    pub records: u64,
    /// What was not taken, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Entries that it tells of.
    pub entries: usize,
    /// New or changed entries told, and entries told to be gone.
    pub upserts: u64,
    /// See `upserts`.
    pub removes: u64,
    /// Entries told again because a peer differed.
    pub repaired: u64,
    /// Datagrams repeated.
    pub resent: u64,
    /// Differences left to a later pass because too much waited.
    pub deferred: u64,
    /// Times that an entry was not told, or not kept, because there are too many.
    pub overflow: u64,
    /// Datagrams that wait to be sent.
    pub queue: usize,
    /// How many may.
    pub queue_max: usize,
    /// It has what it needs to take over.
    pub ready: bool,
    /// Why, or why not.
    pub why: &'static str,
}

/// Datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Traffic {
    /// How many.
    pub datagrams: u64,
    /// Their bytes, without UDP's.
    pub bytes: u64,
}

impl Traffic {
    pub(super) fn note(&mut self, len: usize) {
        self.datagrams += 1;
        self.bytes += len as u64;
    }
}

/// Who tells whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It tells us.
    WeFollow,
    /// We tell it.
    FollowsUs,
}

/// How it stands with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The listener gets all entries for the first time.
    Syncing,
    /// Both have the same, or differ by what is on its way.
    Synced,
    /// They differ, which is being mended.
    Dirty,
    /// It is not heard any more.
    Lost,
}

/// Another director, in one direction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Peer {
    /// Its name, empty if not known.
    pub name: String,
    /// Where it was heard from.
    pub addr: SocketAddr,
    /// Its process.
    pub boot: u64,
    /// Who tells whom.
    pub direction: Direction,
    /// How it stands.
    pub state: State,
    /// Age of the listener's knowledge, in seconds.
    pub lag_s: f64,
    /// The share of the teller's entries that the listener has, 0 to 1.
    pub coverage: f64,
    /// Entries that the listener has of the teller.
    pub entries: u64,
    /// Entries that the teller has.
    pub should: u64,
    /// Entries that its tables refused.
    pub uninstalled: u64,
    /// Seconds since both were last found to have come to the same after they differed. Of those we follow only.
    pub last_full_sync_s_ago: Option<f64>,
    /// They are known to differ.
    pub dirty: bool,
}

fn seconds(ticks: u32) -> f64 {
    f64::from(ticks) / f64::from(Tick::PER_SECOND)
}

impl Node {
    /// The state, for people and metrics.
    #[must_use]
    pub fn status(&self, now: Tick) -> Status {
        let told = self.sender.as_ref().map(|s| s.told()).unwrap_or_default();
        let kept: u64 = self.receivers.iter().map(Receiver::overflow).sum();
        let followed = self.receivers.iter().map(|r| followed(r, now));
        let listeners = self.sender.iter().flat_map(|s| {
            let should = s.entries() as u64;
            let follower = move |l| follower(l, should, now);
            s.listeners.iter().map(follower)
        });
        let records: u64 = self.receivers.iter().map(Receiver::records).sum();
        Status {
            role: self.config.role,
            name: self.config.name.clone(),
            boot: self.boot(),
            sync_id: self.config.sync_id,
            encrypted: self.config.encrypt,
            peers: followed.chain(listeners).collect(),
            sent: self.sent,
            received: self.received,
            records: self.records_before + records,
            rejected: self
                .rejections
                .iter()
                .map(|(why, n)| (why.name(), n))
                .collect(),
            entries: self.sender.as_ref().map_or(0, |s| s.entries()),
            upserts: told.upserts,
            removes: told.removes,
            repaired: told.repaired,
            resent: told.resent,
            deferred: told.deferred,
            overflow: told.overflow + kept,
            queue: self.queued(),
            queue_max: self.config.queue_max,
            ready: self.readiness.is_ready(),
            why: self.readiness.why(),
        }
    }
}

fn followed(r: &Receiver, now: Tick) -> Peer {
    Peer {
        name: r.name.clone(),
        addr: r.addr,
        boot: r.boot,
        direction: Direction::WeFollow,
        state: match (r.is_alive(now), r.synced(), r.is_dirty()) {
            (false, ..) => State::Lost,
            (_, None, _) => State::Syncing,
            (_, _, true) => State::Dirty,
            (_, _, false) => State::Synced,
        },
        lag_s: seconds(now.since(r.marked().unwrap_or(r.welcomed))),
        coverage: r.coverage(),
        entries: r.entries() as u64,
        should: r.theirs(),
        uninstalled: r.refused() as u64,
        last_full_sync_s_ago: r.synced().map(|at| seconds(now.since(at))),
        dirty: r.is_dirty(),
    }
}

fn follower(l: &Listener, should: u64, now: Tick) -> Peer {
    let report = l.report.unwrap_or_default();
    Peer {
        name: l.name.clone(),
        addr: l.addr,
        boot: l.boot,
        direction: Direction::FollowsUs,
        state: match (
            l.is_lost(now),
            l.report.is_none() || !l.synced,
            report.dirty,
        ) {
            (true, ..) => State::Lost,
            (_, true, _) => State::Syncing,
            (_, _, true) => State::Dirty,
            (_, _, false) => State::Synced,
        },
        lag_s: seconds(l.lag(now)),
        coverage: l.coverage,
        entries: report.have,
        should,
        uninstalled: report.uninstalled,
        last_full_sync_s_ago: None,
        dirty: report.dirty,
    }
}
