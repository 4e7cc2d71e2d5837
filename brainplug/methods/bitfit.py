"""BitFit: trains the biases alone.

Ben Zaken et al., "BitFit", 2022, https://arxiv.org/abs/2106.10199
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import PreTrainedModel

from brainplug.backbones.spec import BackboneSpec
from brainplug.methods.base import Method


@dataclass(frozen=True)
class BitFit(Method):
    """Trains every bias of linear maps and layer norms, the final layer norm's too; convolutions stay frozen."""

    trains_final_norm: ClassVar[bool] = False

    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> None:
        """Marks the biases as trainable."""
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm) and module.bias is not None:
                module.bias.requires_grad_(True)

    def merge(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Does nothing: the biases are the backbone's own."""
