//! The handle of the mirror of the kernel's tables, and what its users see.
//!
//! Knows the task only by its command queue and its view. All calls are cheap; the waiting ones wait for the kernel.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

use super::decode::KernelView;
use super::netlink::Netlink;
use super::resolver::{Hop, Targets};
use super::task::Task;
use crate::forward::defs::{PortId, Prefix};

/// Commands that may wait for the task; a neighbour asked for beyond that is asked for again by the next packet.
const COMMANDS: usize = 1024;

/// What went wrong between Polder and the kernel. The text is for the operator.
#[derive(Debug)]
pub enum KernelError {
    /// A netlink socket could not be opened, or a request on it failed.
    Netlink {
        /// What was to be done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Some addresses could not be put on or taken off; the others were. One sentence for each.
    Addresses(Vec<String>),
    /// The mirror has been stopped.
    Stopped,
}

impl std::fmt::Display for KernelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Netlink { doing, source } => {
                write!(
                    f,
                    "the kernel's tables can't be followed: {doing}: {source}"
                )
            }
            Self::Addresses(problems) => f.write_str(&problems.join("; ")),
            Self::Stopped => f.write_str("the mirror of the kernel's tables has been stopped"),
        }
    }
}

impl std::error::Error for KernelError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Netlink { source, .. } => Some(source),
            Self::Addresses(_) | Self::Stopped => None,
        }
    }
}

/// What the mirror has done since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorStats {
    /// Announcements received.
    pub events: u64,
    /// Times that announcements were lost and everything was read again.
    pub overruns: u64,
    /// Views published.
    pub published: u64,
    /// Requests for neighbours.
    pub asks: u64,
    /// Of these, refused by the kernel.
    pub asks_refused: u64,
    /// Times that the sockets broke and were opened anew.
    pub reopened: u64,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

/// What the task is told to do.
#[derive(Debug)]
pub(super) enum Command {
    SetAddresses(
        Vec<(PortId, Prefix)>,
        oneshot::Sender<Result<(), KernelError>>,
    ),
    SetTargets(Targets),
    Resolve(Hop),
    Stop(oneshot::Sender<()>),
}

/// The handle of the mirror's task. When it is dropped, the task ends and leaves the addresses to go with their
/// interfaces; [`Mirror::stop`] takes them off.
#[derive(Debug)]
pub struct Mirror {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<Arc<KernelView>>,
    stats: Arc<Mutex<MirrorStats>>,
}

impl Mirror {
    /// Follows the kernel's tables for `ports`, given with the names of their kernel interfaces. An interface may
    /// come later, go and come back. When this returns, the view is up to date.
    ///
    /// # Errors
    /// When netlink can't be opened or read.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn start(ports: &[(PortId, String)]) -> Result<Self, KernelError> {
        let failed = |doing| move |source| KernelError::Netlink { doing, source };
        let netlink = Netlink::open().map_err(failed("open netlink"))?;
        let (view, receiver) = watch::channel(Arc::default());
        let stats = Arc::<Mutex<MirrorStats>>::default();
        let mut task = Task::new(ports, netlink, view, Arc::clone(&stats));
        task.read_all()
            .await
            .map_err(failed("read links, neighbours and routes"))?;
        let (commands, queue) = mpsc::channel(COMMANDS);
        tokio::spawn(task.run(queue));
        Ok(Self {
            commands,
            view: receiver,
            stats,
        })
    }

    /// The view, with the news of its changes.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<KernelView>> {
        self.view.clone()
    }

    /// Makes `wanted` the addresses that Polder has on the kernel's interfaces: the ports' own with their prefix
    /// lengths, virtual ones as /32 and /128. What is there already is left as it is; of what is not wanted, only
    /// what Polder put there is removed. They are put on again when an interface comes back up.
    ///
    /// IPv6 addresses are usable at once (no duplicate address detection), and a /128 makes no route.
    ///
    /// # Errors
    /// A sentence for each address that the kernel refused; the others are in place.
    pub async fn set_addresses(&self, wanted: Vec<(PortId, Prefix)>) -> Result<(), KernelError> {
        let (reply, answer) = oneshot::channel();
        let sent = self
            .commands
            .send(Command::SetAddresses(wanted, reply))
            .await;
        sent.map_err(|_| KernelError::Stopped)?;
        answer.await.map_err(|_| KernelError::Stopped)?
    }

    /// Says whose neighbours the kernel is to keep fresh from now on; what was said before is replaced. The gateways
    /// of mirrored routes need not be named.
    ///
    /// # Errors
    /// When the mirror has been stopped.
    pub async fn set_targets(&self, targets: Targets) -> Result<(), KernelError> {
        let sent = self.commands.send(Command::SetTargets(targets)).await;
        sent.map_err(|_| KernelError::Stopped)
    }

    /// Asks the kernel to resolve `addr`, which is on the network of `port`: at most once a second for an address,
    /// however often it is called. The answer comes by the view. `false` when too much was asked at once; the next
    /// packet to the address will ask again.
    pub fn resolve(&self, port: PortId, addr: IpAddr) -> bool {
        self.commands
            .try_send(Command::Resolve((port, addr)))
            .is_ok()
    }

    /// What the mirror has done.
    #[must_use]
    pub fn stats(&self) -> MirrorStats {
        lock(&self.stats).clone()
    }

    /// Takes off the addresses that Polder put on, releases the neighbours and ends the task.
    pub async fn stop(self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Stop(reply)).await.is_ok() {
            let _ = done.await;
        }
    }
}

pub(super) fn lock(stats: &Mutex<MirrorStats>) -> MutexGuard<'_, MirrorStats> {
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}
