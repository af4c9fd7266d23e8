//! What every device and wrapper must keep: buffers, frames and their order.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::mem;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::fault::{Fault, FaultRates};
use super::mem::{BenchIo, LARGE_ROOM, MemBuf, MemHandle, MemIo, MemPool, QueueCapacity};
use super::pcap::PcapIo;
use super::record::{Direction, Record};
use super::{Burst, PacketIo};
use crate::net::PacketBuf;
use crate::net::pcap::{PcapError, Reader, Writer};

/// A capture of frames with their times, in memory.
fn capture(frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), true).expect("memory");
    for (ts_ns, frame) in frames {
        writer.write(*ts_ns, frame).expect("memory");
    }
    writer.into_inner().expect("memory")
}

/// The frames of a capture with their times.
fn frames_of(file: impl Read) -> Vec<(u64, Vec<u8>)> {
    let mut reader = Reader::open_ethernet(file).expect("it is a capture");
    let (mut frames, mut buf) = (Vec::new(), Vec::new());
    while let Some(record) = reader.next(&mut buf).expect("it is whole") {
        frames.push((record.ts_ns, buf.clone()));
    }
    frames
}

fn reader(file: &[u8]) -> Option<Reader<&[u8]>> {
    Some(Reader::open(file).expect("it is a capture"))
}

fn writer() -> Option<Writer<Vec<u8>>> {
    Some(Writer::new(Vec::new(), true).expect("memory"))
}

/// Frames of one byte value each, with times of 10 ns between them.
fn numbered(n: u8) -> Vec<(u64, Vec<u8>)> {
    (0..n)
        .map(|i| (u64::from(i) * 10, vec![i; 60 + usize::from(i)]))
        .collect()
}

/// What a worker does with buffers, in small: receives, rewrites, drops every fifth, makes one of its own, sends,
/// keeps what the device does not take for a second try and then drops it.
fn work<I: PacketIo>(io: &mut I, rounds: usize) {
    let mut burst = Burst::new();
    for round in 0..rounds {
        io.rx_burst(&mut burst);
        let mut kept = Burst::new();
        for (i, mut buf) in burst.drain(..).enumerate() {
            if (round + i) % 5 == 0 {
                continue;
            }
            if let Some(room) = buf.prepend(20) {
                room.fill(0x45);
            }
            kept.push(buf);
        }
        if !kept.is_full()
            && let Some(mut own) = io.alloc()
        {
            assert!(own.assign(b"an answer of the worker's own, sixty bytes long with its pad"));
            kept.push(own);
        }
        io.tx_burst(&mut kept);
        io.tx_burst(&mut kept);
    }
}

/// Whether `io` and what was done with it left the pool as it was found.
fn conserves<I: PacketIo>(pool: &MemPool, make: impl FnOnce() -> I) -> Result<(), String> {
    let before = pool.available();
    let mut io = make();
    work(&mut io, 20);
    drop(io);
    match pool.available() {
        after if after == before => Ok(()),
        after => Err(format!(
            "{before} buffers were free before and {after} after"
        )),
    }
}

/// A memory device with 300 frames on its wire, whose queues return their buffers with the device.
fn loaded(pool: &MemPool) -> MemIo {
    let (io, wire) = MemIo::pair(pool, QueueCapacity { rx: 512, tx: 40 });
    for i in 0..300 {
        assert!(wire.push(&vec![7; 60 + i]));
    }
    io
}

const ALL_FAULTS: FaultRates = FaultRates {
    drop: 100,
    duplicate: 200,
    reorder: 200,
    truncate: 100,
    bit_flip: 100,
    short_tx: 300,
};

#[test]
fn every_device_and_wrapper_conserves_buffers() {
    let pool = MemPool::with_large(512, 2048, 4);
    let file = capture(&numbered(200));
    let pcap = || PcapIo::new(&pool, reader(&file), writer()).expect("Ethernet");
    let bench = || BenchIo::new(file.chunks(100).collect(), &pool);
    let recorded = || {
        Record::new(
            loaded(&pool),
            writer().expect("there is one"),
            Direction::Both,
        )
    };
    assert_eq!(conserves(&pool, || loaded(&pool)), Ok(()));
    assert_eq!(conserves(&pool, bench), Ok(()));
    assert_eq!(conserves(&pool, pcap), Ok(()));
    assert_eq!(conserves(&pool, recorded), Ok(()));
    assert_eq!(
        conserves(&pool, || Fault::new(loaded(&pool), ALL_FAULTS, 1)),
        Ok(())
    );
    assert_eq!(
        conserves(&pool, || Fault::new(recorded(), ALL_FAULTS, 2)),
        Ok(())
    );
    assert_eq!(
        conserves(&pool, || Fault::new(bench(), ALL_FAULTS, 3)),
        Ok(())
    );
    assert_eq!(
        conserves(&pool, || Fault::new(pcap(), ALL_FAULTS, 4)),
        Ok(())
    );
}

/// A device that loses the buffers that it sends.
#[derive(Debug)]
struct Leaky(MemIo);

impl PacketIo for Leaky {
    type Buf = MemBuf;

    fn rx_burst(&mut self, out: &mut Burst<MemBuf>) -> usize {
        self.0.rx_burst(out)
    }

    fn tx_burst(&mut self, burst: &mut Burst<MemBuf>) -> usize {
        burst.drain(..).map(mem::forget).count()
    }

    fn alloc(&mut self) -> Option<MemBuf> {
        self.0.alloc()
    }
}

#[test]
fn a_leaky_device_is_caught() {
    let pool = MemPool::new(512, 2048);
    let leak = conserves(&pool, || Leaky(loaded(&pool)));
    assert_eq!(
        leak,
        Err("512 buffers were free before and 252 after".to_owned())
    );
}

#[test]
fn a_capture_passes_the_capture_device_unchanged() {
    let frames = numbered(100);
    let (file, pool) = (capture(&frames), MemPool::new(64, 2048));
    let mut io = PcapIo::new(&pool, reader(&file), writer()).expect("Ethernet");
    let mut burst = Burst::new();
    while let Some(ts_ns) = io.next_timestamp() {
        io.release_until(ts_ns);
        io.set_tx_time(ts_ns);
        assert_eq!(io.rx_burst(&mut burst), 1, "the times differ");
        assert_eq!(io.tx_burst(&mut burst), 1);
    }
    assert_eq!((io.counts().rx_frames, io.counts().tx_frames), (100, 100));
    assert_eq!(io.finish().expect("memory"), Some(file));
}

#[test]
fn captures_merge_by_time() {
    let even: Vec<_> = numbered(40).into_iter().step_by(2).collect();
    let odd: Vec<_> = numbered(40).into_iter().skip(1).step_by(2).collect();
    let files = [capture(&even), capture(&odd)];
    let pool = MemPool::new(64, 2048);
    let mut ports = files
        .each_ref()
        .map(|file| PcapIo::new(&pool, reader(file), None::<Writer<Vec<u8>>>).expect("Ethernet"));
    let mut merged = Vec::new();
    while let Some(now) = ports.iter_mut().filter_map(PcapIo::next_timestamp).min() {
        for port in &mut ports {
            let mut burst = Burst::new();
            port.release_until(now);
            port.rx_burst(&mut burst);
            merged.extend(burst.iter().map(|buf| (now, buf.data().to_vec())));
        }
    }
    assert_eq!(merged, numbered(40));
}

#[test]
fn a_shortage_of_buffers_delays_frames_and_loses_none() {
    let (file, pool) = (capture(&numbered(30)), MemPool::new(4, 2048));
    let mut io = PcapIo::new(&pool, reader(&file), writer()).expect("Ethernet");
    let (mut burst, mut got) = (Burst::new(), Vec::new());
    while io.rx_burst(&mut burst) > 0 {
        assert!(burst.len() <= 4);
        got.extend(burst.drain(..).map(|buf| buf.data()[0]));
    }
    assert_eq!(got, (0..30).collect::<Vec<u8>>());
}

#[test]
fn frames_that_no_buffer_holds_are_passed_over_and_counted() {
    let frames = [
        (1, vec![1; LARGE_ROOM]),
        (2, vec![2; LARGE_ROOM + 1]),
        (3, vec![3; 60]),
    ];
    let (file, pool) = (capture(&frames), MemPool::with_large(4, 2048, 1));
    let mut io = PcapIo::new(&pool, reader(&file), writer()).expect("Ethernet");
    let mut burst = Burst::new();
    assert_eq!(io.rx_burst(&mut burst), 2);
    assert_eq!(
        burst.iter().map(|buf| buf.data().len()).collect::<Vec<_>>(),
        [LARGE_ROOM, 60]
    );
    assert_eq!(io.counts().rx_too_long, 1);
}

#[test]
fn a_cut_capture_gives_its_whole_frames_and_keeps_the_error() {
    let (mut file, pool) = (capture(&numbered(10)), MemPool::new(64, 2048));
    file.truncate(file.len() - 1);
    let mut io = PcapIo::new(&pool, reader(&file), writer()).expect("Ethernet");
    let mut burst = Burst::new();
    assert_eq!(io.rx_burst(&mut burst), 9);
    assert_eq!(io.rx_burst(&mut burst), 0);
    assert!(matches!(io.rx_error(), Some(PcapError::Cut { .. })));
}

#[test]
fn a_capture_of_another_link_type_makes_no_device() {
    let (mut file, pool) = (capture(&numbered(1)), MemPool::new(4, 2048));
    file[20] = 113;
    let e = PcapIo::new(&pool, reader(&file), writer()).expect_err("not Ethernet");
    assert!(matches!(e, PcapError::LinkType { link_type: 113, .. }));
}

#[test]
fn a_capture_device_takes_nothing_after_an_error_of_its_file() {
    let (file, pool) = (capture(&numbered(5)), MemPool::new(64, 2048));
    let mut small = [0; 24 + 2 * 16 + 60 + 61];
    let out = Some(Writer::new(&mut small[..], true).expect("the header fits"));
    let mut io = PcapIo::new(&pool, reader(&file), out).expect("Ethernet");
    let mut burst = Burst::new();
    io.rx_burst(&mut burst);
    assert_eq!((io.tx_burst(&mut burst), burst.len()), (2, 3));
    assert_eq!((io.tx_burst(&mut burst), burst.len()), (0, 3));
    assert!(matches!(io.finish(), Err(PcapError::Write { .. })));
}

#[test]
fn a_recording_holds_what_was_received_and_what_the_device_took() {
    let pool = MemPool::new(64, 2048);
    let (io, wire) = MemIo::pair(&pool, QueueCapacity { rx: 8, tx: 8 });
    let mut io = Record::new(io, writer().expect("there is one"), Direction::Both);
    let mut burst = Burst::new();
    for i in 0..3 {
        assert!(wire.push(&[i; 60]));
    }
    io.set_time(100);
    io.rx_burst(&mut burst);
    wire.set_tx_limit(2);
    io.set_time(200);
    assert_eq!(io.tx_burst(&mut burst), 2);
    let (_, file) = io.finish().expect("memory");
    let seen: Vec<_> = frames_of(&file[..])
        .iter()
        .map(|(ts, f)| (*ts, f[0]))
        .collect();
    assert_eq!(seen, [(100, 0), (100, 1), (100, 2), (200, 0), (200, 1)]);
}

#[test]
fn a_recording_of_one_direction_leaves_the_other_out() {
    for (direction, expected) in [(Direction::Rx, 1_usize), (Direction::Tx, 2)] {
        let (io, wire) = MemIo::with_handle();
        let mut io = Record::new(io, writer().expect("there is one"), direction);
        let mut burst = Burst::new();
        assert!(wire.push(&[1; 60]));
        io.rx_burst(&mut burst);
        burst.push(io.alloc().expect("it is free"));
        io.tx_burst(&mut burst);
        let (_, file) = io.finish().expect("memory");
        assert_eq!(frames_of(&file[..]).len(), expected, "{direction:?}");
    }
}

#[test]
fn a_full_recording_ends_and_the_traffic_goes_on() {
    let (io, wire) = MemIo::with_handle();
    let mut small = [0; 24 + 16 + 60];
    let out = Writer::new(&mut small[..], true).expect("the header fits");
    let mut io = Record::new(io, out, Direction::Both);
    let mut burst = Burst::new();
    for i in 0..5 {
        assert!(wire.push(&[i; 60]));
    }
    assert_eq!(io.rx_burst(&mut burst), 5);
    assert_eq!(io.tx_burst(&mut burst), 5);
    assert_eq!(wire.drain().len(), 5);
    assert!(matches!(io.finish(), Err(PcapError::Write { .. })));
}

/// Pushes numbered frames through `rates` and gives what comes out until nothing more does.
fn through(rates: FaultRates, seed: u64, frames: u16) -> (Fault<MemIo>, MemHandle, Vec<Vec<u8>>) {
    let (io, wire) = MemIo::with_handle();
    let mut io = Fault::new(io, rates, seed);
    let mut out = Vec::new();
    let mut next = 0;
    loop {
        for _ in 0..40 {
            if next < frames && wire.rx_pending() < 40 {
                assert!(wire.push(&[&next.to_be_bytes()[..], &[0; 58]].concat()));
                next += 1;
            }
        }
        let mut burst = Burst::new();
        if io.rx_burst(&mut burst) == 0 && next == frames && wire.rx_pending() == 0 {
            return (io, wire, out);
        }
        out.extend(burst.iter().map(|buf| buf.data().to_vec()));
    }
}

fn number(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[0], frame[1]])
}

#[test]
fn a_device_without_faults_is_unchanged() {
    let (_, _, out) = through(FaultRates::default(), 1, 500);
    assert!(out.iter().map(|f| number(f)).eq(0..500));
}

#[test]
fn equal_seeds_make_equal_faults() {
    let run = |seed| through(ALL_FAULTS, seed, 400).2;
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn every_fault_happens_at_about_its_rate() {
    let (io, _, out) = through(ALL_FAULTS, 9, 10_000);
    let counts = io.counts();
    let about = |n: u64, expected: u64| n.abs_diff(expected) < expected / 5;
    assert!(about(counts.dropped, 1000), "{counts:?}");
    assert!(about(counts.duplicated, 1800), "{counts:?}");
    assert!(about(counts.truncated, 900), "{counts:?}");
    assert!(about(counts.bit_flipped, 900), "{counts:?}");
    assert!(counts.reordered > 500, "{counts:?}");
    assert_eq!(
        out.len() as u64,
        10_000 - counts.dropped + counts.duplicated
    );
}

#[test]
fn truncated_and_flipped_frames_differ_in_just_that() {
    let flip = FaultRates {
        bit_flip: 1000,
        ..FaultRates::default()
    };
    for (i, frame) in through(flip, 3, 300).2.iter().enumerate() {
        let sent = [
            &u16::try_from(i).expect("small").to_be_bytes()[..],
            &[0; 58],
        ]
        .concat();
        let bits: u32 = frame
            .iter()
            .zip(&sent)
            .map(|(a, b)| (a ^ b).count_ones())
            .sum();
        assert_eq!((frame.len(), bits), (60, 1));
    }
    let cut = FaultRates {
        truncate: 1000,
        ..FaultRates::default()
    };
    let lengths: BTreeMap<usize, usize> =
        through(cut, 3, 300)
            .2
            .iter()
            .fold(BTreeMap::new(), |mut all, frame| {
                *all.entry(frame.len()).or_default() += 1;
                all
            });
    assert!(
        lengths.len() > 30 && lengths.keys().all(|len| *len < 60),
        "{lengths:?}"
    );
}

#[test]
fn short_sending_keeps_the_order_of_what_is_left() {
    let short = FaultRates {
        short_tx: 1000,
        ..FaultRates::default()
    };
    let (io, wire) = MemIo::with_handle();
    let mut io = Fault::new(io, short, 1);
    for i in 0..30 {
        assert!(wire.push(&[i; 60]));
    }
    let (mut burst, mut sent) = (Burst::new(), 0);
    io.rx_burst(&mut burst);
    while !burst.is_empty() {
        let before = burst.len();
        let taken = io.tx_burst(&mut burst);
        assert_eq!(burst.len(), before - taken);
        assert!(taken < before);
        sent += taken;
        if burst.len() == 1 {
            // A device that is always short never takes the last one.
            break;
        }
    }
    assert_eq!(sent, 29);
    assert!(wire.drain().iter().map(|frame| frame[0]).eq(0..29));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn frames_are_delivered_or_counted_whatever_the_faults(
        drop in 0..400_u16, duplicate in 0..1000_u16, reorder in 0..1000_u16, seed: u64,
    ) {
        let rates = FaultRates { drop, duplicate, reorder, ..FaultRates::default() };
        let (io, wire, out) = through(rates, seed, 500);
        let counts = io.counts();
        prop_assert_eq!(out.len() as u64, 500 - counts.dropped + counts.duplicated);
        let mut times = BTreeMap::new();
        for frame in &out {
            *times.entry(number(frame)).or_insert(0_u32) += 1;
        }
        prop_assert!(times.values().all(|n| *n <= 2));
        prop_assert_eq!(times.len() as u64, 500 - counts.dropped);
        std::mem::drop(io);
        prop_assert_eq!(wire.pool().available(), 1024 + 16);
    }
}

/// The captures folder, or `None`, said aloud.
fn captures() -> Option<PathBuf> {
    let shared = std::env::var_os("POLDER_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let folder = shared.join("data/pcap");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("SKIPPED: there are no captures in {}.", folder.display());
    None
}

#[test]
fn real_captures_pass_the_capture_device_with_every_buffer_returned() {
    let Some(folder) = captures() else { return };
    let pool = MemPool::with_large(64, 2048, 32);
    let before = pool.available();
    for category in [
        "frag4", "frag6", "sip", "tunnel", "damaged", "vlan", "flood",
    ] {
        for entry in fs::read_dir(folder.join(category)).expect("it is a folder") {
            let path = entry.expect("it is readable").path();
            let Ok(rx) = Reader::open(File::open(&path).expect("it is readable")) else {
                continue;
            };
            let Ok(io) = PcapIo::new(&pool, Some(rx), writer()) else {
                continue;
            };
            let mut io = Fault::new(io, ALL_FAULTS, 1);
            let mut burst = Burst::new();
            while io.rx_burst(&mut burst) > 0 {
                io.tx_burst(&mut burst);
                burst.clear();
            }
            std::mem::drop(burst);
            let inner = io.inner_mut().counts();
            assert_eq!(inner.rx_too_long, 0, "{}", path.display());
            drop(io);
            assert_eq!(pool.available(), before, "{}", path.display());
        }
    }
}

#[test]
fn devices_over_boxed_files_are_one_type() {
    let file = capture(&numbered(3));
    let pool = MemPool::new(8, 2048);
    let boxed: Box<dyn Read + Send> = Box::new(std::io::Cursor::new(file));
    let out: Box<dyn Write + Send> = Box::new(std::io::sink());
    let mut io = PcapIo::new(
        &pool,
        Some(Reader::open(boxed).expect("it is a capture")),
        Some(Writer::new(out, false).expect("a sink takes all")),
    )
    .expect("Ethernet");
    let mut burst = Burst::new();
    assert_eq!(io.rx_burst(&mut burst), 3);
    assert_eq!(io.tx_burst(&mut burst), 3);
}
