# A fresh server under measurement, and what is asked of it; for bench/measure.sh and bench/runtimes.sh to source. They set
# out, halley, loadgen, SERVER_CPUS and CLIENT_CPUS.
# shellcheck shell=bash disable=SC2154

for tool in curl awk taskset python3; do
  command -v $tool >/dev/null || { echo "$0: $tool is missing" >&2; exit 1; }
done
if ! [ -x "$halley" ] || ! [ -x "$loadgen" ]; then
  echo "$0: no release binaries" >&2
  exit 1
fi

server=''
stop() {
  [ -n "$server" ] || return 0
  kill -TERM "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=''
}
trap stop EXIT

# start [--set …]: a fresh server, ready
start() {
  taskset -c "$SERVER_CPUS" "$halley" "$@" >"$out/server.log" 2>&1 &
  server=$!
  local n=0
  until curl -fs http://127.0.0.1:3111/readyz >/dev/null 2>&1; do
    n=$((n + 1))
    if [ $n -gt 100 ] || ! kill -0 "$server" 2>/dev/null; then
      echo "$0: the server did not start:" >&2; cat "$out/server.log" >&2; exit 1
    fi
    sleep 0.1
  done
}
ticks=$(getconf CLK_TCK)
# user and system time of the whole server process, microseconds
cpu() { awk -v t="$ticks" '{ sub(/.*\) /, ""); print ($12 + $13) * 1000000 / t }' "/proc/$server/stat"; }
anon() { awk '/RssAnon/ { print $2 * 1024 }' "/proc/$server/status"; }
online() { curl -fs http://127.0.0.1:3111/goim/online/total | sed 's/.*"conn_count":\([0-9]*\).*/\1/'; }
until_online() {
  local n=0
  until [ "$(online)" = "$1" ]; do
    n=$((n + 1)); [ $n -lt 600 ] || { echo "$0: never $1 clients" >&2; exit 1; }
    sleep 0.1
  done
}
# in the foreground; in the background taskset is called itself, so that $! is the generator
load() { taskset -c "$CLIENT_CPUS" "$loadgen" "$@"; }
# field FILE NAME.NAME: one number of loadgen's JSON report; "none" where it reported none
field() {
  python3 -c 'import json, sys
value = json.load(open(sys.argv[1]))
for name in sys.argv[2].split("."):
    value = value.get(name) if isinstance(value, dict) else None
print("none" if value is None else value)' "$1" "$2"
}
# of the numbers among its arguments; "none" when there is none
median() { printf '%s\n' "$@" | grep -v none | sort -n | awk '{ a[NR] = $1 } END { if (!NR) print "none"; else print (NR % 2) ? a[(NR + 1) / 2] : (a[NR / 2] + a[NR / 2 + 1]) / 2 }'; }
note() { printf '%s\n' "$*" >&2; }

declare -A all
record() { all[$1]="${all[$1]:-} $2"; note "  $1 = $2"; }
