"""Whatever is renamed into its place was on the disk before: a power cut loses nothing that was finished."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from brainplug import files
from brainplug.adapters.file import save_adapter
from brainplug.backbones import load_backbone
from brainplug.cli.embed import VectorFile
from brainplug.data.manifest import Clip, write_manifest
from brainplug.files import atomic_file, replace, write_json
from brainplug.methods.linear import LinearProbe
from brainplug.models.classifier import AudioClassifier
from brainplug.training.checkpoints import SafeCheckpointer
from tests.made_adapters import describe_classifier


class Disk:
    """Notes what the system was asked to put on the disk, and what was renamed without that."""

    def __init__(self) -> None:
        self.synced: dict[int, tuple[int, int]] = {}  # inode -> size and time of its last change
        self.lost: list[str] = []  # renamed, with content that a power cut would take
        self.renamed: list[Path] = []
        self._fsync, self._replace = os.fsync, os.replace

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        self.synced[os.fstat(descriptor).st_ino] = self.state(os.stat(descriptor))

    def replace(self, source: str, target: str) -> None:
        below = [Path(source), *Path(source).rglob("*")]
        self.lost += [str(path) for path in below if self.synced.get(path.stat().st_ino) != self.state(path.stat())]
        self._replace(source, target)
        self.renamed.append(Path(target))

    @staticmethod
    def state(status: os.stat_result) -> tuple[int, int]:
        return status.st_size, status.st_mtime_ns

    def names_that_are_lost(self) -> list[Path]:
        """What was renamed into folders whose list of names was not put on the disk afterwards."""
        folders = {path.parent for path in self.renamed}
        return [folder for folder in folders if self.synced.get(folder.stat().st_ino) != self.state(folder.stat())]


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    monkeypatch.setattr(os, "replace", disk.replace)
    return disk


def save_checkpoint(folder: Path) -> None:
    SafeCheckpointer(str(folder), {"layer": torch.nn.Linear(2, 2)}).save_checkpoint()


def save_weights(folder: Path) -> None:
    model = AudioClassifier(load_backbone("nano-hubert"), LinearProbe(), 2)
    save_adapter(model, folder, describe_classifier(model, ["cat", "dog"]))


def replace_folder(folder: Path) -> None:
    (folder / "unfinished" / "deep").mkdir(parents=True)
    (folder / "unfinished" / "deep" / "a.txt").write_text("a")
    replace(folder / "unfinished", folder / "finished")


WRITERS = {
    "JSON": lambda folder: write_json({"a": 1}, folder / "a.json"),
    "in a new folder": lambda folder: write_json({"a": 1}, folder / "new" / "a.json"),
    "manifest": lambda folder: write_manifest([Clip("a", "a.wav", "dog")], str(folder / "manifest.csv")),
    "adapter": save_weights,
    "checkpoint": save_checkpoint,
    "folder": replace_folder,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_renamed_is_on_the_disk(writer, disk, tmp_path):
    WRITERS[writer](tmp_path)
    assert disk.renamed
    assert disk.lost == []
    assert disk.names_that_are_lost() == []


def test_what_is_not_on_the_disk_is_found(disk, tmp_path):
    """So that the test above can fail."""
    with atomic_file(tmp_path / "a.txt", sync=False) as file:
        file.write("a")
    assert len(disk.lost) == 1
    assert disk.names_that_are_lost() == [tmp_path]


def test_a_vector_is_on_the_disk_before_it_is_listed(disk, tmp_path):
    vectors = VectorFile(tmp_path / "a.npy", 3, 0)
    for number in range(3):
        vectors.append(np.full(3, number))
        assert disk.synced[(tmp_path / "a.npy").stat().st_ino][0] == 128 + 12 * (number + 1)


def test_a_file_system_that_syncs_no_folders_will_do(monkeypatch, tmp_path):
    def refuse(descriptor):
        raise OSError("Invalid argument")

    monkeypatch.setattr(files.os, "fsync", refuse)
    write_json({"a": 1}, tmp_path / "a.json")
    assert (tmp_path / "a.json").exists()
