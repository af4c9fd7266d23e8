//! Tests of this layer's parts against oracles.

#![allow(clippy::unwrap_used)]

mod conn_table;
mod index;
mod model;
mod state;
mod wheel;
