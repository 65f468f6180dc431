# Two commands on a fresh machine: `make demo` and `make test`. They need Python 3.11; `make test`
# also needs Java 17 and Maven for the real broker and the real Flink.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export OPENBLAS_NUM_THREADS := 1
export OMP_NUM_THREADS := 1
# For slow or unreliable networks; both can be set from outside.
export UV_HTTP_TIMEOUT ?= 300
export UV_HTTP_RETRIES ?= 10

.DEFAULT_GOAL := help
.PHONY: help env demo jars test fresh docs faults parity flood simulate train-env quality check bench bench-e2e lock lock-jars clean

help:            ## List the commands.
	@grep -E '^[a-z0-9-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: .*##/\t/' | expand -t 14

env: .venv/run   ## Install what the demo and live jobs need into .venv.

demo: env        ## Replay bundled telemetry with labelled incidents; writes build/demo/report.html.
	@$(BIN)/streamgauge demo

jars: .venv/run  ## Fetch the jars of Kafka, Flink and Beam, once, checked by SHA-256.
	@$(BIN)/python -m streamgauge.infra.local.jars

# Jars come first, so no test waits for the network.
test: .venv/dev jars ## Format, lint, types and all tests, on a real broker and a real Flink too.
	@$(BIN)/ruff format --check -q .
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q

fresh:           ## Demo and tests in a clean clone with empty caches; prints the time of each.
	@infra/fresh.sh

docs: .venv/run  ## Write the pages that are generated from the code.
	@$(BIN)/python -m streamgauge.pipeline.cli.reference
	@$(BIN)/python -m streamgauge.transforms.messages.reference

faults: .venv/dev jars ## Every fault on a real broker and a real Flink; the table is build/faults/table.md.
	@$(BIN)/python -m pytest -q -m fault tests/system

parity: .venv/dev jars ## A million events live on Flink at parallelism 1, 2 and 4, and replayed: equal bits.
	@$(BIN)/python -m pytest -q -m matrix tests/system/test_parity.py

flood: .venv/dev jars ## A million new keys, and one hot key: memory, latency; the last line is JSON.
	@rm -f build/flood/results.json
	@$(BIN)/python -m pytest -q -m matrix tests/system/test_bounds.py; code=$$?; \
		cat build/flood/results.json; exit $$code

train-env: .venv/train ## Add what training needs (torch: a large download).

SEEDS ?= 0-9999

simulate: .venv/dev ## Simulated pipelines, one a seed: 10,000, or SEEDS=18, or SEEDS=0-499.
	@PYTHONPATH=tests $(BIN)/python -m simulator.simulate --seeds $(SEEDS)

QUALITY_DATA ?= ../shared/data

# Not OMP_NUM_THREADS: training takes all cores. `make quality KEEP=--keep` does not train again.
quality: .venv/train ## Detection on the development sets; fills in docs/quality.md.
	@env -u OMP_NUM_THREADS $(BIN)/python -m streamgauge.pipeline.evaluation.quality_page --data $(QUALITY_DATA) \
		--out build/quality --page docs/quality.md $(KEEP)

check: .venv/dev ## Format in place, lint, types.
	$(BIN)/ruff format .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench-e2e: .venv/run jars ## Throughput and CPU of the live job on Flink; the last line is JSON.
	@PYTHONPATH=tests $(BIN)/python -m bench.e2e

# The full run takes 40 minutes on two quiet cores, QUICK=1 about five; RESUME=1 resumes an
# interrupted one; ONLY names one peer.
bench: .venv/train ## Speed, latency and cost beside the peers; fills in docs/benchmarks.md.
	@PYTHONPATH=tests $(BIN)/python -m bench.bench --quality-data $(QUALITY_DATA) \
		$(if $(QUICK),--quick) $(if $(RESUME),--resume) $(if $(ONLY),--only "$(ONLY)")

lock:            ## Pin all dependencies with hashes from the ranges in setup.py.
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --no-header --extra run \
		setup.py -o infra/locks/run.txt
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --no-header --extra run \
		--extra train -c infra/locks/run.txt setup.py -o infra/locks/train.txt
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --no-header --extra run \
		--extra train --extra dev -c infra/locks/train.txt setup.py -o infra/locks/dev.txt

lock-jars: .venv/run ## Record the SHA-256 of every jar after a change of versions.
	@$(BIN)/python -m streamgauge.infra.local.jars --lock

clean:           ## Remove the environment and everything built.
	rm -rf .venv build

# One environment in .venv. The file .venv/NAME records when infra/locks/NAME.txt was installed.
.venv/bin/uv:
	@command -v $(PYTHON) >/dev/null || { echo "needs Python 3.11: set PYTHON=/path/to/python3.11"; exit 2; }
	@echo "creating the environment in .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check --retries 10 --timeout 60 uv

.venv/%: infra/locks/%.txt setup.py | .venv/bin/uv
	@echo "installing the packages that infra/locks/$*.txt pins"
	@for attempt in 1 2 3; do \
		$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r $< && exit 0; \
		echo "attempt $$attempt of 3 failed; packages that arrived are kept"; \
	done; exit 1
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --editable .
	@touch $@
