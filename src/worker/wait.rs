//! Packets that wait for a next hop's MAC address: few next hops, few packets each, not for long.
//!
//! Invariant: `held` is the number of received frames that wait here.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::forward::PortId;
use crate::net::{DropReason, Tick};

/// Next hops that may be waited for at once.
pub const HOPS_MAX: usize = 64;
/// Packets that may wait for one next hop.
pub const PACKETS_MAX: usize = 16;
/// How long a packet may wait, in ticks: three attempts of the kernel's at one a second.
pub const WAIT_TICKS: u32 = 3 * Tick::PER_SECOND;
/// How often the kernel is asked again, in ticks.
const ASK_TICKS: u32 = Tick::PER_SECOND;

/// A frame with the number of received frames that it stands for: 0 for one that Polder made itself.
#[derive(Debug)]
pub struct Owed<B> {
    /// The frame.
    pub buf: B,
    /// Received frames that meet their fate with it.
    pub stands_for: u8,
}

#[derive(Debug)]
struct Hop<B> {
    port: PortId,
    addr: IpAddr,
    since: Tick,
    asked: Tick,
    frames: ArrayVec<Owed<B>, PACKETS_MAX>,
}

/// The waiting room of one worker.
#[derive(Debug)]
pub struct WaitingRoom<B> {
    hops: ArrayVec<Hop<B>, HOPS_MAX>,
}

impl<B> Default for WaitingRoom<B> {
    fn default() -> Self {
        Self {
            hops: ArrayVec::new(),
        }
    }
}

impl<B> WaitingRoom<B> {
    /// Lets a frame wait. `Ok(true)` asks the caller to have the next hop resolved.
    ///
    /// # Errors
    /// The frame and the reason, when there is no room.
    pub fn push(
        &mut self,
        port: PortId,
        addr: IpAddr,
        frame: Owed<B>,
        now: Tick,
    ) -> Result<bool, (Owed<B>, DropReason)> {
        if let Some(hop) = self
            .hops
            .iter_mut()
            .find(|h| h.port == port && h.addr == addr)
        {
            return match hop.frames.try_push(frame) {
                Ok(()) => Ok(false),
                Err(e) => Err((e.element(), DropReason::NeighbourQueueFull)),
            };
        }
        if self.hops.is_full() {
            return Err((frame, DropReason::NeighbourQueueFull));
        }
        let mut frames = ArrayVec::new();
        frames.push(frame);
        self.hops.push(Hop {
            port,
            addr,
            since: now,
            asked: now,
            frames,
        });
        Ok(true)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hops.is_empty()
    }

    /// Takes out, whole, the next hops for which `ready` says so or whose time is over, and passes their frames on.
    /// `ask` is called for those that should be resolved again.
    pub fn sweep(
        &mut self,
        now: Tick,
        ready: impl Fn(PortId, IpAddr) -> bool,
        mut ask: impl FnMut(PortId, IpAddr),
        mut leave: impl FnMut(PortId, IpAddr, Owed<B>, Fate),
    ) {
        let mut i = 0;
        while i < self.hops.len() {
            let hop = &mut self.hops[i];
            let fate = if ready(hop.port, hop.addr) {
                Fate::Ready
            } else if now.since(hop.since) >= WAIT_TICKS {
                Fate::TimedOut
            } else {
                if now.since(hop.asked) >= ASK_TICKS {
                    hop.asked = now;
                    ask(hop.port, hop.addr);
                }
                i += 1;
                continue;
            };
            let hop = self.hops.remove(i);
            for frame in hop.frames {
                leave(hop.port, hop.addr, frame, fate);
            }
        }
    }
}

/// Why a frame leaves the waiting room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its next hop is known now.
    Ready,
    /// It waited too long.
    TimedOut,
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PortId = PortId(0);

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn frame(n: u32) -> Owed<u32> {
        Owed {
            buf: n,
            stands_for: 1,
        }
    }

    #[test]
    fn frames_leave_in_order_when_the_hop_is_known_and_time_out_otherwise() {
        let mut room = WaitingRoom::default();
        assert_eq!(room.push(P, ip(1), frame(1), Tick(0)).ok(), Some(true));
        assert_eq!(room.push(P, ip(1), frame(2), Tick(5)).ok(), Some(false));
        assert_eq!(room.push(P, ip(2), frame(3), Tick(5)).ok(), Some(true));
        let mut left = Vec::new();
        room.sweep(
            Tick(10),
            |_, a| a == ip(1),
            |_, _| panic!("too early to ask again"),
            |_, _, f, fate| left.push((f.buf, fate)),
        );
        assert_eq!(left, [(1, Fate::Ready), (2, Fate::Ready)]);
        left.clear();
        let mut asked = 0;
        room.sweep(
            Tick(150),
            |_, _| false,
            |_, _| asked += 1,
            |_, _, _, _| panic!("still waiting"),
        );
        assert_eq!(asked, 1);
        room.sweep(
            Tick(5 + WAIT_TICKS),
            |_, _| false,
            |_, _| {},
            |_, _, f, fate| left.push((f.buf, fate)),
        );
        assert_eq!(left, [(3, Fate::TimedOut)]);
        assert!(room.is_empty());
    }

    #[test]
    fn room_is_bounded_in_hops_and_frames() {
        let mut room = WaitingRoom::default();
        for n in 0..PACKETS_MAX {
            assert!(room.push(P, ip(1), frame(n as u32), Tick(0)).is_ok());
        }
        let refused = room.push(P, ip(1), frame(99), Tick(0)).expect_err("full");
        assert_eq!(
            (refused.0.buf, refused.1),
            (99, DropReason::NeighbourQueueFull)
        );
        for n in 2..=HOPS_MAX {
            assert!(room.push(P, ip(n as u8), frame(0), Tick(0)).is_ok());
        }
        assert!(room.push(P, ip(200), frame(0), Tick(0)).is_err());
    }
}
