//! Changes to headers in place: time to live, addresses and ports, MAC addresses.
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
/// made. SCTP's CRC is brought up to date when the port changes, so that a wrong one stays wrong; one of 0, which may
/// stand for none (RFC 9653), is computed. In a fragment it is left: see [`sctp_fragment_crc`]. Later fragments get the
/// address only, as do protocols without ports.
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
            if ip.fragment.is_none_or(|f| !f.more) {
                sctp_crc(packet, ip, side, port, packet.len() - l4);
            }
            side.set_port(packet, ip, port);
        }
        proto::ICMPV6 if F::AF == Af::V6 => patch(packet, l4 + 2, delta),
        _ => {}
    }
}

/// Brings the CRC in the first fragment of an SCTP packet of `len` bytes up to date with the port that [`nat`] will
/// write next. Does nothing to other protocols.
#[inline(never)]
pub fn sctp_fragment_crc<F: Family>(
    frame: &mut [u8],
    ip: &Ip<F>,
    side: Side,
    port: u16,
    len: usize,
) {
    if ip.flow.proto == proto::SCTP && ip.fragment.is_some_and(|f| f.more) {
        sctp_crc(&mut frame[..usize::from(ip.end)], ip, side, port, len);
    }
}

/// Makes the CRC of an SCTP packet of `len` bytes that of the same packet with another port, if its header is here.
#[inline(never)]
fn sctp_crc<F: Family>(packet: &mut [u8], ip: &Ip<F>, side: Side, port: u16, len: usize) {
    let l4 = &mut packet[usize::from(ip.l4)..];
    let Some(header) = l4.first_chunk_mut::<12>() else {
        return;
    };
    let [a, b, c, d, _, _, _, _, crc @ ..] = *header;
    let (old, mut new) = ([a, b, c, d], [a, b, c, d]);
    match side {
        Side::Src => new[..2].copy_from_slice(&port.to_be_bytes()),
        Side::Dst => new[2..].copy_from_slice(&port.to_be_bytes()),
    }
    if old == new {
        return;
    }
    let crc = if crc != [0; 4] {
        checksum::sctp_ports_changed(crc, len, old, new)
    } else if l4.len() == len {
        l4[..4].copy_from_slice(&new);
        checksum::sctp(l4)
    } else {
        return;
    };
    l4[8..12].copy_from_slice(&crc);
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use proptest::prelude::*;

    use super::*;
    use crate::net::build::{self, Frame, verify};
    use crate::net::packet::tcp_flags;
    use crate::net::{DropReason, L3, parse};

    const CLIENT: (&str, &str) = ("198.51.100.7:40000", "[2001:db8::7]:40000");
    const VIP: (&str, &str) = ("192.0.2.10:5060", "[2001:db8:1::10]:5060");
    const DEST: (&str, &str) = ("10.0.0.21:5062", "[2001:db8:2::21]:5062");

    fn at(pair: (&str, &str), v6: bool) -> SocketAddr {
        if v6 { pair.1 } else { pair.0 }
            .parse()
            .expect("a socket address in a test")
    }

    fn nat_any(frame: &mut [u8], side: Side, to: SocketAddr) -> Result<L3, DropReason> {
        let mut l3 = parse(frame)?.l3;
        match (&mut l3, to.ip()) {
            (L3::V4(ip), IpAddr::V4(a)) => nat(frame, ip, side, a.into(), to.port()),
            (L3::V6(ip), IpAddr::V6(a)) => nat(frame, ip, side, a.into(), to.port()),
            _ => {}
        }
        Ok(l3)
    }

    fn transports(v6: bool, frame: &Frame, payload: &[u8]) -> Vec<Vec<u8>> {
        let (src, dst) = (at(CLIENT, v6), at(VIP, v6));
        vec![
            frame.udp(src, dst, payload),
            frame.tcp(src, dst, tcp_flags::ACK, 99, payload),
            frame.sctp(src, dst, payload),
            frame.icmp_echo(src.ip(), dst.ip(), 1, 2, payload),
        ]
    }

    #[test]
    fn nat_gives_the_packet_that_the_sender_would_have_made() {
        for v6 in [false, true] {
            let (client, vip, dest) = (at(CLIENT, v6), at(VIP, v6), at(DEST, v6));
            for payload in [&b"odd"[..], b"even", b""] {
                let mut udp = Frame::new().udp(client, vip, payload);
                nat_any(&mut udp, Side::Dst, dest).expect("a good frame");
                assert_eq!(udp, Frame::new().udp(client, dest, payload));
                nat_any(&mut udp, Side::Src, vip).expect("a good frame");
                assert_eq!(udp, Frame::new().udp(vip, dest, payload));

                let mut sctp = Frame::new().sctp(client, vip, payload);
                nat_any(&mut sctp, Side::Dst, dest).expect("a good frame");
                assert_eq!(sctp, Frame::new().sctp(client, dest, payload));
            }
        }
    }

    #[test]
    fn an_sctp_packet_that_was_damaged_is_still_recognised_as_damaged() {
        let (client, vip, dest) = (at(CLIENT, false), at(VIP, false), at(DEST, false));
        let mut damaged = Frame::new().sctp(client, vip, b"payload.");
        *damaged.last_mut().expect("bytes") ^= 1;
        nat_any(&mut damaged, Side::Dst, dest).expect("a good frame");
        assert!(build::verify(&damaged).is_err());
        *damaged.last_mut().expect("bytes") ^= 1;
        assert_eq!(build::verify(&damaged), Ok(()));
    }

    #[test]
    fn an_sctp_packet_without_a_crc_gets_one() {
        let (client, vip, dest) = (at(CLIENT, false), at(VIP, false), at(DEST, false));
        let mut bare = Frame::new().sctp(client, vip, b"payload.");
        bare[14 + 20 + 8..][..4].fill(0);
        nat_any(&mut bare, Side::Dst, dest).expect("a good frame");
        assert_eq!(bare, Frame::new().sctp(client, dest, b"payload."));
    }

    #[test]
    fn an_sctp_packet_in_fragments_has_its_crc_brought_up_to_date_in_the_first() {
        let (client, vip, dest) = (at(CLIENT, false), at(VIP, false), at(DEST, false));
        let payload = [7; 900];
        let whole = Frame::new().sctp(client, vip, &payload);
        let fragments = build::fragment(&whole, 576);
        let changed = build::fragment(&Frame::new().sctp(client, dest, &payload), 576);
        let mut first = fragments[0].clone();
        let Ok(mut l3) = parse(&first).map(|p| p.l3) else {
            panic!("a good frame")
        };
        let (L3::V4(ip), IpAddr::V4(addr)) = (&mut l3, dest.ip()) else {
            panic!("IPv4")
        };
        sctp_fragment_crc(&mut first, ip, Side::Dst, dest.port(), 12 + payload.len());
        nat(&mut first, ip, Side::Dst, addr.into(), dest.port());
        assert_eq!(first[34..], changed[0][34..]);
    }

    #[test]
    fn the_parsed_view_stays_true() {
        for v6 in [false, true] {
            for mut frame in transports(v6, &Frame::new().vlan(3), b"abc") {
                let view = nat_any(&mut frame, Side::Dst, at(DEST, v6)).expect("a good frame");
                assert_eq!(parse(&frame).expect("still a good frame").l3, view);
            }
        }
    }

    #[test]
    fn a_missing_udp_checksum_is_computed() {
        for v6 in [false, true] {
            let mut frame = Frame::new().no_udp_checksum().padding(5).udp(
                at(CLIENT, v6),
                at(VIP, v6),
                b"seven b",
            );
            nat_any(&mut frame, Side::Dst, at(DEST, v6)).expect("a good frame");
            let expected = Frame::new()
                .padding(5)
                .udp(at(CLIENT, v6), at(DEST, v6), b"seven b");
            assert_eq!(frame, expected);
        }
    }

    #[test]
    fn a_missing_udp_checksum_of_a_fragment_stays_missing() {
        let whole = Frame::new()
            .no_udp_checksum()
            .udp(at(CLIENT, false), at(VIP, false), &[7; 99]);
        for mut piece in build::fragment(&whole, 60) {
            let l4 = piece[34 + 6..34 + 8].to_vec();
            nat_any(&mut piece, Side::Dst, at(DEST, false)).expect("a good frame");
            assert_eq!(piece[34 + 6..34 + 8], l4);
            assert_eq!(verify(&piece), Ok(()));
        }
    }

    #[test]
    fn a_udp_length_that_cannot_be_is_left_alone() {
        for len in [0u8, 7, 200] {
            let mut frame =
                Frame::new()
                    .no_udp_checksum()
                    .udp(at(CLIENT, false), at(VIP, false), b"payload");
            frame[34 + 5] = len;
            nat_any(&mut frame, Side::Dst, at(DEST, false)).expect("a good frame");
            assert_eq!(frame[34 + 4..34 + 8], [0, len, 0, 0]);
        }
    }

    #[test]
    fn the_checksum_that_becomes_zero_travels_as_all_ones() {
        let (client, vip) = (at(CLIENT, false), at(VIP, false));
        // The payload word that makes the checksum towards the server come out as zero.
        let base = Frame::new().udp(client, at(DEST, false), &[0, 0]);
        let payload = [base[40], base[41]];
        let mut frame = Frame::new().udp(client, vip, &payload);
        nat_any(&mut frame, Side::Dst, at(DEST, false)).expect("a good frame");
        assert_eq!(frame[40..42], [0xff, 0xff]);
        assert_eq!(verify(&frame), Ok(()));
    }

    #[test]
    fn fragments_put_together_after_nat_are_the_translated_datagram() {
        for v6 in [false, true] {
            let (client, vip, dest) = (at(CLIENT, v6), at(VIP, v6), at(DEST, v6));
            let original = Frame::new().udp(client, vip, &[0x5a; 301]);
            let translated = Frame::new().udp(client, dest, &[0x5a; 301]);
            // The IPv6 identification is made from the bytes, so compare what lies behind the fragment header.
            let l4 = |f: &Vec<u8>| f[if v6 { 62 } else { 34 }..].to_vec();
            let expected: Vec<_> = build::fragment(&translated, 120).iter().map(l4).collect();
            let got: Vec<_> = build::fragment(&original, 120)
                .into_iter()
                .map(|mut f| {
                    nat_any(&mut f, Side::Dst, dest).expect("a good fragment");
                    l4(&f)
                })
                .collect();
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn protocols_without_ports_get_the_address_only() {
        let (client, vip) = (at(CLIENT, false), at(VIP, false));
        let esp = [0xee; 40];
        let mut frame = Frame::new().ip(client.ip(), vip.ip(), proto::ESP, &esp);
        nat_any(&mut frame, Side::Dst, at(DEST, false)).expect("a good frame");
        assert_eq!(
            frame,
            Frame::new().ip(client.ip(), at(DEST, false).ip(), proto::ESP, &esp)
        );
    }

    #[test]
    fn nothing_behind_the_end_is_touched() {
        for v6 in [false, true] {
            for proto in [proto::TCP, proto::UDP, proto::SCTP, proto::ICMPV6] {
                for len in usize::from(v6)..20 {
                    let l4 = [0x11; 20];
                    let mut frame = Frame::new().padding(64).ip(
                        at(CLIENT, v6).ip(),
                        at(VIP, v6).ip(),
                        proto,
                        &l4[..len],
                    );
                    let end = frame.len() - 64;
                    nat_any(&mut frame, Side::Dst, at(DEST, v6)).expect("a good frame");
                    assert!(
                        frame[end..].iter().all(|b| *b == 0),
                        "protocol {proto}, {len} bytes"
                    );
                }
            }
        }
    }

    #[test]
    fn ttl_is_set_with_its_checksum() {
        let (client, vip) = (at(CLIENT, false), at(VIP, false));
        for (from, to) in [(64, 63), (1, 0), (255, 254), (0, 255)] {
            let mut frame = Frame::new().ttl(from).udp(client, vip, b"x");
            let Ok(L3::V4(mut ip)) = parse(&frame).map(|p| p.l3) else {
                panic!("IPv4")
            };
            set_ttl(&mut frame, &mut ip, to);
            assert_eq!(frame, Frame::new().ttl(to).udp(client, vip, b"x"));
            assert_eq!(ip.ttl, to);
        }
        let mut frame = Frame::new().udp(at(CLIENT, true), at(VIP, true), b"x");
        let Ok(L3::V6(mut ip)) = parse(&frame).map(|p| p.l3) else {
            panic!("IPv6")
        };
        set_ttl(&mut frame, &mut ip, 7);
        assert_eq!(
            frame,
            Frame::new()
                .ttl(7)
                .udp(at(CLIENT, true), at(VIP, true), b"x")
        );
    }

    #[test]
    fn mac_addresses_are_set() {
        let macs = Macs {
            dst: Mac([1; 6]),
            src: Mac([2; 6]),
        };
        let mut frame = Frame::new().udp(at(CLIENT, false), at(VIP, false), b"x");
        set_macs(&mut frame, macs);
        let expected = Frame::new().macs(macs.dst, macs.src);
        assert_eq!(frame, expected.udp(at(CLIENT, false), at(VIP, false), b"x"));
    }

    proptest! {
        #[test]
        fn nat_keeps_right_checksums_right(
            v6: bool, src_side: bool, payload in prop::collection::vec(any::<u8>(), 0..99),
            options in prop::collection::vec(any::<u8>(), 0..40), no_checksum: bool,
            to4: [u8; 4], to6: [u8; 16], port: u16,
        ) {
            let mut outer = Frame::new().vlan(9).ip_options(&options).extension(60, &options);
            if no_checksum {
                outer = outer.no_udp_checksum();
            }
            let to = if v6 { SocketAddr::from((to6, port)) } else { SocketAddr::from((to4, port)) };
            for mut frame in transports(v6, &outer, &payload) {
                // ICMP over IPv4 has no pseudo-header; the others must follow the address.
                let side = if src_side { Side::Src } else { Side::Dst };
                nat_any(&mut frame, side, to).expect("a good frame");
                prop_assert_eq!(verify(&frame), Ok(()));
            }
        }

        #[test]
        fn nat_leaves_wrong_checksums_wrong(
            v6: bool, payload in prop::collection::vec(any::<u8>(), 1..99), flip in 1u8..=255,
        ) {
            for mut frame in transports(v6, &Frame::new(), &payload).drain(..2) {
                let last = frame.len() - 1;
                frame[last] ^= flip;
                nat_any(&mut frame, Side::Dst, at(DEST, v6)).expect("a good frame");
                prop_assert!(verify(&frame).is_err());
            }
        }

        #[test]
        fn no_frame_makes_a_rewrite_panic(
            v6: bool, cut in 0usize..120, l4_len in 0u8..60, at_byte in 14usize..90, byte: u8,
        ) {
            for mut frame in transports(v6, &Frame::new(), &[1; 40]) {
                let end = frame.len();
                frame[at_byte.min(end - 1)] = byte;
                if !v6 {
                    frame[17] = 20 + l4_len.min(60);
                    let sum = checksum::ipv4_header(&frame[14..34]);
                    frame[24..26].copy_from_slice(&sum.to_be_bytes());
                } else {
                    frame[18..20].copy_from_slice(&[0, l4_len.max(1)]);
                }
                frame.truncate(cut.max(1));
                let _ = nat_any(&mut frame, Side::Dst, at(DEST, v6));
            }
        }
    }
}
