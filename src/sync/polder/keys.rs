//! The keys that directors know each other by, and the file that they are in.
//!
//! Owns the file's syntax, its permissions and the ciphers. Knows nothing of datagrams. Invariant: there is always one
//! key to send with, and key material is neither printed nor left behind in memory.
//!
//! A line is `ID HEX64`, with `receive` behind it for a key that is only accepted; `#` begins a comment. The first
//! key without `receive` is the one that is sent with. So a key is changed without a gap: add the new one as `receive`
//! everywhere, then take `receive` away from it and put it in front everywhere, then remove the old one.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use zeroize::Zeroizing;

/// Bytes of a key.
const KEY_LEN: usize = 32;
/// Longest key file that is read, in bytes; 255 keys with comments have far less.
const FILE_MAX: u64 = 65_536;
/// Permissions that others than the file's owner may not have.
const OTHERS: u32 = 0o077;

/// The keys of a director. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    keys: Arc<[Key]>,
    /// Which of them is sent with.
    sending: usize,
}

struct Key {
    id: u8,
    cipher: XChaCha20Poly1305,
}

/// What is wrong with keys.
#[derive(Debug)]
pub enum KeysError {
    /// The file can't be read.
    Io(io::Error),
    /// Others than its owner may read or write the file; with its mode.
    Mode(u32),
    /// It is no regular file.
    NoFile,
    /// The file is longer than any key file.
    Long,
    /// A line, counted from 1, is wrong.
    Line(usize, LineError),
    /// No key may be sent with.
    NoneToSend,
}

/// What is wrong with a line of a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// It is neither `ID HEX64` nor `ID HEX64 receive`.
    Syntax,
    /// The id is not 1 to 255.
    Id,
    /// The id was there before.
    Repeated,
    /// The key is not 64 hexadecimal digits.
    Hex,
    /// All bytes of the key are the same.
    Weak,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => {
                "a line is a key's id, its 64 hexadecimal digits, and perhaps `receive`"
            }
            Self::Id => "a key's id is a number from 1 to 255",
            Self::Repeated => "another key has this id",
            Self::Hex => "a key has 64 hexadecimal digits, such as `openssl rand -hex 32` makes",
            Self::Weak => "all bytes of the key are the same",
        })
    }
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => write!(f, "can't be read: {e}"),
            Self::Mode(mode) => write!(
                f,
                "others than its owner have access to it (mode {:03o}); `chmod 600` it",
                mode & 0o777
            ),
            Self::NoFile => f.write_str("is no regular file"),
            Self::Long => write!(f, "is longer than {FILE_MAX} bytes"),
            Self::Line(line, e) => write!(f, "line {line}: {e}"),
            Self::NoneToSend => f.write_str("has no key to send with: all are `receive`"),
        }
    }
}

impl std::error::Error for KeysError {}

/// What is wrong with a key file, and which it is.
#[derive(Debug)]
pub struct KeyFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: KeysError,
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, error } = self;
        write!(f, "key file {}: {error}", path.display())
    }
}

impl std::error::Error for KeyFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl Keys {
    /// Reads a key file.
    ///
    /// # Errors
    /// It can't be read, others may read it, or [`Keys::parse`] does not take what is in it.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        text(path)
            .and_then(|text| Self::parse(&text))
            .map_err(|error| KeyFileError {
                path: path.to_owned(),
                error,
            })
    }

    /// Takes the text of a key file.
    ///
    /// # Errors
    /// The first line that is wrong, or [`KeysError::NoneToSend`].
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys: Vec<Key> = Vec::new();
        let mut sending = None;
        for (i, line) in text.lines().enumerate() {
            let wrong = |e| KeysError::Line(i + 1, e);
            let Some((key, receive_only)) = line_of(line).map_err(wrong)? else {
                continue;
            };
            if keys.iter().any(|k| k.id == key.id) {
                return Err(wrong(LineError::Repeated));
            }
            if !receive_only {
                sending.get_or_insert(keys.len());
            }
            keys.push(key);
        }
        Ok(Self {
            keys: keys.into(),
            sending: sending.ok_or(KeysError::NoneToSend)?,
        })
    }

    /// The ids of all keys, in the order of the file.
    pub fn ids(&self) -> impl Iterator<Item = u8> {
        self.keys.iter().map(|k| k.id)
    }

    /// The id of the key that is sent with.
    #[must_use]
    pub fn sending_id(&self) -> u8 {
        self.keys[self.sending].id
    }

    pub(super) fn sending(&self) -> (u8, &XChaCha20Poly1305) {
        let key = &self.keys[self.sending];
        (key.id, &key.cipher)
    }

    pub(super) fn get(&self, id: u8) -> Option<&XChaCha20Poly1305> {
        self.keys.iter().find(|k| k.id == id).map(|k| &k.cipher)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("ids", &self.ids().collect::<Vec<_>>())
            .field("sending", &self.sending_id())
            .finish_non_exhaustive()
    }
}

/// The key of a line, and whether it is only accepted; nothing for a line without a key.
fn line_of(line: &str) -> Result<Option<(Key, bool)>, LineError> {
    let line = line.split_once('#').map_or(line, |(line, _)| line);
    let mut words = line.split_whitespace();
    let Some(id) = words.next() else {
        return Ok(None);
    };
    let hex = words.next().ok_or(LineError::Syntax)?;
    let receive_only = match (words.next(), words.next()) {
        (None, _) => false,
        (Some("receive"), None) => true,
        _ => return Err(LineError::Syntax),
    };
    let id = id.parse().ok().filter(|id| *id != 0).ok_or(LineError::Id)?;
    let bytes = key_of(hex).ok_or(LineError::Hex)?;
    if bytes.iter().all(|b| *b == bytes[0]) {
        return Err(LineError::Weak);
    }
    let cipher = XChaCha20Poly1305::new((&*bytes).into());
    Ok(Some((Key { id, cipher }, receive_only)))
}

fn key_of(hex: &str) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    let digits: &[u8; 2 * KEY_LEN] = hex.as_bytes().try_into().ok()?;
    let digit = |b: u8| char::from(b).to_digit(16);
    let mut out = Zeroizing::new([0; KEY_LEN]);
    for (to, [high, low]) in out.iter_mut().zip(digits.as_chunks().0) {
        *to = u8::try_from(digit(*high)? << 4 | digit(*low)?).expect("two digits");
    }
    Some(out)
}

/// The text of a key file that only its owner may read.
fn text(path: &Path) -> Result<Zeroizing<String>, KeysError> {
    // Asked before it is opened, because to open a pipe is to wait for its other end.
    if !fs::metadata(path).map_err(KeysError::Io)?.is_file() {
        return Err(KeysError::NoFile);
    }
    let file = File::open(path).map_err(KeysError::Io)?;
    let meta = file.metadata().map_err(KeysError::Io)?;
    if meta.mode() & OTHERS != 0 {
        return Err(KeysError::Mode(meta.mode()));
    }
    if meta.len() > FILE_MAX {
        return Err(KeysError::Long);
    }
    // With room for all of it from the start, so that no copy stays behind when it grows.
    let mut text = Zeroizing::new(String::with_capacity(FILE_MAX as usize + 1));
    file.take(FILE_MAX)
        .read_to_string(&mut text)
        .map_err(KeysError::Io)?;
    Ok(text)
}

#[cfg(test)]
mod tests;
