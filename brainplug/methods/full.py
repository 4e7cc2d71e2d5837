"""Full fine-tuning: every weight of the backbone is trained, or those of its last layers."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import UsageError
from brainplug.methods.base import Method

PUBLISHED_LAYERS_ON_WAVEFORM = 3  # of wav2vec 2.0


@dataclass(frozen=True)
class FullFineTuning(Method):
    """Unfreezes the backbone, its dropout included.

    Arguments
    ---------
    layers : int, optional
        Only so many layers, the last ones; all of the backbone by default.

    Example
    -------
    >>> model = torch.nn.Linear(3, 3).requires_grad_(False)
    >>> FullFineTuning().attach(model, None)
    >>> all(parameter.requires_grad for parameter in model.parameters())
    True
    """

    layers: int | None = None

    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Marks the weights as trainable."""
        for module in self._trained(model, spec):
            module.requires_grad_(True)

    def training_modules(self, model: torch.nn.Module, spec: BackboneSpec) -> Iterable[torch.nn.Module]:
        """Those that are trained; all of them where the published code is asked for."""
        trained = [model] if self.paper_code else self._trained(model, spec)
        return [part for module in trained for part in module.modules()]

    def may_leave_unused(self, model: torch.nn.Module) -> bool:
        """Where whole layers are dropped too, at random: by a backbone that is all trained."""
        drops = getattr(model.config, "layerdrop", 0.0) or getattr(model.config, "encoder_layerdrop", 0.0)
        return self.paper_code or (self.layers is None and drops > 0)

    def merge(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Nothing to do: the weights are the backbone's own."""

    def _trained(self, model: torch.nn.Module, spec: BackboneSpec) -> list[torch.nn.Module]:
        layers = self.layers
        if layers is None and self.paper_code and spec.signal == "waveform":
            layers = PUBLISHED_LAYERS_ON_WAVEFORM
        if layers is None:
            return [model]
        there = spec.layers_of(model)
        if not (1 <= layers <= len(there) or self.paper_code):
            raise UsageError(
                f"Fine-tuning the last {layers} layers was asked for.",
                f"The backbone has {len(there)}.",
                f"Write layers: a number from 1 to {len(there)}, or leave it out for the whole backbone",
            )
        return list(there)[-layers:]
