#!/usr/bin/env bash
# The figures of docs/performance.md: polder on the memory device, and polder and dpdk-testpmd in turn on the same
# virtual device and packets. Everything is run in rounds, interleaved, since machines are noisy.
#   ROUNDS=5 perf/run.sh
# Only the cases of sessions (offh, one-packet SIP): SESSIONS_ONLY=1 perf/run.sh
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-3}
polder=${POLDER:-}
if [ -z "$polder" ]; then
  cargo build --release --locked
  polder=${CARGO_TARGET_DIR:-target}/release/polder
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p perf/results
for n in 1 1000 10000 100000 1000000; do perf/flows.py --flows $n "$work/$n.pcap"; done
perf/flows.py --flows 100000 --keys "$work/keys.pcap"
perf/flows.py --flows 100000 --calls 500 "$work/calls.pcap"
: > "$work/lines"

echo "memory device, 60-byte UDP, one worker, flows in random order, $rounds rounds" >&2
measure() { # NAME CONFIGURATION CAPTURE REPEAT
  "$polder" replay -c "perf/$2.yaml" --in wan0="$work/$3.pcap" --clock wall --repeat "$4" --report json > "$work/report.json"
  python3 - "$work/report.json" "$1" >> "$work/lines" <<'P'
import json, sys
r = json.load(open(sys.argv[1])); w = r["workers"][0]
assert r["identity_ok"] and not r["dropped"], r
print(json.dumps({"case": sys.argv[2], "mpps": w["mpps"], "ns": w["ns_per_packet"], "cycles": w["cycles_per_packet"]}))
P
}
for _ in $(seq "$rounds"); do
  # Of the same packets: what a plain hit costs, and one whose session is read from the payload.
  measure "memory masq 100000 with keys" masq keys 100
  measure "memory offh 100000" offh keys 100
  # 500-byte SIP messages of 100,000 live calls on one 5-tuple, each message scheduled by its Call-ID.
  measure "memory one-packet sip 100000" sip calls 40
  if [ -n "${SESSIONS_ONLY:-}" ]; then continue; fi
  for method in direct masq; do
    for n in 1 1000 10000 100000 1000000; do
      measure "memory $method $n" $method $n $((10000000 / n))
    done
  done
  if command -v dpdk-testpmd >/dev/null; then
    perf/vdev.py "$polder" "$work/1000.pcap" >> "$work/lines"
  else
    echo "SKIPPED: dpdk-testpmd is not installed (apt-get install dpdk): no rival in this run" >&2
  fi
done
python3 - "$work/lines" perf/results/last.json <<'P'
import json, statistics, sys
cases = {}
for line in open(sys.argv[1]):
    r = json.loads(line); cases.setdefault(r["case"], []).append(r)
out = []
print(f"{'case':<32}{'Mpps':>8}{'min':>8}{'max':>8}{'ns':>8}{'cycles':>8}")
for case, rs in cases.items():
    m = [r["mpps"] for r in rs]
    med = statistics.median(m)
    row = {"case": case, "mpps": med, "mpps_min": min(m), "mpps_max": max(m), "ns": 1e3 / med if med else 0,
           "cycles": statistics.median(r.get("cycles", 0) for r in rs), "rounds": len(rs)}
    out.append(row)
    print(f"{case:<32}{med:8.2f}{min(m):8.2f}{max(m):8.2f}{row['ns']:8.1f}{row['cycles']:8.0f}")
json.dump(out, open(sys.argv[2], "w"), indent=1)
ns = {row["case"]: row["ns"] for row in out}
print(f"offh to a plain hit: {ns['memory offh 100000'] / ns['memory masq 100000 with keys']:.2f}")
P
