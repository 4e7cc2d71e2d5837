"""Pretrained transformers. Each family stands in a file of its own and describes itself with a `BackboneSpec`."""

import json

from brainplug.backbones.audio_spectrogram import AudioSpectrogram
from brainplug.backbones.base import Backbone
from brainplug.backbones.loading import fetch_config, find_source
from brainplug.backbones.spec import BackboneSpec
from brainplug.backbones.wav2vec2 import Wav2Vec2
from brainplug.errors import UsageError

FAMILIES: tuple[type[Backbone], ...] = (AudioSpectrogram, Wav2Vec2)

__all__ = ["FAMILIES", "Backbone", "BackboneSpec", "load_backbone"]


def load_backbone(name: str, revision: str | None = None, **settings: object) -> Backbone:
    """Loads a pretrained backbone by name.

    Arguments
    ---------
    name : str
        A bundled one (``nano-ast``), ``ast``, ``wav2vec2``, a folder, or a hub id of a supported family.
    revision : str, optional
        Pins the hub's revision.
    **settings : object
        What the recipe says of the input: `frames` and `positions`, for AST.

    Returns
    -------
    Backbone
        With its weights, in float32.

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
    model_type = json.loads(fetch_config(source, revision).read_text()).get("model_type")
    for family in FAMILIES:
        if model_type in family.spec.model_types:
            return family.load(source, name, revision, **settings)
    supported = [model_type for family in FAMILIES for model_type in family.spec.model_types]
    raise UsageError(
        f"The backbone {name!r} was asked for.",
        f"It is of the family {model_type!r}, which is not supported.",
        f"Name a backbone of one of these families: {', '.join(supported)}",
    )
