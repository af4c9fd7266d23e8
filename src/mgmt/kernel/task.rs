//! The mirror's task: follows the kernel's links, neighbours and routes, publishes them, and asks for what is wanted.
//!
//! It subscribes first and reads afterwards, so nothing is missed; changes are collected for [`COALESCE`] and published
//! as one [`KernelView`]. Neighbours are followed entry by entry. Of routes only the fact of a change is taken from the
//! announcement, and the table is read again: the kernel removes IPv4 routes of an interface that goes down without a
//! word, and replaces routes in ways that can't be followed safely. Reading takes at most a tenth of the time
//! ([`DUTY`]), whatever the size of the tables.
//!
//! Invariant: after announcements were lost, everything is read again, and nothing older is applied to it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rtnetlink::packet_core::{
    NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::addresses::{PortAddress, plan};
use super::decode::{self, KernelView, Neighbour};
use super::encode::{address_message, address_problem, ask_message, interface_address};
use super::mirror::{Command, KernelError, MirrorStats, lock};
use super::neighbours::{Key, Neighbours};
use super::netlink::{DATAGRAM, Netlink, messages};
use super::resolver::{Ask, Hop, Resolver, Targets};
use crate::forward::defs::{NeighbourDef, PortId, Prefix, RouteDef};

/// How long changes are collected before they are published.
const COALESCE: Duration = Duration::from_millis(10);
/// When a list of neighbours that brought news is checked by another one.
const VERIFY: Duration = Duration::from_millis(100);
/// After reading a table took `t`, it is not read again for this many times `t`.
const DUTY: u32 = 9;
/// Routes that changed while they were read are read again this often before they are taken as they are.
const ATTEMPTS: u32 = 3;
/// How often it is looked which neighbours are to be asked for again.
const REFRESH: Duration = Duration::from_secs(5);
/// How long to wait before the sockets are opened anew when they broke.
const RETRY: Duration = Duration::from_secs(1);

/// `RTM_NEWLINK` and its like, from linux/rtnetlink.h.
mod rtm {
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const NEWROUTE: u16 = 24;
    pub const DELROUTE: u16 = 25;
    pub const NEWNEIGH: u16 = 28;
    pub const DELNEIGH: u16 = 29;
}

#[derive(Debug)]
struct Port {
    id: PortId,
    name: String,
    /// Index of the interface, while there is one.
    index: Option<u32>,
    up: bool,
    /// It was down, or may have been, since it was last looked at: what the kernel takes off a downed interface is
    /// then missing even if it is up again.
    bounced: bool,
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
pub(super) struct Task {
    ports: Vec<Port>,
    netlink: Netlink,
    neighbours: Neighbours,
    routes: Vec<RouteDef>,
    /// Not before then are the neighbours read again, whatever happens.
    neighbours_rest: Instant,
    /// The same of the routes.
    routes_rest: Instant,
    /// Times in a row that the routes changed while they were read.
    attempts: u32,
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
    pub(super) fn new(
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
            bounced: false,
        };
        Self {
            ports: ports.iter().map(port).collect(),
            netlink,
            neighbours: Neighbours::default(),
            routes: Vec::new(),
            neighbours_rest: Instant::now(),
            routes_rest: Instant::now(),
            attempts: 0,
            wanted: Vec::new(),
            ours: HashSet::new(),
            targets: Targets::default(),
            resolver: Resolver::default(),
            due: Due::default(),
            view,
            stats,
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
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
                    self.announcements_lost(Instant::now());
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
        self.announcements_lost(Instant::now() + COALESCE);
        self.netlink.resubscribe()
    }

    /// Has everything read again at `at`.
    fn announcements_lost(&mut self, at: Instant) {
        self.ports.iter_mut().for_each(|p| p.bounced = true);
        self.neighbours.announcements_lost();
        by(&mut self.due.links, at);
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
                _ => by(&mut self.due.neighbours, soon.max(self.neighbours_rest)),
            },
            rtm::NEWLINK | rtm::DELLINK => match inner(bytes) {
                Some(RouteNetlinkMessage::NewLink(m) | RouteNetlinkMessage::DelLink(m)) => {
                    if let Some(port) = self.ports.iter_mut().find(|p| p.is_of(&m)) {
                        port.bounced |= !m.header.flags.contains(LinkFlags::Up);
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
        if self
            .neighbours
            .announced((index, addr), Some(entry).filter(|_| !gone))
        {
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

    /// Reads everything and publishes it.
    pub(super) async fn read_all(&mut self) -> io::Result<()> {
        self.due.links = Some(Instant::now());
        // Routes that change meanwhile are taken as they are; they are read again in any case.
        self.attempts = ATTEMPTS;
        self.settle().await
    }

    /// Does what is due.
    async fn settle(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if has_come(&mut self.due.links, now) {
            self.read_links().await?;
            self.due.neighbours = Some(now.max(self.neighbours_rest));
            self.due.routes = Some(now.max(self.routes_rest));
        }
        if has_come(&mut self.due.neighbours, now) {
            self.read_neighbours().await?;
        }
        if has_come(&mut self.due.routes, now) {
            self.read_routes().await?;
        }
        // Asked anew: what was just read is published at once.
        if has_come(&mut self.due.view, Instant::now()) {
            self.publish();
        }
        Ok(())
    }

    async fn read_links(&mut self) -> io::Result<()> {
        let mut came_up = false;
        for port in &mut self.ports {
            let index = port.index;
            let was_down = std::mem::take(&mut port.bounced) || !port.up;
            (port.index, port.up) = read_link(&self.netlink, &port.name).await?;
            let replaced = port.index != index;
            came_up |= port.up && (replaced || was_down);
            if replaced {
                // Another interface of the same name has nothing of what was on the old one.
                let id = port.id;
                self.ours.retain(|(on, _)| *on != id);
            }
        }
        if came_up
            && !self.wanted.is_empty()
            && let Err(problem) = self.apply_addresses().await
        {
            self.note(problem.to_string());
        }
        Ok(())
    }

    async fn read_neighbours(&mut self) -> io::Result<()> {
        let start = Instant::now();
        let mut list: HashMap<Key, Neighbour> = HashMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            let request = RouteNetlinkMessage::GetNeighbour(request);
            let dump = self.netlink.dump(request, |m| {
                let RouteNetlinkMessage::NewNeighbour(m) = m else {
                    return;
                };
                let found = decode::neighbour(&m).map(|(index, addr, n)| ((index, addr), n));
                list.extend(found.filter(|((index, _), _)| self.port_of(*index).is_some()));
            });
            dump.await?;
        }
        let ports = &self.ports;
        let known = |index| ports.iter().any(|p| p.index == Some(index));
        self.neighbours.retain_interfaces(known);
        let end = Instant::now();
        self.neighbours_rest = end + DUTY * (end - start);
        if self.neighbours.listed(list) {
            let again = self.neighbours_rest.max(end + VERIFY);
            by(&mut self.due.neighbours, again);
        }
        by(&mut self.due.view, start);
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
        self.routes_rest = end + DUTY * (end - start);
        if !consistent {
            by(&mut self.due.routes, self.routes_rest.max(end + COALESCE));
            self.attempts += 1;
            if self.attempts < ATTEMPTS {
                return Ok(());
            }
        }
        self.attempts = 0;
        let routes = decode::best(found, |index| self.port_of(index));
        if routes != self.routes {
            self.routes = routes;
            by(&mut self.due.view, start);
            self.retarget().await?;
        }
        Ok(())
    }

    fn publish(&mut self) {
        let known = |((index, addr), entry): (Key, Neighbour)| {
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
        self.neighbours.get((index, addr))
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
            neighbours.get((index, addr))
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
