#!/usr/bin/env python3
"""Writes a capture of UDP packets to the virtual services of this folder's configurations, in random order: one frame for
each flow, from clients of the benchmark range 198.18.0.0/15; with --keys each flow's payload begins with a number of its
own, 8 bytes; with --calls SIP messages of that many bytes instead, one for each call, all of them on one 5-tuple."""
import argparse, random, struct

def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return 0xffff - total

def frame(client, port, service, payload):
    src = struct.pack("!I", 0xc6120000 + client)
    dst = bytes([203, 0, 113, 5])
    udp = struct.pack("!HHHH", port, service, 8 + len(payload), 0) + payload
    pseudo = src + dst + b"\0\x11" + struct.pack("!H", len(udp))
    udp = udp[:6] + struct.pack("!H", checksum(pseudo + udp) or 0xffff) + udp[8:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + src + dst
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return b"\x02\0\0\0\0\x10\x02\0\0\0\0\x01\x08\0" + ip + udp

def flow(n, keys):
    payload = (struct.pack("!Q", n * 0x9e3779b97f4a7c15 % 2**64) if keys else b"x" * 8) + b"x" * 10
    return frame(n % 131072, 1024 + n // 131072, 53, payload)

def call(n, size):
    head = (f"INVITE sip:service@203.0.113.5:5060 SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 198.18.0.1:5060;branch=z9hG4bK-{n:08x}-1-0\r\nMax-Forwards: 70\r\n"
            f"From: proxy <sip:proxy@198.18.0.1:5060>;tag={n:08x}\r\nTo: service <sip:service@203.0.113.5:5060>\r\n"
            f"Call-ID: {n:08x}-4f1c-{n * 2654435761 % 2**32:08x}@198.18.0.1\r\nCSeq: 1 INVITE\r\n"
            f"Contact: <sip:proxy@198.18.0.1:5060>\r\nSubject: ").encode()
    tail = b"\r\nContent-Length: 0\r\n\r\n"
    return frame(1, 5060, 5060, head + b"x" * (size - len(head) - len(tail)) + tail)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--flows", type=int, required=True, help="how many flows, or calls")
parser.add_argument("--keys", action="store_true")
parser.add_argument("--calls", type=int, metavar="BYTES")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("file")
args = parser.parse_args()
order = list(range(args.flows))
random.Random(args.seed).shuffle(order)
with open(args.file, "wb") as out:
    out.write(struct.pack("<IHHiIII", 0xa1b23c4d, 2, 4, 0, 0, 65535, 1))
    for at, n in enumerate(order):
        data = call(n, args.calls) if args.calls else flow(n, args.keys)
        out.write(struct.pack("<IIII", 1700000000 + at // 10**6, at % 10**6 * 1000, len(data), len(data)) + data)
