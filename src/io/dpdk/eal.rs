//! The Environment Abstraction Layer: DPDK's hold on cores and memory, once per process.
//!
//! Owns start and clean-up, and the control lock. Knows no port. Invariants: EAL starts at most once in a process's
//! life, and is cleaned up only when no handle, queue, pool or buffer is left.

use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::fs;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::console;
use super::device::pci_address;
use super::errno::Errno;
use super::interrupts::Bell;

/// How EAL starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EalConfig {
    /// The CPU of the management thread. The thread that calls [`Eal::start`] is pinned to it.
    pub main_core: u32,
    /// Memory from hugepages; ordinary pages otherwise, which real devices cannot use.
    pub hugepages: bool,
    /// Memory for buffers, in MiB.
    pub memory_mb: u32,
    /// Addresses of the PCI devices that may be used. With none, the PCI bus is left alone.
    pub pci: Vec<String>,
    /// Further arguments, verbatim. They come last.
    pub extra: Vec<String>,
    /// DPDK's own log on stderr instead of its errors in ours.
    pub debug: bool,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            main_core: 0,
            hugepages: true,
            memory_mb: 1024,
            pci: Vec::new(),
            extra: Vec::new(),
            debug: false,
        }
    }
}

/// Why EAL did not start, or a thread could not be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EalError {
    /// EAL was started before in this process, and cannot be again.
    AlreadyStarted,
    /// The host has no such CPU.
    NoSuchCore {
        /// The CPU asked for.
        core: u32,
    },
    /// The host has less memory than is wanted.
    MoreThanHost {
        /// What was asked for, in MiB.
        wanted_mb: u64,
        /// What the host has in all, in MiB.
        host_mb: u64,
    },
    /// The kernel has no hugepages at all.
    NoHugepageSupport,
    /// Too few hugepages are free.
    TooFewHugepages {
        /// What was asked for, in MiB.
        wanted_mb: u64,
        /// What is free, in MiB.
        free_mb: u64,
        /// The number of pages of the default size that the host must reserve.
        pages: u64,
    },
    /// An address in [`EalConfig::pci`] is none.
    NotPci(String),
    /// An argument has a NUL byte in it.
    Argument(String),
    /// DPDK refused.
    Refused {
        /// Its reason.
        errno: Errno,
        /// What it logged.
        said: String,
        /// What of the configuration may be the cause; empty when nothing is suspected.
        hint: String,
    },
    /// The thread is known to DPDK already.
    ThreadKnown,
    /// DPDK takes no more threads.
    Thread(Errno),
}

impl fmt::Display for EalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WITHOUT: &str = "or do without them: `hugepages: false` under `dpdk:`";
        match self {
            Self::AlreadyStarted => {
                f.write_str("DPDK was started before in this process and can be started only once")
            }
            Self::NoSuchCore { core } => {
                write!(
                    f,
                    "dpdk.management_core: this machine has no core {core}; `lscpu -e` lists its cores"
                )
            }
            Self::MoreThanHost { wanted_mb, host_mb } => write!(
                f,
                "dpdk.memory: {wanted_mb} MB are asked for and this host has {host_mb} MB in all (`free -m`); set \
                 `dpdk.memory` lower, its default is 1024M"
            ),
            Self::NoHugepageSupport => {
                write!(
                    f,
                    "this kernel has no hugepages (no /sys/kernel/mm/hugepages); {WITHOUT}"
                )
            }
            Self::TooFewHugepages {
                wanted_mb,
                free_mb,
                pages,
            } => write!(
                f,
                "dpdk.memory: {wanted_mb} MB of hugepages are needed and {free_mb} MB are free; reserve them: \
                 echo {pages} > /proc/sys/vm/nr_hugepages; or set `dpdk.memory` lower; {WITHOUT}"
            ),
            Self::NotPci(address) => {
                write!(f, "`{address}` is not a PCI address such as 0000:3b:00.0")
            }
            Self::Argument(argument) => {
                write!(
                    f,
                    "dpdk.eal: the argument {argument:?} has a NUL byte in it"
                )
            }
            Self::Refused { errno, said, hint } => {
                write!(f, "DPDK does not start: {errno}")?;
                if !said.is_empty() {
                    write!(f, " ({said})")?;
                }
                if !hint.is_empty() {
                    write!(f, "; {hint}")?;
                }
                Ok(())
            }
            Self::ThreadKnown => f.write_str("DPDK knows the thread already"),
            Self::Thread(errno) => write!(f, "DPDK does not take the thread: {errno}"),
        }
    }
}

impl Error for EalError {}

/// A handle of the running EAL. Clones are handles of the same; the last thing that holds one cleans EAL up.
#[derive(Clone, Debug)]
pub struct Eal {
    instance: Arc<Instance>,
}

#[derive(Debug)]
struct Instance {
    /// Held for every control operation; DPDK leaves that to the caller. Lists the ports that are open.
    control: Mutex<Vec<u16>>,
    debug: bool,
    remarks: String,
    /// To reach DPDK's interrupt thread; without it there is no clean-up.
    bell: Option<&'static Bell>,
    /// A buffer is still outstanding somewhere, so its memory must stay.
    pinned: AtomicBool,
}

/// Begins the names of our folders among DPDK's; the process's number follows.
const FILE_PREFIX: &str = "polder";

/// Set by the first start and never again cleared: DPDK's globals do not survive a second one.
static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK and pins the calling thread to `main_core`. Threads that it spawns later inherit that: workers
    /// pin themselves.
    ///
    /// # Errors
    /// Every [`EalError`] but `ThreadKnown` and `Thread`. One that is found before DPDK is called leaves the process able to try again.
    pub fn start(config: &EalConfig) -> Result<Self, EalError> {
        check_core(config.main_core)?;
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let wanted_mb = u64::from(config.memory_mb);
        check_memory(&meminfo, wanted_mb)?;
        let mut remarks = Vec::new();
        if config.hugepages {
            let pools = Path::new("/sys/kernel/mm/hugepages");
            check_hugepages(pools, &meminfo, wanted_mb)?;
        } else {
            remarks.extend(scarce(&meminfo, wanted_mb));
        }
        let arguments = c_arguments(config)?;
        if STARTED.swap(true, Ordering::Relaxed) {
            return Err(EalError::AlreadyStarted);
        }
        let (started, said) = console::listen(config.debug, || {
            console::mute(config.debug, || init(arguments))
        });
        started.map_err(|errno| EalError::Refused {
            errno,
            said: said.clone(),
            hint: hint(config, errno),
        })?;
        remarks.extend(Some(said).filter(|said| !said.is_empty()));
        Ok(Self {
            instance: Arc::new(Instance {
                control: Mutex::new(Vec::new()),
                debug: config.debug,
                remarks: remarks.join("\n"),
                bell: Bell::hang(),
                pinned: AtomicBool::new(false),
            }),
        })
    }

    /// What DPDK complained of while it started all the same. Mostly empty.
    #[must_use]
    pub fn remarks(&self) -> &str {
        &self.instance.remarks
    }

    /// Makes the calling thread known to DPDK until the guard is dropped.
    ///
    /// Every worker does this: an unknown thread works, but bypasses the pools' per-thread caches, at three times the
    /// cost per frame. The thread that called [`Eal::start`] is known already.
    ///
    /// # Errors
    /// `ThreadKnown`; `Thread`, when DPDK's table of threads (128 in Debian's build) is full.
    pub fn register_thread(&self) -> Result<RegisteredThread, EalError> {
        // A second registration would take a second place in the table and lose the first.
        // SAFETY: reads a thread-local integer.
        if unsafe { dpdk_sys::polder_thread_is_known() } != 0 {
            return Err(EalError::ThreadKnown);
        }
        // SAFETY: EAL is running, which `self` proves; the guard is bound to this thread.
        let result = unsafe { dpdk_sys::rte_thread_register() };
        Errno::check_last(result).map_err(EalError::Thread)?;
        Ok(RegisteredThread {
            _eal: self.clone(),
            _thread_bound: PhantomData,
        })
    }

    /// Runs a control operation, alone; `ports` are the open ones. Returns also what DPDK logged meanwhile.
    pub(super) fn control<R>(&self, operation: impl FnOnce(&mut Vec<u16>) -> R) -> (R, String) {
        // The list of open ports is never left half changed, so a panic elsewhere does not spoil it.
        let mut ports = self
            .instance
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        console::listen(self.instance.debug, || operation(&mut ports))
    }

    /// Waits until DPDK's own thread has handled what is due, which a device's close must not meet.
    pub(super) fn settle(&self) {
        // Without an answer there is nothing better to do than to go on.
        let _ = self.instance.bell.is_some_and(Bell::settle);
    }

    /// Keeps all of DPDK's memory mapped until the process ends.
    pub(super) fn pin(&self) {
        self.instance.pinned.store(true, Ordering::Relaxed);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if !self.pinned.load(Ordering::Relaxed) && self.bell.is_some_and(Bell::put_to_sleep) {
            // SAFETY: this is the last handle, and ports, pools and registered threads each hold one: none is left;
            // nor does DPDK's own thread touch the memory any more.
            unsafe { dpdk_sys::rte_eal_cleanup() };
        }
    }
}

/// The calling thread is known to DPDK while this lives.
#[derive(Debug)]
pub struct RegisteredThread {
    _eal: Eal,
    /// The registration belongs to a thread, so the guard stays on it.
    _thread_bound: PhantomData<*const ()>,
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        // SAFETY: the guard cannot leave the thread that it registered, and it keeps EAL running.
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}

fn init(arguments: Vec<CString>) -> Result<(), Errno> {
    // EAL permutes the array and keeps pointers into the strings for the rest of the process's life: it gets both.
    let argv: &'static mut [*mut c_char] =
        Vec::leak(arguments.into_iter().map(CString::into_raw).collect());
    let argc = c_int::try_from(argv.len()).map_err(|_| Errno(libc::E2BIG))?;
    // SAFETY: `argv` has `argc` NUL-terminated strings that live for ever, and this is the process's only call.
    let result = unsafe { dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr()) };
    let started = Errno::check_last(result);
    remove_runtime_folder();
    started
}

/// Removes the folder that EAL makes for files it is told not to make, those that processes which are gone left behind,
/// and the one above them when nobody else uses it.
fn remove_runtime_folder() {
    // SAFETY: returns a static buffer that EAL fills once, before it makes the folder.
    let path = unsafe { dpdk_sys::rte_eal_get_runtime_dir() };
    // SAFETY: the buffer ends in NUL; it is empty when EAL did not come that far.
    let path = unsafe { CStr::from_ptr(path) };
    let Ok(path) = path.to_str() else { return };
    let own = Path::new(path);
    let Some(all) = own.parent().filter(|_| own.is_absolute()) else {
        return;
    };
    // A folder that is not empty is somebody's and stays, which is what these errors would say.
    let _ = fs::remove_dir(own);
    sweep(all, Path::new("/proc"));
    let _ = fs::remove_dir(all);
}

/// Removes the folders of our name in `all` whose process is not in `processes`: it was killed while it started.
fn sweep(all: &Path, processes: &Path) {
    // Without a list of processes everybody would seem to be gone.
    if !processes.join("self").exists() {
        return;
    }
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|n| n.strip_prefix(FILE_PREFIX));
        let is_gone = |id: &str| {
            id.parse::<u32>().is_ok_and(|n| n.to_string() == id) && !processes.join(id).exists()
        };
        if process.is_some_and(is_gone) {
            // What is not empty was not left by us.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn c_arguments(config: &EalConfig) -> Result<Vec<CString>, EalError> {
    arguments(config)?
        .into_iter()
        .map(|a| CString::new(a.clone()).map_err(|_| EalError::Argument(a)))
        .collect()
}

/// The command line that EAL is given.
fn arguments(config: &EalConfig) -> Result<Vec<String>, EalError> {
    let mut list: Vec<String> = vec!["polder".into(), "--no-telemetry".into()];
    // The folder that EAL makes all the same is ours alone, so that it can be removed again.
    list.extend([
        "--file-prefix".into(),
        format!("{FILE_PREFIX}{}", std::process::id()),
    ]);
    // One EAL thread, the management thread; workers are threads of ours that register.
    list.extend(["--lcores".into(), format!("0@{}", config.main_core)]);
    list.extend(["-m".into(), config.memory_mb.to_string()]);
    // Either way nothing is left in the file system. EAL refuses the two together.
    list.extend(if config.hugepages {
        vec!["--in-memory".into()]
    } else {
        vec!["--no-huge".into(), "--no-shconf".into()]
    });
    if config.pci.is_empty() {
        list.push("--no-pci".into());
    }
    for text in &config.pci {
        let address = pci_address(text).ok_or_else(|| EalError::NotPci(text.clone()))?;
        list.extend(["-a".into(), address]);
    }
    if !config.debug {
        list.push("--log-level=*:error".into());
    }
    list.extend(config.extra.iter().cloned());
    Ok(list)
}

/// What of the configuration DPDK may have meant with `errno`.
fn hint(config: &EalConfig, errno: Errno) -> String {
    match errno.0 {
        libc::EINVAL if !config.extra.is_empty() => format!(
            "is `dpdk.eal` right? It adds `{}`; \
             https://doc.dpdk.org/guides/linux_gsg/linux_eal_parameters.html lists what there is",
            config.extra.join(" ")
        ),
        libc::ENOMEM => format!(
            "`dpdk.memory` is {}M: set it lower if that is more than this process may have (`ulimit -v`, a \
             container's limit)",
            config.memory_mb
        ),
        _ => String::new(),
    }
}

/// Refuses what no host of this size can give, however little else runs on it.
fn check_memory(meminfo: &str, wanted_mb: u64) -> Result<(), EalError> {
    match mebibytes(meminfo, "MemTotal:") {
        Some(host_mb) if wanted_mb > host_mb => Err(EalError::MoreThanHost { wanted_mb, host_mb }),
        _ => Ok(()),
    }
}

/// A remark when ordinary pages may run out. That is no reason to refuse: DPDK takes them as it needs them, and what is
/// available now may be more in a moment.
fn scarce(meminfo: &str, wanted_mb: u64) -> Option<String> {
    let free_mb = mebibytes(meminfo, "MemAvailable:").filter(|free| wanted_mb > *free)?;
    Some(format!(
        "dpdk.memory: {wanted_mb} MB are more than the {free_mb} MB that are available on this host now; if Polder is \
         killed for want of memory, set `dpdk.memory` lower or stop something else"
    ))
}

fn check_core(core: u32) -> Result<(), EalError> {
    let folder = format!("/sys/devices/system/cpu/cpu{core}");
    if Path::new(&folder).exists() {
        Ok(())
    } else {
        Err(EalError::NoSuchCore { core })
    }
}

/// Refuses when fewer hugepages are free than wanted, and works out the command that mends it.
fn check_hugepages(folder: &Path, meminfo: &str, wanted_mb: u64) -> Result<(), EalError> {
    let sizes = hugepage_pools(folder);
    if sizes.is_empty() {
        return Err(EalError::NoHugepageSupport);
    }
    let free_mb = sizes.iter().map(|s| s.size_kb * s.free).sum::<u64>() / 1024;
    if free_mb >= wanted_mb {
        return Ok(());
    }
    let default_kb = default_hugepage_kb(meminfo).unwrap_or(2048);
    let reserved = sizes
        .iter()
        .find(|s| s.size_kb == default_kb)
        .map_or(0, |s| s.reserved);
    let missing = ((wanted_mb - free_mb) * 1024).div_ceil(default_kb);
    Err(EalError::TooFewHugepages {
        wanted_mb,
        free_mb,
        pages: reserved + missing,
    })
}

struct HugepagePool {
    size_kb: u64,
    reserved: u64,
    free: u64,
}

/// One per `hugepages-<size>kB` folder.
fn hugepage_pools(folder: &Path) -> Vec<HugepagePool> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let size_kb = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let number = |file| {
                fs::read_to_string(entry.path().join(file))
                    .ok()?
                    .trim()
                    .parse()
                    .ok()
            };
            let (reserved, free) = (number("nr_hugepages")?, number("free_hugepages")?);
            Some(HugepagePool {
                size_kb,
                reserved,
                free,
            })
        })
        .collect()
}

/// The size of page that /proc/sys/vm/nr_hugepages counts, from /proc/meminfo.
fn default_hugepage_kb(meminfo: &str) -> Option<u64> {
    kibibytes(meminfo, "Hugepagesize:").filter(|&kb| kb > 0)
}

fn mebibytes(meminfo: &str, key: &str) -> Option<u64> {
    kibibytes(meminfo, key).map(|kb| kb / 1024)
}

/// A line of /proc/meminfo.
fn kibibytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(config: &EalConfig) -> String {
        let line = arguments(config).expect("good addresses").join(" ");
        line.replace(&std::process::id().to_string(), "PID")
    }

    #[test]
    fn with_hugepages_eal_keeps_everything_in_memory() {
        let config = EalConfig {
            main_core: 3,
            ..EalConfig::default()
        };
        assert_eq!(
            line(&config),
            "polder --no-telemetry --file-prefix polderPID --lcores 0@3 -m 1024 --in-memory --no-pci \
             --log-level=*:error"
        );
    }

    #[test]
    fn without_hugepages_eal_shares_no_files() {
        let config = EalConfig {
            hugepages: false,
            memory_mb: 256,
            ..EalConfig::default()
        };
        let line = line(&config);
        assert!(line.contains("-m 256 --no-huge --no-shconf"), "{line}");
        assert!(!line.contains("--in-memory"), "{line}");
    }

    #[test]
    fn only_the_devices_of_the_configuration_are_probed() {
        let pci = vec!["3b:00.0".to_owned(), "0000:3b:00.1".to_owned()];
        let line = line(&EalConfig {
            pci,
            ..EalConfig::default()
        });
        assert!(line.contains("-a 0000:3b:00.0 -a 0000:3b:00.1"), "{line}");
        assert!(!line.contains("--no-pci"), "{line}");
    }

    #[test]
    fn further_arguments_come_last() {
        let extra = vec!["--iova-mode=va".to_owned()];
        assert!(
            line(&EalConfig {
                extra,
                ..EalConfig::default()
            })
            .ends_with("--iova-mode=va")
        );
    }

    #[test]
    fn an_argument_that_is_not_one_is_refused() {
        let extra = vec!["a\0b".to_owned()];
        let config = EalConfig {
            extra,
            ..EalConfig::default()
        };
        assert!(matches!(c_arguments(&config), Err(EalError::Argument(_))));
        let config = EalConfig {
            pci: vec!["eth0".to_owned()],
            ..EalConfig::default()
        };
        assert_eq!(
            c_arguments(&config),
            Err(EalError::NotPci("eth0".to_owned()))
        );
    }

    #[test]
    fn a_core_that_does_not_exist_is_named() {
        let error = check_core(9999).expect_err("no machine has it").to_string();
        assert!(
            error.contains("dpdk.management_core")
                && error.contains("no core 9999")
                && error.contains("lscpu"),
            "{error}"
        );
        assert_eq!(check_core(0), Ok(()));
    }

    fn pool(root: &Path, size_kb: u64, reserved: u64, free: u64) {
        let folder = root.join(format!("hugepages-{size_kb}kB"));
        fs::create_dir(&folder).expect("writable");
        fs::write(folder.join("nr_hugepages"), format!("{reserved}\n")).expect("writable");
        fs::write(folder.join("free_hugepages"), format!("{free}\n")).expect("writable");
    }

    const MEMINFO: &str = "MemTotal: 1 kB\nHugepagesize:       2048 kB\nHugetlb: 0 kB\n";

    #[test]
    fn free_hugepages_of_every_size_count() {
        let root = tempfile::tempdir().expect("a folder");
        pool(root.path(), 2048, 256, 256);
        pool(root.path(), 1_048_576, 1, 1);
        assert_eq!(check_hugepages(root.path(), MEMINFO, 1536), Ok(()));
        assert!(check_hugepages(root.path(), MEMINFO, 1537).is_err());
    }

    #[test]
    fn the_mending_command_counts_the_pages_that_others_use() {
        let root = tempfile::tempdir().expect("a folder");
        pool(root.path(), 2048, 100, 10);
        let error = check_hugepages(root.path(), MEMINFO, 1024).expect_err("20 MB are free");
        let want = EalError::TooFewHugepages {
            wanted_mb: 1024,
            free_mb: 20,
            pages: 602,
        };
        assert_eq!(error, want);
        let text = error.to_string();
        assert!(
            text.contains("echo 602 > /proc/sys/vm/nr_hugepages"),
            "{text}"
        );
        assert!(text.contains("hugepages: false"), "{text}");
        assert!(text.starts_with("dpdk.memory: "), "{text}");
    }

    #[test]
    fn more_memory_than_the_host_has_is_refused_and_more_than_is_free_remarked() {
        let meminfo = "MemTotal:        2048000 kB\nMemFree: 1 kB\nMemAvailable:    1024000 kB\nSwapTotal: 0 kB\n";
        assert_eq!(check_memory(meminfo, 2000), Ok(()));
        let text = check_memory(meminfo, 2001)
            .expect_err("too much")
            .to_string();
        assert!(
            text.starts_with("dpdk.memory: 2001 MB") && text.contains("2000 MB in all"),
            "{text}"
        );
        assert_eq!(scarce(meminfo, 1000), None);
        let text = scarce(meminfo, 1001).expect("a remark");
        assert!(
            text.starts_with("dpdk.memory: 1001 MB") && text.contains("1000 MB that are"),
            "{text}"
        );
        assert_eq!((check_memory("", 1), scarce("", 1)), (Ok(()), None));
    }

    #[test]
    fn what_dpdk_refuses_names_the_key_that_may_be_the_cause() {
        let said = |extra: &[&str], errno| {
            let config = EalConfig {
                extra: extra.iter().map(ToString::to_string).collect(),
                ..EalConfig::default()
            };
            let errno = Errno(errno);
            let (said, hint) = (String::new(), hint(&config, errno));
            EalError::Refused { errno, said, hint }.to_string()
        };
        let text = said(&["--bogus", "x"], libc::EINVAL);
        assert!(
            text.contains("`dpdk.eal`") && text.contains("--bogus x"),
            "{text}"
        );
        assert!(!said(&[], libc::EINVAL).contains("dpdk.eal"));
        assert!(said(&[], libc::ENOMEM).contains("`dpdk.memory` is 1024M"));
    }

    #[test]
    fn empty_folders_of_processes_that_are_gone_are_removed_and_no_others() {
        let (all, processes) = (tempfile::tempdir(), tempfile::tempdir());
        let (all, processes) = (all.expect("a folder"), processes.expect("a folder"));
        let make = |root: &Path, name: &str| fs::create_dir(root.join(name)).expect("writable");
        for name in [
            "polder12", "polder13", "polder14", "polder", "polder07", "polderx", "rte",
        ] {
            make(all.path(), name);
        }
        make(&all.path().join("polder14"), "config");
        make(processes.path(), "12");
        let left = || {
            let entries = fs::read_dir(all.path()).expect("readable").flatten();
            let mut names: Vec<_> = entries.map(|e| e.file_name()).collect();
            names.sort();
            names
        };
        sweep(all.path(), processes.path());
        assert_eq!(
            left().len(),
            7,
            "without a list of processes nobody is gone"
        );
        make(processes.path(), "self");
        sweep(all.path(), processes.path());
        let want = [
            "polder", "polder07", "polder12", "polder14", "polderx", "rte",
        ];
        assert_eq!(left(), want);
    }

    #[test]
    fn a_kernel_without_hugepages_is_told_apart() {
        let root = tempfile::tempdir().expect("a folder");
        let error = check_hugepages(root.path(), "", 1).expect_err("no folder of a size");
        assert_eq!(error, EalError::NoHugepageSupport);
    }
}
