//! `polder demo`: a live virtual lab in network namespaces, with real clients and servers and no NIC.
//!
//! The appliance is this very program, started with `polder run` over two virtual ports. A server is killed and taken
//! out on the way (there are no health checks: the demo does what an operator or a script would do, over the control
//! socket), and later comes back; in `failover` it is a director that dies. The exit status says whether all that is
//! promised was seen.

mod failover;
pub mod lab;
mod sip;
mod web;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::body::Bytes;

use super::Failure;
use super::args::{DemoArgs, DemoDevice, DemoKind};
use super::client::Client;
use crate::mgmt::api::{Servers, Workers};
use lab::{Lab, Namespace, Process};

/// Addresses of the servers behind the appliance.
const SERVERS: [&str; 3] = ["10.0.0.11", "10.0.0.12", "10.0.0.13"];
/// The address that clients know.
const VIRTUAL: &str = "192.0.2.100";
/// The client's own.
const CLIENT: &str = "192.0.2.2";
/// Which server is killed on the way.
const VICTIM: usize = 1;

/// Runs a demo.
///
/// # Errors
/// A sentence: what is missing on this host, what failed, or what was promised and not seen.
pub fn run(args: &DemoArgs, out: &mut dyn Write) -> Result<(), Failure> {
    lab::need(&["ip", "unshare", "nsenter", "setpriv", "sysctl", "ethtool"])?;
    match args.kind {
        DemoKind::Web => web::run(args.device, out),
        DemoKind::Sip => sip::run(args.device, out),
        DemoKind::Failover => failover::run(args, out),
    }
}

/// The network of both demos: a client, the director, and a namespace with all servers.
struct Network {
    // Dropped in this order: what runs in the namespaces before those, and the lab's folder last.
    appliance: Process,
    control: Client,
    client: Namespace,
    servers: Namespace,
    _director: Namespace,
    lab: Lab,
    progress: Progress,
}

/// Connections that each server was given so far.
type Given = [u64; SERVERS.len()];

impl Network {
    /// Makes the network and starts the appliance with `service`, which is YAML below `services:`.
    fn start(device: DemoDevice, service: &str) -> Result<Self, String> {
        let progress = Progress::new();
        let lab = Lab::new()?;
        let client = lab.namespace("client")?;
        let director = lab.namespace("director")?;
        let servers = lab.namespace("servers")?;
        lab.wire((&client, "c0"), (&director, "wan"))?;
        lab.wire((&servers, "s0"), (&director, "lan"))?;
        client.ip(&format!("addr add {CLIENT}/24 dev c0"))?;
        client.sysctl("net.ipv4.ip_local_port_range=1025 65000")?;
        for addr in SERVERS {
            servers.ip(&format!("addr add {addr}/24 dev s0"))?;
        }
        servers.ip("route add default via 10.0.0.1")?;
        for port in ["wan", "lan"] {
            lab.give_to_polder(&director, port)?;
        }
        let config = lab.write("polder.yaml", &config(device, &lab, service))?;
        let exe = std::env::current_exe().map_err(|e| format!("this program's file: {e}"))?;
        let mut command = director.command(&exe.to_string_lossy());
        command.arg("run").arg("-c").arg(config);
        let appliance = Process::start("polder run", command, &lab.dir().join("polder.log"))?;
        let control = Client::new(&socket(&lab))?;
        let mut network = Self {
            appliance,
            control,
            client,
            servers,
            _director: director,
            lab,
            progress,
        };
        network.wait_until_up()?;
        Ok(network)
    }

    fn wait_until_up(&mut self) -> Result<(), String> {
        let began = Instant::now();
        while self.control.get("/v1/services").is_err() {
            if !self.appliance.is_running() || began.elapsed() > Duration::from_secs(30) {
                let log = std::fs::read_to_string(self.lab.dir().join("polder.log"));
                return Err(format!(
                    "the appliance did not start:\n{}",
                    log.unwrap_or_default()
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// What each server was given so far, in the order of [`SERVERS`].
    fn given(&self) -> Result<Given, String> {
        let answer = self.control.get("/v1/servers")?;
        let servers: Servers = serde_json::from_value(answer).map_err(|e| e.to_string())?;
        let mut given = Given::default();
        for (n, addr) in given.iter_mut().zip(SERVERS) {
            let own = servers
                .servers
                .iter()
                .filter(|s| s.address.starts_with(&format!("{addr}:")));
            *n = own.map(|s| s.connections).sum();
        }
        Ok(given)
    }

    /// Sets the victim's administrative state, as `polder set server` does.
    fn set_victim(&self, service: &str, port: u16, state: &str) -> Result<(), String> {
        let path = format!("/v1/servers/{service}/{}:{port}", SERVERS[VICTIM]);
        let body = Bytes::from(format!("{{\"state\": \"{state}\"}}"));
        self.control.request(&Method::PUT, &path, body).map(drop)
    }

    /// Received, punted and dropped frames; and whether every received frame met one fate. The counters are read while
    /// the last frames may still be on their way, so it gets some attempts.
    fn frames(&self) -> Result<(u64, u64, u64, bool), String> {
        let mut seen = self.frames_now()?;
        for _ in 0..20 {
            if seen.3 {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            seen = self.frames_now()?;
        }
        Ok(seen)
    }

    fn frames_now(&self) -> Result<(u64, u64, u64, bool), String> {
        let answer = self.control.get("/v1/workers")?;
        let all: Workers = serde_json::from_value(answer).map_err(|e| e.to_string())?;
        let sum = |f: fn(&crate::mgmt::api::Worker) -> u64| all.workers.iter().map(f).sum::<u64>();
        let received = sum(|w| w.received);
        let fates =
            sum(|w| w.transmitted) + sum(|w| w.punted) + sum(|w| w.dropped) + sum(|w| w.held);
        let ok = received + sum(|w| w.handed_in) == fates + sum(|w| w.handed_out);
        Ok((received, sum(|w| w.punted), sum(|w| w.dropped), ok))
    }

    /// Stops the appliance. Says whether it ended cleanly.
    fn stop(mut self) -> Result<(), String> {
        let status = self.appliance.stop()?;
        if status.success() {
            return Ok(());
        }
        let log = std::fs::read_to_string(self.lab.dir().join("polder.log")).unwrap_or_default();
        Err(format!(
            "the appliance did not stop cleanly ({status}):\n{log}"
        ))
    }

    /// A line of progress.
    fn progress(&self, text: &str) {
        self.progress.tell(text);
    }

    fn progress_end(&self) {
        self.progress.end();
    }
}

/// Lines of progress, each with its time. On a terminal one replaces the one before.
#[derive(Debug)]
struct Progress {
    began: Instant,
}

impl Progress {
    fn new() -> Self {
        Self {
            began: Instant::now(),
        }
    }

    fn tell(&self, text: &str) {
        let mut err = std::io::stderr();
        let at = self.began.elapsed().as_secs_f32();
        // Progress that nobody can see is not missed.
        let _ = if err.is_terminal() {
            write!(err, "\r\x1b[K[{at:5.1} s] {text}")
        } else {
            writeln!(err, "[{at:5.1} s] {text}")
        };
    }

    fn end(&self) {
        let mut err = std::io::stderr();
        if err.is_terminal() {
            let _ = writeln!(err);
        }
    }
}

fn socket(lab: &Lab) -> PathBuf {
    lab.dir().join("control.sock")
}

/// The driver of a device, as its name begins.
fn driver(device: DemoDevice) -> &'static str {
    match device {
        DemoDevice::AfPacket => "net_af_packet",
        DemoDevice::AfXdp => "net_af_xdp",
    }
}

/// The appliance's configuration. Workers are on two processors where there are two besides the first.
fn config(device: DemoDevice, lab: &Lab, service: &str) -> String {
    let cores: Vec<_> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .iter()
        .map(|c| c.id)
        .collect();
    let main = cores.first().copied().unwrap_or(0);
    let workers: Vec<_> = match cores.len() {
        0 => vec![0],
        1 => vec![main],
        _ => cores[1..].iter().take(2).copied().collect(),
    };
    let driver = driver(device);
    format!(
        "dpdk: {{cores: {workers:?}, management_core: {main}, hugepages: false, memory: 256M, idle: sleep}}\n\
         limits: {{connections: 256k, services: 16, servers: 64}}\n\
         ports:\n\
         \x20 - {{name: wan0, device: \"{driver}0,iface=wan\", addresses: [192.0.2.10/24]}}\n\
         \x20 - {{name: lan0, device: \"{driver}1,iface=lan\", addresses: [10.0.0.1/24]}}\n\
         services:\n{service}\
         metrics: {{listen: \"127.0.0.1:9108\", detail: server}}\n\
         control: {{socket: \"{}\"}}\n",
        socket(lab).display()
    )
}

/// Servers in YAML, one line each.
fn servers_yaml(port: u16) -> String {
    SERVERS
        .iter()
        .map(|a| format!("      - {{address: {a}, port: {port}}}\n"))
        .collect()
}

/// What a demo promises, and whether it was seen.
#[derive(Default)]
struct Promises {
    lines: Vec<(bool, String)>,
}

impl Promises {
    fn see(&mut self, seen: bool, what: impl Into<String>) {
        self.lines.push((seen, what.into()));
    }

    /// Stops the appliance, which is the last promise, and prints all.
    fn end(mut self, net: Network, out: &mut dyn Write) -> Result<(), Failure> {
        let stopped = net.stop();
        self.see(stopped.is_ok(), "the appliance stops cleanly");
        if let Err(e) = &stopped {
            super::print(out, &format!("{e}\n"))?;
        }
        self.verdict(out)?;
        super::print(out, NEXT)
    }

    /// Prints them.
    fn verdict(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let mut text = String::new();
        for (seen, what) in &self.lines {
            text.push_str(if *seen {
                "  seen      "
            } else {
                "  NOT SEEN  "
            });
            text.push_str(what);
            text.push('\n');
        }
        super::print(out, &text)?;
        match self.lines.iter().filter(|(seen, _)| !seen).count() {
            0 => Ok(()),
            n => Err(format!("{n} of {} promises were not kept", self.lines.len()).into()),
        }
    }
}

/// A table of what went where: a row for each server, a column for each phase.
fn table(title: &str, phases: &[(&str, Given)]) -> String {
    let mut text = format!("\n{title:<24}");
    for (name, _) in phases {
        text.push_str(&format!("{name:>16}"));
    }
    text.push('\n');
    for (i, addr) in SERVERS.iter().enumerate() {
        let label = format!("{addr}{}", if i == VICTIM { " (killed)" } else { "" });
        text.push_str(&format!("{label:<24}"));
        for (_, given) in phases {
            text.push_str(&format!("{:>16}", given[i]));
        }
        text.push('\n');
    }
    text
}

fn minus(a: Given, b: Given) -> Given {
    std::array::from_fn(|i| a[i] - b[i])
}

/// What to try next, on an appliance of one's own.
const NEXT: &str = "
Metrics of a running appliance: http://127.0.0.1:9108/metrics
Next, with a configuration of your own (conf/ has examples):
  polder check -c polder.yaml
  polder run -c polder.yaml
  polder show services
  polder show connections
  polder set server SERVICE SERVER weight 0
";
