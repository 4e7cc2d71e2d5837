"""How a backbone describes itself, so that no method needs to know which family it adapts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch

from brainplug.errors import ConfigError, nearest

if TYPE_CHECKING:  # transformers takes a second to import
    from transformers import PreTrainedConfig


@dataclass(eq=False)
class TokenMask:
    """The mask of the current batch, ``[batch, tokens]``: True where a token is not padding. None: no padding.

    The backbone sets it; modules that mix tokens read it.
    """

    tokens: torch.Tensor | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Facts about pretrained weights that have a short name."""

    licence: str  # as the page of the weights states it
    made: str  # training objective and corpus
    hub_id: str | None = None  # None for weights that are bundled with the package
    # Returns the architecture of weights on the hub: all sizes, though not every dropout rate.
    config: Callable[[], PreTrainedConfig] | None = None


@dataclass(frozen=True)
class BackboneSpec:
    """Where a family of transformers keeps its modules: paths of names separated by dots."""

    model_types: tuple[str, ...]  # the family's names in transformers (`config.model_type`)
    signal: str  # the input: `log_mel` [batch, frames, mel_bands] or `waveform` [batch, samples]
    layers: str  # the list of layers, from the model
    # From a layer: the two sub-layers, the attention's projections, the feed-forward block's linear maps, all norms.
    attention: str
    feed_forward: str
    query: str
    key: str
    value: str
    output: str
    feed_forward_in: str
    feed_forward_out: str
    norms: tuple[str, ...]
    # From a layer: the layer norm whose output the sub-layer takes; None if there is none.
    norm_before_attention: str | None = None
    norm_before_feed_forward: str | None = None
    final_norm: str | None = None  # the layer norm that is trained along with the head, from the model
    special_tokens: int = 0  # tokens before those of the clip; the first of them is [CLS]
    mask_embedding: str | None = None  # the vector that replaces masked frames, from the model; no classifier uses it
    convolutions: str | None = None  # the module that makes frames of a waveform, from the model
    # Of the model's current batch. A backbone that masks padding has its own; for others it stays empty.
    token_mask: TokenMask = field(default_factory=TokenMask, compare=False)

    def layers_of(self, model: torch.nn.Module) -> torch.nn.ModuleList:
        """The transformer layers of a model, first to last."""
        return cast(torch.nn.ModuleList, find_module(model, self.layers))


def find_module(parent: torch.nn.Module, path: str) -> torch.nn.Module:
    """The module at a path of names separated by dots; a `ConfigError` lists the nearest if there is none."""
    try:
        return parent.get_submodule(path)
    except AttributeError:
        paths = [name for name, _ in parent.named_modules() if name]
        raise ConfigError(
            f"The module {path!r} of {type(parent).__name__} was asked for.",
            "It does not exist.",
            f"Write one of: {nearest(path, paths)}",
        ) from None
