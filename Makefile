# Everything here sets itself up: python3 (3.11 or newer) and make are all that is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LLAMA := build/llama-cpp-python
ARM := build/arm
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Kernels are compiled once and kept here; phi3quant names the folders in it by all that they depend on.
export NUMBA_CACHE_DIR := $(CURDIR)/build/kernels

SECONDS ?= 60
POINTS ?= 100

.PHONY: help demo gate baseline test fuzz faults check docs test-real test-runtimes test-arm real tiny bench bench-quality bench-speed \
	format clean

help:
	@echo 'make demo       quantize the bundled model by RTN and AWQ, and compare them'
	@echo 'make gate       hold the bundled model, quantized, against its committed baseline'
	@echo 'make baseline   put the bundled model as it comes out now into that baseline; REASON=... says why'
	@echo 'make test       the tests'
	@echo 'make fuzz       spoiled files for every reader: SECONDS=60 for each, READER=gguf for one'
	@echo 'make faults     kill and fail runs at POINTS=100 changes of files, with each export'
	@echo 'make check      formatting, lint, types, layers, spelling, prose'
	@echo 'make docs       the documentation as pages, into build/docs'
	@echo 'make real       fetch a real model (135M parameters) and Phi-4'\''s vocabularies into models'
	@echo 'make test-real  the tests on the real model and in real runtimes'
	@echo 'make test-runtimes  those of them that CI runs'
	@echo 'make test-arm   files in an aarch64 build of llama.cpp, under qemu (the first build takes half an hour)'
	@echo 'make bench-quality  what quantizing costs, beside other tools: docs/quality.md (hours)'
	@echo 'make bench-speed    time and memory beside other tools: docs/performance.md (hours)'
	@echo 'make bench      both, and the speed of encoding and decoding'
	@echo 'make tiny       train the bundled model again (takes about 40 minutes)'

# What using phi3quant takes; the tests and checks take more.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo 'setting up $(VENV) with the packages of constraints.txt (once; downloads take some minutes)'
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.12")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) -e '.[docs]'
	touch $@

# llama.cpp is built from its Python package, whose sources tests/real reads too: for any CPU of
# this kind, since a build for this very one has crashed on AMX.
$(LLAMA)/.built: constraints.txt | $(VENV)/.installed
	rm -rf $(LLAMA)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check -c constraints.txt \
		--no-deps --no-binary llama-cpp-python -d $(LLAMA) llama-cpp-python
	CMAKE_ARGS='-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF' $(BIN)/python -m pip wheel --quiet --disable-pip-version-check \
		--no-deps -w $(LLAMA) $(LLAMA)/*.tar.gz
	touch $@

# A browser for the pages that phi3quant writes is Debian's; where it can't be had, the test says so.
$(VENV)/.installed-real: $(VENV)/.installed-dev $(LLAMA)/.built
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
		{ command -v apt-get >/dev/null && test "$$(id -u)" = 0 && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium chromium-driver fonts-dejavu-core; } || \
		echo 'No chromium and chromium-driver here, and no way to install them: tests/real/test_page.py will be skipped.'
	$(INSTALL) $(LLAMA)/*.whl
	$(INSTALL) -e '.[dev,real]'
	touch $@

# The arithmetic of a phone: llama.cpp for ARM with dot products and int8 matrix products, the
# instructions of phones since 2022, from the sources above. Compiler and emulator are Debian's.
$(ARM)/bin/llama-perplexity: $(LLAMA)/.built
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64 cmake; do command -v $$tool >/dev/null || missing=1; done; \
		test -z "$$missing" || { command -v apt-get >/dev/null && test "$$(id -u)" = 0 && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends g++-aarch64-linux-gnu qemu-user cmake; } || \
		{ echo 'make test-arm needs aarch64-linux-gnu-g++, qemu-aarch64 and cmake (Debian: g++-aarch64-linux-gnu qemu-user cmake).'; exit 1; }
	rm -rf $(ARM) && mkdir -p $(ARM)/source $(ARM)/bin
	tar xzf $(LLAMA)/*.tar.gz -C $(ARM)/source --strip-components=1
	cmake -S $(ARM)/source/vendor/llama.cpp -B $(ARM)/objects -DCMAKE_BUILD_TYPE=Release \
		-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
		-DCMAKE_EXE_LINKER_FLAGS=-static -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF \
		-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+i8mm+fp16 -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
		-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_APP=OFF
	cmake --build $(ARM)/objects --target llama-perplexity --parallel $$(nproc)
	cp $(ARM)/objects/bin/llama-perplexity $@

# Plots, and what the benchmarks of encoding and decoding compare with.
$(VENV)/.installed-bench: $(VENV)/.installed-real
	$(INSTALL) -e '.[dev,real,bench]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/phi3quant rtn --bits 4 -o build/demo/rtn --overwrite --no-verify
	$(BIN)/phi3quant awq --bits 4 -o build/demo/awq --overwrite --no-verify
	$(BIN)/phi3quant evaluate phi3-tiny build/demo/rtn build/demo/awq

# The commands of docs/ci/gate.yml; tests/test_ci_recipe.py holds them against it.
gate: $(VENV)/.installed
	$(BIN)/phi3quant awq phi3-tiny --samples 16 -o build/gate/artifact --overwrite --no-verify
	$(BIN)/phi3quant verify build/gate/artifact
	$(BIN)/phi3quant check build/gate/artifact --baseline docs/ci/phi3-tiny.baseline --max-ppl-increase 1% --max-drift 0.2% --junit build/gate/junit.xml --report build/gate/report.json

# After a change that moves the bundled model's results on purpose: make baseline REASON='...'
baseline: $(VENV)/.installed
	$(BIN)/phi3quant awq phi3-tiny --samples 16 -o build/gate/artifact --overwrite --no-verify
	$(BIN)/phi3quant baseline update build/gate/artifact --baseline docs/ci/phi3-tiny.baseline --reason '$(REASON)'

# One process a core, each with one thread.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

test: $(VENV)/.installed-dev
	$(TEST) --ignore=tests/real --ignore=tests/arm

# Spoiled files that end in anything but a result or a message are kept in build/fuzz.
fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(if $(READER),--reader '$(READER)')

faults: $(VENV)/.installed-dev
	$(BIN)/python -m tests.injection --points $(POINTS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python scripts/check_prose.py

# Warnings are errors.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

real: models/real/config.json models/phi-4/tokenizer.json

models/real/config.json: scripts/make_real.py | $(VENV)/.installed-dev
	$(BIN)/python scripts/make_real.py -o models/real --overwrite

models/phi-4/tokenizer.json: scripts/make_vocabularies.py | $(VENV)/.installed-dev
	PYTHONPATH=. $(BIN)/python scripts/make_vocabularies.py -o models

test-real: $(VENV)/.installed-real real
	$(TEST) tests/real -o timeout=3600

# The rest of tests/real takes longer than everything else in CI.
test-runtimes: $(VENV)/.installed-real models/real/config.json
	$(TEST) $(addprefix tests/real/test_,checkpoint.py llama.py memory.py onnx.py page.py runtimes.py) -o timeout=3600

test-arm: $(VENV)/.installed-real $(ARM)/bin/llama-perplexity
	$(BIN)/python -m pytest -s tests/arm -o timeout=3600

# OPTIONS='--only ours' and the like; both go on where they were interrupted.
bench-quality: $(VENV)/.installed-bench models/real/config.json
	$(BIN)/python -m benchmarks.quality $(OPTIONS)

bench-speed: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.speed $(OPTIONS)

bench: bench-quality bench-speed
	$(BIN)/python benchmarks/encoding.py
	$(BIN)/python benchmarks/genai_builder.py --model models/real

tiny: $(VENV)/.installed-dev
	$(BIN)/python scripts/train_tiny.py -o build/phi3-tiny --corpora build/tiny-corpora

clean:
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
