"""Folders as runs leave them, made without a run."""

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from brainplug.results.schema import RunResults, parse_results
from brainplug.training.diagnostics import write_observations

EPOCH = "epoch: {}, lr: 1.00e-03 - train loss: {:.2e} - valid loss: {:.2e}, valid accuracy: {:.2f}"
LABELS = ("dog", "rain", "sneezing")


RESULTS = {
    "dataset": "esc50", "fold": 1, "backbone": "nano-ast", "method": "linear", "method_settings": {},
    "optimizer": "adamw", "seed": 1, "few_shot": None, "n_train": 240, "n_classes": 3,
    "trainable": 415, "trainable_without_head": 384, "best_epoch": 2, "epochs": 3, "valid_accuracy": 0.5,
    "test_accuracy": 0.5, "test_accuracy_best_epoch": 0.5, "test_accuracy_last_epoch": 0.5,
    "seconds": 60.0, "peak_memory_bytes": 10**9, "paper_code": False,
}  # fmt: skip
RECOGNITION = {
    "dataset": "spoken", "backbone": "hubert", "method": "lora", "decoding": "greedy", "epochs": 3, "seed": 1,
    "trainable": 2000, "trainable_without_head": 1000, "best_epoch": 2, "valid_wer": 0.5, "test_wer": 0.5,
    "test_cer": 0.25, "test_wer_last_epoch": 0.4, "test_cer_last_epoch": 0.2, "seconds": 90.0,
    "peak_memory_bytes": 10**9,
}  # fmt: skip
ACCURACIES = ("test_accuracy", "valid_accuracy", "test_accuracy_best_epoch", "test_accuracy_last_epoch")


def write_results(folder: Path, **results: object) -> RunResults:
    """Writes results.json into a folder; every accuracy is ``test_accuracy`` where it is not given."""
    accuracy = results.get("test_accuracy", RESULTS["test_accuracy"])
    described = {**RESULTS, **dict.fromkeys(ACCURACIES, accuracy), **results}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(described))
    return parse_results(described)


def make_run(
    folder: Path, labels: Sequence[str] = LABELS, clips: int = 10, files: bool = True, **results: object
) -> RunResults:
    """Makes one run: its results, and with ``files`` what pictures are drawn of."""
    draws = random.Random(str(folder.name) + str(results))
    described = write_results(folder, n_classes=len(labels), **results)
    if files:
        _write_files(folder, labels, clips, described, draws)
    return described


def make_recognition(folder: Path, **results: object) -> RunResults:
    """Makes one run of speech recognition, with its log."""
    described = {**RECOGNITION, **results}
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(described))
    lines = [
        f"epoch: {epoch}, lr: 1e-03 - train loss: {9 / epoch} - valid loss: 2, valid WER: {80 / epoch}, valid CER: 1"
        for epoch in range(1, described["epochs"] + 1)
    ]
    (folder / "train_log.txt").write_text("\n".join(lines) + "\n")
    return parse_results(described)


def _write_files(folder: Path, labels: Sequence[str], clips: int, run: RunResults, draws: random.Random) -> None:
    accuracy = run.score() / 100
    lines = [
        EPOCH.format(epoch, 2 / epoch * draws.uniform(0.8, 1.2), 1.5 / epoch**0.3, 100 * accuracy * (1 - 0.5**epoch))
        for epoch in range(1, run.epochs + 1)
    ]
    (folder / "train_log.txt").write_text("\n".join(lines) + "\n")
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "path", "label", "predicted"))
        for index, label in enumerate(labels):
            for clip in range(clips):
                name = f"{index}-{clip}"
                predicted = label if draws.random() < accuracy else draws.choice(labels)
                writer.writerow((name, f"audio/{name}.wav", label, predicted))
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(len(labels)).repeat_interleave(clips)
    noise = torch.randn(len(targets), 8, generator=generator)
    centres = 3 * torch.randn(len(labels), 8, generator=generator)[targets]
    observed = {"targets": targets, "vectors": centres + noise}
    if "moa" in run.method:
        shares = torch.randn(len(targets), 6, 7, generator=generator).softmax(2)
        observed |= {"router": shares} if run.method == "dense_moa" else {"combine": shares, "dispatch": shares}
    write_observations({**observed, "vectors": centres / 3 + noise}, observed, labels, str(folder))
