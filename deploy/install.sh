#!/usr/bin/env bash
# Installs what `make build` has built: programs, systemd units, example configurations, the sysctl file, documents. It builds
# nothing, so that root needs no compiler.
#
#   install.sh              into PREFIX (/usr/local) and ETC (/etc/halley), below DESTDIR when that is set
#   install.sh uninstall    removes it again, but for ETC
#
# A configuration that is there stays as it is. Nothing is started and no kernel setting changes; the end tells how.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}
built=${CARGO_TARGET_DIR:-target}/release
programs=(halley comet logic job loadgen)
units=(halley halley-comet halley-logic halley-job)
bin=$root$prefix/bin
unit_folder=$root$prefix/lib/systemd/system
share=$root$prefix/share/halley
doc=$root$prefix/share/doc/halley
etc=$root${ETC:-/etc/halley}

case ${1:-install} in
  uninstall)
    rm -f "${programs[@]/#/$bin/}"
    for unit in "${units[@]}"; do rm -f "$unit_folder/$unit.service"; done
    rm -rf "$share" "$doc"
    [ ! -d "$etc" ] || echo "left: $etc"
    exit
    ;;
  install) ;;
  *) sed -n '4,5s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac

# All that a document leads to, by links of links too, each as a path from here: so no installed link leads nowhere.
documents() {
  local -A seen=()
  local queue=("$@") file link
  while [ ${#queue[@]} -gt 0 ]; do
    file=${queue[0]} queue=("${queue[@]:1}")
    [ -z "${seen[$file]:-}" ] || continue
    seen[$file]=1
    if [ -d "$file" ]; then
      queue+=("$file"/*.md)
      continue
    fi
    echo "$file"
    [ "${file##*.}" = md ] || continue
    while read -r link; do
      queue+=("$(realpath -m --relative-to=. "$(dirname "$file")/$link")")
    done < <(grep -oE '\]\([^)]+\)|src(set)?="[^"]+"' "$file" | sed -E 's/^[^("]*[("]//; s/[)"]$//; s/#.*//' | grep -vE '^$|^[a-z]+:')
  done
}

for program in "${programs[@]}"; do
  [ -x "$built/$program" ] || { echo "install: no $built/$program: run make build first, as yourself" >&2; exit 1; }
done
install -d "$bin" "$unit_folder" "$share/config" "$doc" "$etc"
install -m 755 "${programs[@]/#/$built/}" "$bin"
for unit in "${units[@]}"; do
  # The units say where programs and configurations are.
  sed "s:/usr/local/:$prefix/:g; s:/etc/halley/:${ETC:-/etc/halley}/:g" "deploy/systemd/$unit.service" >"$unit_folder/$unit.service"
  chmod 644 "$unit_folder/$unit.service"
done
install -m 644 deploy/config/*.toml "$share/config"
install -m 644 tuning/99-halley.conf deploy/seccomp-io-uring.json "$share"
# As in the repository, so that what a document names is where it says.
for file in $(documents README.md README.zh-CN.md CHANGELOG.md) tuning/99-halley.conf deploy/seccomp-io-uring.json \
  deploy/compose.yaml deploy/kafka.env deploy/Dockerfile examples/browser.html examples/subscribe.{go,mjs,py}; do
  install -D -m 644 "$file" "$doc/$file"
done
for file in examples/push.sh tuning/check.sh; do
  install -D -m 755 "$file" "$doc/$file"
done
for config in deploy/config/*.toml; do
  # The services have a user of their own each time they start, so all may read these: secrets belong into .env files.
  [ -e "$etc/$(basename "$config")" ] || install -m 644 "$config" "$etc"
done
[ -z "$root" ] || exit 0
cat <<END
installed in $prefix and $etc. Next:
  read $prefix/share/doc/halley/docs/OPERATIONS.md; examples are beside it
  edit $etc/halley.toml, or comet.toml, logic.toml and job.toml
  cp $share/99-halley.conf /etc/sysctl.d/ && sysctl --system
  systemctl daemon-reload && systemctl enable --now halley      # or halley-comet halley-logic halley-job
END
