# The commands of the README. PYTHON names the interpreter that makes .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCALING := $(BIN)/python -m experiments.scaling

.DEFAULT_GOAL := help
.PHONY: help demo venv test lint bench accelerator parity notebooks clean

help:  ## List these commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

demo: $(VENV)/ready  ## Train dense and MoE at equal FLOPs on real text: table and plots in 8 to 15 minutes
	$(SCALING) --config=configs/scaling.py:demo

venv: $(VENV)/ready  ## Make .venv with requirements.txt, nothing more

test: $(VENV)/ready-test  ## Run the test suite on 8 simulated devices
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=12

lint: $(VENV)/ready-test  ## Check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/ready  ## Time dispatchers, training steps and decoding beside dense: 10 minutes on a quiet machine
	$(BIN)/python -m experiments.bench_dispatch --config=configs/bench_dispatch.py
	$(BIN)/python -m experiments.bench_model --config=configs/bench_model.py

accelerator: $(VENV)/ready  ## Check and time everything on an accelerator lent for 8 minutes: runs/accelerator
	$(BIN)/python -m experiments.accelerator --minutes=8 --out=runs/accelerator

parity: .venv-parity/ready  ## Compare published checkpoints with transformers itself (downloads torch)
	.venv-parity/bin/python -m tests.interop.parity

notebooks: $(VENV)/ready-test  ## Open the notebooks
	$(BIN)/jupyter lab notebooks

clean:  ## Remove the virtual environment (data and results stay)
	rm -rf $(VENV) .venv-parity

# One environment per interpreter: another PYTHON makes it anew.
$(VENV)/ready: requirements.txt $(VENV)/python-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo missing)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/ready-test: requirements-test.txt $(VENV)/ready
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	@touch $@

# torch is large, and nothing else needs it: it has an environment of its own.
.venv-parity/ready: requirements.txt $(VENV)/ready
	rm -rf .venv-parity
	$(BIN)/python -m venv .venv-parity
	.venv-parity/bin/python -m pip install --quiet --upgrade pip
	.venv-parity/bin/python -m pip install --quiet -r requirements.txt torch==2.14.1 transformers==5.24.0
	@touch $@

$(VENV)/python-missing:
	@echo "$(PYTHON) was not found: install Python 3.11 or newer, or name one: PYTHON=python3.12 make demo" >&2; exit 1

$(VENV)/python-%:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is Python $*, but 3.11 or newer is needed: PYTHON=python3.12 make demo" >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@touch $@
