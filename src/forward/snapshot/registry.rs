//! How a set-up becomes a snapshot.
//!
//! Owns the slots of services and real servers, and with them what outlives a snapshot: counts, operational states,
//! positions of schedulers. Nothing has changed where building fails.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::index::{FamilyIndex, Known};
use super::{Service, Services};
use crate::forward::defs::{DestDef, ServiceDef, ServiceKind, Setup, Timeouts};
use crate::net::Tick;
use crate::persist::PayloadKey;
use crate::sched::{Build, SchedError, SchedState, Spread};
use crate::table::{
    AdminState, Dest, DestId, DestShared, Method, ServiceId, StateTimeouts, Thresholds,
};

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
