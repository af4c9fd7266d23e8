//! The pcapng format (draft-ietf-opsawg-pcapng): sections of blocks, each with its length before and after it.

use std::io::Read;

use super::input::Input;
use super::{ByteOrder, FRAME_MAX, PcapError, Record, field};

/// Section header; reads the same in both byte orders.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET_OBSOLETE: u32 = 2;
const PACKET_SIMPLE: u32 = 3;
const PACKET_ENHANCED: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// Most bytes of a block, so that a damaged length is reported where it is and not as a cut file. Blocks are passed
/// over piecewise, never held.
const BLOCK_MAX: u32 = 16 << 20;
/// Type, both lengths.
const BLOCK_MIN: u32 = 12;
/// Interfaces that are kept per section.
const INTERFACES_MAX: usize = 4096;

const OPTION_END: u16 = 0;
const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_TIME_OFFSET: u16 = 14;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// What an interface description says.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link_type: u32,
    /// 0 for no limit.
    snap_len: u32,
    resolution: Resolution,
    /// Seconds to add to every timestamp.
    offset_s: i64,
}

/// Ticks per second, as the option `if_tsresol` codes them.
#[derive(Clone, Copy, Debug)]
struct Resolution(u8);

impl Resolution {
    /// Microseconds, the default.
    const MICRO: Self = Self(6);

    /// `ticks` in nanoseconds, rounded down.
    fn ns(self, ticks: u64) -> u128 {
        let exponent = u32::from(self.0 & 0x7f);
        if self.0 & 0x80 != 0 {
            return (u128::from(ticks) * u128::from(NS_PER_SECOND)) >> exponent;
        }
        if exponent <= 9 {
            return u128::from(ticks) * 10_u128.pow(9 - exponent);
        }
        // A tick so short that its power of ten does not fit is no nanosecond in 2^64 of them.
        10_u128
            .checked_pow(exponent - 9)
            .map_or(0, |divisor| u128::from(ticks) / divisor)
    }
}

impl Interface {
    /// Nanoseconds since 1970, saturated at both ends.
    fn ts_ns(&self, ticks: u64) -> u64 {
        if self.offset_s == 0 {
            return u64::try_from(self.resolution.ns(ticks)).unwrap_or(u64::MAX);
        }
        // Both summands are below 2^95.
        let ns = self.resolution.ns(ticks).cast_signed()
            + i128::from(self.offset_s) * i128::from(NS_PER_SECOND);
        u64::try_from(ns.max(0)).unwrap_or(u64::MAX)
    }
}

/// The block that is being read: what of its body is left.
#[derive(Debug)]
struct Block {
    offset: u64,
    kind: u32,
    total: u32,
    left: u64,
}

impl Block {
    fn new(offset: u64, kind: u32, total: u32) -> Result<Self, PcapError> {
        if !(BLOCK_MIN..=BLOCK_MAX).contains(&total) || !total.is_multiple_of(4) {
            return Err(PcapError::BlockLength {
                offset,
                kind,
                length: total,
            });
        }
        Ok(Self {
            offset,
            kind,
            total,
            left: u64::from(total - BLOCK_MIN),
        })
    }

    fn reserve(&mut self, wanted: u64) -> Result<(), PcapError> {
        let (offset, kind, left) = (self.offset, self.kind, self.left);
        if wanted > left {
            return Err(PcapError::BlockShort {
                offset,
                kind,
                wanted,
                left,
            });
        }
        self.left -= wanted;
        Ok(())
    }

    fn take<const N: usize>(&mut self, input: &mut Input<impl Read>) -> Result<[u8; N], PcapError> {
        self.reserve(N as u64)?;
        let mut bytes = [0; N];
        input.fill(&mut bytes, "block")?;
        Ok(bytes)
    }

    fn skip(&mut self, n: u64, input: &mut Input<impl Read>) -> Result<(), PcapError> {
        self.reserve(n)?;
        input.skip(n, "block")
    }

    /// Passes over the rest of the body and holds the length behind it against the one before.
    fn finish(mut self, order: ByteOrder, input: &mut Input<impl Read>) -> Result<(), PcapError> {
        self.skip(self.left, input)?;
        let mut trailer = [0; 4];
        input.fill(&mut trailer, "block's end")?;
        let (offset, leading, trailing) = (self.offset, self.total, order.u32(trailer));
        if leading != trailing {
            return Err(PcapError::BlockTrailer {
                offset,
                leading,
                trailing,
            });
        }
        Ok(())
    }
}

/// The section that is being read.
#[derive(Debug)]
pub(super) struct Ng {
    order: ByteOrder,
    interfaces: Vec<Interface>,
    last_ts_ns: u64,
    packet_offset: u64,
}

impl Ng {
    /// Reads the rest of the first section header, whose first word is `magic`.
    pub(super) fn open<R: Read>(magic: [u8; 4], input: &mut Input<R>) -> Result<Self, PcapError> {
        if u32::from_le_bytes(magic) != SECTION {
            return Err(PcapError::NotACapture { magic });
        }
        let mut ng = Self {
            order: ByteOrder::Little,
            interfaces: Vec::new(),
            last_ts_ns: 0,
            packet_offset: 0,
        };
        let mut total = [0; 4];
        input.fill(&mut total, "section header")?;
        ng.section(0, total, input)?;
        Ok(ng)
    }

    /// Where the block of the last packet starts.
    pub(super) fn packet_offset(&self) -> u64 {
        self.packet_offset
    }

    /// Reads blocks up to and including the next packet.
    pub(super) fn next<R: Read>(
        &mut self,
        input: &mut Input<R>,
        buf: &mut Vec<u8>,
    ) -> Result<Option<Record>, PcapError> {
        loop {
            let offset = input.offset();
            let mut head = [0; 8];
            if !input.fill_or_end(&mut head, "block header")? {
                return Ok(None);
            }
            let kind = self.order.u32(field(&head, 0));
            if kind == SECTION {
                self.section(offset, field(&head, 4), input)?;
                continue;
            }
            let mut block = Block::new(offset, kind, self.order.u32(field(&head, 4)))?;
            let record = match kind {
                INTERFACE => self.interface(&mut block, input).map(|()| None),
                PACKET_ENHANCED | PACKET_OBSOLETE => self.packet(&mut block, input, buf).map(Some),
                PACKET_SIMPLE => self.simple_packet(&mut block, input, buf).map(Some),
                _ => Ok(None),
            }?;
            block.finish(self.order, input)?;
            if record.is_some() {
                self.packet_offset = offset;
                return Ok(record);
            }
        }
    }

    /// Reads a section header from behind its length on; the byte order is not known before.
    fn section<R: Read>(
        &mut self,
        offset: u64,
        total: [u8; 4],
        input: &mut Input<R>,
    ) -> Result<(), PcapError> {
        let mut magic = [0; 4];
        input.fill(&mut magic, "section header")?;
        self.order = [ByteOrder::Little, ByteOrder::Big]
            .into_iter()
            .find(|order| order.u32(magic) == BYTE_ORDER_MAGIC)
            .ok_or(PcapError::ByteOrderMagic { offset, magic })?;
        let mut block = Block::new(offset, SECTION, self.order.u32(total))?;
        block.reserve(4)?;
        let fixed: [u8; 12] = block.take(input)?;
        let (major, minor) = (
            self.order.u16(field(&fixed, 0)),
            self.order.u16(field(&fixed, 2)),
        );
        // 1.2 was written by some programs and means the same.
        if major != 1 || !matches!(minor, 0 | 2) {
            return Err(PcapError::Version {
                offset,
                major,
                minor,
            });
        }
        self.interfaces.clear();
        self.options(&mut block, input, |_, _| true)?;
        block.finish(self.order, input)
    }

    fn interface<R: Read>(
        &mut self,
        block: &mut Block,
        input: &mut Input<R>,
    ) -> Result<(), PcapError> {
        if self.interfaces.len() >= INTERFACES_MAX {
            let (offset, limit) = (block.offset, INTERFACES_MAX);
            return Err(PcapError::TooManyInterfaces { offset, limit });
        }
        let order = self.order;
        let fixed: [u8; 8] = block.take(input)?;
        let mut interface = Interface {
            link_type: u32::from(order.u16(field(&fixed, 0))),
            snap_len: order.u32(field(&fixed, 4)),
            resolution: Resolution::MICRO,
            offset_s: 0,
        };
        self.options(block, input, |code, value| match (code, value) {
            (OPTION_TIME_RESOLUTION, &[code]) => {
                interface.resolution = Resolution(code);
                true
            }
            (OPTION_TIME_OFFSET, value) if value.len() == 8 => {
                interface.offset_s = order.u64(field(value, 0)).cast_signed();
                true
            }
            (OPTION_TIME_RESOLUTION | OPTION_TIME_OFFSET, _) => false,
            _ => true,
        })?;
        self.interfaces.push(interface);
        Ok(())
    }

    /// Walks the options that are the rest of `block`. `see` gets the code and at most the first 9 bytes of the
    /// value (one more than any that is used, so that a length is never mistaken) and says whether it makes sense.
    fn options<R: Read>(
        &self,
        block: &mut Block,
        input: &mut Input<R>,
        mut see: impl FnMut(u16, &[u8]) -> bool,
    ) -> Result<(), PcapError> {
        while block.left >= 4 {
            let head: [u8; 4] = block.take(input)?;
            let code = self.order.u16(field(&head, 0));
            let length = self.order.u16(field(&head, 2));
            if code == OPTION_END {
                break;
            }
            let bad = PcapError::OptionLength {
                offset: block.offset,
                code,
                length,
            };
            let padded = u64::from(length).next_multiple_of(4);
            if padded > block.left {
                return Err(bad);
            }
            let mut value = [0; 9];
            let value = &mut value[..usize::from(length.min(9))];
            input.fill(value, "option")?;
            block.left -= value.len() as u64;
            block.skip(padded - value.len() as u64, input)?;
            if !see(code, value) {
                return Err(bad);
            }
        }
        Ok(())
    }

    /// Reads an enhanced packet block or its forerunner, which differ in the first word only. Options behind the
    /// packet are passed over unread: nothing here depends on them.
    fn packet<R: Read>(
        &mut self,
        block: &mut Block,
        input: &mut Input<R>,
        buf: &mut Vec<u8>,
    ) -> Result<Record, PcapError> {
        let fixed: [u8; 20] = block.take(input)?;
        let word = |at| self.order.u32(field(&fixed, at));
        let id = if block.kind == PACKET_OBSOLETE {
            u32::from(self.order.u16(field(&fixed, 0)))
        } else {
            word(0)
        };
        let interface = self.declared(block.offset, id)?;
        let ts_ns = interface.ts_ns(u64::from(word(4)) << 32 | u64::from(word(8)));
        let (captured, on_wire) = (word(12), word(16));
        frame(captured, block, input, buf)?;
        self.last_ts_ns = ts_ns;
        let (link_type, orig_len) = (interface.link_type, on_wire.max(captured));
        Ok(Record {
            ts_ns,
            link_type,
            orig_len,
        })
    }

    /// Reads a simple packet block: no time, first interface, captured length implied.
    fn simple_packet<R: Read>(
        &mut self,
        block: &mut Block,
        input: &mut Input<R>,
        buf: &mut Vec<u8>,
    ) -> Result<Record, PcapError> {
        let orig_len = self.order.u32(block.take(input)?);
        let interface = self.declared(block.offset, 0)?;
        let snap_len = if interface.snap_len == 0 {
            u32::MAX
        } else {
            interface.snap_len
        };
        let room = u32::try_from(block.left).unwrap_or(u32::MAX);
        frame(orig_len.min(snap_len).min(room), block, input, buf)?;
        Ok(Record {
            ts_ns: self.last_ts_ns,
            link_type: interface.link_type,
            orig_len,
        })
    }

    fn declared(&self, offset: u64, id: u32) -> Result<Interface, PcapError> {
        let known = self.interfaces.len();
        let interface = usize::try_from(id)
            .ok()
            .and_then(|i| self.interfaces.get(i));
        interface
            .copied()
            .ok_or(PcapError::NoInterface { offset, id, known })
    }

    /// Bytes on the heap that depend on the file's contents.
    #[cfg(test)]
    pub(super) fn variable_bytes(&self) -> usize {
        self.interfaces.capacity() * size_of::<Interface>()
    }
}

/// Reads `length` captured bytes into `buf`.
fn frame<R: Read>(
    length: u32,
    block: &mut Block,
    input: &mut Input<R>,
    buf: &mut Vec<u8>,
) -> Result<(), PcapError> {
    if length as usize > FRAME_MAX {
        return Err(PcapError::FrameTooLong {
            offset: block.offset,
            length,
        });
    }
    block.reserve(u64::from(length))?;
    buf.resize(length as usize, 0);
    input.fill(buf, "packet")
}
