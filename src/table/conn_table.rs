//! Connection table of one worker and one address family.
//!
//! Owns every connection whose flow belongs to the worker. Knows nothing of packets, clocks, real
//! servers' counts or other workers: callers pass keys and `now`, and are told of every connection
//! that ends. Fixed capacity, all memory at start; no call allocates.
//!
//! One entry serves both directions: the index holds the key of packets from the client and, for
//! masquerading, the key of the server's replies. (Replies of the other methods, should they pass,
//! carry the virtual address: they are found by the reversed key.) A hit costs two cache misses,
//! bucket and entry; [`ConnTable::lookup_burst`] overlaps them over a burst. A packet of a known
//! connection writes nothing but the entry's coarse tick, and that once per tick.
//!
//! Invariants: a connection is live iff it is armed in the wheel and all of its keys, and nothing
//! else of it, are in the index; no key leads to two connections.

use super::conn::{Conn, ConnIdx, Direction};
use super::index::Index;
use super::memory::{Pages, TableError};
use super::prefetch::prefetch;
use super::state::Worth;
use super::wheel::Wheel;
use crate::net::{Family, FlowKey, HashKey, Tick};

/// How many keys [`ConnTable::lookup_burst`] works on at once.
const BURST: usize = 32;
/// How many timers [`ConnTable::expire`] works on at once.
const SWEEP: usize = 16;
/// How many entries are looked at for one to evict.
const EVICT_SCAN: u32 = 64;
/// A reference in the index is an entry's number and a direction bit, and the wheel's heads need
/// numbers too.
const MAX_CAPACITY: usize = 1 << 30;

/// Where a key leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The connection.
    pub index: ConnIdx,
    /// Which end sent the packet.
    pub direction: Direction,
}

/// Why a connection was not stored. The table is then unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// There is no room, and nothing that may be evicted (or eviction was not asked for).
    Full,
    /// This connection from the client is there already.
    Exists(ConnIdx),
    /// Another connection has one of the keys in another sense: its replies look like this one's
    /// packets or replies. Two connections of one client port to different virtual addresses that
    /// were given the same server do.
    Collision(ConnIdx),
    /// The connection's replies would look like its own requests: the client is its own virtual
    /// address and server.
    Loop,
}

/// What [`ConnTable::insert_with_evict`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted<F: Family> {
    /// The new connection.
    pub index: ConnIdx,
    /// The connection that had to go for it; the caller adjusts its real server's counts.
    pub evicted: Option<Conn<F>>,
}

/// What becomes of a connection whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It ends.
    Remove,
    /// It gets so many ticks more, which become its timeout (at least 1).
    Rearm(u32),
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Swept {
    /// Connections that ended.
    pub removed: usize,
    /// Timers looked at. Below the budget when everything due was done.
    pub examined: usize,
}

/// The connections of one worker in one address family.
#[derive(Debug)]
pub struct ConnTable<F: Family> {
    /// One entry more than the capacity, so that a new connection is in its place before an old one
    /// is evicted.
    entries: Pages<Conn<F>>,
    index: Index,
    wheel: Wheel,
    key: HashKey,
    /// Free entries, the one freed last on top: its lines are the likeliest to be in the cache.
    free: Vec<u32>,
    capacity: u32,
    /// Where the search for an entry to evict goes on.
    rover: u32,
    /// Number of insertions and removals, wrapping.
    changes: u64,
}

impl<F: Family> ConnTable<F> {
    /// A table for `capacity` connections. To be called from the thread that will use it (memory is
    /// NUMA-local to the caller). Takes 108 bytes per IPv4 connection, 172 per IPv6.
    ///
    /// # Errors
    /// When the capacity is 0 or above 2³⁰, or there is no memory.
    #[allow(clippy::cast_possible_truncation)] // Checked first.
    pub fn new(capacity: usize, key: HashKey) -> Result<Self, TableError> {
        if capacity == 0 || capacity > MAX_CAPACITY {
            return Err(TableError::Capacity {
                asked: capacity,
                max: MAX_CAPACITY,
            });
        }
        let entries = capacity as u32 + 1;
        Ok(Self {
            entries: Pages::zeroed(entries as usize)?,
            index: Index::new(2 * entries as usize)?,
            wheel: Wheel::new(entries)?,
            key,
            free: (0..entries).rev().collect(),
            capacity: capacity as u32,
            rover: 0,
            changes: 0,
        })
    }

    /// Connections now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries_len() as usize - self.free.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most connections there can be.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// The table's hash of a key.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &FlowKey<F>) -> u64 {
        F::hash(key, &self.key)
    }

    /// The connection that a packet with `key` belongs to.
    #[inline]
    #[must_use]
    pub fn lookup(&self, key: &FlowKey<F>) -> Option<Hit> {
        self.find(self.hash(key), key)
    }

    /// Looks up many keys, in stages whose cache misses overlap: hash all and fetch their buckets,
    /// match tags and fetch entries, compare keys. `out` gets a result for each key.
    ///
    /// A result holds until the table changes; see [`Self::recheck`].
    ///
    /// # Panics
    /// When `out` is shorter than `keys`.
    pub fn lookup_burst(&self, keys: &[FlowKey<F>], out: &mut [Option<Hit>]) {
        let out = &mut out[..keys.len()];
        for (keys, out) in keys.chunks(BURST).zip(out.chunks_mut(BURST)) {
            let mut hashes = [0; BURST];
            for (key, hash) in keys.iter().zip(&mut hashes) {
                *hash = self.hash(key);
                self.index.prefetch(*hash);
            }
            for (&hash, out) in hashes.iter().zip(out.iter_mut()) {
                *out = self.index.candidate(hash).map(hit);
                if let Some(candidate) = *out {
                    self.prefetch_entry(candidate.index.0);
                }
            }
            for ((key, &hash), out) in keys.iter().zip(&hashes).zip(out) {
                if let Some(candidate) = *out
                    && !self.leads(candidate, key)
                {
                    // Another key with the same 16 bits.
                    *out = self.find(hash, key);
                }
            }
        }
    }

    /// A number that changes with every insertion and removal.
    #[inline]
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What `found`, the result of a lookup of `key` when [`Self::changes`] was `then`, is now.
    /// Between the look-up of a burst and a packet's turn, earlier packets of the burst may have
    /// made its connection, or ended it and given its entry to another.
    #[inline]
    #[must_use]
    pub fn recheck(&self, key: &FlowKey<F>, found: Option<Hit>, then: u64) -> Option<Hit> {
        if self.changes == then {
            found
        } else {
            self.lookup(key)
        }
    }

    /// A connection.
    ///
    /// # Panics
    /// When there is none at `index`.
    #[inline]
    #[must_use]
    pub fn get(&self, index: ConnIdx) -> &Conn<F> {
        let conn = self.entries.at(index.0);
        assert!(conn.is_live(), "the connection has ended");
        conn
    }

    /// A connection, if there is one at `index`.
    #[must_use]
    pub fn get_live(&self, index: ConnIdx) -> Option<&Conn<F>> {
        let within = (index.0 as usize) < self.capacity();
        within
            .then(|| self.entries.at(index.0))
            .filter(|c| c.is_live())
    }

    /// A connection, to be changed.
    ///
    /// # Panics
    /// When there is none at `index`.
    #[inline]
    pub fn get_mut(&mut self, index: ConnIdx) -> &mut Conn<F> {
        let conn = self.entries.at_mut(index.0);
        assert!(conn.is_live(), "the connection has ended");
        conn
    }

    /// Fetches what storing `conn` will touch and a lookup of its request has not: the bucket of
    /// its replies. To be called as soon as the real server is chosen, so that the miss passes
    /// while the packet is rewritten.
    #[inline]
    pub fn prefetch_insert(&self, conn: &Conn<F>) {
        if let Some(key) = conn.reply_key() {
            self.index.prefetch(self.hash(&key));
        }
    }

    /// Stores a connection, last seen `now`.
    ///
    /// # Errors
    /// When it can't be; never silently instead of another.
    pub fn insert(&mut self, conn: &Conn<F>, now: Tick) -> Result<ConnIdx, InsertError> {
        let keys = self.check(conn)?;
        if self.len() == self.capacity() {
            return Err(InsertError::Full);
        }
        self.store(conn, keys, now)
    }

    /// Stores a connection, last seen `now`, in a full table at the cost of one that matters less:
    /// half-open TCP and SCTP first, then closing ones, then those of other protocols whose client
    /// sent one packet only. Never an established one, nor one in use. It is looked for among the
    /// next 64 entries of a scan that goes round the table; a half-open one is taken at once, else
    /// the first of the least worth.
    ///
    /// # Errors
    /// When it can't be stored; nothing is evicted then.
    pub fn insert_with_evict(
        &mut self,
        conn: &Conn<F>,
        now: Tick,
    ) -> Result<Inserted<F>, InsertError> {
        let keys = self.check(conn)?;
        let victim = if self.len() == self.capacity() {
            Some(self.find_victim().ok_or(InsertError::Full)?)
        } else {
            None
        };
        let index = self.store(conn, keys, now)?;
        Ok(Inserted {
            index,
            evicted: victim.map(|victim| self.remove(victim)),
        })
    }

    /// Removes a connection and returns what it was.
    ///
    /// # Panics
    /// When there is none at `index`.
    pub fn remove(&mut self, index: ConnIdx) -> Conn<F> {
        assert!(
            self.entries.at(index.0).is_live(),
            "the connection has ended"
        );
        self.wheel.disarm(index.0);
        let keys = self.keys(self.entries.at(index.0));
        self.release(index, keys)
    }

    /// Notes a packet of a connection: its time starts anew.
    ///
    /// # Panics
    /// When there is none at `index`.
    #[inline]
    pub fn touch(&mut self, index: ConnIdx, now: Tick) {
        self.get_mut(index).touch(now);
    }

    /// Gives a connection `ticks` (cut to 31 days) from `now` on, and again from each packet on.
    /// The timer wheel is only told when that ends before it would look at the connection anyway.
    ///
    /// # Panics
    /// When there is none at `index`.
    #[inline]
    pub fn set_timeout(&mut self, index: ConnIdx, ticks: u32, now: Tick) {
        let conn = self.get_mut(index);
        conn.set_timer(ticks, now);
        let deadline = conn.deadline();
        if !deadline.reached(conn.armed()) {
            self.wheel.disarm(index.0);
            self.arm(index.0, deadline, now);
        }
    }

    /// Asks `decide` about connections whose time is up at `now`, in the order of their deadlines
    /// as far as the wheel resolves them, and removes those it says to. Looks at no more than
    /// `budget` timers; what is left is done by the next call. Called every tick with enough
    /// budget, it fires in the deadline's tick, or, for a time that was up when it was set, in the
    /// next.
    pub fn expire(
        &mut self,
        now: Tick,
        budget: usize,
        mut decide: impl FnMut(ConnIdx, &Conn<F>) -> Expiry,
    ) -> Swept {
        let mut swept = Swept::default();
        while swept.examined < budget {
            let mut batch = [0; SWEEP];
            let room = SWEEP.min(budget - swept.examined);
            let popped = self.pop_timers(now, &mut batch[..room]);
            swept.examined += popped;
            swept.removed += self.expire_batch(now, &batch[..popped], &mut decide);
            if popped < room {
                break;
            }
        }
        swept
    }

    /// Shows the connections of at most `max` entries from `cursor` on (0 at first) and returns
    /// where to go on, `None` at the end. A connection that lives throughout a listing is shown
    /// exactly once, whatever comes and goes.
    pub fn dump(
        &self,
        cursor: u32,
        max: u32,
        mut show: impl FnMut(ConnIdx, &Conn<F>),
    ) -> Option<u32> {
        let end = cursor.saturating_add(max).min(self.entries_len());
        for i in cursor..end {
            let conn = self.entries.at(i);
            if conn.is_live() {
                show(ConnIdx(i), conn);
            }
        }
        (end < self.entries_len()).then_some(end)
    }

    fn entries_len(&self) -> u32 {
        self.capacity + 1
    }

    #[inline]
    fn leads(&self, hit: Hit, key: &FlowKey<F>) -> bool {
        self.entries.at(hit.index.0).carries(hit.direction, key)
    }

    #[inline]
    fn find(&self, hash: u64, key: &FlowKey<F>) -> Option<Hit> {
        self.index
            .find(hash, |reference| self.leads(hit(reference), key))
            .map(hit)
    }

    /// Fetches an entry. An IPv6 entry's second line comes along: its key ends in the first, its
    /// timer is in the second.
    #[inline]
    fn prefetch_entry(&self, entry: u32) {
        let conn = self.entries.at(entry);
        prefetch(conn);
        if size_of::<Conn<F>>() > 64 {
            prefetch(&bytemuck::bytes_of(conn)[64]);
        }
    }

    /// The hashes of a connection's keys.
    #[inline]
    fn keys(&self, conn: &Conn<F>) -> (u64, Option<u64>) {
        (
            self.hash(&conn.request_key()),
            conn.reply_key().map(|key| self.hash(&key)),
        )
    }

    /// The hashes of a connection's keys, provided that none of them leads anywhere yet.
    fn check(&self, conn: &Conn<F>) -> Result<(u64, Option<u64>), InsertError> {
        let (request, reply) = self.keys(conn);
        // The bucket of the replies' key is the one miss that the packet's own lookup has not paid
        // for.
        reply.inspect(|&hash| self.index.prefetch(hash));
        if let Some(hit) = self.find(request, &conn.request_key()) {
            return Err(match hit.direction {
                Direction::FromClient => InsertError::Exists(hit.index),
                Direction::FromServer => InsertError::Collision(hit.index),
            });
        }
        if let (Some(hash), Some(key)) = (reply, conn.reply_key()) {
            if key == conn.request_key() {
                return Err(InsertError::Loop);
            }
            if let Some(hit) = self.find(hash, &key) {
                return Err(InsertError::Collision(hit.index));
            }
        }
        Ok((request, reply))
    }

    fn store(
        &mut self,
        conn: &Conn<F>,
        (request, reply): (u64, Option<u64>),
        now: Tick,
    ) -> Result<ConnIdx, InsertError> {
        let entry = *self
            .free
            .last()
            .expect("there is one entry more than the capacity");
        self.index
            .insert(request, reference(entry, Direction::FromClient))
            .map_err(|_| InsertError::Full)?;
        if let Some(reply) = reply
            && self
                .index
                .insert(reply, reference(entry, Direction::FromServer))
                .is_err()
        {
            self.index
                .remove(request, reference(entry, Direction::FromClient));
            return Err(InsertError::Full);
        }
        self.free.pop();
        if let Some(&next) = self.free.last() {
            self.prefetch_entry(next);
        }
        let slot = self.entries.at_mut(entry);
        *slot = *conn;
        slot.set_live(true);
        slot.touch(now);
        let deadline = slot.deadline();
        self.arm(entry, deadline, now);
        self.changes = self.changes.wrapping_add(1);
        Ok(ConnIdx(entry))
    }

    #[inline]
    fn arm(&mut self, entry: u32, deadline: Tick, now: Tick) {
        let visit = self.wheel.arm(entry, deadline, now);
        self.entries.at_mut(entry).set_armed(visit);
    }

    /// Gives a disarmed entry back.
    fn release(&mut self, index: ConnIdx, (request, reply): (u64, Option<u64>)) -> Conn<F> {
        self.index
            .remove(request, reference(index.0, Direction::FromClient));
        if let Some(reply) = reply {
            self.index
                .remove(reply, reference(index.0, Direction::FromServer));
        }
        let slot = self.entries.at_mut(index.0);
        slot.set_live(false);
        let conn = *slot;
        self.free.push(index.0);
        self.changes = self.changes.wrapping_add(1);
        conn
    }

    fn pop_timers(&mut self, now: Tick, batch: &mut [u32]) -> usize {
        for (n, entry) in batch.iter_mut().enumerate() {
            match self.wheel.pop(now) {
                Some(popped) => *entry = popped,
                None => return n,
            }
            self.prefetch_entry(*entry);
        }
        batch.len()
    }

    /// Ends or re-arms a batch of disarmed entries; returns how many ended.
    fn expire_batch(
        &mut self,
        now: Tick,
        batch: &[u32],
        decide: &mut impl FnMut(ConnIdx, &Conn<F>) -> Expiry,
    ) -> usize {
        let mut keys = [(0, None); SWEEP];
        for (&entry, keys) in batch.iter().zip(&mut keys) {
            let conn = self.entries.at(entry);
            if now.reached(conn.deadline()) {
                *keys = self.keys(conn);
                self.index.prefetch(keys.0);
                keys.1.inspect(|&hash| self.index.prefetch(hash));
            }
        }
        let mut removed = 0;
        for (&entry, &keys) in batch.iter().zip(&keys) {
            let conn = self.entries.at_mut(entry);
            if now.reached(conn.deadline()) {
                match decide(ConnIdx(entry), conn) {
                    Expiry::Remove => {
                        self.release(ConnIdx(entry), keys);
                        removed += 1;
                        continue;
                    }
                    Expiry::Rearm(ticks) => conn.set_timer(ticks.max(1), now),
                }
            }
            let deadline = conn.deadline();
            self.arm(entry, deadline, now);
        }
        removed
    }

    /// The entry to evict: see [`Self::insert_with_evict`].
    fn find_victim(&mut self) -> Option<ConnIdx> {
        let mut best = None;
        for _ in 0..EVICT_SCAN.min(self.entries_len()) {
            let entry = self.rover;
            self.rover = if entry + 1 == self.entries_len() {
                0
            } else {
                entry + 1
            };
            let conn = self.entries.at(entry);
            if !conn.is_live() {
                continue;
            }
            match Worth::of(conn.proto(), conn.state, conn.flags(), conn.in_pkts) {
                Worth::HalfOpen => return Some(ConnIdx(entry)),
                Worth::InUse => {}
                worth if best.is_none_or(|(least, _)| worth < least) => {
                    best = Some((worth, ConnIdx(entry)));
                }
                _ => {}
            }
        }
        best.map(|(_, index)| index)
    }
}

#[inline]
fn reference(entry: u32, direction: Direction) -> u32 {
    entry << 1 | direction as u32
}

#[inline]
fn hit(reference: u32) -> Hit {
    let direction = if reference & 1 == 0 {
        Direction::FromClient
    } else {
        Direction::FromServer
    };
    Hit {
        index: ConnIdx(reference >> 1),
        direction,
    }
}
