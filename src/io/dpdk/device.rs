//! What a `device:` of the configuration names, and whether the host has it.
//!
//! Pure but for a few look-ups on the host. Knows nothing of EAL: a device that is missing is refused with a sentence
//! before DPDK sees it, since DPDK would say less.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use super::port_error::PortError;

/// A device string that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// A PCI function, in the long form `0000:3b:00.0`.
    Pci(String),
    /// A DPDK virtual device with its arguments.
    Virtual(String),
}

impl Device {
    /// Understands a PCI address (the domain may be left out) or `NAME[,KEY=VALUE…]`.
    pub(super) fn parse(text: &str) -> Result<Self, PortError> {
        if let Some(address) = pci_address(text) {
            return Ok(Self::Pci(address));
        }
        let name = text.split(',').next().unwrap_or_default();
        let well_formed = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && !text.contains('\0');
        if well_formed {
            Ok(Self::Virtual(text.to_owned()))
        } else {
            Err(PortError::Malformed {
                device: text.to_owned(),
            })
        }
    }

    /// What EAL is asked to probe.
    pub(super) fn probe_argument(&self) -> CString {
        let (Self::Pci(text) | Self::Virtual(text)) = self;
        CString::new(text.as_str()).expect("`parse` refuses NUL")
    }

    /// The name that the device's first port has.
    pub(super) fn port_name(&self) -> CString {
        let (Self::Pci(text) | Self::Virtual(text)) = self;
        let name = text.split(',').next().unwrap_or_default();
        CString::new(name).expect("`parse` refuses NUL")
    }

    pub(super) fn is_virtual(&self) -> bool {
        matches!(self, Self::Virtual(_))
    }

    /// Refuses a device whose interface, file or PCI function is not there.
    pub(super) fn check(&self) -> Result<(), PortError> {
        match self {
            Self::Pci(address) => check_pci(Path::new("/sys/bus/pci/devices"), address),
            Self::Virtual(text) => check_virtual(text),
        }
    }
}

/// The long form of a PCI address, or `None` when the text is none.
pub(super) fn pci_address(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let (domain, [bus, slot, function]) = match *parts.as_slice() {
        [bus, slot, function] => ("0000", [bus, slot, function]),
        [domain, bus, slot, function] => (domain, [bus, slot, function]),
        _ => return None,
    };
    let is_hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let long = format!("{domain}:{bus}:{slot}.{function}").to_ascii_lowercase();
    let fits = is_hex(domain, 4) && is_hex(bus, 2) && is_hex(slot, 2) && is_hex(function, 1);
    (fits && (text.eq_ignore_ascii_case(&long) || long[5..].eq_ignore_ascii_case(text)))
        .then_some(long)
}

fn check_pci(devices: &Path, address: &str) -> Result<(), PortError> {
    if devices.join(address).exists() {
        Ok(())
    } else {
        Err(PortError::NoPciDevice {
            address: address.to_owned(),
        })
    }
}

fn check_virtual(text: &str) -> Result<(), PortError> {
    for (key, value) in text.split(',').skip(1).filter_map(|a| a.split_once('=')) {
        // A TAP makes its `iface`, of vhost it is a socket; every other driver attaches to one that exists.
        let attaches = match key {
            "iface" => !["net_tap", "net_tun", "net_vhost"]
                .iter()
                .any(|driver| text.starts_with(driver)),
            "remote" | "rx_iface" | "rx_iface_in" | "tx_iface" => true,
            _ => false,
        };
        if attaches && !interface_exists(value) {
            let (device, interface) = (text.to_owned(), value.to_owned());
            return Err(PortError::NoInterface { device, interface });
        }
        if key == "rx_pcap" && !Path::new(value).is_file() {
            let (device, file) = (text.to_owned(), PathBuf::from(value));
            return Err(PortError::NoFile { device, file });
        }
        let makes = match key {
            "tx_pcap" => true,
            // Memif's socket is no file unless this is said.
            "socket" => text.starts_with("net_memif") && text.contains(",socket-abstract=no"),
            "iface" => text.starts_with("net_vhost"),
            _ => false,
        };
        if makes && let Some(folder) = missing_folder(Path::new(value)) {
            let device = text.to_owned();
            return Err(PortError::NoFolder { device, folder });
        }
        if counts(text, key) && !is_count(value) {
            return Err(PortError::Argument {
                device: text.to_owned(),
                key: key.to_owned(),
                value: value.to_owned(),
            });
        }
    }
    Ok(())
}

/// The folder of a file that is to be made, if it is not there.
fn missing_folder(file: &Path) -> Option<PathBuf> {
    let folder = file.parent().filter(|f| !f.as_os_str().is_empty())?;
    (!folder.is_dir()).then(|| folder.to_owned())
}

/// Whether `key` is a count that the driver would take for 0 where it is none.
fn counts(device: &str, key: &str) -> bool {
    const COUNTS: &[(&str, &[&str])] = &[
        ("net_null", &["size"]),
        ("net_memif", &["bsize"]),
        (
            "net_af_packet",
            &["qpairs", "blocksz", "framesz", "framecnt"],
        ),
    ];
    COUNTS
        .iter()
        .any(|(driver, keys)| device.starts_with(driver) && keys.contains(&key))
}

/// A positive number, decimal or as `0x40`, which these drivers also take.
fn is_count(value: &str) -> bool {
    let number = match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => value.parse(),
    };
    number.is_ok_and(|n| n > 0)
}

/// Whether the calling thread's network namespace has the interface. (/sys may show another one's.)
fn interface_exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else {
        return false;
    };
    // SAFETY: the name is NUL-terminated.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_known_in_both_forms() {
        for (text, want) in [
            ("0000:3b:00.0", Some("0000:3b:00.0")),
            ("3b:00.1", Some("0000:3b:00.1")),
            ("0001:3B:1f.7", Some("0001:3b:1f.7")),
            ("3b:00", None),
            ("3b.00:0", None),
            ("net_null0", None),
            ("", None),
            ("0000:3b:00.00", None),
        ] {
            assert_eq!(pci_address(text).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn a_virtual_device_keeps_its_arguments() {
        let device = Device::parse("net_tap0,iface=x").expect("a vdev");
        assert_eq!(device.probe_argument().as_c_str(), c"net_tap0,iface=x");
        assert_eq!(device.port_name().as_c_str(), c"net_tap0");
        assert!(device.is_virtual());
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in [
            "",
            "Eth0",
            "eth 0",
            ",iface=x",
            "net_tap0\0",
            "/dev/net/tun",
        ] {
            assert!(
                matches!(Device::parse(text), Err(PortError::Malformed { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let device = Device::parse("net_af_packet0,iface=nope0").expect("a vdev");
        let error = device.check().expect_err("no such interface").to_string();
        assert!(
            error.contains("nope0") && error.contains("ip link"),
            "{error}"
        );
    }

    #[test]
    fn a_tap_makes_its_interface() {
        assert_eq!(check_virtual("net_tap0,iface=nope0"), Ok(()));
    }

    #[test]
    fn a_capture_that_is_not_there_is_named() {
        let error = check_virtual("net_pcap0,rx_pcap=/nope.pcap").expect_err("no such file");
        assert!(error.to_string().contains("/nope.pcap"), "{error}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        for text in [
            "net_memif0,socket=/nope/m.sock,socket-abstract=no",
            "net_vhost0,iface=/nope/v.sock",
            "net_pcap0,tx_pcap=/nope/o.pcap",
        ] {
            let error = check_virtual(text).expect_err(text).to_string();
            assert!(error.contains("no folder /nope;"), "{error}");
        }
        let abstract_socket = "net_memif0,socket=/nope/m.sock";
        assert_eq!(check_virtual(abstract_socket), Ok(()));
        assert_eq!(check_virtual("net_pcap0,tx_pcap=here.pcap"), Ok(()));
    }

    #[test]
    fn a_count_that_is_none_is_refused() {
        for value in ["bogus", "", "0", "-1", "64x"] {
            let error = check_virtual(&format!("net_null0,size={value}"));
            let error = error.expect_err(value).to_string();
            assert!(error.contains("`size` must be a whole number"), "{error}");
        }
        for text in [
            "net_null0,size=64",
            "net_null0,size=0x40",
            "net_ring0,size=x",
        ] {
            assert_eq!(check_virtual(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_pci_function_that_is_not_there_is_named() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(root.path().join("0000:3b:00.0")).expect("writable");
        assert_eq!(check_pci(root.path(), "0000:3b:00.0"), Ok(()));
        let error = check_pci(root.path(), "0000:3b:00.1").expect_err("not there");
        assert!(error.to_string().contains("dpdk-devbind.py"), "{error}");
    }
}
