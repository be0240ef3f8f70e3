# People and CI call the same names. `make` alone lists them.
SHELL := /bin/sh
PY := .venv/bin/python
FILE ?=
# What takes long, or needs a machine with nothing else to do.
SLOW := tests/e2e/test_rolling_upgrade.py tests/e2e/test_disks.py
export CARGO_TARGET_DIR := $(CURDIR)/core/target

.PHONY: help setup demo test slow check rust simulate mutants crashpoints bench bench-domains soak attacks lock testing-core wheel \
	clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: ## build .venv with quorate and boto3
	@scripts/setup.sh

testing-core: setup ## the core with its `testing` feature, beside the plain one (never shipped)
	@scripts/testing-core.sh

demo: testing-core ## a fleet on this machine, a real file through it, nodes killed (FILE=… to choose the file)
	@QUORATE_TESTING_PATH=$(CURDIR)/.venv/testing $(PY) -m quorate.demo $(if $(FILE),--file "$(FILE)")

check: setup ## lint and types
	.venv/bin/ruff format --check src tests bench
	.venv/bin/ruff check src tests bench
	.venv/bin/mypy
	cargo fmt --manifest-path core/Cargo.toml --check
	cargo clippy --manifest-path core/Cargo.toml --locked -- -D warnings
	cargo clippy --manifest-path core/Cargo.toml --locked --all-targets --features testing -- -D warnings

rust: ## Rust unit and property tests, official vectors
	cargo test --manifest-path core/Cargo.toml --locked --features testing

test: check rust testing-core ## every test but those of `make slow`; CI calls exactly this
	@scripts/system-packages.sh tests
	QUORATE_TESTING_PATH=$(CURDIR)/.venv/testing $(PY) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
		$(addprefix --ignore=,$(SLOW))

slow: testing-core ## end-to-end tests that `make test` leaves out: a rolling upgrade under load, full and read-only disks
	@scripts/system-packages.sh tests
	QUORATE_TESTING_PATH=$(CURDIR)/.venv/testing $(PY) -m pytest $(SLOW)

bench: setup ## every promised figure, measured in one run: a table, and JSON (JSON=…, core/target/bench.json)
	@scripts/bench-peer.sh
	$(PY) bench/run.py --peer .venv/peer/bin/moto_server --json $(or $(JSON),core/target/bench.json)

bench-domains: setup ## a thousand domains: what refreshing all of them costs clients (DOMAINS=1000, JSON=FILE)
	$(PY) bench/domains.py --domains $(or $(DOMAINS),1000) $(if $(JSON),--json "$(JSON)")

simulate: testing-core ## epoch changes under crashes, partitions and liars on virtual time (SCHEDULES=1000, SEED=1, JOBS=1, ALSO=all, CORE=fast|real)
	@PYTHONPATH=.venv/testing:. $(PY) -m tests.simulation \
		--schedules $(or $(SCHEDULES),1000) --seed $(or $(SEED),1) --jobs $(or $(JOBS),1) --also "$(ALSO)" --core $(or $(CORE),fast)

mutants: testing-core ## mistakes on purpose, each of which the simulator must find (SCHEDULES=10000, ONLY=words of a name)
	@PYTHONPATH=.venv/testing:. $(PY) -m tests.simulation.mutants --schedules $(or $(SCHEDULES),10000) --only "$(ONLY)"

crashpoints: setup ## a process killed before and after each durable call (OPERATION=…, ROLE=…, EVERY=1, JOBS=2, POINT=…)
	@scripts/system-packages.sh tests
	@$(PY) -m tests.crashpoints --operation "$(OPERATION)" --role "$(ROLE)" --every $(or $(EVERY),1) \
		--jobs $(or $(JOBS),2) --point "$(POINT)"

soak: setup ## a fleet under checked load while nodes are killed (MINUTES=20, SEED=…, JSON=FILE)
	$(PY) bench/soak.py --minutes $(or $(MINUTES),20) $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json "$(JSON)")

attacks: ## fill in which tests show what in docs/attacks.md
	@python3 scripts/attacks.py

wheel: setup ## what is installed elsewhere, into dist/: no compiler is needed there
	@scripts/wheel.sh

lock: setup ## write constraints.txt from .venv
	@scripts/lock.sh

clean: ## remove what was built
	rm -rf .venv core/target dist src/quorate/_core*.so
