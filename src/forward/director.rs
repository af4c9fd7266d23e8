//! The director of one worker: from a burst of frames to a verdict for each.
//!
//! Owns the worker's share of the connections. Knows no device, no clock and no other worker: `now` and the snapshot
//! come with the burst, and what is to be done with a frame is told to a [`Sink`]. Invariant: every frame that comes in
//! gets exactly one verdict.
//!
//! Sketch of an established flow's packet, one worker, 60 bytes: parse 10 ns, hash 2 ns, bucket and entry prefetched over
//! the burst 15 ns each at worst, server and service counters in L1, header rewrite 10 ns. Two cold lines per packet.

mod ahead;
mod carried;
mod choice;
mod datagram;
mod defence;
mod errors;
mod ipsec;
mod one_packet;
mod outgoing;
mod peer;
mod scheduling;
mod sctp;
mod session;
mod tunnelled;

use std::sync::Arc;

use super::defence::Active;
use super::defs::{OnServerDown, PortId};
use super::fib::{Egress, FibPort};
use super::snapshot::{FamilyIndex, Service, Services, Snapshot};
use super::tell::{Tell, Told4Or6};
use crate::net::packet::proto;
use crate::net::{
    BURST, DropReason, Family, FlowKey, HashKey, Ip, L3, Packet, PacketBuf, Tick, V4, V6,
    hash_bytes, parse,
};
use crate::sync::master::Told;
use crate::table::state::{SctpState, TcpState, TcpTable, new_connection_expected, tcp_step};
use crate::table::{
    Conn, ConnIdx, ConnTable, Dest, DestId, Direction, Ends, Expiry, Hit, InsertError, NONE,
    ServiceId, TableError, Templates, WorkerCounters,
};

use ahead::{Ahead, Aheads};
use carried::{Carried, Known};
use choice::Chosen;
use datagram::Applied;
pub use datagram::{PIECES_MAX, Piece, Pieces};
pub use peer::{PeerOutcome, PeerRule, PeerTerms, dest_of, find_dest, is_peers};
pub use session::{Evict, session_hash};

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it. Addresses of the network layer and above are written; the Ethernet header is not.
    Transmit(Egress),
    /// Send it once the next hop's MAC address is known. All but the Ethernet header is written.
    Wait {
        /// Port to leave by.
        port: PortId,
        /// Next hop.
        next_hop: std::net::IpAddr,
    },
    /// Give it to the kernel.
    Punt,
    /// Give it to the worker that owns its connection.
    HandOver(usize),
    /// Drop it.
    Drop(DropReason),
    /// It is a fragment: keep it until its datagram is whole.
    Collect,
}

/// Takes frames with their verdicts.
pub trait Sink<B: PacketBuf> {
    /// Carries out `verdict` on `buf`, which came in by `ingress`. Never [`Verdict::Collect`].
    fn accept(&mut self, ingress: PortId, buf: B, verdict: Verdict);
    /// Keeps a fragment, whose headers are `packet`'s, until its datagram is whole.
    fn collect(&mut self, ingress: PortId, buf: B, packet: &Packet);
    /// Hands the fragments of one datagram to another worker, all or none, and leaves `pieces` empty.
    fn hand_over_datagram(&mut self, worker: usize, pieces: &mut Pieces<B>);
    /// Has another worker end a connection; `false` when it can't be told.
    fn evict(&mut self, worker: usize, evict: Evict) -> bool;
    /// A free buffer for a frame that the director makes itself; `None` when there is none.
    fn alloc(&mut self, port: PortId) -> Option<B>;
    /// Sends a frame that the director made itself.
    fn send_own(&mut self, buf: B, verdict: Verdict);
}

/// What comes with a burst.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Time.
    pub now: Tick,
    /// Configuration.
    pub snapshot: &'a Snapshot,
    /// Templates of all workers.
    pub templates: &'a Templates,
    /// Defences that are in force.
    pub defence: Active,
    /// What peers of the `ipvs` format are told, if they are told anything.
    pub tell: Option<&'a Tell>,
    /// Whether another director serves, and this one leaves clients' packets to the kernel (`backup_only`, specification
    /// §9.10).
    pub off_duty: bool,
    /// Counters of this worker.
    pub counters: &'a WorkerCounters,
    /// Port the frames came in by.
    pub ingress: PortId,
    /// Whether another worker handed the frames over. They are not handed on again.
    pub handed: bool,
}

/// A family in the data path: which of the director's tables and the snapshot's indexes are its own.
pub trait Side: Family + Told4Or6 {
    /// The director's connections of this family.
    fn table(director: &mut Director) -> &mut ConnTable<Self>;
    /// The snapshot's lookups of this family.
    fn index(services: &Services) -> &FamilyIndex<Self>;
    /// The director's own address on a port.
    fn port_addr(snapshot: &Snapshot, port: PortId) -> Option<Self::Addr> {
        let port = snapshot.fib.ports.get(usize::from(port.0));
        port.and_then(Self::addr_of)
    }
    /// The address of this family that a port has.
    fn addr_of(port: &FibPort) -> Option<Self::Addr>;
}

impl Side for V4 {
    fn table(director: &mut Director) -> &mut ConnTable<Self> {
        &mut director.v4
    }
    fn index(services: &Services) -> &FamilyIndex<Self> {
        &services.v4
    }
    fn addr_of(port: &FibPort) -> Option<Self::Addr> {
        port.addr4
    }
}

impl Side for V6 {
    fn table(director: &mut Director) -> &mut ConnTable<Self> {
        &mut director.v6
    }
    fn index(services: &Services) -> &FamilyIndex<Self> {
        &services.v6
    }
    fn addr_of(port: &FibPort) -> Option<Self::Addr> {
        port.addr6
    }
}

/// Sizes and secrets of a [`Director`].
#[derive(Clone, Copy, Debug)]
pub struct DirectorConfig {
    /// This worker's number.
    pub worker: usize,
    /// How many workers there are.
    pub workers: usize,
    /// IPv4 connections of this worker.
    pub connections4: usize,
    /// IPv6 connections of this worker.
    pub connections6: usize,
    /// Slots of services.
    pub services: usize,
    /// Secret of this worker's tables.
    pub table_key: HashKey,
    /// Secret of ownership; the same for all workers.
    pub owner_key: HashKey,
}

/// The director of one worker.
#[derive(Debug)]
pub struct Director {
    config: DirectorConfig,
    v4: ConnTable<V4>,
    v6: ConnTable<V6>,
    random: u64,
    /// Secret of the source ports of GUE packets; the same for all workers.
    tunnel_key: HashKey,
    icmp_tokens: u32,
    icmp_refilled: Tick,
    /// What was done to the first fragment of the datagram that is being worked on.
    applied: Option<Applied>,
    guard: defence::Guard,
}

type Hits = [Option<Hit>; BURST];

impl Director {
    /// A director with empty tables, all memory allocated.
    ///
    /// # Errors
    /// When the memory can't be had.
    pub fn new(config: DirectorConfig) -> Result<Self, TableError> {
        Ok(Self {
            config,
            v4: ConnTable::new(config.connections4, config.table_key)?,
            v6: ConnTable::new(config.connections6, config.table_key)?,
            random: config.table_key.0[0] | 1,
            tunnel_key: derived(&config.owner_key),
            icmp_tokens: outgoing::ICMP_PER_SECOND,
            icmp_refilled: Tick(0),
            applied: None,
            guard: defence::Guard::new(config.services),
        })
    }

    /// Secret of the worker's fragment store.
    #[must_use]
    pub fn fragment_key(&self) -> HashKey {
        let [a, b, c, d] = self.config.table_key.0;
        HashKey([d, c, b, a])
    }

    /// Connections of a family, for listings.
    #[must_use]
    pub fn connections<F: Side>(&mut self) -> &ConnTable<F> {
        F::table(self)
    }

    /// How many entries the tables have at most, IPv4 and IPv6.
    #[must_use]
    pub fn places(&self) -> (usize, usize) {
        // One more each, while an old entry makes room for a new one.
        (self.v4.capacity() + 1, self.v6.capacity() + 1)
    }

    /// Connections in both tables.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Decides on every frame of `burst`, in order, and leaves it empty.
    ///
    /// In three passes, so that the memory that one frame needs is fetched while others are worked on: parse all; look
    /// all connections up (which prefetches buckets, then entries); act on each.
    pub fn process<B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        burst: &mut arrayvec::ArrayVec<B, BURST>,
        sink: &mut impl Sink<B>,
    ) {
        let mut parsed: arrayvec::ArrayVec<_, BURST> =
            burst.iter().map(|b| parse(b.data())).collect();
        let (mut hits4, mut hits6) = ([None; BURST], [None; BURST]);
        lookup_side::<V4>(&self.v4, &parsed, &mut hits4, as_v4);
        lookup_side::<V6>(&self.v6, &parsed, &mut hits6, as_v6);
        let mut aheads = Aheads::new();
        let services = &cx.snapshot.services;
        if services.v4.has_one_packet() || services.v6.has_one_packet() {
            aheads.extend(parsed.iter().map(|_| Ahead::default()));
            Self::look_ahead::<V4, B>(cx, burst, &parsed, &hits4, as_v4, &mut aheads);
            Self::look_ahead::<V6, B>(cx, burst, &parsed, &hits6, as_v6, &mut aheads);
            Self::fetch_ahead(cx, &aheads);
        }
        let then = (self.v4.changes(), self.v6.changes());
        // What was parsed is worked on where it lies: copies of it would cost more than all else that is done here.
        for (i, (mut buf, packet)) in burst.drain(..).zip(&mut parsed).enumerate() {
            let verdict = match packet {
                Err(reason) => Verdict::Drop(*reason),
                Ok(p) => match self.admit(cx, p, &buf) {
                    Some(v) => v,
                    None => match &mut p.l3 {
                        L3::V4(ip) => {
                            let hit = self.v4.recheck(&ip.flow, hits4[i], then.0);
                            let known = aheads.get(i).map_or(Known::Nothing, Known::Ahead);
                            let buf = &mut buf;
                            self.packet(cx, &mut Carried { ip, buf, known }, hit, sink)
                        }
                        L3::V6(ip) => {
                            let hit = self.v6.recheck(&ip.flow, hits6[i], then.1);
                            let known = aheads.get(i).map_or(Known::Nothing, Known::Ahead);
                            let buf = &mut buf;
                            self.packet(cx, &mut Carried { ip, buf, known }, hit, sink)
                        }
                        L3::Other(_) => Verdict::Punt,
                    },
                },
            };
            match (verdict, packet) {
                (Verdict::Collect, Ok(packet)) => sink.collect(cx.ingress, buf, packet),
                _ => sink.accept(cx.ingress, buf, verdict),
            }
        }
    }

    /// What the Ethernet header alone decides.
    fn admit<B: PacketBuf>(&self, cx: &Context<'_>, p: &Packet, buf: &B) -> Option<Verdict> {
        if p.group || p.vlan.is_some() {
            // Services take untagged unicast frames; the rest is the kernel's.
            return Some(Verdict::Punt);
        }
        let port = cx.snapshot.fib.ports.get(usize::from(cx.ingress.0))?;
        let ours = port.any_mac || buf.data()[..6] == port.mac.0;
        (!ours).then_some(Verdict::Drop(DropReason::NotForUs))
    }

    /// Decides on one IP packet, whose connection is `hit` if it has one here.
    #[inline]
    fn packet<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        hit: Option<Hit>,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        match p.ip.flow.proto {
            proto::TCP | proto::UDP | proto::SCTP if p.ip.fragment.is_some() && !atomic(p.ip) => {
                self.fragment(cx, p.ip)
            }
            // Where the destination options are in the fragmented part, only the first fragment tells what follows them.
            proto::IPV6_OPTIONS if p.ip.is_later_fragment() => self.fragment(cx, p.ip),
            proto::TCP | proto::UDP | proto::SCTP => self.flow(cx, p, hit, sink),
            proto::ICMP | proto::ICMPV6 => self.icmp(cx, p, sink),
            proto::AH | proto::ESP => self.ipsec(cx, p, sink),
            _ => Verdict::Punt,
        }
    }

    #[inline(always)] // Called from two places, of which one is cold.
    fn flow<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        hit: Option<Hit>,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let found = match hit {
            Some(Hit {
                index,
                direction: Direction::FromServer,
            }) => {
                return self.reply(cx, p, index, sink);
            }
            _ if cx.off_duty => return Verdict::Punt,
            Some(Hit { index, .. }) => self.usable(cx, p, index),
            None => Usable::No,
        };
        match found {
            Usable::Yes(index, dest) => self.serve(cx, p, index, dest, sink),
            Usable::Keyed(index, dest) => self.keyed(cx, p, index, dest, sink),
            Usable::Refused => Verdict::Drop(DropReason::DestUnavailable),
            Usable::Unbound(index) => self.serve_unbound(cx, p, index, sink),
            Usable::No => self.miss(cx, p, sink),
        }
    }

    /// Whether a client's packet may go on using the connection it belongs to (specification §2.4 steps 8 and 9). An
    /// entry that may not be used is removed, so that the packet is scheduled afresh.
    fn usable<'a, F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'a>,
        p: &Carried<'_, F, B>,
        index: ConnIdx,
    ) -> Usable<'a> {
        let conn = F::table(self).get(index);
        let opens = p.opens();
        if let Some(dest) = conn.dest_id().and_then(|id| cx.snapshot.dest(id))
            && !(opens && begins_anew(cx, conn, dest))
        {
            let use_it = if dest.keyed {
                Usable::Keyed(index, dest)
            } else {
                Usable::Yes(index, dest)
            };
            if dest.one_packet && p.ip.flow.proto == proto::UDP {
                // Made before its service was changed to scheduling each datagram by itself.
                self.remove::<F>(cx, index);
                return Usable::No;
            }
            if dest.serving() {
                return use_it;
            }
            let service = conn.service_id().and_then(|id| cx.snapshot.service(id));
            let policy = service.and_then(|s| s.def.on_server_down);
            let amid = matches!(p.ip.flow.proto, proto::TCP | proto::SCTP) && !opens;
            let expire = cx.snapshot.services.switches.expire_nodest_conn;
            match policy {
                Some(OnServerDown::Keep) => return use_it,
                // The packet may be another session's, whose server is another.
                Some(OnServerDown::Drop) if dest.keyed => return use_it,
                Some(OnServerDown::Drop) => return Usable::Refused,
                None if amid && !expire => return Usable::Refused,
                None | Some(OnServerDown::Reschedule) => {}
            }
        } else if conn.dest == NONE && !opens {
            return self.usable_late::<F>(cx, index);
        }
        self.remove::<F>(cx, index);
        Usable::No
    }

    /// Puts the connection of a counted server into the table. When it can't be, server and template are given back.
    fn insert<F: Side>(
        &mut self,
        cx: &Context<'_>,
        ends: &Ends<F>,
        service: &Service,
        mark: u32,
        chosen: &Chosen<'_>,
    ) -> Result<ConnIdx, DropReason> {
        let dest = chosen.dest;
        let mut conn = Conn::new(ends, dest.method);
        conn.dest = dest.id.0;
        conn.service = service.id.0;
        conn.mark = mark;
        conn.session = chosen.session;
        conn.template = chosen.template.map_or(NONE, |t| t.index);
        if let Some(key) = &service.def.payload_key {
            let open = chosen.session == 0 && key.may_be_absent();
            conn.set_flags(conn.flags() | if open { OPEN } else { 0 });
        }
        let counters = cx.counters.service(service.id);
        match F::table(self).insert_with_evict(&conn, cx.now) {
            Ok(inserted) => {
                if let Some(old) = &inserted.evicted {
                    cx.counters.evicted.inc();
                    release(cx, old);
                }
                counters.connections.inc();
                cx.counters.dest(dest.id).connections.inc();
                cx.counters.connections.set(self.len() as u64);
                if let Some(tell) = cx.tell {
                    tell.begin::<F>(self.config.worker, inserted.index, Told::default());
                }
                Ok(inserted.index)
            }
            Err(e) => {
                dest.unbind(false);
                if let Some(template) = chosen.template {
                    cx.templates.release(template.index, cx.now);
                }
                counters.rejected_table_full.inc();
                Err(match e {
                    InsertError::Full => DropReason::TableFull,
                    InsertError::Collision(_) | InsertError::Exists(_) | InsertError::Loop => {
                        DropReason::TupleCollision
                    }
                })
            }
        }
    }

    /// A client's packet of a connection: state, counters, and off to the server.
    fn serve<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        index: ConnIdx,
        dest: &Dest,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let conn = self.advance(cx, p, index, Some(dest), Direction::FromClient);
        let (service, daddr, dport) = (conn.service, conn.daddr(), conn.dport());
        count_in(cx, ServiceId(service), dest.id, p.ip.len());
        if let Some(tell) = cx.tell {
            self.offer_to_peers::<F>(cx, tell, index);
        }
        self.dispatch(cx, p, dest, daddr, dport, sink)
    }

    /// Offers a connection to peers after a client's packet.
    #[inline(never)]
    fn offer_to_peers<F: Side>(&mut self, cx: &Context<'_>, tell: &Tell, index: ConnIdx) {
        let worker = self.config.worker;
        let conn = F::table(self).get(index);
        tell.packet::<F>(worker, index, conn, cx.templates, cx.now);
    }

    /// A server's packet of a connection: state, counters, and back to the client with the virtual address.
    fn reply<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        index: ConnIdx,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let id = DestId(F::table(self).get(index).dest);
        let (index, dest) = match cx.snapshot.dest(id) {
            Some(dest) => (index, Some(dest)),
            None => match self.bind_late::<F>(cx, index) {
                Some((index, dest)) => (index, Some(dest)),
                None => (index, None),
            },
        };
        let conn = self.advance(cx, p, index, dest.map(|d| &**d), Direction::FromServer);
        let from = (conn.vaddr(), conn.vport());
        match dest {
            Some(dest) => self.leave_as(cx, p, dest, from, sink),
            None => self.translate_source(cx, p, None, from, sink),
        }
    }

    /// Runs the protocol's state machine (specification §7) and restarts the connection's timer.
    fn advance<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &Carried<'_, F, B>,
        index: ConnIdx,
        dest: Option<&Dest>,
        direction: Direction,
    ) -> &Conn<F> {
        let timeouts = &cx.snapshot.services.timeouts;
        let table = F::table(self);
        let conn = table.get_mut(index);
        if direction == Direction::FromClient {
            conn.in_pkts = conn.in_pkts.wrapping_add(1);
        }
        let proto = conn.proto();
        let step = match proto {
            proto::TCP if p.ip.l4_whole => Some(tcp_step(
                if cx.defence.secure_tcp {
                    TcpTable::Secure
                } else {
                    TcpTable::Normal
                },
                direction,
                p.ip.tcp_flags,
                conn.state,
                conn.flags(),
                true,
            )),
            proto::SCTP => p.sctp_step(direction, conn),
            _ => None,
        };
        if let Some(step) = step
            && (step.state, step.flags) != (conn.state, conn.flags())
        {
            conn.state = step.state;
            conn.set_flags(step.flags);
            match (step.active, dest) {
                (1, Some(dest)) => dest.shared.activate(),
                (-1, Some(dest)) => dest.shared.deactivate(),
                _ => {}
            }
        }
        if conn.template != NONE && conn.flags() & ASSURED == 0 {
            // Specification §2.7: what makes a template worth keeping under pressure.
            let lasting = match proto {
                proto::TCP => conn.state == TcpState::Established as u8,
                proto::SCTP => conn.state == SctpState::Established as u8,
                _ => direction == Direction::FromServer,
            };
            if lasting {
                conn.set_flags(conn.flags() | ASSURED);
                cx.templates.assure(cx.templates.get(conn.template));
            }
        }
        let timeout = timeouts.of(proto, conn.state);
        if timeout == conn.timeout() {
            table.touch(index, cx.now);
        } else {
            table.set_timeout(index, timeout, cx.now);
        }
        table.get(index)
    }

    /// Ends connections whose time is over, at most `budget` timers' worth of work. Returns how many ended.
    pub fn expire(&mut self, cx: &Context<'_>, budget: usize) -> usize {
        let mut ended = expire_side::<V4>(self, cx, budget);
        ended += expire_side::<V6>(self, cx, budget);
        if ended > 0 {
            cx.counters.expired.add(ended as u64);
            cx.counters.connections.set(self.len() as u64);
        }
        ended
    }

    fn remove<F: Side>(&mut self, cx: &Context<'_>, index: ConnIdx) {
        let conn = F::table(self).remove(index);
        release(cx, &conn);
        cx.counters.connections.set(self.len() as u64);
    }

    /// SplitMix64: repeats in replay, and no secret hangs on it.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Set on a connection whose last packet could not say whose it was: the session that names itself next may be one
/// that its server has just named; the director's own.
const OPEN: u16 = 0x0008;

/// Set on a controlled connection once its template was told that it lasts; the director's own.
const ASSURED: u16 = 0x8000;

enum Usable<'a> {
    Yes(ConnIdx, &'a Arc<Dest>),
    /// As `Yes`, and the packet is to be looked into first.
    Keyed(ConnIdx, &'a Arc<Dest>),
    Refused,
    /// A peer told of it, and its real server is not known here.
    Unbound(ConnIdx),
    No,
}

/// A secret made of another, from which that can't be told: what it keys is seen outside.
fn derived(key: &HashKey) -> HashKey {
    HashKey([b"t0", b"t1", b"t2", b"t3"].map(|name| hash_bytes(name, key)))
}

/// The worker that owns the connections of a client's address and port.
#[must_use]
#[allow(clippy::cast_possible_truncation)]
pub fn owner<F: Family>(
    key: &HashKey,
    workers: usize,
    client: F::Addr,
    port: u16,
    proto: u8,
) -> usize {
    let flow = FlowKey::<F> {
        src: client,
        dst: F::Addr::default(),
        src_port: port,
        dst_port: 0,
        proto,
    };
    let high = F::hash(&flow, key) >> 32;
    ((high * workers as u64) >> 32) as usize
}

/// An IPv6 packet that has a fragment header and is whole nevertheless (RFC 6946).
fn atomic<F: Family>(ip: &Ip<F>) -> bool {
    ip.fragment.is_some_and(|f| f.offset == 0 && !f.more)
}

fn as_v4(p: &Packet) -> Option<&Ip<V4>> {
    match &p.l3 {
        L3::V4(ip) => Some(ip),
        _ => None,
    }
}

fn as_v6(p: &Packet) -> Option<&Ip<V6>> {
    match &p.l3 {
        L3::V6(ip) => Some(ip),
        _ => None,
    }
}

/// Whether a packet that opens a connection asks for a new one, though there is one already (specification §2.4 step 8).
#[inline(never)]
fn begins_anew<F: Family>(cx: &Context<'_>, conn: &Conn<F>, dest: &Dest) -> bool {
    let switches = &cx.snapshot.services.switches;
    let mode = switches.conn_reuse_mode;
    switches.expire_nodest_conn && dest.weight == 0
        || conn.template == NONE
            && new_connection_expected(conn.proto(), conn.state, conn.flags(), mode)
}

/// Looks up the connections of all packets of one family in the burst.
fn lookup_side<F: Side>(
    table: &ConnTable<F>,
    parsed: &[Result<Packet, DropReason>],
    hits: &mut Hits,
    pick: impl Fn(&Packet) -> Option<&Ip<F>>,
) {
    let mut keys = arrayvec::ArrayVec::<FlowKey<F>, BURST>::new();
    let mut places = arrayvec::ArrayVec::<usize, BURST>::new();
    for (i, p) in parsed.iter().enumerate() {
        if let Some(ip) = p.as_ref().ok().and_then(&pick)
            && matches!(ip.flow.proto, proto::TCP | proto::UDP | proto::SCTP)
        {
            keys.push(ip.flow);
            places.push(i);
        }
    }
    if keys.is_empty() {
        return;
    }
    let mut found = [None; BURST];
    table.lookup_burst(&keys, &mut found);
    for (at, hit) in places.iter().zip(found) {
        hits[*at] = hit;
    }
}

fn expire_side<F: Side>(director: &mut Director, cx: &Context<'_>, budget: usize) -> usize {
    let swept = F::table(director).expire(cx.now, budget, |_, conn| {
        release(cx, conn);
        Expiry::Remove
    });
    swept.removed
}

/// Gives the counts of a connection that has ended back to its server and its template.
fn release<F: Family>(cx: &Context<'_>, conn: &Conn<F>) {
    if let Some(dest) = conn.dest_id().and_then(|id| cx.snapshot.dest(id)) {
        dest.unbind(conn.is_active());
    }
    if conn.template != NONE {
        cx.templates.release(conn.template, cx.now);
    }
}

/// Counts a client's packet of `bytes`.
fn count_in(cx: &Context<'_>, service: ServiceId, dest: DestId, bytes: u16) {
    let service = cx.counters.service(service);
    service.packets_in.inc();
    service.bytes_in.add(u64::from(bytes));
    let server = cx.counters.dest(dest);
    server.packets_in.inc();
    server.bytes_in.add(u64::from(bytes));
}
