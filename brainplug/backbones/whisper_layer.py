"""A layer of Whisper's encoder whose feed-forward block is one module."""

from typing import Any

import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer


class FeedForward(torch.nn.Module):
    """A feed-forward block without weights: the layer passes its linear maps, which keep their names in the layer."""

    def __init__(self, activation: torch.nn.Module, dropout: float):
        super().__init__()
        self.activation, self.dropout = activation, torch.nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor, linear_in: torch.nn.Module, linear_out: torch.nn.Module) -> torch.Tensor:
        """Takes and returns ``[batch, tokens, dim]``."""
        return linear_out(self.dropout(self.activation(linear_in(tokens))))


class WhisperLayer(WhisperEncoderLayer):
    """Computes what a layer of transformers does, with a `FeedForward` that a method can replace.

    It takes over the modules of the layer that it replaces.
    """

    def __init__(self, layer: WhisperEncoderLayer, config: WhisperConfig):
        with torch.device("meta"):  # so that no random number is drawn
            super().__init__(config)
        del self.final_layer_norm  # so that the parameters of a method come before those of the norm
        self.feed_forward = FeedForward(layer.activation_fn, layer.activation_dropout)
        for name, module in layer.named_children():
            self.add_module(name, module)
        self.train(layer.training)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **named: Any) -> torch.Tensor:
        """Takes and returns ``[batch, tokens, dim]``."""
        tokens = self.self_attn_layer_norm(hidden_states)
        tokens, *_ = self.self_attn(hidden_states=tokens, attention_mask=attention_mask, **named)
        hidden_states = hidden_states + self._dropped(tokens)
        tokens = self.feed_forward(self.final_layer_norm(hidden_states), self.fc1, self.fc2)
        hidden_states = hidden_states + self._dropped(tokens)
        if hidden_states.dtype == torch.float16:
            limit = torch.finfo(torch.float16).max - 1000
            hidden_states = hidden_states.clamp(-limit, limit)
        return hidden_states

    def _dropped(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(tokens, p=self.dropout, training=self.training)
