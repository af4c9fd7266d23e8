//! ipvsadm's listings (specification §10.5), from the control socket's JSON.
//!
//! Knows no socket: it is given services, connections and names. Widths and words are ipvsadm 1.31's, blanks at the ends
//! of lines included.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::grammar::{Line, shown_flags};
use super::names::Names;
use super::options::Opt;
use crate::cli::table;
use crate::mgmt::api;

/// Lines joined; nothing is written to a string that could fail.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {{ let _ = writeln!($out, $($arg)*); }};
}

/// What a listing tells of each server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Plain,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    TunInfo,
}

/// How things are shown.
#[derive(Debug)]
pub struct Look<'a> {
    format: Format,
    exact: bool,
    sort: bool,
    /// None for numbers only.
    names: Option<&'a Names>,
}

impl<'a> Look<'a> {
    /// As a command line asks for; the first of several formats wins.
    #[must_use]
    pub fn of(line: &Line, names: &'a Names) -> Self {
        let formats = [
            (Opt::Stats, Format::Stats),
            (Opt::Rate, Format::Rate),
            (Opt::Thresholds, Format::Thresholds),
            (Opt::PersistentConn, Format::PersistentConn),
            (Opt::TunInfo, Format::TunInfo),
        ];
        let asked = formats.into_iter().find(|(opt, _)| line.has(*opt));
        Self {
            format: asked.map_or(Format::Plain, |(_, format)| format),
            exact: line.has(Opt::Exact),
            sort: !line.has(Opt::NoSort),
            names: (!line.has(Opt::Numeric)).then_some(names),
        }
    }

    /// An address and port, by name where names are wanted and there are such.
    #[must_use]
    pub fn endpoint(&self, at: SocketAddr, proto: u8) -> String {
        let Some(names) = self.names else {
            return at.to_string();
        };
        let host = names
            .name_of(at.ip())
            .unwrap_or_else(|| at.ip().to_string());
        let port = names.service_of(at.port(), proto);
        let port = port.map_or_else(|| at.port().to_string(), str::to_owned);
        match at.ip() {
            IpAddr::V4(_) => format!("{host}:{port}"),
            IpAddr::V6(_) => format!("[{host}]:{port}"),
        }
    }
}

/// A service of the JSON, understood.
#[derive(Debug)]
pub struct Shown<'a> {
    /// The service.
    pub service: &'a api::Service,
    /// Protocol number; that of TCP for a mark.
    pub proto: u8,
    /// Its address and port; `None` for a mark.
    pub at: Option<SocketAddr>,
    /// Its mark; 0 for an address.
    pub mark: u32,
    /// Its servers with their addresses; removed ones are not among them.
    pub servers: Vec<(SocketAddr, &'a api::Server)>,
}

impl<'a> Shown<'a> {
    fn of(service: &'a api::Service, sort: bool) -> Self {
        let servers = service.servers.iter().filter(|d| !d.removed);
        let mut servers: Vec<_> = servers
            .filter_map(|d| Some((d.address.parse().ok()?, d)))
            .collect();
        if sort {
            servers.sort_by_key(|(at, _): &(SocketAddr, _)| (at.is_ipv4(), at.ip(), at.port()));
        } else {
            // The newest is the first of the list (specification §1.3).
            servers.reverse();
        }
        Self {
            service,
            proto: match service.protocol.as_str() {
                "udp" => 17,
                "sctp" => 132,
                _ => 6,
            },
            at: service.address.parse().ok(),
            mark: service.address.parse().unwrap_or(0),
            servers,
        }
    }

    /// Whether it is of IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.service.family == "ipv6"
    }

    fn label(&self, look: &Look<'_>) -> String {
        let Some(at) = self.at else {
            let family = if self.is_ipv6() { " IPv6" } else { "" };
            return format!("FWM  {}{family}", self.mark);
        };
        let protocol = self.service.protocol.to_uppercase();
        let label = format!("{protocol:<4} {}", look.endpoint(at, self.proto));
        cut(label, 33, at)
    }
}

/// Services as they are listed, in ipvsadm's order or in that of the configuration.
#[must_use]
pub fn shown(services: &[api::Service], sort: bool) -> Vec<Shown<'_>> {
    let mut out: Vec<_> = services.iter().map(|s| Shown::of(s, sort)).collect();
    if sort {
        out.sort_by_key(|s| {
            let at = s.at.map(|at| (at.ip(), at.port()));
            (s.mark, s.is_ipv6(), s.proto, at)
        });
    }
    out
}

/// What of a name there is room for; names of IPv6 are never cut.
fn cut(name: String, width: usize, at: SocketAddr) -> String {
    match at.is_ipv4() {
        true => name.chars().take(width).collect(),
        false => name,
    }
}

/// The first line of a full listing; `size` is the number of connections that there is room for.
#[must_use]
pub fn version(size: u64) -> String {
    format!("IP Virtual Server version 1.2.1 (size={size})\n")
}

/// A listing of services.
#[must_use]
pub fn services(services: &[api::Service], look: &Look<'_>) -> String {
    let mut out = header(look.format);
    for s in shown(services, look.sort) {
        let label = s.label(look);
        match look.format {
            Format::Stats => line!(
                out,
                "{label:<33}{}",
                numbers(s.service.since_zero(), look.exact)
            ),
            Format::Rate => line!(out, "{label:<33}{}", numbers(s.service.rates, look.exact)),
            _ => line!(out, "{label} {}{}", s.service.scheduler, options(s.service)),
        }
        for (at, d) in &s.servers {
            let name = cut(look.endpoint(*at, s.proto), 28, *at);
            line!(out, "  -> {name:<28}{}", server(d, look));
        }
    }
    out
}

fn header(format: Format) -> String {
    let numbers = |names: [&str; 5]| {
        let names = names.map(|name| format!(" {name:>8}")).concat();
        format!("{:<33}{names}\n", "Prot LocalAddress:Port")
    };
    let remote = "  -> RemoteAddress:Port";
    let local = "Prot LocalAddress:Port";
    let plain = "Prot LocalAddress:Port Scheduler Flags\n";
    match format {
        Format::Plain => format!("{plain}{remote:<33} Forward Weight ActiveConn InActConn\n"),
        Format::Stats => {
            numbers(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]) + remote + "\n"
        }
        Format::Rate => numbers(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]) + remote + "\n",
        Format::Thresholds => format!(
            "{local:<33} {:<10} {:<10} {:<10} {:<10}\n{remote}\n",
            "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
        ),
        Format::PersistentConn => format!(
            "{local:<33} {:<9} {:<11} {:<10} {:<10}\n{remote}\n",
            "Weight", "PersistConn", "ActiveConn", "InActConn"
        ),
        Format::TunInfo => {
            format!("{plain}{remote:<33} Forward TunnelInfo    Weight ActiveConn InActConn\n")
        }
    }
}

/// What stands behind a server's name.
fn server(d: &api::Server, look: &Look<'_>) -> String {
    let (weight, active, inactive) = (d.effective_weight, d.active, d.inactive);
    match look.format {
        Format::Plain => format!(
            " {:<7} {weight:<6} {active:<10} {inactive:<10}",
            method(&d.forwarding)
        ),
        Format::TunInfo => format!(
            " {:<7} {:<13} {weight:<6} {active:<10} {inactive:<10}",
            method(&d.forwarding),
            d.tunnel.as_deref().unwrap_or("n/a")
        ),
        Format::Thresholds => format!(
            " {:<10} {:<10} {active:<10} {inactive:<10}",
            d.upper_threshold, d.lower_threshold
        ),
        Format::PersistentConn => format!(
            " {weight:<9} {:<11} {active:<10} {inactive:<10}",
            d.persistent
        ),
        Format::Stats => numbers(d.since_zero(), look.exact),
        // Of servers only the bytes are scaled.
        Format::Rate => {
            let rates = d.rates;
            let plain = [rates.connections, rates.packets_in, rates.packets_out];
            let bytes = [rates.bytes_in, rates.bytes_out];
            let bytes = bytes.map(|n| one(n, look.exact)).concat();
            plain.map(|n| one(n, true)).concat() + &bytes
        }
    }
}

/// A number as it is, or scaled; nine columns and more where that is too few.
fn one(n: u64, exact: bool) -> String {
    match exact {
        true => format!(" {n:>8}"),
        false => table::scaled(n),
    }
}

fn numbers(counts: api::Counts, exact: bool) -> String {
    [
        counts.connections,
        counts.packets_in,
        counts.packets_out,
        counts.bytes_in,
        counts.bytes_out,
    ]
    .map(|n| one(n, exact))
    .concat()
}

fn method(forwarding: &str) -> &str {
    match forwarding {
        "masq" => "Masq",
        "tunnel" => "Tunnel",
        _ => "Route",
    }
}

/// What stands behind a service's scheduler.
fn options(s: &api::Service) -> String {
    let mut out = String::new();
    let flags = shown_flags(&s.scheduler, &s.flags);
    if !flags.is_empty() {
        out.push_str(&format!(" ({})", flags.join(",")));
    }
    if let Some(p) = &s.persistence {
        out.push_str(&format!(" persistent {}", whole_seconds(p.timeout_s)));
        if let Some(mask) = mask(s, p) {
            out.push_str(&format!(" mask {mask}"));
        }
        if let Some(engine) = &p.engine {
            out.push_str(&format!(" pe {engine}"));
        }
    }
    if s.one_packet {
        out.push_str(" ops");
    }
    out
}

/// A timeout in seconds, as there are no shorter ones in ipvsadm: part of one counts as one.
#[must_use]
pub fn whole_seconds(seconds: f64) -> u64 {
    seconds.ceil() as u64
}

/// A netmask that is not the default one.
#[must_use]
pub fn mask<'a>(s: &api::Service, p: &'a api::Persistence) -> Option<&'a str> {
    let default = if s.family == "ipv6" {
        "128"
    } else {
        "255.255.255.255"
    };
    Some(p.netmask.as_str()).filter(|mask| *mask != default)
}

/// A connection's line.
#[must_use]
pub fn connection(c: &api::Connection, look: &Look<'_>) -> String {
    if look.names.is_none() {
        return table::connection(c);
    }
    let mut c = c.clone();
    let proto = c.protocol.clone();
    for end in [&mut c.client, &mut c.virtual_, &mut c.destination] {
        *end = renamed(end, &proto, look);
    }
    table::connection(&c)
}

/// A template's line; what the engine shows of the key only where that is asked for.
#[must_use]
pub fn template(t: &api::Template, look: &Look<'_>) -> String {
    let mut t = t.clone();
    if look.format != Format::PersistentConn {
        t.data = None;
    }
    let proto = t.protocol.clone();
    for end in [&mut t.client, &mut t.destination] {
        *end = renamed(end, &proto, look);
    }
    // A mark is no address that could have a name.
    if t.mark.is_none() {
        t.virtual_ = renamed(&t.virtual_, &proto, look);
    }
    table::template(&t)
}

/// The header of a listing of connections.
#[must_use]
pub fn connections_header(look: &Look<'_>) -> String {
    table::connections_header(look.format == Format::PersistentConn)
}

fn renamed(end: &str, protocol: &str, look: &Look<'_>) -> String {
    let proto = match protocol {
        "UDP" => 17,
        "SCTP" => 132,
        _ => 6,
    };
    match end.parse() {
        Ok(at) => look.endpoint(at, proto),
        Err(_) => end.to_owned(),
    }
}
