#!/usr/bin/env bash
# Polder beside kernel IPVS: the same frames through both, compared byte for byte.
#
#   tests/lab/kernel.sh POLDER [PATTERN]      scenarios whose name matches PATTERN, all of them by default
#
# POLDER is the program to test. A guest machine is booted under QEMU by the lab, the folder $POLDER_LAB, or ../shared/lab
# beside the checkout; its kernel's IPVS gets the frames of each scenario, and `polder replay` gets what it got.
# KERNELS="RELEASE…" names kernels that the lab has, to be compared one after the other; by default it is the one made last.
# KEEP=DIR keeps what was played; REPORT=FILE writes the table. Exit status: 0 all as wanted, 1 not, 77 skipped because
# something that the host must have is missing (a sentence says what).
set -euo pipefail
cd "$(dirname "$0")/../.."

about="comparison with the kernel"
. tests/lab/common.sh
need python3
polder=${1:?usage: tests/lab/kernel.sh POLDER [PATTERN]}
pattern=${2:-}
export PYTHONDONTWRITEBYTECODE=1
prepare "$polder"
guest=polder-kernel
clean_up() {
  "$lab" down -n "$guest" 2>/dev/null || true
  if [ -n "${KEEP:-}" ]; then mkdir -p "$KEEP" && cp -r "$work/share/." "$KEEP/"; fi
  rm -rf "$work"
}
trap clean_up EXIT
mkdir "$work/share"
cp tests/lab/kernel_play.py tests/lab/kernel_frames.py "$work/share/"
python3 tests/lab/kernel_scenarios.py "$work/share/scenarios.json" "$pattern"

play() { # play [RELEASE]: all scenarios on a kernel
  # One processor: a frame has gone its whole way when the call that sends it returns.
  "$lab" up -n "$guest" --cpus 1 --share "$work/share" ${1:+--release "$1"} --modules ip_vs,veth,af_packet ||
    skip "the guest does not boot"
  if ! "$lab" run -n "$guest" -t 3600 "cd $work/share && python3 -u kernel_play.py scenarios.json results.json" \
    >"$work/share/play.log" 2>&1; then
    tail -5 "$work/share/play.log"
    echo "$about: the guest's part failed"
    exit 1
  fi
  "$lab" down -n "$guest"
  cat "$work/share/results.json" >>"$work/share/all.json"
}
kernels=(${KERNELS:-})
[ ${#kernels[@]} -gt 0 ] || kernels=("")
for kernel in "${kernels[@]}"; do play "$kernel"; done
mkdir "$work/share/polder"
python3 tests/lab/kernel_compare.py "$polder" "$work/share/scenarios.json" "$work/share/all.json" \
  "$work/share/polder" ${REPORT:+"$REPORT"}
