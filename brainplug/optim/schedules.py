"""Learning rate schedules: the step and the number of steps go in, a factor of the learning rate comes out.

They keep no state, so that a resumed run has the rate of an uninterrupted one.
"""

import math


def cosine(step: int, total_steps: int) -> float:
    """Cosine annealing to zero over every step of the run (Loshchilov and Hutter, 2017, equation 5).

    Arguments
    ---------
    step : int
        Optimiser steps done so far.
    total_steps : int
        Optimiser steps of the whole run.

    Returns
    -------
    float
        From 1 down to 0.

    Example
    -------
    >>> cosine(0, 10), cosine(10, 10)
    (1.0, 0.0)
    """
    return 0.5 * (1 + math.cos(math.pi * min(1.0, step / total_steps)))


def tri_stage(
    step: int,
    total_steps: int,
    warm_up: float = 0.1,
    hold: float = 0.4,
    decay: float = 0.5,
    start: float = 0.01,
    end: float = 0.05,
) -> float:
    """Warms up linearly, holds, then decays exponentially; as fairseq's schedule of this name, in shares of the run.

    Arguments
    ---------
    step, total_steps : int
        As in `cosine`.
    warm_up, hold, decay : float
        Shares of the steps. Together they may pass 1: the run then ends amid the decay.
    start, end : float
        The factor at the first step, and at the end of the decay; afterwards it stays there.

    Returns
    -------
    float
        From `start` up to 1, then down to `end`.

    Example
    -------
    >>> [round(tri_stage(step, 100), 4) for step in (0, 10, 50, 75, 100)]
    [0.01, 1.0, 1.0, 0.2236, 0.05]
    """
    share = step / total_steps
    if share < warm_up:
        return start + (1 - start) * share / warm_up
    decayed = max(0.0, share - warm_up - hold)
    return end ** (decayed / decay) if decayed < decay else end


def constant(step: int, total_steps: int) -> float:
    """The same rate throughout.

    Arguments
    ---------
    step, total_steps : int
        As in `cosine`.

    Returns
    -------
    float
        Always 1.

    Example
    -------
    >>> constant(3, 10)
    1.0
    """
    return 1.0


def linear(step: int, total_steps: int, warm_up: float = 0.0) -> float:
    """A linear warm-up, then a linear way to zero (Vaswani et al., 2017, have the former).

    Arguments
    ---------
    step, total_steps : int
        As in `cosine`.
    warm_up : float
        Share of the steps in which the rate rises, 0 to 1.

    Returns
    -------
    float
        Up to 1, then down to 0.

    Example
    -------
    >>> linear(5, 100, warm_up=0.1), linear(10, 100, warm_up=0.1), linear(55, 100, warm_up=0.1)
    (0.5, 1.0, 0.5)
    """
    rising = warm_up * total_steps
    if step < rising:
        return step / rising
    return max(0.0, (total_steps - step) / (total_steps - rising))
