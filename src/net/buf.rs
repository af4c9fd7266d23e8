//! The packet buffer as the data path sees it, whoever owns the memory.

use std::fmt;

/// Frames per burst.
pub const BURST: usize = 32;

/// A fixed-capacity list of frames on their way.
pub type Burst<B> = arrayvec::ArrayVec<B, BURST>;

/// One frame in one contiguous buffer with room in front and behind. Dropping it returns the buffer.
pub trait PacketBuf: Send + fmt::Debug {
    /// The frame, from the Ethernet header on.
    fn data(&self) -> &[u8];
    /// The frame, to be changed.
    fn data_mut(&mut self) -> &mut [u8];
    /// Grows the frame by `n` bytes in front and returns them (contents undefined but initialised); `None`,
    /// with nothing changed, when there is no room.
    fn prepend(&mut self, n: usize) -> Option<&mut [u8]>;
    /// Removes the first `n` bytes.
    ///
    /// # Panics
    /// When the frame is shorter than `n`.
    fn trim_front(&mut self, n: usize);
    /// Grows the frame by `n` bytes at the end and returns them; `None`, with nothing changed, when there is no room.
    fn append(&mut self, n: usize) -> Option<&mut [u8]>;
    /// Shortens the frame to `len` bytes. Does nothing when it is not longer.
    fn truncate(&mut self, len: usize);

    /// Makes the frame equal to `bytes`. `false`, with the frame emptied, when they do not fit.
    fn assign(&mut self, bytes: &[u8]) -> bool {
        self.truncate(0);
        match self.append(bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}
