//! What happens to a packet: the published configuration, the way out, and the director that decides and rewrites.

pub mod defence;
pub mod defs;
pub mod director;
pub mod exception;
pub mod fib;
pub mod snapshot;
pub mod tell;

pub use defs::{
    DestDef, NeighbourDef, PortDef, PortId, Prefix, RouteDef, ServiceDef, ServiceKind, Setup,
    Switches, Timeouts,
};
pub use director::{
    Context, Director, DirectorConfig, Evict, PIECES_MAX, PeerOutcome, PeerRule, PeerTerms, Piece,
    Pieces, Side, Sink, Verdict,
};
pub use fib::{Egress, Fib, FibInput, Way};
pub use snapshot::{BuildError, Registry, Service, Services, Snapshot};
