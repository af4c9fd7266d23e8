//! `polder ipvsadm` against a running appliance over memory devices: whole sessions, as an operator would see them.

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyper::Method;
use polder::cli::client::Client;
use polder::cli::ipvsadm::Front;
use polder::cli::ipvsadm::names::Names;
use polder::config;
use polder::io::mem::{MemHandle, MemIo};
use polder::mgmt::appliance::{self, OpenPort, Start};
use polder::mgmt::sync::takeover::Inheritance;
use polder::mgmt::{Detail, Loaded};
use polder::net::Mac;
use polder::net::build::Frame;
use polder::net::packet::tcp_flags;
use polder::worker::assemble::Sizes;
use serde_json::{Value, json};

/// Services that have names, as `/etc/services` lists them.
const SERVICES: &str = "\
http 80/tcp
http-alt 8080/tcp webcache
sip 5060/udp
";

/// What every appliance of these tests has besides its services.
const AROUND: &str = "
ports:
- {name: wan0, device: memory, addresses: [192.0.2.10/24, 10.0.0.10/24, '2001:db8::10/64'], kernel_interface: false,
   mac: '02:00:00:00:00:10'}
neighbours:
- {port: wan0, address: 192.0.2.1, mac: '02:00:00:00:00:01'}
- {port: wan0, address: 10.0.0.1, mac: '02:00:00:00:01:01'}
- {port: wan0, address: 10.0.0.2, mac: '02:00:00:00:01:02'}
routes:
- {to: 0.0.0.0/0, via: 192.0.2.1, port: wan0}
marks:
- {mark: 7, to: 192.0.2.99/32}
";

/// An appliance in a thread.
struct Polder {
    socket: PathBuf,
    file: Arc<Mutex<String>>,
    wire: MemHandle,
    names: Names,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

fn load(services: &str) -> Result<Loaded, Vec<String>> {
    let loaded = config::load_str("polder.yaml", &format!("{AROUND}{services}"));
    let loaded = loaded.map_err(|problems| {
        let told = problems.iter().map(ToString::to_string);
        told.collect::<Vec<_>>()
    })?;
    Ok(Loaded {
        setup: loaded.lowered.setup,
        sync: loaded.lowered.sync,
        ..Loaded::default()
    })
}

impl Polder {
    /// One with these services in its file, as YAML.
    fn start(services: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("control.sock");
        let (device, wire) = MemIo::with_handle();
        let file = Arc::new(Mutex::new(services.to_owned()));
        let read = Arc::clone(&file);
        let loaded = load(services).expect("valid");
        let control = socket.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let start = Start {
                loaded,
                config_path: "polder.yaml".into(),
                loader: Box::new(move || load(&read.lock().expect("not poisoned"))),
                ports: vec![OpenPort {
                    queues: vec![Some(device)],
                    mac: Mac([2, 0, 0, 0, 0, 0x10]),
                    frame: Box::new(|_| None),
                }],
                port_stats: Box::new(Vec::new),
                cores: vec![0],
                sizes: Sizes {
                    connections: 1000,
                    templates: 1000,
                    services: 64,
                    servers: 64,
                    seed: 1,
                },
                idle_sleep: Duration::from_micros(50),
                thread_guard: Box::new(|| Ok(Box::new(()) as Box<dyn Any>)),
                control,
                inherited: Inheritance::default(),
                metrics: (SocketAddr::from(([127, 0, 0, 1], 0)), Detail::Server),
            };
            let stop = async {
                // An error means that the test is over.
                let _ = stopped.await;
            };
            let ready = |_: &_| ready.send(()).expect("the test waits");
            appliance::run(start, stop, ready).expect("runs");
        });
        is_ready.recv().expect("it starts");
        let one = Ipv4Addr::new(10, 0, 0, 1);
        let forward = move |name: &str| (name == "one.example").then_some(one);
        let reverse = move |addr: IpAddr| (addr == one).then(|| "one.example".to_owned());
        Self {
            socket,
            file,
            wire,
            names: Names::new(SERVICES, Box::new(forward), Box::new(reverse)),
            stop: Some(stop),
            thread: Some(thread),
            _dir: dir,
        }
    }

    /// What a command line prints on both outputs, with the exit status behind it if it is not 0.
    fn says_with(&self, line: &str, input: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut input = input.as_bytes();
        let socket = self.socket.clone();
        let status = Front::new(socket, &self.names, &mut input, &mut out, &mut err).run(&words);
        let mut text = String::from_utf8(out).expect("text");
        text.push_str(std::str::from_utf8(&err).expect("text"));
        if status != 0 {
            text.push_str(&format!("[exit status {status}]\n"));
        }
        text
    }

    fn says(&self, line: &str) -> String {
        self.says_with(line, "")
    }

    /// Plays a session: each `$ ipvsadm …` must print what stands below it. A `¦` ends a line that ends in blanks.
    fn plays(&self, session: &str) {
        let mut lines = session.lines().peekable();
        while let Some(line) = lines.next() {
            let Some(words) = line.strip_prefix("$ ipvsadm") else {
                assert!(line.is_empty() || line.starts_with('#'), "{line}");
                continue;
            };
            let mut expected = String::new();
            while let Some(next) = lines.next_if(|l| !l.starts_with("$ ") && !l.is_empty()) {
                expected.push_str(next.strip_suffix('¦').unwrap_or(next));
                expected.push('\n');
            }
            let said = self.says(words);
            assert_eq!(masked(&said), expected, "{line}");
        }
    }

    fn api(&self, method: &Method, path: &str, body: &Value) -> Result<Value, String> {
        let client = Client::new(&self.socket)?;
        client.request(method, path, body.to_string().into())
    }

    fn get(&self, path: &str) -> Value {
        self.api(&Method::GET, path, &Value::Null).expect(path)
    }

    /// Receives a frame and waits until it was sent on.
    fn passes(&self, frame: &[u8]) {
        assert!(self.wire.push(frame), "the device takes it");
        let began = Instant::now();
        while self.wire.pop().is_none() {
            assert!(began.elapsed() < Duration::from_secs(30), "nothing is sent");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

impl Drop for Polder {
    fn drop(&mut self) {
        // It may have ended with a panic, which the test tells.
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the appliance fails"
            );
        }
    }
}

/// The same with all times left in place of `mm:ss`.
fn masked(text: &str) -> String {
    let line = |line: &str| {
        let mut words = line.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some(proto @ ("TCP" | "UDP" | "IP" | "SCTP")), Some(left), Some(rest))
                if left.len() == 5 && left.as_bytes()[2] == b':' =>
            {
                format!("{proto} mm:ss {rest}\n")
            }
            _ => format!("{line}\n"),
        }
    };
    text.lines().map(line).collect()
}

fn client(port: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 7], port))
}

/// A SYN from a port of the client's.
fn syn(port: u16, to: &str) -> Vec<u8> {
    let to = to.parse().expect("an address and a port");
    let frame = Frame::new().macs(Mac([2, 0, 0, 0, 0, 0x10]), Mac([2, 0, 0, 0, 0, 1]));
    frame.tcp(client(port), to, tcp_flags::SYN, 1, b"")
}

#[test]
fn services_and_servers_come_change_and_go() {
    Polder::start("services: []").plays(
        r"
$ ipvsadm -Ln
IP Virtual Server version 1.2.1 (size=1000)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
$ ipvsadm -A -t 192.0.2.80:80 -s rr
$ ipvsadm -a -t 192.0.2.80:80 -r 10.0.0.2:8080 -m -w 3 -x 100 -y 75
$ ipvsadm -a -t 192.0.2.80:80 -r 10.0.0.1:80 -m
$ ipvsadm -A -u 192.0.2.80:5060 -p 60 -M 0.0.0.0 -o --pe sip
$ ipvsadm -A -f 7 -s sh -b sh-port,sh-fallback -p
$ ipvsadm -a -f 7 -r 10.0.0.1 -g -w 0
$ ipvsadm -A -t [2001:db8::80]:80 -s mh -b mh-port -p 600 -M 64
$ ipvsadm -a -t [2001:db8::80]:80 -r [2001:db8::1]:80 -m
$ ipvsadm -a -t [2001:db8::80]:80 -r 10.0.0.1 -i --tun-type gue --tun-port 6080 --tun-csum
$ ipvsadm -A --sctp-service 192.0.2.80:2905
$ ipvsadm -Ln
IP Virtual Server version 1.2.1 (size=1000)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  192.0.2.80:80 rr
  -> 10.0.0.1:80                  Masq    1      0          0         ¦
  -> 10.0.0.2:8080                Masq    3      0          0         ¦
UDP  192.0.2.80:5060 wlc persistent 60 mask 0.0.0.0 pe sip ops
SCTP 192.0.2.80:2905 wlc
TCP  [2001:db8::80]:80 mh (mh-port) persistent 600 mask 64
  -> [2001:db8::1]:80             Masq    1      0          0         ¦
  -> 10.0.0.1:80                  Tunnel  1      0          0         ¦
FWM  7 sh (sh-fallback,sh-port) persistent 360
  -> 10.0.0.1:0                   Route   0      0          0         ¦
$ ipvsadm -E -t 192.0.2.80:80 -s wrr -p 100
$ ipvsadm -e -t 192.0.2.80:80 -r 10.0.0.2:8080 -m -w 5
$ ipvsadm -e -t 192.0.2.80:80 -r 10.0.0.1 -i
$ ipvsadm -E -u 192.0.2.80:5060 -s rr
$ ipvsadm -d -t [2001:db8::80]:80 -r 10.0.0.1:80
$ ipvsadm -D -f 7
$ ipvsadm -Ln --tun-info
IP Virtual Server version 1.2.1 (size=1000)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn
TCP  192.0.2.80:80 wrr persistent 100
  -> 10.0.0.1:80                  Tunnel  ipip          1      0          0         ¦
  -> 10.0.0.2:8080                Masq    n/a           5      0          0         ¦
UDP  192.0.2.80:5060 rr
SCTP 192.0.2.80:2905 wlc
TCP  [2001:db8::80]:80 mh (mh-port) persistent 600 mask 64
  -> [2001:db8::1]:80             Masq    n/a           1      0          0         ¦
$ ipvsadm -Ln --nosort -t 192.0.2.80:80
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  192.0.2.80:80 wrr persistent 100
  -> 10.0.0.1:80                  Tunnel  1      0          0         ¦
  -> 10.0.0.2:8080                Masq    5      0          0         ¦
$ ipvsadm -C
$ ipvsadm
IP Virtual Server version 1.2.1 (size=1000)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
",
    );
}

#[test]
fn what_can_not_be_is_refused_in_lvss_words_and_changes_nothing() {
    let polder = Polder::start("services: []");
    polder.plays(
        r"
$ ipvsadm -A -t 192.0.2.80:80 -s rr
$ ipvsadm -A -t 192.0.2.80:80 -s nosuch
Service already exists
[exit status 255]
$ ipvsadm -A -t 192.0.2.81:80 -s nosuch
Scheduler or persistence engine not found
[exit status 255]
$ ipvsadm -A -u 192.0.2.81:80 -p --pe nosuch
Scheduler or persistence engine not found
[exit status 255]
$ ipvsadm -E -t 192.0.2.80:80 -s nosuch
Scheduler or persistence engine not found
[exit status 255]
$ ipvsadm -E -t 192.0.2.80:80 -s rr -p --pe nosuch
Scheduler or persistence engine not found
[exit status 255]
$ ipvsadm -E -t 192.0.2.99:80 -s rr
No such service
[exit status 255]
$ ipvsadm -D -t 192.0.2.99:80
No such service
[exit status 255]
$ ipvsadm -Z -t 192.0.2.99:80
No such service
[exit status 255]
$ ipvsadm -L -n -t 192.0.2.99:80
No such service
[exit status 1]
$ ipvsadm -a -t 192.0.2.99:80 -r 10.0.0.1:80 -m
Service not defined
[exit status 255]
$ ipvsadm -e -t 192.0.2.99:80 -r 10.0.0.1:80 -m
Service not defined
[exit status 255]
$ ipvsadm -a -t 192.0.2.80:80 -r 10.0.0.1:80 -m
$ ipvsadm -a -t 192.0.2.80:80 -r 10.0.0.1:80 -m
Destination already exists
[exit status 255]
$ ipvsadm -e -t 192.0.2.80:80 -r 10.0.0.9:80 -m
No such destination
[exit status 255]
$ ipvsadm -d -t 192.0.2.80:80 -r 10.0.0.9:80
No such destination
[exit status 255]
$ ipvsadm -a -t 192.0.2.80:80 -r 10.0.0.2:80 -x 5 -y 6
Numerical result out of range
[exit status 255]
$ ipvsadm -e -t 192.0.2.80:80 -r 10.0.0.1:80 -m -y 5
Numerical result out of range
[exit status 255]
$ ipvsadm -e -t 192.0.2.80:80 -r 10.0.0.1:80 -m -w 65536
Numerical result out of range
[exit status 255]
$ ipvsadm -a -t 192.0.2.80:80 -r 224.0.0.1:80 -m
Invalid operation.  Possibly wrong module version, address not unicast, ...
polder: address: 224.0.0.1 is a multicast address, no address of a server
[exit status 255]
$ ipvsadm -a -t 192.0.2.80:80 -r 192.0.2.10:80 -m
Invalid operation.  Possibly wrong module version, address not unicast, ...
polder: address: 192.0.2.10 is the director's own address; servers run on other hosts
[exit status 255]
$ ipvsadm -A -u 192.0.2.81:80 --pe sip
polder: `--pe sip` does nothing without persistence; give `-p` as well
[exit status 255]
$ ipvsadm -A -t 192.0.2.81:80 -p 60 -M 255.0.255.0
Invalid operation.  Possibly wrong module version, address not unicast, ...
polder: persistence.netmask: the netmask `255.0.255.0` has holes; its ones must come first, as in 255.255.255.0
[exit status 255]
$ ipvsadm -A -f 7 -o
$ ipvsadm -a -f 7 -r 10.0.0.1 -m
Invalid operation.  Possibly wrong module version, address not unicast, ...
polder: one_packet: `one_packet` leaves no connection behind by which replies of `masq` servers could get the virtual address back, and a mark has none; use `forwarding: direct` or `tunnel`
[exit status 255]
$ ipvsadm -E -t 192.0.2.80:80 -s offh
Invalid operation.  Possibly wrong module version, address not unicast, ...
polder: scheduler: `offh` hashes a field of the payload; say which one with `payload_key: {offset: …, length: …}`
[exit status 255]
$ ipvsadm -Sn
-A -t 192.0.2.80:80 -s rr
-a -t 192.0.2.80:80 -r 10.0.0.1:80 -m -w 1
-A -f 7 -s wlc -o
",
    );
}

#[test]
fn what_is_saved_can_be_restored() {
    let polder = Polder::start("services: []");
    let rules = "\
-A -t 192.0.2.80:0 -s wlc -p 360
-A -t 192.0.2.80:80 -s mh -p 300 -M 255.255.255.0 -b mh-fallback,mh-port
-a -t 192.0.2.80:80 -r 10.0.0.1:80 -g -w 10
-a -t 192.0.2.80:80 -r 10.0.0.2:80 -i -w 20 --tun-type ipip
-a -t 192.0.2.80:80 -r 10.0.0.3:8080 -m -w 65535
-a -t 192.0.2.80:80 -r 10.0.0.4:80 -i -w 20 --tun-type gue --tun-port 6080 --tun-nocsum
-a -t 192.0.2.80:80 -r 10.0.0.5:80 -i -w 1 --tun-type gre --tun-csum
-A -u 192.0.2.80:5060 -s rr -p 60 -M 0.0.0.0 --pe sip -o
-A --sctp-service 192.0.2.80:2905 -s twos
-A -t [2001:db8::80]:80 -s rr -p 600 -M 64
-a -t [2001:db8::80]:80 -r [2001:db8::1]:80 -m -w 1
-a -t [2001:db8::80]:80 -r 10.0.0.1:80 -i -w 1 --tun-type gue --tun-port 6081 --tun-remcsum
-A -f 7 -s sh -p 10 -b sh-fallback,kernel_tables
-a -f 7 -r 10.0.0.1:0 -g -w 1
-A -f 8 -6 -s hprio -p 60 -M 0 --pe sip
";
    // Blank lines mean nothing, and neither does the program's name.
    let given = format!("\n  \nipvsadm {rules}");
    assert_eq!(polder.says_with("-R", &given), "");
    assert_eq!(polder.says("-Sn"), rules);
    // Once more from nothing, by names.
    let by_names = polder.says("-S");
    assert!(by_names.contains("-a -t 192.0.2.80:http -r one.example:http -g -w 10\n"));
    assert_eq!(polder.says("-C"), "");
    assert_eq!(polder.says_with("-R", &by_names), "");
    assert_eq!(polder.says("-Sn"), rules);
}

#[test]
fn a_restore_goes_on_behind_refusals_and_ends_at_nonsense() {
    let polder = Polder::start("services: []");
    let rules = "\
-A -t 192.0.2.80:80 -s rr
-a -t 192.0.2.80:80 -r 10.0.0.1:80 -q
-A -t 192.0.2.80:80 -s rr
-A -t 192.0.2.81:80 -s rr
";
    let told = "-q: unknown option\nService already exists\n";
    assert_eq!(polder.says_with("-R", rules), told);
    let told = "Service already exists\n[exit status 255]\n";
    assert_eq!(polder.says_with("-R", "-A -t 192.0.2.81:80\n"), told);
    let rules = "-A -t 192.0.2.82:80\n-A -t 192.0.2.83\n-A -t 192.0.2.84:80\n";
    let told = "Zero port specified for non-persistent service\n[exit status 2]\n";
    assert_eq!(polder.says_with("-R", rules), told);
    let told = "Try `ipvsadm -h' or 'ipvsadm --help' for more information.\n[exit status 255]\n";
    assert_eq!(polder.says_with("-R", "-R\n-A -t 192.0.2.85:80\n"), told);
    let left = "\
-A -t 192.0.2.80:80 -s rr
-A -t 192.0.2.81:80 -s rr
-A -t 192.0.2.82:80 -s wlc
";
    assert_eq!(polder.says("-Sn"), left);
}

#[test]
fn traffic_is_counted_from_the_last_zero_on() {
    let polder = Polder::start(
        "services: [{name: web, protocol: tcp, address: 192.0.2.80, port: 80, scheduler: rr, persistence: {timeout: 50s},
          servers: [{address: 10.0.0.1, port: 8080}]}]",
    );
    for port in 1000..1003 {
        polder.passes(&syn(port, "192.0.2.80:80"));
    }
    polder.plays(
        r"
$ ipvsadm -Ln --stats
IP Virtual Server version 1.2.1 (size=1000)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  192.0.2.80:80                       3        3        0      120        0
  -> 10.0.0.1:8080                       3        3        0      120        0
$ ipvsadm -L --exact --stats -t 192.0.2.80:80
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  192.0.2.80:http                     3        3        0      120        0
  -> one.example:http-alt                3        3        0      120        0
$ ipvsadm -Ln --persistent-conn
IP Virtual Server version 1.2.1 (size=1000)
Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn ¦
  -> RemoteAddress:Port
TCP  192.0.2.80:80 rr persistent 50
  -> 10.0.0.1:8080                1         1           3          0         ¦
$ ipvsadm -Lcn
IPVS connection entries
pro expire state       source             virtual            destination
TCP mm:ss  SYN_RECV    198.51.100.7:1000  192.0.2.80:80      10.0.0.1:8080
TCP mm:ss  SYN_RECV    198.51.100.7:1001  192.0.2.80:80      10.0.0.1:8080
TCP mm:ss  SYN_RECV    198.51.100.7:1002  192.0.2.80:80      10.0.0.1:8080
TCP mm:ss  NONE        198.51.100.7:0     192.0.2.80:80      10.0.0.1:8080
$ ipvsadm -Lc --persistent-conn
IPVS connection entries
pro expire state       source             virtual            destination        pe name          pe_data
TCP mm:ss  SYN_RECV    198.51.100.7:1000  192.0.2.80:http    one.example:http-alt
TCP mm:ss  SYN_RECV    198.51.100.7:1001  192.0.2.80:http    one.example:http-alt
TCP mm:ss  SYN_RECV    198.51.100.7:1002  192.0.2.80:http    one.example:http-alt
TCP mm:ss  NONE        198.51.100.7:0     192.0.2.80:http    one.example:http-alt
$ ipvsadm -Z
",
    );
    polder.passes(&syn(1003, "192.0.2.80:80"));
    polder.plays(
        r"
$ ipvsadm -Ln --stats
IP Virtual Server version 1.2.1 (size=1000)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  192.0.2.80:80                       1        1        0       40        0
  -> 10.0.0.1:8080                       1        1        0       40        0
$ ipvsadm -Z -t 192.0.2.80:80
$ ipvsadm -Ln --stats
IP Virtual Server version 1.2.1 (size=1000)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  192.0.2.80:80                       0        0        0        0        0
  -> 10.0.0.1:8080                       0        0        0        0        0
",
    );
    // What counters are for others never goes back.
    let web = &polder.get("/v1/services")["services"][0];
    assert_eq!(
        (&web["connections"], &web["packets_in"]),
        (&4.into(), &4.into())
    );
    assert_eq!(web["zeroed"]["connections"], 4);
}

#[test]
fn timeouts_are_set_and_listed() {
    let polder = Polder::start("services: []\ntimeouts: {udp: 1500ms}\n");
    polder.plays(
        r"
$ ipvsadm -L --timeout
Timeout (tcp tcpfin udp): 900 120 2
$ ipvsadm --set 0 0 0
$ ipvsadm --set 7200 0 30
$ ipvsadm -L --timeout
Timeout (tcp tcpfin udp): 7200 120 30
",
    );
    let body = json!({"tcp_fin_wait": "32d"});
    let refused = polder.api(&Method::PATCH, "/v1/timeouts", &body);
    assert!(refused.expect_err("too long").contains("1s to 31d"));
}

#[test]
fn a_reload_makes_the_file_true_again_and_says_so() {
    let services = |weight: u16| {
        format!(
            "services:\n\
             - {{name: web, protocol: tcp, address: 192.0.2.80, port: 80, scheduler: rr, servers:\n   \
                 [{{name: one, address: 10.0.0.1}}, {{address: 10.0.0.2, weight: {weight}}}]}}\n\
             - {{name: dns, protocol: udp, address: 192.0.2.80, port: 53, scheduler: rr}}\n"
        )
    };
    let polder = Polder::start(&services(1));
    let rules = "\
-E -t 192.0.2.80:80 -s wlc
-a -t 192.0.2.80:80 -r 10.0.0.3:80 -m
-d -t 192.0.2.80:80 -r 10.0.0.1:80
-e -t 192.0.2.80:80 -r 10.0.0.2:80 -g -w 7
-D -u 192.0.2.80:53
-A -t 192.0.2.90:80
--set 1000 0 0
";
    assert_eq!(polder.says_with("-R", rules), "");
    let reload = || polder.api(&Method::POST, "/v1/reload", &Value::Null);
    let report = reload().expect("reloads");
    let told = |report: &Value, key: &str| {
        let sentences = report[key].as_array().expect("a list").iter();
        let sentences = sentences.map(|s| s.as_str().expect("text").to_owned());
        sentences.collect::<Vec<_>>()
    };
    assert_eq!(
        told(&report, "taken_back"),
        [
            "web has scheduler rr again, no longer wlc that was set at run time",
            "web/10.0.0.2:80 has forwarding masq again, no longer direct that was set at run time",
            "server web/10.0.0.3:80 that was added at run time is removed",
            "server web/one that was deleted at run time is back",
            "service tcp-192.0.2.90-80 (tcp 192.0.2.90:80) that was added at run time is removed",
            "service dns (udp 192.0.2.80:53) that was deleted at run time is back",
            "timeouts.tcp_established is 15m again, no longer 1000s that was set at run time",
        ]
    );
    // How a server is used stays, as with `polder set`, until the file changes it.
    let kept = ["web/10.0.0.2:80 keeps weight 7 that was set at run time (the file says 1)"];
    assert_eq!(told(&report, "kept"), kept);
    let rules = "\
-A -t 192.0.2.80:80 -s rr
-a -t 192.0.2.80:80 -r 10.0.0.1:80 -m -w 1
-a -t 192.0.2.80:80 -r 10.0.0.2:80 -m -w 7
-A -u 192.0.2.80:53 -s rr
";
    assert_eq!(polder.says("-Sn"), rules);
    *polder.file.lock().expect("not poisoned") = services(2);
    let report = reload().expect("reloads");
    assert!(told(&report, "kept").is_empty() && told(&report, "taken_back").is_empty());
    assert!(polder.says("-Sn").contains("-r 10.0.0.2:80 -m -w 2\n"));
}

#[test]
fn what_was_cleared_and_restored_has_the_files_names_again() {
    let polder = Polder::start(
        "services: [{name: web, protocol: tcp, address: 192.0.2.80, port: 80, servers: [{name: one, address: 10.0.0.1}]}]",
    );
    let rules = polder.says("-Sn");
    assert_eq!(polder.says("-C"), "");
    assert_eq!(polder.says_with("-R", &rules), "");
    let web = &polder.get("/v1/services")["services"][0];
    assert_eq!(
        (&web["name"], &web["servers"][0]["name"]),
        (&"web".into(), &"one".into())
    );
}

#[test]
fn rules_that_say_less_than_there_is_come_with_a_warning() {
    let polder = Polder::start(
        "services:\n- {name: vpn, protocol: udp, address: 192.0.2.80, port: 1194, scheduler: offh, \
         payload_key: {offset: 1, length: 8}}\n\
         - {name: key, protocol: udp, address: 192.0.2.80, port: 2152, scheduler: rr, \
         persistence: {engine: payload, offset: 4, length: 4}}\n\
         - {name: web, protocol: tcp, address: 192.0.2.80, port: 80, servers: \
         [{name: one, address: 10.0.0.1, state: maint}, {name: two, address: 10.0.0.2, forwarding: direct}]}\n",
    );
    assert_eq!(
        polder.says("-Sn"),
        "\
-A -t 192.0.2.80:80 -s wlc
-a -t 192.0.2.80:80 -r 10.0.0.1:80 -m -w 1
-a -t 192.0.2.80:80 -r 10.0.0.2:80 -g -w 1
-A -u 192.0.2.80:1194 -s offh
-A -u 192.0.2.80:2152 -s rr -p 360 --pe payload
polder: service vpn has payload_key offset 1 length 8, for which ipvsadm has no words: restored, it is without
polder: service key has engine payload at offset 4 length 4, for which ipvsadm has no words: it is not restored
polder: server web/one has state maint, for which ipvsadm has no words: restored, it is ready and takes new connections
"
    );
}

#[test]
fn whoever_watches_is_told_what_may_not_be_meant() {
    let polder = Polder::start("services: []");
    let (mut out, mut err, mut input) = (Vec::new(), Vec::new(), &b""[..]);
    let socket = polder.socket.clone();
    let mut front = Front::new(socket, &polder.names, &mut input, &mut out, &mut err);
    front.watched = true;
    for line in ["-A -t 192.0.2.80:21", "-a -t 192.0.2.80:21 -r 10.0.0.1 -m"] {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        assert_eq!(front.run(&words), 0, "{line}");
    }
    let told = String::from_utf8(err).expect("text");
    assert!(told.starts_with("polder: forwarding: FTP tells"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn over_the_socket_whole_services_are_added_and_taken_out() {
    let polder = Polder::start("services: []");
    let vpn = json!({
        "name": "vpn", "protocol": "udp", "address": "192.0.2.80", "port": 1194, "scheduler": "offh",
        "payload_key": {"offset": 1, "length": 8},
        "servers": [{"address": "10.0.0.1", "weight": 5}, {"name": "two", "address": "10.0.0.2"}],
    });
    let added = polder
        .api(&Method::POST, "/v1/services", &vpn)
        .expect("added");
    assert_eq!(
        added["message"],
        "service vpn (udp 192.0.2.80:1194) added (at run time only: a reload or a restart takes what the file says)"
    );
    let found = polder.get("/v1/services/@udp:192.0.2.80:1194");
    assert_eq!(found["servers"][1]["name"], "two");
    assert_eq!(found, polder.get("/v1/services/vpn"));
    let server = json!({"address": "10.0.0.3", "port": 1195, "state": "drain"});
    let added = polder.api(&Method::POST, "/v1/services/vpn/servers", &server);
    assert_eq!(added.expect("added")["server"]["state"], "drain");
    let wrong =
        json!({"protocol": "udp", "address": "192.0.2.80", "port": 53, "wieght": 1, "servers": 5});
    let refused = polder.api(&Method::POST, "/v1/services", &wrong);
    let problems = "it can't be so\n\
                    servers: expected a list, found `5`\n\
                    wieght: unknown key; did you mean `weight`?";
    let refused = refused.expect_err("two problems");
    assert!(
        refused.lines().count() == 3,
        "{refused} should be like {problems}"
    );
    let gone = polder.api(&Method::DELETE, "/v1/servers/vpn/two", &Value::Null);
    assert_eq!(gone.expect("there")["deleted"], json!(["vpn/two"]));
    let gone = polder.api(&Method::DELETE, "/v1/services", &Value::Null);
    assert_eq!(
        gone.expect("there")["deleted"],
        json!(["vpn (udp 192.0.2.80:1194)"])
    );
}

/// The binary itself, under a name.
fn binary(
    polder: &Polder,
    program: &std::path::Path,
    words: &[&str],
    rules: &str,
) -> (String, i32) {
    use std::io::Write;
    let mut child = Command::new(program)
        .args(words)
        .env("POLDER_SOCKET", &polder.socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("polder runs");
    let mut stdin = child.stdin.take().expect("is a pipe");
    stdin.write_all(rules.as_bytes()).expect("it reads");
    drop(stdin);
    let ended = child.wait_with_output().expect("ends");
    let text = [ended.stdout, ended.stderr].concat();
    (
        String::from_utf8(text).expect("text"),
        ended.status.code().unwrap_or(-1),
    )
}

#[test]
fn the_binary_speaks_it_by_subcommand_and_by_name() {
    let polder = Polder::start("services: []");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_polder"));
    let rules = "-A -t 192.0.2.80:80 -s rr\n-a -t 192.0.2.80:80 -r 10.0.0.1:80 -m -w 1\n";
    let done = binary(&polder, program, &["ipvsadm", "-R"], rules);
    assert_eq!(done, (String::new(), 0));
    let link = polder.socket.with_file_name("ipvsadm");
    std::os::unix::fs::symlink(program, &link).expect("a link");
    assert_eq!(binary(&polder, &link, &["-Sn"], ""), (rules.to_owned(), 0));
    let socket = polder.socket.to_str().expect("plain text");
    let words = ["ipvsadm", "--socket", socket, "-D", "-t", "192.0.2.81:80"];
    let done = binary(&polder, program, &words, "");
    assert_eq!(done, ("No such service\n".to_owned(), 255));
    let (help, status) = binary(&polder, program, &["--help"], "");
    assert!(help.contains("ipvsadm") && status == 0, "{help}");
    let (help, status) = binary(&polder, program, &["ipvsadm", "-h"], "");
    assert!(help.contains("--tun-remcsum") && status == 0, "{help}");
}
