//! The listening side of one stream: a mirror of what one process has told.
//!
//! Owns the order of the stream, the mirror, and what the tables are still to do. Knows no key, no socket and no table.
//! Invariants: the mirror is what the datagrams up to the expected one make of it, each applied once and in order;
//! what waits for the tables is a set of the mirror's own entries, so that slow tables can't make it grow.
//!
//! Whoever skips a datagram is dirty, asks for digests of the buckets, and has those repaired that differ.

mod apply;
mod clock;
mod order;

use std::net::SocketAddr;

use apply::Queues;
pub use apply::{Apply, What};
use clock::Clock;
use order::Order;

use super::mirror::{BucketSet, Digest, Mirror, flag, worth};
use super::rounds::{Budget, DONE, Round};
use super::sender::{same, same_server, shift_max};
use super::wire::{self, Joiner, Kind, Message, Record, Report, Want, Wanted};
use super::{Rejected, Rejections};
use crate::net::{HashKey, Tick};
use crate::sync::entry::{Entry, EntryId, TemplateEntry};

/// Ticks without progress after which a repair is asked for again.
const REPAIR_AGAIN: u32 = Tick::PER_SECOND;
/// Ticks after which a vector is asked for again; it doubles each time up to the second figure.
const VECTOR_AGAIN: u32 = Tick::PER_SECOND / 2;
const VECTOR_AGAIN_MAX: u32 = 4 * Tick::PER_SECOND;
/// The same while there is no room for all entries, so that repairs can't help.
const VECTOR_AGAIN_FULL: u32 = 30 * Tick::PER_SECOND;
/// Ticks between two questions at least.
const ASK_EVERY: u32 = Tick::PER_SECOND / 10;
/// Ticks between two reports.
const REPORT_EVERY: u32 = Tick::PER_SECOND;
/// Ticks of silence after which a sender does not count as alive.
pub const ALIVE: u32 = 3 * Tick::PER_SECOND;
/// Ticks of silence after which entries whose time is over are dropped.
const SILENT: u32 = 10 * Tick::PER_SECOND;
/// Ticks that such entries get beyond their time.
const GRACE: u32 = 10 * Tick::PER_SECOND;

/// A message to the sender.
pub type Outgoing = (Kind, Vec<u8>);

/// The latest mark that was compared.
#[derive(Clone, Copy, Debug, Default)]
struct Compared {
    /// The sender's time and entries.
    tick: u32,
    count: u64,
    /// When it came.
    at: Tick,
}

/// A moment at which both mirrors were the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// When the mark came.
    pub at: Tick,
    /// When it was made, in the sender's time.
    pub tick: Tick,
}

/// What is to be repaired, and what was asked.
#[derive(Debug)]
struct Wants {
    /// Buckets that differ, as far as is known.
    buckets: BucketSet,
    /// Some of them were not asked for yet.
    is_news: bool,
    /// When a repair was asked for or went on.
    since: Tick,
    vector: bool,
    vector_at: Tick,
    vector_again: u32,
    asked: Option<Tick>,
}

/// Whether `a` is after `b`.
fn is_later(a: Tick, b: Tick) -> bool {
    a.since(b) > 0
}

/// What becomes of the entries of a sender in our tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bequest {
    /// They are the sender's.
    Alive,
    /// It is gone, and they are to be ours.
    Waits,
    /// They are ours.
    Settled,
}

impl Bequest {
    /// What waits is done.
    pub fn settle(&mut self) {
        if *self == Self::Waits {
            *self = Self::Settled;
        }
    }
}

/// The listening side of one stream.
#[derive(Debug)]
pub struct Receiver {
    /// The sending process.
    pub boot: u64,
    /// Its director's name.
    pub name: String,
    /// Where it was heard from last.
    pub addr: SocketAddr,
    /// When.
    pub heard: Tick,
    /// When it was welcomed.
    pub welcomed: Tick,
    /// Whose its entries are.
    pub bequest: Bequest,
    key: HashKey,
    order: Order,
    clock: Clock,
    joiner: Joiner,
    mirror: Mirror,
    wants: Wants,
    /// The bucket whose repair is under way.
    repairing: Option<u8>,
    dirty: bool,
    marked: Option<Compared>,
    agreed: Option<Agreed>,
    synced: Option<Tick>,
    reported: Tick,
    swept: Tick,
    queues: Queues,
    /// Live entries that the tables took, and those they refused.
    installed: usize,
    refused: usize,
    /// Templates came since the last mark.
    new_templates: bool,
    late_templates: bool,
    unlinked: usize,
    /// When connections were last looked at that were handed out without their templates, and those that wait for them.
    linked: Tick,
    waited: Tick,
    rounds: Rounds,
    overflow: u64,
    records: u64,
}

/// What goes over all entries, and is done some at a time.
#[derive(Debug, Default)]
struct Rounds {
    /// Entries of a silent sender whose time is over are dropped.
    sweep: Round,
    /// What the tables refused is offered again.
    retry: Round,
    /// Connections whose templates came after them are offered again.
    link: Round,
    /// How many of those that wait for their templates are still to be looked at.
    waiting: usize,
}

/// Who is listened to, as its welcome says.
#[derive(Clone, Debug)]
pub struct Welcomed {
    /// The process.
    pub boot: u64,
    /// Its director's name.
    pub name: String,
    /// Where it is.
    pub addr: SocketAddr,
    /// What it computes ids and digests with.
    pub key: HashKey,
    /// The first datagram of its stream that comes.
    pub next_seq: u64,
}

impl Receiver {
    /// One that knows nothing of the sender's entries, and asks for all.
    pub fn new(who: Welcomed, entries_max: usize, now: Tick) -> Self {
        Self {
            boot: who.boot,
            name: who.name,
            addr: who.addr,
            heard: now,
            welcomed: now,
            bequest: Bequest::Alive,
            key: who.key,
            order: Order::new(who.next_seq),
            clock: Clock::default(),
            joiner: Joiner::default(),
            mirror: Mirror::new(entries_max),
            wants: Wants {
                buckets: BucketSet::ALL,
                is_news: true,
                since: now,
                vector: false,
                vector_at: now,
                vector_again: VECTOR_AGAIN,
                asked: None,
            },
            repairing: None,
            dirty: true,
            marked: None,
            agreed: None,
            synced: None,
            reported: now,
            swept: now,
            queues: Queues::default(),
            installed: 0,
            refused: 0,
            new_templates: false,
            late_templates: false,
            unlinked: 0,
            linked: now,
            waited: now,
            rounds: Rounds::default(),
            overflow: 0,
            records: 0,
        }
    }

    /// Entries in the mirror.
    pub fn entries(&self) -> usize {
        self.mirror.len()
    }

    /// Whether the sender tells of this entry, whatever it says.
    pub fn has(&self, entry: &Entry) -> bool {
        self.mirror.get(wire::id_of(&self.key, entry)).is_some()
    }

    /// The digest of the mirror.
    pub fn digest(&self) -> Digest {
        self.mirror.digest()
    }

    /// When both mirrors were last known to be the same.
    pub fn agreed(&self) -> Option<Agreed> {
        self.agreed
    }

    /// When the mirror first had, or had again, all that the sender has.
    pub fn synced(&self) -> Option<Tick> {
        self.synced
    }

    /// Records of entries, and of those that are gone, that came.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Entries that the sender had at its last mark.
    pub fn theirs(&self) -> u64 {
        self.marked.map_or(0, |m| m.count)
    }

    /// When the last mark came.
    pub fn marked(&self) -> Option<Tick> {
        self.marked.map(|m| m.at)
    }

    /// The mirrors are known to differ, or not known to be the same.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether something came lately.
    pub fn is_alive(&self, now: Tick) -> bool {
        now.since(self.heard) <= ALIVE
    }

    /// Entries that the tables refused.
    pub fn refused(&self) -> usize {
        self.refused
    }

    /// Times that an entry was not kept because there are too many.
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    /// Datagrams, and their bytes, that wait for one before them.
    pub fn held(&self) -> (usize, usize) {
        self.order.held()
    }

    /// Slots in use, those of the dead too, and numbers in queues.
    pub fn kept(&self) -> (usize, usize) {
        (self.mirror.len() + self.mirror.dead(), self.queues.len())
    }

    /// Entries that the sender has and the tables too: those of buckets that are not known to differ.
    pub fn covered(&self) -> u64 {
        let differing: u64 = self
            .wants
            .buckets
            .iter()
            .map(|b| self.mirror.bucket(b).count)
            .sum();
        let lacking = self.mirror.len() - self.installed;
        (self.mirror.digest().count - differing).saturating_sub(lacking as u64)
    }

    /// The same as a share of what the sender has.
    #[allow(clippy::cast_precision_loss)]
    pub fn coverage(&self) -> f64 {
        match self.marked {
            None => 0.0,
            Some(m) if m.count == 0 && self.mirror.is_empty() => 1.0,
            Some(m) => (self.covered() as f64 / m.count.max(1) as f64).min(1.0),
        }
    }

    /// Whether this datagram of the stream was not applied yet.
    pub fn is_news(&self, seq: u64) -> bool {
        seq >= self.order.expected()
    }

    /// Takes a datagram of the stream. `body` is all of it.
    pub fn stream(&mut self, now: Tick, seq: u64, body: &[u8], rejected: &mut Rejections) {
        if !self.order.is_next(seq) {
            self.sight(now, body);
        }
        while !self.order.is_next(seq) {
            if self.order.hold(now, seq, body) {
                return;
            }
            rejected.note(Rejected::Ahead);
            self.skip(now, self.order.resume(seq), rejected);
        }
        self.order.advance();
        self.apply(now, seq, body, rejected);
        self.drain(now, rejected);
    }

    /// Looks at the sender's clock in a datagram that came out of its turn: what comes before it is older, and may have
    /// taken its time.
    fn sight(&mut self, now: Tick, body: &[u8]) {
        let Ok(Message::Stream(stream)) = wire::decode(Kind::Stream, body) else {
            return;
        };
        let mark = stream.records().find_map(|record| match record {
            Ok(Record::Mark(mark)) => Some(mark),
            _ => None,
        });
        if let Some(mark) = mark {
            self.clock.sight(now, Tick(mark.tick));
        }
    }

    /// The sender can't repeat datagrams up to this one.
    pub fn lost(&mut self, now: Tick, up_to: u64, rejected: &mut Rejections) {
        if let Some(next) = up_to.checked_add(1).filter(|n| *n > self.order.expected()) {
            self.skip(now, next, rejected);
        }
    }

    /// Applies what is held and comes next.
    fn drain(&mut self, now: Tick, rejected: &mut Rejections) {
        while let Some((seq, body)) = self.order.take() {
            self.apply(now, seq, &body, rejected);
        }
        self.order.settle(now);
    }

    /// Goes on with datagram `to`, whatever was before it.
    fn skip(&mut self, now: Tick, to: u64, rejected: &mut Rejections) {
        // What is held in front of it came; it is only its predecessors that are missing.
        while let Some((seq, body)) = self.order.take_before(to) {
            self.leap(now, seq);
            self.order.advance();
            self.apply(now, seq, &body, rejected);
        }
        self.leap(now, to);
        self.drain(now, rejected);
    }

    fn leap(&mut self, now: Tick, to: u64) {
        if !self.order.leap(to) {
            return;
        }
        self.joiner.reset();
        self.clock.leap();
        self.repairing = None;
        self.dirty = true;
        self.wants.vector = true;
        self.wants.vector_at = now;
        self.wants.vector_again = VECTOR_AGAIN;
    }

    fn apply(&mut self, now: Tick, seq: u64, body: &[u8], rejected: &mut Rejections) {
        let stream = match wire::decode(Kind::Stream, body) {
            Ok(Message::Stream(stream)) => stream,
            _ => return rejected.note(Rejected::Body),
        };
        let mut joiner = std::mem::take(&mut self.joiner);
        for record in joiner.records(&stream) {
            match record {
                Ok(record) => self.record(now, seq, record, rejected),
                Err(why) => rejected.note(why),
            }
        }
        self.joiner = joiner;
    }

    fn record(&mut self, now: Tick, seq: u64, record: Record<'_>, rejected: &mut Rejections) {
        self.records += u64::from(matches!(record, Record::Upsert(_) | Record::Remove(_)));
        match record {
            Record::Upsert(entry) => {
                if !self.upsert(now, seq, entry.into_owned()) {
                    self.overflow += 1;
                    rejected.note(Rejected::Overflow);
                }
            }
            Record::Remove(id) => {
                if let Some(at) = self.mirror.find(id) {
                    self.remove(at);
                }
            }
            Record::Mark(mark) => {
                let theirs = Digest {
                    count: mark.count,
                    sum: mark.sum,
                };
                self.mark(now, mark.tick, theirs);
            }
            Record::MarkVector {
                first_bucket,
                buckets,
            } => {
                for (bucket, theirs) in (first_bucket..=u8::MAX).zip(buckets.iter()) {
                    let ours = self.mirror.bucket(bucket);
                    self.compare(
                        bucket,
                        ours.count == u64::from(theirs.count) && ours.sum == theirs.sum,
                    );
                }
            }
            Record::RepairBegin(bucket) => self.repair_begin(bucket),
            Record::RepairEnd(bucket) => self.repair_end(now, bucket),
            // Pieces were joined; what is unknown is of a newer release.
            Record::Piece(_) | Record::Unknown { .. } => {}
        }
    }

    fn upsert(&mut self, now: Tick, seq: u64, entry: Entry) -> bool {
        let id = wire::id_of(&self.key, &entry);
        let worth = worth(wire::digest_of(&self.key, &entry), seq);
        let age = self.clock.age(now);
        let deadline = now.plus(entry.remaining().saturating_sub(age));
        let named = match self.repairing {
            Some(bucket) if bucket == wire::bucket_of(id) => flag::NAMED,
            _ => 0,
        };
        let Some(at) = self.mirror.find(id) else {
            self.new_templates |= matches!(entry, Entry::Template(_));
            let Some(at) = self.mirror.insert(id, entry, worth, deadline) else {
                return false;
            };
            self.mirror.slot_mut(at).flags |= named;
            self.enqueue(at);
            return true;
        };
        let slot = self.mirror.slot(at);
        let (was_live, installed) = (slot.is_live(), slot.is(flag::INSTALLED));
        let known = was_live
            && installed
            && slot.entry().is_some_and(|e| same(e, &entry))
            && !is_later(deadline, slot.deadline)
            && 2 * slot.deadline.since(deadline) <= shift_max(entry.timeout());
        if known {
            // Told again in a repair. The time stays as the tables have it, a little late, which is what datagrams take.
            self.mirror.revalue(at, worth);
            self.mirror.slot_mut(at).flags |= named;
            return true;
        }
        let moved = installed && slot.entry().is_some_and(|e| !same_server(e, &entry));
        if !self.mirror.replace(at, entry, worth, deadline) {
            return false;
        }
        if moved {
            self.mirror.slot_mut(at).flags |= flag::MOVED;
        }
        if !was_live && installed {
            self.installed += 1;
        }
        self.mirror.slot_mut(at).flags |= named;
        self.enqueue(at);
        true
    }

    /// Takes an entry out of the mirror, if it is there, and leaves word of it to the tables.
    fn remove(&mut self, at: u32) {
        if !self.mirror.slot(at).is_live() {
            return;
        }
        self.uncount(at);
        if self.mirror.slot(at).is(flag::QUEUED | flag::INSTALLED) {
            self.mirror.kill(at);
            self.enqueue(at);
        } else {
            self.mirror.free(at);
        }
    }

    /// Takes a live entry out of the counts of what the tables did with it.
    fn uncount(&mut self, at: u32) {
        let slot = self.mirror.slot_mut(at);
        let (installed, refused, unlinked) = (
            slot.is(flag::INSTALLED),
            slot.is(flag::REFUSED),
            slot.is(flag::UNLINKED),
        );
        slot.flags &= !(flag::REFUSED | flag::UNLINKED | flag::WAITED);
        self.installed -= usize::from(installed);
        self.refused -= usize::from(refused);
        self.unlinked -= usize::from(unlinked);
    }

    fn mark(&mut self, now: Tick, tick: u32, theirs: Digest) {
        self.clock.mark(now, Tick(tick));
        self.marked = Some(Compared {
            tick,
            count: theirs.count,
            at: now,
        });
        self.link(now);
        if self.mirror.digest() == theirs {
            self.agree(now, Tick(tick));
        } else if self.wants.buckets.is_empty() && !self.wants.vector {
            self.dirty = true;
            self.wants.vector = true;
        }
    }

    fn agree(&mut self, now: Tick, tick: Tick) {
        if self.dirty {
            self.dirty = false;
            self.synced = Some(now);
        }
        self.agreed = Some(Agreed { at: now, tick });
        self.wants.buckets = BucketSet::default();
        self.wants.is_news = false;
        self.wants.vector = false;
        self.wants.vector_at = now;
        self.wants.vector_again = VECTOR_AGAIN;
    }

    /// A bucket was compared.
    fn compare(&mut self, bucket: u8, is_same: bool) {
        if !is_same && !self.wants.buckets.has(bucket) {
            self.wants.is_news = true;
        }
        self.wants.buckets.set(bucket, !is_same);
        if bucket == u8::MAX {
            self.wants.vector = false;
        }
    }

    fn repair_begin(&mut self, bucket: u8) {
        self.repairing = Some(bucket);
        let slots: Vec<u32> = self.mirror.in_bucket(bucket).collect();
        for at in slots {
            self.mirror.slot_mut(at).flags &= !flag::NAMED;
        }
    }

    fn repair_end(&mut self, now: Tick, bucket: u8) {
        if self.repairing.take() != Some(bucket) {
            return;
        }
        let gone = |&at: &u32| !self.mirror.slot(at).is(flag::NAMED);
        let slots: Vec<u32> = self.mirror.in_bucket(bucket).filter(gone).collect();
        for at in slots {
            self.remove(at);
        }
        self.wants.buckets.set(bucket, false);
        self.wants.since = now;
        if self.wants.buckets.is_empty() && self.synced.is_none() {
            self.synced = Some(now);
        }
    }

    /// Does what it is time for; what is to be said to the sender goes into `out`.
    pub fn poll(&mut self, now: Tick, out: &mut Vec<Outgoing>, rejected: &mut Rejections) {
        if self.order.gives_up(now) {
            self.skip(now, self.order.resume(u64::MAX), rejected);
            self.drain(now, rejected);
        }
        // Of a sender that died nothing else would.
        self.link(now);
        if let Some(ranges) = self.order.nack(now) {
            let boot = self.boot;
            out.push((Kind::Nack, wire::encode_nack(&wire::Nack { boot, ranges })));
        }
        if let Some(what) = self.ask(now) {
            let boot = self.boot;
            out.push((Kind::Want, wire::encode_want(&Want { boot, what })));
        }
        if now.since(self.reported) >= REPORT_EVERY && self.is_alive(now) {
            self.reported = now;
            out.push((Kind::Report, wire::encode_report(&self.report())));
        }
        if now.since(self.heard) > SILENT && now.since(self.swept) >= Tick::PER_SECOND {
            self.swept = now;
            self.rounds.sweep.ask();
        }
    }

    /// Goes on with what goes over all entries.
    pub fn work(&mut self, now: Tick, budget: &mut Budget) {
        self.link_waiting(now, budget);
        self.link_late(budget);
        self.retry(budget);
        self.sweep(now, budget);
    }

    /// Whether there is something to go on with.
    pub fn has_work(&self) -> bool {
        let Rounds {
            sweep,
            retry,
            link,
            waiting,
        } = self.rounds;
        waiting > 0 || [sweep, retry, link].into_iter().any(Round::is_underway)
    }

    /// Its mirror, which takes a while to be freed when it is large.
    pub fn into_mirror(self) -> Mirror {
        self.mirror
    }

    /// When it is time for something next.
    pub fn wake_at(&self, now: Tick) -> Tick {
        if self.has_work() {
            return now;
        }
        let mut at = self.reported.plus(REPORT_EVERY);
        if !self.is_alive(now) {
            at = now.plus(Tick::PER_SECOND);
        }
        let others = [self.order.wake_at(), self.ask_at(), self.link_at()];
        for other in others.into_iter().flatten() {
            if at.reached(other) {
                at = other;
            }
        }
        if at.reached(now) { at } else { now }
    }

    fn report(&self) -> Report {
        Report {
            boot: self.boot,
            applied_seq: self.order.expected() - 1,
            tick: self.marked.map_or(0, |m| m.tick),
            have: self.mirror.digest().count,
            covered: self.covered(),
            uninstalled: self.refused as u64,
            dirty: self.dirty,
        }
    }

    /// When to ask for something next.
    fn ask_at(&self) -> Option<Tick> {
        let wants = &self.wants;
        let earliest = |at: Tick| match wants.asked.map(|asked| asked.plus(ASK_EVERY)) {
            Some(may) if may.reached(at) => may,
            _ => at,
        };
        if wants.vector {
            return Some(earliest(wants.vector_at));
        }
        if wants.buckets.is_empty() {
            return None;
        }
        let again = if wants.is_news { 0 } else { REPAIR_AGAIN };
        Some(earliest(wants.since.plus(again)))
    }

    fn ask(&mut self, now: Tick) -> Option<Wanted> {
        if !now.reached(self.ask_at()?) || !self.is_alive(now) {
            return None;
        }
        let wants = &mut self.wants;
        wants.asked = Some(now);
        if wants.vector {
            wants.vector_at = now.plus(wants.vector_again);
            let most = match self.mirror.has_room() {
                true => VECTOR_AGAIN_MAX,
                false => VECTOR_AGAIN_FULL,
            };
            wants.vector_again = (2 * wants.vector_again).min(most);
            return Some(Wanted::Vector);
        }
        wants.is_news = false;
        wants.since = now;
        Some(Wanted::Repair(wants.buckets.0))
    }

    /// Drops entries of a silent sender whose time is over. Tables have timers of their own.
    fn sweep(&mut self, now: Tick, budget: &mut Budget) {
        if now.since(self.heard) <= SILENT {
            return self.rounds.sweep.stop();
        }
        while let Some(at) = self.rounds.sweep.next(self.mirror.slots(), budget) {
            let slot = self.mirror.slot(at);
            if !slot.is_live() || !now.reached(slot.deadline.plus(GRACE)) {
                continue;
            }
            budget.take(DONE);
            self.uncount(at);
            let slot = self.mirror.slot_mut(at);
            slot.flags &= !flag::INSTALLED;
            if slot.is(flag::QUEUED) {
                self.mirror.kill(at);
            } else {
                self.mirror.free(at);
            }
            self.dirty = true;
        }
    }

    /// When the sender saw the entry with this one's key end, as it told. `None` too when its template is missing: then
    /// another's is better.
    pub fn end_of(&self, entry: &Entry) -> Option<Tick> {
        let at = self.mirror.find(wire::id_of(&self.key, entry))?;
        let slot = self.mirror.slot(at);
        (slot.is_live() && !self.lacks_template(at)).then_some(slot.deadline)
    }

    /// Offers an entry again that another sender does not have any more, if this one has it.
    pub fn offer(&mut self, entry: &Entry) {
        let id = wire::id_of(&self.key, entry);
        if let Some(at) = self
            .mirror
            .find(id)
            .filter(|&at| self.mirror.slot(at).is_live())
        {
            self.enqueue(at);
        }
    }

    /// The template with this number, if the sender told of it.
    fn template(&self, id: EntryId) -> Option<&TemplateEntry> {
        match self.mirror.get(id)? {
            Entry::Template(template) => Some(template),
            Entry::Conn(_) => None,
        }
    }
}
