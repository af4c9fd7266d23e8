//! The world: who is up, what sessions there are, what goes wrong, and the attacker.

use std::collections::HashMap;

use polder::sync::polder::seal::Sealer;
use polder::sync::polder::wire::Kind;
use polder::sync::polder::{Config, Role, To, seal};

use super::check;
use super::host::{Host, Key, Row, addr, keys};
use super::network::{Faults, Network};

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// Tables ignore removals.
    Removals,
    /// Tables say that they took an entry, and did not.
    Installs,
    /// A director does not tell of some entries.
    Tells,
    /// What is replayed looks new.
    Replays,
    /// Entries of a dead peer are not told on.
    Orphans,
    /// Entries of a dead peer are never made ones own.
    Adoption,
    /// A director tells of another server than an entry has.
    Servers,
    /// A director tells of some entries as if they were used later than they were.
    Times,
}

/// What was seen, so that a world in which nothing happens is found.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub seeds: u64,
    pub sessions: u64,
    pub packets: u64,
    pub moves: u64,
    pub kills: u64,
    pub taken_over: u64,
    pub let_go: u64,
    pub returned_ready: u64,
    pub lost: u64,
    pub forged: u64,
    pub replayed: u64,
    pub resent: u64,
    pub repaired: u64,
    pub heal_ticks_max: u64,
}

impl Outcome {
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.sessions += other.sessions;
        self.packets += other.packets;
        self.moves += other.moves;
        self.kills += other.kills;
        self.taken_over += other.taken_over;
        self.let_go += other.let_go;
        self.returned_ready += other.returned_ready;
        self.lost += other.lost;
        self.forged += other.forged;
        self.replayed += other.replayed;
        self.resent += other.resent;
        self.repaired += other.repaired;
        self.heal_ticks_max = self.heal_ticks_max.max(other.heal_ticks_max);
    }
}

/// SplitMix64.
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).expect("it was one")
    }

    /// Whether something happens that does so `n` times of a thousand.
    pub fn chance(&mut self, n: u64) -> bool {
        n > 0 && self.below(1000) < n
    }
}

/// What clients know of a session.
#[derive(Clone, Debug)]
pub struct Session {
    pub n: u32,
    pub home: usize,
    pub dest: u16,
    pub changed: u64,
    /// From when on its home tells of it.
    pub safe_from: u64,
    /// No traffic before.
    pub quiet_until: u64,
    pub packets: Vec<u64>,
    pub timeout: u64,
    /// It changed its home, and had no packets since.
    pub is_heirloom: bool,
}

/// Every third session is a call, with a template.
fn is_call(n: u32) -> bool {
    n.is_multiple_of(3)
}

/// Bytes of a call's key: some are longer than a datagram.
pub fn data_len(n: u32) -> usize {
    if n.is_multiple_of(33) {
        1500
    } else {
        20 + (n % 300) as usize
    }
}

impl Session {
    pub fn keys(&self) -> Vec<Key> {
        let conn = Key::Conn(self.n);
        if is_call(self.n) {
            vec![Key::Template(self.n), conn]
        } else {
            vec![conn]
        }
    }

    pub fn link(&self) -> Option<u32> {
        is_call(self.n).then_some(self.n)
    }

    pub fn deadline(&self) -> u64 {
        self.packets.last().map_or(0, |p| p + self.timeout)
    }

    fn row(&self) -> Row {
        Row {
            dest: self.dest,
            timeout: self.timeout,
            deadline: self.deadline(),
            origin: None,
            link: None,
            data: data_len(self.n),
            told: 0,
            came: 0,
            grace: 0,
        }
    }
}

/// How a world is.
#[derive(Clone, Copy, Debug)]
struct Plan {
    hosts: usize,
    /// One master, the others backups, and nobody is killed before the end.
    fixed: bool,
    /// Sessions begin everywhere.
    active_active: bool,
    faults: Faults,
    /// Of a thousand, per tick.
    kills: u64,
    partitions: u64,
    migrations: u64,
    attacks: u64,
    starts: u64,
    duration: u64,
    small: bool,
}

impl Plan {
    fn random(rng: &mut Rng) -> Self {
        let fixed = rng.chance(250);
        let calm = rng.chance(250);
        Self {
            hosts: 2 + rng.index(2),
            fixed,
            active_active: !fixed && rng.chance(400),
            faults: if calm {
                Faults {
                    delay: rng.below(4),
                    ..Faults::default()
                }
            } else {
                Faults::random(rng)
            },
            kills: if !fixed && rng.chance(600) { 1 } else { 0 },
            partitions: if !calm && rng.chance(500) { 1 } else { 0 },
            migrations: if !fixed && rng.chance(300) { 2 } else { 0 },
            attacks: rng.below(100),
            starts: 5 + rng.below(60),
            duration: 1500 + rng.below(2500),
            small: rng.chance(60),
        }
    }
}

pub struct World {
    pub now: u64,
    pub hosts: Vec<Host>,
    pub sessions: Vec<Session>,
    pub network: Network,
    plan: Plan,
    rng: Rng,
    active: usize,
    next_session: u32,
    next_boot: u64,
    /// Everything that was ever true of an entry: its server, and when it would end with that.
    ever: HashMap<(Key, u16), u64>,
    pub lossless: bool,
    broken: Broken,
    trace: bool,
    outcome: Outcome,
    /// Of the attacker who has a key, where a rule is broken.
    sealers: Vec<(u64, Sealer)>,
}

/// Runs the world of a seed.
///
/// # Errors
/// What did not hold.
pub fn run(seed: u64, broken: Broken, trace: bool) -> Result<Outcome, String> {
    let mut rng = Rng(seed ^ 0x706f_6c64_6572);
    let mut plan = Plan::random(&mut rng);
    if matches!(broken, Broken::Orphans | Broken::Adoption) {
        // Nothing is seen of these where nobody dies, or where all that the dead told is over soon.
        plan.fixed = false;
        plan.small = false;
        plan.kills = 6;
    }
    let mut world = World::new(plan, rng, broken, trace);
    if trace {
        println!("seed {seed}: {plan:?}");
        for host in &world.hosts {
            println!("{} is {}", addr(0), host.boot());
        }
    }
    world.run()?;
    world.outcome.seeds = 1;
    world.outcome.lost = world.network.lost;
    Ok(world.outcome)
}

impl World {
    fn new(plan: Plan, mut rng: Rng, broken: Broken, trace: bool) -> Self {
        let mut world = Self {
            now: 1000,
            hosts: Vec::new(),
            sessions: Vec::new(),
            network: Network {
                faults: plan.faults,
                ..Network::default()
            },
            plan,
            active: 0,
            next_session: 1,
            next_boot: 0,
            ever: HashMap::new(),
            lossless: !plan.faults.loses() && plan.partitions == 0,
            broken,
            trace,
            outcome: Outcome::default(),
            sealers: Vec::new(),
            rng: Rng(rng.next()),
        };
        for i in 0..plan.hosts {
            let role = match (plan.fixed, i) {
                (false, _) => Role::Both,
                (true, 0) => Role::Master,
                (true, _) => Role::Backup,
            };
            let config = Config {
                role,
                sync_id: 1,
                name: format!("d{i}"),
                max_len: [600, 1472][rng.index(2)],
                encrypt: rng.chance(500),
                entries_max: if plan.small { 20 } else { 4000 },
                queue_max: if plan.small { 3 } else { 1000 },
                slice: [100, 300, 1000, 8192][rng.index(4)],
                interval: 100,
                ready_coverage: 0.99,
                ready_timeout: 600,
            };
            let boot = world.boot();
            // Some clocks wrap on the way.
            let offset = if rng.chance(300) {
                u32::MAX - 2500
            } else {
                rng.next() as u32
            };
            let mut host = Host::new(i, config, boot, offset, world.now);
            host.watched = super::number("POLDER_SESSION").and_then(|n| u32::try_from(n).ok());
            if plan.small {
                host.room = 30;
            }
            world.hosts.push(host);
        }
        world
    }

    fn boot(&mut self) -> u64 {
        self.next_boot += 1;
        self.rng.next() << 8 | self.next_boot
    }

    /// Whether nothing gets lost, at any time of this world.
    pub fn is_lossless(&self) -> bool {
        self.lossless
    }

    /// Whether there is room for everything.
    pub fn is_roomy(&self) -> bool {
        !self.plan.small
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>6} {}", self.now, what());
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let end = self.now + self.plan.duration;
        while self.now < end {
            self.troubles()?;
            self.tick()?;
        }
        self.say(|| "heals".to_owned());
        self.network.heal();
        for i in 0..self.hosts.len() {
            if !self.hosts[i].up {
                self.restart(i);
            }
        }
        let healed = self.now;
        // Traffic goes on, then only what keeps sessions alive.
        let mut agreed = None;
        while self.now < healed + 600 {
            self.tick()?;
            if agreed.is_none() && check::agree(self) {
                agreed = Some(self.now - healed);
            }
        }
        if self.is_roomy() && self.broken == Broken::Nothing {
            let took = agreed.ok_or_else(|| {
                let states: Vec<_> = self
                    .hosts
                    .iter()
                    .map(|h| h.node.status(h.tick(self.now)))
                    .collect();
                format!("they did not agree within six seconds of healing: {states:#?}")
            })?;
            self.outcome.heal_ticks_max = took;
        }
        self.plan.starts = 0;
        self.plan.migrations = 0;
        while self.now < healed + 1000 {
            self.tick()?;
        }
        if self.is_roomy() || self.broken != Broken::Nothing {
            check::converged(self)?;
        }
        self.lossless = true;
        self.finish()
    }

    /// Whoever has most sessions dies.
    fn finish(&mut self) -> Result<(), String> {
        let homes = |h: usize| self.sessions.iter().filter(|s| s.home == h).count();
        let victim = (0..self.hosts.len())
            .max_by_key(|h| homes(*h))
            .expect("there are two");
        self.kill(victim)?;
        // Those who took over tell each other of it, and go on.
        let until = self.now + 1000;
        while self.now < until {
            self.tick()?;
        }
        for i in (0..self.hosts.len()).filter(|i| *i != victim) {
            self.count(i);
        }
        Ok(())
    }

    /// What goes wrong by itself.
    fn troubles(&mut self) -> Result<(), String> {
        if self.rng.chance(self.plan.kills) && self.rng.chance(500) {
            let victim = self.rng.index(self.hosts.len());
            let ups = self.hosts.iter().filter(|h| h.up).count();
            if self.hosts[victim].up && ups > 1 {
                self.kill(victim)?;
            }
        }
        for i in 0..self.hosts.len() {
            if !self.hosts[i].up && self.rng.chance(4) {
                self.restart(i);
            }
        }
        if self.rng.chance(self.plan.partitions) {
            let (a, b) = (
                self.rng.index(self.hosts.len()),
                self.rng.index(self.hosts.len()),
            );
            let until = self.now + self.rng.below(1500);
            self.say(|| format!("{a} and {b} are cut off until {until}"));
            self.network.cut_off(a, b, until);
            if self.rng.chance(800) {
                self.network.cut_off(b, a, until);
            }
        }
        Ok(())
    }

    /// A director dies, and its sessions go to others.
    fn kill(&mut self, victim: usize) -> Result<(), String> {
        self.say(|| format!("host {victim} is killed"));
        self.outcome.kills += 1;
        let others: Vec<usize> = (0..self.hosts.len())
            .filter(|i| *i != victim && self.hosts[*i].up)
            .collect();
        self.active = others[self.rng.index(others.len())];
        let sessions = std::mem::take(&mut self.sessions);
        let (theirs, mut rest): (Vec<_>, Vec<_>) =
            sessions.into_iter().partition(|s| s.home == victim);
        for mut session in theirs {
            let mut kept = Vec::new();
            for &other in &others {
                if check::has_session(self, other, victim, &session)? {
                    kept.push(other);
                }
            }
            let heir = if self.plan.active_active {
                others[self.rng.index(others.len())]
            } else {
                self.active
            };
            if !kept.contains(&heir) {
                // It was too young; its client begins anew.
                self.outcome.let_go += 1;
                continue;
            }
            self.outcome.taken_over += 1;
            // Its last packet may be news to its heir.
            let known = |key: &Key| {
                self.hosts[heir]
                    .table
                    .get(key)
                    .map_or(0, |r| r.deadline - r.grace)
            };
            let known = session.keys().iter().map(known).min().unwrap_or(0);
            let known = known.min(session.deadline());
            session.packets = vec![known.saturating_sub(session.timeout)];
            session.is_heirloom = true;
            session.home = heir;
            session.changed = self.now;
            // It is the dead one's until the dead one is known to be dead.
            session.safe_from = self.now + 310 + 100 + self.plan.faults.delay;
            rest.push(session);
        }
        self.sessions = rest;
        self.hosts[victim].up = false;
        self.count(victim);
        Ok(())
    }

    /// Adds up what a process did.
    fn count(&mut self, i: usize) {
        if let Some(sender) = self.hosts[i].node.sender() {
            self.outcome.resent += sender.told().resent;
            self.outcome.repaired += sender.told().repaired;
        }
    }

    fn restart(&mut self, i: usize) {
        self.say(|| format!("host {i} returns"));
        let boot = self.boot();
        self.hosts[i].restart(boot, self.now);
        self.say(|| format!("host {i} is {boot}"));
    }

    fn tick(&mut self) -> Result<(), String> {
        self.now += 1;
        self.traffic()?;
        while let Some(flying) = self.network.arrive(self.now) {
            let host = &mut self.hosts[flying.to];
            if !host.up {
                continue;
            }
            let tick = host.tick(self.now);
            let mut bytes = flying.bytes;
            match flying.recording {
                Some(at) => {
                    self.network.recordings[at].came_to.push(host.boot());
                    host.node.receive(tick, addr(flying.from), &mut bytes);
                }
                None => self.harmless("damaged", flying.to, flying.from, &mut bytes)?,
            }
            self.hosts[flying.to].wake = self.now;
        }
        if self.rng.chance(self.plan.attacks) {
            self.attack()?;
        }
        for i in 0..self.hosts.len() {
            if self.hosts[i].up {
                self.step(i)?;
            }
        }
        if self.now.is_multiple_of(50) {
            check::bounded(self)?;
        }
        Ok(())
    }

    fn step(&mut self, i: usize) -> Result<(), String> {
        let now = self.now;
        let host = &mut self.hosts[i];
        let tick = host.tick(now);
        // Not all pass at the same time.
        if (now + 37 * i as u64).is_multiple_of(check::INTERVAL) {
            host.pass(now, self.broken);
            host.node.retry_uninstalled();
        }
        host.end_pass(now);
        if now < host.wake {
            return Ok(());
        }
        host.node.work(tick);
        let slack = check::lateness(&self.plan.faults);
        host.apply(now, &self.ever, slack, self.broken)?;
        host.node.poll(tick);
        while let Some(send) = host.node.next_send(tick) {
            let others: Vec<usize> = (0..self.plan.hosts)
                .filter(|o| send.to == To::Peer(addr(*o)) || send.to == To::Group && *o != i)
                .collect();
            self.network
                .send(now, i, &others, &send.bytes, &mut self.rng);
            host.node.sent(send.bytes);
        }
        let ahead = host
            .node
            .wake_at(tick)
            .map_or(1, |at| at.since(tick).max(1));
        host.wake = now + u64::from(ahead);
        let ready = host.node.is_ready(tick);
        if ready && !host.was_ready && host.node.receivers().any(|r| r.is_alive(tick)) {
            if host.returned {
                self.outcome.returned_ready += 1;
            }
            self.say(|| format!("host {i} is ready"));
            check::ready(self, i)?;
        }
        self.hosts[i].was_ready = ready;
        Ok(())
    }

    /// Clients do what clients do.
    fn traffic(&mut self) -> Result<(), String> {
        if self.rng.chance(self.plan.starts) {
            self.start();
        }
        if self.sessions.is_empty() {
            return Ok(());
        }
        let at = self.rng.index(self.sessions.len());
        if self.sessions[at].deadline() <= self.now {
            self.sessions.swap_remove(at);
            return Ok(());
        }
        if self.sessions[at].quiet_until > self.now {
            return Ok(());
        }
        match self.rng.below(1000) {
            0..150 => self.packet(at)?,
            150..160 => {
                self.sessions[at].dest = 1 + (self.rng.next() & 0xff) as u16;
                self.sessions[at].changed = self.now;
                self.outcome.moves += 1;
                self.packet(at)?;
            }
            160..165 if self.plan.starts > 0 => self.end(at),
            165..170 if self.rng.chance(500 * self.plan.migrations) => self.migrate(at),
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self) {
        let home = self.rng.index(self.hosts.len());
        let home = match (self.plan.fixed, self.plan.active_active) {
            (true, _) => 0,
            (_, true) if self.hosts[home].up => home,
            _ => self.active,
        };
        if !self.hosts[home].up {
            return;
        }
        let timeout = [300, 1000, 3000, 20_000][self.rng.index(4)];
        self.sessions.push(Session {
            n: self.next_session,
            home,
            dest: 1 + (self.rng.next() & 0xff) as u16,
            changed: self.now,
            safe_from: self.now,
            quiet_until: self.now,
            packets: Vec::new(),
            timeout,
            is_heirloom: false,
        });
        self.next_session += 1;
        self.outcome.sessions += 1;
        self.touch(self.sessions.len() - 1);
    }

    /// A packet of a session, which its home must know.
    fn packet(&mut self, at: usize) -> Result<(), String> {
        let session = &self.sessions[at];
        for key in session.keys() {
            let row = self.hosts[session.home].table.get(&key);
            if row.is_none_or(|r| r.deadline <= self.now) {
                if session.is_heirloom {
                    // What the dead one said last of its end was on its way.
                    self.sessions.swap_remove(at);
                    return Ok(());
                }
                return Err(format!(
                    "at {}: the home of {session:?} lost {key:?}: {row:?}",
                    self.now
                ));
            }
        }
        self.outcome.packets += 1;
        let session = &self.sessions[at];
        if self.hosts[session.home].watched == Some(session.n) {
            self.say(|| format!("a packet at host {}", session.home));
        }
        self.touch(at);
        Ok(())
    }

    fn touch(&mut self, at: usize) {
        let now = self.now;
        let session = &mut self.sessions[at];
        session.packets.push(now);
        session.is_heirloom = false;
        if session.packets.len() > 64 {
            session.packets.drain(..32);
        }
        let table = &mut self.hosts[session.home].table;
        for key in session.keys() {
            let was_own = table.get(&key).is_some_and(|r| r.origin.is_none());
            if !was_own {
                session.safe_from = session.safe_from.min(now);
                session.changed = now;
            }
            let link = if matches!(key, Key::Conn(_)) {
                session.link()
            } else {
                None
            };
            let told = table.get(&key).map_or(0, |r| r.told);
            table.insert(
                key,
                Row {
                    link,
                    told,
                    ..session.row()
                },
            );
            self.ever.insert((key, session.dest), session.deadline());
        }
    }

    fn end(&mut self, at: usize) {
        let session = self.sessions.swap_remove(at);
        for key in session.keys() {
            self.hosts[session.home].table.remove(&key);
        }
    }

    /// A session's packets take another way. Not so soon that two directors could both think it theirs.
    fn migrate(&mut self, at: usize) {
        let to = self.rng.index(self.hosts.len());
        let session = &self.sessions[at];
        let has = session.keys().iter().all(|key| {
            let row = self.hosts[to].table.get(key);
            row.is_some_and(|r| r.dest == session.dest && r.deadline > self.now + 900)
        });
        if !self.hosts[to].up || !has || to == session.home {
            return;
        }
        self.say(|| format!("session {} moves to host {to}", self.sessions[at].n));
        let known = |key: &Key| {
            self.hosts[to]
                .table
                .get(key)
                .map_or(0, |r| r.deadline - r.grace)
        };
        let known = session.keys().iter().map(known).min().unwrap_or(0);
        let session = &mut self.sessions[at];
        let known = known.min(session.deadline());
        session.packets = vec![known - session.timeout];
        session.is_heirloom = true;
        session.home = to;
        session.changed = self.now;
        session.quiet_until = self.now + 550;
        session.safe_from = session.quiet_until + 1000;
    }

    /// A datagram that must change nothing.
    fn harmless(
        &mut self,
        what: &str,
        to: usize,
        from: usize,
        bytes: &mut [u8],
    ) -> Result<(), String> {
        let before = self.fingerprint(to);
        let host = &mut self.hosts[to];
        let tick = host.tick(self.now);
        host.node.receive(tick, addr(from), bytes);
        let after = self.fingerprint(to);
        if before == after {
            return Ok(());
        }
        Err(format!(
            "at {}: a {what} datagram changed host {to}:\n{before}\n{after}",
            self.now
        ))
    }

    /// Everything of a node that peers can change, but for what it is about to say.
    fn fingerprint(&self, i: usize) -> String {
        let node = &self.hosts[i].node;
        let mut out = String::new();
        for r in node.receivers() {
            use std::fmt::Write;
            let known = (
                r.boot,
                r.digest(),
                r.held(),
                r.heard,
                r.addr,
                r.is_dirty(),
                r.agreed(),
                r.marked(),
            );
            write!(out, "{known:?} {:?} ", r.kept()).expect("a string");
        }
        let listeners = node.sender().into_iter().flat_map(|s| s.listeners.iter());
        for l in listeners {
            use std::fmt::Write;
            write!(out, "{l:?} ").expect("a string");
        }
        out
    }

    /// The attacker has everything that was ever sent, and no key.
    fn attack(&mut self) -> Result<(), String> {
        let to = self.rng.index(self.hosts.len());
        if self.network.recordings.is_empty() || !self.hosts[to].up {
            return Ok(());
        }
        let at = self.rng.index(self.network.recordings.len());
        let recording = self.network.recordings[at].clone();
        let from = if self.rng.chance(500) {
            recording.from
        } else {
            99
        };
        let mut bytes = recording.bytes.clone();
        match self.rng.below(4) {
            0 => {
                bytes = (0..self.rng.below(200))
                    .map(|_| self.rng.next().to_le_bytes()[0])
                    .collect();
                if bytes.len() > 28 && self.rng.chance(500) {
                    bytes[..28].copy_from_slice(&recording.bytes[..28]);
                }
            }
            1 => {
                let bit = self.rng.index(8 * bytes.len());
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            _ => return self.replay(to, from, at),
        }
        self.outcome.forged += 1;
        self.harmless("forged", to, from, &mut bytes)
    }

    fn replay(&mut self, to: usize, from: usize, at: usize) -> Result<(), String> {
        let host = &self.hosts[to];
        let recording = &self.network.recordings[at];
        // What never came is not repeated but late.
        let came = recording.came_to.contains(&host.boot()) || recording.sent + 200 < host.born;
        if !came {
            return Ok(());
        }
        self.outcome.replayed += 1;
        let mut bytes = recording.bytes.clone();
        if self.broken == Broken::Replays {
            bytes = self.sealed_anew(&bytes);
        }
        self.hosts[to].wake = self.now;
        self.harmless("replayed", to, from, &mut bytes)
    }

    /// The same with a number that did not come yet, as if nobody looked at it.
    fn sealed_anew(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let keys = keys();
        let opened = seal::open(&keys, &mut bytes).expect("it was genuine");
        let (kind, boot, body): (Kind, u64, Vec<u8>) =
            (opened.kind, opened.boot, opened.body.to_vec());
        let known = self.sealers.iter().position(|(b, _)| *b == boot);
        let known = known.unwrap_or_else(|| {
            let mut sealer = Sealer::new(boot, keys.clone());
            // Far ahead of what the process itself has come to.
            for _ in 0..10_000 {
                sealer.seal(Kind::Lost, 1, false, &[], &mut Vec::new());
            }
            self.sealers.push((boot, sealer));
            self.sealers.len() - 1
        });
        let mut out = Vec::new();
        self.sealers[known].1.seal(kind, 1, false, &body, &mut out);
        out
    }
}
