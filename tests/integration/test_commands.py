"""python -m brainplug, as a user calls it."""

import subprocess
import sys
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml

ROOT = Path(__file__).parents[2]
METHODS = load_hyperpyyaml((ROOT / "hparams" / "methods.yaml").read_text())


def brainplug(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "brainplug", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def listing() -> str:
    done = brainplug("methods", "--backbone", "nano-ast", "--n_classes", "10")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_listed(listing, method):
    assert any(line.startswith(f"{method} ") for line in listing.splitlines())


def test_the_linear_probe_trains_the_head_and_the_final_norm(listing):
    linear = next(line for line in listing.splitlines() if line.startswith("linear"))
    assert linear.split()[1:3] == [f"{193 * 10 + 384:,}", "384"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("methods", "--backbone", "nano-asst"), "nano-ast"),
        (("methods", "--hparams", "nowhere"), "methods.yaml"),
        (("report", "nowhere"), "no results.json"),
    ],
)
def test_bad_input_is_told_without_a_traceback(arguments, message):
    done = brainplug(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
