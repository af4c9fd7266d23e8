//! The bytes of a capture file in order, decompressed where needed, with the offset that errors name.

use std::fmt;
use std::io::{self, BufRead, BufReader, Chain, Cursor, ErrorKind, Read};

use flate2::read::MultiGzDecoder;

use super::PcapError;

/// Bytes read at once.
const BUFFER: usize = 64 * 1024;

/// The file again from its first byte after the first bytes were looked at.
type Whole<R> = Chain<Cursor<Vec<u8>>, R>;

enum Source<R> {
    Plain(BufReader<Whole<R>>),
    Gzip(BufReader<MultiGzDecoder<Whole<R>>>),
}

impl<R: Read> Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Plain(source) => source.fill_buf(),
            Self::Gzip(source) => source.fill_buf(),
        }
    }

    fn consume(&mut self, n: usize) {
        match self {
            Self::Plain(source) => source.consume(n),
            Self::Gzip(source) => source.consume(n),
        }
    }
}

/// A capture file's bytes. Reads each byte once and holds one buffer of fixed size.
pub(super) struct Input<R> {
    source: Source<R>,
    offset: u64,
    limit: u64,
}

impl<R> fmt::Debug for Input<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gzip = matches!(self.source, Source::Gzip(_));
        f.debug_struct("Input")
            .field("offset", &self.offset)
            .field("gzip", &gzip)
            .finish()
    }
}

impl<R: Read> Input<R> {
    /// Looks at the first bytes for the gzip magic number (RFC 1952 §2.3.1). More than `limit` bytes are an error.
    pub(super) fn open(mut inner: R, limit: u64) -> Result<Self, PcapError> {
        let mut first = Vec::with_capacity(2);
        // `take` and `read_to_end` go on through short reads and interruptions.
        (&mut inner)
            .take(2)
            .read_to_end(&mut first)
            .map_err(|source| PcapError::Read { offset: 0, source })?;
        let gzip = first == [0x1f, 0x8b];
        let whole = Cursor::new(first).chain(inner);
        let source = if gzip {
            Source::Gzip(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(whole)))
        } else {
            Source::Plain(BufReader::with_capacity(BUFFER, whole))
        };
        Ok(Self {
            source,
            offset: 0,
            limit,
        })
    }

    /// Bytes taken so far, after decompression.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Fills `buf`; `false`, with nothing taken, when the file ends before its first byte.
    pub(super) fn fill_or_end(
        &mut self,
        buf: &mut [u8],
        what: &'static str,
    ) -> Result<bool, PcapError> {
        let offset = self.offset;
        let mut got = 0;
        while got < buf.len() {
            let n = self.with_ready(buf.len() - got, |ready| {
                buf[got..got + ready.len()].copy_from_slice(ready);
            })?;
            match n {
                0 if got == 0 => return Ok(false),
                0 => {
                    let (wanted, got) = (buf.len() as u64, got as u64);
                    return Err(PcapError::Cut {
                        offset,
                        what,
                        wanted,
                        got,
                    });
                }
                _ => got += n,
            }
        }
        Ok(true)
    }

    /// Fills `buf`.
    pub(super) fn fill(&mut self, buf: &mut [u8], what: &'static str) -> Result<(), PcapError> {
        let offset = self.offset;
        if buf.is_empty() || self.fill_or_end(buf, what)? {
            return Ok(());
        }
        Err(PcapError::Cut {
            offset,
            what,
            wanted: buf.len() as u64,
            got: 0,
        })
    }

    /// Passes over `n` bytes.
    pub(super) fn skip(&mut self, n: u64, what: &'static str) -> Result<(), PcapError> {
        let offset = self.offset;
        let mut left = n;
        while left > 0 {
            let chunk = usize::try_from(left).unwrap_or(usize::MAX);
            match self.with_ready(chunk, |_| ())? {
                0 => {
                    return Err(PcapError::Cut {
                        offset,
                        what,
                        wanted: n,
                        got: n - left,
                    });
                }
                taken => left -= taken as u64,
            }
        }
        Ok(())
    }

    /// Takes between 1 and `most` bytes, shows them to `see` and says how many; 0 at the end of the file.
    fn with_ready(&mut self, most: usize, see: impl FnOnce(&[u8])) -> Result<usize, PcapError> {
        let (offset, limit) = (self.offset, self.limit);
        let ready = loop {
            match self.source.fill_buf() {
                Ok([]) => return Ok(0),
                Ok(ready) => break ready.len(),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // Only the decompressor says so: a plain file's end is an empty buffer.
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                    return Err(PcapError::CutGzip { offset });
                }
                Err(source) => return Err(PcapError::Read { offset, source }),
            }
        };
        let allowed = usize::try_from(limit - offset).unwrap_or(usize::MAX);
        if allowed == 0 {
            return Err(PcapError::Limit { limit });
        }
        let n = ready.min(most).min(allowed);
        let buffered = self
            .source
            .fill_buf()
            .map_err(|source| PcapError::Read { offset, source })?;
        see(&buffered[..n]);
        self.source.consume(n);
        self.offset += n as u64;
        Ok(n)
    }
}
