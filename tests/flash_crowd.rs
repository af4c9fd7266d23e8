//! A flash crowd: four workers on threads of their own take new connections as fast as they can.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use arc_swap::ArcSwap;
use polder::forward::{DestDef, Registry, ServiceDef, Setup};
use polder::io::mem::{BenchIo, Frames, MemPool};
use polder::io::{Burst, PacketIo};
use polder::net::build::Frame;
use polder::net::packet::proto;
use polder::net::{DropReason, Mac, PacketBuf, Tick};
use polder::table::{Dest, Method};
use polder::worker::assemble::{self, PortParts, Sizes};
use polder::worker::lockstep::static_snapshot;
use polder::worker::{Defence, Plane, SyncDuty, Worker};

mod bed;

const WORKERS: usize = 4;
/// New connections of each worker: six seconds' worth of a crowd of 200,000 a second in all.
const EACH: u32 = 300_000;
const EACH_SECOND: u32 = 50_000;
const SIZES: Sizes = Sizes {
    connections: 1 << 20,
    templates: 1024,
    services: 4,
    servers: 16,
    seed: 7,
};

/// Three servers of weight 5 with thresholds, one of weight 1 without: the example of hprio's author.
fn setup() -> Setup {
    let server = |n: u8, weight, upper_threshold, lower_threshold| DestDef {
        weight,
        upper_threshold,
        lower_threshold,
        method: Method::Direct,
        ..bed::dest(&format!("10.0.0.{n}"), 80)
    };
    let mut setup = bed::setup(vec![ServiceDef {
        scheduler: "hprio".into(),
        ..bed::service(
            proto::UDP,
            "198.51.100.1:80",
            vec![
                server(11, 5, 50, 20),
                server(12, 5, 50, 20),
                server(13, 5, 50, 20),
                server(14, 1, 0, 0),
            ],
        )
    }]);
    setup.neighbours.push(polder::forward::NeighbourDef {
        port: bed::LAN,
        addr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 14)),
        mac: Mac([2, 0, 0, 0, 1, 14]),
    });
    setup.timeouts.udp = Duration::from_secs(1);
    setup
}

/// What all workers see of the servers.
#[derive(Debug)]
struct Watch {
    dests: Vec<Arc<Dest>>,
    /// The most connections that each ever had.
    most: Vec<AtomicU32>,
}

/// A device that gives frames of flows that never were before, and looks at the servers' counts whenever it is asked.
#[derive(Debug)]
struct Crowd {
    inner: BenchIo,
    watch: Arc<Watch>,
    base: u32,
    given: u32,
}

impl PacketIo for Crowd {
    type Buf = <BenchIo as PacketIo>::Buf;

    fn rx_burst(&mut self, out: &mut Burst<Self::Buf>) -> usize {
        for (dest, most) in self.watch.dests.iter().zip(&self.watch.most) {
            most.fetch_max(dest.shared.total(), Ordering::Relaxed);
        }
        if self.given >= EACH {
            return 0;
        }
        let before = out.len();
        let n = self.inner.rx_burst(out);
        for i in before..out.len() {
            self.given += 1;
            let flow = self.base + self.given;
            // The address and its complement together leave the header's checksum as it is.
            let (high, port) = ((flow / 50_000) as u16, (flow % 50_000) as u16 + 1024);
            let frame = out[i].data_mut();
            frame[26..28].copy_from_slice(&(0x0b00 + high).to_be_bytes());
            frame[28..30].copy_from_slice(&(0xe000 - high).to_be_bytes());
            frame[34..36].copy_from_slice(&port.to_be_bytes());
        }
        n
    }

    fn tx_burst(&mut self, burst: &mut Burst<Self::Buf>) -> usize {
        self.inner.tx_burst(burst)
    }

    fn alloc(&mut self) -> Option<Self::Buf> {
        self.inner.alloc()
    }
}

fn crowd(watch: &Arc<Watch>, worker: usize) -> Crowd {
    let mut frame = Frame::new().macs(bed::WAN_MAC, bed::ROUTER).udp(
        bed::at("11.0.224.0:1024"),
        "198.51.100.1:80".parse().expect("an address"),
        &[0; 18],
    );
    // No UDP checksum, so that another port does not make it wrong.
    frame[40..42].fill(0);
    let pool = MemPool::new(4096, 2048);
    Crowd {
        inner: BenchIo::new([&frame[..]].into_iter().collect::<Frames>(), &pool),
        watch: Arc::clone(watch),
        base: u32::try_from(worker).expect("few workers") * 5_000_000,
        given: 0,
    }
}

#[test]
fn a_flash_crowd_over_four_workers_is_refused_nowhere_and_exceeds_no_threshold() {
    let setup = setup();
    let mut registry = Registry::new(SIZES.services, SIZES.servers, SIZES.seed);
    let snapshot = static_snapshot(&mut registry, &setup, None).expect("a good set-up");
    let dests: Vec<Arc<Dest>> = snapshot.services.dests.iter().flatten().cloned().collect();
    let watch = Arc::new(Watch {
        most: dests.iter().map(|_| AtomicU32::new(0)).collect(),
        dests,
    });
    let plane = Arc::new(Plane {
        snapshot: ArcSwap::from_pointee(snapshot),
        workers: assemble::shared(WORKERS, &[], &SIZES),
        templates: assemble::templates(&SIZES).expect("memory"),
        stop: AtomicBool::new(false),
        defence: Defence::default(),
        connections_capacity: SIZES.connections as u64,
        sync: SyncDuty::default(),
    });
    let queues = (0..WORKERS).map(|w| Some(crowd(&watch, w))).collect();
    let lan = (0..WORKERS).map(|w| {
        Some(Crowd {
            given: EACH,
            ..crowd(&watch, w)
        })
    });
    let directors = assemble::directors(&setup, WORKERS, &SIZES).expect("memory");
    let parts = vec![PortParts::plain(queues), PortParts::plain(lan.collect())];
    let workers: Vec<Worker<Crowd>> = assemble::workers(&plane, directors, parts, true);

    let (together, busy) = (Barrier::new(WORKERS), AtomicUsize::new(WORKERS));
    std::thread::scope(|scope| {
        for mut worker in workers {
            let (together, busy) = (&together, &busy);
            scope.spawn(move || {
                together.wait();
                let mut mine = true;
                // The clock of each is the crowd that has come. All go on until none has work for another.
                while busy.load(Ordering::Acquire) > 0 {
                    let given = worker.queue_mut(bed::WAN).expect("its queue").given;
                    worker.poll(Tick(given / (EACH_SECOND / Tick::PER_SECOND)));
                    if mine && given >= EACH {
                        mine = false;
                        busy.fetch_sub(1, Ordering::Release);
                    }
                }
                together.wait();
                let end = Tick(EACH / (EACH_SECOND / Tick::PER_SECOND));
                for _ in 0..10_000 {
                    worker.poll(end);
                }
                together.wait();
                worker.stop();
            });
        }
    });

    let sum = |f: &dyn Fn(&polder::table::WorkerCounters) -> u64| -> u64 {
        plane.workers.iter().map(|w| f(&w.counters)).sum()
    };
    let given = WORKERS as u64 * u64::from(EACH);
    assert_eq!(sum(&|c| c.received.get()), given);
    assert_eq!(sum(&|c| c.services[0].rejected_no_server.get()), 0);
    // A worker that has no time slice may get more packets from the others than it has room for.
    let full = sum(&|c| c.drops[DropReason::HandoverFull as usize].get());
    assert_eq!(sum(&|c| c.dropped()), full, "nothing else is dropped");
    assert_eq!(sum(&|c| c.services[0].connections.get()), given - full);
    let most: Vec<u32> = watch
        .most
        .iter()
        .map(|n| n.load(Ordering::Relaxed))
        .collect();
    let (spill, tier): (Vec<_>, Vec<_>) = watch
        .dests
        .iter()
        .zip(&most)
        .partition(|(dest, _)| dest.upper_threshold == 0);
    assert!(tier.iter().all(|(_, most)| **most == 50), "{most:?}");
    assert!(*spill[0].1 > 10_000, "{most:?}");
}
