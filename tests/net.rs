//! The appliance live: real clients and servers in network namespaces, over packet sockets, without hugepages.
//!
//! Needs root, or `unshare -Urn`; a test that can't have it says so loudly. One test at a time: each has the host's
//! processors to itself, and times are wall times.
#![cfg(feature = "dpdk")]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use polder::cli::client::Client;
use polder::cli::demo::lab::{Lab, Namespace, Process, need, run};
use serde_json::Value;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The right to use the host, or `None`, said loudly, where namespaces or programs can't be had.
fn host(test: &str, programs: &[&str]) -> Option<MutexGuard<'static, ()>> {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = vec!["ip", "unshare", "nsenter", "setpriv", "sysctl", "ethtool"];
    all.extend(programs);
    let possible = need(&all).and_then(|()| Lab::new()?.namespace("probe").map(drop));
    match possible {
        Ok(()) => Some(guard),
        Err(e) => {
            eprintln!("SKIPPED: {test}: {e}");
            None
        }
    }
}

/// A client, the director and the servers, wired up; the appliance runs.
struct Live {
    appliance: Process,
    control: Client,
    client: Namespace,
    servers: Namespace,
    director: Namespace,
    _switch: Option<Namespace>,
    lab: Lab,
}

#[derive(Clone, Copy, PartialEq)]
enum Arms {
    One,
    Two,
}

const VIP: &str = "192.0.2.100";
const VIP6: &str = "2001:db8:1::100";
const SERVERS: [&str; 3] = ["11", "12", "13"];

fn server4(n: &str, arms: Arms) -> String {
    if arms == Arms::One {
        format!("192.0.2.{n}")
    } else {
        format!("10.0.0.{n}")
    }
}

fn server6(n: &str, arms: Arms) -> String {
    if arms == Arms::One {
        format!("2001:db8:1::{n}")
    } else {
        format!("2001:db8:2::{n}")
    }
}

fn service(
    name: &str,
    proto: &str,
    addr: &str,
    port: u16,
    servers: &[String],
    forwarding: &str,
) -> String {
    let mut text = format!(
        "  - name: {name}\n    protocol: {proto}\n    address: \"{addr}\"\n    port: {port}\n    scheduler: rr\n    servers:\n"
    );
    for s in servers {
        text.push_str(&format!(
            "      - {{address: \"{s}\", port: {port}, forwarding: {forwarding}}}\n"
        ));
    }
    text
}

/// TCP port 80 on both families, three servers each.
fn web(arms: Arms) -> String {
    let v4: Vec<_> = SERVERS.iter().map(|n| server4(n, arms)).collect();
    let v6: Vec<_> = SERVERS.iter().map(|n| server6(n, arms)).collect();
    service("web", "tcp", VIP, 80, &v4, "masq") + &service("web6", "tcp", VIP6, 80, &v6, "masq")
}

/// iperf3's port on both families, one server each.
fn bulk(proto: &str, forwarding: &str) -> String {
    let one = |name: &str, vip, server: &str| {
        service(name, proto, vip, 5201, &[server.to_owned()], forwarding)
    };
    one(proto, VIP, "10.0.0.11") + &one(&format!("{proto}6"), VIP6, "2001:db8:2::11")
}

/// Where the services of [`web`] are.
fn urls() -> [String; 2] {
    [format!("http://{VIP}/"), format!("http://[{VIP6}]/")]
}

fn cores(workers: usize) -> Vec<usize> {
    let all: Vec<_> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .iter()
        .map(|c| c.id)
        .collect();
    (0..workers)
        .map(|i| i + 1)
        .map(|i| {
            if all.contains(&i) {
                i
            } else {
                all[i % all.len()]
            }
        })
        .collect()
}

fn config(lab: &Lab, arms: Arms, workers: usize, services: &str) -> String {
    let mut cores = cores(workers);
    // A processor can have one worker only; a small host gets as many as it can.
    cores.sort_unstable();
    cores.dedup();
    let ports = match arms {
        Arms::Two => {
            "  - {name: wan0, device: \"net_af_packet0,iface=wan\", addresses: [192.0.2.10/24, \"2001:db8:1::10/64\"]}\n\
             \x20 - {name: lan0, device: \"net_af_packet1,iface=lan\", addresses: [10.0.0.1/24, \"2001:db8:2::1/64\"]}\n"
        }
        Arms::One => {
            "  - {name: wan0, device: \"net_af_packet0,iface=wan\", addresses: [192.0.2.10/24, \"2001:db8:1::10/64\"]}\n"
        }
    };
    format!(
        "dpdk: {{cores: {cores:?}, management_core: 0, hugepages: false, memory: 256M, idle: sleep}}\n\
         limits: {{connections: 256k, services: 16, servers: 64}}\nports:\n{ports}services:\n{services}\
         metrics: {{listen: \"127.0.0.1:9108\"}}\ncontrol: {{socket: \"{}\"}}\n",
        socket(lab).display()
    )
}

fn socket(lab: &Lab) -> PathBuf {
    lab.dir().join("control.sock")
}

/// Starts the appliance in a namespace.
fn run_polder(ns: &Namespace, options: &[&str], file: &Path, log: &Path) -> Process {
    let mut command = ns.command(env!("CARGO_BIN_EXE_polder"));
    command.arg("run").args(options).arg("-c").arg(file);
    ok(Process::start("polder", command, log))
}

fn ok<T>(result: Result<T, String>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

fn wait_for(what: &str, at_most: Duration, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < at_most, "{what}: not within {at_most:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Live {
    fn start(arms: Arms, workers: usize, services: &str) -> Self {
        let lab = ok(Lab::new());
        let (client, director, servers) = (
            ok(lab.namespace("client")),
            ok(lab.namespace("director")),
            ok(lab.namespace("servers")),
        );
        let mut wires = None;
        match arms {
            Arms::Two => {
                ok(lab.wire((&client, "c0"), (&director, "wan")));
                ok(lab.wire((&servers, "s0"), (&director, "lan")));
                ok(lab.give_to_polder(&director, "lan"));
            }
            Arms::One => {
                let switch = ok(lab.namespace("switch"));
                ok(switch.ip("link add br0 type bridge"));
                ok(switch.ip("link set br0 up"));
                for (ns, own, far) in [
                    (&client, "c0", "p0"),
                    (&servers, "s0", "p1"),
                    (&director, "wan", "p2"),
                ] {
                    ok(lab.wire((ns, own), (&switch, far)));
                    ok(switch.ip(&format!("link set {far} master br0")));
                }
                wires = Some(switch);
            }
        }
        ok(lab.give_to_polder(&director, "wan"));
        ok(client.ip("addr add 192.0.2.2/24 dev c0"));
        ok(client.ip("addr add 2001:db8:1::2/64 dev c0 nodad"));
        ok(client.sysctl("net.ipv4.ip_local_port_range=1025 65000"));
        ok(client.sysctl("net.ipv4.conf.all.rp_filter=0"));
        for n in SERVERS {
            ok(servers.ip(&format!("addr add {}/24 dev s0", server4(n, arms))));
            ok(servers.ip(&format!("addr add {}/64 dev s0 nodad", server6(n, arms))));
        }
        ok(servers.sysctl("net.ipv4.conf.s0.arp_notify=1"));
        if arms == Arms::Two {
            ok(servers.ip("route add default via 10.0.0.1"));
            ok(servers.ip("-6 route add default via 2001:db8:2::1"));
        } else {
            // The client is on the servers' network; their answers must go by the director all the same.
            ok(servers.ip("route add 192.0.2.2/32 via 192.0.2.10"));
            ok(servers.ip("-6 route add 2001:db8:1::2/128 via 2001:db8:1::10"));
            ok(servers.sysctl("net.ipv4.conf.all.accept_redirects=0"));
        }
        let file = ok(lab.write("polder.yaml", &config(&lab, arms, workers, services)));
        let appliance = run_polder(&director, &[], &file, &lab.dir().join("polder.log"));
        let control = ok(Client::new(&socket(&lab)));
        let mut live = Self {
            appliance,
            control,
            client,
            servers,
            director,
            _switch: wires,
            lab,
        };
        wait_for("the appliance", Duration::from_secs(30), || {
            assert!(live.appliance.is_running(), "{}", live.log());
            live.control.get("/v1/services").is_ok()
        });
        live
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.lab.dir().join("polder.log")).unwrap_or_default()
    }

    fn web_servers(&self, arms: Arms) -> Vec<Process> {
        let mut all = Vec::new();
        for n in SERVERS {
            for (family, addr) in [("v4", server4(n, arms)), ("v6", server6(n, arms))] {
                let addr: IpAddr = addr.parse().expect("an address");
                all.push(ok(self.lab.nginx(
                    &self.servers,
                    &format!("{family}-{n}"),
                    addr,
                )));
            }
        }
        all
    }

    fn first_answer(&self, url: &str) {
        wait_for(url, Duration::from_secs(10), || {
            self.client
                .run(&format!("curl -g -s -m 1 -o /dev/null {url}"))
                .is_ok()
        });
    }

    /// wrk's output after so many seconds; it must have seen no error.
    fn wrk(&self, arguments: &str, url: &str) -> String {
        let said = ok(self.client.run(&format!("wrk {arguments} {url}")));
        assert!(said.contains("requests in"), "{said}");
        assert!(
            !said.contains("Socket errors") && !said.contains("Non-2xx"),
            "{said}"
        );
        said
    }

    fn get(&self, path: &str) -> Value {
        ok(self.control.get(path))
    }

    /// Stops the appliance: it ends cleanly, and every frame it received has met one fate.
    fn finish(mut self) {
        // The last frames may still be on their way when the counters are read.
        wait_for("one fate for every frame", Duration::from_secs(3), || {
            let workers = self.get("/v1/workers");
            let workers = workers["workers"].as_array().expect("a list");
            let sum = |names: &[&str]| -> u64 {
                let of = |w: &Value| {
                    names
                        .iter()
                        .map(|n| w[*n].as_u64().expect("a number"))
                        .sum::<u64>()
                };
                workers.iter().map(of).sum()
            };
            sum(&["received", "handed_in"])
                == sum(&["transmitted", "punted", "dropped", "held", "handed_out"])
        });
        let status = ok(self.appliance.stop());
        assert!(status.success(), "{status}: {}", self.log());
        let log = self.log();
        assert!(!log.contains("buffer"), "no buffer is lost:\n{log}");
        let links = ok(self.director.ip("-o link"));
        assert!(
            !links.contains("polder-"),
            "its interfaces are gone:\n{links}"
        );
    }
}

fn nat(arms: Arms, workers: usize, seconds: u64) {
    let live = Live::start(arms, workers, &web(arms));
    let _servers = live.web_servers(arms);
    for url in urls() {
        live.first_answer(&url);
        live.wrk(&format!("-t 2 -c 200 -d {seconds} --timeout 5"), &url);
    }
    if workers > 1 && cores(workers).len() > 1 {
        let workers = live.get("/v1/workers");
        assert!(
            workers["workers"][1]["handed_in"].as_u64() > Some(0),
            "frames are handed over: {workers}"
        );
    }
    live.finish();
}

#[test]
fn nat_two_armed_with_one_worker() {
    let Some(_host) = host("nat_two_armed_with_one_worker", &["nginx", "wrk", "curl"]) else {
        return;
    };
    nat(Arms::Two, 1, 2);
}

#[test]
fn nat_two_armed_with_two_workers() {
    let Some(_host) = host("nat_two_armed_with_two_workers", &["nginx", "wrk", "curl"]) else {
        return;
    };
    nat(Arms::Two, 2, 10);
}

#[test]
fn nat_two_armed_with_three_workers() {
    let Some(_host) = host(
        "nat_two_armed_with_three_workers",
        &["nginx", "wrk", "curl"],
    ) else {
        return;
    };
    nat(Arms::Two, 3, 2);
}

#[test]
fn nat_one_armed_with_one_two_and_three_workers() {
    let Some(_host) = host("nat_one_armed", &["nginx", "wrk", "curl"]) else {
        return;
    };
    for workers in 1..=3 {
        nat(Arms::One, workers, 2);
    }
}

#[test]
fn twenty_thousand_short_connections_all_succeed() {
    let Some(_host) = host(
        "twenty_thousand_short_connections",
        &["nginx", "curl", "ab"],
    ) else {
        return;
    };
    let live = Live::start(Arms::Two, 2, &web(Arms::Two));
    let _servers = live.web_servers(Arms::Two);
    let url = format!("http://{VIP}/");
    live.first_answer(&url);
    let said = ok(live
        .client
        .run(&format!("ab -q -n 20000 -c 50 -s 10 {url}")));
    let count = |name: &str| {
        let line = said
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap_or_else(|| panic!("{said}"));
        line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok())
    };
    assert_eq!(
        (count("Complete requests:"), count("Failed requests:")),
        (Some(20_000), Some(0)),
        "{said}"
    );
    live.finish();
}

/// Runs iperf3 and checks that bytes flowed in every second. A host that has no time for us for a second is no fault of
/// ours: one that stalls is told and tried once more.
fn iperf(live: &Live, arguments: &str) {
    if let Err(first) = try_iperf(live, arguments) {
        eprintln!("tried again: {first}");
        ok(try_iperf(live, arguments));
    }
}

fn try_iperf(live: &Live, arguments: &str) -> Result<(), String> {
    let text = live
        .client
        .run(&format!("iperf3 -J -t 4 -i 1 {arguments}"))?;
    let report: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let intervals = report["intervals"].as_array().ok_or(&text)?;
    if intervals.len() < 4 {
        return Err(text);
    }
    for i in intervals {
        if i["sum"]["bytes"].as_f64().unwrap_or(0.0) <= 0.0 {
            let sum = &i["sum"];
            return Err(format!("a second without a byte ({arguments}): {sum}"));
        }
    }
    Ok(())
}

/// To and from both virtual addresses.
fn iperf_both_ways(live: &Live) {
    for vip in [VIP, VIP6] {
        iperf(live, &format!("-c {vip}"));
        iperf(live, &format!("-R -c {vip}"));
    }
}

fn iperf_server(live: &Live) -> Process {
    let mut command = live.servers.command("iperf3");
    command.args(["-s", "--forceflush"]);
    let log = live.lab.dir().join("iperf.log");
    let server = ok(Process::start("iperf3", command, &log));
    wait_for("iperf3", Duration::from_secs(10), || {
        std::fs::read_to_string(&log).is_ok_and(|said| said.contains("listening"))
    });
    server
}

#[test]
fn bulk_transfers_flow_every_second_through_nat() {
    let Some(_host) = host("bulk_transfers_nat", &["iperf3"]) else {
        return;
    };
    let services = bulk("tcp", "masq");
    let live = Live::start(Arms::Two, 2, &services);
    let _server = iperf_server(&live);
    ok(live.client.run(&format!("ping -c 1 -W 3 {VIP}")));
    iperf_both_ways(&live);
    live.finish();
}

/// Whether the kernel has SCTP sockets.
fn kernel_has_sctp() -> bool {
    // It is a module on most; where it can't be loaded the list below says so.
    let _ = Command::new("modprobe").arg("sctp").output();
    std::fs::read_to_string("/proc/net/protocols")
        .is_ok_and(|protocols| protocols.lines().any(|line| line.starts_with("SCTP")))
}

#[test]
fn sctp_between_real_sockets_flows_every_second_through_nat() {
    let Some(_host) = host("sctp_nat", &["iperf3"]) else {
        return;
    };
    if !kernel_has_sctp() {
        eprintln!("SKIPPED: sctp_nat: this kernel has no SCTP sockets (module sctp)");
        return;
    }
    // iperf3 agrees on a test over TCP.
    let services = bulk("tcp", "masq") + &bulk("sctp", "masq");
    let live = Live::start(Arms::Two, 2, &services);
    let _server = iperf_server(&live);
    ok(live.client.run(&format!("ping -c 1 -W 3 {VIP}")));
    for arguments in [
        format!("--sctp -c {VIP}"),
        format!("--sctp -R -c {VIP}"),
        format!("--sctp -c {VIP6}"),
    ] {
        iperf(&live, &arguments);
    }
    live.finish();
}

/// Gives the servers the virtual addresses and a way to the client that is not the director's.
fn answer_directly(live: &Live) {
    ok(live.lab.wire((&live.servers, "d0"), (&live.client, "d1")));
    for (ns, name, n) in [(&live.servers, "d0", 1), (&live.client, "d1", 2)] {
        ok(ns.ip(&format!("addr add 198.18.0.{n}/30 dev {name}")));
        ok(ns.ip(&format!("addr add 2001:db8:d::{n}/64 dev {name} nodad")));
        ok(ns.sysctl(&format!("net.ipv4.conf.{name}.rp_filter=0")));
    }
    for s in [
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.s0.rp_filter=0",
        "net.ipv4.conf.s0.arp_ignore=1",
    ] {
        ok(live.servers.sysctl(s));
    }
    ok(live.servers.ip(&format!("addr add {VIP}/32 dev lo")));
    ok(live
        .servers
        .ip(&format!("addr add {VIP6}/128 dev lo nodad")));
    ok(live.servers.ip("route add 192.0.2.0/24 via 198.18.0.2"));
    ok(live
        .servers
        .ip("-6 route add 2001:db8:1::/64 via 2001:db8:d::2"));
}

#[test]
fn bulk_transfers_flow_every_second_through_direct_routing() {
    let Some(_host) = host("bulk_transfers_direct", &["iperf3"]) else {
        return;
    };
    let services = bulk("tcp", "direct");
    let live = Live::start(Arms::Two, 2, &services);
    answer_directly(&live);
    let _server = iperf_server(&live);
    iperf_both_ways(&live);
    live.finish();
}

/// Takes tunnels' packets off raw sockets and, for GUE, UDP sockets, and gives what is inside to the kernel by a TUN
/// device. The kernels of test hosts often have no tunnel module. What a GRE checksum or a GUE header says wrong ends it.
const DECAPSULATOR: &str = r#"
import fcntl, os, select, socket, struct
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH22x", b"decap", 0x1001))
os.system("ip link set decap up mtu 1500")
for path in ("all", "decap"):
    open("/proc/sys/net/ipv4/conf/%s/rp_filter" % path, "w").write("0")
s4 = [socket.socket(socket.AF_INET, socket.SOCK_RAW, p) for p in (4, 41, 47)]
s6 = [socket.socket(socket.AF_INET6, socket.SOCK_RAW, p) for p in (4, 41, 47)]
gue = [socket.socket(f, socket.SOCK_DGRAM) for f in (socket.AF_INET, socket.AF_INET6)]
gue[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
for s, any_address in zip(gue, ("0.0.0.0", "::")):
    s.bind((any_address, 6080))
def checksum(data):
    words = struct.unpack("!%dH" % ((len(data) + 1) // 2), data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total
print("ready", flush=True)
while True:
    for s in select.select(s4 + s6 + gue, [], [])[0]:
        packet = s.recv(65535)
        if s in s4:
            packet = packet[(packet[0] & 15) * 4:]
        if s in gue:
            assert packet[:1] == b"\0" and packet[2:4] == b"\0\0", packet[:4]
            assert packet[1] == (4 if packet[4] >> 4 == 4 else 41), packet[:5]
            packet = packet[4:]
        elif s.proto == 47:
            flags, kind = struct.unpack("!HH", packet[:4])
            assert flags == 0 or (flags == 0x8000 and checksum(packet) == 0xffff), packet[:8]
            packet = packet[8 if flags else 4:]
            assert kind == (0x0800 if packet[0] >> 4 == 4 else 0x86dd), kind
        os.write(tun, packet)
"#;

#[test]
fn tunnels_reach_a_real_endpoint_in_all_mixes() {
    let Some(_host) = host("tunnels", &["nginx", "curl", "wrk", "python3"]) else {
        return;
    };
    let tunnels = [
        "tunnel",
        "tunnel, tunnel: {type: gue, port: 6080, checksum: csum}",
        "tunnel, tunnel: {type: gre, checksum: csum}",
    ];
    let ends = [("v4", "10.0.0.11"), ("v6", "2001:db8:2::11")];
    for (tunnel, (outer, server)) in tunnels.iter().flat_map(|t| ends.map(|e| (t, e))) {
        let services = service("web", "tcp", VIP, 80, &[server.into()], tunnel)
            + &service("web6", "tcp", VIP6, 80, &[server.into()], tunnel);
        let live = Live::start(Arms::Two, 2, &services);
        answer_directly(&live);
        let script = ok(live.lab.write("decap.py", DECAPSULATOR));
        let mut command = live.servers.command("python3");
        command.arg(script);
        let log = live.lab.dir().join("decap.log");
        let _decapsulator = ok(Process::start("decapsulator", command, &log));
        wait_for("the decapsulator", Duration::from_secs(10), || {
            std::fs::read_to_string(&log).is_ok_and(|t| t.contains("ready"))
        });
        let _servers: Vec<_> = [VIP, VIP6]
            .iter()
            .enumerate()
            .map(|(i, a)| {
                ok(live
                    .lab
                    .nginx(&live.servers, &format!("t{i}"), a.parse().expect("address")))
            })
            .collect();
        for url in urls() {
            live.first_answer(&url);
            let said = live.wrk("-t 1 -c 20 -d 2 --timeout 5", &url);
            assert!(said.contains("requests in"), "{tunnel}, {outer}: {said}");
        }
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(!log.contains("Error"), "{tunnel}, {outer}: {log}");
        live.finish();
    }
}

#[test]
fn every_checksum_is_right_at_both_ends() {
    let Some(_host) = host("checksums", &["nginx", "curl", "wrk", "tcpdump", "tshark"]) else {
        return;
    };
    let live = Live::start(Arms::Two, 2, &web(Arms::Two));
    let _servers = live.web_servers(Arms::Two);
    for url in urls() {
        live.first_answer(&url);
    }
    let mut captures = Vec::new();
    for (ns, name) in [(&live.client, "c0"), (&live.servers, "s0")] {
        let file = live.lab.dir().join(format!("{name}.pcap"));
        let mut command = ns.command("tcpdump");
        command
            .args(["-i", name, "-n", "-U", "-Z", "root", "-c", "20000", "-w"])
            .arg(&file);
        let log = live.lab.dir().join(format!("{name}.log"));
        let process = ok(Process::start("tcpdump", command, &log));
        wait_for("tcpdump", Duration::from_secs(5), || {
            std::fs::read_to_string(&log).is_ok_and(|t| t.contains("listening"))
        });
        captures.push((process, file));
    }
    for url in urls() {
        live.wrk("-t 1 -c 10 -d 1", &url);
    }
    for (mut process, file) in captures {
        let _ = process.stop();
        let tshark = |filter: &str| {
            let mut command = Command::new("tshark");
            for check in [
                "ip.check_checksum",
                "tcp.check_checksum",
                "udp.check_checksum",
            ] {
                command.arg("-o").arg(format!("{check}:TRUE"));
            }
            command.arg("-r").arg(&file).args(["-Y", filter]);
            ok(run(command)).lines().count()
        };
        assert!(
            tshark("tcp") > 1000,
            "{}: the capture has traffic",
            file.display()
        );
        // Linux writes 0xffff where a TCP checksum comes out as 0: the same in one's complement, and not ours.
        let bad = tshark(
            "ip.checksum.status==\"Bad\" || udp.checksum.status==\"Bad\" || \
             (tcp.checksum.status==\"Bad\" && tcp.checksum != 0xffff)",
        );
        assert_eq!(bad, 0, "{}: wrong checksums", file.display());
    }
    live.finish();
}

#[test]
fn the_kernel_does_its_part_while_traffic_flows() {
    let Some(_host) = host(
        "the_kernels_part",
        &["nginx", "curl", "wrk", "ping", "python3"],
    ) else {
        return;
    };
    let live = Live::start(Arms::Two, 2, &web(Arms::Two));
    let _servers = live.web_servers(Arms::Two);
    let url = format!("http://{VIP}/");
    live.first_answer(&url);
    let mut load = live.client.command("wrk");
    load.args(["-t", "1", "-c", "20", "-d", "12", "--timeout", "8", &url]);
    let mut load = ok(Process::start("wrk", load, &live.lab.dir().join("wrk.log")));

    for addr in [VIP, VIP6, "192.0.2.10", "2001:db8:1::10"] {
        ok(live.client.run(&format!("ping -c 3 -i 0.2 -W 2 {addr}")));
    }
    // TCP to the director's own address, as ssh would be.
    let mut own = live.director.command("python3");
    own.args([
        "-m",
        "http.server",
        "2222",
        "--bind",
        "192.0.2.10",
        "--directory",
        "/usr/share/doc",
    ]);
    let _own = ok(Process::start(
        "the director's own",
        own,
        &live.lab.dir().join("own.log"),
    ));
    wait_for(
        "the director's own service",
        Duration::from_secs(10),
        || {
            live.client
                .run("curl -s -m 2 -o /dev/null http://192.0.2.10:2222/")
                .is_ok()
        },
    );
    // IPv6 neighbour discovery, from nothing.
    ok(live.client.ip("-6 neigh flush dev c0"));
    ok(live.client.run(&format!("ping -c 1 -W 3 {VIP6}")));
    // A server gets another MAC address, as when it fails over to another machine.
    ok(live.servers.ip("link set s0 address 02:00:00:00:99:01"));
    wait_for(
        "the service after the change",
        Duration::from_secs(5),
        || {
            (0..6).all(|_| {
                live.client
                    .run(&format!("curl -s -m 1 -o /dev/null {url}"))
                    .is_ok()
            })
        },
    );
    let neighbours = live.get("/v1/neighbours").to_string();
    assert!(neighbours.contains("02:00:00:00:99:01"), "{neighbours}");
    ok(load.wait(Duration::from_secs(30)));
    live.finish();
}

#[test]
fn commands_are_answered_and_reloads_lose_nothing_under_load() {
    let Some(_host) = host("reload_under_load", &["nginx", "curl", "wrk"]) else {
        return;
    };
    let live = Live::start(Arms::Two, 2, &web(Arms::Two));
    let _servers = live.web_servers(Arms::Two);
    let url = format!("http://{VIP}/");
    live.first_answer(&url);
    let mut load = live.client.command("wrk");
    load.args(["-t", "2", "-c", "100", "-d", "8", "--timeout", "5", &url]);
    let log = live.lab.dir().join("wrk.log");
    let mut load = ok(Process::start("wrk", load, &log));
    let file = live.lab.dir().join("polder.yaml");
    let good = std::fs::read_to_string(&file).expect("the configuration");
    let polder = |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_polder"));
        command
            .args(arguments.split(' '))
            .arg("--socket")
            .arg(socket(&live.lab));
        run(command)
    };
    for round in 0..8u16 {
        for what in [
            "services",
            "servers",
            "connections",
            "neighbours",
            "workers",
            "ports",
            "drops",
        ] {
            let began = Instant::now();
            ok(polder(&format!("show {what} -o json")));
            assert!(
                began.elapsed() < Duration::from_secs(2),
                "show {what} took {:?}",
                began.elapsed()
            );
        }
        // Another service comes and goes; what is there is not touched.
        let more = service(
            "more",
            "udp",
            VIP,
            6000 + round,
            &["10.0.0.11".into()],
            "masq",
        );
        let changed = good.replace("services:\n", &format!("services:\n{more}"));
        std::fs::write(&file, changed).expect("written");
        ok(polder("reload"));
        std::fs::write(&file, good.replace("scheduler: rr", "scheduler: none-such"))
            .expect("written");
        let refused = polder("reload").expect_err("an invalid file is refused");
        assert!(refused.contains("none-such"), "{refused}");
        let services = live.get("/v1/services").to_string();
        assert!(
            services.contains("\"more\""),
            "nothing has changed: {services}"
        );
    }
    ok(polder(&format!("set server web 10.0.0.11:80 weight {}", 3)));
    ok(load.wait(Duration::from_secs(30)));
    let said = std::fs::read_to_string(&log).expect("wrk's words");
    assert!(
        said.contains("requests in") && !said.contains("Socket errors"),
        "{said}"
    );
    let metrics = ok(live
        .director
        .run("curl -s -m 5 http://127.0.0.1:9108/metrics"));
    assert!(
        metrics.contains("polder_config_last_reload_successful 0"),
        "the last one was refused"
    );
    assert_eq!(
        ok(live
            .director
            .run("curl -s -m 5 http://127.0.0.1:9108/healthz"))
        .trim(),
        "ok"
    );
    live.finish();
}

#[test]
fn what_can_not_start_says_why_and_leaves_nothing_behind() {
    let Some(_host) = host("failed_starts", &[]) else {
        return;
    };
    let lab = ok(Lab::new());
    let (director, far) = (ok(lab.namespace("director")), ok(lab.namespace("far")));
    ok(lab.wire((&director, "wan"), (&far, "f0")));
    let port =
        "  - {name: wan0, device: \"net_af_packet0,iface=wan\", addresses: [192.0.2.10/24]}\n";
    let base = |dpdk: &str, port: &str, listen: &str| {
        format!(
            "dpdk: {{management_core: 0, memory: 128M, {dpdk}}}\nports:\n{port}\
             metrics: {{listen: \"{listen}\"}}\ncontrol: {{socket: \"{}\"}}\n",
            socket(&lab).display()
        )
    };
    let plain = "cores: [0], hugepages: false, idle: sleep";
    let cases = [
        (
            "an interface that is not there",
            base(
                plain,
                &port.replace("iface=wan", "iface=wan7"),
                "127.0.0.1:0",
            ),
            "wan7",
        ),
        (
            "a processor that is not there",
            base("cores: [900], hugepages: false", port, "127.0.0.1:0"),
            "900",
        ),
        (
            "no hugepages",
            base("cores: [0], hugepages: true, eal: []", port, "127.0.0.1:0"),
            "nr_hugepages",
        ),
        (
            "an address that can't be listened on",
            base(plain, port, "198.51.100.1:9108"),
            "198.51.100.1:9108",
        ),
        (
            "an unknown device",
            base(
                plain,
                &port.replace("net_af_packet0,iface=wan", "net_nonsense0"),
                "127.0.0.1:0",
            ),
            "net_nonsense0",
        ),
    ];
    let refused = |what: &str, text: &str, phrase: &str| {
        let file = ok(lab.write("bad.yaml", text));
        let log = lab.dir().join("bad.log");
        let mut process = run_polder(&director, &[], &file, &log);
        let status = ok(process.wait(Duration::from_secs(20)));
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        assert_eq!(status.code(), Some(1), "{what}: {said}");
        assert!(said.contains(phrase), "{what}: {said}");
    };
    for (what, text, phrase) in cases {
        let pages = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
        if what == "no hugepages" && pages.trim() != "0" {
            eprintln!(
                "SKIPPED: this host has hugepages ({}), their absence can't be tried",
                pages.trim()
            );
            continue;
        }
        refused(what, &text, phrase);
        let links = ok(director.ip("-o link"));
        assert!(
            !links.contains("polder-"),
            "{what} leaves an interface: {links}"
        );
        assert!(!socket(&lab).exists(), "{what} leaves its socket");
    }
    // The kernel interface's name is taken.
    ok(director.ip("tuntap add dev polder-wan0 mode tap"));
    let text = base(plain, port, "127.0.0.1:0");
    refused("an interface of its name", &text, "polder-wan0");
}

/// Echo servers on the addresses given, port 80.
const ECHO: &str = r#"
import asyncio, sys
async def serve(r, w):
    try:
        while (line := await r.readline()):
            w.write(line); await w.drain()
    except OSError:
        pass
    w.close()
async def main():
    servers = [await asyncio.start_server(serve, a, 80, backlog=1000) for a in sys.argv[1:]]
    await asyncio.gather(*(s.serve_forever() for s in servers))
asyncio.run(main())
"#;

/// So many connections to an address, a line in each every 100 ms, for so many seconds; how many broke, and the longest
/// time without an answer in ms.
const TALK: &str = r#"
import asyncio, sys, time
host, n, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
end = time.time() + seconds
broken, worst = 0, 0.0
async def one(i):
    global broken, worst
    try:
        r, w = await asyncio.wait_for(asyncio.open_connection(host, 80), 10)
        while time.time() < end:
            began = time.time()
            w.write(b'%d %f\n' % (i, began)); await w.drain()
            if not await asyncio.wait_for(r.readline(), 25): raise OSError('closed')
            worst = max(worst, time.time() - began)
            await asyncio.sleep(0.1)
        w.close()
    except (OSError, asyncio.TimeoutError):
        broken += 1
async def main():
    await asyncio.gather(*(one(i) for i in range(n)))
    print(f'connections {n} broken {broken} worst {int(worst * 1000)}')
asyncio.run(main())
"#;

#[test]
fn another_process_takes_over_and_no_connection_breaks() {
    let test = "another_process_takes_over_and_no_connection_breaks";
    let Some(_host) = host(test, &["python3", "curl"]) else {
        return;
    };
    let mut live = Live::start(Arms::Two, 2, &web(Arms::Two));
    let echo = ok(live.lab.write("echo.py", ECHO));
    let mut command = live.servers.command("python3");
    command
        .arg(&echo)
        .args(SERVERS.map(|n| server4(n, Arms::Two)));
    let log = |live: &Live, name: &str| live.lab.dir().join(name);
    let mut servers = ok(Process::start("echo", command, &log(&live, "echo.log")));
    std::thread::sleep(Duration::from_secs(1));
    let talk = ok(live.lab.write("talk.py", TALK));
    let mut command = live.client.command("python3");
    command.arg(&talk).args([VIP, "300", "12"]);
    let said = log(&live, "talk.log");
    let mut client = ok(Process::start("talk", command, &said));
    wait_for("300 connections", Duration::from_secs(10), || {
        let listed = live.get("/v1/connections?limit=1000");
        let rows = listed["connections"].as_array().map_or(0, Vec::len);
        rows >= 300
    });
    std::thread::sleep(Duration::from_millis(500));
    let file = live.lab.dir().join("polder.yaml");
    let after = run_polder(
        &live.director,
        &["--take-over"],
        &file,
        &log(&live, "after.log"),
    );
    let before = std::mem::replace(&mut live.appliance, after);
    let took = std::fs::read_to_string;
    wait_for("the take-over", Duration::from_secs(30), || {
        let text = took(log(&live, "after.log")).unwrap_or_default();
        assert!(live.appliance.is_running(), "{text}\n{}", live.log());
        text.contains("polder is running")
    });
    drop(before);
    wait_for("the client", Duration::from_secs(40), || {
        !client.is_running()
    });
    let said = took(said).unwrap_or_default();
    let text = took(log(&live, "after.log")).unwrap_or_default();
    eprintln!("{said}{text}");
    assert!(said.contains("connections 300 broken 0 "), "{said}\n{text}");
    assert!(
        text.contains("took over 300 connections") || text.contains("polder took over"),
        "{text}"
    );
    ok(servers.stop());
    live.finish();
}
