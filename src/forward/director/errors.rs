//! ICMP errors about packets of connections (specification §8.6).

use super::choice::Use;
use super::defence::spread_server;
use super::ipsec::carrier;
use super::outgoing::way_verdict;
use super::{Carried, Context, Director, Side, Sink, Verdict};
use crate::forward::defs::ServiceKind;
use crate::forward::fib::Way;
use crate::net::icmp::{self, Embedded};
use crate::net::{DropReason, FlowKey, Ip, PacketBuf, rewrite};
use crate::table::{Direction, Hit, Method, NONE};

impl Director {
    /// ICMP: errors that quote a packet of one of our connections are translated (specification §8.6); the rest is the
    /// kernel's. No connection's state or timer is touched.
    #[inline(never)]
    pub(super) fn icmp<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        if let Some(verdict) = self.about_tunnel(cx, p) {
            return verdict;
        }
        let mut embedded = match icmp::embedded(p.buf.data(), p.ip) {
            Ok(Some(e)) => e,
            Ok(None) => return Verdict::Punt,
            Err(reason) => return self.malformed_icmp(cx, p.ip, reason),
        };
        // The quoted packet travelled away from us, so what we would have received is its reverse.
        let key = carrier(embedded.flow().reversed());
        let Some(hit) = F::table(self).lookup(&key) else {
            if let Some(end) = one_packet_end(cx, p.ip, &key) {
                let way = cx.snapshot.fib.way::<F>(p.ip.flow.dst);
                return self.relay_error(cx, p, &mut embedded, end, way, sink);
            }
            return match self.icmp_elsewhere(cx, &key) {
                Verdict::Punt => self.icmp_of_none(cx, p, &mut embedded, &key, sink),
                elsewhere => elsewhere,
            };
        };
        self.icmp_of(cx, p, &mut embedded, hit, sink)
    }

    /// An error about a packet of a connection.
    fn icmp_of<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        embedded: &mut Embedded<F>,
        hit: Hit,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let conn = *F::table(self).get(hit.index);
        let dest = conn.dest_id().and_then(|id| cx.snapshot.dest(id));
        if dest.is_none() && conn.dest != NONE {
            return Verdict::Punt;
        }
        let to_server = (rewrite::Side::Dst, conn.daddr(), conn.dport());
        let (end, way) = match (hit.direction, dest) {
            (Direction::FromClient, _) if cx.off_duty => return Verdict::Punt,
            (Direction::FromClient, Some(dest)) if dest.method != Method::Masq => {
                return self.dispatch(cx, p, dest, conn.daddr(), conn.dport(), sink);
            }
            (Direction::FromClient, Some(dest)) => {
                (to_server, cx.snapshot.fib.way_to_dest(dest.id))
            }
            // A peer told of it, and its server is not known here: the address will do, as for its packets.
            (Direction::FromClient, None) if conn.method() != Method::Masq => {
                return self.forward_unbound(cx, p, &conn, sink);
            }
            (Direction::FromClient, None) => (to_server, cx.snapshot.fib.way::<F>(conn.daddr())),
            (Direction::FromServer, _) => (
                (rewrite::Side::Src, conn.vaddr(), conn.vport()),
                cx.snapshot.fib.way::<F>(p.ip.flow.dst),
            ),
        };
        self.relay_error(cx, p, embedded, end, way, sink)
    }

    /// An error about a packet that would be answered by packets with `key`, which have no connection. If they may be
    /// of a flow that is not remembered it goes to that one's server; else `schedule_icmp` says whether it makes a
    /// connection, which then lives for 3 s unless packets follow (specification §2.9, §8.6).
    fn icmp_of_none<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        embedded: &mut Embedded<F>,
        key: &FlowKey<F>,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let found = F::index(&cx.snapshot.services).service(key, cx.ingress);
        let service = found.and_then(|(id, mark)| Some((cx.snapshot.service(id)?, mark)));
        let Some((service, mark)) = service.filter(|_| !cx.off_duty) else {
            return Verdict::Punt;
        };
        if self.spreads(cx, service, key.proto)
            && let Some(dest) = spread_server::<F>(service, key)
        {
            let addr = F::from_ip(dest.addr).unwrap_or_default();
            return self.dispatch(cx, p, dest, addr, 0, sink);
        }
        if !cx.snapshot.services.sysctls.schedule_icmp || service.def.one_packet {
            return Verdict::Punt;
        }
        let mut ip = *p.ip;
        ip.flow = *key;
        if let Some(verdict) = Self::misplaced(&ip) {
            return verdict;
        }
        if self.throttled(cx, service.id) {
            return Verdict::Drop(DropReason::Overload);
        }
        if service.def.new_connections_per_second != 0 && !self.take(cx, service) {
            return self.overload(cx, service);
        }
        // An engine must not read the error's own bytes as the flow's.
        let quoted = Carried {
            ip: &mut ip,
            buf: &mut *p.buf,
            known: super::Known::Whole(&[]),
        };
        let chosen = match self.choose(cx, &quoted, service, mark, Use::Connection) {
            Ok(chosen) => chosen,
            Err(refused) => return self.refuse(cx, p, service, refused, sink),
        };
        let made = self.make::<F>(cx, key, service, mark, &chosen);
        let hit = made.map(|index| Hit {
            index,
            direction: Direction::FromClient,
        });
        match hit {
            Ok(hit) => self.icmp_of(cx, p, embedded, hit, sink),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// An ICMP error that quotes something malformed is dropped if it is for a virtual address or from a server's side,
    /// and else left to the kernel.
    pub(super) fn malformed_icmp<F: Side>(
        &self,
        cx: &Context<'_>,
        ip: &Ip<F>,
        reason: DropReason,
    ) -> Verdict {
        let index = F::index(&cx.snapshot.services);
        if index.is_virtual(ip.flow.dst) {
            Verdict::Drop(reason)
        } else {
            Verdict::Punt
        }
    }

    pub(super) fn icmp_elsewhere<F: Side>(&self, cx: &Context<'_>, key: &FlowKey<F>) -> Verdict {
        let index = F::index(&cx.snapshot.services);
        let client = if index.service(key, cx.ingress).is_some() {
            Some((key.src, key.src_port))
        } else if index.is_dest(key.src, key.src_port, key.proto) {
            Some((key.dst, key.dst_port))
        } else {
            None
        };
        match client.and_then(|(a, p)| self.other_owner::<F>(cx, a, p, key.proto)) {
            Some(other) => Verdict::HandOver(other),
            None => Verdict::Punt,
        }
    }

    /// Sends an ICMP error on with one end of it, and the opposite end of what it quotes, translated.
    pub(super) fn relay_error<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        embedded: &mut Embedded<F>,
        (side, addr, port): (rewrite::Side, F::Addr, u16),
        way: Way,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        if let Err(v) = self.passable(cx, p, way, None, sink) {
            return v;
        }
        if let Err(r) = icmp::translate(p.buf.data_mut(), p.ip, embedded, side, addr, port) {
            return Verdict::Drop(r);
        }
        let ttl = p.ip.ttl - 1;
        rewrite::set_ttl(p.buf.data_mut(), p.ip, ttl);
        way_verdict(way)
    }
}

/// What an ICMP error about a datagram of a one-packet service is to come from, as its servers' datagrams do: there is
/// no connection to say it. `key` is the reverse of the datagram that the server got. Only an error for the datagram's
/// sender is one.
fn one_packet_end<F: Side>(
    cx: &Context<'_>,
    ip: &Ip<F>,
    key: &FlowKey<F>,
) -> Option<(rewrite::Side, F::Addr, u16)> {
    let index = F::index(&cx.snapshot.services);
    let dest = cx
        .snapshot
        .dest(index.initiator(key.src, key.src_port, key.proto)?)?;
    let service = cx.snapshot.service(dest.service)?;
    let ServiceKind::Address { addr, port, .. } = service.def.kind else {
        return None;
    };
    if !service.def.one_packet || ip.flow.dst != key.dst {
        return None;
    }
    let vport = if port == 0 { key.src_port } else { port };
    Some((rewrite::Side::Src, F::from_ip(addr)?, vport))
}
