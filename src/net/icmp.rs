//! ICMP and ICMPv6 errors: making them, reading the packet that they quote, translating them for NAT.
//!
//! Knows the messages, not whose they are. Invariant: whatever is read of a quoted packet was checked against the
//! bytes received, and nothing of a message is changed before all of it was found good.

use super::checksum::Sum;
use super::packet::proto;
use super::parse::{self, Layout};
use super::rewrite::Side;
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
}

impl IcmpError {
    /// Type, code and the second word of the header.
    fn header<F: Family>(self) -> (u8, u8, u32) {
        match (F::AF, self) {
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
    let most = match F::AF {
        Af::V4 => MAX_LEN_V4,
        Af::V6 => MAX_LEN_V6,
    };
    let quote = &original[..original.len().min(most - layout.header_len - HEADER_LEN)];
    let len = layout.header_len + HEADER_LEN + quote.len();
    let (header, icmp) = out.get_mut(..len)?.split_at_mut(layout.header_len);

    let (icmp_type, code, word) = kind.header::<F>();
    icmp[..4].copy_from_slice(&[icmp_type, code, 0, 0]);
    icmp[4..8].copy_from_slice(&word.to_be_bytes());
    icmp[8..].copy_from_slice(quote);
    let sum = icmp_sum::<F>(src, dst, icmp).checksum();
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    write_ip::<F>(header, src, dst, icmp.len());
    Some(len)
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
    let quote = parse::quoted::<F>(packet, usize::from(ip.l4) + HEADER_LEN)
        .map_err(|_| DropReason::IcmpUnmatched)?;
    let ports = match quote.flow.proto {
        proto::TCP | proto::UDP | proto::SCTP => 4,
        proto::AH | proto::ESP => 0,
        _ => return Ok(None),
    };
    if ports != 0 && quote.is_later_fragment() {
        return Ok(None);
    }
    if quote.end - quote.l4 < ports {
        return Err(DropReason::IcmpUnmatched);
    }
    let mtu = reported_mtu::<F>(header);
    Ok(Some(Embedded {
        ip: quote,
        icmp_type,
        code,
        mtu,
    }))
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
    let packet = &mut frame[..usize::from(ip.end)];
    let l4 = usize::from(ip.l4);
    if icmp_sum::<F>(ip.flow.src, ip.flow.dst, &packet[l4..]).folded() != 0xffff {
        return Err(DropReason::L4Checksum);
    }
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
