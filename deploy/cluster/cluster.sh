#!/usr/bin/env bash
# A cluster on this machine, to look at: its own Redis, etcd (and Kafka), two comets, two logics, two jobs.
#   cluster.sh up        starts what does not run yet; KAFKA=1: pushes go through Kafka instead of Redis
#   cluster.sh status    what runs where, and whether it is ready
#   cluster.sh down      ends everything, by pid
# Everything of it is in target/cluster: a log and a pid file each, and the servers' data, which `up` begins anew.
# BIN: folder of comet, logic and job (target/release).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=deploy/cluster/processes.sh
. deploy/cluster/processes.sh
DIR=${CARGO_TARGET_DIR:-target}/cluster
BIN=${BIN:-${CARGO_TARGET_DIR:-target}/release}
REDIS=16379 ETCD=12379 KAFKA_PORT=19092

# name, port of /readyz, what else it listens on
PROGRAMS=(
  "logic-1 3111 gRPC_3119"
  "logic-2 3121 gRPC_3129"
  "job-1 3112 -"
  "job-2 3122 -"
  "comet-1 3110 TCP_3101,WS_3102,gRPC_3109"
  "comet-2 3210 TCP_3201,WS_3202,gRPC_3209"
)

uses_kafka() { [ -d "$DIR/kafka" ]; }

settings() {
  local broker="redisEnable=true"
  uses_kafka && broker="kafkaEnable=true"
  case $1 in
    logic-*)
      echo "--set discovery.nodes=127.0.0.1:$ETCD --set redis.addr=127.0.0.1:$REDIS --set kafka.brokers=127.0.0.1:$KAFKA_PORT" \
        "--set consume.$broker --set httpServer.addr=127.0.0.1:$2 --set rpcServer.addr=127.0.0.1:$(($2 + 8))"
      ;;
    job-*)
      echo "--set discovery.nodes=127.0.0.1:$ETCD --set redis.addr=127.0.0.1:$REDIS --set kafka.brokers=127.0.0.1:$KAFKA_PORT" \
        "--set consume.$broker --set admin.addr=127.0.0.1:$2"
      ;;
    comet-*)
      echo "--set discovery.nodes=127.0.0.1:$ETCD --set admin.addr=127.0.0.1:$2 --set rpcServer.addr=127.0.0.1:$(($2 - 1))" \
        "--set tcp.bind=127.0.0.1:$(($2 - 9)) --set websocket.bind=127.0.0.1:$(($2 - 8))"
      ;;
  esac
}

step() { printf 'cluster: %-9s %s\n' "$1" "$2"; }

# server NAME PORT READY COMMAND...: starts a server of its own.
server() {
  local name=$1 port=$2 ready=$3 pid
  shift 3
  if pid=$(pid_of "$DIR" "$name"); then
    step "$name" "runs already, pid $pid"
    return
  fi
  command -v "$1" >/dev/null || { echo "cluster: no $1 here: 'make deps' installs it" >&2; exit 1; }
  # Another of its kind would answer as ours, which is about to end.
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "cluster: no place for $name: something else listens on 127.0.0.1:$port" >&2
    exit 1
  fi
  start "$DIR" "$name" "$@"
  # shellcheck disable=SC2086
  until_ready "$DIR" "$name" 20 $ready || { echo "cluster: $name is not there, see $DIR/$name.log" >&2; exit 1; }
  step "$name" "127.0.0.1:$port"
}

up() {
  local row name port pid program failed=0
  for program in comet logic job; do
    [ -x "$BIN/$program" ] || { echo "cluster: no $BIN/$program: run 'make build', or 'make cluster-up'" >&2; exit 1; }
  done
  if [ -n "$(running)" ] && [ "${KAFKA:-}" = 1 ] && ! uses_kafka; then
    echo "cluster: it runs without Kafka: 'make cluster-down' first" >&2
    exit 1
  fi
  mkdir -p "$DIR"
  pid_of "$DIR" redis >/dev/null || rm -rf "$DIR/redis-data"
  mkdir -p "$DIR/redis-data"
  server redis "$REDIS" "redis-cli -p $REDIS ping" \
    redis-server --port "$REDIS" --bind 127.0.0.1 --save "" --appendonly no --dir "$DIR/redis-data"
  pid_of "$DIR" etcd >/dev/null || rm -rf "$DIR/etcd-data"
  server etcd "$ETCD" "curl -sf -m 2 http://127.0.0.1:$ETCD/health" \
    etcd --data-dir "$DIR/etcd-data" --log-level warn \
    --listen-client-urls "http://127.0.0.1:$ETCD" --advertise-client-urls "http://127.0.0.1:$ETCD" \
    --listen-peer-urls "http://127.0.0.1:$((ETCD + 1))" --initial-advertise-peer-urls "http://127.0.0.1:$((ETCD + 1))" \
    --initial-cluster "default=http://127.0.0.1:$((ETCD + 1))"
  if [ "${KAFKA:-}" = 1 ]; then
    mkdir -p "$DIR/kafka"
    step kafka "starting, some seconds"
    step kafka "$(tests/services/kafka.sh start "$DIR/kafka" "$KAFKA_PORT" | tail -1)"
  elif [ -z "$(running)" ]; then
    rm -rf "$DIR/kafka"
  fi
  for row in "${PROGRAMS[@]}"; do
    read -r name port _ <<<"$row"
    if pid=$(pid_of "$DIR" "$name"); then
      step "$name" "runs already, pid $pid"
      continue
    fi
    # shellcheck disable=SC2046
    start "$DIR" "$name" "$BIN/${name%-*}" $(settings "$name" "$port")
    step "$name" "pid $(pid_of "$DIR" "$name" || echo '?')"
  done
  for row in "${PROGRAMS[@]}"; do
    read -r name port _ <<<"$row"
    until_ready "$DIR" "$name" 30 is_ready "http://127.0.0.1:$port" || failed=1
  done
  echo
  status || failed=1
  [ "$failed" = 0 ] || exit 1
  cat <<'TRY'

Try it, in three terminals:
  loadgen sub --mid 1 --room live://1000 127.0.0.1:3101
  loadgen sub --mid 2 --room live://1000 127.0.0.1:3201
  loadgen push --room live://1000 hello
TRY
}

# Names of the programs that run.
running() {
  local row name
  for row in "${PROGRAMS[@]}"; do
    read -r name _ <<<"$row"
    pid_of "$DIR" "$name" >/dev/null && echo "$name"
  done
  return 0
}

# row NAME PID STATE PORTS: one line of the table, in 80 columns; why something is not ready stands below it.
row() {
  local state=$3 why=
  case $state in state | ready | runs | down | 'no answer') ;; *) state='not ready' why=$3 ;; esac
  printf '%-8s  %-8s  %-9s  %s\n' "$1" "$2" "$state" "$4"
  [ -z "$why" ] || printf '          %.69s\n' "$why"
}

status() {
  local program name port more pid ready bad=0
  row name pid state ports
  for program in "redis $REDIS" "etcd $ETCD"; do
    read -r name port <<<"$program"
    if pid=$(pid_of "$DIR" "$name"); then ready=runs; else pid=- ready=down bad=1; fi
    row "$name" "$pid" "$ready" "$port"
  done
  if uses_kafka; then
    if [ -f "$DIR/kafka/pid" ]; then pid=$(cat "$DIR/kafka/pid") ready=runs; else pid=- ready=down bad=1; fi
    row kafka "$pid" "$ready" "$KAFKA_PORT"
  fi
  for program in "${PROGRAMS[@]}"; do
    read -r name port more <<<"$program"
    if pid=$(pid_of "$DIR" "$name"); then ready=$(readiness "http://127.0.0.1:$port"); else pid=- ready=down; fi
    [ "$ready" = ready ] || bad=1
    more=${more//_/ }
    [ "$more" = - ] && more="HTTP $port" || more="HTTP $port, ${more//,/, }"
    row "$name" "$pid" "$ready" "$more"
  done
  echo "logs: $DIR/NAME.log"
  return "$bad"
}

down() {
  local name
  for name in comet-1 comet-2 logic-1 logic-2 job-1 job-2; do
    stop "$DIR" "$name" && step "$name" stopped
  done
  if [ -f "$DIR/kafka/pid" ]; then step kafka "$(tests/services/kafka.sh stop "$DIR/kafka")"; fi
  for name in etcd redis; do
    stop "$DIR" "$name" && step "$name" stopped
  done
  rm -rf "$DIR/kafka"
}

case ${1:-} in
  up) up ;;
  status) status ;;
  down) set +e; down; exit 0 ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
