//! The messages of Linux's IPVS, versions 0 and 1 (specification §9.2 to §9.5, §9.8).
//!
//! Owns the bytes: what a message and its records look like, and why one is none. Knows nothing of
//! what is done with a record; which of them a backup takes is [`super::backup`]'s. Invariant: a
//! decoder reads inside the message only, whatever its length fields say, and takes at most as many
//! records as the message counts.
//!
//! Cost: one pass and no allocation both ways; an encoded record is one to five copies into the
//! message's buffer.

mod build;
mod record;
mod rejected;
#[cfg(test)]
mod tests;
pub mod v0;
pub mod v1;

pub use build::{Builder, CantCarry};
pub use record::{AnyEnds, ConnRecord, Engine, Record, Seq, SeqPair, TemplateRecord, flag};
pub use rejected::{Rejected, Rejections};

/// UDP port of the first sync channel; channel `i` uses this plus `i` (specification §9.1).
pub const PORT: u16 = 8848;
/// IPv4 group that messages are sent to by default.
pub const GROUP: std::net::Ipv4Addr = std::net::Ipv4Addr::new(224, 0, 0, 81);
/// Longest message that a master sends by default over IPv4, in bytes of UDP payload.
pub const MAX_LEN_V4: usize = 1472;
/// Longest message that a master sends by default over IPv6, in bytes of UDP payload.
pub const MAX_LEN_V6: usize = 1452;
/// Records of one message at most: the counter has eight bits. Linux lets it wrap, and receivers
/// then lose 256 records (specification §9.4); Polder begins another message.
pub const RECORDS_MAX: u8 = u8::MAX;

/// Which of the two layouts a message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// IPv4 only; no timeout, mark or engine.
    V0,
    /// Everything that IPVS knows of an entry.
    V1,
}

impl Version {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::V0 => 0,
            Self::V1 => 1,
        }
    }

    /// Bytes in front of the first record.
    #[must_use]
    pub const fn header_len(self) -> usize {
        match self {
            Self::V0 => v0::HEADER_LEN,
            Self::V1 => v1::HEADER_LEN,
        }
    }
}

/// How the sender of a version 0 message keeps numbers in memory: its sequence blocks come so
/// (specification §9.2). The message does not say which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HostOrder {
    /// x86, ARM.
    #[default]
    Little,
    /// s390x and others.
    Big,
}

/// What a receiver wants of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Receiver {
    /// Only messages with this sync id; 0 takes all (specification §9.8).
    pub sync_id: u8,
    /// Of senders of version 0.
    pub host_order: HostOrder,
}

/// A message whose header holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its layout.
    pub version: Version,
    /// Which group of directors it is for.
    pub sync_id: u8,
    /// Records that it counts.
    pub count: u8,
    bytes: &'a [u8],
    host_order: HostOrder,
}

impl Receiver {
    /// Opens a message, the whole payload of a UDP datagram.
    ///
    /// # Errors
    /// Why nothing in it can be read.
    pub fn open<'a>(&self, bytes: &'a [u8]) -> Result<Message<'a>, Rejected> {
        let [count, sync_id, high, low] = *bytes.first_chunk().ok_or(Rejected::Short)?;
        if usize::from(u16::from_be_bytes([high, low])) != bytes.len() {
            return Err(Rejected::Size);
        }
        if self.sync_id != 0 && self.sync_id != sync_id {
            return Err(Rejected::SyncId);
        }
        let (version, count) = match bytes.first_chunk() {
            Some([0, _, _, _, count, 1, 0, 0]) => (Version::V1, *count),
            // IPVS reads it as a version 0 message without records; so what is lost is the warning.
            _ if count == 0 && bytes.len() > v0::HEADER_LEN => return Err(Rejected::Version),
            _ => (Version::V0, count),
        };
        Ok(Message {
            version,
            sync_id,
            count,
            bytes,
            host_order: self.host_order,
        })
    }
}

impl<'a> Message<'a> {
    /// The records in order. After an error that [ends the message](Rejected::ends_message) there
    /// are none; after others the next record follows.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        Records {
            at: self.version.header_len(),
            left: self.count,
            message: *self,
        }
    }

    /// Bytes of the whole message.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it counts no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The records of a message.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    message: Message<'a>,
    at: usize,
    left: u8,
}

impl Records<'_> {
    /// Bytes behind the last record, which nobody reads; meaningful once all records came out.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.message.bytes.len().saturating_sub(self.at)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Rejected>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let message = &self.message;
        let decoded = match message.version {
            Version::V0 => v0::decode(message.bytes, self.at, message.host_order),
            Version::V1 => v1::decode(message.bytes, self.at),
        };
        match decoded {
            Ok((record, next)) => {
                self.at = next;
                if record.is_err_and(Rejected::ends_message) {
                    self.left = 0;
                }
                Some(record)
            }
            Err(e) => {
                self.left = 0;
                Some(Err(e))
            }
        }
    }
}
