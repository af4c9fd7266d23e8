//! Builders of packets for tests, tools and benchmarks, and the check of everything that a checksum covers.
//!
//! Knows the wire format from the sender's side and computes every checksum in full, which makes it the oracle for
//! the incremental ones. Never used on the packet path: it allocates, and panics when asked for what can't be.
//!
//! ```
//! use polder::net::build::{Frame, verify};
//!
//! let client = "198.51.100.7:40000".parse().unwrap();
//! let vip = "192.0.2.10:5060".parse().unwrap();
//! let frame = Frame::new().vlan(5).ttl(3).udp(client, vip, b"OPTIONS");
//! assert_eq!(verify(&frame), Ok(()));
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::icmp::{self, IcmpError};
use super::packet::proto;
use super::parse::{ETHERNET_LEN, parse};
use super::rewrite::{Macs, write_ethernet};
use super::{Af, Family, Ip, L3, Mac, V4, V6, checksum};

/// What surrounds the transport layer of a packet to be built: set what matters, then say what is in it.
#[derive(Clone, Debug)]
pub struct Frame {
    macs: Macs,
    tags: Vec<(u16, u16)>,
    ttl: u8,
    tos: u8,
    dont_fragment: bool,
    id: u16,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    udp_checksum: bool,
    padding: usize,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            macs: Macs {
                dst: Mac([0x02, 0, 0, 0, 0, 0x10]),
                src: Mac([0x02, 0, 0, 0, 0, 0x01]),
            },
            tags: Vec::new(),
            ttl: 64,
            tos: 0,
            dont_fragment: false,
            id: 1,
            options: Vec::new(),
            extensions: Vec::new(),
            udp_checksum: true,
            padding: 0,
        }
    }
}

impl Frame {
    /// From 02:00:00:00:00:01 to 02:00:00:00:00:10, untagged, TTL 64, no options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With these MAC addresses.
    #[must_use]
    pub fn macs(mut self, dst: Mac, src: Mac) -> Self {
        self.macs = Macs { dst, src };
        self
    }

    /// Within an 802.1Q tag of VLAN `id`; called again, within both, the first being the outer one.
    #[must_use]
    pub fn vlan(self, id: u16) -> Self {
        self.tag(0x8100, id)
    }

    /// Within a tag of any type, such as 0x88a8, with any priority bits.
    #[must_use]
    pub fn tag(mut self, tpid: u16, tci: u16) -> Self {
        self.tags.push((tpid, tci));
        self
    }

    /// With this time to live or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// With this type of service or traffic class.
    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// With the don't-fragment bit (IPv4).
    #[must_use]
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// With this identification (IPv4).
    #[must_use]
    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    /// With IPv4 options, padded with "end of options" to a multiple of four.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        assert!(
            self.options.len() <= 40,
            "IPv4 has room for 40 bytes of options"
        );
        self
    }

    /// With one more IPv6 extension header of type `kind` (0 hop-by-hop, 43 routing, 60 destination options) whose
    /// bytes behind the length are `body`, padded with zeros to a multiple of eight.
    #[must_use]
    pub fn extension(mut self, kind: u8, body: &[u8]) -> Self {
        let mut body = body.to_vec();
        body.resize((body.len() + 2).next_multiple_of(8) - 2, 0);
        self.extensions.push((kind, body));
        self
    }

    /// With a UDP checksum of 0: none was computed.
    #[must_use]
    pub fn no_udp_checksum(mut self) -> Self {
        self.udp_checksum = false;
        self
    }

    /// With `n` bytes of Ethernet padding behind the packet.
    #[must_use]
    pub fn padding(mut self, n: usize) -> Self {
        self.padding = n;
        self
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(&self, src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(8 + payload.len()).expect("a datagram is at most 64 kB");
        let mut udp = ports(src, dst);
        udp.extend(len.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        if self.udp_checksum {
            let sum = checksum::udp_on_wire(l4_checksum(src.ip(), dst.ip(), proto::UDP, &udp));
            udp[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        self.ip(src.ip(), dst.ip(), proto::UDP, &udp)
    }

    /// A TCP segment with the flags of [`super::packet::tcp_flags`] and no options.
    #[must_use]
    pub fn tcp(
        &self,
        src: SocketAddr,
        dst: SocketAddr,
        flags: u8,
        seq: u32,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut tcp = ports(src, dst);
        tcp.extend(seq.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(payload);
        let sum = l4_checksum(src.ip(), dst.ip(), proto::TCP, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        self.ip(src.ip(), dst.ip(), proto::TCP, &tcp)
    }

    /// An SCTP packet with verification tag 1 around `chunks`.
    #[must_use]
    pub fn sctp(&self, src: SocketAddr, dst: SocketAddr, chunks: &[u8]) -> Vec<u8> {
        let mut sctp = ports(src, dst);
        sctp.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        sctp.extend(chunks);
        let crc = checksum::sctp(&sctp);
        sctp[8..12].copy_from_slice(&crc);
        self.ip(src.ip(), dst.ip(), proto::SCTP, &sctp)
    }

    /// An echo request.
    #[must_use]
    pub fn icmp_echo(
        &self,
        src: IpAddr,
        dst: IpAddr,
        ident: u16,
        seq: u16,
        data: &[u8],
    ) -> Vec<u8> {
        let kind = if src.is_ipv4() { 8 } else { 128 };
        let body = [&ident.to_be_bytes()[..], &seq.to_be_bytes(), data].concat();
        self.icmp(src, dst, kind, 0, &body)
    }

    /// An ICMP or ICMPv6 message; `body` is what follows the checksum.
    #[must_use]
    pub fn icmp(&self, src: IpAddr, dst: IpAddr, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
        let mut icmp = [&[kind, code, 0, 0][..], body].concat();
        let (proto, sum) = if src.is_ipv4() {
            (proto::ICMP, checksum::Sum::of(&icmp).checksum())
        } else {
            (proto::ICMPV6, l4_checksum(src, dst, proto::ICMPV6, &icmp))
        };
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        self.ip(src, dst, proto, &icmp)
    }

    /// The error `kind` about the packet in `frame`, from `src` to that packet's source, as a router makes it.
    #[must_use]
    pub fn icmp_error(&self, kind: IcmpError, src: IpAddr, frame: &[u8]) -> Vec<u8> {
        let mut out = vec![0; icmp::MAX_ERROR_LEN];
        let (ether_type, len) = match (src, parsed(frame)) {
            (IpAddr::V4(src), L3::V4(ip)) => (
                V4::ETHER_TYPE,
                icmp::build_error::<V4>(kind, src.into(), packet(frame, &ip), &mut out),
            ),
            (IpAddr::V6(src), L3::V6(ip)) => (
                V6::ETHER_TYPE,
                icmp::build_error::<V6>(kind, src.into(), packet(frame, &ip), &mut out),
            ),
            _ => panic!("{src} can't send an error about a packet of the other family"),
        };
        let len = len.expect("the packet was parsed and the buffer takes the largest error");
        self.ethernet(ether_type, &out[..len])
    }

    /// An IP packet of protocol `proto`; checksums within `payload` are the caller's.
    #[must_use]
    pub fn ip(&self, src: IpAddr, dst: IpAddr, proto: u8, payload: &[u8]) -> Vec<u8> {
        match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                let packet = self.ipv4(s.octets(), d.octets(), proto, payload);
                self.ethernet(V4::ETHER_TYPE, &packet)
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                let packet = self.ipv6(s.octets(), d.octets(), proto, payload);
                self.ethernet(V6::ETHER_TYPE, &packet)
            }
            _ => panic!("{src} and {dst} are of different families"),
        }
    }

    fn ipv4(&self, src: [u8; 4], dst: [u8; 4], proto: u8, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let version_ihl = 0x40 | u8::try_from(header_len / 4).expect("at most 40 bytes of options");
        let flags = if self.dont_fragment { 0x40 } else { 0 };
        let mut packet = vec![version_ihl, self.tos];
        packet.extend(len16(header_len + payload.len()));
        packet.extend(self.id.to_be_bytes());
        packet.extend([flags, 0, self.ttl, proto, 0, 0]);
        packet.extend(src);
        packet.extend(dst);
        packet.extend(&self.options);
        let sum = checksum::ipv4_header(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    fn ipv6(&self, src: [u8; 16], dst: [u8; 16], proto: u8, payload: &[u8]) -> Vec<u8> {
        let mut chain = Vec::new();
        for (i, (_, body)) in self.extensions.iter().enumerate() {
            let units = u8::try_from((body.len() + 2) / 8 - 1).expect("at most 2 kB of options");
            chain.extend([
                self.extensions.get(i + 1).map_or(proto, |next| next.0),
                units,
            ]);
            chain.extend(body);
        }
        let mut packet = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
        packet.extend(len16(chain.len() + payload.len()));
        packet.extend([
            self.extensions.first().map_or(proto, |first| first.0),
            self.ttl,
        ]);
        packet.extend(src);
        packet.extend(dst);
        packet.extend(chain);
        packet.extend(payload);
        packet
    }

    /// A broadcast ARP request of `sender` for `target`.
    #[must_use]
    pub fn arp_request(&self, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend(self.macs.src.0);
        arp.extend(sender.octets());
        arp.extend([0; 6]);
        arp.extend(target.octets());
        let broadcast = self.clone().macs(Mac([0xff; 6]), self.macs.src);
        broadcast.ethernet(0x0806, &arp)
    }

    /// A frame of Ethernet type `ether_type`, or of length `ether_type` when that is below 1536.
    #[must_use]
    pub fn ethernet(&self, ether_type: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET_LEN];
        let types: Vec<u16> = self
            .tags
            .iter()
            .map(|tag| tag.0)
            .chain(std::iter::once(ether_type))
            .collect();
        write_ethernet(&mut frame, self.macs, types[0]);
        for ((_, tci), next) in self.tags.iter().zip(&types[1..]) {
            frame.extend(tci.to_be_bytes());
            frame.extend(next.to_be_bytes());
        }
        frame.extend(payload);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }
}

/// The fragments of the packet in `frame` that pass a link of `mtu` bytes, in order; the frame itself when it does.
/// An IPv6 datagram gets an identification made from its bytes, and the fragment header comes first in its chain.
///
/// # Panics
/// When the frame is no IP packet, an IPv6 fragment, or has no room for 8 bytes of payload within `mtu`.
#[must_use]
pub fn fragment(frame: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    match parsed(frame) {
        L3::V4(ip) if usize::from(ip.len()) > mtu => fragment_v4(frame, &ip, mtu),
        L3::V6(ip) if usize::from(ip.len()) > mtu => fragment_v6(frame, &ip, mtu),
        L3::V4(_) | L3::V6(_) => vec![frame.to_vec()],
        L3::Other(kind) => panic!("Ethernet type {kind:#06x} has no fragments"),
    }
}

fn fragment_v4(frame: &[u8], ip: &Ip<V4>, mtu: usize) -> Vec<Vec<u8>> {
    let (l3, l4) = (usize::from(ip.l3), usize::from(ip.l4));
    let (base, more_follow) = ip
        .fragment
        .map_or((0, false), |f| (usize::from(f.offset), f.more));
    pieces(&frame[l4..usize::from(ip.end)], mtu - (l4 - l3))
        .map(|(offset, more, piece)| {
            let mut out = [&frame[..l4], piece].concat();
            let place = u16::try_from((base + offset) / 8).expect("a datagram is at most 64 kB");
            let more = if more || more_follow { 0x2000 } else { 0 };
            let header = &mut out[l3..l4];
            header[2..4].copy_from_slice(&len16(l4 - l3 + piece.len()));
            header[6..8].copy_from_slice(&(place | more).to_be_bytes());
            let sum = checksum::ipv4_header(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            out
        })
        .collect()
}

fn fragment_v6(frame: &[u8], ip: &Ip<V6>, mtu: usize) -> Vec<Vec<u8>> {
    assert!(
        ip.fragment.is_none(),
        "an IPv6 fragment is not fragmented again"
    );
    let l3 = usize::from(ip.l3);
    let (front, rest) = frame[..usize::from(ip.end)].split_at(l3 + 40);
    let id = checksum::sctp(rest);
    pieces(rest, mtu - 48)
        .map(|(offset, more, piece)| {
            let place = u16::try_from(offset).expect("a datagram is at most 64 kB");
            let mut out = front.to_vec();
            out.extend([front[l3 + 6], 0]);
            out.extend((place | u16::from(more)).to_be_bytes());
            out.extend(id);
            out.extend(piece);
            out[l3 + 4..l3 + 6].copy_from_slice(&len16(8 + piece.len()));
            out[l3 + 6] = 44;
            out
        })
        .collect()
}

/// Offset, whether more follow, and bytes of each piece of at most `room` bytes, all but the last multiples of 8.
fn pieces(payload: &[u8], room: usize) -> impl Iterator<Item = (usize, bool, &[u8])> {
    let step = room / 8 * 8;
    assert!(step > 0, "the MTU leaves no room for 8 bytes of payload");
    payload.chunks(step).enumerate().map(move |(i, piece)| {
        let offset = i * step;
        (offset, offset + piece.len() < payload.len(), piece)
    })
}

/// Recomputes every checksum of the frame in full: IPv4 header, TCP, UDP, ICMP, ICMPv6, SCTP, and those of a packet
/// within an IPIP packet. Fragments have only their IP header's.
///
/// # Errors
/// A sentence about the first thing that is wrong.
pub fn verify(frame: &[u8]) -> Result<(), String> {
    let packet = parse(frame).map_err(|reason| format!("malformed: {}", reason.help()))?;
    match packet.l3 {
        L3::V4(ip) => verify_transport(frame, &ip),
        L3::V6(ip) => verify_transport(frame, &ip),
        L3::Other(_) => Ok(()),
    }
}

fn verify_transport<F: Family>(frame: &[u8], ip: &Ip<F>) -> Result<(), String> {
    if ip.fragment.is_some_and(|f| f.offset != 0 || f.more) {
        return Ok(());
    }
    if !ip.l4_whole {
        return Err(format!("protocol {}: cut transport header", ip.flow.proto));
    }
    let l4 = &frame[usize::from(ip.l4)..usize::from(ip.end)];
    let proto = ip.flow.proto;
    let remainder = |l4: &[u8]| checksum::transport::<F>(ip.flow.src, ip.flow.dst, proto, l4);
    let wrong = |name: &str| Err(format!("wrong {name} checksum of {:?}", ip.flow));
    match (proto, F::AF) {
        (proto::UDP, af) => {
            let len = usize::from(u16::from_be_bytes([l4[4], l4[5]]));
            let datagram = l4.get(..len).filter(|d| d.len() >= 8);
            let datagram = datagram.ok_or_else(|| format!("impossible UDP length {len}"))?;
            match (u16::from_be_bytes([l4[6], l4[7]]), af) {
                (0, Af::V4) => Ok(()),
                (0, Af::V6) => Err("UDP over IPv6 without a checksum".to_owned()),
                _ if remainder(datagram) == 0 => Ok(()),
                _ => wrong("UDP"),
            }
        }
        (proto::TCP, _) if remainder(l4) != 0 => wrong("TCP"),
        (proto::ICMPV6, Af::V6) if remainder(l4) != 0 => wrong("ICMPv6"),
        (proto::ICMP, Af::V4) if !checksum::is_valid(l4) => wrong("ICMP"),
        (proto::SCTP, _) if checksum::sctp(l4) != l4[8..12] => wrong("SCTP"),
        (proto::IPIP, _) => verify(&Frame::new().ethernet(V4::ETHER_TYPE, l4)),
        (proto::IPV6, _) => verify(&Frame::new().ethernet(V6::ETHER_TYPE, l4)),
        _ => Ok(()),
    }
}

fn parsed(frame: &[u8]) -> L3 {
    match parse(frame) {
        Ok(packet) => packet.l3,
        Err(reason) => panic!("not a frame to work with: {}", reason.help()),
    }
}

fn packet<'a, F: Family>(frame: &'a [u8], ip: &Ip<F>) -> &'a [u8] {
    &frame[usize::from(ip.l3)..usize::from(ip.end)]
}

fn ports(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat()
}

fn len16(len: usize) -> [u8; 2] {
    u16::try_from(len)
        .expect("a packet is at most 64 kB")
        .to_be_bytes()
}

fn l4_checksum(src: IpAddr, dst: IpAddr, proto: u8, segment: &[u8]) -> u16 {
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            checksum::transport::<V4>(s.into(), d.into(), proto, segment)
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            checksum::transport::<V6>(s.into(), d.into(), proto, segment)
        }
        _ => panic!("{src} and {dst} are of different families"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::packet::tcp_flags;

    fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
        let (src, dst) = if v6 {
            ("[2001:db8::7]:40000", "[2001:db8:1::10]:5060")
        } else {
            ("198.51.100.7:40000", "192.0.2.10:5060")
        };
        let at = |s: &str| s.parse().expect("a socket address in a test");
        (at(src), at(dst))
    }

    fn every_kind(v6: bool) -> Vec<Vec<u8>> {
        let (src, dst) = ends(v6);
        let frame = Frame::new();
        let udp = frame.udp(src, dst, b"odd");
        vec![
            frame.tcp(src, dst, tcp_flags::SYN, 7, b"odd"),
            frame.sctp(src, dst, b"chunk..."),
            frame.icmp_echo(src.ip(), dst.ip(), 1, 2, b"ping!"),
            frame.icmp_error(IcmpError::PortUnreachable, dst.ip(), &udp),
            udp,
        ]
    }

    #[test]
    fn a_known_datagram_is_built_to_the_byte() {
        let at = |s: &str| s.parse().expect("a socket address in a test");
        let frame = Frame::new().id(0x1c46).dont_fragment().udp(
            at("192.168.0.1:1000"),
            at("192.168.0.2:2000"),
            b"hi",
        );
        let expected: [u8; 44] = [
            0x02, 0, 0, 0, 0, 0x10, 0x02, 0, 0, 0, 0, 0x01, 0x08, 0x00, 0x45, 0, 0, 30, 0x1c, 0x46,
            0x40, 0, 64, 17, 0x9d, 0x35, 192, 168, 0, 1, 192, 168, 0, 2, 0x03, 0xe8, 0x07, 0xd0, 0,
            10, 0x0a, 0x65, b'h', b'i',
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn everything_built_verifies() {
        for frame in every_kind(false).iter().chain(&every_kind(true)) {
            assert_eq!(verify(frame), Ok(()));
        }
    }

    #[test]
    fn any_byte_changed_behind_the_ethernet_header_is_noticed() {
        for (v6, frame) in [false, true]
            .into_iter()
            .flat_map(|v6| every_kind(v6).into_iter().map(move |frame| (v6, frame)))
        {
            // No checksum covers the IPv6 traffic class, flow label and hop limit, nor that of SCTP the addresses;
            // and a next header that nobody knows has no checksum to be wrong.
            let sctp = frame[20] == proto::SCTP;
            let free = |at: usize| v6 && (matches!(at, 14..=17 | 20..=21) || sctp && at < 54);
            for at in (14..frame.len()).filter(|at| !free(*at)) {
                let mut damaged = frame.clone();
                damaged[at] ^= 0x10;
                assert!(verify(&damaged).is_err(), "byte {at} of {frame:02x?}");
            }
        }
    }

    #[test]
    fn fragments_fit_and_hold_all_of_the_payload() {
        for v6 in [false, true] {
            let (src, dst) = ends(v6);
            let frame = Frame::new().vlan(4).udp(src, dst, &[7; 1000]);
            for mtu in [80, 576, 1007, 1027, 1028, 1048] {
                let pieces = fragment(&frame, mtu);
                assert!(
                    pieces
                        .iter()
                        .all(|p| p.len() - 18 <= mtu && verify(p) == Ok(()))
                );
                let payload: usize = pieces
                    .iter()
                    .map(|p| match parsed(p) {
                        L3::V4(ip) => ip.end - ip.l4,
                        L3::V6(ip) => ip.end - ip.l4,
                        L3::Other(_) => 0,
                    })
                    .map(usize::from)
                    .sum();
                assert_eq!(payload, 1008, "MTU {mtu}");
            }
        }
    }

    #[test]
    fn a_fragment_of_ipv4_can_be_fragmented_again() {
        let (src, dst) = ends(false);
        let frame = Frame::new().udp(src, dst, &[7; 1000]);
        let once = fragment(&frame, 220);
        let twice: Vec<_> = fragment(&frame, 620)
            .iter()
            .flat_map(|f| fragment(f, 220))
            .collect();
        assert_eq!(once, twice);
    }

    #[test]
    fn a_udp_checksum_may_be_missing_over_ipv4_only() {
        for v6 in [false, true] {
            let (src, dst) = ends(v6);
            let frame = Frame::new().no_udp_checksum().udp(src, dst, b"x");
            assert_eq!(verify(&frame).is_ok(), !v6);
        }
    }
}
