#!/usr/bin/env bash
# Runs the criterion benches, about two minutes after the build, and writes their medians as a table.
#
#   bench/micro/run.sh [OUTDIR]    default: bench/reports/<date>-<host>; writes micro.md there
#
# Everything runs on the cores CPUS (0), so that no bench moves while it is timed. To compare two commits, run it on
# both: criterion keeps the last figures in target/criterion and prints what changed.
set -euo pipefail
cd "$(dirname "$0")/../.."
CPUS=${CPUS:-0}
out=${1:-bench/reports/$(date +%F)-$(hostname | tr -c 'a-zA-Z0-9\n' '-')}
for tool in taskset python3; do command -v $tool >/dev/null || { echo "micro: $tool is missing" >&2; exit 1; }; done
export CRITERION_HOME=${CARGO_TARGET_DIR:-$PWD/target}/criterion
options=(--noplot --warm-up-time 0.5 --measurement-time 2 --sample-size 30)

"${CARGO:-cargo}" bench -p halley-micro --no-run
started=$(date +%s)
load=$(cut -d' ' -f1 /proc/loadavg)
taskset -c "$CPUS" "${CARGO:-cargo}" bench --quiet -p halley-micro -- "${options[@]}"
table=$(python3 bench/micro/report.py --newer-than "$started" --cpus "$CPUS" --load "$load" "$CRITERION_HOME")
mkdir -p "$out"
printf '%s\n' "$table" >"$out/micro.md"
echo "written: $out/micro.md" >&2
