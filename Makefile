# make demo    set up, then run all stages on made-up cases; minutes on two cores
# make test    set up, then lint and test
# make bounds  run a part of the tests with the oldest versions that requirements.txt allows, in .venv-oldest
# make site    set up, then build the site of docs/ in site/; a broken link or reference is an error
# make clean   remove the environment and the demo's files
#
# PYTHON=python3.12 takes another interpreter (3.11 or newer), VENV=folder another place for the
# environment, PLATFORM=cpu keeps to the CPU where there is an NVIDIA GPU.

PYTHON ?= python3
VENV ?= .venv
PLATFORM ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install
DRIVER := $(wildcard /proc/driver/nvidia/version /dev/nvidia0)$(shell command -v nvidia-smi 2>/dev/null)
CUDA := $(if $(filter cpu,$(PLATFORM)),,$(if $(strip $(DRIVER)),"jax[cuda13]"))

# A file's tests stay in one process, because its fixtures, such as a whole experiment, are made once a process.
TWO := --numprocesses=2 --dist=loadfile --no-loadscope-reorder

# Checkpoints, steps, commands: what a version of JAX or Orbax breaks first.
QUICK := tests/checkpointing tests/files tests/training/test_steps.py tests/training/test_search.py \
  tests/inference/test_predict.py tests/launch/test_main.py

.PHONY: demo test bounds site clean

demo: $(VENV)/.runtime
	$(BIN)/python -m launch demo --workdir=demo $(if $(PLATFORM),--platform=$(PLATFORM))

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/python -m pytest $(TWO)

bounds: $(VENV)-oldest/.test
	$(VENV)-oldest/bin/python -m pytest $(TWO) $(QUICK)

site: $(VENV)/.site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# An empty file says that the step before was finished, and from which requirements.
$(VENV)/.runtime: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; give another with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt $(CUDA)
	@touch $@

$(VENV)/.test: $(VENV)/.runtime requirements-test.txt requirements-docs.txt
	$(PIP) -r requirements-test.txt
	@touch $@

$(VENV)-oldest/.test: requirements.txt
	$(PYTHON) -m venv $(VENV)-oldest
	sed -n 's/^\([a-z-]*\)>=\([0-9.]*\).*/\1==\2/p' requirements.txt > $(VENV)-oldest/oldest.txt
	$(VENV)-oldest/bin/python -m pip install -r $(VENV)-oldest/oldest.txt pytest pytest-xdist hypothesis
	@touch $@

$(VENV)/.site: $(VENV)/.runtime requirements-docs.txt
	$(PIP) -r requirements-docs.txt
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest demo site
