//! What it costs to find the key of a packet's session in its payload.
//!
//! `cargo bench --no-default-features --bench persist`: nanoseconds per message, all cases in turn in each of
//! [`ROUNDS`] rounds: the median of the rounds, the least and the most of them.
//!
//! - `call-id`: INVITEs of 700 bytes with the Call-ID in the middle, made here, no two alike; and real ones from the
//!   shared test data (`../shared`, or `$POLDER_SHARED`) where they are. `by lines` is the rival: the standard library
//!   splits the message at its line feeds and compares the names.
//! - `quic`: the server id of a short-header packet by QUIC-LB.
//! - `field`: a field of the payload.

mod figure;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use figure::Figure;
use polder::persist::field::{Field, SessionKey, Unit, When};
use polder::persist::quic::{QuicConfig, QuicId, QuicLb, SERVER_ID_MAX};
use polder::persist::sip::{Scratch, call_id};

const ROUNDS: usize = 15;
/// Messages of each case per round, at least.
const MESSAGES: usize = 400_000;
/// Different messages that are made for a case.
const DIFFERENT: usize = 256;
const INVITE_LEN: usize = 700;

fn main() {
    let made: Vec<Vec<u8>> = (0..DIFFERENT).map(invite).collect();
    let mut cases = calls("call-id, 700-byte INVITE", &made);
    match real_invites() {
        Some(real) => cases.extend(calls("call-id, real INVITEs", &real)),
        None => eprintln!("SKIPPED: real INVITEs, for want of the shared test data"),
    }
    cases.extend(quic());
    cases.extend(fields());
    for _ in 0..ROUNDS {
        cases.iter_mut().for_each(Case::round);
    }
    println!("ns per message: median (least..most of {ROUNDS} rounds)");
    cases.iter().for_each(|case| println!("{case}"));
    for pair in cases.chunks(2).filter(|p| p[0].name.starts_with("call-id")) {
        let ratio = pair[1].rounds.at(50) / pair[0].rounds.at(50);
        println!("{}: the rival takes {ratio:.1} times as long", pair[0].name);
    }
}

/// What is done to one message; whether a key was found.
type Find = Box<dyn Fn(&[u8]) -> bool>;

/// Messages, and what is done to each.
struct Case {
    name: String,
    messages: Vec<Vec<u8>>,
    find: Find,
    /// Nanoseconds per message, by round.
    rounds: Figure,
}

impl Case {
    fn new(name: &str, messages: &[Vec<u8>], find: Find) -> Self {
        assert!(
            messages.iter().all(|m| find(m)),
            "{name}: a message without a key"
        );
        Self {
            name: name.to_owned(),
            messages: messages.to_vec(),
            find,
            rounds: Figure::default(),
        }
    }

    fn round(&mut self) {
        let passes = MESSAGES.div_ceil(self.messages.len());
        let start = Instant::now();
        for _ in 0..passes {
            for message in &self.messages {
                black_box((self.find)(black_box(message)));
            }
        }
        self.rounds.add(start, passes * self.messages.len());
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (median, least, most) = (self.rounds.at(50), self.rounds.at(0), self.rounds.at(100));
        write!(f, "{:<44} {median:>7.1} ({least:.1}..{most:.1})", self.name)
    }
}

fn calls(name: &str, messages: &[Vec<u8>]) -> Vec<Case> {
    let ours: Find = Box::new(|message| call_id(message, &mut Scratch::new()).is_some());
    let rival: Find = Box::new(|message| by_lines(message).is_some());
    vec![
        Case::new(name, messages, ours),
        Case::new(&format!("{name}, by lines"), messages, rival),
    ]
}

/// The rival: line by line, with no folding and nothing clever.
fn by_lines(message: &[u8]) -> Option<&[u8]> {
    message
        .split(|b| *b == b'\n')
        .take_while(|line| !line.trim_ascii_end().is_empty())
        .find_map(|line| {
            let colon = line.iter().position(|b| *b == b':')?;
            let name = line[..colon].trim_ascii();
            let is_call_id =
                name.eq_ignore_ascii_case(b"call-id") || name.eq_ignore_ascii_case(b"i");
            is_call_id.then(|| line[colon + 1..].trim_ascii())
        })
}

/// The `i`th INVITE, as a proxy sends it on.
fn invite(i: usize) -> Vec<u8> {
    // Call-IDs, branches and names of several lengths, so that no branch of the parser can be learnt by heart.
    let number = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let id = &format!("{number:016x}{number:016x}")[..12 + i % 20];
    let user = &"bartholomew.vandenberg"[..4 + i % 18];
    let head = format!(
        "INVITE sip:{user}@203.0.113.7:5060;transport=udp SIP/2.0\r\n\
         Via: SIP/2.0/UDP 198.51.100.17:5060;branch=z9hG4bK{id};rport\r\n\
         Max-Forwards: 69\r\n\
         Contact: <sip:{user}@198.51.100.17:5060;transport=udp>\r\n\
         From: \"{user}\" <sip:{user}@example.com>;tag={number:08x}\r\n\
         To: <sip:+31201234567@example.com>\r\n\
         Call-ID: {id}@198.51.100.17\r\n\
         CSeq: 1 INVITE\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, OPTIONS\r\n\
         Content-Type: application/sdp\r\n\r\n\
         v=0\r\no=- 1 1 IN IP4 198.51.100.17\r\ns=-\r\nc=IN IP4 198.51.100.17\r\nt=0 0\r\n\
         m=audio 4000 RTP/AVP 0 8 101\r\na="
    );
    let middle = INVITE_LEN * 2 / 5..INVITE_LEN * 3 / 5;
    assert!(head.find("Call-ID").is_some_and(|at| middle.contains(&at)));
    let mut message = head.into_bytes();
    assert!(message.len() <= INVITE_LEN, "{}", message.len());
    message.resize(INVITE_LEN, b'x');
    message
}

/// Every INVITE of the shared data that has a Call-ID and that the rival understands, too.
fn real_invites() -> Option<Vec<Vec<u8>>> {
    let root = std::env::var_os("POLDER_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let mut messages = Vec::new();
    for source in std::fs::read_dir(root.join("data/sip-msg")).ok()? {
        let Ok(files) = std::fs::read_dir(source.ok()?.path()) else {
            continue;
        };
        for file in files {
            messages.push(std::fs::read(file.ok()?.path()).ok()?);
        }
    }
    messages.retain(|m| {
        m.starts_with(b"INVITE ")
            && call_id(m, &mut Scratch::new()).is_some()
            && by_lines(m).is_some()
    });
    let bytes: usize = messages.iter().map(Vec::len).sum();
    println!(
        "{} real INVITEs, of {} bytes on average",
        messages.len(),
        bytes / messages.len().max(1)
    );
    (!messages.is_empty()).then_some(messages)
}

fn quic() -> Vec<Case> {
    let cases: [(&str, u8, u8, Option<[u8; 16]>); 4] = [
        ("quic, clear, 3 + 4", 3, 4, None),
        ("quic, one pass, 8 + 8", 8, 8, Some([7; 16])),
        ("quic, four passes, 3 + 4 (3 needed)", 3, 4, Some([7; 16])),
        ("quic, four passes, 10 + 5 (4 needed)", 10, 5, Some([7; 16])),
    ];
    cases
        .map(|(name, server_id_len, nonce_len, key)| {
            let config = QuicConfig {
                codepoint: 2,
                length_encoded: true,
                server_id_len,
                nonce_len,
                key,
            };
            let messages: Vec<_> = (0..DIFFERENT).map(|i| short_header(&config, i)).collect();
            let lb = QuicLb::new(&[config]).expect("a valid configuration");
            let find = move |message: &[u8]| {
                let mut out = [0; SERVER_ID_MAX];
                matches!(
                    black_box(lb.server_id(message, &mut out)),
                    QuicId::Server(_)
                )
            };
            Case::new(name, &messages, Box::new(find))
        })
        .into()
}

fn short_header(config: &QuicConfig, i: usize) -> Vec<u8> {
    let bytes = u128::try_from(i).expect("small").to_be_bytes();
    let (id, nonce) = (
        usize::from(config.server_id_len),
        usize::from(config.nonce_len),
    );
    let cid = config
        .encode(&bytes[16 - id..], &bytes[16 - nonce..])
        .expect("of the configuration's lengths");
    let mut packet = vec![0x40];
    packet.extend(cid);
    packet.resize(1200, 0xaa);
    packet
}

fn fields() -> Vec<Case> {
    let dtls = When {
        offset: 0,
        value: vec![0x19],
    };
    let cases: [(&str, u32, u32, Unit, Option<When>); 3] = [
        ("field, 4 bytes at 4 (GTP-U)", 4, 4, Unit::Bytes, None),
        (
            "field, 8 bytes at 11, when (DTLS)",
            11,
            8,
            Unit::Bytes,
            Some(dtls),
        ),
        (
            "field, 20 bits at 3 (across bytes)",
            3,
            20,
            Unit::Bits,
            None,
        ),
    ];
    cases
        .map(|(name, offset, length, unit, when)| {
            let field = Field::new(offset, length, unit).expect("a valid field");
            let key = SessionKey { field, when };
            let messages: Vec<_> = (0..DIFFERENT)
                .map(|i| {
                    let mut payload = vec![0x19];
                    payload.resize(100, u8::try_from(i % 256).expect("a byte"));
                    payload
                })
                .collect();
            let find = move |message: &[u8]| {
                let mut scratch = Scratch::new();
                matches!(
                    black_box(key.of(message, &mut scratch)),
                    polder::persist::field::Session::Key(_)
                )
            };
            Case::new(name, &messages, Box::new(find))
        })
        .into()
}
