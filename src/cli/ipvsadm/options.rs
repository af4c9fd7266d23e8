//! ipvsadm's options: what there is, what goes with which command, and how they are read from words.
//!
//! The tables [`OPTIONS`] and [`Command::rule`] are the grammar of specification §10.2. Words are read as that program's
//! library reads them: short options may be bundled, a value may be joined, words that are no options may stand anywhere.

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Command {
    AddService,
    EditService,
    DeleteService,
    Clear,
    List,
    AddServer,
    DeleteServer,
    EditServer,
    Set,
    StartDaemon,
    StopDaemon,
    Restore,
    Save,
    Zero,
    Help,
    Version,
}

/// Options that messages know by name, in the order in which they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Opt {
    Numeric,
    Connection,
    Service,
    Scheduler,
    Persistent,
    Netmask,
    Server,
    Forwarding,
    Weight,
    Upper,
    Lower,
    Mcast,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    SyncId,
    Exact,
    Ops,
    Engine,
    Flags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxlen,
    TunInfo,
    TunType,
    TunPort,
    TunNocsum,
    TunCsum,
    TunRemcsum,
}

/// Every [`Opt`] and its name in messages.
pub(super) const NAMES: [(Opt, &str); 34] = [
    (Opt::Numeric, "numeric"),
    (Opt::Connection, "connection"),
    (Opt::Service, "service-address"),
    (Opt::Scheduler, "scheduler"),
    (Opt::Persistent, "persistent"),
    (Opt::Netmask, "netmask"),
    (Opt::Server, "real-server"),
    (Opt::Forwarding, "forwarding-method"),
    (Opt::Weight, "weight"),
    (Opt::Upper, "u-threshold"),
    (Opt::Lower, "l-threshold"),
    (Opt::Mcast, "mcast-interface"),
    (Opt::Timeout, "timeout"),
    (Opt::Daemon, "daemon"),
    (Opt::Stats, "stats"),
    (Opt::Rate, "rate"),
    (Opt::Thresholds, "thresholds"),
    (Opt::PersistentConn, "persistent-conn"),
    (Opt::NoSort, "nosort"),
    (Opt::SyncId, "syncid"),
    (Opt::Exact, "exact"),
    (Opt::Ops, "ops"),
    (Opt::Engine, "pe"),
    (Opt::Flags, "sched-flags"),
    (Opt::McastGroup, "mcast-group"),
    (Opt::McastPort, "mcast-port"),
    (Opt::McastTtl, "mcast-ttl"),
    (Opt::SyncMaxlen, "sync-maxlen"),
    (Opt::TunInfo, "tun-info"),
    (Opt::TunType, "tun-type"),
    (Opt::TunPort, "tun-port"),
    (Opt::TunNocsum, "tun-nocsum"),
    (Opt::TunCsum, "tun-csum"),
    (Opt::TunRemcsum, "tun-remcsum"),
];

impl Opt {
    pub(super) fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(opt, _)| *opt == self)
            .map_or("", |(_, name)| name)
    }
}

/// Whether a command takes an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Must,
    May,
    Never,
}

impl Command {
    /// Its name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AddService => "add-service",
            Self::EditService => "edit-service",
            Self::DeleteService => "delete-service",
            Self::Clear => "flush",
            Self::List => "list",
            Self::AddServer => "add-server",
            Self::DeleteServer => "delete-server",
            Self::EditServer => "edit-server",
            Self::Set => "set",
            Self::StartDaemon => "start-daemon",
            Self::StopDaemon => "stop-daemon",
            Self::Restore => "restore",
            Self::Save => "save",
            Self::Zero => "zero",
            Self::Help => "help",
            Self::Version => "version",
        }
    }

    pub(super) fn rule(self, opt: Opt) -> Rule {
        use Opt::*;
        let (must, may): (&[Opt], &[Opt]) = match self {
            Self::AddService | Self::EditService => (
                &[Service],
                &[Scheduler, Persistent, Netmask, Ops, Engine, Flags],
            ),
            Self::DeleteService => (&[Service], &[]),
            Self::AddServer | Self::EditServer => (
                &[Service, Server],
                &[
                    Forwarding, Weight, Upper, Lower, TunType, TunPort, TunNocsum, TunCsum,
                    TunRemcsum,
                ],
            ),
            Self::DeleteServer => (&[Service, Server], &[]),
            Self::List => (
                &[],
                &[
                    Numeric,
                    Connection,
                    Service,
                    Timeout,
                    Daemon,
                    Stats,
                    Rate,
                    Thresholds,
                    PersistentConn,
                    NoSort,
                    SyncId,
                    Exact,
                    TunInfo,
                ],
            ),
            Self::Save => (&[], &[Numeric]),
            Self::Zero => (&[], &[Service]),
            Self::StartDaemon => (
                &[],
                &[Mcast, SyncId, McastGroup, McastPort, McastTtl, SyncMaxlen],
            ),
            Self::StopDaemon => (&[], &[SyncId]),
            Self::Clear | Self::Set | Self::Restore | Self::Help | Self::Version => (&[], &[]),
        };
        match opt {
            opt if must.contains(&opt) => Rule::Must,
            opt if may.contains(&opt) => Rule::May,
            _ => Rule::Never,
        }
    }
}

/// What a word of the command line stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Id {
    Command(Command),
    Tcp,
    Udp,
    Sctp,
    Fwmark,
    Ipv6,
    Masq,
    Direct,
    Tunnel,
    /// Does nothing.
    Sort,
    Other(Opt),
}

/// Whether an option has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    No,
    Needed,
    Optional,
}

/// An option in the list of them all.
struct Word {
    long: &'static str,
    /// A blank for none.
    short: char,
    value: Value,
    id: Id,
}

const fn word(long: &'static str, short: char, value: Value, id: Id) -> Word {
    Word {
        long,
        short,
        value,
        id,
    }
}

const fn command(long: &'static str, short: char, command: Command) -> Word {
    word(long, short, Value::No, Id::Command(command))
}

const fn flag(long: &'static str, short: char, id: Id) -> Word {
    word(long, short, Value::No, id)
}

const fn value(long: &'static str, short: char, id: Id) -> Word {
    word(long, short, Value::Needed, id)
}

/// Every option.
const OPTIONS: &[Word] = &[
    command("add-service", 'A', Command::AddService),
    command("edit-service", 'E', Command::EditService),
    command("delete-service", 'D', Command::DeleteService),
    command("clear", 'C', Command::Clear),
    command("list", 'L', Command::List),
    command("", 'l', Command::List),
    command("zero", 'Z', Command::Zero),
    command("add-server", 'a', Command::AddServer),
    command("edit-server", 'e', Command::EditServer),
    command("delete-server", 'd', Command::DeleteServer),
    command("set", ' ', Command::Set),
    command("help", 'h', Command::Help),
    command("version", 'v', Command::Version),
    command("restore", 'R', Command::Restore),
    command("save", 'S', Command::Save),
    value("start-daemon", ' ', Id::Command(Command::StartDaemon)),
    value("stop-daemon", ' ', Id::Command(Command::StopDaemon)),
    value("tcp-service", 't', Id::Tcp),
    value("udp-service", 'u', Id::Udp),
    value("sctp-service", ' ', Id::Sctp),
    value("fwmark-service", 'f', Id::Fwmark),
    value("scheduler", 's', Id::Other(Opt::Scheduler)),
    word(
        "persistent",
        'p',
        Value::Optional,
        Id::Other(Opt::Persistent),
    ),
    value("netmask", 'M', Id::Other(Opt::Netmask)),
    value("real-server", 'r', Id::Other(Opt::Server)),
    flag("masquerading", 'm', Id::Masq),
    flag("ipip", 'i', Id::Tunnel),
    flag("gatewaying", 'g', Id::Direct),
    value("weight", 'w', Id::Other(Opt::Weight)),
    value("u-threshold", 'x', Id::Other(Opt::Upper)),
    value("l-threshold", 'y', Id::Other(Opt::Lower)),
    flag("numeric", 'n', Id::Other(Opt::Numeric)),
    flag("connection", 'c', Id::Other(Opt::Connection)),
    value("mcast-interface", ' ', Id::Other(Opt::Mcast)),
    flag("timeout", ' ', Id::Other(Opt::Timeout)),
    flag("daemon", ' ', Id::Other(Opt::Daemon)),
    flag("stats", ' ', Id::Other(Opt::Stats)),
    flag("rate", ' ', Id::Other(Opt::Rate)),
    flag("thresholds", ' ', Id::Other(Opt::Thresholds)),
    flag("persistent-conn", ' ', Id::Other(Opt::PersistentConn)),
    flag("nosort", ' ', Id::Other(Opt::NoSort)),
    flag("sort", ' ', Id::Sort),
    flag("exact", 'X', Id::Other(Opt::Exact)),
    flag("ipv6", '6', Id::Ipv6),
    flag("ops", 'o', Id::Other(Opt::Ops)),
    value("pe", ' ', Id::Other(Opt::Engine)),
    value("sched-flags", 'b', Id::Other(Opt::Flags)),
    value("syncid", ' ', Id::Other(Opt::SyncId)),
    value("mcast-group", ' ', Id::Other(Opt::McastGroup)),
    value("mcast-port", ' ', Id::Other(Opt::McastPort)),
    value("mcast-ttl", ' ', Id::Other(Opt::McastTtl)),
    value("sync-maxlen", ' ', Id::Other(Opt::SyncMaxlen)),
    flag("tun-info", ' ', Id::Other(Opt::TunInfo)),
    value("tun-type", ' ', Id::Other(Opt::TunType)),
    value("tun-port", ' ', Id::Other(Opt::TunPort)),
    flag("tun-nocsum", ' ', Id::Other(Opt::TunNocsum)),
    flag("tun-csum", ' ', Id::Other(Opt::TunCsum)),
    flag("tun-remcsum", ' ', Id::Other(Opt::TunRemcsum)),
];

/// An option as it stands in the command line.
pub(super) struct Read {
    pub id: Id,
    pub value: Option<String>,
    /// The word that it stands in.
    pub word: String,
}

/// Reads options, and puts aside words that are none.
pub(super) struct Reader<'a> {
    words: &'a [String],
    next: usize,
    /// What is left of a word of several short options.
    bundle: Option<(String, &'a str)>,
    pub rest: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(words: &'a [String]) -> Self {
        Self {
            words,
            next: 0,
            bundle: None,
            rest: Vec::new(),
        }
    }

    fn word(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.next)?;
        self.next += 1;
        Some(word)
    }

    /// The next option; the error is what is told of it.
    pub fn option(&mut self) -> Result<Option<Read>, String> {
        loop {
            if let Some((word, chars)) = self.bundle.take() {
                return self.short(&word, chars).map(Some);
            }
            let Some(word) = self.word() else {
                return Ok(None);
            };
            if word == "--" {
                self.rest.extend_from_slice(&self.words[self.next..]);
                self.next = self.words.len();
            } else if let Some(long) = word.strip_prefix("--") {
                return self.long(word, long).map(Some);
            } else if let Some(chars) = word.strip_prefix('-') {
                self.bundle = Some((word.to_owned(), chars));
            } else {
                self.rest.push(word.to_owned());
            }
        }
    }

    fn short(&mut self, word: &str, chars: &'a str) -> Result<Read, String> {
        let mut left = chars.chars();
        let found = left.next().and_then(|c| {
            let same = |o: &&Word| o.short == c && c != ' ';
            OPTIONS.iter().find(same)
        });
        let Some(option) = found else {
            return Err(format!("{word}: unknown option"));
        };
        let left = left.as_str();
        let joined = (option.value != Value::No && !left.is_empty())
            .then(|| left.strip_prefix('=').unwrap_or(left).to_owned());
        if option.value == Value::No && !left.is_empty() {
            self.bundle = Some((word.to_owned(), left));
        }
        self.read(word, option, joined)
    }

    fn long(&mut self, word: &str, long: &str) -> Result<Read, String> {
        let (name, joined) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        let same = |o: &&Word| o.long == name && !name.is_empty();
        let Some(option) = OPTIONS.iter().find(same) else {
            return Err(format!("{word}: unknown option"));
        };
        if option.value == Value::No && joined.is_some() {
            return Err(format!("{word}: option does not take an argument"));
        }
        self.read(word, option, joined)
    }

    fn read(&mut self, word: &str, option: &Word, joined: Option<String>) -> Result<Read, String> {
        let id = option.id;
        let value = match (option.value, joined) {
            (Value::No, _) => None,
            (_, Some(value)) => Some(value),
            (Value::Needed, None) => match self.word() {
                Some(value) => Some(value.to_owned()),
                None => return Err(format!("{word}: missing argument")),
            },
            (Value::Optional, None) => match self.words.get(self.next) {
                Some(next) if !next.starts_with('-') => self.word().map(str::to_owned),
                _ => None,
            },
        };
        let word = word.to_owned();
        Ok(Read { id, value, word })
    }
}
