# Every target sets up what it needs. Another Python: make PYTHON=python3.13 …
# Extra words for pip (an index with CPU builds of torch, a proxy, …): make setup PIP_FLAGS="…"
PYTHON ?= python3
PIP_FLAGS ?=
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv-peers
PEERS_PYTHON := $(CURDIR)/$(PEERS)/bin/python

.PHONY: help setup demo test test-deep peers check format bench docs site claims

help:
	@echo "make setup      the diptych command in .venv"
	@echo "make demo       watch a small CLIP learn, in minutes, then look at runs/demo/report.html"
	@echo "make test       the tests; make test-deep: the long ones"
	@echo "make check      ruff, mypy and the layers of the imports; make format: repair the form"
	@echo "make bench      speed and memory beside other libraries; make bench ARGS=--quick: a minute each"
	@echo "make claims     the paper's claims as experiments, into runs/claims and experiments/claims"
	@echo "make docs       write the generated pages of docs/ again; make site: only build the site from them"

setup: $(STAMP)

# torch comes first and alone: pip then takes exactly the pinned build, and nothing later can ask for another.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "diptych needs Python 3.11 or newer; %s is %d.%d. Try: make PYTHON=python3.12" % (sys.executable, v[0], v[1]) or 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (once; torch is large) …"
	@$(BIN)/python -m pip install --quiet $(PIP_FLAGS) `grep '^torch==' constraints.txt`
	@$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[data,test]'
	@touch $(STAMP)

demo: setup
	$(BIN)/diptych demo $(ARGS)

# Two processes of one thread each: their threads would wait for each other otherwise (tests/train: 80 s, 42 s).
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-deep: setup peers
	DIPTYCH_PEERS_PYTHON=$(PEERS_PYTHON) $(BIN)/python -m pytest -m deep --timeout 1800 $(ARGS)

# What ours is compared with, in a venv of its own. torchvision's wheel asks for another torch than the CPU build, so
# it comes without its requirements; the scripts define the two operators that it misses.
peers: $(PEERS)/.installed

$(PEERS)/.installed: constraints.txt benchmarks/peers.txt
	@test -x $(PEERS_PYTHON) || $(PYTHON) -m venv $(PEERS)
	@echo "installing open_clip and transformers into $(PEERS) (once) …"
	@$(PEERS_PYTHON) -m pip install --quiet $(PIP_FLAGS) `grep '^torch==' constraints.txt`
	@$(PEERS_PYTHON) -m pip install --quiet $(PIP_FLAGS) --no-deps open_clip_torch==3.3.0 timm torchvision==0.28.0
	@$(PEERS_PYTHON) -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -r benchmarks/peers.txt
	@touch $(PEERS)/.installed

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# OpenVINO (59 MB) is needed for its rows alone.
bench: setup peers
	@$(BIN)/python -c 'import openvino' 2>/dev/null || $(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt openvino
	@for script in loss startup tokenizer preprocess inference training; do \
		echo "== $$script"; DIPTYCH_PEERS_PYTHON=$(PEERS_PYTHON) $(BIN)/python benchmarks/$$script.py $(ARGS) || exit 1; done

DOCS := .venv-docs
docs: setup peers
	$(BIN)/python docs/build.py
	DIPTYCH_WRITE_DOCS=1 DIPTYCH_PEERS_PYTHON=$(PEERS_PYTHON) $(BIN)/python -m pytest -m 'deep or not deep' \
		--timeout 1800 tests/models/test_parity.py
	$(MAKE) site

# The site in build/site, links checked. mkdocstrings reads the sources, so nothing of ours is installed beside it.
site:
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet $(PIP_FLAGS) -r docs/site.txt
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict

claims: setup
	$(BIN)/python -m experiments.claims runs/claims $(ARGS)
	cp runs/claims/*.json experiments/claims/results/
	$(BIN)/python -m experiments.claims.figures
