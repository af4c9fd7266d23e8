//! Values that are written as text in a configuration: durations, sizes, addresses, prefixes, MAC addresses.
//!
//! Owns how each is read, printed and described in the JSON Schema; the three agree, so that what is printed can be
//! read back. Knows nothing of files or positions. A message may end in ``; did you mean `X`?``, which the decoder
//! turns into the problem's suggestion.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::forward::defs::Prefix;
use crate::net::Mac;

/// A duration such as `250ms`, `60s`, `15m`, `1h` or `31d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A number such as `1000`, or with a binary suffix: `4k` = 4·2¹⁰, `4M` = 4·2²⁰, `4G` = 4·2³⁰, `4T` = 4·2⁴⁰.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// An IPv4 or IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub IpAddr);

/// An address and a prefix length, such as `192.0.2.10/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr(pub Prefix);

/// A MAC address such as `02:00:00:00:00:10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddr(pub Mac);

/// An address and a port to listen on, such as `127.0.0.1:9108` or `[::1]:9108`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint(pub SocketAddr);

/// Which clients belong together: an IPv4 netmask, written `255.255.255.0`, or a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Netmask {
    /// Ones of a netmask in IPv4 notation, 0 to 32.
    Dotted(u8),
    /// A prefix length, 0 to 128.
    Length(u8),
}

/// A port or several: `80` or `80-90`, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange(pub u16, pub u16);

/// Bytes, written as two hexadecimal digits each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HexBytes(pub Vec<u8>);

/// An address and a port that sync messages go to, such as `224.0.0.81:8848` or `[ff02::81]:8848`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SyncAddress(pub SocketAddr);

/// A share in millionths, written `99%`, `99.5%` or `0.99`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u32);

/// Millionths in the whole.
const WHOLE: u32 = 1_000_000;

/// Units of a duration and what they are in milliseconds, the longest first.
const PERIOD_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];
/// Suffixes of a size and what they multiply by.
const SIZE_UNITS: [(&str, u64); 5] = [
    ("", 1),
    ("k", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
];

/// Splits `12ab` into `12` and `ab`.
fn number_and_unit(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// `number` times what its unit stands for. `refuse` says why that is none, `too_much` that it is too large a one.
fn scaled(
    (number, unit): (&str, &str),
    units: &[(&str, u64)],
    refuse: impl FnOnce() -> String,
    too_much: impl FnOnce() -> String,
) -> Result<u64, String> {
    let factor = units.iter().find(|(u, _)| *u == unit && !number.is_empty());
    let (_, factor) = factor.ok_or_else(refuse)?;
    let number = number.parse::<u64>().ok();
    let total = number.and_then(|n| n.checked_mul(*factor));
    total.ok_or_else(too_much)
}

/// Prints values as what they are made of is printed.
macro_rules! printed_as_inside {
    ($($type:ident),*) => {
        $(impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        })*
    };
}

printed_as_inside!(Size, Address, MacAddr, Endpoint, SyncAddress);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = number_and_unit(text);
        let refuse = || {
            let nearest = match unit.trim().to_ascii_lowercase().as_str() {
                _ if number.is_empty() => None,
                "" | "s" | "sec" | "secs" | "second" | "seconds" => Some("s"),
                "m" | "min" | "mins" | "minute" | "minutes" => Some("m"),
                "h" | "hr" | "hour" | "hours" => Some("h"),
                "d" | "day" | "days" => Some("d"),
                "ms" | "msec" | "millis" | "milliseconds" => Some("ms"),
                _ => None,
            };
            let hint = nearest.map_or(String::new(), |u| format!("; did you mean `{number}{u}`?"));
            format!("`{text}` is not a duration such as 250ms, 60s, 15m, 1h or 1d{hint}")
        };
        let too_much = || format!("the duration `{text}` is too long");
        let millis = scaled((number, unit), &PERIOD_UNITS, refuse, too_much)?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (unit, size) = PERIOD_UNITS
            .iter()
            .find(|(_, size)| millis != 0 && millis.is_multiple_of(u128::from(*size)))
            .unwrap_or(&("s", 1000));
        write!(f, "{}{unit}", millis / u128::from(*size))
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = number_and_unit(text);
        let refuse = || {
            let letter = unit.trim().chars().next().unwrap_or(' ');
            let nearest = SIZE_UNITS[1..]
                .iter()
                .find(|(u, _)| u.eq_ignore_ascii_case(letter.encode_utf8(&mut [0; 4])));
            let hint = match nearest {
                Some((u, _)) if !number.is_empty() => format!("; did you mean `{number}{u}`?"),
                _ => String::new(),
            };
            format!("`{text}` is not a number or size such as 1000, 64k, 4M or 2G{hint}")
        };
        let unit = if unit == "K" { "k" } else { unit };
        let too_much = || format!("`{text}` is too large");
        scaled((number, unit), &SIZE_UNITS, refuse, too_much).map(Self)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(addr) = text.parse() {
            return Ok(Self(addr));
        }
        Err(if let Ok(socket) = text.parse::<SocketAddr>() {
            let (ip, port) = (socket.ip(), socket.port());
            format!("`{text}` holds a port: write `address: {ip}` and `port: {port}`")
        } else if let Some((addr, _)) = text
            .split_once('/')
            .filter(|(a, _)| a.parse::<IpAddr>().is_ok())
        {
            format!("`{text}` has a prefix length, but is one address; did you mean `{addr}`?")
        } else if text.contains(|c: char| c.is_ascii_alphabetic()) && !text.contains(':') {
            format!("`{text}` is not an IP address; host names are not resolved, write the address")
        } else {
            format!("`{text}` is not an IPv4 or IPv6 address")
        })
    }
}

/// Bits of an address of the same family.
#[must_use]
pub(super) fn bits(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

/// `addr` with all but the first `len` bits cleared.
#[must_use]
pub(super) fn network(addr: IpAddr, len: u8) -> IpAddr {
    match addr {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            IpAddr::V4((u32::from(a) & mask).into())
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            IpAddr::V6((u128::from(a) & mask).into())
        }
    }
}

/// Whether `addr` lies in `prefix`.
#[must_use]
pub(super) fn contains(prefix: Prefix, addr: IpAddr) -> bool {
    prefix.addr.is_ipv4() == addr.is_ipv4()
        && network(addr, prefix.len) == network(prefix.addr, prefix.len)
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((addr, len)) = text.split_once('/') else {
            return Err(match text.parse::<IpAddr>() {
                Ok(addr) => {
                    let usual = if addr.is_ipv4() { 24 } else { 64 };
                    format!("`{text}` has no prefix length; did you mean `{text}/{usual}`?")
                }
                Err(_) => {
                    format!("`{text}` is not an address with a prefix length such as 192.0.2.10/24")
                }
            });
        };
        let addr = addr.parse::<Address>()?.0;
        let digits = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
        let len = len
            .parse::<u8>()
            .ok()
            .filter(|len| digits && *len <= bits(addr));
        let len = len.ok_or_else(|| {
            let (max, family) = (bits(addr), if addr.is_ipv4() { "IPv4" } else { "IPv6" });
            format!(
                "the prefix length of `{text}` is not a number from 0 to {max}, as {family} has it"
            )
        })?;
        Ok(Self(Prefix { addr, len }))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.addr, self.0.len)
    }
}

impl FromStr for MacAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|why| {
            let dashes = text.replace('-', ":");
            match dashes.parse::<Mac>() {
                Ok(mac) => format!("{why}; did you mean `{mac}`?"),
                Err(_) => why,
            }
        })
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let why =
            || format!("`{text}` is not an address and port to listen on, such as 127.0.0.1:9108");
        text.parse().map(Self).map_err(|_| {
            let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
            let host = match host.trim_matches(['[', ']']) {
                "" | "localhost" => "127.0.0.1",
                "*" => "0.0.0.0",
                host => host,
            };
            match (host.parse::<IpAddr>(), port.parse::<u16>()) {
                (Ok(ip), Ok(port)) => {
                    format!("{}; did you mean `{}`?", why(), SocketAddr::new(ip, port))
                }
                _ => why(),
            }
        })
    }
}

impl FromStr for SyncAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = crate::sync::ipvs::PORT;
        match text.parse() {
            Ok(SocketAddr::V6(a)) if a.scope_id() != 0 => Err(format!(
                "`{text}` names an interface by its number; give its name as `interface`; did you mean `{}`?",
                SocketAddr::new((*a.ip()).into(), a.port())
            )),
            Ok(addr) if addr.port() == 0 => Err(format!(
                "port 0 is none to send to; did you mean `{}`?",
                SocketAddr::new(addr.ip(), port)
            )),
            Ok(addr) => Ok(Self(addr)),
            Err(_) => {
                let why =
                    format!("`{text}` is not an address and a port, such as 224.0.0.81:{port}");
                let bare = text.trim_matches(['[', ']']);
                Err(match bare.parse::<IpAddr>() {
                    Ok(ip) => format!("{why}; did you mean `{}`?", SocketAddr::new(ip, port)),
                    Err(_) => why,
                })
            }
        }
    }
}

/// Millionths of a decimal number such as `0.99`; `None` where it is none or has more than six decimals.
fn millionths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 6 {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let part: u64 = format!("{part:0<6}").parse().ok()?;
    whole.checked_mul(u64::from(WHOLE))?.checked_add(part)
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let why = || format!("`{text}` is not a share from 0 to 1 such as 99% or 0.99");
        let (number, per) = match text.strip_suffix('%') {
            Some(number) => (number.trim_end(), 100),
            None => (text, 1),
        };
        let value = millionths(number).ok_or_else(why)?;
        let share = value / per;
        match u32::try_from(share) {
            Ok(share) if share <= WHOLE && value.is_multiple_of(per) => Ok(Self(share)),
            _ if per == 1 && share <= 100 * u64::from(WHOLE) => {
                Err(format!("{}; did you mean `{text}%`?", why()))
            }
            _ => Err(why()),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percent, part) = (self.0 / 10_000, self.0 % 10_000);
        let part = format!("{part:04}");
        match part.trim_end_matches('0') {
            "" => write!(f, "{percent}%"),
            part => write!(f, "{percent}.{part}%"),
        }
    }
}

impl Share {
    /// Of a number from 0 to 1.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It is clamped.
    pub fn of(ratio: f64) -> Self {
        Self((ratio.clamp(0.0, 1.0) * f64::from(WHOLE)).round() as u32)
    }

    /// From 0 to 1.
    #[must_use]
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }
}

impl FromStr for Netmask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(mask) = text.parse::<Ipv4Addr>() {
            let mask = u32::from(mask);
            if mask.leading_ones() + mask.trailing_zeros() < 32 {
                return Err(format!(
                    "the netmask `{text}` has holes; its ones must come first, as in 255.255.255.0"
                ));
            }
            return Ok(Self::Dotted(
                u8::try_from(mask.leading_ones()).unwrap_or(32),
            ));
        }
        let (_, digits) = text.rsplit_once('/').unwrap_or(("", text));
        let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let len = digits
            .parse::<u8>()
            .ok()
            .filter(|len| number && *len <= 128);
        match len {
            Some(len) if digits.len() == text.len() => Ok(Self::Length(len)),
            Some(len) => Err(format!(
                "`{text}` is not a netmask or prefix length; did you mean `{len}`?"
            )),
            None => Err(format!(
                "`{text}` is neither a netmask such as 255.255.255.0 nor a prefix length such as 24 (IPv6: up to 128)"
            )),
        }
    }
}

impl fmt::Display for Netmask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dotted(len) => network(Ipv4Addr::BROADCAST.into(), *len).fmt(f),
            Self::Length(len) => len.fmt(f),
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u16>().ok().filter(|port| digits && *port > 0)
        };
        match (port(first.trim()), port(last.trim())) {
            (Some(first), Some(last)) if first > last => Err(format!(
                "`{text}` ends before it begins; did you mean `{last}-{first}`?"
            )),
            (Some(first), Some(last)) => Ok(Self(first, last)),
            _ => Err(format!(
                "`{text}` is neither a port from 1 to 65535 nor ports such as 80-90"
            )),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(first, last) = self;
        if first == last {
            return first.fmt(f);
        }
        write!(f, "{first}-{last}")
    }
}

impl FromStr for HexBytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = |text: &str| {
            !text.is_empty()
                && text.len().is_multiple_of(2)
                && text.bytes().all(|b| b.is_ascii_hexdigit())
        };
        if !digits(text) {
            let bare: String = text
                .trim_start_matches("0x")
                .chars()
                .filter(|c| !matches!(c, ':' | ' ' | '-'))
                .collect();
            let hint = if digits(&bare) && bare.len() <= 64 {
                format!("; did you mean `{bare}`?")
            } else {
                String::new()
            };
            return Err(format!(
                "bytes are written as two hexadecimal digits each, such as 0a1f{hint}"
            ));
        }
        let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0);
        let pairs = text.as_bytes().chunks_exact(2);
        let byte = |pair: &[u8]| u8::try_from(value(pair[0]) << 4 | value(pair[1])).unwrap_or(0);
        Ok(Self(pairs.map(byte).collect()))
    }
}

impl fmt::Display for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A duration's milliseconds.
pub(super) fn millis(text: &str) -> Option<u64> {
    u64::try_from(text.parse::<Period>().ok()?.0.as_millis()).ok()
}

/// A size's number.
pub(super) fn number(text: &str) -> Option<u64> {
    text.parse::<Size>().ok().map(|size| size.0)
}

/// Reads any [`FromStr`] value; numbers are taken as the text that they are written as.
struct TextVisitor<T> {
    expects: &'static str,
    /// What the decoder gets for a required value that is missing, while it looks for further problems.
    stand_in: &'static str,
    value: PhantomData<T>,
}

impl<T: FromStr<Err = String>> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expects)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_none<E: de::Error>(self) -> Result<T, E> {
        let text = self.stand_in;
        self.visit_str(text)
    }
}

/// Serde and schema of a text value. `$read` is how it asks for its input, `$write` how it is
/// written.
macro_rules! text_value {
    ($type:ident, $expects:literal, $stand_in:literal, $read:ident, |$value:ident, $ser:ident| $write:expr, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.$read(TextVisitor {
                    expects: $expects,
                    stand_in: $stand_in,
                    value: PhantomData,
                })
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, $ser: S) -> Result<S::Ok, S::Error> {
                let $value = self;
                $write
            }
        }
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

text_value!(Period, "a duration such as 60s", "1s", deserialize_str, |v, s| s.collect_str(v), {
    "type": "string", "title": "duration", "pattern": "^[0-9]+(ms|s|m|h|d)$"
});
text_value!(Size, "a number or a size such as 64M", "1", deserialize_any, |v, s| s.serialize_u64(v.0), {
    "type": ["integer", "string"], "title": "size", "pattern": "^[0-9]+[kKMGT]?$"
});
text_value!(Address, "an IP address", "192.0.2.1", deserialize_str, |v, s| s.collect_str(v), {
    "type": "string", "title": "address", "pattern": "^[0-9a-fA-F:.]+$"
});
text_value!(Cidr, "an address with a prefix length", "192.0.2.0/24", deserialize_str, |v, s| s.collect_str(v), {
    "type": "string", "title": "address/length", "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$"
});
text_value!(MacAddr, "a MAC address", "02:00:00:00:00:00", deserialize_str, |v, s| s.collect_str(v), {
    "type": "string", "title": "MAC address", "pattern": "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$"
});
text_value!(Endpoint, "an address and a port", "127.0.0.1:1", deserialize_str, |v, s| s.collect_str(v), {
    "type": "string", "title": "address:port", "pattern": "^.*:[0-9]{1,5}$"
});
text_value!(Netmask, "a netmask or a prefix length", "0", deserialize_any, |v, s| match v {
    Netmask::Dotted(_) => s.collect_str(v),
    Netmask::Length(len) => s.serialize_u8(*len),
}, {
    "type": ["integer", "string"], "title": "netmask", "pattern": "^[0-9.]+$", "minimum": 0, "maximum": 128
});
text_value!(PortRange, "a port or ports such as 80-90", "1", deserialize_any, |v, s| if v.0 == v.1 {
    s.serialize_u16(v.0)
} else {
    s.collect_str(v)
}, {
    "type": ["integer", "string"], "title": "port or ports", "pattern": "^[0-9]+ *(- *[0-9]+)?$"
});
text_value!(HexBytes, "bytes in hexadecimal digits", "00", deserialize_str, |v, s| s.collect_str(v), {
    "type": "string", "title": "hexadecimal", "pattern": "^([0-9a-fA-F]{2})+$"
});

text_value!(SyncAddress, "an address and a port", "224.0.0.81:1", deserialize_str, |v, s| s.collect_str(v), {
    "type": "string", "title": "address:port", "pattern": "^.*:[0-9]{1,5}$"
});
text_value!(Share, "a share such as 99%", "1", deserialize_any, |v, s| s.collect_str(v), {
    "type": ["number", "string"], "title": "share", "pattern": "^[0-9]+([.][0-9]{1,6})? *%?$"
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_is_printed_in_the_largest_unit_that_divides_it() {
        for text in ["250ms", "60s", "15m", "1h", "31d", "0s", "90s"] {
            let period: Period = text.parse().expect("it is a duration");
            let printed = period.to_string();
            assert_eq!(
                printed
                    .parse::<Period>()
                    .expect("what is printed is a duration"),
                period
            );
        }
        assert_eq!("900s".parse::<Period>().expect("valid").to_string(), "15m");
        assert_eq!(
            "1500ms".parse::<Period>().expect("valid").to_string(),
            "1500ms"
        );
    }

    #[test]
    fn a_size_suffix_is_binary() {
        assert_eq!("4M".parse(), Ok(Size(4 << 20)));
        assert_eq!("64k".parse(), Ok(Size(65_536)));
        assert_eq!("17".parse(), Ok(Size(17)));
        assert!("99999999999T".parse::<Size>().is_err());
    }

    #[test]
    fn a_share_is_written_in_percent_or_as_a_fraction() {
        for (text, millionths, printed) in [
            ("99%", 990_000, "99%"),
            ("0.99", 990_000, "99%"),
            ("99.5 %", 995_000, "99.5%"),
            ("0.999999", 999_999, "99.9999%"),
            ("1", 1_000_000, "100%"),
            ("0", 0, "0%"),
        ] {
            let share: Share = text.parse().expect(text);
            assert_eq!((share.0, share.to_string().as_str()), (millionths, printed));
            assert_eq!(printed.parse(), Ok(share));
        }
        for text in [
            "",
            "%",
            ".5",
            "1.",
            "101%",
            "-1",
            "0.1234567",
            "0.00001%",
            "a",
        ] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
        let e = "99".parse::<Share>().expect_err("no percent sign");
        assert!(e.ends_with("did you mean `99%`?"), "{e}");
        assert!((Share(990_000).ratio() - 0.99).abs() < 1e-9);
    }

    #[test]
    fn a_network_is_its_address_without_host_bits() {
        let addr = |s: &str| s.parse::<IpAddr>().expect("an address");
        assert_eq!(network(addr("192.0.2.77"), 24), addr("192.0.2.0"));
        assert_eq!(network(addr("192.0.2.77"), 0), addr("0.0.0.0"));
        assert_eq!(network(addr("192.0.2.77"), 32), addr("192.0.2.77"));
        assert_eq!(network(addr("2001:db8::1"), 0), addr("::"));
        assert_eq!(network(addr("2001:db8:1::1"), 32), addr("2001:db8::"));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(millis in 0u64..10_000_000_000, size: u64, a: u32, b: u128, len in 0u8..=32) {
            let period = Period(Duration::from_millis(millis));
            prop_assert_eq!(period.to_string().parse(), Ok(period));
            prop_assert_eq!(Size(size).to_string().parse(), Ok(Size(size)));
            for addr in [IpAddr::V4(a.into()), IpAddr::V6(b.into())] {
                let cidr = Cidr(Prefix { addr, len });
                prop_assert_eq!(cidr.to_string().parse(), Ok(cidr));
            }
        }

        #[test]
        fn what_is_printed_of_masks_ports_and_bytes_reads_back(
            dotted in 0u8..=32, length in 0u8..=128, a in 1u16.., b in 1u16.., bytes in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            for mask in [Netmask::Dotted(dotted), Netmask::Length(length)] {
                prop_assert_eq!(mask.to_string().parse(), Ok(mask));
            }
            let ports = PortRange(a.min(b), a.max(b));
            prop_assert_eq!(ports.to_string().parse(), Ok(ports));
            let bytes = HexBytes(bytes);
            prop_assert_eq!(bytes.to_string().parse(), Ok(bytes));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,12}|[0-9]{0,25}[a-zA-Z]{0,3}|[0-9a-f:./]{0,20}") {
            let _ = (text.parse::<Period>(), text.parse::<Size>(), text.parse::<Address>());
            let _ = (text.parse::<Cidr>(), text.parse::<MacAddr>(), text.parse::<Netmask>());
            let _ = (text.parse::<PortRange>(), text.parse::<HexBytes>());
            let _ = (text.parse::<SyncAddress>(), text.parse::<Share>());
        }
    }
}
