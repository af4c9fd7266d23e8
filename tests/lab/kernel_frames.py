"""Frames of the comparison with the kernel: building, reading and answering them. Knows no director.

The addresses are those of the bed: a gateway behind which all clients are, a director with two links, and servers on the
second one. MAC addresses are fixed on both sides, so that they are compared as well.
"""
import ipaddress
import struct

GATEWAY, WAN, LAN = "02:00:00:00:00:01", "02:00:00:00:00:10", "02:00:00:00:00:20"
NETS = {  # by family: gateway, director towards clients, towards servers, virtual address
    4: {"gateway": "192.0.2.1", "wan": "192.0.2.10/24", "lan": "10.0.0.1/24", "vip": "192.0.2.100"},
    6: {"gateway": "2001:db8:1::1", "wan": "2001:db8:1::10/64", "lan": "2001:db8:2::1/64",
        "vip": "2001:db8:1::100"},
}
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
GUE_PORT = 16080  # no client has it
# The first chunk of an SCTP packet.
DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK = range(9)
ERROR, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN_COMPLETE = 9, 10, 11, 14


def server(family, n):
    return f"10.0.0.{n}" if family == 4 else f"2001:db8:2::{n}"


def server_mac(n):
    return f"02:00:00:00:01:{n:02d}"


def mac(text):
    return bytes(int(x, 16) for x in text.split(":"))


def packed(address):
    return ipaddress.ip_address(address).packed


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def ip(src, dst, protocol, payload, ttl=64, tos=0, ident=0x1234, df=True, options=b"", offset=0, more=False):
    """An IP packet; `offset` in bytes, `options`, `ident`, `df` and fragments of IPv4 only."""
    src, dst = packed(src), packed(dst)
    if len(src) == 16:
        return struct.pack(">IHBB", 6 << 28 | tos << 20, len(payload), protocol, ttl) + src + dst + payload
    flags = (0x4000 if df else 0) | (0x2000 if more else 0) | offset // 8
    size = 20 + len(options)
    head = struct.pack(">BBHHHBBH", 0x40 | size // 4, tos, size + len(payload), ident, flags, ttl, protocol, 0)
    head += src + dst + options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def pseudo(src, dst, protocol, size):
    src, dst = packed(src), packed(dst)
    return src + dst + (struct.pack(">BBH", 0, protocol, size) if len(src) == 4 else
                        struct.pack(">IHBB", size, 0, 0, protocol))


def summed(src, dst, protocol, l4, at):
    value = checksum(pseudo(src, dst, protocol, len(l4)) + l4)
    if protocol == 17 and value == 0:
        value = 0xffff
    return l4[:at] + struct.pack(">H", value) + l4[at + 2:]


def tcp(src, sport, dst, dport, flags, seq=0, ack=0, payload=b""):
    l4 = struct.pack(">HHIIBBHHH", sport, dport, seq & 0xffffffff, ack & 0xffffffff, 0x50, flags, 0x4000, 0, 0)
    return summed(src, dst, 6, l4 + payload, 16)


def udp(src, sport, dst, dport, payload, check=True):
    l4 = struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload
    return summed(src, dst, 17, l4, 6) if check else l4


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def chunk(kind, value=b"", flags=0):
    return struct.pack(">BBH", kind, flags, 4 + len(value)) + value + bytes(-len(value) % 4)


def sctp(sport, dport, tag, *chunks):
    """An SCTP packet; its checksum covers no addresses (RFC 9260 §6.8)."""
    l4 = struct.pack(">HHII", sport, dport, tag, 0) + b"".join(chunks)
    return l4[:8] + struct.pack("<I", crc32c(l4)) + l4[12:]


def esp(spi, seq=1, payload=b"a secret of 20 bytes"):
    return struct.pack(">II", spi, seq) + payload


def ah(spi, protocol, payload, seq=1):
    """An authentication header with 12 bytes of signature, and what it protects."""
    return struct.pack(">BBHII", protocol, 4, 0, spi, seq) + b"signed by me" + payload


def icmp(src, dst, kind, code, rest, payload):
    """An ICMP or, between IPv6 addresses, ICMPv6 message."""
    body = struct.pack(">BBHI", kind, code, 0, rest) + payload
    if len(packed(src)) == 16:
        return summed(src, dst, 58, body, 2)
    return body[:2] + struct.pack(">H", checksum(body)) + body[4:]


def ether(to, frm, packet):
    return mac(to) + mac(frm) + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


class Packet:
    """What a frame says; enough of it to answer and to describe it."""

    def __init__(self, frame):
        self.frame = frame
        self.kind = struct.unpack(">H", frame[12:14])[0]
        self.packet = p = frame[14:]
        self.inner = None
        self.sport = self.dport = 0
        self.l4 = b""
        self.protocol = -1
        self.fragment = self.later = self.gue = False
        if self.kind == 0x0800:
            self.src, self.dst = str(ipaddress.ip_address(p[12:16])), str(ipaddress.ip_address(p[16:20]))
            self.protocol, size = p[9], (p[0] & 15) * 4
            self.l4 = p[size:struct.unpack(">H", p[2:4])[0]]
            place = struct.unpack(">H", p[6:8])[0]
            self.fragment, self.later = bool(place & 0x3fff), bool(place & 0x1fff)
        elif self.kind == 0x86dd:
            self.src, self.dst = str(ipaddress.ip_address(p[8:24])), str(ipaddress.ip_address(p[24:40]))
            self.protocol, self.l4 = p[6], p[40:40 + struct.unpack(">H", p[4:6])[0]]
            self.fragment = self.protocol == 44
        if self.later:
            return
        if self.protocol in (6, 17, 132) and len(self.l4) >= 8:
            self.sport, self.dport = struct.unpack(">HH", self.l4[:4])
            self.gue = self.protocol == 17 and self.dport == GUE_PORT
        carried = self.carried()
        if carried:
            self.inner = Packet(frame[:12] + (b"\x08\x00" if carried[0] >> 4 == 4 else b"\x86\xdd") + carried)

    def carried(self):
        """The packet within that of a tunnel; None if it is of none."""
        if self.protocol in (4, 41):
            return self.l4
        if self.gue and len(self.l4) > 12:
            return self.l4[12 + (self.l4[8] & 31) * 4:]
        if self.protocol == 47 and len(self.l4) > 4:
            return self.l4[8 if self.l4[0] & 0x80 else 4:]
        return None

    @property
    def is_ip(self):
        """Whether it is what the comparison is about: not ARP, neighbour discovery or multicast listening."""
        if self.kind not in (0x0800, 0x86dd):
            return False
        noise = self.protocol == 58 and self.l4[0] >= 130
        # Multicast listener reports are behind a hop-by-hop header.
        return not noise and not (self.protocol == 0 and self.packet[24] == 0xff)

    @property
    def own_error(self):
        """Whether it is an ICMP error that the director made: what it relays has one hop less."""
        return self.protocol in (1, 58) and len(self.l4) > 1 and (
            self.l4[0] in (3, 11) and self.packet[8] == 64 if self.protocol == 1 else
            self.l4[0] < 128 and self.packet[7] == 64)

    def comparable(self):
        """The frame, without what a kernel chooses at random: the id of a tunnel header and its checksum, the port that a
        GUE packet comes from, and the id of fragments that it made anew."""
        if self.inner:
            p = bytearray(self.frame)
            if self.kind == 0x0800:
                p[18:20] = p[24:26] = b"\0\0"
            if self.gue and 32768 <= self.sport <= 60999:
                at = len(p) - len(self.l4)
                # No checksum is none, and a right one is right, whatever the port is.
                right = summed(self.src, self.dst, 17, self.l4[:6] + b"\0\0" + self.l4[8:], 6) == self.l4
                p[at:at + 2] = b"\0\0"
                p[at + 6:at + 8] = b"ok" if right else p[at + 6:at + 8]
            return bytes(p)
        if self.kind == 0x86dd and self.fragment:
            return self.frame[:58] + b"\0\0\0\0" + self.frame[62:]
        return self.frame

    def announced(self):
        """What a kernel's frame must be for it to be what Polder is said to send.

        ICMP errors of the director's own: the kernel's may be fragmented and have an id, Polder's may not and have
        none (RFC 6864 §4.1); the kernel's ICMPv6 have traffic class 0 and a flow label by chance, Polder's the
        class of ICMP and no label. Of a packet that is too big the kernel quotes the TTL as it would have left,
        Polder as it came (both RFC 1812 §4.3.2.3).
        """
        p = bytearray(self.frame)
        if self.own_error and self.protocol == 1 and p[20:22] == b"\0\0":
            p[18:20], p[20:22], p[24:26] = b"\0\0", b"\x40\0", b"\0\0"
            p[24:26] = struct.pack(">H", checksum(bytes(p[14:34])))
            if self.l4[:2] == b"\3\4":
                p[50] += 1
                p[52:54] = b"\0\0"
                p[52:54] = struct.pack(">H", checksum(bytes(p[42:62])))
                p[36:38] = b"\0\0"
                p[36:38] = struct.pack(">H", checksum(bytes(p[34:])))
        elif self.own_error and self.protocol == 58 and p[14] == 0x60 and p[15] >> 4 == 0:
            p[14:18] = b"\x6c\0\0\0"
            if self.l4[:2] == b"\2\0":
                p[69] += 1
                p[56:58] = b"\0\0"
                p[54:] = summed(self.src, self.dst, 58, bytes(p[54:]), 2)
        return Packet(bytes(p)).comparable()

    @property
    def sound(self):
        """Whether the IPv4 header's checksum is right."""
        return self.kind != 0x0800 or checksum(self.packet[:(self.packet[0] & 15) * 4]) == 0

    def text(self):
        if self.protocol == 132 and len(self.l4) >= 13:
            return f"sctp {self.src}.{self.sport} > {self.dst}.{self.dport} chunk {self.l4[12]}"
        if self.kind not in (0x0800, 0x86dd):
            return f"ethertype {self.kind:#06x}"
        if self.inner:
            return f"tunnel {self.src} > {self.dst} ({self.inner.text()})"
        if self.later:
            return f"later fragment {self.src} > {self.dst}"
        where = f"{self.src}.{self.sport} > {self.dst}.{self.dport}"
        if self.protocol == 6 and len(self.l4) >= 14:
            names = "".join(c for bit, c in ((SYN, "S"), (ACK, "A"), (PSH, "P"), (FIN, "F"), (RST, "R"))
                            if self.l4[13] & bit)
            return f"tcp {where} {names}"
        if self.protocol == 17:
            return f"udp {where} {len(self.l4)} B"
        if self.protocol in (1, 58) and len(self.l4) >= 2:
            return f"icmp {self.src} > {self.dst} {self.l4[0]}/{self.l4[1]}"
        return f"ip {self.src} > {self.dst} protocol {self.protocol}"


def fate(outs):
    """Where a frame went, in a word or two: `nothing`, `server 11`, `client`, `client icmp 3/3`, `client rst`."""
    words = []
    for side, frame in outs:
        p = Packet(frame)
        if side == "s":
            words.append(f"server {frame[5]:x}" + (" fragment" if p.fragment else ""))
        elif p.protocol in (1, 58) and len(p.l4) >= 2:
            words.append(f"client icmp {p.l4[0]}/{p.l4[1]}")
        elif p.protocol == 6 and p.l4[13] & RST:
            words.append("client rst")
        else:
            words.append("client")
    return ", ".join(words) or "nothing"


def back(packet):
    """Ethernet addresses of an answer of the server that the frame reached."""
    return LAN, ":".join(f"{b:02x}" for b in packet.frame[:6])


def association(l4):
    """What an SCTP server says to a packet, nothing to some."""
    sport, dport, tag = struct.unpack(">HHI", l4[:8])
    begin = struct.pack(">IIHHI", 77, 65536, 1, 1, 1)
    reply = {INIT: chunk(INIT_ACK, begin + chunk(7, b"a cookie")), COOKIE_ECHO: chunk(COOKIE_ACK),
             DATA: chunk(SACK, struct.pack(">IIHH", 1, 65536, 0, 0)), HEARTBEAT: chunk(HEARTBEAT_ACK, l4[16:24]),
             SHUTDOWN: chunk(SHUTDOWN_ACK), SHUTDOWN_ACK: chunk(SHUTDOWN_COMPLETE)}.get(l4[12])
    return reply and sctp(dport, sport, 55 if tag else 5, reply)


def answers(frame, kind):
    """What the server says to a frame that reached it, or a router (`router-icmp-big`): a list of frames."""
    p = Packet(frame)
    if kind.startswith("router-"):
        to, frm = back(p)
        return [ether(to, frm, error(p.packet, p.dst, p.src, kind.removeprefix("router-"), 300))]
    # A server that got the packet as it was sent to the virtual address answers past the director, unless told so.
    past = kind != "through" and p.dst in (NETS[4]["vip"], NETS[6]["vip"])
    if p.inner or p.fragment or past:
        return []
    to, frm = back(p)
    if p.protocol == 132 and not kind.startswith("icmp"):
        said = association(p.l4)
        return [ether(to, frm, ip(p.dst, p.src, 132, said, ident=0x4321))] if said else []
    if p.protocol in (50, 51) and not kind.startswith("icmp"):
        said = esp(0x5150, payload=b"an answer") if p.protocol == 50 else ah(0x5151, 50, esp(0x5152))
        return [ether(to, frm, ip(p.dst, p.src, p.protocol, said, ident=0x4321))]
    if kind.startswith("icmp"):
        return [ether(to, frm, error(p.packet, p.dst, p.src, kind))]
    if p.protocol == 17:
        text = b"answer to " + p.l4[8:40] if not p.l4[8:].startswith(b"OPTIONS") else ok(p.l4[8:])
        return [ether(to, frm, ip(p.dst, p.src, 17, udp(p.dst, p.dport, p.src, p.sport, text), ident=0x4321))]
    if p.protocol != 6:
        return []
    seq, ack = struct.unpack(">II", p.l4[4:12])
    flags, size = p.l4[13], len(p.l4) - (p.l4[12] >> 4) * 4
    said = b""
    if flags & RST:
        return []
    if flags & SYN:
        out, mine, theirs = SYN | ACK, 9000, seq + 1
    elif flags & FIN:
        out, mine, theirs = FIN | ACK, ack, seq + 1
    elif size:
        out, mine, theirs, said = PSH | ACK, ack, seq + size, b"said the server"
    else:
        return []
    l4 = tcp(p.dst, p.dport, p.src, p.sport, out, mine, theirs, said)
    return [ether(to, frm, ip(p.dst, p.src, 6, l4, ident=0x4321))]


def error(quoted, src, dst, kind, size=None):
    """An ICMP error about the packet `quoted`, of which `size` bytes; `kind`: icmp-port, icmp-big, icmp-time."""
    if len(packed(src)) == 4:
        number, code, rest = {"icmp-port": (3, 3, 0), "icmp-big": (3, 4, 1400), "icmp-time": (11, 0, 0)}[kind]
        size = size or (quoted[0] & 15) * 4 + 28
        return ip(src, dst, 1, icmp(src, dst, number, code, rest, quoted[:size]), ident=0x7777, df=False)
    number, code, rest = {"icmp-port": (1, 4, 0), "icmp-big": (2, 0, 1400), "icmp-time": (3, 0, 0)}[kind]
    return ip(src, dst, 58, icmp(src, dst, number, code, rest, quoted[:400]))


def ok(request):
    lines = request.split(b"\r\n")
    return b"\r\n".join([b"SIP/2.0 200 OK"] + lines[1:])
