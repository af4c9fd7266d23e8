//! The `sip` engine's key: the Call-ID of a SIP message in one UDP datagram.
//!
//! RFC 3261 truth, not the kernel's reading of it: header section only (§7.3: up to the first empty line), the first
//! Call-ID header, its name or its compact form `i` in any case (§7.3.3, §20.8), blanks and tabs around the colon,
//! folding (§7.3.1), values of any length and any bytes, compared byte by byte. Lines may end in CRLF, LF or CR, since
//! peers send all three. Nothing behind the end of the datagram is looked at and no length field is trusted.
//!
//! Cost: one pass of a vectorised search for line ends over the headers before the Call-ID.

use memchr::memchr2;

/// Bytes of a Call-ID that was folded in its middle and has to be put together.
pub const FOLDED_MAX: usize = 512;

/// Room for a Call-ID that was folded in its middle.
pub type Scratch = arrayvec::ArrayVec<u8, FOLDED_MAX>;

/// The Call-ID of the message in `datagram`, without blanks around it. It is a slice of the datagram, unless the value
/// itself was folded: then the parts, joined by one blank each, are put into `scratch`.
///
/// `None` when there is no Call-ID header, its value is empty, or it was folded and is longer than [`FOLDED_MAX`].
pub fn call_id<'a>(datagram: &'a [u8], scratch: &'a mut Scratch) -> Option<&'a [u8]> {
    let start = datagram.iter().position(|b| !is_line_end(*b))?;
    let mut rest = after_line(&datagram[start..])?;
    while let Some(&first) = rest.first() {
        if is_line_end(first) {
            // The empty line: what follows is the body.
            return None;
        }
        if matches!(first | 0x20, b'c' | b'i')
            && let Some(value) = value_of(rest)
        {
            return unfolded(value, scratch);
        }
        rest = after_line(rest)?;
    }
    None
}

fn is_line_end(b: u8) -> bool {
    b == b'\r' || b == b'\n'
}

fn is_blank(b: u8) -> bool {
    b == b' ' || b == b'\t'
}

/// Bytes of the line end that `bytes` begins with; 0 when it begins with none.
fn line_end_len(bytes: &[u8]) -> usize {
    match bytes {
        [b'\r', b'\n', ..] => 2,
        [b'\r' | b'\n', ..] => 1,
        _ => 0,
    }
}

/// What follows the first line of `bytes`; `None` when that line has no end.
fn after_line(bytes: &[u8]) -> Option<&[u8]> {
    let end = memchr2(b'\r', b'\n', bytes)?;
    let line_end = line_end_len(&bytes[end..]);
    Some(&bytes[end + line_end..])
}

/// Skips blanks, tabs, and line ends that are followed by one of those.
fn skip_blank(mut bytes: &[u8]) -> &[u8] {
    loop {
        match bytes.first() {
            Some(b) if is_blank(*b) => bytes = &bytes[1..],
            Some(_) => {
                let folded = &bytes[line_end_len(bytes)..];
                if folded.len() == bytes.len() || !folded.first().is_some_and(|b| is_blank(*b)) {
                    return bytes;
                }
                bytes = folded;
            }
            None => return bytes,
        }
    }
}

/// The value, still folded and with all that follows it, when `header` begins with a Call-ID header.
fn value_of(header: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"call-id";
    let long = header
        .get(..NAME.len())
        .is_some_and(|n| n.eq_ignore_ascii_case(NAME));
    let name_len = match header[0] {
        b'i' | b'I' => 1,
        _ if long => NAME.len(),
        _ => return None,
    };
    let after_name = skip_blank(&header[name_len..]);
    after_name.strip_prefix(b":").map(skip_blank)
}

/// The header's value up to its end, folds in its middle replaced by one blank each.
fn unfolded<'a>(value: &'a [u8], scratch: &'a mut Scratch) -> Option<&'a [u8]> {
    let (first, mut rest) = line(value);
    if !rest.first().is_some_and(|b| is_blank(*b)) {
        return (!first.is_empty()).then_some(first);
    }
    scratch.clear();
    scratch.try_extend_from_slice(first).ok()?;
    while rest.first().is_some_and(|b| is_blank(*b)) {
        let (part, next) = line(rest);
        let part = part.trim_ascii_start();
        if !part.is_empty() {
            if !scratch.is_empty() {
                scratch.try_push(b' ').ok()?;
            }
            scratch.try_extend_from_slice(part).ok()?;
        }
        rest = next;
    }
    (!scratch.is_empty()).then_some(scratch.as_slice())
}

/// The first line without its end and trailing blanks, and what follows.
fn line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
    let mut text = &bytes[..end];
    while let [head @ .., last] = text
        && is_blank(*last)
    {
        text = head;
    }
    (text, &bytes[end + line_end_len(&bytes[end..])..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(message: &str) -> Option<String> {
        let mut scratch = Scratch::new();
        call_id(message.as_bytes(), &mut scratch).map(|k| String::from_utf8_lossy(k).into_owned())
    }

    fn with_header(header: &str) -> String {
        format!(
            "INVITE sip:bob@example.com SIP/2.0\r\nMax-Forwards: 70\r\n{header}To: x\r\n\r\nbody"
        )
    }

    #[test]
    fn the_call_id_is_read_as_rfc_3261_has_it() {
        let cases: &[(&str, &str, Option<&str>)] = &[
            ("plain", "Call-ID: abc@h\r\n", Some("abc@h")),
            ("any case", "cALL-iD:abc\r\n", Some("abc")),
            ("compact", "i: z9\r\n", Some("z9")),
            (
                "compact, upper case, blank before the colon",
                "I : z9@q\r\n",
                Some("z9@q"),
            ),
            ("tabs", "CALL-ID\t:\t abc@h.x\r\n", Some("abc@h.x")),
            (
                "folded before the value",
                "Call-ID:\r\n  folded@h\r\n",
                Some("folded@h"),
            ),
            (
                "folded twice before the value",
                "Call-ID:\r\n \r\n\tx@h\r\n",
                Some("x@h"),
            ),
            (
                "folded before the colon",
                "Call-ID\r\n : x@h\r\n",
                Some("x@h"),
            ),
            (
                "folded after the value",
                "Call-ID: x@h\r\n \r\n",
                Some("x@h"),
            ),
            (
                "folded within the value",
                "Call-ID: a\r\n  b\r\n",
                Some("a b"),
            ),
            ("trailing blanks", "Call-ID: abc \t \r\n", Some("abc")),
            ("line feeds only", "Call-ID: abc\n", Some("abc")),
            (
                "off the grammar",
                "Call-ID: a=b;c@d@e \"f\"\r\n",
                Some("a=b;c@d@e \"f\""),
            ),
            (
                "a name that begins alike",
                "Call-ID-Info: no\r\nCall-ID: x@y\r\n",
                Some("x@y"),
            ),
            (
                "a header with i and more",
                "I-Foo: 1\r\ni2: 2\r\nCall-ID: x@y\r\n",
                Some("x@y"),
            ),
            (
                "the first of two",
                "Call-ID: one\r\nCall-ID: two\r\n",
                Some("one"),
            ),
            (
                "a continuation that looks like one",
                "X: 1\r\n i: hidden\r\ni: real\r\n",
                Some("real"),
            ),
            ("empty", "Call-ID:\r\n", None),
            ("none", "X: y\r\n", None),
            ("without a colon", "Call-ID abc\r\n", None),
        ];
        for (what, header, want) in cases {
            assert_eq!(key(&with_header(header)).as_deref(), *want, "{what}");
        }
    }

    #[test]
    fn the_body_and_the_start_line_are_not_searched() {
        assert_eq!(
            key("INVITE x SIP/2.0\r\nTo: y\r\n\r\nCall-ID: body@h\r\n"),
            None
        );
        assert_eq!(key("Call-ID: first@line\r\nTo: y\r\n\r\n"), None);
    }

    #[test]
    fn leading_line_ends_and_a_cut_datagram_do_no_harm() {
        assert_eq!(
            key("\r\n\r\nBYE x SIP/2.0\r\nCall-ID: a@b\r\n\r\n").as_deref(),
            Some("a@b")
        );
        assert_eq!(key("BYE x SIP/2.0\r\nCall-ID: a@b").as_deref(), Some("a@b"));
        for cut in [
            "",
            "\r\n",
            "BYE",
            "BYE x\r\n",
            "BYE x\r\nC",
            "BYE x\r\nCall-ID",
            "BYE x\r\ni:",
        ] {
            assert_eq!(key(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn values_of_any_length_and_bytes_are_keys() {
        let long = "x".repeat(60_000);
        assert_eq!(
            key(&with_header(&format!("Call-ID: {long}\r\n"))).as_deref(),
            Some(&*long)
        );
        let mut scratch = Scratch::new();
        let got = call_id(b"A\r\nCall-ID: \x00\xff\x01\r\n", &mut scratch);
        assert_eq!(got, Some(&b"\x00\xff\x01"[..]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), Just(b'i'), any::<u8>()], 0..200)) {
            let mut scratch = Scratch::new();
            if let Some(k) = call_id(&bytes, &mut scratch) {
                prop_assert!(!k.is_empty());
                prop_assert!(!k.iter().any(|b| is_line_end(*b)));
            }
        }
    }
}
