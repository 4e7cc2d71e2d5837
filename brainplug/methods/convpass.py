"""Convpass adapter: a bottleneck with a convolution over the tokens.

Jie, Deng, "Convolutional Bypasses Are Better Vision Transformer Adapters", 2022, section 3.2,
https://arxiv.org/abs/2207.07039, with the convolution along the tokens instead of over an image.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from brainplug.methods.adapter import Adapter, AdapterBlock, bottleneck_width, check_kernel_size, convolve

DROPOUT = 0.1  # in the bottleneck, as in the authors' code


def quick_gelu(values: torch.Tensor) -> torch.Tensor:
    """``x * sigmoid(1.702 x)``, Hendrycks and Gimpel, 2016, section 2, https://arxiv.org/abs/1606.08415."""
    return values * torch.sigmoid(1.702 * values)


class ConvpassBlock(AdapterBlock):
    """An `AdapterBlock` with quick GELU, a convolution, quick GELU and dropout inside.

    The convolution covers `kernel_size` tokens and mixes the channels of one expert.

    Example
    -------
    >>> block = ConvpassBlock(dim=32, width=4, experts=2)
    >>> tuple(block.convolution.weight.shape)  # each expert mixes its own 4 channels
    (8, 4, 3)
    """

    def __init__(self, dim: int, width: int, experts: int = 1, *, kernel_size: int = 3, dropout: float = DROPOUT):
        super().__init__(dim, width, experts)
        channels = experts * width
        self.convolution = torch.nn.Conv1d(channels, channels, kernel_size, groups=experts)
        self.dropout = torch.nn.Dropout(dropout)
        for kernels in self.convolution.weight.chunk(experts):
            torch.nn.init.xavier_uniform_(kernels)
        torch.nn.init.zeros_(self.convolution.get_parameter("bias"))

    def bottleneck(self, channels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Quick GELU, convolution over the tokens, quick GELU, dropout."""
        convolved = convolve(self.convolution, quick_gelu(channels), mask).transpose(1, 2)
        return self.dropout(quick_gelu(convolved))


@dataclass(frozen=True)
class ConvpassAdapter(Adapter):
    """Settings of the convpass adapter, beside those of `Adapter`.

    Arguments
    ---------
    kernel_size : int
        Tokens that the convolution covers.
    """

    kernel_size: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel_size(self.kernel_size)

    def block(self, config: PreTrainedConfig) -> AdapterBlock:
        """A bottleneck with a convolution."""
        width = bottleneck_width(config.hidden_size, self.reduction_rate)
        return ConvpassBlock(config.hidden_size, width, kernel_size=self.kernel_size)
