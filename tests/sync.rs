//! State sync against what a Linux kernel sends and takes, and against tshark; and `polder sync decode`. The captures
//! of the shared test data and tshark are skipped, loudly, where they are not there.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use polder::cli::{Cli, Failure, sync};
use polder::net::build::Frame;
use polder::net::pcap::{Reader, Writer};
use polder::net::{Addr4, Addr6, Af, L3, parse};
use polder::sync::backup::{Install, Terms, accept};
use polder::sync::entry::{ConnEntry, Entry, EntryId, ServiceName, TemplateEntry};
use polder::sync::ipvs::{
    AnyEnds, Builder, ConnRecord, Engine, Receiver, Record, Rejected, Version, flag,
};
use polder::sync::polder::Keys;
use polder::sync::polder::seal::Sealer;
use polder::sync::polder::wire::{self, Kind, Mark, Record as Told, StreamBuilder, Versions};
use polder::table::{Ends, StateTimeouts};
use serde_json::Value;

fn captures() -> Option<PathBuf> {
    let root = std::env::var_os("POLDER_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let dir = root.join("lab/sync-pcaps");
    if dir.is_dir() {
        Some(dir)
    } else {
        eprintln!(
            "SKIPPED: no captures of a kernel's sync at {}",
            dir.display()
        );
        None
    }
}

/// The payloads of the UDP datagrams of a capture.
fn payloads(capture: &Path) -> Vec<Vec<u8>> {
    let mut reader = Reader::open(File::open(capture).expect("the capture")).expect("a capture");
    let (mut frame, mut out) = (Vec::new(), Vec::new());
    while reader.next(&mut frame).expect("whole").is_some() {
        let (l4, end) = match parse(&frame).expect("a frame").l3 {
            L3::V4(ip) => (ip.l4, ip.end),
            L3::V6(ip) => (ip.l4, ip.end),
            L3::Other(kind) => panic!("type {kind:#x} in a capture of sync"),
        };
        out.push(frame[usize::from(l4) + 8..usize::from(end)].to_vec());
    }
    out
}

/// Flags as the lab's decoder names them.
fn flag_names(flags: u32) -> String {
    let bits = [
        (0x20, "sync"),
        (0x40, "hashed"),
        (0x80, "nooutput"),
        (0x100, "inactive"),
        (0x200, "outseq"),
        (0x400, "inseq"),
        (0x800, "nocport"),
        (0x1000, "template"),
        (0x2000, "onepacket"),
        (0x10000, "nfct"),
    ];
    let method = ["masq", "local", "tunnel", "droute", "bypass"][(flags & 7) as usize];
    let set = bits.iter().filter(|(bit, _)| flags & bit != 0);
    let mut out = format!("{flags:#x}={method}");
    set.for_each(|(_, name)| {
        let _ = write!(out, "|{name}");
    });
    out
}

/// A record in the words of the lab's decoder, sequence blocks left out.
fn in_the_labs_words(version: Version, record: &Record<'_>) -> String {
    let entry = record.entry();
    let ends = entry.ends.all().map(|a| format!("{}:{}", a.ip(), a.port()));
    let common = format!(
        "proto={} flags={} state={} {}",
        entry.ends.proto(),
        flag_names(entry.flags),
        entry.state,
        ends.join(" ")
    );
    if version == Version::V0 {
        return format!("  reserved=0 {common} ");
    }
    let (kind, fixed) = match entry.ends {
        AnyEnds::V4(_) => (0, 36),
        AnyEnds::V6(_) => (1, 72),
    };
    let engine = record.engine();
    let size = fixed + engine.map_or(0, |e| 4 + e.name.len() + e.data.len());
    let text = |bytes| std::str::from_utf8(bytes).expect("text");
    let engine = engine.map_or(String::new(), |e| {
        format!(
            "[('pe_data', '{}'), ('pe_name', '{}')]",
            text(e.data),
            text(e.name)
        )
    });
    format!(
        "  type={kind} ver=0 size={size} {common} fwmark={} timeout={} {engine}",
        entry.mark, entry.timeout_s
    )
}

fn all_records<'a>(payload: &'a [u8]) -> (Version, u8, Vec<Record<'a>>) {
    let message = Receiver::default().open(payload).expect("a message");
    let mut records = message.records();
    let all = (&mut records).map(|r| r.expect("a record")).collect();
    assert_eq!(records.unread(), 0);
    (message.version, message.sync_id, all)
}

#[test]
fn every_message_of_a_kernel_decodes_to_its_description_and_encodes_to_the_same_bytes() {
    let Some(dir) = captures() else {
        return;
    };
    let mut messages = 0;
    for sub in ["v0", "v1"] {
        for entry in fs::read_dir(dir.join(sub)).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|e| e != "pcap") {
                continue;
            }
            let mut decoded = String::new();
            for payload in payloads(&path) {
                let (version, sync_id, records) = all_records(&payload);
                let n = payload.len();
                let (number, count) = (version.number(), records.len());
                let _ = writeln!(
                    decoded,
                    "v{number} syncid={sync_id} size={n} conns={count} (payload {n})"
                );
                let mut builder = Builder::new(version, sync_id, 1472);
                for record in &records {
                    let _ = writeln!(decoded, "{}", in_the_labs_words(version, record));
                    assert_eq!(builder.push(record), Ok(true));
                }
                assert_eq!(builder.finish(), Some(&payload[..]), "{}", path.display());
                messages += 1;
            }
            let described = fs::read_to_string(path.with_extension("decoded.txt")).expect("it");
            let described = described.split_once('\n').map_or("", |(_, rest)| rest);
            assert_eq!(decoded, described, "{}", path.display());
        }
    }
    assert!(messages >= 40, "{messages}");
}

/// What the kernel's backup made of the same datagrams is in the lab's transcript.
#[test]
fn crafted_messages_meet_the_kernels_verdicts() {
    let Some(dir) = captures() else {
        return;
    };
    let receiver = Receiver {
        sync_id: 42,
        ..Receiver::default()
    };
    let terms = Terms {
        engines: &["sip"],
        timeouts: &StateTimeouts::default(),
        threshold: 3,
    };
    let mut listed = Vec::new();
    let mut rejected = Vec::new();
    for payload in payloads(&dir.join("crafted.pcap")) {
        let message = match receiver.open(&payload) {
            Ok(message) => message,
            Err(why) => {
                rejected.push(why);
                continue;
            }
        };
        for record in message.records() {
            match accept(&record.expect("whole records"), &terms) {
                Ok(install) => listed.push(listing(&install)),
                Err(why) => rejected.push(why),
            }
        }
    }
    use Rejected as R;
    let expected = [
        R::State,
        R::Protocol,
        R::EngineUnknown,
        R::Size,
        R::SyncId,
        R::Version,
    ];
    assert_eq!(rejected, expected);
    // Protocol, state, seconds and ends as the kernel listed them, three seconds and less later.
    assert_eq!(
        listed,
        [
            "6 1 700 198.51.100.7:1111 10.0.0.100:80 10.0.1.11:80 ",
            "17 0 250 198.51.100.8:2222 10.0.0.100:5060 10.0.1.12:5060 ",
            "17 1 55 0.0.0.0:0 10.0.0.100:5060 10.0.1.13:5060 crafted-call@lab",
            "6 1 60 198.51.100.9:3333 10.0.0.100:21 10.0.1.11:21 ",
            "6 1 33 [2001:db8::7]:4444 [fd00::100]:80 [fd00:1::12]:80 ",
            "6 1 900 198.51.100.22:7777 10.0.0.100:80 10.0.1.11:80 ",
        ]
    );
}

fn listing(install: &Install<'_>) -> String {
    let entry = install.entry();
    let engine = match install {
        Install::Template {
            engine: Some(e), ..
        } => String::from_utf8_lossy(e.data),
        _ => "".into(),
    };
    let ends = entry.ends.all().map(|a| a.to_string()).join(" ");
    let (proto, state, seconds) = (entry.ends.proto(), entry.state, entry.timeout / 100);
    format!("{proto} {state} {seconds} {ends} {engine}")
}

/// A connection or template; different numbers differ in every field.
fn record(n: u16, v6: bool) -> ConnRecord {
    let (proto, state) = if n.is_multiple_of(2) {
        (6, n % 11)
    } else {
        (17, 0)
    };
    let (cport, vport, dport) = (n + 1, n + 2, n + 3);
    let at = u32::from(n);
    let ends = if v6 {
        let addr = |net: u64| Addr6([0x2001_0db8_0000_0000 | net, u64::from(n) << 16]);
        AnyEnds::V6(Ends {
            proto,
            caddr: addr(1),
            cport,
            vaddr: addr(2),
            vport,
            daddr: addr(3),
            dport,
        })
    } else {
        AnyEnds::V4(Ends {
            proto,
            caddr: Addr4(0xc633_6400 + at),
            cport,
            vaddr: Addr4(0x0a00_0000 + at),
            vport,
            daddr: Addr4(0x0a01_0000 + at),
            dport,
        })
    };
    ConnRecord {
        ends,
        flags: [0, flag::INACTIVE, 0x83, flag::TEMPLATE][usize::from(n % 4)],
        state: if n % 4 == 3 { n % 2 } else { state },
        mark: at * 7,
        timeout_s: 300 + at,
        seq: None,
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn frame(payload: &[u8]) -> Vec<u8> {
    Frame::new().udp(at("192.0.2.1:40000"), at("224.0.0.81:8848"), payload)
}

fn capture(dir: &Path, frames: &[Vec<u8>]) -> PathBuf {
    let path = dir.join("sync.pcap");
    let mut writer = Writer::new(File::create(&path).expect("a file"), false).expect("a header");
    for (second, frame) in (1..).zip(frames) {
        writer
            .write(second * 1_000_000_000, frame)
            .expect("written");
    }
    path
}

/// The messages that `records` make.
fn messages(version: Version, records: &[ConnRecord]) -> Vec<Vec<u8>> {
    let mut builder = Builder::new(version, 9, 1472);
    let mut out = Vec::new();
    for record in records {
        let record = Record::new(*record, None);
        if !builder.push(&record).expect("it can be carried") {
            out.extend(builder.finish().map(<[u8]>::to_vec));
            assert_eq!(builder.push(&record), Ok(true));
        }
    }
    out.extend(builder.finish().map(<[u8]>::to_vec));
    out
}

/// The values of `fields` in a capture, each field's in order.
fn tshark(capture: &Path, fields: &[&str]) -> Option<Vec<Vec<String>>> {
    let mut command = Command::new("tshark");
    command
        .args(["-n", "-T", "fields", "-E", "separator=;", "-r"])
        .arg(capture);
    fields.iter().for_each(|f| {
        command.args(["-e", f]);
    });
    let Ok(output) = command.output() else {
        eprintln!("SKIPPED: there is no tshark");
        return None;
    };
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut out = vec![Vec::new(); fields.len()];
    for line in text.lines() {
        for (values, column) in out.iter_mut().zip(line.split(';')) {
            values.extend(column.split(',').map(str::to_owned));
        }
    }
    Some(out)
}

#[test]
fn tshark_reads_what_is_sent() {
    let cases = [
        (Version::V0, false, ["caddr", "vaddr", "daddr", "flags"]),
        (Version::V1, false, ["caddr", "vaddr", "daddr", "flags.v1"]),
        (
            Version::V1,
            true,
            ["caddr6", "vaddr6", "daddr6", "flags.v1"],
        ),
    ];
    for (version, v6, [caddr, vaddr, daddr, flags]) in cases {
        let records: Vec<ConnRecord> = (0..150).map(|n| record(n, v6)).collect();
        let dir = tempfile::tempdir().expect("a directory");
        let frames: Vec<_> = messages(version, &records)
            .iter()
            .map(|m| frame(m))
            .collect();
        let path = capture(dir.path(), &frames);
        let names = ["proto", "state", "cport", "vport", "dport"];
        let more = ["fwmark", "timeout"];
        let of_version = if version == Version::V1 {
            &more[..]
        } else {
            &[]
        };
        let all = names
            .iter()
            .chain([&caddr, &vaddr, &daddr, &flags])
            .chain(of_version);
        let fields: Vec<String> = all.map(|f| format!("ipvs.{f}")).collect();
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let Some(columns) = tshark(&path, &fields) else {
            return;
        };
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).expect("a number"),
            None => text.parse().expect("a number"),
        };
        for (i, record) in records.iter().enumerate() {
            let of = |column: usize| columns[column][i].as_str();
            let [client, virtual_, dest] = record.ends.all();
            let ports = [client, virtual_, dest].map(|a| u32::from(a.port()));
            assert_eq!([2, 3, 4].map(|c| number(of(c))), ports, "{version:?} {i}");
            let ips = [client, virtual_, dest].map(|a| a.ip().to_string());
            assert_eq!([5, 6, 7].map(|c| of(c).to_owned()), ips, "{version:?} {i}");
            let numbers = [u32::from(record.ends.proto()), u32::from(record.state)];
            assert_eq!([0, 1].map(|c| number(of(c))), numbers, "{version:?} {i}");
            assert_eq!(number(of(8)), record.flags, "{version:?} {i}");
            if version == Version::V1 {
                let numbers = [record.mark, record.timeout_s];
                assert_eq!([9, 10].map(|c| number(of(c))), numbers, "{version:?} {i}");
            }
        }
        assert!(columns.iter().all(|c| c.len() == records.len()));
    }
}

/// What `polder sync decode` with `line` behind it prints.
fn decode(line: &str) -> (String, Result<(), Failure>) {
    let words = format!("polder sync decode {line}");
    let cli = Cli::try_parse_from(words.split(' ')).expect("it parses");
    let polder::cli::Command::Sync(args) = cli.command else {
        panic!("another command");
    };
    let mut out = Vec::new();
    let result = sync::run(&args, &mut out);
    (String::from_utf8(out).expect("text"), result)
}

/// Specification §14.1.
const V1_GOLDEN: &str = "00070060 02010000 00110033 00001100 00000000 13c413c4 00000000 0000012c \
                         0a000000 cfaf2c6e c0a80a01 02086162 6340686f 73740303 73697000 00060024 \
                         00000000 0001a0a2 00500050 00000000 00000384 0a000002 cfaf2c6e c0a80a01";

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let byte = |i: usize| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).expect("digits");
    (0..digits.len() / 2).map(byte).collect()
}

#[test]
fn decode_prints_messages_records_and_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let golden = hex(V1_GOLDEN);
    let mut mark = record(3, false);
    mark.flags = flag::TEMPLATE;
    mark.state = 2;
    let bad_state = messages(Version::V1, &[mark]).remove(0);
    let hostile = Engine {
        name: b"sip",
        data: b"\x1b[2J",
    };
    let mut builder = Builder::new(Version::V1, 1, 1472);
    let template = ConnRecord { state: 1, ..mark };
    assert_eq!(
        builder.push(&Record::new(template, Some(hostile))),
        Ok(true)
    );
    let hostile = builder.finish().expect("a record").to_vec();
    let mut cut = frame(&golden);
    cut.truncate(100);
    let frames = [
        frame(&golden),
        frame(&golden[..90]),
        frame(&bad_state),
        cut,
        Frame::new()
            .vlan(7)
            .udp(at("[fd09::1]:1"), at("[ff02::81]:9000"), &hostile),
        Frame::new().udp(
            at("192.0.2.1:8848"),
            at("192.0.2.2:9001"),
            b"something else",
        ),
    ];
    let path = capture(dir.path(), &frames);
    let (text, result) = decode(&format!("{} --port 9000", path.display()));
    assert_eq!(result, Ok(()));
    let expected = "\
1.000000 192.0.2.1:40000 > 224.0.0.81:8848 96 bytes, ipvs version 1, sync id 7, records 2
  UDP    300 NONE        10.0.0.0:0            207.175.44.110:5060   192.168.10.1:5060     masq,inactive,template pe sip abc@host
  TCP    900 ESTABLISHED 10.0.0.2:41122        207.175.44.110:80     192.168.10.1:80       masq
2.000000 192.0.2.1:40000 > 224.0.0.81:8848 90 bytes, rejected: size: The message's size field is not its length: it was cut, or is no sync message.
3.000000 192.0.2.1:40000 > 224.0.0.81:8848 44 bytes, ipvs version 1, sync id 9, records 1
  UDP    303 2           198.51.100.3:4        10.0.0.3:5            10.1.0.3:6            masq,template mark 21 rejected: state: The protocol has no such state.
4.000000 192.0.2.1:40000 > 224.0.0.81:8848 58 bytes, rejected: not_captured: The capture cut the frame; take it with `-s 0`.
5.000000 [fd09::1]:1 > [ff02::81]:9000 55 bytes, ipvs version 1, sync id 1, records 1
  UDP    303 ASSURED     198.51.100.3:4        10.0.0.3:5            10.1.0.3:6            masq,template mark 21 pe sip \\x1b[2J
5 messages, 4 records, 1 messages incomplete, rejected: size 1, state 1
";
    assert_eq!(text, expected);
}

#[test]
fn decode_prints_the_same_as_json() {
    let dir = tempfile::tempdir().expect("a directory");
    let golden = hex(V1_GOLDEN);
    let path = capture(dir.path(), &[frame(&golden), frame(&golden[..90])]);
    let (text, result) = decode(&format!("{} -o json", path.display()));
    assert_eq!(result, Ok(()));
    let value: Value = serde_json::from_str(&text).expect("JSON");
    let [first, second] = [0, 1].map(|i| &value["messages"][i]);
    assert_eq!(
        (&first["version"], &first["sync_id"]),
        (&1.into(), &7.into())
    );
    let template = &first["records"][0];
    assert_eq!(template["kind"], "template");
    assert_eq!(
        (&template["engine"], &template["data"]),
        (&"sip".into(), &"abc@host".into())
    );
    assert_eq!(
        template["flags"],
        serde_json::json!(["inactive", "template"])
    );
    assert_eq!(first["records"][1]["destination"], "192.168.10.1:80");
    assert_eq!(second["rejected"]["reason"], "size");
    assert_eq!(value["summary"]["rejected"], serde_json::json!({"size": 1}));
}

#[test]
fn decode_reads_an_empty_capture_and_says_why_it_can_not_read_another_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = capture(dir.path(), &[]);
    let (text, result) = decode(&path.display().to_string());
    assert_eq!(text, "0 messages, 0 records, nothing rejected\n");
    assert_eq!(result, Ok(()));
    let (json, _) = decode(&format!("{} -o json", path.display()));
    assert!(serde_json::from_str::<Value>(&json).is_ok(), "{json}");
    let none = dir.path().join("none.pcap").display().to_string();
    let (_, result) = decode(&none);
    let Err(Failure::Failed(why)) = result else {
        panic!("it was read");
    };
    assert!(
        why.starts_with(&none) && why.contains("can't be opened"),
        "{why}"
    );
}

#[test]
fn decode_prints_what_stands_before_the_damage_of_a_capture() {
    let dir = tempfile::tempdir().expect("a directory");
    let golden = hex(V1_GOLDEN);
    let path = capture(dir.path(), &[frame(&golden), frame(&golden)]);
    let bytes = fs::read(&path).expect("it");
    fs::write(&path, &bytes[..bytes.len() - 20]).expect("cut");
    let (text, result) = decode(&path.display().to_string());
    assert!(
        text.ends_with("1 messages, 2 records, nothing rejected\n"),
        "{text}"
    );
    assert!(matches!(result, Err(Failure::Failed(_))));
}

#[test]
fn every_capture_of_a_kernel_is_printed_whole() {
    let Some(dir) = captures() else {
        return;
    };
    let mut calls = BTreeSet::new();
    for scenario in [
        "udp4-sip-pe",
        "v6-sip-pe",
        "tcp4-fwd-methods",
        "ftp-seq",
        "tcp4-persist",
    ] {
        let path = dir.join(format!("v1/{scenario}.pcap"));
        let (text, result) = decode(&format!("{} -o json", path.display()));
        assert_eq!(result, Ok(()));
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            value["summary"]["rejected"],
            serde_json::json!({}),
            "{scenario}"
        );
        for message in value["messages"].as_array().expect("messages") {
            for record in message["records"].as_array().expect("records") {
                calls.extend(record["data"].as_str().map(str::to_owned));
            }
        }
    }
    let known = [
        "call-1@example.com",
        "call-2@example.com",
        "v6call-1",
        "v6call-2",
    ];
    assert!(known.iter().all(|c| calls.contains(*c)), "{calls:?}");
}

/// A capture of `frames` with another link type.
fn capture_of(dir: &Path, link_type: u32, frames: &[Vec<u8>]) -> PathBuf {
    let path = capture(dir, frames);
    let mut bytes = fs::read(&path).expect("it");
    bytes[20..24].copy_from_slice(&link_type.to_le_bytes());
    fs::write(&path, bytes).expect("written");
    path
}

#[test]
fn decode_reads_cooked_and_raw_captures_and_names_a_link_type_that_it_does_not_know() {
    let dir = tempfile::tempdir().expect("a directory");
    let packet = frame(&hex(V1_GOLDEN))[14..].to_vec();
    let mut cooked = vec![0; 16];
    cooked[14..].copy_from_slice(&[8, 0]);
    let mut cooked_2 = vec![0; 20];
    cooked_2[..2].copy_from_slice(&[8, 0]);
    for (link_type, header) in [(113, cooked), (276, cooked_2), (101, vec![]), (228, vec![])] {
        let path = capture_of(dir.path(), link_type, &[[header, packet.clone()].concat()]);
        let (text, result) = decode(&path.display().to_string());
        assert_eq!(result, Ok(()));
        assert!(
            text.ends_with("1 messages, 2 records, nothing rejected\n"),
            "{text}"
        );
    }
    let path = capture_of(dir.path(), 127, &[packet]);
    let (_, result) = decode(&path.display().to_string());
    let Err(Failure::Failed(why)) = result else {
        panic!("it was read");
    };
    assert!(why.contains("link type 127"), "{why}");
}

#[test]
fn decode_says_that_a_message_came_in_fragments() {
    let dir = tempfile::tempdir().expect("a directory");
    let records: Vec<ConnRecord> = (0..40).map(|n| record(n, false)).collect();
    let whole = frame(&messages(Version::V1, &records)[0]);
    // The first fragment: more follow, and the header's checksum is not looked at.
    let mut first = whole[..14 + 20 + 8 + 600].to_vec();
    first[16..18].copy_from_slice(&628_u16.to_be_bytes());
    first[20] = 0x20;
    let path = capture(dir.path(), &[first]);
    let (text, _) = decode(&path.display().to_string());
    assert!(text.contains("600 bytes, rejected: fragmented"), "{text}");
    assert!(text.contains("1 messages incomplete"), "{text}");
}

#[test]
fn decode_survives_any_capture_of_changed_frames() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut good = vec![frame(&hex(V1_GOLDEN))];
    good.extend(polder_datagrams().iter().take(3).map(|d| frame(d)));
    let mut seed = 7_u64;
    let mut random = move |below: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((seed >> 33) % below as u64).expect("it is below a usize")
    };
    let frames: Vec<Vec<u8>> = (0..4000)
        .map(|_| {
            let mut bytes = good[random(good.len())].clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = u8::try_from(random(256)).expect("a byte");
            }
            bytes.truncate(bytes.len().saturating_sub(random(3) * random(60)));
            bytes
        })
        .collect();
    for link_type in [1, 101, 113, 276] {
        let path = capture_of(dir.path(), link_type, &frames);
        let (text, result) = decode(&format!("{} -o json --port 0", path.display()));
        assert_eq!(result, Ok(()));
        assert!(serde_json::from_str::<Value>(&text).is_ok());
    }
}

const POLDER_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Datagrams of the `polder` format: a stream, the same encrypted, a question.
fn polder_datagrams() -> Vec<Vec<u8>> {
    let ends: Ends<polder::net::V4> = Ends {
        proto: 6,
        caddr: Addr4(0xc633_6407),
        cport: 40_000,
        vaddr: Addr4(0xc000_0201),
        vport: 80,
        daddr: Addr4(0x0a00_0002),
        dport: 8080,
    };
    let conn = ConnEntry {
        ends: ends.into(),
        mark: 0,
        state: 1,
        flags: 0x83,
        timeout: 90_000,
        remaining: 80_000,
        template: Some(EntryId(0xaabb)),
    };
    let mut client = [0; 16];
    client[..4].copy_from_slice(&[198, 51, 100, 0]);
    let call = |data: &[u8]| {
        Entry::Template(Box::new(TemplateEntry {
            service: ServiceName::Mark {
                af: Af::V4,
                mark: 7,
            },
            af: Af::V4,
            proto: 17,
            client,
            vaddr: [0; 16],
            vport: 0,
            data: Some(data.into()),
            dest: at("10.0.0.2:5060"),
            timeout: 30_000,
            remaining: 29_000,
            assured: true,
        }))
    };
    let mut builder = StreamBuilder::new(1472);
    let entries = [Entry::Conn(conn), call(b"\x1b[2J"), call(&[b'x'; 1500])];
    assert!(builder.upsert(&entries[0], 80_000));
    assert!(builder.upsert(&entries[1], 29_000));
    assert!(builder.push(&Told::Remove(EntryId(0xcc))));
    assert!(builder.push(&Told::Mark(Mark {
        tick: 5,
        count: 2,
        sum: 0x77,
        versions: Versions::OURS,
    })));
    let first = builder.finish(3).expect("records").to_vec();
    assert!(builder.upsert(&entries[2], 29_000));
    let bodies = [
        builder.finish(4).expect("a piece").to_vec(),
        builder.finish(5).expect("a piece").to_vec(),
    ];
    let hello = wire::encode_hello(&wire::Hello {
        nonce: 9,
        versions: Versions::OURS,
        name: "left\n",
    });
    let keys = Keys::parse(&format!("5 {POLDER_KEY}")).expect("a good key");
    let mut sealer = Sealer::new(0x1122, keys);
    let mut out = Vec::new();
    let mut seal = |kind, encrypt, body: &[u8]| {
        let mut datagram = Vec::new();
        sealer.seal(kind, 2, encrypt, body, &mut datagram);
        out.push(datagram);
    };
    seal(Kind::Stream, false, &first);
    seal(Kind::Stream, true, &first[..12]);
    seal(Kind::Hello, false, &hello);
    seal(Kind::Stream, false, &bodies[0]);
    seal(Kind::Stream, false, &bodies[1]);
    out
}

/// A key file with the key that they are sealed with, and what to put in front of its digits.
fn key_file(dir: &Path, line: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("keys");
    fs::write(&path, line).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
    path
}

#[test]
fn decode_prints_the_polder_format_and_says_that_it_did_not_check_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let frames: Vec<_> = polder_datagrams().iter().map(|d| frame(d)).collect();
    let path = capture(dir.path(), &frames);
    let (text, result) = decode(&path.display().to_string());
    assert_eq!(result, Ok(()));
    let head = |n: u32, bytes: u32, kind: &str| {
        format!(
            "{n}.000000 192.0.2.1:40000 > 224.0.0.81:8848 {bytes} bytes, polder {kind}, boot 0000000000001122, \
             datagram {n}, sync id 2, key 5, not checked"
        )
    };
    let expected = [
        head(1, 190, "stream") + ", seq 3",
        "  TCP    800 ESTABLISHED 198.51.100.7:40000    192.0.2.1:80          10.0.0.2:8080         \
         direct,nooutput of 900 template 0000000000000000000000000000aabb"
            .to_owned(),
        "  UDP    290 ASSURED     198.51.100.0          0.0.0.0:0             10.0.0.2:5060         \
         template of 300 service mark 7 ipv4 data \\x1b[2J"
            .to_owned(),
        "  remove 000000000000000000000000000000cc".to_owned(),
        "  mark tick 5, entries 2, digest 0000000000000077, versions 1-1".to_owned(),
        head(2, 56, "stream") + ", encrypted",
        head(3, 60, "hello") + ", name left\\x0a, versions 1-1, nonce 0000000000000009",
        head(4, 1472, "stream") + ", seq 4",
        "  piece of 1534 bytes: 1409 at 0".to_owned(),
        head(5, 188, "stream") + ", seq 5",
        "  piece of 1534 bytes: 125 at 1409, the last of:".to_owned(),
        "  UDP    290 ASSURED     198.51.100.0          0.0.0.0:0             10.0.0.2:5060         \
         template of 300 service mark 7 ipv4 data "
            .to_owned()
            + &"x".repeat(1500),
        "5 messages, 6 records, 5 messages not checked, nothing rejected\n".to_owned(),
    ];
    assert_eq!(text, expected.join("\n"));
}

#[test]
fn decode_checks_and_decrypts_the_polder_format_with_a_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut datagrams = polder_datagrams();
    datagrams[4][30] ^= 1;
    let frames: Vec<_> = datagrams.iter().map(|d| frame(d)).collect();
    let path = capture(dir.path(), &frames);
    let keys = key_file(dir.path(), &format!("5 {POLDER_KEY}"));
    let line = format!("{} --key-file {} -o json", path.display(), keys.display());
    let (text, result) = decode(&line);
    assert_eq!(result, Ok(()));
    let value: Value = serde_json::from_str(&text).expect("JSON");
    let [first, secret, hello, _, forged] = [0, 1, 2, 3, 4].map(|i| &value["messages"][i]);
    assert_eq!(
        (&first["checked"], &first["seq"]),
        (&true.into(), &3.into())
    );
    assert_eq!(first["records"][0]["destination"], "10.0.0.2:8080");
    assert_eq!(first["records"][1]["data"], "\\x1b[2J");
    assert_eq!(first["records"][3]["entries"], 2);
    assert_eq!(
        (&secret["encrypted"], &secret["seq"]),
        (&true.into(), &3.into())
    );
    assert_eq!(secret["records"][0]["rejected"]["reason"], "record_cut");
    assert_eq!(hello["name"], "left\\x0a");
    assert_eq!(forged["rejected"]["reason"], "forged");
    let summary = &value["summary"];
    assert_eq!(summary["not_checked"], 0);
    let rejected = serde_json::json!({"forged": 1, "record_cut": 1});
    assert_eq!(summary["rejected"], rejected);
}

#[test]
fn decode_says_what_is_wrong_with_keys() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = capture(dir.path(), &[frame(&polder_datagrams()[0])]);
    let other = key_file(dir.path(), &format!("4 {POLDER_KEY}"));
    let line = format!("{} --key-file {}", path.display(), other.display());
    let (text, result) = decode(&line);
    assert_eq!(result, Ok(()));
    assert!(
        text.ends_with("1 messages, 0 records, rejected: key 1\n"),
        "{text}"
    );
    key_file(dir.path(), "4 00\n");
    let (_, result) = decode(&line);
    let Err(Failure::Failed(why)) = result else {
        panic!("it was read");
    };
    assert!(why.contains("keys: line 1: a key has 64"), "{why}");
}
