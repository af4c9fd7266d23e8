#!/usr/bin/env bash
# Polder on bound PCI devices: for each NIC model a guest machine is booted under QEMU, two of its NICs are bound to
# vfio-pci, and real clients and servers talk to each other through `polder run` with two workers and hugepages.
#
#   tests/lab/pci.sh POLDER [MODEL…]       models: virtio igb e1000e vmxnet3, all of them by default
#
# POLDER is the program to test. The lab, which makes and runs the guests, is the folder $POLDER_LAB, or ../shared/lab
# beside the checkout. Exit status: 0 all as wanted, 1 not, 77 skipped because something that the host must have is
# missing (a sentence says what). Emulated machines are slow: this tells what works, never how fast.
set -euo pipefail
cd "$(dirname "$0")/../.."

about="bound PCI devices"
. tests/lab/common.sh
[ "$(id -u)" -eq 0 ] || skip "guests on TAP interfaces in network namespaces need root"
[ -e /dev/net/tun ] || skip "there is no /dev/net/tun (modprobe tun)"
need ip nginx curl ab ping python3
polder=${1:?usage: tests/lab/pci.sh POLDER [MODEL…]}
shift
models=("$@")
[ ${#models[@]} -gt 0 ] || models=(virtio igb e1000e vmxnet3)
prepare "$polder"
client=polder-c$$ servers=polder-s$$ guest=polder
pids=()
clean_up() {
  "$lab" down -n "$guest" 2>/dev/null || true
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  pids=()
  ip netns del "$client" 2>/dev/null || true
  ip netns del "$servers" 2>/dev/null || true
}
trap 'clean_up; rm -rf "$work"' EXIT
cp "$polder" "$work/polder"
mkdir "$work/www"
head -c 2000000 /dev/urandom >"$work/www/file"

failures=0 still=no
check() { # check WHAT COMMAND…: says what was seen, and counts what fails
  local what=$1
  shift
  if "$@" >"$work/said" 2>&1; then
    echo "  ok    $what"
  else
    echo "  FAIL  $what"
    sed 's/^/        /' "$work/said" | tail -12
    failures=$((failures + 1))
    if stood_still; then still=yes; fi
  fi
}
# An emulated machine whose processors a busy host keeps waiting may lose a timer and stand still for minutes, also
# before Polder is started. Its kernel says so; nothing more is asked of it then, and another one is tried.
stood_still() { grep -q 'detected stalls' "$LAB_STATE/$guest/console.log" 2>/dev/null; }
in_guest() { [ "$still" = no ] && "$lab" run -n "$guest" -t 60 "$@"; }
at_client() { ip netns exec "$client" "$@"; }
show() { in_guest "$work/polder show $1 -o json --socket /run/polder.sock"; }
json() { python3 -c "import json, sys; d = json.load(sys.stdin); $1"; }

configure() { # configure MEMORY MTU: two ports, the second with this MTU, NAT on both families
  cat >"$work/polder.yaml" <<YAML
dpdk: {cores: [1, 2], management_core: 0, memory: $1, idle: sleep}
limits: {connections: 64k, services: 16, servers: 64}
ports:
  - {name: wan0, device: "0000:01:00.0", addresses: [192.0.2.10/24, "2001:db8:1::10/64"], mac: "02:00:00:00:00:10"}
  - {name: lan0, device: "0000:02:00.0", addresses: [10.0.0.1/24, "2001:db8:2::1/64"], mtu: $2}
services:
  - name: web
    protocol: tcp
    address: 192.0.2.100
    port: 80
    scheduler: rr
    servers: [{address: 10.0.0.11}, {address: 10.0.0.12}]
  - name: web6
    protocol: tcp
    address: "2001:db8:1::100"
    port: 80
    scheduler: rr
    servers: [{address: "2001:db8:2::11"}, {address: "2001:db8:2::12"}]
metrics: {listen: "127.0.0.1:9108"}
control: {socket: /run/polder.sock}
YAML
}

wire_up() { # the two ends of the wires, outside the guest
  local ns
  for ns in "$client" "$servers"; do
    ip -n "$ns" link set lo up
    ip netns exec "$ns" sysctl -qw net.ipv6.conf.wire.accept_dad=0
  done
  ip -n "$client" addr add 192.0.2.2/24 dev wire
  ip -n "$client" addr add 2001:db8:1::2/64 dev wire nodad
  local n
  for n in 11 12; do
    ip -n "$servers" addr add 10.0.0.$n/24 dev wire
    ip -n "$servers" addr add 2001:db8:2::$n/64 dev wire nodad
  done
  ip -n "$servers" route add default via 10.0.0.1
  ip -n "$servers" -6 route add default via 2001:db8:2::1
  cat >"$work/nginx.conf" <<CONF
daemon off; master_process off; user root; pid $work/nginx.pid; error_log $work/nginx.log;
events {}
http {
  access_log off; client_body_temp_path $work/a; proxy_temp_path $work/b; fastcgi_temp_path $work/c;
  uwsgi_temp_path $work/d; scgi_temp_path $work/e;
  server { listen 80; listen [::]:80; root $work/www; location = / { return 200 "here\n"; } }
}
CONF
  ip netns exec "$servers" nginx -c "$work/nginx.conf" -e "$work/nginx.log" &
  pids+=($!)
}

refused() { # refused PATTERN: polder does not start, exit status 1, and says so
  local out
  out=$(in_guest "timeout 40 $work/polder run -c $work/polder.yaml" 2>&1) && { echo "it started"; return 1; }
  echo "$out"
  grep -q "$1" <<<"$out"
}

start() {
  in_guest "rm -f /tmp/status; setsid sh -c '$work/polder run -c $work/polder.yaml; echo \$? >/tmp/status' \
    >/tmp/log 2>&1 </dev/null & for i in \$(seq 300); do grep -q 'is running' /tmp/log && exit 0;
    [ -e /tmp/status ] && break; sleep 0.1; done; cat /tmp/log; exit 1"
}
stop() { # by SIGTERM: exit status 0, nothing left behind, no complaint
  in_guest "kill -TERM \$(pidof polder); for i in \$(seq 200); do [ -e /tmp/status ] && break; sleep 0.1; done
    cat /tmp/log; ip -o link; [ \"\$(cat /tmp/status)\" = 0 ] && ! ip -o link | grep polder- && ! grep buffer /tmp/log"
}
free_pages() { in_guest "sed -n 's/HugePages_Free: *//p' /proc/meminfo"; }
answers() { # answers URL: within 15 s
  local i
  for i in $(seq 30); do at_client curl -g -s -m 2 -o /dev/null "$1" && return 0; sleep 0.3; done
  return 1
}
large_ping() {
  ip -n "$servers" link set wire mtu 3000
  ip netns exec "$servers" ping -q -c 3 -i 0.3 -W 3 -M do -s 2972 10.0.0.1
}
file_is_whole() { at_client curl -g -s -m 60 "http://$1/file" | cmp - "$work/www/file"; }
all_answered() { # all_answered HOST: 400 connections, 20 at a time, none fails
  at_client ab -q -n 400 -c 20 "http://$1/" >"$work/ab"
  cat "$work/ab"
  grep -q '^Complete requests: *400$' "$work/ab" && grep -q '^Failed requests: *0$' "$work/ab"
}
links_are_up() { show ports | json '
print(d)
sys.exit(not all(p["link_up"] and p["rx_packets"] and p["tx_packets"] for p in d["ports"]))'; }
address_is() { at_client ip neigh show 192.0.2.10 | grep -q "lladdr $1"; }
received() { show workers | json 'print(*[w["received"] for w in d["workers"]])'; }
one_fate() { # every frame that a worker took has met one fate; asked again while frames are on their way
  local i
  for i in $(seq 10); do
    show workers | json '
t = lambda *names: sum(w[n] for w in d["workers"] for n in names)
i, o = t("received", "handed_in"), t("transmitted", "punted", "dropped", "held", "handed_out")
print("in", i, "out", o)
sys.exit(i != o)' && return 0
    sleep 0.2
  done
  return 1
}
ports_agree() { # what the devices counted is what the workers took
  local frames i
  for i in $(seq 10); do
    frames=$(show ports | json 'print(sum(p["rx_packets"] for p in d["ports"]))')
    taken=$(show workers | json 'print(sum(w["received"] for w in d["workers"]))')
    echo "devices $frames, workers $taken"
    [ "$frames" -eq "$taken" ] && return 0
    sleep 0.2
  done
  return 1
}
spread() { # spread MODEL: both workers receive where the device spreads by hash, only the first where it does not
  local first second
  read -r first second < <(received)
  echo "received: $first and $second"
  case $1 in
    virtio | igb) [ "$first" -gt 100 ] && [ "$second" -gt 100 ] ;;
    *) [ "$first" -gt 100 ] ;;
  esac
}

try() { # try MODEL
  local model=$1 queues=1 before
  [ "$model" = virtio ] && queues=4
  echo "$model:"
  ip netns add "$client"
  ip netns add "$servers"
  check "the machine boots" "$lab" up -n "$guest" --iommu --hugepages 160 --cpus 3 --share "$work" --wait 60 \
    --nic "$model,net=tap:wire@$client,queues=$queues" --nic "$model,net=tap:wire@$servers,queues=$queues"
  if [ "$failures" -gt 0 ]; then return; fi
  wire_up
  configure 192M 1500
  check "a device that is not bound is refused with the command that binds it" refused dpdk-devbind.py
  check "two NICs are bound to vfio-pci" in_guest "modprobe vfio-pci
    for d in 01 02; do dpdk-devbind.py -u 0000:\$d:00.0; dpdk-devbind.py -b vfio-pci 0000:\$d:00.0 || exit 1; done"
  configure 1024M 1500
  check "too few hugepages are refused with the command that makes them" refused nr_hugepages
  configure 192M 1500
  before=$(free_pages) || before=0 # and so the checks against it fail
  local run
  for run in first second; do
    # The second time with packets on one side that are larger than a buffer usually is.
    [ "$run" = first ] || configure 192M 3000
    [ "$still" = no ] || return 0
    check "it starts ($run time)" start
    check "the director answers" at_client ping -q -c 3 -i 0.3 -W 3 192.0.2.10
    check "the configured address is the device's" address_is 02:00:00:00:00:10
    check "the virtual addresses answer" \
      sh -c "ip netns exec $client ping -q -c 3 -i 0.3 -W 3 192.0.2.100 && ip netns exec $client ping -q -c 3 -i 0.3 -W 3 2001:db8:1::100"
    local host
    for host in 192.0.2.100 '[2001:db8:1::100]'; do
      check "http://$host is answered" answers "http://$host/"
      check "400 connections to $host, none fails" all_answered "$host"
      check "2 MB from $host arrive whole" file_is_whole "$host"
    done
    check "links are up and both ports count" links_are_up
    check "the workers share the frames as the device can ($(received))" spread "$model"
    check "every frame has met one fate" one_fate
    check "devices and workers counted the same" ports_agree
    [ "$run" = first ] || check "packets of 3,000 bytes are received and sent" large_ping
    check "hugepages are in use" test "$(free_pages)" -lt "$before"
    echo "        drops: $(show drops | json 'print({x["reason"]: x["packets"] for x in d["drops"] if x["packets"]} or "none")')"
    check "it stops cleanly ($run time)" stop
    check "all hugepages are free again" test "$(free_pages)" -eq "$before"
  done
}

total=0
for model in "${models[@]}"; do
  for attempt in 1 2 3; do
    failures=0 still=no
    try "$model"
    clean_up
    [ "$still" = yes ] && [ "$attempt" -lt 3 ] || break
    echo "  the emulated machine stood still, as its kernel says; once more"
  done
  total=$((total + failures))
done
[ "$total" -eq 0 ] || { echo "$about: $total checks failed"; exit 1; }
echo "$about: all as wanted on ${models[*]}"
