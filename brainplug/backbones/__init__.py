"""Pretrained transformers. Each family stands in a file of its own and describes itself with a `BackboneSpec`."""

import copy
import json
import re

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import torch
from transformers import PreTrainedConfig

from brainplug.backbones.audio_spectrogram import AudioSpectrogram
from brainplug.backbones.base import Backbone
from brainplug.backbones.echo import EchoBackbone
from brainplug.backbones.loading import RANDOM, base_name, fetch_config, find_source, known_config, load_pretrained
from brainplug.backbones.spec import BackboneSpec
from brainplug.backbones.wav2vec2 import Wav2Vec2
from brainplug.backbones.wavlm import WavLM
from brainplug.backbones.whisper import Whisper
from brainplug.errors import UsageError

FAMILIES: tuple[type[Backbone], ...] = (AudioSpectrogram, Wav2Vec2, WavLM, Whisper, EchoBackbone)

__all__ = [
    "FAMILIES",
    "Backbone",
    "BackboneSpec",
    "base_name",
    "backbone_without_weights",
    "known_config",
    "load_backbone",
    "random_backbone",
]


def load_backbone(name: str, revision: str | None = None, **settings: object) -> Backbone:
    """Loads a pretrained backbone by name.

    Arguments
    ---------
    name : str
        A bundled one (``nano-ast``), a short name (``ast``, ``wav2vec2``, ``hubert``, ``data2vec``, ``wavlm``,
        ``whisper``), a folder, or a hub id of a supported family. ``random:`` before it takes random weights in place
        of the pretrained ones, drawn with the seed that torch was given last.
    revision : str, optional
        Pins the hub's revision. Of random weights ``seed-1`` draws again those of the seed 1.
    **settings : object
        What the recipe says of the input: `frames` and `positions`, for AST and Whisper.

    Returns
    -------
    Backbone
        With its weights, in float32. Its `revision` names them: with that and the name one gets the same.

    Raises
    ------
    UsageError
        The name is unknown, the weights are out of reach, or the family is not supported.

    Example
    -------
    >>> backbone = load_backbone("nano-ast", frames=100)
    >>> backbone.spec.signal
    'log_mel'
    """
    source = find_source(name)
    if name.startswith(RANDOM):
        return _with_random_weights(source, name, revision, **settings)
    model_type = json.loads(fetch_config(source, revision).read_text()).get("model_type")
    return _family_of(model_type, name).load(source, name, revision, **settings)


def _with_random_weights(source: str, name: str, revision: str | None, **settings: object) -> Backbone:
    """As the pretrained one in everything but its weights, how it reads clips included."""
    seed = torch.initial_seed() if revision is None else _seed_of(revision, name)
    fetch_config(source, None)  # from the hub, if it is not here
    config = known_config(name)
    family = _family_of(config.model_type, name)
    extractor = load_pretrained(family.extractor_class, source, None)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone = family.from_config(config, name, extractor, **settings)
    backbone.revision = f"seed-{seed}"
    return backbone


def _seed_of(revision: str, name: str) -> int:
    found = re.fullmatch(r"seed-(\d+)", revision)
    if not found:
        raise UsageError(
            f"The backbone {name!r}, revision {revision!r}, was asked for.",
            "The revision of random weights is the seed that they are drawn with.",
            "Leave --backbone_revision out, or write --backbone_revision=seed-1, for one",
        )
    return int(found[1])


def random_backbone(config: PreTrainedConfig, **settings: object) -> Backbone:
    """Builds a backbone with random weights, without any file.

    Arguments
    ---------
    config : PreTrainedConfig
        What it is made of, such as `known_config` returns.
    **settings : object
        As in `load_backbone`.

    Returns
    -------
    Backbone
        Of the class that `load_backbone` returns for such a model. Made under ``torch.device("meta")`` it has no
        memory, and takes no time.

    Raises
    ------
    UsageError
        The family is not supported.

    Example
    -------
    >>> import torch
    >>> with torch.device("meta"):
    ...     backbone = random_backbone(known_config("ast"), frames=500)
    >>> sum(parameter.numel() for parameter in backbone.parameters()) // 10**6
    85
    """
    config = copy.deepcopy(config)
    config._attn_implementation = None  # a model in use may have one that transformers does not know for its family
    return _family_of(config.model_type, "random").from_config(config, **settings)


def backbone_without_weights(config: PreTrainedConfig, **settings: object) -> Backbone:
    """Builds a backbone on torch's meta device: at once, and without memory. It has shapes, but no values.

    Arguments
    ---------
    config : PreTrainedConfig
        As in `random_backbone`.
    **settings : object
        As in `load_backbone`.

    Returns
    -------
    Backbone
        To see whether a run could be made of it.

    Raises
    ------
    UsageError
        As `random_backbone`.

    Example
    -------
    >>> backbone_without_weights(known_config("ast"), frames=500).dim
    768
    """
    with torch.device("meta"):
        return random_backbone(config, **settings)


def _family_of(model_type: str | None, name: str) -> type[Backbone]:
    """The class of a family; `name` is what the user asked for."""
    for family in FAMILIES:
        if model_type in family.spec.model_types:
            return family
    supported = [model_type for family in FAMILIES for model_type in family.spec.model_types]
    raise UsageError(
        f"The backbone {name!r} was asked for.",
        f"It is of the family {model_type!r}, which is not supported.",
        f"Name a backbone of one of these families: {', '.join(supported)}",
    )
