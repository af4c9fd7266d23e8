//! A wrapper that writes what passes a device into a capture file.
//!
//! Knows no clock: whoever drives the device says what time it is. Invariant: the device behaves as if the wrapper
//! were not there; an error of the file ends the recording, not the traffic.

use std::fmt;
use std::io::Write;

use super::{Burst, PacketIo};
use crate::net::PacketBuf;
use crate::net::pcap::{PcapError, Writer};

/// Which frames are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Those received.
    Rx,
    /// Those that the device took.
    Tx,
    /// Both, in the order in which they passed.
    Both,
}

/// A device whose frames are recorded.
pub struct Record<I, W> {
    inner: I,
    writer: Writer<W>,
    direction: Direction,
    time_ns: u64,
    /// Copies of the frames offered for sending: those that the device takes are gone afterwards.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    error: Option<PcapError>,
}

impl<I: fmt::Debug, W> fmt::Debug for Record<I, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("inner", &self.inner)
            .field("direction", &self.direction)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<I: PacketIo, W: Write> Record<I, W> {
    /// `inner`, recorded at time 0 until [`Self::set_time`].
    #[must_use]
    pub fn new(inner: I, writer: Writer<W>, direction: Direction) -> Self {
        let (bytes, ends) = (Vec::new(), Vec::new());
        Self {
            inner,
            writer,
            direction,
            time_ns: 0,
            bytes,
            ends,
            error: None,
        }
    }

    /// The time, in nanoseconds since 1970, that frames get from now on.
    pub fn set_time(&mut self, ts_ns: u64) {
        self.time_ns = ts_ns;
    }

    /// The wrapped device.
    pub fn inner_mut(&mut self) -> &mut I {
        &mut self.inner
    }

    /// Flushes the recording; gives back the device and what was written to.
    ///
    /// # Errors
    /// The first error of the file, after which nothing more was recorded.
    pub fn finish(self) -> Result<(I, W), PcapError> {
        match self.error {
            Some(e) => Err(e),
            None => Ok((self.inner, self.writer.into_inner()?)),
        }
    }

    fn records(&self, direction: Direction) -> bool {
        self.error.is_none() && (self.direction == direction || self.direction == Direction::Both)
    }
}

/// Writes frames up to the first error, which it keeps.
fn record<'a, W: Write>(
    writer: &mut Writer<W>,
    error: &mut Option<PcapError>,
    time_ns: u64,
    mut frames: impl Iterator<Item = &'a [u8]>,
) {
    if let Err(e) = frames.try_for_each(|frame| writer.write(time_ns, frame)) {
        *error = Some(e);
    }
}

impl<I: PacketIo, W: Write + Send> PacketIo for Record<I, W> {
    type Buf = I::Buf;

    fn rx_burst(&mut self, out: &mut Burst<I::Buf>) -> usize {
        let before = out.len();
        let n = self.inner.rx_burst(out);
        if self.records(Direction::Rx) {
            let frames = out[before..].iter().map(PacketBuf::data);
            record(&mut self.writer, &mut self.error, self.time_ns, frames);
        }
        n
    }

    fn tx_burst(&mut self, burst: &mut Burst<I::Buf>) -> usize {
        if !self.records(Direction::Tx) {
            return self.inner.tx_burst(burst);
        }
        self.bytes.clear();
        self.ends.clear();
        for buf in burst.iter() {
            self.bytes.extend_from_slice(buf.data());
            self.ends.push(self.bytes.len());
        }
        let n = self.inner.tx_burst(burst);
        let frames = (0..n).map(|i| {
            let start = if i == 0 { 0 } else { self.ends[i - 1] };
            &self.bytes[start..self.ends[i]]
        });
        record(&mut self.writer, &mut self.error, self.time_ns, frames);
        n
    }

    fn alloc(&mut self) -> Option<I::Buf> {
        self.inner.alloc()
    }
}
