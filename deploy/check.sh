#!/usr/bin/env bash
# What can be known about deploy/ without deploying: the scripts parse, the compose file is one, the image is built with
# the toolchain's Rust from files that exist, what install.sh leaves in an empty root is complete and goes away again, and
# systemd has nothing to say about the units there. Part of `make lint`; prints only what is wrong.
#
# Needs docker-compose and systemd-analyze (Debian: docker-compose, systemd). It fails without them; nothing is skipped.
set -euo pipefail
cd "$(dirname "$0")"
wrong=0
complain() { echo "deploy: $*" >&2; wrong=1; }
for tool in systemd-analyze python3; do
  command -v "$tool" >/dev/null || { echo "deploy: no $tool: run make deps" >&2; exit 1; }
done
compose=(docker compose)
"${compose[@]}" version >/dev/null 2>&1 || compose=(docker-compose)
"${compose[@]}" version >/dev/null 2>&1 || { echo "deploy: no docker-compose: run make deps" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for script in ./*.sh ../examples/*.sh; do bash -n "$script" || wrong=1; done

# compose WHAT ARGUMENTS: leaves the whole configuration in $work/compose.
compose() {
  local what=$1
  shift
  "${compose[@]}" -f compose.yaml "$@" config >"$work/compose" 2>"$work/said" || wrong=1
  [ ! -s "$work/said" ] || complain "compose.yaml $what: $(cat "$work/said")"
}
compose 'as it is'
HALLEY_HOST=10.0.0.7 compose 'with HALLEY_HOST and kafka.env' --env-file kafka.env
# One variable is enough for whatever others reach.
for option in host=10.0.0.7 addrs=10.0.0.7 set={tcp.bind=10.0.0.7:3101,websocket.bind=10.0.0.7:3102,httpServer.addr=10.0.0.7:3111} \
  set=rpcServer.addr=10.0.0.7:31{09,19} set=consume.kafkaEnable=true; do
  grep -q -- "- --$option\$" "$work/compose" || complain "compose.yaml: no --$option with HALLEY_HOST and kafka.env"
done

# People have terminals of 80 columns, and paste commands that stand in one line.
wide=$(make -s -C .. help | grep -E '^.{81}|^ {21} *[A-Z_]+=' || true)
[ -z "$wide" ] || complain "make help is wider than 80 columns, or breaks a command: $wide"
wide=$(CARGO_TARGET_DIR=$work/no-cluster cluster/cluster.sh status | grep -E '^.{81}' || true)
[ -z "$wide" ] || complain "cluster.sh status is wider than 80 columns: $wide"

# A process that is dead and not yet waited for is dead, and its pid file says so.
(sleep 0 & echo $! >"$work/zombie.id"; exec sleep 3) &
holder=$!
sleep 0.5
said=$(. cluster/processes.sh
  pid=$(cat "$work/zombie.id")
  echo "$pid $(sed 's/.*) //' "/proc/$pid/stat" | cut -d' ' -f20)" >"$work/zombie.pid"
  [ "$(sed 's/.*) //' "/proc/$pid/stat" | cut -c1)" = Z ] || echo 'there is no zombie to look at'
  ! pid_of "$work" zombie || echo 'a zombie counts as alive'
  [ "$(started_at $$)" -gt 0 ] || echo 'a living process counts as dead')
kill "$holder"
wait "$holder" 2>/dev/null || true
[ -z "$said" ] || complain "processes.sh: $said"

python3 -m json.tool seccomp-io-uring.json >/dev/null || complain 'seccomp-io-uring.json is no JSON'

rust=$(sed -n 's/^channel = "\(.*\)"/\1/p' ../rust-toolchain.toml)
grep -q "^FROM rust:$rust-" Dockerfile || complain "Dockerfile: not Rust $rust, which rust-toolchain.toml wants"
grep -q "^ENV RUSTUP_TOOLCHAIN=$rust\$" Dockerfile || complain "Dockerfile: RUSTUP_TOOLCHAIN is not $rust"
while read -r source; do
  [ -e "../$source" ] || complain "Dockerfile: COPY of $source, which is not there"
done < <(sed -n 's/^COPY \([^-. ][^ ]*\) .*/\1/p' Dockerfile)

# The units name the programs by their whole path, and systemd looks whether they are there: stand-ins will do.
mkdir -p "$work/target/release"
for program in halley comet logic job loadgen; do cp /bin/true "$work/target/release/$program"; done
install() { CARGO_TARGET_DIR=$work/target PREFIX=$work/usr DESTDIR='' ETC="$work/etc" ./install.sh "$@" >"$work/said"; }
# Nothing was built: then it says what to run, and installs nothing.
! CARGO_TARGET_DIR=$work/none PREFIX=$work/nothing DESTDIR='' ETC="$work/nothing" ./install.sh >"$work/said" 2>&1 || complain 'install.sh installs what is not there'
grep -q 'run make build' "$work/said" && [ ! -e "$work/nothing" ] || complain "install.sh, nothing built: $(cat "$work/said")"
# As root, whose PATH has no cargo.
make -n -C .. install | grep -q cargo && complain 'make install wants cargo'
install || complain "install.sh: $(cat "$work/said")"
# dead FOLDER: links of its documents to files that are not there, and names of examples that are not.
dead() {
  python3 - "$1" <<'END'
import os, re, sys
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        if not name.endswith('.md'):
            continue
        path = os.path.join(folder, name)
        text = open(path, encoding='utf-8').read()
        links = re.findall(r'\]\(([^)\s]+)\)|src(?:set)?="([^"]+)"', text)
        targets = [os.path.join(folder, (a or b).split('#')[0]) for a, b in links if not re.match(r'#|[a-z]+:', a or b)]
        targets += [os.path.join(sys.argv[1], name) for name in re.findall(r'(?:python3 |node |run |`)(examples/(?!check)[a-z.]+)', text)]
        for target in targets:
            if not os.path.exists(target):
                print(f'{os.path.relpath(path, sys.argv[1])}: {os.path.relpath(target, sys.argv[1])}')
END
}
said=$(dead "$work/usr/share/doc/halley")
[ -z "$said" ] || complain "links that lead nowhere in the installed documents: $said"
hardening() { sed -n '/^# --- Hardening/,/^$/p' "$1"; }
for unit in systemd/*.service; do
  said=$(systemd-analyze verify "$work/usr/lib/systemd/system/$(basename "$unit")" 2>&1) || wrong=1
  # It also looks at units of this machine that ours are ordered after.
  said=$(grep -F "$(basename "$unit")" <<<"$said" || true)
  [ -z "$said" ] || complain "$unit: $said"
  [ "$(hardening "$unit")" = "$(hardening systemd/halley.service)" ] || complain "$unit: not hardened as halley.service is"
done
echo '# mine' >"$work/etc/job.toml"
install || complain "install.sh over itself: $(cat "$work/said")"
[ "$(cat "$work/etc/job.toml")" = '# mine' ] || complain 'install.sh overwrites a configuration'
install uninstall || complain "install.sh uninstall: $(cat "$work/said")"
left=$(find "$work/usr" -type f)
[ -z "$left" ] || complain "install.sh uninstall leaves $left"
exit $wrong
