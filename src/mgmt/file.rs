//! The configuration file as the manager takes it: what can change at run time, and what can't, by name.

use std::path::PathBuf;

use super::manager::{Loaded, Loader};
use super::reload::Fixed;
use crate::config::Lowered;
use crate::config::{self, Problem};

/// Loads the file at `path` each time it is called.
#[must_use]
pub fn loader(path: PathBuf) -> Loader {
    Box::new(move || match config::load(&path) {
        Ok(loaded) => Ok(loaded.into()),
        Err(problems) => Err(problems.iter().map(Problem::to_string).collect()),
    })
}

impl From<config::Loaded> for Loaded {
    fn from(loaded: config::Loaded) -> Self {
        Self {
            fixed: fixed(&loaded.lowered),
            setup: loaded.lowered.setup,
            warnings: loaded.warnings.iter().map(Problem::to_string).collect(),
        }
    }
}

/// What only a restart can change, besides ports.
fn fixed(l: &Lowered) -> Fixed {
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    let cores = l.dpdk.cores.iter().map(u16::to_string).collect();
    [
        ("dpdk.cores", list(cores)),
        ("dpdk.management_core", l.dpdk.management_core.to_string()),
        ("dpdk.memory", format!("{}M", l.dpdk.memory_mb)),
        ("dpdk.hugepages", l.dpdk.hugepages.to_string()),
        ("dpdk.eal", list(l.dpdk.eal.clone())),
        ("limits.connections", l.limits.connections.to_string()),
        ("limits.services", l.limits.services.to_string()),
        ("limits.servers", l.limits.servers.to_string()),
        ("metrics.listen", l.metrics.listen.to_string()),
        (
            "metrics.detail",
            format!("{:?}", l.metrics.detail).to_lowercase(),
        ),
        ("control.socket", l.control.socket.display().to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
ports:
  - {name: wan0, device: \"net_null0\", addresses: [192.0.2.10/24]}
services:
  - name: web
    protocol: tcp
    address: 192.0.2.80
    port: 80
    servers:
      - {address: 10.0.0.1, port: 80}
";

    #[test]
    fn a_real_file_is_reloaded_and_a_broken_one_tells_where() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("polder.yaml");
        let load = loader(path.clone());
        std::fs::write(&path, FILE).expect("writes");
        let first = load().expect("valid");
        assert_eq!(first.setup.services[0].servers.len(), 1);
        std::fs::write(&path, FILE.to_owned() + "limits: {connections: 2M}\n").expect("writes");
        let second = load().expect("valid");
        assert_ne!(
            first.fixed["limits.connections"],
            second.fixed["limits.connections"]
        );
        assert_eq!(first.setup, second.setup);
        std::fs::write(&path, FILE.replace("port: 80}", "prot: 80}")).expect("writes");
        let problems = load().expect_err("invalid");
        assert!(problems[0].contains("polder.yaml:9:"), "{problems:?}");
    }
}
