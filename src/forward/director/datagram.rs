//! Datagrams that came in fragments: decided on as one, sent on as the fragments they came in.
//!
//! The first fragment goes through the director as any packet does, with the whole datagram before the persistence
//! engine's eyes; what was done to it is done to the others. So the checksum, which covers the whole, is right after an
//! incremental update of the first, and no fragment is larger on the way out than it was on the way in.

use super::{Carried, Context, Director, Known, Side, Sink, Verdict, owner};
use crate::forward::defs::{PortId, address_bytes};
use crate::net::{Af, DropReason, Family, HashKey, Ip, L3, PacketBuf, parse};
use crate::table::{Dest, DestId, Method};

/// Fragments of one datagram at most.
pub const PIECES_MAX: usize = 64;

/// The fragments of one datagram in the order of their offsets.
pub type Pieces<B> = arrayvec::ArrayVec<Piece<B>, PIECES_MAX>;

/// One fragment's frame, as received.
#[derive(Debug)]
pub struct Piece<B> {
    /// The frame.
    pub buf: B,
    /// The port that it came in by.
    pub ingress: PortId,
    /// Where its part of the datagram's payload starts, in bytes from the frame's first.
    pub payload: u16,
    /// Bytes of that part.
    pub len: u16,
    /// Where that part belongs in the datagram's payload, in bytes.
    pub offset: u16,
}

impl<B: PacketBuf> Piece<B> {
    /// Its part of the datagram's payload; empty when the frame was cut since.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let from = usize::from(self.payload);
        self.buf
            .data()
            .get(from..from + usize::from(self.len))
            .unwrap_or(&[])
    }
}

/// What was done to a first fragment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Applied {
    server: Server,
    /// The address that was written, in the bytes of [`address_bytes`].
    addr: [u8; 16],
    to_server: bool,
}

/// The real server that the connection has.
#[derive(Clone, Copy, Debug)]
enum Server {
    Configured(DestId),
    /// Only a peer knows it, and its forwarding method.
    Unbound(Method),
}

impl Applied {
    pub(super) fn to_server<F: Family>(dest: &Dest, addr: F::Addr) -> Self {
        Self {
            server: Server::Configured(dest.id),
            addr: address_bytes::<F>(addr),
            to_server: true,
        }
    }

    pub(super) fn to_unbound<F: Family>(method: Method, addr: F::Addr) -> Self {
        Self {
            server: Server::Unbound(method),
            addr: address_bytes::<F>(addr),
            to_server: true,
        }
    }

    pub(super) fn from_unbound<F: Family>(addr: F::Addr) -> Self {
        Self {
            to_server: false,
            ..Self::to_unbound::<F>(Method::Masq, addr)
        }
    }

    pub(super) fn from_server<F: Family>(dest: &Dest, addr: F::Addr) -> Self {
        Self {
            to_server: false,
            ..Self::to_server::<F>(dest, addr)
        }
    }
}

/// The worker that puts a datagram together: the same one for each of its fragments, whatever queue they come by. Their
/// ports are not in all of them, so it can't be the owner of the connection.
fn owner_of_fragments<F: Family>(key: &HashKey, workers: usize, ip: &Ip<F>) -> usize {
    let sum = F::fold32(ip.flow.src) ^ F::fold32(ip.flow.dst).rotate_left(16);
    let id = ip.fragment.map_or(0, |f| f.id);
    #[allow(clippy::cast_possible_truncation)]
    let (high, low) = ((id >> 16) as u16, (id ^ sum) as u16);
    // In IPv6 the next header may differ from fragment to fragment (RFC 8200 §4.5).
    let proto = if F::AF == Af::V4 { ip.flow.proto } else { 0 };
    owner::<F>(key, workers, ip.flow.src, low ^ high, proto)
}

impl Director {
    /// Whether a fragment is any of ours, and who puts its datagram together.
    #[inline(never)]
    pub(super) fn fragment<F: Side>(&self, cx: &Context<'_>, ip: &Ip<F>) -> Verdict {
        let index = F::index(&cx.snapshot.services);
        if !index.concerns(ip.flow.src, ip.flow.dst) {
            return Verdict::Punt;
        }
        if self.config.workers > 1 && !cx.handed {
            let owner = owner_of_fragments(&self.config.owner_key, self.config.workers, ip);
            if owner != self.config.worker {
                return Verdict::HandOver(owner);
            }
        }
        Verdict::Collect
    }

    /// Decides on a whole datagram: `pieces` are its fragments, `message` is its transport header and all that follows.
    /// Leaves `pieces` empty.
    pub fn datagram<B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        pieces: &mut Pieces<B>,
        message: &[u8],
        sink: &mut impl Sink<B>,
    ) {
        self.applied = None;
        let Some(Piece {
            ingress,
            buf: first,
            ..
        }) = pieces.first_mut()
        else {
            return;
        };
        let cx = &Context {
            ingress: *ingress,
            ..*cx
        };
        let verdict = match parse(first.data()).map(|packet| packet.l3) {
            Ok(L3::V4(mut ip)) => self.first(cx, &mut ip, first, message, sink),
            Ok(L3::V6(mut ip)) => self.first(cx, &mut ip, first, message, sink),
            Ok(L3::Other(_)) => Verdict::Punt,
            Err(reason) => Verdict::Drop(reason),
        };
        if let Verdict::HandOver(worker) = verdict {
            sink.hand_over_datagram(worker, pieces);
            return;
        }
        for (i, mut piece) in pieces.drain(..).enumerate() {
            let own = match verdict {
                Verdict::Transmit(_) | Verdict::Wait { .. } if i > 0 => {
                    self.later(cx, piece.ingress, &mut piece.buf, sink)
                }
                same => same,
            };
            sink.accept(piece.ingress, piece.buf, own);
        }
    }

    fn first<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        ip: &mut Ip<F>,
        buf: &mut B,
        message: &[u8],
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let hit = F::table(self).lookup(&ip.flow);
        let p = &mut Carried {
            ip,
            buf,
            known: Known::Whole(message),
        };
        self.flow(cx, p, hit, sink)
    }

    /// Does to a later fragment what was done to the first.
    fn later<B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        ingress: PortId,
        buf: &mut B,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let cx = &Context { ingress, ..*cx };
        match parse(buf.data()).map(|packet| packet.l3) {
            Ok(L3::V4(mut ip)) => self.likewise(cx, &mut Carried::new(&mut ip, buf), sink),
            Ok(L3::V6(mut ip)) => self.likewise(cx, &mut Carried::new(&mut ip, buf), sink),
            Ok(L3::Other(_)) => Verdict::Drop(DropReason::Internal),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    fn likewise<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let Some(applied) = self.applied else {
            return Verdict::Drop(DropReason::Internal);
        };
        let addr = F::read(&applied.addr);
        let id = match applied.server {
            Server::Configured(id) => id,
            Server::Unbound(method) if applied.to_server => {
                return self.send_unbound(cx, p, method, (addr, 0), sink);
            }
            Server::Unbound(_) => return self.translate_source(cx, p, None, (addr, 0), sink),
        };
        let Some(dest) = cx.snapshot.dest(id) else {
            return Verdict::Drop(DropReason::DestUnavailable);
        };
        let bytes = u64::from(p.ip.len());
        let (service, server) = (cx.counters.service(dest.service), cx.counters.dest(dest.id));
        if applied.to_server {
            service.bytes_in.add(bytes);
            server.bytes_in.add(bytes);
            self.dispatch(cx, p, dest, addr, 0, sink)
        } else {
            service.bytes_out.add(bytes);
            server.bytes_out.add(bytes);
            self.translate_source(cx, p, Some(dest), (addr, 0), sink)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Addr4, Addr6, FlowKey, Fragment, V4, V6};

    fn fragment<F: Family>(src: F::Addr, dst: F::Addr, id: u32, proto: u8) -> Ip<F> {
        Ip {
            flow: FlowKey {
                src,
                dst,
                src_port: 0,
                dst_port: 0,
                proto,
            },
            l3: 14,
            l4: 34,
            end: 100,
            ttl: 64,
            tos: 0,
            tcp_flags: 0,
            l4_whole: false,
            dont_fragment: false,
            fragment: Some(Fragment {
                id,
                offset: 64,
                more: false,
                header: 0,
            }),
        }
    }

    #[test]
    fn all_fragments_of_a_datagram_belong_to_one_worker_and_datagrams_are_spread() {
        let key = HashKey::from_seed(3);
        let mut counts = [0; 4];
        for id in 0..4_000 {
            let of = |proto| {
                let ip = fragment::<V6>(Addr6([1, 2]), Addr6([3, 4]), id, proto);
                owner_of_fragments(&key, 4, &ip)
            };
            assert_eq!(of(17), of(60), "whatever next header a fragment names");
            counts[of(17)] += 1;
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        let of = |workers, id| {
            let ip = fragment::<V4>(Addr4(1), Addr4(2), id, 17);
            owner_of_fragments(&key, workers, &ip)
        };
        assert!((0..100).any(|id| of(4, id) != of(4, 0)));
        assert_eq!(of(1, 3), 0);
    }
}
