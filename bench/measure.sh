#!/usr/bin/env bash
# Measures one machine and writes a dated report: latency of a quiet gateway, CPU per delivery, memory per idle
# connection, CPU per connect and login. Release binaries must be there (`make build`).
#
#   bench/measure.sh [OUTDIR]      default: bench/reports/<date>-<host>
#
# The server runs pinned to SERVER_CPUS (0) and loadgen to CLIENT_CPUS (1). Each figure is taken ROUNDS (3) times; the
# table has the median and all of them. CPU is the kernel's account of the whole server process. Everything is on
# loopback and ends by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
ROUNDS=${ROUNDS:-3}
SERVER_CPUS=${SERVER_CPUS:-0}
CLIENT_CPUS=${CLIENT_CPUS:-1}
MEMBERS=${MEMBERS:-2000}
RATE=${RATE:-40}
host=$(hostname | tr -c 'a-zA-Z0-9\n' '-')
out=${1:-bench/reports/$(date +%F)-$host}
mkdir -p "$out"
halley=target/release/halley
loadgen=target/release/loadgen
# shellcheck source=bench/server.sh
. bench/server.sh

for round in $(seq "$ROUNDS"); do
  note "round $round of $ROUNDS: quiet gateway, 1 and 1,000 members at 10 pushes a second"
  start --set log.level=warn
  for members in 1 1000; do
    json=$out/quiet-$members-$round.json
    load 1 $members 127.0.0.1:3101 --push http://127.0.0.1:3111 --rate 10 --duration 10s --warmup 1s --json "$json" >"$out/loadgen.log" || note "  loadgen ended with $?"
    for p in p50 p90 p99 p999 max; do record "quiet_${members}_${p}_us" "$(field "$json" "pushes.latency.${p}_us")"; done
    record "quiet_${members}_lost" "$(field "$json" pushes.lost)"
    until_online 0
  done
  stop

  note "round $round: $MEMBERS members, $RATE pushes a second of 60 B"
  for mode in off adaptive; do
    start --set log.level=warn --set comet.batch.mode=$mode
    json=$out/room-$mode-$round.json
    # CPU is taken from three seconds after the first push, when everything is warm.
    taskset -c "$CLIENT_CPUS" $loadgen 1 "$MEMBERS" 127.0.0.1:3101 --push http://127.0.0.1:3111 --rate "$RATE" --duration 20s --json "$json" >"$out/loadgen.log" &
    pusher=$!
    until_online "$MEMBERS"
    sleep 3
    before=$(cpu); sent=$(curl -fs http://127.0.0.1:3111/metrics | awk '/^halley_deliveries_total/ { print $2 }')
    sleep 12
    after=$(cpu); done_=$(curl -fs http://127.0.0.1:3111/metrics | awk '/^halley_deliveries_total/ { print $2 }')
    wait $pusher || note "  loadgen ended with $?"
    record "room_${mode}_cpu_per_delivery_us" "$(awk -v a="$before" -v b="$after" -v s="$sent" -v d="$done_" 'BEGIN { printf "%.2f", (b - a) / (d - s) }')"
    for p in p50 p99 p999; do record "room_${mode}_${p}_us" "$(field "$json" "pushes.latency.${p}_us")"; done
    record "room_${mode}_lost" "$(field "$json" pushes.lost)"
    record "room_${mode}_client_cpu_us" "$(awk -v c="$(field "$json" cpu_seconds)" -v d="$(field "$json" deliveries)" 'BEGIN { printf "%.2f", c * 1e6 / d }')"
    stop
  done

  note "round $round: idle memory and logins"
  for transport in tcp ws; do
    start --set log.level=warn
    port=3101; ws=''
    [ $transport = tcp ] || { port=3102; ws=--ws; }
    taskset -c "$CLIENT_CPUS" $loadgen 1 5000 127.0.0.1:$port $ws --duration 120s --in-flight 100 >"$out/hold-a.log" 2>&1 &
    a=$!
    until_online 5000
    sleep 3
    low=$(anon)
    before=$(cpu)
    taskset -c "$CLIENT_CPUS" $loadgen 100001 10000 127.0.0.1:$port $ws --duration 120s --in-flight 100 >"$out/hold-b.log" 2>&1 &
    b=$!
    until_online 15000
    after=$(cpu)
    sleep 3
    high=$(anon)
    record "idle_${transport}_bytes" "$(awk -v l="$low" -v h="$high" 'BEGIN { printf "%.0f", (h - l) / 10000 }')"
    record "login_${transport}_cpu_us" "$(awk -v a="$before" -v b="$after" 'BEGIN { printf "%.1f", (b - a) / 10000 }')"
    kill -TERM $a $b; wait $a || true; wait $b || true
    until_online 0
    stop
  done
  note "round $round: 10,000 clients that come and go at random, three times"
  start --set log.level=warn
  record churn_descriptors_before "$(ls "/proc/$server/fd" | wc -l)"
  for turn in 1 2 3; do
    load churn 1 10000 127.0.0.1:3101 --rounds 1 --push http://127.0.0.1:3111 >"$out/loadgen.log" 2>&1 || note "  loadgen ended with $?: $(tail -1 "$out/loadgen.log")"
    sleep 2
    record "churn_rss_after_${turn}_kb" "$(awk '/VmRSS/ { print $2 }' "/proc/$server/status")"
  done
  record churn_descriptors_after "$(ls "/proc/$server/fd" | wc -l)"
  record churn_online_after "$(online)"
  stop
done

cpu_model=$(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo)
{
  echo "{"
  echo "  \"date\": \"$(date -u +%FT%TZ)\", \"commit\": \"$(git rev-parse --short HEAD)$(git diff --quiet HEAD 2>/dev/null || echo -dirty)\","
  echo "  \"kernel\": \"$(uname -r)\", \"cpu\": \"$cpu_model\", \"cores\": $(nproc), \"rounds\": $ROUNDS,"
  echo "  \"server_cpus\": \"$SERVER_CPUS\", \"client_cpus\": \"$CLIENT_CPUS\", \"rustc\": \"$(rustc --version)\","
  echo "  \"figures\": {"
  sep=''
  for name in $(printf '%s\n' "${!all[@]}" | sort); do
    # shellcheck disable=SC2086
    values=$(echo ${all[$name]} | tr ' ' ',')
    # shellcheck disable=SC2086
    printf '%s    "%s": { "median": "%s", "runs": "%s" }' "$sep" "$name" "$(median ${all[$name]})" "$values"
    sep=$',\n'
  done
  printf '\n  }\n}\n'
} >"$out/figures.json"
{
  printf '%-36s %12s   %s\n' figure median runs
  for name in $(printf '%s\n' "${!all[@]}" | sort); do
    # shellcheck disable=SC2086
    printf '%-36s %12s  %s\n' "$name" "$(median ${all[$name]})" "${all[$name]}"
  done
} | tee "$out/figures.txt"
rm -f "$out"/hold*.log "$out/loadgen.log" "$out/server.log"
note "written: $out"
