"""Filters with which a small model's first convolution starts, so that training need not learn a spectrum first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import transformers

from brainplug.backbones.spec import find_module

PHASES = 4  # of each band: rectified and added, they give its amplitude, independent of the phase
LOWEST, HIGHEST = 60.0, 7600.0  # Hz, the centres of the first and the last band
SAMPLE_RATE = 16000
PREEMPHASIS = 0.97  # as before MFCC: high bands of speech are quieter
SHARPNESS = 4.0  # factor after the first norm; a GELU rectifies values that are not much smaller than 1


def mel_filters(bands: int, length: int) -> torch.Tensor:
    """Short waves under a Hann window, their frequencies equally spaced in mel, higher ones louder (pre-emphasis).

    Returns ``[4 * bands, length]``, `length` in samples: all bands at phase 0, then a quarter of a wave later, and so
    on.
    """
    from transformers.audio_utils import hertz_to_mel, mel_to_hertz

    mels = np.linspace(hertz_to_mel(LOWEST), hertz_to_mel(HIGHEST), bands)
    frequencies = torch.from_numpy(mel_to_hertz(mels)).float()  # Hz, [bands]
    seconds = (torch.arange(length) - (length - 1) / 2) / SAMPLE_RATE
    angles = 2 * math.pi * frequencies[:, None] * seconds  # [bands, length]
    shifts = 2 * math.pi * torch.arange(PHASES) / PHASES
    waves = torch.cos(angles - shifts[:, None, None]) * torch.hann_window(length, periodic=False)
    gains = (1 - PREEMPHASIS * torch.exp(-2j * math.pi * frequencies / SAMPLE_RATE)).abs()  # [bands]
    return (gains[:, None] * waves / waves.norm(dim=2, keepdim=True)).flatten(0, 1)


@torch.no_grad()
def begin_with_mel_filters(model: transformers.PreTrainedModel) -> None:
    """Puts `mel_filters` into the first convolution, if the configuration has ``mel_filters: True``.

    The model is of the wav2vec 2.0 family, with a layer norm after each convolution.
    """
    if not getattr(model.config, "mel_filters", False):
        return
    first: Any = find_module(model, "feature_extractor.conv_layers.0")
    weight = first.conv.weight  # [channels, 1, length]
    with torch.device("cpu"):  # also where the model has shapes without values
        filters = mel_filters(weight.shape[0] // PHASES, weight.shape[2])
    weight.copy_(filters[:, None])
    first.layer_norm.weight.fill_(SHARPNESS)
