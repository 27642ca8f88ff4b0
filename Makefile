# Two commands are enough: `make demo` and `make test`. Everything they need is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
MASKFACES ?= ../shared/data/maskfaces
TESTS_AT_ONCE ?= 2# processes; a file's tests stay together, as many share what is slow to make
PYTEST = $(BIN)/pytest -n $(TESTS_AT_ONCE) --dist loadfile
INSTALLED := .venv/.installed

.PHONY: demo setup test test-all check format bench-probe bench-inside bench-train bench-stream bench-decide bench-doctor bench-audit maskfaces clean

demo: $(INSTALLED)  ## install, then run the main job on real images
	rm -rf finefold-demo
	$(BIN)/finefold demo

setup: $(INSTALLED)  ## make .venv with everything the other targets need

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[cpu,demo,dev]"
	touch $@

check: $(INSTALLED)  ## the one definition of clean
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(INSTALLED)
	$(PYTEST)

test-all: $(INSTALLED)
	$(PYTEST) -m "slow or not slow"

bench-probe: $(INSTALLED)  ## the main job against the loop a tutorial would write, side by side
	$(BIN)/python benchmarks/probe.py

bench-inside: $(INSTALLED)  ## looking inside a model and moving weights, beside building and running it
	$(BIN)/python benchmarks/inside.py

bench-train: $(INSTALLED)  ## training beside fastai and Lightning, in an environment made for them
	$(BIN)/python benchmarks/peers.py

bench-stream: $(INSTALLED)  ## memory of predicting 1,000 and 50,000 images, and what a few cost beyond their work
	$(BIN)/python benchmarks/streaming.py

bench-decide: $(INSTALLED)  ## bootstrap, greedy selection, class shares, counts; folds times views on a frozen prefix
	$(BIN)/python benchmarks/decide.py

bench-doctor: $(INSTALLED)  ## wrong pairings of images and labels that the doctor sees and names, and its false alarms
	$(BIN)/python benchmarks/alignment.py
	$(BIN)/python benchmarks/alarms.py

bench-audit: $(INSTALLED)  ## time and memory of an audit of 10,000 and 100,000 images, and the planted faults it finds
	$(BIN)/python benchmarks/auditing.py

maskfaces: $(INSTALLED)  ## the ladder of docs/guides/ladder.md: MASKFACES=folder -> finefold-maskfaces/submission.csv
	FINEFOLD=$(CURDIR)/$(BIN)/finefold examples/maskfaces.sh $(MASKFACES) finefold-maskfaces

clean:
	rm -rf finefold-demo finefold-maskfaces .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
