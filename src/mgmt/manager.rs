//! The manager: the one owner of the running configuration and the one publisher of snapshots.
//!
//! Lives on the management core behind one mutex that is never held over an await. Invariants: what is published was
//! built whole, or nothing changed; a snapshot is freed here, never on a worker; a server's slot is reused only when
//! no worker can still read a snapshot that has the old one.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::api::{self, Error, ErrorKind, PortStatus, Reloaded};
use super::ipvs;
use super::names;
use super::rates::SAMPLING;
use super::reload::{self, Fixed};
use super::sessions;
use super::sync::SyncControl;
use super::totals::Baselines;
use super::watch::Watch;
use crate::forward::{
    BuildError, DestDef, Fib, FibInput, NeighbourDef, PortDef, Registry, RouteDef, ServiceDef,
    Services, Setup, Snapshot,
};
use crate::net::Mac;
use crate::net::tunnel::Tunnel;
use crate::sync::settings::Settings;
use crate::table::{AdminState, Dest, DestId, Method};
use crate::worker::Plane;

/// A configuration file, loaded.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// What can change at run time.
    pub setup: Setup,
    /// State sync, which can change, too.
    pub sync: Settings,
    /// What can't.
    pub fixed: Fixed,
    /// Rendered warnings.
    pub warnings: Vec<String>,
}

/// Loads the configuration file; the error is every problem, rendered.
pub type Loader = Box<dyn Fn() -> Result<Loaded, Vec<String>> + Send>;

/// Tells every port's state and counters, in the configuration's order.
pub type PortStatsSource = Box<dyn Fn() -> Vec<PortStatus> + Send>;

/// How often the defences are judged (specification §2.9).
const JUDGING: Duration = Duration::from_secs(1);

/// The manager as the management core's tasks share it.
pub type Shared = Arc<Mutex<Manager>>;

/// What a manager starts with.
pub struct Options {
    /// What it publishes to, made with [`empty_snapshot`].
    pub plane: Arc<Plane>,
    /// The configuration as loaded at start.
    pub loaded: Loaded,
    /// Path of the configuration file, for messages.
    pub config_path: PathBuf,
    /// Loads it again.
    pub loader: Loader,
    /// Tells ports' counters.
    pub port_stats: PortStatsSource,
    /// MAC addresses that the ports really have.
    pub port_macs: Vec<Option<Mac>>,
    /// Secret of keyed choices.
    pub seed: u64,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("config_path", &self.config_path)
            .finish_non_exhaustive()
    }
}

/// How the last reloads went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadState {
    /// The last one succeeded.
    pub successful: bool,
    /// Unix time in seconds of the last success; the start counts as one.
    pub success_at: u64,
}

/// The snapshot of no services, for a [`Plane`] before its manager publishes; generation 0.
#[must_use]
pub fn empty_snapshot() -> Snapshot {
    let setup = Setup::default();
    let services = Registry::new(0, 0, 0)
        .build(&setup, None, 0)
        .expect("a set-up without services needs no slot and no scheduler");
    let input = FibInput {
        ports: &[],
        macs: &[],
        routes: &[],
        neighbours: &[],
        dests: &[],
    };
    Snapshot {
        generation: 0,
        services: Arc::new(services),
        fib: Arc::new(Fib::build(0, &input)),
        ports: Arc::from(Vec::new()),
    }
}

/// Owner of the running configuration.
pub struct Manager {
    pub(super) plane: Arc<Plane>,
    registry: Registry,
    /// What runs.
    pub(super) setup: Setup,
    /// What the file said when it was last loaded.
    pub(super) file: Setup,
    /// What does state sync, where there is such.
    pub(super) sync: Option<Arc<dyn SyncControl>>,
    /// What the file said of it when it was last loaded.
    pub(super) sync_file: Settings,
    fixed: Fixed,
    config_path: PathBuf,
    loader: Loader,
    pub(super) port_stats: PortStatsSource,
    port_macs: Vec<Option<Mac>>,
    kernel_routes: Vec<RouteDef>,
    kernel_neighbours: Vec<NeighbourDef>,
    ports: Arc<[PortDef]>,
    pub(super) services: Arc<Services>,
    /// The registry's generation of `services`.
    built: u64,
    pub(super) generation: u64,
    /// Snapshots that were replaced and that a worker may still hold.
    retired: Vec<Arc<Snapshot>>,
    /// The snapshot that workers have yet to see before overload flags are judged for good.
    unsettled: Option<u64>,
    /// Snapshot generation and registry generation at each change of services that a worker may still be behind.
    history: Vec<(u64, u64)>,
    pub(super) baselines: Baselines,
    pub(super) reload: ReloadState,
    pub(super) watch: Watch,
    /// When the defences were judged last.
    judged: Instant,
    /// When rates were sampled last.
    sampled: Instant,
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("config_path", &self.config_path)
            .field("generation", &self.generation)
            .field("retired", &self.retired.len())
            .finish_non_exhaustive()
    }
}

/// Locks the manager, never to be held over an await. A panic elsewhere leaves it as it was between two statements at
/// worst; to refuse every request from then on would help nobody.
pub fn lock(manager: &Shared) -> MutexGuard<'_, Manager> {
    manager.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What to change of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerEdit {
    /// New weight.
    pub weight: Option<u16>,
    /// New administrative state.
    pub admin: Option<AdminState>,
    /// New upper threshold; 0 is none.
    pub upper: Option<u32>,
    /// New lower threshold; 0 is three quarters of the upper one.
    pub lower: Option<u32>,
    /// New operational state.
    pub up: Option<bool>,
    /// New way to reach it.
    pub forwarding: Option<(Method, Tunnel)>,
}

impl Manager {
    /// Builds the first snapshot and publishes it. Slots are as many as the workers have counters for.
    ///
    /// # Errors
    /// A sentence for each reason why the configuration can't be published.
    pub fn new(options: Options, now: Instant, unix: SystemTime) -> Result<Self, Vec<String>> {
        let Options {
            plane,
            loaded,
            config_path,
            loader,
            port_stats,
            mut port_macs,
            seed,
        } = options;
        let counters = || plane.workers.iter().map(|w| &w.counters);
        let service_slots = counters().map(|c| c.services.len()).min().unwrap_or(0);
        let dest_slots = counters().map(|c| c.dests.len()).min().unwrap_or(0);
        let problems = reload::duplicates(&loaded.setup);
        if !problems.is_empty() {
            return Err(problems);
        }
        port_macs.resize(loaded.setup.ports.len(), None);
        let before = plane.snapshot.load_full();
        let mut manager = Self {
            registry: Registry::new(service_slots, dest_slots, seed),
            setup: Setup::default(),
            file: loaded.setup.clone(),
            sync: None,
            sync_file: loaded.sync,
            fixed: loaded.fixed,
            config_path,
            loader,
            port_stats,
            port_macs,
            kernel_routes: Vec::new(),
            kernel_neighbours: Vec::new(),
            ports: loaded.setup.ports.clone().into(),
            services: Arc::clone(&before.services),
            built: 0,
            generation: before.generation,
            retired: Vec::new(),
            unsettled: None,
            history: Vec::new(),
            baselines: Baselines::default(),
            reload: ReloadState {
                successful: true,
                success_at: unix_seconds(unix),
            },
            watch: Watch::new(&plane.workers, now),
            judged: now,
            sampled: now,
            plane,
        };
        manager
            .publish(loaded.setup)
            .map_err(|e| vec![e.to_string()])?;
        Ok(manager)
    }

    /// The manager for the management core's tasks to share.
    #[must_use]
    pub fn shared(self) -> Shared {
        Arc::new(Mutex::new(self))
    }

    /// Gives the manager what does state sync, which has the settings of the file.
    pub fn set_sync_control(&mut self, control: Arc<dyn SyncControl>) {
        self.sync = Some(control);
    }

    /// What the manager publishes to.
    #[must_use]
    pub fn plane(&self) -> &Arc<Plane> {
        &self.plane
    }

    /// The configuration that runs, run-time edits included.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// How the last reload went.
    #[must_use]
    pub fn reload_state(&self) -> ReloadState {
        self.reload
    }

    /// Generation of the published snapshot.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Replaced snapshots that are not freed yet.
    #[must_use]
    pub fn retired(&self) -> usize {
        self.retired.len()
    }

    /// Builds services from `setup` and publishes them with new forwarding information.
    pub(super) fn publish(&mut self, setup: Setup) -> Result<(), BuildError> {
        self.reap();
        let services = self
            .registry
            .build(&setup, Some(&self.services), self.oldest_built())?;
        self.baselines.update(&services, &self.plane.workers);
        self.services = Arc::new(services);
        self.built = self.registry.generation();
        self.setup = setup;
        self.publish_fib();
        self.history.push((self.generation, self.built));
        self.unsettled = Some(self.generation);
        self.plane.judge();
        Ok(())
    }

    /// Publishes the present services with new forwarding information.
    fn publish_fib(&mut self) {
        self.generation += 1;
        let snapshot = Arc::new(Snapshot {
            generation: self.generation,
            services: Arc::clone(&self.services),
            fib: Arc::new(self.build_fib()),
            ports: Arc::clone(&self.ports),
        });
        // The swap settles every borrow that a worker has of the old snapshot into its reference count, and hands the
        // old one to us: from here on a count of one means that no worker has it or will.
        let old = self.plane.snapshot.swap(snapshot);
        self.retired.push(old);
    }

    fn build_fib(&self) -> Fib {
        let dests: Vec<_> = self
            .services
            .dests
            .iter()
            .flatten()
            .map(|d| (d.id, d.addr))
            .collect();
        // Of routes the first wins, of neighbours the last: the configuration's over the kernel's.
        let routes = [self.setup.routes.as_slice(), &self.kernel_routes].concat();
        let neighbours = [self.kernel_neighbours.as_slice(), &self.setup.neighbours].concat();
        Fib::build(
            self.generation,
            &FibInput {
                ports: &self.setup.ports,
                macs: &self.port_macs,
                routes: &routes,
                neighbours: &neighbours,
                dests: &dests,
            },
        )
    }

    /// Takes over what the kernel knows; publishes when it is news. Services are shared with the old snapshot.
    pub fn set_kernel_view(
        &mut self,
        routes: Vec<RouteDef>,
        neighbours: Vec<NeighbourDef>,
    ) -> bool {
        if routes == self.kernel_routes && neighbours == self.kernel_neighbours {
            return false;
        }
        self.kernel_routes = routes;
        self.kernel_neighbours = neighbours;
        self.reap();
        self.publish_fib();
        true
    }

    /// Takes over the MAC addresses that the ports really have; publishes when they are news.
    pub fn set_port_macs(&mut self, mut macs: Vec<Option<Mac>>) -> bool {
        macs.resize(self.setup.ports.len(), None);
        if macs == self.port_macs {
            return false;
        }
        self.port_macs = macs;
        self.reap();
        self.publish_fib();
        true
    }

    /// Housekeeping, to be called several times a second: frees what workers have left and watches that they live.
    pub fn tick(&mut self, now: Instant) {
        self.reap();
        self.watch.observe(&self.plane.workers, now);
        let ticks = self.plane.now();
        if now.duration_since(self.judged) >= JUDGING {
            self.judged = now;
            if self.plane.judge().drop_entry {
                self.plane.drop_templates(ticks);
            }
        }
        self.plane.sweep_templates(ticks);
        let elapsed = now.duration_since(self.sampled);
        if elapsed >= SAMPLING {
            self.sampled = now;
            self.baselines
                .sample(&self.services, &self.plane.workers, elapsed);
        }
    }

    /// Frees replaced snapshots that no worker has any more.
    fn reap(&mut self) {
        self.retired.retain(|s| Arc::strong_count(s) > 1);
        let seen = self.oldest_seen();
        let behind = self.history.partition_point(|(g, _)| *g <= seen);
        self.history.drain(..behind.saturating_sub(1));
        if self.unsettled.is_some_and(|g| g <= seen) {
            self.unsettled = None;
            self.settle_overload();
        }
    }

    /// Judges overload flags once more now that no worker goes by older thresholds, by which it may have set or cleared
    /// some meanwhile (specification §1.4, mode 0).
    fn settle_overload(&self) {
        for dest in self.services.dests.iter().flatten() {
            dest.shared.settle(dest.thresholds());
        }
    }

    /// The oldest snapshot generation that a running worker may use.
    fn oldest_seen(&self) -> u64 {
        self.plane
            .workers
            .iter()
            .filter(|w| !w.stopped.load(Ordering::Acquire))
            .map(|w| w.seen_generation.load(Ordering::Acquire))
            .min()
            .unwrap_or(self.generation)
    }

    /// The same in generations of the registry, which counts changes of services only.
    fn oldest_built(&self) -> u64 {
        let seen = self.oldest_seen();
        self.history
            .iter()
            .rev()
            .find(|(g, _)| *g <= seen)
            .map_or(0, |(_, built)| *built)
    }

    /// Loads the file again and publishes it. Nothing changes unless all of it can be taken over.
    ///
    /// What was set at run time stays where the file says the same as before.
    ///
    /// # Errors
    /// Every problem of the file, or everything in it that needs a restart.
    pub fn reload(&mut self, unix: SystemTime) -> Result<Reloaded, Error> {
        let outcome = self.try_reload();
        match &outcome {
            Ok(_) => {
                self.reload = ReloadState {
                    successful: true,
                    success_at: unix_seconds(unix),
                }
            }
            Err(_) => self.reload.successful = false,
        }
        outcome
    }

    fn try_reload(&mut self) -> Result<Reloaded, Error> {
        let path = self.config_path.display().to_string();
        let refused = |problems: Vec<String>| {
            let error = format!("{path} can't be taken over; nothing has changed");
            Error::new(ErrorKind::Invalid, error).with_problems(problems)
        };
        let loaded = (self.loader)().map_err(&refused)?;
        let mut problems = reload::duplicates(&loaded.setup);
        problems.extend(reload::restart_needed(
            &self.setup.ports,
            &self.fixed,
            &loaded.setup.ports,
            &loaded.fixed,
        ));
        if !problems.is_empty() {
            return Err(refused(problems));
        }
        let (merged, kept) = reload::keep_overrides(&self.file, &self.setup, &loaded.setup);
        let mut report = Reloaded {
            kept,
            taken_back: reload::taken_back(&self.file, &self.setup, &merged),
            warnings: loaded.warnings,
            ..reload::report(&self.setup, &merged)
        };
        let sync = self.sync_step(&loaded.sync, &merged, &mut report);
        if let Some((control, before, after)) = &sync {
            match control.change(after.clone()) {
                Ok(()) => {}
                // A reload for the sake of something else is not kept up by what was wrong before.
                Err(why) if before == after => report.warnings.push(format!("sync: {why}")),
                Err(why) => return Err(refused(vec![format!("sync: {why}")])),
            }
        }
        if merged != self.setup
            && let Err(e) = self.publish(merged)
        {
            let mut problems = vec![e.to_string()];
            if let Some((control, before, _)) = sync
                && let Err(why) = control.change(before)
            {
                problems.push(format!("sync: {why}"));
            }
            return Err(refused(problems));
        }
        self.file = loaded.setup;
        self.sync_file = loaded.sync;
        Ok(report)
    }

    /// Sets a server's weight at run time.
    ///
    /// # Errors
    /// No such service or server.
    pub fn set_weight(
        &mut self,
        service: &str,
        server: &str,
        weight: u16,
    ) -> Result<api::ServerUpdated, Error> {
        let edit = ServerEdit {
            weight: Some(weight),
            ..ServerEdit::default()
        };
        self.edit_server(service, server, edit)
    }

    /// Sets a server's administrative state at run time.
    ///
    /// # Errors
    /// No such service or server.
    pub fn set_state(
        &mut self,
        service: &str,
        server: &str,
        state: AdminState,
    ) -> Result<api::ServerUpdated, Error> {
        let edit = ServerEdit {
            admin: Some(state),
            ..ServerEdit::default()
        };
        self.edit_server(service, server, edit)
    }

    /// Changes a server at run time, all of `edit` at once. `server` is its name, or its address and port.
    ///
    /// # Errors
    /// No such service or server, or thresholds that contradict each other (specification §1.3).
    pub fn edit_server(
        &mut self,
        service: &str,
        server: &str,
        edit: ServerEdit,
    ) -> Result<api::ServerUpdated, Error> {
        let (s, d) = self.find_server(service, server)?;
        let mut setup = self.setup.clone();
        let dest = &mut setup.services[s].servers[d];
        let mut done = Vec::new();
        if let Some(weight) = edit.weight {
            done.push(format!("weight {} -> {weight}", dest.weight));
            dest.weight = u32::from(weight);
        }
        if let Some(admin) = edit.admin {
            let (old, new) = (names::admin(dest.admin), names::admin(admin));
            done.push(format!("state {old} -> {new}"));
            dest.admin = admin;
        }
        for (which, old, new) in [
            ("upper", &mut dest.upper_threshold, edit.upper),
            ("lower", &mut dest.lower_threshold, edit.lower),
        ] {
            if let Some(new) = new {
                done.push(format!("{which} threshold {old} -> {new}"));
                *old = new;
            }
        }
        if let Some((method, tunnel)) = edit.forwarding {
            let before = names::forwarding(dest);
            (dest.method, dest.tunnel) = (method, tunnel);
            let after = names::forwarding(dest);
            done.push(format!("forwarding {before} -> {after}"));
        }
        if edit.upper.is_some_and(|upper| upper != 0) && counts_nothing(&self.setup.services[s]) {
            done.push("which one-packet datagrams without persistence never reach".to_owned());
        }
        let label = format!("{}/{}", self.setup.services[s].name, dest.label());
        if edit.upper.or(edit.lower).is_some() {
            let limits = (dest.upper_threshold, dest.lower_threshold);
            contradiction(limits, edit).map_or(Ok(()), |why| {
                Err(Error::new(ErrorKind::Invalid, format!("{label}: {why}")).with_code("ERANGE"))
            })?;
        }
        if edit.forwarding.is_some() {
            self.judge_server(&setup, s, d)?;
        }
        let was_up = edit.up.and_then(|up| {
            let id = self.server_slot(s, d)?;
            let before = self.registry.set_up(id, up)?;
            done.push(format!("{} -> {}", names::up(before), names::up(up)));
            (before != up).then_some((id, before))
        });
        if setup != self.setup || was_up.is_some() {
            let published = self.publish(setup);
            if let (Err(_), Some((id, before))) = (&published, was_up) {
                self.registry.set_up(id, before);
            }
            published.map_err(|e| Error::new(ErrorKind::Invalid, e.to_string()))?;
        }
        let server = self.listed_server(s, d);
        let lasts = if edit.forwarding.is_some() && server.overridden {
            TAKEN_BACK
        } else if edit.up == Some(false) {
            "until it is said to be up, or a restart"
        } else {
            lasts(server.overridden)
        };
        Ok(api::ServerUpdated {
            message: format!("{label}: {} ({lasts})", done.join(", ")),
            server,
        })
    }

    /// Changes what keeps a service's sessions together at run time, all of `update` at once. Templates that there are
    /// keep their own timeouts (specification §1.1).
    ///
    /// # Errors
    /// No such service, or it can't be so.
    pub fn edit_service(
        &mut self,
        service: &str,
        update: &api::ServiceUpdate,
    ) -> Result<api::ServiceUpdated, Error> {
        let s = self.find_service(service)?;
        let mut setup = self.setup.clone();
        let now = &self.setup.services[s];
        let file = reload::same_service(&self.file, now);
        let refused = |why: String| {
            let why = format!("service `{service}`: {why}");
            Error::new(ErrorKind::Invalid, why).with_code("EINVAL")
        };
        super::edit::check_update(update)?;
        let done = sessions::apply(&mut setup.services[s], file, update).map_err(refused)?;
        if update.scheduler.is_some() || update.scheduler_flags.is_some() {
            self.judge_service(&setup.services[s])?;
        }
        if setup != self.setup {
            self.publish(setup)
                .map_err(|e| Error::new(ErrorKind::Invalid, e.to_string()))?;
        }
        let service = self.listed_service(s);
        let scheduler = update.scheduler.is_some() || update.scheduler_flags.is_some();
        let lasts = match service.overridden {
            true if scheduler => TAKEN_BACK,
            overridden => lasts(overridden),
        };
        Ok(api::ServiceUpdated {
            message: format!("{}: {} ({lasts})", service.name, done.join(", ")),
            service,
        })
    }

    /// Changes settings that LVS has as sysctls at run time, all of `update` at once.
    ///
    /// # Errors
    /// No such setting, or it can't have that value.
    pub fn edit_ipvs(&mut self, update: &api::IpvsUpdate) -> Result<api::IpvsUpdated, Error> {
        let refused = |why: String| Error::new(ErrorKind::Invalid, why);
        let mut setup = self.setup.clone();
        let done = ipvs::apply(&mut setup, update).map_err(refused)?;
        if setup != self.setup {
            self.publish(setup).map_err(|e| refused(e.to_string()))?;
        }
        let ipvs = self.ipvs();
        let named = |s: &api::IpvsSetting| update.0.contains_key(&s.name) && s.overridden;
        let lasts = lasts(ipvs.settings.iter().any(named));
        Ok(api::IpvsUpdated {
            message: format!("ipvs: {} ({lasts})", done.join(", ")),
            ipvs,
        })
    }

    /// The slot of a server by its indices in the set-up.
    fn server_slot(&self, service: usize, server: usize) -> Option<DestId> {
        let def = self.setup.services.get(service)?.servers.get(server)?;
        let id = self.services.order.get(service)?;
        let service = self.services.slots.get(id.0 as usize)?.as_ref()?;
        let same = |d: &&Arc<Dest>| (d.addr, d.port) == (def.addr, def.port);
        service.dests.iter().find(same).map(|d| d.id)
    }

    /// Indices of a server in the set-up.
    pub(super) fn find_server(&self, service: &str, server: &str) -> Result<(usize, usize), Error> {
        let s = self.find_service(service)?;
        let def = &self.setup.services[s];
        match find_dest(def, server) {
            Some(d) => Ok((s, d)),
            None => {
                let labels: Vec<String> = def.servers.iter().map(DestDef::label).collect();
                let hint = names::suggestion(server, labels.iter().map(String::as_str));
                let why = format!("service `{service}` has no server `{server}`{hint}");
                Err(Error::new(ErrorKind::NotFound, why).with_code("ENOENT"))
            }
        }
    }

    /// Index of a service in the set-up, by its name or by what it is recognised by ([`names::handle`]).
    ///
    /// # Errors
    /// There is none of that name; the sentence names those that there are.
    pub fn find_service(&self, name: &str) -> Result<usize, Error> {
        let there = || self.setup.services.iter().map(|s| s.name.as_str());
        let found = match names::parse_handle(name) {
            Some(kind) => self.setup.services.iter().position(|s| s.kind == kind),
            None => there().position(|n| n == name),
        };
        found.ok_or_else(|| {
            let hint = names::suggestion(name, there());
            let why = format!("there is no service `{name}`{hint}");
            Error::new(ErrorKind::NotFound, why).with_code("ESRCH")
        })
    }
}

/// Whether a service leaves nothing behind that thresholds could count (specification §5).
fn counts_nothing(service: &ServiceDef) -> bool {
    service.one_packet && service.persistence.is_none() && service.payload_key.is_none()
}

/// What is wrong with thresholds, upper and lower, that `edit` makes; `None` when nothing is.
fn contradiction((upper, lower): (u32, u32), edit: ServerEdit) -> Option<String> {
    let first = if edit.lower.is_some() {
        "upper"
    } else {
        "lower"
    };
    let both = edit.upper.is_some() && edit.lower.is_some();
    let remedy = if both {
        String::new()
    } else {
        format!("; change the {first} one first")
    };
    match upper {
        _ if lower <= upper => None,
        0 => Some(format!(
            "a lower threshold, {lower}, needs an upper one{remedy}"
        )),
        _ => Some(format!(
            "the lower threshold, {lower}, would be above the upper one, {upper}{remedy}"
        )),
    }
}

/// How long what a reload takes back lasts, for messages.
pub(super) const TAKEN_BACK: &str =
    "at run time only: a reload or a restart takes what the file says";

/// How long a setting lasts, for messages.
pub(super) fn lasts(overridden: bool) -> &'static str {
    if overridden {
        "at run time only: a restart takes what the file says"
    } else {
        "as the file says"
    }
}

/// A server by name, by address and port, or by an address that only one server has.
fn find_dest(service: &ServiceDef, wanted: &str) -> Option<usize> {
    let servers = &service.servers;
    if let Some(i) = servers.iter().position(|d| d.label() == wanted) {
        return Some(i);
    }
    if let Ok(at) = wanted.parse::<std::net::SocketAddr>() {
        return servers
            .iter()
            .position(|d| (d.addr, d.port) == (at.ip(), at.port()));
    }
    let addr: std::net::IpAddr = wanted.parse().ok()?;
    let mut at = servers.iter().enumerate().filter(|(_, d)| d.addr == addr);
    match (at.next(), at.next()) {
        (Some((i, _)), None) => Some(i),
        _ => None,
    }
}

fn unix_seconds(t: SystemTime) -> u64 {
    t.duration_since(UNIX_EPOCH)
        .map_or(0, |d: Duration| d.as_secs())
}
