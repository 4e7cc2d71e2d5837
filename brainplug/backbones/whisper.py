"""Whisper's encoder: a transformer over a log-mel spectrogram.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, https://arxiv.org/abs/2212.04356
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
import transformers
from torch.nn.functional import pad

from brainplug.backbones.base import Backbone, copy_config
from brainplug.backbones.hub import fetch_config, load_model
from brainplug.backbones.positions import check_positions, resize_in_time
from brainplug.backbones.spec import BackboneSpec, Checkpoint
from brainplug.data.front_ends import FAINTEST_POWER, WhisperFrontEnd, normalised_by_loudest
from brainplug.data.shared_frames import SharedFrames, Window
from brainplug.errors import ConfigError

FRAMES_PER_TOKEN = 2  # the second convolution's stride


class Whisper(Backbone):
    """Whisper's encoder with positions for clips of a given length."""

    spec = BackboneSpec(
        model_types=("whisper",),
        signal="log_mel",
        layers="layers",
        attention="self_attn",
        feed_forward="feed_forward",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.out_proj",
        feed_forward_in="fc1",
        feed_forward_out="fc2",
        norms=("self_attn_layer_norm", "final_layer_norm"),
        norm_before_attention="self_attn_layer_norm",
        norm_before_feed_forward="final_layer_norm",
        final_norm="layer_norm",
    )
    extractor_name = "WhisperFeatureExtractor"
    fitted = ("embed_positions.weight",)
    checkpoints: ClassVar = {
        "whisper": Checkpoint(
            "Apache-2.0",
            "transcripts and translations of 680,000 h of speech from the web",
            "openai/whisper-base",
            lambda: transformers.WhisperConfig(
                d_model=512,
                encoder_layers=6,
                encoder_attention_heads=8,
                encoder_ffn_dim=2048,
                decoder_layers=6,
                decoder_attention_heads=8,
                decoder_ffn_dim=2048,
            ),
        )
    }

    def prepare(self, model: Any, frames: int | None, positions: str) -> None:
        """Fits positions and extractor to the length of clips, and makes each feed-forward block one module."""
        from brainplug.backbones.whisper_layer import WhisperLayer

        self.frames = FRAMES_PER_TOKEN * model.config.max_source_positions if frames is None else frames
        resize_positions(model, self.frames, positions)
        self.extractor = _fitted(self.extractor, self.frames)
        for index, layer in enumerate(model.layers):
            model.layers[index] = WhisperLayer(layer, model.config)

    @classmethod
    def load_model(cls, source: str, revision: str | None) -> transformers.PreTrainedModel:
        """Loads the encoder of a whole Whisper, or of a classifier."""
        architectures = fetch_config(source, revision).get("architectures") or []
        is_classifier = "WhisperForAudioClassification" in architectures
        kind = transformers.WhisperForAudioClassification if is_classifier else transformers.WhisperModel
        return load_model(kind, source, revision).encoder

    @classmethod
    def new_model(cls, config: Any) -> transformers.PreTrainedModel:
        """An encoder with random weights and random positions."""
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        return WhisperEncoder(config)

    @classmethod
    def new_extractor(cls, config: transformers.PreTrainedConfig) -> transformers.WhisperFeatureExtractor:
        """Makes as many mel bands as the model takes."""
        return transformers.WhisperFeatureExtractor(config.num_mel_bins)

    def plain_model(self) -> transformers.WhisperForAudioClassification:
        """The encoder inside a classifier, since the Auto classes of transformers cannot load an encoder alone.

        The classifier's head is not trained: its projector is the identity, its last layer zero.
        """
        encoder: Any = super().plain_model()
        config: Any = copy_config(encoder.config)
        config.classifier_proj_size = config.d_model
        with torch.random.fork_rng(devices=[]):
            classifier: Any = transformers.WhisperForAudioClassification(config)
        classifier.encoder = encoder
        torch.nn.init.eye_(classifier.projector.weight)
        for parameter in (classifier.projector.bias, *classifier.classifier.parameters()):
            torch.nn.init.zeros_(parameter)
        classifier.to(device=encoder.device, dtype=encoder.dtype)
        return classifier.eval()

    @property
    def signal_settings(self) -> dict[str, Any]:
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
        log_mels = self.extractor(
            waveform.numpy(), sampling_rate=self.sample_rate, max_length=samples, return_tensors="pt"
        ).input_features[0]  # [mel_bands, frames]
        return log_mels.T.contiguous()

    def extract_windows(self, windows: Iterable[Window]) -> Iterator[Window]:
        """The same for windows of a recording; log-mels that they share are computed once, if they have no dither."""
        extractor = self.extractor
        if extractor.dither:
            yield from super().extract_windows(windows)
            return
        centred = ((clip, self._centred(samples)) for clip, samples in windows)
        shared = SharedFrames(self._log_mel, extractor.n_fft, extractor.hop_length)
        for clip, log_mel in shared.of_windows(centred, self.sample_rate):
            yield clip, normalised_by_loudest(log_mel)

    def _centred(self, waveform: torch.Tensor) -> torch.Tensor:
        """Pads or cuts a clip, and reflects it at its ends, so that its frames lie around every shift."""
        half, shift = self.extractor.n_fft // 2, self.extractor.hop_length
        clip = pad(waveform, (0, self.frames * shift - len(waveform)), value=self.extractor.padding_value)
        return pad(clip[None], (half, half), mode="reflect")[0, :-shift]

    def _log_mel(self, samples: torch.Tensor) -> torch.Tensor:
        """The extractor's log-mels ``[frames, mel_bands]`` before they are normalised."""
        size, filters = self.extractor.n_fft, torch.from_numpy(self.extractor.mel_filters).float()
        shape = torch.hann_window(size)
        spectra = torch.stft(samples, size, self.extractor.hop_length, window=shape, center=False, return_complex=True)
        return (filters.T @ spectra.abs().square()).clamp(min=FAINTEST_POWER).log10().T

    def front_end(self) -> WhisperFrontEnd:
        """Computes the log-mels, if they have no dither: a graph draws no random numbers."""
        extractor = self.extractor
        if extractor.dither:
            raise ConfigError(
                f"The backbone {self.name} was to read waveforms inside an exported graph.",
                f"Its feature extractor adds noise (dither: {extractor.dither}), which a graph does not draw.",
                "Export it without --waveform",
            )
        filters = torch.as_tensor(extractor.mel_filters)
        return WhisperFrontEnd(
            filters, self.frames or 0, extractor.n_fft, extractor.hop_length, extractor.padding_value
        )

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Tokens ``[batch, frames / 2, dim]``. All clips have the same length, so nothing is masked."""
        return self.model(signal.transpose(1, 2)).last_hidden_state, None


def _fitted(extractor: Any, frames: int) -> Any:
    """The extractor with `frames` as the default length of clips, if that is a number of whole seconds."""
    if frames % 100 or frames == extractor.nb_max_frames:
        return extractor
    settings = {**extractor.to_dict(), "chunk_length": frames // 100}
    return type(extractor).from_dict(settings)


class FixedPositions(torch.nn.Module):
    """A table of position embeddings ``[positions, dim]`` that no method trains: Whisper's are sinusoids."""

    weight: torch.Tensor

    def __init__(self, table: torch.Tensor):
        super().__init__()
        self.register_buffer("weight", table)
        self.num_embeddings = len(table)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """The embeddings of positions."""
        return torch.nn.functional.embedding(positions, self.weight)


def resize_positions(model: Any, frames: int, mode: str) -> None:
    """Fits position embeddings to clips of another length, in place; the mode is that of `resize_in_time`."""
    check_positions(mode)
    table = model.embed_positions.weight.detach()
    longest = FRAMES_PER_TOKEN * len(table)
    if frames % FRAMES_PER_TOKEN or not 0 < frames <= longest:
        raise ConfigError(
            f"Clips of {frames} frames were asked for.",
            f"{model.config._name_or_path or 'This Whisper'} takes an even number of frames, {longest} at most.",
            f"Write --frames={longest}, or an even number below",
        )
    model.embed_positions = FixedPositions(resize_in_time(table[None], frames // FRAMES_PER_TOKEN, mode)[0])
    model.max_source_positions = model.config.max_source_positions = model.embed_positions.num_embeddings
