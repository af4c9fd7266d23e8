"""The scenarios of the comparison with the kernel: one table, from which come the commands for the kernel's director, the
configuration of Polder, and the frames that both get.

    kernel_scenarios.py OUT.json [PATTERN]      scenarios whose name matches PATTERN, all of them by default

A step is a frame on one side (`c`lients or `s`ervers) or a pause. `then` says how the far end reacts to what came out.
`differ` announces a deliberate difference: what the kernel and what Polder do with that frame, and why; `whole` one of
the whole scenario, by the name of a check of kernel_compare.py.
"""
import json
import random
import re
import sys

import kernel_frames as f

SERVERS = range(11, 19)
MODES = {"nat": ("-m", "masq"), "dr": ("-g", "direct"), "tun": ("-i", "tunnel")}


class Scenario:
    def __init__(self, name, family=4, mode="nat", says=""):
        self.name, self.family, self.mode, self.says = name, family, mode, says
        self.vip = f.NETS[family]["vip"]
        self.services, self.marks, self.timeouts, self.steps, self.ipvs = [], [], {}, [], {}
        self.extra = []       # more shell lines in the director
        self.mark_to = None   # prefix of the marks' rules, where it is not the virtual address
        self.mtu = 1500

    # The configuration.

    def service(self, protocol="tcp", port=80, sched="rr", servers=3, weights=None, thresholds=None, flags=(),
                polder_flags=None, persist=None, mask=None, sip=False, ops=False, mark=None, server_port=None,
                outer=None, made="whole", modes=None, tunnel=None):
        """A service. `made`: `whole`, or `one by one`, which matters to wrr. `tunnel`: type, port and checksum of those
        that are not IPIP."""
        ns = list(SERVERS)[:servers]
        self.services.append({
            "protocol": protocol, "port": port, "sched": sched, "flags": list(flags), "persist": persist,
            "polder_flags": list(flags if polder_flags is None else polder_flags), "mask": mask, "sip": sip,
            "ops": ops, "mark": mark, "made": made, "outer": outer, "tunnel": tunnel,
            "servers": [{"n": n, "w": (weights or [1] * servers)[i], "ul": (thresholds or [(0, 0)] * servers)[i],
                         "port": server_port, "mode": (modes or [self.mode] * servers)[i]}
                        for i, n in enumerate(ns)]})
        return self

    def mark(self, mark, protocol, ports):
        self.marks.append((mark, protocol, ports))
        return self

    def address(self, service, n):
        return f.server(service["outer"] or self.family, n)

    def ipvsadm(self):
        lines = []
        for s in self.services:
            host = f"[{self.vip}]" if self.family == 6 else self.vip
            who = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}[s["protocol"]] + f" {host}:{s['port']}"
            if s["mark"]:
                who = f"-f {s['mark']}" + (" -6" if self.family == 6 else "")
            how = f"-s {s['sched']}"
            if s["flags"]:
                how += " -b " + ",".join(f"{s['sched']}-{x}" for x in s["flags"])
            if s["persist"]:
                how += f" -p {s['persist']}"
            if s["mask"] is not None:
                how += f" -M {s['mask']}"
            if s["sip"]:
                how += " --pe sip"
            if s["ops"]:
                how += " -o"
            # Begun with another scheduler and then changed, a service is what it is when it is read whole.
            first = how.replace("-s wrr", "-s rr") if s["made"] == "whole" else how
            lines.append(f"ipvsadm -A {who} {first}")
            for d in s["servers"]:
                a = self.address(s, d["n"])
                a = f"[{a}]" if ":" in a else a
                port = s["port"] if d["port"] is None else d["port"]
                upper, lower = d["ul"]
                end = f"{a}:{0 if s['mark'] and d['port'] is None else port}"
                method = MODES[d["mode"]][0]
                if s["tunnel"]:
                    kind, udp_port, check = s["tunnel"]
                    method += f" --tun-type {kind}" + (f" --tun-port {udp_port}" if udp_port else "")
                    method += f" --tun-{'nocsum' if check == 'none' else check}"
                lines.append(f"ipvsadm -a {who} -r {end} {method} -w {d['w']} -x {upper} -y {lower}")
            if first != how:
                lines.append(f"ipvsadm -E {who} {how}")
        if self.timeouts:
            t = self.timeouts
            lines.append(f"ipvsadm --set {t.get('tcp', 0)} {t.get('fin', 0)} {t.get('udp', 0)}")
        tables = "ip6tables" if self.family == 6 else "iptables"
        for mark, protocol, ports in self.marks:
            lines.append(f"{tables} -t mangle -A PREROUTING -d {self.mark_to or self.vip} -p {protocol} -m {protocol} "
                         f"--dport {ports.replace('-', ':')} -j MARK --set-mark {mark}")
        return lines

    def setup(self):
        """Shell text that makes the director's namespace anew."""
        batch = [f"addr add {f.NETS[fam][side]} dev {dev}" + (" nodad" if fam == 6 else "")
                 for fam in (4, 6) for side, dev in (("wan", "c0"), ("lan", "s0"))]
        batch += [f"addr add {f.NETS[4]['vip']}/32 dev c0", f"addr add {f.NETS[6]['vip']}/128 dev c0 nodad",
                  "link set lo up", f"link set s0 mtu {self.mtu}", "link set c0 up", "link set s0 up"]
        for fam in (4, 6):
            batch.append(f"neigh replace {f.NETS[fam]['gateway']} lladdr {f.GATEWAY} dev c0 nud permanent")
            batch.append(f"route add default via {f.NETS[fam]['gateway']} dev c0")
            batch += [f"neigh replace {f.server(fam, n)} lladdr {f.server_mac(n)} dev s0 nud permanent"
                      for n in SERVERS]
        inside = [
            # Nothing of its own on the links, no limits, checksums whole.
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0 "
            "net.ipv6.icmp.ratelimit=0 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 "
            "net.ipv4.conf.c0.rp_filter=0 net.ipv4.conf.s0.rp_filter=0 net.ipv4.conf.all.send_redirects=0 "
            "net.ipv4.conf.c0.send_redirects=0 net.ipv4.conf.s0.send_redirects=0 net.ipv4.vs.conntrack=0",
            "sysctl -qw net.ipv4.icmp_msgs_per_sec=100000 2>/dev/null || true",
            *(f"sysctl -qw net.ipv4.vs.{k}={v}" for k, v in self.ipvs.items()),
            *self.extra, *self.ipvsadm()]
        new = "\n".join(["ip netns del lb 2>/dev/null && sleep 0.2 || true", "ip netns add lb",
                         f"ip link add c1 address {f.GATEWAY} type veth peer name c0 netns lb address {f.WAN}",
                         f"ip link add s1 address 02:00:00:00:01:00 type veth peer name s0 netns lb address {f.LAN}",
                         "for i in c1 s1; do echo 1 >/proc/sys/net/ipv6/conf/$i/disable_ipv6; "
                         "ip link set $i arp off mtu 9000 up; done"])
        return (f"{new}\nip netns exec lb sh -c 'for i in c0 s0; do ethtool -K $i tx off gro off gso off tso off; done' "
                f">/dev/null 2>&1 || true\nip -n lb -batch - <<'END'\n" + "\n".join(batch) + "\nEND\n"
                "ip netns exec lb /bin/bash -eu <<'END'\n" + "\n".join(inside) + "\nEND\n")

    def yaml(self):
        """Polder's configuration; JSON is YAML."""
        services = []
        for s in self.services:
            out = {"scheduler": s["sched"]}
            if s["mark"]:
                out |= {"mark": s["mark"]} | ({"family": "ipv6"} if self.family == 6 else {})
            else:
                out |= {"protocol": s["protocol"], "address": self.vip, "port": s["port"]}
            if s["polder_flags"]:
                out["scheduler_flags"] = s["polder_flags"]
            if s["persist"]:
                p = out["persistence"] = {"timeout": f"{s['persist']}s"}
                if s["mask"] is not None:
                    p["netmask"] = s["mask"]
                if s["sip"]:
                    p["engine"] = "sip"
            if s["ops"]:
                out["one_packet"] = True
            out["servers"] = []
            for d in s["servers"]:
                one = {"address": self.address(s, d["n"]), "weight": d["w"], "forwarding": MODES[d["mode"]][1]}
                if d["port"] is not None:
                    one["port"] = d["port"]
                if s["tunnel"]:
                    kind, udp_port, check = s["tunnel"]
                    one["tunnel"] = {"type": kind, "checksum": check} | ({"port": udp_port} if udp_port else {})
                if any(d["ul"]):
                    one |= {"upper_threshold": d["ul"][0], "lower_threshold": d["ul"][1]}
                out["servers"].append(one)
            services.append(out)
        t = self.timeouts
        config = {
            "limits": {"connections": 4096, "templates": 1024, "services": 16, "servers": 128},
            "ports": [{"name": "wan0", "device": "0000:01:00.0", "mac": f.WAN,
                       "addresses": [f.NETS[4]["wan"], f.NETS[6]["wan"]]},
                      {"name": "lan0", "device": "0000:02:00.0", "mac": f.LAN, "mtu": self.mtu,
                       "addresses": [f.NETS[4]["lan"], f.NETS[6]["lan"]]}],
            "routes": [{"to": to, "via": f.NETS[fam]["gateway"], "port": "wan0"}
                       for fam, to in ((4, "0.0.0.0/0"), (6, "::/0"))],
            "neighbours": [{"port": "wan0", "address": f.NETS[fam]["gateway"], "mac": f.GATEWAY} for fam in (4, 6)]
            + [{"port": "lan0", "address": f.server(fam, n), "mac": f.server_mac(n)}
               for fam in (4, 6) for n in SERVERS],
            "marks": [{"mark": m, "to": self.mark_to or f"{self.vip}/{32 if self.family == 4 else 128}", "protocol": p,
                       "port": int(ports) if ports.isdigit() else ports} for m, p, ports in self.marks],
            "services": services,
            "timeouts": {k: f"{t[v]}s" for k, v in
                         (("tcp_established", "tcp"), ("tcp_fin_wait", "fin"), ("udp", "udp")) if v in t},
        }
        if "expire_quiescent_template" in self.ipvs:
            config["ipvs"] = {"expire_quiescent_template": bool(self.ipvs["expire_quiescent_template"])}
        return json.dumps(config, indent=1)

    # The frames.

    def client(self, i):
        """Client number i, 0 to 4095: neighbours in numbers are in one /24 (or /64)."""
        if self.family == 4:
            return f"198.{18 + i // 1024}.{i // 16 % 64}.{10 + i % 16}"
        return f"2001:db8:c{i // 16:x}::{10 + i % 16:x}"

    def send(self, packet, then=(), differ=None, side="c", frame=None):
        step = {"side": side, "frame": (frame or f.ether(f.WAN, f.GATEWAY, packet)).hex(), "then": list(then)}
        if differ:
            step["differ"] = dict(zip(("kernel", "polder", "why"), differ))
        self.steps.append(step)
        return self

    def wait(self, seconds):
        self.steps.append({"wait": seconds})
        return self

    def reply(self):
        return ["reply"] if self.mode == "nat" else []

    def tcp(self, client, sport, flags, seq=1, payload=b"", port=80, then=None, differ=None, dst=None, **ip):
        src, dst = self.client(client), dst or self.vip
        l4 = f.tcp(src, sport, dst, port, flags, seq, 9001 if flags & f.ACK else 0, payload)
        return self.send(f.ip(src, dst, 6, l4, **ip), self.reply() if then is None else then, differ)

    def udp(self, client, sport, payload=b"a question", port=53, then=None, differ=None, check=True, **ip):
        src = self.client(client)
        l4 = f.udp(src, sport, self.vip, port, payload, check)
        return self.send(f.ip(src, self.vip, 17, l4, **ip), self.reply() if then is None else then, differ)

    def sip(self, client, call, sport=5060, header=b"Call-ID: ", end=b"\r\n", differ=None, first=b"OPTIONS"):
        text = (first + b" sip:a@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 198.18.0.10\r\n" + header + call + end
                + b"CSeq: 1 OPTIONS\r\n\r\n")
        return self.udp(client, sport, text, 5060, differ=differ)

    def sctp(self, client, sport, *chunks, tag=55, port=3868, then=None, differ=None, **ip):
        """A packet of an association; chunks that are numbers get what they need."""
        begin = (5).to_bytes(4, "big") + bytes((0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1))
        usual = {f.INIT: begin, f.COOKIE_ECHO: b"a cookie", f.HEARTBEAT: bytes((0, 1, 0, 8, 1, 2, 3, 4)),
                 f.DATA: bytes((0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)) + b"a word", f.SHUTDOWN: bytes(4),
                 f.SACK: bytes(12)}
        made = [f.chunk(c, usual.get(c, b"")) if isinstance(c, int) else c for c in chunks]
        l4 = f.sctp(sport, port, 0 if chunks[0] == f.INIT else tag, *made)
        packet = f.ip(self.client(client), self.vip, 132, l4, **ip)
        return self.send(packet, self.reply() if then is None else then, differ)

    def associate(self, client, sport, port=3868):
        return self.sctp(client, sport, f.INIT, port=port).sctp(client, sport, f.COOKIE_ECHO, f.DATA, port=port)

    def connect(self, client, sport, port=80):
        self.tcp(client, sport, f.SYN, 100, port=port)
        return self.tcp(client, sport, f.ACK, 101, port=port)

    def mix(self, connections, port=80, seed=1, clients=40):
        """Connections that begin, talk and end in a random, but always the same order."""
        rng = random.Random(seed)
        begun, alive = 0, []
        while begun < connections or alive:
            if begun < connections and (not alive or rng.random() < 0.45):
                alive.append([rng.randrange(clients), 20000 + begun, "new", 100])
                begun += 1
                continue
            conn = rng.choice(alive)
            client, sport, state, seq = conn
            if state == "new":
                self.tcp(client, sport, f.SYN, seq, port=port)
                conn[2:] = "syn", seq + 1
            elif state == "syn":
                if rng.random() < 0.15:  # never more than a SYN
                    alive.remove(conn)
                    continue
                self.tcp(client, sport, f.ACK, seq, port=port)
                conn[2] = "open"
            elif state == "open":
                what = rng.random()
                if what < 0.4:
                    self.tcp(client, sport, f.PSH | f.ACK, seq, b"x" * rng.randrange(1, 60), port=port)
                    conn[3] += 60
                elif what < 0.7:
                    self.tcp(client, sport, f.FIN | f.ACK, seq, port=port)
                    conn[2:] = "fin", seq + 1
                elif what < 0.85:
                    self.tcp(client, sport, f.RST | f.ACK, seq, port=port)
                    alive.remove(conn)
                else:
                    alive.remove(conn)  # it stays open
            else:
                self.tcp(client, sport, f.ACK, seq, port=port)
                alive.remove(conn)
        return self


def scheduling(name, family, mode, sched, weights=(1, 2, 3, 4), flags=(), polder_flags=None, thresholds=None, n=44, **kw):
    s = Scenario(name, family, mode)
    common = {"sched": sched, "servers": len(weights), "weights": weights, "flags": flags,
              "polder_flags": polder_flags, "thresholds": thresholds, **kw}
    s.service("tcp", 80, **common).service("udp", 53, **common)
    s.mix(n if family == 4 else n * 2 // 3)
    for i in range(12):
        s.udp(i % 7, 30000 + i, b"question %d" % i)
    return s


def table():
    both = [(family, mode) for mode in MODES for family in (4, 6)]
    for family, mode in both:
        tail = f"{mode}/ipv{family}"
        yield scheduling(f"rr/{tail}", family, mode, "rr")
        yield scheduling(f"wrr/{tail}", family, mode, "wrr")
        yield scheduling(f"wrr-gcd/{tail}", family, mode, "wrr", (4, 0, 6, 2))
        for sched in ("lc", "wlc", "sed", "nq"):
            yield scheduling(f"{sched}/{tail}", family, mode, sched)
        yield scheduling(f"wlc-zero/{tail}", family, mode, "wlc", (0, 5, 1, 3))
        yield scheduling(f"sh/{tail}", family, mode, "sh", polder_flags=("kernel_tables",))
        yield scheduling(f"sh-port/{tail}", family, mode, "sh", (3, 0, 60, 70, 200, 5), flags=("port", "fallback"),
                         polder_flags=("port", "fallback", "kernel_tables"))
        yield scheduling(f"sh-zero/{tail}", family, mode, "sh", (1, 0, 2, 0), polder_flags=("kernel_tables",))
        yield scheduling(f"dh/{tail}", family, mode, "dh", (1, 1, 1))
        yield scheduling(f"mh/{tail}", family, mode, "mh")
        yield scheduling(f"mh-port/{tail}", family, mode, "mh", (3, 1, 60, 200), flags=("port", "fallback"))
        yield scheduling(f"mh-zero/{tail}", family, mode, "mh", (2, 0, 3, 1))
        yield scheduling(f"fo/{tail}", family, mode, "fo", (1, 7, 7, 3), thresholds=((0, 0), (6, 0), (5, 0), (9, 0)))
        yield scheduling(f"ovf/{tail}", family, mode, "ovf", (2, 9, 9, 4), n=60)
        for sched in ("lblc", "lblcr"):
            yield scheduling(f"{sched}/{tail}", family, mode, sched)
        for sched in ("dh", "lblc", "lblcr"):
            yield many_addresses(f"{sched}-many/{tail}", family, mode, sched)

    for family in (4, 6):
        s = Scenario(f"mixed-methods/nat/ipv{family}", family)
        s.service(sched="wrr", weights=(3, 2, 1), modes=("nat", "dr", "tun")).mix(20)
        yield s
    yield wrr_one_by_one()
    yield sh_proportional()
    for family, mode in both:
        tail = f"{mode}/ipv{family}"
        yield from thresholds(family, mode, tail)
        yield from persistence(family, mode, tail)
        yield from sip(family, mode, tail)
        yield from edges(family, mode, tail)
        yield from sctp(family, mode, tail)
        yield from ipsec(family, mode, tail)
        if mode == "tun":
            yield from tunnels(family, None, tail)
    yield from tunnel_errors("ipip", None)
    yield from tunnel_errors("gue", ("gue", f.GUE_PORT, "none"))
    yield from tunnel_errors("gre", ("gre", None, "csum"))
    for inner, outer in ((4, 6), (6, 4)):
        yield from tunnels(inner, outer, f"tun/ipv{inner}-in-ipv{outer}")
    for inner, outer in ((4, 6), (6, 4)):
        s = Scenario(f"rr/tun/ipv{inner}-in-ipv{outer}", inner, "tun")
        s.service(sched="rr", outer=outer).service("udp", 53, outer=outer)
        s.mix(8)
        for i in range(6):
            s.udp(i, 3000 + i, tos=(0, 0xb8, 1, 2, 3, 0x2b)[i])
        yield s


def many_addresses(name, family, mode, sched):
    """Schedulers that go by the destination, with a mark for many virtual addresses."""
    s = Scenario(name, family, mode)
    s.mark_to = "192.0.2.96/27" if family == 4 else "2001:db8:1::100/120"
    s.extra = [f"ip {'-6' if family == 6 else '-4'} route add local {s.mark_to} dev lo"]
    s.service(sched=sched, mark=7, servers=4, weights=(1, 2, 1, 3)).mark(7, "tcp", "80")
    for i in range(60):
        k = i * 7 % 25
        dst = f"192.0.2.{97 + k}" if family == 4 else f"2001:db8:1::1{k:02x}"
        s.tcp(i, 4000 + i, f.SYN, dst=dst)
        if i % 3:
            s.tcp(i, 4000 + i, f.ACK, 2, dst=dst)
    return s


def tunnels(family, outer, tail):
    """GUE and GRE, with checksums and without: what leaves, and what comes back of routers on the way."""
    kinds = {"gue": ("gue", f.GUE_PORT, "none"), "gue-csum": ("gue", f.GUE_PORT, "csum"),
             "gue-remcsum": ("gue", f.GUE_PORT, "remcsum"), "gre": ("gre", None, "none"),
             "gre-csum": ("gre", None, "csum")}
    for name, tunnel in kinds.items():
        s = Scenario(f"{name}/{tail}", family, "tun")
        s.service(sched="rr", outer=outer, tunnel=tunnel)
        s.service("udp", 53, "wrr", weights=(1, 2, 3), outer=outer, tunnel=tunnel)
        s.mix(8)
        for i in range(6):
            s.udp(i, 3000 + i, b"z" * (0, 1, 7, 100, 1001, 1400)[i], tos=(0, 0xb8, 1, 2, 3, 0x2b)[i])
        s.udp(1, 3010, ttl=2).udp(1, 3011, ttl=255).udp(1, 3012, ttl=1)
        if family == 4:
            s.udp(1, 3013, check=False).udp(1, 3014, df=False).udp(1, 3015, b"z" * 1400, df=False)
        yield s
        s = Scenario(f"{name}-too-big/{tail}", family, "tun").service("udp", 53, servers=1, outer=outer, tunnel=tunnel)
        s.mtu = 1400
        # Around what just fits.
        for n in range(1400 - 28 - 60, 1400 - 28 - 20, 4):
            s.udp(0, 2000, b"z" * n)
        yield s


def tunnel_errors(name, tunnel):
    """What a router on the way to an IPv4 server says about the tunnel's packets."""
    s = Scenario(f"{name}-errors/tun/ipv4", 4, "tun").service("udp", 53, servers=1, tunnel=tunnel)
    for kind in ("icmp-port", "icmp-time"):
        s.udp(0, 2000, b"hello", then=["router-" + kind])
    yield s
    s = Scenario(f"{name}-path-mtu/tun/ipv4", 4, "tun").service("udp", 53, servers=1, tunnel=tunnel)
    s.udp(0, 2000, b"hello", then=["router-icmp-big"]).udp(0, 2000, b"hello again", then=["router-icmp-big"])
    s.whole = ("path mtu", "of a tunnel's packet that is too big for a router, Polder tells the client the router's MTU "
               "less the tunnel's header; the kernel its own idea of the path, which may be older (§8.6)")
    yield s


def sctp(family, mode, tail):
    """SCTP: associations that begin, talk and end; odd ones."""
    for sched in ("rr", "wlc"):
        s = Scenario(f"sctp-{sched}/{tail}", family, mode)
        s.service("sctp", 3868, sched, servers=4, weights=(1, 2, 3, 4))
        rng = random.Random(5)
        for i in range(24):
            s.sctp(i % 9, 4000 + i, f.INIT)
            if rng.random() < 0.9:
                s.sctp(i % 9, 4000 + i, f.COOKIE_ECHO)
            end = rng.randrange(5)
            if end == 0:
                s.sctp(i % 9, 4000 + i, f.SHUTDOWN).sctp(i % 9, 4000 + i, f.SHUTDOWN_COMPLETE)
            elif end == 1:
                s.sctp(i % 9, 4000 + i, f.ABORT)
            elif end == 2:
                s.sctp(i % 9, 4000 + i, f.DATA).sctp(i % 9, 4000 + i, f.SACK).sctp(i % 9, 4000 + i, f.HEARTBEAT)
        yield s
    s = Scenario(f"sctp-persistent/{tail}", family, mode).service("sctp", 3868, "rr", persist=60)
    for i in range(9):
        s.associate(i % 4, 4000 + i)
    yield s
    s = Scenario(f"sctp-packets/{tail}", family, mode).service("sctp", 3868, servers=1)
    if mode == "nat":
        s.services[0]["servers"][0]["port"] = 3869
    s.associate(0, 4000)
    for n in (0, 1, 3, 4, 60, 1300):
        s.sctp(0, 4000, f.chunk(f.DATA, bytes(12) + b"x" * n), tos=n & 3)
    s.sctp(0, 4000, f.SACK, f.DATA, f.DATA).sctp(0, 4000, f.HEARTBEAT, ttl=2).sctp(0, 4000, f.DATA, ttl=1)
    yield s
    s = Scenario(f"sctp-stray/{tail}", family, mode).service("sctp", 3868, servers=2)
    for i, kind in enumerate((f.DATA, f.SACK, f.HEARTBEAT, f.ABORT, f.SHUTDOWN, f.SHUTDOWN_ACK, f.ERROR, f.COOKIE_ECHO,
                              f.COOKIE_ACK, f.INIT_ACK, f.SHUTDOWN_COMPLETE)):
        s.sctp(0, 4000 + i, kind, then=())
    s.sctp(0, 4050, f.INIT).sctp(1, 4050, f.INIT, port=3870)
    yield s
    s = Scenario(f"sctp-reuse/{tail}", family, mode).service("sctp", 3868, "rr")
    for i in range(4):
        s.associate(0, 4000 + i)
    s.sctp(0, 4000, f.SHUTDOWN).sctp(0, 4000, f.SHUTDOWN_COMPLETE).sctp(0, 4001, f.ABORT).sctp(0, 4002, f.SHUTDOWN)
    for i in range(4):
        s.sctp(0, 4000 + i, f.INIT).wait(0.05).sctp(0, 4000 + i, f.COOKIE_ECHO)
    yield s
    s = Scenario(f"sctp-no-server/{tail}", family, mode).service("sctp", 3868, servers=1, weights=(0,))
    yield s.sctp(0, 4000, f.INIT)
    if mode == "nat":
        s = Scenario(f"sctp-errors/{tail}", family, mode).service("sctp", 3868, servers=2, server_port=3869)
        for i, kind in enumerate(("icmp-port", "icmp-big", "icmp-time")):
            s.associate(0, 4000 + i).sctp(0, 4000 + i, f.DATA, then=[kind])
            s.sctp(0, 4000 + i, f.DATA, then=["reply", "client-" + kind])
        yield s
        s = Scenario(f"sctp-wrong-crc/{tail}", family, mode).service("sctp", 3868, servers=1, server_port=3869)
        good = f.sctp(4000, 3868, 0, f.chunk(f.INIT, bytes(16)))
        bad = good[:8] + bytes((good[8] ^ 0x55,)) + good[9:]
        s.send(f.ip(s.client(0), s.vip, 132, bad))
        s.whole = ("crc", "a wrong CRC stays wrong; the kernel makes one anew (§8.2)")
        yield s


def ipsec(family, mode, tail):
    """AH and ESP, which go where the key exchange between the same two addresses went."""
    def one(s, client, kind):
        l4 = f.esp(0x1000 + client) if kind == 50 else f.ah(0x2000 + client, 50, f.esp(0x3000 + client))
        return s.send(f.ip(s.client(client), s.vip, kind, l4), s.reply())

    s = Scenario(f"esp/{tail}", family, mode).service("udp", 500, "rr")
    for i in range(4):
        s.udp(i, 500, b"a key exchange", port=500)
        one(s, i, 50)
    one(s, 2, 50)
    one(s, 9, 50)
    s.udp(9, 501, b"not from its port", port=500)
    one(s, 9, 50)
    s.udp(9, 500, b"a key exchange", port=500)
    yield one(s, 9, 50)
    s = Scenario(f"ah/{tail}", family, mode).service("udp", 500, "rr")
    for i in range(4):
        s.udp(i, 500, b"a key exchange", port=500)
        one(s, i, 51)
    yield one(s, 9, 51)
    s = Scenario(f"esp-timeout/{tail}", family, mode).service("udp", 500, "rr")
    s.timeouts = {"udp": 4}
    s.udp(0, 500, b"a key exchange", port=500).wait(2.5)
    one(s, 0, 50).wait(2.5)
    one(s, 0, 50).wait(6)
    yield one(s, 0, 50)


def wrr_one_by_one():
    s = Scenario("wrr-one-by-one/nat/ipv4", says="a service built server by server")
    s.service(sched="wrr", weights=(1, 2, 4), made="one by one")
    for i in range(21):
        s.tcp(i, 4000 + i, f.SYN)
    s.whole = ("round first", "the kernel begins with one round of every server, as the service was built one by one")
    return s


def sh_proportional():
    s = Scenario("sh-proportional/nat/ipv4")
    s.service(sched="sh", weights=(100, 300, 200), polder_flags=())
    for i in range(24):
        s.tcp(i * 16, 4000 + i, f.SYN)
    s.whole = ("choices", "Polder's own table is proportional; `kernel_tables` is the kernel's")
    return s


def thresholds(family, mode, tail):
    """UDP connections fill servers, end, and fill them again."""
    for name, ul in (("thresholds", ((3, 0), (4, 2), (0, 0))), ("thresholds-full", ((3, 1), (2, 0), (4, 3)))):
        s = Scenario(f"{name}/{tail}", family, mode)
        s.timeouts = {"tcp": 3, "fin": 2, "udp": 3}
        s.service("udp", 53, "rr", thresholds=ul)
        for i in range(14):
            s.udp(i, 3000 + i)
        s.wait(2)
        for i in (0, 2, 4):
            s.udp(i, 3000 + i)  # these stay
        s.wait(2)
        for i in range(20, 32):
            s.udp(i, 3000 + i)
        s.wait(5)
        for i in range(40, 52):
            s.udp(i, 3000 + i)
        yield s
    s = Scenario(f"thresholds-tcp/{tail}", family, mode)
    s.timeouts = {"tcp": 4, "fin": 2}
    s.service("tcp", 80, "wlc", thresholds=((4, 0), (5, 2), (3, 0)))
    for i in range(14):
        s.connect(i, 3000 + i)
    s.wait(6)
    for i in range(20, 30):
        s.connect(i, 3000 + i)
    yield s


def persistence(family, mode, tail):
    wide = "255.255.255.0" if family == 4 else 48

    def some(s, port=80, clients=(0, 1, 16, 17, 32, 33, 0, 16, 48, 1, 64, 65, 80)):
        for i, c in enumerate(clients):
            s.tcp(c, 5000 + i, f.SYN, port=port)
        return s

    yield some(Scenario(f"persistent/{tail}", family, mode).service(sched="rr", persist=60))
    yield some(Scenario(f"persistent-netmask/{tail}", family, mode).service(sched="wrr", weights=(1, 2, 3), persist=60,
                                                                           mask=wide))
    s = Scenario(f"persistent-port-zero/{tail}", family, mode).service(port=0, sched="rr", persist=60)
    s.service("udp", 0, "rr", persist=60)
    for port in (80, 443, 8080):
        some(s, port, (0, 1, 16, 32, 33, 0))
        for c in (0, 16, 48):
            s.udp(c, 6000 + port, port=port)
    yield s
    s = Scenario(f"port-zero-overlap/{tail}", family, mode).service(port=80, sched="rr", servers=2)
    s.service(port=0, sched="rr", persist=60)
    for port in (80, 443, 80, 81):
        some(s, port, (0, 1, 16))
    yield s
    for name, persist in (("mark", None), ("persistent-mark", 60)):
        s = Scenario(f"{name}/{tail}", family, mode).service(sched="rr", mark=7, persist=persist,
                                                            mask=wide if persist else None)
        s.mark(7, "tcp", "80").mark(7, "tcp", "443").mark(7, "udp", "5000-5010")
        for port in (80, 443):
            some(s, port, (0, 1, 16, 32, 33, 0))
        for c in (0, 16, 48):
            s.udp(c, 6000, port=5005)
        yield s
    # A template ends with its timeout, and stays as long as it is used.
    s = Scenario(f"persistent-expiry/{tail}", family, mode).service("udp", 53, "rr", persist=4)
    s.timeouts = {"udp": 2}
    for sport in (1000, 1001):
        for c in (0, 1, 2):
            s.udp(c, sport)
        s.wait(3)
        s.udp(0, sport + 100)
    s.wait(2.5)
    for c in (0, 3, 2, 1):
        s.udp(c, 1010)
    yield s
    # Templates send clients to servers that are full.
    s = Scenario(f"persistent-thresholds/{tail}", family, mode)
    s.service(sched="rr", persist=60, thresholds=((2, 0), (2, 0), (2, 0)))
    yield some(s, clients=(0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 4))


def sip(family, mode, tail):
    anybody = "0.0.0.0" if family == 4 else 1
    for name, ops in (("sip", False), ("sip-ops", True)):
        s = Scenario(f"{name}/{tail}", family, mode)
        s.service("udp", 5060, "rr", persist=60, mask=anybody, sip=True, ops=ops)
        for i, (client, call) in enumerate(((0, 1), (0, 2), (0, 3), (5, 1), (6, 2), (0, 4), (7, 1), (0, 1), (0, 2))):
            s.sip(client, b"call-%d@example.com" % call, 5060 if client == 0 else 7000 + i)
        s.sip(9, b"z9", 7100, b"i: ").sip(10, b"z9", 7101, b"I : ").sip(11, b"folded@h", 7102, b"Call-ID:\r\n  ")
        s.sip(12, b"folded@h", 7103, b"CALL-ID:\t").sip(13, b"x" * 255, 7104).sip(14, b"z9", 7105, b"call-id:")
        if mode == "nat" and ops:
            # A request of a server's own.
            src, dst = f.server(family, 12), s.client(3)
            text = b"OPTIONS sip:b@example.com SIP/2.0\r\nCall-ID: own@server\r\n\r\n"
            l4 = f.udp(src, 5060, dst, 5060, text)
            s.send(None, side="s", frame=f.ether(f.LAN, f.server_mac(12), f.ip(src, dst, 17, l4)))
            s.sip(3, b"own@server")
        yield s
    # By default the Call-ID is looked for among those of the client only.
    s = Scenario(f"sip-netmask/{tail}", family, mode)
    s.service("udp", 5060, "rr", persist=60, sip=True, ops=True)
    for client, call in ((0, 1), (1, 1), (2, 1), (0, 2), (0, 1), (1, 1), (2, 1), (1, 2), (0, 2)):
        s.sip(client, b"call-%d@example.com" % call)
    yield s
    # What the kernel finds no Call-ID in, it drops; each from a client of its own.
    s = Scenario(f"sip-no-key/{tail}", family, mode)
    s.service("udp", 5060, "rr", servers=1, persist=60, mask=anybody, sip=True, ops=True)
    why = "the Call-ID is that of RFC 3261, and a packet without one stays with its client (§4.1, §4.2)"
    differ = ("nothing", "server 11", why)
    s.sip(1, b"a=b@h", differ=differ).sip(2, b"abc", end=b" \r\n", differ=differ).sip(3, b"x" * 256, differ=differ)
    s.sip(4, b"x@y;tag=1", differ=differ).sip(5, b"a@b@c", differ=differ)
    s.sip(6, b"x@y", header=b"I-Foo: 1\r\nCall-ID: ", differ=differ)
    s.sip(7, b"none", header=b"X-None: ", differ=differ)
    s.udp(8, 5060, b"no SIP at all", 5060, differ=differ)
    s.udp(9, 5060, b"\r\n\r\n", 5060, differ=differ)
    yield s
    s = Scenario(f"one-packet/{tail}", family, mode).service("udp", 53, "rr", ops=True)
    s.service("udp", 5353, "wrr", weights=(1, 2, 3), ops=True)
    for i in range(7):
        s.udp(0, 3000, then=()).udp(1, 3000, port=5353, then=())
    yield s
    if mode == "nat":
        s = Scenario(f"one-packet-replies/{tail}", family, mode).service("udp", 53, "rr", ops=True, servers=1)
        s.udp(0, 3000)
        s.whole = ("virtual source", "replies have the virtual address and port also without an engine (§5)")
        yield s
        s = Scenario(f"persistent-sip-tcp/{tail}", family, mode).service(
            "tcp", 5060, "rr", servers=1, persist=60, sip=True)
        s.tcp(0, 3000, f.SYN, port=5060, then=(),
              differ=("nothing", "server 11", "an engine on TCP is normal persistence (§4.2)"))
        yield s


def edges(family, mode, tail):
    """What leaves: headers, errors, odd packets."""
    s = Scenario(f"packets/{tail}", family, mode).service(sched="rr", servers=1).service("udp", 53, servers=1)
    for tos in (0, 0x10, 0xb8, 1, 2, 3):
        s.udp(0, 2000 + tos, tos=tos)
    s.udp(1, 2000, b"").udp(1, 2001, b"x").udp(1, 2002, b"odd length!").udp(1, 2003, b"y" * 1400)
    s.udp(1, 2004, ttl=2).udp(1, 2005, ttl=255)
    if family == 4:
        s.udp(1, 2006, check=False).udp(1, 2007, df=False).udp(1, 2008, ident=0, df=True)
        s.udp(1, 2009, options=bytes((1, 1, 1, 0)))
    s.connect(2, 2100).tcp(2, 2100, f.PSH | f.ACK, 101, b"x" * 1400)
    # A wrong checksum stays wrong.
    src = s.client(3)
    wrong = f.udp(src, 2200, s.vip, 53, b"a wrong checksum")
    wrong = wrong[:6] + bytes((wrong[6] ^ 0x55, wrong[7])) + wrong[8:]
    s.send(f.ip(src, s.vip, 17, wrong)).udp(3, 2201, b"z")
    s.tcp(2, 2101, f.SYN, ttl=2)
    yield s
    if mode != "tun":
        s = Scenario(f"padding/{tail}", family, mode).service("udp", 53, servers=1)
        short = f.ip(s.client(3), s.vip, 17, f.udp(s.client(3), 2202, s.vip, 53, b"x"))
        s.send(None, frame=f.ether(f.WAN, f.GATEWAY, short) + b"\xaa" * 12)
        s.whole = ("padding", "what a short frame is filled up with is left as it is; the kernel's driver fills up anew")
        yield s
    s = Scenario(f"ttl/{tail}", family, mode).service("udp", 53, servers=1)
    s.udp(1, 2000, ttl=1).udp(1, 2001, ttl=2).udp(1, 2001, ttl=1)
    yield s
    if mode == "nat":
        s = Scenario(f"ttl-out/{tail}", family, mode).service("udp", 53, servers=1)
        s.udp(1, 2000)
        src, dst = f.server(family, 11), s.client(1)
        for ttl in (1, 2, 64):
            l4 = f.udp(src, 53, dst, 2000, b"an answer")
            s.send(None, side="s", frame=f.ether(f.LAN, f.server_mac(11), f.ip(src, dst, 17, l4, ttl=ttl)))
        yield s
    s = Scenario(f"no-server/{tail}", family, mode).service(servers=1, weights=(0,)).service("udp", 53, servers=0)
    s.tcp(0, 2000, f.SYN).udp(0, 2000).tcp(0, 2000, f.SYN)
    yield s
    s = Scenario(f"stray/{tail}", family, mode).service(servers=2)
    s.tcp(0, 2000, f.ACK).tcp(0, 2001, f.FIN | f.ACK)
    s.tcp(0, 2002, f.RST).tcp(0, 2003, f.SYN | f.ACK, then=()).tcp(0, 2004, f.SYN)
    s.tcp(0, 2004, f.RST, 101).tcp(0, 2004, f.SYN, 7000).tcp(0, 2005, f.SYN | f.FIN, then=())
    yield s
    s = Scenario(f"source-port-20/{tail}", family, mode).service(servers=2)
    s.tcp(0, 20, f.SYN).tcp(0, 2000, f.SYN)
    yield s
    # The same port again, after a reset and after both ends closed.
    for sched in ("rr", "wlc"):
        s = Scenario(f"reuse-{sched}/{tail}", family, mode).service(sched=sched)
        for i in range(6):
            s.connect(0, 2000 + i)
        for i in (0, 2, 3):
            s.tcp(0, 2000 + i, f.RST | f.ACK, 101)
        for i in (1, 4):
            s.tcp(0, 2000 + i, f.FIN | f.ACK, 101).tcp(0, 2000 + i, f.ACK, 102)
        for i in range(6):
            s.tcp(0, 2000 + i, f.SYN, 500000).wait(0.05)
        for i in range(6):
            s.tcp(0, 2000 + i, f.ACK, 500001)
        if sched == "wlc":
            s.whole = ("choices", "a connection that is replaced in place does not count when its successor's server is "
                       "chosen; the kernel's still does, until its timer has run (§2.4)")
        yield s
    big = b"z" * 1430
    s = Scenario(f"too-big/{tail}", family, mode).service("udp", 53, servers=1)
    s.mtu = 1400
    s.udp(0, 2000).udp(0, 2000, big)
    yield s
    if mode == "nat":
        s = Scenario(f"icmp-errors/{tail}", family, mode).service(servers=2, server_port=8080).service("udp", 53)
        s.connect(0, 2000)
        for kind in ("icmp-port", "icmp-big", "icmp-time"):
            s.tcp(0, 2000, f.PSH | f.ACK, 101, b"x" * 40, then=[kind])
            s.udp(0, 2001, b"hello", then=[kind])
        s.tcp(0, 2000, f.PSH | f.ACK, 101, b"y" * 40, then=["reply"])
        yield s
        s = Scenario(f"client-errors/{tail}", family, mode).service(servers=2, server_port=8080)
        s.service("udp", 53, servers=2, server_port=5353)
        for kind in ("icmp-port", "icmp-big", "icmp-time"):
            s.tcp(0, 2000, f.SYN, then=["reply", "client-" + kind])
            s.udp(0, 2001, b"hello", then=["reply", "client-" + kind])
        yield s
        s = Scenario(f"server-port/{tail}", family, mode).service(server_port=8080, weights=(1, 2, 3), sched="wrr")
        s.service("udp", 53, server_port=5353)
        s.mix(10)
        for i in range(6):
            s.udp(i, 3000 + i)
        yield s
    else:
        # Errors of the client about what a server sent past the director.
        s = Scenario(f"client-errors/{tail}", family, mode).service(servers=2).service("udp", 53, servers=2)
        s.connect(0, 2000).udp(0, 2001)
        src, dst = s.vip, s.client(0)
        for kind in ("icmp-port", "icmp-big", "icmp-time"):
            for protocol, l4 in ((6, f.tcp(src, 80, dst, 2000, f.ACK, 1, 1, b"y" * 50)),
                                 (17, f.udp(src, 53, dst, 2001, b"an answer"))):
                s.send(f.error(f.ip(src, dst, protocol, l4), dst, src, kind))
        yield s
    s = Scenario(f"fragments/{tail}", family, mode).service("udp", 53, servers=2)
    src = s.client(0)
    whole = f.udp(src, 3000, s.vip, 53, bytes(range(256)) * 8)
    for offset in (0, 1024):
        part, differ = whole[:1024] if offset == 0 else whole[1024:], None
        if mode == "tun" and offset:
            differ = (", ".join(["server 12 fragment"] * (3 if family == 4 else 2)), "server 12, server 12",
                      "each fragment travels in a tunnel packet of its own; the kernel puts the datagram together, "
                      "encapsulates it and splits the outcome")
        if family == 4:
            packet = f.ip(src, s.vip, 17, part, df=False, offset=offset, more=offset == 0, ident=0x5555)
        else:
            head = bytes((17, 0)) + (offset | (offset == 0)).to_bytes(2, "big") + b"\0\0\x55\x55"
            packet = f.ip(src, s.vip, 44, head + part)
        s.send(packet, differ=differ)
    yield s
    if mode == "dr":
        # A reply of a direct server that comes through the director after all.
        s = Scenario(f"replies-through/{tail}", family, mode).service("udp", 53, servers=1)
        s.udp(0, 2000)
        l4 = f.udp(s.vip, 53, s.client(0), 2000, b"an answer")
        differ = ("client", "nothing", "a reply that comes from a virtual address is the director's kernel's to route; "
                  "a replay has none") if family == 6 else None
        s.send(None, side="s", differ=differ,
               frame=f.ether(f.LAN, f.server_mac(11), f.ip(s.vip, s.client(0), 17, l4)))
        yield s
    if family == 6:
        s = Scenario(f"options/{tail}", family, mode).service("udp", 53, servers=2)
        for protocol in (60, 0):
            l4 = bytes((17, 0, 1, 4, 0, 0, 0, 0)) + f.udp(src, 3000 + protocol, s.vip, 53, b"behind options")
            s.send(f.ip(src, s.vip, protocol, l4))
        yield s


def main():
    pattern = re.compile(sys.argv[2] if len(sys.argv) > 2 else "")
    out = [{"name": s.name, "family": s.family, "mode": s.mode, "setup": s.setup(), "yaml": s.yaml(), "steps": s.steps,
            "whole": getattr(s, "whole", None)}
           for s in table() if pattern.search(s.name)]
    with open(sys.argv[1], "w") as file:
        json.dump(out, file)
    print(f"{len(out)} scenarios, {sum(len(s['steps']) for s in out)} steps")


if __name__ == "__main__":
    main()
