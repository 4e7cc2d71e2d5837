"""What several runs say together: means, standard deviations, Student intervals, paired tests."""

from collections.abc import Iterable, Sequence
from statistics import mean, stdev


def mean_and_std(values: Iterable[float]) -> tuple[float | None, float | None]:
    """The mean and the sample standard deviation; None of no values, and a single one has no deviation."""
    values = list(values)
    return mean(values) if values else None, stdev(values) if len(values) > 1 else None


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """The ends of the 95 % interval of a mean of two or more values, after Student's t.

    Example
    -------
    >>> low, high = interval_of_mean([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    from scipy import stats  # here, since most users of this package need only means, and scipy takes long to import

    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return mean(values) - half, mean(values) + half


def p_value(differences: Sequence[float]) -> float | None:
    """The p value of a paired t-test of differences against zero; None of fewer than two pairs.

    Example
    -------
    >>> round(p_value([1.0, 2.0, 3.0]), 3), p_value([0.0, 0.0]), p_value([1.0])
    (0.074, 1.0, None)
    """
    if len(differences) < 2:
        return None
    if max(differences) - min(differences) < 1e-9:  # the test divides by their deviation, which is rounding alone
        return 1.0 if abs(differences[0]) < 1e-9 else 0.0
    from scipy import stats

    return float(stats.ttest_1samp(differences, 0.0).pvalue)
