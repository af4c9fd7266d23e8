//! One reader over both formats.

use std::fmt;
use std::io::Read;

use super::classic::Classic;
use super::input::Input;
use super::ng::Ng;
use super::{LINK_TYPE_ETHERNET, PcapError};

/// What a capture says of one frame besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since 1970, saturated at both ends. A pcapng simple packet has no time of its own and gets that of
    /// the packet before it (0 at the start).
    pub ts_ns: u64,
    /// The frame's link type, as in tcpdump.org's list.
    pub link_type: u32,
    /// Bytes that the frame had on the wire; more than were captured when the capture cut it.
    pub orig_len: u32,
}

/// What a reader accepts besides the built-in caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of file, after decompression. Unlimited by default: a compression bomb costs time, not memory.
    pub total_bytes: u64,
    /// Whether frames that are not Ethernet frames are an error. Off by default.
    pub ethernet_only: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total_bytes: u64::MAX,
            ethernet_only: false,
        }
    }
}

enum Format {
    Classic(Classic),
    Ng(Ng),
}

/// Reads the frames of one capture file in file order.
pub struct Reader<R> {
    input: Input<R>,
    format: Format,
    limits: Limits,
    ended: bool,
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = match self.format {
            Format::Classic(_) => "pcap",
            Format::Ng(_) => "pcapng",
        };
        f.debug_struct("Reader")
            .field("format", &format)
            .field("input", &self.input)
            .field("ended", &self.ended)
            .finish()
    }
}

impl<R: Read> Reader<R> {
    /// Opens a pcap or pcapng file, plain or compressed with gzip. `inner` needs no buffering of its own.
    ///
    /// # Errors
    /// When the file header is not that of a capture file in a known version.
    pub fn open(inner: R) -> Result<Self, PcapError> {
        Self::open_with(inner, Limits::default())
    }

    /// Like [`Self::open`], and any link type but Ethernet is an error: here when the file has one for all packets
    /// (pcap), at the first such packet otherwise (pcapng).
    ///
    /// # Errors
    /// As [`Self::open`], and [`PcapError::LinkType`].
    pub fn open_ethernet(inner: R) -> Result<Self, PcapError> {
        Self::open_with(
            inner,
            Limits {
                ethernet_only: true,
                ..Limits::default()
            },
        )
    }

    /// Like [`Self::open`], with limits.
    ///
    /// # Errors
    /// As [`Self::open`], and what the limits forbid.
    pub fn open_with(inner: R, limits: Limits) -> Result<Self, PcapError> {
        let mut input = Input::open(inner, limits.total_bytes)?;
        let mut magic = [0; 4];
        input.fill(&mut magic, "file header")?;
        let format = match Classic::open(magic, &mut input)? {
            Some(classic) => Format::Classic(classic),
            None => Format::Ng(Ng::open(magic, &mut input)?),
        };
        let reader = Self {
            input,
            format,
            limits,
            ended: false,
        };
        reader.check_file_link_type()?;
        Ok(reader)
    }

    /// The same reader, for which any link type but Ethernet is an error from now on.
    ///
    /// # Errors
    /// [`PcapError::LinkType`] when the file has another one for all packets (pcap).
    pub fn into_ethernet(mut self) -> Result<Self, PcapError> {
        self.limits.ethernet_only = true;
        self.check_file_link_type()?;
        Ok(self)
    }

    /// Reads the next frame into `buf`, replacing what was there, or says `None` at the end of the file. What `buf`
    /// holds is a frame only after `Some`; it never grows beyond twice [`super::FRAME_MAX`].
    ///
    /// # Errors
    /// When the file is cut, damaged, unreadable or against the limits. All whole frames before that came out
    /// first, and every later call says `None`.
    pub fn next(&mut self, buf: &mut Vec<u8>) -> Result<Option<Record>, PcapError> {
        if self.ended {
            return Ok(None);
        }
        let record = self.next_checked(buf);
        self.ended = !matches!(record, Ok(Some(_)));
        record
    }

    fn next_checked(&mut self, buf: &mut Vec<u8>) -> Result<Option<Record>, PcapError> {
        match &mut self.format {
            Format::Classic(classic) => classic.next(&mut self.input, buf),
            Format::Ng(ng) => {
                let Some(record) = ng.next(&mut self.input, buf)? else {
                    return Ok(None);
                };
                let offset = ng.packet_offset();
                self.check_link_type(offset, record.link_type)?;
                Ok(Some(record))
            }
        }
    }

    fn check_file_link_type(&self) -> Result<(), PcapError> {
        match &self.format {
            Format::Classic(classic) => self.check_link_type(0, classic.link_type()),
            Format::Ng(_) => Ok(()),
        }
    }

    fn check_link_type(&self, offset: u64, link_type: u32) -> Result<(), PcapError> {
        if self.limits.ethernet_only && link_type != LINK_TYPE_ETHERNET {
            return Err(PcapError::LinkType { offset, link_type });
        }
        Ok(())
    }
}

#[cfg(test)]
impl<R> Reader<R> {
    /// Bytes on the heap that depend on the file's contents.
    pub(super) fn variable_bytes(&self) -> usize {
        match &self.format {
            Format::Classic(_) => 0,
            Format::Ng(ng) => ng.variable_bytes(),
        }
    }
}
