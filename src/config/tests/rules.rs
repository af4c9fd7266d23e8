//! What one value demands of another: ports, routes, services and servers that contradict themselves or each other.

use super::*;

#[test]
fn dpdk_is_consistent() {
    check(vec![
        row(
            "core twice",
            format!("{PORT}{WEB}dpdk: {{cores: [1, 2, 1]}}\n"),
            &["3:22: error: dpdk.cores[2]: core 1 has a worker already, in line 3"],
        ),
        row(
            "no core",
            format!("{PORT}{WEB}dpdk: {{cores: []}}\n"),
            &["3:8: error: dpdk.cores: there must be at least one core"],
        ),
        row(
            "shared core",
            format!("{PORT}{WEB}dpdk: {{cores: [0]}}\n"),
            &["3:1: warning: dpdk.management_core: core 0 also has a worker"],
        ),
        row(
            "core beyond any machine",
            format!("{PORT}{WEB}dpdk: {{cores: [1024]}}\n"),
            &["3:16: error: dpdk.cores[0]: 1024 is out of range"],
        ),
        row(
            "EAL argument of ours",
            format!("{PORT}{WEB}dpdk: {{eal: [\"-l\", \"1\"]}}\n"),
            &["3:14: error: dpdk.eal[0]: Polder gives `-l` itself; set `dpdk.cores` instead"],
        ),
        row(
            "EAL argument of ours, cut short or joined to its value",
            format!("{PORT}{WEB}dpdk: {{eal: [--no-hu, -m512, --log-level=8, -n, \"4\"]}}\n"),
            &[
                "3:14: error: dpdk.eal[0]: Polder gives `--no-hu` itself; set `dpdk.hugepages`",
                "3:23: error: dpdk.eal[1]: Polder gives `-m512` itself; set `dpdk.memory`",
            ],
        ),
        row(
            "EAL arguments that end the program",
            format!(
                "{PORT}{WEB}dpdk: {{eal: [--help, -h, --hel, --log-level=help, --log-level, help]}}\n"
            ),
            &[
                "3:14: error: dpdk.eal[0]: with `--help` DPDK prints a help text and ends the program",
                "3:22: error: dpdk.eal[1]: with `-h` DPDK",
                "3:26: error: dpdk.eal[2]: with `--help` DPDK",
                "3:33: error: dpdk.eal[3]: with `--log-level=help` DPDK",
                "3:64: error: dpdk.eal[5]: with `--log-level=help` DPDK",
            ],
        ),
        row(
            "EAL arguments that DPDK would ignore",
            format!("{PORT}{WEB}dpdk: {{eal: [bogus, --log-level=8, more, --, -v]}}\n"),
            &[
                "3:14: error: dpdk.eal[0]: `bogus` is no argument of DPDK's",
                "3:36: error: dpdk.eal[2]: `more` is no argument of DPDK's",
                "3:42: error: dpdk.eal[3]: behind `--` DPDK ignores everything",
            ],
        ),
    ]);
}

#[test]
fn ports_are_consistent() {
    let ports = |lines: &str| format!("{WEB}ports:\n{lines}");
    check(vec![
        row(
            "no name",
            ports("  - device: net_null0\n"),
            &["3:5: error: ports[0].name: `name` is missing from the port that starts here"],
        ),
        row(
            "misspelt name",
            ports("  - nam: wan0\n    device: net_null0\n"),
            &["3:5: error: ports[0].nam: unknown key; did you mean `name`?"],
        ),
        row(
            "bad name",
            ports("  - {name: \"wan 0\", device: net_null0}\n"),
            &[
                "3:12: error: ports[0].name: a name has letters, digits and `_` `.` `-` only, no ` `",
            ],
        ),
        row(
            "same name",
            ports("  - {name: a, device: net_null0}\n  - {name: a, device: net_null1}\n"),
            &["4:12: error: ports[1].name: there is a port `a` in line 3 already"],
        ),
        row(
            "same TAP",
            ports(
                "  - {name: internet-a, device: net_null0}\n  - {name: internet-b, device: net_null1}\n",
            ),
            &[
                "4:12: error: ports[1].name: its kernel interface `polder-internet` (cut to the kernel's 15 characters) is the same as that of line 3",
            ],
        ),
        row(
            "same device",
            ports("  - {name: a, device: net_null0}\n  - {name: b, device: net_null0}\n"),
            &["4:23: error: ports[1].device: the port of line 3 has this device already"],
        ),
        row(
            "kernel's name",
            ports("  - {name: a, device: eth0}\n"),
            &[
                "3:23: warning: ports[0].device: `eth0` is neither a PCI address nor a DPDK vdev, which begin with net_; did you mean `net_af_packet0,iface=eth0`?",
            ],
        ),
        row(
            "bad PCI address",
            ports("  - {name: a, device: 3b:00}\n"),
            &["3:23: error: ports[0].device: `3b:00` is not a PCI address such as 0000:3b:00.0"],
        ),
        row(
            "address without length",
            ports("  - {name: a, device: net_null0, addresses: [192.0.2.10]}\n"),
            &[
                "3:46: error: ports[0].addresses[0]: `192.0.2.10` has no prefix length; did you mean `192.0.2.10/24`?",
            ],
        ),
        row(
            "length",
            ports("  - {name: a, device: net_null0, addresses: [192.0.2.10/33]}\n"),
            &[
                "3:46: error: ports[0].addresses[0]: the prefix length of `192.0.2.10/33` is not a number from 0 to 32",
            ],
        ),
        row(
            "subnet itself",
            ports("  - {name: a, device: net_null0, addresses: [192.0.2.0/24]}\n"),
            &["3:46: error: ports[0].addresses[0]: 192.0.2.0 is the subnet itself"],
        ),
        row(
            "broadcast",
            ports("  - {name: a, device: net_null0, addresses: [192.0.2.255/24]}\n"),
            &["3:46: error: ports[0].addresses[0]: 192.0.2.255 is the subnet's broadcast address"],
        ),
        row(
            "multicast",
            ports("  - {name: a, device: net_null0, addresses: [\"ff02::1/64\"]}\n"),
            &["3:46: error: ports[0].addresses[0]: ff02::1 is a multicast address"],
        ),
        row(
            "address twice",
            ports(
                "  - {name: a, device: net_null0, addresses: [10.0.0.1/24]}\n  - {name: b, device: net_null1, addresses: [10.0.0.1/8]}\n",
            ),
            &["4:46: error: ports[1].addresses[0]: the address is given in line 3 already"],
        ),
        row(
            "group MAC",
            ports("  - {name: a, device: net_null0, mac: 01:00:5e:00:00:01}\n"),
            &["3:39: error: ports[0].mac: the MAC address of a port must be a unicast one"],
        ),
        row(
            "MAC with dashes",
            ports("  - {name: a, device: net_null0, mac: 02-00-00-00-00-01}\n"),
            &[
                "3:39: error: ports[0].mac: `02-00-00-00-00-01` is not a MAC address such as 02:00:00:00:00:10; did you mean `02:00:00:00:00:01`?",
            ],
        ),
        row(
            "small MTU",
            ports("  - {name: a, device: net_null0, mtu: 500}\n"),
            &["3:39: error: ports[0].mtu: 500 is out of range; 576 to 9600 is allowed"],
        ),
        row(
            "small MTU for IPv6",
            ports("  - {name: a, device: net_null0, mtu: 1279, addresses: [\"2001:db8::1/64\"]}\n"),
            &["3:39: error: ports[0].mtu: 1279 is too small for the IPv6 addresses"],
        ),
    ]);
}

#[test]
fn neighbours_and_routes_are_consistent() {
    let with = |line: &str| format!("{PORT}{WEB}{line}\n");
    check(vec![
        row(
            "port of a neighbour",
            with("neighbours: [{port: wan1, address: 192.0.2.1, mac: 02:00:00:00:00:01}]"),
            &["3:21: error: neighbours[0].port: there is no port `wan1`; did you mean `wan0`?"],
        ),
        row(
            "port of a route",
            with("routes: [{to: 0.0.0.0/0, via: 192.0.2.1, port: outside}]"),
            &["3:48: error: routes[0].port: there is no port `outside`, only `wan0`"],
        ),
        row(
            "neighbour twice",
            with(
                "neighbours:\n  - {port: wan0, address: 192.0.2.1, mac: 02:00:00:00:00:01}\n  - {port: wan0, address: 192.0.2.1, mac: 02:00:00:00:00:02}",
            ),
            &["5:27: error: neighbours[1].address: the neighbour is given in line 4 already"],
        ),
        row(
            "group MAC of a neighbour",
            with("neighbours: [{port: wan0, address: 192.0.2.1, mac: ff:ff:ff:ff:ff:ff}]"),
            &[
                "3:52: error: neighbours[0].mac: the MAC address of a neighbour must be a unicast one",
            ],
        ),
        row(
            "neighbour off link",
            with("neighbours: [{port: wan0, address: 198.51.100.1, mac: 02:00:00:00:00:01}]"),
            &[
                "3:36: warning: neighbours[0].address: 198.51.100.1 is in none of the subnets of port `wan0`",
            ],
        ),
        row(
            "ourselves as neighbour",
            with("neighbours: [{port: wan0, address: 10.0.0.1, mac: 02:00:00:00:00:01}]"),
            &["3:36: error: neighbours[0].address: 10.0.0.1 is the director's own address"],
        ),
        row(
            "host bits",
            with("routes: [{to: 10.1.2.3/8, via: 192.0.2.1, port: wan0}]"),
            &[
                "3:15: error: routes[0].to: 10.1.2.3/8 has bits behind its prefix length; did you mean `10.0.0.0/8`?",
            ],
        ),
        row(
            "route twice",
            with(
                "routes: [{to: 0.0.0.0/0, via: 192.0.2.1, port: wan0}, {to: 0.0.0.0/0, via: 192.0.2.2, port: wan0}]",
            ),
            &["3:60: error: routes[1].to: there is a route to 0.0.0.0/0 in line 3 already"],
        ),
        row(
            "family of the next hop",
            with("routes: [{to: \"::/0\", via: 192.0.2.1, port: wan0}]"),
            &[
                "3:28: error: routes[0].via: the next hop must be of the destination's address family",
            ],
        ),
        row(
            "next hop off link",
            with("routes: [{to: 0.0.0.0/0, via: 198.51.100.1, port: wan0}]"),
            &[
                "3:31: warning: routes[0].via: 198.51.100.1 is in none of the subnets of port `wan0`",
            ],
        ),
        row(
            "VIP as next hop",
            with("routes: [{to: 0.0.0.0/0, via: 192.0.2.80, port: wan0}]"),
            &["3:31: error: routes[0].via: 192.0.2.80 is a virtual address, no next hop"],
        ),
        row(
            "ourselves as next hop",
            with("routes: [{to: 0.0.0.0/0, via: 192.0.2.10, port: wan0}]"),
            &["3:31: error: routes[0].via: 192.0.2.10 is the director's own address"],
        ),
    ]);
}

#[test]
fn services_are_consistent() {
    check(vec![
        row(
            "no services",
            PORT,
            &["1:1: warning: services: there are no services"],
        ),
        row(
            "empty services",
            format!("{PORT}services: []\n"),
            &["2:1: warning: services: there are no services"],
        ),
        row(
            "no protocol",
            service("  - address: 192.0.2.80\n    port: 80\n    servers: [{address: 10.0.0.11}]\n"),
            &[
                "3:5: error: services[0].protocol: `protocol` is missing from the service that starts here",
            ],
        ),
        row(
            "protocol",
            service(
                "  - {protocol: tpc, address: 192.0.2.80, port: 80, servers: [{address: 10.0.0.11}]}\n",
            ),
            &[
                "3:16: error: services[0].protocol: `tpc` is not one of `tcp`, `udp` and `sctp`; did you mean `tcp`?",
            ],
        ),
        row(
            "sctp",
            service(
                "  - {protocol: sctp, address: 192.0.2.80, port: 80, servers: [{address: 10.0.0.11}]}\n",
            ),
            &[],
        ),
        row(
            "port 0",
            service(
                "  - {protocol: tcp, address: 192.0.2.80, port: 0, servers: [{address: 10.0.0.11}]}\n",
            ),
            &[
                "3:48: error: services[0].port: port 0, which stands for every port, needs `persistence`",
            ],
        ),
        row(
            "large port",
            service(
                "  - {protocol: tcp, address: 192.0.2.80, port: 65536, servers: [{address: 10.0.0.11}]}\n",
            ),
            &["3:48: error: services[0].port: 65536 is out of range; 0 to 65535 is allowed"],
        ),
        row(
            "address with port",
            service(
                "  - {protocol: tcp, address: \"192.0.2.80:80\", port: 80, servers: [{address: 10.0.0.11}]}\n",
            ),
            &[
                "3:30: error: services[0].address: `192.0.2.80:80` holds a port: write `address: 192.0.2.80` and `port: 80`",
            ],
        ),
        row(
            "host name",
            service(
                "  - {protocol: tcp, address: www.example.org, port: 80, servers: [{address: 10.0.0.11}]}\n",
            ),
            &[
                "3:30: error: services[0].address: `www.example.org` is not an IP address; host names are not resolved",
            ],
        ),
        row(
            "multicast VIP",
            service(
                "  - {protocol: udp, address: 224.0.0.81, port: 80, servers: [{address: 10.0.0.11}]}\n",
            ),
            &[
                "3:30: error: services[0].address: 224.0.0.81 is a multicast address, no virtual address",
            ],
        ),
        row(
            "unspecified VIP",
            service(
                "  - {protocol: udp, address: 0.0.0.0, port: 80, servers: [{address: 10.0.0.11}]}\n",
            ),
            &["3:30: error: services[0].address: 0.0.0.0 is the unspecified address"],
        ),
        row(
            "loopback VIP",
            service(
                "  - {protocol: udp, address: \"::1\", port: 80, servers: [{address: 2001:db8::1}]}\n",
            ),
            &["3:30: error: services[0].address: ::1 is a loopback address"],
        ),
        row(
            "mapped VIP",
            service(
                "  - {protocol: udp, address: \"::ffff:192.0.2.80\", port: 80, servers: [{address: 2001:db8::1}]}\n",
            ),
            &[
                "3:30: error: services[0].address: ::ffff:192.0.2.80 is an IPv4 address in IPv6 notation",
            ],
        ),
        row(
            "scheduler",
            service(
                "  - {protocol: tcp, address: 192.0.2.80, port: 80, scheduler: wlcc, servers: [{address: 10.0.0.11}]}\n",
            ),
            &[
                "3:63: error: services[0].scheduler: `wlcc` is not one of `rr`, `wrr`, `lc`, `wlc`, `sed`, `nq`, `fo`, `ovf`, `dh`, `sh`, `mh`, `lblc`, `lblcr`, `twos`, `hprio` and `offh`; did you mean `wlc`?",
            ],
        ),
        row(
            "flag",
            service(
                "  - {protocol: tcp, address: 192.0.2.80, port: 80, scheduler_flags: [fallback], servers: [{address: 10.0.0.11}]}\n",
            ),
            &[
                "3:70: error: services[0].scheduler_flags[0]: scheduler `wlc` takes no flags, so not `fallback`",
            ],
        ),
        row(
            "a flag with a slip",
            service(
                "  - {protocol: tcp, address: 192.0.2.80, port: 80, scheduler: mh, scheduler_flags: [fallbak, tabel=251], servers: [{address: 10.0.0.11}]}\n",
            ),
            &[
                "3:85: error: services[0].scheduler_flags[0]: scheduler `mh` has no flag `fallbak`; it has fallback, port, table=SLOTS; did you mean `fallback`?",
                "3:94: error: services[0].scheduler_flags[1]: scheduler `mh` has no flag `tabel=251`; it has fallback, port, table=SLOTS",
            ],
        ),
        row(
            "a kernel flag's dash",
            service(
                "  - {protocol: tcp, address: 192.0.2.80, port: 80, scheduler: sh, scheduler_flags: [kernel-tables], servers: [{address: 10.0.0.11}]}\n",
            ),
            &[
                "3:85: error: services[0].scheduler_flags[0]: scheduler `sh` has no flag `kernel-tables`; it has fallback, port, kernel_tables; did you mean `kernel_tables`?",
            ],
        ),
        row(
            "same service",
            service(
                "  - {name: a, protocol: tcp, address: 192.0.2.80, port: 80, servers: [{address: 10.0.0.11}]}\n  - {name: b, protocol: tcp, address: 192.0.2.80, port: 80, servers: [{address: 10.0.0.11}]}\n",
            ),
            &[
                "4:39: error: services[1].address: the service of line 3 has this protocol, address and port already",
            ],
        ),
        row(
            "same name",
            service(
                "  - {name: a, protocol: tcp, address: 192.0.2.80, port: 80, servers: [{address: 10.0.0.11}]}\n  - {name: a, protocol: udp, address: 192.0.2.80, port: 80, servers: [{address: 10.0.0.11}]}\n",
            ),
            &["4:12: error: services[1].name: there is a service `a` in line 3 already"],
        ),
        row(
            "name with a slash",
            service(
                "  - {name: a/b, protocol: tcp, address: 192.0.2.80, port: 80, servers: [{address: 10.0.0.11}]}\n",
            ),
            &[
                "3:12: error: services[0].name: a name has letters, digits and `_` `.` `:` `-` only, no `/`",
            ],
        ),
        row(
            "no servers",
            service("  - {protocol: tcp, address: 192.0.2.80, port: 80}\n"),
            &["3:5: warning: services[0].servers: the service has no servers"],
        ),
        row(
            "more than the limit",
            format!("{WEB}{PORT}limits: {{servers: 1, services: 1}}\n")
                .replace("11}]", "11}, {address: 10.0.0.12}]"),
            &["1:1: error: services: there are 2 servers, but `limits.servers` is 1"],
        ),
    ]);
}

#[test]
fn servers_are_consistent() {
    let servers = |lines: &str| {
        service(&format!(
            "  - protocol: tcp\n    address: 192.0.2.80\n    port: 80\n    servers:\n{lines}"
        ))
    };
    check(vec![
        row(
            "no address",
            servers("      - {weight: 1}\n"),
            &[
                "7:9: error: services[0].servers[0].address: `address` is missing from the server that starts here",
            ],
        ),
        row(
            "keepalived's words",
            servers("      - {ip: 10.0.0.11, lb_kind: NAT}\n"),
            &[
                "7:10: error: services[0].servers[0].ip: unknown key; did you mean `address`?",
                "7:25: error: services[0].servers[0].lb_kind: unknown key; did you mean `forwarding`?",
            ],
        ),
        row(
            "weight",
            servers("      - {address: 10.0.0.11, weight: 70000}\n"),
            &[
                "7:38: error: services[0].servers[0].weight: 70000 is out of range; 0 to 65535 is allowed",
            ],
        ),
        row(
            "negative weight",
            servers("      - {address: 10.0.0.11, weight: -1}\n"),
            &[
                "7:38: error: services[0].servers[0].weight: -1 is out of range; 0 to 65535 is allowed",
            ],
        ),
        row(
            "forwarding",
            servers("      - {address: 10.0.0.11, forwarding: dr}\n"),
            &[
                "7:42: error: services[0].servers[0].forwarding: `dr` is not one of `masq`, `direct` and `tunnel`; did you mean `direct`?",
            ],
        ),
        row(
            "state",
            servers("      - {address: 10.0.0.11, state: down}\n"),
            &[
                "7:37: error: services[0].servers[0].state: `down` is not one of `ready`, `drain` and `maint`; did you mean `maint`?",
            ],
        ),
        row(
            "port 0",
            servers("      - {address: 10.0.0.11, port: 0}\n"),
            &["7:36: error: services[0].servers[0].port: 0 keeps the port of a packet"],
        ),
        row(
            "thresholds",
            servers("      - {address: 10.0.0.11, upper_threshold: 50, lower_threshold: 60}\n"),
            &[
                "7:68: error: services[0].servers[0].lower_threshold: 60 is above the upper threshold, 50; did you mean `upper_threshold: 60, lower_threshold: 50`?",
            ],
        ),
        row(
            "lower threshold alone",
            servers("      - {address: 10.0.0.11, lower_threshold: 60}\n"),
            &[
                "7:47: error: services[0].servers[0].lower_threshold: a lower threshold needs an upper one, `upper_threshold: 60` or more; give one, or remove",
            ],
        ),
        row(
            "no follow-up of a bad upper one",
            servers("      - {address: 10.0.0.11, upper_threshold: many, lower_threshold: 60}\n"),
            &[
                "7:47: error: services[0].servers[0].upper_threshold: expected a whole number, found `many`",
            ],
        ),
        row(
            "same server",
            servers("      - {address: 10.0.0.11}\n      - {address: 10.0.0.11, port: 80}\n"),
            &[
                "8:19: error: services[0].servers[1].address: the server of line 7 has this address and port already",
            ],
        ),
        row(
            "same name",
            servers(
                "      - {name: a, address: 10.0.0.11}\n      - {name: a, address: 10.0.0.12}\n",
            ),
            &[
                "8:16: error: services[0].servers[1].name: the service has a server `a` in line 7 already",
            ],
        ),
        row(
            "VIP as server",
            servers("      - {address: 192.0.2.80}\n"),
            &[
                "7:19: error: services[0].servers[0].address: 192.0.2.80 is the virtual address of this very service",
            ],
        ),
        row(
            "another VIP as server",
            servers("      - {address: 192.0.2.81}\n")
                .replace("services:\n", "services:\n  - {protocol: udp, address: 192.0.2.81, port: 53, servers: [{address: 10.0.0.12}]}\n"),
            &[
                "8:19: warning: services[1].servers[0].address: 192.0.2.81 is a virtual address of this director, which",
            ],
        ),
        row(
            "ourselves as server",
            servers("      - {address: 192.0.2.10}\n"),
            &[
                "7:19: error: services[0].servers[0].address: 192.0.2.10 is the director's own address",
            ],
        ),
        row(
            "loopback server",
            servers("      - {address: 127.0.0.1}\n"),
            &["7:19: warning: services[0].servers[0].address: 127.0.0.1 is a loopback address"],
        ),
        row(
            "broadcast address of a subnet",
            servers("      - {address: 192.0.2.255}\n"),
            &[
                "7:19: error: services[0].servers[0].address: 192.0.2.255 is the broadcast address of a port's subnet",
            ],
        ),
        row(
            "link-local server",
            servers("      - {address: \"fe80::11\", forwarding: tunnel}\n"),
            &[
                "7:19: error: services[0].servers[0].address: fe80::11 is a link-local address, of which every link has its",
            ],
        ),
        row(
            "broadcast server",
            servers("      - {address: 255.255.255.255}\n"),
            &[
                "7:19: error: services[0].servers[0].address: 255.255.255.255 is the broadcast address",
            ],
        ),
        row(
            "family",
            servers("      - {address: \"2001:db8::11\"}\n"),
            &[
                "7:19: error: services[0].servers[0].address: an IPv6 server of an IPv4 service needs `forwarding: tunnel`",
            ],
        ),
        row(
            "port of a direct server",
            servers("      - {address: 10.0.0.11, port: 8080, forwarding: direct}\n"),
            &[
                "7:36: error: services[0].servers[0].port: `forwarding: direct` leaves the port of a packet as it is, so 8080 would never be used; did you mean `80`?",
            ],
        ),
        row(
            "port of a tunnel server",
            servers("      - {address: 10.0.0.11, port: 8080, forwarding: tunnel}\n"),
            &["7:36: error: services[0].servers[0].port: `forwarding: tunnel` leaves the port"],
        ),
        row(
            "tunnels",
            servers(
                "      - {address: 10.0.0.11, forwarding: tunnel, tunnel: {}}\n      \
                 - {address: 10.0.0.12, forwarding: tunnel, tunnel: {type: gue, port: 6080, checksum: remcsum}}\n      \
                 - {address: 10.0.0.13, forwarding: tunnel, tunnel: {type: gre, checksum: none}}\n",
            ),
            &[],
        ),
        row(
            "tunnel of a masq server",
            servers("      - {address: 10.0.0.11, tunnel: {type: gre}}\n"),
            &[
                "7:30: error: services[0].servers[0].tunnel: `tunnel` says how `forwarding: tunnel` wraps packets",
            ],
        ),
        row(
            "GUE without a port",
            servers("      - {address: 10.0.0.11, forwarding: tunnel, tunnel: {type: gue}}\n"),
            &["7:50: error: services[0].servers[0].tunnel: `type: gue` needs the `port`"],
        ),
        row(
            "GUE port 0",
            servers(
                "      - {address: 10.0.0.11, forwarding: tunnel, tunnel: {type: gue, port: 0}}\n",
            ),
            &["7:76: error: services[0].servers[0].tunnel.port: 0 is out of range"],
        ),
        row(
            "IPIP with options",
            servers(
                "      - {address: 10.0.0.11, forwarding: tunnel, tunnel: {port: 6080, checksum: csum}}\n",
            ),
            &[
                "7:65: error: services[0].servers[0].tunnel.port: IPIP has no ports; did you mean `type: gue`?",
                "7:81: error: services[0].servers[0].tunnel.checksum: IPIP has no checksum of its own; remove it",
            ],
        ),
        row(
            "GRE with GUE's options",
            servers(
                "      - {address: 10.0.0.11, forwarding: tunnel, tunnel: {type: gre, port: 1, checksum: remcsum}}\n",
            ),
            &[
                "7:76: error: services[0].servers[0].tunnel.port: GRE has no ports; did you mean `type: gue`?",
                "7:89: error: services[0].servers[0].tunnel.checksum: `remcsum` is for `type: gue`",
            ],
        ),
        row(
            "no address of the tunnel's family",
            servers("      - {address: \"2001:db8::11\", forwarding: tunnel}\n")
                .replace(", 2001:db8::a/64", ""),
            &["7:19: warning: services[0].servers[0].address: no port has an IPv6 address"],
        ),
        row(
            "ipvsadm's name of a checksum",
            servers(
                "      - {address: 10.0.0.11, forwarding: tunnel, tunnel: {type: gre, checksum: nocsum}}\n",
            ),
            &[
                "7:80: error: services[0].servers[0].tunnel.checksum: `nocsum` is not one of `none`, `csum` and `remcsum`; did you mean `none`?",
            ],
        ),
        row(
            "all quiesced",
            servers(
                "      - {address: 10.0.0.11, weight: 0}\n      - {address: 10.0.0.12, state: drain}\n",
            ),
            &["6:5: warning: services[0].servers: no server takes new connections"],
        ),
        row(
            "no way there",
            servers("      - {address: 198.51.100.1}\n")
                .replace("ports: [{", "ports: [{kernel_interface: false, "),
            &[
                "7:19: warning: services[0].servers[0].address: 198.51.100.1 is in no subnet of a port",
            ],
        ),
    ]);
}
