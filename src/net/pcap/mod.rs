//! Capture files: reads pcap and pcapng (plain or gzip), writes pcap.
//!
//! Owns the file formats and nothing else: where the bytes come from, what the frames mean and when they are sent is
//! the caller's. Knows no clock; timestamps are nanoseconds since 1970.
//!
//! Invariant: the input is hostile. No length in a file is allocated or looped by before it was held against a cap,
//! so that memory stays below 1 MB whatever the file says, and every block moves the reader forward.

mod classic;
mod error;
mod input;
mod ng;
mod reader;
mod writer;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;

pub use error::PcapError;
pub use reader::{Limits, Reader, Record};
pub use writer::Writer;

/// Most bytes that a captured frame may have; libpcap's own limit.
pub const FRAME_MAX: usize = 262_144;

/// The link type of Ethernet frames, the only one that Polder can forward.
pub const LINK_TYPE_ETHERNET: u32 = 1;

/// Byte order of a file or of a pcapng section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        }
    }
}

/// The `N` bytes of `bytes` from `at` on.
///
/// # Panics
/// When there are fewer; callers pass constant offsets into constant-size headers.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("the range is N bytes long")
}
