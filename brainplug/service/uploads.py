"""Reads clips that were uploaded, within limits. The service names the files; the client's names are only shown."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import soundfile
import torch

from brainplug.data.audio import Channel, read_audio
from brainplug.data.decoding import READ_ERRORS, UNKNOWN_FRAMES, open_clip, why_unreadable
from brainplug.data.manifest import Clip
from brainplug.data.windows import Windows, read_windows
from brainplug.errors import DataError
from brainplug.service.refusal import RefusedError, quoted
from brainplug.service.settings import MAX_CHANNELS, MAX_SAMPLES, Settings

LEEWAY = 1.0  # seconds: a recording that is too long is decoded so far over the limit
BEGINNING = 0.01  # seconds that are decoded to see what a file is
MEND = "Send a whole audio file, such as WAV, FLAC, MP3 or Ogg"


@dataclass(frozen=True)
class Piece:
    """A clip, or a window of it: from `start` to `stop`, in seconds, and its waveform ``[time]``."""

    start: float
    stop: float
    waveform: torch.Tensor


@dataclass(frozen=True)
class Upload:
    """An uploaded file.

    Arguments
    ---------
    path : str
        Where the service put it.
    name : str
        What the client calls it. It is no path.
    """

    path: str
    name: str

    def refuse(self, status: int, problem: str, write: str = MEND) -> RefusedError:
        """The refusal of this file."""
        return RefusedError(status, f"The clip {quoted(self.name)} was sent.", problem, write)

    def check(self, settings: Settings, window: float) -> float | None:
        """Refuses what is no audio, is too long by its header, or has too many channels.

        Only the beginning is decoded. Of a recording, `window` seconds are read at a time.

        Returns
        -------
        float, optional
            The seconds that the header announces; None where libsndfile knows of none.
        """
        seconds = self._check_header(settings)
        opened = False
        try:
            with open_clip(self._clip(BEGINNING)) as decoder:
                opened = True
                block = next(decoder.blocks, None)
                if block is None:
                    raise ValueError("it has no samples")
                channels, window = block.shape[1], min(window, seconds or window)
                samples = round(window * decoder.sample_rate) * channels
        except READ_ERRORS as fault:
            status = 422 if opened else 415
            raise self.refuse(status, f"It cannot be read: {why_unreadable(fault)}.") from fault
        self._check_channels(channels)
        if samples > MAX_SAMPLES:
            problem = f"It has {samples:,} samples in {window:g} s, and at most {MAX_SAMPLES:,} are read at once."
            raise self.refuse(422, problem, "Send fewer channels, a lower sample rate, or a shorter window")
        return seconds

    def read(self, sample_rate: int, channel: Channel, longest: float) -> Piece:
        """Reads it as `read_audio` does; of what is longer than `longest` seconds, not much more is decoded."""
        with self._refusing():
            waveform = read_audio(self._clip(longest + LEEWAY), sample_rate, channel)
        if len(waveform) > longest * sample_rate:
            write = f"Send window=SECONDS, at most {longest:g}, or a shorter clip"
            raise self.refuse(422, f"It is longer than the {longest:g} s that are read at once.", write)
        return self._piece(0.0, len(waveform) / sample_rate, waveform)

    def windows(self, windows: Windows, sample_rate: int, channel: Channel, longest: float) -> Iterator[Piece]:
        """Yields the windows while the file is decoded; one that ends after `longest` seconds is refused."""
        with self._refusing():
            for window, waveform in read_windows(self._clip(longest + LEEWAY), windows, sample_rate, channel):
                start, stop = window.start or 0.0, window.stop or 0.0
                if stop > longest:
                    raise self._too_long(longest, f"It is longer than {longest:g} s.")
                yield self._piece(start, stop, waveform)

    def _check_header(self, settings: Settings) -> float | None:
        try:
            header = soundfile.info(self.path)
        except (soundfile.SoundFileError, TypeError):
            return None  # FFmpeg may read it
        self._check_channels(header.channels)
        if header.frames > UNKNOWN_FRAMES or not header.samplerate:
            return None
        seconds = float(header.frames / header.samplerate)
        if seconds > settings.max_seconds:
            raise self._too_long(settings.max_seconds, f"It lasts {seconds:,.1f} s.")
        return seconds

    def _clip(self, stop: float) -> Clip:
        return Clip(self.name, self.path, "", stop=stop)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turns the error of a file into a refusal, which does not say where the service put it."""
        try:
            yield
        except DataError as error:
            fault = error.__cause__
            reason = why_unreadable(fault) if isinstance(fault, Exception) else "it is damaged"
            raise self.refuse(422, f"It cannot be read: {reason}.") from error

    def _check_channels(self, count: int) -> None:
        if count > MAX_CHANNELS:
            raise self.refuse(422, f"It has {count} channels.", f"Send at most {MAX_CHANNELS}, or their mix")

    def _too_long(self, longest: float, problem: str) -> RefusedError:
        return self.refuse(422, problem, f"Send at most {longest:g} s, or parts of it")

    def _piece(self, start: float, stop: float, waveform: torch.Tensor) -> Piece:
        if not waveform.isfinite().all():
            raise self.refuse(422, "It has NaN or infinite samples.")
        return Piece(start, stop, waveform)
