"""Conformer adapter: a bottleneck with a depthwise convolution over the tokens.

Cappellazzo et al., "Parameter-Efficient Transfer Learning of Audio Spectrogram Transformers", MLSP 2024, section 3,
https://arxiv.org/abs/2312.03694. Its block is the convolution module of the Conformer (Gulati et al., 2020,
https://arxiv.org/abs/2005.08100).
"""

from dataclasses import dataclass

import torch

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import UsageError
from brainplug.methods.base import Method
from brainplug.methods.sublayer import adapt_feed_forward, check_placement


class ConformerBlock(torch.nn.Module):
    """Norm, pointwise convolution with a gate, depthwise convolution, batch norm, swish, pointwise convolution.

    Zero at the start: the last convolution begins with zeros.

    Arguments
    ---------
    dim : int
        Width of a token.
    bottleneck : int
        Width inside.
    kernel_size : int
        Tokens that the depthwise convolution sees.

    Example
    -------
    >>> block = ConformerBlock(dim=32, bottleneck=4, kernel_size=8)
    >>> tokens = torch.randn(2, 10, 32)
    >>> block(tokens).shape == tokens.shape, bool(block(tokens).any())
    (True, False)
    """

    def __init__(self, dim: int, bottleneck: int, kernel_size: int):
        super().__init__()
        self.norm = torch.nn.LayerNorm(dim)
        self.down = torch.nn.Conv1d(dim, 2 * bottleneck, 1)
        self.depthwise = torch.nn.Conv1d(bottleneck, bottleneck, kernel_size, groups=bottleneck)
        self.padding = (kernel_size - 1) // 2, kernel_size // 2  # tokens before and after: the length stays
        self.batch_norm = torch.nn.BatchNorm1d(bottleneck)
        self.up = torch.nn.Conv1d(bottleneck, dim, 1)
        torch.nn.init.zeros_(self.up.weight)
        torch.nn.init.zeros_(self.up.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``[batch, tokens, dim]`` to the same shape."""
        channels = self.norm(tokens).transpose(1, 2)  # [batch, dim, tokens]
        gated = torch.nn.functional.glu(self.down(channels), dim=1)  # [batch, bottleneck, tokens]
        padded = torch.nn.functional.pad(gated, self.padding)
        mixed = torch.nn.functional.silu(self.batch_norm(self.depthwise(padded)))
        return self.up(mixed).transpose(1, 2)


@dataclass(frozen=True)
class ConformerAdapter(Method):
    """Settings of the conformer adapter.

    Arguments
    ---------
    reduction_rate : int
        Width of a token over the width of the bottleneck.
    kernel_size : int
        Tokens that the depthwise convolution sees; 31 for speech and 8 for sounds in the paper.
    placement : str
        ``parallel`` or ``sequential`` to the feed-forward.
    residual : bool
        Adds the adapter's input; goes with ``sequential``.

    Example
    -------
    >>> ConformerAdapter(reduction_rate=96).bottleneck(768)
    8
    """

    reduction_rate: int = 96
    kernel_size: int = 31
    placement: str = "parallel"
    residual: bool = False

    def __post_init__(self) -> None:
        check_placement(self.placement, self.residual)
        if self.kernel_size < 1:
            raise UsageError(
                f"A kernel of {self.kernel_size} tokens was asked for.", "A kernel has at least 1.", "Write 1 or more"
            )

    def bottleneck(self, dim: int) -> int:
        """Width of the bottleneck.

        Arguments
        ---------
        dim : int
            Width of a token.

        Returns
        -------
        int
            ``dim / reduction_rate``, rounded.

        Raises
        ------
        UsageError
            Nothing is left of it.
        """
        if not 1 <= self.reduction_rate <= dim:
            raise UsageError(
                f"The reduction rate {self.reduction_rate} was asked for.",
                f"The backbone's tokens are {dim} wide.",
                f"Write a rate from 1 to {dim}",
            )
        return round(dim / self.reduction_rate)

    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Places one adapter at the feed-forward of each layer."""
        dim = model.config.hidden_size
        adapters = [
            ConformerBlock(dim, self.bottleneck(dim), self.kernel_size) for _ in range(len(spec.layers_of(model)))
        ]
        adapt_feed_forward(model, spec, adapters, self.placement, self.residual)
