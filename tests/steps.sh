#!/usr/bin/env bash
# Runs every step of `make test`, those behind a failed one too, and says at the end what failed, how many tests passed, and
# where the minutes went. What a step prints is kept in target/test/STEP.log as well. Exits with 1 when a step failed.
#
#   tests/steps.sh [STEP...]       only these, in the order of the list below
set -uo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
logs=$target/test
mkdir -p "$logs"
make=(make --no-print-directory)
names=() results=() seconds=()

# step NAME COMMAND...: one step, unless others were asked for.
wanted=("$@")
step() {
  local name=$1 status=0 start=$SECONDS
  shift
  [ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]} " == *" $name "* ]] || return 0
  printf '\n==> %s: %s\n' "$name" "$*"
  "$@" 2>&1 | tee "$logs/$name.log" || status=$?
  names+=("$name") results+=("$status") seconds+=($((SECONDS - start)))
}

step lint "${make[@]}" --keep-going lint
step cargo "${make[@]}" cargo-test
step tls "${make[@]}" tls-test
step glommio "${make[@]}" glommio-test
step pairs "${make[@]}" pairs-test
step configs deploy/check-configs.sh
step examples examples/check.sh
step sim "${make[@]}" sim
step planted "${make[@]}" sim-test
step page node --test page/tests/*.test.js
step fuzz tests/fuzz/run.sh

[ ${#names[@]} -gt 0 ] || { echo "test: no step is named ${wanted[*]}" >&2; exit 1; }
failed=0
printf '\n%-10s %6s  %s\n' step min:s result
for at in "${!names[@]}"; do
  result=passed
  [ "${results[at]}" -eq 0 ] || { result="FAILED, status ${results[at]}" failed=$((failed + 1)); }
  printf '%-10s %3d:%02d  %s\n' "${names[at]}" $((seconds[at] / 60)) $((seconds[at] % 60)) "$result"
done
printf '%-10s %3d:%02d\n' all $((SECONDS / 60)) $((SECONDS % 60))

# What cargo's test programs counted, and the names of those that failed.
for name in "${names[@]}"; do
  awk -v step="$name" '
    /^test result: / { passed += $4; failed += $6; ignored += $8; programs++ }
    /^test .* FAILED$/ { print step ": " $2 " failed" }
    END { if (programs) printf "%s: %d passed, %d failed, %d ignored in %d programs\n", step, passed, failed, ignored, programs }
  ' "$logs/$name.log"
done
[ "$failed" -eq 0 ] || { echo "test: $failed of ${#names[@]} steps failed" >&2; exit 1; }
echo "test: all ${#names[@]} steps passed"
