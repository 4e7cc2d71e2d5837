#!/usr/bin/env python3
"""Loads adapters with faults: none may crash, run code, or compute something else than the good one.

python -m tests.soak.adapters --inputs=2000

The figures are written to docs/hostile_adapters.json and into docs/reliability.md.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import torch
from transformers import AutoModel

from tests.conftest import TINY_BACKBONES
from tests.hostile_adapters import attack_often
from tests.soak.figures import document, write_figures
from tests.unit.test_hostile_adapters import PAIRS, make_adapters


def make_backbones(folder: Path) -> dict[str, str]:
    """Small random backbones: name -> folder."""
    for name, _ in PAIRS:
        config, extractor = TINY_BACKBONES[name]
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder / name)
        extractor.save_pretrained(folder / name)
    return {name: str(folder / name) for name, _ in PAIRS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000)
    count = parser.parse_args().inputs
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.chdir(folder)  # where a command that ran would leave its file
        good = make_adapters(make_backbones(folder), folder / "good")
        begun = time.process_time()
        outcomes, faults = attack_often(good, folder / "scratch", range(count))
    ends: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for outcome, times in outcomes.items():
        change, _, end = outcome.partition(": ")
        ends[end] += times
        kinds[change] += times
    figures = {
        "inputs": count,
        "kinds": dict(sorted(kinds.items())),
        "outcomes": dict(sorted(ends.items())),
        "seconds_of_a_processor_each": round((time.process_time() - begun) / count, 3),
        "most_megabytes": psutil.Process().memory_info().rss // 10**6,
        "faults": faults,
    }
    write_figures("adapters", figures)
    document("adapters", figures)
    print(*faults, f"{len(faults)} faults in {count} inputs", sep="\n")


if __name__ == "__main__":
    main()
