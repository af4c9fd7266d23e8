//! The `polder` format at work: a node, its socket, and the tables that it speaks for.
//!
//! Owns the order of a turn: datagrams in, a part of the walk over our own entries, what peers have into the tables,
//! datagrams out. What is said is [`crate::sync::polder`]'s.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::socket::{self, Link, Use};
use super::tables::{Finds, Peers, Tables};
use crate::forward::{PeerOutcome, PeerRule};
use crate::net::Tick;
use crate::sync::entry::{Entry, EntryId, TemplateEntry};
use crate::sync::polder::{Apply, Config, Keys, Node, Rejected, Role, Send, To, What};
use crate::sync::settings::{self, Settings};
use crate::worker::Plane;

/// Datagrams taken from the socket in one turn.
const RECEIVED_MAX: usize = 128;
/// Datagrams sent in one turn.
const SENT_MAX: usize = 256;
/// Entries put into the tables in one turn.
const APPLIED_MAX: usize = 4096;
/// Entries looked at in one turn where all have to be looked at.
pub const SLICE: u32 = 16_384;
/// How often what could not be installed is tried again although nothing has changed, in ticks.
const RETRY: u32 = 5 * Tick::PER_SECOND;
/// For how long what went wrong is told, in ticks.
const LATELY: u32 = 10 * Tick::PER_SECOND;

/// A node at work.
#[derive(Debug)]
pub struct Polder {
    plane: Arc<Plane>,
    tables: Tables,
    /// The node; its state is worth showing.
    pub node: Node,
    link: Link,
    buffer: Vec<u8>,
    tells: bool,
    interval: u32,
    /// What peers told of is walked, too: there is nobody who would tell of it again.
    pub adopts: bool,
    /// Walks over our own entries that ended.
    pub passes: u64,
    next_pass: Tick,
    /// A walk is over, and what it did not find is being told.
    ending: bool,
    /// What the tables had no room for at once.
    pending: Option<Apply>,
    /// What the socket had no room for.
    stuck: Option<Send>,
    /// Of the snapshot under which what could not be installed was tried last.
    generation: u64,
    retry: Tick,
    /// Datagrams that the kernel did not take.
    pub send_errors: u64,
    /// What it said last, and when.
    send_error: Option<(String, Tick)>,
}

/// The keys in a file.
///
/// # Errors
/// A sentence.
pub fn keys(path: Option<&Path>) -> Result<Keys, String> {
    let path = path.ok_or("there is no `sync.key_file`")?;
    Keys::read(path).map_err(|e| e.to_string())
}

impl Polder {
    /// Opens the socket and begins. `tables` are made when nothing can go wrong any more.
    ///
    /// # Errors
    /// A sentence.
    pub fn start(
        plane: &Arc<Plane>,
        tables: impl FnOnce() -> Tables,
        settings: &Settings,
        (name, boot): (String, u64),
        entries_max: usize,
    ) -> Result<Self, String> {
        let keys = keys(settings.key_file.as_deref())?;
        let role = match settings.role {
            settings::Role::Off => return Err("the role is `off`".to_owned()),
            settings::Role::Master => Role::Master,
            settings::Role::Backup => Role::Backup,
            settings::Role::Both => Role::Both,
        };
        let channel = settings.channel();
        let link = socket::open(&channel, 0, Use::Both)?;
        let now = plane.now();
        let interval = Tick::ticks(settings.interval).max(1);
        let config = Config {
            role,
            sync_id: settings.sync_id,
            name,
            max_len: channel.sent_max(),
            encrypt: settings.encrypt,
            entries_max,
            queue_max: settings.queue_max,
            slice: SLICE,
            interval,
            ready_coverage: settings.ready_coverage,
            ready_timeout: Tick::ticks(settings.ready_timeout),
        };
        let node = Node::new(config, keys, boot, now);
        Ok(Self::with(plane, tables(), node, link))
    }

    /// Ends it; what is known of peers' templates stays.
    #[must_use]
    pub fn end(mut self) -> Peers {
        let node = self.node;
        // Large mirrors take a while to be freed, for which nobody has to wait.
        let freed = std::thread::Builder::new().name("sync-end".to_owned());
        let _ = freed.spawn(move || drop(node));
        self.tables.take_peers()
    }

    /// A node that is set up, over a socket that is open.
    #[must_use]
    pub fn with(plane: &Arc<Plane>, tables: Tables, node: Node, link: Link) -> Self {
        let now = plane.now();
        let config = node.config();
        let (tells, interval) = (config.role != Role::Backup, config.interval);
        Self {
            plane: Arc::clone(plane),
            tables,
            node,
            link,
            buffer: vec![0; 65_536],
            tells,
            interval,
            adopts: false,
            passes: 0,
            next_pass: now,
            ending: false,
            pending: None,
            stuck: None,
            generation: 0,
            retry: now,
            send_errors: 0,
            send_error: None,
        }
    }

    /// What went wrong lately, as a sentence.
    #[must_use]
    pub fn problem(&self, now: Tick) -> Option<String> {
        let lately = |at: Tick| now.since(at) <= LATELY;
        if let Some((why, from, _)) = self.node.stranger().filter(|(_, _, at)| lately(*at)) {
            let hint = match why {
                Rejected::Version => "run releases that are neighbours",
                _ => "give both the same key file",
            };
            return Some(format!(
                "{from} sends what is refused ({}): {hint}",
                why.name()
            ));
        }
        let (said, _) = self.send_error.as_ref().filter(|(_, at)| lately(*at))?;
        Some(format!("messages can't be sent: {said}"))
    }

    /// The socket.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Does everything that there is to do at `now`, up to a bound. Whether there may be more at once.
    pub fn turn(&mut self, now: Tick) -> bool {
        let mut more = self.receive(now);
        self.node.poll(now);
        self.walk(now);
        more |= self.apply(now);
        more |= self.send(now);
        more || self.ending || self.tables.busy()
    }

    /// Ticks until there is something to do, unless a datagram comes.
    #[must_use]
    pub fn rest(&self, now: Tick) -> u32 {
        let pass = self.tells.then_some(self.next_pass);
        let wake = self.node.wake_at(now);
        let ticks = |at: Tick| if now.reached(at) { 0 } else { at.since(now) };
        pass.into_iter()
            .chain(wake)
            .map(ticks)
            .min()
            .unwrap_or(u32::MAX)
    }

    fn receive(&mut self, now: Tick) -> bool {
        for _ in 0..RECEIVED_MAX {
            let Ok((len, from)) = self.link.socket.try_recv_from(&mut self.buffer) else {
                return false;
            };
            self.node.receive(now, from, &mut self.buffer[..len]);
        }
        true
    }

    /// A part of the walk over our own entries.
    fn walk(&mut self, now: Tick) {
        let due = now.reached(self.next_pass) || self.node.wants_pass();
        if self.tells && !self.tables.passing() && !self.ending && due {
            self.next_pass = now.plus(self.interval);
            let adopts = self.node.pass_begin(now);
            self.tables.begin_pass(adopts || self.adopts);
        }
        let mut told = Told {
            node: &mut self.node,
            now,
        };
        self.ending |= self.tables.step(now, &mut told);
        if self.ending && self.node.pass_end(now) {
            self.ending = false;
            self.passes += 1;
        }
    }

    /// Puts what peers have into the tables.
    fn apply(&mut self, now: Tick) -> bool {
        let generation = self.plane.snapshot.load().generation;
        if generation != self.generation || now.reached(self.retry) {
            self.generation = generation;
            self.retry = now.plus(RETRY);
            self.node.retry_uninstalled();
        }
        let mut more = true;
        for _ in 0..APPLIED_MAX {
            let Some(apply) = self.pending.take().or_else(|| self.node.next_apply(now)) else {
                more = false;
                break;
            };
            if !self.apply_one(&apply, now) {
                self.pending = Some(apply);
                break;
            }
        }
        self.tables.flush();
        while let Some((peer, id, outcome)) = self.tables.next_outcome() {
            self.node.applied(peer, id, outcome != PeerOutcome::Refused);
        }
        more
    }

    /// `false` when it has to wait.
    fn apply_one(&mut self, apply: &Apply, now: Tick) -> bool {
        let (entry, rule) = match &apply.what {
            What::Install(entry) => (entry, PeerRule::Latest),
            What::Remove(entry) => (entry, PeerRule::Ended),
        };
        let ended = rule == PeerRule::Ended;
        let (peer, id) = (apply.peer, apply.id);
        match entry {
            Entry::Conn(conn) => {
                let link = apply.link.as_ref();
                return self.tables.install_conn((peer, id), conn, link, rule, now);
            }
            Entry::Template(template) if ended => self.tables.remove_template(template, now),
            Entry::Template(template) => {
                let there = self.tables.install_template(template, now);
                self.node.applied(peer, id, there);
            }
        }
        true
    }

    fn send(&mut self, now: Tick) -> bool {
        for _ in 0..SENT_MAX {
            let Some(send) = self.stuck.take().or_else(|| self.node.next_send(now)) else {
                return false;
            };
            let one;
            let targets = match send.to {
                To::Group => self.link.targets.as_slice(),
                To::Peer(addr) => {
                    one = [addr];
                    &one
                }
            };
            for target in targets {
                match self.link.socket.try_send_to(&send.bytes, *target) {
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        // Those who got it already know it by its number.
                        self.stuck = Some(send);
                        return true;
                    }
                    Err(e) => {
                        self.send_errors += 1;
                        self.send_error = Some((e.to_string(), now));
                    }
                }
            }
            self.node.sent(send.bytes);
        }
        true
    }
}

/// What a walk finds goes to the node.
struct Told<'a> {
    node: &'a mut Node,
    now: Tick,
}

impl Finds for Told<'_> {
    fn entry(&mut self, entry: Entry) {
        self.node.pass_entry(self.now, entry);
    }

    fn number(&self, template: &TemplateEntry) -> EntryId {
        self.node.template_id(template)
    }

    fn is_told(&self, entry: &Entry) -> bool {
        self.node.is_told(self.now, entry)
    }
}
