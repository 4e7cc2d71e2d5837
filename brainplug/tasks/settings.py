"""The keys that the recipes of all tasks share."""

import re
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from pydoc import locate
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field, PositiveInt

from brainplug.backbones import Backbone
from brainplug.config.recipe import NOT_IN_A_NAME
from brainplug.config.schema import Settings, Tagged
from brainplug.data.audio import Channel
from brainplug.data.protocol.length import LongClips

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
    method_settings: dict[str, Any] | None
    optimizer: str
    optimizers: dict[str, Any]
    optimizer_settings: dict[str, Any] | None
    lr_schedule: Any
    epoch_counter: Any
    train_logger: Any
    logger: str
    loggers: dict[str, Any]
    checkpointer: Any

    @classmethod
    def data_set_keys(cls, values: Mapping[str, object]) -> Mapping[str, Any]:
        """The parameters of the data set's `list_clips` that are no keys of every recipe."""
        list_clips = _list_clips(values)
        if list_clips is None:  # an unknown data set, which is refused later
            return {key: Any for key in values if key not in cls.model_fields}
        hints = get_type_hints(list_clips)
        names = [name for name in signature(list_clips).parameters if name not in (*cls.model_fields, "_")]
        return {name: hints.get(name, Any) for name in names}

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


def _list_clips(values: Mapping[str, object]) -> Callable[..., object] | None:
    """The function that lists the chosen data set, before or after HyperPyYAML has built it."""
    datasets = values.get("datasets")
    entry = datasets.get(str(values.get("dataset"))) if isinstance(datasets, Mapping) else None
    if isinstance(entry, Tagged):
        entry = locate(entry.tag.removeprefix("!name:"))
    entry = getattr(entry, "func", entry)  # of a partial
    return entry if callable(entry) else None
