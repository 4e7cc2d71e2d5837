"""Loggers beside the file: every epoch once, whatever was killed, and no package that nobody asked for."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from brainplug.cli import COMMANDS, module_of
from brainplug.errors import UsageError
from brainplug.training import loggers

REPOSITORY = Path(__file__).parents[2]


def log(logger: object, epoch: int, loss: float) -> None:
    logger.log_stats({"epoch": epoch, "lr": 0.1}, {"loss": loss}, {"loss": 2 * loss, "accuracy": 50.0})


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Of every curve, epochs and values as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    actual = EventAccumulator(str(folder)).Reload()
    return {tag: [(item.step, item.value) for item in actual.Scalars(tag)] for tag in actual.Tags()["scalars"]}


class TestTensorboard:
    def test_epochs_stand_along_the_axis(self, tmp_path):
        logger = loggers.tensorboard(str(tmp_path))
        for epoch in (1, 2, 3):
            log(logger, epoch, epoch / 4)
        actual = events(tmp_path)
        assert actual["loss/train"] == [(1, 0.25), (2, 0.5), (3, 0.75)]
        assert actual["loss/valid"] == [(1, 0.5), (2, 1.0), (3, 1.5)]
        assert [step for step, _ in actual["accuracy/valid"]] == [1, 2, 3]
        assert [rate for _, rate in actual["lr"]] == pytest.approx([0.1] * 3)

    def test_an_epoch_that_is_done_again_stands_there_once(self, tmp_path):
        first = loggers.tensorboard(str(tmp_path))
        for epoch in (1, 2):
            log(first, epoch, epoch)
        resumed = loggers.tensorboard(str(tmp_path))  # the first one was killed, and closes nothing
        for epoch in (2, 3):
            log(resumed, epoch, 10 * epoch)
        assert events(tmp_path)["loss/train"] == [(1, 1.0), (2, 20.0), (3, 30.0)]

    def test_nothing_is_written_before_the_first_epoch(self, tmp_path):
        loggers.tensorboard(str(tmp_path / "none"))
        assert not (tmp_path / "none").exists()


class TestWeightsAndBiases:
    def test_a_resumed_run_goes_on_there(self, monkeypatch):
        started, logged = [], []
        run = SimpleNamespace(log=lambda stats, step: logged.append((step, stats)))
        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **named: (started.append(named), run)[1]))
        for epoch in (1, 2):
            log(loggers.weights_and_biases("results/ESC-50/a b", "some"), epoch, math.pi)
        assert started[0] == started[1]
        assert started[0]["resume"] == "allow"
        assert started[0]["id"] == "results-ESC-50-a-b"
        assert [step for step, _ in logged] == [1, 2]
        assert logged[0][1]["train"] == {"loss": math.pi}


class TestChoice:
    LOGGERS = {"file": None, "wandb": print, "own": dict}

    def test_the_file_alone(self):
        loggers.check_logger("file", self.LOGGERS)
        assert loggers.make_loggers("file's", "file", self.LOGGERS) == ["file's"]

    def test_one_of_one_s_own(self):
        loggers.check_logger("own", self.LOGGERS)
        assert loggers.make_loggers("file's", "own", self.LOGGERS) == ["file's", {}]

    def test_one_that_is_missing(self):
        with pytest.raises(UsageError, match="The logger 'owm' was asked for.*own"):
            loggers.check_logger("owm", self.LOGGERS)

    def test_a_package_that_is_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(UsageError, match="--logger=wandb was asked for.*not installed.*pip install wandb"):
            loggers.check_logger("wandb", self.LOGGERS)


@pytest.mark.slow
def test_nothing_is_imported_that_was_not_asked_for():
    modules = ", ".join(["sys", "train", *map(module_of, COMMANDS)])
    code = f"import {modules}; print(*{{'ray', 'tensorboard', 'wandb'}} & set(sys.modules), 'else')"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["else"]
