use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::net::{Addr4, Addr6, Af, HashKey, V4, V6};
use crate::sync::entry::{ConnEntry, Entry, EntryId, ServiceName, TemplateEntry};
use crate::sync::ipvs::AnyEnds;
use crate::sync::polder::{Rejected, seal};
use crate::table::template::DATA_MAX;
use crate::table::{Ends, flag};

const KEY: HashKey = HashKey([1, 2, 3, 4]);

fn web() -> ConnEntry {
    let ends = Ends::<V4> {
        proto: 6,
        caddr: Ipv4Addr::new(198, 51, 100, 7).into(),
        cport: 40_000,
        vaddr: Ipv4Addr::new(192, 0, 2, 1).into(),
        vport: 80,
        daddr: Ipv4Addr::new(10, 0, 0, 2).into(),
        dport: 8080,
    };
    ConnEntry {
        ends: ends.into(),
        mark: 0,
        state: 1,
        flags: flag::NOOUTPUT | 3,
        timeout: 90_000,
        remaining: 80_000,
        template: None,
    }
}

fn call() -> TemplateEntry {
    let mut client = [0; 16];
    client[..4].copy_from_slice(&[198, 51, 100, 0]);
    TemplateEntry {
        service: ServiceName::Address {
            proto: 17,
            addr: Ipv4Addr::new(192, 0, 2, 1).into(),
            port: 5060,
        },
        af: Af::V4,
        proto: 17,
        client,
        vaddr: [0; 16],
        vport: 5060,
        data: Some(b"call-1".as_slice().into()),
        dest: (Ipv4Addr::new(10, 0, 0, 2), 5060).into(),
        timeout: 30_000,
        remaining: 29_000,
        assured: true,
    }
}

fn template(template: TemplateEntry) -> Entry {
    Entry::Template(Box::new(template))
}

fn upsert(entry: &Entry) -> Record<'_> {
    Record::Upsert(Cow::Borrowed(entry))
}

/// The bodies of a stream of `records`, numbered from 1.
fn bodies(max_len: usize, records: &[Record<'_>]) -> Vec<Vec<u8>> {
    let mut builder = StreamBuilder::new(max_len);
    let (mut out, mut seq) = (Vec::new(), 0);
    for record in records {
        while !builder.push(record) {
            seq += 1;
            out.push(builder.finish(seq).expect("it is full").to_vec());
        }
    }
    loop {
        seq += 1;
        match builder.finish(seq) {
            Some(body) => out.push(body.to_vec()),
            None => return out,
        }
    }
}

fn stream(body: &[u8]) -> Stream<'_> {
    match decode(Kind::Stream, body) {
        Ok(Message::Stream(stream)) => stream,
        other => panic!("{other:?}"),
    }
}

fn joined(bodies: &[Vec<u8>]) -> Vec<Result<Record<'_>, Rejected>> {
    let mut joiner = Joiner::default();
    bodies
        .iter()
        .flat_map(|body| joiner.records(&stream(body)).collect::<Vec<_>>())
        .collect()
}

fn one(record: &Record<'_>) -> Vec<u8> {
    bodies(1472, std::slice::from_ref(record)).remove(0)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn the_layout_is_what_the_decision_says() {
    let linked = ConnEntry {
        template: Some(EntryId(0xaabb)),
        ..web()
    };
    let told = |entry| Record::Upsert(Cow::Owned(entry));
    let vector = [Bucket { count: 1, sum: 2 }.bytes()];
    let cases = [
        (
            told(Entry::Conn(web())),
            "010023 00 06 01 0083 9c40 0050 1f90 00000000 00015f90 00013880 c6336407 c0000201 0a000002",
        ),
        (
            told(Entry::Conn(linked)),
            "010033 01 06 01 0083 9c40 0050 1f90 00000000 00015f90 00013880 c6336407 c0000201 0a000002 \
             0000000000000000000000000000aabb",
        ),
        (
            told(template(call())),
            "030029 03 04 11 13c4 03 c63364 00 04 11 13c4 c0000201 04 13c4 0a000002 00007530 00007148 \
             0006 63616c6c2d31",
        ),
        (
            Record::Remove(EntryId(0xaabb)),
            "100010 0000000000000000000000000000aabb",
        ),
        (
            Record::Mark(Mark {
                tick: 5,
                count: 6,
                sum: 7,
                versions: Versions::OURS,
            }),
            "110016 00000005 0000000000000006 0000000000000007 01 01",
        ),
        (
            Record::MarkVector {
                first_bucket: 224,
                buckets: Buckets::new(&vector),
            },
            "12000d e0 00000001 0000000000000002",
        ),
        (Record::RepairBegin(9), "130001 09"),
        (Record::RepairEnd(9), "140001 09"),
    ];
    for (record, text) in cases {
        let text = format!("0000000000000001{text}").replace(' ', "");
        assert_eq!(hex(&one(&record)), text, "{record:?}");
    }
}

#[test]
fn ids_and_digests_are_the_same_in_every_release() {
    let entries = [Entry::Conn(web()), template(call())];
    let known: Vec<_> = entries
        .iter()
        .map(|e| format!("{:032x} {:016x}", id_of(&KEY, e).0, digest_of(&KEY, e)))
        .collect();
    assert_eq!(
        known,
        [
            "032529f5a7701bc621bb8c59b0dae6a2 5e71e1389705ed95",
            "7c514b0673151f520b4437fb4403d767 344478c5f9d9af16"
        ]
    );
}

#[test]
fn an_id_is_of_the_key_and_a_digest_of_all_but_the_time_left() {
    let v4 = |change: fn(&mut Ends<V4>)| {
        let mut conn = web();
        let AnyEnds::V4(ends) = &mut conn.ends else {
            unreachable!("it is IPv4")
        };
        change(ends);
        Entry::Conn(conn)
    };
    let conn = |change: fn(&mut ConnEntry)| {
        let mut conn = web();
        change(&mut conn);
        Entry::Conn(conn)
    };
    let call_but = |change: fn(&mut TemplateEntry)| {
        let mut entry = call();
        change(&mut entry);
        template(entry)
    };
    // What is changed, whether the id changes, whether the digest does.
    let cases = [
        (v4(|e| e.proto = 17), true, true),
        (v4(|e| e.caddr = Addr4(1)), true, true),
        (v4(|e| e.cport = 1), true, true),
        (v4(|e| e.vaddr = Addr4(1)), true, true),
        (v4(|e| e.vport = 1), true, true),
        (v4(|e| e.daddr = Addr4(1)), false, true),
        (v4(|e| e.dport = 1), false, true),
        (conn(|c| c.mark = 1), false, true),
        (conn(|c| c.state = 2), false, true),
        (conn(|c| c.flags = 0), false, true),
        (conn(|c| c.timeout = 1), false, true),
        (conn(|c| c.remaining = 1), false, false),
        (conn(|c| c.template = Some(EntryId(1))), false, true),
        (conn(|c| c.flags |= !0x187), false, false),
        (
            call_but(|t| {
                t.service = ServiceName::Mark {
                    af: Af::V4,
                    mark: 1,
                }
            }),
            true,
            true,
        ),
        (call_but(|t| t.af = Af::V6), true, true),
        (call_but(|t| t.proto = 6), true, true),
        (call_but(|t| t.client[0] = 1), true, true),
        (call_but(|t| t.client[15] = 1), true, true),
        (call_but(|t| t.vaddr[0] = 1), true, true),
        (call_but(|t| t.vport = 1), true, true),
        (call_but(|t| t.data = None), true, true),
        (call_but(|t| t.data = Some([].into())), true, true),
        (
            call_but(|t| t.data = Some(b"call-2".as_slice().into())),
            true,
            true,
        ),
        (
            call_but(|t| t.dest = (Ipv6Addr::LOCALHOST, 1).into()),
            false,
            true,
        ),
        (call_but(|t| t.timeout = 1), false, true),
        (call_but(|t| t.remaining = 1), false, false),
        (call_but(|t| t.assured = false), false, true),
    ];
    for (entry, id, digest) in cases {
        let base = match entry {
            Entry::Conn(_) => Entry::Conn(web()),
            Entry::Template(_) => template(call()),
        };
        assert_eq!(id_of(&KEY, &entry) != id_of(&KEY, &base), id, "{entry:?}");
        let differs = digest_of(&KEY, &entry) != digest_of(&KEY, &base);
        assert_eq!(differs, digest, "{entry:?}");
    }
}

#[test]
fn ids_and_digests_depend_on_the_secret() {
    for entry in [Entry::Conn(web()), template(call())] {
        for i in 0..4 {
            let mut other = KEY;
            other.0[i] ^= 1 << 40;
            assert_ne!(id_of(&KEY, &entry), id_of(&other, &entry));
            assert_ne!(digest_of(&KEY, &entry), digest_of(&other, &entry));
        }
    }
}

#[test]
fn both_halves_of_ids_are_spread() {
    let (mut high, mut low) = (std::collections::HashSet::new(), [0u32; BUCKETS]);
    for i in 0..65_536 {
        let mut conn = web();
        let AnyEnds::V4(ends) = &mut conn.ends else {
            unreachable!("it is IPv4")
        };
        ends.caddr = Addr4(i);
        let id = id_of(&KEY, &Entry::Conn(conn));
        assert!(high.insert((id.0 >> 64) as u64));
        low[usize::from(id.0 as u8)] += 1;
        low[usize::from(bucket_of(id))] += 1;
    }
    // 512 expected in each of them, a deviation of 23.
    assert!(low.iter().all(|n| (380..640).contains(n)), "{low:?}");
}

#[test]
fn the_longest_key_of_a_template_travels_in_pieces() {
    let long = template(TemplateEntry {
        data: Some((0..DATA_MAX).map(|i| i as u8).collect()),
        ..call()
    });
    let (before, after) = (Entry::Conn(web()), template(call()));
    let records = [upsert(&before), upsert(&long), upsert(&after)];
    for max_len in [0, 600, 1472, seal::DATAGRAM_MAX, usize::MAX] {
        let bodies = bodies(max_len, &records);
        let room = max_len
            .min(seal::DATAGRAM_MAX)
            .saturating_sub(seal::OVERHEAD)
            .max(BODY_MIN);
        assert!(bodies.iter().all(|b| b.len() <= room));
        assert!(bodies.len() >= DATA_MAX.div_ceil(room));
        let got: Vec<_> = joined(&bodies)
            .into_iter()
            .map(|r| r.expect("whole"))
            .collect();
        assert_eq!(got, records);
    }
}

#[test]
fn a_record_with_a_piece_missing_is_not_made_up() {
    let long = template(TemplateEntry {
        data: Some(vec![7; 5000].into()),
        ..call()
    });
    let after = Record::RepairEnd(1);
    let whole = bodies(1472, &[upsert(&long), after.clone()]);
    assert_eq!(whole.len(), 4);
    for missing in 0..whole.len() - 1 {
        let mut bodies = whole.clone();
        bodies.remove(missing);
        let got = joined(&bodies);
        assert!(got.contains(&Err(Rejected::Piece)), "{got:?}");
        assert!(got.iter().all(|r| !matches!(r, Ok(Record::Upsert(_)))));
        assert_eq!(got.last(), Some(&Ok(after.clone())));
    }
    // Without its last piece it never comes to an end, and the next long record begins anew.
    let mut bodies = whole[..2].to_vec();
    bodies.extend(whole.clone());
    assert_eq!(joined(&bodies), [Ok(upsert(&long)), Ok(after)]);
}

#[test]
fn a_joiner_keeps_no_more_than_the_longest_record() {
    let mut joiner = Joiner::default();
    let piece = |offset, total, bytes| Piece {
        offset,
        total,
        bytes,
    };
    let huge = piece(0, u32::MAX, b"x");
    assert_eq!(joiner.take(&huge), Err(Rejected::Piece));
    let empty = piece(0, 0, b"");
    assert_eq!(joiner.take(&empty), Err(Rejected::Piece));
    let over = piece(0, 1, b"xy");
    assert_eq!(joiner.take(&over), Err(Rejected::Piece));
    assert_eq!(joiner.take(&piece(0, 3, b"x")), Ok(None));
    assert_eq!(joiner.take(&piece(1, 2, b"y")), Err(Rejected::Piece));
    // A long record of a newer release.
    assert_eq!(joiner.take(&piece(0, 2, b"\xffx")), Ok(None));
}

#[test]
fn what_a_newer_release_adds_is_passed_over() {
    let mut body = one(&Record::Remove(EntryId(5)));
    // A type that is not known, then a known record with a field more, then one that is known.
    body.extend([200, 0, 3, 1, 2, 3]);
    body.extend([19, 0, 2, 9, 77]);
    body.extend([20, 0, 1, 9]);
    let got: Vec<_> = stream(&body).records().collect();
    assert_eq!(
        got,
        [
            Ok(Record::Remove(EntryId(5))),
            Ok(Record::Unknown {
                kind: 200,
                bytes: &[1, 2, 3]
            }),
            Ok(Record::RepairBegin(9)),
            Ok(Record::RepairEnd(9)),
        ]
    );
}

#[test]
fn a_wrong_record_is_skipped_and_a_cut_one_ends_the_body() {
    let no_values: &[(&str, &[u8], Rejected)] = &[
        ("removal without an id", &[16, 0, 0], Rejected::RecordShort),
        (
            "mark without versions",
            &[17, 0, 4, 0, 0, 0, 0],
            Rejected::RecordShort,
        ),
        ("vector of nothing", &[18, 0, 1, 0], Rejected::RecordValue),
        (
            "vector without a bucket",
            &[18, 0, 0],
            Rejected::RecordShort,
        ),
        ("connection of nothing", &[1, 0, 0], Rejected::RecordShort),
        (
            "template of no family",
            &[3, 0, 2, 0, 5],
            Rejected::RecordValue,
        ),
        (
            "template of nothing",
            &[3, 0, 2, 0, 4],
            Rejected::RecordShort,
        ),
        ("piece of nothing", &[21, 0, 1, 0], Rejected::RecordShort),
    ];
    for (what, bytes, why) in no_values {
        let mut body = 7u64.to_be_bytes().to_vec();
        body.extend_from_slice(bytes);
        body.extend([20, 0, 1, 9]);
        let got: Vec<_> = stream(&body).records().collect();
        assert_eq!(got, [Err(*why), Ok(Record::RepairEnd(9))], "{what}");
    }
    for cut in [&[20][..], &[20, 0], &[20, 0, 2, 9]] {
        let mut body = 7u64.to_be_bytes().to_vec();
        body.extend_from_slice(cut);
        let got: Vec<_> = stream(&body).records().collect();
        assert_eq!(got, [Err(Rejected::RecordCut)]);
    }
}

#[test]
fn values_that_nothing_can_have_are_refused() {
    let spoil = |entry: &Entry, at: usize, bytes: &[u8]| {
        let mut body = one(&upsert(entry));
        body[11 + at..11 + at + bytes.len()].copy_from_slice(bytes);
        let first = stream(&body).records().next().expect("a record");
        first.map(|_| ())
    };
    let (conn, call) = (Entry::Conn(web()), template(call()));
    let far = (TIME_MAX + 1).to_be_bytes();
    // Where in the fields, and what is put there.
    let cases: &[(&Entry, usize, &[u8])] = &[
        (&conn, 15, &far),
        (&conn, 19, &far),
        (&call, 1, &[5]),
        (&call, 5, &[17]),
        (&call, 10, &[2]),
        (&call, 18, &[0]),
        (&call, 25, &far),
        (&call, 29, &far),
    ];
    for (entry, at, bytes) in cases {
        assert_eq!(spoil(entry, *at, bytes), Err(Rejected::RecordValue), "{at}");
    }
    // A mark of 0 is no mark.
    let marked = template(TemplateEntry {
        service: ServiceName::Mark {
            af: Af::V4,
            mark: 1,
        },
        ..self::call()
    });
    assert_eq!(spoil(&marked, 12, &[0; 4]), Err(Rejected::RecordValue));
}

#[test]
fn times_beyond_the_formats_are_told_as_the_longest() {
    let entry = Entry::Conn(ConnEntry {
        timeout: u32::MAX,
        remaining: u32::MAX,
        ..web()
    });
    let body = one(&upsert(&entry));
    let Some(Ok(Record::Upsert(got))) = stream(&body).records().next() else {
        panic!("no entry");
    };
    assert_eq!((got.timeout(), got.remaining()), (TIME_MAX, TIME_MAX));
    assert_eq!(digest_of(&KEY, &got), digest_of(&KEY, &entry));
}

#[test]
fn messages_come_back_as_they_were() {
    let hello = Hello {
        nonce: 1,
        versions: Versions { min: 1, max: 3 },
        name: "left-é",
    };
    let welcome = Welcome {
        echo: 1,
        hello_boot: 2,
        next_seq: 3,
        id_key: KEY,
        count: 4,
        roles: Roles {
            master: true,
            backup: false,
        },
        versions: Versions::OURS,
        name: "",
    };
    let nack = Nack {
        boot: 9,
        ranges: vec![(1, 1), (3, u64::MAX)],
    };
    let want = |what| Want { boot: 9, what };
    let (vector, repair) = (want(Wanted::Vector), want(Wanted::Repair([0xa5; 32])));
    let lost = Lost { up_to: 12 };
    let report = Report {
        boot: 9,
        applied_seq: 8,
        tick: 7,
        have: 6,
        covered: 5,
        uninstalled: 4,
        dirty: true,
    };
    let cases = [
        (Kind::Hello, encode_hello(&hello), Message::Hello(hello)),
        (
            Kind::Welcome,
            encode_welcome(&welcome),
            Message::Welcome(welcome),
        ),
        (Kind::Nack, encode_nack(&nack), Message::Nack(nack)),
        (Kind::Lost, encode_lost(&lost), Message::Lost(lost)),
        (Kind::Want, encode_want(&vector), Message::Want(vector)),
        (Kind::Want, encode_want(&repair), Message::Want(repair)),
        (
            Kind::Report,
            encode_report(&report),
            Message::Report(report),
        ),
    ];
    for (kind, mut body, message) in cases {
        assert_eq!(decode(kind, &body), Ok(message.clone()));
        for len in 0..body.len() {
            assert_eq!(decode(kind, &body[..len]), Err(Rejected::Body), "{kind:?}");
        }
        // A newer release's fields behind it.
        body.extend([1, 2, 3]);
        assert_eq!(decode(kind, &body), Ok(message));
    }
}

#[test]
fn names_are_cut_between_characters() {
    let name = "é".repeat(NAME_MAX);
    let hello = Hello {
        nonce: 1,
        versions: Versions::OURS,
        name: &name[..2 * NAME_MAX - 1 - 1],
    };
    let body = encode_hello(&hello);
    let Ok(Message::Hello(got)) = decode(Kind::Hello, &body) else {
        panic!("no hello");
    };
    assert_eq!(got.name, "é".repeat(NAME_MAX / 2));
}

#[test]
fn impossible_messages_are_refused() {
    let nack = |from: u64, to: u64, count: u8| {
        let mut body = [0; 8].to_vec();
        body.push(count);
        for _ in 0..count {
            body.extend(from.to_be_bytes());
            body.extend(to.to_be_bytes());
        }
        body
    };
    assert!(decode(Kind::Nack, &nack(1, 2, 64)).is_ok());
    assert!(decode(Kind::Nack, &nack(2, 1, 1)).is_err());
    assert!(decode(Kind::Nack, &nack(1, 2, 65)).is_err());
    let hello = |versions: [u8; 2], name: &[u8]| {
        let mut body = [0; 8].to_vec();
        body.extend(versions);
        body.push(u8::try_from(name.len()).expect("short"));
        body.extend(name);
        body
    };
    assert!(decode(Kind::Hello, &hello([1, 2], b"a")).is_ok());
    assert!(decode(Kind::Hello, &hello([2, 1], b"a")).is_err());
    assert!(decode(Kind::Hello, &hello([1, 2], &[0xff])).is_err());
    assert!(decode(Kind::Hello, &hello([1, 2], &[b'a'; 65])).is_err());
    assert!(decode(Kind::Want, &[0, 0, 0, 0, 0, 0, 0, 0, 3]).is_err());
}

#[test]
fn a_vector_is_made_of_records_that_fit_anywhere() {
    let all: Vec<_> = (0..BUCKETS as u32)
        .map(|i| {
            Bucket {
                count: i,
                sum: u64::from(i) << 40,
            }
            .bytes()
        })
        .collect();
    let records: Vec<_> = all
        .chunks(VECTOR_MAX)
        .enumerate()
        .map(|(i, chunk)| Record::MarkVector {
            first_bucket: u8::try_from(i * VECTOR_MAX).expect("below 256"),
            buckets: Buckets::new(chunk),
        })
        .collect();
    let bodies = bodies(0, &records);
    let got: Vec<_> = joined(&bodies).into_iter().flatten().collect();
    assert_eq!(got, records);
    let Record::MarkVector { buckets, .. } = &got[7] else {
        panic!("another record");
    };
    let last = buckets.iter().last().expect("there are some");
    assert_eq!((last.count, last.sum), (255, 255 << 40));
}

#[test]
fn a_builder_is_empty_until_a_record_comes_and_after_it_was_finished() {
    let mut builder = StreamBuilder::new(1472);
    assert!(builder.is_empty());
    assert_eq!(builder.finish(1), None);
    assert!(builder.push(&Record::RepairBegin(1)));
    assert!(!builder.is_empty());
    assert_eq!(builder.finish(1).map(<[u8]>::len), Some(12));
    assert!(builder.is_empty());
    assert_eq!(builder.finish(2), None);
}

fn any_conn() -> impl Strategy<Value = ConnEntry> {
    let ends = (
        any::<bool>(),
        any::<[u64; 6]>(),
        any::<[u16; 3]>(),
        any::<u8>(),
    );
    let rest = (
        any::<u32>(),
        any::<u8>(),
        any::<u16>(),
        0..=TIME_MAX,
        0..=TIME_MAX,
        any::<Option<u128>>(),
    );
    (ends, rest).prop_map(|((v6, a, ports, proto), rest)| {
        let [cport, vport, dport] = ports;
        let v4 = |i: usize| Addr4(a[i] as u32);
        let ends = if v6 {
            Ends::<V6> {
                proto,
                caddr: Addr6([a[0], a[1]]),
                cport,
                vaddr: Addr6([a[2], a[3]]),
                vport,
                daddr: Addr6([a[4], a[5]]),
                dport,
            }
            .into()
        } else {
            let (caddr, vaddr, daddr) = (v4(0), v4(1), v4(2));
            Ends::<V4> {
                proto,
                caddr,
                cport,
                vaddr,
                vport,
                daddr,
                dport,
            }
            .into()
        };
        let (mark, state, flags, timeout, remaining, id) = rest;
        ConnEntry {
            ends,
            mark,
            state,
            flags: flags & 0x187,
            timeout,
            remaining,
            template: id.map(EntryId),
        }
    })
}

fn any_af() -> impl Strategy<Value = Af> {
    any::<bool>().prop_map(|v6| if v6 { Af::V6 } else { Af::V4 })
}

fn any_template() -> impl Strategy<Value = TemplateEntry> {
    let service = prop_oneof![
        (any::<u8>(), any::<std::net::IpAddr>(), any::<u16>())
            .prop_map(|(proto, addr, port)| ServiceName::Address { proto, addr, port }),
        (any_af(), 1..=u32::MAX).prop_map(|(af, mark)| ServiceName::Mark { af, mark }),
    ];
    let short = |bytes: [u8; 16], len: usize| {
        let mut out = [0; 16];
        out[..len].copy_from_slice(&bytes[..len]);
        out
    };
    let addr = (any::<[u8; 16]>(), 0..=16usize).prop_map(move |(b, len)| short(b, len));
    let dest = (any::<std::net::IpAddr>(), any::<u16>()).prop_map(SocketAddr::from);
    let data = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300));
    (
        (service, any_af(), any::<u8>(), addr.clone(), addr),
        (
            any::<u16>(),
            data,
            dest,
            0..=TIME_MAX,
            0..=TIME_MAX,
            any::<bool>(),
        ),
    )
        .prop_map(|((service, af, proto, client, vaddr), rest)| {
            let (vport, data, dest, timeout, remaining, assured) = rest;
            TemplateEntry {
                service,
                af,
                proto,
                client,
                vaddr,
                vport,
                data: data.map(Vec::into_boxed_slice),
                dest,
                timeout,
                remaining,
                assured,
            }
        })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        any_conn().prop_map(Entry::Conn),
        any_template().prop_map(template),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn entries_come_back_as_they_were(
        entries in proptest::collection::vec(any_entry(), 0..40),
        max_len in 0..2000usize,
    ) {
        let records: Vec<_> = entries.iter().map(upsert).collect();
        let bodies = bodies(max_len, &records);
        let seqs: Vec<_> = bodies.iter().map(|b| stream(b).seq).collect();
        prop_assert_eq!(seqs, (1..=bodies.len() as u64).collect::<Vec<_>>());
        let got: Vec<_> = joined(&bodies).into_iter().map(|r| r.expect("whole")).collect();
        prop_assert_eq!(got, records);
    }

    #[test]
    fn a_cut_record_is_never_taken(entry in any_entry(), cut in any::<prop::sample::Index>()) {
        let body = one(&upsert(&entry));
        let len = 8 + cut.index(body.len() - 8);
        let got: Vec<_> = stream(&body[..len]).records().collect();
        prop_assert!(got.iter().all(|r| *r == Err(Rejected::RecordCut)));
        // The same with a length that says it is whole.
        let mut body = body[..len.max(11)].to_vec();
        let left = u16::try_from(body.len() - 11).expect("short");
        body[9..11].copy_from_slice(&left.to_be_bytes());
        let got: Vec<_> = stream(&body).records().collect();
        prop_assert_eq!(got, [Err(Rejected::RecordShort)]);
    }
}
