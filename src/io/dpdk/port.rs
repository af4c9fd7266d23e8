//! A port as the management core sees it: found, configured by what it can do, started.
//!
//! Owns the queues until workers take them. Knows nothing of workers or services. Invariant: every control operation
//! holds EAL's control lock, so a port may be asked from any thread.

use std::sync::Arc;

use super::device::Device;
use super::eal::Eal;
use super::pool::Pool;
use super::port_error::PortError;
use super::queue::DpdkQueue;
use super::running::{Running, probe};
use crate::net::Mac;

/// Bytes of an RSS key as given; a device takes as many from the front as it has.
pub const RSS_KEY_LEN: usize = 52;

/// The RSS key by which both directions of a flow hash alike: one 16-bit value, repeated.
pub const SYMMETRIC_RSS_KEY: [u8; RSS_KEY_LEN] = {
    let mut key = [0x6d; RSS_KEY_LEN];
    let mut at = 1;
    while at < RSS_KEY_LEN {
        key[at] = 0x5a;
        at += 2;
    }
    key
};

/// What is asked of a port. The port tells what it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Queue pairs wanted, one per worker. At least 1.
    pub queues: u16,
    /// Descriptors of each queue; rounded to what the device can.
    pub descriptors: u16,
    /// Largest IP packet in bytes, or the device's own.
    pub mtu: Option<u16>,
    /// The port's address, or the device's own.
    pub mac: Option<Mac>,
    /// Receive frames for any address.
    pub promiscuous: bool,
    /// Hash key for the spreading over receive queues.
    pub rss_key: [u8; RSS_KEY_LEN],
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            queues: 1,
            descriptors: 1024,
            mtu: None,
            mac: None,
            promiscuous: false,
            rss_key: SYMMETRIC_RSS_KEY,
        }
    }
}

/// State of the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// There is carrier.
    pub up: bool,
    /// In Mbit/s, 0 where unknown. What a virtual device says is invented.
    pub speed_mbps: u32,
    /// Both directions at once.
    pub full_duplex: bool,
}

/// Counters of a port since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames transmitted.
    pub tx_packets: u64,
    /// Bytes transmitted.
    pub tx_bytes: u64,
    /// Frames lost because no receive descriptor was free: the workers were too slow.
    pub rx_missed: u64,
    /// Frames that were received broken.
    pub rx_errors: u64,
    /// Frames that could not be transmitted.
    pub tx_errors: u64,
    /// Receptions that failed for want of a buffer.
    pub rx_no_buffer: u64,
    /// Received frames (counted in `rx_packets`) that were freed because they do not fit one buffer.
    pub rx_unfit: u64,
    /// Received frames (counted in `rx_packets`) that were freed while the port closed.
    pub rx_drained: u64,
}

/// An open, started port. Its queues go to the workers ([`Port::queue`]).
///
/// Dropping it together with all of its queues stops the port and removes a virtual device.
#[derive(Debug)]
pub struct Port {
    running: Arc<Running>,
    queues: Vec<Option<DpdkQueue>>,
    remarks: String,
}

impl Port {
    /// Whether `device` names a PCI device rather than a virtual one.
    #[must_use]
    pub fn is_pci_device(device: &str) -> bool {
        super::device::pci_address(device).is_some()
    }

    /// Finds the device, sets it up by its abilities and starts it. Frames are received into buffers of `pool`.
    ///
    /// `device` is a PCI address, which [`super::EalConfig::pci`] must have named, or a virtual device with its
    /// arguments, which is made here.
    ///
    /// # Errors
    /// Every [`PortError`] but `QueuesHeld`. Nothing is left behind then: no interface, no open device.
    pub fn open(
        eal: &Eal,
        pool: &Pool,
        device: &str,
        config: &PortConfig,
    ) -> Result<Self, PortError> {
        let found = Device::parse(device)?;
        found.check()?;
        if let Some(mac) = config
            .mac
            .filter(|mac| mac.is_group() || *mac == Mac::default())
        {
            return Err(PortError::Mac {
                device: device.to_owned(),
                mac,
            });
        }
        let (id, probed) = eal.control(|ports| probe(&found, ports));
        let id = id.map_err(|refusal| refusal.into_error(device, &probed))?;
        let mut running = Running::new(eal, pool, id, &found, device);
        let (set_up, said) = eal.control(|_| running.set_up(config));
        set_up.map_err(|refusal| refusal.into_error(device, &said))?;
        Ok(Self::with_queues(
            running,
            [probed, said].join(" ").trim().to_owned(),
        ))
    }

    fn with_queues(running: Running, remarks: String) -> Self {
        let running = Arc::new(running);
        let (rx, tx) = (running.rx_queues, running.tx_queues);
        let queues = (0..rx.max(tx))
            .map(|i| Some(DpdkQueue::new(Arc::clone(&running), i, i < rx, i < tx)))
            .collect();
        Self {
            running,
            queues,
            remarks,
        }
    }

    /// Hands out queue pair `index`, once. `None` when the device has no such pair or somebody has it.
    ///
    /// There are as many pairs as the larger of [`Port::rx_queues`] and [`Port::tx_queues`].
    #[must_use]
    pub fn queue(&mut self, index: u16) -> Option<DpdkQueue> {
        self.queues.get_mut(usize::from(index))?.take()
    }

    /// Receive queues that the device really has, at most those wanted.
    #[must_use]
    pub fn rx_queues(&self) -> u16 {
        self.running.rx_queues
    }

    /// Transmit queues that the device really has, at most those wanted.
    #[must_use]
    pub fn tx_queues(&self) -> u16 {
        self.running.tx_queues
    }

    /// DPDK's number of the port.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.running.id
    }

    /// The device string that it was opened by.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.running.device
    }

    /// The name of DPDK's driver, such as `net_ice`.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.running.driver
    }

    /// Whether the device is software.
    #[must_use]
    pub fn is_virtual(&self) -> bool {
        self.running.is_virtual
    }

    /// The largest IP packet that goes out, in bytes.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.running.mtu
    }

    /// Whether the device spreads flows over its receive queues by the key of the configuration. Some virtual devices
    /// spread by a hash of their own instead; either way software must check whose a frame is.
    #[must_use]
    pub fn rss(&self) -> bool {
        self.running.rss
    }

    /// Whether frames for other addresses come too.
    #[must_use]
    pub fn promiscuous(&self) -> bool {
        self.running.promiscuous
    }

    /// What DPDK complained of while the port opened all the same. Mostly empty.
    #[must_use]
    pub fn remarks(&self) -> &str {
        &self.remarks
    }

    /// The address that the device has now.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.running.eal.control(|_| self.running.mac()).0
    }

    /// The state of the link now.
    #[must_use]
    pub fn link(&self) -> Link {
        self.running.eal.control(|_| self.running.link()).0
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> PortStats {
        self.running.eal.control(|_| self.running.stats()).0
    }

    /// Stops and closes the port and returns its last counters.
    ///
    /// # Errors
    /// `QueuesHeld`, when workers have queues still; the port then closes with the last of them.
    pub fn close(self) -> Result<PortStats, PortError> {
        drop(self.queues);
        let mut running = Arc::try_unwrap(self.running).map_err(|held| PortError::QueuesHeld {
            device: held.device.clone(),
            queues: Arc::strong_count(&held) - 1,
        })?;
        let eal = running.eal.clone();
        let (stats, _) = eal.control(|_| {
            running.drain_and_stop();
            running.stats()
        });
        Ok(stats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_symmetric_key_is_one_value_repeated() {
        assert!(SYMMETRIC_RSS_KEY.chunks(2).all(|pair| pair == [0x6d, 0x5a]));
    }
}
