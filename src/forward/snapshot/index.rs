//! What a snapshot's addresses are: virtual ones, real servers', ends of tunnels.
//!
//! Owns the lookup tables of one family and which service or server goes into which of them. Knows nothing of slots and
//! of what was there before.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::Service;
use crate::forward::defs::{MarkRule, PortId, ServiceKind};
use crate::net::packet::proto;
use crate::net::tunnel::{Tunnel, TunnelKind};
use crate::net::{Family, FlowKey};
use crate::table::{Dest, DestId, Method, ServiceId};

type ServiceKey<F> = (<F as Family>::Addr, u16, u8);

/// Lookup tables of one family.
#[derive(Debug)]
pub struct FamilyIndex<F: Family> {
    services: HashMap<ServiceKey<F>, ServiceId>,
    /// Services by mark, and the rules that give marks.
    marked: HashMap<u32, ServiceId>,
    marks: Vec<MarkRule>,
    /// Whether some service has port 0.
    any_port: bool,
    /// Whether some TCP service has FTP's port.
    ftp: bool,
    /// Whether some service is a one-packet service.
    one_packet: bool,
    /// Masqueraded real servers whose own packets leave in their service's name, connection or not.
    initiators: HashMap<ServiceKey<F>, DestId>,
    /// Masqueraded real servers by address, port and protocol: whose packets may be replies. Port 0 where the server
    /// keeps the packet's port.
    dests: HashMap<ServiceKey<F>, DestId>,
    /// Where there are one-packet services: masqueraded real servers of UDP that others have, which keep connections. By
    /// address and port, 0 where the server keeps the packet's.
    keepers: HashSet<(F::Addr, u16)>,
    virtual_addrs: HashSet<F::Addr>,
    dest_addrs: HashSet<F::Addr>,
    /// The far ends of tunnels, by address, kind and port.
    tunnels: HashSet<(F::Addr, TunnelKind, u16)>,
}

impl<F: Family> Default for FamilyIndex<F> {
    fn default() -> Self {
        Self {
            services: HashMap::new(),
            marked: HashMap::new(),
            marks: Vec::new(),
            any_port: false,
            ftp: false,
            one_packet: false,
            initiators: HashMap::new(),
            dests: HashMap::new(),
            keepers: HashSet::new(),
            virtual_addrs: HashSet::new(),
            dest_addrs: HashSet::new(),
            tunnels: HashSet::new(),
        }
    }
}

impl<F: Family> FamilyIndex<F> {
    /// The service of a packet that came in by `ingress`, and the packet's mark (specification §1.2).
    #[inline]
    #[must_use]
    pub fn service(&self, flow: &FlowKey<F>, ingress: PortId) -> Option<(ServiceId, u32)> {
        let mark = self.mark(flow, ingress);
        self.service_with_mark(flow, mark).map(|id| (id, mark))
    }

    /// The service of a packet with this mark.
    #[inline]
    #[must_use]
    pub fn service_with_mark(&self, flow: &FlowKey<F>, mark: u32) -> Option<ServiceId> {
        if mark != 0
            && let Some(id) = self.marked.get(&mark)
        {
            return Some(*id);
        }
        let at = |port| self.services.get(&(flow.dst, port, flow.proto)).copied();
        at(flow.dst_port)
            .or_else(|| {
                (self.ftp && may_be_ftp_data(flow.proto, flow.dst_port)).then(|| at(FTP))?
            })
            .or_else(|| self.any_port.then(|| at(0))?)
    }

    /// Whether some service is a one-packet service.
    #[inline]
    #[must_use]
    pub fn has_one_packet(&self) -> bool {
        self.one_packet
    }

    /// The mark that the first rule that fits gives to a packet; 0 for none.
    #[inline]
    #[must_use]
    pub fn mark(&self, flow: &FlowKey<F>, ingress: PortId) -> u32 {
        if self.marks.is_empty() {
            return 0;
        }
        let fits = |rule: &&MarkRule| rule.fits(flow, ingress);
        self.marks.iter().find(fits).map_or(0, |rule| rule.mark)
    }

    /// Whether a datagram whose ports are not known yet may be a service's, or a reply of one of its servers.
    #[must_use]
    pub fn concerns(&self, src: F::Addr, dst: F::Addr) -> bool {
        self.is_virtual(dst)
            || self.is_dest_addr(src)
            || self
                .marks
                .iter()
                .any(|rule| rule.fits_addresses(src.into(), dst.into()))
    }

    /// The real server whose packet this is, when its service lets servers speak in its name without a connection.
    #[inline]
    #[must_use]
    pub fn initiator(&self, addr: F::Addr, port: u16, proto: u8) -> Option<DestId> {
        let at = |port| self.initiators.get(&(addr, port, proto)).copied();
        at(port).or_else(|| at(0))
    }

    /// Whether a one-packet service's server may be at the end of a connection as well, by another service.
    #[must_use]
    pub fn keeps_connections(&self, addr: F::Addr, port: u16) -> bool {
        self.keepers.contains(&(addr, port)) || self.keepers.contains(&(addr, 0))
    }

    /// Whether an address is a virtual one.
    #[must_use]
    pub fn is_virtual(&self, addr: F::Addr) -> bool {
        self.virtual_addrs.contains(&addr)
    }

    /// Whether an address is a masqueraded real server's.
    #[must_use]
    pub fn is_dest_addr(&self, addr: F::Addr) -> bool {
        self.dest_addrs.contains(&addr)
    }

    /// Whether some real server of this family is at the end of a tunnel.
    #[inline]
    #[must_use]
    pub fn has_tunnels(&self) -> bool {
        !self.tunnels.is_empty()
    }

    /// Whether a real server is at the end of such a tunnel; `port` is GUE's, 0 for other kinds (specification §1.3).
    #[must_use]
    pub fn is_tunnel(&self, addr: F::Addr, kind: TunnelKind, port: u16) -> bool {
        self.tunnels.contains(&(addr, kind, port))
    }

    /// Virtual addresses, each once.
    pub fn virtual_addrs(&self) -> impl Iterator<Item = F::Addr> + '_ {
        self.virtual_addrs.iter().copied()
    }

    /// Whether a packet's source is a masqueraded real server.
    #[inline]
    #[must_use]
    pub fn is_dest(&self, addr: F::Addr, port: u16, proto: u8) -> bool {
        // Real servers of marked services are known under protocol 0: they serve every protocol.
        [
            (addr, port, proto),
            (addr, 0, proto),
            (addr, port, 0),
            (addr, 0, 0),
        ]
        .iter()
        .any(|key| self.dests.contains_key(key))
    }

    pub(super) fn set_marks(&mut self, rules: &[MarkRule]) {
        let fits = |rule: &&MarkRule| rule.family().is_none_or(|af| af == F::AF);
        self.marks = rules.iter().filter(fits).cloned().collect();
    }

    /// Takes in what of a service is of this family.
    pub(super) fn index_service(&mut self, service: &Service) {
        self.one_packet |= service.af == F::AF && service.def.one_packet;
        match service.def.kind {
            ServiceKind::Address { proto, addr, port } => {
                if let Some(addr) = F::from_ip(addr) {
                    self.services.insert((addr, port, proto), service.id);
                    self.any_port |= port == 0;
                    self.ftp |= port == FTP && proto == proto::TCP;
                    self.virtual_addrs.insert(addr);
                }
            }
            ServiceKind::Mark { af, mark } => {
                if af == F::AF {
                    self.marked.insert(mark, service.id);
                }
            }
        }
        if !speaks_for_service(service) {
            return;
        }
        // The newest server is first, and of two services that share a server the newer one's counts (specification
        // §1.3).
        let masqueraded = |d: &&Arc<Dest>| d.method == Method::Masq;
        for dest in service.dests.iter().rev().filter(masqueraded) {
            let keeps_port = service.def.keeps_port();
            let port = if keeps_port { 0 } else { dest.port };
            if let Some(addr) = F::from_ip(dest.addr) {
                self.initiators.insert((addr, port, proto::UDP), dest.id);
            }
        }
    }

    /// Takes in a real server, if it is of this family. All services are there already.
    pub(super) fn index_dest(&mut self, dest: &Dest, known: &Known<'_>) {
        let Some(addr) = F::from_ip(dest.addr) else {
            return;
        };
        let Known { port, proto, .. } = *known;
        match dest.method {
            Method::Masq => {
                self.dests.insert((addr, port, proto), dest.id);
                self.dest_addrs.insert(addr);
                if self.one_packet && known.keeps_udp_connections() {
                    self.keepers.insert((addr, port));
                }
                if !dest.available && known.may_still_answer() {
                    let key = (addr, port, proto::UDP);
                    self.initiators.entry(key).or_insert(dest.id);
                }
            }
            Method::Tunnel => {
                let Tunnel { kind, port, .. } = dest.tunnel;
                self.tunnels.insert((addr, kind, port));
            }
            Method::Direct => {}
        }
    }
}

/// What a real server is known by besides its address.
pub(super) struct Known<'a> {
    /// Its port, 0 where it keeps the packet's.
    pub(super) port: u16,
    /// Its service's protocol, 0 for any.
    pub(super) proto: u8,
    /// Its service, if it is still configured.
    pub(super) service: Option<&'a Service>,
}

impl Known<'_> {
    /// Whether it may be at the end of a UDP connection.
    fn keeps_udp_connections(&self) -> bool {
        let udp = self.proto == 0 || self.proto == proto::UDP;
        udp && self.service.is_some_and(|s| !s.def.one_packet)
    }

    /// Whether its answers to what it got last, if it was removed, have no connection to be told by.
    fn may_still_answer(&self) -> bool {
        self.service
            .is_some_and(|s| s.def.one_packet && speaks_for_service(s))
    }
}

/// Whether the real servers of a service send in its name without a client having asked: those of one-packet services,
/// which have no connections to tell replies by, and those of services with a persistence engine (specification §4.6).
fn speaks_for_service(service: &Service) -> bool {
    let udp = matches!(
        service.def.kind,
        ServiceKind::Address {
            proto: proto::UDP,
            ..
        }
    );
    let engine = service
        .def
        .persistence
        .as_ref()
        .is_some_and(|p| p.engine.is_some());
    udp && (service.def.one_packet || (engine && service.port() != 0))
}

/// FTP's control port.
pub const FTP: u16 = 21;

/// Whether a TCP packet may be of an FTP data connection: the port of active ones, or one that anybody may listen on.
fn may_be_ftp_data(proto: u8, port: u16) -> bool {
    proto == proto::TCP && (port == 20 || port >= 1024)
}
