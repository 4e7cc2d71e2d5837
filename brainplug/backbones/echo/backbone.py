"""Echo's encoder as a backbone: a transformer over a log-mel spectrogram of any length."""

import copy
import dataclasses
from typing import ClassVar

import torch
from transformers import WhisperFeatureExtractor

from brainplug.backbones.base import Backbone, weights_revision
from brainplug.backbones.echo.config import EchoConfig
from brainplug.backbones.echo.encoder import FRAMES_PER_TOKEN, EchoEncoder
from brainplug.backbones.echo.model import Echo
from brainplug.backbones.loading import load_pretrained
from brainplug.backbones.spec import BackboneSpec, TokenMask

SHORTEST = 400  # samples: one window of the spectrogram


class EchoBackbone(Backbone):
    """The encoder of an Echo.

    Arguments
    ---------
    model : EchoEncoder
        The transformer.
    name, revision : str
        As in `Backbone`.
    extractor : WhisperFeatureExtractor
        Makes the input, as Whisper's is made.

    Example
    -------
    >>> config = EchoConfig(n_mels=80, n_audio_state=8, n_audio_head=2, n_audio_layer=1)
    >>> backbone = EchoBackbone.from_config(config)
    >>> signal = backbone.extract(torch.randn(16000))
    >>> tokens, mask = backbone(torch.stack([signal, signal]), torch.tensor([1.0, 0.5]))
    >>> tuple(tokens.shape), mask.sum(1).tolist()
    ((2, 50, 8), [50, 25])
    """

    spec: ClassVar = BackboneSpec(
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

    extractor_class: ClassVar = WhisperFeatureExtractor

    def __init__(self, model: EchoEncoder, name: str, revision: str, extractor: WhisperFeatureExtractor):
        super().__init__(model, name, revision)
        self.extractor = extractor
        self.spec = dataclasses.replace(self.spec, token_mask=TokenMask())
        for layer in self.spec.layers_of(model):
            layer.gradient_checkpointing = False  # the run says whether layers are computed twice

    @classmethod
    def load(cls, source: str, name: str, revision: str | None, **settings: object) -> "EchoBackbone":
        """Loads the encoder; clips may have any length that it has positions for."""
        model = load_pretrained(Echo, source, revision).encoder
        extractor = load_pretrained(cls.extractor_class, source, revision)
        commit = getattr(model.config, "_commit_hash", None)
        return cls(model, name, weights_revision(source, commit), extractor)

    @classmethod
    def from_config(
        cls,
        config: EchoConfig,
        name: str = "random",
        extractor: WhisperFeatureExtractor | None = None,
        **settings: object,
    ) -> "EchoBackbone":
        """Builds an encoder."""
        model = EchoEncoder(copy.deepcopy(config)).eval()
        return cls(model, name, "random", extractor or WhisperFeatureExtractor(config.n_mels))

    @property
    def signal_settings(self) -> dict:
        """How the spectrogram is made."""
        extractor = self.extractor
        return {
            "signal": "log_mel", "kind": "echo", "mel_bands": extractor.feature_size, "window": extractor.n_fft,
            "shift": extractor.hop_length, "dither": extractor.dither,
        }  # fmt: skip

    def extract(self, waveform: torch.Tensor) -> torch.Tensor:
        """Log-mels ``[frames, mel_bands]``, as many as the clip is long, normalised by its loudest point."""
        waveform = torch.nn.functional.pad(waveform, (0, max(0, SHORTEST - len(waveform))))
        made = self.extractor(waveform.numpy(), sampling_rate=self.sample_rate, padding=False, truncation=False)
        return torch.as_tensor(made.input_features[0]).T.contiguous()

    def count_tokens(self, samples: int) -> int:
        """Counts the tokens of a clip.

        Arguments
        ---------
        samples : int
            Its length at 16 kHz.

        Returns
        -------
        int
            One for each 20 ms.
        """
        frames = max(samples, SHORTEST) // self.extractor.hop_length
        return -(-frames // FRAMES_PER_TOKEN)

    def present(self, signal: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Says which frames are no padding.

        Arguments
        ---------
        signal, lengths : torch.Tensor
            As in `forward`.

        Returns
        -------
        torch.Tensor
            True or False, ``[batch, frames]``.
        """
        frames = (lengths * signal.shape[1]).round()
        return torch.arange(signal.shape[1], device=signal.device) < frames[:, None]

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``[batch, frames / 2, dim]``, one each 20 ms, and the mask of those that are not padding."""
        present = self.present(signal, lengths)
        self.spec.token_mask.tokens = mask = present[:, ::FRAMES_PER_TOKEN]
        return self.model(signal, present).last_hidden_state, mask
