//! Schedules of a few threads, explored: the table's own code on words that the explorer controls.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// A word of the explorer: a switch of threads is possible at every use.
#[derive(Debug)]
struct Explored(AtomicU64);

impl Default for Explored {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Word for Explored {
    fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn store(&self, value: u64) {
        self.0.store(value, Ordering::SeqCst);
    }
    fn swap(&self, value: u64) -> u64 {
        self.0.swap(value, Ordering::SeqCst)
    }
    fn swap_if(&self, old: u64, new: u64) -> bool {
        self.0
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

type Shared = Arc<Table<Explored>>;

fn shared(capacity: u32) -> Shared {
    Arc::new(Table::with_chunks(capacity, 2, 2, HashKey::from_seed(1)).expect("memory"))
}

/// What threads counted: templates made minus templates ended, per server.
#[derive(Default)]
struct Ledger(Mutex<[i32; 8]>);

impl Ledger {
    fn add(&self, dest: u32, change: i32) {
        self.0.lock().expect("no thread panicked")[dest as usize] += change;
    }
}

/// Explores schedules of `scenario`: half at random, half with few but aimed switches.
fn explore(schedules: usize, scenario: impl Fn() + Clone + Send + Sync + 'static) {
    shuttle::check_random(scenario.clone(), schedules);
    shuttle::check_pct(scenario, schedules, 3);
}

/// Two threads insert one key, each wanting its own server: one makes it, both get its server.
fn two_insert(search_again: bool) {
    let table = shared(4);
    let insert = move |table: &Table<Explored>, dest| {
        let key = key(1, Some(b"call"));
        let hash = table.hash(&key);
        match table.insert_by(&key, hash, &new(dest, 100), Tick(0), search_again) {
            Ok(Placed::New(_)) => (true, dest),
            Ok(Placed::Existing(_, DestId(dest))) => (false, dest),
            Err(refused) => panic!("{refused:?}"),
        }
    };
    let other = Arc::clone(&table);
    let thread = shuttle::thread::spawn(move || insert(&other, 1));
    let (here_new, here) = insert(&table, 2);
    let (there_new, there) = thread.join().expect("no panic");
    assert!(here_new != there_new, "not exactly one made the template");
    assert_eq!(here, there, "two servers for one session");
    assert_eq!(table.len(), 1);
    assert_eq!(swept(&table, Tick(100)).len(), 1);
    assert_eq!(table.limits.of_clients(), 0);
}

#[test]
fn two_threads_that_insert_one_key_agree_on_one_server() {
    explore(1_000, || two_insert(true));
}

#[test]
#[should_panic(expected = "not exactly one made the template")]
fn without_a_new_search_they_would_not_agree() {
    explore(1_000, || two_insert(false));
}

/// A worker: gets sessions' templates as a director does, holds them for a connection, ends that.
fn worker(table: &Table<Explored>, ledger: &Ledger, dest: u32, now: Tick) {
    for key in [key(1, None), key(1, Some(&[9; INLINE + 60]))] {
        let at = match insert(table, &key, &new(dest, 10), now) {
            Ok(Placed::New(at)) => {
                ledger.add(dest, 1);
                at
            }
            Ok(Placed::Existing(at, _)) => at,
            Err(_) => continue,
        };
        if table.acquire(at, now) {
            assert_eq!(table.get(at.index), at);
            assert!(table.release(at.index, now));
        }
    }
}

/// What ends is taken from the ledger.
fn sweeper(table: &Table<Explored>, ledger: &Ledger, now: Tick) {
    table.sweep(now, |ended| ledger.add(ended.dest.0, -1));
}

/// Whatever the order was, once all has expired the books are balanced and all places are free.
fn settle(table: &Table<Explored>, ledger: &Ledger) {
    for later in 1..4 {
        sweeper(table, ledger, Tick(10_000 * later));
    }
    assert_eq!(*ledger.0.lock().expect("no panic"), [0; 8]);
    assert_eq!(table.len(), 0);
    assert_eq!(table.in_service(ServiceId(1)), 0);
    assert_eq!(table.limits.of_clients(), 0);
    assert_eq!(table.pool.free(), 2);
    let places = std::iter::from_fn(|| table.free.pop(|i| &table.entry(i).next));
    assert_eq!(places.count(), table.capacity());
    assert!(table.buckets.iter().all(|head| head.load() == 0));
}

/// Runs two threads, and a third on this one, and settles.
fn three_threads(
    table: &Shared,
    ledger: &Arc<Ledger>,
    first: [u32; 2],
    work: fn(&Table<Explored>, &Ledger, u32),
    here: impl Fn(&Table<Explored>, &Ledger),
) {
    let threads = first.map(|which| {
        let (table, ledger) = (Arc::clone(table), Arc::clone(ledger));
        shuttle::thread::spawn(move || work(&table, &ledger, which))
    });
    here(table, ledger);
    threads
        .into_iter()
        .for_each(|t| t.join().expect("no panic"));
    settle(table, ledger);
}

#[test]
fn inserting_holding_and_sweeping_at_once_keep_the_books() {
    explore(500, || {
        let work = |table: &_, ledger: &_, dest| worker(table, ledger, dest, Tick(10 * (dest - 1)));
        three_threads(
            &shared(3),
            &Arc::default(),
            [1, 2],
            work,
            |table, ledger| {
                [9, 10, 21]
                    .into_iter()
                    .for_each(|now| sweeper(table, ledger, Tick(now)));
            },
        );
    });
}

#[test]
fn of_workers_that_move_a_template_while_it_ends_each_move_is_counted_once() {
    explore(500, || {
        let (table, ledger) = (shared(2), Arc::new(Ledger::default()));
        made(&*table, &key(1, None), &new(1, 10), Tick(0));
        ledger.add(1, 1);
        let work = |table: &Table<Explored>, ledger: &Ledger, to| {
            let key = key(1, None);
            let Some((at, _)) = table.lookup(&key, table.hash(&key), Tick(9)) else {
                return;
            };
            if table.repoint(at, DestId(1), DestId(to)) == Repoint::Moved {
                ledger.add(1, -1);
                ledger.add(to, 1);
            }
        };
        three_threads(&table, &ledger, [2, 3], work, |table, ledger| {
            sweeper(table, ledger, Tick(10));
        });
    });
}

/// Makes and ends templates of three sessions in turn; each session's key, data, server and holder
/// belong together.
fn three_lives(table: &Table<Explored>, ledger: &Ledger) {
    for id in 1..4u8 {
        let data = [id; INLINE + 9];
        let at = made(table, &key(id, Some(&data)), &new(id.into(), 100), Tick(0));
        ledger.add(id.into(), 1);
        table.swap_holder(at, id.into(), Tick(0));
        assert!(table.end(at));
        sweeper(table, ledger, Tick(0));
    }
}

#[test]
fn a_reader_sees_no_mixture_of_two_lives() {
    explore(500, || {
        let (table, ledger) = (shared(1), Arc::new(Ledger::default()));
        let (other, books) = (Arc::clone(&table), Arc::clone(&ledger));
        let writer = shuttle::thread::spawn(move || three_lives(&other, &books));
        for id in [2u8, 3] {
            let data = [id; INLINE + 9];
            let key = key(id, Some(&data));
            if let Some((at, found)) = table.lookup(&key, table.hash(&key), Tick(1)) {
                assert_eq!(found, DestId(id.into()));
                let holder = table.holder(at);
                assert!(
                    [None, Some(0), Some(id.into())].contains(&holder),
                    "{holder:?}"
                );
            }
            table.dump(0, 9, Tick(1), |row| {
                let id = u8::try_from(row.dest.0).expect("small");
                assert_eq!(row.data, Some(vec![id; INLINE + 9]));
                assert_eq!(row.key.client, super::key(id, None).client);
                assert!([0, u64::from(id)].contains(&row.holder));
            });
        }
        writer.join().expect("no panic");
        settle(&table, &ledger);
    });
}

#[test]
fn a_limit_holds_for_threads_that_reach_it_at_once() {
    explore(500, || {
        let table = shared(4);
        let limited = NewTemplate {
            service_limit: 1,
            ..new(1, 100)
        };
        let other = Arc::clone(&table);
        let thread = shuttle::thread::spawn(move || {
            insert(&other, &key(1, None), &limited, Tick(0)).is_ok()
        });
        let here = insert(&table, &key(2, None), &limited, Tick(0)).is_ok();
        let there = thread.join().expect("no panic");
        assert!(here != there);
        assert_eq!(table.in_service(ServiceId(1)), 1);
    });
}
