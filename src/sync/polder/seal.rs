//! The envelope of every datagram.

/// Bytes in front of a body.
pub const HEADER_LEN: usize = 28;
/// Bytes behind it.
pub const TAG_LEN: usize = 16;
/// Bytes around a body.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;
/// Longest payload of a UDP datagram over IPv4.
pub const DATAGRAM_MAX: usize = 65_507;
