//! Data of templates that are longer than an entry holds: a pool of fixed chunks, chained.
//!
//! Owns the chunks. Knows nothing of entries: a chain is named by its first chunk. Reading a chain
//! that was given back meanwhile gives nonsense, never a fault or an endless walk; the table notices
//! by the entry's life number.

use super::super::memory::{TableError, fits};
use super::key::word_at;
use super::word::{FreeStack, Word, low};

const WORDS: usize = 7;
/// Bytes that one chunk holds.
pub const CHUNK: usize = 8 * WORDS;

/// One cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Chunk<W> {
    /// The next chunk's number plus 1, of a chain or of the free stack.
    link: W,
    bytes: [W; WORDS],
}

/// All chunks of a table.
#[derive(Debug)]
pub struct Pool<W> {
    chunks: Box<[Chunk<W>]>,
    free: FreeStack<W>,
}

/// A chain: its first chunk's number plus 1, or 0 for an empty one.
pub type Chain = u32;

impl<W: Word> Pool<W> {
    /// A pool of `count` chunks.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(count: u32) -> Result<Self, TableError> {
        let pool = Self {
            chunks: slab(count as usize)?,
            free: FreeStack::default(),
        };
        (0..count).rev().for_each(|i| pool.give_back(i));
        Ok(pool)
    }

    /// Stores `data` in as many chunks as that takes; nothing if there are too few.
    pub fn store(&self, data: &[u8]) -> Option<Chain> {
        let mut chain = 0;
        for part in data.chunks(CHUNK).rev() {
            let Some(i) = self.free.pop(|i| &self.chunks[i as usize].link) else {
                self.release(chain);
                return None;
            };
            let chunk = &self.chunks[i as usize];
            fill(&chunk.bytes, part);
            chunk.link.store(u64::from(chain));
            chain = i + 1;
        }
        Some(chain)
    }

    /// Whether `chain` holds `data`, given that it holds as many bytes.
    pub fn holds(&self, chain: Chain, data: &[u8]) -> bool {
        let mut chain = chain;
        data.chunks(CHUNK).all(|part| {
            let Some(chunk) = self.chunk(chain) else {
                return false;
            };
            chain = low(chunk.link.load());
            equal(&chunk.bytes, part)
        })
    }

    /// Appends the `len` bytes of `chain` to `out`.
    pub fn copy(&self, chain: Chain, len: usize, out: &mut Vec<u8>) {
        let (mut chain, end) = (chain, out.len() + len);
        while out.len() < end {
            let Some(chunk) = self.chunk(chain) else {
                return;
            };
            append(&chunk.bytes, end - out.len(), out);
            chain = low(chunk.link.load());
        }
    }

    /// Gives the chunks of `chain` back. Only whoever owns it may.
    pub fn release(&self, chain: Chain) {
        let mut chain = chain;
        while let Some(chunk) = self.chunk(chain) {
            let i = chain - 1;
            chain = low(chunk.link.load());
            self.give_back(i);
        }
    }

    /// How many chunks are free. Exact only while nothing else uses the pool.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        let mut taken = Vec::new();
        while let Some(i) = self.free.pop(|i| &self.chunks[i as usize].link) {
            taken.push(i);
        }
        taken.iter().rev().for_each(|&i| self.give_back(i));
        taken.len()
    }

    fn chunk(&self, chain: Chain) -> Option<&Chunk<W>> {
        self.chunks.get(chain.checked_sub(1)? as usize)
    }

    fn give_back(&self, i: u32) {
        self.free.push(i, &self.chunks[i as usize].link);
    }
}

/// Stores `data` into words that have room for it.
pub fn fill<W: Word>(words: &[W], data: &[u8]) {
    for (i, word) in words.iter().take(data.len().div_ceil(8)).enumerate() {
        word.store(word_at(data, 8 * i));
    }
}

/// Whether the words hold `data`.
#[inline]
pub fn equal<W: Word>(words: &[W], data: &[u8]) -> bool {
    words
        .iter()
        .take(data.len().div_ceil(8))
        .enumerate()
        .all(|(i, word)| word.load() == word_at(data, 8 * i))
}

/// Appends the bytes of the words to `out`, at most `limit`.
pub fn append<W: Word>(words: &[W], limit: usize, out: &mut Vec<u8>) {
    out.extend(
        words
            .iter()
            .flat_map(|word| word.load().to_le_bytes())
            .take(limit),
    );
}

/// A fixed array, written once so that no packet waits for a page fault.
///
/// # Errors
/// When the memory can't be had.
pub fn slab<T: Default>(len: usize) -> Result<Box<[T]>, TableError> {
    fits(len.saturating_mul(size_of::<T>()))?;
    let mut all = Vec::new();
    all.try_reserve_exact(len).map_err(|_| TableError::Memory {
        bytes: len.saturating_mul(size_of::<T>()),
        source: std::io::ErrorKind::OutOfMemory.into(),
    })?;
    all.resize_with(len, T::default);
    Ok(all.into_boxed_slice())
}
