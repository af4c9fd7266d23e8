//! State sync on the management core: sockets, tables and formats put together.

pub mod ipvs;
pub mod socket;
pub mod tables;

use std::io;
use std::net::SocketAddr;

/// What went over the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages sent.
    pub messages_sent: u64,
    /// Their bytes of UDP payload.
    pub bytes_sent: u64,
    /// Records in them.
    pub records_sent: u64,
    /// Messages that the kernel did not take.
    pub send_errors: u64,
    /// What it said last.
    pub last_error: Option<String>,
    /// Messages that came in.
    pub messages_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Records that were taken from them.
    pub records_received: u64,
    /// Who sent the last one.
    pub last_from: Option<SocketAddr>,
}

impl Traffic {
    fn sent(&mut self, bytes: usize, records: u64) {
        self.messages_sent += 1;
        self.bytes_sent += bytes as u64;
        self.records_sent += records;
    }

    fn failed(&mut self, e: &io::Error) {
        self.send_errors += 1;
        self.last_error = Some(e.to_string());
    }

    fn received(&mut self, bytes: usize, from: SocketAddr) {
        self.messages_received += 1;
        self.bytes_received += bytes as u64;
        self.last_from = Some(from);
    }
}
