"""Full fine-tuning: trains every weight of the backbone, or those of its last layers."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import ConfigError
from brainplug.methods.base import Method


@dataclass(frozen=True)
class FullFineTuning(Method):
    """Trains the backbone, with its dropout.

    Arguments
    ---------
    layers : int, optional
        Trains the last so many layers alone; by default all of the backbone.
    """

    layers: int | None = None

    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> None:
        """Marks the weights as trainable."""
        for module in self.trained_modules(model, spec):
            module.requires_grad_(True)

    def training_modules(self, model: torch.nn.Module, spec: BackboneSpec) -> Iterable[torch.nn.Module]:
        """All parts of what is trained."""
        return [part for module in self.trained_modules(model, spec) for part in module.modules()]

    def may_leave_unused(self, model: torch.nn.Module) -> bool:
        """True if the whole backbone trains and drops layers at random."""
        layer_drop = getattr(model.config, "layerdrop", 0.0) or getattr(model.config, "encoder_layerdrop", 0.0)
        return self.layers is None and layer_drop > 0

    def merge(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Does nothing: the weights are the backbone's own."""

    def trained_modules(self, model: torch.nn.Module, spec: BackboneSpec) -> list[torch.nn.Module]:
        """The model, or its last layers."""
        if self.layers is None:
            return [model]
        layers = spec.layers_of(model)
        if not 1 <= self.layers <= len(layers):
            raise ConfigError(
                f"Fine-tuning the last {self.layers} layers was asked for.",
                f"The backbone has {len(layers)}.",
                f"Write layers: a number from 1 to {len(layers)}, or leave it out for the whole backbone",
            )
        return list(layers)[-self.layers :]
