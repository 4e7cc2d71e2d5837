"""Prompt tuning: trained tokens between the special tokens and those of the clip.

Jia et al., "Visual Prompt Tuning", 2022, section 3.2, https://arxiv.org/abs/2203.12119. Shallow: before the first layer
alone. Deep: every layer has its own prompts, which replace those of the layer before.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import ConfigError
from brainplug.methods.base import Method


def prompt_range(config: PreTrainedConfig) -> float:
    """Prompts start uniform in plus or minus this: ``sqrt(6 / (3 * patch_height * patch_width + dim))``.

    Jia et al. draw them as the first weights of a patch embedding of an image with three colours. For a backbone
    without patches, the width of a token takes the place of the patch's size.

    Example
    -------
    >>> from transformers import ASTConfig
    >>> round(prompt_range(ASTConfig()), 4)
    0.0625
    """
    patch_size = getattr(config, "patch_size", None)
    inputs = 3 * patch_size**2 if patch_size else config.hidden_size
    return float((6 / (inputs + config.hidden_size)) ** 0.5)


class PromptedLayer(torch.nn.Module):
    """A layer that inserts its own prompts before it computes, or that reads those of an earlier layer.

    Arguments
    ---------
    layer : torch.nn.Module
        Takes tokens ``[batch, tokens, dim]`` and an attention mask.
    prompts : torch.nn.Parameter, optional
        ``[prompts, dim]``; None if an earlier layer has inserted them.
    count : int
        Number of prompts.
    position : int
        Number of tokens before them.
    replaces : int
        Number of tokens that they replace.
    dropout : float
        Share of the prompts' values that training sets to zero.
    """

    takes_weights_of_clips: ClassVar[bool] = True  # prompts [batch, prompts, dim]

    def __init__(
        self,
        layer: torch.nn.Module,
        prompts: torch.nn.Parameter | None,
        count: int,
        position: int,
        replaces: int,
        dropout: float,
    ):
        super().__init__()
        self.layer, self.prompts = layer, prompts
        self.count, self.position, self.replaces = count, position, replaces
        self.dropout = torch.nn.Dropout(dropout)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **named: object
    ) -> torch.Tensor | tuple[Any, ...]:
        """Inserts the prompts and calls the layer."""
        if self.prompts is not None:
            prompts = self.dropout(self.prompts).to(hidden_states.dtype).expand(hidden_states.shape[0], -1, -1)
            before, after = hidden_states[:, : self.position], hidden_states[:, self.position + self.replaces :]
            hidden_states = torch.cat([before, prompts, after], dim=1)
        if attention_mask is not None:  # made for the backbone's own tokens
            attention_mask = self._with_prompts(attention_mask)
        return self.layer(hidden_states, attention_mask=attention_mask, **named)

    def _with_prompts(self, mask: torch.Tensor) -> torch.Tensor:
        """Adds the prompts to a mask ``[batch, keys]`` or ``[batch, heads, queries, keys]``: all tokens read them."""
        visible = int(mask.dtype == torch.bool or mask.dim() == 2)
        prompts = mask.new_full((*mask.shape[:-1], self.count), visible)
        mask = torch.cat([mask[..., : self.position], prompts, mask[..., self.position :]], dim=-1)
        if mask.dim() == 2:
            return mask
        # A padding mask has the same row for every query.
        rows = mask[..., :1, :].expand(*mask.shape[:-2], self.count, -1)
        return torch.cat([mask[..., : self.position, :], rows, mask[..., self.position :, :]], dim=-2)


@dataclass(frozen=True)
class PromptTuning(Method):
    """Settings of prompt tuning.

    Arguments
    ---------
    prompts : int
        Number of prompts.
    deep : bool
        Every layer has its own prompts, else the first one alone.
    dropout : float
        Share of the prompts' values that training sets to zero.
    """

    prompts: int = 25
    deep: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise ConfigError(f"{self.prompts} prompts were asked for.", "That is none.", "Write prompts: 1 or more")
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"A dropout of {self.dropout} was asked for.", "It is a share of values.", "Write dropout: 0 up to 0.9"
            )

    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> None:
        """Wraps every layer."""
        layers, position = spec.layers_of(model), self.special_tokens(spec)
        limit = prompt_range(model.config)
        for index, layer in enumerate(layers):
            prompts = None
            if self.deep or index == 0:
                prompts = torch.nn.Parameter(torch.empty(self.prompts, model.config.hidden_size))
                torch.nn.init.uniform_(prompts, -limit, limit)
            replaces = self.prompts if index else spec.special_tokens - position
            layers[index] = PromptedLayer(layer, prompts, self.prompts, position, replaces, self.dropout)
