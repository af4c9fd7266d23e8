//! Buffers against an oracle, pools against their count, devices against what goes in.

use std::collections::{BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::thread;
use std::time::Instant;

use proptest::prelude::*;

use super::{
    BenchIo, Frames, HEADROOM, LARGE_ROOM, MemBuf, MemCache, MemIo, MemPool, QueueCapacity,
    UdpFlows,
};
use crate::io::{BURST, Burst, PacketIo};
use crate::net::{Mac, PacketBuf};

fn udp_flows(flows: u32) -> UdpFlows {
    UdpFlows {
        source_mac: Mac([2, 0, 0, 0, 0, 1]),
        dest_mac: Mac([2, 0, 0, 0, 0, 2]),
        virtual_addr: Ipv4Addr::new(192, 0, 2, 10),
        virtual_port: 5060,
        flows,
        seed: 1,
    }
}

#[derive(Clone, Debug)]
enum Op {
    Prepend(usize),
    TrimFront(usize),
    Append(usize),
    Truncate(usize),
    Assign(Vec<u8>),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..80_usize).prop_map(Op::Prepend),
        (0..80_usize).prop_map(Op::TrimFront),
        (0..80_usize).prop_map(Op::Append),
        (0..80_usize).prop_map(Op::Truncate),
        prop::collection::vec(any::<u8>(), 0..250).prop_map(Op::Assign),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The oracle is a vector and two numbers: the room in front and behind.
    #[test]
    fn a_buffer_behaves_like_a_vector_with_room_at_both_ends(ops in prop::collection::vec(op(), 0..40)) {
        const ROOM: usize = 200;
        let pool = MemPool::new(1, ROOM);
        let mut buf = pool.alloc().expect("it is free");
        let (mut front, mut oracle) = (HEADROOM, Vec::<u8>::new());
        for op in ops {
            match op {
                Op::Prepend(n) => {
                    let fits = n <= front;
                    let room = buf.prepend(n);
                    prop_assert_eq!(room.is_some(), fits);
                    if let Some(room) = room {
                        room.fill(0xee);
                        front -= n;
                        oracle.splice(0..0, vec![0xee; n]);
                    }
                }
                Op::TrimFront(n) if n <= oracle.len() => {
                    buf.trim_front(n);
                    front += n;
                    oracle.drain(..n);
                }
                Op::TrimFront(_) => {}
                Op::Append(n) => {
                    let fits = front + oracle.len() + n <= HEADROOM + ROOM;
                    let room = buf.append(n);
                    prop_assert_eq!(room.is_some(), fits);
                    if let Some(room) = room {
                        room.fill(0xaa);
                        oracle.extend(vec![0xaa; n]);
                    }
                }
                Op::Truncate(n) => {
                    buf.truncate(n);
                    oracle.truncate(n);
                }
                Op::Assign(bytes) => {
                    let fits = front + bytes.len() <= HEADROOM + ROOM;
                    prop_assert_eq!(buf.assign(&bytes), fits);
                    oracle = if fits { bytes } else { Vec::new() };
                }
            }
            prop_assert_eq!(buf.data(), &oracle[..]);
            prop_assert_eq!(buf.data_mut(), &oracle[..]);
        }
    }
}

#[test]
#[should_panic(expected = "a frame can't lose more bytes than it has")]
fn trimming_more_than_the_frame_panics() {
    let pool = MemPool::new(1, 100);
    let mut buf = pool.alloc().expect("it is free");
    assert!(buf.assign(b"abc"));
    buf.trim_front(4);
}

#[test]
fn room_that_overflows_is_refused() {
    let pool = MemPool::new(1, 100);
    let mut buf = pool.alloc().expect("it is free");
    assert!(buf.append(usize::MAX).is_none() && buf.prepend(usize::MAX).is_none());
    assert!(buf.data().is_empty());
}

#[test]
fn a_pool_gives_out_its_buffers_and_no_more() {
    let pool = MemPool::with_large(3, 2048, 2);
    assert_eq!((pool.available(), pool.longest()), (5, LARGE_ROOM));
    let small: Vec<MemBuf> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!((small.len(), pool.available()), (3, 2));
    assert!(
        pool.alloc_for(2048).is_none(),
        "a small frame takes no large buffer"
    );
    let large: Vec<MemBuf> = std::iter::from_fn(|| pool.alloc_for(2049)).collect();
    assert_eq!((large.len(), pool.available()), (2, 0));
    drop((small, large));
    assert_eq!(pool.available(), 5);
    assert!(pool.alloc_for(LARGE_ROOM + 1).is_none());
    assert!(
        pool.alloc_for(LARGE_ROOM)
            .is_some_and(|mut buf| buf.assign(&[7; LARGE_ROOM]))
    );
}

#[test]
fn a_pool_without_large_buffers_holds_no_longer_frames() {
    let pool = MemPool::new(1, 2048);
    assert_eq!(pool.longest(), 2048);
    assert!(pool.alloc_for(2049).is_none());
    assert!(pool.alloc_for(2048).is_some());
}

#[test]
fn buffers_keep_their_memory_for_ever() {
    let pool = MemPool::new(8, 64);
    let addresses = || {
        let all: Vec<MemBuf> = std::iter::from_fn(|| pool.alloc()).collect();
        all.iter()
            .map(|buf| buf.data().as_ptr())
            .collect::<BTreeSet<_>>()
    };
    let first = addresses();
    assert_eq!(first.len(), 8);
    assert_eq!(addresses(), first);
}

#[test]
fn a_buffer_dropped_on_another_thread_returns_to_its_pool() {
    let pool = MemPool::new(64, 64);
    for _ in 0..20 {
        let all: Vec<MemBuf> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!((all.len(), pool.available()), (64, 0));
        thread::scope(|scope| {
            let mut all = all.into_iter();
            let half: Vec<MemBuf> = all.by_ref().take(32).collect();
            scope.spawn(move || drop(half));
            scope.spawn(move || drop(all));
        });
        assert_eq!(pool.available(), 64);
    }
}

#[test]
fn a_cache_counts_its_buffers_as_free_and_gives_them_back() {
    let pool = MemPool::with_large(8, 64, 1);
    let other = MemPool::new(1, 64);
    let mut cache = MemCache::new(&pool, 4);
    let taken: Vec<MemBuf> = std::iter::from_fn(|| cache.alloc()).collect();
    assert_eq!((taken.len(), pool.available()), (8, 1));
    for mut buf in taken {
        assert!(buf.assign(b"abc"));
        cache.free(buf);
    }
    cache.free(other.alloc().expect("it is free"));
    cache.free(pool.alloc_for(1000).expect("it is free"));
    cache.publish();
    assert_eq!((pool.available(), other.available()), (9, 1));
    let again = cache.alloc().expect("it is free");
    assert!(again.data().is_empty(), "a buffer comes back empty");
    cache.publish();
    assert_eq!(pool.available(), 8);
    drop((again, cache));
    assert_eq!(pool.available(), 9);
}

#[test]
fn frames_pass_the_memory_device_in_order() {
    let (mut io, wire) = MemIo::with_handle();
    for i in 0..50_u8 {
        assert!(wire.push(&[i; 60]));
    }
    assert_eq!(wire.rx_pending(), 50);
    let mut burst = Burst::new();
    assert_eq!(io.rx_burst(&mut burst), BURST);
    assert_eq!(
        io.rx_burst(&mut burst),
        0,
        "a full burst takes nothing more"
    );
    assert_eq!(io.tx_burst(&mut burst), BURST);
    assert_eq!(io.rx_burst(&mut burst), 50 - BURST);
    assert_eq!(io.tx_burst(&mut burst), 50 - BURST);
    assert!(burst.is_empty());
    let sent: Vec<Vec<u8>> = (0..50).map(|i| vec![i; 60]).collect();
    assert_eq!(wire.drain(), sent);
    assert_eq!(wire.pop(), None);
}

#[test]
fn a_full_memory_device_takes_the_front_of_the_burst_and_leaves_the_rest() {
    let pool = MemPool::new(64, 64);
    let (mut io, wire) = MemIo::pair(&pool, QueueCapacity { rx: 8, tx: 5 });
    let pushed = (0..10).filter(|i| wire.push(&[*i; 60])).count();
    assert_eq!(pushed, 8, "the wire holds its capacity");
    let mut burst = Burst::new();
    io.rx_burst(&mut burst);
    wire.set_tx_limit(2);
    assert_eq!(io.tx_burst(&mut burst), 2);
    wire.set_tx_limit(usize::MAX);
    assert_eq!(io.tx_burst(&mut burst), 3);
    assert_eq!(io.tx_burst(&mut burst), 0);
    let left: Vec<u8> = burst.iter().map(|buf| buf.data()[0]).collect();
    assert_eq!(left, [5, 6, 7]);
    assert_eq!(wire.pop(), Some(vec![0; 60]));
    assert_eq!(io.tx_burst(&mut burst), 1);
}

#[test]
fn the_memory_device_carries_the_longest_frames() {
    let (mut io, wire) = MemIo::with_handle();
    assert!(wire.push(&[9; LARGE_ROOM]));
    assert!(!wire.push(&[9; LARGE_ROOM + 1]));
    let mut burst = Burst::new();
    io.rx_burst(&mut burst);
    io.tx_burst(&mut burst);
    assert_eq!(wire.pop().map(|frame| frame.len()), Some(LARGE_ROOM));
}

/// Receives `n` frames from `io`, sending them back.
fn cycle(io: &mut BenchIo, n: usize) -> Vec<Vec<u8>> {
    let (mut got, mut burst) = (Vec::new(), Burst::new());
    while got.len() < n && io.rx_burst(&mut burst) > 0 {
        got.extend(burst.iter().map(|buf| buf.data().to_vec()));
        io.tx_burst(&mut burst);
    }
    got.truncate(n);
    got
}

#[test]
fn the_bench_device_repeats_its_frames_even_when_they_are_changed() {
    let pool = MemPool::with_large(64, 2048, 2);
    for frames in [
        (0..7).map(|i| vec![i; 60]).collect::<Vec<_>>(),
        vec![
            vec![1; 60],
            vec![2; 60],
            vec![3; 1500],
            vec![4; 60],
            vec![5; 9000],
            vec![],
        ],
    ] {
        let list: Frames = frames.iter().collect();
        let listed: Vec<&[u8]> = (0..list.len()).map(|i| list.get(i)).collect();
        assert_eq!(listed, frames);
        let mut io = BenchIo::new(list, &pool);
        let mut burst = Burst::new();
        io.rx_burst(&mut burst);
        for buf in &mut burst {
            buf.prepend(20).expect("there is headroom").fill(0xff);
            buf.data_mut().fill(0xff);
        }
        // What a worker drops returns through the shared queue, what it sends through the cache.
        burst.drain(..10);
        let seen = burst.len() + 10;
        io.tx_burst(&mut burst);
        let expected: Vec<Vec<u8>> = frames
            .iter()
            .cycle()
            .skip(seen)
            .take(100)
            .cloned()
            .collect();
        assert_eq!(cycle(&mut io, 100), expected);
    }
    assert_eq!(pool.available(), 66);
}

#[test]
fn the_bench_device_counts_and_ends_at_its_limit() {
    let pool = MemPool::new(64, 2048);
    let frames: Frames = [vec![1; 60], vec![2; 3000], vec![3; 100]].iter().collect();
    let mut io = BenchIo::new(frames, &pool).with_limit(70);
    assert_eq!(cycle(&mut io, 1000).len(), 70);
    let counts = io.counts();
    assert_eq!(
        (counts.rx_frames, counts.tx_frames, counts.tx_bytes),
        (70, 70, 70 * 80)
    );
    assert_eq!(io.left_out(), 1);
    let mut none = BenchIo::new(Frames::from_iter([[0_u8; 0]; 0]), &pool);
    assert_eq!(none.rx_burst(&mut Burst::new()), 0);
}

#[test]
fn the_bench_device_starves_and_recovers_when_buffers_run_out() {
    let pool = MemPool::new(8, 64);
    let mut io = BenchIo::new(udp_flows(100).frames(), &pool);
    let mut burst = Burst::new();
    assert_eq!(io.rx_burst(&mut burst), 8);
    assert_eq!(pool.available(), 0);
    assert!(io.alloc().is_none());
    burst.clear();
    assert_eq!(io.rx_burst(&mut burst), 8);
}

#[test]
fn udp_flows_are_distinct_and_have_right_checksums() {
    let flows = 200_000;
    let frames = udp_flows(flows).frames();
    let mut clients = HashSet::new();
    for i in 0..frames.len() {
        let frame = frames.get(i);
        // With the checksum in it a right header adds up to all ones (RFC 1071 §1).
        let ones = |bytes: &[u8], first: u64| {
            let sum = bytes.chunks(2).fold(first, |sum, w| {
                sum + u64::from(u16::from_be_bytes([w[0], w[1]]))
            });
            sum > 0 && sum % 0xffff == 0
        };
        assert!(ones(&frame[14..34], 0));
        assert!(ones(&frame[26..60], 17 + 26));
        clients.insert(<[u8; 10]>::try_from(&frame[26..36]).expect("ten bytes"));
    }
    assert_eq!(clients.len(), 200_000);
    assert_ne!(
        udp_flows(flows).frames().get(0),
        UdpFlows {
            seed: 2,
            ..udp_flows(flows)
        }
        .frames()
        .get(0)
    );
}

/// The memory device's cost: receive, look at one byte, send or drop. Run it in a release build:
/// `cargo test --release --no-default-features --lib memory_device_cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
fn memory_device_cost() {
    for (flows, send) in [
        (1, true),
        (1_000, true),
        (100_000, true),
        (1_000_000, true),
        (1_000, false),
    ] {
        let pool = MemPool::new(1024, 2048);
        let mut io = BenchIo::new(udp_flows(flows).frames(), &pool);
        let mut runs: Vec<f64> = (0..9).map(|_| ns_per_packet(&mut io, send)).collect();
        runs.sort_by(f64::total_cmp);
        let done = if send { "sent" } else { "dropped" };
        println!(
            "{flows} flows, {done}: median {:.2} ns, {:.2} to {:.2}",
            runs[4], runs[0], runs[8]
        );
    }
}

fn ns_per_packet(io: &mut BenchIo, send: bool) -> f64 {
    const PACKETS: usize = 20_000_000;
    let (mut burst, mut packets, mut seen) = (Burst::new(), 0, 0_u64);
    let start = Instant::now();
    while packets < PACKETS {
        packets += io.rx_burst(&mut burst);
        seen += burst
            .iter()
            .map(|buf| u64::from(buf.data()[35]))
            .sum::<u64>();
        if send {
            io.tx_burst(&mut burst);
        }
        burst.clear();
    }
    std::hint::black_box(seen);
    start.elapsed().as_secs_f64() * 1e9 / packets as f64
}
