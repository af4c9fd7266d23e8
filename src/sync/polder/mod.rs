//! The `polder` format: authenticated, gapless, and sure of what the peer has.
//!
//! A director tells of its entries in a stream of numbered datagrams to a group. What it tells is the difference between
//! what its tables hold and what it told before, so that a lost datagram, a lost removal or a peer that
//! joins late are one and the same thing: a difference, which is found by digests and mended.

pub mod keys;
pub mod mirror;
mod node;
pub mod receiver;
mod rejected;
mod rounds;
pub mod seal;
pub mod sender;
pub mod wire;

pub use keys::Keys;
pub use node::{Config, Direction, Node, Peer, Role, Send, State, Status, Traffic};
pub use receiver::{Apply, What};
pub use rejected::{Rejected, Rejections};
pub use sender::To;
