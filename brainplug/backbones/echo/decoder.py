"""Echo's decoder: attends to the text so far, which it keeps in a cache, and to the audio."""

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.output_capturing import capture_outputs

from brainplug.backbones.echo.attention import CrossAttention, SelfAttention
from brainplug.backbones.echo.config import EchoConfig
from brainplug.backbones.echo.layers import DecoderLayer
from brainplug.backbones.echo.positions import LearnedSinusoids
from brainplug.backbones.echo.pretrained import EchoPreTrainedModel
from brainplug.backbones.echo.rotary import make_rotary, rotate_heads
from brainplug.errors import ConfigError, DataError


class EchoDecoder(EchoPreTrainedModel):
    """Turns the text so far and the audio into hidden states of the next token."""

    main_input_name = "input_ids"
    _can_record_outputs = {  # noqa: RUF012  as transformers reads it
        "hidden_states": DecoderLayer,
        "attentions": SelfAttention,
        "cross_attentions": CrossAttention,
    }

    def __init__(self, config: EchoConfig):
        super().__init__(config)
        config.check()
        dim, heads = config.n_text_state, config.n_text_head
        self.embed_tokens = torch.nn.Embedding(config.vocab_size, dim)
        self.positions = LearnedSinusoids(config.n_text_ctx, dim, config.embedding_gain)
        self.rotary = make_rotary(config, dim // heads)
        self.layers = torch.nn.ModuleList([DecoderLayer(config, index) for index in range(config.n_text_layer)])
        self.norm = torch.nn.LayerNorm(dim)
        self._finish(config)

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        **named: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Turns the tokens of texts into hidden states ``[batch, tokens, dim]``.

        Arguments
        ---------
        input_ids : torch.Tensor
            ``[batch, tokens]``; with a cache, the new ones only.
        attention_mask, encoder_attention_mask : torch.Tensor, optional
            1 where a token is no padding, ``[batch, tokens so far]`` and ``[batch, audio tokens]``.
        encoder_hidden_states : torch.Tensor
            Of the audio, ``[batch, audio tokens, audio dim]``.
        """
        use_cache = self.config.use_cache if use_cache is None else use_cache
        use_cache = use_cache and not self.training  # a layer that is computed twice would be cached twice
        offset = 0
        if past_key_values is not None:
            _check_cache(past_key_values)
            offset = past_key_values.get_seq_length()
        if use_cache and not offset:
            past_key_values = _empty_cache(past_key_values)
        length = input_ids.shape[1]
        self._check(attention_mask, encoder_hidden_states, offset + length)
        if attention_mask is None:
            present, positions, embedded = None, None, self.positions(length, offset)
        else:
            present = attention_mask.bool()
            positions = _positions(present, length)
            embedded = self.positions(offset + length)[positions]
        tokens = self.embed_tokens(input_ids) + embedded
        tokens = rotate_heads(self.rotary, tokens, self.config.n_text_head, offset, positions)
        for layer in self.layers:
            tokens = layer(
                tokens,
                present,
                encoder_hidden_states,
                encoder_attention_mask,
                past_key_values=past_key_values if use_cache or offset else None,
                offset=offset,
                positions=positions,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            self.norm(tokens), past_key_values=past_key_values if use_cache else None
        )

    def _check(self, mask: torch.Tensor | None, audio: torch.Tensor | None, so_far: int) -> None:
        if audio is None:
            raise DataError("A text was given.", "There is no audio to it.", "Give encoder_hidden_states")
        if mask is not None and mask.shape[1] != so_far:
            raise DataError(
                f"A mask of {mask.shape[1]} tokens of the text was given.",
                f"There are {so_far} so far, with those in the cache.",
                "Give decoder_attention_mask [batch, tokens so far]",
            )


def _positions(present: torch.Tensor, length: int) -> torch.Tensor:
    """Positions of the last `length` tokens, ``[batch, length]``, counted from the end of the padding in front."""
    padding = (present.cumsum(1) == 0).sum(1, keepdim=True)  # [batch, 1]
    columns = torch.arange(present.shape[1] - length, present.shape[1], device=present.device)
    return (columns - padding).clamp(min=0)


def _empty_cache(given: EncoderDecoderCache | None) -> EncoderDecoderCache:
    """A cache that grows as needed; in that of transformers there are as many slots as the encoder has layers."""
    if given is None or given.self_attention_cache.layers:
        return EncoderDecoderCache(DynamicCache(), DynamicCache())
    return given


def _check_cache(cache: EncoderDecoderCache) -> None:
    of_text = getattr(cache, "self_attention_cache", None)
    if type(of_text) is not DynamicCache:
        problem = f"It is {type(of_text or cache).__name__}; this decoder keeps text and audio in a DynamicCache each."
        raise ConfigError("A cache was given.", problem, "Leave past_key_values and cache_implementation out")
