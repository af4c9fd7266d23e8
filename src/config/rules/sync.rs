//! Rules of state sync: what of it can't work together.
//!
//! Looks at the file alone: whether a key file can be read and whether the kernel has an interface is seen when sync
//! starts, and told by `polder sync status`.

use std::net::IpAddr;

use super::{Rules, Seen, not_unicast};
use crate::config::located::Located;
use crate::config::lower::{sync_settings, tap_name};
use crate::config::model::{
    Forwarding, IpFamily, Server, Service, StateSync, SyncFormat, SyncRole,
};
use crate::config::problem::nearest;
use crate::config::tree::{NodeId, ROOT};
use crate::sync::settings::{INTERFACE_MAX, PEERS_MAX};

/// Keys that mean something only in the `ipvs` format.
const IPVS_KEYS: [&str; 6] = [
    "sync_version",
    "sync_threshold",
    "sync_refresh_period",
    "sync_retries",
    "sync_ports",
    "sync_persist_mode",
];

impl Rules<'_, '_, '_> {
    /// The section `sync`.
    pub(super) fn sync(&mut self) {
        let Some(node) = self.tree.child(ROOT, "sync") else {
            return;
        };
        let (config, node) = (self.config, Some(node));
        let sync = &config.sync;
        self.sync_format(node, sync);
        self.sync_paths(node, sync);
        self.sync_interface(node, sync);
        self.sync_group(node, sync);
        self.sync_peers(node, sync);
        self.sync_policy(node, sync);
        if let Some(name) = sync.name.as_deref() {
            self.name(node, name, 64, "_.-");
        }
        if sync.role != SyncRole::Off && self.sound(node, &["role", "format"]) {
            for service in config.services.iter() {
                for server in service.servers.iter() {
                    self.sync_family(sync.format, service, server);
                }
            }
        }
    }

    fn is_given(&self, node: Option<NodeId>, key: &str) -> bool {
        node.is_some_and(|n| self.tree.child(n, key).is_some())
    }

    /// Keys that the format does not have, and those that it needs.
    fn sync_format(&mut self, node: Option<NodeId>, sync: &StateSync) {
        if !self.sound(node, &["format"]) {
            return;
        }
        if sync.format == SyncFormat::Polder {
            for key in IPVS_KEYS {
                if self.is_given(node, key) {
                    let message = format!(
                        "`{key}` is for `format: ipvs`; the polder format tells of every entry, and has one channel: \
                         remove it"
                    );
                    self.warning(node, key, &message);
                }
            }
            let runs = sync.role != SyncRole::Off && self.sound(node, &["role"]);
            if runs && sync.key_file.is_none() {
                let message = "`format: polder` needs a `key_file`, by which directors know each other, such as \
                               /etc/polder/sync.key with the line `1 ` and what `openssl rand -hex 32` prints";
                self.error(node, "key_file", message);
            }
            return;
        }
        if sync.key_file.is_some() {
            let message = "messages of `format: ipvs` are not authenticated, so that a `key_file` would protect \
                           nothing: remove it, or set `format: polder`";
            self.error(node, "key_file", message);
        }
        if sync.encrypt == Some(true) {
            let message = "messages of `format: ipvs` can't be encrypted: remove `encrypt`, or set `format: polder`";
            self.error(node, "encrypt", message);
        }
        if self.is_given(node, "interval") {
            let message = "`interval` is for `format: polder`; with `format: ipvs` packets cause messages: remove it";
            self.warning(node, "interval", message);
        }
        let ready = node.and_then(|n| self.tree.child(n, "ready"));
        if self.is_given(ready, "coverage") {
            let message = "`coverage` is for `format: polder`; with `format: ipvs` nobody can tell what a peer has: \
                           remove it";
            self.warning(ready, "coverage", message);
        }
        let v6 = |s: &&Located<Service>| s.ip_family() == Some(IpFamily::Ipv6);
        if sync.sync_version == Some(0) && self.config.services.iter().any(|s| v6(&s)) {
            let message = "version 0 has no IPv6: connections of IPv6 services are not told of; did you mean `1`?";
            self.warning(node, "sync_version", message);
        }
    }

    fn sync_paths(&mut self, node: Option<NodeId>, sync: &StateSync) {
        let ready = node.and_then(|n| self.tree.child(n, "ready"));
        let files = [
            (node, "key_file", sync.key_file.as_deref()),
            (ready, "file", sync.ready.file.as_deref()),
        ];
        for (at, key, path) in files {
            if path.is_some_and(|p| !p.starts_with('/') || p.ends_with('/')) {
                let message = "the file needs an absolute path, such as /run/polder/ready";
                self.error(at, key, message);
            }
        }
        if sync.key_file.is_some() && sync.key_file == sync.ready.file {
            let message = "this is the key file, which would be overwritten; give another path";
            self.error(ready, "file", message);
        }
    }

    fn sync_interface(&mut self, node: Option<NodeId>, sync: &StateSync) {
        let Some(name) = sync.interface.as_deref() else {
            return;
        };
        let ports = &self.config.ports;
        if let Some(port) = ports.iter().find(|p| p.name == name) {
            if !port.kernel_interface && self.sound(port.node, &["kernel_interface"]) {
                let message = format!(
                    "port `{name}` has no kernel interface that messages could go by: set its \
                     `kernel_interface: true`, or name another interface"
                );
                self.error(node, "interface", &message);
            }
            return;
        }
        let names = || ports.iter().map(|p| p.name.as_str());
        let taps: Vec<String> = ports
            .iter()
            .filter(|p| p.kernel_interface)
            .map(|p| tap_name(&p.name))
            .collect();
        let whose = |p: &&Located<super::Port>| {
            let mut words = p.device.split(',').map(str::trim);
            words.any(|w| w.strip_prefix("iface=") == Some(name))
        };
        let message = if name.is_empty() {
            "the interface has no name".to_owned()
        } else if name.chars().count() > INTERFACE_MAX {
            let hint = nearest(name, names());
            let hint = hint.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            format!("the kernel's interfaces have names of up to {INTERFACE_MAX} characters{hint}")
        } else if matches!(name, "." | "..")
            || name.contains(|c: char| c.is_whitespace() || c == '/' || c == ':')
        {
            format!("`{name}` can't be the name of an interface")
        } else if name.starts_with("polder-") && !taps.iter().any(|t| t == name) {
            let hint = nearest(name, taps.iter().map(String::as_str));
            let hint = hint.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            format!("no port has the kernel interface `{name}`{hint}")
        } else if let Some(port) = ports.iter().find(whose) {
            let message = format!(
                "`{name}` is the device of a port: its frames are Polder's, not the kernel's; did you mean `{}`?",
                port.name
            );
            return self.warning(node, "interface", &message);
        } else {
            return;
        };
        self.error(node, "interface", &message);
    }

    fn sync_group(&mut self, node: Option<NodeId>, sync: &StateSync) {
        let has_peers = self.is_given(node, "peers");
        if has_peers && self.is_given(node, "group") {
            let message =
                "messages go to the `group` or to each of `peers`, not to both: remove one of them";
            self.error(node, "group", message);
            return;
        }
        let Some(group) = sync.group else { return };
        let addr = group.0.ip();
        if !addr.is_multicast() {
            let message = format!(
                "{addr} is no multicast address, as that of a group is; directors are given one by one as \
                 `peers: [{group}]`"
            );
            self.error(node, "group", &message);
            return;
        }
        let ports = u32::from(sync.sync_ports.unwrap_or(1));
        if u32::from(group.0.port()) + ports - 1 > u32::from(u16::MAX)
            && self.sound(node, &["sync_ports"])
        {
            let message = format!(
                "there are not {ports} ports, as `sync_ports` says, from {} on",
                group.0.port()
            );
            self.error(node, "group", &message);
        }
        if sync.interface.is_some() || has_peers || !self.sound(node, &["interface", "group"]) {
            return;
        }
        if addr.is_ipv6() {
            let message =
                "an IPv6 group needs an `interface`, since it is another one on each link";
            self.error(node, "interface", message);
        } else if sync.role != SyncRole::Off {
            let message = format!(
                "without `interface` messages to {addr} leave by whatever interface the kernel's default route has"
            );
            self.warning(node, "interface", &message);
        }
    }

    fn sync_peers(&mut self, node: Option<NodeId>, sync: &StateSync) {
        let list = node.and_then(|n| self.tree.child(n, "peers"));
        if list.is_some_and(|l| self.tree.items(l).is_empty()) {
            let message =
                "there must be at least one peer; without `peers` messages go to the group";
            self.error(node, "peers", message);
        }
        if sync.peers.len() > PEERS_MAX {
            let message = format!("there can be at most {PEERS_MAX} peers; use a `group`");
            self.error(node, "peers", &message);
            return;
        }
        let mut seen = Seen::default();
        let first = sync.peers.first().map(|p| p.0);
        for peer in sync.peers.iter() {
            let (addr, port) = (peer.0.ip(), peer.0.port());
            let link_local = matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local());
            let message = if let Some(line) = self.before(&mut seen, peer.node, &[], addr) {
                format!("the peer is given in line {line} already")
            } else if addr.is_multicast() {
                format!("{addr} is a multicast address; give it as `group`")
            } else if let Some(what) = not_unicast(addr).filter(|_| !addr.is_loopback()) {
                format!("{addr} is {what}, no address of a peer")
            } else if self.is_own(addr) {
                format!("{addr} is this director's own address; peers are the others")
            } else if first.is_some_and(|f| f.is_ipv4() != addr.is_ipv4()) {
                "all peers must be of one address family".to_owned()
            } else if let Some(port) = first.map(|f| f.port()).filter(|p| *p != port) {
                format!(
                    "all peers must have one port, on which this director listens, too; did you mean `{}`?",
                    std::net::SocketAddr::new(addr, port)
                )
            } else if link_local && sync.interface.is_none() && self.sound(node, &["interface"]) {
                format!("{addr} is another host on each link; give the `interface`, too")
            } else {
                continue;
            };
            self.error(peer.node, "", &message);
        }
    }

    /// Specification §2.9: what the sysctls can't be.
    fn sync_policy(&mut self, node: Option<NodeId>, sync: &StateSync) {
        if let Some(ports) = sync.sync_ports.filter(|n| !n.is_power_of_two()) {
            let near = ports.next_power_of_two();
            let message = format!("{ports} is no power of two; did you mean `{near}`?");
            self.error(node, "sync_ports", &message);
        }
        let numbers: Vec<u32> = sync.sync_threshold.iter().map(|n| **n).collect();
        let given = node.and_then(|n| self.tree.child(n, "sync_threshold"));
        // What was refused of the list is not in it.
        let whole = given.is_some_and(|g| self.tree.items(g).len() == numbers.len());
        if !whole {
            return;
        }
        let [threshold, period] = numbers[..] else {
            let message = "the threshold is two numbers, packets before the first record and between two: [3, 50]";
            self.error(node, "sync_threshold", message);
            return;
        };
        let policy = sync_settings(sync, &self.config.ports).policy;
        if let Err(why) = policy.check()
            && period != 0
            && threshold >= period
        {
            let hint = match threshold == period {
                true => String::new(),
                false => format!("; did you mean `[{period}, {threshold}]`?"),
            };
            self.error(node, "sync_threshold", &format!("{why}{hint}"));
        }
    }

    /// Specification §9.1: neither format has entries with two address families.
    fn sync_family(
        &mut self,
        format: SyncFormat,
        service: &Located<Service>,
        server: &Located<Server>,
    ) {
        let theirs = IpFamily::of(server.address.0);
        let sound = self.sound(server.node, &["address", "forwarding"])
            && self.sound(service.node, &["address", "family"]);
        let Some(ours) = service.ip_family().filter(|ours| *ours != theirs && sound) else {
            return;
        };
        if server.forwarding != Forwarding::Tunnel {
            // Reported with the server.
            return;
        }
        let (theirs, ours) = (theirs.title(), ours.title());
        if format == SyncFormat::Ipvs {
            let message = format!(
                "with `sync.format: ipvs` an {ours} service can't have an {theirs} server, since no message has room \
                 for both families"
            );
            self.error(server.node, "address", &message);
        } else {
            let message = format!(
                "state sync can't tell of an {ours} service's connections to an {theirs} server: they end with \
                 this director"
            );
            self.warning(server.node, "address", &message);
        }
    }
}
