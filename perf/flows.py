#!/usr/bin/env python3
"""Writes a capture of UDP flows in random order: one 60-byte frame for each flow, from clients of the benchmark range
198.18.0.0/15 to the virtual service of direct.yaml and masq.yaml."""
import argparse, random, struct

def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return 0xffff - total

def frame(flow):
    src = struct.pack("!I", 0xc6120000 + flow % 131072)
    dst = bytes([203, 0, 113, 5])
    payload = b"x" * 18
    udp = struct.pack("!HHHH", 1024 + flow // 131072, 53, 8 + len(payload), 0) + payload
    pseudo = src + dst + b"\0\x11" + struct.pack("!H", len(udp))
    udp = udp[:6] + struct.pack("!H", checksum(pseudo + udp) or 0xffff) + udp[8:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + src + dst
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return b"\x02\0\0\0\0\x10\x02\0\0\0\0\x01\x08\0" + ip + udp

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--flows", type=int, required=True)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("file")
args = parser.parse_args()
order = list(range(args.flows))
random.Random(args.seed).shuffle(order)
with open(args.file, "wb") as out:
    out.write(struct.pack("<IHHiIII", 0xa1b23c4d, 2, 4, 0, 0, 65535, 1))
    for n, flow in enumerate(order):
        data = frame(flow)
        out.write(struct.pack("<IIII", 1700000000 + n // 10**6, n % 10**6 * 1000, len(data), len(data)) + data)
