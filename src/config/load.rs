//! The one way in: from a file's bytes to a configuration that can be used.
//!
//! Daemon, `check`, `reload` and `replay` all come through here, so that what one accepts all accept.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use super::lower::{Lowered, lower};
use super::model::{Config, EngineName, IpFamily, KeyType, Persistence, StateSync, SyncFormat};
use super::problem::{Place, Problem, Report, Severity};
use super::tree::{self, MAX_BYTES};
use super::values::{Netmask, Period, Share, SyncAddress};
use super::{decode, rules};
use crate::net::Tick;
use crate::sync::settings::{Format, Settings};

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the file says, with all defaults filled in.
    pub config: Config,
    /// The same, ready for use.
    pub lowered: Lowered,
    /// What may not be meant as it is written.
    pub warnings: Vec<Problem>,
}

/// The path that means standard input.
pub const STDIN: &str = "-";

/// Loads the file at `path`, or standard input for [`STDIN`].
///
/// # Errors
/// All problems of the file, warnings included, in the order of its lines, if one of them is an error. A file that
/// can't be read is a problem at line 0.
pub fn load(path: &Path) -> Result<Loaded, Vec<Problem>> {
    load_for(path, None)
}

/// Loads the file at `path` and also warns of cores that are not among `cpus`, where they are known.
pub(super) fn load_for(path: &Path, cpus: Option<&BTreeSet<u16>>) -> Result<Loaded, Vec<Problem>> {
    let name = name_of(path);
    match read(path) {
        Ok(bytes) => load_bytes_for(&name, &bytes, cpus),
        Err(error) => Err(vec![whole_file(
            &name,
            &format!("the file can't be read: {error}"),
        )]),
    }
}

/// Loads a configuration from `text`, which is called `name` in the problems.
///
/// # Errors
/// As [`load`].
pub fn load_str(name: &str, text: &str) -> Result<Loaded, Vec<Problem>> {
    load_bytes(name, text.as_bytes())
}

/// Loads a configuration from `bytes`, which are called `name` in the problems.
///
/// # Errors
/// As [`load`].
pub fn load_bytes(name: &str, bytes: &[u8]) -> Result<Loaded, Vec<Problem>> {
    load_bytes_for(name, bytes, None)
}

pub(super) fn load_bytes_for(
    name: &str,
    bytes: &[u8],
    cpus: Option<&BTreeSet<u16>>,
) -> Result<Loaded, Vec<Problem>> {
    if bytes.len() > MAX_BYTES {
        let message = format!(
            "the file is larger than {} MB, the most that is read",
            MAX_BYTES >> 20
        );
        return Err(vec![whole_file(name, &message)]);
    }
    // A byte order mark is no part of the text.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Err(not_utf8(name, bytes, error.valid_up_to())),
    };
    let mut report = Report::new(name, text);
    let config = config(text, cpus, &mut report);
    let failed = report.errors() > 0;
    match config {
        Some(config) if !failed => {
            let lowered = lower(&config).expect("the rules have checked all that can fail");
            Ok(Loaded {
                config,
                lowered,
                warnings: report.finish(),
            })
        }
        _ => Err(report.finish()),
    }
}

/// What the file at `path` is called in problems.
pub(super) fn name_of(path: &Path) -> String {
    if path == Path::new(STDIN) {
        "<stdin>".to_owned()
    } else {
        path.display().to_string()
    }
}

/// Reads at most one byte more than is allowed, whatever the file's size is said to be.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = MAX_BYTES as u64 + 1;
    if path == Path::new(STDIN) {
        io::stdin().lock().take(most).read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    let kind = std::fs::metadata(path)?.file_type();
    // Opening a pipe would wait for somebody to write; one that is open already, as a shell's `<(…)`, has somebody.
    let is_open = ["/dev/fd", "/dev/stdin", "/proc/self/fd"]
        .iter()
        .any(|open| path.starts_with(open));
    if !kind.is_file() && !kind.is_dir() && !is_open {
        return Err(io::Error::other(
            "it is not a regular file (`-` reads standard input)",
        ));
    }
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Decodes and checks `text` as far as it goes.
fn config(text: &str, cpus: Option<&BTreeSet<u16>>, report: &mut Report<'_>) -> Option<Config> {
    let tree = tree::parse(text, report)?;
    let (mut config, doubts) = decode::decode(&tree, report)?;
    fill(&mut config);
    rules::check(&config, &tree, &doubts, report);
    if let Some(cpus) = cpus {
        rules::check_cores(&config, &tree, &doubts, cpus, report);
    }
    Some(config)
}

/// Fills in the defaults that depend on other values.
fn fill(config: &mut Config) {
    fill_sync(&mut config.sync);
    for service in config.services.iter_mut() {
        if service.name.is_none() {
            service.name = service.default_name();
        }
        if service.mark.is_some() {
            service.family.get_or_insert_default();
        }
        let port = service.mark.map_or(service.port, |_| Some(0));
        for server in service.servers.iter_mut() {
            server.port = server.port.or(port);
        }
        let family = service.ip_family();
        if let Some(persistence) = service.persistence.as_mut() {
            fill_persistence(persistence, family);
        }
        if let Some(key) = service.payload_key.as_mut()
            && key.kind == KeyType::Field
        {
            key.unit.get_or_insert_default();
        }
    }
}

/// Only what the format has, so that what is printed says nothing that means nothing.
fn fill_sync(sync: &mut StateSync) {
    let s = Settings::default();
    if sync.peers.is_empty() {
        sync.group.get_or_insert(SyncAddress(s.group));
    }
    if sync.format == SyncFormat::Polder {
        let id = Format::Polder.default_sync_id();
        sync.sync_id.get_or_insert(id);
        sync.encrypt.get_or_insert(s.encrypt);
        sync.interval.get_or_insert(Period(s.interval));
        sync.ready
            .coverage
            .get_or_insert_with(|| Share::of(s.ready_coverage));
        return;
    }
    let version = crate::sync::ipvs::Version::V1;
    sync.sync_id
        .get_or_insert_with(|| Format::Ipvs(version).default_sync_id());
    sync.sync_version.get_or_insert_with(|| version.number());
    if sync.sync_threshold.is_empty() {
        sync.sync_threshold = [s.policy.threshold, s.policy.period].into_iter().collect();
    }
    let refresh = Duration::from_secs((s.policy.refresh / Tick::PER_SECOND).into());
    sync.sync_refresh_period.get_or_insert(Period(refresh));
    sync.sync_retries.get_or_insert(s.policy.retries);
    sync.sync_ports.get_or_insert(s.ports);
    sync.sync_persist_mode
        .get_or_insert(s.policy.templates_only);
}

fn fill_persistence(persistence: &mut Persistence, family: Option<IpFamily>) {
    if persistence.engine == Some(EngineName::Payload) {
        persistence.unit.get_or_insert_default();
    }
    let Some(family) = family else { return };
    let netmask = persistence
        .netmask
        .get_or_insert_with(|| Netmask::each(family));
    // One way to write a netmask, so that equal configurations are.
    if let (Netmask::Length(len), IpFamily::Ipv4) = (*netmask, family)
        && len <= 32
    {
        *netmask = Netmask::Dotted(len);
    }
}

fn whole_file(name: &str, message: &str) -> Problem {
    let mut report = Report::new(name, "");
    report.add(Severity::Error, Place::default(), String::new(), message);
    report.finish().swap_remove(0)
}

fn not_utf8(name: &str, bytes: &[u8], valid: usize) -> Vec<Problem> {
    let before = std::str::from_utf8(&bytes[..valid]).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    let place = Place {
        line: before.matches('\n').count() + 1,
        column: line.chars().count() + 1,
        len: 1,
    };
    let mut report = Report::new(name, before);
    report.add(
        Severity::Error,
        place,
        String::new(),
        "the file is not UTF-8 text",
    );
    report.finish()
}
