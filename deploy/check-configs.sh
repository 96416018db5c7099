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

# Variables that the program is asked with, as NAME=VALUE.
environment=()

# accepts PROGRAM ARGUMENTS...: asks the program that was built last.
accepts() {
  local program=$1 built
  shift
  built=$(find "$target/debug/$program" "$target/release/$program" -prune -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -1 | cut -d' ' -f2-)
  [ -n "$built" ] || { echo "deploy: no $program in $target: run make build" >&2; exit 1; }
  said=$(env "${environment[@]}" "$built" "$@" --check-config 2>&1)
}

export HALLEY_PUSH_TOKEN=sesame
for program in halley comet logic job; do
  accepts $program --config config/$program.toml || complain "config/$program.toml: $said"
done
# halley.toml as its comments say for others to get in.
sed 's/127\.0\.0\.1/0.0.0.0/; s/^# \(\[\|allowInsecure\|tokens\)/\1/' config/halley.toml >"$work/open.toml"
accepts halley --config "$work/open.toml" || complain "config/halley.toml, opened: $said"

# listed PROGRAM KEY ITEM: what $work/compose lists under the program's KEY, one a line; ITEM is how a line begins.
listed() {
  awk -v service="  $1:" -v key="    $2:" -v item="$3" '
    /^  [a-z]/ { here = $0 == service }
    $0 !~ item { list = 0 }
    here && $0 == key { list = 1; next }
    list { sub(/^ +(- )?/, ""); sub(/: /, "="); sub(/=""$/, "="); gsub(/^["\x27]|["\x27]$/, ""); print }' "$work/compose"
}

# as_composed PROGRAM: asks it as $work/compose would start it.
as_composed() {
  local words
  mapfile -t words < <(listed "$1" command '^    +- ')
  mapfile -t environment < <(listed "$1" environment '^      [A-Z_]+: ')
  [ "${words[0]:-}" = "$1" ] || { said="$1 is not started by its name"; return 1; }
  accepts "${words[@]}"
}
: >"$work/none.env"
for settings in HALLEY_HOST=127.0.0.1 'HALLEY_HOST=10.0.0.7 HALLEY_PUSH_TOKENS=sesame,second HALLEY_ALLOW_INSECURE=true'; do
  for queue in "$work/none.env" kafka.env; do
    # shellcheck disable=SC2086
    env $settings "${compose[@]}" -f compose.yaml --env-file "$queue" config >"$work/compose"
    for program in comet logic job; do
      as_composed $program || complain "compose.yaml, $settings, $(basename "$queue"): $said"
    done
    ! grep -q 'tokens=sesame' "$work/compose" || complain "compose.yaml: the tokens are among the arguments"
  done
done
exit $wrong
