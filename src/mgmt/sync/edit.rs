//! What an operator can change of state sync at run time, and what of it a reload keeps.
//!
//! Pure functions of settings, but for the manager's part at the end and the kernel's list of interfaces. Refusals are
//! those of IPVS (specification §9.1), each with its error number for the front that speaks like ipvsadm.

use std::net::{IpAddr, SocketAddr};

use super::super::api::{self, Error, ErrorKind, Reloaded};
use super::super::manager::Manager;
use super::{SyncControl, status_of};
use crate::config::sync_interface;
use crate::forward::{ServiceDef, ServiceKind, Setup};
use crate::net::Af;
use crate::sync::settings::{
    Channel, Format, INTERFACE_MAX, MESSAGE_MAX, MESSAGE_MIN, Role, Settings,
};

/// Why IPVS would refuse it, too (specification §9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// The role runs already.
    Exists,
    /// The role does not run.
    NotRunning,
    /// There is no such interface.
    NoDevice,
    /// It can't be so.
    Invalid,
}

impl Errno {
    /// Its name in C.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exists => "EEXIST",
            Self::NotRunning => "ESRCH",
            Self::NoDevice => "ENODEV",
            Self::Invalid => "EINVAL",
        }
    }

    fn kind(self) -> ErrorKind {
        match self {
            Self::Exists => ErrorKind::Conflict,
            Self::NotRunning => ErrorKind::NotFound,
            Self::NoDevice | Self::Invalid => ErrorKind::Invalid,
        }
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// As IPVS has it.
    pub errno: Errno,
    /// A sentence.
    pub sentence: String,
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::new(refused.errno.kind(), refused.sentence).with_code(refused.errno.name())
    }
}

fn invalid(sentence: impl Into<String>) -> Refused {
    Refused {
        errno: Errno::Invalid,
        sentence: sentence.into(),
    }
}

/// What there is around sync that a change has to fit to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around<'a> {
    /// The services and ports.
    pub setup: &'a Setup,
    /// The kernel's interfaces, where it tells them.
    pub interfaces: Option<&'a [String]>,
}

/// Changes what `update` says; tells what was done.
pub(super) fn apply(
    settings: &mut Settings,
    update: &api::SyncUpdate,
    around: Around<'_>,
) -> Result<String, Refused> {
    match (&update.role, &update.start, &update.stop) {
        (Some(role), None, None) => {
            let role: Role = role.parse().map_err(invalid)?;
            let before = settings.role;
            let (begun, ended) = (role.without(before), before.without(role));
            settings.stop(ended);
            if begun != Role::Off {
                let channel = settings.channel();
                settings.start(begun, channel).map_err(invalid)?;
                check(settings, around)?;
            }
            Ok(format!("role {before} -> {role}"))
        }
        (None, Some(start), None) => {
            let role = one_role(&start.role)?;
            if settings.role.covers(role) {
                return Err(Refused {
                    errno: Errno::Exists,
                    sentence: format!("state sync runs as {role} already; stop it first"),
                });
            }
            let channel = channel_of(settings.channel(), start, around)?;
            check_channel(&channel, settings.ports, around)?;
            settings.start(role, channel).map_err(invalid)?;
            check(settings, around)?;
            Ok(format!("{role} started"))
        }
        (None, None, Some(stop)) => {
            let role = one_role(stop)?;
            if !settings.role.covers(role) {
                return Err(Refused {
                    errno: Errno::NotRunning,
                    sentence: format!("state sync does not run as {role}"),
                });
            }
            settings.stop(role);
            Ok(format!("{role} stopped"))
        }
        _ => Err(invalid("give one of `role`, `start` and `stop`")),
    }
}

/// A role that can be started and stopped by itself.
fn one_role(word: &str) -> Result<Role, Refused> {
    match word.parse() {
        Ok(role @ (Role::Master | Role::Backup)) => Ok(role),
        _ => Err(invalid(format!(
            "`{word}` can't be started or stopped; there is: master, backup"
        ))),
    }
}

/// `channel` with what `start` says of it.
fn channel_of(
    mut channel: Channel,
    start: &api::SyncStart,
    around: Around<'_>,
) -> Result<Channel, Refused> {
    if let Some(name) = &start.interface {
        if let Some(port) = around.setup.ports.iter().find(|p| &p.name == name)
            && !port.kernel_interface
        {
            return Err(invalid(format!("port `{name}` has no kernel interface")));
        }
        let ports = around.setup.ports.iter().map(|p| p.name.as_str());
        channel.interface = Some(sync_interface(name, ports));
    }
    if let Some(group) = &start.group {
        let addr: IpAddr = group
            .trim_matches(['[', ']'])
            .parse()
            .map_err(|_| invalid(format!("`{group}` is no IP address")))?;
        if !addr.is_multicast() {
            return Err(invalid(format!("{addr} is no multicast address")));
        }
        channel.group = SocketAddr::new(addr, channel.group.port());
        channel.peers.clear();
    }
    if let Some(port) = start.port {
        let port = ranged("the port", port, 1, u16::MAX)?;
        channel.group.set_port(port);
        channel.peers.iter_mut().for_each(|p| p.set_port(port));
    }
    if let Some(ttl) = start.ttl {
        channel.ttl = ranged("the time to live", ttl, 1, u8::MAX)?;
    }
    if let Some(id) = start.sync_id {
        channel.sync_id = ranged("the sync id", id, 0, u8::MAX)?;
    }
    if let Some(len) = start.max_message {
        let len: u16 = ranged("the longest message", len, 1, MESSAGE_MAX)?;
        channel.max_len = Some(len.max(MESSAGE_MIN));
    }
    Ok(channel)
}

fn ranged<T>(what: &str, value: u32, least: T, most: T) -> Result<T, Refused>
where
    T: Copy + TryFrom<u32> + PartialOrd + std::fmt::Display,
{
    match T::try_from(value) {
        Ok(value) if value >= least && value <= most => Ok(value),
        _ => Err(invalid(format!("{what} is {least} to {most}, not {value}"))),
    }
}

/// Whether sync could run with these settings, as far as the file and the kernel's interfaces tell.
fn check(settings: &Settings, around: Around<'_>) -> Result<(), Refused> {
    let s = settings;
    if s.role == Role::Off {
        return Ok(());
    }
    if s.format == Format::Polder && s.key_file.is_none() {
        return Err(invalid(
            "the polder format needs keys: set `sync.key_file` in the configuration and reload, or `sync.format: ipvs`",
        ));
    }
    let mut channels = Vec::new();
    if s.role != Role::Backup {
        channels.push(s.channel());
    }
    if s.role.is_backup() {
        channels.push(s.backup_channel());
    }
    for channel in &channels {
        check_channel(channel, s.ports, around)?;
    }
    if matches!(s.format, Format::Ipvs(_))
        && let Some((service, server)) = mixed(around.setup)
    {
        return Err(invalid(format!(
            "server {server} of service `{service}` has another address family than its clients, for which messages of \
             the ipvs format have no room"
        )));
    }
    Ok(())
}

fn check_channel(channel: &Channel, ports: u8, around: Around<'_>) -> Result<(), Refused> {
    let last = u32::from(channel.group.port()) + u32::from(ports.max(1)) - 1;
    if last > u32::from(u16::MAX) {
        return Err(invalid(format!(
            "there are not {ports} ports from {} on",
            channel.group.port()
        )));
    }
    let Some(name) = &channel.interface else {
        return match channel.peers.is_empty() && !channel.is_ipv4() {
            true => Err(invalid("an IPv6 group needs an interface")),
            false => Ok(()),
        };
    };
    let known = around
        .interfaces
        .is_none_or(|all| all.iter().any(|i| i == name));
    if name.is_empty() || name.chars().count() > INTERFACE_MAX || !known {
        return Err(Refused {
            errno: Errno::NoDevice,
            sentence: format!(
                "there is no interface `{name}`; `ip link` lists those that there are"
            ),
        });
    }
    Ok(())
}

/// A server whose address family is not that of its clients.
fn mixed(setup: &Setup) -> Option<(String, String)> {
    let family = |s: &ServiceDef| match s.kind {
        ServiceKind::Address { addr, .. } => Af::of(addr),
        ServiceKind::Mark { af, .. } => af,
    };
    setup.services.iter().find_map(|s| {
        let server = s.servers.iter().find(|d| Af::of(d.addr) != family(s))?;
        Some((s.name.clone(), server.label()))
    })
}

/// `new` with what was set at run time where the file (`file`) says the same as it did, and a sentence for each.
pub(super) fn keep(
    file: &Settings,
    running: &Settings,
    new: &Settings,
    around: Around<'_>,
) -> (Settings, Vec<String>) {
    let mut out = new.clone();
    let mut kept = Vec::new();
    macro_rules! keep {
        ($($name:literal $($field:ident)+, $shown:expr;)*) => {$(
            let of = |s: &Settings| ($(s.$field.clone(),)+);
            if of(new) == of(file) && of(running) != of(new) {
                let shown: fn(&Settings) -> String = $shown;
                kept.push(format!(
                    "sync keeps {} {} that was set at run time (the file says {})",
                    $name, shown(running), shown(new)
                ));
                $(out.$field = running.$field.clone();)+
            }
        )*};
    }
    keep! {
        "role" role, |s| s.role.to_string();
        "interface" interface, |s| s.interface.clone().unwrap_or_else(|| "none".to_owned());
        "group" group peers, destination;
        "ttl" ttl, |s| s.ttl.to_string();
        "sync_id" sync_id, |s| s.sync_id.to_string();
        "max_message" max_len, |s| s.max_len.map_or_else(|| "none".to_owned(), |n| n.to_string());
    }
    if out.role == Role::Both && running.backup.is_some() {
        // The file can't say it, so that it never says otherwise.
        out.backup.clone_from(&running.backup);
        kept.push("sync keeps the channel of its own that backup was started with".to_owned());
    }
    let why = match check(&out, around) {
        _ if kept.is_empty() => None,
        Ok(()) if out.backup.is_some() && out.format == Format::Polder => {
            Some("both roles of the polder format share one channel".to_owned())
        }
        Ok(()) => None,
        Err(refused) => Some(refused.sentence),
    };
    match why {
        None => (out, kept),
        Some(why) => {
            let lost =
                "sync loses what was set at run time, which does not go together with the new file";
            (new.clone(), vec![format!("{lost}: {why}")])
        }
    }
}

/// Where messages go, in words.
fn destination(s: &Settings) -> String {
    if s.peers.is_empty() {
        return s.group.to_string();
    }
    let peers: Vec<String> = s.peers.iter().map(ToString::to_string).collect();
    format!("[{}]", peers.join(", "))
}

/// The interfaces of the network that this process is in; nothing when the kernel does not tell.
fn interfaces() -> Option<Vec<String>> {
    let table = std::fs::read_to_string("/proc/self/net/dev").ok()?;
    let names = table.lines().skip(2).filter_map(|l| l.split_once(':'));
    Some(names.map(|(name, _)| name.trim().to_owned()).collect())
}

/// What a reload does to sync: settings of before and after.
pub(in super::super) type Step = (std::sync::Arc<dyn SyncControl>, Settings, Settings);

impl Manager {
    /// How state sync goes; nothing when this appliance has none.
    #[must_use]
    pub fn sync_status(&self) -> Option<api::SyncStatus> {
        let control = self.sync.as_ref()?;
        let mut status = control.status();
        status.overridden = control.settings() != self.sync_file;
        if !status.running {
            status.daemons.clear();
        }
        Some(status)
    }

    /// The same for listings, also where there is none.
    #[must_use]
    pub fn sync_listing(&self) -> api::SyncStatus {
        self.sync_status().unwrap_or_else(|| {
            let why = "this appliance was started without state sync".to_owned();
            api::SyncStatus {
                problem: Some(why.clone()),
                ready_reason: why,
                ready: true,
                daemons: Vec::new(),
                ..status_of(&self.sync_file)
            }
        })
    }

    /// Why state sync keeps this director from being ready to take over, if it does.
    #[must_use]
    pub fn sync_unready(&self) -> Option<String> {
        let status = self.sync_status()?;
        let waits = status.role != Role::Off.word() && !status.ready;
        waits.then(|| format!("state sync is not ready: {}", status.ready_reason))
    }

    /// Starts, stops or changes state sync at run time.
    ///
    /// # Errors
    /// As IPVS refuses (specification §9.1), or the machine can't do it.
    pub fn edit_sync(&mut self, update: &api::SyncUpdate) -> Result<api::SyncUpdated, Error> {
        let Some(control) = self.sync.clone() else {
            let why = "this appliance was started without state sync";
            return Err(Error::new(ErrorKind::Unavailable, why));
        };
        let mut settings = control.settings();
        let interfaces = interfaces();
        let around = Around {
            setup: &self.setup,
            interfaces: interfaces.as_deref(),
        };
        let done = apply(&mut settings, update, around)?;
        if settings != control.settings() {
            control
                .change(settings)
                .map_err(|why| Error::from(invalid(why)))?;
        }
        let sync = self.sync_listing();
        let lasts = super::super::manager::lasts(sync.overridden);
        Ok(api::SyncUpdated {
            message: format!("sync: {done} ({lasts})"),
            sync,
        })
    }

    /// A step of a take-over by another process.
    ///
    /// # Errors
    /// A sentence.
    pub fn hand_over(&self, step: &api::HandOverStep) -> Result<api::HandOverState, Error> {
        let why = "this appliance was started without state sync";
        let control = self.sync.clone();
        let control = control.ok_or_else(|| Error::new(ErrorKind::Unavailable, why))?;
        let refused = |why: String| Error::new(ErrorKind::Conflict, why);
        control.hand_over(step).map_err(refused)
    }

    /// What a reload makes of state sync; tells it in `report`.
    pub(in super::super) fn sync_step(
        &self,
        new: &Settings,
        setup: &Setup,
        report: &mut Reloaded,
    ) -> Option<Step> {
        let control = self.sync.clone()?;
        let before = control.settings();
        let around = Around {
            setup,
            interfaces: None,
        };
        let (after, kept) = keep(&self.sync_file, &before, new, around);
        report.kept.extend(kept);
        if before != after {
            report.other.push("sync".to_owned());
            report.changed = true;
        }
        Some((control, before, after))
    }
}

#[cfg(test)]
mod tests;
