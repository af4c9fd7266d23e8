//! SCTP: what a packet's chunks mean to its association (specification §2.4, §2.5, §7.4).
//!
//! Out of the way of TCP and UDP, and told apart by the first chunks only, of which nothing is believed but type and
//! length. The state machine itself is [`crate::table::state`]'s.

use super::{Carried, Context, Verdict};
use crate::net::{DropReason, Family, PacketBuf};
use crate::table::state::{SctpEvent, Step, sctp_step};
use crate::table::{Conn, Direction};

/// Bytes of the common header (RFC 9260 §3.1).
const COMMON_HEADER: usize = 12;

impl<F: Family, B: PacketBuf> Carried<'_, F, B> {
    /// What the packet's first chunks say; `None` when the first one's header is not whole.
    #[inline(never)]
    pub(super) fn sctp_event(&self) -> Option<SctpEvent> {
        let packet = match self.whole() {
            Some(whole) => whole,
            None => &self.buf.data()[usize::from(self.ip.l4)..usize::from(self.ip.end)],
        };
        let chunks = packet.get(COMMON_HEADER..)?;
        let [first, _, a, b] = *chunks.first_chunk()?;
        // Chunks begin at multiples of four (RFC 9260 §3.2); one that says it is shorter than its header is no chunk.
        let len = usize::from(u16::from_be_bytes([a, b])).next_multiple_of(4);
        let second = chunks.get(len..).and_then(<[u8]>::first_chunk::<4>);
        Some(SctpEvent::of(
            first,
            second.filter(|_| len >= 4).map(|header| header[0]),
        ))
    }

    /// What the packet does to its association; nothing when its first chunk is not whole.
    #[inline(never)]
    pub(super) fn sctp_step(&self, direction: Direction, conn: &Conn<F>) -> Option<Step> {
        let event = self.sctp_event()?;
        Some(sctp_step(direction, event, conn.state, conn.flags(), true))
    }

    /// What keeps the packet from starting an association (specification §2.5).
    #[inline(never)]
    pub(super) fn no_association(&self, cx: &Context<'_>) -> Option<Verdict> {
        match self.sctp_event() {
            None => Some(Verdict::Drop(DropReason::L4Short)),
            Some(SctpEvent::Init) => None,
            Some(event)
                if event != SctpEvent::Abort && cx.snapshot.services.switches.sloppy_sctp =>
            {
                None
            }
            Some(_) => Some(Verdict::Punt),
        }
    }
}
