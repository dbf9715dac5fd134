# Every target runs in the project's own virtual environment, made on first use.
VENV ?= .venv
PYTHON ?= python3
EXTRAS ?= test
BIN := $(VENV)/bin

.PHONY: install chromium demo test conformance lint experiments clean

$(VENV)/installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

install: $(VENV)/installed

# The browser that tests of the page drive. Where it cannot be installed they are skipped, and say so.
chromium:
	@command -v chromium > /dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null \
			&& apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core > /dev/null; } \
		|| echo "no chromium: the tests in tests/apps/test_browser.py will be skipped"

# make demo ARGS='photo.jpg --prompt "the red mug" --fov 65' asks about your own picture.
demo: install
	$(BIN)/python examples/demo.py $(ARGS)

test: install
	$(BIN)/python -m pytest

conformance: install
	$(BIN)/python tests/conformance/fetch.py
	$(BIN)/python -m pytest tests/conformance

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

experiments: install
	$(BIN)/python examples/experiments/run.py all

clean:
	rm -rf $(VENV) build dist *.egg-info
