"""The adapters that a service has loaded: a hub for each backbone, and for each way to read clips."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from brainplug.adapters.file import read_description
from brainplug.errors import CheckpointError, ConfigError, nearest
from brainplug.inference import AdapterHub
from brainplug.inference.adapter_hub import Predictions
from brainplug.service.refusal import RefusedError, quoted

FRAMES_PER_SECOND = 100  # of all backbones whose clips have a fixed number of frames
Item = tuple[torch.Tensor, Sequence[str]]  # a waveform [time], and the names of its adapters


def name_folders(arguments: Iterable[str]) -> dict[str, str]:
    """Reads a command line's runs, each a folder or ``NAME=FOLDER``: name -> folder.

    Example
    -------
    >>> name_folders(["runs/birds", "street=runs/7"])
    {'birds': 'runs/birds', 'street': 'runs/7'}
    """
    folders: dict[str, str] = {}
    for text in arguments:
        name, mark, folder = text.partition("=")
        if not mark or os.path.isdir(text):
            name, folder = Path(text).resolve().name, text
        asked = f"The adapter {text} was asked for."
        if not (name.strip() and name.isprintable() and folder):
            raise ConfigError(asked, "It has no name, or no folder.", "Write NAME=FOLDER, or FOLDER")
        if name in folders:
            problem = f"The name {name} is that of {folders[name]} too."
            raise ConfigError(asked, problem, "Give each a name of its own: NAME=FOLDER")
        folders[name] = folder
    return folders


def load_hubs(
    folders: Mapping[str, str], device: str = "cpu", precision: str = "fp32", backbone: str | None = None
) -> list[AdapterHub]:
    """Loads the adapters of runs, given as name -> folder, into as few hubs as can hold them.

    Arguments
    ---------
    device, precision, backbone : str
        As in `Classifier.from_run`.
    """
    hubs: list[AdapterHub] = []
    for name, folder in folders.items():
        source = backbone or read_description(folder).backbone
        if not any(_loads(hub, name, folder) for hub in hubs if hub.name == source):
            hub = AdapterHub(source, device, precision)
            hub.load(name, folder)
            hubs.append(hub)
    return hubs


def _loads(hub: AdapterHub, name: str, folder: str) -> bool:
    """Loads an adapter, unless it does not fit the hub."""
    try:
        hub.load(name, folder)
    except CheckpointError:  # a damaged one is refused by a hub of its own too
        return False
    return True


class Hubs:
    """Hubs whose adapters all have different names."""

    def __init__(self, hubs: Iterable[AdapterHub]):
        self.by_name = {name: hub for hub in hubs for name in hub.names}

    @property
    def all(self) -> list[AdapterHub]:
        """The hubs."""
        return list(dict.fromkeys(self.by_name.values()))

    def group(self, names: Sequence[str]) -> dict[AdapterHub, list[str]]:
        """The adapters of a request, by hub; those that are not served, and names that repeat, are refused."""
        groups: dict[AdapterHub, list[str]] = {}
        for name in names:
            asked = f"The adapter {quoted(name)} was asked for."
            if name not in self.by_name:
                raise RefusedError(404, asked, "It is not served.", f"Name one of: {nearest(name, self.by_name)}")
            if names.count(name) > 1:
                raise RefusedError(422, asked, f"It is named {names.count(name)} times.", "Name it once")
            groups.setdefault(self.by_name[name], []).append(name)
        return groups


def seconds_read(hub: AdapterHub) -> float | None:
    """How many seconds of a clip a model with a fixed number of frames reads; None: all of it."""
    frames = hub.backbone.signal_settings.get("frames")
    return None if frames is None else frames / FRAMES_PER_SECOND


def longest_clip(hub: AdapterHub) -> float:
    """The longest clip that a hub takes, in seconds; infinity where it takes any length."""
    limits = [math.inf if hub.longest_clip is None else hub.longest_clip]
    if hub.backbone.max_tokens is not None:
        limits.append(hub.backbone.max_tokens / hub.backbone.count_tokens(hub.backbone.sample_rate))
    return min(limits)


def classify(hub: AdapterHub, items: Sequence[Item]) -> list[Predictions]:
    """The predictions of a batch."""
    waveforms, names = [waveform for waveform, _ in items], [chosen for _, chosen in items]
    counts = torch.tensor([len(waveform) for waveform in waveforms], dtype=torch.float64)
    return hub.classify_batch(pad_sequence(waveforms, batch_first=True), counts / counts.max(), names)
