//! What messages of the `ipvs` sync format cost: records encoded into messages, decoded and judged per second.
//!
//! `cargo bench --no-default-features --bench sync`: for connections of IPv4 and IPv6 and templates with a Call-ID of 42
//! bytes, in version 1 and, where it can carry them, version 0, in messages of 1,472 bytes. `decode` is everything up to
//! what is to be installed. Median, 10th and 90th percentile over windows of 65,536 records, in millions of records per
//! second, on one core.

use std::hint::black_box;
use std::time::Instant;

use polder::net::{Addr4, Addr6};
use polder::sync::backup::{Terms, accept};
use polder::sync::ipvs::{
    AnyEnds, Builder, ConnRecord, Engine, MAX_LEN_V4, Receiver, Record, Version, flag,
};
use polder::table::{Ends, StateTimeouts};

const WINDOW: usize = 65_536;
const WINDOWS: usize = 64;
const CALL_ID: &[u8; 42] = b"3848276298220188511@atlanta.example.com-01";

#[derive(Clone, Copy)]
enum Kind {
    V4,
    V6,
    Call,
}

fn record(i: u16, kind: Kind) -> Record<'static> {
    let ends = match kind {
        Kind::V6 => AnyEnds::V6(Ends {
            proto: 6,
            caddr: Addr6([1, u64::from(i)]),
            cport: i,
            vaddr: Addr6([2, 2]),
            vport: 80,
            daddr: Addr6([3, 3]),
            dport: 80,
        }),
        Kind::V4 | Kind::Call => AnyEnds::V4(Ends {
            proto: 17,
            caddr: Addr4(u32::from(i)),
            cport: i,
            vaddr: Addr4(2),
            vport: 5060,
            daddr: Addr4(3),
            dport: 5060,
        }),
    };
    let template = matches!(kind, Kind::Call);
    let entry = ConnRecord {
        ends,
        flags: flag::INACTIVE | if template { flag::TEMPLATE } else { 0 },
        state: 0,
        mark: 0,
        timeout_s: 300,
        seq: None,
    };
    let engine = Engine {
        name: b"sip",
        data: CALL_ID,
    };
    Record::new(entry, template.then_some(engine))
}

fn main() {
    println!("million records per second: median (10th..90th percentile of windows)");
    println!(
        "{:<16} {:>7} {:>24} {:>24}",
        "records", "version", "encode", "decode"
    );
    for (name, kind, version) in [
        ("IPv4", Kind::V4, Version::V1),
        ("IPv6", Kind::V6, Version::V1),
        ("IPv4 Call-ID", Kind::Call, Version::V1),
        ("IPv4", Kind::V4, Version::V0),
    ] {
        let records: Vec<_> = (0..u16::MAX).map(|i| record(i, kind)).collect();
        let mut messages = Vec::new();
        encode(version, &records, |m| messages.push(m.to_vec()));
        let encoded = windows(|| {
            encode(version, &records, |m| {
                black_box(m);
            })
        });
        let decoded = windows(|| decode(&messages));
        println!(
            "{name:<16} {:>7} {encoded:>24} {decoded:>24}",
            version.number()
        );
    }
}

/// Encodes a window of records; says how many.
fn encode(version: Version, records: &[Record<'_>], mut send: impl FnMut(&[u8])) -> usize {
    let mut builder = Builder::new(version, 1, MAX_LEN_V4);
    for record in records {
        if !builder.push(record).expect("it can be carried") {
            builder.finish().into_iter().for_each(&mut send);
            builder.push(record).expect("it can be carried");
        }
    }
    builder.finish().into_iter().for_each(&mut send);
    records.len()
}

/// Decodes and judges all messages; says how many records were taken.
fn decode(messages: &[Vec<u8>]) -> usize {
    let timeouts = StateTimeouts::default();
    let terms = Terms {
        engines: &["sip"],
        timeouts: &timeouts,
        threshold: 3,
    };
    let receiver = Receiver::default();
    let mut taken = 0;
    for message in messages {
        let message = receiver.open(message).expect("a message");
        for record in message.records() {
            let install = accept(&record.expect("a record"), &terms).expect("a good one");
            black_box(install);
            taken += 1;
        }
    }
    taken
}

/// Million records per second of `run` over windows.
fn windows(mut run: impl FnMut() -> usize) -> String {
    let mut rates: Vec<f64> = (0..WINDOWS)
        .map(|_| {
            let start = Instant::now();
            let records = run();
            assert!(records.abs_diff(WINDOW) <= 1, "{records} records");
            records as f64 / start.elapsed().as_secs_f64() / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let at = |percent: usize| rates[percent * (WINDOWS - 1) / 100];
    format!("{:.1} ({:.1}..{:.1})", at(50), at(10), at(90))
}
