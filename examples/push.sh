#!/usr/bin/env bash
# Pushes a text over the HTTP API.
#
#   push.sh room live://1000 TEXT    everybody in a room
#   push.sh mid 1 TEXT               all devices of a user
#   push.sh key phone-1 TEXT         one device
#   push.sh all TEXT                 everybody
#   push.sh online live://1000       how many are in a room
#
# HALLEY (http://127.0.0.1:3111), TOKEN (one of logic.push.tokens, where there are some), OPERATION (1000; clients get
# what they accept, rooms get everything). Names go into the URL as they are: encode what is not allowed there.
set -euo pipefail
url=${HALLEY:-http://127.0.0.1:3111} operation=${OPERATION:-1000}
usage() { sed -n '4,8s/^# \{0,1\}//p' "$0" >&2; exit 64; }
# call PATH?QUERY [TEXT]: a POST when there is a text. Halley says in JSON what went wrong, so the answer is always shown.
call() {
  local arguments=(--silent --show-error --fail-with-body)
  [ -z "${TOKEN:-}" ] || arguments+=(--header "Authorization: Bearer $TOKEN")
  [ $# -lt 2 ] || arguments+=(--data-raw "$2")
  curl "${arguments[@]}" "$url$1"
  echo
}
# A room is type://name; the API has the two apart.
room_type() { [[ $1 == *://* ]] || { echo "push.sh: a room is type://name, such as live://1000" >&2; exit 64; }; echo "${1%%://*}"; }

case "${1:-} $#" in
  'room 3') type=$(room_type "$2"); call "/goim/push/room?operation=$operation&type=$type&room=${2#*://}" "$3" ;;
  'mid 3') call "/goim/push/mids?operation=$operation&mids=$2" "$3" ;;
  'key 3') call "/goim/push/keys?operation=$operation&keys=$2" "$3" ;;
  'all 2') call "/goim/push/all?operation=$operation" "$2" ;;
  'online 2') type=$(room_type "$2"); call "/goim/online/room?type=$type&rooms=${2#*://}" ;;
  *) usage ;;
esac
