"""Killed at any moment, the same command goes on and ends with the same weights, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from brainplug.config.lock import hold_folder
from tests.integration.running import KILLED, REPOSITORY, Run, kill, run_in_two
from tests.made_adapters import WEIGHTS

AUGMENT = """--augment=
- !new:brainplug.data.augment.TimeShift
- !new:brainplug.data.augment.Mixup
  alpha: 0.4
- !new:brainplug.data.augment.SpecAugment
  frequency_width: 8
  time_width: 16
"""
FAM = REPOSITORY / "tests" / "data" / "fam.yaml"
# 24 training clips in batches of 4: 6 batches an epoch, 18 in all. One epoch's validation takes 2 batches, a test 2.
COMMON = ["--number_of_epochs=3", "--seed=1", AUGMENT, "--output_folder=results"]
SETUPS = {
    "conformer": ["--method=conformer", "--ckpt_interval_steps=2"],
    "full": ["--method=full", "--lr=0.003", "--ckpt_interval_steps=1"],
    "accumulation": ["--method=conformer", "--grad_accumulation_factor=2", "--ckpt_interval_steps=1"],
    "lora": ["--method=lora", "--ckpt_interval_steps=4", "--num_workers=2"],
    "by_seconds": [
        "--method=conformer", "--batch_seconds=1.6", "--features_on_device=True", "--ckpt_interval_steps=2",
        "--augment=[noise, time_shift, mixup]",
    ],
    "adalora": ["--method=adalora", "--ckpt_interval_steps=2"],
    "fam": ["--method=conformer", "--optimizer=fam", f"--optimizers=!include:{FAM}", "--ckpt_interval_steps=2"],
    "fadam": ["--method=conformer", "--optimizer=fadam", "--ckpt_interval_steps=2"],
    "published": ["--method=conformer", "--paper_code=True", "--few_shot=10", "--ckpt_interval_steps=2"],
}  # fmt: skip
BRAIN, CHECKPOINTS = "brainplug.training.classification:ClassificationBrain", "brainplug.training.checkpoints"
CHANGES_WITH_EACH_RUN = ("seconds", "seconds_per_epoch", "peak_memory_bytes")

# Where a run dies: name -> (setup, the place of each death in turn).
KILL_POINTS = {
    "before any checkpoint": ("conformer", [partial(kill, f"{BRAIN}.fit_batch", 1, "after")]),
    "in the first epoch": ("conformer", [partial(kill, f"{BRAIN}.fit_batch", 4)]),
    "after the first batch of an epoch": ("full", [partial(kill, f"{BRAIN}.fit_batch", 7, "after")]),
    "before the optimiser's step": ("full", [partial(kill, f"{BRAIN}.optimizers_step", 15)]),
    "between two batches of a step": ("accumulation", [partial(kill, f"{BRAIN}.fit_batch", 10)]),
    "after the model's file of a checkpoint": (
        "conformer",
        [partial(kill, "brainplug.adapters.file:save_delta", 6, "after")],
    ),
    "before a checkpoint's checksums": ("full", [partial(kill, f"{CHECKPOINTS}:_finish", 5)]),
    "before a checkpoint gets its name": ("accumulation", [partial(kill, f"{CHECKPOINTS}:_finish", 7)]),
    "amid the removal of an old checkpoint": ("conformer", [partial(kill, "os:unlink", 3, "after")]),
    "between training and validation": ("conformer", [partial(kill, f"{BRAIN}.on_stage_end", 2, "after", "TRAIN")]),
    "during validation": ("full", [partial(kill, f"{BRAIN}.evaluate_batch", 4, "before", "VALID")]),
    "before the checkpoint at the end of an epoch": (
        "conformer",
        [partial(kill, f"{CHECKPOINTS}:SafeCheckpointer.save_and_keep_only", 8)],
    ),
    "with workers that read ahead": ("lora", [partial(kill, f"{BRAIN}.fit_batch", 11, "after")]),
    "during the test of the last epoch": ("conformer", [partial(kill, f"{BRAIN}.evaluate_batch", 2, "before", "TEST")]),
    "during the test of the best epoch": ("full", [partial(kill, f"{BRAIN}.evaluate_batch", 3, "before", "TEST")]),
    "before the adapter is written": ("conformer", [partial(kill, "brainplug.tasks.base:save_adapter")]),
    "before the results are written": ("accumulation", [partial(kill, "brainplug.tasks.base:write_json")]),
    "in an epoch of batches by seconds": ("by_seconds", [partial(kill, f"{BRAIN}.fit_batch", 12)]),
    "while ranks are spread over the layers": ("adalora", [partial(kill, f"{BRAIN}.fit_batch", 10, "after")]),
    "while FAM analyses": ("fam", [partial(kill, f"{BRAIN}.fit_batch", 10, "after")]),
    "between two steps of FAdam": ("fadam", [partial(kill, f"{BRAIN}.fit_batch", 10, "after")]),
    "in the second epoch, with the published code": ("published", [partial(kill, f"{BRAIN}.fit_batch", 8, "after")]),
    "during the test of the last epoch, with the published code": (
        "published",
        [partial(kill, f"{BRAIN}.evaluate_batch", 4, "before", "TEST")],
    ),
    "three times": (
        "conformer",
        [
            partial(kill, f"{BRAIN}.fit_batch", 3, "after"),
            partial(kill, f"{BRAIN}.fit_batch", 2, "after"),
            partial(kill, f"{BRAIN}.evaluate_batch", 1, "after", "VALID"),
        ],
    ),
}


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, dict]:
    """What runs that were never killed left behind, by setup."""
    return {}


@pytest.fixture
def expected(uninterrupted: dict[str, dict], train_esc50: Callable[..., Run], tmp_path: Path) -> Callable[[str], dict]:
    """Runs a setup without a kill, once."""

    def outcome_of(setup: str) -> dict:
        if setup not in uninterrupted:
            run = train_esc50(*COMMON, *SETUPS[setup], "--output_folder=uninterrupted")
            assert run.code == 0, run.output
            uninterrupted[setup] = outcome(tmp_path / "uninterrupted")
        return uninterrupted[setup]

    return outcome_of


def checkpoints(results: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(results.glob("save/CKPT*"), key=lambda path: path.stat().st_mtime_ns)


def outcome(results: Path) -> dict:
    """All that a run leaves behind and that must not depend on kills."""
    last = checkpoints(results)[-1]
    optimizer = torch.load(last / "optimizer.ckpt")["state"]
    numbers = json.loads((results / "results.json").read_text())
    return {
        "adapter": (results / WEIGHTS).read_bytes(),
        "model": (last / "model.ckpt").read_bytes(),
        "optimizer": {
            (index, name): value.tolist() for index, state in optimizer.items() for name, value in state.items()
        },
        "results": {name: value for name, value in numbers.items() if name not in CHANGES_WITH_EACH_RUN},
        "log": (results / "train_log.txt").read_text().splitlines(),
    }


def assert_same(actual: dict, wanted: dict) -> None:
    """Compares what two runs left behind, the weights without a page of bytes in the report."""
    assert actual["results"] == wanted["results"]
    assert actual["log"] == wanted["log"]
    for name in ("adapter", "model", "optimizer"):
        same = actual[name] == wanted[name]
        assert same, f"the {name} differs"


@pytest.mark.parametrize("point", KILL_POINTS)
def test_killed_run_ends_as_the_uninterrupted_one(point, expected, train_esc50, tmp_path):
    setup, deaths = KILL_POINTS[point]
    wanted = expected(setup)
    for death in deaths:
        run = train_esc50(*COMMON, *SETUPS[setup], sabotage=death)
        assert run.code == KILLED, run.output
        assert not (tmp_path / "results" / "results.json").exists()
    run = train_esc50(*COMMON, *SETUPS[setup])
    assert run.code == 0, run.output
    assert_same(outcome(tmp_path / "results"), wanted)


CONSTANT = ["--method=conformer", "--ckpt_interval_steps=2", "--lr_schedule=!name:brainplug.optim.schedules.constant"]


def test_an_extended_run_ends_as_one_of_its_length(train_esc50, tmp_path):
    """With a schedule that does not depend on the length; killed amid the extension, too."""
    run = train_esc50(*COMMON, *CONSTANT, "--output_folder=long")
    assert run.code == 0, run.output
    assert train_esc50(*COMMON, *CONSTANT, "--number_of_epochs=2").code == 0
    refused = train_esc50(*COMMON, *CONSTANT)
    assert refused.code == 2
    assert "'number_of_epochs: 2'" in refused.output
    assert "Write --extend to go on with it, another --output_folder" in refused.output
    deadly = partial(kill, f"{BRAIN}.fit_batch", 4, "after")
    assert train_esc50(*COMMON, *CONSTANT, "--extend", sabotage=deadly).code == KILLED
    run = train_esc50(*COMMON, *CONSTANT)  # it is a run of three epochs by now
    assert run.code == 0, run.output
    assert "differs" not in run.output
    actual, wanted = outcome(tmp_path / "results"), outcome(tmp_path / "long")
    assert (actual["results"].pop("extended_from"), actual["results"].pop("differs")) == ([2], "")
    actual["log"] = [line for line in actual["log"] if line in wanted["log"]]  # beside the tests after two epochs
    assert_same(actual, wanted)


def test_a_schedule_that_depends_on_the_length_is_named(train_esc50, tmp_path):
    options = [*COMMON, *SETUPS["conformer"]]
    assert train_esc50(*options, "--number_of_epochs=1").code == 0
    run = train_esc50(*options, "--number_of_epochs=2", "--extend")
    assert run.code == 0, run.output
    words = "cosine depends on the length of the run: its factor was 0.000 after 1 epochs, and goes on from 0.500"
    assert f"The run differs from one of 2 epochs: {words}" in run.output
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert (results["extended_from"], results["differs"], results["epochs"]) == ([1], words, 2)


@pytest.mark.parametrize(
    ("setup", "change"),
    [
        ("conformer", ["--number_of_epochs=1"]),  # fewer
        ("conformer", ["--number_of_epochs=3", "--lr=0.5"]),
        ("conformer", ["--number_of_epochs=3", "--max_grad_norm=1"]),
        ("adalora", ["--number_of_epochs=3"]),
    ],
)
def test_what_cannot_be_extended_is_refused(setup, change, train_esc50, tmp_path):
    options = [*COMMON, *SETUPS[setup]]
    assert train_esc50(*options, "--number_of_epochs=2").code == 0
    before = (tmp_path / "results" / "results.json").read_bytes()
    run = train_esc50(*options, *change, "--extend")
    assert run.code == 2, run.output
    assert "Write another --output_folder, or remove this one" in run.output
    assert (tmp_path / "results" / "results.json").read_bytes() == before


def test_runs_that_differ_are_told_apart(expected, train_esc50, tmp_path):
    """So that the comparison above can fail."""
    wanted = expected("conformer")
    assert train_esc50(*COMMON, *SETUPS["conformer"], "--seed=2").code == 0
    actual = outcome(tmp_path / "results")
    assert [name for name in wanted if actual[name] != wanted[name]] == list(wanted)


@pytest.mark.parametrize(
    "tear",
    [
        lambda checkpoint: os.truncate(checkpoint / "optimizer.ckpt", 100),
        lambda checkpoint: os.truncate(checkpoint / "model.ckpt", 0),
        lambda checkpoint: (checkpoint / "brain.ckpt").unlink(),
        lambda checkpoint: os.truncate(checkpoint / "checksums.json", 5),
    ],
    ids=["optimizer", "model", "brain", "checksums"],
)
def test_torn_newest_checkpoint_falls_back_to_the_one_before(tear, expected, train_esc50, tmp_path):
    wanted = expected("conformer")
    run = train_esc50(*COMMON, *SETUPS["conformer"], sabotage=partial(kill, f"{BRAIN}.fit_batch", 9))
    assert run.code == KILLED, run.output
    results = tmp_path / "results"
    before, newest = checkpoints(results)[-2:]
    tear(newest)
    run = train_esc50(*COMMON, *SETUPS["conformer"])
    assert run.code == 0, run.output
    assert f"The checkpoint results/save/{newest.name} is torn" in (results / "log.txt").read_text()
    assert f"Loading a checkpoint from results/save/{before.name}" in run.output
    assert_same(outcome(results), wanted)


def test_a_second_command_in_the_same_folder_is_refused(train_esc50, command_line, tmp_path):
    results = tmp_path / "results"
    with hold_folder(results):
        runs = [train_esc50(*COMMON), run_in_two(command_line("--distributed_backend=gloo", *COMMON), tmp_path)]
        assert {path.name for path in results.iterdir()} == {"run.lock", "save"}
    for run in runs:
        assert run.code == 2, run.output
        assert f"error: The output folder results was asked for. Process {os.getpid()} on " in run.output


def test_true_command_killed_from_outside(expected, command_line, environment, tmp_path):
    wanted = expected("conformer")
    command = [sys.executable, str(REPOSITORY / "train.py"), *command_line(*COMMON, *SETUPS["conformer"])]
    results = tmp_path / "results"
    results.mkdir()
    # Nobody reads this pipe, so the run cannot get past the end of its first epoch, however slow this machine is.
    os.mkfifo(results / "train_log.txt")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **quiet) as process:
        while not checkpoints(results) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == KILLED
    (results / "train_log.txt").unlink()
    resumed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "Loading a checkpoint from results/save" in resumed.stdout
    assert_same(outcome(results), wanted)
