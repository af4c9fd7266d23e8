//! Why a port did not open, in a sentence that names what mends it.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use super::device::Device;
use super::errno::Errno;
use crate::net::Mac;

/// Why a port did not open, or an operation on it failed. Prints as a sentence with what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortError {
    /// The device string is neither a PCI address nor a virtual device.
    Malformed {
        /// The string.
        device: String,
    },
    /// The machine has no such PCI function.
    NoPciDevice {
        /// Its address.
        address: String,
    },
    /// The interface to attach to is not there.
    NoInterface {
        /// The device string.
        device: String,
        /// The interface it names.
        interface: String,
    },
    /// The capture to read is not there.
    NoFile {
        /// The device string.
        device: String,
        /// The file it names.
        file: PathBuf,
    },
    /// The folder of a file or socket that the driver makes or looks for is not there.
    NoFolder {
        /// The device string.
        device: String,
        /// The folder.
        folder: PathBuf,
    },
    /// An argument of the device is not what its driver takes, which would use something else without a word.
    Argument {
        /// The device string.
        device: String,
        /// The argument's key.
        key: String,
        /// Its value.
        value: String,
    },
    /// The device is open already.
    InUse {
        /// The device string.
        device: String,
    },
    /// No driver took the device.
    Probe {
        /// The device string.
        device: String,
        /// DPDK's reason.
        errno: Errno,
        /// What DPDK logged.
        said: String,
    },
    /// The device cannot carry packets of this length.
    Mtu {
        /// The device string.
        device: String,
        /// What was asked for, in bytes.
        wanted: u16,
        /// The most that is possible, where known.
        most: Option<u16>,
    },
    /// The address cannot be one of a port.
    Mac {
        /// The device string.
        device: String,
        /// The address.
        mac: Mac,
    },
    /// The device refused a step of its set-up.
    Setup {
        /// The device string.
        device: String,
        /// The step, as the object of "cannot".
        step: &'static str,
        /// DPDK's reason.
        errno: Errno,
        /// What DPDK logged.
        said: String,
    },
    /// Queues are still held, so the port goes on until they are dropped.
    QueuesHeld {
        /// The device string.
        device: String,
        /// How many.
        queues: usize,
    },
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { device } => write!(
                f,
                "`{device}` is neither a PCI address such as 0000:3b:00.0 nor a DPDK virtual device such as \
                 net_af_packet0,iface=eth1"
            ),
            Self::NoPciDevice { address } => write!(
                f,
                "this machine has no PCI device {address}; `dpdk-devbind.py --status` lists them"
            ),
            Self::NoInterface { device, interface } => write!(
                f,
                "`{device}`: there is no interface {interface}; `ip link` lists those that are"
            ),
            Self::NoFile { device, file } => {
                write!(f, "`{device}`: there is no file {}", file.display())
            }
            Self::NoFolder { device, folder } => write!(
                f,
                "`{device}`: there is no folder {}; make it first",
                folder.display()
            ),
            Self::Argument { device, key, value } => write!(
                f,
                "`{device}`: `{key}` must be a whole number of at least 1, not `{value}`"
            ),
            Self::InUse { device } => write!(f, "`{device}` is in use by another port"),
            Self::Probe {
                device,
                errno,
                said,
            } => probe_sentence(f, device, *errno, said),
            Self::Mtu {
                device,
                wanted,
                most: Some(most),
            } => {
                write!(
                    f,
                    "`{device}` cannot do an MTU of {wanted}; {most} is the most it can: set the port's `mtu`"
                )
            }
            Self::Mtu {
                device,
                wanted,
                most: None,
            } => {
                write!(
                    f,
                    "`{device}` cannot do an MTU of {wanted}; set the port's `mtu` lower"
                )
            }
            Self::Mac { device, mac } => {
                write!(
                    f,
                    "`{device}` cannot have the address {mac}: it is a group's or nobody's"
                )
            }
            Self::Setup {
                device,
                step,
                errno,
                said,
            } => {
                write!(f, "`{device}` cannot {step}: {errno}")?;
                parenthesis(f, said)?;
                if device.starts_with("net_memif") && said.contains("connect") {
                    f.write_str("; is the other side, with `role=server`, running?")?;
                }
                Ok(())
            }
            Self::QueuesHeld { device, queues } => {
                write!(
                    f,
                    "`{device}` closes when its {queues} queues that are in use are dropped"
                )
            }
        }
    }
}

fn probe_sentence(
    f: &mut fmt::Formatter<'_>,
    device: &str,
    errno: Errno,
    said: &str,
) -> fmt::Result {
    // Of a driver that DPDK has it says that it "cannot attach", and before that what the driver itself said.
    let (refused, said) = match said.split_once("EAL: Driver cannot attach the device") {
        Some((said, _)) => (true, said.trim_end_matches([' ', ';'])),
        None => (false, said),
    };
    write!(f, "DPDK cannot open `{device}`: {errno}")?;
    parenthesis(f, said)?;
    match Device::parse(device) {
        Ok(Device::Pci(address)) => write!(
            f,
            "; bind it first: `dpdk-devbind.py --bind=vfio-pci {address}`, and name it in the configuration at start"
        ),
        _ if refused && errno.0 == libc::EPERM => f.write_str(
            "; does its driver take the arguments behind the name (https://doc.dpdk.org/guides/nics/), and is Polder \
             allowed to (CAP_NET_ADMIN and CAP_NET_RAW)?",
        ),
        _ if refused => f.write_str(
            "; does its driver take the arguments behind the name (https://doc.dpdk.org/guides/nics/)?",
        ),
        _ => f.write_str(
            "; no driver takes it: is the name right, such as net_af_packet0, and the driver's package installed \
             (apt-cache search librte-net)?",
        ),
    }
}

fn parenthesis(f: &mut fmt::Formatter<'_>, said: &str) -> fmt::Result {
    if said.is_empty() {
        Ok(())
    } else {
        write!(f, " ({said})")
    }
}

impl Error for PortError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(device: &str, errno: i32, said: &str) -> String {
        let (device, said, errno) = (device.to_owned(), said.to_owned(), Errno(errno));
        PortError::Probe {
            device,
            errno,
            said,
        }
        .to_string()
    }

    const ATTACH: &str = "EAL: Driver cannot attach the device (net_x0); EAL: Failed to attach device on primary process";

    #[test]
    fn a_driver_that_refuses_is_told_from_one_that_is_missing() {
        let said = format!("memif_set_role(): Unknown role: foo.; {ATTACH}");
        let text = probe("net_memif0,role=foo", libc::EINVAL, &said);
        assert!(
            text.contains("(memif_set_role(): Unknown role: foo.)") && !text.contains("EAL"),
            "{text}"
        );
        assert!(
            text.contains("arguments behind the name") && !text.contains("CAP_NET_RAW"),
            "{text}"
        );
        let text = probe("net_null0,bogus=1", libc::EPERM, ATTACH);
        assert!(
            text.contains("arguments behind the name") && text.contains("CAP_NET_RAW"),
            "{text}"
        );
        let said = "EAL: failed to parse device \"net_foo0\"";
        let text = probe("net_foo0", libc::EFAULT, said);
        assert!(
            text.contains(said) && text.contains("no driver takes it"),
            "{text}"
        );
    }
}
