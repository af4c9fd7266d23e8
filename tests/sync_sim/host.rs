//! A director: a node and the tables that it replicates.
//!
//! The rules by which tables take what peers tell are those of the real ones: an entry is a director's own once traffic
//! touched it here, or once its pass adopted it because whoever told of it is gone. Own ones are told, and give way to a
//! peer's that was used as late or later; what a peer says has ended goes if it is not own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use polder::net::{Addr4, Af, HashKey, Tick, V4};
use polder::sync::entry::{ConnEntry, Entry, ServiceName, TemplateEntry};
use polder::sync::ipvs::AnyEnds;
use polder::sync::polder::{Apply, Config, Keys, Node, What};
use polder::table::Ends;

use super::world::Broken;

/// Ticks that an entry of a peer is kept beyond its time.
fn grace(timeout: u64) -> u64 {
    (timeout / 4).min(1000) + 200
}

/// What an entry is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    Template(u32),
    Conn(u32),
}

impl Key {
    pub fn session(self) -> u32 {
        match self {
            Self::Template(n) | Self::Conn(n) => n,
        }
    }
}

/// What a table has of it.
#[derive(Clone, Debug)]
pub struct Row {
    pub dest: u16,
    pub timeout: u64,
    pub deadline: u64,
    /// The process that told of it; none when it is own.
    pub origin: Option<u64>,
    /// The session whose template controls it.
    pub link: Option<u32>,
    /// Bytes of a template's key.
    pub data: usize,
    pub told: u64,
    /// When it was first taken from a peer.
    pub came: u64,
    /// How much of its time is only because peers do not tell of every packet.
    pub grace: u64,
}

pub struct Host {
    pub node: Node,
    pub table: BTreeMap<Key, Row>,
    pub up: bool,
    pub born: u64,
    /// Its clock is ahead of the world's by this.
    pub offset: u32,
    pub wake: u64,
    pub was_ready: bool,
    pub returned: bool,
    /// A pass is over, but what it did not see was not all told.
    ending: bool,
    config: Config,
    id: usize,
    /// Its tables take no more entries.
    pub room: usize,
    /// The session whose entries are traced.
    pub watched: Option<u32>,
}

pub fn addr(host: usize) -> SocketAddr {
    ([192, 0, 2, u8::try_from(host).expect("few")], 8848).into()
}

pub fn keys() -> Keys {
    Keys::parse("7 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
        .expect("a key")
}

impl Host {
    pub fn new(id: usize, config: Config, boot: u64, offset: u32, now: u64) -> Self {
        let mut host = Self {
            node: node(&config, boot, Tick(0)),
            table: BTreeMap::new(),
            up: true,
            born: now,
            offset,
            wake: now,
            was_ready: false,
            returned: false,
            ending: false,
            config,
            id,
            room: usize::MAX,
            watched: None,
        };
        host.node = node(&host.config, boot, host.tick(now));
        host
    }

    /// A new process, without anything that the old one had.
    pub fn restart(&mut self, boot: u64, now: u64) {
        self.up = true;
        self.born = now;
        self.wake = now;
        self.table.clear();
        self.was_ready = false;
        self.returned = true;
        self.ending = false;
        self.node = node(&self.config, boot, self.tick(now));
    }

    pub fn tick(&self, now: u64) -> Tick {
        Tick((now & 0xffff_ffff) as u32).plus(self.offset)
    }

    /// A tick of this host in the world's time, which is less than 20,000 seconds.
    pub fn world(&self, tick: Tick) -> u64 {
        u64::from(tick.0.wrapping_sub(self.offset))
    }

    pub fn boot(&self) -> u64 {
        self.node.boot()
    }

    fn say(&self, now: u64, key: Key, what: impl FnOnce() -> String) {
        if self.watched == Some(key.session()) {
            println!("{now:>6} host {}: {key:?} {}", self.id, what());
        }
    }

    /// Tells of all that is own.
    pub fn pass(&mut self, now: u64, broken: Broken) {
        let tick = self.tick(now);
        self.table.retain(|_, row| row.deadline > now);
        let adopts = self.node.pass_begin(tick) && broken != Broken::Adoption;
        let node = &mut self.node;
        let mut linked = HashSet::new();
        // Connections come after templates in the table and go first here: who tells of one tells of its template.
        for (key, row) in self.table.iter_mut().rev() {
            let late = if broken == Broken::Times && key.session() % 16 == 7 {
                row.deadline += 500;
                500
            } else {
                0
            };
            let dest = row.dest;
            if broken == Broken::Servers && key.session() % 16 == 9 {
                row.dest += 300;
            }
            let entry = entry(node, *key, row, now);
            row.deadline -= late;
            row.dest = dest;
            if adopts && row.origin.is_some() && !node.is_told(tick, &entry) {
                row.origin = None;
            }
            if linked.contains(key) {
                // To tell of it and not to own it would be an echo, on which its owner must not rely.
                row.origin = None;
            }
            if row.origin.is_none() && row.deadline > now + row.grace {
                row.told = now;
                linked.extend(row.link.map(Key::Template));
                let is_forgotten = match broken {
                    Broken::Tells => key.session() % 16 == 5,
                    Broken::Orphans => row.grace > 0,
                    _ => false,
                };
                if !is_forgotten {
                    node.pass_entry(tick, entry);
                }
            }
        }
        self.ending = true;
    }

    /// Goes on with the end of a pass.
    pub fn end_pass(&mut self, now: u64) {
        if self.ending {
            self.ending = !self.node.pass_end(self.tick(now));
            self.wake = now;
        }
    }

    /// Does what the node says is to be done to the tables.
    pub fn apply(
        &mut self,
        now: u64,
        ever: &HashMap<(Key, u16), u64>,
        slack: u64,
        broken: Broken,
    ) -> Result<(), String> {
        let tick = self.tick(now);
        while let Some(apply) = self.node.next_apply(tick) {
            let ok = match &apply.what {
                What::Install(entry) => self.install(now, &apply, entry, (ever, slack), broken)?,
                What::Remove(entry) => {
                    let (key, row) = row_of(&apply, entry, now)?;
                    self.remove(now, (key, row.dest), apply.peer, broken);
                    true
                }
            };
            self.node.applied(apply.peer, apply.id, ok);
        }
        Ok(())
    }

    fn remove(&mut self, now: u64, (key, dest): (Key, u16), peer: u64, broken: Broken) {
        self.say(now, key, || {
            format!("removed by {peer}; has {:?}", self.table.get(&key))
        });
        let is_peers = |row: &Row| row.origin.is_some() && row.dest == dest;
        if broken != Broken::Removals && self.table.get(&key).is_some_and(is_peers) {
            self.table.remove(&key);
        }
    }

    fn install(
        &mut self,
        now: u64,
        apply: &Apply,
        entry: &Entry,
        (ever, slack): (&HashMap<(Key, u16), u64>, u64),
        broken: Broken,
    ) -> Result<bool, String> {
        let (key, row) = row_of(apply, entry, now)?;
        let Some(&end) = ever.get(&(key, row.dest)) else {
            return Err(format!(
                "host {} is told {key:?} -> {} that nobody had",
                self.id, row.dest
            ));
        };
        // What is gone and had another server is put in once more, to be taken out.
        if row.deadline > (end + slack).max(now + 1) {
            return Err(format!(
                "at {now}: host {} is told that {key:?} ends at {}, {end} is right",
                self.id, row.deadline
            ));
        }
        if broken == Broken::Installs && key.session() % 16 == 3 {
            return Ok(true);
        }
        let takes = match self.table.get(&key) {
            None if self.table.len() >= self.room => return Ok(false),
            None => true,
            Some(old) => old.origin.is_some() || row.deadline + old.grace >= old.deadline,
        };
        self.say(now, key, || {
            format!("takes: {takes} {row:?}; has {:?}", self.table.get(&key))
        });
        if takes {
            let old = self.table.get(&key);
            let told = old.map_or(0, |old| old.told);
            let came = old.map_or(now, |old| old.came);
            let link = row.link.or_else(|| old.and_then(|old| old.link));
            let grace = grace(row.timeout);
            let deadline = row.deadline + grace;
            let row = Row {
                told,
                came,
                link,
                deadline,
                grace,
                ..row
            };
            self.table.insert(key, row);
        }
        Ok(true)
    }
}

fn node(config: &Config, boot: u64, now: Tick) -> Node {
    Node::with_id_key(
        config.clone(),
        keys(),
        boot,
        HashKey::from_seed(boot ^ 0x5eed),
        now,
    )
}

fn ticks(n: u64) -> u32 {
    u32::try_from(n).expect("times are short")
}

fn template(n: u32, row: &Row, now: u64) -> TemplateEntry {
    let mut client = [0; 16];
    client[..4].copy_from_slice(&n.to_be_bytes());
    TemplateEntry {
        service: ServiceName::Address {
            proto: 17,
            addr: [10, 0, 0, 1].into(),
            port: 5060,
        },
        af: Af::V4,
        proto: 17,
        client,
        vaddr: [10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        vport: 5060,
        data: Some(vec![n.to_le_bytes()[0]; row.data].into()),
        dest: (
            [10, 1, row.dest.to_be_bytes()[0], row.dest.to_be_bytes()[1]],
            5060,
        )
            .into(),
        timeout: ticks(row.timeout),
        remaining: ticks(row.deadline.saturating_sub(now + row.grace)),
        assured: false,
    }
}

fn entry(node: &Node, key: Key, row: &Row, now: u64) -> Entry {
    match key {
        Key::Template(n) => Entry::Template(Box::new(template(n, row, now))),
        Key::Conn(n) => Entry::Conn(ConnEntry {
            ends: Ends::<V4> {
                proto: 17,
                caddr: Addr4(n),
                cport: 5060,
                vaddr: Addr4(0x0a00_0001),
                vport: 5060,
                daddr: Addr4(0x0a01_0000 + u32::from(row.dest)),
                dport: 5060,
            }
            .into(),
            mark: 0,
            state: 1,
            flags: 0,
            timeout: ticks(row.timeout),
            remaining: ticks(row.deadline.saturating_sub(now + row.grace)),
            // The key of a session's template follows from its number.
            template: row.link.map(|n| node.template_id(&template(n, row, now))),
        }),
    }
}

fn key_of(entry: &Entry) -> Result<Key, String> {
    match entry {
        Entry::Conn(conn) => match conn.ends {
            AnyEnds::V4(ends) => Ok(Key::Conn(ends.caddr.0)),
            AnyEnds::V6(_) => Err("an entry of a family that nobody has".to_owned()),
        },
        Entry::Template(t) => {
            let [a, b, c, d, ..] = t.client;
            Ok(Key::Template(u32::from_be_bytes([a, b, c, d])))
        }
    }
}

fn row_of(apply: &Apply, entry: &Entry, now: u64) -> Result<(Key, Row), String> {
    let key = key_of(entry)?;
    let dest = match entry {
        Entry::Conn(conn) => conn.ends.all()[2],
        Entry::Template(t) => t.dest,
    };
    let std::net::IpAddr::V4(ip) = dest.ip() else {
        return Err("a server that nobody has".to_owned());
    };
    let [_, _, high, low] = ip.octets();
    let (link, data) = match (entry, &apply.link) {
        (Entry::Template(t), _) => (None, t.data.as_ref().map_or(0, |d| d.len())),
        (Entry::Conn(_), Some(link)) => {
            let link = Entry::Template(Box::new(link.clone()));
            (Some(key_of(&link)?.session()), 0)
        }
        (Entry::Conn(_), None) => (None, 0),
    };
    // The size of a template's key is part of it, and a connection's own number tells it.
    let data = if link.is_some() {
        super::world::data_len(key.session())
    } else {
        data
    };
    if link.is_some_and(|n| n != key.session()) {
        return Err(format!("{key:?} is linked to the template of {link:?}"));
    }
    let row = Row {
        dest: u16::from_be_bytes([high, low]),
        timeout: u64::from(entry.timeout()),
        deadline: now + u64::from(entry.remaining()),
        origin: Some(apply.peer),
        link,
        data,
        told: 0,
        came: now,
        grace: 0,
    };
    Ok((key, row))
}
