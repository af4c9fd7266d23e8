#!/usr/bin/env python3
"""polder and dpdk-testpmd in turn on net_pcap, which repeats one capture for ever: usage vdev.py POLDER CAPTURE.
What is received per second on one core is what is forwarded; the device swallows what is sent."""
import json, os, re, signal, subprocess, sys, tempfile, time

polder, capture = sys.argv[1:3]
cores = sorted(os.sched_getaffinity(0))
main, worker = cores[0], cores[min(1, len(cores) - 1)]
SECONDS = 2.0
device = f"net_pcap0,rx_pcap={capture},infinite_rx=1"

def out(case, mpps):
    print(json.dumps({"case": case, "mpps": mpps, "cycles": 0}), flush=True)

def testpmd(mode):
    command = ["dpdk-testpmd", "-l", f"{main},{worker}", "--no-huge", "-m", "256", "--no-shconf", "--no-pci",
               "--no-telemetry", f"--vdev={device}", "--", "--no-mlockall", "--total-num-mbufs=16384",
               f"--forward-mode={mode}", "--stats-period=1"]
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.PIPE, text=True)
    time.sleep(SECONDS + 3)
    p.send_signal(signal.SIGINT)
    text = p.communicate(timeout=20)[0]
    rates = [int(n) for n in re.findall(r"Rx-pps:\s+(\d+)", text)]
    rates = [r for r in rates if r > 0]
    out(f"net_pcap testpmd {mode}", max(rates) / 1e6 if rates else 0.0)

def appliance():
    with tempfile.TemporaryDirectory() as d:
        text = open(os.path.join(os.path.dirname(__file__), "direct.yaml")).read()
        text = text.replace("device: net_null0", f'device: "{device}"')
        text = text.replace("dpdk: {", f"dpdk: {{cores: [{worker}], management_core: {main}, ")
        text += f'metrics: {{listen: "127.0.0.1:0"}}\ncontrol: {{socket: "{d}/c.sock"}}\n'
        path = os.path.join(d, "polder.yaml")
        open(path, "w").write(text)
        p = subprocess.Popen([polder, "run", "-c", path], stderr=subprocess.PIPE)
        def received():
            r = subprocess.run([polder, "show", "workers", "-o", "json", "--socket", f"{d}/c.sock"], capture_output=True)
            return json.loads(r.stdout)["workers"][0]["received"] if r.returncode == 0 else None
        for _ in range(100):
            if received() is not None or p.poll() is not None:
                break
            time.sleep(0.1)
        if p.poll() is not None:
            sys.exit(p.stderr.read().decode())
        time.sleep(1)
        began, a = time.monotonic(), received()
        time.sleep(SECONDS)
        ended, b = time.monotonic(), received()
        p.terminate()
        p.wait(timeout=20)
        out("net_pcap polder direct", (b - a) / (ended - began) / 1e6)

for mode in ("io", "macswap", "5tswap"):
    testpmd(mode)
appliance()
