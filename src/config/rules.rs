//! What a configuration must be beyond the types of its values: unique, consistent, possible.
//!
//! Looks only at the configuration, so that a file is judged the same everywhere; what is known of the machine is passed
//! in by whoever wants to hear of it, and only makes warnings. Runs also when
//! some values could not be decoded, and then must not complain of what follows from that: a rule that compares values
//! first asks whether they are [`Rules::sound`], a problem with a value that is not is dropped, and names are looked up
//! in the tree, not in the model.

mod sessions;
mod sync;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;

use super::decode::{Doubts, choice_message, list};
use super::located::Located;
use super::lower::tap_name;
use super::model::{
    Config, Forwarding, IpFamily, Port, Protocol, Server, Service, State, TunnelChecksum,
    TunnelType,
};
use super::problem::{Report, Severity, nearest};
use super::tree::{NodeId, ROOT, Step, Tree, join};
use super::values::{Cidr, bits, contains, network};
use crate::forward::defs::Prefix;
use crate::sched::{self, SchedError};

/// EAL arguments that Polder gives itself, and the key that decides each.
const OWN_EAL_ARGUMENTS: &[(&str, &str)] = &[
    ("-l", "dpdk.cores"),
    ("-c", "dpdk.cores"),
    ("--lcores", "dpdk.cores"),
    ("--main-lcore", "dpdk.management_core"),
    ("-m", "dpdk.memory"),
    ("--socket-mem", "dpdk.memory"),
    ("--no-huge", "dpdk.hugepages"),
];

/// EAL arguments with which it prints something and ends the process, as if all were well.
const ENDING_EAL_ARGUMENTS: &[(&str, Option<&str>)] = &[
    ("-h", None),
    ("--help", None),
    ("--log-level", Some("help")),
];

/// Ports of a configuration; DPDK is built for half as many.
const MAX_PORTS: usize = 64;
/// FTP's control port.
const FTP: u16 = 21;
/// Addresses of a port.
const MAX_ADDRESSES: usize = 256;

/// Adds to `report` all that is wrong with `config`, which was decoded from `tree`.
pub(super) fn check(config: &Config, tree: &Tree, doubts: &Doubts, report: &mut Report<'_>) {
    let known = Known::of(config);
    let mut rules = Rules {
        config,
        tree,
        doubts,
        known,
        report,
    };
    rules.dpdk();
    rules.ports();
    if config.ports.len() > MAX_PORTS
        || config
            .ports
            .iter()
            .any(|p| p.addresses.len() > MAX_ADDRESSES)
    {
        // Reported; the rest would be slow.
        return;
    }
    rules.neighbours();
    rules.routes();
    rules.marks();
    rules.services();
    rules.totals();
    rules.sync();
    rules.control();
}

/// Adds warnings of cores that are not among the machine's `cpus`.
pub(super) fn check_cores(
    config: &Config,
    tree: &Tree,
    doubts: &Doubts,
    cpus: &BTreeSet<u16>,
    report: &mut Report<'_>,
) {
    let known = Known::of(config);
    let mut rules = Rules {
        config,
        tree,
        doubts,
        known,
        report,
    };
    let dpdk = tree.child(ROOT, "dpdk");
    let workers = config.dpdk.cores.iter().map(|core| match core.node {
        Some(_) => (core.node, "", **core),
        None => (dpdk, "cores", **core),
    });
    let management = (dpdk, "management_core", config.dpdk.management_core);
    for (node, key, core) in workers
        .chain([management])
        .filter(|(_, _, c)| !cpus.contains(c))
    {
        let message =
            format!("this machine has no core {core} online; `polder run` would refuse it");
        // A default stands nowhere in a file without the section.
        let path = if node.is_some() {
            key.to_owned()
        } else {
            format!("dpdk.{key}")
        };
        rules.warning(node, &path, &message);
    }
}

/// What is wrong with an argument for EAL.
fn eal_problem(name: &str, value: Option<&str>) -> Option<String> {
    if name == "--" {
        return Some("behind `--` DPDK ignores everything".to_owned());
    }
    if let Some((_, key)) = OWN_EAL_ARGUMENTS
        .iter()
        .find(|(own, _)| is_eal_argument(name, own))
    {
        return Some(format!("Polder gives `{name}` itself; set `{key}` instead"));
    }
    let ends = |(ending, with): &&(&str, Option<&str>)| {
        is_eal_argument(name, ending) && with.is_none_or(|with| value == Some(with))
    };
    ENDING_EAL_ARGUMENTS
        .iter()
        .find(ends)
        .map(|(ending, with)| {
            let with = with.map_or_else(String::new, |with| format!("={with}"));
            format!("with `{ending}{with}` DPDK prints a help text and ends the program")
        })
}

/// Whether EAL takes `name` for `argument`: long ones may be cut short, the value of short ones may be joined to them.
fn is_eal_argument(name: &str, argument: &str) -> bool {
    if argument.starts_with("--") {
        name.len() > 2 && name.starts_with("--") && argument.starts_with(name)
    } else {
        name.starts_with(argument)
    }
}

struct Rules<'a, 'r, 't> {
    config: &'a Config,
    tree: &'a Tree,
    doubts: &'a Doubts,
    known: Known,
    report: &'r mut Report<'t>,
}

impl Rules<'_, '_, '_> {
    fn dpdk(&mut self) {
        let config = self.config;
        let Some(dpdk) = self.tree.child(ROOT, "dpdk") else {
            return;
        };
        let mut seen = Seen::default();
        for core in config.dpdk.cores.iter() {
            if let Some(line) = self.before(&mut seen, core.node, &[], **core) {
                let message = format!("core {} has a worker already, in line {line}", **core);
                self.error(core.node, "", &message);
            }
        }
        let given = self.tree.child(dpdk, "cores");
        if given.is_some_and(|list| self.tree.items(list).is_empty())
            && config.dpdk.cores.is_empty()
        {
            let message = "there must be at least one core, for one worker";
            self.error(Some(dpdk), "cores", message);
        }
        if config.dpdk.cores.len() > 64 {
            self.error(Some(dpdk), "cores", "there can be at most 64 workers");
        }
        if config
            .dpdk
            .cores
            .iter()
            .any(|c| **c == config.dpdk.management_core)
        {
            let core = config.dpdk.management_core;
            let message = format!(
                "core {core} also has a worker, which will be slowed down by the management core"
            );
            self.warning(Some(dpdk), "management_core", &message);
        }
        if !config.dpdk.memory.0.is_multiple_of(1 << 20) {
            let near = config.dpdk.memory.0 >> 20;
            let message =
                format!("the memory must be a whole number of megabytes; did you mean `{near}M`?");
            self.error(Some(dpdk), "memory", &message);
        }
        self.eal_arguments();
    }

    fn eal_arguments(&mut self) {
        let config = self.config;
        // The argument whose value may stand in the next one.
        let mut waiting = None;
        for argument in config.dpdk.eal.iter() {
            let message = if argument.starts_with('-') {
                let (name, value) = match argument.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (argument.as_str(), None),
                };
                waiting = Some(name).filter(|_| value.is_none());
                eal_problem(name, value)
            } else if let Some(name) = waiting.take() {
                eal_problem(name, Some(argument)).filter(|_| eal_problem(name, None).is_none())
            } else {
                Some(format!(
                    "`{}` is no argument of DPDK's, which begin with `-`; it would ignore this and all behind it",
                    **argument
                ))
            };
            if let Some(message) = message {
                self.error(argument.node, "", &message);
            }
        }
    }

    fn ports(&mut self) {
        let config = self.config;
        // A missing key is reported by the decoder.
        let given = self.tree.child(ROOT, "ports");
        if config.ports.is_empty() && given.is_some_and(|list| self.tree.items(list).is_empty()) {
            self.error(Some(ROOT), "ports", "there must be at least one port");
        }
        if config.ports.len() > MAX_PORTS {
            let message = format!("there can be at most {MAX_PORTS} ports");
            self.error(Some(ROOT), "ports", &message);
        }
        let (mut names, mut devices, mut taps, mut addresses) = (
            Seen::default(),
            Seen::default(),
            Seen::default(),
            Seen::default(),
        );
        for port in config.ports.iter() {
            self.name(port.node, &port.name, 32, "_.-");
            let name = port.name.as_str();
            if let Some(first) = self.before(&mut names, port.node, &["name"], name) {
                let message = format!("there is a port `{name}` in line {first} already");
                self.error(port.node, "name", &message);
            } else if port.kernel_interface {
                let tap = tap_name(name);
                if let Some(first) = self.before(&mut taps, port.node, &["name"], tap.clone()) {
                    let why = format!(
                        "its kernel interface `{tap}` (cut to the kernel's 15 characters) is the same as that of line {first}"
                    );
                    self.error(port.node, "name", &why);
                }
            }
            let device = port.device.as_str();
            if let Some(first) = self.before(&mut devices, port.node, &["device"], device) {
                let message = format!("the port of line {first} has this device already");
                self.error(port.node, "device", &message);
            }
            self.device(port);
            if port.mac.is_some_and(|m| m.0.is_group() || m.0.0 == [0; 6]) {
                let message = "the MAC address of a port must be a unicast one";
                self.error(port.node, "mac", message);
            }
            if port.addresses.len() > MAX_ADDRESSES {
                let message = format!("a port can have at most {MAX_ADDRESSES} addresses");
                self.error(port.node, "addresses", &message);
            }
            for address in port.addresses.iter() {
                self.interface_address(address);
                let addr = address.0.addr;
                if let Some(first) = self.before(&mut addresses, address.node, &[], addr) {
                    let message = format!("the address is given in line {first} already");
                    self.error(address.node, "", &message);
                }
            }
            if port.mtu < 1280 && port.addresses.iter().any(|a| a.0.addr.is_ipv6()) {
                let message = format!(
                    "{} is too small for the IPv6 addresses of the port, which need 1280",
                    port.mtu
                );
                self.error(port.node, "mtu", &message);
            }
        }
    }

    fn device(&mut self, port: &Located<Port>) {
        let device = port.device.as_str();
        if device.starts_with("net_") || is_pci(device) || is_on_bus(device) {
            return;
        }
        if device.trim() != device || device.is_empty() {
            let message = "the device must be given, without blanks around it";
            self.error(port.node, "device", message);
        } else if device.contains(':') && device.starts_with(|c: char| c.is_ascii_hexdigit()) {
            let message = format!("`{device}` is not a PCI address such as 0000:3b:00.0");
            self.error(port.node, "device", &message);
        } else if device.chars().all(|c| c.is_ascii_alphanumeric()) && device.len() < 16 {
            let message = format!(
                "`{device}` is neither a PCI address nor a DPDK vdev, which begin with net_; did you mean `net_af_packet0,iface={device}`?"
            );
            self.warning(port.node, "device", &message);
        } else {
            let message = "this is neither a PCI address nor a DPDK vdev, which begin with net_";
            self.warning(port.node, "device", message);
        }
    }

    fn interface_address(&mut self, address: &Located<Cidr>) {
        let Prefix { addr, len } = address.0;
        let what = match addr {
            _ if len == 0 => Some("on a link with every other address"),
            IpAddr::V4(a) if len < 31 && not_unicast(addr).is_none() => {
                let host = u32::MAX >> len;
                match u32::from(a) & host {
                    0 => Some("the subnet itself"),
                    h if h == host => Some("the subnet's broadcast address"),
                    _ => None,
                }
            }
            _ => not_unicast(addr),
        };
        if let Some(what) = what {
            let message = format!("{addr} is {what}, no address for a port");
            self.error(address.node, "", &message);
        }
    }

    fn neighbours(&mut self) {
        let config = self.config;
        let mut seen = Seen::default();
        for neighbour in config.neighbours.iter() {
            let (node, addr, port) = (neighbour.node, neighbour.address.0, neighbour.port.as_str());
            self.port_name(node, "port", port);
            if let Some(first) = self.before(&mut seen, node, &["port", "address"], (port, addr)) {
                let message = format!("the neighbour is given in line {first} already");
                self.error(node, "address", &message);
            }
            if let Some(what) = not_unicast(addr) {
                let message = format!("{addr} is {what}, no address of a neighbour");
                self.error(node, "address", &message);
            } else if self.is_own(addr) {
                let message = format!("{addr} is the director's own address");
                self.error(node, "address", &message);
            } else if self.off_link(port, addr) {
                let message = format!("{addr} is in none of the subnets of port `{port}`");
                self.warning(node, "address", &message);
            }
            if neighbour.mac.0.is_group() || neighbour.mac.0.0 == [0; 6] {
                let message = "the MAC address of a neighbour must be a unicast one";
                self.error(node, "mac", message);
            }
        }
    }

    fn routes(&mut self) {
        let config = self.config;
        let mut seen = Seen::default();
        for route in config.routes.iter() {
            let (node, to) = (route.node, route.to.0);
            self.port_name(node, "port", &route.port);
            let net = network(to.addr, to.len);
            if net != to.addr {
                let (given, len) = (route.to, to.len);
                let message = format!(
                    "{given} has bits behind its prefix length; did you mean `{net}/{len}`?"
                );
                self.error(node, "to", &message);
            } else if let Some(first) = self.before(&mut seen, node, &["to"], (net, to.len)) {
                let message = format!("there is a route to {} in line {first} already", route.to);
                self.error(node, "to", &message);
            }
            if let Some(via) = route.via {
                self.next_hop(node, via.0, to.addr, &route.port);
            }
        }
    }

    fn next_hop(&mut self, node: Option<NodeId>, via: IpAddr, to: IpAddr, port: &str) {
        let message = if via.is_ipv4() != to.is_ipv4() && self.sound(node, &["to"]) {
            "the next hop must be of the destination's address family".to_owned()
        } else if let Some(what) = not_unicast(via) {
            format!("{via} is {what}, no next hop")
        } else if self.is_own(via) {
            format!("{via} is the director's own address, no next hop")
        } else if self.known.virtual_addresses.contains(&via) {
            format!("{via} is a virtual address, no next hop")
        } else if !self.known.neighbours.contains(&via) && self.off_link(port, via) {
            let message = format!(
                "{via} is in none of the subnets of port `{port}`, and no static neighbour"
            );
            return self.warning(node, "via", &message);
        } else {
            return;
        };
        self.error(node, "via", &message);
    }

    fn services(&mut self) {
        let config = self.config;
        let given = self.tree.child(ROOT, "services");
        if given.is_none_or(|g| self.tree.items(g).is_empty()) && config.services.is_empty() {
            self.warning(
                Some(ROOT),
                "services",
                "there are no services: nothing will be load-balanced",
            );
        }
        let (mut names, mut keys) = (Seen::default(), Seen::default());
        for service in config.services.iter() {
            let node = service.node;
            self.identity(service);
            let name = service.name.as_deref();
            let own_name = node.is_none_or(|n| self.tree.child(n, "name").is_some());
            let (key, keys_of, what): (_, &[&str], _) = match service.mark {
                Some(_) => ("mark", &["mark", "family"], "mark and address family"),
                None => (
                    "address",
                    &["protocol", "address", "port"],
                    "protocol, address and port",
                ),
            };
            if let Some(kind) = service.kind()
                && let Some(first) = self.before(&mut keys, node, keys_of, kind)
            {
                let message = format!("the service of line {first} has this {what} already");
                self.error(node, key, &message);
            } else if (own_name || self.sound(node, keys_of))
                && let Some(name) = name
                && let Some(first) = self.before(&mut names, node, &["name"], name)
            {
                let message = format!("there is a service `{name}` in line {first} already");
                self.error(node, "name", &message);
            }
            if let Some(name) = name {
                self.name(node, name, 64, "_.:-");
            }
            if let Some(address) = service.address
                && let Some(what) = not_unicast(address.0)
            {
                let message = format!("{address} is {what}, no virtual address");
                self.error(node, "address", &message);
            }
            self.scheduler(service);
            self.sessions(service);
            self.servers(service);
        }
        self.speakers();
    }

    /// Specification §1.1: what a service is recognised by.
    fn identity(&mut self, service: &Located<Service>) {
        let node = service.node;
        let given = [
            ("protocol", service.protocol.is_some()),
            ("address", service.address.is_some()),
            ("port", service.port.is_some()),
        ];
        if service.mark.is_some() {
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                let message = format!(
                    "a service of a mark has no `{key}`: it serves what the rules of `marks` describe; \
                     remove either `{key}` or `mark`"
                );
                self.error(node, key, &message);
            }
            return;
        }
        if !self.sound(node, &["mark"]) {
            return;
        }
        for (key, _) in given.into_iter().filter(|(_, given)| !given) {
            let message = format!("`{key}` is missing from the service that starts here");
            self.error(node, key, &message);
        }
        if service.family.is_some() {
            let message =
                "`family` is for services of a mark: here the address tells the family; remove it";
            self.error(node, "family", message);
        }
        let port = sessions::mix(service).clashes().find(|c| c.key == "port");
        if let Some(clash) = port.filter(|_| self.sound(node, &["persistence"])) {
            let message = format!("{}: {}", clash.why, clash.instead);
            self.error(node, "port", &message);
        }
    }

    fn scheduler(&mut self, service: &Located<Service>) {
        let name = service.scheduler.as_str();
        if !sched::NAMES.contains(&name) {
            let message = choice_message("scheduler", name, &sched::NAMES);
            self.error(service.node, "scheduler", &message);
            return;
        }
        let check = |flags: &[String]| sched::check(name, flags, service.servers.len());
        let mut sound = true;
        for flag in service.scheduler_flags.iter() {
            if let Err(e) = check(&[(**flag).clone()]) {
                let near = match &e {
                    SchedError::UnknownFlag { flag, accepts, .. } => {
                        nearest(flag, accepts.iter().copied())
                    }
                    _ => None,
                };
                let meant = near.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
                self.error(flag.node, "", &format!("{e}{meant}"));
                sound = false;
            }
        }
        let all: Vec<String> = service
            .scheduler_flags
            .iter()
            .map(|f| (**f).clone())
            .collect();
        if sound && let Err(e) = check(&all) {
            self.error(service.node, "scheduler", &e.to_string());
        }
    }

    fn servers(&mut self, service: &Located<Service>) {
        let given = service.node.and_then(|n| self.tree.child(n, "servers"));
        if given.is_none_or(|g| self.tree.items(g).is_empty()) {
            let message = "the service has no servers: its clients will be refused";
            self.warning(service.node, "servers", message);
            return;
        }
        let (mut names, mut keys) = (Seen::default(), Seen::default());
        for server in service.servers.iter() {
            let (node, key) = (server.node, (server.address, server.port));
            let sound = self.sound(service.node, &["port"]);
            if let Some(first) = self
                .before(&mut keys, node, &["address", "port"], key)
                .filter(|_| sound)
            {
                let message =
                    format!("the server of line {first} has this address and port already");
                self.error(node, "address", &message);
            }
            if let Some(name) = server.name.as_deref() {
                if let Some(first) = self.before(&mut names, node, &["name"], name) {
                    let message =
                        format!("the service has a server `{name}` in line {first} already");
                    self.error(node, "name", &message);
                }
                self.name(node, name, 64, "_.:-");
            }
            self.server_address(service, server);
            self.server_port(service, server);
            self.ftp(service, server);
            self.tunnel(server);
            self.thresholds(server);
        }
        let idle = |s: &Located<Server>| s.weight == 0 || s.state != State::Ready;
        if !service.servers.is_empty() && service.servers.iter().all(idle) {
            let message = "no server takes new connections: each has weight 0 or is not ready";
            self.warning(service.node, "servers", message);
        }
    }

    fn server_address(&mut self, service: &Located<Service>, server: &Located<Server>) {
        let (node, addr) = (server.node, server.address.0);
        let vip = service.address.map(|a| a.0);
        if addr.is_loopback() {
            let message =
                format!("{addr} is a loopback address: packets to it never leave the director");
            self.warning(node, "address", &message);
        } else if let Some(what) = not_unicast(addr) {
            self.error(
                node,
                "address",
                &format!("{addr} is {what}, no address of a server"),
            );
        } else if matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local()) {
            let message = format!(
                "{addr} is a link-local address, of which every link has its own; give the server's global or \
                 unique local one"
            );
            self.error(node, "address", &message);
        } else if self.is_broadcast(addr) {
            let message = format!(
                "{addr} is the broadcast address of a port's subnet, no address of a server"
            );
            self.error(node, "address", &message);
        } else if Some(addr) == vip && self.sound(service.node, &["address"]) {
            let message = format!(
                "{addr} is the virtual address of this very service; a server needs its own"
            );
            self.error(node, "address", &message);
        } else if self.is_own(addr) {
            let message =
                format!("{addr} is the director's own address; servers run on other hosts");
            self.error(node, "address", &message);
        } else if self.known.virtual_addresses.contains(&addr) {
            let message = format!(
                "{addr} is a virtual address of this director, which answers for it itself; give the server's own"
            );
            self.warning(node, "address", &message);
        } else if !self.has_way(addr) {
            let message = format!("{addr} is in no subnet of a port, and no route leads to it");
            self.warning(node, "address", &message);
        }
        let sound = self.sound(service.node, &["address"]) && self.sound(node, &["forwarding"]);
        let sound = sound && self.sound(service.node, &["family"]);
        let theirs = IpFamily::of(addr);
        if let Some(ours) = service.ip_family().filter(|ours| *ours != theirs)
            && server.forwarding != Forwarding::Tunnel
            && sound
        {
            let (theirs, ours) = (theirs.title(), ours.title());
            let message =
                format!("an {theirs} server of an {ours} service needs `forwarding: tunnel`");
            self.error(node, "address", &message);
        }
    }

    /// Specification §8.3 and §10.3: neither direct routing nor a tunnel changes the port of a packet; §3.2: nor does a
    /// persistent service of more than one port.
    fn server_port(&mut self, service: &Located<Service>, server: &Located<Server>) {
        let every = service.has_every_port();
        let (Some(port), true) = (server.port, self.sound(service.node, &["port", "mark"])) else {
            return;
        };
        let method = match server.forwarding {
            Forwarding::Masq => None,
            Forwarding::Direct => Some("direct"),
            Forwarding::Tunnel => Some("tunnel"),
        };
        match (method, service.port.filter(|_| !every)) {
            (Some(method), Some(ours)) if port != ours => {
                let message = format!(
                    "`forwarding: {method}` leaves the port of a packet as it is, so {port} would never be used; \
                     did you mean `{ours}`?"
                );
                self.error(server.node, "port", &message);
            }
            (Some(method), None) if every && port != 0 => {
                let message = format!(
                    "`forwarding: {method}` leaves the port of a packet as it is, so {port} would never be used; \
                     remove it"
                );
                self.error(server.node, "port", &message);
            }
            (None, None) if every && port != 0 && service.persistence.is_some() => {
                let message = format!(
                    "a persistent service of more than one port keeps the port that a packet was sent to, \
                     so {port} is never used; remove it"
                );
                self.warning(server.node, "port", &message);
            }
            (_, Some(_)) if port == 0 => {
                let message = "0 keeps the port of a packet, which only services of a mark or of port 0 can do; \
                               give a port from 1 to 65535";
                self.error(server.node, "port", message);
            }
            _ => {}
        }
    }

    /// Specification §8.7: what LVS has a helper for.
    fn ftp(&mut self, service: &Located<Service>, server: &Located<Server>) {
        let tcp = service.protocol == Some(Protocol::Tcp);
        if tcp && service.port == Some(FTP) && server.forwarding == Forwarding::Masq {
            let message = "FTP tells the addresses of its data connections in its payload, which Polder does not rewrite: \
                           with `masq` clients would be sent to the server's own address; use `forwarding: direct` or \
                           `tunnel`, and `persistence`";
            self.warning(server.node, "forwarding", message);
        }
    }

    /// Specification §1.3 and §10.3: which options an encapsulation has.
    fn tunnel(&mut self, server: &Located<Server>) {
        let family = IpFamily::of(server.address.0);
        if server.forwarding == Forwarding::Tunnel
            && self.sound(server.node, &["address"])
            && self
                .config
                .ports
                .iter()
                .all(|p| p.addresses.iter().all(|a| IpFamily::of(a.0.addr) != family))
        {
            let family = family.title();
            let message = format!(
                "no port has an {family} address that the packets of the tunnel could come from"
            );
            self.warning(server.node, "address", &message);
        }
        let Some(tunnel) = &server.tunnel else {
            return;
        };
        if server.forwarding != Forwarding::Tunnel && self.sound(server.node, &["forwarding"]) {
            let message =
                "`tunnel` says how `forwarding: tunnel` wraps packets; set that too, or remove it";
            self.error(server.node, "tunnel", message);
        }
        let node = server.node.and_then(|node| self.tree.child(node, "tunnel"));
        if !self.sound(node, &["type"]) {
            return;
        }
        match (tunnel.kind, tunnel.port) {
            (TunnelType::Gue, None) if self.sound(node, &["port"]) => {
                let message = "`type: gue` needs the `port` that the server takes the packets on, such as 6080";
                self.error(server.node, "tunnel", message);
            }
            (TunnelType::Ipip, Some(_)) => {
                self.error(node, "port", "IPIP has no ports; did you mean `type: gue`?");
            }
            (TunnelType::Gre, Some(_)) => {
                self.error(node, "port", "GRE has no ports; did you mean `type: gue`?");
            }
            _ => {}
        }
        match (tunnel.kind, tunnel.checksum) {
            (TunnelType::Ipip, Some(_)) => {
                self.error(
                    node,
                    "checksum",
                    "IPIP has no checksum of its own; remove it",
                );
            }
            (TunnelType::Gre, Some(TunnelChecksum::Remcsum)) => {
                self.error(
                    node,
                    "checksum",
                    "`remcsum` is for `type: gue`; GRE has `none` and `csum`",
                );
            }
            _ => {}
        }
    }

    /// Specification §1.3, which also refuses a lower threshold alone.
    fn thresholds(&mut self, server: &Located<Server>) {
        let (upper, lower) = (server.upper_threshold, server.lower_threshold);
        if lower > upper && self.sound(server.node, &["upper_threshold"]) {
            let message = match upper {
                0 => format!(
                    "a lower threshold needs an upper one, `upper_threshold: {lower}` or more; give one, or remove it"
                ),
                _ => format!(
                    "{lower} is above the upper threshold, {upper}; did you mean `upper_threshold: {lower}, \
                     lower_threshold: {upper}`?"
                ),
            };
            self.error(server.node, "lower_threshold", &message);
        }
    }

    fn totals(&mut self) {
        let config = self.config;
        let services = config.services.len() as u64;
        if services > config.limits.services.0 {
            let message = format!(
                "there are {services} services, but `limits.services` is {}",
                config.limits.services
            );
            self.error(Some(ROOT), "services", &message);
        }
        let servers: u64 = config.services.iter().map(|s| s.servers.len() as u64).sum();
        if servers > config.limits.servers.0 {
            let message = format!(
                "there are {servers} servers, but `limits.servers` is {}",
                config.limits.servers
            );
            self.error(Some(ROOT), "services", &message);
        }
    }

    fn control(&mut self) {
        let (socket, node) = (
            &self.config.control.socket,
            self.tree.child(ROOT, "control"),
        );
        if !socket.starts_with('/') || socket.ends_with('/') {
            self.error(
                node,
                "socket",
                "the socket needs an absolute path, such as /run/polder/control.sock",
            );
        } else if socket.len() > 107 {
            let message = format!(
                "the path has {} bytes; the kernel allows 107 for a socket",
                socket.len()
            );
            self.error(node, "socket", &message);
        }
    }

    /// A name becomes a metric label, a word of a command and a part of an HTTP path.
    fn name(&mut self, node: Option<NodeId>, name: &str, max: usize, also: &str) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || also.contains(c);
        let message = if name.is_empty() || name.chars().count() > max {
            format!("a name has 1 to {max} characters")
        } else if let Some(bad) = name.chars().find(|c| !allowed(*c)) {
            let also: Vec<_> = also.chars().map(|c| format!("`{c}`")).collect();
            format!(
                "a name has letters, digits and {} only, no `{bad}`",
                also.join(" ")
            )
        } else if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            "a name begins with a letter or a digit".to_owned()
        } else {
            return;
        };
        self.error(node, "name", &message);
    }

    /// A reference to a port by its name.
    fn port_name(&mut self, node: Option<NodeId>, key: &str, name: &str) {
        let tree = self.tree;
        let ports = tree
            .child(ROOT, "ports")
            .map_or(&[][..], |list| tree.items(list));
        // The tree also has the names of ports that could not be made.
        let names: Vec<_> = ports
            .iter()
            .filter_map(|p| tree.text(tree.child(*p, "name")?))
            .collect();
        if names.contains(&name) {
            return;
        }
        let message = match nearest(name, names.iter().copied()) {
            None if names.is_empty() => format!("there is no port `{name}`"),
            Some(near) => format!("there is no port `{name}`; did you mean `{near}`?"),
            None if names.len() > 8 => format!("there is no port `{name}`"),
            None => format!("there is no port `{name}`, only {}", list(&names, "and")),
        };
        self.error(node, key, &message);
    }

    fn is_own(&self, addr: IpAddr) -> bool {
        self.known.own_addresses.contains(&addr)
    }

    /// Whether `addr` is the broadcast address of a subnet of a port.
    fn is_broadcast(&self, addr: IpAddr) -> bool {
        let IpAddr::V4(a) = addr else { return false };
        let subnets = self.config.ports.iter().flat_map(|p| p.addresses.iter());
        let mut around = subnets.filter(|s| s.0.len < 31 && contains(s.0, addr));
        around.any(|s| u32::from(a) | (u32::MAX << (32 - s.0.len.max(1))) == u32::MAX)
    }

    /// Whether `port` has subnets of the family of `addr`, but none that it is in.
    fn off_link(&self, port: &str, addr: IpAddr) -> bool {
        let link_local = matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local());
        let Some(port) = self.config.ports.iter().find(|p| p.name == port) else {
            return false;
        };
        let mut subnets = port
            .addresses
            .iter()
            .filter(|a| bits(a.0.addr) == bits(addr))
            .peekable();
        !link_local && subnets.peek().is_some() && !subnets.any(|a| contains(a.0, addr))
    }

    /// Whether packets can be sent to `addr` by what the file says, or may be by routes of the kernel.
    fn has_way(&self, addr: IpAddr) -> bool {
        self.config.ports.iter().any(|p| p.kernel_interface)
            || self.known.neighbours.contains(&addr)
            || self.known.subnets.contains(addr)
            // What is wrong may be the very port or route.
            || self.report.errors() > 0
    }

    /// Whether the model has what the file says of `keys` in `node`, or their defaults.
    fn sound(&self, node: Option<NodeId>, keys: &[&str]) -> bool {
        node.is_none_or(|n| {
            keys.iter()
                .all(|key| self.doubts.is_sound(self.tree, n, key))
        })
    }

    /// The line where `value`, which `node` has by its `keys`, was seen before.
    fn before<K: Eq + Hash>(
        &self,
        seen: &mut Seen<K>,
        node: Option<NodeId>,
        keys: &[&str],
        value: K,
    ) -> Option<usize> {
        let line = node.map_or(0, |n| self.tree.place(n).line);
        if self.sound(node, keys) {
            seen.before(value, line)
        } else {
            None
        }
    }

    fn error(&mut self, node: Option<NodeId>, key: &str, message: &str) {
        self.add(Severity::Error, node, key, message);
    }

    fn warning(&mut self, node: Option<NodeId>, key: &str, message: &str) {
        self.add(Severity::Warning, node, key, message);
    }

    /// Reports at the value of `key` in `node`; at the node where the key is not given, or empty. What is said of a
    /// value that was refused is dropped.
    fn add(&mut self, severity: Severity, node: Option<NodeId>, key: &str, message: &str) {
        if !key.is_empty() && !self.sound(node, &[key]) {
            return;
        }
        let node = node.unwrap_or(ROOT);
        let (at, mut path) = match self.tree.child(node, key) {
            Some(child) => (child, self.tree.path(child)),
            None => (node, self.tree.path(node)),
        };
        if at == node && !key.is_empty() {
            join(&mut path, key);
        }
        let place = match self.tree.node(at).step {
            // A list or a map is underlined at its key, where there is one.
            Step::Key(..) if self.tree.text(at).is_none() => self.tree.key_place(at),
            _ => self.tree.place(at),
        };
        self.report.add(severity, place, path, message);
    }
}

/// What the file says of addresses, for looking up.
struct Known {
    own_addresses: HashSet<IpAddr>,
    virtual_addresses: HashSet<IpAddr>,
    neighbours: HashSet<IpAddr>,
    /// On-link subnets and destinations of routes.
    subnets: Subnets,
}

impl Known {
    fn of(config: &Config) -> Self {
        let own = || {
            config
                .ports
                .iter()
                .flat_map(|p| p.addresses.iter().map(|a| a.0))
        };
        let routes = config.routes.iter().map(|r| r.to.0);
        Self {
            own_addresses: own().map(|p| p.addr).collect(),
            virtual_addresses: config
                .services
                .iter()
                .filter_map(|s| s.address.map(|a| a.0))
                .collect(),
            neighbours: config.neighbours.iter().map(|n| n.address.0).collect(),
            subnets: Subnets::of(own().chain(routes)),
        }
    }
}

/// Subnets, by length, so that a look-up costs as many steps as there are lengths.
struct Subnets {
    lengths: BTreeSet<u8>,
    subnets: HashSet<Prefix>,
}

impl Subnets {
    fn of(prefixes: impl Iterator<Item = Prefix>) -> Self {
        let subnets = prefixes.map(|p| Prefix {
            addr: network(p.addr, p.len),
            len: p.len,
        });
        let subnets: HashSet<_> = subnets.collect();
        Self {
            lengths: subnets.iter().map(|s| s.len).collect(),
            subnets,
        }
    }

    fn contains(&self, addr: IpAddr) -> bool {
        let lengths = self.lengths.iter().filter(|len| **len <= bits(addr));
        let mut around = lengths.map(|len| Prefix {
            addr: network(addr, *len),
            len: *len,
        });
        around.any(|prefix| self.subnets.contains(&prefix))
    }
}

/// Values and the lines they were first seen in.
struct Seen<K>(HashMap<K, usize>);

impl<K> Default for Seen<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Seen<K> {
    /// The line where `key` was seen before; registers it where it was not.
    fn before(&mut self, key: K, line: usize) -> Option<usize> {
        match self.0.entry(key) {
            std::collections::hash_map::Entry::Occupied(first) => Some(*first.get()),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(line);
                None
            }
        }
    }
}

/// What `addr` is where it is not one host's address.
fn not_unicast(addr: IpAddr) -> Option<&'static str> {
    match addr {
        _ if addr.is_unspecified() => Some("the unspecified address"),
        _ if addr.is_multicast() => Some("a multicast address"),
        _ if addr.is_loopback() => Some("a loopback address"),
        IpAddr::V4(a) if a.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(a) if a.octets()[0] == 0 => Some("in 0.0.0.0/8, which has no hosts"),
        IpAddr::V4(a) if a.octets()[0] >= 240 => Some("in 240.0.0.0/4, which is reserved"),
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => Some("an IPv4 address in IPv6 notation"),
        _ => None,
    }
}

/// `[domain:]bus:device.function`, in hexadecimal digits.
fn is_pci(device: &str) -> bool {
    let address = device.split(',').next().unwrap_or_default();
    let Some((bus, slot)) = address.rsplit_once(':') else {
        return false;
    };
    let (domain, bus) = bus.rsplit_once(':').unwrap_or(("0000", bus));
    let Some((slot, function)) = slot.split_once('.') else {
        return false;
    };
    let hex = |text: &str, len: std::ops::RangeInclusive<usize>| {
        len.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    hex(domain, 4..=8)
        && hex(bus, 2..=2)
        && hex(slot, 2..=2)
        && matches!(function.as_bytes(), [b'0'..=b'7'])
}

/// A device on a bus that DPDK names, such as `pci:0000:3b:00.0` or `auxiliary:mlx5_core.sf.8`.
fn is_on_bus(device: &str) -> bool {
    device.split_once(':').is_some_and(|(bus, _)| {
        matches!(
            bus,
            "pci" | "vdev" | "auxiliary" | "vmbus" | "fslmc" | "dpaa"
        )
    })
}
