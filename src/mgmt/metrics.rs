//! The metrics endpoint: Prometheus text, and the two questions of orchestrators.
//!
//! [`FAMILIES`] is the one list of what is exported; the page of the documentation is generated from it. Every scrape
//! is made from one [`Status`], so that sums over workers in it agree. Labels are configured names and small numbers,
//! never an address of a client.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::MutexGuard;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use tokio::net::TcpListener;

use super::api;
use super::bounded::Bounded;
use super::manager::{Manager, Shared, lock};
use super::status::Status;
pub use crate::config::Detail;

/// Connections to the endpoint at a time; more wait.
const CLIENTS_MAX: usize = 64;

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// A family of series.
struct Family {
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    /// The least detail at which it is exported.
    detail: Detail,
    help: &'static str,
    /// Adds the family's series.
    series: fn(&Status, &mut Series<'_>),
}

/// Series of one family, being collected.
struct Series<'a> {
    family: &'a Family,
    metrics: Vec<Metric>,
}

impl Series<'_> {
    /// Adds a series; `values` are the labels' values in the family's order.
    fn add(&mut self, values: &[&str], value: f64) {
        let label = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        debug_assert_eq!(
            values.len(),
            self.family.labels.len(),
            "one value for each label"
        );
        let labels = self.family.labels.iter().zip(values).map(label).collect();
        let mut metric = Metric::from_label(labels);
        match self.family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.metrics.push(metric);
    }

    fn per_service(&mut self, status: &Status, value: fn(&api::Service) -> u64) {
        for s in &status.services {
            self.add(&[&s.name], value(s) as f64);
        }
    }

    fn per_server(&mut self, status: &Status, value: fn(&api::Server) -> u64) {
        for d in status.services.iter().flat_map(|s| &s.servers) {
            // A removed server that only waits for its connections has no series any more.
            if !d.removed {
                self.add(&[&d.service, &d.name], value(d) as f64);
            }
        }
    }

    fn per_worker(&mut self, status: &Status, value: fn(&api::Worker) -> f64) {
        for w in &status.workers.workers {
            self.add(&[&w.worker.to_string()], value(w));
        }
    }

    fn sum(&mut self, status: &Status, value: fn(&api::Worker) -> u64) {
        let sum: u64 = status.workers.workers.iter().map(value).sum();
        self.add(&[], sum as f64);
    }

    fn of_sync(&mut self, status: &Status, value: fn(&api::SyncStatus) -> u64) {
        if let Some(sync) = &status.sync {
            self.add(&[], value(sync) as f64);
        }
    }

    /// A series for each peer and direction of which `value` is known. No series may be there twice: two hosts of one
    /// name are told apart by their addresses, and of two lives of one host the first in the list counts.
    fn per_peer(&mut self, status: &Status, value: fn(&api::SyncPeer) -> Option<f64>) {
        let peers = status.sync.as_ref().map_or(&[][..], |s| &s.peers);
        for (i, peer) in peers.iter().enumerate() {
            let same =
                |p: &&api::SyncPeer| (&p.name, &p.direction) == (&peer.name, &peer.direction);
            let before = || peers[..i].iter().filter(same);
            if before().any(|p| p.address == peer.address) {
                continue;
            }
            let name = match before().next() {
                Some(_) => format!("{}@{}", peer.name, peer.address),
                None => peer.name.clone(),
            };
            if let Some(value) = value(peer) {
                self.add(&[&name, &peer.direction], value);
            }
        }
    }

    fn per_port(&mut self, status: &Status, value: fn(&api::PortStatus) -> u64) {
        for p in &status.ports {
            self.add(&[&p.name], value(p) as f64);
        }
    }
}

macro_rules! families {
    ($($name:literal $kind:ident [$($label:literal),*] $detail:ident $help:literal $series:expr;)*) => {
        &[$(Family {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            detail: Detail::$detail,
            help: $help,
            series: $series,
        },)*]
    };
}

/// Everything that is exported.
static FAMILIES: &[Family] = families! {
    "polder_build_info" Gauge ["version", "commit", "dpdk"] Service
        "Always 1; the labels tell what runs."
        |s, o| o.add(&[&s.version.version, &s.version.commit, &s.version.dpdk], 1.0);
    "polder_config_last_reload_successful" Gauge [] Service
        "1 if the last reload (or the start) took the configuration over, 0 if it was refused."
        |s, o| o.add(&[], f64::from(u8::from(s.reload.successful)));
    "polder_config_last_reload_success_timestamp_seconds" Gauge [] Service
        "Unix time of the last reload (or start) that took the configuration over."
        |s, o| o.add(&[], s.reload.success_at as f64);

    "polder_service_packets_received_total" Counter ["service"] Service
        "Packets from clients."
        |s, o| o.per_service(s, |x| x.packets_in);
    "polder_service_bytes_received_total" Counter ["service"] Service
        "Bytes of IP packets from clients, as received."
        |s, o| o.per_service(s, |x| x.bytes_in);
    "polder_service_packets_sent_total" Counter ["service"] Service
        "Packets to clients that passed the director."
        |s, o| o.per_service(s, |x| x.packets_out);
    "polder_service_bytes_sent_total" Counter ["service"] Service
        "Bytes of IP packets to clients, as sent."
        |s, o| o.per_service(s, |x| x.bytes_out);
    "polder_service_connections_total" Counter ["service"] Service
        "Connections scheduled."
        |s, o| o.per_service(s, |x| x.connections);
    "polder_service_connections_rejected_total" Counter ["service", "reason"] Service
        "New connections refused: no_server, no real server was available; table_full, the connection table was full; \
         template_table_full, the template table, its room for long keys, or the service's or client's share of it \
         was; no_key, the persistence engine found no key; overload, the overload defences refused it."
        |s, o| for x in &s.services {
            o.add(&[&x.name, "no_server"], x.rejected.no_server as f64);
            o.add(&[&x.name, "table_full"], x.rejected.table_full as f64);
            o.add(&[&x.name, "template_table_full"], x.rejected.template_table_full as f64);
            o.add(&[&x.name, "no_key"], x.rejected.no_key as f64);
            o.add(&[&x.name, "overload"], x.rejected.overload as f64);
        };
    "polder_service_flows_unremembered_total" Counter ["service"] Service
        "New flows above new_connections_per_second that were placed by hash and not remembered: TCP SYNs, UDP packets."
        |s, o| o.per_service(s, |x| x.unremembered);
    "polder_service_templates" Gauge ["service"] Service
        "Persistence templates now."
        |s, o| o.per_service(s, |x| x.templates);
    "polder_service_template_hits_total" Counter ["service"] Service
        "Servers chosen by a template that was there."
        |s, o| o.per_service(s, |x| x.template_use.hits);
    "polder_service_template_misses_total" Counter ["service"] Service
        "Templates made."
        |s, o| o.per_service(s, |x| x.template_use.misses);
    "polder_service_payload_key_failures_total" Counter ["service", "reason"] Service
        "Packets without the key that a persistence engine or payload key looks for: short, the payload ends before \
         the key does; missing, the message has none; long, there was no room for so long a one."
        |s, o| for x in &s.services {
            o.add(&[&x.name, "short"], x.key_failures.short as f64);
            o.add(&[&x.name, "missing"], x.key_failures.missing as f64);
            o.add(&[&x.name, "long"], x.key_failures.long as f64);
        };
    "polder_service_sessions_rehomed_total" Counter ["service"] Service
        "Connections ended because their session moved to another 5-tuple."
        |s, o| o.per_service(s, |x| x.sessions.rehomed);
    "polder_service_sessions_rehome_lost_total" Counter ["service"] Service
        "Sessions that moved while their old connection's worker could not be told; that connection ends by timeout."
        |s, o| o.per_service(s, |x| x.sessions.rehome_lost);
    "polder_service_sessions_untracked_total" Counter ["service"] Service
        "Choices for sessions that are served without a template, since there was no room for one."
        |s, o| o.per_service(s, |x| x.sessions.untracked);

    "polder_server_connections_active" Gauge ["service", "server"] Server
        "Active connections now."
        |s, o| o.per_server(s, |x| u64::from(x.active));
    "polder_server_connections_inactive" Gauge ["service", "server"] Server
        "Inactive connections now."
        |s, o| o.per_server(s, |x| u64::from(x.inactive));
    "polder_server_templates" Gauge ["service", "server"] Server
        "Persistence templates of the server now."
        |s, o| o.per_server(s, |x| u64::from(x.persistent));
    "polder_server_weight" Gauge ["service", "server"] Server
        "Weight that the scheduler uses: 0 when drained, in maintenance or down, else the one that is set."
        |s, o| o.per_server(s, |x| u64::from(x.effective_weight));
    "polder_server_up" Gauge ["service", "server"] Server
        "Operational state: 1 up, 0 down."
        |s, o| o.per_server(s, |x| u64::from(x.up));
    "polder_server_admin_state" Gauge ["service", "server"] Server
        "Administrative state: 0 ready, 1 drain, 2 maint."
        |s, o| o.per_server(s, |x| match x.state.as_str() {
            "ready" => 0,
            "drain" => 1,
            _ => 2,
        });
    "polder_server_overloaded" Gauge ["service", "server"] Server
        "1 while the server is at its upper threshold, until it is below the lower one."
        |s, o| o.per_server(s, |x| u64::from(x.overloaded));
    "polder_server_connections_total" Counter ["service", "server"] Server
        "Connections scheduled to the server."
        |s, o| o.per_server(s, |x| x.connections);
    "polder_server_packets_received_total" Counter ["service", "server"] Server
        "Packets from clients for the server."
        |s, o| o.per_server(s, |x| x.packets_in);
    "polder_server_bytes_received_total" Counter ["service", "server"] Server
        "Bytes of IP packets from clients for the server, as received."
        |s, o| o.per_server(s, |x| x.bytes_in);
    "polder_server_packets_sent_total" Counter ["service", "server"] Server
        "Packets of the server to clients that passed the director."
        |s, o| o.per_server(s, |x| x.packets_out);
    "polder_server_bytes_sent_total" Counter ["service", "server"] Server
        "Bytes of IP packets of the server to clients, as sent."
        |s, o| o.per_server(s, |x| x.bytes_out);

    "polder_packets_received_total" Counter [] Service
        "Frames taken from all ports and the kernel."
        |s, o| o.sum(s, |w| w.received);
    "polder_packets_generated_total" Counter [] Service
        "Frames that polder made itself: ICMP errors, further fragments."
        |s, o| o.sum(s, |w| w.generated);
    "polder_packets_transmitted_total" Counter [] Service
        "Frames given to ports."
        |s, o| o.sum(s, |w| w.transmitted);
    "polder_packets_held" Gauge [] Service
        "Frames that wait now for a neighbour, for fragments or for a port."
        |s, o| o.sum(s, |w| w.held);
    "polder_punted_packets_total" Counter [] Service
        "Frames given to the kernel."
        |s, o| o.sum(s, |w| w.punted);
    "polder_drops_total" Counter ["reason"] Service
        "Packets dropped, by reason; docs/metrics.md lists the reasons."
        |s, o| for d in &s.drops {
            o.add(&[&d.reason], d.packets as f64);
        };

    "polder_connections" Gauge ["worker"] Service
        "Connections in the worker's tables now."
        |s, o| o.per_worker(s, |w| w.connections as f64);
    "polder_connections_capacity" Gauge [] Service
        "Connections that all workers' tables can hold together."
        |s, o| o.add(&[], s.workers.connections_capacity as f64);
    "polder_connections_evicted_total" Counter [] Service
        "Connections evicted to make room."
        |s, o| o.sum(s, |w| w.evicted);
    "polder_connections_expired_total" Counter [] Service
        "Connections that ended by timeout."
        |s, o| o.sum(s, |w| w.expired);

    "polder_connections_free" Gauge [] Service
        "Connections that can still be made, by the fullest table: what ipvs.amemthresh is compared with."
        |s, o| o.add(&[], s.ipvs.free_entries as f64);
    "polder_defence_active" Gauge ["kind"] Service
        "1 while a defence is in force: drop_entry, drop_packet, secure_tcp."
        |s, o| for x in &s.ipvs.settings {
            if let Some(active) = x.active {
                o.add(&[&x.name], f64::from(u8::from(active)));
            }
        };
    "polder_defence_drop_rate" Gauge [] Service
        "Of how many packets that need a server drop_packet drops one now; 0 for none."
        |s, o| o.add(&[], f64::from(s.ipvs.drop_rate));
    "polder_defence_dropped_entries_total" Counter ["kind"] Service
        "Entries that drop_entry ended: connection, template."
        |s, o| {
            o.add(&["connection"], s.ipvs.dropped_connections as f64);
            o.add(&["template"], s.ipvs.dropped_templates as f64);
        };

    "polder_templates" Gauge [] Service
        "Persistence templates now; those that have expired count until the next sweep."
        |s, o| o.add(&[], s.workers.templates as f64);
    "polder_templates_capacity" Gauge [] Service
        "Persistence templates that there can be."
        |s, o| o.add(&[], s.workers.templates_capacity as f64);

    "polder_fragments_received_total" Counter [] Service
        "Fragments of packets for virtual services or of their replies that came to be put together; those that were \
         dropped are in polder_drops_total."
        |s, o| o.sum(s, |w| w.fragments_received);
    "polder_fragments_reassembled_datagrams_total" Counter [] Service
        "Datagrams whose fragments all came."
        |s, o| o.sum(s, |w| w.datagrams_reassembled);
    "polder_fragments_held" Gauge [] Service
        "Fragments that wait now for others of their datagram; polder_packets_held has them too."
        |s, o| o.sum(s, |w| w.fragments_held);

    "polder_worker_up" Gauge ["worker"] Service
        "1 while the worker polls, 0 when it is stuck or has stopped."
        |s, o| o.per_worker(s, |w| f64::from(u8::from(w.state == "running")));
    "polder_worker_busy_ratio" Gauge ["worker"] Service
        "Share of the worker's time that found work over about the last second, 0 to 1."
        |s, o| o.per_worker(s, |w| w.busy_ratio);
    "polder_worker_cycles_total" Counter ["worker", "state"] Service
        "Time-stamp-counter cycles (nanoseconds where there is no counter) of polls: busy found work, idle found none."
        |s, o| for w in &s.workers.workers {
            o.add(&[&w.worker.to_string(), "busy"], w.busy_cycles as f64);
            o.add(&[&w.worker.to_string(), "idle"], w.idle_cycles as f64);
        };
    "polder_worker_packets_received_total" Counter ["worker"] Worker
        "Frames that the worker took from ports and the kernel."
        |s, o| o.per_worker(s, |w| w.received as f64);
    "polder_worker_packets_transmitted_total" Counter ["worker"] Worker
        "Frames that the worker gave to ports."
        |s, o| o.per_worker(s, |w| w.transmitted as f64);
    "polder_worker_packets_punted_total" Counter ["worker"] Worker
        "Frames that the worker gave to the kernel."
        |s, o| o.per_worker(s, |w| w.punted as f64);
    "polder_worker_packets_dropped_total" Counter ["worker"] Worker
        "Frames that the worker dropped, for whatever reason."
        |s, o| o.per_worker(s, |w| w.dropped as f64);
    "polder_worker_packets_handed_out_total" Counter ["worker"] Worker
        "Frames of connections of other workers, handed to those."
        |s, o| o.per_worker(s, |w| w.handed_out as f64);
    "polder_worker_packets_handed_in_total" Counter ["worker"] Worker
        "Frames taken over from other workers."
        |s, o| o.per_worker(s, |w| w.handed_in as f64);

    "polder_sync_role" Gauge [] Service
        "What state sync is to do: 0 nothing, 1 master, 2 backup, 3 both."
        |s, o| o.of_sync(s, |x| match x.role.as_str() {
            "master" => 1,
            "backup" => 2,
            "both" => 3,
            _ => 0,
        });
    "polder_sync_running" Gauge [] Service
        "1 while state sync does what it is to do."
        |s, o| o.of_sync(s, |x| x.running.into());
    "polder_sync_ready" Gauge [] Service
        "1 while this director could take over: it has what its peers have."
        |s, o| o.of_sync(s, |x| x.ready.into());
    "polder_sync_entries" Gauge [] Service
        "Own connections and templates that peers are told of."
        |s, o| o.of_sync(s, |x| x.entries);
    "polder_sync_messages_sent_total" Counter [] Service
        "Sync messages sent."
        |s, o| o.of_sync(s, |x| x.sent.messages);
    "polder_sync_messages_received_total" Counter [] Service
        "Sync messages received and understood."
        |s, o| o.of_sync(s, |x| x.received.messages);
    "polder_sync_messages_rejected_total" Counter ["reason"] Service
        "Sync messages, or records in them, that were not taken, by reason; polder sync status explains the reasons."
        |s, o| for x in s.sync.iter().flat_map(|s| &s.rejected) {
            o.add(&[&x.reason], x.count as f64);
        };
    "polder_sync_messages_discarded_total" Counter [] Service
        "Sync messages not sent because sync_qlen_max of them waited."
        |s, o| o.of_sync(s, |x| x.discarded);
    "polder_sync_records_sent_total" Counter [] Service
        "Records in the messages sent."
        |s, o| o.of_sync(s, |x| x.sent.records);
    "polder_sync_records_received_total" Counter [] Service
        "Records in the messages received."
        |s, o| o.of_sync(s, |x| x.received.records);
    "polder_sync_bytes_sent_total" Counter [] Service
        "Bytes of the messages sent, without those of UDP and IP."
        |s, o| o.of_sync(s, |x| x.sent.bytes);
    "polder_sync_bytes_received_total" Counter [] Service
        "Bytes of the messages received, without those of UDP and IP."
        |s, o| o.of_sync(s, |x| x.received.bytes);
    "polder_sync_queue" Gauge [] Service
        "Sync messages that wait to be sent."
        |s, o| o.of_sync(s, |x| x.queue);
    "polder_sync_queue_capacity" Gauge [] Service
        "Sync messages that may wait."
        |s, o| o.of_sync(s, |x| x.queue_capacity);
    "polder_sync_lag_seconds" Gauge ["peer", "direction"] Service
        "By how much the receiver is behind the sender; direction in: this director receives, out: the peer does."
        |s, o| o.per_peer(s, |p| p.lag_seconds);
    "polder_sync_coverage_ratio" Gauge ["peer", "direction"] Service
        "Share of the sender's entries that the receiver has, by digest, 0 to 1."
        |s, o| o.per_peer(s, |p| p.coverage);
    "polder_sync_peer_entries" Gauge ["peer", "direction"] Service
        "Entries that the receiver has."
        |s, o| o.per_peer(s, |p| Some(p.entries as f64));
    "polder_sync_peer_entries_uninstalled" Gauge ["peer", "direction"] Service
        "Entries that the receiver has and could not put into its tables, for want of their service or of room."
        |s, o| o.per_peer(s, |p| Some(p.uninstalled as f64));
    "polder_sync_last_full_sync_age_seconds" Gauge ["peer", "direction"] Service
        "Time since sender and receiver were last found to have the same."
        |s, o| o.per_peer(s, |p| p.last_full_sync_seconds);

    "polder_port_up" Gauge ["port"] Service
        "1 while the port has a link."
        |s, o| o.per_port(s, |p| u64::from(p.link_up));
    "polder_port_rx_packets_total" Counter ["port"] Service
        "Frames received."
        |s, o| o.per_port(s, |p| p.rx_packets);
    "polder_port_rx_bytes_total" Counter ["port"] Service
        "Bytes received."
        |s, o| o.per_port(s, |p| p.rx_bytes);
    "polder_port_rx_missed_total" Counter ["port"] Service
        "Frames that the device dropped because no worker took them in time."
        |s, o| o.per_port(s, |p| p.rx_missed);
    "polder_port_rx_errors_total" Counter ["port"] Service
        "Frames received with an error."
        |s, o| o.per_port(s, |p| p.rx_errors);
    "polder_port_rx_no_buffer_total" Counter ["port"] Service
        "Frames lost for want of a buffer."
        |s, o| o.per_port(s, |p| p.rx_no_buffer);
    "polder_port_tx_packets_total" Counter ["port"] Service
        "Frames transmitted."
        |s, o| o.per_port(s, |p| p.tx_packets);
    "polder_port_tx_bytes_total" Counter ["port"] Service
        "Bytes transmitted."
        |s, o| o.per_port(s, |p| p.tx_bytes);
    "polder_port_tx_dropped_total" Counter ["port"] Service
        "Frames that the device did not take."
        |s, o| o.per_port(s, |p| p.tx_dropped);
    "polder_port_tx_errors_total" Counter ["port"] Service
        "Frames that failed in the device."
        |s, o| o.per_port(s, |p| p.tx_errors);
};

/// The page of a scrape, in Prometheus' text format 0.0.4.
///
/// # Panics
/// Never: writing to memory does not fail, and families without series are left out.
#[must_use]
pub fn render(status: &Status, detail: Detail) -> String {
    let families: Vec<MetricFamily> = FAMILIES
        .iter()
        .filter(|f| f.detail <= detail)
        .filter_map(|f| collect(f, status))
        .collect();
    TextEncoder::new()
        .encode_to_string(&families)
        .expect("every family that is passed on has a series, and strings take all that is written")
}

fn collect(family: &Family, status: &Status) -> Option<MetricFamily> {
    let mut series = Series {
        family,
        metrics: Vec::new(),
    };
    (family.series)(status, &mut series);
    if series.metrics.is_empty() {
        return None;
    }
    let mut out = MetricFamily::default();
    out.set_name(family.name.to_owned());
    out.set_help(family.help.to_owned());
    out.set_field_type(match family.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
    });
    out.set_metric(series.metrics);
    Some(out)
}

/// The page of the documentation: families and drop reasons, in Markdown.
#[must_use]
pub fn documentation() -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         Generated from the list that the endpoint is made of (`src/mgmt/metrics.rs`); a test keeps it current.\n\n\
         `GET /metrics` on `metrics.listen` is Prometheus' text format. `metrics.detail` says how much there is:\n\
         `service`, no series per real server; `server`, those too; `worker`, also packet counts per worker.\n\
         Counters are sums over workers from one reading. They do not go backwards over a reload; the series of a\n\
         service or server that is removed ends. Labels are configured names (`address:port` for a server without\n\
         one), never a client's address.\n\n\
         `GET /healthz` is 200 while every worker polls, and 503 with the name of the one that does not.\n\
         `GET /readyz` is 200 once every worker polls and has seen the configuration, every port has a link and state\n\
         sync is ready, and 503 with what is missing. `GET /syncz` is about state sync alone ([sync.md](sync.md)).\n\n\
         | family | kind | labels | from detail | meaning |\n|---|---|---|---|---|\n",
    );
    let detail = |d| match d {
        Detail::Service => "service",
        Detail::Server => "server",
        Detail::Worker => "worker",
    };
    for f in FAMILIES {
        let kind = match f.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "| `{}` | {kind} | {} | {} | {} |",
            f.name,
            f.labels.join(", "),
            detail(f.detail),
            f.help
        );
    }
    out.push_str("\n## Drop reasons\n\n| reason | meaning |\n|---|---|\n");
    for r in crate::net::DropReason::ALL {
        let _ = writeln!(out, "| `{}` | {} |", r.name(), r.help());
    }
    out
}

#[derive(Clone)]
struct App {
    manager: Shared,
    detail: Detail,
}

impl App {
    fn manager(&self) -> MutexGuard<'_, Manager> {
        lock(&self.manager)
    }
}

/// The metrics endpoint, listening and not yet answering.
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
}

impl MetricsServer {
    /// Listens at `addr`.
    ///
    /// # Errors
    /// A sentence that says why it can't.
    pub async fn bind(addr: SocketAddr) -> Result<Self, String> {
        match TcpListener::bind(addr).await {
            Ok(listener) => Ok(Self { listener }),
            Err(e) => Err(format!(
                "can't listen on {addr} for metrics: {e}; set `metrics.listen` to another address or port"
            )),
        }
    }

    /// The address, with the port that the system chose if it was 0.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` is done.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn serve(
        self,
        manager: Shared,
        detail: Detail,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        axum::serve(
            Bounded::new(self.listener, CLIENTS_MAX),
            router(manager, detail),
        )
        .with_graceful_shutdown(stop)
        .await
    }
}

/// The endpoint's routes.
pub fn router(manager: Shared, detail: Detail) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/syncz", get(syncz))
        .with_state(App { manager, detail })
}

async fn index() -> Html<&'static str> {
    Html(
        "<!doctype html><title>polder</title><h1>polder</h1><ul>\
         <li><a href=\"/metrics\">/metrics</a></li>\
         <li><a href=\"/healthz\">/healthz</a></li>\
         <li><a href=\"/readyz\">/readyz</a></li>\
         <li><a href=\"/syncz\">/syncz</a></li></ul>\n",
    )
}

async fn metrics(State(app): State<App>) -> Response {
    let status = app.manager().status(Instant::now());
    let page = render(&status, app.detail);
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], page).into_response()
}

async fn healthz(State(app): State<App>) -> (StatusCode, String) {
    verdict(&app.manager().unhealthy(Instant::now()))
}

async fn readyz(State(app): State<App>) -> (StatusCode, String) {
    verdict(&app.manager().unready(Instant::now()))
}

/// Whether state sync lets this director take over, for health checks that ask for nothing else.
async fn syncz(State(app): State<App>) -> (StatusCode, String) {
    verdict(app.manager().sync_unready().as_slice())
}

fn verdict(problems: &[String]) -> (StatusCode, String) {
    if problems.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n")
    }
}
