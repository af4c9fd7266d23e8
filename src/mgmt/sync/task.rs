//! The task of state sync: starts and stops the machine as the settings say, and tells how it is.
//!
//! Owns the settings in force, the state that others read, and the file of readiness. Invariant: whatever can't be had
//! (a key file, an interface, a port) is a sentence in the state, and never touches the packet path.

use std::fs;
use std::future::poll_fn;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::Traffic;
use super::ipvs::Ipvs;
use super::polder::{self, Polder};
use super::socket::Link;
use super::tables::{Peers, Tables};
use super::takeover;
use crate::net::{HashKey, Tick};
use crate::sync::polder::sender::Listener;
use crate::sync::polder::{
    Direction, Keys, Node, Peer, Role as NodeRole, State as PeerState, Status as NodeStatus,
};
use crate::sync::settings::{Format, Role, Settings};
use crate::worker::Plane;

/// How long a machine that can't start waits before it tries again.
const RETRY: Duration = Duration::from_secs(3);
/// How often the state is told.
const TELLING: Duration = Duration::from_millis(200);
/// The longest rest between two turns.
const REST_MAX: Duration = Duration::from_millis(20);
/// How long a process that is to take over may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// The same while frames wait for it.
const SILENCE_DEAF: Duration = Duration::from_secs(2);
/// Ticks from one report of it to the next at most, late ones included.
const REPORTS: u32 = 3 * Tick::PER_SECOND / 2;
/// How long frames are taken on although the process that is to take over is never quite up to date.
const UP_TO_DATE: Duration = Duration::from_secs(5);
/// The rest while workers have something to do for us.
const REST_BUSY: Duration = Duration::from_micros(500);

/// What runs, as others see it.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Sockets are open and the role is played.
    pub running: bool,
    /// Why not, or what else is wrong.
    pub problem: Option<String>,
    /// Of the `polder` format.
    pub node: Option<NodeStatus>,
    /// Of the `ipvs` format.
    pub ipvs: Option<IpvsState>,
    /// Messages that the kernel did not take.
    pub send_errors: u64,
}

/// The `ipvs` format's state.
#[derive(Clone, Debug, Default)]
pub struct IpvsState {
    /// What went over the network.
    pub traffic: Traffic,
    /// What was not taken, by reason.
    pub rejected: Vec<(&'static str, u64)>,
    /// Messages that wait.
    pub waiting: usize,
    /// Entries that were not told for want of room.
    pub discarded: u64,
    /// Templates whose service or server is not known.
    pub unbound: u64,
    /// Connections that there was no room for.
    pub refused: u64,
    /// It takes nothing, or has for the time of `ready_timeout`: more can't be known.
    pub ready: bool,
}

/// A take-over by another process, as far as it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HandOver {
    /// There is none.
    #[default]
    No,
    /// It is told everything, on this port of the loopback interface, under this one-time key.
    Telling {
        /// Where it listens.
        port: u16,
        /// The text of a key file.
        key: String,
    },
    /// Workers take no more frames; what has changed last is told.
    Finishing {
        /// Where it listens.
        port: u16,
        /// The text of a key file.
        key: String,
    },
    /// It has everything, and this process ends.
    Done,
}

/// The settings in force and the state, for the task and everybody else.
#[derive(Debug, Default)]
pub struct Control {
    settings: Mutex<Settings>,
    hand_over: Mutex<HandOver>,
    state: Mutex<State>,
    changed: Notify,
    entries_max: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// With the settings to begin with. There are `entries_max` connections and templates at most.
    #[must_use]
    pub fn new(settings: Settings, entries_max: usize) -> Self {
        Self {
            settings: Mutex::new(settings),
            entries_max: entries_max as u64,
            ..Self::default()
        }
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        lock(&self.settings).clone()
    }

    /// Puts settings in force. The same ones again read the keys anew.
    pub fn set(&self, settings: Settings) {
        *lock(&self.settings) = settings;
        self.changed.notify_one();
    }

    /// Connections and templates at most.
    #[must_use]
    pub fn entries_max(&self) -> u64 {
        self.entries_max
    }

    /// How far a take-over has come.
    #[must_use]
    pub fn hand_over(&self) -> HandOver {
        lock(&self.hand_over).clone()
    }

    /// Begins a take-over, finishes it, or gives it up.
    pub fn set_hand_over(&self, to: HandOver) {
        *lock(&self.hand_over) = to;
        self.changed.notify_one();
    }

    /// Notes that everything was handed over; `false` when the take-over was given up meanwhile.
    fn handed_over(&self) -> bool {
        let mut now = lock(&self.hand_over);
        let finishes = matches!(*now, HandOver::Finishing { .. });
        if finishes {
            *now = HandOver::Done;
        }
        finishes
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        lock(&self.state).clone()
    }
}

/// What the task works on.
#[derive(Debug)]
pub struct Machine {
    /// Workers and templates.
    pub plane: Arc<Plane>,
    /// Which worker has which connection.
    pub owner_key: HashKey,
    /// Settings and state.
    pub control: Arc<Control>,
    /// Entries that a peer is heard of at most.
    pub entries_max: usize,
}

/// One of the formats at work.
#[derive(Debug)]
enum Running {
    Polder(Box<Polder>),
    Ipvs(Box<Ipvs>),
}

impl Machine {
    /// Plays the role that the settings give, for ever.
    pub async fn run(self) {
        // A change of settings changes nothing of what the tables have.
        let mut ready = false;
        let mut peers = Peers::default();
        loop {
            if let HandOver::Telling { port, key } | HandOver::Finishing { port, key } =
                self.control.hand_over()
            {
                self.give(port, &key, &mut peers).await;
                continue;
            }
            let settings = self.control.settings();
            if settings.role == Role::Off {
                self.set_off_duty(false);
                ready = true;
                *lock(&self.control.state) = State::default();
                tell_ready(&settings, true);
                self.control.changed.notified().await;
                continue;
            }
            match self.start(&settings, ready, &mut peers) {
                Ok(mut running) => {
                    self.set_off_duty(settings.backup_only && settings.role.is_backup());
                    ready = self.play(&mut running, &settings, ready).await;
                    peers = match running {
                        Running::Polder(p) => p.end(),
                        Running::Ipvs(i) => i.end(),
                    };
                }
                Err(problem) => {
                    // What can't be taken from others must not keep this one from its work.
                    self.set_off_duty(false);
                    ready = false;
                    *lock(&self.control.state) = State {
                        problem: Some(problem),
                        ..State::default()
                    };
                    tell_ready(&settings, false);
                    tokio::select! {
                        () = self.control.changed.notified() => {}
                        () = sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    fn set_off_duty(&self, is: bool) {
        self.plane.sync.off_duty.store(is, Ordering::Relaxed);
    }

    /// Hands everything over to another process; returns when that is done or given up.
    async fn give(&self, port: u16, key: &str, peers: &mut Peers) {
        let target = takeover::listener(port);
        let node = Keys::parse(key)
            .map_err(|e| e.to_string())
            .and_then(|keys| {
                let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))
                    .and_then(|s| s.set_nonblocking(true).map(|()| s))
                    .and_then(tokio::net::UdpSocket::from_std);
                let socket = socket.map_err(|e| format!("no socket for the take-over: {e}"))?;
                let config = takeover::node_config(NodeRole::Master, self.entries_max);
                let link = Link {
                    socket,
                    targets: vec![target],
                    mtu: takeover::MESSAGE,
                    on: None,
                };
                let node = Node::new(config, keys, random(), self.plane.now());
                let tables = self.tables(peers).with_everything();
                Ok(Polder::with(&self.plane, tables, node, link))
            });
        let mut node = match node {
            Ok(mut node) => {
                node.adopts = !self.hears_somebody();
                node
            }
            Err(e) => {
                eprintln!("polder: {e}");
                self.control.set_hand_over(HandOver::No);
                return;
            }
        };
        let mut last = None::<Last>;
        let mut finishing = None::<Instant>;
        let mut heard = Instant::now();
        loop {
            let now = self.plane.now();
            let more = node.turn(now);
            let listeners: Vec<&Listener> = match node.node.sender() {
                Some(sender) => sender.listeners.iter().collect(),
                None => Vec::new(),
            };
            if listeners.iter().any(|l| now.since(l.heard) <= REPORTS) {
                heard = Instant::now();
            }
            let silent = if last.is_some() {
                SILENCE_DEAF
            } else {
                SILENCE
            };
            let why = match self.control.hand_over() {
                HandOver::Telling { port: p, key: k } if p == port && k == key => None,
                HandOver::Finishing { port: p, key: k } if p == port && k == key => {
                    finishing = finishing.or_else(|| Some(Instant::now()));
                    None
                }
                _ => Some("the take-over was given up"),
            };
            let why = why.or_else(|| {
                (heard.elapsed() >= silent).then(|| {
                    self.control.set_hand_over(HandOver::No);
                    "the process that was to take over is not heard any more"
                })
            });
            if let Some(why) = why {
                eprintln!("polder: {why}; this process goes on");
                self.plane.sync.deaf.store(false, Ordering::Relaxed);
                *peers = node.end();
                return;
            }
            let covered = !listeners.is_empty() && listeners.iter().all(|l| has_all(l));
            match (finishing, &mut last) {
                (None, _) => {}
                (Some(since), None) => {
                    // Clients wait from here on, so that nothing should be left to be told but what changed last.
                    if node.passes > 0 && (covered || since.elapsed() >= UP_TO_DATE) {
                        self.plane.sync.deaf.store(true, Ordering::Relaxed);
                        last = Some(Last::after(&node, 2));
                    }
                }
                (Some(_), Some(last)) => {
                    let ended = last.ended(&node, now);
                    let known = |ended| listeners.iter().all(|l| knows(l, ended));
                    if covered && ended.is_some_and(known) && self.control.handed_over() {
                        return self.leave().await;
                    }
                }
            }
            let rest = if more {
                REST_BUSY
            } else {
                Duration::from_millis(5)
            };
            tokio::select! {
                r = node.link().socket.readable() => { let _ = r; tokio::task::yield_now().await; }
                () = sleep(rest) => {}
            }
        }
    }

    /// Whether a living peer tells of entries: it will tell them to the process that takes over, too.
    fn hears_somebody(&self) -> bool {
        let state = self.control.state();
        let tells = |p: &Peer| p.direction == Direction::WeFollow && p.state != PeerState::Lost;
        state.node.is_some_and(|n| n.peers.iter().any(tells))
    }

    /// Lets the other process learn that it has everything, and ends this one.
    async fn leave(&self) {
        sleep(Duration::from_millis(300)).await;
        self.plane.sync.leave.store(true, Ordering::Relaxed);
        std::future::pending::<()>().await;
    }

    /// The tables, with what is known of peers' templates.
    fn tables(&self, peers: &mut Peers) -> Tables {
        let tables = Tables::new(Arc::clone(&self.plane), self.owner_key);
        tables.with_peers(std::mem::take(peers))
    }

    fn start(
        &self,
        settings: &Settings,
        was_ready: bool,
        peers: &mut Peers,
    ) -> Result<Running, String> {
        let tables = || self.tables(peers);
        Ok(match settings.format {
            Format::Ipvs(_) => Running::Ipvs(Box::new(Ipvs::start(&self.plane, tables, settings)?)),
            Format::Polder => {
                let name = settings.name.clone().unwrap_or_else(host_name);
                let mut polder = Polder::start(
                    &self.plane,
                    tables,
                    settings,
                    (name, random()),
                    self.entries_max,
                )?;
                if was_ready {
                    polder.node.assume_ready();
                }
                Running::Polder(Box::new(polder))
            }
        })
    }

    /// Works until the settings change; whether it was ready last.
    async fn play(&self, running: &mut Running, settings: &Settings, was_ready: bool) -> bool {
        let began = Instant::now();
        let mut told = None::<Instant>;
        let mut problem = None;
        let mut ready = None;
        loop {
            let now = self.plane.now();
            let (more, rest) = match running {
                Running::Polder(p) => (p.turn(now), p.rest(now)),
                Running::Ipvs(i) => (i.turn(now), 1),
            };
            if told.is_none_or(|t| t.elapsed() >= TELLING) {
                told = Some(Instant::now());
                if !links(running).iter().all(|link| link.is_there()) {
                    // What it will be like when it is there again is found out by opening it.
                    return ready.unwrap_or(was_ready);
                }
                let waits = !was_ready
                    && settings.role.is_backup()
                    && began.elapsed() < settings.ready_timeout;
                let state = state_of(running, problem.clone(), &self.plane, !waits);
                let is_ready = match (&state.node, &state.ipvs) {
                    (Some(node), _) => node.ready,
                    (None, ipvs) => ipvs.as_ref().is_some_and(|i| i.ready),
                };
                if ready != Some(is_ready) {
                    ready = Some(is_ready);
                    tell_ready(settings, is_ready);
                }
                *lock(&self.control.state) = state;
            }
            let rest = Duration::from_millis(10 * u64::from(rest.min(100))).min(REST_MAX);
            let rest = if more { REST_BUSY } else { rest.max(REST_BUSY) };
            tokio::select! {
                biased;
                () = self.control.changed.notified() => {
                    if self.control.settings() != *settings
                        || self.control.hand_over() != HandOver::No
                    {
                        return ready.unwrap_or(was_ready);
                    }
                    if let Running::Polder(p) = &mut *running {
                        match polder::keys(settings.key_file.as_deref()) {
                            Ok(keys) => {
                                p.node.set_keys(keys);
                                problem = None;
                            }
                            Err(e) => problem = Some(format!("{e}; the keys before are in force")),
                        }
                    }
                }
                () = readable(running) => {
                    // Others on this thread get their turn, too.
                    tokio::task::yield_now().await;
                }
                () = sleep(rest) => {}
            }
        }
    }
}

/// The pass after which nothing has changed that was not told.
#[derive(Debug)]
struct Last {
    pass: u64,
    /// Differences that had been left to a later pass.
    deferred: u64,
    /// When the pass had ended.
    ended: Option<Tick>,
}

impl Last {
    /// After two passes it is sure: the walk that is underway may have been at places that have changed since.
    fn after(node: &Polder, passes: u64) -> Self {
        Self {
            pass: node.passes + passes,
            deferred: deferred(node),
            ended: None,
        }
    }

    /// When the pass had ended, if it has. One that had to leave something to the next was not the last.
    fn ended(&mut self, node: &Polder, now: Tick) -> Option<Tick> {
        if self.ended.is_none() && node.passes >= self.pass {
            if self.deferred == deferred(node) {
                self.ended = Some(now);
            } else {
                *self = Self::after(node, 1);
            }
        }
        self.ended
    }
}

fn deferred(node: &Polder) -> u64 {
    node.node.sender().map_or(0, |s| s.told().deferred)
}

/// Whether a listener had everything that there was when it reported last.
fn has_all(l: &Listener) -> bool {
    l.coverage >= 1.0 && l.report.is_some_and(|r| !r.dirty)
}

/// Whether what a listener reported is of after `at`.
fn knows(l: &Listener, at: Tick) -> bool {
    l.report.is_some_and(|r| Tick(r.tick).since(at) > 0)
}

/// All sockets.
fn links(running: &Running) -> Vec<&Link> {
    match running {
        Running::Polder(p) => vec![p.link()],
        Running::Ipvs(i) => i.links().collect(),
    }
}

/// Waits for a message.
async fn readable(running: &Running) {
    let links = links(running);
    poll_fn(|cx| {
        let mut ready = false;
        for link in &links {
            // All of them are asked, so that each wakes us.
            ready |= link.socket.poll_recv_ready(cx).is_ready();
        }
        if ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

fn state_of(running: &Running, problem: Option<String>, plane: &Plane, ipvs_ready: bool) -> State {
    match running {
        Running::Polder(p) => State {
            running: true,
            problem: problem.or_else(|| p.problem(plane.now())),
            node: Some(p.node.status(plane.now())),
            ipvs: None,
            send_errors: p.send_errors,
        },
        Running::Ipvs(i) => State {
            running: true,
            problem: i.traffic.last_error.clone(),
            node: None,
            send_errors: i.traffic.send_errors,
            ipvs: Some(IpvsState {
                traffic: i.traffic.clone(),
                rejected: i.rejections.iter().map(|(r, n)| (r.name(), n)).collect(),
                waiting: i.waiting(),
                discarded: i.discarded(),
                unbound: i.unbound,
                refused: i.refused,
                ready: ipvs_ready,
            }),
        },
    }
}

/// Writes the file of readiness, if there is one, in one step.
pub(in super::super) fn tell_ready(settings: &Settings, ready: bool) {
    let Some(path) = &settings.ready_file else {
        return;
    };
    if let Err(e) = write_ready(path, ready) {
        eprintln!("polder: sync: can't write `{}`: {e}", path.display());
    }
}

fn write_ready(path: &Path, ready: bool) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    fs::write(&temporary, if ready { "1\n" } else { "0\n" })?;
    fs::rename(&temporary, path)
}

/// The host's name.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "polder".to_owned(),
        name => name.to_owned(),
    }
}

/// A random number that is not 0.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // Keyed by the kernel's random numbers, and never twice the same.
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.finish() | 1
}
