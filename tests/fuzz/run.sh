#!/usr/bin/env bash
# Fuzzes what outsiders can reach, guided by coverage, on the pinned stable toolchain.
#
#   tests/fuzz/run.sh                    every target for SECONDS_EACH seconds (15), JOBS at a time (2)
#   tests/fuzz/run.sh TARGET [FILE...]   one target; with files it runs just those, which replays a crash
#   tests/fuzz/run.sh minimise [TARGET...]  the committed corpora anew, from themselves and what was found since
#
# What is found on the way stays in target/fuzz; a finding is a file under target/fuzz/crashes and fails the run.
set -euo pipefail
cd "$(dirname "$0")/../.."

targets=(frame_decoder websocket_stream http_head proxy_header envelope config shard_events tls_record tls_connection)
triple=$(rustc -vV | sed -n 's/^host: //p')
programs=target/fuzz/build/$triple/debug

# The instrumentation that cargo-fuzz asks for, without its sanitizers: those need a nightly.
instrument=(
  -Cpasses=sancov-module
  -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares
)

build() {
  command -v c++ >/dev/null || { echo "fuzz: libFuzzer is C++: please install g++" >&2; exit 1; }
  # With --target the flags are for the targets alone, not for build scripts.
  RUSTFLAGS="${instrument[*]}" "${CARGO:-cargo}" build --quiet --manifest-path tests/fuzz/Cargo.toml \
    --target-dir target/fuzz/build --target "$triple" "$@"
}

# The longest input worth trying: frames end at 4 KiB, a head at 8 KiB, scripts and files say all in less.
longest() {
  case $1 in
    http_head) echo 9000 ;;
    websocket_stream | frame_decoder) echo 4500 ;;
    *) echo 1500 ;;
  esac
}

# A target with the limits of every run. Single allocations are bounded by the targets themselves (tests/fuzz/src/lib.rs).
# An input takes a few milliseconds at most; the limit is for those that never end. It is time on the wall, of which a
# crowded machine takes seconds for others.
fuzzer() {
  local target=$1 dictionary=tests/fuzz/dictionaries/$1.dict limits
  shift
  limits=(
    -timeout=10 -rss_limit_mb=512 -max_len="$(longest "$target")" -len_control=0
    -artifact_prefix="target/fuzz/crashes/$target/"
  )
  [ ! -e "$dictionary" ] || limits+=(-dict="$dictionary")
  mkdir -p "target/fuzz/corpus/$target" "target/fuzz/crashes/$target"
  "$programs/$target" "${limits[@]}" "$@"
}

# One target for a while: its closing line, or what it found and how to see it again.
fuzz() {
  local target=$1 log=target/fuzz/logs/$1.log finding
  if fuzzer "$target" -max_total_time="${SECONDS_EACH:-15}" "target/fuzz/corpus/$target" "tests/fuzz/corpus/$target" \
    >"$log" 2>&1 && grep -q 'Loaded 1 modules .* inline 8-bit counters' "$log"; then
    printf 'fuzz: %-16s %s; %s\n' "$target" "$(grep -o 'cov: .*' <(grep -w DONE "$log"))" "$(grep '^Done ' "$log")"
    return
  fi
  finding=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
  tail -40 "$log" >&2
  echo "fuzz: $target failed: ${finding:-no input was kept}; again: tests/fuzz/run.sh $target $finding" >&2
  return 1
}

# The fewest inputs that reach every edge.
minimise() {
  local target=$1 fewest=target/fuzz/minimised/$1
  rm -rf "$fewest"
  mkdir -p "$fewest" "tests/fuzz/corpus/$target"
  fuzzer "$target" -set_cover_merge=1 -use_counters=0 "$fewest" "tests/fuzz/corpus/$target" "target/fuzz/corpus/$target" \
    >"target/fuzz/logs/$target.log" 2>&1
  rm -rf "tests/fuzz/corpus/${target:?}"
  cp -r "$fewest" "tests/fuzz/corpus/$target"
  echo "fuzz: $target: $(find "tests/fuzz/corpus/$target" -type f | wc -l) inputs, $(cat "tests/fuzz/corpus/$target"/* | wc -c) bytes"
}

mkdir -p target/fuzz/logs
case ${1:-all} in
  all)
    build --bins
    printf '%s\n' "${targets[@]}" | xargs -P "${JOBS:-2}" -I '{}' tests/fuzz/run.sh --built '{}'
    ;;
  --built) fuzz "$2" ;;
  minimise)
    build --bins
    shift
    [ $# -gt 0 ] || set -- "${targets[@]}"
    for target in "$@"; do minimise "$target"; done
    ;;
  *)
    target=$1
    shift
    [[ " ${targets[*]} " == *" $target "* ]] || { echo "fuzz: the targets are ${targets[*]}" >&2; exit 1; }
    build --bin "$target"
    if [ $# -gt 0 ]; then fuzzer "$target" "$@"; else fuzz "$target"; fi
    ;;
esac
