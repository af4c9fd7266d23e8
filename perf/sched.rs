//! What a scheduling decision costs, by scheduler and number of servers; what tables cost to build; what a reservation
//! costs when workers contend.
//!
//! `cargo bench --no-default-features --bench sched [-- NAME…]`. Decisions are timed in a loop over servers that the
//! caches hold, so these are the costs under load, when they matter. Each figure is the median of [`RUNS`] runs; the
//! spread is the largest distance of a run from it.

#![allow(missing_docs)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use polder::net::Tick;
use polder::net::tunnel::Tunnel;
use polder::sched::{self, Build, SchedState, Scheduler, Selection, select_and_reserve};
use polder::table::{AdminState, Dest, DestId, DestShared, Method, ServiceId};

const RUNS: usize = 7;
const RUN: Duration = Duration::from_millis(20);
const SIZES: [u32; 4] = [1, 10, 100, 1000];

fn dest(id: u32, weight: u32, upper_threshold: u32) -> Arc<Dest> {
    Arc::new(Dest {
        id: DestId(id),
        service: ServiceId(0),
        name: String::new(),
        addr: IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + id)),
        port: 80,
        method: Method::Direct,
        tunnel: Tunnel::default(),
        weight,
        last_weight: weight,
        upper_threshold,
        lower_threshold: 0,
        admin: AdminState::Ready,
        up: true,
        one_packet: false,
        keyed: false,
        by_session: false,
        available: true,
        shared: Arc::new(DestShared::default()),
    })
}

/// Servers of weights 1 to 4, each with a few active connections.
fn servers(n: u32) -> Vec<Arc<Dest>> {
    let dests: Vec<_> = (0..n).map(|id| dest(id, 1 + id % 4, 1_000_000)).collect();
    for (connections, dest) in (1..).zip(&dests) {
        for _ in 0..connections % 3 + 1 {
            dest.bind_unchecked();
            dest.shared.activate();
        }
    }
    dests
}

fn build(name: &str, flags: &[&str], dests: &[Arc<Dest>]) -> Box<dyn Scheduler> {
    let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
    let state = Arc::new(SchedState::default());
    let build = Build {
        dests,
        previous: &[],
        state: &state,
        flags: &flags,
        seed: 1,
    };
    sched::build(name, &build).expect("the names and flags are right")
}

/// Median and spread of `RUNS` figures.
fn median(mut run: impl FnMut() -> f64) -> (f64, f64) {
    run();
    let mut figures: Vec<f64> = (0..RUNS).map(|_| run()).collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures[RUNS / 2];
    (
        middle,
        (figures[RUNS - 1] - middle).max(middle - figures[0]),
    )
}

/// Nanoseconds of one call of `f`, which gets a number that differs each time.
fn ns_per_call(mut f: impl FnMut(u64)) -> f64 {
    let start = Instant::now();
    let mut calls = 0u64;
    while start.elapsed() < RUN {
        for _ in 0..256 {
            calls += 1;
            f(calls.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
    }
    start.elapsed().as_nanos() as f64 / calls as f64
}

fn selection(random: u64, session: &[u8; 8]) -> Selection<'_> {
    Selection {
        client: (random >> 32) as u32,
        client_port: random as u16,
        virtual_addr: (random >> 54) as u32,
        random,
        session: Some(session),
        now: Tick(1),
    }
}

fn decision(label: &str, name: &str, flags: &[&str], lists: &[Vec<Arc<Dest>>]) {
    print!("{label:<22}");
    for dests in lists {
        if sched::check(name, &[], dests.len()).is_err() {
            print!(" {:>9} {:<7}", "-", "");
            continue;
        }
        let scheduler = build(name, flags, dests);
        let (ns, spread) = median(|| {
            ns_per_call(|random| {
                let session = random.to_be_bytes();
                black_box(scheduler.select(dests, &selection(random, &session)));
            })
        });
        print!(" {ns:>9.1} ±{spread:<6.1}");
    }
    println!();
}

fn table(label: &str, name: &str, flags: &[&str]) {
    print!("{label:<22}");
    for n in SIZES {
        let dests = servers(n);
        let (ms, spread) = median(|| {
            let start = Instant::now();
            black_box(build(name, flags, &dests));
            start.elapsed().as_secs_f64() * 1e3
        });
        print!(" {ms:>9.3} ±{spread:<6.3}");
    }
    println!();
}

/// Millions of connections made and ended a second by so many workers, hprio with 3 + 1 servers and thresholds of 50.
fn contended(workers: usize) -> f64 {
    let mut dests: Vec<_> = (0..3).map(|id| dest(id, 5, 50)).collect();
    dests.push(dest(3, 1, 0));
    let scheduler = build("hprio", &[], &dests);
    const EACH: u64 = 200_000;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut held = [usize::MAX; 64];
                for n in 0..EACH {
                    let place = &mut held[n as usize % 64];
                    if let Some(dest) = dests.get(*place) {
                        dest.unbind(false);
                    }
                    let chosen = select_and_reserve(&*scheduler, &dests, &Selection::default());
                    *place = chosen.expect("the spill-over always has room");
                }
            });
        }
    });
    workers as f64 * EACH as f64 / start.elapsed().as_secs_f64() / 1e6
}

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let lists = SIZES.map(servers);

    println!(
        "ns per decision       {}",
        SIZES.map(|n| format!(" {n:>9} servers")).concat()
    );
    for name in sched::NAMES.into_iter().filter(|name| is_wanted(name)) {
        decision(name, name, &[], &lists);
    }
    // One server of a lower weight behind others that are all overloaded: the worst case of those that pass them over.
    let full = SIZES.map(|n| {
        let mut dests: Vec<_> = (1..n).map(|id| dest(id, 5, 1)).collect();
        dests.iter().for_each(|dest| dest.bind_unchecked());
        dests.push(dest(0, 1, 0));
        dests
    });
    for name in ["rr", "wrr", "hprio", "offh"]
        .into_iter()
        .filter(|name| is_wanted(name))
    {
        decision(&format!("{name}, all but 1 full"), name, &[], &full);
    }

    println!("\nms to build");
    for (label, name, flags) in [
        ("sh", "sh", &[][..]),
        ("mh, 4093 slots", "mh", &[]),
        ("mh, 65521 slots", "mh", &["table=65521"]),
        ("mh, 65537 slots", "mh", &["table=65537"]),
        ("mh, 131071 slots", "mh", &["table=131071"]),
        ("offh", "offh", &[]),
    ] {
        if is_wanted(name) {
            table(label, name, flags);
        }
    }

    if is_wanted("hprio") {
        println!("\nmillion hprio connections made and ended a second, thresholds of 50");
        for workers in [1, 2, 4] {
            let (rate, spread) = median(|| contended(workers));
            println!("{workers} workers {rate:>18.2} ±{spread:.2}");
        }
    }
}
