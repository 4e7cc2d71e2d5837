"""The keys that the recipes of all tasks share."""

import re
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from pydoc import locate
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import Field, PositiveInt
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import TrainLogger

from brainplug.backbones import Backbone
from brainplug.backbones.loading import RANDOM, find_source
from brainplug.config.recipe import NOT_IN_A_NAME
from brainplug.config.schema import Settings, Tagged
from brainplug.data.audio import Channel
from brainplug.data.protocol.length import LongClips
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.errors import ConfigError, nearest

Changes = dict[str, dict[str, Any] | None]  # by entry of a block, what differs from it
# Keys that choose an entry of a block, and keys that change some.
CHOICES = {"dataset": "datasets", "method": "methods", "optimizer": "optimizers", "logger": "loggers"}
CHANGES = {"method_settings": "methods", "optimizer_settings": "optimizers", "augment_settings": "augmentations"}
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TaskSettings(Settings):
    """The keys that the recipes of all tasks have; hparams/train.yaml explains them."""

    task: str = "classification"
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    experiment: str
    output_folder: str
    save_folder: str
    train_log: str
    dataset: str
    datasets: dict[str, Any]
    data_folder: str | None
    manifest: str | None = None
    fold: int | Literal["all"] | None
    folds: Annotated[int, Field(ge=3)] | None = None
    prepare: dict[str, Any]
    channel: Channel = "mix"
    longest_clip: PositiveNumber | None = None
    long_clips: LongClips = "refuse"
    licence: str | None = None
    cache_features: bool
    cache_folder: str | None
    augment: list[Any] | str | None
    number_of_epochs: PositiveInt
    batch_size: PositiveInt
    batch_seconds: PositiveNumber | None
    sorting: Literal["random", "ascending", "descending"]
    num_workers: Annotated[int, Field(ge=0)]
    lr: PositiveNumber | None
    ckpt_interval_minutes: Annotated[float, Field(ge=0)]
    gradient_checkpointing: bool
    backbone: str
    backbone_revision: str | None
    backbones: dict[str, Any] | None
    method: str
    methods: dict[str, Any]
    method_settings: Changes | None
    optimizer: str
    optimizers: dict[str, Any]
    optimizer_settings: Changes | None
    lr_schedule: Callable[[int, int], float]
    epoch_counter: EpochCounter
    train_logger: TrainLogger
    logger: str
    loggers: dict[str, Any]
    checkpointer: Checkpointer

    without_file: ClassVar[tuple[str, ...]] = ()  # backbones that the task makes

    @classmethod
    def data_set_keys(cls, values: Mapping[str, object]) -> Mapping[str, Any]:
        """The parameters of the data set's `list_clips` that are no keys of every recipe."""
        list_clips = _list_clips(values)
        if list_clips is None:  # an unknown data set, which is refused later
            return {key: Any for key in values if key not in cls.model_fields}
        hints = get_type_hints(list_clips)
        names = [name for name in signature(list_clips).parameters if name not in (*cls.model_fields, "_")]
        return {name: hints.get(name, Any) for name in names}

    @classmethod
    def choice_faults(cls, values: Mapping[str, object]) -> list[str]:
        """Names that their block does not have, an unknown backbone, and arguments that no preparation takes."""
        chosen = [(key, values.get(key), block) for key, block in CHOICES.items()]
        changed = [(key, name, block) for key, block in CHANGES.items() for name in as_names(values.get(key))]
        augmented = [("augment", name, "augmentations") for name in as_names(values.get("augment"))]
        faults = [
            f"{key} is {name!r}, which its block {block} does not have; the nearest are: {nearest(name, entries)}."
            for key, name, block in (*chosen, *changed, *augmented)
            if isinstance(name, str) and (entries := as_names(values.get(block))) and name not in entries
        ]
        return faults + cls._backbone_faults(values) + _preparation_faults(values)

    @classmethod
    def _backbone_faults(cls, values: Mapping[str, object]) -> list[str]:
        name, revision = values.get("backbone"), values.get("backbone_revision")
        if not isinstance(name, str) or name in cls.without_file:
            return []
        try:
            source = find_source(name)
        except ConfigError as error:
            return [str(error)]
        if isinstance(revision, str) and Path(source).is_dir() and not name.startswith(RANDOM):
            return [f"backbone_revision is {revision!r}, but {name} is a folder, which has no revisions; leave it out."]
        return []

    def name_suffix(self, given: Mapping[str, object], defaults: Mapping[str, object]) -> str:
        """The list or folder of one's own data and its fold, another optimiser, and choices of the data set."""
        return self._own_data() + self._other_optimizer(given, defaults) + self._choices(defaults)

    def length_limit(self, backbone: Backbone) -> float | None:
        """The seconds of the longest clip; None for a backbone that cuts clips to a number of frames itself."""
        return None if "frames" in backbone.signal_settings else self.longest_clip

    def data_name(self) -> str:
        """Names the data of a run; different data have different names, and so different rows in a table."""
        if self.dataset == "own":
            return f"own {self._source_name()}"
        switches = [key for key, value in (self.model_extra or {}).items() if value is True]
        return "-".join([self.dataset, *switches])

    def _source_name(self) -> str:
        return Path(self.manifest or self.data_folder or "").absolute().name.removesuffix(".csv")

    def _own_data(self) -> str:
        if self.dataset != "own":
            return ""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"-{re.sub(NOT_IN_A_NAME, '_', self._source_name())}{fold}"

    def _other_optimizer(self, given: Mapping[str, object], defaults: Mapping[str, object]) -> str:
        asked = given.get("optimizer")
        return f"-{asked}" if asked not in (None, "", defaults.get("optimizer")) else ""

    def _choices(self, defaults: Mapping[str, object]) -> str:
        """Choices of the data set that the experiment's own name does not say."""
        experiment = defaults.get("experiment")
        said = experiment.text if isinstance(experiment, Tagged) else ""
        extra = {key: value for key, value in (self.model_extra or {}).items() if value and f"<{key}>" not in said}
        chosen = {key: value for key, value in extra.items() if value is True or isinstance(value, str)}
        return "".join(f"-{key if value is True else value}" for key, value in chosen.items())


def as_names(value: object) -> list[object]:
    """The names in a block, in a list, or a name alone."""
    return [value] if isinstance(value, str) else list(value) if isinstance(value, Mapping | Sequence) else []


def _preparation_faults(values: Mapping[str, object]) -> list[str]:
    """Arguments in the block ``prepare`` that neither the preparation nor any data set takes."""
    listing = [_list_clips({**values, "dataset": name}) for name in as_names(values.get("datasets"))]
    taken = {name for function in (prepare_manifest, *filter(None, listing)) for name in signature(function).parameters}
    known = taken | set(TaskSettings.model_fields)  # recipes share their block: some keys are for other data sets
    return [
        f"prepare[{name}] is no argument of the preparation; the nearest are: {nearest(name, known)}."
        for name in as_names(values.get("prepare"))
        if name not in known
    ]


def _list_clips(values: Mapping[str, object]) -> Callable[..., object] | None:
    """The function that lists the chosen data set, before or after HyperPyYAML has built it."""
    datasets = values.get("datasets")
    entry = datasets.get(str(values.get("dataset"))) if isinstance(datasets, Mapping) else None
    if isinstance(entry, Tagged):
        entry = locate(entry.tag.removeprefix("!name:"))
    entry = getattr(entry, "func", entry)  # of a partial
    return entry if callable(entry) else None
