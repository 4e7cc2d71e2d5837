"""WavLM: wav2vec 2.0 with a gated relative position bias in its attention.

Chen et al., "WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing", 2021,
https://arxiv.org/abs/2110.13900
"""

import dataclasses
from typing import ClassVar

import torch
from transformers import WavLMModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from brainplug.backbones.wav2vec2 import Wav2Vec2


class WavLM(Wav2Vec2):
    """A WavLM whose attention calls its projections, so that a method can replace them.

    Arguments
    ---------
    model : WavLMModel
        The transformer; its attention is changed in place, what it computes is not.
    name, revision, normalize : str, str, bool
        As in `Wav2Vec2`.

    Example
    -------
    >>> from transformers import WavLMConfig
    >>> config = WavLMConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    ...     conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    >>> backbone = WavLM.from_config(config)
    >>> tokens, mask = backbone(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> tuple(tokens.shape), mask.sum(1).tolist()
    ((2, 49, 16), [49, 24])
    """

    spec: ClassVar = dataclasses.replace(Wav2Vec2.spec, model_types=("wavlm",))

    def __init__(self, model: WavLMModel, name: str, revision: str, normalize: bool):
        super().__init__(model, name, revision, normalize)
        model.config._attn_implementation = "sdpa"  # transformers knows none but its own for WavLM
        for layer in self.spec.layers_of(model):
            layer.attention.__class__ = ProjectingAttention
            layer.attention.config = model.config


class ProjectingAttention(WavLMAttention):
    """WavLM's attention through the modules of its projections and the attention function of its configuration.

    transformers takes the weights out of the projections; a module that stands in a projection's place, such as LoRA's,
    would be passed over without a word.
    """

    def torch_multi_head_self_attention(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, gated_position_bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Takes tokens ``[batch, tokens, dim]``, which of them count, and the bias ``[batch * heads, tokens, tokens]``.

        Arguments
        ---------
        hidden_states : torch.Tensor
            The tokens.
        attention_mask : torch.Tensor, optional
            ``[batch, tokens]``, True where a token is not padding.
        gated_position_bias : torch.Tensor
            Added to the scores.

        Returns
        -------
        tuple[torch.Tensor, torch.Tensor | None]
            Tokens, and the attention's weights where the attention function returns them.
        """
        batch, tokens, _ = hidden_states.shape
        query, key, value = (
            projection(hidden_states).view(batch, tokens, self.num_heads, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = gated_position_bias.view(batch, self.num_heads, tokens, tokens).to(query.dtype)
        if attention_mask is not None:
            # The lowest number, not -inf: a row of nothing but padding would become NaN.
            bias = bias.masked_fill(~attention_mask[:, None, None].bool(), torch.finfo(bias.dtype).min)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, sdpa_attention_forward)
        dropout = self.dropout if self.training else 0.0
        attended, weights = attend(self, query, key, value, bias, dropout=dropout, scaling=self.scaling)
        return self.out_proj(attended.reshape(batch, tokens, self.embed_dim)), weights
