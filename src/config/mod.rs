//! The YAML configuration: what it can say, what is wrong with it, and what the running system makes of it.
//!
//! One way in, `load`: text → tree with positions (`tree`) → model (`decode`) → checks (`rules`) → the data path's
//! types (`lower`). Every problem of a file is found in one go and has its line, column and path.
//! Knows nothing of sockets, devices or packets, and is the only module that knows YAML.

pub mod check;
mod decode;
mod load;
pub mod located;
mod lower;
pub mod model;
mod problem;
mod raise;
mod rules;
mod schema;
pub mod sessions;
#[cfg(test)]
mod tests;
mod tree;
pub mod values;

pub use check::{Format, run_check, some, to_json, to_yaml, value_to_yaml};
pub use load::{Loaded, STDIN, load, load_bytes, load_str};
pub use lower::{
    Control, Dpdk, Limits, LowerError, Lowered, Metrics, lower, server as lower_server,
    service as lower_service, sync_interface, tap_name,
};
pub use model::{Config, Detail, Idle};
pub use problem::{Problem, Severity};
pub use raise::{Judged, judge, server_value, service_value};
pub use schema::{schema, schema_text};
pub use tree::MAX_BYTES;
