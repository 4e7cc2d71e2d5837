"""Prefix tuning: trained keys and values in each layer, which every token attends to beside those of the clip.

Li, Liang, "Prefix-Tuning", 2021, section 4, https://arxiv.org/abs/2101.00190; here after the projections, as in He et
al., "Towards a Unified View of Parameter-Efficient Transfer Learning", 2022, https://arxiv.org/abs/2110.04366
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from brainplug.backbones.spec import BackboneSpec, find_module
from brainplug.errors import ConfigError
from brainplug.methods.base import Method
from brainplug.methods.prompt import prompt_range

ATTENTION = "sdpa_with_prefix"  # the name under which transformers finds `attend_with_prefix`


class Prefix(torch.nn.Module):
    """Trained keys and values of a layer, `count` of each, that start uniform in plus or minus `limit`."""

    takes_weights_of_clips: ClassVar[bool] = True

    def __init__(self, count: int, dim: int, limit: float):
        super().__init__()
        self.keys = torch.nn.Parameter(torch.empty(count, dim).uniform_(-limit, limit))
        self.values = torch.nn.Parameter(torch.empty(count, dim).uniform_(-limit, limit))

    def prepend(self, states: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
        """Puts `keys` or `values` ``[count, dim]`` before those of the clip, ``[batch, heads, tokens, head_dim]``.

        Attention does not depend on their order. Each clip may have its own, ``[batch, count, dim]``.
        """
        heads = prefix.to(states.dtype).unflatten(-1, (states.shape[1], -1)).transpose(-3, -2)
        return torch.cat([heads.expand(states.shape[0], -1, -1, -1), states], dim=2)


def attend_with_prefix(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **named: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention over a module's prefix, if it has one, and the clip's own keys and values.

    Query, key and value are ``[batch, heads, tokens, head_dim]``, the mask ``[batch, 1 or heads, tokens, tokens]``,
    boolean or added to the scores. It returns ``[batch, tokens, heads, head_dim]``, and no weights. Cross-attention has
    no prefix.
    """
    prefix = getattr(module, "prefix", None)
    if prefix is not None:
        key, value = prefix.prepend(key, prefix.keys), prefix.prepend(value, prefix.values)
        if attention_mask is not None:
            visible = True if attention_mask.dtype == torch.bool else 0.0
            attention_mask = torch.nn.functional.pad(attention_mask, (prefix.keys.shape[-2], 0), value=visible)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **named)


AttentionInterface.register(ATTENTION, attend_with_prefix)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@dataclass(frozen=True)
class PrefixTuning(Method):
    """Settings of prefix tuning.

    Arguments
    ---------
    length : int
        Vectors per layer: one half are keys, the other half values.
    """

    length: int = 24

    def __post_init__(self) -> None:
        if self.length < 2 or self.length % 2:
            raise ConfigError(
                f"A prefix of {self.length} vectors was asked for.",
                "One half of them are keys and the other half values.",
                f"Write length: {max(2, self.length + 1)}, an even number",
            )

    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> None:
        """Adds a prefix to every attention, and selects the attention function that reads it."""
        for layer in spec.layers_of(model):
            prefix = Prefix(self.length // 2, model.config.hidden_size, prompt_range(model.config))
            find_module(layer, spec.attention).add_module("prefix", prefix)
        # The public setter refuses models whose attention is not that of transformers.
        model.config._attn_implementation = ATTENTION
