//! Splitting a packet that is larger than the MTU of its way out: an IPv4 packet that allows it (RFC 791 §3.2), and an
//! IPv6 packet of a tunnel's around an IPv4 packet that allows it, which is of the director's own making and so may be
//! split by it (RFC 8200 §4.5, RFC 2473 §7.2).
//!
//! A plan says which bytes go into which piece; writing a piece copies them. Nothing is allocated here.

use super::packet::proto;
use super::{Family, PacketBuf, V4, checksum};

/// Pieces of one packet at most: 65,535 bytes at an MTU of 1,280 and more.
pub const PIECES_MAX: usize = 64;

const ETHERNET: usize = 14;
const V6_HEADER: usize = 40;
const FRAGMENT_HEADER: usize = 8;
/// Next header value of the IPv6 fragment header.
const FRAGMENT: u8 = 44;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// How a packet is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    header_len: usize,
    payload_len: usize,
    chunk: usize,
    /// Whether the pieces get an IPv6 fragment header.
    v6: bool,
}

/// One piece of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    header_len: usize,
    /// Offset in the packet's payload, in bytes; a multiple of 8.
    offset: usize,
    len: usize,
    last: bool,
    /// Identification of the IPv6 fragment header that it gets.
    id: Option<u32>,
}

/// A plan for the IP packet in `frame`, untagged Ethernet; `None` when it is no such packet, must not be split, or
/// would make more than [`PIECES_MAX`] pieces.
#[must_use]
pub fn plan(frame: &[u8], mtu: u16) -> Option<Plan> {
    let ip = frame.get(ETHERNET..)?;
    let first = *ip.first()?;
    if first >> 4 == 6 {
        return plan_v6(ip, mtu);
    }
    let header_len = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || header_len < 20 || ip.len() < header_len || ip[6] & 0x40 != 0 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    if total < header_len || total > ip.len() {
        return None;
    }
    let chunk = usize::from(mtu).checked_sub(header_len)? & !7;
    let payload_len = total - header_len;
    (chunk > 0 && payload_len.div_ceil(chunk) <= PIECES_MAX).then_some(Plan {
        header_len,
        payload_len,
        chunk,
        v6: false,
    })
}

fn plan_v6(ip: &[u8], mtu: u16) -> Option<Plan> {
    let header = ip.get(..V6_HEADER)?;
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let payload = ip.get(V6_HEADER..V6_HEADER + payload_len)?;
    let chunk = usize::from(mtu).checked_sub(V6_HEADER + FRAGMENT_HEADER)? & !7;
    let splits =
        carries_ipv4(header[6], payload) && chunk > 0 && payload_len.div_ceil(chunk) <= PIECES_MAX;
    splits.then_some(Plan {
        header_len: V6_HEADER,
        payload_len,
        chunk,
        v6: true,
    })
}

/// Whether the payload of an IPv6 packet is what a tunnel of the director's makes of an IPv4 packet. Those of IPv6
/// packets are never too large when they get here, and neither is anything else that is the director's own.
fn carries_ipv4(next: u8, payload: &[u8]) -> bool {
    match next {
        proto::IPIP => true,
        proto::GRE => payload.get(2..4) == Some(&V4::ETHER_TYPE.to_be_bytes()),
        proto::UDP => payload.get(8..12) == Some(&[0, proto::IPIP, 0, 0]),
        _ => false,
    }
}

impl Plan {
    /// The pieces, in order. `id` is the identification of IPv6 pieces, which no other packet of late may have had; those
    /// of IPv4 keep their packet's.
    pub fn pieces(self, id: u32) -> impl Iterator<Item = Piece> {
        let n = self.payload_len.div_ceil(self.chunk).max(1);
        (0..n).map(move |i| {
            let offset = i * self.chunk;
            Piece {
                header_len: self.header_len,
                offset,
                len: self.chunk.min(self.payload_len - offset),
                last: i + 1 == n,
                id: self.v6.then_some(id),
            }
        })
    }
}

/// Writes a piece of `frame` into `out`. `false` when it has no room.
///
/// # Panics
/// When `frame` is not the frame that was planned for.
pub fn write<B: PacketBuf>(piece: &Piece, frame: &[u8], out: &mut B) -> bool {
    if let Some(id) = piece.id {
        return write_v6(piece, id, frame, out);
    }
    let head = ETHERNET + piece.header_len;
    out.truncate(0);
    let Some(room) = out.append(head + piece.len) else {
        return false;
    };
    room[..head].copy_from_slice(&frame[..head]);
    room[head..].copy_from_slice(&frame[head + piece.offset..][..piece.len]);
    let ip = &mut room[ETHERNET..head];
    if piece.offset > 0 {
        blank_uncopied_options(&mut ip[20..]);
    }
    let total =
        u16::try_from(piece.header_len + piece.len).expect("a piece is no larger than its packet");
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    let old = u16::from_be_bytes([ip[6], ip[7]]);
    // The packet may be a fragment itself: its pieces go on from its offset, and only its end can be the end.
    let offset = (old & OFFSET_MASK) + u16::try_from(piece.offset / 8).expect("below 8192");
    let more = if piece.last {
        old & MORE_FRAGMENTS
    } else {
        MORE_FRAGMENTS
    };
    ip[6..8].copy_from_slice(&(offset & OFFSET_MASK | more).to_be_bytes());
    ip[10..12].fill(0);
    let sum = checksum::ipv4_header(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    true
}

fn write_v6<B: PacketBuf>(piece: &Piece, id: u32, frame: &[u8], out: &mut B) -> bool {
    let head = ETHERNET + V6_HEADER;
    out.truncate(0);
    let Some(room) = out.append(head + FRAGMENT_HEADER + piece.len) else {
        return false;
    };
    room[..head].copy_from_slice(&frame[..head]);
    let payload_len = u16::try_from(FRAGMENT_HEADER + piece.len)
        .expect("a piece is no larger than the MTU of its way out");
    room[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&payload_len.to_be_bytes());
    let next = std::mem::replace(&mut room[ETHERNET + 6], FRAGMENT);
    // The offset counts eights of bytes in the high 13 bits, which is the offset in bytes, a multiple of 8.
    let offset = u16::try_from(piece.offset).expect("below 65,536");
    let place = offset | u16::from(!piece.last);
    let (header, rest) = room[head..].split_at_mut(FRAGMENT_HEADER);
    header[..2].copy_from_slice(&[next, 0]);
    header[2..4].copy_from_slice(&place.to_be_bytes());
    header[4..].copy_from_slice(&id.to_be_bytes());
    rest.copy_from_slice(&frame[head + piece.offset..][..piece.len]);
    true
}

/// Turns options that belong to the first fragment only into no-operations (RFC 791 §3.1: the copied flag).
fn blank_uncopied_options(options: &mut [u8]) {
    const NO_OPERATION: u8 = 1;
    let mut i = 0;
    while i < options.len() && options[i] != 0 {
        let len = match options[i] {
            NO_OPERATION => 1,
            _ => usize::from(options.get(i + 1).copied().unwrap_or(0)).max(2),
        };
        let end = (i + len).min(options.len());
        if options[i] & 0x80 == 0 {
            options[i..end].fill(NO_OPERATION);
        }
        i = end;
    }
}
