//! The timer wheel against a sorted map of deadlines.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::net::Tick;
use crate::table::wheel::Wheel;

const DAY: u32 = 24 * 3600 * Tick::PER_SECOND;

/// A wheel whose owner knows the deadlines, as the tables do.
struct Owner {
    wheel: Wheel,
    now: Tick,
    deadlines: BTreeMap<u32, Tick>,
}

impl Owner {
    fn new(items: u32, now: Tick) -> Self {
        Self {
            wheel: Wheel::new(items).unwrap(),
            now,
            deadlines: BTreeMap::new(),
        }
    }

    fn arm(&mut self, item: u32, ticks: u32) {
        if self.deadlines.remove(&item).is_some() {
            self.wheel.disarm(item);
        }
        let deadline = self.now.plus(ticks);
        let visit = self.wheel.arm(item, deadline, self.now);
        assert!(deadline.reached(visit) || visit == self.now.plus(1));
        self.deadlines.insert(item, deadline);
    }

    fn disarm(&mut self, item: u32) {
        if self.deadlines.remove(&item).is_some() {
            self.wheel.disarm(item);
        }
    }

    /// Lets time pass; returns what fired, in order, and how many visits it took.
    fn advance(&mut self, ticks: u32) -> (Vec<u32>, usize) {
        self.now = self.now.plus(ticks);
        let (mut fired, mut visits) = (Vec::new(), 0);
        while let Some(item) = self.wheel.pop(self.now) {
            visits += 1;
            let deadline = self.deadlines[&item];
            if self.now.reached(deadline) {
                self.deadlines.remove(&item);
                fired.push(item);
            } else {
                self.wheel.arm(item, deadline, self.now);
            }
        }
        (fired, visits)
    }

    /// What must have fired by now.
    fn overdue(&self) -> usize {
        self.deadlines
            .values()
            .filter(|deadline| self.now.reached(**deadline))
            .count()
    }
}

#[test]
fn called_every_tick_a_timer_fires_in_its_tick() {
    // Starts shortly before a boundary of all levels, and the wrap.
    for start in [0, 1, 8_190, (1 << 23) - 3, u32::MAX - 100] {
        let mut owner = Owner::new(8, Tick(start));
        let ticks = [1, 2, 255, 8_191, 8_192, 8_193, 16_384, 20_000];
        for (item, ticks) in (0..).zip(ticks) {
            owner.arm(item, ticks);
        }
        for passed in 1..=20_000 {
            let (fired, _) = owner.advance(1);
            let due: Vec<u32> = (0..)
                .zip(ticks)
                .filter(|t| t.1 == passed)
                .map(|t| t.0)
                .collect();
            assert_eq!(fired, due, "start {start}, {passed} ticks later");
        }
    }
}

#[test]
fn a_deadline_that_has_passed_fires_in_the_next_tick() {
    let mut owner = Owner::new(2, Tick(50));
    owner.arm(0, 5_000);
    owner.advance(10);
    owner.arm(1, 0);
    assert_eq!(owner.advance(0).0, Vec::<u32>::new());
    assert_eq!(owner.advance(1).0, [1]);
}

#[test]
fn a_jump_over_weeks_visits_each_timer_once() {
    let mut owner = Owner::new(1_000, Tick(u32::MAX - DAY));
    for item in 0..1_000 {
        owner.arm(item, 10 * DAY + item * 37);
    }
    let (fired, visits) = owner.advance(30 * DAY);
    assert_eq!((fired.len(), visits), (1_000, 1_000));
    assert_eq!(owner.advance(100 * DAY), (vec![], 0));
}

#[test]
fn a_far_timer_is_visited_once_per_level() {
    let mut owner = Owner::new(1, Tick(77));
    owner.arm(0, 31 * DAY);
    let mut visits = 0;
    for _ in 0..31 * 24 {
        visits += owner.advance(DAY / 24).1;
    }
    assert_eq!(owner.deadlines.len(), 0);
    assert!(visits <= 3, "{visits} visits");
}

#[test]
fn a_timer_of_almost_a_round_waits_for_the_next_round() {
    // Armed within the second slot of the second level, due within the same slot a round later.
    let mut owner = Owner::new(1, Tick(8_192 + 5_000));
    owner.arm(0, (1 << 23) - 10);
    assert_eq!(owner.advance(100), (vec![], 0));
    assert_eq!(owner.advance((1 << 23) - 200), (vec![], 1));
}

#[test]
fn timers_of_one_tick_fire_in_the_order_of_arming() {
    let mut owner = Owner::new(100, Tick(9));
    for item in [7, 3, 99, 0, 42] {
        owner.arm(item, 600);
    }
    assert_eq!(owner.advance(700).0, [7, 3, 99, 0, 42]);
}

#[test]
fn a_wheel_that_was_empty_for_years_starts_anew() {
    let mut wheel = Wheel::new(1).unwrap();
    for now in [0, u32::MAX / 2 + 5, 17] {
        assert_eq!(
            wheel.arm(0, Tick(now).plus(3), Tick(now)),
            Tick(now).plus(3)
        );
        assert_eq!(wheel.pop(Tick(now).plus(2)), None);
        assert_eq!(wheel.pop(Tick(now).plus(3)), Some(0));
    }
}

#[derive(Clone, Debug)]
enum Op {
    Arm(u32, u32),
    Disarm(u32),
    Advance(u32),
}

fn ticks() -> impl Strategy<Value = u32> {
    let round = |level: u32| (1u32 << level) - 9_000..(1u32 << level) + 9_000;
    prop_oneof![
        0u32..4,
        0u32..10_000,
        8_000u32..9_000,
        round(23),
        0u32..1 << 24,
        0..=31 * DAY
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u32..20, ticks()).prop_map(|(item, ticks)| Op::Arm(item, ticks)),
        1 => (0u32..20).prop_map(Op::Disarm),
        3 => ticks().prop_map(Op::Advance),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_wheel_fires_what_a_sorted_map_fires(
        start in prop_oneof![any::<u32>(), u32::MAX - 20_000..=u32::MAX],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut owner = Owner::new(20, Tick(start));
        for op in ops {
            match op {
                Op::Arm(item, ticks) => owner.arm(item, ticks),
                Op::Disarm(item) => owner.disarm(item),
                Op::Advance(ticks) => {
                    let armed = owner.deadlines.len();
                    let (fired, visits) = owner.advance(ticks);
                    // `advance` itself checks that nothing fires early.
                    prop_assert!(ticks == 0 || owner.overdue() == 0);
                    prop_assert_eq!(fired.len() + owner.deadlines.len(), armed);
                    prop_assert!(visits <= 3 * armed);
                }
            }
        }
        owner.advance(31 * DAY + 1);
        prop_assert_eq!(owner.deadlines.len(), 0);
    }
}
