//! Where a worker's frames go: transmit queues, other workers, the kernel, the waiting room.
//!
//! Carries out the director's verdicts. Invariant: each received frame is counted exactly once, as transmitted, punted
//! or dropped, when its fate is certain, and as held until then.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

use super::reassembly::{Added, FragmentInfo, Lost, Reassembly, gather};
use super::shared::WorkerShared;
use super::wait::{Fate, Owed, WaitingRoom};
use crate::forward::exception::{Policer, classify};
use crate::forward::{Egress, Evict, Fib, Piece, Pieces, PortId, Sink, Verdict, Way};
use crate::io::PacketIo;
use crate::net::{BURST, DropReason, HashKey, L3, Packet, PacketBuf, Tick, fragment};

/// A frame on its way from one worker to another.
#[derive(Debug)]
pub enum Moved<B> {
    /// For the worker that owns its connection; it came in by this port.
    Rx(PortId, B),
    /// For the worker that has a transmit queue on this port; the frame is complete.
    Tx(PortId, Owed<B>),
    /// A fragment of a whole datagram, for the worker that owns its connection, and whether it is the datagram's last.
    /// Those of one datagram follow each other.
    Piece(Piece<B>, bool),
    /// For the worker whose connection is to end.
    Evict(Evict),
}

/// Ring of frames from one worker to another, or between a worker and the management core.
pub type Ring<T> = Arc<ArrayQueue<T>>;

/// A worker's connections to everyone else.
#[derive(Debug)]
pub struct Wiring<I: PacketIo> {
    /// By port: this worker's queue, if the device has one for it.
    pub queues: Vec<Option<I>>,
    /// By port: the worker whose transmit queue this worker uses; itself where it has one.
    pub tx_worker: Vec<usize>,
    /// By worker: the ring to it; `None` for itself.
    pub to_workers: Vec<Option<Ring<Moved<I::Buf>>>>,
    /// By worker: the ring from it; `None` for itself.
    pub from_workers: Vec<Option<Ring<Moved<I::Buf>>>>,
    /// By port: the ring to the kernel's interface; `None` where the port has none.
    pub punts: Vec<Option<Ring<I::Buf>>>,
    /// By port: frames from the kernel's interface for this worker to send; `None` where there are none.
    pub injects: Vec<Option<Ring<I::Buf>>>,
    /// What becomes of frames for the kernel where a port has no kernel interface: counted as punted and freed (replay,
    /// benchmarks) or dropped.
    pub punt_nowhere: bool,
}

#[derive(Debug)]
struct TxQueue<B> {
    frames: ArrayVec<B, BURST>,
    stand_for: ArrayVec<u8, BURST>,
}

/// The outbound side of a worker.
#[derive(Debug)]
pub struct Outbound<I: PacketIo> {
    pub(super) wiring: Wiring<I>,
    shared: Arc<WorkerShared>,
    tx: Vec<TxQueue<I::Buf>>,
    waiting: WaitingRoom<I::Buf>,
    policer: Policer,
    now: Tick,
    /// Generation of the forwarding information at the last sweep of the waiting room.
    swept: (u64, Tick),
    held: u64,
    fragments: Reassembly<I::Buf>,
    /// Datagrams that became whole in this burst.
    whole: VecDeque<(Pieces<I::Buf>, Next)>,
    /// By worker: the fragments that have come of the datagram that it is handing over.
    arriving: Vec<Pieces<I::Buf>>,
    /// Frames in `arriving` and `whole`.
    gathered: usize,
    /// How many packets were split here, and the worker's number above [`FRAGMENT_ID_MASK`]: together an identification
    /// that no other worker gives.
    fragment_id: u32,
    fragment_worker: u32,
}

/// What [`Outbound::next_datagram`] says of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Next {
    /// Another worker handed it over.
    pub handed: bool,
}

impl<I: PacketIo> Outbound<I> {
    /// An outbound side with empty queues. `fragment_key` keeps anybody from aiming at places of the fragment store.
    #[must_use]
    pub fn new(wiring: Wiring<I>, shared: Arc<WorkerShared>, fragment_key: HashKey) -> Self {
        let arriving = wiring.from_workers.iter().map(|_| Pieces::new()).collect();
        let empty = || TxQueue {
            frames: ArrayVec::new(),
            stand_for: ArrayVec::new(),
        };
        // The worker that there is no ring to is this one.
        let own = wiring.to_workers.iter().position(Option::is_none);
        let own = own.and_then(|own| u32::try_from(own).ok()).unwrap_or(0);
        Self {
            fragment_id: 0,
            fragment_worker: own << FRAGMENT_ID_MASK.trailing_ones(),
            tx: wiring.queues.iter().map(|_| empty()).collect(),
            wiring,
            shared,
            waiting: WaitingRoom::default(),
            policer: Policer::new(Tick(0)),
            now: Tick(0),
            swept: (0, Tick(0)),
            held: 0,
            fragments: Reassembly::new(fragment_key),
            whole: VecDeque::with_capacity(2 * BURST),
            arriving,
            gathered: 0,
        }
    }

    /// Starts a poll at `now`.
    pub fn begin(&mut self, now: Tick) {
        self.now = now;
    }

    /// Ends datagrams whose other fragments did not come in time, some at a time; returns how many.
    pub fn expire_fragments(&mut self) -> usize {
        // What was refused is remembered without a frame, and has its time as well.
        let due = |at: Tick| self.now.reached(at);
        if !self.fragments.next_deadline().is_some_and(due) {
            return 0;
        }
        let counters = &self.shared.counters;
        let lose = |lost: Lost<I::Buf>| counters.drop(lost.reason);
        let ended = self.fragments.expire(self.now, FRAGMENT_BUDGET, lose);
        self.count_held();
        ended
    }

    /// A fragment of a datagram that the worker `from` hands over.
    pub fn arrive(&mut self, from: usize, piece: Piece<I::Buf>, last: bool) {
        // A worker hands over as many as there can be at most.
        match self.arriving[from].try_push(piece) {
            Ok(()) => self.gathered += 1,
            Err(_) => self.shared.counters.drop(DropReason::Internal),
        }
        if last {
            // The next one that the worker hands over may be right behind it.
            let pieces = std::mem::take(&mut self.arriving[from]);
            self.whole.push_back((pieces, Next { handed: true }));
        }
        self.count_held();
    }

    /// The next whole datagram: its fragments, and its transport header with all that follows.
    pub fn next_datagram(
        &mut self,
        pieces: &mut Pieces<I::Buf>,
        message: &mut Vec<u8>,
    ) -> Option<Next> {
        let (whole, next) = self.whole.pop_front()?;
        *pieces = whole;
        gather(pieces, message);
        self.gathered -= pieces.len();
        self.count_held();
        Some(next)
    }

    fn count_held(&self) {
        let fragments = (self.fragments.held() + self.gathered) as u64;
        let counters = &self.shared.counters;
        counters.fragments_held.set(fragments);
        counters.held.set(self.held + fragments);
    }

    /// Sends what waited for a neighbour that is known now, drops what waited too long.
    pub fn sweep_waiting(&mut self, fib: &Fib) {
        let key = (fib.generation, self.now);
        if self.waiting.is_empty() || self.swept == key {
            return;
        }
        self.swept = key;
        let mut room = std::mem::take(&mut self.waiting);
        let shared = Arc::clone(&self.shared);
        room.sweep(
            self.now,
            |port, addr| matches!(fib.way_by(port, addr), Way::Known(_)),
            |port, addr| ask(&shared, port, addr),
            |port, addr, frame, fate| {
                self.unhold(frame.stands_for);
                match (fate, fib.way_by(port, addr)) {
                    (Fate::Ready, Way::Known(egress)) => self.transmit(egress, frame),
                    _ => self.drop(frame, DropReason::NeighbourUnresolved),
                }
            },
        );
        self.waiting = room;
    }

    /// Drops what waits for a neighbour, and what came of datagrams that nobody will hand over to their end.
    pub fn drop_waiting(&mut self) {
        for pieces in &mut self.arriving {
            self.gathered -= pieces.len();
            for _ in pieces.drain(..) {
                self.shared.counters.drop(DropReason::FragmentTimeout);
            }
        }
        self.count_held();
        let mut room = std::mem::take(&mut self.waiting);
        let now = self.now.plus(super::wait::WAIT_TICKS);
        room.sweep(
            now,
            |_, _| false,
            |_, _| {},
            |_, _, frame, _| {
                self.unhold(frame.stands_for);
                self.drop(frame, DropReason::NeighbourUnresolved);
            },
        );
    }

    /// Gives every queued frame to its device. What a device does not take is dropped.
    pub fn flush(&mut self) {
        for port in 0..self.tx.len() {
            self.flush_port(port);
        }
    }

    /// Queues a frame whose headers are complete for the worker's own transmit queue on `port`, or passes it to the
    /// worker that has one.
    pub fn send_complete(&mut self, port: PortId, frame: Owed<I::Buf>) {
        let at = usize::from(port.0);
        if self.wiring.queues[at].is_some() {
            if self.tx[at].frames.is_full() {
                self.flush_port(at);
            }
            self.tx[at].frames.push(frame.buf);
            self.tx[at].stand_for.push(frame.stands_for);
            return;
        }
        let other = self.wiring.tx_worker[at];
        let stands_for = u64::from(frame.stands_for);
        let Some(ring) = self.wiring.to_workers.get(other).and_then(Option::as_ref) else {
            return self.drop(frame, DropReason::Internal);
        };
        match ring.push(Moved::Tx(port, frame)) {
            Ok(()) => self.shared.counters.handed_out.add(stands_for),
            Err(Moved::Tx(_, frame)) => self.drop(frame, DropReason::HandoverFull),
            Err(_) => {}
        }
    }

    fn flush_port(&mut self, port: usize) {
        let queue = &mut self.tx[port];
        let Some(io) = self.wiring.queues[port].as_mut() else {
            return;
        };
        if queue.frames.is_empty() {
            return;
        }
        let taken = io.tx_burst(&mut queue.frames);
        let counters = &self.shared.counters;
        let received = |part: &[u8]| part.iter().map(|n| u64::from(*n)).sum();
        let (sent, lost) = queue.stand_for.split_at(taken);
        counters.transmitted.add(received(sent));
        let own = sent.iter().filter(|n| **n == 0).count();
        if own > 0 {
            counters.generated.add(own as u64);
        }
        if !lost.is_empty() {
            counters.drops[DropReason::TxFull as usize].add(received(lost));
        }
        queue.stand_for.clear();
        queue.frames.clear();
    }

    /// Writes the Ethernet header, splits what is larger than the MTU, and queues.
    fn transmit(&mut self, egress: Egress, mut frame: Owed<I::Buf>) {
        let len = frame.buf.data().len();
        if len > usize::from(egress.mtu) + ETHERNET && is_larger(frame.buf.data(), egress.mtu) {
            return self.transmit_in_pieces(egress, frame);
        }
        write_ethernet(frame.buf.data_mut(), &egress);
        self.send_complete(egress.port, frame);
    }

    /// Splits a packet that allows it. The first piece stands for the packet; the others are of Polder's making.
    fn transmit_in_pieces(&mut self, egress: Egress, frame: Owed<I::Buf>) {
        let Some(plan) = fragment::plan(frame.buf.data(), egress.mtu) else {
            return self.drop(frame, DropReason::TooBig);
        };
        let mut pieces = ArrayVec::<I::Buf, { fragment::PIECES_MAX }>::new();
        self.fragment_id = self.fragment_id.wrapping_add(1);
        let id = self.fragment_worker | self.fragment_id & FRAGMENT_ID_MASK;
        for piece in plan.pieces(id) {
            let Some(mut buf) = self.alloc(egress.port) else {
                return self.drop(frame, DropReason::NoBuffer);
            };
            if !fragment::write(&piece, frame.buf.data(), &mut buf) {
                return self.drop(frame, DropReason::TooBig);
            }
            pieces.push(buf);
        }
        let mut stands_for = frame.stands_for;
        for mut buf in pieces {
            write_ethernet(buf.data_mut(), &egress);
            self.send_complete(egress.port, Owed { buf, stands_for });
            stands_for = 0;
        }
    }

    fn wait(&mut self, port: PortId, next_hop: IpAddr, frame: Owed<I::Buf>) {
        let n = frame.stands_for;
        match self.waiting.push(port, next_hop, frame, self.now) {
            Ok(new) => {
                self.held += u64::from(n);
                self.count_held();
                if new {
                    ask(&self.shared, port, next_hop);
                }
            }
            Err((frame, reason)) => self.drop(frame, reason),
        }
    }

    fn unhold(&mut self, n: u8) {
        self.held -= u64::from(n);
        self.count_held();
    }

    fn punt(&mut self, ingress: PortId, buf: I::Buf) {
        let counters = &self.shared.counters;
        let Some(ring) = &self.wiring.punts[usize::from(ingress.0)] else {
            if self.wiring.punt_nowhere {
                counters.punted.inc();
            } else {
                counters.drop(DropReason::NoKernel);
            }
            return;
        };
        if !self.policer.admit(classify(buf.data()), self.now) {
            counters.drop(DropReason::PuntRate);
        } else if ring.push(buf).is_err() {
            counters.drop(DropReason::PuntFull);
        } else {
            counters.punted.inc();
        }
    }

    fn hand_over(&mut self, worker: usize, ingress: PortId, buf: I::Buf) {
        let ring = self.wiring.to_workers.get(worker).and_then(Option::as_ref);
        let counters = &self.shared.counters;
        match ring.map(|r| r.push(Moved::Rx(ingress, buf))) {
            Some(Ok(())) => counters.handed_out.inc(),
            Some(Err(_)) => counters.drop(DropReason::HandoverFull),
            None => counters.drop(DropReason::Internal),
        }
    }

    #[allow(clippy::needless_pass_by_value)] // The frame ends here.
    fn drop(&self, frame: Owed<I::Buf>, reason: DropReason) {
        self.shared.counters.drops[reason as usize].add(u64::from(frame.stands_for));
    }
}

impl<I: PacketIo> Sink<I::Buf> for Outbound<I> {
    #[inline]
    fn accept(&mut self, ingress: PortId, buf: I::Buf, verdict: Verdict) {
        let owed = |buf| Owed { buf, stands_for: 1 };
        match verdict {
            Verdict::Transmit(egress) => self.transmit(egress, owed(buf)),
            Verdict::Wait { port, next_hop } => self.wait(port, next_hop, owed(buf)),
            Verdict::Punt => self.punt(ingress, buf),
            Verdict::HandOver(worker) => self.hand_over(worker, ingress, buf),
            Verdict::Drop(reason) => self.shared.counters.drop(reason),
            Verdict::Collect => self.shared.counters.drop(DropReason::Internal),
        }
    }

    #[inline(never)]
    fn collect(&mut self, ingress: PortId, buf: I::Buf, packet: &Packet) {
        let info = match &packet.l3 {
            L3::V4(ip) => FragmentInfo::of(ip),
            L3::V6(ip) => FragmentInfo::of(ip),
            L3::Other(_) => None,
        };
        let counters = &self.shared.counters;
        let Some(info) = info else {
            return counters.drop(DropReason::Internal);
        };
        counters.fragments_received.inc();
        let lose = |lost: Lost<I::Buf>| counters.drop(lost.reason);
        let added = self.fragments.add(self.now, ingress, &info, buf, lose);
        if let Added::Complete(datagram) = added {
            counters.datagrams_reassembled.inc();
            self.gathered += datagram.pieces.len();
            let next = Next { handed: false };
            self.whole.push_back((datagram.from_transport(), next));
        }
        self.count_held();
    }

    #[inline(never)]
    fn hand_over_datagram(&mut self, worker: usize, pieces: &mut Pieces<I::Buf>) {
        let counters = &self.shared.counters;
        let n = pieces.len();
        let ring = self.wiring.to_workers.get(worker).and_then(Option::as_ref);
        // This worker alone fills the ring, so the room that is there stays there.
        let Some(ring) = ring.filter(|ring| ring.capacity() - ring.len() >= n) else {
            pieces.clear();
            counters.drops[DropReason::HandoverFull as usize].add(n as u64);
            return;
        };
        for (i, piece) in pieces.drain(..).enumerate() {
            match ring.push(Moved::Piece(piece, i + 1 == n)) {
                Ok(()) => counters.handed_out.inc(),
                Err(_) => counters.drop(DropReason::HandoverFull),
            }
        }
    }

    #[inline(never)]
    fn evict(&mut self, worker: usize, evict: Evict) -> bool {
        let ring = self.wiring.to_workers.get(worker).and_then(Option::as_ref);
        ring.is_some_and(|ring| ring.push(Moved::Evict(evict)).is_ok())
    }

    fn alloc(&mut self, port: PortId) -> Option<I::Buf> {
        let own = self
            .wiring
            .queues
            .get_mut(usize::from(port.0))
            .and_then(Option::as_mut);
        match own {
            Some(io) => io.alloc(),
            None => self
                .wiring
                .queues
                .iter_mut()
                .flatten()
                .next()
                .and_then(PacketIo::alloc),
        }
    }

    fn send_own(&mut self, buf: I::Buf, verdict: Verdict) {
        let owed = Owed { buf, stands_for: 0 };
        match verdict {
            Verdict::Transmit(egress) => self.transmit(egress, owed),
            Verdict::Wait { port, next_hop } => self.wait(port, next_hop, owed),
            _ => {}
        }
    }
}

/// The part of an IPv6 fragment's identification that counts; above it is the worker's number, of which there are 64.
const FRAGMENT_ID_MASK: u32 = (1 << 26) - 1;

/// Datagrams that are given up in one poll at most.
const FRAGMENT_BUDGET: usize = 64;

const ETHERNET: usize = 14;

/// Whether the IP packet itself, Ethernet padding aside, is larger than the MTU.
fn is_larger(frame: &[u8], mtu: u16) -> bool {
    let len = match frame.get(ETHERNET).map(|b| b >> 4) {
        Some(4) => frame
            .get(16..18)
            .map(|l| usize::from(u16::from_be_bytes([l[0], l[1]]))),
        Some(6) => frame
            .get(18..20)
            .map(|l| usize::from(u16::from_be_bytes([l[0], l[1]])) + 40),
        _ => None,
    };
    len.is_some_and(|l| l > usize::from(mtu))
}

fn write_ethernet(frame: &mut [u8], egress: &Egress) {
    frame[..6].copy_from_slice(&egress.dst_mac.0);
    frame[6..12].copy_from_slice(&egress.src_mac.0);
    let ether_type: u16 = if frame[ETHERNET] >> 4 == 6 {
        0x86dd
    } else {
        0x0800
    };
    frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
}

/// Asks the management core to have a neighbour resolved. A full ring loses the request; it is repeated.
fn ask(shared: &WorkerShared, port: PortId, addr: IpAddr) {
    let _ = shared.resolve.push((port, addr));
}
