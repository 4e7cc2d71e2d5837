"""What results.json holds, for each kind of task."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from brainplug.errors import DataError
from brainplug.files import RESULTS, find_files

FORMAT = 2  # files of format 1 have neither ``format`` nor ``task``
Epoch = Literal["tested", "best", "last"]
_ENDINGS: Mapping[Epoch, str] = {"tested": "", "best": "_best_epoch", "last": "_last_epoch"}


class Metric(NamedTuple):
    """A metric of a test, which results.json holds as a share: the key is ``test_<key>``."""

    key: str
    name: str
    title: str
    higher_is_better: bool = True


ACCURACY = Metric("accuracy", "accuracy", "test accuracy")
WER = Metric("wer", "WER", "WER", higher_is_better=False)
CER = Metric("cer", "CER", "CER", higher_is_better=False)


class RunResults(BaseModel):
    """The results of a run, whatever its task; a task without a class below has these keys and its own ``test_...``."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    known_metrics: ClassVar[tuple[Metric, ...]] = ()  # of the test, the most important one first

    format: int = 1
    task: str = ""
    dataset: str
    fold: int | None = None
    seed: int
    backbone: str
    method: str
    method_settings: dict[str, Any] = {}
    optimizer: str = "adamw"
    epochs: int
    trainable: int
    trainable_without_head: int
    seconds: float
    peak_memory_bytes: int
    few_shot: int | None = None
    paper_code: bool = False

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of the test: those of the class, or all ``test_...`` of a task that has no class here."""
        if self.known_metrics:
            return self.known_metrics
        numbers = [key for key, value in (self.model_extra or {}).items() if isinstance(value, int | float)]
        keys = [key.removeprefix("test_") for key in numbers if key.startswith("test_")]
        return tuple(Metric(key, key, key) for key in keys if not key.endswith(("_best_epoch", "_last_epoch")))

    @model_validator(mode="after")
    def _has_a_metric(self) -> Self:
        if not self.metrics:
            raise ValueError("there is no metric, whose key starts with test_")
        return self

    @property
    def identity(self) -> dict[str, str | int]:
        """What distinguishes the rows of a table: column -> text."""
        return {"data": self.dataset, "backbone": self.backbone, "method": self.method_name}

    @property
    def counted(self) -> tuple[str, int]:
        """The number of trained parameters that tables show, after its column's name."""
        return "trainable without head", self.trainable_without_head

    @property
    def method_name(self) -> str:
        """The method, with its adapters' location and the optimiser where they are not the usual ones."""
        return method_name(self.model_dump(include={"method", "method_settings", "optimizer"}))

    def score(self, metric: Metric | None = None, epoch: Epoch = "tested") -> float:
        """A metric of the test in per cent, by default the first one; ``tested`` is the epoch that the run reports.

        A run without a number for an epoch has that of the tested one.
        """
        key = f"test_{(metric or self.metrics[0]).key}"
        share = getattr(self, f"{key}{_ENDINGS[epoch]}", None)
        return 100 * (getattr(self, key) if share is None else share)

    @property
    def validation_score(self) -> float:
        """The first metric in validation, in per cent; 0 where the task does not report it."""
        return 100 * getattr(self, f"valid_{self.metrics[0].key}", 0.0)


class ClassificationResults(RunResults):
    """The results of a classifier. The tested epoch is the best one in validation, with ``paper_code`` the last."""

    known_metrics = (ACCURACY,)

    n_classes: int
    n_train: int
    best_epoch: int
    valid_accuracy: float
    test_accuracy: float
    test_accuracy_best_epoch: float | None = None
    test_accuracy_last_epoch: float

    @property
    def identity(self) -> dict[str, str | int]:
        """Runs with other clips or other code have rows of their own."""
        shots = "all" if self.few_shot is None else str(self.few_shot)
        data: dict[str, str | int] = {"data": self.dataset, "classes": self.n_classes, "clips a class": shots}
        return {**data, "backbone": self.backbone, "code": code_name(self.paper_code), "method": self.method_name}


class RecognitionResults(RunResults):
    """The results of a speech recogniser. The tested epoch is the best one in validation."""

    known_metrics = (WER, CER)

    decoding: str
    best_epoch: int
    valid_wer: float
    test_wer: float
    test_cer: float
    test_wer_last_epoch: float
    test_cer_last_epoch: float

    @property
    def identity(self) -> dict[str, str | int]:
        """Runs with another decoding have rows of their own."""
        return {**super().identity, "decoding": self.decoding}

    @property
    def counted(self) -> tuple[str, int]:
        """All trained parameters: a head that writes characters is no detail."""
        return "trainable", self.trainable


# The class of each task, in the order of the tables.
MODELS: Mapping[str, type[RunResults]] = {
    "classification": ClassificationResults,
    "ctc": RecognitionResults,
    "seq2seq": RecognitionResults,
}


def parse_results(values: Mapping[str, Any]) -> RunResults:
    """Checks the content of a results.json; the task of format 1 follows from its metrics.

    Raises
    ------
    ValueError
        A key is missing or has a value of another type (`pydantic.ValidationError`), or the format is a newer one.
    """
    if values.get("format", 1) not in range(1, FORMAT + 1):
        raise ValueError(f"its format is {values['format']!r}, and this brainplug reads formats up to {FORMAT}")
    task = values.get("task") or (
        "classification" if "test_accuracy" in values else "ctc" if "test_wer" in values else ""
    )
    return MODELS.get(task, RunResults).model_validate({**values, "task": task})


def read_results_file(path: Path) -> RunResults:
    """Reads one results.json.

    Raises
    ------
    DataError
        It is cut short, lacks keys or has a newer format.
    """
    try:
        return parse_results(json.loads(path.read_text()))
    except (
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:  # a ValidationError is a ValueError; a list has no keys
        raise DataError(
            f"The results in {path.parent} were asked for.",
            f"{path.name} there cannot be read: {_reason(error)}.",
            "Remove this file and repeat the command that made it, or update brainplug",
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
    return str(error)


def read_results(folder: str) -> list[RunResults]:
    """Reads every results.json below a folder.

    Raises
    ------
    DataError
        There is none, or one cannot be read.
    """
    paths = find_files(folder, RESULTS)
    if not paths:
        raise DataError(
            f"The results in {folder!r} were asked for.", f"There is no {RESULTS}.", "Name a folder above runs"
        )
    return [read_results_file(path) for path in paths]


def code_name(paper_code: bool) -> str:
    """Names the code that a run computed; docs/reproduction.md says how the two differ."""
    return "as published" if paper_code else "corrected"


def method_name(results: Mapping[str, Any]) -> str:
    """Names a method with the location of its adapters, and the optimiser where it is not AdamW.

    Example
    -------
    >>> method_name({"method": "conformer", "method_settings": {"location": "ffn"}, "optimizer": "fam"})
    'conformer (ffn), fam'
    """
    location = results.get("method_settings", {}).get("location")
    optimizer = results.get("optimizer", "adamw")
    name = f"{results['method']} ({location})" if location else results["method"]
    return name if optimizer == "adamw" else f"{name}, {optimizer}"
