//! The task of state sync in virtual time: what becomes of readiness and of the packet path when settings change, or can't
//! be followed.

mod bed;

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bed::*;
use polder::mgmt::sync::SyncControl;
use polder::mgmt::sync::takeover::node_config;
use polder::mgmt::sync::task::{Control, Machine};
use polder::net::packet::proto;
use polder::net::{Af, Tick};
use polder::sync::entry::{Entry, ServiceName, TemplateEntry};
use polder::sync::ipvs::Version;
use polder::sync::polder::{Keys, Node, Role as NodeRole, To};
use polder::sync::settings::{Format, Role, Settings};
use tokio::task::LocalSet;

/// A director whose state sync runs.
struct Scene {
    bed: Bed,
    control: Arc<Control>,
}

impl Scene {
    fn is_ready(&self) -> bool {
        self.control.status().ready
    }

    fn is_off_duty(&self) -> bool {
        self.bed.bed.plane().sync.off_duty.load(Ordering::Relaxed)
    }

    async fn pass(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.bed.now = self.bed.now.plus(1);
            self.bed.bed.advance(self.bed.now);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn play<F: Future<Output = ()>>(settings: Settings, with: impl FnOnce(Scene) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let bed = Bed::new(tcp_service());
        let control = Arc::new(Control::new(settings, 5120));
        let machine = Machine {
            plane: bed.bed.plane().clone(),
            owner_key: SIZES.owner_key(),
            control: Arc::clone(&control),
            entries_max: 5120,
        };
        tokio::task::spawn_local(machine.run());
        with(Scene { bed, control }).await;
    });
}

/// A key file for a test of this name.
fn key_file(test: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}.key"));
    fs::write(&path, format!("1 {}", "0123456789abcdef".repeat(4))).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    path
}

/// A backup that hears nobody.
fn backup(test: &str) -> Settings {
    let port = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr());
    let port = port.expect("a free port").port();
    let mut settings = Settings {
        role: Role::Backup,
        peers: vec![([127, 0, 0, 1], port).into()],
        key_file: Some(key_file(test)),
        ready_timeout: Duration::from_secs(10),
        ..Settings::default()
    };
    settings.group.set_port(port);
    settings
}

#[test]
fn a_director_that_is_ready_stays_so_when_its_settings_change() {
    let settings = backup("stays");
    play(settings.clone(), |mut s| async move {
        s.pass(300).await;
        assert!(!s.is_ready(), "it has just started");
        s.pass(1000).await;
        let status = s.control.status();
        assert!(
            status.ready,
            "it is alone: {} {:?}",
            status.ready_reason, status.problem
        );
        let changed = Settings {
            interval: Duration::from_millis(500),
            ..settings.clone()
        };
        let off = Settings {
            role: Role::Off,
            ..settings.clone()
        };
        for settings in [changed, off, settings] {
            SyncControl::change(&*s.control, settings).expect("it can be");
            for _ in 0..10 {
                s.pass(30).await;
                assert!(s.is_ready(), "{}", s.control.status().ready_reason);
            }
        }
    });
}

#[test]
fn a_backup_of_the_ipvs_format_is_ready_after_the_time_of_ready_timeout() {
    let settings = Settings {
        format: Format::Ipvs(Version::V1),
        ..backup("ipvs")
    };
    play(settings, |mut s| async move {
        s.pass(900).await;
        assert!(s.control.status().running && !s.is_ready());
        s.pass(200).await;
        assert!(s.is_ready());
    });
}

#[test]
fn a_director_that_can_be_no_backup_serves_also_if_it_is_to_be_one_only() {
    let settings = Settings {
        backup_only: true,
        ..backup("duty")
    };
    let lost = Settings {
        key_file: Some("/nowhere/key".into()),
        ..settings.clone()
    };
    play(settings, |mut s| async move {
        s.pass(10).await;
        assert!(s.is_off_duty(), "{:?}", s.control.status().problem);
        s.control.set(lost);
        s.pass(50).await;
        let status = s.control.status();
        assert!(status.problem.is_some_and(|p| p.contains("/nowhere/key")));
        assert!(!s.is_off_duty(), "nothing comes from others");
    });
}

#[test]
fn keys_that_others_may_read_are_a_problem_that_is_told_and_change_nothing() {
    let settings = backup("open_keys");
    play(settings.clone(), |mut scene| async move {
        scene.pass(50).await;
        assert!(scene.control.status().running);
        let path = settings.key_file.clone().expect("there is one");
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode));
        mode(0o644).expect("set");
        let said = scene.control.change(settings.clone()).expect_err("refused");
        scene.pass(50).await;
        let status = scene.control.status();
        let problem = status.problem.expect("it is told");
        assert!(
            problem.starts_with(&said) && problem.contains("in force"),
            "{problem}"
        );
        assert!(status.running, "with the keys that it has");
        mode(0o600).expect("set");
        scene.control.change(settings.clone()).expect("taken");
        scene.pass(50).await;
        assert_eq!(scene.control.status().problem, None);
    });
}

/// Another director, which has one template.
struct Other {
    node: Node,
    socket: UdpSocket,
    group: std::net::SocketAddr,
    passed: Tick,
}

impl Other {
    fn new(settings: &Settings) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_nonblocking(true).expect("set");
        let keys = Keys::read(settings.key_file.as_deref().expect("there is one"));
        let config = polder::sync::polder::Config {
            sync_id: settings.sync_id,
            ..node_config(NodeRole::Both, 5120)
        };
        let node = Node::new(config, keys.expect("good keys"), 5, Tick(0));
        let group = settings.group;
        Self {
            node,
            socket,
            group: ([127, 0, 0, 1], group.port()).into(),
            passed: Tick(0),
        }
    }

    fn turn(&mut self, now: Tick) {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
            self.node.receive(now, from, &mut buffer[..len]);
        }
        self.node.poll(now);
        if now.since(self.passed) >= 20 {
            self.passed = now;
            self.node.pass_begin(now);
            self.node.pass_entry(now, template());
            while !self.node.pass_end(now) {}
        }
        while let Some(send) = self.node.next_send(now) {
            let to = match send.to {
                To::Group => self.group,
                To::Peer(to) => to,
            };
            self.socket.send_to(&send.bytes, to).expect("sent");
        }
    }
}

/// A template of the service that the director has.
fn template() -> Entry {
    let virtual_ = at(VIP);
    let mut vaddr = [0; 16];
    let std::net::IpAddr::V4(addr) = virtual_.ip() else {
        unreachable!("it is one of IPv4");
    };
    vaddr[..4].copy_from_slice(&addr.octets());
    Entry::Template(Box::new(TemplateEntry {
        service: ServiceName::Address {
            proto: proto::TCP,
            addr: virtual_.ip(),
            port: virtual_.port(),
        },
        af: Af::V4,
        proto: proto::TCP,
        client: [7; 16],
        vaddr,
        vport: virtual_.port(),
        data: None,
        dest: (three()[0].addr, three()[0].port).into(),
        timeout: 90_000,
        remaining: 90_000,
        assured: true,
    }))
}

#[test]
fn a_peers_template_stays_a_peers_when_settings_change() {
    let settings = backup("peers");
    let mut other = Other::new(&settings);
    let settings = Settings {
        role: Role::Both,
        peers: vec![other.socket.local_addr().expect("it has one")],
        ..settings
    };
    play(settings.clone(), |mut s| async move {
        for _ in 0..500 {
            s.pass(1).await;
            other.turn(s.bed.now);
        }
        let templates = |s: &Scene| s.bed.bed.plane().templates.len();
        assert_eq!(templates(&s), 1, "{:?}", s.control.status());
        let lost = Settings {
            key_file: Some("/nowhere/key".into()),
            ..settings.clone()
        };
        for settings in [lost, settings] {
            s.control.set(settings);
            for _ in 0..500 {
                s.pass(1).await;
                other.turn(s.bed.now);
                let told = s.control.state().node.map_or(0, |n| n.upserts);
                assert_eq!(told, 0, "it is told on as the director's own");
            }
        }
        assert!(s.control.state().node.is_some_and(|n| n.ready));
        assert_eq!(templates(&s), 1);
    });
}
