//! `polder demo failover`: a director dies with thousands of sessions, and comes back.
//!
//! Two directors, state sync between them, keepalived to move the addresses that traffic comes by. Real SIP user agents
//! call through one-packet persistence by Call-ID, TCP connections talk all the time through NAT and direct routing. The
//! master is killed, later started again, and preempts once it has taken the table over. What became of the sessions is
//! read from clients and servers, never from the directors' counters.

mod flows;
mod pair;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::flows::{Client, Kind, Seen, Servers};
use self::pair::{Director, Pair};
use super::super::args::DemoArgs;
use super::super::{Failure, print};
use super::lab::{self, Process};
use super::sip::{self, Caller, Heard, Method};
use super::{Progress, Promises};

/// How long a call lasts, and over which time as many begin as are in progress then.
const TALK: Duration = Duration::from_secs(15);
/// When the master is killed, as calls go.
const KILLED_AFTER: Duration = Duration::from_secs(17);
/// How long it is away.
const AWAY: Duration = Duration::from_secs(5);
/// After how long a request without an answer is given up, in milliseconds.
const PATIENCE_MS: u64 = 8000;
/// Sessions that are older than this have to survive.
const BOUND: Duration = Duration::from_secs(3);
/// How long the other one may take to have the addresses, and the old master to have them back.
const TAKES_OVER: Duration = Duration::from_secs(10);
const RETURNS: Duration = Duration::from_secs(30);
/// Seconds after a change of the master until everybody has noticed.
const SETTLED: f64 = 1.0;
/// What is looked at around each change of the master.
const AROUND: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// The longest gap that VRRP by these settings may leave.
const GAP_MAX: Duration = Duration::from_secs(3);
/// Connections of their own for those that hardly say anything, in percent of the others.
const QUIET_PERCENT: u32 = 5;
/// How often it is looked for what is waited for.
const STEP: Duration = Duration::from_millis(10);

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: Instant,
    /// Seconds since 1970.
    wall: f64,
}

impl Moment {
    fn now() -> Self {
        Self::of(Instant::now())
    }

    fn of(at: Instant) -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let wall = wall.map_or(0.0, |d| d.as_secs_f64());
        Self {
            at,
            wall: wall - at.elapsed().as_secs_f64(),
        }
    }
}

/// What happened, and when.
#[derive(Debug)]
struct Events {
    killed: Moment,
    /// The other one has the addresses.
    taken: Moment,
    /// The old master is started again, serves, is ready, and has the addresses.
    started: Moment,
    serves: Moment,
    ready: Moment,
    returned: Moment,
    /// Entries that the other one had of the master when that was killed, and those that it should have.
    entries: (u64, u64),
    /// Entries that the old master has of the other one once it is ready.
    resynchronised: u64,
    /// Share of a processor that the management cores used until then: the master's, the other one's.
    management: (f64, f64),
    /// How often the addresses moved to either.
    takings: (usize, usize),
}

pub(super) fn run(args: &DemoArgs, out: &mut dyn Write) -> Result<(), Failure> {
    lab::need(&["keepalived", "sipp"])?;
    if !lab::is_root() {
        return Err("keepalived needs root".to_owned().into());
    }
    allow_files();
    let progress = Progress::new();
    let mut pair = Pair::start(args.device)?;
    progress.tell("two directors are up; keepalived makes one of them the master");
    wait(RETURNS, "the first director did not become master", || {
        pair.a.is_ready() && pair.b.is_ready() && pair.a.holds_since().is_some()
    })?;
    let servers = start_servers(&pair)?;
    let (agents, records) = start_agents(&pair)?;
    let caller = |name, calls, rate, talk_ms| Caller {
        name,
        own: pair::CLIENT,
        target: pair::SIP,
        calls,
        rate,
        talk_ms,
        patience_ms: Some(PATIENCE_MS),
    };
    // A call or three to let the kernel find the neighbours.
    let (mut warm, file) = caller("warm", 3, 10, 0).start(&pair.lab, &pair.client)?;
    sip::finish_calls(&mut warm, &file, TAKES_OVER)?;

    let calls = u64::from(args.calls);
    let rate = calls.div_ceil(TALK.as_secs());
    let kinds = kinds(args.connections);
    let probe = at(pair::NAT, pair::PROBE_PORT);
    let client = Client::start(&pair.client, kinds.clone(), probe)?;
    let talk_ms = TALK.as_millis().try_into().unwrap_or(u64::MAX);
    let ours = caller(sip::OURS, 2 * rate * TALK.as_secs(), rate, talk_ms);
    let (mut caller, file) = ours.start(&pair.lab, &pair.client)?;
    progress.tell(&format!(
        "{rate} calls of {} s begin each second, {} TCP connections talk",
        TALK.as_secs(),
        args.connections
    ));
    let events = play(&mut pair, &progress)?;
    progress.tell("the last calls end");
    let ended = sip::finish_calls(&mut caller, &file, 4 * TALK)?;
    let seen = client.finish()?;
    drop((agents, servers));
    progress.tell("done");
    progress.end();

    let heard = sip::heard_by_all(&records)?;
    let tally = Tally::of(&heard, &events);
    let rows: Vec<_> = (0..kinds.len())
        .map(|kind| Row::of(kind, &seen, &events))
        .collect();
    let gaps =
        [events.killed.at, events.returned.at].map(|at| seen.gap(at - AROUND.0, at + AROUND.1));
    print(out, &table(&kinds, &rows, &tally, &ended))?;
    print(out, &times(&events, gaps))?;
    let mut promises = Promises::default();
    judge(&mut promises, args, &events, (&rows, &tally), gaps);
    promises.see(seen.refused.is_empty(), refused(&seen));
    promises.see(
        events.takings == (1, 1),
        "the addresses moved twice and no more",
    );
    for (name, director) in [("old master", &mut pair.a), ("other one", &mut pair.b)] {
        let stopped = director.stop();
        let clean = stopped.is_ok_and(|status| status.success());
        promises.see(
            clean && !director.is_ready(),
            format!("the {name} stops cleanly, and tells keepalived first"),
        );
    }
    promises.verdict(out)
}

/// Both ends of all connections are this process's.
fn allow_files() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // With fewer, connections fail and the demo tells so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most.min(65_536), most);
    }
}

fn at(addr: &str, port: u16) -> SocketAddr {
    SocketAddr::new(addr.parse().expect("it is an address"), port)
}

fn kinds(connections: u32) -> Vec<Kind> {
    let half = usize::try_from(connections / 2).unwrap_or(usize::MAX);
    let quiet = usize::try_from((connections * QUIET_PERCENT).div_ceil(100)).unwrap_or(usize::MAX);
    let talks = Duration::from_millis(200);
    let more = Some((Duration::from_millis(200), Duration::from_secs(6)));
    let kind = |name, addr, count, every, more| Kind {
        name,
        target: at(addr, pair::TCP_PORT),
        count,
        every,
        more,
    };
    vec![
        kind("TCP by NAT", pair::NAT, half, talks, more),
        kind("TCP by direct routing", pair::DIRECT, half, talks, more),
        kind(
            "TCP that rests for 25 s",
            pair::NAT,
            quiet,
            Duration::from_secs(25),
            None,
        ),
    ]
}

fn start_servers(pair: &Pair) -> Result<Vec<Servers>, String> {
    let all = |port| pair::SERVERS.iter().map(|a| at(a, port)).collect();
    let mut servers = vec![Servers::start(
        &pair.nat,
        all(pair::TCP_PORT),
        all(pair::PROBE_PORT),
    )?];
    for ns in &pair.direct {
        let tcp = vec![at(pair::DIRECT, pair::TCP_PORT)];
        servers.push(Servers::start(ns, tcp, Vec::new())?);
    }
    Ok(servers)
}

fn start_agents(pair: &Pair) -> Result<(Vec<Process>, Vec<PathBuf>), String> {
    let (mut agents, mut records) = (Vec::new(), Vec::new());
    for (i, addr) in pair::SERVERS.iter().enumerate() {
        let record = pair.lab.dir().join(format!("uas{i}.messages"));
        let log = pair.lab.dir().join(format!("uas{i}.log"));
        agents.push(sip::answer(&pair.nat, addr, &record, &log)?);
        records.push(record);
    }
    Ok((agents, records))
}

fn wait(at_most: Duration, sentence: &str, mut is: impl FnMut() -> bool) -> Result<(), String> {
    let began = Instant::now();
    while !is() {
        if began.elapsed() > at_most {
            return Err(format!("{sentence} within {} s", at_most.as_secs()));
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

/// Kills the master and lets it come back.
fn play(pair: &mut Pair, progress: &Progress) -> Result<Events, String> {
    let began = Instant::now();
    let used = |pair: &Pair| (pair.a.management_seconds(), pair.b.management_seconds());
    let before = used(pair);
    let takings = (pair.a.takings(), pair.b.takings());
    std::thread::sleep(KILLED_AFTER);
    let after = used(pair);
    let share = |b: f64, a: f64| (a - b) / began.elapsed().as_secs_f64();
    let management = (share(before.0, after.0), share(before.1, after.1));
    let entries = followed(&pair.b)?;
    let killed = Moment::now();
    pair.a.kill();
    progress.tell("the master is killed");
    wait(
        TAKES_OVER,
        "the other director did not become master",
        || pair.b.holds_since().is_some(),
    )?;
    let taken = Moment::of(pair.b.holds_since().unwrap_or_else(Instant::now));
    progress.tell(&format!(
        "the other one has the addresses after {} ms",
        millis(taken.at - killed.at)
    ));
    std::thread::sleep(AWAY);
    let started = Moment::now();
    pair.a.start()?;
    pair.a.wait_until_up()?;
    let serves = Moment::now();
    progress.tell("the old master serves again and takes the table over");
    wait(RETURNS, "the old master did not become ready", || {
        pair.a.is_ready()
    })?;
    let ready = Moment::now();
    let (resynchronised, _) = followed(&pair.a)?;
    progress.tell(&format!(
        "it is ready after {} ms",
        millis(ready.at - serves.at)
    ));
    wait(RETURNS, "the old master did not preempt", || {
        pair.a.holds_since().is_some()
    })?;
    let returned = Moment::of(pair.a.holds_since().unwrap_or_else(Instant::now));
    progress.tell("it has the addresses again");
    Ok(Events {
        killed,
        taken,
        started,
        serves,
        ready,
        returned,
        entries,
        resynchronised,
        management,
        takings: (pair.a.takings() - takings.0, pair.b.takings() - takings.1),
    })
}

/// Entries that a director has of whom it follows, and should have.
fn followed(director: &Director) -> Result<(u64, u64), String> {
    let status = director.sync()?;
    let alive = |p: &&crate::mgmt::api::SyncPeer| p.direction == "in" && p.state != "lost";
    let peer = status.peers.iter().find(alive);
    let peer = peer.ok_or_else(|| format!("it follows nobody: {}", status.ready_reason))?;
    Ok((peer.entries.saturating_sub(peer.uninstalled), peer.should))
}

/// Whether a session that began at `began` need not have survived until `at`: it was younger than the bound at a change of
/// the master, or began before that was over.
fn is_young(events: &Events, began: f64, at: f64) -> bool {
    let young = |c: &Moment, over: &Moment| {
        c.wall <= at && began > c.wall - BOUND.as_secs_f64() && began <= over.wall + SETTLED
    };
    young(&events.killed, &events.taken) || young(&events.returned, &events.returned)
}

/// What became of the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    calls: u64,
    /// In progress when the master was killed, and among those the ones that had to survive.
    open: u64,
    old: u64,
    /// Those of them that did not end at their server.
    cut: u64,
    /// Requests within calls, and of those the ones that another server heard than the call's: of calls that had to
    /// survive the change of the master before, and of younger ones.
    requests: u64,
    misdirected: u64,
    misdirected_young: u64,
}

impl Tally {
    fn of(heard: &[Heard], events: &Events) -> Self {
        let mut homes: HashMap<&str, (usize, f64)> = HashMap::new();
        for h in heard.iter().filter(|h| h.method == Method::Invite) {
            homes.entry(&h.call).or_insert((h.agent, h.at));
        }
        let mut tally = Self {
            calls: homes.len() as u64,
            ..Self::default()
        };
        let mut open: HashMap<&str, f64> = HashMap::new();
        let mut ended: HashSet<&str> = HashSet::new();
        for h in heard {
            if h.at < events.killed.wall {
                match h.method {
                    Method::Invite => drop(open.entry(&h.call).or_insert(h.at)),
                    Method::Bye => drop(open.remove(&*h.call)),
                    Method::Ack => {}
                }
            }
            if h.method == Method::Invite {
                continue;
            }
            tally.requests += 1;
            let home = homes.get(&*h.call);
            if home.is_some_and(|(agent, _)| *agent == h.agent) {
                if h.method == Method::Bye {
                    ended.insert(&h.call);
                }
                continue;
            }
            if home.is_some_and(|(_, began)| is_young(events, *began, h.at)) {
                tally.misdirected_young += 1;
            } else {
                tally.misdirected += 1;
            }
        }
        tally.open = open.len() as u64;
        let old = open.iter();
        let old = old.filter(|(_, at)| **at <= events.killed.wall - BOUND.as_secs_f64());
        for (call, _) in old {
            tally.old += 1;
            tally.cut += u64::from(!ended.contains(call));
        }
        tally
    }
}

/// What became of the connections of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    opened: usize,
    /// There when the master was killed, and among those the ones that had to survive.
    open: usize,
    old: usize,
    answers: u64,
    broken: usize,
    broken_young: usize,
    longest: Duration,
}

impl Row {
    fn of(kind: usize, seen: &Seen, events: &Events) -> Self {
        let mut row = Self::default();
        for flow in seen.flows.iter().filter(|f| f.kind == kind) {
            row.opened += 1;
            row.answers += flow.answers;
            row.longest = row.longest.max(flow.longest);
            if flow.is_open(events.killed.at) {
                row.open += 1;
                row.old += usize::from(events.killed.at >= flow.opened + BOUND);
            }
            let Some((broke, _)) = &flow.broken else {
                continue;
            };
            if is_young(
                events,
                Moment::of(flow.opened).wall,
                Moment::of(*broke).wall,
            ) {
                row.broken_young += 1;
            } else {
                row.broken += 1;
            }
        }
        row
    }
}

fn millis(d: Duration) -> u128 {
    d.as_millis()
}

fn table(kinds: &[Kind], rows: &[Row], tally: &Tally, ended: &sip::Calls) -> String {
    let mut text = format!(
        "\n{:<25}{:>7}{:>16}{:>18}{:>10}{:>12}{:>17}\n",
        "sessions",
        "begun",
        "at the kill",
        "older than 3 s",
        "of these",
        "of younger",
        "longest wait"
    );
    for (kind, row) in kinds.iter().zip(rows) {
        text.push_str(&format!(
            "{:<25}{:>7}{:>16}{:>18}{:>10}{:>12}{:>14} ms\n",
            kind.name,
            row.opened,
            row.open,
            row.old,
            format!("{} broken", row.broken),
            format!("{} broken", row.broken_young),
            millis(row.longest),
        ));
    }
    text.push_str(&format!(
        "{:<25}{:>7}{:>16}{:>18}\n\n",
        "SIP calls", tally.calls, tally.open, tally.old
    ));
    text.push_str(&format!(
        "misdirected in-dialog requests = {} of {}; of calls younger than 3 s at the change: {}\n\
         calls completed: {}, failed: {}; broken TCP connections older than 3 s = {}\n",
        tally.misdirected,
        tally.requests,
        tally.misdirected_young,
        ended.good,
        ended.failed,
        rows.iter().map(|r| r.broken).sum::<usize>(),
    ));
    text
}

fn times(events: &Events, gaps: [Duration; 2]) -> String {
    let e = events;
    format!(
        "\nthe master is killed: {} ms until the other one has the addresses, gap at the client {} ms\n\
         it returns: {} ms to start, {} ms from there to {} entries and ready, {} ms more to the addresses, gap at the client {} ms\n\
         processor time of the management core: master {:.1} %, backup {:.1} %\n\n",
        millis(e.taken.at - e.killed.at),
        millis(gaps[0]),
        millis(e.serves.at - e.started.at),
        millis(e.ready.at - e.serves.at),
        e.resynchronised,
        millis(e.returned.at.saturating_duration_since(e.ready.at)),
        millis(gaps[1]),
        100.0 * e.management.0,
        100.0 * e.management.1,
    )
}

fn judge(
    promises: &mut Promises,
    args: &DemoArgs,
    events: &Events,
    (rows, tally): (&[Row], &Tally),
    gaps: [Duration; 2],
) {
    let calls = u64::from(args.calls);
    promises.see(
        10 * tally.open >= 9 * calls,
        format!(
            "{} calls were in progress when the master was killed",
            tally.open
        ),
    );
    let open: usize = rows.iter().map(|r| r.open).sum();
    promises.see(
        open >= usize::try_from(args.connections).unwrap_or(usize::MAX),
        format!("{open} TCP connections were established, and talked all the time"),
    );
    let (has, should) = events.entries;
    promises.see(
        100 * has >= 99 * should && has >= tally.old,
        format!("the other one had {has} of the master's {should} entries"),
    );
    promises.see(
        gaps[0] <= GAP_MAX,
        format!("the gap at the client was {} ms", millis(gaps[0])),
    );
    promises.see(
        tally.misdirected == 0 && tally.requests > 0,
        "misdirected in-dialog requests = 0",
    );
    promises.see(
        tally.cut == 0 && tally.old > 0,
        format!(
            "{} of {} calls older than 3 s ended at their server",
            tally.old - tally.cut,
            tally.old
        ),
    );
    promises.see(
        rows.iter().all(|r| r.broken == 0 && r.answers > 0),
        "broken established TCP connections older than 3 s = 0",
    );
    promises.see(
        events.returned.at + STEP >= events.ready.at,
        "the old master took the addresses only when it was ready",
    );
    promises.see(
        gaps[1] <= GAP_MAX,
        format!("the gap was {} ms then", millis(gaps[1])),
    );
    promises.see(
        events.resynchronised >= tally.old,
        format!("it had {} entries by then", events.resynchronised),
    );
}

fn refused(seen: &Seen) -> String {
    let why = seen
        .refused
        .first()
        .map_or(String::new(), |w| format!(" ({w})"));
    format!(
        "every new TCP connection came about; {} did not{why}",
        seen.refused.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Events {
        let now = Instant::now();
        let moment = |wall: f64| Moment { at: now, wall };
        Events {
            killed: moment(100.0),
            taken: moment(100.5),
            started: moment(106.0),
            serves: moment(107.0),
            ready: moment(108.0),
            returned: moment(109.0),
            entries: (1, 1),
            resynchronised: 1,
            management: (0.0, 0.0),
            takings: (1, 1),
        }
    }

    #[test]
    fn young_is_what_began_shortly_before_a_change_or_during_it() {
        let e = events();
        assert!(!is_young(&e, 90.0, 120.0) && !is_young(&e, 96.9, 100.1));
        assert!(is_young(&e, 97.1, 100.1) && is_young(&e, 97.1, 120.0));
        assert!(!is_young(&e, 97.1, 99.9), "nothing had happened yet");
        assert!(is_young(&e, 101.0, 103.0) && !is_young(&e, 102.0, 108.9));
        assert!(is_young(&e, 107.0, 110.0) && !is_young(&e, 105.9, 110.0));
    }

    #[test]
    fn a_request_at_another_server_is_misdirected_and_forgiven_only_to_the_young() {
        let heard = |at, agent, call: &str, method| Heard {
            at,
            agent,
            call: call.to_owned(),
            method,
        };
        let all = [
            heard(90.0, 0, "old", Method::Invite),
            heard(91.0, 1, "lost", Method::Invite),
            heard(99.0, 2, "young", Method::Invite),
            heard(110.0, 0, "old", Method::Bye),
            heard(110.0, 2, "lost", Method::Bye),
            heard(111.0, 0, "young", Method::Bye),
            heard(112.0, 0, "unheard of", Method::Ack),
        ];
        let tally = Tally::of(&all, &events());
        let expected = Tally {
            calls: 3,
            open: 3,
            old: 2,
            cut: 1,
            requests: 4,
            misdirected: 2,
            misdirected_young: 1,
        };
        assert_eq!(tally, expected);
    }
}
