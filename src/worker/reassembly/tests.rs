//! The store against its bounds, against a naive model, and over real captures.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::net::build::{self, Frame as Build};
use crate::net::packet::proto;
use crate::net::{L3, parse, pcap};

const P: PortId = PortId(3);

/// A frame with a number, so that each can be told from the others.
#[derive(Debug)]
struct Tagged {
    tag: u32,
    bytes: Vec<u8>,
}

impl PacketBuf for Tagged {
    fn data(&self) -> &[u8] {
        &self.bytes
    }
    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
    fn prepend(&mut self, _: usize) -> Option<&mut [u8]> {
        None
    }
    fn trim_front(&mut self, n: usize) {
        self.bytes.drain(..n);
    }
    fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        let from = self.bytes.len();
        self.bytes.resize(from + n, 0);
        Some(&mut self.bytes[from..])
    }
    fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }
}

/// What became of a fragment: `None` while it is held, else the tags of its datagram's frames and the bytes from the
/// transport header on.
type Whole = Option<(Vec<u32>, Vec<u8>)>;

/// A store with a record of what came out of it.
struct Rig {
    store: Reassembly<Tagged>,
    now: Tick,
    next_tag: u32,
    lost: Vec<(u32, DropReason)>,
    given: usize,
    complete: usize,
}

impl Rig {
    fn new() -> Self {
        Self {
            store: Reassembly::new(HashKey::from_seed(7)),
            now: Tick(u32::MAX - 100),
            next_tag: 0,
            lost: Vec::new(),
            given: 0,
            complete: 0,
        }
    }

    fn add(&mut self, info: &FragmentInfo, bytes: &[u8]) -> Whole {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.given += 1;
        let buf = Tagged {
            tag,
            bytes: bytes.to_vec(),
        };
        let (lost, mut gone) = (&mut self.lost, false);
        let added = self.store.add(self.now, P, info, buf, |l| {
            assert_eq!(l.ingress, P);
            gone |= l.buf.tag == tag;
            lost.push((l.buf.tag, l.reason));
        });
        assert_eq!(matches!(added, Added::Lost), gone);
        let whole = match added {
            Added::Complete(datagram) => {
                self.complete += datagram.pieces.len();
                Some(taken(datagram))
            }
            Added::Held | Added::Lost => None,
        };
        self.check();
        whole
    }

    /// A frame as from the wire.
    fn feed(&mut self, frame: &[u8]) -> Whole {
        self.add(&info_of(frame), frame)
    }

    fn expire(&mut self, budget: usize) -> usize {
        let lost = &mut self.lost;
        let ended = self
            .store
            .expire(self.now, budget, |l| lost.push((l.buf.tag, l.reason)));
        self.check();
        ended
    }

    fn drain(&mut self) {
        let lost = &mut self.lost;
        self.store.drain(|l| lost.push((l.buf.tag, l.reason)));
        assert_eq!((self.store.held(), self.store.datagrams()), (0, 0));
        assert_eq!(self.store.next_deadline(), None);
        assert_eq!(self.store.free_sources.len(), DATAGRAMS_MAX);
        self.check();
    }

    /// Every frame is in one place, and the bounds hold.
    fn check(&self) {
        assert_eq!(
            self.given,
            self.complete + self.lost.len() + self.store.held()
        );
        assert!(self.store.held() <= FRAMES_MAX && self.store.datagrams() <= DATAGRAMS_MAX);
    }

    fn lost_for(&self, reason: DropReason) -> usize {
        self.lost.iter().filter(|(_, r)| *r == reason).count()
    }
}

fn taken(datagram: Datagram<Tagged>) -> (Vec<u32>, Vec<u8>) {
    let mut at = 0;
    for piece in &datagram.pieces {
        assert_eq!(piece.offset, at, "pieces come in order, without gaps");
        at += piece.len;
    }
    assert_eq!(at, datagram.len);
    let mut out = Vec::with_capacity(DATAGRAM_BYTES_MAX as usize);
    let carried = datagram.len - datagram.transport;
    let pieces = datagram.from_transport();
    gather(&pieces, &mut out);
    assert_eq!(out.len(), usize::from(carried));
    (pieces.iter().map(|p| p.buf.tag).collect(), out)
}

fn info_of(frame: &[u8]) -> FragmentInfo {
    match parse(frame).expect("a whole frame").l3 {
        L3::V4(ip) => FragmentInfo::of(&ip),
        L3::V6(ip) => FragmentInfo::of(&ip),
        L3::Other(_) => None,
    }
    .expect("a fragment")
}

fn at(s: &str) -> SocketAddr {
    s.parse().expect("a socket address in a test")
}

fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
    if v6 {
        (at("[2001:db8:9::7]:40000"), at("[2001:db8:1::10]:5060"))
    } else {
        (at("198.51.100.7:40000"), at("192.0.2.10:5060"))
    }
}

fn message(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// The UDP header and payload of an unfragmented frame.
fn transport_of(frame: &[u8]) -> Vec<u8> {
    let (l4, end) = match parse(frame).expect("a whole frame").l3 {
        L3::V4(ip) => (ip.l4, ip.end),
        L3::V6(ip) => (ip.l4, ip.end),
        L3::Other(_) => panic!("an IP frame"),
    };
    frame[usize::from(l4)..usize::from(end)].to_vec()
}

/// A fragment made by hand: UDP from `src` in IPv4, in a frame that is its payload and nothing else.
fn by_hand(src: u32, id: u32, offset: u16, len: u16, more: bool) -> FragmentInfo {
    FragmentInfo {
        key: DatagramKey {
            af: Af::V4,
            src: Addr6([u64::from(src), 0]),
            dst: Addr6([1, 0]),
            id,
            proto: proto::UDP,
        },
        proto: proto::UDP,
        payload: 0,
        len,
        offset,
        more,
        l4: 0,
        l4_whole: true,
        header_len: 20,
    }
}

#[test]
fn a_datagram_comes_out_in_order_when_its_last_fragment_came() {
    for v6 in [false, true] {
        let (src, dst) = ends(v6);
        let frame = Build::new().id(77).udp(src, dst, &message(4000));
        let pieces = build::fragment(&frame, 1400);
        assert_eq!(pieces.len(), 3);
        let mut rig = Rig::new();
        assert_eq!(rig.feed(&pieces[2]), None);
        assert_eq!(rig.feed(&pieces[0]), None);
        assert_eq!((rig.store.held(), rig.store.datagrams()), (2, 1));
        let whole = rig.feed(&pieces[1]).expect("complete");
        assert_eq!(whole, (vec![1, 2, 0], transport_of(&frame)));
        assert_eq!((rig.store.held(), rig.store.datagrams()), (0, 0));
        assert_eq!(rig.store.next_deadline(), None);
    }
}

#[test]
fn the_transport_header_behind_fragmented_destination_options_is_found() {
    let (src, dst) = ends(true);
    let frame = Build::new()
        .extension(60, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        .udp(src, dst, &message(3000));
    let expected = transport_of(&frame);
    let mut rig = Rig::new();
    let pieces = build::fragment(&frame, 1280);
    for piece in &pieces[..2] {
        assert_eq!(rig.feed(piece), None);
    }
    assert_eq!(rig.feed(&pieces[2]).map(|w| w.1), Some(expected));
}

#[test]
fn datagrams_with_other_keys_do_not_mix() {
    let base = by_hand(9, 1, 0, 8, true);
    let mut others = [base; 5];
    others[0].key.src = Addr6([10, 0]);
    others[1].key.dst = Addr6([2, 0]);
    others[2].key.id = 2;
    others[3].key.proto = 132;
    others[4].key.af = Af::V6;
    for other in others {
        let mut rig = Rig::new();
        let last = FragmentInfo {
            offset: 8,
            more: false,
            ..other
        };
        rig.add(&base, &[0; 8]);
        assert_eq!(rig.add(&last, &[1; 8]), None);
        assert_eq!(rig.store.datagrams() + rig.lost.len(), 2);
    }
}

#[test]
fn ipv6_fragments_with_other_next_headers_are_one_datagram() {
    let (src, dst) = ends(true);
    let frame = Build::new().udp(src, dst, &message(2000));
    let mut pieces = build::fragment(&frame, 1280);
    pieces[1][14 + 40] = 60;
    let mut rig = Rig::new();
    rig.feed(&pieces[1]);
    assert_eq!(
        rig.feed(&pieces[0]).map(|w| w.1),
        Some(transport_of(&frame))
    );
}

#[test]
fn an_overlap_of_one_byte_refuses_the_datagram_and_all_that_still_comes_of_it() {
    // Each list: the fragments (offset, length, more) of one datagram, of which the last one overlaps.
    let lists: [&[(u16, u16, bool)]; 6] = [
        &[(0, 16, true), (8, 16, true)],
        &[(8, 16, true), (0, 16, true)],
        &[(16, 1, false), (8, 16, true)],
        &[(16, 8, false), (24, 8, true)],
        &[(16, 8, true), (8, 8, false)],
        &[(16, 9, false), (16, 8, false)],
    ];
    for list in lists {
        let mut rig = Rig::new();
        for &(offset, len, more) in list {
            let info = by_hand(1, 1, offset, len, more);
            assert_eq!(rig.add(&info, &vec![0; usize::from(len)]), None);
        }
        assert_eq!(
            rig.lost_for(DropReason::FragmentOverlap),
            list.len(),
            "{list:?}"
        );
        assert_eq!((rig.store.held(), rig.store.datagrams()), (0, 1));
        rig.add(&by_hand(1, 1, 800, 8, true), &[0; 8]);
        assert_eq!(rig.lost_for(DropReason::FragmentOverlap), list.len() + 1);
        rig.now = rig.now.plus(TIMEOUT_V4);
        rig.expire(usize::MAX);
        rig.add(&by_hand(1, 1, 0, 8, true), &[0; 8]);
        assert_eq!(rig.store.held(), 1, "the key is free again");
    }
}

#[test]
fn an_exact_duplicate_goes_alone_and_one_that_differs_takes_the_datagram_along() {
    let mut rig = Rig::new();
    let (first, last) = (by_hand(1, 1, 0, 8, true), by_hand(1, 1, 8, 5, false));
    rig.add(&last, b"world");
    rig.add(&last, b"world");
    rig.add(&first, b"headers ");
    assert_eq!(rig.lost, [(1, DropReason::FragmentDuplicate)]);
    rig.add(&last, b"world");
    rig.add(&last, b"World");
    assert_eq!(rig.lost_for(DropReason::FragmentOverlap), 2);
}

#[test]
fn fragments_that_are_wrong_by_themselves_leave_no_trace() {
    let good = by_hand(1, 1, 0, 24, true);
    let tcp = |offset, len| {
        let mut info = by_hand(1, 1, offset, len, true);
        (info.proto, info.key.proto) = (proto::TCP, proto::TCP);
        info
    };
    let table = [
        (by_hand(1, 1, 0, 0, true), DropReason::Fragment),
        (by_hand(1, 1, 8, 0, false), DropReason::Fragment),
        (by_hand(1, 1, 8, 12, true), DropReason::Fragment),
        (by_hand(1, 1, 4, 8, true), DropReason::Fragment),
        (by_hand(1, 1, 0, 8, false), DropReason::Fragment),
        (by_hand(1, 1, 8, 4001, false), DropReason::Fragment),
        (
            FragmentInfo {
                payload: 3999,
                ..good
            },
            DropReason::Fragment,
        ),
        (by_hand(1, 1, 65_528, 8, false), DropReason::FragmentTooBig),
        (by_hand(1, 1, 65_512, 4, false), DropReason::FragmentTooBig),
        (
            FragmentInfo {
                l4_whole: false,
                ..good
            },
            DropReason::FragmentTiny,
        ),
        (FragmentInfo { l4: 20, ..good }, DropReason::FragmentTiny),
        (
            FragmentInfo {
                payload: 8,
                l4: 0,
                ..good
            },
            DropReason::FragmentTiny,
        ),
        (tcp(0, 16), DropReason::FragmentTiny),
        (tcp(8, 64), DropReason::FragmentTiny),
        (tcp(16, 64), DropReason::FragmentTiny),
    ];
    for (info, reason) in table {
        let mut rig = Rig::new();
        rig.add(&info, &[0; 4000]);
        assert_eq!(rig.lost, [(0, reason)], "{info:?}");
        assert_eq!(rig.store.datagrams(), 0);
    }
    for (info, what) in [(tcp(0, 24), "24 bytes of TCP"), (tcp(24, 8), "a later one")] {
        let mut rig = Rig::new();
        rig.add(&info, &[0; 4000]);
        assert_eq!(rig.store.held(), 1, "{what}");
    }
}

#[test]
fn a_datagram_of_65535_bytes_completes_and_one_more_byte_is_too_much() {
    for (extra, complete) in [(0, true), (1, false)] {
        let mut rig = Rig::new();
        let len = 65_535 - 20 - 64_000 + extra;
        rig.add(&by_hand(1, 1, 0, 32_000, true), &[0; 32_000]);
        rig.add(&by_hand(1, 1, 32_000, 32_000, true), &[0; 32_000]);
        let last = by_hand(1, 1, 64_000, len, false);
        assert_eq!(
            rig.add(&last, &vec![0; usize::from(len)]).is_some(),
            complete
        );
        assert_eq!(rig.lost_for(DropReason::FragmentTooBig), usize::from(extra));
    }
}

#[test]
fn options_of_the_first_fragment_count_towards_the_datagrams_length() {
    let mut rig = Rig::new();
    rig.add(&by_hand(1, 1, 32_000, 33_515, false), &[0; 33_515]);
    let mut first = by_hand(1, 1, 0, 32_000, true);
    first.header_len = 24;
    assert_eq!(rig.add(&first, &[0; 32_000]), None);
    assert_eq!(rig.lost_for(DropReason::FragmentTooBig), 2);
}

#[test]
fn a_65th_fragment_refuses_its_datagram() {
    let mut rig = Rig::new();
    for n in 0..FRAGMENTS_MAX as u16 {
        rig.add(&by_hand(1, 1, n * 8, 8, true), &[0; 8]);
    }
    assert_eq!(rig.store.held(), FRAGMENTS_MAX);
    rig.add(&by_hand(1, 1, 0, 8, true), &[0; 8]);
    assert_eq!(rig.lost, [(64, DropReason::FragmentDuplicate)]);
    rig.add(&by_hand(1, 1, 8 * 64, 8, false), &[0; 8]);
    assert_eq!(rig.lost_for(DropReason::FragmentTooBig), FRAGMENTS_MAX + 1);
    rig.add(&by_hand(1, 2, 8, 8, true), &[0; 8]);
    let mut whole = None;
    for n in 0..FRAGMENTS_MAX as u16 {
        let last = n as usize + 1 == FRAGMENTS_MAX;
        whole = rig.add(&by_hand(1, 3, n * 8, 8, !last), &[0; 8]);
    }
    assert_eq!(whole.map(|w| w.0.len()), Some(FRAGMENTS_MAX));
}

#[test]
fn a_full_table_lets_its_oldest_datagram_go() {
    let mut rig = Rig::new();
    for n in 0..=DATAGRAMS_MAX as u32 {
        rig.add(&by_hand(n, 1, 0, 8, true), &[0; 8]);
    }
    assert_eq!(rig.store.datagrams(), DATAGRAMS_MAX);
    assert_eq!(rig.lost, [(0, DropReason::FragmentTableFull)]);
}

#[test]
fn the_oldest_is_the_oldest_of_both_families() {
    let mut rig = Rig::new();
    for n in 0..DATAGRAMS_MAX as u32 + 3 {
        let mut info = by_hand(n, 1, 0, 8, true);
        if n % 2 == 0 {
            info.key.af = Af::V6;
        }
        rig.add(&info, &[0; 8]);
    }
    assert_eq!(rig.lost.iter().map(|l| l.0).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn full_frames_let_the_oldest_other_datagram_go() {
    let mut rig = Rig::new();
    let per = FRAGMENTS_MAX as u32 - 1;
    let mut n = 0;
    while rig.store.held() < FRAMES_MAX {
        let offset = (n % per) as u16 * 8;
        rig.add(&by_hand(n / per, 1, offset, 8, true), &[0; 8]);
        n += 1;
    }
    assert!(rig.lost.is_empty());
    // The oldest of all asks for one more: the second oldest pays.
    rig.add(&by_hand(0, 1, per as u16 * 8, 8, true), &[0; 8]);
    assert_eq!(rig.lost_for(DropReason::FragmentTableFull), per as usize);
    assert!(rig.lost.iter().all(|(tag, _)| tag / per == 1));
    assert_eq!(rig.store.held(), FRAMES_MAX - per as usize + 1);
}

#[test]
fn one_source_has_64_datagrams_and_displaces_only_its_own() {
    let mut rig = Rig::new();
    rig.add(&by_hand(1, 0, 0, 8, true), &[0; 8]);
    for n in 0..5_000 {
        rig.add(&by_hand(2, n, 0, 8, true), &[0; 8]);
    }
    assert_eq!(rig.store.datagrams(), 1 + SOURCE_DATAGRAMS_MAX);
    assert_eq!(
        rig.lost_for(DropReason::FragmentSourceLimit),
        5_000 - SOURCE_DATAGRAMS_MAX
    );
    assert!(rig.add(&by_hand(1, 0, 8, 8, false), &[0; 8]).is_some());
}

#[test]
fn a_flood_that_never_completes_does_not_stop_a_datagram_that_comes_in_one_go() {
    let mut rig = Rig::new();
    for n in 0..20_000_u32 {
        rig.add(
            &by_hand(n, n & 0xffff, (n % 50) as u16 * 8, 8, true),
            &[0; 8],
        );
        if n % 97 == 0 {
            // Even with a few hundred of the flood's between its fragments.
            let id = n & 0xffff;
            rig.add(&by_hand(u32::MAX, id, 0, 8, true), &[1; 8]);
            for m in 0..300 {
                rig.add(&by_hand(1_000_000 + 400 * n + m, 9, 0, 8, true), &[0; 8]);
            }
            assert!(
                rig.add(&by_hand(u32::MAX, id, 8, 3, false), &[2; 3])
                    .is_some()
            );
        }
    }
    rig.drain();
}

#[test]
fn a_flood_of_full_datagrams_from_one_source_does_not_either() {
    let mut rig = Rig::new();
    for n in 0..20_000_u32 {
        let info = by_hand(5, n / 63, (n % 63) as u16 * 8, 8, true);
        rig.add(&info, &[0; 8]);
        if n % 101 == 0 {
            rig.add(&by_hand(6, n, 0, 8, true), &[1; 8]);
            assert!(rig.add(&by_hand(6, n, 8, 3, false), &[2; 3]).is_some());
        }
    }
    assert!(rig.store.held() <= SOURCE_DATAGRAMS_MAX * 63);
    rig.drain();
}

#[test]
fn fragments_wait_30_seconds_in_ipv4_and_60_in_ipv6() {
    let mut rig = Rig::new();
    let start = rig.now;
    let v4 = by_hand(1, 1, 8, 8, true);
    let mut v6 = v4;
    v6.key.af = Af::V6;
    rig.add(&v6, &[0; 8]);
    rig.now = start.plus(1);
    rig.add(&v4, &[0; 8]);
    assert_eq!(rig.store.next_deadline(), Some(start.plus(1 + 3_000)));
    rig.now = start.plus(3_000);
    assert_eq!(rig.expire(usize::MAX), 0);
    rig.now = start.plus(3_001);
    assert_eq!(rig.expire(usize::MAX), 1);
    assert_eq!(rig.lost, [(1, DropReason::FragmentTimeout)]);
    assert_eq!(rig.store.next_deadline(), Some(start.plus(6_000)));
    rig.now = start.plus(5_999);
    assert_eq!(rig.expire(usize::MAX), 0);
    rig.now = start.plus(6_000);
    assert_eq!(rig.expire(usize::MAX), 1);
    assert_eq!(rig.store.next_deadline(), None);
}

#[test]
fn later_fragments_do_not_lengthen_the_wait_and_late_ones_begin_anew() {
    let mut rig = Rig::new();
    rig.add(&by_hand(1, 1, 0, 8, true), &[0; 8]);
    rig.now = rig.now.plus(TIMEOUT_V4 - 1);
    rig.add(&by_hand(1, 1, 8, 8, true), &[0; 8]);
    rig.now = rig.now.plus(1);
    assert_eq!(rig.add(&by_hand(1, 1, 16, 8, false), &[0; 8]), None);
    assert_eq!(rig.lost_for(DropReason::FragmentTimeout), 2);
    assert_eq!(rig.store.held(), 1);
}

#[test]
fn the_end_of_many_is_shared_out_and_the_first_fragment_leads() {
    let mut rig = Rig::new();
    for n in 0..100 {
        rig.add(&by_hand(n, 1, 8, 8, true), &[0; 8]);
        rig.add(&by_hand(n, 1, 0, 8, true), &[0; 8]);
    }
    rig.now = rig.now.plus(TIMEOUT_V4);
    let mut offsets = Vec::new();
    let ended = rig.store.expire(rig.now, 30, |l| {
        assert_eq!(l.reason, DropReason::FragmentTimeout);
        offsets.push(l.offset);
    });
    assert_eq!((ended, offsets), (30, [0, 8].repeat(30)));
    assert_eq!(rig.store.held(), 140);
    assert_eq!(rig.store.expire(rig.now, usize::MAX, |_| {}), 70);
}

#[test]
fn an_atomic_fragment_and_a_whole_packet_are_none() {
    let (src, dst) = ends(false);
    let frame = Build::new().udp(src, dst, &message(10));
    let L3::V4(mut ip) = parse(&frame).expect("a whole frame").l3 else {
        panic!("IPv4")
    };
    assert_eq!(FragmentInfo::of(&ip), None);
    ip.fragment = Some(crate::net::Fragment {
        id: 1,
        offset: 0,
        more: false,
        header: 0,
    });
    assert_eq!(FragmentInfo::of(&ip), None);
}

#[test]
fn ipv4_options_are_header_and_not_payload() {
    let (src, dst) = ends(false);
    let frame = Build::new()
        .ip_options(&[148, 4, 0, 0])
        .udp(src, dst, &message(2000));
    let mut rig = Rig::new();
    let pieces = build::fragment(&frame, 1400);
    assert_eq!(info_of(&pieces[1]).header_len, 24);
    assert_eq!(rig.feed(&pieces[1]), None);
    assert_eq!(
        rig.feed(&pieces[0]).map(|w| w.1),
        Some(transport_of(&frame))
    );
}

#[test]
fn a_store_never_grows_beyond_what_it_was_made_with() {
    let sizes = |s: &Reassembly<Tagged>| {
        [&s.free_frames, &s.free_entries, &s.free_sources].map(Vec::capacity)
    };
    let mut rig = Rig::new();
    let before = sizes(&rig.store);
    for n in 0..10_000 {
        rig.add(&by_hand(n % 3_000, n, (n % 7) as u16 * 8, 8, true), &[0; 8]);
    }
    rig.drain();
    assert_eq!(sizes(&rig.store), before);
}

#[test]
fn memory_is_what_the_documentation_says() {
    // The buffers of all devices are no larger than this one's handle.
    let bytes = Reassembly::<crate::io::mem::MemBuf>::MEMORY_BYTES;
    println!("{bytes} bytes");
    assert!((250_000..350_000).contains(&bytes), "{bytes} bytes");
}

/// A datagram as a naive implementation keeps it: a byte map.
struct ModelDatagram {
    born: Tick,
    bytes: Vec<Option<u8>>,
    fragments: Vec<(u32, FragmentInfo, Vec<u8>)>,
    total: Option<usize>,
    refused: bool,
}

/// What the model says becomes of one fragment, tags in the order of offsets.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    lost: Vec<(u32, DropReason)>,
    whole: Whole,
}

#[derive(Default)]
struct Model(BTreeMap<(u32, bool), ModelDatagram>);

impl Model {
    fn tags(d: &ModelDatagram) -> Vec<u32> {
        let mut by_offset: Vec<_> = d.fragments.iter().map(|f| (f.1.offset, f.0)).collect();
        by_offset.sort_unstable();
        by_offset.into_iter().map(|(_, tag)| tag).collect()
    }

    fn add(&mut self, now: Tick, tag: u32, info: &FragmentInfo, payload: &[u8]) -> Outcome {
        let mut out = Outcome::default();
        let (from, to) = (usize::from(info.offset), info.end() as usize);
        let wrong = info.len == 0
            || (info.more && !info.len.is_multiple_of(8))
            || (from == 0 && !info.more);
        if wrong {
            out.lost.push((tag, DropReason::Fragment));
            return out;
        }
        let key = (info.key.id, info.key.af == Af::V6);
        let timeout = if key.1 { TIMEOUT_V6 } else { TIMEOUT_V4 };
        if let Some(d) = self.0.get(&key)
            && now.reached(d.born.plus(timeout))
        {
            let late = Self::tags(d).into_iter();
            out.lost
                .extend(late.map(|t| (t, DropReason::FragmentTimeout)));
            self.0.remove(&key);
        }
        let d = self.0.entry(key).or_insert_with(|| ModelDatagram {
            born: now,
            bytes: vec![None; 65_536],
            fragments: Vec::new(),
            total: None,
            refused: false,
        });
        if d.refused {
            out.lost.push((tag, DropReason::FragmentOverlap));
            return out;
        }
        let same = |f: &(u32, FragmentInfo, Vec<u8>)| f.1 == *info && f.2 == payload;
        if d.fragments.iter().any(same) {
            out.lost.push((tag, DropReason::FragmentDuplicate));
            return out;
        }
        let overlaps = d.bytes[from..to].iter().any(Option::is_some)
            || d.total.is_some_and(|t| to > t || !info.more)
            || !info.more && d.bytes[to..].iter().any(Option::is_some);
        if overlaps {
            let all = Self::tags(d).into_iter().chain([tag]);
            out.lost
                .extend(all.map(|t| (t, DropReason::FragmentOverlap)));
            d.refused = true;
            d.fragments.clear();
            return out;
        }
        for (cell, byte) in d.bytes[from..to].iter_mut().zip(payload) {
            *cell = Some(*byte);
        }
        d.fragments.push((tag, *info, payload.to_vec()));
        if !info.more {
            d.total = Some(to);
        }
        if let Some(total) = d.total
            && let Some(bytes) = d.bytes[..total].iter().copied().collect::<Option<Vec<_>>>()
        {
            out.whole = Some((Self::tags(d), bytes));
            self.0.remove(&key);
        }
        out
    }
}

#[derive(Clone, Debug)]
struct Op {
    id: u32,
    v6: bool,
    units: (u16, u16),
    cut: u16,
    more: bool,
    odd: bool,
    wait: u32,
}

fn op() -> impl Strategy<Value = Op> {
    let wait = prop_oneof![8 => Just(0), 1 => 0..2_000u32];
    let odd = prop::bool::weighted(0.05);
    let more = prop::bool::weighted(0.7);
    let cut = prop_oneof![5 => Just(0), 1 => 0..9u16];
    (
        0..3u32,
        any::<bool>(),
        (0..5u16, 1..3u16),
        cut,
        more,
        odd,
        wait,
    )
        .prop_map(|(id, v6, units, cut, more, odd, wait)| Op {
            id,
            v6,
            units,
            cut,
            more,
            odd,
            wait,
        })
}

/// Fragments that tile a datagram, shuffled, with some repeated and some left out.
fn shuffled() -> impl Strategy<Value = (usize, usize, bool, Vec<usize>)> {
    (9..9_000usize, 4..180usize, any::<bool>()).prop_flat_map(|(len, units, v6)| {
        let mtu = (units * 8).max(len / 50);
        let n = (len + 8).div_ceil(mtu / 8 * 8);
        let order = Just((0..n).collect::<Vec<_>>()).prop_shuffle();
        (Just(len), Just(mtu), Just(v6), order)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_list_of_fragments_has_the_fate_that_a_byte_map_gives_it(
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let (mut rig, mut model) = (Rig::new(), Model::default());
        for op in ops {
            rig.now = rig.now.plus(op.wait);
            let mut info = by_hand(1, op.id, op.units.0 * 8, op.units.1 * 8 - op.cut, op.more);
            if op.v6 {
                info.key.af = Af::V6;
            }
            let mut bytes: Vec<u8> =
                (0..info.len).map(|i| ((info.offset + i) % 251) as u8).collect();
            if op.odd && let Some(b) = bytes.first_mut() {
                *b ^= 0x80;
            }
            let (tag, before) = (rig.next_tag, rig.lost.len());
            let expected = model.add(rig.now, tag, &info, &bytes);
            let whole = rig.add(&info, &bytes);
            let seen = Outcome { lost: rig.lost[before..].to_vec(), whole };
            prop_assert_eq!(seen, expected);
        }
        rig.drain();
    }

    #[test]
    fn every_order_of_a_datagrams_fragments_gives_the_same_bytes(
        (len, mtu, v6, order) in shuffled(),
        again in any::<prop::sample::Index>(),
        tagged in any::<bool>(),
    ) {
        let (src, dst) = ends(v6);
        let build = Build::new().id(5);
        let build = if tagged { build.vlan(9) } else { build };
        let frame = build.udp(src, dst, &message(len));
        let head = if v6 { 48 } else { 20 };
        let pieces = build::fragment(&frame, mtu / 8 * 8 + head);
        prop_assume!(pieces.len() > 1);
        prop_assert_eq!(pieces.len(), order.len());
        let mut rig = Rig::new();
        let (last, others) = order.split_last().expect("two at least");
        for &i in others {
            prop_assert_eq!(rig.feed(&pieces[i]), None);
        }
        prop_assert_eq!(rig.feed(&pieces[others[again.index(others.len())]]), None);
        prop_assert_eq!(rig.lost_for(DropReason::FragmentDuplicate), 1);
        let whole = rig.feed(&pieces[*last]).map(|w| w.1);
        prop_assert_eq!(whole, Some(transport_of(&frame)));
        prop_assert_eq!(rig.store.held(), 0);
    }

    #[test]
    fn nothing_that_a_fragment_may_say_upsets_the_store(
        list in prop::collection::vec(
            (any::<[u16; 5]>(), any::<[bool; 3]>(), 0..4u32, any::<u8>(), 0..3_000usize), 1..60),
    ) {
        let mut rig = Rig::new();
        for ([payload, len, offset, l4, header_len], [more, l4_whole, small], id, proto, frame) in list {
            let mut info = by_hand(1, id, offset, len, more);
            (info.payload, info.l4, info.header_len) = (payload, l4, header_len);
            (info.l4_whole, info.proto) = (l4_whole, proto);
            if small {
                (info.payload, info.l4, info.header_len) = (payload % 64, l4 % 64, header_len % 64);
                (info.len, info.offset) = (len & 0x3c, offset & 0x38);
            }
            rig.add(&info, &vec![0; frame]);
        }
        rig.drain();
    }
}

fn captures() -> Option<Vec<PathBuf>> {
    let shared = std::env::var_os("POLDER_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let data = shared.join("data/pcap");
    let Ok(folders) = std::fs::read_dir(&data) else {
        eprintln!("SKIPPED: there are no captures in {}.", data.display());
        return None;
    };
    let folders = folders.map(|e| e.expect("an entry").path());
    let mut all = Vec::new();
    for folder in folders.filter(|path| path.is_dir()) {
        let entries = std::fs::read_dir(folder).expect("a folder");
        all.extend(entries.map(|e| e.expect("an entry").path()));
    }
    all.sort();
    Some(all)
}

#[test]
fn fragments_of_real_captures_all_come_out_again() {
    let Some(captures) = captures() else { return };
    let (mut fragments, mut datagrams) = (0, 0);
    let mut reasons = BTreeMap::new();
    for path in captures {
        let file = std::fs::File::open(&path).expect("it is there");
        let Ok(mut reader) = pcap::Reader::open_ethernet(file) else {
            continue;
        };
        let (mut rig, mut frame, mut whole) = (Rig::new(), Vec::new(), 0);
        while let Ok(Some(_)) = reader.next(&mut frame) {
            let info = match parse(&frame).map(|p| p.l3) {
                Ok(L3::V4(ip)) => FragmentInfo::of(&ip),
                Ok(L3::V6(ip)) => FragmentInfo::of(&ip),
                _ => None,
            };
            if let Some(info) = info {
                whole += usize::from(rig.add(&info, &frame).is_some());
            }
        }
        rig.drain();
        if rig.given > 0 {
            let name = path.file_name().expect("a file").display();
            println!(
                "{name}: {} fragments, {whole} datagrams whole, {} in them",
                rig.given, rig.complete
            );
        }
        fragments += rig.given;
        datagrams += whole;
        for (_, reason) in &rig.lost {
            *reasons.entry(reason.name()).or_insert(0) += 1;
        }
    }
    println!("{fragments} fragments, {datagrams} datagrams whole, lost: {reasons:?}");
    assert!(fragments > 0 && datagrams > 0);
}
