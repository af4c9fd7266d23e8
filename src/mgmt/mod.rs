//! The management core: everything that may be slow and may never make a worker wait.

pub mod kernel;
