//! From the model to what the running system takes.
//!
//! After it nothing is optional and nothing is text to be interpreted. Expects a configuration that has been checked;
//! what is left to fail is a name that refers to nothing.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::located::Located;
use super::model::{
    self, Config, Detail, EngineName, Forwarding, Idle, IpFamily, KeyType, Port, Protocol, Server,
    Service, State, StateSync, SyncFormat, SyncRole, Timeouts, Unit,
};
use super::values::{Cidr, HexBytes, Netmask, PortRange, Share, Size};
use crate::forward::defence::{Mode, Sysctls};
use crate::forward::defs::{
    self, Grouping, MarkRule, OnNoKey, OnServerDown, Persistence, Prefix, ServiceKind, Switches,
};
use crate::forward::{DestDef, NeighbourDef, PortDef, PortId, RouteDef, ServiceDef, Setup};
use crate::net::tunnel::{Tunnel, TunnelChecksum, TunnelKind};
use crate::net::{Af, Tick};
use crate::persist::{
    self, Engine, Field, FieldError, PayloadKey, QuicConfig, QuicLb, SessionKey, When,
};
use crate::sync::ipvs::Version;
use crate::sync::master::Policy;
use crate::sync::settings::{Format, Role, Settings};
use crate::table::{AdminState, Method};

/// A configuration ready for use.
#[derive(Clone, Debug, PartialEq)]
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
    /// State sync.
    pub sync: Settings,
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
    /// Templates of all services together.
    pub templates: usize,
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
    /// A service has neither a mark nor all of protocol, address and port.
    Incomplete,
    /// The field of a session's key can't be one.
    Field(FieldError),
    /// Something else of a service, a sentence.
    Service(String),
}

impl From<FieldError> for LowerError {
    fn from(error: FieldError) -> Self {
        Self::Field(error)
    }
}

impl fmt::Display for LowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPort(name) => write!(f, "there is no port `{name}`"),
            Self::TooManyPorts => f.write_str("there are more than 65,536 ports"),
            Self::Incomplete => {
                f.write_str("a service needs `protocol`, `address` and `port`, or `mark`")
            }
            Self::Field(error) => error.fmt(f),
            Self::Service(why) => f.write_str(why),
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
            templates: count(config.limits.templates),
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
        sync: sync_settings(&config.sync, &config.ports),
    })
}

/// Makes the settings of state sync. What the other format has stays at its default.
pub(super) fn sync_settings(sync: &StateSync, ports: &[Located<Port>]) -> Settings {
    let s = Settings::default();
    let format = match (sync.format, sync.sync_version) {
        (SyncFormat::Polder, _) => Format::Polder,
        (SyncFormat::Ipvs, Some(0)) => Format::Ipvs(Version::V0),
        (SyncFormat::Ipvs, _) => Format::Ipvs(Version::V1),
    };
    let peers: Vec<SocketAddr> = sync.peers.iter().map(|p| p.0).collect();
    let mut group = sync.group.map_or(s.group, |g| g.0);
    if let Some(peer) = peers.first() {
        group.set_port(peer.port());
    }
    let names = ports.iter().map(|p| p.name.as_str());
    Settings {
        role: match sync.role {
            SyncRole::Off => Role::Off,
            SyncRole::Master => Role::Master,
            SyncRole::Backup => Role::Backup,
            SyncRole::Both => Role::Both,
        },
        interface: sync
            .interface
            .as_deref()
            .map(|name| sync_interface(name, names)),
        group,
        peers,
        ttl: sync.ttl,
        sync_id: sync.sync_id.unwrap_or_else(|| format.default_sync_id()),
        max_len: sync.max_message,
        backup: None,
        format,
        key_file: sync.key_file.as_ref().map(PathBuf::from),
        encrypt: sync.encrypt.unwrap_or(s.encrypt),
        policy: sync_policy(sync),
        queue_max: usize::try_from(sync.sync_qlen_max).unwrap_or(usize::MAX),
        ports: sync.sync_ports.unwrap_or(s.ports),
        interval: sync.interval.map_or(s.interval, |p| p.0),
        ready_coverage: sync.ready.coverage.map_or(s.ready_coverage, Share::ratio),
        ready_timeout: sync.ready.timeout.0,
        ready_file: sync.ready.file.as_ref().map(PathBuf::from),
        name: sync.name.clone(),
        backup_only: sync.backup_only,
    }
}

/// The kernel interface that `name` means: that of the port of this name, else the one of the kernel itself.
#[must_use]
pub fn sync_interface<'a>(name: &str, mut ports: impl Iterator<Item = &'a str>) -> String {
    if ports.any(|port| port == name) {
        tap_name(name)
    } else {
        name.to_owned()
    }
}

fn sync_policy(sync: &StateSync) -> Policy {
    let p = Policy::default();
    let number = |at: usize, or: u32| sync.sync_threshold.get(at).map_or(or, |n| **n);
    let ticks = |d: Duration| {
        let per_second = u128::from(Tick::PER_SECOND);
        u32::try_from(d.as_millis() * per_second / 1000).unwrap_or(u32::MAX)
    };
    Policy {
        threshold: number(0, p.threshold),
        period: number(1, p.period),
        refresh: sync.sync_refresh_period.map_or(p.refresh, |d| ticks(d.0)),
        retries: sync.sync_retries.unwrap_or(p.retries),
        templates_only: sync.sync_persist_mode.unwrap_or(p.templates_only),
    }
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
    let marks = config.marks.iter().map(|m| {
        let ports = |range: PortRange| (range.0, range.1);
        Ok(MarkRule {
            mark: m.mark,
            from: m.from.map(|from| from.0),
            to: m.to.map(|to| to.0),
            proto: m.protocol.map(Protocol::number),
            source_ports: m.source_port.map(ports),
            ports: m.port.map(ports),
            input: m.input.as_deref().map(port_id).transpose()?,
        })
    });
    Ok(Setup {
        ports: config.ports.iter().map(|p| port(p)).collect(),
        routes: routes.collect::<Result<_, LowerError>>()?,
        neighbours: neighbours.collect::<Result<_, LowerError>>()?,
        services: config
            .services
            .iter()
            .map(|s| service(s))
            .collect::<Result<_, _>>()?,
        timeouts: timeouts(&config.timeouts),
        marks: marks.collect::<Result<_, LowerError>>()?,
        expire_quiescent_template: config.ipvs.expire_quiescent_template,
        switches: Switches {
            sloppy_tcp: config.ipvs.sloppy_tcp,
            sloppy_sctp: config.ipvs.sloppy_sctp,
            conn_reuse_mode: config.ipvs.conn_reuse_mode,
            expire_nodest_conn: config.ipvs.expire_nodest_conn,
        },
        sysctls: sysctls(config),
    })
}

fn sysctls(config: &Config) -> Sysctls {
    let ipvs = &config.ipvs;
    let mode = |number: u8| Mode::of(number.into()).unwrap_or_default();
    Sysctls {
        drop_entry: mode(ipvs.drop_entry),
        drop_packet: mode(ipvs.drop_packet),
        secure_tcp: mode(ipvs.secure_tcp),
        am_droprate: ipvs.am_droprate,
        amemthresh: ipvs
            .amemthresh
            .map_or(config.limits.connections.0 / AMEMTHRESH_SHARE, |n| n.0),
        nat_icmp_send: ipvs.nat_icmp_send,
        schedule_icmp: ipvs.schedule_icmp,
        pmtu_disc: ipvs.pmtu_disc,
    }
}

/// Memory is low by default when less than one in so many connections is free. Of the default million that is as much as
/// IPVS's 1,024 pages of 4 KiB hold.
const AMEMTHRESH_SHARE: u64 = 16;

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
///
/// # Errors
/// When the service was not checked: see [`LowerError`].
pub fn service(service: &Service) -> Result<ServiceDef, LowerError> {
    let kind = service.kind().ok_or(LowerError::Incomplete)?;
    let family = service.ip_family().ok_or(LowerError::Incomplete)?;
    let persistence = service.persistence.as_ref();
    let hash_key = |key: &HexBytes| match <[u8; 8]>::try_from(key.0.as_slice()) {
        Ok(key) => Ok(u64::from_be_bytes(key)),
        Err(_) => Err(LowerError::Service(
            "`hash_key` has 16 hexadecimal digits".to_owned(),
        )),
    };
    Ok(ServiceDef {
        name: service
            .name
            .clone()
            .or_else(|| service.default_name())
            .ok_or(LowerError::Incomplete)?,
        kind,
        scheduler: service.scheduler.clone(),
        flags: service
            .scheduler_flags
            .iter()
            .map(|flag| (**flag).clone())
            .collect(),
        one_packet: service.one_packet,
        persistence: persistence.map(|p| persist(p, family)).transpose()?,
        payload_key: service.payload_key.as_ref().map(payload_key).transpose()?,
        session_limits: service.payload_key.as_ref().map_or((0, 0), |key| {
            (
                key.max_templates.unwrap_or(0),
                key.max_templates_per_client.unwrap_or(0),
            )
        }),
        hash_key: service.hash_key.as_ref().map(hash_key).transpose()?,
        on_server_down: service.on_server_down.map(|what| match what {
            model::OnServerDown::Reschedule => OnServerDown::Reschedule,
            model::OnServerDown::Drop => OnServerDown::Drop,
            model::OnServerDown::Keep => OnServerDown::Keep,
        }),
        new_connections_per_second: service.new_connections_per_second,
        servers: service
            .servers
            .iter()
            .map(|s| server(s, service.port.unwrap_or(0)))
            .collect(),
    })
}

fn persist(p: &model::Persistence, family: IpFamily) -> Result<Persistence, LowerError> {
    let netmask = p.netmask.unwrap_or_else(|| Netmask::each(family));
    let limit = |size: Size| u32::try_from(size.0).unwrap_or(u32::MAX);
    Ok(Persistence {
        timeout: p.timeout.0,
        grouping: grouping(netmask, family).ok_or_else(|| {
            LowerError::Service(format!("{netmask} is no netmask of the service's family"))
        })?,
        engine: match p.engine {
            None => None,
            Some(EngineName::Sip) => Some(Engine::Sip),
            Some(EngineName::Payload) => Some(Engine::Payload(field(p.offset, p.length, p.unit)?)),
        },
        on_no_key: match p.on_no_key {
            model::OnNoKey::Fallback => OnNoKey::Fallback,
            model::OnNoKey::Drop => OnNoKey::Drop,
        },
        max_templates: limit(p.max_templates),
        max_per_client: limit(p.max_templates_per_client),
    })
}

/// What a netmask means for a family; `None` where it means nothing.
fn grouping(netmask: Netmask, family: IpFamily) -> Option<Grouping> {
    match (netmask, family) {
        (Netmask::Dotted(len) | Netmask::Length(len), IpFamily::Ipv4) if len <= 32 => {
            let zeros = 32 - u32::from(len);
            Some(Grouping::Mask4(u32::MAX.checked_shl(zeros).unwrap_or(0)))
        }
        (Netmask::Length(len), IpFamily::Ipv6) => Some(Grouping::Prefix6(len)),
        _ => None,
    }
}

/// The field of a key. One without a length is an empty one.
pub(super) fn field(
    offset: Option<u32>,
    length: Option<u32>,
    unit: Option<Unit>,
) -> Result<Field, FieldError> {
    let unit = match unit.unwrap_or_default() {
        Unit::Bytes => persist::Unit::Bytes,
        Unit::Bits => persist::Unit::Bits,
    };
    Field::new(offset.unwrap_or(0), length.unwrap_or(0), unit)
}

fn payload_key(key: &model::PayloadKey) -> Result<PayloadKey, LowerError> {
    match key.kind {
        KeyType::Field => Ok(PayloadKey::Field(SessionKey {
            field: field(key.offset, key.length, key.unit)?,
            when: key.when.as_ref().map(|when| When {
                offset: when.offset,
                value: when.value.0.clone(),
            }),
        })),
        KeyType::Quic => {
            let configs: Option<Vec<_>> = key.configs.iter().map(|c| quic_config(c)).collect();
            let configs = configs.ok_or_else(|| {
                LowerError::Service("the key of a QUIC-LB configuration has 16 bytes".to_owned())
            })?;
            let quic = QuicLb::new(&configs).map_err(LowerError::Service)?;
            Ok(PayloadKey::Quic(quic))
        }
    }
}

/// A QUIC-LB configuration; `None` where its key has a length that no AES-128 key has.
pub(super) fn quic_config(config: &model::QuicConfig) -> Option<QuicConfig> {
    let key = config.key.as_ref().map(|key| key.0.as_slice().try_into());
    Some(QuicConfig {
        codepoint: config.codepoint,
        length_encoded: config.length_encoded,
        server_id_len: config.server_id_length,
        nonce_len: config.nonce_length,
        key: key.transpose().ok()?,
    })
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
        tunnel: server.tunnel.as_ref().map(tunnel).unwrap_or_default(),
        upper_threshold: server.upper_threshold,
        lower_threshold: server.lower_threshold,
        admin: match server.state {
            State::Ready => AdminState::Ready,
            State::Drain => AdminState::Drain,
            State::Maint => AdminState::Maint,
        },
        quic_server_id: server
            .quic_server_id
            .as_ref()
            .map_or(Vec::new(), |id| id.0.clone()),
    }
}

fn tunnel(tunnel: &model::Tunnel) -> Tunnel {
    Tunnel {
        kind: match tunnel.kind {
            model::TunnelType::Ipip => TunnelKind::Ipip,
            model::TunnelType::Gue => TunnelKind::Gue,
            model::TunnelType::Gre => TunnelKind::Gre,
        },
        port: tunnel.port.unwrap_or(0),
        checksum: match tunnel.checksum.unwrap_or_default() {
            model::TunnelChecksum::None => TunnelChecksum::None,
            model::TunnelChecksum::Csum => TunnelChecksum::Full,
            model::TunnelChecksum::Remcsum => TunnelChecksum::Remote,
        },
    }
}

impl Protocol {
    /// Its IP protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl Netmask {
    /// That by which each client is by itself.
    pub(super) fn each(family: IpFamily) -> Self {
        match family {
            IpFamily::Ipv4 => Self::Dotted(32),
            IpFamily::Ipv6 => Self::Length(128),
        }
    }
}

impl Service {
    /// What the service is recognised by; `None` if that is not all given.
    #[must_use]
    pub fn kind(&self) -> Option<ServiceKind> {
        if let Some(mark) = self.mark {
            let af = match self.family.unwrap_or_default() {
                IpFamily::Ipv4 => Af::V4,
                IpFamily::Ipv6 => Af::V6,
            };
            return Some(ServiceKind::Mark { af, mark });
        }
        Some(ServiceKind::Address {
            proto: self.protocol?.number(),
            addr: self.address?.0,
            port: self.port?,
        })
    }

    /// The address family, where it is known.
    #[must_use]
    pub fn ip_family(&self) -> Option<IpFamily> {
        match (self.mark, self.address) {
            (Some(_), _) => Some(self.family.unwrap_or_default()),
            (None, Some(address)) if address.0.is_ipv4() => Some(IpFamily::Ipv4),
            (None, Some(_)) => Some(IpFamily::Ipv6),
            (None, None) => None,
        }
    }

    /// Whether the service has more than one port: that of a mark, and that of port 0.
    #[must_use]
    pub fn has_every_port(&self) -> bool {
        self.mark.is_some() || self.port == Some(0)
    }

    /// The name of a service that has none of its own, if it is known what it is recognised by.
    #[must_use]
    pub fn default_name(&self) -> Option<String> {
        Some(match self.kind()? {
            ServiceKind::Mark { af: Af::V4, mark } => format!("mark-{mark}"),
            ServiceKind::Mark { af: Af::V6, mark } => format!("mark-{mark}-ipv6"),
            ServiceKind::Address { addr, port, .. } => {
                format!("{}-{addr}-{port}", self.protocol?.word())
            }
        })
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
        sctp_none: t.sctp_none.0,
        sctp_init1: t.sctp_init1.0,
        sctp_init: t.sctp_init.0,
        sctp_c_sent: t.sctp_c_sent.0,
        sctp_c_replied: t.sctp_c_replied.0,
        sctp_c_wait: t.sctp_c_wait.0,
        sctp_cookie: t.sctp_cookie.0,
        sctp_c_echoed: t.sctp_c_echoed.0,
        sctp_established: t.sctp_established.0,
        sctp_s_sent: t.sctp_s_sent.0,
        sctp_s_received: t.sctp_s_received.0,
        sctp_s_ack_sent: t.sctp_s_ack_sent.0,
        sctp_rejected: t.sctp_rejected.0,
        sctp_closed: t.sctp_closed.0,
    }
}
