"""Entries of ``hparams/optimizers.yaml`` that are more than an optimiser with its settings."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch


@dataclass(frozen=True)
class OptimizerEntry:
    """An optimiser that wants other learning rates than Adam does, or parameters in groups.

    Arguments
    ---------
    create : Callable
        Called with parameters and ``lr``.
    lr_scale : float
        What the learning rates of ``hparams/methods.yaml``, which are for Adam, are multiplied by.
    groups : Callable, optional
        Called with the model and ``lr``; returns the groups of parameters. All are in one by default.

    Example
    -------
    >>> entry = OptimizerEntry(torch.optim.SGD, lr_scale=10.0)
    >>> entry.build(torch.nn.Linear(2, 3), lr=0.1).param_groups[0]["lr"]
    0.1
    """

    create: Callable[..., torch.optim.Optimizer]
    lr_scale: float = 1.0
    groups: Callable[..., list[dict[str, Any]]] | None = None

    def build(
        self, model: torch.nn.Module, lr: float, parameters: Iterable[torch.Tensor | dict[str, Any]] | None = None
    ) -> torch.optim.Optimizer:
        """Makes the optimiser of what is trained in a model.

        Arguments
        ---------
        lr : float
            Learning rate, which `lr_scale` does not change.
        parameters : Iterable, optional
            Parameters of the model, or groups of them, where this entry makes no groups; all of them by default.
        """
        if self.groups is not None:
            return self.create(self.groups(model, lr=lr), lr=lr)
        chosen = model.parameters() if parameters is None else parameters
        return self.create([entry for entry in chosen if isinstance(entry, dict) or entry.requires_grad], lr=lr)

    def with_settings(self, settings: Mapping[str, Any]) -> "OptimizerEntry":
        """The same optimiser with other settings: ``lr_scale``, what `groups` takes, and what the optimiser takes.

        A setting that the optimiser does not take raises an error when it is made.

        Example
        -------
        >>> entry = OptimizerEntry(torch.optim.SGD).with_settings({"momentum": 0.5, "lr_scale": 10.0})
        >>> entry.lr_scale, entry.build(torch.nn.Linear(2, 3), lr=0.1).param_groups[0]["momentum"]
        (10.0, 0.5)
        """
        rest = {**settings}
        lr_scale = rest.pop("lr_scale", self.lr_scale)
        of_groups = inspect.signature(self.groups).parameters if self.groups else ()
        for_groups = {name: rest.pop(name) for name in settings if name in of_groups}
        groups = partial(self.groups, **for_groups) if self.groups else None
        return replace(self, create=partial(self.create, **rest), lr_scale=lr_scale, groups=groups)


def as_entry(optimizer: OptimizerEntry | Callable[..., torch.optim.Optimizer]) -> OptimizerEntry:
    """Makes an entry of an optimiser with its settings; an entry stays as it is."""
    return optimizer if isinstance(optimizer, OptimizerEntry) else OptimizerEntry(optimizer)
