"""Rotary positions after a learned rotation: RoPE(x (G_1 ... G_N) R).

G_k turns one pair of a head's values by a learned angle, and R is orthogonal; their product is one matrix M of the size
of a head. RoPE (Su et al., "RoFormer", 2021, https://arxiv.org/abs/2104.09864) then turns pairs by their position.
"""

import math
from collections.abc import Callable
from typing import Any, Self

import torch

from brainplug.backbones.echo.config import EchoConfig, bounds_of
from brainplug.errors import ConfigError

Tables = tuple[torch.Tensor, torch.Tensor]  # cosines and sines, [tokens, head_dim / 2] each


class ExactBuffers(torch.nn.Module):
    """A module whose buffers stay in float32 when the rest is made in, or moved to, half precision.

    In half precision late positions would change, and a matrix would not stay orthogonal.
    """

    def _register_float(self, name: str, *shape: int) -> None:
        self.register_buffer(name, torch.empty(shape, dtype=torch.float32))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            changed = getattr(self, name)
            if changed.dtype != buffer.dtype and not buffer.is_meta:
                setattr(self, name, buffer.to(changed.device))
        return self


class GivensRotations(torch.nn.Module):
    """The product G_1 ... G_N of rotations, each of one pair of coordinates.

    With angle t, G(i, j, t) is the identity but for G_ii = G_jj = cos t, G_ij = -sin t, G_ji = sin t. The pairs are
    fixed: rounds of a tournament in which each coordinate meets each other one once, in random order. The rotations of
    a round commute, so that they are computed at once.

    N (`rotations`) is h / 2 by default, so that each of the h coordinates is turned once; h is even.
    """

    pairs: torch.Tensor

    def __init__(self, head_dim: int, rotations: int | None = None):
        super().__init__()
        rotations = head_dim // 2 if rotations is None else rotations
        most = head_dim * (head_dim - 1) // 2
        if not 1 <= rotations <= most:
            problem = f"A head of {head_dim} values has {most} pairs."
            raise ConfigError(f"{rotations} rotations were asked for.", problem, f"Write n_rotations: {head_dim // 2}")
        self.head_dim = head_dim
        self.thetas = torch.nn.Parameter(torch.empty(rotations))  # radians
        self.theta_scale = torch.nn.Parameter(torch.empty(1))
        self.register_buffer("pairs", torch.empty(rotations, 2, dtype=torch.long))
        self.reset()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draws the pairs; all angles are zero."""
        self.thetas.zero_()
        self.theta_scale.fill_(1)
        order = torch.randperm(self.head_dim, generator=generator, device=generator.device if generator else None)
        self.pairs.copy_(order[_tournament(self.head_dim)[: len(self.pairs)].to(order.device)])

    def forward(self) -> torch.Tensor:
        """The product, ``[head_dim, head_dim]``."""
        angles = (self.thetas * self.theta_scale).float()
        product = torch.eye(self.head_dim, dtype=angles.dtype, device=angles.device)
        rounds = zip(self.pairs.split(self.head_dim // 2), angles.split(self.head_dim // 2), strict=True)
        for pairs, angle in rounds:
            one, other = product[:, pairs[:, 0]], product[:, pairs[:, 1]]  # [head_dim, pairs]
            turned = torch.cat([one * angle.cos() + other * angle.sin(), other * angle.cos() - one * angle.sin()], 1)
            product = product.index_copy(1, pairs.T.flatten(), turned)
        return product


def _tournament(players: int) -> torch.Tensor:
    """Every pair of an even number of players once, ``[pairs, 2]``, one round after the other."""
    seats = torch.arange(players - 1)
    rounds = []
    for first in range(players - 1):
        ring = torch.cat([torch.tensor([players - 1]), seats.roll(first)])
        rounds.append(torch.stack([ring[: players // 2], ring[players // 2 :].flip(0)], dim=1))
    return torch.cat(rounds)


class OrthogonalMatrix(ExactBuffers):
    """R: random and orthogonal. If it is trained, it stays orthogonal.

    Then it is ``(I + A)^-1 (I - A) R_0`` (Cayley) with a skew matrix A that starts as zero.
    """

    start: torch.Tensor
    skew: torch.nn.Parameter | None

    def __init__(self, dim: int, trained: bool = False):
        super().__init__()
        self._register_float("start", dim, dim)
        self.register_parameter("skew", torch.nn.Parameter(torch.empty(dim, dim)) if trained else None)
        self.reset()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draws R_0."""
        torch.nn.init.orthogonal_(self.start, generator=generator)
        if self.skew is not None:
            self.skew.zero_()

    def forward(self) -> torch.Tensor:
        """The matrix, ``[dim, dim]``."""
        if self.skew is None:
            return self.start.float()  # loading may have made it wider
        skew = (self.skew - self.skew.T).float()
        one = torch.eye(len(skew), dtype=skew.dtype, device=skew.device)
        return torch.linalg.solve(one + skew, one - skew) @ self.start.float()


class RotaryPositions(ExactBuffers):
    """Turns pairs of a head's values by angles that grow with the position.

    Even values a and odd values c, position t and frequencies f_i = b^(-2i/h) become ``[a cos tf - c sin tf, a sin tf +
    c cos tf]``, one half after the other.
    """

    base: torch.Tensor
    frequencies: torch.Tensor

    def __init__(self, head_dim: int, base: float = 10000.0):
        super().__init__()
        self.first_base = float(base)
        self._register_float("base")
        self._register_float("frequencies", head_dim // 2)  # radians a token
        self._cache: Tables | None = None
        self.reset()

    @torch.no_grad()
    def set_base(self, base: torch.Tensor) -> None:
        """Changes the base, a scalar, in place."""
        self.base.copy_(base)
        pairs = torch.arange(len(self.frequencies), dtype=torch.float32, device=self.frequencies.device)
        self.frequencies.copy_(self.base ** (-pairs / len(pairs)))
        self._cache = None

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Goes back to the first base; nothing is drawn."""
        self.set_base(torch.full_like(self.base, self.first_base))

    def forward(self, states: torch.Tensor, offset: int = 0, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Turns ``[batch, heads, tokens, head_dim]``, the first token at the position `offset`.

        If the tokens are not consecutive, `positions` ``[batch, tokens]`` has that of each, all less than `offset` and
        tokens together.
        """
        length = states.shape[-2]
        if positions is None:
            cosines, sines = self._tables(offset, length, states.device)
        else:  # [batch, 1, tokens, head_dim / 2]
            cosines, sines = (
                table[positions].unsqueeze(1) for table in self._tables(0, offset + length, states.device)
            )
        cosines, sines = cosines.to(states.dtype), sines.to(states.dtype)
        even, odd = states[..., ::2], states[..., 1::2]
        return torch.cat([even * cosines - odd * sines, even * sines + odd * cosines], dim=-1)

    def _tables(self, offset: int, length: int, device: torch.device) -> Tables:
        end = offset + length
        if torch.compiler.is_compiling():
            return self._make_tables(torch.arange(offset, end, device=device))
        tables = self._cached_tables(end, device)
        if tables is None:
            size = 1 << (end - 1).bit_length()  # so that not every generated token needs new ones
            tables = self._cache = self._make_tables(torch.arange(size, device=device))
            self._cache_version = self._frequencies_version()
        return tables[0][offset:end], tables[1][offset:end]

    def _cached_tables(self, end: int, device: torch.device) -> Tables | None:
        """The tables in the cache, unless they are too short, on another device, or out of date."""
        tables = self._cache
        if tables is None or len(tables[0]) < end or tables[0].device != device:
            return None
        if self._cache_version != self._frequencies_version():  # others, such as DDP, have written into the frequencies
            return None
        # Tables that inference mode made cannot be trained with.
        return tables if torch.is_inference_mode_enabled() or not tables[0].is_inference() else None

    def _frequencies_version(self) -> int:
        return 0 if self.frequencies.is_inference() else self.frequencies._version

    def _make_tables(self, positions: torch.Tensor) -> Tables:
        angles = positions[:, None] * self.frequencies
        return angles.cos(), angles.sin()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        self._cache = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._cache = None
        super()._load_from_state_dict(*arguments)


class CombinedRotary(torch.nn.Module):
    """RoPE(x M) with M = (G_1 ... G_N) R, which query, key and all heads share.

    M leaves the scores of tokens at the same position as they are; it changes which mixtures of values turn at which
    frequency. The rotation ``givens`` leaves R out, and ``plain`` M.
    """

    def __init__(
        self,
        head_dim: int,
        rotation: str = "combined",
        rotations: int | None = None,
        base: float = 10000.0,
        train_orthogonal: bool = False,
    ):
        super().__init__()
        self.givens = None if rotation == "plain" else GivensRotations(head_dim, rotations)
        self.orthogonal = OrthogonalMatrix(head_dim, train_orthogonal) if rotation == "combined" else None
        self.positions = RotaryPositions(head_dim, base)

    def matrix(self) -> torch.Tensor | None:
        """M, ``[head_dim, head_dim]``, in float32; None if the rotation is ``plain``."""
        if self.givens is None:
            return None
        with torch.autocast(self.givens.thetas.device.type, enabled=False):  # in half precision it is not orthogonal
            product = self.givens()
            return product if self.orthogonal is None else product @ self.orthogonal()

    def forward(
        self, *states: torch.Tensor, offset: int = 0, positions: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Turns ``[batch, heads, tokens, head_dim]`` each; `offset` and `positions` as in `RotaryPositions.forward`."""
        matrix = self.matrix()
        if matrix is not None:
            states = tuple(state @ matrix.to(state.dtype) for state in states)
        return tuple(self.positions(state, offset, positions) for state in states)

    @torch.no_grad()
    def fold_into(self, projection: torch.nn.Linear) -> None:
        """Multiplies the weights of a projection of queries or keys by M, in place."""
        matrix = self.matrix()
        if matrix is None:
            return
        for tensor in (projection.weight, projection.bias):
            if tensor is not None:
                heads = tensor.float().unflatten(0, (-1, len(matrix)))  # [heads, head_dim, inputs] or [heads, head_dim]
                tensor.copy_(torch.einsum("hd...,de->he...", heads, matrix).flatten(0, 1))


def make_rotary(config: EchoConfig, head_dim: int, folded: bool = False) -> CombinedRotary:
    """The rotary that a configuration describes; if M is folded into the projections, it has positions alone."""
    rotation = "plain" if folded else config.rotation
    return CombinedRotary(head_dim, rotation, config.n_rotations, config.base, config.train_orthogonal)


def rotate_heads(
    rotary: CombinedRotary, tokens: torch.Tensor, heads: int, offset: int = 0, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """Turns tokens ``[batch, tokens, dim]`` that are not split into heads."""
    split = tokens.unflatten(2, (heads, -1)).transpose(1, 2)
    (turned,) = rotary(split, offset=offset, positions=positions)
    return turned.transpose(1, 2).flatten(2).to(tokens.dtype)  # under autocast a product is in half precision


class AdaptiveBase(ExactBuffers):
    """A rotary base that follows the loss: a little larger while the loss falls, a little smaller while it rises.

    Every `interval` updates b becomes b f if the running mean of the loss is lower than it was then, else b / f, within
    bounds. All of it is in buffers, so that it is saved. `memory` is the weight of the old mean at each update.
    """

    base: torch.Tensor
    loss: torch.Tensor
    loss_before: torch.Tensor
    updates: torch.Tensor

    def __init__(
        self,
        base: float,
        factor: float = 1.0025,
        interval: int = 25,
        lowest: float | None = None,
        highest: float | None = None,
        memory: float = 0.9,
    ):
        super().__init__()
        self.factor, self.interval, self.memory = factor, interval, memory
        self.lowest, self.highest = bounds_of(base, lowest, highest)
        self.first_base = float(base)
        self._register_float("base")
        self._register_float("loss")  # the running mean
        self._register_float("loss_before")  # the running mean at the last change
        self.register_buffer("updates", torch.empty((), dtype=torch.long))
        self.reset()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Starts anew; nothing is drawn."""
        self.base.fill_(self.first_base)
        self.loss.fill_(math.inf)
        self.loss_before.fill_(math.inf)
        self.updates.zero_()
        self._updates: int | None = None  # the same number, which need not be read from the device

    @torch.no_grad()
    def update(self, loss: torch.Tensor | float) -> bool:
        """Takes the loss of an update, a scalar, and returns whether the base may have changed.

        A loss that is not finite counts as an update, but does not enter the mean.
        """
        self._updates = (int(self.updates) if self._updates is None else self._updates) + 1
        self.updates += 1
        loss = torch.as_tensor(loss, dtype=torch.float32, device=self.loss.device).detach().squeeze()
        mean = torch.where(self.loss.isinf(), loss, self.memory * self.loss + (1 - self.memory) * loss)
        self.loss.copy_(torch.where(loss.isfinite(), mean, self.loss))
        if self._updates % self.interval:
            return False
        changed = torch.where(self.loss < self.loss_before, self.base * self.factor, self.base / self.factor)
        self.base.copy_(changed.clamp(self.lowest, self.highest))
        self.loss_before.copy_(self.loss)
        return True

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._updates = None
        super()._load_from_state_dict(*arguments)
