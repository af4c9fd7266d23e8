//! A worker's outbound side alone: every verdict under every shortage. Whatever happens, a frame meets one fate and
//! gives its buffer back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use polder::forward::{
    Egress, Fib, FibInput, NeighbourDef, Piece, Pieces, PortDef, PortId, Sink, Verdict,
};
use polder::io::mem::{MemBuf, MemHandle, MemIo, MemPool, QueueCapacity};
use polder::net::build::{Frame, fragment, verify};
use polder::net::{DropReason, HashKey, Mac, PacketBuf, Tick, parse};
use polder::worker::{Moved, Outbound, Owed, Ring, Wiring, WorkerShared};

const BUFFERS: usize = 256;
const PORT: PortId = PortId(0);
const OURS: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
const NEIGHBOUR: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// An outbound side with one port, and the other ends of all that it is wired to.
struct Bench {
    out: Outbound<MemIo>,
    shared: Arc<WorkerShared>,
    wire: MemHandle,
    pool: MemPool,
    to_other: Ring<Moved<MemBuf>>,
    punts: Ring<MemBuf>,
    given: u64,
}

#[derive(Clone, Copy, Default)]
struct Has {
    no_queue: bool,
    no_ring: bool,
    kernel: bool,
}

impl Bench {
    fn new(has: Has) -> Self {
        let pool = MemPool::new(BUFFERS, 2048);
        let (io, wire) = MemIo::pair(&pool, QueueCapacity { rx: 1, tx: 128 });
        // A device that the worker has a queue on all the same, for another port.
        let (second, _) = MemIo::pair(&pool, QueueCapacity { rx: 1, tx: 1 });
        let to_other: Ring<Moved<MemBuf>> = Arc::new(ArrayQueue::new(2));
        let punts: Ring<MemBuf> = Arc::new(ArrayQueue::new(2));
        let shared = Arc::new(WorkerShared::new(0, None, 1, 1));
        let wiring = Wiring {
            queues: vec![(!has.no_queue).then_some(io), Some(second)],
            tx_worker: vec![usize::from(has.no_queue), 0],
            to_workers: vec![None, (!has.no_ring).then(|| Arc::clone(&to_other))],
            from_workers: vec![None, None],
            punts: vec![has.kernel.then(|| Arc::clone(&punts)), None],
            injects: vec![None, None],
            punt_nowhere: false,
        };
        Self {
            out: Outbound::new(wiring, Arc::clone(&shared), HashKey::from_seed(1)),
            shared,
            wire,
            pool,
            to_other,
            punts,
            given: 0,
        }
    }

    fn buf(&self, frame: &[u8]) -> MemBuf {
        let mut buf = self.pool.alloc().expect("a free buffer");
        assert!(buf.assign(frame));
        buf
    }

    /// A fragment of an IPv4 datagram without options.
    fn piece(&self, frame: &[u8]) -> Piece<MemBuf> {
        let header = 14 + 20;
        Piece {
            buf: self.buf(frame),
            ingress: PORT,
            payload: header,
            len: u16::try_from(frame.len()).expect("a frame") - header,
            offset: (u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff) * 8,
        }
    }

    fn accept(&mut self, frame: &[u8], verdict: Verdict) {
        let buf = self.buf(frame);
        self.given += 1;
        self.out.accept(PORT, buf, verdict);
    }

    fn collect(&mut self, frame: &[u8]) {
        let buf = self.buf(frame);
        self.given += 1;
        let packet = parse(frame).expect("a whole frame");
        self.out.collect(PORT, buf, &packet);
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.shared.counters.drops[reason as usize].get()
    }

    /// What left by the device. All that was given must have met one fate by now, and no buffer may be missing.
    fn end(mut self) -> Vec<Vec<u8>> {
        self.out.flush();
        let c = &self.shared.counters;
        let fates = [&c.transmitted, &c.punted, &c.held, &c.handed_out];
        let sum: u64 = fates.iter().map(|f| f.get()).sum();
        assert_eq!(self.given, sum + c.dropped(), "one fate for each frame");
        let sent = self.wire.drain();
        drop(self.out);
        while self.to_other.pop().is_some() {}
        while self.punts.pop().is_some() {}
        assert_eq!(self.pool.available(), BUFFERS, "every buffer is back");
        sent
    }
}

fn egress(mtu: u16) -> Egress {
    Egress {
        port: PORT,
        mtu,
        dst_mac: NEIGHBOUR,
        src_mac: OURS,
    }
}

fn hop(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

fn wait(next_hop: IpAddr) -> Verdict {
    Verdict::Wait {
        port: PORT,
        next_hop,
    }
}

fn at(s: &str) -> SocketAddr {
    s.parse().expect("address and port")
}

fn udp(from: &str, to: &str, payload: usize) -> Vec<u8> {
    Frame::new().udp(at(from), at(to), &vec![7; payload])
}

fn small() -> Vec<u8> {
    udp("192.0.2.2:1000", "192.0.2.100:53", 20)
}

fn fib(generation: u64, known: &[IpAddr]) -> Fib {
    let port = PortDef {
        name: "wan0".into(),
        device: "mem".into(),
        addresses: Vec::new(),
        mac: Some(OURS),
        mtu: 1500,
        kernel_interface: false,
    };
    let neighbour = |addr: &IpAddr| NeighbourDef {
        port: PORT,
        addr: *addr,
        mac: NEIGHBOUR,
    };
    let neighbours: Vec<_> = known.iter().map(neighbour).collect();
    Fib::build(
        generation,
        &FibInput {
            ports: &[port],
            macs: &[None],
            routes: &[],
            neighbours: &neighbours,
            dests: &[],
        },
    )
}

#[test]
fn a_device_that_takes_no_more_costs_the_rest_of_the_burst() {
    let mut bench = Bench::new(Has::default());
    bench.wire.set_tx_limit(3);
    for _ in 0..5 {
        bench.accept(&small(), Verdict::Transmit(egress(1500)));
    }
    let own = bench.buf(&small());
    bench.out.send_own(own, Verdict::Transmit(egress(1500)));
    bench.out.flush();
    assert_eq!(
        bench.dropped(DropReason::TxFull),
        2,
        "its own frame is not one received"
    );
    assert_eq!(bench.shared.counters.generated.get(), 0);
    assert_eq!(bench.end().len(), 3);
}

#[test]
fn more_frames_than_a_burst_leave_in_order() {
    let mut bench = Bench::new(Has::default());
    for n in 0..100 {
        let frame = udp("192.0.2.2:1000", "192.0.2.100:53", n);
        bench.accept(&frame, Verdict::Transmit(egress(1500)));
    }
    let lens: Vec<_> = bench.end().iter().map(Vec::len).collect();
    assert_eq!(lens.len(), 100);
    assert!(lens.is_sorted());
}

#[test]
fn without_a_queue_of_its_own_a_frame_goes_to_the_worker_that_has_one() {
    let mut bench = Bench::new(Has {
        no_queue: true,
        ..Has::default()
    });
    for _ in 0..3 {
        bench.accept(&small(), Verdict::Transmit(egress(1500)));
    }
    assert_eq!(bench.shared.counters.handed_out.get(), 2);
    assert_eq!(
        bench.dropped(DropReason::HandoverFull),
        1,
        "the ring holds two"
    );
    let Some(Moved::Tx(PORT, frame)) = bench.to_other.pop() else {
        panic!("a complete frame");
    };
    assert_eq!(
        (&frame.buf.data()[..6], frame.stands_for),
        (&NEIGHBOUR.0[..], 1)
    );
    drop(frame);
    assert!(bench.end().is_empty());
}

#[test]
fn a_frame_for_a_worker_without_a_ring_is_an_internal_drop() {
    let mut bench = Bench::new(Has {
        no_queue: true,
        no_ring: true,
        ..Has::default()
    });
    bench.accept(&small(), Verdict::Transmit(egress(1500)));
    bench.accept(&small(), Verdict::HandOver(1));
    bench.accept(&small(), Verdict::HandOver(9));
    assert_eq!(bench.dropped(DropReason::Internal), 3);
    bench.end();
}

#[test]
fn a_full_hand_over_ring_drops() {
    let mut bench = Bench::new(Has::default());
    for _ in 0..3 {
        bench.accept(&small(), Verdict::HandOver(1));
    }
    assert_eq!(bench.dropped(DropReason::HandoverFull), 1);
    assert_eq!(bench.shared.counters.handed_out.get(), 2);
    bench.end();
}

#[test]
fn without_a_kernel_interface_a_punt_is_a_drop() {
    let mut bench = Bench::new(Has::default());
    bench.accept(&small(), Verdict::Punt);
    assert_eq!(bench.dropped(DropReason::NoKernel), 1);
    bench.end();
}

#[test]
fn punts_are_limited_by_the_ring_and_by_their_rate() {
    let mut bench = Bench::new(Has {
        kernel: true,
        ..Has::default()
    });
    let ping = Frame::new().icmp_echo(hop(2), hop(10), 1, 1, b"?");
    for _ in 0..300 {
        bench.accept(&ping, Verdict::Punt);
    }
    let counts = [
        bench.shared.counters.punted.get(),
        bench.dropped(DropReason::PuntFull),
        bench.dropped(DropReason::PuntRate),
    ];
    assert_eq!(counts, [2, 198, 100], "200 pings at once, two in the ring");
    while bench.punts.pop().is_some() {}
    bench.out.begin(Tick(Tick::PER_SECOND));
    bench.accept(&ping, Verdict::Punt);
    assert_eq!(
        bench.shared.counters.punted.get(),
        3,
        "a second later there is room"
    );
    bench.end();
}

#[test]
fn a_packet_waits_for_its_neighbour_and_is_sent_when_it_is_known() {
    let mut bench = Bench::new(Has::default());
    let next_hop = hop(1);
    bench.accept(&small(), wait(next_hop));
    assert_eq!(bench.shared.counters.held.get(), 1);
    bench.out.begin(Tick(Tick::PER_SECOND));
    bench.out.sweep_waiting(&fib(1, &[]));
    let asked: Vec<_> = std::iter::from_fn(|| bench.shared.resolve.pop()).collect();
    assert_eq!(
        asked,
        [(PORT, next_hop); 2],
        "at once, and again after a second"
    );
    bench.out.sweep_waiting(&fib(2, &[next_hop]));
    assert_eq!(bench.shared.counters.held.get(), 0);
    let sent = bench.end();
    assert_eq!(sent[0][..12], [NEIGHBOUR.0, OURS.0].concat());
}

#[test]
fn a_neighbour_that_does_not_answer_costs_the_packet() {
    let mut bench = Bench::new(Has::default());
    let next_hop = hop(1);
    bench.accept(&small(), wait(next_hop));
    bench.out.begin(Tick(3 * Tick::PER_SECOND));
    bench.out.sweep_waiting(&fib(1, &[]));
    assert_eq!(bench.dropped(DropReason::NeighbourUnresolved), 1);
    assert!(bench.end().is_empty());
}

#[test]
fn few_packets_wait_for_few_neighbours() {
    let mut bench = Bench::new(Has::default());
    for _ in 0..20 {
        let next_hop = hop(1);
        bench.accept(&small(), wait(next_hop));
    }
    assert_eq!(
        bench.dropped(DropReason::NeighbourQueueFull),
        4,
        "16 for one next hop"
    );
    for n in 2..70 {
        let next_hop = hop(n);
        bench.accept(&small(), wait(next_hop));
    }
    assert_eq!(
        bench.dropped(DropReason::NeighbourQueueFull),
        9,
        "64 next hops"
    );
    bench.end();
}

#[test]
fn what_waits_at_the_end_is_dropped() {
    let mut bench = Bench::new(Has::default());
    let next_hop = hop(1);
    bench.accept(&small(), wait(next_hop));
    let own = bench.buf(&small());
    bench.out.send_own(own, wait(next_hop));
    bench.out.drop_waiting();
    assert_eq!(bench.shared.counters.held.get(), 0);
    assert_eq!(bench.dropped(DropReason::NeighbourUnresolved), 1);
    bench.end();
}

#[test]
fn an_own_frame_without_a_way_is_let_go() {
    let mut bench = Bench::new(Has::default());
    let own = bench.buf(&small());
    bench.out.send_own(own, Verdict::Drop(DropReason::NoRoute));
    assert_eq!(
        bench.shared.counters.dropped(),
        0,
        "drops are of received frames"
    );
    bench.end();
}

#[test]
fn a_packet_larger_than_the_mtu_leaves_in_valid_pieces() {
    let mut bench = Bench::new(Has::default());
    let frame = udp("192.0.2.2:1000", "192.0.2.100:53", 1400);
    bench.accept(&frame, Verdict::Transmit(egress(600)));
    bench.out.flush();
    assert_eq!(
        bench.shared.counters.transmitted.get(),
        1,
        "the first stands for the packet"
    );
    assert_eq!(bench.shared.counters.generated.get(), 2);
    let pieces = bench.end();
    assert_eq!(pieces.len(), 3);
    let mut payload: Vec<u8> = Vec::new();
    for piece in &pieces {
        assert_eq!(verify(piece), Ok(()));
        assert!(piece.len() <= 14 + 600);
        payload.extend(&piece[34..]);
    }
    assert_eq!(payload, frame[34..]);
}

#[test]
fn what_must_not_be_split_is_too_big() {
    let mut bench = Bench::new(Has::default());
    let whole =
        Frame::new()
            .dont_fragment()
            .udp(at("192.0.2.2:1000"), at("192.0.2.100:53"), &[7; 1400]);
    let v6 = udp("[2001:db8::2]:1000", "[2001:db8::1]:53", 1400);
    for frame in [whole, v6] {
        bench.accept(&frame, Verdict::Transmit(egress(1280)));
    }
    assert_eq!(bench.dropped(DropReason::TooBig), 2);
    assert!(bench.end().is_empty());
}

#[test]
fn padding_does_not_make_a_packet_too_big() {
    let mut bench = Bench::new(Has::default());
    for (from, to) in [
        ("192.0.2.2:1000", "192.0.2.100:53"),
        ("[2001:db8::2]:1000", "[2001:db8::1]:53"),
    ] {
        let padded = Frame::new().padding(100).udp(at(from), at(to), &[7; 1200]);
        bench.accept(&padded, Verdict::Transmit(egress(1280)));
    }
    assert_eq!(bench.end().len(), 2);
}

#[test]
fn no_buffer_for_a_piece_costs_the_whole_packet() {
    let mut bench = Bench::new(Has::default());
    let frame = udp("192.0.2.2:1000", "192.0.2.100:53", 1400);
    let taken: Vec<_> = (0..BUFFERS - 2).map(|_| bench.buf(&[])).collect();
    bench.accept(&frame, Verdict::Transmit(egress(600)));
    assert_eq!(bench.dropped(DropReason::NoBuffer), 1);
    drop(taken);
    assert!(bench.end().is_empty(), "no half packet leaves");
}

#[test]
fn a_buffer_comes_from_any_queue_where_the_port_has_none() {
    let mut bench = Bench::new(Has {
        no_queue: true,
        ..Has::default()
    });
    let buf = bench.out.alloc(PORT).expect("the second port's");
    bench.out.send_complete(PORT, Owed { buf, stands_for: 0 });
    assert_eq!(
        bench.shared.counters.handed_out.get(),
        0,
        "it stands for no received frame"
    );
    bench.end();
}

/// The fragments of a datagram of 2,000 bytes from a port of `198.51.100.1`.
fn pieces(port: u16) -> Vec<Vec<u8>> {
    let whole = udp(&format!("198.51.100.1:{port}"), "192.0.2.9:9", 2000);
    let pieces = fragment(&whole, 1500);
    assert_eq!(pieces.len(), 2);
    pieces
}

#[test]
fn datagrams_that_another_worker_hands_over_one_after_the_other_stay_apart() {
    let mut bench = Bench::new(Has::default());
    for port in [1000, 1001, 1002] {
        let [first, second] = &pieces(port)[..] else {
            panic!("two")
        };
        for (frame, last) in [(first, false), (second, true)] {
            let piece = bench.piece(frame);
            bench.out.arrive(1, piece, last);
        }
    }
    let (mut got, mut message) = (Pieces::new(), Vec::new());
    for port in [1000u16, 1001, 1002] {
        let next = bench.out.next_datagram(&mut got, &mut message);
        assert!(next.is_some_and(|next| next.handed));
        assert_eq!(got.len(), 2, "of the datagram from port {port}");
        assert_eq!(message[..2], port.to_be_bytes());
        assert_eq!(message.len(), 2008);
        got.clear();
    }
    assert!(bench.out.next_datagram(&mut got, &mut message).is_none());
}

#[test]
fn what_has_come_of_a_datagram_is_held_and_dropped_at_the_end() {
    let mut bench = Bench::new(Has::default());
    let held = |bench: &Bench| {
        let c = &bench.shared.counters;
        (c.held.get(), c.fragments_held.get())
    };
    let [first, second] = &pieces(1000)[..] else {
        panic!("two")
    };
    bench.given = 3;
    for (n, (frame, last)) in [(first, false), (second, true), (first, false)]
        .into_iter()
        .enumerate()
    {
        let piece = bench.piece(frame);
        bench.out.arrive(1, piece, last);
        assert_eq!(held(&bench), (n as u64 + 1, n as u64 + 1));
    }
    let (mut got, mut message) = (Pieces::new(), Vec::new());
    assert!(bench.out.next_datagram(&mut got, &mut message).is_some());
    assert_eq!(held(&bench), (1, 1), "the half one");
    for piece in got {
        let verdict = Verdict::Transmit(egress(1500));
        bench.out.accept(piece.ingress, piece.buf, verdict);
    }
    bench.out.drop_waiting();
    assert_eq!(held(&bench), (0, 0));
    assert_eq!(bench.dropped(DropReason::FragmentTimeout), 1);
    assert_eq!(bench.end().len(), 2);
}

#[test]
fn a_datagram_is_handed_over_whole_or_not_at_all() {
    let mut bench = Bench::new(Has::default());
    let other = bench.buf(&small());
    assert!(bench.to_other.push(Moved::Rx(PORT, other)).is_ok());
    let bufs = |bench: &Bench| -> Pieces<MemBuf> {
        let all = pieces(7);
        all.iter().map(|f| bench.piece(f)).collect()
    };
    // One place is left for two fragments.
    let mut two = bufs(&bench);
    bench.out.hand_over_datagram(1, &mut two);
    assert!(two.is_empty());
    assert_eq!(bench.dropped(DropReason::HandoverFull), 2);
    assert_eq!(bench.to_other.len(), 1);
    drop(bench.to_other.pop());
    let mut two = bufs(&bench);
    bench.out.hand_over_datagram(1, &mut two);
    bench.given = 4;
    let last = |moved| match moved {
        Some(Moved::Piece(_, last)) => last,
        other => panic!("{other:?}"),
    };
    let popped = [bench.to_other.pop(), bench.to_other.pop()].map(last);
    assert_eq!(popped, [false, true]);
    bench.end();
}

#[test]
fn a_datagram_that_was_refused_is_forgotten_after_its_time() {
    let mut bench = Bench::new(Has::default());
    let whole = udp("198.51.100.1:1000", "192.0.2.9:9", 2000);
    for mtu in [1500, 600] {
        bench.collect(&fragment(&whole, mtu)[0]);
    }
    assert_eq!(bench.dropped(DropReason::FragmentOverlap), 2);
    bench.out.begin(Tick(30 * Tick::PER_SECOND - 1));
    assert_eq!(bench.out.expire_fragments(), 0);
    bench.out.begin(Tick(30 * Tick::PER_SECOND));
    assert_eq!(bench.out.expire_fragments(), 1, "no frame of it is held");
    bench.end();
}
