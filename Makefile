# Bare `make` lists the targets. PYTHON chooses the interpreter (3.11 or newer), ARGS is handed on to the command.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test chaos soak backlog lint bench check-configs check-workflows reference clean

help: ## List the targets
	@echo "usage: make TARGET [PYTHON=python3.12] [ARGS='...']"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install: $(VENV)/.installed ## Make .venv with all that the project and its tests need (again only after pyproject.toml changed)

# The sentinel is written last: an installation broken off half-way is done again.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; found $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { echo "$(PYTHON) can't make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV); the first time this takes minutes, for torch is large"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: install ## Simulate machines, train, replay through a broker, show alerts (ARGS='--headless --json', '--bootstrap-servers HOST:PORT', ...)
	@$(BIN)/stream-detector demo $(ARGS)

test: install ## Run the tests (ARGS='-k window')
	$(BIN)/python -m pytest $(ARGS)

chaos: install ## Workers under seeded faults on Apache Kafka and Redis, judged by a verifier: half an hour (ARGS='--short', '--seed 2', '--minutes 5')
	$(BIN)/python -m tests.chaos $(ARGS)

soak: install ## Ten times more than a worker can do, for ten minutes: its memory stays (ARGS='--seconds 60 --after 20')
	$(BIN)/python -m tests.benchmarks.overload --json $(ARGS)

backlog: install ## A worker with a day's backlog, alone and beside live readings: its speed, their delay (ARGS='--hours 2')
	$(BIN)/python -m tests.benchmarks.backlog --json $(ARGS)

lint: install ## Check style and layout (ruff), types (mypy --strict) and who may import whom (import-linter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install ## Measure messages per second from poll to alert beside a bare poll loop
	$(BIN)/python -m tests.benchmarks.throughput $(ARGS)

check-configs: install ## Validate every set-up in configs/
	@for config in configs/*.yaml; do $(BIN)/stream-detector check $$config >/dev/null || exit; echo "$$config: valid"; done

check-workflows: ## Check .github/workflows with actionlint, which Go builds on first use
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 -color=false .github/workflows/*.yml

reference: install ## Make docs/configuration.md and the JSON Schema anew from stream_detector/config
	$(BIN)/stream-detector check --reference > docs/configuration.md
	$(BIN)/stream-detector check --schema > stream_detector/schemas/config.schema.json

clean: ## Remove the environment, caches and what demos wrote
	rm -rf $(VENV) build dist demo-output .servers .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
