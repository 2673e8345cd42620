# The two main commands are `make demo` and `make test`. Both first install what they need.

SHELL := /bin/bash
.DELETE_ON_ERROR:

# rustup's default location, for shells that have not loaded its profile yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
export MOODSTREAM_RUNTIME ?= $(CURDIR)/.runtime
export ORT_DYLIB_PATH ?= $(MOODSTREAM_RUNTIME)/lib/libonnxruntime.so

# Most tests wait for a broker or a database rather than for a CPU, so run more of them in parallel than there are cores.
export RUST_TEST_THREADS ?= 4

# Arguments of `make demo`, as in `make demo ARGS="--posts 20000"`.
ARGS ?=

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install the broker, PostgreSQL and ONNX Runtime under .runtime/, and missing system tools
	@deploy/setup

.PHONY: setup-tests
setup-tests: ## Also install what only the tests need: a Chromium for the live page
	@deploy/setup --tests

.PHONY: demo
demo: setup ## Run the whole service on sample posts, on a throwaway broker and PostgreSQL
	@cargo build --release --package moodstream --package moodstream-demo --bins
	@target/release/moodstream-demo $(ARGS)

# Everything uses one profile, so that clippy and rustdoc share checked dependencies and nothing is compiled twice for the
# tests. Nothing here is built in release mode. With `--examples`, rustdoc uses the features of the tests, as clippy does.
.PHONY: test
test: setup-tests lint ## Check format, lints and documentation, and run every test
	cargo test --workspace

# The number of faults and the seed of the storm. A short storm with a fixed seed is among the tests.
SEED ?= $(shell date +%s)
FAULTS ?= 100

.PHONY: storm
storm: setup ## Inject FAULTS=n faults drawn from SEED=n, and compare the tables with an independent oracle
	SEED=$(SEED) FAULTS=$(FAULTS) cargo test --workspace --test storm -- --nocapture --test-threads=1 a_storm_changes_nothing leader_errors_and

.PHONY: lint
lint: ## Check format, lints and documentation only
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --lib --examples

.PHONY: fmt
fmt: ## Format the sources
	cargo fmt --all

# What needs a GPU is measured by benches/gpu/prepare and benches/gpu/run (docs/benchmarks.md); the latter also runs without one:
# `benches/gpu/run --provider cpu --quick`.
.PHONY: bench
bench: setup ## Measure rates and ratios: batches, store, scrapes, and with ../shared/stream the whole service
	cargo bench --package moodstream --bench '*'

.PHONY: page
page: ## Rebuild the live page's browser code (needs Node and npm)
	cd src/http/page/web && npm ci --ignore-scripts --no-audit --no-fund && npm run --silent check && npm run --silent build

.PHONY: audit
audit: ## Check licences, bans and sources of the dependencies; ADVISORIES=1 adds known vulnerabilities
	@deploy/setup --audit
	$(MOODSTREAM_RUNTIME)/cargo/bin/cargo-deny --all-features check bans licenses sources
ifneq ($(ADVISORIES),)
	@# The advisory database is a separate git repository, which is not reachable from every machine.
	$(MOODSTREAM_RUNTIME)/cargo/bin/cargo-deny --all-features check advisories
endif

# The number of inputs per fuzz target, and the limits on one input.
RUNS ?= 1000000
FUZZ := $(MOODSTREAM_RUNTIME)/cargo/bin/cargo-fuzz
FUZZ_VERSION := 0.13.2
FUZZ_LIMITS := -rss_limit_mb=2048 -timeout=10 -max_len=4096

.PHONY: fuzz
fuzz: ## Fuzz parsing, cleaning, tokenising and settings; RUNS=n inputs each, TARGETS="parse" for some only
	@$(FUZZ) --version 2>/dev/null | grep -qF " $(FUZZ_VERSION)" \
	    || cargo install --quiet --locked --root $(MOODSTREAM_RUNTIME)/cargo --target-dir target/cargo-fuzz --version $(FUZZ_VERSION) cargo-fuzz
	cargo build --quiet --workspace --example fuzz-seeds
	target/debug/examples/fuzz-seeds target/fuzz/corpus
	@# The stable compiler does not offer the sanitizer flags yet; without unsafe code none is needed.
	@for target in $(or $(TARGETS),parse clean tokenise settings); do \
	    RUSTC_BOOTSTRAP=1 $(FUZZ) run --fuzz-dir tests/fuzz --sanitizer none \
	        --target-dir target/fuzz $$target target/fuzz/corpus/$$target -- -runs=$(RUNS) $(FUZZ_LIMITS) || exit 1; \
	done

.PHONY: soak
soak: setup ## Run the service at full load; MINUTES=60 shows that memory, threads, connections and files stay flat
	MINUTES=$(or $(MINUTES),60) cargo test --release --package moodstream --test soak -- --nocapture

.PHONY: clean-runtime
clean-runtime: ## Remove what setup installed under .runtime/
	rm -rf "$(MOODSTREAM_RUNTIME)" /var/cache/moodstream
