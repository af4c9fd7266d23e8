//! Keys of templates: as callers write them, and as words that the table compares.
//!
//! Owns the encoding and the hash. Knows nothing of entries. Two keys are the same template iff all
//! parts and every byte of the engine's data are equal.

use super::super::dest::ServiceId;
use crate::net::{Af, HashKey};

/// The longest key of an engine, in bytes.
pub const DATA_MAX: usize = 65_535;

/// What identifies a template (specification §3.2, §4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateKey<'a> {
    /// The virtual service.
    pub service: ServiceId,
    /// Address family of the clients.
    pub af: Af,
    /// IP protocol number; 0 for firewall-mark services.
    pub proto: u8,
    /// The client's address under the service's mask, in network order, an IPv4 one in the first
    /// four bytes.
    pub client: [u8; 16],
    /// The virtual address likewise, or the firewall mark in the first four bytes.
    pub vaddr: [u8; 16],
    /// The virtual port, or 0.
    pub vport: u16,
    /// The persistence engine's key, compared byte by byte. An empty one is not the same as none.
    pub data: Option<&'a [u8]>,
}

/// The key's fixed parts: service, port, protocol and family; client; virtual address.
pub type Fixed = [u64; 5];

/// A key and its hash in the table's words.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// The upper bits of the hash and the length of the data.
    pub tag: u64,
    pub fixed: Fixed,
    pub data: &'a [u8],
}

const LENGTH_BITS: u64 = 0x1_ffff;
const FAMILY_BIT: u64 = 1;

impl<'a> Probe<'a> {
    /// The words of `key`; nothing when the data are longer than any stored.
    #[inline]
    pub fn new(key: &TemplateKey<'a>, hash: u64) -> Option<Self> {
        let data = key.data.unwrap_or(&[]);
        if data.len() > DATA_MAX {
            return None;
        }
        Some(Self {
            tag: hash & !LENGTH_BITS | key.data.map_or(0, |d| d.len() as u64 + 1),
            fixed: fixed(key),
            data,
        })
    }
}

/// The length of the data that a tag tells of.
#[inline]
#[allow(clippy::cast_possible_truncation)]
pub fn data_len(tag: u64) -> Option<usize> {
    ((tag & LENGTH_BITS) as usize).checked_sub(1)
}

/// The fixed parts as words.
#[inline]
pub fn fixed(key: &TemplateKey<'_>) -> Fixed {
    let family = match key.af {
        Af::V4 => 0,
        Af::V6 => FAMILY_BIT,
    };
    let first = u64::from(key.service.0) << 32
        | u64::from(key.vport) << 16
        | u64::from(key.proto) << 8
        | family;
    let [c0, c1] = halves(key.client);
    let [v0, v1] = halves(key.vaddr);
    [first, c0, c1, v0, v1]
}

/// The key that words stand for.
#[allow(clippy::cast_possible_truncation)]
pub fn from_words(words: Fixed, data: Option<&[u8]>) -> TemplateKey<'_> {
    let [first, c0, c1, v0, v1] = words;
    TemplateKey {
        service: ServiceId((first >> 32) as u32),
        af: if first & FAMILY_BIT == 0 {
            Af::V4
        } else {
            Af::V6
        },
        proto: (first >> 8) as u8,
        client: bytes(c0, c1),
        vaddr: bytes(v0, v1),
        vport: (first >> 16) as u16,
        data,
    }
}

/// The eight bytes of `data` from `at` on as a word, with zeroes for those that are not there.
#[inline]
pub fn word_at(data: &[u8], at: usize) -> u64 {
    let rest = data.get(at..).unwrap_or(&[]);
    if let Some(whole) = rest.first_chunk::<8>() {
        return u64::from_le_bytes(*whole);
    }
    let mut word = [0; 8];
    word[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(word)
}

/// The hash of a key: multiply-and-fold over two words at a time, with secret words, so that nobody
/// outside can aim at a bucket.
#[inline]
pub fn hash(key: &TemplateKey<'_>, secret: &HashKey) -> u64 {
    let [k0, k1, k2, k3] = secret.0;
    let [first, c0, c1, v0, v1] = fixed(key);
    let mut state = fold(first ^ k0, c0 ^ k1);
    state = fold(state ^ c1, v0 ^ k2);
    state = fold(state ^ v1, k3);
    if let Some(data) = key.data {
        // The length goes first, so that padding can't make two keys of different length alike.
        state = fold(state ^ k3, data.len() as u64 ^ k1);
        for at in (0..data.len()).step_by(16) {
            state = fold(
                state ^ word_at(data, at) ^ k2,
                word_at(data, at + 8) ^ k3 ^ state.rotate_left(32),
            );
        }
    }
    fold(state ^ k2, k0 | 1)
}

/// The hash of a client address as a service sees it.
pub fn hash_client(service: ServiceId, source: [u8; 16], secret: &HashKey) -> u64 {
    let [k0, k1, k2, k3] = secret.0;
    let [s0, s1] = halves(source);
    let state = fold(s0 ^ k3, s1 ^ k2);
    fold(state ^ u64::from(service.0) ^ k1, k0 | 1)
}

#[inline]
#[allow(clippy::cast_possible_truncation)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[inline]
#[allow(clippy::cast_possible_truncation)]
fn halves(address: [u8; 16]) -> [u64; 2] {
    let all = u128::from_be_bytes(address);
    [(all >> 64) as u64, all as u64]
}

fn bytes(high: u64, low: u64) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}
