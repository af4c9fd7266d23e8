//! Bytes on the wire: what a frame is, and nothing about what is done with it.
//!
//! Knows no table, no service, no clock. Everything here is pure.

pub mod addr;
pub mod buf;
pub mod build;
pub mod checksum;
pub mod drop_reason;
pub mod fragment;
pub mod icmp;
pub mod packet;
pub mod parse;
pub mod pcap;
pub(crate) mod reasons;
pub mod rewrite;
pub mod scope;
pub mod time;
pub mod tunnel;

pub use addr::{Addr4, Addr6, Af, Family, FlowKey, HashKey, Mac, V4, V6, hash_bytes};
pub use buf::{BURST, Burst, PacketBuf};
pub use drop_reason::DropReason;
pub use packet::{Fragment, Ip, L3, Packet};
pub use parse::parse;
pub use time::Tick;
