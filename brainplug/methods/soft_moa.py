"""Soft-MoA: each expert maps a few slots, which are weighted means of all tokens.

Cappellazzo et al., "Efficient Fine-tuning of Audio Spectrogram Transformers via Soft Mixture of Adapters",
Interspeech 2024, section 2.3, https://arxiv.org/abs/2402.00828, after Puigcerver et al., "From Sparse to Soft Mixtures
of Experts", 2024, sections 2.1 and 2.3, https://arxiv.org/abs/2308.00951
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import PreTrainedConfig

from brainplug.errors import ConfigError
from brainplug.methods.adapter import AdapterBlock
from brainplug.methods.mixture import Mixture, MixtureOfAdapters

EPSILON = 1e-6  # added to a norm before it divides


class SoftMixture(Mixture):
    """Dispatches tokens to slots, maps the slots, and combines them to tokens.

    With tokens X ``[tokens, dim]`` and ``Phi [dim, experts, slots]``: ``logits = X Phi``; the slots are
    ``softmax_tokens(logits)^T X``; the output is ``softmax_slots(logits)`` times the mapped slots. `normalize` scales
    tokens and Phi to unit length first, and Phi by a learned factor; the slots are then means of the normalised tokens.

    Example
    -------
    >>> from brainplug.methods.bottleneck import BottleneckBlock
    >>> mixture = SoftMixture(32, BottleneckBlock(dim=32, width=4, experts=3), slots=2, normalize=True)
    >>> tokens = torch.randn(2, 10, 32)
    >>> mixture(tokens).shape == tokens.shape, bool(mixture(tokens).any())
    (True, False)
    """

    normalized_axis: ClassVar[int] = 0  # of Phi

    def __init__(self, dim: int, experts: AdapterBlock, slots: int, normalize: bool):
        super().__init__(experts)
        self.slots = torch.nn.Parameter(torch.empty(dim, experts.experts, slots))  # Phi
        torch.nn.init.xavier_normal_(self.slots)
        self.scale = torch.nn.Parameter(torch.ones([])) if normalize else None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``[batch, tokens, dim]`` to the same shape."""
        tokens, dispatch, combine = self._weights(tokens)
        slots = dispatch.transpose(1, 2) @ tokens  # [batch, slots * experts, dim]
        mapped = self.experts.forward_experts(slots.unflatten(1, self._slots_and_experts))
        return combine.to(mapped.dtype) @ mapped.flatten(1, 2)

    def shares(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """``combine`` and ``dispatch``, each ``[batch, experts]``.

        ``combine`` is an expert's mean weight in the output over the tokens; the shares of a clip sum to one.
        ``dispatch`` is the share of the tokens that an expert's slots gather, exp(entropy) / tokens, as a mean over its
        slots; it is one if all tokens have the same weight.
        """
        _, dispatch, combine = self._weights(tokens)
        combine = combine.unflatten(2, self._slots_and_experts).sum(2)  # [batch, tokens, experts]
        entropy = torch.special.entr(dispatch.float()).sum(1)  # [batch, slots * experts]
        mask = self.experts.token_mask.tokens
        counts = tokens.shape[1] if mask is None else mask.sum(1, keepdim=True)
        gathered = (entropy.exp() / counts).unflatten(1, self._slots_and_experts).mean(1)
        return {"combine": self.mean_over_tokens(combine), "dispatch": gathered}

    @property
    def _slots_and_experts(self) -> tuple[int, int]:
        """Sizes of the axes of slots; the slot comes first, so that an expert's slots are the tokens of its block."""
        _, experts, per_expert = self.slots.shape
        return per_expert, experts

    def _weights(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The tokens to dispatch, and the weights to dispatch and combine ``[batch, tokens, slots * experts]``."""
        slots: torch.Tensor = self.slots
        if self.scale is not None:
            tokens, slots = _unit_length(tokens, 2), _unit_length(slots, self.normalized_axis) * self.scale
        logits = tokens @ slots.transpose(1, 2).flatten(1)
        combine, mask = logits.softmax(dim=2).to(tokens.dtype), self.experts.token_mask.tokens
        if mask is not None:
            logits = logits.masked_fill(~mask[..., None], float("-inf"))  # no slot reads padding
        return tokens, logits.softmax(dim=1).to(tokens.dtype), combine


def _unit_length(vectors: torch.Tensor, dim: int) -> torch.Tensor:
    return vectors / (vectors.norm(dim=dim, keepdim=True) + EPSILON)


@dataclass(frozen=True)
class SoftMoA(MixtureOfAdapters):
    """Settings of Soft-MoA, beside those of `MixtureOfAdapters`.

    Arguments
    ---------
    slots : int
        Slots of each expert.
    normalize : bool
        Scales tokens and slot parameters to unit length first; it matters for wide tokens.
    """

    slots: int = 1
    normalize: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slots < 1:
            raise ConfigError(f"{self.slots} slots were asked for.", "An expert has at least 1.", "Write slots: 1")

    def mixture(self, config: PreTrainedConfig) -> SoftMixture:
        """Experts with slots."""
        return SoftMixture(config.hidden_size, self.block(config), self.slots, self.normalize)
