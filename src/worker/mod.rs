//! The poll loop of one core, and what it shares with the management core.
//!
//! A worker never locks, allocates, formats or makes a system call of its own. Everything it touches is its own, or
//! immutable, or an atomic with one writer. Time is handed in.

pub mod assemble;
pub mod lockstep;
mod outbound;
pub mod reassembly;
pub mod shared;
mod wait;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::{ArcSwap, ArcSwapOption, Cache};
use arrayvec::ArrayVec;

pub use outbound::{Moved, Outbound, Ring, Wiring};
pub use shared::{
    Command, ConnPage, ConnRow, Defence, PeerRow, Plane, SyncDuty, SyncPage, SyncRows, SyncWork,
    WorkerShared,
};
pub use wait::Owed;

use crate::forward::director::is_peers;
use crate::forward::tell::Tell;
use crate::forward::{Context, Director, Pieces, PortId, Side, Snapshot};
use crate::io::{BURST, Burst, PacketIo};
use crate::net::{Af, Tick, V4, V6};
use crate::sync::ipvs::AnyEnds;
use crate::sync::master::lasts;
use crate::table::{Conn, ConnTable, ServiceId, TemplateRow, Templates};

/// Timers worked on in one poll at most.
const EXPIRE_BUDGET: usize = 256;

/// The published snapshot pointer inside the shared plane.
#[derive(Clone, Debug)]
struct Published(Arc<Plane>);

impl Deref for Published {
    type Target = ArcSwap<Snapshot>;
    fn deref(&self) -> &Self::Target {
        &self.0.snapshot
    }
}

/// The published pointer to what peers are told.
#[derive(Clone, Debug)]
struct Telling(Arc<Plane>);

impl Deref for Telling {
    type Target = ArcSwapOption<Tell>;
    fn deref(&self) -> &Self::Target {
        &self.0.sync.tell
    }
}

/// One worker: a core's share of the appliance.
#[derive(Debug)]
pub struct Worker<I: PacketIo> {
    plane: Arc<Plane>,
    shared: Arc<WorkerShared>,
    snapshot: Cache<Published, Arc<Snapshot>>,
    tell: Cache<Telling, Option<Arc<Tell>>>,
    inner: Inner<I>,
}

/// What a poll changes, apart from what it reads.
#[derive(Debug)]
struct Inner<I: PacketIo> {
    director: Director,
    out: Outbound<I>,
    burst: Burst<I::Buf>,
    /// The datagram that is being worked on: its fragments, and what they carry.
    pieces: Pieces<I::Buf>,
    message: Vec<u8>,
}

impl<I: PacketIo> Worker<I> {
    /// A worker over its queues and rings.
    #[must_use]
    pub fn new(
        plane: &Arc<Plane>,
        shared: Arc<WorkerShared>,
        director: Director,
        wiring: Wiring<I>,
    ) -> Self {
        let out = Outbound::new(wiring, Arc::clone(&shared), director.fragment_key());
        Self {
            plane: Arc::clone(plane),
            snapshot: Cache::new(Published(Arc::clone(plane))),
            tell: Cache::new(Telling(Arc::clone(plane))),
            shared,
            inner: Inner {
                director,
                out,
                burst: ArrayVec::new(),
                pieces: ArrayVec::new(),
                message: Vec::with_capacity(reassembly::DATAGRAM_BYTES_MAX as usize),
            },
        }
    }

    /// Does everything that there is to do at `now`, once. Returns the number of frames and commands it worked on.
    pub fn poll(&mut self, now: Tick) -> usize {
        self.poll_with(now, EXPIRE_BUDGET)
    }

    /// As [`Self::poll`], but ends every connection whose time is over, however many: for virtual time, which jumps.
    pub fn poll_to(&mut self, now: Tick) -> usize {
        self.poll_with(now, usize::MAX)
    }

    fn poll_with(&mut self, now: Tick, expire_budget: usize) -> usize {
        // The worker is the only writer.
        if self.shared.heartbeat.load(Ordering::Relaxed) != now.0 {
            self.shared.heartbeat.store(now.0, Ordering::Relaxed);
            self.tell_fill();
        }
        // One pointer comparison; the snapshot's reference count, which all workers share, is not touched.
        let snapshot = self.snapshot.load();
        self.shared
            .seen_generation
            .store(snapshot.generation, Ordering::Release);
        let cx = Context {
            now,
            snapshot,
            templates: &self.plane.templates,
            defence: self.plane.defence.active.get(),
            tell: self.tell.load().as_deref(),
            off_duty: self.plane.sync.off_duty.load(Ordering::Relaxed),
            counters: &self.shared.counters,
            ingress: PortId(0),
            handed: false,
        };
        let deaf = self.plane.sync.deaf.load(Ordering::Relaxed);
        self.inner.poll(cx, &self.shared, expire_budget, deaf)
    }

    /// Tells how full the tables are. Once a tick will do, but where time jumps (lockstep) it is told before it is read.
    fn tell_fill(&self) {
        self.shared.counters.fill.set(self.inner.director.fill());
    }

    /// Ends the worker's part: what waits is dropped, what is queued is sent.
    pub fn stop(&mut self) {
        self.inner.out.drop_waiting();
        self.inner.out.flush();
        self.shared.stopped.store(true, Ordering::Release);
    }

    /// The queue on a port, for drivers that feed it (replay, tests).
    pub fn queue_mut(&mut self, port: PortId) -> Option<&mut I> {
        self.inner
            .out
            .wiring
            .queues
            .get_mut(usize::from(port.0))
            .and_then(Option::as_mut)
    }

    /// The connections, for checks that walk them.
    pub fn director_mut(&mut self) -> &mut Director {
        &mut self.inner.director
    }
}

impl<I: PacketIo> Inner<I> {
    fn poll(
        &mut self,
        mut cx: Context<'_>,
        shared: &WorkerShared,
        expire_budget: usize,
        deaf: bool,
    ) -> usize {
        self.out.begin(cx.now);
        // Timers first: a connection whose time is over must not catch a packet that came after.
        let mut work = self.director.expire(&cx, expire_budget);
        work += self.director.defend(&cx, expire_budget);
        work += self.command(shared, &cx);
        work += self.out.expire_fragments();
        self.out.sweep_waiting(&cx.snapshot.fib);
        for port in 0..self.out.wiring.queues.len() {
            cx.ingress = port_id(port);
            if !deaf {
                work += self.receive(&cx, port);
            }
            work += self.inject(port);
        }
        work += self.take_over(cx);
        self.out.flush();
        work
    }

    /// One burst from the worker's own queue on a port.
    fn receive(&mut self, cx: &Context<'_>, port: usize) -> usize {
        let Some(io) = self.out.wiring.queues[port].as_mut() else {
            return 0;
        };
        let n = io.rx_burst(&mut self.burst);
        if n > 0 {
            cx.counters.received.add(n as u64);
            self.process(cx);
        }
        n
    }

    /// Lets the director decide on the burst, and on the datagrams that it made whole.
    fn process(&mut self, cx: &Context<'_>) {
        if !self.burst.is_empty() {
            self.director.process(cx, &mut self.burst, &mut self.out);
        }
        while let Some(datagram) = self.out.next_datagram(&mut self.pieces, &mut self.message) {
            let cx = Context {
                handed: datagram.handed,
                ..*cx
            };
            self.director
                .datagram(&cx, &mut self.pieces, &self.message, &mut self.out);
        }
    }

    /// Frames from the kernel's interface, complete as they are.
    fn inject(&mut self, port: usize) -> usize {
        let mut n = 0;
        while n < BURST
            && let Some(buf) = self.out.wiring.injects[port]
                .as_ref()
                .and_then(|ring| ring.pop())
        {
            self.out
                .send_complete(port_id(port), Owed { buf, stands_for: 0 });
            n += 1;
        }
        n
    }

    /// A burst from each of the other workers.
    fn take_over(&mut self, mut cx: Context<'_>) -> usize {
        cx.handed = true;
        let mut total = 0;
        for from in 0..self.out.wiring.from_workers.len() {
            let mut n = 0;
            while n < BURST
                && let Some(moved) = self.out.wiring.from_workers[from]
                    .as_ref()
                    .and_then(|r| r.pop())
            {
                n += 1;
                match moved {
                    Moved::Rx(port, buf) => {
                        cx.counters.handed_in.inc();
                        if port != cx.ingress && !self.burst.is_empty() {
                            self.process(&cx);
                        }
                        cx.ingress = port;
                        self.burst.push(buf);
                    }
                    Moved::Tx(port, frame) => {
                        cx.counters.handed_in.add(u64::from(frame.stands_for));
                        self.out.send_complete(port, frame);
                    }
                    Moved::Piece(piece, last) => {
                        cx.counters.handed_in.inc();
                        self.out.arrive(from, piece, last);
                    }
                    Moved::Evict(evict) => self.director.evict(&cx, evict),
                }
            }
            if n > 0 {
                self.process(&cx);
            }
            total += n;
        }
        total
    }

    /// At most one command a poll.
    fn command(&mut self, shared: &WorkerShared, cx: &Context<'_>) -> usize {
        // The rings have room for as many answers as commands can wait; what finds none is not wanted any more.
        match shared.commands.pop() {
            None => return 0,
            Some(Command::List(mut page)) => {
                match page.af {
                    Af::V4 => list::<V4>(&mut self.director, &mut page, cx.now),
                    Af::V6 => list::<V6>(&mut self.director, &mut page, cx.now),
                }
                drop(shared.pages.push(page));
            }
            Some(Command::Sync(mut work)) => {
                match &mut *work {
                    SyncWork::Page(page) => fill(&mut self.director, page),
                    SyncWork::Install(rows) => self.install(cx, rows),
                }
                drop(shared.sync_done.push(work));
            }
        }
        1
    }

    /// Takes a peer's connections over.
    fn install(&mut self, cx: &Context<'_>, rows: &mut [PeerRow]) {
        for row in rows {
            let (director, out) = (&mut self.director, &mut self.out);
            let outcome = match &row.ends {
                AnyEnds::V4(ends) => director.install(cx, ends, &row.terms, out),
                AnyEnds::V6(ends) => director.install(cx, ends, &row.terms, out),
            };
            row.outcome = Some(outcome);
        }
    }
}

fn port_id(port: usize) -> PortId {
    PortId(u16::try_from(port).expect("ports are numbered in 16 bits"))
}

/// All templates, as the management core lists them.
#[must_use]
pub fn list_templates(templates: &Templates, now: Tick) -> Vec<TemplateRow> {
    let mut rows = Vec::new();
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        cursor = templates.dump(at, u32::MAX, now, |row| rows.push(row));
    }
    rows
}

/// Fills a page of connections.
fn list<F: Side>(director: &mut Director, page: &mut ConnPage, now: Tick) {
    let room = u32::try_from(page.rows.capacity() - page.rows.len()).unwrap_or(u32::MAX);
    let rows = &mut page.rows;
    let next = director
        .connections::<F>()
        .dump(page.cursor, room, |_, c| rows.push(row(c, now)));
    page.done = next.is_none();
    page.cursor = next.unwrap_or(0);
}

/// Fills a page of the connections that peers are told of.
fn fill(director: &mut Director, page: &mut SyncPage) {
    let (at, which) = (page.cursor, (page.everything, page.peers));
    let next = match &mut page.rows {
        SyncRows::V4(rows) => fill_rows(director.connections(), at, which, rows),
        SyncRows::V6(rows) => fill_rows(director.connections(), at, which, rows),
    };
    page.done = next.is_none();
    page.cursor = next.unwrap_or(0);
}

fn fill_rows<F: Side>(
    table: &ConnTable<F>,
    cursor: u32,
    (everything, peers): (bool, bool),
    rows: &mut Vec<Conn<F>>,
) -> Option<u32> {
    let room = u32::try_from(rows.capacity() - rows.len()).unwrap_or(u32::MAX);
    table.dump(cursor, room, |_, conn| {
        if (everything || lasts(conn.proto(), conn.state)) && (peers || !is_peers(conn)) {
            rows.push(*conn);
        }
    })
}

fn row<F: Side>(conn: &Conn<F>, now: Tick) -> ConnRow {
    ConnRow {
        proto: conn.proto(),
        state: conn.state,
        flags: conn.flags(),
        client: (conn.caddr().into(), conn.cport()),
        virtual_: (conn.vaddr().into(), conn.vport()),
        dest: (conn.daddr().into(), conn.dport()),
        dest_id: conn.dest_id(),
        service: ServiceId(conn.service),
        template: conn.template,
        expires: conn.remaining(now),
        in_pkts: conn.in_pkts,
    }
}
