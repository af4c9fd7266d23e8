//! Tables for people. Services, servers and connections in the shapes of ipvsadm (specification §10.5).

use std::fmt::Write as _;

use crate::mgmt::api;

/// Lines joined; nothing is written to a string that could fail.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {{ let _ = writeln!($out, $($arg)*); }};
}

/// Services as `ipvsadm -Ln` lists them, and where there are tunnels as with `--tun-info`; each with its name, each server
/// with its state and, where it has one, its name.
#[must_use]
pub fn services(services: &[api::Service]) -> String {
    let mut out = String::new();
    line!(out, "Prot LocalAddress:Port Scheduler Flags");
    let tunnels = services
        .iter()
        .flat_map(|s| &s.servers)
        .any(|d| d.tunnel.is_some());
    let tunnel = |info: &str| match tunnels {
        true => format!("{info:<13} "),
        false => String::new(),
    };
    line!(
        out,
        "  -> {:<28} Forward {}Weight ActiveConn InActConn  State       Name",
        "RemoteAddress:Port",
        tunnel("TunnelInfo")
    );
    for s in services {
        line!(
            out,
            "{} {}{} name {}",
            local_address(s),
            s.scheduler,
            flags(s),
            s.name
        );
        for d in &s.servers {
            let name = if d.name == d.address { "" } else { &d.name };
            let row = format!(
                "  -> {:<28} {:<7} {}{:<6} {:<10} {:<10} {:<11} {name}",
                d.address,
                method(&d.forwarding),
                tunnel(d.tunnel.as_deref().unwrap_or("n/a")),
                d.effective_weight,
                d.active,
                d.inactive,
                state(d)
            );
            line!(out, "{}", row.trim_end());
        }
    }
    out
}

/// Services and servers as `ipvsadm -Ln --stats` lists them, from the last `ipvsadm -Z` on, each with its templates and its
/// name.
#[must_use]
pub fn servers(services: &[api::Service]) -> String {
    let mut out = String::new();
    line!(
        out,
        "{:<33} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}  Name",
        "Prot LocalAddress:Port",
        "Conns",
        "InPkts",
        "OutPkts",
        "InBytes",
        "OutBytes",
        "PersConn"
    );
    line!(out, "  -> RemoteAddress:Port");
    let numbers = |c: api::Counts, templates: u64| {
        let counts = [
            c.connections,
            c.packets_in,
            c.packets_out,
            c.bytes_in,
            c.bytes_out,
            templates,
        ];
        counts.map(scaled).concat()
    };
    for s in services {
        let counts = numbers(s.since_zero(), s.templates);
        line!(out, "{:<33}{counts}  {}", local_address(s), s.name);
        for d in &s.servers {
            let counts = numbers(d.since_zero(), u64::from(d.persistent));
            line!(out, "  -> {:<28}{counts}  {}", d.address, d.name);
        }
    }
    out
}

fn local_address(s: &api::Service) -> String {
    if s.protocol == "mark" {
        let family = if s.family == "ipv6" { " IPv6" } else { "" };
        return format!("FWM  {}{family}", s.address);
    }
    format!("{:<4} {}", s.protocol.to_uppercase(), s.address)
}

/// What stands behind the scheduler: first what ipvsadm shows, in its order and words, then what is Polder's.
fn flags(s: &api::Service) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let mut add = |text: std::fmt::Arguments<'_>| {
        let _ = out.write_fmt(text);
    };
    if !s.flags.is_empty() {
        add(format_args!(" ({})", s.flags.join(",")));
    }
    if let Some(p) = &s.persistence {
        add(format_args!(" persistent {}", p.timeout_s));
        if !["255.255.255.255", "128"].contains(&p.netmask.as_str()) {
            add(format_args!(" mask {}", p.netmask));
        }
        if let Some(engine) = &p.engine {
            add(format_args!(" pe {engine}"));
        }
    }
    if s.one_packet {
        add(format_args!(" ops"));
    }
    if let Some(field) = s.persistence.as_ref().and_then(|p| p.field.as_ref()) {
        add(format_args!(" field ({field})"));
    }
    if let Some(key) = &s.payload_key {
        add(format_args!(" payload_key ({key})"));
    }
    if let Some(what) = &s.on_server_down {
        add(format_args!(" on_server_down {what}"));
    }
    if s.templates > 0 || s.persistence.is_some() || s.payload_key.is_some() {
        add(format_args!(" templates {}", s.templates));
    }
    out
}

fn method(forwarding: &str) -> &str {
    match forwarding {
        "masq" => "Masq",
        "tunnel" => "Tunnel",
        "direct" => "Route",
        other => other,
    }
}

fn state(d: &api::Server) -> &str {
    if d.removed {
        "removed"
    } else if d.state != "ready" {
        &d.state
    } else if !d.up {
        "down"
    } else if d.overloaded {
        "overloaded"
    } else {
        "ready"
    }
}

/// A number in ipvsadm's scaled format, nine columns wide.
#[must_use]
pub fn scaled(n: u64) -> String {
    const POWER: [u64; 5] = [1, 1_000, 1_000_000, 1_000_000_000, 1_000_000_000_000];
    match n {
        0..=99_999_999 => format!("{n:9}"),
        100_000_000..=999_999_999 => format!("{:8}K", n / POWER[1]),
        1_000_000_000..=99_999_999_999 => format!("{:8}M", n / POWER[2]),
        100_000_000_000..=99_999_999_999_999 => format!("{:8}G", n / POWER[3]),
        _ => format!("{:8}T", n / POWER[4]),
    }
}

/// The header of a listing of connections, as `ipvsadm -Lcn` has it; with the columns of persistence engines as
/// `--persistent-conn` adds them.
#[must_use]
pub fn connections_header(persistent: bool) -> String {
    let mut out = String::from("IPVS connection entries\n");
    let header = format!(
        "{:<3} {:<6} {:<11} {:<18} {:<18} ",
        "pro", "expire", "state", "source", "virtual"
    );
    if persistent {
        line!(
            out,
            "{header}{:<18} {:<16} pe_data",
            "destination",
            "pe name"
        );
    } else {
        line!(out, "{header}destination");
    }
    out
}

/// A connection's line, as `ipvsadm -Lcn` has it.
#[must_use]
pub fn connection(c: &api::Connection) -> String {
    format!(
        "{:<3} {:<6} {:<11} {:<18} {:<18} {}\n",
        c.protocol,
        expire(c.expires_s),
        c.state,
        c.client,
        c.virtual_,
        c.destination
    )
}

/// A template's line, as `ipvsadm -Lcn --persistent-conn` has it: behind the destination the engine's name and what it
/// shows of the key, where there is one. The widths are ipvsadm's, which are not those of its header (specification
/// §10.5).
#[must_use]
pub fn template(t: &api::Template) -> String {
    let start = format!(
        "{:<3} {:<6} {:<11} {:<18} {:<18}",
        t.protocol,
        expire(t.expires_s),
        t.state,
        t.client,
        t.virtual_
    );
    match &t.data {
        Some(data) => {
            let engine = t.engine.as_deref().unwrap_or("-");
            format!("{start} {:<16} {engine:<18} {data}\n", t.destination)
        }
        None => format!("{start} {}\n", t.destination),
    }
}

/// Minutes and whole seconds, as the kernel has them.
fn expire(seconds: f64) -> String {
    let left = seconds.max(0.0) as u64;
    format!("{:02}:{:02}", left / 60, left % 60)
}

/// Neighbours.
#[must_use]
pub fn neighbours(neighbours: &[api::Neighbour]) -> String {
    let rows = neighbours.iter().map(|n| {
        vec![
            n.port.clone(),
            n.address.clone(),
            n.mac.clone().unwrap_or_else(|| "-".to_owned()),
            n.origin.clone(),
        ]
    });
    columns(&["Port", "Address", "MAC", "Origin"], rows.collect())
}

/// Workers.
#[must_use]
pub fn workers(w: &api::Workers) -> String {
    let rows = w.workers.iter().map(|w| {
        vec![
            w.worker.to_string(),
            w.core.map_or_else(|| "-".to_owned(), |c| c.to_string()),
            w.state.clone(),
            format!("{:.1}%", w.busy_ratio * 100.0),
            w.connections.to_string(),
            w.received.to_string(),
            w.transmitted.to_string(),
            w.punted.to_string(),
            w.dropped.to_string(),
            w.held.to_string(),
            w.handed_out.to_string(),
            w.handed_in.to_string(),
        ]
    });
    let header = [
        "Worker",
        "Core",
        "State",
        "Busy",
        "Conns",
        "Received",
        "Transmitted",
        "Punted",
        "Dropped",
        "Held",
        "HandedOut",
        "HandedIn",
    ];
    let mut out = columns(&header, rows.collect());
    let connections: u64 = w.workers.iter().map(|w| w.connections).sum();
    line!(
        out,
        "{connections} of {} connections, {} of {} templates, configuration generation {}",
        w.connections_capacity,
        w.templates,
        w.templates_capacity,
        w.generation
    );
    out
}

/// Ports.
#[must_use]
pub fn ports(ports: &[api::PortStatus]) -> String {
    let rows = ports.iter().map(|p| {
        vec![
            p.name.clone(),
            p.device.clone(),
            p.mac.clone(),
            if p.link_up { "up" } else { "down" }.to_owned(),
            match p.speed_mbps {
                0 => "-".to_owned(),
                n => format!("{n}M"),
            },
            p.mtu.to_string(),
            p.rx_packets.to_string(),
            p.rx_bytes.to_string(),
            p.rx_missed.to_string(),
            p.tx_packets.to_string(),
            p.tx_bytes.to_string(),
            p.tx_dropped.to_string(),
        ]
    });
    let header = [
        "Port",
        "Device",
        "MAC",
        "Link",
        "Speed",
        "MTU",
        "RxPkts",
        "RxBytes",
        "RxMissed",
        "TxPkts",
        "TxBytes",
        "TxDropped",
    ];
    columns(&header, rows.collect())
}

/// Drops; those that never happened only with `all`.
#[must_use]
pub fn drops(drops: &[api::Drop], all: bool) -> String {
    let rows: Vec<_> = drops
        .iter()
        .filter(|d| all || d.packets > 0)
        .map(|d| vec![d.reason.clone(), d.packets.to_string(), d.help.clone()])
        .collect();
    if rows.is_empty() {
        return "No packet was dropped.\n".to_owned();
    }
    columns(&["Reason", "Packets", "Meaning"], rows)
}

/// Settings that LVS has as sysctls, then what the defences do.
#[must_use]
pub fn ipvs(ipvs: &api::Ipvs) -> String {
    let row = |s: &api::IpvsSetting| {
        let active = match s.active {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        let set = if s.overridden { "set at run time" } else { "" };
        let row = [s.name.as_str(), &s.value.to_string(), active, set];
        row.map(str::to_owned).to_vec()
    };
    let rows = ipvs.settings.iter().map(row).collect();
    let mut out = columns(&["Name", "Value", "Active", ""], rows);
    line!(out, "");
    line!(out, "Free entries         {}", ipvs.free_entries);
    match ipvs.drop_rate {
        0 => line!(out, "Packets dropped      none"),
        rate => line!(out, "Packets dropped      1 in {rate} that need a server"),
    }
    line!(out, "Connections dropped  {}", ipvs.dropped_connections);
    line!(out, "Templates dropped    {}", ipvs.dropped_templates);
    out
}

/// State sync daemons as `ipvsadm -L --daemon` lists them: what is empty or zero is left out (specification §10.5).
#[must_use]
pub fn daemons(daemons: &[api::SyncDaemon]) -> String {
    let mut out = String::new();
    for d in daemons {
        let mut words = vec![
            format!("mcast={}", d.interface),
            format!("syncid={}", d.sync_id),
        ];
        let mut add = |word: &str, value: String| {
            if !value.is_empty() && value != "0" {
                words.push(format!("{word}={value}"));
            }
        };
        add("maxlen", d.max_message.to_string());
        add("group", d.group.clone());
        add("port", d.port.to_string());
        add("ttl", d.ttl.to_string());
        line!(out, "{} sync daemon ({})", d.role, words.join(", "));
    }
    out
}

/// State sync: what it is, how it goes, then the peers, then what was rejected.
#[must_use]
pub fn sync(s: &api::SyncStatus) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String| line!(out, "{name:<11} {value}");
    let state = if s.role == "off" {
        ""
    } else if s.running {
        ", running"
    } else {
        ", not running"
    };
    let set = if s.overridden {
        ", set at run time"
    } else {
        ""
    };
    row("Role", format!("{}{state}{set}", s.role));
    if let Some(problem) = &s.problem {
        row("Problem", plain(problem));
    }
    let encrypted = if s.encrypted { ", encrypted" } else { "" };
    row(
        "Format",
        format!("{} version {}{encrypted}", s.format, s.version),
    );
    let to = match &s.group {
        Some(group) => format!("group {group}"),
        None => format!("peers {}", s.unicast.join(" ")),
    };
    let interface = s.interface.as_deref();
    let by = interface.map_or(String::new(), |i| format!(" by {i}"));
    row("Channel", format!("{to}{by}, sync id {}", s.sync_id));
    if !s.name.is_empty() {
        row("Name", plain(&s.name));
    }
    let ready = if s.ready { "yes" } else { "no" };
    row(
        "Ready",
        match s.ready_reason.as_str() {
            "" => ready.to_owned(),
            why => format!("{ready}: {}", plain(why)),
        },
    );
    let traffic = |t: &api::SyncTraffic| {
        format!(
            "{} messages, {} records, {} bytes",
            t.messages, t.records, t.bytes
        )
    };
    row("Told", format!("{} own entries", s.entries));
    row("Sent", traffic(&s.sent));
    row("Received", traffic(&s.received));
    row(
        "Queue",
        format!(
            "{} of {} messages, {} discarded",
            s.queue, s.queue_capacity, s.discarded
        ),
    );
    if !s.peers.is_empty() {
        line!(out, "");
        out.push_str(&sync_peers(&s.peers));
    }
    let rejected = s.rejected.iter().filter(|r| r.count > 0);
    let rows: Vec<_> = rejected
        .map(|r| vec![r.reason.clone(), r.count.to_string(), r.help.clone()])
        .collect();
    if !rows.is_empty() {
        line!(out, "");
        out.push_str(&columns(&["Rejected", "Count", "Meaning"], rows));
    }
    out
}

fn sync_peers(peers: &[api::SyncPeer]) -> String {
    let number = |n: Option<f64>, unit: &str, decimals: usize| {
        n.map_or_else(|| "-".to_owned(), |n| format!("{n:.decimals$}{unit}"))
    };
    let row = |p: &api::SyncPeer| {
        vec![
            plain(&p.name),
            p.address.clone(),
            p.direction.clone(),
            p.role.clone(),
            format!("{}{}", p.state, if p.dirty { ", differs" } else { "" }),
            number(p.lag_seconds, " s", 1),
            // Rounded down: what is not all must not look like it.
            number(p.coverage.map(|c| (c * 10_000.0).floor() / 100.0), "%", 2),
            format!("{}/{}", p.entries, p.should),
            p.uninstalled.to_string(),
            number(p.last_full_sync_seconds, " s ago", 0),
            p.version.to_string(),
        ]
    };
    let header = [
        "Peer",
        "Address",
        "Way",
        "Role",
        "State",
        "Lag",
        "Coverage",
        "Entries",
        "Uninstalled",
        "FullSync",
        "Version",
    ];
    columns(&header, peers.iter().map(row).collect())
}

/// Text of a peer as it may reach a terminal.
fn plain(text: &str) -> String {
    let shown = |c: char| match c {
        c if c.is_control() => c.escape_unicode().to_string(),
        c => c.to_string(),
    };
    text.chars().map(shown).collect()
}

/// What a reload changed.
#[must_use]
pub fn reloaded(r: &api::Reloaded) -> String {
    let mut out = String::new();
    for w in &r.warnings {
        line!(out, "warning: {w}");
    }
    for (kind, changes) in [("service", &r.services), ("server", &r.servers)] {
        for name in &changes.added {
            line!(out, "added {kind} {name}");
        }
        for name in &changes.removed {
            line!(out, "removed {kind} {name}");
        }
        for c in &changes.changed {
            line!(out, "changed {kind} {}: {}", c.name, c.what.join(", "));
        }
    }
    for part in &r.other {
        line!(out, "changed {part}");
    }
    for sentence in r.kept.iter().chain(&r.taken_back) {
        line!(out, "{sentence}");
    }
    if r.changed {
        line!(out, "Reloaded.");
    } else {
        line!(out, "Reloaded; nothing had changed.");
    }
    out
}

/// Columns, left-justified, as wide as their widest cell.
fn columns(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let header = header.iter().map(|h| (*h).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|r| r.get(column));
        cells.map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    rows.iter().fold(String::new(), |mut out, row| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(c, w)| format!("{c:<w$}")).collect();
        line!(out, "{}", cells.join("  ").trim_end());
        out
    })
}
