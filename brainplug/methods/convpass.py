"""Convpass adapter: a bottleneck with a convolution over the tokens.

Jie, Deng, "Convolutional Bypasses Are Better Vision Transformer Adapters", 2022, section 3.2,
https://arxiv.org/abs/2207.07039, with the convolution along the tokens instead of over an image.
"""

from dataclasses import dataclass

import torch

from brainplug.backbones.spec import BackboneSpec
from brainplug.methods.adapter import Adapter, AdapterBlock, bottleneck_width, check_kernel_size, convolve

DROPOUT = 0.1  # in the bottleneck, as in the authors' code


def quick_gelu(values: torch.Tensor) -> torch.Tensor:
    """``x * sigmoid(1.702 x)``, Hendrycks and Gimpel, 2016, section 2, https://arxiv.org/abs/1606.08415.

    Arguments
    ---------
    values : torch.Tensor
        Of any shape.

    Returns
    -------
    torch.Tensor
        The same shape.

    Example
    -------
    >>> quick_gelu(torch.zeros(2))
    tensor([0., 0.])
    """
    return values * torch.sigmoid(1.702 * values)


class ConvpassBlock(AdapterBlock):
    """Quick GELU, convolution, quick GELU and dropout in the bottleneck; see `AdapterBlock`.

    Arguments
    ---------
    dim, bottleneck, experts : int
        As in `AdapterBlock`.
    kernel_size : int
        Tokens that the convolution sees; it mixes the channels of an expert.
    dropout : float
        Share of the bottleneck's values that training sets to zero.
    ignores_convolution : bool
        Has the convolution, but goes on with what enters it, as the published code does.

    Example
    -------
    >>> block = ConvpassBlock(dim=32, bottleneck=4, experts=2)
    >>> tuple(block.convolution.weight.shape)  # every expert mixes its own 4 channels
    (8, 4, 3)
    """

    def __init__(
        self,
        dim: int,
        bottleneck: int,
        experts: int = 1,
        *,
        kernel_size: int = 3,
        dropout: float = DROPOUT,
        ignores_convolution: bool = False,
    ):
        super().__init__(dim, bottleneck, experts)
        channels = experts * bottleneck
        self.convolution = torch.nn.Conv1d(channels, channels, kernel_size, groups=experts)
        self.dropout = torch.nn.Dropout(dropout)
        self.ignores_convolution = ignores_convolution
        for kernels in self.convolution.weight.chunk(experts):
            torch.nn.init.xavier_uniform_(kernels)
        torch.nn.init.zeros_(self.convolution.bias)

    def middle(self, channels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Quick GELU, convolution over the tokens, quick GELU, dropout."""
        mixed = quick_gelu(channels)
        if not self.ignores_convolution:
            mixed = convolve(self.convolution, mixed, mask).transpose(1, 2)
        return self.dropout(quick_gelu(mixed))


@dataclass(frozen=True)
class ConvpassAdapter(Adapter):
    """Settings of the convpass adapter, beside those of `Adapter`.

    Arguments
    ---------
    kernel_size : int
        Tokens that the convolution sees.

    Example
    -------
    >>> ConvpassAdapter(reduction_rate=96).kernel_size
    3
    """

    kernel_size: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel_size(self.kernel_size)

    def block(self, dim: int, spec: BackboneSpec) -> ConvpassBlock:
        """A bottleneck of ``dim / reduction_rate`` with a convolution."""
        return ConvpassBlock(
            dim,
            bottleneck_width(dim, self.reduction_rate),
            kernel_size=self.kernel_size,
            # The published single adapters leave their dropout in evaluation mode; its mixtures do not.
            dropout=0.0 if self.paper_code else DROPOUT,
            ignores_convolution=self.paper_code,
        )
