"""Folders as runs leave them, made without a run."""

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from brainplug.training.diagnostics import write_observations

EPOCH = "epoch: {}, lr: 1.00e-03 - train loss: {:.2e} - valid loss: {:.2e}, valid accuracy: {:.2f}"
LABELS = ("dog", "rain", "sneezing")


def make_run(folder: Path, labels: Sequence[str] = LABELS, clips: int = 10, kept: bool = True, **results) -> dict:
    """Makes one run: its results, and with ``kept`` what pictures are drawn of."""
    folder.mkdir(parents=True)
    draws = random.Random(str(folder.name) + str(results))
    accuracy = results.get("test_accuracy", 0.5)
    described = {
        "dataset": "esc50", "fold": 1, "backbone": "nano-ast", "method": "linear", "method_settings": {},
        "optimizer": "adamw", "seed": 1, "few_shot": None, "n_train": 240, "n_classes": len(labels),
        "trainable_without_head": 384, "best_epoch": 2, "epochs": 3, "valid_accuracy": accuracy,
        "test_accuracy": accuracy, "test_accuracy_best_epoch": accuracy, "test_accuracy_last_epoch": accuracy,
        "seconds": 60.0, "peak_memory_bytes": 10**9, "paper_code": False, **results,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(described))
    if kept:
        _keep(folder, labels, clips, accuracy, described, draws)
    return described


def _keep(folder: Path, labels: Sequence[str], clips: int, accuracy: float, run: dict, draws: random.Random) -> None:
    lines = [
        EPOCH.format(epoch, 2 / epoch * draws.uniform(0.8, 1.2), 1.5 / epoch**0.3, 100 * accuracy * (1 - 0.5**epoch))
        for epoch in range(1, run["epochs"] + 1)
    ]
    (folder / "train_log.txt").write_text("\n".join(lines) + "\n")
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "path", "label", "predicted"))
        for place, label in enumerate(labels):
            for clip in range(clips):
                name = f"{place}-{clip}"
                answer = label if draws.random() < accuracy else draws.choice(labels)
                writer.writerow((name, f"audio/{name}.wav", label, answer))
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(len(labels)).repeat_interleave(clips)
    noise = torch.randn(len(targets), 8, generator=generator)
    centres = 3 * torch.randn(len(labels), 8, generator=generator)[targets]
    seen = {"targets": targets, "vectors": centres + noise}
    if "moa" in run["method"]:
        shares = torch.randn(len(targets), 6, 7, generator=generator).softmax(2)
        seen |= {"router": shares} if run["method"] == "dense_moa" else {"combine": shares, "dispatch": shares}
    write_observations({**seen, "vectors": centres / 3 + noise}, seen, labels, str(folder))
