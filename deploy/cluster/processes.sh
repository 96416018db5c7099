#!/usr/bin/env bash
# Functions for processes in the background: each has DIR/NAME.log and, while it runs, DIR/NAME.pid. To be sourced.

# When a process started, nothing when it is dead. A pid file holds the pid and this: pids are used again. One that is dead
# and not yet waited for is dead (state Z, or X on its way out).
started_at() {
  local stat fields
  read -r stat 2>/dev/null <"/proc/$1/stat" || return 0
  read -ra fields <<<"${stat##*) }"
  case ${fields[0]} in Z | X) ;; *) echo "${fields[19]}" ;; esac
}

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
