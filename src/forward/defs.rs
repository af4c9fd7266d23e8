//! The configuration as the data path takes it: checked, complete, no text left to interpret.
//!
//! `config::lower` makes these from YAML, the management core edits them at run time, and [`super::Registry`] builds
//! snapshots from them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::defence::Sysctls;
use crate::net::tunnel::Tunnel;
use crate::net::{Af, Family, FlowKey, Mac, V4, V6};
use crate::persist::{Engine, PayloadKey};
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

impl Prefix {
    /// Whether an address is within it.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        let shift = |width: u32| width.saturating_sub(u32::from(self.len));
        match (self.addr, addr) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differing = a.to_bits() ^ b.to_bits();
                differing.checked_shr(shift(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differing = a.to_bits() ^ b.to_bits();
                differing.checked_shr(shift(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
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
    /// How packets are wrapped when the method is [`Method::Tunnel`].
    pub tunnel: Tunnel,
    /// Upper threshold, 0 for none.
    pub upper_threshold: u32,
    /// Lower threshold, 0 for three quarters of the upper.
    pub lower_threshold: u32,
    /// Administrative state.
    pub admin: AdminState,
    /// The id by which QUIC connection IDs name the server; empty for none.
    pub quic_server_id: Vec<u8>,
}

impl DestDef {
    /// A masqueraded real server of weight 1 without anything else.
    #[must_use]
    pub fn new(at: SocketAddr) -> Self {
        Self {
            name: None,
            addr: at.ip(),
            port: at.port(),
            weight: 1,
            method: Method::Masq,
            tunnel: Tunnel::default(),
            upper_threshold: 0,
            lower_threshold: 0,
            admin: AdminState::Ready,
            quic_server_id: Vec::new(),
        }
    }

    /// The name in metrics and listings.
    #[must_use]
    pub fn label(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| SocketAddr::new(self.addr, self.port).to_string())
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
        /// Virtual port; 0 is every port that has no service of its own.
        port: u16,
    },
    /// The mark that a [`MarkRule`] gives to packets (specification §1.1).
    Mark {
        /// Address family.
        af: Af,
        /// The mark, not 0.
        mark: u32,
    },
}

/// Gives a mark to the packets that it describes; what it does not name may be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkRule {
    /// The mark.
    pub mark: u32,
    /// Where packets come from.
    pub from: Option<Prefix>,
    /// Where they go to.
    pub to: Option<Prefix>,
    /// IP protocol number.
    pub proto: Option<u8>,
    /// Source ports, both ends included.
    pub source_ports: Option<(u16, u16)>,
    /// Destination ports, both ends included.
    pub ports: Option<(u16, u16)>,
    /// The port they come in by.
    pub input: Option<PortId>,
}

impl MarkRule {
    /// Whether a packet is one that the rule describes.
    #[must_use]
    pub fn fits<F: Family>(&self, flow: &FlowKey<F>, ingress: PortId) -> bool {
        let within =
            |range: Option<(u16, u16)>, port| range.is_none_or(|(a, b)| (a..=b).contains(&port));
        self.input.is_none_or(|port| port == ingress)
            && self.proto.is_none_or(|proto| proto == flow.proto)
            && within(self.source_ports, flow.src_port)
            && within(self.ports, flow.dst_port)
            && self.fits_addresses(flow.src.into(), flow.dst.into())
    }

    /// Whether packets between these addresses may be ones that the rule describes.
    #[must_use]
    pub fn fits_addresses(&self, src: IpAddr, dst: IpAddr) -> bool {
        self.from.is_none_or(|p| p.contains(src)) && self.to.is_none_or(|p| p.contains(dst))
    }

    /// The family of packets that the rule can describe, if only one.
    #[must_use]
    pub fn family(&self) -> Option<Af> {
        self.from.or(self.to).map(|p| Af::of(p.addr))
    }
}

/// Which part of a client's address makes a group of clients that are kept together (specification §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// IPv4 netmask.
    Mask4(u32),
    /// IPv6 prefix length, 0 to 128.
    Prefix6(u8),
}

impl Grouping {
    /// A client's group as the first bytes of a template's key, network order.
    #[inline]
    #[must_use]
    pub fn of<F: Family>(self, client: F::Addr) -> [u8; 16] {
        let mut group = address_bytes::<F>(client);
        match self {
            Self::Mask4(mask) => {
                for (byte, m) in group.iter_mut().zip(mask.to_be_bytes()) {
                    *byte &= m;
                }
            }
            Self::Prefix6(len) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(len.min(128)))
                    .unwrap_or(0);
                group = (u128::from_be_bytes(group) & mask).to_be_bytes();
            }
        }
        group
    }
}

/// An address in as many bytes as the longest has, network order, zeros behind.
#[inline]
#[must_use]
pub fn address_bytes<F: Family>(addr: F::Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    F::write(addr, &mut bytes);
    bytes
}

/// The address in the bytes of [`address_bytes`].
#[must_use]
pub fn address_of(af: Af, bytes: &[u8; 16]) -> IpAddr {
    match af {
        Af::V4 => V4::read(bytes).into(),
        Af::V6 => V6::read(bytes).into(),
    }
}

/// What becomes of a packet in which the persistence engine finds no key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnNoKey {
    /// It is kept together with others of its client, as without an engine.
    #[default]
    Fallback,
    /// It is dropped.
    Drop,
}

/// How long, and by what, clients are kept on their server (specification §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Idle time after which a template ends.
    pub timeout: Duration,
    /// Which clients belong together.
    pub grouping: Grouping,
    /// What a session is recognised by beside the client; none for the client alone.
    pub engine: Option<Engine>,
    /// What becomes of packets without a key.
    pub on_no_key: OnNoKey,
    /// Templates that the service may have; 0 for no limit of its own.
    pub max_templates: u32,
    /// Templates that one client address may have made; 0 for no limit.
    pub max_per_client: u32,
}

/// What becomes of connections and sessions whose real server is down, removed or in maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnServerDown {
    /// The next packet is given to another server.
    Reschedule,
    /// Packets are dropped until the connection ends.
    Drop,
    /// Packets still go to the server.
    Keep,
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
    /// Whether every UDP datagram is scheduled by itself (specification §5).
    pub one_packet: bool,
    /// Persistence, if the service has it.
    pub persistence: Option<Persistence>,
    /// Where packets carry the key of their session, if they do.
    pub payload_key: Option<PayloadKey>,
    /// Templates that the sessions of the payload key may have, of the service and of one client address; 0 for no limit
    /// of its own.
    pub session_limits: (u32, u32),
    /// Secret of the session keys' hash, where several nodes must agree; by default the appliance's own.
    pub hash_key: Option<u64>,
    /// What becomes of connections when their server goes; `None` is [`OnServerDown::Reschedule`], but for established
    /// TCP and SCTP connections [`OnServerDown::Drop`], unless [`Switches::expire_nodest_conn`] is set.
    pub on_server_down: Option<OnServerDown>,
    /// Connections of all workers together that may be made in a second; flows beyond are placed by hash and not
    /// remembered. 0 for no limit.
    pub new_connections_per_second: u32,
    /// Real servers in the operator's order (the data path walks them newest first).
    pub servers: Vec<DestDef>,
}

impl ServiceDef {
    /// A service of an address, by the scheduler `rr`, without anything else.
    #[must_use]
    pub fn new(name: &str, proto: u8, at: SocketAddr, servers: Vec<DestDef>) -> Self {
        Self {
            name: name.to_owned(),
            kind: ServiceKind::Address {
                proto,
                addr: at.ip(),
                port: at.port(),
            },
            scheduler: "rr".to_owned(),
            flags: Vec::new(),
            one_packet: false,
            persistence: None,
            payload_key: None,
            session_limits: (0, 0),
            hash_key: None,
            on_server_down: None,
            new_connections_per_second: 0,
            servers,
        }
    }

    /// Address family.
    #[must_use]
    pub fn af(&self) -> Af {
        match self.kind {
            ServiceKind::Address { addr, .. } => Af::of(addr),
            ServiceKind::Mark { af, .. } => af,
        }
    }

    /// Its virtual port; 0 for a service of every port and one of a mark.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self.kind {
            ServiceKind::Address { port, .. } => port,
            ServiceKind::Mark { .. } => 0,
        }
    }

    /// Whether packets keep the port they were sent to, whatever port the real server has (specification §3.2).
    #[must_use]
    pub fn keeps_port(&self) -> bool {
        self.persistence.is_some() && self.port() == 0
    }

    /// Whether the load of its servers is their templates, for it has no connections to be counted.
    #[must_use]
    pub fn by_session(&self) -> bool {
        self.one_packet && (self.persistence.is_some() || self.payload_key.is_some())
    }
}

/// Timeouts of connection states, by the names of specification §7.1, §7.3 and §7.4.
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
    pub sctp_none: Duration,
    pub sctp_init1: Duration,
    pub sctp_init: Duration,
    pub sctp_c_sent: Duration,
    pub sctp_c_replied: Duration,
    pub sctp_c_wait: Duration,
    pub sctp_cookie: Duration,
    pub sctp_c_echoed: Duration,
    pub sctp_established: Duration,
    pub sctp_s_sent: Duration,
    pub sctp_s_received: Duration,
    pub sctp_s_ack_sent: Duration,
    pub sctp_rejected: Duration,
    pub sctp_closed: Duration,
}

impl Default for Timeouts {
    /// The defaults of specification §7.1, §7.3 and §7.4.
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
            sctp_none: s(2),
            sctp_init1: s(4),
            sctp_init: s(61),
            sctp_c_sent: s(61),
            sctp_c_replied: s(61),
            sctp_c_wait: s(61),
            sctp_cookie: s(61),
            sctp_c_echoed: s(61),
            sctp_established: s(900),
            sctp_s_sent: s(61),
            sctp_s_received: s(61),
            sctp_s_ack_sent: s(61),
            sctp_rejected: s(4),
            sctp_closed: s(61),
        }
    }
}

/// Switches that LVS has under these names (specification §2.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Whether a TCP connection may begin with any segment but a RST.
    pub sloppy_tcp: bool,
    /// Whether an SCTP association may begin with any chunk but an ABORT.
    pub sloppy_sctp: bool,
    /// When a packet that opens a connection on the ports of an old one is scheduled afresh: 0 never; else when that
    /// one is over, and with bit 1 also when it may be (FIN_WAIT, replies not seen).
    pub conn_reuse_mode: u32,
    /// Whether connections end with the next packet when their server is gone, where the service does not say
    /// otherwise, and with the next packet that opens one when its weight is 0.
    pub expire_nodest_conn: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            sloppy_tcp: false,
            sloppy_sctp: false,
            conn_reuse_mode: 1,
            expire_nodest_conn: false,
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
    /// Rules that give marks, the first that fits wins.
    pub marks: Vec<MarkRule>,
    /// Whether a template of a server with weight 0 is not used for new connections (`expire_quiescent_template`).
    pub expire_quiescent_template: bool,
    /// Further switches.
    pub switches: Switches,
    /// Settings that LVS has as sysctls.
    pub sysctls: Sysctls,
    /// Timeouts.
    pub timeouts: Timeouts,
}
