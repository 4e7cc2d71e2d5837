"""Bottleneck adapter: down, GELU, up.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, section 2.1, https://arxiv.org/abs/1902.00751;
Pfeiffer et al., "AdapterFusion", 2021, https://arxiv.org/abs/2005.00247
"""

from dataclasses import dataclass

import torch

from brainplug.backbones.spec import BackboneSpec
from brainplug.methods.adapter import Adapter, AdapterBlock, bottleneck_width


class BottleneckBlock(AdapterBlock):
    """GELU in the bottleneck; see `AdapterBlock`.

    Example
    -------
    >>> BottleneckBlock(dim=32, bottleneck=4).down.out_features
    4
    """

    def middle(self, channels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """GELU, for each token alone."""
        return torch.nn.functional.gelu(channels)


@dataclass(frozen=True)
class BottleneckAdapter(Adapter):
    """Settings of the bottleneck adapter; see `Adapter`.

    Example
    -------
    >>> BottleneckAdapter(reduction_rate=96, location="houlsby").location
    'houlsby'
    """

    def block(self, dim: int, spec: BackboneSpec) -> BottleneckBlock:
        """A bottleneck of ``dim / reduction_rate``."""
        return BottleneckBlock(dim, bottleneck_width(dim, self.reduction_rate))
