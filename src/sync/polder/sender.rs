//! The telling side: what the tables hold is compared with what was told, and the difference goes into the stream.
//!
//! Owns the mirror of what was told, the stream with its history, and repairs. Knows no key and no socket. Invariants:
//! the mirror is what a listener has who applied every datagram up to the last one made; at most the given number of
//! datagrams wait, and what does not fit is not told, so that the next pass finds it again.
//!
//! Cost: an unchanged entry is two hashes of its key and one look-up.

mod listener;
mod ring;

use std::collections::VecDeque;
use std::net::SocketAddr;

pub use listener::{FORGOTTEN_AFTER, Listener, Listeners, PEERS_MAX};
use ring::Ring;

use super::Rejected;
use super::mirror::{BucketSet, Digest, Mirror, worth};
use super::rounds::{Budget, DONE, Round};
use super::wire::{
    self, BUCKETS, Bucket, Buckets, Lost, Mark, Nack, Record, StreamBuilder, TIME_MAX, VECTOR_MAX,
    Versions, Wanted,
};
use crate::net::{HashKey, Tick};
use crate::sync::entry::{ConnEntry, Entry, TemplateEntry};

/// How long a datagram that is not full waits for more, in ticks.
pub const GATHER: u32 = 2;
/// Datagrams of streams that are sent in a tick: some 58 MB per second of full ones.
pub const PER_TICK_MAX: u32 = 400;
/// Those of them that repairs fill.
pub const REPAIRS_PER_TICK_MAX: u32 = 100;
/// Ticks between two marks at most.
pub const MARK_EVERY: u32 = Tick::PER_SECOND / 4;
/// Ticks between two vectors at least.
const VECTOR_EVERY: u32 = Tick::PER_SECOND / 5;
/// Datagrams that wait to be repeated.
const RESEND_MAX: usize = 2048;
/// Marks whose counts are remembered.
const MARKS_MAX: usize = 512;
/// A shift of an entry's end that is told anyhow, in ticks.
const SHIFT_MAX: u32 = 10 * Tick::PER_SECOND;
/// How long before the end that was told a later one is told however little it moved, in ticks.
const RENEWED_BEFORE: u32 = 3 * Tick::PER_SECOND;
/// Bytes of a template's data from which on it may not fit into one datagram.
const LONG_DATA: usize = 256;

/// What was told, and what was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Told {
    /// Entries that were new or different.
    pub upserts: u64,
    /// Entries that were gone.
    pub removes: u64,
    /// Entries told again in repairs.
    pub repaired: u64,
    /// Datagrams repeated.
    pub resent: u64,
    /// Differences left to a later pass, because too much waited.
    pub deferred: u64,
    /// Times that an entry was not told because there are too many.
    pub overflow: u64,
    /// Passes.
    pub passes: u64,
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// All other directors: the multicast group, or each configured peer.
    Group,
    /// One of them.
    Peer(SocketAddr),
}

/// What went out in this tick.
#[derive(Debug, Default)]
struct Pace {
    tick: Tick,
    sent: u32,
    repairs: u32,
}

impl Pace {
    fn at(&mut self, now: Tick) -> &mut Self {
        if self.tick != now {
            *self = Self {
                tick: now,
                ..Self::default()
            };
        }
        self
    }

    /// When there is room for another one.
    fn next(&self, now: Tick) -> Tick {
        let full = self.tick == now && self.sent >= PER_TICK_MAX;
        now.plus(u32::from(full))
    }
}

/// A bucket that is told of in full. Changes go on meanwhile: what is new tells of itself, what is gone too.
#[derive(Debug)]
struct Repair {
    bucket: u8,
    /// The slots that it had at the beginning, those still to tell of.
    slots: Vec<u32>,
}

/// The telling side of a director.
#[derive(Debug)]
pub struct Sender {
    key: HashKey,
    mirror: Mirror,
    builder: StreamBuilder,
    /// When the first record of what is being filled came.
    filled_at: Option<Tick>,
    ring: Ring,
    queue_max: usize,
    pass: u16,
    /// Entries that this pass saw.
    seen: usize,
    /// Where to go on at the pass's end with what it did not see.
    ending: Round,
    wanted: BucketSet,
    repair: Option<Repair>,
    vector_wanted: bool,
    vector_at: Tick,
    marked_at: Tick,
    /// The datagram that the last mark is in.
    marked_in: u64,
    marks: VecDeque<(Tick, u64)>,
    resends: VecDeque<(SocketAddr, u64)>,
    pace: Pace,
    told: Told,
    /// Those who follow.
    pub listeners: Listeners,
}

impl Sender {
    /// A sender that has told of nothing. `key` is what its ids and digests are computed with.
    pub fn new(
        key: HashKey,
        max_len: usize,
        entries_max: usize,
        queue_max: usize,
        now: Tick,
    ) -> Self {
        Self {
            key,
            mirror: Mirror::new(entries_max),
            builder: StreamBuilder::new(max_len),
            filled_at: None,
            ring: Ring::new(),
            queue_max: queue_max.max(1),
            pass: 0,
            seen: 0,
            ending: Round::default(),
            wanted: BucketSet::default(),
            repair: None,
            vector_wanted: false,
            vector_at: now,
            marked_at: now,
            marked_in: 0,
            marks: VecDeque::new(),
            resends: VecDeque::new(),
            pace: Pace::default(),
            told: Told::default(),
            listeners: Listeners::default(),
        }
    }

    /// What ids and digests are computed with.
    pub fn key(&self) -> &HashKey {
        &self.key
    }

    /// What was told so far.
    pub fn told(&self) -> Told {
        self.told
    }

    /// Entries that were told of and are there.
    pub fn entries(&self) -> usize {
        self.mirror.len()
    }

    /// Datagrams that wait, those to be repeated too.
    pub fn queued(&self) -> usize {
        self.ring.queued() + self.resends.len()
    }

    /// Datagrams that are kept to be repeated, and their bytes.
    pub fn history(&self) -> (u64, usize) {
        self.ring.kept()
    }

    /// The number that a listener who begins now gets first.
    pub fn next_seq(&self) -> u64 {
        self.ring.unsent()
    }

    /// Entries as of the mark that was made at `tick`.
    pub fn count_at(&self, tick: Tick) -> Option<u64> {
        let (_, count) = self.marks.iter().rev().find(|(t, _)| *t == tick)?;
        Some(*count)
    }

    /// What was told of the entry with this one's key.
    pub fn told_of(&self, entry: &Entry) -> Option<(&Entry, Tick)> {
        let slot = self
            .mirror
            .slot(self.mirror.find(wire::id_of(&self.key, entry))?);
        Some((slot.entry()?, slot.deadline))
    }

    /// Begins a pass over the tables.
    pub fn pass_begin(&mut self) {
        self.pass = self.pass.wrapping_add(1);
        self.seen = 0;
        // What the pass before did not come to, this one finds.
        self.ending.stop();
    }

    /// An entry of the tables. It is told of if it is new or not as it was told.
    #[inline]
    pub fn pass_entry(&mut self, now: Tick, entry: Entry) {
        let id = wire::id_of(&self.key, &entry);
        let remaining = entry.remaining().min(TIME_MAX);
        let deadline = now.plus(remaining);
        let Some(at) = self.mirror.find(id) else {
            return self.pass_new(now, id, entry, remaining);
        };
        let slot = self.mirror.slot_mut(at);
        if slot.pass != self.pass {
            slot.pass = self.pass;
            self.seen += 1;
        }
        let told = slot.entry().is_some_and(|told| same(told, &entry))
            && !is_news(now, slot.deadline, deadline, entry.timeout());
        if told {
            return;
        }
        if self.is_full() {
            self.told.deferred += 1;
            return;
        }
        let worth = self.tell(now, &entry, remaining);
        self.told.upserts += 1;
        self.mirror.replace(at, entry, worth, deadline);
    }

    fn pass_new(
        &mut self,
        now: Tick,
        id: crate::sync::entry::EntryId,
        entry: Entry,
        remaining: u32,
    ) {
        if !self.mirror.has_room() {
            self.told.overflow += 1;
            return;
        }
        if self.is_full() {
            self.told.deferred += 1;
            return;
        }
        let worth = self.tell(now, &entry, remaining);
        self.told.upserts += 1;
        let at = self
            .mirror
            .insert(id, entry, worth, now.plus(remaining))
            .expect("there was room");
        self.mirror.slot_mut(at).pass = self.pass;
        self.seen += 1;
    }

    /// Goes on with the end of a pass: what it did not see is gone, and given to `gone`. Whether that was all.
    pub fn pass_end(&mut self, now: Tick, budget: &mut Budget, gone: impl FnMut(&Entry)) -> bool {
        if self.seen < self.mirror.len() {
            if !self.ending.is_underway() {
                self.ending.ask();
            }
            self.remove_unseen(now, budget, gone);
        }
        if self.seen < self.mirror.len() {
            if self.is_full() {
                // The next pass finds it again.
                self.told.deferred += 1;
            } else if self.ending.is_underway() {
                return false;
            }
        }
        self.ending.stop();
        self.told.passes += 1;
        if !self.is_full() {
            self.mark(now);
        }
        true
    }

    fn remove_unseen(&mut self, now: Tick, budget: &mut Budget, mut gone: impl FnMut(&Entry)) {
        while let Some(at) = self.ending.next(self.mirror.slots(), budget) {
            let slot = self.mirror.slot(at);
            if !slot.is_live() || slot.pass == self.pass {
                continue;
            }
            if self.is_full() {
                return;
            }
            let id = slot.id;
            self.put(now, &Record::Remove(id));
            self.told.removes += 1;
            budget.take(DONE);
            gone(&self.mirror.free(at));
        }
    }

    fn is_full(&self) -> bool {
        self.ring.queued() >= self.queue_max
    }

    /// Tells of an entry; what it is worth then.
    fn tell(&mut self, now: Tick, entry: &Entry, remaining: u32) -> u64 {
        self.stamp_for(now, is_long(entry));
        while !self.builder.upsert(entry, remaining) {
            self.close();
            self.stamp(now);
        }
        let digest = wire::digest_of(&self.key, entry);
        worth(digest, self.seq_of_last(is_long(entry)))
    }

    /// Sees to a mark of this tick in front of what is told in it, by which listeners know how old it is when it comes. Each
    /// datagram has its own: the one before may be lost for good.
    fn stamp(&mut self, now: Tick) {
        if self.marked_at != now || self.marked_in != self.ring.next_seq() {
            self.put_mark(now);
        }
    }

    /// The same where a long entry may follow: its first piece has to be with the mark, and there may be no room for it.
    fn stamp_for(&mut self, now: Tick, is_long: bool) {
        if is_long && !self.builder.is_empty() {
            self.close();
        }
        self.stamp(now);
    }

    /// The datagram that ends with the entry pushed last.
    fn seq_of_last(&mut self, is_long: bool) -> u64 {
        if !is_long {
            return self.ring.next_seq();
        }
        // It may go on in further datagrams, which have to be made to know their number.
        while !self.builder.is_empty() {
            self.close();
        }
        self.ring.next_seq() - 1
    }

    fn put(&mut self, now: Tick, record: &Record<'_>) {
        while !self.builder.push(record) {
            self.close();
        }
        self.filled_at.get_or_insert(now);
    }

    /// Puts what is being filled behind those that wait.
    fn close(&mut self) {
        if let Some(body) = self.builder.finish(self.ring.next_seq()) {
            self.ring.push(body);
        }
        self.filled_at = None;
    }

    fn mark(&mut self, now: Tick) {
        self.put_mark(now);
        self.close();
    }

    fn put_mark(&mut self, now: Tick) {
        let digest = self.mirror.digest();
        self.put(
            now,
            &Record::Mark(Mark {
                tick: now.0,
                count: digest.count,
                sum: digest.sum,
                versions: Versions::OURS,
            }),
        );
        self.marked_at = now;
        self.marked_in = self.ring.next_seq();
        match self.marks.back_mut() {
            Some((tick, count)) if *tick == now => *count = digest.count,
            _ => self.marks.push_back((now, digest.count)),
        }
        if self.marks.len() > MARKS_MAX {
            self.marks.pop_front();
        }
    }

    /// Does what it is time for.
    pub fn poll(&mut self, now: Tick) {
        if now.since(self.marked_at) >= MARK_EVERY && !self.is_full() {
            self.mark(now);
        }
        self.listeners.poll(now);
    }

    /// When there is something to do next.
    pub fn wake_at(&self, now: Tick) -> Tick {
        let mut at = self.marked_at.plus(MARK_EVERY);
        let mut sooner = |other: Tick| {
            if at.reached(other) {
                at = other;
            }
        };
        if self.ring.queued() > 0 || !self.resends.is_empty() {
            sooner(self.pace.next(now));
        }
        if self.repair.is_some() || !self.wanted.is_empty() || self.vector_wanted {
            let full = self.pace.tick == now && self.pace.repairs >= REPAIRS_PER_TICK_MAX;
            sooner(self.pace.next(now.plus(u32::from(full))));
        }
        if let Some(filled) = self.filled_at {
            sooner(filled.plus(GATHER));
        }
        at
    }

    /// The next body of the stream to send.
    pub fn next(&mut self, now: Tick) -> Option<(To, &[u8])> {
        if self.pace.at(now).sent >= PER_TICK_MAX {
            return None;
        }
        while let Some((to, seq)) = self.resends.pop_front() {
            if self.ring.sent(seq).is_some() {
                self.pace.sent += 1;
                self.told.resent += 1;
                return Some((To::Peer(to), self.ring.sent(seq)?));
            }
        }
        if self.ring.queued() == 0 && self.pace.repairs < REPAIRS_PER_TICK_MAX {
            self.repair(now);
        }
        let is_due = |filled: Tick| now.reached(filled.plus(GATHER));
        if self.ring.queued() == 0 && self.filled_at.is_some_and(is_due) {
            self.close();
        }
        let body = self.ring.send()?;
        self.pace.sent += 1;
        Some((To::Group, body))
    }

    /// Tells of what is asked for, until a datagram is full.
    fn repair(&mut self, now: Tick) {
        if self.vector_wanted && now.reached(self.vector_at) {
            self.vector(now);
        }
        while self.ring.queued() == 0 {
            let Some(repair) = &mut self.repair else {
                let Some(bucket) = self.wanted.iter().next() else {
                    return;
                };
                self.begin_repair(now, bucket);
                continue;
            };
            let bucket = repair.bucket;
            match repair.slots.pop() {
                Some(at) => self.retell(now, at, bucket),
                None => {
                    self.repair = None;
                    self.put(now, &Record::RepairEnd(bucket));
                }
            }
        }
        self.pace.repairs += 1;
    }

    fn begin_repair(&mut self, now: Tick, bucket: u8) {
        self.wanted.set(bucket, false);
        let slots = self.mirror.in_bucket(bucket).collect();
        self.repair = Some(Repair { bucket, slots });
        self.put(now, &Record::RepairBegin(bucket));
    }

    /// Tells again of what is in a slot, unless that is of another bucket by now.
    fn retell(&mut self, now: Tick, at: u32, bucket: u8) {
        let slot = self.mirror.slot(at);
        let Some(long) = slot
            .entry()
            .filter(|_| wire::bucket_of(slot.id) == bucket)
            .map(is_long)
        else {
            return;
        };
        self.stamp_for(now, long);
        let slot = self.mirror.slot(at);
        let Some(entry) = slot.entry() else { return };
        let digest = wire::digest_of(&self.key, entry);
        if !self.builder.upsert(entry, slot.deadline.since(now)) {
            self.close();
            return self.retell(now, at, bucket);
        }
        self.filled_at.get_or_insert(now);
        let seq = self.seq_of_last(long);
        self.mirror.revalue(at, worth(digest, seq));
        self.told.repaired += 1;
    }

    fn vector(&mut self, now: Tick) {
        self.vector_wanted = false;
        self.vector_at = now.plus(VECTOR_EVERY);
        let digests: Vec<_> = (0..=u8::MAX)
            .map(|b| {
                let Digest { count, sum } = self.mirror.bucket(b);
                let count = u32::try_from(count).expect("slots have 32 bits");
                Bucket { count, sum }.bytes()
            })
            .collect();
        for (first, some) in (0..BUCKETS)
            .step_by(VECTOR_MAX)
            .zip(digests.chunks(VECTOR_MAX))
        {
            let record = Record::MarkVector {
                first_bucket: u8::try_from(first).expect("there are 256"),
                buckets: Buckets::new(some),
            };
            self.put(now, &record);
        }
        self.close();
    }

    /// A listener misses something. Answers what can't be repeated.
    pub fn nack(&mut self, from: SocketAddr, nack: &Nack) -> Option<Lost> {
        let (first, unsent) = (self.ring.first(), self.ring.unsent());
        for &(low, high) in &nack.ranges {
            for seq in low.max(first)..=high.min(unsent - 1) {
                if self.resends.len() >= RESEND_MAX {
                    break;
                }
                self.resends.push_back((from, seq));
            }
        }
        let is_lost = nack.ranges.iter().any(|r| r.0 < first);
        is_lost.then_some(Lost { up_to: first - 1 })
    }

    /// A listener wants to know.
    ///
    /// # Errors
    /// When it asks too often.
    pub fn want(&mut self, now: Tick, boot: u64, what: &Wanted) -> Result<(), Rejected> {
        self.listeners.may_ask(now, boot)?;
        match what {
            Wanted::Vector => self.vector_wanted = true,
            Wanted::Repair(buckets) => self.wanted.add(&BucketSet(*buckets)),
        }
        Ok(())
    }
}

fn is_long(entry: &Entry) -> bool {
    match entry {
        Entry::Conn(_) => false,
        Entry::Template(t) => t.data.as_ref().is_some_and(|data| data.len() > LONG_DATA),
    }
}

/// Whether two entries are the same but for the time that is left.
pub(super) fn same(a: &Entry, b: &Entry) -> bool {
    match (a, b) {
        (Entry::Conn(a), Entry::Conn(b)) => {
            let ConnEntry {
                ends,
                mark,
                state,
                flags,
                timeout,
                remaining: _,
                template,
            } = a;
            *ends == b.ends
                && *state == b.state
                && *flags == b.flags
                && *timeout == b.timeout
                && *mark == b.mark
                && *template == b.template
        }
        (Entry::Template(a), Entry::Template(b)) => {
            let TemplateEntry {
                service,
                af,
                proto,
                client,
                vaddr,
                vport,
                data,
                dest,
                timeout,
                remaining: _,
                assured,
            } = &**a;
            *dest == b.dest
                && *timeout == b.timeout
                && *assured == b.assured
                && *service == b.service
                && *af == b.af
                && *proto == b.proto
                && *client == b.client
                && *vaddr == b.vaddr
                && *vport == b.vport
                && *data == b.data
        }
        _ => false,
    }
}

/// Whether an entry's end has to be told: it moved far from what was told, or it moved and what was told is near, so that
/// nobody lets an entry go that is in use.
fn is_news(now: Tick, told: Tick, is: Tick, timeout: u32) -> bool {
    apart(told, is) >= shift_max(timeout) || is.since(told) > 0 && told.since(now) < RENEWED_BEFORE
}

/// How far an entry's end moves until it has to be told, in ticks.
pub(super) fn shift_max(timeout: u32) -> u32 {
    (timeout / 4).clamp(1, SHIFT_MAX)
}

/// How far two moments are apart.
fn apart(a: Tick, b: Tick) -> u32 {
    a.since(b).max(b.since(a))
}

/// Whether two entries with one key have the same real server.
pub(super) fn same_server(a: &Entry, b: &Entry) -> bool {
    match (a, b) {
        (Entry::Conn(a), Entry::Conn(b)) => a.ends == b.ends,
        (Entry::Template(a), Entry::Template(b)) => a.dest == b.dest,
        _ => false,
    }
}
