//! Packets without a connection: whose they are, and the connections that are made for them (specification §2.5).
//!
//! Decides who works on such a packet and whether it may be scheduled. Which server is [`super::choice`]'s to say, and
//! what a connection in the table counts is its parent's to keep.

use std::sync::Arc;

use super::choice::{Chosen, Refused, Use};
use super::{Carried, Context, Director, Side, Sink, Verdict, owner};
use crate::forward::snapshot::{FTP, Service};
use crate::net::icmp::IcmpError;
use crate::net::packet::{proto, tcp_flags};
use crate::net::scope::is_valid_source;
use crate::net::{DropReason, FlowKey, Ip, PacketBuf};
use crate::table::{ConnIdx, Dest, Ends};

/// The source port of FTP data connections, which IPVS never schedules (specification §2.5).
const FTP_DATA: u16 = 20;

impl Director {
    /// A packet of no connection here.
    #[inline(never)]
    pub(super) fn miss<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let index = F::index(&cx.snapshot.services);
        let flow = p.ip.flow;
        let found = p.ahead().service;
        let found = found.unwrap_or_else(|| index.service(&flow, cx.ingress));
        if let Some((id, mark)) = found {
            let Some(service) = cx.snapshot.service(id) else {
                return Verdict::Drop(DropReason::Internal);
            };
            if service.def.one_packet && flow.proto == proto::UDP {
                // Nothing of it is any worker's own.
                return self.one_packet(cx, p, service, mark, sink);
            }
            // A mark's rule may fit both directions. What may be a reply is looked up as one first.
            let answers = service.mark() != 0 && index.is_dest(flow.src, flow.src_port, flow.proto);
            let (client, port) = if answers {
                (flow.dst, flow.dst_port)
            } else {
                (flow.src, flow.src_port)
            };
            if let Some(other) = self.other_owner::<F>(cx, client, port, flow.proto) {
                return Verdict::HandOver(other);
            }
            return self.schedule(cx, p, service, mark, sink);
        }
        if let Some(id) = index.initiator(flow.src, flow.src_port, flow.proto) {
            return self.server_speaks(cx, p, id, sink);
        }
        if index.is_dest(flow.src, flow.src_port, flow.proto) {
            if let Some(other) = self.other_owner::<F>(cx, flow.dst, flow.dst_port, flow.proto) {
                return Verdict::HandOver(other);
            }
            if cx.snapshot.services.sysctls.nat_icmp_send && !p.aborts() {
                // Specification §2.6: the server learns that nobody waits for this.
                self.answer(cx, p, IcmpError::PortUnreachable, None, sink);
                return Verdict::Drop(DropReason::NoConnection);
            }
        }
        Verdict::Punt
    }

    /// The worker that owns the client's connections, if it is another and the packet may still be handed over.
    pub(super) fn other_owner<F: Side>(
        &self,
        cx: &Context<'_>,
        client: F::Addr,
        port: u16,
        proto: u8,
    ) -> Option<usize> {
        if self.config.workers == 1 || cx.handed {
            return None;
        }
        let owner = owner::<F>(
            &self.config.owner_key,
            self.config.workers,
            client,
            port,
            proto,
        );
        (owner != self.config.worker).then_some(owner)
    }

    /// What keeps a packet whose transport header is whole from being scheduled, whatever its service.
    pub(super) fn unschedulable<F: Side, B: PacketBuf>(
        cx: &Context<'_>,
        p: &Carried<'_, F, B>,
    ) -> Option<Verdict> {
        let ip = &*p.ip;
        // What is of no connection and starts none is passed on: the kernel, which has the address, answers as for any
        // closed port.
        let verdict = match ip.flow.proto {
            proto::TCP => {
                let sloppy = cx.snapshot.services.switches.sloppy_tcp;
                let starts = ip.tcp_flags & tcp_flags::RST == 0
                    && (sloppy || ip.tcp_flags & tcp_flags::SYN != 0);
                (!starts).then_some(Verdict::Punt)
            }
            proto::SCTP => p.no_association(cx),
            _ => None,
        };
        verdict.or_else(|| Self::misplaced(ip))
    }

    /// What keeps a packet from being any service's, if its transport header is whole.
    pub(super) fn misplaced<F: Side>(ip: &Ip<F>) -> Option<Verdict> {
        if !is_valid_source::<F>(ip.flow.src) {
            Some(Verdict::Drop(DropReason::IpSource))
        } else if ip.flow.src_port == FTP_DATA {
            Some(Verdict::Punt)
        } else {
            None
        }
    }

    /// A new connection (specification §2.5).
    pub(super) fn schedule<F: Side, B: PacketBuf>(
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
        let limit = service.def.new_connections_per_second != 0;
        let sctp = p.ip.flow.proto == proto::SCTP;
        if limit
            && !sctp
            && let Some(verdict) = self.limited(cx, p, service, mark, sink)
        {
            return verdict;
        }
        if let Some(verdict) = Self::unschedulable(cx, p) {
            return verdict;
        }
        if limit && sctp && !self.take(cx, service) {
            // What follows an INIT tells nothing by which a server could be found again.
            return self.overload(cx, service);
        }
        if self.throttled(cx, service.id) {
            return Verdict::Drop(DropReason::Overload);
        }
        let chosen = match self.choose(cx, p, service, mark, Use::Connection) {
            Ok(chosen) => chosen,
            Err(refused) => return self.refuse(cx, p, service, refused, sink),
        };
        self.connect(cx, p, service, mark, &chosen, sink)
    }

    /// Makes the connection of a packet whose server is chosen, and serves the packet.
    pub(super) fn connect<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        service: &Service,
        mark: u32,
        chosen: &Chosen<'_>,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        match self.make::<F>(cx, &p.ip.flow, service, mark, chosen) {
            Ok(index) => {
                self.take_session::<F, B>(cx, index, sink);
                self.serve(cx, p, index, chosen.dest, sink)
            }
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// Makes the connection of a client's flow whose server is chosen.
    pub(super) fn make<F: Side>(
        &mut self,
        cx: &Context<'_>,
        flow: &FlowKey<F>,
        service: &Service,
        mark: u32,
        chosen: &Chosen<'_>,
    ) -> Result<ConnIdx, DropReason> {
        let dest = chosen.dest;
        if !chosen.counted {
            dest.bind_unchecked();
        }
        let ends = Ends {
            proto: flow.proto,
            caddr: flow.src,
            cport: flow.src_port,
            vaddr: flow.dst,
            vport: flow.dst_port,
            daddr: F::from_ip(dest.addr).unwrap_or_default(),
            dport: server_port(service, dest, flow.dst_port),
        };
        self.insert::<F>(cx, &ends, service, mark, chosen)
    }

    /// What becomes of a packet for which no server was chosen.
    pub(super) fn refuse<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        service: &Service,
        refused: Refused,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let counters = cx.counters.service(service.id);
        match refused {
            Refused::NoServer if service.port() == FTP && p.ip.flow.dst_port != FTP => {
                // Not FTP data of anybody's.
                Verdict::Punt
            }
            Refused::NoServer => {
                counters.rejected_no_server.inc();
                self.answer(cx, p, IcmpError::PortUnreachable, Some(p.ip.flow.dst), sink);
                Verdict::Drop(DropReason::NoServer)
            }
            Refused::NoKey => {
                counters.rejected_no_key.inc();
                Verdict::Drop(DropReason::NoKey)
            }
            Refused::TemplateTableFull | Refused::KeyTooLong => {
                counters.rejected_template_table_full.inc();
                Verdict::Drop(DropReason::TemplateTableFull)
            }
            Refused::Drop(reason) => Verdict::Drop(reason),
        }
    }
}

/// The port that a server gets a packet for `port` on (specification §3.2).
pub(super) fn server_port(service: &Service, dest: &Dest, port: u16) -> u16 {
    let by_fallback = service.port() != 0 && service.port() != port;
    if dest.port == 0 || by_fallback || service.def.keeps_port() {
        port
    } else {
        dest.port
    }
}
