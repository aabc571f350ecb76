# `make help` says what there is. CI runs the same targets.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTBED := PYTHONPATH=tests $(BIN)/python -m testbed
ONLY ?=
# Where demo and e2e run: local, kind, or kubeconfig. `make demo KUBECONFIG=FILE` means the cluster of that file; a
# KUBECONFIG that merely stands in the environment does not, so that no demo lands in a cluster by accident.
BACKEND ?= $(if $(filter command,$(word 1,$(origin KUBECONFIG))),kubeconfig,local)
export MESHWRIGHT_E2E_BACKEND ?= $(BACKEND)

.DEFAULT_GOAL := help
.PHONY: help demo down test check format lint types layers unit test-api campaign soak e2e bench generate wheelhouse image lock clean venv prereqs

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: prereqs wheelhouse ## a mesh from nothing, step by step, on a local cluster (or BACKEND=kind, or KUBECONFIG=FILE)
	@PYTHONPATH=tests $(BIN)/python -m demo

down: venv ## remove what `make demo` left running
	@PYTHONPATH=tests $(BIN)/python -m demo down

test: check test-api campaign e2e ## everything: check, API-level tests, campaign, end-to-end tests (Linux, root)

check: venv format lint types layers unit ## no cluster: format, lint, types, import layers, generated files, unit and property tests

format: venv
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format"; exit 1; }

lint: venv
	@$(BIN)/ruff check --quiet .
	@$(BIN)/python scripts/generate.py --check
	@$(BIN)/python scripts/dashboards.py --check

types: venv
	@$(BIN)/mypy --no-error-summary

layers: venv
	@$(BIN)/lint-imports --no-logo >/tmp/meshwright-layers.$$$$ 2>&1 || { cat /tmp/meshwright-layers.$$$$; rm -f /tmp/meshwright-layers.$$$$; exit 1; }; rm -f /tmp/meshwright-layers.$$$$

unit: venv
	@timeout --kill-after=10 360 $(BIN)/pytest -q tests/unit tests/property

test-api: venv prereqs ## against a real kube-apiserver and etcd
	@$(TESTBED) build
	@timeout --kill-after=30 2100 $(BIN)/pytest -q tests/api

campaign: venv prereqs ## a thousand random transitions of a mesh on a real kube-apiserver, each settled and checked
	@$(TESTBED) build
	@timeout --kill-after=30 600 $(BIN)/pytest -q tests/campaign

soak: venv prereqs ## ten thousand of them, and more crashes, refusals and lost views (hours)
	@$(TESTBED) build
	@MESHWRIGHT_TRANSITIONS=10000 timeout --kill-after=30 7200 $(BIN)/pytest -q tests/campaign
	@MESHWRIGHT_SOAK=1 MESHWRIGHT_SEEDS=50 timeout --kill-after=30 5400 $(BIN)/pytest -q tests/api/test_workflows.py tests/api/test_views.py tests/api/test_two_leaders.py

e2e: venv prereqs wheelhouse ## against a real cluster, istiod, Envoy and traffic
	@$(TESTBED) build
	@timeout --kill-after=60 2100 $(BIN)/pytest -v tests/e2e
	@$(TESTBED) leftovers --name e2e

bench: venv prereqs wheelhouse ## performance, beside what a user would pick instead (make bench ONLY=NAME for one)
	@$(TESTBED) build
	@PYTHONPATH=tests:. $(BIN)/python -m bench $(ONLY)

generate: venv ## write crds/, docs/reference/ and the dashboards from the code
	@$(BIN)/python scripts/generate.py
	@$(BIN)/python scripts/dashboards.py

wheelhouse: venv ## the wheels that the image is made of, in dist/wheels
	@$(BIN)/python scripts/wheelhouse.py

image: wheelhouse ## the operator's image, with Docker
	docker build --tag ghcr.io/meshwright/meshwright:$$($(BIN)/python -c 'import meshwright; print(meshwright.__version__)') .

lock: venv ## resolve the dependencies anew into requirements/ (needs uv)
	uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 pyproject.toml --output-file requirements/runtime.txt
	uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 pyproject.toml --group dev --output-file requirements/dev.txt
	echo pip | uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 - --output-file requirements/pip.txt

clean: ## remove what was built in this checkout
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis operator/meshwright/istio_api

prereqs: venv
	@[ "$$MESHWRIGHT_E2E_BACKEND" = kubeconfig ] || $(TESTBED) prereqs

venv: $(VENV)/.ready

$(VENV)/.ready: requirements/dev.txt pyproject.toml hatch_build.py $(wildcard istio-api/*.py istio-api/*/go.sum)
	@PYTHON=$(PYTHON) scripts/venv $(VENV)
	@touch $@
