"""What reading costs: the memory of a large manifest, and the time of the second epoch against the first one.

Memory is that of a run's process, and what two workers do not share with it, near the end of an epoch through the
manifest; the same with ten rows is the empty run. No audio is decoded for it.

Time is the processor's, for an epoch over made WAV files of 44.1 kHz and stereo, read in one process with nothing
behind the loader that would train. Each round has a cache of its own; the median of the rounds after the first one is
shown. The files have just been written, so they come from memory: a disk would make the first epoch slower still.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import numpy as np
import psutil
import soundfile
import torch
from speechbrain.dataio.dataloader import make_dataloader
from tqdm import tqdm

from benchmarks.measure import describe_device, from_1_on, show
from brainplug.backbones import Backbone, known_config, random_backbone
from brainplug.data.manifest import Clip, label_map, read_manifest, write_manifest
from brainplug.data.pipeline import make_datasets, make_reader
from brainplug.errors import run_command
from brainplug.results.documents import table_marks
from brainplug.results.tables import markdown_table

MARKS = table_marks("reading", "python -m benchmarks.data")
FEW = 10  # rows of the empty run
WORKERS = 2
BATCH = 100
FILE_RATE = 44100  # Hz
CLIP_SECONDS = 5


def made_clips(count: int) -> list[Clip]:
    """Rows as of a corpus of speech; there are no such files.

    Arguments
    ---------
    count : int
        Number of rows.

    Returns
    -------
    list[Clip]
        All of the training split.
    """
    names = [(f"speaker-{number % 97:02d}", f"recording-{number:06d}") for number in range(count)]
    return [
        Clip(f"{speaker}-{name}", f"/data/corpus/audio/{speaker}/{name}.wav", "dog", "train", 1, speaker, 0.0, 1.0, 1.0)
        for speaker, name in names
    ]


def memory_of_an_epoch(rows: int) -> int:
    """Measures an epoch through a manifest, in a new process.

    Arguments
    ---------
    rows : int
        Of the manifest.

    Returns
    -------
    int
        Bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(made_clips(rows), f"{folder}/manifest.csv")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_memory, f"{folder}/manifest.csv").result()


def _memory(manifest: str) -> int:
    clips = read_manifest(manifest)
    train = make_datasets(clips, label_map(clips), _no_audio)["train"]
    batches = iter(make_dataloader(train, batch_size=BATCH, num_workers=WORKERS, multiprocessing_context="fork"))
    for _ in range(max(1, len(batches) - 4 * WORKERS)):  # then the workers still live
        next(batches)
    process = psutil.Process()
    return process.memory_info().rss + sum(worker.memory_full_info().uss for worker in process.children())


def _no_audio(clip: Clip) -> torch.Tensor:
    return torch.zeros(1)


def seconds_of_two_epochs(clips: list[Clip], backbone: Backbone, cache_folder: str | None) -> tuple[float, float]:
    """Reads all clips twice.

    Arguments
    ---------
    clips : list[Clip]
        Of one class and split.
    backbone : Backbone
        Whose signals are made.
    cache_folder : str, optional
        An empty folder; None: nothing is kept.

    Returns
    -------
    tuple[float, float]
        Seconds of the first epoch, and of the second.
    """
    reader = make_reader(backbone.extract, backbone.signal_settings, backbone.sample_rate, cache_folder)
    loader = make_dataloader(make_datasets(clips, label_map(clips), reader)["train"], batch_size=BATCH)
    return _seconds(lambda: list(loader)), _seconds(lambda: list(loader))


def _seconds(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def make_files(folder: str, count: int) -> list[Clip]:
    """Writes clips of noise.

    Arguments
    ---------
    folder : str
        Where they go.
    count : int
        Number of files.

    Returns
    -------
    list[Clip]
        One a file.
    """
    random = np.random.default_rng(0)
    clips = [Clip(f"{number}", f"{folder}/{number}.wav", "noise", "train") for number in range(count)]
    for clip in clips:
        soundfile.write(clip.path, random.uniform(-0.5, 0.5, (FILE_RATE * CLIP_SECONDS, 2)), FILE_RATE)
    return clips


def compare_epochs(backbones: list[str], n_clips: int, repeats: int) -> str:
    """Measures two epochs with each backbone's signal, without the cache and with it.

    Arguments
    ---------
    backbones : list[str]
        Names; their weights play no part.
    n_clips : int
        Number of files.
    repeats : int
        Rounds that count.

    Returns
    -------
    str
        A Markdown table with two rows a backbone.
    """
    rows = []
    with torch.device("meta"):  # without memory, and at once
        readers = [random_backbone(known_config(name), frames=100 * CLIP_SECONDS) for name in backbones]
    with tempfile.TemporaryDirectory() as folder:
        clips = make_files(folder, n_clips)
        for name, backbone in zip(backbones, readers, strict=True):
            rounds = [_round(clips, backbone) for _ in tqdm(range(1 + repeats), desc=name, dynamic_ncols=True)]
            for remaining, epochs in zip(("no", "yes"), zip(*rounds[1:], strict=True), strict=True):
                first, second = (statistics.median(seconds) / n_clips for seconds in zip(*epochs, strict=True))
                quotient = statistics.median(second / first for first, second in epochs)
                row = f"{1000 * first:.2f}", f"{1000 * second:.2f}", f"{quotient:.3f}"
                rows.append((f"{backbone.spec.signal} ({name})", remaining, *row))
    columns = ("signal", "cached", "first epoch (ms a clip)", "second epoch (ms a clip)", "second / first")
    return markdown_table(columns, rows)


def _round(clips: list[Clip], backbone: Backbone) -> tuple[tuple[float, float], tuple[float, float]]:
    """Two epochs without the cache, and two with it."""
    with tempfile.TemporaryDirectory() as folder:
        return seconds_of_two_epochs(clips, backbone, None), seconds_of_two_epochs(clips, backbone, folder)


def describe_memory(rows: int) -> str:
    """Compares a large manifest with the empty run.

    Arguments
    ---------
    rows : int
        Of the manifest.

    Returns
    -------
    str
        A sentence.
    """
    few, many = memory_of_an_epoch(FEW), memory_of_an_epoch(rows)
    return (
        f"A manifest of {rows:,} rows, read by a process with {WORKERS} workers, takes {(many - few) / 1e6:.0f} MB "
        f"over the {few / 1e6:.0f} MB of the empty run."
    )


def main(arguments: list[str]) -> None:
    """Reads the command line, measures and prints.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=from_1_on, default=100_000, help="of the manifest")
    parser.add_argument("--backbones", default="ast,whisper,wav2vec2", help="whose signals are made")
    parser.add_argument("--clips", type=from_1_on, default=100, help=f"files of {CLIP_SECONDS} s")
    parser.add_argument("--repeats", type=from_1_on, default=5, help="rounds that count")
    parser.add_argument("--threads", type=from_1_on, default=torch.get_num_threads())
    parser.add_argument("--write", metavar="DOCUMENT", help="also puts all into a document, between marks")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    memory = describe_memory(chosen.rows)
    table = compare_epochs(chosen.backbones.split(","), chosen.clips, chosen.repeats)
    setting = f"{chosen.clips} clips of {CLIP_SECONDS} s, {describe_device('cpu')}"
    show(f"{memory}\n\n{setting}.\n\n{table}", chosen.write, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main))
