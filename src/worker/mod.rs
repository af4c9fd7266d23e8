//! The poll loop of one core, and what it shares with the management core.

pub mod shared;

pub use shared::{Command, ConnPage, ConnRow, Plane, WorkerShared};
