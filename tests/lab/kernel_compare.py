"""The host's part of the comparison: gives Polder what the kernel got, and compares what left.

    kernel_compare.py POLDER SCENARIOS.json RESULTS.json WORK [REPORT.md]

Every frame is compared by itself: where it went, and its bytes from the first of the Ethernet header to the last, but for
the IP id (and so the header checksum) of packets that the director makes itself. Exit status 1 where anything differs
that no scenario announces, or where what is announced does not happen.
"""
import datetime
import json
import os
import struct
import subprocess
import sys

import kernel_frames as frames


def write_pcap(path, records):
    with open(path, "wb") as f:
        f.write(struct.pack("<IHHIIII", 0xa1b23c4d, 2, 4, 0, 0, 65535, 1))
        for ts, frame in records:
            f.write(struct.pack("<IIII", ts // 10**9, ts % 10**9, len(frame), len(frame)) + frame)


def read_pcap(path):
    with open(path, "rb") as f:
        data = f.read()
    unit = 1 if struct.unpack("<I", data[:4])[0] == 0xa1b23c4d else 1000
    at = 24
    while at < len(data):
        sec, sub, size, _ = struct.unpack("<IIII", data[at:at + 16])
        yield sec * 10**9 + sub * unit, data[at + 16:at + 16 + size]
        at += 16 + size


def spaced(steps):
    """Timestamps that tell the frames apart also in microseconds."""
    last = 0
    for step in steps:
        last = step["ts"] = max(step["ts"] // 1000 * 1000, last + 2000)


def polder(program, scenario, steps, work):
    """What Polder sends after each frame, and its report."""
    base = os.path.join(work, scenario["name"].replace("/", "_"))
    with open(base + ".yaml", "w") as f:
        f.write(scenario["yaml"])
    for side in "cs":
        write_pcap(f"{base}.{side}.in", [(s["ts"], bytes.fromhex(s["frame"])) for s in steps if s["side"] == side])
    ports = {"c": "wan0", "s": "lan0"}
    command = [program, "replay", "-c", base + ".yaml", "--report", f"json={base}.report"]
    for side, port in ports.items():
        command += ["--in", f"{port}={base}.{side}.in", "--out", f"{port}={base}.{side}.out"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode not in (0, 2):
        return None, done.stdout
    outs = {s["ts"]: [] for s in steps}
    stray = []
    for side in "cs":
        for ts, frame in read_pcap(f"{base}.{side}.out"):
            outs[ts].append((side, frame)) if ts in outs else stray.append((side, frame))
    with open(base + ".report") as f:
        return [outs[s["ts"]] for s in steps], (json.load(f), stray)


def of_kernel(outs):
    return sorted((side, frames.Packet(frame).announced()) for side, frame in outs)


def of_polder(outs):
    return sorted((side, frames.Packet(frame).comparable()) for side, frame in outs)


def first_difference(kernel, mine):
    """The first byte that differs between two frames that should be one."""
    for (side, a), (_, b) in zip(of_kernel(kernel), of_polder(mine)):
        for i, (x, y) in enumerate(zip(a, b)):
            if x != y:
                return f"byte {i - 14} of the packet to {side}: kernel {a[i:i + 4].hex()}, Polder {b[i:i + 4].hex()}"
        if len(a) != len(b):
            return f"{len(a)} bytes, Polder {len(b)}"
    return "number of frames"


def passed(step, fates):
    """Whether a frame is for the director's own stack, which a replay has not: the kernel's answers with a reset, or
    that it does not speak the protocol."""
    p = frames.Packet(bytes.fromhex(step["frame"]))
    says = {6: ("client rst",), **dict.fromkeys((50, 51, 132), ("client icmp 3/2", "client icmp 4/1"))}
    return fates[0] in says.get(p.protocol, ()) and fates[1] == "nothing" and step["side"] == "c"


def compare(scenario, steps, kernel, mine, report):
    """(differences, announced differences that were seen, announced ones that were not)"""
    wrong, seen, unseen, up, none = [], [], [], 0, 0
    for i, (step, k, m) in enumerate(zip(steps, kernel, mine)):
        where = f"frame {i} {step['side']} {frames.Packet(bytes.fromhex(step['frame'])).text()}"
        fates = frames.fate(k), frames.fate(m)
        # What is announced is announced of the scenario's own frame, not of the answers to it.
        differ = scenario["steps"][step["step"]].get("differ") if step["first"] else None
        if differ:
            if fates == (differ["kernel"], differ["polder"]):
                seen.append(differ["why"])
            else:
                unseen.append(f"{where}: wanted {differ['kernel']} | {differ['polder']}, saw {fates[0]} | {fates[1]}")
        elif passed(step, fates):
            up += 1
        elif fates[0] != fates[1]:
            wrong.append(f"{where}: kernel {fates[0]}, Polder {fates[1]}")
        elif of_kernel(k) != of_polder(m):
            wrong.append(f"{where}: both to {fates[0]}, {first_difference(k, m)}")
        none += not m and not frames.Packet(bytes.fromhex(step["frame"])).fragment  # those may wait for others
        wrong += [f"{where}: Polder's header checksum is wrong" for _, x in m if not frames.Packet(x).sound]
    if up > report["punted"]:
        wrong.append(f"{up} frames are for the director's own stack, but only {report['punted']} would have got there")
    if none > report["punted"] + sum(report["dropped"].values()) + report["held"]:
        wrong.append(f"{none} frames led to nothing, which the report does not account for")
    if scenario["whole"]:
        kind, why = scenario["whole"]
        if not wrong:
            unseen.append(f"announced, but all is equal: {kind}")
        elif not WHOLE[kind](steps, kernel, mine):
            unseen.append(f"it differs otherwise than announced: {kind}")
        else:
            wrong, seen = [], [why]
    return wrong, seen, unseen


def servers(steps, outs):
    """Which servers the clients' frames went to."""
    return [frames.fate(o) for s, o in zip(steps, outs) if s["side"] == "c"]


def only_choices(steps, kernel, mine):
    """Each frame of a client goes to a server, if not to the same one."""
    return all(k.startswith("server ") and m.startswith("server ")
               for k, m in zip(servers(steps, kernel), servers(steps, mine)))


def round_first(steps, kernel, mine):
    """The kernel begins with one round of every server, and then does what Polder does from the start."""
    k, m = servers(steps, kernel), servers(steps, mine)
    n = len(set(m))
    return len(set(k[:n])) == n and k[n:] == m[:-n]


def padded(steps, kernel, mine):
    """Polder's frame is the kernel's and the last bytes of the frame that came in."""
    (_, k), (_, m) = kernel[0][0], mine[0][0]
    return len(steps) == 1 and m.startswith(k) and steps[0]["frame"].endswith(m[len(k):].hex())


def virtual_source(steps, kernel, mine):
    """The reply has the server's address from the kernel, and the virtual one that was asked from Polder."""
    asked, replied = (frames.Packet(bytes.fromhex(s["frame"])) for s in steps)
    k, m = frames.Packet(kernel[1][0][1]), frames.Packet(mine[1][0][1])
    return (k.src, m.src, m.sport) == (replied.src, asked.dst, asked.dport) and k.l4[8:] == m.l4[8:]


def crc_mended(steps, kernel, mine):
    """The kernel's frame has a right CRC, and Polder's is the same with one as wrong as it came."""
    (_, k), (_, m) = kernel[0][0], mine[0][0]
    k, m = frames.Packet(k).l4, frames.Packet(m).l4
    fresh = frames.sctp(*struct.unpack(">HHI", k[:8]), k[12:])
    return len(steps) == 1 and k == fresh != m and k[:8] + k[12:] == m[:8] + m[12:]


def path_mtu(steps, kernel, mine):
    """Each packet goes to the server, and the router's word to the client: the same packet quoted, Polder with what the
    router said less the tunnel's header, the kernel with no less than that."""
    for step, k, m in zip(steps, kernel, mine):
        if frames.fate(k) != frames.fate(m):
            return False
        if step["side"] == "c":
            if of_kernel(k) != of_polder(m):
                return False
            tunnel = frames.Packet(m[0][1])
            continue
        said = struct.unpack(">H", frames.Packet(bytes.fromhex(step["frame"])).l4[6:8])[0]
        k, m = frames.Packet(k[0][1]), frames.Packet(m[0][1])
        told = [struct.unpack(">H", p.l4[6:8])[0] for p in (k, m)]
        overhead = len(tunnel.packet) - len(tunnel.inner.packet)
        if k.dst != m.dst or k.l4[:2] != m.l4[:2] or k.l4[8:] != m.l4[8:] or not said - overhead == told[1] <= told[0]:
            return False
    return True


WHOLE = {"choices": only_choices, "round first": round_first, "padding": padded, "virtual source": virtual_source,
         "crc": crc_mended, "path mtu": path_mtu}


def main():
    program, table, results, work = sys.argv[1:5]
    with open(table) as f:
        scenarios = {s["name"]: s for s in json.load(f)}
    rows, bad, total = [], 0, 0
    kernels = []
    with open(results) as f:
        played = [json.loads(line) for line in f]
    for result in played:
        name, scenario, steps = result["name"], scenarios[result["name"]], result["steps"]
        if result["kernel"] not in kernels:
            kernels.append(result["kernel"])
            print(f"Linux {kernels[-1]}:")
        if "failed" in result:
            rows.append((name, "failed", 0, result["failed"].strip().splitlines()[-1:]))
            print(f"FAIL  {name}: the kernel's director can't be set up:\n{result['failed']}")
            bad += 1
            continue
        spaced(steps)
        last = None
        for step in steps:
            step["first"], last = step["step"] != last, step["step"]
        kernel = [[(side, bytes.fromhex(x)) for side, x in s["outs"]] for s in steps]
        mine, said = polder(program, scenario, steps, work)
        total += len(steps)
        if mine is None:
            rows.append((name, "failed", len(steps), [said.strip()]))
            print(f"FAIL  {name}: {said}")
            bad += 1
            continue
        report, stray = said
        wrong, seen, unseen = compare(scenario, steps, kernel, mine, report)
        drops = report["dropped"]
        if stray:
            wrong.append(f"{len(stray)} frames at times of no frame")
        if not any(kernel) and not seen:
            wrong.append("nothing at all left the kernel: the scenario shows nothing")
        if wrong or unseen:
            bad += 1
            rows.append((name, "differs", len(steps), wrong + unseen))
            print(f"FAIL  {name}: {len(wrong)} of {len(steps)} frames differ; Polder's drops: {drops or 'none'}")
            for line in (wrong + unseen)[:6]:
                print(f"      {line}")
        else:
            rows.append((name, "deliberate" if seen else "equal", len(steps), sorted(set(seen))))
            print(f"ok    {name}: {len(steps)} frames" + (f", {len(seen)} differ on purpose" if seen else ""))
    missing = len(scenarios) * max(1, len(kernels)) - len(played)
    if missing:
        bad += 1
        print(f"FAIL  {missing} scenarios were not played")
    if len(sys.argv) > 5:
        with open(sys.argv[5], "w") as f:
            f.write(markdown(kernels, rows, total))
    print(f"{total} frames in {len(rows)} scenarios on Linux {' and '.join(kernels)}: {len(rows) - bad} as wanted, {bad} not")
    sys.exit(bad > 0)


MODES = [("nat", 4), ("nat", 6), ("dr", 4), ("dr", 6), ("tun", 4), ("tun", 6)]
VERDICTS = {"equal": "equal", "deliberate": "on purpose", "differs": "**differs**", "failed": "**failed**"}


def markdown(kernels, rows, total):
    cells, others, notes, order = {}, [], [], []
    for name, verdict, count, said in rows:
        what, _, where = name.partition("/")
        mode, _, ip = where.partition("/")
        if (mode, ip) in [(m, f"ipv{v}") for m, v in MODES]:
            if what not in order:
                order.append(what)
            place = what, mode, int(ip[-1])
            # The worst of all kernels.
            cells[place] = max(cells.get(place, verdict), verdict, key=list(VERDICTS).index)
        elif (name, verdict) not in others:
            others.append((name, verdict))
        if verdict != "equal":
            notes.append((name, verdict, said))
    head = f"""# Polder beside the kernel

Written by `make test-kernel KERNELS="{" ".join(kernels)}"` on {datetime.date.today()}; do not edit.
Each of these kernels was run in an emulated machine; the lab has to have made it (`lab build --kernel SUITE`).

{total:,} frames in {len(rows)} runs of scenarios went through IPVS of a kernel, and the same frames, at the same times,
through `polder replay` of the same configuration. Each frame's outcome is compared: where it went, and its bytes from the
Ethernet addresses to the last, with these exceptions:

- the IP id of tunnel headers is not compared, nor is the port that a GUE packet comes from, if it is one of 32768 to 60999;
- ICMP errors of the director's own: the kernel's have an id and no DF, Polder's DF and no id (RFC 6864 §4.1); the
  kernel's ICMPv6 errors have traffic class 0 and a flow label by chance, Polder's the class of its ICMP errors (0xc0) and
  no label; of a packet that is too big the kernel quotes the TTL that it would have left with, Polder the one that it
  came with (RFC 1812 §4.3.2.3 allows both). Each side must be just so;
- what IPVS leaves to the director's own stack, the kernel's answers with a reset, or that it does not speak the protocol
  (SCTP, AH, ESP); a replay has none, and must have counted the frame as one for the kernel.

The scenarios are in `tests/lab/kernel_scenarios.py`.

- *equal*: every frame had the same fate and the same bytes.
- *on purpose*: so too, but for frames whose other fate was announced, and came; reasons below.
- *differs*: something else.

| scenario | {" | ".join({"nat": "NAT", "dr": "DR", "tun": "tunnel"}[m] + f" IPv{v}" for m, v in MODES)} |
|---|{"---|" * len(MODES)}
"""
    body = "".join(f"| {what} | " + " | ".join(VERDICTS.get(cells.get((what, m, v)), "–") for m, v in MODES) + " |\n"
                   for what in order)
    if others:
        body += "\n" + "; ".join(f"{name}: {VERDICTS[verdict]}" for name, verdict in others) + ".\n"
    by_reason = {}
    for name, verdict, said in notes:
        if verdict == "deliberate":
            for why in said:
                by_reason.setdefault(why, []).append(name.split("/")[0])
    if by_reason:
        body += "\n## On purpose\n\n| scenarios | why |\n|---|---|\n"
        for why, names in by_reason.items():
            body += f"| {', '.join(dict.fromkeys(names))} | {why} |\n"
    left = [(name, said) for name, verdict, said in notes if verdict in ("differs", "failed")]
    if left:
        body += "\n## Differences\n\n"
        for name, said in left:
            body += f"- {name}: {len(said)} frames, the first: {said[0] if said else ''}\n"
    return head + body


main()
