"""Whether an optimiser helps: AdamW, FAM with and without its frequency part, SimpleFAM and FAdam on real runs.

Every optimiser gets the same grid of learning rates, for every corpus and method; where the best one lies on the edge
of the grid, the next one beyond it is tried too. The best validation accuracy with the first seed chooses (where two
are equal, the lower validation loss), the other seeds follow with that rate alone, and the test set is looked at
last. Each run is one of the main job, in a folder of its own; a run that is finished is never repeated, so that the
same command goes on after a stop.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.measure import describe_device, from_1_on, show
from brainplug.errors import UsageError, run_command
from brainplug.files import write_json
from brainplug.results.documents import table_marks
from brainplug.results.tables import markdown_table

MARKS = table_marks("accuracy", "python -m benchmarks.optimizer_accuracy")
SMALLEST_RATE, RATIO, RATES = 0.001, 5, range(5)  # 0.001, 0.005, 0.025, 0.125, 0.625
FURTHEST = range(-2, 8)  # how far beyond the grid the search may go
SEEDS = (1, 2, 3)
METHODS = ("conformer", "lora", "prompt_deep")
EARLY = "fam_start_step: 30"  # the published 100 steps are a large part of runs as short as these
# What is compared: its options on the command line.
OPTIMIZERS = {
    "AdamW": ["--optimizer=adamw"],
    "FAM": ["--optimizer=fam", f"--optimizer_settings={{fam: {{{EARLY}}}}}"],
    "FAM, frequency part off": ["--optimizer=fam", "--optimizer_settings={fam: {fam_start_step: 1000000}}"],
    "SimpleFAM": ["--optimizer=simplefam"],
    "FAdam": ["--optimizer=fadam"],
}
CORPORA = {
    "spoken": ["hparams/train.yaml", "--number_of_epochs=3"],
    "ESC-10": ["recipes/ESC50/hparams/train.yaml", "--number_of_epochs=8", "--batch_size=8"],
}
LINES = ("-", "-", "--", ":", "-.")  # with the colours, one for each optimiser
COLOURS = ("#000000", "#D55E00", "#E69F00", "#CC79A7", "#0072B2")  # of Okabe and Ito
PRECISION = ["--precision=bf16", "--eval_precision=bf16"]


Points = tuple[Sequence[float], Sequence[float]]  # across and up


@dataclass(frozen=True)
class Run:
    """One run of the main job.

    Arguments
    ---------
    corpus, method, optimizer : str
        Of `CORPORA`, an entry of ``methods.yaml``, of `OPTIMIZERS`.
    rate : int
        The learning rate is ``SMALLEST_RATE * RATIO**rate``.
    seed : int
        The run's seed.
    """

    corpus: str
    method: str
    optimizer: str
    rate: int
    seed: int

    @property
    def lr(self) -> float:
        """The learning rate."""
        return float(f"{SMALLEST_RATE * RATIO**self.rate:.6g}")

    def folder(self, results: Path) -> Path:
        """Where its results lie."""
        name = re.sub(r"\W+", "-", self.optimizer.lower())
        return results / self.corpus / self.method / f"{name}-{self.lr:g}" / str(self.seed)

    def arguments(self, results: Path, esc10: str) -> list[str]:
        """Its command line."""
        data = [f"--data_folder={esc10}"] if self.corpus == "ESC-10" else []
        return [
            *CORPORA[self.corpus], *data, *OPTIMIZERS[self.optimizer], *PRECISION, f"--method={self.method}",
            f"--lr={self.lr:g}", f"--seed={self.seed}", f"--output_folder={self.folder(results)}",
        ]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Arguments
    ---------
    test : float
        Test accuracy of the best validation epoch, from 0 to 1; 0 for a run that diverged.
    valid : list[float]
        Validation accuracy of each epoch, in percent.
    losses : list[float]
        Validation loss of each epoch.
    """

    test: float
    valid: list[float]
    losses: list[float]

    @property
    def merit(self) -> tuple[float, float]:
        """What learning rates are chosen by."""
        pairs = zip(self.valid, (-loss for loss in self.losses), strict=True)
        return max(pairs, default=(0.0, -math.inf))


def read_outcome(folder: Path) -> Outcome | None:
    """Reads a run's results.

    Arguments
    ---------
    folder : Path
        Of the run.

    Returns
    -------
    Outcome | None
        None if it is not finished.
    """
    if (folder / "diverged.json").exists():
        return Outcome(0.0, [], [])
    if not (folder / "results.json").exists():
        return None
    results = json.loads((folder / "results.json").read_text())
    # An epoch stands twice in the log of a run that was stopped between its line and its checkpoint.
    pattern = re.compile(r"^epoch: (\d+),.* valid loss: (\S+), valid accuracy: (\S+)$", re.MULTILINE)
    epochs = {int(epoch): rest for epoch, *rest in pattern.findall((folder / "train_log.txt").read_text())}
    losses, valid = zip(*(map(float, epochs[epoch]) for epoch in sorted(epochs)), strict=True)
    return Outcome(results["test_accuracy"], list(valid), list(losses))


def train(run: Run, results: Path, esc10: str) -> None:
    """Does a run, or goes on with it; writes what it prints into its folder.

    Arguments
    ---------
    run : Run
        Which.
    results : Path
        Folder above all runs.
    esc10 : str
        Folder of ESC-10.

    Raises
    ------
    UsageError
        The run was refused.
    """
    from train import main

    folder = run.folder(results)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            main(run.arguments(results, esc10))
        except UsageError as error:
            if "A finite loss was asked for" not in str(error):
                raise
            write_json({"error": str(error)}, folder / "diverged.json")


class Comparison:
    """All runs, and what came of them.

    Arguments
    ---------
    results : Path
        Folder above all runs.
    esc10 : str
        Folder of ESC-10.
    jobs : int
        Runs at a time, each on one core.
    """

    def __init__(self, results: Path, esc10: str, jobs: int):
        self.results, self.esc10, self.jobs = results, esc10, jobs

    def outcome(self, run: Run) -> Outcome | None:
        """What came of a run, if it is finished."""
        return read_outcome(run.folder(self.results))

    def complete(self, runs: Sequence[Run]) -> None:
        """Does what is missing of some runs."""
        missing = [run for run in runs if self.outcome(run) is None]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.jobs, context, torch.set_num_threads, (1,)) as pool:
            running = [pool.submit(train, run, self.results, self.esc10) for run in missing]
            for done in tqdm(as_completed(running), total=len(running), dynamic_ncols=True):
                done.result()

    def best_rate(self, cell: tuple[str, str, str]) -> int:
        """The learning rate of corpus, method and optimiser, among those that were tried with the first seed."""
        attempted = {rate: self.outcome(Run(*cell, rate, SEEDS[0])) for rate in FURTHEST}
        return max((rate for rate, outcome in attempted.items() if outcome), key=lambda rate: attempted[rate].merit)

    def run_all(self, cells: Sequence[tuple[str, str, str]]) -> None:
        """Searches the learning rate of each cell, then does the other seeds."""
        self.complete([Run(*cell, rate, SEEDS[0]) for cell in cells for rate in RATES])
        while beyond := [run for cell in cells for run in self.beyond(cell)]:
            self.complete(beyond)
        self.complete([Run(*cell, self.best_rate(cell), seed) for cell in cells for seed in SEEDS])

    def beyond(self, cell: tuple[str, str, str]) -> list[Run]:
        """The next run of a cell whose best rate lies on the edge of those that were tried."""
        best = self.best_rate(cell)
        neighbours = [Run(*cell, rate, SEEDS[0]) for rate in (best - 1, best + 1) if rate in FURTHEST]
        return [run for run in neighbours if self.outcome(run) is None]

    def chosen(self, cell: tuple[str, str, str]) -> list[Outcome]:
        """What came of the chosen learning rate, by seed."""
        rate = self.best_rate(cell)
        return [self.outcome(Run(*cell, rate, seed)) for seed in SEEDS]

    def table(self, cells: Sequence[tuple[str, str, str]]) -> str:
        """A row for each cell, and one for each optimiser over all of them."""
        rows, differences = [], {name: [] for name in OPTIMIZERS}
        for corpus, method, optimizer in cells:
            tests = [100 * outcome.test for outcome in self.chosen((corpus, method, optimizer))]
            first = [100 * outcome.test for outcome in self.chosen((corpus, method, next(iter(OPTIMIZERS))))]
            gaps = [ours - theirs for ours, theirs in zip(tests, first, strict=True)]
            differences[optimizer] += gaps
            best = Run(corpus, method, optimizer, self.best_rate((corpus, method, optimizer)), SEEDS[0])
            shown = f"{max(self.outcome(best).valid, default=0):.1f}", f"{mean(tests):.1f} ± {stdev(tests):.1f}"
            rows.append((optimizer, f"{best.lr:g}", *shown, f"{mean(gaps):+.1f}", f"{method}, {corpus}"))
        for optimizer, gaps in differences.items():
            rows.append(
                (optimizer, "", "", "", f"{mean(gaps):+.1f} ± {_half_interval(gaps):.1f}", f"all {len(gaps)} runs")
            )
        columns = ("optimizer", "learning rate", "valid (%)", "test (%)", "against AdamW", "method, data")
        return markdown_table(columns, rows)


def _half_interval(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean, from 2,000 resamplings with a seed."""
    drawn = np.random.default_rng(0).choice(np.array(values), (2000, len(values))).mean(1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return (high - low) / 2


def draw_curves(comparison: Comparison, path: Path) -> None:
    """Draws validation accuracy over the epochs, with the chosen learning rates: the mean of the seeds.

    Arguments
    ---------
    comparison : Comparison
        All of its runs are finished.
    path : Path
        The picture.
    """

    def points(cell: tuple[str, str, str]) -> Points:
        curves = [outcome.valid for outcome in comparison.chosen(cell) if outcome.valid]
        means = np.mean(curves, axis=0) if curves else []
        return range(1, len(means) + 1), means

    _draw(points, "epoch", "validation accuracy (%)", "linear", path)


def draw_rates(comparison: Comparison, path: Path) -> None:
    """Draws the best validation accuracy over the learning rates that were tried.

    Arguments
    ---------
    comparison : Comparison
        All of its runs are finished.
    path : Path
        The picture.
    """

    def points(cell: tuple[str, str, str]) -> Points:
        runs = [Run(*cell, rate, SEEDS[0]) for rate in FURTHEST]
        actual = [(run.lr, max(outcome.valid, default=0)) for run in runs if (outcome := comparison.outcome(run))]
        return tuple(zip(*actual, strict=True))

    _draw(points, "learning rate", "best validation accuracy (%)", "log", path)


def _draw(points: Callable[[tuple[str, str, str]], Points], across: str, up: str, scale: str, path: Path) -> None:
    """One small picture for each corpus and method, with a line for each optimiser."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(METHODS), 3.4 * len(CORPORA)), layout="constrained")
    axes = figure.subplots(len(CORPORA), len(METHODS), sharey="row", squeeze=False)
    for row, corpus in zip(axes, CORPORA, strict=True):
        for axis, method in zip(row, METHODS, strict=True):
            for optimizer, line, colour in zip(OPTIMIZERS, LINES, COLOURS, strict=True):
                axis.plot(*points((corpus, method, optimizer)), line, color=colour, marker=".", label=optimizer)
            axis.set(title=f"{corpus}, {method}", xscale=scale)
            axis.grid(alpha=0.3)
            if scale == "linear":
                axis.xaxis.get_major_locator().set_params(integer=True)
        row[0].set_ylabel(up)
    for axis in axes[-1]:
        axis.set_xlabel(across)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(OPTIMIZERS))
    figure.savefig(path, dpi=100)


def main(arguments: list[str]) -> None:
    """Reads the command line, trains what is missing, and prints.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--esc10", required=True, help="folder of ESC-10, laid out as ESC-50 is")
    parser.add_argument("--results", type=Path, default=Path("results/optimizers"), help="folder above all runs")
    parser.add_argument("--jobs", type=from_1_on, default=1, help="runs at a time, each on one core")
    parser.add_argument("--corpora", default=",".join(CORPORA), help="which to train on now, separated by commas")
    parser.add_argument("--write", metavar="DOCUMENT", help="puts the table into a document and the pictures beside it")
    chosen = parser.parse_args(arguments)
    comparison = Comparison(chosen.results, chosen.esc10, chosen.jobs)
    cells = [(corpus, method, name) for corpus in CORPORA for method in METHODS for name in OPTIMIZERS]
    comparison.run_all([cell for cell in cells if cell[0] in chosen.corpora.split(",")])
    text = f"{describe_device('cpu')}.\n\n{comparison.table(cells)}"
    show(text, chosen.write, MARKS)
    if chosen.write:
        draw_curves(comparison, Path(chosen.write).with_name("optimizers-curves.png"))
        draw_rates(comparison, Path(chosen.write).with_name("optimizers-rates.png"))


if __name__ == "__main__":
    sys.exit(run_command(main))
