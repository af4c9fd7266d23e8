//! Sessions through `replay`: what is listed and reported, at the right virtual moment, and whole captures of SIP,
//! fragments and floods. Captures of the shared test data are skipped, loudly, where they are not there; small ones made
//! here always run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use polder::cli::replay::{Clock, Finished, Options, Report, replay};
use polder::config;
use polder::forward::{PortId, Setup};
use polder::net::build::{Frame, fragment};
use polder::net::pcap::{Reader, Writer};
use polder::net::{Family, Ip, L3, Tick, parse};
use polder::persist::{Engine, Scratch};
use polder::worker::assemble::Sizes;
use polder::worker::lockstep::Lockstep;
use polder::worker::reassembly::{DATAGRAMS_MAX, FRAMES_MAX};

const SECOND: u64 = 1_000_000_000;
const EPOCH: u64 = 1_700_000_000 * SECOND;

/// Clients behind a router on the first port, three servers of each family on the second.
const NETWORK: &str = r#"
ports:
  - {name: wan0, device: net_null0, addresses: [192.0.2.10/24, "2001:db8:1::10/64"]}
  - {name: lan0, device: net_null1, addresses: [203.0.113.1/24, "2001:db8:2::1/64"]}
neighbours:
  - {port: wan0, address: 192.0.2.1, mac: "02:00:00:00:00:01"}
  - {port: wan0, address: "2001:db8:1::1", mac: "02:00:00:00:00:01"}
  - {port: lan0, address: 203.0.113.11, mac: "02:00:00:00:01:11"}
  - {port: lan0, address: 203.0.113.12, mac: "02:00:00:00:01:12"}
  - {port: lan0, address: 203.0.113.13, mac: "02:00:00:00:01:13"}
  - {port: lan0, address: "2001:db8:2::11", mac: "02:00:00:00:01:11"}
  - {port: lan0, address: "2001:db8:2::12", mac: "02:00:00:00:01:12"}
  - {port: lan0, address: "2001:db8:2::13", mac: "02:00:00:00:01:13"}
routes:
  - {to: 0.0.0.0/0, via: 192.0.2.1, port: wan0}
  - {to: "::/0", via: "2001:db8:1::1", port: wan0}
services:
"#;

/// A service in YAML. Servers listen on `port`, so that what leaves tells the service.
fn service(n: usize, proto: &str, to: SocketAddr, more: &str, port: u16) -> String {
    let net = if to.is_ipv4() {
        "203.0.113."
    } else {
        "2001:db8:2::"
    };
    let servers: String = (11..=13)
        .map(|host| format!("      - {{address: \"{net}{host}\", port: {port}}}\n"))
        .collect();
    format!(
        "  - name: s{n}\n    protocol: {proto}\n    address: \"{}\"\n    port: {}\n    scheduler: rr\n{more}    servers:\n{servers}",
        to.ip(),
        to.port()
    )
}

fn sip(to: SocketAddr, timeout: &str, mask: &str) -> String {
    let mask = if to.is_ipv4() { mask } else { "0" };
    format!(
        "    one_packet: true\n    persistence: {{timeout: {timeout}, netmask: {mask}, engine: sip}}\n"
    )
}

fn setup(services: &str) -> Setup {
    let network = NETWORK.trim_end().trim_end_matches("services:");
    let text = match services {
        "" => network.to_owned(),
        _ => format!("{NETWORK}{services}"),
    };
    match config::load_str("test", &text) {
        Ok(loaded) => loaded.lowered.setup,
        Err(problems) => panic!("{problems:?}\n{text}"),
    }
}

/// What a replay left behind.
struct Done {
    finished: Finished,
    listing: Vec<String>,
    out: Vec<Vec<u8>>,
}

impl Done {
    fn report(&self) -> &Report {
        &self.finished.report
    }

    /// Lines about templates: those of the client port 0.
    fn templates(&self) -> Vec<&String> {
        let is_template = |l: &&String| {
            l.split_whitespace()
                .nth(3)
                .is_some_and(|c| c.ends_with(":0"))
        };
        self.listing.iter().filter(is_template).collect()
    }
}

fn run(setup: &Setup, capture: &Path, workers: usize, settle: Duration) -> Result<Done, String> {
    let dir = tempfile::tempdir().expect("a folder");
    let (out, listing) = (dir.path().join("out.pcap"), dir.path().join("conns"));
    let options = Options {
        inputs: vec![("wan0".into(), capture.to_owned())],
        outputs: vec![("lan0".into(), out.clone())],
        clock: Clock::Capture,
        repeat: 1,
        settle,
        workers,
        sizes: SIZES,
        connections: Some(listing.clone()),
    };
    let finished = replay(setup, &options).map_err(|e| e.to_string())?;
    let text = std::fs::read_to_string(listing).expect("a listing");
    Ok(Done {
        finished,
        listing: text.lines().map(str::to_owned).collect(),
        out: frames(&out),
    })
}

const SIZES: Sizes = Sizes {
    connections: 4096,
    templates: 2048,
    services: 64,
    servers: 256,
    seed: 1,
};

/// All frames of a capture that can be read.
fn frames(path: &Path) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    if let Ok(file) = File::open(path)
        && let Ok(mut reader) = Reader::open_ethernet(file)
    {
        let mut frame = Vec::new();
        while let Ok(Some(_)) = reader.next(&mut frame) {
            out.push(frame.clone());
        }
    }
    out
}

/// A capture of frames at moments in milliseconds.
struct Capture {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn capture(frames: &[(u64, Vec<u8>)]) -> Capture {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("in.pcap");
    let mut writer = Writer::new(File::create(&path).expect("a file"), true).expect("a header");
    for (ms, frame) in frames {
        writer
            .write(EPOCH + ms * 1_000_000, frame)
            .expect("a frame");
    }
    writer.flush().expect("written");
    Capture { _dir: dir, path }
}

fn at(s: &str) -> SocketAddr {
    s.parse().expect("address and port")
}

fn udp(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    Frame::new().udp(at(from), at(to), payload)
}

fn invite(call: &str) -> Vec<u8> {
    format!("INVITE sip:a@b SIP/2.0\r\nVia: x\r\nCall-ID: {call}\r\nCSeq: 1 INVITE\r\n\r\n")
        .into_bytes()
}

#[test]
fn a_one_packet_sip_session_is_listed_as_ipvsadm_lists_it() {
    let to = at("10.4.3.192:5060");
    let setup = setup(&service(
        0,
        "udp",
        to,
        &sip(to, "60s", "255.255.255.0"),
        5060,
    ));
    let frame = udp("10.4.3.7:5060", "10.4.3.192:5060", &invite("193373839"));
    let input = capture(&[(0, frame)]);
    let done = run(&setup, &input.path, 1, Duration::from_millis(21_500)).expect("replays");
    assert_eq!(
        done.listing,
        [
            "IPVS connection entries",
            "pro expire state       source             virtual            destination        pe name          pe_data",
            "UDP 00:38  NONE        10.4.3.0:0         10.4.3.192:5060    203.0.113.13:5060 sip                193373839",
        ]
    );
    let service = &done.report().services[0];
    assert_eq!(
        (
            service.templates,
            service.template_misses,
            service.template_hits
        ),
        (1, 1, 0)
    );
    let persistent: Vec<_> = service.servers.iter().map(|s| s.persistent).collect();
    assert_eq!(persistent, [0, 0, 1], "rr begins with the newest");
    assert_eq!(
        done.report().connections,
        0,
        "one packet leaves no connection"
    );
}

#[test]
fn templates_without_data_and_those_of_any_port_are_listed_too() {
    let to = at("198.51.100.5:53");
    let keep = "    persistence: {timeout: 5m}\n";
    let any = service(1, "udp", at("198.51.100.6:0"), keep, 0).replace(", port: 0}", "}");
    let setup = setup(&(service(0, "udp", to, keep, 53) + &any));
    let input = capture(&[
        (0, udp("192.0.2.77:4000", "198.51.100.5:53", b"x")),
        (0, udp("192.0.2.77:4001", "198.51.100.6:99", b"x")),
    ]);
    let done = run(&setup, &input.path, 1, Duration::from_secs(1)).expect("replays");
    assert_eq!(
        done.templates(),
        [
            "UDP 04:59  NONE        192.0.2.77:0       198.51.100.5:53    203.0.113.13:53",
            "UDP 04:59  NONE        192.0.2.77:0       198.51.100.6:0     203.0.113.13:0",
        ]
    );
    let rows: Vec<_> = done.listing.iter().filter(|l| l.contains(":400")).collect();
    assert_eq!(rows.len(), 2, "{:?}", done.listing);
    assert!(rows[1].contains("203.0.113.13:99"), "{}", rows[1]);
}

/// Specification §14.4: the first connection at 0 s, the second at 200 s, which has packets until 990 s, a third at 700 s.
/// Service timeout and UDP timeout are 300 s.
fn timeline(until: u64) -> (Capture, Duration) {
    let packet = |port: u16| udp(&format!("192.0.2.77:{port}"), "198.51.100.5:53", b"x");
    let mut frames = vec![(0, packet(1)), (700_000, packet(3))];
    let second = (200..1000).step_by(100).map(|s| (s * 1000, packet(2)));
    frames.extend(second);
    frames.push((990_000, packet(2)));
    frames.sort_by_key(|f| f.0);
    frames.retain(|(ms, _)| *ms <= until);
    let last = frames.last().expect("a frame").0;
    (capture(&frames), Duration::from_millis(until - last))
}

#[test]
fn a_template_s_timer_fires_at_the_moments_of_the_specification() {
    let keep = "    persistence: {timeout: 5m}\n";
    let setup = setup(&service(0, "udp", at("198.51.100.5:53"), keep, 53));
    // The moment in milliseconds, and what the template then has left.
    let expected = [
        (100_000, Some("03:20")),
        (250_000, Some("04:10")),
        (499_500, Some("00:00")),
        (500_500, Some("00:59")),
        (559_500, Some("00:00")),
        (565_000, Some("00:55")),
        (690_000, Some("00:50")),
        (701_000, Some("00:59")),
        (765_000, Some("00:55")),
        // The second connection ends at 1290 s, the third at 1000 s; the firing at 1300 s finds none.
        (1_200_000, Some("00:40")),
        (1_295_000, Some("00:05")),
        (1_300_500, None),
        (10_000_000, None),
    ];
    for workers in [1, 3] {
        for (moment, left) in expected {
            let (input, settle) = timeline(moment);
            let done = run(&setup, &input.path, workers, settle).expect("replays");
            let rows = done.templates();
            let shown = rows
                .first()
                .map(|l| l.split_whitespace().nth(1).unwrap_or(""));
            assert_eq!(
                shown, left,
                "at {moment} ms with {workers} workers: {:?}",
                done.listing
            );
            let service = &done.report().services[0];
            let there = u64::from(left.is_some());
            assert_eq!(service.templates, there, "at {moment} ms");
            let persistent: u32 = service.servers.iter().map(|s| s.persistent).sum();
            assert_eq!(u64::from(persistent), there, "at {moment} ms");
        }
    }
}

#[test]
fn packets_without_a_key_are_reported_by_reason() {
    let to = at("198.51.100.5:5060");
    let setup = setup(&service(0, "udp", to, &sip(to, "60s", "0.0.0.0"), 5060));
    let input = capture(&[
        (0, udp("192.0.2.77:4000", "198.51.100.5:5060", b"")),
        (1, udp("192.0.2.77:4000", "198.51.100.5:5060", b"\r\n\r\n")),
        (2, udp("192.0.2.77:4000", "198.51.100.5:5060", &invite("a"))),
        (3, udp("192.0.2.77:4000", "198.51.100.5:5060", &invite("a"))),
    ]);
    let done = run(&setup, &input.path, 2, Duration::ZERO).expect("replays");
    let service = &done.report().services[0];
    let failures = serde_json::Value::from(service.payload_key_failures.clone());
    assert_eq!(
        failures,
        serde_json::json!({"short": 1, "missing": 1, "long": 0})
    );
    // One for the clients without a key, one for the call.
    assert_eq!(
        (
            service.template_misses,
            service.template_hits,
            service.templates
        ),
        (2, 2, 2)
    );
    let text = done.report().to_string();
    assert!(
        text.contains("templates: 2 at the end, 2 made, 2 times used again"),
        "{text}"
    );
    assert!(text.contains("packets without a key, missing: 1"), "{text}");
}

#[test]
fn what_waits_for_its_other_fragments_is_held_until_its_time_is_over() {
    let to = at("198.51.100.5:5060");
    let setup = setup(&service(0, "udp", to, &sip(to, "60s", "0.0.0.0"), 5060));
    let whole = udp("192.0.2.77:4000", "198.51.100.5:5060", &[b'x'; 3000]);
    let pieces = fragment(&whole, 1500);
    let input = capture(&[(0, pieces[0].clone()), (1, pieces[2].clone())]);
    for workers in [1, 2] {
        let held = run(&setup, &input.path, workers, Duration::from_secs(29)).expect("replays");
        assert_eq!(held.report().held, 2);
        assert!(held.report().identity_ok);
        let over = run(&setup, &input.path, workers, Duration::from_secs(31)).expect("replays");
        assert_eq!(over.report().held, 0);
        assert_eq!(over.report().dropped["fragment_timeout"], 2);
    }
}

/// Which servers got which calls: by the service's port at the servers and the Call-ID.
type Homes = BTreeMap<(u16, Vec<u8>), BTreeSet<IpAddr>>;

/// Source, destination and payload of a UDP datagram, or of the first fragment of one.
fn datagram(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    fn parts<'a, F: Family>(
        frame: &'a [u8],
        ip: &Ip<F>,
    ) -> Option<(SocketAddr, SocketAddr, &'a [u8])> {
        if ip.flow.proto != 17 || !ip.l4_whole {
            return None;
        }
        let payload = frame.get(usize::from(ip.l4) + 8..usize::from(ip.end))?;
        let src = SocketAddr::new(ip.flow.src.into(), ip.flow.src_port);
        Some((
            src,
            SocketAddr::new(ip.flow.dst.into(), ip.flow.dst_port),
            payload,
        ))
    }
    match parse(frame).ok()?.l3 {
        L3::V4(ip) => parts(frame, &ip),
        L3::V6(ip) => parts(frame, &ip),
        L3::Other(_) => None,
    }
}

fn call_of(payload: &[u8]) -> Option<Vec<u8>> {
    let mut scratch = Scratch::new();
    Engine::Sip
        .key(payload, &mut scratch)
        .ok()
        .map(<[u8]>::to_vec)
}

fn homes(frames: &[Vec<u8>]) -> Homes {
    let mut homes = Homes::new();
    for (_, dst, payload) in frames.iter().filter_map(|f| datagram(f)) {
        if let Some(call) = call_of(payload) {
            homes
                .entry((dst.port(), call))
                .or_default()
                .insert(dst.ip());
        }
    }
    homes
}

/// The port that the servers of the service number `n` listen on.
fn server_port(n: usize) -> u16 {
    20_000 + u16::try_from(n).expect("few services")
}

/// A SIP service for every destination of SIP messages in a capture, and the calls that each is sent, by server port.
fn sip_services(input: &[Vec<u8>]) -> (String, BTreeSet<(u16, Vec<u8>)>) {
    let mut text = String::new();
    let mut ports: BTreeMap<SocketAddr, Option<u16>> = BTreeMap::new();
    let mut calls = BTreeSet::new();
    // What was sent to a group of hosts is no router's.
    let to_one = input.iter().filter(|f| f[0] & 1 == 0);
    for (_, dst, payload) in to_one.filter_map(|f| datagram(f)) {
        let Some(call) = call_of(payload) else {
            continue;
        };
        let n = ports.values().flatten().count();
        let port = ports.entry(dst).or_insert_with(|| {
            let one = service(n, "udp", dst, &sip(dst, "1h", "0.0.0.0"), server_port(n));
            // Multicast and broadcast can't be virtual addresses.
            let fits = n < 60 && config::load_str("one", &format!("{NETWORK}{one}")).is_ok();
            fits.then(|| {
                text.push_str(&one);
                server_port(n)
            })
        });
        if let Some(port) = port {
            calls.insert((*port, call));
        }
    }
    (text, calls)
}

/// The Ethernet frames of a capture that was taken "cooked", without them (link type 113).
fn uncooked(path: &Path) -> Option<Capture> {
    const COOKED: u32 = 113;
    let mut reader = Reader::open(File::open(path).ok()?).ok()?;
    let (mut frame, mut out) = (Vec::new(), Vec::new());
    while let Ok(Some(record)) = reader.next(&mut frame) {
        if record.link_type != COOKED || frame.len() < 16 {
            return None;
        }
        let mut whole = vec![2, 0, 0, 0, 0, 0x10, 2, 0, 0, 0, 0, 1];
        whole.extend(&frame[14..]);
        out.push((record.ts_ns / 1_000_000, whole));
    }
    let began = out.first()?.0;
    out.iter_mut()
        .for_each(|(ms, _)| *ms = ms.saturating_sub(began));
    Some(capture(&out))
}

/// Replays a capture with SIP services on its own destinations; the number of calls that were followed.
fn every_call_has_one_home(path: &Path) -> usize {
    let uncooked = uncooked(path);
    let path = uncooked.as_ref().map_or(path, |c| &c.path);
    let input = frames(path);
    let (services, calls) = sip_services(&input);
    if services.is_empty() {
        return 0;
    }
    let setup = setup(&services);
    let mut first: Option<Homes> = None;
    for workers in [1, 2, 4] {
        let done = run(&setup, path, workers, Duration::from_secs(90)).expect("replays");
        let name = path.display();
        assert!(done.report().identity_ok, "{name}: {:?}", done.report());
        let homes = homes(&done.out);
        for ((port, call), servers) in &homes {
            let call = String::from_utf8_lossy(call);
            assert_eq!(
                servers.len(),
                1,
                "{name}: {call} of service {port} is on {servers:?}"
            );
        }
        let followed: BTreeSet<_> = homes.keys().cloned().collect();
        assert_eq!(followed, calls, "{name}: every call is forwarded");
        match &first {
            None => first = Some(homes),
            Some(first) => assert_eq!(*first, homes, "{name}: with {workers} workers"),
        }
    }
    calls.len()
}

#[test]
fn many_calls_on_one_5_tuple_are_spread_and_each_stays() {
    let mut frames = Vec::new();
    for round in 0..4 {
        for n in 0..60 {
            let frame = udp(
                "192.0.2.77:5060",
                "198.51.100.5:5060",
                &invite(&format!("{n}@pbx")),
            );
            frames.push((round * 1000 + n, frame));
        }
    }
    // A message that comes in fragments belongs to its call as well.
    let mut long = invite("7@pbx");
    long.extend([b'x'; 3000]);
    let whole = udp("192.0.2.77:5060", "198.51.100.5:5060", &long);
    frames.extend(fragment(&whole, 1500).into_iter().rev().map(|f| (5000, f)));
    let input = capture(&frames);
    assert_eq!(every_call_has_one_home(&input.path), 60);
    let setup = setup(&sip_services(&self::frames(&input.path)).0);
    let done = run(&setup, &input.path, 1, Duration::ZERO).expect("replays");
    let spread: Vec<_> = done.report().services[0]
        .servers
        .iter()
        .map(|s| s.persistent)
        .collect();
    assert_eq!(spread, [20, 20, 20]);
    assert_eq!(done.out.len(), frames.len());
}

fn shared(dir: &str) -> Option<Vec<PathBuf>> {
    let root = std::env::var_os("POLDER_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let dir = root.join("data/pcap").join(dir);
    let Ok(entries) = std::fs::read_dir(&dir) else {
        eprintln!("SKIPPED: no shared test data at {}", dir.display());
        return None;
    };
    let mut files: Vec<_> = entries
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e != "csv"))
        .collect();
    files.sort();
    Some(files)
}

#[test]
fn every_call_of_the_shared_sip_captures_stays_on_one_server_whatever_the_number_of_workers() {
    let Some(files) = shared("sip") else { return };
    let calls: Vec<_> = files
        .iter()
        .map(|f| {
            (
                every_call_has_one_home(f),
                f.file_name().unwrap_or_default(),
            )
        })
        .collect();
    let all: usize = calls.iter().map(|(n, _)| n).sum();
    eprintln!("{} captures, {all} calls: {calls:?}", files.len());
    assert!(all >= 30, "{calls:?}");
}

/// The busiest UDP and TCP destinations of a capture, fragments included.
fn destinations(input: &[Vec<u8>]) -> Vec<(u8, SocketAddr)> {
    let mut counts: BTreeMap<(u8, SocketAddr), usize> = BTreeMap::new();
    for frame in input {
        let (proto, dst, port) = match parse(frame).map(|p| p.l3) {
            Ok(L3::V4(p)) => (p.flow.proto, IpAddr::from(p.flow.dst), p.flow.dst_port),
            Ok(L3::V6(p)) => (p.flow.proto, IpAddr::from(p.flow.dst), p.flow.dst_port),
            _ => continue,
        };
        // A later fragment has no port, but its address must be some service's for anybody to collect it.
        let port = if port == 0 { 9 } else { port };
        if matches!(proto, 6 | 17) {
            *counts
                .entry((proto, SocketAddr::new(dst, port)))
                .or_default() += 1;
        }
    }
    let mut all: Vec<_> = counts.into_iter().collect();
    all.sort_by_key(|(key, n)| (std::cmp::Reverse(*n), *key));
    all.into_iter().map(|(key, _)| key).take(20).collect()
}

/// Services of every kind that keeps sessions, for the destinations of a capture.
fn session_services(input: &[Vec<u8>]) -> String {
    let udp = [
        "    persistence: {timeout: 5m}\n",
        "    one_packet: true\n    persistence: {timeout: 5m, engine: payload, offset: 0, length: 4}\n",
        "    scheduler: offh\n    payload_key: {offset: 1, length: 8}\n",
        "    payload_key: {type: quic, configs: [{codepoint: 0, server_id_length: 2, nonce_length: 6}]}\n",
    ];
    let mut text = String::new();
    for (proto, to) in destinations(input) {
        let n = text.matches("  - name:").count();
        let more = if proto == 6 {
            udp[0]
        } else {
            udp[n % udp.len()]
        };
        let name = if proto == 6 { "tcp" } else { "udp" };
        let mut one = service(n, name, to, more, server_port(n));
        if more.contains("scheduler") {
            one = one.replace("    scheduler: rr\n", "");
        }
        if more.contains("quic") {
            for host in 11..=13 {
                let id = format!(
                    "{host}, port: {0}, quic_server_id: \"{host:04}\"}}",
                    server_port(n)
                );
                let bare = format!("{host}, port: {0}}}", server_port(n));
                let quoted = format!("{host}\", port: {0}}}", server_port(n));
                one = one
                    .replace(&bare, &id)
                    .replace(&quoted, &id.replacen(',', "\",", 1));
            }
        }
        // Multicast and broadcast addresses can't be virtual ones, nor can the test network's own.
        if config::load_str("one", &format!("{NETWORK}{one}")).is_ok() {
            text.push_str(&one);
        }
    }
    text
}

/// Replays frame by frame; every received frame has met one fate or waits, and what waits for other fragments is within
/// the bounds of a worker's store. The most that waited.
fn bounded(name: &str, setup: &Setup, path: &Path, workers: usize) -> u64 {
    let mut bed = Lockstep::new(setup, workers, &SIZES).expect("starts");
    let Ok(mut reader) = Reader::open_ethernet(File::open(path).expect("a file")) else {
        return 0;
    };
    let (mut frame, mut first, mut now, mut most) = (Vec::new(), None, Tick(0), 0);
    while let Ok(Some(record)) = reader.next(&mut frame) {
        let since = record
            .ts_ns
            .saturating_sub(*first.get_or_insert(record.ts_ns));
        let at = Tick::from_elapsed(Duration::from_nanos(since));
        now = if at.reached(now) { at } else { now };
        bed.frame(PortId(0), &frame, now);
        bed.transmitted(|_, _| {});
        let held: u64 = bed.counters().map(|c| c.held.get()).sum();
        assert!(
            held <= (workers * FRAMES_MAX) as u64,
            "{name}: {held} frames are held"
        );
        most = most.max(held);
    }
    bed.advance(now.plus(61 * Tick::PER_SECOND));
    bed.finish();
    bed.transmitted(|_, _| {});
    assert_eq!(bed.buffers_in_use(), 0, "{name}: a buffer is lost");
    let sum = |f: fn(&polder::table::WorkerCounters) -> u64| bed.counters().map(f).sum::<u64>();
    assert_eq!(
        sum(|c| c.held.get()),
        0,
        "{name}: all fragments' time is over"
    );
    let fates = sum(|c| c.transmitted.get()) + sum(|c| c.punted.get()) + sum(|c| c.dropped());
    assert_eq!(sum(|c| c.received.get()), fates, "{name}");
    most
}

#[test]
fn fragments_quic_and_floods_are_accounted_for_within_bounds() {
    let (mut report, mut all) = (Vec::new(), String::new());
    for kind in ["frag4", "frag6", "quic", "flood"] {
        let Some(files) = shared(kind) else { return };
        let mut most = 0;
        for path in &files {
            let services = session_services(&frames(path));
            let setup = setup(&services);
            all.push_str(&services);
            let name = path.display().to_string();
            for workers in [1, 2, 4] {
                most = most.max(bounded(&name, &setup, path, workers));
            }
        }
        report.push(format!(
            "{kind}: {} captures, at most {most} frames held",
            files.len()
        ));
    }
    for kind in [
        "persistence: {timeout: 5m}",
        "engine: payload",
        "offh",
        "quic",
    ] {
        assert!(all.contains(kind), "no capture met `{kind}`");
    }
    eprintln!(
        "{report:?}; a worker holds {FRAMES_MAX} frames of {DATAGRAMS_MAX} datagrams at most"
    );
}

#[test]
fn a_flood_of_first_fragments_is_held_up_to_the_bound_and_no_further() {
    let to = at("198.51.100.5:5060");
    let setup = setup(&service(0, "udp", to, &sip(to, "60s", "0.0.0.0"), 5060));
    let mut input = Vec::new();
    for n in 0..5000u16 {
        let from = format!("192.0.2.{}:5060", 2 + n % 200);
        let whole = Frame::new().id(n).udp(at(&from), to, &[b'x'; 1600]);
        input.push((u64::from(n) / 100, fragment(&whole, 1500).swap_remove(0)));
    }
    let input = capture(&input);
    for workers in [1, 2] {
        let most = bounded("flood", &setup, &input.path, workers);
        assert_eq!(most, (workers * DATAGRAMS_MAX) as u64, "{workers} workers");
    }
}

#[test]
fn a_file_that_is_read_is_never_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("in.pcap");
    std::fs::write(&path, b"kept").expect("written");
    let setup = setup(&service(0, "udp", at("192.0.2.80:5060"), "", 5060));
    let named = |file: &str| vec![("wan0".to_owned(), dir.path().join(file))];
    for (input, output) in [("in.pcap", "in.pcap"), ("missing.pcap", "in.pcap")] {
        let options = Options {
            inputs: named(input),
            outputs: named(output),
            clock: Clock::Capture,
            repeat: 1,
            settle: Duration::ZERO,
            workers: 1,
            sizes: SIZES,
            connections: None,
        };
        assert!(replay(&setup, &options).is_err());
        assert_eq!(std::fs::read(&path).expect("there"), b"kept");
    }
}
