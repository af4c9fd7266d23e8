//! ICMP and ICMPv6 errors: making them, reading the packet that they quote, translating them for NAT.
//!
//! Knows the messages, not whose they are. Invariant: whatever is read of a quoted packet was checked against the
//! bytes received, and nothing of a message is changed before all of it was found good.

use super::checksum::Sum;
use super::packet::proto;
use super::parse::{self, Layout};
use super::rewrite::Side;
use super::tunnel::{self, Within};
use super::{Af, DropReason, Family, FlowKey, Ip, checksum, scope};

/// Largest ICMP error over IPv4 in bytes (RFC 1812 §4.3.2.3).
const MAX_LEN_V4: usize = 576;
/// Largest ICMPv6 error in bytes: the minimum MTU (RFC 4443 §2.4 c).
const MAX_LEN_V6: usize = 1280;
/// Bytes of an ICMP error in front of the packet that it quotes.
const HEADER_LEN: usize = 8;
/// Bytes of the largest error that [`build_error`] makes.
pub const MAX_ERROR_LEN: usize = MAX_LEN_V6;
/// Hop limit of the errors.
const TTL: u8 = 64;
/// Precedence "internetwork control" of the errors (RFC 1812 §4.3.2.5).
const TOS: u8 = 0xc0;

/// What went wrong with a packet, in the words of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// The time to live ran out on the way (11/0, ICMPv6 3/0).
    TimeExceeded,
    /// Nothing listens there (3/3, ICMPv6 1/4).
    PortUnreachable,
    /// The host can't be reached (3/1, ICMPv6 "address unreachable" 1/3).
    HostUnreachable,
    /// Fragmentation needed (3/4), packet too big (ICMPv6 2/0).
    TooBig {
        /// MTU of the next hop in bytes.
        mtu: u16,
    },
    /// What another ICMP error of the same family said, without a parameter.
    Same {
        /// Type.
        icmp_type: u8,
        /// Code.
        code: u8,
    },
}

impl IcmpError {
    /// Type, code and the second word of the header.
    fn header<F: Family>(self) -> (u8, u8, u32) {
        match (F::AF, self) {
            (_, Self::Same { icmp_type, code }) => (icmp_type, code, 0),
            (Af::V4, Self::TimeExceeded) => (11, 0, 0),
            (Af::V4, Self::PortUnreachable) => (3, 3, 0),
            (Af::V4, Self::HostUnreachable) => (3, 1, 0),
            (Af::V4, Self::TooBig { mtu }) => (3, 4, u32::from(mtu)),
            (Af::V6, Self::TimeExceeded) => (3, 0, 0),
            (Af::V6, Self::PortUnreachable) => (1, 4, 0),
            (Af::V6, Self::HostUnreachable) => (1, 3, 0),
            (Af::V6, Self::TooBig { mtu }) => (2, 0, u32::from(mtu)),
        }
    }
}

/// Whether an ICMP error may be sent in answer to this packet (RFC 1812 §4.3.2.7, RFC 4443 §2.4 e): not to ICMP
/// errors or redirects, later fragments, packets to a group or broadcast address of either layer (`group`: the
/// destination MAC address was one), nor to a source that is no host's.
#[must_use]
pub fn may_answer<F: Family>(frame: &[u8], ip: &Ip<F>, group: bool) -> bool {
    !group
        && !ip.is_later_fragment()
        && scope::is_unicast::<F>(ip.flow.dst)
        && scope::is_valid_source::<F>(ip.flow.src)
        && !is_error(frame, ip)
}

/// Whether the packet is an ICMP message that must not be answered with another. One of unknown type counts as
/// such, and so does one that ends before its type.
fn is_error<F: Family>(frame: &[u8], ip: &Ip<F>) -> bool {
    if ip.flow.proto != icmp_proto::<F>() {
        return false;
    }
    let icmp = &frame[usize::from(ip.l4)..usize::from(ip.end)];
    match (F::AF, icmp.first()) {
        (_, None) => true,
        // Echo, router discovery, timestamp, information, address mask: queries and their answers.
        (Af::V4, Some(kind)) => !matches!(kind, 0 | 8..=10 | 13..=18),
        (Af::V6, Some(kind)) => *kind < 128 || *kind == 137,
    }
}

/// Makes the error `kind` about the IP packet `original`, from `src` to the packet's source, in the first bytes of
/// `out`: a whole IP packet, checksums included. Returns its length, which is at most [`MAX_ERROR_LEN`].
///
/// `None` when `original` is shorter than an IP header, or `out` than the error. Ask [`may_answer`] before.
#[must_use]
pub fn build_error<F: Family>(
    kind: IcmpError,
    src: F::Addr,
    original: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let layout = Layout::of::<F>();
    let dst = F::read(original.get(..layout.header_len)?.get(layout.src..)?);
    let most = max_error_len::<F>();
    let quote = &original[..original.len().min(most - error_header_len::<F>())];
    let len = error_header_len::<F>() + quote.len();
    let out = out.get_mut(..len)?;
    out[error_header_len::<F>()..].copy_from_slice(quote);
    write_error::<F>(kind, (src, dst), out);
    Some(len)
}

/// Bytes that an ICMP error has in front of the packet that it quotes, IP header included.
#[must_use]
pub const fn error_header_len<F: Family>() -> usize {
    Layout::of::<F>().header_len + HEADER_LEN
}

/// Largest ICMP error of a family in bytes, IP header included.
#[must_use]
pub const fn max_error_len<F: Family>() -> usize {
    match F::AF {
        Af::V4 => MAX_LEN_V4,
        Af::V6 => MAX_LEN_V6,
    }
}

/// Writes the headers of the error `kind` between `ends`, source and destination, into the first
/// [`error_header_len`] bytes of `packet`, whose rest is the quote. Ask [`may_answer`] before.
///
/// # Panics
/// When `packet` is shorter than that, or longer than [`max_error_len`].
pub fn write_error<F: Family>(kind: IcmpError, ends: (F::Addr, F::Addr), packet: &mut [u8]) {
    let (src, dst) = ends;
    let (header, icmp) = packet.split_at_mut(Layout::of::<F>().header_len);
    let (icmp_type, code, word) = kind.header::<F>();
    icmp[..4].copy_from_slice(&[icmp_type, code, 0, 0]);
    icmp[4..8].copy_from_slice(&word.to_be_bytes());
    let sum = icmp_sum::<F>(src, dst, icmp).checksum();
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    write_ip::<F>(header, src, dst, icmp.len());
}

/// Writes the fixed header of an ICMP error. It never needs a fragment, so that its identification can be 0
/// (RFC 6864 §4.1).
fn write_ip<F: Family>(header: &mut [u8], src: F::Addr, dst: F::Addr, payload_len: usize) {
    let layout = Layout::of::<F>();
    let len16 = |len: usize| {
        u16::try_from(len)
            .expect("an error is at most 1280 bytes")
            .to_be_bytes()
    };
    header.fill(0);
    match F::AF {
        Af::V4 => {
            header[0] = 0x45;
            header[1] = TOS;
            header[2..4].copy_from_slice(&len16(layout.header_len + payload_len));
            header[6] = 0x40;
            header[9] = proto::ICMP;
        }
        Af::V6 => {
            header[0] = 0x60 | TOS >> 4;
            header[4..6].copy_from_slice(&len16(payload_len));
            header[6] = proto::ICMPV6;
        }
    }
    header[layout.ttl] = TTL;
    F::write(src, &mut header[layout.src..]);
    F::write(dst, &mut header[layout.dst..]);
    if F::AF == Af::V4 {
        let sum = checksum::ipv4_header(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded<F: Family> {
    /// The quoted packet; its offsets count from the first byte of the frame around it, and `end` is where the quote
    /// ends, which is usually before the packet did.
    pub ip: Ip<F>,
    /// ICMP type of the error.
    pub icmp_type: u8,
    /// ICMP code of the error.
    pub code: u8,
    /// The next hop's MTU in bytes that a "fragmentation needed" or "packet too big" reports; 0 where none is
    /// reported.
    pub mtu: u32,
}

impl<F: Family> Embedded<F> {
    /// The quoted packet's flow, as it travelled.
    #[must_use]
    pub fn flow(&self) -> &FlowKey<F> {
        &self.ip.flow
    }
}

/// The packet that the ICMP error in `ip` quotes. `None` when `ip` is no ICMP error of those that are translated
/// (specification §8.6: types 3, 4 and 11, and 12; ICMPv6 below 128), or the quoted packet is of an unknown protocol
/// or a later fragment, so that no connection can be found for it.
///
/// # Errors
/// [`DropReason::Fragment`] when the error is itself a fragment, which has to be put together before;
/// [`DropReason::IcmpUnmatched`] when the quoted packet is malformed or ends before its ports.
pub fn embedded<F: Family>(frame: &[u8], ip: &Ip<F>) -> Result<Option<Embedded<F>>, DropReason> {
    let Some(embedded) = quote(frame, ip)? else {
        return Ok(None);
    };
    let quoted = &embedded.ip;
    let ports = match quoted.flow.proto {
        proto::TCP | proto::UDP | proto::SCTP if quoted.is_later_fragment() => return Ok(None),
        proto::TCP | proto::UDP | proto::SCTP => 4,
        proto::AH | proto::ESP => 0,
        _ => return Ok(None),
    };
    if quoted.end - quoted.l4 < ports {
        return Err(DropReason::IcmpUnmatched);
    }
    Ok(Some(embedded))
}

/// An ICMP error about a packet that may be one of our own tunnels'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnelled<O: Family> {
    /// The quoted outer packet: its destination is the real server.
    pub outer: Embedded<O>,
    /// The packet within it, as far as it is quoted.
    pub within: Within,
}

/// The outer packet that the ICMP error in `ip` quotes, and the packet within that (specification §8.6). `None` when it
/// quotes something else, or too little for the inner packet to begin, or when it is an error that routers do not send
/// about a packet's way: only unreachable destinations, too large packets, exceeded times and source quenches count.
///
/// # Errors
/// As for [`embedded`].
pub fn tunnelled<O: Family>(frame: &[u8], ip: &Ip<O>) -> Result<Option<Tunnelled<O>>, DropReason> {
    let Some(outer) = quote(frame, ip)? else {
        return Ok(None);
    };
    let of_the_way = match O::AF {
        Af::V4 => matches!(outer.icmp_type, 3 | 4 | 11),
        Af::V6 => matches!(outer.icmp_type, 1..=3),
    };
    let within = tunnel::within(frame, &outer.ip).filter(|_| of_the_way);
    Ok(within.map(|within| Tunnelled { outer, within }))
}

/// The packet of any protocol that the ICMP error in `ip` quotes.
fn quote<F: Family>(frame: &[u8], ip: &Ip<F>) -> Result<Option<Embedded<F>>, DropReason> {
    if ip.flow.proto != icmp_proto::<F>() || !ip.l4_whole {
        return Ok(None);
    }
    // The quote must not reach into what lies behind the packet.
    let packet = &frame[..usize::from(ip.end)];
    let header = &packet[usize::from(ip.l4)..][..HEADER_LEN];
    let (icmp_type, code) = (header[0], header[1]);
    if !is_translated::<F>(icmp_type) {
        return Ok(None);
    }
    if ip.fragment.is_some_and(|f| f.more) {
        return Err(DropReason::Fragment);
    }
    let quoted = parse::quoted::<F>(packet, usize::from(ip.l4) + HEADER_LEN)
        .map_err(|_| DropReason::IcmpUnmatched)?;
    Ok(Some(Embedded {
        ip: quoted,
        icmp_type,
        code,
        mtu: reported_mtu::<F>(header),
    }))
}

/// Whether the checksum of the whole ICMP or ICMPv6 message in `ip` is right.
#[must_use]
pub fn is_intact<F: Family>(frame: &[u8], ip: &Ip<F>) -> bool {
    let icmp = &frame[usize::from(ip.l4)..usize::from(ip.end)];
    icmp_sum::<F>(ip.flow.src, ip.flow.dst, icmp).folded() == 0xffff
}

fn is_translated<F: Family>(icmp_type: u8) -> bool {
    match F::AF {
        Af::V4 => matches!(icmp_type, 3 | 4 | 11 | 12),
        Af::V6 => icmp_type < 128,
    }
}

fn reported_mtu<F: Family>(header: &[u8]) -> u32 {
    let word = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    match (F::AF, header[0], header[1]) {
        (Af::V4, 3, 4) => word & 0xffff,
        (Af::V6, 2, _) => word,
        _ => 0,
    }
}

/// Translates an ICMP error for NAT (specification §8.6): the outer packet's `side` becomes `addr`, and so does the
/// opposite side of the quoted packet, together with its port. All checksums that cover them are made anew, but not
/// that of the quoted transport header, which nobody can verify on a quote that is cut.
///
/// An error from a server towards a client has its outer source and quoted destination become the virtual address;
/// one from the client's side its outer destination and quoted source the real server's.
///
/// # Errors
/// [`DropReason::L4Checksum`], with nothing changed, when the error's own checksum is wrong.
pub fn translate<F: Family>(
    frame: &mut [u8],
    ip: &mut Ip<F>,
    embedded: &mut Embedded<F>,
    side: Side,
    addr: F::Addr,
    port: u16,
) -> Result<(), DropReason> {
    if !is_intact(frame, ip) {
        return Err(DropReason::L4Checksum);
    }
    let packet = &mut frame[..usize::from(ip.end)];
    let l4 = usize::from(ip.l4);
    set_addr(packet, ip, side, addr);
    let quoted = &mut embedded.ip;
    set_addr(packet, quoted, side.opposite(), addr);
    if matches!(quoted.flow.proto, proto::TCP | proto::UDP | proto::SCTP) {
        side.opposite().set_port(packet, quoted, port);
    }
    packet[l4 + 2..l4 + 4].fill(0);
    let sum = icmp_sum::<F>(ip.flow.src, ip.flow.dst, &packet[l4..]).checksum();
    packet[l4 + 2..l4 + 4].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// Sets an address and makes the IPv4 header checksum anew.
fn set_addr<F: Family>(packet: &mut [u8], ip: &mut Ip<F>, side: Side, addr: F::Addr) {
    side.set_addr(packet, ip, addr);
    if F::AF == Af::V4 {
        let header = &mut packet[usize::from(ip.l3)..usize::from(ip.l4)];
        let sum = checksum::ipv4_header(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn icmp_proto<F: Family>() -> u8 {
    match F::AF {
        Af::V4 => proto::ICMP,
        Af::V6 => proto::ICMPV6,
    }
}

/// The sum over an ICMP message; ICMPv6 has a pseudo-header in it (RFC 4443 §2.3).
fn icmp_sum<F: Family>(src: F::Addr, dst: F::Addr, icmp: &[u8]) -> Sum {
    let start = match F::AF {
        Af::V4 => Sum::default(),
        Af::V6 => Sum::pseudo::<F>(src, dst, proto::ICMPV6, icmp.len()),
    };
    start.bytes(icmp)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::net::build::{self, Frame, verify};
    use crate::net::packet::tcp_flags;
    use crate::net::{L3, V4, parse};

    const CLIENT: (&str, &str) = ("198.51.100.7:40000", "[2001:db8::7]:40000");
    const VIP: (&str, &str) = ("192.0.2.10:80", "[2001:db8:1::10]:80");
    const DEST: (&str, &str) = ("10.0.0.21:8080", "[2001:db8:2::21]:8080");
    const ROUTER: (&str, &str) = ("10.9.9.9:0", "[2001:db8:9::9]:0");

    fn at(pair: (&str, &str), v6: bool) -> SocketAddr {
        if v6 { pair.1 } else { pair.0 }
            .parse()
            .expect("a socket address in a test")
    }

    fn view<F: Family>(frame: &[u8]) -> Ip<F> {
        parse::quoted::<F>(frame, 14).expect("a good frame")
    }

    fn kinds() -> [IcmpError; 4] {
        [
            IcmpError::TimeExceeded,
            IcmpError::PortUnreachable,
            IcmpError::HostUnreachable,
            IcmpError::TooBig { mtu: 1400 },
        ]
    }

    #[test]
    fn errors_have_the_types_and_codes_of_their_family() {
        let table = [
            (
                false,
                [
                    [11, 0, 0, 0],
                    [3, 3, 0, 0],
                    [3, 1, 0, 0],
                    [3, 4, 0x05, 0x78],
                ],
            ),
            (
                true,
                [[3, 0, 0, 0], [1, 4, 0, 0], [1, 3, 0, 0], [2, 0, 0x05, 0x78]],
            ),
        ];
        for (v6, expected) in table {
            let frame = Frame::new().udp(at(CLIENT, v6), at(VIP, v6), b"x");
            let l4 = if v6 { 54 } else { 34 };
            for (kind, expected) in kinds().into_iter().zip(expected) {
                let error = Frame::new().icmp_error(kind, at(VIP, v6).ip(), &frame);
                assert_eq!(verify(&error), Ok(()), "{kind:?}");
                let seen = [error[l4], error[l4 + 1], error[l4 + 6], error[l4 + 7]];
                assert_eq!(seen, expected, "{kind:?}");
            }
        }
    }

    #[test]
    fn an_error_goes_to_the_source_and_quotes_the_packet() {
        for (v6, header_len) in [(false, 20), (true, 40)] {
            let frame = Frame::new()
                .padding(9)
                .udp(at(CLIENT, v6), at(VIP, v6), b"x");
            let error =
                Frame::new().icmp_error(IcmpError::PortUnreachable, at(VIP, v6).ip(), &frame);
            assert_eq!(error[14 + header_len + 8..], frame[14..frame.len() - 9]);
            let ends = match parse(&error).expect("a good frame").l3 {
                L3::V4(ip) => (ip.flow.src.into(), ip.flow.dst.into()),
                L3::V6(ip) => (ip.flow.src.into(), ip.flow.dst.into()),
                L3::Other(_) => panic!("IP"),
            };
            assert_eq!(ends, (at(VIP, v6).ip(), at(CLIENT, v6).ip()));
        }
    }

    #[test]
    fn an_error_quotes_as_much_as_fits_the_smallest_link() {
        for (v6, len) in [(false, 576), (true, 1280)] {
            let frame = Frame::new().udp(at(CLIENT, v6), at(VIP, v6), &[7; 1400]);
            let error = Frame::new().icmp_error(IcmpError::TimeExceeded, at(VIP, v6).ip(), &frame);
            assert_eq!(error.len() - 14, len);
            assert_eq!(verify(&error), Ok(()));
        }
    }

    #[test]
    fn an_error_is_not_made_where_it_does_not_fit() {
        let frame = Frame::new().udp(at(CLIENT, false), at(VIP, false), b"x");
        let src = view::<V4>(&frame).flow.dst;
        let kind = IcmpError::TimeExceeded;
        assert_eq!(
            build_error::<V4>(kind, src, &frame[14..], &mut [0; 56]),
            None
        );
        assert_eq!(
            build_error::<V4>(kind, src, &frame[14..], &mut [0; 57]),
            Some(57)
        );
        assert_eq!(
            build_error::<V4>(kind, src, &frame[14..33], &mut [0; 576]),
            None
        );
    }

    fn answered(frame: &[u8]) -> bool {
        let packet = parse(frame).expect("a good frame");
        match packet.l3 {
            L3::V4(ip) => may_answer(frame, &ip, packet.group),
            L3::V6(ip) => may_answer(frame, &ip, packet.group),
            L3::Other(_) => panic!("IP"),
        }
    }

    #[test]
    fn only_packets_of_one_host_to_another_are_answered() {
        let udp = |src: &str, dst: &str| {
            let at = |a: &str| SocketAddr::new(a.parse().expect("an address"), 9);
            Frame::new().udp(at(src), at(dst), b"x")
        };
        let table = [
            (udp("192.0.2.1", "192.0.2.2"), true),
            (udp("192.0.2.1", "224.0.0.9"), false),
            (udp("192.0.2.1", "255.255.255.255"), false),
            (udp("0.0.0.0", "192.0.2.2"), false),
            (udp("224.0.0.9", "192.0.2.2"), false),
            (udp("127.0.0.1", "192.0.2.2"), false),
            (udp("2001:db8::1", "2001:db8::2"), true),
            (udp("2001:db8::1", "ff02::1"), false),
            (udp("::", "2001:db8::2"), false),
        ];
        for (frame, expected) in table {
            assert_eq!(answered(&frame), expected, "{:?}", parse(&frame));
            let mut to_group = frame.clone();
            to_group[0] |= 1;
            assert!(!answered(&to_group));
        }
    }

    #[test]
    fn later_fragments_are_not_answered() {
        for v6 in [false, true] {
            let whole = Frame::new().udp(at(CLIENT, v6), at(VIP, v6), &[7; 200]);
            let answers: Vec<bool> = build::fragment(&whole, 128)
                .iter()
                .map(|f| answered(f))
                .collect();
            assert!(answers[0] && answers[1..].iter().all(|a| !a), "{answers:?}");
        }
    }

    #[test]
    fn queries_are_answered_and_errors_are_not() {
        for (v6, queries, errors) in [
            (
                false,
                &[0u8, 8, 13, 17][..],
                &[3u8, 4, 5, 11, 12, 1, 200][..],
            ),
            (true, &[128, 129, 135][..], &[1, 2, 3, 4, 100, 127, 137][..]),
        ] {
            for (kinds, expected) in [(queries, true), (errors, false)] {
                for kind in kinds {
                    let (src, dst) = (at(CLIENT, v6).ip(), at(VIP, v6).ip());
                    let frame = Frame::new().icmp(src, dst, *kind, 0, &[0; 4]);
                    assert_eq!(answered(&frame), expected, "type {kind}, IPv6 {v6}");
                }
            }
        }
        let empty = Frame::new().ip(at(CLIENT, false).ip(), at(VIP, false).ip(), 1, &[]);
        assert!(!answered(&empty));
    }

    fn embedded_in(frame: &[u8]) -> Result<Option<FlowText>, DropReason> {
        Ok(match parse(frame).expect("a good frame").l3 {
            L3::V4(ip) => embedded(frame, &ip)?.map(|e| text(&e)),
            L3::V6(ip) => embedded(frame, &ip)?.map(|e| text(&e)),
            L3::Other(_) => panic!("IP"),
        })
    }

    type FlowText = (SocketAddr, SocketAddr, u8, u32);

    fn text<F: Family>(e: &Embedded<F>) -> FlowText {
        let f = e.flow();
        let (src, dst) = (f.src.into(), f.dst.into());
        (
            SocketAddr::new(src, f.src_port),
            SocketAddr::new(dst, f.dst_port),
            f.proto,
            e.mtu,
        )
    }

    #[test]
    fn the_quoted_flow_is_read_as_it_travelled() {
        for v6 in [false, true] {
            let (client, dest) = (at(CLIENT, v6), at(DEST, v6));
            let frame = Frame::new().tcp(client, dest, tcp_flags::SYN, 1, b"");
            let error = Frame::new().icmp_error(
                IcmpError::TooBig { mtu: 1400 },
                at(ROUTER, v6).ip(),
                &frame,
            );
            assert_eq!(embedded_in(&error), Ok(Some((client, dest, 6, 1400))));
            let error =
                Frame::new().icmp_error(IcmpError::TimeExceeded, at(ROUTER, v6).ip(), &frame);
            assert_eq!(embedded_in(&error), Ok(Some((client, dest, 6, 0))));
        }
    }

    #[test]
    fn eight_bytes_of_quoted_transport_are_enough() {
        let (client, dest) = (at(CLIENT, false), at(DEST, false));
        let frame = Frame::new().tcp(client, dest, tcp_flags::SYN, 1, b"");
        let body = |len: usize| [&[0; 4][..], &frame[14..14 + 20 + len]].concat();
        let error = |len| Frame::new().icmp(at(ROUTER, false).ip(), client.ip(), 11, 0, &body(len));
        assert_eq!(embedded_in(&error(8)), Ok(Some((client, dest, 6, 0))));
        assert_eq!(embedded_in(&error(4)), Ok(Some((client, dest, 6, 0))));
        assert_eq!(embedded_in(&error(3)), Err(DropReason::IcmpUnmatched));
    }

    #[test]
    fn what_is_not_translated_is_none() {
        let (client, dest) = (at(CLIENT, false), at(DEST, false));
        let router = at(ROUTER, false).ip();
        let quote = |frame: &[u8]| [&[0; 4][..], &frame[14..]].concat();
        let udp = Frame::new().udp(client, dest, &[7; 100]);
        let later = build::fragment(&udp, 60).pop().expect("fragments");
        let gre = Frame::new().ip(client.ip(), dest.ip(), proto::GRE, &[0; 20]);
        let icmp = |kind, body: &[u8]| Frame::new().icmp(router, client.ip(), kind, 0, body);
        let table = [
            ("echo", icmp(8, &quote(&udp))),
            ("redirect", icmp(5, &quote(&udp))),
            ("later fragment", icmp(11, &quote(&later))),
            ("unknown protocol", icmp(11, &quote(&gre))),
            ("UDP", udp),
            (
                "ICMP of 7 bytes",
                Frame::new().ip(router, client.ip(), 1, &[11; 7]),
            ),
        ];
        for (what, frame) in table {
            assert_eq!(embedded_in(&frame), Ok(None), "{what}");
        }
    }

    #[test]
    fn malformed_quotes_are_refused() {
        let (client, dest) = (at(CLIENT, false), at(DEST, false));
        let good = Frame::new().udp(client, dest, &[7; 8])[14..].to_vec();
        let with = |at: usize, byte: u8| {
            let mut quote = good.clone();
            quote[at] = byte;
            quote
        };
        let table = [
            ("nothing", vec![]),
            ("cut header", good[..19].to_vec()),
            ("version", with(0, 0x65)),
            ("header length", with(0, 0x44)),
            ("total length", with(3, 19)),
            ("cut options", with(0, 0x4f)),
        ];
        for (what, quote) in table {
            let body = [&[0; 4][..], &quote].concat();
            let frame = Frame::new().icmp(at(ROUTER, false).ip(), client.ip(), 3, 1, &body);
            assert_eq!(
                embedded_in(&frame),
                Err(DropReason::IcmpUnmatched),
                "{what}"
            );
        }
    }

    #[test]
    fn an_error_in_fragments_has_to_be_put_together_before() {
        for v6 in [false, true] {
            let frame = Frame::new().udp(at(CLIENT, v6), at(DEST, v6), &[7; 300]);
            let error =
                Frame::new().icmp_error(IcmpError::TimeExceeded, at(ROUTER, v6).ip(), &frame);
            let pieces = build::fragment(&error, 200);
            assert_eq!(embedded_in(&pieces[0]), Err(DropReason::Fragment));
            assert_eq!(embedded_in(&pieces[1]), Ok(None));
        }
    }

    fn translated(frame: &mut [u8], side: Side, to: SocketAddr) -> Result<(), DropReason> {
        match (parse(frame).expect("a good frame").l3, to.ip()) {
            (L3::V4(mut ip), std::net::IpAddr::V4(a)) => {
                let mut e = embedded(frame, &ip)?.expect("an error");
                translate(frame, &mut ip, &mut e, side, a.into(), to.port())?;
                assert_eq!(embedded(frame, &ip), Ok(Some(e)), "the view stays true");
            }
            (L3::V6(mut ip), std::net::IpAddr::V6(a)) => {
                let mut e = embedded(frame, &ip)?.expect("an error");
                translate(frame, &mut ip, &mut e, side, a.into(), to.port())?;
                assert_eq!(embedded(frame, &ip), Ok(Some(e)), "the view stays true");
            }
            _ => panic!("mixed families"),
        }
        Ok(())
    }

    #[test]
    fn an_error_from_a_server_is_what_the_virtual_host_would_have_sent() {
        for v6 in [false, true] {
            let (client, vip, dest) = (at(CLIENT, v6), at(VIP, v6), at(DEST, v6));
            let kind = IcmpError::PortUnreachable;
            let inside = Frame::new().udp(client, dest, b"odd");
            let mut error = Frame::new().icmp_error(kind, dest.ip(), &inside);
            translated(&mut error, Side::Src, vip).expect("a good error");
            assert_eq!(verify(&error), Ok(()));
            assert_eq!(
                embedded_in(&error).map(|e| e.map(|e| (e.0, e.1))),
                Ok(Some((client, vip)))
            );
            assert_eq!(outer_ends(&error), (vip.ip(), client.ip()));
        }
    }

    #[test]
    fn an_error_from_the_clients_side_reaches_the_server_about_its_own_packet() {
        for v6 in [false, true] {
            let (client, vip, dest) = (at(CLIENT, v6), at(VIP, v6), at(DEST, v6));
            let reply = Frame::new().tcp(vip, client, tcp_flags::ACK, 1, &[7; 600]);
            let kind = IcmpError::TooBig { mtu: 1300 };
            let mut error = Frame::new().icmp_error(kind, at(ROUTER, v6).ip(), &reply);
            translated(&mut error, Side::Dst, dest).expect("a good error");
            assert_eq!(verify(&error), Ok(()));
            assert_eq!(embedded_in(&error), Ok(Some((dest, client, 6, 1300))));
            assert_eq!(outer_ends(&error), (at(ROUTER, v6).ip(), dest.ip()));
        }
    }

    #[test]
    fn an_error_about_a_tunnel_packet_leads_to_the_packet_within() {
        let (client, vip, dest) = (at(CLIENT, false), at(VIP, false), at(DEST, false));
        let request = Frame::new().tcp(client, vip, tcp_flags::ACK, 1, &[7; 500]);
        let tunnel = Frame::new().ip(at(ROUTER, false).ip(), dest.ip(), 4, &request[14..]);
        let kind = IcmpError::TooBig { mtu: 1400 };
        let error = Frame::new().icmp_error(kind, dest.ip(), &tunnel);
        let ip = view::<V4>(&error);
        let found = tunnelled(&error, &ip)
            .expect("a good quote")
            .expect("a tunnel's packet");
        assert_eq!(
            (
                std::net::IpAddr::from(found.outer.flow().dst),
                found.outer.mtu
            ),
            (dest.ip(), 1400)
        );
        assert_eq!(found.within.l3, 14 + 20 + 8 + 20);
        let inner = parse::quoted::<V4>(&error, usize::from(found.within.l3));
        assert_eq!(inner.map(|ip| ip.flow), Ok(view::<V4>(&request).flow));
        assert!(is_intact(&error, &ip));
        assert_eq!(embedded(&error, &ip), Ok(None));

        let plain = Frame::new().icmp_error(kind, dest.ip(), &request);
        assert_eq!(tunnelled(&plain, &view::<V4>(&plain)), Ok(None));
    }

    #[test]
    fn only_errors_about_the_way_are_about_tunnels() {
        for v6 in [false, true] {
            let (own, dest) = (at(ROUTER, v6).ip(), at(DEST, v6).ip());
            let request = Frame::new().udp(at(CLIENT, true), at(VIP, true), b"x");
            let tunnel = Frame::new().ip(own, dest, 41, &request[14..]);
            let body = [&[0; 4][..], &tunnel[14..]].concat();
            let read: Vec<u8> = (0..=255)
                .filter(|kind| {
                    let error = Frame::new().icmp(dest, own, *kind, 0, &body);
                    match parse(&error).expect("a good frame").l3 {
                        L3::V4(ip) => tunnelled(&error, &ip).is_ok_and(|t| t.is_some()),
                        L3::V6(ip) => tunnelled(&error, &ip).is_ok_and(|t| t.is_some()),
                        L3::Other(_) => panic!("IP"),
                    }
                })
                .collect();
            assert_eq!(read, if v6 { vec![1, 2, 3] } else { vec![3, 4, 11] });
        }
    }

    fn outer_ends(frame: &[u8]) -> (std::net::IpAddr, std::net::IpAddr) {
        match parse(frame).expect("a good frame").l3 {
            L3::V4(ip) => (ip.flow.src.into(), ip.flow.dst.into()),
            L3::V6(ip) => (ip.flow.src.into(), ip.flow.dst.into()),
            L3::Other(_) => panic!("IP"),
        }
    }

    #[test]
    fn the_quoted_header_checksum_follows_the_quoted_address() {
        let (client, vip, dest) = (at(CLIENT, false), at(VIP, false), at(DEST, false));
        let inside = Frame::new().udp(client, dest, b"x");
        let mut error = Frame::new().icmp_error(IcmpError::PortUnreachable, dest.ip(), &inside);
        translated(&mut error, Side::Src, vip).expect("a good error");
        assert!(checksum::is_valid(&error[42..62]));
    }

    #[test]
    fn a_wrong_icmp_checksum_changes_nothing() {
        for v6 in [false, true] {
            let inside = Frame::new().udp(at(CLIENT, v6), at(DEST, v6), b"x");
            let kind = IcmpError::PortUnreachable;
            let mut error = Frame::new().icmp_error(kind, at(DEST, v6).ip(), &inside);
            let last = error.len() - 1;
            error[last] ^= 1;
            let before = error.clone();
            let verdict = translated(&mut error, Side::Src, at(VIP, v6));
            assert_eq!((verdict, error), (Err(DropReason::L4Checksum), before));
        }
    }

    proptest! {
        #[test]
        fn translation_keeps_checksums_right_for_any_quote(
            v6: bool, out: bool, payload in prop::collection::vec(any::<u8>(), 0..1500),
            to4: [u8; 4], to6: [u8; 16], port: u16, tcp: bool,
        ) {
            let (client, dest) = (at(CLIENT, v6), at(DEST, v6));
            let inside = if tcp {
                Frame::new().ip_options(&[1; 5]).tcp(client, dest, tcp_flags::ACK, 1, &payload)
            } else {
                Frame::new().extension(60, &[1; 5]).udp(client, dest, &payload)
            };
            let mut error =
                Frame::new().icmp_error(IcmpError::TimeExceeded, at(ROUTER, v6).ip(), &inside);
            let to = if v6 { SocketAddr::from((to6, port)) } else { SocketAddr::from((to4, port)) };
            let side = if out { Side::Src } else { Side::Dst };
            translated(&mut error, side, to).expect("a good error");
            prop_assert_eq!(verify(&error), Ok(()));
        }

        #[test]
        fn no_bytes_make_reading_or_answering_panic(
            v6: bool, kind in prop::sample::select(vec![1u8, 2, 3, 4, 11, 12]),
            body in prop::collection::vec(any::<u8>(), 0..120), first: u8,
        ) {
            let mut body = body;
            if body.len() > 4 {
                body[4] = if first % 2 == 0 { 0x45 } else { 0x60 };
            }
            let (src, dst) = (at(ROUTER, v6).ip(), at(CLIENT, v6).ip());
            let mut frame = Frame::new().padding(8).icmp(src, dst, kind, 0, &body);
            if let Ok(Some(_)) = embedded_in(&frame) {
                let _ = translated(&mut frame, Side::Src, at(VIP, v6));
                prop_assert!(frame.ends_with(&[0; 8]));
            }
            let _ = answered(&frame);
            if let Ok(L3::V4(ip)) = parse(&frame).map(|p| p.l3) {
                let _ = tunnelled(&frame, &ip);
            }
        }

        #[test]
        fn every_prefix_of_a_quote_is_read_or_refused(v6: bool, cut in 0usize..120) {
            let inside = Frame::new().extension(60, &[1; 5]).ip_options(&[1; 9]).udp(
                at(CLIENT, v6), at(DEST, v6), b"payload",
            );
            let body = [&[0; 4][..], &inside[14..inside.len().min(14 + cut)]].concat();
            let (src, dst) = (at(ROUTER, v6).ip(), at(CLIENT, v6).ip());
            let mut frame = Frame::new().icmp(src, dst, 3, 1, &body);
            if let Ok(Some(_)) = embedded_in(&frame) {
                prop_assert_eq!(translated(&mut frame, Side::Src, at(VIP, v6)), Ok(()));
                prop_assert_eq!(verify(&frame), Ok(()));
            }
        }
    }
}
