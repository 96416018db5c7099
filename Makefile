# All commands of the project. `make help` lists them.

.DEFAULT_GOAL := help
CARGO ?= cargo
# Cargo's own messages about each crate are noise next to the runners' closing lines.
export CARGO_TERM_PROGRESS_WHEN ?= never

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { \
	  line = sprintf("  make %-14s", $$1); n = split($$2, word, " "); \
	  for (i = 1; i <= n; i++) { \
	    if (length(line) + 1 + length(word[i]) > 79 || word[i] ~ /^\(?make$$/) { print line; line = sprintf("%21s", "") } \
	    line = line " " word[i] } \
	  print line }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install what is missing to build and test (Debian: gcc, make; Rust by rustup)
	@tests/deps.sh

# What the programs of a cluster have and the all-in-one has not: clients of etcd, Redis and Kafka. They are built by
# themselves, or cargo would give their features to the all-in-one too.
PROGRAMS := --features halley-comet/programs,halley-logic/programs,halley-job/programs

.PHONY: build
build: ## Release binaries in target/release: halley, comet, logic, job, loadgen and more
	@command -v protoc >/dev/null || tests/deps.sh
	$(CARGO) build --release --workspace
	$(CARGO) build --release -p halley-comet -p halley-logic -p halley-job $(PROGRAMS)

.PHONY: programs
programs: ## Of these only what a cluster needs: comet, logic, job, loadgen
	@command -v protoc >/dev/null || tests/deps.sh
	$(CARGO) build --release -p halley-comet -p halley-logic -p halley-job -p halley-loadgen $(PROGRAMS)

.PHONY: run
run: ## The gateway, all in one process
	$(CARGO) run --release

# For each: ARGS="-conf job.toml", or whatever else the program takes; PORT where the configuration has another one.
.PHONY: runjob runlogic runcomet
runjob: PORT ?= 3112
runjob: ## job in the background, on the Redis and etcd of this machine: make runjob ARGS="-conf job.toml"
	@deploy/cluster/run.sh start job $(PORT) $(ARGS)

runlogic: PORT ?= 3111
runlogic: ## logic in the background
	@deploy/cluster/run.sh start logic $(PORT) $(ARGS)

runcomet: PORT ?= 3110
runcomet: ## comet in the background
	@deploy/cluster/run.sh start comet $(PORT) $(ARGS)

.PHONY: stop
stop: ## Ends what runjob, runlogic and runcomet started
	@deploy/cluster/run.sh stop

.PHONY: cluster-up cluster-status cluster-down
cluster-up: programs ## A whole cluster on this machine, servers of its own included; KAFKA=1: with Kafka
	@deploy/cluster/cluster.sh up

cluster-status: ## What of it runs where, and whether it is ready
	@deploy/cluster/cluster.sh status

cluster-down: ## Ends it
	@deploy/cluster/cluster.sh down

.PHONY: install uninstall deb
install: ## What was built, units, configurations, documents: PREFIX, DESTDIR, ETC
	deploy/install.sh

uninstall: ## Takes them away, but for the configurations
	deploy/install.sh uninstall

deb: build ## The same as a Debian package in target/
	deploy/deb.sh

.PHONY: test cargo-test
test: deps ## Everything that must pass: lints, unit, property, conformance and end-to-end tests, simulation, fuzzing
	@tests/steps.sh $(STEPS)

cargo-test: ## Of it only what cargo runs (make test STEPS="lint page": only these steps)
	$(CARGO) test --workspace $(PROGRAMS) --no-fail-fast

# One build with that of the tests.
PAIRS ?= --table target/pairs/table.md
RUN_PAIRS = $(CARGO) test --workspace $(PROGRAMS) --no-run --quiet && $(or $(CARGO_TARGET_DIR),target)/debug/pairs

.PHONY: pairs pairs-test
pairs: ## Two things at once in real clusters: PAIRS=--help
	$(RUN_PAIRS) $(PAIRS)

pairs-test: ## Two minutes of these, the same each time
	$(RUN_PAIRS) --seed 1 --seconds 120

# The simulator is a workspace of its own: what it changes must not reach the programs that are shipped.
IN_SIM := --manifest-path tests/sim/Cargo.toml --target-dir $(or $(CARGO_TARGET_DIR),target)/sim
SEEDS ?= 500
SIM ?= --seeds $(SEEDS)

.PHONY: sim sim-test
sim-test: ## The simulator's own tests: every planted bug is found
	$(CARGO) test $(IN_SIM) --quiet

sim: ## Simulate whole gateways in virtual time, a seed each: make sim SEEDS=100000, make sim SIM=--help
	$(CARGO) run --quiet $(IN_SIM) -- $(SIM)

.PHONY: sim-million
sim-million: ## A million simulated connections at once, and what each costs (2 GB of memory)
	$(MAKE) --no-print-directory sim SIM="--connections 1000000"

# For each target.
export SECONDS_EACH ?= 15

.PHONY: fuzz
fuzz: deps ## Fuzz what outsiders can reach, guided by coverage: make fuzz SECONDS_EACH=600
	tests/fuzz/run.sh

.PHONY: page-test
page-test: ## The page: its goim client in node, and all of it in real browsers (pictures in target/page)
	$(CARGO) build --quiet
	node --test page/tests/*.test.js

.PHONY: lint lint-format lint-clippy lint-house lint-scripts lint-go
lint: lint-format lint-clippy lint-house lint-scripts lint-go ## Formatting and clippy, warnings are errors; who may use whom; documents, deploy/, the sysctl file

lint-format:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml --check
	$(CARGO) fmt --manifest-path tests/sim/Cargo.toml --check

lint-clippy:
	$(CARGO) clippy --workspace --all-targets $(PROGRAMS) --quiet -- -D warnings
	$(CARGO) clippy --workspace --lib --bins --quiet -- -D warnings
	$(CARGO) clippy $(IN_SIM) --all-targets --quiet -- -D warnings

# Which crate may use which, circles of files, and whether the documents name what is there.
lint-house:
	$(CARGO) test --quiet -p halley-house
	tests/docs.sh

lint-scripts:
	deploy/check.sh
	for script in deploy/cluster/*.sh tests/*.sh; do bash -n "$$script" || exit 1; done
	@! command -v shellcheck >/dev/null || shellcheck -x deploy/cluster/*.sh tests/steps.sh
	tuning/check.sh --quiet

lint-go:
	@test -z "$$(gofmt -l tests/goim)" || { gofmt -d tests/goim; exit 1; }
	cd tests/goim && go vet .

.PHONY: glommio-test
# The features of the other tests beside its own, so that all they have in common is built once.
glommio-test: export HALLEY_TEST_DRIVER = glommio
glommio-test: ## The second runtime: the contract of a driver, the core cases and TLS end to end, on glommio
	$(CARGO) test --workspace $(PROGRAMS),halley/glommio --no-fail-fast --test driver --test e2e -- \
	  glommio:: delivery:: operations:: sessions:: close_reasons:: tls:: tls_peers::

.PHONY: tls-test
tls-test: export HALLEY_TEST_TLS = 1
tls-test: ## The rules of a shard, and the core cases end to end, with every client over TLS
	$(CARGO) test --workspace $(PROGRAMS) --no-fail-fast --test rules
	$(CARGO) test --workspace $(PROGRAMS) --no-fail-fast --test e2e -- \
	  delivery:: operations:: sessions:: close_reasons::

.PHONY: bench
bench: build ## Measure this machine: latency, CPU per delivery, memory per connection, logins
	bench/measure.sh

.PHONY: runtimes
runtimes: ## monoio on io_uring, monoio on epoll and glommio side by side: CPU, latency, memory, logins (15 minutes)
	$(CARGO) build --release --features glommio -p halley -p halley-loadgen
	bench/runtimes.sh

.PHONY: tls-bench
tls-bench: ## What TLS costs, nginx beside it: idle clients, handshakes, a room, a storm of handshakes (20 minutes)
	$(CARGO) build --release -p halley -p halley-loadgen -p halley-bench
	bench/peers.sh
	bench/tls.sh

.PHONY: queues
queues: programs ## Pushes a second per core of logic and job through Redis list, Redis streams and Kafka
	bench/queues.sh

.PHONY: micro
micro: ## Criterion benches: codec, fan-out, timers, mailbox, sessions, each alone (two minutes after the build)
	bench/micro/run.sh

.PHONY: flame
flame: build ## Flame graph of the gateway with 2,000 members in one room (installs perf, inferno)
	tuning/flame.sh

.PHONY: counts
counts: build ## System calls, context switches and instructions per delivery (installs strace, perf, valgrind)
	tuning/counts.sh

.PHONY: compare
compare: build ## Halley beside the floor, nchan, mosquitto and NATS, in one run (installs them; COMPARE="--rounds 3")
	bench/peers.sh
	target/release/compare --out bench/reports/$$(date +%F)-$$(hostname) $(COMPARE)

.PHONY: deny
deny: ## Licences, bans and sources of all dependencies (needs cargo-deny)
	$(CARGO) deny check licenses bans sources
