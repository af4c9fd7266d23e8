//! Sessions that packets name themselves: by a field of the payload, or by a QUIC connection ID.
//!
//! A session by a field has a template, which says its server, and at most one connection, which the template knows as
//! its holder. When the session turns up on another 5-tuple, the connection that is made there becomes the holder and
//! the one before is ended, on whichever worker it lives.

use std::sync::Arc;

use super::choice::{self, Chosen, Refused, Use, pick, uncounted};
use super::{Carried, Context, Director, OPEN, Side, Sink, Verdict};
use crate::forward::defs::OnServerDown;
use crate::forward::snapshot::Service;
use crate::net::{Af, DropReason, HashKey, PacketBuf, V4, V6, hash_bytes};
use crate::persist::{NoKey, PayloadKey, QuicId, QuicLb, Scratch, Session, SessionKey};
use crate::sched::Selection;
use crate::table::{ConnIdx, Dest, NONE, ServiceId};

/// A connection that is to end because its session lives elsewhere now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evict {
    af: Af,
    index: ConnIdx,
    /// By these it is told from another connection that has come to its place.
    template: u32,
    session: u64,
}

/// What a packet's key says about the connection of its 5-tuple.
enum Course {
    /// It belongs to it.
    Follow,
    /// It belongs to another session.
    Leave,
}

impl Director {
    /// A client's packet on a known 5-tuple of a service with a payload key.
    #[inline(never)]
    pub(super) fn keyed<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &mut Carried<'_, F, B>,
        index: ConnIdx,
        dest: &Arc<Dest>,
        sink: &mut impl Sink<B>,
    ) -> Verdict {
        let conn = F::table(self).get(index);
        let mark = conn.mark;
        let Some(service) = conn.service_id().and_then(|id| cx.snapshot.service(id)) else {
            return self.serve(cx, p, index, dest, sink);
        };
        let course = match &service.def.payload_key {
            None => Course::Follow,
            Some(PayloadKey::Field(key)) => {
                self.course_by_field(cx, p, service, key, (index, dest), sink)
            }
            Some(PayloadKey::Quic(lb)) => course_by_server_id(cx, p, service, lb, dest),
        };
        let refused = service.def.on_server_down == Some(OnServerDown::Drop) && !dest.serving();
        match course {
            Course::Follow if refused => Verdict::Drop(DropReason::DestUnavailable),
            Course::Follow => self.serve(cx, p, index, dest, sink),
            Course::Leave => {
                self.remove::<F>(cx, index);
                self.schedule(cx, p, service, mark, sink)
            }
        }
    }

    fn course_by_field<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        p: &Carried<'_, F, B>,
        service: &Arc<Service>,
        key: &SessionKey,
        (index, dest): (ConnIdx, &Arc<Dest>),
        sink: &mut impl Sink<B>,
    ) -> Course {
        let mut scratch = Scratch::new();
        let name = match key.of(p.payload(), &mut scratch) {
            Session::Absent => {
                let conn = F::table(self).get_mut(index);
                // Where the key itself says the server, a session that has one gives its 5-tuple to no other.
                let may = conn.session == 0 || service.def.scheduler != "offh";
                if may && conn.flags() & OPEN == 0 {
                    conn.set_flags(conn.flags() | OPEN);
                }
                return Course::Follow;
            }
            Session::Short => {
                choice::no_key(cx, service, NoKey::Short);
                return Course::Follow;
            }
            Session::Key(name) => name,
        };
        let session = self.session_hash(name);
        let conn = F::table(self).get_mut(index);
        let open = conn.flags() & OPEN != 0;
        if open {
            conn.set_flags(conn.flags() & !OPEN);
        }
        if session == conn.session {
            Course::Follow
        } else if open {
            let client = p.ip.flow.src;
            self.adopt::<F, B>(cx, service, (client, name, session), (index, dest), sink)
        } else {
            Course::Leave
        }
    }

    /// Makes the connection the holder of a session, if the session has no other server.
    fn adopt<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        service: &Arc<Service>,
        (client, name, session): (F::Addr, &[u8], u64),
        (index, dest): (ConnIdx, &Arc<Dest>),
        sink: &mut impl Sink<B>,
    ) -> Course {
        let key = choice::session_template::<F>(service, name);
        let hash = cx.templates.hash(&key);
        let template = match cx.templates.lookup(&key, hash, cx.now) {
            Some((template, id)) if id == dest.id => Ok(Some(template)),
            Some(_) => return Course::Leave,
            None => {
                let mut new = choice::session_new::<F>(cx, service, client);
                new.dest = dest.id;
                choice::place(cx, &key, hash, &new, dest)
            }
        };
        match template {
            Ok(Some(template)) if choice::use_template(cx, template, Use::Connection) => {
                let conn = F::table(self).get_mut(index);
                if conn.template != NONE {
                    cx.templates.release(conn.template, cx.now);
                }
                conn.template = template.index;
                conn.session = session;
                self.take_session::<F, B>(cx, index, sink);
            }
            // Another worker was faster; the next packet goes where that has put the session.
            Ok(_) => {}
            Err(_) => {
                // Without a template it stays where it is for as long as the connection does.
                cx.counters.service(service.id).sessions_untracked.inc();
                let conn = F::table(self).get_mut(index);
                let before = conn.template;
                (conn.template, conn.session) = (NONE, session);
                if before != NONE {
                    cx.templates.release(before, cx.now);
                }
            }
        }
        Course::Follow
    }

    /// Ends the connection that a session had before the one at `index`.
    pub(super) fn take_session<F: Side, B: PacketBuf>(
        &mut self,
        cx: &Context<'_>,
        index: ConnIdx,
        sink: &mut impl Sink<B>,
    ) {
        let conn = F::table(self).get(index);
        let (session, template, service) = (conn.session, conn.template, conn.service);
        if session == 0 || template == NONE {
            return;
        }
        let mine = holder(self.config.worker, F::AF, index);
        let reference = cx.templates.get(template);
        let before = cx.templates.swap_holder(reference, mine, cx.now);
        let Some(before) = before.filter(|before| *before != 0 && *before != mine) else {
            return;
        };
        let (worker, af, index) = held(before);
        let evict = Evict {
            af,
            index,
            template,
            session,
        };
        if worker == self.config.worker {
            self.evict(cx, evict);
        } else if !sink.evict(worker, evict) {
            cx.counters.service(ServiceId(service)).rehome_lost.inc();
        }
    }

    /// Ends a connection whose session lives elsewhere now, if it is still there.
    pub fn evict(&mut self, cx: &Context<'_>, evict: Evict) {
        match evict.af {
            Af::V4 => self.evict_side::<V4>(cx, evict),
            Af::V6 => self.evict_side::<V6>(cx, evict),
        }
    }

    fn evict_side<F: Side>(&mut self, cx: &Context<'_>, evict: Evict) {
        let Some(conn) = F::table(self).get_live(evict.index) else {
            return;
        };
        if (conn.template, conn.session) == (evict.template, evict.session) {
            let service = ServiceId(conn.service);
            self.remove::<F>(cx, evict.index);
            cx.counters.service(service).rehomed.inc();
        }
    }

    /// A session's number.
    pub(super) fn session_hash(&self, key: &[u8]) -> u64 {
        session_hash(key, &self.config.owner_key)
    }

    /// Chooses by the server id in the connection ID, and by the scheduler when it names no server of the service.
    pub(super) fn choose_by_server_id<'a, F: Side, B: PacketBuf>(
        cx: &Context<'a>,
        service: &'a Arc<Service>,
        lb: &QuicLb,
        p: &Carried<'_, F, B>,
        selection: &Selection<'_>,
    ) -> Result<Chosen<'a>, Refused> {
        match named(cx, service, lb, p.payload()) {
            Some(dest) if lost(service, dest) => pick(service, selection),
            Some(dest)
                if !dest.serving() && service.def.on_server_down == Some(OnServerDown::Drop) =>
            {
                Err(Refused::Drop(DropReason::DestUnavailable))
            }
            Some(dest) => Ok(uncounted(dest)),
            None => pick(service, selection),
        }
    }
}

/// Whether the sessions of a server go elsewhere.
fn lost(service: &Service, dest: &Dest) -> bool {
    let reschedule = matches!(
        service.def.on_server_down,
        None | Some(OnServerDown::Reschedule)
    );
    reschedule && !dest.serving()
}

/// A session's number under the workers' common secret: never 0, and nobody outside can make two sessions have the same.
#[must_use]
pub fn session_hash(key: &[u8], owner_key: &HashKey) -> u64 {
    hash_bytes(key, owner_key) | 1
}

fn course_by_server_id<F: Side, B: PacketBuf>(
    cx: &Context<'_>,
    p: &Carried<'_, F, B>,
    service: &Arc<Service>,
    lb: &QuicLb,
    dest: &Dest,
) -> Course {
    match named(cx, service, lb, p.payload()) {
        Some(other) if other.id != dest.id && !lost(service, other) => Course::Leave,
        _ => Course::Follow,
    }
}

/// The server that a packet's connection ID names, if it is the service's.
fn named<'a>(
    cx: &Context<'_>,
    service: &'a Service,
    lb: &QuicLb,
    payload: &[u8],
) -> Option<&'a Arc<Dest>> {
    let mut room = [0; 15];
    match lb.server_id(payload, &mut room) {
        QuicId::Server(id) => {
            let index = service.quic_servers.get(id)?;
            service.dests.get(*index)
        }
        QuicId::Unroutable => None,
        QuicId::Invalid => {
            choice::no_key(cx, service, NoKey::Short);
            None
        }
    }
}

/// A template's holder word: worker, family and place of a connection; never 0.
fn holder(worker: usize, af: Af, index: ConnIdx) -> u64 {
    let family = if af == Af::V4 { 1 } else { 2 };
    (worker as u64) << 40 | family << 32 | u64::from(index.0)
}

#[allow(clippy::cast_possible_truncation)]
fn held(word: u64) -> (usize, Af, ConnIdx) {
    let af = if word >> 32 & 0xff == 1 {
        Af::V4
    } else {
        Af::V6
    };
    ((word >> 40) as usize, af, ConnIdx(word as u32))
}
