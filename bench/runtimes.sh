#!/usr/bin/env bash
# The runtimes under a shard side by side, in one program and one run: monoio on io_uring, monoio on epoll, glommio. Prints
# a table. A release binary with all of them must be there (`make runtimes` builds it).
#
#   bench/runtimes.sh [OUTFILE]      default: bench/reports/<date>-<host>/runtimes.md
#
# In each of ROUNDS (5) rounds every runtime gets a fresh server, another one first each time: MEMBERS (2,000) members of
# one room, RATE (40) pushes a second of 60 B, of which SECONDS_EACH (12) are measured; then CLIENTS (10,000) connect,
# log in and stay idle beside half as many. The server runs pinned to SERVER_CPUS (0), loadgen to CLIENT_CPUS (1). CPU is
# the kernel's account of the whole server process. The table has medians and ranges; a run in which anything was lost
# is told.
set -euo pipefail
cd "$(dirname "$0")/.."
ROUNDS=${ROUNDS:-5}
SERVER_CPUS=${SERVER_CPUS:-0}
CLIENT_CPUS=${CLIENT_CPUS:-1}
MEMBERS=${MEMBERS:-2000}
RATE=${RATE:-40}
SECONDS_EACH=${SECONDS_EACH:-12}
CLIENTS=${CLIENTS:-10000}
read -ra drivers <<<"${DRIVERS:-io_uring epoll glommio}"
host=$(hostname | tr -c 'a-zA-Z0-9\n' '-')
table=${1:-bench/reports/$(date +%F)-$host/runtimes.md}
bin=${CARGO_TARGET_DIR:-target}/release
halley=$bin/halley loadgen=$bin/loadgen
out=$(mktemp -d)
# shellcheck source=bench/server.sh
. bench/server.sh
trap 'stop; rm -rf "$out"' EXIT
mkdir -p "$(dirname "$table")"

deliveries() { curl -fs http://127.0.0.1:3111/metrics | awk '/^halley_deliveries_total/ { print $2 }'; }
# hold FIRST COUNT: clients that stay; their generator is $!
hold() {
  taskset -c "$CLIENT_CPUS" "$loadgen" "$1" "$2" 127.0.0.1:3101 --duration 300s --in-flight 100 >"$out/hold.log" 2>&1 &
}

lost=''
room() {
  local json=$out/room.json before after sent done_ pusher
  taskset -c "$CLIENT_CPUS" "$loadgen" 1 "$MEMBERS" 127.0.0.1:3101 --push http://127.0.0.1:3111 --rate "$RATE" \
    --duration $((SECONDS_EACH + 8))s --json "$json" >"$out/loadgen.log" 2>&1 &
  pusher=$!
  until_online "$MEMBERS"
  # Everything is warm by then.
  sleep 3
  before=$(cpu) sent=$(deliveries)
  sleep "$SECONDS_EACH"
  after=$(cpu) done_=$(deliveries)
  wait $pusher || lost+="- $1, round $2: loadgen ended with $?, $(field "$json" pushes.lost) lost"$'\n'
  record "$1.delivery" "$(awk -v a="$before" -v b="$after" -v s="$sent" -v d="$done_" 'BEGIN { printf "%.2f", (b - a) / (d - s) }')"
  record "$1.p50" "$(field "$json" pushes.latency.p50_us)"
  record "$1.p99" "$(field "$json" pushes.latency.p99_us)"
}

idle() {
  local low high before after beside clients
  hold 1 $((CLIENTS / 2)); beside=$!
  until_online $((CLIENTS / 2))
  sleep 3
  low=$(anon) before=$(cpu)
  hold 100001 "$CLIENTS"; clients=$!
  until_online $((CLIENTS / 2 + CLIENTS))
  after=$(cpu)
  sleep 3
  high=$(anon)
  record "$1.login" "$(awk -v a="$before" -v b="$after" -v n="$CLIENTS" 'BEGIN { printf "%.1f", (b - a) / n }')"
  record "$1.memory" "$(awk -v l="$low" -v h="$high" -v n="$CLIENTS" 'BEGIN { printf "%.0f", (h - l) / n }')"
  kill -TERM $beside $clients
  wait $beside || true
  wait $clients || true
}

for ((round = 1; round <= ROUNDS; round++)); do
  for ((turn = 0; turn < ${#drivers[@]}; turn++)); do
    driver=${drivers[(round + turn) % ${#drivers[@]}]}
    note "round $round of $ROUNDS: $driver"
    start --set log.level=warn --set comet.reactor.driver="$driver" --set comet.reactor.shards=1
    room "$driver" "$round"
    until_online 0
    idle "$driver"
    stop
  done
done

# cell NAME: the median, and the range when there is one
cell() {
  # shellcheck disable=SC2086
  local sorted=($(printf '%s\n' ${all[$1]} | sort -g)) middle
  # shellcheck disable=SC2086
  middle=$(median ${all[$1]})
  [ ${#sorted[@]} -gt 1 ] && echo "$middle (${sorted[0]}–${sorted[-1]})" || echo "$middle"
}
declare -A names=([io_uring]='monoio, io_uring' [epoll]='monoio, epoll' [glommio]='glommio')
{
  echo "# Runtimes, $(date -u +%F)"
  echo
  echo "Commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo -dirty), kernel $(uname -r), $(nproc) cores," \
    "$ROUNDS rounds: one shard, $MEMBERS members, $RATE pushes a second; $CLIENTS idle clients. Medians and ranges."
  echo
  echo '| runtime | CPU per delivery, µs | p50, µs | p99, µs | CPU per connect and login, µs | memory per idle connection, B |'
  echo '| --- | --- | --- | --- | --- | --- |'
  for driver in "${drivers[@]}"; do
    row="| ${names[$driver]} |"
    for figure in delivery p50 p99 login memory; do row+=" $(cell "$driver.$figure") |"; done
    echo "$row"
  done
  [ -z "$lost" ] || printf '\nRuns that went badly:\n\n%s' "$lost"
} | tee "$table"
note "written: $table"
