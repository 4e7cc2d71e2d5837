"""Echo's encoder as a backbone: a transformer over a log-mel spectrogram of any length."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from brainplug.backbones.base import Backbone
from brainplug.backbones.hub import fetch_config, load_model
from brainplug.backbones.spec import BackboneSpec, TokenMask

if TYPE_CHECKING:  # the model's classes are imported when one is made
    from brainplug.backbones.echo import EchoConfig
    from brainplug.backbones.echo.encoder import EchoEncoder

SHORTEST = 400  # samples: one window of the spectrogram
FRAMES_PER_TOKEN = 2


class EchoBackbone(Backbone):
    """The encoder of an Echo; clips may have any length that it has positions for."""

    spec = BackboneSpec(
        model_types=("echo",),
        signal="log_mel",
        layers="layers",
        attention="attention",
        feed_forward="feed_forward",
        query="attention.q_proj",
        key="attention.k_proj",
        value="attention.v_proj",
        output="attention.out_proj",
        feed_forward_in="feed_forward.linear_in",
        feed_forward_out="feed_forward.linear_out",
        norms=("attention_norm", "feed_forward_norm"),
        norm_before_attention="attention_norm",
        norm_before_feed_forward="feed_forward_norm",
        final_norm="norm",
    )
    extractor_name = "WhisperFeatureExtractor"
    works_with_peft = False  # it is not in transformers

    def prepare(self, model: Any, frames: int | None, positions: str) -> None:
        """Leaves it to the run whether activations are recomputed; clips may have any length."""
        self.spec, self.max_tokens = dataclasses.replace(self.spec, token_mask=TokenMask()), model.config.n_audio_ctx
        for layer in model.layers:
            layer.gradient_checkpointing = False

    @classmethod
    def read_config(cls, folder: Path) -> EchoConfig:
        """Reads a config.json of an Echo."""
        from brainplug.backbones.echo import EchoConfig

        return EchoConfig.from_pretrained(folder)

    @classmethod
    def load_model(cls, source: str, revision: str | None) -> EchoEncoder:
        """Loads the encoder of a whole Echo, or one that was saved alone."""
        from brainplug.backbones.echo import Echo
        from brainplug.backbones.echo.encoder import EchoEncoder

        architectures = fetch_config(source, revision).get("architectures") or []
        if EchoEncoder.__name__ in architectures:
            return load_model(EchoEncoder, source, revision)
        return load_model(Echo, source, revision).encoder

    @classmethod
    def new_model(cls, config: Any) -> EchoEncoder:
        """An encoder with random weights."""
        from brainplug.backbones.echo.encoder import EchoEncoder

        return EchoEncoder(config)

    @classmethod
    def new_extractor(cls, config: transformers.PreTrainedConfig) -> transformers.WhisperFeatureExtractor:
        """Makes as many mel bands as the model takes."""
        return transformers.WhisperFeatureExtractor(config.n_mels)

    @property
    def signal_settings(self) -> dict[str, Any]:
        """How the spectrogram is made."""
        extractor = self.extractor
        return {
            "signal": "log_mel", "kind": "echo", "mel_bands": extractor.feature_size, "window": extractor.n_fft,
            "shift": extractor.hop_length, "dither": extractor.dither,
        }  # fmt: skip

    def extract(self, waveform: torch.Tensor) -> torch.Tensor:
        """Log-mels ``[frames, mel_bands]`` of the whole clip, normalised by its loudest point."""
        waveform = torch.nn.functional.pad(waveform, (0, max(0, SHORTEST - len(waveform))))
        features = self.extractor(waveform.numpy(), sampling_rate=self.sample_rate, padding=False, truncation=False)
        return torch.as_tensor(features.input_features[0]).T.contiguous()

    def count_tokens(self, samples: int) -> int:
        """One token for each 20 ms."""
        frames = max(samples, SHORTEST) // self.extractor.hop_length
        return -(-frames // FRAMES_PER_TOKEN)

    def present(self, signal: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The mask ``[batch, frames]`` of frames that are not padding, for the arguments of `forward`."""
        frames = (lengths * signal.shape[1]).round()
        return torch.arange(signal.shape[1], device=signal.device) < frames[:, None]

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``[batch, frames / 2, dim]``, one for each 20 ms, and the mask of those that are not padding."""
        present = self.present(signal, lengths)
        self.spec.token_mask.tokens = mask = present[:, ::FRAMES_PER_TOKEN]
        return self.model(signal, present).last_hidden_state, mask
