//! Sums of counters over workers, and the baselines that make a reused slot start at zero.
//!
//! A slot's counters are never reset, since the workers are their only writers. When a slot is given to another object
//! the sum at that moment becomes its baseline. Invariant: for one object, sum minus baseline never goes down. What
//! listings begin to count from, and rates, are kept beside it.

use std::sync::Arc;
use std::time::Duration;

use super::api::Counts;
use super::rates::Rates;
use crate::forward::{ServiceKind, Services};
use crate::table::{
    Counter, DestCounters, DestId, DestShared, ServiceCounters, ServiceId, WorkerCounters,
};
use crate::worker::WorkerShared;

macro_rules! totals {
    ($(#[$doc:meta])* $name:ident of $counters:ident { $($field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: u64,)* }

        impl $name {
            fn sum<'a>(of: impl Iterator<Item = &'a $counters>) -> Self {
                of.fold(Self::default(), |sum, c| Self {
                    $($field: sum.$field.wrapping_add(Counter::get(&c.$field)),)*
                })
            }

            fn since(self, base: Self) -> Self {
                Self { $($field: self.$field.saturating_sub(base.$field),)* }
            }
        }
    };
}

totals! {
    /// What all workers counted for one service; fields as in [`ServiceCounters`].
    ServiceTotals of ServiceCounters {
        packets_in, bytes_in, packets_out, bytes_out, connections, rejected_no_server, rejected_table_full,
        rejected_template_table_full, rejected_no_key, template_hits, template_misses, no_key_short, no_key_missing, no_key_long,
        rehomed, rehome_lost, sessions_untracked, rejected_overload, unremembered,
    }
}

totals! {
    /// What all workers counted for one real server; fields as in [`DestCounters`].
    DestTotals of DestCounters {
        packets_in, bytes_in, packets_out, bytes_out, connections,
    }
}

impl From<ServiceTotals> for Counts {
    fn from(t: ServiceTotals) -> Self {
        Self {
            connections: t.connections,
            packets_in: t.packets_in,
            packets_out: t.packets_out,
            bytes_in: t.bytes_in,
            bytes_out: t.bytes_out,
        }
    }
}

impl From<DestTotals> for Counts {
    fn from(t: DestTotals) -> Self {
        Self {
            connections: t.connections,
            packets_in: t.packets_in,
            packets_out: t.packets_out,
            bytes_in: t.bytes_in,
            bytes_out: t.bytes_out,
        }
    }
}

/// What is remembered of the counters of a slot's owner.
#[derive(Clone, Copy, Debug, Default)]
struct Since<T> {
    /// Where they stood when it got the slot.
    base: T,
    /// What was counted for it when listings were told to begin again.
    zero: Counts,
    rates: Rates,
}

impl<T> Since<T> {
    fn of(base: T) -> Self {
        Self {
            base,
            zero: Counts::default(),
            rates: Rates::default(),
        }
    }
}

/// Who has each slot, and where its counters stood when it got it.
#[derive(Debug, Default)]
pub struct Baselines {
    services: Vec<Option<(ServiceKind, Since<ServiceTotals>)>>,
    /// The shared counts identify the server: they are made anew with each use of a slot. Held, so that the address
    /// is not given to another.
    dests: Vec<Option<(Arc<DestShared>, Since<DestTotals>)>>,
}

impl Baselines {
    /// Takes note of slots that `services` gives to others than had them. To be called before `services` is
    /// published, when nobody counts for the new owners yet.
    pub fn update(&mut self, services: &Services, workers: &[Arc<WorkerShared>]) {
        self.services
            .resize(self.services.len().max(services.slots.len()), None);
        for s in services.slots.iter().flatten() {
            let slot = &mut self.services[s.id.0 as usize];
            if slot.is_none_or(|(kind, _)| kind != s.def.kind) {
                *slot = Some((s.def.kind, Since::of(sum_service(workers, s.id))));
            }
        }
        self.dests
            .resize_with(self.dests.len().max(services.dests.len()), || None);
        for d in services.dests.iter().flatten() {
            let slot = &mut self.dests[d.id.0 as usize];
            let same = slot
                .as_ref()
                .is_some_and(|(shared, _)| Arc::ptr_eq(shared, &d.shared));
            if !same {
                let base = Since::of(sum_dest(workers, d.id));
                *slot = Some((Arc::clone(&d.shared), base));
            }
        }
    }

    /// What was counted for the service that has the slot.
    #[must_use]
    pub fn service(&self, workers: &[Arc<WorkerShared>], id: ServiceId) -> ServiceTotals {
        let since = self.services.get(id.0 as usize).copied().flatten();
        sum_service(workers, id).since(since.map(|(_, s)| s.base).unwrap_or_default())
    }

    /// What was counted for the real server that has the slot.
    #[must_use]
    pub fn dest(&self, workers: &[Arc<WorkerShared>], id: DestId) -> DestTotals {
        let since = self.dests.get(id.0 as usize).and_then(Option::as_ref);
        sum_dest(workers, id).since(since.map(|(_, s)| s.base).unwrap_or_default())
    }

    /// What listings begin to count a service from, and its rates.
    #[must_use]
    pub fn service_listing(&self, id: ServiceId) -> (Counts, Counts) {
        let since = self.services.get(id.0 as usize).copied().flatten();
        since.map_or_else(Default::default, |(_, s)| (s.zero, s.rates.per_second()))
    }

    /// What listings begin to count a real server from, and its rates.
    #[must_use]
    pub fn dest_listing(&self, id: DestId) -> (Counts, Counts) {
        let since = self.dests.get(id.0 as usize).and_then(Option::as_ref);
        since.map_or_else(Default::default, |(_, s)| (s.zero, s.rates.per_second()))
    }

    /// Lets listings of services and their real servers begin again, those of removed servers as well, which may come
    /// back (specification §10.7). Looks at each server once, however many services there are.
    pub fn zero(&mut self, services: &Services, ids: &[ServiceId], workers: &[Arc<WorkerShared>]) {
        let mut meant = vec![false; self.services.len()];
        for id in ids {
            let counts = self.service(workers, *id).into();
            if let Some(Some((_, since))) = self.services.get_mut(id.0 as usize) {
                since.zero = counts;
                since.rates = Rates::begun(counts);
                meant[id.0 as usize] = true;
            }
        }
        for dest in services.dests.iter().flatten() {
            if !meant.get(dest.service.0 as usize).is_some_and(|it| *it) {
                continue;
            }
            let counts = self.dest(workers, dest.id).into();
            if let Some(Some((_, since))) = self.dests.get_mut(dest.id.0 as usize) {
                since.zero = counts;
                since.rates = Rates::begun(counts);
            }
        }
    }

    /// Takes a sample of all rates, `elapsed` after the last one. Removed servers, which have traffic as long as they
    /// have connections, are sampled too: one that comes back must not tell all of it as that of one moment.
    pub fn sample(
        &mut self,
        services: &Services,
        workers: &[Arc<WorkerShared>],
        elapsed: Duration,
    ) {
        for service in services.slots.iter().flatten() {
            let counts = self.service(workers, service.id).into();
            if let Some(Some((_, since))) = self.services.get_mut(service.id.0 as usize) {
                since.rates.sample(counts, elapsed);
            }
        }
        for dest in services.dests.iter().flatten() {
            let counts = self.dest(workers, dest.id).into();
            if let Some(Some((_, since))) = self.dests.get_mut(dest.id.0 as usize) {
                since.rates.sample(counts, elapsed);
            }
        }
    }
}

fn counters(workers: &[Arc<WorkerShared>]) -> impl Iterator<Item = &WorkerCounters> {
    workers.iter().map(|w| &w.counters)
}

fn sum_service(workers: &[Arc<WorkerShared>], id: ServiceId) -> ServiceTotals {
    ServiceTotals::sum(counters(workers).filter_map(|c| c.services.get(id.0 as usize)))
}

fn sum_dest(workers: &[Arc<WorkerShared>], id: DestId) -> DestTotals {
    DestTotals::sum(counters(workers).filter_map(|c| c.dests.get(id.0 as usize)))
}
