"""Position embeddings for clips of another length than the pretraining's."""

from typing import Literal, get_args

import torch

from brainplug.errors import ConfigError, nearest

Positions = Literal["crop", "interpolate", "zero", "published"]
POSITIONS: tuple[str, ...] = get_args(Positions)


def check_positions(mode: str) -> None:
    """Raises a `ConfigError` for a mode that is not in `POSITIONS`."""
    if mode not in POSITIONS:
        raise ConfigError(
            f"The positions {mode!r} were asked for.", "They do not exist.", f"Write one of: {nearest(mode, POSITIONS)}"
        )


def resize_in_time(table: torch.Tensor, times: int, mode: str) -> torch.Tensor:
    """Fits a table of position embeddings ``[bands, times, dim]`` to another number of times; returns a new tensor.

    ``crop`` keeps the first ones, and interpolates if there are too few; ``interpolate`` stretches or shrinks; ``zero``
    sets all to zero; ``published`` sets all to zero if their number changes, as the published PETL code does.

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
