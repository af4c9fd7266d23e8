//! Poll-mode ports through DPDK.
//!
//! Owns the process's EAL, buffer pools, ports and their queues, and all `unsafe` of the crate. Knows bytes and the
//! `PacketIo` trait; knows no service, no connection, no configuration file.
//!
//! Ownership makes the order of taking down right by itself: a [`DpdkQueue`] keeps its port alive, a port its [`Pool`],
//! a pool its [`Eal`]. A port stops and its virtual device goes away when the [`Port`] and all of its queues are
//! dropped, so no worker can poll a port that is being stopped. A pool with buffers still outstanding is left
//! mapped rather than freed, for a later [`Mbuf`] drop must not touch memory that is gone.
//!
//! Offloads: none is requested. The data path updates checksums incrementally, which costs less than preparing a
//! descriptor for the device to do it, and virtual devices report checksums that nobody computed. 802.1Q tags stay in
//! the frame. RSS is on where the device has more than one receive queue and can do it.
//!
//! Cost: one C call per burst, and per received frame one look at the first cache line of its `rte_mbuf`, which the
//! driver has just written and the worker needs next: 2 to 3 ns, measured over `net_null` with and without it.
//!
//! A limit of a driver: `net_af_xdp` forgets the buffers that wait in its rings when it closes (some 2,000 per
//! queue), so the pool's memory stays mapped until the process ends.

#![warn(clippy::multiple_unsafe_ops_per_block)]

mod console;
mod device;
mod eal;
mod errno;
mod interrupts;
mod mbuf;
mod pool;
mod port;
mod port_error;
mod queue;
mod running;

pub use eal::{Eal, EalConfig, EalError, RegisteredThread};
pub use errno::Errno;
pub use mbuf::Mbuf;
pub use pool::{Pool, PoolConfig, PoolError};
pub use port::{Link, Port, PortConfig, PortStats, RSS_KEY_LEN, SYMMETRIC_RSS_KEY};
pub use port_error::PortError;
pub use queue::DpdkQueue;
