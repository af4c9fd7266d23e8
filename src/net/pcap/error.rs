//! What can be wrong with a capture file, as sentences for the operator.

use std::{fmt, io};

use super::FRAME_MAX;

/// Why a capture file can't be read on, or a frame can't be written.
///
/// Offsets are bytes from the start of the file, after decompression.
#[derive(Debug)]
pub enum PcapError {
    /// The first bytes are no capture file's.
    NotACapture {
        /// The first four bytes, in file order.
        magic: [u8; 4],
    },
    /// A pcap file in a variant that is not read.
    Variant {
        /// The magic number, in the file's own byte order.
        magic: u32,
    },
    /// The format's version is not one that is known.
    Version {
        /// Where the file header or section starts.
        offset: u64,
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// The file ends in the middle of something.
    Cut {
        /// Where that something starts.
        offset: u64,
        /// What it is.
        what: &'static str,
        /// How many bytes it should have.
        wanted: u64,
        /// How many there are.
        got: u64,
    },
    /// The compressed stream ends before its end mark.
    CutGzip {
        /// Decompressed bytes up to there.
        offset: u64,
    },
    /// A frame is longer than any that is captured.
    FrameTooLong {
        /// Where its record or block starts.
        offset: u64,
        /// The captured length that the file states, in bytes.
        length: u32,
    },
    /// A block's total length is impossible.
    BlockLength {
        /// Where the block starts.
        offset: u64,
        /// Block type.
        kind: u32,
        /// The length that the file states, in bytes.
        length: u32,
    },
    /// A block is too short for what it must hold.
    BlockShort {
        /// Where the block starts.
        offset: u64,
        /// Block type.
        kind: u32,
        /// Bytes that its contents need.
        wanted: u64,
        /// Bytes that are left in it.
        left: u64,
    },
    /// The length before and the length after a block differ.
    BlockTrailer {
        /// Where the block starts.
        offset: u64,
        /// The length before it.
        leading: u32,
        /// The length after it.
        trailing: u32,
    },
    /// The byte-order magic of a section header is none.
    ByteOrderMagic {
        /// Where the section starts.
        offset: u64,
        /// The four bytes, in file order.
        magic: [u8; 4],
    },
    /// An option runs past its block or has the wrong length.
    OptionLength {
        /// Where the block starts.
        offset: u64,
        /// Option code.
        code: u16,
        /// The length that the file states, in bytes.
        length: u16,
    },
    /// A packet refers to an interface that was not declared.
    NoInterface {
        /// Where the block starts.
        offset: u64,
        /// The interface's number.
        id: u32,
        /// How many the section has declared.
        known: usize,
    },
    /// A section declares more interfaces than are kept.
    TooManyInterfaces {
        /// Where the block starts.
        offset: u64,
        /// How many are kept.
        limit: usize,
    },
    /// The frames are not Ethernet frames.
    LinkType {
        /// Where the file header, or the block of the first such packet, starts.
        offset: u64,
        /// The link type.
        link_type: u32,
    },
    /// The file is longer than the caller allowed.
    Limit {
        /// The limit in bytes.
        limit: u64,
    },
    /// The bytes could not be read or decompressed.
    Read {
        /// How far it went.
        offset: u64,
        /// What the system or the decompressor said.
        source: io::Error,
    },
    /// The bytes could not be written.
    Write {
        /// What the system said.
        source: io::Error,
    },
    /// A frame to be written is longer than a capture file can hold.
    WriteTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A timestamp to be written is beyond the 32 bits that pcap has for seconds.
    WriteTime {
        /// The timestamp in nanoseconds since 1970.
        ts_ns: u64,
    },
}

impl fmt::Display for PcapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotACapture {
                magic: [a, b, c, d],
            } => write!(
                f,
                "This is not a pcap or pcapng file: it starts with the bytes \
                 {a:02x} {b:02x} {c:02x} {d:02x}."
            ),
            Self::Variant { magic } => write!(
                f,
                "This variant of pcap (magic number {magic:#010x}) is not supported; convert the file with \
                 editcap -F pcap."
            ),
            Self::Version {
                offset,
                major,
                minor,
            } => write!(
                f,
                "The capture format at offset {offset} has the unknown version {major}.{minor}."
            ),
            Self::Cut {
                offset,
                what,
                wanted,
                got,
            } => write!(
                f,
                "The file is cut: the {what} at offset {offset} needs {wanted} bytes and has {got}."
            ),
            Self::CutGzip { offset } => write!(
                f,
                "The file is cut: its gzip stream ends without an end mark after {offset} \
                 decompressed bytes."
            ),
            Self::FrameTooLong { offset, length } => write!(
                f,
                "The packet at offset {offset} claims {length} captured bytes; the limit is {FRAME_MAX}."
            ),
            Self::BlockLength {
                offset,
                kind,
                length,
            } => write!(
                f,
                "The block of type {kind:#x} at offset {offset} claims the impossible length {length}."
            ),
            Self::BlockShort {
                offset,
                kind,
                wanted,
                left,
            } => write!(
                f,
                "The block of type {kind:#x} at offset {offset} is too short: its contents need \
                 {wanted} more bytes where {left} are left."
            ),
            Self::BlockTrailer {
                offset,
                leading,
                trailing,
            } => write!(
                f,
                "The block at offset {offset} starts with length {leading} and ends with length {trailing}."
            ),
            Self::ByteOrderMagic {
                offset,
                magic: [a, b, c, d],
            } => write!(
                f,
                "The section at offset {offset} has the byte-order mark {a:02x} {b:02x} {c:02x} {d:02x}, \
                 which is none."
            ),
            Self::OptionLength {
                offset,
                code,
                length,
            } => write!(
                f,
                "Option {code} of the block at offset {offset} has the impossible length {length}."
            ),
            Self::NoInterface { offset, id, known } => write!(
                f,
                "The packet at offset {offset} belongs to interface {id}, but the section has declared \
                 {known}."
            ),
            Self::TooManyInterfaces { offset, limit } => write!(
                f,
                "The interface at offset {offset} is one more than the {limit} that a section may declare."
            ),
            Self::LinkType { offset, link_type } => write!(
                f,
                "The packets at offset {offset} have link type {link_type} ({}); only Ethernet (1) can \
                 be used.",
                link_type_name(*link_type)
            ),
            Self::Limit { limit } => {
                write!(f, "The file is longer than the {limit} bytes allowed.")
            }
            Self::Read { offset, source } => {
                write!(
                    f,
                    "The file could not be read on from offset {offset}: {source}."
                )
            }
            Self::Write { source } => write!(f, "The capture file could not be written: {source}."),
            Self::WriteTooLong { length } => write!(
                f,
                "A frame of {length} bytes can't be written to a capture file; the limit is {FRAME_MAX}."
            ),
            Self::WriteTime { ts_ns } => write!(
                f,
                "The time of {ts_ns} ns since 1970 can't be written to a capture file; the limit is \
                 4294967295 s."
            ),
        }
    }
}

impl std::error::Error for PcapError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::Write { source } => Some(source),
            _ => None,
        }
    }
}

/// The name of the link types that operators meet (tcpdump.org's list).
fn link_type_name(link_type: u32) -> &'static str {
    match link_type {
        0 | 108 => "BSD loopback",
        1 => "Ethernet",
        9 => "PPP",
        12 | 14 | 101 => "raw IP without a link layer",
        104 => "Cisco HDLC",
        105 => "IEEE 802.11",
        107 => "Frame Relay",
        113 => "Linux cooked capture",
        127 => "IEEE 802.11 with radiotap",
        189 | 220 => "USB",
        228 => "raw IPv4",
        229 => "raw IPv6",
        239 => "Linux netfilter log",
        276 => "Linux cooked capture version 2",
        _ => "not known here",
    }
}
