//! Address families as types, so that the data path is compiled once for each and never asks which.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Af {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Af {
    /// The family of `addr`.
    #[must_use]
    pub fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// An IPv4 address as a host-order number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Addr4(pub u32);

/// An IPv6 address as two host-order numbers, most significant first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Addr6(pub [u64; 2]);

/// An address family at compile time. `Pod`, so that plain records may be generic over it.
pub trait Family: Pod + fmt::Debug + Default + Send + Sync + PartialEq + Eq {
    /// The family's address.
    type Addr: Copy
        + Eq
        + Ord
        + Hash
        + Default
        + fmt::Debug
        + fmt::Display
        + Send
        + Sync
        + Pod
        + Into<IpAddr>;
    /// The family as a value.
    const AF: Af;
    /// Bytes of an address on the wire.
    const ADDR_LEN: usize;
    /// Ethernet type.
    const ETHER_TYPE: u16;

    /// Reads an address from the first [`Self::ADDR_LEN`] bytes of `bytes`, network order.
    ///
    /// # Panics
    /// When `bytes` is shorter.
    fn read(bytes: &[u8]) -> Self::Addr;
    /// Writes `addr` into the first [`Self::ADDR_LEN`] bytes of `bytes`, network order.
    ///
    /// # Panics
    /// When `bytes` is shorter.
    fn write(addr: Self::Addr, bytes: &mut [u8]);
    /// `addr` if it is of this family.
    fn from_ip(addr: IpAddr) -> Option<Self::Addr>;
    /// The address folded into two words, for hashing.
    fn words(addr: Self::Addr) -> (u64, u64);
    /// The address folded into 32 bits as IPVS folds it where it hashes 32-bit addresses (XOR of the words for IPv6).
    fn fold32(addr: Self::Addr) -> u32;
    /// A hash of the flow, keyed with `key`. An attacker who does not know the key can't aim at a value.
    fn hash(flow: &FlowKey<Self>, key: &HashKey) -> u64;
}

/// IPv4 at compile time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct V4;
/// IPv6 at compile time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct V6;

/// Secret of a keyed flow hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u64; 4]);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

impl HashKey {
    /// A key derived from `seed` by SplitMix64; used where runs must repeat (replay, tests).
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut s = seed;
        Self(std::array::from_fn(|_| {
            s = s.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = s;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    /// A key from the operating system's randomness.
    #[must_use]
    pub fn random() -> Self {
        use std::hash::{BuildHasher, RandomState};
        // Each `RandomState` carries SipHash keys seeded by the operating system.
        let rs = RandomState::new();
        Self(std::array::from_fn(|i| rs.hash_one(i)))
    }
}

#[inline]
#[allow(clippy::cast_possible_truncation)]
fn fold(a: u64, b: u64) -> u64 {
    let m = u128::from(a) * u128::from(b);
    (m as u64) ^ ((m >> 64) as u64)
}

/// A hash of any bytes, keyed with `key`. An attacker who does not know the key can't aim at a value.
#[inline]
#[must_use]
pub fn hash_bytes(bytes: &[u8], key: &HashKey) -> u64 {
    let k = &key.0;
    let mut sum = bytes.len() as u64 ^ k[0];
    for chunk in bytes.chunks(16) {
        let mut words = [0; 16];
        words[..chunk.len()].copy_from_slice(chunk);
        let word = u128::from_le_bytes(words);
        #[allow(clippy::cast_possible_truncation)]
        let (low, high) = (word as u64, (word >> 64) as u64);
        sum = fold(low ^ k[1] ^ sum, high ^ k[2].wrapping_add(sum));
    }
    fold(sum ^ k[2], k[3] | 1)
}

/// The 5-tuple of a packet, as it travels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FlowKey<F: Family> {
    /// Source address.
    pub src: F::Addr,
    /// Destination address.
    pub dst: F::Addr,
    /// Source port, 0 where the protocol has none.
    pub src_port: u16,
    /// Destination port, 0 where the protocol has none.
    pub dst_port: u16,
    /// IP protocol number.
    pub proto: u8,
}

impl<F: Family> FlowKey<F> {
    /// The same flow seen from the other end.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            proto: self.proto,
        }
    }

    fn tail(&self) -> u64 {
        u64::from(self.src_port) << 32 | u64::from(self.dst_port) << 16 | u64::from(self.proto)
    }
}

impl<F: Family> fmt::Debug for FlowKey<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{} -> {}:{} proto {}",
            self.src, self.src_port, self.dst, self.dst_port, self.proto
        )
    }
}

impl Family for V4 {
    type Addr = Addr4;
    const AF: Af = Af::V4;
    const ADDR_LEN: usize = 4;
    const ETHER_TYPE: u16 = 0x0800;

    #[inline]
    fn read(bytes: &[u8]) -> Addr4 {
        Addr4(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
    #[inline]
    fn write(addr: Addr4, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&addr.0.to_be_bytes());
    }
    fn from_ip(addr: IpAddr) -> Option<Addr4> {
        match addr {
            IpAddr::V4(a) => Some(a.into()),
            IpAddr::V6(_) => None,
        }
    }
    #[inline]
    fn words(addr: Addr4) -> (u64, u64) {
        (u64::from(addr.0), 0)
    }
    fn fold32(addr: Addr4) -> u32 {
        addr.0
    }
    #[inline]
    fn hash(flow: &FlowKey<Self>, key: &HashKey) -> u64 {
        let k = &key.0;
        let addrs = u64::from(flow.src.0) << 32 | u64::from(flow.dst.0);
        fold(fold(addrs ^ k[0], flow.tail() ^ k[1]) ^ k[2], k[3] | 1)
    }
}

impl Family for V6 {
    type Addr = Addr6;
    const AF: Af = Af::V6;
    const ADDR_LEN: usize = 16;
    const ETHER_TYPE: u16 = 0x86dd;

    #[inline]
    fn read(bytes: &[u8]) -> Addr6 {
        let word = |i: usize| {
            let mut w = [0; 8];
            w.copy_from_slice(&bytes[i..i + 8]);
            u64::from_be_bytes(w)
        };
        Addr6([word(0), word(8)])
    }
    #[inline]
    fn write(addr: Addr6, bytes: &mut [u8]) {
        bytes[..8].copy_from_slice(&addr.0[0].to_be_bytes());
        bytes[8..16].copy_from_slice(&addr.0[1].to_be_bytes());
    }
    fn from_ip(addr: IpAddr) -> Option<Addr6> {
        match addr {
            IpAddr::V6(a) => Some(a.into()),
            IpAddr::V4(_) => None,
        }
    }
    #[inline]
    fn words(addr: Addr6) -> (u64, u64) {
        (addr.0[0], addr.0[1])
    }
    #[allow(clippy::cast_possible_truncation)]
    fn fold32(addr: Addr6) -> u32 {
        let x = addr.0[0] ^ addr.0[1];
        (x >> 32) as u32 ^ x as u32
    }
    #[inline]
    fn hash(flow: &FlowKey<Self>, key: &HashKey) -> u64 {
        let k = &key.0;
        let a = fold(flow.src.0[0] ^ k[0], flow.src.0[1] ^ k[1]);
        let b = fold(flow.dst.0[0] ^ k[2], flow.dst.0[1] ^ k[3]);
        // The rotation keeps a swap of the two addresses from cancelling.
        fold(
            a ^ b.rotate_left(23) ^ k[2],
            fold(flow.tail() ^ k[1], k[3] | 1) | 1,
        )
    }
}

impl From<Ipv4Addr> for Addr4 {
    fn from(a: Ipv4Addr) -> Self {
        Self(a.into())
    }
}
impl From<Ipv6Addr> for Addr6 {
    fn from(a: Ipv6Addr) -> Self {
        V6::read(&a.octets())
    }
}
impl From<Addr4> for IpAddr {
    fn from(a: Addr4) -> Self {
        Self::V4(a.0.into())
    }
}
impl From<Addr6> for IpAddr {
    fn from(a: Addr6) -> Self {
        Self::V6((u128::from(a.0[0]) << 64 | u128::from(a.0[1])).into())
    }
}
impl fmt::Display for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}
impl fmt::Display for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}
impl fmt::Debug for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl fmt::Debug for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether the address is a group (multicast or broadcast) address.
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(
            f,
            "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
            m[0], m[1], m[2], m[3], m[4], m[5]
        )
    }
}
impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let mut out = [0; 6];
        let mut parts = s.split(':');
        for b in &mut out {
            let part = parts.next().unwrap_or("");
            *b = (part.len() == 2)
                .then(|| u8::from_str_radix(part, 16).ok())
                .flatten()
                .ok_or_else(|| format!("`{s}` is not a MAC address such as 02:00:00:00:00:10"))?;
        }
        match parts.next() {
            None => Ok(Self(out)),
            Some(_) => Err(format!(
                "`{s}` is not a MAC address such as 02:00:00:00:00:10"
            )),
        }
    }
}
