# Written for GNU make 3.81 and newer, with sh or Windows' cmd as its shell: a recipe is one plain command,
# and whatever needs more than that is a Python script in tools/.
ifeq ($(OS),Windows_NT)
PYTHON ?= python
VENV := .venv/Scripts
else
PYTHON ?= $(or $(shell command -v python3 || command -v python),$(error no Python found; install 3.10 or newer, or name one: make PYTHON=/path/to/python book))
VENV := .venv/bin
endif
RUN := "$(VENV)/python"
ifneq ($(OS),Windows_NT)
ifdef ZEROHERO_DATA
export ZEROHERO_DATA := $(abspath $(ZEROHERO_DATA)) # chapters run in nbs/, where a relative path would mean another folder
endif
endif
READY := .venv/installed
KINDS ?= portable

define HELP
make book          set up, fetch the data, run stale chapters, render the pages into _site
make test          run every test, the chapters' own and the project's, and list all that fail
make test-portable run the chapters and the tests of numbers as on older processors, with one thread and two,
                   with numba and without; make test-portable KINDS="lowest avx2" picks some
make test-deep     run every test, with those that take minutes
make execute       run the chapters whose saved outputs are out of date
make execute-slow  the same, with the cells that take minutes
make render        render the pages into _site, without running anything
make serve         render, then show the pages in a browser on this machine
make bench         run every benchmark and record its results
make lint          check the style of notebooks, tests and tools
make clean         remove what was rendered, built or cached here (the environment .venv stays)
make help          this list
endef

export PYTHONUTF8 := 1
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: book test test-portable test-deep execute execute-slow render serve bench lint clean help data verified export

help:
	$(info $(HELP))
	@cd .

book: execute render
	@echo The book is in _site. To read it: make serve

test: verified
	$(RUN) tools/test.py native

test-portable: verified
	$(RUN) tools/test.py $(KINDS)

test-deep: verified
	$(RUN) tools/test.py native --pytest=--deep

execute: data export
	$(RUN) tools/execute.py

execute-slow: data export
	$(RUN) tools/execute.py --flags slow

render: $(READY)
	$(RUN) tools/site.py

serve: $(READY)
	$(RUN) tools/site.py --serve

bench: $(patsubst benchmarks/%.py,bench-%,$(sort $(wildcard benchmarks/[!_]*.py)))

bench-%: data
	$(RUN) benchmarks/$*.py

lint: $(READY)
	$(RUN) -m ruff check

clean:
	$(PYTHON) -c "import pathlib, shutil; [shutil.rmtree(path, ignore_errors=True) for name in '_site _proc build dist *.egg-info .pytest_cache .ruff_cache .hypothesis [!.]*/__pycache__ nbs/.ipynb_checkpoints'.split() for path in pathlib.Path('.').glob(name)]"

data: $(READY)
	$(RUN) tools/data.py

verified: $(READY)
	$(RUN) tools/data.py --verify

export: $(READY)
	$(RUN) tools/export.py

$(READY): requirements.lock pyproject.toml
	$(PYTHON) tools/venv.py
