//! Hostile bytes for the decoders of state sync, both formats: changed messages and noise, from a seed.
//!
//! `POLDER_SEED` begins elsewhere, `POLDER_FUZZ_CASES` runs more or fewer. A failure names the seed of its case, which
//! alone repeats it as `POLDER_SEED=… POLDER_FUZZ_CASES=1`.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use polder::net::{Addr4, Addr6, Af, HashKey, V4, V6};
use polder::sync::backup::{Terms, accept};
use polder::sync::entry::{ConnEntry, Entry, EntryId, ServiceName, TemplateEntry};
use polder::sync::ipvs::{
    AnyEnds, Builder, ConnRecord, Engine, HostOrder, Receiver, Record as IpvsRecord, Seq, Version,
};
use polder::sync::polder::Keys;
use polder::sync::polder::seal::{self, DATAGRAM_MAX, Sealer};
use polder::sync::polder::wire::{
    self, Bucket, Buckets, Hello, Joiner, Kind, Lost, Mark, Message, Nack, Record, Report, Roles,
    StreamBuilder, Versions, Want, Wanted, Welcome,
};
use polder::table::{Ends, StateTimeouts};

/// Cases of each test if nobody says otherwise.
const CASES: u64 = 600_000;
/// On a machine that is far too slow, less than all is better than a test that never ends.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Longest input of noise, in bytes.
const NOISE_MAX: usize = 300;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn noise(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// Runs `case` with the seeds that follow the first.
fn cases(name: &str, count: u64, mut case: impl FnMut(&mut Random)) {
    let first = number("POLDER_SEED").unwrap_or(1);
    let count = number("POLDER_FUZZ_CASES").unwrap_or(count);
    let start = Instant::now();
    for i in 0..count {
        let seed = first.wrapping_add(i);
        let run = catch_unwind(AssertUnwindSafe(|| case(&mut Random(seed))));
        if let Err(panic) = run {
            eprintln!("{name}: failed with POLDER_SEED={seed} POLDER_FUZZ_CASES=1");
            resume_unwind(panic);
        }
        if i % 1024 == 0 && start.elapsed() > TIME_MAX {
            eprintln!("SKIPPED: {name}: {i} of {count} cases took {TIME_MAX:?}, no more were run");
            return;
        }
    }
    println!("{name}: {count} cases in {:?}", start.elapsed());
}

/// Numbers that decoders are known to trip over.
const ODD: [u8; 9] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, 16, 64];

/// Changes a message here and there.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(9) {
            0 => bytes.truncate(at),
            1 => {
                let len = random.below(40);
                let more = random.noise(len);
                bytes.extend(more);
            }
            2 => {
                // A part of another message, where it does not belong.
                let other = random.one_of(corpus);
                let from = random.below(other.len());
                let to = (from + 1 + random.below(64)).min(other.len());
                bytes.splice(at..at, other[from.min(to)..to].iter().copied());
            }
            3 => {
                let to = (at + random.below(32)).min(bytes.len());
                bytes.drain(at..to);
            }
            4 | 5 if !bytes.is_empty() => bytes[at] = *random.one_of(&ODD),
            6 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            _ if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            _ => bytes.push(0),
        }
    }
}

/// A message of the corpus, mostly changed, or noise.
fn input(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    match random.below(16) {
        0 => {
            let len = random.below(NOISE_MAX);
            random.noise(len)
        }
        1 => random.one_of(corpus).clone(),
        _ => {
            let mut bytes = random.one_of(corpus).clone();
            mutate(random, &mut bytes, corpus);
            bytes
        }
    }
}

fn ends(random: &mut Random) -> AnyEnds {
    let proto = *random.one_of(&[6, 17, 132, 0]);
    let [cport, vport, dport] = [0; 3].map(|_: u16| random.next() as u16);
    if random.below(2) == 0 {
        let [caddr, vaddr, daddr] = [0; 3].map(|_: u16| Addr4(random.next() as u32));
        let ends: Ends<V4> = Ends {
            proto,
            caddr,
            cport,
            vaddr,
            vport,
            daddr,
            dport,
        };
        return ends.into();
    }
    let [caddr, vaddr, daddr] = [0; 3].map(|_: u16| Addr6([random.next(), random.next()]));
    let ends: Ends<V6> = Ends {
        proto,
        caddr,
        cport,
        vaddr,
        vport,
        daddr,
        dport,
    };
    ends.into()
}

fn entry(random: &mut Random) -> Entry {
    if random.below(2) == 0 {
        return Entry::Conn(ConnEntry {
            ends: ends(random),
            mark: random.next() as u32,
            state: random.below(12) as u8,
            flags: random.next() as u16 & 0x187,
            timeout: random.below(90_000) as u32,
            remaining: random.below(90_000) as u32,
            template: (random.below(2) == 0).then(|| EntryId(u128::from(random.next()) << 9)),
        });
    }
    let mut client = [0; 16];
    client[..4].copy_from_slice(&[198, 51, 100, random.next() as u8]);
    let data = random.below(90);
    let addr = Ipv6Addr::from(u128::from(random.next())).into();
    let service = match random.below(3) {
        0 => ServiceName::Mark {
            af: Af::V4,
            mark: 7,
        },
        1 => ServiceName::Address {
            proto: 17,
            addr,
            port: 5060,
        },
        _ => ServiceName::Address {
            proto: 6,
            addr: Ipv4Addr::new(192, 0, 2, 1).into(),
            port: 80,
        },
    };
    Entry::Template(Box::new(TemplateEntry {
        service,
        af: Af::V4,
        proto: 17,
        client,
        vaddr: if data.is_multiple_of(2) {
            [0; 16]
        } else {
            [9; 16]
        },
        vport: random.next() as u16,
        data: (data > 20).then(|| random.noise(data).into()),
        dest: match data % 3 {
            0 => (addr, 0).into(),
            _ => (Ipv4Addr::new(10, 0, 0, 2), 5060).into(),
        },
        timeout: 30_000,
        remaining: random.below(30_000) as u32,
        assured: data % 2 == 1,
    }))
}

/// Bodies of streams with every type of record, some with long ones in pieces.
fn streams(random: &mut Random) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let buckets = [Bucket { count: 5, sum: 6 }.bytes(); 3];
    for max_len in [600, 900, 1472] {
        let mut builder = StreamBuilder::new(max_len);
        let mut push = |record: &Record<'_>| {
            while !builder.push(record) {
                out.extend(builder.finish(3).map(<[u8]>::to_vec));
            }
        };
        push(&Record::RepairBegin(7));
        for _ in 0..12 {
            push(&Record::Upsert(Cow::Owned(entry(random))));
        }
        push(&Record::RepairEnd(7));
        push(&Record::Remove(EntryId(random.next().into())));
        push(&Record::Mark(Mark {
            tick: 9,
            count: 8,
            sum: 7,
            versions: Versions::OURS,
        }));
        push(&Record::MarkVector {
            first_bucket: 253,
            buckets: Buckets::new(&buckets),
        });
        push(&Record::Unknown {
            kind: 99,
            bytes: &[1, 2],
        });
        if let Entry::Template(mut template) = entry(random) {
            template.data = Some(random.noise(2000).into());
            push(&Record::Upsert(Cow::Owned(Entry::Template(template))));
        }
        for seq in 5.. {
            match builder.finish(seq) {
                Some(body) => out.push(body.to_vec()),
                None => break,
            }
        }
    }
    out
}

/// Bodies of each kind.
fn bodies(random: &mut Random) -> Vec<(Kind, Vec<Vec<u8>>)> {
    let boot = random.next();
    let name = "left";
    let hello = Hello {
        nonce: 5,
        versions: Versions::OURS,
        name,
    };
    let welcome = Welcome {
        echo: 5,
        hello_boot: boot,
        next_seq: 9,
        id_key: HashKey([1, 2, 3, 4]),
        count: 5,
        roles: Roles {
            master: true,
            backup: true,
        },
        versions: Versions::OURS,
        name,
    };
    let nack = Nack {
        boot,
        ranges: vec![(1, 2), (5, 5), (9, 900)],
    };
    let want = |what| wire::encode_want(&Want { boot, what });
    let report = Report {
        boot,
        applied_seq: 7,
        ..Report::default()
    };
    vec![
        (Kind::Stream, streams(random)),
        (Kind::Hello, vec![wire::encode_hello(&hello)]),
        (Kind::Welcome, vec![wire::encode_welcome(&welcome)]),
        (Kind::Nack, vec![wire::encode_nack(&nack)]),
        (Kind::Lost, vec![wire::encode_lost(&Lost { up_to: 8 })]),
        (
            Kind::Want,
            vec![want(Wanted::Vector), want(Wanted::Repair([3; 32]))],
        ),
        (Kind::Report, vec![wire::encode_report(&report)]),
    ]
}

/// The body of a message. Records that can't be read are left out.
fn encoded(message: &Message<'_>) -> Vec<u8> {
    match message {
        Message::Stream(stream) => {
            let mut builder = StreamBuilder::new(DATAGRAM_MAX);
            for record in stream.records().flatten() {
                assert!(builder.push(&record), "it came in one datagram");
            }
            // A stream without records is not sent.
            let empty = stream.seq.to_be_bytes();
            builder.finish(stream.seq).unwrap_or(&empty).to_vec()
        }
        Message::Hello(hello) => wire::encode_hello(hello),
        Message::Welcome(welcome) => wire::encode_welcome(welcome),
        Message::Nack(nack) => wire::encode_nack(nack),
        Message::Lost(lost) => wire::encode_lost(lost),
        Message::Want(want) => wire::encode_want(want),
        Message::Report(report) => wire::encode_report(report),
    }
}

fn readable<'a>(message: &Message<'a>) -> Vec<Record<'a>> {
    match message {
        Message::Stream(stream) => stream.records().flatten().collect(),
        _ => Vec::new(),
    }
}

/// What decodes encodes to bytes that decode to the same, and to no others.
fn polder_is_stable(kind: Kind, body: &[u8]) -> Option<()> {
    let message = wire::decode(kind, body).ok()?;
    let again = encoded(&message);
    assert!(
        again.len() <= body.len(),
        "an encoding has nothing that is not needed"
    );
    let decoded = wire::decode(kind, &again).expect("it was encoded");
    match &decoded {
        Message::Stream(stream) => {
            assert!(stream.records().all(|r| r.is_ok()));
            assert_eq!(readable(&decoded), readable(&message));
        }
        _ => assert_eq!(decoded, message),
    }
    assert_eq!(encoded(&decoded), again);
    Some(())
}

#[test]
fn the_polder_decoder_survives_hostile_bodies() {
    let random = &mut Random(0);
    let corpus = bodies(random);
    let key = HashKey([1, 2, 3, 4]);
    let (mut read, mut entries) = (0, 0);
    let mut joiner = Joiner::default();
    cases("bodies of the polder format", CASES, |random| {
        // Most of what there is to read is in streams.
        let (kind, of_kind) = match random.below(3) {
            0 => random.one_of(&corpus),
            _ => &corpus[0],
        };
        let body = input(random, of_kind);
        read += usize::from(polder_is_stable(*kind, &body).is_some());
        let Ok(Message::Stream(stream)) = wire::decode(Kind::Stream, &body) else {
            return;
        };
        for record in joiner.records(&stream).flatten() {
            assert!(!matches!(record, Record::Piece(_)));
            if let Record::Upsert(entry) = record {
                std::hint::black_box((wire::id_of(&key, &entry), wire::digest_of(&key, &entry)));
                entries += 1;
            }
        }
    });
    println!("{read} were messages, {entries} entries");
}

#[test]
fn no_changed_datagram_of_the_polder_format_opens() {
    let random = &mut Random(0);
    let digits = "00112233445566778899aabbccddeeff";
    let text = format!("1 {digits}{digits}\n2 {digits}00{} receive", &digits[2..]);
    let keys = Keys::parse(&text).expect("good keys");
    let mut sealer = Sealer::new(77, keys.clone());
    let mut corpus = Vec::new();
    for (kind, of_kind) in bodies(random) {
        for body in of_kind {
            let mut datagram = Vec::new();
            sealer.seal(kind, 0, random.below(2) == 0, &body, &mut datagram);
            corpus.push(datagram);
        }
    }
    let good: std::collections::HashSet<_> = corpus.iter().cloned().collect();
    cases("datagrams of the polder format", CASES / 6, |random| {
        let mut datagram = input(random, &corpus);
        let known = good.contains(&datagram);
        std::hint::black_box(seal::open_unchecked(&datagram).is_ok());
        assert_eq!(seal::open(&keys, &mut datagram).is_ok(), known);
    });
}

/// Messages of both versions, with every option.
fn ipvs_messages(random: &mut Random) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for version in [Version::V0, Version::V1, Version::V1, Version::V1] {
        let mut builder = Builder::new(version, 3, 600);
        for i in 0..12 {
            let conn = ConnRecord {
                ends: ends(random),
                flags: random.next() as u32 & 0x1_37ff,
                state: random.below(12) as u16,
                mark: random.next() as u32,
                timeout_s: random.below(1000) as u32,
                seq: (i % 3 == 0).then(Seq::default),
            };
            let data = random.noise(1 + i * 9);
            let engine = Engine {
                name: b"sip",
                data: &data,
            };
            let record = IpvsRecord::new(conn, (i % 2 == 0).then_some(engine));
            if builder.push(&record) == Ok(false) {
                out.extend(builder.finish().map(<[u8]>::to_vec));
            }
        }
        out.extend(builder.finish().map(<[u8]>::to_vec));
    }
    out
}

/// The message of the records that can be read in `bytes`, if there are any.
fn ipvs_encoded(bytes: &[u8], host_order: HostOrder) -> Option<Vec<u8>> {
    let receiver = Receiver {
        sync_id: 0,
        host_order,
    };
    let message = receiver.open(bytes).ok()?;
    let mut builder = Builder::new(message.version, message.sync_id, usize::from(u16::MAX))
        .with_host_order(host_order);
    let timeouts = StateTimeouts::default();
    let terms = Terms {
        engines: &["sip"],
        timeouts: &timeouts,
        threshold: 3,
    };
    let mut records = message.records();
    for record in records.by_ref().flatten() {
        std::hint::black_box(accept(&record, &terms).is_ok());
        assert_eq!(builder.push(&record), Ok(true), "it came in one message");
    }
    assert!(records.unread() <= bytes.len());
    builder.finish().map(<[u8]>::to_vec)
}

#[test]
fn the_ipvs_decoder_survives_hostile_messages() {
    let corpus = ipvs_messages(&mut Random(0));
    let mut read = 0;
    cases("messages of the ipvs format", CASES, |random| {
        let mut bytes = input(random, &corpus);
        // Most with the size that they have, or nothing else would ever be looked at.
        if let (Some(size), true) = (bytes.get(2..4).map(<[u8]>::len), random.below(8) > 0) {
            let len = u16::try_from(bytes.len()).expect("far shorter");
            bytes[2..2 + size].copy_from_slice(&len.to_be_bytes());
        }
        let order = *random.one_of(&[HostOrder::Little, HostOrder::Big]);
        let Some(once) = ipvs_encoded(&bytes, order) else {
            return;
        };
        read += 1;
        assert_eq!(ipvs_encoded(&once, order), Some(once.clone()));
    });
    println!("{read} had records");
}
