"""WavLM: wav2vec 2.0 with a gated relative position bias in its attention.

Chen et al., "WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing", 2021,
https://arxiv.org/abs/2110.13900
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, cast

import transformers

from brainplug.backbones.spec import Checkpoint
from brainplug.backbones.wav2vec2 import Wav2Vec2


class WavLM(Wav2Vec2):
    """A WavLM whose attention calls the modules of its projections, so that a method can replace them.

    Example
    -------
    >>> import torch
    >>> config = transformers.WavLMConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    ...     intermediate_size=16, conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    >>> tokens, mask = WavLM.from_config(config)(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> tuple(tokens.shape), mask.sum(1).tolist()
    ((2, 49, 16), [49, 24])
    """

    spec = dataclasses.replace(Wav2Vec2.spec, model_types=("wavlm",))
    checkpoints: ClassVar = {
        "wavlm": Checkpoint(
            "see its page",
            "clusters of masked frames in mixed and noisy speech; 960 h of LibriSpeech",
            "microsoft/wavlm-base",
            lambda: transformers.WavLMConfig(),
        )
    }

    def __init__(
        self,
        model: transformers.WavLMModel,
        name: str,
        revision: str,
        extractor: transformers.Wav2Vec2FeatureExtractor,
        frames: int | None = None,
        positions: str = "crop",
    ):
        from brainplug.backbones.wavlm_attention import ProjectingAttention

        super().__init__(model, name, revision, extractor)
        for layer in self.spec.layers_of(model):
            layer.attention = ProjectingAttention(cast(Any, layer.attention), model.config)
