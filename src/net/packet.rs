//! What the parser says of a frame: offsets and fields that were checked once and are never derived again.

use super::{Family, FlowKey, V4, V6};

/// TCP flag bits, as in the header's 14th byte.
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field is valid.
    pub const ACK: u8 = 0x10;
}

/// IP protocol numbers that Polder knows by name.
pub mod proto {
    #![allow(missing_docs)]
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
    pub const IPV6_OPTIONS: u8 = 60;
}

/// A fragment's place in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification (16 bits in IPv4, 32 in IPv6).
    pub id: u32,
    /// Offset of this fragment's payload in the datagram's, in bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// Where the fragment header starts, from the frame's first byte (IPv6 only, 0 in IPv4).
    pub header: u16,
}

/// A packet of one family whose headers were checked against the bytes received.
///
/// All offsets count from the first byte of the frame, and `l3 < l4 <= end <= frame length` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip<F: Family> {
    /// Addresses, ports and protocol. Ports are 0 unless the protocol is TCP, UDP or SCTP *and* the packet is not a
    /// later fragment *and* the four port bytes are there.
    pub flow: FlowKey<F>,
    /// Start of the IP header.
    pub l3: u16,
    /// Start of the transport header (after options and extension headers).
    pub l4: u16,
    /// End of the IP packet: `l3` plus the header's total length. Ethernet padding lies behind it.
    pub end: u16,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// TCP flags; 0 for other protocols and where the header is cut.
    pub tcp_flags: u8,
    /// Whether the transport header is whole: 20 bytes of TCP (and its data offset fits), 8 of UDP, 12 of SCTP,
    /// 8 of ICMP. Always `false` for a later fragment; `true` for other protocols.
    pub l4_whole: bool,
    /// IPv4: the don't-fragment bit. IPv6: `true`.
    pub dont_fragment: bool,
    /// Set when the packet is a fragment (an IPv6 atomic fragment has offset 0 and no more to follow).
    pub fragment: Option<Fragment>,
}

impl<F: Family> Ip<F> {
    /// Bytes of the IP packet, header included.
    #[must_use]
    pub fn len(&self) -> u16 {
        self.end - self.l3
    }

    /// Whether the packet has no bytes at all, which the parser rules out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end == self.l3
    }

    /// Whether this is a fragment other than the first: it has no transport header.
    #[must_use]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|f| f.offset != 0)
    }
}

/// The network layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L3 {
    /// IPv4.
    V4(Ip<V4>),
    /// IPv6.
    V6(Ip<V6>),
    /// Something else: its Ethernet type (or length field, below 1536, of an 802.3 frame).
    Other(u16),
}

/// A parsed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The outermost VLAN identifier (12 bits) of a tagged frame.
    pub vlan: Option<u16>,
    /// The destination MAC address has the group bit.
    pub group: bool,
    /// The network layer.
    pub l3: L3,
}
