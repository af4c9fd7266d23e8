//! What every persistence engine does: a key from a payload, and its text in listings.
//!
//! Adding an engine is adding a variant here and its word in the configuration.

use std::fmt;

use super::field::{Field, SessionKey};
use super::quic::QuicLb;
use super::sip::{self, Scratch};

/// Why a packet has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoKey {
    /// The payload ends before the key does.
    Short,
    /// The message has no key: no Call-ID header, or an empty one.
    Missing,
    /// The key is so long that there is no room for it now.
    Long,
}

impl NoKey {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 3] = [Self::Short, Self::Missing, Self::Long];

    /// The word in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Missing => "missing",
            Self::Long => "long",
        }
    }
}

/// A persistence engine: recognises the session that a UDP datagram belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The Call-ID of a SIP message.
    Sip,
    /// A field of the payload.
    Payload(Field),
}

impl Engine {
    /// The word in the configuration and in listings.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sip => "sip",
            Self::Payload(_) => "payload",
        }
    }

    /// The key of the session that a UDP payload belongs to.
    ///
    /// # Errors
    /// [`NoKey`].
    #[inline]
    pub fn key<'a>(&self, payload: &'a [u8], scratch: &'a mut Scratch) -> Result<&'a [u8], NoKey> {
        match self {
            Self::Sip if payload.is_empty() => Err(NoKey::Short),
            Self::Sip => sip::call_id(payload, scratch).ok_or(NoKey::Missing),
            Self::Payload(field) => field.of(payload, scratch),
        }
    }

    /// How a key looks in listings.
    #[must_use]
    pub fn show<'a>(&self, key: &'a [u8]) -> Shown<'a> {
        match self {
            Self::Sip => Shown::Text(key),
            Self::Payload(_) => Shown::Hex(key),
        }
    }
}

/// A key's text.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// Printable ASCII as it is, everything else as `\xNN`, a backslash doubled.
    Text(&'a [u8]),
    /// Two hexadecimal digits for each byte.
    Hex(&'a [u8]),
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(key) => key.iter().try_for_each(|b| match b {
                b'\\' => f.write_str("\\\\"),
                b'!'..=b'~' => write!(f, "{}", char::from(*b)),
                _ => write!(f, "\\x{b:02x}"),
            }),
            Self::Hex(key) => key.iter().try_for_each(|b| write!(f, "{b:02x}")),
        }
    }
}

/// Where the packets of a service carry the key of their session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayloadKey {
    /// In a field.
    Field(SessionKey),
    /// In the server-chosen QUIC connection ID.
    Quic(QuicLb),
}

impl PayloadKey {
    /// Whether there are packets that carry no key and need none.
    #[must_use]
    pub fn may_be_absent(&self) -> bool {
        matches!(self, Self::Field(SessionKey { when: Some(_), .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::field::Unit;
    use super::*;

    #[test]
    fn keys_are_shown_so_that_nothing_in_them_reaches_the_terminal() {
        let sip = Engine::Sip;
        assert_eq!(sip.show(b"193373839").to_string(), "193373839");
        assert_eq!(
            sip.show(b"a@h\\ \x1b\xff\0").to_string(),
            "a@h\\\\\\x20\\x1b\\xff\\x00"
        );
        let field = Engine::Payload(Field::new(0, 2, Unit::Bytes).expect("a field"));
        assert_eq!(field.show(&[0, 0xab]).to_string(), "00ab");
    }

    #[test]
    fn engines_say_why_there_is_no_key() {
        let mut scratch = Scratch::new();
        assert_eq!(Engine::Sip.key(b"", &mut scratch), Err(NoKey::Short));
        assert_eq!(
            Engine::Sip.key(b"OPTIONS sip:a SIP/2.0\r\n\r\n", &mut scratch),
            Err(NoKey::Missing)
        );
        assert_eq!(
            Engine::Sip.key(b"ACK sip:a SIP/2.0\r\ni: x\r\n\r\n", &mut scratch),
            Ok(&b"x"[..])
        );
        let field = Engine::Payload(Field::new(1, 2, Unit::Bytes).expect("a field"));
        assert_eq!(field.key(b"abc", &mut scratch), Ok(&b"bc"[..]));
        assert_eq!(field.key(b"ab", &mut scratch), Err(NoKey::Short));
    }
}
