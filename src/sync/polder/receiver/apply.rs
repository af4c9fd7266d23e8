//! What the tables are to do, one entry at a time and as fast as they like.
//!
//! Order: connections that are gone, templates, connections, templates that are gone. So a connection's template is there
//! before it, and goes after it. A connection whose template has not come waits for it for a while.

use std::collections::VecDeque;

use super::Receiver;
use crate::net::Tick;
use crate::sync::entry::{Entry, EntryId, TemplateEntry};
use crate::sync::polder::mirror::flag;
use crate::sync::polder::rounds::{Budget, DONE};

/// Ticks that connections wait for a template that did not come.
const WAIT: u32 = Tick::PER_SECOND;
/// Ticks after which those that wait are looked at although no template came.
const LINK_EVERY: u32 = WAIT / 4;

/// Something for the tables to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Apply {
    /// The process that told of it.
    pub peer: u64,
    /// The entry's number, to say with [`applied`](crate::sync::polder::Node::applied) how it went.
    pub id: EntryId,
    /// What to do.
    pub what: What,
    /// The template that controls the connection, if it names one and the sender told of it.
    pub link: Option<TemplateEntry>,
}

/// What to do with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Put it in, or change it; its `remaining` is as of now.
    Install(Entry),
    /// Take it out.
    Remove(Entry),
}

/// Slots that the tables are to hear of, each in one queue at most. What is to be done is the slot's state when it comes
/// out.
#[derive(Debug, Default)]
pub(super) struct Queues {
    conns_gone: VecDeque<u32>,
    templates: VecDeque<u32>,
    conns: VecDeque<u32>,
    templates_gone: VecDeque<u32>,
    /// Connections whose template was not told yet, and since when.
    waiting: VecDeque<(u32, Tick)>,
}

impl Queues {
    pub fn len(&self) -> usize {
        self.conns_gone.len()
            + self.templates.len()
            + self.conns.len()
            + self.templates_gone.len()
            + self.waiting.len()
    }

    fn pop(&mut self) -> Option<(u32, bool)> {
        if let Some(at) = self.conns_gone.pop_front() {
            return Some((at, true));
        }
        if let Some(at) = self.templates.pop_front() {
            return Some((at, false));
        }
        if let Some(at) = self.conns.pop_front() {
            return Some((at, false));
        }
        self.templates_gone.pop_front().map(|at| (at, true))
    }
}

impl Receiver {
    /// Puts a slot into the queue of what is to be done with it, if it is in none.
    pub(super) fn enqueue(&mut self, at: u32) {
        if !self.mirror.slot(at).is(flag::QUEUED) {
            self.mirror.slot_mut(at).flags |= flag::QUEUED;
            self.queue_of(at).push_back(at);
        }
    }

    fn queue_of(&mut self, at: u32) -> &mut VecDeque<u32> {
        let slot = self.mirror.slot(at);
        let is_conn = matches!(slot.entry(), Some(Entry::Conn(_)));
        match (slot.is_live(), is_conn) {
            (true, true) => &mut self.queues.conns,
            (true, false) => &mut self.queues.templates,
            (false, true) => &mut self.queues.conns_gone,
            (false, false) => &mut self.queues.templates_gone,
        }
    }

    /// Whether the tables have something to do.
    pub fn has_apply(&self) -> bool {
        self.queues.len() > self.queues.waiting.len()
    }

    /// The next thing for the tables to do.
    pub fn next_apply(&mut self, now: Tick) -> Option<Apply> {
        loop {
            let (at, was_gone) = self.queues.pop()?;
            let slot = self.mirror.slot_mut(at);
            slot.flags &= !flag::QUEUED;
            let (live, installed) = (slot.is_live(), slot.is(flag::INSTALLED));
            if !live && !installed {
                self.mirror.free(at);
            } else if live == was_gone {
                // It died, or lives again, since it was put there.
                self.enqueue(at);
            } else if !live {
                return Some(self.leaves(at));
            } else if let Some(apply) = self.install(now, at) {
                return Some(apply);
            }
        }
    }

    /// What the tables hear of an entry that is gone. If it got another server in between they hear of that first, or they
    /// would not know it.
    fn leaves(&mut self, at: u32) -> Apply {
        let peer = self.boot;
        let slot = self.mirror.slot_mut(at);
        let (id, moved) = (slot.id, slot.is(flag::MOVED));
        slot.flags &= !flag::MOVED;
        match slot.entry().filter(|_| moved).cloned() {
            Some(entry) => {
                self.enqueue(at);
                Apply {
                    peer,
                    id,
                    what: What::Install(entry.with_remaining(1)),
                    link: None,
                }
            }
            None => self.gone(at),
        }
    }

    /// An entry that was to be installed is not offered to the tables, because somebody else's counts. Whether that may be:
    /// of one that is gone they have to hear.
    pub fn withhold(&mut self, id: EntryId) -> bool {
        let live = self
            .mirror
            .find(id)
            .filter(|&at| self.mirror.slot(at).is_live());
        if let Some(at) = live {
            self.mirror.slot_mut(at).flags |= flag::MOVED;
        }
        live.is_some()
    }

    fn gone(&mut self, at: u32) -> Apply {
        let id = self.mirror.slot(at).id;
        Apply {
            peer: self.boot,
            id,
            what: What::Remove(self.mirror.free(at).with_remaining(0)),
            link: None,
        }
    }

    fn install(&mut self, now: Tick, at: u32) -> Option<Apply> {
        let slot = self.mirror.slot(at);
        let (id, waited) = (slot.id, slot.is(flag::WAITED));
        let entry = slot.entry()?;
        let remaining = slot.deadline.since(now);
        if remaining == 0 {
            // There is nothing left to install: the sender is about to remove it, or it is dead.
            self.note_handed(at, false);
            return None;
        }
        let named = match entry {
            Entry::Conn(conn) => conn.template,
            Entry::Template(_) => None,
        };
        let link = named.and_then(|id| self.template(id)).cloned();
        let is_unlinked = named.is_some() && link.is_none();
        let what = What::Install(entry.clone().with_remaining(remaining));
        if is_unlinked && !waited {
            self.mirror.slot_mut(at).flags |= flag::QUEUED;
            self.queues.waiting.push_back((at, now));
            return None;
        }
        self.note_handed(at, is_unlinked);
        Some(Apply {
            peer: self.boot,
            id,
            what,
            link,
        })
    }

    /// The tables have it until they say otherwise: it may be removed before they do.
    fn note_handed(&mut self, at: u32, is_unlinked: bool) {
        let slot = self.mirror.slot_mut(at);
        self.installed += usize::from(!slot.is(flag::INSTALLED));
        self.refused -= usize::from(slot.is(flag::REFUSED));
        self.unlinked -= usize::from(slot.is(flag::UNLINKED));
        self.unlinked += usize::from(is_unlinked);
        slot.flags &= !(flag::REFUSED | flag::UNLINKED | flag::MOVED);
        slot.flags |= flag::INSTALLED | if is_unlinked { flag::UNLINKED } else { 0 };
    }

    /// How it went.
    pub fn applied(&mut self, id: EntryId, ok: bool) {
        let Some(at) = self.mirror.find(id).filter(|_| !ok) else {
            return;
        };
        let slot = self.mirror.slot_mut(at);
        if !slot.is(flag::INSTALLED) {
            return;
        }
        slot.flags &= !flag::INSTALLED;
        if slot.is_live() {
            slot.flags |= flag::REFUSED;
            self.installed -= 1;
            self.refused += 1;
        }
    }

    /// Offers again what the tables refused, in the calls of [`Receiver::work`] that follow.
    pub fn retry_uninstalled(&mut self) {
        if self.refused > 0 {
            self.rounds.retry.ask();
        }
    }

    pub(super) fn retry(&mut self, budget: &mut Budget) {
        while let Some(at) = self.rounds.retry.next(self.mirror.slots(), budget) {
            if self.mirror.slot(at).is(flag::REFUSED) {
                self.enqueue(at);
            }
        }
    }

    /// Lets connections go on that wait for their templates: if those came, or after a while.
    pub(super) fn link(&mut self, now: Tick) {
        let is_time = |at: Tick| now.since(at) >= LINK_EVERY;
        let news = std::mem::take(&mut self.new_templates);
        if news || is_time(self.waited) {
            self.waited = now;
            self.rounds.waiting = self.queues.waiting.len();
        }
        self.late_templates |= news;
        if self.late_templates && self.unlinked > 0 && is_time(self.linked) {
            self.linked = now;
            self.late_templates = false;
            self.rounds.link.ask();
        }
    }

    /// When to do so next, if some wait.
    pub(super) fn link_at(&self) -> Option<Tick> {
        (!self.queues.waiting.is_empty()).then(|| self.waited.plus(LINK_EVERY))
    }

    /// Lets those go on of which [`Self::link`] says so.
    pub(super) fn link_waiting(&mut self, now: Tick, budget: &mut Budget) {
        while self.rounds.waiting > 0 && budget.take(DONE) > 0 {
            self.rounds.waiting -= 1;
            let Some((at, since)) = self.queues.waiting.pop_front() else {
                break;
            };
            if !self.lacks_template(at) || now.since(since) >= WAIT {
                self.mirror.slot_mut(at).flags &= !flag::QUEUED;
                self.mirror.slot_mut(at).flags |= flag::WAITED;
                self.enqueue(at);
            } else {
                self.queues.waiting.push_back((at, since));
            }
        }
    }

    /// Whether it is a live connection that names a template which is not there.
    pub(super) fn lacks_template(&self, at: u32) -> bool {
        let slot = self.mirror.slot(at);
        match slot.entry().filter(|_| slot.is_live()) {
            Some(Entry::Conn(conn)) => conn.template.is_some_and(|id| self.template(id).is_none()),
            _ => false,
        }
    }

    /// Offers connections again whose templates came after them.
    pub(super) fn link_late(&mut self, budget: &mut Budget) {
        while let Some(at) = self.rounds.link.next(self.mirror.slots(), budget) {
            let slot = self.mirror.slot(at);
            if !slot.is(flag::UNLINKED) || !slot.is_live() {
                continue;
            }
            budget.take(DONE);
            if !self.lacks_template(at) {
                self.enqueue(at);
            }
        }
    }
}
