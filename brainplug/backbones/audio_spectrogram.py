"""AST: a transformer over patches of a log-mel spectrogram.

Gong, Chung, Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021, https://arxiv.org/abs/2104.01778
"""

import copy
from typing import ClassVar

import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

from brainplug.backbones.base import Backbone, weights_revision
from brainplug.backbones.loading import load_pretrained
from brainplug.backbones.positions import check_positions, resize_in_time
from brainplug.backbones.spec import BackboneSpec
from brainplug.data.features import LogMel
from brainplug.errors import UsageError

SPECIAL_TOKENS = 2  # [CLS] and the distillation token stand before the patches


class AudioSpectrogram(Backbone):
    """AST with positions for clips of a given length.

    Arguments
    ---------
    model : ASTModel
        The transformer; its position table fits `log_mel.frames`.
    name, revision : str
        As in `Backbone`.
    log_mel : LogMel
        Makes the input.

    Example
    -------
    >>> from transformers import ASTConfig
    >>> model = ASTModel(ASTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
    >>> resize_positions(model, frames=100, mode="crop")
    >>> backbone = AudioSpectrogram(model, "toy", "none", LogMel(mel_bands=128, frames=100))
    >>> tokens, mask = backbone(backbone.extract(torch.randn(16000))[None], torch.ones(1))
    >>> tuple(tokens.shape)  # 2 special tokens, 12 bands of 9 patches
    (1, 110, 8)
    """

    spec: ClassVar = BackboneSpec(
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

    extractor_class: ClassVar = ASTFeatureExtractor

    def __init__(self, model: ASTModel, name: str, revision: str, log_mel: LogMel):
        super().__init__(model, name, revision)
        self.log_mel = log_mel

    @classmethod
    def load(cls, source: str, name: str, revision: str | None, **settings: object) -> "AudioSpectrogram":
        """Loads an AST for clips of `frames` frames of 10 ms; see `resize_positions` for `positions`."""
        model = load_pretrained(ASTModel, source, revision)
        extractor = load_pretrained(cls.extractor_class, source, revision)
        commit = getattr(model.config, "_commit_hash", None)
        return cls._fit(model, extractor, name, weights_revision(source, commit), **settings)

    @classmethod
    def from_config(
        cls, config: ASTConfig, name: str = "random", extractor: ASTFeatureExtractor | None = None, **settings: object
    ) -> "AudioSpectrogram":
        """Builds an AST; its input is normalised with AudioSet's mean and deviation, unless an extractor has others."""
        model = ASTModel(copy.deepcopy(config)).eval()
        extractor = extractor or ASTFeatureExtractor(num_mel_bins=config.num_mel_bins)
        return cls._fit(model, extractor, name, "random", **settings)

    @classmethod
    def _fit(
        cls,
        model: ASTModel,
        extractor: ASTFeatureExtractor,
        name: str,
        revision: str,
        frames: int | None = None,
        positions: str = "crop",
    ) -> "AudioSpectrogram":
        """Fits a model to clips of `frames` frames; as many as its table is for, without."""
        frames = frames or model.config.max_length
        resize_positions(model, frames, positions)
        mean, deviation = (extractor.mean, extractor.std) if extractor.do_normalize else (0.0, 0.5)  # (x - 0) / 2 / 0.5
        return cls(model, name, revision, LogMel(extractor.num_mel_bins, frames, mean, deviation))

    @property
    def signal_settings(self) -> dict:
        """Size and normalisation of the spectrogram."""
        settings = self.log_mel
        return {
            "signal": "log_mel", "mel_bands": settings.mel_bands, "frames": settings.frames,
            "mean": settings.mean, "deviation": settings.deviation,
        }  # fmt: skip

    def extract(self, waveform: torch.Tensor) -> torch.Tensor:
        """Log-mels ``[frames, mel_bands]``, padded or cut and normalised as AST wants them."""
        return self.log_mel.extract(waveform)

    def extract_batch(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The same of a padded batch ``[batch, samples]``, on its device: ``[batch, frames, mel_bands]``."""
        return self.log_mel.extract_batch(waveforms, lengths)

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Tokens ``[batch, 2 + patches, dim]``. Every clip has the same length, so nothing is masked."""
        return self.model(signal).last_hidden_state, None


def resize_positions(model: ASTModel, frames: int, mode: str) -> None:
    """Fits the position embeddings to clips of another length, in place.

    The table is ``[1, 2 + bands * times, dim]``, its patches counted along time within each band.

    Arguments
    ---------
    model : ASTModel
        Changed in place, its configuration too.
    frames : int
        Length of the clips.
    mode : str
        ``crop`` keeps the first positions of each band (longer clips are interpolated), ``interpolate`` stretches or
        shrinks the time axis, ``zero`` sets all positions to zero, those of the special tokens too, and ``published``
        does so where the number of patches changes, as the published PETL code did.

    Raises
    ------
    UsageError
        Unknown mode, or fewer frames than a patch is long.

    Example
    -------
    >>> from transformers import ASTConfig
    >>> model = ASTModel(ASTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
    >>> resize_positions(model, frames=500, mode="interpolate")
    >>> model.embeddings.position_embeddings.shape[1]  # 2 special tokens, 12 bands of 49 patches
    590
    """
    config = model.config
    check_positions(mode)
    if frames < config.patch_size:
        raise UsageError(
            f"Clips of {frames} frames were asked for.",
            f"One patch of {config._name_or_path or 'this AST'} is {config.patch_size} frames long.",
            f"Write --frames={config.patch_size} or more",
        )
    table = model.embeddings.position_embeddings.detach()
    bands, times = model.embeddings.get_shape(config)
    new_times = (frames - config.patch_size) // config.time_stride + 1
    if new_times == times and mode != "zero":
        config.max_length = frames
        return
    special, patches = table[:, :SPECIAL_TOKENS], table[0, SPECIAL_TOKENS:]
    patches = resize_in_time(patches.view(bands, times, -1), new_times, mode)
    if mode in ("zero", "published"):
        special = torch.zeros_like(special)
    resized = torch.cat([special, patches.reshape(1, bands * new_times, -1)], dim=1)
    model.embeddings.position_embeddings = torch.nn.Parameter(resized)
    config.max_length = frames
