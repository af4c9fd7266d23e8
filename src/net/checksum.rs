//! The Internet checksum (RFC 1071), whole and incremental (RFC 1624), and the CRC32c of SCTP.
//!
//! Knows sums, not packets: callers say which bytes. Invariant: for a packet whose checksum was right, the
//! incremental result equals the full one; for one whose checksum was wrong, it stays wrong by as much, so that
//! rewriting never hides a damaged packet from its receiver.

use super::Family;

/// A one's-complement sum of 16-bit words in network order, not yet folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `bytes`. A last odd byte counts as the high half of a word (RFC 1071 §1).
    #[inline]
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // The sum may be made in any byte order and turned at the end (RFC 1071 §2.B). 65,535 bytes of 32-bit words
        // can't overflow 64 bits.
        let (words, tail) = bytes.as_chunks::<4>();
        let mut sum: u64 = words
            .iter()
            .map(|w| u64::from(u32::from_ne_bytes(*w)))
            .sum();
        if !tail.is_empty() {
            let mut last = [0; 4];
            last[..tail.len()].copy_from_slice(tail);
            sum += u64::from(u32::from_ne_bytes(last));
        }
        Self(u64::from(u16::from_be(fold(sum))))
    }

    /// The sum of a transport protocol's pseudo-header (RFC 9293 §3.1, RFC 768, RFC 8200 §8.1); `len` is the length
    /// of the transport header and payload in bytes.
    #[inline]
    #[must_use]
    pub fn pseudo<F: Family>(src: F::Addr, dst: F::Addr, proto: u8, len: usize) -> Self {
        let (s, d) = (F::words(src), F::words(dst));
        let addrs = halves(s.0) + halves(s.1) + halves(d.0) + halves(d.1);
        Self(addrs + u64::from(proto) + halves(len as u64))
    }

    /// This sum and that of `bytes`, which must begin at an even offset.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        Self(self.0 + Self::of(bytes).0)
    }

    /// The sum folded to 16 bits; `0xffff` over bytes that contain their own right checksum.
    #[inline]
    #[must_use]
    pub fn folded(self) -> u16 {
        fold(self.0)
    }

    /// The checksum: the complement of the folded sum.
    #[inline]
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// The change that a rewrite makes to a one's-complement sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// Adds the change of one 16-bit word.
    #[inline]
    #[must_use]
    pub fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }

    /// Adds the change of an address of either family (32 or 128 bits).
    #[inline]
    #[must_use]
    pub fn addr<F: Family>(self, old: F::Addr, new: F::Addr) -> Self {
        let (o, n) = (F::words(old), F::words(new));
        // Words that the family does not have are 0 in both; the complement of the old one is then all ones, which
        // is zero in one's-complement arithmetic.
        Self(self.0 + halves(!o.0) + halves(!o.1) + halves(n.0) + halves(n.1))
    }

    /// The checksum after the change, from the one before (RFC 1624 equation 3).
    #[inline]
    #[must_use]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + u64::from(!checksum))
    }
}

/// What is sent in place of a computed UDP checksum: 0 would mean "none", so it travels as `0xffff` (RFC 768).
#[inline]
#[must_use]
pub fn udp_on_wire(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Whether `bytes` sum up to what bytes with their own right checksum among them do.
#[inline]
#[must_use]
pub fn is_valid(bytes: &[u8]) -> bool {
    Sum::of(bytes).folded() == 0xffff
}

/// The checksum of an IPv4 header, whatever its checksum field holds.
///
/// # Panics
/// When `header` is shorter than 12 bytes.
#[must_use]
pub fn ipv4_header(header: &[u8]) -> u16 {
    Sum::of(&header[..10]).bytes(&header[12..]).checksum()
}

/// The full checksum of a transport packet with its pseudo-header. The checksum field in `segment` takes part: set
/// to 0 the result is the checksum; set to a right checksum the result is 0.
#[must_use]
pub fn transport<F: Family>(src: F::Addr, dst: F::Addr, proto: u8, segment: &[u8]) -> u16 {
    Sum::pseudo::<F>(src, dst, proto, segment.len())
        .bytes(segment)
        .checksum()
}

/// The CRC32c of an SCTP packet (RFC 9260 §6.8) as its bytes go into the header, the checksum field counted as 0.
///
/// # Panics
/// When `packet` is shorter than the common header's 12 bytes.
#[must_use]
pub fn sctp(packet: &[u8]) -> [u8; 4] {
    let crc = crc32c(u32::MAX, &packet[..8]);
    let crc = crc32c(crc, &[0; 4]);
    (!crc32c(crc, &packet[12..])).to_le_bytes()
}

/// What the CRC32c of an SCTP packet of `len` bytes, as it stands in the header, becomes when the first four bytes of
/// the packet, its ports, change.
///
/// A CRC that was wrong is wrong by as much afterwards: what was damaged on its way to us is still recognised where it
/// goes to. Costs less than a hundred steps for each bit that is set in `len`, whatever the packet's bytes.
#[must_use]
pub fn sctp_ports_changed(crc: [u8; 4], len: usize, old: [u8; 4], new: [u8; 4]) -> [u8; 4] {
    // The CRC is linear: the packets differ by a word with `len - 4` zeros behind it, and so do their CRCs by its.
    let word = (u32::from_be_bytes(old) ^ u32::from_be_bytes(new)).to_be_bytes();
    let difference = shifted(crc32c(0, &word), len.saturating_sub(word.len()));
    (u32::from_le_bytes(crc) ^ difference).to_le_bytes()
}

/// A CRC register after `bytes` more bytes of 0: its polynomial times x^(8 bytes).
fn shifted(register: u32, bytes: usize) -> u32 {
    BYTES_OF_ZERO
        .iter()
        .enumerate()
        .filter(|(bit, _)| bytes >> bit & 1 != 0)
        .fold(register, |register, (_, power)| times(register, *power))
}

/// x^(8·2^n) for each bit n of a packet's length.
const BYTES_OF_ZERO: [u32; 16] = {
    let mut powers = [1 << (31 - 8); 16];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = times(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
};

/// The product of two polynomials modulo Castagnoli's, the highest bit being the coefficient of x^0.
const fn times(a: u32, b: u32) -> u32 {
    let (mut product, mut b, mut bit) = (0, b, 1 << 31);
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 != 0 {
            (b >> 1) ^ CASTAGNOLI
        } else {
            b >> 1
        };
        bit >>= 1;
    }
    product
}

/// Castagnoli's polynomial, the highest bit being the coefficient of x^0.
const CASTAGNOLI: u32 = 0x82f6_3b78;

fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, b| {
        CRC32C[usize::from(crc.to_le_bytes()[0] ^ b)] ^ (crc >> 8)
    })
}

/// The byte table of the reflected Castagnoli polynomial.
const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < table.len() {
        #[allow(clippy::cast_possible_truncation)]
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 {
                (crc >> 1) ^ CASTAGNOLI
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[inline]
fn halves(x: u64) -> u64 {
    (x >> 32) + (x & 0xffff_ffff)
}

#[inline]
#[allow(clippy::cast_possible_truncation)]
fn fold(x: u64) -> u16 {
    let x = halves(x);
    let x = (x & 0xffff) + ((x >> 16) & 0xffff) + (x >> 32);
    let x = (x & 0xffff) + (x >> 16);
    (x + (x >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::{Addr4, Addr6, V4, V6};

    /// The definition, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).expect("folded at every step")
    }

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).folded(), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_gives_zero_and_not_minus_zero() {
        let delta = Delta::default().word(0x5555, 0x3285);
        assert_eq!(delta.apply(0xdd2f), 0x0000);
    }

    #[test]
    fn the_check_value_of_crc32c_is_reproduced() {
        assert_eq!(!crc32c(u32::MAX, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_computed_udp_checksum_of_zero_travels_as_all_ones() {
        assert_eq!(
            (udp_on_wire(0), udp_on_wire(0xffff), udp_on_wire(7)),
            (0xffff, 0xffff, 7)
        );
    }

    #[test]
    fn sixty_four_kilobytes_of_ones_do_not_overflow() {
        let bytes = vec![0xff; 65535];
        assert_eq!(Sum::of(&bytes).folded(), naive(&bytes));
    }

    fn full_after<F: Family>(
        old: F::Addr,
        new: F::Addr,
        ports: (u16, u16),
        rest: &[u8],
    ) -> (u16, u16) {
        let segment = |port: u16| [&port.to_be_bytes()[..], rest].concat();
        let before = transport::<F>(old, F::Addr::default(), 17, &segment(ports.0));
        let after = transport::<F>(new, F::Addr::default(), 17, &segment(ports.1));
        let delta = Delta::default().addr::<F>(old, new).word(ports.0, ports.1);
        (delta.apply(before), after)
    }

    proptest! {
        #[test]
        fn the_crc_of_changed_ports_is_that_of_the_packet_that_has_them(
            mut packet in prop::collection::vec(any::<u8>(), 12..2000), ports: [u8; 4],
        ) {
            let (crc, old) = (sctp(&packet), [packet[0], packet[1], packet[2], packet[3]]);
            let changed = sctp_ports_changed(crc, packet.len(), old, ports);
            packet[..4].copy_from_slice(&ports);
            prop_assert_eq!(changed, sctp(&packet));
        }

        #[test]
        fn any_sum_is_the_word_by_word_sum(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Sum::of(&bytes).folded(), naive(&bytes));
        }

        #[test]
        fn sums_of_even_parts_add_up(
            bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..150,
        ) {
            let (a, b) = bytes.split_at((2 * cut).min(bytes.len() & !1));
            prop_assert_eq!(Sum::of(a).bytes(b).folded(), naive(&bytes));
        }

        #[test]
        fn incremental_equals_full_over_ipv4(
            old: u32, new: u32, ports: (u16, u16), rest in prop::collection::vec(any::<u8>(), 0..99),
        ) {
            let (incremental, full) = full_after::<V4>(Addr4(old), Addr4(new), ports, &rest);
            prop_assert_eq!(incremental, full);
        }

        #[test]
        fn incremental_equals_full_over_ipv6(
            old: [u64; 2], new: [u64; 2], ports: (u16, u16),
            rest in prop::collection::vec(any::<u8>(), 0..99),
        ) {
            let (incremental, full) = full_after::<V6>(Addr6(old), Addr6(new), ports, &rest);
            prop_assert_eq!(incremental, full);
        }

        #[test]
        fn a_header_with_its_checksum_in_place_is_valid(
            mut header in prop::collection::vec(any::<u8>(), 20..60),
        ) {
            let sum = ipv4_header(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            prop_assert!(is_valid(&header));
            header[0] ^= 1;
            prop_assert!(!is_valid(&header));
        }
    }
}
