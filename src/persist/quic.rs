//! Stand-in until the branch with QUIC-LB is merged.

/// One configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicConfig {
    /// The three high bits of the first octet, 0 to 6.
    pub codepoint: u8,
    /// Whether the other bits say the length.
    pub length_encoded: bool,
    /// Bytes of the server id.
    pub server_id_len: u8,
    /// Bytes of the nonce.
    pub nonce_len: u8,
    /// AES-128 key.
    pub key: Option<[u8; 16]>,
}

/// Reads server ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicLb {}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuicId<'a> {
    /// A server's id.
    Server(&'a [u8]),
    /// None.
    Unroutable,
    /// Not QUIC.
    Invalid,
}

impl QuicLb {
    /// From configurations.
    ///
    /// # Errors
    /// A sentence.
    pub fn new(_configs: &[QuicConfig]) -> Result<Self, String> {
        Ok(Self {})
    }

    /// The server id.
    pub fn server_id<'a>(&self, _payload: &[u8], _out: &'a mut [u8; 15]) -> QuicId<'a> {
        QuicId::Unroutable
    }
}
