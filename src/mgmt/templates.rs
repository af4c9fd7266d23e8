//! Lists persistence templates.
//!
//! They belong to no worker, so nobody is asked: the management core reads the table itself, some places at a time,
//! and lets other tasks run in between. Invariant: nothing of a key reaches a listing but what its engine shows of it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::api::{Template, Templates};
use super::names;
use crate::forward::defs::address_of;
use crate::forward::{ServiceDef, ServiceKind, Snapshot};
use crate::net::Tick;
use crate::persist::engine::Shown;
use crate::table::{Origin, ServiceId, TemplateRow};
use crate::worker::Plane;

/// Places of the table that are looked at at a time, at least and at most: about a millisecond when all have templates.
const PLACES: (usize, usize) = (1024, 16 * 1024);

/// A place in the listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// The start.
    pub const START: Self = Self(0);
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let place = s.parse().map(Self);
        place.map_err(|_| format!("`{s}` is not a `next` of an earlier answer"))
    }
}

/// At most `limit` templates from `from` on, of one service or of all.
pub async fn page(
    plane: &Plane,
    service: Option<ServiceId>,
    from: Place,
    limit: usize,
) -> Templates {
    let snapshot = plane.snapshot.load_full();
    let now = plane.now();
    let mut templates = Vec::new();
    let mut cursor = Some(from.0);
    while let Some(at) = cursor {
        // The first that there is no room for is where the next page begins: each place has one template at most.
        let mut over = None;
        let places = (limit - templates.len() + 1).clamp(PLACES.0, PLACES.1);
        let places = u32::try_from(places).unwrap_or(u32::MAX);
        cursor = plane.templates.dump(at, places, now, |row| {
            if service.is_some_and(|s| s != row.key.service) || over.is_some() {
            } else if templates.len() < limit {
                templates.push(listed(&snapshot, &row));
            } else {
                over = Some(row.at.index);
            }
        });
        if let Some(next) = over {
            return Templates {
                templates,
                truncated: true,
                next: Some(Place(next).to_string()),
            };
        }
        tokio::task::yield_now().await;
    }
    Templates {
        templates,
        truncated: false,
        next: None,
    }
}

/// A template as listings have it (specification §4.5, §10.5).
#[must_use]
pub fn listed(snapshot: &Snapshot, row: &TemplateRow) -> Template {
    let service = snapshot.service(row.key.service);
    let dest = snapshot.dest(row.dest);
    let (engine, data) = shown(service.map(|s| &s.def), row.data.as_deref());
    let (virtual_, port) = virtual_of(service.map(|s| &s.def), row);
    let destination = dest.map_or_else(
        || "-".to_owned(),
        // Where packets keep their port the server's says nothing (specification §3.2).
        |d| names::endpoint(d.addr, if port == 0 { 0 } else { d.port }),
    );
    let client = address_of(row.key.af, &row.key.client);
    Template {
        protocol: names::protocol(row.key.proto),
        state: if row.assured { "ASSURED" } else { "NONE" }.to_owned(),
        expires_s: f64::from(row.remaining) / f64::from(Tick::PER_SECOND),
        client: names::endpoint(client, 0),
        virtual_: names::endpoint(virtual_, port),
        mark: service.and_then(|s| match s.def.kind {
            ServiceKind::Mark { mark, .. } => Some(mark),
            ServiceKind::Address { .. } => None,
        }),
        destination,
        service: service.map(|s| s.def.name.clone()),
        server: dest.map(|d| d.name.clone()),
        engine,
        data,
        controlled: row.controlled,
        assured: row.assured,
        origin: match row.origin {
            Origin::Local => "local",
            Origin::Synced => "sync",
        }
        .to_owned(),
    }
}

/// The virtual end. Templates of payload keys are for all of their service's addresses: the service's own stands for it.
fn virtual_of(service: Option<&ServiceDef>, row: &TemplateRow) -> (IpAddr, u16) {
    match service {
        Some(ServiceDef {
            kind: ServiceKind::Address { addr, port, .. },
            payload_key: Some(_),
            ..
        }) => (*addr, *port),
        _ => (address_of(row.key.af, &row.key.vaddr), row.key.vport),
    }
}

/// What found the key, and how it shows it. A template may be older than the service's present engine: a key that
/// none is known for is shown as text.
fn shown(service: Option<&ServiceDef>, data: Option<&[u8]>) -> (Option<String>, Option<String>) {
    let Some(data) = data else {
        return (None, None);
    };
    let engine = service.and_then(|s| s.persistence.as_ref()?.engine.as_ref());
    let (name, shown) = match engine {
        Some(engine) => (Some(engine.name()), engine.show(data)),
        None if service.is_some_and(|s| s.payload_key.is_some()) => {
            (Some("payload_key"), Shown::Hex(data))
        }
        None => (None, Shown::Text(data)),
    };
    (name.map(str::to_owned), Some(shown.to_string()))
}
