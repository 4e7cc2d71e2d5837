"""python -m brainplug, as a user calls it."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml

from brainplug.backbones.loading import HUB_NAMES, bundled_names
from brainplug.results.documents import METHODS_MARKS
from brainplug.results.tables import results_table
from tests.integration.running import ESC50_RECIPE, Run, run_train
from tests.made_runs import make_run

ROOT = Path(__file__).parents[2]
METHODS = load_hyperpyyaml((ROOT / "hparams" / "methods.yaml").read_text())


def brainplug(*arguments: str) -> Run:
    return run_train(list(arguments), ROOT, main="brainplug.cli:main")


@pytest.fixture(scope="module")
def listing() -> str:
    done = brainplug("methods", "--backbone", "nano-ast", "--n_classes", "10")
    assert done.code == 0, done.output
    return done.output


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_listed(listing, method):
    assert any(line.startswith(f"| {method} ") for line in listing.splitlines())


def test_the_linear_probe_trains_the_head_and_the_final_norm(listing):
    linear = next(line for line in listing.splitlines() if line.startswith("| linear"))
    assert [cell.strip() for cell in linear.split("|")][2:4] == [f"{193 * 10 + 384:,}", "384"]


def test_the_table_of_the_methods_is_written_between_its_marks(tmp_path):
    document = tmp_path / "README.md"
    document.write_text("\n".join(METHODS_MARKS))
    done = brainplug("methods", "--backbone", "ast", "--write", str(document))
    assert done.code == 0, done.output
    assert document.read_text() == f"{METHODS_MARKS[0]}\n{done.output}{METHODS_MARKS[1]}"


def test_the_backbones_are_listed():
    done = brainplug("backbones")
    assert done.code == 0, done.output
    for name in (*bundled_names(), *HUB_NAMES):
        assert f"| {name} " in done.output


def test_the_groups_of_an_optimiser_are_listed():
    done = brainplug("optimizers", "--backbone", "nano-ast", "--method", "conformer")
    assert done.code == 0, done.output
    assert [line.split(" ")[1] for line in done.output.splitlines()[2:]] == ["conv", "norm", "other"]


def test_records_are_drawn_where_there_are_no_results(tmp_path):
    record = {"step": 10, "group": "conv", "name": "down.weight", "bands": [0.7, 0.3], "momentum": 0.9}
    (tmp_path / "fam.jsonl").write_text(json.dumps(record))
    done = brainplug("report", str(tmp_path))
    assert done.code == 0, done.output
    assert done.output.strip() == f"Drawn: {tmp_path / 'fam.png'}"
    assert (tmp_path / "fam.png").exists()


def test_the_report_prints_its_table_and_writes_its_page(tmp_path):
    results = make_run(tmp_path / "run")
    done = brainplug("report", str(tmp_path))
    assert done.code == 0, done.output
    assert done.output == f"{results_table([results])}\nWritten: {tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").exists()


def test_without_what_draws_the_report_prints_its_table_and_says_what_is_missing(tmp_path):
    results = make_run(tmp_path / "runs" / "run")
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('it is hidden', name='matplotlib')")
    positions = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, "-m", "brainplug", "report", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": positions})
    assert done.returncode == 2
    assert done.stdout == f"{results_table([results])}\n"
    assert "matplotlib is missing" in done.stderr and "brainplug[plot]" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("methods", "--backbone", "nano-asst"), "nano-ast"),
        (("methods", "--hparams", "nowhere"), "methods.yaml"),
        (("methods", "--write", "LICENSE"), "lacks the marks"),
        (("optimizers", "--optimizer", "fan"), "one of: fam"),
        (("optimizers", "--method", "loar"), "lora"),
        (("report", "nowhere"), "no results.json"),
        (("methods", "--backbone", "random:nano-asst"), "random:nano-ast"),
        (("sound", "brainplug"), "Something else is there"),
        (("import-petl-ast", "nowhere.pt", "--method=linear", "--out=nowhere"), "nowhere.pt"),
    ],
)
def test_bad_input_is_told_without_a_traceback(arguments, message):
    done = brainplug(*arguments)
    assert done.code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_a_published_command_line_starts_a_run(tiny_backbones, shared_esc50, tmp_path):
    published = (
        f"python3 main.py --data_path {shared_esc50} --dataset_name ESC-50 --is_AST True --seed 3 "
        f"--method adapter --reduction_rate_adapter 4 --model_ckpt_AST {tiny_backbones['ast']} "
        "--is_few_shot_exp True --few_shot_samples 9"
    )
    done = brainplug("import-petl-ast", "--flags", published)
    assert done.code == 0, done.output
    words = shlex.split(done.output.splitlines()[-1])
    assert words[:3] == ["python", "train.py", "recipes/ESC50/hparams/train.yaml"]
    options = ["--device=cpu", "--noprogressbar", "--number_of_epochs=1", "--batch_size=4"]
    replaced = {option.partition("=")[0] for option in options}
    run = run_train(
        [ESC50_RECIPE, *options, *(word for word in words[3:] if word.split("=")[0] not in replaced)], tmp_path
    )
    assert run.code == 0, run.output
    [path] = tmp_path.rglob("results.json")
    actual = json.loads(path.read_text())
    assert (actual["method"], actual["few_shot"], actual["n_train"], actual["seed"]) == ("conformer", 9, 18, 3)
    assert actual["paper_code"]
    assert path.parent.parent.name.endswith("-conformer-fold1-9shot-published")
