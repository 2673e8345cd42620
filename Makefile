# Two commands matter: `make demo` shows it, `make test` proves it. Both install what they need first.

SHELL := /bin/bash
.DELETE_ON_ERROR:

# rustup's own place, for shells that have not read its profile yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
export MOODSTREAM_RUNTIME ?= $(CURDIR)/.runtime
export ORT_DYLIB_PATH ?= $(MOODSTREAM_RUNTIME)/lib/libonnxruntime.so

# Most tests wait for a broker or a database, not for a processor: more of them at once than there are cores.
export RUST_TEST_THREADS ?= 4

# What `make demo ARGS="--posts 20000"` passes on.
ARGS ?=

.PHONY: help
help: ## Say what can be made
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install the broker, PostgreSQL and ONNX Runtime under .runtime/, and missing system tools
	@deploy/setup

.PHONY: setup-tests
setup-tests: ## Install what only the tests need as well: a Chromium for the live page
	@deploy/setup --tests

.PHONY: demo
demo: setup ## Run the whole service on sample posts, on a throwaway broker and PostgreSQL
	@cargo build --release --package moodstream --package moodstream-demo --bins
	@target/release/moodstream-demo $(ARGS)

# One profile for all of it: clippy and rustdoc share the checked dependencies, and what is compiled for the tests is
# compiled once. Nothing here builds in release.
.PHONY: test
test: setup-tests lint ## Check format, lints and documentation, and run every test
	cargo test --workspace

# The length and seed of the storm; a short one with a fixed seed is part of the tests.
SEED ?= $(shell date +%s)
FAULTS ?= 100

.PHONY: storm
storm: setup ## Inject FAULTS=n faults drawn from SEED=n, and compare the tables with an independent oracle
	SEED=$(SEED) FAULTS=$(FAULTS) cargo test --workspace --test storm -- --nocapture --test-threads=1 a_storm_changes_nothing leader_errors_and

.PHONY: lint
lint: ## Check format, lints and documentation only
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

.PHONY: fmt
fmt: ## Format the sources
	cargo fmt --all

.PHONY: bench
bench: setup ## Measure rates and ratios: batches, store, scrapes, and with ../shared/stream the whole service
	cargo bench --package moodstream --bench '*'

.PHONY: page
page: ## Build the browser's part of the live page anew (needs Node and npm)
	cd src/http/page/web && npm ci --ignore-scripts --no-audit --no-fund && npm run --silent check && npm run --silent build

.PHONY: audit
audit: ## Check licences, bans and sources of the dependencies; ADVISORIES=1 adds known vulnerabilities
	@deploy/setup --audit
	$(MOODSTREAM_RUNTIME)/cargo/bin/cargo-deny --all-features check bans licenses sources
ifneq ($(ADVISORIES),)
	@# The advisory database is a git repository of its own, which not every machine can fetch.
	$(MOODSTREAM_RUNTIME)/cargo/bin/cargo-deny --all-features check advisories
endif

# What `make fuzz RUNS=10000000` tries on each target, and what one input may cost.
RUNS ?= 1000000
FUZZ := $(MOODSTREAM_RUNTIME)/cargo/bin/cargo-fuzz
FUZZ_VERSION := 0.13.2
FUZZ_LIMITS := -rss_limit_mb=2048 -timeout=10 -max_len=4096

.PHONY: fuzz
fuzz: ## Fuzz parsing, cleaning, tokenising and settings; RUNS=n inputs each, TARGETS="parse" only these
	@$(FUZZ) --version 2>/dev/null | grep -qF " $(FUZZ_VERSION)" \
	    || cargo install --quiet --locked --root $(MOODSTREAM_RUNTIME)/cargo --target-dir target/cargo-fuzz --version $(FUZZ_VERSION) cargo-fuzz
	cargo build --quiet --workspace --example fuzz-seeds
	target/debug/examples/fuzz-seeds target/fuzz/corpus
	@# The sanitizers' flags are not in the stable compiler's hands yet; none is needed where no code is unsafe.
	@for target in $(or $(TARGETS),parse clean tokenise settings); do \
	    RUSTC_BOOTSTRAP=1 $(FUZZ) run --fuzz-dir tests/fuzz --sanitizer none \
	        --target-dir target/fuzz $$target target/fuzz/corpus/$$target -- -runs=$(RUNS) $(FUZZ_LIMITS) || exit 1; \
	done

.PHONY: soak
soak: setup ## Run the service at full feed; MINUTES=60 shows that memory, threads, connections and files stay flat
	MINUTES=$(or $(MINUTES),60) cargo test --release --package moodstream --test soak -- --nocapture

.PHONY: clean-runtime
clean-runtime: ## Remove what setup installed under .runtime/
	rm -rf "$(MOODSTREAM_RUNTIME)" /var/cache/moodstream
