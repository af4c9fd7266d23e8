//! State sync on the management core: what an operator sees and changes of it.
//!
//! Owns the boundary ([`SyncControl`]) between the manager, which knows the file and the operator's wishes, and the
//! machine, which has sockets and tables. The manager decides what settings hold; the machine does what they say, and
//! tells the truth about it.

mod edit;
pub mod ipvs;
mod places;
pub mod polder;
pub mod socket;
mod status;
pub mod tables;
pub mod takeover;
pub mod task;

pub use edit::{Errno, Refused};

use std::io;
use std::net::SocketAddr;

use super::api::{HandOverState, HandOverStep, SyncDaemon, SyncStatus};
use crate::sync::settings::{Channel, Format, Role, Settings};

/// The machine that does state sync, as the manager sees it.
///
/// All of it is called with the manager locked and must not lock the manager; none of it may wait for a peer.
pub trait SyncControl: Send + Sync {
    /// How it goes. What settings alone tell, [`status_of`] has; `overridden` is the manager's to fill in.
    fn status(&self) -> SyncStatus;

    /// Goes by these settings from now on. With those that it has already it reads the key file again and tries again
    /// what did not work, which is what an operator means who reloads after mending that.
    ///
    /// # Errors
    /// A sentence; the settings of before hold, and nothing has changed.
    fn change(&self, settings: Settings) -> Result<(), String>;

    /// The settings that it goes by, whether or not it can.
    fn settings(&self) -> Settings;

    /// Begins to hand everything over to another process, or finishes that; tells how far it has come.
    ///
    /// # Errors
    /// A sentence: there is nothing to hand over, or it can't be done now.
    fn hand_over(&self, _step: &HandOverStep) -> Result<HandOverState, String> {
        Err("this appliance has nothing to hand over".to_owned())
    }
}

/// The MTU that a backup's longest message is listed by while the interface's is not known.
const MTU: usize = 1500;

/// As much of the status as the settings tell: nothing runs, nothing was counted, and nothing is ready.
#[must_use]
pub fn status_of(settings: &Settings) -> SyncStatus {
    let s = settings;
    let unicast: Vec<String> = s.peers.iter().map(ToString::to_string).collect();
    SyncStatus {
        role: s.role.word().to_owned(),
        format: s.format.word().to_owned(),
        version: match s.format {
            Format::Polder => 1,
            Format::Ipvs(version) => version.number(),
        },
        name: s.name.clone().unwrap_or_default(),
        interface: s.interface.clone(),
        group: unicast.is_empty().then(|| s.group.to_string()),
        unicast,
        sync_id: s.sync_id,
        encrypted: s.encrypt,
        queue_capacity: u64::try_from(s.queue_max).unwrap_or(u64::MAX),
        daemons: daemons(s, MTU),
        ..SyncStatus::default()
    }
}

/// The daemons of settings as IPVS lists them, the master first; `mtu` is that of the backup's interface.
#[must_use]
pub fn daemons(settings: &Settings, mtu: usize) -> Vec<SyncDaemon> {
    let daemon = |role: Role, channel: &Channel, max: usize| SyncDaemon {
        role: role.word().to_owned(),
        interface: channel.interface.clone().unwrap_or_default(),
        sync_id: channel.sync_id,
        max_message: u32::try_from(max).unwrap_or(u32::MAX),
        group: channel
            .peers
            .first()
            .unwrap_or(&channel.group)
            .ip()
            .to_string(),
        port: channel.group.port(),
        ttl: channel.ttl,
    };
    let mut out = Vec::new();
    if settings.role.is_master() {
        let channel = settings.channel();
        out.push(daemon(Role::Master, &channel, channel.sent_max()));
    }
    if settings.role.is_backup() {
        let channel = settings.backup_channel();
        out.push(daemon(Role::Backup, &channel, channel.received_max(mtu)));
    }
    out
}

/// What went over the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages sent.
    pub messages_sent: u64,
    /// Their bytes of UDP payload.
    pub bytes_sent: u64,
    /// Records in them.
    pub records_sent: u64,
    /// Messages that the kernel did not take.
    pub send_errors: u64,
    /// What it said last.
    pub last_error: Option<String>,
    /// Messages that came in.
    pub messages_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Records that were taken from them.
    pub records_received: u64,
    /// Who sent the last one.
    pub last_from: Option<SocketAddr>,
}

impl Traffic {
    fn sent(&mut self, bytes: usize, records: u64) {
        self.messages_sent += 1;
        self.bytes_sent += bytes as u64;
        self.records_sent += records;
    }

    fn failed(&mut self, e: &io::Error) {
        self.send_errors += 1;
        self.last_error = Some(e.to_string());
    }

    fn received(&mut self, bytes: usize, from: SocketAddr) {
        self.messages_received += 1;
        self.bytes_received += bytes as u64;
        self.last_from = Some(from);
    }
}
