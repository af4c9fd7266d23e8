//! A packet in its buffer, with what is known of it, as it goes through the director.

use super::ahead::Ahead;
use crate::net::packet::{proto, tcp_flags};
use crate::net::{Family, Ip, PacketBuf};
use crate::table::state::SctpEvent;

/// A packet in its buffer.
pub(super) struct Carried<'a, F: Family, B> {
    pub ip: &'a mut Ip<F>,
    pub buf: &'a mut B,
    pub known: Known<'a>,
}

impl<'a, F: Family, B: PacketBuf> Carried<'a, F, B> {
    pub fn new(ip: &'a mut Ip<F>, buf: &'a mut B) -> Self {
        Self {
            ip,
            buf,
            known: Known::Nothing,
        }
    }

    /// Whether the packet opens a connection: a SYN, or an INIT.
    #[inline]
    pub fn opens(&self) -> bool {
        match self.ip.flow.proto {
            proto::TCP => self.ip.tcp_flags & tcp_flags::SYN != 0,
            proto::SCTP => self.sctp_event() == Some(SctpEvent::Init),
            _ => false,
        }
    }

    /// Whether the packet ends a connection at once: a RST, or an ABORT.
    pub(super) fn aborts(&self) -> bool {
        match self.ip.flow.proto {
            proto::TCP => self.ip.tcp_flags & tcp_flags::RST != 0,
            proto::SCTP => self.sctp_event() == Some(SctpEvent::Abort),
            _ => false,
        }
    }

    /// The transport header and all that follows it, of a datagram in fragments.
    pub fn whole(&self) -> Option<&'a [u8]> {
        match self.known {
            Known::Whole(whole) => Some(whole),
            _ => None,
        }
    }

    /// What was found out ahead of the packet's turn.
    pub fn ahead(&self) -> Ahead {
        match self.known {
            Known::Ahead(ahead) => *ahead,
            _ => Ahead::default(),
        }
    }

    /// The payload of a UDP packet: as long as its length field says, if the packet has so much.
    pub fn payload(&self) -> &[u8] {
        let l4 = match self.whole() {
            Some(whole) => whole,
            None => &self.buf.data()[usize::from(self.ip.l4)..usize::from(self.ip.end)],
        };
        udp_payload(l4)
    }
}

/// What is known of a packet beside its frame.
#[derive(Clone, Copy)]
pub(super) enum Known<'a> {
    Nothing,
    /// Of the first fragment of a datagram: the transport header and all that follows it in the whole datagram.
    Whole(&'a [u8]),
    /// What was found out ahead of its turn.
    Ahead(&'a Ahead),
}

/// The payload of the UDP datagram in `l4`.
pub(super) fn udp_payload(l4: &[u8]) -> &[u8] {
    let [_, _, _, _, a, b, _, _, rest @ ..] = l4 else {
        return &[];
    };
    let len = usize::from(u16::from_be_bytes([*a, *b])).saturating_sub(8);
    rest.get(..len).unwrap_or(rest)
}
