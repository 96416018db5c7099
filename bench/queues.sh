#!/usr/bin/env bash
# Pushes a second per core of logic and job, through each queue: goim's Redis list, Redis streams, Kafka. Release binaries
# must be there (`make build`).
#
#   bench/queues.sh [OUTFILE]      default: bench/reports/<date>-<host>/queues.md
#
# One Redis, etcd, Kafka, comet, logic and job on loopback, all on all cores. 100 clients; pushes of 60 B to one device each, at
# fixed rates, SECONDS_EACH (10) long, ROUNDS (3) times. CPU is the kernel's account of the whole process; a push costs
# that divided by the pushes accepted, and a core could do a million µs of it a second. The table has medians and ranges.
# A run in which anything was lost, doubled or out of order is told.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/cluster/processes.sh
. deploy/cluster/processes.sh
ROUNDS=${ROUNDS:-3}
SECONDS_EACH=${SECONDS_EACH:-10}
RATES=${RATES:-1000 5000}
QUEUES=${QUEUES:-list stream kafka}
host=$(hostname | tr -c 'a-zA-Z0-9\n' '-')
out=${1:-bench/reports/$(date +%F)-$host/queues.md}
bin=${CARGO_TARGET_DIR:-target}/release
dir=$(mktemp -d)
REDIS=26379 ETCD=22379 KAFKA=29092 LOGIC=23111
mkdir -p "$(dirname "$out")"
for program in comet logic job loadgen; do
  [ -x "$bin/$program" ] || { echo "queues: no $bin/$program: run make build" >&2; exit 1; }
done

note() { printf '%s\n' "$*" >&2; }
names=()
cleanup() {
  local name
  # Those that have ended are passed over.
  for name in "${names[@]}"; do stop "$dir" "$name" >/dev/null || true; done
  [ ! -d "$dir/kafka" ] || tests/services/kafka.sh stop "$dir/kafka" >/dev/null || true
  rm -rf "$dir"
}
trap cleanup EXIT
# begin NAME COMMAND...: starts and remembers it.
begin() {
  names=("$1" "${names[@]}")
  start "$dir" "$@"
}
end() {
  local name
  for name in "$@"; do
    stop "$dir" "$name" >/dev/null
  done
}
ticks=$(getconf CLK_TCK)
# user and system time of a whole process, µs
cpu() { awk -v t="$ticks" '{ sub(/.*\) /, ""); print ($12 + $13) * 1000000 / t }' "/proc/$(pid_of "$dir" "$1")/stat"; }

mkdir -p "$dir/redis-data"
begin redis redis-server --port $REDIS --bind 127.0.0.1 --save "" --appendonly no --dir "$dir/redis-data"
begin etcd etcd --data-dir "$dir/etcd-data" --log-level warn \
  --listen-client-urls "http://127.0.0.1:$ETCD" --advertise-client-urls "http://127.0.0.1:$ETCD" \
  --listen-peer-urls "http://127.0.0.1:$((ETCD + 1))" --initial-advertise-peer-urls "http://127.0.0.1:$((ETCD + 1))" \
  --initial-cluster "default=http://127.0.0.1:$((ETCD + 1))"
until_ready "$dir" redis 20 redis-cli -p $REDIS ping
until_ready "$dir" etcd 20 curl -sf -m 2 "http://127.0.0.1:$ETCD/health"
if [[ " $QUEUES " = *" kafka "* ]]; then
  mkdir -p "$dir/kafka"
  note "$(tests/services/kafka.sh start "$dir/kafka" $KAFKA | tail -1)"
fi

cat >"$dir/add.py" <<'PY'
import json, sys
rows, queue, rate, report, costs = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.load(open(sys.argv[4])), sys.argv[5:]
with open(rows, "a") as file:
    # Where it lay is nobody's business.
    report["command"] = [word.rsplit("/", 1)[-1] for word in report["command"][:1]] + report["command"][1:-2]
    json.dump({"queue": queue, "rate": rate, "report": report, "cpu_us": dict(zip(("logic", "job", "redis"), map(float, costs)))}, file)
    file.write("\n")
PY

common=(--set "discovery.nodes=127.0.0.1:$ETCD" --set log.level=warn)
for queue in $QUEUES; do
  settings=("${common[@]}" --set "redis.addr=127.0.0.1:$REDIS" --set "kafka.brokers=127.0.0.1:$KAFKA" --set "kafka.topic=bench-$queue")
  if [ "$queue" = kafka ]; then
    settings+=(--set consume.kafkaEnable=true --set consume.redisEnable=false)
  else
    settings+=(--set consume.redisEnable=true --set consume.kafkaEnable=false --set "redis.mode=$queue")
  fi
  begin logic "$bin/logic" -host 127.0.0.1 "${settings[@]}" --set "httpServer.addr=127.0.0.1:$LOGIC" --set rpcServer.addr=127.0.0.1:23119
  begin job "$bin/job" -host 127.0.0.1 "${settings[@]}" --set admin.addr=127.0.0.1:23112
  begin comet "$bin/comet" -host 127.0.0.1 "${common[@]}" --set tcp.bind=127.0.0.1:23101 --set websocket.bind=127.0.0.1:23102 \
    --set rpcServer.addr=127.0.0.1:23109 --set admin.addr=127.0.0.1:23110
  for port in $LOGIC 23112 23110; do until_ready "$dir" comet 30 curl -sf -m 2 "http://127.0.0.1:$port/readyz"; done
  for round in $(seq "$ROUNDS"); do
    for rate in $RATES; do
      before=("$(cpu logic)" "$(cpu job)" "$(cpu redis)")
      "$bin/loadgen" 9999 100 127.0.0.1:23101 --room '' --push "http://127.0.0.1:$LOGIC" --kind keys --rate "$rate" \
        --duration "${SECONDS_EACH}s" --json "$dir/report" >"$dir/loadgen.log" 2>&1 || { note "queues: loadgen failed:"; tail -30 "$dir/loadgen.log" >&2; }
      after=("$(cpu logic)" "$(cpu job)" "$(cpu redis)")
      costs=()
      for n in 0 1 2; do costs+=("$(echo "${after[$n]} ${before[$n]}" | awk '{ print $1 - $2 }')"); done
      python3 "$dir/add.py" "$dir/rows" "$queue" "$rate" "$dir/report" "${costs[@]}"
      note "  $queue, round $round, $rate/s: logic, job, redis CPU ${costs[*]} µs"
    done
  done
  end comet job logic
done
cp "$dir/rows" "${out%.md}.jsonl"
cat >"$dir/table.py" <<'PY'
import json, platform, statistics, sys
rows = [json.loads(line) for line in open(sys.argv[1])]

def span(values, shown):
    return f"{shown(statistics.median(values))} ({shown(min(values))} to {shown(max(values))})"

print(f"""# Pushes a second per core of logic and job

`bench/queues.sh`, {rows[0]["report"]["version"]}, kernel {platform.release()}. One Redis, etcd, Kafka, comet, logic and job share the
machine with the load; pushes of 60 B to one of 100 devices each. *A second per core* is a million µs divided by the CPU
a push costs that program, at that rate; the faster pushes come, the more of them share a system call. Median (range) of the runs.

| queue | pushes a second asked | logic, pushes a second per core | job | Redis, µs a push | p50, ms | p99, ms | lost, doubled, out of order |
| --- | --- | --- | --- | --- | --- | --- | --- |""")
for queue in dict.fromkeys(row["queue"] for row in rows):
    for rate in sorted({row["rate"] for row in rows if row["queue"] == queue}):
        runs = [row for row in rows if (row["queue"], row["rate"]) == (queue, rate)]
        accepted = [run["report"]["pushes"]["accepted"] for run in runs]
        per_core = lambda who: span([1e6 * n / run["cpu_us"][who] for n, run in zip(accepted, runs)], lambda x: f"{x:,.0f}")
        redis = span([run["cpu_us"]["redis"] / n for n, run in zip(accepted, runs)], lambda x: f"{x:.0f}")
        bad = [sum(run["report"]["pushes"][what] for run in runs) for what in ("lost", "duplicated", "out_of_order")]
        latencies = [run["report"]["pushes"]["latency"] for run in runs]
        def late(which):
            known = [run[which] / 1000 for run in latencies if run and run[which] is not None]
            return span(known, lambda x: f"{x:.1f}") if known else "not told"
        print(f"| {queue} | {rate:,} | {per_core('logic')} | {per_core('job')} | {redis} | {late('p50_us')} | {late('p99_us')} | {', '.join(map(str, bad))} |")
PY
python3 "$dir/table.py" "$dir/rows" >"$out"
cat "$out"
