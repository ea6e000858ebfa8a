# make demo: train from a sentence and leave a video. make test: all checks. Both do all set-up themselves.

VENV ?= .venv
BIN ?= $(VENV)/bin
PYTHON ?=

# The demo's run; any of these can be set: make demo GOAL="cart at the left end of the track" SEED=1
GOAL ?= pole vertically upright on top of the cart
SEED ?= 0
RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

export GOAL
# Without the current folder on sys.path: agents/ at the root is not the package of that name on PyPI.
export PYTHONSAFEPATH = 1
# An idle OpenMP thread sleeps; spinning ones make small networks several times slower on a busy machine.
export OMP_WAIT_POLICY = PASSIVE
# pygame, which draws Gymnasium's own pictures, needs no window.
export SDL_VIDEODRIVER = dummy

.DEFAULT_GOAL := help
.PHONY: help setup demo test check fix clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /	/'

$(VENV)/.ready: pyproject.toml setup.py constraints.txt .ci/setup.sh
	@PYTHON="$(PYTHON)" sh .ci/setup.sh "$(VENV)"

setup: $(VENV)/.ready  ## virtual environment, packages, OpenGL libraries

demo: $(VENV)/.ready  ## train cartpole from a sentence, measure it, leave a video in videos/
	run="$(RUN)" && \
	"$(BIN)/vlmreward" train env=cartpole goal="$$GOAL" seed=$(SEED) run_dir="$$run" && \
	"$(BIN)/vlmreward" evaluate run="$$run" && \
	"$(BIN)/vlmreward" record run="$$run"

test: $(VENV)/.ready  ## set-up, then everything that must be green
	@sh .ci/browser.sh
	@$(MAKE) --no-print-directory check

check:  ## formatting, lint, types, tests (set-up done)
	"$(BIN)/ruff" format --check .
	"$(BIN)/ruff" check .
	"$(BIN)/mypy"
	"$(BIN)/pyright" --pythonpath "$(BIN)/python"
	"$(BIN)/pytest"

fix:  ## format, and repair what ruff can
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

clean:  ## remove caches and build folders; runs/, videos/ and the virtual environment stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
