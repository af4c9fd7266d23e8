//! The mirror: addresses put on the kernel's interfaces, its neighbours and routes followed, neighbours asked for.
//!
//! Owns one task on the management core. It subscribes first and reads afterwards, so nothing is missed; changes are
//! collected for [`COALESCE`] and published as one [`KernelView`]. Neighbours are followed entry by entry. Of routes
//! only the fact of a change is taken from the announcement, and the table is read again: the kernel removes IPv4
//! routes of an interface that goes down without a word, and replaces routes in ways that can't be followed safely.
//! Reading takes at most a tenth of the time ([`ROUTE_DUTY`]), whatever the size of the table.
//!
//! Invariant: after announcements were lost, everything is read again, and nothing older is applied to it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkMessage};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::addresses::{PortAddress, host_len, plan};
use super::decode::{self, KernelView, Neighbour};
use super::netlink::{DATAGRAM, Netlink, messages};
pub use super::resolver::Targets;
use super::resolver::{Ask, Hop, Resolver};
use crate::forward::defs::{NeighbourDef, PortId, Prefix, RouteDef};

/// How long changes are collected before they are published.
const COALESCE: Duration = Duration::from_millis(10);
/// After reading the routes took `t`, they are not read again for this many times `t`.
const ROUTE_DUTY: u32 = 9;
/// How often it is looked which neighbours are to be asked for again.
const REFRESH: Duration = Duration::from_secs(5);
/// How long to wait before the sockets are opened anew when they broke.
const RETRY: Duration = Duration::from_secs(1);
/// Commands that may wait for the task; a neighbour asked for beyond that is asked for again by the next packet.
const COMMANDS: usize = 1024;

/// `RTM_NEWLINK` and its like, from linux/rtnetlink.h.
mod rtm {
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const NEWROUTE: u16 = 24;
    pub const DELROUTE: u16 = 25;
    pub const NEWNEIGH: u16 = 28;
    pub const DELNEIGH: u16 = 29;
}

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

#[derive(Debug)]
enum Command {
    SetAddresses(Vec<PortAddress>, oneshot::Sender<Result<(), KernelError>>),
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

fn lock(stats: &Mutex<MirrorStats>) -> MutexGuard<'_, MirrorStats> {
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Port {
    id: PortId,
    name: String,
    /// Index of the interface, while there is one.
    index: Option<u32>,
    up: bool,
}

/// When something is to be done, if it is.
#[derive(Debug, Default)]
struct Due {
    links: Option<Instant>,
    neighbours: Option<Instant>,
    routes: Option<Instant>,
    view: Option<Instant>,
}

impl Due {
    fn next(&self) -> Option<Instant> {
        [self.links, self.neighbours, self.routes, self.view]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Makes `due` happen at `at`, unless it is to happen already.
fn by(due: &mut Option<Instant>, at: Instant) {
    due.get_or_insert(at);
}

/// Whether `due` has come; it is then no longer due.
fn has_come(due: &mut Option<Instant>, now: Instant) -> bool {
    due.take_if(|at| *at <= now).is_some()
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[derive(Debug)]
struct Task {
    ports: Vec<Port>,
    netlink: Netlink,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    routes: Vec<RouteDef>,
    /// Not before then are the routes read again.
    routes_rest: Instant,
    wanted: Vec<PortAddress>,
    /// What we put on.
    ours: HashSet<PortAddress>,
    targets: Targets,
    resolver: Resolver,
    due: Due,
    view: watch::Sender<Arc<KernelView>>,
    stats: Arc<Mutex<MirrorStats>>,
}

impl Task {
    fn new(
        ports: &[(PortId, String)],
        netlink: Netlink,
        view: watch::Sender<Arc<KernelView>>,
        stats: Arc<Mutex<MirrorStats>>,
    ) -> Self {
        let port = |(id, name): &(PortId, String)| Port {
            id: *id,
            name: name.clone(),
            index: None,
            up: false,
        };
        Self {
            ports: ports.iter().map(port).collect(),
            netlink,
            neighbours: HashMap::new(),
            routes: Vec::new(),
            routes_rest: Instant::now(),
            wanted: Vec::new(),
            ours: HashSet::new(),
            targets: Targets::default(),
            resolver: Resolver::default(),
            due: Due::default(),
            view,
            stats,
        }
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                event = self.netlink.event(&mut datagram) => match event {
                    Ok(complete) => self.on_event(complete, &datagram),
                    Err(e) => Err(e),
                },
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::Stop(reply)) => {
                        self.clean_up().await;
                        let _ = reply.send(());
                        return;
                    }
                    Some(command) => self.on_command(command).await,
                },
                () = until(self.due.next()) => self.settle().await,
                _ = refresh.tick() => self.ask_due().await,
            };
            if let Err(e) = done {
                self.recover(&e).await;
            }
        }
    }

    /// Opens the sockets anew until that works, and has everything read again.
    async fn recover(&mut self, error: &io::Error) {
        self.note(error.to_string());
        loop {
            sleep(RETRY).await;
            match Netlink::open() {
                Ok(netlink) => {
                    self.netlink = netlink;
                    lock(&self.stats).reopened += 1;
                    self.due.links = Some(Instant::now());
                    return;
                }
                Err(e) => self.note(e.to_string()),
            }
        }
    }

    fn note(&self, problem: String) {
        lock(&self.stats).last_error = Some(problem);
    }

    // What the kernel announces.

    fn on_event(&mut self, complete: bool, datagram: &[u8]) -> io::Result<()> {
        let mut intact = complete;
        for message in messages(datagram) {
            lock(&self.stats).events += 1;
            match message {
                Some((kind, bytes)) => self.on_message(kind, bytes),
                None => intact = false,
            }
        }
        if intact {
            return Ok(());
        }
        lock(&self.stats).overruns += 1;
        by(&mut self.due.links, Instant::now() + COALESCE);
        self.netlink.resubscribe()
    }

    fn on_message(&mut self, kind: u16, bytes: &[u8]) {
        let soon = Instant::now() + COALESCE;
        match kind {
            rtm::NEWROUTE | rtm::DELROUTE => {
                by(&mut self.due.routes, soon.max(self.routes_rest));
            }
            rtm::NEWNEIGH | rtm::DELNEIGH => match inner(bytes) {
                Some(RouteNetlinkMessage::NewNeighbour(m)) => self.on_neighbour(&m, false),
                Some(RouteNetlinkMessage::DelNeighbour(m)) => self.on_neighbour(&m, true),
                _ => by(&mut self.due.neighbours, soon),
            },
            rtm::NEWLINK | rtm::DELLINK => match inner(bytes) {
                Some(RouteNetlinkMessage::NewLink(m) | RouteNetlinkMessage::DelLink(m)) => {
                    if self.ports.iter().any(|p| p.is_of(&m)) {
                        by(&mut self.due.links, soon);
                    }
                }
                _ => by(&mut self.due.links, soon),
            },
            _ => {}
        }
    }

    fn on_neighbour(&mut self, message: &NeighbourMessage, gone: bool) {
        let Some((index, addr, entry)) = decode::neighbour(message) else {
            return;
        };
        if self.port_of(index).is_none() {
            return;
        }
        let old = if gone {
            self.neighbours.remove(&(index, addr))
        } else {
            self.neighbours.insert((index, addr), entry)
        };
        let new = entry.mac.filter(|_| !gone);
        if old.and_then(|o| o.mac) != new {
            by(&mut self.due.view, Instant::now() + COALESCE);
        }
    }

    fn port_of(&self, index: u32) -> Option<PortId> {
        self.ports
            .iter()
            .find(|p| p.index == Some(index))
            .map(|p| p.id)
    }

    fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.iter().find(|p| p.id == id)
    }

    // Reading and publishing.

    async fn read_all(&mut self) -> io::Result<()> {
        self.due.links = Some(Instant::now());
        self.settle().await
    }

    /// Does what is due.
    async fn settle(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if has_come(&mut self.due.links, now) {
            self.read_links().await?;
            self.due.neighbours = Some(now);
            self.due.routes = Some(now);
        }
        if has_come(&mut self.due.neighbours, now) {
            self.read_neighbours().await?;
            self.due.view = Some(now);
        }
        if has_come(&mut self.due.routes, now) {
            self.read_routes().await?;
        }
        if has_come(&mut self.due.view, now) {
            self.publish();
        }
        Ok(())
    }

    async fn read_links(&mut self) -> io::Result<()> {
        let mut came_up = false;
        for port in &mut self.ports {
            let (index, was_up) = (port.index, port.up);
            (port.index, port.up) = read_link(&self.netlink, &port.name).await?;
            let replaced = port.index != index;
            came_up |= port.up && (replaced || !was_up);
            if replaced {
                // Another interface of the same name has nothing of what was on the old one.
                let id = port.id;
                self.ours.retain(|(on, _)| *on != id);
            }
        }
        if came_up && !self.wanted.is_empty() {
            if let Err(problem) = self.apply_addresses().await {
                self.note(problem.to_string());
            }
        }
        Ok(())
    }

    async fn read_neighbours(&mut self) -> io::Result<()> {
        let mut table = HashMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            let request = RouteNetlinkMessage::GetNeighbour(request);
            let dump = self.netlink.dump(request, |m| {
                let RouteNetlinkMessage::NewNeighbour(m) = m else {
                    return;
                };
                if let Some((index, addr, entry)) = decode::neighbour(&m) {
                    table.insert((index, addr), entry);
                }
            });
            // An inconsistent list is set right by the announcements of what changed meanwhile.
            dump.await?;
        }
        table.retain(|(index, _), _| self.port_of(*index).is_some());
        self.neighbours = table;
        self.ask_due().await
    }

    async fn read_routes(&mut self) -> io::Result<()> {
        let start = Instant::now();
        let mut found = Vec::new();
        let mut consistent = true;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.table = RouteHeader::RT_TABLE_MAIN;
            let request = RouteNetlinkMessage::GetRoute(request);
            let is_ours = |index| self.port_of(index).is_some();
            let dump = self.netlink.dump(request, |m| {
                let RouteNetlinkMessage::NewRoute(m) = m else {
                    return;
                };
                found.extend(decode::route(&m, is_ours));
            });
            consistent &= dump.await?;
        }
        let end = Instant::now();
        self.routes_rest = end + ROUTE_DUTY * (end - start);
        if !consistent {
            by(&mut self.due.routes, self.routes_rest.max(end + COALESCE));
        }
        let routes = decode::best(found, |index| self.port_of(index));
        if routes != self.routes {
            self.routes = routes;
            by(&mut self.due.view, start);
            self.retarget().await?;
        }
        Ok(())
    }

    fn publish(&mut self) {
        let known = |(&(index, addr), entry): (&(u32, IpAddr), &Neighbour)| {
            Some(NeighbourDef {
                port: self.port_of(index)?,
                addr,
                mac: entry.mac?,
            })
        };
        let mut neighbours: Vec<_> = self.neighbours.iter().filter_map(known).collect();
        neighbours.sort_by_key(|n| (n.port, n.addr));
        let view = KernelView {
            neighbours,
            routes: self.routes.clone(),
        };
        let changed = self.view.send_if_modified(|old| {
            let changed = **old != view;
            if changed {
                *old = Arc::new(view);
            }
            changed
        });
        lock(&self.stats).published += u64::from(changed);
    }

    // What is asked of the kernel.

    async fn on_command(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::SetAddresses(wanted, reply) => {
                self.wanted = wanted;
                let done = self.apply_addresses().await;
                let _ = reply.send(done);
                self.retarget().await
            }
            Command::SetTargets(targets) => {
                self.targets = targets;
                self.retarget().await
            }
            Command::Resolve(hop) => {
                let now = Instant::now().into_std();
                let fixed = self.entry(hop).is_some_and(Neighbour::is_fixed);
                let ask = if fixed {
                    None
                } else {
                    self.resolver.on_demand(hop, now)
                };
                self.ask(ask).await
            }
            // Handled by the loop, which it ends.
            Command::Stop(_) => Ok(()),
        }
    }

    fn entry(&self, (port, addr): Hop) -> Option<Neighbour> {
        let index = self.port(port)?.index?;
        self.neighbours.get(&(index, addr)).copied()
    }

    async fn retarget(&mut self) -> io::Result<()> {
        let wanted = &self.wanted;
        let is_own = |addr| wanted.iter().any(|(_, p)| p.addr == addr);
        let released = self.resolver.retarget(&self.targets, &self.routes, is_own);
        self.ask(released).await?;
        self.ask_due().await
    }

    async fn ask_due(&mut self) -> io::Result<()> {
        let ports = &self.ports;
        let neighbours = &self.neighbours;
        let entry = |(port, addr): Hop| {
            let index = ports.iter().find(|p| p.id == port)?.index?;
            neighbours.get(&(index, addr)).copied()
        };
        let due = self.resolver.due(Instant::now().into_std(), entry);
        self.ask(due).await
    }

    /// Sends the requests. One that the kernel refuses is counted; it is repeated when it is due again.
    async fn ask(&mut self, asks: impl IntoIterator<Item = Ask>) -> io::Result<()> {
        for ask in asks {
            let Some(index) = self.port(ask.hop.0).filter(|p| p.up).and_then(|p| p.index) else {
                continue;
            };
            let request = RouteNetlinkMessage::NewNeighbour(ask_message(index, ask));
            let done = self
                .netlink
                .change(request, NLM_F_CREATE | NLM_F_REPLACE)
                .await;
            lock(&self.stats).asks += 1;
            match done {
                Ok(()) => {}
                Err(e) if e.raw_os_error().is_some() => {
                    lock(&self.stats).asks_refused += 1;
                    self.note(format!("ask for {}: {e}", ask.hop.1));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Brings the interfaces' addresses to what is wanted.
    async fn apply_addresses(&mut self) -> Result<(), KernelError> {
        let failed = |source| KernelError::Netlink {
            doing: "read addresses",
            source,
        };
        let mut problems = Vec::new();
        let present = self.present().await.map_err(failed)?;
        let removals = plan(&self.wanted, &present, &self.ours).remove;
        for address in &removals {
            let gone = [libc::EADDRNOTAVAIL, libc::ENODEV];
            problems.extend(self.change_address(*address, false, &gone).await.err());
            self.ours.remove(address);
        }
        // Read again: with the first address of a network the kernel takes off the others of it, too.
        let present = self.present().await.map_err(failed)?;
        for address in plan(&self.wanted, &present, &self.ours).add {
            match self.change_address(address, true, &[libc::EEXIST]).await {
                Ok(true) => drop(self.ours.insert(address)),
                Ok(false) => {}
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(KernelError::Addresses(problems))
        }
    }

    async fn present(&self) -> io::Result<HashSet<PortAddress>> {
        let mut present = HashSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = AddressMessage::default();
            request.header.family = family;
            let request = RouteNetlinkMessage::GetAddress(request);
            let dump = self.netlink.dump(request, |m| {
                let RouteNetlinkMessage::NewAddress(m) = m else {
                    return;
                };
                let found = self.port_of(m.header.index).zip(interface_address(&m));
                present.extend(found);
            });
            dump.await?;
        }
        Ok(present)
    }

    /// Puts an address on, or takes it off; whether that changed anything. A sentence if the kernel refuses, unless
    /// for one of the reasons that are `harmless`.
    async fn change_address(
        &self,
        (port, prefix): PortAddress,
        add: bool,
        harmless: &[i32],
    ) -> Result<bool, String> {
        let Prefix { addr, len } = prefix;
        let Some(port) = self.port(port) else {
            return Err(format!(
                "{addr}/{len} can't be put on: its port has no kernel interface"
            ));
        };
        let Some(index) = port.index else {
            return Err(format!(
                "{addr}/{len} can't be put on {0}: {0} does not exist",
                port.name
            ));
        };
        let message = address_message(index, prefix);
        let done = if add {
            let request = RouteNetlinkMessage::NewAddress(message);
            self.netlink
                .change(request, NLM_F_CREATE | NLM_F_EXCL)
                .await
        } else {
            self.netlink
                .change(RouteNetlinkMessage::DelAddress(message), 0)
                .await
        };
        let is_harmless = |e: &io::Error| e.raw_os_error().is_some_and(|c| harmless.contains(&c));
        match done {
            Ok(()) => Ok(true),
            Err(e) if is_harmless(&e) => Ok(false),
            Err(e) => Err(address_problem(&port.name, prefix, add, &e)),
        }
    }

    async fn clean_up(&mut self) {
        self.wanted.clear();
        let _ = self.apply_addresses().await;
        let released = self.resolver.release();
        let _ = self.ask(released).await;
    }
}

impl Port {
    fn is_of(&self, message: &LinkMessage) -> bool {
        let named = |a: &LinkAttribute| matches!(a, LinkAttribute::IfName(n) if *n == self.name);
        self.index == Some(message.header.index) || message.attributes.iter().any(named)
    }
}

fn inner(bytes: &[u8]) -> Option<RouteNetlinkMessage> {
    match NetlinkMessage::deserialize(bytes).ok()?.payload {
        NetlinkPayload::InnerMessage(m) => Some(m),
        _ => None,
    }
}

/// Index of the interface `name`, and whether it is up.
async fn read_link(netlink: &Netlink, name: &str) -> io::Result<(Option<u32>, bool)> {
    let mut request = LinkMessage::default();
    request
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    match netlink.get(RouteNetlinkMessage::GetLink(request)).await {
        Ok(RouteNetlinkMessage::NewLink(m)) => {
            Ok((Some(m.header.index), m.header.flags.contains(LinkFlags::Up)))
        }
        Ok(_) => Ok((None, false)),
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok((None, false)),
        Err(e) => Err(e),
    }
}

fn family_of(addr: IpAddr) -> AddressFamily {
    if addr.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

/// The request behind [`Ask`]: what `ip neigh replace ADDR dev IF use managed` sends. A kernel that does not know
/// the extended flag ignores it and resolves once.
fn ask_message(index: u32, ask: Ask) -> NeighbourMessage {
    let mut m = NeighbourMessage::default();
    m.header.family = family_of(ask.hop.1);
    m.header.ifindex = index;
    m.header.flags = NeighbourFlags::Use;
    m.attributes
        .push(NeighbourAttribute::Destination(match ask.hop.1 {
            IpAddr::V4(a) => NeighbourAddress::Inet(a),
            IpAddr::V6(a) => NeighbourAddress::Inet6(a),
        }));
    if ask.keep {
        m.attributes
            .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    }
    m
}

fn address_message(index: u32, prefix: Prefix) -> AddressMessage {
    let Prefix { addr, len } = prefix;
    let mut m = AddressMessage::default();
    m.header.family = family_of(addr);
    m.header.index = index;
    m.header.prefix_len = len;
    m.attributes.push(AddressAttribute::Address(addr));
    match addr {
        IpAddr::V4(a) => {
            m.attributes.push(AddressAttribute::Local(addr));
            if len < 31 {
                let host = u32::MAX.checked_shr(len.into()).unwrap_or(0);
                let broadcast = (a.to_bits() | host).into();
                m.attributes.push(AddressAttribute::Broadcast(broadcast));
            }
        }
        IpAddr::V6(_) => {
            // Real servers under direct routing have the virtual address, too; detection would find them.
            let mut flags = AddressFlags::Nodad;
            if len == host_len(prefix) {
                flags |= AddressFlags::Noprefixroute;
            }
            m.attributes.push(AddressAttribute::Flags(flags));
        }
    }
    m
}

/// The address of an interface, whatever it is the other end of.
fn interface_address(message: &AddressMessage) -> Option<Prefix> {
    let (mut address, mut local) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(a) => address = Some(*a),
            AddressAttribute::Local(a) => local = Some(*a),
            _ => {}
        }
    }
    Some(Prefix {
        addr: local.or(address)?,
        len: message.header.prefix_len,
    })
}

fn address_problem(name: &str, prefix: Prefix, add: bool, error: &io::Error) -> String {
    let Prefix { addr, len } = prefix;
    let what = if add { "put on" } else { "taken off" };
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM) => "; it needs CAP_NET_ADMIN: run as root or `setcap cap_net_admin+ep`",
        Some(libc::EACCES) if addr.is_ipv6() => {
            "; IPv6 is switched off on the interface: `sysctl -w net.ipv6.conf.default.disable_ipv6=0` and restart"
        }
        _ => "",
    };
    format!("{addr}/{len} can't be {what} {name}: {error}{remedy}")
}
