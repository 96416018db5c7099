#!/usr/bin/env bash
# Compares 99-halley.conf with this machine: a table of key, value here, value wanted. It fails when a key does not exist
# on this kernel (those marked by a minus need not), when a line is no setting, or when one has no reason above it. Changes
# nothing.
#
#   tuning/check.sh            the table
#   tuning/check.sh --quiet    only what is wrong, for `make lint`
set -euo pipefail
cd "$(dirname "$0")"
quiet=${1:-}
wrong=0
complain() { echo "tuning/99-halley.conf:$number: $*" >&2; wrong=1; }

[ "$quiet" ] || printf '%-36s %-16s %s\n' key here wanted
number=0 before=''
while IFS= read -r line; do
  number=$((number + 1))
  if [[ $line =~ ^(-?)([a-z][a-z0-9._-]*)\ =\ ([0-9][0-9\ ]*)$ ]]; then
    optional=${BASH_REMATCH[1]} key=${BASH_REMATCH[2]} wanted=${BASH_REMATCH[3]}
    file=/proc/sys/${key//.//}
    [[ $before == '# '* ]] || complain "$key has no reason above it"
    if [ -e "$file" ]; then
      here=$(tr -s '\t' ' ' <"$file")
      [ "$quiet" ] || printf '%-36s %-16s %s\n' "$key" "$here" "$([ "$here" = "$wanted" ] && echo = || echo "$wanted")"
    elif [[ $key == net.core.* ]] && [ ! -e /proc/sys/net/core/netdev_budget ]; then
      # A container with a network of its own does not see the host's settings.
      [ "$quiet" ] || printf '%-36s %-16s %s\n' "$key" "(the host's)" "$wanted"
    elif [ "$optional" ]; then
      [ "$quiet" ] || printf '%-36s %-16s %s\n' "$key" '(not here)' "$wanted"
    else
      complain "this kernel ($(uname -r)) has no $key"
    fi
  elif [ -n "$line" ] && [[ $line != '#'* ]]; then
    complain "not a setting: $line"
  fi
  before=$line
done <99-halley.conf
exit $wrong
