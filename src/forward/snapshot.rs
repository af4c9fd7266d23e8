//! The published configuration: immutable, read once per burst by every worker.
//!
//! The [`Registry`] belongs to the management core. It gives every service and real server a slot that stays the same
//! over reloads, so that connections, which remember slots, outlive the snapshot they were made under.

mod index;
mod registry;

use std::sync::Arc;

use hashbrown::HashMap;

use super::defence::Sysctls;
use super::defs::{PortDef, ServiceDef, ServiceKind, Switches};
use super::fib::Fib;
use crate::net::{Af, V4, V6};
use crate::sched::{Scheduler, Spread};
use crate::table::{Dest, DestId, ServiceId, StateTimeouts};

pub use index::{FTP, FamilyIndex};
pub use registry::{BuildError, Registry};

/// A virtual service as one snapshot sees it.
#[derive(Debug)]
pub struct Service {
    /// Its slot.
    pub id: ServiceId,
    /// What it was made from.
    pub def: ServiceDef,
    /// Address family.
    pub af: Af,
    /// Real servers in kernel list order, the newest (last in the configuration) first (specification §1.3).
    pub dests: Vec<Arc<Dest>>,
    /// Chooses among `dests`.
    pub scheduler: Arc<dyn Scheduler>,
    /// Chooses the servers of flows that are not remembered, where there may be such.
    pub spread: Option<Arc<Spread>>,
    /// A new template's time, in ticks; 0 when the service is not persistent.
    pub template_timeout: u32,
    /// Real servers by the id that QUIC connection IDs carry, as indices into `dests`.
    pub quic_servers: HashMap<Vec<u8>, usize>,
}

impl Service {
    /// Its virtual port; 0 for a service of every port and one of a mark.
    #[inline]
    #[must_use]
    pub fn port(&self) -> u16 {
        self.def.port()
    }

    /// Its mark; 0 for one that has an address.
    #[inline]
    #[must_use]
    pub fn mark(&self) -> u32 {
        match self.def.kind {
            ServiceKind::Address { .. } => 0,
            ServiceKind::Mark { mark, .. } => mark,
        }
    }

    /// The index of a real server.
    #[must_use]
    pub fn index_of(&self, id: DestId) -> Option<usize> {
        self.dests.iter().position(|d| d.id == id)
    }
}

/// The services and servers part of a snapshot; shared by snapshots that differ in forwarding information only.
#[derive(Debug)]
pub struct Services {
    /// By [`ServiceId`].
    pub slots: Vec<Option<Arc<Service>>>,
    /// By [`DestId`]; removed servers stay, marked unavailable, while they have connections.
    pub dests: Vec<Option<Arc<Dest>>>,
    /// IPv4 lookups.
    pub v4: FamilyIndex<V4>,
    /// IPv6 lookups.
    pub v6: FamilyIndex<V6>,
    /// Timeouts.
    pub timeouts: StateTimeouts,
    /// Whether templates of servers with weight 0 are not used for new connections (specification §2.8).
    pub expire_quiescent_template: bool,
    /// Further switches.
    pub switches: Switches,
    /// Settings that LVS has as sysctls.
    pub sysctls: Sysctls,
    /// Slots in the configuration's order, for listings.
    pub order: Vec<ServiceId>,
}

/// What a worker reads once per burst.
#[derive(Debug)]
pub struct Snapshot {
    /// Goes up by one with each publication.
    pub generation: u64,
    /// Services and servers.
    pub services: Arc<Services>,
    /// Where packets leave.
    pub fib: Arc<Fib>,
    /// Ports of the configuration.
    pub ports: Arc<[PortDef]>,
}

impl Snapshot {
    /// A service by slot.
    #[inline]
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services
            .slots
            .get(id.0 as usize)
            .and_then(Option::as_ref)
    }

    /// A real server by slot.
    #[inline]
    #[must_use]
    pub fn dest(&self, id: DestId) -> Option<&Arc<Dest>> {
        self.services
            .dests
            .get(id.0 as usize)
            .and_then(Option::as_ref)
    }

    /// Services in the configuration's order.
    pub fn services_in_order(&self) -> impl Iterator<Item = &Arc<Service>> + '_ {
        self.services
            .order
            .iter()
            .filter_map(|id| self.service(*id))
    }

    /// A service by its configured name.
    #[must_use]
    pub fn service_by_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.services_in_order().find(|s| s.def.name == name)
    }
}
