//! What a configuration file can say, key by key.
//!
//! The derives on these types are the one list of keys, defaults, ranges and descriptions: decoder, JSON Schema and
//! docs/config.md follow them. The first line of a field's comment is its description there and gives unit, default
//! and range. Not the running system's types: [`super::lower`] makes those. To add a key, add the field, take the key
//! out of `LATER` if it is there, and check in `rules.rs` what its type can't.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::located::List;
use super::values::{
    Address, Cidr, Endpoint, HexBytes, MacAddr, Netmask, Period, PortRange, Share, Size,
    SyncAddress,
};

/// A configuration of Polder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["ports"]))]
pub struct Config {
    /// How DPDK is started: cores, memory, further arguments.
    pub dpdk: Dpdk,
    /// Capacities, allocated at start.
    pub limits: Limits,
    /// Switches by the names that LVS has for them (`net.ipv4.vs` of sysctl).
    pub ipvs: Ipvs,
    /// The network ports, 1 to 64 of them; their order is the order of the listings.
    #[schemars(length(min = 1, max = 64))]
    pub ports: List<Port>,
    /// Neighbours whose MAC address is fixed, for replay and for hosts without an exception path; default none.
    pub neighbours: List<Neighbour>,
    /// Routes beside the ports' own subnets and those of the kernel; default none.
    pub routes: List<Route>,
    /// Rules that give packets a mark, by which services can be recognised; the first that fits wins; default none.
    pub marks: List<MarkRule>,
    /// The virtual services, in the order in which `ipvsadm -A` would add them.
    pub services: List<Service>,
    /// How long a connection may be idle, by its state.
    pub timeouts: Timeouts,
    /// State sync with other directors, so that sessions outlive their director.
    pub sync: StateSync,
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
    /// Templates of all services together, one for each client, call or session that persistence keeps; default 256k, 1 to 256M. Each takes about 200 bytes, 50 MB in all by default.
    #[schemars(extend("x-range" = "1 to 256M"))]
    pub templates: Size,
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
            templates: Size(256 << 10),
            services: Size(16 << 10),
            servers: Size(64 << 10),
        }
    }
}

/// Switches by the names that LVS has for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ipvs {
    /// Whether the clients of a server with weight 0 go to another one with their next connection, instead of staying until persistence ends; default false.
    pub expire_quiescent_template: bool,
    /// Whether a TCP connection may begin with any segment but a RST, so that those that are under way when Polder starts are load-balanced too; default false.
    pub sloppy_tcp: bool,
    /// Whether an SCTP association may begin with any chunk but an ABORT; default false.
    pub sloppy_sctp: bool,
    /// What a SYN or INIT on the ports of an old connection means: 0 that connection; 1 a new one when the old one is over; 3 also when its replies are not seen and one side has sent a FIN (2 is as 3); default 1, 0 to 3.
    #[schemars(range(min = 0, max = 3))]
    pub conn_reuse_mode: u32,
    /// Whether TCP and SCTP connections end with their next packet when their server is down or removed, for services without `on_server_down`, and any connection with a SYN or INIT when the weight of its server is 0; default false.
    pub expire_nodest_conn: bool,
    /// Whether connections that are worth little are ended, a 32nd of the table each second: half-open ones, idle ones of few packets; 0 never, 1 or 2 while memory is low (see `amemthresh`), 3 always; default 0.
    #[schemars(range(min = 0, max = 3))]
    pub drop_entry: u8,
    /// Whether packets that need a server are dropped: one in `amemthresh` / (`amemthresh` - free entries) while memory is low, one in `am_droprate` with 3; 0 never, 1 or 2 while memory is low, 3 always; default 0.
    #[schemars(range(min = 0, max = 3))]
    pub drop_packet: u8,
    /// Whether TCP connections count as established only when their server has sent more than its SYN-ACK; 0 never, 1 or 2 while memory is low, 3 always; default 0.
    #[schemars(range(min = 0, max = 3))]
    pub secure_tcp: u8,
    /// Of how many packets that need a server `drop_packet: 3` drops one; default 10, 1 to 4294967295, 1 drops all.
    #[schemars(range(min = 1, max = 4_294_967_295_i64))]
    pub am_droprate: u32,
    /// Free connection entries of all workers, by the fullest table, below which memory is low; default a sixteenth of `limits.connections`, 0 (never) to 256M.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-range" = "0 to 256M"))]
    pub amemthresh: Option<Size>,
    /// Whether a masqueraded server's packet of no connection is answered with ICMP port unreachable and dropped; default false: it is the kernel's.
    pub nat_icmp_send: bool,
    /// Whether an ICMP error about a packet of no connection makes one, so that it reaches a server; default false: it is the kernel's.
    pub schedule_icmp: bool,
    /// Whether the don't-fragment bit of packets that enter an IPv4 tunnel is heeded and copied; default true. `false` fragments the tunnel's packets instead.
    pub pmtu_disc: bool,
}

impl Default for Ipvs {
    fn default() -> Self {
        let s = crate::forward::Switches::default();
        Self {
            expire_quiescent_template: false,
            sloppy_tcp: s.sloppy_tcp,
            sloppy_sctp: s.sloppy_sctp,
            conn_reuse_mode: s.conn_reuse_mode,
            expire_nodest_conn: s.expire_nodest_conn,
            drop_entry: 0,
            drop_packet: 0,
            secure_tcp: 0,
            am_droprate: 10,
            amemthresh: None,
            nat_icmp_send: false,
            schedule_icmp: false,
            pmtu_disc: true,
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

/// A rule that gives packets a mark. It has at least one condition; what it does not name may be anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkRule {
    /// The mark, 1 to 4294967295.
    #[schemars(range(min = 1, max = 4_294_967_295_i64))]
    pub mark: u32,
    /// Where packets come from, such as 10.0.0.0/8; default anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Cidr>,
    /// Where packets go to, such as 192.0.2.0/24 or 192.0.2.80/32; default anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Cidr>,
    /// Protocol; default any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Source port, or ports such as 1-1023, both ends included; default any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<PortRange>,
    /// Destination port, or ports such as 80-90, both ends included; default any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortRange>,
    /// Name of the port of Polder that packets come in by; default any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

/// A virtual service: of a protocol, address and port, or of a mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [{"required": ["mark"]}, {"required": ["protocol", "address", "port"]}]))]
pub struct Service {
    /// Name in metrics, listings and commands, 1 to 64 characters; default PROTOCOL-ADDRESS-PORT or mark-MARK (mark-MARK-ipv6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = "^[A-Za-z0-9][A-Za-z0-9_.:-]*$")
    )]
    pub name: Option<String>,
    /// Protocol; required where there is no `mark`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Virtual address (VIP); required where there is no `mark`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// Virtual port, 1 to 65535, or 0 for every port that has no service of its own, with `persistence`; required where there is no `mark`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: Option<u16>,
    /// Mark of the packets that are the service's, in place of protocol, address and port, 1 to 4294967295; the rules of `marks` give it to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_i64))]
    pub mark: Option<u32>,
    /// Address family of a service of a mark; default ipv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<IpFamily>,
    /// Scheduler, by the names of LVS, and hprio and offh: rr, wrr, lc, wlc, sed, nq, fo, ovf, dh, sh, mh, lblc, lblcr, twos, hprio, offh; default wlc. `offh` hashes the field of a `payload_key`.
    #[serde(default = "default_scheduler")]
    pub scheduler: String,
    /// Flags of the scheduler, by the names of LVS; default none. `sh`: fallback, port, kernel_tables; `mh`: fallback, port, table=SLOTS.
    #[serde(default)]
    pub scheduler_flags: List<String>,
    /// Whether every UDP datagram is given to a server by itself and no connection is remembered; default false.
    #[serde(default)]
    pub one_packet: bool,
    /// Keeps each client, call or session on its server; `{}` is the defaults of LVS; default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    /// Where UDP packets carry the key of their session, by which they are recognised when the client's address changes; default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_key: Option<PayloadKey>,
    /// Secret of the hash of `offh`, and of that of flows above `new_connections_per_second`, 16 hexadecimal digits, the same on every node that is to choose the same servers; default one of the appliance's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^[0-9a-fA-F]{16}$"))]
    pub hash_key: Option<HexBytes>,
    /// What becomes of connections and sessions whose server is down, removed or in maintenance; default reschedule, but drop for established TCP and SCTP connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_server_down: Option<OnServerDown>,
    /// Connections that may be made in a second, shared evenly by the workers; flows beyond go to a server by the hash of their client's address and port and are not remembered, those for a `masq` server, of SCTP and of a service with `persistence` or `payload_key` are dropped; default 0 (no limit), 0 to 4294967295.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub new_connections_per_second: u32,
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
    /// SCTP.
    Sctp,
}

/// An address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// How long, and by what, clients are kept on their server. All keys have defaults, so `persistence: {}` is enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Persistence {
    /// How long a client, call or session may be idle before it is forgotten; default 6m, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub timeout: Period,
    /// Which clients belong together: an IPv4 netmask or prefix length, or an IPv6 prefix length; default 255.255.255.255 or 128, each client by itself. With an engine, 0.0.0.0 (IPv6: 0) recognises a session from whatever address it comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netmask: Option<Netmask>,
    /// Persistence engine, which recognises a session by the UDP payload; default none, by the client's address alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineName>,
    /// With `engine: payload`: where the field begins in the UDP payload, from 0, in `unit`s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u32>,
    /// With `engine: payload`: length of the field in `unit`s, up to 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// With `engine: payload`: what offset and length count; default bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// With an engine: what becomes of a packet in which it finds no key; default fallback.
    pub on_no_key: OnNoKey,
    /// Templates that the service may have; default 0 (as many as `limits.templates` allows), 0 to 256M.
    #[schemars(extend("x-range" = "0 to 256M"))]
    pub max_templates: Size,
    /// Templates that one client address may have made; default 0 (no limit), 0 to 256M.
    #[schemars(extend("x-range" = "0 to 256M"))]
    pub max_templates_per_client: Size,
}

impl Default for Persistence {
    fn default() -> Self {
        Self {
            timeout: Period(Duration::from_secs(360)),
            netmask: None,
            engine: None,
            offset: None,
            length: None,
            unit: None,
            on_no_key: OnNoKey::default(),
            max_templates: Size(0),
            max_templates_per_client: Size(0),
        }
    }
}

/// A persistence engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// By the Call-ID of SIP messages.
    Sip,
    /// By a field of the payload, given by `offset` and `length`.
    Payload,
}

/// What offset and length of a field count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Bytes.
    #[default]
    Bytes,
    /// Bits; bit 0 is the highest one of the first byte.
    Bits,
}

/// What becomes of a packet in which the engine finds no key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnNoKey {
    /// It stays with the others of its client, as without an engine.
    #[default]
    Fallback,
    /// It is dropped.
    Drop,
}

/// Where UDP packets carry the key of their session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PayloadKey {
    /// What the key is; default field.
    #[serde(rename = "type", default)]
    pub kind: KeyType,
    /// Where the field begins in the UDP payload, from 0, in `unit`s; required with `type: field`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u32>,
    /// Length of the field in `unit`s, up to 256 bytes; required with `type: field`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// What offset and length count; default bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// Which packets carry the key; the others follow the connection of their addresses and ports; default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    /// Sessions that the service may have at once; default 0, no limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_templates: Option<u32>,
    /// Sessions that one client address may have begun; default 0, no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_templates_per_client: Option<u32>,
    /// With `type: quic`: the QUIC-LB configurations that the servers make connection IDs by, 1 to 7 of them.
    #[serde(default, skip_serializing_if = "no_configs")]
    #[schemars(length(max = 7))]
    pub configs: List<QuicConfig>,
}

fn no_configs(configs: &List<QuicConfig>) -> bool {
    configs.is_empty()
}

/// What the key of a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// A field at a fixed place of the payload.
    #[default]
    Field,
    /// The server id in QUIC connection IDs (QUIC-LB).
    Quic,
}

/// The bytes by which packets with a key are told from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// Where the bytes are in the UDP payload, from 0.
    pub offset: u32,
    /// What they are, two hexadecimal digits each, such as "19"; 1 to 256 bytes.
    pub value: HexBytes,
}

/// A QUIC-LB configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuicConfig {
    /// The number in the three highest bits of a connection ID's first byte, 0 to 6.
    #[schemars(range(min = 0, max = 6))]
    pub codepoint: u8,
    /// Bytes of the server id, 1 to 15.
    #[schemars(range(min = 1, max = 15))]
    pub server_id_length: u8,
    /// Bytes of the nonce, 4 to 18; with the server id at most 19.
    #[schemars(range(min = 4, max = 18))]
    pub nonce_length: u8,
    /// Whether the first byte also tells the length of the connection ID; default false.
    #[serde(default)]
    pub length_encoded: bool,
    /// AES-128 key, 32 hexadecimal digits; default none: the server id is not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^[0-9a-fA-F]{32}$"))]
    pub key: Option<HexBytes>,
}

/// What becomes of connections and sessions when their server goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnServerDown {
    /// The next packet is given to another server.
    Reschedule,
    /// Packets are dropped until the connection or session ends.
    Drop,
    /// Packets still go to the server.
    Keep,
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
    /// Port, 1 to 65535; default the service's, which direct and tunnel servers must have. For services of a mark or of every port the default is 0, the port that the packet was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: Option<u16>,
    /// Share of the new connections relative to the other servers; default 1, 0 (takes no new ones) to 65535.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 0, max = 65535))]
    pub weight: u32,
    /// How packets reach the server; default masq.
    #[serde(default)]
    pub forwarding: Forwarding,
    /// With `forwarding: tunnel`: what the packets are wrapped in; default IPIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
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
    /// The id that names the server in QUIC connection IDs, two hexadecimal digits a byte, for `payload_key` of type quic; default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic_server_id: Option<HexBytes>,
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

/// What packets for a tunnel server are wrapped in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// The encapsulation (`ipvsadm --tun-type`); default ipip.
    #[serde(rename = "type", default)]
    pub kind: TunnelType,
    /// UDP port that the server takes GUE packets on, 1 to 65535 (`--tun-port`); required with `type: gue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Checksum of the encapsulation (`--tun-nocsum`, `--tun-csum`, `--tun-remcsum`); default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<TunnelChecksum>,
}

/// An encapsulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelType {
    /// The packet is what the outer IP packet carries.
    #[default]
    Ipip,
    /// UDP and four bytes (Generic UDP Encapsulation).
    Gue,
    /// Four bytes, or eight with a checksum (Generic Routing Encapsulation).
    Gre,
}

/// The checksum of an encapsulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelChecksum {
    /// None; the inner packet's own protect it.
    #[default]
    None,
    /// Over the header of the encapsulation and the inner packet.
    Csum,
    /// With GUE: as csum; the receiver may have to fill in the inner one, but never has to for forwarded packets.
    Remcsum,
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
    /// SCTP before any state is known; default 2s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_none: Period,
    /// SCTP after the client's first INIT; default 4s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_init1: Period,
    /// SCTP after a repeated INIT of the client; default 61s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_init: Period,
    /// SCTP after the server's INIT ACK; default 61s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_c_sent: Period,
    /// SCTP after the client's COOKIE ECHO; default 61s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_c_replied: Period,
    /// SCTP after an INIT of the server; default 61s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_c_wait: Period,
    /// SCTP after the client's INIT ACK; default 61s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_cookie: Period,
    /// SCTP after the server's COOKIE ECHO; default 61s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_c_echoed: Period,
    /// SCTP established; default 15m, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_established: Period,
    /// SCTP after the server's SHUTDOWN; default 61s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_s_sent: Period,
    /// SCTP after the client's SHUTDOWN; default 61s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_s_received: Period,
    /// SCTP after the server's SHUTDOWN ACK; default 61s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_s_ack_sent: Period,
    /// SCTP after an ABORT during the handshake; default 4s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_rejected: Period,
    /// SCTP after the end; default 61s, 1s to 31d.
    #[schemars(extend("x-range" = "1s to 31d"))]
    pub sctp_closed: Period,
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
            sctp_none: Period(t.sctp_none),
            sctp_init1: Period(t.sctp_init1),
            sctp_init: Period(t.sctp_init),
            sctp_c_sent: Period(t.sctp_c_sent),
            sctp_c_replied: Period(t.sctp_c_replied),
            sctp_c_wait: Period(t.sctp_c_wait),
            sctp_cookie: Period(t.sctp_cookie),
            sctp_c_echoed: Period(t.sctp_c_echoed),
            sctp_established: Period(t.sctp_established),
            sctp_s_sent: Period(t.sctp_s_sent),
            sctp_s_received: Period(t.sctp_s_received),
            sctp_s_ack_sent: Period(t.sctp_s_ack_sent),
            sctp_rejected: Period(t.sctp_rejected),
            sctp_closed: Period(t.sctp_closed),
        }
    }
}

/// State sync: what directors tell each other of their connections and templates. Keys that begin with `sync_` are those of LVS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StateSync {
    /// What this director does; default off.
    pub role: SyncRole,
    /// What messages look like; default polder.
    pub format: SyncFormat,
    /// Kernel interface that messages go by, up to 15 characters, or the name of a port that has a kernel interface; default the one that the kernel's routes lead to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Multicast group and port, IPv6 as `[ff02::81]:8848`; default 224.0.0.81:8848.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<SyncAddress>,
    /// Directors that messages are sent to one by one, in place of the group, all with the same port; default none, up to 16.
    #[serde(skip_serializing_if = "no_peers")]
    #[schemars(length(max = 16))]
    pub peers: List<SyncAddress>,
    /// Time to live of multicast messages; default 1, 1 to 255.
    #[schemars(range(min = 1, max = 255))]
    pub ttl: u8,
    /// Which directors belong together: those with the same number; default 1, with `format: ipvs` 0, 0 to 255. 0 on a backup of the ipvs format takes messages of every number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub sync_id: Option<u8>,
    /// The longest message in bytes of UDP payload (`ipvsadm --sync-maxlen`); default 1472, with an IPv6 group 1452, and to receive what the interface's MTU allows; 512 to 65507.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 512, max = 65507))]
    pub max_message: Option<u16>,
    /// Absolute path of the file with the keys of `format: polder`, which needs one; a line each, `ID HEX64 [receive]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// With `format: polder`: whether messages are encrypted, too, not only authenticated; default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<bool>,
    /// What peers call this director, 1 to 64 letters, digits, `_`, `-` or `.`; default the host's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    )]
    pub name: Option<String>,
    /// With `format: polder`: how often a master looks for differences; default 1s, 100ms to 1m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-range" = "100ms to 1m"))]
    pub interval: Option<Period>,
    /// When this director is ready to take over.
    pub ready: SyncReady,
    /// Whether a backup balances nothing, also while it is a master too, and leaves its packets to the kernel; default false.
    pub backup_only: bool,
    /// With `format: ipvs`: version of the messages that are sent, 0 (IPv4 only) or 1; both are understood; default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub sync_version: Option<u8>,
    /// With `format: ipvs`: packets from the client before a connection is told of, and packets between two records; default `[3, 50]`; the first is below the second, or the second 0.
    #[serde(skip_serializing_if = "no_threshold")]
    #[schemars(length(max = 2), inner(range(min = 0, max = 2_147_483_647)))]
    pub sync_threshold: List<u32>,
    /// With `format: ipvs`: entries whose end moved by less are not told of again; default 0s (no such rule), 0s to 31d.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-range" = "0s to 31d"))]
    pub sync_refresh_period: Option<Period>,
    /// With `format: ipvs`: how often a record is sent again within a refresh period; default 0, 0 to 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3))]
    pub sync_retries: Option<u8>,
    /// With `format: ipvs`: channels, each with a port of its own from that of `group` on; default 1, a power of two from 1 to 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub sync_ports: Option<u8>,
    /// With `format: ipvs`: whether only templates are told of, not the connections under them; default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_persist_mode: Option<bool>,
    /// Messages that wait to be sent at most, of each channel; what is more is discarded and counted; default 4096, 1 to 1048576.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub sync_qlen_max: u32,
}

fn no_peers(peers: &List<SyncAddress>) -> bool {
    peers.is_empty()
}

fn no_threshold(numbers: &List<u32>) -> bool {
    numbers.is_empty()
}

impl Default for StateSync {
    fn default() -> Self {
        let s = crate::sync::settings::Settings::default();
        Self {
            role: SyncRole::default(),
            format: SyncFormat::default(),
            interface: None,
            group: None,
            peers: List::default(),
            ttl: s.ttl,
            sync_id: None,
            max_message: None,
            key_file: None,
            encrypt: None,
            name: None,
            interval: None,
            ready: SyncReady::default(),
            backup_only: s.backup_only,
            sync_version: None,
            sync_threshold: List::default(),
            sync_refresh_period: None,
            sync_retries: None,
            sync_ports: None,
            sync_persist_mode: None,
            sync_qlen_max: u32::try_from(s.queue_max).unwrap_or(u32::MAX),
        }
    }
}

/// What a director does in state sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyncRole {
    /// Nothing; it can be started at run time.
    #[default]
    Off,
    /// It tells of its entries.
    Master,
    /// It takes the entries of others.
    Backup,
    /// Both at once, for active/active.
    Both,
}

/// What sync messages look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyncFormat {
    /// Authenticated, and sure of what the peer has; between Polders.
    #[default]
    Polder,
    /// That of Linux's IPVS, for pairs with an LVS director.
    Ipvs,
}

/// When a director is ready to take over: when it has what its peers have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SyncReady {
    /// With `format: polder`: share of a peer's entries from which on it is ready; default 99%, 0% to 100%.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Share>,
    /// After how long a backup that heard nobody is ready all the same; default 30s, 0s to 1h.
    #[schemars(extend("x-range" = "0s to 1h"))]
    pub timeout: Period,
    /// Absolute path of a file that holds `1` while this director is ready and else `0`, as the track_file of keepalived; default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

impl Default for SyncReady {
    fn default() -> Self {
        let s = crate::sync::settings::Settings::default();
        Self {
            coverage: None,
            timeout: Period(s.ready_timeout),
            file: None,
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
pub(super) const LATER: &[(&str, &str)] = &[];

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
    ("encapsulation", "tunnel"),
    ("tun_type", "tunnel"),
    ("tun_port", "tunnel"),
    ("tun_csum", "csum"),
    ("csum", "checksum"),
    ("nocsum", "none"),
    ("ipip", "tunnel"),
    ("up", "ready"),
    ("down", "maint"),
    ("maintenance", "maint"),
    ("draining", "drain"),
    ("round_robin", "rr"),
    ("roundrobin", "rr"),
    ("fwmark", "mark"),
    ("firewall_mark", "mark"),
    ("af", "family"),
    ("ops", "one_packet"),
    ("onepacket", "one_packet"),
    ("persistent", "persistence"),
    ("sticky", "persistence"),
    ("persistence_timeout", "persistence"),
    ("persistence_engine", "persistence"),
    ("persistence_granularity", "persistence"),
    ("granularity", "netmask"),
    ("mask", "netmask"),
    ("prefix_length", "netmask"),
    ("pe", "engine"),
    ("pe_name", "engine"),
    ("dport", "port"),
    ("sport", "source_port"),
    ("source", "from"),
    ("state_sync", "sync"),
    ("mcast_interface", "interface"),
    ("mcast_group", "group"),
    ("mcast_ttl", "ttl"),
    ("syncid", "sync_id"),
    ("id", "sync_id"),
    ("sync_maxlen", "max_message"),
    ("maxlen", "max_message"),
    ("key", "key_file"),
    ("keys", "key_file"),
    ("peer", "peers"),
    ("version", "sync_version"),
    ("threshold", "sync_threshold"),
    ("refresh_period", "sync_refresh_period"),
    ("retries", "sync_retries"),
    ("persist_mode", "sync_persist_mode"),
    ("qlen_max", "sync_qlen_max"),
    ("primary", "master"),
    ("active", "master"),
    ("secondary", "backup"),
    ("slave", "backup"),
    ("standby", "backup"),
    ("lvs", "ipvs"),
    ("kernel", "ipvs"),
    ("leastconn", "lc"),
    ("least_conn", "lc"),
];
