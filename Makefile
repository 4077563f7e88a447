# `make bench` and `make test` set everything up in $(VENV) and start from nothing.

PYTHON ?= python3
VENV   ?= .venv
GPU    ?= auto
FAMILY ?= mla
python  = $(VENV)/bin/python
ifndef RUN
RUN := runs/bench-$(shell date -u +%Y%m%dT%H%M%SZ)
endif

export PYTHON VENV

.PHONY: help setup bench test lint doctor
.DEFAULT_GOAL := help

help:
	@echo "make bench    measure and judge the $(FAMILY) kernels on what is here, write a report (GPU=auto FAMILY=mla)"
	@echo "make test     lint, types and selftests"
	@echo "make lint     lint and types alone"
	@echo "make doctor   what is here: device, versions, which kernels can run"
	@echo "make setup    only make $(VENV), from PYTHON=$(PYTHON)"

setup:
	@.ci/setup

# The report is written of a red run too; the exit status is the gate's.
bench: setup
	@status=0; $(python) -m pytest -m "$(FAMILY)" --gpu "$(GPU)" --run-dir "$(RUN)" || status=$$?; \
	if [ -f "$(RUN)/run.json" ]; then $(python) -m suite.cli report "$(RUN)" --out "$(RUN)/report"; fi; \
	exit $$status

test: setup lint
	@.ci/selftests

lint: setup
	@.ci/lint

doctor: setup
	@$(python) -m suite.cli doctor
