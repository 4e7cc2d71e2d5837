"""Gradient checkpointing of single layers: less memory, more time.

transformers has it too, but only for layers in training mode; here frozen layers stay in evaluation mode.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.utils.checkpoint


class RecomputedForward:
    """A layer's ``forward`` that keeps its input alone; the backward pass computes the rest a second time.

    It replaces the ``forward`` of one layer object: a wrapping module would rename the layer's tensors in every file.
    """

    def __init__(self, layer: torch.nn.Module):
        self.forward = layer.forward
        self.batch_norms = [module for module in layer.modules() if isinstance(module, torch.nn.BatchNorm1d)]

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Takes and returns the same as the layer's own ``forward``."""
        return torch.utils.checkpoint.checkpoint(
            self.forward, *inputs, use_reentrant=False, context_fn=self._contexts, **named
        )

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return contextlib.nullcontext(), self._keep_statistics()

    @contextlib.contextmanager
    def _keep_statistics(self) -> Iterator[None]:
        """Keeps the running statistics of batch norms, which have counted this batch already."""
        counts = [(norm, norm.num_batches_tracked) for norm in self.batch_norms]
        before = [(norm, norm.momentum, count, count.clone()) for norm, count in counts if count is not None]
        for norm in self.batch_norms:
            norm.momentum = 0.0
        try:
            yield
        finally:  # torch leaves by an exception as soon as it has what it needs
            for norm, momentum, count, batches in before:
                norm.momentum = momentum
                count.copy_(batches)


def checkpoint_layer(layer: torch.nn.Module) -> None:
    """Makes a layer recompute its activations."""
    layer.forward = RecomputedForward(layer)


def restore_layer(layer: torch.nn.Module) -> None:
    """Undoes `checkpoint_layer`, if it was called for this layer."""
    if isinstance(layer.forward, RecomputedForward):
        del layer.forward
