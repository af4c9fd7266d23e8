//! Sockets of state sync (specification §9.1): a group on an interface, or peers by their addresses.
//!
//! Owns what is set on a socket, and the sentences of what can't be. Knows no message.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::sys::Socket as Netlink;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::sync::settings::Channel;

/// Bytes that the kernel keeps for us in each direction: some hundred messages.
const BUFFER: usize = 4 << 20;

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Sending to the group or the peers, from a port of the kernel's choice.
    Send,
    /// Receiving on the group's port.
    Receive,
    /// Both on the group's port.
    Both,
}

/// A socket, and where its messages go.
#[derive(Debug)]
pub struct Link {
    /// The socket.
    pub socket: UdpSocket,
    /// The group, or the peers.
    pub targets: Vec<SocketAddr>,
    /// MTU of the interface, or the usual one where none is named.
    pub mtu: usize,
    /// The interface that is named, and its number.
    pub on: Option<(String, u32)>,
}

impl Link {
    /// Whether the interface is still the one that the socket was opened on. One that was removed and made again is not.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let same = |(name, index): &(String, u32)| index_of(name) == Ok(*index);
        self.on.as_ref().is_none_or(same)
    }
}

/// Opens a socket for the channel's port plus `offset`.
///
/// # Errors
/// A sentence that says what can't be had, and what to do.
pub fn open(channel: &Channel, offset: u16, what: Use) -> Result<Link, String> {
    let on = match &channel.interface {
        Some(name) => Some((name.as_str(), index_of(name)?)),
        None => None,
    };
    let shifted = |addr: &SocketAddr| {
        let mut addr = *addr;
        addr.set_port(addr.port().wrapping_add(offset));
        if let (SocketAddr::V6(v6), Some((_, index))) = (&mut addr, on) {
            *v6 = SocketAddrV6::new(*v6.ip(), v6.port(), 0, index);
        }
        addr
    };
    let group = shifted(&channel.group);
    let unicast = !channel.peers.is_empty();
    let targets = match unicast {
        true => channel.peers.iter().map(shifted).collect(),
        false => vec![group],
    };
    let set_up = || -> io::Result<Socket> {
        let domain = if channel.is_ipv4() {
            Domain::IPV4
        } else {
            Domain::IPV6
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // The kernel gives what it allows.
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        if !channel.is_ipv4() {
            socket.set_only_v6(true)?;
        }
        if what != Use::Send {
            socket.set_reuse_address(true)?;
        }
        if let Some((name, _)) = on {
            socket.bind_device(Some(name.as_bytes()))?;
        }
        if !unicast {
            multicast(&socket, channel, group, on, what)?;
        }
        socket.bind(&local(group, unicast, on, what).into())?;
        Ok(socket)
    };
    let failed = |e: io::Error| sentence(channel, group, &e);
    let socket = set_up().map_err(failed)?;
    let socket = UdpSocket::from_std(socket.into()).map_err(failed)?;
    let mtu = on.and_then(|(_, index)| mtu_of(index)).unwrap_or(1500);
    Ok(Link {
        socket,
        targets,
        mtu,
        on: on.map(|(name, index)| (name.to_owned(), index)),
    })
}

/// Where the socket is bound.
fn local(group: SocketAddr, unicast: bool, on: Option<(&str, u32)>, what: Use) -> SocketAddr {
    let any = match group {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    match what {
        // As the kernel's master does: the primary address of the interface.
        Use::Send => {
            let own = on.filter(|_| group.is_ipv4());
            let own = own.and_then(|(name, _)| primary(name));
            (own.map_or(any, IpAddr::from), 0).into()
        }
        // Answers come to the address of the interface, so nothing narrower will do.
        Use::Both => (any, group.port()).into(),
        Use::Receive if unicast => (any, group.port()).into(),
        Use::Receive => group,
    }
}

fn multicast(
    socket: &Socket,
    channel: &Channel,
    group: SocketAddr,
    on: Option<(&str, u32)>,
    what: Use,
) -> io::Result<()> {
    let index = on.map_or(0, |(_, index)| index);
    match group.ip() {
        IpAddr::V4(group) => {
            if what != Use::Receive {
                socket.set_multicast_loop_v4(false)?;
                socket.set_multicast_ttl_v4(u32::from(channel.ttl))?;
                if let Some(own) = on.and_then(|(name, _)| primary(name)) {
                    socket.set_multicast_if_v4(&own)?;
                }
            }
            if what != Use::Send {
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?;
            }
        }
        IpAddr::V6(group) => {
            if what != Use::Receive {
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_hops_v6(u32::from(channel.ttl))?;
                socket.set_multicast_if_v6(index)?;
            }
            if what != Use::Send {
                socket.join_multicast_v6(&group, index)?;
            }
        }
    }
    Ok(())
}

fn sentence(channel: &Channel, group: SocketAddr, e: &io::Error) -> String {
    let on = match &channel.interface {
        Some(name) => format!(" on interface `{name}`"),
        None => String::new(),
    };
    let hint = match e.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process has the port: choose another in `sync.group`"
        }
        io::ErrorKind::PermissionDenied => "; naming an interface needs CAP_NET_RAW",
        _ if e.raw_os_error() == Some(libc::ENODEV) && channel.interface.is_none() => {
            "; the kernel has no route to the group: name the `sync.interface`"
        }
        _ => "",
    };
    format!("no socket for {group}{on}: {e}{hint}")
}

/// The number of a kernel interface.
///
/// # Errors
/// A sentence: there is none of that name.
pub fn index_of(name: &str) -> Result<u32, String> {
    if_nametoindex(name).map_err(|_| {
        format!("there is no interface `{name}`; `ip link` shows those that there are")
    })
}

/// The first IPv4 address of an interface.
fn primary(name: &str) -> Option<Ipv4Addr> {
    let of = |a: nix::ifaddrs::InterfaceAddress| {
        let addr = a.address?;
        Some(addr.as_sockaddr_in()?.ip())
    };
    getifaddrs()
        .ok()?
        .filter(|a| a.interface_name == name)
        .find_map(of)
}

/// The MTU of the interface with this number, as the kernel says for the network namespace of this thread. /sys shows the
/// interfaces of the namespace that it was mounted in, which may be another.
fn mtu_of(index: u32) -> Option<usize> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
    if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::GetLink(link)) = &mut request.payload {
        link.header.index = index;
    }
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut netlink = Netlink::new(NETLINK_ROUTE).ok()?;
    netlink.bind_auto().ok()?;
    netlink
        .connect(&rtnetlink::sys::SocketAddr::new(0, 0))
        .ok()?;
    netlink.send(&bytes, 0).ok()?;
    // The kernel has answered by then.
    let (answer, _) = netlink.recv_from_full().ok()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).ok()?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = answer.payload else {
        return None;
    };
    let mtu = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::Mtu(mtu) => usize::try_from(*mtu).ok(),
        _ => None,
    };
    link.attributes.iter().find_map(mtu)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn the_mtu_is_that_of_the_threads_network_namespace() {
        let outside = index_of("lo").ok().and_then(mtu_of).expect("it has one");
        let inside = std::thread::spawn(|| {
            if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
                return Err(format!("no network namespace: {e}"));
            }
            let words = ["link", "set", "lo", "mtu", "4321"];
            match Command::new("ip").args(words).status() {
                Ok(status) if status.success() => {}
                other => return Err(format!("`ip link set`: {other:?}")),
            }
            Ok(index_of("lo").ok().and_then(mtu_of))
        });
        match inside.join().expect("no panic") {
            Ok(inside) => {
                assert_eq!(inside, Some(4321));
                assert_eq!(index_of("lo").ok().and_then(mtu_of), Some(outside));
            }
            Err(why) => eprintln!("SKIPPED: {why}"),
        }
    }

    #[test]
    fn an_interface_that_is_not_there_has_no_mtu() {
        assert_eq!(mtu_of(i32::MAX.unsigned_abs()), None);
    }
}
