//! What a configuration file can say, key by key.
//!
//! The derives on these types are the one list of keys, defaults, ranges and descriptions: decoder, JSON Schema and
//! docs/config.md follow them. The first line of a field's comment is its description there and gives unit, default
//! and range. Not the running system's types: [`super::lower`] makes those. To add a key, add the field, take the key
//! out of `LATER` if it is there, and check in `rules.rs` what its type can't.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::located::List;
use super::values::{Address, Cidr, Endpoint, MacAddr, Period, Size};

/// A configuration of Polder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["ports"]))]
pub struct Config {
    /// How DPDK is started: cores, memory, further arguments.
    pub dpdk: Dpdk,
    /// Capacities, allocated at start.
    pub limits: Limits,
    /// The network ports, 1 to 64 of them; their order is the order of the listings.
    #[schemars(length(min = 1, max = 64))]
    pub ports: List<Port>,
    /// Neighbours whose MAC address is fixed, for replay and for hosts without an exception path; default none.
    pub neighbours: List<Neighbour>,
    /// Routes beside the ports' own subnets and those of the kernel; default none.
    pub routes: List<Route>,
    /// The virtual services, in the order in which `ipvsadm -A` would add them.
    pub services: List<Service>,
    /// How long a connection may be idle, by its state.
    pub timeouts: Timeouts,
    /// The Prometheus endpoint.
    pub metrics: Metrics,
    /// The control socket.
    pub control: Control,
}

/// How DPDK is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dpdk {
    /// CPU numbers of the poll-mode workers, one worker each; default `[1]`, 1 to 64 of them, 0 to 1023 each.
    #[schemars(length(min = 1, max = 64), inner(range(min = 0, max = 1023)))]
    pub cores: List<u16>,
    /// CPU number of the management core; default 0, 0 to 1023.
    #[schemars(range(min = 0, max = 1023))]
    pub management_core: u16,
    /// Memory for packets and tables in bytes, or as 1024M or 4G; default 1024M, 64M to 1T, whole megabytes.
    #[schemars(extend("x-range" = "64M to 1T"))]
    pub memory: Size,
    /// Whether the memory is on huge pages; default true. `false` is slower and for hosts without.
    pub hugepages: bool,
    /// What a worker does that finds no work; default `poll`.
    pub idle: Idle,
    /// Further EAL arguments, verbatim; default none.
    pub eal: List<String>,
}

/// What a worker does that finds no work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// It polls on, at the lowest latency; its core is busy all the time.
    #[default]
    Poll,
    /// After 256 polls in vain it sleeps for 50 µs at a time; for hosts where cores are shared.
    Sleep,
}

impl Default for Dpdk {
    fn default() -> Self {
        Self {
            cores: [1].into_iter().collect(),
            management_core: 0,
            memory: Size(1 << 30),
            hugepages: true,
            idle: Idle::default(),
            eal: List::default(),
        }
    }
}

/// Capacities. What is full refuses or evicts, and counts it; nothing grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections of all workers together; default 1M, 1 to 256M.
    #[schemars(extend("x-range" = "1 to 256M"))]
    pub connections: Size,
    /// Virtual services, those added at run time included; default 16k, 1 to 64k.
    #[schemars(extend("x-range" = "1 to 64k"))]
    pub services: Size,
    /// Real servers of all services together, those added at run time included; default 64k, 1 to 1M.
    #[schemars(extend("x-range" = "1 to 1M"))]
    pub servers: Size,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: Size(1 << 20),
            services: Size(16 << 10),
            servers: Size(64 << 10),
        }
    }
}

/// A network port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Name of the port, 1 to 32 letters, digits, `_`, `-` or `.`; the first 8 name its kernel interface.
    #[schemars(
        length(min = 1, max = 32),
        regex(pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    )]
    pub name: String,
    /// PCI address such as 0000:3b:00.0, or a DPDK vdev such as net_af_packet0,iface=veth0.
    #[schemars(length(min = 1))]
    pub device: String,
    /// Addresses of the director itself on the port, with the prefix length of the subnet; default none, up to 256.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub addresses: List<Cidr>,
    /// MAC address, unicast; default the device's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Largest IP packet that leaves by the port, in bytes; default 1500, 576 (with IPv6 1280) to 9600.
    #[serde(default = "default_mtu")]
    #[schemars(range(min = 576, max = 9600))]
    pub mtu: u16,
    /// Whether the kernel gets what is not load-balanced, through a TAP named polder-NAME; default true.
    #[serde(default = "default_kernel_interface")]
    pub kernel_interface: bool,
}

fn default_mtu() -> u16 {
    1500
}

fn default_kernel_interface() -> bool {
    true
}

/// A neighbour with a fixed MAC address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Name of the port it is reached by.
    pub port: String,
    /// Its IP address.
    pub address: Address,
    /// Its MAC address, unicast.
    pub mac: MacAddr,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Destination, such as 10.0.0.0/8; 0.0.0.0/0 or ::/0 is the default route.
    pub to: Cidr,
    /// Next hop, of the same family; default none: the destination is on the port's link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Address>,
    /// Name of the port the packets leave by.
    pub port: String,
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Name in metrics, listings and commands, 1 to 64 characters; default PROTOCOL-ADDRESS-PORT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = "^[A-Za-z0-9][A-Za-z0-9_.:-]*$")
    )]
    pub name: Option<String>,
    /// Protocol.
    pub protocol: Protocol,
    /// Virtual address (VIP).
    pub address: Address,
    /// Virtual port, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Scheduler, by the names of LVS, and hprio: rr, wrr, lc, wlc, sed, nq, fo, ovf, dh, sh, mh, lblc, lblcr, twos, hprio; default wlc.
    #[serde(default = "default_scheduler")]
    pub scheduler: String,
    /// Flags of the scheduler, by the names of LVS; default none. `sh`: fallback, port, kernel_tables; `mh`: fallback, port, table=SLOTS.
    #[serde(default)]
    pub scheduler_flags: List<String>,
    /// The real servers, in the order in which `ipvsadm -a` would add them; default none.
    #[serde(default)]
    pub servers: List<Server>,
}

fn default_scheduler() -> String {
    "wlc".to_owned()
}

/// A protocol above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A real server of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Name in metrics and listings, 1 to 64 characters; default ADDRESS:PORT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = "^[A-Za-z0-9][A-Za-z0-9_.:-]*$")
    )]
    pub name: Option<String>,
    /// Address; of the service's family, with `forwarding: tunnel` of either.
    pub address: Address,
    /// Port, 1 to 65535; default the service's, which direct and tunnel servers must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Share of the new connections relative to the other servers; default 1, 0 (takes no new ones) to 65535.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 0, max = 65535))]
    pub weight: u32,
    /// How packets reach the server; default masq.
    #[serde(default)]
    pub forwarding: Forwarding,
    /// Connections from which on the server takes no new ones; default 0 (no threshold), 0 to 2147483647.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub upper_threshold: u32,
    /// Connections below which it takes new ones again; default 0 (three quarters of the upper one), 0 to 2147483647.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub lower_threshold: u32,
    /// What the operator wants of the server; default ready.
    #[serde(default)]
    pub state: State,
}

fn default_weight() -> u32 {
    1
}

/// How packets reach a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Forwarding {
    /// Address and port are rewritten (NAT); replies come back through the director.
    #[default]
    Masq,
    /// Only the MAC address is rewritten; the server is on a port's link and has the VIP on a loopback interface.
    Direct,
    /// The packet travels in an IP packet to the server, which has the VIP.
    Tunnel,
}

/// What the operator wants of a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Takes connections.
    #[default]
    Ready,
    /// Keeps those it has and takes no new ones.
    Drain,
    /// Takes nothing, as if it were down.
    Maint,
}

/// Idle times after which a connection is forgotten, by the state it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// TCP before any state is known; default 2s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub tcp_none: Period,
    /// TCP established (the first value of `ipvsadm --set`); default 15m, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub tcp_established: Period,
    /// TCP after the server's SYN; default 2m, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub tcp_syn_sent: Period,
    /// TCP after the client's SYN; default 1m, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub tcp_syn_recv: Period,
    /// TCP after the first FIN (the second value of `ipvsadm --set`); default 2m, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub tcp_fin_wait: Period,
    /// TCP after both FINs; default 2m, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub tcp_time_wait: Period,
    /// TCP after a reset; default 10s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub tcp_close: Period,
    /// TCP after the client's FIN; default 1m, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub tcp_close_wait: Period,
    /// TCP while the last acknowledgement is awaited; default 30s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub tcp_last_ack: Period,
    /// TCP in the listening state of the LVS table; default 2m, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub tcp_listen: Period,
    /// TCP after the server's SYN of a guarded service; default 2m, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub tcp_synack: Period,
    /// UDP (the third value of `ipvsadm --set`); default 5m, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub udp: Period,
}

impl Default for Timeouts {
    fn default() -> Self {
        let t = crate::forward::Timeouts::default();
        Self {
            tcp_none: Period(t.tcp_none),
            tcp_established: Period(t.tcp_established),
            tcp_syn_sent: Period(t.tcp_syn_sent),
            tcp_syn_recv: Period(t.tcp_syn_recv),
            tcp_fin_wait: Period(t.tcp_fin_wait),
            tcp_time_wait: Period(t.tcp_time_wait),
            tcp_close: Period(t.tcp_close),
            tcp_close_wait: Period(t.tcp_close_wait),
            tcp_last_ack: Period(t.tcp_last_ack),
            tcp_listen: Period(t.tcp_listen),
            tcp_synack: Period(t.tcp_synack),
            udp: Period(t.udp),
        }
    }
}

/// The Prometheus endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Address and port it listens on, IPv6 as `[::1]:9108`; default 127.0.0.1:9108.
    pub listen: Endpoint,
    /// What the series are split by; default server.
    pub detail: Detail,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: Endpoint(([127, 0, 0, 1], 9108).into()),
            detail: Detail::default(),
        }
    }
}

/// What the series of the metrics are split by; each includes the ones before it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    /// One series for each service.
    Service,
    /// Also one for each real server.
    #[default]
    Server,
    /// Also one for each worker.
    Worker,
}

/// The control socket, over which all commands on the running appliance go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// Absolute path of the UNIX socket, up to 107 bytes; default /run/polder/control.sock.
    #[schemars(length(max = 107))]
    pub socket: String,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            socket: "/run/polder/control.sock".to_owned(),
        }
    }
}

/// Keys and choices of the operator's contract that this release does not have, by the type or list they belong to.
/// They get a sentence that says so rather than "unknown". What is implemented leaves this list.
pub(super) const LATER: &[(&str, &str)] = &[
    ("Config", "sync"),
    ("Config", "ipvs"),
    ("Limits", "templates"),
    ("Service", "mark"),
    ("Service", "one_packet"),
    ("Service", "persistence"),
    ("Service", "payload_key"),
    ("Service", "on_server_down"),
    ("Protocol", "sctp"),
    ("scheduler", "offh"),
];

/// Schedulers that `scheduler` may name: those that there are but `offh`, which needs the key of a session.
pub(super) const SCHEDULERS: &[&str] = &[
    "rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf", "dh", "sh", "mh", "lblc", "lblcr", "twos",
    "hprio",
];

/// Words that other programs (ipvsadm, keepalived, HAProxy) have for our keys and choices.
pub(super) const SYNONYMS: &[(&str, &str)] = &[
    ("virtual_server", "services"),
    ("virtual_servers", "services"),
    ("vips", "services"),
    ("real_server", "servers"),
    ("real_servers", "servers"),
    ("backends", "servers"),
    ("destinations", "servers"),
    ("interfaces", "ports"),
    ("neighbors", "neighbours"),
    ("gateway", "via"),
    ("next_hop", "via"),
    ("destination", "to"),
    ("interface", "port"),
    ("ip", "address"),
    ("vip", "address"),
    ("lb_algo", "scheduler"),
    ("lvs_sched", "scheduler"),
    ("algorithm", "scheduler"),
    ("lb_kind", "forwarding"),
    ("lvs_method", "forwarding"),
    ("forward", "forwarding"),
    ("fwd", "forwarding"),
    ("mode", "forwarding"),
    ("method", "forwarding"),
    ("uthreshold", "upper_threshold"),
    ("lthreshold", "lower_threshold"),
    ("max_connections", "upper_threshold"),
    ("tcpfin", "tcp_fin_wait"),
    ("tcp", "tcp_established"),
    ("nat", "masq"),
    ("masquerade", "masq"),
    ("masquerading", "masq"),
    ("dr", "direct"),
    ("droute", "direct"),
    ("gatewaying", "direct"),
    ("route", "direct"),
    ("tun", "tunnel"),
    ("ipip", "tunnel"),
    ("up", "ready"),
    ("down", "maint"),
    ("maintenance", "maint"),
    ("draining", "drain"),
    ("round_robin", "rr"),
    ("roundrobin", "rr"),
    ("leastconn", "lc"),
    ("least_conn", "lc"),
];
