//! From the model to what the running system takes.
//!
//! After it nothing is optional and nothing is text to be interpreted. Expects a configuration that has been checked;
//! what is left to fail is a name that refers to nothing.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::model::{
    Config, Detail, Forwarding, Idle, Port, Protocol, Server, Service, State, Timeouts,
};
use super::values::{Cidr, Size};
use crate::forward::defs::{self, Prefix, ServiceKind};
use crate::forward::{DestDef, NeighbourDef, PortDef, PortId, RouteDef, ServiceDef, Setup};
use crate::table::{AdminState, Method};

/// A configuration ready for use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// What the data path is configured with.
    pub setup: Setup,
    /// How DPDK is started.
    pub dpdk: Dpdk,
    /// Capacities.
    pub limits: Limits,
    /// The metrics endpoint.
    pub metrics: Metrics,
    /// The control socket.
    pub control: Control,
}

/// How DPDK is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dpdk {
    /// CPU of each worker; at least one, no two the same.
    pub cores: Vec<u16>,
    /// CPU of the management core.
    pub management_core: u16,
    /// Memory in megabytes (2²⁰ bytes).
    pub memory_mb: u32,
    /// Whether the memory is on huge pages.
    pub hugepages: bool,
    /// How long a worker that finds no work sleeps; zero for never.
    pub idle_sleep: Duration,
    /// Further EAL arguments.
    pub eal: Vec<String>,
}

/// Capacities; each at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all workers together.
    pub connections: usize,
    /// Virtual services.
    pub services: usize,
    /// Real servers of all services together.
    pub servers: usize,
}

/// The metrics endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// What it listens on.
    pub listen: SocketAddr,
    /// What the series are split by.
    pub detail: Detail,
}

/// The control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Path of the socket.
    pub socket: PathBuf,
}

/// Why a configuration that was not checked can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LowerError {
    /// A route or neighbour names a port that there is none of.
    UnknownPort(String),
    /// There are more ports than a [`PortId`] can number.
    TooManyPorts,
}

impl fmt::Display for LowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPort(name) => write!(f, "there is no port `{name}`"),
            Self::TooManyPorts => f.write_str("there are more than 65,536 ports"),
        }
    }
}

impl std::error::Error for LowerError {}

/// Makes the running system's types from a checked configuration.
///
/// # Errors
/// When the configuration was not checked: see [`LowerError`].
pub fn lower(config: &Config) -> Result<Lowered, LowerError> {
    Ok(Lowered {
        setup: setup(config)?,
        dpdk: Dpdk {
            cores: config.dpdk.cores.iter().map(|core| **core).collect(),
            management_core: config.dpdk.management_core,
            memory_mb: u32::try_from(config.dpdk.memory.0 >> 20).unwrap_or(u32::MAX),
            hugepages: config.dpdk.hugepages,
            idle_sleep: match config.dpdk.idle {
                Idle::Poll => Duration::ZERO,
                Idle::Sleep => Duration::from_micros(50),
            },
            eal: config
                .dpdk
                .eal
                .iter()
                .map(|argument| (**argument).clone())
                .collect(),
        },
        limits: Limits {
            connections: count(config.limits.connections),
            services: count(config.limits.services),
            servers: count(config.limits.servers),
        },
        metrics: Metrics {
            listen: config.metrics.listen.0,
            detail: config.metrics.detail,
        },
        control: Control {
            socket: PathBuf::from(&config.control.socket),
        },
    })
}

/// Name of the kernel interface of the port `name`: `polder-` and as much of it as the kernel's 15 characters hold.
#[must_use]
pub fn tap_name(name: &str) -> String {
    let mut tap = format!("polder-{name}");
    while tap.len() > 15 {
        tap.pop();
    }
    tap
}

fn count(size: Size) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

fn setup(config: &Config) -> Result<Setup, LowerError> {
    let port_id = |name: &str| {
        let index = config.ports.iter().position(|p| p.name == name);
        let index = index.ok_or_else(|| LowerError::UnknownPort(name.to_owned()))?;
        u16::try_from(index)
            .map(PortId)
            .map_err(|_| LowerError::TooManyPorts)
    };
    let neighbours = config.neighbours.iter().map(|n| {
        Ok(NeighbourDef {
            port: port_id(&n.port)?,
            addr: n.address.0,
            mac: n.mac.0,
        })
    });
    let routes = config.routes.iter().map(|r| {
        Ok(RouteDef {
            to: r.to.0,
            via: r.via.map(|via| via.0),
            port: port_id(&r.port)?,
        })
    });
    Ok(Setup {
        ports: config.ports.iter().map(|p| port(p)).collect(),
        routes: routes.collect::<Result<_, _>>()?,
        neighbours: neighbours.collect::<Result<_, _>>()?,
        services: config.services.iter().map(|s| service(s)).collect(),
        timeouts: timeouts(&config.timeouts),
        marks: Vec::new(),
        expire_quiescent_template: false,
    })
}

fn port(port: &Port) -> PortDef {
    let prefix = |cidr: &Cidr| -> Prefix { cidr.0 };
    PortDef {
        name: port.name.clone(),
        device: port.device.clone(),
        addresses: port.addresses.iter().map(|a| prefix(a)).collect(),
        mac: port.mac.map(|mac| mac.0),
        mtu: port.mtu,
        kernel_interface: port.kernel_interface,
    }
}

/// Makes a service's definition, also from one that was given at run time and has no name.
#[must_use]
pub fn service(service: &Service) -> ServiceDef {
    let kind = ServiceKind::Address {
        proto: service.protocol.number(),
        addr: service.address.0,
        port: service.port,
    };
    ServiceDef {
        name: service
            .name
            .clone()
            .unwrap_or_else(|| service.default_name()),
        kind,
        scheduler: service.scheduler.clone(),
        flags: service
            .scheduler_flags
            .iter()
            .map(|flag| (**flag).clone())
            .collect(),
        one_packet: false,
        persistence: None,
        payload_key: None,
        hash_key: None,
        on_server_down: None,
        servers: service
            .servers
            .iter()
            .map(|s| server(s, service.port))
            .collect(),
    }
}

/// Makes a server's definition; `service_port` is the port of one that has none of its own.
#[must_use]
pub fn server(server: &Server, service_port: u16) -> DestDef {
    DestDef {
        name: server.name.clone(),
        addr: server.address.0,
        port: server.port.unwrap_or(service_port),
        weight: server.weight,
        method: match server.forwarding {
            Forwarding::Masq => Method::Masq,
            Forwarding::Direct => Method::Direct,
            Forwarding::Tunnel => Method::Tunnel,
        },
        upper_threshold: server.upper_threshold,
        lower_threshold: server.lower_threshold,
        admin: match server.state {
            State::Ready => AdminState::Ready,
            State::Drain => AdminState::Drain,
            State::Maint => AdminState::Maint,
        },
        quic_server_id: Vec::new(),
    }
}

impl Protocol {
    /// Its IP protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl Service {
    /// The name of a service that has none of its own.
    #[must_use]
    pub fn default_name(&self) -> String {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        format!("{protocol}-{}-{}", self.address, self.port)
    }
}

fn timeouts(t: &Timeouts) -> defs::Timeouts {
    defs::Timeouts {
        tcp_none: t.tcp_none.0,
        tcp_established: t.tcp_established.0,
        tcp_syn_sent: t.tcp_syn_sent.0,
        tcp_syn_recv: t.tcp_syn_recv.0,
        tcp_fin_wait: t.tcp_fin_wait.0,
        tcp_time_wait: t.tcp_time_wait.0,
        tcp_close: t.tcp_close.0,
        tcp_close_wait: t.tcp_close_wait.0,
        tcp_last_ack: t.tcp_last_ack.0,
        tcp_listen: t.tcp_listen.0,
        tcp_synack: t.tcp_synack.0,
        udp: t.udp.0,
    }
}
