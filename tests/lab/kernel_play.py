"""The guest's part of the comparison: plays scenarios through kernel IPVS and writes down what left.

    kernel_play.py SCENARIOS.json RESULTS.json

A scenario has a network namespace of its own, the director, with a link to the clients and one to the servers. Their
other ends are packet sockets here: this program is all clients and all servers. Each frame is sent by itself, and what
leaves before the next one is its outcome.
"""
import json
import select
import socket
import subprocess
import sys
import time

import kernel_frames as frames

QUIET = 0.1  # seconds without a frame after which nothing more will come


def sh(text):
    done = subprocess.run(["/bin/bash", "-euc", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


class Wire:
    """The far ends of both links."""

    def __init__(self):
        self.sockets = {}
        for side, name in (("c", "c1"), ("s", "s1")):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            sock.bind((name, 0))
            sock.setblocking(False)
            self.sockets[side] = sock

    def drain(self, wait):
        """What has arrived, waiting that long for the first one."""
        out = []
        while True:
            ready, _, _ = select.select(list(self.sockets.values()), [], [], 0 if out else wait)
            if not ready:
                return out
            for side, sock in self.sockets.items():
                if sock in ready:
                    frame, where = sock.recvfrom(65536)
                    if where[2] != 4 and frames.Packet(frame).is_ip:  # not what was sent from here
                        out.append((side, frame))

    def play(self, side, frame, log):
        # What comes late is still the outcome of the frame before.
        late = self.drain(0)
        if late and log:
            log[-1]["outs"] += [[s, f.hex()] for s, f in late]
        ts = time.time_ns()
        self.sockets[side].send(frame)
        outs = self.drain(QUIET)
        log.append({"side": side, "ts": ts, "frame": frame.hex(), "outs": [[s, f.hex()] for s, f in outs]})
        return outs


def play(scenario):
    code, said = sh(scenario["setup"])
    if code:
        return {"name": scenario["name"], "failed": said, "steps": []}
    wire, log = Wire(), []
    wire.drain(0.05)
    for i, step in enumerate(scenario["steps"]):
        if "wait" in step:
            time.sleep(step["wait"])
            continue
        seen = len(log)
        outs = wire.play(step["side"], bytes.fromhex(step["frame"]), log)
        for kind in step.get("then", []):
            if kind.startswith("client-"):
                # The client's error about what last reached it.
                last = [f for s, f in outs if s == "c"]
                if last:
                    p = frames.Packet(last[-1])
                    e = frames.error(p.packet, p.dst, p.src, kind.removeprefix("client-"))
                    outs = wire.play("c", frames.ether(frames.WAN, frames.GATEWAY, e), log)
                continue
            for side, frame in list(outs):
                if side == "s":
                    for answer in frames.answers(frame, kind):
                        outs = wire.play("s", answer, log)
        for entry in log[seen:]:
            entry["step"] = i
    return {"name": scenario["name"], "steps": log}


def main():
    with open(sys.argv[1]) as f:
        scenarios = json.load(f)
    with open(sys.argv[2], "w") as out:
        for scenario in scenarios:
            began = time.time()
            result = play(scenario)
            result["kernel"] = open("/proc/sys/kernel/osrelease").read().strip()
            out.write(json.dumps(result) + "\n")
            out.flush()
            print(f"{scenario['name']}: {len(result['steps'])} frames in {time.time() - began:.1f} s", flush=True)


main()
