"""AST: a transformer over patches of a log-mel spectrogram.

Gong, Chung, Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021, https://arxiv.org/abs/2104.01778
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
import transformers

from brainplug.backbones.base import Backbone
from brainplug.backbones.hub import load_model
from brainplug.backbones.positions import check_positions, resize_in_time
from brainplug.backbones.spec import BackboneSpec, Checkpoint
from brainplug.data.features import LogMel
from brainplug.data.front_ends import KaldiFrontEnd
from brainplug.data.shared_frames import Window
from brainplug.errors import ConfigError

SPECIAL_TOKENS = 2  # [CLS] and the distillation token, before the patches


class AudioSpectrogram(Backbone):
    """AST with positions for clips of a given length."""

    spec = BackboneSpec(
        model_types=("audio-spectrogram-transformer",),
        signal="log_mel",
        layers="layers",
        attention="attention",
        feed_forward="mlp",
        query="attention.q_proj",
        key="attention.k_proj",
        value="attention.v_proj",
        output="attention.o_proj",
        feed_forward_in="mlp.fc1",
        feed_forward_out="mlp.fc2",
        norms=("layernorm_before", "layernorm_after"),
        norm_before_attention="layernorm_before",
        norm_before_feed_forward="layernorm_after",
        final_norm="layernorm",
        special_tokens=SPECIAL_TOKENS,
    )
    extractor_name = "ASTFeatureExtractor"
    fitted = ("embeddings.position_embeddings",)
    old_names = (
        (r"encoder\.layer\.", "layers."),
        (r"attention\.attention\.(query|key|value)$", r"attention.\1"),
        (r"attention\.query$", "attention.q_proj"),
        (r"attention\.key$", "attention.k_proj"),
        (r"attention\.value$", "attention.v_proj"),
        (r"attention\.output\.dense$", "attention.o_proj"),
        (r"intermediate\.dense$", "mlp.fc1"),
        (r"output\.dense$", "mlp.fc2"),
    )
    checkpoints: ClassVar = {
        "nano-ast": Checkpoint(
            "Apache-2.0",
            "tags of spoken words, synthetic events and free recordings, from nothing; recipes/pretrain_ast",
        ),
        "ast": Checkpoint(
            "BSD-3-Clause",
            "tags of AudioSet, starting from a vision transformer of ImageNet",
            "MIT/ast-finetuned-audioset-10-10-0.4593",
            lambda: transformers.ASTConfig(),
        ),
    }

    def prepare(self, model: transformers.ASTModel, frames: int | None, positions: str) -> None:
        """Fits the position embeddings and the spectrogram to the length of clips."""
        self.frames = model.config.max_length if frames is None else frames
        resize_positions(model, self.frames, positions)
        self.extractor = extractor = copy.copy(self.extractor)
        extractor.max_length = self.frames
        # Without normalisation: (x - 0) / (2 * 0.5).
        self.mean: float = extractor.mean if extractor.do_normalize else 0.0
        self.std: float = extractor.std if extractor.do_normalize else 0.5
        self.log_mel = LogMel(extractor.num_mel_bins, self.frames, self.mean, self.std)

    @classmethod
    def load_model(cls, source: str, revision: str | None) -> transformers.ASTModel:
        """Loads an `ASTModel`."""
        return load_model(transformers.ASTModel, source, revision)

    @classmethod
    def new_model(cls, config: Any) -> transformers.ASTModel:
        """An `ASTModel` with random weights."""
        return transformers.ASTModel(config)

    @classmethod
    def new_extractor(cls, config: transformers.PreTrainedConfig) -> transformers.ASTFeatureExtractor:
        """Normalises with AudioSet's mean and standard deviation."""
        return transformers.ASTFeatureExtractor(num_mel_bins=config.num_mel_bins)

    @property
    def signal_settings(self) -> dict[str, Any]:
        """Size and normalisation of the spectrogram."""
        return {
            "signal": "log_mel", "mel_bands": self.extractor.num_mel_bins, "frames": self.frames,
            "mean": self.mean, "deviation": self.std,
        }  # fmt: skip

    def extract(self, waveform: torch.Tensor) -> torch.Tensor:
        """Log-mels ``[frames, mel_bands]``, padded or cut, and normalised."""
        return self.log_mel.extract(waveform)

    def extract_windows(self, windows: Iterable[Window]) -> Iterator[Window]:
        """The same for windows of a recording; log-mels that they share are computed once."""
        return self.log_mel.extract_windows(windows)

    def extract_batch(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The same for a batch, on its device: ``[batch, frames, mel_bands]``."""
        return self.log_mel.extract_batch(waveforms, lengths)

    def front_end(self) -> KaldiFrontEnd:
        """Computes the log-mels."""
        return KaldiFrontEnd(self.log_mel)

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Tokens ``[batch, 2 + patches, dim]``. All clips have the same length, so nothing is masked."""
        return self.model(signal).last_hidden_state, None


def resize_positions(model: transformers.ASTModel, frames: int, mode: str) -> None:
    """Fits the position embeddings to clips of another length, in place; the configuration follows.

    The table is ``[1, 2 + bands * times, dim]``: within each band, patches are in order of time. The mode is that of
    `resize_in_time`; ``zero`` and ``published`` set the positions of the special tokens to zero too.
    """
    config: Any = model.config
    check_positions(mode)
    if frames < config.patch_size:
        raise ConfigError(
            f"Clips of {frames} frames were asked for.",
            f"One patch of {config._name_or_path or 'this AST'} is {config.patch_size} frames long.",
            f"Write --frames={config.patch_size} or more",
        )
    table = model.embeddings.position_embeddings.detach()
    bands, times = model.embeddings.get_shape(config)
    new_times = (frames - config.patch_size) // config.time_stride + 1
    config.max_length = frames
    if new_times == times and mode != "zero":
        return
    special, patches = table[:, :SPECIAL_TOKENS], table[0, SPECIAL_TOKENS:]
    patches = resize_in_time(patches.view(bands, times, -1), new_times, mode)
    if mode in ("zero", "published"):
        special = torch.zeros_like(special)
    resized = torch.cat([special, patches.reshape(1, bands * new_times, -1)], dim=1)
    model.embeddings.position_embeddings = torch.nn.Parameter(resized)
