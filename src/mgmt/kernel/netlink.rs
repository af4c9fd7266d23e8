//! The netlink sockets: requests and their answers on one, the kernel's announcements on the other.
//!
//! Knows how netlink is spoken, not what is said. Two sockets, because a flood of announcements that overruns its
//! buffer must not take an answer with it, and because the buffer of an own socket is a bound that a queue in the
//! process would not have.

use std::io;

use futures_util::StreamExt;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinHandle;

/// What is followed.
const GROUPS: [MulticastGroup; 4] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];
/// Receive buffer of the announcements, in bytes; the kernel may grant less (`net.core.rmem_max`).
const EVENT_BUFFER: usize = 4 << 20;
/// Room for one datagram of announcements; the kernel's are smaller.
pub(super) const DATAGRAM: usize = 64 << 10;
/// Bytes of a netlink message header.
const HEADER: usize = 16;

/// Both sockets.
pub(super) struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
    events: TokioSocket,
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").finish_non_exhaustive()
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Opens the sockets in the thread's network namespace, and subscribes.
    pub(super) fn open() -> io::Result<Self> {
        let events = subscribe()?;
        // Strict checking makes the kernel honour the filters of dumps; before Linux 4.20 there is none, and all is
        // dumped and filtered here.
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .or_else(|_| rtnetlink::new_connection())?;
        // Seen answers are told from a connection that broke.
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
            events,
        })
    }

    /// Subscribes anew: announcements that are still queued are forgotten. After an overrun they would otherwise be
    /// applied on top of what is newer.
    pub(super) fn resubscribe(&mut self) -> io::Result<()> {
        self.events = subscribe()?;
        Ok(())
    }

    /// Waits for announcements and puts a datagram of them into `datagram`. Dropping the future loses nothing.
    ///
    /// `false` when announcements were lost: what was read before is out of date.
    pub(super) async fn event(&self, datagram: &mut Vec<u8>) -> io::Result<bool> {
        datagram.clear();
        match self.events.recv_from(datagram).await {
            // Other processes may write to the socket; only the kernel is believed.
            Ok(from) => {
                if from.port_number() != 0 {
                    datagram.clear();
                }
                Ok(true)
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Calls `each` with every object that `request` lists. `false` when the list may be inconsistent, because it
    /// changed meanwhile.
    pub(super) async fn dump(
        &self,
        request: RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        let mut consistent = true;
        let mut answers = self.send(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        while let Some(answer) = answers.next().await {
            consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(m) => each(m),
                NetlinkPayload::Done(done) => return end_of_dump(done.code).map(|()| consistent),
                NetlinkPayload::Error(e) => {
                    return end_of_dump(e.raw_code()).map(|()| consistent);
                }
                _ => return Err(unexpected()),
            }
        }
        Err(broken())
    }

    /// The one object that `request` asks for.
    pub(super) async fn get(
        &self,
        request: RouteNetlinkMessage,
    ) -> io::Result<RouteNetlinkMessage> {
        let mut answers = self.send(request, NLM_F_REQUEST)?;
        match answers.next().await.ok_or_else(broken)?.payload {
            NetlinkPayload::InnerMessage(m) => Ok(m),
            NetlinkPayload::Error(e) => Err(e.to_io()),
            _ => Err(unexpected()),
        }
    }

    /// Has `request` done.
    pub(super) async fn change(&self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut answers = self.send(request, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        match answers.next().await.ok_or_else(broken)?.payload {
            NetlinkPayload::Error(e) if e.code.is_none() => Ok(()),
            NetlinkPayload::Error(e) => Err(e.to_io()),
            _ => Err(unexpected()),
        }
    }

    fn send(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<impl StreamExt<Item = NetlinkMessage<RouteNetlinkMessage>> + use<>> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        self.handle.clone().request(message).map_err(|_| broken())
    }
}

fn subscribe() -> io::Result<TokioSocket> {
    let groups = GROUPS
        .iter()
        .fold(0, |bits, group| bits | 1 << (*group as u32 - 1));
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    socket
        .socket_ref()
        .set_rx_buf_sz(i32::try_from(EVENT_BUFFER).unwrap_or(i32::MAX))?;
    Ok(socket)
}

/// A routing table that does not exist yet has no routes.
fn end_of_dump(code: i32) -> io::Result<()> {
    match code {
        0.. => Ok(()),
        code if code == -libc::ENOENT => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the netlink connection broke")
}

fn unexpected() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the kernel gave an answer of the wrong kind",
    )
}

/// The messages of a datagram with their types (`RTM_*`); `None` in place of the rest if it is cut or malformed.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Option<(u16, &[u8])>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let split = (|| {
            let length = u32::from_ne_bytes(*rest.first_chunk()?);
            let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
            let length = usize::try_from(length).ok().filter(|l| *l >= HEADER)?;
            let message = rest.get(..length)?;
            // Messages are aligned to four bytes; the padding of the last one may be missing.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, message))
        })();
        if split.is_none() {
            rest = &[];
        }
        Some(split)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, payload: usize) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload).expect("a short message");
        let mut m = length.to_ne_bytes().to_vec();
        m.extend(kind.to_ne_bytes());
        m.resize(HEADER + payload, 0);
        m
    }

    #[test]
    fn a_datagram_may_hold_several_messages_with_padding() {
        let mut datagram = message(28, 5);
        datagram.extend([0; 3]);
        datagram.extend(message(24, 1));
        let kinds: Vec<_> = messages(&datagram)
            .map(|m| m.map(|(k, m)| (k, m.len())))
            .collect();
        assert_eq!(kinds, [Some((28, 21)), Some((24, 17))]);
    }

    #[test]
    fn a_cut_message_is_reported_once() {
        let mut datagram = message(28, 4);
        datagram.extend(&message(24, 40)[..30]);
        let found: Vec<_> = messages(&datagram).map(|m| m.is_some()).collect();
        assert_eq!(found, [true, false]);
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER + 1);
        }
    }
}
