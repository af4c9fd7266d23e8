//! What directors say to each other inside the envelope: messages, and the records of a stream.
//!
//! Owns the bytes of a body. Knows nothing of keys, counters and what a message makes its receiver do. Invariants: a
//! decoder reads inside its body only and allocates no more than the body is long, whatever its fields say; what it
//! returns encodes to a body that decodes to the same.
//!
//! Numbers are in network order. A body or a record may be longer than its fields here: what follows is of a newer
//! release, and is ignored. A record of an unknown type is passed over likewise.
//!
//! Cost: a connection is encoded into a buffer on the stack and copied once, and decoded without allocation.

mod entry;
mod message;
mod read;
mod record;
mod stream;
#[cfg(test)]
mod tests;

pub use entry::{bucket_of, digest_of, id_of, id_of_template};
pub use message::{
    Hello, Kind, Lost, Message, NACK_RANGES_MAX, NAME_MAX, Nack, Report, Roles, Want, Wanted,
    Welcome, decode, encode_hello, encode_lost, encode_nack, encode_report, encode_want,
    encode_welcome,
};
pub use record::{
    BUCKET_LEN, BUCKETS, Bucket, Buckets, Mark, Piece, Record, Records, VECTOR_MAX, Versions,
};
pub use stream::{BODY_MIN, Joiner, Stream, StreamBuilder};

/// Longest time of an entry that can be told of, in ticks: 124 days. Longer ones are told as this.
pub const TIME_MAX: u32 = 1 << 30;
