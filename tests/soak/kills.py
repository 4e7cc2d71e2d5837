#!/usr/bin/env python3
"""Kills commands at random moments and gives them again, until all ends as without a kill, bit for bit.

python -m tests.soak.kills --kills=200

Of each job one run is not killed; the others die at moments drawn between their start and the time that it took, some
more than once. What they leave at the end is compared: weights, checkpoints, predictions, results. The figures are
added to docs/soak.json after each trial; another call goes on from there, and writes them into docs/reliability.md.
"""

import argparse
import csv
import functools
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml

from tests.integration.conftest import make_esc50
from tests.integration.running import ESC50_RECIPE, REPOSITORY, SETTINGS, _run, start_server
from tests.made_corpora import write_noise
from tests.processes import kill_together
from tests.soak.figures import counted, document, read_figures, write_figures

NOTHING: dict[str, Any] = {"kills": 0, "trials": 0, "phases": {}, "jobs": {}, "differ": []}
PHASE_BYTES = 32
AGAIN = 0.3  # of the killed commands are killed once more
LONGEST = 300  # seconds
COMPARED = (
    "adapter_model.safetensors",
    "predictions.csv",
    "transcripts.csv",
    "skipped.csv",
    "train_log.txt",
    "model.safetensors",
    "out.npy",
    "out.csv",
)
CHANGES_WITH_EACH_RUN = ("seconds", "seconds_per_epoch", "peak_memory_bytes")
TEXTS = ("lights on", "lights off", "no more heat", "too dark", "stop")
ECHO = {"n_audio_state": 16, "n_audio_layer": 1, "n_text_state": 16, "n_text_layer": 1, "n_audio_ctx": 100}
# Where a process is when it dies: function -> phase. The innermost counts.
PHASES = {
    "brainplug.data.protocol.prepare.check_clips": "checking clips",
    "speechbrain.core.Brain._fit_train": "training",
    "speechbrain.core.Brain._fit_valid": "validation",
    "brainplug.training.brain.AdaptationBrain.test_epochs": "test",
    "brainplug.training.checkpoints.SafeCheckpointer.save_checkpoint": "checkpoint writing",
    "brainplug.training.checkpoints.SafeCheckpointer.delete_checkpoints": "checkpoint removal",
    "brainplug.data.features.FeatureCache._write": "cache writing",
    "brainplug.tasks.base.save_adapter": "adapter writing",
    "brainplug.cli.rows.RowFile.write": "prediction writing",
    "brainplug.cli.predict.compute": "prediction",
    "brainplug.cli.embed.compute": "prediction",
    "brainplug.sweep.command._run": "table",
}


@dataclass(frozen=True)
class Job:
    """A command that is killed; `main` is a function, or a script with one, `weight` how often it is drawn."""

    name: str
    arguments: Sequence[str]
    main: str = "train:main"
    weight: int = 1


def make_data(folder: Path) -> None:
    """Makes a corpus to classify, one to transcribe, sound to pre-train on, and a table."""
    make_esc50(folder / "esc50")
    counts = {"train": 8, "valid": 3, "test": 3}
    rows = [
        (f"{split}{number}.wav", TEXTS[number % len(TEXTS)], split)
        for split, count in counts.items()
        for number in range(count)
    ]
    for name, *_ in rows:
        write_noise(folder / "speech" / name, seconds=0.6)
    with open(folder / "speech" / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "text", "split"), *rows])
    for number in range(10):
        write_noise(folder / "sound" / f"{number}.wav", seconds=1.0)
    flags = (word.removeprefix("--").partition("=") for word in SMALL)
    table = {
        "rows": {name: {"method": name} for name in ("lora", "bitfit")},
        "columns": {"ESC-50": {"recipe": ESC50_RECIPE, "data_folder": "esc50", "folds": [1]}},
        "shared": {key: yaml.safe_load(value) if equals else True for key, equals, value in flags},
        "seeds": [1],
    }
    (folder / "table.yaml").write_text(yaml.safe_dump(table, sort_keys=False))


SMALL = [
    "--frames=64", "--batch_size=4", "--number_of_epochs=2", "--device=cpu", "--noprogressbar",
    f"--method_settings={json.dumps(SETTINGS)}", "--ckpt_interval_steps=1",
]  # fmt: skip


def jobs(data: Path, trained: Path) -> list[Job]:
    """All commands; `trained` is the folder of a finished run."""
    speech = [
        f"--manifest={data / 'speech/clips.csv'}", "--number_of_epochs=2", "--batch_size=4", "--lr=0.01",
        "--device=cpu",
        "--noprogressbar", "--ckpt_interval_steps=1", "--output_folder=results", "--cache_folder=cache",
        f"--method_settings={json.dumps(SETTINGS)}",
    ]  # fmt: skip
    classes = [
        ESC50_RECIPE,
        f"--data_folder={data / 'esc50'}",
        *SMALL,
        "--output_folder=results",
        "--cache_folder=cache",
    ]
    sound = [
        f"--data_folder={data / 'sound'}", "--results_folder=results", "--number_of_epochs=2", "--steps_per_epoch=3",
        "--batch_size=2", "--crop_seconds=0.5", "--valid_batches=1", "--valid_fraction=0.2", "--health_interval=1",
        "--noprogressbar", "--ckpt_interval_steps=1",
    ]  # fmt: skip
    recipes = REPOSITORY / "recipes"
    return [
        Job("classification, conformer", [*classes, "--method=conformer"], weight=4),
        Job(
            "classification, lora and fadam",
            [*classes, "--method=lora", "--optimizer=fadam", "--num_workers=2"],
            weight=3,
        ),
        Job(
            "classification, few-shot",
            [*classes, "--method=soft_moa", "--few_shot=8", "--features_on_device=True"],
            weight=3,
        ),
        Job("ctc", [str(recipes / "spoken_ctc/hparams/train.yaml"), "--backbone=nano-hubert", *speech], weight=4),
        Job(
            "seq2seq",
            [
                *(str(recipes / "spoken_echo/hparams/train.yaml"), *speech, f"--model={json.dumps(ECHO)}"),
                *("--precision=fp32", "--eval_precision=fp32"),
            ],
            weight=4,
        ),
        Job(
            "pre-training, HuBERT",
            [
                *(str(recipes / "pretrain_hubert/hparams/nano.yaml"), *sound),
                *("--clusters=6", "--clustered_frames=400", "--projection=8"),
            ],
            str(recipes / "pretrain_hubert/train.py"),
            weight=2,
        ),
        Job(
            "pre-training, data2vec",
            [str(recipes / "pretrain_data2vec/hparams/nano.yaml"), *sound],
            str(recipes / "pretrain_data2vec/train.py"),
            weight=2,
        ),
        Job("predict", ["predict", str(trained), str(data / "esc50"), "--output=out.csv"], "brainplug.cli:main", 2),
        Job("embed", ["embed", str(trained), str(data / "esc50"), "--output=out.npy"], "brainplug.cli:main", 2),
        Job(
            "table",
            ["table", str(data / "table.yaml"), f"--data_folder={data}", "--output_folder=results"],
            "brainplug.cli:main",
            weight=1,
        ),
    ]


def note_phases(path: str) -> None:
    """Has this process write into a file in which phase it is."""
    descriptor, phase = os.open(path, os.O_RDWR | os.O_CREAT), "start and end"

    def note(name: str) -> None:
        nonlocal phase
        phase = name
        os.pwrite(descriptor, name.ljust(PHASE_BYTES).encode(), 0)

    def noted(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*arguments: Any, **named: Any) -> Any:
            before = phase
            note(name)
            try:
                return original(*arguments, **named)
            finally:
                note(before)

        return call

    note(phase)
    for position, name in PHASES.items():
        owner_name, _, function = position.rpartition(".")
        owner = resolve_name(owner_name)
        setattr(owner, function, noted(getattr(owner, function), name))


def give(job: Job, folder: Path, seconds: float | None = None) -> tuple[int | None, str]:
    """Gives a job's command in a folder, and kills it after some time; returns its exit code and its last phase.

    The code is None if it was killed.
    """
    phases, output = folder / "phase", folder / "output.txt"
    output.touch()
    process = multiprocessing.get_context("forkserver").Process(
        target=_run,
        args=(list(job.arguments), str(folder), str(output), functools.partial(note_phases, str(phases)), job.main),
    )
    process.start()
    process.join(LONGEST if seconds is None else seconds)
    killed = process.exitcode is None
    if killed:
        kill_together(process.pid or 0)
        process.join()
    phase = phases.read_text().strip() if phases.exists() else "start and end"
    if killed and seconds is None:
        raise TimeoutError(f"{job.name} did not end in {LONGEST} s: {output.read_text()[-2000:]}")
    return None if killed else process.exitcode, phase


def outcome(folder: Path) -> dict[str, bytes]:
    """What a finished command left, without times: path -> content."""
    paths = [path for path in sorted(folder.rglob("*")) if path.name in COMPARED]
    last = [sorted(save.glob("CKPT*"), key=lambda path: path.stat().st_mtime_ns)[-1:] for save in folder.rglob("save")]
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    for number, [checkpoint] in enumerate(filter(None, last)):
        contents |= {
            f"checkpoint {number} {name}": (checkpoint / name).read_bytes()
            for name in ("model.ckpt", "optimizer.ckpt")
            if (checkpoint / name).exists()
        }
    for path in folder.rglob("results.json"):
        results = json.loads(path.read_text())
        figures = {name: value for name, value in results.items() if name not in CHANGES_WITH_EACH_RUN}
        contents[str(path.relative_to(folder))] = json.dumps(figures).encode()
    return contents


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@dataclass
class Reference:
    """What a job leaves without a kill, and how long it takes, in seconds."""

    outcome: dict[str, bytes]
    seconds: float


def make_reference(job: Job, folder: Path) -> Reference:
    start = time.monotonic()
    code, _ = give(job, fresh(folder))
    if code:
        raise RuntimeError(f"{job.name} fails without a kill: {(folder / 'output.txt').read_text()[-3000:]}")
    return Reference(outcome(folder), time.monotonic() - start)


def trial(job: Job, reference: Reference, folder: Path, draw: random.Random) -> tuple[list[str], list[str]]:
    """Kills a job once or more, lets it end, and returns the phases that it died in and what differs."""
    deaths: list[str] = []
    fresh(folder)
    while not deaths or draw.random() < AGAIN:
        code, phase = give(job, folder, draw.uniform(0.0, reference.seconds))
        if code is not None:
            break  # it ended before
        deaths.append(phase)
    code, _ = give(job, folder)
    if code:
        return deaths, [f"exit code {code}: {(folder / 'output.txt').read_text().strip().splitlines()[-1]}"]
    left = outcome(folder)
    names = reference.outcome.keys() | left.keys()
    return deaths, sorted(name for name in names if left.get(name) != reference.outcome.get(name))


def add(figures: dict[str, Any], job: Job, deaths: list[str], differing: list[str]) -> None:
    """Adds a trial to the figures and writes them."""
    figures["trials"] += 1
    figures["kills"] += len(deaths)
    figures["phases"] = counted(figures["phases"], deaths)
    figures["jobs"] = counted(figures["jobs"], [job.name] * len(deaths))
    if differing:
        figures["differ"].append({"job": job.name, "phases": deaths, "what": differing})
    write_figures("kills", figures)


def main() -> int:
    """Goes on until there were so many kills; returns 1 if anything differed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", default="", help="jobs whose names contain this")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brainplug-kills-") as name:
        base = Path(name)
        os.environ.update(
            HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY), BRAINPLUG_CACHE=str(base / "cache")
        )
        make_data(base / "data")
        start_server()
        first = jobs(base / "data", base / "trained")[0]
        make_reference(first, base / "first")
        shutil.copytree(base / "first" / "results", base / "trained")
        listed = [job for job in jobs(base / "data", base / "trained") if chosen.only in job.name]
        references: dict[str, Reference] = {}
        figures = NOTHING | read_figures("kills")
        while figures["kills"] < chosen.kills:
            draw = random.Random(figures["trials"])
            [job] = draw.choices(listed, [job.weight for job in listed])
            if job.name not in references:
                references[job.name] = make_reference(job, base / "reference")
            deaths, differing = trial(job, references[job.name], base / "trial", draw)
            add(figures, job, deaths, differing)
            print(f"{figures['kills']:>4} kills; {job.name}: {', '.join(deaths)}; {differing or 'alike'}", flush=True)
            if differing:
                shutil.copytree(base / "trial", Path(tempfile.gettempdir(), f"brainplug-differs-{figures['trials']}"))
    document("kills", figures)
    print(json.dumps(figures, indent=2))
    return int(bool(figures["differ"]))


if __name__ == "__main__":
    sys.exit(main())
