"""Dense-MoA: each expert maps each token, and a router weighs the experts.

Cappellazzo et al., "Efficient Fine-tuning of Audio Spectrogram Transformers via Soft Mixture of Adapters",
Interspeech 2024, section 2.2, https://arxiv.org/abs/2402.00828
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from brainplug.methods.adapter import AdapterBlock
from brainplug.methods.mixture import Mixture, MixtureOfAdapters


class DenseMixture(Mixture):
    """``sum_n softmax(router(z))_n A_n(z)`` for each token z.

    The experts' maps up are linear, so the weights are applied in the bottleneck, where a token is narrow. One product
    then maps up and sums, biases included: ``[w_1 h_1 ... w_N h_N, w_1 ... w_N]`` times the stacked ``U_n`` and
    ``c_n``. No tensor has the size ``[batch, tokens, dim, experts]``.

    Example
    -------
    >>> from brainplug.methods.bottleneck import BottleneckBlock
    >>> mixture = DenseMixture(32, BottleneckBlock(dim=32, width=4, experts=3))
    >>> tokens = torch.randn(2, 10, 32)
    >>> mixture(tokens).shape == tokens.shape, bool(mixture(tokens).any())
    (True, False)
    """

    def __init__(self, dim: int, experts: AdapterBlock):
        super().__init__(experts)
        self.router = torch.nn.Linear(dim, experts.experts)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``[batch, tokens, dim]`` to the same shape."""
        weights = torch.softmax(self.router(tokens), dim=-1)  # [batch, tokens, experts]
        hidden = self.experts.hidden(tokens).unflatten(2, (self.experts.experts, -1))
        weights = weights.to(hidden.dtype)
        weighted = torch.cat([(hidden * weights[..., None]).flatten(2), weights], dim=2)
        maps_and_biases = torch.cat([self.experts.up.weight, self.experts.expert_bias.t()], dim=1)
        return torch.nn.functional.linear(weighted, maps_and_biases)

    def shares(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """``router``: an expert's mean weight over the tokens; the shares of a clip sum to one."""
        return {"router": self.mean_over_tokens(torch.softmax(self.router(tokens), dim=-1))}


@dataclass(frozen=True)
class DenseMoA(MixtureOfAdapters):
    """Settings of Dense-MoA; see `MixtureOfAdapters`."""

    def mixture(self, config: PreTrainedConfig) -> DenseMixture:
        """Experts with a router."""
        return DenseMixture(config.hidden_size, self.block(config))
