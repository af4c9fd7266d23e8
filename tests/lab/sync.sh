#!/usr/bin/env bash
# State sync in IPVS's format between Polder and a kernel's IPVS, both ways and in both versions.
#
#   tests/lab/sync.sh POLDER [PAIR…]     pairs: polder-kernel kernel-polder kernel-kernel; the first two by default
#
# POLDER is the program to test. A guest machine is booted under QEMU by the lab, the folder $POLDER_LAB, or ../shared/lab
# beside the checkout; in it tests/lab/sync_play.py makes a network, and two directors balance real clients and servers:
# the first of a pair tells the second of its sessions, whose listing must be the same; then the second takes over.
# KERNELS="RELEASE…" names kernels that the lab has, one after the other; by default it is the one made last.
# VERSIONS="1 0" names the versions of the messages; HOWS="plain ports…" how sync is set up, as `HOWS` in the play says. KEEP=DIR keeps listings, captures and results; REPORT=FILE puts their
# table into a file, between two marks.
# Exit status: 0 all as wanted, 1 not, 77 skipped because something that the host must have is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."

about="state sync with the kernel"
. tests/lab/common.sh
need python3
polder=${1:?usage: tests/lab/sync.sh POLDER [PAIR…]}
shift
pairs=("$@")
[ ${#pairs[@]} -gt 0 ] || pairs=(polder-kernel kernel-polder)
prepare "$polder"
guest=polder-sync
clean_up() {
  "$lab" down -n "$guest" 2>/dev/null || true
  if [ -n "${KEEP:-}" ]; then mkdir -p "$KEEP" && cp -r "$work/share/out/." "$KEEP/"; fi
  rm -rf "$work"
}
trap clean_up EXIT
mkdir -p "$work/share/out"
cp tests/lab/sync_play.py "$work/share/"
cp "$polder" "$work/share/polder"

failures=0
# An emulated machine whose processors a busy host keeps waiting may stand still for a while; its kernel says so. What
# was seen then says nothing, and the play is given once more in another machine.
stood_still() { grep -q 'detected stalls' "$LAB_STATE/$guest/console.log" 2>/dev/null; }
play() { # play RELEASE PAIR VERSION HOW
  local out="$work/share/out/${1:-default}-$2-v$3-$4" attempt
  for attempt in 1 2 3; do
    if [ ! -e "$LAB_STATE/$guest/pid" ]; then
      "$lab" up -n "$guest" --cpus 3 --mem 2048 --share "$work/share" --wait 120 ${1:+--release "$1"} \
        --modules ip_vs,ip_vs_rr,ip_vs_wlc,ip_vs_pe_sip,ip_tables,iptable_mangle,ip6_tables,ip6table_mangle,xt_mark,tun,veth,bridge,af_packet ||
        skip "the guest does not boot"
    fi
    # Files that are written and read at the same time are the guest's own: not all kernels' 9p has them right.
    "$lab" run -n "$guest" -t 900 "cd $work/share && rm -rf /tmp/play && mkdir -p $out
      python3 -u sync_play.py --master ${2%-*} --backup ${2#*-} --version $3 --how $4 --polder $work/share/polder \
        --out /tmp/play
      status=\$?; cp /tmp/play/* $out/; exit \$status" && return
    stood_still || break
    echo "  the emulated machine stood still, as its kernel says; once more"
    "$lab" down -n "$guest"
    rm -rf "$LAB_STATE/$guest"
  done
  failures=$((failures + 1))
}
kernels=(${KERNELS:-})
[ ${#kernels[@]} -gt 0 ] || kernels=("")
for kernel in "${kernels[@]}"; do
  for pair in "${pairs[@]}"; do
    for version in ${VERSIONS:-1 0}; do
      for how in ${HOWS:-plain ports refresh templates group6 both late}; do
        # Version 0 has so little that once is enough, and the kernel knows no late services.
        [ "$version" = 0 ] && [ "$how" != plain ] && continue
        [ "$how" = late ] && [ "${pair#*-}" = kernel ] && continue
        play "$kernel" "$pair" "$version" "$how"
      done
    done
  done
  "$lab" down -n "$guest" 2>/dev/null || true
done
if [ -n "${REPORT:-}" ]; then
  python3 tests/lab/sync_play.py --report "$work/share/out" >"$work/table"
  sed -i -e '/^<!-- results -->$/,/^<!-- end of results -->$/{//!d}' -e "/^<!-- results -->$/r $work/table" "$REPORT"
fi
[ "$failures" -eq 0 ] || { echo "$about: $failures plays failed"; exit 1; }
echo "$about: all as wanted"
