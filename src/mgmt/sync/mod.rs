//! State sync on the management core: sockets, tables and formats put together.

pub mod tables;
