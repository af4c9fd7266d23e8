//! What state sync costs the packet path: two workers at full speed over memory devices, 200,000 flows in random order
//! and 200,000 new ones a second, with sync off, as a master of the `polder` format, and as one of the `ipvs` format, in
//! turn in one run.
//!
//! `cargo bench --no-default-features --bench sync_path [rounds] [forged]`; with `forged` ten million forged datagrams
//! follow. 60-byte UDP, direct routing; flows live for 3 s
//! without packets. Each figure is of all workers together: the median over rounds, the least and the most. Needs three
//! processors: two workers and the management core.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use polder::forward::{
    DestDef, NeighbourDef, PortDef, PortId, Prefix, Registry, ServiceDef, Setup,
};
use polder::io::mem::{BenchIo, Frames, MemPool};
use polder::io::{Burst, PacketIo};
use polder::mgmt::sync::task::{Control, Machine};
use polder::net::build::Frame;
use polder::net::{Mac, PacketBuf, Tick};
use polder::sync::ipvs::Version;
use polder::sync::polder::Keys;
use polder::sync::polder::seal::Sealer;
use polder::sync::polder::wire::Kind;
use polder::sync::settings::{Format, Role, Settings};
use polder::table::Method;
use polder::worker::assemble::{self, PortParts, Sizes};
use polder::worker::lockstep::static_snapshot;
use polder::worker::{Defence, Plane, SyncDuty, Worker};

const WORKERS: usize = 2;
/// Flows of each worker that go on all the time.
const FLOWS: u32 = 100_000;
/// New flows of each worker in a second.
const NEW: f64 = 100_000.0;
const WINDOW: Duration = Duration::from_secs(3);
const SIZES: Sizes = Sizes {
    connections: 2 << 20,
    templates: 1024,
    services: 4,
    servers: 16,
    seed: 7,
};
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const NEAR: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn setup() -> Setup {
    let ip = |s: &str| s.parse().expect("an address");
    let servers = (11..=14).map(|n| DestDef {
        method: Method::Direct,
        ..DestDef::new((ip(&format!("10.0.0.{n}")), 80).into())
    });
    let mut setup = Setup {
        ports: vec![PortDef {
            name: "p0".into(),
            device: "mem".into(),
            addresses: vec![Prefix {
                addr: ip("10.0.0.1"),
                len: 24,
            }],
            mac: Some(MAC),
            mtu: 1500,
            kernel_interface: false,
        }],
        neighbours: (11..=14)
            .map(|n| NeighbourDef {
                port: PortId(0),
                addr: ip(&format!("10.0.0.{n}")),
                mac: NEAR,
            })
            .collect(),
        services: vec![ServiceDef::new(
            "bench",
            17,
            (ip("198.51.100.1"), 80).into(),
            servers.collect(),
        )],
        ..Setup::default()
    };
    setup.timeouts.udp = Duration::from_secs(3);
    setup
}

/// A device that gives one frame again and again, each time of another flow.
#[derive(Debug)]
struct FlowIo {
    inner: BenchIo,
    random: u64,
    began: Instant,
    polls: u32,
    made: u32,
    due: u32,
    /// Flows of all workers have numbers of their own.
    base: u32,
}

impl FlowIo {
    fn next_flow(&mut self) -> u32 {
        if self.made < self.due {
            self.made += 1;
            // Numbers come again long after their flows have ended.
            return self.base + FLOWS + self.made % 4_000_000;
        }
        self.random = self
            .random
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(1);
        self.base + (((self.random >> 33) * u64::from(FLOWS)) >> 31) as u32
    }
}

/// Writes a flow's number into the source of a frame so that the IP header's checksum stays what it is.
fn number(frame: &mut [u8], flow: u32) {
    let (high, port) = ((flow / 50_000) as u16, (flow % 50_000) as u16 + 1024);
    frame[26..28].copy_from_slice(&(0x0b00 + high).to_be_bytes());
    frame[28..30].copy_from_slice(&(0xe000 - high).to_be_bytes());
    frame[34..36].copy_from_slice(&port.to_be_bytes());
}

impl PacketIo for FlowIo {
    type Buf = <BenchIo as PacketIo>::Buf;

    fn rx_burst(&mut self, out: &mut Burst<Self::Buf>) -> usize {
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(16) {
            #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)]
            // A count of flows since the start.
            let due = (self.began.elapsed().as_secs_f64() * NEW) as u32;
            self.due = due;
        }
        let before = out.len();
        let n = self.inner.rx_burst(out);
        for i in before..out.len() {
            let flow = self.next_flow();
            number(out[i].data_mut(), flow);
        }
        n
    }

    fn tx_burst(&mut self, burst: &mut Burst<Self::Buf>) -> usize {
        self.inner.tx_burst(burst)
    }

    fn alloc(&mut self) -> Option<Self::Buf> {
        self.inner.alloc()
    }
}

fn workers() -> (Arc<Plane>, Vec<Worker<FlowIo>>) {
    let setup = setup();
    let mut registry = Registry::new(SIZES.services, SIZES.servers, SIZES.seed);
    let snapshot = static_snapshot(&mut registry, &setup, None).expect("a good set-up");
    let plane = Arc::new(Plane {
        snapshot: ArcSwap::from_pointee(snapshot),
        workers: assemble::shared(WORKERS, &[], &SIZES),
        templates: assemble::templates(&SIZES).expect("memory"),
        stop: AtomicBool::new(false),
        defence: Defence::default(),
        connections_capacity: SIZES.connections as u64,
        sync: SyncDuty::default(),
    });
    let mut frame = Frame::new().macs(MAC, NEAR).udp(
        "11.0.224.0:1024".parse().expect("an address"),
        "198.51.100.1:80".parse().expect("an address"),
        &[0; 18],
    );
    // No UDP checksum, so that another port does not make it wrong.
    frame[40..42].fill(0);
    let queues = (0..WORKERS).map(|w| {
        let pool = MemPool::new(4096, 2048);
        Some(FlowIo {
            inner: BenchIo::new([&frame[..]].into_iter().collect::<Frames>(), &pool),
            random: w as u64 + 1,
            began: Instant::now(),
            polls: 0,
            made: 0,
            due: 0,
            base: w as u32 * 5_000_000,
        })
    });
    let directors = assemble::directors(&setup, WORKERS, &SIZES).expect("memory");
    let parts = vec![PortParts::plain(queues.collect())];
    let workers = assemble::workers(&plane, directors, parts, true);
    (plane, workers)
}

fn settings(role: Role, format: Format, key: &std::path::Path, peer: SocketAddr) -> Settings {
    Settings {
        role,
        format,
        key_file: Some(key.to_owned()),
        peers: vec![peer],
        group: "0.0.0.0:0".parse().expect("an address"),
        ..Settings::default()
    }
}

fn main() {
    let rounds = std::env::args()
        .skip(1)
        .find_map(|a| a.parse().ok())
        .unwrap_or(5);
    let (plane, workers) = workers();
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let threads: Vec<_> = workers
        .into_iter()
        .enumerate()
        .map(|(i, mut worker)| {
            let (plane, core) = (Arc::clone(&plane), cores.iter().rev().nth(i).copied());
            std::thread::spawn(move || {
                core.map(core_affinity::set_for_current);
                let began = Instant::now();
                let (mut now, mut polls) = (Tick(0), 0u32);
                while !plane.stop.load(Ordering::Relaxed) {
                    if polls.is_multiple_of(16) {
                        now = Tick::from_elapsed(began.elapsed());
                    }
                    polls = polls.wrapping_add(1);
                    worker.poll(now);
                }
                worker.stop();
            })
        })
        .collect();
    let dir = std::env::temp_dir().join(format!("polder-sync-path-{}", std::process::id()));
    let key = dir.with_extension("key");
    write_key(&key);
    let sink = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let peer = sink.local_addr().expect("an address");
    let control = Arc::new(Control::new(Settings::default(), SIZES.connections));
    let machine = Machine {
        plane: Arc::clone(&plane),
        owner_key: SIZES.owner_key(),
        control: Arc::clone(&control),
        entries_max: SIZES.connections,
    };
    let core = cores.first().copied();
    std::thread::spawn(move || {
        core.map(core_affinity::set_for_current);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, machine.run());
    });
    std::thread::sleep(Duration::from_secs(5));
    let modes = [
        ("off", Role::Off, Format::Polder),
        ("polder", Role::Master, Format::Polder),
        ("ipvs", Role::Master, Format::Ipvs(Version::V1)),
    ];
    let mut figures = vec![Vec::new(); modes.len()];
    for _ in 0..rounds {
        for (figure, (_, role, format)) in figures.iter_mut().zip(modes) {
            control.set(settings(role, format, &key, peer));
            // Until it has told all that there is.
            std::thread::sleep(Duration::from_secs(3));
            let received = || {
                plane
                    .workers
                    .iter()
                    .map(|w| w.counters.received.get())
                    .sum::<u64>()
            };
            let (before, began) = (received(), Instant::now());
            std::thread::sleep(WINDOW);
            #[allow(clippy::cast_precision_loss)]
            figure.push((received() - before) as f64 / began.elapsed().as_secs_f64() / 1e6);
            let state = control.state();
            assert!(role == Role::Off || state.running, "{:?}", state.problem);
        }
    }
    let made: u64 = plane
        .workers
        .iter()
        .map(|w| w.counters.services[0].connections.get())
        .sum();
    println!(
        "{made} connections made; {} now",
        plane
            .workers
            .iter()
            .map(|w| w.counters.connections.get())
            .sum::<u64>()
    );
    println!(
        "{:8} {:>8} {:>8} {:>8}  of off",
        "sync", "Mpps", "least", "most"
    );
    let median = |f: &[f64]| {
        let mut f = f.to_vec();
        f.sort_by(f64::total_cmp);
        (f[f.len() / 2], f[0], f[f.len() - 1])
    };
    let off = median(&figures[0]).0;
    for (figure, (name, ..)) in figures.iter().zip(modes) {
        let (m, least, most) = median(figure);
        println!(
            "{name:8} {m:8.2} {least:8.2} {most:8.2}  {:5.1} %",
            100.0 * m / off
        );
    }
    if std::env::args().any(|a| a == "forged") {
        forged(&plane, &control, &key);
    }
    plane.stop.store(true, Ordering::Release);
    for t in threads {
        t.join().expect("a worker never panics");
    }
    let _ = std::fs::remove_file(key);
}

/// Ten million forged datagrams at a director that is master and backup: what they do to the workers, and to it.
fn forged(plane: &Plane, control: &Control, key: &std::path::Path) {
    const MANY: u64 = 10_000_000;
    let sink = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = sink.local_addr().expect("an address").port();
    drop(sink);
    let at: SocketAddr = ([127, 0, 0, 1], port).into();
    let settings = Settings {
        group: at,
        ..settings(Role::Both, Format::Polder, key, at)
    };
    control.set(settings);
    std::thread::sleep(Duration::from_secs(4));
    let received = || {
        let workers = plane.workers.iter();
        workers.map(|w| w.counters.received.get()).sum::<u64>()
    };
    let rejected = || {
        let node = control.state().node.expect("it runs");
        (
            node.rejected["forged"],
            node.received.datagrams,
            node.peers.len(),
        )
    };
    #[allow(clippy::cast_precision_loss)]
    let rate = |n: u64, began: Instant| n as f64 / began.elapsed().as_secs_f64() / 1e6;
    let (before, began) = (received(), Instant::now());
    std::thread::sleep(WINDOW);
    let quiet = rate(received() - before, began);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let attacker = std::thread::spawn(move || {
        let other = "1 f00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        let keys = Keys::parse(other).expect("a key");
        let mut sealer = Sealer::new(77, keys);
        let mut datagram = Vec::new();
        sealer.seal(Kind::Stream, 1, false, &[7; 64], &mut datagram);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        while !stopped.load(Ordering::Relaxed) {
            let _ = socket.send_to(&datagram, at);
        }
    });
    let (before, began) = (received(), Instant::now());
    while rejected().0 < MANY && began.elapsed() < Duration::from_secs(90) {
        std::thread::sleep(Duration::from_millis(200));
    }
    let (count, genuine, peers) = rejected();
    println!(
        "{count} forged datagrams refused in {:.1} s, {genuine} taken, {peers} peers; workers {:.2} Mpps, {quiet:.2} without",
        began.elapsed().as_secs_f64(),
        rate(received() - before, began),
    );
    stop.store(true, Ordering::Relaxed);
    attacker.join().expect("it only sends");
}

fn write_key(path: &std::path::Path) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let text = "1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut f| f.write_all(text.as_bytes()))
        .expect("a key file");
}
