//! `polder ipvsadm`: ipvsadm 1.31's command line on the running appliance (specification §10).
//!
//! A thin client of the control socket: [`grammar`] makes a command of words, this module asks the socket for it, and
//! [`list`] and [`save`] write what came back. Invariant: what is told on standard output, and the exit status, is what
//! ipvsadm would tell; what Polder has to add goes to standard error.

pub mod grammar;
pub mod list;
pub mod names;
pub mod options;
pub mod save;
mod texts;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use hyper::Method;
use serde::Serialize;
use serde_json::{Value, json};

use self::grammar::{Forwarding, Line, Service, Wrong};
use self::list::Look;
use self::names::Names;
use self::options::{Command, Opt};
use self::texts::{HELP, OF_SERVER, OF_SERVICE, START_DAEMON, STOP_DAEMON, TRY, Texts, refusal};
use super::args::SOCKET_DEFAULT;
use super::client::{Client, NoAnswer, encode, typed};
use super::{Failure, print};
use crate::forward::ServiceKind;
use crate::mgmt::api;
use crate::mgmt::names::handle;
use crate::net::Af;

/// Environment variable with the path of the control socket.
pub const SOCKET_ENV: &str = "POLDER_SOCKET";

/// Exit status of what the appliance refuses, and of options that there are not.
const REFUSED: u8 = 255;
/// Exit status of command lines that make no sense.
const USAGE: u8 = 2;

/// Where everything goes to and comes from.
pub struct Front<'a> {
    /// The control socket.
    pub socket: PathBuf,
    /// Resolves names.
    pub names: &'a Names,
    /// Rules for `-R`.
    pub input: &'a mut dyn BufRead,
    /// Listings.
    pub out: &'a mut dyn Write,
    /// Messages.
    pub err: &'a mut dyn Write,
    /// Whether somebody reads the messages, who is also told what may not be meant so.
    pub watched: bool,
    client: Option<Client>,
}

impl std::fmt::Debug for Front<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// How a command line ended, if not well.
#[derive(Debug)]
enum Ended {
    /// With a message and an exit status; a restore goes on or not.
    Told {
        message: String,
        status: u8,
        aborts: bool,
    },
    /// Nobody reads the output any more.
    ReaderGone,
}

impl Ended {
    fn refused(message: impl Into<String>) -> Self {
        Self::Told {
            message: message.into(),
            status: REFUSED,
            aborts: false,
        }
    }
}

impl From<Wrong> for Ended {
    fn from(wrong: Wrong) -> Self {
        let (message, status, aborts) = match wrong {
            Wrong::Usage(message) => (message, USAGE, true),
            Wrong::Option(message) => (message, REFUSED, false),
            Wrong::NoCommand => (TRY.to_owned(), REFUSED, true),
        };
        Self::Told {
            message,
            status,
            aborts,
        }
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::ReaderGone => Self::ReaderGone,
            Failure::Failed(why) => Self::refused(why),
        }
    }
}

impl From<String> for Ended {
    fn from(why: String) -> Self {
        Self::refused(why)
    }
}

/// Does what the words behind the program's name say, `--socket PATH` before them aside.
#[must_use]
pub fn main(words: impl IntoIterator<Item = String>) -> u8 {
    let mut words: Vec<String> = words.into_iter().collect();
    let socket = match own_socket(&mut words) {
        Ok(socket) => socket,
        Err(message) => {
            eprintln!("{message}");
            return USAGE;
        }
    };
    let names = Names::system();
    let (mut input, mut out, mut err) = (io::stdin().lock(), io::stdout().lock(), io::stderr());
    let mut front = Front::new(socket, &names, &mut input, &mut out, &mut err);
    front.watched = io::stderr().is_terminal();
    front.run(&words)
}

/// Takes `--socket PATH` from the front of the words; without it the environment and the default tell.
fn own_socket(words: &mut Vec<String>) -> Result<PathBuf, String> {
    match words.first().map(String::as_str) {
        Some("--socket") => {
            if words.len() < 2 {
                return Err("--socket: missing argument".to_owned());
            }
            let path = words.drain(..2).nth(1).unwrap_or_default();
            return Ok(path.into());
        }
        Some(first) => {
            if let Some(path) = first.strip_prefix("--socket=") {
                let path = PathBuf::from(path);
                words.remove(0);
                return Ok(path);
            }
        }
        None => {}
    }
    let set = std::env::var_os(SOCKET_ENV).filter(|path| !path.is_empty());
    Ok(set.map_or_else(|| SOCKET_DEFAULT.into(), PathBuf::from))
}

impl<'a> Front<'a> {
    /// A front that tells nothing but what ipvsadm would.
    pub fn new(
        socket: PathBuf,
        names: &'a Names,
        input: &'a mut dyn BufRead,
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
    ) -> Self {
        Self {
            socket,
            names,
            input,
            out,
            err,
            watched: false,
            client: None,
        }
    }

    /// Does what a command line says; gives the exit status.
    pub fn run(&mut self, words: &[String]) -> u8 {
        match Line::parse(words, self.names) {
            Ok(line) if line.command == Command::Restore => self.restore(),
            Ok(line) => {
                let ended = self.act(&line);
                self.tell(ended).0
            }
            Err(wrong) => self.tell(Err(wrong.into())).0,
        }
    }

    /// Tells how it ended: the exit status, and whether a restore ends here.
    fn tell(&mut self, ended: Result<(), Ended>) -> (u8, bool) {
        match ended {
            Ok(()) => (0, false),
            Err(Ended::ReaderGone) => (0, true),
            Err(Ended::Told {
                message,
                status,
                aborts,
            }) => {
                self.say(&message);
                (status, aborts)
            }
        }
    }

    /// Says something on the side. Nothing is left to do if that can't be written.
    fn say(&mut self, message: &str) {
        let _ = writeln!(self.err, "{message}").and_then(|()| self.err.flush());
    }

    /// Reads rules, a command line each, and does them in order; the last one's exit status counts (specification
    /// §10.6).
    fn restore(&mut self) -> u8 {
        let mut status = 0;
        let mut text = String::new();
        loop {
            text.clear();
            match self.input.read_line(&mut text) {
                Ok(0) => return status,
                Ok(_) => {}
                Err(e) => {
                    self.say(&format!("the rules can't be read: {e}"));
                    return USAGE;
                }
            }
            let words = text.split_whitespace().filter(|word| *word != "ipvsadm");
            let words: Vec<String> = words.map(str::to_owned).collect();
            if words.is_empty() {
                continue;
            }
            let ended = match Line::parse(&words, self.names) {
                // A file of rules that reads itself would have no end.
                Ok(line) if line.command == Command::Restore => Err(Wrong::NoCommand.into()),
                Ok(line) => self.act(&line),
                Err(wrong) => Err(wrong.into()),
            };
            let (now, ends) = self.tell(ended);
            status = now;
            if ends {
                return status;
            }
        }
    }

    fn act(&mut self, line: &Line) -> Result<(), Ended> {
        match line.command {
            Command::AddService => self.add_service(line),
            Command::EditService => self.edit_service(line),
            Command::DeleteService => {
                let path = service_path(line);
                self.change(&OF_SERVICE, &Method::DELETE, &path, &())
            }
            Command::Clear => self.change(&OF_SERVICE, &Method::DELETE, "/v1/services", &()),
            Command::AddServer => self.add_server(line),
            Command::EditServer => self.edit_server(line),
            Command::DeleteServer => {
                let path = server_path(line);
                self.change(&OF_SERVER, &Method::DELETE, &path, &())
            }
            Command::List => self.list(line).map_err(|ended| match ended {
                Ended::Told {
                    message,
                    status: REFUSED,
                    aborts,
                } => Ended::Told {
                    message,
                    status: 1,
                    aborts,
                },
                other => other,
            }),
            Command::Save => self.save(line),
            Command::Zero => {
                let service = line.service.map(|s| handle(&kind(s)));
                let which = api::Zero { service };
                self.change(&OF_SERVICE, &Method::POST, "/v1/zero", &which)
            }
            Command::Set => self.set_timeouts(line),
            Command::StartDaemon | Command::StopDaemon => self.daemon(line),
            Command::Help => Ok(print(self.out, HELP)?),
            Command::Version => Ok(print(self.out, &version())?),
            // Done by whoever reads the rules.
            Command::Restore => Ok(()),
        }
    }

    /// Asks the appliance.
    fn ask(
        &mut self,
        of: &Texts,
        method: &Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Value, Ended> {
        if self.client.is_none() {
            self.client = Some(Client::new(&self.socket)?);
        }
        let client = self.client.as_ref();
        let client = client.ok_or_else(|| "there is no client".to_owned())?;
        client
            .ask_for(method, path, body.into())
            .map_err(|why| match why {
                NoAnswer::Refused(body) => Ended::refused(refusal(of, &body)),
                NoAnswer::Unreachable(why) => Ended::Told {
                    message: format!("Can't initialize ipvs: {why}"),
                    status: USAGE,
                    aborts: true,
                },
            })
    }

    /// Asks for a change, and tells whoever watches what may not be meant so.
    fn change(
        &mut self,
        of: &Texts,
        method: &Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(), Ended> {
        let body = serde_json::to_vec(body).map_err(|e| e.to_string())?;
        let answer = self.ask(of, method, path, body)?;
        let warnings = answer.get("warnings").and_then(Value::as_array);
        if self.watched {
            for warning in warnings.into_iter().flatten().filter_map(Value::as_str) {
                self.say(&format!("polder: {warning}"));
            }
        }
        Ok(())
    }

    fn add_service(&mut self, line: &Line) -> Result<(), Ended> {
        engine_has_persistence(line)?;
        let mut body = match line.service {
            Some(Service::Address(proto, addr, port)) => {
                let protocol = crate::mgmt::names::protocol(proto).to_lowercase();
                json!({"protocol": protocol, "address": addr.to_string(), "port": port})
            }
            Some(Service::Mark(mark, ipv6)) => {
                json!({"mark": mark, "family": if ipv6 { "ipv6" } else { "ipv4" }})
            }
            None => json!({}),
        };
        body["scheduler"] = json!(line.scheduler);
        body["scheduler_flags"] = json!(line.flags);
        body["one_packet"] = json!(line.has(Opt::Ops));
        if let Some(seconds) = line.persistent {
            let mut persistence = json!({"timeout": format!("{seconds}s")});
            if let Some(netmask) = &line.netmask {
                persistence["netmask"] = netmask_value(line, netmask);
            }
            if let Some(engine) = &line.engine {
                persistence["engine"] = json!(engine);
            }
            body["persistence"] = persistence;
        }
        self.change(&OF_SERVICE, &Method::POST, "/v1/services", &body)
    }

    /// Replaces all of a service that ipvsadm has words for; the rest stays.
    fn edit_service(&mut self, line: &Line) -> Result<(), Ended> {
        engine_has_persistence(line)?;
        let default = match line.service {
            Some(Service::Address(_, addr, _)) if addr.is_ipv6() => "128",
            Some(Service::Mark(_, true)) => "128",
            _ => "255.255.255.255",
        };
        let persistence = match line.persistent {
            None => api::PersistenceUpdate {
                timeout: Some("off".to_owned()),
                ..api::PersistenceUpdate::default()
            },
            Some(seconds) => api::PersistenceUpdate {
                timeout: Some(format!("{seconds}s")),
                netmask: Some(line.netmask.clone().unwrap_or_else(|| default.to_owned())),
                engine: Some(line.engine.clone().unwrap_or_else(|| "none".to_owned())),
                ..api::PersistenceUpdate::default()
            },
        };
        let update = api::ServiceUpdate {
            one_packet: Some(line.has(Opt::Ops)),
            persistence: Some(persistence),
            scheduler: Some(line.scheduler.clone()),
            scheduler_flags: Some(line.flags.clone()),
        };
        let path = service_path(line);
        self.change(&OF_SERVICE, &Method::PATCH, &path, &update)
    }

    fn add_server(&mut self, line: &Line) -> Result<(), Ended> {
        let Some((addr, port)) = line.server else {
            return Ok(());
        };
        let mut body = json!({
            "address": addr.to_string(),
            "port": port,
            "weight": line.weight,
            "forwarding": forwarding(line),
            "upper_threshold": line.upper,
            "lower_threshold": line.lower,
        });
        if let Some(tunnel) = tunnel(line) {
            body["tunnel"] = json!(tunnel);
        }
        let path = format!("{}/servers", service_path(line));
        self.change(&OF_SERVER, &Method::POST, &path, &body)
    }

    /// Replaces all of a server that ipvsadm has words for; the rest stays.
    fn edit_server(&mut self, line: &Line) -> Result<(), Ended> {
        let update = api::ServerUpdate {
            weight: Some(line.weight.into()),
            upper_threshold: Some(line.upper.into()),
            lower_threshold: Some(line.lower.into()),
            forwarding: Some(forwarding(line).to_owned()),
            tunnel: tunnel(line),
            ..api::ServerUpdate::default()
        };
        let path = server_path(line);
        self.change(&OF_SERVER, &Method::PUT, &path, &update)
    }

    fn set_timeouts(&mut self, line: &Line) -> Result<(), Ended> {
        let names = ["tcp_established", "tcp_fin_wait", "udp"];
        let update = names.into_iter().zip(line.timeouts);
        let update = update.filter(|(_, seconds)| *seconds != 0);
        let update: std::collections::BTreeMap<_, _> = update
            .map(|(name, seconds)| (name.to_owned(), format!("{seconds}s")))
            .collect();
        if update.is_empty() {
            // All stay as they are, which is no error.
            return self
                .ask(&OF_SERVICE, &Method::GET, "/v1/timeouts", Vec::new())
                .map(|_| ());
        }
        let update = api::TimeoutsUpdate(update);
        self.change(&OF_SERVICE, &Method::PATCH, "/v1/timeouts", &update)
    }

    fn daemon(&mut self, line: &Line) -> Result<(), Ended> {
        let role = line.daemon.clone();
        let (texts, update) = match line.command {
            Command::StartDaemon => {
                let start = api::SyncStart {
                    role,
                    interface: line.interface.clone(),
                    sync_id: line.sync_id,
                    group: line.group.map(|g| g.to_string()),
                    port: line.mcast_port,
                    ttl: line.ttl,
                    max_message: line.sync_maxlen,
                };
                let start = Some(start);
                let update = api::SyncUpdate {
                    start,
                    ..api::SyncUpdate::default()
                };
                (&START_DAEMON, update)
            }
            _ => {
                let stop = Some(role);
                let update = api::SyncUpdate {
                    stop,
                    ..api::SyncUpdate::default()
                };
                (&STOP_DAEMON, update)
            }
        };
        let body = serde_json::to_vec(&update).map_err(|e| e.to_string())?;
        let answer = self.ask(texts, &Method::POST, "/v1/sync", body)?;
        let updated: api::SyncUpdated = typed(answer)?;
        match updated.sync.problem {
            Some(why) if line.command == Command::StartDaemon => Err(Ended::refused(format!(
                "polder: state sync does not run: {why}"
            ))),
            _ => Ok(()),
        }
    }

    fn get(&mut self, path: &str) -> Result<Value, Ended> {
        self.ask(&OF_SERVICE, &Method::GET, path, Vec::new())
    }

    fn services(&mut self) -> Result<Vec<api::Service>, Ended> {
        let services: api::Services = typed(self.get("/v1/services")?)?;
        Ok(services.services)
    }

    fn list(&mut self, line: &Line) -> Result<(), Ended> {
        let look = Look::of(line, self.names);
        if line.has(Opt::Connection) {
            return self.list_connections(&look);
        }
        let text = if line.has(Opt::Timeout) {
            let all: api::Timeouts = typed(self.get("/v1/timeouts")?)?;
            let of = |name: &str| {
                let found = all.timeouts.iter().find(|t| t.name == name);
                found.map_or(0, |t| list::whole_seconds(t.seconds))
            };
            let (tcp, fin, udp) = (of("tcp_established"), of("tcp_fin_wait"), of("udp"));
            format!("Timeout (tcp tcpfin udp): {tcp} {fin} {udp}\n")
        } else if line.has(Opt::Daemon) {
            let sync: api::SyncStatus = typed(self.get("/v1/sync")?)?;
            super::table::daemons(&sync.daemons)
        } else if line.service.is_some() {
            let service: api::Service = typed(self.get(&service_path(line))?)?;
            list::services(&[service], &look)
        } else {
            let services = self.services()?;
            let workers: api::Workers = typed(self.get("/v1/workers")?)?;
            list::version(workers.connections_capacity) + &list::services(&services, &look)
        };
        Ok(print(self.out, &text)?)
    }

    /// Connections, then templates, as they come.
    fn list_connections(&mut self, look: &Look<'_>) -> Result<(), Ended> {
        let mut header = list::connections_header(look);
        for of in ["connections", "templates"] {
            let mut from = String::new();
            loop {
                let page = self.get(&format!("/v1/{of}?limit={PAGE}{from}"))?;
                let next = page.get("next").and_then(Value::as_str).map(str::to_owned);
                let mut text = std::mem::take(&mut header);
                if of == "templates" {
                    let page: api::Templates = typed(page)?;
                    text.extend(page.templates.iter().map(|t| list::template(t, look)));
                } else {
                    let page: api::Connections = typed(page)?;
                    text.extend(page.connections.iter().map(|c| list::connection(c, look)));
                }
                print(self.out, &text)?;
                match next {
                    Some(next) => from = format!("&from={}", encode(&next)),
                    None => break,
                }
            }
        }
        Ok(())
    }

    fn save(&mut self, line: &Line) -> Result<(), Ended> {
        let services = self.services()?;
        let look = Look::of(line, self.names);
        print(self.out, &save::rules(&services, &look))?;
        for sentence in save::unsaid(&services) {
            self.say(&format!("polder: {sentence}"));
        }
        Ok(())
    }
}

/// Rows of a listing that are asked for at a time.
const PAGE: u32 = 5000;

/// An engine without persistence would do nothing.
fn engine_has_persistence(line: &Line) -> Result<(), Ended> {
    match (&line.engine, line.persistent) {
        (Some(engine), None) => Err(Ended::refused(format!(
            "polder: `--pe {engine}` does nothing without persistence; give `-p` as well"
        ))),
        _ => Ok(()),
    }
}

/// A netmask in the configuration's words.
fn netmask_value(line: &Line, netmask: &str) -> Value {
    let ipv6 = match line.service {
        Some(Service::Address(_, addr, _)) => addr.is_ipv6(),
        Some(Service::Mark(_, ipv6)) => ipv6,
        None => false,
    };
    match netmask.parse::<u8>() {
        Ok(len) if ipv6 => json!(len),
        _ => json!(netmask),
    }
}

fn kind(service: Service) -> ServiceKind {
    match service {
        Service::Address(proto, addr, port) => ServiceKind::Address { proto, addr, port },
        Service::Mark(mark, ipv6) => ServiceKind::Mark {
            af: if ipv6 { Af::V6 } else { Af::V4 },
            mark,
        },
    }
}

fn service_path(line: &Line) -> String {
    let handle = line.service.map_or_else(String::new, |s| handle(&kind(s)));
    format!("/v1/services/{}", encode(&handle))
}

fn server_path(line: &Line) -> String {
    let handle = line.service.map_or_else(String::new, |s| handle(&kind(s)));
    let server = line.server.map_or_else(String::new, |(addr, port)| {
        crate::mgmt::names::endpoint(addr, port)
    });
    format!("/v1/servers/{}/{}", encode(&handle), encode(&server))
}

fn forwarding(line: &Line) -> &'static str {
    match line.forwarding {
        Forwarding::Masq => "masq",
        Forwarding::Direct => "direct",
        Forwarding::Tunnel => "tunnel",
    }
}

fn tunnel(line: &Line) -> Option<api::TunnelUpdate> {
    let tunnel = line.tunnel.as_ref()?;
    Some(api::TunnelUpdate {
        kind: tunnel.kind.to_owned(),
        port: tunnel.port.map(u32::from),
        checksum: tunnel.checksum.map(str::to_owned),
    })
}

fn version() -> String {
    format!(
        "ipvsadm v1.31 (polder {}, IPVS v1.2.1)\n",
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests;
