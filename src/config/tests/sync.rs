//! State sync: what is refused, and what the rest becomes.

use std::path::PathBuf;

use super::*;
use crate::sync::ipvs::Version;
use crate::sync::master::Policy;
use crate::sync::settings::{Format as SyncFormat, Role, Settings};

/// A file whose third line is the section `sync` with these keys, from column 8 on.
fn sync(keys: &str) -> String {
    format!("{PORT}{WEB}sync: {{{keys}}}\n")
}

/// The same with a key file and an interface, and the keys from column 55 on.
fn keyed(keys: &str) -> String {
    sync(&format!(
        "key_file: /k, interface: eth1, name: a-director, {keys}"
    ))
}

/// The same in the `ipvs` format, and the keys from column 38 on.
fn ipvs(keys: &str) -> String {
    sync(&format!("format: ipvs, interface: eth1, {keys}"))
}

fn settings(text: &str) -> Settings {
    match load_str("t.yaml", text) {
        Ok(loaded) => {
            assert!(loaded.warnings.is_empty(), "{:#?}", loaded.warnings);
            loaded.lowered.sync
        }
        Err(problems) => panic!("{problems:#?}\nin:\n{text}"),
    }
}

#[test]
fn without_a_section_sync_is_off_and_has_its_defaults() {
    assert_eq!(settings(&format!("{PORT}{WEB}")), Settings::default());
    assert_eq!(settings(&sync("")), Settings::default());
}

#[test]
fn the_contract_is_understood() {
    let s = settings(&sync(
        "role: master, interface: eth2, group: 224.0.0.81:8848, sync_id: 1, format: polder, \
         key_file: /etc/polder/sync.key",
    ));
    let want = Settings {
        role: Role::Master,
        interface: Some("eth2".to_owned()),
        key_file: Some(PathBuf::from("/etc/polder/sync.key")),
        ..Settings::default()
    };
    assert_eq!(s, want);
}

#[test]
fn every_key_of_the_polder_format_is_lowered() {
    let s = settings(&sync(
        "role: both, peers: [\"[fe80::2]:9000\", \"[2001:db8::3]:9000\"], interface: eth2, ttl: 3, sync_id: 9, \
         max_message: 8000, key_file: /k, encrypt: true, name: left, interval: 250ms, backup_only: true, \
         sync_qlen_max: 77, ready: {coverage: 99.5%, timeout: 5s, file: /run/ready}",
    ));
    let peer = |text: &str| text.parse().expect("an address");
    let want = Settings {
        role: Role::Both,
        interface: Some("eth2".to_owned()),
        group: "224.0.0.81:9000".parse().expect("an address"),
        peers: vec![peer("[fe80::2]:9000"), peer("[2001:db8::3]:9000")],
        ttl: 3,
        sync_id: 9,
        max_len: Some(8000),
        key_file: Some(PathBuf::from("/k")),
        encrypt: true,
        queue_max: 77,
        interval: Duration::from_millis(250),
        ready_coverage: 0.995,
        ready_timeout: Duration::from_secs(5),
        ready_file: Some(PathBuf::from("/run/ready")),
        name: Some("left".to_owned()),
        backup_only: true,
        ..Settings::default()
    };
    assert_eq!(s, want);
}

#[test]
fn every_key_of_the_ipvs_format_is_lowered_under_the_name_of_its_sysctl() {
    let s = settings(&ipvs(
        "role: backup, sync_version: 0, sync_threshold: [5, 100], sync_refresh_period: 10s, sync_retries: 2, \
         sync_ports: 8, sync_persist_mode: true, group: \"[ff02::81]:8848\"",
    ));
    let want = Settings {
        role: Role::Backup,
        interface: Some("eth1".to_owned()),
        group: "[ff02::81]:8848".parse().expect("an address"),
        sync_id: 0,
        format: SyncFormat::Ipvs(Version::V0),
        policy: Policy {
            threshold: 5,
            period: 100,
            refresh: 1000,
            retries: 2,
            templates_only: true,
        },
        ports: 8,
        ..Settings::default()
    };
    assert_eq!(s, want);
    let s = settings(&ipvs("role: master"));
    assert_eq!(
        (s.format, s.policy, s.sync_id),
        (SyncFormat::Ipvs(Version::V1), Policy::default(), 0)
    );
}

#[test]
fn a_ports_name_means_its_kernel_interface() {
    let ports = "ports: [{name: sync-port-with-a-long-name, device: net_null0}]\n";
    let text = format!(
        "{ports}{WEB}sync: {{role: master, key_file: /k, interface: sync-port-with-a-long-name}}\n"
    );
    assert_eq!(
        settings(&text).interface.as_deref(),
        Some("polder-sync-por")
    );
    let tap = text.replace(
        "interface: sync-port-with-a-long-name",
        "interface: polder-sync-por",
    );
    assert_eq!(settings(&tap).interface.as_deref(), Some("polder-sync-por"));
}

#[test]
fn what_is_printed_has_only_keys_of_the_format_and_loads_as_the_same() {
    for text in [
        sync(""),
        keyed("role: both"),
        ipvs("role: master"),
        ipvs("peers: [\"192.0.2.99:8848\"]"),
    ] {
        let first = load_str("t.yaml", &text).expect("it is valid");
        let yaml = to_yaml(&first.config);
        let second = load_str("normalised", &yaml).expect("what is printed is valid");
        assert!(second.warnings.is_empty(), "{:#?}", second.warnings);
        assert_eq!(first.lowered, second.lowered, "{text}");
    }
}

#[test]
fn a_key_file_belongs_to_the_polder_format() {
    check(vec![
        row(
            "none while sync runs",
            sync("role: master, interface: eth1"),
            &["3:1: error: sync.key_file: `format: polder` needs a `key_file`, by which"],
        ),
        row("none while it is off", sync("interface: eth1"), &[]),
        row(
            "one in the other format",
            ipvs("role: master, key_file: /k, encrypt: true"),
            &[
                "3:63: error: sync.key_file: messages of `format: ipvs` are not authenticated, so that",
                "3:76: error: sync.encrypt: messages of `format: ipvs` can't be encrypted",
            ],
        ),
        row("no encryption in it", ipvs("encrypt: false"), &[]),
        row(
            "a relative one",
            sync("role: master, interface: eth1, key_file: sync.key"),
            &["3:49: error: sync.key_file: the file needs an absolute path"],
        ),
        row(
            "also the file of readiness",
            keyed("ready: {file: /k}"),
            &["3:71: error: sync.ready.file: this is the key file, which would be overwritten"],
        ),
        row(
            "a relative file of readiness",
            keyed("ready: {file: ready}"),
            &["3:71: error: sync.ready.file: the file needs an absolute path"],
        ),
    ]);
}

#[test]
fn a_key_of_the_other_format_is_a_warning() {
    check(vec![
        row(
            "of ipvs in polder",
            keyed("sync_retries: 1, sync_ports: 2"),
            &[
                "3:71: warning: sync.sync_retries: `sync_retries` is for `format: ipvs`",
                "3:86: warning: sync.sync_ports: `sync_ports` is for `format: ipvs`",
            ],
        ),
        row(
            "of polder in ipvs",
            ipvs("interval: 2s, ready: {coverage: 90%}"),
            &[
                "3:49: warning: sync.interval: `interval` is for `format: polder`",
                "3:71: warning: sync.ready.coverage: `coverage` is for `format: polder`",
            ],
        ),
        row(
            "a version without IPv6",
            ipvs("sync_version: 0")
                .replace("192.0.2.80", "\"2001:db8::80\"")
                .replace("10.0.0.11", "\"2001:db8::11\""),
            &[
                "3:53: warning: sync.sync_version: version 0 has no IPv6: connections of IPv6 services are not told of; did you mean `1`?",
            ],
        ),
    ]);
}

#[test]
fn messages_have_one_way_to_go() {
    check(vec![
        row(
            "a group that is none",
            keyed("group: 192.0.2.2:8848"),
            &[
                "3:64: error: sync.group: 192.0.2.2 is no multicast address, as that of a group is; directors are given one by one as `peers: [192.0.2.2:8848]`",
            ],
        ),
        row(
            "a group without a port",
            keyed("group: 224.0.0.81"),
            &[
                "3:64: error: sync.group: `224.0.0.81` is not an address and a port, such as 224.0.0.81:8848; did you mean `224.0.0.81:8848`?",
            ],
        ),
        row(
            "port 0",
            keyed("group: 224.0.0.81:0"),
            &[
                "3:64: error: sync.group: port 0 is none to send to; did you mean `224.0.0.81:8848`?",
            ],
        ),
        row(
            "an interface by its number",
            keyed("peers: [\"[fe80::1%3]:8848\"]"),
            &[
                "3:65: error: sync.peers[0]: `[fe80::1%3]:8848` names an interface by its number; give its name as `interface`; did you mean `[fe80::1]:8848`?",
            ],
        ),
        row(
            "both",
            keyed("group: 224.0.0.81:8848, peers: [192.0.2.2:8848]"),
            &[
                "3:64: error: sync.group: messages go to the `group` or to each of `peers`, not to both",
            ],
        ),
        row(
            "no peers",
            keyed("peers: []"),
            &["3:57: error: sync.peers: there must be at least one peer"],
        ),
        row(
            "bad peers",
            keyed(
                "peers: [192.0.2.2:8848, 192.0.2.2:8848, 224.0.0.81:8848, 192.0.2.10:8848, \"[2001:db8::1]:8848\", 192.0.2.3:8849, 0.0.0.0:8848]",
            ),
            &[
                "3:81: error: sync.peers[1]: the peer is given in line 3 already",
                "3:97: error: sync.peers[2]: 224.0.0.81 is a multicast address; give it as `group`",
                "3:114: error: sync.peers[3]: 192.0.2.10 is this director's own address",
                "3:131: error: sync.peers[4]: all peers must be of one address family",
                "3:153: error: sync.peers[5]: all peers must have one port, on which this director listens, too; did you mean `192.0.2.3:8848`?",
                "3:169: error: sync.peers[6]: 0.0.0.0 is the unspecified address, no address of a peer",
            ],
        ),
        row(
            "too many peers",
            keyed(&format!(
                "peers: [{}]",
                (0..17)
                    .map(|i| format!("10.1.0.{i}:8848"))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
            &["3:57: error: sync.peers: there can be at most 16 peers; use a `group`"],
        ),
        row(
            "channels beyond the last port",
            ipvs("group: 224.0.0.81:65534, sync_ports: 4"),
            &[
                "3:46: error: sync.group: there are not 4 ports, as `sync_ports` says, from 65534 on",
            ],
        ),
    ]);
}

#[test]
fn an_interface_is_the_kernels_or_a_ports() {
    let of = |interface: &str| sync(&format!("key_file: /k, interface: {interface}"));
    let ports = "ports: [{name: wan0, device: \"net_af_packet0,iface=veth0\", addresses: [192.0.2.10/24]}, \
                 {name: sync0, device: net_null1, kernel_interface: false}]\n";
    let with = |interface: &str| {
        format!("{ports}{WEB}sync: {{role: master, key_file: /k, interface: {interface}}}\n")
    };
    check(vec![
        row("the kernel's", of("bond0.100"), &[]),
        row(
            "a long name",
            of("a-very-long-name"),
            &[
                "3:33: error: sync.interface: the kernel's interfaces have names of up to 15 characters",
            ],
        ),
        row(
            "no name",
            of("\"\""),
            &["3:33: error: sync.interface: the interface has no name"],
        ),
        row(
            "a name that can be none",
            of("\"eth 1\""),
            &["3:33: error: sync.interface: `eth 1` can't be the name of an interface"],
        ),
        row("a port's", with("wan0"), &[]),
        row("a port's kernel interface", with("polder-wan0"), &[]),
        row(
            "a port's without one",
            with("sync0"),
            &[
                "3:47: error: sync.interface: port `sync0` has no kernel interface that messages could go by",
            ],
        ),
        row(
            "no port's kernel interface",
            with("polder-wan1"),
            &[
                "3:47: error: sync.interface: no port has the kernel interface `polder-wan1`; did you mean `polder-wan0`?",
            ],
        ),
        row(
            "a port's device",
            with("veth0"),
            &[
                "3:47: warning: sync.interface: `veth0` is the device of a port: its frames are Polder's, not the kernel's; did you mean `wan0`?",
            ],
        ),
        row(
            "none for an IPv4 group",
            sync("role: backup, key_file: /k"),
            &[
                "3:1: warning: sync.interface: without `interface` messages to 224.0.0.81 leave by whatever interface",
            ],
        ),
        row(
            "none for an IPv6 group",
            sync("group: \"[ff02::81]:8848\""),
            &[
                "3:1: error: sync.interface: an IPv6 group needs an `interface`, since it is another one on each link",
            ],
        ),
        row(
            "none for a link-local peer",
            sync("peers: [\"[fe80::1]:8848\"]"),
            &[
                "3:16: error: sync.peers[0]: fe80::1 is another host on each link; give the `interface`, too",
            ],
        ),
        row(
            "none for peers",
            sync("role: backup, key_file: /k, peers: [192.0.2.2:8848]"),
            &[],
        ),
    ]);
}

/// Specification §2.9.
#[test]
fn thresholds_and_channels_are_what_the_kernel_takes() {
    check(vec![
        row("without a period", ipvs("sync_threshold: [3, 0]"), &[]),
        row(
            "the wrong way round",
            ipvs("sync_threshold: [50, 3]"),
            &[
                "3:39: error: sync.sync_threshold: the sync threshold 50 must be below the period 3; did you mean `[3, 50]`?",
            ],
        ),
        row(
            "equal",
            ipvs("sync_threshold: [3, 3]"),
            &["3:39: error: sync.sync_threshold: the sync threshold 3 must be below the period 3"],
        ),
        row(
            "one number",
            ipvs("sync_threshold: [3]"),
            &["3:39: error: sync.sync_threshold: the threshold is two numbers"],
        ),
        row(
            "three numbers",
            ipvs("sync_threshold: [3, 50, 7]"),
            &["3:39: error: sync.sync_threshold: the threshold is two numbers"],
        ),
        row(
            "a negative one",
            ipvs("sync_threshold: [3, -1]"),
            &[
                "3:59: error: sync.sync_threshold[1]: -1 is out of range; 0 to 2147483647 is allowed",
            ],
        ),
        row(
            "no list",
            ipvs("sync_threshold: 3"),
            &["3:55: error: sync.sync_threshold: expected a list, found `3`"],
        ),
        row(
            "too many retries",
            ipvs("sync_retries: 4"),
            &["3:53: error: sync.sync_retries: 4 is out of range; 0 to 3 is allowed"],
        ),
        row(
            "no power of two",
            ipvs("sync_ports: 12"),
            &["3:51: error: sync.sync_ports: 12 is no power of two; did you mean `16`?"],
        ),
        row(
            "too many channels",
            ipvs("sync_ports: 128"),
            &["3:51: error: sync.sync_ports: 128 is out of range; 1 to 64 is allowed"],
        ),
    ]);
}

#[test]
fn values_of_sync_have_their_ranges() {
    check(vec![
        row(
            "a role",
            sync("role: primary"),
            &[
                "3:14: error: sync.role: `primary` is not one of `off`, `master`, `backup` and `both`; did you mean `master`?",
            ],
        ),
        row(
            "a format",
            sync("format: lvs"),
            &[
                "3:16: error: sync.format: `lvs` is not one of `polder` and `ipvs`; did you mean `ipvs`?",
            ],
        ),
        row(
            "a sync id",
            keyed("sync_id: 256"),
            &["3:66: error: sync.sync_id: 256 is out of range; 0 to 255 is allowed"],
        ),
        row(
            "a ttl",
            keyed("ttl: 0"),
            &["3:62: error: sync.ttl: 0 is out of range; 1 to 255 is allowed"],
        ),
        row(
            "a length",
            keyed("max_message: 100"),
            &["3:70: error: sync.max_message: 100 is out of range; 512 to 65507 is allowed"],
        ),
        row(
            "a share",
            keyed("ready: {coverage: 99}"),
            &[
                "3:75: error: sync.ready.coverage: `99` is not a share from 0 to 1 such as 99% or 0.99; did you mean `99%`?",
            ],
        ),
        row(
            "an interval",
            keyed("interval: 1ms"),
            &["3:67: error: sync.interval: 1ms is out of range; 100ms to 1m is allowed"],
        ),
        row(
            "a name",
            sync("name: a b"),
            &["3:14: error: sync.name: a name has letters, digits and"],
        ),
        row(
            "LVS's name of a key",
            sync("mcast_interface: eth1"),
            &["3:8: error: sync.mcast_interface: unknown key; did you mean `interface`?"],
        ),
        row(
            "a key without its prefix",
            ipvs("version: 1"),
            &["3:39: error: sync.version: unknown key; did you mean `sync_version`?"],
        ),
    ]);
}

/// Specification §9.1.
#[test]
fn servers_of_the_other_family_can_not_be_told_of() {
    let mixed = |sync: &str| {
        let web = WEB.replace("10.0.0.11", "\"2001:db8::11\", forwarding: tunnel");
        format!("{PORT}{web}sync: {{interface: eth1, {sync}}}\n")
    };
    check(vec![
        row("while sync is off", mixed("format: ipvs"), &[]),
        row(
            "in the ipvs format",
            mixed("format: ipvs, role: master"),
            &[
                "2:79: error: services[0].servers[0].address: with `sync.format: ipvs` an IPv4 service can't have an IPv6 server",
            ],
        ),
        row(
            "in the polder format",
            mixed("key_file: /k, role: backup"),
            &[
                "2:79: warning: services[0].servers[0].address: state sync can't tell of an IPv4 service's connections",
            ],
        ),
    ]);
}

#[test]
fn what_is_wrong_with_a_key_has_no_follow_ups_in_sync() {
    check(vec![
        row(
            "a role that is none",
            sync("role: x"),
            &["3:14: error: sync.role: `x` is not one of"],
        ),
        row(
            "a format that is none",
            sync("role: master, format: x, sync_retries: 1, interface: eth1"),
            &["3:30: error: sync.format: `x` is not one of"],
        ),
        row(
            "a key file that is none",
            sync("role: master, interface: eth1, key_file: [a]"),
            &["3:49: error: sync.key_file: expected a text, found a list"],
        ),
        row(
            "a group that is none",
            sync("role: master, key_file: /k, group: x"),
            &["3:43: error: sync.group: `x` is not an address and a port"],
        ),
    ]);
}
