//! A director among those that know each other by a key.
//!
//! Owns who is heard and trusted, what is sent when, and both sides of replication. Knows no socket, no clock and no
//! table: the caller passes what came and virtual time, sends what it is given, and does to its tables what it is
//! told. Invariants: nothing that is not proven to be new and of a holder of a key changes anything; memory has a bound
//! that the configuration gives, whatever comes.

mod boots;
mod ready;
mod status;

use std::collections::VecDeque;
use std::net::SocketAddr;

use boots::Boots;
use ready::{Readiness, Seen};
use serde::Serialize;
pub use status::{Direction, Peer, State, Status, Traffic};

use super::keys::Keys;
use super::mirror::Mirror;
use super::receiver::{ALIVE, Apply, Bequest, Outgoing, Receiver, Welcomed, What};
use super::rounds::Budget;
use super::seal::{self, Sealer};
use super::sender::{FORGOTTEN_AFTER, MARK_EVERY, PEERS_MAX, Sender, To, same_server};
use super::wire::{self, Hello, Kind, Message, Report, Roles, Versions, Welcome};
use super::{Rejected, Rejections};
use crate::net::{HashKey, Tick};
use crate::sync::entry::{Entry, EntryId, TemplateEntry};

/// Ticks between two greetings of the whole group while somebody is unknown, and for which a nonce is used.
const HELLO_EVERY: u32 = 2 * Tick::PER_SECOND;
/// Ticks between two greetings of one process, and two answers to it.
const GREET_EVERY: u32 = Tick::PER_SECOND / 5;
/// Messages that wait besides those of the stream.
const CONTROL_MAX: usize = 256;
/// Ticks of silence after which a director of the same name as one that begins anew is that one's former process.
const REPLACED_AFTER: u32 = 3 * MARK_EVERY;
/// Passes at most until those who wait for the entries of the gone need not wait any longer.
const ADOPTING_MAX: u8 = 10;
/// By how many ticks a peer must have seen an entry used later, if it tells of another server, to be believed.
const MOVED_LATER: u32 = Tick::PER_SECOND / 4;
/// The same if it tells of the same server, for the director with the lower number; and by how many earlier it may
/// have seen it for the one with the higher. What datagrams take does not reach from one to the other.
const CLEARLY_LATER: u32 = Tick::PER_SECOND;
const AS_LATE: u32 = Tick::PER_SECOND / 4;
/// Ticks from the start for which readiness waits for those who are heard but can't be followed yet. All who are alive
/// answer sooner; replays of those who are not can't hold it up for longer.
const STRANGERS_FOR: u32 = 5 * Tick::PER_SECOND;
/// Ticks between two judgements of readiness at most.
const JUDGE_EVERY: u32 = Tick::PER_SECOND / 2;

/// What a director does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It tells of its entries.
    Master,
    /// It takes those of others.
    Backup,
    /// Both.
    Both,
}

impl Role {
    fn tells(self) -> bool {
        self != Self::Backup
    }

    fn listens(self) -> bool {
        self != Self::Master
    }
}

/// How a node is to behave.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What it does.
    pub role: Role,
    /// Which group of directors it belongs to; 0 hears all.
    pub sync_id: u8,
    /// Its name; each director has another.
    pub name: String,
    /// Bytes of a datagram's payload at most.
    pub max_len: usize,
    /// Bodies are encrypted.
    pub encrypt: bool,
    /// Entries of each mirror at most.
    pub entries_max: usize,
    /// Datagrams of the stream that wait at most.
    pub queue_max: usize,
    /// Entries that one call looks at, where all of a mirror have to be looked at.
    pub slice: u32,
    /// Ticks from one pass to the next. For the caller; the node takes them as they come.
    pub interval: u32,
    /// The share of each sender's entries that it takes to be ready, 0 to 1.
    pub ready_coverage: f64,
    /// Ticks without anybody heard after which it is ready nevertheless.
    pub ready_timeout: u32,
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// Where to.
    pub to: To,
    /// Its payload.
    pub bytes: Vec<u8>,
}

/// What the latest greetings ask to be repeated. There are two, so that an answer to the one before still counts.
#[derive(Debug)]
struct Nonces {
    state: u64,
    current: u64,
    previous: u64,
    since: Tick,
}

impl Nonces {
    fn new(seed: u64, now: Tick) -> Self {
        let mut nonces = Self {
            state: seed,
            current: 0,
            previous: 0,
            since: now,
        };
        nonces.turn(now);
        nonces.turn(now);
        nonces
    }

    fn turn(&mut self, now: Tick) {
        let [next, nonce, ..] = HashKey::from_seed(self.state).0;
        self.state = next;
        self.previous = std::mem::replace(&mut self.current, nonce);
        self.since = now;
    }

    fn get(&mut self, now: Tick) -> u64 {
        if now.since(self.since) >= HELLO_EVERY {
            self.turn(now);
        }
        self.current
    }

    fn has(&self, nonce: u64) -> bool {
        nonce == self.current || nonce == self.previous
    }
}

/// Entries of senders that are gone: those that the tables still have become this director's own, in a pass that tells of
/// them too. Else a process that begins anew would not get from us what its former life told us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Orphans {
    /// There are none, as far as is known.
    None,
    /// The next pass is to tell of them.
    Wanted { passes: u8 },
    /// This pass does. `deferred` is how many differences had no room before it.
    Underway { passes: u8, deferred: u64 },
}

/// A director among others.
#[derive(Debug)]
pub struct Node {
    config: Config,
    sealer: Sealer,
    boots: Boots,
    nonces: Nonces,
    /// When the group is greeted next if somebody is unknown.
    hello_at: Tick,
    /// Somebody was heard who is not trusted yet.
    strangers: bool,
    began: Tick,
    sender: Option<Sender>,
    receivers: Vec<Receiver>,
    /// Mirrors of those that are not followed any more, to be freed.
    mirrors_gone: Vec<Mirror>,
    orphans: Orphans,
    /// The receiver that is asked first for something to apply.
    turn: usize,
    control: VecDeque<(To, Kind, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    outgoing: Vec<Outgoing>,
    readiness: Readiness,
    sent: Traffic,
    received: Traffic,
    /// Records that came from those who are not followed any more.
    records_before: u64,
    rejections: Rejections,
    stranger: Option<(Rejected, SocketAddr, Tick)>,
}

impl Node {
    /// A node that knows nobody. `boot` is a random number other than 0 that no other process has or had.
    #[must_use]
    pub fn new(config: Config, keys: Keys, boot: u64, now: Tick) -> Self {
        Self::with_id_key(config, keys, boot, HashKey::random(), now)
    }

    /// The same with a given secret for ids and digests, so that a run can be repeated.
    #[must_use]
    pub fn with_id_key(config: Config, keys: Keys, boot: u64, id_key: HashKey, now: Tick) -> Self {
        let sender = config.role.tells().then(|| {
            Sender::new(
                id_key,
                config.max_len,
                config.entries_max,
                config.queue_max,
                now,
            )
        });
        Self {
            sealer: Sealer::new(boot, keys),
            boots: Boots::default(),
            nonces: Nonces::new(boot, now),
            hello_at: now,
            strangers: false,
            began: now,
            sender,
            receivers: Vec::new(),
            mirrors_gone: Vec::new(),
            orphans: Orphans::None,
            turn: 0,
            control: VecDeque::new(),
            spare: Vec::new(),
            outgoing: Vec::new(),
            readiness: Readiness::new(config.role.listens(), config.ready_timeout, now),
            sent: Traffic::default(),
            received: Traffic::default(),
            records_before: 0,
            rejections: Rejections::default(),
            stranger: None,
            config,
        }
    }

    /// How it behaves.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The number of this process.
    #[must_use]
    pub fn boot(&self) -> u64 {
        self.sealer.boot()
    }

    /// Uses other keys from now on.
    pub fn set_keys(&mut self, keys: Keys) {
        self.sealer.set_keys(keys);
    }

    /// What was not taken.
    #[must_use]
    pub fn rejections(&self) -> &Rejections {
        &self.rejections
    }

    /// Begins a pass over the tables: every lasting entry of this director follows. `true` when entries that peers told
    /// of are to follow, too, but for those that [`Node::is_told`]; they are this director's own from now on.
    pub fn pass_begin(&mut self, _now: Tick) -> bool {
        let Some(sender) = &mut self.sender else {
            return false;
        };
        sender.pass_begin();
        let Orphans::Wanted { passes } = self.orphans else {
            return false;
        };
        let deferred = sender.told().deferred;
        self.orphans = Orphans::Underway { passes, deferred };
        true
    }

    /// Whether a pass should begin as soon as possible.
    #[must_use]
    pub fn wants_pass(&self) -> bool {
        self.sender.is_some() && matches!(self.orphans, Orphans::Wanted { passes: 0 })
    }

    /// Whether a peer that is alive tells of this entry.
    #[must_use]
    pub fn is_told(&self, now: Tick, entry: &Entry) -> bool {
        let mut alive = self.receivers.iter().filter(|r| r.is_alive(now));
        alive.any(|r| r.bequest == Bequest::Alive && r.has(entry))
    }

    /// An entry of the tables, its `remaining` as of `now`.
    #[inline]
    pub fn pass_entry(&mut self, now: Tick, entry: Entry) {
        if let Some(sender) = &mut self.sender {
            sender.pass_entry(now, entry);
        }
    }

    /// Ends a pass: what was told before and did not come in it is gone. `false` when there is more of that, for which it has
    /// to be called again; a pass that begins instead begins anew.
    pub fn pass_end(&mut self, now: Tick) -> bool {
        if let Some(sender) = &mut self.sender {
            // What was ours, and is a peer's as well, is the peer's now.
            let receivers = &mut self.receivers;
            let mut budget = Budget(self.config.slice);
            let offer = |entry: &Entry| receivers.iter_mut().for_each(|r| r.offer(entry));
            if !sender.pass_end(now, &mut budget, offer) {
                return false;
            }
            if let Orphans::Underway { passes, deferred } = self.orphans {
                let all = sender.told().deferred == deferred;
                if all || passes >= ADOPTING_MAX {
                    self.orphans = Orphans::None;
                    for receiver in &mut self.receivers {
                        receiver.bequest.settle();
                    }
                } else {
                    let passes = passes + 1;
                    self.orphans = Orphans::Wanted { passes };
                }
            }
        }
        true
    }

    /// The number of a template of this director, for the connections that it controls.
    #[must_use]
    pub fn template_id(&self, template: &TemplateEntry) -> EntryId {
        match &self.sender {
            Some(sender) => wire::id_of_template(sender.key(), template),
            None => EntryId(0),
        }
    }

    /// Takes a datagram. What is wrong with it is counted.
    pub fn receive(&mut self, now: Tick, from: SocketAddr, datagram: &mut [u8]) {
        if let Err(why) = self.try_receive(now, from, datagram) {
            self.rejections.note(why);
            if matches!(why, Rejected::Key | Rejected::Forged | Rejected::Version) {
                self.stranger = Some((why, from, now));
            }
        }
    }

    /// Who sent last what only somebody sends who has other keys or another release, and when.
    #[must_use]
    pub fn stranger(&self) -> Option<(Rejected, SocketAddr, Tick)> {
        self.stranger
    }

    fn try_receive(
        &mut self,
        now: Tick,
        from: SocketAddr,
        datagram: &mut [u8],
    ) -> Result<(), Rejected> {
        let len = datagram.len();
        // What costs little to find goes first: floods of forged datagrams don't get as far as the cipher.
        let claimed = seal::open_unchecked(datagram)?;
        if self.config.sync_id != 0 && claimed.sync_id != self.config.sync_id {
            return Err(Rejected::SyncId);
        }
        if claimed.boot == self.boot() {
            return Err(Rejected::Own);
        }
        if !self.boots.is_fresh(claimed.boot, claimed.counter) {
            return Err(Rejected::Replayed);
        }
        let opened = seal::open(self.sealer.keys(), datagram)?;
        let (receivers, sender) = (&self.receivers, &self.sender);
        let is_needed = |boot| {
            receivers.iter().any(|r| r.boot == boot)
                || sender.as_ref().is_some_and(|s| s.listeners.has(boot))
        };
        self.boots
            .note(now, opened.boot, opened.counter, is_needed)?;
        self.received.note(len);
        let message = wire::decode(opened.kind, opened.body)?;
        self.message(now, (opened.boot, from), opened.body, message)
    }

    fn message(
        &mut self,
        now: Tick,
        (boot, from): (u64, SocketAddr),
        body: &[u8],
        message: Message<'_>,
    ) -> Result<(), Rejected> {
        match message {
            Message::Stream(stream) => {
                if !self.config.role.listens() {
                    return Ok(());
                }
                let Some(receiver) = self.receivers.iter_mut().find(|r| r.boot == boot) else {
                    if let Some(known) = self.boots.get(boot) {
                        known.unfollowed = Some(now);
                    }
                    self.greet(now, boot, from);
                    return Err(Rejected::Untrusted);
                };
                // What came late or is of no use proves nothing of where and whether the sender is now.
                if receiver.is_news(stream.seq) {
                    receiver.heard = now;
                    receiver.addr = from;
                    receiver.bequest = Bequest::Alive;
                }
                receiver.stream(now, stream.seq, body, &mut self.rejections);
            }
            Message::Lost(lost) => {
                let receiver = self.receivers.iter_mut().find(|r| r.boot == boot);
                let receiver = receiver.ok_or(Rejected::Untrusted)?;
                receiver.heard = now;
                receiver.lost(now, lost.up_to, &mut self.rejections);
            }
            Message::Hello(hello) => self.hello(now, (boot, from), &hello)?,
            Message::Welcome(welcome) => self.welcome(now, (boot, from), &welcome)?,
            Message::Nack(nack) => {
                let sender = self.follower(now, (boot, from), nack.boot)?;
                if let Some(lost) = sender.nack(from, &nack) {
                    self.queue(To::Peer(from), Kind::Lost, wire::encode_lost(&lost));
                }
            }
            Message::Want(want) => {
                let sender = self.follower(now, (boot, from), want.boot)?;
                sender.want(now, boot, &want.what)?;
            }
            Message::Report(report) => self.report(now, (boot, from), report)?,
        }
        Ok(())
    }

    /// The telling side, for somebody who follows the stream `stream`.
    fn follower(
        &mut self,
        now: Tick,
        (boot, from): (u64, SocketAddr),
        stream: u64,
    ) -> Result<&mut Sender, Rejected> {
        if stream != self.boot() {
            return Err(Rejected::Stray);
        }
        let sender = self.sender.as_mut().ok_or(Rejected::Role)?;
        sender
            .listeners
            .heard(now, boot, from, self.boots.name(boot))?;
        Ok(sender)
    }

    fn report(
        &mut self,
        now: Tick,
        (boot, from): (u64, SocketAddr),
        report: Report,
    ) -> Result<(), Rejected> {
        let sender = self.follower(now, (boot, from), report.boot)?;
        let entries = sender.count_at(Tick(report.tick));
        sender.listeners.report(now, boot, report, entries)
    }

    /// Asks somebody who is not trusted yet who it is.
    fn greet(&mut self, now: Tick, boot: u64, from: SocketAddr) {
        self.strangers = true;
        let Some(known) = self.boots.get(boot).filter(|b| now.reached(b.hello_at)) else {
            return;
        };
        known.hello_at = now.plus(GREET_EVERY);
        self.say_hello(now, To::Peer(from));
    }

    fn say_hello(&mut self, now: Tick, to: To) {
        let hello = Hello {
            nonce: self.nonces.get(now),
            versions: Versions::OURS,
            name: &self.config.name,
        };
        let body = wire::encode_hello(&hello);
        self.queue(to, Kind::Hello, body);
    }

    fn hello(
        &mut self,
        now: Tick,
        (boot, from): (u64, SocketAddr),
        hello: &Hello<'_>,
    ) -> Result<(), Rejected> {
        let known = self.boots.get(boot).ok_or(Rejected::Untrusted)?;
        hello.name.clone_into(&mut known.name);
        let greeted = *known.greeted.get_or_insert(now);
        if self.has_to_wait(now, (boot, hello.name), greeted) {
            return Ok(());
        }
        let Some(sender) = &self.sender else {
            return Ok(());
        };
        if hello.versions.min > Versions::OURS.max || hello.versions.max < Versions::OURS.min {
            return Err(Rejected::Version);
        }
        let known = self.boots.get(boot).ok_or(Rejected::Untrusted)?;
        if !now.reached(known.welcome_at) {
            return Err(Rejected::Rate);
        }
        known.welcome_at = now.plus(GREET_EVERY);
        let welcome = Welcome {
            echo: hello.nonce,
            hello_boot: boot,
            next_seq: sender.next_seq(),
            id_key: *sender.key(),
            count: sender.entries() as u64,
            roles: Roles {
                master: self.config.role.tells(),
                backup: self.config.role.listens(),
            },
            versions: Versions::OURS,
            name: &self.config.name,
        };
        let body = wire::encode_welcome(&welcome);
        self.queue(To::Peer(from), Kind::Welcome, body);
        Ok(())
    }

    /// Whether somebody who greets has to wait, because it would take itself for complete without the entries of those
    /// who are gone: its former life, perhaps.
    fn has_to_wait(&mut self, now: Tick, (boot, name): (u64, &str), greeted: Tick) -> bool {
        let Some(sender) = &self.sender else {
            return false;
        };
        if sender.listeners.has(boot) {
            return false;
        }
        let mut waits = false;
        for r in self.receivers.iter_mut().filter(|r| r.boot != boot) {
            let is_namesake = r.name == name;
            let is_replaced = is_namesake && now.since(r.heard) >= REPLACED_AFTER;
            // It died a moment ago, unless it is heard on.
            waits |= is_namesake && !is_replaced && greeted.reached(r.heard);
            if r.bequest == Bequest::Alive && (is_replaced || !r.is_alive(now)) {
                r.bequest = Bequest::Waits;
                self.orphans = Orphans::Wanted { passes: 0 };
            }
            waits |= r.bequest == Bequest::Waits;
        }
        waits
    }

    fn welcome(
        &mut self,
        now: Tick,
        (boot, from): (u64, SocketAddr),
        welcome: &Welcome<'_>,
    ) -> Result<(), Rejected> {
        let is_answer = welcome.hello_boot == self.boot() && self.nonces.has(welcome.echo);
        if !is_answer || !self.config.role.listens() || !welcome.roles.master {
            return Err(Rejected::Stray);
        }
        if self.receivers.iter().any(|r| r.boot == boot) {
            return Ok(());
        }
        self.make_room(now)?;
        if let Some(known) = self.boots.get(boot) {
            known.begin_anew();
            known.unfollowed = None;
        }
        let who = Welcomed {
            boot,
            name: welcome.name.to_owned(),
            addr: from,
            key: welcome.id_key,
            next_seq: welcome.next_seq.max(1),
        };
        let receiver = Receiver::new(who, self.config.entries_max, now);
        self.receivers.push(receiver);
        self.judge(now);
        Ok(())
    }

    fn make_room(&mut self, now: Tick) -> Result<(), Rejected> {
        if self.receivers.len() < PEERS_MAX {
            return Ok(());
        }
        let silent = self.receivers.iter().enumerate();
        let silent = silent.filter(|(_, r)| !r.is_alive(now));
        let longest = silent.max_by_key(|(_, r)| now.since(r.heard));
        let (at, _) = longest.ok_or(Rejected::Peers)?;
        let gone = self.receivers.remove(at);
        self.leave(gone);
        Ok(())
    }

    /// Forgets what somebody told.
    fn leave(&mut self, gone: Receiver) {
        self.records_before += gone.records();
        if self.mirrors_gone.len() >= PEERS_MAX {
            self.mirrors_gone.remove(0);
        }
        self.mirrors_gone.push(gone.into_mirror());
    }

    fn queue(&mut self, to: To, kind: Kind, body: Vec<u8>) {
        // Whoever asks will ask again.
        if self.control.len() < CONTROL_MAX {
            self.control.push_back((to, kind, body));
        }
    }

    /// Does what it is time for.
    pub fn poll(&mut self, now: Tick) {
        if let Some(sender) = &mut self.sender {
            sender.poll(now);
        }
        let mut outgoing = std::mem::take(&mut self.outgoing);
        for at in 0..self.receivers.len() {
            let receiver = &mut self.receivers[at];
            receiver.poll(now, &mut outgoing, &mut self.rejections);
            let to = To::Peer(receiver.addr);
            for (kind, body) in outgoing.drain(..) {
                self.queue(to, kind, body);
            }
        }
        self.outgoing = outgoing;
        self.work(now);
        self.greet_group(now);
        self.forget(now);
        self.judge(now);
    }

    /// Goes on with what goes over all entries of mirrors; whether there is more of it. [`Node::poll`] does it, too.
    pub fn work(&mut self, now: Tick) -> bool {
        let mut budget = Budget(self.config.slice);
        for receiver in &mut self.receivers {
            receiver.work(now, &mut budget);
        }
        self.mirrors_gone.retain_mut(|m| !m.dismantle(&mut budget));
        self.has_work()
    }

    fn has_work(&self) -> bool {
        !self.mirrors_gone.is_empty() || self.receivers.iter().any(Receiver::has_work)
    }

    fn greet_group(&mut self, now: Tick) {
        if !self.config.role.listens() || !now.reached(self.hello_at) {
            return;
        }
        self.hello_at = now.plus(HELLO_EVERY);
        let nobody = !self.receivers.iter().any(|r| r.is_alive(now));
        if std::mem::take(&mut self.strangers) || nobody {
            self.say_hello(now, To::Group);
        }
    }

    /// Drops mirrors of processes that were replaced, or are silent for long.
    fn forget(&mut self, now: Tick) {
        let is_replaced = |old: &Receiver| {
            let newer = |r: &Receiver| {
                r.boot != old.boot && r.name == old.name && r.synced().is_some() && r.is_alive(now)
            };
            !old.is_alive(now) && self.receivers.iter().any(newer)
        };
        let is_over = |r: &Receiver| {
            let silent = now.since(r.heard);
            let drained = !r.has_apply();
            (is_replaced(r) || silent > FORGOTTEN_AFTER)
                && (drained || silent > 2 * FORGOTTEN_AFTER)
        };
        let over: Vec<u64> = self
            .receivers
            .iter()
            .filter(|r| is_over(r))
            .map(|r| r.boot)
            .collect();
        // What they told has to be ours before they are forgotten: who greets meanwhile has to wait for it.
        let tells = self.sender.is_some();
        for r in self.receivers.iter_mut().filter(|r| over.contains(&r.boot)) {
            if tells && r.bequest == Bequest::Alive {
                r.bequest = Bequest::Waits;
                self.orphans = Orphans::Wanted { passes: 0 };
            }
        }
        let is_bequeathed = |r: &Receiver| !tells || r.bequest == Bequest::Settled;
        let is_over = |r: &mut Receiver| over.contains(&r.boot) && is_bequeathed(r);
        let gone: Vec<_> = self.receivers.extract_if(.., is_over).collect();
        gone.into_iter().for_each(|r| self.leave(r));
    }

    fn judge(&mut self, now: Tick) {
        if !self.config.role.listens() {
            return;
        }
        let mut seen = Seen::None;
        for r in self.receivers.iter().filter(|r| r.is_alive(now)) {
            let covered = r.synced().is_some() && r.coverage() >= self.config.ready_coverage;
            seen = match (seen, covered) {
                (Seen::Short, _) | (_, false) => Seen::Short,
                _ => Seen::Covered,
            };
        }
        // Who tells and is not followed yet may have what the others lack.
        let may_lack = self.boots.is_unfollowed(now, ALIVE)
            && now.since(self.began) < STRANGERS_FOR
            && !self.readiness.is_ready();
        if seen == Seen::Covered && may_lack {
            seen = Seen::Short;
        }
        let was_sure = self.readiness.is_sure();
        self.readiness.judge(now, seen);
        if !was_sure && self.readiness.is_sure() {
            // Tables may have entries of before state sync was started, or was something else.
            self.orphans = Orphans::Wanted { passes: 0 };
        }
    }

    /// The next datagram to send now. [`Node::sent`] takes its buffer back.
    pub fn next_send(&mut self, now: Tick) -> Option<Send> {
        let mut bytes = self.spare.pop().unwrap_or_default();
        let (sync_id, encrypt) = (self.config.sync_id, self.config.encrypt);
        let to = if let Some((to, kind, body)) = self.control.pop_front() {
            self.sealer.seal(kind, sync_id, encrypt, &body, &mut bytes);
            to
        } else {
            let (to, body) = self.sender.as_mut()?.next(now)?;
            self.sealer
                .seal(Kind::Stream, sync_id, encrypt, body, &mut bytes);
            to
        };
        self.sent.note(bytes.len());
        Some(Send { to, bytes })
    }

    /// Takes the buffer of a datagram that was sent, to be used again.
    pub fn sent(&mut self, buffer: Vec<u8>) {
        if self.spare.is_empty() {
            self.spare.push(buffer);
        }
    }

    /// Datagrams that wait to be sent.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.control.len() + self.sender.as_ref().map_or(0, Sender::queued)
    }

    /// When to call [`Node::poll`] and [`Node::next_send`] next, at the latest.
    #[must_use]
    pub fn wake_at(&self, now: Tick) -> Option<Tick> {
        if !self.control.is_empty() || self.has_work() {
            return Some(now);
        }
        let sender = self.sender.as_ref().map(|s| s.wake_at(now));
        let receivers = self.receivers.iter().map(|r| r.wake_at(now));
        let listens = self.config.role.listens();
        let others = listens.then_some([self.hello_at, now.plus(JUDGE_EVERY)]);
        let all = receivers.chain(sender).chain(others.into_iter().flatten());
        all.reduce(|a, b| if a.reached(b) { b } else { a })
    }

    /// The next thing for the tables to do.
    pub fn next_apply(&mut self, now: Tick) -> Option<Apply> {
        for _ in 0..self.receivers.len() {
            self.turn = (self.turn + 1) % self.receivers.len();
            while let Some(apply) = self.receivers[self.turn].next_apply(now) {
                let another_counts = self.keeps(now, &apply) || self.is_older(now, &apply);
                if another_counts && self.receivers[self.turn].withhold(apply.id) {
                    continue;
                }
                self.offer_others(&apply);
                self.bequeath_anew(&apply);
                return Some(apply);
            }
        }
        None
    }

    /// Whether another peer that is alive saw an entry used later.
    fn is_older(&self, now: Tick, apply: &Apply) -> bool {
        let What::Install(entry) = &apply.what else {
            return false;
        };
        let theirs = now.plus(entry.remaining());
        let others = self.receivers.iter().filter(|r| r.boot != apply.peer);
        others
            .filter(|r| r.is_alive(now))
            .filter_map(|r| r.end_of(entry))
            .any(|end| end.since(theirs) > AS_LATE)
    }

    /// Whether an entry that a peer tells of, and this director too, stays this director's. Two that tell of the same must
    /// not leave it to each other: both would stop, and take it for ended.
    fn keeps(&self, now: Tick, apply: &Apply) -> bool {
        let (What::Install(entry), Some(sender)) = (&apply.what, &self.sender) else {
            return false;
        };
        let Some((told, ours)) = sender.told_of(entry) else {
            return false;
        };
        let theirs = now.plus(entry.remaining());
        let yields = if !same_server(told, entry) {
            theirs.since(ours) > MOVED_LATER
        } else if self.boot() > apply.peer {
            // As good as ours: one of both has to be the one who yields.
            theirs.plus(AS_LATE).since(ours) > 0
        } else {
            theirs.since(ours) > CLEARLY_LATER
        };
        !yields
    }

    /// What a dead one told, and is offered again after all of that became ours, has to become ours, too.
    fn bequeath_anew(&mut self, apply: &Apply) {
        let bequest = &mut self.receivers[self.turn].bequest;
        let is_install = matches!(apply.what, What::Install(_));
        if is_install && *bequest == Bequest::Settled && self.sender.is_some() {
            *bequest = Bequest::Waits;
            self.orphans = Orphans::Wanted { passes: 0 };
        }
    }

    /// What one sender has no more may be another's by now, who told of it when the tables still had it from the first.
    fn offer_others(&mut self, apply: &Apply) {
        if let What::Remove(entry) = &apply.what {
            for other in self.receivers.iter_mut().filter(|r| r.boot != apply.peer) {
                other.offer(entry);
            }
        }
    }

    /// How it went with an entry of [`Node::next_apply`]: `false` if the tables did not take it.
    pub fn applied(&mut self, peer: u64, id: EntryId, ok: bool) {
        if let Some(receiver) = self.receivers.iter_mut().find(|r| r.boot == peer) {
            receiver.applied(id, ok);
        }
    }

    /// Offers again what the tables did not take: a service was added, or there is room again. It takes some calls of
    /// [`Node::poll`].
    pub fn retry_uninstalled(&mut self) {
        for receiver in &mut self.receivers {
            receiver.retry_uninstalled();
        }
    }

    /// Whether the process that told of an entry is alive. What a dead one told is its listeners' own.
    #[must_use]
    pub fn is_alive(&self, peer: u64, now: Tick) -> bool {
        let receiver = self.receivers.iter().find(|r| r.boot == peer);
        receiver.is_some_and(|r| r.is_alive(now))
    }

    /// The listening side of a stream.
    #[must_use]
    pub fn receiver(&self, peer: u64) -> Option<&Receiver> {
        self.receivers.iter().find(|r| r.boot == peer)
    }

    /// The listening sides of all streams.
    pub fn receivers(&self) -> impl Iterator<Item = &Receiver> {
        self.receivers.iter()
    }

    /// The telling side.
    #[must_use]
    pub fn sender(&self) -> Option<&Sender> {
        self.sender.as_ref()
    }

    /// Processes that are known, and remembered.
    #[must_use]
    pub fn boots(&self) -> (usize, usize) {
        self.boots.len()
    }

    /// Takes it for ready until it is found not to be: its tables are those of a director that was.
    pub fn assume_ready(&mut self) {
        if self.config.role.listens() {
            self.readiness.assume();
        }
    }

    /// Whether it has what it needs to take over, as of the last [`Node::poll`].
    #[must_use]
    pub fn is_ready(&self, _now: Tick) -> bool {
        self.readiness.is_ready()
    }
}

#[cfg(test)]
mod tests;
