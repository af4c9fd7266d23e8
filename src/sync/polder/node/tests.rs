//! Nodes that talk to each other in memory.

use std::collections::BTreeMap;

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
        self.nodes[at].pass_begin(self.now);
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

#[test]
fn who_is_heard_but_not_followed_yet_may_have_what_is_missing() {
    let mut bed = Bed::new(&[Role::Both; 3]);
    bed.own[1] = (1..=100).map(|port| conn(port, 80_000, None)).collect();
    // The first hears both others, but only the third hears it.
    bed.keep = Box::new(|from, to| (from, to) != (0, 1));
    bed.run(400);
    let third = bed.nodes[2].boot();
    let first = &bed.nodes[0];
    assert!(first.receiver(third).is_some_and(|r| r.synced().is_some()));
    assert!(!first.is_ready(bed.now), "the second may have anything");
    bed.keep = Box::new(|_, _| true);
    bed.run(500);
    assert_eq!(bed.tables[0].len(), 100);
    assert!(bed.nodes[0].is_ready(bed.now));
}

#[test]
fn a_director_that_was_ready_stays_so_unless_it_is_found_short() {
    let mut bed = Bed::new(&[Role::Both; 2]);
    bed.nodes[0].assume_ready();
    bed.own[1] = (1..=100).map(|port| conn(port, 80_000, None)).collect();
    for _ in 0..50 {
        bed.run(20);
        assert!(bed.nodes[0].is_ready(bed.now));
    }
    let mut bed = Bed::new(&[Role::Both; 2]);
    bed.nodes[0].assume_ready();
    bed.own[1] = (1..=100).map(|port| conn(port, 80_000, None)).collect();
    bed.takes = false;
    bed.run(1500);
    assert!(!bed.nodes[0].is_ready(bed.now), "its tables take nothing");
}

#[test]
fn numbers_that_nobody_reaches_break_nothing() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    bed.run(300);
    let (now, from) = (bed.now, bed.nodes[0].boot());
    let mut sealer = Sealer::new(from, keys());
    let mut bytes = Vec::new();
    // Counters go on where those of the genuine process are.
    for _ in 0..100_000 {
        sealer.seal(Kind::Lost, 3, true, &[], &mut bytes);
    }
    let mut say = |kind, body: &[u8]| {
        sealer.seal(kind, 3, true, body, &mut bytes);
        bed.nodes[1].receive(now, addr(0), &mut bytes.clone());
    };
    let lost = wire::encode_lost(&wire::Lost {
        up_to: u64::MAX - 3,
    });
    say(Kind::Lost, &lost);
    for seq in [u64::MAX - 1, u64::MAX, u64::MAX - 2, u64::MAX] {
        say(Kind::Stream, &seq.to_be_bytes());
    }
    bed.run(300);
}
