"""Linear probing: the backbone stays as it is; the head is trained, and the final layer norm where there is one."""

from collections.abc import Iterable
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
        """Leaves the model as it is; the published code masks no frames of wav2vec 2.0 here."""
        if self.paper_code:
            model.config.apply_spec_augment = False

    def training_modules(self, model: torch.nn.Module, spec: BackboneSpec) -> Iterable[torch.nn.Module]:
        """None; all of the backbone where the published code is asked for, which never sets it to evaluation mode."""
        return model.modules() if self.paper_code else []

    def merge(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Nothing to do."""
