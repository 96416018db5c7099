#!/usr/bin/env bash
# Installs the measuring tools named that are missing: perf, strace, valgrind (Debian packages) and inferno (cargo, into
# target/tools). Prints nothing when all is there.
#
#   tuning/deps.sh perf inferno
set -euo pipefail
cd "$(dirname "$0")/.."
INFERNO=0.12.8

missing=()
for tool in "$@"; do
  case $tool in
    perf) command -v perf >/dev/null || missing+=(linux-perf) ;;
    strace | valgrind) command -v $tool >/dev/null || missing+=($tool) ;;
    inferno)
      [ -x target/tools/bin/inferno-flamegraph ] && continue
      echo "deps: installing inferno $INFERNO into target/tools (a minute)" >&2
      # Its own target folder: it is no part of the workspace.
      env -u CARGO_TARGET_DIR "${CARGO:-cargo}" install --quiet --locked --no-default-features --features cli \
        --root target/tools --version $INFERNO inferno
      ;;
    *) echo "deps: no recipe for $tool" >&2; exit 2 ;;
  esac
done
[ ${#missing[@]} -eq 0 ] || tests/apt.sh "${missing[@]}"
