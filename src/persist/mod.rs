//! Persistence engines: from a packet's payload to the key of its session.

pub mod quic;
pub mod sip;
