//! Telling peers of the `ipvs` format: which packets of clients offer an entry to them, and what is told then.
//!
//! Owns what peers were told of every entry, and the bounded rings to the management core, which makes messages of what
//! is in them. Exists only while a master of that format runs; without one a packet costs a branch. Knows no message.
//! Invariant: what did not get into the ring counts as not told.
//!
//! Cost while it runs: a word beside the connection's entry, and a copy of the entry when it is told of.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::net::{Af, Tick, V4, V6};
use crate::sync::ipvs::Version;
use crate::sync::master::{self, Event, Policy, Told};
use crate::table::{Conn, ConnIdx, NONE, TableError, TemplateRef, Templates, fits};

/// Entries that may wait for the management core in one worker's ring.
pub const RING: usize = 16 * 1024;

/// An entry that peers are to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// A connection as it was.
    V4(Conn<V4>),
    /// A connection as it was.
    V6(Conn<V6>),
    /// A template; what it is is read when it is told of.
    Template(TemplateRef),
}

/// One worker's part.
#[derive(Debug)]
pub struct WorkerTell {
    /// What is to be told; the management core takes it.
    pub ring: ArrayQueue<Offer>,
    /// What found no room.
    pub lost: AtomicU64,
    v4: Box<[AtomicU64]>,
    v6: Box<[AtomicU64]>,
}

/// What a master of the `ipvs` format tells.
#[derive(Debug)]
pub struct Tell {
    /// How often.
    pub policy: Policy,
    /// The version of the messages: it decides on what is told, too.
    pub version: Version,
    /// One for each worker, and the management core's.
    workers: Box<[WorkerTell]>,
    templates: Box<[TemplateTold]>,
}

/// What peers were told of a template. Workers may use it at once: which of two tells is of no matter.
#[derive(Debug, Default)]
struct TemplateTold {
    told: AtomicU64,
    /// The life that it belongs to.
    life: AtomicU32,
    /// How often it was offered.
    offered: AtomicU32,
}

impl Tell {
    /// Whether the host has the memory for [`Self::new`], to be asked first: what it takes is used from the start.
    ///
    /// # Errors
    /// It has not.
    pub fn check_room(
        workers: usize,
        (v4, v6): (usize, usize),
        templates: usize,
    ) -> Result<(), TableError> {
        let words = v4.saturating_add(v6).saturating_mul(size_of::<AtomicU64>());
        // A place of a ring has a number beside what is in it.
        let ring = RING * (size_of::<Offer>() + size_of::<usize>());
        let templates = templates.saturating_mul(size_of::<TemplateTold>());
        let parts = workers.saturating_mul(words.saturating_add(ring));
        fits(parts.saturating_add(ring).saturating_add(templates))
    }

    /// For workers with tables of so many entries, IPv4 and IPv6, and so many templates. Allocates all memory.
    #[must_use]
    pub fn new(
        policy: Policy,
        version: Version,
        workers: usize,
        (v4, v6): (usize, usize),
        templates: usize,
    ) -> Self {
        fn zeroes<T: Default>(n: usize) -> Box<[T]> {
            (0..n).map(|_| T::default()).collect()
        }
        let part = |v4, v6| WorkerTell {
            ring: ArrayQueue::new(RING),
            lost: AtomicU64::new(0),
            v4: zeroes(v4),
            v6: zeroes(v6),
        };
        let parts = (0..workers).map(|_| part(v4, v6));
        Self {
            policy,
            version,
            workers: parts.chain([part(0, 0)]).collect(),
            templates: zeroes(templates),
        }
    }

    /// Everybody's parts: each has a ring to be emptied.
    #[must_use]
    pub fn parts(&self) -> &[WorkerTell] {
        &self.workers
    }

    /// One worker's part.
    #[must_use]
    pub fn worker(&self, worker: usize) -> Option<&WorkerTell> {
        self.workers.get(worker)
    }

    /// Notes that an entry has come to a place, of which peers know nothing, or, if a peer told of it, its state.
    pub(super) fn begin<F: Told4Or6>(&self, worker: usize, index: ConnIdx, told: Told) {
        if let Some(word) = self.worker(worker).and_then(|w| F::word(w, index)) {
            word.store(told.to_bits(), Ordering::Relaxed);
        }
    }

    /// Offers a connection after a client's packet, and the template that controls it.
    pub(super) fn packet<F: Told4Or6>(
        &self,
        worker: usize,
        index: ConnIdx,
        conn: &Conn<F>,
        templates: &Templates,
        now: Tick,
    ) {
        let in_pkts = conn.in_pkts;
        if conn.template == NONE
            && !master::may_tell(&self.policy, conn.proto(), conn.state, in_pkts)
        {
            // The word beside the entry, which is in no cache, is not looked at.
            return;
        }
        if F::AF == Af::V6 && self.version == Version::V0 {
            // Its records have no room for such addresses (specification §9.2).
            return;
        }
        let Some(own) = self.worker(worker) else {
            return;
        };
        let Some(word) = F::word(own, index) else {
            return;
        };
        let offered = master::Conn {
            proto: conn.proto(),
            state: conn.state,
            timeout: conn.timeout(),
            told: Told::from_bits(word.load(Ordering::Relaxed)),
        };
        let event = Event::Packet { in_pkts };
        let at = (conn.template != NONE).then(|| templates.get(conn.template));
        let template = at.and_then(|at| self.template(at, templates));
        let tell = master::offer(
            &self.policy,
            self.version,
            event,
            Some(&offered),
            template.as_ref(),
            now,
        );
        if let Some(told) = tell.conn
            && own.push(F::offer(conn))
        {
            word.store(told.to_bits(), Ordering::Relaxed);
        }
        if let (Some(told), Some(at)) = (tell.template, at) {
            self.tell_template(own, at, told);
        }
    }

    /// Offers the template of a datagram that leaves no connection behind.
    pub(super) fn one_packet(
        &self,
        worker: usize,
        at: TemplateRef,
        templates: &Templates,
        now: Tick,
    ) {
        let template = self.template(at, templates);
        let (Some(own), Some(template)) = (self.worker(worker), template) else {
            return;
        };
        let event = Event::OnePacket;
        let (policy, version) = (&self.policy, self.version);
        let tell = master::offer(policy, version, event, None, Some(&template), now);
        if let Some(told) = tell.template {
            self.tell_template(own, at, told);
        }
    }

    /// Offers a template whose timer fired and was set again, since connections need it. The management core's part.
    pub fn kept(&self, at: TemplateRef, templates: &Templates, now: Tick) {
        let template = self.template(at, templates);
        let (Some(own), Some(template)) = (self.workers.last(), template) else {
            return;
        };
        let (policy, version) = (&self.policy, self.version);
        let tell = master::offer(policy, version, Event::Rearmed, None, Some(&template), now);
        if let Some(told) = tell.template {
            self.tell_template(own, at, told);
        }
    }

    /// A template as the decision sees it, offered once more.
    fn template(&self, at: TemplateRef, templates: &Templates) -> Option<master::Template> {
        let told = self.templates.get(at.index as usize)?;
        let (timeout, assured) = templates.told_of(at)?;
        if told.life.swap(at.version, Ordering::Relaxed) != at.version {
            told.told.store(0, Ordering::Relaxed);
            told.offered.store(0, Ordering::Relaxed);
        }
        Some(master::Template {
            in_pkts: told.offered.fetch_add(1, Ordering::Relaxed).wrapping_add(1),
            state: u8::from(assured),
            timeout,
            complete: true,
            told: Told::from_bits(told.told.load(Ordering::Relaxed)),
        })
    }

    fn tell_template(&self, own: &WorkerTell, at: TemplateRef, told: Told) {
        if own.push(Offer::Template(at))
            && let Some(word) = self.templates.get(at.index as usize)
        {
            word.told.store(told.to_bits(), Ordering::Relaxed);
        }
    }
}

impl WorkerTell {
    fn push(&self, offer: Offer) -> bool {
        let pushed = self.ring.push(offer).is_ok();
        if !pushed {
            // Whose part it is, is the only writer.
            let lost = self.lost.load(Ordering::Relaxed);
            self.lost.store(lost.wrapping_add(1), Ordering::Relaxed);
        }
        pushed
    }
}

/// A family in [`Tell`].
pub trait Told4Or6: crate::net::Family {
    /// What peers were told of the entry at `index`.
    fn word(worker: &WorkerTell, index: ConnIdx) -> Option<&AtomicU64>;
    /// A connection as an offer.
    fn offer(conn: &Conn<Self>) -> Offer;
}

impl Told4Or6 for V4 {
    fn word(worker: &WorkerTell, index: ConnIdx) -> Option<&AtomicU64> {
        worker.v4.get(index.0 as usize)
    }
    fn offer(conn: &Conn<Self>) -> Offer {
        Offer::V4(*conn)
    }
}

impl Told4Or6 for V6 {
    fn word(worker: &WorkerTell, index: ConnIdx) -> Option<&AtomicU64> {
        worker.v6.get(index.0 as usize)
    }
    fn offer(conn: &Conn<Self>) -> Offer {
        Offer::V6(*conn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_the_host_has_no_memory_for_are_refused_before_they_are_made() {
        assert!(Tell::check_room(4, (1024, 1024), 1024).is_ok());
        for (places, templates) in [((1 << 40, 0), 0), ((0, 1 << 40), 0), ((0, 0), 1 << 40)] {
            let refused = Tell::check_room(2, places, templates).expect_err("too much");
            assert!(refused.to_string().contains("available"), "{refused}");
        }
        assert!(Tell::check_room(usize::MAX, (usize::MAX, 1), usize::MAX).is_err());
    }
}
