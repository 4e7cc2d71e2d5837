"""wav2vec 2.0, HuBERT and data2vec-audio: one family of transformers over the waveform.

Baevski et al., "wav2vec 2.0", 2020, https://arxiv.org/abs/2006.11477; Hsu et al., "HuBERT", 2021,
https://arxiv.org/abs/2106.07447; Baevski et al., "data2vec", 2022, https://arxiv.org/abs/2202.03555
"""

import copy
import dataclasses
from typing import ClassVar

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, Wav2Vec2FeatureExtractor

from brainplug.backbones.base import Backbone, weights_revision
from brainplug.backbones.filters import begin_with_mel_filters
from brainplug.backbones.loading import load_pretrained
from brainplug.backbones.padding import ClipNorm, Silence
from brainplug.backbones.spec import BackboneSpec, TokenMask

SHORTEST = 400  # samples, the receptive field of the convolutions


class Wav2Vec2(Backbone):
    """A transformer of the wav2vec 2.0 family.

    Arguments
    ---------
    model : PreTrainedModel
        `Wav2Vec2Model`, `HubertModel` or `Data2VecAudioModel`.
    name, revision : str
        As in `Backbone`.
    normalize : bool
        Whether each clip is brought to zero mean and unit variance, as the checkpoint's feature extractor says.

    Example
    -------
    >>> from transformers import Wav2Vec2Config, Wav2Vec2Model
    >>> config = Wav2Vec2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    ...     conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    >>> backbone = Wav2Vec2(Wav2Vec2Model(config), "toy", "none", normalize=True).eval()
    >>> tokens, mask = backbone(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> tuple(tokens.shape), mask.sum(1).tolist()
    ((2, 49, 16), [49, 24])
    """

    spec: ClassVar = BackboneSpec(
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

    extractor_class: ClassVar = Wav2Vec2FeatureExtractor

    def __init__(self, model: PreTrainedModel, name: str, revision: str, normalize: bool):
        super().__init__(model, name, revision)
        self.normalize = normalize
        self.spec = dataclasses.replace(describe(self.spec, model), token_mask=TokenMask())
        # Set while the model computes, no longer: afterwards it can be used by itself.
        self._first_frames, self._tokens = TokenMask(), TokenMask()
        first_norm = getattr(model.feature_extractor.conv_layers[0], "layer_norm", None)
        if isinstance(first_norm, torch.nn.GroupNorm):
            first_norm.__class__, first_norm.present = ClipNorm, self._first_frames
        for module in model.encoder.pos_conv_embed.modules():
            if isinstance(module, torch.nn.Conv1d):
                module.register_forward_pre_hook(Silence(self._tokens))

    @classmethod
    def load(cls, source: str, name: str, revision: str | None, **settings: object) -> "Wav2Vec2":
        """Loads a model of the family; clips may have any length, so `frames` and `positions` play no part."""
        model = load_pretrained(AutoModel, source, revision)
        extractor = load_pretrained(cls.extractor_class, source, revision)
        commit = getattr(model.config, "_commit_hash", None)
        return cls(model, name, weights_revision(source, commit), extractor.do_normalize)

    @classmethod
    def from_config(
        cls,
        config: PreTrainedConfig,
        name: str = "random",
        extractor: Wav2Vec2FeatureExtractor | None = None,
        **settings: object,
    ) -> "Wav2Vec2":
        """Builds a model of the family; clips are normalised, unless an extractor says otherwise."""
        model = AutoModel.from_config(copy.deepcopy(config), dtype=torch.float32).eval()
        begin_with_mel_filters(model)
        # The embedding of masked frames is made on the CPU, whatever device is asked for.
        model.to(torch.get_default_device())
        return cls(model, name, "random", (extractor or cls.extractor_class()).do_normalize)

    @property
    def signal_settings(self) -> dict:
        """Whether clips are normalised."""
        return {"signal": "waveform", "normalize": self.normalize}

    def extract(self, waveform: torch.Tensor) -> torch.Tensor:
        """The waveform ``[samples]``, normalised where the checkpoint wants it; never shorter than one token."""
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
        after = self._convolutions_behind
        return tokens, _shortened(mask, mask.sum(1), after) if after else mask

    def count_tokens(self, samples: int) -> int:
        """Counts the tokens of a clip.

        Arguments
        ---------
        samples : int
            Its length at 16 kHz.

        Returns
        -------
        int
            One for each 20 ms, or so.
        """
        count = max(samples, SHORTEST)
        for kernel_size, stride in [*self._convolutions, *self._convolutions_behind]:
            count = (count - kernel_size) // stride + 1
        return count

    @property
    def _convolutions(self) -> list[tuple[int, int]]:
        """Kernel size and stride of those that make tokens of samples."""
        return list(zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True))

    @property
    def _convolutions_behind(self) -> list[tuple[int, int]]:
        """Those that some models have after the transformer."""
        config = self.model.config
        return [(1, config.adapter_stride)] * config.num_adapter_layers if getattr(config, "add_adapter", False) else []


def _shortened(mask: torch.Tensor, counts: torch.Tensor, convolutions: list[tuple[int, int]]) -> torch.Tensor:
    """The mask ``[batch, tokens]`` behind convolutions, for signals of which `counts` ``[batch]`` are no padding."""
    length = mask.shape[1]
    for kernel_size, stride in convolutions:
        length, counts = (length - kernel_size) // stride + 1, (counts - kernel_size) // stride + 1
    return torch.arange(length, device=mask.device) < counts[:, None]


def describe(spec: BackboneSpec, model: PreTrainedModel) -> BackboneSpec:
    """Says of one model what differs within the family.

    In the large ones (`do_stable_layer_norm`) a norm stands before each sub-layer and one after the last layer.

    Arguments
    ---------
    spec : BackboneSpec
        Of the family.
    model : PreTrainedModel
        One of them.

    Returns
    -------
    BackboneSpec
        Of this model.

    Example
    -------
    >>> from transformers import HubertConfig
    >>> with torch.device("meta"):
    ...     model = AutoModel.from_config(HubertConfig(do_stable_layer_norm=True, num_hidden_layers=1))
    >>> describe(Wav2Vec2.spec, model).final_norm
    'encoder.layer_norm'
    """
    if not hasattr(model, "masked_spec_embed"):  # where pretraining masks nothing
        spec = dataclasses.replace(spec, mask_embedding=None)
    if not getattr(model.config, "do_stable_layer_norm", False):
        return spec
    return dataclasses.replace(
        spec,
        norm_before_attention="layer_norm",
        norm_before_feed_forward="final_layer_norm",
        final_norm="encoder.layer_norm",
    )
