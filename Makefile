# make run: the demo. make test: everything, with the outside programs it needs installed first.
CARGO ?= cargo

.PHONY: run build test check lint image deb fuzz swaps outage soak cache-kills metrics-scale load fmt hooks

# In a profile of its own, which is built much sooner than release.
run:
	$(CARGO) run --profile demo -- demo

build:
	$(CARGO) build --release

# Every test, real Docker Engine included: nothing is skipped.
test: lint
	scripts/test.sh

# Only what needs no outside program.
check:
	$(CARGO) test --workspace

lint:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	scripts/supply-chain.sh

# The container image, from a static binary. PROFILE=demo builds it sooner, for trying things out.
image:
	scripts/image.sh

# The Debian package, in target/debian.
deb:
	scripts/deb.sh

# Fifty swaps of addresses under load (tests/it/programs/address_swaps.rs); `test` has ten. Needs a Docker Engine.
swaps: image
	TIDEGATE_SWAPS=50 $(CARGO) test --test it -- --include-ignored --nocapture programs::address_swaps::

# Fifty kills of a process that writes a cache's disk, with room and full (cache/tests/kill.rs); `check` has twelve.
cache-kills:
	TIDEGATE_CACHE_KILLS=50 $(CARGO) test -p tidegate-cache --test kill

# What clients see while all servers are down for OUTAGE seconds under load, with each option against that
# (tests/it/programs/outage.rs); `test` has one second. PROFILE=release measures with optimizations.
outage:
	TIDEGATE_OUTAGE=$${OUTAGE:-5} $(CARGO) test --profile $${PROFILE:-test} --test it -- --include-ignored --nocapture programs::outage::

# SECONDS (default 3600) of mixed load at 70 % of what the gateway can take, while routes change and servers are replaced
# (tests/soak). Fails if a request fails for another reason than its client, or if memory or descriptors grow. BINARY
# names another build than PROFILE's. DOCKER=1 replaces containers, too, and DOCKER=0 does not; otherwise it depends on
# whether a Docker Engine answers.
soak:
	TIDEGATE_SOAK=$(or $(SECONDS),3600) TIDEGATE_SOAK_BINARY=$(BINARY) TIDEGATE_SOAK_DOCKER=$(DOCKER) $(CARGO) test --profile $(or $(PROFILE),release) --test soak

# What metrics cost with 10,000 routers, beside Traefik, and whether strangers add series.
metrics-scale: build
	scripts/tool.sh traefik
	scripts/metrics-scale.py target/tools/traefik target/release/tidegate

# The load generator for HTTP/3, against any server: make load ARGS='127.0.0.1:443 --sni shop.test --pid 4711'.
# PROFILE=dev builds it sooner, for trying things out.
load:
	$(CARGO) bench --bench load --profile $${PROFILE:-bench} -- $(ARGS)

# Each fuzz target for FUZZ_SECONDS (default 600).
fuzz:
	scripts/fuzz.sh

fmt:
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

# Has git check the messages of commits (scripts/hooks/commit-msg).
hooks:
	git config core.hooksPath scripts/hooks
