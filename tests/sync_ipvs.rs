//! State sync in the `ipvs` format, from packets to datagrams and from datagrams to listings, in virtual time: what a
//! kernel's director sent, given to a Polder as its backup, against what that kernel's backup listed; and what a Polder
//! sends where a kernel would. `tests/lab/sync.sh` is the same with a kernel on the other side.

mod bed;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bed::*;
use polder::cli::table;
use polder::forward::Snapshot;
use polder::forward::defs::{Grouping, OnNoKey, Persistence, ServiceKind};
use polder::forward::{DestDef, ServiceDef};
use polder::mgmt::sync::ipvs::Ipvs;
use polder::mgmt::sync::tables::Tables;
use polder::mgmt::{names, templates};
use polder::net::build::fragment;
use polder::net::packet::{proto, tcp_flags};
use polder::net::pcap::Reader;
use polder::net::{Af, L3, parse};
use polder::persist::Engine;
use polder::sync::ipvs::{
    AnyEnds, Builder, ConnRecord, Receiver, Record, TemplateRecord, Version, flag,
};
use polder::sync::master::Policy;
use polder::sync::settings::{Format, Role, Settings};
use polder::table::{Ends, Method};
use tokio::runtime::Runtime;

/// A director that plays a role of the `ipvs` format with a socket of this host.
struct Director {
    bed: Bed,
    ipvs: Ipvs,
    runtime: Runtime,
    socket: UdpSocket,
}

impl Director {
    fn new(services: Vec<ServiceDef>, role: Role, version: Version, policy: Policy) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let bed = Bed::with(&setup(services), 2);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        let settings = Settings {
            role,
            format: Format::Ipvs(version),
            // A backup gets a port of the kernel's choice.
            group: at("127.0.0.1:0"),
            peers: vec![socket.local_addr().expect("bound")],
            sync_id: 0,
            policy,
            ..Settings::default()
        };
        let plane = bed.bed.plane().clone();
        let tables = Tables::new(plane.clone(), SIZES.owner_key());
        let entered = runtime.enter();
        let ipvs = Ipvs::start(&plane, || tables, &settings).expect("starts");
        drop(entered);
        Self {
            bed,
            ipvs,
            runtime,
            socket,
        }
    }

    fn backup(services: Vec<ServiceDef>) -> Self {
        Self::new(services, Role::Backup, Version::V1, Policy::default())
    }

    /// Lets both the management core and the workers do what there is to do.
    fn settle(&mut self) {
        for _ in 0..4 {
            let now = self.bed.now;
            let ipvs = &mut self.ipvs;
            self.runtime.block_on(async {
                // Sockets are asked for what they are ready for on the way.
                tokio::task::yield_now().await;
                while ipvs.turn(now) {}
            });
            self.bed.bed.advance(now);
        }
    }

    fn pass(&mut self, secs: u32) {
        self.settle();
        self.bed.pass(secs);
        self.settle();
    }

    /// Takes a message, as a backup.
    fn take(&mut self, message: &[u8]) {
        let to = self
            .ipvs
            .links()
            .next()
            .expect("a backup")
            .socket
            .local_addr();
        let to = SocketAddr::new(ip("127.0.0.1"), to.expect("bound").port());
        self.socket.send_to(message, to).expect("sent");
        let ipvs = &self.ipvs;
        let readable = async {
            ipvs.links()
                .next()
                .expect("a backup")
                .socket
                .readable()
                .await
        };
        self.runtime.block_on(readable).expect("readable");
        self.settle();
    }

    /// What a master has sent so far.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        self.settle();
        let mut buffer = vec![0; 65_536];
        let mut out = Vec::new();
        while let Ok(n) = self.socket.recv(&mut buffer) {
            out.push(buffer[..n].to_vec());
        }
        out
    }

    /// Connections and templates as `ipvsadm -Lcn --persistent-conn` lists them, without the time that is left.
    fn listing(&mut self) -> BTreeSet<String> {
        let snapshot = self.bed.bed.snapshot();
        let templates = self.bed.bed.templates();
        let lines = templates.iter();
        let lines = lines.map(|t| timeless(&table::template(&templates::listed(&snapshot, t))));
        let conns = self.bed.bed.connections();
        let end = |(addr, port)| names::endpoint(addr, port);
        let conns = conns.into_iter().map(|c| {
            let state = names::state(c.proto, c.state, c.flags);
            let ends = [end(c.client), end(c.virtual_), end(c.dest)].join(" ");
            format!("{} {state} {ends}", names::protocol(c.proto))
        });
        lines.chain(conns).collect()
    }
}

/// A line of a listing, without the time that is left.
fn timeless(line: &str) -> String {
    let mut words: Vec<_> = line.split_whitespace().collect();
    words.remove(1);
    words.join(" ")
}

// ------------------------------------------------------------------------- what a kernel sent, and what it listed then

/// A play that was recorded: the services, the messages, and what the backup listed in the end.
struct Recorded {
    services: Vec<ServiceDef>,
    is_v0: bool,
    has_marks: bool,
    messages: Vec<Vec<u8>>,
    listed: BTreeSet<String>,
}

impl Recorded {
    /// From a capture and the text beside it.
    fn read(capture: &Path) -> Self {
        let text = fs::read_to_string(capture.with_extension("txt")).expect("the text");
        let services = services_of(&text);
        let is_mark = |s: &ServiceDef| matches!(s.kind, ServiceKind::Mark { .. });
        let is_v0 = text.lines().next().is_some_and(|l| l.contains("version 0"));
        let mut listed = backups_listing(&text);
        // Version 0 does not tell a template's mark, and without it the service is not found. The kernel keeps such a
        // template all the same, for nothing.
        listed.retain(|line| !(is_v0 && line.starts_with("IP ")));
        Self {
            has_marks: services.iter().any(is_mark),
            services,
            is_v0,
            messages: payloads(capture),
            listed,
        }
    }
}

/// The services that commands in a text make.
fn services_of(text: &str) -> Vec<ServiceDef> {
    let mut out: Vec<ServiceDef> = Vec::new();
    for line in text.lines() {
        let Some(line) = line.strip_prefix("$ ipvsadm ") else {
            continue;
        };
        let words: Vec<_> = line.split(' ').collect();
        let option = |names: [&str; 2]| {
            let i = words.iter().position(|w| names.contains(w));
            i.map(|i| words.get(i + 1).copied().unwrap_or_default())
        };
        let v6 = words.contains(&"-6") || line.contains('[');
        let kind = match (option(["-t", "-u"]), option(["-f", "-f"])) {
            (Some(addr), _) => ServiceKind::Address {
                proto: if words.contains(&"-t") {
                    proto::TCP
                } else {
                    proto::UDP
                },
                addr: at(addr).ip(),
                port: at(addr).port(),
            },
            (None, Some(mark)) => ServiceKind::Mark {
                af: if v6 { Af::V6 } else { Af::V4 },
                mark: mark.parse().expect("a mark"),
            },
            (None, None) => continue,
        };
        match words[0] {
            "-A" => out.push(ServiceDef {
                name: format!("svc{}", out.len()),
                kind,
                scheduler: "rr".into(),
                one_packet: words.contains(&"-o"),
                persistence: option(["-p", "-p"]).map(|timeout| Persistence {
                    timeout: Duration::from_secs(timeout.parse().expect("seconds")),
                    grouping: grouping(option(["-M", "-M"]), v6),
                    engine: words.contains(&"sip").then_some(Engine::Sip),
                    on_no_key: OnNoKey::Drop,
                    max_templates: 0,
                    max_per_client: 0,
                }),
                ..service(proto::TCP, "10.0.0.1:1", Vec::new())
            }),
            "-a" => {
                let server = option(["-r", "-r"]).expect("a server");
                let server = if server.contains("]:") || !v6 && server.contains(':') {
                    at(server)
                } else {
                    SocketAddr::new(ip(server.trim_matches(['[', ']'])), 0)
                };
                let method = match words.iter().rfind(|w| ["-m", "-g", "-i"].contains(w)) {
                    Some(&"-g") => Method::Direct,
                    Some(&"-i") => Method::Tunnel,
                    _ => Method::Masq,
                };
                let service = out
                    .iter_mut()
                    .find(|s| s.kind == kind)
                    .expect("its service");
                service.servers.push(DestDef {
                    method,
                    ..dest(&server.ip().to_string(), server.port())
                });
            }
            other => panic!("{other} in {line}"),
        }
    }
    assert!(!out.is_empty(), "no services in the text");
    out
}

fn grouping(mask: Option<&str>, v6: bool) -> Grouping {
    match (mask, v6) {
        (Some(mask), false) => {
            let mask: std::net::Ipv4Addr = mask.parse().expect("a netmask");
            Grouping::Mask4(mask.to_bits())
        }
        (None, false) => Grouping::Mask4(u32::MAX),
        (mask, true) => Grouping::Prefix6(mask.map_or(128, |m| m.parse().expect("a length"))),
    }
}

/// What the backup of a text listed.
fn backups_listing(text: &str) -> BTreeSet<String> {
    let listing = "== backup\n$ ipvsadm -Lcn --persistent-conn\n";
    let (_, listing) = text.split_once(listing).expect("a listing");
    let lines = listing.lines().skip(2);
    lines
        .take_while(|l| !l.starts_with(['=', '$', '#']) && !l.is_empty())
        .map(timeless)
        .collect()
}

/// The payloads of the UDP datagrams of a capture.
fn payloads(capture: &Path) -> Vec<Vec<u8>> {
    let mut reader = Reader::open(File::open(capture).expect("the capture")).expect("a capture");
    let (mut frame, mut out) = (Vec::new(), Vec::new());
    while reader.next(&mut frame).expect("whole").is_some() {
        if let L3::V4(ip) = parse(&frame).expect("a frame").l3 {
            out.push(frame[usize::from(ip.l4) + 8..usize::from(ip.end)].to_vec());
        }
    }
    out
}

/// Gives a kernel's messages to a backup, whose listing is that of the kernel's backup, which was asked for while the last
/// messages may still have been on their way.
fn follow(capture: &Path) {
    let recorded = Recorded::read(capture);
    let mut backup = Director::backup(recorded.services);
    let mut differs = compare(&backup.listing(), &recorded.listed);
    for message in &recorded.messages {
        backup.take(message);
        if differs.is_some() {
            differs = compare(&backup.listing(), &recorded.listed);
        }
    }
    let name = capture.display();
    assert_eq!(differs, None, "{name}");
    let rejected = backup.ipvs.rejections;
    let noted: Vec<_> = rejected.iter().filter(|(_, n)| *n > 0).collect();
    assert_eq!(noted, [], "{name}");
    let marked = recorded.is_v0 && recorded.has_marks;
    assert!(marked || backup.ipvs.unbound == 0, "{name}");
    assert_eq!(backup.ipvs.refused, 0, "{name}");
    backup.bed.check_counts();
}

/// What differs between two listings.
fn compare(ours: &BTreeSet<String>, theirs: &BTreeSet<String>) -> Option<String> {
    // Calls' templates are one and the same where version 0 has lost the calls' names. In the kernel it is as the last of
    // them; here it stays assured.
    let assured = |l: &&String| ours.contains(&l.replace(" NONE ", " ASSURED "));
    let unsure = |l: &&String| theirs.contains(&l.replace(" ASSURED ", " NONE "));
    let less: Vec<_> = theirs.difference(ours).filter(|l| !assured(l)).collect();
    let more: Vec<_> = ours.difference(theirs).filter(|l| !unsure(l)).collect();
    let same = less.is_empty() && more.is_empty();
    (!same).then(|| format!("not there: {less:#?}, too many: {more:#?}"))
}

fn captures_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut out: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    out.retain(|path| path.extension().is_some_and(|e| e == "pcap"));
    out.sort();
    out
}

#[test]
fn a_backup_lists_what_a_kernels_backup_listed() {
    // Of the lab's play, with everything that is balanced there; `wire.pcap` and `wire.txt` of kernel-kernel.
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sync");
    assert_eq!(captures_in(&own).iter().map(|c| follow(c)).count(), 2);
}

#[test]
fn a_backup_lists_what_a_kernels_backup_listed_in_the_shared_captures() {
    let root = std::env::var_os("POLDER_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let dir = root.join("lab/sync-pcaps");
    if !dir.is_dir() {
        eprintln!(
            "SKIPPED: no captures of a kernel's sync at {}",
            dir.display()
        );
        return;
    }
    for sub in ["v0", "v1"] {
        captures_in(&dir.join(sub)).iter().for_each(|c| follow(c));
    }
}

// --------------------------------------------------------------------------------------- what a Polder sends as master

/// A master that tells of everything at once.
fn master(services: Vec<ServiceDef>, version: Version) -> Director {
    let policy = Policy {
        threshold: 0,
        period: 1,
        ..Policy::default()
    };
    Director::new(services, Role::Master, version, policy)
}

fn told(messages: &[Vec<u8>]) -> Vec<String> {
    let mut out = Vec::new();
    for message in messages {
        let message = Receiver::default().open(message).expect("a message");
        for record in message.records() {
            let record = record.expect("a record");
            let entry = record.entry();
            let ends = entry.ends.all().map(|a| a.to_string()).join(" ");
            let what = if matches!(record, Record::Template(_)) {
                "template "
            } else {
                ""
            };
            out.push(format!(
                "{what}{ends} state {} {} s",
                entry.state, entry.timeout_s
            ));
        }
    }
    out
}

fn persistent(secs: u64) -> ServiceDef {
    ServiceDef {
        persistence: Some(Persistence {
            timeout: Duration::from_secs(secs),
            grouping: Grouping::Mask4(u32::MAX),
            engine: None,
            on_no_key: OnNoKey::Fallback,
            max_templates: 0,
            max_per_client: 0,
        }),
        ..service(proto::TCP, "192.0.2.100:80", vec![dest("10.0.0.11", 80)])
    }
}

fn tcp(flags: u8) -> Vec<u8> {
    from_client().tcp(at("198.51.100.7:5000"), at("192.0.2.100:80"), flags, 1, b"")
}

/// Opens the connection of [`tcp`].
fn open(master: &mut Director) {
    master.bed.client(&tcp(tcp_flags::SYN));
    let answer = tcp_flags::SYN | tcp_flags::ACK;
    let (from, to) = (at("10.0.0.11:80"), at("198.51.100.7:5000"));
    master
        .bed
        .server(&from_server("10.0.0.11").tcp(from, to, answer, 1, b""));
    master.bed.client(&tcp(tcp_flags::ACK));
}

#[test]
fn a_template_that_is_kept_for_its_connections_is_told_again_each_minute() {
    // Specification §2.7 and §9.7 (b): the timer fires, is set to 60 s, and peers are told of it.
    let mut master = master(vec![persistent(100)], Version::V1);
    open(&mut master);
    master.pass(3);
    let template = "template 198.51.100.7:0 192.0.2.100:80 10.0.0.11:80";
    let first = told(&master.sent());
    assert!(
        first.contains(&format!("{template} state 1 100 s")),
        "{first:?}"
    );
    master.pass(90);
    assert_eq!(told(&master.sent()), [""; 0], "nothing moved");
    for _ in 0..3 {
        for _ in 0..20 {
            master.pass(3);
        }
        assert_eq!(told(&master.sent()), [format!("{template} state 1 60 s")]);
    }
}

// -------------------------------------------------------------------------------------------- what a backup waits with

/// A message with `n` records of one template.
fn templates_of(n: usize, client: &str) -> Vec<u8> {
    let mut builder = Builder::new(Version::V1, 0, 1472);
    let Ok(SocketAddr::V4(client)) = client.parse() else {
        panic!("a client of IPv4");
    };
    let entry = ConnRecord {
        ends: AnyEnds::V4(Ends {
            proto: proto::TCP,
            caddr: (*client.ip()).into(),
            cport: 0,
            vaddr: std::net::Ipv4Addr::new(192, 0, 2, 100).into(),
            vport: 80,
            daddr: std::net::Ipv4Addr::new(10, 0, 0, 11).into(),
            dport: 80,
        }),
        flags: flag::TEMPLATE | flag::INACTIVE,
        state: 1,
        mark: 0,
        timeout_s: 100,
        seq: None,
    };
    let record = Record::Template(TemplateRecord {
        entry,
        engine: None,
    });
    for _ in 0..n {
        assert_eq!(builder.push(&record), Ok(true));
    }
    builder.finish().expect("records").to_vec()
}

#[test]
fn a_template_without_a_service_waits_once_however_often_it_is_told() {
    // A kernel tells of a template with each packet from its clients: that must not use up the room for others.
    let mut backup = Director::backup(Vec::new());
    let often = templates_of(40, "198.51.100.7:0");
    for _ in 0..1700 {
        backup.take(&often);
    }
    backup.take(&templates_of(1, "198.51.100.8:0"));
    assert_eq!(backup.listing().len(), 0);
    backup
        .bed
        .bed
        .apply(&setup(vec![persistent(100)]))
        .expect("a service");
    backup.settle();
    let template =
        |client| format!("TCP ASSURED 198.51.100.{client}:0 192.0.2.100:80 10.0.0.11:80");
    let both: BTreeSet<_> = [7, 8].map(template).into();
    assert_eq!(backup.listing(), both);
    backup.bed.check_counts();
}

#[test]
fn what_waits_for_a_service_is_tried_again_when_services_change_and_not_with_each_route() {
    let mut backup = Director::backup(Vec::new());
    backup.take(&templates_of(1, "198.51.100.7:0"));
    let tried = backup.ipvs.retried;
    let plane = backup.bed.bed.plane().clone();
    let now = plane.snapshot.load_full();
    for generation in 1..=3 {
        // Another neighbour: nothing of services.
        plane.snapshot.store(Arc::new(Snapshot {
            generation: now.generation + generation,
            services: Arc::clone(&now.services),
            fib: Arc::clone(&now.fib),
            ports: Arc::clone(&now.ports),
        }));
        backup.pass(1);
    }
    assert_eq!(backup.ipvs.retried, tried);
    assert_eq!(backup.listing().len(), 0);
    let served = setup(vec![persistent(100)]);
    backup.bed.bed.apply(&served).expect("a service");
    backup.settle();
    assert_eq!(backup.ipvs.retried, tried + 1);
    assert_eq!(backup.listing().len(), 1);
    backup.bed.check_counts();
}

#[test]
fn what_version_0_has_no_room_for_is_not_offered() {
    let services = vec![service(
        proto::UDP,
        "[2001:db8:1::100]:53",
        vec![dest("2001:db8:2::11", 53)],
    )];
    let mut master = master(services, Version::V0);
    let (from, to) = (at("[2001:db8:9::1]:5000"), at("[2001:db8:1::100]:53"));
    master.bed.client(&from_client().udp(from, to, b"?"));
    master.pass(3);
    assert_eq!(told(&master.sent()), [""; 0]);
    assert_eq!(master.ipvs.discarded(), 0, "nothing was lost");
}

/// A backup that heard of a connection to 10.0.0.11 whose service does not have that server.
fn with_unbound(method: u32) -> (Director, SocketAddr, SocketAddr) {
    let none = service(proto::UDP, "192.0.2.100:1194", Vec::new());
    // It is another's, so that what it sends is looked up at all.
    let servers = vec![dest("10.0.0.11", 1195)];
    let other = service(proto::UDP, "192.0.2.101:1194", servers);
    let mut backup = Director::backup(vec![none, other]);
    let mut builder = Builder::new(Version::V1, 0, 1472);
    let entry = ConnRecord {
        ends: AnyEnds::V4(Ends {
            proto: proto::UDP,
            caddr: std::net::Ipv4Addr::new(198, 51, 100, 7).into(),
            cport: 4000,
            vaddr: std::net::Ipv4Addr::new(192, 0, 2, 100).into(),
            vport: 1194,
            daddr: std::net::Ipv4Addr::new(10, 0, 0, 11).into(),
            dport: 1195,
        }),
        flags: flag::INACTIVE | method,
        state: 0,
        mark: 0,
        timeout_s: 100,
        seq: None,
    };
    let record = Record::new(entry, None);
    assert_eq!(builder.push(&record), Ok(true));
    backup.take(builder.finish().expect("a record"));
    (backup, at("198.51.100.7:4000"), at("192.0.2.100:1194"))
}

/// Ends and payload of the UDP datagram whose fragments these are, in order; its checksum is right.
fn whole(out: &Out) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let mut whole = out[0].1[..34].to_vec();
    for (_, frame) in out {
        let len = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        whole.extend(&frame[34..14 + len]);
    }
    let total = u16::try_from(whole.len() - 14).expect("short");
    whole[16..18].copy_from_slice(&total.to_be_bytes());
    whole[20..22].copy_from_slice(&[0, 0]);
    whole[24..26].copy_from_slice(&[0, 0]);
    let sum = polder::net::checksum::ipv4_header(&whole[14..34]);
    whole[24..26].copy_from_slice(&sum.to_be_bytes());
    let (src, dst, _) = ends(&whole);
    (src, dst, whole[42..].to_vec())
}

#[test]
fn fragments_of_a_connection_of_an_unknown_server_go_where_its_packets_go() {
    let (mut backup, client, virtual_) = with_unbound(0);
    let payload: Vec<u8> = (0..4000u32).map(|n| n.to_le_bytes()[0]).collect();
    let frame = from_client().id(1).udp(client, virtual_, &payload);
    let pieces = fragment(&frame, 1500);
    let out: Out = pieces.iter().flat_map(|p| backup.bed.client(p)).collect();
    let server = at("10.0.0.11:1195");
    assert_eq!(whole(&out), (client, server, payload.clone()));
    let reply = from_server("10.0.0.11").id(1).udp(server, client, &payload);
    let pieces = fragment(&reply, 1500);
    let out: Out = pieces.iter().flat_map(|p| backup.bed.server(p)).collect();
    assert_eq!(whole(&out), (virtual_, client, payload));
    backup.bed.check_identity();
    backup.bed.check_counts();
}

#[test]
fn fragments_to_an_unknown_server_of_direct_routing_arrive_as_they_came() {
    let (mut backup, client, virtual_) = with_unbound(Method::Direct as u32);
    let payload = vec![5; 3000];
    let frame = from_client().id(1).udp(client, virtual_, &payload);
    let pieces = fragment(&frame, 1500);
    let out: Out = pieces.iter().flat_map(|p| backup.bed.client(p)).collect();
    assert_eq!(whole(&out), (client, virtual_, payload));
    let to: BTreeSet<_> = out.iter().map(|(_, frame)| macs(frame).0).collect();
    assert_eq!(to, [server_mac(ip("10.0.0.11"))].into());
}

#[test]
fn fragments_to_an_unknown_server_behind_a_tunnel_are_dropped_as_its_packets_are() {
    let (mut backup, client, virtual_) = with_unbound(Method::Tunnel as u32);
    let frame = from_client().id(1).udp(client, virtual_, &[5; 3000]);
    for piece in fragment(&frame, 1500) {
        assert_eq!(backup.bed.client(&piece).len(), 0);
    }
    backup.bed.check_identity();
    assert_eq!(backup.bed.drops().get("dest_unavailable"), Some(&3));
}
