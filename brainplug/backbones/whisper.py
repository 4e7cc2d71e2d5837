"""Whisper's encoder: a transformer over a log-mel spectrogram.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, https://arxiv.org/abs/2212.04356
"""

import copy
from typing import ClassVar

import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperEncoderLayer

from brainplug.backbones.base import Backbone, weights_revision
from brainplug.backbones.loading import load_pretrained
from brainplug.backbones.positions import check_positions, resize_in_time
from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import UsageError

FRAMES_PER_TOKEN = 2  # the second convolution's stride


class Whisper(Backbone):
    """Whisper's encoder with positions for clips of a given length.

    Arguments
    ---------
    model : WhisperEncoder
        The transformer; its position table fits the clips. Each layer's feed-forward is gathered into one module, in
        place; what it computes stays the same.
    name, revision : str
        As in `Backbone`.
    extractor : WhisperFeatureExtractor
        Makes the input.

    Example
    -------
    >>> config = WhisperConfig(d_model=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=8)
    >>> backbone = Whisper.from_config(config, frames=100)
    >>> tokens, mask = backbone(backbone.extract(torch.randn(16000))[None], torch.ones(1))
    >>> tuple(tokens.shape)
    (1, 50, 8)
    """

    spec: ClassVar = BackboneSpec(
        model_types=("whisper",),
        signal="log_mel",
        layers="layers",
        attention="self_attn",
        feed_forward="fc1",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.out_proj",
        feed_forward_in="fc1.linear_in",
        feed_forward_out="fc1.linear_out",
        norms=("self_attn_layer_norm", "final_layer_norm"),
        norm_before_attention="self_attn_layer_norm",
        norm_before_feed_forward="final_layer_norm",
        final_norm="layer_norm",
    )

    extractor_class: ClassVar = WhisperFeatureExtractor

    def __init__(self, model: WhisperEncoder, name: str, revision: str, extractor: WhisperFeatureExtractor):
        super().__init__(model, name, revision)
        self.extractor = extractor
        for layer in self.spec.layers_of(model):
            gather_feed_forward(layer)

    @classmethod
    def load(cls, source: str, name: str, revision: str | None, **settings: object) -> "Whisper":
        """Loads the encoder for clips of `frames` frames of 10 ms; see `resize_positions` for `positions`."""
        model = load_pretrained(WhisperModel, source, revision).encoder
        extractor = load_pretrained(cls.extractor_class, source, revision)
        commit = getattr(model.config, "_commit_hash", None)
        return cls._fit(model, extractor, name, weights_revision(source, commit), **settings)

    @classmethod
    def from_config(
        cls,
        config: WhisperConfig,
        name: str = "random",
        extractor: WhisperFeatureExtractor | None = None,
        **settings: object,
    ) -> "Whisper":
        """Builds an encoder; its positions are Whisper's own."""
        model = WhisperEncoder(copy.deepcopy(config)).eval()
        extractor = extractor or WhisperFeatureExtractor(config.num_mel_bins)
        return cls._fit(model, extractor, name, "random", **settings)

    @classmethod
    def _fit(
        cls,
        model: WhisperEncoder,
        extractor: WhisperFeatureExtractor,
        name: str,
        revision: str,
        frames: int | None = None,
        positions: str = "crop",
    ) -> "Whisper":
        """Fits an encoder to clips of `frames` frames; as many as its table is for, without."""
        resize_positions(model, frames or FRAMES_PER_TOKEN * model.config.max_source_positions, positions)
        return cls(model, name, revision, extractor)

    @property
    def frames(self) -> int:
        """Length of a clip, in frames of 10 ms."""
        return FRAMES_PER_TOKEN * self.model.config.max_source_positions

    @property
    def signal_settings(self) -> dict:
        """Size of the spectrogram and how it is made."""
        extractor = self.extractor
        return {
            "signal": "log_mel", "kind": "whisper", "mel_bands": extractor.feature_size, "frames": self.frames,
            "window": extractor.n_fft, "shift": extractor.hop_length, "dither": extractor.dither,
            "padding": extractor.padding_value,
        }  # fmt: skip

    def extract(self, waveform: torch.Tensor) -> torch.Tensor:
        """Log-mels ``[frames, mel_bands]``; the clip is padded or cut before, and normalised by its loudest point."""
        samples = self.frames * self.extractor.hop_length
        made = self.extractor(
            waveform.numpy(), sampling_rate=self.sample_rate, max_length=samples, return_tensors="pt"
        ).input_features[0]  # [mel_bands, frames]
        return made.T.contiguous()

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Tokens ``[batch, frames / 2, dim]``. Every clip has the same length, so nothing is masked."""
        return self.model(signal.transpose(1, 2)).last_hidden_state, None


class FeedForward(torch.nn.Module):
    """A feed-forward in one piece, which Whisper keeps in several.

    Arguments
    ---------
    linear_in, activation, linear_out : torch.nn.Module
        What it is made of.
    dropout : float
        Between activation and output, in training.

    Example
    -------
    >>> feed_forward = FeedForward(torch.nn.Linear(3, 5), torch.nn.GELU(), torch.nn.Linear(5, 3), dropout=0.0)
    >>> tuple(feed_forward(torch.randn(2, 3)).shape)
    (2, 3)
    """

    def __init__(
        self, linear_in: torch.nn.Module, activation: torch.nn.Module, linear_out: torch.nn.Module, dropout: float
    ):
        super().__init__()
        self.linear_in, self.activation, self.linear_out = linear_in, activation, linear_out
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Takes and returns ``[batch, tokens, dim]``."""
        return self.linear_out(self.dropout(self.activation(self.linear_in(tokens))))


def gather_feed_forward(layer: WhisperEncoderLayer) -> None:
    """Gathers a layer's feed-forward at `fc1`, where the layer calls it first, and leaves nothing for it to do after.

    Arguments
    ---------
    layer : WhisperEncoderLayer
        Changed in place; it computes the same.

    Example
    -------
    >>> layer = WhisperEncoderLayer(WhisperConfig(d_model=8, encoder_attention_heads=2, encoder_ffn_dim=8)).eval()
    >>> tokens = torch.randn(1, 5, 8)
    >>> before = layer(tokens, None)
    >>> gather_feed_forward(layer)
    >>> torch.equal(layer(tokens, None), before)
    True
    """
    layer.fc1 = FeedForward(layer.fc1, layer.activation_fn, layer.fc2, layer.activation_dropout)
    layer.fc1.train(layer.training)
    layer.activation_fn, layer.fc2, layer.activation_dropout = torch.nn.Identity(), torch.nn.Identity(), 0.0


def resize_positions(model: WhisperEncoder, frames: int, mode: str) -> None:
    """Fits the position embeddings to clips of another length, in place.

    They are sinusoids that Whisper never trained, so they become a buffer: no method trains them either.

    Arguments
    ---------
    model : WhisperEncoder
        Changed in place, its configuration too.
    frames : int
        Length of the clips.
    mode : str
        ``crop`` keeps the first positions, ``interpolate`` shrinks the time axis, ``zero`` sets all to zero,
        ``published`` does so where the length changes.

    Raises
    ------
    UsageError
        Unknown mode, an odd number of frames, or more than Whisper takes.

    Example
    -------
    >>> model = WhisperEncoder(WhisperConfig(d_model=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=8))
    >>> resize_positions(model, frames=500, mode="crop")
    >>> tuple(model.embed_positions.weight.shape)
    (250, 8)
    """
    check_positions(mode)
    embedding = model.embed_positions
    table = embedding.weight.detach()
    longest = FRAMES_PER_TOKEN * len(table)
    if frames % FRAMES_PER_TOKEN or not 0 < frames <= longest:
        raise UsageError(
            f"Clips of {frames} frames were asked for.",
            f"{model.config._name_or_path or 'This Whisper'} takes an even number of frames, {longest} at most.",
            f"Write --frames={longest}, or an even number below",
        )
    del embedding.weight
    embedding.register_buffer("weight", resize_in_time(table[None], frames // FRAMES_PER_TOKEN, mode)[0])
    embedding.num_embeddings = model.max_source_positions = model.config.max_source_positions = len(embedding.weight)
