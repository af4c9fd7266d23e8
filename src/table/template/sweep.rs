//! The management core's part: ending what has expired, and listing.
//!
//! Owns the unlinking of entries and their way back to the free stack; nobody else does either. One
//! sweep reads every control word (8 MB for a million templates), unless it is known that nothing
//! is due.

use std::sync::TryLockError;

use super::control::{Control, State};
use super::entry::{Bound, Link, Origin, Terms};
use super::key::{self, TemplateKey};
use super::word::{Word, high, low, pair, update};
use super::{Table, TemplateRef};
use crate::net::Tick;
use crate::table::dest::DestId;

/// A template that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended<'a> {
    /// The server that it had last; the caller counts it there no longer.
    pub dest: DestId,
    /// Its key.
    pub key: TemplateKey<'a>,
    /// Who made it.
    pub origin: Origin,
    /// Whether a connection under its control was established.
    pub assured: bool,
    /// Its last holder, 0 for none.
    pub holder: u64,
}

/// A template as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateRow {
    /// The template.
    pub at: TemplateRef,
    /// Fixed parts of the key, without data.
    pub key: TemplateKey<'static>,
    /// The persistence engine's key.
    pub data: Option<Vec<u8>>,
    /// Its server.
    pub dest: DestId,
    /// Ticks until its timer fires.
    pub remaining: u32,
    /// The stored timeout in ticks.
    pub timeout: u32,
    /// How many connections it controls.
    pub controlled: u32,
    /// Whether a connection under its control was established.
    pub assured: bool,
    /// Who made it.
    pub origin: Origin,
    /// Its holder, 0 for none.
    pub holder: u64,
}

/// The part of [`Table::earliest`] that says that there is a deadline.
const SET: u32 = 1;

impl<W: Word> Table<W> {
    /// Ends what has expired at `now`, restarts the timers of what has not because it controls
    /// connections (specification §2.7), tells `ended` of every template that has ended in any way
    /// since the last sweep, and makes their places free. Does nothing during another sweep.
    pub fn sweep(&self, now: Tick, ended: impl FnMut(Ended<'_>)) {
        self.sweep_telling(now, ended, |_| {});
    }

    /// The same, and tells `kept` of every template whose timer was restarted.
    pub fn sweep_telling(
        &self,
        now: Tick,
        mut ended: impl FnMut(Ended<'_>),
        mut kept: impl FnMut(TemplateRef),
    ) {
        let mut data = match self.sweeping.try_lock() {
            Ok(data) => data,
            Err(TryLockError::Poisoned(data)) => data.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let due = self
            .next_deadline()
            .is_some_and(|earliest| now.reached(earliest));
        // Whoever asks for a sweep after this is heard by the next one, or seen by this one.
        if self.work.swap(0) == 0 && !due {
            return;
        }
        self.earliest.swap(0);
        let mut earliest: Option<Tick> = None;
        for (index, control) in (0..).zip(&self.controls) {
            let word = control.load();
            if word == 0 {
                continue;
            }
            if let Some(deadline) =
                self.sweep_one(index, word, now, &mut data, (&mut ended, &mut kept))
            {
                let later = earliest.is_some_and(|earliest| deadline.reached(earliest));
                earliest = if later { earliest } else { Some(deadline) };
            }
        }
        if let Some(deadline) = earliest {
            self.note_deadline(deadline);
        }
    }

    /// A time before which no timer fires; nothing if there is no template. A lower bound: a sweep
    /// then may find nothing, but makes the bound better.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let word = self.earliest.load();
        (high(word) == SET).then(|| Tick(low(word)))
    }

    /// Lists templates: tells `row` of those in up to `max` places from `cursor` on, and gives the
    /// cursor for the next call, if there are more. Starts at cursor 0. A template that lives all
    /// the while is listed once, with all parts from one moment.
    pub fn dump(
        &self,
        cursor: u32,
        max: u32,
        now: Tick,
        mut row: impl FnMut(TemplateRow),
    ) -> Option<u32> {
        let places = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let end = cursor.saturating_add(max).min(places);
        (cursor..end)
            .filter_map(|index| self.row(index, now))
            .for_each(&mut row);
        (end < places).then_some(end)
    }

    /// Lowers the bound of [`Self::next_deadline`] to `deadline`.
    ///
    /// The caller has written the deadline in a control word before, and the sweeper resets the
    /// bound before it reads those: if it misses the deadline, this comes after the reset.
    pub(super) fn note_deadline(&self, deadline: Tick) {
        update(&self.earliest, |word| {
            let known = high(word) == SET && deadline.reached(Tick(low(word)));
            (!known).then(|| pair(SET, deadline.0))
        });
    }

    /// Asks for a sweep although no timer may be due.
    pub(super) fn call_sweeper(&self) {
        update(&self.work, |asked| (asked == 0).then_some(1));
    }

    /// Does what an entry needs; its deadline if it is alive afterwards.
    fn sweep_one(
        &self,
        index: u32,
        word: u64,
        now: Tick,
        data: &mut Vec<u8>,
        (ended, kept): (&mut impl FnMut(Ended<'_>), &mut impl FnMut(TemplateRef)),
    ) -> Option<Tick> {
        let mut control = Control::unpack(word);
        while control.state == State::Live {
            match control.at(now) {
                Some(fired) if fired == control => return Some(control.deadline),
                Some(fired) => {
                    if self.control(index).swap_if(control.pack(), fired.pack()) {
                        kept(self.get(index));
                    }
                }
                None => {
                    let at = self.get(index);
                    self.kill(at, |live| live.at(now).is_none());
                }
            }
            control = Control::unpack(self.control(index).load());
        }
        if control.state == State::Dead {
            self.retire(index, control, data, ended);
        }
        None
    }

    /// Takes a dead entry out of its chain and reports it, if that is not done, and frees its place
    /// when no connection holds it.
    fn retire(
        &self,
        index: u32,
        control: Control,
        data: &mut Vec<u8>,
        ended: &mut impl FnMut(Ended<'_>),
    ) {
        let mut controlled = control.controlled;
        if !control.mark {
            self.unlink(index);
            self.close(index, data, ended);
            let marked = update(self.control(index), |word| {
                let mark = true;
                Some(
                    Control {
                        mark,
                        ..Control::unpack(word)
                    }
                    .pack(),
                )
            });
            controlled = marked.map_or(0, |word| Control::unpack(word).controlled);
        }
        if controlled == 0 {
            self.reclaim(index);
        }
    }

    /// Takes an entry out of its chain. It keeps its own link, for readers that are at it.
    fn unlink(&self, index: u32) {
        let entry = self.entry(index);
        let bucket = self.bucket(entry.tag.load());
        let leads = |word| Link::unpack(word).is_some_and(|link| link.index == index);
        let after = entry.next.load();
        loop {
            let head = bucket.load();
            if leads(head) {
                if bucket.swap_if(head, after) {
                    return;
                }
                continue;
            }
            let mut at = Link::unpack(head);
            while let Some(link) = at {
                let next = &self.entry(link.index).next;
                // Nobody else writes the links of published entries.
                if leads(next.load()) {
                    next.store(after);
                    return;
                }
                at = Link::unpack(next.load());
            }
            debug_assert!(false, "a template that has ended is in no chain");
            return;
        }
    }

    /// Ends the life of an entry, so that every reference to it is stale, and reports it.
    fn close(&self, index: u32, data: &mut Vec<u8>, ended: &mut impl FnMut(Ended<'_>)) {
        let entry = self.entry(index);
        let mut last = Bound::unpack(entry.dest.load());
        update(&entry.dest, |word| {
            last = Bound::unpack(word);
            let life = last.next_life();
            Some(Bound { life, ..last }.pack())
        });
        let has_data = entry.copy_data(&self.pool, data);
        ended(Ended {
            dest: last.dest,
            key: key::from_words(entry.fixed(), has_data.then_some(data.as_slice())),
            origin: Terms::unpack(entry.terms.load()).origin,
            assured: last.assured,
            holder: entry.holder.load(),
        });
    }

    /// The template in a place, if there is one that stays while it is read.
    fn row(&self, index: u32, now: Tick) -> Option<TemplateRow> {
        let at = self.get(index);
        let entry = self.entry_of(at)?;
        let mut data = Vec::new();
        let has_data = entry.copy_data(&self.pool, &mut data);
        let (fixed, holder) = (entry.fixed(), entry.holder.load());
        let terms = Terms::unpack(entry.terms.load());
        let bound = Bound::unpack(entry.dest.load());
        let live = self.live(at, bound)?.at(now)?;
        Some(TemplateRow {
            at,
            key: key::from_words(fixed, None),
            data: has_data.then_some(data),
            dest: bound.dest,
            remaining: live.deadline.since(now),
            timeout: live.timeout(terms.timeout),
            controlled: live.controlled,
            assured: bound.assured,
            origin: terms.origin,
            holder,
        })
    }
}
