"""How many clips a service classifies in a second, and how long each waits, with batches and without.

An adapter with random weights is saved, and served by a process on the loopback address. Clients send clips of
noise, each its next one when the last is answered, until as many were sent as asked for. The table shows

- clips a second, from the first request to the last answer;
- the 50th and the 99th percentile of the time from a request to its answer;
- ratio: the clips a second over those of the service that computes clip by clip, in the same run.
"""

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import httpx
import numpy as np
import soundfile
import torch
from tqdm import tqdm

from benchmarks.measure import describe_device, from_1_on, show
from benchmarks.serving import Setting, save_random_adapter
from brainplug.errors import run_command
from brainplug.results.documents import table_marks
from brainplug.results.tables import markdown_table

REPOSITORY = Path(__file__).parents[1]
MARKS = table_marks("service", "python -m benchmarks.service")
COLUMNS = ("batches of up to", "clients", "clips a second", "50 %, ms", "99 %, ms", "ratio")
RATE = 16000  # Hz


@contextmanager
def serving(folder: Path, batch: int, device: str, clients: int) -> Iterator[str]:
    """Runs a service of one adapter; yields its address."""
    command = [sys.executable, "-m", "brainplug", "serve", f"adapter={folder}", "--port=0", f"--device={device}"]
    command += [f"--batch_size={batch}", f"--queue={2 * clients}"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            announced = re.search(r"http://\S+", process.stdout.readline() if process.stdout else "")
            if announced is None:
                raise RuntimeError("the service did not start")
            yield announced[0]
        finally:
            process.terminate()


def clip_of_noise(seconds: float) -> bytes:
    """A WAV file."""
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE)), RATE, format="WAV")
    return file.getvalue()


def times_of(address: str, clip: bytes, count: int, clients: int) -> tuple[float, list[float]]:
    """Sends clips; returns the seconds of all together, and of each."""

    def send(number: int) -> float:
        start = time.perf_counter()
        files = {"file": ("noise.wav", clip)}
        client.post(f"{address}/classify", files=files, data={"adapters": "adapter"}).raise_for_status()
        return time.perf_counter() - start

    limits = httpx.Limits(max_connections=clients)
    with httpx.Client(timeout=100, limits=limits) as client, ThreadPoolExecutor(clients) as threads:
        for number in range(3):
            send(number)  # the first ones load what is loaded late
        start = time.perf_counter()
        latencies = list(tqdm(threads.map(send, range(count)), "Sending clips", count))
        return time.perf_counter() - start, latencies


def compare(folder: Path, batches: Sequence[int], options: argparse.Namespace) -> str:
    """Measures services that differ in the size of their batches; returns a table."""
    clip, rates, rows = clip_of_noise(options.seconds), [], []
    for batch in batches:
        with serving(folder, batch, options.device, options.clients) as address:
            seconds, latencies = times_of(address, clip, options.clips, options.clients)
        rates.append(options.clips / seconds)
        half, most = (f"{1000 * value:.0f}" for value in np.percentile(latencies, [50, 99]))
        rows.append([str(batch), str(options.clients), f"{rates[-1]:.1f}", half, most, f"{rates[-1] / rates[0]:.2f}"])
    described = f"{options.method} on {options.backbone}, {options.clips} clips of {options.seconds:g} s"
    return f"{described}, {describe_device(options.device)}.\n\n{markdown_table(COLUMNS, rows)}"


def main(arguments: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="nano-ast")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--frames", type=from_1_on, default=100, help="of a clip, 10 ms each")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a clip")
    parser.add_argument("--clips", type=from_1_on, default=400)
    parser.add_argument("--clients", type=from_1_on, default=16, help="that send at the same time")
    parser.add_argument("--batch", type=from_1_on, default=16, help="the most clips of a batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", metavar="FILE", help="write the table into this document")
    chosen = parser.parse_args(arguments)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        setting = Setting(chosen.backbone, chosen.backbone, chosen.frames, 1, "cpu", "fp32")
        save_random_adapter(Path(folder), setting, chosen.method)
        table = compare(Path(folder), [1, chosen.batch], chosen)
    show(table, chosen.write, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main))
