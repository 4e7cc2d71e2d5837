"""Learning rate schedules: the step and the number of steps go in, a factor of the learning rate comes out.

They keep no state, so that a resumed run has the rate of an uninterrupted one.
"""

import math


def cosine(step: int, total_steps: int) -> float:
    """Cosine annealing from 1 to 0 over all steps of the run (Loshchilov and Hutter, 2017, equation 5).

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
    warm_up, hold, decay : float
        Shares of the steps. Where they sum to more than 1, the run ends amid the decay.
    start, end : float
        The factor at the first step, and from the end of the decay on.

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
    """The same rate throughout."""
    return 1.0


def linear(step: int, total_steps: int, warm_up: float = 0.0) -> float:
    """A linear warm-up over a share of the steps, as in Vaswani et al., 2017, then a linear decay to zero.

    Example
    -------
    >>> linear(5, 100, warm_up=0.1), linear(10, 100, warm_up=0.1), linear(55, 100, warm_up=0.1)
    (0.5, 1.0, 0.5)
    """
    rising = warm_up * total_steps
    if step < rising:
        return step / rising
    return max(0.0, (total_steps - step) / (total_steps - rising))
