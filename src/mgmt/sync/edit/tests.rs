//! Starting and stopping as IPVS has it, and what a reload keeps.

use std::path::PathBuf;

use super::*;
use crate::mgmt::api::{SyncStart, SyncUpdate};
use crate::mgmt::testkit::*;
use crate::sync::ipvs::Version;

fn ipvs() -> Settings {
    Settings {
        format: Format::Ipvs(Version::V1),
        interface: Some("eth1".to_owned()),
        sync_id: 0,
        ..Settings::default()
    }
}

fn polder() -> Settings {
    Settings {
        interface: Some("eth1".to_owned()),
        key_file: Some(PathBuf::from("/k")),
        ..Settings::default()
    }
}

/// What becomes of `settings` where the kernel has eth1 and eth2.
fn applied(settings: &mut Settings, update: &SyncUpdate) -> Result<String, Refused> {
    applied_in(settings, update, &web_and_sip())
}

fn applied_in(
    settings: &mut Settings,
    update: &SyncUpdate,
    setup: &Setup,
) -> Result<String, Refused> {
    let interfaces = ["lo", "eth1", "eth2", "polder-wan0"].map(str::to_owned);
    let around = Around {
        setup,
        interfaces: Some(&interfaces),
    };
    let mut changed = settings.clone();
    let done = apply(&mut changed, update, around)?;
    *settings = changed;
    Ok(done)
}

fn start(role: &str) -> SyncStart {
    SyncStart {
        role: role.to_owned(),
        ..SyncStart::default()
    }
}

fn starting(start: SyncStart) -> SyncUpdate {
    SyncUpdate {
        start: Some(start),
        ..SyncUpdate::default()
    }
}

fn stopping(role: &str) -> SyncUpdate {
    SyncUpdate {
        stop: Some(role.to_owned()),
        ..SyncUpdate::default()
    }
}

fn becoming(role: &str) -> SyncUpdate {
    SyncUpdate {
        role: Some(role.to_owned()),
        ..SyncUpdate::default()
    }
}

fn refused(settings: &Settings, update: &SyncUpdate) -> (&'static str, String) {
    let mut settings = settings.clone();
    let why = applied(&mut settings, update).expect_err("refused");
    (why.errno.name(), why.sentence)
}

/// Specification §9.1.
#[test]
fn a_role_is_started_once_and_stopped_once() {
    let mut s = ipvs();
    assert_eq!(refused(&s, &stopping("master")).0, "ESRCH");
    applied(&mut s, &starting(start("master"))).expect("starts");
    let (errno, why) = refused(&s, &starting(start("master")));
    assert_eq!(
        (errno, why.as_str()),
        ("EEXIST", "state sync runs as master already; stop it first")
    );
    assert_eq!(refused(&s, &stopping("backup")).0, "ESRCH");
    applied(&mut s, &starting(start("backup"))).expect("starts");
    assert_eq!(s.role, Role::Both);
    applied(&mut s, &stopping("master")).expect("stops");
    applied(&mut s, &stopping("backup")).expect("stops");
    assert_eq!(s, ipvs());
}

#[test]
fn what_a_role_is_started_with_is_taken_over() {
    let mut s = ipvs();
    let with = SyncStart {
        interface: Some("wan0".to_owned()),
        sync_id: Some(7),
        group: Some("[ff02::81]".to_owned()),
        port: Some(9000),
        ttl: Some(3),
        max_message: Some(100),
        ..start("backup")
    };
    let mut setup = web_and_sip();
    setup.ports[0].kernel_interface = true;
    setup.services.clear();
    applied_in(&mut s, &starting(with), &setup).expect("starts");
    let want = Settings {
        role: Role::Backup,
        interface: Some("polder-wan0".to_owned()),
        group: "[ff02::81]:9000".parse().expect("an address"),
        sync_id: 7,
        ttl: 3,
        max_len: Some(MESSAGE_MIN),
        ..ipvs()
    };
    assert_eq!(s, want);
}

#[test]
fn a_group_takes_the_place_of_peers_and_a_port_is_theirs() {
    let with_peers = Settings {
        peers: vec!["192.0.2.2:8848".parse().expect("an address")],
        ..polder()
    };
    let mut s = with_peers.clone();
    let port = SyncStart {
        port: Some(9000),
        ..start("master")
    };
    applied(&mut s, &starting(port)).expect("starts");
    assert_eq!((s.peers[0].port(), s.group.port()), (9000, 9000));
    let mut s = with_peers;
    let group = SyncStart {
        group: Some("239.1.2.3".to_owned()),
        ..start("master")
    };
    applied(&mut s, &starting(group)).expect("starts");
    assert_eq!(
        (s.peers.len(), s.group.to_string()),
        (0, "239.1.2.3:8848".to_owned())
    );
}

#[test]
fn both_daemons_of_ipvs_have_their_own_parameters() {
    let mut s = ipvs();
    applied(&mut s, &starting(start("master"))).expect("starts");
    let with = SyncStart {
        interface: Some("eth2".to_owned()),
        sync_id: Some(9),
        ..start("backup")
    };
    applied(&mut s, &starting(with.clone())).expect("starts");
    let backup = s.backup_channel();
    assert_eq!(
        (backup.interface.as_deref(), backup.sync_id),
        (Some("eth2"), 9)
    );
    assert_eq!((s.interface.as_deref(), s.sync_id), (Some("eth1"), 0));
    let listed = crate::mgmt::sync::daemons(&s, 9000);
    let listed: Vec<_> = listed
        .iter()
        .map(|d| {
            (
                d.role.as_str(),
                d.interface.as_str(),
                d.sync_id,
                d.max_message,
            )
        })
        .collect();
    assert_eq!(
        listed,
        [("master", "eth1", 0, 1472), ("backup", "eth2", 9, 8972)]
    );
    let mut s = polder();
    applied(&mut s, &starting(start("master"))).expect("starts");
    let (errno, why) = refused(&s, &starting(with));
    assert_eq!(errno, "EINVAL");
    assert!(why.contains("master runs with others"), "{why}");
}

#[test]
fn a_role_that_is_set_is_no_error_when_it_is_set_already() {
    let mut s = polder();
    for (role, want) in [
        ("master", Role::Master),
        ("master", Role::Master),
        ("both", Role::Both),
        ("backup", Role::Backup),
        ("off", Role::Off),
        ("off", Role::Off),
        ("both", Role::Both),
    ] {
        applied(&mut s, &becoming(role)).expect(role);
        assert_eq!(
            s,
            Settings {
                role: want,
                ..polder()
            }
        );
    }
}

#[test]
fn what_ipvs_refuses_is_refused_with_its_error() {
    let with = |change: fn(&mut SyncStart)| {
        let mut it = start("master");
        change(&mut it);
        starting(it)
    };
    for (update, errno, says) in [
        (
            with(|s| s.interface = Some("eth9".to_owned())),
            "ENODEV",
            "no interface `eth9`",
        ),
        (
            with(|s| s.interface = Some("a-name-that-is-too-long".to_owned())),
            "ENODEV",
            "no interface",
        ),
        (
            with(|s| s.interface = Some("wan0".to_owned())),
            "EINVAL",
            "has no kernel interface",
        ),
        (
            with(|s| s.group = Some("192.0.2.1".to_owned())),
            "EINVAL",
            "no multicast address",
        ),
        (
            with(|s| s.group = Some("here".to_owned())),
            "EINVAL",
            "no IP address",
        ),
        (
            with(|s| s.port = Some(0)),
            "EINVAL",
            "the port is 1 to 65535, not 0",
        ),
        (with(|s| s.port = Some(65_536)), "EINVAL", "not 65536"),
        (
            with(|s| s.ttl = Some(0)),
            "EINVAL",
            "the time to live is 1 to 255",
        ),
        (
            with(|s| s.sync_id = Some(256)),
            "EINVAL",
            "the sync id is 0 to 255",
        ),
        (
            with(|s| s.max_message = Some(65_508)),
            "EINVAL",
            "1 to 65507",
        ),
        (
            with(|s| s.role = "both".to_owned()),
            "EINVAL",
            "there is: master, backup",
        ),
        (stopping("off"), "EINVAL", "there is: master, backup"),
        (becoming("primary"), "EINVAL", "`primary` is no role"),
        (
            SyncUpdate::default(),
            "EINVAL",
            "one of `role`, `start` and `stop`",
        ),
        (
            SyncUpdate {
                role: Some("off".to_owned()),
                ..stopping("master")
            },
            "EINVAL",
            "one of",
        ),
    ] {
        let (found, why) = refused(&ipvs(), &update);
        assert_eq!(found, errno, "{update:?}");
        assert!(why.contains(says), "{update:?}: {why}");
    }
    let mut many = ipvs();
    many.ports = 64;
    let (errno, why) = refused(&many, &with(|s| s.port = Some(65_500)));
    assert_eq!(
        (errno, why.as_str()),
        ("EINVAL", "there are not 64 ports from 65500 on")
    );
    let mut v6 = ipvs();
    v6.interface = None;
    let (errno, _) = refused(&v6, &with(|s| s.group = Some("ff02::81".to_owned())));
    assert_eq!(errno, "EINVAL");
    let mut keyless = polder();
    keyless.key_file = None;
    for update in [becoming("backup"), starting(start("backup"))] {
        let (errno, why) = refused(&keyless, &update);
        assert_eq!(errno, "EINVAL");
        assert!(why.contains("`sync.key_file`"), "{why}");
    }
}

#[test]
fn servers_of_another_family_are_refused_in_the_ipvs_format_alone() {
    let mut setup = web_and_sip();
    setup.services[0].servers.push(server("[2001:db8::9]:80"));
    let refused = applied_in(&mut ipvs(), &starting(start("master")), &setup).expect_err("mixed");
    assert_eq!(refused.errno, Errno::Invalid);
    assert!(
        refused
            .sentence
            .contains("[2001:db8::9]:80 of service `web`"),
        "{refused:?}"
    );
    applied_in(&mut polder(), &starting(start("master")), &setup).expect("starts");
    let mut running = ipvs();
    running.role = Role::Master;
    applied_in(&mut running, &stopping("master"), &setup).expect("stops");
}

fn kept(file: &Settings, running: &Settings, new: &Settings) -> (Settings, Vec<String>) {
    let setup = web_and_sip();
    let around = Around {
        setup: &setup,
        interfaces: None,
    };
    keep(file, running, new, around)
}

#[test]
fn a_reload_keeps_what_was_set_at_run_time_where_the_file_says_the_same() {
    let file = polder();
    let running = Settings {
        role: Role::Both,
        interface: Some("eth2".to_owned()),
        sync_id: 7,
        ..polder()
    };
    let new = Settings {
        sync_id: 3,
        encrypt: true,
        ..polder()
    };
    let (merged, said) = kept(&file, &running, &new);
    let want = Settings {
        role: Role::Both,
        interface: Some("eth2".to_owned()),
        sync_id: 3,
        encrypt: true,
        ..polder()
    };
    assert_eq!(merged, want);
    assert_eq!(
        said,
        [
            "sync keeps role both that was set at run time (the file says off)",
            "sync keeps interface eth2 that was set at run time (the file says eth1)",
        ]
    );
    assert_eq!(kept(&file, &file, &new), (new.clone(), Vec::new()));
}

#[test]
fn what_does_not_go_together_with_a_new_file_is_lost_and_told() {
    let mut running = ipvs();
    applied(&mut running, &starting(start("master"))).expect("starts");
    let other = SyncStart {
        interface: Some("eth2".to_owned()),
        ..start("backup")
    };
    applied(&mut running, &starting(other)).expect("starts");
    assert_eq!(
        kept(&ipvs(), &running, &ipvs()).0,
        running,
        "all of it is kept"
    );
    let (merged, said) = kept(&ipvs(), &running, &polder());
    assert_eq!(merged, polder());
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("share one channel"), "{said:?}");
    let keyless = Settings {
        key_file: None,
        ..polder()
    };
    let mut running = polder();
    applied(&mut running, &becoming("backup")).expect("starts");
    let (merged, said) = kept(&polder(), &running, &keyless);
    assert_eq!(merged, keyless);
    assert!(
        said[0].contains("sync loses what was set at run time"),
        "{said:?}"
    );
}
