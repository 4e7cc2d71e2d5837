"""Reads the files that a run leaves beside results.json."""

import contextlib
import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from brainplug.errors import DataError
from brainplug.files import OBSERVATIONS, PREDICTIONS, TRAIN_LOG

Prediction = dict[str, str]  # with id, path, label, predicted and, but for older runs, probability
Curve = Mapping[int, tuple[float, float, float]]  # epoch -> training loss, validation loss, validation metric (%)
EPOCH = re.compile(
    r"epoch: (\d+), lr: \S+ - train loss: (\S+) - "
    r"valid loss: ([^\s,]+), valid \w+: ([^\s,]+)(?:, valid \w+: [^\s,]+)*$",
    re.MULTILINE,
)


def read_predictions(folder: str | Path) -> list[Prediction]:
    """Reads predictions.csv: a row for each test clip; empty where a run has no such file."""
    path = Path(folder, PREDICTIONS)
    if not path.is_file():
        return []
    with _readable(path), open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
        if any(row["label"] is None or row["predicted"] is None for row in rows):
            raise ValueError("a row is cut short")
        return rows


def read_observations(folder: str | Path) -> tuple[dict[str, np.ndarray], list[str]] | None:
    """Reads what the model computed of some test clips.

    Returns
    -------
    tuple[dict[str, np.ndarray], list[str]] | None
        ``targets`` ``[clips]``; ``vectors`` and ``vectors_before``, what the head reads after and before training,
        ``[clips, dim]``; the shares of experts, ``[clips, mixtures, experts]``. Then the labels, in the order of their
        indices. None where a run has no such file.
    """
    path = Path(folder, OBSERVATIONS)
    if not path.is_file():
        return None
    with _readable(path):
        with safe_open(path, framework="numpy") as file:
            labels = json.loads(file.metadata()["labels"])
        arrays = safetensors.numpy.load_file(path)
        _check_observations(arrays, len(labels))
    return {name: values if name == "targets" else values.astype("float32") for name, values in arrays.items()}, labels


def _check_observations(arrays: Mapping[str, np.ndarray], n_labels: int) -> None:
    if len({len(values) for values in (arrays["targets"], arrays["vectors"], arrays["vectors_before"])}) != 1:
        raise ValueError("its arrays are not of the same clips")
    if not set(arrays["targets"].tolist()) <= set(range(n_labels)):
        raise ValueError("it has targets without labels")


def read_train_log(folder: str | Path) -> str:
    """Reads SpeechBrain's log of a training."""
    path = Path(folder, TRAIN_LOG)
    with _readable(path):
        return path.read_text(encoding="utf-8")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises what is wrong with a file as a `DataError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error, SafetensorError) as error:
        raise DataError(
            f"The file {path} was asked for.",
            f"It is damaged: {error}.",
            "Copy it again from where the run was, or remove it",
        ) from error


def learning_curve(text: str) -> Curve:
    r"""Reads SpeechBrain's log of a training; of several metrics it keeps the first one.

    An epoch that was trained again after a stop replaces what was logged of it and of later epochs.

    Example
    -------
    >>> line = "epoch: {}, lr: 1e-3 - train loss: {} - valid loss: 2.0, valid accuracy: 50.00"
    >>> learning_curve("\n".join(line.format(*epoch) for epoch in ((1, 3.0), (2, 9.0), (2, 1.0))))
    {1: (3.0, 2.0, 50.0), 2: (1.0, 2.0, 50.0)}
    """
    curve: dict[int, tuple[float, float, float]] = {}
    for epoch, train_loss, valid_loss, metric in EPOCH.findall(text):
        curve = {earlier: values for earlier, values in curve.items() if earlier < int(epoch)}
        curve[int(epoch)] = float(train_loss), float(valid_loss), float(metric)
    return curve
