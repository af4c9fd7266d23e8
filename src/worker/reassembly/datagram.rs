//! A datagram that is whole, in the frames that it came in.
//!
//! Invariant: the pieces' payloads follow each other without gap or overlap from offset 0 to `len`.

use arrayvec::ArrayVec;

use super::FRAGMENTS_MAX;
use crate::forward::PortId;
use crate::net::PacketBuf;

/// One fragment's frame, as received.
#[derive(Debug)]
pub struct Piece<B> {
    /// The frame.
    pub buf: B,
    /// The port that it came in by.
    pub ingress: PortId,
    /// Where its part of the datagram's payload starts, in bytes from the frame's first.
    pub payload: u16,
    /// Bytes of that part.
    pub len: u16,
    /// Where that part belongs in the datagram's payload, in bytes.
    pub offset: u16,
}

impl<B: PacketBuf> Piece<B> {
    /// Its part of the datagram's payload; empty when the frame was cut since.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let from = usize::from(self.payload);
        self.buf
            .data()
            .get(from..from + usize::from(self.len))
            .unwrap_or(&[])
    }
}

/// A whole datagram.
#[derive(Debug)]
pub struct Datagram<B> {
    /// Its frames, in the order of their offsets: the first one has the transport header.
    pub pieces: ArrayVec<Piece<B>, FRAGMENTS_MAX>,
    /// The transport protocol, as the first fragment names it.
    pub proto: u8,
    /// Where the transport header starts in the datagram's payload, in bytes. Not 0 only where IPv6 destination options
    /// were fragmented with what follows them.
    pub transport: u16,
    /// Bytes of the datagram's payload.
    pub len: u16,
}

impl<B: PacketBuf> Datagram<B> {
    /// Replaces what is in `out` by the datagram from its transport header on. Call it before the frames are rewritten.
    /// Does not allocate when `out` has a capacity of [`super::DATAGRAM_BYTES_MAX`].
    pub fn gather(&self, out: &mut Vec<u8>) {
        out.clear();
        let mut skip = usize::from(self.transport);
        for piece in &self.pieces {
            let bytes = piece.bytes();
            out.extend_from_slice(&bytes[skip.min(bytes.len())..]);
            skip = skip.saturating_sub(bytes.len());
        }
    }
}
