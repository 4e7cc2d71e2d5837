"""Many adapters on one backbone: each clip of a batch may have its own, or several."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch.nn.utils.rnn import pad_sequence

from brainplug.adapters.description import ClassifierDescription
from brainplug.adapters.file import read_adapter
from brainplug.adapters.probe import Tensors, check_probe
from brainplug.backbones import Backbone
from brainplug.config.recipe import check_device
from brainplug.data.audio import Channel
from brainplug.data.manifest import Clip
from brainplug.data.windows import Windows
from brainplug.errors import CheckpointError, ConfigError, DataError, nearest
from brainplug.inference.base import ClipReader, OnError, check_files, check_task
from brainplug.inference.classifier import Classifier, Prediction, make_prediction
from brainplug.models.adapted import check_tensors
from brainplug.models.classifier import make_head
from brainplug.models.shared import HEAD, LowerPart, Row, UpperPart, pooled_vectors
from brainplug.tasks import find_task
from brainplug.tasks.loading import check_same, load_as_described, restored_method

Names = str | Sequence[str]  # of the adapters of one clip
File = str | Path | Clip
Predictions = dict[str, Prediction]  # of one clip, by the adapter's name


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter in a hub: its part of the model, its weights ``[numbers]``, and the linear map of its head."""

    description: ClassifierDescription
    upper: UpperPart
    weights: torch.Tensor
    head: torch.Tensor  # [classes, dim]
    bias: torch.Tensor  # [classes]


class AdapterHub(ClipReader):
    """Classifies clips with any number of adapters that share one backbone.

    A batch may mix adapters of all methods. What is frozen is computed for all clips of a method together, and what
    lies below the first adapted layer once for each clip, however many adapters it has. The memory is that of one
    backbone and the adapters. How clips are read is that of the first adapter, and all others must agree.

    Arguments
    ---------
    backbone : str | Backbone
        A name as in recipes, or a folder, which is loaded with the first adapter; or the backbone itself, which is
        moved to the device.
    device, precision : str
        Such as ``cuda:0``; ``fp32``, ``bf16`` or ``fp16``.

    Example
    -------
    >>> hub = AdapterHub("nano-ast")
    >>> hub.load("birds", "results/birds/nano-ast-lora/1234")  # doctest: +SKIP
    >>> hub.load("rooms", "results/rooms/nano-ast-conformer/1234")  # doctest: +SKIP
    >>> hub.classify_batch(wavs, lengths, ["birds", ["birds", "rooms"]])[1]["rooms"].label  # doctest: +SKIP
    'hall'
    """

    def __init__(self, backbone: str | Backbone, device: str = "cpu", precision: str = "fp32"):
        check_device(device, precision)
        self.name = backbone.name if isinstance(backbone, Backbone) else backbone
        self._lower = LowerPart(backbone.eval().to(device)) if isinstance(backbone, Backbone) else None
        self._device, self.precision, self.longest_clip = device, precision, None
        self._first: ClassifierDescription | None = None
        self._adapters: dict[str, LoadedAdapter] = {}
        self._active: list[str] = []

    # Adapters

    def load(self, name: str, source: str | Path, revision: str | None = None, verify: bool = True) -> None:
        """Loads the adapter of a finished run under a name of your choice.

        `source`, `revision` and `verify` are those of `Classifier.from_run`; to verify takes a pass of a clip of half a
        second. An adapter that is damaged, of another backbone or of another task, and a name that the hub has already,
        raise a `UsageError` and leave the hub as it is.
        """
        asked = f"The adapter {name!r} from {source} was asked for."
        if name in self._adapters:
            write = f"Give it another name, or call unload({name!r}) before"
            raise ConfigError(asked, "The hub has another adapter of this name.", write)
        adapter = read_adapter(source, revision)
        check_task(adapter.description, Classifier.tasks, asked)
        description = cast(ClassifierDescription, adapter.description)
        lower = self._lower or LowerPart(load_as_described(description, self.name).to(self._device))
        self._check_fits(asked, description, lower)
        loaded = self._prepared(adapter.weights, description, lower.backbone)
        if verify and adapter.probe:
            check_probe(partial(_output_of, loaded, lower), adapter.probe, f"{name!r} from {source}")
        self._lower, self._first = lower, self._first or description
        self._adapters[name] = loaded
        self._limit()

    def unload(self, name: str) -> None:
        """Removes an adapter and its memory."""
        self._check_known([name])
        del self._adapters[name]
        self._active = [other for other in self._active if other != name]
        self._limit()

    @property
    def names(self) -> list[str]:
        """The adapters, in the order in which they were loaded."""
        return list(self._adapters)

    def labels(self, name: str) -> list[str]:
        """The classes of an adapter, in the order of its probabilities."""
        self._check_known([name])
        return list(self._adapters[name].description.labels)

    def active(self, names: Names) -> None:
        """Chooses the adapters of all clips for which no others are named."""
        self._active = self._list_names(names)

    def nbytes(self, name: str) -> int:
        """The memory of an adapter."""
        self._check_known([name])
        loaded = self._adapters[name]
        return sum(tensor.nbytes for tensor in (loaded.weights, loaded.head, loaded.bias))

    # Clips

    def classify_batch(
        self, wavs: torch.Tensor, lengths: torch.Tensor | None = None, names: Sequence[Names] | None = None
    ) -> list[Predictions]:
        """Classifies a padded batch of waveforms; returns for each clip a prediction of each of its adapters.

        Arguments
        ---------
        wavs, lengths : torch.Tensor
            As in `Classifier.classify_batch`.
        names : Sequence[str | Sequence[str]], optional
            The adapter of each clip, or its adapters; None: the active ones.
        """
        clips = 1 if wavs.dim() == 1 else len(wavs)
        if isinstance(names, str) or (names is not None and len(names) != clips):
            raise DataError(
                f"The adapters {names!r} were asked for.", f"There are {clips} clips.", "Give a list with one for each"
            )
        chosen = [self._list_names(of_clip) for of_clip in ([self._active] * clips if names is None else names)]
        return self.classify_signals(*self.signals_of(wavs, lengths), chosen)

    def classify_files(
        self,
        files: Iterable[File | tuple[File, Names]],
        batch_size: int = 16,
        on_error: OnError | None = None,
        windows: Windows | None = None,
        skip: Callable[[Clip], bool] | None = None,
    ) -> Iterator[Predictions]:
        """Classifies audio files batch by batch, in order: pairs of a file and adapters, or files for the active ones.

        The other arguments are those of `Classifier.classify_files`.
        """
        check_files(files, batch_size)

        def read() -> Iterator[tuple[tuple[Clip, list[str]], torch.Tensor]]:
            for item in files:
                file, names = item if isinstance(item, tuple) else (item, self._active)
                chosen = self._list_names(names)
                for clip, signal in self.read_all([file], on_error, windows):
                    if not (skip and skip(clip)):
                        yield (clip, chosen), signal

        for items, signal, lengths in self.in_batches(read(), batch_size):
            clips, chosen = zip(*items, strict=True)
            yield from self.classify_signals(signal, lengths, chosen, clips)

    @torch.no_grad()
    def classify_signals(
        self,
        signal: torch.Tensor,
        lengths: torch.Tensor,
        names: Sequence[list[str]],
        clips: Sequence[Clip] | None = None,
    ) -> list[Predictions]:
        """Classifies a batch of signals ``[batch, ...]`` that `pad` made; each clip has a list of adapters."""
        self._check_known(name for chosen in names for name in chosen)
        rows = [(number, name) for number, chosen in enumerate(names) for name in chosen]
        with self.autocast():
            logits = _logits(self.lower, signal, lengths, [(number, self._adapters[name]) for number, name in rows])
        predictions: list[Predictions] = [{} for _ in names]
        for (number, name), row in zip(rows, logits.float().softmax(1).tolist(), strict=True):
            labels = self._adapters[name].description.labels
            clip = None if clips is None else clips[number]
            predictions[number][name] = make_prediction(labels, row[: len(labels)], clip)
        return predictions

    @property
    def lower(self) -> LowerPart:
        """The part that all adapters share."""
        if self._lower is None:
            problem = "The hub has no adapters, with which the backbone is loaded."
            raise ConfigError(f"The backbone {self.name} was asked for.", problem, "Call load(NAME, FOLDER) first")
        return self._lower

    @property
    def backbone(self) -> Backbone:
        """The one backbone; a hub that was made with a name loads it with the first adapter."""
        return self.lower.backbone

    @property
    def channel(self) -> Channel:
        """That of all adapters."""
        return "mix" if self._first is None else self._first.channel

    def _limit(self) -> None:
        limits = [loaded.description.longest_clip for loaded in self._adapters.values()]
        self.longest_clip = min((limit for limit in limits if limit is not None), default=None)

    # What is checked, and what is computed

    def _list_names(self, names: Names) -> list[str]:
        names = [names] if isinstance(names, str) else list(names)
        self._check_known(names)
        if not names:
            raise ConfigError(
                "A clip without adapters was to be classified.",
                f"The hub has {', '.join(self.names) or 'none'}.",
                "Name the adapters of each clip, or call active(NAMES) before",
            )
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"The adapters {names} were asked for.", f"{', '.join(repeated)} is named twice.", "Name each once"
            )
        return names

    def _check_known(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._adapters:
                raise ConfigError(
                    f"The adapter {name!r} was asked for.",
                    "The hub has no adapter of this name." if self._adapters else "The hub has no adapters.",
                    f"Write one of: {nearest(name, self.names)}" if self._adapters else "Call load(NAME, FOLDER) first",
                )

    def _check_fits(self, asked: str, description: ClassifierDescription, lower: LowerPart) -> None:
        """Refuses an adapter of another backbone, or one that reads clips otherwise than the first."""
        backbone, first = lower.backbone, self._first or description
        if description.backbone_revision != backbone.revision:
            raise CheckpointError(
                asked,
                f"It adapts {description.backbone}, {description.backbone_revision}; the backbone of the hub is "
                f"{self.name}, {backbone.revision}.",
                f"Load it in a hub of its own: AdapterHub({description.backbone!r})",
            )
        check_same(description, backbone, lower.fingerprint)
        if _reading(description) != _reading(first):
            raise CheckpointError(
                asked,
                f"It reads clips with {_reading(description)}, and the others in the hub with {_reading(first)}.",
                "Load it in a hub of its own",
            )

    def _prepared(self, weights: Tensors, description: ClassifierDescription, backbone: Backbone) -> LoadedAdapter:
        """An adapter on the hub's device; the shapes of its tensors are checked before memory is taken for them."""
        kind = _kind(description)
        upper = next((other.upper for other in self._adapters.values() if _kind(other.description) == kind), None)
        if upper is None:
            find_task(description.task).rebuild_without_weights(description, self.name).check_delta(weights)
            upper = UpperPart(backbone, restored_method(description), description.pooling, description.head_norm)
        else:
            check_tensors({**upper.expected, **_expected_head(description, backbone.dim)}, weights)
        device = next(backbone.parameters()).device
        tensors = upper.flatten(weights), *_linear_map(weights)
        # A copy, since the tensors of a file are mapped and change with it.
        return LoadedAdapter(description, upper, *(tensor.to(device, copy=True) for tensor in tensors))


def _kind(description: ClassifierDescription) -> tuple[object, ...]:
    """What adapters have in common that share an `UpperPart`."""
    return description.method_settings, description.pooling, description.head_norm


def _expected_head(description: ClassifierDescription, dim: int) -> Tensors:
    """The tensors of a head by name, without values."""
    with torch.device("meta"):
        head = make_head(len(description.labels), description.head_norm, dim)
    return {f"{HEAD}{name}": tensor for name, tensor in head.state_dict().items()}


def _linear_map(weights: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight and bias of a head; the scale and shift of its norm, if it has one, are multiplied into them."""
    head = {name.removeprefix(HEAD): tensor.float() for name, tensor in weights.items() if name.startswith(HEAD)}
    if "weight" in head:
        return head["weight"], head["bias"]
    return head["1.weight"] * head["0.weight"], head["1.bias"] + head["1.weight"] @ head["0.bias"]


def _reading(description: ClassifierDescription) -> dict[str, object]:
    """What all adapters of a hub agree in, beside the signal; clips of any length have no positions to fit."""
    positions = {"positions": description.positions or "crop"} if "frames" in description.signal else {}
    return {"channel": description.channel, **positions}


@torch.no_grad()
def _output_of(loaded: LoadedAdapter, lower: LowerPart, waveform: torch.Tensor) -> torch.Tensor:
    """Logits ``[1, classes]`` of one clip ``[samples]``, by which an adapter is verified."""
    signal, device = lower.backbone.extract(waveform)[None], loaded.head.device
    # On a GPU convolutions may round to TF32, which is farther off than the tolerance of a probe.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return _logits(lower, signal.to(device), torch.ones(1, device=device), [(0, loaded)])


def _logits(
    lower: LowerPart, signal: torch.Tensor, lengths: torch.Tensor, rows: Sequence[tuple[int, LoadedAdapter]]
) -> torch.Tensor:
    """Logits ``[rows, most classes]`` of clips and adapters; minus infinity where an adapter has fewer classes."""
    vectors = pooled_vectors(lower, signal, lengths, [Row(clip, one.upper, one.weights) for clip, one in rows])
    weights = pad_sequence([one.head for _, one in rows], batch_first=True)  # [rows, classes, dim]
    biases = pad_sequence([one.bias for _, one in rows], batch_first=True, padding_value=float("-inf"))
    return torch.baddbmm(biases[:, :, None], weights, vectors[:, :, None])[:, :, 0]
