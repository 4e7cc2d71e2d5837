"""Attention with rotary positions and relative biases: to all tokens, to a window, to another sequence."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.whisper.modeling_whisper import eager_attention_forward

from brainplug.backbones.echo.config import EchoConfig
from brainplug.backbones.echo.rotary import CombinedRotary, make_rotary
from brainplug.errors import ConfigError

AttentionFunction = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True)
class Distances:
    """Position of each query minus that of each key; both are consecutive.

    Example
    -------
    >>> Distances(2, 3, first=1).matrix("cpu").tolist()
    [[1, 0, -1], [2, 1, 0]]
    """

    queries: int
    keys: int
    first: int = 0  # distance of the first query from the first key

    def matrix(self, device: torch.device | str) -> torch.Tensor:
        """All distances, ``[queries, keys]``."""
        queries = torch.arange(self.first, self.first + self.queries, device=device)
        return queries[:, None] - torch.arange(self.keys, device=device)


class RelativeBias(torch.nn.Module):
    """A learned number for each distance and head, which is added to the scores; zero at the start.

    Distances of D - 1 (`max_rel_dist`) and more share one number at each end.
    """

    def __init__(self, max_rel_dist: int, heads: int):
        super().__init__()
        self.table = torch.nn.Parameter(torch.empty(2 * max_rel_dist - 1, heads))
        self.reset()

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Sets all numbers to zero."""
        torch.nn.init.zeros_(self.table)

    def forward(self, distances: Distances) -> torch.Tensor:
        """The biases ``[heads, queries, keys]``."""
        farthest = len(self.table) // 2
        # One value for each distance, from the largest to the smallest; each query reads a section of them.
        descending = distances.first + distances.queries - 1 - torch.arange(
            distances.queries + distances.keys - 1, device=self.table.device
        )  # fmt: skip
        values = self.table[descending.clamp(-farthest, farthest) + farthest].T
        return values.unfold(1, distances.keys, 1).flip(1)


class Attention(torch.nn.Module):
    """Projections, and one call of the attention function of transformers that the configuration names.

    Scores are q k / sqrt(h). Keys have no bias.

    Arguments
    ---------
    source_dim : int, optional
        Width of the tokens that keys and values are made of; `dim` by default.
    projects_output : bool
        Whether a linear map mixes the heads' values at the end.
    """

    def __init__(
        self, config: EchoConfig, dim: int, heads: int, source_dim: int | None = None, projects_output: bool = True
    ):
        super().__init__()
        self.config, self.heads, self.scaling = config, heads, (dim // heads) ** -0.5
        self.q_proj = torch.nn.Linear(dim, dim)
        self.k_proj = torch.nn.Linear(source_dim or dim, dim, bias=False)
        self.v_proj = torch.nn.Linear(source_dim or dim, dim)
        self.out_proj = torch.nn.Linear(dim, dim) if projects_output else torch.nn.Identity()
        self.rotary: CombinedRotary | None = None

    def split(self, tokens: torch.Tensor) -> torch.Tensor:
        """Splits ``[batch, tokens, dim]`` into ``[batch, heads, tokens, head_dim]``."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def function(self) -> AttentionFunction:
        """The attention function in use: one of transformers, or one that was registered there."""
        return AttentionInterface().get_interface(self.config._attn_implementation, eager_attention_forward)

    def check_folds(self) -> None:
        """Raises a `ConfigError` if a method has replaced a projection, which the rotation would not reach."""
        for projection in (self.q_proj, self.k_proj):
            if self.rotary is not None and type(projection) is not torch.nn.Linear:
                raise ConfigError(
                    "Folding the rotations was asked for.",
                    f"A projection is a {type(projection).__name__}: a method has changed it.",
                    "Merge the method first, with model.merge()",
                )

    def fold(self) -> None:
        """Multiplies the projections of queries and keys by the learned rotation; the output stays the same."""
        if self.rotary is not None:
            for projection in (self.q_proj, self.k_proj):
                self.rotary.fold_into(projection)
            self.rotary.givens = self.rotary.orthogonal = None

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attends, and mixes the heads; also returns the weights if the attention function does.

        Queries, keys and values are ``[batch, heads, tokens, head_dim]``, and the result ``[batch, queries, dim]``. The
        mask ``[batch or 1, heads or 1, queries, keys]`` is added to the scores.
        """
        values, weights = self.function()(self, query, key, value, mask, scaling=self.scaling, is_causal=False)
        return self.out_proj(values.flatten(2)), weights


def added_to_scores(allowed: torch.Tensor, scores: torch.Tensor | float, dtype: torch.dtype) -> torch.Tensor:
    """The scores where a key is allowed, and elsewhere the lowest number: it is finite, so that no row becomes NaN."""
    scores = torch.as_tensor(scores, dtype=dtype, device=allowed.device)
    return torch.where(allowed, scores, torch.finfo(dtype).min)


class RotaryAttention(Attention):
    """Attention within a sequence: rotary positions, biases, and a slot of the cache for keys and values.

    If it is causal, a token attends to none after it.
    """

    rotary: CombinedRotary

    def __init__(
        self,
        config: EchoConfig,
        dim: int,
        heads: int,
        causal: bool = False,
        cache_slot: int = 0,
        projects_output: bool = True,
    ):
        super().__init__(config, dim, heads, projects_output=projects_output)
        self.causal, self.cache_slot = causal, cache_slot
        self.rotary = make_rotary(config, dim // heads, config.folded)
        self.bias = RelativeBias(config.max_rel_dist, heads) if config.max_rel_dist else None
        self.positional_scaling = torch.nn.Parameter(torch.empty(1))
        self.reset()

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Sets the scaling to 1."""
        torch.nn.init.ones_(self.positional_scaling)

    def read(
        self, tokens: torch.Tensor, cache: Cache | None, offset: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries of the tokens, keys and values of all so far, ``[batch, heads, tokens, head_dim]`` each."""
        query, key = self.rotary(self.split(self.q_proj(tokens)), self.split(self.k_proj(tokens)), offset=offset)
        scaling = self.positional_scaling.to(query.dtype)
        query, key = query * scaling, key * scaling
        value = self.split(self.v_proj(tokens))
        if cache is not None:
            key, value = cache.update(key, value, self.cache_slot)
        return query, key, value

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        offset: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attends; returns tokens ``[batch, tokens, dim]`` and, if the attention function has them, the weights.

        Arguments
        ---------
        attention_mask : torch.Tensor, optional
            False where a token is padding, ``[batch, keys]``.
        cache : Cache, optional
            Keys and values of the `offset` tokens before; it is extended.
        """
        return self.attend_to(*self.read(hidden_states, cache, offset), attention_mask)

    def attend_to(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, present: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attends with queries at the last positions of the keys; `present` as in `mask`."""
        queries, keys = query.shape[2], key.shape[2]
        mask = self.mask(Distances(queries, keys, first=keys - queries), present, query.dtype)
        return self.attend(query, key, value, mask)

    def allowed(self, distances: Distances, device: torch.device) -> torch.Tensor | None:
        """Which keys a query may attend to, ``[queries, keys]``; None: all."""
        return distances.matrix(device) >= 0 if self.causal else None

    def mask(self, distances: Distances, present: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
        """What is added to the scores, ``[batch or 1, heads or 1, queries, keys]``; None: nothing.

        `present` ``[batch, keys]`` is False where a key is padding.
        """
        allowed = self.allowed(distances, self.positional_scaling.device)
        if present is not None:
            present = present[:, None, None]  # [batch, 1, 1, keys]
            allowed = present if allowed is None else allowed & present
        bias = None if self.bias is None else self.bias(distances)[None].to(dtype)
        if allowed is None:
            return bias
        mask = added_to_scores(allowed, 0.0 if bias is None else bias, dtype)
        return mask if mask.dim() == 4 else mask[None, None]


class SelfAttention(RotaryAttention):
    """Attention to all tokens."""


class LocalAttention(RotaryAttention):
    """Attention to the tokens at most `window_size` away; if it is causal, to those before.

    It is computed in blocks of `window_size` queries, each with the keys of its own block and of its neighbours, so
    that time and memory grow with the number of tokens, not with its square.
    """

    def allowed(self, distances: Distances, device: torch.device) -> torch.Tensor:
        """Keys within the window."""
        window, matrix = self.config.window_size, distances.matrix(device)
        return (matrix <= window) & (matrix >= (0 if self.causal else -window))

    def function(self) -> AttentionFunction:
        """Always torch's own: functions that others register are for attention to all tokens."""
        return sdpa_attention_forward

    def attend_to(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, present: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As the base class; in blocks, unless there are keys of a cache."""
        if query.shape[2] != key.shape[2]:
            return super().attend_to(query, key, value, present)
        batch, heads, tokens, head_dim = query.shape
        window = min(self.config.window_size, tokens)
        blocks = -(-tokens // window)
        after = blocks * window - tokens  # fills the last block
        query = torch.nn.functional.pad(query, (0, 0, 0, after))
        query = query.unflatten(2, (blocks, window)).transpose(1, 2).flatten(0, 1)  # [batch blocks, heads, w, head_dim]
        key, value = (
            torch.nn.functional.pad(states, (0, 0, window, after + window))
            .unfold(2, 3 * window, window)  # [batch, heads, blocks, head_dim, 3 w]
            .permute(0, 2, 1, 4, 3)
            .flatten(0, 1)
            for states in (key, value)
        )
        if present is None:
            present = torch.ones(1, tokens, dtype=torch.bool, device=query.device)
        present = torch.nn.functional.pad(present, (window, after + window)).unfold(1, 3 * window, window)
        present = present.expand(batch, -1, -1).flatten(0, 1)  # [batch blocks, 3 w]
        mask = self.mask(Distances(window, 3 * window, first=window), present, query.dtype)
        values, _ = self.attend(query, key, value, mask)
        return values.unflatten(0, (batch, blocks)).flatten(1, 2)[:, :tokens], None


class CrossAttention(Attention):
    """Attention of the text to all of the audio.

    Positions play no part, since those of text and audio are unrelated; with `card_parity` both are turned anyway.
    """

    def __init__(self, config: EchoConfig, cache_slot: int = 0):
        super().__init__(config, config.n_text_state, config.n_text_head, config.n_audio_state)
        self.cache_slot = cache_slot
        if config.card_parity:
            self.rotary = make_rotary(config, config.n_text_state // config.n_text_head, config.folded)

    def forward(
        self,
        hidden_states: torch.Tensor,
        source: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        offset: int = 0,
        positions: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attends from text ``[batch, tokens, dim]`` to audio ``[batch, audio tokens, audio dim]``.

        The mask ``[batch, audio tokens]`` is False for padding; `offset` and `positions` are those of the text.
        """
        query = self.split(self.q_proj(hidden_states))
        if self.rotary is not None:
            (query,) = self.rotary(query, offset=offset, positions=positions)
        if cache is not None and cache.get_seq_length(self.cache_slot):
            slot: Any = cache.layers[self.cache_slot]
            key, value = slot.keys, slot.values
        else:
            key, value = self.split(self.k_proj(source)), self.split(self.v_proj(source))
            if self.rotary is not None:
                (key,) = self.rotary(key)
            if cache is not None:
                key, value = cache.update(key, value, self.cache_slot)
        mask = None
        if attention_mask is not None:
            mask = added_to_scores(attention_mask.bool()[:, None, None], 0.0, query.dtype)
        return self.attend(query, key, value, mask)
