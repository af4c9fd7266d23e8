# The commands of Polder. `make run` and `make test` are the two to know.
SHELL := /bin/bash
CARGO ?= cargo
.DEFAULT_GOAL := help
.PHONY: help run test test-lab test-kernel test-lab-sync lint bench image coverage build clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

build: ## compile the release binary
	@.ci/deps build
	$(CARGO) build --release --locked

run: ## install what is missing, build, and show the appliance at work in network namespaces
	@.ci/deps run
	$(CARGO) build --release --locked
	$${CARGO_TARGET_DIR:-target}/release/polder demo web
	$${CARGO_TARGET_DIR:-target}/release/polder demo sip

test: ## install what is missing and run every test
	@.ci/deps test
	$(CARGO) test --workspace --locked --no-fail-fast
	$(CARGO) test --locked --no-default-features --lib

test-lab: ## the appliance on bound NICs, in emulated machines (of the lab at POLDER_LAB or ../shared/lab)
	@.ci/deps test
	$(CARGO) build --release --locked
	@tests/lab/pci.sh $${CARGO_TARGET_DIR:-target}/release/polder || [ $$? -eq 77 ]

test-kernel: ## the same frames through kernel IPVS (in an emulated machine) and replay, into docs/kernel-comparison.md
	@.ci/deps test
	$(CARGO) build --release --locked --no-default-features --target-dir $${CARGO_TARGET_DIR:-target}/no-dpdk
	@REPORT=docs/kernel-comparison.md tests/lab/kernel.sh $${CARGO_TARGET_DIR:-target}/no-dpdk/release/polder || [ $$? -eq 77 ]

test-lab-sync: ## state sync with kernel IPVS (in an emulated machine), both ways, into docs/sync-interop.md
	@.ci/deps test
	$(CARGO) build --release --locked
	@REPORT=docs/sync-interop.md tests/lab/sync.sh $${CARGO_TARGET_DIR:-target}/release/polder || [ $$? -eq 77 ]

lint: ## formatting and lints, with and without DPDK
	@.ci/deps build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --all-targets --locked --no-default-features -- -D warnings

bench: ## the figures of docs/performance.md, with rivals in the same run
	@.ci/deps bench
	perf/run.sh

image: ## build the container image and run it once
	@.ci/deps image
	.ci/image

coverage: ## run every test and print the line coverage of everything but io/dpdk and cli
	.ci/coverage

clean: ## remove what was built
	$(CARGO) clean
