//! The JSON of state sync.

use serde::{Deserialize, Serialize};

/// Answer to `GET /v1/sync`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SyncStatus {
    /// What this director does: `off`, `master`, `backup` or `both`.
    pub role: String,
    /// `polder` or `ipvs`.
    pub format: String,
    /// Version of the messages that are sent.
    pub version: u8,
    /// What peers call this director.
    pub name: String,
    /// Kernel interface; `null` for the kernel's choice.
    pub interface: Option<String>,
    /// Multicast group and port; `null` where messages go to each of `unicast`.
    pub group: Option<String>,
    /// Directors that messages are sent to one by one.
    pub unicast: Vec<String>,
    /// Which directors belong together.
    pub sync_id: u8,
    /// Messages are encrypted.
    pub encrypted: bool,
    /// It does what `role` says.
    pub running: bool,
    /// Why not, or what else is wrong with it, in a sentence; `null` when all is well.
    pub problem: Option<String>,
    /// This director could take over: it has what its peers have, or needs nothing.
    pub ready: bool,
    /// Why it is ready, or why not, in a sentence.
    pub ready_reason: String,
    /// Something of it was set at run time and differs from the file.
    #[serde(default)]
    pub overridden: bool,
    /// Own connections and templates that peers are told of.
    pub entries: u64,
    /// What was sent.
    pub sent: SyncTraffic,
    /// What was received and understood.
    pub received: SyncTraffic,
    /// What was received and not taken, by reason; every reason, also those that never happened.
    pub rejected: Vec<SyncRejected>,
    /// Messages discarded because too many waited.
    pub discarded: u64,
    /// Messages that wait to be sent.
    pub queue: u64,
    /// Messages that may wait.
    pub queue_capacity: u64,
    /// Peers, by name; of several lives of one host the latest first.
    pub peers: Vec<SyncPeer>,
    /// The daemons that run, as `ipvsadm -L --daemon` lists them: the master first.
    pub daemons: Vec<SyncDaemon>,
}

/// Messages one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTraffic {
    /// Messages.
    pub messages: u64,
    /// Records in them.
    pub records: u64,
    /// Their bytes, without those of UDP and IP.
    pub bytes: u64,
}

/// Messages or records that were not taken for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRejected {
    /// Its name.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// One sentence.
    pub help: String,
}

/// A peer, in one direction: with both roles there are two of each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SyncPeer {
    /// What it calls itself; its address where it has told no name.
    pub name: String,
    /// Address and port that its messages come from.
    pub address: String,
    /// Version of the format that it speaks.
    pub version: u8,
    /// `in`: this director takes its entries. `out`: it takes this director's.
    pub direction: String,
    /// Its role, as far as it is known: `master`, `backup` or `both`.
    pub role: String,
    /// What goes on, in a word or two: `synchronised`, `synchronising`, `lost`, …
    pub state: String,
    /// By how many seconds what the receiver has is behind what the sender has; `null` while it is not known.
    pub lag_seconds: Option<f64>,
    /// Share of the entries that the receiver should have that it has, 0 to 1, by digest; `null` while it is not known.
    pub coverage: Option<f64>,
    /// Entries that the receiver has.
    pub entries: u64,
    /// Entries that it should have.
    pub should: u64,
    /// Entries that it has and could not put into its tables, for want of their service or of room.
    pub uninstalled: u64,
    /// Seconds since everything was compared and found the same, or mended; `null` when that never was.
    pub last_full_sync_seconds: Option<f64>,
    /// There are differences that are known and not mended yet.
    pub dirty: bool,
}

/// A daemon in IPVS's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncDaemon {
    /// `master` or `backup`.
    pub role: String,
    /// Interface; empty for the kernel's choice.
    pub interface: String,
    /// Sync id.
    pub sync_id: u8,
    /// The longest message in bytes of UDP payload.
    pub max_message: u32,
    /// Group's address, or that of the first peer.
    pub group: String,
    /// First port.
    pub port: u16,
    /// Time to live.
    pub ttl: u8,
}

/// Body of `POST /v1/sync`: one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncUpdate {
    /// What to do from now on: `off`, `master`, `backup` or `both`; no error if it is done already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// A role to begin with, beside the one that runs; an error if it runs already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<SyncStart>,
    /// A role to end: `master` or `backup`; an error if it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
}

/// A role to begin with. What is not given is as it was, or as the file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncStart {
    /// `master` or `backup`.
    pub role: String,
    /// Kernel interface, or name of a port that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Sync id, 0 to 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_id: Option<u32>,
    /// Address of a multicast group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// First port, 1 to 65,535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// Time to live, 1 to 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// The longest message in bytes of UDP payload, 1 to 65,507; too small values are raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_message: Option<u32>,
}

/// Answer to `POST /v1/sync`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyncUpdated {
    /// What was done, for people.
    pub message: String,
    /// Sync afterwards.
    pub sync: SyncStatus,
}

/// Body of `POST /v1/handover`: what the process that takes over asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum HandOverStep {
    /// To be told everything.
    Begin {
        /// Its UDP port on the loopback interface.
        port: u16,
        /// A key for this one time, as a key file has it.
        key: String,
    },
    /// To be told what changed last; from here on the process before takes no more frames.
    Finish,
    /// To be given up.
    Cancel,
    /// How far it has come.
    Ask,
}

/// Answer to `POST /v1/handover`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOverState {
    /// `none`, `telling`, `finishing` or `done`.
    pub state: String,
    /// The process that hands over.
    pub pid: u32,
    /// Connections and templates that it can have at most.
    pub entries_max: u64,
}
