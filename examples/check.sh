#!/usr/bin/env bash
# Runs every example against a gateway of its own: each has to log in, count the people of its room, print a push to the
# room and one to its user (both made with push.sh), and, when it is kicked, print the reason and end with an error.
#
# Needs `cargo build` (the program is looked for in debug, then in release; HALLEY_BIN names another). An example whose
# interpreter is missing is told and left out; with CI=true that is a failure. Ends only what it has started, by pid.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
die() { echo "examples: $*" >&2; exit 1; }
halley=${HALLEY_BIN:-}
for candidate in "$target/debug/halley" "$target/release/halley"; do
  [ -n "$halley" ] || [ ! -x "$candidate" ] || halley=$candidate
done
[ -n "$halley" ] || die "no halley in $target/debug or $target/release: run cargo build"

work=$(mktemp -d) pids=()
cleanup() {
  local pid
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap cleanup EXIT

# eventually WHAT FILE PATTERN: waits until a line of the file is like the pattern.
eventually() {
  local n=0
  until grep -qE -- "$3" "$2" 2>/dev/null; do
    n=$((n + 1))
    [ $n -lt 300 ] || { cat "$2" >&2; die "not within 30 s: $1"; }
    sleep 0.1
  done
}

"$halley" --set comet.tcp.bind=127.0.0.1:0 --set comet.websocket.bind=127.0.0.1:0 --set comet.rpcServer.addr=127.0.0.1:0 \
  --set logic.httpServer.addr=127.0.0.1:0 --set logic.rpcServer.addr=127.0.0.1:0 --set logic.push.tokens=sesame \
  --set comet.drain.spread=0s 2>"$work/halley" &
pids+=($!)
eventually 'the gateway starts' "$work/halley" 'open files'
tcp=$(sed -nE 's/.*clients, TCP +//p' "$work/halley")
websocket=$(sed -nE 's/.*clients, WebSocket +//p' "$work/halley")
HALLEY=$(sed -nE 's/.*HTTP API +//p' "$work/halley")
export HALLEY TOKEN=sesame

checked=0 missing=0
# check NAME ROOM MID COMMAND...: one example as a client
check() {
  local name=$1 room=$2 mid=$3 out=$work/$1 n=0 pid
  shift 3
  "$@" >"$out" 2>&1 &
  pid=$!
  pids+=("$pid")
  eventually "$name logs in" "$out" "^logged in as $mid, in $room\$"
  eventually "$name counts the people of its room" "$out" '^people in the room: 1$'
  examples/push.sh room "$room" "to the room of $name" >/dev/null
  eventually "$name prints a push to its room" "$out" "^1000 to the room of $name\$"
  examples/push.sh mid "$mid" "@ ü to $name" >/dev/null
  eventually "$name prints a push to its user" "$out" "^1000 @ ü to $name\$"
  curl -fsS -H "Authorization: Bearer $TOKEN" -X POST "$HALLEY/halley/kick/mids?mids=$mid&reason=enough" >/dev/null
  eventually "$name prints why it was closed" "$out" 'enough'
  while kill -0 "$pid" 2>/dev/null; do
    n=$((n + 1))
    [ $n -lt 300 ] || die "$name did not end within 30 s of its connection"
    sleep 0.1
  done
  ! wait "$pid" || die "$name ended with 0 although its connection was lost"
  checked=$((checked + 1))
}
# need TOOL EXAMPLE: whether the tool is there
need() {
  command -v "$1" >/dev/null && return
  [ "${CI:-}" != true ] || die "$1 is missing, and examples/$2 has to be checked in CI"
  echo "examples: no $1: $2 is not checked" >&2
  missing=$((missing + 1))
  return 1
}

# Whatever ends an example, its reason for people comes first, so wrong names are refused by push.sh itself.
! examples/push.sh room 1000 hello 2>"$work/usage" || die "push.sh took a room without a type"
grep -q 'live://1000' "$work/usage" || die "push.sh does not say how a room is written"
! TOKEN=wrong examples/push.sh all hello >"$work/usage" 2>&1 || die "push.sh ended with 0 though its token is wrong"

# A gateway that is not there is told in a line or two, by whatever language.
refused() {
  local name=$1
  shift
  ! "$@" 127.0.0.1:1 >"$work/refused" 2>&1 || die "$name ended with 0 without a gateway"
  [ "$(wc -l <"$work/refused")" -le 2 ] && grep -qi 'refused' "$work/refused" || die "$name, refused: $(cat "$work/refused")"
}

if need node subscribe.mjs; then
  refused subscribe.mjs node examples/subscribe.mjs
  check subscribe.mjs live://1 1 node examples/subscribe.mjs "$tcp" live://1 1
fi
if need python3 subscribe.py; then
  refused subscribe.py python3 examples/subscribe.py
  check subscribe.py live://2 2 python3 examples/subscribe.py "$tcp" live://2 2
fi
if need go subscribe.go; then
  # Built first: ending `go run` would not end the program.
  go build -o "$work/subscribe" examples/subscribe.go
  refused subscribe.go "$work/subscribe"
  check subscribe.go live://3 3 "$work/subscribe" "$tcp" live://3 3
fi
chromium=${CHROMIUM:-/usr/bin/chromium}
if need node browser.html && need python3 browser.html && need "$chromium" browser.html; then
  python3 -u -m http.server 0 --bind 127.0.0.1 >"$work/files" 2>/dev/null &
  pids+=($!)
  eventually 'the files are served' "$work/files" 'port [0-9]+'
  files=$(sed -nE 's/.* port ([0-9]+) .*/\1/p' "$work/files")
  # The page in a browser as a program that prints its lines and ends when it is closed for good.
  cat >"$work/browser.mjs" <<'END'
const { Browser, sleep } = await import(process.argv[2]);
const browser = new Browser();
try {
  const page = await browser.page(process.argv[3]);
  for (let printed = 0, text = ''; !/^closed /m.test(text); await sleep(50)) {
    text = await page.text('#log');
    process.stdout.write(text.slice(printed));
    printed = text.length;
  }
} finally {
  await browser.close();
}
process.exitCode = 1;
END
  check browser.html live://4 4 node "$work/browser.mjs" "$PWD/page/tests/chromium.js" \
    "http://127.0.0.1:$files/examples/browser.html?ws=$websocket&room=live://4&mid=4"
fi
echo "examples: $checked of $((checked + missing)) checked"
