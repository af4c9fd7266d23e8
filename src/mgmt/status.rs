//! The state of the appliance as the API's types: what listings, the control socket and the metrics page are made of.
//!
//! Invariant: every sum over workers in one [`Status`] comes from one pass over their counters.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::api::{self, Server};
use super::manager::{Manager, ReloadState};
use super::names;
use super::reload::{same_server, same_service};
use super::sessions;
use super::watch::Life;
use crate::forward::{DestDef, PortId, Service, ServiceDef, ServiceKind};
use crate::net::DropReason;
use crate::table::{AdminState, Dest, Method, ServiceId};
use crate::worker::WorkerShared;

/// Everything at once.
#[derive(Clone, Debug)]
pub struct Status {
    /// The program.
    pub version: api::Version,
    /// How the last reload went.
    pub reload: ReloadState,
    /// Services and their servers.
    pub services: Vec<api::Service>,
    /// Workers.
    pub workers: api::Workers,
    /// Drops by reason over all workers.
    pub drops: Vec<api::Drop>,
    /// Settings that LVS has as sysctls, and which defences are in force.
    pub ipvs: api::Ipvs,
    /// State sync, where there is such.
    pub sync: Option<api::SyncStatus>,
    /// Ports.
    pub ports: Vec<api::PortStatus>,
}

/// What a service's listing needs besides the service, found once for all.
struct Around<'a> {
    /// What the file says of it.
    file: HashMap<ServiceKind, &'a ServiceDef>,
    /// Servers that were taken out of the configuration and still have connections or templates.
    removed: HashMap<ServiceId, Vec<&'a Dest>>,
}

impl Manager {
    /// Everything at once.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let (workers, drops) = self.workers_and_drops(now);
        Status {
            version: api::Version::current(),
            reload: self.reload,
            services: self.services().services,
            workers,
            drops,
            ipvs: self.ipvs(),
            sync: self.sync_status(),
            ports: self.ports().ports,
        }
    }

    /// Services with their servers.
    #[must_use]
    pub fn services(&self) -> api::Services {
        let file = self.file.services.iter().map(|s| (s.kind, s)).collect();
        let mut removed: HashMap<_, Vec<_>> = HashMap::new();
        for d in self.services.dests.iter().flatten() {
            if !d.available && has_left(d) {
                removed.entry(d.service).or_default().push(d.as_ref());
            }
        }
        let around = Around { file, removed };
        let of = |id: &ServiceId| self.services.slots.get(id.0 as usize)?.as_deref();
        let services = self.services.order.iter().filter_map(of);
        api::Services {
            services: services.map(|s| self.service(s, &around)).collect(),
        }
    }

    /// A service with its servers, by its index in the set-up. Looks at no other.
    pub(super) fn listed_service(&self, at: usize) -> api::Service {
        let id = self.services.order[at];
        let service = self.services.slots[id.0 as usize].as_deref();
        let service = service.expect("what is in the order has a slot");
        let file = same_service(&self.file, &service.def);
        let left = |d: &&Dest| d.service == id && !d.available && has_left(d);
        let removed = self.services.dests.iter().flatten().map(Arc::as_ref);
        let around = Around {
            file: file.map(|f| (f.kind, f)).into_iter().collect(),
            removed: [(id, removed.filter(left).collect())].into(),
        };
        self.service(service, &around)
    }

    /// Servers of all services.
    #[must_use]
    pub fn servers(&self) -> api::Servers {
        let services = self.services().services;
        api::Servers {
            servers: services.into_iter().flat_map(|s| s.servers).collect(),
        }
    }

    fn service(&self, s: &Service, around: &Around<'_>) -> api::Service {
        let totals = self.baselines.service(&self.plane.workers, s.id);
        let (zeroed, rates) = self.baselines.service_listing(s.id);
        let (protocol, address) = names::service_key(&s.def.kind);
        let file = around.file.get(&s.def.kind).copied();
        let removed = around.removed.get(&s.id).into_iter().flatten().copied();
        let servers: Vec<Server> = s
            .dests
            .iter()
            .rev()
            .map(Arc::as_ref)
            .chain(removed)
            .map(|d| self.server(s, file, d))
            .collect();
        let overridden = file.is_some_and(|f| {
            sessions::differ(f, &s.def)
                || (&f.scheduler, &f.flags) != (&s.def.scheduler, &s.def.flags)
        });
        let sum = |f: fn(&Server) -> u32| servers.iter().map(|d| u64::from(f(d))).sum();
        api::Service {
            name: s.def.name.clone(),
            protocol,
            family: names::family(s.af).to_owned(),
            address,
            scheduler: s.def.scheduler.clone(),
            flags: s.def.flags.clone(),
            persistence: s.def.persistence.as_ref().map(sessions::listed),
            one_packet: s.def.one_packet,
            payload_key: s.def.payload_key.as_ref().map(names::payload_key),
            on_server_down: s
                .def
                .on_server_down
                .map(|w| names::on_server_down(w).to_owned()),
            overridden,
            packets_in: totals.packets_in,
            bytes_in: totals.bytes_in,
            packets_out: totals.packets_out,
            bytes_out: totals.bytes_out,
            connections: totals.connections,
            rejected: api::Rejected {
                no_server: totals.rejected_no_server,
                table_full: totals.rejected_table_full,
                template_table_full: totals.rejected_template_table_full,
                no_key: totals.rejected_no_key,
                overload: totals.rejected_overload,
            },
            templates: u64::from(self.plane.templates.in_service(s.id)),
            template_use: api::TemplateUse {
                hits: totals.template_hits,
                misses: totals.template_misses,
            },
            key_failures: api::KeyFailures {
                short: totals.no_key_short,
                missing: totals.no_key_missing,
                long: totals.no_key_long,
            },
            sessions: api::Sessions {
                rehomed: totals.rehomed,
                rehome_lost: totals.rehome_lost,
                untracked: totals.sessions_untracked,
            },
            unremembered: totals.unremembered,
            zeroed,
            rates,
            active: sum(|d| d.active),
            inactive: sum(|d| d.inactive),
            servers,
        }
    }

    fn server(&self, s: &Service, file: Option<&ServiceDef>, d: &Dest) -> Server {
        let totals = self.baselines.dest(&self.plane.workers, d.id);
        let (zeroed, rates) = self.baselines.dest_listing(d.id);
        let counts = d.shared.counts();
        let def = s
            .def
            .servers
            .iter()
            .find(|x| d.available && (x.addr, x.port) == (d.addr, d.port));
        let settable = |d: &DestDef| {
            let thresholds = (d.upper_threshold, d.lower_threshold);
            (d.weight, d.admin, thresholds, d.method, d.tunnel)
        };
        let overridden = def.is_some_and(|def| {
            file.and_then(|f| same_server(f, def))
                .is_some_and(|f| settable(f) != settable(def))
        });
        Server {
            service: s.def.name.clone(),
            name: d.name.clone(),
            address: names::endpoint(d.addr, d.port),
            forwarding: names::method(d.method).to_owned(),
            tunnel: (d.method == Method::Tunnel).then(|| names::tunnel(d.tunnel)),
            weight: def.map_or(0, |x| x.weight),
            effective_weight: d.weight,
            reason: why(d).to_owned(),
            state: names::admin(d.admin).to_owned(),
            up: d.up,
            overloaded: d.overloaded(),
            removed: !d.available,
            overridden,
            upper_threshold: d.upper_threshold,
            lower_threshold: d.lower_threshold,
            active: counts.active,
            inactive: counts.inactive(),
            persistent: d.shared.persistent(),
            packets_in: totals.packets_in,
            bytes_in: totals.bytes_in,
            packets_out: totals.packets_out,
            bytes_out: totals.bytes_out,
            connections: totals.connections,
            zeroed,
            rates,
        }
    }

    /// Workers.
    #[must_use]
    pub fn workers(&self, now: Instant) -> api::Workers {
        self.workers_and_drops(now).0
    }

    /// Drops by reason, every reason.
    #[must_use]
    pub fn drops(&self, now: Instant) -> api::Drops {
        api::Drops {
            drops: self.workers_and_drops(now).1,
        }
    }

    fn workers_and_drops(&self, now: Instant) -> (api::Workers, Vec<api::Drop>) {
        let mut sums = [0u64; DropReason::COUNT];
        let mut workers = Vec::with_capacity(self.plane.workers.len());
        for w in &self.plane.workers {
            let drops: [u64; DropReason::COUNT] =
                std::array::from_fn(|i| w.counters.drops[i].get());
            for (sum, n) in sums.iter_mut().zip(drops) {
                *sum = sum.wrapping_add(n);
            }
            let c = &w.counters;
            workers.push(api::Worker {
                worker: w.id,
                core: w.core,
                state: self.watch.life(w, now).name().to_owned(),
                busy_ratio: self.watch.busy_ratio(w.id),
                busy_cycles: c.busy_cycles.get(),
                idle_cycles: c.idle_cycles.get(),
                polls: c.polls.get(),
                generation: w.seen_generation.load(Ordering::Relaxed),
                connections: c.connections.get(),
                evicted: c.evicted.get(),
                expired: c.expired.get(),
                received: c.received.get(),
                generated: c.generated.get(),
                transmitted: c.transmitted.get(),
                punted: c.punted.get(),
                dropped: drops.iter().sum(),
                held: c.held.get(),
                fragments_received: c.fragments_received.get(),
                fragments_held: c.fragments_held.get(),
                datagrams_reassembled: c.datagrams_reassembled.get(),
                handed_out: c.handed_out.get(),
                handed_in: c.handed_in.get(),
            });
        }
        let drops = DropReason::ALL.iter().zip(sums);
        let workers = api::Workers {
            workers,
            connections_capacity: self.plane.connections_capacity,
            templates: self.plane.templates.len() as u64,
            templates_capacity: self.plane.templates.capacity() as u64,
            generation: self.generation,
        };
        let drop = |(reason, packets): (&DropReason, u64)| api::Drop {
            reason: reason.name().to_owned(),
            packets,
            help: reason.help().to_owned(),
        };
        (workers, drops.map(drop).collect())
    }

    /// Ports, as their devices tell.
    #[must_use]
    pub fn ports(&self) -> api::Ports {
        api::Ports {
            ports: (self.port_stats)(),
        }
    }

    /// Neighbours in use, and real servers' next hops that have none.
    #[must_use]
    pub fn neighbours(&self) -> api::Neighbours {
        let snapshot = self.plane.snapshot.load_full();
        let fixed: HashSet<_> = self
            .setup
            .neighbours
            .iter()
            .map(|n| (n.port, n.addr))
            .collect();
        let mut rows: Vec<_> = snapshot
            .fib
            .neighbours()
            .map(|(port, addr, mac)| {
                let origin = if fixed.contains(&(port, addr)) {
                    "static"
                } else {
                    "kernel"
                };
                (port, addr, Some(mac.to_string()), origin)
            })
            .chain(
                snapshot
                    .fib
                    .unresolved_dests()
                    .map(|(port, addr)| (port, addr, None, "unresolved")),
            )
            .collect();
        rows.sort();
        rows.dedup();
        let name = |p: PortId| {
            let port = snapshot.ports.get(usize::from(p.0));
            port.map_or_else(|| p.0.to_string(), |p| p.name.clone())
        };
        api::Neighbours {
            neighbours: rows
                .into_iter()
                .map(|(port, addr, mac, origin)| api::Neighbour {
                    port: name(port),
                    address: addr.to_string(),
                    mac,
                    origin: origin.to_owned(),
                })
                .collect(),
        }
    }

    /// Everything that is wrong with the workers, a sentence each; empty when all live.
    #[must_use]
    pub fn unhealthy(&self, now: Instant) -> Vec<String> {
        let sentence = |w: &Arc<WorkerShared>| {
            let id = w.id;
            match self.watch.life(w, now) {
                Life::Running => None,
                Life::Stopped => Some(format!("worker {id} has stopped")),
                Life::Stuck(d) => Some(format!(
                    "worker {id} is stuck: it has not polled for {:.1} s",
                    d.as_secs_f64()
                )),
            }
        };
        self.plane.workers.iter().filter_map(sentence).collect()
    }

    /// Everything that keeps the appliance from taking traffic, a sentence each; empty when it is ready.
    #[must_use]
    pub fn unready(&self, now: Instant) -> Vec<String> {
        let mut out = self.unhealthy(now);
        for w in &self.plane.workers {
            // Any published snapshot will do: a worker that is one behind for a moment is no less ready.
            if w.seen_generation.load(Ordering::Relaxed) == 0 {
                out.push(format!(
                    "worker {} has not seen the configuration yet",
                    w.id
                ));
            }
        }
        for p in self.ports().ports {
            if !p.link_up {
                out.push(format!("port `{}` has no link", p.name));
            }
        }
        out.extend(self.sync_unready());
        out
    }
}

/// Whether a server still has connections or templates.
fn has_left(d: &Dest) -> bool {
    d.shared.total() > 0 || d.shared.persistent() > 0
}

/// Why a server's effective weight is not the weight that is set; empty when it is.
fn why(d: &Dest) -> &'static str {
    if !d.available {
        "removed from the configuration"
    } else if d.admin == AdminState::Drain {
        "drained"
    } else if d.admin == AdminState::Maint {
        "in maintenance"
    } else if !d.up {
        "down"
    } else {
        ""
    }
}
