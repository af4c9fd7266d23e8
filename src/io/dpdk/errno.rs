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

    /// The result of a DPDK function that returns a negative error number.
    pub(super) fn check(result: i32) -> Result<(), Self> {
        if result >= 0 {
            Ok(())
        } else {
            Err(Self(result.saturating_neg()))
        }
    }

    /// The result of a DPDK function that returns -1 and leaves the error number in `rte_errno`.
    pub(super) fn check_last(result: i32) -> Result<(), Self> {
        if result >= 0 {
            Ok(())
        } else {
            Err(Self::last())
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Drivers return -1 when they have nothing to say, and that is also EPERM.
        if self.0 == libc::EPERM {
            return f.write_str("it failed, or is not permitted");
        }
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
    fn a_failure_without_a_reason_does_not_pretend_to_have_one() {
        assert_eq!(
            Errno::check(-1).map_err(|e| e.to_string()),
            Err("it failed, or is not permitted".into())
        );
    }

    #[test]
    fn a_negative_result_is_the_error_of_that_number() {
        assert_eq!(Errno::check(-libc::ENOTSUP), Err(Errno::NOT_SUPPORTED));
        assert_eq!(Errno::check(0), Ok(()));
        assert_eq!(Errno::check(3), Ok(()));
    }
}
