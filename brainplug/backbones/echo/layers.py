"""Layers of encoder and decoder, and the branches beside their attention."""

import torch
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer

from brainplug.backbones.echo.attention import CrossAttention, LocalAttention, SelfAttention
from brainplug.backbones.echo.config import EchoConfig


class FeedForward(torch.nn.Module):
    """Two linear maps with a GELU between them, where it is four times as wide."""

    def __init__(self, dim: int):
        super().__init__()
        self.linear_in, self.linear_out = torch.nn.Linear(dim, 4 * dim), torch.nn.Linear(4 * dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Takes and returns ``[batch, tokens, dim]``."""
        return self.linear_out(torch.nn.functional.gelu(self.linear_in(tokens)))


class LocalBranch(torch.nn.Module):
    """Attention to a window beside attention to all tokens: ``W [local ; global]``."""

    def __init__(self, config: EchoConfig, dim: int, heads: int, causal: bool = False, cache_slot: int = 0):
        super().__init__()
        self.norm = torch.nn.LayerNorm(dim)
        self.attention = LocalAttention(config, dim, heads, causal, cache_slot, projects_output=False)
        self.mix = torch.nn.Linear(2 * dim, dim)

    def forward(
        self,
        tokens: torch.Tensor,
        attended: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        offset: int = 0,
    ) -> torch.Tensor:
        """Takes the tokens and the output of attention to all of them, ``[batch, tokens, dim]`` each.

        The other arguments are those of `SelfAttention`.
        """
        local, _ = self.attention(self.norm(tokens), attention_mask, cache, offset)
        return self.mix(torch.cat([local, attended], dim=2))


class ConvolutionBranch(torch.nn.Module):
    """A convolution beside attention: ``W LN(LN(conv(x)) + attention(x))``; the kernel size is odd."""

    def __init__(self, dim: int, groups: int, kernel_size: int):
        super().__init__()
        self.convolution = torch.nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=groups)
        self.convolution_norm, self.norm = torch.nn.LayerNorm(dim), torch.nn.LayerNorm(dim)
        self.out_proj = torch.nn.Linear(dim, dim)

    def forward(
        self, tokens: torch.Tensor, attended: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Takes the tokens and the output of their attention, ``[batch, tokens, dim]`` each."""
        if attention_mask is not None:
            tokens = tokens * attention_mask[:, :, None]
        convolved = self.convolution(tokens.transpose(1, 2)).transpose(1, 2)
        return self.out_proj(self.norm(self.convolution_norm(convolved) + attended))


class EncoderLayer(GradientCheckpointingLayer):
    """Self-attention with its branches, and a feed-forward block, each after a norm."""

    def __init__(self, config: EchoConfig):
        super().__init__()
        dim, heads = config.n_audio_state, config.n_audio_head
        self.attention_norm, self.attention = torch.nn.LayerNorm(dim), SelfAttention(config, dim, heads)
        self.local = LocalBranch(config, dim, heads) if config.use_hybrid_attention else None
        self.convolution = None
        if config.use_convolution:
            self.convolution = ConvolutionBranch(dim, heads, config.convolution_kernel)
        self.second_norm = self.second_attention = None
        if config.card_parity:
            self.second_norm, self.second_attention = torch.nn.LayerNorm(dim), SelfAttention(config, dim, heads)
        self.feed_forward_norm, self.feed_forward = torch.nn.LayerNorm(dim), FeedForward(dim)
        self.dropout = torch.nn.Dropout(config.dropout)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Takes and returns ``[batch, tokens, dim]``; the mask ``[batch, tokens]`` is False for padding."""
        tokens = self.attention_norm(hidden_states)
        attended = self.attention(tokens, attention_mask)[0]
        if self.local is not None:
            attended = self.local(tokens, attended, attention_mask)
        if self.convolution is not None:
            attended = self.convolution(tokens, attended, attention_mask)
        hidden_states = hidden_states + self.dropout(attended)
        if self.second_norm is not None and self.second_attention is not None:
            again = self.second_attention(self.second_norm(hidden_states), attention_mask)[0]
            hidden_states = hidden_states + self.dropout(again)
        return hidden_states + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_states)))


class DecoderLayer(GradientCheckpointingLayer):
    """Attention to the text so far, attention to the audio, and a feed-forward block, each after a norm."""

    def __init__(self, config: EchoConfig, index: int):
        super().__init__()
        dim, heads, causal = config.n_text_state, config.n_text_head, True
        self.attention_norm = torch.nn.LayerNorm(dim)
        self.attention = SelfAttention(config, dim, heads, causal, cache_slot=index)
        self.local = None
        if config.use_hybrid_attention:
            self.local = LocalBranch(config, dim, heads, causal, cache_slot=config.n_text_layer + index)
        self.cross_norm, self.cross_attention = torch.nn.LayerNorm(dim), CrossAttention(config, cache_slot=index)
        self.feed_forward_norm, self.feed_forward = torch.nn.LayerNorm(dim), FeedForward(dim)
        self.dropout = torch.nn.Dropout(config.dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        source: torch.Tensor,
        source_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        offset: int = 0,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Takes and returns tokens of the text, ``[batch, tokens, dim]``.

        The masks ``[batch, tokens so far]`` and ``[batch, audio tokens]`` are False for padding; the source is audio,
        ``[batch, audio tokens, audio dim]``. `offset` and `positions` are those of `RotaryPositions.forward`.
        """
        own, cross = None, None
        if past_key_values is not None:
            own, cross = past_key_values.self_attention_cache, past_key_values.cross_attention_cache
        tokens = self.attention_norm(hidden_states)
        attended = self.attention(tokens, attention_mask, own, offset)[0]
        if self.local is not None:
            attended = self.local(tokens, attended, attention_mask, own, offset)
        hidden_states = hidden_states + self.dropout(attended)
        tokens = self.cross_norm(hidden_states)
        attended = self.cross_attention(tokens, source, source_mask, cross, offset, positions)[0]
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_states)))
