//! The configuration as the data path takes it: checked, complete, no text left to interpret.
//!
//! `config::lower` makes these from YAML, the management core edits them at run time, and [`super::Registry`] builds
//! snapshots from them.

use std::net::IpAddr;
use std::time::Duration;

use crate::net::{Af, Mac};
use crate::table::{AdminState, Method};

/// Index of a port in the configuration's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// An address with the length of its on-link prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The address (host bits kept for interface addresses, zero for routes).
    pub addr: IpAddr,
    /// Prefix length in bits.
    pub len: u8,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDef {
    /// Its name in the configuration.
    pub name: String,
    /// PCI address, DPDK vdev, or whatever the io layer opens.
    pub device: String,
    /// The director's own addresses on the port.
    pub addresses: Vec<Prefix>,
    /// Configured MAC address; the device's own where none is.
    pub mac: Option<Mac>,
    /// IP MTU of the way out in bytes.
    pub mtu: u16,
    /// Whether a TAP of this port is given to the kernel.
    pub kernel_interface: bool,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteDef {
    /// Destination.
    pub to: Prefix,
    /// Next hop; on-link where there is none.
    pub via: Option<IpAddr>,
    /// Port the packets leave by.
    pub port: PortId,
}

/// A neighbour's MAC address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NeighbourDef {
    /// Port it is reached by.
    pub port: PortId,
    /// Its address.
    pub addr: IpAddr,
    /// Its MAC address.
    pub mac: Mac,
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestDef {
    /// Configured name, if any.
    pub name: Option<String>,
    /// Address.
    pub addr: IpAddr,
    /// Port; 0 keeps the packet's.
    pub port: u16,
    /// Configured weight.
    pub weight: u32,
    /// Forwarding method.
    pub method: Method,
    /// Upper threshold, 0 for none.
    pub upper_threshold: u32,
    /// Lower threshold, 0 for three quarters of the upper.
    pub lower_threshold: u32,
    /// Administrative state.
    pub admin: AdminState,
}

impl DestDef {
    /// The name in metrics and listings.
    #[must_use]
    pub fn label(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| std::net::SocketAddr::new(self.addr, self.port).to_string())
    }
}

/// What a service is recognised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceKind {
    /// Protocol, virtual address and port.
    Address {
        /// IP protocol number.
        proto: u8,
        /// Virtual address.
        addr: IpAddr,
        /// Virtual port.
        port: u16,
    },
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDef {
    /// Its name: the metric label and the handle of runtime commands.
    pub name: String,
    /// What it is recognised by.
    pub kind: ServiceKind,
    /// Scheduler name.
    pub scheduler: String,
    /// Scheduler flags.
    pub flags: Vec<String>,
    /// Real servers in the operator's order (the data path walks them newest first).
    pub servers: Vec<DestDef>,
}

impl ServiceDef {
    /// Address family.
    #[must_use]
    pub fn af(&self) -> Af {
        match self.kind {
            ServiceKind::Address { addr, .. } => Af::of(addr),
        }
    }
}

/// Timeouts of connection states, by the names of specification §7.1 and §7.3.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Timeouts {
    pub tcp_none: Duration,
    pub tcp_established: Duration,
    pub tcp_syn_sent: Duration,
    pub tcp_syn_recv: Duration,
    pub tcp_fin_wait: Duration,
    pub tcp_time_wait: Duration,
    pub tcp_close: Duration,
    pub tcp_close_wait: Duration,
    pub tcp_last_ack: Duration,
    pub tcp_listen: Duration,
    pub tcp_synack: Duration,
    pub udp: Duration,
}

impl Default for Timeouts {
    /// The defaults of specification §7.1 and §7.3.
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            tcp_none: s(2),
            tcp_established: s(900),
            tcp_syn_sent: s(120),
            tcp_syn_recv: s(60),
            tcp_fin_wait: s(120),
            tcp_time_wait: s(120),
            tcp_close: s(10),
            tcp_close_wait: s(60),
            tcp_last_ack: s(30),
            tcp_listen: s(120),
            tcp_synack: s(120),
            udp: s(300),
        }
    }
}

/// Everything that the data path is configured with.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Setup {
    /// Ports, in order; [`PortId`] is the index.
    pub ports: Vec<PortDef>,
    /// Static routes (on-link routes of the ports' addresses are implied).
    pub routes: Vec<RouteDef>,
    /// Static neighbours.
    pub neighbours: Vec<NeighbourDef>,
    /// Virtual services, in order.
    pub services: Vec<ServiceDef>,
    /// Timeouts.
    pub timeouts: Timeouts,
}
