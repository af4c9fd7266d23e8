//! The machine's state in the words of the control socket.

use super::super::api::{
    HandOverState, HandOverStep, SyncPeer, SyncRejected, SyncStatus, SyncTraffic,
};
use super::task::{Control, HandOver, IpvsState, State};
use super::{SyncControl, polder, socket, status_of};
use crate::sync::polder::{Direction, Keys, Peer, Rejected, State as PeerState, Status};
use crate::sync::settings::{Format, Role, Settings};

impl SyncControl for Control {
    fn status(&self) -> SyncStatus {
        let settings = self.settings();
        let state = self.state();
        let mut status = status_of(&settings);
        status.running = state.running;
        status.problem.clone_from(&state.problem);
        match (&state.node, &state.ipvs) {
            (Some(node), _) => of_polder(&mut status, node),
            (None, Some(ipvs)) => of_ipvs(&mut status, ipvs),
            (None, None) => idle(&mut status, &settings, &state),
        }
        status
    }

    fn change(&self, settings: Settings) -> Result<(), String> {
        if settings.role != Role::Off {
            if settings.format == Format::Polder
                && let Err(e) = polder::keys(settings.key_file.as_deref())
            {
                if settings == Control::settings(self) {
                    // What runs says so in its state, and goes on with the keys it has.
                    self.set(settings);
                }
                return Err(e);
            }
            for channel in [settings.channel(), settings.backup_channel()] {
                if let Some(name) = &channel.interface {
                    socket::index_of(name)?;
                }
            }
        }
        self.set(settings);
        Ok(())
    }

    fn settings(&self) -> Settings {
        Control::settings(self)
    }

    fn hand_over(&self, step: &HandOverStep) -> Result<HandOverState, String> {
        let before = Control::hand_over(self);
        let next = match (step, &before) {
            (HandOverStep::Ask, _) => None,
            (HandOverStep::Begin { port, key }, HandOver::No) => {
                Keys::parse(key).map_err(|e| e.to_string())?;
                let (port, key) = (*port, key.clone());
                Some(HandOver::Telling { port, key })
            }
            (HandOverStep::Begin { .. }, _) => {
                return Err("another process is taking over already".to_owned());
            }
            (HandOverStep::Finish, HandOver::Telling { port, key }) => Some(HandOver::Finishing {
                port: *port,
                key: key.clone(),
            }),
            (HandOverStep::Finish, HandOver::No) => {
                return Err("nobody is taking over; begin first".to_owned());
            }
            (HandOverStep::Finish, _) | (HandOverStep::Cancel, HandOver::Done) => None,
            (HandOverStep::Cancel, _) => Some(HandOver::No),
        };
        let now = next.clone().unwrap_or(before);
        if let Some(next) = next {
            self.set_hand_over(next);
        }
        let state = match now {
            HandOver::No => "none",
            HandOver::Telling { .. } => "telling",
            HandOver::Finishing { .. } => "finishing",
            HandOver::Done => "done",
        };
        Ok(HandOverState {
            state: state.to_owned(),
            pid: std::process::id(),
            entries_max: self.entries_max(),
        })
    }
}

/// Nothing runs.
fn idle(status: &mut SyncStatus, settings: &Settings, state: &State) {
    status.ready = settings.role == Role::Off;
    status.ready_reason = match &state.problem {
        _ if settings.role == Role::Off => "state sync is off".to_owned(),
        Some(problem) => format!("state sync can't run: {problem}"),
        None => "state sync has not started yet".to_owned(),
    };
    if settings.format == Format::Polder {
        status.rejected = Rejected::ALL
            .iter()
            .map(|r| rejected(r.name(), 0, r.help()))
            .collect();
    }
}

fn rejected(reason: &str, count: u64, help: &str) -> SyncRejected {
    SyncRejected {
        reason: reason.to_owned(),
        count,
        help: help.to_owned(),
    }
}

fn of_polder(status: &mut SyncStatus, node: &Status) {
    status.name.clone_from(&node.name);
    status.ready = node.ready;
    node.why.clone_into(&mut status.ready_reason);
    status.entries = node.entries as u64;
    status.sent = SyncTraffic {
        messages: node.sent.datagrams,
        records: node.upserts + node.removes + node.repaired,
        bytes: node.sent.bytes,
    };
    status.received = SyncTraffic {
        messages: node.received.datagrams,
        records: node.records,
        bytes: node.received.bytes,
    };
    let count = |r: &Rejected| node.rejected.get(r.name()).copied().unwrap_or(0);
    status.rejected = Rejected::ALL
        .iter()
        .map(|r| rejected(r.name(), count(r), r.help()))
        .collect();
    status.discarded = node.overflow;
    status.queue = node.queue as u64;
    status.peers = node.peers.iter().map(peer).collect();
}

fn peer(p: &Peer) -> SyncPeer {
    let inward = p.direction == Direction::WeFollow;
    SyncPeer {
        name: if p.name.is_empty() {
            p.addr.to_string()
        } else {
            p.name.clone()
        },
        address: p.addr.to_string(),
        version: 1,
        direction: if inward { "in" } else { "out" }.to_owned(),
        role: if inward { "master" } else { "backup" }.to_owned(),
        state: match p.state {
            PeerState::Syncing => "synchronising",
            PeerState::Synced => "synchronised",
            PeerState::Dirty => "mending",
            PeerState::Lost => "lost",
        }
        .to_owned(),
        lag_seconds: Some(p.lag_s),
        coverage: Some(p.coverage),
        entries: p.entries,
        should: p.should,
        uninstalled: p.uninstalled,
        last_full_sync_seconds: p.last_full_sync_s_ago,
        dirty: p.dirty,
    }
}

fn of_ipvs(status: &mut SyncStatus, ipvs: &IpvsState) {
    let t = &ipvs.traffic;
    // The format has nothing by which a backup could know what it lacks.
    status.ready = ipvs.ready;
    status.ready_reason = match ipvs.ready {
        true => "the ipvs format can't tell what is missing; see lvs-differences",
        false => "the ipvs format can't tell what is missing: waits for the time of ready_timeout",
    }
    .to_owned();
    status.entries = 0;
    status.sent = SyncTraffic {
        messages: t.messages_sent,
        records: t.records_sent,
        bytes: t.bytes_sent,
    };
    status.received = SyncTraffic {
        messages: t.messages_received,
        records: t.records_received,
        bytes: t.bytes_received,
    };
    let help = |name: &str| {
        let all = crate::sync::ipvs::Rejected::ALL.iter();
        all.clone()
            .find(|r| r.name() == name)
            .map_or("", |r| r.help())
    };
    let note = |(name, n): &(&'static str, u64)| rejected(name, *n, help(name));
    status.rejected = ipvs.rejected.iter().map(note).collect();
    status.rejected.push(rejected(
        "unbound",
        ipvs.unbound,
        "A template's service or real server is not configured here.",
    ));
    status.rejected.push(rejected(
        "no_room",
        ipvs.refused,
        "There was no room for a connection, or another one had its addresses.",
    ));
    status.discarded = ipvs.discarded;
    status.queue = ipvs.waiting as u64;
}
