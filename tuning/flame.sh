#!/usr/bin/env bash
# Flame graph of the gateway in the canonical room: where the CPU of a delivery goes, user and kernel.
#
#   tuning/flame.sh [OUTDIR]      default: bench/reports/<date>-<host>; writes flame.svg and flame.txt there
#
# SECONDS_RECORDED (15), MEMBERS (2000), RATE (40), SERVER_CPUS (0), CLIENT_CPUS (1). Needs `make build`; installs perf
# and inferno where they are missing. Takes half a minute and ends by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tuning/room.sh
. tuning/room.sh
seconds=${SECONDS_RECORDED:-15}
out=${1:-$(report_folder)}
for tool in curl awk taskset; do command -v $tool >/dev/null || die "$tool is missing"; done
tuning/deps.sh perf inferno
# The whole core is sampled, and its kernel: per-process sampling with cpu-clock takes a sample too many at each switch
# to the process.
if [ "$(id -u)" -ne 0 ] && { [ "$(cat /proc/sys/kernel/perf_event_paranoid)" -gt 0 ] || [ "$(cat /proc/sys/kernel/kptr_restrict)" -ne 0 ]; }; then
  die "needs root, or: sysctl -w kernel.perf_event_paranoid=0 kernel.kptr_restrict=0"
fi
# cpu-clock samples by a timer, which waits while interrupts are off: what is done then shows at the function that lets
# them in again, such as _raw_spin_unlock_irqrestore.
event=cycles
can_count cycles || event=cpu-clock

work=$(mktemp -d)
trap 'room_stop; rm -rf "$work"' EXIT
mkdir -p "$out"
note "flame: starting $MEMBERS clients"
room_start "$seconds"
note "flame: $seconds s of $event on core $SERVER_CPUS"
before=$(counted deliveries)
# Frame pointers would need a second build of everything; the unwind tables are in every build.
taskset -c "$CLIENT_CPUS" perf record --quiet --event "$event" --freq 999 --cpu "$SERVER_CPUS" --call-graph dwarf,8192 \
  --mmap-pages 16M --output "$work/perf.data" -- sleep "$seconds" >&2
after=$(counted deliveries)
pid=$server
room_stop
[ "$after" -gt "$before" ] || die "nothing was delivered"

note "flame: unwinding"
# Below main and the threads' starts there is only noise.
perf script --input "$work/perf.data" --no-inline --pid "$pid" -F comm,pid,tid,time,event,ip,sym,dso 2>/dev/null |
  target/tools/bin/inferno-collapse-perf --kernel 2>/dev/null | sed 's/;\[unknown\];/;/' >"$work/folded"
samples=$(awk '{ sum += $NF } END { print sum + 0 }' "$work/folded")
[ "$samples" -gt 100 ] || die "only $samples samples: is the gateway on core $SERVER_CPUS?"
# Frames narrower than 0.1 % are left out, or the file would have megabytes.
target/tools/bin/inferno-flamegraph --minwidth 0.1 --hash --title 'halley: CPU of one room' \
  --subtitle "$(room_context)" --countname samples "$work/folded" >"$out/flame.svg"
# Self time: the last frame of each stack. One line per thread and function, the widest first.
self_times() {
  awk '{ count = $NF; sub(/ [0-9]+$/, ""); frames = split($0, frame, ";"); print count "\t" frame[1] "\t" frame[frames] }' "$work/folded" |
    awk -F '\t' -v only="$1" -v all="$samples" '
      only == "user" && $3 ~ /_\[k\]$/ { next }
      { key = only == "threads" ? $2 : $2 "  " $3; sum[key] += $1 }
      END { for (key in sum) printf "%6.2f%%  %s\n", sum[key] * 100 / all, key }' | sort -rn | head -30
}
{
  room_context
  echo "$samples samples of $event at 999 Hz over $seconds s, $((after - before)) deliveries; shares are of the process"
  echo
  self_times threads
  printf '\nself time, the first 30 functions; _[k] is the kernel\n'
  self_times all
  printf '\nself time, the first 30 functions of user code\n'
  self_times user
} >"$out/flame.txt"
cat "$out/flame.txt"
note "written: $out/flame.svg ($(($(wc -c <"$out/flame.svg") / 1024)) KB), flame.txt"
