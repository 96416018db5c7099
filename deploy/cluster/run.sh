#!/usr/bin/env bash
# One program of a cluster in the background, on the servers that its configuration names.
#   run.sh start comet|logic|job PORT [ARGUMENT...]   PORT is where it answers /readyz
#   run.sh stop                                       ends what was started, the gateways first
# Logs and pid files are in target/run. BIN: folder of the programs (target/release).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=deploy/cluster/processes.sh
. deploy/cluster/processes.sh
DIR=${CARGO_TARGET_DIR:-target}/run
BIN=${BIN:-${CARGO_TARGET_DIR:-target}/release}

case ${1:-} in
  start)
    name=$2 url=http://127.0.0.1:$3
    shift 3
    [ -x "$BIN/$name" ] || { echo "run: no $BIN/$name: run 'make build'" >&2; exit 1; }
    if pid=$(pid_of "$DIR" "$name"); then
      echo "$name runs already, pid $pid; log $DIR/$name.log"
      exit 0
    fi
    start "$DIR" "$name" "$BIN/$name" "$@"
    ended=0
    until_ready "$DIR" "$name" 10 is_ready "$url" || ended=$?
    [ "$ended" != 1 ] || exit 1
    state=ready
    [ "$ended" = 0 ] || state="not ready yet ($(readiness "$url"); it goes on trying)"
    echo "$name: $state, pid $(pid_of "$DIR" "$name"), $url/metrics, log $DIR/$name.log"
    ;;
  stop)
    for name in comet logic job; do
      if stop "$DIR" "$name"; then echo "$name stopped"; else echo "$name does not run"; fi
    done
    ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
