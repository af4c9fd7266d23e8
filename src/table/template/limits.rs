//! How many templates there are, per service and per client.
//!
//! Knows nothing of entries. A place is reserved before a template is made, in one step with the
//! check, so that no number of threads goes beyond a limit.
//!
//! Services have a counter each. Clients share as many counters as the table has entries, by a keyed
//! hash of service and address: two that share one are limited together, so a client may be refused
//! early, never late. With n busy clients in a table of m entries a given client shares a counter
//! with one of them with probability n/m, and nobody can aim at it.

use super::super::dest::ServiceId;
use super::super::memory::TableError;
use super::data::slab;
use super::key::hash_client;
use super::word::{Word, low, update};
use super::{InsertRefused, NewTemplate};
use crate::net::HashKey;

/// The counters that a template is counted in.
#[derive(Clone, Copy, Debug)]
pub struct Reservation {
    pub service: ServiceId,
    /// Number of the client's counter.
    pub client: u32,
}

/// The counters.
#[derive(Debug)]
pub struct Limits<W> {
    services: Box<[W]>,
    clients: Box<[W]>,
    all: W,
}

impl<W: Word> Limits<W> {
    /// # Errors
    /// When there is no memory.
    pub fn new(services: usize, clients: usize) -> Result<Self, TableError> {
        Ok(Self {
            services: slab(services)?,
            clients: slab(clients)?,
            all: W::default(),
        })
    }

    /// The counter of a client.
    #[allow(clippy::cast_possible_truncation)]
    pub fn client_of(&self, service: ServiceId, source: [u8; 16], secret: &HashKey) -> u32 {
        let hash = hash_client(service, source, secret);
        (((hash >> 32) * self.clients.len() as u64) >> 32) as u32
    }

    /// Counts a template, unless that would exceed a limit.
    pub fn reserve(
        &self,
        service: ServiceId,
        client: u32,
        new: &NewTemplate,
    ) -> Result<Reservation, InsertRefused> {
        let of_service = self
            .services
            .get(service.0 as usize)
            .ok_or(InsertRefused::ServiceLimit)?;
        if !one_more(of_service, new.service_limit) {
            return Err(InsertRefused::ServiceLimit);
        }
        if !one_more(&self.clients[client as usize], new.client_limit) {
            one_less(of_service);
            return Err(InsertRefused::ClientLimit);
        }
        one_more(&self.all, 0);
        Ok(Reservation { service, client })
    }

    /// Counts the end of a template.
    pub fn give_back(&self, reserved: Reservation) {
        let of_service = self.services.get(reserved.service.0 as usize);
        let of_client = self.clients.get(reserved.client as usize);
        [of_service, of_client, Some(&self.all)]
            .into_iter()
            .flatten()
            .for_each(one_less);
    }

    /// Templates of a service.
    pub fn in_service(&self, service: ServiceId) -> u32 {
        self.services
            .get(service.0 as usize)
            .map_or(0, |count| low(count.load()))
    }

    /// All templates.
    pub fn len(&self) -> usize {
        low(self.all.load()) as usize
    }

    /// What the counters of clients add up to.
    #[cfg(test)]
    pub fn of_clients(&self) -> u64 {
        self.clients.iter().map(Word::load).sum()
    }
}

/// Adds one unless the count is at `limit` (0: none).
fn one_more<W: Word>(count: &W, limit: u32) -> bool {
    update(count, |n| {
        (limit == 0 || n < u64::from(limit)).then_some(n + 1)
    })
    .is_some()
}

fn one_less<W: Word>(count: &W) {
    let before = update(count, |n| n.checked_sub(1));
    debug_assert!(before.is_some(), "a template ended that was never counted");
}
