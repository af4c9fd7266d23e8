//! Which settings of a service exclude each other, for all who ask: the rules of the file, and changes at run time.
//!
//! Knows neither the file nor the running configuration: both describe a service by a [`Mix`]. Invariant: what can be
//! set at run time can also be written to the file.

use super::model::Protocol;

/// What of a service decides which of its settings go together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mix {
    /// Its protocol; `None` where it has none, or none that is known.
    pub protocol: Option<Protocol>,
    /// It has a mark in place of protocol, address and port.
    pub mark: bool,
    /// It has port 0.
    pub any_port: bool,
    /// `one_packet` is set.
    pub one_packet: bool,
    /// `new_connections_per_second` is set.
    pub limited: bool,
    /// One of its servers has `forwarding: masq`.
    pub masq: bool,
    /// It has `persistence`.
    pub persistence: bool,
    /// Its persistence has an engine.
    pub engine: bool,
    /// It has a `payload_key`.
    pub payload_key: bool,
    /// Its payload key is QUIC's connection ID.
    pub quic: bool,
}

/// A setting that does not go together with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clash {
    /// Its key in the file, `engine` within `persistence`.
    pub key: &'static str,
    /// Why not.
    pub why: &'static str,
    /// What to do about it in the file.
    pub instead: &'static str,
}

impl Mix {
    /// The settings that can't be as they are.
    pub fn clashes(&self) -> impl Iterator<Item = Clash> + use<> {
        let Self {
            protocol,
            mark,
            any_port,
            one_packet,
            limited,
            masq,
            persistence,
            engine,
            payload_key,
            quic,
        } = *self;
        let (tcp, sctp) = (
            protocol == Some(Protocol::Tcp),
            protocol == Some(Protocol::Sctp),
        );
        let rules = [
            (
                any_port && !persistence,
                "port",
                "port 0, which stands for every port, needs `persistence`, so that all ports of a client go to one \
                 server",
                "add `persistence: {}`, or give a port",
            ),
            (
                one_packet && limited,
                "new_connections_per_second",
                "`one_packet` makes no connections, so there is nothing that this could limit",
                "remove it",
            ),
            (
                one_packet && tcp,
                "one_packet",
                "`one_packet` is for UDP: the packets of a TCP connection can't go to several servers",
                "remove it",
            ),
            (
                one_packet && sctp,
                "one_packet",
                "`one_packet` is for UDP: the packets of an SCTP association can't go to several servers",
                "remove it",
            ),
            (
                one_packet && mark && masq,
                "one_packet",
                "`one_packet` leaves no connection behind by which replies of `masq` servers could get the virtual \
                 address back, and a mark has none",
                "use `forwarding: direct` or `tunnel`",
            ),
            (
                one_packet && quic,
                "one_packet",
                "the first packets of a QUIC connection name no server and follow their 5-tuple, of which \
                 `one_packet` remembers nothing",
                "remove it",
            ),
            (
                engine && sctp,
                "engine",
                "engines look into UDP packets: on SCTP the server is chosen at the INIT, before any payload",
                "remove it, and clients are kept by their address",
            ),
            (
                payload_key && tcp,
                "payload_key",
                "`payload_key` is for UDP: on TCP the server is chosen at the SYN, before any payload",
                "use `persistence`",
            ),
            (
                payload_key && sctp,
                "payload_key",
                "`payload_key` is for UDP: on SCTP the server is chosen at the INIT, before any payload",
                "use `persistence`",
            ),
            (
                payload_key && mark,
                "payload_key",
                "`payload_key` needs a UDP service with an address and a port: packets of a mark may be of any \
                 protocol",
                "use `persistence`",
            ),
            (
                payload_key && persistence && !(tcp || sctp || mark),
                "payload_key",
                "a service has either `persistence` or a `payload_key`: both decide which server a session stays on",
                "remove one of them",
            ),
        ];
        let clash = |(applies, key, why, instead): (bool, _, _, _)| {
            applies.then_some(Clash { key, why, instead })
        };
        rules.into_iter().filter_map(clash)
    }
}
