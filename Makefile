# make demo: adapts the bundled backbone to the built-in spoken corpus, with the conformer adapter and a linear probe
# make lint: style, spelling, types
# make test: lints, builds the documents, then runs every test
# make test-fast: the quick tests, in less than two minutes
# make docs: builds the manual and the reference in site/; warnings are errors
# Each sets up what it needs in .venv; a fresh clone has to have python3 and make.

PYTHON ?= python3

.PHONY: setup demo lint test test-fast docs

setup: .venv/installed

.venv/installed: setup.cfg setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --constraint constraints.txt --editable '.[demo,test]'
	touch $@

demo: setup
	.venv/bin/python train.py hparams/train.yaml
	.venv/bin/python train.py hparams/train.yaml --method=linear
	.venv/bin/python -m brainplug report results/spoken

lint: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/yamllint --strict .
	.venv/bin/codespell
	.venv/bin/mypy

# One thread for each of the two test processes: more would make them wait for each other.
test test-fast: export HF_HUB_OFFLINE = 1
test test-fast: export OMP_NUM_THREADS = 1
test: lint docs
	.venv/bin/python -m pytest --numprocesses 2 --dist worksteal

test-fast: setup
	.venv/bin/python -m pytest --numprocesses 2 --dist worksteal -m 'not slow and not gpu' tests/unit tests/contract tests/consistency

docs: setup
	.venv/bin/mkdocs build --strict
