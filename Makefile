# Every target makes the environment it needs; CI calls only these names.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
OLDEST = results/oldest
LOCK ?= requirements.txt
PIP = "$(BIN)/python" -m pip install --disable-pip-version-check --quiet --constraint $(LOCK)
PORT ?= 8866
CBIR_RESULTS ?= results
CBIR_DATASET ?= digits
DATASET ?= mnist
NOTEBOOKS ?= notebooks
ONLY ?= [0-9][0-9]_*
LESSONS = 00_neural_network_primer 10_search_your_images
NBVAL = "$(BIN)/python" -m pytest --nbval-lax --nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout 300 --junitxml
BROWSER = $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name) 2>/dev/null)))

# Installing without a network, from what `make wheelhouse` has collected: make run WHEELHOUSE=wheelhouse
ifdef WHEELHOUSE
export PIP_NO_INDEX = 1
PIP += --find-links "$(WHEELHOUSE)"
endif

.PHONY: run test test-modules test-notebooks test-series test-lessons test-browser test-scale test-workshop test-oldest test-faults lab app site paper report paper-seeds seeds notebooks results workshop wheelhouse bench bench-scale clean lock

run: $(STAMP)  ## notebooks 01-05 on the bundled digits, then the table of results
	"$(BIN)/python" -m cbir_utils run

test: $(VENV)/.installed-scale  ## ruff, then pytest and nbval, two of the three parts at a time: one for each core
	"$(BIN)/ruff" format --check .
	"$(BIN)/ruff" check .
	$(MAKE) -j2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=line) test-modules test-series test-lessons
	"$(BIN)/python" tests/compared.py

# Each part has a core: threads beyond that would mostly wait for one another.
test-modules test-series test-lessons: export OMP_NUM_THREADS = 1

test-modules: $(VENV)/.installed-scale  ## pytest
	"$(BIN)/python" -m pytest -m "not long" tests

test-notebooks: test-series test-lessons  ## nbval, on copies of the notebooks
	"$(BIN)/python" tests/compared.py

test-series: $(VENV)/.installed-scale  ## nbval: the notebooks that build on each other
	rm -rf results/check/series && mkdir -p results/check/series && cp -r notebooks results/check/series/
	cd results/check/series/notebooks && rm $(LESSONS:=.ipynb)
	"$(BIN)/python" tests/shorten.py results/check/series/notebooks/*.ipynb
	$(NBVAL) results/check/series.xml results/check/series/notebooks

test-lessons: $(VENV)/.installed-scale  ## nbval: the notebooks that stand alone
	rm -rf results/check/lessons && mkdir -p results/check/lessons/notebooks
	cp $(LESSONS:%=notebooks/%.ipynb) results/check/lessons/notebooks/
	$(NBVAL) results/check/lessons.xml results/check/lessons/notebooks

test-browser:  ## JupyterLab and the app in a real browser; screenshots and latencies in results/browser
	@test -n "$(BROWSER)" || { echo "make test-browser needs a browser: install chromium (apt-get install chromium)"; exit 1; }
	$(MAKE) $(VENV)/.installed-browser $(VENV)/.installed-site
	test -f results/browser/results/digits/metrics.json || "$(BIN)/python" -m cbir_utils run --results results/browser/results
	rm -rf results/browser/notebooks && cp -r notebooks results/browser/notebooks
	"$(BIN)/python" -m pytest --capture=no tests/browser

test-scale: $(VENV)/.installed-scale $(VENV)/.installed-server  ## what takes longer: workers that are killed, a small make bench-scale, the contract on a real Milvus server
	"$(BIN)/python" -m pytest -m long tests
	"$(BIN)/python" -m pytest tests/server

test-workshop: $(VENV)/.installed-scale  ## the participants' notebooks, run as handed out: no empty exercise passes; seconds of each
	"$(BIN)/python" tests/run_workshop.py

test-faults: $(STAMP)  ## damaged files, killed processes, full disks, strangers at the door: tables in results/bench/faults.md
	"$(BIN)/python" tests/faults.py

test-oldest: $(OLDEST)/.installed  ## what learns and searches, with the lowest versions that pyproject.toml allows
	"$(OLDEST)/bin/python" -m pytest $(addprefix tests/,test_datasets.py test_index.py test_metrics.py test_models.py \
		test_plots.py test_run.py test_training.py artifacts folders methods runner/test_notebooks.py)

lab: $(STAMP)  ## JupyterLab in notebooks/, or another folder: NOTEBOOKS=results/workshop
	"$(BIN)/jupyter" lab --notebook-dir "$(NOTEBOOKS)"

app: $(STAMP)  ## the explorer as a page on this machine: PORT=8866, CBIR_DATASET=digits, CBIR_RESULTS=results
	"$(BIN)/python" -m cbir_utils app --results "$(CBIR_RESULTS)/$(CBIR_DATASET)" --port $(PORT)

site: $(VENV)/.installed-site  ## the notebooks, the report and an explorer as pages that open from the disk, in results/site/pages
	test -f results/digits/report/index.html || "$(BIN)/python" -m cbir_utils run --to 12 --skip 10 --skip 11
	"$(BIN)/python" notebooks/site/build.py

paper: $(STAMP)  ## MNIST with the paper's values, to the report; a second start goes on where the first stopped
	"$(BIN)/python" -m cbir_utils run --dataset mnist --profile paper --to 12 --skip 10 --skip 11 --resume

report: $(STAMP)  ## the report on the paper anew, from the artifacts: DATASET=mnist
	"$(BIN)/python" -m cbir_utils report --results "results/$(DATASET)"

paper-seeds: $(STAMP)  ## the main rows with five trainings each, then the report (after make paper; hours)
	"$(BIN)/python" -m cbir_utils run --dataset mnist --profile paper --from 06 --to 06 -p seeds=5 --resume
	"$(BIN)/python" -m cbir_utils run --dataset mnist --profile paper --from 08 --to 08 -p taught_seeds=5 --resume
	"$(BIN)/python" -m cbir_utils run --dataset mnist --profile paper --from 12 --to 12

seeds: $(STAMP)  ## the manifold on MNIST with three trainings (after make paper)
	"$(BIN)/python" -m cbir_utils run --dataset mnist --profile paper --from 08 --to 08 -p taught_seeds=3

notebooks: $(STAMP)  ## execute the committed notebooks in place; some only: ONLY='06*'
	"$(BIN)/jupyter" nbconvert --to notebook --inplace --execute \
		--ClearMetadataPreprocessor.enabled=True \
		--ClearMetadataPreprocessor.preserve_cell_metadata_mask="{'tags', 'jupyter'}" \
		--ClearMetadataPreprocessor.preserve_nb_metadata_mask="{'kernelspec', ('language_info', 'name')}" \
		notebooks/$(ONLY).ipynb
	"$(BIN)/python" tests/tidy.py notebooks/*.ipynb
	"$(BIN)/ruff" format notebooks

results: $(STAMP)  ## write the tables of RESULTS.md and README.md from results/
	"$(BIN)/python" -m cbir_utils results

workshop: $(STAMP)  ## the notebooks without solutions, for participants, in results/workshop
	"$(BIN)/python" -m cbir_utils workshop

wheelhouse:  ## every package that run, test, lab and app need, for machines like this one without a network
	$(PYTHON) -m pip wheel --disable-pip-version-check --quiet --wheel-dir wheelhouse --constraint requirements.txt setuptools '.[test,scale]'
	rm -f wheelhouse/cbir_utils-*.whl

bench: $(VENV)/.installed-bench  ## search against the usual ways (after make paper), then looking twice from three seeds: results/bench/
	"$(BIN)/python" tests/bench_search.py
	"$(BIN)/python" tests/bench_matched.py

bench-scale: $(STAMP)  ## up to ten million images (after make paper): results/bench/scale_mnist.json and .png
	"$(BIN)/python" tests/bench_scale.py

lock:  ## compile requirements.txt anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --all-extras \
		--no-header --no-annotate --upgrade pyproject.toml --output-file requirements.txt

clean:  ## remove everything a run wrote
	rm -rf results

$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and 'Python 3.11 to 3.13 is needed; name one with make PYTHON=python3.12')"
	$(PYTHON) -m venv "$(VENV)"
	$(PIP) setuptools
	$(PIP) --no-build-isolation --editable '.[test]'
	touch "$@"

$(OLDEST)/.installed: pyproject.toml tests/oldest.py | $(STAMP)
	rm -rf "$(OLDEST)" && $(PYTHON) -m venv "$(OLDEST)"
	"$(BIN)/python" tests/oldest.py > "$(OLDEST)/lowest.txt"
	"$(OLDEST)/bin/python" -m pip install --disable-pip-version-check --quiet setuptools
	"$(OLDEST)/bin/python" -m pip install --disable-pip-version-check --quiet --no-build-isolation \
		--constraint "$(OLDEST)/lowest.txt" --editable '.[test]'
	touch "$@"

$(VENV)/.installed-bench: $(STAMP)  # hnswlib is compiled with what is installed before it
	$(PIP) pybind11
	$(PIP) --no-build-isolation --editable '.[bench]'
	touch "$@"

$(VENV)/.installed-%: $(STAMP)  # an extra: browser, scale, server, site or bench
	$(PIP) --no-build-isolation --editable '.[$*]'
	touch "$@"
