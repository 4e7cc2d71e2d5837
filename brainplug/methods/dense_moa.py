"""Dense-MoA: every expert maps every token, and a router weighs them.

Cappellazzo et al., "Efficient Fine-tuning of Audio Spectrogram Transformers via Soft Mixture of Adapters",
Interspeech 2024, section 2.2, https://arxiv.org/abs/2402.00828
"""

from dataclasses import dataclass

import torch

from brainplug.methods.adapter import AdapterBlock
from brainplug.methods.mixture import Mixture, MixtureOfAdapters


class DenseMixture(Mixture):
    """``sum_n softmax(router(z))_n A_n(z)`` for every token z.

    The experts' maps up are linear, so the weights may as well be applied in the bottleneck, where a token is narrow.
    One product then maps up and sums, the biases included: ``[w_1 h_1 ... w_N h_N, w_1 ... w_N]`` times the stacked
    ``U_n`` and ``c_n``. Nothing of the size ``[batch, tokens, dim, experts]`` is ever made.

    Arguments
    ---------
    dim : int
        Width of a token.
    experts : AdapterBlock
        All experts.

    Example
    -------
    >>> from brainplug.methods.bottleneck import BottleneckBlock
    >>> mixture = DenseMixture(32, BottleneckBlock(dim=32, bottleneck=4, experts=3))
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
        inside = self.experts.inside(tokens).unflatten(2, (self.experts.experts, -1))
        weights = weights.to(inside.dtype)
        weighted = torch.cat([(inside * weights[..., None]).flatten(2), weights], dim=2)
        maps_and_biases = torch.cat([self.experts.up.weight, self.experts.expert_bias.t()], dim=1)
        return torch.nn.functional.linear(weighted, maps_and_biases)

    def shares(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """``router``: an expert's weight, in the mean over the tokens; all experts of a clip sum to one."""
        return {"router": self.mean_over_tokens(torch.softmax(self.router(tokens), dim=-1))}

    def initialise_as_published(self, deviation: float, on_waveform: bool) -> None:
        """The router's map too."""
        super().initialise_as_published(deviation, on_waveform)
        torch.nn.init.normal_(self.router.weight, std=deviation)
        torch.nn.init.zeros_(self.router.bias)


@dataclass(frozen=True)
class DenseMoA(MixtureOfAdapters):
    """Settings of Dense-MoA; see `MixtureOfAdapters`.

    Example
    -------
    >>> DenseMoA(experts=15).location
    'mhsa'
    """

    def mixture(self, dim: int, experts: AdapterBlock) -> DenseMixture:
        """With a router."""
        return DenseMixture(dim, experts)
