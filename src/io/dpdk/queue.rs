//! One receive and one transmit queue of a port, as a worker polls them.
//!
//! Owns the queue numbers, nothing else; it keeps the port running by holding it. Invariant: there is at most one
//! `DpdkQueue` per number of a port, so no two threads poll the same queue.

use std::fmt;
use std::sync::Arc;

use dpdk_sys as sys;

use super::mbuf::Mbuf;
use super::running::Running;
use crate::io::{Burst, PacketIo};

/// A queue pair of a port. A device may have fewer of one kind than workers want: then the pair has one half only.
pub struct DpdkQueue {
    port: Arc<Running>,
    index: u16,
    receives: bool,
    transmits: bool,
}

impl DpdkQueue {
    /// The caller makes one per index.
    pub(super) fn new(port: Arc<Running>, index: u16, receives: bool, transmits: bool) -> Self {
        Self {
            port,
            index,
            receives,
            transmits,
        }
    }

    /// Whether frames can come. If not, `rx_burst` always returns 0.
    #[must_use]
    pub fn receives(&self) -> bool {
        self.receives
    }

    /// Whether frames can be sent. If not, `tx_burst` takes none.
    #[must_use]
    pub fn transmits(&self) -> bool {
        self.transmits
    }

    /// Mends the frames from `first` on that are not whole in one buffer of their own; those that cannot be are freed
    /// and counted.
    #[cold]
    fn mend(&self, out: &mut Burst<Mbuf>, first: usize) {
        let mut at = first;
        while at < out.len() {
            if out[at].is_plain() {
                at += 1;
                continue;
            }
            match self.mended(out.remove(at)) {
                Some(frame) => {
                    out.insert(at, frame);
                    at += 1;
                }
                None => self.port.count_unfit(self.index),
            }
        }
    }

    fn mended(&self, frame: Mbuf) -> Option<Mbuf> {
        let mut frame = if frame.is_shared_or_chained() {
            self.port.pool.copy_of(&frame)?
        } else {
            frame
        };
        frame.restore_tag().then_some(frame)
    }
}

impl PacketIo for DpdkQueue {
    type Buf = Mbuf;

    #[inline]
    fn rx_burst(&mut self, out: &mut Burst<Mbuf>) -> usize {
        let first = out.len();
        let room = out.remaining_capacity();
        if !self.receives || room == 0 {
            return 0;
        }
        let free = out
            .as_mut_ptr()
            .wrapping_add(first)
            .cast::<*mut sys::rte_mbuf>();
        // SAFETY: `free` has room for `room` pointers, as wide as a `Mbuf` each; the port runs while `self` holds it,
        // and this is the only user of the queue.
        let came = unsafe { sys::polder_rx_burst(self.port.id, self.index, free, room as u16) };
        // SAFETY: the driver wrote `came` mbufs, non-null and ours now, into the first free slots.
        unsafe { out.set_len(first + usize::from(came)) };
        if !out[first..].iter().all(Mbuf::is_plain) {
            self.mend(out, first);
        }
        out.len() - first
    }

    #[inline]
    fn tx_burst(&mut self, burst: &mut Burst<Mbuf>) -> usize {
        let count = burst.len();
        if !self.transmits || count == 0 {
            return 0;
        }
        let frames = burst.as_mut_ptr();
        let raw = frames.cast::<*mut sys::rte_mbuf>();
        // SAFETY: the list holds `count` mbufs that we own; the port runs while `self` holds it, and this is the only
        // user of the queue.
        let sent = unsafe { sys::polder_tx_burst(self.port.id, self.index, raw, count as u16) };
        let (sent, left) = (usize::from(sent), count - usize::from(sent));
        // SAFETY: both ranges are within the list's `count` elements, and overlap is allowed.
        unsafe { frames.wrapping_add(sent).copy_to(frames, left) };
        // SAFETY: the driver took ownership of the first `sent` mbufs, so exactly those leave the list undropped; the
        // remaining `left` are at its front.
        unsafe { burst.set_len(left) };
        sent
    }

    fn alloc(&mut self) -> Option<Mbuf> {
        self.port.pool.alloc()
    }
}

impl fmt::Debug for DpdkQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DpdkQueue({}/{})", self.port.id, self.index)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::{Eal, EalConfig, Pool, PoolConfig, Port, PortConfig};
    use super::*;
    use crate::net::PacketBuf;

    /// Runs `body` over a ring device in a process of its own: DPDK starts once in each.
    fn over_a_ring(name: &str, body: fn(&mut DpdkQueue, &Pool)) {
        const CASE: &str = "POLDER_DPDK_CASE";
        if std::env::var(CASE).is_ok_and(|case| case == name) {
            let config = EalConfig {
                hugepages: false,
                memory_mb: 64,
                ..EalConfig::default()
            };
            let eal = Eal::start(&config).expect("DPDK starts without hugepages");
            let pool = Pool::create(
                &eal,
                PoolConfig {
                    buffers: 255,
                    room: 2048,
                },
            )
            .expect("memory");
            let mut port = Port::open(&eal, &pool, "net_ring0", &PortConfig::default())
                .unwrap_or_else(|error| panic!("{error}"));
            let mut queue = port.queue(0).expect("the first queue");
            body(&mut queue, &pool);
            drop((queue, port));
            assert_eq!(pool.outstanding(), 0);
            return;
        }
        let path = format!("io::dpdk::queue::tests::{name}");
        let me = std::env::current_exe().expect("a test has a file");
        let output = Command::new(me)
            .args(["--exact", &path, "--nocapture"])
            .env(CASE, name)
            .output()
            .expect("the test runs itself");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {}\n{text}", output.status);
    }

    fn frame(pool: &Pool, first: u8) -> Mbuf {
        let mut frame = pool.alloc().expect("a free buffer");
        let bytes: Vec<u8> = (first..first + 60).collect();
        assert!(frame.assign(&bytes));
        frame
    }

    fn round_trip(queue: &mut DpdkQueue, frames: Vec<Mbuf>) -> Burst<Mbuf> {
        let mut burst: Burst<Mbuf> = frames.into_iter().collect();
        queue.tx_burst(&mut burst);
        assert!(burst.is_empty());
        queue.rx_burst(&mut burst);
        burst
    }

    #[test]
    fn a_tag_that_the_device_took_out_is_put_back() {
        over_a_ring(
            "a_tag_that_the_device_took_out_is_put_back",
            |queue, pool| {
                let mut stripped = frame(pool, 0);
                stripped.mark_stripped(0x602a);
                let got = round_trip(queue, vec![frame(pool, 100), stripped, frame(pool, 150)]);
                let tag: &[u8] = &[0x81, 0x00, 0x60, 0x2a];
                let (front, back): (Vec<u8>, Vec<u8>) = ((0..12).collect(), (12..60).collect());
                assert_eq!(got[1].data(), [&front, tag, &back].concat());
                assert_eq!(
                    (got.len(), got[0].data()[0], got[2].data()[0]),
                    (3, 100, 150)
                );
                assert!(got.iter().all(Mbuf::is_plain));
            },
        );
    }

    #[test]
    fn a_frame_whose_tag_cannot_be_put_back_is_freed_and_counted() {
        over_a_ring(
            "a_frame_whose_tag_cannot_be_put_back_is_freed_and_counted",
            |queue, pool| {
                let mut full = frame(pool, 0);
                full.prepend(128).expect("the whole headroom");
                full.mark_stripped(1);
                let mut short = frame(pool, 0);
                short.truncate(11);
                short.mark_stripped(1);
                let got = round_trip(queue, vec![full, short, frame(pool, 7)]);
                assert_eq!((got.len(), got[0].data()[0]), (1, 7));
                assert_eq!(queue.port.stats().rx_unfit, 2);
            },
        );
    }

    #[test]
    fn a_buffer_that_others_read_is_replaced_by_a_copy() {
        over_a_ring(
            "a_buffer_that_others_read_is_replaced_by_a_copy",
            |queue, pool| {
                let original = frame(pool, 0);
                let mut shared = original.share();
                shared.trim_front(10);
                let mut got = round_trip(queue, vec![shared]);
                got[0].data_mut().fill(0xff);
                assert_eq!(got[0].data().len(), 50);
                assert!(
                    original
                        .data()
                        .iter()
                        .enumerate()
                        .all(|(i, &b)| b == 10 + i as u8)
                );
            },
        );
    }

    #[test]
    fn a_chain_becomes_one_buffer_when_it_fits() {
        over_a_ring("a_chain_becomes_one_buffer_when_it_fits", |queue, pool| {
            let mut head = frame(pool, 0);
            head.chain(frame(pool, 60));
            let got = round_trip(queue, vec![head]);
            assert_eq!(got[0].data(), (0..120).collect::<Vec<u8>>());
            assert!(got[0].is_plain());
        });
    }

    #[test]
    fn a_chain_that_does_not_fit_is_freed_whole_and_counted() {
        over_a_ring(
            "a_chain_that_does_not_fit_is_freed_whole_and_counted",
            |queue, pool| {
                let mut head = frame(pool, 0);
                head.append(2048 - 60).expect("tailroom");
                head.chain(frame(pool, 60));
                let got = round_trip(queue, vec![head, frame(pool, 7)]);
                assert_eq!((got.len(), got[0].data()[0]), (1, 7));
                assert_eq!(queue.port.stats().rx_unfit, 1);
            },
        );
    }

    #[test]
    fn a_burst_is_filled_up_and_never_beyond() {
        over_a_ring("a_burst_is_filled_up_and_never_beyond", |queue, pool| {
            let mut burst = round_trip(queue, (0..20).map(|i| frame(pool, i)).collect());
            assert_eq!(burst.len(), 20);
            let mut more: Burst<Mbuf> = (20..40).map(|i| frame(pool, i)).collect();
            assert_eq!(queue.tx_burst(&mut more), 20);
            assert_eq!(
                (queue.rx_burst(&mut burst), queue.rx_burst(&mut burst)),
                (12, 0)
            );
            let first: Vec<u8> = burst.iter().map(|f| f.data()[0]).collect();
            assert_eq!(first, (0..32).collect::<Vec<u8>>());
        });
    }
}
