//! What the tests of the schedulers share: lists of servers, a service that is rebuilt, and generated loads.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::prelude::*;

use super::{Build, SchedError, SchedState, Scheduler, Selection, build};
use crate::net::tunnel::Tunnel;
use crate::table::{AdminState, Dest, DestId, DestShared, Method, ServiceId, Thresholds};

/// An upper threshold that no test reaches but by [`overload`].
const FAR: u32 = 1_000_000;

/// A server with its id in its address.
pub(super) fn server(id: u32, weight: u32) -> Dest {
    Dest {
        id: DestId(id),
        service: ServiceId(0),
        name: format!("server {id}"),
        addr: IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + id)),
        port: 80,
        method: Method::Masq,
        tunnel: Tunnel::default(),
        weight,
        last_weight: weight,
        upper_threshold: FAR,
        lower_threshold: 0,
        admin: AdminState::Ready,
        up: true,
        one_packet: false,
        keyed: false,
        by_session: false,
        available: true,
        shared: Arc::new(DestShared::default()),
    }
}

/// Servers in list order with ids 0, 1, …
pub(super) fn list(weights: &[u32]) -> Vec<Arc<Dest>> {
    (0..)
        .zip(weights)
        .map(|(id, &weight)| Arc::new(server(id, weight)))
        .collect()
}

/// The same server with another weight.
pub(super) fn reweighted(dest: &Dest, weight: u32) -> Arc<Dest> {
    let last_weight = if weight == 0 {
        dest.last_weight
    } else {
        weight
    };
    let shared = Arc::clone(&dest.shared);
    Arc::new(Dest {
        weight,
        last_weight,
        shared,
        ..server(dest.id.0, weight)
    })
}

/// Gives a server connections.
pub(super) fn carry(dest: &Dest, active: u32, inactive: u32) {
    for n in 0..active + inactive {
        dest.bind_unchecked();
        if n < active {
            dest.shared.activate();
        }
    }
}

/// Sets or clears the overload flag of a server that has a connection.
pub(super) fn overload(dest: &Dest, overloaded: bool) {
    let upper = if overloaded { 1 } else { FAR };
    dest.shared.reconsider(Thresholds {
        upper,
        lower: upper,
    });
    assert_eq!(
        dest.shared.overloaded(),
        overloaded,
        "only a server in use can be overloaded"
    );
}

/// A service whose scheduler is rebuilt as the management core would.
pub(super) struct Service {
    name: &'static str,
    flags: Vec<String>,
    state: Arc<SchedState>,
    pub(super) dests: Vec<Arc<Dest>>,
    pub(super) scheduler: Box<dyn Scheduler>,
}

impl Service {
    pub(super) fn new(name: &'static str, flags: &[&str], dests: Vec<Arc<Dest>>) -> Self {
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let state = Arc::default();
        let scheduler = make(name, &flags, &state, &[], &dests).expect("known to be right");
        Self {
            name,
            flags,
            state,
            dests,
            scheduler,
        }
    }

    pub(super) fn rebuild(&mut self, dests: Vec<Arc<Dest>>) {
        *self = self.successor(dests);
    }

    /// The service after a rebuild, beside the one before it.
    pub(super) fn successor(&self, dests: Vec<Arc<Dest>>) -> Self {
        let scheduler = make(self.name, &self.flags, &self.state, &self.dests, &dests)
            .expect("known to be right");
        let (flags, state) = (self.flags.clone(), Arc::clone(&self.state));
        Self {
            name: self.name,
            flags,
            state,
            dests,
            scheduler,
        }
    }

    pub(super) fn select(&self, selection: &Selection<'_>) -> Option<usize> {
        self.scheduler.select(&self.dests, selection)
    }

    /// The next choice where no part of the packet matters.
    pub(super) fn next(&self) -> Option<usize> {
        self.select(&Selection::default())
    }

    /// The next `n` choices: the first server of the list is A, none is a dash.
    pub(super) fn sequence(&self, n: usize) -> String {
        let letter = |choice| match choice {
            Some(index) => char::from(b'A' + u8::try_from(index).expect("few servers")),
            None => '-',
        };
        (0..n).map(|_| letter(self.next())).collect()
    }
}

fn make(
    name: &str,
    flags: &[String],
    state: &Arc<SchedState>,
    previous: &[Arc<Dest>],
    dests: &[Arc<Dest>],
) -> Result<Box<dyn Scheduler>, SchedError> {
    build(
        name,
        &Build {
            dests,
            previous,
            state,
            flags,
            seed: 0x5eed,
        },
    )
}

/// Lists of servers of all weights and loads, some overloaded.
pub(super) fn loaded_servers() -> impl Strategy<Value = Vec<Arc<Dest>>> {
    let one = (0..5u32, 0..6u32, 0..6u32, prop::bool::weighted(0.2));
    prop::collection::vec(one, 0..9).prop_map(|servers| {
        let weights: Vec<u32> = servers.iter().map(|s| s.0).collect();
        let dests = list(&weights);
        for (dest, (_, active, inactive, overloaded)) in dests.iter().zip(servers) {
            carry(dest, active, inactive);
            if overloaded && active + inactive > 0 {
                overload(dest, true);
            }
        }
        dests
    })
}

/// The eligible servers as the specification lists them: index, weight, active, total.
pub(super) fn eligible(dests: &[Arc<Dest>]) -> Vec<(usize, u64, u64, u64)> {
    let all = dests
        .iter()
        .enumerate()
        .filter(|(_, d)| d.weight > 0 && !d.shared.overloaded());
    all.map(|(i, d)| {
        (
            i,
            u64::from(d.weight),
            u64::from(d.shared.active()),
            u64::from(d.shared.total()),
        )
    })
    .collect()
}
