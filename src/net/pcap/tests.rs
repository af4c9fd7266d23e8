//! Fixtures made in code, one per format and byte order, and what may happen to them.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::{ByteOrder, FRAME_MAX, Limits, PcapError, Reader, Record, Writer};

const BIG: ByteOrder = ByteOrder::Big;
const LITTLE: ByteOrder = ByteOrder::Little;

/// Everything a file yields: its frames and the error that ended it, if one did.
struct Outcome {
    frames: Vec<(Record, Vec<u8>)>,
    error: Option<PcapError>,
    bytes_held: usize,
}

fn read_with(file: impl Read, limits: Limits) -> Outcome {
    let mut outcome = Outcome {
        frames: Vec::new(),
        error: None,
        bytes_held: 0,
    };
    let mut buf = Vec::new();
    let mut reader = match Reader::open_with(file, limits) {
        Ok(reader) => reader,
        Err(e) => {
            outcome.error = Some(e);
            return outcome;
        }
    };
    loop {
        let next = reader.next(&mut buf);
        outcome.bytes_held = outcome
            .bytes_held
            .max(buf.capacity() + reader.variable_bytes());
        match next {
            Ok(Some(record)) => outcome.frames.push((record, buf.clone())),
            Ok(None) => return outcome,
            Err(e) => {
                outcome.error = Some(e);
                assert!(
                    matches!(reader.next(&mut buf), Ok(None)),
                    "a reader ends once"
                );
                return outcome;
            }
        }
    }
}

fn read(file: &[u8]) -> Outcome {
    read_with(file, Limits::default())
}

fn frames_of(file: &[u8]) -> Vec<(Record, Vec<u8>)> {
    let outcome = read(file);
    assert!(
        outcome.error.is_none(),
        "{}",
        outcome.error.expect("there is one")
    );
    outcome.frames
}

fn sentence_of(file: &[u8]) -> String {
    read(file).error.expect("the file is bad").to_string()
}

/// Bytes in one byte order.
struct Bytes(ByteOrder, Vec<u8>);

impl Bytes {
    fn u16(mut self, value: u16) -> Self {
        match self.0 {
            LITTLE => self.1.extend(value.to_le_bytes()),
            BIG => self.1.extend(value.to_be_bytes()),
        }
        self
    }

    fn u32(mut self, value: u32) -> Self {
        match self.0 {
            LITTLE => self.1.extend(value.to_le_bytes()),
            BIG => self.1.extend(value.to_be_bytes()),
        }
        self
    }

    fn u64(mut self, value: u64) -> Self {
        match self.0 {
            LITTLE => self.1.extend(value.to_le_bytes()),
            BIG => self.1.extend(value.to_be_bytes()),
        }
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.1.extend(bytes);
        self
    }

    fn padded(mut self, bytes: &[u8]) -> Self {
        self.1.extend(bytes);
        self.1.resize(self.1.len().next_multiple_of(4), 0);
        self
    }

    fn block(self, kind: u32, body: Self) -> Self {
        let Self(_, body) = body;
        let total = u32::try_from(body.len() + 12).expect("small");
        self.u32(kind).u32(total).raw(&body).u32(total)
    }
}

fn bytes(order: ByteOrder) -> Bytes {
    Bytes(order, Vec::new())
}

fn classic(order: ByteOrder, magic: u32, link_type: u32) -> Bytes {
    bytes(order)
        .u32(magic)
        .u16(2)
        .u16(4)
        .u32(0)
        .u32(0)
        .u32(65535)
        .u32(link_type)
}

/// Two records at 1.5 s and 2 s; the second was cut to 3 of 1,500 bytes by the capture.
fn classic_file(order: ByteOrder, magic: u32, half_second: u32) -> Vec<u8> {
    classic(order, magic, 1)
        .u32(1)
        .u32(half_second)
        .u32(5)
        .u32(5)
        .raw(b"hello")
        .u32(2)
        .u32(0)
        .u32(3)
        .u32(1500)
        .raw(b"abc")
        .1
}

fn section(order: ByteOrder) -> Bytes {
    let body = bytes(order).u32(0x1a2b_3c4d).u16(1).u16(0).u64(u64::MAX);
    bytes(order).block(
        0x0a0d_0d0a,
        body.u16(4).u16(6).padded(b"polder").u16(0).u16(0),
    )
}

fn interface(order: ByteOrder, link_type: u16, snap_len: u32) -> Bytes {
    bytes(order).u16(link_type).u16(0).u32(snap_len)
}

fn enhanced(order: ByteOrder, id: u32, ticks: u64, orig_len: u32, frame: &[u8]) -> Bytes {
    let captured = u32::try_from(frame.len()).expect("small");
    bytes(order)
        .u32(id)
        .u32((ticks >> 32) as u32)
        .u32(ticks as u32)
        .u32(captured)
        .u32(orig_len)
        .padded(frame)
}

fn obsolete(order: ByteOrder, id: u16, ticks: u64, frame: &[u8]) -> Bytes {
    let captured = u32::try_from(frame.len()).expect("small");
    bytes(order)
        .u16(id)
        .u16(0)
        .u32((ticks >> 32) as u32)
        .u32(ticks as u32)
        .u32(captured)
        .u32(captured)
        .padded(frame)
}

/// One of each block: a nanosecond interface with an offset of 10 s, a default one, unknown blocks between.
fn ng_section(order: ByteOrder) -> Vec<u8> {
    let nano = interface(order, 1, 4)
        .u16(2)
        .u16(4)
        .padded(b"eth0")
        .u16(9)
        .u16(1)
        .padded(&[9])
        .u16(14)
        .u16(8)
        .u64(10);
    section(order)
        .block(1, nano)
        .block(5, bytes(order).u32(0).u64(0))
        .block(1, interface(order, 1, 0))
        .block(
            6,
            enhanced(order, 0, 1_500_000_000, 60, b"first")
                .u16(1)
                .u16(2)
                .padded(b"hi")
                .u32(0),
        )
        .block(0xbad, bytes(order).padded(b"whatever this is"))
        .block(6, enhanced(order, 1, 2_000_000, 6, b"second"))
        .block(3, bytes(order).u32(9).padded(b"simp"))
        .block(2, obsolete(order, 1, 3_000_000, b"old"))
        .1
}

fn ng_expected() -> Vec<(u64, u32, &'static [u8])> {
    vec![
        (11_500_000_000, 60, b"first"),
        (2_000_000_000, 6, b"second"),
        (2_000_000_000, 9, b"simp"),
        (3_000_000_000, 3, b"old"),
    ]
}

fn assert_frames(file: &[u8], expected: &[(u64, u32, &[u8])]) {
    let frames = frames_of(file);
    let got: Vec<_> = frames
        .iter()
        .map(|(r, frame)| (r.ts_ns, r.orig_len, frame.as_slice()))
        .collect();
    assert_eq!(got, expected);
    assert!(frames.iter().all(|(r, _)| r.link_type == 1));
}

fn gzip(file: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(file).expect("memory");
    encoder.finish().expect("memory")
}

/// Every kind of file in small, by name.
fn fixtures() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("pcap little", classic_file(LITTLE, 0xa1b2_c3d4, 500_000)),
        ("pcap big", classic_file(BIG, 0xa1b2_c3d4, 500_000)),
        (
            "pcap little ns",
            classic_file(LITTLE, 0xa1b2_3c4d, 500_000_000),
        ),
        ("pcap big ns", classic_file(BIG, 0xa1b2_3c4d, 500_000_000)),
        ("pcapng little", ng_section(LITTLE)),
        ("pcapng big", ng_section(BIG)),
        (
            "pcapng both",
            [ng_section(BIG), ng_section(LITTLE)].concat(),
        ),
        (
            "pcap gzip",
            gzip(&classic_file(LITTLE, 0xa1b2_c3d4, 500_000)),
        ),
        ("pcapng gzip", gzip(&ng_section(BIG))),
    ]
}

#[test]
fn pcap_is_read_in_both_byte_orders_and_resolutions() {
    for (name, file) in fixtures()
        .into_iter()
        .filter(|(name, _)| name.starts_with("pcap "))
    {
        println!("{name}");
        assert_frames(
            &file,
            &[(1_500_000_000, 5, b"hello"), (2_000_000_000, 1500, b"abc")],
        );
    }
}

#[test]
fn pcapng_is_read_in_both_byte_orders() {
    assert_frames(&ng_section(LITTLE), &ng_expected());
    assert_frames(&ng_section(BIG), &ng_expected());
}

#[test]
fn sections_of_different_byte_order_follow_each_other() {
    let file = [ng_section(BIG), ng_section(LITTLE), ng_section(BIG)].concat();
    assert_frames(
        &file,
        &[ng_expected(), ng_expected(), ng_expected()].concat(),
    );
}

#[test]
fn interfaces_of_a_section_are_unknown_in_the_next() {
    let next = section(LITTLE).block(6, enhanced(LITTLE, 0, 0, 1, b"x"));
    let file = [ng_section(LITTLE), next.1].concat();
    let outcome = read(&file);
    assert_eq!(outcome.frames.len(), 4);
    assert!(matches!(
        outcome.error,
        Some(PcapError::NoInterface {
            id: 0,
            known: 0,
            ..
        })
    ));
}

#[test]
fn gzip_is_read_also_when_it_has_several_members() {
    let plain = classic_file(LITTLE, 0xa1b2_c3d4, 500_000);
    let file = [gzip(&plain[..30]), gzip(&plain[30..])].concat();
    assert_frames(
        &file,
        &[(1_500_000_000, 5, b"hello"), (2_000_000_000, 1500, b"abc")],
    );
}

#[test]
fn a_file_may_come_byte_by_byte() {
    struct Drip<'a>(&'a [u8], bool);
    impl Read for Drip<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let n = buf.len().min(1);
            self.0.read(&mut buf[..n])
        }
    }
    for (name, file) in fixtures() {
        let dripped = read_with(Drip(&file, false), Limits::default());
        assert!(dripped.error.is_none(), "{name}: {:?}", dripped.error);
        assert_eq!(dripped.frames, frames_of(&file), "{name}");
    }
}

#[test]
fn time_resolutions_are_powers_of_ten_or_two_and_never_overflow() {
    let rows = [
        (0_u8, 7_u64, 7_000_000_000_u64),
        (3, 1500, 1_500_000_000),
        (9, 5, 5),
        (12, 5_999, 5),
        (29, u64::MAX, 0),
        (127, u64::MAX, 0),
        (0x80, 3, 3_000_000_000),
        (0x80 | 10, 1536, 1_500_000_000),
        (0x80 | 127, u64::MAX, 0),
        (0, u64::MAX, u64::MAX),
    ];
    for (code, ticks, expected) in rows {
        let options = interface(LITTLE, 1, 0).u16(9).u16(1).padded(&[code]);
        let file = section(LITTLE)
            .block(1, options)
            .block(6, enhanced(LITTLE, 0, ticks, 1, b"x"));
        assert_eq!(
            frames_of(&file.1)[0].0.ts_ns,
            expected,
            "code {code:#x} ticks {ticks}"
        );
    }
}

#[test]
fn time_offsets_saturate_at_both_ends() {
    for (offset_s, expected) in [
        (-5_i64, 0),
        (i64::MIN, 0),
        (i64::MAX, u64::MAX),
        (2, 3_000_000_000),
    ] {
        let options = interface(BIG, 1, 0)
            .u16(14)
            .u16(8)
            .u64(offset_s.cast_unsigned());
        let file = section(BIG)
            .block(1, options)
            .block(6, enhanced(BIG, 0, 1_000_000, 1, b"x"));
        assert_eq!(frames_of(&file.1)[0].0.ts_ns, expected, "offset {offset_s}");
    }
}

#[test]
fn lengths_of_old_pcap_versions_come_in_either_order() {
    let file = bytes(LITTLE)
        .u32(0xa1b2_c3d4)
        .u16(2)
        .u16(3)
        .u32(0)
        .u32(0)
        .u32(65535)
        .u32(1)
        .u32(0)
        .u32(0)
        .u32(90)
        .u32(2)
        .raw(b"ab")
        .u32(0)
        .u32(0)
        .u32(2)
        .u32(90)
        .raw(b"cd");
    assert_frames(&file.1, &[(0, 90, b"ab"), (0, 90, b"cd")]);
}

#[test]
fn whatever_is_no_capture_file_is_refused_with_a_sentence() {
    let version = |major, minor| {
        bytes(LITTLE).block(
            0x0a0d_0d0a,
            bytes(LITTLE)
                .u32(0x1a2b_3c4d)
                .u16(major)
                .u16(minor)
                .u64(u64::MAX),
        )
    };
    let rows: [(&str, Vec<u8>, &str); 8] = [
        (
            "empty",
            vec![],
            "file header at offset 0 needs 4 bytes and has 0",
        ),
        ("short", b"ab".to_vec(), "needs 4 bytes and has 2"),
        (
            "text",
            b"../../default".to_vec(),
            "starts with the bytes 2e 2e 2f 2e",
        ),
        (
            "modified",
            classic(LITTLE, 0xa1b2_cd34, 1).1,
            "magic number 0xa1b2cd34",
        ),
        (
            "modified big",
            classic(BIG, 0xa1b2_cd34, 1).1,
            "magic number 0xa1b2cd34",
        ),
        (
            "pcap 1.4",
            bytes(BIG).u32(0xa1b2_c3d4).u16(1).u16(4).raw(&[0; 16]).1,
            "version 1.4",
        ),
        ("pcapng 2.0", version(2, 0).1, "version 2.0"),
        ("pcapng 1.1", version(1, 1).1, "version 1.1"),
    ];
    for (name, file, expected) in rows {
        let sentence = sentence_of(&file);
        assert!(sentence.contains(expected), "{name}: {sentence}");
        assert!(sentence.ends_with('.'), "{name}: {sentence}");
    }
}

#[test]
fn damaged_blocks_are_refused_with_offset_and_values() {
    let start = || section(LITTLE).block(1, interface(LITTLE, 1, 0));
    let at = start().1.len();
    let rows = [
        (
            "zero",
            start().u32(9).u32(0),
            "type 0x9 at offset AT claims the impossible length 0",
        ),
        ("tiny", start().u32(9).u32(8), "impossible length 8"),
        ("odd", start().u32(9).u32(17), "impossible length 17"),
        (
            "huge",
            start().u32(9).u32(0xffff_fff0),
            "impossible length 4294967280",
        ),
        (
            "trailer",
            start().u32(9).u32(12).u32(16),
            "offset AT starts with length 12 and ends with length 16",
        ),
        (
            "short packet",
            start().block(6, bytes(LITTLE).u64(0)),
            "need 20 more bytes where 8 are left",
        ),
        (
            "captured beyond block",
            start().block(6, bytes(LITTLE).u64(0).u32(0).u32(100).u32(100).u32(0)),
            "need 100 more bytes where 4 are left",
        ),
        (
            "captured beyond all",
            start().block(6, bytes(LITTLE).u64(0).u32(0).u32(300_000).u32(0).u32(0)),
            "offset AT claims 300000 captured bytes; the limit is 262144",
        ),
        (
            "interface",
            start().block(6, enhanced(LITTLE, 7, 0, 1, b"x")),
            "interface 7, but the section has declared 1",
        ),
        (
            "no magic",
            start().u32(0x0a0d_0d0a).u32(28).u32(5),
            "byte-order mark 05 00 00 00",
        ),
        (
            "option",
            start().block(1, interface(LITTLE, 1, 0).u16(2).u16(5).u32(0)),
            "Option 2 of the block at offset AT has the impossible length 5",
        ),
        (
            "resolution",
            start().block(1, interface(LITTLE, 1, 0).u16(9).u16(2).u32(0)),
            "Option 9 of the block at offset AT has the impossible length 2",
        ),
        (
            "time offset",
            start().block(1, interface(LITTLE, 1, 0).u16(14).u16(9).raw(&[0; 12])),
            "Option 14 of the block at offset AT has the impossible length 9",
        ),
    ];
    for (name, file, expected) in rows {
        let sentence = sentence_of(&file.1);
        let expected = expected.replace("AT", &at.to_string());
        assert!(sentence.contains(&expected), "{name}: {sentence}");
    }
}

#[test]
fn a_frame_longer_than_the_cap_is_refused_and_one_of_the_cap_is_read() {
    let cap = u32::try_from(FRAME_MAX).expect("18 bits");
    let record = |length| {
        classic(LITTLE, 0xa1b2_c3d4, 1)
            .u64(0)
            .u32(length)
            .u32(length)
    };
    let good = record(cap).raw(&vec![7; FRAME_MAX]);
    assert_eq!(frames_of(&good.1)[0].1.len(), FRAME_MAX);
    let bad = record(cap + 1).raw(&vec![7; FRAME_MAX + 1]);
    assert!(sentence_of(&bad.1).contains("offset 24 claims 262145 captured bytes"));
}

#[test]
fn endless_interfaces_are_refused() {
    let one = bytes(LITTLE).block(1, interface(LITTLE, 1, 0)).1;
    let file = [section(LITTLE).1, one.repeat(4097)].concat();
    let outcome = read(&file);
    assert!(matches!(
        outcome.error,
        Some(PcapError::TooManyInterfaces { limit: 4096, .. })
    ));
}

#[test]
fn other_link_types_are_told_and_refused_where_ethernet_is_asked_for() {
    let file = classic(LITTLE, 0xa1b2_c3d4, 113)
        .u64(0)
        .u32(1)
        .u32(1)
        .raw(b"x")
        .1;
    assert_eq!(frames_of(&file)[0].0.link_type, 113);
    let e = Reader::open_ethernet(file.as_slice())
        .expect_err("not Ethernet")
        .to_string();
    assert_eq!(
        e,
        "The packets at offset 0 have link type 113 (Linux cooked capture); only Ethernet (1) can be used."
    );
}

#[test]
fn a_pcapng_interface_of_another_link_type_is_refused_at_its_first_packet() {
    let start = section(LITTLE)
        .block(1, interface(LITTLE, 1, 0))
        .block(1, interface(LITTLE, 101, 0))
        .block(6, enhanced(LITTLE, 0, 0, 1, b"x"));
    let at = start.1.len() as u64;
    let file = start.block(6, enhanced(LITTLE, 1, 0, 1, b"y")).1;
    let outcome = read_with(
        file.as_slice(),
        Limits {
            ethernet_only: true,
            ..Limits::default()
        },
    );
    assert_eq!(outcome.frames.len(), 1);
    assert!(
        matches!(outcome.error, Some(PcapError::LinkType { offset, link_type: 101 }) if offset == at)
    );
}

#[test]
fn check_sequence_bits_are_no_part_of_the_link_type() {
    let file = classic(LITTLE, 0xa1b2_c3d4, 0x4400_0001).1;
    assert!(Reader::open_ethernet(file.as_slice()).is_ok());
}

#[test]
fn the_total_limit_stops_a_compression_bomb_but_not_a_file_of_its_size() {
    let mut plain = classic(LITTLE, 0xa1b2_c3d4, 1).1;
    for _ in 0..100 {
        plain.extend(
            bytes(LITTLE)
                .u64(0)
                .u32(60_000)
                .u32(60_000)
                .raw(&vec![0; 60_000])
                .1,
        );
    }
    let bomb = gzip(&plain);
    assert!(bomb.len() * 500 < plain.len());
    let limits = |total_bytes| Limits {
        total_bytes,
        ..Limits::default()
    };
    let all = read_with(bomb.as_slice(), limits(plain.len() as u64));
    assert!(all.error.is_none() && all.frames.len() == 100);
    let some = read_with(bomb.as_slice(), limits(1_000_000));
    assert_eq!(some.frames.len(), 16);
    assert!(matches!(
        some.error,
        Some(PcapError::Limit { limit: 1_000_000 })
    ));
}

#[test]
fn a_damaged_gzip_stream_is_an_error_after_the_frames_before() {
    let mut file = gzip(&classic_file(LITTLE, 0xa1b2_c3d4, 500_000));
    let at = file.len() - 6;
    file[at] ^= 1;
    let outcome = read(&file);
    assert_eq!(outcome.frames.len(), 2);
    assert!(matches!(outcome.error, Some(PcapError::Read { .. })));
}

#[test]
fn every_prefix_yields_the_whole_frames_in_it_and_then_says_that_it_is_cut() {
    for (name, file) in fixtures() {
        let whole = frames_of(&file);
        let mut ends = 0;
        for cut in 0..file.len() {
            let outcome = read(&file[..cut]);
            let n = outcome.frames.len();
            assert_eq!(outcome.frames[..], whole[..n], "{name} cut at {cut}");
            match outcome.error {
                Some(PcapError::Cut { .. } | PcapError::CutGzip { .. }) => {}
                None => ends += 1,
                Some(other) => panic!("{name} cut at {cut}: {other}"),
            }
        }
        // A file that ends between two blocks or records is a whole file.
        let boundaries = match name {
            "pcapng little" | "pcapng big" => 8,
            "pcapng both" => 17,
            "pcap gzip" | "pcapng gzip" => 0,
            _ => 2,
        };
        assert_eq!(ends, boundaries, "{name}");
    }
}

#[test]
fn no_corruption_of_one_byte_panics_loops_or_holds_a_megabyte() {
    for (name, file) in fixtures() {
        let mut bad = file.clone();
        for at in 0..file.len() {
            for value in 0..=255 {
                bad[at] = value;
                let outcome = read(&bad);
                assert!(outcome.bytes_held < 700_000, "{name}: byte {at} = {value}");
                assert!(outcome.frames.len() <= 16, "{name}: byte {at} = {value}");
            }
            bad[at] = file[at];
        }
    }
}

#[test]
fn frames_that_a_capture_file_cannot_hold_are_not_written() {
    let mut writer = Writer::new(Vec::new(), false).expect("memory");
    let long = writer.write(0, &vec![0; FRAME_MAX + 1]);
    assert!(matches!(
        long,
        Err(PcapError::WriteTooLong { length: 262_145 })
    ));
    let late = writer.write(u64::MAX, b"x");
    assert!(matches!(
        late,
        Err(PcapError::WriteTime { ts_ns: u64::MAX })
    ));
    assert_eq!(writer.into_inner().expect("memory").len(), 24);
}

#[test]
fn a_write_error_keeps_its_source() {
    let e = Writer::new(&mut [0; 10][..], true).expect_err("no room");
    assert!(std::error::Error::source(&e).is_some());
    assert!(
        e.to_string()
            .starts_with("The capture file could not be written: ")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(
        nanosecond: bool,
        compress: bool,
        frames in prop::collection::vec(
            (0..4_294_967_296_000_000_000_u64, prop::collection::vec(any::<u8>(), 0..300)),
            0..20,
        ),
    ) {
        let mut writer = Writer::new(Vec::new(), nanosecond).expect("memory");
        for (ts_ns, frame) in &frames {
            writer.write(*ts_ns, frame).expect("memory");
        }
        let file = writer.into_inner().expect("memory");
        let file = if compress { gzip(&file) } else { file };
        let got = frames_of(&file);
        prop_assert_eq!(got.len(), frames.len());
        for ((record, bytes), (ts_ns, frame)) in got.iter().zip(&frames) {
            let ts_ns = if nanosecond { *ts_ns } else { ts_ns / 1000 * 1000 };
            let orig_len = u32::try_from(frame.len()).expect("small");
            prop_assert_eq!(*record, Record { ts_ns, link_type: 1, orig_len });
            prop_assert_eq!(bytes, frame);
        }
    }

    #[test]
    fn no_bytes_at_all_panic(file in prop::collection::vec(any::<u8>(), 0..400), like in 0..9_usize) {
        let mut likely = fixtures().swap_remove(like).1;
        read(&file);
        likely.extend(file);
        read(&likely);
    }
}
