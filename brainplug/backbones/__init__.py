"""Pretrained transformers. Each family has a file of its own and describes itself with a `BackboneSpec`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

from brainplug.backbones.spec import BackboneSpec

if TYPE_CHECKING:
    from brainplug.backbones.base import Backbone
    from brainplug.backbones.loading import (
        FAMILIES,
        backbone_without_weights,
        base_name,
        known_config,
        load_backbone,
        random_backbone,
    )

__all__ = [
    "FAMILIES",
    "Backbone",
    "BackboneSpec",
    "backbone_without_weights",
    "base_name",
    "known_config",
    "load_backbone",
    "random_backbone",
]


def __getattr__(name: str) -> Any:
    """Imports what is asked for, so that the modules of this room can be imported without all of transformers."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.loading"), name)
