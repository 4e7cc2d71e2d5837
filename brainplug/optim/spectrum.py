"""What FAM reads from a gradient: samples, their spectrum, energies of frequency bands, and the momentum they ask for.

After https://github.com/sine2pi/FAMOptimizer (``FAMOptimizer.py``, 2025). For samples s of length L there are
F = L // 2 + 1 bins; a band i of bins [start, stop) has the share ``Σ_band A_f / (Σ A_f + ε)`` of A = abs(rfft(s)).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

Bands = list[tuple[int, int]]  # bins [start, stop) of each band, low frequencies first
LARGEST_WHOLE = 10_000  # a gradient of more elements is sampled
ROWS = COLUMNS = 64
VECTOR_SAMPLES = 1000


@dataclass(frozen=True)
class Handler:
    """How the gradients of one kind of parameters are read.

    Arguments
    ---------
    bands : Callable
        Called with the number of bins and of bands; returns the bins of each band.
    rule : Callable
        Called with band energies ``[parameters, n_bands]`` and α; returns the momenta ``[parameters]``.

    Example
    -------
    >>> steady = Handler(equal_bands, lambda energies, alpha: energies.new_full((len(energies),), alpha))
    >>> steady.rule(torch.rand(2, 4), 0.5).tolist()
    [0.5, 0.5]
    """

    bands: Callable[[int, int], Bands]
    rule: Callable[[torch.Tensor, float], torch.Tensor]


# Samples


@cache
def strided_sample(shape: torch.Size, device: torch.device) -> torch.Tensor | None:
    """Chooses elements at even distances, the same in every step: indices into the flat gradient, or None for all.

    Of more than 10,000 elements it takes 64 rows and 64 columns (of the first two dimensions, and all of the others)
    or, of a vector, 1000 elements.

    Example
    -------
    >>> strided_sample(torch.Size([128, 256]), torch.device("cpu"))[:3].tolist()
    [0, 4, 8]
    """
    if shape.numel() <= LARGEST_WHOLE:
        return None
    if len(shape) == 1:
        return _evenly(shape[0], VECTOR_SAMPLES, device)
    return _block(shape, _evenly(shape[0], ROWS, device), _evenly(shape[1], COLUMNS, device))


def random_sample(shape: torch.Size, device: torch.device) -> torch.Tensor | None:
    """Chooses as many elements as `strided_sample`, at random and in random order, anew in every step.

    The published code does that. torch's generator of the CPU draws them.

    Example
    -------
    >>> len(random_sample(torch.Size([128, 256]), torch.device("cpu")))
    4096
    """
    if shape.numel() <= LARGEST_WHOLE:
        return None
    if len(shape) == 1:
        return torch.randperm(shape[0])[:VECTOR_SAMPLES].to(device)
    rows, columns = torch.randperm(shape[0])[:ROWS], torch.randperm(shape[1])[:COLUMNS]
    return _block(shape, rows, columns).to(device)


def _evenly(length: int, count: int, device: torch.device) -> torch.Tensor:
    """Up to so many whole numbers below a length, at even distances."""
    count = min(count, length)
    return torch.arange(count, device=device) * length // count


def _block(shape: torch.Size, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Flat indices of rows and columns with all that lies behind them, row by row."""
    behind = math.prod(shape[2:])
    starts = (rows[:, None] * shape[1] + columns) * behind  # [rows, columns]
    return (starts[..., None] + torch.arange(behind, device=rows.device)).flatten()


# Bands


def equal_bands(bins: int, n_bands: int) -> Bands:
    """Bands of the same width. The remainder is in none; all are empty where there are fewer bins than bands.

    Example
    -------
    >>> equal_bands(17, 4)
    [(0, 4), (4, 8), (8, 12), (12, 16)]
    """
    width = bins // n_bands
    return [(band * width, (band + 1) * width) for band in range(n_bands)]


def growing_bands(bins: int, n_bands: int) -> Bands:
    """Bands with edges at ``floor(bins^(i / n_bands) - 1)``. The first ones may be empty; the last bin is in none.

    Example
    -------
    >>> growing_bands(33, 10)[3:]
    [(1, 3), (3, 4), (4, 7), (7, 10), (10, 15), (15, 22), (22, 32)]
    """
    edges = [max(0, math.floor(bins ** (band / n_bands) - 1)) for band in range(n_bands + 1)]
    return [(start, max(start, stop)) for start, stop in zip(edges, edges[1:], strict=False)]


def halved_bands(bins: int, n_bands: int) -> Bands:
    """Equal bands in the lower half of the bins and in the upper half, of 2 bands or more; the remainders are in none.

    Example
    -------
    >>> halved_bands(33, 12)[5:7]
    [(10, 12), (16, 18)]
    """
    lower_bins, lower_bands = bins // 2, n_bands // 2
    upper = equal_bands(bins - lower_bins, n_bands - lower_bands)
    return equal_bands(lower_bins, lower_bands) + [(lower_bins + start, lower_bins + stop) for start, stop in upper]


def covering(bands: Bands, bins: int) -> Bands:
    """Gives bins that are in no band to the band below them; all bands are empty where there are fewer bins than bands.

    Example
    -------
    >>> covering(equal_bands(17, 4), 17)[-1]
    (12, 17)
    """
    if bins < len(bands):
        return [(0, 0)] * len(bands)
    starts = [start for start, _ in bands]
    return list(zip(starts, [*starts[1:], bins], strict=True))


@cache
def band_matrix(
    bands: Callable[[int, int], Bands],
    bins: int,
    n_bands: int,
    cover_all: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """A matrix ``[bins, n_bands]``, 1 where a bin is in a band, else 0; `cover_all` applies `covering`.

    Example
    -------
    >>> band_matrix(equal_bands, 17, 4, True, torch.device("cpu"), torch.float32).sum(0).tolist()
    [4.0, 4.0, 4.0, 5.0]
    """
    edges = bands(bins, n_bands)
    matrix = torch.zeros(bins, n_bands, device=device, dtype=dtype)
    for band, (start, stop) in enumerate(covering(edges, bins) if cover_all else edges):
        matrix[start:stop, band] = 1
    return matrix


def band_energies(samples: torch.Tensor, matrix: torch.Tensor, eps: float, power: bool = False) -> torch.Tensor:
    """Shares of the bands in the spectra of samples ``[parameters, length]``: ``[parameters, n_bands]``, 0 for zeros.

    Arguments
    ---------
    matrix : torch.Tensor
        As `band_matrix` returns it, for ``length // 2 + 1`` bins.
    eps : float
        ε, added to what is divided by.
    power : bool
        Takes squared amplitudes, else amplitudes.

    Example
    -------
    >>> matrix = band_matrix(equal_bands, 17, 4, False, torch.device("cpu"), torch.float32)
    >>> band_energies(torch.ones(1, 32), matrix, eps=1e-8).tolist()
    [[1.0, 0.0, 0.0, 0.0]]
    """
    parts = torch.view_as_real(torch.fft.rfft(samples)).square_()  # [parameters, bins, 2]
    spectrum = parts[..., 0] + parts[..., 1]
    if not power:
        spectrum.sqrt_()
    return spectrum @ matrix / (spectrum.sum(1, keepdim=True) + eps)


# Rules. A cap below α lowers the momentum: the published code means it so, or at least does it.


def raise_for_upper_half(energies: torch.Tensor, alpha: float) -> torch.Tensor:
    """Up to 0.95, by 0.05, where the upper half of the bands has more than 0.3.

    Example
    -------
    >>> raise_for_upper_half(torch.tensor([[0.5, 0.5], [0.8, 0.2]]), 0.5).tolist()
    [0.550000011920929, 0.5]
    """
    n_bands = energies.shape[1]
    alphas = energies.new_full((len(energies),), alpha)
    return torch.where(energies[:, n_bands // 2 :].sum(1) > 0.3, min(0.95, alpha + 0.05), alphas)


def raise_for_middle_or_top(energies: torch.Tensor, alpha: float) -> torch.Tensor:
    """Up to 0.97, by 0.07, where the middle half has more than 0.4; else to 0.95, by 0.05, for a top quarter above 0.3.

    Example
    -------
    >>> raise_for_middle_or_top(torch.tensor([[0.2, 0.4, 0.4, 0.0]]), 0.25).tolist()
    [0.3199999928474426]
    """
    n_bands = energies.shape[1]
    alphas = energies.new_full((len(energies),), alpha)
    middle_half = energies[:, n_bands // 4 : 3 * n_bands // 4].sum(1) > 0.4
    top = energies[:, 3 * n_bands // 4 :].sum(1) > 0.3
    return torch.where(middle_half, min(0.97, alpha + 0.07), torch.where(top, min(0.95, alpha + 0.05), alphas))


def follow_the_strongest(energies: torch.Tensor, alpha: float) -> torch.Tensor:
    """Down to 0.85, by 0.05, where the strongest band is in the lowest quarter; up to 0.98, by 0.08, in the highest.

    Example
    -------
    >>> follow_the_strongest(torch.eye(4), 0.9)[:3].tolist() == torch.tensor([0.85, 0.9, 0.9]).tolist()
    True
    """
    n_bands = energies.shape[1]
    alphas = energies.new_full((len(energies),), alpha)
    strongest = energies.argmax(1)
    raised = torch.where(strongest > 3 * n_bands // 4, min(0.98, alpha + 0.08), alphas)
    return torch.where(strongest < n_bands // 4, max(0.85, alpha - 0.05), raised)


def raise_for_top(energies: torch.Tensor, alpha: float) -> torch.Tensor:
    """Up to 0.98, by 0.08, where the top quarter of the bands has more than 0.2.

    Example
    -------
    >>> raise_for_top(torch.tensor([[0.7, 0.0, 0.0, 0.3]]), 0.5).tolist()
    [0.5799999833106995]
    """
    n_bands = energies.shape[1]
    alphas = energies.new_full((len(energies),), alpha)
    return torch.where(energies[:, 3 * n_bands // 4 :].sum(1) > 0.2, min(0.98, alpha + 0.08), alphas)


HANDLERS = {
    "default": Handler(equal_bands, raise_for_upper_half),
    "conv": Handler(growing_bands, raise_for_middle_or_top),
    "attention": Handler(halved_bands, follow_the_strongest),
    "embedding": Handler(equal_bands, raise_for_top),
}
# Handler -> words in the name of a group that suggest it; the first row that matches counts.
HANDLER_KEYWORDS = (
    ("conv", ("conv", "cnn")),
    ("attention", ("attention", "mha", "self_attn", "attn")),
    ("embedding", ("embed", "token")),
)


def handler_for(name: str) -> str:
    """The key of `HANDLERS` that suits a group of parameters, by the group's name.

    Example
    -------
    >>> handler_for("encoder_self_attn"), handler_for("norm")
    ('attention', 'default')
    """
    matching = (handler for handler, keywords in HANDLER_KEYWORDS if any(word in name.lower() for word in keywords))
    return next(matching, "default")
