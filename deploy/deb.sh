#!/usr/bin/env bash
# Makes a Debian package of what `make build` has built: target/halley_VERSION_ARCH.deb, whose path it prints.
# Units are installed and not started; configurations in /etc/halley are conffiles, which an upgrade leaves alone.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

DESTDIR=$work PREFIX=/usr deploy/install.sh
strip --strip-debug "$work"/usr/bin/*
mkdir "$work/DEBIAN"
# The newest symbol of libc that the programs use is the oldest libc they run on.
libc=$(objdump -T "$work"/usr/bin/* | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -Vu | tail -1)
cat >"$work/DEBIAN/control" <<END
Package: halley
Version: $version
Architecture: $arch
Maintainer: The Halley authors <halley@localhost>
Depends: libc6 (>= $libc), libgcc-s1
Section: net
Priority: optional
Description: push gateway that speaks goim's protocol
 Keeps many client connections open and delivers messages to them the moment
 they are posted. One process (halley), or a cluster of comet, logic and job on
 Redis, etcd and Kafka.
END
(cd "$work" && find etc -type f -printf '/%p\n' | sort) >"$work/DEBIAN/conffiles"
cat >"$work/DEBIAN/postinst" <<'END'
#!/bin/sh
[ ! -d /run/systemd/system ] || systemctl daemon-reload || true
END
cat >"$work/DEBIAN/prerm" <<'END'
#!/bin/sh
# An upgrade leaves the running services alone: restart them one machine after the other.
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl disable --now halley halley-comet halley-logic halley-job || true
fi
END
chmod 755 "$work/DEBIAN/postinst" "$work/DEBIAN/prerm"
package=$target/halley_${version}_$arch.deb
dpkg-deb --root-owner-group --build "$work" "$package" >/dev/null
echo "$package"
