//! Looking ahead: fetches the templates of a burst's one-packet datagrams while others are worked on.
//!
//! What is found out here is a hint. It is passed along so as not to be found out twice, and nothing hangs on it.

use super::carried::udp_payload;
use super::{Context, Director, Hits, Side, choice};
use crate::net::packet::proto;
use crate::net::{BURST, DropReason, Ip, Packet, PacketBuf};
use crate::persist::Scratch;
use crate::table::ServiceId;

/// A packet's service and template key, as far as they are known ahead of time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ahead {
    /// If it was looked up: the packet's service, if it has one, and its mark.
    pub service: Option<Option<(ServiceId, u32)>>,
    /// The template table's hash; 0 when nothing is known.
    pub hash: u64,
    /// Where the engine's key lies in the frame; `len` 0 for a service without an engine.
    pub from: u16,
    pub len: u16,
}

/// What is known ahead of each packet of a burst.
pub(super) type Aheads = arrayvec::ArrayVec<Ahead, BURST>;

impl Director {
    /// Finds the template keys of datagrams that belong to no connection and to a one-packet service, and fetches the
    /// first line that a look-up will need.
    #[inline(never)]
    pub(super) fn look_ahead<F: Side, B: PacketBuf>(
        cx: &Context<'_>,
        burst: &[B],
        parsed: &[Result<Packet, DropReason>],
        hits: &Hits,
        pick: impl Fn(&Packet) -> Option<&Ip<F>>,
        out: &mut Aheads,
    ) {
        if !F::index(&cx.snapshot.services).has_one_packet() {
            return;
        }
        for (i, (packet, buf)) in parsed.iter().zip(burst).enumerate() {
            if let Some(ip) = packet.as_ref().ok().and_then(&pick)
                && ip.flow.proto == proto::UDP
                && ip.fragment.is_none()
                && hits[i].is_none()
            {
                let found = F::index(&cx.snapshot.services).service(&ip.flow, cx.ingress);
                out[i].service = Some(found);
                if let Some(found) = found
                    && let Some(ahead) = key_of(cx, found, ip, buf.data())
                {
                    cx.templates.prefetch(ahead.hash);
                    out[i] = ahead;
                }
            }
        }
    }

    /// Fetches what the lines fetched by [`Self::look_ahead`] lead to.
    pub(super) fn fetch_ahead(cx: &Context<'_>, aheads: &Aheads) {
        for ahead in aheads.iter().filter(|a| a.hash != 0) {
            cx.templates.prefetch_entry(ahead.hash);
        }
    }
}

fn key_of<F: Side>(
    cx: &Context<'_>,
    (id, mark): (ServiceId, u32),
    ip: &Ip<F>,
    frame: &[u8],
) -> Option<Ahead> {
    let service = cx.snapshot.service(id).filter(|s| s.def.one_packet)?;
    let persistence = service.def.persistence.as_ref()?;
    let mut scratch = Scratch::new();
    let mut ahead = Ahead {
        service: Some(Some((id, mark))),
        ..Ahead::default()
    };
    let data = match persistence.engine {
        None => None,
        Some(engine) => {
            let l4 = &frame[usize::from(ip.l4)..usize::from(ip.end)];
            let key = engine.key(udp_payload(l4), &mut scratch).ok()?;
            // One that had to be put together does not lie in the frame.
            let from = (key.as_ptr() as usize).checked_sub(frame.as_ptr() as usize)?;
            if key.is_empty() || from + key.len() > frame.len() {
                return None;
            }
            ahead.from = u16::try_from(from).ok()?;
            ahead.len = u16::try_from(key.len()).ok()?;
            Some(key)
        }
    };
    let ends = (ip.flow.proto, ip.flow.src, ip.flow.dst);
    let key = choice::template_key::<F>(service, persistence, ends, mark, data);
    ahead.hash = cx.templates.hash(&key);
    Some(ahead)
}
