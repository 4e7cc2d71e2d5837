"""docs/extending.md, performed: its files are written into a copy of the repository, and its commands are run there."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PARTS = ("brainplug", "hparams", "recipes", "tests", "train.py", "setup.cfg")
CREATE = re.compile(r"Create `(?P<path>[^`]+)`:$")
APPEND = re.compile(r"Append to `(?P<path>[^`]+)`:$")
INSERT = re.compile(r"Insert into `(?P<path>[^`]+)`, below the line `(?P<line>[^`]+)`:$")
COPY = re.compile(r"Copy `(?P<source>[^`]+)` to `(?P<path>[^`]+)`, with these changes:$")
# Makes the data that the commands name, then runs them in one process, since importing takes longest.
DRIVER = """
import brainplug.compat.torchaudio
import json, shlex, sys
from pathlib import Path

import torch
from transformers import UniSpeechConfig, UniSpeechModel, Wav2Vec2FeatureExtractor

from brainplug.adapters.file import read_adapter
from brainplug.cli import command
from brainplug.cli.train import main as train
from brainplug.errors import run_command
from brainplug.tasks import find_task
from tests.conftest import TINY_BACKBONES
from tests.made_corpora import make_animals, write_noise, write_rows

for label in ("dog", "owl"):
    for number in range(12):
        write_noise(Path("clips", label, f"{number}.wav"))
make_animals(Path("animals"))
grades = [["path", "label"], *([f"clips/{label}/{n}.wav", n % 2 + 1] for label in ("dog", "owl") for n in range(12))]
write_rows(Path("grades.csv"), grades)
config, extractor = TINY_BACKBONES["unispeech"]
UniSpeechModel(config).save_pretrained("unispeech-folder")
extractor.save_pretrained("unispeech-folder")

codes = {}
for line in json.loads(sys.argv[1]):
    words = shlex.split(line)
    if words[1] == "train.py":
        codes[line] = run_command(train, words[2:])
    else:
        sys.argv = ["brainplug", *words[3:]]
        codes[line] = command()
folder = next(Path("results").rglob("*grades*/1234"))
model = find_task("regression").restore(read_adapter(folder))
signal = model.backbone.extract(torch.zeros(16000))
values = model(torch.stack([signal, signal]), torch.ones(2))
Path("codes.json").write_text(json.dumps({"codes": codes, "restored": list(values.shape)}))
"""


def blocks(page: str) -> Iterator[tuple[str, str, str]]:
    """The fenced blocks of a page: the paragraph before each on one line, its language, its text."""
    pieces = re.split(r"^```", page, flags=re.M)  # prose and blocks take turns
    for prose, block in zip(pieces[::2], pieces[1::2], strict=False):
        language, _, text = block.partition("\n")
        yield " ".join(prose.strip().split("\n\n")[-1].split()), language, text


def perform(folder: Path, page: str) -> tuple[set[str], list[str]]:
    """Writes what a page says into a copy; returns the files that it names and its commands."""
    files, commands = set(), []
    for paragraph, language, text in blocks(page):
        if language == "sh":
            commands += text.splitlines()
            continue
        step = next(match for kind in (CREATE, APPEND, INSERT, COPY) if (match := kind.search(paragraph)))
        path = folder / step["path"]
        files.add(step["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        if step.re is CREATE:
            assert not path.exists()
            path.write_text(text)
        elif step.re is APPEND:
            path.write_text(path.read_text() + text)
        elif step.re is INSERT:
            before, line, after = path.read_text().partition(f"{step['line']}\n")
            assert line, f"{step['path']} has no line {step['line']}"
            path.write_text(f"{before}{line}{text}{after}")
        else:
            path.write_text(changed((folder / step["source"]).read_text(), text))
    return files, commands


def changed(text: str, difference: str) -> str:
    """A text in which each line with a minus is replaced by the line with a plus below it, or left out."""
    lines = difference.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("-"):
            following = lines[number + 1] if number + 1 < len(lines) else ""
            new = f"{following[1:]}\n" if following.startswith("+") else ""
            assert f"{line[1:]}\n" in text, line
            text = text.replace(f"{line[1:]}\n", new, 1)
    return text


def run(words: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "BRAINPLUG_CACHE": str(folder / "cache")}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    errors = [line for line in done.stderr.splitlines() if "it/s" not in line and "clip/s" not in line]
    assert done.returncode == 0, done.stdout[-3000:] + "\n".join(errors[-60:])
    return done.stdout


def test_a_difference_is_applied():
    assert changed("a: 1\nb: 2\nc: 3\n", "-a: 1\n+a: 9\n-c: 3\n") == "a: 9\nb: 2\n"


@pytest.fixture(scope="module")
def page() -> str:
    return (REPOSITORY / "docs" / "extending.md").read_text()


def test_the_page_is_performed(page, tmp_path):
    ignored = shutil.ignore_patterns("nano", "__pycache__", "results", "*.pyc")
    for part in PARTS:
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, tmp_path / part, ignore=ignored)
        else:
            shutil.copy(source, tmp_path)
    (tmp_path / "brainplug/backbones/nano").symlink_to(REPOSITORY / "brainplug/backbones/nano")
    files, commands = perform(tmp_path, page)
    assert {path for path in files if path.startswith("brainplug/")} == {
        "brainplug/methods/scaling.py",
        *("brainplug/backbones/unispeech.py", "brainplug/backbones/loading.py"),
        "brainplug/data/corpora/animals.py",
        *("brainplug/tasks/regression.py", "brainplug/tasks/__init__.py"),
    }
    tests = [shlex.split(line) for line in commands if " pytest " in line]
    others = [line for line in commands if " pytest " not in line]

    printed = run([sys.executable, "-c", DRIVER, json.dumps(others)], tmp_path)
    outcome = json.loads((tmp_path / "codes.json").read_text())
    assert len(others) == 9
    assert outcome == {"codes": dict.fromkeys(others, 0), "restored": [2, 1]}
    assert "| scaling " in printed
    assert "| unispeech " in printed
    with open(tmp_path / "scaling.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 24
    results = [json.loads(path.read_text()) for path in (tmp_path / "results").rglob("results.json")]
    assert sorted(result["task"] for result in results) == ["classification"] * 3 + ["regression"]
    [grades] = [result for result in results if result["task"] == "regression"]
    assert 0 < grades["test_error"] < 10

    expressions = " or ".join(f"({words[words.index('-k') + 1]})" for words in tests)
    paths = {words[words.index("-k") - 1] for words in tests}
    summary = run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *sorted(paths), "-k", expressions], tmp_path
    )
    assert int(re.search(r"(\d+) passed", summary)[1]) >= 40
