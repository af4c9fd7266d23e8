//! Nodes that talk to each other in memory.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::net::Af;
use crate::net::{Addr4, V4};
use crate::sync::entry::{ConnEntry, ServiceName};
use crate::sync::polder::receiver::What;
use crate::table::Ends;

fn keys() -> Keys {
    Keys::parse("1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
        .expect("a key")
}

fn config(name: &str, role: Role) -> Config {
    Config {
        role,
        sync_id: 3,
        name: name.to_owned(),
        max_len: 1472,
        encrypt: true,
        entries_max: 100_000,
        queue_max: 1000,
        interval: 100,
        ready_coverage: 0.99,
        ready_timeout: 3000,
    }
}

fn conn(port: u16, remaining: u32, template: Option<EntryId>) -> Entry {
    Entry::Conn(ConnEntry {
        ends: Ends::<V4> {
            proto: 6,
            caddr: Addr4(0x0a00_0001),
            cport: port,
            vaddr: Addr4(0x0a00_0002),
            vport: 80,
            daddr: Addr4(0x0a00_0003),
            dport: 80,
        }
        .into(),
        mark: 0,
        state: 1,
        flags: 0,
        timeout: 90_000,
        remaining,
        template,
    })
}

fn template(n: u8, data: usize) -> TemplateEntry {
    let mut client = [0; 16];
    client[0] = n;
    TemplateEntry {
        service: ServiceName::Address {
            proto: 17,
            addr: [10, 0, 0, 2].into(),
            port: 5060,
        },
        af: Af::V4,
        proto: 17,
        client,
        vaddr: [0; 16],
        vport: 5060,
        data: (data > 0).then(|| vec![n; data].into()),
        dest: ([10, 0, 0, 9], 5060).into(),
        timeout: 30_000,
        remaining: 30_000,
        assured: false,
    }
}

fn addr(at: usize) -> SocketAddr {
    ([192, 0, 2, u8::try_from(at).expect("few")], 8848).into()
}

/// Nodes on one wire that loses what `keep` refuses, and what each was told to have.
struct Bed {
    now: Tick,
    nodes: Vec<Node>,
    tables: Vec<BTreeMap<EntryId, (Entry, Option<TemplateEntry>)>>,
    own: Vec<Vec<Entry>>,
    keep: Box<dyn FnMut(usize, usize) -> bool>,
    takes: bool,
}

impl Bed {
    fn new(roles: &[Role]) -> Self {
        // Shortly before ticks wrap.
        let now = Tick(u32::MAX - 500);
        let node = |(i, role): (usize, &Role)| {
            let name = format!("n{i}");
            Node::with_id_key(
                config(&name, *role),
                keys(),
                100 + i as u64,
                HashKey::from_seed(i as u64),
                now,
            )
        };
        Self {
            now,
            nodes: roles.iter().enumerate().map(node).collect(),
            tables: vec![BTreeMap::new(); roles.len()],
            own: vec![Vec::new(); roles.len()],
            keep: Box::new(|_, _| true),
            takes: true,
        }
    }

    fn pass(&mut self, at: usize) {
        if self.nodes[at].pass_begin(self.now) {
            let all = self.tables[at].values().map(|(entry, _)| entry);
            let orphans = all.filter(|e| !self.nodes[at].is_told(self.now, e));
            let orphans: Vec<_> = orphans.cloned().collect();
            self.own[at].extend(orphans);
        }
        for entry in self.own[at].clone() {
            self.nodes[at].pass_entry(self.now, entry);
        }
        self.nodes[at].pass_end(self.now);
    }

    fn run(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.now = self.now.plus(1);
            for at in 0..self.nodes.len() {
                if self.now.0.is_multiple_of(100) {
                    self.pass(at);
                }
                self.step(at);
            }
        }
    }

    fn step(&mut self, at: usize) {
        let now = self.now;
        self.nodes[at].poll(now);
        while let Some(Send { to, bytes }) = self.nodes[at].next_send(now) {
            assert!(bytes.len() <= 1472);
            for other in 0..self.nodes.len() {
                let is_for = to == To::Group || to == To::Peer(addr(other));
                if is_for && (self.keep)(at, other) {
                    self.nodes[other].receive(now, addr(at), &mut bytes.clone());
                }
            }
        }
        while let Some(apply) = self.nodes[at].next_apply(now) {
            match apply.what {
                What::Install(entry) => {
                    if self.takes {
                        self.tables[at].insert(apply.id, (entry, apply.link));
                    }
                    self.nodes[at].applied(apply.peer, apply.id, self.takes);
                }
                What::Remove(_) => {
                    self.tables[at].remove(&apply.id);
                    self.nodes[at].applied(apply.peer, apply.id, true);
                }
            }
        }
    }
}

#[test]
fn a_director_that_returns_is_ready_once_it_has_what_its_former_life_told() {
    // Away so short that it is hardly missed, missed, and so long that it is forgotten.
    for away in [REPLACED_AFTER + 5, 500, FORGOTTEN_AFTER + 500] {
        let mut bed = Bed::new(&[Role::Both, Role::Both]);
        bed.own[0] = (0..3000).map(|n| conn(n, 90_000, None)).collect();
        bed.run(300);
        assert_eq!(bed.tables[1].len(), 3000);
        bed.keep = Box::new(|_, _| false);
        bed.run(away);
        bed.own[0].clear();
        let config = config("n0", Role::Both);
        let key = HashKey::from_seed(7);
        bed.nodes[0] = Node::with_id_key(config, keys(), 200, key, bed.now);
        bed.keep = Box::new(|_, _| true);
        let mut waited = 0;
        while !bed.nodes[0].is_ready(bed.now) {
            bed.run(1);
            waited += 1;
            assert!(waited < 500, "away for {away} ticks");
        }
        assert_eq!(bed.tables[0].len(), 3000, "away for {away} ticks");
    }
}

#[test]
fn what_a_living_peer_tells_of_is_not_told_by_another() {
    let mut bed = Bed::new(&[Role::Both, Role::Both, Role::Both]);
    bed.own[0] = (0..100).map(|n| conn(n, 90_000, None)).collect();
    bed.own[2] = (200..220).map(|n| conn(n, 90_000, None)).collect();
    bed.run(300);
    assert_eq!(bed.tables[1].len(), 120);
    bed.own[0].clear();
    bed.keep = Box::new(|from, to| from != 0 && to != 0);
    bed.run(500);
    assert!(bed.own[1].is_empty(), "the dead one may come back");
    let key = HashKey::from_seed(7);
    bed.nodes[0] = Node::with_id_key(config("n0", Role::Both), keys(), 200, key, bed.now);
    bed.keep = Box::new(|_, _| true);
    bed.run(500);
    let ids = bed.tables[0].values().map(|(e, _)| format!("{e:?}"));
    assert_eq!(ids.collect::<BTreeSet<_>>().len(), 120, "all came back");
    let others = bed.own[1].iter().filter(|e| bed.own[2].contains(e));
    assert_eq!(others.count(), 0, "each by one of them");
    assert_eq!(bed.own[1].len() + bed.own[2].len(), 120);
}

#[test]
fn a_backup_gets_what_its_master_has() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    bed.own[0] = (0..3000).map(|n| conn(n, 90_000, None)).collect();
    bed.run(300);
    assert_eq!(bed.tables[1].len(), 3000);
    bed.own[0].truncate(10);
    bed.own[0].push(conn(60_000, 90_000, None));
    bed.run(110);
    let ports: Vec<_> = bed.tables[1].values().map(|(e, _)| e.clone()).collect();
    assert_eq!(ports.len(), 11);
    assert!(ports.contains(&conn(60_000, 90_000, None)));
    assert!(bed.nodes[1].is_ready(bed.now));
    let status = bed.nodes[0].status(bed.now);
    assert_eq!(status.peers.len(), 1);
    assert_eq!(status.peers[0].state, State::Synced);
    assert!((status.peers[0].coverage - 1.0).abs() < 1e-9, "{status:?}");
    assert_eq!(status.peers[0].name, "n1");
    let status = bed.nodes[1].status(bed.now);
    assert_eq!(status.peers[0].state, State::Synced);
    assert_eq!(status.rejected["forged"], 0);
}
