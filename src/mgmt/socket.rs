//! The UNIX socket's file: made for its owner only, never taken from a living process, removed on stop.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Who may connect: the owner.
const MODE: u32 = 0o600;

/// A socket's file. Dropping it removes the file, unless somebody listens there: drop the listener first.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
}

impl SocketFile {
    /// Listens at `path`, whose directory is made if need be. A file left behind by a process that is gone is replaced.
    ///
    /// # Errors
    /// A sentence: somebody listens there, the file is no socket, or the system refuses.
    pub fn listen(path: &Path) -> Result<(Self, UnixListener), String> {
        let shown = path.display();
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        fs::create_dir_all(dir)
            .map_err(|e| format!("can't make {} for the control socket: {e}", dir.display()))?;
        make_way(path)?;
        // Made under another name, so that it is never there with more than its mode allows.
        let temporary = temporary(path);
        make_way(&temporary)?;
        let failed = |e: io::Error| format!("can't listen on the control socket {shown}: {e}");
        let listener = UnixListener::bind(&temporary).map_err(failed)?;
        let made = fs::set_permissions(&temporary, fs::Permissions::from_mode(MODE))
            .and_then(|()| fs::rename(&temporary, path))
            .and_then(|()| listener.set_nonblocking(true));
        match made {
            Ok(()) => {
                let path = path.to_owned();
                Ok((Self { path }, listener))
            }
            Err(e) => {
                // Whatever of the two is there is ours and of no use; the error says what matters.
                let _ = fs::remove_file(&temporary);
                Err(failed(e))
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // On the way out there is nobody to tell; the next start replaces the file.
        let _ = make_way(&self.path);
    }
}

/// A name beside `path` that is not longer: the system has a limit, and the configuration may go up to it.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let last = name.pop();
    name.push(if last == Some('~') { '.' } else { '~' });
    path.with_file_name(name)
}

/// Removes a socket that nobody listens on.
fn make_way(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let kind = match fs::symlink_metadata(path) {
        Ok(m) => m.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(format!("can't look at {shown}: {e}")),
    };
    if !kind.is_socket() {
        return Err(format!(
            "{shown} is there and is no socket; remove it, or set `control.socket` to another path"
        ));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(format!(
            "another polder listens on {shown}; stop it, or set `control.socket` to another path"
        )),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|e| format!("can't remove {shown}, left behind by an earlier run: {e}")),
        Err(e) => Err(format!("can't tell whether {shown} is in use: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_made_and_only_the_owner_may_connect() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("run/polder/control.sock");
        let (file, listener) = SocketFile::listen(&path).expect("listens");
        let mode = fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_living_socket_is_left_alone_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("s");
        let (first, listener) = SocketFile::listen(&path).expect("listens");
        let error = SocketFile::listen(&path).expect_err("in use");
        assert!(error.contains("another polder listens"), "{error}");
        drop(listener);
        let (_second, _listener) = SocketFile::listen(&path).expect("replaces the dead one");
        drop(first);
        assert!(path.exists(), "the first must not remove the second's file");
    }

    #[test]
    fn the_longest_path_that_the_system_takes_is_taken() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let room = 107 - dir.path().as_os_str().len() - 1;
        let path = dir.path().join("s".repeat(room));
        let (_file, _listener) = SocketFile::listen(&path).expect("listens");
        UnixStream::connect(&path).expect("connects");
    }

    #[test]
    fn a_file_that_is_no_socket_is_not_removed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("s");
        fs::write(&path, "precious").expect("writes");
        let error = SocketFile::listen(&path).expect_err("no socket");
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("reads"), "precious");
    }
}
