#!/usr/bin/env python3
"""Trains an Echo with and without its parts, and says what each is worth.

    python recipes/spoken_echo/ablation.py --write recipes/spoken_echo/README.md
    python recipes/spoken_echo/ablation.py --seeds 1 2 3 --output_folder=results/echo_ablation --number_of_epochs=30

What is not named here goes to train.py. A run that is finished is not made again, one that was stopped goes on.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

from tqdm import tqdm

from brainplug.config.output_folder import check_output_folder
from brainplug.errors import UsageError, run_command
from brainplug.results.documents import table_marks, write_between_marks
from brainplug.results.statistics import p_value
from brainplug.results.tables import markdown_table, p_text, spread
from brainplug.tasks import load_recipe, read_arguments

HERE = Path(__file__).parent
MARKS = table_marks("ablation", "python recipes/spoken_echo/ablation.py")
PLAIN, COMBINED = "plain rotary positions", "with Givens rotations and R"
VARIANTS = {  # name -> what is on, and beside which row it is judged
    PLAIN: ({"rotation": "plain"}, None),
    "with Givens rotations": ({"rotation": "givens"}, PLAIN),
    COMBINED: ({"rotation": "combined"}, PLAIN),
    "and local attention": ({"rotation": "combined", "use_hybrid_attention": True}, COMBINED),
    "and a convolution": ({"rotation": "combined", "use_convolution": True}, COMBINED),
    "and the adaptive base": ({"rotation": "combined", "adaptive_base": True}, COMBINED),
}
OFF = {"adaptive_base": False, "use_hybrid_attention": False, "use_convolution": False}
LEVEL = 0.05  # a difference of a smaller p is called one
COLUMNS = ("parts", "parameters", "WER (%)", "by seed", "CER (%)", "difference", "p", "from")


def command_line(variant: str, seed: int, folder: Path, others: Sequence[str]) -> list[str]:
    """What makes one run.

    Arguments
    ---------
    variant : str
        A key of `VARIANTS`.
    seed : int
        Of the run.
    folder : Path
        Its output folder.
    others : Sequence[str]
        More of the command line.

    Returns
    -------
    list[str]
        The arguments of train.py.

    Example
    -------
    >>> arguments = command_line(PLAIN, seed=1, folder=Path("results"), others=["--number_of_epochs=3"])
    >>> "--rotation=plain" in arguments, "--number_of_epochs=3" in arguments
    (True, True)
    """
    settings = {**OFF, **VARIANTS[variant][0], "seed": seed, "output_folder": folder}
    options = [f"--{name}={value}" for name, value in settings.items()]
    return [str(HERE / "hparams" / "train.yaml"), *options, *others, "--noprogressbar"]


def run(arguments: list[str], folder: Path) -> None:
    """Makes one run, unless it is finished.

    Arguments
    ---------
    arguments : list[str]
        The arguments of train.py.
    folder : Path
        The run's.
    """
    if (folder / "results.json").exists():
        return
    with open(folder / "output.txt", "w") as output:
        command = [sys.executable, str(HERE.parents[1] / "train.py"), *arguments]
        code = subprocess.run(command, stdout=output, stderr=output).returncode
    if code:
        asked = f"The run in {folder} was asked for."
        raise UsageError(asked, f"It failed; {folder / 'output.txt'} says why.", "Write the same command again")


def table(results: dict[str, dict[int, dict]]) -> str:
    """What the runs came to, and a conclusion.

    Arguments
    ---------
    results : dict[str, dict[int, dict]]
        What results.json says, by variant and seed.

    Returns
    -------
    str
        Markdown.

    Example
    -------
    >>> runs = {seed: {"test_wer": 0.1, "test_cer": 0.05, "total": 10, "epochs": 3} for seed in (1, 2)}
    >>> print(table({PLAIN: runs}).splitlines()[2])
    | plain rotary positions      |         10 | 10.0 ± 0.0 | 10.0, 10.0 | 5.0 ± 0.0 |            |         |  |
    """
    rows = [_row(variant, results) for variant in VARIANTS]
    return f"{markdown_table(COLUMNS, rows)}\n\n{_conclusion(results)}"


def _row(variant: str, results: dict[str, dict[int, dict]]) -> tuple[str, ...]:
    runs = results.get(variant, {})
    if not runs:
        return (variant, *["not run"] * (len(COLUMNS) - 2), "")
    rates = ([100 * actual[f"test_{rate}"] for actual in runs.values()] for rate in ("wer", "cer"))
    word_errors, letter_errors = (
        spread(mean(several), stdev(several) if len(several) > 1 else None) for several in rates
    )
    differences, p = _judged(variant, results)
    return (
        variant,
        f"{next(iter(runs.values()))['total']:,}",
        word_errors,
        ", ".join(f"{100 * actual['test_wer']:.1f}" for actual in runs.values()),
        letter_errors,
        f"{mean(differences):+.1f}" if differences else "",
        "" if p is None else p_text(p),
        VARIANTS[variant][1] or "",
    )


def _judged(variant: str, results: dict[str, dict[int, dict]]) -> tuple[list[float], float | None]:
    """Word error rates less those of the row beside it with the same seed, in points, and p of a paired t-test."""
    runs, beside = results.get(variant, {}), results.get(VARIANTS[variant][1], {})
    differences = [100 * (runs[seed]["test_wer"] - beside[seed]["test_wer"]) for seed in runs if seed in beside]
    return differences, p_value(differences)


def _conclusion(results: dict[str, dict[int, dict]]) -> str:
    """What a reader can take away."""
    clear = []
    for variant, (_, beside) in VARIANTS.items():
        differences, p = _judged(variant, results)
        if p is not None and p < LEVEL:
            clear.append(f"{variant} ({mean(differences):+.1f} points from {beside})")
    actual = f"Clear at p < {LEVEL}: {'; '.join(clear)}."
    if not any(p is not None for _, p in (_judged(variant, results) for variant in VARIANTS)):
        actual = "Nothing was tested: that takes two seeds."
    elif not clear:
        actual = f"Nothing is clear at p < {LEVEL}: no part changes more than the spread of the seeds."
    epochs = {str(run["epochs"]) for runs in results.values() for run in runs.values()}
    return f"Runs of {', '.join(epochs)} epochs. {actual} Tests are paired by seed and not corrected for their number."


def main(arguments: list[str]) -> None:
    """Reads the command line, runs what is not finished, and prints the table.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1234, 1235, 1236])
    parser.add_argument("--output_folder", type=Path, default=Path("results/echo_ablation"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; each has its share of the cores")
    parser.add_argument("--write", metavar="DOCUMENT", help="also puts the table into a document, between marks")
    chosen, others = parser.parse_known_args(arguments)
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // chosen.jobs))
    folders = {
        (variant, seed): chosen.output_folder / variant.replace(" ", "_") / str(seed)
        for seed in chosen.seeds
        for variant in VARIANTS
    }
    commands = {folder: command_line(*position, folder, others) for position, folder in folders.items()}
    for command in commands.values():  # before the work: a folder may hold a run with other options
        file, run_opts, overrides = read_arguments(command)
        recipe = load_recipe(file, overrides, run_opts)
        check_output_folder(recipe, recipe.settings.output_folder, recipe.settings.save_folder)
    with ThreadPoolExecutor(chosen.jobs) as pool:
        runs = [pool.submit(run, command, folder) for folder, command in commands.items()]
        for item in tqdm(runs, desc="Runs"):
            item.result()
    results: dict[str, dict[int, dict]] = {}
    for (variant, seed), folder in folders.items():
        results.setdefault(variant, {})[seed] = json.loads((folder / "results.json").read_text())
    made = table(results)
    print(made)
    if chosen.write:
        write_between_marks(made, chosen.write, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main))
