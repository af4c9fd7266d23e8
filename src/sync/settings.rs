//! How state sync is set up: by the file, and at run time.
//!
//! Owns plain values and the arithmetic of roles and message lengths. Knows no file, no socket and no interface: whether
//! a key file can be read or an interface exists is for those to say who open them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::ipvs::{GROUP, MAX_LEN_V4, MAX_LEN_V6, PORT, Version};
use super::master::Policy;

/// Messages that wait to be sent at most, by default.
pub const QUEUE_MAX: usize = 4096;
/// Channels of the `ipvs` format at most (specification §2.9).
pub const PORTS_MAX: u8 = 64;
/// Peers by address at most.
pub const PEERS_MAX: usize = 16;
/// The shortest message, in bytes of UDP payload, that is long enough for any entry.
pub const MESSAGE_MIN: u16 = 512;
/// The longest message that UDP over IPv4 can carry, in bytes of payload.
pub const MESSAGE_MAX: u16 = 65_507;
/// Characters of an interface's name at most, which is the kernel's rule (specification §9.1).
pub const INTERFACE_MAX: usize = 15;

/// What a director does in state sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Role {
    /// Nothing.
    #[default]
    Off,
    /// It tells of its entries.
    Master,
    /// It takes others' entries.
    Backup,
    /// Both at once: active/active.
    Both,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Off, Self::Master, Self::Backup, Self::Both];

    /// The role that does what is told.
    #[must_use]
    pub fn of(master: bool, backup: bool) -> Self {
        match (master, backup) {
            (false, false) => Self::Off,
            (true, false) => Self::Master,
            (false, true) => Self::Backup,
            (true, true) => Self::Both,
        }
    }

    /// Whether it tells of its own entries.
    #[must_use]
    pub fn is_master(self) -> bool {
        matches!(self, Self::Master | Self::Both)
    }

    /// Whether it takes entries of others.
    #[must_use]
    pub fn is_backup(self) -> bool {
        matches!(self, Self::Backup | Self::Both)
    }

    /// What both do together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self::of(
            self.is_master() || other.is_master(),
            self.is_backup() || other.is_backup(),
        )
    }

    /// What is left without what `other` does.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self::of(
            self.is_master() && !other.is_master(),
            self.is_backup() && !other.is_backup(),
        )
    }

    /// Whether all that `other` does is done.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.with(other) == self
    }

    /// Its word in the file, commands and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Master => "master",
            Self::Backup => "backup",
            Self::Both => "both",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let role = Self::ALL.into_iter().find(|role| role.word() == word);
        role.ok_or_else(|| format!("`{word}` is no role; there is: master, backup, both and off"))
    }
}

/// What messages look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// Polder's own: authenticated, complete, and sure of what the peer has.
    #[default]
    Polder,
    /// Linux IPVS's, of the version that is sent; both are understood (specification §9).
    Ipvs(Version),
}

impl Format {
    /// Its word in the file and in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Polder => "polder",
            Self::Ipvs(_) => "ipvs",
        }
    }

    /// The sync id where none is given: LVS's tools have 0, which takes messages of every id.
    #[must_use]
    pub fn default_sync_id(self) -> u8 {
        match self {
            Self::Polder => 1,
            Self::Ipvs(_) => 0,
        }
    }
}

/// Where the messages of a role go and come from (specification §9.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Kernel interface; the kernel's choice where there is none.
    pub interface: Option<String>,
    /// Group and first port. With `peers` only the port counts: that on which their messages come in.
    pub group: SocketAddr,
    /// Directors to which each message is sent by itself, in place of the group; none means the group.
    pub peers: Vec<SocketAddr>,
    /// Time to live of multicast messages, 1 to 255.
    pub ttl: u8,
    /// Which directors belong together. 0 on a backup of the `ipvs` format takes messages of every id.
    pub sync_id: u8,
    /// The longest message in bytes of UDP payload; [`Self::sent_max`] and [`Self::received_max`] where none is given.
    pub max_len: Option<u16>,
}

/// Bytes that IP and UDP put in front of a message.
fn headers(addr: IpAddr) -> usize {
    if addr.is_ipv4() { 28 } else { 48 }
}

impl Channel {
    /// Whether messages go over IPv4.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.peers.first().unwrap_or(&self.group).is_ipv4()
    }

    fn headers(&self) -> usize {
        headers(self.peers.first().unwrap_or(&self.group).ip())
    }

    /// The longest message that a master sends, whatever the interface's MTU is (specification §9.1).
    #[must_use]
    pub fn sent_max(&self) -> usize {
        match self.max_len {
            Some(len) => usize::from(len.max(MESSAGE_MIN)).min(65_535 - self.headers()),
            None if self.is_ipv4() => MAX_LEN_V4,
            None => MAX_LEN_V6,
        }
    }

    /// The longest message that a backup takes; a longer one is cut and thus discarded whole (specification §9.1).
    #[must_use]
    pub fn received_max(&self, mtu: usize) -> usize {
        let most = 65_535 - self.headers();
        match self.max_len {
            Some(len) => usize::from(len).clamp(1024, most),
            None => mtu.clamp(1500, 65_535) - self.headers(),
        }
    }
}

/// Everything that state sync is told. What is not given in the file has its value of [`Settings::default`].
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What this director does.
    pub role: Role,
    /// Kernel interface; the kernel's choice where there is none. The name of a port has become that of its kernel
    /// interface.
    pub interface: Option<String>,
    /// Group and first port; with `peers` only the port counts, that on which their messages come in.
    pub group: SocketAddr,
    /// Directors to which each message is sent by itself, in place of the group: up to [`PEERS_MAX`], of one family, all
    /// with the port of `group`.
    pub peers: Vec<SocketAddr>,
    /// Time to live of multicast messages, 1 to 255.
    pub ttl: u8,
    /// Which directors belong together. 0 on a backup of the `ipvs` format takes messages of every id.
    pub sync_id: u8,
    /// The longest message in bytes of UDP payload; see [`Channel::sent_max`] where none is given.
    pub max_len: Option<u16>,
    /// Channel of the backup role where both roles were started at run time with different ones, which IPVS can
    /// (specification §9.10); always none in the `polder` format.
    pub backup: Option<Channel>,
    /// What messages look like.
    pub format: Format,
    /// File with the keys of the `polder` format.
    pub key_file: Option<PathBuf>,
    /// Whether messages of the `polder` format are also encrypted.
    pub encrypt: bool,
    /// When a master of the `ipvs` format tells of an entry (specification §9.7).
    pub policy: Policy,
    /// Messages that wait to be sent at most, for each channel; what is more is discarded (`sync_qlen_max`).
    pub queue_max: usize,
    /// Channels of the `ipvs` format, on as many ports from that of `group` on: a power of two up to [`PORTS_MAX`].
    pub ports: u8,
    /// How often a master of the `polder` format looks for differences.
    pub interval: Duration,
    /// Share of a peer's entries from which on this director is ready to take over, 0 to 1.
    pub ready_coverage: f64,
    /// After how long a backup that heard nobody is ready all the same.
    pub ready_timeout: Duration,
    /// File that has `1` in it while this director is ready, else `0`.
    pub ready_file: Option<PathBuf>,
    /// What peers call this director; the host's name where there is none.
    pub name: Option<String>,
    /// Whether a backup balances nothing by itself, also while it is a master too (specification §9.10).
    pub backup_only: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            role: Role::Off,
            interface: None,
            group: SocketAddr::new(GROUP.into(), PORT),
            peers: Vec::new(),
            ttl: 1,
            sync_id: Format::default().default_sync_id(),
            max_len: None,
            backup: None,
            format: Format::default(),
            key_file: None,
            encrypt: false,
            policy: Policy::default(),
            queue_max: QUEUE_MAX,
            ports: 1,
            interval: Duration::from_secs(1),
            ready_coverage: 0.99,
            ready_timeout: Duration::from_secs(30),
            ready_file: None,
            name: None,
            backup_only: false,
        }
    }
}

impl Settings {
    /// The channel of the master role, and of the backup role where it has none of its own.
    #[must_use]
    pub fn channel(&self) -> Channel {
        Channel {
            interface: self.interface.clone(),
            group: self.group,
            peers: self.peers.clone(),
            ttl: self.ttl,
            sync_id: self.sync_id,
            max_len: self.max_len,
        }
    }

    /// The channel of the backup role.
    #[must_use]
    pub fn backup_channel(&self) -> Channel {
        self.backup.clone().unwrap_or_else(|| self.channel())
    }

    /// Takes over a channel, for the role that runs or for both.
    pub fn set_channel(&mut self, channel: Channel) {
        self.interface = channel.interface;
        self.group = channel.group;
        self.peers = channel.peers;
        self.ttl = channel.ttl;
        self.sync_id = channel.sync_id;
        self.max_len = channel.max_len;
    }

    /// Does what `role` does from now on, with this `channel`, beside what is done already.
    ///
    /// # Errors
    /// A sentence: the other role has another channel, which the `polder` format can't have.
    pub fn start(&mut self, role: Role, channel: Channel) -> Result<(), String> {
        let other = self.role.without(role);
        let shared = other == Role::Off || channel == self.running_channel(other);
        if !shared && self.format == Format::Polder {
            return Err(format!(
                "with `format: polder` both roles have the same interface, group, sync id and lengths; {other} runs with \
                 others: leave them out, or stop it first"
            ));
        }
        match (shared, role) {
            (true, _) | (false, Role::Both | Role::Off) => {
                self.set_channel(channel);
                self.backup = None;
            }
            (false, Role::Backup) => self.backup = Some(channel),
            (false, Role::Master) => {
                self.backup = Some(self.backup_channel());
                self.set_channel(channel);
            }
        }
        self.role = self.role.with(role);
        Ok(())
    }

    /// Does no more what `role` does.
    pub fn stop(&mut self, role: Role) {
        self.role = self.role.without(role);
        if !self.role.is_backup() {
            self.backup = None;
        } else if !self.role.is_master()
            && let Some(channel) = self.backup.take()
        {
            self.set_channel(channel);
        }
    }

    /// The channel of a role that runs.
    fn running_channel(&self, role: Role) -> Channel {
        if role == Role::Backup {
            self.backup_channel()
        } else {
            self.channel()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(interface: &str) -> Channel {
        Channel {
            interface: Some(interface.to_owned()),
            ..Settings::default().channel()
        }
    }

    fn ipvs() -> Settings {
        Settings {
            format: Format::Ipvs(Version::V1),
            ..Settings::default()
        }
    }

    #[test]
    fn roles_add_up_and_can_be_taken_away() {
        for a in Role::ALL {
            assert_eq!(a.word().parse(), Ok(a));
            assert_eq!(a.with(Role::Both), Role::Both);
            assert_eq!(a.without(Role::Both), Role::Off);
            assert_eq!(a.without(Role::Off), a);
            assert!(a.covers(a) && Role::Both.covers(a) && a.covers(Role::Off));
            for b in Role::ALL {
                assert_eq!(a.with(b).without(b), a.without(b));
                assert_eq!(a.covers(b), b.without(a) == Role::Off);
            }
        }
        assert!("primary".parse::<Role>().is_err());
    }

    #[test]
    fn both_roles_of_the_ipvs_format_may_have_channels_of_their_own() {
        let mut s = ipvs();
        s.start(Role::Backup, channel("eth1")).expect("starts");
        s.start(Role::Master, channel("eth2")).expect("starts");
        assert_eq!(s.role, Role::Both);
        assert_eq!(s.channel(), channel("eth2"));
        assert_eq!(s.backup_channel(), channel("eth1"));
        let mut without_master = s.clone();
        without_master.stop(Role::Master);
        assert_eq!(
            (without_master.channel(), without_master.backup),
            (channel("eth1"), None)
        );
        s.stop(Role::Backup);
        assert_eq!((s.role, s.channel()), (Role::Master, channel("eth2")));
        assert_eq!(s.backup_channel(), channel("eth2"));
        s.start(Role::Backup, channel("eth3")).expect("starts");
        assert_eq!(
            (s.channel(), s.backup_channel()),
            (channel("eth2"), channel("eth3"))
        );
    }

    #[test]
    fn both_roles_of_the_polder_format_share_one() {
        let mut s = Settings::default();
        s.start(Role::Master, channel("eth1")).expect("starts");
        let before = s.clone();
        let e = s.start(Role::Backup, channel("eth2")).expect_err("another");
        assert!(e.contains("master runs with others"), "{e}");
        assert_eq!(s, before);
        s.start(Role::Backup, channel("eth1")).expect("the same");
        assert_eq!((s.role, s.backup), (Role::Both, None));
    }

    /// The lengths of specification §9.1.
    #[test]
    fn lengths_are_those_of_the_kernel_by_default_and_are_clamped() {
        let mut c = Settings::default().channel();
        assert_eq!((c.sent_max(), c.received_max(9000)), (1472, 8972));
        assert_eq!(c.received_max(576), 1472);
        c.max_len = Some(100);
        assert_eq!(
            (c.sent_max(), c.received_max(1500)),
            (usize::from(MESSAGE_MIN), 1024)
        );
        c.max_len = Some(u16::MAX);
        assert_eq!((c.sent_max(), c.received_max(1500)), (65_507, 65_507));
        c.group = "[ff02::81]:8848".parse().expect("valid");
        assert_eq!((c.sent_max(), c.received_max(1500)), (65_487, 65_487));
        c.max_len = None;
        assert_eq!((c.sent_max(), c.received_max(9000)), (1452, 8952));
        c.peers = vec!["192.0.2.1:8848".parse().expect("valid")];
        assert_eq!(c.sent_max(), 1472);
    }
}
