# make run: the app on the bundled sample    make test: the tests    make fashion: the real thing
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCE ?= fashion-mnist
MODEL ?= facebook/dinov2-base
FASHION := data/fashion-mnist
PARALLEL ?= -n 2 --dist loadfile

.PHONY: setup dev run fashion test test-slow lint sample space clean

setup: $(VENV)/.ready
dev: $(VENV)/.ready-dev

$(VENV)/.ready: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/.ready-dev: requirements-dev.txt requirements-ray.txt $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt -c constraints.txt
	touch $@

run: setup
	$(BIN)/python app.py $(ARGS)

fashion: setup
	$(BIN)/python -m index build $(SOURCE) --title Fashion-MNIST --model $(MODEL) --out $(FASHION)
	$(BIN)/python app.py --index $(FASHION) $(ARGS)

test: dev
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-slow: dev
	$(BIN)/python -m pytest -m slow $(PARALLEL)

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

sample: dev
	$(BIN)/python assets/make_sample_source.py data/mnist-digits
	$(BIN)/python -m index build data/mnist-digits --model assets/model --limit 0 --projections --out assets/sample

# make space REPO=you/demo INDEX=you/your-index [ARGS="--revision v1 --private"]
space: setup
	$(BIN)/python -m index.space $(REPO) $(INDEX) $(ARGS)

clean:
	rm -rf $(VENV) data
