//! The parser against an independent decoder, on every frame of the shared captures.
//!
//! Each capture under `pcap/` of the shared data has a row per frame under `oracle/`: the header fields as tshark
//! decodes them. Frames that it calls malformed are left out; on all others the outermost network and transport
//! fields agree, or the frame is refused for a reason that the row confirms.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use polder::net::icmp::{self, Embedded};
use polder::net::{DropReason, Family, Ip, L3, Packet, V4, V6, parse};

/// Why a difference from the oracle is right. Everything else is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Explained {
    /// The capture cut the frame, or the sender lied: the IP length goes beyond the bytes that are there. Headers
    /// that are there agree.
    LengthBeyondFrame,
    /// The packet ends behind the 65,535th byte of the frame, where 16-bit offsets don't reach.
    BeyondOffsets,
    /// A length of 0, which a capture on a host with segmentation offload has; on the wire it is wrong (RFC 791) or
    /// a jumbogram (RFC 2675).
    LengthZero,
    /// The IPv4 header checksum is wrong, and tshark says so too.
    Checksum,
    /// The frame has no usable header: it is cut, or is of another IP version than the layer below says. tshark shows
    /// no fields either, or those of a packet of the other version.
    BadHeader,
    /// More extension headers than the bound allows.
    TooManyExtensions,
    /// A source route option: tshark shows its last address as the destination, the parser the one in the header,
    /// which is where the packet goes.
    SourceRoute,
    /// A fragment header within a fragment: tshark goes on, the parser stops, since only the datagram put together
    /// has a transport header.
    NestedFragment,
}

#[test]
fn the_parser_agrees_with_an_independent_decoder_on_every_capture() {
    let shared = std::env::var_os("POLDER_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let data = shared.join("data");
    if !data.join("oracle").is_dir() {
        eprintln!("SKIPPED: no captures with an oracle in {}", data.display());
        return;
    }
    let mut report = Report::default();
    let mut oracles: Vec<_> = std::fs::read_dir(data.join("oracle"))
        .expect("the folder was seen")
        .map(|entry| entry.expect("a folder entry").path())
        .collect();
    oracles.sort();
    for oracle in oracles {
        compare_category(&data, &oracle, &mut report);
    }
    eprintln!("{report}");
    assert!(
        report.failures.is_empty(),
        "{} frames disagree",
        report.failures.len()
    );
    assert!(
        report.agreed > 10_000,
        "only {} frames were compared",
        report.agreed
    );
}

#[derive(Default)]
struct Report {
    agreed: usize,
    embedded: usize,
    malformed: usize,
    other_link: usize,
    unreadable: Vec<String>,
    explained: BTreeMap<Explained, usize>,
    failures: Vec<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} frames agree; {} quoted packets too",
            self.agreed, self.embedded
        )?;
        writeln!(
            f,
            "{} frames that tshark calls malformed left out",
            self.malformed
        )?;
        writeln!(f, "{} frames of other link types left out", self.other_link)?;
        writeln!(f, "captures not read: {:?}", self.unreadable)?;
        writeln!(f, "explained: {:?}", self.explained)?;
        for failure in self.failures.iter().take(40) {
            writeln!(f, "{failure}")?;
        }
        Ok(())
    }
}

fn compare_category(data: &Path, oracle: &Path, report: &mut Report) {
    let text = BufReader::new(MultiGzDecoder::new(File::open(oracle).expect("an oracle")));
    let mut lines = text
        .split(b'\n')
        .map(|line| String::from_utf8_lossy(&line.expect("a readable oracle")).into_owned());
    let columns: Vec<String> = lines
        .next()
        .expect("a header")
        .split('\t')
        .map(str::to_owned)
        .collect();
    let mut open: Option<(String, Capture, usize)> = None;
    for line in lines {
        let row = Row {
            columns: &columns,
            fields: line.split('\t').collect(),
        };
        let name = row.get("pcap");
        if open.as_ref().is_none_or(|(opened, ..)| opened != name) {
            open = Some((
                name.to_owned(),
                Capture::open(&data.join("pcap").join(name)),
                0,
            ));
        }
        let Some((_, capture, number)) = &mut open else {
            continue;
        };
        let wanted: usize = row.get("frame.number").parse().expect("a frame number");
        let mut frame = None;
        while *number < wanted {
            frame = capture.next();
            *number += 1;
        }
        match frame {
            None => report.unreadable.push(format!("{name}#{wanted}")),
            Some(_) if !row.get("_ws.malformed").is_empty() => report.malformed += 1,
            Some((link, bytes)) => match as_ethernet(link, &bytes) {
                None => report.other_link += 1,
                Some(frame) => judge(&row, &frame, report),
            },
        }
    }
}

fn judge(row: &Row, frame: &[u8], report: &mut Report) {
    match compare(row, frame) {
        Ok(None) => {
            report.agreed += 1;
            match compare_embedded(row, frame) {
                Ok(compared) => report.embedded += usize::from(compared),
                Err(difference) => report.fail(row, &difference),
            }
        }
        Ok(Some(explained)) => *report.explained.entry(explained).or_default() += 1,
        Err(difference) => report.fail(row, &difference),
    }
}

impl Report {
    fn fail(&mut self, row: &Row, difference: &str) {
        let (name, number) = (row.get("pcap"), row.get("frame.number"));
        self.failures.push(format!(
            "{name}#{number}: {difference} ({})",
            row.get("frame.protocols")
        ));
    }
}

/// One row of an oracle.
struct Row<'a> {
    columns: &'a [String],
    fields: Vec<&'a str>,
}

impl Row<'_> {
    /// A column's text.
    fn get(&self, column: &str) -> &str {
        let at = self.columns.iter().position(|c| c == column);
        at.and_then(|at| self.fields.get(at).copied()).unwrap_or("")
    }

    /// The value of layer `nth` (0 the outermost) in a column, decimal or 0x-hexadecimal.
    fn number(&self, column: &str, nth: usize) -> Option<u64> {
        let text = self.get(column).split(';').nth(nth)?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    }

    fn addr(&self, column: &str, nth: usize) -> Option<IpAddr> {
        self.get(column).split(';').nth(nth)?.parse().ok()
    }

    /// The protocols as tshark names them, outermost first, without the link layer and VLAN tags, and how many tags
    /// there were.
    fn layers(&self) -> (Vec<&str>, usize) {
        let mut layers = self.get("frame.protocols").split(':').peekable();
        let mut tags = 0;
        while let Some(layer) = layers.next_if(|l| {
            matches!(
                *l,
                "eth" | "ethertype" | "vlan" | "ieee8021ad" | "sll" | "null" | "raw"
            )
        }) {
            tags += usize::from(matches!(layer, "vlan" | "ieee8021ad"));
        }
        (layers.collect(), tags)
    }
}

/// The transport protocol of the packet whose network layer is `layers[0]`.
fn transport_layer<'a>(layers: &[&'a str]) -> &'a str {
    layers[1..]
        .iter()
        .find(|l| !l.starts_with("ipv6."))
        .copied()
        .unwrap_or("")
}

type Verdict = Result<Option<Explained>, String>;

fn compare(row: &Row, frame: &[u8]) -> Verdict {
    let (layers, tags) = row.layers();
    let parsed = parse(frame);
    if let Ok(Packet { vlan, .. }) = parsed {
        compare_vlan(row, tags, vlan)?;
    }
    let l3 = 14 + 4 * tags.min(2);
    match (layers.first().copied().unwrap_or(""), parsed.map(|p| p.l3)) {
        ("ip", Ok(L3::V4(ip))) => compare_v4(row, &layers, frame, &ip, false),
        ("ipv6", Ok(L3::V6(ip))) => compare_v6(row, &layers, frame, &ip, false),
        ("ip", Err(DropReason::IpVersion)) if layers.get(1) == Some(&"ipv6") => {
            Ok(Some(Explained::BadHeader))
        }
        ("ip", Err(reason)) => refused::<V4>(row, &layers, frame, l3, reason),
        ("ipv6", Err(reason)) => refused::<V6>(row, &layers, frame, l3, reason),
        (network, Ok(L3::Other(kind))) if !matches!(network, "ip" | "ipv6") || tags > 2 => {
            if row.get("frame.protocols").starts_with("eth:ethertype") && tags == 0 {
                expect_if_known(row, "eth.type", u64::MAX, Some(u64::from(kind)))?;
            }
            Ok(None)
        }
        ("", Err(DropReason::EthShort)) if frame.len() < 14 => Ok(Some(Explained::BadHeader)),
        (network, seen) => Err(format!("{network} was read as {seen:?}")),
    }
}

/// The oracle has the identifiers of 802.1Q tags, also of those within tunnels, but not of 802.1ad ones.
fn compare_vlan(row: &Row, tags: usize, vlan: Option<u16>) -> Result<(), String> {
    match vlan {
        None if tags == 0 => Ok(()),
        Some(_)
            if row
                .get("frame.protocols")
                .starts_with("eth:ethertype:ieee8021ad") =>
        {
            Ok(())
        }
        _ => expect(row, "vlan.id", 0, vlan.map(u64::from)),
    }
}

/// Checks that a refusal has its cause in the row, and the fields of the headers that are there nevertheless.
fn refused<F: Family>(
    row: &Row,
    layers: &[&str],
    frame: &[u8],
    l3: usize,
    reason: DropReason,
) -> Verdict {
    let declared = match layers[0] {
        "ip" => row.number("ip.len", 0),
        _ => row
            .number("ipv6.plen", 0)
            .map(|len| if len == 0 { 0 } else { len + 40 }),
    };
    let there = frame.len() as u64 - l3 as u64;
    let length_at = l3 + if layers[0] == "ip" { 2 } else { 4 };
    let length_field = frame
        .get(length_at..)
        .and_then(|rest| rest.first_chunk::<2>());
    let explained = match (reason, declared) {
        (DropReason::IpChecksum, _) if row.number("ip.checksum.status", 0) == Some(0) => {
            Explained::Checksum
        }
        (DropReason::IpTotalLength, Some(_)) if length_field == Some(&[0, 0]) => {
            Explained::LengthZero
        }
        (DropReason::IpTotalLength | DropReason::IpShort, Some(len)) if len > there => {
            Explained::LengthBeyondFrame
        }
        (DropReason::IpTotalLength, Some(len)) if len + l3 as u64 > 65535 => {
            Explained::BeyondOffsets
        }
        // Where tshark found no length it found no header.
        (_, None) => Explained::BadHeader,
        (DropReason::IpExtension, Some(_))
            if layers.iter().filter(|l| l.starts_with("ipv6.")).count() > 8 =>
        {
            Explained::TooManyExtensions
        }
        _ => {
            return Err(format!(
                "refused: {reason:?}, declared {declared:?}, there {there}"
            ));
        }
    };
    if matches!(
        explained,
        Explained::LengthBeyondFrame | Explained::Checksum
    ) {
        // What there is of the headers must agree all the same.
        if F::AF == polder::net::Af::V4 {
            if let Ok(ip) = polder::net::parse::quoted::<V4>(frame, l3) {
                compare_v4(row, layers, frame, &ip, true)?;
            }
        } else if let Ok(ip) = polder::net::parse::quoted::<V6>(frame, l3) {
            compare_v6(row, layers, frame, &ip, true)?;
        }
    }
    Ok(Some(explained))
}

fn compare_v4(row: &Row, layers: &[&str], frame: &[u8], ip: &Ip<V4>, cut: bool) -> Verdict {
    let source_routed = is_source_routed(&frame[usize::from(ip.l3)..usize::from(ip.l4)]);
    if source_routed && expect_addrs(row, "ip", ip).is_err() {
        return Ok(Some(Explained::SourceRoute));
    }
    expect_addrs(row, "ip", ip)?;
    if !cut {
        expect(row, "ip.len", 0, Some(u64::from(ip.len())))?;
        if row.number("ip.checksum.status", 0) == Some(0) {
            return Err("accepted with a wrong header checksum".to_owned());
        }
    }
    expect(row, "ip.proto", 0, Some(u64::from(ip.flow.proto)))?;
    expect(row, "ip.hdr_len", 0, Some(u64::from(ip.l4 - ip.l3)))?;
    expect(row, "ip.ttl", 0, Some(u64::from(ip.ttl)))?;
    let place = ip.fragment.map_or((0, 0), |f| (f.offset, u8::from(f.more)));
    expect(row, "ip.frag_offset", 0, Some(u64::from(place.0 / 8)))?;
    expect(row, "ip.flags.mf", 0, Some(u64::from(place.1)))?;
    if let Some(fragment) = ip.fragment {
        expect(row, "ip.id", 0, Some(u64::from(fragment.id)))?;
    }
    compare_transport(row, layers, frame, ip)?;
    Ok(None)
}

/// Whether the header has a loose or strict source route among its options (RFC 791 §3.1).
fn is_source_routed(header: &[u8]) -> bool {
    let mut options = &header[20..];
    while let [kind, rest @ ..] = options {
        match (kind, rest.first()) {
            (131 | 137, _) => return true,
            (0, _) => return false,
            (1, _) => options = rest,
            (_, Some(len)) => options = options.get(usize::from(*len).max(2)..).unwrap_or(&[]),
            (_, None) => return false,
        }
    }
    false
}

fn compare_v6(row: &Row, layers: &[&str], frame: &[u8], ip: &Ip<V6>, cut: bool) -> Verdict {
    expect_addrs(row, "ipv6", ip)?;
    if !cut {
        expect(row, "ipv6.plen", 0, Some(u64::from(ip.len() - 40)))?;
    }
    if let Some(fragment) = ip.fragment {
        expect(
            row,
            "ipv6.fraghdr.offset",
            0,
            Some(u64::from(fragment.offset / 8)),
        )?;
        expect(row, "ipv6.fraghdr.more", 0, Some(u64::from(fragment.more)))?;
        if ip.flow.proto == 44 {
            return Ok(Some(Explained::NestedFragment));
        }
    }
    compare_transport(row, layers, frame, ip)?;
    Ok(None)
}

fn compare_transport<F: Family>(
    row: &Row,
    layers: &[&str],
    frame: &[u8],
    ip: &Ip<F>,
) -> Result<(), String> {
    let l4 = &frame[usize::from(ip.l4)..usize::from(ip.end)];
    let be = |at: usize, n: usize| {
        l4.get(at..at + n)
            .map(|b| b.iter().fold(0, |v, b| v << 8 | u64::from(*b)))
    };
    let ports = (u64::from(ip.flow.src_port), u64::from(ip.flow.dst_port));
    let layer = transport_layer(layers);
    match layer {
        "tcp" | "udp" | "sctp" => {
            expect(row, &format!("{layer}.srcport"), 0, Some(ports.0))?;
            expect(row, &format!("{layer}.dstport"), 0, Some(ports.1))?;
        }
        _ if ip.is_later_fragment() && (ports != (0, 0) || ip.l4_whole) => {
            return Err(format!("ports {ports:?} of a later fragment"));
        }
        _ => {}
    }
    match layer {
        "tcp" if ip.l4_whole => {
            expect_if_known(row, "tcp.flags", 0xff, Some(u64::from(ip.tcp_flags)))
        }
        "udp" => expect_if_known(row, "udp.length", u64::MAX, be(4, 2)),
        "sctp" => expect_if_known(row, "sctp.verification_tag", u64::MAX, be(4, 4)),
        "icmp" => {
            expect_if_known(row, "icmp.type", u64::MAX, be(0, 1))?;
            expect_if_known(row, "icmp.code", u64::MAX, be(1, 1))
        }
        "icmpv6" => {
            expect_if_known(row, "icmpv6.type", u64::MAX, be(0, 1))?;
            expect_if_known(row, "icmpv6.code", u64::MAX, be(1, 1))
        }
        _ => Ok(()),
    }
}

/// Compares the packet that an ICMP error quotes; `false` when there is none to compare.
fn compare_embedded(row: &Row, frame: &[u8]) -> Result<bool, String> {
    let (layers, _) = row.layers();
    let inner = layers
        .iter()
        .position(|l| matches!(*l, "icmp" | "icmpv6"))
        .map(|at| at + 1);
    let Some(quote) = inner
        .and_then(|at| layers.get(at..))
        .filter(|q| !q.is_empty())
    else {
        return Ok(false);
    };
    let quoted = match parse(frame).map(|p| p.l3) {
        Ok(L3::V4(ip)) if layers[0] == "ip" && layers[1] == "icmp" && quote[0] == "ip" => {
            icmp::embedded(frame, &ip).map(|e| e.map(|e| endpoints(&e)))
        }
        Ok(L3::V6(ip))
            if layers[0] == "ipv6" && layers.contains(&"icmpv6") && quote[0] == "ipv6" =>
        {
            icmp::embedded(frame, &ip).map(|e| e.map(|e| endpoints(&e)))
        }
        _ => return Ok(false),
    };
    let redirect =
        row.number("icmp.type", 0) == Some(5) || row.number("icmpv6.type", 0) == Some(137);
    let layer = transport_layer(quote);
    let network = quote[0];
    let ports = |which: &str| row.number(&format!("{layer}.{which}"), 0);
    match quoted {
        Ok(Some((src, dst, sport, dport))) => {
            let expected = (
                row.addr(&format!("{network}.src"), 1),
                row.addr(&format!("{network}.dst"), 1),
            );
            if expected != (Some(src), Some(dst)) {
                return Err(format!("quotes {src} -> {dst}, expected {expected:?}"));
            }
            let known = matches!(layer, "tcp" | "udp" | "sctp");
            let expected = (ports("srcport"), ports("dstport"));
            if known && expected != (Some(u64::from(sport)), Some(u64::from(dport))) {
                return Err(format!(
                    "quotes ports {sport} -> {dport}, expected {expected:?}"
                ));
            }
            Ok(true)
        }
        // An error of a kind that is not translated, a cut quote, or one without ports.
        Ok(None) if matches!(layer, "tcp" | "udp" | "sctp") && !redirect => Err(format!(
            "no quoted packet found, expected {layer} {:?}",
            ports("srcport")
        )),
        Err(reason) if matches!(layer, "tcp" | "udp" | "sctp") && ports("dstport").is_some() => {
            Err(format!("quoted packet refused: {reason:?}"))
        }
        Ok(None) | Err(_) => Ok(false),
    }
}

fn endpoints<F: Family>(e: &Embedded<F>) -> (IpAddr, IpAddr, u16, u16) {
    let flow = e.flow();
    (
        flow.src.into(),
        flow.dst.into(),
        flow.src_port,
        flow.dst_port,
    )
}

fn expect_addrs<F: Family>(row: &Row, network: &str, ip: &Ip<F>) -> Result<(), String> {
    let seen = (Some(ip.flow.src.into()), Some(ip.flow.dst.into()));
    let expected = (
        row.addr(&format!("{network}.src"), 0),
        row.addr(&format!("{network}.dst"), 0),
    );
    if seen == expected {
        Ok(())
    } else {
        Err(format!("addresses {seen:?}, expected {expected:?}"))
    }
}

fn expect(row: &Row, column: &str, nth: usize, seen: Option<u64>) -> Result<(), String> {
    let expected = row.number(column, nth);
    if seen == expected {
        Ok(())
    } else {
        Err(format!("{column} {seen:?}, expected {expected:?}"))
    }
}

fn expect_if_known(row: &Row, column: &str, mask: u64, seen: Option<u64>) -> Result<(), String> {
    match row.number(column, 0).map(|v| v & mask) {
        Some(expected) if seen != Some(expected) => {
            Err(format!("{column} {seen:?}, expected {expected}"))
        }
        _ => Ok(()),
    }
}

/// The packet behind an Ethernet header, whatever link it was captured on. `None` for links that are no business of
/// an Ethernet device.
fn as_ethernet(link: u32, bytes: &[u8]) -> Option<Vec<u8>> {
    const ETHERNET: u32 = 1;
    const RAW: [u32; 3] = [12, 14, 101];
    const IPV4: u32 = 228;
    const IPV6: u32 = 229;
    const NULL: u32 = 0;
    const SLL: u32 = 113;

    let by_version = |packet: &[u8]| match packet.first().map(|b| b >> 4) {
        Some(6) => V6::ETHER_TYPE,
        _ => V4::ETHER_TYPE,
    };
    let (ether_type, packet) = match link {
        ETHERNET => return Some(bytes.to_vec()),
        NULL => (by_version(bytes.get(4..)?), bytes.get(4..)?),
        SLL => (
            u16::from_be_bytes([*bytes.get(14)?, *bytes.get(15)?]),
            &bytes[16..],
        ),
        IPV4 => (V4::ETHER_TYPE, bytes),
        IPV6 => (V6::ETHER_TYPE, bytes),
        _ if RAW.contains(&link) => (by_version(bytes), bytes),
        _ => return None,
    };
    Some([&[0; 12][..], &ether_type.to_be_bytes(), packet].concat())
}

/// As much of the capture formats as the shared files need: pcap in both byte orders and pcapng.
struct Capture {
    bytes: Vec<u8>,
    at: usize,
    big_endian: bool,
    pcapng: bool,
    links: Vec<u32>,
    snaplens: Vec<usize>,
}

impl Capture {
    fn open(path: &Path) -> Self {
        let mut bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut plain = Vec::new();
            // A damaged end of the compressed stream leaves what came before it.
            let _ = MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain);
            bytes = plain;
        }
        let pcapng = bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]);
        let big_endian = bytes.starts_with(&[0xa1, 0xb2]);
        let mut capture = Self {
            bytes,
            at: 0,
            big_endian,
            pcapng,
            links: Vec::new(),
            snaplens: Vec::new(),
        };
        if !pcapng {
            capture
                .links
                .extend(capture.u32(20).map(|link| link & 0xffff));
            capture.at = 24;
        }
        capture
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let word = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.big_endian {
            u32::from_be_bytes(word)
        } else {
            u32::from_le_bytes(word)
        })
    }

    fn len(&self, at: usize) -> Option<usize> {
        self.u32(at).map(|len| len as usize)
    }

    /// The next frame with its link type.
    fn next(&mut self) -> Option<(u32, Vec<u8>)> {
        if self.pcapng {
            self.next_block()
        } else {
            self.next_record()
        }
    }

    fn next_record(&mut self) -> Option<(u32, Vec<u8>)> {
        const MODIFIED: [u8; 4] = [0x34, 0xcd, 0xb2, 0xa1];
        let header = if self.bytes.starts_with(&MODIFIED) {
            24
        } else {
            16
        };
        let (start, len) = (self.at + header, self.len(self.at + 8)?);
        self.at = start + len;
        Some((
            *self.links.first()?,
            self.bytes.get(start..self.at)?.to_vec(),
        ))
    }

    fn next_block(&mut self) -> Option<(u32, Vec<u8>)> {
        const SECTION: u32 = 0x0a0d_0d0a;
        const INTERFACE: u32 = 1;
        const PACKET: u32 = 2;
        const SIMPLE: u32 = 3;
        const ENHANCED: u32 = 6;
        loop {
            let start = self.at;
            let kind = self.u32(start)?;
            if kind == SECTION {
                self.big_endian =
                    self.bytes.get(start + 8..start + 12)? == [0x1a, 0x2b, 0x3c, 0x4d];
                self.links.clear();
                self.snaplens.clear();
            }
            self.at += self.len(start + 4)?.max(12);
            match kind {
                INTERFACE => {
                    let pair = self.bytes.get(start + 8..start + 10)?;
                    let link = if self.big_endian {
                        [pair[0], pair[1]]
                    } else {
                        [pair[1], pair[0]]
                    };
                    self.links.push(u32::from(u16::from_be_bytes(link)));
                    self.snaplens.push(self.len(start + 12)?);
                }
                ENHANCED | PACKET => {
                    let interface = match kind {
                        ENHANCED => self.len(start + 8)?,
                        _ if self.big_endian => self.len(start + 8)? >> 16,
                        _ => self.len(start + 8)? & 0xffff,
                    };
                    let (from, len) = (start + 28, self.len(start + 20)?);
                    let bytes = self.bytes.get(from..from + len)?.to_vec();
                    return Some((*self.links.get(interface)?, bytes));
                }
                SIMPLE => {
                    let limit = match self.snaplens.first() {
                        None | Some(0) => usize::MAX,
                        Some(limit) => *limit,
                    };
                    let (from, len) = (start + 12, self.len(start + 8)?.min(limit));
                    return Some((
                        *self.links.first()?,
                        self.bytes.get(from..from + len)?.to_vec(),
                    ));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_row_of_known_fields_agrees_with_a_built_frame() {
    use polder::net::build::Frame;

    let at = |s: &str| s.parse().expect("a socket address");
    let frame =
        Frame::new()
            .vlan(6)
            .id(7)
            .udp(at("192.0.2.1:1000"), at("192.0.2.2:2000"), b"hello");
    let columns: Vec<String> = [
        "frame.protocols",
        "vlan.id",
        "ip.src",
        "ip.dst",
        "ip.proto",
        "ip.hdr_len",
        "ip.len",
        "ip.ttl",
        "ip.flags.mf",
        "ip.frag_offset",
        "ip.checksum.status",
        "udp.srcport",
        "udp.dstport",
        "udp.length",
    ]
    .map(str::to_owned)
    .to_vec();
    let good = [
        "eth:ethertype:vlan:ethertype:ip:udp:data",
        "6",
        "192.0.2.1",
        "192.0.2.2",
        "17",
        "20",
        "33",
        "64",
        "0",
        "0",
        "1",
        "1000",
        "2000",
        "13",
    ];
    let row = |fields: &[&'static str]| Row {
        columns: &columns,
        fields: fields.to_vec(),
    };
    assert_eq!(compare(&row(&good), &frame), Ok(None));
    for wrong in 1..good.len() {
        let mut fields = good;
        fields[wrong] = if good[wrong] == "0" { "1" } else { "0" };
        assert!(
            compare(&row(&fields), &frame).is_err(),
            "{} is not compared",
            columns[wrong]
        );
    }
}
