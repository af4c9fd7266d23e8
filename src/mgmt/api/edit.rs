//! The JSON of changes at run time: services and servers that come and go, timeouts, counters that begin again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Server, Service};

/// What is counted of services and servers alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes of IP packets from clients.
    pub bytes_in: u64,
    /// Bytes of IP packets to clients.
    pub bytes_out: u64,
}

impl Counts {
    fn since(self, zero: Self) -> Self {
        Self {
            connections: self.connections.saturating_sub(zero.connections),
            packets_in: self.packets_in.saturating_sub(zero.packets_in),
            packets_out: self.packets_out.saturating_sub(zero.packets_out),
            bytes_in: self.bytes_in.saturating_sub(zero.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(zero.bytes_out),
        }
    }
}

impl Service {
    /// What was counted since listings were last told to begin again.
    #[must_use]
    pub fn since_zero(&self) -> Counts {
        Counts {
            connections: self.connections,
            packets_in: self.packets_in,
            packets_out: self.packets_out,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        }
        .since(self.zeroed)
    }
}

impl Server {
    /// What was counted since listings were last told to begin again.
    #[must_use]
    pub fn since_zero(&self) -> Counts {
        Counts {
            connections: self.connections,
            packets_in: self.packets_in,
            packets_out: self.packets_out,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        }
        .since(self.zeroed)
    }
}

/// Answer to `POST /v1/services`, whose body is a service in the configuration's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceAdded {
    /// What was done, in a sentence.
    pub message: String,
    /// The service as it is now.
    pub service: Service,
    /// What may not be meant so.
    pub warnings: Vec<String>,
}

/// Answer to `POST /v1/services/{service}/servers`, whose body is a server in the configuration's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerAdded {
    /// What was done, in a sentence.
    pub message: String,
    /// The server as it is now.
    pub server: Server,
    /// What may not be meant so.
    pub warnings: Vec<String>,
}

/// Answer to `DELETE /v1/services`, `/v1/services/{service}` and `/v1/servers/{service}/{server}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// What was done, in a sentence.
    pub message: String,
    /// What is gone.
    pub deleted: Vec<String>,
}

/// How a server's packets are wrapped, in the configuration's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelUpdate {
    /// `ipip`, `gue` or `gre`.
    #[serde(rename = "type")]
    pub kind: String,
    /// UDP port of `gue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// `none`, `csum` or `remcsum`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

/// Body of `POST /v1/zero`: lets the counters of listings begin again at 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zero {
    /// Of one service and its servers; of all where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// Answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zeroed {
    /// What was done, in a sentence.
    pub message: String,
}

/// Answer to `GET /v1/timeouts`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeouts {
    /// In the configuration's order.
    pub timeouts: Vec<Timeout>,
}

/// How long a connection may be idle in a state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeout {
    /// The configuration's name.
    pub name: String,
    /// Seconds.
    pub seconds: f64,
    /// It was set at run time and differs from the file.
    pub overridden: bool,
}

/// Body of `PATCH /v1/timeouts`: durations such as `15m` by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimeoutsUpdate(pub BTreeMap<String, String>);

/// Answer to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeoutsUpdated {
    /// What was done, in a sentence.
    pub message: String,
    /// All of them afterwards.
    pub timeouts: Vec<Timeout>,
}
