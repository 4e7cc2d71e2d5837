"""Trained models, ready to use."""

from pathlib import Path

from brainplug.adapters.file import read_adapter
from brainplug.config.recipe import check_device
from brainplug.inference.adapter_hub import AdapterHub
from brainplug.inference.base import check_task
from brainplug.inference.classifier import Classifier
from brainplug.inference.recognizer import SpeechRecognizer

__all__ = ["AdapterHub", "Classifier", "SpeechRecognizer", "load_run"]


def load_run(
    source: str | Path,
    device: str = "cpu",
    precision: str = "fp32",
    backbone: str | None = None,
    revision: str | None = None,
    verify: bool = True,
) -> Classifier | SpeechRecognizer:
    """Loads what a run trained, whatever its task; the arguments are those of `Classifier.from_run`."""
    check_device(device, precision)
    adapter = read_adapter(source, revision)
    kinds = {task: kind for kind in (Classifier, SpeechRecognizer) for task in kind.tasks}
    check_task(adapter.description, list(kinds), f"The model in {source} was asked for.")
    return kinds[adapter.description.task].from_adapter(adapter, device, precision, backbone, verify)
