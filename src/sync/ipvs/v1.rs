//! Version 1: both families, timeout, mark, and options (specification §9.3, §9.4).

use super::record::{SEQ_LEN, Seq};
use super::v0::Decoded;
use super::{AnyEnds, ConnRecord, Engine, Record, Rejected};
use crate::net::{Family, V4, V6};
use crate::table::Ends;

/// Bytes of a message's header.
pub const HEADER_LEN: usize = 8;
/// Bytes of a record in front of its addresses.
const FIXED_LEN: usize = 24;
/// Bytes of a record of IPv4 without options.
pub const RECORD_V4_LEN: usize = FIXED_LEN + 3 * 4;
/// Bytes of a record of IPv6 without options.
pub const RECORD_V6_LEN: usize = FIXED_LEN + 3 * 16;
/// Records begin at multiples of this.
pub const ALIGNMENT: usize = 4;

/// Longest name of an engine.
pub const ENGINE_NAME_MAX: usize = 16;
/// Longest key of a session.
pub const ENGINE_DATA_MAX: usize = 255;

const TYPE_V4: u8 = 0;
const TYPE_V6: u8 = 1;
const OPTION_SEQ: u8 = 1;
const OPTION_ENGINE_DATA: u8 = 2;
const OPTION_ENGINE_NAME: u8 = 3;
/// Bit of an option's type: who does not know it goes on without it.
const OPTION_MAY_IGNORE: u8 = 0x40;
const SIZE_MASK: u16 = 0x0fff;

/// The record at `at`.
pub(super) fn decode(message: &[u8], at: usize) -> Decoded<'_> {
    let rest = message.get(at..).ok_or(Rejected::RecordCut)?;
    // Also a record of IPv6 has these, so that nothing is asked of fewer bytes (specification §9.8).
    let fixed: &[u8; RECORD_V4_LEN] = rest.first_chunk().ok_or(Rejected::RecordCut)?;
    let versioned = u16::from_be_bytes([fixed[2], fixed[3]]);
    let size = usize::from(versioned & SIZE_MASK);
    let record = rest.get(..size).ok_or(Rejected::RecordCut)?;
    if versioned & !SIZE_MASK != 0 {
        return Err(Rejected::RecordVersion);
    }
    let (ends, len) = match fixed[0] {
        kind if kind & TYPE_V6 != 0 => (
            ends::<V6>(record).ok_or(Rejected::RecordSize)?.into(),
            RECORD_V6_LEN,
        ),
        TYPE_V4 => (
            ends::<V4>(record).ok_or(Rejected::RecordSize)?.into(),
            RECORD_V4_LEN,
        ),
        _ => return Err(Rejected::RecordType),
    };
    let next = (at + size).next_multiple_of(ALIGNMENT);
    let record = options(&record[len..]).and_then(|options| {
        let entry = entry(fixed, ends, options.seq);
        Ok(Record::new(entry, options.engine()?))
    });
    Ok((record, next))
}

/// Protocol and ends of a record; nothing when it is too short for the family.
fn ends<F: Family>(record: &[u8]) -> Option<Ends<F>> {
    let addresses = record.get(FIXED_LEN..FIXED_LEN + 3 * F::ADDR_LEN)?;
    let be16 = |at: usize| u16::from_be_bytes([record[at], record[at + 1]]);
    Some(Ends {
        proto: record[1],
        caddr: F::read(addresses),
        cport: be16(10),
        vaddr: F::read(&addresses[F::ADDR_LEN..]),
        vport: be16(12),
        daddr: F::read(&addresses[2 * F::ADDR_LEN..]),
        dport: be16(14),
    })
}

fn entry(fixed: &[u8; RECORD_V4_LEN], ends: AnyEnds, seq: Option<Seq>) -> ConnRecord {
    let be32 =
        |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    ConnRecord {
        ends,
        flags: be32(4),
        state: u16::from_be_bytes([fixed[8], fixed[9]]),
        mark: be32(16),
        timeout_s: be32(20),
        seq,
    }
}

/// The options of one record.
#[derive(Default)]
struct Options<'a> {
    seq: Option<Seq>,
    data: Option<&'a [u8]>,
    name: Option<&'a [u8]>,
}

fn options(mut bytes: &[u8]) -> Result<Options<'_>, Rejected> {
    let mut found = Options::default();
    while !bytes.is_empty() {
        let [kind, len, ..] = *bytes else {
            return Err(Rejected::OptionCut);
        };
        let value = bytes.get(2..2 + usize::from(len));
        let value = value.filter(|v| !v.is_empty()).ok_or(Rejected::OptionCut)?;
        found.add(kind, value)?;
        bytes = &bytes[2 + value.len()..];
    }
    Ok(found)
}

impl<'a> Options<'a> {
    fn add(&mut self, kind: u8, value: &'a [u8]) -> Result<(), Rejected> {
        match kind {
            OPTION_SEQ => {
                let blocks = value.try_into().map_err(|_| Rejected::OptionLength)?;
                once(&mut self.seq, Seq::read(blocks, u32::from_be_bytes))
            }
            OPTION_ENGINE_DATA => once(&mut self.data, value),
            OPTION_ENGINE_NAME if value.len() > ENGINE_NAME_MAX => Err(Rejected::OptionLength),
            OPTION_ENGINE_NAME => once(&mut self.name, value),
            kind if kind & OPTION_MAY_IGNORE != 0 => Ok(()),
            _ => Err(Rejected::OptionUnknown),
        }
    }

    /// A name alone means nothing.
    fn engine(&self) -> Result<Option<Engine<'a>>, Rejected> {
        let Some(data) = self.data else {
            return Ok(None);
        };
        let name = self.name.ok_or(Rejected::EngineName)?;
        Ok(Some(Engine { name, data }))
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Rejected> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Rejected::OptionRepeated),
    }
}

/// Appends a record.
pub(super) fn encode(record: &Record<'_>, out: &mut Vec<u8>) {
    let entry = record.entry();
    let size = u16::try_from(encoded_len(record)).expect("a record has less than 400 bytes");
    match &entry.ends {
        AnyEnds::V4(ends) => fixed::<V4>(TYPE_V4, size, entry, ends, out),
        AnyEnds::V6(ends) => fixed::<V6>(TYPE_V6, size, entry, ends, out),
    }
    if let Some(seq) = entry.wire_seq() {
        option(OPTION_SEQ, &seq.bytes(u32::to_be_bytes), out);
    }
    if let Some(engine) = record.engine() {
        option(OPTION_ENGINE_DATA, engine.data, out);
        option(OPTION_ENGINE_NAME, engine.name, out);
    }
}

fn fixed<F: Family>(kind: u8, size: u16, entry: &ConnRecord, ends: &Ends<F>, out: &mut Vec<u8>) {
    let mut bytes = [0; RECORD_V6_LEN];
    bytes[0] = kind;
    bytes[1] = ends.proto;
    bytes[2..4].copy_from_slice(&size.to_be_bytes());
    bytes[4..8].copy_from_slice(&entry.wire_flags().to_be_bytes());
    bytes[8..10].copy_from_slice(&entry.state.to_be_bytes());
    bytes[10..12].copy_from_slice(&ends.cport.to_be_bytes());
    bytes[12..14].copy_from_slice(&ends.vport.to_be_bytes());
    bytes[14..16].copy_from_slice(&ends.dport.to_be_bytes());
    bytes[16..20].copy_from_slice(&entry.mark.to_be_bytes());
    bytes[20..24].copy_from_slice(&entry.timeout_s.to_be_bytes());
    let addresses = &mut bytes[FIXED_LEN..FIXED_LEN + 3 * F::ADDR_LEN];
    F::write(ends.caddr, addresses);
    F::write(ends.vaddr, &mut addresses[F::ADDR_LEN..]);
    F::write(ends.daddr, &mut addresses[2 * F::ADDR_LEN..]);
    out.extend_from_slice(&bytes[..FIXED_LEN + 3 * F::ADDR_LEN]);
}

fn option(kind: u8, value: &[u8], out: &mut Vec<u8>) {
    let len = u8::try_from(value.len()).expect("the builder takes no longer ones");
    out.extend_from_slice(&[kind, len]);
    out.extend_from_slice(value);
}

/// Bytes that [`encode`] appends.
pub(super) fn encoded_len(record: &Record<'_>) -> usize {
    let entry = record.entry();
    let fixed = match entry.ends {
        AnyEnds::V4(_) => RECORD_V4_LEN,
        AnyEnds::V6(_) => RECORD_V6_LEN,
    };
    let seq = entry.wire_seq().map_or(0, |_| 2 + SEQ_LEN);
    let engine = record
        .engine()
        .map_or(0, |e| 4 + e.data.len() + e.name.len());
    fixed + seq + engine
}
