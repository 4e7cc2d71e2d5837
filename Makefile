# make demo: adapts the bundled backbone to the built-in spoken corpus, with the conformer adapter and a linear probe
# make test: lints, then runs every test
# Both set up what they need in .venv; a fresh clone has to have python3 and make.

PYTHON ?= python3

.PHONY: setup demo lint test

setup: .venv/installed

.venv/installed: setup.cfg pyproject.toml constraints.txt
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

# One thread for each of the two test processes: more would make them wait for each other.
test: export HF_HUB_OFFLINE = 1
test: export OMP_NUM_THREADS = 1
test: lint
	.venv/bin/python -m pytest --numprocesses 2 --dist worksteal
