//! TCP connections that talk all the time, a probe that counts milliseconds, and the servers of both.
//!
//! Owns what a client sees of its connections. Each side runs in a thread that is in its namespace. Invariant: an answer
//! counts only if it repeats what this connection has said.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::super::lab::Namespace;

/// How long an answer may take before a connection counts as broken; more than any gap, and less than TCP's own patience.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time between two probes.
pub(super) const PROBE_EVERY: Duration = Duration::from_millis(5);
/// Bytes of a message.
const MESSAGE: usize = 16;
/// Over which time connections are opened that are to be there from the beginning.
const SPREAD: Duration = Duration::from_secs(2);

/// Connections of one kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub name: &'static str,
    pub target: SocketAddr,
    /// How many there are at the beginning.
    pub count: usize,
    /// How often each says something.
    pub every: Duration,
    /// Others begin at this interval, and live so long.
    pub more: Option<(Duration, Duration)>,
}

/// A connection.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// Which of the kinds.
    pub kind: usize,
    /// When it was established.
    pub opened: Instant,
    /// When its client closed it.
    pub closed: Option<Instant>,
    /// When it broke, and how.
    pub broken: Option<(Instant, String)>,
    /// Answers so far.
    pub answers: u64,
    /// The longest time that an answer took.
    pub longest: Duration,
}

impl Flow {
    /// Whether it was there at `at`.
    pub(super) fn is_open(&self, at: Instant) -> bool {
        let before = |end: Option<Instant>| end.is_some_and(|end| end <= at);
        let broken = self.broken.as_ref().map(|b| b.0);
        self.opened <= at && !before(self.closed) && !before(broken)
    }
}

/// What the client saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub flows: Vec<Flow>,
    /// Connections that were not established, and why.
    pub refused: Vec<String>,
    /// When each probe was sent, and whether it was answered.
    pub probes: Vec<(Instant, bool)>,
}

impl Seen {
    /// The longest time between `from` and `to` in which no probe was answered; the time of one probe less.
    pub(super) fn gap(&self, from: Instant, to: Instant) -> Duration {
        let mut gap = Duration::ZERO;
        let mut silent = None;
        for (sent, answered) in self.probes.iter().filter(|p| p.0 >= from && p.0 <= to) {
            if !answered {
                silent.get_or_insert(*sent);
            } else if let Some(since) = silent.take() {
                gap = gap.max(*sent - since);
            }
        }
        // One that did not end is as long as was looked.
        gap.max(silent.map_or(Duration::ZERO, |since| to - since))
    }
}

/// A client at work.
#[derive(Debug)]
pub(super) struct Client {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Option<Seen>>,
}

impl Client {
    pub(super) fn start(
        ns: &Namespace,
        kinds: Vec<Kind>,
        probe: SocketAddr,
    ) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let thread = ns.thread("client", move || client(&kinds, probe, &stops))?;
        Ok(Self { stop, thread })
    }

    /// Closes all connections; what was seen.
    pub(super) fn finish(self) -> Result<Seen, String> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().ok().flatten();
        seen.ok_or_else(|| "the client of the TCP connections failed".to_owned())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("an event queue can be had")
}

type Shared = Rc<RefCell<Seen>>;

fn client(kinds: &[Kind], probe: SocketAddr, stop: &Arc<AtomicBool>) -> Seen {
    let seen = Shared::default();
    let local = LocalSet::new();
    for (at, kind) in kinds.iter().enumerate() {
        for n in 0..kind.count {
            let wait = SPREAD.mul_f64(as_share(n, kind.count));
            let flow = flow((at, *kind), None, Arc::clone(stop), Rc::clone(&seen));
            local.spawn_local(async move {
                sleep(wait).await;
                flow.await;
            });
        }
        if let Some((interval, life)) = kind.more {
            let (kind, stop, seen) = (*kind, Arc::clone(stop), Rc::clone(&seen));
            local.spawn_local(async move {
                while !stop.load(Ordering::Relaxed) {
                    let (stop, seen) = (Arc::clone(&stop), Rc::clone(&seen));
                    tokio::task::spawn_local(flow((at, kind), Some(life), stop, seen));
                    sleep(interval).await;
                }
            });
        }
    }
    local.spawn_local(probe_it(probe, Arc::clone(stop), Rc::clone(&seen)));
    let runtime = runtime();
    local.block_on(&runtime, async {
        while !stop.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(50)).await;
        }
        // Answers on their way.
        sleep(Duration::from_millis(500)).await;
    });
    drop(local);
    seen.take()
}

#[allow(clippy::cast_precision_loss)] // Some thousand.
fn as_share(n: usize, of: usize) -> f64 {
    n as f64 / of.max(1) as f64
}

/// A connection from its beginning to its end.
async fn flow(
    (at, kind): (usize, Kind),
    life: Option<Duration>,
    stop: Arc<AtomicBool>,
    seen: Shared,
) {
    let connected = timeout(PATIENCE, TcpStream::connect(kind.target)).await;
    let mut stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return seen.borrow_mut().refused.push(e.to_string()),
        Err(_) => return seen.borrow_mut().refused.push("no answer".to_owned()),
    };
    let opened = Instant::now();
    let number = seen.borrow().flows.len();
    seen.borrow_mut().flows.push(Flow {
        kind: at,
        opened,
        closed: None,
        broken: None,
        answers: 0,
        longest: Duration::ZERO,
    });
    let mut said = 0u64;
    while !stop.load(Ordering::Relaxed) && life.is_none_or(|life| opened.elapsed() < life) {
        let asked = Instant::now();
        let answer = say(&mut stream, number as u64, said).await;
        {
            let flow = &mut seen.borrow_mut().flows[number];
            if let Err(why) = answer {
                flow.broken = Some((Instant::now(), why));
                return;
            }
            flow.answers += 1;
            flow.longest = flow.longest.max(asked.elapsed());
        }
        said += 1;
        sleep(kind.every).await;
    }
    seen.borrow_mut().flows[number].closed = Some(Instant::now());
}

async fn say(stream: &mut TcpStream, number: u64, said: u64) -> Result<(), String> {
    let mut message = [0; MESSAGE];
    message[..8].copy_from_slice(&number.to_be_bytes());
    message[8..].copy_from_slice(&said.to_be_bytes());
    let mut answer = [0; MESSAGE];
    let exchange = async {
        stream.write_all(&message).await?;
        stream.read_exact(&mut answer).await
    };
    match timeout(PATIENCE, exchange).await {
        Ok(Ok(_)) if answer == message => Ok(()),
        Ok(Ok(_)) => Err("somebody else's answer".to_owned()),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Sends numbered datagrams and notes which are answered.
async fn probe_it(target: SocketAddr, stop: Arc<AtomicBool>, seen: Shared) {
    let socket = match tokio::net::UdpSocket::bind("0.0.0.0:0").await {
        Ok(socket) if socket.connect(target).await.is_ok() => socket,
        _ => {
            return seen
                .borrow_mut()
                .refused
                .push("no socket for the probe".to_owned());
        }
    };
    let mut timer = tokio::time::interval(PROBE_EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut buffer = [0; 8];
    loop {
        tokio::select! {
            _ = timer.tick(), if !stop.load(Ordering::Relaxed) => {
                let number = seen.borrow().probes.len() as u64;
                seen.borrow_mut().probes.push((Instant::now(), false));
                // One that can't be sent is one that is not answered.
                let _ = socket.send(&number.to_be_bytes()).await;
            }
            Ok(8) = socket.recv(&mut buffer) => {
                let number = usize::try_from(u64::from_be_bytes(buffer)).unwrap_or(usize::MAX);
                if let Some(probe) = seen.borrow_mut().probes.get_mut(number) {
                    probe.1 = true;
                }
            }
            () = sleep(Duration::from_millis(100)) => {}
        }
    }
}

/// Servers at work.
#[derive(Debug)]
pub(super) struct Servers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<()>>>,
}

impl Servers {
    /// Starts servers that repeat what they hear: of TCP, and of UDP.
    pub(super) fn start(
        ns: &Namespace,
        tcp: Vec<SocketAddr>,
        udp: Vec<SocketAddr>,
    ) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let (ready, readies) = std::sync::mpsc::channel();
        let thread = ns.thread("servers", move || serve(&tcp, &udp, &stops, &ready))?;
        let thread = Some(thread);
        match readies.recv() {
            Ok(Ok(())) => Ok(Self { stop, thread }),
            Ok(Err(e)) => Err(format!("a server can't listen: {e}")),
            Err(_) => Err("the servers failed".to_owned()),
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

fn serve(
    tcp: &[SocketAddr],
    udp: &[SocketAddr],
    stop: &AtomicBool,
    ready: &std::sync::mpsc::Sender<io::Result<()>>,
) {
    let runtime = runtime();
    let local = LocalSet::new();
    let started = local.block_on(&runtime, async {
        for addr in tcp {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(*addr)?;
            let listener = socket.listen(4096)?;
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::task::spawn_local(repeat(stream));
                }
            });
        }
        for addr in udp {
            let socket = UdpSocket::bind(addr)?;
            socket.set_nonblocking(true)?;
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            tokio::task::spawn_local(async move {
                let mut buffer = [0; 64];
                loop {
                    if let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                        // Whoever misses an answer notices.
                        let _ = socket.send_to(&buffer[..len], from).await;
                    }
                }
            });
        }
        io::Result::Ok(())
    });
    let failed = started.is_err();
    if ready.send(started).is_err() || failed {
        return;
    }
    local.block_on(&runtime, async {
        while !stop.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(50)).await;
        }
    });
}

async fn repeat(mut stream: TcpStream) {
    let mut message = [0; MESSAGE];
    while stream.read_exact(&mut message).await.is_ok() && stream.write_all(&message).await.is_ok()
    {
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_from_the_first_probe_without_an_answer_to_the_next_with_one() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let answered = [true, false, false, true, true, false, true];
        let probes = answered.iter().zip(0..).map(|(a, n)| (at(5 * n), *a));
        let seen = Seen {
            probes: probes.collect(),
            ..Seen::default()
        };
        assert_eq!(seen.gap(began, at(100)), Duration::from_millis(10));
        assert_eq!(seen.gap(at(20), at(100)), Duration::from_millis(5));
        assert_eq!(seen.gap(at(28), at(100)), Duration::ZERO);
        assert_eq!(seen.gap(began, at(26)), Duration::from_millis(10));
    }

    #[test]
    fn connections_get_answers_and_a_closed_server_breaks_them() {
        let addr: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let runtime = runtime();
        let local = LocalSet::new();
        let seen = Shared::default();
        local.block_on(&runtime, async {
            let listener = tokio::net::TcpListener::bind(addr).await.expect("binds");
            let target = listener.local_addr().expect("bound");
            let kind = Kind {
                name: "all",
                target,
                count: 1,
                every: Duration::from_millis(1),
                more: None,
            };
            tokio::task::spawn_local(async move {
                let (mut stream, _) = listener.accept().await.expect("comes");
                let mut message = [0; MESSAGE];
                for _ in 0..3 {
                    stream.read_exact(&mut message).await.expect("says");
                    stream.write_all(&message).await.expect("hears");
                }
            });
            flow((0, kind), None, Arc::default(), Rc::clone(&seen)).await;
        });
        let seen = seen.take();
        assert_eq!((seen.flows.len(), seen.flows[0].answers), (1, 3));
        assert!(seen.flows[0].broken.is_some() && !seen.flows[0].is_open(Instant::now()));
    }
}
