# Needs GNU make, bash and Python 3.11 or newer with venv. Everything else goes into .venv, at the locked versions.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
STUDY ?= shin2023
PROFILE ?= small
PORT ?= 8000
DEVICE ?= cpu
JOBS ?= $(if $(filter cpu,$(DEVICE)),$(shell getconf _NPROCESSORS_ONLN),1)

BIN := .venv/bin
# .venv belongs to one Python and one place: another Python, a copy or a moved checkout gets its own.
INSTALLED := .venv/.installed-$(shell { "$(PYTHON)" --version; pwd; } 2>&1 | cksum | tr -cd 0-9)
export JUPYTER_PREFER_ENV_PATH := 1
# Forty processes import the same packages: what Python compiles is kept, whatever the environment says of that.
export PYTHONDONTWRITEBYTECODE :=

# Stamps of the build are named by the content of what goes in: a touched file rebuilds nothing, a deleted one does.
# cksum is the one checksum that every POSIX system has.
digest = $(shell find $(1) -type f ! -path '*/__pycache__/*' -print0 2>/dev/null | LC_ALL=C sort -z | xargs -0 cksum | cksum | tr -cd 0-9)
BOOK := _build/book-$(call digest,lib results requirements.lock book notebooks _config.yml _toc.yml CHANGELOG.md CITATION.cff)

.PHONY: help book test test-all testbook pdf reproduce serve release lint audit clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

book: $(BOOK) ## execute the notebooks (profile quick, simulated data) and build _build/html
	@echo "The book is _build/html/index.html; 'make serve' shows it in a browser."

test: $(INSTALLED) ## run the tests, but for those of the built book and those that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m 'not browser and not slow'

testbook: book ## test every page of the book in Chromium, and its links; skipped without Chromium
	$(BIN)/python -m pytest -m browser -rs tests/book

pdf: _build/book.pdf ## print the book to _build/book.pdf with Chromium
	@echo "The book on paper is _build/book.pdf."

reproduce: $(INSTALLED) ## run what a study lacks: STUDY=shin2023 PROFILE=small|full DEVICE=cpu|cuda; resumes where it stopped
	$(BIN)/sparsemtl run $(STUDY) --profile $(PROFILE) --device $(DEVICE) --workers $(JOBS)

serve: book ## show the book at PORT=8000 on this machine
	$(BIN)/python -m http.server $(PORT) --bind localhost --directory _build/html

# Sorted names, one time stamp, no owner: the same book gives the same archive.
VERSION := $(shell sed -n 's/^version: //p' CITATION.cff)
RELEASE := sparsemtl-$(VERSION)
release: book ## pack book, records and checksums into _build/sparsemtl-VERSION.tar.gz, ready for an archive
	rm -rf _build/$(RELEASE) && mkdir -p _build/$(RELEASE)
	cp -R _build/html _build/$(RELEASE)/book
	cp -R results CITATION.cff LICENSE LICENSE-text README.md CHANGELOG.md _build/$(RELEASE)
	cd _build/$(RELEASE) && find . -type f ! -name SHA256SUMS -print0 | LC_ALL=C sort -z | xargs -0 sha256sum > SHA256SUMS
	tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C _build -cf - $(RELEASE) | gzip -n > _build/$(RELEASE).tar.gz
	@echo "The release is _build/$(RELEASE).tar.gz; inside, 'sha256sum -c SHA256SUMS' checks it."

test-all: $(INSTALLED) ## run all tests, those that take minutes as well
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m ''

lint: $(INSTALLED) ## check style, and that the notebooks carry no outputs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	find notebooks -maxdepth 1 -name '*.ipynb' -exec $(BIN)/nbstripout --verify {} +

audit: $(INSTALLED) ## look up known vulnerabilities of the locked packages; needs a network
	@$(BIN)/uvx pip-audit --version >/dev/null 2>&1 || { echo "No audit: pip-audit cannot be fetched; is there a network?" >&2; exit 2; }
	$(BIN)/uvx pip-audit --requirement requirements.lock --disable-pip --require-hashes

clean: ## remove what was built; .venv, records and caches of data stay
	rm -rf _build .pytest_cache .ruff_cache .hypothesis

# The lock holds uv itself: pip installs it from there, then uv installs the rest, which takes a quarter of pip's time.
# The path to the library is relative, so that it needs no encoding and no other checkout.
$(INSTALLED): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is not Python 3.11 or newer: name one, such as PYTHON=python3.12" >&2; exit 2; }
	"$(PYTHON)" -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r <(awk '/^[^ ]/ {keep = /^uv==/} keep' requirements.lock)
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -I -S -c 'import glob, os; [open(p, "w").write(os.path.relpath("lib", os.path.dirname(p)) + "\n") for p in glob.glob(".venv/lib/python*/site-packages/*sparsemtl*.pth")]'
	touch $@

# All chapters on one page, from the notebooks that are already executed. Sphinx writes it as if it lay at the top of its
# folder, whichever the landing page is.
_build/book.pdf: $(BOOK)
	$(BIN)/jupyter-book build . -W -n --keep-going --builder singlehtml
	sed 's|href="book/index.html#|href="#|g' _build/singlehtml/book/index.html > _build/singlehtml/book.html
	$(BIN)/python book/_ext/print_pdf.py _build/singlehtml/book.html $@

# All runs of the pages come first: a page alone would train fewer networks side by side, and start its own processes.
# Sphinx warns only about pages that it reads, so after a failure all are read again. What was executed is kept until
# something changes that it depends on: book/_ext/inputs.py.
$(BOOK): | $(INSTALLED)
	for study in $(notdir $(patsubst %/,%,$(wildcard lib/papers/*/))); do $(BIN)/sparsemtl run $$study --profile quick --workers $(JOBS); done
	$(BIN)/jupyter-book build . -W -n --keep-going || { rm -rf _build/.doctrees; exit 1; }
	rm -f _build/book-*
	touch $@
