//! What the store has to know of a fragment, and the checks that need no other fragment.
//!
//! Knows nothing of what is held.

use super::{DATAGRAM_BYTES_MAX, Reject};
use crate::net::packet::proto;
use crate::net::{Addr6, Af, DropReason, Family, FlowKey, HashKey, Ip, V6};

/// What fragments of one datagram have in common: addresses, identification and, in IPv4, the protocol (RFC 791 §3.2).
/// In IPv6 fragments may differ in their next header, and only the first one's counts (RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramKey {
    /// Address family.
    pub af: Af,
    /// Source address; an IPv4 address in the first word.
    pub src: Addr6,
    /// Destination address, likewise.
    pub dst: Addr6,
    /// Identification (16 bits in IPv4, 32 in IPv6).
    pub id: u32,
    /// Protocol in IPv4, 0 in IPv6.
    pub proto: u8,
}

impl DatagramKey {
    fn of<F: Family>(src: F::Addr, dst: F::Addr, id: u32, proto: u8) -> Self {
        let wide = |addr| {
            let (high, low) = F::words(addr);
            Addr6([high, low])
        };
        Self {
            af: F::AF,
            src: wide(src),
            dst: wide(dst),
            id,
            proto: match F::AF {
                Af::V4 => proto,
                Af::V6 => 0,
            },
        }
    }

    /// A hash that can't be aimed at without `key`.
    pub(super) fn hash(&self, key: &HashKey) -> u64 {
        hash(self.src, self.dst, self.id, self.proto, key)
    }

    /// As [`Self::hash`], of the source address alone.
    pub(super) fn source_hash(&self, key: &HashKey) -> u64 {
        hash(self.src, Addr6::default(), 0, 0, key)
    }
}

#[allow(clippy::cast_possible_truncation)] // The identification is two ports wide.
fn hash(src: Addr6, dst: Addr6, id: u32, proto: u8, key: &HashKey) -> u64 {
    let flow = FlowKey::<V6> {
        src,
        dst,
        src_port: (id >> 16) as u16,
        dst_port: id as u16,
        proto,
    };
    V6::hash(&flow, key)
}

/// One fragment, as the parser found it. The store trusts none of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentInfo {
    /// Its datagram.
    pub key: DatagramKey,
    /// The protocol that its own headers name.
    pub proto: u8,
    /// Where its part of the datagram's payload starts, in bytes from the frame's first.
    pub payload: u16,
    /// Bytes of that part.
    pub len: u16,
    /// Where that part belongs in the datagram's payload, in bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// In a first fragment, where the transport header starts, in bytes from the frame's first. IPv6 may have
    /// destination options between `payload` and it.
    pub l4: u16,
    /// In a first fragment, whether the transport header is whole ([`Ip::l4_whole`]).
    pub l4_whole: bool,
    /// Bytes that count towards the datagram's length in front of its payload: the header in IPv4, the extension
    /// headers in front of the fragment header in IPv6.
    pub header_len: u16,
}

impl FragmentInfo {
    /// The fragment in `ip`; `None` when it is none, or an IPv6 datagram in one fragment (RFC 6946), which is whole.
    #[must_use]
    pub fn of<F: Family>(ip: &Ip<F>) -> Option<Self> {
        let fragment = ip.fragment.filter(|f| f.offset > 0 || f.more)?;
        let (payload, header_len) = match F::AF {
            Af::V4 => (ip.l4, ip.l4.saturating_sub(ip.l3)),
            Af::V6 => {
                let front = fragment.header.saturating_sub(ip.l3).saturating_sub(40);
                (fragment.header.saturating_add(8), front)
            }
        };
        let FlowKey {
            src, dst, proto, ..
        } = ip.flow;
        Some(Self {
            key: DatagramKey::of::<F>(src, dst, fragment.id, proto),
            proto,
            payload,
            len: ip.end.saturating_sub(payload),
            offset: fragment.offset,
            more: fragment.more,
            l4: ip.l4,
            l4_whole: ip.l4_whole,
            header_len,
        })
    }

    /// End of its part in the datagram's payload.
    pub(super) fn end(&self) -> u32 {
        u32::from(self.offset) + u32::from(self.len)
    }

    /// What is wrong with the fragment by itself, in a frame of `frame_len` bytes. RFC 8200 §4.5 has such a fragment
    /// discarded, and so does not touch the others of its datagram.
    pub(super) fn check(&self, frame_len: usize) -> Result<(), Reject> {
        let end = usize::from(self.payload) + usize::from(self.len);
        let is_whole = self.offset == 0 && !self.more;
        if end > frame_len || self.len == 0 || is_whole || !self.offset.is_multiple_of(8) {
            return Err(Reject(DropReason::Fragment));
        }
        if self.more && !self.len.is_multiple_of(8) {
            return Err(Reject(DropReason::Fragment));
        }
        if u32::from(self.header_len) + self.end() > DATAGRAM_BYTES_MAX {
            return Err(Reject(DropReason::FragmentTooBig));
        }
        if !self.has_its_share_of_the_transport_header() {
            return Err(Reject(DropReason::FragmentTiny));
        }
        Ok(())
    }

    /// The transport header must lie in the first fragment as a whole, so that no later one can change what was
    /// decided on (RFC 1858, RFC 3128, RFC 7112).
    fn has_its_share_of_the_transport_header(&self) -> bool {
        if self.offset > 0 {
            return self.offset >= header_len_min(self.proto);
        }
        let end = u32::from(self.payload) + u32::from(self.len);
        self.l4_whole
            && self.l4 >= self.payload
            && u32::from(self.l4) + u32::from(header_len_min(self.proto)) <= end
    }
}

/// Bytes of the smallest transport header.
fn header_len_min(number: u8) -> u16 {
    match number {
        proto::TCP => 20,
        proto::SCTP => 12,
        proto::UDP | proto::ICMP | proto::ICMPV6 => 8,
        _ => 0,
    }
}
