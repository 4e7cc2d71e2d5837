"""Markdown tables of runs."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import mean

from brainplug.results.schema import MODELS, Epoch, RunResults
from brainplug.results.statistics import mean_and_std

NOT_RUN = "not run"
EPOCHS: tuple[Epoch, ...] = ("best", "last")


def tables_of(results: Sequence[RunResults]) -> str:
    """One table for each kind of task."""
    models = list(dict.fromkeys(MODELS.values()))
    groups: dict[tuple[str, ...], list[RunResults]] = defaultdict(list)
    for run in sorted(results, key=lambda run: models.index(type(run)) if type(run) in models else len(models)):
        groups[_columns(run)].append(run)
    return "\n\n".join(map(results_table, groups.values()))


def results_table(results: Sequence[RunResults]) -> str:
    """A table of runs of one kind of task.

    A row shows runs that differ in fold and seed alone. The best method comes first among those on the same data.
    """
    groups: dict[tuple[str | int, ...], list[RunResults]] = defaultdict(list)
    for run in results:
        groups[*run.identity.values(), run.epochs].append(run)
    columns = _columns(results[0])
    lines = [columns, ("---",) * len(columns), *map(_row, sorted(groups.values(), key=_order))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _order(runs: Sequence[RunResults]) -> tuple[tuple[str | int, ...], float]:
    first = runs[0]
    same_data = tuple(value for column, value in first.identity.items() if column not in ("method", "decoding"))
    score = mean(run.score() for run in runs)
    return same_data, -score if first.metrics[0].higher_is_better else score


def _columns(run: RunResults) -> tuple[str, ...]:
    first, *others = run.metrics
    best, last = f"{first.title}, best validation epoch (%)", f"{first.title}, last epoch (%)"
    names = [f"{metric.title} (%)" for metric in others]
    scores = [best, *names, last, *names] if others else [best, "last epoch (%)"]
    return (*run.identity, run.counted[0], "epochs", "runs", *scores, "minutes a run")


def _row(runs: Sequence[RunResults]) -> tuple[str, ...]:
    first, minutes = runs[0], mean(run.seconds for run in runs) / 60
    scores = [
        spread(*mean_and_std(run.score(metric, epoch) for run in runs)) for epoch in EPOCHS for metric in first.metrics
    ]
    counts = f"{first.counted[1]:,}", f"{first.epochs}", f"{len(runs)}"
    return (*map(str, first.identity.values()), *counts, *scores, f"{minutes:.1f}")


def number(value: float | None, digits: int = 1, sign: str = "") -> str:
    """Formats a number; ``+`` as its sign marks positive numbers too. None was not run."""
    return NOT_RUN if value is None else f"{value:{sign}.{digits}f}"


def p_text(value: float | None) -> str:
    """Formats a p value with three digits.

    Example
    -------
    >>> p_text(0.0004), p_text(0.0321), p_text(None)
    ('< 0.001', '0.032', 'not run')
    """
    return "< 0.001" if value is not None and value < 0.001 else number(value, 3)


def spread(value: float | None, std: float | None) -> str:
    """Formats a mean and its standard deviation, which a single run lacks.

    Example
    -------
    >>> spread(80.0, 2.5), spread(80.0, None), spread(None, None)
    ('80.0 ± 2.5', '80.0', 'not run')
    """
    return number(value) + ("" if std is None else f" ± {std:.1f}")


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that is aligned in its source too.

    All columns but the first and the last hold numbers and are aligned to the right.

    Example
    -------
    >>> print(markdown_table(("method", "count", "settings"), [("linear", "7", ""), ("lora", "1,234", "rank: 6")]))
    | method | count | settings |
    | ------ | ----: | --- |
    | linear |     7 |  |
    | lora   | 1,234 | rank: 6 |
    """
    rows = list(rows)
    # At least two: a rule without a hyphen before its colon would be no rule, and the table no table.
    first, *widths = [max(2, *map(len, column)) for column in zip(columns, *rows, strict=True)][:-1]

    def line(cells: Sequence[str]) -> str:
        numbers = [f"{cell:>{width}}" for cell, width in zip(cells[1:-1], widths, strict=True)]
        return f"| {' | '.join([f'{cells[0]:<{first}}', *numbers, cells[-1]])} |"

    rule = ["-" * first, *("-" * (width - 1) + ":" for width in widths), "---"]
    return "\n".join(map(line, (columns, rule, *rows)))
