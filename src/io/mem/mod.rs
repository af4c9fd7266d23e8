//! Devices in memory: for tests, for fuzzing and for measuring the data path without a card.
//!
//! Owns buffers, pools and two devices; knows nothing of what the frames mean. Invariant: a pool's buffers are either
//! free in it or held by exactly one [`MemBuf`], so that its free count is the same before and after any work.

mod bench;
mod device;
mod flows;
mod pool;

#[cfg(test)]
mod tests;

pub use bench::{BenchIo, Frames};
pub use device::{MemHandle, MemIo, QueueCapacity};
pub use flows::UdpFlows;
pub use pool::{HEADROOM, LARGE_ROOM, MemBuf, MemCache, MemPool};
