"""Recordings that are also in a test set are found, before nano-ast hears them."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "pretrain_ast"))

import overlap  # noqa: E402


def test_a_recording_that_holds_a_test_clip_is_found_and_noise_is_not():
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(8000, generator=generator) for _ in range(5)]
    templates = torch.stack([overlap.loudest(clip) for clip in clips])
    recording = 0.3 * torch.randn(30000, generator=generator)
    unrelated, _ = overlap.best_match(recording, templates)
    recording[12345 : 12345 + 8000] += clips[3]
    correlation, number = overlap.best_match(recording, templates)
    assert number == 3
    assert unrelated < 0.2 < overlap.THRESHOLD < correlation
