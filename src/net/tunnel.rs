//! Packets within packets (specification §8.4): IPIP, GUE and GRE around either family, in either family.
//!
//! Writes what stands in front of the inner packet, and finds the inner packet behind it in what an ICMP error quotes.
//! Knows no server and no way out. Invariant: the inner packet's bytes are never changed, and the sizes that
//! [`Tunnel::header_len`] names are those that [`write_outer`] writes.

use super::checksum::{self, Sum};
use super::packet::proto;
use super::parse::Layout;
use super::{Af, Family, FlowKey, HashKey, Ip, V4, V6};

/// What stands between the outer IP header and the inner packet. The numbers are IPVS's (specification §8.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TunnelKind {
    /// Nothing (RFC 2003, RFC 2473).
    #[default]
    Ipip = 0,
    /// UDP and a header of four bytes (Generic UDP Encapsulation, version 0).
    Gue = 1,
    /// A header of four or eight bytes (RFC 2784).
    Gre = 2,
}

/// What a tunnel says of the inner packet's integrity. The numbers are IPVS's (specification §8.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TunnelChecksum {
    /// Nothing.
    #[default]
    None = 0,
    /// A checksum over the tunnel's header and the inner packet.
    Full = 1,
    /// As `Full`, and the inner transport checksum may be left for the receiver to fill in. Only a packet that has none
    /// yet would be sent so, and no packet that was received is one: what leaves is what leaves with `Full`.
    Remote = 2,
}

/// How packets for a real server are wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// Kind of encapsulation.
    pub kind: TunnelKind,
    /// UDP port of the server's GUE end; 0 for the other kinds.
    pub port: u16,
    /// Checksum of the encapsulation; `None` with IPIP, never `Remote` with GRE.
    pub checksum: TunnelChecksum,
}

const UDP_LEN: usize = 8;
const GUE_LEN: usize = 4;
const GRE_LEN: usize = 4;
/// The GRE header's flag for a checksum (RFC 2784 §2.1).
const GRE_CHECKSUM: u16 = 0x8000;
/// Bytes that all encapsulations have at most, outer IP header included.
pub const HEADER_LEN_MAX: usize = 40 + UDP_LEN + GUE_LEN;

/// First and last port that GUE packets come from: Linux's default for local ports.
const SOURCE_PORTS: (u16, u16) = (32_768, 60_999);

impl Tunnel {
    /// Bytes in front of the inner packet: the outer IP header of family `outer` and what follows it.
    #[inline]
    #[must_use]
    pub const fn header_len(self, outer: Af) -> u16 {
        let ip = match outer {
            Af::V4 => 20,
            Af::V6 => 40,
        };
        let between = match (self.kind, self.checksum) {
            (TunnelKind::Ipip, _) => 0,
            (TunnelKind::Gue, _) => UDP_LEN + GUE_LEN,
            (TunnelKind::Gre, TunnelChecksum::None) => GRE_LEN,
            (TunnelKind::Gre, _) => GRE_LEN + 4,
        };
        ip + between as u16
    }
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
    /// Kind of the tunnel.
    pub tunnel: Tunnel,
    /// UDP source port of GUE; see [`source_port`].
    pub src_port: u16,
}

/// The UDP source port of a flow's GUE packets: the same for all of a flow, so that they keep their order, and spread
/// over flows, so that the network can share its load (specification §8.4). Fragments count as flows by their addresses,
/// since only the first of a datagram has ports.
#[must_use]
#[allow(clippy::cast_possible_truncation)] // The low half of the hash, and a number below the size of the range.
pub fn source_port<I: Family>(inner: &Ip<I>, key: &HashKey) -> u16 {
    let mut flow: FlowKey<I> = inner.flow;
    if inner.fragment.is_some() {
        (flow.src_port, flow.dst_port) = (0, 0);
    }
    let mut hash = I::hash(&flow, key) as u32;
    hash ^= hash << 16;
    let (first, last) = SOURCE_PORTS;
    let ports = u64::from(last - first) + 1;
    first + ((u64::from(hash) * ports) >> 32) as u16
}

/// Writes the outer header and all that belongs between it and the inner packet into the first
/// [`Tunnel::header_len`] bytes of `packet`, of which the rest is the inner packet. `inner` describes that packet, whose
/// TTL was already decremented; its offsets are not used. `false`, with nothing written, when the packet would be longer
/// than 65,535 bytes.
///
/// # Panics
/// When `packet` is shorter than the headers.
#[must_use]
pub fn write_outer<I: Family, O: Family>(
    packet: &mut [u8],
    outer: &Outer<O>,
    inner: &Ip<I>,
) -> bool {
    let layout = Layout::of::<O>();
    let total = usize::from(outer.tunnel.header_len(O::AF)) + usize::from(inner.len());
    let Ok(total_len) = u16::try_from(total) else {
        return false;
    };
    let (header, rest) = packet.split_at_mut(layout.header_len);
    write_ip(header, outer, inner, total_len);
    match outer.tunnel.kind {
        TunnelKind::Ipip => {}
        TunnelKind::Gue => write_gue::<I, O>(rest, outer),
        TunnelKind::Gre => write_gre::<I>(rest, outer.tunnel.checksum),
    }
    true
}

fn write_ip<I: Family, O: Family>(
    header: &mut [u8],
    outer: &Outer<O>,
    inner: &Ip<I>,
    total_len: u16,
) {
    let layout = Layout::of::<O>();
    let tos = outer_tos(inner.tos);
    let next = match outer.tunnel.kind {
        TunnelKind::Ipip => ip_proto::<I>(),
        TunnelKind::Gue => proto::UDP,
        TunnelKind::Gre => proto::GRE,
    };
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
            header[9] = next;
        }
        Af::V6 => {
            header[0] = 0x60 | tos >> 4;
            header[1] = tos << 4;
            let payload_len = total_len - 40;
            header[4..6].copy_from_slice(&payload_len.to_be_bytes());
            header[6] = next;
        }
    }
    header[layout.ttl] = inner.ttl;
    O::write(outer.src, &mut header[layout.src..]);
    O::write(outer.dst, &mut header[layout.dst..]);
    if O::AF == Af::V4 {
        let sum = checksum::ipv4_header(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// UDP and GUE headers in front of the inner packet.
fn write_gue<I: Family, O: Family>(datagram: &mut [u8], outer: &Outer<O>) {
    let len = u16::try_from(datagram.len()).expect("the whole packet was found to be short enough");
    datagram[..2].copy_from_slice(&outer.src_port.to_be_bytes());
    datagram[2..4].copy_from_slice(&outer.tunnel.port.to_be_bytes());
    datagram[4..6].copy_from_slice(&len.to_be_bytes());
    datagram[6..8].fill(0);
    // Version, control bit and length of options are all 0, and so are the flags.
    datagram[8..12].copy_from_slice(&[0, ip_proto::<I>(), 0, 0]);
    if outer.tunnel.checksum != TunnelChecksum::None {
        let sum = checksum::transport::<O>(outer.src, outer.dst, proto::UDP, datagram);
        datagram[6..8].copy_from_slice(&checksum::udp_on_wire(sum).to_be_bytes());
    }
}

/// The GRE header in front of the inner packet.
fn write_gre<I: Family>(packet: &mut [u8], checksum: TunnelChecksum) {
    packet[2..4].copy_from_slice(&I::ETHER_TYPE.to_be_bytes());
    if checksum == TunnelChecksum::None {
        packet[..2].fill(0);
        return;
    }
    packet[..2].copy_from_slice(&GRE_CHECKSUM.to_be_bytes());
    packet[4..8].fill(0);
    let sum = Sum::of(packet).checksum();
    packet[4..6].copy_from_slice(&sum.to_be_bytes());
}

fn ip_proto<I: Family>() -> u8 {
    match I::AF {
        Af::V4 => proto::IPIP,
        Af::V6 => proto::IPV6,
    }
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

/// A packet within another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within {
    /// How it is wrapped.
    pub kind: TunnelKind,
    /// UDP port that it goes to; 0 unless it is GUE.
    pub port: u16,
    /// Its family.
    pub af: Af,
    /// Where it starts, from the first byte of the frame.
    pub l3: u16,
}

/// What the packet `outer` carries, if it may be a tunnel's: IPIP, GRE of version 0 with at most a checksum, or a UDP
/// datagram that reads as GUE of version 0. Whether its destination is a tunnel's end is for the caller to say. `None`
/// for other packets, later fragments, and those that are cut before the inner packet.
#[must_use]
pub fn within<O: Family>(frame: &[u8], outer: &Ip<O>) -> Option<Within> {
    if outer.is_later_fragment() {
        return None;
    }
    let behind = &frame[usize::from(outer.l4)..usize::from(outer.end)];
    let (kind, port, af, len) = match outer.flow.proto {
        proto::IPIP | proto::IPV6 => (TunnelKind::Ipip, 0, family_of(outer.flow.proto)?, 0),
        proto::UDP => {
            let (udp, gue) = behind.split_at_checked(UDP_LEN)?;
            let [first, next, _, _, ..] = *gue else {
                return None;
            };
            let (version_and_control, options) = (first >> 5, usize::from(first & 0x1f) * 4);
            let port = u16::from_be_bytes([udp[2], udp[3]]);
            let af = family_of(next).filter(|_| version_and_control == 0)?;
            (TunnelKind::Gue, port, af, UDP_LEN + GUE_LEN + options)
        }
        proto::GRE => {
            let [a, b, c, d, ..] = *behind else {
                return None;
            };
            let len = match u16::from_be_bytes([a, b]) {
                0 => GRE_LEN,
                GRE_CHECKSUM => GRE_LEN + 4,
                _ => return None,
            };
            let af = match u16::from_be_bytes([c, d]) {
                V4::ETHER_TYPE => Af::V4,
                V6::ETHER_TYPE => Af::V6,
                _ => return None,
            };
            (TunnelKind::Gre, 0, af, len)
        }
        _ => return None,
    };
    let l3 = outer.l4 + u16::try_from(len).ok()?;
    (l3 < outer.end).then_some(Within { kind, port, af, l3 })
}

/// The family of the packet that an IP protocol number announces.
fn family_of(next: u8) -> Option<Af> {
    match next {
        proto::IPIP => Some(Af::V4),
        proto::IPV6 => Some(Af::V6),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
