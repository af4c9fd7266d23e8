//! The hashes of the hashing schedulers.
//!
//! Those of IPVS are bit-compatible, so that a Polder and an LVS box choose alike; [`mix`] is for choices of our own.

use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use crate::net::{Family, V4, V6};
use crate::table::Dest;

/// An index that stands for no server in a table of 16-bit indices.
pub(super) const NONE: u16 = u16::MAX;

/// `H(v, bits)` of specification §6, for 1 to 32 bits.
#[inline]
pub(super) fn multiplicative(v: u32, bits: u32) -> u32 {
    v.wrapping_mul(0x61C8_8647) >> (32 - bits)
}

/// The keyed hash of `mh` (specification §6.10).
#[derive(Clone, Copy, Debug)]
pub(super) struct HsipHash(SipHasher13);

impl HsipHash {
    /// The one of a lookup and of a server's first slot.
    pub(super) fn first() -> Self {
        Self::keyed(2_654_435_761)
    }

    /// The one of a server's stride.
    pub(super) fn second() -> Self {
        Self::keyed(2_654_446_892)
    }

    fn keyed(k: u64) -> Self {
        Self(SipHasher13::new_with_keys(k, k))
    }

    /// The hash of one 32-bit number.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(super) fn of(&self, v: u32) -> u32 {
        self.0.hash(&v.to_le_bytes()) as u32
    }
}

/// A server's address folded to 32 bits, host order (specification §6).
pub(super) fn fold(dest: &Dest) -> u32 {
    match dest.addr {
        IpAddr::V4(a) => V4::fold32(a.into()),
        IpAddr::V6(a) => V6::fold32(a.into()),
    }
}

/// The finaliser of SplitMix64: every bit of the input moves every bit of the result.
#[inline]
pub(super) fn mix(v: u64) -> u64 {
    let v = (v ^ (v >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let v = (v ^ (v >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    v ^ (v >> 31)
}

/// The `n`-th number of the SplitMix64 sequence that begins at `seed`.
#[inline]
pub(super) fn nth(seed: u64, n: u64) -> u64 {
    mix(seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// A number in `0..n`, evenly, from 64 random bits.
#[inline]
#[allow(clippy::cast_possible_truncation)]
pub(super) fn scale(random: u64, n: u64) -> u64 {
    ((u128::from(random) * u128::from(n)) >> 64) as u64
}

/// Greatest common divisor; `gcd(0, n)` is `n`.
pub(super) fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Specification §6.10, the table of vectors: address, then H of 8 bits, the same with port 5060, H of 10 bits.
    #[test]
    fn the_multiplicative_hash_meets_the_vectors() {
        let table = [
            ([10, 0, 0, 1], 39, 231, 159),
            ([10, 0, 0, 2], 137, 73, 550),
            ([192, 168, 1, 77], 144, 79, 577),
            ([203, 0, 113, 5], 185, 120, 740),
        ];
        for (addr, h8, with_port, h10) in table {
            let v = u32::from_be_bytes(addr);
            let got = (
                multiplicative(v, 8),
                multiplicative(v + 5060, 8),
                multiplicative(v, 10),
            );
            assert_eq!(got, (h8, with_port, h10), "{addr:?}");
        }
    }

    /// Specification §6.10, the table of vectors.
    #[test]
    fn the_keyed_hash_meets_the_vectors() {
        let table = [
            ([10, 0, 0, 1], 3711, 82),
            ([10, 0, 0, 2], 1884, 1335),
            ([192, 168, 1, 77], 3943, 3187),
            ([203, 0, 113, 5], 3219, 548),
        ];
        for (addr, slot, with_port) in table {
            let v = u32::from_be_bytes(addr);
            let hash = HsipHash::first();
            assert_eq!(
                (hash.of(v) % 4093, hash.of(v + 5060) % 4093),
                (slot, with_port),
                "{addr:?}"
            );
        }
    }
}
