//! A small network of the host's own making: namespaces, wires between them, and processes in them.
//!
//! A namespace is held by a process that sleeps in it, so it needs neither a name nor a mount, and works the same for
//! root and for an ordinary user in a user namespace. Invariant: everything that a [`Lab`] started ends with it, also
//! when this process is killed.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Programs and the Debian packages that have them.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("sysctl", "procps"),
    ("ethtool", "ethtool"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
    ("curl", "curl"),
    ("sipp", "sip-tester"),
    ("keepalived", "keepalived"),
];

/// Where programs are looked for besides the path: administrators' folders are not in everybody's.
const SBIN: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Checks that all `programs` are there.
///
/// # Errors
/// A sentence with the command that installs what is missing.
pub fn need(programs: &[&str]) -> Result<(), String> {
    let missing: Vec<_> = programs.iter().filter(|p| !is_installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> = missing
        .iter()
        .filter_map(|m| PROGRAMS.iter().find(|(p, _)| p == *m))
        .map(|(_, package)| *package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    let names = missing
        .iter()
        .map(|m| format!("`{m}`"))
        .collect::<Vec<_>>()
        .join(", ");
    Err(format!(
        "{names} is not installed: apt-get install {}",
        packages.join(" ")
    ))
}

fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
    format!("{path}:{SBIN}")
}

fn is_installed(program: &str) -> bool {
    search_path()
        .split(':')
        .any(|dir| Path::new(dir).join(program).is_file())
}

/// Runs a command to its end.
///
/// # Errors
/// A sentence with the command line and what it said.
pub fn run(mut command: Command) -> Result<String, String> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words
        .map(|w| w.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    let out = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("`{line}` can't be run: {e}"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(format!("`{line}` failed ({}): {said}", out.status))
}

/// A process of the lab's. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts a command in the background; its output goes to `log`.
    ///
    /// # Errors
    /// A sentence when it can't be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self, String> {
        let fail = |e: io::Error| format!("{name} can't be started: {e}");
        let out = fs::File::create(log).map_err(fail)?;
        let err = out.try_clone().map_err(fail)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(fail)?;
        Ok(Self {
            name: name.to_owned(),
            child,
        })
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end, at most so long.
    ///
    /// # Errors
    /// It did not end in time; it is killed then.
    pub fn wait(&mut self, at_most: Duration) -> Result<ExitStatus, String> {
        let began = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if began.elapsed() < at_most => std::thread::sleep(STEP),
                _ => {
                    self.kill();
                    return Err(format!("{} did not end within {at_most:?}", self.name));
                }
            }
        }
    }

    /// Kills it at once, as a crash would.
    pub fn kill(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop, and waits.
    ///
    /// # Errors
    /// It did not end in time; it is killed then.
    pub fn stop(&mut self) -> Result<ExitStatus, String> {
        let mut term = Command::new("kill");
        term.arg("-TERM").arg(self.child.id().to_string());
        let _ = run(term);
        self.wait(Duration::from_secs(10))
    }

    /// Its process number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How often the lab looks again for what it waits for.
const STEP: Duration = Duration::from_millis(20);

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    anchor: Process,
}

impl Namespace {
    fn new(dir: &Path, name: &str) -> Result<Self, String> {
        let mut command = Command::new("unshare");
        // The anchor dies with this process, whatever becomes of it.
        command.env("PATH", search_path()).args([
            "-n",
            "--",
            "setpriv",
            "--pdeathsig",
            "KILL",
            "sleep",
            "86400",
        ]);
        let mut anchor = Process::start(name, command, &dir.join(format!("{name}.anchor.log")))?;
        let net = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
        let own = net("self").map_err(|e| format!("/proc can't be read: {e}"))?;
        let is_up = |anchor: &mut Process| {
            let id = anchor.id().to_string();
            let sleeps = fs::read_to_string(format!("/proc/{id}/comm"));
            net(&id).is_ok_and(|n| n != own) && sleeps.is_ok_and(|c| c.trim() == "sleep")
        };
        let began = Instant::now();
        while !is_up(&mut anchor) {
            if !anchor.is_running() || began.elapsed() > Duration::from_secs(5) {
                return Err(
                    "no network namespace can be made here: run as root, or within `unshare -Urn`"
                        .to_owned(),
                );
            }
            std::thread::sleep(STEP);
        }
        let new = Self { anchor };
        new.ip("link set lo up")?;
        Ok(new)
    }

    /// A command that runs in the namespace, and dies with this process.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let id = self.anchor.id().to_string();
        command
            .env("PATH", search_path())
            .args([
                "-t",
                &id,
                "-n",
                "--",
                "setpriv",
                "--pdeathsig",
                "KILL",
                "--",
            ])
            .arg(program);
        command
    }

    /// Runs `work` in a thread of this process that is in the namespace. What comes of it is always something, once this
    /// has succeeded.
    ///
    /// # Errors
    /// A sentence: the thread can't be had, or not in the namespace.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Option<T>>, String> {
        let path = format!("/proc/{}/ns/net", self.anchor.id());
        let net = fs::File::open(&path).map_err(|e| format!("{path} can't be read: {e}"))?;
        let (entered, enters) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || {
            let result = nix::sched::setns(net, nix::sched::CloneFlags::CLONE_NEWNET);
            // Whoever waits for it is there until it comes.
            let _ = entered.send(result);
            result.is_ok().then(work)
        });
        let failed = |e: &dyn std::fmt::Display| format!("no thread for {name}: {e}");
        let thread = thread.map_err(|e| failed(&e))?;
        match enters.recv() {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(failed(&e)),
            Err(e) => return Err(failed(&e)),
        }
        Ok(thread)
    }

    /// Runs a program in the namespace to its end; the arguments are split at blanks.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(&self, line: &str) -> Result<String, String> {
        let mut words = line.split_ascii_whitespace();
        let mut command = self.command(words.next().unwrap_or("true"));
        command.args(words);
        run(command)
    }

    /// Runs `ip` in the namespace.
    ///
    /// # Errors
    /// As [`run`].
    pub fn ip(&self, arguments: &str) -> Result<String, String> {
        self.run(&format!("ip {arguments}"))
    }

    /// Sets one of the kernel's settings in the namespace.
    ///
    /// # Errors
    /// As [`run`].
    pub fn sysctl(&self, setting: &str) -> Result<(), String> {
        let mut command = self.command("sysctl");
        command.args(["-qw", setting]);
        run(command).map(drop)
    }
}

/// A lab: a folder, namespaces, and the wires between them.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
}

impl Lab {
    /// A lab with an empty folder.
    ///
    /// # Errors
    /// A sentence when the folder can't be made.
    pub fn new() -> Result<Self, String> {
        let dir = std::env::temp_dir().join(format!("polder-lab-{}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|e| format!("{} can't be made: {e}", dir.display()))?;
        Ok(Self { dir })
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new namespace.
    ///
    /// # Errors
    /// A sentence when the host does not allow it.
    pub fn namespace(&self, name: &str) -> Result<Namespace, String> {
        Namespace::new(&self.dir, name)
    }

    /// A wire between two namespaces. What local programs send over it has whole checksums and is no larger than the
    /// MTU, as on a real wire.
    ///
    /// # Errors
    /// As [`run`].
    pub fn wire(&self, a: (&Namespace, &str), b: (&Namespace, &str)) -> Result<(), String> {
        let ((a, a_name), (b, b_name)) = (a, b);
        a.ip(&format!(
            "link add {a_name} type veth peer name {b_name} netns {}",
            b.anchor.id()
        ))?;
        for (ns, name) in [(a, a_name), (b, b_name)] {
            ns.sysctl(&format!("net.ipv6.conf.{name}.accept_dad=0"))?;
            ns.run(&format!("ethtool -K {name} tx off tso off gso off gro off"))?;
            ns.ip(&format!("link set {name} up"))?;
        }
        Ok(())
    }

    /// Makes an interface Polder's: the namespace's own kernel, which sees the frames as well, takes none of them.
    ///
    /// # Errors
    /// As [`run`].
    pub fn give_to_polder(&self, ns: &Namespace, name: &str) -> Result<(), String> {
        ns.sysctl(&format!("net.ipv4.conf.{name}.rp_filter=1"))?;
        ns.sysctl(&format!("net.ipv4.conf.{name}.arp_ignore=8"))?;
        ns.sysctl(&format!("net.ipv6.conf.{name}.disable_ipv6=1"))
    }

    /// Writes a file into the lab's folder.
    ///
    /// # Errors
    /// A sentence when it can't be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.dir.join(name);
        fs::File::create(&path)
            .and_then(|mut f| f.write_all(text.as_bytes()))
            .map_err(|e| format!("{} can't be written: {e}", path.display()))?;
        Ok(path)
    }

    /// Starts an nginx that serves its own name at one address.
    ///
    /// # Errors
    /// A sentence when it does not come up.
    pub fn nginx(&self, ns: &Namespace, name: &str, addr: IpAddr) -> Result<Process, String> {
        let listen = std::net::SocketAddr::new(addr, 80);
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).map_err(|e| format!("{} can't be made: {e}", dir.display()))?;
        let at = dir.display();
        let user = if is_root() { "user root;" } else { "" };
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|t| format!("{t}_temp_path {at}/{t};"))
            .join(" ");
        let conf = self.write(
            &format!("{name}.conf"),
            &format!(
                "daemon off; master_process off; {user} pid {at}/pid; error_log {at}/error.log;\n\
                 events {{ worker_connections 4096; }}\n\
                 http {{ access_log off; {temp}\n\
                 server {{ listen {listen} backlog=4096; location / {{ return 200 \"{name}\\n\"; }} }} }}\n"
            ),
        )?;
        let mut command = ns.command("nginx");
        command
            .arg("-c")
            .arg(conf)
            .arg("-e")
            .arg(dir.join("start.log"));
        let mut process = Process::start(name, command, &dir.join("out.log"))?;
        let url = format!("http://{listen}/");
        let began = Instant::now();
        while ns.run(&format!("curl -s -o /dev/null -m 1 {url}")).is_err() {
            if !process.is_running() || began.elapsed() > Duration::from_secs(10) {
                return Err(format!("nginx does not answer at {url}; see {at}"));
            }
            std::thread::sleep(STEP);
        }
        Ok(process)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What is left in the folder is logs; a folder that can't be removed does no harm.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Whether this process is root, in its own user namespace at least.
#[must_use]
pub fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:"));
    uid.and_then(|l| l.split_ascii_whitespace().nth(1)) == Some("0")
}
