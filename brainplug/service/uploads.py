"""Reads clips that were uploaded, within limits. The service names the files; the client's names are only shown."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import soundfile
import torch

from brainplug.data.audio import Channel, choose_channel, to_waveform
from brainplug.data.decoding import READ_ERRORS, UNKNOWN_FRAMES, Decoder, open_clip, why_unreadable
from brainplug.data.manifest import Clip
from brainplug.data.windows import Windows, read_windows
from brainplug.errors import DataError
from brainplug.service.refusal import Refusal, quoted
from brainplug.service.settings import MAX_CHANNELS, MAX_WINDOWS, Settings

LEEWAY = 1.0  # seconds: a recording that is too long is decoded so far over the limit
MEND = "Send a whole audio file, such as WAV, FLAC, MP3 or Ogg"


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

    @property
    def asked(self) -> str:
        """The first sentence of errors."""
        return f"The clip {quoted(self.name)} was sent."

    def refuse(self, status: int, found: str, write: str = MEND) -> Refusal:
        """The refusal of this file."""
        return Refusal(status, self.asked, found, write)

    def check_header(self, settings: Settings) -> float | None:
        """Refuses what by its header is too long, or has too many channels, before anything is decoded.

        Returns
        -------
        float, optional
            The seconds that the header announces; None where libsndfile knows of none.
        """
        try:
            header = soundfile.info(self.path)
        except (soundfile.SoundFileError, TypeError):
            return None  # FFmpeg may read it
        if header.channels > MAX_CHANNELS:
            raise self._too_many_channels(header.channels)
        if header.frames > UNKNOWN_FRAMES or not header.samplerate:
            return None
        seconds = float(header.frames / header.samplerate)
        if seconds > settings.max_seconds:
            raise self.too_long(settings.max_seconds, f"It lasts {seconds:,.1f} s.")
        return seconds

    def read(self, sample_rate: int, channel: Channel, most_seconds: float) -> torch.Tensor:
        """Reads it as `read_audio` does; what is longer than `most_seconds` is refused while it is decoded."""
        with self._open() as decoder:
            rate, count, pieces = decoder.sample_rate, 0, []
            for block in decoder.blocks:
                count += len(block)
                if block.shape[1] > MAX_CHANNELS:
                    raise self._too_many_channels(block.shape[1])
                if count > most_seconds * rate:
                    write = f"Send window=SECONDS, at most {most_seconds:g}, or a shorter clip"
                    raise self.refuse(422, f"It is longer than {most_seconds:g} s, which is read at once.", write)
                # One channel is held, if it can be known which one.
                mono = block if channel == "loudest" else choose_channel(torch.from_numpy(block), channel)[:, None]
                pieces.append(np.asarray(mono))
            waveform = to_waveform(np.concatenate(pieces), rate, sample_rate, channel if channel == "loudest" else 1)
        return self._finite(waveform)

    def read_windows(
        self, windows: Windows, sample_rate: int, channel: Channel, settings: Settings
    ) -> Iterator[tuple[float, float, torch.Tensor]]:
        """Yields the start and the stop of each window, in seconds, and its waveform, while the file is decoded."""
        clip = Clip(self.name, self.path, "", stop=settings.max_seconds + LEEWAY)
        try:
            for number, (window, waveform) in enumerate(read_windows(clip, windows, sample_rate, channel)):
                start, stop = window.start or 0.0, window.stop or 0.0
                if stop > settings.max_seconds:
                    raise self.too_long(settings.max_seconds, f"It is longer than {settings.max_seconds:g} s.")
                if number >= MAX_WINDOWS:
                    raise self.too_many_windows()
                yield start, stop, self._finite(waveform)
        except DataError as error:
            raise self.refuse(422, f"It cannot be read: {_reason(error)}.") from error

    def too_long(self, limit: float, found: str) -> Refusal:
        """The refusal of a recording that is longer than the service takes."""
        return self.refuse(413, found, f"Send at most {limit:g} s")

    def too_many_windows(self) -> Refusal:
        """The refusal of a recording that has more windows than the service takes."""
        return self.refuse(422, f"It has more than {MAX_WINDOWS:,} windows.", "Send a larger hop, or parts of it")

    def _too_many_channels(self, count: int) -> Refusal:
        return self.refuse(422, f"It has {count} channels.", f"Send at most {MAX_CHANNELS}")

    def _finite(self, waveform: torch.Tensor) -> torch.Tensor:
        if not waveform.isfinite().all():
            raise self.refuse(422, "It has NaN or infinite samples.")
        return waveform

    @contextmanager
    def _open(self) -> Iterator[Decoder]:
        is_open = False
        try:
            with open_clip(Clip(self.name, self.path, "")) as decoder:
                is_open = True
                yield decoder
        except Refusal:
            raise
        except READ_ERRORS as fault:
            reason = why_unreadable(fault)
            status = 422 if is_open or "truncated" in reason else 415
            raise self.refuse(status, f"It cannot be read: {reason}.") from fault


def _reason(error: DataError) -> str:
    """Why a clip cannot be read, without the service's own path of it."""
    fault = error.__cause__
    return why_unreadable(fault) if isinstance(fault, Exception) else "it is damaged"
