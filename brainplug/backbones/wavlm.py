"""WavLM: wav2vec 2.0 with a gated relative position bias in its attention.

Chen et al., "WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing", 2021,
https://arxiv.org/abs/2110.13900
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import transformers

from brainplug.backbones.spec import Checkpoint
from brainplug.backbones.wav2vec2 import Wav2Vec2


class WavLM(Wav2Vec2):
    """A WavLM whose attention calls the modules of its projections, so that a method can replace them."""

    spec = dataclasses.replace(Wav2Vec2.spec, model_types=("wavlm",))
    works_with_peft = False  # its attention there reads the weights of its projections, past what peft adds
    checkpoints: ClassVar = {
        "wavlm": Checkpoint(
            "see its page",
            "clusters of masked frames in mixed and noisy speech; 960 h of LibriSpeech",
            "microsoft/wavlm-base",
            lambda: transformers.WavLMConfig(),
        )
    }

    def prepare(self, model: Any, frames: int | None, positions: str) -> None:
        """Replaces each attention too."""
        from brainplug.backbones.wavlm_attention import ProjectingAttention

        super().prepare(model, frames, positions)
        layers: Any = self.spec.layers_of(model)
        for layer in layers:
            layer.attention = ProjectingAttention(layer.attention, model.config)
