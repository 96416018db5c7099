#!/usr/bin/env bash
# What one delivery costs in the canonical room, in figures that stay the same on a noisy machine: system calls, context
# switches, instructions; CPU time beside them.
#
#   tuning/counts.sh [OUTDIR]      default: bench/reports/<date>-<host>; writes counts.txt there
#
# MEMBERS (2000), RATE (40), SERVER_CPUS (0), CLIENT_CPUS (1). Needs `make build`; installs strace, perf and valgrind
# where they are missing. Takes half a minute and ends by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tuning/room.sh
. tuning/room.sh
out=${1:-$(report_folder)}
for tool in curl awk taskset; do command -v $tool >/dev/null || die "$tool is missing"; done
tuning/deps.sh perf strace

work=$(mktemp -d)
trap 'room_stop; rm -rf "$work"' EXIT
mkdir -p "$out"
ticks=$(getconf CLK_TCK)
# A line per thread: name, user µs, system µs, voluntary and involuntary context switches. Shards are summed.
threads() {
  local task
  for task in /proc/"$server"/task/*; do
    printf '%s %s %s\n' "$(sed 's/-[0-9]*$/s/' "$task/comm")" \
      "$(awk -v t="$ticks" '{ sub(/.*\) /, ""); print $12 * 1e6 / t, $13 * 1e6 / t }' "$task/stat")" \
      "$(awk '/ctxt_switches/ { printf "%s ", $2 }' "$task/status")"
  done | awk '{ for (i = 2; i <= 5; i++) sum[$1, i] += $i; name[$1] }
    END { for (n in name) printf "%s %d %d %d %d\n", n, sum[n, 2], sum[n, 3], sum[n, 4], sum[n, 5] }' | sort
}
hardware=''
! can_count instructions:u || hardware=yes

note "counts: starting $MEMBERS clients"
room_start 22
note "counts: 12 s untouched"
threads >"$work/before"
first=$(counted deliveries) writes=$(counted writes)
if [ "$hardware" ]; then
  perf stat -x ' ' -e instructions:u,instructions:k -p "$server" -o "$work/instructions" -- sleep 12
else
  sleep 12
fi
untouched=$(($(counted deliveries) - first)) writes=$(($(counted writes) - writes))
threads >"$work/after"
note "counts: 6 s under strace"
first=$(counted deliveries)
timeout --signal=INT 6 strace -f -c -U calls,name -S calls -p "$server" -o "$work/calls" 2>/dev/null || true
traced=$(($(counted deliveries) - first))
room_stop
[ "$untouched" -gt 0 ] && [ "$traced" -gt 0 ] || die "nothing was delivered"

# Without hardware counters callgrind counts what can be counted without the kernel: the rules of the shard, driven by a
# program that does the same in every run. The whole gateway does not run under valgrind, which hides the vdso from it.
callgrind() {
  local program=$target/release/examples/deliveries pushes
  "${CARGO:-cargo}" build --quiet --release -p halley-micro --example deliveries
  for pushes in 0 50; do
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$MEMBERS" $pushes 2>&1 >/dev/null |
      awk '/Collected/ { print $NF }'
  done | awk -v deliveries=$((50 * MEMBERS)) 'NR == 1 { idle = $1 } END { printf "%.0f", ($1 - idle) / deliveries }'
}

{
  room_context
  echo
  printf '%-44s %14s %14s\n' 'per delivery' 'main thread' 'shards'
  awk -v n="$untouched" '
    NR == FNR { for (i = 2; i <= 5; i++) was[$1, i] = $i; next }
    { for (i = 2; i <= 5; i++) is[$1, i] = ($i - was[$1, i]) / n }
    END {
      label[2] = "CPU in user mode, µs"; label[3] = "CPU in the kernel, µs"
      label[4] = "context switches, voluntary"; label[5] = "context switches, involuntary"
      for (i = 2; i <= 5; i++) printf "%-44s %14.4f %14.4f\n", label[i], is["halley", i], is["shards", i]
    }' "$work/before" "$work/after"
  echo
  printf '%-44s %14s\n' 'per delivery' 'whole process'
  # Below 1 the gateway was late: what waited was joined, and a delivery looks cheaper than a write.
  awk -v n="$untouched" -v w="$writes" 'BEGIN { printf "%-44s %14.4f\n", "writes", w / n }'
  awk -v n="$traced" '$1 + 0 && $2 != "total" { sum += $1; if ($2 == "io_uring_enter") enters = $1 }
    END {
      printf "%-44s %14.4f\n", "system calls", sum / n
      printf "%-44s %14.4f\n", "of them io_uring_enter", enters / n
      if (enters) printf "%-44s %14.1f\n", "deliveries per io_uring_enter", n / enters
    }' "$work/calls"
  if [ "$hardware" ]; then
    awk -v n="$untouched" '$3 ~ /^instructions/ { printf "%-44s %14.0f\n", "instructions, " ($3 ~ /u$/ ? "user mode" : "kernel"), $1 / n }' "$work/instructions"
  else
    tuning/deps.sh valgrind
    note "counts: instructions by callgrind (this machine has no hardware counters)"
    printf '%-44s %14s\n' "instructions, rules of the shard (callgrind)" "$(callgrind)"
  fi
  printf '\nsystem calls of %s deliveries, under strace\n' "$traced"
  cat "$work/calls"
} | tee "$out/counts.txt"
note "written: $out/counts.txt"
