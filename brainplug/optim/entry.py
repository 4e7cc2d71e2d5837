"""Entries of ``hparams/optimizers.yaml`` that are more than an optimiser with its settings."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

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
    groups: Callable[..., list[dict]] | None = None

    def build(
        self, model: torch.nn.Module, lr: float, parameters: Iterable[torch.Tensor | dict] | None = None
    ) -> torch.optim.Optimizer:
        """Makes the optimiser of what is trained in a model.

        Arguments
        ---------
        model : torch.nn.Module
            The model.
        lr : float
            Learning rate, as it is.
        parameters : Iterable, optional
            Parameters of the model, or groups of them, where this entry makes no groups; all of them by default.

        Returns
        -------
        torch.optim.Optimizer
            For what is not frozen.
        """
        if self.groups is not None:
            return self.create(self.groups(model, lr=lr), lr=lr)
        found = model.parameters() if parameters is None else parameters
        return self.create([some for some in found if isinstance(some, dict) or some.requires_grad], lr=lr)


def as_entry(optimizer: Callable) -> OptimizerEntry:
    """Makes an entry of what stands in ``hparams/optimizers.yaml``.

    Arguments
    ---------
    optimizer : Callable
        An entry, or an optimiser with its settings.

    Returns
    -------
    OptimizerEntry
        The entry.

    Example
    -------
    >>> as_entry(torch.optim.SGD).lr_scale
    1.0
    """
    return optimizer if isinstance(optimizer, OptimizerEntry) else OptimizerEntry(optimizer)
