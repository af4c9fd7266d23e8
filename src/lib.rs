//! Polder: a layer-4 load balancer on DPDK with the semantics of Linux Virtual Server.
//!
//! The modules are layers; imports point down only (`tests/layering.rs` enforces it). From the bottom:

/// L7: the command line.
pub mod cli;
/// L3: the YAML configuration: model, checks, lowering to a snapshot.
pub mod config;
/// L3: what happens to a packet. Snapshot, forwarding information, the director, rewriting, ICMP.
pub mod forward;
/// Beside L3: packet input and output. The trait, memory and capture devices, DPDK.
pub mod io;
/// L6: the management core. Control socket, metrics, kernel mirror, exception path, publishing.
pub mod mgmt;
/// L0: bytes. Address families, packet buffers, header views, the parser, checksums, capture files, time.
pub mod net;
/// L2: persistence engines, which find the key of a session in a payload.
pub mod persist;
/// L2: schedulers. One file each, one trait.
pub mod sched;
/// L3: state sync: what is told to peers of connections and templates, and what is made of what they tell.
pub mod sync;
/// L1: state. Connection table, timer wheel, protocol state machines, real servers, counters.
pub mod table;
/// L5: the poll loop of one core.
pub mod worker;
