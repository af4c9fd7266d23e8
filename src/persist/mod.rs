//! Persistence engines: from a packet's payload to the key of its session.
//!
//! Knows bytes of UDP payloads, nothing of packets, connections or services.

pub mod engine;
pub mod field;
pub mod quic;
pub mod sip;

pub use engine::{Engine, NoKey, PayloadKey};
pub use field::{Field, FieldError, SessionKey, Unit, When};
pub use quic::{QuicConfig, QuicId, QuicLb};
pub use sip::Scratch;
