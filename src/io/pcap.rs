//! The capture device: receives from a capture file, sends into another.
//!
//! Knows no clock. Whoever drives a replay asks each device for the time of its next frame, releases frames up to the
//! time it has come to, and says what time the frames that are sent get. Invariant: a frame leaves the file only
//! into a buffer, so that a shortage of buffers delays and never loses one.

use std::fmt;
use std::io::{Read, Write};

use super::mem::{MemBuf, MemPool};
use super::{Burst, PacketIo};
use crate::net::PacketBuf;
use crate::net::pcap::{PcapError, Reader, Record, Writer};

/// What a [`PcapIo`] counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PcapCounts {
    /// Frames received from the file.
    pub rx_frames: u64,
    /// Frames of the file that were passed over because no buffer can hold them.
    pub rx_too_long: u64,
    /// Frames that the capture had cut; they are received as they are.
    pub rx_cut: u64,
    /// Frames sent.
    pub tx_frames: u64,
}

/// A device over two capture files, either of which may be missing: then nothing comes, or what is sent is only
/// counted.
pub struct PcapIo<R, W> {
    reader: Option<Reader<R>>,
    writer: Option<Writer<W>>,
    pool: MemPool,
    /// The frame that comes next, with its bytes in `bytes`.
    ahead: Option<Record>,
    bytes: Vec<u8>,
    release_until_ns: u64,
    tx_time_ns: u64,
    counts: PcapCounts,
    rx_error: Option<PcapError>,
    tx_error: Option<PcapError>,
}

impl<R, W> fmt::Debug for PcapIo<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcapIo")
            .field("reader", &self.reader)
            .field("writer", &self.writer)
            .field("ahead", &self.ahead)
            .field("counts", &self.counts)
            .field("rx_error", &self.rx_error)
            .field("tx_error", &self.tx_error)
            .finish_non_exhaustive()
    }
}

impl<R: Read, W: Write> PcapIo<R, W> {
    /// A device with buffers of `pool` that releases every frame at once and sends at time 0.
    ///
    /// # Errors
    /// [`PcapError::LinkType`] when the frames of `reader` are not Ethernet frames.
    pub fn new(
        pool: &MemPool,
        reader: Option<Reader<R>>,
        writer: Option<Writer<W>>,
    ) -> Result<Self, PcapError> {
        Ok(Self {
            reader: reader.map(Reader::into_ethernet).transpose()?,
            writer,
            pool: pool.clone(),
            ahead: None,
            bytes: Vec::new(),
            release_until_ns: u64::MAX,
            tx_time_ns: 0,
            counts: PcapCounts::default(),
            rx_error: None,
            tx_error: None,
        })
    }

    /// The time of the frame that comes next, in nanoseconds since 1970; `None` when no more come, be it because of
    /// an error ([`Self::rx_error`]). Files may go back in time; frames come in file order nevertheless.
    pub fn next_timestamp(&mut self) -> Option<u64> {
        while self.ahead.is_none() {
            let record = self.read()?;
            if self.bytes.len() > self.pool.longest() {
                self.counts.rx_too_long += 1;
                continue;
            }
            self.counts.rx_cut += u64::from(record.orig_len as usize > self.bytes.len());
            self.ahead = Some(record);
        }
        self.ahead.map(|record| record.ts_ns)
    }

    /// From now on only frames with times up to `ts_ns` are received; a frame behind one that is later waits for it.
    pub fn release_until(&mut self, ts_ns: u64) {
        self.release_until_ns = ts_ns;
    }

    /// The time, in nanoseconds since 1970, that frames get when they are sent from now on.
    pub fn set_tx_time(&mut self, ts_ns: u64) {
        self.tx_time_ns = ts_ns;
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> PcapCounts {
        self.counts
    }

    /// What ended the input before its end, if anything did.
    #[must_use]
    pub fn rx_error(&self) -> Option<&PcapError> {
        self.rx_error.as_ref()
    }

    /// Flushes the output and gives back what it was written to.
    ///
    /// # Errors
    /// The first error of the output, after which nothing more was sent.
    pub fn finish(self) -> Result<Option<W>, PcapError> {
        match self.tx_error {
            Some(e) => Err(e),
            None => self.writer.map(Writer::into_inner).transpose(),
        }
    }

    /// Reads one frame into `bytes`; `None` at the end and, with the error kept, when the file is bad.
    fn read(&mut self) -> Option<Record> {
        match self.reader.as_mut()?.next(&mut self.bytes) {
            Ok(record) => record,
            Err(e) => {
                self.rx_error = Some(e);
                None
            }
        }
    }

    /// The frame that comes next in a buffer, when it has been released and there is one.
    fn take(&mut self) -> Option<MemBuf> {
        if self.next_timestamp()? > self.release_until_ns {
            return None;
        }
        let mut buf = self.pool.alloc_for(self.bytes.len())?;
        assert!(
            buf.assign(&self.bytes),
            "the pool gave a buffer for this length"
        );
        self.ahead = None;
        Some(buf)
    }

    /// Writes one frame; an error is kept.
    fn send(&mut self, frame: &[u8]) -> bool {
        if let Some(writer) = &mut self.writer
            && let Err(e) = writer.write(self.tx_time_ns, frame)
        {
            self.tx_error = Some(e);
        }
        self.tx_error.is_none()
    }
}

impl<R: Read + Send, W: Write + Send> PacketIo for PcapIo<R, W> {
    type Buf = MemBuf;

    fn rx_burst(&mut self, out: &mut Burst<MemBuf>) -> usize {
        let before = out.len();
        while !out.is_full() {
            let Some(buf) = self.take() else { break };
            out.push(buf);
        }
        let n = out.len() - before;
        self.counts.rx_frames += n as u64;
        n
    }

    /// Takes everything; nothing from the first error on.
    fn tx_burst(&mut self, burst: &mut Burst<MemBuf>) -> usize {
        if self.tx_error.is_some() {
            return 0;
        }
        let n = burst.iter().take_while(|buf| self.send(buf.data())).count();
        burst.drain(..n);
        self.counts.tx_frames += n as u64;
        n
    }

    fn alloc(&mut self) -> Option<MemBuf> {
        self.pool.alloc()
    }
}
