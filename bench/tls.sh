#!/usr/bin/env bash
# What TLS costs: idle clients, handshakes, a room, a storm of handshakes; nginx with the same certificate beside it, in one
# run. Prints a table. Release binaries must be there (`make tls-bench` builds them and installs nginx).
#
#   bench/tls.sh [OUTFILE]      default: bench/reports/<date>-<host>/tls.md
#
# In each of ROUNDS (5) rounds, another order each time: CLIENTS (10,000) idle WebSocket clients beside half as many, clear,
# over TLS with the record layer only, over TLS with all of rustls, and as many at nginx; HANDSHAKES (2,000) each, full and
# resumed, TLS 1.2 and 1.3; MEMBERS (2,000) members of one room, RATE (40) pushes a second of 60 B for SECONDS_EACH (12),
# clear and over TLS; 1,000 clear clients with 400 pushes a second, each to one of them: in peace, while 2,000 handshakes are
# made, while 2,000 clients log in at once. PARTS names some of clear, small, plain, nginx and storm. The server runs pinned
# to SERVER_CPUS (0), clients to CLIENT_CPUS (1). CPU is the kernel's account of all threads of the server (schedstat). The
# table has medians and ranges.
set -euo pipefail
cd "$(dirname "$0")/.."
ROUNDS=${ROUNDS:-5}
SERVER_CPUS=${SERVER_CPUS:-0}
CLIENT_CPUS=${CLIENT_CPUS:-1}
CLIENTS=${CLIENTS:-10000}
HANDSHAKES=${HANDSHAKES:-2000}
MEMBERS=${MEMBERS:-2000}
RATE=${RATE:-40}
SECONDS_EACH=${SECONDS_EACH:-12}
host=$(hostname | tr -c 'a-zA-Z0-9\n' '-')
table=${1:-bench/reports/$(date +%F)-$host/tls.md}
bin=${CARGO_TARGET_DIR:-target}/release
halley=$bin/halley loadgen=$bin/loadgen
out=$(mktemp -d)
# shellcheck source=bench/server.sh
. bench/server.sh
mkdir -p "$(dirname "$table")"
command -v nginx >/dev/null || { echo "$0: nginx is missing (bench/peers.sh)" >&2; exit 1; }

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout "$out/key" -out "$out/crt" \
  -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE 2>/dev/null
cat >"$out/nginx.conf" <<EOF
daemon off; master_process off; pid $out/nginx.pid; error_log $out/nginx.log; worker_rlimit_nofile 60000;
events { worker_connections 50000; }
http { access_log off; keepalive_timeout 600s; keepalive_requests 1000000;
  server { listen 127.0.0.1:3203 ssl backlog=4096; ssl_certificate $out/crt; ssl_certificate_key $out/key;
    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on; ssl_session_cache off; ssl_buffer_size 4k;
    location / { return 200 ok; } } }
EOF
nginx=''
trap 'stop; [ -z "$nginx" ] || kill -QUIT "$nginx" 2>/dev/null || true; rm -rf "$out"' EXIT
start_nginx() {
  taskset -c "$SERVER_CPUS" nginx -e "$out/nginx.log" -c "$out/nginx.conf" &
  nginx=$! server=$nginx
  sleep 0.5
}
end_nginx() { kill -QUIT "$nginx"; wait "$nginx" 2>/dev/null || true; nginx='' server=''; }

secure=(--set comet.websocket.tlsOpen=true --set "comet.websocket.certFile=$out/crt" --set "comet.websocket.privateFile=$out/key"
  --set log.level=warn --set comet.reactor.shards=1 --set comet.limits.unauthenticated=100000)
spent() { awk '{ s += $1 } END { printf "%.3f", s / 1000 }' /proc/"$server"/task/*/schedstat; } # microseconds
record() { all[$1]+=" $2"; }
declare -A all
ratio() { awk -v a="$1" -v b="$2" -v n="$3" 'BEGIN { printf "%.3f", (b - a) / n }'; }

# idle NAME ADDRESS [loadgen's arguments]
idle() {
  local name=$1 address=$2 low first second
  shift 2
  taskset -c "$CLIENT_CPUS" "$loadgen" 1 $((CLIENTS / 2)) "$address" --ws "$@" --duration 300s >"$out/a.log" 2>&1 & first=$!
  until_online $((CLIENTS / 2)); sleep 2; low=$(anon)
  taskset -c "$CLIENT_CPUS" "$loadgen" 100001 "$CLIENTS" "$address" --ws "$@" --duration 300s >"$out/b.log" 2>&1 & second=$!
  until_online $((CLIENTS / 2 + CLIENTS)); sleep 2
  record "idle.$name" "$(ratio "$low" "$(anon)" "$CLIENTS")"
  kill -TERM "$first" "$second"; wait "$first" || true; wait "$second" || true
}
# held COUNT: connections to nginx that stay; they end with the pipe
idle_nginx() {
  local low first second
  mkfifo "$out/end"
  taskset -c "$CLIENT_CPUS" "$bin/handshakes" 127.0.0.1:3203 $((CLIENTS / 2)) --ca "$out/crt" --request --hold <"$out/end" >"$out/a.log" & first=$!
  exec 9>"$out/end"
  until grep -q handshakes "$out/a.log"; do sleep 0.2; done; low=$(anon)
  taskset -c "$CLIENT_CPUS" "$bin/handshakes" 127.0.0.1:3203 "$CLIENTS" --ca "$out/crt" --request --hold <"$out/end" >"$out/b.log" 9>&- & second=$!
  until grep -q handshakes "$out/b.log"; do sleep 0.2; done
  record idle.nginx "$(ratio "$low" "$(anon)" "$CLIENTS")"
  exec 9>&-; wait "$first" "$second"; rm "$out/end"
}
handshakes() { # NAME ADDRESS
  local version kind before
  for version in 1.2 1.3; do
    for kind in full resumed; do
      local args=(--ca "$out/crt")
      [ $version = 1.3 ] || args+=(--tls12)
      [ $kind = full ] || args+=(--resumed)
      taskset -c "$CLIENT_CPUS" "$bin/handshakes" "$2" 200 "${args[@]}" >/dev/null # warm
      before=$(spent)
      taskset -c "$CLIENT_CPUS" "$bin/handshakes" "$2" "$HANDSHAKES" "${args[@]}" >/dev/null
      record "handshake.$1.$version.$kind" "$(ratio "$before" "$(spent)" "$HANDSHAKES")"
    done
  done
}
deliveries() { curl -fs http://127.0.0.1:3111/metrics | awk '/^halley_deliveries_total/ { print $2 }'; }
# From the push's acceptance to its last write, of all shards.
buckets() { curl -fs http://127.0.0.1:3111/metrics | grep '^halley_accept_to_written_seconds_bucket' >"$1"; }
# p99 BEFORE AFTER: of what came between, ms. Buckets are powers of two, within which it is taken as even.
p99() {
  python3 - "$1" "$2" <<'EOF'
import re, sys
def read(file):
    counts = {}
    for line in open(file):
        le, count = re.search(r'le="([^"]+)".*} (\S+)', line).groups()
        counts[float(le)] = counts.get(float(le), 0) + float(count)
    return counts
before, after = map(read, sys.argv[1:])
below = at_below = 0
for le in sorted(after):
    count, wanted = after[le] - before[le], 0.99 * (after[float("inf")] - before[float("inf")])
    if count >= wanted:
        print("%.2f" % ((below + (le - below) * (wanted - at_below) / max(count - at_below, 1)) * 1000))
        break
    below, at_below = le, count
EOF
}
# room NAME COUNT ADDRESS [loadgen's arguments]: all get every push
room() {
  local name=$1 count=$2 address=$3 before sent
  shift 3
  taskset -c "$CLIENT_CPUS" "$loadgen" 1 "$count" "$address" --ws "$@" --push http://127.0.0.1:3111 --rate "$RATE" \
    --duration $((SECONDS_EACH + 3))s >"$out/room.log" 2>&1 & local pusher=$!
  until_online "$count"; sleep 3
  before=$(spent) sent=$(deliveries); buckets "$out/before"
  sleep "$((SECONDS_EACH - 2))"
  record "delivery.$name" "$(ratio "$before" "$(spent)" "$(($(deliveries) - sent))")"
  buckets "$out/after"; record "p99.$name" "$(p99 "$out/before" "$out/after")"
  wait $pusher || lost+="- $name: loadgen ended with $?"$'\n'
  until_online 0
}
# lone NAME COMMAND...: 400 pushes a second, each to one of 1,000 clear clients, while the command runs
lone() {
  local name=$1
  shift
  taskset -c "$CLIENT_CPUS" "$loadgen" 1 1000 127.0.0.1:3102 --ws --push http://127.0.0.1:3111 --kind keys --rate 400 \
    --duration 7s >"$out/lone.log" 2>&1 & local pusher=$!
  sleep 2; buckets "$out/before"
  nice -n 19 taskset -c "$CLIENT_CPUS" "$@" >/dev/null 2>&1 || true
  buckets "$out/after"; record "p99.$name" "$(p99 "$out/before" "$out/after")"
  wait $pusher || lost+="- $name: loadgen ended with $?"$'\n'
  until_online 0
}

lost=''
read -ra parts <<<"${PARTS:-clear small plain nginx storm}"
tls=(--tls "$out/crt" --tls-name localhost)
logins=(timeout 3 "$loadgen" 500001 2000 --ws --room '' --in-flight 2000 --duration 1s)
for ((round = 1; round <= ROUNDS; round++)); do
  for ((turn = 0; turn < ${#parts[@]}; turn++)); do
    part=${parts[(round + turn) % ${#parts[@]}]}
    note "round $round of $ROUNDS: $part"
    case $part in
      clear) start "${secure[@]}"; idle clear 127.0.0.1:3102; until_online 0; room clear "$MEMBERS" 127.0.0.1:3102; stop ;;
      storm)
        start "${secure[@]}"
        lone peace sleep 3
        lone handshakes "$bin/handshakes" 127.0.0.1:3103 2000 --ca "$out/crt"
        lone logins "${logins[@]}" 127.0.0.1:3102
        lone logins-tls "${logins[@]}" 127.0.0.1:3103 "${tls[@]}"
        stop ;;
      small | plain)
        start "${secure[@]}" --set comet.tls.memory=$part; idle $part 127.0.0.1:3103 "${tls[@]}"; until_online 0
        handshakes $part 127.0.0.1:3103
        room $part "$MEMBERS" 127.0.0.1:3103 "${tls[@]}"; stop ;;
      nginx) start_nginx; idle_nginx; end_nginx; start_nginx; handshakes nginx 127.0.0.1:3203; end_nginx ;;
    esac
  done
done

# cell NAME FORMAT: the median, and the range
cell() {
  # shellcheck disable=SC2086
  local sorted=($(printf '%s\n' ${all[$1]:-0} | sort -g)) middle
  # shellcheck disable=SC2086
  middle=$(median ${all[$1]:-0})
  printf "$2 ($2 to $2)" "$middle" "${sorted[0]}" "${sorted[-1]}"
}
# against NAME OTHER: the median of the ratios within a round
against() {
  # shellcheck disable=SC2086
  paste <(printf '%s\n' ${all[$1]:-0}) <(printf '%s\n' ${all[$2]:-1}) | awk '{ print $1 / $2 }' | sort -g |
    awk '{ a[NR] = $1 } END { printf "%.2f", (NR % 2) ? a[(NR + 1) / 2] : (a[NR / 2] + a[NR / 2 + 1]) / 2 }'
}
{
  echo "# What TLS costs, $(date +%F)"
  echo
  echo "$("$halley" --version), $(nproc) cores ($(awk -F: '/model name/ { print $2; exit }' /proc/cpuinfo | sed 's/^ *//')), kernel"
  echo "$(uname -r), $(nginx -v 2>&1 | sed 's/.*: //'), one certificate of ECDSA P-256 for both. \`bench/tls.sh\`, $ROUNDS rounds:"
  echo "medians, and the range. Server on core $SERVER_CPUS, clients on core $CLIENT_CPUS."
  echo
  echo "| memory per idle client, B | |"
  echo "| --- | --- |"
  echo "| WebSocket, clear | $(cell idle.clear %.0f) |"
  echo "| WSS, \`tls.memory = \"small\"\` | $(cell idle.small %.0f) |"
  echo "| WSS, \`tls.memory = \"plain\"\` | $(cell idle.plain %.0f) |"
  echo "| nginx, HTTPS kept alive after one request | $(cell idle.nginx %.0f) |"
  echo
  echo "| CPU per handshake, µs, connect and close included | Halley, small | Halley, plain | nginx | small / nginx |"
  echo "| --- | --- | --- | --- | --- |"
  for version in 1.3 1.2; do
    for kind in full resumed; do
      name=$version.$kind
      echo "| TLS $version, $kind | $(cell handshake.small.$name %.0f) | $(cell handshake.plain.$name %.0f) | $(cell handshake.nginx.$name %.0f) | $(against handshake.small.$name handshake.nginx.$name) |"
    done
  done
  echo
  echo "| a room of $MEMBERS, $RATE pushes/s of 60 B | CPU per delivery, µs | p99, ms | CPU / clear |"
  echo "| --- | --- | --- | --- |"
  echo "| WebSocket, clear | $(cell delivery.clear %.2f) | $(cell p99.clear %.1f) | |"
  for part in small plain; do
    echo "| WSS, $part | $(cell delivery.$part %.2f) | $(cell p99.$part %.1f) | $(against delivery.$part delivery.clear) |"
  done
  echo
  echo "| 1,000 clear clients, 400 pushes/s, each to one of them | p99, ms | / in peace |"
  echo "| --- | --- | --- |"
  echo "| in peace | $(cell p99.peace %.1f) | |"
  for what in "handshakes:while 2,000 handshakes are made" "logins:while 2,000 clear clients log in at once" \
    "logins-tls:while 2,000 clients log in at once over TLS"; do
    echo "| ${what#*:} | $(cell "p99.${what%%:*}" %.1f) | $(against "p99.${what%%:*}" p99.peace) |"
  done
  [ -z "$lost" ] || printf '\nRuns that lost something:\n\n%s' "$lost"
} | tee "$table"
