//! What the grammar refuses and how; daemons, which need an appliance that only pretends to sync.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use super::grammar::{Line, Wrong, shown_flags};
use super::names::Names;
use super::*;
use crate::mgmt::SyncControl;
use crate::mgmt::testkit::*;
use crate::sync::settings::{Format, Settings};

/// A resolver that knows one host and a few services.
fn names() -> Names {
    let hosts = HashMap::from([("web.example", Ipv4Addr::new(192, 0, 2, 80))]);
    let services = "http 80/tcp\ndomain 53/udp\n";
    let forward = move |name: &str| hosts.get(name).copied();
    Names::new(services, Box::new(forward), Box::new(|_| None))
}

fn parse(line: &str) -> Result<Line, Wrong> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    Line::parse(&words, &names())
}

/// A command line and the message with which it is refused.
const USAGE_ERRORS: &str = "
-A | You need to supply the 'service-address' option for the 'add-service' command
-A -t 192.0.2.1:80 -u 192.0.2.1:80 | multiple 'service-address' options specified
-A -t 192.0.2.1:80 -s rr -s wrr | multiple 'scheduler' options specified
-A -t 192.0.2.1:80 -r 10.0.0.1 | Illegal 'real-server' option with the 'add-service' command
-A -t 192.0.2.1:80 -D | invalid option `-D'
-A -t 192.0.2.1:80 --list | invalid option `--list'
-A -t 192.0.2.1 | Zero port specified for non-persistent service
-A -t 2001:db8::1:80 | Zero port specified for non-persistent service
-A -t 192.0.2.300:80 | illegal virtual server address[:port] specified
-A -t 192.0.2.1:65536 | illegal virtual server address[:port] specified
-A -t 192.0.2.1: | illegal virtual server address[:port] specified
-A -t 80 | illegal virtual server address[:port] specified
-A -t [2001:db8::1] | illegal virtual server address[:port] specified
-A -t nobody.example:80 | illegal virtual server address[:port] specified
-A -u 192.0.2.1:http | illegal virtual server address[:port] specified
-A -t 192.0.2.1:80 -o | One-Packet Scheduling is only for UDP virtual services
-A -f 0 | invalid fwmark value `0' specified
-A -f 4294967296 | invalid fwmark value `4294967296' specified
-A -6 -f 1 | -6 used before -f
-A -t 192.0.2.1:80 -6 | -6 used before -f
-A -t 192.0.2.1:80 -p 0 | invalid timeout value `0' specified
-A -t 192.0.2.1:80 -p 2678401 | invalid timeout value `2678401' specified
-A -t 192.0.2.1:80 -p -M 300.0.0.0 | illegal virtual server persistent mask specified
-A -M 64 -t [2001:db8::1]:80 -p | illegal virtual server persistent mask specified
-A -t [2001:db8::1]:80 -p -M 255.255.255.0 | illegal ipv6 netmask specified
-A -t [2001:db8::1]:80 -p -M 129 | illegal ipv6 netmask specified
-A -t 192.0.2.1:80 -s rr -b sh-port | incompatible scheduler flag `sh-port'
-A -t 192.0.2.1:80 -s mh -b mh-port,nothing | invalid scheduler flag `nothing'
-A -t 192.0.2.1:80 -s rr -b flag-1 | incompatible scheduler flag `flag-1': Polder's `rr` has none of that number
-A -t 192.0.2.1:80 -s sh -b flag-3 | incompatible scheduler flag `flag-3': Polder's `sh` has none of that number
-a -r 10.0.0.1:80 | You need to supply the 'service-address' option for the 'add-server' command
-a -t 192.0.2.1:80 | You need to supply the 'real-server' option for the 'add-server' command
-d -t 192.0.2.1:80 -r 10.0.0.1 -m | Illegal 'forwarding-method' option with the 'delete-server' command
-a -t 192.0.2.1:80 -r 10.0.0.1 -m -g | multiple 'forwarding-method' options specified
-a -t 192.0.2.1:80 -r [2001:db8::1] -m | illegal real server address[:port] specified
-a -t 192.0.2.1:80 -r 10.0.0.1 -w -1 | illegal weight specified
-a -t 192.0.2.1:80 -r 10.0.0.1 -w 2147483648 | illegal weight specified
-a -t 192.0.2.1:80 -r 10.0.0.1 -x x | illegal u_threshold specified
-a -t 192.0.2.1:80 -r 10.0.0.1 -y -1 | illegal l_threshold specified
-a -t 192.0.2.1:80 -r [2001:db8::1]:80 -m | Different address family is allowed only for tunneling servers
-a -t 192.0.2.1:80 -r 10.0.0.1 -m --tun-type ipip | Tunnel options conflict with forward method
-a -t 192.0.2.1:80 -r 10.0.0.1 -i --tun-type vxlan | illegal tunnel type specified
-a -t 192.0.2.1:80 -r 10.0.0.1 -i --tun-port 0 | illegal tunnel port specified
-a -t 192.0.2.1:80 -r 10.0.0.1 -i --tun-type gue | You need to supply the 'tun-port' option for the 'gue' tunnel type
-a -t 192.0.2.1:80 -r 10.0.0.1 -i --tun-csum | Illegal 'tun-csum' option with the 'ipip' tunnel type
-a -t 192.0.2.1:80 -r 10.0.0.1 -i --tun-type gre --tun-remcsum | Illegal 'tun-remcsum' option with the 'gre' tunnel type
-a -t 192.0.2.1:80 -r 10.0.0.1 -i --tun-type gre --tun-csum --tun-nocsum | The option 'tun-csum' conflicts with the 'tun-nocsum' option in the 'gre' tunnel type
-L extra | unexpected argument extra
-L -c -t 192.0.2.1:80 | The option 'service-address' conflicts with the 'connection' option in the 'list' command
-L --timeout --daemon | The option 'daemon' conflicts with the 'timeout' option in the 'list' command
-Lc --stats | options conflicts in the list command
-L --timeout --rate | options conflicts in the list command
-L --daemon --persistent-conn | options conflicts in the list command
-L -s rr | Illegal 'scheduler' option with the 'list' command
-C -n | Illegal 'numeric' option with the 'flush' command
-Z -n | Illegal 'numeric' option with the 'zero' command
--set 1 2 | --set option requires 3 timeout values
--set 1 2 x | invalid timeout value `x' specified
--set 2678401 0 0 | invalid timeout value `2678401' specified
--set 1 2 3 4 | unexpected argument 4
--start-daemon nobody | illegal start-daemon parameter specified
--stop-daemon nobody | illegal start_daemon specified
--start-daemon master --syncid 256 | illegal syncid specified
--start-daemon master --mcast-port 0 | illegal mcast-port specified
--start-daemon master --mcast-ttl 256 | illegal mcast-ttl specified
--start-daemon master --sync-maxlen 65508 | illegal sync-maxlen specified
--start-daemon master --mcast-group 192.0.2.1 | invalid IPv4 mcast-group `192.0.2.1'
--start-daemon master --mcast-group 2001:db8::1 | invalid IPv6 mcast-group `2001:db8::1'
--start-daemon master -n | Illegal 'numeric' option with the 'start-daemon' command
";

#[test]
fn what_makes_no_sense_is_refused_in_ipvsadms_words() {
    for row in USAGE_ERRORS.trim().lines() {
        let (line, message) = row.split_once(" | ").expect("a line and its message");
        assert_eq!(parse(line), Err(Wrong::Usage(message.to_owned())), "{line}");
    }
}

#[test]
fn options_that_there_are_not_are_told_apart_from_lines_without_a_command() {
    for (line, message) in [
        ("-L --nosuch", "--nosuch: unknown option"),
        ("-Lnq", "-Lnq: unknown option"),
        ("-A -t", "-t: missing argument"),
        ("-A --tcp-service", "--tcp-service: missing argument"),
        ("-A -t 192.0.2.1:80 -p -1", "-1: unknown option"),
        ("--set -1 2 3", "-1: unknown option"),
        (
            "-L --numeric=1",
            "--numeric=1: option does not take an argument",
        ),
        ("-L --num", "--num: unknown option"),
    ] {
        assert_eq!(
            parse(line),
            Err(Wrong::Option(message.to_owned())),
            "{line}"
        );
    }
    for line in [
        "-X",
        "-n -L",
        "word",
        "--nosuch",
        "--start-daemon",
        "--",
        "-",
    ] {
        assert_eq!(parse(line), Err(Wrong::NoCommand), "{line}");
    }
}

#[test]
fn one_line_can_be_written_in_several_ways() {
    for ways in [
        &["", "-L", "-l", "--list", "-L --sort", "-L --"][..],
        &[
            "-Lcn",
            "-L -c -n",
            "--list -nc",
            "-l --numeric --connection",
        ],
        &[
            "-A -t 192.0.2.80:80 -s rr -p 360",
            "-At192.0.2.80:80 -p -srr",
            "-A -p -t web.example:http --scheduler=rr",
            "-A --persistent=360 --tcp-service 192.0.2.80:80 -s=rr",
            "-As rr -t web.example:80 -p",
        ],
        &["-A -f 7 -6 -p -M 64", "-Af7 -6 -M64 -p360"],
        &[
            "-a -t 192.0.2.80:80 -r 10.0.0.1:80 -g -w 1",
            "-a -t 192.0.2.80:http -r 10.0.0.1 -gw1",
            // Direct routing leaves the port as it is.
            "-a -r 10.0.0.1:81 -t 192.0.2.80:80 -g -w 1",
        ],
        &["--set 900 120 300", "--set -- 900 120 300"],
    ] {
        // What was given is remembered in its order, which means nothing.
        let meant = |line: &str| {
            let line = parse(line).unwrap_or_else(|e| panic!("{line}: {e:?}"));
            let given = line.has(Opt::Numeric);
            let body = format!("{line:?}");
            let body = body.split_once("given: [").map(|(a, b)| {
                let (_, b) = b.split_once(']').expect("a list ends");
                format!("{a}{b}")
            });
            (given, body)
        };
        for way in ways {
            assert_eq!(meant(way), meant(ways[0]), "{way}");
        }
    }
}

#[test]
fn a_server_has_the_services_port_unless_it_is_masqueraded() {
    let server = |line: &str| parse(line).expect(line).server.expect("a server");
    let ip = |s: &str| s.parse::<IpAddr>().expect("an address");
    for (line, addr, port) in [
        ("-a -t 192.0.2.1:80 -r 10.0.0.1", "10.0.0.1", 80),
        ("-a -t 192.0.2.1:80 -r 10.0.0.1:8080", "10.0.0.1", 80),
        ("-a -t 192.0.2.1:80 -r 10.0.0.1:8080 -m", "10.0.0.1", 8080),
        ("-a -t 192.0.2.1:80 -r 2001:db8::1 -i", "2001:db8::1", 80),
        ("-a -f 7 -r 10.0.0.1 -g", "10.0.0.1", 0),
        ("-a -f 7 -r 10.0.0.1:80 -m", "10.0.0.1", 80),
        ("-d -t 192.0.2.1:80 -r 10.0.0.1:8080", "10.0.0.1", 8080),
        ("-d -t 192.0.2.1:80 -r [2001:db8::1]:80", "2001:db8::1", 80),
    ] {
        assert_eq!(server(line), (ip(addr), port), "{line}");
    }
}

#[test]
fn flags_go_by_their_schedulers_and_come_back_in_ipvsadms_order() {
    for (given, ours, shown) in [
        (
            "sh -b sh-port,sh-fallback",
            &["port", "fallback"][..],
            "sh-fallback,sh-port",
        ),
        ("mh -b flag-2", &["port"], "mh-port"),
        (
            "mh -b mh-port,mh-port,table=509",
            &["port", "table=509"],
            "mh-port,table=509",
        ),
        ("sh -b kernel_tables", &["kernel_tables"], "kernel_tables"),
    ] {
        let line = parse(&format!("-A -t 192.0.2.1:80 -s {given}")).expect(given);
        assert_eq!(line.flags, ours, "{given}");
        assert_eq!(shown_flags(&line.scheduler, &line.flags).join(","), shown);
    }
}

#[test]
fn rates_and_large_numbers_have_ipvsadms_columns() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let mut services = manager.services().services;
    services.truncate(1);
    let counts = |n| api::Counts {
        connections: n,
        packets_in: 20 * n,
        packets_out: 300 * n,
        bytes_in: 4000 * n,
        bytes_out: 50_000 * n,
    };
    services[0].rates = counts(12_345_678);
    services[0].servers[0].rates = counts(12_345_678);
    (services[0].connections, services[0].bytes_in) = (1_000_000_005, 99_999_999);
    services[0].zeroed.connections = 5;
    let listed = |line: &str| {
        let line = parse(line).expect(line);
        list::services(&services, &Look::of(&line, &names()))
    };
    assert_eq!(
        listed("-Ln --rate"),
        "\
Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS
  -> RemoteAddress:Port
TCP  192.0.2.80:80                12345678  246913K    3703M   49382M     617G
  -> 10.0.0.1:80                  12345678 246913560 3703703400   49382M     617G
  -> 10.0.0.2:80                         0        0        0        0        0
"
    );
    assert_eq!(
        listed("-Ln --stats --rate -X"),
        "\
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  192.0.2.80:80                1000000000        0        0 99999999        0
  -> 10.0.0.1:80                         0        0        0        0        0
  -> 10.0.0.2:80                         0        0        0        0        0
"
    );
}

#[test]
fn names_that_are_too_long_are_cut_as_ipvsadm_cuts_them() {
    let plane = plane(1);
    let (manager, _) = manager_of(&plane, web_and_sip());
    let services = manager.services().services;
    let long = |_| Some("a-very-long-name-of-a-host.example.net".to_owned());
    let names = Names::new("", Box::new(|_| None), Box::new(long));
    let line = parse("-L").expect("a line");
    let listed = list::services(&services, &Look::of(&line, &names));
    let lines: Vec<_> = listed.lines().skip(2).collect();
    assert_eq!(lines[0], "TCP  a-very-long-name-of-a-host.e rr");
    assert!(
        lines[1].starts_with("  -> a-very-long-name-of-a-host.e Masq    1 "),
        "{}",
        lines[1]
    );
    assert_eq!(
        lines[3],
        "TCP  [a-very-long-name-of-a-host.example.net]:5060 rr"
    );
}

/// What a command line prints, on both outputs, and its exit status.
fn says(socket: &std::path::Path, line: &str) -> (String, u8) {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (names, mut input) = (names(), &b""[..]);
    let mut front = Front::new(socket.to_owned(), &names, &mut input, &mut out, &mut err);
    let status = front.run(&words);
    out.extend(err);
    (String::from_utf8(out).expect("text"), status)
}

#[test]
fn daemons_are_started_listed_and_stopped() {
    let plane = plane(1);
    let (mut manager, _) = manager_of(&plane, web_and_sip());
    let settings = Settings {
        format: Format::Ipvs(crate::sync::ipvs::Version::V1),
        ..Settings::default()
    };
    let sync = FakeSync::of(&mut manager, settings);
    let socket = ControlSocket::serve(&manager.shared());
    sync.status.lock().expect("not poisoned").running = true;
    let session = "
--start-daemon master --mcast-interface nosuch0 | No such device
--start-daemon master --mcast-interface lo --syncid 7 |
--start-daemon master --mcast-interface lo | Daemon has already run
--stop-daemon backup | No daemon is running
--start-daemon backup --mcast-interface lo --syncid 8 --sync-maxlen 1400 |
-L --daemon | master sync daemon (mcast=lo, syncid=7, maxlen=1472, group=224.0.0.81, port=8848, ttl=1);backup sync daemon (mcast=lo, syncid=8, maxlen=1400, group=224.0.0.81, port=8848, ttl=1)
--stop-daemon master |
--stop-daemon backup --syncid 8 |
-L --daemon |
";
    for row in session.trim().lines() {
        let (line, told) = row.split_once(" |").expect("a line and what it tells");
        let (text, status) = says(&socket.path, line);
        let text = text.trim_end().replace('\n', ";");
        assert_eq!(text, told.trim(), "{line}");
        let refused = !told.is_empty() && !told.contains("sync daemon (");
        assert_eq!(status, if refused { REFUSED } else { 0 }, "{line}");
    }
    assert!(sync.settings().role == crate::sync::settings::Role::Off);
    let mut status = sync.status.lock().expect("not poisoned");
    status.problem = Some("there is no socket".to_owned());
    drop(status);
    let (text, status) = says(&socket.path, "--start-daemon master --mcast-interface lo");
    assert_eq!(
        text,
        "polder: state sync does not run: there is no socket\n"
    );
    assert_eq!(status, REFUSED);
}

#[test]
fn an_appliance_that_does_not_run_is_told_before_anything_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let (text, status) = says(&dir.path().join("none.sock"), "-L");
    assert!(text.starts_with("Can't initialize ipvs: "), "{text}");
    assert_eq!(status, USAGE);
    // These need none.
    assert_eq!(says(dir.path(), "-h").1, 0);
    assert!(says(dir.path(), "-v").0.starts_with("ipvsadm v1.31 "));
}

#[test]
fn the_socket_may_stand_before_the_command() {
    let socket = |line: &str| {
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let socket = own_socket(&mut words).map(|p| p.display().to_string());
        (socket, words.join(" "))
    };
    let default = SOCKET_DEFAULT.to_owned();
    assert_eq!(
        socket("--socket /s -Ln"),
        (Ok("/s".to_owned()), "-Ln".to_owned())
    );
    assert_eq!(
        socket("--socket=/s -Ln"),
        (Ok("/s".to_owned()), "-Ln".to_owned())
    );
    assert_eq!(socket("-Ln"), (Ok(default), "-Ln".to_owned()));
    assert!(socket("--socket").0.is_err());
}
