//! Marks, one-packet scheduling, persistence and payload keys: what is refused, and what the rest becomes.

use super::*;
use crate::forward::defs::{
    Grouping, MarkRule, OnNoKey, OnServerDown, Persistence, Prefix, ServiceKind, Switches,
};
use crate::net::Af;
use crate::persist::{
    Engine, Field, PayloadKey, QuicConfig, QuicLb, SessionKey, Unit as FieldUnit, When,
};

/// A UDP service with these keys, in line 3 from column 54 on.
fn udp(keys: &str) -> String {
    one("protocol: udp, address: 192.0.2.80, port: 5060", keys)
}

/// A TCP service with these keys, in line 3 from column 54 on.
fn tcp(keys: &str) -> String {
    one("protocol: tcp, address: 192.0.2.80, port: 5060", keys)
}

/// A service of a mark that a rule gives, in line 3, with these keys from column 15 on.
fn mark(keys: &str) -> String {
    format!(
        "{}marks: [{{mark: 7, to: 192.0.2.0/24}}]\n",
        one("mark: 7", keys)
    )
}

fn one(what: &str, keys: &str) -> String {
    service(&format!(
        "  - {{{what}, {keys}, servers: [{{address: 10.0.0.11}}]}}\n"
    ))
}

/// A UDP service with these keys, whose only server has a threshold.
fn limited(keys: &str) -> String {
    udp(keys).replace("10.0.0.11", "10.0.0.11, upper_threshold: 5")
}

/// What the first service of a valid file becomes.
fn lowered(text: &str) -> crate::forward::ServiceDef {
    match load_str("t.yaml", text) {
        Ok(mut loaded) => loaded.lowered.setup.services.swap_remove(0),
        Err(problems) => panic!("{problems:#?}\nin:\n{text}"),
    }
}

#[test]
fn one_packet_scheduling_is_for_udp() {
    check(vec![
        row("on UDP", udp("one_packet: true, scheduler: rr"), &[]),
        row(
            "with nothing to count",
            udp("one_packet: true"),
            &[
                "3:66: warning: services[0].one_packet: `wlc` counts connections, of which `one_packet` leaves none",
            ],
        ),
        row(
            "with sessions to count",
            udp("one_packet: true, persistence: {}"),
            &[],
        ),
        row(
            "with thresholds for nothing",
            limited("one_packet: true, scheduler: rr"),
            &[
                "3:135: warning: services[0].servers[0].upper_threshold: `one_packet` without `persistence` or a",
            ],
        ),
        row(
            "with thresholds for sessions",
            limited("one_packet: true, scheduler: rr, persistence: {}"),
            &[],
        ),
        row(
            "with a lower threshold for sessions",
            limited("one_packet: true, scheduler: rr, persistence: {}").replace(
                "upper_threshold: 5",
                "upper_threshold: 5, lower_threshold: 2",
            ),
            &[
                "3:172: warning: services[0].servers[0].lower_threshold: a server of a `one_packet` service takes new",
            ],
        ),
        row(
            "with thresholds for connections",
            limited("one_packet: false, scheduler: rr"),
            &[],
        ),
        row(
            "with a policy for servers that are remembered",
            udp("one_packet: true, scheduler: rr, persistence: {}, on_server_down: keep"),
            &[],
        ),
        row(
            "with one for servers that are not",
            udp("one_packet: true, scheduler: rr, on_server_down: keep"),
            &[
                "3:103: warning: services[0].on_server_down: `one_packet` without `persistence` or a `payload_key`",
            ],
        ),
        row(
            "on TCP",
            tcp("one_packet: true, scheduler: rr"),
            &[
                "3:66: error: services[0].one_packet: `one_packet` is for UDP: the packets of a TCP connection can't go",
            ],
        ),
        row("not on TCP", tcp("one_packet: false"), &[]),
        row(
            "on a mark with masq",
            mark("one_packet: true, scheduler: rr"),
            &[
                "3:27: error: services[0].one_packet: `one_packet` leaves no connection behind by which replies of `masq`",
            ],
        ),
        row(
            "on a mark without masq",
            mark("one_packet: true, scheduler: rr").replace("11}", "11, forwarding: direct}"),
            &[],
        ),
        row(
            "with a payload key",
            udp("one_packet: true, payload_key: {offset: 0, length: 4}"),
            &[],
        ),
        row(
            "with QUIC connection IDs",
            udp(
                "one_packet: true, payload_key: {type: quic, configs: [{codepoint: 0, server_id_length: 3, nonce_length: 4}]}",
            ),
            &[
                "3:66: error: services[0].one_packet: the first packets of a QUIC connection name no server",
                "3:174: warning: services[0].servers[0].quic_server_id: the server has no `quic_server_id`",
            ],
        ),
        row(
            "as a word",
            udp("one_packet: yes"),
            &[
                "3:66: error: services[0].one_packet: expected true or false, found `yes`; did you mean `true`?",
            ],
        ),
        row(
            "by its name in ipvsadm",
            udp("ops: true"),
            &["3:54: error: services[0].ops: unknown key; did you mean `one_packet`?"],
        ),
    ]);
}

#[test]
fn schedulers_that_count_active_connections_are_a_warning_on_udp() {
    let table: [(&str, &'static [&'static str]); 3] = [
        (
            "scheduler: sed",
            &["3:65: warning: services[0].scheduler: `sed` counts active connections"],
        ),
        (
            "scheduler: nq",
            &["3:65: warning: services[0].scheduler: `nq` counts active connections"],
        ),
        (
            "scheduler: ovf",
            &["3:65: warning: services[0].scheduler: `ovf` counts active connections"],
        ),
    ];
    for (keys, warnings) in table {
        let sessions = format!("{keys}, one_packet: true, persistence: {{}}");
        check(vec![
            row("on UDP", udp(keys), warnings),
            row("on TCP", tcp(keys), &[]),
            row("with sessions, which are active", udp(&sessions), &[]),
        ]);
    }
}

#[test]
fn servers_that_would_speak_for_two_services_are_a_warning() {
    let two = |more: &str, first: &str, second: &str| {
        let one = |address: &str, server: &str| {
            format!(
                "  - {{protocol: udp, address: {address}, port: 5060, {more}, servers: [{{{server}}}]}}\n"
            )
        };
        service(&(one("192.0.2.80", first) + &one("192.0.2.81", second)))
    };
    let sip = "one_packet: true, persistence: {engine: sip}";
    let same = "address: 10.0.0.11";
    check(vec![
        row(
            "one server in both",
            two(sip, same, same),
            &[
                "4:120: warning: services[1].servers[0].address: the server of line 3 has this address and port too",
            ],
        ),
        row(
            "with ports of their own",
            two(sip, same, "address: 10.0.0.11, port: 5062"),
            &[],
        ),
        row(
            "with direct routing",
            two(
                sip,
                "address: 10.0.0.11, forwarding: direct",
                "address: 10.0.0.11, forwarding: direct",
            ),
            &[],
        ),
        row(
            "with connections to tell by",
            two("persistence: {}", same, same),
            &[],
        ),
    ]);
}

#[test]
fn persistence_is_checked() {
    let persistence = |keys: &str| udp(&format!("persistence: {{{keys}}}"));
    let v6 = |keys: &str| {
        persistence(keys)
            .replace("192.0.2.80,", "\"2001:db8::80\",")
            .replace("10.0.0.11", "\"2001:db8::11\"")
    };
    check(vec![
        row("all defaults", persistence(""), &[]),
        row(
            "not a map",
            udp("persistence: true"),
            &[
                "3:67: error: services[0].persistence: expected a map with keys such as `timeout`, found `true`; did you",
            ],
        ),
        row(
            "no value",
            service(
                "  - protocol: udp\n    address: 192.0.2.80\n    port: 53\n    persistence:\n    servers: [{address: 10.0.0.11}]\n",
            ),
            &[
                "6:5: error: services[0].persistence: `persistence` has no value; give it one or remove the line",
            ],
        ),
        row(
            "timeout of 0",
            persistence("timeout: 0s"),
            &[
                "3:77: error: services[0].persistence.timeout: 0s is out of range; 1s to 31d is allowed",
            ],
        ),
        row(
            "quoted timeout of 0",
            persistence("timeout: \"0s\""),
            &[
                "3:77: error: services[0].persistence.timeout: 0s is out of range; 1s to 31d is allowed",
            ],
        ),
        row(
            "long timeout",
            persistence("timeout: 32d"),
            &[
                "3:77: error: services[0].persistence.timeout: 32d is out of range; 1s to 31d is allowed",
            ],
        ),
        row(
            "timeout without unit",
            persistence("timeout: 300"),
            &[
                "3:77: error: services[0].persistence.timeout: `300` is not a duration such as 250ms, 60s, 15m, 1h or 1d;",
            ],
        ),
        row("netmask", persistence("netmask: 255.255.255.0"), &[]),
        row("netmask 0", persistence("netmask: 0.0.0.0"), &[]),
        row("prefix length", persistence("netmask: 24"), &[]),
        row("prefix length 0", persistence("netmask: 0"), &[]),
        row(
            "netmask with holes",
            persistence("netmask: 255.0.255.0"),
            &[
                "3:77: error: services[0].persistence.netmask: the netmask `255.0.255.0` has holes; its ones must come",
            ],
        ),
        row(
            "inverted netmask",
            persistence("netmask: 0.0.0.255"),
            &[
                "3:77: error: services[0].persistence.netmask: the netmask `0.0.0.255` has holes; its ones must come",
            ],
        ),
        row(
            "long prefix length for IPv4",
            persistence("netmask: 33"),
            &[
                "3:77: error: services[0].persistence.netmask: the prefix length 33 is too long for IPv4; 0 to 32 is",
            ],
        ),
        row(
            "prefix length with a slash",
            persistence("netmask: /24"),
            &[
                "3:77: error: services[0].persistence.netmask: `/24` is not a netmask or prefix length; did you mean `24`?",
            ],
        ),
        row(
            "no netmask at all",
            persistence("netmask: any"),
            &[
                "3:77: error: services[0].persistence.netmask: `any` is neither a netmask such as 255.255.255.0 nor a",
            ],
        ),
        row("prefix length of IPv6", v6("netmask: 64"), &[]),
        row(
            "prefix length 0 of IPv6",
            v6("netmask: 0, engine: sip"),
            &[],
        ),
        row(
            "prefix length beyond IPv6",
            v6("netmask: 129"),
            &[
                "3:81: error: services[0].persistence.netmask: 129 is out of range; 0 to 128 is allowed",
            ],
        ),
        row(
            "IPv4 netmask for IPv6",
            v6("netmask: 0.0.0.0"),
            &[
                "3:81: error: services[0].persistence.netmask: clients of an IPv6 service are grouped by a prefix length,",
            ],
        ),
        row("sip", persistence("engine: sip, netmask: 0.0.0.0"), &[]),
        row(
            "unknown engine",
            persistence("engine: sipp"),
            &[
                "3:76: error: services[0].persistence.engine: `sipp` is not one of `sip` and `payload`; did you mean",
            ],
        ),
        row(
            "field of no engine",
            persistence("offset: 1, length: 2"),
            &[
                "3:76: error: services[0].persistence.offset: `offset` is for `engine: payload`; remove it",
                "3:87: error: services[0].persistence.length: `length` is for `engine: payload`; remove it",
            ],
        ),
        row(
            "field of sip",
            persistence("engine: sip, unit: bits"),
            &[
                "3:87: error: services[0].persistence.unit: `unit` is for `engine: payload`; remove it",
            ],
        ),
        row(
            "payload without a field",
            persistence("engine: payload"),
            &[
                "3:54: error: services[0].persistence.offset: `offset` is missing: `engine: payload` needs it, to find",
                "3:54: error: services[0].persistence.length: `length` is missing: `engine: payload` needs it, to find",
            ],
        ),
        row(
            "empty field",
            persistence("engine: payload, offset: 0, length: 0"),
            &[
                "3:104: error: services[0].persistence.length: a field of length 0 tells no session from another",
            ],
        ),
        row(
            "long field",
            persistence("engine: payload, offset: 0, length: 257"),
            &["3:104: error: services[0].persistence.length: a field is at most 256 bytes long"],
        ),
        row(
            "long field in bits",
            persistence("engine: payload, offset: 0, length: 2049, unit: bits"),
            &["3:104: error: services[0].persistence.length: a field is at most 256 bytes long"],
        ),
        row(
            "field beyond 64 KiB",
            persistence("engine: payload, offset: 65536, length: 4"),
            &[
                "3:93: error: services[0].persistence.offset: the field ends behind the longest UDP payload (65507",
            ],
        ),
        row(
            "no follow-up of a bad field",
            persistence("engine: payload, offset: x, length: 4"),
            &["3:93: error: services[0].persistence.offset: expected a whole number, found `x`"],
        ),
        row("drop", persistence("engine: sip, on_no_key: drop"), &[]),
        row(
            "drop without an engine",
            persistence("on_no_key: drop"),
            &[
                "3:79: error: services[0].persistence.on_no_key: without an `engine` no key is looked for, so none can be",
            ],
        ),
        row(
            "no follow-up of a bad engine",
            persistence("engine: sipp, on_no_key: drop, offset: 1"),
            &[
                "3:76: error: services[0].persistence.engine: `sipp` is not one of `sip` and `payload`; did you mean",
            ],
        ),
        row(
            "limits",
            persistence("max_templates: 1k, max_templates_per_client: 10"),
            &[],
        ),
        row(
            "more than all may have",
            persistence("max_templates: 1M"),
            &[
                "3:83: warning: services[0].persistence.max_templates: 1048576 is more than `limits.templates` allows all",
            ],
        ),
        row(
            "more for one client than all may have",
            persistence("max_templates_per_client: 1M"),
            &[
                "3:94: warning: services[0].persistence.max_templates_per_client: 1048576 is more than `limits.templates`",
            ],
        ),
        row(
            "as many as all may have",
            format!(
                "{}limits: {{templates: 1M}}\n",
                persistence("max_templates: 1M")
            ),
            &[],
        ),
        row(
            "far too many",
            persistence("max_templates: 1G"),
            &[
                "3:83: error: services[0].persistence.max_templates: 1G is out of range; 0 to 256M is allowed",
            ],
        ),
        row(
            "keepalived's word",
            udp("persistence_timeout: 60"),
            &[
                "3:54: error: services[0].persistence_timeout: unknown key; did you mean `persistence`?",
            ],
        ),
        row(
            "keepalived's mask",
            persistence("granularity: 255.255.255.0"),
            &[
                "3:68: error: services[0].persistence.granularity: unknown key; did you mean `netmask`?",
            ],
        ),
        row(
            "with a payload key",
            udp("persistence: {}, payload_key: {offset: 0, length: 4}"),
            &[
                "3:71: error: services[0].payload_key: a service has either `persistence` or a `payload_key`: both decide",
            ],
        ),
        row(
            "negative limit",
            persistence("max_templates: -1"),
            &[
                "3:83: error: services[0].persistence.max_templates: `-1` is not a number or size such as 1000, 64k, 4M",
            ],
        ),
        row(
            "no templates",
            format!("{}limits: {{templates: 0}}\n", persistence("")),
            &["4:21: error: limits.templates: 0 is out of range; 1 to 256M is allowed"],
        ),
    ]);
}

#[test]
fn an_engine_where_no_payload_is_seen_is_a_warning() {
    check(vec![
        row(
            "sip on TCP",
            tcp("persistence: {engine: sip}"),
            &[
                "3:76: warning: services[0].persistence.engine: on TCP the server is chosen at the SYN, before any",
            ],
        ),
        row(
            "payload on TCP",
            tcp("persistence: {engine: payload, offset: 0, length: 4}"),
            &[
                "3:76: warning: services[0].persistence.engine: on TCP the server is chosen at the SYN, before any",
            ],
        ),
        row(
            "sip on a mark",
            mark("persistence: {engine: sip}"),
            &[
                "3:37: warning: services[0].persistence.engine: only UDP packets of the mark are looked into; others,",
            ],
        ),
        row(
            "sip on SCTP",
            udp("persistence: {engine: sip}").replace("udp", "sctp"),
            &[
                "3:77: error: services[0].persistence.engine: engines look into UDP packets: on SCTP the server is chosen",
            ],
        ),
        row(
            "persistence on SCTP",
            udp("persistence: {netmask: 255.255.255.0}").replace("udp", "sctp"),
            &[],
        ),
        row(
            "one-packet on SCTP",
            udp("one_packet: true, scheduler: rr").replace("udp", "sctp"),
            &[
                "3:67: error: services[0].one_packet: `one_packet` is for UDP: the packets of an SCTP association can't go",
            ],
        ),
        row(
            "payload key on SCTP",
            udp("payload_key: {offset: 0, length: 4}").replace("udp", "sctp"),
            &[
                "3:55: error: services[0].payload_key: `payload_key` is for UDP: on SCTP the server is chosen at the INIT,",
            ],
        ),
    ]);
}

#[test]
fn payload_keys_are_checked() {
    let key = |keys: &str| udp(&format!("payload_key: {{{keys}}}"));
    check(vec![
        row(
            "a field",
            key("offset: 11, length: 8, when: {offset: 0, value: \"19\"}"),
            &[],
        ),
        row(
            "nothing",
            key(""),
            &[
                "3:54: error: services[0].payload_key.offset: `offset` is missing: `payload_key` needs it, to find the",
                "3:54: error: services[0].payload_key.length: `length` is missing: `payload_key` needs it, to find the",
            ],
        ),
        row(
            "no offset",
            key("length: 8"),
            &[
                "3:54: error: services[0].payload_key.offset: `offset` is missing: `payload_key` needs it, to find the",
            ],
        ),
        row(
            "empty field",
            key("offset: 0, length: 0"),
            &[
                "3:87: error: services[0].payload_key.length: a field of length 0 tells no session from another",
            ],
        ),
        row(
            "long field",
            key("offset: 0, length: 300"),
            &["3:87: error: services[0].payload_key.length: a field is at most 256 bytes long"],
        ),
        row(
            "beyond 64 KiB",
            key("offset: 70000, length: 4"),
            &[
                "3:76: error: services[0].payload_key.offset: the field ends behind the longest UDP payload (65507",
            ],
        ),
        row(
            "beyond 64 KiB in bits",
            key("offset: 524052, length: 8, unit: bits"),
            &[
                "3:76: error: services[0].payload_key.offset: the field ends behind the longest UDP payload (65507",
            ],
        ),
        row(
            "beyond any number",
            key("offset: 4294967296, length: 4"),
            &[
                "3:76: error: services[0].payload_key.offset: 4294967296 is out of range; 0 to 4294967295 is allowed",
            ],
        ),
        row(
            "unit",
            key("offset: 0, length: 4, unit: byte"),
            &[
                "3:96: error: services[0].payload_key.unit: `byte` is not one of `bytes` and `bits`; did you mean `bytes`?",
            ],
        ),
        row("type", key("type: field, offset: 0, length: 4"), &[]),
        row(
            "unknown type",
            key("type: quick, offset: 0, length: 4"),
            &[
                "3:74: error: services[0].payload_key.type: `quick` is not one of `field` and `quic`; did you mean `quic`?",
            ],
        ),
        row(
            "on TCP",
            tcp("payload_key: {offset: 0, length: 4}"),
            &[
                "3:54: error: services[0].payload_key: `payload_key` is for UDP: on TCP the server is chosen at the SYN,",
            ],
        ),
        row(
            "on a mark",
            mark("payload_key: {offset: 0, length: 4}"),
            &[
                "3:15: error: services[0].payload_key: `payload_key` needs a UDP service with an address and a port:",
            ],
        ),
        row(
            "on port 0",
            udp("payload_key: {offset: 0, length: 4}").replace("5060", "0"),
            &[
                "3:48: error: services[0].port: port 0, which stands for every port, needs `persistence`, so that all",
            ],
        ),
        row(
            "condition without a value",
            key("offset: 0, length: 4, when: {offset: 0}"),
            &[
                "3:96: error: services[0].payload_key.when.value: `value` is missing from the when that starts here",
            ],
        ),
        row(
            "condition in decimal",
            key("offset: 0, length: 4, when: {offset: 0, value: 9}"),
            &[
                "3:115: error: services[0].payload_key.when.value: bytes are written as two hexadecimal digits each, such",
            ],
        ),
        row(
            "condition with 0x",
            key("offset: 0, length: 4, when: {offset: 0, value: 0x19}"),
            &[
                "3:115: error: services[0].payload_key.when.value: bytes are written as two hexadecimal digits each, such",
            ],
        ),
        row(
            "empty condition",
            key("offset: 0, length: 4, when: {offset: 0, value: \"\"}"),
            &[
                "3:115: error: services[0].payload_key.when.value: bytes are written as two hexadecimal digits each, such",
            ],
        ),
        row(
            "condition beyond 64 KiB",
            key("offset: 0, length: 4, when: {offset: 65507, value: \"19\"}"),
            &[
                "3:105: error: services[0].payload_key.when.offset: the value ends behind the longest UDP payload (65507",
            ],
        ),
        row(
            "long condition",
            key(&format!(
                "offset: 0, length: 4, when: {{offset: 0, value: \"{}\"}}",
                "00".repeat(257)
            )),
            &[
                "3:115: error: services[0].payload_key.when.value: 257 bytes are too many to compare; at most 256 are",
            ],
        ),
        row(
            "configurations of a field",
            key(
                "offset: 0, length: 4, configs: [{codepoint: 0, server_id_length: 3, nonce_length: 4}]",
            ),
            &[
                "3:90: error: services[0].payload_key.configs: `configs` is for `type: quic`; remove it",
            ],
        ),
        row(
            "another scheduler",
            udp("scheduler: rr, payload_key: {offset: 0, length: 4}"),
            &[],
        ),
        row(
            "offh",
            udp("scheduler: offh, payload_key: {offset: 0, length: 4}"),
            &[],
        ),
        row(
            "offh without a field",
            udp("scheduler: offh"),
            &[
                "3:65: error: services[0].scheduler: `offh` hashes a field of the payload; say which one with",
            ],
        ),
        row(
            "offh and persistence",
            udp("scheduler: offh, persistence: {}"),
            &[
                "3:65: error: services[0].scheduler: `offh` hashes a field of the payload; say which one with",
            ],
        ),
        row(
            "no follow-up of a bad key",
            udp("scheduler: offh, payload_key: 7"),
            &[
                "3:84: error: services[0].payload_key: expected a map with keys such as `type`, found `7`",
            ],
        ),
        row(
            "hash key",
            udp(
                "scheduler: offh, payload_key: {offset: 0, length: 4}, hash_key: \"0123456789abcdef\"",
            ),
            &[],
        ),
        row(
            "hash key without quotes",
            udp("scheduler: offh, payload_key: {offset: 0, length: 4}, hash_key: 0123456789012345"),
            &[],
        ),
        row(
            "short hash key",
            udp("scheduler: offh, payload_key: {offset: 0, length: 4}, hash_key: \"01234567\""),
            &["3:118: error: services[0].hash_key: 16 hexadecimal digits are needed, found 8"],
        ),
        row(
            "odd hash key",
            udp(
                "scheduler: offh, payload_key: {offset: 0, length: 4}, hash_key: \"0123456789abcde\"",
            ),
            &[
                "3:118: error: services[0].hash_key: bytes are written as two hexadecimal digits each, such as 0a1f",
            ],
        ),
        row(
            "hash key of the limit",
            udp("scheduler: rr, new_connections_per_second: 1000, hash_key: \"0123456789abcdef\""),
            &[],
        ),
        row(
            "hash key of rr",
            udp("scheduler: rr, hash_key: \"0123456789abcdef\""),
            &[
                "3:79: error: services[0].hash_key: only `scheduler: offh` and `new_connections_per_second` hash with a key, `rr` does not; remove it",
            ],
        ),
        row(
            "server id without QUIC",
            key("offset: 0, length: 4").replace("11}", "11, quic_server_id: \"01\"}"),
            &[
                "3:138: error: services[0].servers[0].quic_server_id: `quic_server_id` is for services with `payload_key:",
            ],
        ),
        row("on_server_down", udp("on_server_down: keep"), &[]),
        row(
            "on_server_down of HAProxy",
            udp("on_server_down: redispatch"),
            &[
                "3:70: error: services[0].on_server_down: `redispatch` is not one of `reschedule`, `drop` and `keep`",
            ],
        ),
    ]);
}

/// A service whose clients are found by QUIC-LB, the configurations in line 8 from column 16 on.
fn quic(configs: &str, servers: &str) -> String {
    service(&format!(
        "  - protocol: udp\n    address: 192.0.2.80\n    port: 443\n    payload_key:\n      type: quic\n      configs: [{configs}]\n    servers:\n{servers}"
    ))
}

const CONFIG: &str = "{codepoint: 0, server_id_length: 3, nonce_length: 4}";
const SERVERS: &str = "      - {address: 10.0.0.11, quic_server_id: \"000001\"}\n      - {address: 10.0.0.12, quic_server_id: \"000002\"}\n";

#[test]
fn quic_is_checked() {
    let configs = |configs: &str| quic(configs, SERVERS);
    let servers = |servers: &str| quic(CONFIG, servers);
    check(vec![
        row("clear", configs(CONFIG), &[]),
        row(
            "encrypted",
            configs(
                "{codepoint: 6, server_id_length: 3, nonce_length: 16, length_encoded: true, key: 8f95f09245765f80256934e50c66207f}",
            ),
            &[],
        ),
        row(
            "no configuration",
            configs(""),
            &[
                "8:7: error: services[0].payload_key.configs: `type: quic` needs `configs`: at least one QUIC-LB",
            ],
        ),
        row(
            "no list",
            udp("payload_key: {type: quic}").replace("11}", "11, quic_server_id: \"01\"}"),
            &[
                "3:54: error: services[0].payload_key.configs: `type: quic` needs `configs`: at least one QUIC-LB",
            ],
        ),
        row(
            "incomplete",
            configs("{codepoint: 0}"),
            &[
                "8:17: error: services[0].payload_key.configs[0].server_id_length: `server_id_length` is missing from the",
                "8:17: error: services[0].payload_key.configs[0].nonce_length: `nonce_length` is missing from the quic",
            ],
        ),
        row(
            "codepoint",
            configs("{codepoint: 7, server_id_length: 3, nonce_length: 4}"),
            &[
                "8:29: error: services[0].payload_key.configs[0].codepoint: 7 is out of range; 0 to 6 is allowed",
            ],
        ),
        row(
            "codepoint twice",
            configs(&format!("{CONFIG}, {CONFIG}")),
            &[
                "8:83: error: services[0].payload_key.configs[1].codepoint: the configuration of line 8 has codepoint 0",
            ],
        ),
        row(
            "length of a server id",
            configs("{codepoint: 0, server_id_length: 16, nonce_length: 4}"),
            &[
                "8:50: error: services[0].payload_key.configs[0].server_id_length: 16 is out of range; 1 to 15 is allowed",
            ],
        ),
        row(
            "length of a nonce",
            configs("{codepoint: 0, server_id_length: 3, nonce_length: 3}"),
            &[
                "8:67: error: services[0].payload_key.configs[0].nonce_length: 3 is out of range; 4 to 18 is allowed",
            ],
        ),
        row(
            "short key",
            configs("{codepoint: 0, server_id_length: 3, nonce_length: 4, key: \"0011\"}"),
            &[
                "8:75: error: services[0].payload_key.configs[0].key: 32 hexadecimal digits are needed, found 4",
            ],
        ),
        row(
            "field of QUIC",
            configs(CONFIG)
                .replace("type: quic", "{type: quic, offset: 1}")
                .replace("{type: quic, offset: 1}", "type: quic\n      offset: 1"),
            &[
                "8:15: error: services[0].payload_key.offset: `offset` is for `type: field`; remove it",
            ],
        ),
        row(
            "condition of QUIC",
            configs(CONFIG).replace(
                "type: quic",
                "type: quic\n      when: {offset: 0, value: \"19\"}",
            ),
            &["8:7: error: services[0].payload_key.when: `when` is for `type: field`; remove it"],
        ),
        row(
            "offh",
            configs(CONFIG).replace("port: 443", "port: 443\n    scheduler: offh"),
            &[
                "6:16: error: services[0].scheduler: `offh` hashes a field of the payload, but QUIC's connection IDs",
            ],
        ),
        row(
            "server without an id",
            servers("      - {address: 10.0.0.11}\n"),
            &[
                "10:9: warning: services[0].servers[0].quic_server_id: the server has no `quic_server_id`, so clients",
            ],
        ),
        row(
            "short server id",
            servers("      - {address: 10.0.0.11, quic_server_id: \"0001\"}\n"),
            &[
                "10:46: error: services[0].servers[0].quic_server_id: the id has 2 bytes, but configuration 0 has",
            ],
        ),
        row(
            "same server id",
            servers(&SERVERS.replace("2\"", "1\"")),
            &[
                "11:46: error: services[0].servers[1].quic_server_id: the server of line 10 has this id already",
            ],
        ),
        row(
            "server id with colons",
            servers("      - {address: 10.0.0.11, quic_server_id: \"00:00:01\"}\n"),
            &[
                "10:46: error: services[0].servers[0].quic_server_id: bytes are written as two hexadecimal digits each,",
            ],
        ),
        row(
            "lengths differ",
            quic(
                "{codepoint: 0, server_id_length: 3, nonce_length: 4}, {codepoint: 1, server_id_length: 4, nonce_length: 4}",
                "      - {address: 10.0.0.11, quic_server_id: \"000001\"}\n",
            ),
            &[
                "10:46: error: services[0].servers[0].quic_server_id: the id has 3 bytes, but configuration 1 has",
            ],
        ),
    ]);
}

#[test]
fn services_of_every_port_and_of_marks_are_checked() {
    let marks = |rules: &str| format!("{}marks:\n{rules}", one("mark: 7", "persistence: {}"));
    check(vec![
        row("a mark", mark("persistence: {}"), &[]),
        row("a mark without persistence", mark("scheduler: rr"), &[]),
        row("a mark and an address", mark("protocol: udp, address: 192.0.2.80, port: 80"), &["3:25: error: services[0].protocol: a service of a mark has no `protocol`: it serves what the rules of", "3:39: error: services[0].address: a service of a mark has no `address`: it serves what the rules of", "3:57: error: services[0].port: a service of a mark has no `port`: it serves what the rules of `marks`"]),
        row("mark 0", mark("scheduler: rr").replace("{mark: 7, sch", "{mark: 0, sch"), &["3:12: error: services[0].mark: 0 is out of range; 1 to 4294967295 is allowed"]),
        row("a large mark", mark("scheduler: rr").replace("mark: 7", "mark: 4294967295"), &[]),
        row("too large a mark", mark("scheduler: rr").replace("{mark: 7, sch", "{mark: 4294967296, sch"), &["3:12: error: services[0].mark: 4294967296 is out of range; 1 to 4294967295 is allowed"]),
        row("keepalived's word", mark("scheduler: rr").replace("{mark: 7, sch", "{fwmark: 7, sch"), &["3:6: error: services[0].fwmark: unknown key; did you mean `mark`?"]),
        row("family of an address", udp("family: ipv4"), &["3:62: error: services[0].family: `family` is for services of a mark: here the address tells the family;"]),
        row("family", mark("family: ipv4"), &[]),
        row("unknown family", mark("family: inet"), &["3:23: error: services[0].family: `inet` is not one of `ipv4` and `ipv6`"]),
        row("another family's mark", mark("family: ipv6").replace("10.0.0.11", "\"2001:db8::11\""), &["3:12: warning: services[0].mark: no rule of `marks` gives this mark to IPv6 packets, so the service gets", "4:16: warning: marks[0].mark: no IPv4 service has `mark: 7`, so the rule does nothing"]),
        row("server of the other family", mark("family: ipv6").replace("192.0.2.0/24", "\"2001:db8::/64\""), &["3:49: error: services[0].servers[0].address: an IPv4 server of an IPv6 service needs `forwarding: tunnel`"]),
        row("same mark", mark("persistence: {}").replace("services:\n", "services:\n  - {mark: 7, servers: [{address: 10.0.0.11}]}\n"), &["4:12: error: services[1].mark: the service of line 3 has this mark and address family already"]),
        row("same mark of another family", mark("persistence: {}").replace("services:\n", "services:\n  - {mark: 7, family: ipv6, servers: [{address: \"2001:db8::11\"}]}\n").replace("to: 192.0.2.0/24", "protocol: udp"), &[]),
        row("port of a server of a mark", mark("scheduler: rr").replace("11}", "11, port: 8080}"), &[]),
        row("port of a server of a persistent mark", mark("persistence: {}").replace("11}", "11, port: 8080}"), &["3:69: warning: services[0].servers[0].port: a persistent service of more than one port keeps the port"]),
        row("port of a direct server of a mark", mark("scheduler: rr").replace("11}", "11, port: 8080, forwarding: direct}"), &["3:67: error: services[0].servers[0].port: `forwarding: direct` leaves the port of a packet as it is, so"]),
        row("port 0", udp("persistence: {}").replace("5060", "0"), &[]),
        row("port 0 of a server", udp("persistence: {}").replace("5060", "0").replace("11}", "11, port: 0}"), &[]),
        row("port 0 without persistence", udp("scheduler: rr").replace("5060", "0"), &["3:48: error: services[0].port: port 0, which stands for every port, needs `persistence`, so that all"]),
        row("port 0 beside another", udp("persistence: {}").replace("5060", "0").replace("services:\n", "services:\n  - {protocol: udp, address: 192.0.2.80, port: 53, servers: [{address: 10.0.0.11}]}\n"), &[]),
        row("port of a server of port 0", udp("persistence: {}").replace("5060", "0").replace("11}", "11, port: 8080}"), &["3:105: warning: services[0].servers[0].port: a persistent service of more than one port keeps the port"]),
        row("mark without a rule", one("mark: 7", "persistence: {}"), &["3:12: warning: services[0].mark: no rule of `marks` gives this mark to IPv4 packets, so the service gets"]),
        row("rule without a service", marks("  - {mark: 7, protocol: tcp}\n  - {mark: 8, port: 80}\n"), &["6:12: warning: marks[1].mark: no service has `mark: 8`, so the rule does nothing"]),
        row("rule without a service of its family", marks("  - {mark: 7, protocol: tcp}\n  - {mark: 7, to: \"2001:db8::/64\"}\n"), &["6:12: warning: marks[1].mark: no IPv6 service has `mark: 7`, so the rule does nothing"]),
        row("no condition", marks("  - {mark: 7}\n"), &["5:5: error: marks[0]: the rule would fit every packet; give it at least one of `from`, `to`, `protocol`,"]),
        row("no mark", marks("  - {protocol: tcp}\n"), &["5:5: error: marks[0].mark: `mark` is missing from the mark rule that starts here"]),
        row("mark 0 of a rule", marks("  - {mark: 0, protocol: tcp}\n"), &["5:12: error: marks[0].mark: 0 is out of range; 1 to 4294967295 is allowed"]),
        row("same conditions", marks("  - {mark: 7, protocol: tcp, port: 80}\n  - {mark: 7, protocol: tcp, port: 80-80}\n"), &["6:12: error: marks[1].mark: the rule of line 5 fits every packet that this one does and comes first, so this"]),
        row("narrower conditions", marks("  - {mark: 7, to: 198.51.100.0/24, protocol: tcp}\n  - {mark: 7, to: 198.51.100.1/32, protocol: tcp, port: 80}\n"), &["6:12: error: marks[1].mark: the rule of line 5 fits every packet that this one does and comes first, so this"]),
        row("narrower ports", marks("  - {mark: 7, port: 80-90}\n  - {mark: 7, port: 91}\n  - {mark: 7, from: 10.0.0.0/8, port: 85-90}\n"), &["7:12: error: marks[2].mark: the rule of line 5 fits every packet that this one does and comes first, so this"]),
        row("all of a family", marks("  - {mark: 7, from: 0.0.0.0/0}\n  - {mark: 7, to: 10.0.0.0/8}\n"), &["6:12: error: marks[1].mark: the rule of line 5 fits every packet that this one does and comes first, so this"]),
        row("wider conditions", marks("  - {mark: 7, to: 198.51.100.1/32, protocol: tcp, port: 80}\n  - {mark: 7, to: 198.51.100.0/24, protocol: tcp}\n  - {mark: 7, to: 198.51.100.0/24}\n  - {mark: 7, from: 0.0.0.0/0}\n  - {mark: 7, port: 1-65535}\n"), &[]),
        row("ports that earlier rules divide", marks("  - {mark: 7, port: 60-90}\n  - {mark: 7, port: 1-40}\n  - {mark: 7, protocol: tcp, port: 30-60}\n  - {mark: 7, protocol: tcp, port: 20-70}\n"), &["8:12: error: marks[3].mark: earlier rules (lines 5, 6, 7) together fit every packet that this one does, so"]),
        row("ports of which one is left", marks("  - {mark: 7, port: 61-90}\n  - {mark: 7, port: 1-59}\n  - {mark: 7, port: 20-70}\n"), &[]),
        row("source ports that earlier rules divide", marks("  - {mark: 7, source_port: 1-1023}\n  - {mark: 7, source_port: 1024-65535}\n  - {mark: 7, source_port: 1000-2000, port: 80}\n  - {mark: 7, to: 192.0.2.0/24}\n"), &["7:12: error: marks[2].mark: earlier rules (lines 5, 6) together fit every packet that this one does, so"]),
        row("protocols that earlier rules divide", marks("  - {mark: 7, protocol: sctp}\n  - {mark: 7, protocol: tcp}\n  - {mark: 7, protocol: udp, port: 80-90}\n  - {mark: 7, to: 192.0.2.0/24, port: 81}\n"), &["8:12: error: marks[3].mark: earlier rules (lines 5, 6, 7) together fit every packet that this one does, so"]),
        row("the source port of FTP's data", marks("  - {mark: 7, source_port: 20}\n"), &["5:28: error: marks[0].source_port: no packet would fit: what comes from port 20, which is FTP's, is never"]),
        row("source ports with that of FTP's data", marks("  - {mark: 7, source_port: 20-21}\n"), &[]),
        row("addresses that no packet has", marks("  - {mark: 7, to: 224.0.1.0/24}\n  - {mark: 7, from: 127.0.0.0/8}\n"), &["5:19: error: marks[0].to: no packet would fit: each address of 224.0.1.0/24 is a multicast address, which no packet", "6:21: error: marks[1].from: no packet would fit: each address of 127.0.0.0/8 is a loopback address, which no packet"]),
        row("bits behind the prefix", marks("  - {mark: 7, from: 10.1.2.3/8}\n"), &["5:21: error: marks[0].from: 10.1.2.3/8 has bits behind its prefix length; did you mean `10.0.0.0/8`?"]),
        row("an address as a prefix", marks("  - {mark: 7, to: 192.0.2.80}\n"), &["5:19: error: marks[0].to: `192.0.2.80` has no prefix length; did you mean `192.0.2.80/24`?"]),
        row("families of a rule", marks("  - {mark: 7, from: 10.0.0.0/8, to: \"2001:db8::/64\"}\n"), &["5:37: error: marks[0].to: `from` and `to` are of different address families, so no packet would fit"]),
        row("input", marks("  - {mark: 7, input: wan1}\n"), &["5:22: error: marks[0].input: there is no port `wan1`; did you mean `wan0`?"]),
        row("ports", marks("  - {mark: 7, port: 80-90, source_port: \"1024-65535\"}\n"), &[]),
        row("ports from high to low", marks("  - {mark: 7, port: 90-80}\n"), &["5:21: error: marks[0].port: `90-80` ends before it begins; did you mean `80-90`?"]),
        row("port 0 of a rule", marks("  - {mark: 7, port: 0}\n"), &["5:21: error: marks[0].port: `0` is neither a port from 1 to 65535 nor ports such as 80-90"]),
        row("large port of a rule", marks("  - {mark: 7, port: 1-65536}\n"), &["5:21: error: marks[0].port: `1-65536` is neither a port from 1 to 65535 nor ports such as 80-90"]),
        row("list of ports", marks("  - {mark: 7, port: [80, 443]}\n"), &["5:21: error: marks[0].port: expected a port or ports such as 80-90, found a list"]),
        row("protocol of a rule", marks("  - {mark: 7, protocol: icmp}\n"), &["5:25: error: marks[0].protocol: `icmp` is not one of `tcp`, `udp` and `sctp`"]),
        row("ipvs", format!("{}ipvs: {{expire_quiescent_template: true}}\n", udp("scheduler: rr")), &[]),
        row("switches", format!("{}ipvs: {{sloppy_tcp: true, sloppy_sctp: true, conn_reuse_mode: 3, expire_nodest_conn: true}}\n", udp("scheduler: rr")), &[]),
        row("reuse mode", format!("{}ipvs: {{conn_reuse_mode: 4}}\n", udp("scheduler: rr")), &["4:25: error: ipvs.conn_reuse_mode: 4 is out of range; 0 to 3 is allowed"]),
        row("unknown switch", format!("{}ipvs: {{expire_quiescent: true}}\n", udp("scheduler: rr")), &["4:8: error: ipvs.expire_quiescent: unknown key; known here are `expire_quiescent_template`"]),
    ]);
}

#[test]
fn what_quic_lb_says_of_a_configuration_stands_at_it() {
    let config = QuicConfig {
        codepoint: 0,
        length_encoded: false,
        server_id_len: 15,
        nonce_len: 18,
        key: None,
    };
    let text = quic(
        "{codepoint: 0, server_id_length: 15, nonce_length: 18}",
        "      - {address: 10.0.0.11, quic_server_id: \"000102030405060708090a0b0c0d0e\"}\n",
    );
    let want = QuicLb::new(&[config])
        .err()
        .map(|why| format!("8:17: error: services[0].payload_key.configs[0]: {why}"));
    assert_eq!(lines(&text), Vec::from_iter(want));
}

#[test]
fn every_key_of_persistence_reaches_the_data_path() {
    let def = lowered(&udp(
        "one_packet: true, on_server_down: drop, persistence: {timeout: 60s, netmask: 0.0.0.0, engine: sip, \
         on_no_key: drop, max_templates: 1k, max_templates_per_client: 7}",
    ));
    assert!(def.one_packet);
    assert_eq!(def.on_server_down, Some(OnServerDown::Drop));
    assert_eq!(
        def.persistence,
        Some(Persistence {
            timeout: Duration::from_secs(60),
            grouping: Grouping::Mask4(0),
            engine: Some(Engine::Sip),
            on_no_key: OnNoKey::Drop,
            max_templates: 1024,
            max_per_client: 7,
        })
    );
    let def = lowered(&udp(
        "on_server_down: keep, persistence: {engine: payload, offset: 36, length: 12, unit: bits}",
    ));
    assert_eq!(def.on_server_down, Some(OnServerDown::Keep));
    assert_eq!(
        def.persistence.and_then(|p| p.engine),
        Field::new(36, 12, FieldUnit::Bits)
            .ok()
            .map(Engine::Payload)
    );
}

#[test]
fn persistence_has_the_defaults_of_lvs() {
    let persistence = |text: &str| lowered(text).persistence.expect("it is given");
    let v4 = udp("persistence: {}");
    assert_eq!(
        persistence(&v4),
        Persistence {
            timeout: Duration::from_secs(360),
            grouping: Grouping::Mask4(u32::MAX),
            engine: None,
            on_no_key: OnNoKey::Fallback,
            max_templates: 0,
            max_per_client: 0,
        }
    );
    let v6 = v4
        .replace("192.0.2.80,", "\"2001:db8::80\",")
        .replace("10.0.0.11", "\"2001:db8::11\"");
    assert_eq!(persistence(&v6).grouping, Grouping::Prefix6(128));
    let def = lowered(&udp("scheduler: rr"));
    assert_eq!((def.one_packet, def.persistence), (false, None));
    assert_eq!(
        (def.payload_key, def.hash_key, def.on_server_down),
        (None, None, None)
    );
}

#[test]
fn a_netmask_and_its_prefix_length_are_the_same() {
    for (netmask, mask) in [
        ("0.0.0.0", 0),
        ("0", 0),
        ("255.255.255.0", 0xffff_ff00),
        ("24", 0xffff_ff00),
        ("255.255.255.255", u32::MAX),
        ("32", u32::MAX),
        ("128.0.0.0", 0x8000_0000),
    ] {
        let text = udp(&format!("persistence: {{netmask: {netmask}}}"));
        let grouping = lowered(&text).persistence.map(|p| p.grouping);
        assert_eq!(grouping, Some(Grouping::Mask4(mask)), "{netmask}");
    }
    let v6 = |len: u8| {
        format!(
            "{PORT}services: [{{mark: 7, family: ipv6, persistence: {{netmask: {len}}}, \
             servers: [{{address: \"2001:db8::11\"}}]}}]\nmarks: [{{mark: 7, protocol: udp}}]\n"
        )
    };
    for len in [0, 1, 64, 128] {
        let grouping = lowered(&v6(len)).persistence.map(|p| p.grouping);
        assert_eq!(grouping, Some(Grouping::Prefix6(len)));
    }
}

#[test]
fn every_key_of_a_payload_key_reaches_the_data_path() {
    let def = lowered(&udp("scheduler: offh, hash_key: \"0123456789abcdef\", \
         payload_key: {offset: 11, length: 8, when: {offset: 2, value: 19fe}}"));
    assert_eq!(def.scheduler, "offh");
    assert_eq!(def.hash_key, Some(0x0123_4567_89ab_cdef));
    assert_eq!(
        def.payload_key,
        Some(PayloadKey::Field(SessionKey {
            field: Field::new(11, 8, FieldUnit::Bytes).expect("it is a field"),
            when: Some(When {
                offset: 2,
                value: vec![0x19, 0xfe],
            }),
        }))
    );
    let def = lowered(&quic(
        "{codepoint: 2, server_id_length: 3, nonce_length: 4, length_encoded: true, key: 000102030405060708090a0b0c0d0e0f}",
        SERVERS,
    ));
    let config = QuicConfig {
        codepoint: 2,
        length_encoded: true,
        server_id_len: 3,
        nonce_len: 4,
        key: Some([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
    };
    assert_eq!(
        def.payload_key,
        QuicLb::new(&[config]).ok().map(PayloadKey::Quic)
    );
    assert_eq!(def.servers[0].quic_server_id, [0, 0, 1]);
    assert_eq!(def.servers[1].quic_server_id, [0, 0, 2]);
}

#[test]
fn marks_reach_the_data_path() {
    let text = format!(
        "{PORT}marks:
  - {{mark: 7, from: 10.0.0.0/8, to: 192.0.2.0/24, protocol: tcp, source_port: 1-1023, port: 80, input: wan0}}
  - {{mark: 4294967295, protocol: udp, port: \"80-90\"}}
services:
  - {{mark: 7, servers: [{{address: 10.0.0.11}}, {{address: 10.0.0.12, port: 81}}]}}
  - {{mark: 4294967295, family: ipv6, servers: [{{address: \"2001:db8::11\"}}]}}
ipvs: {{expire_quiescent_template: true, sloppy_tcp: true, sloppy_sctp: true, conn_reuse_mode: 2, expire_nodest_conn: true}}
timeouts: {{sctp_c_echoed: 5s}}
limits: {{templates: 2M}}
"
    );
    let loaded = load_str("t.yaml", &text).expect("it is valid");
    assert!(loaded.warnings.is_empty(), "{:#?}", loaded.warnings);
    let setup = loaded.lowered.setup;
    let prefix = |addr: &str, len| {
        Some(Prefix {
            addr: addr.parse().expect("an address"),
            len,
        })
    };
    assert_eq!(
        setup.marks,
        [
            MarkRule {
                mark: 7,
                from: prefix("10.0.0.0", 8),
                to: prefix("192.0.2.0", 24),
                proto: Some(6),
                source_ports: Some((1, 1023)),
                ports: Some((80, 80)),
                input: Some(PortId(0)),
            },
            MarkRule {
                mark: u32::MAX,
                proto: Some(17),
                ports: Some((80, 90)),
                ..MarkRule::default()
            },
        ]
    );
    let [a, b] = &setup.services[..] else {
        panic!("two services")
    };
    assert_eq!(
        (a.name.as_str(), b.name.as_str()),
        ("mark-7", "mark-4294967295-ipv6")
    );
    assert_eq!(
        a.kind,
        ServiceKind::Mark {
            af: Af::V4,
            mark: 7
        }
    );
    assert_eq!(
        b.kind,
        ServiceKind::Mark {
            af: Af::V6,
            mark: u32::MAX
        }
    );
    assert_eq!((a.servers[0].port, a.servers[1].port), (0, 81));
    assert!(setup.expire_quiescent_template);
    let switches = Switches {
        sloppy_tcp: true,
        sloppy_sctp: true,
        conn_reuse_mode: 2,
        expire_nodest_conn: true,
    };
    assert_eq!(setup.switches, switches);
    assert_eq!(setup.timeouts.sctp_c_echoed, Duration::from_secs(5));
    assert_eq!(loaded.lowered.limits.templates, 2 << 20);
}

#[test]
fn a_service_of_every_port_keeps_the_ports_of_packets() {
    let def = lowered(&udp("persistence: {}").replace("5060", "0"));
    assert_eq!((def.port(), def.servers[0].port), (0, 0));
    assert_eq!(def.name, "udp-192.0.2.80-0");
    assert!(def.keeps_port());
}

#[test]
fn defaults_of_sessions_are_printed_and_read_back() {
    let texts = [
        udp("persistence: {engine: payload, offset: 1, length: 2}"),
        udp("scheduler: offh, payload_key: {offset: 1, length: 2}, hash_key: 0000000000000001"),
        quic(CONFIG, SERVERS),
        mark("persistence: {netmask: 24}"),
        udp("persistence: {}").replace("5060", "0"),
    ];
    for text in &texts {
        let first = load_str("t.yaml", text).expect("it is valid");
        let yaml = to_yaml(&first.config);
        let second = load_str("again", &yaml).expect("what is printed is valid");
        assert_eq!(first.config, second.config, "{yaml}");
        assert_eq!(first.lowered, second.lowered, "{yaml}");
        let json: Config =
            serde_json::from_value(to_json(&first.config)).expect("it is JSON of it");
        assert_eq!(first.config, json);
    }
    let json = |i: usize| to_json(&load_str("t.yaml", &texts[i]).expect("it is valid").config);
    let persistence = &json(0)["services"][0]["persistence"];
    assert_eq!(persistence["timeout"], "6m");
    assert_eq!(persistence["netmask"], "255.255.255.255");
    assert_eq!(persistence["unit"], "bytes");
    assert_eq!(persistence["on_no_key"], "fallback");
    assert_eq!(persistence["max_templates"], 0);
    let service = &json(1)["services"][0];
    assert_eq!(service["payload_key"]["type"], "field");
    assert_eq!(service["payload_key"]["unit"], "bytes");
    assert_eq!(service["one_packet"], false);
    let service = &json(3)["services"][0];
    assert_eq!(service["family"], "ipv4");
    assert_eq!(service["persistence"]["netmask"], "255.255.255.0");
    assert_eq!(json(3)["limits"]["templates"], 262_144);
    assert_eq!(json(3)["ipvs"]["expire_quiescent_template"], false);
}

#[test]
fn services_that_were_not_checked_are_refused_when_they_are_made() {
    let make = |json: &str| {
        let service: model::Service = serde_json::from_str(json).expect("it is a service");
        lower_service(&service)
    };
    let with = |keys: &str| {
        make(&format!(
            r#"{{"protocol": "udp", "address": "192.0.2.80", "port": 80, {keys}}}"#
        ))
    };
    assert_eq!(make("{}"), Err(LowerError::Incomplete));
    assert!(with(r#""persistence": {"engine": "payload"}"#).is_err());
    assert!(with(r#""persistence": {"netmask": 64}"#).is_err());
    assert!(with(r#""payload_key": {"offset": 65536, "length": 1}"#).is_err());
    assert!(with(r#""hash_key": "00""#).is_err());
    assert!(
        with(
            r#""payload_key": {"type": "quic", "configs": [{"codepoint": 0, "server_id_length": 3, "nonce_length": 4, "key": "00"}]}"#
        )
        .is_err()
    );
    assert!(with(r#""persistence": {"netmask": "255.255.0.0"}"#).is_ok());
    assert!(make(r#"{"mark": 7}"#).is_ok());
}
