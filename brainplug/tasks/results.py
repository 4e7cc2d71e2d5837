"""What results.json and adapters say of every run, whatever its task."""

import resource
import sys
from collections.abc import Sequence
from typing import Any

import torch

from brainplug.adapters.description import PACKAGES
from brainplug.config.versions import package_versions
from brainplug.methods import method_settings
from brainplug.models.adapted import AdaptedModel
from brainplug.results.schema import method_name
from brainplug.tasks.settings import TaskSettings
from brainplug.training.brain import AdaptationBrain

REPORTED_PACKAGES = ("brainplug", "torch", "torchaudio", "speechbrain", "transformers", "peft", "hyperpyyaml")


def peak_memory_bytes(device: str) -> int:
    """The most memory that the run held: of a CUDA device, else of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe_run(brain: AdaptationBrain, settings: TaskSettings) -> dict[str, Any]:
    """What was run, and what it took, as JSON values; after the test."""
    backbone, epochs = brain.model.backbone, settings.epoch_counter.current
    return {
        "dataset": settings.data_name(),
        "fold": settings.fold,
        "backbone": backbone.name,
        "backbone_revision": backbone.revision,
        "method": settings.method,
        "method_settings": method_settings(brain.model.method),
        "optimizer": settings.optimizer,
        "lr": brain.lr,
        "seed": settings.seed,
        "epochs": epochs,
        **brain.model.count_parameters(),
        "seconds": brain.stopwatch.seconds,
        "seconds_per_epoch": brain.stopwatch.seconds / max(1, epochs),
        "peak_memory_bytes": peak_memory_bytes(brain.device),
        "device": brain.device,
        "precision": brain.precision,
        "packages": package_versions(REPORTED_PACKAGES),
    }


def describe_method(model: AdaptedModel, settings: TaskSettings) -> dict[str, Any]:
    """What every adapter says of its backbone and its method."""
    return {
        "backbone": model.backbone.name,
        "backbone_revision": model.backbone.revision,
        "signal": model.backbone.signal_settings,
        "channel": settings.channel,
        "longest_clip": settings.length_limit(model.backbone),
        "method": settings.method,
        "method_settings": method_settings(model.method.with_targets_of(model.backbone.model)),
        "versions": package_versions(PACKAGES),
    }


def summary_text(
    results: dict[str, Any], output_folder: str, data: str, rows: Sequence[tuple[str, str]], model: str = ""
) -> str:
    """The short table at the end of a run: one row a fact, with those of its task in the middle."""
    rows = [
        ("data", data),
        ("model", f"{results['backbone']} with {method_name(results)}{model}"),
        *rows,
        ("trainable", f"{results['trainable']:,} parameters, {results['trainable'] / results['total']:.2%} of all"),
        ("time", f"{results['seconds']:.0f} s"),
        ("peak memory", f"{results['peak_memory_bytes'] / 1e9:.2f} GB"),
        ("files", output_folder),
    ]
    return "\n".join(f"{name:<16}{value}" for name, value in rows)
