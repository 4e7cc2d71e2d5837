#!/usr/bin/env python3
"""Gives every command files with faults: no traceback, no hang, little memory, and nothing partial taken for whole.

python -m tests.soak.bad_inputs --inputs=500

Each input is given to all commands that read files of its kind. The figures are written to docs/bad_inputs.json after
each input; another call goes on from there, and writes them into docs/reliability.md.
"""

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
import torch
import yaml
from transformers import AutoModel

from tests.conftest import TINY_BACKBONES
from tests.integration.running import REPOSITORY, _run, start_server
from tests.processes import kill_together
from tests.soak.figures import counted, document, read_figures, write_figures
from tests.soak.mutations import BadInput, bad_inputs

NOTHING: dict[str, Any] = {
    "inputs": 0, "kinds": {}, "commands": {}, "exit_codes": {}, "longest_seconds": 0.0, "most_megabytes": 0,
    "faults": [],
}  # fmt: skip
LONGEST = 20.0  # seconds of a processor, which do not depend on what else the machine does
LONGEST_WAIT = 60.0  # seconds
MOST_MEMORY = 2 * 1024**3  # bytes
SMALL = [
    "--backbone=backbone", "--frames=64", "--batch_size=4", "--number_of_epochs=1", "--device=cpu", "--noprogressbar",
    "--method=bitfit", "--cache_folder=cache", "--num_workers=0",
]  # fmt: skip
OWN = ["--dataset=own", "--data_folder=clips"]
LISTED = ["--dataset=own", "--manifest=clips.csv", "--data_folder=."]
PRETRAIN = [
    str(REPOSITORY / "recipes/pretrain_data2vec/hparams/nano.yaml"), "--data_folder=clips", "--results_folder=results",
    "--number_of_epochs=1", "--steps_per_epoch=2", "--batch_size=2", "--crop_seconds=0.3", "--valid_batches=1",
    "--valid_fraction=0.2", "--health_interval=1", "--noprogressbar",
]  # fmt: skip
RECIPE = "hparams/train.yaml"
COMMANDS = {
    "predict": ["predict", "run", "clips", "--backbone=backbone", "--output=out.csv"],
    "embed": ["embed", "run", "clips", "--backbone=backbone", "--output=out.npy"],
    "predict, list": ["predict", "run", "clips.csv", "--backbone=backbone", "--output=out.csv"],
    "embed, list": ["embed", "run", "clips.csv", "--backbone=backbone", "--output=out.npy"],
    "predict, continued": ["predict", "run", "clips", "--backbone=backbone", "--output=done/rows.csv"],
    "embed, continued": ["embed", "run", "clips", "--backbone=backbone", "--output=done/out.npy"],
    "doctor": ["doctor", RECIPE, *SMALL, *OWN],
    "doctor, list": ["doctor", RECIPE, *SMALL, *LISTED],
    "train": ["train", RECIPE, *SMALL, *OWN, "--output_folder=results"],
    "train, list": ["train", RECIPE, *SMALL, *LISTED, "--output_folder=results"],
    "train, extend": ["train", RECIPE, *SMALL, *OWN, "--output_folder=run", "--number_of_epochs=2", "--extend"],
    "table": ["table", "table.yaml", "--data_folder=.", "--output_folder=tables", "--limit=1"],
    "report": ["report", "."],
    "methods": ["methods", "--backbone=backbone", f"--hparams={RECIPE}"],
    "optimizers": ["optimizers", "--backbone=backbone", f"--hparams={RECIPE}"],
    "pre-train": PRETRAIN,
}
SOUND = ("predict", "embed", "doctor", "train", "pre-train")
MODEL = ("train", "methods", "predict")
# File -> the commands that read it. How often each is drawn is in WEIGHTS.
READERS = {
    "clips/cat/0.wav": SOUND,
    "clips/cat/1.flac": SOUND,
    "clips/dog/2.ogg": SOUND,
    "clips/dog/3.mp3": SOUND,
    "clips.csv": ("predict, list", "embed, list", "doctor, list", "train, list"),
    RECIPE: ("train", "doctor", "methods", "optimizers"),
    "hparams/methods.yaml": ("train", "methods"),
    "table.yaml": ("table",),
    "run/adapter/adapter_config.json": ("predict", "embed"),
    "run/results.json": ("report",),
    "run/manifest.json": ("train, extend",),
    "run/configuration.json": ("train, extend",),
    "done/rows.csv": ("predict, continued",),
    "done/out.csv": ("embed, continued",),
    "done/out.npy": ("embed, continued",),
    "run/manifest.csv": ("train, extend", "report"),
    "backbone/config.json": MODEL,
    "backbone/preprocessor_config.json": MODEL,
    "backbone/model.safetensors": MODEL,
    "run/adapter/adapter_model.safetensors": ("predict", "embed"),
    "run/observations.safetensors": ("report",),
    "checkpoint/model.ckpt": ("train, extend",),
}
WEIGHTS = dict.fromkeys(READERS, 1) | {
    **dict.fromkeys(list(READERS)[:4], 4), "clips.csv": 5, RECIPE: 5, "table.yaml": 2,
    "run/adapter/adapter_config.json": 3, "backbone/config.json": 2, "backbone/model.safetensors": 2,
    "run/adapter/adapter_model.safetensors": 3,
}  # fmt: skip
ENDS_SAY_IF_CUT = (".wav", ".flac", ".ogg")  # an MP3 without a header may end at any frame


def make_files(folder: Path) -> None:
    """Makes clips, a list of them, a backbone, recipes, a table, and a run that was trained with them."""
    draw, rows = np.random.default_rng(0), []
    for label in ("cat", "dog"):
        (folder / "clips" / label).mkdir(parents=True)
        for number in range(10):
            ending = ("wav", "flac", "ogg", "mp3")[number % 4]
            path = f"clips/{label}/{number}.{ending}"
            soundfile.write(folder / path, 0.1 * draw.standard_normal(9600), 16000)
            rows.append((path, label, ("train", "train", "train", "valid", "test")[number % 5], ""))
    with open(folder / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split", "start"), *rows])
    config, extractor = TINY_BACKBONES["ast"]
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder / "backbone")
    extractor.save_pretrained(folder / "backbone")
    shutil.copytree(REPOSITORY / "hparams", folder / "hparams")
    table = {
        "rows": {"bitfit": {"method": "bitfit"}, "linear": {"method": "linear"}},
        "columns": {"own": {"recipe": RECIPE, "data_folder": "clips"}},
        "shared": {"dataset": "own", "frames": 64, "batch_size": 4, "number_of_epochs": 1, "backbone": "backbone"},
        "seeds": [1],
    }
    (folder / "table.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    ended = give([*COMMANDS["train"][:-1], "--output_folder=run"], folder)
    if ended.fault or ended.code:
        raise RuntimeError(f"the good files cannot be trained on: {ended.output}")
    (folder / "done").mkdir()
    for name in ("predict, continued", "embed, continued"):
        give(COMMANDS[name], folder)
    [checkpoint] = (folder / "run" / "save").glob("CKPT*")
    (folder / "checkpoint").symlink_to(checkpoint.relative_to(folder))


@dataclass
class Ended:
    """How a command ended: its exit code, what it printed, its seconds and bytes, and what was wrong with it."""

    code: int
    output: str
    seconds: float
    memory: int
    fault: str = ""


def give(arguments: list[str], folder: Path) -> Ended:
    """Gives a command in a folder, and kills it where it takes too long or too much memory."""
    main = "brainplug.cli:main"
    if arguments[0].endswith(".yaml"):
        main = str(Path(arguments[0]).parents[1] / "train.py")
    output = folder / "output.txt"
    output.touch()
    start = time.monotonic()
    process = multiprocessing.get_context("forkserver").Process(
        target=_run, args=(arguments, str(folder), str(output), None, main)
    )
    process.start()
    memory, seconds, fault = 0, 0.0, ""
    while process.is_alive() and not fault:
        process.join(0.05)
        memory_now, seconds_now = use_of(process.pid or 0)
        memory, seconds = max(memory, memory_now), max(seconds, seconds_now)
        if seconds > LONGEST or time.monotonic() - start > LONGEST_WAIT:
            fault = f"it takes more than {LONGEST:.0f} s"
        elif memory > MOST_MEMORY:
            fault = "it takes more than 2 GB"
    if fault:
        kill_together(process.pid or 0)
    process.join()
    text = output.read_text(errors="replace")
    output.unlink()
    if not fault and "Traceback" in text:
        fault = "a traceback"
    elif not fault and process.exitcode not in (0, 1, 2):
        fault = f"exit code {process.exitcode}"
    return Ended(process.exitcode or 0, text, seconds, memory, fault)


def use_of(number: int) -> tuple[int, float]:
    """What a process and its children hold, in bytes, and the seconds of a processor that they took."""
    try:
        together = [psutil.Process(number), *psutil.Process(number).children(recursive=True)]
        return sum(one.memory_info().rss for one in together), sum(sum(one.cpu_times()[:4]) for one in together)
    except psutil.NoSuchProcess:
        return 0, 0.0


def partial(folder: Path, bad: BadInput, name: str, ended: Ended) -> str:
    """What a command left that is not whole, though nothing says so; empty where all is well."""
    if (folder / "pwned").exists():
        return "it ran code of the file"
    refused = ended.code == 2
    if name.endswith("continued"):
        listing = "rows.csv" if name.startswith("predict") else "out.csv"
        with open(folder / "done" / listing, newline="", errors="surrogateescape") as file:
            done = {row.get("path") for row in csv.DictReader(file)} if not refused else set()
        wanted = {f"clips/{path.parent.name}/{path.name}" for path in folder.glob("clips/*/*")}
        return "" if refused or wanted <= done else "clips are missing from the results"
    if name.startswith(("predict", "embed")):
        rows = folder / "out.csv"
        if refused:
            return "a refused command left results" if rows.exists() or (folder / "out.npy").exists() else ""
        listed = list(csv.DictReader(rows.open(newline="", errors="surrogateescape")))
        counts = ended.output.rpartition(" clips cannot be used:")[0].rpartition("\n")[2].split(" of ")
        skipped, clips = map(int, counts) if len(counts) == 2 else (0, len(listed))
        if bool(skipped) != bool(ended.code) or len(listed) + skipped != clips:
            return f"{len(listed)} rows and {skipped} skipped of {clips}, with exit code {ended.code}"
        if name == "embed" and len(np.load(folder / "out.npy")) != len(listed):
            return "vectors and rows differ in number"
        if (
            bad.change == "cut"
            and bad.path.endswith(ENDS_SAY_IF_CUT)
            and any(row["path"] == bad.path for row in listed)
        ):
            return "a file that was cut is taken for whole"
    results = folder / ("run" if name == "train, extend" else "results") / "results.json"
    if name.startswith("train") and refused and name != "train, extend":
        return "a refused run left results" if results.exists() else ""
    if name.startswith("train") and not refused:
        with open(results.parent / "predictions.csv", newline="") as file:
            rows_of_test = len(list(csv.DictReader(file)))
        if json.loads(results.read_text())["n_test"] != rows_of_test:
            return "predictions.csv has not as many rows as n_test says"
    return ""


def try_input(bad: BadInput, good: Path, folder: Path) -> list[dict[str, Any]]:
    """Gives a bad input to all its readers; returns what each did."""
    trials = []
    for name in READERS[bad.path]:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder, symlinks=True)
        (folder / bad.path).write_bytes(bad.content)
        ended = give(COMMANDS[name], folder)
        fault = ended.fault or partial(folder, bad, name, ended)
        trials.append({"command": name, "code": ended.code, "seconds": ended.seconds, "memory": ended.memory})
        if fault:
            trials[-1] |= {"fault": fault, "output": ended.output[-3000:]}
    shutil.rmtree(folder)
    return trials


def add(figures: dict[str, Any], bad: BadInput, trials: list[dict[str, Any]]) -> None:
    """Adds an input to the figures and writes them."""
    figures["inputs"] += 1
    kind = Path(bad.path).suffix.removeprefix(".").replace("ckpt", "safetensors")
    figures["kinds"] = counted(figures["kinds"], [kind])
    figures["commands"] = counted(figures["commands"], [trial["command"] for trial in trials])
    figures["exit_codes"] = counted(figures["exit_codes"], [str(trial["code"]) for trial in trials])
    figures["longest_seconds"] = max(figures["longest_seconds"], *(round(trial["seconds"], 1) for trial in trials))
    figures["most_megabytes"] = max(figures["most_megabytes"], *(trial["memory"] // 10**6 for trial in trials))
    for trial in trials:
        if "fault" in trial:
            fault = {"path": bad.path, "change": bad.change, "command": trial["command"], "fault": trial["fault"]}
            figures["faults"].append(fault)
    write_figures("bad_inputs", figures)


def show(number: int, bad: BadInput, trials: list[dict[str, Any]]) -> None:
    """Prints what the commands did; keeps an input with a fault in the folder of temporary files."""
    codes = ", ".join(f"{trial['command']} {trial['code']} ({trial['seconds']:.1f} s)" for trial in trials)
    print(f"{number:>4} {bad.path}, {bad.change}: {codes}", flush=True)
    for trial in trials:
        if "fault" in trial:
            print(f"     FAULT {trial['command']}: {trial['fault']}\n{trial['output']}", flush=True)
            Path(tempfile.gettempdir(), f"brainplug-bad-{number}").write_bytes(bad.content)


def main() -> int:
    """Goes on until there were so many inputs; returns 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=2, help="inputs at the same time")
    parser.add_argument("--only", type=int, help="this input alone, by number from 0; figures are not written")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brainplug-bad-") as name:
        base = Path(name)
        os.environ.update(
            HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY), BRAINPLUG_CACHE=str(base / "cache")
        )
        start_server()
        make_files(base / "good")
        inputs = bad_inputs(base / "good", WEIGHTS, chosen.inputs)
        figures = NOTHING | read_figures("bad_inputs")
        numbers = range(figures["inputs"], len(inputs)) if chosen.only is None else [chosen.only]

        def attempt(number: int) -> list[dict[str, Any]]:
            return try_input(inputs[number], base / "good", base / f"trial-{number}")

        with ThreadPoolExecutor(chosen.jobs) as pool:  # threads wait; the commands are processes
            for number, trials in zip(numbers, pool.map(attempt, numbers), strict=True):
                if chosen.only is None:
                    add(figures, inputs[number], trials)
                show(number, inputs[number], trials)
    if chosen.only is None:
        document("bad_inputs", figures)
    print(json.dumps(figures, indent=2))
    return int(bool(figures["faults"]))


if __name__ == "__main__":
    sys.exit(main())
