//! Changes at run time: what they leave as it was, and what goes by them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::SyncControl;
use super::api::{self, Error};
use super::rates::SAMPLING;
use super::testkit::*;
use crate::sync::settings::{Format, Role, Settings};

fn code(refused: Result<impl std::fmt::Debug, Error>) -> String {
    let refused = refused.expect_err("it can't be done");
    refused.body.code.unwrap_or_default()
}

fn tcp(address: &str) -> Value {
    json!({"protocol": "tcp", "address": address, "port": 80, "scheduler": "rr"})
}

#[test]
fn a_refused_change_publishes_nothing() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    let before = (plane.snapshot.load_full(), manager.setup().clone());
    let web = || "web".to_owned();
    let server = |more: Value| {
        let mut server = json!({"address": "10.0.0.9", "port": 80});
        let fields = more.as_object().expect("fields");
        server
            .as_object_mut()
            .expect("a map")
            .extend(fields.clone());
        server
    };
    assert_eq!(code(manager.add_service(&tcp("192.0.2.80"))), "EEXIST");
    assert_eq!(code(manager.add_service(&tcp("224.0.0.1"))), "EINVAL");
    assert_eq!(code(manager.add_service(&json!([]))), "EINVAL");
    let mut unknown = tcp("192.0.2.90");
    unknown["scheduler"] = "none".into();
    assert_eq!(code(manager.add_service(&unknown)), "ENOENT");
    let mut named = tcp("192.0.2.90");
    named["name"] = "web".into();
    assert_eq!(
        code(manager.add_service(&named)),
        "EINVAL",
        "two of one name"
    );
    assert_eq!(code(manager.delete_service("wob")), "ESRCH");
    assert_eq!(code(manager.delete_service("@tcp:192.0.2.81:80")), "ESRCH");
    let there = json!({"address": "10.0.0.1"});
    assert_eq!(code(manager.add_server(&web(), &there)), "EEXIST");
    let heavy = server(json!({"weight": 65_536}));
    assert_eq!(code(manager.add_server(&web(), &heavy)), "ERANGE");
    let lower = server(json!({"lower_threshold": 1}));
    assert_eq!(code(manager.add_server(&web(), &lower)), "ERANGE");
    let direct = server(json!({"forwarding": "direct", "port": 81}));
    assert_eq!(code(manager.add_server(&web(), &direct)), "EINVAL");
    assert_eq!(code(manager.delete_server(&web(), "10.0.0.9:80")), "ENOENT");
    assert_eq!(code(manager.delete_server("wob", "10.0.0.1:80")), "ESRCH");
    let zero = api::Zero {
        service: Some("wob".to_owned()),
    };
    assert_eq!(code(manager.zero(&zero)), "ESRCH");
    assert!(Arc::ptr_eq(&before.0, &plane.snapshot.load_full()));
    assert_eq!(&before.1, manager.setup());
}

#[test]
fn what_there_is_no_room_for_is_refused_whole() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    for last in 1..=SLOTS.0 - 2 {
        let added = manager.add_service(&tcp(&format!("192.0.2.{last}")));
        added.expect("there is room");
    }
    assert_eq!(code(manager.add_service(&tcp("192.0.2.99"))), "ENOMEM");
    for last in 10..10 + SLOTS.1 - 3 {
        let server = json!({"address": format!("10.0.0.{last}")});
        manager.add_server("web", &server).expect("there is room");
    }
    let one_more = json!({"address": "10.0.0.99"});
    assert_eq!(code(manager.add_server("web", &one_more)), "ENOMEM");
    assert_eq!(manager.services().services.len(), SLOTS.0);
    // Room that is given back is there once workers see that it is free.
    manager.clear_services().expect("clears");
    all_see(&manager);
    manager.tick(Instant::now());
    manager
        .add_service(&tcp("192.0.2.99"))
        .expect("there is room");
}

#[test]
fn servers_of_another_family_wait_for_the_end_of_sync_that_has_no_room_for_them() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    let settings = Settings {
        role: Role::Master,
        format: Format::Ipvs(crate::sync::ipvs::Version::V1),
        ..Settings::default()
    };
    let sync = FakeSync::of(&mut manager, settings.clone());
    let mixed = json!({"address": "10.0.0.9", "port": 5060, "forwarding": "tunnel"});
    assert_eq!(code(manager.add_server("sip", &mixed)), "EINVAL");
    let mut whole = json!({"protocol": "udp", "address": "2001:db8::9", "port": 53});
    whole["servers"] = json!([{"address": "10.0.0.9", "forwarding": "tunnel"}]);
    assert_eq!(code(manager.add_service(&whole)), "EINVAL");
    let off = Settings {
        role: Role::Off,
        ..settings
    };
    sync.change(off).expect("changes");
    manager.add_server("sip", &mixed).expect("it can be now");
}

#[test]
fn a_server_that_comes_back_has_its_connections_and_a_new_service_begins_at_zero() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    all_see(&manager);
    let snapshot = plane.snapshot.load_full();
    let web = Arc::clone(snapshot.service_by_name("web").expect("there"));
    let one = Arc::clone(&web.dests[1]);
    one.bind_unchecked();
    plane.workers[0].counters.services[web.id.0 as usize]
        .connections
        .add(7);
    plane.workers[0].counters.dests[one.id.0 as usize]
        .connections
        .add(7);
    drop((snapshot, web));
    let server = |manager: &super::Manager, name: &str| {
        let listed = manager.servers().servers;
        listed.into_iter().find(|s| s.name == name).expect("listed")
    };
    manager.delete_server("web", "10.0.0.1:80").expect("there");
    assert!(server(&manager, "10.0.0.1:80").removed);
    let again = json!({"address": "10.0.0.1", "weight": 4});
    let back = manager.add_server("web", &again).expect("added").server;
    assert_eq!(
        (back.inactive, back.connections, back.removed),
        (1, 7, false)
    );
    assert_eq!(back.since_zero().connections, 7, "the service is the same");
    manager.delete_service("web").expect("there");
    manager.add_service(&tcp("192.0.2.80")).expect("added");
    manager
        .add_server("@tcp:192.0.2.80:80", &again)
        .expect("added");
    let web = manager.services().services.pop().expect("the last one");
    assert_eq!((web.name.as_str(), web.connections), ("web", 7));
    assert_eq!(web.since_zero(), api::Counts::default());
    assert_eq!(web.servers[0].since_zero(), api::Counts::default());
}

#[test]
fn rates_follow_what_is_counted_and_begin_again_with_zero() {
    let plane = plane(2);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    let mut now = Instant::now();
    let id = plane
        .snapshot
        .load()
        .service_by_name("web")
        .expect("there")
        .id;
    let mut pass = |manager: &mut super::Manager, packets: u64| {
        for worker in &plane.workers {
            worker.counters.services[id.0 as usize]
                .packets_in
                .add(packets);
        }
        now += SAMPLING;
        manager.tick(now);
        manager.tick(now + Duration::from_millis(200));
        manager.services().services[0].rates.packets_in
    };
    let seen: Vec<_> = (0..30).map(|_| pass(&mut manager, 400)).collect();
    assert!(seen.is_sorted() && seen[29] == 400, "{seen:?}");
    manager.zero(&api::Zero::default()).expect("zeroed");
    let web = manager.services().services.swap_remove(0);
    assert_eq!((web.rates.packets_in, web.since_zero().packets_in), (0, 0));
    assert_eq!(web.packets_in, 30 * 800);
}

#[test]
fn what_went_by_while_a_server_was_removed_is_no_rate_when_it_is_back() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    all_see(&manager);
    let snapshot = plane.snapshot.load_full();
    let web = snapshot.service_by_name("web").expect("there");
    let one = Arc::clone(&web.dests[1]);
    one.bind_unchecked();
    drop(snapshot);
    manager.delete_server("web", "10.0.0.1:80").expect("there");
    let mut now = Instant::now();
    for _ in 0..50 {
        plane.workers[0].counters.dests[one.id.0 as usize]
            .packets_in
            .add(2000);
        now += SAMPLING;
        manager.tick(now);
    }
    let again = json!({"address": "10.0.0.1"});
    manager.add_server("web", &again).expect("added");
    now += SAMPLING;
    manager.tick(now);
    let listed = manager.servers().servers;
    let back = listed.iter().find(|s| s.name == "10.0.0.1:80");
    let rate = back.expect("listed").rates.packets_in;
    assert!((700..=1000).contains(&rate), "{rate}");
}

#[test]
fn zero_of_one_service_leaves_the_others_and_takes_its_removed_servers() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    all_see(&manager);
    let snapshot = plane.snapshot.load_full();
    let web = snapshot.service_by_name("web").expect("there");
    web.dests[1].bind_unchecked();
    for dest in snapshot.services.dests.iter().flatten() {
        plane.workers[0].counters.dests[dest.id.0 as usize]
            .connections
            .add(5);
    }
    drop(snapshot);
    manager.delete_server("web", "10.0.0.1:80").expect("there");
    let which = api::Zero {
        service: Some("web".to_owned()),
    };
    manager.zero(&which).expect("zeroed");
    let listed = manager.servers().servers;
    assert!(listed.iter().any(|s| s.removed));
    for s in &listed {
        let left = if s.service == "web" { 0 } else { 5 };
        let now = (s.since_zero().connections, s.connections);
        assert_eq!(now, (left, 5), "{}/{}", s.service, s.name);
    }
}

#[test]
fn scheduler_and_forwarding_are_changed_as_the_files_are() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    let update =
        |json: Value| serde_json::from_value::<api::ServiceUpdate>(json).expect("as documented");
    let changed = manager.edit_service(
        "web",
        &update(json!({"scheduler": "mh", "scheduler_flags": ["port"]})),
    );
    let changed = changed.expect("changed");
    assert_eq!(
        changed.message,
        "web: scheduler rr -> mh (port) (at run time only: a reload or a restart takes what the file says)"
    );
    assert!(changed.service.overridden);
    // Flags of another scheduler are gone with it.
    let changed = manager.edit_service("web", &update(json!({"scheduler": "rr"})));
    let changed = changed.expect("changed");
    assert_eq!(
        changed.message,
        "web: scheduler mh (port) -> rr (as the file says)"
    );
    let wrong = manager.edit_service("web", &update(json!({"scheduler_flags": ["port"]})));
    assert_eq!(code(wrong), "EINVAL");
    let unknown = manager.edit_service("web", &update(json!({"scheduler": "roundrobin"})));
    assert_eq!(code(unknown), "ENOENT");
}
