//! A process hands its tables over to the next one on the same machine, in virtual time: when clients begin to wait, how
//! long at most, and what becomes of it when one of both is gone.

mod bed;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bed::*;
use polder::mgmt::api::{HandOverState, HandOverStep};
use polder::mgmt::sync::SyncControl;
use polder::mgmt::sync::takeover::{Collector, one_time_key};
use polder::mgmt::sync::task::{Control, Machine};
use polder::net::packet::tcp_flags;
use polder::sync::settings::Settings;
use tokio::task::LocalSet;

/// A process with its workers, and the next one as far as it collects.
struct Scene {
    bed: Bed,
    control: Arc<Control>,
    collector: Collector,
    begin: HandOverStep,
}

impl Scene {
    fn step(&self, step: &HandOverStep) -> HandOverState {
        SyncControl::hand_over(&*self.control, step).expect("it can be done")
    }

    fn is_deaf(&self) -> bool {
        self.bed.bed.plane().sync.deaf.load(Ordering::Relaxed)
    }

    /// Lets a tick pass, in which the process that was there works and, if `both`, the next one, too.
    async fn tick(&mut self, both: bool) {
        self.bed.now = self.bed.now.plus(1);
        self.bed.bed.advance(self.bed.now);
        if both {
            self.collector.turn();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    /// Ticks until `is`, at most so many.
    async fn until(&mut self, most: u32, both: bool, is: impl Fn(&Self) -> bool) -> u32 {
        for tick in 0..most {
            if is(self) {
                return tick;
            }
            self.tick(both).await;
        }
        panic!("nothing of it in {most} ticks");
    }
}

/// Plays with a process that has so many connections.
fn play<F: Future<Output = ()>>(connections: u16, with: impl FnOnce(Scene) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let mut bed = Bed::new(tcp_service());
        for n in 0..connections {
            let from = SocketAddr::new(ip("203.0.113.9"), 1000 + n);
            bed.client(&from_client().tcp(from, at(VIP), tcp_flags::SYN, 1, b""));
        }
        let control = Arc::new(Control::new(Settings::default(), 5120));
        let machine = Machine {
            plane: bed.bed.plane().clone(),
            owner_key: SIZES.owner_key(),
            control: Arc::clone(&control),
            entries_max: 5120,
        };
        tokio::task::spawn_local(machine.run());
        let key = one_time_key().expect("random bytes");
        let collector = Collector::new(&key, 5120).expect("a socket");
        let port = collector.port().expect("a port");
        let begin = HandOverStep::Begin { port, key };
        with(Scene {
            bed,
            control,
            collector,
            begin,
        })
        .await;
    });
}

#[test]
fn everything_is_handed_over_half_open_connections_too() {
    play(3000, |mut s| async move {
        s.step(&s.begin);
        s.until(1000, true, |s| s.collector.is_covered()).await;
        s.step(&HandOverStep::Finish);
        let done = |s: &Scene| s.step(&HandOverStep::Ask).state == "done";
        s.until(1000, true, done).await;
        assert_eq!(s.collector.finish().counts(), (3000, 0));
    });
}

#[test]
fn clients_do_not_wait_before_there_is_little_left_to_tell() {
    play(3000, |mut s| async move {
        s.step(&s.begin);
        // One that asks before anything was told.
        s.step(&HandOverStep::Finish);
        s.until(1000, true, Scene::is_deaf).await;
        assert_eq!(s.collector.len(), 3000);
        let done = |s: &Scene| s.step(&HandOverStep::Ask).state == "done";
        let waited = s.until(1000, true, done).await;
        assert!(waited < 200, "clients waited for {waited} ticks");
    });
}

#[test]
fn clients_wait_for_a_process_that_is_gone_for_some_seconds_at_most() {
    play(10, |mut s| async move {
        s.step(&s.begin);
        s.until(1000, true, |s| s.collector.is_covered()).await;
        s.step(&HandOverStep::Finish);
        s.until(1000, true, Scene::is_deaf).await;
        let waited = s.until(3000, false, |s| !s.is_deaf()).await;
        assert!(waited <= 600, "clients waited for {waited} ticks");
        assert_eq!(s.step(&HandOverStep::Ask).state, "none");
    });
}

#[test]
fn a_take_over_that_is_given_up_makes_room_for_another_at_once() {
    play(10, |mut s| async move {
        s.step(&s.begin);
        s.until(1000, true, |s| s.collector.is_covered()).await;
        s.step(&HandOverStep::Finish);
        s.until(1000, true, Scene::is_deaf).await;
        s.step(&HandOverStep::Cancel);
        let key = one_time_key().expect("random bytes");
        let collector = Collector::new(&key, 5120).expect("a socket");
        let port = collector.port().expect("a port");
        s.step(&HandOverStep::Begin { port, key });
        s.collector = collector;
        s.until(100, true, |s| !s.is_deaf()).await;
        s.until(1000, true, |s| s.collector.is_covered()).await;
        s.step(&HandOverStep::Finish);
        let done = |s: &Scene| s.step(&HandOverStep::Ask).state == "done";
        s.until(1000, true, done).await;
        assert_eq!(s.collector.finish().counts(), (10, 0));
    });
}
