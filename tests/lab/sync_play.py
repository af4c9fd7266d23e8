#!/usr/bin/env python3
"""Two directors side by side, one telling the other of its sessions in IPVS's format; then the other takes over.

    sync_play.py --master kernel|polder --backup kernel|polder --version 0|1 --polder PROGRAM --out DIR [--how HOW]

Makes network namespaces, runs real clients and servers through the master, and compares what both directors list. Each
of the directors is the kernel's IPVS or `polder run` on af_packet. Afterwards routes lead to the backup, and whatever is
open goes on through it. HOW is one of `HOWS`: how sync is set up, by default as plainly as possible. Prints a line for each check; writes both listings, the wire's capture and `result.json` to DIR.
Exit status 0 when all is as wanted, 1 when not.

    sync_play.py --report DIR

Prints what is in the `result.json` files under DIR as a table in Markdown.
"""
import argparse
import collections
import ctypes
import glob
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

PREFIX = "pio"
LIBC = ctypes.CDLL(None, use_errno=True)
NEWNET = 0x40000000
SYNC_ID = 7
THRESHOLD = (1, 3)      # told of at the first packet and each third one after it, so that few packets are enough

# Settings by the names of sysctls, and of Polder's; what goes beside is in the code.
HOWS = {
    "plain": {},
    "ports": {"sync_ports": 4},                                     # four channels
    "refresh": {"sync_threshold": (0, 0), "sync_refresh_period": 10, "sync_retries": 2},
    "templates": {"sync_persist_mode": 1, "sloppy_tcp": 1},         # templates only, of what has some
    "group6": {"group": ("ff02::81", 9000), "ttl": 3, "max": 1200},  # an IPv6 group, another port, shorter messages
    "both": {},                                                     # both roles on both, and back again
    "late": {},                                                     # the backup's services come after its sessions
}

CLIENTS4, CLIENTS6 = "10.0.0.", "fd00:a::"
SERVERS = {4: ["10.1.0.11", "10.1.0.12"], 6: ["fd00:b::11", "fd00:b::12"]}
DIRECT = ["10.0.0.61", "10.0.0.62"]
VIP, VIP_ALL, VIP_OPS = "10.9.0.100", "10.9.0.101", "10.9.0.102"
VIP6 = "fd00:9::100"
MARK = 9


# ------------------------------------------------------------------------------------------------ namespaces

def enter(fd):
    if LIBC.setns(fd, NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Netns:
    """A network namespace in which sockets can be opened and programs run."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)

    def __init__(self, name):
        self.name = f"{PREFIX}-{name}"
        subprocess.run(["ip", "netns", "del", self.name], stderr=subprocess.DEVNULL)
        run("ip", "netns", "add", self.name)
        self.fd = os.open(f"/var/run/netns/{self.name}", os.O_RDONLY)
        self("ip", "link", "set", "lo", "up")

    def __call__(self, *argv, **kw):
        return run(*argv, preexec_fn=lambda: enter(self.fd), **kw)

    def start(self, argv, log):
        out = open(log, "w")
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                                preexec_fn=lambda: enter(self.fd))

    def sysctl(self, **settings):
        self("sysctl", "-qw", *(f"{name.replace('__', '.')}={value}" for name, value in settings.items()))

    def socket(self, family, kind):
        enter(self.fd)
        try:
            return socket.socket(family, kind)
        finally:
            enter(self.own)

    def delete(self):
        os.close(self.fd)
        subprocess.run(["ip", "netns", "del", self.name], stderr=subprocess.DEVNULL)


def run(*argv, **kw):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL if "input" not in kw else None, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **kw)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(argv)}` failed: {done.stdout.strip()}")
    return done.stdout


def ip_batch(ns, *lines):
    ns("ip", "-batch", "-", input="\n".join(lines) + "\n")


def family(addr):
    return socket.AF_INET6 if ":" in addr else socket.AF_INET


def join(addr, port):
    return f"[{addr}]:{port}" if ":" in addr else f"{addr}:{port}"


# ------------------------------------------------------------------------------------------------ servers and clients

class Servers:
    """Servers that say who they are: a line for each line by TCP, a datagram for each by UDP."""

    def tcp(self, ns, addr, port, name):
        s = ns.socket(family(addr), socket.SOCK_STREAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((addr, port))
        s.listen(64)
        threading.Thread(target=self.accept, args=(s, name), daemon=True).start()

    def accept(self, s, name):
        while True:
            c, _ = s.accept()
            threading.Thread(target=self.talk, args=(c, name), daemon=True).start()

    def talk(self, c, name):
        try:
            with c:
                while line := c.recv(1000):
                    if b"bye" in line:
                        return
                    c.sendall(name.encode() + b"\n")
        except OSError:
            pass

    def udp(self, ns, addr, port, name):
        s = ns.socket(family(addr), socket.SOCK_DGRAM)
        s.bind((addr, port))
        threading.Thread(target=self.answer, args=(s, name), daemon=True).start()

    def answer(self, s, name):
        while True:
            data, peer = s.recvfrom(4000)
            lines = data.decode(errors="replace").split("\r\n")
            if lines[0].endswith("SIP/2.0"):
                keep = [x for x in lines[1:] if x.split(":")[0] in ("Via", "From", "To", "Call-ID", "CSeq")]
                lines = ["SIP/2.0 200 OK", *keep, f"Server: {name}", "Content-Length: 0", "", ""]
                s.sendto("\r\n".join(lines).encode(), peer)
            else:
                s.sendto(name.encode(), peer)


class Tcp:
    def __init__(self, ns, src, dst):
        self.what = f"TCP {join(*src)} > {join(*dst)}"
        self.s = ns.socket(family(src[0]), socket.SOCK_STREAM)
        self.s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.s.settimeout(10)
        self.s.bind(src)
        self.s.connect(dst)

    def ask(self):
        self.s.sendall(b"who\n")
        return self.s.recv(100).decode().strip()

    def close(self):
        self.s.close()

    def closed_by_server(self):
        self.s.sendall(b"bye\n")
        assert self.s.recv(10) == b""
        self.s.close()

    def reset(self):
        self.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.s.close()


class Udp:
    def __init__(self, ns, src, dst, call=None):
        self.what = f"UDP {join(*src)} > {join(*dst)}" + (f" of {call}" if call else "")
        self.s = ns.socket(family(src[0]), socket.SOCK_DGRAM)
        self.s.settimeout(10)
        self.s.bind(src)
        self.s.connect(dst)
        me = join(*src)
        self.text = "who" if call is None else (
            f"OPTIONS sip:svc@{dst[0]} SIP/2.0\r\nVia: SIP/2.0/UDP {me};branch=z9hG4bK1\r\nFrom: <sip:a@{me}>;tag=1\r\n"
            f"To: <sip:svc@{dst[0]}>\r\nCall-ID: {call}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n")

    def tell(self):
        try:
            self.s.send(self.text.encode())
        except OSError:
            # What an ICMP message said of the datagram before; this one was not sent.
            self.s.send(self.text.encode())

    def ask(self):
        self.tell()
        answer = self.s.recv(4000).decode()
        found = re.search(r"^Server: (\S+)", answer, re.M)
        return found[1] if found else answer


# ------------------------------------------------------------------------------------------------ what is balanced

Service = collections.namedtuple("Service", "name proto addr port scheduler method servers persist mask engine ops mark")


def service(name, proto, addr, port, *, scheduler="rr", method="masq", servers=None, persist=None, mask=None,
            engine=None, ops=False, mark=None):
    servers = servers or SERVERS[6 if ":" in addr else 4]
    return Service(name, proto, addr, port, scheduler, method, servers, persist, mask, engine, ops, mark)


SERVICES = [
    service("web", "tcp", VIP, 80),
    service("direct", "tcp", VIP, 81, method="direct", servers=DIRECT),
    service("shop", "tcp", VIP, 82, scheduler="wlc", persist=300, mask="255.255.255.0"),
    service("dns", "udp", VIP, 5000),
    service("tunnel", "udp", VIP, 5001, method="tunnel", persist=200),
    service("sip", "udp", VIP, 5060, persist=120, mask="0.0.0.0", engine="sip"),
    service("every", "tcp", VIP_ALL, 0, persist=300),
    service("ops", "udp", VIP_OPS, 5070, persist=120, mask="0.0.0.0", engine="sip", ops=True),
    service("marked", "udp", VIP, 7000, mark=MARK, persist=177),
    service("web6", "tcp", VIP6, 80),
    service("shop6", "tcp", VIP6, 82, scheduler="wlc", persist=300, mask="64"),
    service("dns6", "udp", VIP6, 5000),
    service("sip6", "udp", VIP6, 5060, persist=120, mask="64", engine="sip"),
    service("marked6", "udp", VIP6, 7000, mark=MARK, persist=177),
]


# ------------------------------------------------------------------------------------------------ directors

class Director:
    """Number `n` of the two, in its namespace: interface `c0` to the clients, `s0` to the servers, `y0` to the other."""

    def __init__(self, ns, n, args):
        self.ns, self.n, self.args = ns, n, args
        self.how = {"sync_threshold": THRESHOLD, "sync_version": args.version, **HOWS[args.how]}
        self.addresses = {"c0": [f"{CLIENTS4}{100 + n}/24", f"{CLIENTS6}{100 + n}/64"],
                          "s0": [f"10.1.0.{100 + n}/24", f"fd00:b::{100 + n}/64"]}

    def listing(self):
        """Connections and templates: {(protocol, source, virtual, destination, engine, key): (state, seconds left)}."""
        out = {}
        for line in self.raw().splitlines():
            word = line.split()
            if len(word) >= 6 and ":" in word[1] and word[0] in ("TCP", "UDP", "IP", "SCTP"):
                minutes, seconds = word[1].split(":")
                # The kernel writes addresses of IPv6 in full here and in short there.
                ends = tuple(canonical(a) for a in word[3:6])
                out[(word[0], *ends, *(word[6:8] or ["", ""]))] = (word[2], int(minutes) * 60 + int(seconds))
        return out

    def counts(self):
        """Active, inactive and persistent connections of every server."""
        out, at = {}, None
        for line in self.servers_raw().splitlines():
            word = line.split()
            if word[:1] == ["->"] and len(word) == 6 and word[2].isdigit():
                out[(at, canonical(word[1]))] = tuple(int(w) for w in word[3:6])
            elif word and word[0] in ("TCP", "UDP", "FWM", "SCTP"):
                at = " ".join([word[0], canonical(word[1])] + (["IPv6"] if "IPv6" in word[2:3] else []))
        return out


def canonical(text):
    addr, _, port = text.rpartition(":")
    if not addr:
        return text
    addr = addr.strip("[]")
    if ":" in addr:
        return join(socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, addr)), port)
    return text


class Kernel(Director):
    def start(self, role):
        ns = self.ns
        ip_batch(ns, *(f"addr add {a} dev {dev} {'nodad' if ':' in a else ''}"
                       for dev, all in self.addresses.items() for a in all),
                 *(f"addr add {a}/32 dev lo" for a in (VIP, VIP_ALL, VIP_OPS)), f"addr add {VIP6}/128 dev lo nodad")
        ns.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1, net__ipv4__conf__all__send_redirects=0)
        for name, value in self.how.items():
            if name.startswith(("sync_", "sloppy_")):
                ns.sysctl(**{f"net__ipv4__vs__{name}": "%d %d" % value if isinstance(value, tuple) else value})
        for tables, vip in (("iptables", VIP), ("ip6tables", VIP6)):
            ns(tables, "-t", "mangle", "-A", "PREROUTING", "-d", vip, "-p", "udp", "--dport", "7000:7001",
               "-j", "MARK", "--set-mark", str(MARK))
        if not (self.args.how == "late" and role == "backup"):
            self.add_services()
        more = []
        if "group" in self.how:
            (group, port), ttl = self.how["group"], self.how["ttl"]
            more = ["--mcast-group", group, "--mcast-port", str(port), "--mcast-ttl", str(ttl),
                    "--sync-maxlen", str(self.how["max"])]
        for role in ["master", "backup"] if self.args.how == "both" else [role]:
            ns("ipvsadm", "--start-daemon", role, "--mcast-interface", "y0", "--syncid", str(SYNC_ID), *more)

    def add_services(self):
        lines = []
        for s in SERVICES:
            at = f"-f {s.mark}{' -6' if ':' in s.addr else ''}" if s.mark else f"-{s.proto[0]} {join(s.addr, s.port)}"
            lines.append(f"-A {at} -s {s.scheduler}" + (f" -p {s.persist}" if s.persist else "")
                         + (f" -M {s.mask}" if s.mask else "") + (f" --pe {s.engine}" if s.engine else "")
                         + (" -o" if s.ops else ""))
            method = {"masq": "-m", "direct": "-g", "tunnel": "-i"}[s.method]
            lines += [f"-a {at} -r {join(d, 0 if s.mark else s.port)} {method} -w 1" for d in s.servers]
        # Restoring goes on after a bad line, and says nothing by its exit status.
        said = self.ns("ipvsadm", "-R", input="\n".join(lines) + "\n")
        assert not said.strip(), said
        self.commands = "".join(f"$ ipvsadm {line}\n" for line in lines)

    def raw(self):
        return self.ns("ipvsadm", "-Lcn", "--persistent-conn")

    def servers_raw(self):
        return self.ns("ipvsadm", "-Ln", "--persistent-conn")

    def origins(self):
        text = self.ns("cat", "/proc/net/ip_vs_conn_sync")
        return collections.Counter(line.split()[-2] for line in text.splitlines()[1:])

    def show_services(self):
        return self.ns("ipvsadm", "-Ln")

    def stop(self):
        for role in ("master", "backup"):
            try:
                self.ns("ipvsadm", "--stop-daemon", role)
            except RuntimeError:
                pass
        self.ns("ipvsadm", "-C")


class Polder(Director):
    def start(self, role):
        ns, out = self.ns, self.args.out
        for dev in ("c0", "s0"):
            ns.sysctl(**{f"net__ipv4__conf__{dev}__rp_filter": 1, f"net__ipv4__conf__{dev}__arp_ignore": 8,
                         f"net__ipv6__conf__{dev}__disable_ipv6": 1})
        self.socket = f"/tmp/{ns.name}.sock"
        sync = {"role": "both" if self.args.how == "both" else role, "format": "ipvs", "interface": "y0", "sync_id": SYNC_ID}
        sync |= {name: value for name, value in self.how.items() if name.startswith("sync_")}
        if "sync_refresh_period" in sync:
            sync["sync_refresh_period"] = f"{sync['sync_refresh_period']}s"
        if "sync_persist_mode" in sync:
            sync["sync_persist_mode"] = True
        if "group" in self.how:
            (group, port), ttl = self.how["group"], self.how["ttl"]
            sync |= {"group": f"[{group}]:{port}", "ttl": ttl, "max_message": self.how["max"]}
        text = f"""dpdk: {{cores: {self.args.cores}, management_core: 0, hugepages: false, memory: 192M, idle: sleep}}
limits: {{connections: 16k, templates: 4k, services: 64, servers: 256}}
ports:
  - {{name: c0, device: "net_af_packet0,iface=c0", addresses: {json.dumps(self.addresses["c0"])}}}
  - {{name: s0, device: "net_af_packet1,iface=s0", addresses: {json.dumps(self.addresses["s0"])}}}
marks:
  - {{mark: {MARK}, to: {VIP}/32, protocol: udp, port: 7000-7001}}
  - {{mark: {MARK}, to: "{VIP6}/128", protocol: udp, port: 7000-7001}}
sync: {json.dumps(sync)}
metrics: {{listen: "127.0.0.1:9108"}}
control: {{socket: {self.socket}}}
ipvs: {{sloppy_tcp: {"true" if self.args.how == "templates" else "false"}}}
services:
"""
        self.file = f"{out}/polder-{role}.yaml"
        empty = self.args.how == "late" and role == "backup"
        with open(self.file, "w") as f:
            f.write(text.replace("services:\n", "services: []\n") if empty else text + self.services())
        self.text = text
        log = f"{out}/polder-{role}.log"
        self.process = ns.start([self.args.polder, "run", "-c", self.file], log)
        for _ in range(600):
            if "is running" in open(log).read():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"polder does not start: {open(log).read()}")

    def add_services(self):
        with open(self.file, "w") as f:
            f.write(self.text + self.services())
        run(self.args.polder, "reload", "--socket", self.socket)

    def services(self):
        text = ""
        for s in SERVICES:
            text += f"  - name: {s.name}\n    scheduler: {s.scheduler}\n"
            if s.mark:
                text += f"    mark: {s.mark}\n    family: {'ipv6' if ':' in s.addr else 'ipv4'}\n"
            else:
                text += f"    protocol: {s.proto}\n    address: \"{s.addr}\"\n    port: {s.port}\n"
            if s.ops:
                text += "    one_packet: true\n"
            if s.persist:
                more = (f", netmask: {s.mask}" if s.mask else "") + (f", engine: {s.engine}" if s.engine else "")
                text += f"    persistence: {{timeout: {s.persist}s{more}}}\n"
            text += "    servers:\n"
            text += "".join(f"      - {{address: \"{d}\", forwarding: {s.method}}}\n" for d in s.servers)
        return text

    def show(self, *what):
        return run(self.args.polder, "show", *what, "--socket", self.socket)

    def raw(self):
        return self.show("connections")

    def counts(self):
        out = {}
        for s in json.loads(self.show("services", "-o", "json"))["services"]:
            if s["protocol"] == "mark":
                at = f"FWM {s['address']}" + (" IPv6" if s["family"] == "ipv6" else "")
            else:
                at = f"{s['protocol'].upper()} {canonical(s['address'])}"
            for d in s["servers"]:
                out[(at, canonical(d["address"]))] = (d["persistent"], d["active"], d["inactive"])
        return out

    def sync(self):
        c = http.client.HTTPConnection("polder")
        c.sock = socket.socket(socket.AF_UNIX)
        c.sock.connect(self.socket)
        c.request("GET", "/v1/sync")
        return json.load(c.getresponse())

    def show_services(self):
        return self.show("services")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return -9


# ------------------------------------------------------------------------------------------------ the play

class Play:
    def __init__(self, args):
        self.args, self.failures, self.lines = args, 0, []
        self.spaces = []

    def check(self, what, ok, *said):
        self.lines.append((what, bool(ok)))
        print(f"  {'ok  ' if ok else 'FAIL'}  {what}", flush=True)
        if not ok:
            self.failures += 1
            for line in said:
                print(f"          {line}", flush=True)

    def netns(self, name):
        ns = Netns(name)
        self.spaces.append(ns)
        return ns

    def wire(self, a, a_name, b, b_name):
        run("ip", "-n", a.name, "link", "add", a_name, "type", "veth", "peer", "name", b_name, "netns", b.name)
        for ns, name in ((a, a_name), (b, b_name)):
            ns.sysctl(**{f"net__ipv6__conf__{name}__accept_dad": 0})
            ns("ethtool", "-K", name, "tx", "off", "tso", "off", "gso", "off", "gro", "off")
            ns("ip", "link", "set", name, "up")

    def build(self):
        switch = self.netns("sw")
        self.client, self.server = self.netns("cl"), self.netns("sv")
        self.direct = [self.netns("dr1"), self.netns("dr2")]
        d = [self.netns("d1"), self.netns("d2")]
        ip_batch(switch, "link add brc type bridge", "link add brs type bridge", "link set brc up", "link set brs up")
        ends = [(self.client, "c0", "brc"), (self.server, "s0", "brs"), (self.direct[0], "c0", "brc"),
                (self.direct[1], "c0", "brc"), (d[0], "c0", "brc"), (d[0], "s0", "brs"), (d[1], "c0", "brc"),
                (d[1], "s0", "brs")]
        for i, (ns, name, bridge) in enumerate(ends):
            self.wire(ns, name, switch, f"p{i}")
            switch("ip", "link", "set", f"p{i}", "master", bridge)
        self.wire(d[0], "y0", d[1], "y0")
        for n, ns in enumerate(d, 1):
            ip_batch(ns, f"addr add 192.168.9.{n}/24 dev y0")
        ip_batch(self.client, *(f"addr add {CLIENTS4}{n}/24 dev c0" for n in range(2, 10)),
                 *(f"addr add {CLIENTS6}{n}/64 dev c0 nodad" for n in range(2, 10)))
        ip_batch(self.server, *(f"addr add {a}/24 dev s0" for a in SERVERS[4]),
                 *(f"addr add {a}/64 dev s0 nodad" for a in SERVERS[6]))
        for ns, a in zip(self.direct, DIRECT):
            ns.sysctl(net__ipv4__conf__all__arp_ignore=1, net__ipv4__conf__all__arp_announce=2)
            ip_batch(ns, f"addr add {a}/24 dev c0", f"addr add {VIP}/32 dev lo")
        self.through(1)
        kinds = {"kernel": Kernel, "polder": Polder}
        self.master = kinds[self.args.master](d[0], 1, self.args)
        self.backup = kinds[self.args.backup](d[1], 2, self.args)

    def through(self, n):
        """Routes lead through director `n`."""
        ip_batch(self.client, f"route replace 10.9.0.0/24 via {CLIENTS4}{100 + n}")
        run("ip", "-n", self.client.name, "-6", "route", "replace", "fd00:9::/64", "via", f"{CLIENTS6}{100 + n}")
        ip_batch(self.server, f"route replace default via 10.1.0.{100 + n}")
        run("ip", "-n", self.server.name, "-6", "route", "replace", "default", "via", f"fd00:b::{100 + n}")

    def serve(self):
        s = Servers()
        for af in (4, 6):
            for n, addr in enumerate(SERVERS[af], 1):
                for port in (80, 82, 443, 8443):
                    s.tcp(self.server, addr, port, f"server{n}")
                for port in (5000, 5060, 5070, 7000, 7001):
                    s.udp(self.server, addr, port, f"server{n}")
        for n, ns in enumerate(self.direct, 1):
            s.tcp(ns, VIP, 81, f"direct{n}")

    def answers(self, n):
        """Waits until director `n` reaches all servers and clients: neighbours are known on all sides."""
        for ns, targets in ((self.client, [f"{CLIENTS4}{100 + n}", f"{CLIENTS6}{100 + n}"]),
                            (self.server, [f"10.1.0.{100 + n}", f"fd00:b::{100 + n}"]),
                            (self.direct[0], [f"{CLIENTS4}{100 + n}"]), (self.direct[1], [f"{CLIENTS4}{100 + n}"])):
            for target in targets:
                froms = SERVERS[6 if ":" in target else 4] if ns is self.server else [None]
                for source in froms:
                    argv = ["ping", "-q", "-c", "1", "-W", "2", *(["-I", source] if source else []), target]
                    for _ in range(15):
                        if subprocess.run(argv, preexec_fn=lambda: enter(ns.fd), stdout=subprocess.DEVNULL).returncode == 0:
                            break
                        time.sleep(0.3)
                    else:
                        self.check(f"{target} answers {ns.name}", False)

    def talk(self):
        """Real traffic of every kind through the master; what stays open is kept with its server's name."""
        c, self.open = self.client, []

        def keep(flow, times):
            names = {flow.ask() for _ in range(times)}
            if len(names) != 1:
                self.check(f"{flow.what} stays on one server", False, names)
            self.open.append((flow, names.pop()))

        for port in range(20001, 20007):
            keep(Tcp(c, ("10.0.0.2", port), (VIP, 80)), 6)
            keep(Tcp(c, ("10.0.0.2", port), (VIP, 81)), 6)
            keep(Tcp(c, ("fd00:a::2", port), (VIP6, 80)), 6)
        for n in (3, 4):
            keep(Tcp(c, (f"10.0.0.{n}", 20011), (VIP, 82)), 6)
            keep(Tcp(c, (f"fd00:a::{n}", 20011), (VIP6, 82)), 6)
            keep(Tcp(c, (f"10.0.0.{n}", 20012), (VIP_ALL, 443)), 6)
            keep(Udp(c, (f"10.0.0.{n}", 20013), (VIP, 7000)), 5)
            keep(Udp(c, (f"fd00:a::{n}", 20013), (VIP6, 7000)), 5)
        for port in range(20021, 20025):
            keep(Udp(c, ("10.0.0.2", port), (VIP, 5000)), 5)
            keep(Udp(c, ("fd00:a::2", port), (VIP6, 5000)), 5)
        for n in range(1, 5):
            keep(Udp(c, ("10.0.0.5", 20030 + n), (VIP, 5060), f"call-{n}@example.com"), 5)
            keep(Udp(c, ("fd00:a::5", 20030 + n), (VIP6, 5060), f"call6-{n}@example.com"), 5)
            keep(Udp(c, ("10.0.0.6", 20030 + n), (VIP_OPS, 5070), f"ops-{n}@example.com"), 5)
        tunnelled = Udp(c, ("10.0.0.7", 20041), (VIP, 5001))
        for _ in range(4):
            tunnelled.tell()
        # Those that end: by the client, by the server, by a reset.
        for i, end in enumerate((Tcp.close, Tcp.closed_by_server, Tcp.reset)):
            for src, dst in (("10.0.0.8", VIP), ("fd00:a::8", VIP6)):
                flow = Tcp(c, (src, 20051 + i), (dst, 80))
                for _ in range(6):
                    flow.ask()
                end(flow)

    def comparable(self, listing):
        """What both sides must have. Version 0 has neither IPv6 nor marks nor sessions' keys (specification §9.2)."""
        out = {}
        for key, (state, left) in listing.items():
            if self.args.version == 0 and (key[1].startswith("[") or key[4] or is_template_of_mark(key)
                                           or (key[1] == "0.0.0.0:0" and ":5060" in key[2])):
                continue
            if self.args.how == "refresh" and key[1].endswith(":0"):
                # It is not told of again when it becomes assured.
                state = "any"
            if self.args.how == "templates" and not key[1].endswith(":0") and is_persistent(key[2]):
                continue
            out[key] = (state, left)
        return out

    def differences(self):
        self.before, self.after = self.master.listing(), self.backup.listing()
        a, b = self.comparable(self.before), self.comparable(self.after)
        out = []
        for key in sorted(a.keys() | b.keys()):
            states = [x.get(key, ("missing", 0))[0] for x in (a, b)]
            if states[0] != states[1] and "missing" not in states or key not in b or key not in a:
                out.append(f"{' '.join(key)}: master {states[0]}, backup {states[1]}")
        return out

    def compare(self):
        began, what = time.time(), "waiting"
        while time.time() - began < 25:
            what = self.differences()
            if not what:
                break
            time.sleep(0.5)
        a = self.comparable(self.before)
        for name, director in (("master", self.master), ("backup", self.backup)):
            with open(f"{self.args.out}/{name}.txt", "w") as f:
                f.write(director.raw() + "\n" + director.show_services())
        if isinstance(self.master, Kernel):
            with open(f"{self.args.out}/wire.txt", "w") as f:
                f.write(f"# kernel {os.uname().release}, version {self.args.version}\n{self.master.commands}== backup\n"
                        f"$ ipvsadm -Lcn --persistent-conn\n{self.backup.raw()}")
        templates = sum(1 for k in a if k[1].endswith(":0"))
        states = collections.Counter(state for state, _ in a.values())
        self.check(f"both list the same {len(a) - templates} connections and {templates} templates "
                   f"({', '.join(f'{n} {s}' for s, n in sorted(states.items()))})", not what, *what)
        least = 72 if self.args.version else 34
        # Connections that were reset live 10 s.
        least -= {"templates": 19}.get(self.args.how, 0) + 2
        self.check(f"those are all kinds: at least {least}", len(a) >= least, len(a))
        b, slack = self.comparable(self.after), self.args.slack * (4 if self.args.how == "both" else 1)
        far = [f"{' '.join(k)}: master {a[k][1]} s, backup {b[k][1]} s" for k in a.keys() & b.keys()
               if abs(a[k][1] - b[k][1]) > slack
               # Version 0 tells no time: a template has 180 s there (specification §9.9).
               and not (self.args.version == 0 and k[1].endswith(":0") and b[k][1] <= 180)]
        self.check(f"what is left of them differs by {slack} s at most", not far, *far)
        if isinstance(self.backup, Kernel) and self.args.how != "both":
            origins = self.backup.origins()
            self.check(f"the kernel lists all of them as SYNC ({dict(origins)})", set(origins) == {"SYNC"})
        if self.args.version == 1:
            # Where only templates are told of, only they are counted alike; and a connection that came before its service
            # is counted with its next packet (specification §9.9).
            n = 1 if self.args.how in ("templates", "late") else 3
            for _ in range(30): # those that were reset end meanwhile
                ours, theirs = ({k: c[:n] for k, c in d.counts().items()} for d in (self.master, self.backup))
                if ours == theirs:
                    break
                time.sleep(0.5)
            differ = [f"{k}: master {ours.get(k)}, backup {theirs.get(k)}" for k in sorted(ours.keys() | theirs.keys())
                      if ours.get(k) != theirs.get(k)]
            self.check(f"both count the same connections for {len(ours)} servers", ours and not differ, *differ)
        for director in (self.master, self.backup):
            if isinstance(director, Polder):
                s = director.sync()
                noted = {r["reason"]: r["count"] for r in s["rejected"] if r["count"]}
                self.check(f"polder: {s['sent']}, {s['received']}, rejected {noted or 'none'}, discarded "
                           f"{s['discarded']}", s["running"] and not s["problem"]
                           and not s["discarded"]
                           # In version 0 a mark's template is of no service.
                           and not set(noted) - ({"unbound"} if self.args.version == 0 or self.args.how == "late" else set()), json.dumps(s))

    def go_back(self):
        """What began at the second director is known to the first one as well."""
        self.master, self.backup = self.backup, self.master
        self.compare()
        self.take_over(1)

    def take_over(self, n=2):
        self.through(n)
        self.answers(n)
        wrong = []
        went = collections.Counter()
        for flow, name in self.open:
            if self.args.version == 0 and "[" in flow.what:
                continue
            if self.args.version == 0 and flow.what.split()[-1].startswith("ops-"):
                continue
            try:
                got = {flow.ask() for _ in range(2)}
            except OSError as e:
                got = {str(e)}
            went[got == {name}] += 1
            if got != {name}:
                wrong.append(f"{flow.what}: was on {name}, now {sorted(got)}")
        self.check(f"through the backup {went[True]} of {went.total()} sessions go on to the same server", not wrong, *wrong)
        self.new_ones()

    def new_ones(self):
        """New connections of clients, calls and marks that the master knew go where the template says."""
        c, names, wrong, n = self.client, {f.what: name for f, name in self.open}, [], 0
        base = 20100 if self.backup.n == 2 else 20200

        def expect(flow, before):
            nonlocal n
            n += 1
            try:
                got = flow.ask()
                for _ in range(5):
                    flow.ask()
            except OSError as e:
                got = str(e)
            self.open.append((flow, got))
            if got != names[before]:
                wrong.append(f"{flow.what}: {got}, but {before} was on {names[before]}")

        for i in (3, 4):
            expect(Tcp(c, (f"10.0.0.{i}", base + 11), (VIP, 82)), f"TCP 10.0.0.{i}:20011 > {VIP}:82")
            expect(Tcp(c, (f"10.0.0.{i}", base + 12), (VIP_ALL, 8443)), f"TCP 10.0.0.{i}:20012 > {VIP_ALL}:443")
        expect(Tcp(c, ("10.0.0.9", base + 11), (VIP, 82)), f"TCP 10.0.0.3:20011 > {VIP}:82")
        if self.args.version == 1:
            for i in (3, 4):
                expect(Tcp(c, (f"fd00:a::{i}", base + 11), (VIP6, 82)), f"TCP [fd00:a::{i}]:20011 > [{VIP6}]:82")
                expect(Udp(c, (f"10.0.0.{i}", base + 13), (VIP, 7001)), f"UDP 10.0.0.{i}:20013 > {VIP}:7000")
                expect(Udp(c, (f"fd00:a::{i}", base + 13), (VIP6, 7001)), f"UDP [fd00:a::{i}]:20013 > [{VIP6}]:7000")
            for i in range(1, 5):
                for kind, src, via, dst, port in (("call", "10.0.0.", 5, (VIP, 5060), 30),
                                                  ("call6", "fd00:a::", 5, (VIP6, 5060), 30),
                                                  ("ops", "10.0.0.", 6, (VIP_OPS, 5070), 40)):
                    call = f"{kind}-{i}@example.com"
                    before = f"UDP {join(f'{src}{via}', 20030 + i)} > {join(*dst)} of {call}"
                    expect(Udp(c, (f"{src}9", base + port + i), dst, call), before)
        self.check(f"{n} new connections follow the templates", not wrong, *wrong)

    def run(self):
        os.makedirs(self.args.out, exist_ok=True)
        tcpdump = None
        try:
            self.build()
            self.serve()
            self.master.start("master")
            self.backup.start("backup")
            tcpdump = self.master.ns.start(["tcpdump", "-i", "y0", "-s", "0", "-U", "-w", f"{self.args.out}/wire.pcap",
                                            "udp", "portrange", "8848-9063"], f"{self.args.out}/tcpdump.log")
            time.sleep(1)
            self.answers(1)
            self.talk()
            if self.args.how == "late":
                time.sleep(6)
                self.backup.add_services()
            self.compare()
            if not self.args.no_takeover:
                self.take_over()
            if self.args.how == "both":
                self.go_back()
            for director in (self.master, self.backup):
                status = director.stop()
                if isinstance(director, Polder):
                    self.check("polder stops cleanly", status == 0, status)
        except Exception:
            for director in (getattr(self, "master", None), getattr(self, "backup", None)):
                if isinstance(director, Polder) and director.process.poll() is None:
                    print(director.show("drops"), director.raw(), director.show_services())
            raise
        finally:
            if tcpdump:
                tcpdump.terminate()
                tcpdump.wait()
            for director in (getattr(self, "master", None), getattr(self, "backup", None)):
                if isinstance(director, Polder) and director.process.poll() is None:
                    director.process.kill()
            for ns in self.spaces:
                ns.delete()
        with open(f"{self.args.out}/result.json", "w") as f:
            json.dump({"master": self.args.master, "backup": self.args.backup, "version": self.args.version,
                       "how": self.args.how, "kernel": os.uname().release, "checks": self.lines}, f)
        return self.failures


def is_persistent(virtual):
    """Whether connections to a virtual end are under a template."""
    addr, _, port = virtual.rpartition(":")
    return addr == VIP_ALL or any(s.persist and int(port) in (s.port, s.port + bool(s.mark)) for s in SERVICES)


def is_template_of_mark(key):
    return key[0] == "IP"


def report(where):
    """The results as a table: a row for each play, its numbers by check."""
    rows, kernels = {}, []
    for path in sorted(glob.glob(f"{where}/*/result.json")):
        with open(path) as f:
            r = json.load(f)
        kernels += [r["kernel"]] if r["kernel"] not in kernels else []
        failed = [what for what, ok in r["checks"] if not ok]
        same = [re.search(r"same (\d+) connections and (\d+) templates", what) for what, _ in r["checks"]]
        counts = " then ".join(f"{m[1]} + {m[2]}" for m in same if m)
        on = sum(int(m[1]) for what, _ in r["checks"] if (m := re.search(r"(\d+) of \d+ sessions go on", what)))
        new = sum(int(m[1]) for what, ok in r["checks"] if ok and (m := re.match(r"(\d+) new connections", what)))
        key = (list(HOWS).index(r["how"]), -r["version"], r["master"] == "kernel", r["backup"] == "kernel")
        row = f"| {r['master']} → {r['backup']} | {r['version']} | {r['how']} |"
        rows.setdefault((key, row), {})[r["kernel"]] = \
            f"FAILED: {'; '.join(failed)}" if failed else f"{counts}; {on} went on, {new} found their server"
    print(f"| master → backup | version | how | {' | '.join(kernels)} |\n|---|---|---|{'---|' * len(kernels)}")
    for (_, row), cells in sorted(rows.items()):
        print(row, " | ".join(cells.get(k, "–") for k in kernels), "|")


def main():
    if sys.argv[1:2] == ["--report"]:
        return report(sys.argv[2])
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--master", choices=["kernel", "polder"], required=True)
    p.add_argument("--backup", choices=["kernel", "polder"], required=True)
    p.add_argument("--version", type=int, choices=[0, 1], default=1)
    p.add_argument("--how", choices=HOWS, default="plain")
    p.add_argument("--polder", default="polder")
    p.add_argument("--cores", default="[1, 2]")
    p.add_argument("--slack", type=int, default=20)
    p.add_argument("--no-takeover", action="store_true")
    p.add_argument("--out", required=True)
    args = p.parse_args()
    how = "" if args.how == "plain" else f", {args.how}"
    print(f"{args.master} to {args.backup}, version {args.version}{how}:", flush=True)
    # Threads of servers and clients may still wait somewhere.
    os._exit(1 if Play(args).run() else 0)


if __name__ == "__main__":
    main()
