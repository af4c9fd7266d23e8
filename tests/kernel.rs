//! The kernel's part against a real kernel: each test in a network namespace of its own.
//!
//! The test binary runs itself again under `unshare -n`, or `unshare -Urn` without root. Where neither is allowed, or
//! there is no /dev/net/tun or `ip`, a test says SKIPPED and why. The test plays the network: it reads the frames that
//! the kernel sends out of the TAP, and writes the answers into it.

use std::env;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use polder::forward::defs::{NeighbourDef, PortId, Prefix, RouteDef};
use polder::mgmt::kernel::{KernelView, Mirror, Tap, TapError, Targets, tap_name};
use polder::net::Mac;
use tokio::sync::watch;
use tokio::time::timeout;

const INSIDE: &str = "POLDER_TEST_NAMESPACE";
const PATIENCE: Duration = Duration::from_secs(10);

const PORT: PortId = PortId(0);
const TAP: &str = "polder-wan0";
const MAC: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 0x77]);
const MOVED: Mac = Mac([2, 0, 0, 0, 0, 0x78]);

// The harness.

fn run(words: &[&str]) -> Output {
    let out = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output();
    out.unwrap_or_else(|e| panic!("{words:?}: {e}"))
}

fn works(words: &[&str]) -> bool {
    let silent = |c: &mut Command| c.stdout(Stdio::null()).stderr(Stdio::null()).status();
    silent(Command::new(words[0]).args(&words[1..])).is_ok_and(|s| s.success())
}

/// Runs `body` of the test `name` in a private network namespace, or says why not.
fn isolated(name: &str, body: impl Future<Output = ()>) {
    isolated_by(name, &[&["unshare", "-n"], &["unshare", "-Urn"]], &[], body);
}

/// Runs `body` under the first of `ways` that is allowed here; `then` is run between it and the test.
fn isolated_by(name: &str, ways: &[&[&str]], then: &[&str], body: impl Future<Output = ()>) {
    if env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(body);
        return;
    }
    let skip = |why: &str| eprintln!("SKIPPED: {name}: {why}");
    if !std::path::Path::new("/dev/net/tun").exists() {
        return skip("there is no /dev/net/tun (`modprobe tun`)");
    }
    if !works(&["ip", "-V"]) {
        return skip("there is no `ip` (`apt-get install iproute2`)");
    }
    let Some(way) = ways
        .iter()
        .find(|way| works(&[way, &["true"][..]].concat()))
    else {
        return skip("no private namespace: needs root, or unprivileged user namespaces");
    };
    let exe = env::current_exe().expect("the test's own path");
    let exe = exe.to_str().expect("a path in UTF-8");
    let test = ["--exact", name, "--nocapture", "--test-threads=1"];
    let words = [way, then, &[exe][..], &test[..]].concat();
    let out = Command::new(words[0])
        .args(&words[1..])
        .env(INSIDE, "1")
        .output();
    let out = out.expect("the test binary runs");
    let said = String::from_utf8_lossy(&out.stdout);
    let complained = String::from_utf8_lossy(&out.stderr);
    // A name that is misspelt runs no test and succeeds.
    assert!(
        out.status.success() && said.contains(" 1 passed"),
        "{said}\n{complained}"
    );
    eprint!("{complained}");
}

fn ip(words: &str) -> String {
    let out = run(&[&["ip"], &words.split_whitespace().collect::<Vec<_>>()[..]].concat());
    assert!(
        out.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).expect("text")
}

/// The version of the running kernel.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a version");
    let mut numbers = release.split('.').map_while(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn addr(s: &str) -> IpAddr {
    s.parse().expect("an address in a test")
}

fn prefix(s: &str) -> Prefix {
    let (a, len) = s.split_once('/').expect("a prefix in a test");
    Prefix {
        addr: addr(a),
        len: len.parse().expect("a length in a test"),
    }
}

/// A TAP of the port, with `addresses` on it, and the mirror.
async fn start(addresses: &[&str]) -> (Tap, Mirror, watch::Receiver<Arc<KernelView>>) {
    let tap = Tap::create(TAP, MAC, 1500).expect("a TAP");
    let mirror = Mirror::start(&[(PORT, TAP.to_owned())])
        .await
        .expect("a mirror");
    let wanted = addresses.iter().map(|a| (PORT, prefix(a))).collect();
    mirror.set_addresses(wanted).await.expect("addresses");
    let view = mirror.view();
    (tap, mirror, view)
}

type View = watch::Receiver<Arc<KernelView>>;

/// Waits until the view is as wanted.
async fn see(view: &mut View, what: &str, is: impl Fn(&KernelView) -> bool) {
    let seen = timeout(PATIENCE, view.wait_for(|v| is(v)))
        .await
        .map(|r| r.map(|_| ()));
    if !matches!(seen, Ok(Ok(()))) {
        panic!("not seen: {what}; the view is {:#?}", view.borrow());
    }
}

fn has_neighbour(view: &KernelView, at: &str, mac: Mac) -> bool {
    view.neighbours.contains(&NeighbourDef {
        port: PORT,
        addr: addr(at),
        mac,
    })
}

fn knows(view: &KernelView, at: &str) -> bool {
    view.neighbours.iter().any(|n| n.addr == addr(at))
}

fn route_to<'a>(view: &'a KernelView, to: &str) -> Option<&'a RouteDef> {
    view.routes.iter().find(|r| r.to == prefix(to))
}

// The network.

/// Waits for a frame that the kernel sends and that `is` what is wanted.
async fn frame(tap: &Tap, what: &str, is: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let wanted = async {
        let mut room = [0; 2048];
        loop {
            let n = tap.recv(&mut room).await.expect("a frame");
            if is(&room[..n]) {
                return room[..n].to_vec();
            }
        }
    };
    timeout(PATIENCE, wanted)
        .await
        .unwrap_or_else(|_| panic!("no {what} came"))
}

fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes(), payload].concat()
}

/// RFC 826.
fn arp(operation: u16, sender: (Mac, [u8; 4]), target: (Mac, [u8; 4])) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4];
    let op = operation.to_be_bytes();
    [
        &head[..],
        &op,
        &sender.0.0,
        &sender.1,
        &target.0.0,
        &target.1,
    ]
    .concat()
}

fn is_arp_request(f: &[u8], for_whom: [u8; 4]) -> bool {
    f[12..14] == [8, 6] && f[20..22] == [0, 1] && f[38..42] == for_whom
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

fn ipv6(next: u8, from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, len[0], len[1], next, 255];
    [&head[..], &from.octets(), &to.octets(), payload].concat()
}

/// A solicited neighbour advertisement with the override flag (RFC 4861 §4.4).
fn advertisement(target: Ipv6Addr, mac: Mac, to: Ipv6Addr) -> Vec<u8> {
    let mut icmp = [
        &[136, 0, 0, 0, 0x60, 0, 0, 0][..],
        &target.octets(),
        &[2, 1],
        &mac.0,
    ]
    .concat();
    let pseudo = [
        &target.octets()[..],
        &to.octets(),
        &[0, 0, 0, 32, 0, 0, 0, 58],
    ]
    .concat();
    let sum = checksum(&[&pseudo, &icmp]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv6(58, target, to, &icmp)
}

const HERE: [u8; 4] = [192, 0, 2, 10];
const THERE: [u8; 4] = [192, 0, 2, 77];

/// Answers the kernel's ARP requests for 192.0.2.77.
async fn answer_arp(tap: &Tap) {
    let request = frame(tap, "ARP request", |f| is_arp_request(f, THERE)).await;
    assert_eq!(request[28..32], HERE, "asked from the port's own address");
    let reply = ethernet(MAC, PEER, 0x0806, &arp(2, (PEER, THERE), (MAC, HERE)));
    tap.try_send(&reply).expect("the kernel takes the reply");
}

// The TAP.

#[test]
fn a_tap_has_the_ports_mac_and_mtu_and_is_up() {
    isolated("a_tap_has_the_ports_mac_and_mtu_and_is_up", async {
        let tap = Tap::create(&tap_name("wan0"), MAC, 9000).expect("a TAP");
        assert_eq!(tap.name(), TAP);
        let shown = ip("-d link show dev polder-wan0");
        for part in [
            "02:00:00:00:00:10",
            "mtu 9000",
            "LOWER_UP",
            "type tap",
            "vnet_hdr off",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    });
}

#[test]
fn a_tap_has_a_link_local_address_without_detection() {
    isolated("a_tap_has_a_link_local_address_without_detection", async {
        let start = Instant::now();
        let _tap = Tap::create(TAP, MAC, 1500).expect("a TAP");
        if std::fs::write("/proc/sys/net/ipv6/conf/polder-wan0/accept_dad", "0").is_ok() {
            // Detection takes a second at least (RFC 4862 §5.4); without it, the kernel only has to come to it.
            let usable = || {
                let shown = ip("-6 addr show dev polder-wan0");
                shown.contains("fe80::") && !shown.contains("tentative")
            };
            while !usable() {
                assert!(
                    start.elapsed() < Duration::from_secs(1),
                    "still being detected"
                );
            }
        } else {
            eprintln!("SKIPPED: /proc/sys can't be written here");
        }
    });
}

#[test]
fn a_dropped_tap_leaves_nothing() {
    isolated("a_dropped_tap_leaves_nothing", async {
        drop(Tap::create(TAP, MAC, 1500).expect("a TAP"));
        assert!(!ip("link show").contains("polder"));
        drop(Tap::create(TAP, MAC, 1500).expect("a TAP of the same name again"));
    });
}

#[test]
fn a_name_that_is_taken_is_said_to_be() {
    isolated("a_name_that_is_taken_is_said_to_be", async {
        let _first = Tap::create(TAP, MAC, 1500).expect("a TAP");
        let e = Tap::create(TAP, MAC, 1500).expect_err("the name is taken");
        assert!(matches!(e, TapError::NameTaken { .. }), "{e}");
        ip("tuntap add dev polder-left mode tap");
        let e = Tap::create("polder-left", MAC, 1500).expect_err("a persistent one is not adopted");
        assert!(e.to_string().contains("ip link delete polder-left"), "{e}");
    });
}

#[test]
fn a_step_that_is_refused_leaves_nothing() {
    isolated("a_step_that_is_refused_leaves_nothing", async {
        let group = Mac([1, 0, 0x5e, 0, 0, 1]);
        let e = Tap::create(TAP, group, 1500).expect_err("a group MAC address");
        assert!(e.to_string().contains("set its MAC address"), "{e}");
        let e = Tap::create(TAP, MAC, 20).expect_err("an MTU below IPv4's least");
        assert!(e.to_string().contains("set its MTU"), "{e}");
        assert!(!ip("link show").contains("polder"));
    });
}

#[test]
fn without_the_capability_it_says_which_is_missing() {
    // In a user namespace of its own the process has no rights over the network namespace it came with.
    let name = "without_the_capability_it_says_which_is_missing";
    isolated_by(name, &[&["unshare", "-U"]], &[], async {
        let e = Tap::create(TAP, MAC, 1500).expect_err("not permitted");
        assert!(matches!(e, TapError::NotPermitted { .. }), "{e}");
        assert!(e.to_string().contains("CAP_NET_ADMIN"), "{e}");
    });
}

#[test]
fn without_the_driver_it_says_so_and_makes_no_device_file() {
    let name = "without_the_driver_it_says_so_and_makes_no_device_file";
    let hide = [
        "sh",
        "-c",
        "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\"",
    ];
    let ways: [&[&str]; 2] = [&["unshare", "-nm"], &["unshare", "-Urnm"]];
    isolated_by(name, &ways, &hide, async {
        let e = Tap::create(TAP, MAC, 1500).expect_err("no driver");
        assert!(e.to_string().contains("modprobe tun"), "{e}");
        assert!(!std::path::Path::new("/dev/net/tun").exists());
    });
}

#[test]
fn frames_from_the_kernel_have_real_checksums() {
    isolated("frames_from_the_kernel_have_real_checksums", async {
        let (tap, _mirror, _view) = start(&["192.0.2.10/24"]).await;
        ip("neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev polder-wan0");
        let socket = UdpSocket::bind("192.0.2.10:5000").expect("a socket");
        socket.send_to(b"odd", "192.0.2.77:5001").expect("sent");
        let f = frame(&tap, "datagram", |f| f[12..14] == [8, 0] && f[23] == 17).await;
        assert_eq!(f[..6], PEER.0);
        assert_eq!(checksum(&[&f[14..34]]), 0, "of the IP header");
        let udp = &f[34..45];
        let pseudo = [&f[26..34], &[0, 17, 0, 11][..]].concat();
        assert_ne!(udp[6..8], [0, 0]);
        assert_eq!(checksum(&[&pseudo, udp]), 0, "of the datagram");
    });
}

#[test]
fn the_kernel_answers_arp_and_ping_for_a_virtual_address() {
    isolated(
        "the_kernel_answers_arp_and_ping_for_a_virtual_address",
        async {
            let (tap, _mirror, _view) = start(&["192.0.2.10/24", "10.4.3.192/32"]).await;
            let vip = [10, 4, 3, 192];
            let broadcast = Mac([0xff; 6]);
            let nobody = (Mac::default(), vip);
            let request = ethernet(broadcast, PEER, 0x0806, &arp(1, (PEER, THERE), nobody));
            tap.try_send(&request).expect("the kernel takes it");
            let reply = frame(&tap, "ARP reply", |f| {
                f[12..14] == [8, 6] && f[20..22] == [0, 2]
            })
            .await;
            assert_eq!((&reply[22..28], &reply[28..32]), (&MAC.0[..], &vip[..]));

            let mut echo = [8, 0, 0, 0, 0, 1, 0, 1, b'h', b'i'];
            let sum = checksum(&[&echo]);
            echo[2..4].copy_from_slice(&sum.to_be_bytes());
            let mut head = [&[0x45, 0, 0, 30, 0, 0, 0, 0, 64, 1, 0, 0][..], &THERE, &vip].concat();
            let sum = checksum(&[&head]);
            head[10..12].copy_from_slice(&sum.to_be_bytes());
            tap.try_send(&ethernet(MAC, PEER, 0x0800, &[&head[..], &echo].concat()))
                .expect("taken");
            let answer = frame(&tap, "echo reply", |f| f[12..14] == [8, 0] && f[34] == 0).await;
            assert_eq!((&answer[26..30], &answer[30..34]), (&vip[..], &THERE[..]));
        },
    );
}

// Addresses.

#[test]
fn addresses_are_put_on_and_follow_a_reload() {
    isolated("addresses_are_put_on_and_follow_a_reload", async {
        let first = [
            "192.0.2.10/24",
            "192.0.2.11/24",
            "10.4.3.192/32",
            "2001:db8::10/64",
            "fd00::1/128",
        ];
        let (_tap, mirror, _view) = start(&first).await;
        let shown = ip("addr show dev polder-wan0");
        for a in first {
            assert!(shown.contains(&format!(" {a} ")), "{a} in {shown}");
        }
        assert!(shown.contains("192.0.2.10/24 brd 192.0.2.255"), "{shown}");
        assert_eq!(shown.matches("nodad").count(), 2, "{shown}");
        assert!(
            !ip("-6 route show").contains("fd00::1"),
            "a virtual address makes no route"
        );

        // The kernel takes 192.0.2.11 off with the first address of its network; it has to come back.
        let second = ["192.0.2.11/24", "2001:db8::10/64", "10.4.3.193/32"];
        for _ in 0..2 {
            let wanted = second.iter().map(|a| (PORT, prefix(a))).collect();
            mirror.set_addresses(wanted).await.expect("addresses");
            let shown = ip("addr show dev polder-wan0");
            for a in second {
                assert!(shown.contains(&format!(" {a} ")), "{a} in {shown}");
            }
            for a in ["192.0.2.10/24", "10.4.3.192", "fd00::1"] {
                assert!(!shown.contains(a), "{a} in {shown}");
            }
        }
    });
}

#[test]
fn what_others_put_on_is_never_taken_off() {
    isolated("what_others_put_on_is_never_taken_off", async {
        let tap = Tap::create(TAP, MAC, 1500).expect("a TAP");
        ip("addr add 10.4.3.192/32 dev polder-wan0");
        ip("addr add 10.4.3.200/32 dev polder-wan0");
        let mirror = Mirror::start(&[(PORT, TAP.to_owned())])
            .await
            .expect("a mirror");
        let wanted = ["10.4.3.192/32", "10.4.3.193/32"].map(|a| (PORT, prefix(a)));
        mirror
            .set_addresses(wanted.to_vec())
            .await
            .expect("addresses");
        assert!(ip("addr show dev polder-wan0").contains("10.4.3.193/32"));
        mirror.stop().await;
        let shown = ip("addr show dev polder-wan0");
        assert!(
            shown.contains("10.4.3.192/32") && shown.contains("10.4.3.200/32"),
            "{shown}"
        );
        assert!(!shown.contains("10.4.3.193"), "{shown}");
        drop(tap);
    });
}

#[test]
fn addresses_come_back_with_the_interface() {
    isolated("addresses_come_back_with_the_interface", async {
        let (tap, mirror, mut view) = start(&["192.0.2.10/24", "2001:db8::10/64"]).await;
        see(&mut view, "the route", |v| {
            route_to(v, "2001:db8::/64").is_some()
        })
        .await;
        ip("link set polder-wan0 down");
        assert!(!ip("addr show dev polder-wan0").contains("2001:db8::10"));
        see(&mut view, "no route while it is down", |v| {
            v.routes.is_empty()
        })
        .await;
        ip("link set polder-wan0 up");
        see(&mut view, "the route again", |v| {
            route_to(v, "2001:db8::/64").is_some()
        })
        .await;

        drop(tap);
        see(&mut view, "nothing without the interface", |v| {
            *v == KernelView::default()
        })
        .await;
        let _tap = Tap::create(TAP, MAC, 1500).expect("a TAP");
        see(&mut view, "all of it on a new one", |v| {
            route_to(v, "192.0.2.0/24").is_some() && route_to(v, "2001:db8::/64").is_some()
        })
        .await;
        mirror.stop().await;
    });
}

#[test]
fn addresses_come_back_when_the_interface_was_down_for_a_moment() {
    isolated(
        "addresses_come_back_when_the_interface_was_down_for_a_moment",
        async {
            let (_tap, _mirror, mut view) = start(&["2001:db8::10/64"]).await;
            see(&mut view, "the route", |v| {
                route_to(v, "2001:db8::/64").is_some()
            })
            .await;
            // The mirror's thread waits for `ip`: when it looks, the interface is up again.
            let file = tempfile::NamedTempFile::new().expect("a file");
            let bounce = format!("link set {TAP} down\nlink set {TAP} up\n");
            std::fs::write(file.path(), bounce).expect("written");
            ip(&format!("-batch {}", file.path().display()));
            assert!(!ip("-6 addr show").contains("2001:db8::10"));
            ip(&format!("neigh add 192.0.2.77 lladdr {PEER} dev {TAP}"));
            see(&mut view, "the route again", |v| {
                knows(v, "192.0.2.77") && route_to(v, "2001:db8::/64").is_some()
            })
            .await;
            assert!(ip("-6 addr show").contains("2001:db8::10"));
        },
    );
}

#[test]
fn an_address_that_is_refused_is_named_and_the_others_are_put_on() {
    isolated(
        "an_address_that_is_refused_is_named_and_the_others_are_put_on",
        async {
            let (_tap, mirror, _view) = start(&[]).await;
            std::fs::write("/proc/sys/net/ipv6/conf/polder-wan0/disable_ipv6", "1")
                .expect("a sysctl");
            let wanted = [
                (PORT, prefix("fd00::1/128")),
                (PORT, prefix("10.4.3.192/32")),
            ];
            let e = mirror
                .set_addresses(wanted.to_vec())
                .await
                .expect_err("IPv6 is off");
            let text = e.to_string();
            assert!(
                text.contains("fd00::1/128") && text.contains("disable_ipv6"),
                "{text}"
            );
            assert!(ip("addr show dev polder-wan0").contains("10.4.3.192/32"));
            let other = (PortId(9), prefix("10.0.0.1/32"));
            let e = mirror
                .set_addresses(vec![other])
                .await
                .expect_err("no such port");
            assert!(e.to_string().contains("no kernel interface"), "{e}");
        },
    );
}

// The view.

#[test]
fn routes_come_change_and_go_in_the_view() {
    isolated("routes_come_change_and_go_in_the_view", async {
        let (_tap, _mirror, mut view) = start(&["192.0.2.10/24", "2001:db8::10/64"]).await;
        let is = |to: &'static str, via: &'static str| {
            move |v: &KernelView| {
                route_to(v, to).is_some_and(|r| r.via == Some(addr(via)) && r.port == PORT)
            }
        };
        see(&mut view, "the port's networks", |v| {
            v.routes.len() == 2 && v.routes.iter().all(|r| r.via.is_none())
        })
        .await;
        ip("route add default via 192.0.2.1 metric 50");
        see(&mut view, "a default route", is("0.0.0.0/0", "192.0.2.1")).await;
        ip("route add default via 192.0.2.2 metric 10");
        see(&mut view, "the better metric", is("0.0.0.0/0", "192.0.2.2")).await;
        ip("route replace default via 192.0.2.3 metric 10");
        see(&mut view, "a replaced route", is("0.0.0.0/0", "192.0.2.3")).await;
        ip("route del default metric 10");
        see(
            &mut view,
            "the other one again",
            is("0.0.0.0/0", "192.0.2.1"),
        )
        .await;

        ip("-6 route add fd00::/16 via 2001:db8::1");
        see(&mut view, "an IPv6 route", is("fd00::/16", "2001:db8::1")).await;
        ip("route add 10.0.0.0/8 nexthop via 192.0.2.5 nexthop via 192.0.2.6");
        see(
            &mut view,
            "a multipath route's first hop",
            is("10.0.0.0/8", "192.0.2.5"),
        )
        .await;
        ip("-6 route add fd01::/16 nexthop via 2001:db8::5 nexthop via 2001:db8::6");
        see(
            &mut view,
            "the same of IPv6",
            is("fd01::/16", "2001:db8::5"),
        )
        .await;
        ip("route add 10.1.0.0/16 via inet6 fe80::1 dev polder-wan0");
        see(
            &mut view,
            "a next hop of the other family",
            is("10.1.0.0/16", "fe80::1"),
        )
        .await;
        ip("nexthop add id 7 via 192.0.2.9 dev polder-wan0");
        ip("route add 10.2.0.0/16 nhid 7");
        see(
            &mut view,
            "a next hop object",
            is("10.2.0.0/16", "192.0.2.9"),
        )
        .await;

        let before = view.borrow_and_update().routes.clone();
        ip("route add 10.3.0.0/16 via 192.0.2.1 table 100");
        ip("route add blackhole 10.4.0.0/16");
        ip("route add 10.5.0.0/16 via 192.0.2.5");
        see(
            &mut view,
            "the last of three",
            is("10.5.0.0/16", "192.0.2.5"),
        )
        .await;
        assert_eq!(
            view.borrow().routes.len(),
            before.len() + 1,
            "and only that"
        );
    });
}

#[test]
fn neighbours_come_change_and_go_in_the_view() {
    isolated("neighbours_come_change_and_go_in_the_view", async {
        let (_tap, _mirror, mut view) = start(&["192.0.2.10/24", "2001:db8::10/64"]).await;
        for at in ["192.0.2.77", "2001:db8::77"] {
            ip(&format!("neigh add {at} lladdr {PEER} dev {TAP}"));
            see(&mut view, "a neighbour", |v| has_neighbour(v, at, PEER)).await;
            ip(&format!("neigh replace {at} lladdr {MOVED} dev {TAP}"));
            see(&mut view, "its new MAC address", |v| {
                has_neighbour(v, at, MOVED)
            })
            .await;
            ip(&format!("neigh del {at} dev {TAP}"));
            see(&mut view, "that it is gone", |v| !knows(v, at)).await;
        }
        ip("link add other type veth peer name rehto");
        ip("link set other up");
        ip(&format!("neigh add 192.0.2.78 lladdr {PEER} dev other"));
        ip(&format!("neigh add 192.0.2.79 lladdr {PEER} dev {TAP}"));
        see(&mut view, "a neighbour", |v| {
            has_neighbour(v, "192.0.2.79", PEER)
        })
        .await;
        assert!(
            !knows(&view.borrow(), "192.0.2.78"),
            "other interfaces' are not ours"
        );
    });
}

#[test]
fn what_was_there_before_is_in_the_first_view() {
    isolated("what_was_there_before_is_in_the_first_view", async {
        let _tap = Tap::create(TAP, MAC, 1500).expect("a TAP");
        ip(&format!("addr add 192.0.2.10/24 dev {TAP}"));
        ip(&format!("neigh add 192.0.2.77 lladdr {PEER} dev {TAP}"));
        let mirror = Mirror::start(&[(PORT, TAP.to_owned())])
            .await
            .expect("a mirror");
        let view = mirror.view();
        assert!(has_neighbour(&view.borrow(), "192.0.2.77", PEER));
        assert!(route_to(&view.borrow(), "192.0.2.0/24").is_some());
    });
}

#[test]
fn a_flood_of_changes_is_made_up_for() {
    isolated("a_flood_of_changes_is_made_up_for", async {
        let (_tap, mirror, mut view) = start(&["10.0.0.1/8"]).await;
        const MANY: u32 = 20_000;
        let line = |n: u32| {
            let a: IpAddr = IpAddr::V4((0x0a01_0000 + n).into());
            format!("neigh add {a} lladdr {PEER} dev {TAP}\n")
        };
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), (0..MANY).map(line).collect::<String>()).expect("written");
        // The runtime stands still meanwhile, so nothing is read and the socket overruns.
        ip(&format!("-batch {}", file.path().display()));
        see(&mut view, "all of them", |v| {
            v.neighbours.len() == MANY as usize
        })
        .await;
        assert!(mirror.stats().overruns > 0, "{:?}", mirror.stats());
        ip(&format!("neigh del 10.1.0.0 dev {TAP}"));
        see(&mut view, "a change after it", |v| !knows(v, "10.1.0.0")).await;
    });
}

// Resolution.

#[test]
fn a_neighbour_that_is_asked_for_is_resolved_by_arp() {
    isolated("a_neighbour_that_is_asked_for_is_resolved_by_arp", async {
        let (tap, mirror, mut view) = start(&["192.0.2.10/24"]).await;
        for _ in 0..100 {
            assert!(mirror.resolve(PORT, addr("192.0.2.77")));
        }
        answer_arp(&tap).await;
        see(&mut view, "the neighbour", |v| {
            has_neighbour(v, "192.0.2.77", PEER)
        })
        .await;
        assert_eq!(mirror.stats().asks, 1, "a hundred calls make one request");

        // It moves, and says so: RFC 5227 §3.
        let news = arp(1, (MOVED, THERE), (Mac::default(), THERE));
        tap.try_send(&ethernet(Mac([0xff; 6]), MOVED, 0x0806, &news))
            .expect("taken");
        see(&mut view, "its new MAC address", |v| {
            has_neighbour(v, "192.0.2.77", MOVED)
        })
        .await;
    });
}

#[test]
fn a_neighbour_that_is_asked_for_is_resolved_by_neighbour_discovery() {
    isolated(
        "a_neighbour_that_is_asked_for_is_resolved_by_neighbour_discovery",
        async {
            let (tap, mirror, mut view) = start(&["2001:db8::10/64"]).await;
            assert!(mirror.resolve(PORT, addr("2001:db8::77")));
            let there: Ipv6Addr = "2001:db8::77".parse().expect("an address");
            let solicitation = frame(&tap, "neighbour solicitation", |f| {
                f[12..14] == [0x86, 0xdd]
                    && f[20] == 58
                    && f[54] == 135
                    && f[62..78] == there.octets()
            })
            .await;
            assert_eq!(solicitation[..6], [0x33, 0x33, 0xff, 0, 0, 0x77]);
            let from: [u8; 16] = solicitation[22..38].try_into().expect("16 bytes");
            let reply = advertisement(there, PEER, from.into());
            tap.try_send(&ethernet(MAC, PEER, 0x86dd, &reply))
                .expect("taken");
            see(&mut view, "the neighbour", |v| {
                has_neighbour(v, "2001:db8::77", PEER)
            })
            .await;
        },
    );
}

#[test]
fn a_neighbour_that_does_not_answer_never_appears() {
    isolated("a_neighbour_that_does_not_answer_never_appears", async {
        let (_tap, mirror, mut view) = start(&["192.0.2.10/24"]).await;
        assert!(mirror.resolve(PORT, addr("192.0.2.77")));
        ip(&format!("neigh add 192.0.2.78 lladdr {PEER} dev {TAP}"));
        see(&mut view, "another", |v| knows(v, "192.0.2.78")).await;
        assert!(!knows(&view.borrow(), "192.0.2.77"));
    });
}

#[test]
fn a_server_is_kept_fresh_until_it_is_none() {
    isolated("a_server_is_kept_fresh_until_it_is_none", async {
        let (tap, mirror, mut view) = start(&["192.0.2.10/24"]).await;
        let server = Targets {
            servers: vec![addr("192.0.2.77")],
            next_hops: vec![],
        };
        mirror.set_targets(server.clone()).await.expect("running");
        answer_arp(&tap).await;
        see(&mut view, "the server", |v| {
            has_neighbour(v, "192.0.2.77", PEER)
        })
        .await;
        if kernel() < (5, 16) {
            eprintln!("SKIPPED: the kernel does not keep neighbours before Linux 5.16");
            return;
        }
        assert!(ip("neigh show 192.0.2.77").contains("managed"));
        // A demand for it does not end that, nor does saying it again.
        assert!(mirror.resolve(PORT, addr("192.0.2.77")));
        mirror.set_targets(server).await.expect("running");
        mirror
            .set_addresses(vec![(PORT, prefix("192.0.2.10/24"))])
            .await
            .expect("running");
        assert!(ip("neigh show 192.0.2.77").contains("managed"));

        mirror
            .set_targets(Targets::default())
            .await
            .expect("running");
        mirror
            .set_addresses(vec![(PORT, prefix("192.0.2.10/24"))])
            .await
            .expect("running");
        assert!(!ip("neigh show 192.0.2.77").contains("managed"));
        assert!(
            has_neighbour(&view.borrow(), "192.0.2.77", PEER),
            "connections may still drain"
        );
    });
}

#[test]
fn the_router_before_a_remote_server_is_resolved() {
    isolated("the_router_before_a_remote_server_is_resolved", async {
        let (tap, mirror, mut view) = start(&["192.0.2.10/24"]).await;
        let remote = Targets {
            servers: vec![addr("10.0.0.5")],
            next_hops: vec![],
        };
        mirror.set_targets(remote).await.expect("running");
        ip("route add 10.0.0.0/8 via 192.0.2.77");
        answer_arp(&tap).await;
        see(&mut view, "the router", |v| {
            has_neighbour(v, "192.0.2.77", PEER)
        })
        .await;
    });
}

#[test]
fn a_neighbour_set_by_hand_stays_as_it_is() {
    isolated("a_neighbour_set_by_hand_stays_as_it_is", async {
        let (_tap, mirror, mut view) = start(&["192.0.2.10/24"]).await;
        ip(&format!(
            "neigh add 192.0.2.77 lladdr {PEER} dev {TAP} nud permanent"
        ));
        see(&mut view, "the neighbour", |v| knows(v, "192.0.2.77")).await;
        let server = Targets {
            servers: vec![addr("192.0.2.77")],
            next_hops: vec![],
        };
        mirror.set_targets(server).await.expect("running");
        assert!(mirror.resolve(PORT, addr("192.0.2.77")));
        mirror
            .set_addresses(vec![(PORT, prefix("192.0.2.10/24"))])
            .await
            .expect("running");
        assert!(ip("neigh show 192.0.2.77").contains("PERMANENT"));
        assert_eq!(mirror.stats().asks, 0);
    });
}
