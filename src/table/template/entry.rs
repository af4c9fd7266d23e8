//! One template in memory: three cache lines of atomic words, and what the packed ones mean.
//!
//! Knows nothing of chains, limits or time. The first line is all that a look-up without data reads.

use super::super::dest::DestId;
use super::data::{self, Pool};
use super::key::{Fixed, Probe, data_len};
use super::word::{Word, high, low, pair};

const INLINE_WORDS: usize = 13;
/// Bytes of data that an entry holds itself: a Call-ID has mostly 20 to 60.
pub const INLINE: usize = 8 * INLINE_WORDS;

/// The place of one template.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Entry<W> {
    /// [`Link`] to the next entry of the chain; of a free one, its link in the free stack.
    pub next: W,
    pub tag: W,
    /// [`Bound`].
    pub dest: W,
    pub fixed: [W; 5],
    /// [`Terms`].
    pub terms: W,
    pub holder: W,
    /// The data beyond [`INLINE`] bytes.
    pub chain: W,
    pub inline: [W; INLINE_WORDS],
}

impl<W: Word> Entry<W> {
    /// Whether the entry's key is the probe's.
    #[inline]
    pub fn is(&self, probe: &Probe<'_>, pool: &Pool<W>) -> bool {
        self.tag.load() == probe.tag
            && self
                .fixed
                .iter()
                .zip(probe.fixed)
                .all(|(word, is)| word.load() == is)
            && self.holds(probe.data, pool)
    }

    #[inline]
    fn holds(&self, data: &[u8], pool: &Pool<W>) -> bool {
        let (inline, rest) = data.split_at(data.len().min(INLINE));
        data::equal(&self.inline, inline)
            && (rest.is_empty() || pool.holds(low(self.chain.load()), rest))
    }

    /// Writes the key. `chain` holds the data beyond [`INLINE`] bytes.
    pub fn write_key(&self, probe: &Probe<'_>, chain: u32) {
        self.tag.store(probe.tag);
        for (word, value) in self.fixed.iter().zip(probe.fixed) {
            word.store(value);
        }
        data::fill(&self.inline, &probe.data[..probe.data.len().min(INLINE)]);
        self.chain.store(u64::from(chain));
    }

    /// The fixed parts of the key.
    pub fn fixed(&self) -> Fixed {
        std::array::from_fn(|i| self.fixed[i].load())
    }

    /// Replaces `out` by the data; whether there are any, be they empty.
    pub fn copy_data(&self, pool: &Pool<W>, out: &mut Vec<u8>) -> bool {
        out.clear();
        let Some(len) = data_len(self.tag.load()) else {
            return false;
        };
        data::append(&self.inline, len.min(INLINE), out);
        pool.copy(low(self.chain.load()), len.saturating_sub(INLINE), out);
        true
    }
}

/// A reference from a chain to an entry in one of its lives; a stale one is noticed by the life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub life: u32,
}

impl Link {
    /// The link that a word stands for, if it leads anywhere.
    #[inline]
    pub fn unpack(word: u64) -> Option<Self> {
        let index = high(word).checked_sub(1)?;
        Some(Self {
            index,
            life: low(word),
        })
    }

    #[inline]
    pub fn pack(self) -> u64 {
        pair(self.index + 1, self.life)
    }
}

/// The server of a template, in a word with the number of the life that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    pub dest: DestId,
    /// A controlled connection was established (specification §2.7).
    pub assured: bool,
    /// The number of the entry's life, or, when that has ended, of the next one; 31 bits.
    pub life: u32,
}

impl Bound {
    const ASSURED: u32 = 1 << 31;

    #[inline]
    pub fn unpack(word: u64) -> Self {
        Self {
            dest: DestId(high(word)),
            assured: low(word) & Self::ASSURED != 0,
            life: low(word) & !Self::ASSURED,
        }
    }

    #[inline]
    pub fn pack(self) -> u64 {
        let assured = if self.assured { Self::ASSURED } else { 0 };
        pair(self.dest.0, assured | self.life)
    }

    /// The life after this one.
    #[inline]
    pub fn next_life(self) -> u32 {
        (self.life + 1) & !Self::ASSURED
    }
}

/// Who made a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Origin {
    /// This node.
    Local = 0,
    /// A peer, by state sync.
    Synced = 1,
}

/// What stays as it was at insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub origin: Origin,
    /// The timeout in ticks before the first expiry with connections; below 2³¹.
    pub timeout: u32,
    /// The counter of the client.
    pub client: u32,
}

impl Terms {
    const SYNCED: u32 = 1 << 31;

    #[inline]
    pub fn unpack(word: u64) -> Self {
        let origin = if high(word) & Self::SYNCED == 0 {
            Origin::Local
        } else {
            Origin::Synced
        };
        Self {
            origin,
            timeout: high(word) & !Self::SYNCED,
            client: low(word),
        }
    }

    #[inline]
    pub fn pack(self) -> u64 {
        let synced = match self.origin {
            Origin::Local => 0,
            Origin::Synced => Self::SYNCED,
        };
        pair(synced | self.timeout, self.client)
    }
}
