//! The tables as state sync sees them: what this director has, walked page by page, and what peers have, put in.
//!
//! Owns the way from slots to addresses and back, and the commands to the workers. Knows no peer, no datagram and no
//! format. Nothing here waits: every call does what can be done now. Invariant: at most [`OUTSTANDING_MAX`] commands of
//! state sync wait for one worker.
//!
//! Cost: a page of 512 entries keeps a worker for some tens of microseconds; a template is read by the management core
//! alone.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::places::{PART, Places};
use crate::forward::director::{dest_of, is_peers, owner, session_hash};
use crate::forward::{PeerOutcome, PeerRule, PeerTerms, ServiceKind, Services, Side, Snapshot};
use crate::net::{Af, HashKey, Tick, V4, V6};
use crate::persist::PayloadKey;
use crate::sync::entry::{ConnEntry, Entry, EntryId, ServiceName, TemplateEntry};
use crate::sync::ipvs::AnyEnds;
use crate::table::{
    Conn, Dest, NewTemplate, Origin, Placed, Repoint, ServiceId, TemplateKey, TemplateRef,
    TemplateRow, flag,
};
use crate::worker::{Command, PeerRow, Plane, SyncPage, SyncRows, SyncWork};

/// Entries that a worker looks at for one page.
const PAGE: usize = 512;
/// Connections that a worker takes over at a time.
const BATCH: usize = 128;
/// Commands of state sync that may wait for one worker: with those of listings fewer than there is room for.
const OUTSTANDING_MAX: usize = 24;
/// Pages among them.
const PAGES_MAX: usize = 16;
/// Parts of the templates' places that are looked at in one step, and templates from which on that is enough.
const TEMPLATE_PARTS: u32 = 8;
const TEMPLATES_ENOUGH: usize = 1024;
/// Connections, told of or taken over, of which answers are taken in one step.
const COLLECTED_MAX: usize = 4096;
/// Longest time that an entry lives beyond what its peer said, in ticks: peers tell of what moved by more than 10 s, or a
/// quarter of the timeout if that is less, and a pass and the network take some time.
const GRACE_MAX: u32 = 10 * Tick::PER_SECOND;
const GRACE_MORE: u32 = 2 * Tick::PER_SECOND;

/// Flags that a peer learns.
const TOLD: u16 = flag::METHOD | flag::NOOUTPUT | flag::INACTIVE;

/// Ticks that an entry of a peer is kept beyond its time.
fn grace(timeout: u32) -> u32 {
    (timeout / 4).min(GRACE_MAX) + GRACE_MORE
}

/// Templates of peers, each with when its timer was last made to fire.
pub type Peers = Places<Tick>;

/// The tables of all workers, and the templates.
#[derive(Debug)]
pub struct Tables {
    plane: Arc<Plane>,
    owner_key: HashKey,
    links: Vec<Link>,
    /// The worker whose answers are taken first.
    collect_first: usize,
    outcomes: VecDeque<(u64, EntryId, PeerOutcome)>,
    pass: Option<Pass>,
    /// Numbers of templates.
    ids: Places<EntryId>,
    /// Templates of peers, each with when its timer was last made to fire.
    peers: Peers,
    names: Names,
    /// Half-open connections are walked, too.
    everything: bool,
    /// Connections whose peer is gone, to be made our own.
    orphans: Vec<AnyEnds>,
}

/// What is underway to and from one worker.
#[derive(Debug, Default)]
struct Link {
    outstanding: usize,
    batch: Vec<PeerRow>,
    #[allow(clippy::vec_box)] // They come and go as boxes.
    spare: Vec<Box<SyncWork>>,
}

/// A walk over everything.
#[derive(Debug)]
struct Pass {
    /// Where to go on with templates.
    templates: Option<u32>,
    /// Entries of peers that are gone become our own.
    adopts: bool,
    walks: Vec<Walk>,
}

/// A walk over one worker's tables.
#[derive(Debug, Clone, Copy)]
struct Walk {
    af: Option<Af>,
    /// The next page to ask for.
    cursor: u32,
    /// Pages that are asked for.
    pages: usize,
    /// The end of the present table was seen.
    ended: bool,
}

/// Slots of services by their names, for one build of them.
#[derive(Debug, Default)]
struct Names {
    of: Option<Arc<Services>>,
    slots: HashMap<ServiceName, ServiceId>,
}

impl Names {
    fn find(&mut self, snapshot: &Snapshot, name: &ServiceName) -> Option<ServiceId> {
        let current = |s: &Arc<Services>| Arc::ptr_eq(s, &snapshot.services);
        if !self.of.as_ref().is_some_and(current) {
            self.of = Some(Arc::clone(&snapshot.services));
            let services = snapshot.services_in_order();
            self.slots = services.map(|s| (name_of(&s.def.kind), s.id)).collect();
        }
        self.slots.get(name).copied()
    }
}

fn name_of(kind: &ServiceKind) -> ServiceName {
    match *kind {
        ServiceKind::Address { proto, addr, port } => ServiceName::Address { proto, addr, port },
        ServiceKind::Mark { af, mark } => ServiceName::Mark { af, mark },
    }
}

/// What a pass finds, one after the other: templates before connections.
pub trait Finds {
    /// An entry of this director.
    fn entry(&mut self, entry: Entry);
    /// The number of a template.
    fn number(&self, template: &TemplateEntry) -> EntryId;
    /// Whether a peer that is alive tells of an entry.
    fn is_told(&self, _entry: &Entry) -> bool {
        false
    }
}

impl Tables {
    /// The tables behind `plane`. `owner_key` says which worker has which connection.
    #[must_use]
    pub fn new(plane: Arc<Plane>, owner_key: HashKey) -> Self {
        let links = plane.workers.iter().map(|_| Link::default()).collect();
        Self {
            plane,
            owner_key,
            links,
            outcomes: VecDeque::new(),
            pass: None,
            ids: Places::default(),
            peers: Peers::default(),
            collect_first: 0,
            names: Names::default(),
            everything: false,
            orphans: Vec::new(),
        }
    }

    /// Walks half-open connections, too.
    #[must_use]
    pub fn with_everything(mut self) -> Self {
        self.everything = true;
        self
    }

    /// With what is known of peers' templates from before.
    #[must_use]
    pub fn with_peers(mut self, peers: Peers) -> Self {
        self.peers = peers;
        self
    }

    /// What is known of peers' templates, which outlives a change of settings as the templates do.
    #[must_use]
    pub fn take_peers(&mut self) -> Peers {
        std::mem::take(&mut self.peers)
    }

    /// Begins a walk, instead of one that is underway. With `adopts` what peers told of that are gone, and nobody else,
    /// becomes our own in it.
    pub fn begin_pass(&mut self, adopts: bool) {
        let walk = Walk {
            af: Some(Af::V4),
            cursor: 0,
            pages: 0,
            ended: false,
        };
        // Pages of the walk before may still come; they are as good as any.
        let pages = |w: Option<&Walk>| w.map_or(0, |w| w.pages);
        let before = self.pass.take();
        let walks = (0..self.links.len()).map(|i| Walk {
            pages: pages(before.as_ref().and_then(|p| p.walks.get(i))),
            ..walk
        });
        self.pass = Some(Pass {
            templates: Some(0),
            adopts,
            walks: walks.collect(),
        });
    }

    /// Whether a walk is underway.
    #[must_use]
    pub fn passing(&self) -> bool {
        self.pass.is_some()
    }

    /// Goes on with the walk as far as it goes without waiting; whether that was its end.
    pub fn step(&mut self, now: Tick, finds: &mut impl Finds) -> bool {
        let Some(mut pass) = self.pass.take() else {
            self.collect(None, now, finds);
            return false;
        };
        if let Some(at) = pass.templates {
            pass.templates = self.walk_templates(at, pass.adopts, now, finds);
            // Connections come after the templates that they name.
            self.pass = Some(pass);
            return false;
        }
        self.collect(Some(&mut pass), now, finds);
        let mut done = self.adopt();
        for (worker, walk) in pass.walks.iter_mut().enumerate() {
            if walk.ended && walk.pages == 0 {
                walk.af = match walk.af {
                    Some(Af::V4) => Some(Af::V6),
                    _ => None,
                };
                (walk.cursor, walk.ended) = (0, false);
            }
            let stopped = || {
                let shared = &self.plane.workers[worker];
                shared.stopped.load(std::sync::atomic::Ordering::Acquire)
            };
            let Some(af) = walk.af.filter(|_| !stopped()) else {
                continue;
            };
            done = false;
            while !walk.ended && walk.pages < PAGES_MAX {
                let page = self.links[worker].page(af, walk.cursor, (self.everything, pass.adopts));
                if !self.send(worker, page) {
                    break;
                }
                walk.pages += 1;
                walk.cursor = walk.cursor.saturating_add(PAGE as u32);
            }
        }
        self.pass = (!done).then_some(pass);
        done
    }

    fn walk_templates(
        &mut self,
        at: u32,
        adopts: bool,
        now: Tick,
        finds: &mut impl Finds,
    ) -> Option<u32> {
        let plane = Arc::clone(&self.plane);
        let snapshot = plane.snapshot.load();
        let mut at = at;
        let mut found = 0;
        for _ in 0..TEMPLATE_PARTS {
            let next = plane.templates.dump(at, PART, now, |row| {
                found += 1;
                self.found_template(&snapshot, &row, adopts, now, finds);
            });
            self.ids.tidy(at, &plane.templates);
            self.peers.tidy(at, &plane.templates);
            at = next?;
            if found >= TEMPLATES_ENOUGH {
                break;
            }
        }
        Some(at)
    }

    fn found_template(
        &mut self,
        snapshot: &Snapshot,
        row: &TemplateRow,
        adopts: bool,
        now: Tick,
        finds: &mut impl Finds,
    ) {
        let theirs = self.is_peers(row.at, now.plus(row.remaining));
        let Some(template) = template_entry(snapshot, row) else {
            return;
        };
        let id = finds.number(&template);
        self.ids.insert(row.at, id);
        let entry = Entry::Template(Box::new(template));
        if theirs {
            if !adopts || finds.is_told(&entry) {
                return;
            }
            self.peers.remove(row.at.index);
        }
        finds.entry(entry);
    }

    /// Whether a template is one that a peer told of and that nobody has used here.
    fn is_peers(&self, at: TemplateRef, deadline: Tick) -> bool {
        // Workers' clocks differ by a tick.
        let untouched = |set: Tick| set.plus(2).reached(deadline);
        self.peers
            .get(at.index)
            .is_some_and(|(life, set)| life == at.version && untouched(set))
    }

    /// Takes the workers' answers.
    fn collect(&mut self, mut pass: Option<&mut Pass>, now: Tick, finds: &mut impl Finds) {
        let mut left = COLLECTED_MAX;
        let workers = self.links.len();
        for n in 0..workers {
            let worker = (self.collect_first + n) % workers;
            if left == 0 {
                // Who had to wait comes first the next time.
                self.collect_first = worker;
                return;
            }
            while left > 0
                && let Some(mut work) = self.plane.workers[worker].sync_done.pop()
            {
                let link = &mut self.links[worker];
                link.outstanding = link.outstanding.saturating_sub(1);
                match &mut *work {
                    SyncWork::Install(rows) => {
                        left = left.saturating_sub(rows.len());
                        let done = rows.drain(..);
                        let refused = PeerOutcome::Refused;
                        self.outcomes
                            .extend(done.map(|r| (r.peer, r.id, r.outcome.unwrap_or(refused))));
                    }
                    SyncWork::Page(page) => {
                        let adopts = pass.as_ref().is_some_and(|p| p.adopts);
                        if let Some(pass) = &mut pass {
                            let walk = &mut pass.walks[worker];
                            walk.pages = walk.pages.saturating_sub(1);
                            let af = match page.rows {
                                SyncRows::V4(_) => Af::V4,
                                SyncRows::V6(_) => Af::V6,
                            };
                            walk.ended |= page.done && walk.af == Some(af);
                        }
                        let found = match &page.rows {
                            SyncRows::V4(rows) => rows.len(),
                            SyncRows::V6(rows) => rows.len(),
                        };
                        left = left.saturating_sub(found);
                        match &mut page.rows {
                            SyncRows::V4(rows) => self.find(rows, adopts, now, finds),
                            SyncRows::V6(rows) => self.find(rows, adopts, now, finds),
                        }
                    }
                }
                self.links[worker].spare.push(work);
            }
        }
    }

    fn find<F: Side>(
        &mut self,
        rows: &mut Vec<Conn<F>>,
        adopts: bool,
        now: Tick,
        finds: &mut impl Finds,
    ) where
        AnyEnds: From<crate::table::Ends<F>>,
    {
        for conn in rows.drain(..) {
            let entry = Entry::Conn(self.conn_entry(&conn, now));
            if is_peers(&conn) {
                if !adopts || finds.is_told(&entry) {
                    continue;
                }
                self.orphans.push(conn.ends().into());
            }
            self.own_template(conn.template, now, finds);
            finds.entry(entry);
        }
    }

    /// Who tells of a connection tells of its template, too: another director could not link them otherwise, and would
    /// let the template go.
    fn own_template(&mut self, index: u32, now: Tick, finds: &mut impl Finds) {
        let Some((life, _)) = self.peers.get(index) else {
            return;
        };
        self.peers.remove(index);
        let plane = Arc::clone(&self.plane);
        let snapshot = plane.snapshot.load();
        plane.templates.dump(index, 1, now, |row| {
            if row.at.version == life
                && let Some(template) = template_entry(&snapshot, &row)
            {
                finds.entry(Entry::Template(Box::new(template)));
            }
        });
    }

    /// Makes orphaned connections our own; whether that was all of them.
    fn adopt(&mut self) -> bool {
        let terms = PeerTerms {
            mark: 0,
            state: 0,
            flags: 0,
            age: 0,
            remaining: 0,
            grace: 0,
            in_pkts: 0,
            template: None,
            session: 0,
            rule: PeerRule::Orphaned,
        };
        while let Some(ends) = self.orphans.pop() {
            if !self.install(0, EntryId(0), &ends, &terms) {
                self.orphans.push(ends);
                return false;
            }
        }
        true
    }

    fn conn_entry<F: Side>(&self, conn: &Conn<F>, now: Tick) -> ConnEntry
    where
        AnyEnds: From<crate::table::Ends<F>>,
    {
        let template = self
            .ids
            .get(conn.template)
            .filter(|(life, _)| self.plane.templates.get(conn.template).version == *life);
        ConnEntry {
            ends: conn.ends().into(),
            mark: conn.mark,
            state: conn.state,
            flags: conn.flags() & TOLD,
            timeout: conn.timeout(),
            remaining: conn.remaining(now),
            template: template.map(|(_, id)| id),
        }
    }

    /// Asks for a connection of a peer to be taken over, or, by [`PeerRule::Ended`], to be removed. `link` is the template that
    /// controls it. What became of it comes by [`Self::next_outcome`]; `false` when that has to wait.
    pub fn install_conn(
        &mut self,
        (peer, id): (u64, EntryId),
        entry: &ConnEntry,
        link: Option<&TemplateEntry>,
        rule: PeerRule,
        now: Tick,
    ) -> bool {
        let inherited = rule == PeerRule::Inherited;
        let (template, session) = link
            .and_then(|link| self.find_template(link, now))
            .map_or((None, 0), |(at, session)| (Some(at), session));
        let terms = PeerTerms {
            mark: entry.mark,
            state: entry.state,
            flags: entry.flags,
            age: entry.timeout.saturating_sub(entry.remaining),
            remaining: entry.remaining,
            grace: if inherited { 0 } else { grace(entry.timeout) },
            // What was this director's own has been used.
            in_pkts: u32::from(inherited),
            template,
            session,
            rule,
        };
        self.install(peer, id, &entry.ends, &terms)
    }

    /// The same with the terms as they are.
    pub fn install(&mut self, peer: u64, id: EntryId, ends: &AnyEnds, terms: &PeerTerms) -> bool {
        let workers = self.links.len();
        let key = &self.owner_key;
        let worker = match ends {
            AnyEnds::V4(e) => owner::<V4>(key, workers, e.caddr, e.cport, e.proto),
            AnyEnds::V6(e) => owner::<V6>(key, workers, e.caddr, e.cport, e.proto),
        };
        let link = &mut self.links[worker];
        if link.batch.len() >= BATCH && !self.send_batch(worker) {
            return false;
        }
        self.links[worker].batch.push(PeerRow {
            peer,
            id,
            ends: *ends,
            terms: *terms,
            outcome: None,
        });
        true
    }

    /// Sends what has gathered to the workers.
    pub fn flush(&mut self) {
        for worker in 0..self.links.len() {
            if !self.links[worker].batch.is_empty() {
                self.send_batch(worker);
            }
        }
    }

    /// Whether something is underway to a worker.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.passing()
            || self
                .links
                .iter()
                .any(|l| l.outstanding > 0 || !l.batch.is_empty())
    }

    /// What became of a connection that was to be taken over: peer, number, outcome.
    pub fn next_outcome(&mut self) -> Option<(u64, EntryId, PeerOutcome)> {
        self.outcomes.pop_front()
    }

    fn send_batch(&mut self, worker: usize) -> bool {
        let rows = std::mem::take(&mut self.links[worker].batch);
        let work = Box::new(SyncWork::Install(rows));
        if self.links[worker].outstanding < OUTSTANDING_MAX {
            match self.plane.workers[worker]
                .commands
                .push(Command::Sync(work))
            {
                Ok(()) => {
                    let link = &mut self.links[worker];
                    link.outstanding += 1;
                    // The vector of an answer that came is as good as the one that went.
                    link.batch = link.spare_rows();
                    return true;
                }
                Err(Command::Sync(back)) => {
                    self.links[worker].batch = rows_of(*back);
                    return false;
                }
                Err(Command::List(_)) => return false,
            }
        }
        self.links[worker].batch = rows_of(*work);
        false
    }

    fn send(&mut self, worker: usize, work: Box<SyncWork>) -> bool {
        let link = &mut self.links[worker];
        if link.outstanding >= OUTSTANDING_MAX {
            link.spare.push(work);
            return false;
        }
        match self.plane.workers[worker]
            .commands
            .push(Command::Sync(work))
        {
            Ok(()) => {
                self.links[worker].outstanding += 1;
                true
            }
            Err(_) => false,
        }
    }

    /// Puts a peer's template in, or makes the one that is there what the peer says. `false` when there is no such
    /// service or server here, or no room.
    pub fn install_template(&mut self, entry: &TemplateEntry, now: Tick) -> bool {
        self.take_template(entry, Origin::Synced, now)
    }

    /// Puts a template in that was this director's own, in a process before this one.
    pub fn inherit_template(&mut self, entry: &TemplateEntry, now: Tick) -> bool {
        self.take_template(entry, Origin::Local, now)
    }

    fn take_template(&mut self, entry: &TemplateEntry, origin: Origin, now: Tick) -> bool {
        let plane = Arc::clone(&self.plane);
        let snapshot = plane.snapshot.load();
        let Some(service) = self.names.find(&snapshot, &entry.service) else {
            return false;
        };
        let Some(dest) = dest_of(&snapshot, service, entry.dest) else {
            return false;
        };
        let more = match origin {
            Origin::Local => 0,
            Origin::Synced => grace(entry.timeout),
        };
        let ticks = entry.remaining.saturating_add(more).max(1);
        let key = key_of(service, entry);
        let terms = TemplateTerms {
            timeout: entry.timeout,
            remaining: entry.remaining,
            ticks,
            assured: entry.assured,
            client: entry.client,
            moves: true,
            origin,
        };
        self.put_template(&snapshot, &key, dest, &terms, now)
    }

    /// The same with a key of this director's slots. Only where peers are not sure of the last word, the one that used a
    /// template last, `remaining` decides.
    pub fn put_template(
        &mut self,
        snapshot: &Snapshot,
        key: &TemplateKey<'_>,
        dest: &Dest,
        terms: &TemplateTerms,
        now: Tick,
    ) -> bool {
        let templates = &self.plane.templates;
        let hash = templates.hash(key);
        let (at, had) = match templates.lookup(key, hash, now) {
            Some((at, had)) => (at, Some(had)),
            None => {
                dest.shared.bind_template();
                let new = NewTemplate {
                    dest: dest.id,
                    timeout: terms.timeout,
                    origin: terms.origin,
                    source: terms.client,
                    service_limit: 0,
                    client_limit: 0,
                };
                match templates.insert(key, hash, &new, now) {
                    Ok(Placed::New(at)) => (at, None),
                    Ok(Placed::Existing(at, had)) => {
                        dest.shared.unbind_template();
                        (at, Some(had))
                    }
                    Err(_) => {
                        dest.shared.unbind_template();
                        return false;
                    }
                }
            }
        };
        if let Some(had) = had {
            let deadline = templates.deadline(at);
            let mine = deadline.is_none_or(|deadline| !self.is_peers(at, deadline));
            let newer = deadline.is_none_or(|deadline| now.plus(terms.remaining).reached(deadline));
            if terms.moves && mine && !newer {
                return true;
            }
            if terms.moves && had != dest.id {
                dest.shared.bind_template();
                if templates.repoint(at, had, dest.id) == Repoint::Moved {
                    if let Some(old) = snapshot.dest(had) {
                        old.shared.unbind_template();
                    }
                } else {
                    dest.shared.unbind_template();
                }
            }
        }
        if terms.assured {
            templates.assure(at);
        }
        templates.restart(at, terms.ticks, now);
        if terms.origin == Origin::Synced {
            let set = now.plus(terms.ticks);
            self.peers.insert(at, set);
        }
        true
    }

    /// Ends a template that a peer has ended, unless this director has used it.
    pub fn remove_template(&mut self, entry: &TemplateEntry, now: Tick) {
        let plane = Arc::clone(&self.plane);
        let snapshot = plane.snapshot.load();
        let Some(service) = self.names.find(&snapshot, &entry.service) else {
            return;
        };
        let key = key_of(service, entry);
        let templates = &plane.templates;
        if let Some((at, _)) = templates.lookup(&key, templates.hash(&key), now)
            && templates
                .deadline(at)
                .is_some_and(|deadline| self.is_peers(at, deadline))
        {
            templates.end(at);
            self.peers.remove(at.index);
        }
    }

    /// A template by its entry, with the number of its session if it is a payload session's.
    fn find_template(&mut self, entry: &TemplateEntry, now: Tick) -> Option<(TemplateRef, u64)> {
        let plane = Arc::clone(&self.plane);
        let snapshot = plane.snapshot.load();
        let service = self.names.find(&snapshot, &entry.service)?;
        let key = key_of(service, entry);
        let hash = plane.templates.hash(&key);
        let (at, _) = plane.templates.lookup(&key, hash, now)?;
        let keyed = snapshot
            .service(service)
            .is_some_and(|s| matches!(s.def.payload_key, Some(PayloadKey::Field(_))));
        let session = match &entry.data {
            Some(data) if keyed => session_hash(data, &self.owner_key),
            _ => 0,
        };
        Some((at, session))
    }
}

impl Link {
    /// A page to be asked for.
    fn page(&mut self, af: Af, cursor: u32, (everything, peers): (bool, bool)) -> Box<SyncWork> {
        let fits = |work: &SyncWork| match work {
            SyncWork::Page(page) => match page.rows {
                SyncRows::V4(_) => af == Af::V4,
                SyncRows::V6(_) => af == Af::V6,
            },
            SyncWork::Install(_) => false,
        };
        if let Some(i) = self.spare.iter().position(|work| fits(work)) {
            let mut work = self.spare.swap_remove(i);
            if let SyncWork::Page(page) = &mut *work {
                (page.cursor, page.peers, page.done) = (cursor, peers, false);
            }
            return work;
        }
        let rows = match af {
            Af::V4 => SyncRows::V4(Vec::with_capacity(PAGE)),
            Af::V6 => SyncRows::V6(Vec::with_capacity(PAGE)),
        };
        Box::new(SyncWork::Page(SyncPage {
            rows,
            cursor,
            everything,
            peers,
            done: false,
        }))
    }

    fn spare_rows(&mut self) -> Vec<PeerRow> {
        let install = |work: &SyncWork| matches!(work, SyncWork::Install(_));
        match self.spare.iter().position(|work| install(work)) {
            Some(i) => rows_of(*self.spare.swap_remove(i)),
            None => Vec::with_capacity(BATCH),
        }
    }
}

fn rows_of(work: SyncWork) -> Vec<PeerRow> {
    match work {
        SyncWork::Install(rows) => rows,
        SyncWork::Page(_) => Vec::with_capacity(BATCH),
    }
}

/// What a peer says of a template beside its key and server.
#[derive(Clone, Copy, Debug)]
pub struct TemplateTerms {
    /// Ticks from a use to the end.
    pub timeout: u32,
    /// Ticks that are left, as the peer has it.
    pub remaining: u32,
    /// Ticks after which it ends here.
    pub ticks: u32,
    /// A connection under it was established.
    pub assured: bool,
    /// The client, for limits.
    pub client: [u8; 16],
    /// Whether a template that is there is led to the peer's server, unless it was used here later. In IPVS it never is
    /// (specification §9.9).
    pub moves: bool,
    /// Who made it.
    pub origin: Origin,
}

fn key_of(service: ServiceId, entry: &TemplateEntry) -> TemplateKey<'_> {
    TemplateKey {
        service,
        af: entry.af,
        proto: entry.proto,
        client: entry.client,
        vaddr: entry.vaddr,
        vport: entry.vport,
        data: entry.data.as_deref(),
    }
}

/// A template as peers are told of it; nothing if its service or server is gone.
fn template_entry(snapshot: &Snapshot, row: &TemplateRow) -> Option<TemplateEntry> {
    let service = snapshot.service(row.key.service)?;
    let dest = snapshot.dest(row.dest)?;
    Some(TemplateEntry {
        service: name_of(&service.def.kind),
        af: row.key.af,
        proto: row.key.proto,
        client: row.key.client,
        vaddr: row.key.vaddr,
        vport: row.key.vport,
        data: row.data.as_deref().map(Into::into),
        dest: (dest.addr, dest.port).into(),
        timeout: row.timeout,
        remaining: row.remaining,
        assured: row.assured,
    })
}
