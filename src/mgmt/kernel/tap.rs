//! The kernel's interface of a port: a TAP device.
//!
//! Owns the device; it goes away with the process, or with [`Tap`]. Knows no port and no worker: frames are bytes.
//! What the workers punt is written to it and arrives in the kernel as if a card had received it; what the kernel
//! sends is read from it, to leave by the port.
//!
//! Invariant: every frame that is read is complete: no offload is announced to the kernel, so checksums are in place
//! and no frame is larger than the MTU allows.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use tun_rs::{AsyncDevice, DeviceBuilder, Layer, SyncDevice};

use crate::net::Mac;

const DEVICE: &str = "/dev/net/tun";
/// Characters in an interface name that Linux takes (`IFNAMSIZ` without its NUL).
const NAME_MAX: usize = 15;
const PREFIX: &str = "polder-";
/// The first step; only here does a missing device mean a missing driver.
const OPEN: &str = "open the TAP driver";

/// The name of the kernel's interface of `port`: `polder-` and the port's name.
///
/// Linux takes 15 characters. A port whose name is longer than 8, or has a character that an interface name can't
/// have, gets `polder-`, the first three characters of its name, `-`, and four hexadecimal digits of a hash of all of
/// it: `wan-frankfurt-1` has `polder-wan-` and four digits. The name depends on the port's name only.
#[must_use]
pub fn tap_name(port: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !port.is_empty() && PREFIX.len() + port.len() <= NAME_MAX && port.chars().all(plain) {
        return format!("{PREFIX}{port}");
    }
    let head: String = port
        .chars()
        .take(3)
        .map(|c| if plain(c) { c } else { '_' })
        .collect();
    // FNV-1a, folded to 16 bits: short, and the same in every build.
    let hash = port.bytes().fold(0x811c_9dc5_u32, |h, b| {
        (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    format!("{PREFIX}{head}-{:04x}", (hash >> 16) ^ (hash & 0xffff))
}

/// Why a TAP could not be made. The text is for the operator and says what mends it.
#[derive(Debug)]
pub enum TapError {
    /// There is no TAP driver.
    NoDriver {
        /// Interface that was to be made.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The process may not make interfaces.
    NotPermitted {
        /// Interface that was to be made.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// An interface of this name exists.
    NameTaken {
        /// Its name.
        name: String,
    },
    /// The port has no MAC address.
    NoMac {
        /// Interface that was to be made.
        name: String,
    },
    /// The kernel refused a step.
    Refused {
        /// Interface that was to be made.
        name: String,
        /// What was to be done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl std::fmt::Display for TapError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoDriver { name, source } => write!(
                f,
                "the kernel interface {name} can't be made: {DEVICE} is missing or has no driver ({source}); load \
                 it with `modprobe tun`, give a container `--device {DEVICE}`, or set `kernel_interface: false`"
            ),
            Self::NotPermitted { name, source } => write!(
                f,
                "the kernel interface {name} can't be made: not permitted ({source}); it needs CAP_NET_ADMIN: run \
                 as root, `setcap cap_net_admin+ep` on the program, or give a container `--cap-add NET_ADMIN`"
            ),
            Self::NameTaken { name } => write!(
                f,
                "the kernel interface {name} can't be made: an interface of this name exists; stop the process that \
                 has it, or remove it with `ip link delete {name}`"
            ),
            Self::NoMac { name } => write!(
                f,
                "the kernel interface {name} can't be made: the device has no MAC address of its own; set \
                 `mac:` of the port, such as \"02:00:00:00:00:10\", or `kernel_interface: false`"
            ),
            Self::Refused { name, step, source } => {
                write!(
                    f,
                    "the kernel interface {name} can't be made: {step}: {source}"
                )
            }
        }
    }
}

impl std::error::Error for TapError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoDriver { source, .. }
            | Self::NotPermitted { source, .. }
            | Self::Refused { source, .. } => Some(source),
            Self::NameTaken { .. } | Self::NoMac { .. } => None,
        }
    }
}

/// A layer-2 TAP interface of the kernel's, up, without packet information and without offloads.
pub struct Tap {
    name: String,
    /// The same open device as `reader`, for what does not wait.
    file: File,
    reader: AsyncDevice,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Tap {
    /// Makes the interface `name` ([`tap_name`]) with the port's `mac` and IP `mtu`, and brings it up.
    ///
    /// Duplicate address detection is switched off on it where /proc/sys can be written: until it has ended, the
    /// kernel has no source for neighbour solicitations, and would resolve nothing for the first two seconds. Nothing
    /// else of the interface's IPv6 is touched: where `disable_ipv6` is set, it stays so.
    ///
    /// # Errors
    /// [`TapError`]; nothing is left behind.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn create(name: &str, mac: Mac, mtu: u16) -> Result<Self, TapError> {
        // Devices without an address have zeroes, which the kernel refuses without saying why.
        if mac == Mac::default() {
            let name = name.to_owned();
            return Err(TapError::NoMac { name });
        }
        let device = open(name)?;
        let step =
            |step, result: io::Result<()>| result.map_err(|source| refused(name, step, source));
        step("set its MTU", device.set_mtu(mtu))?;
        step("set its MAC address", device.set_mac_address(mac.0))?;
        // Best effort: in a container /proc/sys is usually read-only, and detection then just takes its time.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0");
        step("bring it up", device.enabled(true))?;
        step("make it non-blocking", device.set_nonblocking(true))?;
        let file = device.as_fd().try_clone_to_owned();
        let file = file.map_err(|e| refused(name, "duplicate its descriptor", e))?;
        let reader = AsyncDevice::new(device);
        let reader = reader.map_err(|e| refused(name, "register it with the runtime", e))?;
        Ok(Self {
            name: name.to_owned(),
            file: file.into(),
            reader,
        })
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits for a frame that the kernel sends, puts it into `frame` and returns its length in bytes. What does not
    /// fit is cut off: give room for the MTU and 22 bytes. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the interface is gone.
    pub async fn recv(&self, frame: &mut [u8]) -> io::Result<usize> {
        self.reader.recv(frame).await
    }

    /// Takes a frame that the kernel has already sent, as [`Tap::recv`] does, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; as [`Tap::recv`] otherwise.
    pub fn try_recv(&self, frame: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(frame)
    }

    /// Hands `frame` to the kernel, or fails; it never waits.
    ///
    /// # Errors
    /// `EIO` while the interface is down, `EINVAL` for a frame without a whole Ethernet header, `WouldBlock` or
    /// `ENOMEM` when the kernel has no room. The frame is lost in all cases, as on a wire: count it and go on.
    pub fn try_send(&self, frame: &[u8]) -> io::Result<()> {
        // One write is one frame, whole or not at all.
        (&self.file).write(frame).map(|_| ())
    }
}

/// Opens the driver and makes a new interface.
fn open(name: &str) -> Result<SyncDevice, TapError> {
    // Asked beforehand because opening would make the device file, and because a TAP that someone made persistent
    // would be adopted with whatever is configured on it.
    if let Err(source) = fs::metadata(Path::new(DEVICE)) {
        return Err(TapError::NoDriver {
            name: name.to_owned(),
            source,
        });
    }
    if exists(name) {
        return Err(TapError::NameTaken {
            name: name.to_owned(),
        });
    }
    DeviceBuilder::new()
        .name(name)
        .layer(Layer::L2)
        .inherit_enable_state()
        .with(|options| {
            options.packet_information(false).offload(false);
        })
        .build_sync()
        .map_err(|source| refused(name, OPEN, source))
}

/// Whether an interface `name` exists in this thread's network namespace.
fn exists(name: &str) -> bool {
    let list = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    list.lines()
        .filter_map(|line| line.split_once(':'))
        .any(|(n, _)| n.trim() == name)
}

fn refused(name: &str, step: &'static str, source: io::Error) -> TapError {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) if step == OPEN => {
            TapError::NoDriver { name, source }
        }
        Some(libc::EPERM | libc::EACCES) => TapError::NotPermitted { name, source },
        Some(libc::EBUSY | libc::EEXIST) => TapError::NameTaken { name },
        _ => TapError::Refused { name, step, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_port_name_is_used_as_it_is() {
        assert_eq!(tap_name("wan0"), "polder-wan0");
        assert_eq!(tap_name("abcdefgh"), "polder-abcdefgh");
    }

    #[test]
    fn other_names_are_shortened_to_something_linux_takes() {
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        for port in [
            "wan-frankfurt-1",
            "",
            "a b",
            "ä",
            "x/y",
            "a%d",
            "🦀🦀🦀🦀",
            "ninechars",
        ] {
            let name = tap_name(port);
            assert!(
                name.len() <= 15 && name.starts_with("polder-"),
                "{port}: {name}"
            );
            assert!(name.chars().all(legal), "{port}: {name}");
        }
        assert_eq!(tap_name("wan-frankfurt-1")[..11], *"polder-wan-");
    }

    #[test]
    fn long_names_that_start_alike_differ() {
        assert_ne!(tap_name("wan-frankfurt-1"), tap_name("wan-frankfurt-2"));
    }

    #[test]
    fn a_port_without_an_address_is_told_to_set_one() {
        let error = Tap::create("polder-wan0", Mac::default(), 1500).expect_err("no address");
        let text = error.to_string();
        assert!(
            text.contains("polder-wan0") && text.contains("set `mac:`"),
            "{text}"
        );
    }

    #[test]
    fn errors_name_the_interface_and_the_command_that_mends_it() {
        for (code, remedy) in [
            (libc::ENOENT, "modprobe tun"),
            (libc::EPERM, "setcap cap_net_admin+ep"),
            (libc::EBUSY, "ip link delete polder-wan0"),
        ] {
            let source = io::Error::from_raw_os_error(code);
            let text = refused("polder-wan0", OPEN, source).to_string();
            assert!(
                text.contains("polder-wan0") && text.contains(remedy),
                "{text}"
            );
        }
    }
}
