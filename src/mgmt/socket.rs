//! The UNIX socket's file: made for its owner only, never taken from a living process, removed on stop together with
//! the folders that were made for it.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Who may connect: the owner.
const MODE: u32 = 0o600;

/// What the operator can do about a socket that can't be had.
const ELSEWHERE: &str = "set `control.socket` to a path where polder may make one";

/// A socket's file. Dropping it removes the file, unless somebody listens there: drop the listener first.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    // Last, since they are removed once they are empty.
    _folders: Folders,
}

/// Folders that were made, the outermost first. Those that are empty are removed when this is dropped.
#[derive(Debug)]
struct Folders(Vec<PathBuf>);

impl Folders {
    /// Makes `folder` and all above it that are not there.
    fn make(folder: &Path) -> io::Result<Self> {
        let missing = folder
            .ancestors()
            .take_while(|f| !f.as_os_str().is_empty() && !f.exists());
        let mut missing: Vec<_> = missing.map(Path::to_owned).collect();
        missing.reverse();
        let mut made = Self(Vec::new());
        for folder in missing {
            match fs::create_dir(&folder) {
                Ok(()) => made.0.push(folder),
                // Somebody else was faster: it is theirs.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        // Also says so when what is there is no folder.
        fs::create_dir_all(folder).map(|()| made)
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // Fails for one that somebody uses, which is then theirs.
            let _ = fs::remove_dir(folder);
        }
    }
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
        let folders = Folders::make(dir).map_err(|e| {
            format!(
                "can't make {} for the control socket: {e}; {ELSEWHERE}",
                dir.display()
            )
        })?;
        make_way(path)?;
        // Made under another name, so that it is never there with more than its mode allows.
        let temporary = temporary(path);
        make_way(&temporary)?;
        let failed =
            |e: io::Error| format!("can't listen on the control socket {shown}: {e}; {ELSEWHERE}");
        let listener = UnixListener::bind(&temporary).map_err(failed)?;
        let made = fs::set_permissions(&temporary, fs::Permissions::from_mode(MODE))
            .and_then(|()| fs::rename(&temporary, path))
            .and_then(|()| listener.set_nonblocking(true));
        match made {
            Ok(()) => {
                let file = Self {
                    path: path.to_owned(),
                    _folders: folders,
                };
                Ok((file, listener))
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
        Err(e) => {
            return Err(format!(
                "can't look at {shown} for the control socket: {e}; {ELSEWHERE}"
            ));
        }
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
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|e| {
                format!("can't remove {shown}, left behind by an earlier run: {e}; {ELSEWHERE}")
            })
        }
        Err(e) => Err(format!(
            "can't tell whether the control socket {shown} is in use: {e}; {ELSEWHERE}"
        )),
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
    fn folders_that_were_made_are_removed_when_they_are_empty_and_no_others() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let there = dir.path().join("there");
        fs::create_dir(&there).expect("writes");
        let path = there.join("run/polder/control.sock");
        drop(SocketFile::listen(&path).expect("listens").0);
        assert!(path.exists(), "the listener is gone only now");
        let (file, listener) = SocketFile::listen(&path).expect("listens again");
        drop(listener);
        drop(file);
        assert!(there.join("run/polder").exists(), "it was there before");
        fs::remove_dir_all(there.join("run")).expect("writes");
        let (file, listener) = SocketFile::listen(&path).expect("listens");
        fs::write(there.join("run/note"), "of somebody").expect("writes");
        drop(listener);
        drop(file);
        assert!(!there.join("run/polder").exists(), "ours, and empty");
        assert!(there.join("run/note").exists(), "no longer empty");
        fs::remove_dir_all(there.join("run")).expect("writes");
        let too_long = there.join("run").join("s".repeat(200));
        SocketFile::listen(&too_long).expect_err("longer than a socket's path may be");
        assert!(!there.join("run").exists(), "also when the start failed");
        assert!(there.exists());
    }

    #[test]
    fn what_is_wrong_comes_with_the_key_that_mends_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("writes");
        for path in [
            file.join("control.sock"),
            file.clone(),
            dir.path().join("s".repeat(200)),
            PathBuf::from("/proc/nope/control.sock"),
        ] {
            let error = SocketFile::listen(&path).expect_err("can't be");
            assert!(error.contains("set `control.socket`"), "{error}");
        }
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
