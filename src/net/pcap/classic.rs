//! The pcap format (draft-ietf-opsawg-pcap): one header, then records.

use std::io::Read;

use super::input::Input;
use super::{ByteOrder, FRAME_MAX, PcapError, Record, field};

/// Magic number of files with microseconds.
pub(super) const MAGIC_MICRO: u32 = 0xa1b2_c3d4;
/// Magic number of files with nanoseconds.
pub(super) const MAGIC_NANO: u32 = 0xa1b2_3c4d;
/// Magic numbers of the variants that are recognised in order to be refused: "modified" (a Linux patch of 1999),
/// and that of Navtel and of IXIA's two.
const MAGIC_VARIANTS: [u32; 4] = [0xa1b2_cd34, 0xa12b_3c4d, 0x1c00_01ac, 0x1c00_01ab];

/// The upper bits of the link type word say whether frames end with a check sequence; they don't name a type.
const LINK_TYPE_MASK: u32 = 0x03ff_ffff;

/// What the file header says.
#[derive(Debug)]
pub(super) struct Classic {
    order: ByteOrder,
    ns_per_tick: u32,
    link_type: u32,
    /// Before version 2.4 the two lengths of a record came in either order.
    either_order: bool,
}

impl Classic {
    /// Reads the rest of the file header; `None` when `magic` is not pcap's.
    pub(super) fn open<R: Read>(
        magic: [u8; 4],
        input: &mut Input<R>,
    ) -> Result<Option<Self>, PcapError> {
        let Some((order, ns_per_tick)) = byte_order(magic)? else {
            return Ok(None);
        };
        let mut header = [0; 20];
        input.fill(&mut header, "file header")?;
        let major = order.u16(field(&header, 0));
        let minor = order.u16(field(&header, 2));
        if major != 2 || minor > 4 {
            return Err(PcapError::Version {
                offset: 0,
                major,
                minor,
            });
        }
        // Time zone, accuracy and snapshot length are not looked at: writers fill them with anything.
        let link_type = order.u32(field(&header, 16)) & LINK_TYPE_MASK;
        Ok(Some(Self {
            order,
            ns_per_tick,
            link_type,
            either_order: minor < 4,
        }))
    }

    /// The link type of all frames.
    pub(super) fn link_type(&self) -> u32 {
        self.link_type
    }

    /// Reads one record.
    pub(super) fn next<R: Read>(
        &mut self,
        input: &mut Input<R>,
        buf: &mut Vec<u8>,
    ) -> Result<Option<Record>, PcapError> {
        let offset = input.offset();
        let mut header = [0; 16];
        if !input.fill_or_end(&mut header, "packet header")? {
            return Ok(None);
        }
        let word = |at| self.order.u32(field(&header, at));
        let (seconds, ticks, captured, on_wire) = (word(0), word(4), word(8), word(12));
        let swapped = self.either_order && captured > on_wire;
        let (length, on_wire) = if swapped {
            (on_wire, captured)
        } else {
            (captured, on_wire)
        };
        if length as usize > FRAME_MAX {
            return Err(PcapError::FrameTooLong { offset, length });
        }
        buf.resize(length as usize, 0);
        input.fill(buf, "packet")?;
        // 2^32 s and 2^32 ticks of a microsecond are below 2^63 ns together.
        let ts_ns =
            u64::from(seconds) * 1_000_000_000 + u64::from(ticks) * u64::from(self.ns_per_tick);
        Ok(Some(Record {
            ts_ns,
            link_type: self.link_type,
            orig_len: on_wire.max(length),
        }))
    }
}

/// Byte order and nanoseconds per tick; `None` when `magic` is not pcap's.
fn byte_order(magic: [u8; 4]) -> Result<Option<(ByteOrder, u32)>, PcapError> {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        match order.u32(magic) {
            MAGIC_MICRO => return Ok(Some((order, 1000))),
            MAGIC_NANO => return Ok(Some((order, 1))),
            magic if MAGIC_VARIANTS.contains(&magic) => return Err(PcapError::Variant { magic }),
            _ => {}
        }
    }
    Ok(None)
}
