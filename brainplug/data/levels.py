"""How loud a clip is, measured while it is decoded: silence, channels that cancel, samples far above full scale."""

import numpy as np
import torch

from brainplug.data.audio import Channel, choose_channel
from brainplug.data.decoding import Block

SILENCE = 1e-5  # root mean square, of full scale: -100 dB, below what 16 bits hold
FULL_SCALE = 10.0  # float files may go beyond 1 by a little
CANCELLED, FAINT = 0.01, 0.3  # share of the loudest channel; an equal mix of n unlike channels has 1 / sqrt(n)

SILENT = "silent"
CONSTANT = "constant"
CANCELS = "silent after mixing: its channels cancel each other (another --channel than mix may serve)"
WEAK = "faint after mixing: most of its channels are empty or cancel (another --channel than mix may serve)"
ABOVE = "far above full scale"


class Levels:
    """Sums over the blocks of a clip; its mono audio is that of a `Channel`."""

    def __init__(self, channel: Channel):
        self.channel = channel
        self.count = 0
        self.peak = 0.0
        self.channels = _Moments()
        self.mono = _Moments()

    def add(self, block: Block) -> None:
        """Adds samples ``[time, channel]``."""
        self.count += len(block)
        self.peak = max(self.peak, float(np.abs(block).max()))
        self.channels.add(block)
        if self.channel != "loudest":  # known at the end only
            self.mono.add(choose_channel(torch.from_numpy(block), self.channel).numpy()[:, None])

    def remark(self) -> str:
        """What is odd about the clip; empty where nothing is."""
        loudest = float(self.channels.rms(self.count).max())
        mono = loudest if self.channel == "loudest" else float(self.mono.rms(self.count)[0])
        spread = float(self.channels.spread(self.count).max())
        if loudest < SILENCE:
            return SILENT
        if spread < SILENCE:
            return CONSTANT
        if mono < CANCELLED * loudest:
            return CANCELS if self.channel == "mix" else SILENT
        if mono < FAINT * loudest and self.channel == "mix":
            return WEAK
        return ABOVE if self.peak > FULL_SCALE else ""


class _Moments:
    """The sum and the sum of squares of each channel, in double precision."""

    def __init__(self) -> None:
        self.sum = self.squares = np.zeros(1)

    def add(self, block: Block) -> None:
        double = block.astype(np.float64)
        self.sum = self.sum + double.sum(axis=0)
        self.squares = self.squares + np.square(double).sum(axis=0)

    def rms(self, count: int) -> np.ndarray:
        """Root mean square of each channel."""
        return np.sqrt(self.squares / count)

    def spread(self, count: int) -> np.ndarray:
        """Standard spread of each channel."""
        return np.sqrt(np.maximum(0.0, self.squares / count - np.square(self.sum / count)))
