"""Conformer adapter: a bottleneck with a depthwise convolution over the tokens.

Cappellazzo et al., "Parameter-Efficient Transfer Learning of Audio Spectrogram Transformers", MLSP 2024, section 3,
https://arxiv.org/abs/2312.03694. Its block is the convolution module of the Conformer (Gulati et al., 2020,
https://arxiv.org/abs/2005.08100).
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from brainplug.methods.adapter import Adapter, AdapterBlock, bottleneck_width, check_kernel_size, convolve


class ConformerBlock(AdapterBlock):
    """An `AdapterBlock` with a norm before it, and a gate, a depthwise convolution, batch norm and swish inside.

    The experts of a mixture share the norm. The convolution covers `kernel_size` tokens.
    """

    def __init__(self, dim: int, width: int, experts: int = 1, *, kernel_size: int = 31):
        super().__init__(dim, width, experts, gates=2)
        self.norm = torch.nn.LayerNorm(dim)
        channels = experts * width
        self.depthwise = torch.nn.Conv1d(channels, channels, kernel_size, groups=channels)
        self.batch_norm = torch.nn.BatchNorm1d(channels)

    def bottleneck(self, channels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Gate, depthwise convolution over the tokens, batch norm, swish."""
        gated = torch.nn.functional.glu(channels.unflatten(2, (self.experts, -1)), dim=-1).flatten(2)
        convolved = convolve(self.depthwise, gated, mask)  # [batch, channels, tokens]
        return torch.nn.functional.silu(self.batch_norm(convolved)).transpose(1, 2)


@dataclass(frozen=True)
class ConformerAdapter(Adapter):
    """Settings of the conformer adapter, beside those of `Adapter`.

    Arguments
    ---------
    kernel_size : int
        Tokens that the depthwise convolution covers; 31 for speech and 8 for sounds in the paper.
    """

    kernel_size: int = 31

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel_size(self.kernel_size)

    def block(self, config: PreTrainedConfig) -> AdapterBlock:
        """A bottleneck with a depthwise convolution."""
        width = bottleneck_width(config.hidden_size, self.reduction_rate)
        return ConformerBlock(config.hidden_size, width, kernel_size=self.kernel_size)
