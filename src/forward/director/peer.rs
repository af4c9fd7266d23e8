//! Connections that a peer told of: put into the table, kept up, and used at once when this director takes over.
//!
//! Owns what becomes of a record when there is an entry already, the search for an entry's real server, and packets of
//! entries whose server is not known (yet). Knows no message and no format. Invariant: an entry of a peer never takes
//! the place of a connection that this director itself used later.

use std::sync::Arc;

use super::{
    Carried, Context, Director, OPEN, Side, Sink, Usable, Verdict, datagram::Applied,
    outgoing::way_verdict, release,
};
use crate::forward::snapshot::{Service, Snapshot};
use crate::net::packet::proto;
use crate::net::{DropReason, Family, FlowKey, PacketBuf, rewrite};
use crate::sync::master::Told;
use crate::table::{
    Conn, ConnIdx, Dest, Direction, Ends, Hit, Method, NONE, ServiceId, TemplateRef, flag,
};

/// Flags that a peer's word counts for.
const FROM_PEER: u16 = flag::METHOD | flag::NOOUTPUT | flag::INACTIVE;

/// By whose rules a peer's connection meets one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRule {
    /// As IPVS does (specification §9.9).
    Ipvs,
    /// Whoever saw the connection last is right.
    Latest,
    /// It was this director's own, in a process before this one.
    Inherited,
    /// The peer that told of it is gone: the entry that is there is this director's own from now on. None is made.
    Orphaned,
    /// The peer's connection has ended: the entry goes, unless this director has used it.
    Ended,
}

/// What a peer tells of a connection besides its protocol and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerTerms {
    /// The packet mark, 0 for none.
    pub mark: u32,
    /// State code.
    pub state: u8,
    /// Method, [`flag::NOOUTPUT`] and [`flag::INACTIVE`].
    pub flags: u16,
    /// Ticks since its last packet, as the peer has it. By these it is decided who saw the connection last: what is left
    /// to it depends on its state, which the end of a connection makes shorter.
    pub age: u32,
    /// Ticks from now to its end, as the peer has it.
    pub remaining: u32,
    /// Ticks that it is kept beyond, since peers do not tell of every packet.
    pub grace: u32,
    /// Packets that it counts as having had. With [`PeerRule::Latest`] 0, which says that no packet of it passed here.
    pub in_pkts: u32,
    /// The template that controls it.
    pub template: Option<TemplateRef>,
    /// Number of its payload session, 0 for none.
    pub session: u64,
    /// What becomes of an entry that is there.
    pub rule: PeerRule,
}

/// What became of a peer's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerOutcome {
    /// It is a new entry.
    Created,
    /// Its entry was there and is as the peer has it now.
    Refreshed,
    /// This director knows better.
    Ignored,
    /// Its entry was removed.
    Removed,
    /// There is no room, or another connection has one of its keys, or no director has such connections.
    Refused,
}

impl PeerTerms {
    /// The flag that says who made it.
    fn origin(&self) -> u16 {
        if self.rule == PeerRule::Inherited {
            0
        } else {
            flag::SYNC
        }
    }

    /// Ticks until its timer fires.
    fn ticks(&self) -> u32 {
        self.remaining.saturating_add(self.grace).max(1)
    }
}

/// Whether a connection is one that a peer told of and that no packet has used here. With [`PeerRule::Ipvs`] nobody
/// asks.
#[must_use]
pub fn is_peers<F: Family>(conn: &Conn<F>) -> bool {
    conn.flags() & flag::SYNC != 0 && conn.in_pkts == 0
}

/// What its client's packets look like.
fn from_client<F: Family>(ends: &Ends<F>) -> FlowKey<F> {
    FlowKey {
        src: ends.caddr,
        dst: ends.vaddr,
        src_port: ends.cport,
        dst_port: ends.vport,
        proto: ends.proto,
    }
}

impl Director {
    /// Takes a peer's connection over.
    pub fn install<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        ends: &Ends<F>,
        peer: &PeerTerms,
        sink: &mut impl Sink<B>,
    ) -> PeerOutcome {
        if !matches!(ends.proto, proto::TCP | proto::UDP | proto::SCTP) {
            return PeerOutcome::Refused;
        }
        let index = match F::table(self).lookup(&from_client(ends)) {
            Some(Hit {
                index,
                direction: Direction::FromClient,
            }) => index,
            Some(_) => return PeerOutcome::Refused,
            None if peer.rule == PeerRule::Ended => return PeerOutcome::Removed,
            None if peer.rule == PeerRule::Orphaned => return PeerOutcome::Ignored,
            None => return self.create(cx, ends, peer, sink),
        };
        let conn = F::table(self).get(index);
        let same = (conn.daddr(), conn.dport()) == (ends.daddr, ends.dport);
        let mine = !is_peers(conn);
        let newer = peer.age <= cx.now.since(conn.last_seen());
        match peer.rule {
            PeerRule::Ended if same && !mine => {
                self.remove::<F>(cx, index);
                PeerOutcome::Removed
            }
            PeerRule::Ipvs if !same && peer.flags & flag::INACTIVE != 0 => PeerOutcome::Ignored,
            PeerRule::Latest | PeerRule::Inherited if mine && !newer => PeerOutcome::Ignored,
            PeerRule::Ended => PeerOutcome::Ignored,
            PeerRule::Orphaned => {
                let conn = F::table(self).get_mut(index);
                // As if it had been used here; the flag stays, by which it is worth more than a lone packet's.
                conn.in_pkts = conn.in_pkts.max(1);
                PeerOutcome::Refreshed
            }
            PeerRule::Ipvs | PeerRule::Latest | PeerRule::Inherited if same => {
                self.refresh::<F>(cx, index, peer);
                if peer.session != 0 {
                    self.take_session::<F, B>(cx, index, sink);
                }
                PeerOutcome::Refreshed
            }
            PeerRule::Ipvs | PeerRule::Latest | PeerRule::Inherited => {
                self.remove::<F>(cx, index);
                self.create(cx, ends, peer, sink)
            }
        }
    }

    fn create<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        ends: &Ends<F>,
        peer: &PeerTerms,
        sink: &mut impl Sink<B>,
    ) -> PeerOutcome {
        let found = find_dest::<F>(cx.snapshot, ends, peer.mark, method_in(peer.flags));
        let method = match (found, peer.flags & flag::METHOD) {
            (Some((_, dest)), _) => dest.method,
            (None, 0 | 2 | 3) => method_in(peer.flags),
            // Polder has neither local delivery nor bypass.
            (None, _) => return PeerOutcome::Refused,
        };
        let mut conn = Conn::new(ends, method).with_timeout(peer.ticks());
        let unseen = match found {
            Some(_) => conn.flags() & flag::NOOUTPUT,
            None => peer.flags & flag::NOOUTPUT,
        };
        conn.set_flags(peer.origin() | unseen | peer.flags & flag::INACTIVE);
        conn.state = peer.state;
        conn.mark = peer.mark;
        conn.in_pkts = peer.in_pkts;
        if let Some((service, dest)) = found {
            bind(&mut conn, service, dest);
        }
        if let Some(template) = peer.template
            && cx.templates.hold(template, cx.now)
        {
            (conn.template, conn.session) = (template.index, peer.session);
        }
        let Ok(index) = F::table(self).insert(&conn, cx.now) else {
            release(cx, &conn);
            return PeerOutcome::Refused;
        };
        cx.counters.connections.set(self.len() as u64);
        if let Some(tell) = cx.tell {
            let told = Told::received(peer.state);
            tell.begin::<F>(self.config.worker, index, told);
        }
        if conn.session != 0 {
            self.take_session::<F, B>(cx, index, sink);
        }
        PeerOutcome::Created
    }

    /// Makes an entry what the peer says of it.
    fn refresh<F: Side>(&mut self, cx: &Context<'_>, index: ConnIdx, peer: &PeerTerms) {
        let conn = F::table(self).get_mut(index);
        let was_active = conn.is_active();
        let keep = conn.flags() & !flag::INACTIVE;
        conn.set_flags(keep | peer.origin() | peer.flags & flag::INACTIVE);
        conn.state = peer.state;
        conn.in_pkts = peer.in_pkts;
        if let Some(dest) = conn.dest_id().and_then(|id| cx.snapshot.dest(id)) {
            match (was_active, conn.is_active()) {
                (true, false) => dest.shared.deactivate(),
                (false, true) => dest.shared.activate(),
                _ => {}
            }
        }
        let linked = conn.template;
        if let Some(template) = peer.template
            && linked != template.index
            && cx.templates.hold(template, cx.now)
        {
            let conn = F::table(self).get_mut(index);
            (conn.template, conn.session) = (template.index, peer.session);
            if linked != NONE {
                cx.templates.release(linked, cx.now);
            }
        }
        F::table(self).set_timeout(index, peer.ticks(), cx.now);
        if let Some(tell) = cx.tell {
            let told = Told::received(peer.state);
            tell.begin::<F>(self.config.worker, index, told);
        }
        if F::table(self).get(index).dest == NONE {
            self.bind_late::<F>(cx, index);
        }
    }

    /// Searches the real server of an entry that has none; where the entry is then, with its server (specification
    /// §9.9, "late binding").
    pub(super) fn bind_late<'a, F: Side>(
        &mut self,
        cx: &Context<'a>,
        index: ConnIdx,
    ) -> Option<(ConnIdx, &'a Arc<Dest>)> {
        let mut conn = *F::table(self).get(index);
        let ends = conn.ends();
        let (service, dest) = find_dest::<F>(cx.snapshot, &ends, conn.mark, conn.method())?;
        if dest.method == conn.method() {
            bind(F::table(self).get_mut(index), service, dest);
            return Some((index, dest));
        }
        // The method decides which keys an entry has.
        let mut other = Conn::new(&ends, dest.method).with_timeout(conn.remaining(cx.now));
        let flags = conn.flags() & !FROM_PEER | conn.flags() & flag::INACTIVE;
        other.set_flags(flags | other.flags() & flag::NOOUTPUT);
        (other.state, other.in_pkts) = (conn.state, conn.in_pkts);
        (other.mark, other.session, other.template) = (conn.mark, conn.session, conn.template);
        bind(&mut other, service, dest);
        F::table(self).remove(index);
        match F::table(self).insert(&other, cx.now) {
            Ok(index) => {
                if let Some(tell) = cx.tell {
                    tell.begin::<F>(self.config.worker, index, Told::received(other.state));
                }
                Some((index, dest))
            }
            Err(_) => {
                // Another connection has the replies' key. As it was, then: that place is free again.
                dest.unbind(other.is_active());
                conn.dest = NONE;
                let _ = F::table(self).insert(&conn, cx.now);
                None
            }
        }
    }

    /// What a client's packet may do with an entry that has no real server.
    #[inline(never)]
    pub(super) fn usable_late<'a, F: Side>(
        &mut self,
        cx: &Context<'a>,
        index: ConnIdx,
    ) -> Usable<'a> {
        match self.bind_late::<F>(cx, index) {
            Some((index, dest)) if dest.keyed => Usable::Keyed(index, dest),
            Some((index, dest)) => Usable::Yes(index, dest),
            None => Usable::Unbound(index),
        }
    }

    /// A client's packet of an entry whose real server is not configured here: it goes where the peer sent it, if that
    /// takes no more than an address. It is not counted for any service (specification §9.9).
    #[inline(never)]
    pub(super) fn serve_unbound<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        index: ConnIdx,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let Some(index) = F::table(self).get_live(index).map(|_| index) else {
            return Verdict::Drop(DropReason::NoConnection);
        };
        let conn = *self.advance(cx, p, index, None, Direction::FromClient);
        self.forward_unbound(cx, p, &conn, sink)
    }

    /// Sends a client's packet to the address that a peer told of.
    pub(super) fn forward_unbound<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        conn: &Conn<F>,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let (method, daddr, dport) = (conn.method(), conn.daddr(), conn.dport());
        if p.whole().is_some() {
            self.applied = Some(Applied::to_unbound::<F>(method, daddr));
        }
        self.send_unbound(cx, p, method, (daddr, dport), sink)
    }

    /// The same with a packet, or with a later fragment of one.
    pub(super) fn send_unbound<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        method: Method,
        (daddr, dport): (F::Addr, u16),
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        if method == Method::Tunnel {
            return Verdict::Drop(DropReason::DestUnavailable);
        }
        let way = cx.snapshot.fib.way::<F>(daddr);
        if let Err(v) = self.passable(cx, p, way, None, sink) {
            return v;
        }
        let ttl = p.ip.ttl - 1;
        rewrite::set_ttl(p.buf.data_mut(), p.ip, ttl);
        if method == Method::Masq {
            if let Some(whole) = p.whole() {
                let (frame, side) = (p.buf.data_mut(), rewrite::Side::Dst);
                rewrite::sctp_fragment_crc(frame, p.ip, side, dport, whole.len());
            }
            rewrite::nat_dst(p.buf.data_mut(), p.ip, daddr, dport);
        }
        way_verdict(way)
    }
}

/// Makes a real server an entry's, and counts it there. It may exceed a threshold, as a peer has let it in.
fn bind<F: Family>(conn: &mut Conn<F>, service: &Service, dest: &Dest) {
    dest.bind_unchecked();
    if conn.is_active() {
        dest.shared.activate();
    }
    conn.dest = dest.id.0;
    conn.service = service.id.0;
    if let Some(key) = &service.def.payload_key
        && conn.session == 0
        && key.may_be_absent()
    {
        conn.set_flags(conn.flags() | OPEN);
    }
}

/// The forwarding method in a peer's flags.
fn method_in(flags: u16) -> Method {
    match flags & flag::METHOD {
        2 => Method::Tunnel,
        3 => Method::Direct,
        _ => Method::Masq,
    }
}

/// The configured real server of an entry's ends (specification §9.9): the service is that of a packet, in it the server
/// has the entry's address, and its port or none.
#[must_use]
pub fn find_dest<'a, F: Side>(
    snapshot: &'a Snapshot,
    ends: &Ends<F>,
    mark: u32,
    method: Method,
) -> Option<(&'a Arc<Service>, &'a Arc<Dest>)> {
    let flow = FlowKey::<F> {
        src: ends.caddr,
        dst: ends.vaddr,
        src_port: ends.cport,
        dst_port: ends.vport,
        proto: ends.proto,
    };
    let id = F::index(&snapshot.services).service_with_mark(&flow, mark)?;
    let service = snapshot.service(id)?;
    let dport = ends.dport;
    let ports = if mark != 0 && method != Method::Masq {
        [0, dport]
    } else {
        [dport, 0]
    };
    let addr = ends.daddr.into();
    let with = |port| {
        service
            .dests
            .iter()
            .find(|d| d.addr == addr && d.port == port)
    };
    let dest = ports.into_iter().find_map(with)?;
    Some((service, dest))
}

/// A real server as it is configured, of a service that is named by its slot.
#[must_use]
pub fn dest_of(
    snapshot: &Snapshot,
    service: ServiceId,
    at: std::net::SocketAddr,
) -> Option<&Arc<Dest>> {
    let service = snapshot.service(service)?;
    let is = |d: &&Arc<Dest>| (d.addr, d.port) == (at.ip(), at.port());
    service.dests.iter().find(is)
}
