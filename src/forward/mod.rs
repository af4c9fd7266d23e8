//! What happens to a packet: the published configuration, the way out, and the director that decides and rewrites.

pub mod defs;
pub mod exception;

pub use defs::{DestDef, NeighbourDef, PortDef, PortId, RouteDef, ServiceDef, Setup, Timeouts};
