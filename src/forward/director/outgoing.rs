//! The way out: forwarding methods, TTL and MTU rules, and the ICMP errors that Polder sends itself.

use std::net::IpAddr;

use super::datagram::Applied;
use super::{Carried, Context, Director, Side, Sink, Verdict};
use crate::forward::defs::PortId;
use crate::forward::fib::Way;
use crate::forward::snapshot::Snapshot;
use crate::net::icmp::{self, IcmpError};
use crate::net::rewrite;
use crate::net::tunnel::{self, Outer, Tunnel, TunnelKind};
use crate::net::{Af, DropReason, PacketBuf, Tick, V4, V6};
use crate::table::{Dest, Method};

const ETHERNET_LEN: usize = 14;

/// ICMP errors that one worker may send per second; as many may be sent at once after a pause.
pub(super) const ICMP_PER_SECOND: u32 = 1000;

impl Director {
    /// Sends a packet to a real server by its forwarding method (specification §8).
    pub(super) fn dispatch<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        dest: &Dest,
        daddr: F::Addr,
        dport: u16,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let way = cx.snapshot.fib.way_to_dest(dest.id);
        if let Err(v) = self.passable(cx, p, way, Some(dest), sink) {
            return v;
        }
        let ttl = p.ip.ttl - 1;
        rewrite::set_ttl(p.buf.data_mut(), p.ip, ttl);
        if p.whole().is_some() {
            self.applied = Some(Applied::to_server::<F>(dest, daddr));
        }
        match dest.method {
            Method::Masq => {
                if let Some(whole) = p.whole() {
                    let (frame, side) = (p.buf.data_mut(), rewrite::Side::Dst);
                    rewrite::sctp_fragment_crc(frame, p.ip, side, dport, whole.len());
                }
                rewrite::nat_dst(p.buf.data_mut(), p.ip, daddr, dport);
            }
            Method::Direct => {}
            Method::Tunnel => {
                if let Err(reason) = self.encapsulate(cx, p, dest, way) {
                    return Verdict::Drop(reason);
                }
            }
        }
        way_verdict(way)
    }

    /// Counts a real server's packet and sends it on from the virtual address and port.
    pub(super) fn leave_as<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        dest: &Dest,
        from: (F::Addr, u16),
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let bytes = u64::from(p.ip.len());
        let verdict = self.translate_source(cx, p, Some(dest), from, sink);
        if matches!(verdict, Verdict::Transmit(_) | Verdict::Wait { .. }) {
            let service = cx.counters.service(dest.service);
            service.packets_out.inc();
            service.bytes_out.add(bytes);
            let server = cx.counters.dest(dest.id);
            server.packets_out.inc();
            server.bytes_out.add(bytes);
        }
        verdict
    }

    /// Sends a real server's packet on with another source; the server is one that is configured, or only a peer knows it.
    pub(super) fn translate_source<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        dest: Option<&Dest>,
        (addr, port): (F::Addr, u16),
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let way = cx.snapshot.fib.way::<F>(p.ip.flow.dst);
        if let Err(v) = self.passable(cx, p, way, None, sink) {
            return v;
        }
        if let Some(whole) = p.whole() {
            self.applied = Some(match dest {
                Some(dest) => Applied::from_server::<F>(dest, addr),
                None => Applied::from_unbound::<F>(addr),
            });
            let (frame, side) = (p.buf.data_mut(), rewrite::Side::Src);
            rewrite::sctp_fragment_crc(frame, p.ip, side, port, whole.len());
        }
        let ttl = p.ip.ttl - 1;
        rewrite::set_ttl(p.buf.data_mut(), p.ip, ttl);
        rewrite::nat_src(p.buf.data_mut(), p.ip, addr, port);
        way_verdict(way)
    }

    /// TTL and MTU rules of the way out (specification §8.1), which a tunnel, with its outer family, makes narrower.
    /// `Err` carries the verdict of a packet that may not pass; its sender has been told. A packet for a real server `to`
    /// is a client's, who hears of the virtual address only, as in IPVS.
    pub(super) fn passable<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        way: Way,
        to: Option<&Dest>,
        sink: &mut impl Sink<B>,
    ) -> Result<(), Verdict> {
        let from = to.map(|_| p.ip.flow.dst);
        if p.ip.ttl <= 1 {
            self.answer(cx, p, IcmpError::TimeExceeded, from, sink);
            return Err(Verdict::Drop(DropReason::TtlExceeded));
        }
        let mtu = match way {
            Way::Known(e) => e.mtu,
            Way::Unresolved { port, .. } => cx.snapshot.fib.ports[usize::from(port.0)].mtu,
            Way::None => {
                self.answer(cx, p, IcmpError::HostUnreachable, from, sink);
                return Err(Verdict::Drop(DropReason::NoRoute));
            }
        };
        let tunnel = to.filter(|dest| dest.method == Method::Tunnel);
        let (overhead, least) = tunnel.map_or((0, 0), narrowing);
        let mtu = mtu.saturating_sub(overhead);
        if mtu < least {
            return Err(Verdict::Drop(DropReason::TooBig));
        }
        // Specification §8.1: with `pmtu_disc` off an IPv4 packet enters an IPv4 tunnel whatever its size.
        let unchecked =
            || tunnel.is_some_and(|t| t.addr.is_ipv4()) && F::AF == Af::V4 && !pmtu_disc(cx);
        if p.ip.len() <= mtu || unchecked() {
            return Ok(());
        }
        if p.ip.dont_fragment {
            self.answer(cx, p, IcmpError::TooBig { mtu }, from, sink);
            return Err(Verdict::Drop(DropReason::TooBig));
        }
        // The way out splits it.
        Ok(())
    }

    /// Puts the outer headers of a tunnel in front (specification §8.4).
    #[inline(never)]
    fn encapsulate<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        dest: &Dest,
        way: Way,
    ) -> Result<(), DropReason> {
        let port = match way {
            Way::Known(e) => e.port,
            Way::Unresolved { port, .. } => port,
            Way::None => return Err(DropReason::NoRoute),
        };
        match dest.addr {
            IpAddr::V4(a) => self.wrap::<F, V4, B>(cx, p, dest.tunnel, a.into(), port),
            IpAddr::V6(a) => self.wrap::<F, V6, B>(cx, p, dest.tunnel, a.into(), port),
        }
    }

    /// Puts headers between the Ethernet header, which is written later, and the packet.
    fn wrap<I: Side, O: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, I, B>,
        tunnel: Tunnel,
        dst: O::Addr,
        port: PortId,
    ) -> Result<(), DropReason> {
        let src = own_addr::<O>(cx.snapshot, port).ok_or(DropReason::NoRoute)?;
        let src_port = match tunnel.kind {
            TunnelKind::Gue => tunnel::source_port(p.ip, &self.tunnel_key),
            TunnelKind::Ipip | TunnelKind::Gre => 0,
        };
        #[allow(clippy::cast_possible_truncation)]
        let id = (self.next_random() >> 16) as u16;
        let outer = Outer::<O> {
            src,
            dst,
            id,
            copy_dont_fragment: O::AF == Af::V6 || pmtu_disc(cx),
            tunnel,
            src_port,
        };
        let len = usize::from(tunnel.header_len(O::AF));
        p.buf.truncate(usize::from(p.ip.end));
        p.buf.trim_front(usize::from(p.ip.l3) - ETHERNET_LEN);
        p.buf.prepend(len).ok_or(DropReason::Headroom)?;
        let written = tunnel::write_outer(&mut p.buf.data_mut()[ETHERNET_LEN..], &outer, p.ip);
        written.then_some(()).ok_or(DropReason::TooBig)
    }

    /// Sends an ICMP error about `original` to its sender, if the rules and the rate limit allow one. It comes from
    /// `from`, or else from the director's own address on the port it came in by, or else from the address it was sent to.
    pub(super) fn answer<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &Carried<'_, F, B>,
        error: IcmpError,
        from: Option<F::Addr>,
        sink: &mut impl Sink<B>,
    ) {
        if !icmp::may_answer(p.buf.data(), p.ip, false) || !self.icmp_token(cx.now) {
            return;
        }
        let from = from
            .or_else(|| F::port_addr(cx.snapshot, cx.ingress))
            .unwrap_or(p.ip.flow.dst);
        let verdict = match cx.snapshot.fib.way::<F>(p.ip.flow.src) {
            Way::Known(e) => Verdict::Transmit(e),
            Way::Unresolved { port, next_hop } => Verdict::Wait { port, next_hop },
            Way::None => return,
        };
        let Some(mut buf) = sink.alloc(cx.ingress) else {
            return;
        };
        let original = &p.buf.data()[usize::from(p.ip.l3)..usize::from(p.ip.end)];
        let made = buf
            .append(ETHERNET_LEN + icmp::MAX_ERROR_LEN)
            .and_then(|room| {
                icmp::build_error::<F>(error, from, original, &mut room[ETHERNET_LEN..])
            });
        if let Some(len) = made {
            buf.truncate(ETHERNET_LEN + len);
            sink.send_own(buf, verdict);
        }
    }

    pub(super) fn icmp_token(&mut self, now: Tick) -> bool {
        let earned = now
            .since(self.icmp_refilled)
            .saturating_mul(ICMP_PER_SECOND / Tick::PER_SECOND);
        if earned > 0 {
            self.icmp_tokens = self.icmp_tokens.saturating_add(earned).min(ICMP_PER_SECOND);
            self.icmp_refilled = now;
        }
        let allowed = self.icmp_tokens > 0;
        self.icmp_tokens = self.icmp_tokens.saturating_sub(1);
        allowed
    }
}

/// The director's own address for packets that leave by `port`: that of the port, else that of the first port that has
/// one of the family.
fn own_addr<F: Side>(snapshot: &Snapshot, port: PortId) -> Option<F::Addr> {
    let ports = 0..u16::try_from(snapshot.fib.ports.len()).unwrap_or(u16::MAX);
    F::port_addr(snapshot, port).or_else(|| {
        ports
            .map(PortId)
            .find_map(|port| F::port_addr(snapshot, port))
    })
}

/// What a server's tunnel takes of an MTU, and the least MTU that its outer family has.
#[inline(never)]
fn narrowing(dest: &Dest) -> (u16, u16) {
    let af = Af::of(dest.addr);
    let least = if af == Af::V4 { 68 } else { 1280 };
    (dest.tunnel.header_len(af), least)
}

/// Whether packets that enter an IPv4 tunnel keep their don't-fragment bit (specification §8.4).
fn pmtu_disc(cx: &Context<'_>) -> bool {
    cx.snapshot.services.sysctls.pmtu_disc
}

pub(super) fn way_verdict(way: Way) -> Verdict {
    match way {
        Way::Known(e) => Verdict::Transmit(e),
        Way::Unresolved { port, next_hop } => Verdict::Wait { port, next_hop },
        Way::None => Verdict::Drop(DropReason::NoRoute),
    }
}
