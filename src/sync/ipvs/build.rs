//! Messages from records.

use std::fmt;

use super::record::flag;
use super::{AnyEnds, ConnRecord, HostOrder, RECORDS_MAX, Record, Seq, Version, v0, v1};

/// Longest message that the size field can tell of.
const SIZE_MAX: usize = u16::MAX as usize;

/// What the format has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CantCarry {
    /// Version 0 is IPv4 only.
    Ipv6,
    /// The engine's name has none or more than 16 bytes.
    EngineName,
    /// The session's key has none or more than 255 bytes.
    EngineData,
}

impl fmt::Display for CantCarry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv6 => "version 0 of the ipvs format has no IPv6",
            Self::EngineName => "the ipvs format has room for engine names of 1 to 16 bytes",
            Self::EngineData => "the ipvs format has room for session keys of 1 to 255 bytes",
        })
    }
}

impl std::error::Error for CantCarry {}

/// Puts records together to messages. Keeps its buffer.
#[derive(Clone, Debug)]
pub struct Builder {
    version: Version,
    sync_id: u8,
    max_len: usize,
    host_order: HostOrder,
    count: u8,
    message: Vec<u8>,
}

impl Builder {
    /// An empty message of at most `max_len` bytes. A longer one is made only of a single record that
    /// would have no room otherwise (specification §9.1).
    #[must_use]
    pub fn new(version: Version, sync_id: u8, max_len: usize) -> Self {
        let max_len = max_len.min(SIZE_MAX);
        Self {
            version,
            sync_id,
            max_len,
            host_order: HostOrder::default(),
            count: 0,
            message: Vec::with_capacity(max_len),
        }
    }

    /// The same as a host of another byte order would write it.
    #[must_use]
    pub fn with_host_order(mut self, order: HostOrder) -> Self {
        self.host_order = order;
        self
    }

    /// Records in the message so far.
    #[must_use]
    pub fn count(&self) -> u8 {
        self.count
    }

    /// Whether the message has no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends a record, or says `false` when the message is full: then [`finish`](Self::finish) it
    /// and come again. An empty message takes any record.
    ///
    /// # Errors
    /// What of the record the format can't carry; the message stays as it is.
    pub fn push(&mut self, record: &Record<'_>) -> Result<bool, CantCarry> {
        match self.version {
            Version::V0 => self.push_v0(record),
            Version::V1 => self.push_v1(record),
        }
    }

    fn push_v0(&mut self, record: &Record<'_>) -> Result<bool, CantCarry> {
        let entry = record.entry();
        let AnyEnds::V4(ends) = &entry.ends else {
            return Err(CantCarry::Ipv6);
        };
        let fits = self.make_room(0, v0::encoded_len(entry));
        if fits {
            v0::encode(entry, ends, self.host_order, &mut self.message);
        }
        Ok(fits)
    }

    fn push_v1(&mut self, record: &Record<'_>) -> Result<bool, CantCarry> {
        if let Some(engine) = record.engine() {
            if engine.name.is_empty() || engine.name.len() > v1::ENGINE_NAME_MAX {
                return Err(CantCarry::EngineName);
            }
            if engine.data.is_empty() || engine.data.len() > v1::ENGINE_DATA_MAX {
                return Err(CantCarry::EngineData);
            }
        }
        let padding = self.message.len().next_multiple_of(v1::ALIGNMENT) - self.message.len();
        let fits = self.make_room(padding, v1::encoded_len(record));
        if fits {
            v1::encode(record, &mut self.message);
        }
        Ok(fits)
    }

    /// Prepares for a record of `len` bytes behind `padding`; whether there is room for it.
    fn make_room(&mut self, padding: usize, len: usize) -> bool {
        if self.count == 0 {
            self.message.clear();
            self.message.resize(self.version.header_len(), 0);
        } else if self.count == RECORDS_MAX || self.message.len() + padding + len > self.max_len {
            return false;
        } else {
            self.message.resize(self.message.len() + padding, 0);
        }
        self.count += 1;
        true
    }

    /// The message, if it has records; the next one is empty again.
    pub fn finish(&mut self) -> Option<&[u8]> {
        if self.count == 0 {
            return None;
        }
        let size = u16::try_from(self.message.len()).expect("messages are kept below 64 kB");
        let [high, low] = size.to_be_bytes();
        match self.version {
            Version::V0 => {
                let header = [self.count, self.sync_id, high, low];
                self.message[..v0::HEADER_LEN].copy_from_slice(&header);
            }
            Version::V1 => {
                let header = [0, self.sync_id, high, low, self.count, 1, 0, 0];
                self.message[..v1::HEADER_LEN].copy_from_slice(&header);
            }
        }
        self.count = 0;
        Some(&self.message)
    }
}

impl ConnRecord {
    /// Its flags as they are sent.
    pub(super) fn wire_flags(&self) -> u32 {
        // Receivers of version 0 find the next record by these bits.
        let seq = if self.seq.is_some() { 0 } else { flag::SEQ };
        self.flags & !(flag::HASHED | seq)
    }

    /// Its sequence adjustment if it is sent.
    pub(super) fn wire_seq(&self) -> Option<&Seq> {
        self.seq.as_ref().filter(|_| self.flags & flag::SEQ != 0)
    }
}
