"""Full fine-tuning: every weight of the backbone is trained."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from brainplug.backbones.spec import BackboneSpec
from brainplug.methods.base import Method


@dataclass(frozen=True)
class FullFineTuning(Method):
    """Unfreezes the whole backbone, its dropout included.

    Example
    -------
    >>> model = torch.nn.Linear(3, 3).requires_grad_(False)
    >>> FullFineTuning().attach(model, None)
    >>> all(parameter.requires_grad for parameter in model.parameters())
    True
    """

    trains_backbone: ClassVar[bool] = True

    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Marks every weight as trainable."""
        model.requires_grad_(True)
