"""The benchmark of reading: what it compares, on few rows and clips. No time is compared with anything."""

from pathlib import Path

import pytest
import torch

from benchmarks.data import MARKS, compare_epochs, made_clips, main, make_files, seconds_of_two_epochs
from brainplug.backbones import known_config, random_backbone
from brainplug.data.manifest import read_manifest, write_manifest

ROOT = Path(__file__).parents[2]


def test_made_rows_are_a_manifest(tmp_path):
    clips = made_clips(200)
    write_manifest(clips, str(tmp_path / "manifest.csv"))
    assert read_manifest(str(tmp_path / "manifest.csv")) == clips
    assert len({clip.id for clip in clips}) == 200


def test_every_backbone_has_a_row_without_and_with_the_cache():
    lines = compare_epochs(["nano-ast", "wav2vec2"], n_clips=2, repeats=1).splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[:2] for row in rows] == [
        [signal, remaining] for signal in ("log_mel (nano-ast)", "waveform (wav2vec2)") for remaining in ("no", "yes")
    ]
    assert all(float(number) > 0 for row in rows for number in row[2:])


@pytest.mark.parametrize("remaining", [False, True])
def test_the_second_epoch_decodes_where_nothing_is_kept(remaining, tmp_path, monkeypatch):
    decoded = []
    backbone = random_backbone(known_config("nano-ast"), frames=64)
    monkeypatch.setattr(type(backbone), "extract", lambda self, waveform: decoded.append(1) or torch.zeros(1))
    clips = make_files(str(tmp_path), 3)
    seconds_of_two_epochs(clips, backbone, str(tmp_path / "cache") if remaining else None)
    assert len(decoded) == (3 if remaining else 6)


@pytest.mark.slow
def test_what_was_measured_is_written_between_its_marks(tmp_path, capsys):
    document = tmp_path / "README.md"
    document.write_text("\n".join(MARKS))
    sizes = ["--rows=20", "--backbones=nano-ast", "--clips=1", "--repeats=1"]
    main([*sizes, f"--threads={torch.get_num_threads()}", f"--write={document}"])
    printed = capsys.readouterr().out
    assert document.read_text() == f"{MARKS[0]}\n{printed}{MARKS[1]}"
    assert "A manifest of 20 rows, read by a process with 2 workers, takes" in printed


def test_the_document_of_the_project_has_the_marks():
    assert all(mark in (ROOT / "docs" / "data.md").read_text().splitlines() for mark in MARKS)
