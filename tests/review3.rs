//! Sessions under conditions that nobody wishes for: full tables, settings changed under traffic, servers that go in the
//! middle of a session, and fragments that are odd but lawful.

mod bed;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;

use bed::*;
use polder::forward::defs::{Grouping, MarkRule, OnServerDown, Persistence, ServiceKind};
use polder::forward::{PortId, Prefix, Registry, ServiceDef, Setup};
use polder::io::mem::{MemHandle, MemIo, MemPool, QueueCapacity};
use polder::net::build::{fragment, verify};
use polder::net::packet::{proto, tcp_flags};
use polder::net::{Af, BURST, DropReason, Tick, V4};
use polder::persist::{Engine, Field, PayloadKey, QuicConfig, QuicLb, SessionKey, Unit, When};
use polder::table::{AdminState, Method};
use polder::worker::assemble::{self, PortParts, Sizes};
use polder::worker::lockstep::static_snapshot;
use polder::worker::{Plane, SyncDuty, Worker, list_templates};

const VPN: &str = "198.51.100.1:1194";

fn keyed(when: Option<When>, offset: u32, length: u32) -> ServiceDef {
    ServiceDef {
        scheduler: "offh".into(),
        payload_key: Some(PayloadKey::Field(SessionKey {
            field: Field::new(offset, length, Unit::Bytes).expect("a field"),
            when,
        })),
        hash_key: Some(1),
        ..service(proto::UDP, VPN, servers(1194))
    }
}

fn vpn(session: u64) -> Vec<u8> {
    let mut p = vec![0x30];
    p.extend(session.to_be_bytes());
    p.extend(b"payload");
    p
}

/// DTLS 1.2 with a connection ID of 4 bytes.
fn dtls_service() -> ServiceDef {
    let value = vec![25];
    keyed(Some(When { offset: 0, value }), 11, 4)
}

fn record(kind: u8, cid: u32) -> Vec<u8> {
    let mut r = vec![kind, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9];
    r.extend(cid.to_be_bytes());
    r.extend(b"data");
    r
}

fn no_templates() -> Sizes {
    Sizes {
        templates: 0,
        ..SIZES
    }
}

#[test]
fn a_session_whose_server_its_5_tuple_chose_stays_there_without_room_for_a_template() {
    for scheduler in ["offh", "rr"] {
        let service = ServiceDef {
            scheduler: scheduler.into(),
            ..dtls_service()
        };
        let mut bed = Bed::sized(&setup(vec![service]), 1, &no_templates());
        for c in 0..20 {
            let server = bed.datagram(client(c), VPN, &record(22, 0));
            for _ in 0..4 {
                let cid = 0xc0de_0000 + u32::from(c);
                assert_eq!(bed.datagram(client(c), VPN, &record(25, cid)), server);
            }
        }
        assert_eq!(bed.bed.connections().len(), 20);
        bed.check_counts();
    }
}

#[test]
fn a_session_without_room_for_a_template_keeps_its_connection() {
    let mut bed = Bed::sized(&setup(vec![keyed(None, 1, 8)]), 1, &no_templates());
    let mut homes = BTreeMap::new();
    for s in 0..20u16 {
        homes.insert(s, bed.datagram(client(s), VPN, &vpn(s.into())));
    }
    for s in 0..20u16 {
        assert_eq!(bed.datagram(client(s), VPN, &vpn(s.into())), homes[&s]);
    }
    assert_eq!(
        bed.sum(|c| c.services[0].connections.get()),
        20,
        "one connection each, not one a packet"
    );
    let mut drained = keyed(None, 1, 8);
    drained.servers[0].admin = AdminState::Drain;
    bed.bed.apply(&setup(vec![drained])).expect("applies");
    for s in 0..20u16 {
        assert_eq!(bed.datagram(client(s), VPN, &vpn(s.into())), homes[&s]);
    }
    bed.check_counts();
}

#[test]
fn one_packet_that_is_switched_on_takes_effect_on_5_tuples_that_have_a_connection() {
    for workers in [1, 2] {
        let before = ServiceDef {
            one_packet: false,
            ..sip_service()
        };
        let mut bed = Bed::with(&setup(vec![before]), workers);
        let first = bed.datagram(client(1), SIP_VIP, &sip("0"));
        for n in 1..30 {
            assert_eq!(
                bed.datagram(client(1), SIP_VIP, &sip(&n.to_string())),
                first
            );
        }
        bed.bed.apply(&setup(vec![sip_service()])).expect("applies");
        assert_eq!(
            bed.datagram(client(1), SIP_VIP, &sip("0")),
            first,
            "known calls stay"
        );
        let homes: Vec<_> = (1..30)
            .map(|n| bed.datagram(client(1), SIP_VIP, &sip(&n.to_string())))
            .collect();
        assert!(homes.iter().any(|h| *h != homes[0]), "{homes:?}");
        assert!(bed.bed.connections().is_empty());
        bed.check_counts();
    }
}

#[test]
fn replies_of_a_removed_one_packet_server_still_leave_from_the_virtual_address() {
    let mut bed = Bed::new(vec![sip_service()]);
    let server = bed.datagram(client(1), SIP_VIP, &sip("last"));
    let mut without = sip_service();
    without.servers.retain(|s| s.addr != server.ip());
    bed.bed.apply(&setup(vec![without])).expect("applies");
    let reply = from_server(&server.ip().to_string()).udp(server, client(1), &sip("last"));
    let out = bed.server(&reply);
    assert_eq!(out.len(), 1, "{:?}", bed.drops());
    assert_eq!(ends(&out[0].1).0, at(SIP_VIP));
    let unasked = from_server(&server.ip().to_string()).udp(server, client(1), &sip("its own"));
    assert_eq!(ends(&bed.server(&unasked)[0].1).0, at(SIP_VIP));
    assert_eq!(bed.bed.templates().len(), 1, "it gets no new ones");
    bed.check_counts();
    bed.pass(61);
    bed.check_counts();
}

#[test]
fn another_sessions_key_on_the_5_tuple_of_a_lost_server_goes_by_its_own_key_whatever_the_policy() {
    for policy in [
        OnServerDown::Keep,
        OnServerDown::Drop,
        OnServerDown::Reschedule,
    ] {
        let service = || ServiceDef {
            on_server_down: Some(policy),
            ..keyed(None, 1, 8)
        };
        let mut bed = Bed::new(vec![service()]);
        let homes: Vec<_> = (0..12u64)
            .map(|s| bed.datagram(client(s as u16), VPN, &vpn(s)))
            .collect();
        let lost = homes[0];
        let other = homes
            .iter()
            .position(|h| *h != lost)
            .expect("another server");
        let mut down = service();
        for s in &mut down.servers {
            if s.addr == lost.ip() {
                s.admin = AdminState::Maint;
            }
        }
        bed.bed.apply(&setup(vec![down])).expect("applies");
        assert_eq!(
            bed.datagram(client(0), VPN, &vpn(other as u64)),
            homes[other],
            "{policy:?}"
        );
        bed.check_counts();
    }
}

#[test]
fn a_one_packet_server_full_of_sessions_is_shown_as_overloaded() {
    let mut limited = sip_service();
    limited.servers.truncate(1);
    limited.servers[0].upper_threshold = 2;
    let mut bed = Bed::new(vec![limited]);
    for n in 0..2 {
        bed.datagram(client(1), SIP_VIP, &sip(&n.to_string()));
    }
    assert!(
        bed.client(&from_client().udp(client(1), at(SIP_VIP), &sip("3")))
            .len()
            == 1
    );
    let snapshot = bed.bed.snapshot();
    let dest = snapshot.services.dests[0].as_ref().expect("a server");
    assert!(!dest.eligible());
    assert!(dest.overloaded());
}

fn v6_service() -> ServiceDef {
    let servers = (11..=13)
        .map(|n| dest(&format!("2001:db8:2::{n}"), 1194))
        .collect();
    service(proto::UDP, "[2001:db8:99::1]:1194", servers)
}

#[test]
fn ipv6_datagrams_whose_destination_options_are_fragmented_are_put_together() {
    for workers in [1, 2, 4] {
        let mut bed = Bed::with(&setup(vec![v6_service()]), workers);
        let payload: Vec<u8> = (0..4000u32).map(|n| n as u8).collect();
        for c in 0..10u16 {
            let from = SocketAddr::new(ip("2001:db8:7::9"), 10_000 + c);
            // Destination options behind the place where the fragment header goes: in the fragmentable part.
            let whole = from_client().extension(60, &[1, 4, 0, 0, 0, 0]).id(c).udp(
                from,
                at("[2001:db8:99::1]:1194"),
                &payload,
            );
            let pieces = fragment_behind_ipv6_header(&whole, 1400, u32::from(c));
            assert_eq!(pieces.len(), 3);
            for p in &pieces {
                verify(p).ok();
            }
            let out: Out = pieces.iter().rev().flat_map(|p| bed.client(p)).collect();
            assert_eq!(
                out.len(),
                3,
                "{:?}, punted {}",
                bed.drops(),
                bed.sum(|c| c.punted.get())
            );
            let whole = join_v6(&out);
            assert_eq!(ends(&whole).0, from);
        }
        bed.check_counts();
    }
}

/// Fragments of an IPv6 packet, of which all extension headers go with the payload.
fn fragment_behind_ipv6_header(frame: &[u8], chunk: usize, id: u32) -> Vec<Vec<u8>> {
    let (head, rest) = frame.split_at(14 + 40);
    let chunk = chunk & !7;
    let n = rest.len().div_ceil(chunk);
    rest.chunks(chunk)
        .enumerate()
        .map(|(i, part)| {
            let mut out = head.to_vec();
            let next = std::mem::replace(&mut out[14 + 6], 44);
            let len = u16::try_from(part.len() + 8).expect("small");
            out[18..20].copy_from_slice(&len.to_be_bytes());
            let place = u16::try_from(i * chunk).expect("small") | u16::from(i + 1 < n);
            out.extend([next, 0]);
            out.extend(place.to_be_bytes());
            out.extend(id.to_be_bytes());
            out.extend(part);
            out
        })
        .collect()
}

/// The packet that IPv6 fragments in order make.
fn join_v6(out: &Out) -> Vec<u8> {
    let mut out: Vec<_> = out.iter().map(|(_, f)| f.clone()).collect();
    out.sort_by_key(|f| u16::from_be_bytes([f[56], f[57]]) & 0xfff8);
    let mut whole = out[0][..54].to_vec();
    whole[20] = out[0][54];
    for f in &out {
        whole.extend(&f[62..]);
    }
    let len = u16::try_from(whole.len() - 54).expect("small");
    whole[18..20].copy_from_slice(&len.to_be_bytes());
    whole
}

/// The packet that IPv4 fragments make, in whatever order.
fn join_v4(out: &Out) -> Vec<u8> {
    let place = |f: &[u8]| u16::from_be_bytes([f[20], f[21]]);
    let mut out: Vec<_> = out.iter().map(|(_, f)| f.clone()).collect();
    out.sort_by_key(|f| place(f) & 0x1fff);
    let mut whole = out[0][..34].to_vec();
    for (i, f) in out.iter().enumerate() {
        assert_eq!(
            usize::from(place(f) & 0x1fff) * 8,
            whole.len() - 34,
            "no gap"
        );
        assert_eq!(
            place(f) & 0x2000 != 0,
            i + 1 < out.len(),
            "the last is the end"
        );
        let len = usize::from(u16::from_be_bytes([f[16], f[17]]));
        whole.extend(&f[34..14 + len]);
    }
    let total = u16::try_from(whole.len() - 14).expect("small");
    whole[16..18].copy_from_slice(&total.to_be_bytes());
    whole[20..22].copy_from_slice(&[0, 0]);
    whole[24..26].copy_from_slice(&[0, 0]);
    let sum = polder::net::checksum::ipv4_header(&whole[14..34]);
    whole[24..26].copy_from_slice(&sum.to_be_bytes());
    whole
}

#[test]
fn fragments_larger_than_the_way_out_leave_in_smaller_ones() {
    for workers in [1, 3] {
        let mut narrow = setup(vec![service(proto::UDP, VPN, servers(1194))]);
        narrow.ports[1].mtu = 700;
        let mut bed = Bed::with(&narrow, workers);
        let payload: Vec<u8> = (0..5000u32).map(|n| (n / 7) as u8).collect();
        for c in 0..10 {
            let whole = from_client().id(c).udp(client(c), at(VPN), &payload);
            let out: Out = fragment(&whole, 1500)
                .iter()
                .flat_map(|p| bed.client(p))
                .collect();
            assert!(out.iter().all(|(_, f)| f.len() <= 714));
            let whole = join_v4(&out);
            assert_eq!(ends(&whole).0, client(c));
            assert_eq!(whole[42..], payload);
        }
        bed.bed.finish();
        assert_eq!(bed.sum(|c| c.held.get()), 0);
        assert!(bed.drops().is_empty());
    }
}

#[test]
fn fragments_without_a_udp_checksum_and_of_tcp_are_translated() {
    for workers in [1, 2] {
        let mut bed = Bed::with(
            &setup(vec![
                service(proto::UDP, VPN, servers(1194)),
                service(proto::TCP, VIP, servers(8080)),
            ]),
            workers,
        );
        let payload = vec![7; 3000];
        let plain = from_client()
            .no_udp_checksum()
            .udp(client(1), at(VPN), &payload);
        let out: Out = fragment(&plain, 1500)
            .iter()
            .flat_map(|p| bed.client(p))
            .collect();
        assert_eq!(ends(&join_v4(&out)).0, client(1));
        bed.client(&from_client().tcp(client(2), at(VIP), tcp_flags::SYN, 1, b""));
        let data = from_client().tcp(client(2), at(VIP), tcp_flags::ACK, 2, &payload);
        let out: Out = fragment(&data, 1500)
            .iter()
            .rev()
            .flat_map(|p| bed.client(p))
            .collect();
        assert_eq!(out.len(), 3, "{:?}", bed.drops());
        assert_eq!(ends(&join_v4(&out)).0, client(2));
        bed.check_counts();
    }
}

#[test]
fn fragments_go_through_tunnels_one_by_one() {
    let mut tunnelled = sip_service();
    for s in &mut tunnelled.servers {
        s.method = Method::Tunnel;
    }
    let mut bed = Bed::with(&setup(vec![tunnelled]), 2);
    let mut message = sip("tunnelled");
    message.extend([b'x'; 3000]);
    let whole = from_client().udp(client(1), at(SIP_VIP), &message);
    let out: Out = fragment(&whole, 1400)
        .iter()
        .flat_map(|p| bed.client(p))
        .collect();
    assert_eq!(out.len(), 3);
    let inner: Out = out
        .iter()
        .map(|(p, f)| {
            verify(f).expect("checksums");
            (*p, [&f[..14], &f[34..]].concat())
        })
        .collect();
    let joined = join_v4(&inner);
    assert_eq!(joined[42..], message);
    bed.check_counts();
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A configuration as nobody would have it: any mixture of services, engines, servers and states.
fn any_setup(rng: &mut Rng) -> Setup {
    let engine = |rng: &mut Rng| match rng.below(3) {
        0 => None,
        1 => Some(Engine::Sip),
        _ => Some(Engine::Payload(
            Field::new(1, 8, Unit::Bytes).expect("a field"),
        )),
    };
    let mut sip = sip_service();
    sip.one_packet = rng.one_in(2);
    sip.scheduler = ["rr", "wlc", "sh", "lblc"][rng.below(4) as usize].into();
    sip.persistence = (!rng.one_in(4)).then(|| Persistence {
        engine: engine(rng),
        grouping: Grouping::Mask4(if rng.one_in(2) { 0 } else { u32::MAX }),
        max_templates: if rng.one_in(3) { 9 } else { 0 },
        max_per_client: if rng.one_in(3) { 3 } else { 0 },
        ..persistence(1 + rng.below(90))
    });
    let mut vpn = if rng.one_in(2) {
        dtls_service()
    } else {
        keyed(None, 1, 8)
    };
    if rng.one_in(3) {
        vpn.scheduler = "rr".into();
        vpn.hash_key = None;
    }
    vpn.one_packet = rng.one_in(4);
    if rng.one_in(5) {
        vpn.payload_key = None;
        vpn.hash_key = None;
        vpn.scheduler = "rr".into();
    }
    let mut tcp = service(proto::TCP, VIP, servers(8080));
    tcp.persistence = rng.one_in(2).then(|| persistence(30));
    let mut marked = service(proto::UDP, "198.51.100.2:9", servers(0));
    marked.name = "marked".into();
    marked.kind = ServiceKind::Mark {
        af: Af::V4,
        mark: 7,
    };
    marked.persistence = rng.one_in(2).then(|| persistence(20));
    sip.name = "sip".into();
    vpn.name = "vpn".into();
    tcp.name = "tcp".into();
    let mut services = vec![sip, vpn, tcp, marked];
    services.retain(|_| !rng.one_in(6));
    for s in &mut services {
        s.on_server_down = match rng.below(4) {
            0 => Some(OnServerDown::Keep),
            1 => Some(OnServerDown::Drop),
            2 => Some(OnServerDown::Reschedule),
            _ => None,
        };
        s.servers.retain(|_| !rng.one_in(5));
        for d in &mut s.servers {
            d.admin = match rng.below(6) {
                0 => AdminState::Drain,
                1 => AdminState::Maint,
                _ => AdminState::Ready,
            };
            d.upper_threshold = if rng.one_in(4) { 5 } else { 0 };
        }
    }
    let mut setup = setup(services);
    setup.marks = vec![MarkRule {
        mark: 7,
        to: Some(Prefix {
            addr: ip("198.51.100.2"),
            len: 32,
        }),
        ..MarkRule::default()
    }];
    setup.expire_quiescent_template = rng.one_in(2);
    setup
}

fn any_frames(rng: &mut Rng) -> Vec<(PortId, Vec<u8>)> {
    let from = client(rng.below(12) as u16);
    let key = rng.below(25);
    let udp = |to: &str, payload: &[u8]| from_client().udp(from, at(to), payload);
    let frame = match rng.below(10) {
        0..=2 => udp(SIP_VIP, &sip(&key.to_string())),
        3 => udp(SIP_VIP, b"\r\n\r\n"),
        4 => udp(VPN, &vpn(key)),
        5 => udp(
            VPN,
            &record(if rng.one_in(2) { 22 } else { 25 }, key as u32),
        ),
        6 => udp("198.51.100.2:777", b"x"),
        7 => {
            let flags = [
                tcp_flags::SYN,
                tcp_flags::ACK,
                tcp_flags::FIN | tcp_flags::ACK,
            ];
            from_client().tcp(from, at(VIP), flags[rng.below(3) as usize], 1, b"")
        }
        8 => {
            let mut long = sip(&key.to_string());
            long.extend([b'x'; 2000]);
            let pieces = fragment(&udp(SIP_VIP, &long), 1500);
            return pieces.into_iter().rev().map(|p| (WAN, p)).collect();
        }
        _ => {
            let server = format!("10.0.0.{}", 11 + rng.below(3));
            let port = [5060, 1194, 777][rng.below(3) as usize];
            let src = SocketAddr::new(ip(&server), port);
            let reply = from_server(&server).udp(src, from, &sip(&key.to_string()));
            return vec![(LAN, reply)];
        }
    };
    vec![(WAN, frame)]
}

/// Room for less than any traffic wants.
const TIGHT: Sizes = Sizes {
    connections: 24,
    templates: 20,
    ..SIZES
};

#[test]
fn no_order_of_reloads_traffic_and_time_makes_a_count_drift() {
    for seed in 1..=8u64 {
        let rng = &mut Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut bed = Bed::sized(&any_setup(rng), 1 + (seed as usize % 3), &TIGHT);
        for _ in 0..60 {
            for _ in 0..rng.below(20) {
                for (port, frame) in any_frames(rng) {
                    bed.put(port, &frame);
                }
            }
            match rng.below(4) {
                0 => {
                    let _ = bed.bed.apply(&any_setup(rng));
                }
                1 => bed.pass(rng.below(70) as u32),
                _ => bed.pass(0),
            }
            bed.check_counts();
        }
        // All gone: nothing is left behind.
        bed.bed.apply(&setup(vec![])).expect("applies");
        for _ in 0..40 {
            bed.pass(60);
        }
        assert!(bed.bed.connections().is_empty());
        assert!(bed.bed.templates().is_empty());
        bed.check_counts();
        bed.bed.apply(&setup(vec![])).expect("applies");
        bed.bed.apply(&setup(vec![])).expect("applies");
        let snapshot = bed.bed.snapshot();
        assert!(
            snapshot.services.dests.iter().flatten().next().is_none(),
            "slots are free again"
        );
        assert_eq!(bed.sum(|c| c.held.get()), 0);
    }
}

/// Workers that are given many frames before they are polled, as on the appliance; [`Lockstep`] gives them one.
struct Bursts {
    plane: Arc<Plane>,
    workers: Vec<Worker<MemIo>>,
    /// By worker, by port.
    handles: Vec<Vec<MemHandle>>,
    registry: Registry,
    now: Tick,
}

impl Bursts {
    fn new(setup: &Setup, workers: usize, sizes: &Sizes) -> Self {
        let mut registry = Registry::new(sizes.services, sizes.servers, sizes.seed);
        let snapshot = static_snapshot(&mut registry, setup, None).expect("builds");
        let plane = Arc::new(Plane {
            snapshot: ArcSwap::from_pointee(snapshot),
            workers: assemble::shared(workers, &[], sizes),
            templates: assemble::templates(sizes).expect("memory"),
            defence: Default::default(),
            stop: AtomicBool::new(false),
            connections_capacity: sizes.connections as u64,
            sync: SyncDuty::default(),
        });
        let pool = MemPool::new(8192, 2048);
        let mut handles: Vec<Vec<MemHandle>> = (0..workers).map(|_| Vec::new()).collect();
        let ports = setup
            .ports
            .iter()
            .map(|_| {
                let queues = (0..workers).map(|w| {
                    let (io, handle) = MemIo::pair(&pool, QueueCapacity { rx: 512, tx: 4096 });
                    handles[w].push(handle);
                    Some(io)
                });
                PortParts::plain(queues.collect())
            })
            .collect();
        let directors = assemble::directors(setup, workers, sizes).expect("memory");
        Self {
            workers: assemble::workers(&plane, directors, ports, true),
            plane,
            handles,
            registry,
            now: Tick(0),
        }
    }

    fn apply(&mut self, setup: &Setup) {
        let old = self.plane.snapshot.load_full();
        if let Ok(next) = static_snapshot(&mut self.registry, setup, Some(&old)) {
            self.plane.snapshot.store(Arc::new(next));
            self.settle();
        }
    }

    fn push(&mut self, worker: usize, port: PortId, frame: &[u8]) {
        assert!(self.handles[worker][usize::from(port.0)].push(frame));
    }

    /// Lets one worker work once; then every frame is still accounted for.
    fn poll(&mut self, worker: usize) -> usize {
        let work = self.workers[worker].poll_to(self.now);
        let fates = self.sum(|c| c.transmitted.get() + c.punted.get() + c.dropped() + c.held.get());
        assert_eq!(self.sum(|c| c.received.get()), fates + self.between());
        work
    }

    /// Frames between two workers.
    fn between(&self) -> u64 {
        self.sum(|c| c.handed_out.get()) - self.sum(|c| c.handed_in.get())
    }

    fn settle(&mut self) {
        while (0..self.workers.len()).map(|w| self.poll(w)).sum::<usize>() > 0 {}
    }

    fn pass(&mut self, ticks: u32) {
        self.now = self.now.plus(ticks);
        self.settle();
        self.plane.sweep_templates(self.now);
    }

    fn taken(&mut self) -> Out {
        let mut out = Vec::new();
        for handles in &mut self.handles {
            for (port, handle) in handles.iter_mut().enumerate() {
                let port = PortId(u16::try_from(port).expect("two"));
                out.extend(handle.drain().into_iter().map(|f| (port, f)));
            }
        }
        out
    }

    fn sum(&self, f: impl Fn(&polder::table::WorkerCounters) -> u64) -> u64 {
        self.plane.workers.iter().map(|w| f(&w.counters)).sum()
    }

    fn drops(&self) -> BTreeMap<&'static str, u64> {
        DropReason::ALL
            .iter()
            .map(|r| (r.name(), self.sum(|c| c.drops[*r as usize].get())))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    fn check_counts(&mut self) {
        let mut walked: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        let mut controlled: BTreeMap<u32, u32> = BTreeMap::new();
        for w in &mut self.workers {
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                cursor = w.director_mut().connections::<V4>().dump(at, 1024, |_, c| {
                    let (dest, template) = (c.dest, c.template);
                    let counts = walked.entry(dest).or_default();
                    counts.0 += u32::from(c.is_active());
                    counts.1 += 1;
                    *controlled.entry(template).or_default() += 1;
                });
            }
        }
        let templates = list_templates(&self.plane.templates, self.now);
        let snapshot = self.plane.snapshot.load_full();
        for dest in snapshot.services.dests.iter().flatten() {
            let counted = (dest.shared.active(), dest.shared.total());
            let walked = walked.get(&dest.id.0).copied().unwrap_or_default();
            assert_eq!(counted, walked, "{}", dest.name);
            let bound = templates.iter().filter(|t| t.dest == dest.id).count();
            let counted = dest.shared.persistent() as usize;
            assert_eq!(counted, bound, "templates of {}", dest.name);
        }
        for t in &templates {
            let own = controlled.get(&t.at.index).copied().unwrap_or_default();
            assert_eq!(t.controlled, own);
        }
        assert_eq!(self.between(), 0);
    }
}

#[test]
fn datagrams_in_fragments_that_come_in_bursts_reach_one_server_each_and_unmixed() {
    for workers in [1, 2, 3, 4] {
        let plain = service(proto::UDP, VPN, servers(1194));
        let mut bed = Bursts::new(&setup(vec![plain, sip_service()]), workers, &SIZES);
        let mut homes: BTreeMap<u16, SocketAddr> = BTreeMap::new();
        for round in 0..3u16 {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            for c in 0..60u16 {
                let mut payload = c.to_be_bytes().to_vec();
                payload.resize(1000 + usize::from(c) * 20, c as u8);
                let frame = from_client().id(c).udp(client(c), at(VPN), &payload);
                let mut pieces = fragment(&frame, 700);
                first.push(pieces.remove(usize::from(round) % 2));
                second.append(&mut pieces);
            }
            for (i, p) in first.iter().chain(&second).enumerate() {
                bed.push((i * 7 + usize::from(round)) % workers, WAN, p);
            }
            bed.settle();
            let mut by_id: BTreeMap<u16, Out> = BTreeMap::new();
            for (port, f) in bed.taken() {
                let id = u16::from_be_bytes([f[18], f[19]]);
                by_id.entry(id).or_default().push((port, f));
            }
            assert_eq!(by_id.len(), 60, "{:?}", bed.drops());
            for (c, out) in by_id {
                let whole = join_v4(&out);
                let (src, to, _) = ends(&whole);
                assert_eq!(src, client(c));
                assert_eq!(whole[42..44], c.to_be_bytes());
                assert_eq!(*homes.entry(c).or_insert(to), to);
            }
        }
        assert!(bed.drops().is_empty(), "{:?}", bed.drops());
        bed.check_counts();
    }
}

/// A datagram of more fragments than a worker takes over in a poll is half handed over for a while.
#[test]
fn every_frame_is_accounted_for_after_each_poll_of_each_worker() {
    let plain = service(proto::UDP, VPN, servers(1194));
    let mut bed = Bursts::new(&setup(vec![plain]), 2, &SIZES);
    let mut half = 0;
    for c in 0..20 {
        let frame = from_client().id(c).udp(client(c), at(VPN), &[7; 30_000]);
        let pieces = fragment(&frame, 700);
        assert!(pieces.len() > BURST);
        for piece in &pieces {
            bed.push(0, WAN, piece);
        }
        while (0..2).map(|w| bed.poll(w)).sum::<usize>() > 0 {
            half += u64::from(bed.between() > 0);
        }
        assert_eq!(bed.taken().len(), pieces.len());
    }
    assert!(half > 0, "some datagram took more than one poll");
    assert!(bed.drops().is_empty(), "{:?}", bed.drops());
    bed.check_counts();
}

#[test]
fn calls_in_bursts_over_several_workers_have_one_server_each() {
    for workers in [1, 2, 4] {
        let mut bed = Bursts::new(&setup(vec![sip_service()]), workers, &SIZES);
        let rng = &mut Rng(workers as u64 + 5);
        let mut homes: BTreeMap<u64, SocketAddr> = BTreeMap::new();
        for round in 0..20 {
            for _ in 0..100 {
                let call = round * 10 + rng.below(40);
                let mut message = sip(&call.to_string());
                message.extend(call.to_be_bytes());
                let frame = from_client().udp(client(1), at(SIP_VIP), &message);
                bed.push(rng.below(workers as u64) as usize, WAN, &frame);
            }
            bed.settle();
            for (_, f) in bed.taken() {
                let to = ends(&f).1;
                let call = u64::from_be_bytes(f[f.len() - 8..].try_into().expect("8"));
                assert_eq!(*homes.entry(call).or_insert(to), to, "call {call}");
            }
            bed.pass(10);
            bed.check_counts();
        }
        assert!(homes.len() > 200);
    }
}

#[test]
fn sessions_that_hop_between_5_tuples_in_bursts_leave_one_connection_each() {
    for workers in [1, 2, 4] {
        let mut bed = Bursts::new(&setup(vec![keyed(None, 1, 8)]), workers, &SIZES);
        let rng = &mut Rng(workers as u64 + 77);
        let mut homes: BTreeMap<u64, SocketAddr> = BTreeMap::new();
        for _ in 0..40 {
            for _ in 0..60 {
                let session = rng.below(30);
                let from = client(rng.below(20) as u16);
                let frame = from_client().udp(from, at(VPN), &vpn(session));
                bed.push(rng.below(workers as u64) as usize, WAN, &frame);
            }
            bed.settle();
            for (_, f) in bed.taken() {
                let to = ends(&f).1;
                let session = u64::from_be_bytes(f[43..51].try_into().expect("8"));
                assert_eq!(*homes.entry(session).or_insert(to), to);
            }
            bed.check_counts();
            let snapshot = bed.plane.snapshot.load_full();
            let all: u32 = snapshot
                .services
                .dests
                .iter()
                .flatten()
                .map(|d| d.shared.total())
                .sum();
            assert!(all <= 20, "no 5-tuple has two: {all}");
        }
        assert!(bed.drops().is_empty(), "{:?}", bed.drops());
    }
}

#[test]
fn nor_does_a_count_drift_when_frames_come_in_bursts() {
    for seed in 1..=8u64 {
        let rng = &mut Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let workers = 1 + (seed as usize % 3);
        let mut bed = Bursts::new(&any_setup(rng), workers, &TIGHT);
        for _ in 0..60 {
            for _ in 0..rng.below(80) {
                let worker = rng.below(workers as u64) as usize;
                for (port, frame) in any_frames(rng) {
                    bed.push(worker, port, &frame);
                }
            }
            bed.settle();
            bed.taken();
            match rng.below(4) {
                0 => bed.apply(&any_setup(rng)),
                1 => bed.pass(rng.below(7000) as u32),
                _ => {}
            }
            bed.pass(0);
            bed.check_counts();
        }
        bed.apply(&setup(vec![]));
        for _ in 0..40 {
            bed.pass(6000);
        }
        bed.check_counts();
        assert!(list_templates(&bed.plane.templates, bed.now).is_empty());
        assert_eq!(bed.sum(|c| c.connections.get() + c.held.get()), 0);
    }
}

#[test]
fn two_workers_in_threads_of_their_own_give_a_new_call_one_server() {
    let sizes = Sizes {
        templates: 32_768,
        ..SIZES
    };
    let mut bed = Bursts::new(&setup(vec![sip_service()]), 2, &sizes);
    for round in 0..40 {
        for n in 0..500 {
            let call = round * 1000 + n;
            let mut message = sip(&call.to_string());
            message.extend((call as u64).to_be_bytes());
            let frame = from_client().udp(client(1), at(SIP_VIP), &message);
            bed.push(0, WAN, &frame);
            bed.push(1, WAN, &frame);
        }
        let start = std::sync::Barrier::new(2);
        let now = bed.now;
        std::thread::scope(|scope| {
            for worker in &mut bed.workers {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    while worker.poll_to(now) > 0 {}
                });
            }
        });
        let mut homes: BTreeMap<u64, SocketAddr> = BTreeMap::new();
        let out = bed.taken();
        assert_eq!(out.len(), 1000, "{:?}", bed.drops());
        for (_, f) in out {
            let to = ends(&f).1;
            let call = u64::from_be_bytes(f[f.len() - 8..].try_into().expect("8"));
            assert_eq!(*homes.entry(call).or_insert(to), to, "call {call}");
        }
        bed.check_counts();
    }
}

#[test]
fn a_mark_s_one_packet_service_serves_all_its_addresses_by_direct_routing() {
    let mut marked = sip_service();
    marked.kind = ServiceKind::Mark {
        af: Af::V4,
        mark: 7,
    };
    for s in &mut marked.servers {
        s.method = Method::Direct;
    }
    let mut setup = setup(vec![marked]);
    setup.marks = vec![MarkRule {
        mark: 7,
        proto: Some(17),
        ports: Some((5060, 5061)),
        ..MarkRule::default()
    }];
    for workers in [1, 3] {
        let mut bed = Bed::with(&setup, workers);
        for call in 0..20 {
            let mut to_mac = |vip: &str, fragmented: bool| {
                let mut message = sip(&call.to_string());
                message.extend(vec![b'x'; if fragmented { 2000 } else { 0 }]);
                let frame = from_client().udp(client(call), at(vip), &message);
                let pieces = if fragmented {
                    fragment(&frame, 1500)
                } else {
                    vec![frame]
                };
                let out: Out = pieces.iter().rev().flat_map(|p| bed.client(p)).collect();
                assert_eq!(out.len(), pieces.len(), "{:?}", bed.drops());
                assert!(out.iter().all(|(_, f)| macs(f).0 == macs(&out[0].1).0));
                macs(&out[0].1).0
            };
            let home = to_mac("198.51.100.1:5060", false);
            assert_eq!(to_mac("198.51.100.2:5061", false), home);
            assert_eq!(to_mac("198.51.100.3:5060", true), home);
        }
        assert_eq!(bed.bed.templates().len(), 20);
        bed.check_counts();
    }
}

#[test]
fn quic_connections_that_move_onto_each_others_5_tuples_keep_their_servers() {
    let configs = [QuicConfig {
        codepoint: 0,
        length_encoded: true,
        server_id_len: 2,
        nonce_len: 6,
        key: Some([7; 16]),
    }];
    let mut quic = service(proto::UDP, "198.51.100.1:443", servers(443));
    quic.payload_key = Some(PayloadKey::Quic(QuicLb::new(&configs).expect("sound")));
    for (i, s) in quic.servers.iter_mut().enumerate() {
        s.quic_server_id = vec![0, i as u8 + 1];
    }
    for workers in [1, 2, 3] {
        let mut bed = Bursts::new(&setup(vec![quic.clone()]), workers, &SIZES);
        let rng = &mut Rng(workers as u64);
        let mut expected = Vec::new();
        for n in 0..400u64 {
            let server = rng.below(3) as u8;
            let nonce: Vec<u8> = n.to_be_bytes()[2..].to_vec();
            let cid = configs[0].encode(&[0, server + 1], &nonce).expect("sound");
            let mut packet = vec![0x40];
            packet.extend(&cid);
            packet.extend(n.to_be_bytes());
            let from = client(rng.below(9) as u16);
            let frame = from_client().udp(from, at("198.51.100.1:443"), &packet);
            bed.push(rng.below(workers as u64) as usize, WAN, &frame);
            expected.push(SocketAddr::new(ip(&format!("10.0.0.{}", 11 + server)), 443));
        }
        bed.settle();
        let out = bed.taken();
        assert_eq!(out.len(), 400, "{:?}", bed.drops());
        for (_, f) in out {
            let n = u64::from_be_bytes(f[f.len() - 8..].try_into().expect("8"));
            assert_eq!(ends(&f).1, expected[n as usize]);
        }
        bed.check_counts();
    }
}

#[test]
fn a_payload_key_that_a_reload_brings_or_takes_holds_for_entries_that_there_are() {
    let plain = || service(proto::UDP, VPN, servers(1194));
    let with_key = || keyed(None, 1, 8);
    let mut fresh = Bed::new(vec![with_key()]);
    let homes: Vec<_> = (0..20u64)
        .map(|s| fresh.datagram(client(s as u16), VPN, &vpn(s)))
        .collect();
    let mut bed = Bed::new(vec![plain()]);
    let first = bed.datagram(client(0), VPN, &vpn(0));
    bed.bed.apply(&setup(vec![with_key()])).expect("applies");
    for (s, home) in (0..20u64).zip(&homes) {
        assert_eq!(bed.datagram(client(0), VPN, &vpn(s)), *home);
    }
    bed.check_counts();
    bed.bed.apply(&setup(vec![plain()])).expect("applies");
    for s in 0..20u64 {
        assert_eq!(bed.datagram(client(0), VPN, &vpn(s)), homes[19], "{first}");
    }
    bed.check_counts();
    bed.pass(400);
    assert!(bed.bed.templates().is_empty());
    bed.check_counts();
}

#[test]
fn sessions_of_a_payload_key_have_limits_of_their_own() {
    let service = ServiceDef {
        session_limits: (5, 2),
        ..keyed(None, 0, 8)
    };
    let mut bed = Bed::new(vec![service]);
    for n in 0..40u16 {
        let client = SocketAddr::new(ip(&format!("203.0.113.{}", 1 + n % 4)), 1000 + n);
        let payload = u64::from(n).to_be_bytes();
        let frame = from_client().udp(client, at(VPN), &payload);
        assert_eq!(bed.client(&frame).len(), 1, "the hash serves them all");
    }
    assert_eq!(bed.bed.templates().len(), 5);
    assert_eq!(bed.sum(|c| c.services[0].sessions_untracked.get()), 35);
}

#[test]
fn a_payload_key_for_which_there_is_no_room_is_counted_as_too_long() {
    for (scheduler, served) in [("rr", false), ("offh", true)] {
        let service = ServiceDef {
            scheduler: scheduler.into(),
            ..keyed(None, 0, 256)
        };
        let sizes = Sizes {
            templates: 4096,
            ..SIZES
        };
        let mut bed = Bed::sized(&setup(vec![service]), 1, &sizes);
        let (mut sent, mut last) = (0u16, Vec::new());
        while bed.sum(|c| c.services[0].no_key_long.get()) == 0 {
            let payload = [sent.to_be_bytes(); 150].concat();
            last = bed.client(&from_client().udp(client(sent), at(VPN), &payload));
            sent += 1;
            assert!(sent < 3000, "the room for long keys is bounded");
        }
        assert_eq!(!last.is_empty(), served);
        let refused = bed.sum(|c| c.services[0].rejected_template_table_full.get());
        let untracked = bed.sum(|c| c.services[0].sessions_untracked.get());
        assert_eq!(
            (refused, untracked),
            (u64::from(!served), u64::from(served))
        );
        bed.check_counts();
    }
}

#[test]
fn a_call_id_for_which_there_is_no_room_falls_back_to_its_client() {
    let mut bed = Bed::sized(&setup(vec![sip_service()]), 1, &SIZES);
    let long = |n: u32| sip(&format!("{n}{}", "x".repeat(30_000)));
    let mut sent = 0;
    while bed.sum(|c| c.services[0].no_key_long.get()) == 0 {
        let whole = from_client().udp(client(1), at(SIP_VIP), &long(sent));
        let pieces = fragment(&whole, 1500);
        let out: Out = pieces.iter().flat_map(|p| bed.client(p)).collect();
        assert_eq!(
            out.len(),
            pieces.len(),
            "served, with a template of its own or without"
        );
        sent += 1;
        assert!(sent < 100, "the room for long keys is bounded");
    }
    let before = bed.bed.templates().len();
    let whole = from_client().udp(client(2), at(SIP_VIP), &sip("short"));
    assert_eq!(bed.client(&whole).len(), 1);
    assert_eq!(
        bed.bed.templates().len(),
        before + 1,
        "short ones have room"
    );
    assert!(bed.drops().is_empty(), "{:?}", bed.drops());
}
