//! Two directors with keepalived, a client in front of them and servers behind.
//!
//! Owns the network and what runs on the directors. Knows nothing of the traffic. The client and the servers of direct
//! routing are on one segment with the directors' `wan`, those of NAT on another with `lan`; a wire of their own is for
//! state sync. keepalived moves one address on each segment: the next hop that the client sends virtual addresses'
//! packets to, and the gateway of the servers.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;

use super::super::super::args::DemoDevice;
use super::super::super::client::{Client, typed};
use super::super::driver;
use super::super::lab::{Lab, Namespace, Process};
use crate::mgmt::api::SyncStatus;

/// The next hop towards the virtual addresses, and the servers' gateway. keepalived moves them.
pub(super) const NEXT_HOP: &str = "192.0.2.1";
const GATEWAY: &str = "10.0.0.1";
/// The client's own address.
pub(super) const CLIENT: &str = "192.0.2.200";
/// Virtual addresses: not of the segment's network, so that nobody asks for their MAC addresses.
pub(super) const NAT: &str = "198.51.100.1";
pub(super) const DIRECT: &str = "198.51.100.2";
pub(super) const SIP: &str = "198.51.100.3";
/// Servers behind NAT, and those that answer by themselves.
pub(super) const SERVERS: [&str; 3] = ["10.0.0.11", "10.0.0.12", "10.0.0.13"];
pub(super) const DIRECT_SERVERS: [&str; 2] = ["192.0.2.21", "192.0.2.22"];
/// Ports of the services.
pub(super) const TCP_PORT: u16 = 7000;
pub(super) const PROBE_PORT: u16 = 7001;
pub(super) const SIP_PORT: u16 = 5060;

/// How often it is looked whether a director has the next hop's address.
const LOOK: Duration = Duration::from_millis(5);

/// One of the two.
#[derive(Debug)]
pub(super) struct Director {
    // Dropped in this order.
    watch: Watch,
    keepalived: Option<Process>,
    polder: Option<Process>,
    /// The control socket.
    pub control: Client,
    name: &'static str,
    dir: PathBuf,
    ns: Namespace,
}

impl Director {
    fn new(lab: &Lab, name: &'static str, ns: Namespace) -> Result<Self, String> {
        let control = Client::new(&lab.dir().join(format!("{name}.sock")))?;
        let watch = Watch::start(&ns)?;
        Ok(Self {
            watch,
            keepalived: None,
            polder: None,
            control,
            name,
            dir: lab.dir().to_owned(),
            ns,
        })
    }

    fn file(&self, end: &str) -> PathBuf {
        self.dir.join(format!("{}.{end}", self.name))
    }

    /// Starts Polder, and does not wait for it.
    pub(super) fn start(&mut self) -> Result<(), String> {
        let exe = std::env::current_exe().map_err(|e| format!("this program's file: {e}"))?;
        let mut command = self.ns.command(&exe.to_string_lossy());
        command.arg("run").arg("-c").arg(self.file("yaml"));
        let name = format!("polder run ({})", self.name);
        self.polder = Some(Process::start(&name, command, &self.file("log"))?);
        Ok(())
    }

    /// Waits until it serves.
    pub(super) fn wait_until_up(&mut self) -> Result<(), String> {
        let began = Instant::now();
        while self.control.get("/v1/sync").is_err() {
            let runs = self.polder.as_mut().is_some_and(Process::is_running);
            if !runs || began.elapsed() > Duration::from_secs(30) {
                let log = fs::read_to_string(self.file("log")).unwrap_or_default();
                return Err(format!("director {} did not start:\n{log}", self.name));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn start_keepalived(&mut self, priority: u8, own: u8) -> Result<(), String> {
        let text = keepalived(&self.file("ready"), priority, own);
        let conf = self.dir.join(format!("{}.keepalived.conf", self.name));
        fs::write(&conf, text).map_err(|e| format!("{} can't be written: {e}", conf.display()))?;
        let mut command = self.ns.command("keepalived");
        // In the foreground, only VRRP, and nothing of the host's own keepalived.
        command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
        command.arg("--use-file").arg(conf);
        command.arg("--pid").arg(self.file("keepalived.pid"));
        command.arg("--vrrp_pid").arg(self.file("vrrp.pid"));
        let log = self.file("keepalived.log");
        self.keepalived = Some(Process::start("keepalived", command, &log)?);
        Ok(())
    }

    /// Ends Polder as a crash would.
    pub(super) fn kill(&mut self) {
        if let Some(polder) = &mut self.polder {
            polder.kill();
        }
    }

    /// Stops Polder in an orderly way.
    pub(super) fn stop(&mut self) -> Result<ExitStatus, String> {
        let polder = self.polder.as_mut();
        polder.map_or_else(|| Err("it does not run".to_owned()), Process::stop)
    }

    /// State sync as it tells of it.
    pub(super) fn sync(&self) -> Result<SyncStatus, String> {
        typed(self.control.get("/v1/sync")?)
    }

    /// Whether keepalived may make it the master.
    pub(super) fn is_ready(&self) -> bool {
        fs::read_to_string(self.file("ready")).is_ok_and(|text| text.trim() == "1")
    }

    /// When it got the next hop's address last, while it has it.
    pub(super) fn holds_since(&self) -> Option<Instant> {
        self.watch.holds_since()
    }

    /// How often it got the next hop's address.
    pub(super) fn takings(&self) -> usize {
        let seen = self.watch.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).takings
    }

    /// Processor time of the management core so far, in seconds.
    pub(super) fn management_seconds(&self) -> f64 {
        let id = self.polder.as_ref().map_or(0, Process::id);
        // The first thread of the process is the management core.
        let stat = fs::read_to_string(format!("/proc/{id}/task/{id}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_ascii_whitespace().skip(11).take(2);
        ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        if let Some(keepalived) = &mut self.keepalived {
            // Its child ends with it only if it may end it itself.
            let _ = keepalived.stop();
        }
    }
}

/// What keepalived is told, as docs/failover.md has it. `own` is the last part of the director's own addresses.
pub(super) fn keepalived(ready: &Path, priority: u8, own: u8) -> String {
    format!(
        "global_defs {{\n\
         \x20   router_id polder{own}\n\
         \x20   dynamic_interfaces\n\
         }}\n\
         track_file polder_ready {{\n\
         \x20   file \"{}\"\n\
         \x20   weight 50\n\
         }}\n\
         vrrp_instance gateways {{\n\
         \x20   interface polder-wan0\n\
         \x20   version 3\n\
         \x20   virtual_router_id 51\n\
         \x20   priority {priority}\n\
         \x20   advert_int 0.2\n\
         \x20   virtual_ipaddress {{\n\
         \x20       {NEXT_HOP}/32 dev polder-wan0\n\
         \x20       {GATEWAY}/32 dev polder-lan0\n\
         \x20   }}\n\
         \x20   track_interface {{\n\
         \x20       polder-lan0\n\
         \x20   }}\n\
         \x20   track_file {{\n\
         \x20       polder_ready\n\
         \x20   }}\n\
         }}\n",
        ready.display()
    )
}

/// Looks in a thread of its own who has the next hop's address.
#[derive(Debug)]
struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<Option<()>>>,
}

#[derive(Debug, Default)]
struct Seen {
    since: Option<Instant>,
    takings: usize,
}

impl Watch {
    fn start(ns: &Namespace) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stops, sees) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = ns.thread("watch", move || {
            while !stops.load(Ordering::Relaxed) {
                let has = has_next_hop();
                let mut seen = sees.lock().unwrap_or_else(PoisonError::into_inner);
                match (has, seen.since) {
                    (true, None) => {
                        seen.since = Some(Instant::now());
                        seen.takings += 1;
                    }
                    (false, Some(_)) => seen.since = None,
                    _ => {}
                }
                drop(seen);
                std::thread::sleep(LOOK);
            }
        })?;
        Ok(Self {
            stop,
            seen,
            thread: Some(thread),
        })
    }

    fn holds_since(&self) -> Option<Instant> {
        let seen = self.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).since
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

fn has_next_hop() -> bool {
    let next_hop: Option<IpAddr> = NEXT_HOP.parse().ok();
    let Ok(all) = getifaddrs() else {
        return false;
    };
    let addr = |a: nix::ifaddrs::InterfaceAddress| Some(a.address?.as_sockaddr_in()?.ip());
    all.filter_map(addr)
        .any(|a| Some(IpAddr::V4(a)) == next_hop)
}

/// The network with both directors.
#[derive(Debug)]
pub(super) struct Pair {
    // Dropped in this order: what runs in the namespaces before those, and the lab's folder last.
    /// The master as long as it can be.
    pub a: Director,
    /// The other one.
    pub b: Director,
    pub client: Namespace,
    /// All servers behind NAT.
    pub nat: Namespace,
    /// Servers that answer by themselves, each alone with the virtual address.
    pub direct: Vec<Namespace>,
    _switch: Namespace,
    pub lab: Lab,
}

impl Pair {
    /// Makes the network and starts both directors.
    pub(super) fn start(device: DemoDevice) -> Result<Self, String> {
        let lab = Lab::new()?;
        let switch = lab.namespace("switch")?;
        for bridge in ["wan", "lan"] {
            switch.ip(&format!("link add {bridge} type bridge mcast_snooping 0"))?;
            switch.ip(&format!("link set {bridge} up"))?;
        }
        let join = |ns: &Namespace, port: &str, bridge: &str, number: usize| {
            let plug = format!("plug{number}");
            lab.wire((ns, port), (&switch, &plug))?;
            switch
                .ip(&format!("link set {plug} master {bridge}"))
                .map(drop)
        };
        let client = lab.namespace("client")?;
        join(&client, "c0", "wan", 0)?;
        client.ip(&format!("addr add {CLIENT}/24 dev c0"))?;
        client.ip(&format!("route add 198.51.100.0/24 via {NEXT_HOP}"))?;
        client.sysctl("net.ipv4.ip_local_port_range=1025 65000")?;
        let nat = lab.namespace("nat")?;
        join(&nat, "s0", "lan", 1)?;
        for addr in SERVERS {
            nat.ip(&format!("addr add {addr}/24 dev s0"))?;
        }
        nat.ip(&format!("route add default via {GATEWAY}"))?;
        let mut direct = Vec::new();
        for (i, addr) in DIRECT_SERVERS.iter().enumerate() {
            let ns = lab.namespace(&format!("direct{i}"))?;
            join(&ns, "d0", "wan", 2 + i)?;
            ns.ip(&format!("addr add {addr}/24 dev d0"))?;
            // Nobody is to learn from it who has the virtual address.
            ns.sysctl("net.ipv4.conf.all.arp_ignore=1")?;
            ns.sysctl("net.ipv4.conf.all.arp_announce=2")?;
            ns.ip(&format!("addr add {DIRECT}/32 dev lo"))?;
            direct.push(ns);
        }
        let (a, b) = (lab.namespace("a")?, lab.namespace("b")?);
        lab.wire((&a, "sync"), (&b, "sync"))?;
        for (ns, own, number) in [(&a, 3, 4), (&b, 4, 6)] {
            ns.ip(&format!("addr add 192.168.81.{own}/24 dev sync"))?;
            join(ns, "wan", "wan", number)?;
            join(ns, "lan", "lan", number + 1)?;
            for port in ["wan", "lan"] {
                lab.give_to_polder(ns, port)?;
            }
        }
        write_key(&lab)?;
        let mut pair = Self {
            a: Director::new(&lab, "a", a)?,
            b: Director::new(&lab, "b", b)?,
            client,
            nat,
            direct,
            _switch: switch,
            lab,
        };
        let cores = cores();
        for (director, own) in [(&mut pair.a, 3), (&mut pair.b, 4)] {
            let worker = cores[usize::from(own - 2) % cores.len()];
            let text = config(device, director, own, (worker, cores[0]));
            pair.lab.write(&format!("{}.yaml", director.name), &text)?;
            director.start()?;
        }
        pair.a.wait_until_up()?;
        pair.b.wait_until_up()?;
        pair.a.start_keepalived(110, 3)?;
        pair.b.start_keepalived(100, 4)?;
        Ok(pair)
    }
}

/// The host's processors, the management core's first.
fn cores() -> Vec<usize> {
    let all = core_affinity::get_core_ids().unwrap_or_default();
    let mut cores: Vec<_> = all.iter().map(|c| c.id).collect();
    if cores.is_empty() {
        cores.push(0);
    }
    cores
}

fn write_key(lab: &Lab) -> Result<(), String> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = lab.dir().join("sync.key");
    let key = crate::mgmt::sync::takeover::one_time_key()?;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(&path)
        .and_then(|mut file| file.write_all(key.as_bytes()))
        .map_err(|e| format!("{} can't be written: {e}", path.display()))
}

fn servers(addrs: &[&str], port: u16, forwarding: &str) -> String {
    let line =
        |a: &&str| format!("      - {{address: {a}, port: {port}, forwarding: {forwarding}}}\n");
    addrs.iter().map(line).collect()
}

fn config(device: DemoDevice, d: &Director, own: u8, (worker, main): (usize, usize)) -> String {
    let driver = driver(device);
    let nat = |port| servers(&SERVERS, port, "masq");
    format!(
        "dpdk: {{cores: [{worker}], management_core: {main}, hugepages: false, memory: 256M, idle: sleep}}\n\
         limits: {{connections: 64k, services: 16, servers: 64}}\n\
         ports:\n\
         \x20 - {{name: wan0, device: \"{driver}0,iface=wan\", addresses: [192.0.2.{own}/24]}}\n\
         \x20 - {{name: lan0, device: \"{driver}1,iface=lan\", addresses: [10.0.0.{own}/24]}}\n\
         services:\n\
         \x20 - name: nat\n    protocol: tcp\n    address: {NAT}\n    port: {TCP_PORT}\n    scheduler: rr\n    servers:\n{}\
         \x20 - name: direct\n    protocol: tcp\n    address: {DIRECT}\n    port: {TCP_PORT}\n    scheduler: rr\n    servers:\n{}\
         \x20 - name: probe\n    protocol: udp\n    address: {NAT}\n    port: {PROBE_PORT}\n    scheduler: rr\n    servers:\n{}\
         \x20 - name: sip\n    protocol: udp\n    address: {SIP}\n    port: {SIP_PORT}\n    scheduler: rr\n    one_packet: true\n    \
         persistence: {{timeout: 60s, netmask: 0.0.0.0, engine: sip}}\n    servers:\n{}\
         sync:\n  role: both\n  interface: sync\n  name: {}\n  key_file: {}\n  ready: {{file: {}}}\n\
         metrics: {{listen: \"127.0.0.1:9108\"}}\n\
         control: {{socket: \"{}\"}}\n",
        nat(TCP_PORT),
        servers(&DIRECT_SERVERS, TCP_PORT, "direct"),
        nat(PROBE_PORT),
        nat(SIP_PORT),
        d.name,
        d.dir.join("sync.key").display(),
        d.file("ready").display(),
        d.file("sock").display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_what_keepalived_is_told() {
        let docs = include_str!("../../../../docs/failover.md");
        let told = keepalived(Path::new("/run/polder/ready"), 110, 3);
        let block: String = told.lines().map(|l| format!("    {l}\n")).collect();
        assert!(docs.contains(&block), "docs/failover.md lacks:\n{block}");
    }
}
