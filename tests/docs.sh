#!/usr/bin/env bash
# Checks what the developer documents say of the tree, and prints each fault as FILE:LINE: WHAT. Exits with 1 when there is one.
#
# - Each path between backticks in docs/ARCHITECTURE.md and docs/design/*.md exists, and each `path::test` is a function of that
#   file (of a directory or a main.rs: of a file below). `::test` alone means the file named before it. A name without a folder
#   (`login.rs`), or a folder inside a folder (`ledger/`), is looked for in the folders that the same document names.
# - Relative links in docs/ and README.md lead to a file, and their #anchors to a heading.
# - docs/ARCHITECTURE.md has at most 350 lines.
set -uo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.." || exit 2

LINES_MAX=350
faults=0
fault() { # FILE LINE WHAT
  printf '%s:%s: %s\n' "$1" "$2" "$3"
  faults=$((faults + 1))
}

# Every text between backticks, outside of code blocks: LINE, TAB, TEXT.
ticked() {
  awk '
    /^[ \t]*```/ { fenced = !fenced; next }
    !fenced {
      rest = $0
      while (match(rest, /`[^`]+`/)) {
        print FNR "\t" substr(rest, RSTART + 1, RLENGTH - 2)
        rest = substr(rest, RSTART + RLENGTH)
      }
    }' "$1"
}

# Whether FILE (or a file below it, where it is a folder or a main.rs) has a function NAME.
declare -A functions=()
has_function() {
  local place=$1 name=$2
  if [ -f "$place" ] && [ -z "${functions[$place]+x}" ]; then
    functions[$place]=" $(grep -oE '\bfn [a-z0-9_]+' "$place" | cut -c4- | tr '\n' ' ')"
  fi
  [[ "${functions[$place]-}" == *" $name "* ]] && return
  case $place in
    */main.rs) place=${place%/main.rs} ;;
    *) [ -d "$place" ] || return 1 ;;
  esac
  grep -rqE --include='*.rs' "\bfn $name\b" "$place"
}

check_paths() {
  local file=$1 line text path name last='' folder found
  local -a folders=()
  local shape='^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*/?(::[a-z0-9_]+)?$'
  while IFS=$'\t' read -r line text; do
    [[ "$text" == */ && -d "$text" ]] && folders+=("${text%/}")
  done < <(ticked "$file")
  while IFS=$'\t' read -r line text; do
    if [[ "$text" =~ ^::[a-z0-9_]+$ ]]; then
      path='' name=${text#::}
    elif [[ "$text" =~ $shape ]]; then
      path=${text%%::*} name=''
      [[ "$text" == *::* ]] && name=${text#*::}
      case $path in
        */* | *.rs | *.lua | *.proto) ;;
        *) continue ;;
      esac
    else
      continue
    fi
    if [ -n "$path" ]; then
      found=''
      if [ -e "$path" ]; then
        found=$path
      elif [[ "$path" == *.rs || "$path" == *.lua || "$path" == *.proto || "$path" == */ ]]; then
        for folder in ${folders[@]+"${folders[@]}"}; do
          [ -e "$folder/$path" ] && found=$folder/$path && break
        done
      elif [ ! -e "${path%%/*}" ]; then
        continue # no path: text/html, goim.logic/prod/sh
      fi
      if [ -z "$found" ]; then
        fault "$file" "$line" "there is no $path"
        continue
      fi
      [[ "$found" == *.rs || -n "$name" ]] && last=$found
    fi
    [ -n "$name" ] || continue
    if [ -z "$last" ]; then
      fault "$file" "$line" "::$name: no file is named before it"
    elif ! has_function "$last" "$name"; then
      fault "$file" "$line" "there is no fn $name in $last"
    fi
  done < <(ticked "$file")
}

# The anchors of a document's headings, as GitHub makes them.
declare -A anchors=()
anchors_of() {
  [ -n "${anchors[$1]+x}" ] && return
  anchors[$1]=" $(awk '
    /^[ \t]*```/ { fenced = !fenced; next }
    !fenced && /^#+ / {
      sub(/^#+ +/, ""); sub(/[ \t]+#*$/, "")
      gsub(/\]\([^)]*\)/, "")
      $0 = tolower($0); gsub(/[^a-z0-9 _-]/, ""); gsub(/ /, "-")
      print seen[$0]++ ? $0 "-" seen[$0] - 1 : $0
    }' "$1" | tr '\n' ' ')"
}

check_links() {
  local file=$1 folder line target path anchor
  folder=$(dirname "$file")
  while IFS=$'\t' read -r line target; do
    case $target in
      *://* | mailto:*) continue ;;
    esac
    path=${target%%#*} anchor=''
    [[ "$target" == *'#'* ]] && anchor=${target#*#}
    if [ -z "$path" ]; then path=$file; else path=$folder/$path; fi
    if [ ! -e "$path" ]; then
      fault "$file" "$line" "the link $target leads nowhere"
    elif [ -n "$anchor" ] && [[ "$path" == *.md ]]; then
      anchors_of "$path"
      [[ "${anchors[$path]}" == *" $anchor "* ]] || fault "$file" "$line" "the link $target names no heading"
    fi
  done < <(awk '
    /^[ \t]*```/ { fenced = !fenced; next }
    !fenced {
      rest = $0; gsub(/`[^`]*`/, "", rest)
      while (match(rest, /\]\([^) ]+\)/)) {
        print FNR "\t" substr(rest, RSTART + 2, RLENGTH - 3)
        rest = substr(rest, RSTART + RLENGTH)
      }
    }' "$file")
}

for document in docs/ARCHITECTURE.md docs/design/*.md; do check_paths "$document"; done
for document in docs/*.md docs/*/*.md README.md; do check_links "$document"; done
lines=$(wc -l <docs/ARCHITECTURE.md)
[ "$lines" -le $LINES_MAX ] || fault docs/ARCHITECTURE.md "$lines" "$lines lines, at most $LINES_MAX are read at once"

[ "$faults" -eq 0 ]
