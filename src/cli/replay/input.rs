//! The frames of several captures in the order of their timestamps.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::forward::PortId;
use crate::net::pcap::{PcapError, Reader};

/// A capture that could not be opened or read on.
#[derive(Debug)]
pub struct InputError {
    path: PathBuf,
    what: What,
}

#[derive(Debug)]
enum What {
    Open(std::io::Error),
    NoFile,
    Read(PcapError),
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match &self.what {
            What::Open(e) => write!(f, "can't be opened: {e}"),
            What::NoFile => f.write_str(
                "it is not a regular file, and captures are read more than once; save it first",
            ),
            What::Read(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for InputError {}

struct Source {
    port: PortId,
    path: PathBuf,
    reader: Reader<File>,
    /// The frame that comes next from this file.
    frame: Vec<u8>,
    ts_ns: Option<u64>,
}

impl Source {
    fn fetch(&mut self) -> Result<(), InputError> {
        match self.reader.next(&mut self.frame) {
            Ok(record) => {
                self.ts_ns = record.map(|r| r.ts_ns);
                Ok(())
            }
            Err(e) => {
                self.ts_ns = None;
                Err(InputError {
                    path: self.path.clone(),
                    what: What::Read(e),
                })
            }
        }
    }
}

/// Merges captures by timestamp; files given first win ties.
pub struct Merge {
    sources: Vec<Source>,
    failure: Option<InputError>,
}

impl fmt::Debug for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merge")
            .field("sources", &self.sources.len())
            .finish()
    }
}

impl Merge {
    /// Opens all files.
    ///
    /// # Errors
    /// The first file that is no Ethernet capture.
    pub fn open(files: &[(PortId, PathBuf)]) -> Result<Self, InputError> {
        let mut merge = Self {
            sources: Vec::new(),
            failure: None,
        };
        for (port, path) in files {
            let reader = open(path)?;
            let mut source = Source {
                port: *port,
                path: path.clone(),
                reader,
                frame: Vec::new(),
                ts_ns: None,
            };
            if let Err(e) = source.fetch() {
                merge.failure.get_or_insert(e);
            }
            merge.sources.push(source);
        }
        Ok(merge)
    }

    /// The next frame in time, put into `frame`, with its port and timestamp in nanoseconds since 1970.
    pub fn next(&mut self, frame: &mut Vec<u8>) -> Option<(PortId, u64)> {
        let first = self
            .sources
            .iter()
            .enumerate()
            .filter_map(|(i, s)| s.ts_ns.map(|ts| (ts, i)))
            .min()
            .map(|(_, i)| i)?;
        let source = &mut self.sources[first];
        std::mem::swap(frame, &mut source.frame);
        let out = source.ts_ns.map(|ts| (source.port, ts));
        if let Err(e) = source.fetch() {
            self.failure.get_or_insert(e);
        }
        out
    }

    /// What ended a file before its end, if anything did. All whole frames before that have come out.
    pub fn failure(&mut self) -> Option<InputError> {
        self.failure.take()
    }
}

fn open(path: &Path) -> Result<Reader<File>, InputError> {
    let fail = |what| InputError {
        path: path.to_owned(),
        what,
    };
    // Asked beforehand because opening a pipe would wait for somebody to write.
    let kind = std::fs::metadata(path).map_err(|e| fail(What::Open(e)))?;
    if !kind.is_file() {
        return Err(fail(What::NoFile));
    }
    let file = File::open(path).map_err(|e| fail(What::Open(e)))?;
    Reader::open_ethernet(file).map_err(|e| fail(What::Read(e)))
}
