//! The way out: forwarding methods, TTL and MTU rules, and the ICMP errors that Polder sends itself.

use super::datagram::Applied;
use super::{Carried, Context, Director, Side, Sink, Verdict};
use crate::forward::fib::Way;
use crate::net::icmp::{self, IcmpError};
use crate::net::rewrite::{self, Outer};
use crate::net::{Af, DropReason, Family, Ip, PacketBuf, Tick, V4, V6};
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
        let overhead = match (dest.method, dest.addr.is_ipv4()) {
            (Method::Tunnel, true) => 20,
            (Method::Tunnel, false) => 40,
            _ => 0,
        };
        if let Err(v) = self.passable(cx, p, way, overhead, sink) {
            return v;
        }
        let ttl = p.ip.ttl - 1;
        rewrite::set_ttl(p.buf.data_mut(), p.ip, ttl);
        if p.whole.is_some() {
            self.applied = Some(Applied::to_server::<F>(dest, daddr));
        }
        match dest.method {
            Method::Masq => rewrite::nat_dst(p.buf.data_mut(), p.ip, daddr, dport),
            Method::Direct => {}
            Method::Tunnel => {
                if !self.encapsulate(cx, p, dest, way) {
                    return Verdict::Drop(DropReason::Headroom);
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
        let verdict = self.translate_source(cx, p, dest, from, sink);
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

    /// Sends a real server's packet on with another source.
    pub(super) fn translate_source<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        dest: &Dest,
        (addr, port): (F::Addr, u16),
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let way = cx.snapshot.fib.way::<F>(p.ip.flow.dst);
        if let Err(v) = self.passable(cx, p, way, 0, sink) {
            return v;
        }
        if p.whole.is_some() {
            self.applied = Some(Applied::from_server::<F>(dest, addr));
        }
        let ttl = p.ip.ttl - 1;
        rewrite::set_ttl(p.buf.data_mut(), p.ip, ttl);
        rewrite::nat_src(p.buf.data_mut(), p.ip, addr, port);
        way_verdict(way)
    }

    /// TTL and MTU rules of the way out (specification §8.1). `Err` carries the verdict of a packet that may not pass;
    /// its sender has been told.
    pub(super) fn passable<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        way: Way,
        overhead: u16,
        sink: &mut impl Sink<B>,
    ) -> Result<(), Verdict> {
        if p.ip.ttl <= 1 {
            self.answer(cx, p, IcmpError::TimeExceeded, None, sink);
            return Err(Verdict::Drop(DropReason::TtlExceeded));
        }
        let port = match way {
            Way::Known(e) => e.port,
            Way::Unresolved { port, .. } => port,
            Way::None => {
                self.answer(cx, p, IcmpError::HostUnreachable, None, sink);
                return Err(Verdict::Drop(DropReason::NoRoute));
            }
        };
        let mtu = cx.snapshot.fib.ports[usize::from(port.0)]
            .mtu
            .saturating_sub(overhead);
        // Specification §8.1: with `pmtu_disc` off an IPv4 packet enters an IPv4 tunnel whatever its size.
        let unchecked = || overhead == 20 && F::AF == Af::V4 && !pmtu_disc(cx);
        if p.ip.len() <= mtu || unchecked() {
            return Ok(());
        }
        if p.ip.dont_fragment {
            self.answer(cx, p, IcmpError::TooBig { mtu }, None, sink);
        } else if overhead != 40 {
            // The way out splits it.
            return Ok(());
        }
        Err(Verdict::Drop(DropReason::TooBig))
    }

    /// Puts the outer header of a tunnel in front (specification §8.4). `false` when the buffer has no room.
    pub(super) fn encapsulate<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        dest: &Dest,
        way: Way,
    ) -> bool {
        let port = match way {
            Way::Known(e) => e.port,
            Way::Unresolved { port, .. } => port,
            Way::None => return false,
        };
        #[allow(clippy::cast_possible_truncation)]
        let id = (self.next_random() >> 16) as u16;
        p.buf.truncate(usize::from(p.ip.end));
        match dest.addr {
            std::net::IpAddr::V4(a) => {
                let src = V4::port_addr(cx.snapshot, port).unwrap_or_default();
                wrap::<F, V4, B>(p.buf, p.ip, src, a.into(), (id, pmtu_disc(cx)))
            }
            std::net::IpAddr::V6(a) => {
                let src = V6::port_addr(cx.snapshot, port).unwrap_or_default();
                wrap::<F, V6, B>(p.buf, p.ip, src, a.into(), (id, true))
            }
        }
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

/// Whether packets that enter an IPv4 tunnel keep their don't-fragment bit (specification §8.4).
fn pmtu_disc(cx: &Context<'_>) -> bool {
    cx.snapshot.services.sysctls.pmtu_disc
}

/// Puts an outer header between the Ethernet header, which is written later, and the packet. `false` when the buffer
/// has no room, or the packet would be too long.
fn wrap<I: Family, O: Family, B: PacketBuf>(
    buf: &mut B,
    inner: &Ip<I>,
    src: O::Addr,
    dst: O::Addr,
    (id, copy_dont_fragment): (u16, bool),
) -> bool {
    let outer = Outer::<O> {
        src,
        dst,
        id,
        copy_dont_fragment,
    };
    let len = if O::AF == Af::V4 { 20 } else { 40 };
    let front = usize::from(inner.l3) - ETHERNET_LEN;
    buf.trim_front(front);
    if buf.prepend(len).is_none() {
        return false;
    }
    rewrite::write_outer(
        &mut buf.data_mut()[ETHERNET_LEN..ETHERNET_LEN + len],
        &outer,
        inner,
    )
}

pub(super) fn way_verdict(way: Way) -> Verdict {
    match way {
        Way::Known(e) => Verdict::Transmit(e),
        Way::Unresolved { port, next_hop } => Verdict::Wait { port, next_hop },
        Way::None => Verdict::Drop(DropReason::NoRoute),
    }
}
