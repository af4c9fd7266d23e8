//! Bindings to the libdpdk that pkg-config finds, 22.11 or newer.
//!
//! Owns nothing but generated declarations and a C shim for the functions that DPDK has in headers only. Everything
//! here is unsafe to call; `polder::io::dpdk` is the one user and makes it safe. Invariants: no thread-local variable
//! of DPDK is bound (bindgen would take it for an ordinary static), and `rte_mbuf` is opaque, because its layout
//! differs between releases; the `POLDER_MBUF_*` constants say where its fields are.

#![allow(
    unsafe_code,
    missing_docs,
    missing_debug_implementations,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
