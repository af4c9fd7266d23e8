//! The published configuration: immutable, read once per burst by every worker.
//!
//! The [`Registry`] belongs to the management core. It gives every service and real server a slot that stays the same
//! over reloads, so that connections, which remember slots, outlive the snapshot they were made under.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::defence::Sysctls;
use super::defs::{
    DestDef, MarkRule, PortDef, PortId, ServiceDef, ServiceKind, Setup, Switches, Timeouts,
};
use super::fib::Fib;
use crate::net::packet::proto;
use crate::net::tunnel::{Tunnel, TunnelKind};
use crate::net::{Af, Family, FlowKey, Tick};
use crate::persist::PayloadKey;
use crate::sched::{Build, SchedError, SchedState, Scheduler, Spread};
use crate::table::{
    AdminState, Dest, DestId, DestShared, Method, ServiceId, StateTimeouts, Thresholds,
};

/// A virtual service as one snapshot sees it.
#[derive(Debug)]
pub struct Service {
    /// Its slot.
    pub id: ServiceId,
    /// What it was made from.
    pub def: ServiceDef,
    /// Address family.
    pub af: Af,
    /// Real servers in kernel list order, the newest (last in the configuration) first (specification §1.3).
    pub dests: Vec<Arc<Dest>>,
    /// Chooses among `dests`.
    pub scheduler: Arc<dyn Scheduler>,
    /// Chooses the servers of flows that are not remembered, where there may be such.
    pub spread: Option<Arc<Spread>>,
    /// A new template's time, in ticks; 0 when the service is not persistent.
    pub template_timeout: u32,
    /// Real servers by the id that QUIC connection IDs carry, as indices into `dests`.
    pub quic_servers: HashMap<Vec<u8>, usize>,
}

impl Service {
    /// Its virtual port; 0 for a service of every port and one of a mark.
    #[inline]
    #[must_use]
    pub fn port(&self) -> u16 {
        self.def.port()
    }

    /// Its mark; 0 for one that has an address.
    #[inline]
    #[must_use]
    pub fn mark(&self) -> u32 {
        match self.def.kind {
            ServiceKind::Address { .. } => 0,
            ServiceKind::Mark { mark, .. } => mark,
        }
    }

    /// The index of a real server.
    #[must_use]
    pub fn index_of(&self, id: DestId) -> Option<usize> {
        self.dests.iter().position(|d| d.id == id)
    }
}

/// Timeouts in ticks, as the state machines want them.
fn timeout_ticks(t: &Timeouts) -> StateTimeouts {
    let tcp = [
        t.tcp_none,
        t.tcp_established,
        t.tcp_syn_sent,
        t.tcp_syn_recv,
        t.tcp_fin_wait,
        t.tcp_time_wait,
        t.tcp_close,
        t.tcp_close_wait,
        t.tcp_last_ack,
        t.tcp_listen,
        t.tcp_synack,
    ];
    let sctp = [
        t.sctp_none,
        t.sctp_init1,
        t.sctp_init,
        t.sctp_c_sent,
        t.sctp_c_replied,
        t.sctp_c_wait,
        t.sctp_cookie,
        t.sctp_c_echoed,
        t.sctp_established,
        t.sctp_s_sent,
        t.sctp_s_received,
        t.sctp_s_ack_sent,
        t.sctp_rejected,
        t.sctp_closed,
    ];
    StateTimeouts {
        tcp: tcp.map(Tick::ticks),
        sctp: sctp.map(Tick::ticks),
        udp: Tick::ticks(t.udp),
    }
}

/// The table of flows that are not remembered, for a service that may have such; that of the snapshot before where the
/// servers in it are the same.
fn spread(
    def: &ServiceDef,
    dests: &[Arc<Dest>],
    before: Option<&Arc<Service>>,
    seed: u64,
) -> Option<Arc<Spread>> {
    let forgets = def.new_connections_per_second != 0
        && def.persistence.is_none()
        && def.payload_key.is_none()
        && !def.one_packet
        && dests.iter().any(|d| d.method != Method::Masq);
    if !forgets {
        return None;
    }
    let same = |old: &Arc<Service>| {
        let ends = |d: &Arc<Dest>| (d.addr, d.port, d.serving(), d.weight);
        old.def.hash_key == def.hash_key && old.dests.iter().map(ends).eq(dests.iter().map(ends))
    };
    match before.filter(|old| old.spread.is_some() && same(old)) {
        Some(old) => old.spread.clone(),
        None => Spread::build(dests, seed).map(Arc::new),
    }
}

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

    fn set_marks(&mut self, rules: &[MarkRule]) {
        let fits = |rule: &&MarkRule| rule.family().is_none_or(|af| af == F::AF);
        self.marks = rules.iter().filter(fits).cloned().collect();
    }

    /// Takes in what of a service is of this family.
    fn index_service(&mut self, service: &Service) {
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
    fn index_dest(&mut self, dest: &Dest, known: &Known<'_>) {
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
struct Known<'a> {
    /// Its port, 0 where it keeps the packet's.
    port: u16,
    /// Its service's protocol, 0 for any.
    proto: u8,
    /// Its service, if it is still configured.
    service: Option<&'a Service>,
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

/// The services and servers part of a snapshot; shared by snapshots that differ in forwarding information only.
#[derive(Debug)]
pub struct Services {
    /// By [`ServiceId`].
    pub slots: Vec<Option<Arc<Service>>>,
    /// By [`DestId`]; removed servers stay, marked unavailable, while they have connections.
    pub dests: Vec<Option<Arc<Dest>>>,
    /// IPv4 lookups.
    pub v4: FamilyIndex<crate::net::V4>,
    /// IPv6 lookups.
    pub v6: FamilyIndex<crate::net::V6>,
    /// Timeouts.
    pub timeouts: StateTimeouts,
    /// Whether templates of servers with weight 0 are not used for new connections (specification §2.8).
    pub expire_quiescent_template: bool,
    /// Further switches.
    pub switches: Switches,
    /// Settings that LVS has as sysctls.
    pub sysctls: Sysctls,
    /// Slots in the configuration's order, for listings.
    pub order: Vec<ServiceId>,
}

/// What a worker reads once per burst.
#[derive(Debug)]
pub struct Snapshot {
    /// Goes up by one with each publication.
    pub generation: u64,
    /// Services and servers.
    pub services: Arc<Services>,
    /// Where packets leave.
    pub fib: Arc<Fib>,
    /// Ports of the configuration.
    pub ports: Arc<[PortDef]>,
}

impl Snapshot {
    /// A service by slot.
    #[inline]
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services
            .slots
            .get(id.0 as usize)
            .and_then(Option::as_ref)
    }

    /// A real server by slot.
    #[inline]
    #[must_use]
    pub fn dest(&self, id: DestId) -> Option<&Arc<Dest>> {
        self.services
            .dests
            .get(id.0 as usize)
            .and_then(Option::as_ref)
    }

    /// Services in the configuration's order.
    pub fn services_in_order(&self) -> impl Iterator<Item = &Arc<Service>> + '_ {
        self.services
            .order
            .iter()
            .filter_map(|id| self.service(*id))
    }

    /// A service by its configured name.
    #[must_use]
    pub fn service_by_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.services_in_order().find(|s| s.def.name == name)
    }
}

/// Why a snapshot could not be built. Nothing has changed then.
#[derive(Debug, PartialEq, Eq)]
pub enum BuildError {
    /// More services than slots.
    TooManyServices {
        /// Slots.
        limit: usize,
    },
    /// More real servers than slots.
    TooManyServers {
        /// Slots.
        limit: usize,
    },
    /// The scheduler refused.
    Scheduler {
        /// Service.
        service: String,
        /// The scheduler's sentence.
        message: String,
    },
}

impl BuildError {
    fn scheduler(of: &ServiceDef, why: &SchedError) -> Self {
        Self::Scheduler {
            service: of.name.clone(),
            message: why.to_string(),
        }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyServices { limit } => write!(
                f,
                "there are more services than `limits.services` ({limit}); raise it and restart"
            ),
            Self::TooManyServers { limit } => write!(
                f,
                "there are more real servers than `limits.servers` ({limit}), removed ones that still have \
                 connections included; raise it and restart, or try again when those have ended"
            ),
            Self::Scheduler { service, message } => write!(f, "service `{service}`: {message}"),
        }
    }
}

impl std::error::Error for BuildError {}

#[derive(Clone, Debug)]
struct DestSlot {
    service: ServiceId,
    addr: IpAddr,
    port: u16,
    proto: u8,
    /// Whether its packets keep the port they were sent to.
    keeps_port: bool,
    /// The last weight above 0 that it had.
    last_weight: u32,
    up: bool,
    shared: Arc<DestShared>,
    /// The last snapshot that has it available, once it was removed.
    retired: Option<Arc<Dest>>,
    retired_generation: u64,
}

#[derive(Clone, Debug)]
struct ServiceSlot {
    kind: ServiceKind,
    state: Arc<SchedState>,
    /// Servers' slots at the last build, newest first, with what a scheduler's rebuild depends on.
    previous: Vec<Arc<Dest>>,
    /// The generation it was removed in, if it was.
    retired: Option<u64>,
}

/// Gives services and real servers their slots and builds snapshots.
#[derive(Clone, Debug)]
pub struct Registry {
    services: Vec<Option<ServiceSlot>>,
    dests: Vec<Option<DestSlot>>,
    /// Slots by what they are for.
    service_at: HashMap<ServiceKind, usize>,
    dest_at: HashMap<(ServiceId, IpAddr, u16), usize>,
    /// Below these there is no free slot.
    service_cursor: usize,
    dest_cursor: usize,
    seed: u64,
    generation: u64,
}

impl Registry {
    /// A registry with room for so many services and real servers. `seed` keys the choices that must be secret.
    #[must_use]
    pub fn new(services: usize, dests: usize, seed: u64) -> Self {
        Self {
            services: vec![None; services],
            dests: vec![None; dests],
            service_at: HashMap::new(),
            dest_at: HashMap::new(),
            service_cursor: 0,
            dest_cursor: 0,
            seed,
            generation: 0,
        }
    }

    /// Builds services and servers from `setup`.
    ///
    /// Objects that are the same (a service by its kind, a server by service, address and port) keep slot, counts and
    /// scheduler position. A removed server keeps its slot while it has connections or while a snapshot older than
    /// `oldest_generation` may still be read.
    ///
    /// # Errors
    /// [`BuildError`]; the registry is unchanged then.
    pub fn build(
        &mut self,
        setup: &Setup,
        previous: Option<&Services>,
        oldest_generation: u64,
    ) -> Result<Services, BuildError> {
        let mut next = self.clone();
        let built = next.build_in_place(setup, previous, oldest_generation)?;
        *self = next;
        Ok(built)
    }

    /// Number of the snapshot built last.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Sets a real server's operational state for the next build. The one before; `None` when there is no such server.
    pub fn set_up(&mut self, id: DestId, up: bool) -> Option<bool> {
        let slot = self.dests.get_mut(id.0 as usize)?.as_mut()?;
        Some(std::mem::replace(&mut slot.up, up))
    }

    fn build_in_place(
        &mut self,
        setup: &Setup,
        previous: Option<&Services>,
        oldest_generation: u64,
    ) -> Result<Services, BuildError> {
        self.generation += 1;
        self.free_retired(oldest_generation);
        let mut out = Services {
            slots: Vec::new(),
            dests: Vec::new(),
            v4: FamilyIndex::default(),
            v6: FamilyIndex::default(),
            timeouts: timeout_ticks(&setup.timeouts),
            expire_quiescent_template: setup.expire_quiescent_template,
            switches: setup.switches,
            sysctls: setup.sysctls.clone(),
            order: Vec::new(),
        };
        out.v4.set_marks(&setup.marks);
        out.v6.set_marks(&setup.marks);
        self.take_places(&setup.services)?;
        // From here on nothing fails: what changes now, counts and positions, is shared with the snapshot that runs.
        let mut kept_services = vec![false; self.services.len()];
        let mut kept_dests = vec![false; self.dests.len()];
        for def in &setup.services {
            let id = self.service_slot(def)?;
            kept_services[id.0 as usize] = true;
            let mut dests = Vec::with_capacity(def.servers.len());
            for d in def.servers.iter().rev() {
                let dest = self.dest(id, def, d)?;
                kept_dests[dest.id.0 as usize] = true;
                put(&mut out.dests, dest.id.0, Arc::clone(&dest));
                dests.push(dest);
            }
            let service = Arc::new(self.service(id, def, dests, previous)?);
            out.v4.index_service(&service);
            out.v6.index_service(&service);
            out.order.push(id);
            put(&mut out.slots, id.0, service);
        }
        self.retire(&kept_services, &kept_dests, previous, &mut out);
        Ok(out)
    }

    /// Gives all services and servers their slots, and asks their schedulers.
    fn take_places(&mut self, services: &[ServiceDef]) -> Result<(), BuildError> {
        for def in services {
            let id = self.service_slot(def)?;
            for server in def.servers.iter().rev() {
                self.dest_slot(id, def, server)?;
            }
            crate::sched::check(&def.scheduler, &def.flags, def.servers.len())
                .map_err(|e| BuildError::scheduler(def, &e))?;
        }
        Ok(())
    }

    fn service_slot(&mut self, def: &ServiceDef) -> Result<ServiceId, BuildError> {
        let at = match self.service_at.get(&def.kind) {
            Some(i) => *i,
            None => {
                let limit = self.services.len();
                let i = free_from(&self.services, &mut self.service_cursor)
                    .ok_or(BuildError::TooManyServices { limit })?;
                self.services[i] = Some(ServiceSlot {
                    kind: def.kind,
                    state: Arc::default(),
                    previous: Vec::new(),
                    retired: None,
                });
                self.service_at.insert(def.kind, i);
                i
            }
        };
        if let Some(slot) = &mut self.services[at] {
            slot.retired = None;
        }
        Ok(ServiceId(
            u32::try_from(at).expect("slot numbers are bounded by the limits"),
        ))
    }

    fn dest_slot(
        &mut self,
        service: ServiceId,
        of: &ServiceDef,
        def: &DestDef,
    ) -> Result<usize, BuildError> {
        let key = (service, def.addr, def.port);
        if let Some(at) = self.dest_at.get(&key) {
            return Ok(*at);
        }
        let limit = self.dests.len();
        let at = free_from(&self.dests, &mut self.dest_cursor)
            .ok_or(BuildError::TooManyServers { limit })?;
        self.dest_at.insert(key, at);
        self.dests[at] = Some(DestSlot {
            service,
            addr: def.addr,
            port: def.port,
            proto: proto_of(of),
            keeps_port: false,
            last_weight: 0,
            up: true,
            shared: Arc::default(),
            retired: None,
            retired_generation: 0,
        });
        Ok(at)
    }

    fn dest(
        &mut self,
        service: ServiceId,
        of: &ServiceDef,
        def: &DestDef,
    ) -> Result<Arc<Dest>, BuildError> {
        let at = self.dest_slot(service, of, def)?;
        let slot = self.dests[at]
            .as_mut()
            .expect("the slot was found or filled above");
        if slot.retired.take().is_some() {
            // Whoever adds it again means it to serve.
            slot.up = true;
        }
        slot.keeps_port = of.keeps_port();
        let takes = def.admin == AdminState::Ready && slot.up;
        let weight = if takes { def.weight } else { 0 };
        if weight != 0 {
            slot.last_weight = weight;
        }
        slot.shared.reconsider(Thresholds {
            upper: def.upper_threshold,
            lower: def.lower_threshold,
        });
        Ok(Arc::new(Dest {
            id: DestId(u32::try_from(at).expect("slot numbers are bounded by the limits")),
            service,
            name: def.label(),
            addr: def.addr,
            port: def.port,
            method: def.method,
            tunnel: def.tunnel,
            weight,
            last_weight: slot.last_weight,
            upper_threshold: def.upper_threshold,
            lower_threshold: def.lower_threshold,
            admin: def.admin,
            up: slot.up,
            one_packet: of.one_packet,
            keyed: of.payload_key.is_some(),
            by_session: of.by_session(),
            available: true,
            shared: Arc::clone(&slot.shared),
        }))
    }

    fn service(
        &mut self,
        id: ServiceId,
        def: &ServiceDef,
        dests: Vec<Arc<Dest>>,
        previous: Option<&Services>,
    ) -> Result<Service, BuildError> {
        let slot = self.services[id.0 as usize]
            .as_mut()
            .expect("the service was given this slot");
        let before = previous
            .and_then(|p| p.slots.get(id.0 as usize))
            .and_then(Option::as_ref);
        if before.is_some_and(|b| b.def.scheduler != def.scheduler) {
            // Another scheduler starts afresh: the word means something else to it.
            slot.state = Arc::default();
            slot.previous.clear();
        }
        // Tables take time to fill, and a change somewhere else is no reason to. What servers' load is decides when a
        // scheduler is told that one is no longer overloaded.
        let same = |b: &&Arc<Service>| {
            let chooses = |def: &ServiceDef| {
                let flags = def.flags.clone();
                (def.scheduler.clone(), flags, def.hash_key, def.by_session())
            };
            chooses(&b.def) == chooses(def) && !crate::sched::edited(&b.dests, &dests)
        };
        let scheduler = match before.filter(same) {
            Some(b) => Arc::clone(&b.scheduler),
            None => {
                let build = Build {
                    dests: &dests,
                    previous: &slot.previous,
                    state: &slot.state,
                    flags: &def.flags,
                    seed: def.hash_key.unwrap_or(self.seed),
                };
                crate::sched::build(&def.scheduler, &build)
                    .map_err(|e| BuildError::scheduler(def, &e))?
                    .into()
            }
        };
        slot.previous.clone_from(&dests);
        let spread = spread(def, &dests, before, def.hash_key.unwrap_or(self.seed));
        let ids = def.servers.iter().rev().map(|s| s.quic_server_id.clone());
        let quic_servers = match def.payload_key {
            Some(PayloadKey::Quic(_)) => ids.zip(0..).filter(|(id, _)| !id.is_empty()).collect(),
            _ => HashMap::new(),
        };
        let template_timeout = def
            .persistence
            .as_ref()
            .map(|p| Tick::ticks(p.timeout).max(1));
        Ok(Service {
            template_timeout: template_timeout.unwrap_or(0),
            quic_servers,
            id,
            af: def.af(),
            def: def.clone(),
            dests,
            scheduler,
            spread,
        })
    }

    /// Marks what is no longer configured, and keeps removed servers that may still have connections.
    fn retire(
        &mut self,
        kept_services: &[bool],
        kept_dests: &[bool],
        previous: Option<&Services>,
        out: &mut Services,
    ) {
        for (slot, kept) in self.services.iter_mut().zip(kept_services) {
            if let (Some(s), false) = (slot, kept) {
                s.retired.get_or_insert(self.generation);
            }
        }
        let generation = self.generation;
        for (i, (slot, kept)) in self.dests.iter_mut().zip(kept_dests).enumerate() {
            let (Some(s), false) = (slot.as_mut(), kept) else {
                continue;
            };
            if s.retired.is_none() {
                let last = previous
                    .and_then(|p| p.dests.get(i))
                    .and_then(Option::as_ref);
                s.retired = last.map(|d| Arc::new(gone(d)));
                s.retired_generation = generation;
            }
            match &s.retired {
                Some(d) => put(&mut out.dests, d.id.0, Arc::clone(d)),
                None => {
                    self.dest_at.remove(&(s.service, s.addr, s.port));
                    *slot = None;
                }
            }
        }
        for d in out.dests.iter().flatten() {
            let slot = self.dests[d.id.0 as usize].as_ref();
            let keeps_port = slot.is_some_and(|s| s.keeps_port);
            let service = out.slots.get(d.service.0 as usize).and_then(Option::as_ref);
            let known = Known {
                port: if keeps_port { 0 } else { d.port },
                proto: slot.map_or(0, |s| s.proto),
                service: service.map(Arc::as_ref),
            };
            out.v4.index_dest(d, &known);
            out.v6.index_dest(d, &known);
        }
    }

    /// Frees slots that nothing refers to and that no worker can still come to refer to.
    fn free_retired(&mut self, oldest_generation: u64) {
        let mut in_use = vec![false; self.services.len()];
        for slot in &mut self.dests {
            let Some(s) = slot else { continue };
            let free = s.retired.is_some()
                && s.retired_generation <= oldest_generation
                && s.shared.total() == 0
                && s.shared.persistent() == 0;
            if free {
                self.dest_at.remove(&(s.service, s.addr, s.port));
                *slot = None;
            } else {
                in_use[s.service.0 as usize] = true;
            }
        }
        for (slot, in_use) in self.services.iter_mut().zip(in_use) {
            let Some(s) = slot else { continue };
            if s.retired.is_some_and(|g| g <= oldest_generation) && !in_use {
                self.service_at.remove(&s.kind);
                *slot = None;
            }
        }
        (self.service_cursor, self.dest_cursor) = (0, 0);
    }
}

/// The first free slot from `cursor` on, which moves there: between two sweeps slots are only filled.
fn free_from<T>(slots: &[Option<T>], cursor: &mut usize) -> Option<usize> {
    let found = slots
        .iter()
        .skip(*cursor)
        .position(Option::is_none)
        .map(|i| i + *cursor);
    *cursor = found.unwrap_or(slots.len());
    found
}

fn proto_of(def: &ServiceDef) -> u8 {
    match def.kind {
        ServiceKind::Address { proto, .. } => proto,
        ServiceKind::Mark { .. } => 0,
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

fn gone(d: &Dest) -> Dest {
    Dest {
        name: d.name.clone(),
        weight: 0,
        available: false,
        shared: Arc::clone(&d.shared),
        ..*d
    }
}

fn put<T>(slots: &mut Vec<Option<Arc<T>>>, at: u32, value: Arc<T>) {
    let at = at as usize;
    if slots.len() <= at {
        slots.resize_with(at + 1, || None);
    }
    slots[at] = Some(value);
}
