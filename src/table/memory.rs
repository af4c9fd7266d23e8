//! Fixed memory of the tables: allocated once, on huge pages where the kernel gives them, and
//! touched at start so that no packet ever waits for a page fault.
//!
//! Owns the mapping. Knows nothing of what is stored. Invariant: every element is a valid `T` at
//! all times, because `T` is plain data and the mapping starts as zeroes.

use std::marker::PhantomData;
use std::{fmt, io};

use bytemuck::Pod;
use memmap2::MmapMut;

/// Why a table could not be made.
#[derive(Debug)]
pub enum TableError {
    /// The capacity is zero or beyond what an index can address.
    Capacity {
        /// What was asked for.
        asked: usize,
        /// The largest capacity there is.
        max: usize,
    },
    /// The kernel did not give the memory.
    Memory {
        /// What was asked for.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity { asked, max } => {
                write!(
                    f,
                    "a table of {asked} entries can't be made: it must have 1 to {max}"
                )
            }
            Self::Memory { bytes, source } => {
                write!(f, "{bytes} bytes for a table can't be allocated: {source}")
            }
        }
    }
}

impl std::error::Error for TableError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Capacity { .. } => None,
            Self::Memory { source, .. } => Some(source),
        }
    }
}

/// Bytes of a small page, the unit in which memory is touched at start.
const PAGE: usize = 4096;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Bytes from which on it is looked first whether the host has them.
const LARGE: usize = 16 << 20;

/// Refuses what the host does not have: the kernel promises more, and then kills whom it likes when all is touched.
///
/// # Errors
/// `bytes` are more than what is available.
pub fn fits(bytes: usize) -> Result<(), TableError> {
    if bytes < LARGE {
        return Ok(());
    }
    // Where the kernel does not tell, nothing is known against it.
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match available(&meminfo) {
        Some(available) if bytes > available => {
            let why = format!("this host has {} MB available", available >> 20);
            let source = io::Error::new(io::ErrorKind::OutOfMemory, why);
            Err(TableError::Memory { bytes, source })
        }
        _ => Ok(()),
    }
}

/// Bytes that can be had without swapping, from /proc/meminfo.
fn available(meminfo: &str) -> Option<usize> {
    let line = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// A fixed array of `T` in its own mapping.
///
/// Elements larger than a cache line start at a line of their own; smaller ones are packed.
pub struct Pages<T> {
    map: MmapMut,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Pod> Pages<T> {
    /// Bytes from one element to the next.
    pub const STRIDE: usize = if size_of::<T>() > LINE {
        size_of::<T>().next_multiple_of(LINE)
    } else {
        size_of::<T>()
    };

    /// Allocates `len` zeroed elements and touches every page from the calling thread, so that the
    /// memory is local to the NUMA node that the thread runs on.
    ///
    /// # Errors
    /// When the kernel does not give the memory.
    pub fn zeroed(len: usize) -> Result<Self, TableError> {
        let bytes = len
            .max(1)
            .checked_mul(Self::STRIDE)
            .ok_or(TableError::Capacity {
                asked: len,
                max: usize::MAX / Self::STRIDE,
            })?;
        fits(bytes)?;
        let mut map =
            MmapMut::map_anon(bytes).map_err(|source| TableError::Memory { bytes, source })?;
        // Only advice: a kernel without transparent huge pages refuses, and plain pages do. What it
        // gains depends on the host: nothing at 1 M connections on a virtual machine, much at 10 M
        // on hardware.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        map.iter_mut().step_by(PAGE).for_each(|b| *b = 0);
        Ok(Self {
            map,
            len,
            of: PhantomData,
        })
    }

    /// How many elements there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Element `i`.
    ///
    /// # Panics
    /// When `i` is not below the length.
    #[inline]
    pub fn at(&self, i: u32) -> &T {
        let start = i as usize * Self::STRIDE;
        bytemuck::from_bytes(&self.map[start..start + size_of::<T>()])
    }

    /// Element `i`, to be changed.
    ///
    /// # Panics
    /// When `i` is not below the length.
    #[inline]
    pub fn at_mut(&mut self, i: u32) -> &mut T {
        let start = i as usize * Self::STRIDE;
        bytemuck::from_bytes_mut(&mut self.map[start..start + size_of::<T>()])
    }
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages")
            .field("len", &self.len)
            .field("bytes", &self.map.len())
            .finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn elements_start_as_zero_and_keep_what_is_written() {
        let mut pages = Pages::<u64>::zeroed(10_000).unwrap();
        assert_eq!(pages.len(), 10_000);
        assert!((0..10_000).all(|i| *pages.at(i) == 0));
        for i in 0..10_000 {
            *pages.at_mut(i) = u64::from(i) * 3;
        }
        assert!((0..10_000).all(|i| *pages.at(i) == u64::from(i) * 3));
    }

    #[test]
    fn elements_beyond_a_line_start_at_a_line() {
        assert_eq!(Pages::<[u8; 64]>::STRIDE, 64);
        assert_eq!(Pages::<[u8; 65]>::STRIDE, 128);
        let pages = Pages::<[u8; 100]>::zeroed(3).unwrap();
        let at = |i| std::ptr::from_ref(pages.at(i)).addr();
        assert_eq!(at(0) % LINE, 0);
        assert_eq!(at(1) - at(0), 128);
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn an_element_beyond_the_end_is_refused() {
        let pages = Pages::<u32>::zeroed(4).unwrap();
        let _ = pages.at(4);
    }

    #[test]
    fn memory_that_the_host_does_not_have_is_never_touched() {
        assert_eq!(
            available("MemFree: 1 kB\nMemAvailable:    2048 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(available(""), None);
        // The kernel would promise as much, to die over it later.
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let Some(available) = available(&text) else {
            eprintln!("SKIPPED: this kernel does not tell how much memory is available");
            return;
        };
        let error = fits(available * 2).unwrap_err().to_string();
        assert!(error.contains("MB available"), "{error}");
        assert!(fits(LARGE - 1).is_ok());
    }

    #[test]
    fn memory_that_the_kernel_can_t_give_is_an_error_with_the_size() {
        let error = Pages::<[u8; 64]>::zeroed(1 << 52).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("{} bytes", 1u64 << 58)),
            "{error}"
        );
        assert!(Pages::<[u8; 64]>::zeroed(usize::MAX).is_err());
    }
}
