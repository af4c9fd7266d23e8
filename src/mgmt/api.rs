//! The JSON of the control socket.
//!
//! These types are an API: fields are added, never removed or renamed. The socket's server and its clients share them,
//! and the metrics page is written from the same values, so that every surface tells one story. Knows no data path
//! type: whoever fills them translates.

mod edit;
mod sync;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use edit::{
    Counts, Deleted, ServerAdded, ServiceAdded, Timeout, Timeouts, TimeoutsUpdate, TimeoutsUpdated,
    TunnelUpdate, Zero, Zeroed,
};
pub use sync::{
    HandOverState, HandOverStep, SyncDaemon, SyncPeer, SyncRejected, SyncStart, SyncStatus,
    SyncTraffic, SyncUpdate, SyncUpdated,
};

/// Answer to `GET /v1/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Release.
    pub version: String,
    /// Commit it was built from.
    pub commit: String,
    /// DPDK it was built with, or `none`.
    pub dpdk: String,
}

impl Version {
    /// The version of this very program.
    #[must_use]
    pub fn current() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("POLDER_COMMIT").to_owned(),
            dpdk: env!("POLDER_DPDK_VERSION").to_owned(),
        }
    }
}

/// New connections that a service refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// No real server was available.
    pub no_server: u64,
    /// The connection table was full.
    pub table_full: u64,
    /// The template table, or the service's or the client's share of it, was full.
    #[serde(default)]
    pub template_table_full: u64,
    /// The persistence engine found no key, and the service says drop.
    #[serde(default)]
    pub no_key: u64,
    /// The overload defences refused it.
    #[serde(default)]
    pub overload: u64,
}

/// What keeps a service's clients on their servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Persistence {
    /// Seconds after which an idle template ends.
    pub timeout_s: f64,
    /// Netmask of IPv4 clients (`255.255.255.0`), prefix length of IPv6 clients (`64`).
    pub netmask: String,
    /// Persistence engine; `null` when clients are told by their address alone.
    pub engine: Option<String>,
    /// Where the engine finds the key, for those that are told where; `null` for others.
    pub field: Option<String>,
    /// What becomes of packets without a key: `fallback` or `drop`.
    pub on_no_key: String,
    /// Templates that the service may have, 0 for no limit of its own.
    pub max_templates: u32,
    /// Templates that one client may cause, 0 for no limit.
    pub max_templates_per_client: u32,
}

/// How a service's templates were used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateUse {
    /// Servers chosen by a template that was there.
    pub hits: u64,
    /// Templates made.
    pub misses: u64,
}

/// Packets of a service without a key, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFailures {
    /// The payload ends before the key does.
    pub short: u64,
    /// The message has none.
    pub missing: u64,
    /// It is so long that there was no room for it.
    #[serde(default)]
    pub long: u64,
}

/// Sessions that payload keys tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Connections ended because their session moved to another 5-tuple.
    pub rehomed: u64,
    /// Sessions that moved while their old connection's worker could not be told.
    pub rehome_lost: u64,
    /// Sessions served without a template, since there was no room for one.
    pub untracked: u64,
}

/// Answer to `GET /v1/services`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Services {
    /// In the configuration's order.
    pub services: Vec<Service>,
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Configured name: metric label and handle.
    pub name: String,
    /// `tcp`, `udp` or `sctp`; `mark` for a service of a mark.
    pub protocol: String,
    /// `ipv4` or `ipv6`.
    #[serde(default)]
    pub family: String,
    /// Virtual address and port; the mark in decimal for a service of a mark.
    pub address: String,
    /// Scheduler.
    pub scheduler: String,
    /// Scheduler flags.
    pub flags: Vec<String>,
    /// Persistence; `null` for none.
    #[serde(default)]
    pub persistence: Option<Persistence>,
    /// Every UDP datagram is scheduled by itself.
    #[serde(default)]
    pub one_packet: bool,
    /// Where packets carry the key of their session, as text for people; `null` for nowhere.
    #[serde(default)]
    pub payload_key: Option<String>,
    /// `reschedule`, `drop` or `keep` as configured; `null` for the protocol's default.
    #[serde(default)]
    pub on_server_down: Option<String>,
    /// Scheduler, persistence or one-packet scheduling were set at run time and differ from the file.
    #[serde(default)]
    pub overridden: bool,
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes of IP packets from clients.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes of IP packets to clients.
    pub bytes_out: u64,
    /// Connections scheduled since the start.
    pub connections: u64,
    /// New connections refused.
    pub rejected: Rejected,
    /// Templates now.
    #[serde(default)]
    pub templates: u64,
    /// How templates were used.
    #[serde(default)]
    pub template_use: TemplateUse,
    /// Packets without a key.
    #[serde(default)]
    pub key_failures: KeyFailures,
    /// Sessions of payload keys.
    #[serde(default)]
    pub sessions: Sessions,
    /// New flows that were placed by hash and not remembered.
    #[serde(default)]
    pub unremembered: u64,
    /// What its counters stood at when listings were told to begin again.
    #[serde(default)]
    pub zeroed: Counts,
    /// What comes in a second, an average over some seconds.
    #[serde(default)]
    pub rates: Counts,
    /// Active connections now.
    pub active: u64,
    /// Inactive connections now.
    pub inactive: u64,
    /// Real servers in the configuration's order, then removed ones that still have connections or templates.
    pub servers: Vec<Server>,
}

/// Answer to `GET /v1/ipvs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipvs {
    /// The settings.
    pub settings: Vec<IpvsSetting>,
    /// Of how many packets that need a server one is dropped now; 0 for none.
    pub drop_rate: u32,
    /// Free connection entries of all workers, as `amemthresh` counts them.
    pub free_entries: u64,
    /// Connections that `drop_entry` ended.
    pub dropped_connections: u64,
    /// Templates that `drop_entry` ended.
    pub dropped_templates: u64,
}

/// A setting that LVS has as a sysctl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpvsSetting {
    /// Its name.
    pub name: String,
    /// Its value; 0 and 1 of a switch. An automatic mode is 2 while it is in force, 1 else.
    pub value: u64,
    /// Whether the defence is in force now; `null` for what is none.
    pub active: Option<bool>,
    /// It was set at run time and differs from the file.
    pub overridden: bool,
}

/// Body of `PATCH /v1/ipvs`: settings by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IpvsUpdate(pub std::collections::BTreeMap<String, IpvsValue>);

/// A setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IpvsValue {
    /// A number.
    Number(u64),
    /// A switch.
    Switch(bool),
}

/// Answer to `PATCH /v1/ipvs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpvsUpdated {
    /// What was done, for people.
    pub message: String,
    /// All settings afterwards.
    pub ipvs: Ipvs,
}

/// Answer to `GET /v1/servers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Servers {
    /// By service, in the configuration's order.
    pub servers: Vec<Server>,
}

/// A real server of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Service it belongs to.
    pub service: String,
    /// Configured name, else `address:port`: metric label and handle.
    pub name: String,
    /// Address and port.
    pub address: String,
    /// `masq`, `direct` or `tunnel`.
    pub forwarding: String,
    /// Kind of the tunnel as `ipvsadm --tun-info` has it: `ipip`, `gue:PORT:FLAG` or `gre:FLAG`, where the flag is `-c`
    /// for no checksum, `+c` for one, `r+c` for `remcsum`; `null` without a tunnel.
    #[serde(default)]
    pub tunnel: Option<String>,
    /// Weight that is set, by the file or at run time.
    pub weight: u32,
    /// Weight that the scheduler uses.
    pub effective_weight: u32,
    /// Why `effective_weight` is not `weight`; empty when it is.
    pub reason: String,
    /// Administrative state: `ready`, `drain` or `maint`.
    pub state: String,
    /// Operational state.
    pub up: bool,
    /// At its upper threshold.
    pub overloaded: bool,
    /// Removed from the configuration; listed while it has connections or templates.
    pub removed: bool,
    /// Weight, thresholds, forwarding or administrative state were set at run time and differ from the file.
    pub overridden: bool,
    /// Upper threshold, 0 for none.
    pub upper_threshold: u32,
    /// Lower threshold as configured, 0 for none.
    pub lower_threshold: u32,
    /// Active connections now.
    pub active: u32,
    /// Inactive connections now.
    pub inactive: u32,
    /// Persistence templates now.
    #[serde(default)]
    pub persistent: u32,
    /// Packets sent to it.
    pub packets_in: u64,
    /// Bytes of IP packets for it.
    pub bytes_in: u64,
    /// Packets from it.
    pub packets_out: u64,
    /// Bytes of IP packets from it.
    pub bytes_out: u64,
    /// Connections scheduled to it since the start.
    pub connections: u64,
    /// What its counters stood at when listings were told to begin again.
    #[serde(default)]
    pub zeroed: Counts,
    /// What comes in a second, an average over some seconds.
    #[serde(default)]
    pub rates: Counts,
}

/// Answer to `GET /v1/connections`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// In the tables' order.
    pub connections: Vec<Connection>,
    /// There are more than were asked for.
    pub truncated: bool,
    /// Where to go on: `?from=` of the next request; `null` at the end.
    pub next: Option<String>,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// `TCP`, `UDP`, …, as listings have it.
    pub protocol: String,
    /// State's name.
    pub state: String,
    /// Seconds until it expires if nothing more comes.
    pub expires_s: f64,
    /// Client address and port.
    pub client: String,
    /// Virtual address and port.
    #[serde(rename = "virtual")]
    pub virtual_: String,
    /// Server address and port.
    pub destination: String,
    /// Service's name; `null` when it is no longer configured.
    pub service: Option<String>,
    /// Server's name; `null` when it is unknown.
    pub server: Option<String>,
    /// Worker that owns it.
    pub worker: usize,
    /// Packets from the client, wrapping at 2^32.
    pub packets_in: u32,
}

/// Answer to `GET /v1/templates`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Templates {
    /// In the table's order.
    pub templates: Vec<Template>,
    /// There are more than were asked for.
    pub truncated: bool,
    /// Where to go on: `?from=` of the next request; `null` at the end.
    pub next: Option<String>,
}

/// A persistence template: which client or session belongs to which server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// `TCP`, `UDP`, …, as listings have it; `IP` for services of a mark.
    pub protocol: String,
    /// `NONE`, or `ASSURED` once a connection under its control was established.
    pub state: String,
    /// Seconds until it ends if it is not used and controls no connection.
    pub expires_s: f64,
    /// The clients' address under the service's netmask, port 0.
    pub client: String,
    /// Virtual address and port; for services of a mark the mark written as an address, as listings have it.
    #[serde(rename = "virtual")]
    pub virtual_: String,
    /// The mark; `null` for services of an address.
    pub mark: Option<u32>,
    /// Server address and port; port 0 where packets keep theirs.
    pub destination: String,
    /// Service's name; `null` when it is no longer configured.
    pub service: Option<String>,
    /// Server's name; `null` when it is unknown.
    pub server: Option<String>,
    /// What found the key; `null` for templates of a client's address alone.
    pub engine: Option<String>,
    /// The key as the engine shows it: printable text or hexadecimal digits, whatever its bytes are.
    pub data: Option<String>,
    /// Connections that it controls.
    pub controlled: u32,
    /// A connection under its control was established.
    pub assured: bool,
    /// `local`, or `sync` for templates of another node.
    pub origin: String,
}

/// Answer to `GET /v1/neighbours`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// By port and address.
    pub neighbours: Vec<Neighbour>,
}

/// A neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Port's name.
    pub port: String,
    /// IP address.
    pub address: String,
    /// MAC address; `null` while it is not known.
    pub mac: Option<String>,
    /// `static`, `kernel`, or `unresolved` for a real server's next hop that is not known yet.
    pub origin: String,
}

/// Answer to `GET /v1/workers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workers {
    /// By number.
    pub workers: Vec<Worker>,
    /// Connections that all workers' tables can hold together.
    pub connections_capacity: u64,
    /// Persistence templates now; they belong to no worker.
    #[serde(default)]
    pub templates: u64,
    /// Persistence templates that there can be.
    #[serde(default)]
    pub templates_capacity: u64,
    /// Generation of the published snapshot.
    pub generation: u64,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Number, from 0.
    pub worker: usize,
    /// Processor it is pinned to.
    pub core: Option<usize>,
    /// `running`, `stuck` or `stopped`.
    pub state: String,
    /// Share of its time that found work, 0 to 1, over about the last second.
    pub busy_ratio: f64,
    /// Time-stamp-counter cycles of polls that found work.
    pub busy_cycles: u64,
    /// The same of polls that found none.
    pub idle_cycles: u64,
    /// Polls.
    pub polls: u64,
    /// Generation of the snapshot that it uses.
    pub generation: u64,
    /// Connections in its tables.
    pub connections: u64,
    /// Connections evicted to make room.
    pub evicted: u64,
    /// Connections that ended by timeout.
    pub expired: u64,
    /// Frames taken from devices.
    pub received: u64,
    /// Frames it made itself.
    pub generated: u64,
    /// Frames given to devices.
    pub transmitted: u64,
    /// Frames given to the kernel.
    pub punted: u64,
    /// Frames dropped.
    pub dropped: u64,
    /// Frames that wait in it now.
    pub held: u64,
    /// Fragments that came to be put together.
    #[serde(default)]
    pub fragments_received: u64,
    /// Fragments that wait in it now for others of their datagram; `held` has them too.
    #[serde(default)]
    pub fragments_held: u64,
    /// Datagrams put together.
    #[serde(default)]
    pub datagrams_reassembled: u64,
    /// Frames handed to other workers.
    pub handed_out: u64,
    /// Frames taken over from other workers.
    pub handed_in: u64,
}

/// Answer to `GET /v1/ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// In the configuration's order.
    pub ports: Vec<PortStatus>,
}

/// A port, as its device tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Configured name.
    pub name: String,
    /// Device.
    pub device: String,
    /// MAC address.
    pub mac: String,
    /// Link is up.
    pub link_up: bool,
    /// Speed in megabits per second; 0 where the device does not tell.
    pub speed_mbps: u32,
    /// IP MTU in bytes.
    pub mtu: u16,
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames that the device dropped because no worker took them in time.
    pub rx_missed: u64,
    /// Frames received with an error.
    pub rx_errors: u64,
    /// Frames lost for want of a buffer.
    pub rx_no_buffer: u64,
    /// Frames transmitted.
    pub tx_packets: u64,
    /// Bytes transmitted.
    pub tx_bytes: u64,
    /// Frames that the device did not take.
    pub tx_dropped: u64,
    /// Frames that failed in the device.
    pub tx_errors: u64,
}

/// Answer to `GET /v1/drops`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Every reason, also those that never happened.
    pub drops: Vec<Drop>,
}

/// A drop reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// Name.
    pub reason: String,
    /// Packets.
    pub packets: u64,
    /// One sentence.
    pub help: String,
}

/// Body of `PUT /v1/servers/{service}/{server}`: what is to change; what it does not name stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerUpdate {
    /// New weight, 0 to 65,535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
    /// New administrative state: `ready`, `drain` or `maint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// New upper threshold, 0 to 2,147,483,647; 0 is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_threshold: Option<u64>,
    /// New lower threshold, not above the upper one; 0 is three quarters of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_threshold: Option<u64>,
    /// New operational state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// How packets are to reach it: `masq`, `direct` or `tunnel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<String>,
    /// With `forwarding: tunnel`, what they are to be wrapped in; IPIP where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelUpdate>,
}

/// Body of `PATCH /v1/services/{service}`: what is to change; what it does not name stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceUpdate {
    /// Whether every UDP datagram is scheduled by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_packet: Option<bool>,
    /// What to change of persistence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<PersistenceUpdate>,
    /// New scheduler, which begins without flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// New flags of the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler_flags: Option<Vec<String>>,
}

/// What to change of a service's persistence, in the configuration's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersistenceUpdate {
    /// A duration such as `60s`, which also switches persistence on; `off` switches it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Netmask of IPv4 clients, prefix length of IPv6 clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netmask: Option<String>,
    /// `sip`, `payload` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// With `engine: payload`, where its field begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u32>,
    /// With `engine: payload`, the length of its field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// With `engine: payload`, what they count: `bytes` or `bits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// Answer to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceUpdated {
    /// What was done, in a sentence.
    pub message: String,
    /// The service as it is now.
    pub service: Service,
}

/// Answer to `PUT /v1/servers/{service}/{server}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerUpdated {
    /// What was done, in a sentence.
    pub message: String,
    /// The server as it is now.
    pub server: Server,
}

/// Answer to `POST /v1/reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Anything changed at all.
    pub changed: bool,
    /// Services.
    pub services: Changes,
    /// Servers, as `service/server`, of services that were there before and after.
    pub servers: Changes,
    /// Other parts that changed: `routes`, `neighbours`, `timeouts`, `sync`, …
    pub other: Vec<String>,
    /// Run-time settings that stay because the file did not change there, a sentence each.
    pub kept: Vec<String>,
    /// Run-time changes that are undone because the file says otherwise, a sentence each.
    #[serde(default)]
    pub taken_back: Vec<String>,
    /// Warnings about the file.
    pub warnings: Vec<String>,
}

/// Changes of one kind of object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// New.
    pub added: Vec<String>,
    /// Gone.
    pub removed: Vec<String>,
    /// Changed.
    pub changed: Vec<Change>,
}

impl Changes {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// A changed object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// What changed, such as `weight 1 -> 5`.
    pub what: Vec<String>,
}

/// Body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, in a sentence.
    pub error: String,
    /// Every problem, where there can be more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The error's name in C where IPVS has one for it, such as `EEXIST`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// What kind of refusal it is; decides the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such object.
    NotFound,
    /// The request makes no sense.
    BadRequest,
    /// The request is understood, and what it asks for is invalid.
    Invalid,
    /// What is to be there is there already.
    Conflict,
    /// A worker does not answer.
    Unavailable,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Kind.
    pub kind: ErrorKind,
    /// What goes to the client.
    pub body: ErrorBody,
}

impl Error {
    /// A refusal with one sentence.
    #[must_use]
    pub fn new(kind: ErrorKind, error: impl Into<String>) -> Self {
        Self {
            kind,
            body: ErrorBody {
                error: error.into(),
                problems: Vec::new(),
                code: None,
            },
        }
    }

    /// The refusal with the error's name in C.
    #[must_use]
    pub fn with_code(mut self, code: &str) -> Self {
        self.body.code = Some(code.to_owned());
        self
    }

    /// The refusal with a list of problems.
    #[must_use]
    pub fn with_problems(mut self, problems: Vec<String>) -> Self {
        self.body.problems = problems;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.body.error)?;
        self.body
            .problems
            .iter()
            .try_for_each(|p| write!(f, "\n{p}"))
    }
}

impl std::error::Error for Error {}
