//! The command line: every subcommand and option, and nothing of what they do.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Where the control socket is unless the configuration says otherwise.
pub const SOCKET_DEFAULT: &str = "/run/polder/control.sock";

/// A layer-4 load balancer on DPDK with the semantics of Linux Virtual Server.
#[derive(Debug, Parser)]
#[command(
    name = "polder",
    version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("POLDER_COMMIT"), ", DPDK ", env!("POLDER_DPDK_VERSION"), ")"),
    max_term_width = 100,
    after_help = "Examples:\n  \
        polder check -c /etc/polder/polder.yaml      all problems of a configuration\n  \
        polder run -c /etc/polder/polder.yaml        the appliance\n  \
        polder show services                         what runs, in ipvsadm's shape\n  \
        polder set server web 10.0.0.11:80 weight 0  takes a server out gently\n  \
        polder ipvsadm -Ln --stats                   ipvsadm's own commands and listings\n  \
        polder replay -c FILE --in wan0=IN.pcap --out lan0=OUT.pcap\n\n\
        `polder COMMAND --help` tells more."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the appliance: poll-mode workers and the management core
    Run(RunArgs),
    /// Check a configuration and print all its problems
    Check(CheckArgs),
    /// Feed captures through the full worker path, without root, hugepages or ports
    Replay(ReplayArgs),
    /// Run a live virtual lab in network namespaces, with real clients and servers
    Demo(DemoArgs),
    /// Show services, servers, connections and more of the running appliance
    Show(ShowArgs),
    /// Change a service or server of the running appliance, without touching anything else
    Set(SetArgs),
    /// Make the running appliance take over its configuration file, or refuse it whole
    Reload(ReloadArgs),
    /// Show and change state sync between directors, and read its messages
    Sync(SyncArgs),
    /// Speak ipvsadm 1.31's command line with the running appliance; also as a program named ipvsadm
    Ipvsadm(IpvsadmArgs),
}

/// `polder ipvsadm`, which has a grammar of its own.
#[derive(Clone, Debug, Args)]
#[command(disable_help_flag = true)]
pub struct IpvsadmArgs {
    /// Words of ipvsadm's command line; -h tells them
    #[arg(
        value_name = "WORDS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub words: Vec<String>,
}

/// `polder run`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "SIGTERM and SIGINT stop it, SIGHUP reloads the configuration as `polder reload` does.\n\n\
    Exit status: 0 stopped cleanly, 1 failed to start, 3 a worker died.\n\n\
    Example:\n  polder run -c /etc/polder/polder.yaml"
)]
pub struct RunArgs {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Take the place of the polder that runs on this machine: its connections and templates are taken over, it ends,
    /// and this one begins
    #[arg(long)]
    pub take_over: bool,
}

/// How `check` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// For people: snippets with carets.
    Text,
    /// For programs: problems, and the file with all defaults filled in.
    Json,
}

/// `polder check`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit status: 0 valid, 1 invalid, 2 valid with warnings.\n\n\
    Examples:\n  polder check -c polder.yaml\n  \
    polder check -c polder.yaml --format json | jq .config.services\n  \
    ssh director cat /etc/polder/polder.yaml | polder check -c -"
)]
pub struct CheckArgs {
    /// Configuration file; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    pub format: CheckFormat,
}

/// What is said of `-` where a file is read twice, or is one of several outputs.
const NO_STREAM: &str =
    "`-` is no file, and standard input and output can't be used here; give a file";

/// A path that is not `-`.
fn file(s: &str) -> Result<PathBuf, String> {
    if s == "-" {
        Err(NO_STREAM.to_owned())
    } else {
        Ok(s.into())
    }
}

/// A number that is not 0.
fn one_or_more(s: &str) -> Result<u64, String> {
    s.parse()
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| "it must be a number, 1 or more".to_owned())
}

/// A port and a capture file: `PORT=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFile {
    /// Port's name in the configuration.
    pub port: String,
    /// Capture file.
    pub file: PathBuf,
}

impl FromStr for PortFile {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.split_once('=') {
            Some((_, "-")) => Err(NO_STREAM.to_owned()),
            Some((port, file)) if !port.is_empty() && !file.is_empty() => Ok(Self {
                port: port.to_owned(),
                file: file.into(),
            }),
            _ => Err("it must be PORT=FILE, such as wan0=in.pcap".to_owned()),
        }
    }
}

/// Whose time `replay` goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReplayClock {
    /// The captures': timers fire at the right virtual moment, and no second of it costs a second.
    Capture,
    /// The wall's: for benchmarks.
    Wall,
}

/// Packets per second of `replay --clock wall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as it goes.
    Max,
    /// So many packets per second.
    PerSecond(u64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.parse() {
            _ if s == "max" => Ok(Self::Max),
            Ok(pps) if pps > 0 => Ok(Self::PerSecond(pps)),
            _ => Err("it must be packets per second, or max".to_owned()),
        }
    }
}

/// What a report looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportFormat {
    /// A table.
    Text,
    /// JSON.
    Json,
}

/// A report and where it goes: `text`, `json`, `json=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its form.
    pub format: ReportFormat,
    /// File to write it to; standard output where there is none.
    pub file: Option<PathBuf>,
}

impl FromStr for Report {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (format, file) = match s.split_once('=') {
            Some((_, "-")) => {
                return Err("standard output is where it goes without `=-`".to_owned());
            }
            Some((format, file)) if !file.is_empty() => (format, Some(file.into())),
            Some(_) => return Err("there is no file after `=`".to_owned()),
            None => (s, None),
        };
        let format = match format {
            "text" => ReportFormat::Text,
            "json" => ReportFormat::Json,
            _ => return Err("it must be text or json, or one of them with =FILE".to_owned()),
        };
        Ok(Self { format, file })
    }
}

/// A duration as the configuration writes it: `250ms`, `60s`, `15m`, `2h`, `1d`.
///
/// # Errors
/// A sentence that says what it must look like.
pub fn duration(s: &str) -> Result<Duration, String> {
    let digits = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    let (number, unit) = s.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    number
        .parse::<u64>()
        .ok()
        .filter(|_| millis != 0)
        .and_then(|n| n.checked_mul(millis))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            "it must be a number with a unit, such as 250ms, 60s, 15m, 2h, 1d".to_owned()
        })
}

/// `polder replay`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Needs no root, no hugepages and no ports: the parts of the configuration that \
    name such are checked and not opened.\n\n\
    Examples:\n  \
    polder replay -c web.yaml --in wan0=clients.pcap --in lan0=servers.pcap \\\n      \
    --out wan0=out.pcap --report json | jq .dropped\n  \
    polder replay -c web.yaml --in wan0=flows.pcap --clock wall --repeat 1000 --rate max"
)]
pub struct ReplayArgs {
    /// Configuration file; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Frames that the port receives (pcap or pcapng, plain or gzip); once for each port
    #[arg(long = "in", value_name = "PORT=FILE", required = true)]
    pub inputs: Vec<PortFile>,
    /// File for what the port transmits, a pcap; once for each port; with --clock capture
    #[arg(long = "out", value_name = "PORT=FILE")]
    pub outputs: Vec<PortFile>,
    /// Whose time goes: the captures' or the wall's
    #[arg(long, value_enum, default_value = "capture")]
    pub clock: ReplayClock,
    /// Times that the input is fed
    #[arg(long, value_name = "N", default_value_t = 1, allow_hyphen_values = true, value_parser = one_or_more)]
    pub repeat: u64,
    /// Packets per second, or max, which is the default; with --clock wall
    #[arg(long, value_name = "PPS|max", allow_hyphen_values = true)]
    pub rate: Option<Rate>,
    /// How long virtual time runs on after the last frame, such as 60s, by default not at all; with --clock capture
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration)]
    pub settle: Option<Duration>,
    /// Number of workers; with 1 the same input gives the same bytes every time
    #[arg(long, value_name = "N", default_value_t = 1, allow_hyphen_values = true, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,
    /// File for the connections at the end, as `ipvsadm -Lcn --persistent-conn` lists them; with --clock capture
    #[arg(long, value_name = "FILE", value_parser = file)]
    pub connections: Option<PathBuf>,
    /// Counters per service, server and drop reason at the end: text or json, with =FILE into a file
    #[arg(long, value_name = "text|json[=FILE]", default_value = "text")]
    pub report: Report,
    /// Seed of everything that is chosen at random
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_hyphen_values = true
    )]
    pub seed: u64,
}

/// Demos there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DemoKind {
    /// nginx servers and HTTP clients.
    Web,
    /// SIP user agents.
    Sip,
    /// Two directors with keepalived; the master is killed and comes back.
    Failover,
}

/// Devices that a demo's ports can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum DemoDevice {
    /// Packet sockets; everywhere.
    AfPacket,
    /// XDP sockets; as root, on kernels that have them.
    AfXdp,
}

/// `polder demo`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Needs root or user namespaces, and says which programs it misses.\n\n\
    Exit status: 0 if everything that the demo promises was seen.\n\n\
    Examples:\n  sudo polder demo web\n  unshare -Urn polder demo sip\n  \
    sudo polder demo failover --calls 200 --connections 100"
)]
pub struct DemoArgs {
    /// Which one
    #[arg(value_enum, default_value = "web")]
    pub kind: DemoKind,
    /// How the appliance's ports reach their interfaces
    #[arg(long, value_enum, default_value = "af_packet")]
    pub device: DemoDevice,
    /// SIP calls in progress at a time, in demo failover
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(30..=10_000))]
    pub calls: u32,
    /// TCP connections that talk all the time, half by NAT and half by direct routing, in demo failover
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub connections: u32,
}

/// How listings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people.
    Table,
    /// The control socket's JSON.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Where the running appliance is reached.
#[derive(Clone, Debug, Args)]
pub struct SocketArg {
    /// Control socket of the running appliance (`control.socket` of its configuration)
    #[arg(long, global = true, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    pub socket: PathBuf,
}

/// `polder show`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    polder show services\n  \
    polder show servers -o json | jq '.servers[] | select(.overloaded)'\n  \
    polder show connections --service web --limit 20\n  \
    polder show templates --service sip\n\n\
    The same over HTTP: curl --unix-socket /run/polder/control.sock http://polder/v1/services")]
pub struct ShowArgs {
    /// What to show.
    #[command(subcommand)]
    pub what: ShowWhat,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub output: Output,
    /// The appliance.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// Which rows of a long listing are wanted.
#[derive(Clone, Debug, Args)]
pub struct RowsArgs {
    /// Of this service only
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = one_or_more)]
    pub limit: Option<u64>,
}

/// What `show` shows.
#[derive(Clone, Debug, Subcommand)]
pub enum ShowWhat {
    /// Virtual services with their servers, weights and connections, as `ipvsadm -Ln`
    Services,
    /// Services and servers with packet and byte counts, as `ipvsadm -Ln --stats`
    Servers,
    /// Connections, then persistence templates, as `ipvsadm -Lcn --persistent-conn`
    Connections {
        /// Which, and how many
        #[command(flatten)]
        rows: RowsArgs,
        /// Connections alone, as `ipvsadm -Lcn`
        #[arg(long)]
        no_templates: bool,
    },
    /// Persistence templates with the keys of their sessions: which client or session is whose
    Templates {
        /// Which, and how many
        #[command(flatten)]
        rows: RowsArgs,
    },
    /// Neighbours' MAC addresses, and next hops that have none yet
    Neighbours,
    /// Workers: how busy they are, and their packet counts
    Workers,
    /// Ports: link and counters
    Ports,
    /// Settings that LVS has as sysctls, and which defences are in force
    Ipvs,
    /// State sync daemons that run, as `ipvsadm -L --daemon`
    Daemon,
    /// Dropped packets by reason
    Drops {
        /// Also reasons that never happened
        #[arg(long)]
        all: bool,
    },
}

/// `polder set`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    polder set server web 10.0.0.11:80 weight 0   no new connections; those there are stay\n  \
    polder set server sip proxy-2 state maint\n  \
    polder set server web 10.0.0.11:80 upper-threshold 500\n  \
    polder set server web 10.0.0.11:80 down   by a script that watches it\n  \
    polder set service sip persistence timeout 60s\n  \
    polder set service sip persistence netmask 0.0.0.0\n  \
    polder set service sip engine sip\n  \
    polder set service vpn engine payload --offset 1 --length 8\n  \
    polder set service sip one-packet on\n  \
    polder set ipvs drop_packet 3   one in am_droprate of the packets that need a server\n\n\
    It lasts until a restart; a reload keeps it unless the file changed for that setting.")]
pub struct SetArgs {
    /// What to change.
    #[command(subcommand)]
    pub what: SetWhat,
    /// The appliance.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// What `set` changes.
#[derive(Clone, Debug, Subcommand)]
pub enum SetWhat {
    /// A real server of a service
    Server {
        /// Service's name
        service: String,
        /// Server's name, or its address:port
        server: String,
        /// What of it
        #[command(subcommand)]
        to: SetServer,
    },
    /// What keeps the sessions of a service together
    Service {
        /// Its name
        service: String,
        /// What of it
        #[command(subcommand)]
        to: SetService,
    },
    /// A setting that LVS has as a sysctl
    Ipvs {
        /// Its name, as `polder show ipvs` lists it
        name: String,
        /// Its value; on and off of a switch
        #[arg(allow_negative_numbers = true)]
        value: String,
    },
}

/// What of a service `set` changes.
#[derive(Clone, Debug, Subcommand)]
pub enum SetService {
    /// How long, and by which part of their address, clients stay on their server
    Persistence {
        /// What of it
        #[command(subcommand)]
        to: SetPersistence,
    },
    /// What a session is recognised by beside the client's address
    Engine {
        /// sip is the Call-ID, payload a field of the payload, none the client's address alone
        #[arg(value_parser = ["sip", "payload", "none"])]
        engine: String,
        /// Where the field of `payload` begins
        #[arg(long, value_name = "N", allow_hyphen_values = true)]
        offset: Option<u32>,
        /// How long it is
        #[arg(long, value_name = "N", allow_hyphen_values = true)]
        length: Option<u32>,
        /// What they count
        #[arg(long, value_parser = ["bytes", "bits"])]
        unit: Option<String>,
    },
    /// Whether every UDP datagram is scheduled by itself
    OnePacket {
        /// on leaves no connections behind, off follows them
        #[arg(value_parser = ["on", "off"])]
        to: String,
    },
}

/// What of a service's persistence `set` changes.
#[derive(Clone, Debug, Subcommand)]
pub enum SetPersistence {
    /// How long an idle client stays; templates that there are keep theirs
    Timeout {
        /// Such as 60s or 15m; off for no persistence
        #[arg(allow_hyphen_values = true)]
        timeout: String,
    },
    /// Which part of the clients' address counts
    Netmask {
        /// Netmask of IPv4 clients, prefix length of IPv6 clients
        #[arg(allow_negative_numbers = true)]
        netmask: String,
    },
}

/// What of a server `set` changes.
#[derive(Clone, Debug, Subcommand)]
pub enum SetServer {
    /// Its weight; 0 takes no new connections
    Weight {
        /// 0 to 65,535
        #[arg(allow_negative_numbers = true)]
        weight: u16,
    },
    /// Its administrative state
    State {
        /// ready takes connections, drain keeps what it has, maint takes nothing
        #[arg(value_parser = ["ready", "drain", "maint"])]
        state: String,
    },
    /// The connections from which on it takes no new ones
    UpperThreshold {
        /// 0 is no threshold
        #[arg(value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)))]
        connections: u32,
    },
    /// The connections below which it takes new ones again
    LowerThreshold {
        /// Not above the upper threshold; 0 is three quarters of it
        #[arg(value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)))]
        connections: u32,
    },
    /// It works, by the word of whoever watches it
    Up,
    /// It does not work: it is as one in maintenance until it is up
    Down,
}

/// `polder reload`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The file is checked first; one problem, and nothing changes. Services and servers that \
    are the same keep their connections, counts and positions.\n\n\
    Example:\n  polder check -c /etc/polder/polder.yaml && polder reload"
)]
pub struct ReloadArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// The appliance.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// `polder sync`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    polder sync status\n  \
    polder sync status -o json | jq '.peers[] | {name, direction, coverage, lag_seconds}'\n  \
    polder sync start --role backup --interface eth2 --sync-id 7\n  \
    polder sync role both\n  \
    polder sync decode sync.pcap\n\n\
    What is started and stopped lasts until a restart; a reload keeps it unless the file changed there.")]
pub struct SyncArgs {
    /// What to do.
    #[command(subcommand)]
    pub what: SyncWhat,
}

/// What `sync` does.
#[derive(Clone, Debug, Subcommand)]
pub enum SyncWhat {
    /// Show what is synchronised with whom, how far, and why not
    Status(SyncStatusArgs),
    /// Begin with a role, as `ipvsadm --start-daemon`
    Start(SyncStartArgs),
    /// End a role, as `ipvsadm --stop-daemon`
    Stop(SyncStopArgs),
    /// Set the role, whatever it was
    Role(SyncRoleArgs),
    /// Print every record of every sync message in a capture, and why a message or record is damaged
    Decode(DecodeArgs),
}

/// `polder sync status`.
#[derive(Clone, Debug, Args)]
pub struct SyncStatusArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// The appliance.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// `polder sync start`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "What is not given is as it was, or as the file has it.\n\n\
    Example:\n  polder sync start --role master --interface eth2 --sync-id 7"
)]
pub struct SyncStartArgs {
    /// What to begin with, beside what runs
    #[arg(long, value_parser = ["master", "backup"])]
    pub role: String,
    /// Kernel interface, or name of a port that has one
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Which directors belong together, 0 to 255
    #[arg(long, value_name = "N")]
    pub sync_id: Option<u32>,
    /// Multicast group
    #[arg(long, value_name = "ADDRESS")]
    pub group: Option<String>,
    /// First UDP port
    #[arg(long, value_name = "PORT")]
    pub port: Option<u32>,
    /// Time to live of messages, 1 to 255
    #[arg(long, value_name = "N")]
    pub ttl: Option<u32>,
    /// Longest message in bytes of UDP payload
    #[arg(long, value_name = "N")]
    pub max_message: Option<u32>,
    /// The appliance.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// `polder sync stop`.
#[derive(Clone, Debug, Args)]
pub struct SyncStopArgs {
    /// What to end
    #[arg(long, value_parser = ["master", "backup"])]
    pub role: String,
    /// The appliance.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// `polder sync role`.
#[derive(Clone, Debug, Args)]
pub struct SyncRoleArgs {
    /// What to do from now on
    #[arg(value_parser = ["master", "backup", "both", "off"])]
    pub role: String,
    /// The appliance.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// How `sync decode` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DecodeOutput {
    /// For people: a line for each message, one for each of its records, a summary.
    Table,
    /// The same for programs, as one object.
    Json,
}

/// `polder sync decode`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit status: 0 the capture was read to its end, whatever is in it; 1 it could not be.\n\n\
    Examples:\n  \
    tcpdump -i eth1 -s 0 -w sync.pcap udp port 8848\n  \
    polder sync decode sync.pcap\n  \
    polder sync decode sync.pcap --port 8849 -o json | jq '.messages[].records[]'\n  \
    polder sync decode sync.pcap --key-file /etc/polder/sync.keys"
)]
pub struct DecodeArgs {
    /// Capture: pcap or pcapng, plain or gzip; Ethernet, Linux cooked or raw IP
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// A UDP port that sync messages are sent to, besides 8848; may be given again
    #[arg(long, value_name = "PORT", allow_hyphen_values = true)]
    pub port: Vec<u16>,
    /// Keys of the polder format: datagrams are checked with them, encrypted ones decrypted; without it those that are
    /// not encrypted are shown and marked "not checked". Lines of ID HEX64, readable by the owner alone
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: DecodeOutput,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|c| c.command)
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn replay_takes_what_the_contract_says() {
        let line = "polder replay -c f.yaml --in wan0=a.pcap --in lan0=b=c.pcap --out wan0=o.pcap \
                    --clock wall --repeat 10 --rate 1000 --settle 2m --workers 3 --connections conns \
                    --report json=r.json --seed 7";
        let Command::Replay(a) = parse(line).expect("parses") else {
            panic!("another command");
        };
        assert_eq!(a.inputs.len(), 2);
        assert_eq!(a.inputs[1].file, PathBuf::from("b=c.pcap"));
        assert_eq!(a.rate, Some(Rate::PerSecond(1000)));
        assert_eq!(a.settle, Some(Duration::from_secs(120)));
        assert_eq!(a.report.format, ReportFormat::Json);
        assert_eq!(a.report.file, Some(PathBuf::from("r.json")));
        assert_eq!(
            (a.clock, a.repeat, a.workers, a.seed),
            (ReplayClock::Wall, 10, 3, 7)
        );
    }

    #[test]
    fn replay_has_the_defaults_of_the_contract() {
        let Command::Replay(a) = parse("polder replay -c f --in p=x").expect("parses") else {
            panic!("another command");
        };
        assert_eq!(a.clock, ReplayClock::Capture);
        assert_eq!((a.repeat, a.workers, a.rate, a.settle), (1, 1, None, None));
        assert_eq!(a.report.format, ReportFormat::Text);
    }

    #[test]
    fn wrong_values_are_refused() {
        for line in [
            "polder replay -c f",
            "polder replay -c f --in wan0",
            "polder replay -c f --in p=x --rate 0",
            "polder replay -c f --in p=x --settle 5",
            "polder replay -c f --in p=x --settle 99999999999999999d",
            "polder replay -c f --in p=x --workers 0",
            "polder replay -c f --in p=x --report xml",
            "polder set server web a weight 65536",
            "polder set server web a state gone",
            "polder set server web a upper-threshold 2147483648",
            "polder set server web a lower-threshold -1",
            "polder set service web",
            "polder set service web one-packet yes",
            "polder set service web engine ftp",
            "polder set service web persistence",
            "polder show templates --limit 0",
            "polder show everything",
            "polder sync start",
            "polder sync start --role both",
            "polder sync stop --role off",
            "polder sync role primary",
            "polder sync status -o xml",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_value_with_a_hyphen_is_judged_as_a_value() {
        for (line, said) in [
            (
                "polder replay -c f --in p=x --settle -5s",
                "it must be a number with a unit",
            ),
            (
                "polder replay -c f --in p=x --rate -1",
                "it must be packets per second, or max",
            ),
            (
                "polder replay -c f --in p=x --workers -1",
                "-1 is not in 1..=256",
            ),
            (
                "polder replay -c f --in p=x --repeat -1",
                "invalid value '-1'",
            ),
            (
                "polder replay -c f --in p=x --seed -1",
                "invalid value '-1'",
            ),
            ("polder show templates --limit -1", "invalid value '-1'"),
            (
                "polder set server web a upper-threshold -1",
                "-1 is not in 0..=2147483647",
            ),
            (
                "polder set server web a lower-threshold -1",
                "-1 is not in 0..=2147483647",
            ),
            (
                "polder set server web a weight -1",
                "-1 is not in 0..=65535",
            ),
            (
                "polder set service web engine payload --offset -1 --length 2",
                "invalid value '-1'",
            ),
            ("polder sync decode f --port -1", "-1 is not in 0..=65535"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(
                error.contains(said) && !error.contains("unexpected"),
                "{line}: {error}"
            );
        }
        for line in [
            "polder set ipvs drop_packet -1",
            "polder set service web persistence timeout -5s",
            "polder set service web persistence netmask -1",
        ] {
            assert!(
                parse(line).is_ok(),
                "the appliance says what is wrong: {line}"
            );
        }
    }

    #[test]
    fn a_dash_is_no_file_where_it_can_be_none() {
        for line in [
            "polder replay -c f --in p=-",
            "polder replay -c f --in p=x --out p=-",
            "polder replay -c f --in p=x --connections -",
            "polder replay -c f --in p=x --report json=-",
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains("standard"), "{line}: {error}");
        }
        assert!(parse("polder check -c -").is_ok());
    }

    #[test]
    fn the_socket_may_stand_anywhere() {
        for line in [
            "polder set server web a weight 3 --socket /s",
            "polder set --socket /s server web a weight 3",
        ] {
            let Command::Set(a) = parse(line).expect("parses") else {
                panic!("another command");
            };
            assert_eq!(a.socket.socket, PathBuf::from("/s"), "{line}");
        }
        for line in [
            "polder set service web persistence timeout --socket /s 5s",
            "polder set server web a weight 3 --socket /s",
            "polder set --socket /s server web a weight 3",
        ] {
            let Command::Set(a) = parse(line).expect("parses") else {
                panic!("another command");
            };
            assert_eq!(a.socket.socket, PathBuf::from("/s"), "{line}");
        }
    }
}
