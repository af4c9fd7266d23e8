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
        let forward = |name: &str| (name == "web.example").then_some(Ipv4Addr::new(192, 0, 2, 80));
        let reverse =
            |addr: IpAddr| (addr == IpAddr::from([10, 0, 0, 1])).then(|| "one.example".to_owned());
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
fn transcript() {
    let Ok(path) = std::env::var("TRANSCRIPT") else {
        return;
    };
    let polder = Polder::start("services: []");
    for line in std::fs::read_to_string(path).expect("there").lines() {
        if let Some(words) = line.strip_prefix("$ ipvsadm") {
            print!("{line}\n{}", polder.says(words));
        }
    }
}
