//! Handing everything over to another process on this machine, which takes this one's place: an upgrade without a
//! session lost.
//!
//! Owns the listening half, which collects entries before there are tables to put them in, and putting them in once
//! there are. The telling half is a node of the `polder` format as for any peer ([`super::task`]), over loopback, with a
//! key that both have for this one time from the control socket, which nobody but their owner can use.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::time::Instant;

use super::polder::SLICE;
use super::tables::{Finds, Tables};
use crate::forward::PeerRule;
use crate::net::Tick;
use crate::sync::entry::{Entry, EntryId, TemplateEntry};
use crate::sync::polder::{Config, Keys, Node, Role, To, What};
use crate::worker::Plane;

/// Bytes of a datagram over loopback, which takes the largest.
pub const MESSAGE: usize = 60_000;
/// Datagrams of the stream that may wait.
pub const QUEUE: usize = 512;
/// Templates that are put in without others having their turn.
const TURN: usize = 1024;
/// How long workers may not answer until they are not waited for any more.
const STUCK: Duration = Duration::from_secs(5);

/// The text of a key file with one key.
///
/// # Errors
/// The system gives no random bytes.
pub fn one_time_key() -> Result<String, String> {
    use std::fmt::Write as _;
    use std::io::Read as _;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| format!("can't make a key for the take-over: {e}"))?;
    let mut text = "1 ".to_owned();
    for byte in bytes {
        // Writing into a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// An entry of the process before.
#[derive(Clone, Debug)]
struct Inherited {
    entry: Entry,
    link: Option<TemplateEntry>,
}

/// What the process before had.
#[derive(Debug, Default)]
pub struct Inheritance {
    entries: Vec<Inherited>,
    /// When their remaining times were right.
    at: Option<Instant>,
}

impl Inheritance {
    /// How many connections and templates there are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let templates = |i: &&Inherited| matches!(i.entry, Entry::Template(_));
        let templates = self.entries.iter().filter(templates).count();
        (self.entries.len() - templates, templates)
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts everything into the tables, whose workers must run. How many there was no room for, or no service.
    pub async fn put(self, plane: &Arc<Plane>, mut tables: Tables) -> usize {
        let passed = self.at.map_or(0, |at| Tick::ticks(at.elapsed()));
        // Templates first, since connections are held to theirs.
        let (templates, connections): (Vec<_>, Vec<_>) = self
            .entries
            .into_iter()
            .partition(|i| matches!(i.entry, Entry::Template(_)));
        let mut lost = 0;
        let mut answers = Answers::default();
        for (n, inherited) in templates.into_iter().chain(connections).enumerate() {
            let now = plane.now();
            let left = inherited.entry.remaining().saturating_sub(passed);
            match inherited.entry.with_remaining(left) {
                Entry::Template(template) => {
                    lost += usize::from(!tables.inherit_template(&template, now));
                    if n % TURN == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Entry::Conn(conn) => {
                    let link = inherited.link.as_ref();
                    let id = (0, EntryId(0));
                    let rule = PeerRule::Inherited;
                    while !tables.install_conn(id, &conn, link, rule, now) {
                        if !answers.wait(&mut tables, plane).await {
                            lost += 1;
                            break;
                        }
                    }
                }
            }
        }
        tables.flush();
        while tables.busy() && answers.wait(&mut tables, plane).await {
            tables.flush();
        }
        answers.wait(&mut tables, plane).await;
        lost + answers.refused
    }
}

/// What workers said.
#[derive(Debug, Default)]
struct Answers {
    refused: usize,
    /// Since when they say nothing.
    silent: Option<Instant>,
}

impl Answers {
    /// Lets workers work, and counts what they refused; `false` when one has ended, since it does not answer.
    async fn wait(&mut self, tables: &mut Tables, plane: &Plane) -> bool {
        tokio::time::sleep(Duration::from_micros(200)).await;
        tables.step(plane.now(), &mut Nothing);
        let refused = crate::forward::PeerOutcome::Refused;
        let mut any = false;
        while let Some((_, _, outcome)) = tables.next_outcome() {
            any = true;
            self.refused += usize::from(outcome == refused);
        }
        if any {
            self.silent = None;
        }
        self.silent.get_or_insert_with(Instant::now).elapsed() < STUCK
    }
}

struct Nothing;

impl Finds for Nothing {
    fn entry(&mut self, _: Entry) {}
    fn number(&self, _: &TemplateEntry) -> EntryId {
        EntryId(0)
    }
}

/// Collects what the process before has.
#[derive(Debug)]
pub struct Collector {
    node: Node,
    socket: UdpSocket,
    began: Instant,
    /// Who told of which entry.
    entries: HashMap<EntryId, u64>,
    buffer: Vec<u8>,
}

impl Collector {
    /// A listener with a one-time key, the text of a key file.
    ///
    /// # Errors
    /// A sentence.
    pub fn new(key: &str, entries_max: usize) -> Result<Self, String> {
        let keys = Keys::parse(key).map_err(|e| e.to_string())?;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|s| s.set_nonblocking(true).map(|()| s))
            .map_err(|e| format!("no socket for the take-over: {e}"))?;
        let config = node_config(Role::Backup, entries_max);
        let node = Node::new(config, keys, super::task::random(), Tick(0));
        Ok(Self {
            node,
            socket,
            began: Instant::now(),
            entries: HashMap::new(),
            buffer: vec![0; 65_536],
        })
    }

    /// The port that it listens on.
    ///
    /// # Errors
    /// A sentence.
    pub fn port(&self) -> Result<u16, String> {
        let addr = self.socket.local_addr();
        addr.map(|a| a.port())
            .map_err(|e| format!("no socket for the take-over: {e}"))
    }

    /// Takes what came, and answers.
    pub fn turn(&mut self) {
        let now = Tick::from_elapsed(self.began.elapsed());
        while let Ok((len, from)) = self.socket.recv_from(&mut self.buffer) {
            self.node.receive(now, from, &mut self.buffer[..len]);
        }
        self.node.poll(now);
        while let Some(apply) = self.node.next_apply(now) {
            match apply.what {
                What::Install(_) => self.entries.insert(apply.id, apply.peer),
                What::Remove(_) => self.entries.remove(&apply.id),
            };
            self.node.applied(apply.peer, apply.id, true);
        }
        while let Some(send) = self.node.next_send(now) {
            if let To::Peer(to) = send.to {
                // What does not arrive is asked for again.
                let _ = self.socket.send_to(&send.bytes, to);
            }
            self.node.sent(send.bytes);
        }
    }

    /// Whether everything that the other told of so far is here.
    #[must_use]
    pub fn is_covered(&self) -> bool {
        let now = Tick::from_elapsed(self.began.elapsed());
        let status = self.node.status(now);
        let complete =
            |p: &crate::sync::polder::Peer| p.coverage >= 1.0 && p.last_full_sync_s_ago.is_some();
        !status.peers.is_empty() && status.peers.iter().all(complete)
    }

    /// Entries so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of them.
    #[must_use]
    pub fn finish(mut self) -> Inheritance {
        // With their remaining times as of now.
        let now = Tick::from_elapsed(self.began.elapsed());
        for (id, peer) in &self.entries {
            // Until now it was as if they were in tables.
            self.node.applied(*peer, *id, false);
        }
        self.node.retry_uninstalled();
        while self.node.work(now) {}
        let mut entries = Vec::with_capacity(self.entries.len());
        while let Some(apply) = self.node.next_apply(now) {
            if let What::Install(entry) = apply.what {
                let link = apply.link;
                entries.push(Inherited { entry, link });
            }
        }
        Inheritance {
            entries,
            at: Some(Instant::now()),
        }
    }
}

/// How both nodes of a take-over are set up.
#[must_use]
pub fn node_config(role: Role, entries_max: usize) -> Config {
    Config {
        role,
        sync_id: 0,
        name: match role {
            Role::Backup => "after",
            Role::Master | Role::Both => "before",
        }
        .to_owned(),
        max_len: MESSAGE,
        encrypt: false,
        entries_max,
        queue_max: QUEUE,
        slice: SLICE,
        interval: Tick::PER_SECOND / 5,
        ready_coverage: 1.0,
        ready_timeout: u32::MAX / 4,
    }
}

/// Where the listening half is.
#[must_use]
pub fn listener(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
