//! The envelope of every datagram: who sent it, proof of that, and whether it came before.
//!
//! Owns the header, the tag and the replay window. Knows nothing of what a body says. Invariant: nothing that is not
//! proven to come from a holder of a key gets past [`open`].
//!
//! Cost: one pass over the datagram, in place, without allocation; finding out that a datagram is forged costs no
//! more than that.

use chacha20poly1305::{AeadInOut, Tag, XNonce};

use super::Rejected;
use super::keys::Keys;
use super::wire::Kind;

/// What every datagram begins with.
pub const MAGIC: [u8; 4] = *b"PLDR";
/// Version of the header and of everything behind it.
pub const VERSION: u8 = 1;
/// Bytes in front of a body.
pub const HEADER_LEN: usize = 28;
/// Bytes behind it.
pub const TAG_LEN: usize = 16;
/// Bytes around a body.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;
/// Longest payload of a UDP datagram over IPv4.
pub const DATAGRAM_MAX: usize = 65_507;

/// Bit of a header's flags.
const ENCRYPTED: u8 = 1;

/// What an envelope says, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// What the body is.
    pub kind: Kind,
    /// Which group of directors it is for.
    pub sync_id: u8,
    /// The sending process.
    pub boot: u64,
    /// Number of the datagram among all that the process sent; the first is 1.
    pub counter: u64,
    /// The key that it was sealed with.
    pub key_id: u8,
    /// The body came encrypted.
    pub encrypted: bool,
    /// The body.
    pub body: &'a [u8],
}

/// Reads an envelope without a proof of anything; for listings. An encrypted body is not readable.
///
/// # Errors
/// Why it is no envelope.
pub fn open_unchecked(datagram: &[u8]) -> Result<Opened<'_>, Rejected> {
    let (header, rest) = datagram
        .split_first_chunk::<HEADER_LEN>()
        .ok_or(Rejected::Short)?;
    let (body, _) = rest.split_last_chunk::<TAG_LEN>().ok_or(Rejected::Short)?;
    let [m0, m1, m2, m3, version, key_id, flags, kind, sync_id, ..] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(Rejected::Magic);
    }
    if version != VERSION {
        return Err(Rejected::Version);
    }
    let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| header[at + i]));
    Ok(Opened {
        kind: Kind::from_number(kind).ok_or(Rejected::Kind)?,
        sync_id,
        boot: number(12),
        counter: number(20),
        key_id,
        encrypted: flags & ENCRYPTED != 0,
        body,
    })
}

/// Opens a datagram, and decrypts it in place. Its contents are as they were when it can't be opened.
///
/// # Errors
/// Why it proves nothing.
pub fn open<'a>(keys: &Keys, datagram: &'a mut [u8]) -> Result<Opened<'a>, Rejected> {
    let Opened {
        kind,
        sync_id,
        boot,
        counter,
        key_id,
        encrypted,
        ..
    } = open_unchecked(datagram)?;
    let cipher = keys.get(key_id).ok_or(Rejected::Key)?;
    let (sealed, tag) = datagram
        .split_last_chunk_mut::<TAG_LEN>()
        .ok_or(Rejected::Short)?;
    let (known, secret) = sealed.split_at_mut(clear_len(encrypted, sealed.len()));
    let nonce = nonce(boot, counter, kind, key_id);
    cipher
        .decrypt_inout_detached(&nonce, known, secret.into(), &Tag::from(*tag))
        .map_err(|_| Rejected::Forged)?;
    Ok(Opened {
        kind,
        sync_id,
        boot,
        counter,
        key_id,
        encrypted,
        body: &sealed[HEADER_LEN..],
    })
}

/// How many of the bytes in front of the tag are readable.
fn clear_len(encrypted: bool, len: usize) -> usize {
    if encrypted { HEADER_LEN } else { len }
}

/// Never the same twice under one key: `boot` is random, `counter` counts.
fn nonce(boot: u64, counter: u64, kind: Kind, key_id: u8) -> XNonce {
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(&boot.to_be_bytes());
    nonce[8..16].copy_from_slice(&counter.to_be_bytes());
    nonce[16] = kind.number();
    nonce[17] = key_id;
    nonce.into()
}

/// Seals the datagrams of a process. There must be no other with the same boot.
#[derive(Debug)]
pub struct Sealer {
    boot: u64,
    counter: u64,
    keys: Keys,
}

impl Sealer {
    /// For a process whose random number is `boot`.
    #[must_use]
    pub fn new(boot: u64, keys: Keys) -> Self {
        Self {
            boot,
            counter: 0,
            keys,
        }
    }

    /// The process.
    #[must_use]
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// Number of the last datagram, 0 for none yet.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// What is sealed with; also what to open with.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Seals with others from now on.
    pub fn set_keys(&mut self, keys: Keys) {
        self.keys = keys;
    }

    /// Puts a datagram into `out`, in place of what is there.
    ///
    /// # Panics
    /// When the body is longer than a datagram has room for; builders make none.
    pub fn seal(&mut self, kind: Kind, sync_id: u8, encrypt: bool, body: &[u8], out: &mut Vec<u8>) {
        assert!(body.len() <= DATAGRAM_MAX - OVERHEAD);
        self.counter += 1;
        let (key_id, cipher) = self.keys.sending();
        let flags = if encrypt { ENCRYPTED } else { 0 };
        out.clear();
        out.reserve(OVERHEAD + body.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, key_id, flags, kind.number(), sync_id, 0, 0, 0]);
        out.extend_from_slice(&self.boot.to_be_bytes());
        out.extend_from_slice(&self.counter.to_be_bytes());
        out.extend_from_slice(body);
        let (known, secret) = out.split_at_mut(clear_len(encrypt, HEADER_LEN + body.len()));
        let nonce = nonce(self.boot, self.counter, kind, key_id);
        let tag = cipher
            .encrypt_inout_detached(&nonce, known, secret.into())
            .expect("a datagram is shorter than what a nonce is good for");
        out.extend_from_slice(&tag);
    }
}

/// Datagrams behind the newest that are told apart, in bits.
const WINDOW: u64 = 1024;

/// Which datagrams of a process came. Bit `counter % 1024` is that of the datagram; those of datagrams too old to know
/// were given to newer ones.
#[derive(Clone, Debug)]
pub struct Window {
    newest: u64,
    came: [u64; (WINDOW / 64) as usize],
}

impl Default for Window {
    /// Nothing came.
    fn default() -> Self {
        Self {
            newest: 0,
            // No datagram has the number 0.
            came: std::array::from_fn(|i| u64::from(i == 0)),
        }
    }
}

impl Window {
    /// The highest number that came, 0 for none.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether the datagram with this number did not come yet, as far as is known.
    #[must_use]
    pub fn is_fresh(&self, counter: u64) -> bool {
        let (word, bit) = place(counter);
        counter > self.newest || self.newest - counter < WINDOW && self.came[word] & bit == 0
    }

    /// Notes a datagram that was [opened](open).
    ///
    /// # Errors
    /// [`Rejected::Replayed`] when it came before or is too old to know.
    pub fn note(&mut self, counter: u64) -> Result<(), Rejected> {
        if !self.is_fresh(counter) {
            return Err(Rejected::Replayed);
        }
        if counter > self.newest {
            self.advance(counter);
        }
        let (word, bit) = place(counter);
        self.came[word] |= bit;
        Ok(())
    }

    fn advance(&mut self, newest: u64) {
        if newest - self.newest >= WINDOW {
            self.came = Default::default();
        } else {
            for counter in self.newest + 1..=newest {
                let (word, bit) = place(counter);
                self.came[word] &= !bit;
            }
        }
        self.newest = newest;
    }
}

/// The word and the bit of a datagram.
fn place(counter: u64) -> (usize, u64) {
    let at = counter % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests;
