# Two commands on a fresh machine: `make demo` and `make test`. Nothing else to install but
# Python 3.11 (and, for tests on the real broker and the real Flink, Java 17 and Maven).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export OPENBLAS_NUM_THREADS := 1
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help demo test faults parity flood simulate train-env quality check bench bench-e2e lock clean

help:            ## Say what there is.
	@grep -E '^[a-z0-9-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: .*##/\t/' | expand -t 14

demo: .venv/run  ## Replay bundled telemetry with labelled incidents; writes build/demo/report.html.
	@$(BIN)/streamgauge demo

test: .venv/dev  ## All tests, on a real broker and a real Flink too.
	@$(BIN)/ruff check -q .
	@$(BIN)/python -m pytest -q

faults: .venv/dev ## Every fault on a real broker and a real Flink; the table is build/faults/table.md.
	@$(BIN)/python -m pytest -q -m fault tests/system

parity: .venv/dev ## A million events live on Flink at parallelism 1, 2 and 4, and replayed: equal bits.
	@$(BIN)/python -m pytest -q -m matrix tests/system/test_parity.py

flood: .venv/dev ## A million new keys, and one hot key: memory, latency; the last line is JSON.
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

check: .venv/dev ## Format, lint, types.
	$(BIN)/ruff format .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench-e2e: .venv/run ## Throughput and CPU of the live job on Flink; the last line is JSON.
	@PYTHONPATH=tests $(BIN)/python -m bench.e2e

# The full run takes 40 minutes on two quiet cores, QUICK=1 about five; RESUME=1 goes on with an
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

clean:           ## Remove the environment and everything built.
	rm -rf .venv build

# One environment in .venv; each stamp says which lock file it was last made from.
.venv/bin/uv:
	@command -v $(PYTHON) >/dev/null || { echo "needs Python 3.11: set PYTHON=/path/to/python3.11"; exit 2; }
	@echo "making the environment in .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv

.venv/%: infra/locks/%.txt setup.py | .venv/bin/uv
	@echo "installing what infra/locks/$*.txt pins"
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r $<
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --editable .
	@touch $@
