"""Linear probing: the backbone stays as it is; the head is trained, and the final layer norm where there is one."""

from dataclasses import dataclass

import torch

from brainplug.backbones.spec import BackboneSpec
from brainplug.methods.base import Method


@dataclass(frozen=True)
class LinearProbe(Method):
    """Adds nothing.

    Example
    -------
    >>> model = torch.nn.Linear(3, 3).requires_grad_(False)
    >>> LinearProbe().attach(model, None)
    >>> any(parameter.requires_grad for parameter in model.parameters())
    False
    """

    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Leaves the model as it is."""
