//! Real servers: the immutable part that a snapshot holds, and the counts that all workers share.
//!
//! Knows neither connections nor schedulers: both tell it what they did. Invariant: a count is never below zero, and
//! no reservation takes a server beyond its upper threshold.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::openings::{Openings, Watchers};
use crate::net::tunnel::Tunnel;

/// Slot of a virtual service. Stable over reloads; reused only when nothing refers to it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// Slot of a real server (of one service). Stable over reloads; reused only when nothing refers to it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestId(pub u32);

/// Forwarding method. The numbers are IPVS's (specification §1.3) and appear on the sync wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// Masquerading (NAT).
    Masq = 0,
    /// Encapsulation, by [`Dest::tunnel`].
    Tunnel = 2,
    /// Direct routing.
    Direct = 3,
}

/// What the operator wants of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum AdminState {
    /// Takes connections.
    #[default]
    Ready,
    /// Keeps what it has, takes no new connections.
    Drain,
    /// Takes nothing; treated as down.
    Maint,
}

/// The thresholds of one real server (specification §1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Thresholds {
    /// Connections at which the server becomes overloaded; 0 is none.
    pub upper: u32,
    /// Connections below which it is no longer overloaded; 0 means three quarters of `upper`, rounded up.
    pub lower: u32,
}

impl Thresholds {
    /// The count below which the overload flag is cleared.
    #[must_use]
    pub fn low_mark(self) -> u32 {
        if self.lower == 0 {
            self.upper - self.upper / 4
        } else {
            self.lower
        }
    }

    /// Whether a count is at or above the upper threshold.
    fn full(self, total: u32) -> bool {
        self.upper != 0 && total >= self.upper
    }
}

/// One reading of a real server's connection counts; the three values belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections of the active class (specification §7.5). Below 2^31.
    pub active: u32,
    /// All connections, templates excluded.
    pub total: u32,
    /// The overload flag (specification §1.4).
    pub overloaded: bool,
}

impl Counts {
    const ACTIVE_SHIFT: u32 = 32;
    const ACTIVE_MAX: u32 = u32::MAX >> 1;
    const OVERLOADED: u64 = 1 << 63;

    /// Connections that are not active.
    #[must_use]
    pub fn inactive(self) -> u32 {
        self.total.saturating_sub(self.active)
    }

    #[allow(clippy::cast_possible_truncation)]
    fn unpack(word: u64) -> Self {
        Self {
            total: word as u32,
            active: (word >> Self::ACTIVE_SHIFT) as u32 & Self::ACTIVE_MAX,
            overloaded: word & Self::OVERLOADED != 0,
        }
    }

    fn pack(self) -> u64 {
        let flag = if self.overloaded { Self::OVERLOADED } else { 0 };
        flag | u64::from(self.active) << Self::ACTIVE_SHIFT | u64::from(self.total)
    }

    /// One connection more. The flag is set when the count comes to the upper threshold. The comparison is `>=`, not
    /// equality, because another worker may still judge by the thresholds of an older snapshot.
    fn bound(mut self, limits: Thresholds) -> Self {
        self.total = self.total.saturating_add(1);
        self.overloaded = limits.upper != 0 && (self.overloaded || limits.full(self.total));
        self
    }

    /// One connection less. The flag is cleared when the count falls below the low mark.
    fn unbound(mut self, was_active: bool, limits: Thresholds) -> Self {
        debug_assert!(self.total > 0, "a connection ended that was never counted");
        self.total = self.total.saturating_sub(1);
        if was_active {
            self = self.deactivated();
        }
        self.overloaded &= limits.upper != 0 && self.total >= limits.low_mark();
        self
    }

    fn activated(mut self) -> Self {
        debug_assert!(
            self.active < self.total || self.total == 0,
            "more active than all"
        );
        self.active = (self.active + 1).min(Self::ACTIVE_MAX);
        self
    }

    fn deactivated(mut self) -> Self {
        debug_assert!(
            self.active > 0,
            "a connection left the active class that was never in it"
        );
        self.active = self.active.saturating_sub(1);
        self
    }

    /// The flag after the thresholds changed to `limits`.
    fn reconsidered(mut self, limits: Thresholds) -> Self {
        self.overloaded =
            limits.full(self.total) || (self.overloaded && self.total >= limits.low_mark());
        self.overloaded &= limits.upper != 0;
        self
    }
}

/// Counts of one real server, shared by all workers; one cache line.
///
/// Touched when a connection is made, changes class or ends, not per packet. Exact: what a walk of the connection
/// tables would give. Total, active count and overload flag share one word and change together, so that no worker
/// can see or make a count that disagrees with the flag. Orderings are relaxed: the word carries all its meaning
/// itself and publishes nothing else; whoever is told that a flag was cleared is told with release.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct DestShared {
    /// [`Counts`], packed.
    word: AtomicU64,
    /// Templates.
    persistent: AtomicU32,
    /// Schedulers that leave the server out while it is overloaded.
    watchers: Watchers,
}

impl DestShared {
    /// Active count, total and overload flag in one reading.
    #[inline]
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::unpack(self.word.load(Ordering::Relaxed))
    }

    /// Active connections now.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.counts().active
    }

    /// All connections now, active or not; templates excluded.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.counts().total
    }

    /// Connections that are not active.
    #[must_use]
    pub fn inactive(&self) -> u32 {
        self.counts().inactive()
    }

    /// Templates now.
    #[must_use]
    pub fn persistent(&self) -> u32 {
        self.persistent.load(Ordering::Relaxed)
    }

    /// Whether the overload flag is set.
    #[must_use]
    pub fn overloaded(&self) -> bool {
        self.counts().overloaded
    }

    /// Takes the place of one scheduled connection, or refuses: the server is overloaded or at its upper threshold.
    ///
    /// The count and the check are one step, so scheduling never exceeds `upper` however many workers do it at once.
    /// After a refusal the overload flag is set, so that the scheduler does not choose the server again.
    #[must_use]
    pub fn try_reserve(&self, limits: Thresholds) -> bool {
        let mut granted = false;
        self.change(|mut counts| {
            granted = limits.upper == 0 || !(counts.overloaded || limits.full(counts.total));
            if granted {
                return counts.bound(limits);
            }
            counts.overloaded = true;
            counts
        });
        granted
    }

    /// Counts a connection that no scheduler chose: through a template, from a peer, or bound late. It may exceed the
    /// upper threshold (specification §1.4) and sets the flag as any other does.
    pub fn bind_unchecked(&self, limits: Thresholds) {
        self.change(|counts| counts.bound(limits));
    }

    /// Counts the end of a connection that was bound, and of its active class if it was in it.
    pub fn unbind(&self, was_active: bool, limits: Thresholds) {
        self.change(|counts| counts.unbound(was_active, limits));
    }

    /// Counts a bound connection's entry into the active class (specification §7.5).
    pub fn activate(&self) {
        self.change(Counts::activated);
    }

    /// Counts a bound connection's leaving of the active class.
    pub fn deactivate(&self) {
        self.change(Counts::deactivated);
    }

    /// Counts a template.
    pub fn bind_template(&self) {
        self.persistent.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a template.
    pub fn unbind_template(&self) {
        let before = self
            .persistent
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        debug_assert!(before.is_ok(), "a template ended that was never counted");
        self.watchers.tell(true);
    }

    /// Judges the overload flag anew after the thresholds were edited (specification §1.4, mode 0).
    ///
    /// Call it when the snapshot with the new thresholds is published and once more when no worker holds an older one:
    /// until then a worker may still set or clear the flag by the old thresholds. Harmless when nothing changed.
    pub fn reconsider(&self, limits: Thresholds) {
        self.change(|counts| counts.reconsidered(limits));
    }

    /// From now on tells `openings`, by the number `place`, when the overload flag is cleared, and where `sessions` says
    /// so when a template ends. Not for workers: it allocates.
    pub fn watch(&self, openings: Weak<dyn Openings>, place: usize, sessions: bool) {
        self.watchers.add(openings, place, sessions);
    }

    /// Replaces the word by `f` of it in one step; writes nothing when nothing changes.
    #[inline]
    fn change(&self, mut f: impl FnMut(Counts) -> Counts) {
        let mut word = self.word.load(Ordering::Relaxed);
        // Lock-free: an exchange fails only because another worker's succeeded.
        loop {
            let next = f(Counts::unpack(word)).pack();
            let reopened = word & !next & Counts::OVERLOADED != 0;
            if next == word {
                return;
            }
            match self
                .word
                .compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) if reopened => return self.watchers.tell(false),
                Ok(_) => return,
                Err(seen) => word = seen,
            }
        }
    }
}

/// A real server of one service, as one snapshot sees it.
#[derive(Debug)]
pub struct Dest {
    /// Its slot.
    pub id: DestId,
    /// The service it belongs to.
    pub service: ServiceId,
    /// Label in metrics and listings: the configured name, else `address:port`.
    pub name: String,
    /// Address packets are sent to.
    pub addr: IpAddr,
    /// Port packets are sent to; 0 keeps the packet's.
    pub port: u16,
    /// Forwarding method.
    pub method: Method,
    /// How packets are wrapped when the method is [`Method::Tunnel`].
    pub tunnel: Tunnel,
    /// Effective weight: 0 when drained, in maintenance or down, else the configured one.
    pub weight: u32,
    /// The last effective weight that was not 0 (`mh` keeps the slots of a quiesced server by it); 0 if there was none.
    pub last_weight: u32,
    /// Connections at which the server becomes overloaded; 0 is none.
    pub upper_threshold: u32,
    /// Connections below which it is no longer overloaded; 0 means three quarters of the upper one, rounded up.
    pub lower_threshold: u32,
    /// Administrative state.
    pub admin: AdminState,
    /// Operational state.
    pub up: bool,
    /// Whether its service schedules every UDP datagram by itself.
    pub one_packet: bool,
    /// Whether the packets of its service's connections are looked into, for a payload key.
    pub keyed: bool,
    /// Whether its load is its templates: so it is in one-packet services, which have no connections to be counted.
    pub by_session: bool,
    /// `false` once the server was removed and only lives on for its connections.
    pub available: bool,
    /// Counts shared with every other snapshot and worker.
    pub shared: Arc<DestShared>,
}

impl Dest {
    /// Whether its connections may go on: still configured, up, and not in maintenance.
    #[inline]
    #[must_use]
    pub fn serving(&self) -> bool {
        self.available && self.up && self.admin != AdminState::Maint
    }

    /// Its thresholds.
    #[must_use]
    pub fn thresholds(&self) -> Thresholds {
        Thresholds {
            upper: self.upper_threshold,
            lower: self.lower_threshold,
        }
    }

    /// Its counts, when a scheduler may choose it: weight above 0, still configured, and not overloaded.
    ///
    /// A server without an upper threshold is never overloaded (specification §1.4), whatever a worker with an older
    /// snapshot made of the flag.
    #[inline]
    #[must_use]
    pub fn eligible_counts(&self) -> Option<Counts> {
        if self.weight == 0 || !self.available {
            return None;
        }
        let counts = self.load();
        (!counts.overloaded || self.upper_threshold == 0).then_some(counts)
    }

    /// What schedulers take for its connections: those, and where it is [`Self::by_session`] its sessions too.
    #[inline]
    fn load(&self) -> Counts {
        let mut counts = self.shared.counts();
        if self.by_session {
            let sessions = self.shared.persistent();
            counts.active += sessions;
            counts.total += sessions;
            counts.overloaded |= self.thresholds().full(counts.total);
        }
        counts
    }

    /// Whether it gets no new connections because it has as many as it may.
    #[must_use]
    pub fn overloaded(&self) -> bool {
        self.upper_threshold != 0 && self.load().overloaded
    }

    /// Whether a scheduler may choose it: weight above 0, not overloaded, and still configured.
    #[inline]
    #[must_use]
    pub fn eligible(&self) -> bool {
        self.eligible_counts().is_some()
    }

    /// [`DestShared::try_reserve`] by its own thresholds.
    #[inline]
    #[must_use]
    pub fn try_reserve(&self) -> bool {
        self.shared.try_reserve(self.thresholds())
    }

    /// [`DestShared::bind_unchecked`] by its own thresholds.
    #[inline]
    pub fn bind_unchecked(&self) {
        self.shared.bind_unchecked(self.thresholds());
    }

    /// [`DestShared::unbind`] by its own thresholds.
    #[inline]
    pub fn unbind(&self, was_active: bool) {
        self.shared.unbind(was_active, self.thresholds());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use proptest::prelude::*;

    use super::*;

    fn limits(upper: u32, lower: u32) -> Thresholds {
        Thresholds { upper, lower }
    }

    #[test]
    fn the_low_mark_is_the_lower_threshold_or_three_quarters_rounded_up() {
        let table = [
            (0, 0, 0),
            (1, 0, 1),
            (2, 0, 2),
            (3, 0, 3),
            (4, 0, 3),
            (5, 0, 4),
            (6, 0, 5),
        ];
        for (upper, lower, mark) in table
            .into_iter()
            .chain([(50, 0, 38), (50, 20, 20), (4, 4, 4)])
        {
            assert_eq!(
                limits(upper, lower).low_mark(),
                mark,
                "upper {upper}, lower {lower}"
            );
        }
    }

    /// Specification §14.3.
    #[test]
    fn the_flag_follows_the_worked_example() {
        let dest = DestShared::default();
        let four = limits(4, 0);
        let expect = |total, overloaded| {
            assert_eq!((dest.total(), dest.overloaded()), (total, overloaded));
        };
        for n in 1..=4 {
            assert!(dest.try_reserve(four));
            expect(n, n == 4);
        }
        dest.bind_unchecked(four);
        dest.bind_unchecked(four);
        expect(6, true);
        for total in [5, 4, 3] {
            dest.unbind(false, four);
            expect(total, true);
        }
        dest.unbind(false, four);
        expect(2, false);
        dest.reconsider(limits(2, 0));
        expect(2, true);
        dest.reconsider(limits(3, 0));
        expect(2, false);
    }

    /// Specification §14.3, last row.
    #[test]
    fn raising_the_threshold_keeps_the_flag_down_to_the_new_low_mark() {
        let dest = DestShared::default();
        for _ in 0..5 {
            dest.bind_unchecked(limits(4, 0));
        }
        dest.reconsider(limits(6, 0));
        assert!(dest.overloaded());
        dest.unbind(false, limits(6, 0));
        assert_eq!((dest.total(), dest.overloaded()), (4, false));
    }

    #[test]
    fn taking_the_threshold_away_clears_the_flag() {
        let dest = DestShared::default();
        assert!(dest.try_reserve(limits(1, 0)));
        dest.reconsider(limits(0, 0));
        assert!(!dest.overloaded());
        assert!(dest.try_reserve(limits(0, 0)));
    }

    #[test]
    fn a_flag_left_by_an_older_snapshot_does_not_outlive_the_threshold() {
        let dest = DestShared::default();
        dest.reconsider(limits(0, 0));
        dest.bind_unchecked(limits(1, 0));
        assert!(dest.overloaded());
        assert!(dest.try_reserve(limits(0, 0)));
        assert!(!dest.overloaded());
    }

    #[test]
    fn a_refused_reservation_changes_no_count_and_leaves_the_flag_set() {
        let dest = DestShared::default();
        dest.bind_unchecked(limits(0, 0));
        assert!(!dest.try_reserve(limits(1, 0)));
        assert_eq!(
            dest.counts(),
            Counts {
                active: 0,
                total: 1,
                overloaded: true
            }
        );
    }

    #[test]
    fn active_total_and_templates_are_counted_apart() {
        let dest = DestShared::default();
        let none = Thresholds::default();
        dest.bind_unchecked(none);
        dest.bind_unchecked(none);
        dest.activate();
        dest.bind_template();
        assert_eq!(
            (dest.active(), dest.inactive(), dest.persistent()),
            (1, 1, 1)
        );
        dest.deactivate();
        dest.activate();
        dest.unbind(true, none);
        dest.unbind_template();
        assert_eq!(
            (dest.active(), dest.inactive(), dest.persistent()),
            (0, 1, 0)
        );
    }

    /// Specification §1.4, the table, by its call sites: the oracle of the property below.
    #[derive(Default)]
    struct Naive {
        total: u32,
        flag: bool,
    }

    impl Naive {
        fn evaluate(&mut self, mode: i32, upper: u32, lower: u32) {
            let low = if lower == 0 { upper - upper / 4 } else { lower };
            let (x, y) = match mode {
                1 => (low, low),
                0 => (upper, low),
                _ => (upper, upper),
            };
            self.flag = upper != 0 && (self.total >= x || (self.total >= y && self.flag));
        }

        fn bind(&mut self, upper: u32, lower: u32) {
            self.total += 1;
            if self.total == upper {
                self.evaluate(1, upper, lower);
            }
        }

        fn unbind(&mut self, upper: u32, lower: u32) {
            let low = if lower == 0 { upper - upper / 4 } else { lower };
            let at_mark = self.total == low;
            self.total -= 1;
            if at_mark {
                self.evaluate(-1, upper, lower);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn one_worker_sees_exactly_the_edge_triggered_rule(
            ops in prop::collection::vec((0..8u8, 0..12u32, 0..12u32), 1..200)
        ) {
            let (dest, mut naive) = (DestShared::default(), Naive::default());
            let mut now = limits(4, 0);
            for (op, a, b) in ops {
                match op {
                    0..=2 => {
                        let expected = !naive.flag;
                        if expected {
                            naive.bind(now.upper, now.lower);
                        }
                        prop_assert_eq!(dest.try_reserve(now), expected);
                    }
                    3 => {
                        naive.bind(now.upper, now.lower);
                        dest.bind_unchecked(now);
                    }
                    4..=6 if naive.total > 0 => {
                        naive.unbind(now.upper, now.lower);
                        dest.unbind(false, now);
                    }
                    7 => {
                        now = limits(a.max(b), a.min(b));
                        naive.evaluate(0, now.upper, now.lower);
                        dest.reconsider(now);
                    }
                    _ => {}
                }
                prop_assert_eq!((dest.total(), dest.overloaded()), (naive.total, naive.flag));
            }
        }
    }

    #[test]
    fn four_workers_at_full_speed_never_exceed_the_upper_threshold() {
        let dest = DestShared::default();
        let limits = limits(50, 20);
        let (held, most) = (AtomicI64::new(0), AtomicI64::new(0));
        let together = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for worker in 0..4u64 {
                let (dest, held, most, together) = (&dest, &held, &most, &together);
                scope.spawn(move || {
                    let (mut mine, mut x) = (0, worker);
                    together.wait();
                    for _ in 0..1_000_000 {
                        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        if x >> 63 == 0 && dest.try_reserve(limits) {
                            mine += 1;
                            let now = held.fetch_add(1, Ordering::SeqCst) + 1;
                            most.fetch_max(now.max(i64::from(dest.total())), Ordering::SeqCst);
                            if x >> 62 == 0 {
                                dest.activate();
                                dest.deactivate();
                            }
                        } else if mine > 0 {
                            mine -= 1;
                            held.fetch_sub(1, Ordering::SeqCst);
                            dest.unbind(false, limits);
                        }
                    }
                    for _ in 0..mine {
                        held.fetch_sub(1, Ordering::SeqCst);
                        dest.unbind(false, limits);
                    }
                });
            }
        });
        assert_eq!(dest.counts(), Counts::default());
        assert_eq!(
            most.into_inner(),
            50,
            "the threshold is reached and never passed"
        );
    }
}
