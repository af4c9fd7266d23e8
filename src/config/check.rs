//! `polder check`: a file's problems as text for people and as JSON for programs.
//!
//! Owns the two forms and the exit codes of the operator's contract §1. Tells the loader which
//! CPUs this machine has, so that it warns of others; `run` refuses those by itself.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::load::{Loaded, load_for, name_of};
use super::model::Config;
use super::problem::{Problem, Severity};

/// Exit code of a valid configuration.
pub const VALID: u8 = 0;
/// Exit code of an invalid configuration.
pub const INVALID: u8 = 1;
/// Exit code of a valid configuration with warnings.
pub const WARNINGS: u8 = 2;

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs; the valid configuration is in it, with all defaults filled in.
    Json,
    /// Only the valid configuration, as YAML with all defaults filled in; problems as in [`Format::Text`], as comments.
    Yaml,
}

/// The JSON form.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    file: String,
    valid: bool,
    errors: usize,
    warnings: usize,
    problems: &'a [Problem],
    config: Option<&'a Config>,
}

/// Checks the file at `path`, writes what is to say of it to `out` and returns the exit code: [`VALID`], [`INVALID`]
/// or [`WARNINGS`].
///
/// # Errors
/// Those of `out`.
pub fn run_check(path: &Path, format: Format, out: &mut impl Write) -> io::Result<u8> {
    let file = name_of(path);
    let (config, problems) = match load_for(path, online_cpus().as_ref()) {
        Ok(Loaded {
            config, warnings, ..
        }) => (Some(config), warnings),
        Err(problems) => (None, problems),
    };
    write_outcome(&file, config.as_ref(), &problems, format, out)?;
    Ok(exit_code(config.is_some(), &problems))
}

/// The exit code of a check with these problems.
#[must_use]
pub fn exit_code(valid: bool, problems: &[Problem]) -> u8 {
    match (valid, problems.is_empty()) {
        (false, _) => INVALID,
        (true, false) => WARNINGS,
        (true, true) => VALID,
    }
}

/// The configuration as YAML, with all defaults filled in; it loads as the same configuration.
#[must_use]
pub fn to_yaml(config: &Config) -> String {
    serde_yaml::to_string(config)
        .expect("the model has only maps with text keys, lists and scalars")
}

/// Any answer as YAML.
///
/// # Panics
/// Never: JSON is YAML.
#[must_use]
pub fn value_to_yaml(value: &serde_json::Value) -> String {
    serde_yaml::to_string(value).expect("JSON is YAML")
}

/// The configuration as JSON, with all defaults filled in.
#[must_use]
pub fn to_json(config: &Config) -> serde_json::Value {
    serde_json::to_value(config).expect("the model has only maps with text keys, lists and scalars")
}

/// The CPUs that Linux says are online; `None` where it does not say.
fn online_cpus() -> Option<BTreeSet<u16>> {
    parse_cpus(&std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?)
}

/// Reads a list such as `0-3,8-11`.
pub(super) fn parse_cpus(list: &str) -> Option<BTreeSet<u16>> {
    let mut cpus = BTreeSet::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<u16>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

fn write_outcome(
    file: &str,
    config: Option<&Config>,
    problems: &[Problem],
    format: Format,
    out: &mut impl Write,
) -> io::Result<()> {
    let errors = problems
        .iter()
        .filter(|p| p.severity == Severity::Error)
        .count();
    let warnings = problems.len() - errors;
    match format {
        Format::Json => {
            let valid = config.is_some();
            let outcome = Outcome {
                file: file.to_owned(),
                valid,
                errors,
                warnings,
                problems,
                config,
            };
            serde_json::to_writer_pretty(&mut *out, &outcome)?;
            writeln!(out)
        }
        Format::Text => {
            for problem in problems {
                writeln!(out, "{problem}\n")?;
            }
            writeln!(out, "{}", summary(file, config, errors, warnings))
        }
        Format::Yaml => {
            for line in problems
                .iter()
                .flat_map(|p| p.to_string().lines().map(str::to_owned).collect::<Vec<_>>())
            {
                writeln!(out, "# {line}")?;
            }
            writeln!(out, "# {}", summary(file, config, errors, warnings))?;
            config.map_or(Ok(()), |config| out.write_all(to_yaml(config).as_bytes()))
        }
    }
}

/// So many of something: `1 port`, `2 ports`.
#[must_use]
pub fn some(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn summary(file: &str, config: Option<&Config>, errors: usize, warnings: usize) -> String {
    let Some(config) = config else {
        let warnings = if warnings > 0 {
            format!(", {}", some(warnings, "warning"))
        } else {
            String::new()
        };
        return format!("{file} is invalid: {}{warnings}", some(errors, "error"));
    };
    let servers = config.services.iter().map(|s| s.servers.len()).sum();
    let content = [
        some(config.ports.len(), "port"),
        some(config.services.len(), "service"),
        some(servers, "server"),
    ];
    let with = if warnings > 0 {
        format!(" with {}", some(warnings, "warning"))
    } else {
        String::new()
    };
    format!("{file} is valid{with}: {}", content.join(", "))
}
