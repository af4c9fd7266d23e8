//! Names, flags, reservation, and what several workers make of one scheduler.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::testkit::{Service, carry, list, loaded_servers, overload, server};
use super::*;

fn refused(name: &str, flags: &[&str], servers: usize) -> String {
    let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
    check(name, &flags, servers)
        .expect_err("must be refused")
        .to_string()
}

#[test]
fn every_name_of_the_contract_is_there() {
    let contract = "rr wrr lc wlc sed nq fo ovf dh sh mh lblc lblcr twos hprio offh";
    assert_eq!(NAMES.join(" "), contract);
}

#[test]
fn flags_are_taken_in_both_spellings_where_the_scheduler_has_them() {
    let table = [
        ("sh", "fallback"),
        ("sh", "port"),
        ("sh", "kernel_tables"),
        ("sh", "sh-fallback"),
        ("sh", "sh-port"),
        ("mh", "fallback"),
        ("mh", "port"),
        ("mh", "mh-fallback"),
        ("mh", "mh-port"),
        ("mh", "table=65521"),
    ];
    for (name, flag) in table {
        assert_eq!(check(name, &[flag.to_owned()], 3), Ok(()), "{name} {flag}");
    }
}

#[test]
fn what_there_is_not_is_refused_with_what_there_is() {
    let table: &[(&str, &[&str], usize, &str)] = &[
        (
            "wcl",
            &[],
            1,
            "there is no scheduler `wcl`; there are rr, wrr, lc,",
        ),
        (
            "rr",
            &["port"],
            1,
            "scheduler `rr` takes no flags, so not `port`",
        ),
        (
            "mh",
            &["sh-port"],
            1,
            "no flag `sh-port`; it has fallback, port, table=SLOTS",
        ),
        ("mh", &["kernel_tables"], 1, "no flag `kernel_tables`"),
        ("sh", &["table=251"], 1, "no flag `table=251`"),
        ("sh", &["port=1"], 1, "no flag `port=1`"),
        ("mh", &["table"], 1, "no flag `table`"),
        (
            "mh",
            &["table=4096"],
            1,
            "65521, 65537, 131071]; did you mean `table=8191`?",
        ),
        (
            "mh",
            &[],
            4094,
            "4094 servers are more than the 4093 that `mh` has places for; give it a larger table by a flag",
        ),
        ("mh", &["table=1000000"], 1, "did you mean `table=131071`?"),
        (
            "dh",
            &[],
            257,
            "257 servers are more than the 256 that `dh` has places for; use a scheduler without",
        ),
        (
            "sh",
            &["kernel_tables"],
            257,
            "256 that `sh` has places for; without the flag `kernel_tables`",
        ),
        (
            "rr",
            &[],
            65_535,
            "65535 servers are more than the 65534 that `rr` has places for; divide",
        ),
    ];
    for (name, flags, servers, part) in table {
        let said = refused(name, flags, *servers);
        assert!(said.contains(part), "{said:?} does not say {part:?}");
    }
}

#[test]
fn no_scheduler_finds_a_server_where_none_can_be_chosen() {
    for name in NAMES {
        assert_eq!(
            Service::new(name, &[], list(&[])).next(),
            None,
            "{name}, no servers"
        );
        assert_eq!(
            Service::new(name, &[], list(&[0, 0])).next(),
            None,
            "{name}, weight 0"
        );
        let dests = list(&[1, 2]);
        for dest in &dests {
            carry(dest, 0, 1);
            testkit::overload(dest, true);
        }
        assert_eq!(
            Service::new(name, &[], dests).next(),
            None,
            "{name}, overloaded"
        );
    }
}

#[test]
fn every_scheduler_finds_the_only_server() {
    for name in NAMES {
        let service = Service::new(name, &[], list(&[3]));
        assert_eq!(service.sequence(3), "AAA", "{name}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn what_any_scheduler_chooses_is_eligible(
        dests in loaded_servers(), client: u32, random: u64, client_port: u16
    ) {
        for name in NAMES {
            let service = Service::new(name, &[], dests.clone());
            for n in 0..8 {
                let selection = Selection {
                    client: client.wrapping_add(n),
                    client_port,
                    virtual_addr: n,
                    random: random.wrapping_add(u64::from(n)),
                    ..Selection::default()
                };
                let choice = service.select(&selection);
                proptest::prop_assert!(choice.is_none_or(|i| dests[i].eligible()), "{}", name);
            }
        }
    }
}

#[test]
fn a_changed_scheduler_starts_afresh() {
    let state = Arc::new(SchedState::default());
    let dests = list(&[1, 1, 1]);
    let make = |name| {
        let previous = &dests;
        build(
            name,
            &Build {
                dests: &dests,
                previous,
                state: &state,
                flags: &[],
                seed: 1,
            },
        )
        .expect("known to be right")
    };
    let next = |scheduler: &dyn Scheduler| scheduler.select(&dests, &Selection::default());
    assert_eq!(next(&*make("rr")), Some(0));
    assert_eq!(next(&*make("rr")), Some(1));
    assert_eq!(next(&*make("wrr")), Some(0));
    assert_eq!(next(&*make("rr")), Some(0));
}

#[test]
fn a_reservation_goes_on_to_the_next_server_when_one_is_full() {
    let full = |id, upper_threshold| {
        Arc::new(Dest {
            upper_threshold,
            ..server(id, 1)
        })
    };
    let dests = vec![full(0, 1), full(1, 2)];
    let service = Service::new("rr", &[], dests.clone());
    let reserve = || select_and_reserve(&*service.scheduler, &dests, &Selection::default());
    let chosen: Vec<_> = (0..4).map(|_| reserve()).collect();
    assert_eq!(chosen, [Some(0), Some(1), Some(1), None]);
}

/// Workers that take and give back connections as fast as they can, each at most `hold` at a time. Returns how many
/// were refused, and for each server the most it ever had.
fn stampede(service: &Service, rounds: usize, hold: usize) -> (u32, Vec<u32>) {
    let refused = AtomicU32::new(0);
    let together = Barrier::new(4);
    let most: Vec<AtomicU32> = service.dests.iter().map(|_| AtomicU32::new(0)).collect();
    std::thread::scope(|scope| {
        for worker in 0..4u64 {
            let (refused, most, together) = (&refused, &most, &together);
            scope.spawn(move || {
                let mut held = std::collections::VecDeque::new();
                together.wait();
                for round in 0..rounds as u64 {
                    let random = hash::nth(worker, round);
                    let selection = Selection {
                        random,
                        ..Selection::default()
                    };
                    match select_and_reserve(&*service.scheduler, &service.dests, &selection) {
                        Some(index) => {
                            let total = service.dests[index].shared.total();
                            most[index].fetch_max(total, Ordering::Relaxed);
                            held.push_back(index);
                        }
                        None => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    // Bursts of endings, so that servers fall below their low marks all the time.
                    if held.len() >= hold {
                        for index in held.drain(..1 + random as usize % hold) {
                            service.dests[index].unbind(false);
                        }
                    }
                }
                held.drain(..)
                    .for_each(|index| service.dests[index].unbind(false));
            });
        }
    });
    let idle = |dest: &Arc<Dest>| dest.shared.total() == 0;
    assert!(
        service.dests.iter().all(idle),
        "what was taken was given back"
    );
    (
        refused.into_inner(),
        most.into_iter().map(AtomicU32::into_inner).collect(),
    )
}

fn author_example(lower: u32) -> Vec<Arc<Dest>> {
    let tier = |id| Dest {
        upper_threshold: 50,
        lower_threshold: lower,
        ..server(id, 5)
    };
    let spill = Dest {
        upper_threshold: 0,
        ..server(9, 1)
    };
    [tier(0), tier(1), tier(2), spill].map(Arc::new).into()
}

#[test]
fn four_workers_never_exceed_a_threshold_nor_refuse_while_the_spill_over_has_room() {
    // A low mark at the upper threshold makes servers flap with every connection: the most races there can be.
    for lower in [20, 50] {
        let service = Service::new("hprio", &[], author_example(lower));
        // One worker alone can hold more than the first tier takes, so the test needs no luck with time slices.
        let (refused, most) = stampede(&service, 200_000, 200);
        assert_eq!(refused, 0, "lower {lower}");
        assert!(
            most[..3].iter().all(|&n| n <= 50),
            "lower {lower}: {most:?}"
        );
        assert!(
            most.iter().sum::<u32>() > 150,
            "lower {lower}: the spill-over was used: {most:?}"
        );
    }
}

#[test]
fn four_workers_never_exceed_a_threshold_with_any_scheduler() {
    for name in NAMES {
        let full = |id| {
            Arc::new(Dest {
                upper_threshold: 50,
                ..server(id, 1 + id)
            })
        };
        let service = Service::new(name, &[], (0..3).map(full).collect());
        let (_, most) = stampede(&service, 5_000, 100);
        assert!(most.iter().all(|&n| n <= 50), "{name}: {most:?}");
    }
}

/// Schedulers that leave overloaded servers out until they hear of them.
const LISTENERS: [&str; 4] = ["rr", "wrr", "hprio", "offh"];

#[test]
fn no_server_is_forgotten_in_a_stampede() {
    for name in LISTENERS {
        let flapping = |id| {
            Arc::new(Dest {
                upper_threshold: 3,
                lower_threshold: 3,
                ..server(id, 1 + id % 2)
            })
        };
        let service = Service::new(name, &[], (0..40).map(flapping).collect());
        let (_, most) = stampede(&service, 50_000, 100);
        assert!(most.iter().all(|&n| n <= 3), "{name}: {most:?}");
        let reserve = || {
            let choose =
                |selection| select_and_reserve(&*service.scheduler, &service.dests, selection);
            choose(&Selection::default())
        };
        let places = (0..).take_while(|_| reserve().is_some()).count();
        assert_eq!(places, 120, "{name} finds every place again");
    }
}

#[test]
fn every_build_hears_that_a_server_is_no_longer_overloaded() {
    for name in LISTENERS {
        let older = Service::new(name, &[], list(&[1; 40]));
        let mut dests = older.dests.clone();
        dests.push(Arc::new(server(99, 1)));
        let newer = older.successor(dests.clone());
        dests.iter().for_each(|dest| carry(dest, 0, 1));
        dests.iter().for_each(|dest| overload(dest, true));
        assert_eq!((older.next(), newer.next()), (None, None), "{name}");
        overload(&dests[33], false);
        assert_eq!((older.next(), newer.next()), (Some(33), Some(33)), "{name}");
        drop(newer);
        overload(&dests[33], true);
        assert_eq!(older.next(), None, "{name}");
        overload(&dests[7], false);
        assert_eq!(older.next(), Some(7), "{name}");
    }
}

/// Three servers that may have two sessions or connections each.
fn loaded_by_sessions(name: &'static str) -> Service {
    let by_session = |id| {
        Arc::new(Dest {
            upper_threshold: 2,
            by_session: true,
            ..server(id, 1)
        })
    };
    Service::new(name, &[], (0..3).map(by_session).collect())
}

#[test]
fn a_server_whose_sessions_are_its_load_is_back_when_one_ends() {
    for name in LISTENERS {
        let service = loaded_by_sessions(name);
        for dest in &service.dests {
            dest.shared.bind_template();
            dest.shared.bind_template();
        }
        assert_eq!(service.next(), None, "{name}");
        service.dests[1].shared.unbind_template();
        assert_eq!(service.next(), Some(1), "{name}");
    }
}

/// A connection of such a server, which has few, counts towards its threshold without setting the flag by itself.
#[test]
fn a_server_whose_sessions_are_its_load_is_back_when_a_connection_ends() {
    for name in LISTENERS {
        let service = loaded_by_sessions(name);
        for dest in &service.dests {
            dest.shared.bind_template();
            dest.bind_unchecked();
        }
        assert_eq!(service.next(), None, "{name}");
        service.dests[1].unbind(false);
        assert_eq!(service.next(), Some(1), "{name}");
        let older = Dest {
            by_session: false,
            upper_threshold: 2,
            shared: Arc::clone(&service.dests[2].shared),
            ..server(2, 1)
        };
        service.dests[1].shared.bind_template();
        assert_eq!(service.next(), None, "{name}");
        older.unbind(false);
        older.shared.settle(older.thresholds());
        assert_eq!(service.next(), Some(2), "{name}: of an older snapshot");
    }
}

/// Choices of each server when four workers choose `each` times.
fn tally(service: &Service, each: usize) -> Vec<u64> {
    let counts: Vec<AtomicU64> = service.dests.iter().map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..each {
                    let index = service.next().expect("all can be chosen");
                    counts[index].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    counts.into_iter().map(AtomicU64::into_inner).collect()
}

#[test]
fn four_workers_together_make_the_turns_that_one_would() {
    let service = Service::new("rr", &[], list(&[1; 7]));
    assert_eq!(tally(&service, 7_000), [4_000; 7]);
    let service = Service::new("wrr", &[], list(&[4, 3, 2]));
    assert_eq!(tally(&service, 9_000), [16_000, 12_000, 8_000]);
    let service = Service::new("hprio", &[], list(&[5, 1, 5, 5]));
    assert_eq!(tally(&service, 3_000), [4_000, 0, 4_000, 4_000]);
}
