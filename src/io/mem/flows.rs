//! Traffic for measurements: minimum UDP frames of many clients to one service.

use std::net::Ipv4Addr;

use super::Frames;
use crate::io::rng::SplitMix64;
use crate::net::Mac;

/// Client addresses start here; the range of benchmarks (RFC 2544).
const CLIENTS: u32 = 0xc612_0000;
/// Addresses in it.
const CLIENTS_COUNT: u32 = 1 << 17;
/// The first client port.
const PORT_FIRST: u16 = 1024;

/// Flows from distinct clients (address and port) to one service, one frame of 60 bytes each, in random order.
#[derive(Clone, Copy, Debug)]
pub struct UdpFlows {
    /// The sender's MAC address.
    pub source_mac: Mac,
    /// The port's MAC address.
    pub dest_mac: Mac,
    /// The service's address.
    pub virtual_addr: Ipv4Addr,
    /// The service's port.
    pub virtual_port: u16,
    /// How many flows.
    pub flows: u32,
    /// Decides the order.
    pub seed: u64,
}

impl UdpFlows {
    /// The frames. Each flow comes once, so that repeating them visits all flows before any comes again: the least
    /// favourable order for a cache.
    #[must_use]
    pub fn frames(&self) -> Frames {
        let mut order: Vec<u32> = (0..self.flows).collect();
        SplitMix64(self.seed).shuffle(&mut order);
        order.into_iter().map(|flow| self.frame(flow)).collect()
    }

    /// The frame of one flow.
    fn frame(&self, flow: u32) -> [u8; 60] {
        let client = (CLIENTS + flow % CLIENTS_COUNT).to_be_bytes();
        let above = u16::try_from(flow / CLIENTS_COUNT).expect("2^32 / 2^17 is below 2^16");
        let mut frame = [0; 60];
        frame[..6].copy_from_slice(&self.dest_mac.0);
        frame[6..12].copy_from_slice(&self.source_mac.0);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        // Version 4, 20 bytes of header, total length 46, no fragment, time to live 64, UDP.
        frame[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17]);
        frame[26..30].copy_from_slice(&client);
        frame[30..34].copy_from_slice(&self.virtual_addr.octets());
        frame[34..36].copy_from_slice(&PORT_FIRST.wrapping_add(above).to_be_bytes());
        frame[36..38].copy_from_slice(&self.virtual_port.to_be_bytes());
        frame[38..40].copy_from_slice(&26_u16.to_be_bytes());
        let ip = checksum(&frame[14..34], 0);
        frame[24..26].copy_from_slice(&ip.to_be_bytes());
        // The pseudo-header (RFC 768) is the addresses, the protocol and the length.
        let udp = match checksum(&frame[26..60], 17 + 26) {
            0 => 0xffff,
            sum => sum,
        };
        frame[40..42].copy_from_slice(&udp.to_be_bytes());
        frame
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes and a first summand. Frames are made once, so this
/// need not be fast.
fn checksum(bytes: &[u8], first: u32) -> u16 {
    let words = bytes
        .chunks_exact(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum = first + words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).expect("folded twice")
}
