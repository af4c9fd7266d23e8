//! Timers: the specification's worked example, laziness and punctuality giving the same, the wrap.

use super::*;

const S: u32 = Tick::PER_SECOND;

/// Specification §14.4, swept at every so many ticks, and at the times that are looked at.
fn worked_example(sweep_every: u32, start: u32) {
    let table = table(4);
    let tick = |ticks: u32| Tick(start.wrapping_add(ticks));
    let at_s = |s: u32| tick(s * S);
    let mut swept_until = 0;
    let mut until = |s: u32| {
        let mut ended = Vec::new();
        while swept_until < s * S {
            swept_until += sweep_every.min(s * S - swept_until);
            ended.extend(swept(&table, tick(swept_until)));
        }
        ended
    };
    let fires_at = |now: u32| rows(&table, at_s(now))[0].remaining / S + now;
    let first = made(&table, &key(1, None), &new(1, 300 * S), at_s(0));
    assert!(table.acquire(first, at_s(0)));
    assert_eq!(fires_at(0), 300);
    until(200);
    assert!(table.acquire(first, at_s(200)));
    assert_eq!(fires_at(200), 500);
    assert!(table.release(first.index, at_s(200)));
    until(499);
    assert_eq!(fires_at(499), 500);
    until(500);
    assert_eq!(fires_at(500), 560);
    assert_eq!(rows(&table, at_s(500))[0].timeout, 60 * S);
    until(560);
    assert_eq!(fires_at(560), 620);
    until(700);
    assert_eq!(fires_at(700), 740);
    assert!(table.acquire(first, at_s(700)));
    assert_eq!(fires_at(700), 760);
    until(999);
    assert_eq!(fires_at(999), 1000);
    assert!(table.release(first.index, at_s(999)));
    assert!(table.release(first.index, at_s(999)));
    assert_eq!(dest_of(&table, &key(1, None), at_s(999)), Some(1));
    assert_eq!(until(1000), [1]);
    assert_eq!(dest_of(&table, &key(1, None), at_s(1000)), None);
}

#[test]
fn the_worked_timeline_of_the_specification() {
    worked_example(10, 0);
}

#[test]
fn a_sweeper_that_is_late_changes_nothing_of_the_timeline() {
    worked_example(u32::MAX, 0);
}

#[test]
fn the_timeline_goes_over_the_wrap_of_the_clock() {
    worked_example(S, u32::MAX - 450 * S);
}

#[test]
fn a_connection_that_ends_after_the_deadline_has_been_there_at_it() {
    let table = table(1);
    let at = made(&table, &key(1, None), &new(1, 100), Tick(0));
    assert!(table.acquire(at, Tick(0)));
    // No sweep comes between the deadline and the release.
    assert!(table.release(at.index, Tick(101)));
    assert_eq!(dest_of(&table, &key(1, None), Tick(102)), Some(1));
    assert!(swept(&table, Tick(102)).is_empty());
    // The use restarted the timer at 0; it fired at 100.
    assert_eq!(swept(&table, Tick(100 + 60 * S)), [1]);
}

#[test]
fn a_touch_restarts_the_timer_and_an_older_clock_does_not_shorten_it() {
    let table = table(1);
    let at = made(&table, &key(1, None), &new(1, 100), Tick(10));
    assert!(table.touch(at, Tick(50)));
    assert!(table.touch(at, Tick(49)));
    assert_eq!(rows(&table, Tick(50))[0].remaining, 100);
    assert!(!table.touch(at, Tick(150)));
    assert!(!table.acquire(at, Tick(150)));
}

#[test]
fn the_next_deadline_is_a_lower_bound_that_sweeping_reaches() {
    let table = table(4);
    assert_eq!(table.next_deadline(), None);
    let at = made(&table, &key(1, None), &new(1, 100), Tick(0));
    made(&table, &key(2, None), &new(2, 300), Tick(0));
    assert_eq!(table.next_deadline(), Some(Tick(100)));
    assert!(table.touch(at, Tick(50)));
    assert_eq!(table.next_deadline(), Some(Tick(100)));
    assert!(swept(&table, Tick(100)).is_empty());
    assert_eq!(table.next_deadline(), Some(Tick(150)));
    assert_eq!(swept(&table, Tick(150)), [1]);
    assert_eq!(table.next_deadline(), Some(Tick(300)));
    assert_eq!(swept(&table, Tick(300)), [2]);
    assert_eq!(table.next_deadline(), None);
}

#[test]
fn timeouts_of_any_length_are_taken() {
    let table = table(4);
    made(&table, &key(1, None), &new(1, u32::MAX), Tick(9));
    made(&table, &key(2, None), &new(2, 0), Tick(9));
    assert_eq!(dest_of(&table, &key(1, None), Tick(10)), Some(1));
    assert_eq!(dest_of(&table, &key(2, None), Tick(9)), None);
    assert_eq!(swept(&table, Tick(9)), [2]);
}
