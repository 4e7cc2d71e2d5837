"""How fast a long recording is classified in windows, and how much memory that takes.

The recording is noise in stereo at 44.1 kHz, in a FLAC file. Windows that are read one after the other and classified
in batches take turns with the same windows as parts of the file, each read and classified alone; the median of the
quotients is shown, after a round that does not count. Memory is the most that a new process held, for a recording and
for one that is eight times as long.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from benchmarks.measure import describe_device, from_1_on, show
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


def seconds_of(results: Iterable[object]) -> float:
    """The time until all results are there."""
    start = time.perf_counter()
    for _ in results:
        pass
    return time.perf_counter() - start


def most_memory(run: str, path: str, windows: Windows, batch: int) -> int:
    """The most bytes that a new process holds that classifies a recording."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_most_memory, run, path, windows, batch).result()


def _most_memory(run: str, path: str, windows: Windows, batch: int) -> int:
    for _ in Classifier.from_run(run).classify_files([path], batch, windows=windows):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(run: str, minutes: int, windows: Windows, batch: int, repeats: int) -> str:
    """Measures both ways; returns a table."""
    classifier = Classifier.from_run(run)
    with tempfile.TemporaryDirectory() as folder:
        short, long = f"{folder}/short.flac", f"{folder}/long.flac"
        write_recording(short, 60 * minutes)
        write_recording(long, 60 * minutes * LONGER)
        rounds = []
        for _ in tqdm(range(1 + repeats), desc="Classifying"):
            batched = seconds_of(classifier.classify_files([short], batch, windows=windows))
            rounds.append((batched, seconds_of(one_by_one(classifier, short, windows))))
        memory = [most_memory(run, path, windows, batch) for path in (short, long)]
    quotient = statistics.median(alone / batched for batched, alone in rounds[1:])
    seconds = [statistics.median(times) for times in zip(*rounds[1:], strict=True)]
    rows = [
        [name, f"{minutes / taken:.2f}", f"{share:.2f}"]
        for name, taken, share in (
            (f"windows, in batches of {batch}", seconds[0], 1.0),
            ("each window as a clip of its own", seconds[1], quotient),
        )
    ]
    description = classifier.description
    return "\n".join(
        [
            f"{description.method} on {description.backbone}, {minutes} minutes, windows of {windows.length:g} s every "
            f"{windows.hop:g} s, {describe_device('cpu')}.",
            "",
            markdown_table(["", "hours a minute", "time"], rows),
            "",
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
