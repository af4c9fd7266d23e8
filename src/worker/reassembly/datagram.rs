//! A datagram that is whole, in the frames that it came in.
//!
//! Invariant: the pieces' payloads follow each other without gap or overlap from offset 0 to `len`.

use crate::forward::Pieces;
use crate::net::PacketBuf;

/// A whole datagram.
#[derive(Debug)]
pub struct Datagram<B> {
    /// Its frames, in the order of their offsets: the first one has the transport header.
    pub pieces: Pieces<B>,
    /// The transport protocol, as the first fragment names it.
    pub proto: u8,
    /// Where the transport header starts in the datagram's payload, in bytes. Not 0 only where IPv6 destination options
    /// were fragmented with what follows them.
    pub transport: u16,
    /// Bytes of the datagram's payload.
    pub len: u16,
}

impl<B: PacketBuf> Datagram<B> {
    /// Its frames, the first of which now begins with the transport header, which lies in it as a whole.
    #[must_use]
    pub fn from_transport(mut self) -> Pieces<B> {
        if let Some(first) = self.pieces.first_mut() {
            first.payload += self.transport;
            first.len -= self.transport;
            first.offset += self.transport;
        }
        self.pieces
    }
}

/// Replaces what is in `out` by what fragments carry. Call it before the frames are rewritten. Does not allocate when
/// `out` has a capacity of [`super::DATAGRAM_BYTES_MAX`].
pub fn gather<B: PacketBuf>(pieces: &Pieces<B>, out: &mut Vec<u8>) {
    out.clear();
    for piece in pieces {
        out.extend_from_slice(piece.bytes());
    }
}
