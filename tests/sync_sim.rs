//! Directors of the `polder` format in a simulated world: two or three nodes with tables, virtual time, a network that
//! loses, doubles, delays, cuts and damages, directors that are killed and return, and an attacker without a key.
//!
//! Everything comes from one number. `POLDER_SEED=n` runs that one and prints what happens; `POLDER_SEEDS=n` says how
//! many are run; with `POLDER_SESSION=m` the entries of session m are traced too. What has to hold is in `check.rs`; rules broken on purpose, which must be found, are at the end.

#[path = "sync_sim/check.rs"]
mod check;
#[path = "sync_sim/host.rs"]
mod host;
#[path = "sync_sim/network.rs"]
mod network;
#[path = "sync_sim/world.rs"]
mod world;

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use world::{Broken, Outcome, run};

/// Seeds of an ordinary run.
const SEEDS: u64 = 3000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs seeds on all cores, and adds up what was seen.
fn run_all(seeds: u64) -> Outcome {
    let next = AtomicU64::new(0);
    let found = Mutex::new((Outcome::default(), Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let said = catch_unwind(|| run(seed, Broken::Nothing, false));
            let said = said.unwrap_or_else(|_| Err("a panic, see above".to_owned()));
            let mut found = found.lock().expect("nothing panics here");
            match said {
                Ok(outcome) => found.0.add(&outcome),
                Err(why) => found.1.push((seed, why)),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let (outcome, mut failed) = found.into_inner().expect("nothing panics here");
    failed.sort();
    for (seed, why) in failed.iter().take(5) {
        eprintln!("seed {seed}: {why}\nrun it alone with POLDER_SEED={seed}\n");
    }
    assert!(
        failed.is_empty(),
        "{} of {seeds} seeds failed",
        failed.len()
    );
    outcome
}

#[test]
fn directors_keep_every_session_whatever_the_network_does() {
    if let Some(seed) = number("POLDER_SEED") {
        let outcome = run(seed, Broken::Nothing, true);
        println!("{outcome:?}");
        outcome.expect("it was run to see it fail");
        return;
    }
    let outcome = run_all(number("POLDER_SEEDS").unwrap_or(SEEDS));
    println!("{outcome:#?}");
    // A world in which nothing happens proves nothing.
    assert!(
        outcome.taken_over > 0 && outcome.replayed > 0 && outcome.lost > 0,
        "{outcome:?}"
    );
    // Nor does one in which most sessions are too young to count.
    assert!(outcome.let_go * 5 < outcome.taken_over, "{outcome:?}");
    assert!(
        outcome.repaired > 0 && outcome.resent > 0 && outcome.returned_ready > 0,
        "{outcome:?}"
    );
}

/// How many seeds of so many find a broken rule.
fn found(broken: Broken, seeds: u64) -> usize {
    (0..seeds)
        .filter(|seed| run(*seed, broken, false).is_err())
        .count()
}

#[test]
fn tables_that_ignore_removals_are_found() {
    let found = found(Broken::Removals, 40);
    assert!(found > 30, "{found} of 40");
}

#[test]
fn tables_that_forget_some_installs_are_found() {
    let found = found(Broken::Installs, 40);
    assert!(found > 30, "{found} of 40");
}

#[test]
fn a_master_that_does_not_tell_everything_is_found() {
    let found = found(Broken::Tells, 40);
    assert!(found > 30, "{found} of 40");
}

#[test]
fn a_replay_window_that_lets_everything_in_is_found() {
    let found = found(Broken::Replays, 40);
    assert!(found > 35, "{found} of 40");
}

#[test]
fn a_director_that_does_not_tell_of_what_the_dead_told_is_found() {
    let found = found(Broken::Orphans, 100);
    assert!(found > 20, "{found} of 100");
}

#[test]
fn a_director_that_does_not_adopt_what_the_dead_told_is_found() {
    let found = found(Broken::Adoption, 100);
    assert!(found > 9, "{found} of 100");
}

#[test]
fn a_director_that_tells_of_entries_as_used_later_is_found() {
    let found = found(Broken::Times, 40);
    assert!(found > 35, "{found} of 40");
}

#[test]
fn a_director_that_tells_of_servers_that_nobody_had_is_found() {
    let found = found(Broken::Servers, 40);
    assert!(found > 35, "{found} of 40");
}
