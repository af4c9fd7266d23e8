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
        slice: 300,
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
        while !self.nodes[at].pass_end(self.now) {}
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
        // Nothing is left to wait for once it is followed who was heard before.
        assert!(waited < 200, "away for {away} ticks, {waited} waited");
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

/// Runs until both have the same, and says what the backup's tables have.
fn settled(bed: &mut Bed) -> usize {
    bed.run(400);
    bed.tables[1].len()
}

#[test]
fn lost_datagrams_are_asked_for_again() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    bed.run(200);
    bed.own[0] = (0..5000).map(|n| conn(n, 90_000, None)).collect();
    let mut count = 0u32;
    bed.keep = Box::new(move |from, _| {
        count += 1;
        from == 1 || !count.is_multiple_of(3)
    });
    assert_eq!(settled(&mut bed), 5000);
    let told = bed.nodes[0].sender().expect("a master").told();
    assert!(told.resent > 0 && told.repaired == 0, "{told:?}");
}

#[test]
fn what_can_not_be_repeated_is_repaired() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    bed.run(200);
    bed.keep = Box::new(|_, _| false);
    // Enough for the history to go by, and some removals.
    for round in 0..8u16 {
        let entries = (0..40_000).map(|n| {
            let mut entry = conn(n, 90_000, None);
            if let Entry::Conn(conn) = &mut entry {
                conn.mark = u32::from(round);
            }
            entry
        });
        bed.own[0] = entries.collect();
        bed.run(100);
    }
    bed.own[0].truncate(39_000);
    bed.keep = Box::new(|_, _| true);
    assert_eq!(settled(&mut bed), 39_000);
    let status = bed.nodes[1].status(bed.now);
    assert_eq!(status.peers[0].state, State::Synced, "{status:?}");
    assert!(bed.nodes[0].sender().expect("a master").told().repaired > 0);
}

#[test]
fn a_backup_that_joins_late_is_given_everything_and_others_are_not_disturbed() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup, Role::Backup]);
    bed.own[0] = (0..20_000).map(|n| conn(n, 90_000, None)).collect();
    bed.keep = Box::new(|from, to| from != 2 && to != 2);
    bed.run(500);
    assert!(!bed.nodes[2].is_ready(bed.now));
    bed.keep = Box::new(|_, _| true);
    // Nothing that was installed is offered again by somebody else's repair.
    bed.tables[1].clear();
    bed.run(400);
    assert_eq!(bed.tables[2].len(), 20_000);
    assert!(bed.nodes[2].is_ready(bed.now));
    assert_eq!(bed.tables[1].len(), 0);
}

#[test]
fn what_the_tables_refuse_is_counted_and_offered_again() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    bed.own[0] = (0..100).map(|n| conn(n, 90_000, None)).collect();
    bed.takes = false;
    assert_eq!(settled(&mut bed), 0);
    let peer = bed.nodes[1].status(bed.now).peers.remove(0);
    assert_eq!(
        (peer.uninstalled, peer.entries, peer.coverage),
        (100, 100, 0.0)
    );
    assert!(!bed.nodes[1].is_ready(bed.now));
    let peer = bed.nodes[0].status(bed.now).peers.remove(0);
    assert_eq!((peer.uninstalled, peer.coverage), (100, 0.0));
    bed.takes = true;
    bed.nodes[1].retry_uninstalled();
    assert_eq!(settled(&mut bed), 100);
    assert!(bed.nodes[1].is_ready(bed.now));
}

#[test]
fn connections_come_with_their_templates_of_any_length() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    for (n, data) in [(1, 0), (2, 30), (3, 300), (4, 1400), (5, 4000)] {
        let template = template(n, data);
        let id = bed.nodes[0].template_id(&template);
        bed.own[0].push(conn(u16::from(n), 90_000, Some(id)));
        bed.own[0].push(Entry::Template(Box::new(template)));
    }
    assert_eq!(settled(&mut bed), 10);
    let links = bed.tables[1]
        .values()
        .filter_map(|(entry, link)| match entry {
            Entry::Conn(_) => Some(link.as_ref().map(|t| t.client[0])),
            Entry::Template(_) => None,
        });
    let mut links: Vec<_> = links.collect();
    links.sort_unstable();
    assert_eq!(links, [1, 2, 3, 4, 5].map(Some));
    assert_eq!(bed.nodes[1].status(bed.now).peers[0].state, State::Synced);
}

#[test]
fn a_connection_whose_template_comes_late_is_linked_then() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    let template = template(1, 20);
    let id = bed.nodes[0].template_id(&template);
    bed.own[0].push(conn(1, 90_000, Some(id)));
    assert_eq!(settled(&mut bed), 1);
    assert!(bed.tables[1].values().all(|(_, link)| link.is_none()));
    bed.own[0].push(Entry::Template(Box::new(template)));
    assert_eq!(settled(&mut bed), 2);
    assert_eq!(
        bed.tables[1]
            .values()
            .filter(|(_, link)| link.is_some())
            .count(),
        1
    );
}

#[test]
fn a_connection_whose_template_died_with_its_sender_is_taken_from_another() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup, Role::Master]);
    bed.run(300);
    let template = template(1, 20);
    let told_by = |at: usize, remaining| {
        let id = bed.nodes[at].template_id(&template);
        conn(1, remaining, Some(id))
    };
    let (newer, older) = (told_by(0, 80_000), told_by(2, 70_000));
    bed.own[0] = vec![newer.clone()];
    bed.pass(0);
    bed.step(0);
    bed.keep = Box::new(|from, to| from != 0 && to != 0);
    bed.own[2] = vec![Entry::Template(Box::new(template)), older];
    bed.run(30);
    bed.pass(2);
    bed.run(60);
    let links = |bed: &Bed| -> Vec<bool> {
        let conns = bed.tables[1].values();
        let conns = conns.filter(|(entry, _)| matches!(entry, Entry::Conn(_)));
        conns.map(|(_, link)| link.is_some()).collect()
    };
    assert_eq!(links(&bed), [true], "that of another, which is older");

    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    bed.run(300);
    bed.own[0] = vec![newer];
    bed.pass(0);
    bed.step(0);
    bed.keep = Box::new(|_, _| false);
    bed.run(150);
    assert_eq!(links(&bed), [false], "without one when it waited for long");
}

#[test]
fn what_does_not_fit_the_queue_is_told_later() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    bed.nodes[0] = Node::new(
        Config {
            queue_max: 10,
            ..config("n0", Role::Master)
        },
        keys(),
        100,
        bed.now,
    );
    bed.own[0] = (0..2000).map(|n| conn(n, 90_000, None)).collect();
    bed.run(1200);
    assert_eq!(bed.tables[1].len(), 2000);
    assert!(bed.nodes[0].sender().expect("a master").told().deferred > 0);
}

#[test]
fn what_is_gone_is_told_some_at_a_time_and_what_a_new_pass_cuts_off_is_told_by_that() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    bed.own[0] = (0..5000).map(|n| conn(n, 90_000, None)).collect();
    assert_eq!(settled(&mut bed), 5000);
    bed.own[0].truncate(100);
    let now = bed.now;
    let removed = |bed: &Bed| bed.nodes[0].sender().expect("a master").told().removes;
    bed.nodes[0].pass_begin(now);
    assert!(!bed.nodes[0].pass_end(now));
    let at_once = removed(&bed);
    assert!((1..=300).contains(&at_once), "{at_once}");
    // Nobody goes on with it.
    bed.pass(0);
    assert!(removed(&bed) >= 4900);
    assert_eq!(settled(&mut bed), 100);
}

#[test]
fn what_the_tables_refused_is_offered_again_some_at_a_time() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    bed.own[0] = (0..1000).map(|n| conn(n, 90_000, None)).collect();
    bed.takes = false;
    settled(&mut bed);
    let now = bed.now;
    bed.nodes[1].retry_uninstalled();
    assert_eq!(bed.nodes[1].wake_at(now), Some(now));
    let mut parts = 0;
    let mut offered = 0;
    let mut more = true;
    while more {
        more = bed.nodes[1].work(now);
        parts += 1;
        while bed.nodes[1].next_apply(now).is_some() {
            offered += 1;
        }
    }
    assert_eq!(offered, 1000);
    assert!(parts >= 4, "{parts}");
}

#[test]
fn what_was_told_long_ago_is_as_old_as_it_is_when_it_is_the_first_to_be_heard() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    let tick = |bed: &mut Bed| {
        bed.now = bed.now.plus(1);
        bed.step(0);
        bed.step(1);
    };
    while bed.nodes[1].receivers().count() == 0 {
        tick(&mut bed);
    }
    assert_eq!(
        bed.nodes[1].receivers().next().and_then(|r| r.marked()),
        None
    );
    bed.own[0] = vec![conn(1, 5000, None)];
    bed.pass(0);
    let mut bodies = Vec::new();
    for _ in 0..1000 {
        bed.now = bed.now.plus(1);
        bed.nodes[0].poll(bed.now);
        while let Some(send) = bed.nodes[0].next_send(bed.now) {
            bodies.push(send.bytes);
        }
    }
    // The newest comes first, and what was lost before it is repeated then.
    bodies.rotate_right(1);
    for body in &mut bodies {
        bed.nodes[1].receive(bed.now, addr(0), body);
    }
    let apply = bed.nodes[1].next_apply(bed.now).expect("it came");
    let What::Install(entry) = apply.what else {
        panic!("{apply:?}");
    };
    assert!((3990..=4030).contains(&entry.remaining()), "{entry:?}");
}

#[test]
fn what_follows_a_lost_datagram_is_as_old_as_it_is() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    bed.run(300);
    // More than one datagram of a tick, of which the first never comes.
    bed.own[0] = (0..60).map(|n| conn(n, 5000, None)).collect();
    bed.pass(0);
    let mut bodies = Vec::new();
    while let Some(send) = bed.nodes[0].next_send(bed.now) {
        bodies.push(send.bytes);
    }
    assert!(bodies.len() >= 2);
    let late = bed.now.plus(1000);
    let fresh = &mut bodies[1];
    bed.nodes[1].receive(late, addr(0), fresh);
    for ticks in 1..400 {
        bed.nodes[1].poll(late.plus(ticks));
        while bed.nodes[1].next_send(late.plus(ticks)).is_some() {}
    }
    let now = late.plus(400);
    let mut came = 0;
    while let Some(apply) = bed.nodes[1].next_apply(now) {
        let What::Install(entry) = apply.what else {
            continue;
        };
        assert!(entry.remaining() <= 4000, "{entry:?}");
        came += 1;
    }
    assert!(came > 0);
}

#[test]
fn nobody_heard_is_ready_after_its_time() {
    let mut bed = Bed::new(&[Role::Both]);
    bed.run(2999);
    assert!(!bed.nodes[0].is_ready(bed.now));
    bed.run(2);
    assert!(bed.nodes[0].is_ready(bed.now));
}

#[test]
fn who_was_ready_stays_so_when_its_master_dies_and_a_new_one_begins() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    bed.own[0] = (0..100).map(|n| conn(n, 90_000, None)).collect();
    assert_eq!(settled(&mut bed), 100);
    bed.keep = Box::new(|_, _| false);
    bed.run(400);
    assert!(bed.nodes[1].is_ready(bed.now));
    assert!(!bed.nodes[1].is_alive(100, bed.now));
    assert_eq!(bed.nodes[1].status(bed.now).peers[0].state, State::Lost);
    bed.nodes[0] = Node::new(config("n0", Role::Master), keys(), 200, bed.now);
    bed.own[0].clear();
    bed.keep = Box::new(|_, _| true);
    bed.run(400);
    // What the dead one told is left to its timers; its mirror is gone.
    assert_eq!(bed.tables[1].len(), 100);
    assert_eq!(bed.nodes[1].receivers().count(), 1);
    assert!(bed.nodes[1].is_ready(bed.now));
}

#[test]
fn genuine_processes_without_number_take_no_memory_without_bound() {
    let mut bed = Bed::new(&[Role::Both]);
    for boot in 1000..4000 {
        let mut other = Node::new(config("x", Role::Both), keys(), boot, bed.now);
        other.pass_begin(bed.now);
        other.pass_end(bed.now);
        other.poll(bed.now);
        while let Some(mut send) = other.next_send(bed.now) {
            bed.nodes[0].receive(bed.now, addr(9), &mut send.bytes);
        }
    }
    let (known, remembered) = bed.nodes[0].boots();
    assert!(known <= 64 && remembered <= 1024);
    assert_eq!(bed.nodes[0].receivers().count(), 0);
    assert!(bed.nodes[0].queued() <= 300);
}

#[test]
fn no_more_than_sixteen_are_followed_or_follow() {
    let mut bed = Bed::new(&[Role::Both; 20]);
    bed.run(600);
    for node in &bed.nodes {
        assert!(node.receivers().count() <= 16);
        let listeners = node.sender().expect("it tells").listeners.iter().count();
        assert!(listeners <= 16);
    }
    assert!(bed.nodes[0].rejections().of(Rejected::Peers) > 0);
}

#[test]
fn keys_change_without_a_gap() {
    let old = "1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let new = "2 f00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let parse = |text: String| Keys::parse(&text).expect("keys");
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    bed.own[0] = (0..10).map(|n| conn(n, 90_000, None)).collect();
    bed.run(200);
    for step in [
        format!("{old}\n{new} receive"),
        format!("{new}\n{old} receive"),
        new.to_owned(),
    ] {
        for at in [0, 1] {
            bed.nodes[at].set_keys(parse(step.clone()));
            let port = u16::try_from(bed.own[0].len()).expect("few");
            bed.own[0].push(conn(port, 90_000, None));
            bed.run(200);
        }
    }
    assert_eq!(bed.tables[1].len(), 16);
    let rejected = bed.nodes[1].rejections();
    assert_eq!(
        rejected.of(Rejected::Key) + rejected.of(Rejected::Forged),
        0
    );
}

#[test]
fn a_recorded_welcome_makes_nobody_trusted() {
    let now = Tick(100);
    let (mut old, mut backup) = (
        Node::new(config("a", Role::Master), keys(), 5, now),
        Node::new(config("b", Role::Backup), keys(), 6, now),
    );
    backup.poll(now);
    let mut hello = backup.next_send(now).expect("it greets the group");
    old.receive(now, addr(1), &mut hello.bytes);
    let welcome = old.next_send(now).expect("it answers");
    let mut again = Node::new(config("b", Role::Backup), keys(), 7, now);
    again.poll(now);
    again.receive(now, addr(0), &mut welcome.bytes.clone());
    assert_eq!(again.receivers().count(), 0);
    assert_eq!(again.rejections().of(Rejected::Stray), 1);
    // Whom it is for takes it, but not long after it asked.
    let late = now.plus(2 * HELLO_EVERY);
    backup.poll(late);
    backup.poll(late.plus(HELLO_EVERY));
    backup.receive(late, addr(0), &mut welcome.bytes.clone());
    assert_eq!(backup.receivers().count(), 0);
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

#[test]
fn status_tells_how_many_entries_there_should_be_and_what_came() {
    let mut bed = Bed::new(&[Role::Master, Role::Backup]);
    bed.own[0] = (0..100).map(|n| conn(n, 90_000, None)).collect();
    bed.takes = false;
    bed.run(300);
    let status = bed.nodes[1].status(bed.now);
    let [peer] = &status.peers[..] else {
        panic!("{status:?}")
    };
    let counts = (peer.entries, peer.should, peer.uninstalled);
    assert_eq!(counts, (100, 100, 100), "whatever is covered");
    assert!(status.records >= 100, "{status:?}");
    let status = bed.nodes[0].status(bed.now);
    assert_eq!(status.peers[0].should, 100);
}
