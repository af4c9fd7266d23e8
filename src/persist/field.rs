//! A field at a fixed place of the UDP payload, in bytes or bits.

use std::fmt;

use super::engine::NoKey;
use super::sip::Scratch;

/// What a field's offset and length count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    #[default]
    Bytes,
    /// Bits; bit 0 is the highest of the first byte, as protocol drawings count.
    Bits,
}

/// The longest field, in bytes.
pub const FIELD_MAX: usize = 256;

/// The longest UDP payload there is, in bytes: no field reaches behind it.
pub const PAYLOAD_MAX: u32 = 65_507;

/// Why a field can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldError {
    /// Its length is 0.
    Empty,
    /// It is longer than [`FIELD_MAX`].
    Long,
    /// It ends behind the longest payload.
    Beyond,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a field of length 0 tells no session from another"),
            Self::Long => write!(f, "a field is at most {FIELD_MAX} bytes long"),
            Self::Beyond => write!(
                f,
                "the field ends behind the longest UDP payload ({PAYLOAD_MAX} bytes), so no packet has it"
            ),
        }
    }
}

impl std::error::Error for FieldError {}

impl fmt::Display for Field {
    /// In the configuration's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offset, length, unit) = self.place();
        write!(f, "offset {offset} length {length}")?;
        match unit {
            Unit::Bytes => Ok(()),
            Unit::Bits => f.write_str(" unit bits"),
        }
    }
}

/// A field of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    first: u32,
    /// Behind the last byte it has a part in.
    end: u32,
    /// Bits of the first byte that are not the field's.
    lead: u8,
    /// Bits of the last byte that are not the field's.
    tail: u8,
}

impl Field {
    /// The field of `length` from `offset` on, both in `unit`s.
    ///
    /// # Errors
    /// [`FieldError`].
    pub fn new(offset: u32, length: u32, unit: Unit) -> Result<Self, FieldError> {
        let bits = match unit {
            Unit::Bytes => 8,
            Unit::Bits => 1,
        };
        let (from, len) = (u64::from(offset) * bits, u64::from(length) * bits);
        if len == 0 {
            return Err(FieldError::Empty);
        }
        if len.div_ceil(8) > FIELD_MAX as u64 {
            return Err(FieldError::Long);
        }
        let to = from + len;
        let end = u32::try_from(to.div_ceil(8)).map_err(|_| FieldError::Beyond)?;
        if end > PAYLOAD_MAX {
            return Err(FieldError::Beyond);
        }
        Ok(Self {
            first: u32::try_from(from / 8).map_err(|_| FieldError::Beyond)?,
            end,
            lead: u8::try_from(from % 8).unwrap_or(0),
            tail: u8::try_from((8 - to % 8) % 8).unwrap_or(0),
        })
    }

    /// Where it begins and how long it is, and what these count.
    #[must_use]
    pub fn place(&self) -> (u32, u32, Unit) {
        let (lead, tail) = (u32::from(self.lead), u32::from(self.tail));
        if (lead, tail) == (0, 0) {
            return (self.first, self.end - self.first, Unit::Bytes);
        }
        let from = self.first * 8 + lead;
        (from, self.end * 8 - tail - from, Unit::Bits)
    }

    /// Bytes that a payload must have for the field to be in it.
    #[must_use]
    pub fn end(&self) -> usize {
        self.end as usize
    }

    /// The field's bytes. One that does not begin and end between bytes is put into `scratch`, moved so that it begins
    /// at a byte, zero bits behind its last.
    ///
    /// # Errors
    /// [`NoKey::Short`] when the payload ends before the field does.
    #[inline]
    pub fn of<'a>(&self, payload: &'a [u8], scratch: &'a mut Scratch) -> Result<&'a [u8], NoKey> {
        let bytes = payload
            .get(self.first as usize..self.end as usize)
            .ok_or(NoKey::Short)?;
        if self.lead == 0 && self.tail == 0 {
            return Ok(bytes);
        }
        Ok(self.shifted(bytes, scratch))
    }

    fn shifted<'a>(&self, bytes: &[u8], scratch: &'a mut Scratch) -> &'a [u8] {
        scratch.clear();
        let bits = bytes.len() * 8 - usize::from(self.lead) - usize::from(self.tail);
        for i in 0..bits.div_ceil(8) {
            let high = u16::from(bytes[i]) << 8;
            let low = u16::from(bytes.get(i + 1).copied().unwrap_or(0));
            let [byte, _] = ((high | low) << self.lead).to_be_bytes();
            // A field is shorter than the scratch: [`FIELD_MAX`].
            let _ = scratch.try_push(byte);
        }
        if let (Some(last), rest @ 1..) = (scratch.last_mut(), bits % 8) {
            *last &= 0xff << (8 - rest);
        }
        scratch
    }
}

/// A condition: the packet carries the key only when these bytes are at this place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct When {
    /// Byte offset in the payload.
    pub offset: u32,
    /// What must be there.
    pub value: Vec<u8>,
}

impl When {
    /// Whether a payload fulfils it. One that is too short does not.
    #[inline]
    #[must_use]
    pub fn holds(&self, payload: &[u8]) -> bool {
        payload
            .get(self.offset as usize..)
            .is_some_and(|p| p.starts_with(&self.value))
    }
}

/// A field that is the key of its packet's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionKey {
    /// The field.
    pub field: Field,
    /// Which packets carry it; all when `None`.
    pub when: Option<When>,
}

/// A packet's session by a [`SessionKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session<'a> {
    /// It carries this key.
    Key(&'a [u8]),
    /// It is of a kind that carries none.
    Absent,
    /// It should carry one and is too short.
    Short,
}

impl SessionKey {
    /// A packet's session.
    #[inline]
    pub fn of<'a>(&self, payload: &'a [u8], scratch: &'a mut Scratch) -> Session<'a> {
        if self.when.as_ref().is_some_and(|w| !w.holds(payload)) {
            return Session::Absent;
        }
        match self.field.of(payload, scratch) {
            Ok(key) => Session::Key(key),
            Err(_) => Session::Short,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_field_tells_where_it_is() {
        for (field, text) in [
            (Field::new(1, 8, Unit::Bytes), "offset 1 length 8"),
            (Field::new(8, 64, Unit::Bits), "offset 1 length 8"),
            (
                Field::new(12, 20, Unit::Bits),
                "offset 12 length 20 unit bits",
            ),
            (Field::new(3, 5, Unit::Bits), "offset 3 length 5 unit bits"),
        ] {
            assert_eq!(field.expect("a field").to_string(), text);
        }
    }

    fn of(field: Field, payload: &[u8]) -> Result<Vec<u8>, NoKey> {
        let mut scratch = Scratch::new();
        field.of(payload, &mut scratch).map(<[u8]>::to_vec)
    }

    #[test]
    fn a_field_in_bytes_is_the_slice() {
        let field = Field::new(1, 3, Unit::Bytes).expect("a field");
        assert_eq!(of(field, b"abcde"), Ok(b"bcd".to_vec()));
        assert_eq!(of(field, b"abcd"), Ok(b"bcd".to_vec()));
        assert_eq!(of(field, b"abc"), Err(NoKey::Short));
        assert_eq!(of(field, b""), Err(NoKey::Short));
    }

    #[test]
    fn fields_that_no_packet_can_have_are_refused() {
        assert_eq!(Field::new(0, 0, Unit::Bytes), Err(FieldError::Empty));
        assert_eq!(Field::new(0, 257, Unit::Bytes), Err(FieldError::Long));
        assert_eq!(Field::new(0, 2049, Unit::Bits), Err(FieldError::Long));
        assert_eq!(Field::new(65_507, 1, Unit::Bytes), Err(FieldError::Beyond));
        assert_eq!(
            Field::new(u32::MAX, 1, Unit::Bytes),
            Err(FieldError::Beyond)
        );
        assert!(Field::new(65_506, 1, Unit::Bytes).is_ok());
    }

    #[test]
    fn a_condition_that_the_packet_does_not_meet_makes_the_key_absent() {
        let key = SessionKey {
            field: Field::new(11, 2, Unit::Bytes).expect("a field"),
            when: Some(When {
                offset: 0,
                value: vec![0x19],
            }),
        };
        let mut scratch = Scratch::new();
        let mut packet = [0u8; 13];
        assert_eq!(key.of(&packet, &mut scratch), Session::Absent);
        assert_eq!(key.of(&[], &mut scratch), Session::Absent);
        packet[0] = 0x19;
        packet[11..].copy_from_slice(b"ab");
        assert_eq!(key.of(&packet, &mut scratch), Session::Key(b"ab"));
        assert_eq!(key.of(&packet[..12], &mut scratch), Session::Short);
    }

    proptest! {
        #[test]
        fn a_field_in_bits_is_what_reading_bit_by_bit_gives(
            payload in prop::collection::vec(any::<u8>(), 0..40),
            offset in 0..200u32,
            length in 1..130u32,
        ) {
            let bit = |i: usize| payload.get(i / 8).map(|b| b >> (7 - i % 8) & 1);
            let bits: Option<Vec<u8>> = (offset..offset + length).map(|i| bit(i as usize)).collect();
            let expected = bits.map(|bits| {
                bits.chunks(8)
                    .map(|c| c.iter().enumerate().fold(0, |byte, (i, b)| byte | b << (7 - i)))
                    .collect::<Vec<u8>>()
            });
            let field = Field::new(offset, length, Unit::Bits).expect("a field");
            prop_assert_eq!(of(field, &payload), expected.ok_or(NoKey::Short));
        }
    }
}
