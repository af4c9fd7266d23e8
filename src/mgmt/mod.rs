//! The management core: the running configuration, the control socket and the metrics endpoint.
//!
//! One thread with a current-thread runtime. It may be slow; it may never make a worker wait.

pub mod api;
pub mod appliance;
mod bounded;
mod conns;
pub mod control;
mod edit;
mod ipvs;
pub mod kernel;
pub mod manager;
pub mod metrics;
pub mod names;
mod rates;
mod reload;
mod sessions;
mod socket;
mod status;
pub mod sync;
pub mod templates;
mod timeouts;
mod totals;
mod watch;

pub use control::ControlServer;
pub use manager::{
    Loaded, Loader, Manager, Options, PortStatsSource, ServerEdit, Shared, empty_snapshot,
};
pub use metrics::{Detail, MetricsServer};
pub use reload::Fixed;
pub use status::Status;
pub use sync::SyncControl;

#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod edit_tests;
#[cfg(test)]
mod manager_tests;
#[cfg(test)]
mod metrics_tests;
#[cfg(test)]
pub(crate) mod testkit;
