#!/usr/bin/env bash
# Whether the programs take what deploy/ hands them: the example configurations, and the command lines of the compose file.
# Part of `make test`, after the build; prints only what is wrong.
#
# Needs docker-compose, and halley, comet, logic and job in target/debug or target/release.
set -euo pipefail
cd "$(dirname "$0")"
target=$(cd .. && realpath -m "${CARGO_TARGET_DIR:-target}")
wrong=0
complain() { echo "deploy: $*" >&2; wrong=1; }
compose=(docker compose)
"${compose[@]}" version >/dev/null 2>&1 || compose=(docker-compose)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# accepts PROGRAM ARGUMENTS...: asks the program that was built last.
accepts() {
  local program=$1 built
  shift
  built=$(find "$target/debug/$program" "$target/release/$program" -prune -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -1 | cut -d' ' -f2-)
  [ -n "$built" ] || { echo "deploy: no $program in $target: run make build" >&2; exit 1; }
  said=$("$built" "$@" --check-config 2>&1)
}

export HALLEY_PUSH_TOKEN=sesame
for program in halley comet logic job; do
  accepts $program --config config/$program.toml || complain "config/$program.toml: $said"
done
# halley.toml as its comments say for others to get in.
sed 's/127\.0\.0\.1/0.0.0.0/; s/^# \(\[\|allowInsecure\|tokens\)/\1/' config/halley.toml >"$work/open.toml"
accepts halley --config "$work/open.toml" || complain "config/halley.toml, opened: $said"

# arguments PROGRAM: its command line in $work/compose, a word a line.
arguments() {
  awk -v service="  $1:" '
    /^  [a-z]/ { here = $0 == service }
    !/^ +- / { list = 0 }
    here && /^    command:/ { list = 1; next }
    list { sub(/^ +- /, ""); gsub(/^["\x27]|["\x27]$/, ""); print }' "$work/compose"
}
: >"$work/none.env"
for settings in HALLEY_HOST=127.0.0.1 'HALLEY_HOST=10.0.0.7 HALLEY_PUSH_TOKENS=sesame,second HALLEY_ALLOW_INSECURE=true'; do
  for queue in "$work/none.env" kafka.env; do
    # shellcheck disable=SC2086
    env $settings "${compose[@]}" -f compose.yaml --env-file "$queue" config >"$work/compose"
    for program in comet logic job; do
      mapfile -t words < <(arguments $program)
      [ "${words[0]:-}" = $program ] || { complain "compose.yaml: $program is not started by its name"; continue; }
      accepts "${words[@]}" || complain "compose.yaml, $settings, $(basename "$queue"): $said"
    done
  done
done
exit $wrong
