"""How fast a long recording is classified in windows, and how much memory that takes.

The recording is noise in stereo at 44.1 kHz, in a FLAC file. Windows that are read one after the other and classified
in batches take turns with the same windows without shared frames, and with the same windows as parts of the file, each
read and classified alone. The backbone's signals take turns in the same way, without reading and model. The medians of
the quotients are shown, after a round that does not count. Memory is the most that a new process held, for a recording
and for one that is eight times as long.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from unittest.mock import patch

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from benchmarks.measure import describe_device, from_1_on, show
from brainplug.backbones.base import Backbone
from brainplug.data.manifest import Clip
from brainplug.data.windows import Windows, read_windows
from brainplug.errors import run_command
from brainplug.inference import Classifier
from brainplug.results.documents import table_marks
from brainplug.results.tables import markdown_table

MARKS = table_marks("recordings", "python -m benchmarks.recordings RUN")
RATE = 44100  # Hz
LONGER = 8


def write_recording(path: str, seconds: int) -> None:
    """Writes noise, second by second."""
    draw = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 2) as file:
        for _ in range(seconds):
            file.write(draw.uniform(-0.1, 0.1, (RATE, 2)))


def one_by_one(classifier: Classifier, path: str, windows: Windows) -> Iterator[object]:
    """Classifies each window as a clip of its own."""
    for clip in [clip for clip, _ in read_windows(Clip("", path, ""), windows)]:
        yield classifier.classify_file(clip)


def each_anew(classifier: Classifier, path: str, windows: Windows, batch: int) -> Iterator[object]:
    """Classifies windows in batches, and computes the signal of each anew."""
    backbone = classifier.model.backbone
    with patch.object(backbone, "extract_windows", partial(Backbone.extract_windows, backbone)):
        yield from classifier.classify_files([path], batch, windows=windows)


def seconds_of(results: Iterable[object]) -> float:
    """The time until all results are there."""
    start = time.perf_counter()
    for _ in results:
        pass
    return time.perf_counter() - start


def quotients(rounds: Iterable[Sequence[float]]) -> list[float]:
    """The medians of all ways' times, as multiples of the first way's time in the same round.

    Example
    -------
    >>> quotients([(1.0, 2.0), (2.0, 6.0)])
    [1.0, 2.5]
    """
    return [statistics.median(column) for column in zip(*([t / row[0] for t in row] for row in rounds), strict=True)]


def most_memory(run: str, path: str, windows: Windows, batch: int) -> int:
    """The most bytes that a new process holds that classifies a recording."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_most_memory, run, path, windows, batch).result()


def _most_memory(run: str, path: str, windows: Windows, batch: int) -> int:
    for _ in Classifier.from_run(run).classify_files([path], batch, windows=windows):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare_ways(classifier: Classifier, path: str, windows: Windows, batch: int, repeats: int) -> list[list[float]]:
    """The seconds of each way to classify a recording, for each round but the first."""
    rounds = [
        [
            seconds_of(classifier.classify_files([path], batch, windows=windows)),
            seconds_of(each_anew(classifier, path, windows, batch)),
            seconds_of(one_by_one(classifier, path, windows)),
        ]
        for _ in tqdm(range(1 + repeats), desc="Classifying")
    ]
    return rounds[1:]


def compare_signals(backbone: Backbone, path: str, windows: Windows, repeats: int) -> list[list[float]]:
    """The seconds of a recording's signals, with shared frames and without, for each round but the first."""
    read = list(read_windows(Clip("", path, ""), windows))
    ways = (backbone.extract_windows, partial(Backbone.extract_windows, backbone))
    rounds = [[seconds_of(way(read)) for way in ways] for _ in range(1 + repeats)]
    return rounds[1:]


def compare(run: str, minutes: int, windows: Windows, batch: int, repeats: int) -> str:
    """Measures all ways; returns a table."""
    classifier = Classifier.from_run(run)
    with tempfile.TemporaryDirectory() as folder:
        short, long = f"{folder}/short.flac", f"{folder}/long.flac"
        write_recording(short, 60 * minutes)
        write_recording(long, 60 * minutes * LONGER)
        rounds = compare_ways(classifier, short, windows, batch, repeats)
        signals = quotients(compare_signals(classifier.model.backbone, short, windows, repeats))
        memory = [most_memory(run, path, windows, batch) for path in (short, long)]
    names = (
        f"windows, in batches of {batch}",
        "the same, the signal of each window computed anew",
        "each window as a clip of its own",
    )
    seconds = [statistics.median(times) for times in zip(*rounds, strict=True)]
    rows = [
        [name, f"{minutes / taken:.2f}", f"{quotient:.2f}"]
        for name, taken, quotient in zip(names, seconds, quotients(rounds), strict=True)
    ]
    description = classifier.description
    return "\n".join(
        [
            f"{description.method} on {description.backbone}, {minutes} minutes, windows of {windows.length:g} s every "
            f"{windows.hop:g} s, {describe_device('cpu')}.",
            "",
            markdown_table(["", "hours a minute", "time"], rows),
            "",
            f"The signals alone take {signals[1]:.2f} times as long where each window's is computed anew.",
            f"A recording {LONGER} times as long takes {memory[1] / memory[0]:.3f} times the memory.",
        ]
    )


def main(arguments: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the output folder of a finished run of classification")
    parser.add_argument("--minutes", type=from_1_on, default=3)
    parser.add_argument("--window", type=float, default=1.0)
    parser.add_argument("--hop", type=float, default=0.5)
    parser.add_argument("--batch", type=from_1_on, default=32)
    parser.add_argument("--repeats", type=from_1_on, default=3, help="rounds after a warm-up")
    parser.add_argument("--write", metavar="DOCUMENT", help="also puts the table into a document, between its marks")
    chosen = parser.parse_args(arguments)
    torch.set_grad_enabled(False)
    windows = Windows(chosen.window, chosen.hop)
    show(compare(chosen.run, chosen.minutes, windows, chosen.batch, chosen.repeats), chosen.write, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main))
