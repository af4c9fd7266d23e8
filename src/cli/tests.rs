//! Runtime commands against a real control socket, and the tables they print.

use std::path::Path;
use std::sync::Arc;

use clap::Parser;

use super::args::{Cli, Command};
use super::{Failure, reload, set, show, table};
use crate::forward::ServiceKind;
use crate::forward::defs::{Grouping, OnServerDown};
use crate::mgmt::SyncControl;
use crate::mgmt::api;
use crate::mgmt::testkit::*;
use crate::net::Af;
use crate::net::tunnel::{Tunnel, TunnelChecksum, TunnelKind};
use crate::persist::{Engine, Field, PayloadKey, SessionKey, Unit, When};
use crate::sync::settings::{Role, Settings};
use crate::table::{DestId, Method, ServiceId, TemplateKey};

/// Runs a command line and gives what it printed.
fn run(socket: &Path, line: &str) -> Result<String, Failure> {
    let socket = socket.to_str().expect("plain text");
    let words = ["polder"]
        .into_iter()
        .chain(line.split(' '))
        .chain(["--socket", socket]);
    let mut out = Vec::new();
    match Cli::try_parse_from(words).expect("parses").command {
        Command::Show(args) => show::run(&args, &mut out)?,
        Command::Set(args) => set::run(&args, &mut out)?,
        Command::Reload(args) => reload::run(&args, &mut out)?,
        Command::Sync(args) => super::sync::run(&args, &mut out)?,
        other => panic!("{other:?} is no runtime command"),
    }
    Ok(String::from_utf8(out).expect("text"))
}

fn failure(socket: &Path, line: &str) -> String {
    match run(socket, line) {
        Err(Failure::Failed(e)) => e,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn services_look_like_ipvsadms_listing() {
    let plane = plane(1);
    let mut setup = web_and_sip();
    setup.services[0].scheduler = "mh".to_owned();
    setup.services[0].flags = vec!["fallback".to_owned()];
    setup.services[0].servers[0].name = Some("first".to_owned());
    let (manager, _) = manager_of(&plane, setup);
    let socket = ControlSocket::serve(&manager.shared());
    run(&socket.path, "set server web first state drain").expect("set");
    assert_eq!(
        run(&socket.path, "show services").expect("shows"),
        "\
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn  State       Name
TCP  192.0.2.80:80 mh (fallback) name web
  -> 10.0.0.1:80                  Masq    0      0          0          drain       first
  -> 10.0.0.2:80                  Masq    1      0          0          ready
TCP  [2001:db8::5]:5060 rr name sip
  -> [2001:db8:1::3]:5060         Masq    1      0          0          ready
"
    );
}

#[test]
fn tunnels_are_listed_as_with_ipvsadms_tun_info() {
    let plane = plane(1);
    let mut setup = web_and_sip();
    let tunnels = [
        (TunnelKind::Gue, 6080, TunnelChecksum::Full),
        (TunnelKind::Gre, 0, TunnelChecksum::None),
    ];
    for (server, (kind, port, checksum)) in setup.services[0].servers.iter_mut().zip(tunnels) {
        server.method = Method::Tunnel;
        server.tunnel = Tunnel {
            kind,
            port,
            checksum,
        };
    }
    let (manager, _) = manager_of(&plane, setup);
    let socket = ControlSocket::serve(&manager.shared());
    let listing = run(&socket.path, "show services").expect("shows");
    let rows: Vec<_> = listing.lines().filter(|l| l.starts_with("  ->")).collect();
    assert_eq!(
        rows,
        [
            "  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn  State       Name",
            "  -> 10.0.0.1:80                  Tunnel  gue:6080:+c   1      0          0          ready",
            "  -> 10.0.0.2:80                  Tunnel  gre:-c        1      0          0          ready",
            "  -> [2001:db8:1::3]:5060         Masq    n/a           1      0          0          ready",
        ]
    );
}

#[test]
fn servers_look_like_ipvsadms_statistics() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let c = &plane.workers[0].counters;
    c.service(ServiceId(0)).connections.add(5);
    c.service(ServiceId(0)).bytes_out.add(123_456_789_012);
    // The newest server has the first slot.
    c.dest(DestId(1)).connections.add(5);
    c.dest(DestId(1)).packets_in.add(50);
    let socket = ControlSocket::serve(&manager.shared());
    assert_eq!(
        run(&socket.path, "show servers").expect("shows"),
        "\
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes PersConn  Name
  -> RemoteAddress:Port
TCP  192.0.2.80:80                       5        0        0        0     123G        0  web
  -> 10.0.0.1:80                         5       50        0        0        0        0  10.0.0.1:80
  -> 10.0.0.2:80                         0        0        0        0        0        0  10.0.0.2:80
TCP  [2001:db8::5]:5060                  0        0        0        0        0        0  sip
  -> [2001:db8:1::3]:5060                0        0        0        0        0        0  [2001:db8:1::3]:5060
"
    );
}

#[test]
fn numbers_are_scaled_as_ipvsadm_scales_them() {
    for (n, want) in [
        (0, "        0"),
        (99_999_999, " 99999999"),
        (100_000_000, "  100000K"),
        (999_999_999, "  999999K"),
        (1_000_000_000, "    1000M"),
        (99_999_999_999, "   99999M"),
        (100_000_000_000, "     100G"),
        (100_000_000_000_000, "     100T"),
    ] {
        assert_eq!(table::scaled(n), want);
    }
}

#[test]
fn connections_have_ipvsadms_columns() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let udp = crate::worker::ConnRow {
        proto: 17,
        state: 0,
        expires: 360_000,
        ..conn(5)
    };
    let _worker = FakeWorker::start(&plane, 0, vec![conn(41_122), udp]);
    let socket = ControlSocket::serve(&manager.shared());
    assert_eq!(
        run(&socket.path, "show connections").expect("shows"),
        "\
IPVS connection entries
pro expire state       source             virtual            destination        pe name          pe_data
TCP 14:57  ESTABLISHED 198.51.100.7:41122 192.0.2.80:80      10.0.0.1:80
UDP 60:00  UDP         198.51.100.7:5     192.0.2.80:80      10.0.0.1:80
"
    );
    let limited = run(&socket.path, "show connections --limit 1").expect("shows");
    assert_eq!(limited.lines().count(), 3);
    let json = run(&socket.path, "show connections -o json --limit 1").expect("shows");
    let page: api::Connections = serde_json::from_str(&json).expect("typed");
    assert!(page.truncated && page.connections.len() == 1);
    assert!(failure(&socket.path, "show connections --service wbe").contains("did you mean `web`"));
}

#[test]
fn templates_have_ipvsadms_columns_and_the_engines_data() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, setup(vec![sip_one_packet()]));
    let key = |client, data| template_key(0, client, "10.4.3.192:5060", data);
    add_template(&plane, &key("10.4.3.0", Some(b"193373839")), 0, 38);
    let hostile = b"\x1b[2J a\xff\0\n";
    let at = add_template(&plane, &key("0.0.0.0", Some(hostile)), 0, 6000);
    plane.templates.assure(at);
    add_template(&plane, &key("192.0.2.0", None), 0, 60);
    let socket = ControlSocket::serve(&manager.shared());
    assert_eq!(
        run(&socket.path, "show templates --service sip").expect("shows"),
        "\
IPVS connection entries
pro expire state       source             virtual            destination        pe name          pe_data
UDP 00:38  NONE        10.4.3.0:0         10.4.3.192:5060    127.0.0.1:5060   sip                193373839
UDP 100:00 ASSURED     0.0.0.0:0          10.4.3.192:5060    127.0.0.1:5060   sip                \\x1b[2J\\x20a\\xff\\x00\\x0a
UDP 01:00  NONE        192.0.2.0:0        10.4.3.192:5060    127.0.0.1:5060
"
    );
}

#[test]
fn a_template_of_a_mark_has_the_mark_for_an_address_and_no_port() {
    let plane = plane(1);
    let mut s = service("seven", "192.0.2.1:1", &["10.0.0.1:80"]);
    let (af, mark) = (Af::V4, 7);
    s.kind = ServiceKind::Mark { af, mark };
    s.persistence = Some(persistence(60, Grouping::Mask4(u32::MAX), None));
    let (manager, _) = manager_of(&plane, setup(vec![s]));
    let key = template_key(0, "192.0.2.9", "0.0.0.7:0", None);
    add_template(&plane, &TemplateKey { proto: 0, ..key }, 0, 60);
    let socket = ControlSocket::serve(&manager.shared());
    let shown = run(&socket.path, "show templates").expect("shows");
    let line = "IP  01:00  NONE        192.0.2.9:0        0.0.0.7:0          10.0.0.1:0";
    assert_eq!(shown.lines().nth(2), Some(line));
    let services = run(&socket.path, "show services").expect("shows");
    let line = "FWM  7 rr persistent 60 templates 1 name seven";
    assert_eq!(services.lines().nth(2), Some(line));
}

#[test]
fn templates_stand_behind_the_connections_unless_they_are_not_wanted() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, setup(vec![sip_one_packet()]));
    let _worker = FakeWorker::start(&plane, 0, vec![conn(1), conn(2)]);
    // The fake worker's time flies.
    add_template(
        &plane,
        &template_key(0, "192.0.2.0", "10.4.3.192:5060", None),
        0,
        1_000_000,
    );
    let socket = ControlSocket::serve(&manager.shared());
    let lines = |what: &str| {
        let shown = run(&socket.path, &format!("show connections {what}")).expect("shows");
        let lines = shown.lines().skip(2).map(|l| l[..3].to_owned());
        lines.collect::<Vec<_>>()
    };
    assert_eq!(lines("-o table"), ["TCP", "TCP", "UDP"]);
    assert_eq!(lines("--no-templates"), ["TCP", "TCP"]);
    assert_eq!(lines("--limit 1"), ["TCP"]);
    assert_eq!(lines("--limit 3"), ["TCP", "TCP", "UDP"]);
    let json = |what: &str| -> (usize, usize, bool) {
        let shown = run(&socket.path, &format!("show connections -o json {what}"));
        let json: serde_json::Value = serde_json::from_str(&shown.expect("shows")).expect("JSON");
        let rows = |of: &str| json[of].as_array().map_or(99, Vec::len);
        let truncated = json["truncated"].as_bool().expect("a boolean");
        (rows("connections"), rows("templates"), truncated)
    };
    assert_eq!(json("--limit 3"), (2, 1, false));
    assert_eq!(json("--limit 2"), (2, 0, true));
    assert_eq!(json("--limit 1"), (1, 0, true));
    assert_eq!(json("--no-templates"), (2, 99, false));
}

#[test]
fn services_show_what_keeps_their_sessions() {
    let plane = plane(1);
    let mut vpn = service("vpn", "[2001:db8::7]:1194", &["[2001:db8:1::3]:1194"]);
    vpn.payload_key = Some(PayloadKey::Field(SessionKey {
        field: Field::new(12, 20, Unit::Bits).expect("a field"),
        when: Some(When {
            offset: 0,
            value: vec![0x19],
        }),
    }));
    vpn.on_server_down = Some(OnServerDown::Drop);
    let mut gtp = service("gtp", "192.0.2.1:2152", &["10.0.0.1:2152"]);
    let field = Field::new(4, 4, Unit::Bytes).expect("a field");
    let engine = Some(Engine::Payload(field));
    gtp.persistence = Some(persistence(360, Grouping::Mask4(u32::MAX), engine));
    let (manager, _) = manager_of(&plane, setup(vec![sip_one_packet(), vpn, gtp]));
    add_template(
        &plane,
        &template_key(0, "192.0.2.0", "10.4.3.192:5060", None),
        0,
        60,
    );
    let socket = ControlSocket::serve(&manager.shared());
    let shown = run(&socket.path, "show services").expect("shows");
    let services: Vec<&str> = shown
        .lines()
        .skip(2)
        .filter(|l| !l.starts_with(' '))
        .collect();
    assert_eq!(
        services,
        [
            "UDP  10.4.3.192:5060 wlc persistent 60 mask 0.0.0.0 pe sip ops templates 1 name sip",
            "TCP  [2001:db8::7]:1194 rr payload_key (offset 12 length 20 unit bits when offset 0 value 19) \
             on_server_down drop templates 0 name vpn",
            "TCP  192.0.2.1:2152 rr persistent 360 pe payload field (offset 4 length 4) templates 0 name gtp",
        ]
    );
    let shown = run(&socket.path, "show servers").expect("shows");
    let counts = |line: usize| {
        let words = shown.lines().nth(line).expect("a line").split_whitespace();
        words.rev().nth(1).map(str::to_owned)
    };
    assert_eq!(
        (counts(2), counts(3)),
        (Some("1".to_owned()), Some("1".to_owned()))
    );
}

#[test]
fn persistence_is_set_and_told_with_how_long_it_lasts() {
    let plane = plane(1);
    let mut udp = sip_one_packet();
    (udp.persistence, udp.one_packet) = (None, false);
    udp.servers[0].method = Method::Direct;
    let web = service("web", "192.0.2.80:80", &["10.0.0.1:80"]);
    let (manager, _) = manager_of(&plane, setup(vec![udp, web]));
    let socket = ControlSocket::serve(&manager.shared());
    let lasts = "(at run time only: a restart takes what the file says)\n";
    for (line, said) in [
        (
            "sip persistence timeout 60s",
            "sip: persistence off -> 1m netmask 255.255.255.255 engine none",
        ),
        (
            "sip persistence netmask 0.0.0.0",
            "sip: persistence 1m netmask 255.255.255.255 engine none -> 1m netmask 0.0.0.0 engine none",
        ),
        (
            "sip engine payload --offset 8 --length 12 --unit bits",
            "sip: persistence 1m netmask 0.0.0.0 engine none -> 1m netmask 0.0.0.0 engine payload offset 8 length 12 unit bits",
        ),
        (
            "sip engine sip",
            "sip: persistence 1m netmask 0.0.0.0 engine payload offset 8 length 12 unit bits -> 1m netmask 0.0.0.0 engine sip",
        ),
        ("sip one-packet on", "sip: one_packet false -> true"),
    ] {
        let told = run(&socket.path, &format!("set service {line}")).expect("set");
        assert_eq!(told, format!("{said} {lasts}"), "{line}");
    }
    let shown = run(&socket.path, "show services").expect("shows");
    let line =
        "UDP  10.4.3.192:5060 wlc persistent 60 mask 0.0.0.0 pe sip ops templates 0 name sip";
    assert_eq!(shown.lines().nth(2), Some(line));
    run(&socket.path, "set service sip one-packet off").expect("set");
    let told = run(&socket.path, "set service sip persistence timeout off").expect("set");
    assert!(told.ends_with("-> off (as the file says)\n"), "{told}");
    let refused = failure(&socket.path, "set service web one-packet on");
    assert!(refused.contains("`one_packet` is for UDP"), "{refused}");
}

#[test]
fn the_header_with_persistence_engines_is_ipvsadms() {
    assert_eq!(
        table::connections_header(true),
        "IPVS connection entries\n\
         pro expire state       source             virtual            destination        pe name          pe_data\n"
    );
}

#[test]
fn every_listing_is_also_json_and_yaml() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let _worker = FakeWorker::start(&plane, 0, vec![]);
    let socket = ControlSocket::serve(&manager.shared());
    for what in [
        "services",
        "servers",
        "connections",
        "templates",
        "neighbours",
        "workers",
        "ports",
        "drops",
    ] {
        let json = run(&socket.path, &format!("show {what} -o json")).expect(what);
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert!(json[what].is_array(), "{what}: {json}");
        let yaml = run(&socket.path, &format!("show {what} -o yaml")).expect(what);
        assert!(yaml.starts_with(&format!("{what}:")), "{what}: {yaml}");
        assert!(
            !run(&socket.path, &format!("show {what}"))
                .expect(what)
                .is_empty()
        );
    }
}

#[test]
fn drops_that_happened_are_shown_with_their_meaning() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let socket = ControlSocket::serve(&manager.shared());
    let none = run(&socket.path, "show drops").expect("shows");
    assert_eq!(none, "No packet was dropped.\n");
    plane.workers[0]
        .counters
        .drop(crate::net::DropReason::NoRoute);
    assert_eq!(
        run(&socket.path, "show drops").expect("shows"),
        "\
Reason    Packets  Meaning
no_route  1        There is no route to the destination.
"
    );
    let all = run(&socket.path, "show drops --all").expect("shows");
    assert_eq!(all.lines().count(), crate::net::DropReason::COUNT + 1);
}

#[test]
fn set_and_reload_tell_what_they_did() {
    let plane = plane(1);
    let (manager, file) = manager_of(&plane, web_and_sip());
    let socket = ControlSocket::serve(&manager.shared());
    assert_eq!(
        run(&socket.path, "set server web 10.0.0.1:80 weight 0").expect("set"),
        "web/10.0.0.1:80: weight 1 -> 0 (at run time only: a restart takes what the file says)\n"
    );
    assert!(failure(&socket.path, "set server web nobody weight 0").contains("has no server"));
    assert!(
        failure(&socket.path, "set server web 10.0.0.2:80 lower-threshold 3")
            .contains("a lower threshold, 3, needs an upper one; change the upper one first")
    );
    for (what, says) in [
        ("upper-threshold 50", "upper threshold 0 -> 50 (at run"),
        ("lower-threshold 20", "lower threshold 0 -> 20 (at run"),
        ("lower-threshold 0", "lower threshold 20 -> 0 (at run"),
        (
            "upper-threshold 0",
            "upper threshold 50 -> 0 (as the file says)",
        ),
        ("down", "up -> down (until"),
        ("up", "down -> up (as the file says)"),
    ] {
        let said = run(&socket.path, &format!("set server web 10.0.0.2:80 {what}")).expect("set");
        assert!(
            said.starts_with(&format!("web/10.0.0.2:80: {says}")),
            "{said}"
        );
    }
    let mut new = web_and_sip();
    new.services[1].servers[0].weight = 4;
    write(&file, new);
    assert_eq!(
        run(&socket.path, "reload").expect("reloads"),
        "\
changed server sip/[2001:db8:1::3]:5060: weight 1 -> 4
web/10.0.0.1:80 keeps weight 0 that was set at run time (the file says 1)
Reloaded.
"
    );
    *file.lock().expect("not poisoned") = Err(vec!["f:1:1: bad".to_owned()]);
    assert_eq!(
        failure(&socket.path, "reload"),
        "polder.yaml can't be taken over; nothing has changed\nf:1:1: bad"
    );
}

#[test]
fn settings_of_lvs_are_set_kept_over_a_reload_and_shown() {
    let plane = plane(1);
    let (manager, file) = manager_of(&plane, web_and_sip());
    let socket = ControlSocket::serve(&manager.shared());
    let set = |line: &str| run(&socket.path, line).expect("set");
    assert_eq!(
        set("set ipvs drop_packet 3"),
        "ipvs: drop_packet 0 -> 3 (at run time only: a restart takes what the file says)\n"
    );
    set("set ipvs pmtu_disc off");
    assert_eq!(plane.defence.active.get().drop_rate, 10, "at once");
    write(&file, web_and_sip());
    let said = run(&socket.path, "reload").expect("reloads");
    assert!(said.contains("ipvs keeps drop_packet 3"), "{said}");
    assert_eq!(
        run(&socket.path, "show ipvs").expect("shows"),
        "\
Name                       Value  Active
drop_entry                 0      no
drop_packet                3      yes     set at run time
secure_tcp                 0      no
am_droprate                10     -
amemthresh                 0      -
expire_quiescent_template  0      -
nat_icmp_send              0      -
schedule_icmp              0      -
pmtu_disc                  0      -       set at run time
conn_reuse_mode            1      -
expire_nodest_conn         0      -
sloppy_tcp                 0      -
sloppy_sctp                0      -

Free entries         1000
Packets dropped      1 in 10 that need a server
Connections dropped  0
Templates dropped    0
"
    );
    for (line, said) in [
        ("set ipvs drop_packet 4", "`drop_packet` is 0 to 3, not 4"),
        ("set ipvs drop_pakcet 1", "did you mean `drop_packet`?"),
        ("set ipvs drop_packet much", "`much` is no value"),
    ] {
        let failed = failure(&socket.path, line);
        assert!(failed.contains(said), "{line}: {failed}");
    }
    set("set ipvs drop_packet 0");
    assert_eq!(plane.defence.active.get().drop_rate, 0);
}

#[test]
fn an_appliance_that_does_not_run_is_a_sentence() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let said = failure(&dir.path().join("none"), "show services");
    assert!(said.contains("Is `polder run` running?"), "{said}");
}

/// A socket of an appliance whose state sync has these settings and tells `status` of itself.
fn with_sync(settings: Settings, status: api::SyncStatus) -> (ControlSocket, Arc<FakeSync>) {
    let (mut manager, _) = manager_of(&plane(1), web_and_sip());
    let fake = FakeSync::of(&mut manager, settings);
    *fake.status.lock().expect("not poisoned") = status;
    (ControlSocket::serve(&manager.shared()), fake)
}

#[test]
fn the_status_of_sync_tells_what_goes_on_and_why_not() {
    let settings = Settings {
        role: Role::Both,
        interface: Some("polder-sync0".to_owned()),
        encrypt: true,
        ..Settings::default()
    };
    let mut status = crate::mgmt::testkit::sync_status();
    status.peers[0].name = "le\u{1b}ft".to_owned();
    let (socket, _) = with_sync(settings, status);
    let want = "\
Role        both, running, set at run time
Format      polder version 1, encrypted
Channel     group 224.0.0.81:8848 by polder-sync0, sync id 1
Name        right
Ready       no: peer new: 0% of the 99% it must have
Told        1000 own entries
Sent        7 messages, 70 records, 7000 bytes
Received    8 messages, 80 records, 8000 bytes
Queue       4 of 4096 messages, 3 discarded

Peer        Address            Way  Role  State                   Lag    Coverage  Entries   Uninstalled  FullSync  Version
le\\u{1b}ft  192.168.81.2:8848  in   both  synchronised, differs   0.2 s  99.50%    995/1000  5            90 s ago  1
left        192.168.81.2:8848  out  both  synchronised, differs   0.2 s  99.50%    995/1000  5            90 s ago  1
left        192.168.81.3:8848  in   both  synchronised, differs   0.2 s  99.50%    995/1000  5            90 s ago  1
new         192.168.81.4:8848  in   both  synchronising, differs  -      -         995/1000  5            -         1

Rejected  Count  Meaning
forged    2      It is forged.
";
    assert_eq!(run(&socket.path, "sync status").expect("shows"), want);
    let json = run(&socket.path, "sync status -o json").expect("shows");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["peers"][0]["name"], "le\u{1b}ft");
    assert_eq!(json["peers"][3]["coverage"], serde_json::Value::Null);
    let yaml = run(&socket.path, "sync status -o yaml").expect("shows");
    assert!(yaml.contains("sync_id: 1"), "{yaml}");
}

#[test]
fn an_appliance_without_sync_is_listed_with_the_reason() {
    let (manager, _) = manager_of(&plane(1), web_and_sip());
    let socket = ControlSocket::serve(&manager.shared());
    let shown = run(&socket.path, "sync status").expect("shows");
    assert!(
        shown.starts_with("Role        off\nProblem     this appliance was started without"),
        "{shown}"
    );
    assert_eq!(run(&socket.path, "show daemon").expect("shows"), "");
}

#[test]
fn sync_is_started_and_stopped_by_commands_and_daemons_look_like_ipvsadms() {
    let settings = Settings {
        format: crate::sync::settings::Format::Ipvs(crate::sync::ipvs::Version::V1),
        sync_id: 0,
        ..Settings::default()
    };
    let running = api::SyncStatus {
        running: true,
        ..api::SyncStatus::default()
    };
    let (socket, fake) = with_sync(settings, running);
    assert_eq!(
        run(
            &socket.path,
            "sync start --role backup --interface lo --sync-id 1 --group 224.0.0.82 --port 9000 --ttl 3 --max-message 2000"
        )
        .expect("starts"),
        "sync: backup started (at run time only: a restart takes what the file says)\n"
    );
    run(&socket.path, "sync start --role master --sync-id 9").expect("starts");
    assert_eq!(
        run(&socket.path, "show daemon").expect("shows"),
        "\
master sync daemon (mcast=lo, syncid=9, maxlen=2000, group=224.0.0.82, port=9000, ttl=3)
backup sync daemon (mcast=lo, syncid=1, maxlen=2000, group=224.0.0.82, port=9000, ttl=3)
"
    );
    assert_eq!(
        failure(&socket.path, "sync start --role master"),
        "state sync runs as master already; stop it first"
    );
    run(&socket.path, "sync stop --role master").expect("stops");
    assert_eq!(
        failure(&socket.path, "sync stop --role master"),
        "state sync does not run as master"
    );
    assert_eq!(
        run(&socket.path, "sync role off").expect("sets"),
        "sync: role backup -> off (at run time only: a restart takes what the file says)\n"
    );
    assert_eq!(fake.settings().role, Role::Off);
    fake.status.lock().expect("not poisoned").problem = Some("the interface is gone".to_owned());
    assert!(
        run(&socket.path, "sync role both")
            .expect("sets")
            .ends_with("\nIt does not run: the interface is gone\n")
    );
}
