# make run: the demo. make test: everything, with the outside programs it needs installed first.
CARGO ?= cargo
# All of them by name: cargo fmt does not see the modules that the registry of middlewares declares.
RUST_FILES = --edition 2024 $$(git ls-files '*.rs')

.PHONY: run build test check lint image deb fuzz swaps fmt

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
	rustfmt --check $(RUST_FILES)
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	scripts/supply-chain.sh

# The container image, from a static binary. PROFILE=demo builds it sooner, for trying things out.
image:
	scripts/image.sh

# The Debian package, in target/debian.
deb:
	scripts/deb.sh

# Fifty swaps of addresses under load (tests/it/swaps.rs); `test` has ten. Needs a running Docker Engine.
swaps: image
	TIDEGATE_SWAPS=50 $(CARGO) test --test it -- --include-ignored --nocapture swaps::

# Each fuzz target for FUZZ_SECONDS (default 600).
fuzz:
	scripts/fuzz.sh

fmt:
	rustfmt $(RUST_FILES)
