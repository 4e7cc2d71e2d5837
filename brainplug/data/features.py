"""Log-mel features as the Audio Spectrogram Transformer wants them, and a cache that keeps them on disk."""

import hashlib
import json
import logging
import math
import os
import tokenize
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad
from torchaudio.compliance import kaldi

from brainplug.data.manifest import Clip
from brainplug.errors import UsageError
from brainplug.files import atomic_file

logger = logging.getLogger(__name__)

WINDOW, SHIFT = 25.0, 10.0  # milliseconds


@dataclass(frozen=True)
class LogMel:
    """Kaldi-compatible log-mel filter banks, of a fixed number of frames, normalised.

    They equal those of transformers' ``ASTFeatureExtractor``.

    Arguments
    ---------
    mel_bands : int
        Number of filters.
    frames : int
        Number of 10 ms frames. Shorter clips are padded with zeros before they are normalised, longer ones cut.
    mean : float
        Mean of the log-mel energies; AudioSet's by default.
    deviation : float
        Their standard deviation.
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
    deviation: float = 4.5689974
    sample_rate: int = 16000

    def extract(self, waveform: torch.Tensor) -> torch.Tensor:
        """Makes the features of one clip.

        Arguments
        ---------
        waveform : torch.Tensor
            Samples in [-1, 1), ``[time]``. A clip shorter than one window is padded with zeros to one window.

        Returns
        -------
        torch.Tensor
            Normalised features, ``[frames, mel_bands]``.
        """
        window, shift = self._samples
        waveform = waveform[: window + (self.frames - 1) * shift]  # what is cut off later need not be computed
        waveform = pad(waveform, (0, max(window - len(waveform), 0)))
        return self._normalised(self._log_mel(waveform))

    def extract_batch(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Makes the features of a padded batch of clips, on their device.

        All clips are laid end to end, each a whole number of shifts long, so that one pass has every clip's windows.

        Arguments
        ---------
        waveforms : torch.Tensor
            Samples in [-1, 1), padded with zeros, ``[batch, time]``.
        lengths : torch.Tensor
            Share of each clip that is not padding, ``[batch]``.

        Returns
        -------
        torch.Tensor
            For each clip what `extract` returns, ``[batch, frames, mel_bands]``.

        Example
        -------
        >>> waveforms, lengths = torch.randn(2, 3200), torch.tensor([1.0, 0.5])
        >>> waveforms[1, 1600:] = 0
        >>> log_mel = LogMel(frames=50)
        >>> features = log_mel.extract_batch(waveforms, lengths)
        >>> torch.allclose(features[1], log_mel.extract(waveforms[1, :1600]), atol=1e-4)
        True
        """
        window, shift = self._samples
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
    def _samples(self) -> tuple[int, int]:
        """Of a window and of a shift."""
        window, shift = (int(self.sample_rate * milliseconds * 0.001) for milliseconds in (WINDOW, SHIFT))
        return window, shift

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
        return (log_mel - self.mean) / (2 * self.deviation)


class FeatureCache:
    """Reads the features of a clip from disk, or makes them and puts them there.

    An entry belongs to one file in one state: a changed file, part or setting has another entry. Several processes and
    runs may share a folder. One that cannot be written to, such as on a full disk, is told in the log, and read only.

    Arguments
    ---------
    folder : str, optional
        Where entries go. Without it nothing is kept and every call makes the features.
    extract : Callable[[Clip], torch.Tensor]
        Makes the features of a clip.
    settings : dict
        All that decides about the features besides the clip; must be able to be written as JSON.

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

    def __init__(self, folder: str | None, extract: Callable[[Clip], torch.Tensor], settings: dict):
        self.folder = folder
        self.extract = extract
        self.settings = json.dumps(settings, sort_keys=True)
        self.complained = False

    def __call__(self, clip: Clip) -> torch.Tensor:
        """Returns the features of a clip, float32.

        Arguments
        ---------
        clip : Clip
            Which clip.

        Returns
        -------
        torch.Tensor
            What `extract` returns for it.

        Raises
        ------
        UsageError
            The clip's file is missing.
        """
        if self.folder is None:
            return self.extract(clip)
        path = self.entry(clip)
        features = _load(path)
        if features is None:
            features = self.extract(clip).float()
            self._keep(features, path)
        return features

    def _keep(self, features: torch.Tensor, path: str) -> None:
        try:
            with atomic_file(path, "wb") as file:
                np.save(file, features.numpy(), allow_pickle=False)
        except OSError as fault:
            if not self.complained:
                told = "The feature cache %s cannot be written to (%s): what it lacks is made again in each epoch."
                logger.warning(told, self.folder, fault)
            self.complained = True

    def entry(self, clip: Clip) -> str:
        """Names the file that holds, or will hold, the features of a clip.

        Arguments
        ---------
        clip : Clip
            Which clip.

        Returns
        -------
        str
            Path of an ``.npy`` file, in one of 256 sub-folders.

        Raises
        ------
        UsageError
            The clip's file is missing.
        """
        path = os.path.abspath(clip.path)
        try:
            status = os.stat(path)
        except OSError as fault:
            found = f"Its file cannot be read: {fault}."
            raise UsageError(f"The clip {clip.id!r} was asked for.", found, "Put the file back.") from fault
        # A file that is moved onto another keeps its size and its time, and an archive gives one time to all its files.
        changed = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        state = [path, *changed, clip.start, clip.stop, self.settings]
        key = hashlib.sha256(json.dumps(state).encode()).hexdigest()
        return os.path.join(self.folder, key[:2], f"{key}.npy")


def _load(path: str) -> torch.Tensor | None:
    """Reads an entry; None where it is missing or torn."""
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, EOFError, ValueError, SyntaxError, tokenize.TokenError):  # the last two: of a broken header
        return None


def cache_folder() -> str:
    """Where signals are kept that several runs share.

    Returns
    -------
    str
        ``$BRAINPLUG_CACHE/features``, or ``~/.cache/brainplug/features`` where the variable is not set.

    Example
    -------
    >>> os.path.basename(cache_folder())
    'features'
    """
    root = os.environ.get("BRAINPLUG_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "brainplug")
    return os.path.join(root, "features")
