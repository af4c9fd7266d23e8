//! Packet input and output, one trait over every kind of device.

pub mod fault;
pub mod mem;
pub mod pcap;
pub mod record;
mod rng;

#[cfg(feature = "dpdk")]
#[allow(unsafe_code)] // The one place that calls C. Every block says which fact makes it sound.
pub mod dpdk;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use crate::net::PacketBuf;
pub use crate::net::{BURST, Burst};

/// One receive and one transmit queue of one port, owned by one worker.
pub trait PacketIo: Send + Debug {
    /// The device's buffer.
    type Buf: PacketBuf;

    /// Appends at most the free room of `out`; returns how many frames came.
    fn rx_burst(&mut self, out: &mut Burst<Self::Buf>) -> usize;

    /// Removes from the front of `burst` exactly what the device took, and returns how many that were. The rest stays.
    fn tx_burst(&mut self, burst: &mut Burst<Self::Buf>) -> usize;

    /// A free, empty buffer with headroom for frames that Polder makes itself.
    fn alloc(&mut self) -> Option<Self::Buf>;
}
