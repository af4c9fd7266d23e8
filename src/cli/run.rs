//! `polder run`: opens the ports and runs the appliance on them.

use std::process::ExitCode;

use super::args::RunArgs;
use super::finish;

/// Exit status when a worker died.
#[cfg(feature = "dpdk")]
const WORKER_DIED: u8 = 3;

/// Runs the appliance until it is told to stop.
#[must_use]
pub fn run(args: &RunArgs) -> ExitCode {
    match appliance::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        #[cfg(feature = "dpdk")]
        Err(appliance::Error::Died(sentence)) => {
            eprintln!("polder: {sentence}");
            ExitCode::from(WORKER_DIED)
        }
        Err(appliance::Error::Failed(sentence)) => finish(Err(sentence.into())),
    }
}

#[cfg(not(feature = "dpdk"))]
mod appliance {
    use super::RunArgs;

    pub enum Error {
        Failed(String),
    }

    pub fn run(args: &RunArgs) -> Result<(), Error> {
        let _ = args;
        Err(Error::Failed(
            "this binary was built without DPDK (`--no-default-features`) and can't open ports; `replay`, \
             `check` and the commands of a running appliance work"
                .to_owned(),
        ))
    }
}

#[cfg(feature = "dpdk")]
mod appliance {
    use std::path::Path;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;

    use tokio::runtime::{Builder, Runtime};
    use tokio::signal::unix::{Signal, SignalKind, signal};

    use super::RunArgs;
    use crate::cli::take_over;
    use crate::config::{self, Lowered};
    use crate::forward::PortDef;
    use crate::io::dpdk::{DpdkQueue, Eal, EalConfig, Pool, PoolConfig, Port, PortConfig};
    use crate::mgmt::api::PortStatus;
    use crate::mgmt::appliance::{self, OpenPort, RunError, Start};
    use crate::mgmt::sync::takeover::Inheritance;
    use crate::mgmt::{Fixed, Loaded, Shared};
    use crate::net::PacketBuf;
    use crate::worker::assemble::{KERNEL_RING, Sizes};
    use crate::worker::reassembly;

    pub enum Error {
        Failed(String),
        Died(String),
    }

    impl From<String> for Error {
        fn from(sentence: String) -> Self {
            Self::Failed(sentence)
        }
    }

    /// Descriptors of each queue.
    const DESCRIPTORS: u16 = 1024;

    pub fn run(args: &RunArgs) -> Result<(), Error> {
        let file = args.config.clone();
        if file == Path::new(config::STDIN) {
            return Err(Error::Failed(
                "`polder run` needs a file, not standard input: `polder reload` reads it again"
                    .to_owned(),
            ));
        }
        let (loaded, lowered) = load(&file).map_err(|problems| {
            Error::Failed(format!("{}\npolder did not start", problems.join("\n")))
        })?;
        for warning in &loaded.warnings {
            eprintln!("{warning}");
        }
        let cores: Vec<_> = lowered.dpdk.cores.iter().map(|c| usize::from(*c)).collect();
        // All processors that this process may use, before EAL narrows that down to the management core's.
        check_cores(&cores)?;
        // From here on there is something to clean up, so that no signal may end the process by itself.
        let mut signals = Signals::catch()?;
        let inherited = if args.take_over {
            take_over::collect(&lowered.control.socket, &mut || signals.stop_came())?
        } else {
            Inheritance::default()
        };
        let eal = Eal::start(&eal_config(&lowered)).map_err(|e| e.to_string())?;
        note(eal.remarks());
        let pool =
            Pool::create(&eal, pool_config(&lowered, cores.len())).map_err(|e| e.to_string())?;
        let Some((open, devices)) = open_ports(&eal, &pool, &lowered, cores.len(), &mut signals)?
        else {
            eprintln!("polder was stopped while it started");
            return Ok(());
        };
        let devices = Arc::new(Mutex::new(devices));
        let ports: Arc<[PortDef]> = lowered.setup.ports.clone().into();
        let stats = {
            let (devices, ports) = (Arc::clone(&devices), Arc::clone(&ports));
            move || {
                port_stats(
                    &devices.lock().unwrap_or_else(PoisonError::into_inner),
                    &ports,
                )
            }
        };
        let guard = {
            let eal = eal.clone();
            move || match eal.register_thread() {
                Ok(guard) => Ok(Box::new(guard) as Box<dyn std::any::Any>),
                Err(e) => Err(e.to_string()),
            }
        };
        let start = Start {
            loaded,
            config_path: file.clone(),
            loader: Box::new(move || load(&file).map(|(loaded, _)| loaded)),
            ports: open,
            port_stats: Box::new(stats),
            sizes: sizes(&lowered),
            cores,
            idle_sleep: lowered.dpdk.idle_sleep,
            thread_guard: Box::new(guard),
            control: lowered.control.socket.clone(),
            inherited,
            metrics: (lowered.metrics.listen, lowered.metrics.detail),
        };
        let Signals {
            runtime: _runtime,
            terminate,
            interrupt,
            hangup,
        } = signals;
        let result = appliance::run(start, stop_signal(terminate, interrupt), |manager| {
            follow_hangup(Arc::clone(manager), hangup);
            eprintln!(
                "polder is running: {}, {}; metrics at http://{}/metrics, control socket {}",
                config::some(lowered.setup.ports.len(), "port"),
                config::some(lowered.setup.services.len(), "service"),
                lowered.metrics.listen,
                lowered.control.socket.display()
            );
        });
        let devices = std::mem::take(&mut *devices.lock().unwrap_or_else(PoisonError::into_inner));
        for device in devices {
            // Statistics of the end are of no use to anybody now; a queue that is still held is a defect worth a word.
            if let Err(e) = device.close() {
                eprintln!("polder: {e}");
            }
        }
        // Neither ports nor workers are left that could hold one.
        let lost = pool.outstanding();
        if lost > 0 {
            eprintln!("polder: {lost} packet buffers were not given back; please report it");
        }
        result.map_err(|e| match e {
            RunError::Died { .. } => Error::Died(e.to_string()),
            other => Error::Failed(other.to_string()),
        })
    }

    fn load(file: &Path) -> Result<(Loaded, Lowered), Vec<String>> {
        let rendered = |p: &[config::Problem]| p.iter().map(ToString::to_string).collect();
        let loaded = config::load(file).map_err(|problems| rendered(&problems))?;
        let fixed = fixed(&loaded.config);
        let warnings = rendered(&loaded.warnings);
        let setup = loaded.lowered.setup.clone();
        let sync = loaded.lowered.sync.clone();
        Ok((
            Loaded {
                setup,
                sync,
                fixed,
                warnings,
            },
            loaded.lowered,
        ))
    }

    /// What only a restart changes, by path.
    fn fixed(config: &config::Config) -> Fixed {
        let json = config::to_json(config);
        let mut out = Fixed::new();
        for section in ["dpdk", "limits", "metrics", "control"] {
            let Some(map) = json.get(section).and_then(|s| s.as_object()) else {
                continue;
            };
            out.extend(
                map.iter()
                    .map(|(k, v)| (format!("{section}.{k}"), v.to_string())),
            );
        }
        out
    }

    fn check_cores(cores: &[usize]) -> Result<(), Error> {
        let there: Vec<_> = core_affinity::get_core_ids()
            .unwrap_or_default()
            .iter()
            .map(|c| c.id)
            .collect();
        match cores.iter().find(|c| !there.contains(c)) {
            None => Ok(()),
            Some(core) => Err(Error::Failed(format!(
                "dpdk.cores: processor {core} does not exist or may not be used by this process; it may use \
                 {there:?} (`lscpu -e` lists processors, `taskset -p $$` what may be used)"
            ))),
        }
    }

    fn eal_config(lowered: &Lowered) -> EalConfig {
        EalConfig {
            main_core: u32::from(lowered.dpdk.management_core),
            hugepages: lowered.dpdk.hugepages,
            memory_mb: lowered.dpdk.memory_mb,
            pci: lowered
                .setup
                .ports
                .iter()
                .map(|p| p.device.clone())
                .filter(|d| Port::is_pci_device(d))
                .collect(),
            extra: lowered.dpdk.eal.clone(),
            debug: false,
        }
    }

    fn pool_config(lowered: &Lowered, workers: usize) -> PoolConfig {
        let ports = u32::try_from(lowered.setup.ports.len()).unwrap_or(u32::MAX);
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        let mtu = lowered
            .setup
            .ports
            .iter()
            .map(|p| p.mtu)
            .max()
            .unwrap_or(1500);
        // Rings to and from the kernel, hand-over rings that are half full, what waits for neighbours, and fragments.
        let kernel = ports.saturating_mul(2 * KERNEL_RING as u32);
        let held = kernel
            .saturating_add(workers.saturating_mul(
                workers.saturating_mul(512) + 1024 + reassembly::FRAMES_MAX as u32,
            ));
        PoolConfig::for_queues(ports * workers, DESCRIPTORS, workers, held, mtu)
    }

    type Opened = (Vec<OpenPort<DpdkQueue>>, Vec<Port>);

    /// Opens all ports, or none when a signal to stop comes meanwhile.
    fn open_ports(
        eal: &Eal,
        pool: &Pool,
        lowered: &Lowered,
        workers: usize,
        signals: &mut Signals,
    ) -> Result<Option<Opened>, Error> {
        let mut open = Vec::new();
        let mut devices = Vec::new();
        for def in &lowered.setup.ports {
            // EAL and devices can take seconds.
            if signals.stop_came() {
                return Ok(None);
            }
            let config = PortConfig {
                queues: u16::try_from(workers).unwrap_or(u16::MAX),
                descriptors: DESCRIPTORS,
                mtu: Some(def.mtu),
                mac: def.mac,
                ..PortConfig::default()
            };
            let mut port = Port::open(eal, pool, &def.device, &config)
                .map_err(|e| format!("port `{}`: {e}", def.name))?;
            note(port.remarks());
            if port.mtu() < def.mtu {
                return Err(Error::Failed(format!(
                    "port `{}`: the device takes packets of up to {} bytes only; set `mtu: {}`",
                    def.name,
                    port.mtu(),
                    port.mtu()
                )));
            }
            // A pair is of use to a worker only with both directions; what a device has more of one it has in vain.
            let pairs = port.rx_queues().min(port.tx_queues());
            let queues = (0..workers)
                .map(|w| {
                    let w = u16::try_from(w).ok()?;
                    if w < pairs { port.queue(w) } else { None }
                })
                .collect();
            let frames = pool.clone();
            open.push(OpenPort {
                queues,
                mac: def.mac.unwrap_or_else(|| port.mac()),
                frame: Box::new(move |bytes| {
                    let mut buf = frames.alloc()?;
                    buf.assign(bytes).then_some(buf)
                }),
            });
            devices.push(port);
        }
        Ok(Some((open, devices)))
    }

    fn port_stats(devices: &[Port], ports: &[PortDef]) -> Vec<PortStatus> {
        let status = |(port, def): (&Port, &PortDef)| {
            let (stats, link) = (port.stats(), port.link());
            PortStatus {
                name: def.name.clone(),
                device: def.device.clone(),
                mac: def.mac.unwrap_or_else(|| port.mac()).to_string(),
                link_up: link.up,
                speed_mbps: link.speed_mbps,
                mtu: def.mtu,
                rx_packets: stats.rx_packets,
                rx_bytes: stats.rx_bytes,
                rx_missed: stats.rx_missed,
                rx_errors: stats.rx_errors,
                // A frame that fits no buffer, though the device had one, is lost for want of a larger one.
                rx_no_buffer: stats.rx_no_buffer + stats.rx_unfit,
                tx_packets: stats.tx_packets,
                tx_bytes: stats.tx_bytes,
                tx_dropped: 0,
                tx_errors: stats.tx_errors,
            }
        };
        devices.iter().zip(ports).map(status).collect()
    }

    fn sizes(lowered: &Lowered) -> Sizes {
        use std::hash::{BuildHasher, RandomState};
        Sizes {
            connections: lowered.limits.connections,
            templates: lowered.limits.templates,
            services: lowered.limits.services,
            servers: lowered.limits.servers,
            // Keyed by the operating system's randomness.
            seed: RandomState::new().hash_one("polder"),
        }
    }

    /// The signals that an appliance obeys, caught from the moment this is made until the process ends.
    struct Signals {
        /// To ask before the appliance has a runtime; it stays until that has ended.
        runtime: Runtime,
        terminate: Signal,
        interrupt: Signal,
        hangup: Signal,
    }

    impl Signals {
        fn catch() -> Result<Self, Error> {
            let failed = |e: std::io::Error| format!("signals can't be caught: {e}");
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(failed)?;
            let context = runtime.enter();
            let [terminate, interrupt, hangup] = [
                SignalKind::terminate(),
                SignalKind::interrupt(),
                SignalKind::hangup(),
            ]
            .map(signal);
            drop(context);
            Ok(Self {
                runtime,
                terminate: terminate.map_err(failed)?,
                interrupt: interrupt.map_err(failed)?,
                hangup: hangup.map_err(failed)?,
            })
        }

        /// Whether SIGTERM or SIGINT has come. Takes a millisecond: this is for the start.
        fn stop_came(&mut self) -> bool {
            let (terminate, interrupt) = (&mut self.terminate, &mut self.interrupt);
            self.runtime.block_on(async {
                let either = async {
                    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                };
                tokio::time::timeout(Duration::from_millis(1), either)
                    .await
                    .is_ok()
            })
        }
    }

    /// Done at SIGTERM or SIGINT, also at one that came before.
    async fn stop_signal(mut terminate: Signal, mut interrupt: Signal) {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    }

    /// SIGHUP reloads, as operators expect of a daemon.
    fn follow_hangup(manager: Shared, mut hangup: Signal) {
        tokio::task::spawn_local(async move {
            while hangup.recv().await.is_some() {
                let now = std::time::SystemTime::now();
                let result = manager
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .reload(now);
                match result {
                    Ok(r) => eprintln!("SIGHUP: {}", crate::cli::table::reloaded(&r).trim_end()),
                    Err(e) => {
                        let all = std::iter::once(e.body.error).chain(e.body.problems);
                        eprintln!(
                            "SIGHUP: not reloaded: {}",
                            all.collect::<Vec<_>>().join("\n")
                        );
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }

    /// Something a library wants said, if it does.
    fn note(remarks: &str) {
        if !remarks.is_empty() {
            eprintln!("{remarks}");
        }
    }
}
