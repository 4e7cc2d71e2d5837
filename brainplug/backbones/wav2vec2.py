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
from brainplug.backbones.spec import BackboneSpec, Checkpoint, TokenMask

SHORTEST = 400  # samples, the receptive field of the convolutions


class Wav2Vec2(Backbone):
    """A transformer of the wav2vec 2.0 family; clips may have any length. The arguments are those of `Backbone`.

    Example
    -------
    >>> config = transformers.Wav2Vec2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    ...     intermediate_size=16, conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    >>> tokens, mask = Wav2Vec2.from_config(config)(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> tuple(tokens.shape), mask.sum(1).tolist()
    ((2, 49, 16), [49, 24])
    """

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

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        name: str,
        revision: str,
        extractor: transformers.Wav2Vec2FeatureExtractor,
        frames: int | None = None,
        positions: str = "crop",
    ):
        super().__init__(model, name, revision, extractor)
        self.spec = dataclasses.replace(describe(self.spec, model), token_mask=TokenMask())
        # Set only while `forward` computes, so that the model can also be used by itself.
        self._first_frames, self._tokens = TokenMask(), TokenMask()
        first = model.feature_extractor.conv_layers[0]
        if isinstance(getattr(first, "layer_norm", None), torch.nn.GroupNorm):
            first.layer_norm = ClipNorm(first.layer_norm, self._first_frames)
        for module in model.encoder.pos_conv_embed.modules():
            if isinstance(module, torch.nn.Conv1d):
                module.register_forward_pre_hook(ZeroPadding(self._tokens))

    @classmethod
    def load_model(cls, source: str, revision: str | None) -> transformers.PreTrainedModel:
        """Loads the transformer of a folder or a hub id."""
        return load_model(transformers.AutoModel, source, revision)

    @classmethod
    def new_model(cls, config: transformers.PreTrainedConfig) -> transformers.PreTrainedModel:
        """A transformer with random weights, whose first convolution may start with `mel_filters`."""
        model = transformers.AutoModel.from_config(config, dtype=torch.float32)
        begin_with_mel_filters(model)
        # transformers makes the embedding of masked frames on the CPU, whatever the default device.
        return model.to(torch.get_default_device())

    @classmethod
    def extractor_class(cls) -> type[transformers.Wav2Vec2FeatureExtractor]:
        """That of wav2vec 2.0."""
        return transformers.Wav2Vec2FeatureExtractor

    @property
    def normalize(self) -> bool:
        """Whether each clip is brought to zero mean and unit variance."""
        return self.extractor.do_normalize

    @property
    def signal_settings(self) -> dict[str, Any]:
        """Whether clips are normalised."""
        return {"signal": "waveform", "normalize": self.normalize}

    def extract(self, waveform: torch.Tensor) -> torch.Tensor:
        """The waveform ``[samples]``, at least as long as one token, and normalised if the checkpoint asks for it."""
        waveform = torch.nn.functional.pad(waveform, (0, max(0, SHORTEST - len(waveform))))
        if not self.normalize:
            return waveform
        variance, mean = torch.var_mean(waveform, correction=0)
        return (waveform - mean) / torch.sqrt(variance + 1e-7)  # the feature extractor's own epsilon

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``[batch, tokens, dim]``, one each 20 ms, and the mask of those that are not padding."""
        samples = (lengths * signal.shape[1]).round().long()
        present = torch.arange(signal.shape[1], device=signal.device) < samples[:, None]
        # Counted from the signal, since a method may have put tokens of its own among those of the clip.
        self.spec.token_mask.tokens = mask = _shortened(present, samples, self._convolutions)
        self._tokens.tokens = mask
        self._first_frames.tokens = _shortened(present, samples, self._convolutions[:1])
        tokens = self.model(signal, attention_mask=present.long()).last_hidden_state
        self._tokens.tokens = self._first_frames.tokens = None
        behind = self._convolutions_behind
        return tokens, _shortened(mask, mask.sum(1), behind) if behind else mask

    def count_tokens(self, samples: int) -> int:
        """How many tokens a clip of this length has: about one for each 20 ms."""
        count = max(samples, SHORTEST)
        for kernel_size, stride in [*self._convolutions, *self._convolutions_behind]:
            count = (count - kernel_size) // stride + 1
        return count

    @property
    def _convolutions(self) -> list[tuple[int, int]]:
        """Kernel size and stride of the convolutions that make tokens of samples."""
        return list(zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True))

    @property
    def _convolutions_behind(self) -> list[tuple[int, int]]:
        """The same of those that some models have after the transformer."""
        config = self.model.config
        return [(1, config.adapter_stride)] * config.num_adapter_layers if getattr(config, "add_adapter", False) else []


def _shortened(mask: torch.Tensor, counts: torch.Tensor, convolutions: list[tuple[int, int]]) -> torch.Tensor:
    """The mask ``[batch, tokens]`` behind convolutions over signals; `counts` ``[batch]`` of each are not padding."""
    length = mask.shape[1]
    for kernel_size, stride in convolutions:
        length, counts = (length - kernel_size) // stride + 1, (counts - kernel_size) // stride + 1
    return torch.arange(length, device=mask.device) < counts[:, None]


def describe(spec: BackboneSpec, model: transformers.PreTrainedModel) -> BackboneSpec:
    """Describes one model of the family.

    In large ones (`do_stable_layer_norm`) a norm comes before each sub-layer and one after the last layer.
    """
    if not hasattr(model, "masked_spec_embed"):  # models whose pretraining masks nothing
        spec = dataclasses.replace(spec, mask_embedding=None)
    if not getattr(model.config, "do_stable_layer_norm", False):
        return spec
    return dataclasses.replace(
        spec,
        norm_before_attention="layer_norm",
        norm_before_feed_forward="final_layer_norm",
        final_norm="encoder.layer_norm",
    )
