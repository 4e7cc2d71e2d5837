#!/usr/bin/env python3
"""Finds recordings that are also in a test set, by the correlation of their waveforms.

    python recipes/pretrain_ast/overlap.py TEST_FOLDER --recordings_folder=/

Game packages and test sets often take sounds from the same archives, and a backbone must not be tested on clips of its
training. The printed files belong into `leave_out` in `brainplug/synthetic/sound/packages.yaml`.
"""

import argparse
import sys
from pathlib import Path

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import numpy as np
import torch
from tqdm import tqdm

from brainplug.synthetic.sound.recordings import (
    AUDIO_SUFFIXES,
    MOST_PIECES,
    SECONDS,
    find_recordings,
    known_packages,
    label_recordings,
    read_recording,
)

SAMPLE_RATE = 8000  # Hz, enough to tell recordings apart
TEMPLATE = 4000  # samples of a template, the loudest half second of a test clip
THRESHOLD = 0.8  # unrelated noise-like clips reach 0.55
CLIPS_AT_ONCE = 50


def read(path: Path) -> torch.Tensor:
    """The part of a recording that the corpus uses, ``[time]`` at 8 kHz; empty where it is unreadable."""
    return read_recording(str(path), seconds=MOST_PIECES * SECONDS, rate=SAMPLE_RATE)


def loudest(waveform: torch.Tensor) -> torch.Tensor:
    """The loudest half second of a clip ``[time]``: a template ``[TEMPLATE]`` of mean 0 and unit length."""
    waveform = torch.nn.functional.pad(waveform, (0, max(0, TEMPLATE - len(waveform))))
    power = torch.nn.functional.avg_pool1d(waveform.square()[None], TEMPLATE, 100)[0]
    start = int(power.argmax()) * 100
    template = waveform[start : start + TEMPLATE]
    template = template - template.mean()
    return template / template.norm().clamp(min=1e-6)


def best_match(recording: torch.Tensor, templates: torch.Tensor) -> tuple[float, int]:
    """Finds the template that matches a recording best, at any lag.

    Arguments
    ---------
    recording, templates : torch.Tensor
        ``[time]`` and ``[clips, TEMPLATE]``.

    Returns
    -------
    tuple[float, int]
        The highest normalised cross-correlation, 0 to 1, and the template's number.
    """
    size = 2 ** int(np.ceil(np.log2(len(recording) + TEMPLATE)))
    padded = torch.nn.functional.pad(recording, (0, size - len(recording)))
    power = torch.cumsum(torch.nn.functional.pad(padded.double().square(), (1, TEMPLATE)), 0)
    scale = (power[TEMPLATE:-1] - power[: -TEMPLATE - 1]).clamp(min=1e-4).sqrt().float()  # of each lag's window
    spectrum = torch.fft.rfft(padded)
    peaks = []
    for batch in templates.split(CLIPS_AT_ONCE):
        correlation = torch.fft.irfft(spectrum * torch.fft.rfft(batch, size).conj(), size)
        peaks.append((correlation[:, : len(recording)] / scale[: len(recording)]).abs().amax(1))
    value, number = torch.cat(peaks).max(0)
    return float(value), int(number)


def main(arguments: list[str]) -> None:
    """Compares every recording but speech with every clip of a folder, and prints those that match."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("test_folder")
    parser.add_argument("--recordings_folder", default="/")
    options = parser.parse_args(arguments)
    clips = sorted(path for path in Path(options.test_folder).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    templates = torch.stack([loudest(read(path)) for path in tqdm(clips, desc="test clips")])
    files, _ = find_recordings(options.recordings_folder, known_packages())
    files = [path for path, labels in label_recordings(files).items() if "speech" not in labels]
    for path in tqdm(files, desc="recordings"):
        recording = read(path)
        correlation, number = best_match(recording, templates) if len(recording) else (0.0, 0)
        if correlation > THRESHOLD:
            tqdm.write(f"{correlation:.2f} {path} is {clips[number].name}")


if __name__ == "__main__":
    main(sys.argv[1:])
