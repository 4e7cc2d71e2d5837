"""Position embeddings for clips of another length than the pretraining's."""

import torch

from brainplug.errors import UsageError, nearest

POSITIONS = ("crop", "interpolate", "zero", "published")


def check_positions(mode: str) -> None:
    """Makes sure that a mode exists.

    Arguments
    ---------
    mode : str
        One of `POSITIONS`.

    Raises
    ------
    UsageError
        It does not exist.

    Example
    -------
    >>> check_positions("crop")
    """
    if mode not in POSITIONS:
        raise UsageError(
            f"The positions {mode!r} were asked for.", "They do not exist.", f"Write one of: {nearest(mode, POSITIONS)}"
        )


def resize_in_time(table: torch.Tensor, times: int, mode: str) -> torch.Tensor:
    """Makes a table of positions for another number of times.

    Arguments
    ---------
    table : torch.Tensor
        ``[bands, times, dim]``.
    times : int
        How many there shall be.
    mode : str
        ``crop`` keeps the first ones (more are interpolated), ``interpolate`` stretches or shrinks, ``zero`` sets all
        to zero, ``published`` sets them to zero where their number changes.

    Returns
    -------
    torch.Tensor
        Another table, which shares nothing with the given one.

    Example
    -------
    >>> resize_in_time(torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]), 2, "interpolate").flatten().tolist()
    [1.5, 3.5]
    """
    if mode == "zero" or (mode == "published" and times != table.shape[1]):
        return table.new_zeros(table.shape[0], times, table.shape[2])
    if mode == "interpolate" or times > table.shape[1]:
        along_time = table.transpose(1, 2)  # [bands, dim, times]
        return torch.nn.functional.interpolate(along_time, times, mode="linear").transpose(1, 2)
    return table[:, :times].clone()
