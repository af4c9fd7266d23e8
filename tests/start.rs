//! `polder run` from outside while it starts: signals, and what is left behind. Without hugepages, NICs and namespaces.
#![cfg(feature = "dpdk")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Far longer than any start takes.
const LONGEST: Duration = Duration::from_secs(60);

/// An appliance over DPDK's null device that was just started.
struct Starting {
    child: Child,
    dir: tempfile::TempDir,
}

impl Starting {
    fn new() -> Self {
        Self::with("net_null0", "64M", "")
    }

    /// With this device, `dpdk.memory` and argument for EAL.
    fn with(device: &str, memory: &str, eal: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("made/for/polder/control.sock");
        let core = core_affinity::get_core_ids().unwrap_or_default();
        let core = core.last().map_or(0, |c| c.id);
        let text = format!(
            "dpdk: {{cores: [{core}], management_core: 0, hugepages: false, memory: {memory}, idle: sleep, eal: [{eal}]}}\n\
             limits: {{connections: 1k, templates: 1k}}\n\
             ports:\n  - {{name: wan0, device: \"{device}\", addresses: [192.0.2.10/24], kernel_interface: false}}\n\
             services:\n  - {{protocol: tcp, address: 192.0.2.80, port: 80}}\n\
             metrics: {{listen: \"127.0.0.1:0\"}}\ncontrol: {{socket: \"{}\"}}\n",
            socket.display()
        );
        let config = dir.path().join("polder.yaml");
        fs::write(&config, text).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_polder"))
            .arg("run")
            .arg("-c")
            .arg(config)
            // Where DPDK makes its folder for whoever is not root.
            .env("XDG_RUNTIME_DIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("polder runs");
        Self { child, dir }
    }

    /// Folders that DPDK may make for the process.
    fn folders(&self) -> [PathBuf; 2] {
        [Path::new("/var/run"), self.dir.path()]
            .map(|base| base.join(format!("dpdk/polder{}", self.child.id())))
    }

    /// Waits until DPDK is starting, or has started and the control socket is there.
    fn wait_for_dpdk(&mut self) {
        let began = Instant::now();
        let socket = self.dir.path().join("made/for/polder/control.sock");
        while !self.folders().iter().any(|f| f.exists()) && !socket.exists() {
            assert!(began.elapsed() < LONGEST, "DPDK does not start");
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let status = kill.args(["-s", name, &self.child.id().to_string()]);
        assert!(status.status().is_ok_and(|s| s.success()), "kill -s {name}");
    }

    /// Waits for the end and tells the exit status and all that was printed.
    fn end(&mut self) -> (ExitStatus, String, String) {
        let began = Instant::now();
        while self.child.try_wait().expect("a child").is_none() {
            if began.elapsed() > LONGEST {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let (mut out, mut err) = (String::new(), String::new());
        let stdout = self.child.stdout.as_mut().expect("is a pipe");
        stdout.read_to_string(&mut out).expect("text");
        let stderr = self.child.stderr.as_mut().expect("is a pipe");
        stderr.read_to_string(&mut err).expect("text");
        (self.child.wait().expect("has ended"), out, err)
    }

    fn assert_nothing_is_left(&self) {
        for folder in self.folders() {
            assert!(!folder.exists(), "{} is left", folder.display());
        }
        let left: Vec<_> = fs::read_dir(self.dir.path())
            .expect("it is there")
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert_eq!(left, ["polder.yaml"]);
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_signal_while_dpdk_starts_leads_to_a_clean_stop() {
    for signal in ["TERM", "INT"] {
        let mut polder = Starting::new();
        polder.wait_for_dpdk();
        polder.signal(signal);
        let (status, _, said) = polder.end();
        assert_eq!(status.code(), Some(0), "SIG{signal}: {status}\n{said}");
        polder.assert_nothing_is_left();
    }
}

#[test]
fn a_reload_that_is_asked_for_while_dpdk_starts_does_not_end_it() {
    let mut polder = Starting::new();
    polder.wait_for_dpdk();
    polder.signal("HUP");
    polder.signal("TERM");
    let (status, _, said) = polder.end();
    assert_eq!(status.code(), Some(0), "{status}\n{said}");
    polder.assert_nothing_is_left();
}

#[test]
fn a_start_that_fails_names_the_key_and_leaves_nothing() {
    for (device, memory, eal, phrases) in [
        ("net_null0", "64M", "--bogus", ["dpdk.eal", "--bogus"]),
        ("net_null0,size=bogus", "64M", "", ["port `wan0`", "`size`"]),
        (
            "net_nope0",
            "64M",
            "",
            ["port `wan0`", "no driver takes it"],
        ),
        (
            "net_memif0,socket=/nope/s,socket-abstract=no",
            "64M",
            "",
            ["port `wan0`", "no folder /nope"],
        ),
        (
            "net_null0",
            "1T",
            "",
            ["dpdk.memory: 1048576 MB", "set `dpdk.memory`"],
        ),
    ] {
        let mut polder = Starting::with(device, memory, eal);
        let (status, out, said) = polder.end();
        assert_eq!(status.code(), Some(1), "{device} {eal}: {status}\n{said}");
        for phrase in phrases {
            assert!(said.contains(phrase), "{phrase}: {said}");
        }
        assert_eq!(out, "", "{device} {eal}");
        polder.assert_nothing_is_left();
    }
}
