//! The records of a stream.

use std::borrow::Cow;

use super::entry;
use super::read::Fields;
use crate::sync::entry::{Entry, EntryId};
use crate::sync::polder::Rejected;

/// Buckets that entries are divided into by their ids.
pub const BUCKETS: usize = 256;
/// Bytes of a bucket's digest on the wire.
pub const BUCKET_LEN: usize = 12;
/// Buckets of one [`Record::MarkVector`] at most, so that it fits into any datagram.
pub const VECTOR_MAX: usize = 32;

/// Bytes in front of a record's fields: its type and how many bytes follow.
pub(super) const HEAD_LEN: usize = 3;
/// Types of records. Those of entries are [`entry`]'s.
const REMOVE: u8 = 16;
const MARK: u8 = 17;
const MARK_VECTOR: u8 = 18;
const REPAIR_BEGIN: u8 = 19;
const REPAIR_END: u8 = 20;
const PIECE: u8 = 21;
/// Bytes of a piece's fields in front of its bytes.
pub(super) const PIECE_FIXED: usize = 8;

/// Versions of the format that a director understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Versions {
    /// The lowest.
    pub min: u8,
    /// The highest.
    pub max: u8,
}

impl Versions {
    /// Those of this release.
    pub const OURS: Self = Self { min: 1, max: 1 };

    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [min, max] = fields.array()?;
        (min <= max).then_some(Self { min, max })
    }

    pub(super) fn bytes(self) -> [u8; 2] {
        [self.min, self.max]
    }
}

/// A part of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// An entry that is new, or not as it was told. Its id is not on the wire: [`super::id_of`].
    Upsert(Cow<'a, Entry>),
    /// An entry that is gone.
    Remove(EntryId),
    /// The digest of all that was told before.
    Mark(Mark),
    /// Digests of some buckets, as of all that was told before the first of the records that make the vector.
    MarkVector {
        /// The first bucket; the others follow.
        first_bucket: u8,
        /// Their digests.
        buckets: Buckets<'a>,
    },
    /// All entries of a bucket follow, up to [`Record::RepairEnd`]. What is not named there is gone.
    RepairBegin(u8),
    /// All of the bucket's entries were named.
    RepairEnd(u8),
    /// A part of an [`Record::Upsert`] that no datagram has room for. [`super::Joiner`] puts them together.
    Piece(Piece<'a>),
    /// A record of a newer release, to be passed over.
    Unknown {
        /// Its type.
        kind: u8,
        /// What follows it.
        bytes: &'a [u8],
    },
}

/// A digest of everything that a sender has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The sender's time.
    pub tick: u32,
    /// Entries.
    pub count: u64,
    /// Wrapping sum of their digests.
    pub sum: u64,
    /// Of the format that the sender understands.
    pub versions: Versions,
}

/// A digest of the entries of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Bucket {
    /// Entries.
    pub count: u32,
    /// Wrapping sum of their digests.
    pub sum: u64,
}

impl Bucket {
    /// As it is on the wire.
    #[must_use]
    pub fn bytes(self) -> [u8; BUCKET_LEN] {
        let mut out = [0; BUCKET_LEN];
        out[..4].copy_from_slice(&self.count.to_be_bytes());
        out[4..].copy_from_slice(&self.sum.to_be_bytes());
        out
    }

    fn read(bytes: [u8; BUCKET_LEN]) -> Self {
        let [a, b, c, d, sum @ ..] = bytes;
        Self {
            count: u32::from_be_bytes([a, b, c, d]),
            sum: u64::from_be_bytes(sum),
        }
    }
}

/// Digests of consecutive buckets: 1 to [`VECTOR_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets<'a>(&'a [[u8; BUCKET_LEN]]);

impl<'a> Buckets<'a> {
    /// From what [`Bucket::bytes`] made.
    ///
    /// # Panics
    /// When there are none or more than [`VECTOR_MAX`].
    #[must_use]
    pub fn new(buckets: &'a [[u8; BUCKET_LEN]]) -> Self {
        assert!((1..=VECTOR_MAX).contains(&buckets.len()));
        Self(buckets)
    }

    /// How many.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = Bucket> + use<'a> {
        self.0.iter().map(|bytes| Bucket::read(*bytes))
    }
}

/// A part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Bytes of the record in front of it.
    pub offset: u32,
    /// Bytes of the whole record.
    pub total: u32,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// From its type and its fields.
    pub(super) fn read(kind: u8, bytes: &'a [u8]) -> Result<Self, Rejected> {
        if let Some(entry) = entry::decode(kind, bytes) {
            return entry.map(|e| Self::Upsert(Cow::Owned(e)));
        }
        let mut fields = Fields(bytes);
        let record = match kind {
            REMOVE => fields.u128().map(|id| Self::Remove(EntryId(id))),
            MARK => mark(&mut fields)?.map(Self::Mark),
            MARK_VECTOR => return mark_vector(bytes),
            REPAIR_BEGIN => fields.u8().map(Self::RepairBegin),
            REPAIR_END => fields.u8().map(Self::RepairEnd),
            PIECE => piece(fields).map(Self::Piece),
            _ => Some(Self::Unknown { kind, bytes }),
        };
        record.ok_or(Rejected::RecordShort)
    }

    /// Appends type, length and fields of any but an entry.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Upsert(_) => unreachable!("the builder has its own way with entries"),
            Self::Remove(id) => put(REMOVE, &[&id.0.to_be_bytes()], out),
            Self::Mark(m) => put(
                MARK,
                &[
                    &m.tick.to_be_bytes(),
                    &m.count.to_be_bytes(),
                    &m.sum.to_be_bytes(),
                    &m.versions.bytes(),
                ],
                out,
            ),
            Self::MarkVector {
                first_bucket,
                buckets,
            } => put(
                MARK_VECTOR,
                &[&[*first_bucket], buckets.0.as_flattened()],
                out,
            ),
            Self::RepairBegin(bucket) => put(REPAIR_BEGIN, &[&[*bucket]], out),
            Self::RepairEnd(bucket) => put(REPAIR_END, &[&[*bucket]], out),
            Self::Piece(p) => put(
                PIECE,
                &[&p.offset.to_be_bytes(), &p.total.to_be_bytes(), p.bytes],
                out,
            ),
            Self::Unknown { kind, bytes } => put(*kind, &[bytes], out),
        }
    }
}

fn put(kind: u8, fields: &[&[u8]], out: &mut Vec<u8>) {
    let len = fields.iter().map(|f| f.len()).sum();
    out.extend_from_slice(&head(kind, len));
    for field in fields {
        out.extend_from_slice(field);
    }
}

/// What is in front of a record's fields.
pub(super) fn head(kind: u8, len: usize) -> [u8; HEAD_LEN] {
    let len = u16::try_from(len).expect("a record is no longer than its datagram");
    let [high, low] = len.to_be_bytes();
    [kind, high, low]
}

fn mark(fields: &mut Fields<'_>) -> Result<Option<Mark>, Rejected> {
    let (Some(tick), Some(count), Some(sum)) = (fields.u32(), fields.u64(), fields.u64()) else {
        return Ok(None);
    };
    if fields.0.len() < 2 {
        return Ok(None);
    }
    let versions = Versions::read(fields).ok_or(Rejected::RecordValue)?;
    Ok(Some(Mark {
        tick,
        count,
        sum,
        versions,
    }))
}

fn mark_vector(bytes: &[u8]) -> Result<Record<'_>, Rejected> {
    let (&first_bucket, buckets) = bytes.split_first().ok_or(Rejected::RecordShort)?;
    let (buckets, rest) = buckets.as_chunks();
    let fits = (1..=VECTOR_MAX).contains(&buckets.len())
        && usize::from(first_bucket) + buckets.len() <= BUCKETS;
    if !fits || !rest.is_empty() {
        return Err(Rejected::RecordValue);
    }
    Ok(Record::MarkVector {
        first_bucket,
        buckets: Buckets(buckets),
    })
}

fn piece(mut fields: Fields<'_>) -> Option<Piece<'_>> {
    Some(Piece {
        offset: fields.u32()?,
        total: fields.u32()?,
        bytes: fields.0,
    })
}

/// The records of a body in order. After an error that [ends the message](Rejected::ends_message) there are none; after
/// others the next record follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Records<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Rejected>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut fields = Fields(std::mem::take(&mut self.0));
        let Some([kind, high, low]) = fields.array() else {
            return Some(Err(Rejected::RecordCut));
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let Some(bytes) = fields.take(len) else {
            return Some(Err(Rejected::RecordCut));
        };
        self.0 = fields.0;
        Some(Record::read(kind, bytes))
    }
}
