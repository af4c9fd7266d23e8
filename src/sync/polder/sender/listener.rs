//! Those who follow a stream, by what they report.

use std::net::SocketAddr;

use crate::net::Tick;
use crate::sync::polder::Rejected;
use crate::sync::polder::wire::Report;

/// Directors that are known on either side at most.
pub const PEERS_MAX: usize = 16;
/// Ticks of silence after which a listener is lost.
pub const LOST_AFTER: u32 = 10 * Tick::PER_SECOND;
/// Ticks without a report after which the last one is old.
const LATE_AFTER: u32 = 3 * Tick::PER_SECOND;
/// Ticks of silence after which it is forgotten.
pub const FORGOTTEN_AFTER: u32 = 300 * Tick::PER_SECOND;
/// Ticks between two questions of one listener at least.
const ASK_EVERY: u32 = Tick::PER_SECOND / 10;
/// Questions that may come at once.
const ASK_BURST: u32 = 4;

/// One of them.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its process.
    pub boot: u64,
    /// Its name, empty while it is not known.
    pub name: String,
    /// Where it was heard from.
    pub addr: SocketAddr,
    /// When.
    pub heard: Tick,
    /// Its last report.
    pub report: Option<Report>,
    /// When that came.
    pub reported: Tick,
    /// The share of our entries that it had then.
    pub coverage: f64,
    /// It said once that it has everything.
    pub synced: bool,
    /// When it may ask again, earlier by a burst.
    ask_at: Tick,
}

impl Listener {
    /// Whether nothing came from it for long.
    pub fn is_lost(&self, now: Tick) -> bool {
        now.since(self.heard) > LOST_AFTER
    }

    /// Ticks since what it knows was true, while it reports: as of its last report.
    pub fn lag(&self, now: Tick) -> u32 {
        let Some(report) = &self.report else {
            return now.since(self.heard);
        };
        let is_late = now.since(self.reported) > LATE_AFTER;
        let seen = if is_late { now } else { self.reported };
        seen.since(Tick(report.tick))
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Listeners(Vec<Listener>);

impl Listeners {
    /// Notes that a director that follows this very stream was heard.
    ///
    /// # Errors
    /// When there are too many.
    pub fn heard(
        &mut self,
        now: Tick,
        boot: u64,
        addr: SocketAddr,
        name: &str,
    ) -> Result<&mut Listener, Rejected> {
        let at = match self.0.iter().position(|l| l.boot == boot) {
            Some(at) => at,
            None => {
                self.make_room(now)?;
                self.0.push(Listener {
                    boot,
                    name: String::new(),
                    addr,
                    heard: now,
                    report: None,
                    reported: now,
                    coverage: 0.0,
                    synced: false,
                    ask_at: now,
                });
                self.0.len() - 1
            }
        };
        let listener = &mut self.0[at];
        listener.addr = addr;
        listener.heard = now;
        if listener.name != name {
            name.clone_into(&mut listener.name);
        }
        Ok(listener)
    }

    fn make_room(&mut self, now: Tick) -> Result<(), Rejected> {
        if self.0.len() < PEERS_MAX {
            return Ok(());
        }
        let lost = self.0.iter().position(|l| l.is_lost(now));
        self.0.remove(lost.ok_or(Rejected::Peers)?);
        Ok(())
    }

    /// Notes a report. `entries` is how many we had at the mark that it names, as far as is known.
    ///
    /// # Errors
    /// When a later one came before.
    #[allow(clippy::cast_precision_loss)]
    pub fn report(
        &mut self,
        now: Tick,
        boot: u64,
        report: Report,
        entries: Option<u64>,
    ) -> Result<(), Rejected> {
        let listener = self.0.iter_mut().find(|l| l.boot == boot);
        let listener = listener.ok_or(Rejected::Stray)?;
        if listener
            .report
            .is_some_and(|last| last.applied_seq > report.applied_seq)
        {
            return Err(Rejected::Stray);
        }
        if let Some(entries) = entries {
            let share = report.covered as f64 / entries.max(1) as f64;
            listener.coverage = if entries == 0 { 1.0 } else { share.min(1.0) };
        }
        listener.synced |= !report.dirty;
        listener.reported = now;
        listener.report = Some(report);
        Ok(())
    }

    /// Whether a listener may ask for something now.
    ///
    /// # Errors
    /// When it may not, or is none.
    pub fn may_ask(&mut self, now: Tick, boot: u64) -> Result<(), Rejected> {
        let listener = self.0.iter_mut().find(|l| l.boot == boot);
        let listener = listener.ok_or(Rejected::Stray)?;
        if listener.ask_at.since(now) > ASK_BURST * ASK_EVERY {
            return Err(Rejected::Rate);
        }
        let from = if now.reached(listener.ask_at) {
            now
        } else {
            listener.ask_at
        };
        listener.ask_at = from.plus(ASK_EVERY);
        Ok(())
    }

    /// Forgets those who are silent for long.
    pub fn poll(&mut self, now: Tick) {
        self.0.retain(|l| now.since(l.heard) <= FORGOTTEN_AFTER);
    }

    /// Those that are known.
    pub fn iter(&self) -> impl Iterator<Item = &Listener> {
        self.0.iter()
    }

    /// Whether this one is known.
    pub fn has(&self, boot: u64) -> bool {
        self.0.iter().any(|l| l.boot == boot)
    }
}
