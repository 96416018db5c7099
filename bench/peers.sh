#!/usr/bin/env bash
# Installs the peers that `make compare` measures Halley beside, from Debian's packages: nginx with nchan, mosquitto,
# nats-server. Services that an installation starts are stopped again: the comparison starts its own.
set -euo pipefail
cd "$(dirname "$0")/.."
missing=()
[ -e /usr/lib/nginx/modules/ngx_nchan_module.so ] || missing+=(nginx libnginx-mod-nchan)
[ -e /usr/sbin/mosquitto ] || missing+=(mosquitto)
[ -e /usr/sbin/nats-server ] || command -v nats-server >/dev/null || missing+=(nats-server)
command -v taskset >/dev/null || missing+=(util-linux)
[ ${#missing[@]} -gt 0 ] || exit 0
tests/apt.sh "${missing[@]}"
[ ! -d /run/systemd/system ] || for service in "${missing[@]}"; do
  systemctl disable --quiet --now "$service" 2>/dev/null || true # not every package is a service
done
