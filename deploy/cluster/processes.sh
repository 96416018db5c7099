#!/usr/bin/env bash
# Functions for processes in the background: each has DIR/NAME.log and, while it runs, DIR/NAME.pid. To be sourced.

# A pid file holds the pid and the time the process started: pids are used again.
started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# The pid of DIR/NAME, when that process lives.
pid_of() {
  local pid at
  [ -f "$1/$2.pid" ] && read -r pid at <"$1/$2.pid" && [ -n "$at" ] && [ "$(started_at "$pid")" = "$at" ] && echo "$pid"
}

# start DIR NAME COMMAND...: runs it in the background.
start() {
  local dir=$1 name=$2 pid
  shift 2
  mkdir -p "$dir"
  setsid "$@" >"$dir/$name.log" 2>&1 </dev/null &
  pid=$!
  echo "$pid $(started_at "$pid")" >"$dir/$name.pid"
}

# until_ready DIR NAME SECONDS COMMAND...: waits until COMMAND succeeds; says what the log ends with when NAME does not
# live that long.
until_ready() {
  local dir=$1 name=$2 end=$((SECONDS + $3))
  shift 3
  until "$@" >/dev/null 2>&1; do
    if ! pid_of "$dir" "$name" >/dev/null; then
      rm -f "$dir/$name.pid"
      echo "$name ended before it was ready; the end of $dir/$name.log:" >&2
      tail -n 5 "$dir/$name.log" >&2
      return 1
    fi
    [ "$SECONDS" -lt "$end" ] || return 2
    sleep 0.1
  done
}

# stop DIR NAME: TERM, and KILL after 40 s.
stop() {
  local dir=$1 name=$2 pid n=0
  if ! pid=$(pid_of "$dir" "$name"); then
    rm -f "$dir/$name.pid"
    return 1
  fi
  kill -TERM "$pid" 2>/dev/null || true
  while pid_of "$dir" "$name" >/dev/null; do
    n=$((n + 1))
    [ "$n" -ne 400 ] || kill -KILL "$pid" 2>/dev/null || true
    sleep 0.1
  done
  rm -f "$dir/$name.pid"
}

# readiness URL: "ready", or the first reason why not.
readiness() {
  local answer
  if answer=$(curl -sS -m 2 "$1/readyz" 2>&1); then
    [ "$answer" = ok ] && echo ready || echo "${answer%%$'\n'*}"
  else
    echo "no answer"
  fi
}

is_ready() { [ "$(readiness "$1")" = ready ]; }
