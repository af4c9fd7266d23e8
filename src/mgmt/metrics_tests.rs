//! The metrics page: its text, promtool's opinion of it, the documentation of it, and the endpoint.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::api;
use super::manager::{Manager, Shared};
use super::metrics::{MetricsServer, documentation, render};
use super::status::Status;
use super::testkit::*;
use crate::config::Detail;
use crate::net::DropReason;
use crate::sync::settings::{Role, Settings};
use crate::table::{DestId, ServiceId};
use crate::worker::Plane;

/// Compares `text` with a file of the repository, or writes it with `BLESS=1` in the environment.
fn golden(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("makes it");
        std::fs::write(&path, text).expect("writes");
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        want == text,
        "{} is not current: look at the difference, and run the test with BLESS=1 if it is meant",
        path.display()
    );
}

fn counted(plane: &Arc<Plane>) {
    let c = &plane.workers[0].counters;
    c.received.add(1000);
    c.transmitted.add(900);
    c.punted.add(40);
    c.connections.set(3);
    c.busy_cycles.add(250);
    c.idle_cycles.add(750);
    c.drop(DropReason::NoServer);
    c.service(ServiceId(0)).packets_in.add(500);
    c.service(ServiceId(0)).rejected_no_server.add(1);
    let s = c.service(ServiceId(1));
    s.rejected_no_key.add(1);
    s.rejected_template_table_full.add(2);
    s.template_hits.add(3);
    s.template_misses.add(4);
    s.no_key_short.add(5);
    s.no_key_missing.add(6);
    s.rehomed.add(7);
    s.rehome_lost.add(8);
    s.sessions_untracked.add(9);
    c.fragments_received.add(10);
    c.datagrams_reassembled.add(3);
    c.fragments_held.set(2);
    let key = template_key(1, "2001:db8:9::", "[2001:db8::5]:5060", None);
    add_template(plane, &key, 2, 60);
    c.dest(DestId(0)).bytes_in.add(30_000);
    let c = &plane.workers[1].counters;
    c.received.add(500);
    c.drop(DropReason::NoServer);
    c.service(ServiceId(0)).packets_in.add(250);
}

fn example() -> (Arc<Plane>, Manager, Status) {
    let plane = plane(2);
    let mut setup = web_and_sip();
    setup.services[0].servers[0].name = Some("a \"quoted\\\" name".to_owned());
    let (mut manager, _) = manager_of(&plane, setup);
    counted(&plane);
    let fake = FakeSync::of(
        &mut manager,
        Settings {
            role: Role::Both,
            ..Settings::default()
        },
    );
    *fake.status.lock().expect("not poisoned") = sync_status();
    let now = Instant::now() + Duration::from_secs(1);
    manager.tick(now);
    let mut status = manager.status(now);
    status.version = api::Version {
        version: "1.2.3".to_owned(),
        commit: "abc".to_owned(),
        dpdk: "22.11".to_owned(),
    };
    (plane, manager, status)
}

#[test]
fn the_page_is_as_it_was() {
    let (_, _, mut status) = example();
    // All reasons are in the documentation's page; a new one need not change this one too.
    status.drops.retain(|d| d.packets > 0);
    golden(
        "src/mgmt/metrics_golden.txt",
        &render(&status, Detail::Worker),
    );
}

#[test]
fn promtool_finds_nothing_to_say() {
    let (_, _, status) = example();
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            eprintln!("SKIPPED: promtool is not installed (Debian: apt-get install prometheus)");
            return;
        }
        other => other.expect("promtool starts"),
    };
    let page = render(&status, Detail::Worker);
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(page.as_bytes()).expect("writes");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

#[test]
fn the_documentation_is_current() {
    golden("docs/metrics.md", &documentation());
}

#[test]
fn every_drop_reason_has_a_series() {
    let (_, _, status) = example();
    let page = render(&status, Detail::Service);
    for r in DropReason::ALL {
        let series = format!("\npolder_drops_total{{reason=\"{}\"}} ", r.name());
        assert!(page.contains(&series), "{series}");
    }
}

#[test]
fn detail_decides_what_there_is() {
    let (_, _, status) = example();
    let has = |detail, what: &str| render(&status, detail).contains(what);
    for (family, details) in [
        ("polder_service_packets_received_total{", [true, true, true]),
        ("polder_server_weight{", [false, true, true]),
        (
            "polder_worker_packets_received_total{",
            [false, false, true],
        ),
        (
            "polder_drops_total{reason=\"punt_rate\"} 0",
            [true, true, true],
        ),
    ] {
        let found = [Detail::Service, Detail::Server, Detail::Worker].map(|d| has(d, family));
        assert_eq!(found, details, "{family}");
    }
}

#[test]
fn workers_add_up_to_the_sums_of_the_same_page() {
    let (_, _, status) = example();
    let page = render(&status, Detail::Worker);
    assert!(page.contains("\npolder_packets_received_total 1500\n"));
    assert!(page.contains("\npolder_drops_total{reason=\"no_server\"} 2\n"));
    assert!(page.contains("\npolder_service_packets_received_total{service=\"web\"} 750\n"));
}

#[test]
fn a_removed_service_has_no_series_any_more() {
    let plane = plane(1);
    let (mut manager, file) = manager_of(&plane, web_and_sip());
    let mut new = web_and_sip();
    new.services.remove(0);
    write(&file, new);
    manager.reload(std::time::UNIX_EPOCH).expect("valid");
    let page = render(&manager.status(Instant::now()), Detail::Worker);
    assert!(!page.contains("service=\"web\""));
    assert!(page.contains("service=\"sip\""));
}

/// Status line and body of a GET.
fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("connects");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    (head.to_owned(), body.to_owned())
}

/// Calls `test` with the address of an endpoint that serves `manager`.
fn served(manager: &Shared, test: impl FnOnce(SocketAddr) + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = MetricsServer::bind(any).await.expect("binds");
        let address = server.address().expect("an address");
        let e = MetricsServer::bind(address).await.expect_err("in use");
        assert!(e.contains("metrics.listen"), "{e}");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let client = std::thread::spawn(move || {
            test(address);
            drop(stop);
        });
        let stop = async {
            // An error means that the test is over.
            let _ = stopped.await;
        };
        let served = server.serve(Arc::clone(manager), Detail::Server, stop);
        served.await.expect("serves");
        client.join().expect("the test passes");
    });
}

#[test]
fn the_endpoint_tells_metrics_health_and_readiness() {
    let plane = plane(2);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let manager = manager.shared();
    let shared = Arc::clone(&manager);
    served(&manager, move |address| {
        let (head, body) = get(address, "/metrics");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("polder_connections_capacity 1000"));
        assert!(get(address, "/healthz").0.starts_with("HTTP/1.1 200"));
        let (head, body) = get(address, "/readyz");
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert!(
            body.contains("worker 1 has not seen the configuration yet"),
            "{body}"
        );
        all_see(&shared.lock().expect("not poisoned"));
        assert!(get(address, "/readyz").0.starts_with("HTTP/1.1 200"));
        plane.workers[1].stopped.store(true, Ordering::Release);
        let (head, body) = get(address, "/healthz");
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert_eq!(body, "worker 1 has stopped\n");
        assert!(get(address, "/").1.contains("/metrics"));
    });
}

#[test]
fn an_earlier_life_of_a_peer_has_no_series_of_its_own() {
    let (_, _, mut status) = example();
    let page = render(&status, Detail::Server);
    let sync = status.sync.as_mut().expect("there is sync");
    let old = api::SyncPeer {
        state: "lost".to_owned(),
        lag_seconds: Some(99.0),
        ..sync.peers[2].clone()
    };
    sync.peers.push(old.clone());
    sync.peers.push(api::SyncPeer {
        address: sync.peers[0].address.clone(),
        ..old
    });
    assert_eq!(page, render(&status, Detail::Server));
}

#[test]
fn syncz_is_about_sync_alone() {
    let plane = plane(2);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    let fake = FakeSync::of(
        &mut manager,
        Settings {
            role: Role::Backup,
            ..Settings::default()
        },
    );
    *fake.status.lock().expect("not poisoned") = sync_status();
    served(&manager.shared(), move |address| {
        let (head, body) = get(address, "/syncz");
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert_eq!(
            body,
            "state sync is not ready: peer new: 0% of the 99% it must have\n"
        );
        assert!(get(address, "/readyz").1.contains("peer new: 0%"));
        fake.status.lock().expect("not poisoned").ready = true;
        let (head, body) = get(address, "/syncz");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(body, "ok\n");
        assert!(
            get(address, "/readyz").0.starts_with("HTTP/1.1 503"),
            "no worker has seen the configuration"
        );
    });
}
