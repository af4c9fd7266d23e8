//! ipvsadm's command line: from words to a command that makes sense by itself (specification §10.1 to §10.3).
//!
//! Options are read in order, as that program reads them, so that the first thing that is wrong is the one that is told.
//! Knows nothing of the running appliance.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names::Names;
use super::options::{Command, Id, NAMES, Opt, Read, Reader, Rule};

/// Longest timeout in seconds: 31 days.
const TIMEOUT_MAX: u32 = 31 * 86_400;

/// Seconds of persistence without a value.
pub const PERSISTENT_DEFAULT: u32 = 360;

/// Why a command line is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Something that it says makes no sense; ends a restore.
    Usage(String),
    /// An option that there is not, or that lacks its value; a restore goes on with its next line.
    Option(String),
    /// It does not begin with a command; ends a restore.
    NoCommand,
}

fn usage<T>(message: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::Usage(message.into()))
}

/// A virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// By protocol number, address and port.
    Address(u8, IpAddr, u16),
    /// By mark, of IPv6 or not.
    Mark(u32, bool),
}

impl Service {
    fn is_ipv6(self) -> bool {
        match self {
            Self::Address(_, addr, _) => addr.is_ipv6(),
            Self::Mark(_, ipv6) => ipv6,
        }
    }

    /// Its port; 0 for a mark.
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::Address(_, _, port) => port,
            Self::Mark(..) => 0,
        }
    }
}

/// How packets reach a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Forwarding {
    #[default]
    Direct,
    Tunnel,
    Masq,
}

/// A tunnel, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// `ipip`, `gue` or `gre`.
    pub kind: &'static str,
    /// Of `gue`.
    pub port: Option<u16>,
    /// `none`, `csum` or `remcsum`; nothing for `ipip`.
    pub checksum: Option<&'static str>,
}

/// A command line that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What is to be done.
    pub command: Command,
    given: Vec<Opt>,
    /// Virtual service.
    pub service: Option<Service>,
    /// Scheduler.
    pub scheduler: String,
    /// The scheduler's flags, in the order of their numbers, then Polder's own.
    pub flags: Vec<String>,
    /// Persistence in seconds.
    pub persistent: Option<u32>,
    /// IPv4 netmask or IPv6 prefix length.
    pub netmask: Option<String>,
    /// Persistence engine.
    pub engine: Option<String>,
    /// Server's address and port.
    pub server: Option<(IpAddr, u16)>,
    /// Forwarding method.
    pub forwarding: Forwarding,
    /// The tunnel, with that method.
    pub tunnel: Option<Tunnel>,
    /// Weight.
    pub weight: u32,
    /// Upper threshold.
    pub upper: u32,
    /// Lower threshold.
    pub lower: u32,
    /// `--set`'s values in seconds, 0 for one that is to stay.
    pub timeouts: [u32; 3],
    /// `master` or `backup`.
    pub daemon: String,
    /// Interface of a daemon.
    pub interface: Option<String>,
    /// Sync id.
    pub sync_id: Option<u32>,
    /// Multicast group.
    pub group: Option<IpAddr>,
    /// Its port.
    pub mcast_port: Option<u32>,
    /// Its time to live.
    pub ttl: Option<u32>,
    /// Longest message.
    pub sync_maxlen: Option<u32>,
}

/// What is read before it is known to be complete.
#[derive(Default)]
struct Draft {
    server: Option<(IpAddr, Option<u16>)>,
    flags: Option<String>,
    tun_type: Option<String>,
    tun_port: Option<u16>,
}

impl Line {
    fn new(command: Command) -> Self {
        Self {
            command,
            given: Vec::new(),
            service: None,
            scheduler: "wlc".to_owned(),
            flags: Vec::new(),
            persistent: None,
            netmask: None,
            engine: None,
            server: None,
            forwarding: Forwarding::default(),
            tunnel: None,
            weight: 1,
            upper: 0,
            lower: 0,
            timeouts: [0; 3],
            daemon: String::new(),
            interface: None,
            sync_id: None,
            group: None,
            mcast_port: None,
            ttl: None,
            sync_maxlen: None,
        }
    }

    /// Whether an option was given.
    #[must_use]
    pub fn has(&self, opt: Opt) -> bool {
        self.given.contains(&opt)
    }

    /// Reads a command line without the program's name.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn parse(words: &[String], names: &Names) -> Result<Self, Wrong> {
        if words.is_empty() {
            return Ok(Self::new(Command::List));
        }
        let mut reader = Reader::new(words);
        let first = match reader.option() {
            Ok(Some(Read {
                id: Id::Command(command),
                value,
                ..
            })) => (command, value),
            _ => return Err(Wrong::NoCommand),
        };
        let mut line = Self::new(first.0);
        let mut draft = Draft::default();
        if let Some(role) = first.1 {
            if !["master", "backup"].contains(&role.as_str()) {
                return usage(match line.command {
                    Command::StartDaemon => "illegal start-daemon parameter specified",
                    _ => "illegal start_daemon specified",
                });
            }
            line.daemon = role;
        }
        while let Some(read) = reader.option().map_err(Wrong::Option)? {
            line.take(&mut draft, read, names)?;
        }
        let mut rest = reader.rest.into_iter();
        if line.command == Command::Set {
            for timeout in &mut line.timeouts {
                let Some(text) = rest.next() else {
                    return usage("--set option requires 3 timeout values");
                };
                *timeout = seconds(&text, 0)?;
            }
        }
        if let Some(word) = rest.next() {
            return usage(format!("unexpected argument {word}"));
        }
        line.check_options()?;
        line.complete(&draft)?;
        Ok(line)
    }

    fn set(&mut self, opt: Opt) -> Result<(), Wrong> {
        if self.has(opt) {
            return usage(format!("multiple '{}' options specified", opt.name()));
        }
        self.given.push(opt);
        Ok(())
    }

    /// Takes an option in.
    fn take(&mut self, draft: &mut Draft, read: Read, names: &Names) -> Result<(), Wrong> {
        let Read { id, value, word } = read;
        let value = value.as_deref();
        let text = value.unwrap_or_default();
        match id {
            Id::Command(_) => return usage(format!("invalid option `{word}'")),
            Id::Sort => {}
            Id::Tcp | Id::Udp | Id::Sctp => {
                self.set(Opt::Service)?;
                let proto = match id {
                    Id::Tcp => 6,
                    Id::Udp => 17,
                    _ => 132,
                };
                let Some((addr, port)) = endpoint(text, proto, names) else {
                    return usage("illegal virtual server address[:port] specified");
                };
                self.service = Some(Service::Address(proto, addr, port.unwrap_or(0)));
            }
            Id::Fwmark => {
                self.set(Opt::Service)?;
                let Some(mark) = number(text, 1, u32::MAX) else {
                    return usage(format!("invalid fwmark value `{text}' specified"));
                };
                self.service = Some(Service::Mark(mark, false));
            }
            Id::Ipv6 => match &mut self.service {
                Some(Service::Mark(_, ipv6)) => *ipv6 = true,
                _ => return usage("-6 used before -f"),
            },
            Id::Masq | Id::Direct | Id::Tunnel => {
                self.set(Opt::Forwarding)?;
                self.forwarding = match id {
                    Id::Masq => Forwarding::Masq,
                    Id::Tunnel => Forwarding::Tunnel,
                    _ => Forwarding::Direct,
                };
            }
            Id::Other(opt) => {
                self.set(opt)?;
                self.take_value(draft, opt, value, names)?;
            }
        }
        Ok(())
    }

    fn take_value(
        &mut self,
        draft: &mut Draft,
        opt: Opt,
        value: Option<&str>,
        names: &Names,
    ) -> Result<(), Wrong> {
        let text = value.unwrap_or_default();
        let within = |least, most, message: &str| match number(text, least, most) {
            Some(n) => Ok(n),
            None => usage(message),
        };
        let most = i32::MAX as u32;
        match opt {
            Opt::Scheduler => self.scheduler = text.to_owned(),
            Opt::Persistent => {
                self.persistent = Some(match value {
                    None => PERSISTENT_DEFAULT,
                    Some(text) => seconds(text, 1)?,
                });
            }
            Opt::Netmask => self.netmask = Some(self.parse_netmask(text, names)?),
            Opt::Server => {
                let proto = match self.service {
                    Some(Service::Address(proto, _, _)) => proto,
                    _ => 6,
                };
                let Some(at) = endpoint(text, proto, names) else {
                    return usage("illegal real server address[:port] specified");
                };
                draft.server = Some(at);
            }
            Opt::Weight => self.weight = within(0, most, "illegal weight specified")?,
            Opt::Upper => self.upper = within(0, most, "illegal u_threshold specified")?,
            Opt::Lower => self.lower = within(0, most, "illegal l_threshold specified")?,
            Opt::Mcast => self.interface = Some(text.to_owned()),
            Opt::SyncId => self.sync_id = Some(within(0, 255, "illegal syncid specified")?),
            Opt::McastGroup => self.group = Some(parse_group(text)?),
            Opt::McastPort => {
                self.mcast_port = Some(within(1, 65_535, "illegal mcast-port specified")?);
            }
            Opt::McastTtl => self.ttl = Some(within(1, 255, "illegal mcast-ttl specified")?),
            Opt::SyncMaxlen => {
                self.sync_maxlen = Some(within(1, 65_507, "illegal sync-maxlen specified")?);
            }
            Opt::Engine => self.engine = Some(text.to_owned()),
            Opt::Flags => draft.flags = Some(text.to_owned()),
            Opt::TunType => {
                if !["ipip", "gue", "gre"].contains(&text) {
                    return usage("illegal tunnel type specified");
                }
                draft.tun_type = Some(text.to_owned());
            }
            Opt::TunPort => {
                let port = within(1, 65_535, "illegal tunnel port specified")?;
                draft.tun_port = u16::try_from(port).ok();
            }
            // These have no value.
            Opt::Numeric
            | Opt::Connection
            | Opt::Timeout
            | Opt::Daemon
            | Opt::Stats
            | Opt::Rate => {}
            Opt::Thresholds | Opt::PersistentConn | Opt::NoSort | Opt::Exact | Opt::Ops => {}
            Opt::TunInfo | Opt::TunNocsum | Opt::TunCsum | Opt::TunRemcsum => {}
            // These are taken by what sets them.
            Opt::Service | Opt::Forwarding => {}
        }
        Ok(())
    }

    /// A netmask for the family that the service has by now.
    fn parse_netmask(&self, text: &str, names: &Names) -> Result<String, Wrong> {
        if self.service.is_some_and(Service::is_ipv6) {
            // Polder also has the group of all clients.
            return match number(text, 0, 128) {
                Some(len) => Ok(len.to_string()),
                None => usage("illegal ipv6 netmask specified"),
            };
        }
        match host(text, names) {
            Some(mask) => Ok(mask.to_string()),
            None => usage("illegal virtual server persistent mask specified"),
        }
    }

    /// Whether the command takes these options, and has those that it needs.
    fn check_options(&self) -> Result<(), Wrong> {
        for (opt, name) in NAMES {
            let command = self.command.name();
            match (self.command.rule(opt), self.has(opt)) {
                (Rule::Must, false) => {
                    return usage(format!(
                        "You need to supply the '{name}' option for the '{command}' command"
                    ));
                }
                (Rule::Never, true) => {
                    return usage(format!(
                        "Illegal '{name}' option with the '{command}' command"
                    ));
                }
                _ => {}
            }
        }
        if self.command == Command::List {
            const ONE_OF: &[Opt] = &[Opt::Connection, Opt::Service, Opt::Timeout, Opt::Daemon];
            self.exclusive(ONE_OF, "'list' command")?;
            let any = |opts: &[Opt]| opts.iter().any(|opt| self.has(*opt));
            let other = any(&[Opt::Timeout, Opt::Daemon]);
            if (other || self.has(Opt::Connection))
                && any(&[Opt::Stats, Opt::Rate, Opt::Thresholds])
                || other && self.has(Opt::PersistentConn)
            {
                return usage("options conflicts in the list command");
            }
        }
        Ok(())
    }

    /// Refuses two of `opts`.
    fn exclusive(&self, opts: &[Opt], of: &str) -> Result<(), Wrong> {
        let mut given = opts.iter().filter(|opt| self.has(**opt));
        match (given.next(), given.next()) {
            (Some(first), Some(second)) => usage(format!(
                "The option '{}' conflicts with the '{}' option in the {of}",
                second.name(),
                first.name()
            )),
            _ => Ok(()),
        }
    }

    /// Fills in what follows from the rest, and checks what only the whole line tells.
    fn complete(&mut self, draft: &Draft) -> Result<(), Wrong> {
        match self.command {
            Command::AddService | Command::EditService => {
                if let Some(flags) = &draft.flags {
                    self.flags = parse_flags(flags, &self.scheduler)?;
                }
                match self.service {
                    Some(Service::Address(_, _, 0)) if self.persistent.is_none() => {
                        return usage("Zero port specified for non-persistent service");
                    }
                    Some(Service::Address(proto, _, _)) if self.has(Opt::Ops) && proto != 17 => {
                        return usage("One-Packet Scheduling is only for UDP virtual services");
                    }
                    _ => {}
                }
            }
            Command::AddServer | Command::EditServer | Command::DeleteServer => {
                self.complete_server(draft)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn complete_server(&mut self, draft: &Draft) -> Result<(), Wrong> {
        let (Some(service), Some((addr, port))) = (self.service, draft.server) else {
            return Ok(());
        };
        let own = port.unwrap_or_else(|| service.port());
        let deletes = self.command == Command::DeleteServer;
        let keeps = !deletes && self.forwarding != Forwarding::Masq;
        let port = match service {
            Service::Address(_, _, port) if keeps => port,
            _ => own,
        };
        self.server = Some((addr, port));
        if deletes {
            return Ok(());
        }
        if addr.is_ipv6() != service.is_ipv6() && self.forwarding != Forwarding::Tunnel {
            return usage("Different address family is allowed only for tunneling servers");
        }
        const TUNNEL: &[Opt] = &[
            Opt::TunType,
            Opt::TunPort,
            Opt::TunNocsum,
            Opt::TunCsum,
            Opt::TunRemcsum,
        ];
        if self.forwarding == Forwarding::Tunnel {
            self.tunnel = Some(self.parse_tunnel(draft)?);
        } else if TUNNEL.iter().any(|opt| self.has(*opt)) {
            return usage("Tunnel options conflict with forward method");
        }
        Ok(())
    }

    fn parse_tunnel(&self, draft: &Draft) -> Result<Tunnel, Wrong> {
        use Opt::{TunCsum, TunNocsum, TunPort, TunRemcsum};
        let (kind, never): (_, &[Opt]) = match draft.tun_type.as_deref() {
            Some("gue") => ("gue", &[]),
            Some("gre") => ("gre", &[TunPort, TunRemcsum]),
            _ => ("ipip", &[TunPort, TunNocsum, TunCsum, TunRemcsum]),
        };
        if let Some(opt) = never.iter().find(|opt| self.has(**opt)) {
            let name = opt.name();
            return usage(format!(
                "Illegal '{name}' option with the '{kind}' tunnel type"
            ));
        }
        if kind == "gue" && !self.has(TunPort) {
            return usage("You need to supply the 'tun-port' option for the 'gue' tunnel type");
        }
        self.exclusive(
            &[TunNocsum, TunCsum, TunRemcsum],
            &format!("'{kind}' tunnel type"),
        )?;
        let checksum = match () {
            () if kind == "ipip" => None,
            () if self.has(TunCsum) => Some("csum"),
            () if self.has(TunRemcsum) => Some("remcsum"),
            () => Some("none"),
        };
        Ok(Tunnel {
            kind,
            port: draft.tun_port,
            checksum,
        })
    }
}

/// A decimal number within bounds.
fn number(text: &str, least: u32, most: u32) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let n = text.parse().ok().filter(|_| digits)?;
    (least..=most).contains(&n).then_some(n)
}

fn seconds(text: &str, least: u32) -> Result<u32, Wrong> {
    match number(text, least, TIMEOUT_MAX) {
        Some(n) => Ok(n),
        None => usage(format!("invalid timeout value `{text}' specified")),
    }
}

fn parse_group(text: &str) -> Result<IpAddr, Wrong> {
    let family = if text.contains(':') { "IPv6" } else { "IPv4" };
    match text.parse::<IpAddr>() {
        Ok(group) if group.is_multicast() => Ok(group),
        _ => usage(format!("invalid {family} mcast-group `{text}'")),
    }
}

/// Flags by ipvsadm's names, their scheduler, and Polder's name.
const FLAGS: [(&str, &str, &str); 4] = [
    ("sh-fallback", "sh", "fallback"),
    ("sh-port", "sh", "port"),
    ("mh-fallback", "mh", "fallback"),
    ("mh-port", "mh", "port"),
];

/// A scheduler's flags in ipvsadm's names and order, then those that only Polder has.
#[must_use]
pub fn shown_flags(scheduler: &str, flags: &[String]) -> Vec<String> {
    let known = FLAGS
        .iter()
        .filter(|(_, of, ours)| *of == scheduler && flags.iter().any(|f| f == ours));
    let other = |flag: &&String| !["fallback", "port"].contains(&flag.as_str());
    known
        .map(|(theirs, _, _)| (*theirs).to_owned())
        .chain(flags.iter().filter(other).cloned())
        .collect()
}

/// Flags in Polder's words, each once. Numbered ones mean what the scheduler's code makes of the number.
fn parse_flags(text: &str, scheduler: &str) -> Result<Vec<String>, Wrong> {
    let mut out = Vec::new();
    for flag in text.split(',') {
        let of = |of: &str| of == scheduler;
        let hashing = of("sh") || of("mh");
        let ours = match flag {
            "flag-1" if hashing => "fallback",
            "flag-2" if hashing => "port",
            "flag-1" | "flag-2" | "flag-3" => {
                return usage(format!(
                    "incompatible scheduler flag `{flag}': Polder's `{scheduler}` has none of that number"
                ));
            }
            "kernel_tables" if of("sh") => flag,
            table if table.starts_with("table=") && of("mh") => flag,
            flag => match FLAGS.iter().find(|(theirs, _, _)| *theirs == flag) {
                Some((_, scheduler, ours)) if of(scheduler) => ours,
                Some(_) => return usage(format!("incompatible scheduler flag `{flag}'")),
                None => return usage(format!("invalid scheduler flag `{flag}'")),
            },
        };
        if !out.iter().any(|there| there == ours) {
            out.push(ours.to_owned());
        }
    }
    Ok(out)
}

/// An IPv4 address by its digits or its name.
fn host(text: &str, names: &Names) -> Option<Ipv4Addr> {
    if let Ok(addr) = text.parse() {
        return Some(addr);
    }
    // Nobody's name is a number; asking for it would only take time.
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numeric || text.is_empty() {
        return None;
    }
    names.address_of(text)
}

/// `host[:port]` of a protocol (specification §10.3).
fn endpoint(text: &str, proto: u8, names: &Names) -> Option<(IpAddr, Option<u16>)> {
    let port_of = |text: &str| match text.parse::<u16>() {
        Ok(port) if text.bytes().all(|b| b.is_ascii_digit()) => Some(port),
        _ => names.port_of(text, proto),
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (addr, port) = rest.split_once("]:")?;
        let addr: Ipv6Addr = addr.parse().ok()?;
        return Some((addr.into(), Some(port_of(port)?)));
    }
    if let Ok(addr) = text.parse::<Ipv6Addr>() {
        return Some((addr.into(), None));
    }
    match text.split_once(':') {
        Some((name, port)) => Some((host(name, names)?.into(), Some(port_of(port)?))),
        None => Some((host(text, names)?.into(), None)),
    }
}
