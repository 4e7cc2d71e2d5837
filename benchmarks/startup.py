"""How long brainplug takes to start: seconds, and multiples of ``import torch``.

Each action runs in a process of its own. The actions take turns, and each is compared with the ``import torch`` of its
round, so that a slower moment of the machine slows both. The table shows medians, after a round that warms the file
cache. The imports of transformers' AST are a lower bound for commands that build a model.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.measure import describe_device, from_1_on, show
from brainplug.errors import run_command
from brainplug.results.documents import table_marks
from brainplug.results.tables import markdown_table

MARKS = table_marks("startup", "python -m benchmarks.startup")
UNIT = "import torch"
ACTIONS = {
    UNIT: ("-c", "import torch"),
    "import brainplug": ("-c", "import brainplug"),
    "brainplug --help": ("-m", "brainplug", "--help"),
    "the imports of transformers' AST": (
        "-c",
        "import brainplug.compat.torchaudio, transformers; transformers.ASTModel",
    ),
    "brainplug methods": ("-m", "brainplug", "methods"),
    "brainplug train --help": ("-m", "brainplug", "train", "--help"),
}


def time_actions(actions: Mapping[str, Sequence[str]], repeats: int) -> dict[str, list[float]]:
    """Runs Python with the arguments of each action; returns the seconds of each round but the first.

    Raises
    ------
    subprocess.CalledProcessError
        An action failed.
    """
    rounds = [{name: _seconds(arguments) for name, arguments in actions.items()} for _ in range(1 + repeats)]
    return {name: [seconds[name] for seconds in rounds[1:]] for name in actions}


def _seconds(arguments: Sequence[str]) -> float:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def as_table(seconds: Mapping[str, Sequence[float]]) -> str:
    """A Markdown table with one row an action."""
    rows = []
    for name, own in seconds.items():
        quotient = median(one / unit for one, unit in zip(own, seconds[UNIT], strict=True))
        rows.append((name, f"{median(own):.2f}", f"{quotient:.2f}"))
    return markdown_table(("action", "seconds", f"× {UNIT}"), rows)


def main(arguments: list[str]) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=from_1_on, default=5, help="rounds after a warm-up")
    parser.add_argument("--write", metavar="DOCUMENT", help="also puts the table into a document, between its marks")
    options = parser.parse_args(arguments)
    table = as_table(time_actions(ACTIONS, options.repeats))
    show(f"{describe_device('cpu')}.\n\n{table}", options.write, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main))
