//! `polder replay`: captures through the full worker path, in the captures' own time.
//!
//! The configuration's ports are memory devices here; no root, hugepages, NIC or DPDK is needed. Everything else, from
//! the parser to expiry, is what the appliance runs.

mod bench;
mod input;
mod listing;
mod report;

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use report::{Durations, Report};

use super::args::{Rate, ReplayArgs, ReplayClock, ReportFormat};
use super::{Failure, print};
use crate::forward::{PortId, Setup};
use crate::net::Tick;
use crate::net::pcap::{PcapError, Writer};
use crate::worker::assemble::Sizes;
use crate::worker::lockstep::{Lockstep, StartError};

/// A capture's longest pause is cut to this: every timer is shorter, and ticks stay comparable.
const LONGEST_PAUSE: Duration = Duration::from_secs(40 * 86_400);

/// Which clock drives the timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Clock {
    /// The captures' timestamps.
    #[default]
    Capture,
    /// The wall clock, frames as fast as they go or at a given rate: the benchmark.
    Wall {
        /// Frames per second of all workers together; as fast as possible where there is none.
        rate: Option<u64>,
    },
}

/// What to replay, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Captures by port name.
    pub inputs: Vec<(String, PathBuf)>,
    /// Where to write what is transmitted, by port name.
    pub outputs: Vec<(String, PathBuf)>,
    /// The clock.
    pub clock: Clock,
    /// How often the captures are played, at least once.
    pub repeat: u64,
    /// How long virtual time runs on after the last frame.
    pub settle: Duration,
    /// Workers.
    pub workers: usize,
    /// Capacities and the seed.
    pub sizes: Sizes,
    /// Where to write the listing of connections at the end.
    pub connections: Option<PathBuf>,
}

/// Why a replay failed.
#[derive(Debug)]
pub enum ReplayError {
    /// A port is named that the configuration does not have.
    NoSuchPort {
        /// What was given.
        port: String,
        /// What there is.
        ports: String,
    },
    /// A port is named twice for the same direction.
    PortTwice {
        /// Its name.
        port: String,
    },
    /// A capture can't be read.
    Input(input::InputError),
    /// The workers could not be set up.
    Start(StartError),
    /// A file can't be written.
    Output {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Something was asked for that the clock in use doesn't have.
    OtherClock {
        /// The option.
        option: &'static str,
        /// The clock that has it.
        clock: &'static str,
        /// Why the one in use doesn't.
        why: &'static str,
    },
    /// The captures are larger than what is held in memory.
    TooMuch {
        /// Bytes.
        limit: usize,
    },
    /// A capture can't be written.
    Capture {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: PcapError,
    },
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPort { port, ports } => {
                write!(
                    f,
                    "there is no port `{port}` in the configuration; it has {ports}"
                )
            }
            Self::PortTwice { port } => write!(f, "port `{port}` is given more than once"),
            Self::Input(e) => e.fmt(f),
            Self::Start(e) => e.fmt(f),
            Self::Output { path, error } => {
                write!(f, "{}: can't be written: {error}", path.display())
            }
            Self::OtherClock { option, clock, why } => {
                write!(f, "`{option}` is for `--clock {clock}`: {why}")
            }
            Self::TooMuch { limit } => write!(
                f,
                "with `--clock wall` the captures are held in memory, and these are more than {} GiB",
                limit >> 30
            ),
            Self::Capture { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for ReplayError {}

/// A finished replay.
#[derive(Debug)]
pub struct Finished {
    /// The counters.
    pub report: Report,
    /// Why a capture ended before its end, if one did.
    pub cut: Option<String>,
}

/// Replays.
///
/// # Errors
/// See [`ReplayError`]. Nothing is written before the captures and ports were found good.
pub fn replay(setup: &Setup, options: &Options) -> Result<Finished, ReplayError> {
    goes_with_the_clock(options)?;
    let inputs = named(setup, &options.inputs)?;
    let outputs = named(setup, &options.outputs)?;
    let read: Vec<_> = inputs.iter().map(|(_, path)| path).collect();
    let written = outputs.iter().map(|(_, path)| path);
    no_file_twice(read, written.chain(&options.connections))?;
    // Damaged ones are found before anything is written.
    input::Merge::open(&inputs).map_err(ReplayError::Input)?;
    match options.clock {
        Clock::Capture => by_capture(setup, options, &inputs, &outputs),
        Clock::Wall { rate } => bench::run(setup, options, &inputs, rate),
    }
}

/// Refuses what a benchmark would leave out without a word.
fn goes_with_the_clock(options: &Options) -> Result<(), ReplayError> {
    if options.clock == Clock::Capture {
        return Ok(());
    }
    let asked = [
        (
            !options.outputs.is_empty(),
            "--out",
            "the wall's is the benchmark, which keeps nothing of what is sent",
        ),
        (
            options.connections.is_some(),
            "--connections",
            "the wall's is the benchmark, whose tables are gone when it ends",
        ),
        (
            !options.settle.is_zero(),
            "--settle",
            "the wall's is the benchmark, which ends with the last frame",
        ),
    ];
    match asked.into_iter().find(|(is_asked, ..)| *is_asked) {
        None => Ok(()),
        Some((_, option, why)) => Err(ReplayError::OtherClock {
            option,
            clock: "capture",
            why,
        }),
    }
}

fn named(
    setup: &Setup,
    files: &[(String, PathBuf)],
) -> Result<Vec<(PortId, PathBuf)>, ReplayError> {
    let mut out: Vec<(PortId, PathBuf)> = Vec::new();
    for (name, path) in files {
        let at = setup.ports.iter().position(|p| p.name == *name);
        let Some(id) = at.and_then(|i| u16::try_from(i).ok()).map(PortId) else {
            let ports = setup
                .ports
                .iter()
                .map(|p| format!("`{}`", p.name))
                .collect::<Vec<_>>();
            return Err(ReplayError::NoSuchPort {
                port: name.clone(),
                ports: ports.join(", "),
            });
        };
        if out.iter().any(|(other, _)| *other == id) {
            return Err(ReplayError::PortTwice { port: name.clone() });
        }
        out.push((id, path.clone()));
    }
    Ok(out)
}

/// Refuses to write to a file that is read, or written in another role.
fn no_file_twice<'a>(
    mut taken: Vec<&'a PathBuf>,
    written: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<(), ReplayError> {
    let identity = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok().filter(Metadata::is_file);
        meta.map(|m| (m.dev(), m.ino()))
    };
    for path in written {
        let own = identity(path);
        let missing = !path.exists();
        let same = |other: &&PathBuf| {
            (missing && *other == path) || (own.is_some() && identity(other) == own)
        };
        if taken.iter().any(same) {
            let error = std::io::Error::other(
                "the file is named for something else as well; give another one",
            );
            let path = path.clone();
            return Err(ReplayError::Output { path, error });
        }
        taken.push(path);
    }
    Ok(())
}

/// Virtual time: starts at the first frame, never goes back, and cuts pauses that are longer than any timer.
#[derive(Debug, Default)]
struct VirtualClock {
    /// The latest timestamp of this pass over the captures.
    last_ts: Option<u64>,
    elapsed: Duration,
    /// Virtual time in nanoseconds since 1970.
    now_ns: u64,
}

impl VirtualClock {
    /// The tick of a frame stamped `ts` nanoseconds.
    fn at(&mut self, ts: u64) -> Tick {
        if self.now_ns == 0 {
            self.now_ns = ts;
        }
        let last = *self.last_ts.get_or_insert(ts);
        if ts > last {
            self.last_ts = Some(ts);
            self.pause(Duration::from_nanos(ts - last).min(LONGEST_PAUSE));
        }
        Tick::from_elapsed(self.elapsed)
    }

    /// Begins another pass over the captures, at the present moment.
    fn restart(&mut self) {
        self.last_ts = None;
    }

    /// Lets `pause` pass.
    fn pause(&mut self, pause: Duration) -> Tick {
        self.elapsed += pause;
        let nanos = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        self.now_ns = self.now_ns.saturating_add(nanos);
        Tick::from_elapsed(self.elapsed)
    }
}

type Sink = (PathBuf, Writer<BufWriter<File>>);

fn by_capture(
    setup: &Setup,
    options: &Options,
    inputs: &[(PortId, PathBuf)],
    outputs: &[(PortId, PathBuf)],
) -> Result<Finished, ReplayError> {
    let mut bed =
        Lockstep::new(setup, options.workers, &options.sizes).map_err(ReplayError::Start)?;
    let mut sinks: Vec<Option<Sink>> = setup.ports.iter().map(|_| None).collect();
    for (port, path) in outputs {
        sinks[usize::from(port.0)] = Some(create(path)?);
    }
    let started = Instant::now();
    let mut clock = VirtualClock::default();
    let mut frame = Vec::new();
    let mut cut = None;
    for _ in 0..options.repeat {
        let mut merge = input::Merge::open(inputs).map_err(ReplayError::Input)?;
        clock.restart();
        while let Some((port, ts)) = merge.next(&mut frame) {
            let now = clock.at(ts);
            bed.frame(port, &frame, now);
            write_out(&mut bed, &mut sinks, clock.now_ns)?;
        }
        cut = cut.or_else(|| merge.failure());
    }
    bed.advance(clock.pause(options.settle));
    bed.finish();
    write_out(&mut bed, &mut sinks, clock.now_ns)?;
    for (path, mut writer) in sinks.into_iter().flatten() {
        writer
            .flush()
            .map_err(|error| ReplayError::Capture { path, error })?;
    }
    let took = Durations {
        duration_s: clock.elapsed.as_secs_f64(),
        wall_s: started.elapsed().as_secs_f64(),
    };
    let report = Report::new(bed.plane(), took);
    if let Some(path) = &options.connections {
        write_listing(path, &mut bed)?;
    }
    Ok(Finished {
        report,
        cut: cut.map(|e| e.to_string()),
    })
}

fn create(path: &PathBuf) -> Result<Sink, ReplayError> {
    let file = File::create(path).map_err(|error| ReplayError::Output {
        path: path.clone(),
        error,
    })?;
    let writer = Writer::new(BufWriter::new(file), true).map_err(|error| ReplayError::Capture {
        path: path.clone(),
        error,
    })?;
    Ok((path.clone(), writer))
}

fn write_out(
    bed: &mut Lockstep,
    sinks: &mut [Option<Sink>],
    now_ns: u64,
) -> Result<(), ReplayError> {
    let mut failed = None;
    bed.transmitted(|port, frame| {
        if let Some((path, writer)) = sinks[usize::from(port.0)].as_mut()
            && let Err(error) = writer.write(now_ns, frame)
        {
            failed.get_or_insert_with(|| ReplayError::Capture {
                path: path.clone(),
                error,
            });
        }
    });
    failed.map_or(Ok(()), Err)
}

fn write_listing(path: &PathBuf, bed: &mut Lockstep) -> Result<(), ReplayError> {
    let (connections, templates) = (bed.connections(), bed.templates());
    let text = listing::text(&bed.snapshot(), &connections, &templates);
    File::create(path)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(|error| ReplayError::Output {
            path: path.clone(),
            error,
        })
}

fn clock(args: &ReplayArgs) -> Result<Clock, String> {
    match (args.clock, args.rate) {
        (ReplayClock::Capture, None) => Ok(Clock::Capture),
        (ReplayClock::Capture, Some(_)) => {
            let why = "with the captures' every frame comes at its own moment";
            let (option, clock) = ("--rate", "wall");
            Err(ReplayError::OtherClock { option, clock, why }.to_string())
        }
        (ReplayClock::Wall, None | Some(Rate::Max)) => Ok(Clock::Wall { rate: None }),
        (ReplayClock::Wall, Some(Rate::PerSecond(pps))) => Ok(Clock::Wall { rate: Some(pps) }),
    }
}

/// `polder replay`: loads, replays, reports.
///
/// # Errors
/// A sentence. A capture that ends before its end is one, too, after the report of what came before.
pub fn run(args: &ReplayArgs, out: &mut impl Write) -> Result<(), Failure> {
    let loaded = crate::config::load(&args.config).map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let problems = problems.join("\n");
        let file = args.config.display();
        Failure::Failed(if args.config == Path::new(crate::config::STDIN) {
            format!("the configuration is not valid\n{problems}")
        } else {
            format!("{file} is not valid; `polder check -c {file}` tells more\n{problems}")
        })
    })?;
    let lowered = &loaded.lowered;
    let options = Options {
        inputs: args
            .inputs
            .iter()
            .map(|p| (p.port.clone(), p.file.clone()))
            .collect(),
        outputs: args
            .outputs
            .iter()
            .map(|p| (p.port.clone(), p.file.clone()))
            .collect(),
        clock: clock(args)?,
        repeat: args.repeat,
        settle: args.settle.unwrap_or_default(),
        workers: usize::from(args.workers),
        sizes: Sizes {
            connections: lowered.limits.connections,
            templates: lowered.limits.templates,
            services: lowered.limits.services,
            servers: lowered.limits.servers,
            seed: args.seed,
        },
        connections: args.connections.clone(),
    };
    let read = args.inputs.iter().map(|p| &p.file).chain([&args.config]);
    let written = args.outputs.iter().map(|p| &p.file);
    let written = written.chain(&args.connections).chain(&args.report.file);
    let finished = no_file_twice(read.collect(), written)
        .and_then(|()| replay(&lowered.setup, &options))
        .map_err(|e| e.to_string())?;
    let text = match args.report.format {
        ReportFormat::Text => finished.report.to_string(),
        ReportFormat::Json => {
            let json = serde_json::to_string_pretty(&finished.report);
            json.map_err(|e| e.to_string())? + "\n"
        }
    };
    match &args.report.file {
        Some(path) => std::fs::write(path, text)
            .map_err(|e| format!("{}: can't be written: {e}", path.display()))?,
        None => print(out, &text)?,
    }
    if !finished.report.identity_ok {
        return Err("the packet counts do not add up; please report this"
            .to_owned()
            .into());
    }
    finished.cut.map_or(Ok(()), |sentence| Err(sentence.into()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    /// What `polder replay` says to a shipped configuration, a capture that isn't there, and `more`.
    fn refused(more: &str) -> String {
        let config = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/minimal.yaml");
        let line = format!("polder replay -c {config} --in wan0=/nope/in.pcap {more}");
        let words = line.split_whitespace();
        let Command::Replay(args) = Cli::try_parse_from(words).expect("parses").command else {
            panic!("another command");
        };
        match run(&args, &mut Vec::new()) {
            Err(Failure::Failed(said)) => said,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn what_the_other_clock_has_is_refused_before_anything_is_done() {
        for (more, said) in [
            (
                "--clock wall --out wan0=/nope/o",
                "`--out` is for `--clock capture`",
            ),
            (
                "--clock wall --settle 5s",
                "`--settle` is for `--clock capture`",
            ),
            (
                "--clock wall --connections /nope/c",
                "`--connections` is for `--clock capture`",
            ),
            ("--rate 1000", "`--rate` is for `--clock wall`"),
            (
                "--clock capture --rate max",
                "`--rate` is for `--clock wall`",
            ),
        ] {
            let refused = refused(more);
            assert!(refused.starts_with(said), "{more}: {refused}");
        }
        for more in [
            "--clock wall --rate 5 --settle 0s",
            "--settle 5s --out wan0=/nope/o",
        ] {
            assert!(refused(more).contains("can't be opened"), "{more}");
        }
    }

    #[test]
    fn the_report_is_not_written_over_what_is_read_or_written() {
        let config = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/minimal.yaml");
        for more in [
            format!("--report json={config}"),
            format!("--out wan0={config}"),
            "--report json=/nope/in.pcap".to_owned(),
            "--report json=/nope/c --connections /nope/c".to_owned(),
        ] {
            let refused = refused(&more);
            assert!(
                refused.contains("named for something else"),
                "{more}: {refused}"
            );
        }
    }

    #[test]
    fn a_capture_that_is_no_regular_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let inputs = [(PortId(0), folder.path().to_owned())];
        let error = input::Merge::open(&inputs).expect_err("no capture");
        let text = error.to_string();
        assert!(text.contains("not a regular file"), "{text}");
    }

    #[test]
    fn virtual_time_starts_at_zero_never_goes_back_and_cuts_long_pauses() {
        let mut clock = VirtualClock::default();
        let s = 1_000_000_000;
        assert_eq!(clock.at(1_000 * s), Tick(0));
        assert_eq!(clock.at(1_001 * s), Tick(100));
        assert_eq!(
            clock.at(900 * s),
            Tick(100),
            "a timestamp in the past is now"
        );
        assert_eq!(clock.at(1_002 * s), Tick(200));
        let far = clock.at(u64::MAX);
        assert_eq!(far, Tick(200 + 40 * 86_400 * 100));
        assert_eq!(clock.pause(Duration::from_secs(1)), Tick(far.0 + 100));
    }
}
