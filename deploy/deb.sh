#!/usr/bin/env bash
# Makes a Debian package of what `make build` has built: target/halley_VERSION_ARCH.deb, whose path it prints.
# Units are installed and not started; configurations in /etc/halley are conffiles, which an upgrade leaves alone.
# MAINTAINER: who answers for the package, "Name <address>". lintian has nothing to say about it.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

maintainer=${MAINTAINER:-The Halley authors <halley@localhost>}
DESTDIR=$work PREFIX=/usr deploy/install.sh
doc=$work/usr/share/doc/halley
# Debian has the licence already, and wants its own forms of these.
rm "$doc/LICENSE"
sed -i 's:](LICENSE):](/usr/share/common-licenses/Apache-2.0):' "$doc"/README*.md
cat >"$doc/copyright" <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: halley

Files: *
Copyright: 2026 The Halley authors
License: Apache-2.0
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.
END
gzip -9n >"$doc/changelog.gz" <<END
halley ($version) unstable; urgency=medium

  * What changed is in CHANGELOG.md.

 -- $maintainer  $(date -Ru -r CHANGELOG.md)
END
install -d "$work/usr/share/man/man1" "$work/usr/share/lintian/overrides"
for program in "$work"/usr/bin/*; do
  name=$(basename "$program")
  {
    printf '.TH %s 1\n.SH NAME\n%s \\- %s\n.SH DESCRIPTION\n.nf\n' "${name^^}" "$name" "$("$program" --help | head -1)"
    "$program" --help | sed 's/\\/\\e/g; s/-/\\-/g; s/^[.'"'"']/\\\&&/'
  } | gzip -9n >"$work/usr/share/man/man1/$name.1.gz"
done
cat >"$work/usr/share/lintian/overrides/halley" <<'END'
# Names of functions stay in the programs, for profiles and core files.
halley: unstripped-binary-or-object *
# Who builds it for others names somebody: MAINTAINER.
halley: bogus-mail-host Maintainer halley@localhost
halley: bogus-mail-host-in-debian-changelog halley@localhost *
END
strip --strip-debug "$work"/usr/bin/*
mkdir "$work/DEBIAN"
# The newest symbol of libc that the programs use is the oldest libc they run on.
libc=$(objdump -T "$work"/usr/bin/* | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -Vu | tail -1)
# logic and job have TLS to Kafka from OpenSSL 3, which Debian 12 and Debian 13 call differently.
libssl='libssl3 | libssl3t64'
cat >"$work/DEBIAN/control" <<END
Package: halley
Version: $version
Architecture: $arch
Maintainer: $maintainer
Depends: libc6 (>= $libc), libgcc-s1, $libssl
Recommends: ca-certificates
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
set -e
if [ -d /run/systemd/system ]; then systemctl --system daemon-reload >/dev/null || true; fi
END
cat >"$work/DEBIAN/prerm" <<'END'
#!/bin/sh
set -e
# An upgrade leaves the running services alone: restart them one machine after the other.
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  for unit in halley halley-comet halley-logic halley-job; do
    deb-systemd-helper disable "$unit.service" >/dev/null || true
    deb-systemd-invoke stop "$unit.service" >/dev/null || true
  done
fi
END
find "$work/usr/share" -type f -not -name '*.sh' -exec chmod 644 {} +
chmod 755 "$work/DEBIAN/postinst" "$work/DEBIAN/prerm"
package=$target/halley_${version}_$arch.deb
dpkg-deb --root-owner-group --build "$work" "$package" >/dev/null
echo "$package"
