"""Bottleneck adapter: down, GELU, up.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, section 2.1, https://arxiv.org/abs/1902.00751;
Pfeiffer et al., "AdapterFusion", 2021, https://arxiv.org/abs/2005.00247
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from brainplug.methods.adapter import Adapter, AdapterBlock, bottleneck_width


class BottleneckBlock(AdapterBlock):
    """An `AdapterBlock` with GELU in the bottleneck.

    Example
    -------
    >>> block = BottleneckBlock(dim=32, width=4)
    >>> tokens = torch.randn(2, 10, 32)
    >>> block(tokens).shape == tokens.shape, bool(block(tokens).any())
    (True, False)
    """

    def bottleneck(self, channels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """GELU; each token alone."""
        return torch.nn.functional.gelu(channels)


@dataclass(frozen=True)
class BottleneckAdapter(Adapter):
    """Settings of the bottleneck adapter; see `Adapter`."""

    def block(self, config: PreTrainedConfig) -> AdapterBlock:
        """A bottleneck."""
        return BottleneckBlock(config.hidden_size, bottleneck_width(config.hidden_size, self.reduction_rate))
