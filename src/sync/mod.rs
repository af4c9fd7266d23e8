//! State sync: what directors tell each other of their connections and templates.
//!
//! Owns the messages and the rules of both sides. Knows no socket, no clock, no table and no
//! service: callers pass plain values and virtual time, and do what they are told. Nothing here
//! trusts a byte that came from a peer.

pub mod backup;
pub mod entry;
pub mod ipvs;
pub mod master;
pub mod outbox;
pub mod polder;
mod rejections;
pub mod settings;
