//! What DPDK says while something is being set up.
//!
//! DPDK and its drivers explain a failure in the log only. During a control operation the log goes to a file in memory,
//! so that the reason ends up in our own error sentence; the rest of the time it goes where DPDK sends it, stderr.
//! Invariant: the stream lives as long as the process, because a worker may be writing to it whenever it is switched.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd};
use std::ptr;
use std::sync::OnceLock;

/// The longest explanation that is kept, in bytes: the end of the log, where the cause is.
const LONGEST: usize = 600;

#[derive(Debug)]
struct Recorder {
    file: File,
    stream: *mut dpdk_sys::FILE,
}

// SAFETY: stdio locks a stream for every use, and a file descriptor has no thread.
unsafe impl Send for Recorder {}
// SAFETY: as above; `stream` is passed to C only.
unsafe impl Sync for Recorder {}

static RECORDER: OnceLock<Option<Recorder>> = OnceLock::new();

/// Runs `operation` and returns its result with what DPDK logged meanwhile, in one line.
///
/// Callers hold the control lock: there is one log for the process. With `aloud`, the log goes to stderr as usual.
pub(super) fn listen<R>(aloud: bool, operation: impl FnOnce() -> R) -> (R, String) {
    let recorder = if aloud {
        None
    } else {
        RECORDER.get_or_init(Recorder::new).as_ref()
    };
    let Some(recorder) = recorder else {
        return (operation(), String::new());
    };
    recorder.begin();
    let result = operation();
    (result, recorder.end())
}

/// Runs `operation` while stdout goes nowhere, unless `aloud`: DPDK answers a wrong argument with its whole help there.
///
/// For the start only, when nobody else writes to it.
pub(super) fn mute<R>(aloud: bool, operation: impl FnOnce() -> R) -> R {
    let nowhere = File::options().write(true).open("/dev/null");
    let (Ok(nowhere), Ok(real), false) =
        (nowhere, io::stdout().as_fd().try_clone_to_owned(), aloud)
    else {
        return operation();
    };
    let stdout = io::stdout().as_raw_fd();
    let switch = |to: i32| {
        // SAFETY: null means all streams of C, which has a buffer of its own.
        unsafe { libc::fflush(ptr::null_mut()) };
        // SAFETY: both descriptors are open; stdout stays one and nobody owns it.
        unsafe { libc::dup2(to, stdout) };
    };
    switch(nowhere.as_raw_fd());
    let result = operation();
    switch(real.as_raw_fd());
    result
}

impl Recorder {
    fn new() -> Option<Self> {
        // SAFETY: the name is a NUL-terminated constant.
        let descriptor = unsafe { libc::memfd_create(c"dpdk-log".as_ptr(), libc::MFD_CLOEXEC) };
        if descriptor < 0 {
            return None;
        }
        // SAFETY: the descriptor was just made and has no other owner.
        let file = unsafe { File::from_raw_fd(descriptor) };
        let writer = file.try_clone().ok()?.into_raw_fd();
        // SAFETY: the stream becomes the owner of `writer`; the mode is a NUL-terminated constant.
        let stream = unsafe { libc::fdopen(writer, c"a".as_ptr()) };
        (!stream.is_null()).then(|| Self {
            file,
            stream: stream.cast(),
        })
    }

    fn begin(&self) {
        // A log that cannot be emptied would repeat itself in the next message; that is all.
        let _ = self.file.set_len(0);
        // SAFETY: the stream is never closed.
        unsafe { dpdk_sys::rte_openlog_stream(self.stream) };
    }

    fn end(&self) -> String {
        // SAFETY: null means DPDK's own choice.
        unsafe { dpdk_sys::rte_openlog_stream(ptr::null_mut()) };
        let mut log = String::new();
        let mut file = &self.file;
        let read = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_string(&mut log));
        if read.is_err() {
            log.clear();
        }
        one_line(&log)
    }
}

/// The log's lines without repetition, joined by `; `, and only the end of it when it is long.
fn one_line(log: &str) -> String {
    let mut lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.dedup();
    let mut length = 0;
    let keep = lines
        .iter()
        .rev()
        .take_while(|line| {
            length += line.len();
            length <= LONGEST
        })
        .count()
        .max(1);
    let first = lines.len().saturating_sub(keep);
    lines[first..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_becomes_one_line_without_repetition() {
        assert_eq!(one_line("EAL: a\n\nEAL: b \nEAL: b\n"), "EAL: a; EAL: b");
        assert_eq!(one_line(""), "");
    }

    #[test]
    fn of_a_long_log_the_end_is_kept() {
        let log = (0..1000).map(|n| format!("line {n}\n")).collect::<String>();
        let said = one_line(&log);
        assert!(
            said.ends_with("line 999") && said.len() < 2 * LONGEST,
            "{said}"
        );
    }

    #[test]
    fn one_endless_line_is_kept_whole() {
        let line = "x".repeat(LONGEST + 1);
        assert_eq!(one_line(&line), line);
    }
}
