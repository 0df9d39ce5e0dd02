SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# How long make soak takes, and make fuzz for each target.
SECONDS ?= 60
# What determines the faults of make soak; without it, it chooses one, and prints it.
SEED ?=
# NATS_SERVER, ACT, NODE, ROTEL, PROMTOOL, CHROMIUM, BUSYBOX, CARGO_DENY, ZIZMOR, ACTIONLINT and SHELLCHECK name programs to use
# instead of the installed ones, FAKETIME a library, POSTGRES_BIN, SIGNING_LIBRARIES, BROWSER_MODULES (a node_modules) and SCHEMATHESIS
# folders. SLOWHTTPTEST, WRK and HAPROXY name those that make test-door runs, PYTHON the Python of .ci/tools and the tests, and BASH_3_2 a bash
# of that version, which no registry has: without it, the tests of the action say that they did not run on it.
CARGO_DENY ?= .tools/bin/cargo-deny
ZIZMOR ?= .tools/bin/zizmor
ACTIONLINT ?= .tools/bin/actionlint
SHELLCHECK ?= .tools/bin/shellcheck
PROMTOOL ?= .tools/debian/promtool

.PHONY: help tools build check advisories mutants test test-faults test-console test-workflow test-bench test-door compose-test soak fuzz demo up docs screenshots bench clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

tools: ## Install nats-server, PostgreSQL, act, linters, node, schemathesis and libraries into .tools, once
	@.ci/tools

build: ## Build the programs
	$(CARGO) build --workspace --bins --locked

check: tools ## Check the formatting, the lints, the documentation, the dependencies, the workflows, the scripts, the deployment
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked
	$(CARGO) run --quiet --package cli --example docs --locked -- --check
	"$(CARGO_DENY)" --locked check licenses bans sources
	"$(ZIZMOR)" --persona pedantic --offline --no-progress .github/
	"$(ACTIONLINT)" -shellcheck "$(SHELLCHECK)"
	"$(SHELLCHECK)" .ci/bash-3.2 .ci/compose-test .ci/fuzz .ci/line-endings .ci/mutants .ci/run .ci/tools .ci/tools-debian .github/actions/*/*.sh deploy/*.sh
	.ci/line-endings
	.ci/bash-3.2
	.ci/deploy
	@.ci/tools-debian promtool=prometheus
	"$(PROMTOOL)" check rules deploy/prometheus/ackline.rules.yml
	"$(PROMTOOL)" test rules deploy/prometheus/test.yml

advisories: tools ## Look for advisories about the dependencies: downloads RustSec's database
	"$(CARGO_DENY)" --locked check advisories

mutants: ## Change the pure core in every small way: its tests must notice
	@CARGO="$(CARGO)" .ci/mutants

test: tools build ## Run every test but the long ones
	@.ci/tools-debian promtool=prometheus chromium busybox=busybox-static pgbouncer
	$(CARGO) test --workspace --locked --no-fail-fast --doc
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    $(CARGO) nextest run --workspace --locked --no-fail-fast; \
	else \
	    $(CARGO) test --workspace --locked --no-fail-fast --lib --bins --tests; \
	fi

test-faults: MODULES = faults silence console::busy
test-faults: tools build ## Run every test of faults, of silence and of slow logins, the long ones too
	@.ci/tools-debian pgbouncer
	$(every_test)

test-console: MODULES = browser console
test-console: tools build ## Run every test of the console and its API, the long ones too
	@.ci/tools-debian chromium
	$(every_test)

test-workflow: MODULES = workflow
test-workflow: tools build ## Run every test of the workflow and its action, the long ones too: BASH_3_2=… for macOS's bash
	@.ci/tools-debian busybox=busybox-static
	.ci/bash-3.2
	$(every_test)
	@[[ -n "$${BASH_3_2-}" ]] || echo "BASH_3_2 names no bash 3.2: the action's scripts were checked for newer syntax (.ci/bash-3.2), and not run on it."

test-bench: MODULES = bench
test-bench: tools build ## Run every part of the benchmark, with next to nothing to do
	$(every_test)

test-door: MODULES = attacks
test-door: tools build ## Attack ingress with slowhttptest, and load it with wrk
	@.ci/tools-debian slowhttptest wrk haproxy
	$(every_test)

# Every whole-system test of the MODULES; those that print figures run one at a time.
empty :=
define every_test
if $(CARGO) nextest --version >/dev/null 2>&1; then \
    $(CARGO) nextest run --workspace --locked --no-fail-fast --run-ignored all \
        -E 'test(/^($(subst $(empty) ,|,$(MODULES)))::/)' $(if $(filter attacks,$(MODULES)),--no-capture); \
else \
    $(CARGO) test --workspace --locked --no-fail-fast --test it -- --include-ignored \
        $(if $(filter attacks,$(MODULES)),--nocapture --test-threads 1) $(addsuffix ::,$(MODULES)); \
fi
endef

compose-test: ## Build the images, run docker-compose.yml on a container engine and restart all of it: PROFILE=dev
	.ci/compose-test

soak: tools build ## Do random faults to every part under load: SECONDS=60, and SEED=… to repeat one
	@$(CARGO) run --quiet --bin soak --locked -- --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

fuzz: ## Feed what reads strangers' bytes with random ones, each target for SECONDS=60
	@SECONDS_EACH=$(SECONDS) CARGO="$(CARGO)" .ci/fuzz

demo: tools build ## Show two workflow runs, one of which fails, from their callbacks to their rows
	@$(CARGO) run --quiet --bin demo --locked

docs: ## Write the tables of settings and commands in docs/ from the programs' definitions
	@$(CARGO) run --quiet --package cli --example docs --locked

up: tools build ## Run Ackline on its default ports with its data in .data, until Ctrl-C
	@$(CARGO) run --quiet --bin ackline --locked -- up

screenshots: tools build ## Take the pictures of the console in docs/images again
	@.ci/tools-debian chromium
	@$(CARGO) run --quiet --bin screenshots --locked

bench: tools ## Measure beside what limits it: ONLY=accept,apply,…  EVENTS=1000000  JSON=target/bench.json
	$(CARGO) build --workspace --bins --locked --release
	@$(CARGO) run --quiet --bin bench --locked --release

clean: ## Remove what was built and the installed tools
	$(CARGO) clean
	rm -rf .tools
