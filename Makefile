# aiops in five words: up, demo, test, check, gen.
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: up demo test check gen setup lock

up: $(READY)            ## run the platform on 127.0.0.1:8080 until Ctrl-C
	$(VENV)/bin/aiops up

demo: $(READY)          ## bring up a mesh, serve a model, show it, stop
	$(VENV)/bin/aiops demo

test: $(READY)          ## run every test
	tools/system_packages.sh
	$(PYTHON) -m pytest $(PYTEST)

check: $(READY)         ## format, lint, types, imports, contracts, migrations
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PYTHON) tools/contracts.py lint
	$(PYTHON) tools/contracts.py breaking
	$(PYTHON) tools/contracts.py fresh
	$(PYTHON) tools/migrations.py check

gen: $(READY)           ## write gen/ anew from protos/
	$(PYTHON) tools/contracts.py gen

setup: $(READY)         ## make .venv from the lock

$(READY): requirements-dev.lock pyproject.toml
	tools/environment.sh $(VENV)
	touch $(READY)

lock: $(READY)          ## resolve the locks anew
	$(VENV)/bin/uv pip compile -q --generate-hashes --no-emit-index-url --upgrade pyproject.toml -o requirements.lock
	$(VENV)/bin/uv pip compile -q --generate-hashes --no-emit-index-url --upgrade --extra dev pyproject.toml -o requirements-dev.lock
