"""wav2vec 2.0, HuBERT and data2vec-audio: one family of transformers over the waveform.

Baevski et al., "wav2vec 2.0", 2020, https://arxiv.org/abs/2006.11477; Hsu et al., "HuBERT", 2021,
https://arxiv.org/abs/2106.07447; Baevski et al., "data2vec", 2022, https://arxiv.org/abs/2202.03555
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
import transformers

from brainplug.backbones.base import Backbone
from brainplug.backbones.filters import begin_with_mel_filters
from brainplug.backbones.hub import load_model
from brainplug.backbones.padding import ClipNorm, ZeroPadding
from brainplug.backbones.spec import BackboneSpec, Checkpoint, TokenMask, find_module
from brainplug.data.front_ends import WaveformFrontEnd

SHORTEST = 400  # samples, the receptive field of the convolutions


class Wav2Vec2(Backbone):
    """A transformer of the wav2vec 2.0 family; clips may have any length."""

    spec = BackboneSpec(
        model_types=("wav2vec2", "hubert", "data2vec-audio"),
        signal="waveform",
        layers="encoder.layers",
        attention="attention",
        feed_forward="feed_forward",
        query="attention.q_proj",
        key="attention.k_proj",
        value="attention.v_proj",
        output="attention.out_proj",
        feed_forward_in="feed_forward.intermediate_dense",
        feed_forward_out="feed_forward.output_dense",
        norms=("layer_norm", "final_layer_norm"),
        mask_embedding="masked_spec_embed",
        convolutions="feature_extractor",
    )
    extractor_name = "Wav2Vec2FeatureExtractor"
    checkpoints: ClassVar = {
        "nano-hubert": Checkpoint(
            "Apache-2.0",
            "clusters of masked frames of spoken words, synthetic events and free recordings; recipes/pretrain_hubert",
        ),
        "nano-data2vec": Checkpoint(
            "Apache-2.0",
            "a teacher's features of masked frames of spoken words, synthetic events and free recordings; "
            "recipes/pretrain_data2vec",
        ),
        "wav2vec2": Checkpoint(
            "Apache-2.0",
            "contrastive, then CTC on letters; 960 h of LibriSpeech for both",
            "facebook/wav2vec2-base-960h",
            lambda: transformers.Wav2Vec2Config(),
        ),
        "hubert": Checkpoint(
            "Apache-2.0",
            "clusters of masked frames; 960 h of LibriSpeech",
            "facebook/hubert-base-ls960",
            lambda: transformers.HubertConfig(),
        ),
        "data2vec": Checkpoint(
            "Apache-2.0",
            "a teacher's features of masked frames, then CTC on letters; 960 h of LibriSpeech for both",
            "facebook/data2vec-audio-base-960h",
            lambda: transformers.Data2VecAudioConfig(),
        ),
    }

    def prepare(self, model: Any, frames: int | None, positions: str) -> None:
        """Makes modules leave out padding; clips may have any length."""
        self.spec = dataclasses.replace(describe(self.spec, model), token_mask=TokenMask())
        # Set only while `forward` computes, so that the model can also be used by itself.
        self._first_frames, self._tokens = TokenMask(), TokenMask()
        first = find_module(model, "feature_extractor.conv_layers.0")
        norm = getattr(first, "layer_norm", None)
        if isinstance(norm, torch.nn.GroupNorm):
            first.layer_norm = ClipNorm(norm, self._first_frames)
        for module in find_module(model, "encoder.pos_conv_embed").modules():
            if isinstance(module, torch.nn.Conv1d):
                module.register_forward_pre_hook(ZeroPadding(self._tokens))

    @classmethod
    def load_model(cls, source: str, revision: str | None) -> transformers.PreTrainedModel:
        """Loads the transformer."""
        return load_model(transformers.AutoModel, source, revision)

    @classmethod
    def new_model(cls, config: Any) -> Any:
        """As the base class; the first convolution may start with `mel_filters`."""
        model = transformers.AutoModel.from_config(config, dtype=torch.float32)
        begin_with_mel_filters(model)
        # transformers makes the embedding of masked frames on the CPU, whatever the default device.
        return model.to(torch.get_default_device())

    @property
    def signal_settings(self) -> dict[str, Any]:
        """Whether clips are brought to zero mean and unit variance."""
        return {"signal": "waveform", "normalize": self.extractor.do_normalize}

    def extract(self, waveform: torch.Tensor) -> torch.Tensor:
        """The waveform ``[samples]``, at least as long as one token, and normalised if the checkpoint requires it."""
        waveform = torch.nn.functional.pad(waveform, (0, max(0, SHORTEST - len(waveform))))
        if not self.extractor.do_normalize:
            return waveform
        variance, mean = torch.var_mean(waveform, correction=0)
        return (waveform - mean) / torch.sqrt(variance + 1e-7)  # the feature extractor's own epsilon

    def front_end(self) -> WaveformFrontEnd:
        """Normalises the waveforms, and makes them as long as one token."""
        return WaveformFrontEnd(SHORTEST, self.extractor.do_normalize)

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``[batch, tokens, dim]``, one for each 20 ms, and the mask of those that are not padding."""
        samples = (lengths * signal.shape[1]).round().long()
        present = torch.arange(signal.shape[1], device=signal.device) < samples[:, None]
        # Counted from the signal, since a method may add tokens of its own.
        self.spec.token_mask.tokens = mask = _shortened(present, samples, self._convolutions)
        self._tokens.tokens = mask
        self._first_frames.tokens = _shortened(present, samples, self._convolutions[:1])
        is_short = self.model.training and mask.shape[1] < self.model.config.mask_time_length
        # transformers draws masks where all is trained, and refuses clips that are shorter than one.
        no_mask = {"mask_time_indices": torch.zeros_like(mask)} if is_short else {}
        tokens: torch.Tensor = self.model(signal, attention_mask=present.long(), **no_mask).last_hidden_state
        self._tokens.tokens = self._first_frames.tokens = None
        later = self._later_convolutions
        return tokens, _shortened(mask, mask.sum(1), later) if later else mask

    def after_layers(self, tokens: torch.Tensor) -> torch.Tensor:
        """Some models have convolutions there too."""
        tokens, later = super().after_layers(tokens), getattr(self.model, "adapter", None)
        return tokens if later is None else later(tokens)

    def count_tokens(self, samples: int) -> int:
        """About one token for each 20 ms."""
        count = max(samples, SHORTEST)
        for kernel_size, stride in [*self._convolutions, *self._later_convolutions]:
            count = (count - kernel_size) // stride + 1
        return count

    @property
    def _convolutions(self) -> list[tuple[int, int]]:
        """Kernel size and stride of the convolutions that make tokens of samples."""
        return list(zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True))

    @property
    def _later_convolutions(self) -> list[tuple[int, int]]:
        """The same for the convolutions that some models have after the transformer."""
        config = self.model.config
        return [(1, config.adapter_stride)] * config.num_adapter_layers if getattr(config, "add_adapter", False) else []


def _shortened(mask: torch.Tensor, counts: torch.Tensor, convolutions: list[tuple[int, int]]) -> torch.Tensor:
    """The mask ``[batch, tokens]`` after convolutions; `counts` ``[batch]`` steps of each row are not padding."""
    length = mask.shape[1]
    for kernel_size, stride in convolutions:
        length, counts = (length - kernel_size) // stride + 1, (counts - kernel_size) // stride + 1
    return torch.arange(length, device=mask.device) < counts[:, None]


def describe(spec: BackboneSpec, model: transformers.PreTrainedModel) -> BackboneSpec:
    """Describes one model: in large ones a norm comes before each sub-layer, and one after the last layer."""
    if not hasattr(model, "masked_spec_embed"):  # its pretraining masks nothing
        spec = dataclasses.replace(spec, mask_embedding=None)
    if not getattr(model.config, "do_stable_layer_norm", False):  # transformers' name for it
        return spec
    return dataclasses.replace(
        spec,
        norm_before_attention="layer_norm",
        norm_before_feed_forward="final_layer_norm",
        final_norm="encoder.layer_norm",
    )
