"""Backbones by name: pretrained, with random weights, or with shapes alone."""

from __future__ import annotations

import re
from pathlib import Path

import torch
import transformers

from brainplug.backbones.audio_spectrogram import AudioSpectrogram
from brainplug.backbones.base import Backbone, copy_config
from brainplug.backbones.echo_encoder import EchoBackbone
from brainplug.backbones.hub import as_checkpoint_error, fetch_config, find_config, hub_cache, load_extractor
from brainplug.backbones.spec import Checkpoint
from brainplug.backbones.wav2vec2 import Wav2Vec2
from brainplug.backbones.wavlm import WavLM
from brainplug.backbones.whisper import Whisper
from brainplug.errors import CheckpointError, ConfigError, nearest
from brainplug.files import read_json

# A new family adds its row.
FAMILIES: tuple[type[Backbone], ...] = (
    AudioSpectrogram,
    Wav2Vec2,
    WavLM,
    Whisper,
    EchoBackbone,
)

CHECKPOINTS: dict[str, Checkpoint] = {name: made for family in FAMILIES for name, made in family.checkpoints.items()}
HUB_NAMES = {name: checkpoint.hub_id for name, checkpoint in CHECKPOINTS.items() if checkpoint.hub_id}
BUNDLED_FOLDER = Path(__file__).parent / "nano"
RANDOM = "random:"  # before a name: that backbone with random weights


def bundled_names() -> list[str]:
    """The backbones that are bundled with the package."""
    return sorted(name for name, checkpoint in CHECKPOINTS.items() if not checkpoint.hub_id)


def base_name(name: str) -> str:
    """A backbone's name without ``random:``."""
    return name.removeprefix(RANDOM)


def find_source(name: str) -> str:
    """The folder or the hub id of a backbone.

    The name is that of a bundled one (``nano-ast``), a short name (``ast``), a folder, or a hub id such as
    ``facebook/hubert-large-ll60k``; ``random:`` may come before it.
    """
    base = base_name(name)
    if base in bundled_names():
        return str(BUNDLED_FOLDER / base)
    if base in HUB_NAMES:
        return HUB_NAMES[base]
    if Path(base, "config.json").is_file():
        return base
    if base.count("/") == 1 and not base.startswith((".", "/")) and not Path(base).exists():
        return base
    prefix = RANDOM if name.startswith(RANDOM) else ""
    candidates = [prefix + candidate for candidate in (*bundled_names(), *HUB_NAMES)]
    raise ConfigError(
        f"The backbone {name!r} was asked for.",
        f"No bundled backbone has this name, and no folder {base!r} holds a config.json.",
        f"Write --backbone= one of {nearest(name, candidates)}, {prefix}FOLDER, or a hub id {prefix}OWNER/NAME",
    )


def known_config(name: str, revision: str | None = None) -> transformers.PreTrainedConfig:
    """A backbone's configuration, without asking the hub or reading weights.

    It comes from the checkpoint's file if that is on this machine; short names and their hub ids are known without it.
    Otherwise a `CheckpointError` is raised.
    """
    source = find_source(name)
    path = find_config(source, revision)
    if path is None:
        for checkpoint in CHECKPOINTS.values():
            if checkpoint.config and checkpoint.hub_id == source:
                return checkpoint.config()
        raise CheckpointError(
            f"The configuration of the backbone {name!r} was asked for.",
            f"It is not in the cache {hub_cache()}.",
            f"Write one of {', '.join([*bundled_names(), *HUB_NAMES])}, a folder, or a hub id that was loaded before",
        )
    with as_checkpoint_error(source):
        family = family_of(read_json(path).get("model_type"), name)
        return family.read_config(path.parent)


def load_backbone(
    name: str, revision: str | None = None, frames: int | None = None, positions: str = "crop"
) -> Backbone:
    """Loads a pretrained backbone by name, in float32 and evaluation mode.

    Arguments
    ---------
    name : str
        As in `find_source`. With ``random:`` the weights are random, drawn with the seed that torch was given last.
    revision : str, optional
        A revision of the hub. For random weights ``seed-1`` draws those of seed 1.
    frames, positions : int, str
        As in `Backbone`.

    Returns
    -------
    Backbone
        Its `revision` names the weights: with it and the name, this function returns the same ones.
    """
    source = find_source(name)
    with as_checkpoint_error(source):
        if name.startswith(RANDOM):
            return _with_random_weights(source, name, revision, frames, positions)
        model_type = fetch_config(source, revision).get("model_type")
        return family_of(model_type, name).load(source, name, revision, frames=frames, positions=positions)


def _with_random_weights(source: str, name: str, revision: str | None, frames: int | None, positions: str) -> Backbone:
    """A backbone that differs from the pretrained one in its weights alone."""
    seed = torch.initial_seed() if revision is None else _seed_of(revision, name)
    fetch_config(source, None)  # downloads it if it is not on this machine
    config = known_config(name)
    family = family_of(config.model_type, name)
    extractor = load_extractor(family.extractor_class(), source, None)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone = family.from_config(config, name, extractor, frames=frames, positions=positions)
    backbone.revision = f"seed-{seed}"
    return backbone


def _seed_of(revision: str, name: str) -> int:
    if match := re.fullmatch(r"seed-(\d+)", revision):
        return int(match[1])
    raise ConfigError(
        f"The backbone {name!r}, revision {revision!r}, was asked for.",
        "The revision of random weights is the seed that they are drawn with.",
        "Leave --backbone_revision out, or write --backbone_revision=seed-1, for example",
    )


def random_backbone(
    config: transformers.PreTrainedConfig, frames: int | None = None, positions: str = "crop"
) -> Backbone:
    """Builds a backbone with random weights, without any file; of the class that `load_backbone` returns."""
    family = family_of(config.model_type, "random")
    return family.from_config(copy_config(config), frames=frames, positions=positions)


def backbone_without_weights(
    config: transformers.PreTrainedConfig, frames: int | None = None, positions: str = "crop"
) -> Backbone:
    """Builds a backbone on torch's meta device: shapes without values."""
    with torch.device("meta"):
        return random_backbone(config, frames, positions)


def family_of(model_type: str | None, name: str) -> type[Backbone]:
    """The class of a family; raises a `ConfigError` that names the backbone if there is none."""
    for family in FAMILIES:
        if model_type in family.spec.model_types:
            return family
    supported = [model_type for family in FAMILIES for model_type in family.spec.model_types]
    raise ConfigError(
        f"The backbone {name!r} was asked for.",
        f"Its family {model_type!r} is not supported.",
        f"Name a backbone of one of these families: {', '.join(supported)}",
    )
