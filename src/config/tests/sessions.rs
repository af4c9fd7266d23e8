//! Marks, one-packet scheduling, persistence and payload keys: what is refused, and what the rest becomes.

use super::*;
use crate::forward::defs::{
    Grouping, MarkRule, OnNoKey, OnServerDown, Persistence, Prefix, ServiceKind,
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
        row("on UDP", udp("one_packet: true"), &[]),
        row("on TCP", tcp("one_packet: true"), &["?"]),
        row("not on TCP", tcp("one_packet: false"), &[]),
        row("on a mark with masq", mark("one_packet: true"), &["?"]),
        row("on a mark without masq", mark("one_packet: true").replace("11}", "11, forwarding: direct}"), &[]),
        row("with a payload key", udp("one_packet: true, payload_key: {offset: 0, length: 4}"), &["?"]),
        row("as a word", udp("one_packet: yes"), &["?"]),
        row("by its name in ipvsadm", udp("ops: true"), &["?"]),
    ]);
}

#[test]
fn persistence_is_checked() {
    let persistence = |keys: &str| udp(&format!("persistence: {{{keys}}}"));
    let v6 = |keys: &str| persistence(keys).replace("192.0.2.80,", "\"2001:db8::80\",").replace("10.0.0.11", "\"2001:db8::11\"");
    check(vec![
        row("all defaults", persistence(""), &[]),
        row("not a map", udp("persistence: true"), &["?"]),
        row("no value", service("  - protocol: udp\n    address: 192.0.2.80\n    port: 53\n    persistence:\n    servers: [{address: 10.0.0.11}]\n"), &["?"]),
        row("timeout of 0", persistence("timeout: 0s"), &["?"]),
        row("quoted timeout of 0", persistence("timeout: \"0s\""), &["?"]),
        row("long timeout", persistence("timeout: 32d"), &["?"]),
        row("timeout without unit", persistence("timeout: 300"), &["?"]),
        row("netmask", persistence("netmask: 255.255.255.0"), &[]),
        row("netmask 0", persistence("netmask: 0.0.0.0"), &[]),
        row("prefix length", persistence("netmask: 24"), &[]),
        row("prefix length 0", persistence("netmask: 0"), &[]),
        row("netmask with holes", persistence("netmask: 255.0.255.0"), &["?"]),
        row("inverted netmask", persistence("netmask: 0.0.0.255"), &["?"]),
        row("long prefix length for IPv4", persistence("netmask: 33"), &["?"]),
        row("prefix length with a slash", persistence("netmask: /24"), &["?"]),
        row("no netmask at all", persistence("netmask: any"), &["?"]),
        row("prefix length of IPv6", v6("netmask: 64"), &[]),
        row("prefix length 0 of IPv6", v6("netmask: 0, engine: sip"), &[]),
        row("prefix length beyond IPv6", v6("netmask: 129"), &["?"]),
        row("IPv4 netmask for IPv6", v6("netmask: 0.0.0.0"), &["?"]),
        row("sip", persistence("engine: sip, netmask: 0.0.0.0"), &[]),
        row("unknown engine", persistence("engine: sipp"), &["?"]),
        row("field of no engine", persistence("offset: 1, length: 2"), &["?"]),
        row("field of sip", persistence("engine: sip, unit: bits"), &["?"]),
        row("payload without a field", persistence("engine: payload"), &["?"]),
        row("empty field", persistence("engine: payload, offset: 0, length: 0"), &["?"]),
        row("long field", persistence("engine: payload, offset: 0, length: 257"), &["?"]),
        row("long field in bits", persistence("engine: payload, offset: 0, length: 2049, unit: bits"), &["?"]),
        row("field beyond 64 KiB", persistence("engine: payload, offset: 65536, length: 4"), &["?"]),
        row("no follow-up of a bad field", persistence("engine: payload, offset: x, length: 4"), &["?"]),
        row("drop", persistence("engine: sip, on_no_key: drop"), &[]),
        row("drop without an engine", persistence("on_no_key: drop"), &["?"]),
        row("no follow-up of a bad engine", persistence("engine: sipp, on_no_key: drop, offset: 1"), &["?"]),
        row("limits", persistence("max_templates: 1k, max_templates_per_client: 10"), &[]),
        row("more than all may have", persistence("max_templates: 1M"), &["?"]),
        row("more for one client than all may have", persistence("max_templates_per_client: 1M"), &["?"]),
        row("as many as all may have", format!("{}limits: {{templates: 1M}}\n", persistence("max_templates: 1M")), &[]),
        row("far too many", persistence("max_templates: 1G"), &["?"]),
        row("keepalived's word", udp("persistence_timeout: 60"), &["?"]),
        row("keepalived's mask", persistence("granularity: 255.255.255.0"), &["?"]),
        row("with a payload key", udp("persistence: {}, payload_key: {offset: 0, length: 4}"), &["?"]),
        row("negative limit", persistence("max_templates: -1"), &["?"]),
        row("no templates", format!("{}limits: {{templates: 0}}\n", persistence("")), &["?"]),
    ]);
}

#[test]
fn an_engine_where_no_payload_is_seen_is_a_warning() {
    check(vec![
        row("sip on TCP", tcp("persistence: {engine: sip}"), &["?"]),
        row("payload on TCP", tcp("persistence: {engine: payload, offset: 0, length: 4}"), &["?"]),
        row("sip on a mark", mark("persistence: {engine: sip}"), &["?"]),
        row("sip on SCTP", udp("persistence: {engine: sip}").replace("udp", "sctp"), &["?"]),
    ]);
}

#[test]
fn payload_keys_are_checked() {
    let key = |keys: &str| udp(&format!("payload_key: {{{keys}}}"));
    check(vec![
        row("a field", key("offset: 11, length: 8, when: {offset: 0, value: \"19\"}"), &[]),
        row("nothing", key(""), &["?"]),
        row("no offset", key("length: 8"), &["?"]),
        row("empty field", key("offset: 0, length: 0"), &["?"]),
        row("long field", key("offset: 0, length: 300"), &["?"]),
        row("beyond 64 KiB", key("offset: 70000, length: 4"), &["?"]),
        row("beyond 64 KiB in bits", key("offset: 524052, length: 8, unit: bits"), &["?"]),
        row("beyond any number", key("offset: 4294967296, length: 4"), &["?"]),
        row("unit", key("offset: 0, length: 4, unit: byte"), &["?"]),
        row("type", key("type: field, offset: 0, length: 4"), &[]),
        row("unknown type", key("type: quick, offset: 0, length: 4"), &["?"]),
        row("on TCP", tcp("payload_key: {offset: 0, length: 4}"), &["?"]),
        row("on a mark", mark("payload_key: {offset: 0, length: 4}"), &["?"]),
        row("on port 0", udp("payload_key: {offset: 0, length: 4}").replace("5060", "0"), &["?"]),
        row("condition without a value", key("offset: 0, length: 4, when: {offset: 0}"), &["?"]),
        row("condition in decimal", key("offset: 0, length: 4, when: {offset: 0, value: 9}"), &["?"]),
        row("condition with 0x", key("offset: 0, length: 4, when: {offset: 0, value: 0x19}"), &["?"]),
        row("empty condition", key("offset: 0, length: 4, when: {offset: 0, value: \"\"}"), &["?"]),
        row("condition beyond 64 KiB", key("offset: 0, length: 4, when: {offset: 65507, value: \"19\"}"), &["?"]),
        row("long condition", key(&format!("offset: 0, length: 4, when: {{offset: 0, value: \"{}\"}}", "00".repeat(257))), &["?"]),
        row("configurations of a field", key("offset: 0, length: 4, configs: [{codepoint: 0, server_id_length: 3, nonce_length: 4}]"), &["?"]),
        row("another scheduler", udp("scheduler: rr, payload_key: {offset: 0, length: 4}"), &[]),
        row("offh", udp("scheduler: offh, payload_key: {offset: 0, length: 4}"), &[]),
        row("offh without a field", udp("scheduler: offh"), &["?"]),
        row("offh and persistence", udp("scheduler: offh, persistence: {}"), &["?"]),
        row("no follow-up of a bad key", udp("scheduler: offh, payload_key: 7"), &["?"]),
        row("hash key", udp("scheduler: offh, payload_key: {offset: 0, length: 4}, hash_key: \"0123456789abcdef\""), &[]),
        row("hash key without quotes", udp("scheduler: offh, payload_key: {offset: 0, length: 4}, hash_key: 0123456789012345"), &[]),
        row("short hash key", udp("scheduler: offh, payload_key: {offset: 0, length: 4}, hash_key: \"01234567\""), &["?"]),
        row("odd hash key", udp("scheduler: offh, payload_key: {offset: 0, length: 4}, hash_key: \"0123456789abcde\""), &["?"]),
        row("hash key of rr", udp("scheduler: rr, hash_key: \"0123456789abcdef\""), &["?"]),
        row("server id without QUIC", key("offset: 0, length: 4").replace("11}", "11, quic_server_id: \"01\"}"), &["?"]),
        row("on_server_down", udp("on_server_down: keep"), &[]),
        row("on_server_down of HAProxy", udp("on_server_down: redispatch"), &["?"]),
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
        row("encrypted", configs("{codepoint: 6, server_id_length: 3, nonce_length: 16, length_encoded: true, key: 8f95f09245765f80256934e50c66207f}"), &[]),
        row("no configuration", configs(""), &["?"]),
        row("no list", udp("payload_key: {type: quic}").replace("11}", "11, quic_server_id: \"01\"}"), &["?"]),
        row("incomplete", configs("{codepoint: 0}"), &["?"]),
        row("codepoint", configs("{codepoint: 7, server_id_length: 3, nonce_length: 4}"), &["?"]),
        row("codepoint twice", configs(&format!("{CONFIG}, {CONFIG}")), &["?"]),
        row("length of a server id", configs("{codepoint: 0, server_id_length: 16, nonce_length: 4}"), &["?"]),
        row("length of a nonce", configs("{codepoint: 0, server_id_length: 3, nonce_length: 3}"), &["?"]),
        row("short key", configs("{codepoint: 0, server_id_length: 3, nonce_length: 4, key: \"0011\"}"), &["?"]),
        row("field of QUIC", configs(CONFIG).replace("type: quic", "{type: quic, offset: 1}").replace("{type: quic, offset: 1}", "type: quic\n      offset: 1"), &["?"]),
        row("condition of QUIC", configs(CONFIG).replace("type: quic", "type: quic\n      when: {offset: 0, value: \"19\"}"), &["?"]),
        row("offh", configs(CONFIG).replace("port: 443", "port: 443\n    scheduler: offh"), &["?"]),
        row("server without an id", servers("      - {address: 10.0.0.11}\n"), &["?"]),
        row("short server id", servers("      - {address: 10.0.0.11, quic_server_id: \"0001\"}\n"), &["?"]),
        row("same server id", servers(&SERVERS.replace("2\"", "1\"")), &["?"]),
        row("server id with colons", servers("      - {address: 10.0.0.11, quic_server_id: \"00:00:01\"}\n"), &["?"]),
        row("lengths differ", quic("{codepoint: 0, server_id_length: 3, nonce_length: 4}, {codepoint: 1, server_id_length: 4, nonce_length: 4}", "      - {address: 10.0.0.11, quic_server_id: \"000001\"}\n"), &["?"]),
    ]);
}

#[test]
fn services_of_every_port_and_of_marks_are_checked() {
    let marks = |rules: &str| format!("{}marks:\n{rules}", one("mark: 7", "persistence: {}"));
    check(vec![
        row("a mark", mark("persistence: {}"), &[]),
        row("a mark without persistence", mark("scheduler: rr"), &[]),
        row("a mark and an address", mark("protocol: udp, address: 192.0.2.80, port: 80"), &["?"]),
        row("mark 0", mark("scheduler: rr").replace("{mark: 7, sch", "{mark: 0, sch"), &["?"]),
        row("a large mark", mark("scheduler: rr").replace("mark: 7", "mark: 4294967295"), &[]),
        row("too large a mark", mark("scheduler: rr").replace("{mark: 7, sch", "{mark: 4294967296, sch"), &["?"]),
        row("keepalived's word", mark("scheduler: rr").replace("{mark: 7, sch", "{fwmark: 7, sch"), &["?"]),
        row("family of an address", udp("family: ipv4"), &["?"]),
        row("family", mark("family: ipv4"), &[]),
        row("unknown family", mark("family: inet"), &["?"]),
        row("another family's mark", mark("family: ipv6").replace("10.0.0.11", "\"2001:db8::11\""), &["?"]),
        row("server of the other family", mark("family: ipv6").replace("192.0.2.0/24", "\"2001:db8::/64\""), &["?"]),
        row("same mark", mark("persistence: {}").replace("services:\n", "services:\n  - {mark: 7, servers: [{address: 10.0.0.11}]}\n"), &["?"]),
        row("same mark of another family", mark("persistence: {}").replace("services:\n", "services:\n  - {mark: 7, family: ipv6, servers: [{address: \"2001:db8::11\"}]}\n").replace("to: 192.0.2.0/24", "protocol: udp"), &[]),
        row("port of a server of a mark", mark("scheduler: rr").replace("11}", "11, port: 8080}"), &[]),
        row("port of a server of a persistent mark", mark("persistence: {}").replace("11}", "11, port: 8080}"), &["?"]),
        row("port of a direct server of a mark", mark("scheduler: rr").replace("11}", "11, port: 8080, forwarding: direct}"), &["?"]),
        row("port 0", udp("persistence: {}").replace("5060", "0"), &[]),
        row("port 0 of a server", udp("persistence: {}").replace("5060", "0").replace("11}", "11, port: 0}"), &[]),
        row("port 0 without persistence", udp("scheduler: rr").replace("5060", "0"), &["?"]),
        row("port 0 beside another", udp("persistence: {}").replace("5060", "0").replace("services:\n", "services:\n  - {protocol: udp, address: 192.0.2.80, port: 53, servers: [{address: 10.0.0.11}]}\n"), &[]),
        row("port of a server of port 0", udp("persistence: {}").replace("5060", "0").replace("11}", "11, port: 8080}"), &["?"]),
        row("mark without a rule", one("mark: 7", "persistence: {}"), &["?"]),
        row("rule without a service", marks("  - {mark: 7, protocol: tcp}\n  - {mark: 8, port: 80}\n"), &["?"]),
        row("rule without a service of its family", marks("  - {mark: 7, protocol: tcp}\n  - {mark: 7, to: \"2001:db8::/64\"}\n"), &["?"]),
        row("no condition", marks("  - {mark: 7}\n"), &["?"]),
        row("no mark", marks("  - {protocol: tcp}\n"), &["?"]),
        row("mark 0 of a rule", marks("  - {mark: 0, protocol: tcp}\n"), &["?"]),
        row("same conditions", marks("  - {mark: 7, protocol: tcp, port: 80}\n  - {mark: 7, protocol: tcp, port: 80-80}\n"), &["?"]),
        row("bits behind the prefix", marks("  - {mark: 7, from: 10.1.2.3/8}\n"), &["?"]),
        row("an address as a prefix", marks("  - {mark: 7, to: 192.0.2.80}\n"), &["?"]),
        row("families of a rule", marks("  - {mark: 7, from: 10.0.0.0/8, to: \"2001:db8::/64\"}\n"), &["?"]),
        row("input", marks("  - {mark: 7, input: wan1}\n"), &["?"]),
        row("ports", marks("  - {mark: 7, port: 80-90, source_port: \"1024-65535\"}\n"), &[]),
        row("ports from high to low", marks("  - {mark: 7, port: 90-80}\n"), &["?"]),
        row("port 0 of a rule", marks("  - {mark: 7, port: 0}\n"), &["?"]),
        row("large port of a rule", marks("  - {mark: 7, port: 1-65536}\n"), &["?"]),
        row("list of ports", marks("  - {mark: 7, port: [80, 443]}\n"), &["?"]),
        row("protocol of a rule", marks("  - {mark: 7, protocol: icmp}\n"), &["?"]),
        row("ipvs", format!("{}ipvs: {{expire_quiescent_template: true}}\n", udp("scheduler: rr")), &[]),
        row("unknown switch", format!("{}ipvs: {{expire_quiescent: true}}\n", udp("scheduler: rr")), &["?"]),
    ]);
}
