//! State of the data path: connections, real servers, counters.
//!
//! Knows packets' keys but no packets, and no clock: callers pass `now`.

pub mod counter;
pub mod dest;

pub use counter::{Counter, DestCounters, ServiceCounters, WorkerCounters};
pub use dest::{AdminState, Counts, Dest, DestId, DestShared, Method, ServiceId, Thresholds};
