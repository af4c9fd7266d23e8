//! What a replay has counted, as JSON and as text. The JSON is an API: fields are added, never removed or renamed.

use std::fmt;

use serde::Serialize;

use crate::net::DropReason;
use crate::persist::NoKey;
use crate::table::{Counter, DestCounters, ServiceCounters, WorkerCounters};
use crate::worker::Plane;

/// Everything that a replay reports.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Frames read from the captures.
    pub received: u64,
    /// Received frames that were sent on.
    pub transmitted: u64,
    /// Received frames that the kernel would have got.
    pub punted: u64,
    /// Received frames that were dropped, by reason; reasons that did not occur are left out.
    pub dropped: serde_json::Map<String, serde_json::Value>,
    /// Received frames that still wait.
    pub held: u64,
    /// Whether `received = transmitted + punted + dropped + held`.
    pub identity_ok: bool,
    /// Frames sent that were not received: ICMP errors, and the further pieces of packets that were split.
    pub generated: u64,
    /// Virtual time from the first frame to the end in seconds; wall time with `--clock wall`.
    pub duration_s: f64,
    /// Wall time in seconds.
    pub wall_s: f64,
    /// Million frames per second of wall time.
    pub mpps: f64,
    /// Wall time per frame in nanoseconds.
    pub ns_per_packet: f64,
    /// Connections that are in the tables at the end.
    pub connections: u64,
    /// Connections that ended by timeout.
    pub expired: u64,
    /// Connections evicted from full tables.
    pub evicted: u64,
    /// One for each worker.
    pub workers: Vec<WorkerReport>,
    /// One for each service, in the configuration's order.
    pub services: Vec<ServiceReport>,
}

/// What one worker did.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerReport {
    /// Its number.
    pub worker: usize,
    /// Frames it took from devices.
    pub received: u64,
    /// Frames it took over from other workers.
    pub handed_in: u64,
    /// Frames it handed to other workers.
    pub handed_out: u64,
    /// Million frames per second (`--clock wall`; else 0).
    pub mpps: f64,
    /// Nanoseconds per frame (`--clock wall`; else 0).
    pub ns_per_packet: f64,
    /// Cycles per frame (`--clock wall` where the processor's frequency is known; else 0).
    pub cycles_per_packet: f64,
}

/// What went to one service.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceReport {
    /// Its name.
    pub name: String,
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes of IP packets from clients.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes of IP packets to clients.
    pub bytes_out: u64,
    /// Connections scheduled.
    pub connections: u64,
    /// Persistence templates at the end, those of sessions that a `payload_key` names among them.
    pub templates: u64,
    /// Connections, or one-packet datagrams, whose server a template gave.
    pub template_hits: u64,
    /// Templates made because there was none.
    pub template_misses: u64,
    /// Packets in which no key was found where there should be one, by reason; every reason is there.
    pub payload_key_failures: serde_json::Map<String, serde_json::Value>,
    /// Connections that ended because their session went on from another address or port.
    pub rehomed: u64,
    /// Sessions served without a template, for want of room.
    pub sessions_untracked: u64,
    /// Packets that would have begun a connection and found no server.
    pub rejected_no_server: u64,
    /// Packets that would have begun a connection and found no room.
    pub rejected_table_full: u64,
    /// Packets that would have begun a connection and found no room for their template.
    pub rejected_template_table_full: u64,
    /// Packets that would have begun a connection and had no key, where the service drops those.
    pub rejected_no_key: u64,
    /// Its real servers, in the configuration's order.
    pub servers: Vec<ServerReport>,
}

/// What went to one real server.
#[derive(Clone, Debug, Serialize)]
pub struct ServerReport {
    /// `address:port`.
    pub address: String,
    /// Configured name, or the address.
    pub name: String,
    /// Effective weight.
    pub weight: u32,
    /// Packets sent to it.
    pub packets_in: u64,
    /// Bytes of IP packets sent to it.
    pub bytes_in: u64,
    /// Packets from it.
    pub packets_out: u64,
    /// Bytes of IP packets from it.
    pub bytes_out: u64,
    /// Connections scheduled to it.
    pub connections: u64,
    /// Active connections at the end.
    pub active: u32,
    /// Inactive connections at the end.
    pub inactive: u32,
    /// Persistence templates at the end.
    pub persistent: u32,
    /// Whether it is overloaded at the end.
    pub overloaded: bool,
}

/// How long a replay took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durations {
    /// As reported in `duration_s`.
    pub duration_s: f64,
    /// Wall time in seconds.
    pub wall_s: f64,
}

impl Report {
    /// Reads the counters of all workers. Templates that have just ended are counted unless they were swept.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn new(plane: &Plane, took: Durations) -> Self {
        let counters: Vec<_> = plane.workers.iter().map(|w| &w.counters).collect();
        let sum = |f: &dyn Fn(&WorkerCounters) -> u64| counters.iter().map(|c| f(c)).sum::<u64>();
        let received = sum(&|c| c.received.get());
        let transmitted = sum(&|c| c.transmitted.get());
        let punted = sum(&|c| c.punted.get());
        // A frame on its way between two workers waits, too.
        let between = sum(&|c| c.handed_out.get()).saturating_sub(sum(&|c| c.handed_in.get()));
        let held = sum(&|c| c.held.get()) + between;
        let dropped_all = sum(&WorkerCounters::dropped);
        let dropped = DropReason::ALL
            .iter()
            .map(|r| (r.name().to_owned(), sum(&|c| c.drops[*r as usize].get())))
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| (name, n.into()))
            .collect();
        let per_packet = if received == 0 {
            0.0
        } else {
            took.wall_s * 1e9 / received as f64
        };
        Self {
            received,
            transmitted,
            punted,
            dropped,
            held,
            identity_ok: received == transmitted + punted + dropped_all + held,
            generated: sum(&|c| c.generated.get()),
            duration_s: took.duration_s,
            wall_s: took.wall_s,
            mpps: if per_packet == 0.0 {
                0.0
            } else {
                1e3 / per_packet
            },
            ns_per_packet: per_packet,
            connections: sum(&|c| c.connections.get()),
            expired: sum(&|c| c.expired.get()),
            evicted: sum(&|c| c.evicted.get()),
            workers: counters
                .iter()
                .enumerate()
                .map(|(i, c)| worker(i, c))
                .collect(),
            services: plane
                .snapshot
                .load()
                .services_in_order()
                .map(|s| service(s, plane, &counters))
                .collect(),
        }
    }
}

fn worker(id: usize, c: &WorkerCounters) -> WorkerReport {
    WorkerReport {
        worker: id,
        received: c.received.get(),
        handed_in: c.handed_in.get(),
        handed_out: c.handed_out.get(),
        mpps: 0.0,
        ns_per_packet: 0.0,
        cycles_per_packet: 0.0,
    }
}

fn service(
    s: &crate::forward::Service,
    plane: &Plane,
    counters: &[&WorkerCounters],
) -> ServiceReport {
    let sum = |f: fn(&ServiceCounters) -> &Counter| {
        counters
            .iter()
            .map(|c| f(c.service(s.id)).get())
            .sum::<u64>()
    };
    ServiceReport {
        name: s.def.name.clone(),
        packets_in: sum(|c| &c.packets_in),
        bytes_in: sum(|c| &c.bytes_in),
        packets_out: sum(|c| &c.packets_out),
        bytes_out: sum(|c| &c.bytes_out),
        connections: sum(|c| &c.connections),
        templates: plane.templates.in_service(s.id).into(),
        template_hits: sum(|c| &c.template_hits),
        template_misses: sum(|c| &c.template_misses),
        payload_key_failures: NoKey::ALL
            .iter()
            .map(|why| (why.name().to_owned(), sum(failures(*why)).into()))
            .collect(),
        rehomed: sum(|c| &c.rehomed),
        sessions_untracked: sum(|c| &c.sessions_untracked),
        rejected_no_server: sum(|c| &c.rejected_no_server),
        rejected_table_full: sum(|c| &c.rejected_table_full),
        rejected_template_table_full: sum(|c| &c.rejected_template_table_full),
        rejected_no_key: sum(|c| &c.rejected_no_key),
        // The data path's order is the newest first.
        servers: s.dests.iter().rev().map(|d| server(d, counters)).collect(),
    }
}

/// Where packets without a key are counted.
fn failures(why: NoKey) -> fn(&ServiceCounters) -> &Counter {
    match why {
        NoKey::Short => |c| &c.no_key_short,
        NoKey::Missing => |c| &c.no_key_missing,
        NoKey::Long => |c| &c.no_key_long,
    }
}

fn server(d: &crate::table::Dest, counters: &[&WorkerCounters]) -> ServerReport {
    let sum = |f: fn(&DestCounters) -> &Counter| {
        counters.iter().map(|c| f(c.dest(d.id)).get()).sum::<u64>()
    };
    ServerReport {
        address: std::net::SocketAddr::new(d.addr, d.port).to_string(),
        name: d.name.clone(),
        weight: d.weight,
        packets_in: sum(|c| &c.packets_in),
        bytes_in: sum(|c| &c.bytes_in),
        packets_out: sum(|c| &c.packets_out),
        bytes_out: sum(|c| &c.bytes_out),
        connections: sum(|c| &c.connections),
        active: d.shared.active(),
        inactive: d.shared.inactive(),
        persistent: d.shared.persistent(),
        overloaded: d.overloaded(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "received {}  transmitted {}  punted {}  dropped {}  held {}  (generated {})",
            self.received,
            self.transmitted,
            self.punted,
            self.dropped
                .values()
                .filter_map(serde_json::Value::as_u64)
                .sum::<u64>(),
            self.held,
            self.generated
        )?;
        let verdict = if self.identity_ok {
            "holds"
        } else {
            "IS BROKEN: please report it"
        };
        writeln!(
            f,
            "received = transmitted + punted + dropped + held: {verdict}"
        )?;
        writeln!(
            f,
            "time {:.3} s in {:.3} s of wall time, {:.3} Mpps, {:.1} ns per packet",
            self.duration_s, self.wall_s, self.mpps, self.ns_per_packet
        )?;
        for w in self.workers.iter().filter(|w| w.mpps > 0.0) {
            writeln!(
                f,
                "  worker {}: {} frames, {:.3} Mpps, {:.1} ns and {:.0} cycles per packet",
                w.worker, w.received, w.mpps, w.ns_per_packet, w.cycles_per_packet
            )?;
        }
        for (reason, n) in &self.dropped {
            writeln!(f, "  dropped {reason}: {n}")?;
        }
        for s in &self.services {
            writeln!(
                f,
                "service {}: {} packets in, {} out, {} connections",
                s.name, s.packets_in, s.packets_out, s.connections
            )?;
            if s.template_hits + s.template_misses > 0 {
                writeln!(
                    f,
                    "  templates: {} at the end, {} made, {} times used again",
                    s.templates, s.template_misses, s.template_hits
                )?;
            }
            for (why, n) in &s.payload_key_failures {
                if n.as_u64() != Some(0) {
                    writeln!(f, "  packets without a key, {why}: {n}")?;
                }
            }
            for d in &s.servers {
                writeln!(
                    f,
                    "  -> {:<28} weight {:<5} {:>10} packets {:>8} connections {:>8} active {:>8} inactive{}",
                    d.name,
                    d.weight,
                    d.packets_in,
                    d.connections,
                    d.active,
                    d.inactive,
                    if d.overloaded { "  overloaded" } else { "" }
                )?;
            }
        }
        Ok(())
    }
}
