"""Many adapters on one backbone: each clip of a batch may have its own, or several."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from brainplug.adapters.description import ClassifierDescription
from brainplug.adapters.file import Adapter, read_adapter
from brainplug.backbones import Backbone
from brainplug.config.recipe import check_device
from brainplug.data.audio import Channel
from brainplug.data.manifest import Clip
from brainplug.data.windows import Windows
from brainplug.errors import CheckpointError, ConfigError, DataError, nearest
from brainplug.inference.base import ClipReader, OnError, check_files
from brainplug.inference.classifier import Prediction, make_prediction
from brainplug.models.adapted import check_shapes
from brainplug.models.shared import HEAD, LowerPart, Row, UpperPart, pooled_vectors
from brainplug.tasks.loading import check_same, load_as_described, restored_method

Names = str | Sequence[str]  # of the adapters of one clip
File = str | Path | Clip
Predictions = dict[str, Prediction]  # of one clip, by the adapter's name


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter in a hub: its part of the model, its weights ``[numbers]``, and the weight and bias of its head."""

    description: ClassifierDescription
    upper: UpperPart
    weights: torch.Tensor
    head: torch.Tensor  # [classes, dim]
    bias: torch.Tensor  # [classes]


class AdapterHub(ClipReader):
    """Classifies clips with any number of adapters that share one backbone.

    A batch may mix adapters of all methods. What is frozen is computed for all clips of a method together, and what
    lies below the first adapted layer once for each clip, however many adapters it has. The memory is that of one
    backbone and the adapters.

    Arguments
    ---------
    backbone : str | Backbone
        A name as in recipes, or a folder; or the backbone itself. How clips are read says the first adapter, and all
        others must agree.
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
        super().__init__()
        check_device(device, precision)
        self.name = backbone.name if isinstance(backbone, Backbone) else backbone
        self.lower = LowerPart(backbone.eval().to(device)) if isinstance(backbone, Backbone) else None
        self._wanted_device, self.precision = device, precision
        self._first: ClassifierDescription | None = None
        self._adapters: dict[str, LoadedAdapter] = {}
        self._active: list[str] = []
        self.longest_clip = None

    # Adapters

    def load(self, name: str, source: str | Path) -> None:
        """Loads the adapter of a finished run under a name of your choice.

        An adapter of another backbone or task, and a name that the hub has already, raise a `UsageError`.
        """
        if name in self._adapters:
            raise ConfigError(
                f"The adapter {name!r} from {source} was asked for.",
                "The hub has another adapter of this name.",
                f"Give it another name, or call unload({name!r}) before",
            )
        adapter = read_adapter(source)
        description = adapter.description
        if not isinstance(description, ClassifierDescription):
            raise CheckpointError(
                f"The adapter {name!r} from {source} was asked for.",
                f"Its run did the task {description.task}.",
                "Name a run of the task classification",
            )
        self._check_fits(name, description)
        self._adapters[name] = self._prepared(adapter, description)
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
        self._active = self._checked(names)

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
        chosen = [self._checked(of_clip) for of_clip in ([self._active] * clips if names is None else names)]
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
                chosen = self._checked(names)
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
        rows = [(number, name, self._adapters[name]) for number, chosen in enumerate(names) for name in chosen]
        if self.lower is None or not rows:
            return []
        adapted = [Row(number, loaded.upper, loaded.weights) for number, _, loaded in rows]
        with self.autocast():
            vectors = pooled_vectors(self.lower, signal, lengths, adapted)
            logits = _heads(vectors, [loaded for _, _, loaded in rows])
        predictions: list[Predictions] = [{} for _ in names]
        for (number, name, loaded), row in zip(rows, logits.softmax(1).tolist(), strict=True):
            labels = loaded.description.labels
            clip = None if clips is None else clips[number]
            predictions[number][name] = make_prediction(labels, row[: len(labels)], clip)
        return predictions

    forward = classify_batch

    @property
    def backbone(self) -> Backbone:
        """The one backbone; a hub that was made with a name loads it with the first adapter."""
        if self.lower is None:
            raise ConfigError(
                "A clip was to be classified.", "The hub has no adapter.", "Call load(NAME, FOLDER) first"
            )
        return self.lower.backbone

    @property
    def channel(self) -> Channel:
        """That of all adapters."""
        return "mix" if self._first is None else self._first.channel

    def _limit(self) -> None:
        limits = [loaded.description.longest_clip for loaded in self._adapters.values()]
        self.longest_clip = min((limit for limit in limits if limit is not None), default=None)

    # What is checked, and what is computed

    def _checked(self, names: Names) -> list[str]:
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

    def _check_fits(self, name: str, description: ClassifierDescription) -> None:
        """Loads the backbone before the first adapter; refuses an adapter of another one, or that reads otherwise."""
        backbone = load_as_described(description, self.name) if self.lower is None else self.lower.backbone
        if description.backbone_revision != backbone.revision:
            raise CheckpointError(
                f"The adapter {name!r} was asked for, in a hub of the backbone {self.name}, {backbone.revision}.",
                f"It adapts {description.backbone}, {description.backbone_revision}.",
                f"Load it in a hub of its own: AdapterHub({description.backbone!r})",
            )
        check_same(description, backbone)
        first = self._first or description
        if _reading(description) != _reading(first):
            raise CheckpointError(
                f"The adapter {name!r} was asked for.",
                f"It reads clips with {_reading(description)}, and the others in the hub with {_reading(first)}.",
                "Load it in a hub of its own",
            )
        self._first, self.lower = first, self.lower or LowerPart(backbone.to(self._wanted_device))

    def _prepared(self, adapter: Adapter, description: ClassifierDescription) -> LoadedAdapter:
        upper = self._upper_part(description)
        classes, dim = len(description.labels), self.backbone.dim
        heads = {f"{HEAD}weight": torch.Size([classes, dim]), f"{HEAD}bias": torch.Size([classes])}
        check_shapes({**upper.shapes, **heads}, adapter.weights)
        head, bias = (adapter.weights[name].float().to(self.device) for name in heads)
        return LoadedAdapter(description, upper, upper.flatten(adapter.weights).to(self.device), head, bias)

    def _upper_part(self, description: ClassifierDescription) -> UpperPart:
        """The part that adapters with the same method, settings and pooling share."""
        for loaded in self._adapters.values():
            alike = loaded.description.method_settings == description.method_settings
            if alike and loaded.description.pooling == description.pooling:
                return loaded.upper
        return UpperPart(self.backbone, restored_method(description), description.pooling)


def _reading(description: ClassifierDescription) -> dict[str, object]:
    """What all adapters of a hub agree in, beside the signal; clips of any length have no positions to fit."""
    positions = {"positions": description.positions or "crop"} if "frames" in description.signal else {}
    return {"channel": description.channel, **positions}


def _heads(vectors: torch.Tensor, adapters: Sequence[LoadedAdapter]) -> torch.Tensor:
    """Logits ``[rows, most classes]`` of vectors ``[rows, dim]``; minus infinity where an adapter has fewer classes."""
    weights = pad_sequence([adapter.head for adapter in adapters], batch_first=True)  # [rows, classes, dim]
    biases = pad_sequence([adapter.bias for adapter in adapters], batch_first=True, padding_value=float("-inf"))
    return torch.baddbmm(biases[:, :, None], weights, vectors[:, :, None])[:, :, 0].float()
