"""Checkpoints are whole or not there, and the right ones are kept."""

import json
import logging
import os

import pytest
import torch

from brainplug.training.checkpoints import CHECKSUMS_NAME, SafeCheckpointer


@pytest.fixture
def layer():
    return torch.nn.Linear(2, 2)


@pytest.fixture
def checkpointer(tmp_path, layer):
    return SafeCheckpointer(str(tmp_path / "save"), {"layer": layer, "other": torch.nn.Linear(1, 1)})


def names(folder):
    """The checkpoints that SpeechBrain, or a person, would see."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("CKPT"))


def tear(checkpointer, checkpoint, name="layer.ckpt"):
    """Damages a checkpoint, and forgets that it was found whole, as a new process would."""
    os.truncate(checkpoint.path / name, (checkpoint.path / name).stat().st_size - 1)
    return SafeCheckpointer(checkpointer.checkpoints_dir, checkpointer.recoverables)


def test_checkpoint_holds_every_file_with_its_checksum(checkpointer):
    saved = checkpointer.save_checkpoint({"accuracy": 0.5})
    files = {path.name for path in saved.path.iterdir()}
    assert files == {"CKPT.yaml", "layer.ckpt", "other.ckpt", CHECKSUMS_NAME}
    assert json.loads((saved.path / CHECKSUMS_NAME).read_text()).keys() == files - {CHECKSUMS_NAME}
    assert all(path.is_file() for path in saved.paramfiles.values())
    assert saved.meta["accuracy"] == 0.5


def test_checkpoint_is_recovered(checkpointer, layer):
    before = layer.weight.detach().clone()
    saved = checkpointer.save_checkpoint()
    torch.nn.init.zeros_(layer.weight)
    assert checkpointer.recover_if_possible().path == saved.path
    assert torch.equal(layer.weight, before)


def test_nothing_is_seen_before_all_is_written(checkpointer):
    seen = []

    def save(module, path):
        seen.append(names(checkpointer.checkpoints_dir))
        torch.save(module.state_dict(), path)

    checkpointer.add_recoverable("last", torch.nn.Linear(1, 1), custom_save_hook=save)
    checkpointer.save_checkpoint()
    checkpointer.save_checkpoint()
    assert list(map(len, seen)) == [0, 1]
    assert len(names(checkpointer.checkpoints_dir)) == 2


def test_crash_between_two_files_leaves_no_checkpoint(checkpointer):
    class CrashError(Exception):
        pass

    def crash(module, path):
        raise CrashError

    remaining = checkpointer.save_checkpoint()
    checkpointer.add_recoverable("last", torch.nn.Linear(1, 1), custom_save_hook=crash)
    with pytest.raises(CrashError):
        checkpointer.save_checkpoint()
    left = sorted(path.name for path in checkpointer.checkpoints_dir.iterdir())
    assert len(left) == 2
    assert [checkpoint.path for checkpoint in checkpointer.list_checkpoints()] == [remaining.path]

    again = SafeCheckpointer(checkpointer.checkpoints_dir, {"layer": torch.nn.Linear(2, 2)})
    saved = again.save_checkpoint()
    assert sorted(again.checkpoints_dir.iterdir()) == sorted([remaining.path, saved.path])


@pytest.mark.parametrize("name", ["CKPT.yaml", "layer.ckpt", "other.ckpt", CHECKSUMS_NAME])
def test_torn_checkpoint_is_skipped_and_reported(name, checkpointer, caplog):
    remaining, torn = checkpointer.save_checkpoint(), checkpointer.save_checkpoint()
    again = tear(checkpointer, torn, name)
    with caplog.at_level(logging.WARNING):
        assert again.recover_if_possible().path == remaining.path
    assert [record.getMessage() for record in caplog.records if "torn" in record.getMessage()] == [
        f"The checkpoint {torn.path} is torn; the one before it is used instead."
    ]


@pytest.mark.parametrize("name", ["layer.ckpt", CHECKSUMS_NAME])
def test_checkpoint_without_a_file_is_torn(name, checkpointer):
    torn = checkpointer.save_checkpoint()
    (torn.path / name).unlink()
    assert SafeCheckpointer(checkpointer.checkpoints_dir, checkpointer.recoverables).list_checkpoints() == []


def test_torn_checkpoint_is_reported_once(checkpointer, caplog):
    again = tear(checkpointer, checkpointer.save_checkpoint())
    assert again.recover_if_possible() is None
    assert again.recover_if_possible() is None
    assert len([record for record in caplog.records if "torn" in record.getMessage()]) == 1


def test_torn_best_checkpoint_gives_way_to_the_second_best(checkpointer):
    saved = [checkpointer.save_checkpoint({"accuracy": accuracy}) for accuracy in (0.5, 0.9, 0.7)]
    assert checkpointer.find_checkpoint(max_key="accuracy").path == saved[1].path
    assert tear(checkpointer, saved[1]).find_checkpoint(max_key="accuracy").path == saved[2].path


@pytest.mark.parametrize(
    ("accuracies", "remaining"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0.3, 0.4]),
        ([0.9, 0.1, 0.8, 0.2, 0.3], [0.9, 0.8, 0.2, 0.3]),
        ([0.5, 0.9, 0.1], [0.5, 0.9, 0.1]),
        ([0.5], [0.5]),
    ],
)
def test_the_best_two_and_the_newest_two_are_kept(accuracies, remaining, checkpointer):
    for accuracy in accuracies:
        checkpointer.save_and_keep_only(
            {"accuracy": accuracy}, num_to_keep=2, max_keys=["accuracy"], importance_keys=[]
        )
    actual = sorted(checkpointer.list_checkpoints(), key=lambda checkpoint: checkpoint.meta["unixtime"])
    assert [checkpoint.meta["accuracy"] for checkpoint in actual] == remaining
    assert len(list(checkpointer.checkpoints_dir.iterdir())) == len(remaining)


def test_torn_checkpoint_is_left_alone(checkpointer):
    torn = checkpointer.save_checkpoint()
    again = tear(checkpointer, torn)
    for _ in range(3):
        again.save_and_keep_only(num_to_keep=1, importance_keys=[])
    assert torn.path.exists()
    assert len(again.list_checkpoints()) == 1


def test_checkpoint_with_a_name_of_its_own(checkpointer):
    saved = checkpointer.save_checkpoint(name="mine")
    assert saved.path.name == "CKPT+mine"
    assert [checkpoint.path for checkpoint in checkpointer.list_checkpoints()] == [saved.path]
