//! State of the data path: connections, real servers, counters.
//!
//! Knows packets' keys but no packets, and no clock: callers pass `now`.

pub mod conn;
pub mod conn_table;
pub mod counter;
pub mod dest;
mod index;
mod memory;
mod openings;
mod prefetch;
pub mod state;
pub mod template;
#[cfg(test)]
mod tests;
mod wheel;

pub use conn::{Conn, ConnIdx, Direction, Ends, NONE, flag};
pub use conn_table::{ConnTable, Expiry, Hit, InsertError, Inserted, Swept};
pub use counter::{Counter, DestCounters, ServiceCounters, WorkerCounters};
pub use dest::{AdminState, Counts, Dest, DestId, DestShared, Method, ServiceId, Thresholds};
pub use memory::{TableError, fits};
pub use openings::Openings;
pub use prefetch::prefetch;
pub use state::{SctpState, StateTimeouts, Step, TcpState, TcpTable};
pub use template::{
    Ended, InsertRefused, NewTemplate, Origin, Placed, Repoint, TemplateKey, TemplateRef,
    TemplateRow, Templates,
};
