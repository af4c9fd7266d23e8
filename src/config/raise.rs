//! From what runs back to the model: the inverse of `lower`, for services that are changed at run time.
//!
//! What is asked for at run time goes through the file's own way: it is put into words, loaded beside the ports, routes
//! and marks that run, and judged by the same rules. Invariant: what was loaded, raised and loaded again is the same.

use serde_json::{Value, json};

use super::load::load_str;
use super::model::{
    self, EngineName, Forwarding, IpFamily, KeyType, MarkRule, Neighbour, OnNoKey, OnServerDown,
    PayloadKey, Persistence, Port, Protocol, QuicConfig, Route, Server, Service, State, TunnelType,
    Unit, When,
};
use super::problem::{Problem, Severity};
use super::values::{Address, Cidr, HexBytes, MacAddr, Netmask, Period, PortRange, Size};
use crate::forward::defs::{self, Grouping, ServiceKind};
use crate::forward::{DestDef, PortId, ServiceDef, Setup};
use crate::net::Af;
use crate::net::tunnel::{TunnelChecksum, TunnelKind};
use crate::persist::{self, Engine};
use crate::table::{AdminState, Method};

/// A service that the rules have found good.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The service.
    pub service: ServiceDef,
    /// What may not be meant so, a sentence each.
    pub warnings: Vec<String>,
}

/// Judges a service, given in the file's words, as if the file had it beside the ports, routes and marks of `around`.
///
/// # Errors
/// Every problem that is no warning: the path in the service, and a sentence.
pub fn judge(around: &Setup, service: &Value) -> Result<Judged, Vec<String>> {
    let text = json!({
        "ports": around.ports.iter().map(port).collect::<Vec<_>>(),
        "neighbours": around.neighbours.iter().map(|n| neighbour(around, n)).collect::<Vec<_>>(),
        "routes": around.routes.iter().map(|r| route(around, r)).collect::<Vec<_>>(),
        "marks": around.marks.iter().map(|m| mark(around, m)).collect::<Vec<_>>(),
        "services": [service],
    })
    .to_string();
    let told =
        |problems: &[Problem]| -> Vec<String> { problems.iter().filter_map(sentence).collect() };
    match load_str("service", &text) {
        Ok(mut loaded) => Ok(Judged {
            warnings: told(&loaded.warnings),
            service: loaded.lowered.setup.services.swap_remove(0),
        }),
        Err(problems) => {
            let errors = problems
                .into_iter()
                .filter(|p| p.severity == Severity::Error);
            let errors: Vec<_> = errors.collect();
            let own = told(&errors);
            if own.is_empty() {
                // What runs was loaded once, so that this is not expected; it must not be silent all the same.
                return Err(errors
                    .iter()
                    .map(|p| format!("{}: {}", p.path, p.message))
                    .collect());
            }
            Err(own)
        }
    }
}

/// A problem of the service, without the words of what stands around it only to judge it.
fn sentence(problem: &Problem) -> Option<String> {
    let path = problem.path.strip_prefix("services[0]")?;
    let path = path.trim_start_matches('.');
    let meant = problem
        .suggestion
        .as_ref()
        .map_or_else(String::new, |s| format!("; did you mean `{s}`?"));
    Some(match path {
        "" => format!("{}{meant}", problem.message),
        path => format!("{path}: {}{meant}", problem.message),
    })
}

/// A service in the file's words.
#[must_use]
pub fn service_value(def: &ServiceDef) -> Value {
    value(&service(def))
}

/// A server in the file's words.
#[must_use]
pub fn server_value(def: &DestDef) -> Value {
    value(&server(def))
}

fn value(of: &impl serde::Serialize) -> Value {
    serde_json::to_value(of).expect("the model has only maps with text keys, lists and scalars")
}

fn port_name(around: &Setup, id: PortId) -> String {
    around
        .ports
        .get(usize::from(id.0))
        .map_or_else(String::new, |p| p.name.clone())
}

fn port(def: &defs::PortDef) -> Value {
    value(&Port {
        name: def.name.clone(),
        device: def.device.clone(),
        addresses: def.addresses.iter().copied().map(Cidr).collect(),
        mac: def.mac.map(MacAddr),
        mtu: def.mtu,
        kernel_interface: def.kernel_interface,
    })
}

fn neighbour(around: &Setup, def: &defs::NeighbourDef) -> Value {
    value(&Neighbour {
        port: port_name(around, def.port),
        address: Address(def.addr),
        mac: MacAddr(def.mac),
    })
}

fn route(around: &Setup, def: &defs::RouteDef) -> Value {
    value(&Route {
        to: Cidr(def.to),
        via: def.via.map(Address),
        port: port_name(around, def.port),
    })
}

fn mark(around: &Setup, def: &defs::MarkRule) -> Value {
    let ports = |(first, last)| PortRange(first, last);
    value(&MarkRule {
        mark: def.mark,
        from: def.from.map(Cidr),
        to: def.to.map(Cidr),
        protocol: def.proto.and_then(Protocol::of_number),
        source_port: def.source_ports.map(ports),
        port: def.ports.map(ports),
        input: def.input.map(|id| port_name(around, id)),
    })
}

impl Protocol {
    /// That of an IP protocol number.
    #[must_use]
    pub fn of_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp]
            .into_iter()
            .find(|p| p.number() == number)
    }
}

fn service(def: &ServiceDef) -> Service {
    let (mut protocol, mut address, mut port, mut mark, mut family) = Default::default();
    match def.kind {
        ServiceKind::Address {
            proto,
            addr,
            port: p,
        } => {
            protocol = Protocol::of_number(proto);
            address = Some(Address(addr));
            port = Some(p);
        }
        ServiceKind::Mark { af, mark: m } => {
            mark = Some(m);
            family = Some(match af {
                Af::V4 => IpFamily::Ipv4,
                Af::V6 => IpFamily::Ipv6,
            });
        }
    }
    Service {
        name: Some(def.name.clone()),
        protocol,
        address,
        port,
        mark,
        family,
        scheduler: def.scheduler.clone(),
        scheduler_flags: def.flags.iter().cloned().collect(),
        one_packet: def.one_packet,
        persistence: def.persistence.as_ref().map(persistence),
        payload_key: def
            .payload_key
            .as_ref()
            .map(|key| payload_key(key, def.session_limits)),
        hash_key: def.hash_key.map(|key| HexBytes(key.to_be_bytes().to_vec())),
        on_server_down: def.on_server_down.map(|what| match what {
            defs::OnServerDown::Reschedule => OnServerDown::Reschedule,
            defs::OnServerDown::Drop => OnServerDown::Drop,
            defs::OnServerDown::Keep => OnServerDown::Keep,
        }),
        new_connections_per_second: def.new_connections_per_second,
        servers: def.servers.iter().map(server).collect(),
    }
}

fn persistence(p: &defs::Persistence) -> Persistence {
    let place = match &p.engine {
        Some(Engine::Payload(field)) => Some(field.place()),
        Some(Engine::Sip) | None => None,
    };
    Persistence {
        timeout: Period(p.timeout),
        netmask: Some(match p.grouping {
            Grouping::Mask4(mask) => Netmask::Dotted(bits(mask.leading_ones())),
            Grouping::Prefix6(len) => Netmask::Length(len),
        }),
        engine: p.engine.as_ref().map(|engine| match engine {
            Engine::Sip => EngineName::Sip,
            Engine::Payload(_) => EngineName::Payload,
        }),
        offset: place.map(|(offset, _, _)| offset),
        length: place.map(|(_, length, _)| length),
        unit: place.map(|(_, _, of)| unit(of)),
        on_no_key: match p.on_no_key {
            defs::OnNoKey::Fallback => OnNoKey::Fallback,
            defs::OnNoKey::Drop => OnNoKey::Drop,
        },
        max_templates: Size(p.max_templates.into()),
        max_templates_per_client: Size(p.max_per_client.into()),
    }
}

/// Ones of a netmask of 32 bits.
fn bits(ones: u32) -> u8 {
    u8::try_from(ones).unwrap_or(32)
}

fn unit(unit: persist::Unit) -> Unit {
    match unit {
        persist::Unit::Bytes => Unit::Bytes,
        persist::Unit::Bits => Unit::Bits,
    }
}

fn payload_key(key: &persist::PayloadKey, (all, each): (u32, u32)) -> PayloadKey {
    let limit = |limit: u32| (limit != 0).then_some(limit);
    let mut out = PayloadKey {
        kind: KeyType::Quic,
        offset: None,
        length: None,
        unit: None,
        when: None,
        max_templates: limit(all),
        max_templates_per_client: limit(each),
        configs: model_list(&[]),
    };
    match key {
        persist::PayloadKey::Field(key) => {
            let (offset, length, of) = key.field.place();
            out.kind = KeyType::Field;
            (out.offset, out.length, out.unit) = (Some(offset), Some(length), Some(unit(of)));
            out.when = key.when.as_ref().map(|when| When {
                offset: when.offset,
                value: HexBytes(when.value.clone()),
            });
        }
        persist::PayloadKey::Quic(quic) => out.configs = model_list(quic.configs()),
    }
    out
}

fn model_list(configs: &[persist::QuicConfig]) -> super::located::List<QuicConfig> {
    let raised = configs.iter().map(|c| QuicConfig {
        codepoint: c.codepoint,
        server_id_length: c.server_id_len,
        nonce_length: c.nonce_len,
        length_encoded: c.length_encoded,
        key: c.key.map(|key| HexBytes(key.to_vec())),
    });
    raised.collect()
}

fn server(def: &DestDef) -> Server {
    Server {
        name: def.name.clone(),
        address: Address(def.addr),
        port: Some(def.port),
        weight: def.weight,
        forwarding: match def.method {
            Method::Masq => Forwarding::Masq,
            Method::Direct => Forwarding::Direct,
            Method::Tunnel => Forwarding::Tunnel,
        },
        tunnel: (def.method == Method::Tunnel).then(|| tunnel(def.tunnel)),
        upper_threshold: def.upper_threshold,
        lower_threshold: def.lower_threshold,
        state: match def.admin {
            AdminState::Ready => State::Ready,
            AdminState::Drain => State::Drain,
            AdminState::Maint => State::Maint,
        },
        quic_server_id: (!def.quic_server_id.is_empty())
            .then(|| HexBytes(def.quic_server_id.clone())),
    }
}

fn tunnel(def: crate::net::tunnel::Tunnel) -> model::Tunnel {
    let kind = match def.kind {
        TunnelKind::Ipip => TunnelType::Ipip,
        TunnelKind::Gue => TunnelType::Gue,
        TunnelKind::Gre => TunnelType::Gre,
    };
    let checksum = match def.checksum {
        TunnelChecksum::None => model::TunnelChecksum::None,
        TunnelChecksum::Full => model::TunnelChecksum::Csum,
        TunnelChecksum::Remote => model::TunnelChecksum::Remcsum,
    };
    model::Tunnel {
        kind,
        port: (kind == TunnelType::Gue).then_some(def.port),
        // IPIP has none that could be named.
        checksum: (kind != TunnelType::Ipip).then_some(checksum),
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::load;
    use super::*;

    /// Every service of every example, and some with what the examples lack.
    fn setups() -> Vec<Setup> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/conf");
        let mut out: Vec<Setup> = std::fs::read_dir(dir)
            .expect("the examples")
            .map(|e| e.expect("an entry").path())
            .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
            .map(|p| load(&p).expect("an example is valid").lowered.setup)
            .collect();
        let text = "
ports: [{name: wan0, device: net_null0, addresses: [192.0.2.10/24, 2001:db8::1/64], mtu: 1400}]
neighbours: [{port: wan0, address: 192.0.2.1, mac: '02:00:00:00:00:01'}]
routes: [{to: 0.0.0.0/0, via: 192.0.2.1, port: wan0}]
marks: [{mark: 7, to: 192.0.2.0/24, protocol: sctp, source_port: 1-1023, port: 80, input: wan0}]
services:
- {mark: 7, persistence: {timeout: 10s, netmask: 255.255.255.0}, servers: [{address: 192.0.2.20, forwarding: direct}]}
- {mark: 7, family: ipv6, scheduler: sh, scheduler_flags: [port, fallback], servers: [{address: '2001:db8::9'}]}
- {protocol: tcp, address: 192.0.2.80, port: 0, persistence: {max_templates: 9, max_templates_per_client: 3}}
- protocol: udp
  address: 192.0.2.80
  port: 53
  on_server_down: keep
  persistence: {engine: payload, offset: 3, length: 9, unit: bits, on_no_key: drop}
  servers:
  - {address: 192.0.2.21, forwarding: tunnel, tunnel: {type: gue, port: 6080, checksum: remcsum}, state: drain}
  - {address: 192.0.2.22, forwarding: tunnel, tunnel: {type: gre, checksum: csum}, weight: 0}
  - {address: '2001:db8::8', forwarding: tunnel, upper_threshold: 9, lower_threshold: 3, name: six}
- protocol: udp
  address: 192.0.2.81
  port: 1194
  scheduler: offh
  hash_key: 00112233445566ff
  payload_key: {offset: 1, length: 8, when: {offset: 0, value: '19'}, max_templates: 5}
  servers: [{address: 192.0.2.21, state: maint}]
";
        let loaded = load_str("test", text).expect("valid");
        out.push(loaded.lowered.setup);
        out
    }

    #[test]
    fn what_is_raised_and_loaded_again_is_the_same() {
        for setup in setups() {
            for service in &setup.services {
                let judged = judge(&setup, &service_value(service));
                let judged = judged.unwrap_or_else(|e| panic!("{}: {e:?}", service.name));
                assert_eq!(&judged.service, service);
            }
        }
    }

    #[test]
    fn problems_name_their_place_in_the_service() {
        let setup = setups().pop().expect("the last one");
        let service = json!({
            "protocol": "tcp", "address": "192.0.2.90", "port": 80, "scheduler": "rrr",
            "servers": [{"address": "192.0.2.31", "wieght": 1}, {"address": "224.0.0.1"}],
        });
        let problems = judge(&setup, &service).expect_err("three problems");
        for (problem, is) in problems.iter().zip([
            "scheduler: `rrr` is not one of `rr`, `wrr`",
            "servers[0].wieght: unknown key; did you mean `weight`?",
            "servers[1].address: 224.0.0.1 is a multicast address, no address of a server",
        ]) {
            assert!(problem.starts_with(is), "{problem}");
        }
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
