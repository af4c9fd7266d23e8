//! What tests of the management core and of its clients share: a plane, set-ups that read like a configuration, and
//! a worker that is a thread.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

use arc_swap::ArcSwap;

use super::api::{PortStatus, SyncPeer, SyncRejected, SyncStatus, SyncTraffic};
use super::manager::{Loaded, Manager, Options, Shared, empty_snapshot};
use super::sync::{SyncControl, status_of};
use crate::forward::defs::{Grouping, OnNoKey, Persistence, address_bytes};
use crate::forward::{DestDef, PortDef, Prefix, ServiceDef, ServiceKind, Setup};
use crate::net::{Af, HashKey, Mac, Tick, V4, V6};
use crate::persist::Engine;
use crate::sync::settings::Settings;
use crate::table::{
    DestId, NewTemplate, Origin, Placed, ServiceId, TemplateKey, TemplateRef, Templates,
};
use crate::worker::{Command, ConnRow, Defence, Plane, SyncDuty, WorkerShared};

/// Slots for services and servers in [`plane`].
pub const SLOTS: (usize, usize) = (4, 8);

/// An address.
pub fn ip(s: &str) -> IpAddr {
    s.parse().expect("an address")
}

/// A server by `address:port`, weight 1.
pub fn server(at: &str) -> DestDef {
    DestDef::new(at.parse().expect("an address with a port"))
}

/// A TCP service by `address:port` with servers.
pub fn service(name: &str, at: &str, servers: &[&str]) -> ServiceDef {
    let at = at.parse().expect("an address with a port");
    ServiceDef::new(name, 6, at, servers.iter().map(|s| server(s)).collect())
}

/// One port and services.
pub fn setup(services: Vec<ServiceDef>) -> Setup {
    Setup {
        ports: vec![PortDef {
            name: "wan0".to_owned(),
            device: "memory".to_owned(),
            addresses: vec![Prefix {
                addr: ip("192.0.2.10"),
                len: 24,
            }],
            mac: None,
            mtu: 1500,
            kernel_interface: false,
        }],
        services,
        ..Setup::default()
    }
}

/// Service `web` with servers .1 and .2, and service `sip` with server .3.
pub fn web_and_sip() -> Setup {
    setup(vec![
        service("web", "192.0.2.80:80", &["10.0.0.1:80", "10.0.0.2:80"]),
        service("sip", "[2001:db8::5]:5060", &["[2001:db8:1::3]:5060"]),
    ])
}

/// A plane with so many workers, that nobody has published to.
pub fn plane(workers: usize) -> Arc<Plane> {
    let worker = |id| Arc::new(WorkerShared::new(id, Some(id + 1), SLOTS.0, SLOTS.1));
    Arc::new(Plane {
        snapshot: ArcSwap::from_pointee(empty_snapshot()),
        workers: (0..workers).map(worker).collect(),
        templates: Templates::new(64, SLOTS.0, HashKey::from_seed(1)).expect("memory"),
        stop: AtomicBool::new(false),
        defence: Defence::default(),
        connections_capacity: 1000,
        sync: SyncDuty::default(),
    })
}

/// A configuration file that tests write without a disk.
pub type File = Arc<Mutex<Result<Loaded, Vec<String>>>>;

/// A machine that does what it is told, unless it is told to refuse, and says what the test says.
#[derive(Debug, Default)]
pub struct FakeSync {
    /// The settings that it goes by.
    pub settings: Mutex<Settings>,
    /// How often settings were given to it.
    pub changes: AtomicUsize,
    /// What it says when it is to change.
    pub refuses: Mutex<Option<String>>,
    /// What it says of itself beyond its settings.
    pub status: Mutex<SyncStatus>,
}

impl FakeSync {
    /// A machine of these settings, in the service of `manager`.
    pub fn of(manager: &mut Manager, settings: Settings) -> Arc<Self> {
        let fake = Arc::new(Self {
            settings: Mutex::new(settings),
            ..Self::default()
        });
        manager.set_sync_control(Arc::clone(&fake) as Arc<dyn SyncControl>);
        fake
    }

    /// How often it was told to change, since this was asked last.
    pub fn told(&self) -> usize {
        self.changes.swap(0, Ordering::Relaxed)
    }
}

impl SyncControl for FakeSync {
    fn status(&self) -> SyncStatus {
        let known = status_of(&self.settings());
        let told = self.status.lock().expect("not poisoned").clone();
        SyncStatus {
            role: known.role,
            format: known.format,
            version: known.version,
            interface: known.interface,
            group: known.group,
            unicast: known.unicast,
            sync_id: known.sync_id,
            encrypted: known.encrypted,
            queue_capacity: known.queue_capacity,
            daemons: known.daemons,
            ..told
        }
    }

    fn change(&self, settings: Settings) -> Result<(), String> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        match self.refuses.lock().expect("not poisoned").clone() {
            Some(why) => Err(why),
            None => {
                *self.settings.lock().expect("not poisoned") = settings;
                Ok(())
            }
        }
    }

    fn settings(&self) -> Settings {
        self.settings.lock().expect("not poisoned").clone()
    }
}

/// A director with two peers of one name, and one that just came.
pub fn sync_status() -> SyncStatus {
    let peer = |address: &str, direction: &str| SyncPeer {
        name: "left".to_owned(),
        address: format!("192.168.81.{address}:8848"),
        version: 1,
        direction: direction.to_owned(),
        role: "both".to_owned(),
        state: "synchronised".to_owned(),
        lag_seconds: Some(0.25),
        coverage: Some(0.995),
        entries: 995,
        should: 1000,
        uninstalled: 5,
        last_full_sync_seconds: Some(90.0),
        dirty: true,
    };
    let new = SyncPeer {
        name: "new".to_owned(),
        state: "synchronising".to_owned(),
        lag_seconds: None,
        coverage: None,
        last_full_sync_seconds: None,
        ..peer("4", "in")
    };
    let traffic = |n| SyncTraffic {
        messages: n,
        records: 10 * n,
        bytes: 1000 * n,
    };
    let rejected = |reason: &str, count| SyncRejected {
        reason: reason.to_owned(),
        count,
        help: format!("It is {reason}."),
    };
    SyncStatus {
        name: "right".to_owned(),
        running: true,
        ready_reason: "peer new: 0% of the 99% it must have".to_owned(),
        entries: 1000,
        sent: traffic(7),
        received: traffic(8),
        rejected: vec![rejected("forged", 2), rejected("version", 0)],
        discarded: 3,
        queue: 4,
        peers: vec![peer("2", "in"), peer("2", "out"), peer("3", "in"), new],
        ..SyncStatus::default()
    }
}

/// Makes a set-up the file's contents.
pub fn write(file: &File, setup: Setup) {
    *file.lock().expect("not poisoned") = Ok(Loaded {
        setup,
        ..Loaded::default()
    });
}

/// A manager of `plane` that runs `setup`, and its file.
pub fn manager_of(plane: &Arc<Plane>, setup: Setup) -> (Manager, File) {
    let loaded = Loaded {
        setup,
        ..Loaded::default()
    };
    let file: File = Arc::new(Mutex::new(Ok(loaded.clone())));
    let read = Arc::clone(&file);
    let options = Options {
        plane: Arc::clone(plane),
        loaded,
        config_path: PathBuf::from("polder.yaml"),
        loader: Box::new(move || read.lock().expect("not poisoned").clone()),
        port_stats: Box::new(|| vec![port_status()]),
        port_macs: vec![Some(Mac([2, 0, 0, 0, 0, 0x10]))],
        seed: 1,
    };
    let manager = Manager::new(
        options,
        Instant::now(),
        UNIX_EPOCH + Duration::from_secs(1000),
    )
    .expect("valid");
    (manager, file)
}

/// What the one port tells.
pub fn port_status() -> PortStatus {
    PortStatus {
        name: "wan0".to_owned(),
        device: "memory".to_owned(),
        mac: "02:00:00:00:00:10".to_owned(),
        link_up: true,
        speed_mbps: 10_000,
        mtu: 1500,
        rx_packets: 100,
        rx_bytes: 6000,
        tx_packets: 90,
        tx_bytes: 5400,
        tx_dropped: 1,
        ..PortStatus::default()
    }
}

/// Every worker has seen what is published.
pub fn all_see(manager: &Manager) {
    for w in &manager.plane().workers {
        w.seen_generation
            .store(manager.generation(), Ordering::Release);
    }
}

/// A connection of service slot 0 and server slot 0, from client port `client_port`.
pub fn conn(client_port: u16) -> ConnRow {
    ConnRow {
        proto: 6,
        state: 1,
        flags: 0,
        client: (ip("198.51.100.7"), client_port),
        virtual_: (ip("192.0.2.80"), 80),
        dest: (ip("10.0.0.1"), 80),
        dest_id: Some(DestId(0)),
        service: ServiceId(0),
        template: crate::table::NONE,
        expires: 89_725,
        in_pkts: 3,
    }
}

/// The service of the seed example: SIP, one-packet, kept by Call-ID for 60 s whoever sends.
pub fn sip_one_packet() -> ServiceDef {
    let mut s = service("sip", "10.4.3.192:5060", &["127.0.0.1:5060"]);
    s.kind = ServiceKind::Address {
        proto: 17,
        addr: ip("10.4.3.192"),
        port: 5060,
    };
    s.scheduler = "wlc".to_owned();
    s.one_packet = true;
    s.persistence = Some(persistence(60, Grouping::Mask4(0), Some(Engine::Sip)));
    s
}

/// Persistence without limits.
pub fn persistence(seconds: u64, grouping: Grouping, engine: Option<Engine>) -> Persistence {
    Persistence {
        timeout: Duration::from_secs(seconds),
        grouping,
        engine,
        on_no_key: OnNoKey::Fallback,
        max_templates: 0,
        max_per_client: 0,
    }
}

/// A key of a template of service slot `service`, for a UDP client of `to`.
pub fn template_key<'a>(
    service: u32,
    client: &str,
    to: &str,
    data: Option<&'a [u8]>,
) -> TemplateKey<'a> {
    let to: SocketAddr = to.parse().expect("an address with a port");
    let bytes = |addr| match addr {
        IpAddr::V4(a) => address_bytes::<V4>(a.into()),
        IpAddr::V6(a) => address_bytes::<V6>(a.into()),
    };
    TemplateKey {
        service: ServiceId(service),
        af: Af::of(to.ip()),
        proto: 17,
        client: bytes(ip(client)),
        vaddr: bytes(to.ip()),
        vport: to.port(),
        data,
    }
}

/// Makes a template of server slot `dest` that lives for `seconds`.
pub fn add_template(plane: &Plane, key: &TemplateKey<'_>, dest: u32, seconds: u32) -> TemplateRef {
    let new = NewTemplate {
        dest: DestId(dest),
        timeout: seconds * Tick::PER_SECOND,
        origin: Origin::Local,
        source: [0; 16],
        service_limit: 0,
        client_limit: 0,
    };
    let templates = &plane.templates;
    let placed = templates.insert(key, templates.hash(key), &new, plane.now());
    if let Some(dest) = plane.snapshot.load().dest(DestId(dest)) {
        dest.shared.bind_template();
    }
    match placed.expect("there is room") {
        Placed::New(at) => at,
        Placed::Existing(..) => panic!("there is one of this key"),
    }
}

/// A thread that polls as a worker does: it sees snapshots, moves its heartbeat and answers commands from `rows`,
/// those of IPv4 services in [`Af::V4`] tables.
#[derive(Debug)]
pub struct FakeWorker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeWorker {
    /// Starts it.
    pub fn start(plane: &Arc<Plane>, id: usize, rows: Vec<ConnRow>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (plane, stopped) = (Arc::clone(plane), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let shared = &plane.workers[id];
            while !stopped.load(Ordering::Acquire) {
                let generation = plane.snapshot.load().generation;
                shared.seen_generation.store(generation, Ordering::Release);
                shared.heartbeat.fetch_add(1, Ordering::Release);
                while let Some(Command::List(mut page)) = shared.commands.pop() {
                    let table: Vec<_> = rows
                        .iter()
                        .filter(|r| Af::of(r.client.0) == page.af)
                        .collect();
                    let room = page.rows.capacity();
                    let from = page.cursor as usize;
                    page.rows
                        .extend(table.iter().skip(from).take(room).map(|r| **r));
                    page.cursor += u32::try_from(page.rows.len()).expect("a small table");
                    page.done = page.cursor as usize >= table.len();
                    shared.pages.push(page).expect("room for answers");
                }
                std::thread::yield_now();
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the fake worker does not panic");
        }
    }
}

/// A control socket in a directory of its own, served by a thread.
#[derive(Debug)]
pub struct ControlSocket {
    /// Where it is.
    pub path: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl ControlSocket {
    /// Serves `manager`.
    pub fn serve(manager: &Shared) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("polder/control.sock");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (manager, at) = (Arc::clone(manager), path.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let server = super::ControlServer::bind(&at).expect("binds");
                ready.send(()).expect("the test waits");
                let stop = async {
                    // An error means that the test is over: stop as well.
                    let _ = stopped.await;
                };
                server.serve(manager, stop).await.expect("serves");
            });
        });
        is_ready.recv().expect("the server starts");
        Self {
            path,
            stop: Some(stop),
            thread: Some(thread),
            _dir: dir,
        }
    }

    /// Stops the server and waits for it.
    pub fn stop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server does not panic");
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.stop();
    }
}
