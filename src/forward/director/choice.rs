//! Which server: persistence templates, and the scheduler where there is none (specification §3).

use std::sync::Arc;

use super::{Carried, Context, Director, Side};
use crate::forward::defs::{OnNoKey, OnServerDown, Persistence, address_bytes};
use crate::forward::snapshot::{FTP, Service};
use crate::net::packet::proto;
use crate::net::{DropReason, Ip, PacketBuf};
use crate::persist::{NoKey, PayloadKey, Scratch, Session};
use crate::sched::{Selection, select_and_reserve};
use crate::table::{
    Dest, DestId, InsertRefused, NewTemplate, Origin, Placed, Repoint, TemplateKey, TemplateRef,
};

/// A server for a packet.
#[derive(Debug)]
pub(super) struct Chosen<'a> {
    pub dest: &'a Arc<Dest>,
    /// Whether it counts the packet's connection already.
    pub counted: bool,
    /// The template that it was chosen by, which counts the connection.
    pub template: Option<TemplateRef>,
    /// Hash of the packet's session key; 0 for none.
    pub session: u64,
}

/// Why there is no server for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The scheduler has none.
    NoServer,
    /// The persistence engine found no key.
    NoKey,
    /// A template would be needed and there is no room for it.
    TemplateTableFull,
    /// There would be room for a template, but not for so long a key.
    KeyTooLong,
    Drop(DropReason),
}

/// What the server is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A connection: its template counts it.
    Connection,
    /// This packet alone.
    Packet,
}

/// Rounds that are lost to other workers before a packet is given up.
const LOST_RACES_MAX: usize = 16;

impl Director {
    /// Chooses the server of a client's packet that has no connection.
    pub(super) fn choose<'a, F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'a>,
        p: &Carried<'_, F, B>,
        service: &'a Arc<Service>,
        mark: u32,
        purpose: Use,
    ) -> Result<Chosen<'a>, Refused> {
        let selection = self.selection(cx, p.ip);
        let mut scratch = Scratch::new();
        if let Some(key) = &service.def.payload_key {
            return match key {
                PayloadKey::Field(key) => {
                    let session = key.of(p.payload(), &mut scratch);
                    let client = p.ip.flow.src;
                    self.choose_by_session::<F>(cx, service, (client, session), selection, purpose)
                }
                PayloadKey::Quic(lb) => Self::choose_by_server_id(cx, service, lb, p, &selection),
            };
        }
        let Some(persistence) = &service.def.persistence else {
            if service.mark() == 0 && service.port() != p.ip.flow.dst_port {
                return Err(Refused::NoServer);
            }
            return pick(service, &selection);
        };
        let ahead = p.ahead();
        let udp = p.ip.flow.proto == proto::UDP;
        let data = match persistence.engine.filter(|_| udp) {
            None => None,
            Some(_) if ahead.len > 0 => {
                let from = usize::from(ahead.from);
                p.buf.data().get(from..from + usize::from(ahead.len))
            }
            Some(engine) => match engine.key(p.payload(), &mut scratch) {
                Ok(key) => Some(key),
                Err(why) => {
                    no_key(cx, service, why);
                    match persistence.on_no_key {
                        OnNoKey::Fallback => None,
                        OnNoKey::Drop => return Err(Refused::NoKey),
                    }
                }
            },
        };
        let flow = &p.ip.flow;
        let key = template_key::<F>(
            service,
            persistence,
            (flow.proto, flow.src, flow.dst),
            mark,
            data,
        );
        let new = new_template::<F>(service, persistence, flow.src);
        // Zero is as good a hash as any; it only says that none was computed.
        let hash = Some(ahead.hash).filter(|hash| *hash != 0);
        let hash = hash.unwrap_or_else(|| cx.templates.hash(&key));
        let chosen = by_template(cx, service, (&key, hash), new, &selection, purpose);
        let Err(Refused::KeyTooLong) = chosen else {
            return chosen;
        };
        if persistence.on_no_key == OnNoKey::Drop {
            return Err(Refused::NoKey);
        }
        let key = TemplateKey { data: None, ..key };
        let hash = cx.templates.hash(&key);
        by_template(cx, service, (&key, hash), new, &selection, purpose)
    }

    fn selection<'s, F: Side>(&mut self, cx: &Context<'_>, ip: &Ip<F>) -> Selection<'s> {
        Selection {
            client: F::fold32(ip.flow.src),
            client_port: ip.flow.src_port,
            virtual_addr: F::fold32(ip.flow.dst),
            random: self.next_random(),
            session: None,
            now: cx.now,
        }
    }

    /// Chooses by the key of the packet's session, and by the scheduler alone when it has none.
    fn choose_by_session<'a, F: Side>(
        &mut self,
        cx: &Context<'a>,
        service: &'a Arc<Service>,
        (client, session): (F::Addr, Session<'_>),
        selection: Selection<'_>,
        purpose: Use,
    ) -> Result<Chosen<'a>, Refused> {
        let key = match session {
            Session::Key(key) => key,
            Session::Absent => return pick(service, &selection),
            Session::Short => {
                no_key(cx, service, NoKey::Short);
                return pick(service, &selection);
            }
        };
        let selection = Selection {
            session: Some(key),
            ..selection
        };
        let new = session_new::<F>(cx, service, client);
        let template = session_template::<F>(service, key);
        let session = self.session_hash(key);
        let hash = cx.templates.hash(&template);
        match by_template(cx, service, (&template, hash), new, &selection, purpose) {
            Ok(chosen) => Ok(Chosen { session, ..chosen }),
            // The hash finds the session's server without a template. What is lost is that its old connection ends when it moves.
            Err(Refused::TemplateTableFull | Refused::KeyTooLong)
                if service.def.scheduler == "offh" =>
            {
                cx.counters.service(service.id).sessions_untracked.inc();
                let chosen = pick(service, &selection)?;
                // Its connection knows it all the same, and so keeps it.
                Ok(Chosen { session, ..chosen })
            }
            Err(refused) => Err(refused),
        }
    }
}

/// The scheduler's choice, counted.
pub(super) fn pick<'a>(
    service: &'a Service,
    selection: &Selection<'_>,
) -> Result<Chosen<'a>, Refused> {
    select_and_reserve(&*service.scheduler, &service.dests, selection)
        .map(|i| Chosen {
            dest: &service.dests[i],
            counted: true,
            template: None,
            session: 0,
        })
        .ok_or(Refused::NoServer)
}

/// Counts a packet without a key.
pub(super) fn no_key(cx: &Context<'_>, service: &Service, why: NoKey) {
    let counters = cx.counters.service(service.id);
    match why {
        NoKey::Short => counters.no_key_short.inc(),
        NoKey::Missing => counters.no_key_missing.inc(),
        NoKey::Long => counters.no_key_long.inc(),
    }
}

/// The key of the template that keeps a client's packets together (specification §3.2). `ends` are protocol, client and
/// virtual address.
pub(super) fn template_key<'k, F: Side>(
    service: &Service,
    persistence: &Persistence,
    (proto, client, vaddr): (u8, F::Addr, F::Addr),
    mark: u32,
    data: Option<&'k [u8]>,
) -> TemplateKey<'k> {
    let marked = service.mark() != 0;
    let mut to = address_bytes::<F>(vaddr);
    if marked {
        to = [0; 16];
        to[..4].copy_from_slice(&mark.to_be_bytes());
    }
    let ftp = service.port() == FTP && proto == proto::TCP;
    TemplateKey {
        service: service.id,
        af: F::AF,
        proto: if marked { 0 } else { proto },
        client: persistence.grouping.of::<F>(client),
        vaddr: to,
        vport: if ftp { 0 } else { service.port() },
        data,
    }
}

/// The template of a client of a persistent service; its server is yet to be chosen.
pub(super) fn new_template<F: Side>(
    service: &Service,
    persistence: &Persistence,
    client: F::Addr,
) -> NewTemplate {
    NewTemplate {
        dest: DestId(0),
        timeout: service.template_timeout,
        origin: Origin::Local,
        service_limit: persistence.max_templates,
        client_limit: persistence.max_per_client,
        source: address_bytes::<F>(client),
    }
}

/// The template of a session that a payload key names. It outlives the session's connection by as much as that lives
/// without packets; no longer, since a session that is silent on its own 5-tuple may not be found again on another.
pub(super) fn session_new<F: Side>(
    cx: &Context<'_>,
    service: &Service,
    client: F::Addr,
) -> NewTemplate {
    let (max_templates, max_per_client) = service.def.session_limits;
    NewTemplate {
        dest: DestId(0),
        timeout: cx.snapshot.services.timeouts.udp,
        origin: Origin::Local,
        service_limit: max_templates,
        client_limit: max_per_client,
        source: address_bytes::<F>(client),
    }
}

/// The key of a session's template: whoever sends, from wherever, to whichever of the service's addresses.
pub(super) fn session_template<'k, F: Side>(service: &Service, key: &'k [u8]) -> TemplateKey<'k> {
    TemplateKey {
        service: service.id,
        af: F::AF,
        proto: proto::UDP,
        client: [0; 16],
        vaddr: [0; 16],
        vport: 0,
        data: Some(key),
    }
}

enum Standing<'a> {
    /// The server serves on.
    Use(&'a Arc<Dest>),
    /// Another is to take its place.
    Replace,
    /// Neither.
    Drop,
}

/// What a template's server is good for (specification §2.8; `on_server_down`).
fn standing<'a>(cx: &Context<'a>, service: &Service, id: DestId) -> Standing<'a> {
    let Some(dest) = cx.snapshot.dest(id) else {
        // A worker with a newer snapshot has chosen a server that is not in ours.
        return Standing::Drop;
    };
    if dest.serving() {
        let quiescent = dest.weight == 0 && cx.snapshot.services.expire_quiescent_template;
        return if quiescent {
            Standing::Replace
        } else {
            Standing::Use(dest)
        };
    }
    match service.def.on_server_down {
        None | Some(OnServerDown::Reschedule) => Standing::Replace,
        Some(OnServerDown::Keep) => Standing::Use(dest),
        Some(OnServerDown::Drop) => Standing::Drop,
    }
}

/// The server that the template of `key` has, or the scheduler's choice in a new one.
fn by_template<'a>(
    cx: &Context<'a>,
    service: &'a Arc<Service>,
    (key, hash): (&TemplateKey<'_>, u64),
    mut new: NewTemplate,
    selection: &Selection<'_>,
    purpose: Use,
) -> Result<Chosen<'a>, Refused> {
    let counters = cx.counters.service(service.id);
    for _ in 0..LOST_RACES_MAX {
        let (template, chosen) = match cx.templates.lookup(key, hash, cx.now) {
            Some((template, id)) => match standing(cx, service, id) {
                Standing::Use(dest) => {
                    counters.template_hits.inc();
                    if purpose == Use::Packet && cx.templates.assured(template) == Some(false) {
                        // No connection will do it, and more than one packet has come (specification §2.10).
                        cx.templates.assure(template);
                    }
                    (template, uncounted(dest))
                }
                Standing::Drop => return Err(Refused::Drop(DropReason::DestUnavailable)),
                Standing::Replace => {
                    let picked = pick(service, selection)?;
                    if !repoint(cx, template, id, picked.dest) {
                        picked.dest.unbind(false);
                        continue;
                    }
                    (template, picked)
                }
            },
            None => {
                let picked = pick(service, selection)?;
                new.dest = picked.dest.id;
                match place(cx, key, hash, &new, picked.dest) {
                    Ok(Some(template)) => {
                        counters.template_misses.inc();
                        (template, picked)
                    }
                    Ok(None) => {
                        picked.dest.unbind(false);
                        continue;
                    }
                    Err(refused) => {
                        picked.dest.unbind(false);
                        return Err(refused);
                    }
                }
            }
        };
        if use_template(cx, template, purpose) {
            return Ok(Chosen {
                template: Some(template),
                ..chosen
            });
        }
        if chosen.counted {
            chosen.dest.unbind(false);
        }
    }
    Err(Refused::Drop(DropReason::Internal))
}

/// A server that does not count the packet's connection yet.
pub(super) fn uncounted(dest: &Arc<Dest>) -> Chosen<'_> {
    Chosen {
        dest,
        counted: false,
        template: None,
        session: 0,
    }
}

/// Restarts a template's time, and has it count a connection; `false` when it ended in between.
pub(super) fn use_template(cx: &Context<'_>, template: TemplateRef, purpose: Use) -> bool {
    match purpose {
        Use::Connection => cx.templates.acquire(template, cx.now),
        Use::Packet => {
            cx.templates.touch(template, cx.now);
            true
        }
    }
}

/// Stores a template with a server; `None` when another worker was faster. A key that is too long is counted.
///
/// The server's count goes up first: as soon as the template is there another worker may take it away again.
pub(super) fn place(
    cx: &Context<'_>,
    key: &TemplateKey<'_>,
    hash: u64,
    new: &NewTemplate,
    dest: &Dest,
) -> Result<Option<TemplateRef>, Refused> {
    dest.shared.bind_template();
    match cx.templates.insert(key, hash, new, cx.now) {
        Ok(Placed::New(template)) => Ok(Some(template)),
        Ok(Placed::Existing(..)) => {
            dest.shared.unbind_template();
            Ok(None)
        }
        Err(refused) => {
            dest.shared.unbind_template();
            Err(match refused {
                InsertRefused::DataFull => {
                    cx.counters.service(key.service).no_key_long.inc();
                    Refused::KeyTooLong
                }
                _ => Refused::TemplateTableFull,
            })
        }
    }
}

/// Gives a template another server; `false` when another worker was faster.
pub(super) fn repoint(cx: &Context<'_>, template: TemplateRef, from: DestId, to: &Dest) -> bool {
    to.shared.bind_template();
    let moved = cx.templates.repoint(template, from, to.id) == Repoint::Moved;
    if !moved {
        to.shared.unbind_template();
    } else if let Some(old) = cx.snapshot.dest(from) {
        old.shared.unbind_template();
    }
    moved
}
