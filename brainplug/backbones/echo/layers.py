"""Layers of encoder and decoder, and what stands beside their attention."""

import torch
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer

from brainplug.backbones.echo.attention import CrossAttention, LocalAttention, SelfAttention
from brainplug.backbones.echo.config import EchoConfig


class FeedForward(torch.nn.Module):
    """Two linear maps with a GELU between them; four times as wide inside.

    Arguments
    ---------
    dim : int
        Width of a token.

    Example
    -------
    >>> FeedForward(8).linear_in.out_features
    32
    """

    def __init__(self, dim: int):
        super().__init__()
        self.linear_in, self.linear_out = torch.nn.Linear(dim, 4 * dim), torch.nn.Linear(4 * dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Takes and returns ``[batch, tokens, dim]``."""
        return self.linear_out(torch.nn.functional.gelu(self.linear_in(tokens)))


class LocalBranch(torch.nn.Module):
    """Attention over a window beside attention over the whole: ``W [local ; whole]``.

    Arguments
    ---------
    config : EchoConfig
        Says how wide the window is.
    dim, heads : int
        Of the attention.
    causal : bool
        Whether no token sees those behind it.
    cache_slot : int
        Its place in the cache.

    Example
    -------
    >>> config = EchoConfig(n_audio_state=16, n_audio_head=2)
    >>> tokens = torch.randn(1, 5, 16)
    >>> tuple(LocalBranch(config, 16, 2)(tokens, tokens).shape)
    (1, 5, 16)
    """

    def __init__(self, config: EchoConfig, dim: int, heads: int, causal: bool = False, cache_slot: int = 0):
        super().__init__()
        self.norm = torch.nn.LayerNorm(dim)
        self.attention = LocalAttention(config, dim, heads, causal, cache_slot, projects_output=False)
        self.mix = torch.nn.Linear(2 * dim, dim)

    def forward(
        self,
        tokens: torch.Tensor,
        whole: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        offset: int = 0,
    ) -> torch.Tensor:
        """Attends, and mixes with what attention over the whole made of the same tokens.

        Arguments
        ---------
        tokens, whole : torch.Tensor
            What the layer reads, and what its attention made of it, ``[batch, tokens, dim]`` each.
        attention_mask, cache, offset : torch.Tensor, Cache, int
            As in `SelfAttention`.

        Returns
        -------
        torch.Tensor
            ``[batch, tokens, dim]``.
        """
        local, _ = self.attention(self.norm(tokens), attention_mask, cache, offset)
        return self.mix(torch.cat([local, whole], dim=2))


class ConvolutionBranch(torch.nn.Module):
    """A convolution beside attention: ``W LN(LN(conv(x)) + attention(x))``.

    Arguments
    ---------
    dim : int
        Width of a token.
    groups : int
        Of the convolution.
    kernel_size : int
        Odd, in tokens.

    Example
    -------
    >>> tokens = torch.randn(1, 5, 16)
    >>> tuple(ConvolutionBranch(16, groups=2, kernel_size=3)(tokens, tokens).shape)
    (1, 5, 16)
    """

    def __init__(self, dim: int, groups: int, kernel_size: int):
        super().__init__()
        self.convolution = torch.nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=groups)
        self.convolution_norm, self.norm = torch.nn.LayerNorm(dim), torch.nn.LayerNorm(dim)
        self.out_proj = torch.nn.Linear(dim, dim)

    def forward(
        self, tokens: torch.Tensor, attended: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Convolves, and adds what the attention made of the same tokens.

        Arguments
        ---------
        tokens, attended : torch.Tensor
            What the layer reads, and what its attention made of it, ``[batch, tokens, dim]`` each.
        attention_mask : torch.Tensor, optional
            True where a token is no padding, ``[batch, tokens]``.

        Returns
        -------
        torch.Tensor
            ``[batch, tokens, dim]``.
        """
        if attention_mask is not None:
            tokens = tokens * attention_mask[:, :, None]
        convolved = self.convolution(tokens.transpose(1, 2)).transpose(1, 2)
        return self.out_proj(self.norm(self.convolution_norm(convolved) + attended))


class EncoderLayer(GradientCheckpointingLayer):
    """Attention, what stands beside it, and a feed-forward; a norm before each.

    Arguments
    ---------
    config : EchoConfig
        What it is made of.

    Example
    -------
    >>> layer = EncoderLayer(EchoConfig(n_audio_state=16, n_audio_head=2, use_convolution=True))
    >>> tuple(layer(torch.randn(1, 5, 16)).shape)
    (1, 5, 16)
    """

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
        """Takes and returns ``[batch, tokens, dim]``; the mask ``[batch, tokens]`` is True where none is padding."""
        tokens = self.attention_norm(hidden_states)
        attended = self.attention(tokens, attention_mask)[0]
        if self.local is not None:
            attended = self.local(tokens, attended, attention_mask)
        if self.convolution is not None:
            attended = self.convolution(tokens, attended, attention_mask)
        hidden_states = hidden_states + self.dropout(attended)
        if self.second_attention is not None:
            again = self.second_attention(self.second_norm(hidden_states), attention_mask)[0]
            hidden_states = hidden_states + self.dropout(again)
        return hidden_states + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_states)))


class DecoderLayer(GradientCheckpointingLayer):
    """Attention to the text so far, attention to the audio, and a feed-forward; a norm before each.

    Arguments
    ---------
    config : EchoConfig
        What it is made of.
    index : int
        Its number, from 0 on.

    Example
    -------
    >>> config = EchoConfig(n_audio_state=16, n_audio_head=2, n_text_state=8, n_text_head=2)
    >>> tuple(DecoderLayer(config, 0)(torch.randn(1, 3, 8), None, torch.randn(1, 9, 16)).shape)
    (1, 3, 8)
    """

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
        """Reads text and audio.

        Arguments
        ---------
        hidden_states : torch.Tensor
            Of the text, ``[batch, tokens, dim]``.
        attention_mask : torch.Tensor, optional
            True where a token of the text so far is no padding, ``[batch, tokens so far]``.
        source : torch.Tensor
            Of the audio, ``[batch, audio tokens, audio dim]``.
        source_mask : torch.Tensor, optional
            True where a token of the audio is no padding, ``[batch, audio tokens]``.
        past_key_values : EncoderDecoderCache, optional
            What was read before.
        offset : int
            How many tokens were.
        positions : torch.Tensor, optional
            Of the tokens ``[batch, tokens]``, where they do not follow those.

        Returns
        -------
        torch.Tensor
            ``[batch, tokens, dim]``.
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
        heard = self.cross_attention(tokens, source, source_mask, cross, offset, positions)[0]
        hidden_states = hidden_states + self.dropout(heard)
        return hidden_states + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_states)))
