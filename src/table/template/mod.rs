//! Persistence templates, shared by all workers.
//!
//! Owns which client or session belongs to which real server (specification §2.7, §3, §4). Knows
//! nothing of packets, clocks, engines, or of the counts of real servers: callers pass keys and
//! `now`, and count what [`Placed`], [`Repoint`] and [`Ended`] tell them. Fixed capacity, all memory
//! at start; no call but the sweeper's and the listing's allocates, none locks a worker out.
//!
//! A bucket holds the head of a chain of entries. Three rules make it right without locks:
//! * *Only heads grow, and only by compare-and-swap from the very head that was searched.* So a key
//!   is inserted iff it is nowhere in the chain.
//! * *Only the sweeper unlinks.* Everybody else ends a template by its control word and leaves it.
//! * *Every link names the life of the entry that it means*, and an entry's life number changes
//!   before its place is used again. So a reader that was overtaken notices, and starts again.
//!
//! Invariants: no key has two live templates; each [`Placed::New`] is followed by exactly one
//! [`Ended`] with the server that the template had last; a place that connections hold is not used
//! again.
//!
//! Cost: a look-up without data reads three lines (bucket, control word, entry), two of them at
//! once; with data, one or two adjacent lines more.

mod control;
mod data;
mod entry;
mod key;
mod limits;
mod sweep;
#[cfg(test)]
mod tests;
mod word;

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

pub use entry::Origin;
pub use key::{DATA_MAX, TemplateKey};
pub use sweep::{Ended, TemplateRow};
pub use word::Word;

use control::{CONTROLLED_MAX, Control, State, TIMEOUT_MAX};
use data::{Pool, slab};
use entry::{Bound, Entry, INLINE, Link, Terms};
use key::Probe;
use limits::{Limits, Reservation};
use word::{FreeStack, update};

use super::dest::DestId;
use super::memory::TableError;
use super::prefetch::prefetch;
use crate::net::{HashKey, Tick};

/// A link's index is stored plus 1, in 32 bits.
const MAX_CAPACITY: usize = 1 << 31;
/// The number of no life: they have 31 bits.
const NO_LIFE: u32 = u32::MAX;
/// Chunks that there are at least: enough for three templates with the longest data.
const CHUNKS_MIN: usize = 4096;
/// One chunk per so many entries: data beyond an entry's own bytes are rare.
const ENTRIES_PER_CHUNK: usize = 4;

/// A template, in one life of its place. Operations on one that has ended do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TemplateRef {
    /// The place.
    pub index: u32,
    /// The number of the life.
    pub version: u32,
}

/// What a new template is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewTemplate {
    /// Its server.
    pub dest: DestId,
    /// Ticks from its last use to its end; clamped to 2³¹ − 1.
    pub timeout: u32,
    /// Who made it.
    pub origin: Origin,
    /// The client's address before masking: who is counted for `client_limit`.
    pub source: [u8; 16],
    /// The most templates that the service may have, this one included; 0 for no limit.
    pub service_limit: u32,
    /// The most templates of the service that the client may cause, this one included; 0 for no
    /// limit.
    pub client_limit: u32,
}

/// The outcome of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// The template was made. The caller counts it with its server.
    New(TemplateRef),
    /// There was one with the key, of this server.
    Existing(TemplateRef, DestId),
}

/// Why a template was not made. The table is then unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertRefused {
    /// There is no free place.
    TableFull,
    /// The service has as many as it may, or is beyond the table's slots.
    ServiceLimit,
    /// The client has caused as many as it may.
    ClientLimit,
    /// The data are longer than [`DATA_MAX`], or there is no room left for long ones.
    DataFull,
}

/// The outcome of moving a template to another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repoint {
    /// It was moved by this call: the caller counts it with the new server instead of the old one.
    Moved,
    /// It has this server, not the one that it was to be moved from.
    Already(DestId),
    /// It has ended.
    Gone,
}

/// The templates. [`Templates`] is what the balancer uses; tests put other words in.
#[derive(Debug)]
pub struct Table<W> {
    /// Heads of the chains.
    buckets: Box<[W]>,
    /// The control words, apart from the entries: the sweeper reads them all.
    controls: Box<[W]>,
    entries: Box<[Entry<W>]>,
    free: FreeStack<W>,
    pool: Pool<W>,
    limits: Limits<W>,
    key: HashKey,
    /// A time before which no deadline lies: 0, or 2³² plus the tick.
    earliest: W,
    /// Not 0 when entries may wait for the sweeper that are not found by their deadline.
    work: W,
    /// Held during a sweep. Workers never touch it.
    sweeping: Mutex<Vec<u8>>,
}

/// Persistence templates, shared by all workers.
pub type Templates = Table<AtomicU64>;

/// A template that a search found.
#[derive(Clone, Copy)]
struct Found {
    at: TemplateRef,
    dest: DestId,
}

/// A chain changed under a reader.
struct Overtaken;

impl<W: Word> Table<W> {
    /// A table for `capacity` templates of services with numbers below `services`. A capacity of 0
    /// makes a table that refuses everything. Takes about 232 bytes per template, so that 104 bytes
    /// of data fit with each, and 56 bytes more with every fourth.
    ///
    /// # Errors
    /// When the capacity is beyond 2³¹ or there is no memory.
    #[allow(clippy::cast_possible_truncation)] // Checked first.
    pub fn new(capacity: usize, services: usize, key: HashKey) -> Result<Self, TableError> {
        if capacity > MAX_CAPACITY {
            return Err(TableError::Capacity {
                asked: capacity,
                max: MAX_CAPACITY,
            });
        }
        let chunks = if capacity == 0 {
            0
        } else {
            (capacity / ENTRIES_PER_CHUNK).max(CHUNKS_MIN)
        };
        Self::with_chunks(capacity as u32, chunks as u32, services, key)
    }

    fn with_chunks(
        capacity: u32,
        chunks: u32,
        services: usize,
        key: HashKey,
    ) -> Result<Self, TableError> {
        let table = Self {
            buckets: slab(capacity.max(1) as usize)?,
            controls: slab(capacity as usize)?,
            entries: slab(capacity as usize)?,
            free: FreeStack::default(),
            pool: Pool::new(chunks)?,
            limits: Limits::new(services, capacity.max(1) as usize)?,
            key,
            earliest: W::default(),
            work: W::default(),
            sweeping: Mutex::default(),
        };
        (0..capacity)
            .rev()
            .for_each(|i| table.free.push(i, &table.entry(i).next));
        Ok(table)
    }

    /// The most templates there can be.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// The table's hash of a key.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &TemplateKey<'_>) -> u64 {
        key::hash(key, &self.key)
    }

    /// Fetches the bucket of `hash` ahead of its use.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.bucket(hash));
    }

    /// Fetches the first entry that `hash` leads to, some time after [`Self::prefetch`].
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        if let Some(link) = Link::unpack(self.bucket(hash).load()) {
            let entry = self.entry(link.index);
            prefetch(self.control(link.index));
            prefetch(&entry.next);
            prefetch(&entry.terms);
            prefetch(&entry.inline[INLINE / 8 - 1]);
        }
    }

    /// The template of `key` and its server, if it has one at `now`. Writes nothing.
    #[inline]
    pub fn lookup(
        &self,
        key: &TemplateKey<'_>,
        hash: u64,
        now: Tick,
    ) -> Option<(TemplateRef, DestId)> {
        let probe = Probe::new(key, hash)?;
        let bucket = self.bucket(hash);
        loop {
            let found = self.search(bucket.load(), &probe, |at, bound| {
                let live = self.live(at, bound)?;
                live.at(now).map(|_| (at, bound.dest))
            });
            if let Ok(found) = found {
                return found;
            }
        }
    }

    /// Makes a template of `key`, unless there is one.
    ///
    /// Threads that do so at once get one [`Placed::New`] and otherwise the same template. A refusal
    /// may be owed to a place that another thread has reserved but not used yet, even for the same
    /// key. The place and the count of an expired template are free when the sweeper has come.
    ///
    /// # Errors
    /// When a limit or a bound of the table is reached.
    pub fn insert(
        &self,
        key: &TemplateKey<'_>,
        hash: u64,
        new: &NewTemplate,
        now: Tick,
    ) -> Result<Placed, InsertRefused> {
        self.insert_by(key, hash, new, now, true)
    }

    /// `search_again` is always set but in the tests, which show what it is for.
    fn insert_by(
        &self,
        key: &TemplateKey<'_>,
        hash: u64,
        new: &NewTemplate,
        now: Tick,
        search_again: bool,
    ) -> Result<Placed, InsertRefused> {
        let probe = Probe::new(key, hash).ok_or(InsertRefused::DataFull)?;
        let bucket = self.bucket(hash);
        let (mut head, found) = self.survey(bucket, &probe, now);
        if let Some(found) = found {
            return Ok(Placed::Existing(found.at, found.dest));
        }
        let link = match self.prepare(key, &probe, new, now) {
            Ok(link) => link,
            // Another thread may have taken the last place for the same key.
            Err(refused) => {
                let existing = self.survey(bucket, &probe, now).1;
                return existing
                    .map(|found| Placed::Existing(found.at, found.dest))
                    .ok_or(refused);
            }
        };
        loop {
            self.entry(link.index).next.store(head);
            if bucket.swap_if(head, link.pack()) {
                self.go_live(link);
                return Ok(Placed::New(TemplateRef {
                    index: link.index,
                    version: link.life,
                }));
            }
            let found;
            (head, found) = if search_again {
                self.survey(bucket, &probe, now)
            } else {
                (bucket.load(), None)
            };
            if let Some(found) = found {
                self.discard(link, key);
                return Ok(Placed::Existing(found.at, found.dest));
            }
        }
    }

    /// Puts a new connection under the template's control and restarts its timer with the stored
    /// timeout; false if it has ended or controls 2²⁴ − 1 already.
    #[must_use]
    pub fn acquire(&self, at: TemplateRef, now: Tick) -> bool {
        let Some(entry) = self.entry_of(at) else {
            return false;
        };
        let terms = Terms::unpack(entry.terms.load());
        self.change_live(at, |live| {
            let used = live.at(now)?.used(now, terms.timeout);
            let controlled = used.controlled + 1;
            (controlled <= CONTROLLED_MAX).then_some(Control { controlled, ..used })
        })
    }

    /// As [`Self::acquire`], but without a use: the timer goes on. For connections that a peer told of.
    #[must_use]
    pub fn hold(&self, at: TemplateRef, now: Tick) -> bool {
        self.entry_of(at).is_some()
            && self.change_live(at, |live| {
                let live = live.at(now)?;
                let (controlled, state) = (live.controlled + 1, State::Live);
                (controlled <= CONTROLLED_MAX).then_some(Control {
                    controlled,
                    state,
                    ..live
                })
            })
    }

    /// Restarts the template's timer for a use that leaves no connection behind; false if it has
    /// ended. Writes at most once per tick.
    #[inline]
    pub fn touch(&self, at: TemplateRef, now: Tick) -> bool {
        let Some(entry) = self.entry_of(at) else {
            return false;
        };
        let terms = Terms::unpack(entry.terms.load());
        self.change_live(at, |live| Some(live.at(now)?.used(now, terms.timeout)))
    }

    /// The template's stored timeout in ticks, and whether a connection under it was established; nothing if it has ended.
    #[must_use]
    pub fn told_of(&self, at: TemplateRef) -> Option<(u32, bool)> {
        let entry = self.entry_of(at)?;
        let terms = Terms::unpack(entry.terms.load());
        let bound = Bound::unpack(entry.dest.load());
        let live = self.live(at, bound)?;
        Some((live.timeout(terms.timeout), bound.assured))
    }

    /// When the template's timer fires; nothing if the template has ended.
    #[must_use]
    pub fn deadline(&self, at: TemplateRef) -> Option<Tick> {
        let bound = Bound::unpack(self.entry_of(at)?.dest.load());
        self.live(at, bound).map(|live| live.deadline)
    }

    /// Lets the template's timer fire in `ticks`, whatever its stored timeout is; false if it has ended.
    pub fn restart(&self, at: TemplateRef, ticks: u32, now: Tick) -> bool {
        let deadline = now.plus(ticks.min(TIMEOUT_MAX));
        let restarted = self.entry_of(at).is_some()
            && self.change_live(at, |live| {
                let live = live.at(now)?;
                let state = State::Live;
                Some(Control {
                    deadline,
                    state,
                    ..live
                })
            });
        if restarted {
            self.note_deadline(deadline);
        }
        restarted
    }

    /// Takes an ended connection from the control of the template that it held; false if that
    /// controlled none. The timer is not restarted.
    pub fn release(&self, index: u32, now: Tick) -> bool {
        let Some(control) = self.controls.get(index as usize) else {
            return false;
        };
        let released = update(control, |word| {
            let held = Control::unpack(word);
            let controlled = held.controlled.checked_sub(1)?;
            // If the timer was due before this release, it has fired with the connection there.
            let held = match held.state {
                State::Free | State::Dead => held,
                State::Private | State::Live => held.at(now)?,
            };
            Some(Control { controlled, ..held }.pack())
        });
        let ended = |word| {
            let held = Control::unpack(word);
            held.state == State::Dead && held.controlled == 1
        };
        if released.is_some_and(ended) {
            self.call_sweeper();
        }
        released.is_some()
    }

    /// The template in a place; a stale reference if there is none. That of a connection's own
    /// template stays what it is while the connection holds it, unless it is ended on purpose.
    #[must_use]
    pub fn get(&self, index: u32) -> TemplateRef {
        let version = self.entries.get(index as usize).and_then(|entry| {
            let life = life_of(entry);
            let control = Control::unpack(self.control(index).load());
            // One that is not published is nobody's yet.
            (control.state == State::Live && control.lives(life)).then_some(life)
        });
        TemplateRef {
            index,
            version: version.unwrap_or(NO_LIFE),
        }
    }

    /// The server that the template in a place has, or had last.
    #[must_use]
    pub fn dest_of(&self, index: u32) -> Option<DestId> {
        let entry = self.entries.get(index as usize)?;
        Some(Bound::unpack(entry.dest.load()).dest)
    }

    /// The server of a template.
    #[must_use]
    pub fn dest(&self, at: TemplateRef) -> Option<DestId> {
        let bound = Bound::unpack(self.entry_of(at)?.dest.load());
        self.live(at, bound).map(|_| bound.dest)
    }

    /// Moves a template from one server to another. Of threads that do so at once, one does it and
    /// the others learn what it chose.
    pub fn repoint(&self, at: TemplateRef, from: DestId, to: DestId) -> Repoint {
        let Some(entry) = self.entry_of(at) else {
            return Repoint::Gone;
        };
        let mut outcome = Repoint::Gone;
        update(&entry.dest, |word| {
            let bound = Bound::unpack(word);
            if self.live(at, bound).is_none() {
                outcome = Repoint::Gone;
                return None;
            }
            if bound.dest != from {
                outcome = Repoint::Already(bound.dest);
                return None;
            }
            outcome = Repoint::Moved;
            Some(Bound { dest: to, ..bound }.pack())
        });
        outcome
    }

    /// Notes that a connection under the template's control was established (specification §2.7);
    /// false if the template has ended.
    pub fn assure(&self, at: TemplateRef) -> bool {
        let Some(entry) = self.entry_of(at) else {
            return false;
        };
        update(&entry.dest, |word| {
            let bound = Bound::unpack(word);
            self.live(at, bound)?;
            let assured = true;
            Some(Bound { assured, ..bound }.pack())
        })
        .is_some()
    }

    /// Whether a connection under the template's control was established; nothing if the template
    /// has ended.
    #[must_use]
    pub fn assured(&self, at: TemplateRef) -> Option<bool> {
        let bound = Bound::unpack(self.entry_of(at)?.dest.load());
        self.live(at, bound).map(|_| bound.assured)
    }

    /// How many connections the template controls; nothing if it has ended.
    #[must_use]
    pub fn controlled(&self, at: TemplateRef) -> Option<u32> {
        let bound = Bound::unpack(self.entry_of(at)?.dest.load());
        self.live(at, bound).map(|live| live.controlled)
    }

    /// The template's holder, 0 for none; nothing if it has ended.
    #[must_use]
    pub fn holder(&self, at: TemplateRef) -> Option<u64> {
        let entry = self.entry_of(at)?;
        let holder = entry.holder.load();
        // Read before the life is compared, so it belongs to it.
        let bound = Bound::unpack(entry.dest.load());
        self.live(at, bound).map(|_| holder)
    }

    /// Makes `new` the template's holder and gives the old one; nothing if it has ended.
    pub fn swap_holder(&self, at: TemplateRef, new: u64, now: Tick) -> Option<u64> {
        self.pinned(at, now, |entry| entry.holder.swap(new))
    }

    /// Makes `new` the template's holder if it is `old`, and tells the holder that it has then if
    /// it was another; nothing if the template has ended.
    pub fn swap_holder_if(
        &self,
        at: TemplateRef,
        old: u64,
        new: u64,
        now: Tick,
    ) -> Option<Result<(), u64>> {
        self.pinned(at, now, |entry| {
            let mut is = old;
            update(&entry.holder, |word| {
                is = word;
                (word == old).then_some(new)
            })
            .map_or(Err(is), |_| Ok(()))
        })
    }

    /// Ends a template whatever it controls; false if it had ended. It is absent at once, and
    /// reported by the next sweep. Connections that it controls keep their hold on the place.
    pub fn end(&self, at: TemplateRef) -> bool {
        loop {
            let Some(entry) = self.entry_of(at) else {
                return false;
            };
            if self.live(at, Bound::unpack(entry.dest.load())).is_none() {
                return false;
            }
            if self.kill(at, |_| true) {
                return true;
            }
        }
    }

    /// Ends a template that controls nothing and was never assured; false if it is no such. For
    /// the defence against floods (specification §2.10).
    pub fn end_unassured(&self, at: TemplateRef) -> bool {
        self.assured(at) == Some(false) && self.kill(at, |live| live.controlled == 0)
    }

    /// Templates of a service.
    #[must_use]
    pub fn in_service(&self, service: super::dest::ServiceId) -> u32 {
        self.limits.in_service(service)
    }

    /// Templates now; those that have expired count until the sweeper has come.
    #[must_use]
    pub fn len(&self) -> usize {
        self.limits.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    fn bucket(&self, hash: u64) -> &W {
        // By the upper bits, which the tag keeps, so that the sweeper can find the bucket.
        let at = ((hash >> 32) * self.buckets.len() as u64) >> 32;
        &self.buckets[at as usize]
    }

    #[inline]
    fn entry(&self, index: u32) -> &Entry<W> {
        &self.entries[index as usize]
    }

    #[inline]
    fn control(&self, index: u32) -> &W {
        &self.controls[index as usize]
    }

    /// The entry of a template that has not been reported as ended.
    #[inline]
    fn entry_of(&self, at: TemplateRef) -> Option<&Entry<W>> {
        let entry = self.entries.get(at.index as usize)?;
        (life_of(entry) == at.version).then_some(entry)
    }

    /// The control word of a template, given what its server word was a moment ago; nothing if it
    /// has ended.
    #[inline]
    fn live(&self, at: TemplateRef, bound: Bound) -> Option<Control> {
        let control = Control::unpack(self.control(at.index).load());
        (bound.life == at.version && control.lives(at.version)).then_some(control)
    }

    /// The first template of a chain that has the probe's key and that `accept` wants.
    #[inline]
    fn search<R>(
        &self,
        head: u64,
        probe: &Probe<'_>,
        mut accept: impl FnMut(TemplateRef, Bound) -> Option<R>,
    ) -> Result<Option<R>, Overtaken> {
        let mut next = head;
        while let Some(link) = Link::unpack(next) {
            let entry = self.entry(link.index);
            let is = entry.is(probe, &self.pool);
            next = entry.next.load();
            // The life is compared after all else was read: what was read belongs to it.
            let bound = Bound::unpack(entry.dest.load());
            if bound.life != link.life {
                return Err(Overtaken);
            }
            let at = TemplateRef {
                index: link.index,
                version: link.life,
            };
            if is && let Some(result) = accept(at, bound) {
                return Ok(Some(result));
            }
        }
        Ok(None)
    }

    /// Searches a bucket for an insertion: the head from which it was searched, and the live
    /// template if there is one. One that has expired is ended for good.
    fn survey(&self, bucket: &W, probe: &Probe<'_>, now: Tick) -> (u64, Option<Found>) {
        loop {
            let head = bucket.load();
            let found = self.search(head, probe, |at, bound| {
                loop {
                    let live = self.live(at, bound)?;
                    if live.at(now).is_some() {
                        let dest = bound.dest;
                        return Some(Found { at, dest });
                    }
                    if self.kill(at, |live| live.at(now).is_none()) {
                        return None;
                    }
                }
            });
            if let Ok(found) = found {
                return (head, found);
            }
        }
    }

    /// Takes and fills an entry that is not published yet.
    fn prepare(
        &self,
        key: &TemplateKey<'_>,
        probe: &Probe<'_>,
        new: &NewTemplate,
        now: Tick,
    ) -> Result<Link, InsertRefused> {
        let client = self.limits.client_of(key.service, new.source, &self.key);
        let reserved = self.limits.reserve(key.service, client, new)?;
        self.fill(probe, new, now, reserved)
            .inspect_err(|_| self.limits.give_back(reserved))
    }

    fn fill(
        &self,
        probe: &Probe<'_>,
        new: &NewTemplate,
        now: Tick,
        reserved: Reservation,
    ) -> Result<Link, InsertRefused> {
        let index = self
            .free
            .pop(|i| &self.entry(i).next)
            .ok_or(InsertRefused::TableFull)?;
        let entry = self.entry(index);
        let rest = probe.data.get(INLINE..).unwrap_or(&[]);
        let Some(chain) = self.pool.store(rest) else {
            self.free.push(index, &entry.next);
            return Err(InsertRefused::DataFull);
        };
        let life = life_of(entry);
        let timeout = new.timeout.min(TIMEOUT_MAX);
        let terms = Terms {
            origin: new.origin,
            timeout,
            client: reserved.client,
        };
        let bound = Bound {
            dest: new.dest,
            assured: false,
            life,
        };
        entry.write_key(probe, chain);
        entry.dest.store(bound.pack());
        entry.terms.store(terms.pack());
        entry.holder.store(0);
        let control = Control::new(now.plus(timeout), life);
        self.control(index).store(control.pack());
        Ok(Link { index, life })
    }

    /// Makes a published entry known to the sweeper, unless someone who found it has already.
    fn go_live(&self, link: Link) {
        let was = update(self.control(link.index), |word| {
            let control = Control::unpack(word);
            let fresh = control.state == State::Private && control.lives(link.life);
            let state = State::Live;
            fresh.then(|| Control { state, ..control }.pack())
        });
        if let Some(word) = was {
            self.note_deadline(Control::unpack(word).deadline);
        }
    }

    /// Gives up an entry that was never published.
    fn discard(&self, link: Link, key: &TemplateKey<'_>) {
        let terms = Terms::unpack(self.entry(link.index).terms.load());
        self.limits.give_back(Reservation {
            service: key.service,
            client: terms.client,
        });
        self.reclaim(link.index);
    }

    /// Puts an entry that nobody refers to on the free stack.
    fn reclaim(&self, index: u32) {
        let entry = self.entry(index);
        self.pool.release(word::low(entry.chain.load()));
        self.control(index).store(0);
        self.free.push(index, &entry.next);
    }

    /// Changes the control word of a live template by `change`, until that is done or declined.
    #[inline]
    fn change_live(
        &self,
        at: TemplateRef,
        mut change: impl FnMut(Control) -> Option<Control>,
    ) -> bool {
        let was = update(self.control(at.index), |word| {
            let control = Control::unpack(word);
            if !control.lives(at.version) {
                return None;
            }
            change(control).map(Control::pack)
        });
        // Whoever uses a template that its maker has not shown to the sweeper yet does that for it.
        if was.is_some_and(|word| Control::unpack(word).state == State::Private) {
            self.note_deadline(Control::unpack(self.control(at.index).load()).deadline);
        }
        was.is_some()
    }

    /// Ends a template if `may` allows it in its present state; whether that was done by this call.
    fn kill(&self, at: TemplateRef, may: impl Fn(Control) -> bool) -> bool {
        let entry = self.entry(at.index);
        // Read before the swap that shows that the life had not ended, so they belong to it.
        let reserved = Reservation {
            service: key::from_words(entry.fixed(), None).service,
            client: Terms::unpack(entry.terms.load()).client,
        };
        let killed = update(self.control(at.index), |word| {
            let live = Control::unpack(word);
            let (state, mark) = (State::Dead, false);
            (live.lives(at.version) && may(live)).then(|| {
                Control {
                    state,
                    mark,
                    ..live
                }
                .pack()
            })
        });
        if killed.is_some() {
            self.limits.give_back(reserved);
            self.call_sweeper();
        }
        killed.is_some()
    }

    /// Works on an entry that can't be used again meanwhile: a packet's reference is a hold on it
    /// like a connection's (specification §2.7).
    fn pinned<R>(
        &self,
        at: TemplateRef,
        now: Tick,
        work: impl FnOnce(&Entry<W>) -> R,
    ) -> Option<R> {
        let entry = self.entry_of(at)?;
        let pin = |live: Control| {
            let live = live.at(now)?;
            let controlled = live.controlled + 1;
            let state = State::Live;
            (controlled <= CONTROLLED_MAX).then_some(Control {
                controlled,
                state,
                ..live
            })
        };
        if !self.change_live(at, pin) {
            return None;
        }
        let result = work(entry);
        self.release(at.index, now);
        Some(result)
    }
}

/// The number of an entry's life.
#[inline]
fn life_of<W: Word>(entry: &Entry<W>) -> u32 {
    Bound::unpack(entry.dest.load()).life
}
