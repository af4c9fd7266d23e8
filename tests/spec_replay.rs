//! The specification's worked examples (§6, §14) through the command `polder replay`, packet for packet: a capture with
//! timestamps and a configuration are written, and what the command leaves behind is compared with the specification:
//! the capture of what was sent, the report, and the listing of connections.
//!
//! The timeline of a template (§14.4) is in `tests/replay.rs`. What is edited at run time, which a replay has no words
//! for, is in `tests/spec_examples.rs`; the messages of §14.1, §14.2 and §14.5 are in the tests of state sync.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use polder::net::build::{Frame, verify};
use polder::net::packet::tcp_flags::{ACK, RST, SYN};
use polder::net::pcap::{Reader, Writer};
use polder::net::{L3, parse};
use serde_json::Value;

/// Nanoseconds since 1970 of the captures' beginning.
const EPOCH: u64 = 1_700_000_000_000_000_000;

const VIP: &str = "198.51.100.80:80";

/// A service and its servers in the kernel's list order, which is the reverse of the order in which they are added.
/// The server added first is 192.168.0.1, the next one 192.168.0.2, and so on; all listen on port 80. Letters name
/// places in the list: A is the newest server.
#[derive(Clone)]
struct Example {
    scheduler: &'static str,
    flags: &'static str,
    /// Weight, upper and lower threshold.
    servers: Vec<[u32; 3]>,
    /// Further keys of the service.
    more: &'static str,
    /// The virtual addresses of a service that is of a mark, in place of [`VIP`].
    marked: Vec<&'static str>,
}

impl Example {
    /// Servers by weight and upper threshold.
    fn new(scheduler: &'static str, servers: &[(u32, u32)]) -> Self {
        Self {
            scheduler,
            flags: "",
            servers: servers.iter().map(|&(w, upper)| [w, upper, 0]).collect(),
            more: "",
            marked: Vec::new(),
        }
    }

    fn flags(self, flags: &'static str) -> Self {
        Self { flags, ..self }
    }

    fn yaml(&self) -> String {
        let mut text = String::from(
            "limits: {connections: 16k, templates: 1k}\n\
             ports:\n  \
             - {name: wan0, device: net_null0, addresses: [192.0.2.10/24]}\n  \
             - {name: lan0, device: net_null1, addresses: [192.168.0.254/24]}\n\
             routes:\n  - {to: 0.0.0.0/0, via: 192.0.2.1, port: wan0}\n\
             neighbours:\n  - {port: wan0, address: 192.0.2.1, mac: \"02:00:00:00:00:01\"}\n",
        );
        let mut servers = String::new();
        for (n, [weight, upper, lower]) in (1..).zip(self.servers.iter().rev()) {
            let mac = format!("02:00:00:00:01:{n:02x}");
            let _ = writeln!(
                text,
                "  - {{port: lan0, address: 192.168.0.{n}, mac: \"{mac}\"}}"
            );
            let _ = writeln!(
                servers,
                "      - {{address: 192.168.0.{n}, port: 80, weight: {weight}, upper_threshold: {upper}, \
                 lower_threshold: {lower}}}"
            );
        }
        let kind = if self.marked.is_empty() {
            "protocol: tcp\n    address: 198.51.100.80\n    port: 80"
        } else {
            text += "marks:\n";
            for vip in &self.marked {
                let _ = writeln!(text, "  - {{mark: 1, to: {vip}/32, protocol: tcp}}");
            }
            "mark: 1"
        };
        let (scheduler, flags, more) = (self.scheduler, self.flags, self.more);
        let _ = write!(
            text,
            "services:\n  - name: example\n    {kind}\n    scheduler: {scheduler}\n    \
             scheduler_flags: [{flags}]\n{more}    servers:\n{servers}"
        );
        text
    }

    /// The letter of the server with this address.
    fn letter(&self, addr: IpAddr) -> char {
        let IpAddr::V4(addr) = addr else {
            panic!("{addr} is no server's");
        };
        let place = self.servers.len() - usize::from(addr.octets()[3]);
        char::from(b'A' + u8::try_from(place).expect("few servers"))
    }
}

/// A packet from a client.
#[derive(Clone, Debug)]
struct Packet {
    ms: u64,
    client: SocketAddr,
    vip: SocketAddr,
    flags: u8,
}

fn at(s: &str) -> SocketAddr {
    s.parse().expect("address and port")
}

fn packet(ms: u64, client: &str, flags: u8) -> Packet {
    Packet {
        ms,
        client: at(client),
        vip: at(VIP),
        flags,
    }
}

/// So many new connections of one client, one in each millisecond from `ms` on, with ports from `port` on.
fn syns(ms: u64, port: u16, n: u16) -> Vec<Packet> {
    let syn = |i| packet(ms + u64::from(i), &format!("203.0.113.9:{}", port + i), SYN);
    (0..n).map(syn).collect()
}

/// The client's end of a connection: a half-open one would not be ended by a reset (§7.1), so it is established before.
fn end(ms: u64, client: &str) -> [Packet; 2] {
    [ACK, RST].map(|flags| packet(ms, client, flags))
}

/// What `polder replay` left behind.
struct Outcome {
    /// The server of each packet of the input by its letter; `-` where nothing was sent.
    went: String,
    report: Value,
    listing: String,
}

impl Outcome {
    fn service(&self) -> &Value {
        &self.report["services"][0]
    }

    /// A number of each server's report, in the list's order.
    fn servers(&self, field: &str) -> Vec<u64> {
        let servers = self.service()["servers"].as_array().expect("servers");
        let number = |s: &Value| s[field].as_u64().expect("a number");
        servers.iter().rev().map(number).collect()
    }

    /// The only server's connections and overload flag.
    fn total_and_flag(&self) -> (u64, bool) {
        let overloaded = &self.service()["servers"][0]["overloaded"];
        (
            self.servers("active")[0] + self.servers("inactive")[0],
            overloaded.as_bool().expect("a flag"),
        )
    }
}

fn polder(dir: &Path, settle: &str) {
    let file = |name: &str| dir.join(name).display().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_polder"))
        .args(["replay", "-c", &file("example.yaml"), "--settle", settle])
        .args(["--in", &format!("wan0={}", file("wan0.pcap"))])
        .args(["--in", &format!("lan0={}", file("lan0.pcap"))])
        .args(["--out", &format!("lan0={}", file("out.pcap"))])
        .args(["--connections", &file("connections")])
        .args(["--report", &format!("json={}", file("report.json"))])
        .output()
        .expect("polder starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn capture(path: &Path, frames: &[(u64, Vec<u8>)]) {
    let mut writer = Writer::new(File::create(path).expect("a file"), true).expect("a header");
    for (ms, frame) in frames {
        writer
            .write(EPOCH + ms * 1_000_000, frame)
            .expect("a frame");
    }
    writer.flush().expect("written");
}

/// Sequence number, destination and source of the segments in a capture. All of them have right checksums.
fn segments(path: &Path) -> Vec<(u32, IpAddr, SocketAddr)> {
    let mut reader = Reader::open_ethernet(File::open(path).expect("there")).expect("a capture");
    let (mut frame, mut out) = (Vec::new(), Vec::new());
    while reader.next(&mut frame).expect("whole").is_some() {
        assert_eq!(verify(&frame), Ok(()));
        let L3::V4(ip) = parse(&frame).expect("a packet").l3 else {
            panic!("not IPv4");
        };
        let l4 = usize::from(ip.l4);
        let seq = frame[l4 + 4..l4 + 8].try_into().expect("four bytes");
        let source = SocketAddr::new(ip.flow.src.into(), ip.flow.src_port);
        out.push((u32::from_be_bytes(seq), ip.flow.dst.into(), source));
    }
    out
}

/// Replays, and checks that what was sent is what came, in the same order, and that the report says the same.
fn replay(example: &Example, packets: &[Packet], settle: &str) -> Outcome {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    std::fs::write(dir.join("example.yaml"), example.yaml()).expect("written");
    // The sequence number tells which packet of the input one of the output was.
    let frames: Vec<_> = (0u32..)
        .zip(packets)
        .map(|(n, p)| (p.ms, Frame::new().tcp(p.client, p.vip, p.flags, n, b"")))
        .collect();
    capture(&dir.join("wan0.pcap"), &frames);
    capture(&dir.join("lan0.pcap"), &[]);
    polder(dir, settle);
    let mut went = vec!['-'; packets.len()];
    let mut before = None;
    for (n, server, source) in segments(&dir.join("out.pcap")) {
        assert!(Some(n) > before, "the order in which they came");
        before = Some(n);
        assert_eq!(source, packets[n as usize].client);
        went[n as usize] = example.letter(server);
    }
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).expect("written");
    let outcome = Outcome {
        went: went.iter().collect(),
        report: serde_json::from_str(&read("report.json")).expect("JSON"),
        listing: read("connections"),
    };
    counts_agree(example, packets, &outcome);
    outcome
}

/// The report counts what the capture shows.
fn counts_agree(example: &Example, packets: &[Packet], outcome: &Outcome) {
    let came: Vec<_> = outcome.went.chars().zip(packets).collect();
    let count = |letter: char, flag: u8| {
        let is = |(at, packet): &&(char, &Packet)| *at == letter && packet.flags & flag != 0;
        came.iter().filter(is).count() as u64
    };
    let letters: Vec<char> = ('A'..).take(example.servers.len()).collect();
    let per_server = |flag| letters.iter().map(|&l| count(l, flag)).collect::<Vec<_>>();
    assert_eq!(outcome.servers("connections"), per_server(SYN));
    assert_eq!(outcome.servers("packets_in"), per_server(SYN | ACK | RST));
    assert_eq!(outcome.service()["rejected_no_server"], count('-', SYN));
    assert_eq!(outcome.report["identity_ok"], true);
}

/// Every connection that was made is listed with the server that its packet went to, and no other.
fn listing_agrees(example: &Example, packets: &[Packet], outcome: &Outcome) {
    let listed: BTreeMap<SocketAddr, char> = outcome
        .listing
        .lines()
        .skip(2)
        .map(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            (at(columns[3]), example.letter(at(columns[5]).ip()))
        })
        .collect();
    let came = packets.iter().zip(outcome.went.chars());
    let made = came.filter(|(_, at)| *at != '-');
    assert_eq!(listed, made.map(|(p, at)| (p.client, at)).collect());
}

/// New connections go, one after the other, where `expected` says.
fn order(what: &str, example: &Example, expected: &str) {
    let packets = syns(0, 20_000, u16::try_from(expected.len()).expect("short"));
    new_connections(what, example, &packets, expected);
}

fn new_connections(what: &str, example: &Example, packets: &[Packet], expected: &str) {
    let outcome = replay(example, packets, "0s");
    assert_eq!(outcome.went, expected, "{what}, {}", example.scheduler);
    listing_agrees(example, packets, &outcome);
}

/// What is shown, the scheduler, the servers' weights and upper thresholds, and where new connections go.
type Row = (
    &'static str,
    &'static str,
    &'static [(u32, u32)],
    &'static str,
);

#[test]
fn schedulers_without_a_hash_choose_in_the_specification_s_order() {
    let table: [Row; 20] = [
        (
            "§6.1, from the newest",
            "rr",
            &[(1, 0), (1, 0), (1, 0)],
            "ABCABCA",
        ),
        ("§6.1, weight 0", "rr", &[(1, 0), (0, 0), (7, 0)], "ACACAC"),
        ("§6.1, overload", "rr", &[(1, 0), (1, 1), (1, 0)], "ABCACAC"),
        (
            "§14.6",
            "wrr",
            &[(4, 0), (3, 0), (2, 0)],
            "AABABCABCAABABCABCAABABCABC",
        ),
        ("§14.6", "wrr", &[(6, 0), (4, 0)], "AABABAABABAABAB"),
        ("§14.6", "wrr", &[(2, 0), (0, 0), (1, 0)], "AACAACAAC"),
        ("§6.2, overload", "wrr", &[(2, 1), (1, 0)], "ABBB"),
        ("§6.2, all overloaded", "wrr", &[(2, 1), (1, 1)], "AB--"),
        ("§6.3, ties", "lc", &[(1, 0), (9, 0), (1, 0)], "ABCABC"),
        (
            "§6.4, overhead by weight",
            "wlc",
            &[(1, 0), (2, 0)],
            "ABBABB",
        ),
        (
            "§6.4, weight 0 and overload",
            "wlc",
            &[(0, 0), (1, 2), (1, 0)],
            "BCBCCC",
        ),
        (
            "§6.5, active + 1",
            "sed",
            &[(1, 0), (3, 0), (2, 0)],
            "BCBABC",
        ),
        (
            "§6.6, idle first, then sed",
            "nq",
            &[(1, 0), (3, 0), (2, 0)],
            "ABCB",
        ),
        ("§6.7, overload", "fo", &[(1, 0), (5, 2), (3, 1)], "BBCAA"),
        ("§6.7, ties", "fo", &[(3, 1), (3, 0)], "ABBB"),
        (
            "§6.7, active ≤ weight",
            "ovf",
            &[(1, 0), (3, 0), (2, 0)],
            "BBBBCCCAA-",
        ),
        ("§6.7, overload", "ovf", &[(1, 0), (3, 1)], "BAA-"),
        // A has more active ones than its weight, and B less than half: it moves, and then B has the address.
        (
            "§6.11, locally overloaded",
            "lblc",
            &[(2, 0), (4, 0)],
            "AAABBBBBBB",
        ),
        // B joins the set of A, and C that of both.
        (
            "§6.12, the set grows",
            "lblcr",
            &[(2, 0), (4, 0), (4, 0)],
            "AAABBBBBCC",
        ),
        ("§6, weight 0 everywhere", "wlc", &[(0, 0), (0, 0)], "---"),
    ];
    for (what, scheduler, servers, expected) in table {
        order(what, &Example::new(scheduler, servers), expected);
    }
}

/// §6.3 to §6.6: a half-open connection is active (§7.5), one that was reset is inactive for its last 10 s.
#[test]
fn an_inactive_connection_weighs_little_or_nothing() {
    let mut packets = syns(0, 1, 2);
    packets.extend(end(2, "203.0.113.9:2"));
    packets.extend(syns(3, 3, 2));
    for scheduler in ["lc", "wlc", "sed", "nq"] {
        let example = Example::new(scheduler, &[(1, 0), (1, 0)]);
        let outcome = replay(&example, &packets, "0s");
        assert_eq!(outcome.went, "ABBBBA", "{scheduler}");
        assert_eq!(outcome.servers("active"), [2, 1], "{scheduler}");
        assert_eq!(outcome.servers("inactive"), [0, 1], "{scheduler}");
    }
}

/// The addresses whose vectors the specification prints.
const VECTORS: [&str; 4] = ["10.0.0.1", "10.0.0.2", "192.168.1.77", "203.0.113.5"];

/// A new connection of each client of the vectors.
fn vector_clients(port: u16) -> Vec<Packet> {
    let syn = |(ms, client): (u64, &&str)| packet(ms, &format!("{client}:{port}"), SYN);
    (0..).zip(&VECTORS).map(syn).collect()
}

/// §6.8 with the virtual addresses of the vectors: buckets 39, 137, 144 and 185, of which bucket b is that of the
/// server at place b mod 3, whatever its weight.
#[test]
fn dh_sends_destinations_where_their_buckets_are() {
    for (servers, expected) in [
        ([(1, 0), (1, 0), (1, 0)], "ACAC"),
        ([(9, 0), (2, 0), (1, 0)], "ACAC"),
        // A server with weight 0 has its buckets, and its connections are refused; so it is with overloaded ones.
        ([(1, 0), (1, 0), (0, 0)], "A-A-"),
        ([(1, 1), (1, 0), (1, 0)], "AC-C"),
    ] {
        let example = Example {
            marked: VECTORS.to_vec(),
            ..Example::new("dh", &servers)
        };
        let packets: Vec<_> = (0..)
            .zip(VECTORS)
            .map(|(ms, vip)| Packet {
                vip: at(&format!("{vip}:80")),
                ..packet(ms, &format!("203.0.113.9:{}", 5000 + ms), SYN)
            })
            .collect();
        new_connections("§6.8", &example, &packets, expected);
    }
}

/// §6.11: each destination has its own server, however loaded, up to its weight.
#[test]
fn lblc_keeps_destinations_on_their_servers() {
    let example = Example {
        marked: vec!["198.51.100.1", "198.51.100.2"],
        ..Example::new("lblc", &[(9, 0), (9, 0)])
    };
    let packets: Vec<_> = (0..)
        .zip([1, 1, 2, 1, 2, 1])
        .map(|(ms, vip)| Packet {
            vip: at(&format!("198.51.100.{vip}:80")),
            ..packet(ms, &format!("203.0.113.9:{}", 5000 + ms), SYN)
        })
        .collect();
    new_connections("§6.11", &example, &packets, "AABABA");
}

/// §6.9. Without ports the buckets are 39, 137, 144, 185, with port 5060 they are 231, 73, 79, 120.
#[test]
fn sh_sends_clients_where_their_buckets_are() {
    let equal = [(1, 0), (1, 0), (1, 0)];
    let without_a = [(0, 0), (1, 0), (1, 0)];
    for (what, flags, servers, expected) in [
        ("b mod 3", "kernel_tables", &equal[..], "ACAC"),
        (
            "b mod 3 with the port",
            "kernel_tables, port",
            &equal,
            "ABBA",
        ),
        (
            "weight 2 has two in a row",
            "kernel_tables",
            &[(2, 0), (1, 0)],
            "ABAB",
        ),
        (
            "weight 0 has one, of no use",
            "kernel_tables",
            &without_a,
            "-C-C",
        ),
        // From 39 on to 78, also A's, and then 79, which is B's; from 144 on to 288 - 256 = 32, which is C's.
        ("fallback", "kernel_tables, fallback", &without_a, "BCCC"),
    ] {
        let example = Example::new("sh", servers).flags(flags);
        new_connections(what, &example, &vector_clients(5060), expected);
    }
}

/// Slots of `mh`'s table by default.
const SLOTS: u32 = 4093;

/// `mh`'s slot of a value (§6.10): SipHash-1-3 of its four bytes, least first, by the key 2654435761 twice.
fn slot(value: u32) -> u32 {
    const KEY: u64 = 2_654_435_761;
    let mut v = [
        KEY ^ 0x736f_6d65_7073_6575,
        KEY ^ 0x646f_7261_6e64_6f6d,
        KEY ^ 0x6c79_6765_6e65_7261,
        KEY ^ 0x7465_6462_7974_6573,
    ];
    let block = 4 << 56 | u64::from(value);
    v[3] ^= block;
    round(&mut v);
    v[0] ^= block;
    v[2] ^= 0xff;
    (0..3).for_each(|_| round(&mut v));
    let low = (v[0] ^ v[1] ^ v[2] ^ v[3]) & 0xffff_ffff;
    u32::try_from(low).expect("32 bits") % SLOTS
}

fn round(v: &mut [u64; 4]) {
    let mut half = |a: usize, b: usize, by: u32| {
        v[a] = v[a].wrapping_add(v[b]);
        v[b] = v[b].rotate_left(by) ^ v[a];
    };
    half(0, 1, 13);
    half(2, 3, 16);
    v[0] = v[0].rotate_left(32);
    let mut half = |a: usize, b: usize, by: u32| {
        v[a] = v[a].wrapping_add(v[b]);
        v[b] = v[b].rotate_left(by) ^ v[a];
    };
    half(0, 3, 21);
    half(2, 1, 17);
    v[2] = v[2].rotate_left(32);
}

fn number(client: &str) -> u32 {
    client.parse::<Ipv4Addr>().expect("an address").to_bits()
}

/// A client for each slot: from 10.1.0.0 on, the first whose hash it is.
fn clients_by_slot() -> Vec<Ipv4Addr> {
    let mut clients = BTreeMap::new();
    for client in number("10.1.0.0").. {
        clients
            .entry(slot(client))
            .or_insert_with(|| Ipv4Addr::from_bits(client));
        if clients.len() == SLOTS as usize {
            break;
        }
    }
    clients.into_values().collect()
}

fn from_clients(clients: &[Ipv4Addr], port: u16) -> Vec<Packet> {
    let syn = |(ms, client): (u64, &Ipv4Addr)| packet(ms, &format!("{client}:{port}"), SYN);
    (0..).zip(clients).map(syn).collect()
}

/// The server of each slot of a table, by the clients that come to it.
fn maglev_table(servers: &[(u32, u32)]) -> Outcome {
    let packets = from_clients(&clients_by_slot(), 4000);
    replay(&Example::new("mh", servers), &packets, "0s")
}

/// §6.10, the vectors. In the list A is .3, B is .2 and C is .1.
#[test]
fn mh_sends_clients_where_their_slots_are() {
    let slots = VECTORS.map(|client| slot(number(client)));
    assert_eq!(slots, [3711, 1884, 3943, 3219]);
    let equal = [(1, 0), (1, 0), (1, 0)];
    let table = maglev_table(&equal);
    assert_eq!(table.went[..12], *"CABCAABAACAB", "slots 0 to 11");
    assert_eq!(table.servers("connections"), [1365, 1364, 1364]);
    let of = |slots: [usize; 4]| -> String { slots.iter().map(|&s| &table.went[s..=s]).collect() };
    for (flags, slots) in [
        ("", [3711, 1884, 3943, 3219]),
        ("port", [82, 1335, 3187, 548]),
    ] {
        let example = Example::new("mh", &equal).flags(flags);
        new_connections("§6.10", &example, &vector_clients(5060), &of(slots));
    }
}

/// §6.10, the last vector.
#[test]
fn mh_gives_a_server_of_weight_3_three_quarters_of_the_slots() {
    let table = maglev_table(&[(3, 0), (1, 0)]);
    assert_eq!(table.servers("connections"), [3070, 1023]);
}

/// §6.10: slot 1 is A's. When A is full, its next client is refused, or by the flag goes to the slot of its hash with
/// offset 1, 2 and so on.
#[test]
fn mh_refuses_or_looks_further_when_a_server_is_full() {
    let table = maglev_table(&[(1, 0), (1, 0), (1, 0)]);
    let clients: Vec<_> = (number("10.9.0.0")..)
        .filter(|&client| slot(client) == 1)
        .map(Ipv4Addr::from_bits)
        .take(8)
        .collect();
    let another = |client: &Ipv4Addr| {
        (1..SLOTS)
            .map(|offset| slot(client.to_bits() + offset) as usize)
            .map(|slot| &table.went[slot..=slot])
            .find(|&server| server != "A")
            .expect("A has not all of them")
    };
    let further: String = clients[1..].iter().map(another).collect();
    let full = [(1, 1), (1, 0), (1, 0)];
    for (flags, expected) in [("", "A-------"), ("fallback", &format!("A{further}"))] {
        let example = Example::new("mh", &full).flags(flags);
        new_connections("§6.10", &example, &from_clients(&clients, 4000), expected);
    }
}

/// §6.13: both draws must be the more loaded server's for it to be taken, so that loads follow the weights.
#[test]
fn twos_keeps_loads_in_proportion_to_the_weights() {
    let example = Example::new("twos", &[(1, 0), (3, 0), (0, 0)]);
    let packets = syns(0, 20_000, 4000);
    let outcome = replay(&example, &packets, "0s");
    listing_agrees(&example, &packets, &outcome);
    let [first, second, none] = outcome.servers("connections")[..] else {
        panic!("three servers");
    };
    assert_eq!((first + second, none), (4000, 0));
    assert!(first.abs_diff(1000) <= 10, "{first} of 4000");
}

/// `hprio`, which LVS has not: its author's example of three servers and one to spill over to.
#[test]
fn hprio_spills_over_with_connection_151_and_returns_below_20() {
    let tier = [5, 50, 20];
    let example = Example {
        servers: vec![tier, tier, tier, [1, 0, 0]],
        ..Example::new("hprio", &[])
    };
    let mut packets = syns(0, 20_000, 151);
    let mut expected = "ABC".repeat(50) + "D";
    // B's connections are every third one. They are gone 10 s after their reset.
    let b = |n: u16| format!("203.0.113.9:{}", 20_001 + 3 * n);
    packets.extend((0..30).flat_map(|n| end(1000, &b(n))));
    expected += &"B".repeat(60);
    packets.extend(syns(12_000, 30_000, 1));
    expected += "D";
    packets.extend(end(13_000, &b(30)));
    expected += "BB";
    packets.extend(syns(24_000, 40_000, 32));
    expected += &("B".repeat(31) + "D");
    let outcome = replay(&example, &packets, "0s");
    assert_eq!(outcome.went, expected);
    assert_eq!(outcome.servers("active"), [50, 50, 50, 3]);
}

/// §14.3 up to the edits: what is counted, and whether the server is overloaded, after each step.
#[test]
fn the_overload_flag_follows_the_worked_example() {
    let example = Example {
        more: "    persistence: {timeout: 1h}\n",
        ..Example::new("rr", &[(1, 4)])
    };
    // Moment, client, whether its connection ends, where its packet went, and what is counted after it.
    let steps = [
        (0, "203.0.113.1:5000", false, 'A', (1, false)),
        (1, "203.0.113.2:5000", false, 'A', (2, false)),
        (2, "203.0.113.3:5000", false, 'A', (3, false)),
        (3, "203.0.113.4:5000", false, 'A', (4, true)),
        (4, "203.0.113.5:5000", false, '-', (4, true)),
        (5, "203.0.113.1:6000", false, 'A', (5, true)),
        (6, "203.0.113.1:6001", false, 'A', (6, true)),
        (1_000, "203.0.113.1:6001", true, 'A', (5, true)),
        (12_000, "203.0.113.1:6000", true, 'A', (4, true)),
        (23_000, "203.0.113.1:5000", true, 'A', (3, true)),
        (34_000, "203.0.113.2:5000", true, 'A', (2, false)),
        (45_000, "203.0.113.5:5000", false, 'A', (3, false)),
    ];
    let (mut packets, mut expected) = (Vec::new(), String::new());
    for (ms, client, ends, place, state) in steps {
        if ends {
            packets.extend(end(ms, client));
        } else {
            packets.push(packet(ms, client, SYN));
        }
        expected.extend(std::iter::repeat_n(place, if ends { 2 } else { 1 }));
        // A connection that was reset is gone 10 s later.
        let outcome = replay(&example, &packets, if ends { "10500ms" } else { "0s" });
        assert_eq!(outcome.went, expected, "{client} at {ms} ms");
        assert_eq!(outcome.total_and_flag(), state, "{client} at {ms} ms");
    }
}
