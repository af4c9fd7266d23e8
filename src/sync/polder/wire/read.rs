//! Reading fields one after the other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is left of the bytes. Every method answers nothing, and takes nothing, when there is too little.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_be_bytes)
    }

    pub fn ipv4(&mut self) -> Option<IpAddr> {
        self.array::<4>().map(|a| Ipv4Addr::from(a).into())
    }

    pub fn ipv6(&mut self) -> Option<IpAddr> {
        self.array::<16>().map(|a| Ipv6Addr::from(a).into())
    }
}
