//! The listing of connections and templates at the end of a replay, as `ipvsadm -Lcn --persistent-conn` has it
//! (specification §4.5, §10.5).
//!
//! Connections come first, by worker and place, then templates by place. Nothing that a packet carried reaches the file
//! but through the persistence engine's own notation.

use std::net::IpAddr;

use crate::cli::table;
use crate::forward::Snapshot;
use crate::forward::defs::{ServiceKind, address_of};
use crate::forward::snapshot::Service;
use crate::mgmt::{api, names};
use crate::net::Tick;
use crate::persist::engine::Shown;
use crate::table::TemplateRow;
use crate::worker::ConnRow;

/// IPVS's template flag (specification §2.1).
const TEMPLATE: u16 = 0x1000;
/// The engine column of sessions that a `payload_key` names.
const PAYLOAD_KEY: &str = "payload";

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
        text.push_str(&template(snapshot, row));
    }
    text
}

/// A row as the control socket would give it, so that both are printed by the same code.
fn connection(row: &ConnRow) -> api::Connection {
    line(
        row.proto,
        names::state(row.proto, row.state, row.flags),
        row.expires,
        [row.client, row.virtual_, row.dest],
        row.in_pkts,
    )
}

fn line(
    proto: u8,
    state: &str,
    expires: u32,
    [client, virtual_, dest]: [(IpAddr, u16); 3],
    packets_in: u32,
) -> api::Connection {
    let endpoint = |(addr, port)| names::endpoint(addr, port);
    api::Connection {
        protocol: names::protocol(proto),
        state: state.to_owned(),
        expires_s: f64::from(expires) / f64::from(Tick::PER_SECOND),
        client: endpoint(client),
        virtual_: endpoint(virtual_),
        destination: endpoint(dest),
        service: None,
        server: None,
        worker: 0,
        packets_in,
    }
}

/// A template's line; with its engine's name and data where it has data.
fn template(snapshot: &Snapshot, row: &TemplateRow) -> String {
    let service = snapshot.service(row.key.service);
    let dest = snapshot.dest(row.dest);
    let virtual_ = virtual_of(service.map(|s| &**s), row);
    // The port of a service of any port, or of a mark, is each packet's own (specification §3.2).
    let dest = dest.map_or_else(
        || (address_of(row.key.af, &[0; 16]), 0),
        |d| (d.addr, if virtual_.1 == 0 { 0 } else { d.port }),
    );
    let client = (address_of(row.key.af, &row.key.client), 0);
    let state = names::state(row.key.proto, u8::from(row.assured), TEMPLATE);
    let line = line(
        row.key.proto,
        state,
        row.remaining,
        [client, virtual_, dest],
        0,
    );
    match &row.data {
        None => table::connection(&line),
        Some(data) => {
            let engine = service
                .and_then(|s| s.def.persistence.as_ref())
                .and_then(|p| p.engine);
            let (name, shown) = match &engine {
                Some(engine) => (engine.name(), engine.show(data)),
                None => (PAYLOAD_KEY, Shown::Hex(data)),
            };
            table::session(&line, name, &shown.to_string())
        }
    }
}

/// The virtual address and port of a template. That of a session which a `payload_key` names is the service's: the
/// session is kept whichever of its addresses is asked.
fn virtual_of(service: Option<&Service>, row: &TemplateRow) -> (IpAddr, u16) {
    match service.map(|s| (&s.def, s.def.kind)) {
        Some((def, ServiceKind::Address { addr, port, .. }))
            if def.persistence.is_none() && def.payload_key.is_some() =>
        {
            (addr, port)
        }
        _ => (address_of(row.key.af, &row.key.vaddr), row.key.vport),
    }
}
