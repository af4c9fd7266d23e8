//! Writes pcap files.

use std::fmt;
use std::io::Write;

use super::classic::{MAGIC_MICRO, MAGIC_NANO};
use super::{FRAME_MAX, LINK_TYPE_ETHERNET, PcapError};

/// Writes Ethernet frames as pcap 2.4, little-endian on every machine so that equal frames make equal files.
pub struct Writer<W> {
    out: W,
    ns_per_tick: u64,
}

impl<W> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("ns_per_tick", &self.ns_per_tick)
            .finish_non_exhaustive()
    }
}

impl<W: Write> Writer<W> {
    /// Writes the file header to `out`, which should buffer. Timestamps get a resolution of a nanosecond, or of a
    /// microsecond, rounded down.
    ///
    /// # Errors
    /// [`PcapError::Write`].
    pub fn new(mut out: W, nanosecond: bool) -> Result<Self, PcapError> {
        let magic = if nanosecond { MAGIC_NANO } else { MAGIC_MICRO };
        let mut header = [0; 24];
        header[..4].copy_from_slice(&magic.to_le_bytes());
        header[4..6].copy_from_slice(&2_u16.to_le_bytes());
        header[6..8].copy_from_slice(&4_u16.to_le_bytes());
        header[16..20].copy_from_slice(&0x4_0000_u32.to_le_bytes());
        header[20..].copy_from_slice(&LINK_TYPE_ETHERNET.to_le_bytes());
        out.write_all(&header)
            .map_err(|source| PcapError::Write { source })?;
        Ok(Self {
            out,
            ns_per_tick: if nanosecond { 1 } else { 1000 },
        })
    }

    /// Writes one whole frame with its time in nanoseconds since 1970.
    ///
    /// # Errors
    /// [`PcapError::WriteTooLong`] and [`PcapError::WriteTime`], with nothing written; [`PcapError::Write`].
    pub fn write(&mut self, ts_ns: u64, frame: &[u8]) -> Result<(), PcapError> {
        let too_long = PcapError::WriteTooLong {
            length: frame.len(),
        };
        let length = u32::try_from(frame.len()).map_err(|_| too_long)?;
        if length as usize > FRAME_MAX {
            return Err(PcapError::WriteTooLong {
                length: frame.len(),
            });
        }
        let seconds =
            u32::try_from(ts_ns / 1_000_000_000).map_err(|_| PcapError::WriteTime { ts_ns })?;
        let ticks = u32::try_from(ts_ns % 1_000_000_000 / self.ns_per_tick)
            .expect("a second has fewer than 2^32 nanoseconds");
        let mut header = [0; 16];
        for (field, value) in header
            .chunks_exact_mut(4)
            .zip([seconds, ticks, length, length])
        {
            field.copy_from_slice(&value.to_le_bytes());
        }
        self.out
            .write_all(&header)
            .and_then(|()| self.out.write_all(frame))
            .map_err(|source| PcapError::Write { source })
    }

    /// Hands everything written so far on to where `out` writes to.
    ///
    /// # Errors
    /// [`PcapError::Write`].
    pub fn flush(&mut self) -> Result<(), PcapError> {
        self.out
            .flush()
            .map_err(|source| PcapError::Write { source })
    }

    /// Flushes and gives back what was written to.
    ///
    /// # Errors
    /// [`PcapError::Write`].
    pub fn into_inner(mut self) -> Result<W, PcapError> {
        self.flush()?;
        Ok(self.out)
    }
}
