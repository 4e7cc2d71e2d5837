"""Adapter files: what training made and nothing else, as safetensors with a description in JSON."""

import json
import os
from pathlib import Path

import safetensors.torch

from brainplug.files import write_json
from brainplug.model import AudioClassifier


def save_delta(model: AudioClassifier, path: Path, description: dict) -> None:
    """Writes what training made as safetensors, with its description in the file's header.

    Arguments
    ---------
    model : AudioClassifier
        Its delta is written.
    path : Path
        The file; it appears when it is whole.
    description : dict
        JSON values: method and settings, backbone and revision, labels.
    """
    delta = {name: tensor.detach().cpu().contiguous() for name, tensor in model.delta().items()}
    unfinished = Path(f"{path}.unfinished")
    safetensors.torch.save_file(delta, unfinished, metadata={"brainplug": json.dumps(description)})
    os.replace(unfinished, path)


def save_adapter(model: AudioClassifier, folder: str, results: dict, labels: dict[str, int], signal: dict) -> None:
    """Writes the adapter of a finished run: ``adapter.safetensors`` and ``adapter.json``.

    Arguments
    ---------
    model : AudioClassifier
        With the weights of the best epoch.
    folder : str
        The run's output folder.
    results : dict
        The run's results; they name the method and the backbone.
    labels : dict[str, int]
        Label -> index.
    signal : dict
        How the backbone's input is made.
    """
    kept = ("backbone", "backbone_revision", "method", "method_settings", "paper_code")
    description = {name: results[name] for name in kept}
    description |= {"pooling": model.pooling, "labels": labels, "signal": signal}
    save_delta(model, Path(folder, "adapter.safetensors"), description)
    write_json(description, Path(folder, "adapter.json"))


def load_delta(model: AudioClassifier, path: Path) -> None:
    """Loads what `save_delta` wrote.

    Arguments
    ---------
    model : AudioClassifier
        Built with the same method, backbone and number of classes.
    path : Path
        The file.

    Raises
    ------
    UsageError
        The file does not fit the model.
    """
    model.load_delta(safetensors.torch.load_file(path))
