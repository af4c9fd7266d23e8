//! The kernel's part: the exception path and the mirror of what the kernel knows.
//!
//! Polder forwards what belongs to its services; all else on a port goes to the kernel through a [`Tap`]. The kernel
//! then answers ARP and neighbour discovery for the addresses that the [`Mirror`] puts on the interface, resolves the
//! neighbours that it is asked for, and holds the routes that an operator or a routing daemon gives it. The [`Mirror`]
//! follows both and publishes them as a [`KernelView`], from which the way out is made.
//!
//! Knows no worker, no snapshot and no YAML. Runs on the management core's current-thread runtime. Needs
//! `CAP_NET_ADMIN` in the network namespace, and nothing else. Which frames may come here, and how many of them, is
//! [`crate::forward::exception`]'s business.

mod addresses;
mod decode;
mod encode;
mod mirror;
mod neighbours;
mod netlink;
mod resolver;
mod tap;
mod task;

pub use decode::KernelView;
pub use mirror::{KernelError, Mirror, MirrorStats};
pub use resolver::Targets;
pub use tap::{Tap, TapError, tap_name};
