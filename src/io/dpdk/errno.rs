//! The error numbers of DPDK and the kernel, put into words in this one place.

use std::ffi::CStr;
use std::fmt;

/// An error number as DPDK knows it; prints as its text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// "The device has no such operation": how drivers say that they lack an ability.
    pub(super) const NOT_SUPPORTED: Self = Self(libc::ENOTSUP);

    /// The calling thread's `rte_errno`.
    pub(super) fn last() -> Self {
        // SAFETY: reads a thread-local integer.
        Self(unsafe { dpdk_sys::polder_errno() })
    }

    /// The result of a DPDK function that returns a negative error number, or -1 with `rte_errno` set.
    pub(super) fn check(result: i32) -> Result<(), Self> {
        match result {
            0.. => Ok(()),
            -1 if Self::last().0 != 0 => Err(Self::last()),
            error => Err(Self(-error)),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: returns a string constant or a thread-local buffer for every number.
        let text = unsafe { dpdk_sys::rte_strerror(self.0) };
        // SAFETY: the string ends in NUL and is not overwritten before this thread's next rte_strerror.
        let text = unsafe { CStr::from_ptr(text) };
        f.write_str(&text.to_string_lossy())
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_number_prints_as_its_text() {
        assert_eq!(Errno(libc::ENODEV).to_string(), "No such device");
    }

    #[test]
    fn a_negative_result_is_the_error_of_that_number() {
        assert_eq!(Errno::check(-libc::ENOTSUP), Err(Errno::NOT_SUPPORTED));
        assert_eq!(Errno::check(0), Ok(()));
        assert_eq!(Errno::check(3), Ok(()));
    }
}
