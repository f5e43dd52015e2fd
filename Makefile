# Two commands: `make demo` and `make test`. Each creates what it needs, once: the virtual
# environment .venv with pinned packages, and the C++ build in build/. Neither needs root.
#
#   make demo    install, then the demonstration
#   make test    formatting, C++ tests, Python tests with Transformers 5.x and again with 4.57,
#                those with lm-evaluation-harness, those of the wheel, the server and its page
#   make test-ray  the server and data sets on Ray; not part of `make test`
#   make bench   the benchmarks behind the figures of README.md
#   make docs    the site, in build/site; `make notebooks` executes and stores the notebooks
#   make trust   the promises of docs/reliability.md at their full size; CHECKS names some of them
#   make sanitize  the same on operators with the address and undefined-behaviour sanitizers
#   make wheel   the wheel of this machine's platform, for every Python >= 3.11, and the sources
#                (dist/)
#   make hardening  what the compiler's hardening flags cost, in CPU time
#   make pins    compiles requirements/*.in to *.txt; PINS=--upgrade takes the newest versions
#   make format  formats Python and C++
#   make clean   removes what was built; `make distclean` removes .venv as well
#
# TORCH_SPEC chooses torch: a pip requirement, with options if need be, for example
#   make demo TORCH_SPEC="torch --index-url <address of PyTorch's CPU builds>"
TORCH_SPEC ?= torch==2.13.0
PYTHONS ?= python3.11 python3.12 python3.13 python3
WHEEL_PYTHONS ?= python3.11 python3.12 python3.13
# Processes that tests run in at the same time; nproc would give OMP_NUM_THREADS where it is set.
JOBS ?= $(shell env -u OMP_NUM_THREADS nproc)
PYTEST_ARGS ?=
ifeq ($(origin CXX),default)
CXX := c++
endif

VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check
PYTEST = $(PYTHON) -m pytest --numprocesses $(JOBS) --dist loadfile --durations 15 $(PYTEST_ARGS)
OVERLAY := $(CURDIR)/$(VENV)/transformers-4
ECOSYSTEM := $(CURDIR)/$(VENV)/ecosystem
EVAL := $(CURDIR)/$(VENV)/eval
DOCS := $(CURDIR)/$(VENV)/docs
PACKAGE := $(CURDIR)/$(VENV)/package
SERVE := $(CURDIR)/$(VENV)/serve
WEB := $(CURDIR)/$(VENV)/web
RAY := $(CURDIR)/$(VENV)/ray
CATCH2 := $(CURDIR)/$(VENV)/catch2
SOURCES := CMakeLists.txt setup.py pyproject.toml $(shell find csrc cmake -type f)
CPP_FILES = $(shell find csrc tests/cpp -name '*.h' -o -name '*.c*')
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export CXX

.PHONY: demo test install bench wheel docs notebooks trust sanitize hardening lint format clean
.PHONY: distclean test-cpp test-python test-eval test-docs test-package test-serve test-web
.PHONY: test-ray
.PHONY: test-pythons pins
.DELETE_ON_ERROR:

demo: install
	$(VENV)/bin/dpad demo

# One architecture is enough to test the build: sm_80, with PTX that newer GPUs compile for
# themselves.
test: export DPAD_CUDA_ARCHITECTURES ?= 80
test: lint test-cpp test-python test-eval test-docs test-package test-serve test-web

install: $(VENV)/.dpad

bench: install
	$(PYTHON) -m benchmarks.run

# auditwheel names the oldest system that the wheel runs on; torch's libraries are the user's.
wheel: install $(PACKAGE)/.done
	rm -rf build/lib.* build/bdist.* build/wheel dist
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	PATH=$(PACKAGE)/bin:$$PATH PYTHONPATH=$(PACKAGE) $(PYTHON) -m auditwheel repair \
	  --exclude 'libtorch*.so' --wheel-dir dist build/wheel/*.whl
	$(PYTHON) setup.py --quiet sdist
	@ls dist

# --- environment: each step leaves a stamp -------------------------------------------------------

$(VENV)/.python:
	@for python in $(PYTHONS); do \
	  if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	      2>/dev/null; then \
	    echo "dpad: virtual environment from $$($$python --version)"; \
	    $$python -m venv $(VENV) && touch $@ && exit 0; \
	  fi; \
	done; \
	echo "dpad: none of '$(PYTHONS)' is a Python >= 3.11 that can make a virtual environment" \
	  "with pip. Install one (Debian, Ubuntu: python3-venv python3-dev) or name it:" \
	  "make PYTHONS=/path/to/python3 ..." >&2; exit 1

$(VENV)/.compiler: $(VENV)/.python
	@echo '#include <concepts>' | $(CXX) -std=c++20 -x c++ -fsyntax-only - 2>/dev/null || { \
	  echo "dpad: '$(CXX)' is not a C++20 compiler. Install one (g++ >= 11 or clang >= 14;" \
	  "Debian, Ubuntu: g++) or name it: make CXX=/path/to/g++ ..." >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig as s; \
	  sys.exit(not os.path.exists(s.get_paths()["include"] + "/Python.h"))' || { \
	  echo "dpad: the headers of $$($(PYTHON) --version) are missing (Python.h). Install them" \
	  "(Debian, Ubuntu: python3-dev) or name another Python: make PYTHONS=... ..." >&2; exit 1; }
	@touch $@

$(VENV)/.torch: $(VENV)/.compiler
	$(PIP) install $(TORCH_SPEC)
	@touch $@

$(VENV)/.packages: $(VENV)/.torch requirements/build.txt requirements/test.txt
	$(PIP) install -r requirements/build.txt -r requirements/test.txt
	@touch $@

# The build runs by itself first, so that it shows its progress; pip then finds nothing to build.
$(VENV)/.dpad: $(VENV)/.packages $(SOURCES)
	$(PYTHON) setup.py --quiet build_ext --inplace
	$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

# Overlay folders, put before the environment's own packages: one per file in requirements/. Folders
# and not environments (of nox, or of uv with --system-site-packages, which shows the base Python's
# packages and not those of .venv): each of nine would install torch again, and the tests could not
# put one on top of another.
$(CURDIR)/$(VENV)/%/.done: requirements/%.txt $(VENV)/.packages
	rm -rf $(@D)
	$(PIP) install --no-deps --target $(@D) -r $<
	@touch $@

# Catch2 is the system's package (Debian: catch2). For those who have none and cannot install one:
# the single header of 2.13, which a wheel for Python 3.12 carries.
$(CATCH2)/.done: $(VENV)/.python
	rm -rf $(CATCH2)
	@mkdir -p $(CATCH2)
	@for header in catch2/catch_all.hpp catch2/catch.hpp; do \
	  echo "#include <$$header>" | $(CXX) -std=c++20 -x c++ -fsyntax-only - 2>/dev/null || continue; \
	  echo "dpad: the system's Catch2"; touch $@; exit; \
	done; \
	$(PIP) download --no-deps --only-binary=:all: --python-version 3.12 \
	  --dest $(CATCH2) comma-deps-catch2==2.13.10.post96 \
	  && $(PYTHON) -m zipfile -e $(CATCH2)/*.whl $(CATCH2) && touch $@ \
	  || echo "dpad: there is no Catch2, and its header could not be fetched" >&2

# --- tests ---------------------------------------------------------------------------------------

lint: $(VENV)/.packages
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@echo "clang-format --dry-run --Werror (C++)"
	@$(VENV)/bin/clang-format --dry-run --Werror $(CPP_FILES)
	@if command -v hadolint >/dev/null; then echo "hadolint Dockerfile"; hadolint Dockerfile; fi

test-cpp: $(VENV)/.packages $(CATCH2)/.done
	cmake -S . -B build/tests -G Ninja --log-level=WARNING -DDPAD_BUILD_TESTS=ON \
	  -DDPAD_HOST=OFF -DDPAD_BUILD_CUDA=OFF -DPython3_EXECUTABLE=$(CURDIR)/$(PYTHON) \
	  -DDPAD_CATCH2_INCLUDE=$(CATCH2)/catch2/install/include
	cmake --build build/tests --target dpad_tests
	ctest --test-dir build/tests --output-on-failure --parallel $(JOBS)

# Once with Transformers 5.x. Once more with 4.57 where a test's result could differ: what tests
# models and generation and is not marked `once` (pyproject.toml). With what people put on models,
# both.
test-python: install $(OVERLAY)/.done $(ECOSYSTEM)/.done
	$(PYTEST) --ignore tests/ecosystem --ignore tests/eval --ignore tests/serving --ignore tests/site \
	  --ignore tests/package --ignore tests/web --ignore tests/scale_out
	PYTHONPATH=$(OVERLAY) $(PYTEST) -m "not once" tests/models tests/generation
	PYTHONPATH=$(ECOSYSTEM) $(PYTEST) tests/ecosystem
	PYTHONPATH=$(OVERLAY):$(ECOSYSTEM) $(PYTEST) tests/ecosystem

# With lm-evaluation-harness (an overlay of 390 MB, mostly pyarrow, pandas and its tasks).
test-eval: install $(EVAL)/.done
	PYTHONPATH=$(EVAL) $(PYTEST) tests/eval

# The wheel and the sources that `make wheel` leaves in dist/.
test-package: wheel
	PYTHONPATH=$(PACKAGE) $(PYTEST) tests/package

# The wheel in a clean environment of every Python named here that there is; not part of `test`:
# each downloads its own torch (TORCH_SPEC).
test-pythons: wheel
	@for python in $(WHEEL_PYTHONS); do \
	  folder=build/pythons/$$python; rm -rf $$folder; \
	  $$python -m venv $$folder || { echo "dpad: $$python is not here" >&2; continue; }; \
	  $$folder/bin/pip install --quiet $(TORCH_SPEC) && \
	  $$folder/bin/pip install --quiet "$$(echo dist/*.whl)[cli]" && \
	  (cd $$folder && bin/dpad doctor) || exit 1; \
	done

# With the server's packages and OpenAI's client, over 127.0.0.1.
test-serve: install $(SERVE)/.done
	PYTHONPATH=$(SERVE) $(PYTEST) tests/serving

# The server's page in a headless browser, the system's own Chromium (or DPAD_BROWSER).
test-web: install $(SERVE)/.done $(WEB)/.done
	PYTHONPATH=$(WEB):$(SERVE) $(PYTHON) -m pytest $(PYTEST_ARGS) tests/web

# On Ray, in one process: it starts a cluster of its own on this machine. Not part of `test`: it
# takes minutes, mostly to start Ray's processes.
test-ray: install $(SERVE)/.done $(RAY)/.done
	PYTHONPATH=$(RAY):$(SERVE) $(PYTHON) -m pytest $(PYTEST_ARGS) tests/scale_out

# Site and notebooks, with the packages of requirements/docs.txt.
test-docs: install $(DOCS)/.done
	PYTHONPATH=$(DOCS) $(PYTEST) tests/site

docs: install $(DOCS)/.done
	PYTHONPATH=$(DOCS) $(PYTHON) -m sphinx -W --keep-going -q -b html -d build/doctrees \
	  -c docs . build/site
	@echo "build/site/docs/index.html"

notebooks: install $(DOCS)/.done
	PYTHONPATH=$(DOCS) $(PYTHON) examples/notebooks

# --- reliability ---------------------------------------------------------------------------------

trust: install
	$(PYTHON) -m tests.trust $(CHECKS)

# A copy of the package with sanitized operators. Python itself is not: the runtimes come first by
# LD_PRELOAD, and leaks of the interpreter do not count. A report ends the process.
SANITIZED := $(CURDIR)/build/sanitize
SANITIZE_CHECKS ?= valid repeats malformed operators interrupts threads arguments
sanitize: install
	cmake -S . -B $(SANITIZED)/build -G Ninja --log-level=WARNING \
	  -DDPAD_SANITIZE=address,undefined -DDPAD_HOST=OFF -DDPAD_BUILD_CUDA=OFF \
	  -DPython3_EXECUTABLE=$(CURDIR)/$(PYTHON)
	cmake --build $(SANITIZED)/build --target _C
	rm -rf $(SANITIZED)/package && mkdir -p $(SANITIZED)/package
	cp -r dpad $(SANITIZED)/package && rm -f $(SANITIZED)/package/dpad/*.so
	cp $(SANITIZED)/build/_C.abi3.so $(SANITIZED)/package/dpad
	ln -s $(CURDIR)/tests $(SANITIZED)/package/tests
	cd $(SANITIZED)/package && OMP_NUM_THREADS=2 \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1 \
	  UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1 \
	  $(CURDIR)/$(PYTHON) -m tests.trust $(SANITIZE_CHECKS) $(SANITIZE_ARGS)

# What the flags of docs/reliability.md cost: the operators once more without them, in turns.
hardening: install
	cmake -S . -B build/plain -G Ninja --log-level=WARNING -DDPAD_HARDEN=OFF -DDPAD_HOST=OFF \
	  -DDPAD_BUILD_CUDA=OFF -DPython3_EXECUTABLE=$(CURDIR)/$(PYTHON)
	cmake --build build/plain --target _C
	$(PYTHON) -m benchmarks.hardening build/plain/_C.abi3.so

# uv has an environment of its own: nothing else needs it.
PINS ?=
build/uv/bin/uv: | $(VENV)/.python
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet uv==0.13.9

pins: build/uv/bin/uv
	build/uv/bin/python requirements $(PINS)

format: $(VENV)/.packages
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	@$(VENV)/bin/clang-format -i $(CPP_FILES)

clean:
	rm -rf build dist *.egg-info dpad/*.so $(VENV)/.dpad

distclean: clean
	rm -rf $(VENV)
