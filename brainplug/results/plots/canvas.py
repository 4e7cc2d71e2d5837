"""What all pictures share: a file, colours for the colour-blind, labels that do not overlap."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brainplug.errors import UsageError
from brainplug.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

DOTS_PER_INCH = 130
# Okabe and Ito, https://jfly.uni-koeln.de/color/, without the yellow, which is pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
LONGEST = 28  # letters of a name in a picture
GAP = 3  # pixels about a label
# How far the centre of a label may be from its point, in steps of the label's own size, and in which directions.
DISTANCES = (0.0, 0.6, 1.2, 2.0, 3.0, 4.5)
DIRECTIONS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)])


@contextmanager
def needing_plot(asked: str) -> Iterator[None]:
    """Around imports of what the extra ``plot`` installs; ``asked`` says what needs it.

    Raises
    ------
    UsageError
        A package is not installed.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "A package").partition(".")[0]
        raise UsageError(asked, f"{package} is missing: {error}.", "Write: pip install 'brainplug[plot]'") from error


@contextmanager
def picture(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """An empty figure of some inches, which is written as a PNG once it is drawn.

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    with needing_plot(f"The picture {path} was asked for."):
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    # Names come from data: a dollar in them is a dollar, not mathematics.
    settings: Any = {"text.parse_math": False, "font.size": 9, "axes.titlesize": 10, "figure.titlesize": 10}
    with rc_context({**settings, "axes.axisbelow": True}):
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout=layout)
        yield figure
        with atomic_file(str(path), "wb") as file:
            figure.savefig(file, format="png")


def style(index: int) -> tuple[str, str, str]:
    """Colour, marker and line of a method or class: neighbours differ in all three, and no two of 56 are alike."""
    rounds, colour = divmod(index, len(COLOURS))
    shifted = colour + rounds
    return COLOURS[colour], MARKERS[shifted % len(MARKERS)], LINES[shifted % len(LINES)]


def short(name: str) -> str:
    """A name on one line, its middle left out where it is long.

    Example
    -------
    >>> short("crying baby"), len(short("a very long name of a class, with its end"))
    ('crying baby', 28)
    """
    name = " ".join(name.split())
    half = (LONGEST - 1) // 2
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1 - half]}…{name[-half:]}"


def wrapped(title: str, width: int = 90) -> str:
    """A title, broken into lines of some letters where it is long."""
    return "\n".join(textwrap.wrap(title, width))


def place_labels(
    axes: Axes, points: np.ndarray, names: Sequence[str], size: float = 8, taken: np.ndarray | None = None
) -> list[Annotation]:
    """Writes names beside points so that none overlaps another; a name far from its point has a line to it.

    Nothing may be added to the figure later: it is laid out here.

    Arguments
    ---------
    axes : Axes
        What they are written into.
    points : np.ndarray
        ``[names, 2]``, in the units of the axes.
    names, size : Sequence[str], float
        The names and the size of their letters.
    taken : np.ndarray, optional
        Boxes that no name may cover, ``[boxes, 4]``: left, bottom, right, top, in the units of the axes.
    """
    from matplotlib.patheffects import Normal, Stroke

    figure: Any = axes.get_figure()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    boxes = [] if taken is None else list(_in_pixels(axes, taken))
    placed: list[np.ndarray] = []
    annotations = []
    for point, name in zip(axes.transData.transform(points), names, strict=True):
        width, height = _size_of(axes, name, size)
        centres = point + _offsets(width + 2 * GAP, height + 2 * GAP)
        candidates = np.concatenate([centres, centres], axis=1) + np.array([-width, -height, width, height]) / 2
        lines = [_line(point, centre, max(width / 2, height) + 6 * GAP) for centre in centres]
        costs = [
            _covered(box[None], boxes) + _covered(line, placed) + _outside(box, axes)
            for box, line in zip(candidates, lines, strict=True)
        ]
        best = int(np.argmin(costs))  # the first of the best, which is the nearest
        boxes += [candidates[best], *lines[best]]
        placed.append(candidates[best])
        x, y = axes.transData.inverted().transform(point)
        annotations.append(
            axes.annotate(
                name, (x, y), (centres[best] - point) * 72 / figure.dpi,
                textcoords="offset points", ha="center", va="center", fontsize=size,
                arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.5"} if len(lines[best]) else None,
                path_effects=[Stroke(linewidth=2, foreground="white"), Normal()],
            )
        )  # fmt: skip
    return annotations


def _in_pixels(axes: Axes, boxes: np.ndarray) -> np.ndarray:
    """With a few pixels about each, for the marker."""
    corners = axes.transData.transform(np.reshape(boxes, (-1, 2))).reshape(-1, 4)
    return corners + 2 * GAP * np.array([-1, -1, 1, 1])


def _size_of(axes: Axes, name: str, size: float) -> tuple[float, float]:
    text = axes.text(0, 0, name, fontsize=size)
    extent = text.get_window_extent()
    text.remove()
    return extent.width, extent.height


def _offsets(width: float, height: float) -> np.ndarray:
    """Near ones first. A name beside its point lies half its own width away."""
    around = [DIRECTIONS * [width / 2 + step * height, height / 2 + step * height] for step in DISTANCES]
    return np.concatenate([np.zeros((1, 2)), *around])


def _line(point: np.ndarray, centre: np.ndarray, near: float) -> np.ndarray:
    """Boxes without a size on the line from a point to its name; none where the name is near."""
    far = np.abs(centre - point).max() > near
    return np.tile(np.linspace(point, centre, 12)[1:-1], 2) if far else np.empty((0, 4))


def _covered(boxes: np.ndarray, others: Sequence[np.ndarray]) -> float:
    """The area that two sets of boxes have in common, in pixels; those without a size count a little too."""
    if not len(others):
        return 0.0
    ours, theirs = boxes[:, None], np.stack(others)[None]
    sides = np.minimum(ours[..., 2:], theirs[..., 2:]) - np.maximum(ours[..., :2], theirs[..., :2]) + GAP
    return float(sides.clip(min=0).prod(axis=-1).sum())


def _outside(box: np.ndarray, axes: Axes) -> float:
    axes_box = np.array(axes.bbox.extents)
    return float(1000 * np.concatenate([axes_box[:2] - box[:2], box[2:] - axes_box[2:]]).clip(min=0).sum())
