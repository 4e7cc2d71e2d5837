"""The learning rate that was published with FAM: warm-up, plateau, cosine."""

import math
from typing import TypeVar

import torch

T = TypeVar("T")


class FAMScheduler(torch.optim.lr_scheduler.LRScheduler):
    """Raises the rate linearly, holds it, and lowers it along half a cosine; after the end it stays at `eta_min`.

    With L the rate of a group and s the steps of the scheduler so far::

        s < warm-up         start + (L - start) s / warm-up
        s < start of decay  L
        s < end             eta_min + (L - eta_min) (1 + cos(π (s - start of decay) / (end - start of decay))) / 2
        else                eta_min

    After https://github.com/sine2pi/FAMOptimizer (``FAMScheduler2``, and ``FAMScheduler`` for epochs), where the rate
    climbs again after the end.

    Arguments
    ---------
    warmup_steps, total_steps, decay_start_step : int, optional
        By default 1000, 100,000, and the end of the warm-up.
    warmup_epochs, max_epochs : int, optional
        These two instead of the steps, for a scheduler that steps once an epoch.
    warmup_start_lr, eta_min : float, optional
        Rates of the first step and after the end: 1e-6 by default, 1e-8 with epochs.

    Example
    -------
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    >>> scheduler = FAMScheduler(optimizer, warmup_steps=2, total_steps=4, warmup_start_lr=0.0, eta_min=0.0)
    >>> rates = []
    >>> for _ in range(6):
    ...     rates.append(round(optimizer.param_groups[0]["lr"], 4))
    ...     optimizer.step()
    ...     scheduler.step()
    >>> rates
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        warmup_steps: int | None = None,
        total_steps: int | None = None,
        decay_start_step: int | None = None,
        warmup_epochs: int | None = None,
        max_epochs: int | None = None,
        warmup_start_lr: float | None = None,
        eta_min: float | None = None,
        last_epoch: int = -1,
    ):
        steps, epochs = (warmup_steps, total_steps, decay_start_step), (warmup_epochs, max_epochs)
        if any(number is not None for number in (epochs if None in epochs else steps)):
            raise ValueError(
                f"FAMScheduler was asked for with steps {steps} and epochs {epochs}. It counts one of them. "
                "Write warmup_steps and total_steps, or warmup_epochs and max_epochs"
            )
        if warmup_epochs is not None and max_epochs is not None:
            self.warmup, self.end, self.decay_start, smallest = warmup_epochs, max_epochs, warmup_epochs, 1e-8
        else:
            self.warmup, self.end = _or(warmup_steps, 1000), _or(total_steps, 100_000)
            self.decay_start, smallest = _or(decay_start_step, self.warmup), 1e-6
        self.warmup_start_lr, self.eta_min = _or(warmup_start_lr, smallest), _or(eta_min, smallest)
        self._check()
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | torch.Tensor]:
        """The rates of all groups, for the steps so far, ``last_epoch``."""
        return [self._rate(base) for base in self.base_lrs]

    def _rate(self, base: float | torch.Tensor) -> float | torch.Tensor:
        step = self.last_epoch
        if step < self.warmup:
            return self.warmup_start_lr + (base - self.warmup_start_lr) * step / self.warmup
        if step < self.decay_start:
            return base
        done = 1.0 if step >= self.end else (step - self.decay_start) / (self.end - self.decay_start)
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * done)) / 2

    def _check(self) -> None:
        if not 0 <= self.warmup <= self.decay_start <= self.end:
            raise ValueError(
                f"FAMScheduler was asked to warm up until {self.warmup}, decay from {self.decay_start} and end at "
                f"{self.end}. These are out of order. Write warmup_steps <= decay_start_step <= total_steps, from 0 on"
            )
        if self.warmup_start_lr < 0 or self.eta_min < 0:
            raise ValueError(
                f"FAMScheduler was asked for with warmup_start_lr={self.warmup_start_lr} and eta_min={self.eta_min}. "
                "A rate below 0 climbs. Write numbers from 0 on"
            )


def _or(given: T | None, default: T) -> T:
    return default if given is None else given
