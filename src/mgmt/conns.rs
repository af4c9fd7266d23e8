//! Lists connections by asking every worker for one bounded page after another.
//!
//! Never blocks and never makes a worker wait. Answers carry no number, but come in the order of the questions: a
//! count of unanswered ones per worker tells a late answer of an abandoned listing from the one waited for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::api::{Connection, Connections, Error, ErrorKind};
use super::names;
use crate::forward::Snapshot;
use crate::net::{Af, Tick};
use crate::table::ServiceId;
use crate::worker::{Command, ConnPage, ConnRow, Plane, WorkerShared};

/// Rows that a worker is asked for, and entries that it looks at, at a time: some tens of microseconds of its time.
const PAGE_ROWS: usize = 512;

/// Rows of one request, if it does not say.
pub const LIMIT_DEFAULT: usize = 1000;

/// Rows of one request at most.
pub const LIMIT_MAX: usize = 10_000;

/// How long a worker may take for one page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Unanswered questions at which a worker is given up. Below the rings' size, so that no answer is lost.
const UNANSWERED_MAX: u32 = 4;

/// Times that the listing only lets other tasks run before it begins to sleep between looks.
const YIELDS: u32 = 64;

/// A place in the listing of all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    worker: usize,
    af: Af,
    cursor: u32,
    /// Rows of the page at `cursor` that match and were given out already.
    skip: usize,
}

impl Position {
    /// The start.
    pub const START: Self = Self {
        worker: 0,
        af: Af::V4,
        cursor: 0,
        skip: 0,
    };

    fn next_table(self) -> Self {
        match self.af {
            Af::V4 => Self {
                af: Af::V6,
                cursor: 0,
                skip: 0,
                ..self
            },
            Af::V6 => Self {
                worker: self.worker + 1,
                ..Self::START
            },
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let af = if self.af == Af::V4 { 4 } else { 6 };
        write!(f, "{}.{af}.{}.{}", self.worker, self.cursor, self.skip)
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let parse = || {
            let mut parts = s.split('.');
            let position = Self {
                worker: parts.next()?.parse().ok()?,
                af: match parts.next()? {
                    "4" => Af::V4,
                    "6" => Af::V6,
                    _ => return None,
                },
                cursor: parts.next()?.parse().ok()?,
                skip: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(position)
        };
        parse().ok_or_else(|| format!("`{s}` is not a `next` of an earlier answer"))
    }
}

/// Asks workers for their connections, one listing at a time.
#[derive(Debug)]
pub struct Lister {
    plane: Arc<Plane>,
    /// Questions without an answer, by worker.
    unanswered: Mutex<Vec<u32>>,
}

impl Lister {
    /// A lister. There must be one only: it alone takes the workers' answers.
    #[must_use]
    pub fn new(plane: Arc<Plane>) -> Self {
        let unanswered = Mutex::new(vec![0; plane.workers.len()]);
        Self { plane, unanswered }
    }

    /// At most `limit` connections from `from` on, of one service or of all.
    ///
    /// # Errors
    /// A worker has stopped or does not answer within two seconds.
    pub async fn connections(
        &self,
        service: Option<ServiceId>,
        from: Position,
        limit: usize,
    ) -> Result<Connections, Error> {
        let mut unanswered = self.unanswered.lock().await;
        let snapshot = self.plane.snapshot.load_full();
        let mut out = Vec::new();
        let mut at = from;
        while let Some(worker) = self.plane.workers.get(at.worker) {
            let answer = ask(worker, &mut unanswered[at.worker], at).await?;
            let matching = answer
                .rows
                .iter()
                .filter(|r| service.is_none_or(|s| s == r.service));
            let more = matching.clone().skip(at.skip);
            let room = limit - out.len();
            out.extend(
                more.clone()
                    .take(room)
                    .map(|r| connection(&snapshot, worker.id, r)),
            );
            if more.count() > room {
                at.skip += room;
                return Ok(page(out, Some(at)));
            }
            if answer.done {
                at = at.next_table();
            } else if answer.cursor == at.cursor {
                // A page that leads nowhere would be asked for for ever.
                return Err(unavailable(worker, "gave a page without an end"));
            } else {
                at.cursor = answer.cursor;
                at.skip = 0;
            }
        }
        Ok(page(out, None))
    }
}

fn page(connections: Vec<Connection>, next: Option<Position>) -> Connections {
    Connections {
        connections,
        truncated: next.is_some(),
        next: next.map(|n| n.to_string()),
    }
}

/// Asks a worker for the page at `at` and waits for the answer.
async fn ask(
    worker: &WorkerShared,
    unanswered: &mut u32,
    at: Position,
) -> Result<Box<ConnPage>, Error> {
    while worker.pages.pop().is_some() {
        *unanswered = unanswered.saturating_sub(1);
    }
    if *unanswered >= UNANSWERED_MAX {
        return Err(unavailable(worker, "does not answer"));
    }
    let question = Command::List(Box::new(ConnPage {
        af: at.af,
        cursor: at.cursor,
        rows: Vec::with_capacity(PAGE_ROWS),
        done: false,
    }));
    if worker.commands.push(question).is_err() {
        return Err(unavailable(worker, "does not take commands"));
    }
    *unanswered += 1;
    let deadline = Instant::now() + PAGE_TIMEOUT;
    for looks in 0u32.. {
        while let Some(answer) = worker.pages.pop() {
            *unanswered = unanswered.saturating_sub(1);
            if *unanswered == 0 {
                return Ok(answer);
            }
        }
        if worker.stopped.load(Ordering::Acquire) {
            return Err(unavailable(worker, "has stopped"));
        }
        if Instant::now() >= deadline {
            break;
        }
        if looks < YIELDS {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Err(unavailable(worker, "has not answered for two seconds"))
}

fn unavailable(worker: &WorkerShared, what: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "worker {} {what}; `polder show workers` tells how it is",
            worker.id
        ),
    )
}

fn connection(snapshot: &Snapshot, worker: usize, r: &ConnRow) -> Connection {
    let endpoint = |(addr, port)| names::endpoint(addr, port);
    Connection {
        protocol: names::protocol(r.proto),
        state: names::state(r.proto, r.state, r.flags).to_owned(),
        expires_s: f64::from(r.expires) / f64::from(Tick::PER_SECOND),
        client: endpoint(r.client),
        virtual_: endpoint(r.virtual_),
        destination: endpoint(r.dest),
        service: snapshot.service(r.service).map(|s| s.def.name.clone()),
        server: r
            .dest_id
            .and_then(|id| snapshot.dest(id))
            .map(|d| d.name.clone()),
        worker,
        packets_in: r.in_pkts,
    }
}
