# What the tests that run in guests of the lab begin with. Sourced in the checkout's root with the test's name in $about.
# Sets $lab, and with `prepare` $work, a folder that the test removes at its end, and $LAB_STATE.

skip() { echo "SKIPPED: $about: $*"; exit 77; }

need() { # need PROGRAM…: what the host must have
  local tool
  for tool; do command -v "$tool" >/dev/null || skip "there is no $tool (.ci/deps test)"; done
}

prepare() { # prepare POLDER: the program to test is one, and there is a guest
  [ -x "$1" ] || { echo "${0##*/}: $1 is no program" >&2; exit 2; }
  if [ ! -e "${LAB_CACHE:-$HOME/.cache/polder-lab}/default" ]; then
    [ "$(id -u)" -eq 0 ] || skip "the lab's guest can't be made without root"
    echo "the lab's guest is made first; this takes some minutes, once"
    local log
    log=$(mktemp)
    { "$lab" install && "$lab" build; } >"$log" 2>&1 || { tail -5 "$log"; skip "the lab's guest can't be made; see $log"; }
    rm -f "$log"
  fi
  work=$(mktemp -d)
  export LAB_STATE=$work/state
}

lab=${POLDER_LAB:-../shared/lab}/lab
[ -x "$lab" ] || skip "there is no lab; set POLDER_LAB to its folder"
