# The canonical room, for flame.sh and counts.sh to source: a gateway pinned to SERVER_CPUS, loadgen on CLIENT_CPUS, one
# room, nothing joined on purpose. Release binaries must be there (`make build`). shellcheck shell=bash
SERVER_CPUS=${SERVER_CPUS:-0}
CLIENT_CPUS=${CLIENT_CPUS:-1}
MEMBERS=${MEMBERS:-2000}
RATE=${RATE:-40}
# The first of five ports of our own, so that a gateway on the usual ones may go on running.
PORT=${PORT:-3171}
target=${CARGO_TARGET_DIR:-target}
http=http://127.0.0.1:$((PORT + 2))

note() { printf '%s\n' "$*" >&2; }
die() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; exit 1; }

server='' generator=''
room_stop() {
  local pid
  for pid in $generator $server; do
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  server='' generator=''
}
trap room_stop EXIT

# room_start SECONDS [ARGUMENTS OF halley]: returns when all members are in and pushes have gone on for three seconds;
# pushing goes on for SECONDS at least. Sets `server` and `generator` to the two pids.
room_start() {
  local seconds=$1 n=0
  shift
  load=$(cut -d' ' -f1 /proc/loadavg)
  for binary in halley loadgen; do
    [ -x "$target/release/$binary" ] || die "no $target/release/$binary; run make build"
  done
  taskset -c "$SERVER_CPUS" "$target/release/halley" --set log.level=warn --set comet.batch.mode=off \
    --set comet.tcp.bind=127.0.0.1:"$PORT" --set comet.websocket.bind=127.0.0.1:$((PORT + 1)) \
    --set logic.httpServer.addr=127.0.0.1:$((PORT + 2)) --set comet.rpcServer.addr=127.0.0.1:$((PORT + 3)) \
    --set logic.rpcServer.addr=127.0.0.1:$((PORT + 4)) "$@" >"$target/room-gateway.log" 2>&1 &
  server=$!
  until curl -fs "$http/readyz" >/dev/null 2>&1; do
    n=$((n + 1))
    [ $n -lt 100 ] && kill -0 "$server" 2>/dev/null || die "the gateway did not start: $(tail -1 "$target/room-gateway.log")"
    sleep 0.1
  done
  taskset -c "$CLIENT_CPUS" "$target/release/loadgen" 1 "$MEMBERS" 127.0.0.1:"$PORT" --push "$http" --rate "$RATE" \
    --duration $((seconds + 8))s >"$target/room.log" 2>&1 &
  generator=$!
  n=0
  until [ "$(online)" = "$MEMBERS" ]; do
    n=$((n + 1))
    [ $n -lt 300 ] && kill -0 "$generator" 2>/dev/null || die "never $MEMBERS clients: $(tail -1 "$target/room.log")"
    sleep 0.1
  done
  sleep 3
}

online() { curl -fs "$http/goim/online/total" | sed 's/.*"conn_count":\([0-9]*\).*/\1/'; }
# counted deliveries | writes: since the gateway's start
counted() { curl -fs "$http/metrics" | awk -v name="halley_$1_total" '$1 ~ "^" name "($|{)" { sum += $2 } END { printf "%.0f", sum }'; }

# Whether perf can count such an event: virtual machines seldom have hardware counters.
can_count() {
  case $(perf stat -e "$1" true 2>&1) in *'not supported'* | *'not counted'* | *rror*) return 1 ;; esac
}

# A line that says what was measured where; no paths, no names.
room_context() {
  printf '%s members, %s pushes a second of 60 B, TCP, gateway on core %s, loadgen on core %s, load average before %s; commit %s, Linux %s, %s\n' \
    "$MEMBERS" "$RATE" "$SERVER_CPUS" "$CLIENT_CPUS" "$load" \
    "$(git rev-parse --short HEAD)$(git diff --quiet HEAD -- . ':!bench/reports' 2>/dev/null || echo -dirty)" "$(uname -r)" \
    "$(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo)"
}

report_folder() { echo "bench/reports/$(date +%F)-$(hostname | tr -c 'a-zA-Z0-9\n' '-')"; }
