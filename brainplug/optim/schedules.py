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
