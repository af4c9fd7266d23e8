//! The `ipvs` format at work: offers of the workers become messages, messages of others become entries.
//!
//! Owns the channels of both roles while they run. Format and rules are [`crate::sync`]'s, tables are
//! [`super::tables`]'s. Invariant: what a message says takes a bounded time and bounded memory.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::IntoIter;

use super::Traffic;
use super::socket::{self, Link, Use};
use super::tables::{Finds, Peers, Tables, TemplateTerms};
use crate::forward::defs::address_of;
use crate::forward::tell::{Offer, RING, Tell};
use crate::forward::{PeerRule, PeerTerms, ServiceKind, Services, Side, Snapshot};
use crate::net::{Af, Family, FlowKey, Tick, V4, V6};
use crate::sync::backup::{self, Entry, Install, accept};
use crate::sync::entry::{self, EntryId, TemplateEntry};
use crate::sync::ipvs::{
    AnyEnds, ConnRecord, Engine, Receiver, Record, Rejections, TemplateRecord, flag,
};
use crate::sync::outbox::Outbox;
use crate::sync::settings::{Format, Settings};
use crate::table::{Conn, Dest, Ends, Origin, TemplateKey, TemplateRow};
use crate::worker::Plane;

/// The engine by which payload keys are known to peers.
const PAYLOAD: &str = "payload";
/// Engines whose templates are taken.
const ENGINES: [&str; 2] = ["sip", PAYLOAD];
/// Templates that wait for their service or server.
const WAITING_MAX: usize = 65_536;
/// Those of them that are tried again in one turn.
const RETRIED_MAX: usize = 1024;
/// How often they are although services are the same, when there was no room for some, in ticks.
const RETRY: u32 = 5 * Tick::PER_SECOND;
/// Messages taken from a socket in one turn.
const BURST: usize = 64;

/// Both roles' channels.
#[derive(Debug)]
pub struct Ipvs {
    plane: Arc<Plane>,
    tables: Tables,
    master: Option<Master>,
    backup: Option<Backup>,
    /// What went through.
    pub traffic: Traffic,
    /// What was not taken.
    pub rejections: Rejections,
    /// Records that name a service or server which is not known here.
    pub unbound: u64,
    /// Records that there was no room for.
    pub refused: u64,
    /// Templates that waited and were tried again, as often as they were.
    pub retried: u64,
}

/// What became of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    /// It is in the table.
    There,
    /// Its service or server is not known here.
    Unknown,
    /// There is no room.
    Full,
}

#[derive(Debug)]
struct Master {
    tell: Arc<Tell>,
    channels: Vec<Channel>,
}

/// One port of a master.
#[derive(Debug)]
struct Channel {
    link: Link,
    outbox: Outbox,
    /// A message that the socket had no room for.
    stuck: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Backup {
    links: Vec<Link>,
    receiver: Receiver,
    threshold: u32,
    buffer: Vec<u8>,
    waiting: HashMap<WaitKey, Waiting>,
    /// Those of them that are being tried again.
    retrying: IntoIter<WaitKey, Waiting>,
    /// When all are tried again although nothing has changed: some found no room.
    retry_at: Option<Tick>,
    /// When what has expired there was last looked for because there was no room.
    pruned: Tick,
    /// Services and servers under which those were tried last.
    services: Option<Arc<Services>>,
}

/// What makes a template one of its own: protocol, mark, client, virtual end, and the session's key.
type WaitKey = (u8, u32, [SocketAddr; 2], Option<Vec<u8>>);

/// A template that waits for its service or server.
#[derive(Debug)]
struct Waiting {
    entry: Entry,
    until: Tick,
}

impl Ipvs {
    /// Opens the sockets of the role, and lets workers tell. `tables` are made when nothing can go wrong any more.
    ///
    /// # Errors
    /// A sentence.
    pub fn start(
        plane: &Arc<Plane>,
        tables: impl FnOnce() -> Tables,
        settings: &Settings,
    ) -> Result<Self, String> {
        let Format::Ipvs(version) = settings.format else {
            return Err("the format is not `ipvs`".to_owned());
        };
        let ports = 0..u16::from(settings.ports.max(1));
        let master = settings.role.is_master().then(|| {
            let channel = settings.channel();
            let channels = ports.clone().map(|i| {
                let link = socket::open(&channel, i, Use::Send)?;
                let outbox = Outbox::new(
                    version,
                    channel.sync_id,
                    channel.sent_max(),
                    settings.queue_max,
                );
                Ok(Channel {
                    link,
                    outbox,
                    stuck: None,
                })
            });
            let channels = channels.collect::<Result<_, String>>()?;
            let places = plane.sync.places.get().copied().unwrap_or_default();
            let templates = plane.templates.capacity();
            let workers = plane.workers.len();
            Tell::check_room(workers, places, templates).map_err(|e| {
                format!("{e}; set `limits.connections` or `limits.templates` lower")
            })?;
            let tell = Tell::new(settings.policy, version, workers, places, templates);
            Ok::<_, String>(Master {
                tell: Arc::new(tell),
                channels,
            })
        });
        let backup = settings.role.is_backup().then(|| {
            let channel = settings.backup_channel();
            let links = ports.map(|i| socket::open(&channel, i, Use::Receive));
            let links = links.collect::<Result<Vec<_>, String>>()?;
            let mtu = links.first().map_or(1500, |l| l.mtu);
            Ok::<_, String>(Backup {
                links,
                receiver: Receiver {
                    sync_id: channel.sync_id,
                    ..Receiver::default()
                },
                threshold: settings.policy.threshold,
                // One byte more, so that a message that was cut is seen to be no message.
                buffer: vec![0; channel.received_max(mtu) + 1],
                waiting: HashMap::new(),
                retrying: IntoIter::default(),
                retry_at: None,
                pruned: Tick(0),
                services: None,
            })
        });
        let (master, backup) = (master.transpose()?, backup.transpose()?);
        let started = Self {
            plane: Arc::clone(plane),
            tables: tables(),
            master,
            backup,
            traffic: Traffic::default(),
            rejections: Rejections::default(),
            unbound: 0,
            refused: 0,
            retried: 0,
        };
        let tell = started.master.as_ref().map(|m| Arc::clone(&m.tell));
        plane.sync.tell.store(tell);
        Ok(started)
    }

    /// Ends it; what is known of peers' templates stays.
    #[must_use]
    pub fn end(mut self) -> Peers {
        self.tables.take_peers()
    }

    /// Sockets that messages come in by.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.backup.iter().flat_map(|b| &b.links)
    }

    /// Messages that wait to be sent.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let channels = self.master.iter().flat_map(|m| &m.channels);
        channels.map(|c| c.outbox.waiting()).sum()
    }

    /// Entries that were to be told but found no room on their way out: in a worker's ring, in the queue, in a message.
    #[must_use]
    pub fn discarded(&self) -> u64 {
        let Some(master) = &self.master else { return 0 };
        let parts = master.tell.parts().iter();
        let lost = parts.map(|p| p.lost.load(std::sync::atomic::Ordering::Relaxed));
        let lost: u64 = lost.sum();
        let counts = master.channels.iter().map(|c| c.outbox.counts());
        lost + counts.map(|c| c.discarded_records + c.unfit).sum::<u64>()
    }

    /// Does everything that there is to do at `now`. Whether there may be more at once.
    pub fn turn(&mut self, now: Tick) -> bool {
        let mut more = self.take_offers(now);
        more |= self.send(now);
        more |= self.receive(now);
        more |= self.retry(now);
        self.tables.flush();
        self.tables.step(now, &mut Nothing);
        while let Some((_, _, outcome)) = self.tables.next_outcome() {
            self.refused += u64::from(outcome == crate::forward::PeerOutcome::Refused);
        }
        more
    }

    /// Makes records of what workers offer.
    fn take_offers(&mut self, now: Tick) -> bool {
        let Some(master) = &mut self.master else {
            return false;
        };
        let snapshot = self.plane.snapshot.load();
        let mut more = false;
        for own in master.tell.parts() {
            let mut left = RING / 4;
            while left > 0
                && let Some(offer) = own.ring.pop()
            {
                left -= 1;
                let channels = &mut master.channels;
                match offer {
                    Offer::V4(conn) => push(channels, &Record::Conn(record(&conn)), now),
                    Offer::V6(conn) => push(channels, &Record::Conn(record(&conn)), now),
                    Offer::Template(at) => {
                        self.plane.templates.dump(at.index, 1, now, |row| {
                            if row.at == at {
                                tell_template(channels, &snapshot, &row, now);
                            }
                        });
                    }
                }
            }
            more |= left == 0;
        }
        more
    }

    /// Sends what is due; whether the socket had no room for all.
    fn send(&mut self, now: Tick) -> bool {
        let Some(master) = &mut self.master else {
            return false;
        };
        for channel in &mut master.channels {
            while let Some(message) = channel.stuck.take().or_else(|| channel.outbox.next(now)) {
                let mut full = false;
                for target in &channel.link.targets {
                    match channel.link.socket.try_send_to(&message, *target) {
                        Ok(n) => self.traffic.sent(n, records_in(&message)),
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => full = true,
                        // The message is lost, as in IPVS (specification §9.6).
                        Err(e) => self.traffic.failed(&e),
                    }
                }
                if full && channel.link.targets.len() == 1 {
                    channel.stuck = Some(message);
                    break;
                }
                channel.outbox.sent(message);
            }
        }
        false
    }

    fn receive(&mut self, now: Tick) -> bool {
        let Some(mut backup) = self.backup.take() else {
            return false;
        };
        let mut more = false;
        let mut buffer = std::mem::take(&mut backup.buffer);
        for i in 0..backup.links.len() {
            for n in 0.. {
                if n == BURST {
                    more = true;
                    break;
                }
                let Ok((len, from)) = backup.links[i].socket.try_recv_from(&mut buffer) else {
                    break;
                };
                self.message(&mut backup, &buffer[..len], from, now);
            }
        }
        backup.buffer = buffer;
        self.backup = Some(backup);
        more
    }

    fn message(&mut self, backup: &mut Backup, bytes: &[u8], from: SocketAddr, now: Tick) {
        self.traffic.received(bytes.len(), from);
        let message = match backup.receiver.open(bytes) {
            Ok(message) => message,
            Err(reason) => {
                self.rejections.note(reason);
                return;
            }
        };
        let snapshot = self.plane.snapshot.load_full();
        let terms = backup::Terms {
            engines: &ENGINES,
            timeouts: &snapshot.services.timeouts,
            threshold: backup.threshold,
        };
        for record in message.records() {
            match record.and_then(|record| {
                let install = accept(&record, &terms)?;
                self.install(backup, &snapshot, &install, now);
                Ok(())
            }) {
                Ok(()) => self.traffic.records_received += 1,
                Err(reason) => self.rejections.note(reason),
            }
        }
    }

    fn install(
        &mut self,
        backup: &mut Backup,
        snapshot: &Snapshot,
        install: &Install<'_>,
        now: Tick,
    ) {
        match install {
            Install::Conn(entry) => {
                let terms = PeerTerms {
                    mark: entry.mark,
                    state: entry.state,
                    flags: entry.flags,
                    age: 0,
                    remaining: entry.timeout,
                    grace: 0,
                    in_pkts: entry.in_pkts,
                    template: None,
                    session: 0,
                    rule: PeerRule::Ipvs,
                };
                let id = EntryId(0);
                if !self.tables.install(0, id, &entry.ends, &terms) {
                    // The worker's commands are full: what it has no time for is lost, like a message.
                    self.refused += 1;
                }
            }
            Install::Template { entry, engine } => {
                let data = engine.map(|e| e.data);
                let put = self.put_template(snapshot, entry, data, now);
                if put != Put::There {
                    self.unbound += 1;
                    backup.wait(entry, data, now);
                    backup.note(put, now);
                }
            }
        }
    }

    /// Tries again what waits for its service or server, when there may be one, some at a time. Whether there is more.
    fn retry(&mut self, now: Tick) -> bool {
        let Some(mut backup) = self.backup.take() else {
            return false;
        };
        let snapshot = self.plane.snapshot.load_full();
        backup.begin_retry(&snapshot, now);
        for _ in 0..RETRIED_MAX {
            let Some((key, waiting)) = backup.retrying.next() else {
                break;
            };
            self.retried += 1;
            let left = waiting.until.since(now);
            let entry = Entry {
                timeout: left,
                ..waiting.entry
            };
            if left == 0 {
                continue;
            }
            let put = self.put_template(&snapshot, &entry, key.3.as_deref(), now);
            if put != Put::There {
                // What the peer told of it meanwhile is newer.
                backup.waiting.entry(key).or_insert(waiting);
                backup.note(put, now);
            }
        }
        let more = backup.retrying.len() > 0;
        self.backup = Some(backup);
        more
    }

    /// Puts a template in.
    fn put_template(
        &mut self,
        snapshot: &Snapshot,
        entry: &Entry,
        data: Option<&[u8]>,
        now: Tick,
    ) -> Put {
        match &entry.ends {
            AnyEnds::V4(ends) => self.put_template_of(snapshot, ends, entry, data, now),
            AnyEnds::V6(ends) => self.put_template_of(snapshot, ends, entry, data, now),
        }
    }

    fn put_template_of<F: Side>(
        &mut self,
        snapshot: &Snapshot,
        ends: &Ends<F>,
        entry: &Entry,
        data: Option<&[u8]>,
        now: Tick,
    ) -> Put {
        let Some((key, dest)) = template_key::<F>(snapshot, ends, entry, data) else {
            return Put::Unknown;
        };
        let terms = TemplateTerms {
            timeout: entry.timeout,
            remaining: entry.timeout,
            ticks: entry.timeout,
            assured: entry.state != 0,
            client: key.client,
            moves: false,
            origin: Origin::Synced,
        };
        if self.tables.put_template(snapshot, &key, dest, &terms, now) {
            Put::There
        } else {
            Put::Full
        }
    }
}

impl Backup {
    /// Begins to try again what waits, if services or servers have changed or there may be room by now.
    fn begin_retry(&mut self, snapshot: &Snapshot, now: Tick) {
        let is_same = |s: &Arc<Services>| Arc::ptr_eq(s, &snapshot.services);
        let is_time = self.retry_at.is_some_and(|at| now.reached(at));
        if self.retrying.len() > 0 || self.services.as_ref().is_some_and(is_same) && !is_time {
            return;
        }
        self.services = Some(Arc::clone(&snapshot.services));
        self.retry_at = None;
        self.retrying = std::mem::take(&mut self.waiting).into_iter();
    }

    /// Notes why something has to wait.
    fn note(&mut self, put: Put, now: Tick) {
        if put == Put::Full {
            self.retry_at.get_or_insert_with(|| now.plus(RETRY));
        }
    }

    /// Keeps a template until its service or server is known, the last word of it. Peers may tell of the same one with
    /// every packet.
    fn wait(&mut self, entry: &Entry, data: Option<&[u8]>, now: Tick) {
        let [client, virtual_, _] = entry.ends.all();
        let key = (
            entry.ends.proto(),
            entry.mark,
            [client, virtual_],
            data.map(<[u8]>::to_vec),
        );
        let full = |b: &Self| {
            b.waiting.len() + b.retrying.len() >= WAITING_MAX && !b.waiting.contains_key(&key)
        };
        if full(self) && now.since(self.pruned) >= Tick::PER_SECOND {
            self.pruned = now;
            self.waiting.retain(|_, w| !now.reached(w.until));
        }
        if !full(self) {
            let until = now.plus(entry.timeout);
            let entry = *entry;
            self.waiting.insert(key, Waiting { entry, until });
        }
    }
}

impl Drop for Ipvs {
    fn drop(&mut self) {
        // Workers stop telling with their next burst.
        self.plane.sync.tell.store(None);
    }
}

/// The key that a record's template has here, and its server.
fn template_key<'a, 'k, F: Side>(
    snapshot: &'a Snapshot,
    ends: &Ends<F>,
    entry: &Entry,
    data: Option<&'k [u8]>,
) -> Option<(TemplateKey<'k>, &'a Arc<Dest>)> {
    let flow = FlowKey::<F> {
        src: ends.caddr,
        dst: ends.vaddr,
        src_port: ends.cport,
        dst_port: ends.vport,
        proto: ends.proto,
    };
    let index = F::index(&snapshot.services);
    let id = index.service_with_mark(&flow, entry.mark)?;
    let service = snapshot.service(id)?;
    let search = entry.dest_search();
    let addr = ends.daddr.into();
    let with = |port| {
        service
            .dests
            .iter()
            .find(|d| d.addr == addr && d.port == port)
    };
    let dest = with(search.first).or_else(|| with(search.second?))?;
    let bytes = crate::forward::defs::address_bytes::<F>;
    let payload = service.def.payload_key.is_some();
    let key = TemplateKey {
        service: id,
        af: F::AF,
        proto: if service.mark() == 0 { ends.proto } else { 0 },
        client: if payload { [0; 16] } else { bytes(ends.caddr) },
        vaddr: if payload { [0; 16] } else { bytes(ends.vaddr) },
        vport: if payload { 0 } else { ends.vport },
        data,
    };
    Some((key, dest))
}

/// Hands a record to the channel that its connection always has.
fn push(channels: &mut [Channel], record: &Record<'_>, now: Tick) {
    let [client, ..] = record.entry().ends.all();
    let bits = match client.ip() {
        std::net::IpAddr::V4(a) => a.to_bits(),
        std::net::IpAddr::V6(a) => a.to_bits() as u32,
    };
    let mixed = (bits ^ u32::from(client.port())).wrapping_mul(0x9e37_79b1) >> 16;
    let at = mixed as usize % channels.len().max(1);
    if let Some(channel) = channels.get_mut(at) {
        // What the format has no room for is counted by the outbox.
        let _ = channel.outbox.push(record, now);
    }
}

/// A connection's record.
fn record<F: Family>(conn: &Conn<F>) -> ConnRecord
where
    AnyEnds: From<Ends<F>>,
{
    const SENT: u32 = flag::METHOD | flag::NOOUTPUT | flag::INACTIVE | flag::SYNC;
    ConnRecord {
        ends: conn.ends().into(),
        flags: u32::from(conn.flags()) & SENT,
        state: u16::from(conn.state),
        mark: conn.mark,
        timeout_s: conn.timeout() / Tick::PER_SECOND,
        seq: None,
    }
}

fn tell_template(channels: &mut [Channel], snapshot: &Snapshot, row: &TemplateRow, now: Tick) {
    let (Some(service), Some(dest)) = (snapshot.service(row.key.service), snapshot.dest(row.dest))
    else {
        return;
    };
    let client = address_of(row.key.af, &row.key.client);
    let (vaddr, vport) = match (&service.def.kind, &service.def.payload_key) {
        (ServiceKind::Address { addr, port, .. }, Some(_)) => (*addr, *port),
        _ => (address_of(row.key.af, &row.key.vaddr), row.key.vport),
    };
    // Where packets keep their port the server's says nothing (specification §3.2).
    let dport = if vport == 0 { 0 } else { dest.port };
    let ends = |af| -> Option<AnyEnds> {
        Some(match af {
            Af::V4 => Ends::<V4> {
                proto: row.key.proto,
                caddr: V4::from_ip(client)?,
                cport: 0,
                vaddr: V4::from_ip(vaddr)?,
                vport,
                daddr: V4::from_ip(dest.addr)?,
                dport,
            }
            .into(),
            Af::V6 => Ends::<V6> {
                proto: row.key.proto,
                caddr: V6::from_ip(client)?,
                cport: 0,
                vaddr: V6::from_ip(vaddr)?,
                vport,
                daddr: V6::from_ip(dest.addr)?,
                dport,
            }
            .into(),
        })
    };
    // IPVS has no servers of another family under templates.
    let Some(ends) = ends(row.key.af) else { return };
    let unseen = if dest.method == crate::table::Method::Masq {
        0
    } else {
        flag::NOOUTPUT
    };
    let entry = ConnRecord {
        ends,
        flags: flag::TEMPLATE | flag::INACTIVE | unseen | dest.method as u32,
        state: u16::from(row.assured),
        mark: service.mark(),
        timeout_s: row.timeout / Tick::PER_SECOND,
        seq: None,
    };
    let engine = service.def.persistence.as_ref().and_then(|p| p.engine);
    let name = engine.as_ref().map_or(PAYLOAD, |e| e.name());
    let engine = row.data.as_deref().map(|data| Engine {
        name: name.as_bytes(),
        data,
    });
    push(
        channels,
        &Record::Template(TemplateRecord { entry, engine }),
        now,
    );
}

/// Records that a message counts.
fn records_in(message: &[u8]) -> u64 {
    let count = match message {
        [0, _, _, _, count, 1, ..] => *count,
        [count, ..] => *count,
        [] => 0,
    };
    u64::from(count)
}

/// Takes the workers' answers where nothing is walked.
struct Nothing;

impl Finds for Nothing {
    fn entry(&mut self, _: entry::Entry) {}
    fn number(&self, _: &TemplateEntry) -> EntryId {
        EntryId(0)
    }
}
