# Every target makes the environment it needs; CI calls only these names.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: run test lab paper seeds notebooks readme bench clean lock

run: $(STAMP)  ## notebooks 01-05 on the bundled digits, then the table of results
	$(BIN)/python -m cbir_utils run

test: $(STAMP)  ## ruff, pytest, nbval
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest tests
	rm -rf results/check && mkdir -p results/check && cp -r notebooks results/check/
	$(BIN)/python -m pytest --nbval-lax --nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout 300 results/check/notebooks

lab: $(STAMP)  ## JupyterLab in notebooks/
	$(BIN)/jupyter lab --notebook-dir notebooks

paper: $(STAMP)  ## all notebooks on MNIST, with the paper's values
	$(BIN)/python -m cbir_utils run --dataset mnist --profile paper --to 99

seeds: $(STAMP)  ## the manifold on MNIST with three trainings (after make paper)
	$(BIN)/python -m cbir_utils run --dataset mnist --profile paper --from 08 --to 08 -p contrastive_seeds=3

notebooks: $(STAMP)  ## execute the committed notebooks in place
	$(BIN)/python -m cbir_utils refresh
	$(BIN)/ruff format notebooks

readme: $(STAMP)  ## write the README's results tables from results/
	$(BIN)/python -m cbir_utils readme

bench: $(STAMP)  ## exact search against the usual ways, in one run
	$(BIN)/python tests/bench_search.py

lock:  ## compile requirements.txt anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --extra test \
		--no-header --no-annotate --upgrade pyproject.toml --output-file requirements.txt

clean:  ## remove everything a run wrote
	rm -rf results

$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and 'Python 3.11 to 3.13 is needed; name one with make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	touch $@
