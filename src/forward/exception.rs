//! The exception path's policy: which class a frame for the kernel belongs to, and how many of each may pass.
//!
//! Owns the classes, their limits and the token buckets. Knows no port, no kernel and no clock: callers pass `now`.
//! A worker asks before it punts, so that a flood of one class can neither fill the ring to the kernel nor starve
//! the others: a storm of ARP requests leaves the BGP session alone.
//!
//! Invariant: over any stretch of `t` ticks a class lets through at most `burst + per_second * t / 100` frames.
//! Cost: a classification reads at most the headers of one frame, a bucket is 8 bytes and two multiplications.

use crate::net::Tick;
use crate::net::packet::proto;

/// What kind of frame is on its way to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// ARP requests and replies.
    Arp,
    /// IPv6 neighbour and router discovery (RFC 4861), and the multicast listener discovery that it lives on.
    Nd,
    /// ICMP and all other ICMPv6: `ping` to the director's own addresses and to the virtual ones.
    Icmp,
    /// TCP and UDP to the director's own addresses: ssh, DNS, health checks' answers.
    Local,
    /// Routing and redundancy protocols: BGP, BFD, OSPF, VRRP, IS-IS, RIP, Babel, LDP, PIM, EIGRP, IGMP.
    Routing,
    /// Everything else.
    Other,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// Every class, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Arp,
        Self::Nd,
        Self::Icmp,
        Self::Local,
        Self::Routing,
        Self::Other,
    ];

    /// The name in metrics, listings and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Arp => "arp",
            Self::Nd => "nd",
            Self::Icmp => "icmp",
            Self::Local => "local",
            Self::Routing => "routing",
            Self::Other => "other",
        }
    }

    /// The limit where none is configured, per policer: that is per worker and port.
    ///
    /// | class | frames/s | burst | why |
    /// |---|---|---|---|
    /// | arp | 2,000 | 1,000 | a /22 that asks anew after a failover is answered within the burst |
    /// | nd | 2,000 | 1,000 | the same for IPv6 |
    /// | icmp | 1,000 | 200 | diagnosis, not load |
    /// | local | 20,000 | 2,000 | answers of some thousand health checks a second, and an scp |
    /// | routing | 10,000 | 2,000 | a full BGP table in full segments within half a minute |
    /// | other | 500 | 100 | nothing that anyone waits for |
    #[must_use]
    pub const fn default_limit(self) -> Limit {
        let (per_second, burst) = match self {
            Self::Arp | Self::Nd => (2_000, 1_000),
            Self::Icmp => (1_000, 200),
            Self::Local => (20_000, 2_000),
            Self::Routing => (10_000, 2_000),
            Self::Other => (500, 100),
        };
        Limit { per_second, burst }
    }
}

/// A class's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Frames per second in the long run.
    pub per_second: u32,
    /// Frames that may pass at once after a pause.
    pub burst: u32,
}

/// Parts of a token in a whole one: with as many parts as ticks in a second, a tick adds exactly `per_second` parts.
const PARTS: u64 = Tick::PER_SECOND as u64;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Parts of tokens that are left.
    parts: u64,
    last: Tick,
}

/// Token buckets, one for each class. One worker owns it; nothing is shared.
#[derive(Clone, Debug)]
pub struct Policer {
    limits: [Limit; Class::COUNT],
    buckets: [Bucket; Class::COUNT],
}

impl Policer {
    /// A policer with the default limits and full buckets.
    #[must_use]
    pub fn new(now: Tick) -> Self {
        Self::with_limits(Class::ALL.map(Class::default_limit), now)
    }

    /// A policer with `limits` in the order of [`Class::ALL`] and full buckets.
    #[must_use]
    pub fn with_limits(limits: [Limit; Class::COUNT], now: Tick) -> Self {
        let full = |l: Limit| Bucket {
            parts: u64::from(l.burst) * PARTS,
            last: now,
        };
        Self {
            limits,
            buckets: limits.map(full),
        }
    }

    /// Whether one more frame of `class` may pass at `now`; it is then counted against the limit.
    #[inline]
    pub fn admit(&mut self, class: Class, now: Tick) -> bool {
        let limit = self.limits[class as usize];
        let bucket = &mut self.buckets[class as usize];
        let earned = u64::from(now.since(bucket.last)) * u64::from(limit.per_second);
        // A clock that stepped back earns nothing, and does not earn the same stretch twice afterwards.
        if now.reached(bucket.last) {
            bucket.last = now;
        }
        bucket.parts = (bucket.parts + earned).min(u64::from(limit.burst) * PARTS);
        let passes = bucket.parts >= PARTS;
        if passes {
            bucket.parts -= PARTS;
        }
        passes
    }
}

mod ether {
    pub const ARP: u16 = 0x0806;
    pub const IPV4: u16 = 0x0800;
    pub const IPV6: u16 = 0x86dd;
    pub const VLAN: u16 = 0x8100;
    pub const QINQ: u16 = 0x88a8;
    /// Below this the field is the length of an IEEE 802.3 frame.
    pub const FIRST_TYPE: u16 = 0x0600;
    /// LLC header of IS-IS (ISO 10589 §9.1): both service access points 0xfe, unnumbered information.
    pub const LLC_ISIS: [u8; 3] = [0xfe, 0xfe, 0x03];
}

/// The class of `frame`, which starts with its Ethernet header. Frames cut short are [`Class::Other`], or the class of
/// as much as is there; nothing is checked that the class does not depend on.
///
/// A class can be feigned: whoever sends TCP to port 179 competes with the BGP session for its tokens. The limits
/// bound what reaches the kernel; who may speak BGP to it is for its own filters (RFC 5082) to say.
#[must_use]
pub fn classify(frame: &[u8]) -> Class {
    let mut at = 12;
    let mut kind = word(frame, at);
    // At most two tags: a service tag and a customer tag.
    for _ in 0..2 {
        if matches!(kind, Some(ether::VLAN | ether::QINQ)) {
            at += 4;
            kind = word(frame, at);
        }
    }
    let Some(kind) = kind else {
        return Class::Other;
    };
    let packet = &frame[at + 2..];
    match kind {
        ether::ARP => Class::Arp,
        ether::IPV4 => classify_ipv4(packet),
        ether::IPV6 => transport(packet, packet.get(6).copied(), 40),
        length if length < ether::FIRST_TYPE && packet.starts_with(&ether::LLC_ISIS) => {
            Class::Routing
        }
        _ => Class::Other,
    }
}

fn classify_ipv4(packet: &[u8]) -> Class {
    let header = packet.first().map_or(20, |b| usize::from(b & 0x0f) * 4);
    let protocol = packet.get(9).copied();
    // A later fragment has no ports to look at: the payload is read as if it were cut.
    let later = word(packet, 6).is_some_and(|w| w & 0x1fff != 0);
    transport(packet, protocol, if later { packet.len() } else { header })
}

/// Protocol numbers that are only of interest here.
mod number {
    pub const HOP_BY_HOP: u8 = 0;
    pub const IGMP: u8 = 2;
    pub const ROUTING_HEADER: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION_OPTIONS: u8 = 60;
    pub const EIGRP: u8 = 88;
    pub const OSPF: u8 = 89;
    pub const PIM: u8 = 103;
    pub const VRRP: u8 = 112;
}

/// Headers between the IP header and the transport header that are looked through before giving up.
const MAX_EXTENSIONS: usize = 6;

/// The class of what protocol `next` at `at` of `packet` carries, behind any extension headers.
fn transport(packet: &[u8], next: Option<u8>, at: usize) -> Class {
    let (mut next, mut at) = (next, at);
    for _ in 0..MAX_EXTENSIONS {
        let Some(protocol) = next else {
            return Class::Other;
        };
        let length = match protocol {
            number::HOP_BY_HOP | number::ROUTING_HEADER | number::DESTINATION_OPTIONS => {
                packet.get(at + 1).map(|&n| (usize::from(n) + 1) * 8)
            }
            proto::AH => packet.get(at + 1).map(|&n| (usize::from(n) + 2) * 4),
            // Behind a later fragment's header there is payload: again as if it were cut.
            number::FRAGMENT => match word(packet, at + 2) {
                Some(w) if w & 0xfff8 == 0 => Some(8),
                Some(_) => Some(packet.len()),
                None => None,
            },
            _ => return classify_protocol(protocol, packet.get(at..).unwrap_or_default()),
        };
        next = packet.get(at).copied();
        let Some(length) = length else {
            return Class::Other;
        };
        at += length;
    }
    Class::Other
}

fn classify_protocol(protocol: u8, payload: &[u8]) -> Class {
    let ports = (word(payload, 0), word(payload, 2));
    match protocol {
        proto::ICMP => Class::Icmp,
        proto::ICMPV6 => match payload.first() {
            // RFC 4861 §4: 133 to 137. RFC 2710 §3, RFC 3810 §5: 130 to 132 and 143.
            Some(130..=137 | 143) => Class::Nd,
            _ => Class::Icmp,
        },
        proto::TCP => match ports {
            (Some(179 | 646), _) | (_, Some(179 | 646)) => Class::Routing,
            _ => Class::Local,
        },
        // RIP, RIPng, LDP, BFD (RFC 5881 §4, RFC 5883 §5, RFC 7130 §2.2, RFC 7881 §4), Babel.
        proto::UDP => match ports.1 {
            Some(520 | 521 | 646 | 3784 | 3785 | 4784 | 6784 | 7784 | 6696) => Class::Routing,
            _ => Class::Local,
        },
        proto::SCTP => Class::Local,
        number::OSPF | number::VRRP | number::EIGRP | number::PIM | number::IGMP => Class::Routing,
        _ => Class::Other,
    }
}

/// The big-endian word at `at`, if it is there.
#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*pair))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ether(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        f.extend(kind.to_be_bytes());
        f.extend(payload);
        f
    }

    fn ipv4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut p = vec![0x45, 0, 0, 0, 0, 0];
        p.extend(fragment.to_be_bytes());
        p.extend([64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        p.extend(payload);
        ether(ether::IPV4, &p)
    }

    fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut p = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        p.extend([0; 32]);
        p.extend(payload);
        ether(ether::IPV6, &p)
    }

    fn ports(source: u16, destination: u16) -> Vec<u8> {
        [
            source.to_be_bytes(),
            destination.to_be_bytes(),
            [0; 2],
            [0; 2],
        ]
        .concat()
    }

    #[test]
    fn frames_fall_into_their_classes() {
        let hop_by_hop = |next: u8| vec![next, 0, 5, 2, 0, 0, 1, 0];
        let table: Vec<(&str, Vec<u8>, Class)> = vec![
            ("ARP", ether(ether::ARP, &[0, 1]), Class::Arp),
            (
                "ARP behind one tag",
                ether(0x8100, &[0, 7, 8, 6, 0, 1]),
                Class::Arp,
            ),
            (
                "ARP behind two tags",
                ether(0x88a8, &[0, 7, 0x81, 0, 0, 8, 8, 6, 0, 1]),
                Class::Arp,
            ),
            (
                "three tags",
                ether(0x88a8, &[0, 7, 0x81, 0, 0, 8, 0x81, 0, 0, 9, 8, 6]),
                Class::Other,
            ),
            ("ping", ipv4(1, 0, &[8, 0]), Class::Icmp),
            ("ssh", ipv4(6, 0, &ports(50000, 22)), Class::Local),
            (
                "BGP, called",
                ipv4(6, 0, &ports(50000, 179)),
                Class::Routing,
            ),
            (
                "BGP, calling",
                ipv4(6, 0, &ports(179, 50000)),
                Class::Routing,
            ),
            ("BFD", ipv4(17, 0, &ports(49152, 3784)), Class::Routing),
            (
                "an answer to a client on 3784",
                ipv4(17, 0, &ports(3784, 53)),
                Class::Local,
            ),
            ("Diameter", ipv4(132, 0, &ports(50000, 3868)), Class::Local),
            ("DNS", ipv4(17, 0, &ports(50000, 53)), Class::Local),
            (
                "a later fragment with 179 in its data",
                ipv4(6, 3, &ports(179, 179)),
                Class::Local,
            ),
            (
                "a first fragment",
                ipv4(17, 0x2000, &ports(49152, 3784)),
                Class::Routing,
            ),
            ("VRRP", ipv4(112, 0, &[0x31]), Class::Routing),
            (
                "VRRP behind AH",
                ipv4(51, 0, &[&[112, 4][..], &[0; 22]].concat()),
                Class::Routing,
            ),
            ("OSPF", ipv4(89, 0, &[2, 1]), Class::Routing),
            ("IGMP", ipv4(2, 0, &[0x11]), Class::Routing),
            ("GRE", ipv4(47, 0, &[0, 0]), Class::Other),
            ("neighbour solicitation", ipv6(58, &[135, 0]), Class::Nd),
            ("router advertisement", ipv6(58, &[134, 0]), Class::Nd),
            (
                "listener report behind hop-by-hop",
                ipv6(0, &[hop_by_hop(58), vec![143, 0]].concat()),
                Class::Nd,
            ),
            ("ping over IPv6", ipv6(58, &[128, 0]), Class::Icmp),
            ("packet too big", ipv6(58, &[2, 0]), Class::Icmp),
            ("ICMPv6 without a type", ipv6(58, &[]), Class::Icmp),
            ("BGP over IPv6", ipv6(6, &ports(179, 40000)), Class::Routing),
            ("OSPFv3", ipv6(89, &[3]), Class::Routing),
            (
                "first fragment over IPv6",
                ipv6(
                    44,
                    &[vec![17, 0, 0, 1, 0, 0, 0, 0], ports(5, 3784)].concat(),
                ),
                Class::Routing,
            ),
            (
                "later fragment over IPv6",
                ipv6(
                    44,
                    &[vec![17, 0, 0, 8, 0, 0, 0, 0], ports(5, 3784)].concat(),
                ),
                Class::Local,
            ),
            (
                "an extension header cut short",
                ipv6(60, &[58]),
                Class::Other,
            ),
            (
                "IS-IS",
                ether(100, &[0xfe, 0xfe, 0x03, 0x83]),
                Class::Routing,
            ),
            (
                "spanning tree",
                ether(38, &[0x42, 0x42, 0x03]),
                Class::Other,
            ),
            ("LLDP", ether(0x88cc, &[2]), Class::Other),
            ("nothing", vec![], Class::Other),
            ("half an Ethernet header", vec![0; 13], Class::Other),
        ];
        for (description, frame, class) in table {
            assert_eq!(classify(&frame), class, "{description}");
        }
    }

    #[test]
    fn more_extension_headers_than_anyone_sends_are_not_followed() {
        let chain = |n: usize| ipv6(60, &[[60, 0, 0, 0, 0, 0, 0, 0].repeat(n)].concat());
        assert_eq!(classify(&chain(100)), Class::Other);
    }

    #[test]
    fn names_and_numbers_are_unique_and_in_order() {
        for (i, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, i);
            assert_eq!(
                Class::ALL
                    .iter()
                    .filter(|c| c.name() == class.name())
                    .count(),
                1
            );
        }
    }

    #[test]
    fn a_flood_of_one_class_leaves_the_others_alone() {
        let mut policer = Policer::new(Tick(7));
        let passed = (0..10_000)
            .filter(|_| policer.admit(Class::Arp, Tick(7)))
            .count();
        assert_eq!(passed, 1_000);
        assert!(policer.admit(Class::Routing, Tick(7)));
    }

    #[test]
    fn the_long_run_rate_is_the_limit_to_the_frame() {
        let mut policer = Policer::new(Tick(0));
        while policer.admit(Class::Other, Tick(0)) {}
        let passed = (1..=1_000)
            .flat_map(|t| [t; 50])
            .filter(|&t| policer.admit(Class::Other, Tick(t)))
            .count();
        assert_eq!(passed, 5_000, "500 a second for ten seconds");
    }

    #[test]
    fn a_clock_that_steps_back_earns_nothing() {
        let mut policer = Policer::new(Tick(1_000));
        while policer.admit(Class::Icmp, Tick(1_000)) {}
        assert!(!policer.admit(Class::Icmp, Tick(500)));
        assert!(!policer.admit(Class::Icmp, Tick(1_000)));
        assert!(policer.admit(Class::Icmp, Tick(1_001)));
    }

    #[test]
    fn ticks_may_wrap() {
        let mut policer = Policer::new(Tick(u32::MAX));
        while policer.admit(Class::Icmp, Tick(u32::MAX)) {}
        assert!(policer.admit(Class::Icmp, Tick(1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_bytes_have_a_class(
            head in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x8100, 0x88a8, 0x0806, 40]),
            bytes in prop::collection::vec(any::<u8>(), 0..120),
            cut in 0_usize..140,
        ) {
            let mut frame = ether(head, &bytes);
            frame.truncate(cut);
            let _ = classify(&frame);
        }

        #[test]
        fn a_cut_frame_is_of_its_class_or_less(cut in 0_usize..62) {
            let whole = ipv6(0, &[vec![6, 0, 1, 4, 0, 0, 0, 0], ports(179, 1)].concat());
            let class = classify(&whole[..cut.min(whole.len())]);
            prop_assert!(matches!(class, Class::Routing | Class::Local | Class::Other));
        }

        /// The oracle is the definition: tokens as a fraction, earned continuously, capped at the burst.
        #[test]
        fn the_bucket_agrees_with_its_definition(
            per_second in 1_u32..5_000,
            burst in 1_u32..50,
            steps in prop::collection::vec((0_u32..40, 0_usize..20), 1..60),
        ) {
            let mut policer = Policer::with_limits([Limit { per_second, burst }; Class::COUNT], Tick(0));
            let (mut now, mut tokens) = (0_u32, u64::from(burst) * 100);
            for (wait, frames) in steps {
                now += wait;
                tokens = (tokens + u64::from(wait) * u64::from(per_second)).min(u64::from(burst) * 100);
                for _ in 0..frames {
                    let expected = tokens >= 100;
                    if expected { tokens -= 100; }
                    prop_assert_eq!(policer.admit(Class::Nd, Tick(now)), expected);
                }
            }
        }
    }
}
