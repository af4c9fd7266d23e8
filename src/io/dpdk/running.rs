//! A port inside DPDK, from probing to removal: every control call on a device is in this file.
//!
//! Owns the device. Knows no worker. Invariants: a `Running` exists from the moment DPDK has the port, and its drop
//! stops and closes it and removes a virtual device, so a port that fails half way leaves nothing behind; queues hold
//! it, so it never stops under a worker. Callers hold the control lock, except in `drop`, which takes it.

use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use dpdk_sys as sys;

use super::device::Device;
use super::eal::Eal;
use super::errno::Errno;
use super::mbuf::Mbuf;
use super::pool::Pool;
use super::port::{Link, PortConfig, PortStats};
use super::port_error::PortError;
use crate::io::BURST;
use crate::net::Mac;

/// The key's bytes where the device does not say how many it has.
const COMMON_KEY_LEN: u8 = 40;
/// The driver whose close forgets the frames that wait in it.
const RING_DRIVER: &str = "net_ring";

/// Why DPDK did not do it, before the sentence is made.
#[derive(Debug)]
pub(super) enum Refusal {
    InUse,
    Probe(Errno),
    Mtu { wanted: u16, most: Option<u16> },
    Step(&'static str, Errno),
}

impl Refusal {
    pub(super) fn into_error(self, device: &str, said: &str) -> PortError {
        let (device, said) = (device.to_owned(), said.to_owned());
        match self {
            Self::InUse => PortError::InUse { device },
            Self::Probe(errno) => PortError::Probe {
                device,
                errno,
                said,
            },
            Self::Mtu { wanted, most } => PortError::Mtu {
                device,
                wanted,
                most,
            },
            Self::Step(step, errno) => PortError::Setup {
                device,
                step,
                errno,
                said,
            },
        }
    }
}

/// Names the step in the error of a DPDK call.
fn step(step: &'static str, result: i32) -> Result<(), Refusal> {
    Errno::check(result).map_err(|errno| Refusal::Step(step, errno))
}

/// As `step`, but the device may lack the ability: `false` then.
fn ability(name: &'static str, result: i32) -> Result<bool, Refusal> {
    match Errno::check(result) {
        Ok(()) => Ok(true),
        Err(Errno::NOT_SUPPORTED) => Ok(false),
        Err(errno) => Err(Refusal::Step(name, errno)),
    }
}

/// Finds the port of a device, making the device known to DPDK where it is not yet; puts it on the list of open ones.
pub(super) fn probe(device: &Device, open: &mut Vec<u16>) -> Result<u16, Refusal> {
    let name = device.port_name();
    let id = match port_by_name(&name) {
        Some(id) => id,
        None => {
            let argument = device.probe_argument();
            // SAFETY: EAL is running; the string is NUL-terminated and copied.
            let result = unsafe { sys::rte_dev_probe(argument.as_ptr()) };
            Errno::check(result).map_err(Refusal::Probe)?;
            port_by_name(&name).ok_or(Refusal::Probe(Errno(libc::ENODEV)))?
        }
    };
    if open.contains(&id) {
        return Err(Refusal::InUse);
    }
    open.push(id);
    Ok(id)
}

fn port_by_name(name: &CStr) -> Option<u16> {
    let mut id = 0;
    // SAFETY: EAL is running; both pointers are good for the call.
    let result = unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
    (result == 0).then_some(id)
}

/// The port as its queues hold it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) id: u16,
    pub(super) device: String,
    pub(super) driver: String,
    pub(super) is_virtual: bool,
    pub(super) rx_queues: u16,
    pub(super) tx_queues: u16,
    pub(super) mtu: u16,
    pub(super) rss: bool,
    pub(super) promiscuous: bool,
    started: bool,
    /// Frames that fit no buffer, one cell per receive queue; the queue's owner is the only writer.
    unfit: Vec<CachePadded<AtomicU64>>,
    drained: u64,
    // The drop of `Running` gives the driver's buffers back, so the pool goes after it, and EAL after the pool.
    pub(super) pool: Pool,
    pub(super) eal: Eal,
}

impl Running {
    /// Takes charge of a port that `probe` found.
    pub(super) fn new(eal: &Eal, pool: &Pool, id: u16, found: &Device, device: &str) -> Self {
        Self {
            id,
            device: device.to_owned(),
            driver: String::new(),
            is_virtual: found.is_virtual(),
            rx_queues: 0,
            tx_queues: 0,
            mtu: 0,
            rss: false,
            promiscuous: false,
            started: false,
            unfit: Vec::new(),
            drained: 0,
            pool: pool.clone(),
            eal: eal.clone(),
        }
    }

    /// Configures by ability and starts.
    pub(super) fn set_up(&mut self, config: &PortConfig) -> Result<(), Refusal> {
        let info = self.info()?;
        if !info.driver_name.is_null() {
            // SAFETY: a driver's name is a string constant of its plugin, which stays loaded.
            let name = unsafe { CStr::from_ptr(info.driver_name) };
            self.driver = name.to_string_lossy().into_owned();
        }
        self.configure_queues(config, &info)?;
        self.set_mtu(config.mtu)?;
        self.set_up_queues(config.descriptors)?;
        let other_mac = self.set_mac(config.mac)?;
        self.start()?;
        if config.promiscuous || other_mac {
            // SAFETY: the port exists.
            let result = unsafe { sys::rte_eth_promiscuous_enable(self.id) };
            self.promiscuous = ability("receive frames for other addresses", result)?;
        }
        // SAFETY: the port exists.
        let result = unsafe { sys::rte_eth_allmulticast_enable(self.id) };
        ability("receive all multicast", result)?;
        Ok(())
    }

    fn info(&self) -> Result<sys::rte_eth_dev_info, Refusal> {
        let mut info = sys::rte_eth_dev_info::default();
        // SAFETY: the port exists and the structure is DPDK's own.
        let result = unsafe { sys::rte_eth_dev_info_get(self.id, &raw mut info) };
        step("tell its abilities", result)?;
        Ok(info)
    }

    /// Asks for a queue pair per worker, as far as the device says it has them, and for one pair if it refuses.
    fn configure_queues(
        &mut self,
        config: &PortConfig,
        info: &sys::rte_eth_dev_info,
    ) -> Result<(), Refusal> {
        let wanted = config.queues.max(1);
        let (rx, tx) = (
            wanted.min(info.max_rx_queues),
            wanted.min(info.max_tx_queues),
        );
        let mut result = self.configure(rx, tx, config, info);
        if result.is_err() && rx.max(tx) > 1 {
            result = self.configure(rx.min(1), tx.min(1), config, info);
        }
        result
    }

    fn configure(
        &mut self,
        rx: u16,
        tx: u16,
        config: &PortConfig,
        info: &sys::rte_eth_dev_info,
    ) -> Result<(), Refusal> {
        let mut wish = sys::rte_eth_conf::default();
        let mut key = config.rss_key;
        let fields = info.flow_type_rss_offloads
            & (sys::POLDER_RSS_IP | sys::POLDER_RSS_TCP | sys::POLDER_RSS_UDP);
        let rss = rx > 1 && fields != 0;
        if rss {
            wish.rxmode.mq_mode = sys::POLDER_MQ_RX_RSS;
            let hash = &mut wish.rx_adv_conf.rss_conf;
            let own_len = if info.hash_key_size == 0 {
                COMMON_KEY_LEN
            } else {
                info.hash_key_size
            };
            // A longer key than ours would be read past its end: the device keeps its own then.
            if usize::from(own_len) <= key.len() {
                hash.rss_key = key.as_mut_ptr();
                hash.rss_key_len = own_len;
            }
            hash.rss_hf = fields;
        }
        // SAFETY: the structure is DPDK's own and copied; the key outlives the call, which copies it into the device.
        let result = unsafe { sys::rte_eth_dev_configure(self.id, rx, tx, &raw const wish) };
        step("have its queues configured", result)?;
        (self.rx_queues, self.tx_queues, self.rss) = (rx, tx, rss);
        Ok(())
    }

    fn set_mtu(&mut self, wanted: Option<u16>) -> Result<(), Refusal> {
        // SAFETY: the port exists and the pointer is good for the call.
        let result = unsafe { sys::rte_eth_dev_get_mtu(self.id, &raw mut self.mtu) };
        step("tell its MTU", result)?;
        let Some(wanted) = wanted.filter(|&wanted| wanted != self.mtu) else {
            return Ok(());
        };
        if wanted > self.pool.largest_mtu() {
            return Err(Refusal::Mtu {
                wanted,
                most: Some(self.pool.largest_mtu()),
            });
        }
        // SAFETY: the port exists.
        let result = unsafe { sys::rte_eth_dev_set_mtu(self.id, wanted) };
        match Errno::check(result) {
            // A device without the notion carries what fits a buffer.
            Ok(()) | Err(Errno::NOT_SUPPORTED) => {
                self.mtu = wanted;
                Ok(())
            }
            Err(_) => Err(Refusal::Mtu {
                wanted,
                most: self.most_mtu(),
            }),
        }
    }

    fn most_mtu(&self) -> Option<u16> {
        self.info()
            .ok()
            .map(|info| info.max_mtu)
            .filter(|&most| most != 0 && most != u16::MAX)
    }

    fn set_up_queues(&mut self, descriptors: u16) -> Result<(), Refusal> {
        let (mut rx_size, mut tx_size) = (descriptors, descriptors);
        // SAFETY: the port exists and both pointers are good for the call.
        let result = unsafe {
            sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.id, &raw mut rx_size, &raw mut tx_size)
        };
        step("tell its numbers of descriptors", result)?;
        // SAFETY: the port exists. Its result is a NUMA node, or -1 for any, which means the same unsigned.
        let socket = unsafe { sys::rte_eth_dev_socket_id(self.id) } as u32;
        for queue in 0..self.rx_queues {
            let pool = self.pool.as_ptr();
            // SAFETY: the queue was configured; null means the driver's own settings; the pool outlives the port,
            // which holds a handle of it.
            let result = unsafe {
                sys::rte_eth_rx_queue_setup(self.id, queue, rx_size, socket, ptr::null(), pool)
            };
            step("have its receive queues set up", result)?;
        }
        for queue in 0..self.tx_queues {
            // SAFETY: the queue was configured; null means the driver's own settings.
            let result = unsafe {
                sys::rte_eth_tx_queue_setup(self.id, queue, tx_size, socket, ptr::null())
            };
            step("have its transmit queues set up", result)?;
        }
        self.unfit
            .resize_with(usize::from(self.rx_queues), CachePadded::default);
        Ok(())
    }

    /// Gives the device an address where one is configured. `true` when it keeps another, and must hence be
    /// promiscuous.
    fn set_mac(&self, wanted: Option<Mac>) -> Result<bool, Refusal> {
        let Some(wanted) = wanted.filter(|&wanted| wanted != self.mac()) else {
            return Ok(false);
        };
        let mut address = sys::rte_ether_addr {
            addr_bytes: wanted.0,
        };
        // SAFETY: the port exists and the pointer is good for the call.
        let result = unsafe { sys::rte_eth_dev_default_mac_addr_set(self.id, &raw mut address) };
        Ok(Errno::check(result).is_err())
    }

    fn start(&mut self) -> Result<(), Refusal> {
        // SAFETY: the port exists, and all of its queues were set up.
        let result = unsafe { sys::rte_eth_dev_start(self.id) };
        step("be started", result)?;
        self.started = true;
        Ok(())
    }

    /// The address that the device has.
    pub(super) fn mac(&self) -> Mac {
        let mut address = sys::rte_ether_addr::default();
        // SAFETY: the port exists and the pointer is good for the call. On error the address stays zero.
        unsafe { sys::rte_eth_macaddr_get(self.id, &raw mut address) };
        Mac(address.addr_bytes)
    }

    /// The state of the link; down when the device does not say.
    pub(super) fn link(&self) -> Link {
        let mut link = sys::polder_link::default();
        // SAFETY: the port exists and the pointer is good for the call. On error the link stays down.
        unsafe { sys::polder_link_get(self.id, &raw mut link) };
        Link {
            up: link.up != 0,
            speed_mbps: link.speed_mbps,
            full_duplex: link.full_duplex != 0,
        }
    }

    /// The counters now.
    pub(super) fn stats(&self) -> PortStats {
        let mut stats = sys::rte_eth_stats::default();
        // SAFETY: the port exists and the pointer is good for the call. On error all counters stay zero.
        unsafe { sys::rte_eth_stats_get(self.id, &raw mut stats) };
        PortStats {
            rx_packets: stats.ipackets,
            rx_bytes: stats.ibytes,
            tx_packets: stats.opackets,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            tx_errors: stats.oerrors,
            rx_no_buffer: stats.rx_nombuf,
            rx_unfit: self
                .unfit
                .iter()
                .map(|cell| cell.load(Ordering::Relaxed))
                .sum(),
            rx_drained: self.drained,
        }
    }

    /// Counts a frame that its queue's owner, who calls this, could not keep.
    pub(super) fn count_unfit(&self, queue: u16) {
        let cell = &self.unfit[usize::from(queue)];
        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Stops the port, and before that frees what waits in a ring, which its driver would forget. Done once.
    pub(super) fn drain_and_stop(&mut self) {
        if !std::mem::take(&mut self.started) {
            return;
        }
        if self.driver == RING_DRIVER {
            self.drained = (0..self.rx_queues).map(|queue| self.drain(queue)).sum();
        }
        // SAFETY: the port exists, and no queue is left that could be polled.
        unsafe { sys::rte_eth_dev_stop(self.id) };
    }

    /// Frees the frames that wait in a receive queue; at most as many as there are buffers.
    fn drain(&self, queue: u16) -> u64 {
        let mut drained = 0;
        while drained < u64::from(self.pool.size()) {
            let mut raw = [ptr::null_mut(); BURST];
            // SAFETY: the port runs, the array has room for a burst, and no `DpdkQueue` of the port is left.
            let came =
                unsafe { sys::polder_rx_burst(self.id, queue, raw.as_mut_ptr(), BURST as u16) };
            if came == 0 {
                break;
            }
            for frame in &raw[..usize::from(came)] {
                // SAFETY: the driver handed the frame to us, and it is dropped here at once.
                drop(unsafe { Mbuf::from_raw(*frame) });
            }
            drained += u64::from(came);
        }
        drained
    }

    /// Closes the port, and removes a virtual device from DPDK. What fails now has no further remedy.
    fn close(&mut self) {
        // The device is asked for before the port, which knows it, is gone.
        let device = self.info().map_or(ptr::null_mut(), |info| info.device);
        // SAFETY: the port exists and is stopped.
        unsafe { sys::rte_eth_dev_close(self.id) };
        if self.is_virtual && !device.is_null() {
            // SAFETY: DPDK made the device when it probed it and removes it here only; no port uses it any more.
            unsafe { sys::rte_dev_remove(device) };
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let eal = self.eal.clone();
        eal.control(|open| {
            self.drain_and_stop();
            eal.settle();
            self.close();
            open.retain(|&id| id != self.id);
        });
    }
}
