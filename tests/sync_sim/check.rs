//! What has to hold.

use polder::sync::polder::{Direction, Role};

use super::host::{Host, Key, Row};
use super::network::Faults;
use super::world::{Session, World};

/// Ticks from one pass to the next.
pub const INTERVAL: u64 = 100;
/// Ticks after which a session is on the peers when nothing is lost: a pass, gathering, and what the network takes.
const BOUND: u64 = INTERVAL + 2 + 1;
/// Directors that an entry comes through, one heir after the other, while it is used nowhere.
const HOPS: u64 = 3;
/// Ticks that a stamp may be off: datagrams take time, and what they say is as of when they were made.
const SLACK: u64 = 10;

/// By how many ticks later than it was an entry may seem to be used: what the slowest datagram takes longer than the
/// fastest that a listener has seen, once for each director that it came through since it was used; and, at first, the time
/// until a mark is seen that was not repeated, of which there are four a second.
pub fn lateness(faults: &Faults) -> u64 {
    let first = if faults.loses() { 100 } else { 25 };
    first + HOPS * (1 + faults.delay + if faults.late > 0 { 100 } else { 0 })
}

/// What is known of a listener's knowledge.
fn known_until(world: &World, listener: &Host, home: &Host) -> Option<u64> {
    let receiver = listener.node.receiver(home.boot())?;
    let agreed = receiver.agreed().map(|a| home.world(a.tick));
    let agreed = agreed.and_then(|t| t.checked_sub(INTERVAL + 2));
    let settled = world.now >= listener.born.max(home.born) + 600;
    if world.is_lossless() && settled {
        let bound = BOUND + world.network.faults.delay;
        return Some(agreed.unwrap_or(0).max(world.now.saturating_sub(bound)));
    }
    agreed
}

/// Whether a listener has what it must have of a session whose home is, or was until now, `home`.
pub fn has_session(
    world: &World,
    listener: usize,
    home: usize,
    session: &Session,
) -> Result<bool, String> {
    let (host, from) = (&world.hosts[listener], &world.hosts[home]);
    let missing = || {
        let keys = session.keys();
        let lacks = |key: &&Key| {
            let row = host.table.get(*key).filter(|r| r.deadline > world.now);
            row.is_none_or(|r| {
                r.dest != session.dest
                    || **key != Key::Template(session.n) && r.link != session.link()
            })
        };
        keys.iter().find(lacks).copied()
    };
    let Some(lacking) = missing() else {
        return Ok(true);
    };
    let Some(known) = known_until(world, host, from).filter(|_| world.is_roomy()) else {
        return Ok(false);
    };
    // It may have left it to another to tell of it, who saw it used later.
    let is_told = from.table.get(&lacking).is_some_and(|r| {
        r.told + INTERVAL >= world.now && r.deadline > world.now + r.grace + SLACK
    });
    // A connection that came before its template is told of it within a quarter of a second, and at a mark.
    let template = host.table.get(&Key::Template(session.n));
    let is_new = template.is_some_and(|t| t.came + 50 > world.now);
    if is_new && matches!(lacking, Key::Conn(_)) && host.table.contains_key(&lacking) {
        return Ok(false);
    }
    if session.changed > known || session.safe_from > known || !is_told {
        return Ok(false);
    }
    let last = session.packets.iter().rev().find(|p| **p <= known);
    // Ends are told in steps, but anew before they come.
    let is_near = world.now < known + 290;
    let shift = if is_near {
        0
    } else {
        (session.timeout / 4).clamp(1, 1000)
    };
    let end = last
        .map_or(0, |p| p + session.timeout)
        .saturating_sub(shift + SLACK);
    if end <= world.now {
        return Ok(false);
    }
    Err(format!(
        "at {}: host {listener} lacks {lacking:?} of {session:?}, home {home}, known until {known}; has {:?}, home has {:?}",
        world.now,
        host.table.get(&lacking),
        from.table.get(&lacking),
    ))
}

/// Nothing grows beyond what the configuration says.
pub fn bounded(world: &World) -> Result<(), String> {
    for (i, host) in world.hosts.iter().enumerate().filter(|(_, h)| h.up) {
        let config = host.node.config();
        let mut sizes = vec![
            ("boots", host.node.boots().0, 64),
            ("forgotten boots", host.node.boots().1, 1024),
            ("receivers", host.node.receivers().count(), 16),
        ];
        if let Some(sender) = host.node.sender() {
            let (kept, bytes) = sender.history();
            sizes.extend([
                // A mark or a vector may come on top, and what is asked for again.
                (
                    "queue",
                    host.node.queued(),
                    config.queue_max + 256 + 2048 + 80,
                ),
                ("told", sender.entries(), config.entries_max),
                ("history", usize::try_from(kept).expect("small"), 4096),
                ("bytes of history", bytes, 8 << 20),
                ("listeners", sender.listeners.iter().count(), 16),
            ]);
        }
        for receiver in host.node.receivers() {
            let (held, bytes) = receiver.held();
            let (slots, queued) = receiver.kept();
            sizes.extend([
                ("held", held, 1024),
                ("bytes held", bytes, 4 << 20),
                ("mirror", receiver.entries(), config.entries_max),
                ("slots", slots, 2 * config.entries_max),
                ("apply", queued, slots),
            ]);
        }
        if let Some((what, is, most)) = sizes.iter().find(|(_, is, most)| is > most) {
            return Err(format!("host {i}: {what} {is} > {most}"));
        }
    }
    Ok(())
}

/// A node that turned ready because it has everything has everything.
pub fn ready(world: &World, i: usize) -> Result<(), String> {
    let host = &world.hosts[i];
    let tick = host.tick(world.now);
    let alive = host.node.receivers().filter(|r| r.is_alive(tick));
    for receiver in alive {
        if receiver.coverage() < host.node.config().ready_coverage || receiver.synced().is_none() {
            return Err(format!(
                "host {i} is ready without the entries of {}",
                receiver.name
            ));
        }
        let home = (0..world.hosts.len()).find(|h| world.hosts[*h].boot() == receiver.boot);
        let Some(home) = home.filter(|h| world.hosts[*h].up && receiver.agreed().is_some()) else {
            continue;
        };
        for session in world.sessions.iter().filter(|s| s.home == home) {
            has_session(world, i, home, session)?;
        }
    }
    Ok(())
}

/// Whether all that listen to one another agree by digest, have everything and are ready.
pub fn agree(world: &World) -> bool {
    let up = || world.hosts.iter().filter(|h| h.up);
    up().all(|host| {
        let tick = host.tick(world.now);
        let listens = host.node.config().role != Role::Master;
        let tells = |o: &&Host| o.boot() != host.boot() && o.node.config().role != Role::Backup;
        host.node.is_ready(tick)
            && up().filter(|o| listens && tells(o)).all(|other| {
                host.node.receiver(other.boot()).is_some_and(|r| {
                    r.agreed().is_some_and(|a| tick.since(a.at) < 60) && r.coverage() > 0.98
                })
            })
    })
}

/// After healing and some rest, all have the same and know it.
pub fn converged(world: &World) -> Result<(), String> {
    for (i, host) in world.hosts.iter().enumerate().filter(|(_, h)| h.up) {
        let status = host.node.status(host.tick(world.now));
        for (j, other) in world.hosts.iter().enumerate().filter(|(_, h)| h.up) {
            if i == j {
                continue;
            }
            if host.node.config().role != Role::Master && other.node.config().role != Role::Backup {
                follows(world, i, j).map_err(|why| format!("{why}\n{status:#?}"))?;
            }
        }
        if world.is_roomy() && !host.node.is_ready(host.tick(world.now)) {
            return Err(format!("host {i} is not ready: {status:#?}"));
        }
    }
    if world.is_roomy() {
        told(world)?;
    }
    Ok(())
}

/// Of each session somebody tells, so that nobody who begins now would miss it.
fn told(world: &World) -> Result<(), String> {
    let up = || world.hosts.iter().enumerate().filter(|(_, h)| h.up);
    for session in world.sessions.iter().filter(|s| !s.packets.is_empty()) {
        for key in session.keys() {
            let rows = || up().filter_map(|(_, h)| h.table.get(&key));
            // What a director takes for over it does not tell.
            let lasts = rows().any(|r| r.deadline > world.now + r.grace + 3 * INTERVAL);
            // One that was used again since is told by the next pass.
            let rests = session
                .packets
                .last()
                .is_some_and(|p| p + 2 * INTERVAL < world.now);
            if lasts && rests && !rows().any(|r| r.told + 2 * INTERVAL >= world.now) {
                let rows: Vec<_> = up().map(|(i, h)| (i, h.table.get(&key))).collect();
                return Err(format!(
                    "at {}: nobody tells of {key:?} of {session:?}: {rows:?}",
                    world.now
                ));
            }
        }
    }
    Ok(())
}

/// Host `i` has what host `j` tells.
fn follows(world: &World, i: usize, j: usize) -> Result<(), String> {
    let (host, other) = (&world.hosts[i], &world.hosts[j]);
    let tick = host.tick(world.now);
    let receiver = host.node.receiver(other.boot());
    let receiver = receiver.ok_or_else(|| format!("host {i} does not follow {j}"))?;
    if !world.is_roomy() {
        return Ok(());
    }
    let agreed = receiver.agreed().map(|a| tick.since(a.at));
    if agreed.is_none_or(|age| age > 60) || receiver.coverage() < 0.99 {
        return Err(format!(
            "host {i} and {j} do not agree: {agreed:?} ticks ago, coverage {}",
            receiver.coverage()
        ));
    }
    let report = other.node.status(other.tick(world.now));
    let peer = report
        .peers
        .iter()
        .find(|p| p.boot == host.boot() && p.direction == Direction::FollowsUs);
    if peer.is_none_or(|p| p.dirty || p.coverage < 0.95 || p.lag_s > 1.3) {
        return Err(format!("host {j} sees {peer:?} of {i}"));
    }
    let told = other
        .table
        .iter()
        .filter(|(_, r)| r.told + INTERVAL >= world.now);
    // Of an entry that was about to end when it was used again the peers hear with the next pass.
    let is_settled =
        |r: &Row| r.deadline > world.now + 300 && r.deadline - r.timeout + 150 < world.now;
    for (key, row) in told.filter(|(_, r)| is_settled(r)) {
        // Of one that is over a director may have kept it that thought it a dead one's; it ends by its time.
        let is_over = !world.sessions.iter().any(|s| s.n == key.session());
        if !is_over && !host.table.contains_key(key) {
            return Err(format!("host {i} lacks {key:?} of host {j}: {row:?}"));
        }
    }
    let theirs = host
        .table
        .iter()
        .filter(|(_, r)| r.origin == Some(other.boot()));
    for (key, row) in theirs.filter(|(_, r)| r.deadline > world.now + r.grace + 300) {
        let has = other
            .table
            .get(key)
            .is_some_and(|r| r.told + 2 * INTERVAL + 10 >= world.now);
        if !has {
            return Err(format!(
                "host {i} has {key:?} {row:?}, host {j} has {:?}",
                other.table.get(key)
            ));
        }
    }
    for session in world.sessions.iter().filter(|s| s.home == j) {
        has_session(world, i, j, session)?;
    }
    Ok(())
}
