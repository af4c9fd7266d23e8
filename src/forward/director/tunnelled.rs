//! ICMP errors about the outer packets of tunnels: what a router between the director and a real server says of a
//! packet that it can't take on concerns the client whose packet is within (specification §8.6).
//!
//! The error becomes one about the packet within, from the virtual address to the client, in the same buffer. Invariant:
//! nothing is sent unless the quoted packet is one that the director may have sent, and no state changes by an error.

use std::sync::Arc;

use super::defence::spread_server;
use super::outgoing::way_verdict;
use super::{Carried, Context, Director, Side, Verdict};
use crate::forward::defs::PortId;
use crate::forward::snapshot::{Service, Snapshot};
use crate::net::icmp::{self, IcmpError, Tunnelled};
use crate::net::packet::proto;
use crate::net::{Af, DropReason, FlowKey, Ip, PacketBuf, V4, V6, parse};
use crate::table::{Dest, Direction, Method};

const ETHERNET_LEN: usize = 14;
/// Smallest MTU of IPv4 (RFC 791 §3.2) and of IPv6 (RFC 8200 §5).
const LEAST_MTU: (u32, u16) = (68, 1280);

impl Director {
    /// An ICMP error about a packet that the director sent to the end of a tunnel; `None` when it is no such error.
    #[inline(never)]
    pub(super) fn about_tunnel<O: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, O, B>,
    ) -> Option<Verdict> {
        let index = O::index(&cx.snapshot.services);
        if !index.has_tunnels() {
            return None;
        }
        let about = icmp::tunnelled(p.buf.data(), p.ip).ok()??;
        let (sent, within) = (about.outer.flow(), &about.within);
        let ours = p.ip.flow.dst == sent.src && is_own::<O>(cx.snapshot, sent.src);
        if !ours || !index.is_tunnel(sent.dst, within.kind, within.port) {
            return None;
        }
        Some(match within.af {
            Af::V4 => self.about_inner::<O, V4, B>(cx, p, &about),
            Af::V6 => self.about_inner::<O, V6, B>(cx, p, &about),
        })
    }

    fn about_inner<O: Side, I: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, O, B>,
        about: &Tunnelled<O>,
    ) -> Verdict {
        let packet = &p.buf.data()[..usize::from(p.ip.end)];
        let Ok(inner) = parse::quoted::<I>(packet, usize::from(about.within.l3)) else {
            return Verdict::Drop(DropReason::IcmpUnmatched);
        };
        let has_ports = matches!(inner.flow.proto, proto::TCP | proto::UDP | proto::SCTP);
        if inner.is_later_fragment() {
            // It names no connection.
            return Verdict::Drop(DropReason::IcmpUntold);
        }
        if has_ports && inner.end - inner.l4 < 4 {
            return Verdict::Drop(DropReason::IcmpUnmatched);
        }
        match self.sent_by_tunnel::<I>(cx, &inner.flow, about.outer.flow().dst.into()) {
            Ok(()) => self.tell::<O, I, B>(cx, p, about, &inner),
            Err(verdict) => verdict,
        }
    }

    /// Whether a packet of `flow` went to the tunnel that ends at `server`; else what becomes of an error about it.
    fn sent_by_tunnel<I: Side>(
        &mut self,
        cx: &Context<'_>,
        flow: &FlowKey<I>,
        server: std::net::IpAddr,
    ) -> Result<(), Verdict> {
        let leads_there = |dest: &Dest| dest.method == Method::Tunnel && dest.addr == server;
        if let Some(hit) = I::table(self).lookup(flow) {
            let conn = I::table(self).get(hit.index);
            let dest = conn.dest_id().and_then(|id| cx.snapshot.dest(id));
            let known =
                hit.direction == Direction::FromClient && dest.is_some_and(|d| leads_there(d));
            return known.then_some(()).ok_or(Verdict::Punt);
        }
        if flow.proto == proto::UDP
            && services_of::<I>(cx, flow)
                .any(|s| s.def.one_packet && s.dests.iter().any(|d| leads_there(d)))
        {
            // There is no connection, and any of the service's servers may have got the packet.
            return Ok(());
        }
        if let Some(other) = self.other_owner::<I>(cx, flow.src, flow.src_port, flow.proto) {
            return Err(Verdict::HandOver(other));
        }
        let unremembered = services_of::<I>(cx, flow).any(|service| {
            self.spreads(cx, service, flow.proto)
                && spread_server::<I>(service, flow).is_some_and(|d| leads_there(d))
        });
        unremembered.then_some(()).ok_or(Verdict::Punt)
    }

    /// Makes the error one about the packet within, to that packet's sender.
    fn tell<O: Side, I: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, O, B>,
        about: &Tunnelled<O>,
        inner: &Ip<I>,
    ) -> Verdict {
        if !icmp::is_intact(p.buf.data(), p.ip) {
            return Verdict::Drop(DropReason::L4Checksum);
        }
        let Some(error) = for_client(about, inner) else {
            return Verdict::Drop(DropReason::IcmpUntold);
        };
        if !icmp::may_answer(p.buf.data(), inner, false) || !self.icmp_token(cx.now) {
            return Verdict::Drop(DropReason::IcmpUntold);
        }
        let way = cx.snapshot.fib.way::<I>(inner.flow.src);
        // The headers of the outer packet and of the error about it make more than enough room for the new ones.
        let front = usize::from(inner.l3) - icmp::error_header_len::<I>() - ETHERNET_LEN;
        p.buf.truncate(usize::from(inner.end));
        p.buf.trim_front(front);
        p.buf.truncate(ETHERNET_LEN + icmp::max_error_len::<I>());
        let ends = (inner.flow.dst, inner.flow.src);
        icmp::write_error::<I>(error, ends, &mut p.buf.data_mut()[ETHERNET_LEN..]);
        way_verdict(way)
    }
}

/// The services that packets of a client's flow may be of. They came in by another port than the error did, and a rule
/// that gives a mark may ask for that port.
fn services_of<'a, I: Side>(
    cx: &Context<'a>,
    flow: &FlowKey<I>,
) -> impl Iterator<Item = &'a Arc<Service>> {
    let index = I::index(&cx.snapshot.services);
    let ports = 0..u16::try_from(cx.snapshot.fib.ports.len()).unwrap_or(u16::MAX);
    let found = ports.filter_map(move |port| index.service(flow, PortId(port)));
    found.filter_map(|(id, _)| cx.snapshot.service(id))
}

/// Whether an address is one that the director sends tunnels' packets from.
fn is_own<O: Side>(snapshot: &Snapshot, addr: O::Addr) -> bool {
    let ports = 0..u16::try_from(snapshot.fib.ports.len()).unwrap_or(u16::MAX);
    ports
        .map(PortId)
        .any(|port| O::port_addr(snapshot, port) == Some(addr))
}

/// What the client is told; `None` when it let its packet be fragmented, so that it can't be too big for it.
fn for_client<O: Side, I: Side>(about: &Tunnelled<O>, inner: &Ip<I>) -> Option<IcmpError> {
    let Tunnelled { outer, within } = about;
    let too_big = match O::AF {
        Af::V4 => (outer.icmp_type, outer.code) == (3, 4),
        Af::V6 => outer.icmp_type == 2,
    };
    if too_big {
        let overhead = within.l3 - outer.ip.l3;
        return inner.dont_fragment.then(|| IcmpError::TooBig {
            mtu: inner_mtu::<I>(outer.mtu, overhead),
        });
    }
    let exceeded = match O::AF {
        Af::V4 => outer.icmp_type == 11,
        Af::V6 => outer.icmp_type == 3,
    };
    Some(if O::AF == I::AF {
        IcmpError::Same {
            icmp_type: outer.icmp_type,
            code: outer.code,
        }
    } else if exceeded {
        IcmpError::TimeExceeded
    } else {
        IcmpError::HostUnreachable
    })
}

/// The MTU that a tunnel leaves of a reported one. A report that can't be is passed on as it is (specification §8.6), to
/// IPv6 clients as the least that IPv6 has.
fn inner_mtu<I: Side>(reported: u32, overhead: u16) -> u16 {
    let overhead = u32::from(overhead);
    let left = if reported > LEAST_MTU.0 + overhead {
        reported - overhead
    } else {
        reported
    };
    let left = u16::try_from(left).unwrap_or(u16::MAX);
    match I::AF {
        Af::V4 => left,
        Af::V6 => left.max(LEAST_MTU.1),
    }
}
