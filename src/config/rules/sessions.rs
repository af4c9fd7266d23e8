//! Rules of what keeps sessions on their servers: marks, one-packet scheduling, persistence and payload keys.
//!
//! Knows what can't work together and says what to do instead. The length and place of a key's field are judged by
//! [`crate::persist::Field`], QUIC-LB configurations by [`crate::persist::QuicLb`].

use std::net::IpAddr;

use super::{Rules, Seen, contains, network, not_unicast};
use crate::config::decode::list;
use crate::config::located::Located;
use crate::config::lower::{field, quic_config};
use crate::config::model::{
    EngineName, Forwarding, IpFamily, KeyType, MarkRule, OnNoKey, PayloadKey, Persistence,
    Protocol, QuicConfig, Server, Service, Unit,
};
use crate::config::sessions::Mix;
use crate::config::tree::{NodeId, ROOT};
use crate::config::values::{Cidr, HexBytes, Netmask, PortRange};
use crate::persist::field::{FIELD_MAX, PAYLOAD_MAX};
use crate::persist::{FieldError, QuicLb};

/// Rules of marks that all others are compared with: the first so many, so that a long file is not judged for minutes.
const COMPARED_MAX: usize = 1024;

/// The source port of FTP data connections.
const FTP_DATA: u16 = 20;

/// Schedulers that choose by the number of connections that servers have.
const COUNTING: [&str; 7] = ["lc", "wlc", "sed", "nq", "ovf", "lblc", "lblcr"];
/// Those of them that look at active connections only.
const COUNTING_ACTIVE: [&str; 3] = ["sed", "nq", "ovf"];

impl IpFamily {
    /// That of an address.
    pub(super) fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() {
            Self::Ipv4
        } else {
            Self::Ipv6
        }
    }

    /// Its name in sentences.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }
}

impl MarkRule {
    /// The family of the packets that the rule describes, if only one.
    fn family(&self) -> Option<IpFamily> {
        self.from.or(self.to).map(|p| IpFamily::of(p.0.addr))
    }

    /// Whether every packet that `other` describes is one that this rule describes too.
    fn covers(&self, other: &Self) -> bool {
        self.covers_by(other) == [true; 4]
    }

    /// The same of addresses with the input, of the protocol, of source ports and of ports.
    fn covers_by(&self, other: &Self) -> [bool; 4] {
        let addresses = |wide: Option<Cidr>, narrow: Option<Cidr>| match (wide, narrow) {
            (None, _) => true,
            (Some(wide), Some(narrow)) => {
                wide.0.len <= narrow.0.len && contains(wide.0, narrow.0.addr)
            }
            (Some(wide), None) => {
                wide.0.len == 0 && other.family() == Some(IpFamily::of(wide.0.addr))
            }
        };
        let ports = |wide: Option<PortRange>, narrow: Option<PortRange>| match (wide, narrow) {
            (None, _) => true,
            (Some(wide), Some(narrow)) => wide.0 <= narrow.0 && narrow.1 <= wide.1,
            (Some(_), None) => false,
        };
        [
            addresses(self.from, other.from)
                && addresses(self.to, other.to)
                && (self.input.is_none() || self.input == other.input),
            self.protocol.is_none() || self.protocol == other.protocol,
            ports(self.source_port, other.source_port),
            ports(self.port, other.port),
        ]
    }
}

/// The lines of the rules that together fit every packet that `rule` does, where each of them does so but for its
/// protocol, or but for its ports; none where some packet is left.
fn together(earlier: &[(&MarkRule, usize)], rule: &MarkRule) -> Vec<usize> {
    let all_but = |what: usize| {
        earlier.iter().filter(move |(first, _)| {
            let covers = first.covers_by(rule);
            (0..4).all(|i| i == what || covers[i])
        })
    };
    let has = |protocol| all_but(1).any(|(first, _)| first.protocol == Some(protocol));
    let protocols = || [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(has) == [true; 3];
    let divided = [
        rule.protocol.is_none() && protocols(),
        leaves_none(rule.source_port, all_but(2).map(|(r, _)| r.source_port)),
        leaves_none(rule.port, all_but(3).map(|(r, _)| r.port)),
    ];
    let what = divided.iter().position(|divided| *divided);
    what.map_or(Vec::new(), |i| {
        all_but(i + 1).map(|(_, line)| *line).collect()
    })
}

/// Whether each port of `range` is in one of `others`. Without a range there is also port 0, which no range has.
fn leaves_none(range: Option<PortRange>, others: impl Iterator<Item = Option<PortRange>>) -> bool {
    let Some(PortRange(first, last)) = range else {
        return false;
    };
    let mut others: Vec<_> = others.flatten().map(|r| (r.0, r.1)).collect();
    others.sort_unstable();
    let mut next = u32::from(first);
    for (from, to) in others {
        if u32::from(from) <= next {
            next = next.max(u32::from(to) + 1);
        }
    }
    next > u32::from(last)
}

/// The last address of a prefix.
fn last(prefix: Cidr) -> IpAddr {
    let len = u32::from(prefix.0.len);
    match prefix.0.addr {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) | u32::MAX.checked_shr(len).unwrap_or(0)).into()),
        IpAddr::V6(a) => {
            IpAddr::V6((u128::from(a) | u128::MAX.checked_shr(len).unwrap_or(0)).into())
        }
    }
}

/// The keys of a field.
type FieldKeys = (Option<u32>, Option<u32>, Option<Unit>);

/// What of a service decides which of its settings go together.
pub(super) fn mix(service: &Service) -> Mix {
    let masq = |s: &Server| s.forwarding == Forwarding::Masq;
    let key = service.payload_key.as_ref();
    Mix {
        protocol: service.protocol,
        mark: service.mark.is_some(),
        any_port: service.port == Some(0),
        one_packet: service.one_packet,
        limited: service.new_connections_per_second != 0,
        masq: service.servers.iter().any(|s| masq(s)),
        persistence: service.persistence.is_some(),
        engine: service
            .persistence
            .as_ref()
            .is_some_and(|p| p.engine.is_some()),
        payload_key: key.is_some(),
        quic: key.is_some_and(|key| key.kind == KeyType::Quic),
    }
}

impl Rules<'_, '_, '_> {
    /// The rules that give marks.
    pub(super) fn marks(&mut self) {
        let config = self.config;
        let mut seen = Seen::default();
        // The earlier rules that could be made, with their lines.
        let mut earlier: Vec<(&MarkRule, usize)> = Vec::new();
        const CONDITIONS: &[&str] = &["from", "to", "protocol", "source_port", "port", "input"];
        for rule in config.marks.iter() {
            let node = rule.node;
            let (from, to) = (rule.from, rule.to);
            let conditions = (
                (from, to, rule.protocol),
                (rule.source_port, rule.port, rule.input.as_deref()),
            );
            let line = node.map_or(0, |n| self.tree.place(n).line);
            let sound = self.sound(node, CONDITIONS);
            let equal = self.before(&mut seen, node, CONDITIONS, conditions);
            let before = earlier.iter().find(|(first, _)| first.covers(rule));
            let before = equal.or_else(|| before.filter(|_| sound).map(|(_, line)| *line));
            if conditions == ((None, None, None), (None, None, None)) {
                if self.sound(node, CONDITIONS) {
                    let message = format!(
                        "the rule would fit every packet; give it at least one of {}",
                        list(CONDITIONS, "and")
                    );
                    self.error(node, "", &message);
                }
            } else if let Some(first) = before {
                let message = format!(
                    "the rule of line {first} fits every packet that this one does and comes first, so this one is \
                     never used; move it up before that one, or remove it"
                );
                self.error(node, "mark", &message);
            } else if sound && let lines @ [_, ..] = &*together(&earlier, rule) {
                let lines: Vec<_> = lines.iter().take(8).map(ToString::to_string).collect();
                let message = format!(
                    "earlier rules (lines {}) together fit every packet that this one does, so this one is never \
                     used; move it up before them, or remove it",
                    lines.join(", ")
                );
                self.error(node, "mark", &message);
            } else if sound && earlier.len() < COMPARED_MAX {
                earlier.push((rule, line));
            }
            if rule.source_port == Some(PortRange(FTP_DATA, FTP_DATA)) {
                // Specification §2.5.
                let message = "no packet would fit: what comes from port 20, which is FTP's, is never balanced, as in LVS";
                self.error(node, "source_port", message);
            }
            self.prefix(node, "from", from);
            self.prefix(node, "to", to);
            if let (Some(from), Some(to)) = (from, to)
                && from.0.addr.is_ipv4() != to.0.addr.is_ipv4()
            {
                let message =
                    "`from` and `to` are of different address families, so no packet would fit";
                self.error(node, "to", message);
            }
            if let Some(input) = rule.input.as_deref() {
                self.port_name(node, "input", input);
            }
        }
        self.marks_in_use();
    }

    fn prefix(&mut self, node: Option<NodeId>, key: &str, prefix: Option<Cidr>) {
        let Some(given) = prefix else { return };
        let (net, len) = (network(given.0.addr, given.0.len), given.0.len);
        if let Some(what) = not_unicast(net).filter(|what| not_unicast(last(given)) == Some(what)) {
            let message = format!(
                "no packet would fit: each address of {given} is {what}, which no packet for a service has"
            );
            self.error(node, key, &message);
            return;
        }
        if net != given.0.addr {
            let message =
                format!("{given} has bits behind its prefix length; did you mean `{net}/{len}`?");
            self.error(node, key, &message);
        }
    }

    /// Marks that no service has, and services whose mark no packet has.
    fn marks_in_use(&mut self) {
        let config = self.config;
        // A rule or service that could not be made may be the very one.
        if self.report.errors() > 0 {
            return;
        }
        let services = || config.services.iter().filter(|s| s.mark.is_some());
        let fits = |rule: &MarkRule, s: &Service| {
            s.mark == Some(rule.mark) && rule.family().is_none_or(|f| s.ip_family() == Some(f))
        };
        for rule in config.marks.iter() {
            if !services().any(|s| fits(rule, s)) {
                let family = rule
                    .family()
                    .map_or(String::new(), |f| format!("{} ", f.title()));
                let message = format!(
                    "no {family}service has `mark: {}`, so the rule does nothing",
                    rule.mark
                );
                self.warning(rule.node, "mark", &message);
            }
        }
        for service in services() {
            if !config.marks.iter().any(|rule| fits(rule, service)) {
                let family = service.ip_family().map_or("", IpFamily::title);
                let message = format!(
                    "no rule of `marks` gives this mark to {family} packets, so the service gets none"
                );
                self.warning(service.node, "mark", &message);
            }
        }
    }

    /// All that keeps the sessions of a service together.
    pub(super) fn sessions(&mut self, service: &Located<Service>) {
        self.one_packet(service);
        self.session_scheduler(service);
        let child = |key| service.node.and_then(|n| self.tree.child(n, key));
        let (persistence, payload_key) = (child("persistence"), child("payload_key"));
        if let Some(given) = &service.persistence {
            self.persistence(service, persistence, given);
        }
        if let Some(given) = &service.payload_key {
            self.payload_key(payload_key, given);
        }
        for clash in mix(service).clashes().filter(|clash| clash.key != "port") {
            let node = if clash.key == "engine" {
                persistence
            } else {
                service.node
            };
            let message = format!("{}; {}", clash.why, clash.instead);
            self.error(node, clash.key, &message);
        }
        self.quic_servers(service);
    }

    fn one_packet(&mut self, service: &Located<Service>) {
        let scheduler = service.scheduler.as_str();
        if !service.one_packet {
            // Specification §7.5: those of UDP are never active.
            if service.protocol == Some(Protocol::Udp) && COUNTING_ACTIVE.contains(&scheduler) {
                let message = format!(
                    "`{scheduler}` counts active connections, and UDP has inactive ones only, as in LVS, so one server \
                     gets nearly everything; use `wlc` or `lc`"
                );
                self.warning(service.node, "scheduler", &message);
            }
            return;
        }
        let remembers = service.persistence.is_some() || service.payload_key.is_some();
        for server in service
            .servers
            .iter()
            .filter(|s| remembers && s.lower_threshold != 0)
        {
            let message = "a server of a `one_packet` service takes new sessions as soon as it has fewer than the upper \
                           threshold, so the lower one does nothing; remove it";
            self.warning(server.node, "lower_threshold", message);
        }
        if !remembers && self.sound(service.node, &["persistence", "payload_key"]) {
            self.thresholds_without_count(service);
        }
        if service.on_server_down.is_some() && !remembers {
            let message = "`one_packet` without `persistence` or a `payload_key` remembers no server that could be \
                           down: every datagram goes to one that serves; remove it";
            self.warning(service.node, "on_server_down", message);
        }
        if COUNTING.contains(&scheduler) && !remembers {
            let message = format!(
                "`{scheduler}` counts connections, of which `one_packet` leaves none, so one server gets nearly \
                 everything; use `scheduler: rr` or `wrr`, or give the service `persistence`"
            );
            self.warning(service.node, "one_packet", &message);
        }
    }

    /// Specification §5: a datagram that is scheduled by itself counts for the instant in which that is done.
    fn thresholds_without_count(&mut self, service: &Located<Service>) {
        for server in service.servers.iter().filter(|s| s.upper_threshold != 0) {
            let message = "`one_packet` without `persistence` or a `payload_key` leaves nothing behind that a threshold \
                           could count: the server is never overloaded; remove it, or give the service `persistence`, \
                           whose sessions count";
            self.warning(server.node, "upper_threshold", message);
        }
    }

    /// Servers that send in the name of two services: which of the two it is can't be told from what they send.
    pub(super) fn speakers(&mut self) {
        let config = self.config;
        let mut seen = Seen::default();
        for service in config.services.iter() {
            let engine = service
                .persistence
                .as_ref()
                .is_some_and(|p| p.engine.is_some());
            let any_port = service.port == Some(0);
            if service.protocol != Some(Protocol::Udp)
                || !(service.one_packet || engine && !any_port)
            {
                continue;
            }
            for server in service.servers.iter() {
                if server.forwarding != Forwarding::Masq {
                    continue;
                }
                let port = if any_port {
                    Some(0)
                } else {
                    server.port.or(service.port)
                };
                let at = (server.address, port);
                let keys = ["address", "port", "forwarding"];
                if let Some(first) = self.before(&mut seen, server.node, &keys, at) {
                    let message = format!(
                        "the server of line {first} has this address and port too: what such a server sends without a \
                         connection, as all answers of one-packet services, leaves from the virtual address of the \
                         last of its services; give each service a port of its own on the server"
                    );
                    self.warning(server.node, "address", &message);
                }
            }
        }
    }

    fn session_scheduler(&mut self, service: &Located<Service>) {
        let node = service.node;
        let hashed = service.scheduler == "offh";
        if hashed && self.sound(node, &["payload_key"]) {
            let why = match service.payload_key.as_ref().map(|key| key.kind) {
                Some(KeyType::Field) => None,
                Some(KeyType::Quic) => Some(
                    "`offh` hashes a field of the payload, but QUIC's connection IDs change within a connection; \
                     use another scheduler with `type: quic`",
                ),
                None => Some(
                    "`offh` hashes a field of the payload; say which one with \
                     `payload_key: {offset: …, length: …}`",
                ),
            };
            if let Some(why) = why {
                self.error(node, "scheduler", why);
            }
        }
        let Some(key) = &service.hash_key else { return };
        let limited = service.new_connections_per_second != 0;
        if !hashed && !limited && self.sound(node, &["scheduler", "new_connections_per_second"]) {
            let message = format!(
                "only `scheduler: offh` and `new_connections_per_second` hash with a key, `{}` does not; remove it",
                service.scheduler
            );
            self.error(node, "hash_key", &message);
        }
        self.digits(node, "hash_key", key, 8);
    }

    /// Refuses bytes that are not as many as they must be.
    fn digits(&mut self, node: Option<NodeId>, key: &str, given: &HexBytes, bytes: usize) {
        if given.0.len() != bytes {
            let message = format!(
                "{} hexadecimal digits are needed, found {}",
                2 * bytes,
                2 * given.0.len()
            );
            self.error(node, key, &message);
        }
    }

    fn persistence(&mut self, service: &Located<Service>, node: Option<NodeId>, p: &Persistence) {
        if p.engine.is_some() {
            self.engine_use(service, node);
        }
        if let (Some(netmask), true) = (p.netmask, self.sound(service.node, &["mark", "family"])) {
            self.netmask(service, node, netmask);
        }
        let field = (p.offset, p.length, p.unit);
        if p.engine == Some(EngineName::Payload) {
            self.field(node, field, "engine: payload");
        } else if self.sound(node, &["engine"]) {
            self.no_field(node, field, "`engine: payload`");
        }
        if p.on_no_key == OnNoKey::Drop && p.engine.is_none() && self.sound(node, &["engine"]) {
            let message =
                "without an `engine` no key is looked for, so none can be missing; remove it";
            self.error(node, "on_no_key", message);
        }
        let total = self.config.limits.templates;
        let limits = self.tree.child(ROOT, "limits");
        for (key, own) in [
            ("max_templates", p.max_templates),
            ("max_templates_per_client", p.max_templates_per_client),
        ] {
            if own > total && self.sound(limits, &["templates"]) {
                let message = format!(
                    "{own} is more than `limits.templates` allows all services together, {total}"
                );
                self.warning(node, key, &message);
            }
        }
    }

    /// Where an engine never sees a payload.
    fn engine_use(&mut self, service: &Located<Service>, node: Option<NodeId>) {
        if service.protocol == Some(Protocol::Tcp) {
            let message = "on TCP the server is chosen at the SYN, before any payload: such a service uses its \
                           normal persistence";
            self.warning(node, "engine", message);
        } else if service.mark.is_some() {
            let message = "only UDP packets of the mark are looked into; others, such as TCP, use the service's \
                           normal persistence";
            self.warning(node, "engine", message);
        }
    }

    fn netmask(&mut self, service: &Located<Service>, node: Option<NodeId>, netmask: Netmask) {
        let message = match (netmask, service.ip_family()) {
            (Netmask::Dotted(len), Some(IpFamily::Ipv6)) => {
                let hint = if len == 0 { "; did you mean `0`?" } else { "" };
                format!("clients of an IPv6 service are grouped by a prefix length, 0 to 128{hint}")
            }
            (Netmask::Length(len), Some(IpFamily::Ipv4)) if len > 32 => {
                format!("the prefix length {len} is too long for IPv4; 0 to 32 is allowed")
            }
            _ => return,
        };
        self.error(node, "netmask", &message);
    }

    /// The field that a session's key is in; `of` is what needs it.
    fn field(&mut self, node: Option<NodeId>, (offset, length, unit): FieldKeys, of: &str) {
        for (key, given) in [("offset", offset), ("length", length)] {
            if given.is_none() {
                let message = format!(
                    "`{key}` is missing: `{of}` needs it, to find the field in the payload"
                );
                self.error(node, key, &message);
            }
        }
        if offset.is_none() || length.is_none() || !self.sound(node, &["offset", "length", "unit"])
        {
            return;
        }
        if let Err(why) = field(offset, length, unit) {
            let key = match why {
                FieldError::Empty | FieldError::Long => "length",
                FieldError::Beyond => "offset",
            };
            self.error(node, key, &why.to_string());
        }
    }

    /// Refuses the keys of a field where there is none; `of` is what they are for.
    fn no_field(&mut self, node: Option<NodeId>, (offset, length, unit): FieldKeys, of: &str) {
        for (key, given) in [
            ("offset", offset.is_some()),
            ("length", length.is_some()),
            ("unit", unit.is_some()),
        ] {
            if given {
                self.error(node, key, &format!("`{key}` is for {of}; remove it"));
            }
        }
    }

    fn payload_key(&mut self, node: Option<NodeId>, key: &PayloadKey) {
        if !self.sound(node, &["type"]) {
            return;
        }
        let field = (key.offset, key.length, key.unit);
        match key.kind {
            KeyType::Field => {
                self.field(node, field, "payload_key");
                self.when(node, key);
                if !key.configs.is_empty() {
                    self.error(node, "configs", "`configs` is for `type: quic`; remove it");
                }
            }
            KeyType::Quic => {
                self.no_field(node, field, "`type: field`");
                if key.when.is_some() {
                    self.error(node, "when", "`when` is for `type: field`; remove it");
                }
                for (limit, name) in [
                    (key.max_templates, "max_templates"),
                    (key.max_templates_per_client, "max_templates_per_client"),
                ] {
                    if limit.is_some() {
                        let message = "QUIC connection IDs need no templates; remove the limit";
                        self.error(node, name, message);
                    }
                }
                self.quic_configs(node, key);
            }
        }
    }

    fn when(&mut self, node: Option<NodeId>, key: &PayloadKey) {
        let Some(when) = &key.when else { return };
        let node = node.and_then(|n| self.tree.child(n, "when"));
        let len = when.value.0.len();
        if len > FIELD_MAX {
            let message = format!("{len} bytes are too many to compare; at most {FIELD_MAX} are");
            self.error(node, "value", &message);
        } else if u64::from(when.offset) + len as u64 > u64::from(PAYLOAD_MAX) {
            let message = format!(
                "the value ends behind the longest UDP payload ({PAYLOAD_MAX} bytes), so no packet has it"
            );
            self.error(node, "offset", &message);
        }
    }

    fn quic_configs(&mut self, node: Option<NodeId>, key: &PayloadKey) {
        let given = node.and_then(|n| self.tree.child(n, "configs"));
        if key.configs.is_empty() {
            if given.is_none_or(|g| self.tree.items(g).is_empty()) {
                let message = "`type: quic` needs `configs`: at least one QUIC-LB configuration, as the servers have it";
                self.error(node, "configs", message);
            }
            return;
        }
        let mut seen = Seen::default();
        let mut sound = true;
        for config in key.configs.iter() {
            let (at, number) = (config.node, config.codepoint);
            if let Some(first) = self.before(&mut seen, at, &["codepoint"], number) {
                let message =
                    format!("the configuration of line {first} has codepoint {number} already");
                self.error(at, "codepoint", &message);
                sound = false;
            }
            if let Some(secret) = &config.key {
                self.digits(at, "key", secret, 16);
            }
            sound &= self.quic_config(config);
        }
        let all: Option<Vec<_>> = key.configs.iter().map(|c| quic_config(c)).collect();
        if sound
            && let Some(all) = all
            && let Err(why) = QuicLb::new(&all)
        {
            self.error(node, "configs", &why);
        }
    }

    /// Whether a configuration is one by itself.
    fn quic_config(&mut self, config: &Located<QuicConfig>) -> bool {
        const KEYS: &[&str] = &["codepoint", "server_id_length", "nonce_length", "key"];
        let Some(lowered) = quic_config(config).filter(|_| self.sound(config.node, KEYS)) else {
            return false;
        };
        match QuicLb::new(&[lowered]) {
            Ok(_) => true,
            Err(why) => {
                self.error(config.node, "", &why);
                false
            }
        }
    }

    /// The ids by which connection IDs name the servers.
    fn quic_servers(&mut self, service: &Located<Service>) {
        let quic = service
            .payload_key
            .as_ref()
            .filter(|key| key.kind == KeyType::Quic);
        let sound = self.sound(service.node, &["payload_key"]);
        let mut seen = Seen::default();
        for server in service.servers.iter() {
            let node = server.node;
            match (quic, &server.quic_server_id) {
                (Some(key), Some(id)) => {
                    let wrong = key.configs.iter().find(|c| {
                        usize::from(c.server_id_length) != id.0.len()
                            && self.sound(c.node, &["server_id_length"])
                    });
                    if let Some(config) = wrong {
                        let message = format!(
                            "the id has {} bytes, but configuration {} has `server_id_length: {}`",
                            id.0.len(),
                            config.codepoint,
                            config.server_id_length
                        );
                        self.error(node, "quic_server_id", &message);
                    } else if let Some(first) =
                        self.before(&mut seen, node, &["quic_server_id"], id.clone())
                    {
                        let message = format!("the server of line {first} has this id already");
                        self.error(node, "quic_server_id", &message);
                    }
                }
                (Some(_), None) => {
                    let message = "the server has no `quic_server_id`, so clients that change their address lose \
                                   their connections to it";
                    self.warning(node, "quic_server_id", message);
                }
                (None, Some(_)) if sound => {
                    let message = "`quic_server_id` is for services with `payload_key: {type: quic, …}`; remove it";
                    self.error(node, "quic_server_id", message);
                }
                (None, _) => {}
            }
        }
    }
}
