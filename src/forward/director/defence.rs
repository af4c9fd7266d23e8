//! Defences against floods: random drop of packets and of connections (specification §2.9, §2.10), and the limit of new
//! connections of a service, above which flows are placed by hash and leave nothing behind.
//!
//! Owns the worker's counters for these. Nothing here is on the way of a packet that has a connection.

use std::sync::Arc;

use super::scheduling::server_port;
use super::{Carried, Context, Director, Side, Sink, Verdict, count_in};
use crate::forward::snapshot::Service;
use crate::net::packet::{proto, tcp_flags};
use crate::net::{DropReason, Family, FlowKey, Ip, PacketBuf, Tick, V4, V6};
use crate::table::state::{SctpState, TcpState};
use crate::table::{Conn, ConnIdx, Dest, Method, NONE, ServiceId};

/// A walk sees one entry in so many.
const WALK_SHARE: u32 = 32;
/// Entries that are looked at at once.
const STRIDE: usize = 64;
/// A connection that was used so many ticks ago or less is spared.
const SPARED: u32 = 60 * Tick::PER_SECOND;
/// A connection with more packets than this is spared.
const TODROP_MAX: u32 = 8;

/// What the defences of one worker remember.
#[derive(Debug)]
pub(super) struct Guard {
    /// Packets until `drop_packet` takes one.
    until_drop: u32,
    todrop: Todrop,
    /// When the last walk began.
    walked: Option<Tick>,
    walk4: Walk,
    walk6: Walk,
    /// New connections, by service slot.
    rates: Box<[Rate]>,
}

/// Of resting connections with so many packets, how many are spared until `drop_entry` takes one.
#[derive(Clone, Copy, Debug)]
struct Todrop([u32; TODROP_MAX as usize + 1]);

/// A walk over part of a table.
#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    at: u32,
    left: u32,
}

/// New connections of one service on one worker.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    /// When the second began that is counted.
    since: Tick,
    used: u32,
    /// When a packet of a flow that is not remembered came last.
    unremembered: Option<Tick>,
}

impl Rate {
    /// Takes one of the `share` connections that may be made in a second; `false` when there is none left.
    fn take(&mut self, share: u32, now: Tick) -> bool {
        if now.since(self.since) >= Tick::PER_SECOND {
            (self.since, self.used) = (now, 0);
        }
        let left = self.used < share;
        self.used += u32::from(left);
        left
    }

    /// Whether there may still be flows that are not remembered and idle for less than `memory` ticks.
    fn spreads(&mut self, now: Tick, memory: u32) -> bool {
        self.unremembered = self.unremembered.filter(|last| now.since(*last) < memory);
        self.unremembered.is_some()
    }
}

impl Guard {
    pub(super) fn new(services: usize) -> Self {
        Self {
            until_drop: 0,
            todrop: Todrop([0, 1, 2, 3, 4, 5, 6, 7, 8]),
            walked: None,
            walk4: Walk::default(),
            walk6: Walk::default(),
            rates: vec![Rate::default(); services].into(),
        }
    }

    fn walk<F: Family>(&mut self) -> &mut Walk {
        match F::AF {
            crate::net::Af::V4 => &mut self.walk4,
            crate::net::Af::V6 => &mut self.walk6,
        }
    }

    /// Whether `drop_packet` takes this packet, which needs a server.
    fn drops_packet(&mut self, rate: u32) -> bool {
        if rate == 0 {
            return false;
        }
        if self.until_drop == 0 || self.until_drop > rate {
            self.until_drop = rate;
        }
        self.until_drop -= 1;
        let drop = self.until_drop == 0;
        if drop {
            self.until_drop = rate;
        }
        drop
    }
}

impl Todrop {
    /// Whether `drop_entry` ends a connection (specification §2.10).
    fn drops_entry<F: Family>(&mut self, conn: &Conn<F>, now: Tick) -> bool {
        match conn.proto() {
            proto::TCP => match TcpState::from_code(conn.state) {
                TcpState::SynRecv | TcpState::SynAck => true,
                TcpState::Established => self.takes(conn, now),
                _ => false,
            },
            proto::SCTP => match SctpState::from_code(conn.state) {
                SctpState::Init1 | SctpState::Init => true,
                SctpState::Established => self.takes(conn, now),
                _ => false,
            },
            _ => self.takes(conn, now),
        }
    }

    /// Of the connections with 1 to 8 packets that rest for a minute, every one in as many as it has packets.
    fn takes<F: Family>(&mut self, conn: &Conn<F>, now: Tick) -> bool {
        let packets = conn.in_pkts;
        if now.since(conn.last_seen()) < SPARED || packets == 0 || packets > TODROP_MAX {
            return false;
        }
        let left = &mut self.0[packets as usize];
        *left -= 1;
        let drop = *left == 0;
        if drop {
            *left = packets;
        }
        drop
    }
}

impl Director {
    /// How full the fullest connection table is, in parts of 2³².
    #[must_use]
    pub fn fill(&self) -> u64 {
        let share = |len: usize, capacity: usize| ((len as u64) << 32) / capacity.max(1) as u64;
        share(self.v4.len(), self.v4.capacity()).max(share(self.v6.len(), self.v6.capacity()))
    }

    /// The work of `drop_entry` that is due: once a second part of each table, at most about `budget` entries a call.
    /// Returns how many connections it ended.
    pub fn defend(&mut self, cx: &Context<'_>, budget: usize) -> usize {
        if !cx.defence.drop_entry {
            self.guard.walked = None;
            return 0;
        }
        let due = |last| cx.now.since(last) >= Tick::PER_SECOND;
        if self.guard.walked.is_none_or(due) {
            self.guard.walked = Some(cx.now);
            self.begin_walk::<V4>();
            self.begin_walk::<V6>();
        }
        self.walk_on::<V4>(cx, budget) + self.walk_on::<V6>(cx, budget)
    }

    /// Draws the part of a table that is walked over in this second.
    #[allow(clippy::cast_possible_truncation)] // Tables have fewer than 2³¹ entries; the random number is cut on purpose.
    fn begin_walk<F: Side>(&mut self) {
        let random = self.next_random();
        let entries = F::table(self).capacity() as u32 + 1;
        *self.guard.walk::<F>() = Walk {
            at: (((random >> 32) * u64::from(entries)) >> 32) as u32,
            left: entries.div_ceil(WALK_SHARE),
        };
    }

    fn walk_on<F: Side>(&mut self, cx: &Context<'_>, budget: usize) -> usize {
        let mut ended = 0;
        let mut budget = u32::try_from(budget).unwrap_or(u32::MAX);
        while self.guard.walk::<F>().left > 0 && budget > 0 {
            let Walk { at, left } = *self.guard.walk::<F>();
            let entries = F::table(self).capacity() as u32 + 1;
            let step = left.min(STRIDE as u32).min(entries - at);
            let mut doomed = arrayvec::ArrayVec::<(ConnIdx, u32), STRIDE>::new();
            let mut todrop = self.guard.todrop;
            let next = F::table(self).dump(at, step, |index, conn| {
                if todrop.drops_entry(conn, cx.now) {
                    doomed.push((index, conn.template));
                }
            });
            self.guard.todrop = todrop;
            *self.guard.walk::<F>() = Walk {
                at: next.unwrap_or(0),
                left: left - step,
            };
            budget = budget.saturating_sub(step);
            ended += doomed.len();
            for (index, template) in doomed {
                self.drop_entry::<F>(cx, index, template);
            }
        }
        cx.counters.dropped_entries.add(ended as u64);
        ended
    }

    /// Ends a connection on purpose: a template that was made for it alone goes with it (specification §2.7).
    fn drop_entry<F: Side>(&mut self, cx: &Context<'_>, index: ConnIdx, template: u32) {
        let template = (template != NONE).then(|| cx.templates.get(template));
        self.remove::<F>(cx, index);
        if template.is_some_and(|at| cx.templates.end_unassured(at)) {
            cx.counters.dropped_templates.inc();
        }
    }

    /// `drop_packet`: whether a packet that has found its service and needs a server is dropped.
    #[inline]
    pub(super) fn throttled(&mut self, cx: &Context<'_>, service: ServiceId) -> bool {
        let rate = cx.defence.drop_rate;
        if rate == 0 || !self.guard.drops_packet(rate) {
            return false;
        }
        cx.counters.service(service).rejected_overload.inc();
        true
    }

    /// A packet without a connection of a service that may make so many in a second only. `Some` is its verdict, `None`
    /// that it is scheduled as ever.
    ///
    /// A new flow above the limit goes to the server of its client's address and port, and nothing is remembered of it.
    /// What follows of it comes here again and goes there too, for as long as such a connection would be idle at most;
    /// it is remembered as soon as the limit allows. So a packet that may be of such a flow (TCP without SYN, UDP)
    /// is not scheduled while there may be some. With `sloppy_tcp` TCP without SYN is both, as UDP is.
    #[inline(never)]
    pub(super) fn limited<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        service: &Arc<Service>,
        mark: u32,
        sink: &mut impl Sink<B>,
    ) -> Option<Verdict> {
        let opens = opens(cx, p.ip);
        let spread = self.spreads(cx, service, p.ip.flow.proto);
        let other_port = service.mark() == 0 && service.port() != p.ip.flow.dst_port;
        if !opens && !spread || other_port && service.def.persistence.is_none() {
            // Neither a start of a connection nor possibly of one that is not remembered; or nobody's.
            return None;
        }
        if let Some(verdict) = Self::misplaced(p.ip) {
            return Some(verdict);
        }
        let may_remember = p.ip.tcp_flags & tcp_flags::RST == 0 && self.take(cx, service);
        let is_syn = p.ip.flow.proto == proto::TCP && p.ip.tcp_flags & tcp_flags::SYN != 0;
        let scheduled = opens && (is_syn || !spread);
        if may_remember && scheduled {
            return None;
        }
        if opens && self.throttled(cx, service.id) {
            return Some(Verdict::Drop(DropReason::Overload));
        }
        let Some(dest) = spread_server::<F>(service, &p.ip.flow) else {
            // It can't be of a flow that is not remembered.
            let refused = opens && !may_remember;
            return refused.then(|| self.overload(cx, service));
        };
        if may_remember && dest.try_reserve() {
            let chosen = super::Chosen {
                dest,
                counted: true,
                template: None,
                session: 0,
            };
            return Some(self.connect(cx, p, service, mark, &chosen, sink));
        }
        // Thresholds are for those who come, not for those who may be there already.
        if scheduled && !dest.eligible() {
            return Some(self.overload(cx, service));
        }
        if opens {
            cx.counters.service(service.id).unremembered.inc();
        }
        if p.ip.tcp_flags & tcp_flags::RST == 0
            && let Some(rate) = self.guard.rates.get_mut(service.id.0 as usize)
        {
            rate.unremembered = Some(cx.now);
        }
        count_in(cx, service.id, dest.id, p.ip.len());
        let port = server_port(service, dest, p.ip.flow.dst_port);
        let addr = F::from_ip(dest.addr).unwrap_or_default();
        Some(self.dispatch(cx, p, dest, addr, port, sink))
    }

    pub(super) fn overload(&self, cx: &Context<'_>, service: &Service) -> Verdict {
        cx.counters.service(service.id).rejected_overload.inc();
        Verdict::Drop(DropReason::Overload)
    }

    /// Whether there may be flows of the service that are not remembered.
    pub(super) fn spreads(&mut self, cx: &Context<'_>, service: &Service, proto: u8) -> bool {
        let timeouts = &cx.snapshot.services.timeouts;
        let memory = match proto {
            proto::TCP => timeouts.of(proto, TcpState::Established as u8),
            _ => timeouts.of(proto, SctpState::Established as u8),
        };
        let rate = self.guard.rates.get_mut(service.id.0 as usize);
        service.spread.is_some() && rate.is_some_and(|rate| rate.spreads(cx.now, memory))
    }

    /// Takes one of the connections that this worker may make for the service in this second.
    pub(super) fn take(&mut self, cx: &Context<'_>, service: &Service) -> bool {
        let workers = u32::try_from(self.config.workers).unwrap_or(u32::MAX);
        let share = service.def.new_connections_per_second.div_ceil(workers);
        let rate = self.guard.rates.get_mut(service.id.0 as usize);
        rate.is_none_or(|rate| rate.take(share, cx.now))
    }
}

/// Whether a packet begins a connection, or may.
fn opens<F: Family>(cx: &Context<'_>, ip: &Ip<F>) -> bool {
    let has = |flag| ip.tcp_flags & flag != 0;
    let sloppy = cx.snapshot.services.switches.sloppy_tcp;
    ip.flow.proto != proto::TCP || !has(tcp_flags::RST) && (sloppy || has(tcp_flags::SYN))
}

/// The server of a flow that is not remembered; `None` when its service can't do without a connection: replies of a
/// masqueraded server have to find their way back.
pub(super) fn spread_server<'a, F: Side>(
    service: &'a Service,
    flow: &FlowKey<F>,
) -> Option<&'a Arc<Dest>> {
    let spread = service.spread.as_ref()?;
    let dest = &service.dests[spread.server::<F>(flow.src, flow.src_port, flow.proto)];
    (dest.method != Method::Masq).then_some(dest)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::table::{ConnTable, Ends};

    /// A connection as a table would have it: protocol, state, packets, ticks since the last.
    fn conn(proto: u8, state: u8, in_pkts: u32, age: u32) -> Conn<V4> {
        let ends = Ends::<V4> {
            proto,
            caddr: Ipv4Addr::new(203, 0, 113, 9).into(),
            cport: 1,
            vaddr: Ipv4Addr::new(192, 0, 2, 1).into(),
            vport: 80,
            daddr: Ipv4Addr::new(10, 0, 0, 1).into(),
            dport: 80,
        };
        let mut new = Conn::new(&ends, Method::Direct);
        (new.state, new.in_pkts) = (state, in_pkts);
        let key = crate::net::HashKey::from_seed(1);
        let mut table = ConnTable::<V4>::new(1, key).expect("memory");
        let index = table.insert(&new, Tick(NOW.0 - age)).expect("room");
        *table.get(index)
    }

    const NOW: Tick = Tick(100_000);

    /// Specification §2.10, TCP and SCTP: which states are dropped at once, which by `todrop`, which never.
    #[test]
    fn states_are_dropped_by_the_table() {
        for state in 0..11 {
            let drops = Todrop([1; 9]).drops_entry(&conn(proto::TCP, state, 1, 6000), NOW);
            let fresh = Todrop([1; 9]).drops_entry(&conn(proto::TCP, state, 1, 0), NOW);
            let half_open = [3, 10].contains(&state);
            assert_eq!(
                (drops, fresh),
                (half_open || state == 1, half_open),
                "TCP {state}"
            );
        }
        for state in 0..14 {
            let drops = Todrop([1; 9]).drops_entry(&conn(proto::SCTP, state, 1, 6000), NOW);
            let fresh = Todrop([1; 9]).drops_entry(&conn(proto::SCTP, state, 1, 0), NOW);
            let half_open = [1, 2].contains(&state);
            assert_eq!(
                (drops, fresh),
                (half_open || state == 8, half_open),
                "SCTP {state}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// The oracle counts candidates: of those with i packets every i-th goes.
        #[test]
        fn every_ith_candidate_of_i_packets_is_dropped(
            rows in proptest::collection::vec((0..12u32, 5990..6010u32), 1..200),
        ) {
            let mut todrop = Guard::new(0).todrop;
            let mut candidates = [0; 12];
            for (packets, age) in rows {
                let candidate = age >= 6000 && (1..=8).contains(&packets);
                let count = &mut candidates[packets as usize];
                *count += u32::from(candidate);
                let want = candidate && count.is_multiple_of(packets);
                let got = todrop.drops_entry(&conn(proto::UDP, 0, packets, age), NOW);
                prop_assert_eq!(got, want);
            }
        }

        /// The oracle keeps the count as specification §2.9 words it; the rate changes under way.
        #[test]
        fn a_packet_is_dropped_when_the_counter_has_run_out(
            runs in proptest::collection::vec((0..20u32, 1..60usize), 1..12),
        ) {
            let mut guard = Guard::new(0);
            let mut counter = 0;
            for (rate, packets) in runs {
                if rate > 0 && (counter == 0 || counter > rate) {
                    counter = rate;
                }
                for _ in 0..packets {
                    let mut want = false;
                    if rate > 0 {
                        counter -= 1;
                        want = counter == 0;
                        if want {
                            counter = rate;
                        }
                    }
                    prop_assert_eq!(guard.drops_packet(rate), want);
                }
            }
        }
    }

    #[test]
    fn a_rate_is_given_anew_each_second_and_flows_are_forgotten_after_their_time() {
        let mut rate = Rate::default();
        let taken = |rate: &mut Rate, now| (0..5).filter(|_| rate.take(3, Tick(now))).count();
        assert_eq!(taken(&mut rate, 1000), 3);
        assert_eq!(taken(&mut rate, 1099), 0);
        assert_eq!(taken(&mut rate, 1100), 3);
        assert!(!rate.spreads(Tick(1100), 500));
        rate.unremembered = Some(Tick(1100));
        assert!(rate.spreads(Tick(1599), 500));
        assert!(!rate.spreads(Tick(1600), 500));
        assert!(!rate.spreads(Tick(1200), 500), "it is forgotten for good");
    }
}
