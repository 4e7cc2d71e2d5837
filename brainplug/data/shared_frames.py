"""Frames of overlapping windows of a recording: those that two windows share are computed once."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch.nn.functional import pad

from brainplug.data.manifest import Clip
from brainplug.errors import UsageError

Window = tuple[Clip, torch.Tensor]  # with its samples
SAMPLES_AT_ONCE = 480_000  # of windows whose frames are computed together


class SharedFrames:
    """Computes the frames of windows that follow one another, where a frame depends on its own samples alone.

    A frame is copied if the window before has a frame of equal samples. So windows that were resampled one by one have
    frames of their own at their edges, and windows that do not begin a whole number of shifts apart share nothing.

    Arguments
    ---------
    compute : Callable[[torch.Tensor], torch.Tensor]
        Turns samples ``[time]`` into the frames that lie in them, ``[frames, bands]``.
    size, shift : int
        Samples of a frame, and from one frame to the next.

    Example
    -------
    >>> shared = SharedFrames(lambda samples: samples.unfold(0, 3, 2), size=3, shift=2)
    >>> [first, second] = shared([(0, torch.arange(7)), (2, torch.arange(2, 9))])
    >>> second.tolist()
    [[2, 3, 4], [4, 5, 6], [6, 7, 8]]
    """

    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor], size: int, shift: int):
        self.compute, self.size, self.shift = compute, size, shift
        self.first, self.samples, self.frames = 0, torch.empty(0), torch.empty(0)  # of the window before

    def of_windows(self, windows: Iterable[Window], sample_rate: int) -> Iterator[Window]:
        """Yields clips, whose starts are known, with their frames in place of their samples, of at least a frame."""
        for group in _grouped(windows):
            clips = [clip for clip, _ in group]
            begins = [round((clip.start or 0.0) * sample_rate) for clip in clips]
            yield from zip(clips, self(list(zip(begins, [samples for _, samples in group], strict=True))), strict=True)

    def __call__(self, windows: Sequence[tuple[int, torch.Tensor]]) -> Iterator[torch.Tensor]:
        """Yields the frames of each window; a window is given by where it begins and its samples, at least a frame."""
        shared = [self._shared(*window) for window in windows]
        pieces = []
        for (_, samples), (begin, end, _) in zip(windows, shared, strict=True):
            pieces += [samples[: (begin - 1) * self.shift + self.size], samples[end * self.shift :]]
        computed = self._computed(pieces)
        for begin, end, later in shared:
            before, copied, after = next(computed), self.frames[begin + later : end + later], next(computed)
            self.frames = torch.cat([before, copied, after]) if end else after
            yield self.frames

    def _shared(self, first: int, samples: torch.Tensor) -> tuple[int, int, int]:
        """From which frame to which the window before has them too, and by how many they come later there."""
        step, before = first - self.first, self.samples
        self.first, self.samples = first, samples
        if step % self.shift or not 0 < step < len(before):
            return 0, 0, 0
        common = min(len(before) - step, len(samples))
        start, stop = _longest_run(before[step : step + common] == samples[:common])
        begin, end = math.ceil(start / self.shift), (stop - self.size) // self.shift + 1
        return (begin, end, step // self.shift) if begin < end else (0, 0, 0)

    def _computed(self, pieces: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yields the frames of each piece. One call computes all: they are laid end to end, each whole shifts long."""
        counts = [max(0, (len(piece) - self.size) // self.shift + 1) for piece in pieces]
        overlap = math.ceil(self.size / self.shift) - 1
        steps = [count + overlap if count else 0 for count in counts]
        laid = [pad(piece, (0, step * self.shift - len(piece))) for piece, step in zip(pieces, steps, strict=True)]
        frames = self.compute(pad(torch.cat(laid), (0, self.size)))  # one more than `steps`, where all are copied too
        for own, count in zip(frames.split([*steps, 1]), counts, strict=False):
            yield own[:count]


def _longest_run(flags: torch.Tensor) -> tuple[int, int]:
    """Where the longest run of true flags begins and ends."""
    borders = pad((~flags).nonzero()[:, 0], (1, 1), value=-1)
    borders[-1] = len(flags)
    longest = int(borders.diff().argmax())
    return int(borders[longest]) + 1, int(borders[longest + 1])


def _grouped(windows: Iterable[Window]) -> Iterator[list[Window]]:
    """Collects windows whose frames are computed together; those before an error come before it."""
    group: list[Window] = []
    count = 0
    try:
        for window in windows:
            group.append(window)
            count += len(window[1])
            if count >= SAMPLES_AT_ONCE:
                yield group
                group, count = [], 0
    except UsageError:
        yield group
        raise
    yield group
