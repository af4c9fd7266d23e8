//! Version 0: 24 bytes a record, IPv4 only (specification §9.2).

use super::record::{SEQ_LEN, Seq, flag};
use super::{ConnRecord, HostOrder, Record, Rejected};
use crate::net::{Family, V4};
use crate::table::Ends;

/// Bytes of a message's header.
pub const HEADER_LEN: usize = 4;
/// Bytes of a record without sequence blocks.
pub const RECORD_LEN: usize = 24;

/// What a record's bytes gave, and where the next one begins. The outer error is one that leaves no
/// next record.
pub(super) type Decoded<'a> = Result<(Result<Record<'a>, Rejected>, usize), Rejected>;

/// The record at `at`.
pub(super) fn decode(message: &[u8], at: usize, order: HostOrder) -> Decoded<'_> {
    let rest = message.get(at..).ok_or(Rejected::RecordCut)?;
    let (fixed, rest) = rest
        .split_first_chunk::<RECORD_LEN>()
        .ok_or(Rejected::RecordCut)?;
    let be16 = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let flags = u32::from(be16(20));
    let (seq, len) = if flags & flag::SEQ == 0 {
        (None, RECORD_LEN)
    } else {
        let blocks = rest.first_chunk().ok_or(Rejected::RecordCut)?;
        let number = match order {
            HostOrder::Little => u32::from_le_bytes,
            HostOrder::Big => u32::from_be_bytes,
        };
        (Some(Seq::read(blocks, number)), RECORD_LEN + SEQ_LEN)
    };
    let ends = Ends::<V4> {
        proto: fixed[1],
        caddr: V4::read(&fixed[8..]),
        cport: be16(2),
        vaddr: V4::read(&fixed[12..]),
        vport: be16(4),
        daddr: V4::read(&fixed[16..]),
        dport: be16(6),
    };
    let entry = ConnRecord {
        ends: ends.into(),
        flags,
        state: be16(22),
        mark: 0,
        timeout_s: 0,
        seq,
    };
    Ok((Ok(Record::new(entry, None)), at + len))
}

/// Appends a record.
#[allow(clippy::cast_possible_truncation)] // The layout has the low 16 bits of the flags.
pub(super) fn encode(entry: &ConnRecord, ends: &Ends<V4>, order: HostOrder, out: &mut Vec<u8>) {
    let flags = entry.wire_flags() as u16;
    let mut fixed = [0; RECORD_LEN];
    fixed[1] = ends.proto;
    fixed[2..4].copy_from_slice(&ends.cport.to_be_bytes());
    fixed[4..6].copy_from_slice(&ends.vport.to_be_bytes());
    fixed[6..8].copy_from_slice(&ends.dport.to_be_bytes());
    V4::write(ends.caddr, &mut fixed[8..]);
    V4::write(ends.vaddr, &mut fixed[12..]);
    V4::write(ends.daddr, &mut fixed[16..]);
    fixed[20..22].copy_from_slice(&flags.to_be_bytes());
    fixed[22..24].copy_from_slice(&entry.state.to_be_bytes());
    out.extend_from_slice(&fixed);
    if let Some(seq) = entry.wire_seq() {
        let number = match order {
            HostOrder::Little => u32::to_le_bytes,
            HostOrder::Big => u32::to_be_bytes,
        };
        out.extend_from_slice(&seq.bytes(number));
    }
}

/// Bytes that [`encode`] appends.
pub(super) fn encoded_len(entry: &ConnRecord) -> usize {
    RECORD_LEN + entry.wire_seq().map_or(0, |_| SEQ_LEN)
}
