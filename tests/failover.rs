//! State sync between two live directors when something is wrong: `sync status` says what, and traffic does not notice.
//! What happens when a director dies is `polder demo failover`'s (tests/demo.rs).
#![cfg(feature = "dpdk")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::body::Bytes;
use polder::cli::client::Client;
use polder::cli::demo::lab::{Lab, Namespace, Process, need};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(50);
const VIP: &str = "198.51.100.1";

fn ok<T>(result: Result<T, String>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

/// A director, its port's network, and what it says.
struct Director {
    polder: Option<Process>,
    control: Client,
    name: &'static str,
    ns: Namespace,
}

impl Director {
    fn new(lab: &Lab, name: &'static str) -> Self {
        Self {
            polder: None,
            control: ok(Client::new(&lab.dir().join(format!("{name}.sock")))),
            name,
            ns: ok(lab.namespace(name)),
        }
    }

    fn configure(&self, lab: &Lab, sync: &str) {
        let name = self.name;
        let text = format!(
            "dpdk: {{cores: [0], management_core: 0, hugepages: false, memory: 128M, idle: sleep}}\n\
             limits: {{connections: 16k, services: 16, servers: 64}}\n\
             ports: [{{name: wan0, device: \"net_af_packet0,iface=wan\", addresses: [192.0.2.10/24]}}]\n\
             services:\n  - {{name: web, protocol: tcp, address: {VIP}, port: 80, servers: [{{address: 192.0.2.11, port: 80}}]}}\n\
             sync: {{role: both, name: {name}, {sync}}}\n\
             metrics: {{listen: \"127.0.0.1:9108\"}}\ncontrol: {{socket: \"{}\"}}\n",
            lab.dir().join(format!("{name}.sock")).display()
        );
        ok(lab.write(&format!("{name}.yaml"), &text));
    }

    fn start(&mut self, lab: &Lab) {
        let name = self.name;
        let mut command = self.ns.command(env!("CARGO_BIN_EXE_polder"));
        let file = lab.dir().join(format!("{name}.yaml"));
        command.arg("run").arg("-c").arg(file);
        let log = lab.dir().join(format!("{name}.log"));
        self.polder = None;
        self.polder = Some(ok(Process::start(name, command, &log)));
        let control = &self.control;
        let up = || control.get("/v1/sync").is_ok();
        wait_for(&format!("director {name}"), || up().then_some(()));
    }

    fn sync(&self) -> Value {
        ok(self.control.get("/v1/sync"))
    }

    fn reload(&self) -> Result<Value, String> {
        self.control
            .request(&Method::POST, "/v1/reload", Bytes::new())
    }

    /// Waits until the state has this in its problem; the whole state.
    fn problem(&self, says: &str) -> Value {
        let began = Instant::now();
        loop {
            let state = self.sync();
            if state["problem"].as_str().is_some_and(|p| p.contains(says)) {
                return state;
            }
            assert!(began.elapsed() < PATIENCE, "not `{says}` in {state}");
            std::thread::sleep(STEP);
        }
    }

    /// Waits until it has everything of its peer.
    fn is_synchronised(&self) {
        wait_for("the peer", || {
            let state = self.sync();
            let peers = state["peers"].as_array().cloned().unwrap_or_default();
            let is = |p: &Value| p["state"] == "synchronised" && p["direction"] == "in";
            (peers.iter().any(is) && state["problem"].is_null()).then_some(())
        });
    }
}

fn wait_for<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(done) = is() {
            return done;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::sleep(STEP);
    }
}

fn key(path: &Path, digit: char, mode: u32) {
    let text = format!("1 {}\n", format!("0{digit}").repeat(31) + "ff");
    fs::write(path, text).expect("a key file");
    allow(path, mode);
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}

/// A page through the director.
fn traffic(client: &Namespace) {
    wait_for("a page", || {
        let page = client.run(&format!("curl -s -m 2 http://{VIP}/"));
        page.ok().filter(|p| p.contains("server"))
    });
    for _ in 0..20 {
        ok(client.run(&format!("curl -sf -m 2 -o /dev/null http://{VIP}/")));
    }
}

#[test]
fn what_is_wrong_with_sync_is_a_sentence_and_traffic_goes_on() {
    let tools = need(&[
        "ip", "unshare", "nsenter", "setpriv", "sysctl", "ethtool", "nginx", "curl",
    ]);
    if let Err(e) = tools.and_then(|()| Lab::new()?.namespace("probe").map(drop)) {
        eprintln!("SKIPPED: what_is_wrong_with_sync_is_a_sentence_and_traffic_goes_on: {e}");
        return;
    }
    let lab = ok(Lab::new());
    let (mut a, mut b) = (Director::new(&lab, "a"), Director::new(&lab, "b"));
    let client = ok(lab.namespace("client"));
    ok(lab.wire((&client, "c0"), (&b.ns, "wan")));
    ok(lab.wire((&client, "c1"), (&a.ns, "wan")));
    ok(lab.wire((&a.ns, "sync"), (&b.ns, "sync")));
    ok(lab.give_to_polder(&b.ns, "wan"));
    ok(lab.give_to_polder(&a.ns, "wan"));
    ok(a.ns.ip("addr add 192.168.81.1/24 dev sync"));
    ok(b.ns.ip("addr add 192.168.81.2/24 dev sync"));
    // Client and server are one host, whose packets to each other go by the director as each has its own address.
    ok(client.ip("addr add 192.0.2.2/24 dev c0"));
    let servers = ok(lab.namespace("servers"));
    ok(lab.wire((&servers, "s0"), (&client, "c2")));
    ok(client.ip("link add br0 type bridge"));
    for port in ["c0", "c2"] {
        ok(client.ip(&format!("link set {port} master br0")));
    }
    ok(client.ip("addr del 192.0.2.2/24 dev c0"));
    ok(client.ip("addr add 192.0.2.2/24 dev br0"));
    ok(client.ip("link set br0 up"));
    ok(client.ip(&format!("route add {VIP}/32 via 192.0.2.10")));
    ok(servers.ip("addr add 192.0.2.11/24 dev s0"));
    ok(servers.ip("route add 192.0.2.2/32 via 192.0.2.10"));
    ok(servers.sysctl("net.ipv4.conf.all.accept_redirects=0"));
    let _server = ok(lab.nginx(
        &servers,
        "server",
        "192.0.2.11".parse().expect("an address"),
    ));
    let (good, other) = (lab.dir().join("good.key"), lab.dir().join("other.key"));
    key(&good, '7', 0o600);
    key(&other, '8', 0o600);
    let ready = lab.dir().join("b.ready");
    let sync = |interface: &str, key: &Path| {
        let (key, ready) = (key.display(), ready.display());
        format!("interface: {interface}, key_file: {key}, ready: {{file: {ready}, timeout: 1s}}")
    };
    a.configure(
        &lab,
        &format!("interface: sync, key_file: {}", good.display()),
    );
    a.start(&lab);

    // No such interface, at the start.
    b.configure(&lab, &sync("nosuch", &good));
    b.start(&lab);
    let state = b.problem("there is no interface `nosuch`");
    assert_eq!(
        (&state["running"], &state["ready"]),
        (&false.into(), &false.into())
    );
    assert_eq!(fs::read_to_string(&ready).expect("the file"), "0\n");
    traffic(&client);

    // It comes to be there, and goes again.
    b.configure(&lab, &sync("sync", &good));
    ok(b.reload());
    b.is_synchronised();
    wait_for("ready", || {
        (fs::read_to_string(&ready).ok()? == "1\n").then_some(())
    });
    ok(b.ns.ip("link set sync name sync9"));
    b.problem("there is no interface `sync`");
    ok(b.ns.ip("link set sync9 name sync"));
    ok(b.ns.ip("link set sync up"));
    b.is_synchronised();
    traffic(&client);

    // Another secret under the same number.
    b.configure(&lab, &sync("sync", &other));
    ok(b.reload());
    let state =
        b.problem("192.168.81.1:8848 sends what is refused (forged): give both the same key file");
    assert_eq!(state["running"], true);
    a.problem("192.168.81.2:8848 sends what is refused");
    let rejected = state["rejected"].as_array().expect("a list");
    let forged = rejected
        .iter()
        .find(|r| r["reason"] == "forged")
        .expect("counted");
    assert!(forged["count"].as_u64() > Some(0));
    traffic(&client);

    // A file that others can read: what runs goes on, and what starts says so.
    b.configure(&lab, &sync("sync", &good));
    ok(b.reload());
    b.is_synchronised();
    allow(&good, 0o644);
    let said = ok(b.reload()).to_string();
    assert!(
        said.contains("others than its owner have access to it"),
        "{said}"
    );
    assert_eq!(b.sync()["running"], true, "by the keys of before");
    traffic(&client);
    b.start(&lab);
    let state = b.problem("`chmod 600` it");
    assert_eq!(
        (&state["running"], &state["ready"]),
        (&false.into(), &false.into())
    );
    traffic(&client);
    allow(&good, 0o600);
    b.is_synchronised();
    for director in [&mut a, &mut b] {
        let status = ok(director.polder.as_mut().expect("it runs").stop());
        assert!(status.success(), "{status}");
    }
    assert_eq!(fs::read_to_string(&ready).expect("the file"), "0\n");
}
