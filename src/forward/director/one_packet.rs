//! One-packet scheduling (specification §5), and servers that speak without being asked (§4.6).

use std::sync::Arc;

use super::choice::{self, Chosen, Use};
use super::scheduling::server_port;
use super::{Carried, Context, Director, Side, Sink, Verdict, count_in};
use crate::forward::defs::ServiceKind;
use crate::forward::snapshot::Service;
use crate::net::{DropReason, PacketBuf};
use crate::persist::Scratch;
use crate::table::{Dest, DestId, Ends, TemplateRef};

impl Director {
    /// A datagram that is scheduled by itself and leaves nothing behind but what its template remembers.
    #[inline(never)]
    pub(super) fn one_packet<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        service: &Arc<Service>,
        mark: u32,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        if !p.ip.l4_whole {
            return Verdict::Drop(DropReason::L4Short);
        }
        if let Some(verdict) = Self::unschedulable(cx, p) {
            return verdict;
        }
        if self.throttled(cx, service.id) {
            return Verdict::Drop(DropReason::Overload);
        }
        let Chosen {
            dest,
            counted,
            template,
            ..
        } = match self.choose(cx, p, service, mark, Use::Packet) {
            Ok(chosen) => chosen,
            Err(refused) => return self.refuse(cx, p, service, refused, sink),
        };
        if counted {
            // It counted for the threshold's sake, for as long as the choice took.
            dest.unbind(false);
        }
        cx.counters.service(service.id).connections.inc();
        cx.counters.dest(dest.id).connections.inc();
        count_in(cx, service.id, dest.id, p.ip.len());
        if let (Some(tell), Some(at)) = (cx.tell, template) {
            tell.one_packet(self.config.worker, at, cx.templates, cx.now);
        }
        let port = server_port(service, dest, p.ip.flow.dst_port);
        let addr = F::from_ip(dest.addr).unwrap_or_default();
        self.dispatch(cx, p, dest, addr, port, sink)
    }

    /// A packet that a real server sends on its own account, or as the answer to a one-packet datagram: it leaves from
    /// the virtual address and port, and the session that it names is bound to the server.
    #[inline(never)]
    pub(super) fn server_speaks<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        id: DestId,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let dest = cx.snapshot.dest(id);
        let service = dest.and_then(|d| cx.snapshot.service(d.service));
        let (Some(dest), Some(service)) = (dest, service) else {
            return Verdict::Punt;
        };
        let ServiceKind::Address { addr, port, .. } = service.def.kind else {
            return Verdict::Punt;
        };
        if !p.ip.l4_whole {
            return Verdict::Drop(DropReason::L4Short);
        }
        let flow = p.ip.flow;
        let vaddr = F::from_ip(addr).unwrap_or_default();
        let vport = if port == 0 { flow.src_port } else { port };
        if service.def.one_packet {
            // Of a connection by another service it may be only where the client's are.
            if F::index(&cx.snapshot.services).keeps_connections(flow.src, flow.src_port)
                && let Some(other) = self.other_owner::<F>(cx, flow.dst, flow.dst_port, flow.proto)
            {
                return Verdict::HandOver(other);
            }
            bind_session(cx, p, service, dest, vaddr, Use::Packet);
            return self.leave_as(cx, p, dest, (vaddr, vport), sink);
        }
        if let Some(other) = self.other_owner::<F>(cx, flow.dst, flow.dst_port, flow.proto) {
            return Verdict::HandOver(other);
        }
        let template = bind_session(cx, p, service, dest, vaddr, Use::Connection);
        let chosen = Chosen {
            template,
            ..choice::uncounted(dest)
        };
        dest.bind_unchecked();
        let ends = Ends {
            proto: flow.proto,
            caddr: flow.dst,
            cport: flow.dst_port,
            vaddr,
            vport,
            daddr: flow.src,
            dport: flow.src_port,
        };
        match self.insert::<F>(cx, &ends, service, 0, &chosen) {
            Ok(index) => self.reply(cx, p, index, sink),
            Err(reason) => Verdict::Drop(reason),
        }
    }
}

/// Binds the session that a server's packet names, if it names one, to that server. The template, if it could be used.
fn bind_session<F: Side, B: PacketBuf>(
    cx: &Context<'_>,
    p: &Carried<'_, F, B>,
    service: &Service,
    dest: &Dest,
    vaddr: F::Addr,
    purpose: Use,
) -> Option<TemplateRef> {
    let persistence = service.def.persistence.as_ref()?;
    if !dest.available {
        // Nothing it says keeps a removed server's sessions or its slot.
        return None;
    }
    let mut scratch = Scratch::new();
    let name = persistence.engine?.key(p.payload(), &mut scratch).ok()?;
    let client = p.ip.flow.dst;
    let ends = (p.ip.flow.proto, client, vaddr);
    let key = choice::template_key::<F>(service, persistence, ends, 0, Some(name));
    let hash = cx.templates.hash(&key);
    let template = match cx.templates.lookup(&key, hash, cx.now) {
        Some((template, id)) if id == dest.id => template,
        // The session's server is the one that speaks last (specification §4.6), unless it is going.
        Some((template, id)) if dest.serving() => {
            choice::repoint(cx, template, id, dest).then_some(template)?
        }
        Some(_) => return None,
        None => {
            let mut new = choice::new_template::<F>(service, persistence, client);
            new.dest = dest.id;
            match choice::place(cx, &key, hash, &new, dest) {
                Ok(placed) => placed?,
                Err(_) => {
                    cx.counters.service(service.id).sessions_untracked.inc();
                    return None;
                }
            }
        }
    };
    choice::use_template(cx, template, purpose).then_some(template)
}
