"""Log-mel features as the Audio Spectrogram Transformer takes them, and a cache of features on disk."""

import hashlib
import io
import json
import logging
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from torchaudio.compliance import kaldi

from brainplug.data.manifest import Clip
from brainplug.data.shared_frames import SharedFrames, Window
from brainplug.errors import DataError
from brainplug.files import atomic_file

logger = logging.getLogger(__name__)

WINDOW, SHIFT = 25.0, 10.0  # milliseconds
CHECKSUM_BYTES = 4  # of CRC-32, after the array


@dataclass(frozen=True)
class LogMel:
    """Kaldi-compatible log-mel filter banks, of a fixed number of frames, normalised.

    They equal those of transformers' ``ASTFeatureExtractor``.

    Arguments
    ---------
    frames : int
        Number of 10 ms frames. Shorter clips are padded with zeros before they are normalised, longer ones cut.
    mean, std : float
        Mean and standard deviation of the log-mel energies; AudioSet's by default.
    sample_rate : int
        Of the waveforms, in Hz.

    Example
    -------
    >>> features = LogMel(frames=50).extract(torch.zeros(3200))
    >>> bool((features[18:] == 4.2677393 / (2 * 4.5689974)).all())  # 0.2 s give 18 whole windows
    True
    """

    mel_bands: int = 128
    frames: int = 1024
    mean: float = -4.2677393
    std: float = 4.5689974
    sample_rate: int = 16000

    def extract(self, waveform: torch.Tensor) -> torch.Tensor:
        """Features ``[frames, mel_bands]`` of a waveform ``[time]`` in [-1, 1), padded to at least one window."""
        return self._normalised(self._log_mel(self._fitted(waveform)))

    def extract_windows(self, windows: Iterable[Window]) -> Iterator[Window]:
        """Features of a recording's windows, equal to those of `extract`; frames that windows share are computed once.

        Example
        -------
        >>> log_mel, recording = LogMel(frames=50), torch.randn(3200)
        >>> clips = [Clip("", "a.wav", "", start=0.0), Clip("", "a.wav", "", start=0.1)]
        >>> windows = log_mel.extract_windows(zip(clips, [recording[:1600], recording[1600:]]))
        >>> torch.allclose(list(windows)[1][1], log_mel.extract(recording[1600:]), atol=1e-6)
        True
        """
        fitted = ((clip, self._fitted(samples)) for clip, samples in windows)
        for clip, log_mel in SharedFrames(self._log_mel, *self.samples).of_windows(fitted, self.sample_rate):
            yield clip, self._normalised(log_mel)

    def extract_batch(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Features ``[batch, frames, mel_bands]`` of padded waveforms ``[batch, time]``, on their device.

        They equal those of `extract`. `lengths` is the share of each clip that is not padding. All clips are laid end
        to end, each a whole number of shifts long, so that one pass computes every clip's windows.

        Example
        -------
        >>> waveforms, lengths = torch.randn(2, 3200), torch.tensor([1.0, 0.5])
        >>> waveforms[1, 1600:] = 0
        >>> log_mel = LogMel(frames=50)
        >>> features = log_mel.extract_batch(waveforms, lengths)
        >>> torch.allclose(features[1], log_mel.extract(waveforms[1, :1600]), atol=1e-4)
        True
        """
        window, shift = self.samples
        batch, time = waveforms.shape
        samples = (lengths * time).round().long()
        overlap = math.ceil(window / shift)
        steps = min(max(math.ceil(time / shift), overlap), self.frames + overlap)  # of what is cut off later, no more
        clips = pad(waveforms, (0, steps * shift - time))
        with torch.autocast(waveforms.device.type, enabled=False):  # half precision is too coarse for a logarithm
            log_mel = self._log_mel(pad(clips.float().flatten(), (0, window - shift))).unflatten(0, (batch, steps))
        whole = ((samples - window).div(shift, rounding_mode="floor") + 1).clamp(min=1)  # windows without padding
        in_clip = torch.arange(steps, device=waveforms.device) < whole[:, None]
        return self._normalised(log_mel * in_clip[..., None])

    @property
    def samples(self) -> tuple[int, int]:
        """Of a window and of a shift."""
        window, shift = (int(self.sample_rate * milliseconds * 0.001) for milliseconds in (WINDOW, SHIFT))
        return window, shift

    def _fitted(self, waveform: torch.Tensor) -> torch.Tensor:
        """A copy without what the features would be cut by, padded to at least one window."""
        window, shift = self.samples
        waveform = waveform[: window + (self.frames - 1) * shift]
        return pad(waveform, (0, max(window - len(waveform), 0)))

    def _log_mel(self, waveform: torch.Tensor) -> torch.Tensor:
        """Of samples ``[time]``, ``[windows, mel_bands]``."""
        return kaldi.fbank(
            waveform[None],  # [channel, time]
            sample_frequency=self.sample_rate,
            num_mel_bins=self.mel_bands,
            window_type="hanning",
            frame_length=WINDOW,
            frame_shift=SHIFT,
            htk_compat=True,
            use_energy=False,
            dither=0.0,
        )

    def _normalised(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Pads or cuts ``[..., windows, mel_bands]``, then normalises."""
        log_mel = pad(log_mel, (0, 0, 0, self.frames - log_mel.shape[-2]))
        return (log_mel - self.mean) / (2 * self.std)


class FeatureCache:
    """Reads the features of a clip from disk, or makes them and writes them there.

    An entry belongs to one file in one state: a changed file, part or setting has another entry. Several processes and
    runs may share a folder. If it cannot be written to, as on a full disk, a warning is logged once.

    Arguments
    ---------
    folder : str, optional
        Where entries are written. Without it every call makes the features.
    extract : Callable[[Clip], torch.Tensor]
        Makes the features of a clip.
    settings : dict
        JSON values: all that the features depend on besides the clip.

    Example
    -------
    >>> import tempfile
    >>> calls = []
    >>> def extract(clip):
    ...     calls.append(clip)
    ...     return torch.ones(2)
    >>> with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryDirectory() as folder:
    ...     cache = FeatureCache(folder, extract, {"mel_bands": 128})
    ...     first, second = cache(Clip("a", file.name, "dog")), cache(Clip("a", file.name, "dog"))
    >>> torch.equal(first, second), len(calls)
    (True, 1)
    """

    def __init__(self, folder: str | None, extract: Callable[[Clip], torch.Tensor], settings: Mapping[str, Any]):
        self.folder = folder
        self.extract = extract
        self.settings = json.dumps(dict(settings), sort_keys=True)
        self.has_warned = False

    def __call__(self, clip: Clip) -> torch.Tensor:
        """The features of a clip, float32; a missing file raises a `DataError`."""
        if self.folder is None:
            return self.extract(clip)
        path = self.entry(clip)
        features = _load(path)
        if features is None:
            features = self.extract(clip).float()
            self._write(features, path)
        return features

    def _write(self, features: torch.Tensor, path: str) -> None:
        try:
            with atomic_file(path, "wb", sync=False) as file:
                content = io.BytesIO()
                np.save(content, features.numpy(), allow_pickle=False)
                file.write(content.getbuffer())
                file.write(_checksum(content.getbuffer()))  # which numpy does not read
        except OSError as fault:
            if not self.has_warned:
                text = "The feature cache %s cannot be written to (%s): what it lacks is made again in each epoch."
                logger.warning(text, self.folder, fault)
            self.has_warned = True

    def entry(self, clip: Clip) -> str:
        """The path of the ``.npy`` file with the features of a clip, in one of 256 sub-folders."""
        path = os.path.abspath(clip.path)
        try:
            status = os.stat(path)
        except OSError as fault:
            problem = f"Its file cannot be read: {fault}."
            raise DataError(f"The clip {clip.id!r} was asked for.", problem, "Put the file back.") from fault
        # A file that is moved onto another keeps its size and its time, and an archive gives one time to all its files.
        changed = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        state = [path, *changed, clip.start, clip.stop, self.settings]
        key = hashlib.sha256(json.dumps(state).encode()).hexdigest()
        return os.path.join(self.folder or "", key[:2], f"{key}.npy")


def _load(path: str) -> torch.Tensor | None:
    """Reads an entry; None where it is missing or torn: after a power cut any part of it may be zeros."""
    try:
        content = memoryview(Path(path).read_bytes())
        if _checksum(content[:-CHECKSUM_BYTES]) != content[-CHECKSUM_BYTES:]:
            return None
        return torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False))
    except (OSError, ValueError):
        return None


def _checksum(content: memoryview) -> bytes:
    return zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little")


def cache_folder() -> str:
    """The cache that runs share: ``$BRAINPLUG_CACHE/features``, or ``~/.cache/brainplug/features``.

    Example
    -------
    >>> os.path.basename(cache_folder())
    'features'
    """
    root = os.environ.get("BRAINPLUG_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "brainplug")
    return os.path.join(root, "features")
