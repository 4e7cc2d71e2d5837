"""Descriptions of adapters that tests make without a run."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from brainplug.adapters.description import ClassifierDescription, RecognizerDescription
from brainplug.models.classifier import AudioClassifier
from brainplug.models.ctc import CTCModel
from brainplug.tasks.results import describe_method

WEIGHTS = Path("adapter", "adapter_model.safetensors")  # in the output folder of a run


def described_by(run: Path) -> dict[str, Any]:
    """What the adapter of a run says of itself, as JSON has it."""
    description: dict[str, Any] = json.loads((run / "adapter" / "adapter_config.json").read_text())["brainplug"]
    return description


def settings_of(method: str) -> SimpleNamespace:
    """What `describe_method` reads of a recipe."""
    return SimpleNamespace(method=method, channel="mix", length_limit=lambda backbone: None)


def describe_classifier(model: AudioClassifier, labels: list[str], method: str = "linear") -> ClassifierDescription:
    """Describes a classifier's adapter as a run does."""
    described = describe_method(model, settings_of(method))
    return ClassifierDescription(**described, paper_code=False, positions="crop", pooling=model.pooling, labels=labels)


def describe_recognizer(model: CTCModel, characters: str) -> RecognizerDescription:
    """Describes the adapter of a greedy CTC recogniser as a run does."""
    described = describe_method(model, settings_of("linear"))
    task = {"task": "ctc", "paper_code": False, "decoding": "greedy", "beam_size": 4}
    return RecognizerDescription(**described, **task, characters=characters)
