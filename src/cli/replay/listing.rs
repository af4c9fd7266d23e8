//! The listing of connections and templates at the end of a replay, as `ipvsadm -Lcn --persistent-conn` has it
//! (specification §4.5, §10.5).
//!
//! Connections come first, by worker and place, then templates by place. Nothing that a packet carried reaches the file
//! but through the persistence engine's own notation.

use crate::cli::table;
use crate::forward::Snapshot;
use crate::mgmt::{api, names, templates};
use crate::net::Tick;
use crate::table::TemplateRow;
use crate::worker::ConnRow;

/// The whole listing.
pub(super) fn text(
    snapshot: &Snapshot,
    connections: &[ConnRow],
    templates: &[TemplateRow],
) -> String {
    let mut text = table::connections_header(true);
    for row in connections {
        text.push_str(&table::connection(&connection(row)));
    }
    for row in templates {
        text.push_str(&table::template(&templates::listed(snapshot, row)));
    }
    text
}

/// A row as the control socket would give it, so that both are printed by the same code.
fn connection(row: &ConnRow) -> api::Connection {
    let endpoint = |(addr, port)| names::endpoint(addr, port);
    api::Connection {
        protocol: names::protocol(row.proto),
        state: names::state(row.proto, row.state, row.flags).to_owned(),
        expires_s: f64::from(row.expires) / f64::from(Tick::PER_SECOND),
        client: endpoint(row.client),
        virtual_: endpoint(row.virtual_),
        destination: endpoint(row.dest),
        service: None,
        server: None,
        worker: 0,
        packets_in: row.in_pkts,
    }
}
