#!/usr/bin/env bash
# Installs Debian packages as root or by sudo, for the scripts that know what is missing; without apt it says what to
# install. All it prints goes to standard error.
#
#   tests/apt.sh PACKAGE...
set -euo pipefail
exec >&2
command -v apt-get >/dev/null || { echo "please install: $* (names of Debian's packages)"; exit 1; }
sudo=''
[ "$(id -u)" -eq 0 ] || sudo=sudo
echo "installing $*"
# Waits for another apt, up to two minutes.
$sudo apt-get -o DPkg::Lock::Timeout=120 update -q
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -q -y --no-install-recommends "$@"
