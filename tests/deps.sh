#!/usr/bin/env bash
# Installs what building and testing needs and is not there: C and C++ compilers (mimalloc, libFuzzer, librdkafka), OpenSSL,
# protoc, curl, what the page and the examples run on (node, Chromium, Python, Go), Redis, etcd and Kafka, docker-compose and
# systemd, and the pinned Rust with rustfmt and clippy. Prints a few lines and changes nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v c++ >/dev/null || missing+=(g++)
command -v curl >/dev/null || missing+=(curl)
command -v node >/dev/null || missing+=(nodejs)
# deploy/check.sh reads JSON with python3; the examples are in these languages.
command -v python3 >/dev/null || missing+=(python3)
command -v go >/dev/null || missing+=(golang-go)
# The cluster's clients: etcd-client compiles etcd's protocol with protoc, librdkafka is C.
command -v protoc >/dev/null || missing+=(protobuf-compiler)
[ -e /usr/include/google/protobuf/descriptor.proto ] || missing+=(libprotobuf-dev)
# librdkafka has TLS and logins only with OpenSSL.
[ -e /usr/include/openssl/ssl.h ] || missing+=(libssl-dev)
command -v pkg-config >/dev/null || missing+=(pkg-config)
# The servers that the tests start on ports of their own, and what they ask and certify them with.
command -v redis-server >/dev/null || missing+=(redis-server)
command -v redis-sentinel >/dev/null || missing+=(redis-sentinel)
command -v etcd >/dev/null || missing+=(etcd-server)
command -v etcdctl >/dev/null || missing+=(etcd-client)
command -v openssl >/dev/null || missing+=(openssl)
# What README shows in front of a gateway.
command -v nginx >/dev/null || missing+=(nginx-light)
command -v java >/dev/null || missing+=(default-jre-headless)
command -v mvn >/dev/null || missing+=(maven)
# What deploy/check.sh asks about the compose file and the units.
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || missing+=(docker-compose)
command -v systemd-analyze >/dev/null || missing+=(systemd)
[ ${#missing[@]} -eq 0 ] || tests/apt.sh "${missing[@]}"
tests/services/kafka.sh install
# goim's Kafka client does not speak with 4.
env -u KAFKA_HOME KAFKA_VERSION=3.9.1 tests/services/kafka.sh install
# Without apt the test of the page in a browser says that it is skipped; in CI it fails.
if command -v apt-get >/dev/null; then tests/services/chromium.sh install; fi
command -v cargo >/dev/null || { echo "deps: no cargo: install Rust by rustup (https://rustup.rs), then run make again" >&2; exit 1; }
# rustup installs the toolchain of rust-toolchain.toml with the first call of cargo; without rustup what is there is used.
cargo clippy --version >/dev/null
cargo fmt --version >/dev/null
echo "deps: $(cargo --version), node $(node --version), $(cc --version | head -1)"
