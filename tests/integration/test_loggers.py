"""Loggers beside the file, in whole runs."""

import sys
from functools import partial

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.integration.running import KILLED, kill

SAVE = "brainplug.training.checkpoints:SafeCheckpointer.save_and_keep_only"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_run_has_every_epoch_once(when, train_esc50, tmp_path):
    """Killed just before the second epoch's checkpoint, after which that epoch is done again; and just after it."""
    options = ["--method=linear", "--logger=tensorboard", "--output_folder=results", "--number_of_epochs=3"]
    assert train_esc50(*options, sabotage=partial(kill, SAVE, 2, when)).code == KILLED
    run = train_esc50(*options)
    assert run.code == 0, run.output
    actual = EventAccumulator(str(tmp_path / "results" / "tensorboard")).Reload()
    assert set(actual.Tags()["scalars"]) == {"epoch", "lr", "loss/train", "loss/valid", "accuracy/valid"}
    for tag in actual.Tags()["scalars"]:
        assert [event.step for event in actual.Scalars(tag)] == [1, 2, 3]
    lines = (tmp_path / "results" / "train_log.txt").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["epoch: 1", "epoch: 2", "epoch: 3"]


def without(package: str) -> None:
    sys.modules[package] = None


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_told_before_any_work(package, train_esc50, tmp_path):
    run = train_esc50(f"--logger={package}", sabotage=partial(without, package))
    assert run.code == 2
    assert f"error: --logger={package} was asked for. The package {package} is not installed." in run.output
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
