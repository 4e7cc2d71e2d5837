"""Prompt tuning: trained tokens stand between the special tokens and those of the clip.

Jia et al., "Visual Prompt Tuning", 2022, section 3.2, https://arxiv.org/abs/2203.12119; shallow: before the first layer
alone; deep: every layer has its own, which replace those of the layer before.
"""

from dataclasses import dataclass

import torch

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import UsageError
from brainplug.methods.base import Method


def prompt_range(config: object) -> float:
    """First prompts are uniform in plus or minus this; ``sqrt(6 / (3 * patch_height * patch_width + dim))``.

    Jia et al. draw them like the first weights of a patch embedding, as for an image of three colours. Where there are
    no patches, a token's width stands for the patch.

    Arguments
    ---------
    config : PreTrainedConfig
        Of the backbone: ``patch_size``, if it has patches, and ``hidden_size``.

    Returns
    -------
    float
        The range.

    Example
    -------
    >>> from transformers import ASTConfig
    >>> round(prompt_range(ASTConfig()), 4)
    0.0625
    """
    patch_size = getattr(config, "patch_size", None)
    inputs = 3 * patch_size**2 if patch_size else config.hidden_size
    return (6 / (inputs + config.hidden_size)) ** 0.5


class PromptedLayer(torch.nn.Module):
    """A layer with tokens put in front of it, or one behind such a layer.

    Arguments
    ---------
    layer : torch.nn.Module
        Takes tokens ``[batch, tokens, dim]`` and an attention mask.
    prompts : torch.nn.Parameter, optional
        ``[prompts, dim]``; None leaves the tokens as they are.
    count : int
        How many prompts there are.
    position : int
        Tokens that stay before them.
    replaces : int
        Tokens that they take the place of.
    dropout : float
        Share of the prompts' values that training sets to zero.

    Example
    -------
    >>> from transformers import ASTConfig, ASTModel
    >>> model = ASTModel(ASTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
    >>> prompts = torch.nn.Parameter(torch.zeros(3, 8))
    >>> layer = PromptedLayer(model.layers[0], prompts, count=3, position=2, replaces=0, dropout=0.0)
    >>> layer(torch.randn(1, 10, 8)).shape[1]
    13
    """

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
    ) -> torch.Tensor | tuple:
        """Puts the prompts in, then does what the layer does."""
        if self.prompts is not None:
            prompts = self.dropout(self.prompts).to(hidden_states.dtype).expand(len(hidden_states), -1, -1)
            before, after = hidden_states[:, : self.position], hidden_states[:, self.position + self.replaces :]
            hidden_states = torch.cat([before, prompts, after], dim=1)
        if attention_mask is not None:  # it was made for the clip's own tokens
            attention_mask = self._with_prompts(attention_mask)
        return self.layer(hidden_states, attention_mask=attention_mask, **named)

    def _with_prompts(self, mask: torch.Tensor) -> torch.Tensor:
        """Adds the prompts to a mask ``[batch, keys]`` or ``[batch, heads, queries, keys]``: all tokens see them."""
        seen = True if mask.dtype == torch.bool else (1 if mask.dim() == 2 else 0)
        prompts = mask.new_full((*mask.shape[:-1], self.count), seen)
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
        How many tokens.
    deep : bool
        Every layer has its own, else the first one alone.
    dropout : float
        Share of the prompts' values that training sets to zero.

    Example
    -------
    >>> PromptTuning(prompts=25, deep=True).prompts
    25
    """

    prompts: int = 25
    deep: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise UsageError(f"{self.prompts} prompts were asked for.", "That is none.", "Write prompts: 1 or more")
        if not 0 <= self.dropout < 1:
            raise UsageError(
                f"A dropout of {self.dropout} was asked for.", "It is a share of values.", "Write dropout: 0 up to 0.9"
            )

    def special_tokens(self, spec: BackboneSpec) -> int:
        """All; the published code keeps [CLS] and drops the distillation token."""
        return min(1, spec.special_tokens) if self.paper_code else spec.special_tokens

    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Wraps every layer."""
        layers, position = spec.layers_of(model), self.special_tokens(spec)
        for index, layer in enumerate(layers):
            prompts = None
            if self.deep or index == 0:
                largest = prompt_range(model.config)
                prompts = torch.nn.Parameter(torch.empty(self.prompts, model.config.hidden_size))
                torch.nn.init.uniform_(prompts, -largest, largest)
            replaces = self.prompts if index else spec.special_tokens - position
            layers[index] = PromptedLayer(layer, prompts, self.prompts, position, replaces, self.dropout)
