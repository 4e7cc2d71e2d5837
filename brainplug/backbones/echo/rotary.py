"""Rotary positions after a learned rotation: RoPE(x (G_1 ... G_N) R).

G_k turns one pair of a head's values by a learned angle, R is orthogonal; both are one matrix M, of the size of a head.
RoPE (Su et al., "RoFormer", 2021, https://arxiv.org/abs/2104.09864) then turns pairs by their position.
"""

import math
from collections.abc import Callable

import torch

from brainplug.backbones.echo.config import EchoConfig, bounds_of
from brainplug.errors import UsageError


class ExactBuffers(torch.nn.Module):
    """A module whose buffers are in float32, and stay so when the rest is made in, or goes into, half precision.

    Late positions would be others, and a matrix would not be orthogonal any more.
    """

    def _register_float(self, name: str, *shape: int) -> None:
        self.register_buffer(name, torch.empty(shape, dtype=torch.float32))

    def _apply(self, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "ExactBuffers":
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(change, recurse)
        for name, buffer in exact.items():
            changed = getattr(self, name)
            if changed.dtype != buffer.dtype and not buffer.is_meta:
                setattr(self, name, buffer.to(changed.device))
        return self


class GivensRotations(torch.nn.Module):
    """The product G_1 ... G_N of rotations, each of one pair of coordinates.

    With angle t, G(i, j, t) is the identity but for G_ii = G_jj = cos t, G_ij = -sin t, G_ji = sin t. The pairs are
    fixed: rounds of a tournament in which each coordinate meets each other one once, in random order, so that the
    rotations of a round commute and are made at once.

    Arguments
    ---------
    head_dim : int
        h, even.
    rotations : int, optional
        N; half of h by default: each coordinate is turned once.

    Raises
    ------
    UsageError
        More rotations than there are pairs.

    Example
    -------
    >>> rotations = GivensRotations(8)
    >>> bool((rotations() == torch.eye(8)).all()), rotations.pairs.flatten().sort()[0].tolist()
    (True, [0, 1, 2, 3, 4, 5, 6, 7])
    """

    def __init__(self, head_dim: int, rotations: int | None = None):
        super().__init__()
        rotations = head_dim // 2 if rotations is None else rotations
        most = head_dim * (head_dim - 1) // 2
        if not 1 <= rotations <= most:
            found = f"A head of {head_dim} values has {most} pairs."
            raise UsageError(f"{rotations} rotations were asked for.", found, f"Write n_rotations: {head_dim // 2}")
        self.head_dim = head_dim
        self.thetas = torch.nn.Parameter(torch.empty(rotations))  # radians
        self.theta_scale = torch.nn.Parameter(torch.empty(1))
        self.register_buffer("pairs", torch.empty(rotations, 2, dtype=torch.long))
        self.reset()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draws the pairs, and turns nothing."""
        self.thetas.zero_()
        self.theta_scale.fill_(1)
        order = torch.randperm(self.head_dim, generator=generator, device=generator.device if generator else None)
        self.pairs.copy_(order[_tournament(self.head_dim)[: len(self.pairs)].to(order.device)])

    def forward(self) -> torch.Tensor:
        """The product, ``[head_dim, head_dim]``."""
        angles = (self.thetas * self.theta_scale).float()
        product = torch.eye(self.head_dim, dtype=angles.dtype, device=angles.device)
        for pairs, some in zip(self.pairs.split(self.head_dim // 2), angles.split(self.head_dim // 2), strict=True):
            one, other = product[:, pairs[:, 0]], product[:, pairs[:, 1]]  # [head_dim, pairs]
            turned = torch.cat([one * some.cos() + other * some.sin(), other * some.cos() - one * some.sin()], dim=1)
            product = product.index_copy(1, pairs.T.flatten(), turned)
        return product


def _tournament(players: int) -> torch.Tensor:
    """Every pair of `players` (an even number) once, ``[pairs, 2]``: first all of the first round, and so on."""
    seats = torch.arange(players - 1)
    rounds = []
    for first in range(players - 1):
        turned = seats.roll(first)
        ring = torch.cat([torch.tensor([players - 1]), turned])
        rounds.append(torch.stack([ring[: players // 2], ring[players // 2 :].flip(0)], dim=1))
    return torch.cat(rounds)


class OrthogonalMatrix(ExactBuffers):
    """R: random and orthogonal; where it is trained, it stays orthogonal.

    Trained it is ``(I + A)^-1 (I - A) R_0`` (Cayley) with a skew matrix A that begins as zero.

    Arguments
    ---------
    dim : int
        Its size.
    trained : bool
        Whether it is trained.

    Example
    -------
    >>> matrix = OrthogonalMatrix(6)()
    >>> torch.allclose(matrix @ matrix.T, torch.eye(6), atol=1e-5)
    True
    """

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
            return self.start.float()  # which loading may have made wider
        skew = (self.skew - self.skew.T).float()
        one = torch.eye(len(skew), dtype=skew.dtype, device=skew.device)
        return torch.linalg.solve(one + skew, one - skew) @ self.start.float()


class RotaryPositions(ExactBuffers):
    """Turns pairs of a head's values by angles that grow with the position.

    Even values a and odd values c, position t and frequencies f_i = b^(-2i/h) become ``[a cos tf - c sin tf, a sin tf +
    c cos tf]``, one half behind the other.

    Arguments
    ---------
    head_dim : int
        h, even.
    base : float
        b.

    Example
    -------
    >>> turn = RotaryPositions(4)
    >>> tokens = torch.randn(1, 3, 4)
    >>> torch.allclose(turn(tokens).norm(dim=-1), tokens.norm(dim=-1))
    True
    """

    def __init__(self, head_dim: int, base: float = 10000.0):
        super().__init__()
        self.first_base = float(base)
        self._register_float("base")
        self._register_float("frequencies", head_dim // 2)  # radians a token
        self.reset()

    @torch.no_grad()
    def set_base(self, base: torch.Tensor) -> None:
        """Takes another base, in place.

        Arguments
        ---------
        base : torch.Tensor
            A scalar.
        """
        self.base.copy_(base)
        pairs = torch.arange(len(self.frequencies), dtype=torch.float32, device=self.frequencies.device)
        self.frequencies.copy_(self.base ** (-pairs / len(pairs)))
        self._kept = None

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Takes its first base again; nothing is drawn."""
        self.set_base(torch.full_like(self.base, self.first_base))

    def forward(self, states: torch.Tensor, offset: int = 0, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Turns states.

        Arguments
        ---------
        states : torch.Tensor
            ``[batch, heads, tokens, head_dim]``.
        offset : int
            Position of the first token.
        positions : torch.Tensor, optional
            That of each token ``[batch, tokens]``, where they are not one after the other; less than offset and tokens.

        Returns
        -------
        torch.Tensor
            Of the same shape.
        """
        length = states.shape[-2]
        if positions is None:
            tables = self._tables(offset, length, states.device)
        else:  # [batch, 1, tokens, head_dim / 2]
            tables = (table[positions].unsqueeze(1) for table in self._tables(0, offset + length, states.device))
        cosines, sines = (table.to(states.dtype) for table in tables)
        even, odd = states[..., ::2], states[..., 1::2]
        return torch.cat([even * cosines - odd * sines, even * sines + odd * cosines], dim=-1)

    def _tables(self, offset: int, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines ``[length, head_dim / 2]``; kept until the base changes or a token comes behind them."""
        end = offset + length
        if torch.compiler.is_compiling():
            return self._make_tables(torch.arange(offset, end, device=device))
        if not self._fit(end, device):
            twice = 1 << (end - 1).bit_length()  # so that not every token that is written needs others
            self._kept = self._make_tables(torch.arange(twice, device=device))
            self._kept_version = self._version()
        return self._kept[0][offset:end], self._kept[1][offset:end]

    def _fit(self, end: int, device: torch.device) -> bool:
        if self._kept is None or len(self._kept[0]) < end or self._kept[0].device != device:
            return False
        if self._kept_version != self._version():  # others have written into the frequencies, such as DDP
            return False
        # What inference mode made cannot be trained with.
        return torch.is_inference_mode_enabled() or not self._kept[0].is_inference()

    def _version(self) -> int:
        return 0 if self.frequencies.is_inference() else self.frequencies._version

    def _make_tables(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = positions[:, None] * self.frequencies
        return angles.cos(), angles.sin()

    def _apply(self, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "RotaryPositions":
        self._kept = None
        return super()._apply(change, recurse)

    def _load_from_state_dict(self, *arguments: object) -> None:
        self._kept = None
        super()._load_from_state_dict(*arguments)


class CombinedRotary(torch.nn.Module):
    """RoPE(x M) with M = (G_1 ... G_N) R, which query, key and all heads share.

    M leaves the scores of tokens as they are where these have the same position; what it changes is which mixtures of
    values turn at which frequency.

    Arguments
    ---------
    head_dim : int
        h, even.
    rotation : str
        ``combined``; ``givens``, without R; ``plain``, without M.
    rotations : int, optional
        N.
    base : float
        b of the frequencies.
    train_orthogonal : bool
        Whether R is trained.

    Example
    -------
    >>> rotary = CombinedRotary(8)
    >>> torch.allclose(rotary.matrix() @ rotary.matrix().T, torch.eye(8), atol=1e-5)
    True
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
        """M, ``[head_dim, head_dim]``, in float32; None where nothing is mixed."""
        if self.givens is None:
            return None
        with torch.autocast(self.givens.thetas.device.type, enabled=False):  # in half precision it is not orthogonal
            mixed = self.givens()
            return mixed if self.orthogonal is None else mixed @ self.orthogonal()

    def forward(
        self, *states: torch.Tensor, offset: int = 0, positions: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Mixes and turns.

        Arguments
        ---------
        *states : torch.Tensor
            ``[batch, heads, tokens, head_dim]`` each, such as queries and keys.
        offset, positions : int, torch.Tensor
            As in `RotaryPositions.forward`.

        Returns
        -------
        tuple[torch.Tensor, ...]
            Of the same shapes.
        """
        matrix = self.matrix()
        if matrix is not None:
            states = tuple(each @ matrix.to(each.dtype) for each in states)
        return tuple(self.positions(each, offset, positions) for each in states)

    def fold_into(self, projection: torch.nn.Linear) -> None:
        """Gives M to a projection: afterwards it makes what M made of its output.

        Arguments
        ---------
        projection : torch.nn.Linear
            Of queries or keys; changed in place.
        """
        matrix = self.matrix()
        if matrix is None:
            return
        with torch.no_grad():
            for tensor in (projection.weight, projection.bias):
                if tensor is not None:
                    heads = tensor.float().unflatten(
                        0, (-1, len(matrix))
                    )  # [heads, head_dim, inputs] or [heads, head_dim]
                    tensor.copy_(torch.einsum("hd...,de->he...", heads, matrix).flatten(0, 1))


def make_rotary(config: EchoConfig, head_dim: int, folded: bool = False) -> CombinedRotary:
    """Makes the rotary that a configuration describes.

    Arguments
    ---------
    config : EchoConfig
        What an Echo is made of.
    head_dim : int
        h.
    folded : bool
        Whether M is in projections, and positions alone are left.

    Returns
    -------
    CombinedRotary
        For one attention, or for the input of encoder or decoder.

    Example
    -------
    >>> make_rotary(EchoConfig(rotation="givens"), 8).orthogonal is None
    True
    """
    rotation = "plain" if folded else config.rotation
    return CombinedRotary(head_dim, rotation, config.n_rotations, config.base, config.train_orthogonal)


def rotate_heads(
    rotary: CombinedRotary, tokens: torch.Tensor, heads: int, offset: int = 0, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """Mixes and turns tokens that are not split into heads.

    Arguments
    ---------
    rotary : CombinedRotary
        For heads of ``dim / heads`` values.
    tokens : torch.Tensor
        ``[batch, tokens, dim]``.
    heads : int
        Into how many it is split.
    offset, positions : int, torch.Tensor
        As in `RotaryPositions.forward`.

    Returns
    -------
    torch.Tensor
        ``[batch, tokens, dim]``.

    Example
    -------
    >>> tokens = torch.randn(1, 3, 8)
    >>> torch.allclose(rotate_heads(CombinedRotary(4), tokens, heads=2).norm(), tokens.norm())
    True
    """
    split = tokens.unflatten(2, (heads, -1)).transpose(1, 2)
    (turned,) = rotary(split, offset=offset, positions=positions)
    return turned.transpose(1, 2).flatten(2).to(tokens.dtype)  # a product is in half precision under autocast


class AdaptiveBase(ExactBuffers):
    """A rotary base that follows the loss: a little larger while the loss falls, a little smaller while it rises.

    Every `interval` updates b becomes b f where the running mean of the loss is below what it was then, else b / f,
    within bounds. All of it is in buffers, so that it is saved and goes on.

    Arguments
    ---------
    base : float
        b in the beginning.
    factor : float
        f.
    interval : int
        Updates from one change to the next.
    lowest, highest : float
        Bounds of b.
    memory : float
        How much of the running mean an update keeps.

    Example
    -------
    >>> adaptive = AdaptiveBase(10000.0, interval=1)
    >>> changed = [adaptive.update(torch.tensor(loss)) for loss in (3.0, 2.0, 1.0)]
    >>> changed, round(adaptive.base.item(), 2)
    ([True, True, True], 10075.19)
    """

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
        self._register_float("loss_before")  # as it was at the last change
        self.register_buffer("updates", torch.empty((), dtype=torch.long))
        self.reset()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Begins anew; nothing is drawn."""
        self.base.fill_(self.first_base)
        self.loss.fill_(math.inf)
        self.loss_before.fill_(math.inf)
        self.updates.zero_()
        self._updates = None  # the same number, where it does not have to come from the device

    @torch.no_grad()
    def update(self, loss: torch.Tensor | float) -> bool:
        """Takes the loss of an update; one that is not finite counts as an update, and says nothing.

        Arguments
        ---------
        loss : torch.Tensor | float
            A scalar.

        Returns
        -------
        bool
            Whether the base may have changed.
        """
        self._updates = (int(self.updates) if self._updates is None else self._updates) + 1
        self.updates += 1
        loss = torch.as_tensor(loss, dtype=torch.float32, device=self.loss.device).detach().squeeze()
        mean = torch.where(self.loss.isinf(), loss, self.memory * self.loss + (1 - self.memory) * loss)
        self.loss.copy_(torch.where(loss.isfinite(), mean, self.loss))  # one that is not finite would stay in the mean
        if self._updates % self.interval:
            return False
        changed = torch.where(self.loss < self.loss_before, self.base * self.factor, self.base / self.factor)
        self.base.copy_(changed.clamp(self.lowest, self.highest))
        self.loss_before.copy_(self.loss)
        return True

    def _load_from_state_dict(self, *arguments: object) -> None:
        self._updates = None
        super()._load_from_state_dict(*arguments)
