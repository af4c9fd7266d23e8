//! The control socket end to end: a real socket, and workers that are threads.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::api;
use super::conns::{Lister, Position};
use super::sync::SyncControl;
use super::testkit::*;
use crate::sync::settings::{Role, Settings};

/// One raw exchange: status and body.
fn http(socket: &Path, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
    let mut stream = UnixStream::connect(socket).expect("connects");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    let status = answer[9..12].parse().expect("a status");
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    (status, serde_json::from_str(body).expect("JSON"))
}

/// The body of an answer to a GET that must succeed.
fn get<T: serde::de::DeserializeOwned>(socket: &Path, path: &str) -> T {
    let (status, body) = http(socket, "GET", path, "");
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_value(body).expect("as the API says")
}

fn error(answer: &(u16, serde_json::Value)) -> &str {
    answer.1["error"].as_str().expect("an error sentence")
}

#[test]
fn every_listing_is_what_the_api_says() {
    let plane = plane(2);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let _workers = [
        FakeWorker::start(&plane, 0, vec![conn(1)]),
        FakeWorker::start(&plane, 1, vec![]),
    ];
    let socket = ControlSocket::serve(&manager.shared());
    let version: api::Version = get(&socket.path, "/v1/version");
    assert_eq!(version.version, env!("CARGO_PKG_VERSION"));
    let services: api::Services = get(&socket.path, "/v1/services");
    assert_eq!(services.services[1].address, "[2001:db8::5]:5060");
    let servers: api::Servers = get(&socket.path, "/v1/servers");
    assert_eq!(servers.servers.len(), 3);
    let neighbours: api::Neighbours = get(&socket.path, "/v1/neighbours");
    assert!(
        neighbours.neighbours.is_empty(),
        "nobody is on the link yet"
    );
    let workers: api::Workers = get(&socket.path, "/v1/workers");
    assert_eq!(workers.workers[1].core, Some(2));
    let ports: api::Ports = get(&socket.path, "/v1/ports");
    assert_eq!(ports.ports, [port_status()]);
    let drops: api::Drops = get(&socket.path, "/v1/drops");
    assert_eq!(drops.drops.len(), crate::net::DropReason::COUNT);
    let connections: api::Connections = get(&socket.path, "/v1/connections");
    let c = &connections.connections[0];
    assert_eq!((c.state.as_str(), c.expires_s), ("ESTABLISHED", 897.25));
    assert_eq!(
        c.server.as_deref(),
        Some("10.0.0.2:80"),
        "slot 0 is the newest"
    );
    let json: serde_json::Value = get(&socket.path, "/v1/connections");
    assert_eq!(json["connections"][0]["virtual"], "192.0.2.80:80");
}

#[test]
fn a_server_is_changed_over_the_socket_and_workers_see_it() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let socket = ControlSocket::serve(&manager.shared());
    let put = |server: &str, body: &str| {
        http(&socket.path, "PUT", &format!("/v1/servers/{server}"), body)
    };
    let (status, body) = put("web/10.0.0.1:80", r#"{"weight": 5, "state": "drain"}"#);
    assert_eq!(status, 200);
    assert_eq!(body["server"]["weight"], 5);
    assert_eq!(body["server"]["state"], "drain");
    let (status, body) = put(
        "web/10.0.0.1:80",
        r#"{"upper_threshold": 50, "lower_threshold": 20, "up": false}"#,
    );
    let s = &body["server"];
    assert_eq!((status, &s["up"]), (200, &false.into()));
    assert_eq!(
        (&s["upper_threshold"], &s["lower_threshold"]),
        (&50.into(), &20.into())
    );
    assert_eq!(s["weight"], 5, "what is not named stays");
    let (status, _) = put("sip/%5B2001:db8:1::3%5D:5060", r#"{"weight": 0}"#);
    assert_eq!(status, 200);
    let snapshot = plane.snapshot.load_full();
    let sip = snapshot.service_by_name("sip").expect("there");
    assert_eq!(sip.dests[0].weight, 0);
}

/// Request, body, status, and part of what is said.
const REFUSED: &str = r#"
    GET /v1/nothing | | 404 | there is no /v1/nothing
    GET /v1/reload | | 405 | GET is not for /v1/reload
    GET /v1/servers/web/10.0.0.1:80 | | 405 | GET is not for
    DELETE /v1/reload | | 405 | DELETE is not for
    PUT /v1/servers/web/10.0.0.1:80 | | 400 | the body must be
    PUT /v1/servers/web/10.0.0.1:80 | { | 400 | the body must be
    PUT /v1/servers/web/10.0.0.1:80 | {"wieght": 1} | 400 | unknown field `wieght`
    PUT /v1/servers/web/10.0.0.1:80 | {"weight": -1} | 400 | the body must be
    PUT /v1/servers/web/10.0.0.1:80 | {"weight": 65536} | 422 | weight 65536 is above 65535
    PUT /v1/servers/web/10.0.0.1:80 | {"state": "gone"} | 422 | ready, drain, maint
    PUT /v1/servers/web/10.0.0.1:80 | {} | 422 | nothing to change
    PUT /v1/servers/web/10.0.0.1:80 | {"upper_threshold": 2147483648} | 422 | upper threshold 2147483648 is above 2147483647
    PUT /v1/servers/web/10.0.0.1:80 | {"upper_threshold": 5, "lower_threshold": 6} | 422 | the lower threshold, 6, would be above the upper one, 5
    PUT /v1/servers/wob/a | {"weight": 1} | 404 | did you mean `web`?
    PUT /v1/servers/web/a | {"weight": 1} | 404 | has no server `a`
    GET /v1/connections?service=wob | | 404 | did you mean `web`?
    GET /v1/connections?limit=0 | | 400 | `limit` is 0
    GET /v1/connections?limit=x | | 400 | limit
    GET /v1/connections?sevrice=web | | 400 | unknown field `sevrice`
    GET /v1/connections?from=9 | | 400 | not a `next`
    GET /v1/templates?from=0.4.0.0 | | 400 | not a `next`
    GET /v1/templates?service=wob | | 404 | did you mean `web`?
    GET /v1/services/wob | | 404 | did you mean `web`?
    PATCH /v1/services/web | | 400 | the body must be
    PATCH /v1/services/web | {} | 422 | nothing to change
    PATCH /v1/services/wob | {} | 404 | did you mean `web`?
    PATCH /v1/services/web | {"one_packet": true} | 422 | `one_packet` is for UDP
    PATCH /v1/services/web | {"persistence": {"enigne": "sip"}} | 400 | unknown field `enigne`
"#;

#[test]
fn what_makes_no_sense_is_refused_with_a_sentence_and_the_right_status() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let socket = ControlSocket::serve(&manager.shared());
    let before = plane.snapshot.load_full();
    let web1 = "/v1/servers/web/10.0.0.1:80";
    for row in REFUSED.trim().lines() {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [request, body, status, said] = cells[..] else {
            panic!("a request, its body, the status and what is said: {row}");
        };
        let (method, path) = request.split_once(' ').expect("method and path");
        let answer = http(&socket.path, method, path, body);
        assert_eq!(answer.0.to_string(), status, "{row}: {}", answer.1);
        assert!(error(&answer).contains(said), "{row}: {}", answer.1);
    }
    let large = format!(r#"{{"state": "{}"}}"#, "x".repeat(100_000));
    assert_eq!(http(&socket.path, "PUT", web1, &large).0, 400);
    assert!(Arc::ptr_eq(&before, &plane.snapshot.load_full()));
}

#[test]
fn a_reload_over_the_socket_tells_changes_or_every_problem() {
    let plane = plane(1);
    let (manager, file) = manager_of(&plane, web_and_sip());
    let socket = ControlSocket::serve(&manager.shared());
    *file.lock().expect("not poisoned") = Err(vec!["a".to_owned(), "b".to_owned()]);
    let (status, body) = http(&socket.path, "POST", "/v1/reload", "");
    assert_eq!(status, 422);
    assert_eq!(body["problems"], serde_json::json!(["a", "b"]));
    let mut new = web_and_sip();
    new.services.pop();
    write(&file, new);
    let (status, body) = http(&socket.path, "POST", "/v1/reload", "");
    assert_eq!(status, 200);
    assert_eq!(
        body["services"]["removed"][0],
        "sip (tcp [2001:db8::5]:5060)"
    );
}

/// How many rows a listing of pages has: no page has more than `limit`, and no row is there twice. `page` gives the rows
/// and what comes next, asked with what is to be added to the request.
fn listed<T: Ord>(limit: usize, page: impl Fn(&str) -> (Vec<T>, Option<String>)) -> usize {
    let mut seen = Vec::new();
    let mut from = String::new();
    loop {
        let (rows, next) = page(&from);
        assert!(rows.len() <= limit);
        seen.extend(rows);
        match next {
            Some(next) => from = format!("&from={next}"),
            None => break,
        }
    }
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(all, seen.len(), "nothing twice");
    all
}

#[test]
fn connections_of_all_workers_are_listed_once_each_whatever_the_limit() {
    let plane = plane(3);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let other = |port| crate::worker::ConnRow {
        service: crate::table::ServiceId(1),
        client: (ip("2001:db8::99"), port),
        ..conn(port)
    };
    let rows = |from: u16, n: u16| (from..from + n).map(conn);
    let _workers = [
        FakeWorker::start(&plane, 0, rows(0, 1200).chain((0..10).map(other)).collect()),
        FakeWorker::start(&plane, 1, vec![]),
        FakeWorker::start(
            &plane,
            2,
            (10..20).map(other).chain(rows(1200, 512)).collect(),
        ),
    ];
    let socket = ControlSocket::serve(&manager.shared());
    let list = |service: &str, limit: usize| {
        listed(limit, |from| {
            let path = format!("/v1/connections?limit={limit}{service}{from}");
            let page: api::Connections = get(&socket.path, &path);
            assert_eq!(page.truncated, page.next.is_some());
            let rows = page.connections.into_iter().map(|c| c.client);
            (rows.collect(), page.next)
        })
    };
    for limit in [7, 512, 600, 10_000] {
        assert_eq!(list("", limit), 1732, "limit {limit}");
        assert_eq!(list("&service=sip", limit), 20, "limit {limit}");
        assert_eq!(list("&service=web", limit), 1712, "limit {limit}");
    }
}

#[test]
fn a_stuck_worker_is_named_and_its_late_answers_are_not_taken_for_others() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let lister = Lister::new(Arc::clone(&plane));
    // While nobody answers time may fly; with a worker that is a thread it must not.
    let list = |paused| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(paused)
            .build()
            .expect("a runtime");
        runtime.block_on(lister.connections(None, Position::START, 10))
    };
    for _ in 0..4 {
        let e = list(true).expect_err("nobody answers");
        assert_eq!(e.kind, api::ErrorKind::Unavailable);
        assert!(e.to_string().contains("worker 0 has not answered"), "{e}");
    }
    let e = list(true).expect_err("given up");
    assert!(e.to_string().contains("worker 0 does not answer"), "{e}");
    assert_eq!(plane.workers[0].commands.len(), 4, "no more questions");
    // It wakes up, answers the four old questions with what it had then, and the new one.
    let worker = FakeWorker::start(&plane, 0, vec![conn(1)]);
    while plane.workers[0].pages.len() < 4 {
        std::thread::yield_now();
    }
    let page = list(false).expect("lists");
    assert_eq!(page.connections.len(), 1);
    drop(worker);
    plane.workers[0]
        .stopped
        .store(true, std::sync::atomic::Ordering::Release);
    let e = list(false).expect_err("stopped");
    assert!(e.to_string().contains("worker 0 has stopped"), "{e}");
    drop(manager);
}

#[test]
fn the_socket_is_gone_after_a_stop() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let mut socket = ControlSocket::serve(&manager.shared());
    assert!(socket.path.exists());
    socket.stop();
    assert!(!socket.path.exists());
}

#[test]
fn a_failed_reload_is_seen_in_the_status() {
    let plane = plane(1);
    let (mut manager, file) = manager_of(&plane, web_and_sip());
    *file.lock().expect("not poisoned") = Err(vec!["a".to_owned()]);
    let later: SystemTime = UNIX_EPOCH + Duration::from_secs(5000);
    manager.reload(later).expect_err("invalid");
    let reload = manager.status(std::time::Instant::now()).reload;
    assert_eq!((reload.successful, reload.success_at), (false, 1000));
}

#[test]
fn a_template_is_what_the_api_says() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, setup(vec![sip_one_packet()]));
    let key = template_key(0, "0.0.0.0", "10.4.3.192:5060", Some(b"a b"));
    add_template(&plane, &key, 0, 60);
    let socket = ControlSocket::serve(&manager.shared());
    let json: serde_json::Value = get(&socket.path, "/v1/templates?service=sip");
    let want = serde_json::json!({
        "templates": [{
            "protocol": "UDP",
            "state": "NONE",
            "expires_s": 60.0,
            "client": "0.0.0.0:0",
            "virtual": "10.4.3.192:5060",
            "mark": null,
            "destination": "127.0.0.1:5060",
            "service": "sip",
            "server": "127.0.0.1:5060",
            "engine": "sip",
            "data": "a\\x20b",
            "controlled": 0,
            "assured": false,
            "origin": "local",
        }],
        "truncated": false,
        "next": null,
    });
    assert_eq!(json, want);
    let services: api::Services = get(&socket.path, "/v1/services");
    let sip = &services.services[0];
    assert_eq!((sip.templates, sip.servers[0].persistent), (1, 1));
    let p = sip.persistence.as_ref().expect("persistent");
    assert_eq!((p.timeout_s, p.netmask.as_str()), (60.0, "0.0.0.0"));
    let workers: api::Workers = get(&socket.path, "/v1/workers");
    assert_eq!((workers.templates, workers.templates_capacity), (1, 64));
}

#[test]
fn templates_are_listed_once_each_whatever_the_limit() {
    let plane = plane(1);
    let mut other = service("other", "192.0.2.80:80", &["10.0.0.1:80"]);
    other.persistence = sip_one_packet().persistence;
    let (manager, _) = manager_of(&plane, setup(vec![sip_one_packet(), other]));
    for i in 0..60u8 {
        let of = u32::from(i % 3 == 0);
        let data = [b'a' + i % 26, b'a' + i / 26];
        let to = ["10.4.3.192:5060", "192.0.2.80:80"][of as usize];
        add_template(
            &plane,
            &template_key(of, "0.0.0.0", to, Some(&data)),
            of,
            60,
        );
    }
    let socket = ControlSocket::serve(&manager.shared());
    let list = |service: &str, limit: usize| {
        listed(limit, |from| {
            let path = format!("/v1/templates?limit={limit}{service}{from}");
            let page: api::Templates = get(&socket.path, &path);
            assert_eq!(page.truncated, page.next.is_some());
            let rows = page.templates.into_iter().map(|t| t.data);
            (rows.collect(), page.next)
        })
    };
    for limit in [1, 7, 20, 60, 10_000] {
        assert_eq!(list("", limit), 60, "limit {limit}");
        assert_eq!(list("&service=sip", limit), 40, "limit {limit}");
        assert_eq!(list("&service=other", limit), 20, "limit {limit}");
    }
}

#[test]
fn persistence_is_changed_over_the_socket_and_workers_see_it() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let socket = ControlSocket::serve(&manager.shared());
    let body = r#"{"persistence": {"timeout": "5m", "netmask": "24"}}"#;
    let (status, body) = http(&socket.path, "PATCH", "/v1/services/web", body);
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["service"]["persistence"]["netmask"], "255.255.255.0");
    assert_eq!(body["service"]["overridden"], true);
    let snapshot = plane.snapshot.load_full();
    let web = snapshot.service_by_name("web").expect("there");
    assert_eq!(web.template_timeout, 30_000);
}

/// Settings of the file that the tests of sync begin with.
fn sync_settings() -> Settings {
    Settings {
        interface: Some("lo".to_owned()),
        key_file: Some("/k".into()),
        ..Settings::default()
    }
}

#[test]
fn sync_is_started_listed_and_stopped_over_the_socket() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    manager.sync_file = sync_settings();
    let fake = FakeSync::of(&mut manager, sync_settings());
    let socket = ControlSocket::serve(&manager.shared());
    let post = |body: &str| http(&socket.path, "POST", "/v1/sync", body);
    let off: api::SyncStatus = get(&socket.path, "/v1/sync");
    assert_eq!((off.role.as_str(), off.overridden), ("off", false));
    let (status, body) = post(r#"{"start": {"role": "master", "sync_id": 9}}"#);
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        body["message"],
        "sync: master started (at run time only: a restart takes what the file says)"
    );
    assert_eq!(body["sync"]["sync_id"], 9);
    assert_eq!(fake.settings().role, Role::Master);
    fake.status.lock().expect("not poisoned").running = true;
    let on: api::SyncStatus = get(&socket.path, "/v1/sync");
    assert_eq!((on.role.as_str(), on.overridden), ("master", true));
    let d = &on.daemons[0];
    assert_eq!(
        (
            d.interface.as_str(),
            d.group.as_str(),
            d.port,
            d.max_message
        ),
        ("lo", "224.0.0.81", 8848, 1472)
    );
    assert_eq!(fake.told(), 1);
    for (body, status, code, says) in [
        (
            r#"{"start": {"role": "master"}}"#,
            409,
            "EEXIST",
            "runs as master already",
        ),
        (
            r#"{"stop": "backup"}"#,
            404,
            "ESRCH",
            "does not run as backup",
        ),
        (
            r#"{"start": {"role": "backup", "interface": "nope0"}}"#,
            422,
            "ENODEV",
            "no interface `nope0`",
        ),
        (
            r#"{"start": {"role": "backup", "ttl": 300}}"#,
            422,
            "EINVAL",
            "1 to 255",
        ),
    ] {
        let answer = post(body);
        assert_eq!(answer.0, status, "{body}: {}", answer.1);
        assert_eq!(answer.1["code"], code);
        assert!(error(&answer).contains(says), "{}", answer.1);
    }
    assert_eq!(post(r#"{"role": "primary"}"#).0, 422);
    assert_eq!(post(r#"{"rule": "master"}"#).0, 400);
    assert_eq!(post("").0, 400);
    assert_eq!(fake.told(), 0, "what is refused does not reach the machine");
    let (status, body) = post(r#"{"role": "master"}"#);
    assert_eq!((status, fake.told()), (200, 0), "{body}");
    *fake.refuses.lock().expect("not poisoned") = Some("no socket to be had".to_owned());
    let answer = post(r#"{"role": "both"}"#);
    assert_eq!((answer.0, error(&answer)), (422, "no socket to be had"));
    *fake.refuses.lock().expect("not poisoned") = None;
    let (status, body) = post(r#"{"stop": "master"}"#);
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["sync"]["daemons"], serde_json::json!([]));
}

#[test]
fn an_appliance_without_sync_says_so() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let socket = ControlSocket::serve(&manager.shared());
    let status: api::SyncStatus = get(&socket.path, "/v1/sync");
    assert!(status.ready && !status.running);
    let why = "this appliance was started without state sync";
    assert_eq!(status.problem.as_deref(), Some(why));
    let answer = http(&socket.path, "POST", "/v1/sync", r#"{"role": "master"}"#);
    assert_eq!((answer.0, error(&answer)), (503, why));
}
