"""A trained model that is ready to use: loaded from its run, and fed with files of any length in batches."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import torch
from torch.nn.utils.rnn import pad_sequence

from brainplug.adapters.description import AdapterDescription
from brainplug.adapters.file import Adapter, read_adapter
from brainplug.backbones import Backbone
from brainplug.backbones.echo_encoder import EchoBackbone
from brainplug.config.recipe import PRECISIONS, check_device
from brainplug.data.audio import Channel, read_audio
from brainplug.data.manifest import Clip
from brainplug.data.windows import Windows, read_windows
from brainplug.errors import CheckpointError, ConfigError, DataError, UsageError
from brainplug.models.adapted import AdaptedModel
from brainplug.models.echo_recognizer import why_too_long
from brainplug.tasks import find_task

logger = logging.getLogger(__name__)

FAINTEST = 1e-4  # root mean square, of full scale: channels that cancel leave the last bits of 16
# A batch has fewer clips where padding would make it larger than a full one of half a minute: 30 s at 16 kHz.
NUMBERS_PER_CLIP = 480_000
Item = TypeVar("Item")
OnError = Callable[[Clip, UsageError], None]


@dataclass(frozen=True)
class ClipResult:
    """What was computed of a file, or of the part from `start` to `stop`, in seconds."""

    path: str
    start: float | None = field(default=None, kw_only=True)
    stop: float | None = field(default=None, kw_only=True)


class ClipReader:
    """The base of all that takes clips: reads files and waveforms as the backbone takes them, in batches."""

    longest_clip: float | None  # seconds; None: any length
    precision: str

    @property
    def backbone(self) -> Backbone:
        """The backbone that the clips are read for."""
        raise NotImplementedError

    @property
    def channel(self) -> Channel:
        """Which channel of a file is read."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.backbone.parameters()).device

    def read(self, clip: Clip) -> torch.Tensor:
        """Reads a clip as the backbone's signal: ``[frames, mel_bands]`` or ``[samples]``."""
        waveform = read_audio(clip, self.backbone.sample_rate, self.channel)
        if waveform.square().mean() < FAINTEST**2:
            text = "%s is silent, or nearly, as the model reads it (channel: %s); its result says nothing."
            logger.warning(text, clip.path, self.channel)
        return self.backbone.extract(self._checked(clip, waveform))

    def read_windows(self, clip: Clip, windows: Windows) -> Iterator[tuple[Clip, torch.Tensor]]:
        """Reads the windows of a clip one after the other, each as `read` would; see `brainplug.data.windows`."""
        rate = self.backbone.sample_rate
        read = read_windows(clip, windows, rate, self.channel)
        checked = ((window, self._checked(window, waveform)) for window, waveform in read)
        return self.backbone.extract_windows(checked)

    def _checked(self, clip: Clip, waveform: torch.Tensor) -> torch.Tensor:
        backbone = self.backbone
        seconds = len(waveform) / backbone.sample_rate
        reason = None if waveform.isfinite().all() else "has NaN or infinite samples"
        if self.longest_clip is not None and seconds > self.longest_clip:
            reason = reason or f"lasts {seconds:,.1f} s; the model takes {self.longest_clip:g} s at once"
        if isinstance(backbone, EchoBackbone):
            reason = reason or why_too_long(backbone, replace(clip, duration=seconds))
        if reason:
            write = "Mend it, list parts of it by start and stop, or leave it out"
            raise DataError(f"The clip {clip.path} was asked for.", f"It {reason}.", write)
        return waveform

    def batches(
        self,
        files: Iterable[str | Path | Clip],
        batch_size: int,
        on_error: OnError | None = None,
        windows: Windows | None = None,
        skip: Callable[[Clip], bool] | None = None,
    ) -> Iterator[tuple[list[Clip], torch.Tensor, torch.Tensor]]:
        """Reads files batch by batch, in order: the clips, their padded signals and the signals' relative lengths.

        Arguments
        ---------
        files : Iterable
            Paths of audio files; or clips, which may be parts of files.
        batch_size : int
            The most clips in a batch; long clips are fewer.
        on_error : Callable, optional
            Called with a clip that cannot be read and the error, and the clip is left out; None raises the error.
        windows : Windows, optional
            How each file is cut; None: not at all. A batch may hold windows of several files.
        skip : Callable, optional
            Says of a clip, or of a window, whether it is read over.
        """
        check_files(files, batch_size)
        read = self.read_all(files, on_error, windows)
        return self.in_batches(((clip, signal) for clip, signal in read if not (skip and skip(clip))), batch_size)

    def in_batches(
        self, read: Iterable[tuple[Item, torch.Tensor]], batch_size: int
    ) -> Iterator[tuple[list[Item], torch.Tensor, torch.Tensor]]:
        """Puts signals that have been read into padded batches, with what belongs to each."""
        items: list[Item] = []
        signals: list[torch.Tensor] = []
        for item, signal in read:
            padded = (len(items) + 1) * max(other.numel() for other in (*signals, signal))
            if items and (len(items) >= batch_size or padded > batch_size * NUMBERS_PER_CLIP):
                yield items, *self.pad(signals)
                items, signals = [], []
            items.append(item)
            signals.append(signal)
        if items:
            yield items, *self.pad(signals)

    def read_all(
        self, files: Iterable[str | Path | Clip], on_error: OnError | None, windows: Windows | None
    ) -> Iterator[tuple[Clip, torch.Tensor]]:
        """Reads files, or their windows, one after the other; the arguments are those of `batches`."""
        for file in files:
            clip = file if isinstance(file, Clip) else Clip(Path(file).stem, str(file), "")
            try:
                yield from self.read_windows(clip, windows) if windows else [(clip, self.read(clip))]
            except UsageError as error:
                if on_error is None:
                    raise
                on_error(clip, error)

    def pad(self, signals: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Makes a batch of signals, and their relative lengths ``[batch]``, on the model's device."""
        lengths = torch.tensor([len(signal) for signal in signals]) / max(map(len, signals))
        return pad_sequence(signals, batch_first=True).to(self.device), lengths.to(self.device)

    def signals_of(self, wavs: torch.Tensor, lengths: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Turns waveforms, given as in `Classifier.classify_batch`, into a batch of signals and its lengths."""
        wavs = (wavs[None] if wavs.dim() == 1 else wavs).cpu()
        shares = torch.ones(len(wavs)) if lengths is None else torch.as_tensor(lengths).cpu()
        if reason := _why_no_batch(wavs, shares):
            raise DataError(
                f"A batch of waveforms {list(wavs.shape)} was asked for, with lengths {shares.tolist()}.",
                reason,
                "Give samples from -1 to 1 as [batch, samples], and the fraction of each that is no padding as [batch]",
            )
        samples = [round(share * wavs.shape[1]) for share in shares.tolist()]
        return self.pad([self.backbone.extract(wav[:count]) for wav, count in zip(wavs, samples, strict=True)])

    def autocast(self) -> torch.autocast:
        """The context in which the model computes with its precision."""
        return torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=self.precision != "fp32")


class TrainedModel(ClipReader, torch.nn.Module):
    """The base of `Classifier` and `SpeechRecognizer`: an adapted model, and the description of its adapter."""

    tasks: ClassVar[tuple[str, ...]]
    model: AdaptedModel
    description: AdapterDescription

    def __init__(self, model: AdaptedModel, description: AdapterDescription, precision: str = "fp32"):
        super().__init__()
        self.model, self.description, self.precision = model.eval(), description, precision
        self.longest_clip = description.longest_clip  # seconds; None: any length

    @classmethod
    def from_run(
        cls,
        source: str | Path,
        device: str = "cpu",
        precision: str = "fp32",
        backbone: str | None = None,
        revision: str | None = None,
        verify: bool = True,
    ) -> Self:
        """Loads the model that a run trained; what is missing, altered or of another task raises a `CheckpointError`.

        Arguments
        ---------
        source : str | Path
            The run's output folder, its folder ``adapter`` or a copy of that, or a hub id, ``owner/name``.
        device, precision : str
            Such as ``cuda:0``; ``fp32``, ``bf16`` or ``fp16``, as SpeechBrain's ``eval_precision``.
        backbone : str, optional
            Where the run's backbone is now, if not where it was: a folder with the same weights.
        revision : str, optional
            Of the hub.
        verify : bool
            Whether the model has to give the output for a short clip that it gave when it was saved.
        """
        check_device(device, precision)
        return cls.from_adapter(read_adapter(source, revision), device, precision, backbone, verify)

    @classmethod
    def from_adapter(
        cls,
        adapter: Adapter,
        device: str = "cpu",
        precision: str = "fp32",
        backbone: str | None = None,
        verify: bool = True,
    ) -> Self:
        """As `from_run`, where the adapter has been read already."""
        check_task(adapter.description, cls.tasks, f"A {cls.__name__} was asked for.")
        model = find_task(adapter.description.task).restore(adapter, backbone, verify)
        return cls(model.to(device), adapter.description, precision)

    @property
    def backbone(self) -> Backbone:
        """The model's."""
        return self.model.backbone

    @property
    def channel(self) -> Channel:
        """That of the run."""
        return self.description.channel


def check_task(description: AdapterDescription, tasks: Sequence[str], asked: str) -> None:
    """Refuses an adapter of another task than these; `asked` begins the error."""
    if description.task not in tasks:
        problem = f"The adapter is of the task {description.task}."
        raise CheckpointError(asked, problem, f"Name a run of the task {' or '.join(tasks)}")


def check_files(files: object, batch_size: int) -> None:
    """Refuses one file in the place of a list, and batches without clips."""
    if isinstance(files, str | Path | Clip):
        raise DataError(f"The files {str(files)!r} were asked for.", "That is one file.", "Give a list: [FILE]")
    if batch_size < 1:
        raise ConfigError(f"Batches of {batch_size} were asked for.", "None is so small.", "Write 1 or more")


def _why_no_batch(wavs: torch.Tensor, shares: torch.Tensor) -> str | None:
    """What is wrong with waveforms and the shares of each that are not padding; None where nothing is."""
    if wavs.dim() != 2 or not wavs.numel():
        return "There are no samples." if not wavs.numel() else "They have more than two dimensions."
    if not wavs.is_floating_point() or not wavs.isfinite().all():
        return "There are NaN or infinite samples." if wavs.is_floating_point() else f"The samples are {wavs.dtype}."
    if shares.shape != wavs.shape[:1]:
        return f"There are {len(wavs)} waveforms."
    if not ((shares > 0) & (shares <= 1)).all() or (shares * wavs.shape[1]).round().min() < 1:
        return "A length is more than 0, at most 1, and of a sample at least."
    return None
