//! Bodies of streams: records put together, and records that are longer than a datagram taken apart and joined.

use super::read::Fields;
use super::record::{HEAD_LEN, PIECE_FIXED, Piece, Record, Records, head};
use super::{TIME_MAX, entry};
use crate::sync::entry::Entry;
use crate::sync::polder::Rejected;
use crate::sync::polder::seal;

/// Bytes of a stream's number.
const SEQ_LEN: usize = 8;
/// Shortest room for a body that a builder works with, so that every record but a long template fits into it.
pub const BODY_MIN: usize = 512;
/// Less room than this is not worth a piece.
const PIECE_MIN: usize = HEAD_LEN + PIECE_FIXED + 64;
/// Longest record that is joined from pieces: a template with the longest key.
const JOINED_MAX: usize = entry::TEMPLATE_MAX + 1;

/// A body of the kind [`super::Kind::Stream`].
#[derive(Clone, Debug, PartialEq)]
pub struct Stream<'a> {
    /// Its number in the stream; the first is 1.
    pub seq: u64,
    records: Records<'a>,
}

impl<'a> Stream<'a> {
    pub(super) fn read(mut fields: Fields<'a>) -> Option<Self> {
        let seq = fields.u64()?;
        Some(Self {
            seq,
            records: Records(fields.0),
        })
    }

    /// Its records as they are there. Pieces are for a [`Joiner`].
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        self.records.clone()
    }
}

/// Puts records together to bodies, and keeps its buffer.
///
/// Push until it says `false`, then [`finish`](Self::finish) and push again, as often as it takes; at the end finish
/// until there is nothing. An entry that is longer than a datagram goes out in pieces, in as many bodies as it takes.
#[derive(Clone, Debug)]
pub struct StreamBuilder {
    body_max: usize,
    body: Vec<u8>,
    /// The body is being filled; otherwise it was given out.
    open: bool,
    /// A record that is longer than a body: its type and its fields.
    long: Vec<u8>,
    /// How much of `long` is in bodies.
    told: usize,
}

impl StreamBuilder {
    /// For datagrams of at most `max_len` bytes of UDP payload, envelope included.
    #[must_use]
    pub fn new(max_len: usize) -> Self {
        let body_max = max_len
            .min(seal::DATAGRAM_MAX)
            .saturating_sub(seal::OVERHEAD);
        let body_max = body_max.max(BODY_MIN);
        Self {
            body_max,
            body: Vec::with_capacity(body_max),
            open: false,
            long: Vec::new(),
            told: 0,
        }
    }

    /// Whether there is nothing to finish.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.long.is_empty() && !(self.open && self.body.len() > SEQ_LEN)
    }

    /// Appends a record, or says `false` when the body is full.
    ///
    /// # Panics
    /// When a record that is no entry is longer than [`BODY_MIN`]; those that are built here never are.
    pub fn push(&mut self, record: &Record<'_>) -> bool {
        if let Record::Upsert(entry) = record {
            return self.upsert(entry, entry.remaining());
        }
        if !self.begin() {
            return false;
        }
        let before = self.body.len();
        record.put(&mut self.body);
        let fits = self.body.len() <= self.body_max;
        if !fits {
            assert!(before > SEQ_LEN, "a record that no body has room for");
            self.body.truncate(before);
        }
        fits
    }

    /// Appends [`Record::Upsert`] of `entry` with other ticks left than it says.
    #[inline]
    pub fn upsert(&mut self, entry: &Entry, remaining: u32) -> bool {
        if !self.begin() {
            return false;
        }
        let remaining = remaining.min(TIME_MAX);
        match entry {
            Entry::Conn(conn) => {
                let (bytes, len) = entry::conn(conn, remaining);
                let fits = self.body.len() + len <= self.body_max;
                if fits {
                    self.body.extend_from_slice(&bytes[..len]);
                }
                fits
            }
            Entry::Template(template) => {
                let len = HEAD_LEN + entry::template_len(template);
                if self.body.len() + len <= self.body_max {
                    self.body
                        .extend_from_slice(&head(entry::TEMPLATE, len - HEAD_LEN));
                    entry::put_template(template, remaining, &mut self.body);
                    return true;
                }
                if SEQ_LEN + len <= self.body_max {
                    return false;
                }
                self.long.push(entry::TEMPLATE);
                entry::put_template(template, remaining, &mut self.long);
                self.put_pieces();
                true
            }
        }
    }

    /// The body with this number, if it has records.
    pub fn finish(&mut self, seq: u64) -> Option<&[u8]> {
        self.begin();
        self.open = false;
        if self.body.len() == SEQ_LEN {
            return None;
        }
        self.body[..SEQ_LEN].copy_from_slice(&seq.to_be_bytes());
        Some(&self.body)
    }

    /// Opens a body if none is; whether another record may be appended.
    #[inline]
    fn begin(&mut self) -> bool {
        if !self.open {
            self.open = true;
            self.body.clear();
            self.body.resize(SEQ_LEN, 0);
            if !self.long.is_empty() {
                self.put_pieces();
            }
        }
        self.long.is_empty()
    }

    /// Puts as much of a long record into the body as there is room for.
    fn put_pieces(&mut self) {
        let room = self.body_max - self.body.len();
        if room < PIECE_MIN {
            return;
        }
        let number = |n: usize| u32::try_from(n).expect("records are far shorter");
        let rest = &self.long[self.told..];
        let bytes = &rest[..rest.len().min(room - HEAD_LEN - PIECE_FIXED)];
        let piece = Piece {
            offset: number(self.told),
            total: number(self.long.len()),
            bytes,
        };
        Record::Piece(piece).put(&mut self.body);
        self.told += bytes.len();
        if self.told == self.long.len() {
            self.told = 0;
            self.long.clear();
        }
    }
}

/// Joins the pieces of long records of one stream, whose bodies must come in order.
#[derive(Clone, Debug, Default)]
pub struct Joiner {
    /// The pieces so far, from the first.
    bytes: Vec<u8>,
    total: usize,
}

impl Joiner {
    /// The records of a body: as [`Stream::records`], but with joined entries in place of pieces.
    pub fn records<'a>(
        &mut self,
        stream: &Stream<'a>,
    ) -> impl Iterator<Item = Result<Record<'a>, Rejected>> {
        stream.records().filter_map(|record| match record {
            Ok(Record::Piece(piece)) => self.take(&piece).transpose(),
            other => Some(other),
        })
    }

    /// Forgets a record that is not whole; for streams that skip.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The record that `piece` completes, if it does.
    ///
    /// # Errors
    /// [`Rejected::Piece`], or why the joined record is none.
    pub fn take<'a>(&mut self, piece: &Piece<'_>) -> Result<Option<Record<'a>>, Rejected> {
        if piece.offset == 0 {
            self.bytes.clear();
            self.total = piece.total as usize;
        }
        let end = self.bytes.len() + piece.bytes.len();
        let fits = piece.offset as usize == self.bytes.len()
            && piece.total as usize == self.total
            && self.total <= JOINED_MAX
            && end <= self.total
            && !piece.bytes.is_empty();
        if !fits {
            self.reset();
            return Err(Rejected::Piece);
        }
        self.bytes.extend_from_slice(piece.bytes);
        if end < self.total {
            return Ok(None);
        }
        let whole = std::mem::take(self).bytes;
        let (kind, fields) = whole.split_first().expect("pieces are not empty");
        // Only entries are ever taken apart; another type is of a newer release.
        match entry::decode(*kind, fields) {
            Some(entry) => Ok(Some(Record::Upsert(std::borrow::Cow::Owned(entry?)))),
            None => Ok(None),
        }
    }
}
