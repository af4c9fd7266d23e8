//! What is said to the kernel, and in what words it is refused: requests for netlink, sentences for the operator.

use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};

use super::addresses::host_len;
use super::resolver::Ask;
use crate::forward::defs::Prefix;

fn family_of(addr: IpAddr) -> AddressFamily {
    if addr.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

/// The request behind [`Ask`]: what `ip neigh replace ADDR dev IF use managed` sends. A kernel that does not know
/// the extended flag ignores it and resolves once.
pub(super) fn ask_message(index: u32, ask: Ask) -> NeighbourMessage {
    let mut m = NeighbourMessage::default();
    m.header.family = family_of(ask.hop.1);
    m.header.ifindex = index;
    m.header.flags = NeighbourFlags::Use;
    m.attributes
        .push(NeighbourAttribute::Destination(match ask.hop.1 {
            IpAddr::V4(a) => NeighbourAddress::Inet(a),
            IpAddr::V6(a) => NeighbourAddress::Inet6(a),
        }));
    if ask.keep {
        m.attributes
            .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    }
    m
}

pub(super) fn address_message(index: u32, prefix: Prefix) -> AddressMessage {
    let Prefix { addr, len } = prefix;
    let mut m = AddressMessage::default();
    m.header.family = family_of(addr);
    m.header.index = index;
    m.header.prefix_len = len;
    m.attributes.push(AddressAttribute::Address(addr));
    match addr {
        IpAddr::V4(a) => {
            m.attributes.push(AddressAttribute::Local(addr));
            if len < 31 {
                let host = u32::MAX.checked_shr(len.into()).unwrap_or(0);
                let broadcast = (a.to_bits() | host).into();
                m.attributes.push(AddressAttribute::Broadcast(broadcast));
            }
        }
        IpAddr::V6(_) => {
            // Real servers under direct routing have the virtual address, too; detection would find them.
            let mut flags = AddressFlags::Nodad;
            if len == host_len(prefix) {
                flags |= AddressFlags::Noprefixroute;
            }
            m.attributes.push(AddressAttribute::Flags(flags));
        }
    }
    m
}

/// The address of an interface, whatever it is the other end of.
pub(super) fn interface_address(message: &AddressMessage) -> Option<Prefix> {
    let (mut address, mut local) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(a) => address = Some(*a),
            AddressAttribute::Local(a) => local = Some(*a),
            _ => {}
        }
    }
    Some(Prefix {
        addr: local.or(address)?,
        len: message.header.prefix_len,
    })
}

pub(super) fn address_problem(name: &str, prefix: Prefix, add: bool, error: &io::Error) -> String {
    let Prefix { addr, len } = prefix;
    let what = if add { "put on" } else { "taken off" };
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM) => "; it needs CAP_NET_ADMIN: run as root or `setcap cap_net_admin+ep`",
        Some(libc::EACCES) if addr.is_ipv6() => {
            "; IPv6 is switched off on the interface: `sysctl -w net.ipv6.conf.default.disable_ipv6=0` and restart"
        }
        _ => "",
    };
    format!("{addr}/{len} can't be {what} {name}: {error}{remedy}")
}
