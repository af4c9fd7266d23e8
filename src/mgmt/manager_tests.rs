//! The manager: publishing, reload, run-time edits, and counters over both.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;

use super::api::{self, ErrorKind, PersistenceUpdate, ServiceUpdate};
use super::manager::{Loaded, Manager, ServerEdit};
use super::sync::SyncControl;
use super::testkit::*;
use crate::forward::defence::{Active, Mode, Sysctls};
use crate::forward::defs::MarkRule;
use crate::forward::{NeighbourDef, PortId, Prefix, RouteDef, Setup, Snapshot, Way};
use crate::net::Mac;
use crate::persist::{Field, PayloadKey, SessionKey, Unit};
use crate::sched::Selection;
use crate::sync::settings::{Role, Settings};
use crate::table::{AdminState, DestId, ServiceId};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn effective(manager: &Manager, service: usize, server: usize) -> u32 {
    manager.services().services[service].servers[server].effective_weight
}

#[test]
fn the_first_snapshot_is_published_at_once() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let snapshot = plane.snapshot.load_full();
    assert_eq!((snapshot.generation, manager.generation()), (1, 1));
    assert!(snapshot.service_by_name("sip").is_some());
    assert_eq!(snapshot.fib.ports[0].mac, Mac([2, 0, 0, 0, 0, 0x10]));
}

#[test]
fn the_kernels_view_shares_services_and_yields_to_the_configuration() {
    let plane = plane(1);
    let mut setup = web_and_sip();
    let neighbour = |last, mac| NeighbourDef {
        port: PortId(0),
        addr: ip(&format!("192.0.2.{last}")),
        mac: Mac([2, 0, 0, 0, 1, mac]),
    };
    setup.neighbours = vec![neighbour(1, 1)];
    let (mut manager, _) = manager_of(&plane, setup);
    let before = plane.snapshot.load_full();
    let route = RouteDef {
        to: Prefix {
            addr: ip("10.0.0.0"),
            len: 8,
        },
        via: Some(ip("192.0.2.1")),
        port: PortId(0),
    };
    let neighbours = vec![neighbour(1, 99), neighbour(2, 2)];
    assert!(manager.set_kernel_view(vec![route.clone()], neighbours.clone()));
    let after = plane.snapshot.load_full();
    assert!(Arc::ptr_eq(&before.services, &after.services));
    assert_eq!(after.generation, before.generation + 1);
    assert!(matches!(after.fib.way_to(ip("10.0.0.1")), Way::Known(e) if e.dst_mac.0[5] == 1));
    assert!(matches!(after.fib.way_to(ip("192.0.2.2")), Way::Known(e) if e.dst_mac.0[5] == 2));
    assert!(
        !manager.set_kernel_view(vec![route], neighbours),
        "no news, no snapshot"
    );
    let origins: Vec<_> = manager
        .neighbours()
        .neighbours
        .into_iter()
        .map(|n| (n.address, n.origin))
        .collect();
    let row = |a: &str, o: &str| (a.to_owned(), o.to_owned());
    assert_eq!(
        origins,
        [row("192.0.2.1", "static"), row("192.0.2.2", "kernel")]
    );
}

#[test]
fn a_replaced_snapshot_is_kept_while_a_worker_has_it_and_freed_here() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    let now = Instant::now();
    manager.tick(now);
    assert_eq!(manager.retired(), 0, "nobody has the empty one");
    let workers = plane.snapshot.load();
    manager.set_weight("web", "10.0.0.1:80", 5).expect("set");
    manager.tick(now);
    assert_eq!(manager.retired(), 1);
    drop(workers);
    manager.tick(now);
    assert_eq!(manager.retired(), 0);
}

#[test]
fn a_weight_is_set_by_address_or_name_and_only_at_run_time() {
    let plane = plane(1);
    let mut setup = web_and_sip();
    setup.services[0].servers[1].name = Some("second".to_owned());
    let (mut manager, _) = manager_of(&plane, setup);
    for (service, server) in [
        ("web", "second"),
        ("web", "10.0.0.2:80"),
        ("web", "10.0.0.2"),
        ("sip", "[2001:db8:1::3]:5060"),
        ("sip", "2001:db8:1::3"),
    ] {
        let before = manager.generation();
        let done = manager.set_weight(service, server, 7).expect("set");
        assert_eq!(done.server.effective_weight, 7, "{service} {server}");
        assert!(done.server.overridden && done.message.contains("run time"));
        let first = server == "second" || service == "sip" && server.starts_with('[');
        assert_eq!(manager.generation() - before, u64::from(first), "{server}");
    }
    let done = manager.set_weight("web", "second", 1).expect("set");
    assert!(!done.server.overridden, "as the file says again");
}

#[test]
fn a_drained_server_keeps_its_weight_and_has_none_that_counts() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    for (state, word, reason, weight) in [
        (AdminState::Drain, "drain", "drained", 0),
        (AdminState::Maint, "maint", "in maintenance", 0),
        (AdminState::Ready, "ready", "", 1),
    ] {
        let s = manager
            .set_state("web", "10.0.0.1:80", state)
            .expect("set")
            .server;
        assert_eq!((s.state.as_str(), s.reason.as_str()), (word, reason));
        assert_eq!((s.weight, s.effective_weight), (1, weight));
    }
}

#[test]
fn an_unknown_name_is_answered_with_those_there_are() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    let before = plane.snapshot.load_full();
    let e = manager.set_weight("wbe", "10.0.0.1:80", 1).expect_err("no");
    assert_eq!(e.kind, ErrorKind::NotFound);
    assert_eq!(
        e.to_string(),
        "there is no service `wbe`; did you mean `web`? There is: web, sip."
    );
    let e = manager.set_weight("web", "10.0.0.3:80", 1).expect_err("no");
    assert!(e.to_string().contains("did you mean `10.0.0."), "{e}");
    assert!(Arc::ptr_eq(&before, &plane.snapshot.load_full()));
}

#[test]
fn an_invalid_file_changes_nothing_and_is_remembered_as_a_failure() {
    let plane = plane(1);
    let (mut manager, file) = manager_of(&plane, web_and_sip());
    let before = plane.snapshot.load_full();
    let problems = vec!["f:3:1: first".to_owned(), "f:9:1: second".to_owned()];
    *file.lock().expect("not poisoned") = Err(problems.clone());
    let e = manager.reload(at(2000)).expect_err("invalid");
    assert_eq!((e.kind, &e.body.problems), (ErrorKind::Invalid, &problems));
    assert!(Arc::ptr_eq(&before, &plane.snapshot.load_full()));
    assert_eq!(manager.setup(), &web_and_sip());
    let state = manager.reload_state();
    assert_eq!((state.successful, state.success_at), (false, 1000));
    write(&file, web_and_sip());
    assert!(!manager.reload(at(3000)).expect("valid").changed);
    let state = manager.reload_state();
    assert_eq!((state.successful, state.success_at), (true, 3000));
    assert!(
        Arc::ptr_eq(&before, &plane.snapshot.load_full()),
        "nothing to publish"
    );
}

#[test]
fn a_set_up_that_can_not_be_built_changes_nothing() {
    let plane = plane(1);
    let (mut manager, file) = manager_of(&plane, web_and_sip());
    let before = plane.snapshot.load_full();
    let named = |n: usize| service(&format!("s{n}"), &format!("192.0.2.80:{n}"), &[]);
    let cases = [
        (setup((1..=5).map(named).collect()), "limits.services"),
        (setup(vec![named(1), named(1)]), "two services named"),
        (
            setup(vec![service(
                "a",
                "192.0.2.80:1",
                &["10.0.0.1:1", "10.0.0.1:1"],
            )]),
            "must differ",
        ),
    ];
    for (bad, said) in cases {
        write(&file, bad);
        let e = manager.reload(at(2000)).expect_err("can't be built");
        assert!(e.to_string().contains(said), "{e}");
        assert!(Arc::ptr_eq(&before, &plane.snapshot.load_full()));
    }
}

#[test]
fn what_needs_a_restart_is_refused_by_name() {
    let plane = plane(1);
    let (mut manager, file) = manager_of(&plane, web_and_sip());
    let mut new = web_and_sip();
    new.ports[0].mtu = 9000;
    new.services[0].scheduler = "wrr".to_owned();
    *file.lock().expect("not poisoned") = Ok(Loaded {
        setup: new,
        fixed: [("dpdk.cores".to_owned(), "[1, 2]".to_owned())].into(),
        ..Loaded::default()
    });
    let e = manager.reload(at(2000)).expect_err("needs a restart");
    assert_eq!(e.body.problems.len(), 2, "{e}");
    assert!(e.body.problems[0].contains("`ports.wan0.mtu`"), "{e}");
    assert!(e.body.problems[0].contains("1500 -> 9000"), "{e}");
    assert!(e.body.problems[1].contains("`dpdk.cores`"), "{e}");
    assert_eq!(manager.setup(), &web_and_sip());
}

#[test]
fn a_reload_tells_what_changed() {
    let plane = plane(1);
    let (mut manager, file) = manager_of(&plane, web_and_sip());
    let mut new = web_and_sip();
    new.services.remove(1);
    new.services.push(service("dns", "192.0.2.53:53", &[]));
    new.services[0].scheduler = "wrr".to_owned();
    new.services[0].servers[0].weight = 5;
    new.services[0].servers[1] = server("10.0.0.9:80");
    new.timeouts.udp = Duration::from_secs(1);
    new.marks.push(MarkRule {
        mark: 7,
        proto: Some(6),
        ..MarkRule::default()
    });
    new.expire_quiescent_template = true;
    write(&file, new);
    let r = manager.reload(at(2000)).expect("valid");
    assert!(r.changed);
    assert_eq!(r.services.added, ["dns (tcp 192.0.2.53:53)"]);
    assert_eq!(r.services.removed, ["sip (tcp [2001:db8::5]:5060)"]);
    assert_eq!(r.services.changed[0].what, ["scheduler rr -> wrr"]);
    assert_eq!(r.servers.added, ["web/10.0.0.9:80"]);
    assert_eq!(r.servers.removed, ["web/10.0.0.2:80"]);
    assert_eq!(r.servers.changed[0].name, "web/10.0.0.1:80");
    assert_eq!(r.servers.changed[0].what, ["weight 1 -> 5"]);
    assert_eq!(r.other, ["timeouts", "marks", "ipvs"]);
}

#[test]
fn a_reload_keeps_what_was_set_at_run_time_unless_the_file_changed_there() {
    let plane = plane(1);
    let (mut manager, file) = manager_of(&plane, web_and_sip());
    manager.set_weight("web", "10.0.0.1:80", 0).expect("set");
    manager
        .set_state("web", "10.0.0.2:80", AdminState::Drain)
        .expect("set");
    let mut new = web_and_sip();
    new.services[1].servers[0].weight = 9;
    write(&file, new.clone());
    let r = manager.reload(at(2000)).expect("valid");
    assert_eq!(r.kept.len(), 2, "{r:?}");
    assert!(r.kept[0].contains("keeps weight 0"), "{r:?}");
    let weights = |m: &Manager| (effective(m, 0, 0), effective(m, 0, 1), effective(m, 1, 0));
    assert_eq!(weights(&manager), (0, 0, 9));
    new.services[0].servers[0].weight = 3;
    write(&file, new);
    manager.reload(at(3000)).expect("valid");
    assert_eq!(weights(&manager), (3, 0, 9));
}

#[test]
fn unchanged_servers_keep_slots_and_counts_over_a_reload() {
    let plane = plane(2);
    let (mut manager, file) = manager_of(&plane, web_and_sip());
    let before = plane.snapshot.load_full();
    let sip = Arc::clone(before.service_by_name("sip").expect("there"));
    let mut new = web_and_sip();
    new.services.remove(0);
    write(&file, new);
    manager.reload(at(2000)).expect("valid");
    let after = plane.snapshot.load_full();
    let now = after.service_by_name("sip").expect("there");
    assert_eq!((now.id, now.dests[0].id), (sip.id, sip.dests[0].id));
    assert!(Arc::ptr_eq(&now.dests[0].shared, &sip.dests[0].shared));
}

#[test]
fn a_reused_slot_starts_at_zero() {
    let plane = plane(2);
    let only = |name: &str, port: u16, server: &str| {
        setup(vec![service(
            name,
            &format!("192.0.2.80:{port}"),
            &[server],
        )])
    };
    let (mut manager, file) = manager_of(&plane, only("old", 1, "10.0.0.1:80"));
    for w in &plane.workers {
        w.counters.service(ServiceId(0)).packets_in.add(10);
        w.counters.dest(DestId(0)).packets_in.add(7);
    }
    let counts = |m: &Manager| {
        let s = m.services().services.remove(0);
        (s.packets_in, s.servers[0].packets_in)
    };
    assert_eq!(counts(&manager), (20, 14));
    // As many services as there are slots and one more: the first slot is given to another.
    for n in 2..=5u16 {
        all_see(&manager);
        write(&file, only("new", n, &format!("10.0.0.{n}:80")));
        manager.reload(at(2000)).expect("valid");
        assert_eq!(counts(&manager), (0, 0), "service {n}");
    }
    let snapshot = plane.snapshot.load_full();
    let s = snapshot.service_by_name("new").expect("there");
    assert_eq!(s.id, ServiceId(0), "the slot was reused");
    plane.workers[1].counters.service(s.id).packets_in.add(3);
    plane.workers[1]
        .counters
        .dest(s.dests[0].id)
        .packets_in
        .add(2);
    assert_eq!(counts(&manager), (3, 2));
}

#[test]
fn a_removed_servers_slot_is_not_reused_before_every_worker_has_moved_on() {
    let plane = plane(2);
    let with = |servers: &[&str]| setup(vec![service("web", "192.0.2.80:80", servers)]);
    let (mut manager, file) = manager_of(&plane, with(&["10.0.0.1:80"]));
    let slot = |s: &str| {
        let snapshot = plane.snapshot.load_full();
        let web = snapshot.service_by_name("web").expect("there");
        let d = web.dests.iter().find(|d| d.name == s).expect("there");
        d.id
    };
    let first = slot("10.0.0.1:80");
    all_see(&manager);
    write(&file, with(&["10.0.0.2:80"]));
    manager.reload(at(1)).expect("valid");
    plane.workers[0]
        .seen_generation
        .store(manager.generation(), Ordering::Release);
    // Forwarding information has generations of its own, which must not be taken for those of services.
    for n in 0..5u8 {
        let mac = Some(Mac([2, 0, 0, 0, 0, n]));
        manager.set_port_macs(vec![mac]);
    }
    write(&file, with(&["10.0.0.2:80", "10.0.0.3:80"]));
    manager.reload(at(2)).expect("valid");
    assert_ne!(
        slot("10.0.0.3:80"),
        first,
        "worker 1 may still use the first"
    );
    all_see(&manager);
    write(&file, with(&["10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"]));
    manager.reload(at(3)).expect("valid");
    assert_eq!(slot("10.0.0.4:80"), first, "now nobody does");
}

#[test]
fn a_removed_server_is_listed_while_it_has_connections_and_has_no_series() {
    let plane = plane(1);
    let (mut manager, file) = manager_of(&plane, web_and_sip());
    let snapshot = plane.snapshot.load_full();
    let web = snapshot.service_by_name("web").expect("there");
    let first = web.dests.iter().find(|d| d.name == "10.0.0.1:80");
    let first = Arc::clone(first.expect("there"));
    first.bind_unchecked();
    let mut new = web_and_sip();
    new.services[0].servers.remove(0);
    write(&file, new);
    manager.reload(at(1)).expect("valid");
    let servers = manager.services().services.remove(0).servers;
    assert_eq!(servers.len(), 2);
    let gone = &servers[1];
    assert_eq!((gone.name.as_str(), gone.inactive), ("10.0.0.1:80", 1));
    assert!(gone.removed && gone.effective_weight == 0);
    assert_eq!(gone.reason, "removed from the configuration");
    let page = super::metrics::render(
        &manager.status(Instant::now()),
        crate::config::Detail::Worker,
    );
    assert!(!page.contains("server=\"10.0.0.1:80\""));
    first.unbind(false);
    let servers = manager.services().services.remove(0).servers;
    assert_eq!(servers.len(), 1, "its last connection has ended");
}

#[test]
fn snapshots_are_freed_while_workers_run_and_none_is_left() {
    let plane = plane(2);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    let workers = [
        FakeWorker::start(&plane, 0, vec![]),
        FakeWorker::start(&plane, 1, vec![]),
    ];
    let held = |m: &Manager| m.retired();
    for n in 0..500u16 {
        manager.set_weight("web", "10.0.0.1:80", n).expect("set");
        // Each worker has one snapshot at a time, and one is the one just replaced.
        assert!(held(&manager) <= 3, "{} at {n}", held(&manager));
    }
    drop(workers);
    manager.tick(Instant::now());
    assert_eq!(held(&manager), 0);
}

#[test]
fn health_names_the_stuck_worker_and_readiness_waits_for_all() {
    let plane = plane(2);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    let now = Instant::now();
    assert!(manager.unhealthy(now).is_empty());
    assert_eq!(
        manager.unready(now).len(),
        2,
        "nobody has seen the configuration"
    );
    all_see(&manager);
    assert!(manager.unready(now).is_empty());
    let later = now + Duration::from_secs(10);
    plane.workers[0].heartbeat.store(1, Ordering::Release);
    manager.tick(later);
    let said = manager.unhealthy(later);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("worker 1 is stuck"), "{said:?}");
    plane.workers[0].stopped.store(true, Ordering::Release);
    assert_eq!(manager.unhealthy(later).len(), 2);
}

/// A step of the property below.
#[derive(Clone, Debug)]
enum Step {
    /// A worker counts for everything it sees.
    Count { worker: usize, n: u64 },
    /// A reload to the services and servers of these bits.
    Reload { services: u8, servers: u8 },
    /// A worker sees what is published.
    See { worker: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..2usize, 1..100u64).prop_map(|(worker, n)| Step::Count { worker, n }),
        (any::<u8>(), any::<u8>()).prop_map(|(services, servers)| Step::Reload {
            services: services & 7,
            servers: servers & 7
        }),
        (0..2usize).prop_map(|worker| Step::See { worker }),
    ]
}

fn chosen(services: u8, servers: u8) -> Setup {
    let bits = |set: u8| (1..=3u8).filter(move |n| set & (1 << (n - 1)) != 0);
    let addresses: Vec<String> = bits(servers).map(|n| format!("10.0.0.{n}:80")).collect();
    let servers: Vec<&str> = addresses.iter().map(String::as_str).collect();
    // No more servers than slots, removed ones included.
    let servers = &servers[..servers.len().min(2)];
    let of = |n: u8| service(&format!("s{n}"), &format!("192.0.2.80:{n}"), servers);
    setup(bits(services).map(of).collect())
}

/// Every series and its value.
fn series(manager: &Manager) -> Vec<(String, u64)> {
    let mut out = Vec::new();
    for s in manager.services().services {
        out.push((s.name.clone(), s.packets_in));
        out.extend(
            s.servers
                .iter()
                .map(|d| (format!("{}/{}", s.name, d.name), d.packets_in)),
        );
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A series that is there before and after a step does not go backwards, and a new one has nothing of another's.
    #[test]
    fn no_series_goes_backwards(steps in prop::collection::vec(step(), 1..40)) {
        let plane = plane(2);
        let (mut manager, file) = manager_of(&plane, chosen(1, 1));
        let mut seen = [plane.snapshot.load_full(), plane.snapshot.load_full()];
        let mut counted = std::collections::HashMap::<String, u64>::new();
        let mut before = series(&manager);
        for step in steps {
            match step {
                Step::Count { worker, n } => {
                    for s in seen[worker].services_in_order() {
                        plane.workers[worker].counters.service(s.id).packets_in.add(n);
                        *counted.entry(s.def.name.clone()).or_default() += n;
                        for d in &s.dests {
                            plane.workers[worker].counters.dest(d.id).packets_in.add(n);
                            *counted.entry(format!("{}/{}", s.def.name, d.name)).or_default() += n;
                        }
                    }
                }
                Step::Reload { services, servers } => {
                    write(&file, chosen(services, servers));
                    // Refused when removed servers still have all slots: nothing changes then.
                    let _ = manager.reload(at(1));
                }
                Step::See { worker } => {
                    seen[worker] = plane.snapshot.load_full();
                    plane.workers[worker]
                        .seen_generation
                        .store(seen[worker].generation, Ordering::Release);
                }
            }
            let after = series(&manager);
            for (name, value) in &after {
                let counted = counted.get(name).copied().unwrap_or(0);
                prop_assert!(*value <= counted, "{name} has {value} of {counted}");
                if let Some((_, old)) = before.iter().find(|(n, _)| n == name) {
                    prop_assert!(value >= old, "{name} went from {old} to {value}");
                }
            }
            before = after;
        }
    }
}

/// What to change of persistence.
fn persist(timeout: &str) -> ServiceUpdate {
    ServiceUpdate {
        persistence: Some(PersistenceUpdate {
            timeout: Some(timeout.to_owned()),
            ..PersistenceUpdate::default()
        }),
        ..ServiceUpdate::default()
    }
}

#[test]
fn a_reload_keeps_persistence_that_was_set_at_run_time_unless_the_file_changed_there() {
    let plane = plane(1);
    let (mut manager, file) = manager_of(&plane, setup(vec![sip_one_packet()]));
    manager.edit_service("sip", &persist("90s")).expect("set");
    let mut new = setup(vec![sip_one_packet()]);
    new.services[0].one_packet = false;
    write(&file, new.clone());
    let r = manager.reload(at(2000)).expect("valid");
    assert_eq!(
        r.kept,
        [
            "sip keeps persistence 90s netmask 0.0.0.0 engine sip that was set at run time \
             (the file says 1m netmask 0.0.0.0 engine sip)"
        ]
    );
    assert_eq!(r.services.changed[0].what, ["one_packet true -> false"]);
    let timeout = |m: &Manager| {
        let service = m.services().services.remove(0);
        service.persistence.map(|p| p.timeout_s)
    };
    assert_eq!(timeout(&manager), Some(90.0));
    new.services[0].persistence = None;
    write(&file, new);
    manager.reload(at(3000)).expect("valid");
    assert_eq!(timeout(&manager), None, "the file wins where it changed");
}

#[test]
fn a_run_time_setting_that_does_not_fit_the_new_file_is_lost_and_told() {
    let plane = plane(1);
    let mut udp = sip_one_packet();
    (udp.persistence, udp.one_packet) = (None, false);
    let (mut manager, file) = manager_of(&plane, setup(vec![udp.clone()]));
    manager.edit_service("sip", &persist("90s")).expect("set");
    udp.payload_key = Some(PayloadKey::Field(SessionKey {
        field: Field::new(1, 8, Unit::Bytes).expect("a field"),
        when: None,
    }));
    write(&file, setup(vec![udp]));
    let r = manager.reload(at(2000)).expect("valid");
    assert!(r.kept[0].starts_with("sip loses persistence 90s"), "{r:?}");
    assert!(
        r.kept[0].contains("either `persistence` or a `payload_key`"),
        "{r:?}"
    );
    assert!(manager.setup().services[0].persistence.is_none());
}

#[test]
fn persistence_that_was_switched_off_comes_back_as_the_file_has_it() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, setup(vec![sip_one_packet()]));
    let off = manager.edit_service("sip", &persist("off")).expect("set");
    assert!(off.service.persistence.is_none() && off.service.overridden);
    let on = manager.edit_service("sip", &persist("60s")).expect("set");
    assert!(!on.service.overridden, "{}", on.message);
    assert_eq!(manager.setup().services[0], sip_one_packet());
}

#[test]
fn templates_keep_their_timeouts_when_the_services_is_changed() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, setup(vec![sip_one_packet()]));
    let key = template_key(0, "0.0.0.0", "10.4.3.192:5060", Some(b"x"));
    add_template(&plane, &key, 0, 60);
    manager.edit_service("sip", &persist("5s")).expect("set");
    let rows = crate::worker::list_templates(&plane.templates, plane.now());
    assert_eq!((rows[0].timeout, rows[0].remaining), (6000, 6000));
    let snapshot = plane.snapshot.load_full();
    let sip = snapshot.service_by_name("sip").expect("there");
    assert_eq!(sip.template_timeout, 500);
}

#[test]
fn a_removed_server_is_listed_while_it_has_templates() {
    let plane = plane(1);
    let mut s = sip_one_packet();
    s.servers.push(server("10.0.0.2:5060"));
    let (mut manager, file) = manager_of(&plane, setup(vec![s]));
    let key = template_key(0, "0.0.0.0", "10.4.3.192:5060", Some(b"x"));
    // The newest server has the first slot.
    add_template(&plane, &key, 0, 60);
    write(&file, setup(vec![sip_one_packet()]));
    manager.reload(at(1)).expect("valid");
    let servers = manager.services().services.remove(0).servers;
    let gone = &servers[1];
    assert_eq!((gone.name.as_str(), gone.persistent), ("10.0.0.2:5060", 1));
    assert!(gone.removed);
}

#[test]
fn defences_are_judged_once_a_second_by_the_fullest_table() {
    let plane = plane(2);
    let mut setup = web_and_sip();
    setup.sysctls = Sysctls {
        drop_packet: Mode::Automatic,
        secure_tcp: Mode::Automatic,
        amemthresh: 100,
        ..Sysctls::default()
    };
    let (mut manager, _) = manager_of(&plane, setup);
    let start = Instant::now();
    manager.tick(start);
    let quiet = Active::default();
    assert_eq!(plane.defence.active.get(), quiet);
    plane.workers[1].counters.fill.set((1 << 32) / 20 * 19);
    assert_eq!(plane.free_entries(), 50, "of 1000, by the fuller worker");
    manager.tick(start + Duration::from_millis(500));
    assert_eq!(plane.defence.active.get(), quiet, "not yet");
    manager.tick(start + Duration::from_millis(1100));
    let busy = Active {
        drop_rate: 2,
        drop_entry: false,
        secure_tcp: true,
    };
    assert_eq!(plane.defence.active.get(), busy);
    let listed = manager.ipvs();
    let secure = listed.settings.iter().find(|s| s.name == "secure_tcp");
    let secure = secure.expect("listed");
    assert_eq!(
        (secure.value, secure.active),
        (2, Some(true)),
        "as LVS lists it"
    );
    plane.workers[1].counters.fill.set(0);
    manager.tick(start + Duration::from_millis(2200));
    assert_eq!(plane.defence.active.get(), quiet);
}

/// A worker that has yet to see an edit goes on by the thresholds before it (specification §1.4, mode 0).
#[test]
fn a_raised_threshold_counts_whatever_a_worker_made_of_the_flag_meanwhile() {
    let plane = plane(1);
    let mut setup = web_and_sip();
    setup.services[0].servers[0].upper_threshold = 2;
    let (mut manager, file) = manager_of(&plane, setup.clone());
    let see = || {
        let seen = plane.snapshot.load().generation;
        plane.workers[0]
            .seen_generation
            .store(seen, Ordering::Release);
    };
    see();
    manager.tick(Instant::now());
    let first = |manager: &Manager| manager.services().services.remove(0).servers.remove(0);
    let snapshot = plane.snapshot.load_full();
    let web = snapshot.service_by_name("web").expect("there");
    let old = web.dests.last().expect("two servers");
    assert!(old.try_reserve() && old.try_reserve());
    setup.services[0].servers[0].upper_threshold = 4;
    write(&file, setup);
    manager.reload(at(2000)).expect("valid");
    assert!(!first(&manager).overloaded);
    assert!(!old.try_reserve(), "by the old threshold");
    manager.tick(Instant::now());
    assert!(first(&manager).overloaded, "the worker may say so again");
    see();
    manager.tick(Instant::now());
    assert!(!first(&manager).overloaded, "two of four");
    manager.tick(Instant::now());
    assert!(!first(&manager).overloaded);
}

fn thresholds(upper: Option<u32>, lower: Option<u32>) -> ServerEdit {
    ServerEdit {
        upper,
        lower,
        ..ServerEdit::default()
    }
}

/// Specification §1.4: lowered to what is there it is overloaded at once, raised it stays so down to the low mark.
#[test]
fn thresholds_are_edited_at_run_time_and_judged_at_once() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    let snapshot = plane.snapshot.load_full();
    let web = snapshot.service_by_name("web").expect("there");
    let shared = Arc::clone(&web.dests.last().expect("two servers").shared);
    drop(snapshot);
    (0..6).for_each(|_| shared.bind_unchecked(crate::table::Thresholds::default()));
    for (upper, lower, says, overloaded) in [
        (Some(6), None, "upper threshold 0 -> 6", true),
        (Some(8), None, "upper threshold 6 -> 8", true),
        (Some(9), None, "upper threshold 8 -> 9", false),
        (None, Some(2), "lower threshold 0 -> 2", false),
        (Some(5), None, "upper threshold 9 -> 5", true),
        (Some(7), None, "upper threshold 5 -> 7", true),
        (None, Some(7), "lower threshold 2 -> 7", false),
        (
            Some(0),
            Some(0),
            "upper threshold 7 -> 0, lower threshold 7 -> 0",
            false,
        ),
    ] {
        let edit = thresholds(upper, lower);
        let done = manager
            .edit_server("web", "10.0.0.1:80", edit)
            .expect("set");
        assert!(done.message.contains(says), "{} {says}", done.message);
        assert_eq!(done.server.overloaded, overloaded, "{says}");
        let file = (upper, lower) == (Some(0), Some(0));
        assert_eq!(done.server.overridden, !file, "{says}");
    }
}

#[test]
fn thresholds_that_contradict_each_other_change_nothing() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    let mut edit = |upper, lower| {
        let edit = ServerEdit {
            weight: Some(9),
            ..thresholds(upper, lower)
        };
        let generation = manager.generation();
        let refused = manager.edit_server("web", "10.0.0.1:80", edit);
        let e = refused.expect_err("a contradiction");
        assert_eq!(
            (e.kind, manager.generation()),
            (ErrorKind::Invalid, generation)
        );
        assert_eq!(effective(&manager, 0, 0), 1);
        let both = thresholds(Some(50), Some(20));
        manager
            .edit_server("web", "10.0.0.1:80", both)
            .expect("set");
        e.body.error
    };
    let needs = "web/10.0.0.1:80: a lower threshold, 20, needs an upper one";
    assert_eq!(
        edit(None, Some(20)),
        format!("{needs}; change the upper one first")
    );
    let above = "web/10.0.0.1:80: the lower threshold, 51, would be above the upper one, 50";
    assert_eq!(
        edit(None, Some(51)),
        format!("{above}; change the upper one first")
    );
    assert_eq!(
        edit(Some(0), None),
        format!("{needs}; change the lower one first")
    );
    assert_eq!(edit(Some(0), Some(20)), needs);
}

#[test]
fn a_threshold_that_has_nothing_to_count_is_said_to_have() {
    let plane = plane(1);
    let mut setup = web_and_sip();
    setup.services[1].one_packet = true;
    let (mut manager, _) = manager_of(&plane, setup);
    let mut said = |service: &str, server: &str| {
        let edit = thresholds(Some(5), None);
        let done = manager.edit_server(service, server, edit).expect("set");
        done.message
    };
    let nothing = "one-packet datagrams without persistence never reach";
    assert!(said("sip", "[2001:db8:1::3]:5060").contains(nothing));
    assert!(!said("web", "10.0.0.1:80").contains(nothing));
}

#[test]
fn a_reload_keeps_thresholds_of_run_time_together() {
    let plane = plane(1);
    let mut setup = web_and_sip();
    setup.services[0].servers[0].upper_threshold = 100;
    let (mut manager, file) = manager_of(&plane, setup.clone());
    let edit = thresholds(Some(30), Some(10));
    manager
        .edit_server("web", "10.0.0.1:80", edit)
        .expect("set");
    setup.services[1].servers[0].weight = 9;
    write(&file, setup.clone());
    let r = manager.reload(at(2000)).expect("valid");
    let kept =
        "web/10.0.0.1:80 keeps thresholds 30/10 that were set at run time (the file says 100/0)";
    assert_eq!(r.kept, [kept]);
    let now = |m: &Manager| {
        let server = m.services().services.remove(0).servers.remove(0);
        (server.upper_threshold, server.lower_threshold)
    };
    assert_eq!(now(&manager), (30, 10));
    // The file's new lower threshold would be above the upper one of run time.
    setup.services[0].servers[0].lower_threshold = 80;
    write(&file, setup);
    let r = manager.reload(at(3000)).expect("valid");
    assert_eq!((now(&manager), r.kept.len()), ((100, 80), 0));
}

#[test]
fn a_server_that_is_down_has_no_weight_until_it_is_up_over_reloads_too() {
    let plane = plane(1);
    let (mut manager, file) = manager_of(&plane, web_and_sip());
    let say = |manager: &mut Manager, up| {
        let edit = ServerEdit {
            up: Some(up),
            ..ServerEdit::default()
        };
        manager
            .edit_server("web", "10.0.0.1:80", edit)
            .expect("set")
    };
    let down = say(&mut manager, false);
    assert_eq!(
        down.message,
        "web/10.0.0.1:80: up -> down (until it is said to be up, or a restart)"
    );
    let s = down.server;
    assert_eq!((s.up, s.effective_weight, s.weight), (false, 0, 1));
    assert_eq!(
        (s.reason.as_str(), s.state.as_str(), s.overridden),
        ("down", "ready", false)
    );
    let mut new = web_and_sip();
    new.services[1].servers[0].weight = 9;
    write(&file, new.clone());
    manager.reload(at(2000)).expect("valid");
    assert_eq!(
        (effective(&manager, 0, 0), effective(&manager, 0, 1)),
        (0, 1)
    );
    let generation = manager.generation();
    say(&mut manager, false);
    assert_eq!(manager.generation(), generation, "no news");
    assert_eq!(say(&mut manager, true).server.effective_weight, 1);
    // Who takes it out and puts it in again means it to serve.
    say(&mut manager, false);
    let mut without = new.clone();
    without.services[0].servers.remove(0);
    for setup in [without, new] {
        write(&file, setup);
        manager.reload(at(3000)).expect("valid");
    }
    assert_eq!(
        (effective(&manager, 0, 0), effective(&manager, 0, 1)),
        (1, 1)
    );
}

/// Tables of hundreds of services would take seconds to fill.
#[test]
fn an_edit_leaves_the_schedulers_of_other_services_as_they_are() {
    let plane = plane(1);
    let mut setup = web_and_sip();
    setup
        .services
        .iter_mut()
        .for_each(|s| s.scheduler = "mh".to_owned());
    let (mut manager, file) = manager_of(&plane, setup.clone());
    let kept = |manager: &mut Manager, change: &dyn Fn(&mut Manager)| {
        let before = plane.snapshot.load_full();
        change(manager);
        let after = plane.snapshot.load_full();
        ["web", "sip"].map(|name| {
            let of = |s: &Snapshot| Arc::clone(&s.service_by_name(name).expect("there").scheduler);
            Arc::ptr_eq(&of(&before), &of(&after))
        })
    };
    let weight = |m: &mut Manager| drop(m.set_weight("web", "10.0.0.1:80", 5).expect("set"));
    assert_eq!(kept(&mut manager, &weight), [false, true]);
    for change in [
        |s: &mut Setup| s.services[0].servers.truncate(1),
        |s: &mut Setup| s.services[0].flags.push("fallback".to_owned()),
        |s: &mut Setup| s.services[0].hash_key = Some(5),
        |s: &mut Setup| s.services[0].scheduler = "rr".to_owned(),
        |s: &mut Setup| s.services[0].servers[0].upper_threshold = 7,
    ] {
        change(&mut setup);
        if setup.services[0].scheduler != "mh" {
            setup.services[0].flags.clear();
        }
        write(&file, setup.clone());
        let reload = |m: &mut Manager| drop(m.reload(at(2000)).expect("valid"));
        assert_eq!(kept(&mut manager, &reload), [false, true]);
    }
}

/// A scheduler that goes on over an edit was told when a server is no longer overloaded by what its load was before.
#[test]
fn a_server_is_found_again_whatever_its_load_was_when_it_became_overloaded() {
    let plane = plane(1);
    let mut s = sip_one_packet();
    (s.scheduler, s.one_packet) = ("rr".to_owned(), false);
    s.servers.push(server("127.0.0.2:5060"));
    s.servers.iter_mut().for_each(|d| d.upper_threshold = 1);
    let (mut manager, _) = manager_of(&plane, setup(vec![s]));
    let one_packet = |on| ServiceUpdate {
        one_packet: Some(on),
        ..ServiceUpdate::default()
    };
    let sip = || Arc::clone(plane.snapshot.load().service_by_name("sip").expect("there"));
    let next = || sip().scheduler.select(&sip().dests, &Selection::default());
    manager.edit_service("sip", &one_packet(true)).expect("set");
    for dest in &sip().dests {
        dest.shared.bind_template();
    }
    assert_eq!(next(), None, "each has its one session");
    sip().dests[1].shared.unbind_template();
    assert_eq!(next(), Some(1), "its session has ended");
    sip().dests[1].shared.bind_template();
    assert_eq!(next(), None, "it has one again");
    manager
        .edit_service("sip", &one_packet(false))
        .expect("set");
    sip().dests[0].bind_unchecked();
    assert_eq!(next(), Some(1), "sessions are no load now");
}

/// Only an edit of servers starts at the head of the list again (specification §6.2).
#[test]
fn a_turn_is_kept_when_sessions_become_the_load() {
    let plane = plane(1);
    let mut s = sip_one_packet();
    (s.scheduler, s.one_packet) = ("wrr".to_owned(), false);
    s.servers.push(server("127.0.0.2:5060"));
    let (mut manager, _) = manager_of(&plane, setup(vec![s]));
    let sip = || Arc::clone(plane.snapshot.load().service_by_name("sip").expect("there"));
    let next = || sip().scheduler.select(&sip().dests, &Selection::default());
    assert_eq!(next(), Some(0));
    let one_packet = ServiceUpdate {
        one_packet: Some(true),
        ..ServiceUpdate::default()
    };
    manager.edit_service("sip", &one_packet).expect("set");
    assert_eq!(next(), Some(1));
}

/// Makes these the file's settings of state sync.
fn write_sync(file: &File, setup: Setup, sync: &Settings) {
    *file.lock().expect("not poisoned") = Ok(Loaded {
        setup,
        sync: sync.clone(),
        ..Loaded::default()
    });
}

fn sync_settings(role: Role) -> Settings {
    Settings {
        role,
        interface: Some("lo".to_owned()),
        key_file: Some("/k".into()),
        ..Settings::default()
    }
}

/// A manager whose file and machine have these settings.
fn with_sync(settings: &Settings) -> (Manager, File, Arc<FakeSync>) {
    let (mut manager, file) = manager_of(&plane(1), web_and_sip());
    manager.sync_file = settings.clone();
    let fake = FakeSync::of(&mut manager, settings.clone());
    write_sync(&file, web_and_sip(), settings);
    (manager, file, fake)
}

#[test]
fn a_reload_applies_the_section_sync_without_a_restart() {
    let (mut manager, file, fake) = with_sync(&sync_settings(Role::Off));
    let new = Settings {
        encrypt: true,
        ..sync_settings(Role::Both)
    };
    write_sync(&file, web_and_sip(), &new);
    let report = manager.reload(at(2000)).expect("valid");
    assert_eq!(
        (report.changed, report.other),
        (true, vec!["sync".to_owned()])
    );
    assert_eq!(fake.settings(), new);
    let report = manager.reload(at(2001)).expect("valid");
    assert!(!report.changed && report.other.is_empty());
    assert_eq!(fake.told(), 2, "the key file is read again at every reload");
}

#[test]
fn a_reload_keeps_what_was_started_at_run_time() {
    let (mut manager, file, fake) = with_sync(&sync_settings(Role::Off));
    let update = api::SyncUpdate {
        role: Some("backup".to_owned()),
        ..api::SyncUpdate::default()
    };
    manager.edit_sync(&update).expect("starts");
    let new = Settings {
        ttl: 9,
        ..sync_settings(Role::Off)
    };
    write_sync(&file, web_and_sip(), &new);
    let report = manager.reload(at(2000)).expect("valid");
    assert_eq!(report.kept.len(), 1, "{:?}", report.kept);
    assert!(report.kept[0].starts_with("sync keeps role backup"));
    assert_eq!(
        (fake.settings().role, fake.settings().ttl),
        (Role::Backup, 9)
    );
    write_sync(&file, web_and_sip(), &sync_settings(Role::Master));
    let report = manager.reload(at(2001)).expect("valid");
    assert!(report.kept.is_empty(), "the file itself changed");
    assert_eq!(fake.settings(), sync_settings(Role::Master));
}

#[test]
fn a_reload_that_sync_refuses_changes_nothing() {
    let (mut manager, file, fake) = with_sync(&sync_settings(Role::Master));
    *fake.refuses.lock().expect("not poisoned") = Some("the key file is gone".to_owned());
    let mut setup = web_and_sip();
    setup.services.pop();
    let new = Settings {
        ttl: 9,
        ..sync_settings(Role::Master)
    };
    write_sync(&file, setup.clone(), &new);
    let e = manager.reload(at(2000)).expect_err("refused");
    assert_eq!(e.body.problems, ["sync: the key file is gone"]);
    assert_eq!(manager.setup(), &web_and_sip());
    // What is wrong already does not keep other changes up.
    write_sync(&file, setup.clone(), &sync_settings(Role::Master));
    let report = manager.reload(at(2001)).expect("valid");
    assert_eq!(report.warnings, ["sync: the key file is gone"]);
    assert_eq!(manager.setup(), &setup);
}

#[test]
fn a_reload_that_can_not_be_published_leaves_sync_as_it_was() {
    let (mut manager, file, fake) = with_sync(&sync_settings(Role::Master));
    let many: Vec<_> = (0..=SLOTS.0)
        .map(|i| service(&format!("s{i}"), &format!("192.0.2.90:{}", 80 + i), &[]))
        .collect();
    write_sync(&file, setup(many), &sync_settings(Role::Both));
    manager.reload(at(2000)).expect_err("too many services");
    assert_eq!(fake.settings(), sync_settings(Role::Master));
}

#[test]
fn a_director_that_sync_is_not_ready_on_is_not_ready() {
    let (manager, _, fake) = with_sync(&sync_settings(Role::Backup));
    all_see(&manager);
    let now = Instant::now();
    fake.status.lock().expect("not poisoned").ready_reason = "peer left: 40% of 99%".to_owned();
    let want = "state sync is not ready: peer left: 40% of 99%";
    assert!(
        manager.unready(now).contains(&want.to_owned()),
        "{:?}",
        manager.unready(now)
    );
    fake.status.lock().expect("not poisoned").ready = true;
    assert_eq!(manager.sync_unready(), None);
    fake.status.lock().expect("not poisoned").ready = false;
    fake.settings.lock().expect("not poisoned").role = Role::Off;
    assert_eq!(
        manager.sync_unready(),
        None,
        "who does nothing needs nothing"
    );
}
