"""Linear probing: trains the head, and the final layer norm where the backbone has one."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from brainplug.backbones.spec import BackboneSpec
from brainplug.methods.base import Method


@dataclass(frozen=True)
class LinearProbe(Method):
    """Leaves the backbone as it is."""

    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> None:
        """Does nothing."""

    def merge(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Does nothing."""
