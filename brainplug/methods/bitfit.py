"""BitFit: the biases alone are trained.

Ben Zaken et al., "BitFit", 2022, https://arxiv.org/abs/2106.10199
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch

from brainplug.backbones.spec import BackboneSpec
from brainplug.methods.base import Method


@dataclass(frozen=True)
class BitFit(Method):
    """Unfreezes every bias of linear maps and layer norms, that of the final layer norm too; convolutions stay frozen.

    Example
    -------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Conv1d(3, 3, 1)).requires_grad_(False)
    >>> BitFit().attach(model, None)
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['0.bias']
    """

    trains_final_norm: ClassVar[bool] = False

    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Marks the biases as trainable."""
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm) and module.bias is not None:
                module.bias.requires_grad_(True)

    def training_modules(self, model: torch.nn.Module, spec: BackboneSpec) -> Iterable[torch.nn.Module]:
        """None; all of the backbone where the published code is asked for, which never sets it to evaluation mode."""
        return model.modules() if self.paper_code else []

    def merge(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Nothing to do: the biases are the backbone's own."""
