"""What all pictures share: a file, colours that the colour-blind tell apart, labels that do not lie on each other."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brainplug.errors import UsageError
from brainplug.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 130
# Okabe and Ito, https://jfly.uni-koeln.de/color/, without the yellow, which is pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
LONGEST = 28  # letters of a name in a picture
GAP = 3  # pixels about a label
# How far a label's middle may lie from its point, in steps of the label's own size, and in which directions.
DISTANCES = (0.0, 0.6, 1.2, 2.0, 3.0, 4.5)
DIRECTIONS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)])


@contextmanager
def needing_plot(asked: str) -> Iterator[None]:
    """Around imports of what the extra ``plot`` brings.

    Arguments
    ---------
    asked : str
        What it is needed for.

    Raises
    ------
    UsageError
        It is not installed.

    Example
    -------
    >>> with needing_plot("A picture was asked for."):
    ...     raise ImportError("No module named 'matplotlib'", name="matplotlib")
    Traceback (most recent call last):
    brainplug.errors.UsageError: A picture was asked for. matplotlib is missing: ... pip install 'brainplug[plot]'
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "A package").partition(".")[0]
        raise UsageError(asked, f"{package} is missing: {error}.", "Write: pip install 'brainplug[plot]'") from error


@contextmanager
def picture(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """A figure that is written once it is drawn.

    Arguments
    ---------
    path : str | Path
        The PNG.
    width, height : float
        Inches.

    Yields
    ------
    Figure
        Empty.

    Raises
    ------
    UsageError
        matplotlib is not installed.

    Example
    -------
    >>> path = getfixture("tmp_path") / "one.png"
    >>> with picture(path, 4, 3) as figure:
    ...     _ = figure.subplots().set_title("a $ is a $")
    >>> path.read_bytes()[1:4]
    b'PNG'
    """
    with needing_plot(f"The picture {path} was asked for."):
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    # Names come from data: no dollar in them means mathematics.
    settings = {"text.parse_math": False, "font.size": 9, "axes.titlesize": 10, "figure.titlesize": 10}
    with rc_context({**settings, "axes.axisbelow": True}):
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        yield figure
        with atomic_file(str(path), "wb") as file:
            figure.savefig(file, format="png")


def style(place: int) -> tuple[str, str, str]:
    """How a method or a class is drawn: neighbours differ in all three, and no two of 56 are alike.

    Arguments
    ---------
    place : int
        Its place among all.

    Returns
    -------
    tuple[str, str, str]
        Colour, marker and line.

    Example
    -------
    >>> len({style(place)[:2] for place in range(56)})
    56
    """
    times, colour = divmod(place, len(COLOURS))
    turned = colour + times
    return COLOURS[colour], MARKERS[turned % len(MARKERS)], LINES[turned % len(LINES)]


def short(name: str) -> str:
    """A name as long as a picture can hold.

    Arguments
    ---------
    name : str
        Any text.

    Returns
    -------
    str
        On one line, its middle left out where it is long.

    Example
    -------
    >>> short("crying baby"), len(short("a very long name of a class, with its end"))
    ('crying baby', 28)
    """
    name = " ".join(name.split())
    half = (LONGEST - 1) // 2
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1 - half]}…{name[-half:]}"


def wrapped(title: str, width: int = 90) -> str:
    """A title, broken into lines where it is long.

    Arguments
    ---------
    title : str
        Any text.
    width : int
        Letters of a line.

    Returns
    -------
    str
        Lines.

    Example
    -------
    >>> max(map(len, wrapped("several words " * 20).splitlines())) <= 90
    True
    """
    return "\n".join(textwrap.wrap(title, width))


def place_labels(
    axes: Axes, points: np.ndarray, names: Sequence[str], size: float = 8, taken: np.ndarray | None = None
) -> list:
    """Writes names beside points, such that no name lies on another one; one that lies far has a line to its point.

    Nothing may be added to the figure later: it is laid out here.

    Arguments
    ---------
    axes : Axes
        Where.
    points : np.ndarray
        ``[names, 2]``, in the units of the axes.
    names : Sequence[str]
        The names.
    size : float
        Of the letters.
    taken : np.ndarray, optional
        Boxes that no name may cover, ``[boxes, 4]``: left, bottom, right, top, in the units of the axes.

    Returns
    -------
    list
        Matplotlib's annotations.
    """
    from matplotlib.patheffects import Normal, Stroke

    figure = axes.get_figure()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    boxes = [] if taken is None else list(_in_pixels(axes, taken))
    placed, annotations = [], []
    for point, name in zip(axes.transData.transform(points), names, strict=True):
        width, height = _size_of(axes, name, size)
        middles = point + _offsets(width + 2 * GAP, height + 2 * GAP)
        candidates = np.concatenate([middles, middles], axis=1) + np.array([-width, -height, width, height]) / 2
        lines = [_line(point, middle, max(width / 2, height) + 6 * GAP) for middle in middles]
        costs = [
            _covered(box[None], boxes) + _covered(line, placed) + _outside(box, axes)
            for box, line in zip(candidates, lines, strict=True)
        ]
        best = int(np.argmin(costs))  # the first of the best, which is the nearest
        boxes += [candidates[best], *lines[best]]
        placed.append(candidates[best])
        annotations.append(
            axes.annotate(
                name, axes.transData.inverted().transform(point), (middles[best] - point) * 72 / figure.dpi,
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


def _line(point: np.ndarray, middle: np.ndarray, near: float) -> np.ndarray:
    """Boxes without a size on the line from a point to its name; none where the name is near."""
    far = np.abs(middle - point).max() > near
    return np.tile(np.linspace(point, middle, 12)[1:-1], 2) if far else np.empty((0, 4))


def _covered(boxes: np.ndarray, others: Sequence[np.ndarray]) -> float:
    """The area that two sets of boxes have in common, in pixels; those without a size count a little too."""
    if not len(others):
        return 0.0
    ours, theirs = boxes[:, None], np.stack(others)[None]
    sides = np.minimum(ours[..., 2:], theirs[..., 2:]) - np.maximum(ours[..., :2], theirs[..., :2]) + GAP
    return float(sides.clip(min=0).prod(axis=-1).sum())


def _outside(box: np.ndarray, axes: Axes) -> float:
    inside = np.array(axes.bbox.extents)
    return float(1000 * np.concatenate([inside[:2] - box[:2], box[2:] - inside[2:]]).clip(min=0).sum())
