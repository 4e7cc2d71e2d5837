"""WavLM's attention, calling the modules of its projections."""

from typing import Any

import torch
from transformers import WavLMConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.wavlm.modeling_wavlm import WavLMAttention


class ProjectingAttention(WavLMAttention):
    """Computes what WavLM's attention does, through its projections and the attention function of the configuration.

    transformers reads the weights of the projections instead of calling them, and so ignores a module that replaces
    one, such as LoRA's. This module takes over the modules and parameters of the attention that it replaces.
    """

    def __init__(self, attention: WavLMAttention, config: WavLMConfig):
        with torch.device("meta"):  # so that no random number is drawn
            super().__init__(
                attention.embed_dim,
                attention.num_heads,
                attention.dropout,
                attention.num_buckets,
                attention.max_distance,
                hasattr(attention, "rel_attn_embed"),
            )
        for name, module in attention.named_children():
            self.add_module(name, module)
        self.gru_rel_pos_const, self.config, self.training = attention.gru_rel_pos_const, config, attention.training

    def torch_multi_head_self_attention(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, gated_position_bias: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:
        """Attends as the base class, and returns tokens ``[batch, tokens, dim]``, and weights if there are any.

        The mask ``[batch, tokens]`` is False for padding; the bias ``[batch * heads, tokens, tokens]`` is added to the
        scores.
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
