//! Real threads that hammer the same new sessions.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

/// How many of `sessions` two workers, each with its own idea of the server, take to two servers.
fn disagreements(sessions: u32, search_again: bool) -> usize {
    let table = Templates::with_chunks(sessions * 2, 4, 4, HashKey::from_seed(1)).expect("memory");
    let table = &table;
    // In step: a worker begins with a session when the other is there too.
    let steps = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let work = |me: usize| -> Vec<u32> {
        let dest = u32::try_from(me).expect("two workers");
        let choose = |session: u32| {
            steps[me].fetch_add(1, Ordering::SeqCst);
            while steps[1 - me].load(Ordering::SeqCst) <= session as usize {
                thread::yield_now();
            }
            let id = session.to_le_bytes();
            let key = key(0, Some(&id));
            let new = new(dest, 1000);
            match table.insert_by(&key, table.hash(&key), &new, Tick(0), search_again) {
                Ok(Placed::New(_)) => dest,
                Ok(Placed::Existing(_, DestId(dest))) => dest,
                Err(refused) => panic!("{refused:?}"),
            }
        };
        (0..sessions).map(choose).collect()
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| work(1));
        let (here, there) = (work(0), other.join().expect("no panic"));
        here.iter().zip(&there).filter(|(a, b)| a != b).count()
    })
}

#[test]
fn two_workers_that_hammer_new_call_ids_never_choose_two_servers() {
    assert_eq!(disagreements(20_000, true), 0);
}

#[test]
fn the_same_hammering_finds_a_plain_insert() {
    // How often two threads meet is the machine's affair, so several tries.
    let found = (0..50).any(|_| disagreements(20_000, false) > 0);
    assert!(found);
}

const ROUNDS: u32 = 20_000;

/// A worker's rounds: how many templates it made.
fn worker(table: &Templates, dest: u32) -> usize {
    let mut made = 0;
    for round in 0..ROUNDS {
        let now = Tick(round / 50);
        let id = (round * 7 % 90).to_le_bytes().repeat(30);
        let at = match insert(table, &key(0, Some(&id)), &new(dest, 2), now) {
            Ok(Placed::New(at)) => {
                made += 1;
                at
            }
            Ok(Placed::Existing(at, _)) => at,
            Err(_) => {
                thread::yield_now();
                continue;
            }
        };
        if table.acquire(at, now) {
            if round % 5 == 0 {
                table.end(at);
            }
            assert!(table.release(at.index, now));
        }
    }
    made
}

#[test]
fn workers_and_a_sweeper_at_full_speed_keep_the_books() {
    let table = table(64);
    let (mut ended, mut made) = (0, 0);
    thread::scope(|scope| {
        let table = &table;
        let workers = [1, 2, 3].map(|dest| scope.spawn(move || worker(table, dest)));
        let mut now = 0;
        while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
            table.sweep(Tick(now / 50), |_| ended += 1);
            now = (now + 1).min(ROUNDS);
        }
        made = workers.map(|w| w.join().expect("no panic")).iter().sum();
    });
    for later in 1..4 {
        table.sweep(Tick(ROUNDS * later), |_| ended += 1);
    }
    // How often places are used again is the machine's affair; each is used once at least.
    assert!(made >= 64);
    assert_eq!(ended, made);
    assert_eq!((table.len(), table.limits.of_clients()), (0, 0));
    assert!(table.buckets.iter().all(|head| Word::load(head) == 0));
}
