//! Real servers: the immutable part that a snapshot holds, and the counts that all workers share.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Slot of a virtual service. Stable over reloads; reused only when nothing refers to it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// Slot of a real server (of one service). Stable over reloads; reused only when nothing refers to it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestId(pub u32);

/// Forwarding method. The numbers are IPVS's (specification §1.3) and appear on the sync wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// Masquerading (NAT).
    Masq = 0,
    /// Encapsulation (IPIP).
    Tunnel = 2,
    /// Direct routing.
    Direct = 3,
}

/// What the operator wants of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum AdminState {
    /// Takes connections.
    #[default]
    Ready,
    /// Keeps what it has, takes no new connections.
    Drain,
    /// Takes nothing; treated as down.
    Maint,
}

/// Counts of one real server, shared by all workers; one cache line.
///
/// Touched when a connection is made, changes class or ends, not per packet. Exact: what a walk of the connection
/// tables would give.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct DestShared {
    /// Connections of the active class (specification §7.5).
    active: AtomicU32,
    /// All connections, templates excluded.
    total: AtomicU32,
    /// Templates.
    persistent: AtomicU32,
    /// The overload flag (specification §1.4).
    overloaded: AtomicBool,
}

impl DestShared {
    /// Active connections now.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// All connections now, active or not; templates excluded.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.total.load(Ordering::Relaxed)
    }

    /// Connections that are not active. The two counts are read one after the other, so never below zero.
    #[must_use]
    pub fn inactive(&self) -> u32 {
        let active = self.active();
        self.total().saturating_sub(active)
    }

    /// Templates now.
    #[must_use]
    pub fn persistent(&self) -> u32 {
        self.persistent.load(Ordering::Relaxed)
    }

    /// TEMPORARY until thresholds are merged.
    pub fn reconsider(&self, _upper: u32, _lower: u32) {}

    /// Whether the overload flag is set.
    #[must_use]
    pub fn overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
    }
}

/// A real server of one service, as one snapshot sees it.
#[derive(Debug)]
pub struct Dest {
    /// Its slot.
    pub id: DestId,
    /// The service it belongs to.
    pub service: ServiceId,
    /// Label in metrics and listings: the configured name, else `address:port`.
    pub name: String,
    /// Address packets are sent to.
    pub addr: IpAddr,
    /// Port packets are sent to; 0 keeps the packet's.
    pub port: u16,
    /// Forwarding method.
    pub method: Method,
    /// Effective weight: 0 when drained, in maintenance or down, else the configured one.
    pub weight: u32,
    /// The last effective weight that was not 0 (`mh` keeps the slots of a quiesced server by it); 0 if there was none.
    pub last_weight: u32,
    /// Connections at which the server becomes overloaded; 0 is none.
    pub upper_threshold: u32,
    /// Connections below which it is no longer overloaded; 0 means three quarters of the upper one, rounded up.
    pub lower_threshold: u32,
    /// Administrative state.
    pub admin: AdminState,
    /// Operational state.
    pub up: bool,
    /// `false` once the server was removed and only lives on for its connections.
    pub available: bool,
    /// Counts shared with every other snapshot and worker.
    pub shared: Arc<DestShared>,
}

impl Dest {
    /// Whether a scheduler may choose it: weight above 0, not overloaded, and still configured.
    #[must_use]
    pub fn eligible(&self) -> bool {
        self.weight > 0 && self.available && !self.shared.overloaded()
    }
}
