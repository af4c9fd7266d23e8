//! The `quic` payload key: the server id in the destination connection ID of a QUIC packet, by QUIC-LB
//! (draft-ietf-quic-load-balancers, the text after -21): in clear, or encrypted with AES-128 in one or in four passes.
//!
//! Knows the bytes of a datagram and the configurations; which server an id belongs to is its caller's business. An ID
//! that a client chose for its first packets may decode to any server id: an id that nobody has is to be treated as
//! [`QuicId::Unroutable`]. Only what holds for every version of QUIC is relied on (RFC 8999). No length in a packet is
//! trusted, nothing is allocated, and the work per packet is bounded: four AES blocks at most.

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes128Dec, Aes128Enc};
use arrayvec::ArrayVec;

/// Octets of the longest server id.
pub const SERVER_ID_MAX: usize = 15;
/// Octets of the shortest nonce.
pub const NONCE_MIN: usize = 4;
/// Octets of the longest nonce.
pub const NONCE_MAX: usize = 18;
/// Octets of server id and nonce together at most, so that the connection ID has no more than the 20 of QUIC version 1.
pub const BODY_MAX: usize = 19;

/// Octets of server id and nonce together that are one AES block.
const ONE_PASS: usize = 16;
/// The codepoint of connection IDs that carry no server id.
const UNROUTABLE: u8 = 7;
/// Where the length of the destination connection ID stands in a long header, the ID itself behind it (RFC 8999 §5.1).
const LONG_CID_LEN_AT: usize = 5;

/// One QUIC-LB configuration: how servers that have it make their connection IDs.
#[derive(Clone, PartialEq, Eq)]
pub struct QuicConfig {
    /// The three high bits of a connection ID's first octet ("config rotation"), 0 to 6.
    pub codepoint: u8,
    /// Whether the five low bits of the first octet are the number of octets that follow it.
    pub length_encoded: bool,
    /// Octets of the server id, 1 to 15.
    pub server_id_len: u8,
    /// Octets of the nonce, 4 to 18; with the server id 19 at most.
    pub nonce_len: u8,
    /// The AES-128 key; none when the server id is sent in clear.
    pub key: Option<[u8; 16]>,
}

impl QuicConfig {
    /// Octets of a connection ID of this configuration, without any that the server may have put behind it.
    pub fn cid_len(&self) -> usize {
        1 + self.body_len()
    }

    /// A connection ID as a server with this configuration makes it. Where its length is not encoded, the five bits are
    /// those of its last octet.
    ///
    /// # Errors
    ///
    /// A sentence, when the configuration is not valid or the lengths are not those of the configuration.
    pub fn encode(&self, server_id: &[u8], nonce: &[u8]) -> Result<ArrayVec<u8, 20>, String> {
        self.check()?;
        if (server_id.len(), nonce.len()) != (self.server_id_len.into(), self.nonce_len.into()) {
            return Err(format!(
                "server id and nonce have {} and {} octets, the configuration says {} and {}",
                server_id.len(),
                nonce.len(),
                self.server_id_len,
                self.nonce_len
            ));
        }
        let mut body = ArrayVec::<u8, BODY_MAX>::new();
        body.extend(server_id.iter().chain(nonce).copied());
        match self.key {
            None => {}
            Some(key) if body.len() == ONE_PASS => encrypt_one_pass(&key, &mut body),
            Some(key) => FourPass::new(&key, body.len()).encrypt(&mut body),
        }
        let five_bits = if self.length_encoded {
            u8::try_from(body.len()).expect("checked: 19 at most")
        } else {
            body[body.len() - 1] & 0x1f
        };
        let mut cid = ArrayVec::from_iter([self.codepoint << 5 | five_bits]);
        cid.extend(body);
        Ok(cid)
    }

    fn body_len(&self) -> usize {
        usize::from(self.server_id_len) + usize::from(self.nonce_len)
    }

    /// Nothing, or what is wrong.
    fn check(&self) -> Result<(), String> {
        if self.codepoint >= UNROUTABLE {
            return Err(format!(
                "the codepoint is {}, not 0 to 6 (7 is for connection IDs without a server id)",
                self.codepoint
            ));
        }
        if !(1..=SERVER_ID_MAX).contains(&self.server_id_len.into()) {
            return Err(format!(
                "the server id has {} octets, not 1 to {SERVER_ID_MAX}",
                self.server_id_len
            ));
        }
        if !(NONCE_MIN..=NONCE_MAX).contains(&self.nonce_len.into()) {
            return Err(format!(
                "the nonce has {} octets, not {NONCE_MIN} to {NONCE_MAX}",
                self.nonce_len
            ));
        }
        if self.body_len() > BODY_MAX {
            return Err(format!(
                "server id and nonce have {} octets together, more than {BODY_MAX}",
                self.body_len()
            ));
        }
        Ok(())
    }
}

impl std::fmt::Debug for QuicConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicConfig")
            .field("codepoint", &self.codepoint)
            .field("length_encoded", &self.length_encoded)
            .field("server_id_len", &self.server_id_len)
            .field("nonce_len", &self.nonce_len)
            .field("key", &self.key.map(|_| "secret"))
            .finish()
    }
}

/// What the destination connection ID of a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuicId<'a> {
    /// The server id in it, if it is one of a server: see the module.
    Server(&'a [u8]),
    /// No server id can be in it: a client's choice, or that of a server without a configuration known here. To be
    /// scheduled as any packet, and its 5-tuple followed.
    Unroutable,
    /// The datagram is too short for the header that it begins with.
    Invalid,
}

/// The QUIC-LB configurations of a service, keys scheduled.
#[derive(Clone)]
pub struct QuicLb {
    configs: Box<[QuicConfig]>,
    /// By codepoint; none for the last one.
    decoders: Box<[Option<Decoder>; 8]>,
}

impl QuicLb {
    /// The reader of IDs of these configurations.
    ///
    /// # Errors
    ///
    /// A sentence that says which configuration (counted from 1) is wrong, and in what.
    pub fn new(configs: &[QuicConfig]) -> Result<Self, String> {
        if configs.is_empty() {
            return Err("there is no QUIC configuration".to_owned());
        }
        let mut decoders = Box::new([const { None }; 8]);
        for (i, config) in configs.iter().enumerate() {
            config
                .check()
                .map_err(|e| format!("QUIC configuration {}: {e}", i + 1))?;
            let decoder = &mut decoders[usize::from(config.codepoint)];
            if decoder.is_some() {
                return Err(format!(
                    "QUIC configuration {}: the codepoint {} is that of another one",
                    i + 1,
                    config.codepoint
                ));
            }
            *decoder = Some(Decoder::new(config));
        }
        Ok(Self {
            configs: configs.into(),
            decoders,
        })
    }

    /// The server id in the destination connection ID of a datagram's first packet, written to `out`.
    pub fn server_id<'a>(&self, payload: &[u8], out: &'a mut [u8; SERVER_ID_MAX]) -> QuicId<'a> {
        match payload.first() {
            None => QuicId::Invalid,
            Some(first) if first & 0x80 != 0 => self.of_long_header(payload, out),
            Some(_) => self.of_short_header(&payload[1..], out),
        }
    }

    /// The configurations, in the order given.
    pub fn configs(&self) -> &[QuicConfig] {
        &self.configs
    }

    /// Octets of a connection ID with this codepoint; none when there is no such configuration.
    pub fn cid_len(&self, codepoint: u8) -> Option<usize> {
        let config = self.configs.iter().find(|c| c.codepoint == codepoint)?;
        Some(config.cid_len())
    }

    fn of_long_header<'a>(&self, packet: &[u8], out: &'a mut [u8; SERVER_ID_MAX]) -> QuicId<'a> {
        let Some(&cid_len) = packet.get(LONG_CID_LEN_AT) else {
            return QuicId::Invalid;
        };
        let Some(cid) = packet[LONG_CID_LEN_AT + 1..].get(..cid_len.into()) else {
            return QuicId::Invalid;
        };
        let Some((&first, rest)) = cid.split_first() else {
            return QuicId::Unroutable;
        };
        match self.decoder(first) {
            Some(decoder) if decoder.may_be_all(first, rest) => {
                let body_on = &packet[LONG_CID_LEN_AT + 2..];
                QuicId::Server(decoder.server_id(body_on, out))
            }
            _ => QuicId::Unroutable,
        }
    }

    fn of_short_header<'a>(
        &self,
        after_flags: &[u8],
        out: &'a mut [u8; SERVER_ID_MAX],
    ) -> QuicId<'a> {
        let Some((&first, rest)) = after_flags.split_first() else {
            return QuicId::Invalid;
        };
        match self.decoder(first) {
            Some(decoder) if decoder.may_begin(first) && rest.len() < decoder.body_len => {
                QuicId::Invalid
            }
            Some(decoder) if decoder.may_begin(first) => {
                QuicId::Server(decoder.server_id(rest, out))
            }
            _ => QuicId::Unroutable,
        }
    }

    fn decoder(&self, first: u8) -> Option<&Decoder> {
        self.decoders[usize::from(first >> 5)].as_ref()
    }
}

impl std::fmt::Debug for QuicLb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("QuicLb").field(&self.configs).finish()
    }
}

impl PartialEq for QuicLb {
    fn eq(&self, other: &Self) -> bool {
        self.configs == other.configs
    }
}

impl Eq for QuicLb {}

/// How the IDs of one configuration are read.
#[derive(Clone)]
struct Decoder {
    length_encoded: bool,
    server_id_len: usize,
    /// Octets of server id and nonce.
    body_len: usize,
    form: Form,
}

#[derive(Clone)]
enum Form {
    Clear,
    OnePass(Aes128Dec),
    FourPass(FourPass),
}

impl Decoder {
    fn new(config: &QuicConfig) -> Self {
        let body_len = config.body_len();
        let form = match &config.key {
            None => Form::Clear,
            Some(key) if body_len == ONE_PASS => Form::OnePass(Aes128Dec::new(key.into())),
            Some(key) => Form::FourPass(FourPass::new(key, body_len)),
        };
        Self {
            length_encoded: config.length_encoded,
            server_id_len: config.server_id_len.into(),
            body_len,
            form,
        }
    }

    /// Whether a whole ID with this first octet and this rest can be of this configuration. Servers may put octets of
    /// their own behind the body; an encoded length counts them.
    fn may_be_all(&self, first: u8, rest: &[u8]) -> bool {
        rest.len() >= self.body_len
            && (!self.length_encoded || usize::from(first & 0x1f) == rest.len())
    }

    /// Whether an ID of unknown length with this first octet can be of this configuration.
    fn may_begin(&self, first: u8) -> bool {
        !self.length_encoded || usize::from(first & 0x1f) >= self.body_len
    }

    /// The server id in a packet from the ID's second octet on, where there is a body at least. All of `out` is
    /// written, since copies of a length known beforehand are the cheapest.
    fn server_id<'a>(&self, body_on: &[u8], out: &'a mut [u8; SERVER_ID_MAX]) -> &'a [u8] {
        let [plain @ .., _] = match &self.form {
            Form::Clear => octets_at(body_on, 0),
            Form::OnePass(aes) => {
                let mut block = aes::Block::from(octets_at(body_on, 0));
                aes.decrypt_block(&mut block);
                block.into()
            }
            Form::FourPass(passes) => passes.decrypt(body_on, self.server_id_len),
        };
        *out = plain;
        &out[..self.server_id_len]
    }
}

/// 16 octets from `at` on; zeros behind the end.
#[inline]
fn octets_at(bytes: &[u8], at: usize) -> [u8; 16] {
    let bytes = &bytes[at..];
    bytes.first_chunk().copied().unwrap_or_else(|| {
        let mut padded = [0; 16];
        padded[..bytes.len()].copy_from_slice(bytes);
        padded
    })
}

fn encrypt_one_pass(key: &[u8; 16], body: &mut [u8]) {
    let mut block = aes::Block::default();
    block.copy_from_slice(body);
    Aes128::new(key.into()).encrypt_block(&mut block);
    body.copy_from_slice(&block);
}

/// The Feistel network of four rounds over a body that is not one block long.
///
/// A half has the first octets of a block, as it enters AES. The octet in the middle of an odd body is in both halves;
/// the masks say which bits belong to each, so that nothing else depends on whether it is odd. Halves are arrays and
/// not numbers, to stay in vector registers.
#[derive(Clone)]
struct FourPass {
    aes: Aes128Enc,
    /// Octets of the body.
    len: usize,
    left_mask: [u8; 16],
    right_mask: [u8; 16],
    /// What is behind the half in each pass.
    expansions: [[u8; 16]; 4],
}

impl FourPass {
    fn new(key: &[u8; 16], len: usize) -> Self {
        let bits = 4 * len;
        let half_bits = 8 * len.div_ceil(2);
        let right_mask = high_bits(half_bits) & !high_bits(half_bits - bits);
        let len_octet = u128::try_from(len).expect("19 at most") << 8;
        Self {
            aes: Aes128Enc::new(key.into()),
            len,
            left_mask: high_bits(bits).to_be_bytes(),
            right_mask: right_mask.to_be_bytes(),
            expansions: [1, 2, 3, 4].map(|pass| (len_octet | pass).to_be_bytes()),
        }
    }

    /// Octets of a half, the shared one counted in both.
    fn half(&self) -> usize {
        self.len.div_ceil(2)
    }

    /// The first 16 octets of the plain text of the body that `body_on` begins with; the server id is right in them.
    fn decrypt(&self, body_on: &[u8], server_id_len: usize) -> [u8; 16] {
        let (mut left, mut right) = self.split(body_on);
        self.pass(4, &right, &mut left, &self.left_mask);
        self.pass(3, &left, &mut right, &self.right_mask);
        self.pass(2, &right, &mut left, &self.left_mask);
        // The last pass restores the right half, of which a server id no longer than the nonce has nothing.
        if 2 * server_id_len > self.len {
            self.pass(1, &left, &mut right, &self.right_mask);
        }
        // The first bit of the right half that is its own goes behind the last of the left one.
        let own = u128::from_be_bytes(right) << (8 * self.half() - 4 * self.len);
        (u128::from_be_bytes(left) | own >> (4 * self.len)).to_be_bytes()
    }

    fn encrypt(&self, body: &mut [u8]) {
        let (mut left, mut right) = self.split(body);
        self.pass(1, &left, &mut right, &self.right_mask);
        self.pass(2, &right, &mut left, &self.left_mask);
        self.pass(3, &left, &mut right, &self.right_mask);
        self.pass(4, &right, &mut left, &self.left_mask);
        let half = self.half();
        let (first, second) = (&left[..half], &right[..half]);
        body[..half].copy_from_slice(first);
        body[half..].copy_from_slice(&second[2 * half - self.len..]);
        if self.len % 2 == 1 {
            body[half - 1] |= second[0];
        }
    }

    /// Changes the half `to` by the other one, `from`; `mask` has the bits of `to`. Pass 1 to 4.
    #[inline]
    fn pass(&self, pass: usize, from: &[u8; 16], to: &mut [u8; 16], mask: &[u8; 16]) {
        let expansion = &self.expansions[pass - 1];
        let mut block =
            aes::Block::from(std::array::from_fn::<u8, 16, _>(|i| from[i] | expansion[i]));
        self.aes.encrypt_block(&mut block);
        for ((octet, cipher), mask) in to.iter_mut().zip(block).zip(mask) {
            *octet ^= cipher & mask;
        }
    }

    /// The halves of the body that `body_on` begins with.
    #[inline]
    fn split(&self, body_on: &[u8]) -> ([u8; 16], [u8; 16]) {
        let half = |at: usize, mask: &[u8; 16]| {
            let octets = octets_at(body_on, at);
            std::array::from_fn(|i| octets[i] & mask[i])
        };
        (
            half(0, &self.left_mask),
            half(self.len - self.half(), &self.right_mask),
        )
    }
}

/// A number of which the `n` highest bits are set; fewer than 128.
fn high_bits(n: usize) -> u128 {
    !(u128::MAX >> n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        let digit = |i: usize| u8::from_str_radix(&text[i..i + 2], 16).expect("hex");
        (0..text.len()).step_by(2).map(digit).collect()
    }

    fn key(text: &str) -> [u8; 16] {
        hex(text).try_into().expect("16 octets")
    }

    fn config(codepoint: u8, server_id_len: u8, nonce_len: u8) -> QuicConfig {
        QuicConfig {
            codepoint,
            length_encoded: true,
            server_id_len,
            nonce_len,
            key: None,
        }
    }

    fn long_header(cid: &[u8]) -> Vec<u8> {
        let cid_len = u8::try_from(cid.len()).expect("a short ID");
        let mut packet = vec![0xc3, 0, 0, 0, 1, cid_len];
        packet.extend_from_slice(cid);
        packet.extend_from_slice(&[4, 1, 2, 3, 4, 0]);
        packet
    }

    fn short_header(cid: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x40];
        packet.extend_from_slice(cid);
        packet.extend_from_slice(&[0xaa; 24]);
        packet
    }

    /// The server id, as the owned bytes.
    fn id_of(lb: &QuicLb, packet: &[u8]) -> Result<Vec<u8>, &'static str> {
        match lb.server_id(packet, &mut [0; SERVER_ID_MAX]) {
            QuicId::Server(id) => Ok(id.to_vec()),
            QuicId::Unroutable => Err("unroutable"),
            QuicId::Invalid => Err("invalid"),
        }
    }

    const DRAFT_KEY: &str = "8f95f09245765f80256934e50c66207f";

    /// The draft's vectors: key, codepoint, server id, nonce, connection ID. The clear one of codepoint 1 is left out,
    /// since the text garbles it (its nonce has an odd number of digits). The first octet of codepoint 3 is printed as
    /// 12, which is codepoint 0; by the draft's own rule it is 72. The last row is the draft's worked example.
    const VECTORS: &[(&str, u8, &str, &str, &str)] = &[
        ("", 0, "c4605e", "4504cc4f", "07c4605e4504cc4f"),
        (DRAFT_KEY, 0, "ed793a", "ee080dbf", "0720b1d07b359d3c"),
        (
            DRAFT_KEY,
            1,
            "ed793a51d49b8f5fab65",
            "ee080dbf48",
            "2fcc381bc74cb4fbad2823a3d1f8fed2",
        ),
        (
            DRAFT_KEY,
            2,
            "ed793a51d49b8f5f",
            "ee080dbf48c0d1e5",
            "504dd2d05a7b0de9b2b9907afb5ecf8cc3",
        ),
        (
            DRAFT_KEY,
            3,
            "ed793a51d49b8f5fab",
            "ee080dbf48c0d1e55d",
            "725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc",
        ),
        (
            "fdf726a9893ec05c0632d3956680baf0",
            0,
            "31441a",
            "9c69c275",
            "0767947d29be054a",
        ),
    ];

    #[test]
    fn the_vectors_of_the_draft_are_met_both_ways() {
        for (secret, codepoint, server_id, nonce, cid) in VECTORS {
            let (server_id, nonce, cid) = (hex(server_id), hex(nonce), hex(cid));
            let config = QuicConfig {
                key: (!secret.is_empty()).then(|| key(secret)),
                ..config(
                    *codepoint,
                    u8::try_from(server_id.len()).expect("short"),
                    u8::try_from(nonce.len()).expect("short"),
                )
            };
            let made = config.encode(&server_id, &nonce).expect("valid");
            assert_eq!(made.as_slice(), cid, "codepoint {codepoint}");
            let lb = QuicLb::new(&[config]).expect("valid");
            assert_eq!(id_of(&lb, &long_header(&cid)), Ok(server_id.clone()));
            assert_eq!(id_of(&lb, &short_header(&cid)), Ok(server_id));
        }
    }

    #[test]
    fn the_codepoint_chooses_among_configurations() {
        let configs = [
            config(0, 1, 4),
            QuicConfig {
                key: Some([7; 16]),
                ..config(3, 2, 14)
            },
            QuicConfig {
                key: Some([9; 16]),
                ..config(6, 9, 5)
            },
        ];
        let lb = QuicLb::new(&configs).expect("valid");
        assert_eq!(lb.configs(), configs);
        for config in &configs {
            let id = vec![0x5a; config.server_id_len.into()];
            let nonce = vec![1; config.nonce_len.into()];
            let cid = config.encode(&id, &nonce).expect("valid");
            assert_eq!(lb.cid_len(config.codepoint), Some(cid.len()));
            assert_eq!(id_of(&lb, &short_header(&cid)), Ok(id));
        }
        assert_eq!(lb.cid_len(1), None);
    }

    #[test]
    fn what_cannot_carry_a_server_id_is_unroutable() {
        let lb = QuicLb::new(&[config(0, 3, 4)]).expect("valid");
        let cases: &[(&str, Vec<u8>)] = &[
            ("codepoint 7", long_header(&[0xe7, 1, 2, 3, 4, 5, 6, 7])),
            ("codepoint 7, short", short_header(&[0xe7; 8])),
            (
                "a codepoint not configured",
                long_header(&[0x27, 1, 2, 3, 4, 5, 6, 7]),
            ),
            ("an ID that is too short", long_header(&[0x06; 7])),
            (
                "another encoded length",
                long_header(&[0x08, 1, 2, 3, 4, 5, 6, 7]),
            ),
            ("an encoded length too small", short_header(&[0x06; 8])),
            ("no ID", long_header(&[])),
            ("a DTLS 1.2 record", hex("16fefd0000000000000000000100")),
        ];
        for (what, packet) in cases {
            assert_eq!(id_of(&lb, packet), Err("unroutable"), "{what}");
        }
    }

    #[test]
    fn what_is_too_short_is_invalid() {
        let lb = QuicLb::new(&[config(0, 3, 4)]).expect("valid");
        let cid = [0x07, 1, 2, 3, 4, 5, 6, 7];
        let long = &long_header(&cid)[..14];
        for cut in 0..long.len() {
            assert_eq!(id_of(&lb, &long[..cut]), Err("invalid"), "long, {cut}");
        }
        assert_eq!(id_of(&lb, long), Ok(vec![1, 2, 3]));
        let short = &short_header(&cid)[..9];
        for cut in 0..short.len() {
            assert_eq!(id_of(&lb, &short[..cut]), Err("invalid"), "short, {cut}");
        }
        assert_eq!(id_of(&lb, short), Ok(vec![1, 2, 3]));
    }

    #[test]
    fn any_version_and_octets_behind_the_body_do_no_harm() {
        for length_encoded in [false, true] {
            let config = QuicConfig {
                length_encoded,
                ..config(0, 3, 4)
            };
            let lb = QuicLb::new(&[config]).expect("valid");
            // 32 octets: the most that the five bits can say.
            let mut cid = [9; 32];
            cid[..4].copy_from_slice(&[31, 1, 2, 3]);
            let mut packet = long_header(&cid);
            packet[0] = 0x80;
            packet[1..5].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
            assert_eq!(id_of(&lb, &packet), Ok(vec![1, 2, 3]));
            assert_eq!(id_of(&lb, &short_header(&cid)), Ok(vec![1, 2, 3]));
        }
    }

    #[test]
    fn a_configuration_off_the_limits_is_refused_with_its_number() {
        let cases: &[(QuicConfig, &str)] = &[
            (config(7, 3, 4), "the codepoint is 7"),
            (config(0, 0, 4), "the server id has 0 octets"),
            (config(0, 16, 4), "the server id has 16 octets"),
            (config(0, 3, 3), "the nonce has 3 octets"),
            (config(0, 1, 19), "the nonce has 19 octets"),
            (config(0, 15, 5), "20 octets together"),
            (config(5, 3, 4), "the codepoint 5 is that of another one"),
        ];
        for (wrong, want) in cases {
            let said = QuicLb::new(&[config(5, 3, 4), wrong.clone()]).expect_err("refused");
            assert!(said.starts_with("QUIC configuration 2: "), "{said}");
            assert!(said.contains(want), "{said}");
        }
        assert!(QuicLb::new(&[]).is_err());
        assert!(config(0, 15, 4).check().is_ok());
        assert!(config(0, 1, 18).check().is_ok());
        assert!(config(0, 3, 4).encode(&[1, 2], &[0; 4]).is_err());
    }

    #[test]
    fn a_key_is_never_shown() {
        let secret = QuicConfig {
            key: Some([0xab; 16]),
            ..config(2, 3, 4)
        };
        let lb = QuicLb::new(std::slice::from_ref(&secret)).expect("valid");
        let shown = format!("{secret:?} {lb:?}").to_lowercase();
        assert!(!shown.contains("ab, ") && !shown.contains("171"), "{shown}");
        assert!(shown.contains("secret"));
    }

    #[test]
    fn readers_are_equal_when_their_configurations_are() {
        let of = |secret: u8| {
            QuicLb::new(&[QuicConfig {
                key: Some([secret; 16]),
                ..config(2, 3, 4)
            }])
            .expect("valid")
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn what_follows_the_id_has_no_influence() {
        let config = QuicConfig {
            key: Some([3; 16]),
            ..config(1, 10, 9)
        };
        let id = [0xf0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        let cid = config.encode(&id, &[0xff; 9]).expect("valid");
        let lb = QuicLb::new(&[config]).expect("valid");
        for behind in 0..20 {
            let mut packet = vec![0x40];
            packet.extend_from_slice(&cid);
            packet.resize(1 + cid.len() + behind, 0xee);
            assert_eq!(id_of(&lb, &packet), Ok(id.to_vec()), "{behind} behind");
        }
    }

    /// Every pair of lengths that the draft allows.
    fn lengths() -> impl Iterator<Item = (u8, u8)> {
        (1..=15)
            .flat_map(|id| (4..=18).map(move |nonce| (id, nonce)))
            .filter(|(id, nonce)| id + nonce <= 19)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_encoded_is_decoded_for_all_lengths(
            secret in proptest::option::of(any::<[u8; 16]>()),
            octets in any::<[u8; 19]>(),
            codepoint in 0..7u8,
            length_encoded: bool,
        ) {
            for (server_id_len, nonce_len) in lengths() {
                let config = QuicConfig { codepoint, length_encoded, server_id_len, nonce_len, key: secret };
                let (id, rest) = octets.split_at(server_id_len.into());
                let cid = config.encode(id, &rest[..nonce_len.into()]).expect("valid");
                prop_assert_eq!(cid.len(), config.cid_len());
                let lb = QuicLb::new(&[config]).expect("valid");
                prop_assert_eq!(id_of(&lb, &long_header(&cid)), Ok(id.to_vec()));
                prop_assert_eq!(id_of(&lb, &short_header(&cid)), Ok(id.to_vec()));
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
            cid_len in 0..30u8,
        ) {
            let keyed = |codepoint, id, nonce| QuicConfig {
                key: Some([codepoint; 16]),
                ..config(codepoint, id, nonce)
            };
            let lb = QuicLb::new(&[
                config(0, 15, 4),
                QuicConfig { length_encoded: false, ..config(1, 1, 18) },
                keyed(2, 12, 4),
                QuicConfig { length_encoded: false, ..keyed(3, 8, 8) },
                keyed(4, 15, 4),
                QuicConfig { length_encoded: false, ..keyed(5, 1, 4) },
            ]).expect("valid");
            let mut bytes = bytes;
            for _ in 0..2 {
                if let Ok(id) = id_of(&lb, &bytes) {
                    prop_assert!([15, 1, 12, 8].contains(&id.len()));
                }
                // Most random lengths say more than there is: once more with a likely one.
                if let Some(len) = bytes.get_mut(LONG_CID_LEN_AT) {
                    *len = cid_len;
                }
            }
        }
    }
}
