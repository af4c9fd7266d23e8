//! Workers in virtual time with two ports, clients behind a router on the first, servers on the second.

#![allow(dead_code)] // Each test binary uses its part.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use polder::forward::defs::{Grouping, OnNoKey, Persistence};
use polder::forward::{
    DestDef, NeighbourDef, PortDef, PortId, Prefix, RouteDef, ServiceDef, Setup,
};
use polder::net::build::{Frame, verify};
use polder::net::packet::proto;
use polder::net::{DropReason, L3, Mac, Tick, parse};
use polder::persist::Engine;
use polder::worker::assemble::Sizes;
use polder::worker::lockstep::Lockstep;

pub const WAN: PortId = PortId(0);
pub const LAN: PortId = PortId(1);
pub const WAN_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
pub const LAN_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x20]);
pub const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub const SIZES: Sizes = Sizes {
    connections: 4096,
    templates: 1024,
    services: 16,
    servers: 64,
    seed: 7,
};

pub fn ip(s: &str) -> IpAddr {
    s.parse().expect("an address")
}

pub fn at(s: &str) -> SocketAddr {
    s.parse().expect("address and port")
}

pub fn sec(s: u32) -> Tick {
    Tick(s * Tick::PER_SECOND)
}

/// A server's MAC address: its last byte is the address's.
pub fn server_mac(addr: IpAddr) -> Mac {
    let last = match addr {
        IpAddr::V4(a) => a.octets()[3],
        IpAddr::V6(a) => a.octets()[15],
    };
    Mac([2, 0, 0, 0, 1, last])
}

pub fn dest(addr: &str, port: u16) -> DestDef {
    DestDef::new(SocketAddr::new(ip(addr), port))
}

pub fn service(proto: u8, virtual_: &str, servers: Vec<DestDef>) -> ServiceDef {
    ServiceDef::new("svc", proto, at(virtual_), servers)
}

/// Two ports, clients behind a router on the first, servers .11 to .13 on the second.
pub fn setup(services: Vec<ServiceDef>) -> Setup {
    let port = |name: &str, addrs: &[(&str, u8)], mac| PortDef {
        name: name.into(),
        device: "mem".into(),
        addresses: addrs
            .iter()
            .map(|(a, len)| Prefix {
                addr: ip(a),
                len: *len,
            })
            .collect(),
        mac: Some(mac),
        mtu: 1500,
        kernel_interface: false,
    };
    let route = |to: &str, via: &str| RouteDef {
        to: Prefix {
            addr: ip(to),
            len: 0,
        },
        via: Some(ip(via)),
        port: WAN,
    };
    let near = |port, addr: &str, mac| NeighbourDef {
        port,
        addr: ip(addr),
        mac,
    };
    let mut neighbours = vec![
        near(WAN, "192.0.2.1", ROUTER),
        near(WAN, "2001:db8:1::1", ROUTER),
    ];
    for n in 11..=13 {
        for a in [format!("10.0.0.{n}"), format!("2001:db8:2::{n}")] {
            neighbours.push(near(LAN, &a, server_mac(ip(&a))));
        }
    }
    Setup {
        ports: vec![
            port(
                "wan0",
                &[("192.0.2.10", 24), ("2001:db8:1::10", 64)],
                WAN_MAC,
            ),
            port("lan0", &[("10.0.0.1", 24), ("2001:db8:2::1", 64)], LAN_MAC),
        ],
        routes: vec![route("0.0.0.0", "192.0.2.1"), route("::", "2001:db8:1::1")],
        neighbours,
        services,
        ..Setup::default()
    }
}

pub struct Bed {
    pub bed: Lockstep,
    pub now: Tick,
}

/// What came out: port and frame.
pub type Out = Vec<(PortId, Vec<u8>)>;

impl Bed {
    pub fn with(setup: &Setup, workers: usize) -> Self {
        Self::sized(setup, workers, &SIZES)
    }

    pub fn sized(setup: &Setup, workers: usize, sizes: &Sizes) -> Self {
        Self {
            bed: Lockstep::new(setup, workers, sizes).expect("workers"),
            now: Tick(0),
        }
    }

    pub fn new(services: Vec<ServiceDef>) -> Self {
        Self::with(&setup(services), 1)
    }

    pub fn put(&mut self, port: PortId, frame: &[u8]) -> Out {
        self.bed.frame(port, frame, self.now);
        self.taken()
    }

    pub fn taken(&mut self) -> Out {
        let mut out = Vec::new();
        self.bed.transmitted(|p, f| out.push((p, f.to_vec())));
        out
    }

    pub fn client(&mut self, frame: &[u8]) -> Out {
        self.put(WAN, frame)
    }

    pub fn server(&mut self, frame: &[u8]) -> Out {
        self.put(LAN, frame)
    }

    pub fn drops(&self) -> BTreeMap<&'static str, u64> {
        let count = |r: &DropReason| {
            self.bed
                .counters()
                .map(|c| c.drops[*r as usize].get())
                .sum()
        };
        DropReason::ALL
            .iter()
            .map(|r| (r.name(), count(r)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    pub fn sum(&self, f: impl Fn(&polder::table::WorkerCounters) -> u64) -> u64 {
        self.bed.counters().map(f).sum()
    }

    pub fn check_identity(&self) {
        let fates = self.sum(|c| c.transmitted.get() + c.punted.get() + c.dropped() + c.held.get());
        assert_eq!(
            self.sum(|c| c.received.get()),
            fates,
            "received = transmitted + punted + dropped + held"
        );
    }

    /// Where the one frame that comes of a client's frame goes.
    pub fn to(&mut self, frame: &[u8]) -> SocketAddr {
        let out = self.client(frame);
        assert_eq!(out.len(), 1, "one frame leaves; drops: {:?}", self.drops());
        assert_eq!(out[0].0, LAN);
        ends(&out[0].1).1
    }

    pub fn datagram(&mut self, from: SocketAddr, to: &str, payload: &[u8]) -> SocketAddr {
        self.to(&from_client().udp(from, at(to), payload))
    }

    pub fn pass(&mut self, secs: u32) {
        self.now = self.now.plus(sec(secs).0);
        self.bed.advance(self.now);
    }

    /// Shared counts are what a walk of the tables gives.
    pub fn check_counts(&mut self) {
        let snapshot = self.bed.snapshot();
        let templates = self.bed.templates();
        for dest in snapshot.services.dests.iter().flatten() {
            let walked = self.bed.walk(dest.id);
            let counted = (dest.shared.active(), dest.shared.total());
            assert_eq!(counted, walked, "{}", dest.name);
            let bound = templates.iter().filter(|t| t.dest == dest.id).count();
            let counted = dest.shared.persistent() as usize;
            assert_eq!(counted, bound, "templates of {}", dest.name);
        }
        let connections = self.bed.connections();
        for t in &templates {
            let own = connections.iter().filter(|c| c.template == t.at.index);
            assert_eq!(t.controlled as usize, own.count());
        }
        assert_eq!(self.bed.buffers_in_use() as u64, self.sum(|c| c.held.get()));
        self.check_identity();
    }

    /// All that a frame can become by being cut, or by one bit that flips, from both sides: each meets one fate.
    pub fn endure(&mut self, good: &[u8]) {
        for cut in 0..good.len() {
            self.client(&good[..cut]);
        }
        for i in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.to_vec();
                bad[i] ^= 1 << bit;
                self.client(&bad);
                self.server(&bad);
            }
        }
        self.bed.finish();
        self.check_identity();
        self.taken();
        assert_eq!(self.bed.buffers_in_use(), 0);
    }
}

pub fn from_client() -> Frame {
    Frame::new().macs(WAN_MAC, ROUTER)
}

pub fn from_server(addr: &str) -> Frame {
    Frame::new().macs(LAN_MAC, server_mac(ip(addr)))
}

/// Source, destination and TTL of the outer packet; the checksums are right.
pub fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr, u8) {
    verify(frame).expect("all checksums are right");
    match parse(frame).expect("parses").l3 {
        L3::V4(p) => (
            SocketAddr::new(p.flow.src.into(), p.flow.src_port),
            SocketAddr::new(p.flow.dst.into(), p.flow.dst_port),
            p.ttl,
        ),
        L3::V6(p) => (
            SocketAddr::new(p.flow.src.into(), p.flow.src_port),
            SocketAddr::new(p.flow.dst.into(), p.flow.dst_port),
            p.ttl,
        ),
        L3::Other(t) => panic!("not IP: {t:#x}"),
    }
}

pub fn macs(frame: &[u8]) -> (Mac, Mac) {
    let mac = |b: &[u8]| Mac(b.try_into().expect("six bytes"));
    (mac(&frame[..6]), mac(&frame[6..12]))
}

pub const VIP: &str = "198.51.100.1:80";

pub fn three() -> Vec<DestDef> {
    servers(8080)
}

pub fn tcp_service() -> Vec<ServiceDef> {
    vec![service(proto::TCP, VIP, three())]
}

/// A client by its port.
pub fn client(n: u16) -> SocketAddr {
    SocketAddr::new(ip("203.0.113.9"), 10_000 + n)
}

/// Each client by itself, without an engine.
pub fn persistence(secs: u64) -> Persistence {
    Persistence {
        timeout: Duration::from_secs(secs),
        grouping: Grouping::Mask4(u32::MAX),
        engine: None,
        on_no_key: OnNoKey::Fallback,
        max_templates: 0,
        max_per_client: 0,
    }
}

pub fn servers(port: u16) -> Vec<DestDef> {
    (11..=13)
        .map(|n| dest(&format!("10.0.0.{n}"), port))
        .collect()
}

pub const SIP_VIP: &str = "198.51.100.1:5060";

/// UDP, one-packet, any client, by Call-ID.
pub fn sip_service() -> ServiceDef {
    ServiceDef {
        one_packet: true,
        persistence: Some(Persistence {
            grouping: Grouping::Mask4(0),
            engine: Some(Engine::Sip),
            ..persistence(60)
        }),
        ..service(proto::UDP, SIP_VIP, servers(5060))
    }
}

pub fn sip(call: &str) -> Vec<u8> {
    format!("INVITE sip:b@example.com SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nCall-ID: {call}\r\nCSeq: 1 INVITE\r\n\r\n")
        .into_bytes()
}
