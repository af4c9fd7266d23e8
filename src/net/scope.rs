//! What an address may be used for, judged by the address alone.

use std::net::IpAddr;

use super::Family;

/// Whether a packet may come from `addr`: `false` for multicast, broadcast, unspecified ("this network", RFC 1122
/// §3.2.1.3, for IPv4 the whole of 0.0.0.0/8) and loopback addresses.
#[inline]
#[must_use]
pub fn is_valid_source<F: Family>(addr: F::Addr) -> bool {
    match addr.into() {
        IpAddr::V4(a) => !matches!(a.octets()[0], 0 | 127 | 224..=239) && !a.is_broadcast(),
        IpAddr::V6(a) => !a.is_multicast() && !a.is_unspecified() && !a.is_loopback(),
    }
}

/// Whether `addr` names one host: neither multicast nor the limited broadcast nor unspecified.
#[inline]
#[must_use]
pub fn is_unicast<F: Family>(addr: F::Addr) -> bool {
    match addr.into() {
        IpAddr::V4(a) => !a.is_multicast() && !a.is_broadcast() && !a.is_unspecified(),
        IpAddr::V6(a) => !a.is_multicast() && !a.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{V4, V6};

    fn valid(addr: &str) -> (bool, bool) {
        match addr.parse::<IpAddr>().expect("an address in a test table") {
            IpAddr::V4(a) => (is_valid_source::<V4>(a.into()), is_unicast::<V4>(a.into())),
            IpAddr::V6(a) => (is_valid_source::<V6>(a.into()), is_unicast::<V6>(a.into())),
        }
    }

    #[test]
    fn only_hosts_can_be_sources() {
        let table = [
            ("192.0.2.1", true, true),
            ("223.255.255.255", true, true),
            ("240.0.0.1", true, true),
            ("0.0.0.0", false, false),
            ("0.1.2.3", false, true),
            ("127.0.0.1", false, true),
            ("224.0.0.1", false, false),
            ("239.255.255.255", false, false),
            ("255.255.255.255", false, false),
            ("2001:db8::1", true, true),
            ("fe80::1", true, true),
            ("::", false, false),
            ("::1", false, true),
            ("ff02::1", false, false),
        ];
        for (addr, source, unicast) in table {
            assert_eq!(valid(addr), (source, unicast), "{addr}");
        }
    }
}
