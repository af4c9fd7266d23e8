//! AH and ESP, which have no ports and no connections of their own: they go where the key exchange between the same two
//! addresses goes, which is the UDP connection from port 500 to port 500 (specification §2.3, §7.6).
//!
//! They never schedule anything and change no state; a fragment of theirs is as good as a whole packet.

use super::{Carried, Context, Director, Side, Sink, Usable, Verdict, count_in};
use crate::net::packet::proto;
use crate::net::{DropReason, Family, FlowKey, PacketBuf};
use crate::table::{DestId, Direction, NONE, ServiceId};

/// The port of the key exchange (RFC 7296 §2).
const ISAKMP: u16 = 500;

/// The key of the connection that packets of a flow belong to: that of their key exchange for AH and ESP.
pub(super) fn carrier<F: Family>(flow: FlowKey<F>) -> FlowKey<F> {
    match flow.proto {
        proto::AH | proto::ESP => FlowKey {
            src_port: ISAKMP,
            dst_port: ISAKMP,
            proto: proto::UDP,
            ..flow
        },
        _ => flow,
    }
}

impl Director {
    /// An AH or ESP packet: along with the key exchange's connection, or else none of ours.
    #[inline(never)]
    pub(super) fn ipsec<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let key = carrier(p.ip.flow);
        let Some(hit) = F::table(self).lookup(&key) else {
            return self.ipsec_elsewhere(cx, &key);
        };
        let index = hit.index;
        match hit.direction {
            Direction::FromServer => {
                let conn = *F::table(self).get(index);
                let from = (conn.vaddr(), conn.vport());
                match cx.snapshot.dest(DestId(conn.dest)) {
                    Some(dest) => {
                        F::table(self).touch(index, cx.now);
                        self.leave_as(cx, p, dest, from, sink)
                    }
                    // A peer told of it, and its server is not known here.
                    None if conn.dest == NONE => {
                        F::table(self).touch(index, cx.now);
                        self.translate_source(cx, p, None, from, sink)
                    }
                    None => Verdict::Drop(DropReason::DestUnavailable),
                }
            }
            Direction::FromClient if cx.off_duty => Verdict::Punt,
            Direction::FromClient => match self.usable(cx, p, index) {
                Usable::Yes(index, dest) | Usable::Keyed(index, dest) => {
                    let table = F::table(self);
                    let conn = table.get_mut(index);
                    conn.in_pkts = conn.in_pkts.wrapping_add(1);
                    let (daddr, dport) = (conn.daddr(), conn.dport());
                    count_in(cx, ServiceId(conn.service), dest.id, p.ip.len());
                    table.touch(index, cx.now);
                    self.dispatch(cx, p, dest, daddr, dport, sink)
                }
                Usable::Refused => Verdict::Drop(DropReason::DestUnavailable),
                Usable::Unbound(index) => self.serve_unbound(cx, p, index, sink),
                Usable::No => Verdict::Punt,
            },
        }
    }

    /// The worker that has the key exchange's connection, if there can be one.
    fn ipsec_elsewhere<F: Side>(&self, cx: &Context<'_>, key: &FlowKey<F>) -> Verdict {
        let index = F::index(&cx.snapshot.services);
        // By the addresses first: a rule that gives a mark to port 500 fits both directions.
        let client = if index.is_virtual(key.dst) {
            Some(key.src)
        } else if index.is_dest_addr(key.src) {
            Some(key.dst)
        } else {
            index.service(key, cx.ingress).map(|_| key.src)
        };
        match client.and_then(|c| self.other_owner::<F>(cx, c, ISAKMP, proto::UDP)) {
            Some(other) => Verdict::HandOver(other),
            None => Verdict::Punt,
        }
    }
}
