//! The specification's worked examples, what receivers must refuse, and properties.

use std::panic::catch_unwind;

use proptest::prelude::*;

use super::*;
use crate::net::{Addr4, Addr6, V4, V6};
use crate::table::Ends;

/// Specification §14.1.
const V1_GOLDEN: &str = "00070060 02010000 00110033 00001100 00000000 13c413c4 00000000 0000012c \
                         0a000000 cfaf2c6e c0a80a01 02086162 6340686f 73740303 73697000 00060024 \
                         00000000 0001a0a2 00500050 00000000 00000384 0a000002 cfaf2c6e c0a80a01";
/// Specification §14.2.
const V0_GOLDEN: &str = "0107001c 0006a0a2 00500050 0a000002 cfaf2c6e c0a80a01 00000001";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |b: u8| (b as char).to_digit(16).expect("a digit") as u8;
    digits
        .chunks(2)
        .map(|p| digit(p[0]) << 4 | digit(p[1]))
        .collect()
}

fn ipv4(a: u8, b: u8, c: u8, d: u8) -> Addr4 {
    std::net::Ipv4Addr::new(a, b, c, d).into()
}

fn web() -> ConnRecord {
    ConnRecord {
        ends: AnyEnds::V4(Ends {
            proto: 6,
            caddr: ipv4(10, 0, 0, 2),
            cport: 41122,
            vaddr: ipv4(207, 175, 44, 110),
            vport: 80,
            daddr: ipv4(192, 168, 10, 1),
            dport: 80,
        }),
        flags: 0,
        state: 1,
        mark: 0,
        timeout_s: 900,
        seq: None,
    }
}

fn call() -> Record<'static> {
    Record::Template(TemplateRecord {
        entry: ConnRecord {
            ends: AnyEnds::V4(Ends {
                proto: 17,
                caddr: ipv4(10, 0, 0, 0),
                cport: 0,
                vaddr: ipv4(207, 175, 44, 110),
                vport: 5060,
                daddr: ipv4(192, 168, 10, 1),
                dport: 5060,
            }),
            flags: flag::TEMPLATE | flag::INACTIVE,
            state: 0,
            mark: 0,
            timeout_s: 300,
            seq: None,
        },
        engine: Some(Engine {
            name: b"sip",
            data: b"abc@host",
        }),
    })
}

fn message(version: Version, records: &[Record<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(version, 7, MAX_LEN_V4);
    for record in records {
        assert_eq!(builder.push(record), Ok(true));
    }
    builder.finish().expect("records").to_vec()
}

fn open(bytes: &[u8]) -> Result<Message<'_>, Rejected> {
    Receiver::default().open(bytes)
}

fn decode(bytes: &[u8]) -> Vec<Result<Record<'_>, Rejected>> {
    open(bytes).expect("a message").records().collect()
}

#[test]
fn the_version_1_example_of_the_specification_holds_both_ways() {
    let records = [call(), Record::Conn(web())];
    let golden = hex(V1_GOLDEN);
    assert_eq!(message(Version::V1, &records), golden);
    let opened = open(&golden).expect("a message");
    assert_eq!(
        (opened.version, opened.sync_id, opened.count),
        (Version::V1, 7, 2)
    );
    assert_eq!(decode(&golden), records.map(Ok));
}

#[test]
fn the_version_0_example_of_the_specification_holds_both_ways() {
    let golden = hex(V0_GOLDEN);
    assert_eq!(message(Version::V0, &[Record::Conn(web())]), golden);
    let opened = open(&golden).expect("a message");
    assert_eq!(
        (opened.version, opened.sync_id, opened.count),
        (Version::V0, 7, 1)
    );
    // The version has no timeout.
    let without = ConnRecord {
        timeout_s: 0,
        ..web()
    };
    assert_eq!(decode(&golden), [Ok(Record::Conn(without))]);
}

#[test]
fn a_receiver_with_a_sync_id_takes_only_its_own() {
    let golden = hex(V1_GOLDEN);
    for (sync_id, result) in [(0, Ok(7)), (7, Ok(7)), (8, Err(Rejected::SyncId))] {
        let receiver = Receiver {
            sync_id,
            ..Receiver::default()
        };
        assert_eq!(receiver.open(&golden).map(|m| m.sync_id), result);
    }
}

/// The version 1 example with one change each.
#[test]
fn what_is_wrong_is_named_and_ends_the_message_where_it_must() {
    let put = |at: usize, bytes: &[u8]| {
        let mut message = hex(V1_GOLDEN);
        message[at..at + bytes.len()].copy_from_slice(bytes);
        message
    };
    let second = || Ok(Record::Conn(web()));
    let rest_is_lost = [
        (put(10, &[0x00, 0x59]), Rejected::RecordCut),
        (put(10, &[0x0f, 0xff]), Rejected::RecordCut),
        (put(10, &[0x00, 0x23]), Rejected::RecordSize),
        (put(10, &[0x00, 0x00]), Rejected::RecordSize),
        (put(8, &[0x01]), Rejected::RecordSize),
        (put(10, &[0x10]), Rejected::RecordVersion),
        (put(8, &[0x02]), Rejected::RecordType),
        (put(45, &[0]), Rejected::OptionCut),
        (put(45, &[14]), Rejected::OptionCut),
        (put(45, &[12]), Rejected::OptionCut),
        (put(44, &[1]), Rejected::OptionLength),
        (put(54, &[2]), Rejected::OptionRepeated),
    ];
    for (message, why) in rest_is_lost {
        assert_eq!(decode(&message), [Err(why)], "{why:?}");
        assert!(why.ends_message(), "{why:?}");
    }
    let only_it_is_lost = [
        (put(44, &[9]), Rejected::OptionUnknown),
        (put(54, &[0x43]), Rejected::EngineName),
    ];
    for (message, why) in only_it_is_lost {
        assert_eq!(decode(&message), [Err(why), second()], "{why:?}");
        assert!(!why.ends_message(), "{why:?}");
    }
    let cut = hex(V1_GOLDEN)[..93].to_vec();
    assert_eq!(open(&cut).map(|_| ()), Err(Rejected::Size));
    assert_eq!(open(&[0, 7, 0]).map(|_| ()), Err(Rejected::Short));
    assert_eq!(open(&put(5, &[2])).map(|_| ()), Err(Rejected::Version));
}

#[test]
fn options_that_may_be_ignored_are() {
    let mut message = hex(V1_GOLDEN);
    message[44] = 0x49;
    message[54] = 0x49;
    let Record::Template(of) = call() else {
        panic!("a template");
    };
    let without = Record::Template(TemplateRecord { engine: None, ..of });
    assert_eq!(decode(&message), [Ok(without), Ok(Record::Conn(web()))]);
}

#[test]
fn a_message_that_counts_more_records_than_it_has_gives_those() {
    let mut golden = hex(V1_GOLDEN);
    golden[4] = 255;
    let cut = Err(Rejected::RecordCut);
    assert_eq!(decode(&golden), [Ok(call()), Ok(Record::Conn(web())), cut]);
    let mut golden = hex(V0_GOLDEN);
    golden[0] = 2;
    assert_eq!(decode(&golden).len(), 2);
    assert_eq!(decode(&golden)[1], cut);
}

#[test]
fn a_message_with_bytes_behind_its_records_gives_the_records() {
    let mut golden = hex(V1_GOLDEN);
    golden[4] = 1;
    let mut records = open(&golden).expect("a message").records();
    assert_eq!(records.next(), Some(Ok(call())));
    assert_eq!((records.next(), records.unread()), (None, 36));
}

/// Specification §9.4: Linux lets the counter wrap.
#[test]
fn no_message_has_more_records_than_its_counter_counts() {
    for version in [Version::V0, Version::V1] {
        let mut builder = Builder::new(version, 7, 65_507);
        for _ in 0..RECORDS_MAX {
            assert_eq!(builder.push(&Record::Conn(web())), Ok(true));
        }
        assert_eq!(builder.push(&Record::Conn(web())), Ok(false));
        let bytes = builder.finish().expect("records").to_vec();
        assert_eq!(decode(&bytes).len(), 255);
        assert_eq!(builder.finish(), None);
        assert_eq!(builder.push(&Record::Conn(web())), Ok(true));
    }
}

#[test]
fn a_message_is_as_long_as_allowed_and_a_lone_record_longer_if_it_must() {
    // A header of 8 and 40 records of 36 bytes are 1,448: the next one would make 1,484.
    let mut builder = Builder::new(Version::V1, 7, MAX_LEN_V4);
    let taken = (0..100).take_while(|_| builder.push(&Record::Conn(web())) == Ok(true));
    assert_eq!(taken.count(), 40);
    assert_eq!(builder.finish().map(<[u8]>::len), Some(1448));
    let mut small = Builder::new(Version::V1, 7, 1);
    assert_eq!(small.push(&call()), Ok(true));
    assert_eq!(small.push(&call()), Ok(false));
    assert_eq!(small.finish().map(<[u8]>::len), Some(59));
}

/// The padding counts: records of 51 bytes take 52 each but for the last.
#[test]
fn padding_counts_and_the_last_record_has_none() {
    for (max_len, records) in [(111, 2), (110, 1), (162, 2), (163, 3)] {
        let mut builder = Builder::new(Version::V1, 7, max_len);
        let taken = (0..9).take_while(|_| builder.push(&call()) == Ok(true));
        assert_eq!(taken.count(), records, "{max_len}");
    }
}

#[test]
fn what_the_format_has_no_room_for_is_refused_and_leaves_the_message_as_it_was() {
    let with = |name: &'static [u8], data: &'static [u8]| {
        Record::new(*call().entry(), Some(Engine { name, data }))
    };
    let mut builder = Builder::new(Version::V1, 7, MAX_LEN_V4);
    assert_eq!(builder.push(&call()), Ok(true));
    for (record, why) in [
        (with(b"", b"x"), CantCarry::EngineName),
        (with(&[b'n'; 17], b"x"), CantCarry::EngineName),
        (with(b"sip", b""), CantCarry::EngineData),
        (with(b"sip", &[b'x'; 256]), CantCarry::EngineData),
    ] {
        assert_eq!(builder.push(&record), Err(why));
    }
    assert_eq!(builder.push(&with(&[b'n'; 16], &[b'x'; 255])), Ok(true));
    assert_eq!(builder.finish().map(|m| m[4]), Some(2));
    let v6 = ConnRecord {
        ends: AnyEnds::V6(Ends {
            proto: 6,
            caddr: Addr6([1, 2]),
            cport: 1,
            vaddr: Addr6([3, 4]),
            vport: 2,
            daddr: Addr6([5, 6]),
            dport: 3,
        }),
        ..web()
    };
    let mut builder = Builder::new(Version::V0, 7, MAX_LEN_V4);
    assert_eq!(builder.push(&Record::Conn(v6)), Err(CantCarry::Ipv6));
    assert_eq!(builder.finish(), None);
}

/// Specification §9.2 and §9.4.
#[test]
fn sequence_blocks_are_in_network_order_in_version_1_and_in_the_senders_in_version_0() {
    let pair = |n| SeqPair {
        init: n,
        delta: n + 1,
        previous_delta: n + 2,
    };
    let record = Record::Conn(ConnRecord {
        flags: 0x600,
        seq: Some(Seq {
            inward: pair(1),
            outward: pair(0x0a0b_0c0d),
        }),
        timeout_s: 0,
        ..web()
    });
    let v1 = message(Version::V1, &[record]);
    assert_eq!(v1.len(), 8 + 36 + 26);
    assert_eq!(v1[44..50], [1, 24, 0, 0, 0, 1]);
    assert_eq!(v1[58..62], [0x0a, 0x0b, 0x0c, 0x0d]);
    assert_eq!(decode(&v1), [Ok(record)]);
    for (host_order, first) in [
        (HostOrder::Little, [1, 0, 0, 0]),
        (HostOrder::Big, [0, 0, 0, 1]),
    ] {
        let mut builder = Builder::new(Version::V0, 7, 1472).with_host_order(host_order);
        assert_eq!(builder.push(&record), Ok(true));
        let v0 = builder.finish().expect("a record");
        assert_eq!((v0.len(), &v0[28..32]), (4 + 48, &first[..]));
        let receiver = Receiver {
            sync_id: 0,
            host_order,
        };
        let back: Vec<_> = receiver.open(v0).expect("a message").records().collect();
        assert_eq!(back, [Ok(record)]);
    }
}

#[test]
fn flags_promise_no_sequence_blocks_that_are_not_there_and_never_the_senders_table() {
    let record = Record::Conn(ConnRecord {
        flags: 0x640,
        ..web()
    });
    for version in [Version::V0, Version::V1] {
        let bytes = message(version, &[record, record]);
        let decoded = decode(&bytes);
        assert_eq!(decoded.len(), 2);
        assert!(
            decoded
                .iter()
                .all(|r| r.expect("a record").entry().flags == 0)
        );
    }
}

/// What a test keeps of a record, engine included.
#[derive(Clone, Debug)]
struct Kept {
    entry: ConnRecord,
    engine: Option<(Vec<u8>, Vec<u8>)>,
}

impl Kept {
    fn record(&self) -> Record<'_> {
        let engine = self.engine.as_ref();
        Record::new(self.entry, engine.map(|(name, data)| Engine { name, data }))
    }
}

fn any_ends() -> impl Strategy<Value = AnyEnds> {
    let four = any::<(u8, [u32; 3], [u16; 3])>().prop_map(|(proto, a, p)| {
        AnyEnds::V4(Ends::<V4> {
            proto,
            caddr: Addr4(a[0]),
            cport: p[0],
            vaddr: Addr4(a[1]),
            vport: p[1],
            daddr: Addr4(a[2]),
            dport: p[2],
        })
    });
    let six = any::<(u8, [[u64; 2]; 3], [u16; 3])>().prop_map(|(proto, a, p)| {
        AnyEnds::V6(Ends::<V6> {
            proto,
            caddr: Addr6(a[0]),
            cport: p[0],
            vaddr: Addr6(a[1]),
            vport: p[1],
            daddr: Addr6(a[2]),
            dport: p[2],
        })
    });
    prop_oneof![four, six]
}

fn any_record() -> impl Strategy<Value = Kept> {
    let seq = proptest::option::weighted(0.2, any::<[u32; 6]>());
    let engine = proptest::option::of((
        proptest::collection::vec(any::<u8>(), 1..=16),
        proptest::collection::vec(any::<u8>(), 1..=255),
    ));
    (any_ends(), any::<(u32, u16, u32, u32)>(), seq, engine).prop_map(
        |(ends, (flags, state, mark, timeout_s), seq, engine)| {
            let flags = flags & !(flag::HASHED | flag::SEQ);
            let pair = |n: &[u32]| SeqPair {
                init: n[0],
                delta: n[1],
                previous_delta: n[2],
            };
            let entry = ConnRecord {
                ends,
                flags: if seq.is_some() { flags | 0x200 } else { flags },
                state,
                mark,
                timeout_s,
                seq: seq.map(|n| Seq {
                    inward: pair(&n),
                    outward: pair(&n[3..]),
                }),
            };
            let engine = engine.filter(|_| flags & flag::TEMPLATE != 0);
            Kept { entry, engine }
        },
    )
}

/// All records in as many messages as that takes.
fn messages(version: Version, max_len: usize, records: &[Kept]) -> Vec<Vec<u8>> {
    let mut builder = Builder::new(version, 1, max_len);
    let mut out = Vec::new();
    for kept in records {
        if !builder.push(&kept.record()).expect("it can be carried") {
            out.extend(builder.finish().map(<[u8]>::to_vec));
            assert_eq!(builder.push(&kept.record()), Ok(true));
        }
    }
    out.extend(builder.finish().map(<[u8]>::to_vec));
    out
}

/// What version 0 leaves of a record.
fn in_v0(kept: &Kept) -> Kept {
    Kept {
        entry: ConnRecord {
            flags: kept.entry.flags & 0xffff,
            mark: 0,
            timeout_s: 0,
            ..kept.entry
        },
        engine: None,
    }
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(
        records in proptest::collection::vec(any_record(), 0..60),
        max_len in 1_usize..5000,
    ) {
        let four: Vec<Kept> = records.iter().filter(|r| r.entry.ends.af() == crate::net::Af::V4).cloned().collect();
        let left: Vec<Kept> = four.iter().map(in_v0).collect();
        for (version, put, want) in [(Version::V1, &records, &records), (Version::V0, &four, &left)] {
            let sent = messages(version, max_len, put);
            let mut want = want.iter();
            for message in &sent {
                let opened = open(message).expect("a message");
                prop_assert!(message.len() <= max_len || opened.count == 1);
                prop_assert_eq!(opened.version, version);
                let mut records = opened.records();
                for record in &mut records {
                    let want = want.next().expect("no more than went in");
                    prop_assert_eq!(record, Ok(want.record()));
                }
                prop_assert_eq!(records.unread(), 0);
            }
            prop_assert!(want.next().is_none());
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic_and_what_is_read_can_be_sent(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        v1 in any::<bool>(),
    ) {
        make_plausible(&mut bytes, v1);
        consume(&bytes);
    }
}

/// Makes bytes get past the checks of the header.
fn make_plausible(bytes: &mut [u8], v1: bool) {
    let len = u16::try_from(bytes.len()).expect("short");
    if let Some(header) = bytes.first_chunk_mut::<8>() {
        header[2..4].copy_from_slice(&len.to_be_bytes());
        if v1 {
            header[0] = 0;
            header[5..8].copy_from_slice(&[1, 0, 0]);
        }
    }
}

/// Reads all of a message, and checks what holds of any: records are bounded by the count, an error
/// that ends the message is the last item, and records survive being sent again.
fn consume(bytes: &[u8]) {
    let Ok(message) = open(bytes) else {
        return;
    };
    let records: Vec<_> = message.records().collect();
    assert!(records.len() <= usize::from(message.count));
    let ended = records
        .iter()
        .position(|r| r.is_err_and(Rejected::ends_message));
    assert!(ended.is_none_or(|at| at + 1 == records.len()));
    for record in records.into_iter().flatten() {
        let mut builder = Builder::new(message.version, 1, MAX_LEN_V4);
        assert_eq!(builder.push(&record), Ok(true), "{record:?}");
        let again = builder.finish().expect("a record").to_vec();
        let back = decode(&again)[0].expect("a record");
        assert_eq!(back.engine(), record.engine());
        let (back, record) = (back.entry(), record.entry());
        assert_eq!((back.ends, back.state), (record.ends, record.state));
        assert_eq!(
            back.flags | flag::SEQ | flag::HASHED,
            record.flags | flag::SEQ | flag::HASHED
        );
    }
}

/// What a fuzzer does, for a bounded time: changed copies of good messages.
#[test]
fn mutated_messages_are_read_without_panic() {
    let pair = |n| SeqPair {
        init: n,
        delta: 1,
        previous_delta: 2,
    };
    let seq = Some(Seq {
        inward: pair(7),
        outward: pair(9),
    });
    let adjusted = Record::Conn(ConnRecord {
        flags: 0x600,
        seq,
        ..web()
    });
    let corpus = [
        hex(V1_GOLDEN),
        hex(V0_GOLDEN),
        message(Version::V1, &[adjusted, call(), adjusted, call()]),
        message(Version::V0, &[adjusted, Record::Conn(web()), adjusted]),
    ];
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).expect("it is below a usize")
    };
    for round in 0..300_000 {
        let mut bytes = corpus[round % corpus.len()].clone();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(6) {
                0 => bytes[at] ^= 1 << random(8),
                1 => bytes[at] = random(256) as u8,
                2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, 0x40][random(6)],
                3 => bytes.truncate(at.max(1)),
                4 => bytes.insert(at, random(256) as u8),
                _ => bytes.extend_from_within(at..),
            }
        }
        if random(4) != 0 {
            let v1 = bytes[0] == 0;
            make_plausible(&mut bytes, v1);
        }
        let ran = catch_unwind(|| consume(&bytes));
        assert!(ran.is_ok(), "round {round}: {bytes:02x?}");
    }
}

#[test]
fn rejections_are_counted_by_reason() {
    let mut counts = Rejections::default();
    counts.note(Rejected::Size);
    counts.note(Rejected::Size);
    counts.note(Rejected::State);
    assert_eq!((counts.of(Rejected::Size), counts.total()), (2, 3));
    let seen: Vec<_> = counts.iter().filter(|(_, n)| *n > 0).collect();
    assert_eq!(seen, [(Rejected::Size, 2), (Rejected::State, 1)]);
    let names: std::collections::BTreeSet<_> = Rejected::ALL.iter().map(|r| r.name()).collect();
    assert_eq!(names.len(), Rejected::ALL.len());
}
