//! What a reload does, worked out without doing it: which run-time settings survive, what changed, and what can't
//! change without a restart.
//!
//! Pure functions of set-ups. Services are the same when they are recognised by the same thing, servers when they
//! have the same address and port in the same service: as the registry has it, which keeps their state.

use std::collections::BTreeMap;

use super::api::{Change, Changes, Reloaded};
use super::{ipvs, names, sessions, timeouts};
use crate::config::values::Period;
use crate::forward::{DestDef, PortDef, ServiceDef, Setup};

/// Values of the file that only a restart can change, by their path in it (`dpdk.cores`), as text.
pub type Fixed = BTreeMap<String, String>;

/// Everything that differs between the running appliance and `new` and needs a restart, a sentence each.
#[must_use]
pub fn restart_needed(
    running: &[PortDef],
    running_fixed: &Fixed,
    new: &[PortDef],
    new_fixed: &Fixed,
) -> Vec<String> {
    let mut out = ports_changed(running, new);
    for key in running_fixed
        .keys()
        .chain(new_fixed.keys().filter(|k| !running_fixed.contains_key(*k)))
    {
        let (old, new) = (running_fixed.get(key), new_fixed.get(key));
        if old != new {
            out.push(needs_restart(
                key,
                old.map_or("unset", String::as_str),
                new.map_or("unset", String::as_str),
            ));
        }
    }
    out
}

fn needs_restart(what: &str, old: &str, new: &str) -> String {
    format!("`{what}` can't be changed by a reload ({old} -> {new}): restart polder for it")
}

fn ports_changed(running: &[PortDef], new: &[PortDef]) -> Vec<String> {
    let names = |ports: &[PortDef]| {
        ports
            .iter()
            .map(|p| p.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    if running.len() != new.len() || running.iter().zip(new).any(|(a, b)| a.name != b.name) {
        return vec![needs_restart("ports", &names(running), &names(new))];
    }
    running
        .iter()
        .zip(new)
        .flat_map(|(a, b)| port_changed(a, b))
        .collect()
}

fn port_changed(a: &PortDef, b: &PortDef) -> Vec<String> {
    let mac = |p: &PortDef| {
        p.mac
            .map_or_else(|| "the device's".to_owned(), |m| m.to_string())
    };
    let addresses = |p: &PortDef| {
        let list: Vec<String> = p
            .addresses
            .iter()
            .map(|a| format!("{}/{}", a.addr, a.len))
            .collect();
        format!("[{}]", list.join(", "))
    };
    let fields = [
        ("device", a.device.clone(), b.device.clone()),
        ("addresses", addresses(a), addresses(b)),
        ("mac", mac(a), mac(b)),
        ("mtu", a.mtu.to_string(), b.mtu.to_string()),
        (
            "kernel_interface",
            a.kernel_interface.to_string(),
            b.kernel_interface.to_string(),
        ),
    ];
    let mut out: Vec<String> = fields
        .into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(field, old, new)| needs_restart(&format!("ports.{}.{field}", a.name), &old, &new))
        .collect();
    if out.is_empty() && a != b {
        // A field that this list does not know by name: refused all the same.
        out.push(format!(
            "port `{}` can't be changed by a reload: restart polder for it",
            a.name
        ));
    }
    out
}

/// Names and keys that must be unique but are not, a sentence each.
#[must_use]
pub fn duplicates(setup: &Setup) -> Vec<String> {
    let mut out = Vec::new();
    for (i, s) in setup.services.iter().enumerate() {
        for other in &setup.services[..i] {
            if other.name == s.name {
                out.push(format!("there are two services named `{}`", s.name));
            }
            if other.kind == s.kind {
                let (protocol, address) = names::service_key(&s.kind);
                out.push(format!(
                    "services `{}` and `{}` are both {protocol} {address}",
                    other.name, s.name
                ));
            }
        }
        for (j, d) in s.servers.iter().enumerate() {
            let clash = |o: &&DestDef| o.label() == d.label() || key(o) == key(d);
            if let Some(other) = s.servers[..j].iter().find(clash) {
                out.push(format!(
                    "service `{}` has `{}` and `{}`: names, and addresses with ports, must differ",
                    s.name,
                    other.label(),
                    d.label()
                ));
            }
        }
    }
    out
}

fn key(d: &DestDef) -> (std::net::IpAddr, u16) {
    (d.addr, d.port)
}

/// The service of `setup` that is the same as `like`.
#[must_use]
pub fn same_service<'a>(setup: &'a Setup, like: &ServiceDef) -> Option<&'a ServiceDef> {
    setup.services.iter().find(|s| s.kind == like.kind)
}

/// The server of `service` that is the same as `like`.
#[must_use]
pub fn same_server<'a>(service: &'a ServiceDef, like: &DestDef) -> Option<&'a DestDef> {
    service.servers.iter().find(|d| key(d) == key(like))
}

/// `new` with the run-time settings of services and servers for which the file says the same as it did (`file`).
///
/// A reload for the sake of one service must not undo a drain in another; where the file itself changed, it wins.
#[must_use]
pub fn keep_overrides(file: &Setup, running: &Setup, new: &Setup) -> (Setup, Vec<String>) {
    let mut out = new.clone();
    let mut kept = ipvs::keep(file, running, &mut out);
    for s in &mut out.services {
        let (Some(before), Some(now)) = (same_service(file, s), same_service(running, s)) else {
            continue;
        };
        kept.extend(sessions::keep(s, before, now));
        for d in &mut s.servers {
            let (Some(before), Some(now)) = (same_server(before, d), same_server(now, d)) else {
                continue;
            };
            if d.weight == before.weight && now.weight != d.weight {
                kept.push(format!(
                    "{}/{} keeps weight {} that was set at run time (the file says {})",
                    s.name,
                    d.label(),
                    now.weight,
                    d.weight
                ));
                d.weight = now.weight;
            }
            if d.admin == before.admin && now.admin != d.admin {
                kept.push(format!(
                    "{}/{} keeps state {} that was set at run time (the file says {})",
                    s.name,
                    d.label(),
                    names::admin(now.admin),
                    names::admin(d.admin)
                ));
                d.admin = now.admin;
            }
            // Both or neither: one of the file's and one of run time may contradict each other.
            let thresholds = |d: &DestDef| (d.upper_threshold, d.lower_threshold);
            if thresholds(d) == thresholds(before) && thresholds(now) != thresholds(d) {
                kept.push(format!(
                    "{}/{} keeps thresholds {}/{} that were set at run time (the file says {}/{})",
                    s.name,
                    d.label(),
                    now.upper_threshold,
                    now.lower_threshold,
                    d.upper_threshold,
                    d.lower_threshold
                ));
                (d.upper_threshold, d.lower_threshold) = thresholds(now);
            }
        }
    }
    (out, kept)
}

/// What was done at run time and is not so in `new`, a sentence each: services and servers that came or went, schedulers,
/// forwarding, timeouts. `file` is what the file said before.
#[must_use]
pub fn taken_back(file: &Setup, running: &Setup, new: &Setup) -> Vec<String> {
    let mut out = Vec::new();
    for s in &running.services {
        match (same_service(file, s), same_service(new, s)) {
            (None, None) => out.push(format!(
                "service {} that was added at run time is removed",
                names::service(s)
            )),
            (Some(before), Some(now)) => service_taken_back(before, s, now, &mut out),
            _ => {}
        }
    }
    for s in &new.services {
        if same_service(running, s).is_none() && same_service(file, s).is_some() {
            let name = names::service(s);
            out.push(format!(
                "service {name} that was deleted at run time is back"
            ));
        }
    }
    for (name, get, _) in timeouts::ALL {
        let of = |setup: &Setup| get(&setup.timeouts);
        if of(running) != of(file) && of(new) != of(running) {
            out.push(format!(
                "timeouts.{name} is {} again, no longer {} that was set at run time",
                Period(of(new)),
                Period(of(running))
            ));
        }
    }
    out
}

fn service_taken_back(
    file: &ServiceDef,
    running: &ServiceDef,
    new: &ServiceDef,
    out: &mut Vec<String>,
) {
    let scheduler = sessions::describe_scheduler;
    let (was, is) = (scheduler(running), scheduler(new));
    if was != scheduler(file) && was != is {
        out.push(format!(
            "{} has scheduler {is} again, no longer {was} that was set at run time",
            new.name
        ));
    }
    let name = |d: &DestDef| format!("{}/{}", new.name, d.label());
    for d in &running.servers {
        match (same_server(file, d), same_server(new, d)) {
            (None, None) => out.push(format!(
                "server {} that was added at run time is removed",
                name(d)
            )),
            (Some(before), Some(now)) => {
                let forwarding = names::forwarding;
                let (was, is) = (forwarding(d), forwarding(now));
                if was != forwarding(before) && was != is {
                    out.push(format!(
                        "{} has forwarding {is} again, no longer {was} that was set at run time",
                        name(now)
                    ));
                }
            }
            _ => {}
        }
    }
    for d in &new.servers {
        if same_server(running, d).is_none() && same_server(file, d).is_some() {
            out.push(format!(
                "server {} that was deleted at run time is back",
                name(d)
            ));
        }
    }
}

/// What differs between two set-ups.
#[must_use]
pub fn report(old: &Setup, new: &Setup) -> Reloaded {
    let mut out = Reloaded::default();
    for s in &old.services {
        if same_service(new, s).is_none() {
            out.services.removed.push(names::service(s));
        }
    }
    for s in &new.services {
        match same_service(old, s) {
            None => out.services.added.push(names::service(s)),
            Some(before) => {
                service_changed(before, s, &mut out.services);
                servers_changed(before, s, &mut out.servers);
            }
        }
    }
    let others = [
        ("routes", old.routes != new.routes),
        ("neighbours", old.neighbours != new.neighbours),
        ("timeouts", old.timeouts != new.timeouts),
        ("marks", old.marks != new.marks),
        ("ipvs", ipvs::differ(old, new)),
    ];
    out.other = others
        .into_iter()
        .filter(|(_, changed)| *changed)
        .map(|(name, _)| name.to_owned())
        .collect();
    out.changed = old != new;
    out
}

fn service_changed(a: &ServiceDef, b: &ServiceDef, out: &mut Changes) {
    let mut what = Vec::new();
    differs(&mut what, "name", &a.name, &b.name);
    differs(&mut what, "scheduler", &a.scheduler, &b.scheduler);
    differs(&mut what, "flags", &a.flags.join(","), &b.flags.join(","));
    let persistence = |s: &ServiceDef| sessions::describe(s.persistence.as_ref());
    differs(&mut what, "persistence", &persistence(a), &persistence(b));
    differs(&mut what, "one_packet", &a.one_packet, &b.one_packet);
    differs(
        &mut what,
        "new_connections_per_second",
        &a.new_connections_per_second,
        &b.new_connections_per_second,
    );
    let but_servers = |s: &ServiceDef| ServiceDef {
        servers: Vec::new(),
        ..s.clone()
    };
    if what.is_empty() && but_servers(a) != but_servers(b) {
        what.push("settings".to_owned());
    }
    let order = |a: &ServiceDef, b: &ServiceDef| -> Vec<_> {
        let kept = |d: &&DestDef| same_server(b, d).is_some();
        a.servers.iter().filter(kept).map(key).collect()
    };
    if order(a, b) != order(b, a) {
        what.push("order of servers".to_owned());
    }
    push_change(out, b.name.clone(), what);
}

fn servers_changed(a: &ServiceDef, b: &ServiceDef, out: &mut Changes) {
    let name = |d: &DestDef| format!("{}/{}", b.name, d.label());
    for d in &a.servers {
        if same_server(b, d).is_none() {
            out.removed.push(name(d));
        }
    }
    for d in &b.servers {
        match same_server(a, d) {
            None => out.added.push(name(d)),
            Some(before) => push_change(out, name(d), server_changed(before, d)),
        }
    }
}

fn server_changed(a: &DestDef, b: &DestDef) -> Vec<String> {
    let mut what = Vec::new();
    differs(&mut what, "name", &a.label(), &b.label());
    differs(&mut what, "weight", &a.weight, &b.weight);
    let forwarding = names::forwarding;
    differs(&mut what, "forwarding", &forwarding(a), &forwarding(b));
    differs(
        &mut what,
        "upper_threshold",
        &a.upper_threshold,
        &b.upper_threshold,
    );
    differs(
        &mut what,
        "lower_threshold",
        &a.lower_threshold,
        &b.lower_threshold,
    );
    let admin = names::admin;
    differs(&mut what, "state", &admin(a.admin), &admin(b.admin));
    if what.is_empty() && a != b {
        what.push("settings".to_owned());
    }
    what
}

fn differs<T: PartialEq + std::fmt::Display>(out: &mut Vec<String>, what: &str, a: &T, b: &T) {
    if a != b {
        out.push(format!("{what} {a} -> {b}"));
    }
}

fn push_change(out: &mut Changes, name: String, what: Vec<String>) {
    if !what.is_empty() {
        out.changed.push(Change { name, what });
    }
}
