//! Changes to headers in place: time to live, addresses and ports, MAC addresses, the outer header of a tunnel.
//!
//! Knows how to change a header, not when. Every function that is given an [`Ip`] by `&mut` keeps it true, so that
//! what comes next can rely on it. Invariant: nothing at or behind [`Ip::end`] is read or written, and a checksum
//! that was right before is right after.

use super::checksum::{self, Delta};
use super::packet::proto;
use super::parse::{ETHERNET_LEN, Layout};
use super::{Af, Family, Ip, Mac};

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Src,
    /// The destination.
    Dst,
}

impl Side {
    /// The other end.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Src => Self::Dst,
            Self::Dst => Self::Src,
        }
    }

    /// Sets this side's address, no checksum, and returns the old one.
    #[inline]
    pub(super) fn set_addr<F: Family>(
        self,
        packet: &mut [u8],
        ip: &mut Ip<F>,
        addr: F::Addr,
    ) -> F::Addr {
        let layout = Layout::of::<F>();
        let (offset, field) = match self {
            Self::Src => (layout.src, &mut ip.flow.src),
            Self::Dst => (layout.dst, &mut ip.flow.dst),
        };
        F::write(addr, &mut packet[usize::from(ip.l3) + offset..]);
        std::mem::replace(field, addr)
    }

    /// Sets this side's port of a protocol that has ports, no checksum, and returns the old one. A packet that ends
    /// before its ports keeps them, and the result is then `port`: no change.
    #[inline]
    pub(super) fn set_port<F: Family>(self, packet: &mut [u8], ip: &mut Ip<F>, port: u16) -> u16 {
        let l4 = usize::from(ip.l4);
        let Some(ports) = packet.get_mut(l4..l4 + 4) else {
            return port;
        };
        let (bytes, field) = match self {
            Self::Src => (&mut ports[..2], &mut ip.flow.src_port),
            Self::Dst => (&mut ports[2..], &mut ip.flow.dst_port),
        };
        bytes.copy_from_slice(&port.to_be_bytes());
        std::mem::replace(field, port)
    }
}

/// The addresses of an Ethernet header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Macs {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
}

/// Sets the frame's MAC addresses.
///
/// # Panics
/// When the frame is shorter than 12 bytes.
#[inline]
pub fn set_macs(frame: &mut [u8], macs: Macs) {
    frame[..6].copy_from_slice(&macs.dst.0);
    frame[6..12].copy_from_slice(&macs.src.0);
}

/// Writes an untagged Ethernet II header.
///
/// # Panics
/// When the frame is shorter than 14 bytes.
#[inline]
pub fn write_ethernet(frame: &mut [u8], macs: Macs, ether_type: u16) {
    set_macs(frame, macs);
    frame[12..ETHERNET_LEN].copy_from_slice(&ether_type.to_be_bytes());
}

/// Sets the time to live or hop limit.
#[inline]
pub fn set_ttl<F: Family>(frame: &mut [u8], ip: &mut Ip<F>, ttl: u8) {
    let l3 = usize::from(ip.l3);
    frame[l3 + Layout::of::<F>().ttl] = ttl;
    if F::AF == Af::V4 {
        // In IPv4 it is the high half of the word that it shares with the protocol.
        let word = |ttl: u8| u16::from_be_bytes([ttl, ip.flow.proto]);
        patch(
            frame,
            l3 + 10,
            Delta::default().word(word(ip.ttl), word(ttl)),
        );
    }
    ip.ttl = ttl;
}

/// Rewrites the source address and port.
#[inline]
pub fn nat_src<F: Family>(frame: &mut [u8], ip: &mut Ip<F>, addr: F::Addr, port: u16) {
    nat(frame, ip, Side::Src, addr, port);
}

/// Rewrites the destination address and port.
#[inline]
pub fn nat_dst<F: Family>(frame: &mut [u8], ip: &mut Ip<F>, addr: F::Addr, port: u16) {
    nat(frame, ip, Side::Dst, addr, port);
}

/// Rewrites one side's address and, where the packet has ports, its port, with every checksum that covers them
/// (specification §8.2).
///
/// A UDP checksum of 0 is replaced by a computed one unless the datagram is a fragment, of which no checksum can be
/// made. SCTP's CRC is recomputed when the port changes; in a fragment it is left, so such a datagram must be put
/// together before. Later fragments get the address only, as do protocols without ports.
#[inline]
pub fn nat<F: Family>(frame: &mut [u8], ip: &mut Ip<F>, side: Side, addr: F::Addr, port: u16) {
    let packet = &mut frame[..usize::from(ip.end)];
    let old = side.set_addr(packet, ip, addr);
    let delta = Delta::default().addr::<F>(old, addr);
    if F::AF == Af::V4 {
        patch(packet, usize::from(ip.l3) + 10, delta);
    }
    if !ip.is_later_fragment() {
        nat_transport(packet, ip, side, delta, port);
    }
}

/// The transport half of [`nat`]; `delta` is what the address changed in the pseudo-header.
#[inline]
fn nat_transport<F: Family>(
    packet: &mut [u8],
    ip: &mut Ip<F>,
    side: Side,
    delta: Delta,
    port: u16,
) {
    let l4 = usize::from(ip.l4);
    match ip.flow.proto {
        proto::TCP => {
            let old = side.set_port(packet, ip, port);
            patch(packet, l4 + 16, delta.word(old, port));
        }
        proto::UDP => {
            let old = side.set_port(packet, ip, port);
            patch_udp(packet, ip, delta.word(old, port));
        }
        proto::SCTP => {
            let old = side.set_port(packet, ip, port);
            if old != port && ip.l4_whole && ip.fragment.is_none_or(|f| !f.more) {
                let crc = checksum::sctp(&packet[l4..]);
                packet[l4 + 8..l4 + 12].copy_from_slice(&crc);
            }
        }
        proto::ICMPV6 if F::AF == Af::V6 => patch(packet, l4 + 2, delta),
        _ => {}
    }
}

/// Applies `delta` to the checksum at `at`, if the packet reaches as far.
#[inline]
fn patch(packet: &mut [u8], at: usize, delta: Delta) {
    if let Some(field) = packet.get_mut(at..at + 2) {
        let sum = delta.apply(u16::from_be_bytes([field[0], field[1]]));
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

#[inline]
fn patch_udp<F: Family>(packet: &mut [u8], ip: &Ip<F>, delta: Delta) {
    let at = usize::from(ip.l4) + 6;
    let Some(field) = packet.get_mut(at..at + 2) else {
        return;
    };
    match u16::from_be_bytes([field[0], field[1]]) {
        0 => fill_udp(packet, ip),
        old => {
            field.copy_from_slice(&checksum::udp_on_wire(delta.apply(old)).to_be_bytes());
        }
    }
}

/// Computes the checksum of a UDP datagram that came without one. The datagram is as long as its own header says,
/// which can be less than the IP packet; if it can't be true, or this is a fragment, the field stays 0.
#[inline(never)] // Rare, and long enough to push the common case out of line.
fn fill_udp<F: Family>(packet: &mut [u8], ip: &Ip<F>) {
    let datagram = &mut packet[usize::from(ip.l4)..];
    let len = usize::from(u16::from_be_bytes([datagram[4], datagram[5]]));
    if len < 8 || len > datagram.len() || ip.fragment.is_some_and(|f| f.more) {
        return;
    }
    let sum = checksum::transport::<F>(ip.flow.src, ip.flow.dst, proto::UDP, &datagram[..len]);
    datagram[6..8].copy_from_slice(&checksum::udp_on_wire(sum).to_be_bytes());
}

/// The ends of a tunnel and what its outer header does not take from the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer<O: Family> {
    /// The director's address towards the real server.
    pub src: O::Addr,
    /// The real server's address.
    pub dst: O::Addr,
    /// Identification (IPv4 only).
    pub id: u16,
    /// Whether the outer header takes over the inner don't-fragment bit (`pmtu_disc`; IPv4 in IPv4 only).
    pub copy_dont_fragment: bool,
}

/// Writes the outer header of an IPIP packet (specification §8.4) around `inner`, whose TTL was already decremented,
/// into the first 20 or 40 bytes of `header`. `false`, with nothing written, when the packet would be longer than
/// 65,535 bytes.
///
/// # Panics
/// When `header` is shorter than the header.
#[must_use]
pub fn write_outer<I: Family, O: Family>(
    header: &mut [u8],
    outer: &Outer<O>,
    inner: &Ip<I>,
) -> bool {
    let layout = Layout::of::<O>();
    let tos = outer_tos(inner.tos);
    let proto = match I::AF {
        Af::V4 => proto::IPIP,
        Af::V6 => proto::IPV6,
    };
    let total_len = usize::from(inner.len()) + layout.header_len;
    let Ok(total_len) = u16::try_from(total_len) else {
        return false;
    };
    let header = &mut header[..layout.header_len];
    header.fill(0);
    match O::AF {
        Af::V4 => {
            header[0] = 0x45;
            header[1] = tos;
            header[2..4].copy_from_slice(&total_len.to_be_bytes());
            header[4..6].copy_from_slice(&outer.id.to_be_bytes());
            if outer.copy_dont_fragment && I::AF == Af::V4 && inner.dont_fragment {
                header[6] = 0x40;
            }
            header[9] = proto;
        }
        Af::V6 => {
            header[0] = 0x60 | tos >> 4;
            header[1] = tos << 4;
            header[4..6].copy_from_slice(&inner.len().to_be_bytes());
            header[6] = proto;
        }
    }
    header[layout.ttl] = inner.ttl;
    O::write(outer.src, &mut header[layout.src..]);
    O::write(outer.dst, &mut header[layout.dst..]);
    if O::AF == Af::V4 {
        let sum = checksum::ipv4_header(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// The inner DSCP and ECN, except that a congestion mark stays inside and the outer header says ECT(0)
/// (specification §8.4).
fn outer_tos(inner: u8) -> u8 {
    const ECN: u8 = 0b11;
    const ECT0: u8 = 0b10;
    if inner & ECN == ECN {
        inner & !ECN | ECT0
    } else {
        inner
    }
}
