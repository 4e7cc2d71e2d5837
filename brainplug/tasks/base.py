"""A task: a kind of work. It owns the keys of its recipes, its components, data, training, results and adapters."""

import contextlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import speechbrain as sb
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import ddp_barrier, if_main_process, run_on_main

from brainplug.adapters.card import training_summary
from brainplug.adapters.description import AdapterDescription
from brainplug.adapters.file import Adapter, register_adapter, save_adapter
from brainplug.adapters.layout import FOLDER
from brainplug.adapters.probe import check_probe, output_on_cpu
from brainplug.backbones import Backbone, base_name
from brainplug.config.extension import read_extension
from brainplug.config.output_folder import check_output_folder
from brainplug.config.recipe import Recipe, choose
from brainplug.data.manifest import Clip, read_manifest
from brainplug.data.pipeline import make_reader, training_batches
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.data.protocol.summary import silent_classes, warning_of_silence
from brainplug.errors import ConfigError, Faults, UsageError
from brainplug.files import write_json
from brainplug.methods import Method, choose_method
from brainplug.methods.registry import Variants
from brainplug.models.adapted import AdaptedModel
from brainplug.optim.entry import OptimizerEntry, as_entry
from brainplug.results.schema import FORMAT
from brainplug.tasks.loading import Weights, without_weights
from brainplug.tasks.results import describe_run
from brainplug.tasks.settings import TaskSettings
from brainplug.training.brain import AdaptationBrain, Tested
from brainplug.training.loggers import check_logger, make_loggers

S = TypeVar("S", bound=TaskSettings)
O = TypeVar("O")  # noqa: E741  outputs: what the head tells apart, such as labels or characters
Extract = Callable[[torch.Tensor], torch.Tensor]


class Assembly(NamedTuple, Generic[O]):
    """A backbone, and how a model is put together around it."""

    backbone: Backbone
    model: Callable[[Method, O], AdaptedModel]


@dataclass(frozen=True)
class RunComponents(Generic[O]):
    """What a run consists of, before its data are read.

    Arguments
    ---------
    list_clips : Callable
        Lists the corpus.
    backbone, method, optimizer, lr : Backbone, Method, OptimizerEntry, float
        What is adapted, how, and how it is trained; `lr` is the highest learning rate.
    augment : list[Callable]
        Augmentations, in order.
    extract, signal_settings : Callable, dict
        Turns a waveform ``[samples]`` into the signal that a clip is read as, and all that this depends on.
    trainable_without_head : int
        Parameters that the method trains.
    model : Callable
        Called with the outputs (labels, characters); returns the adapted model with its head.
    """

    list_clips: Callable[..., list[Clip]]
    backbone: Backbone
    method: Method
    optimizer: OptimizerEntry
    lr: float
    augment: list[Callable[..., Any]]
    extract: Extract
    signal_settings: dict[str, Any]
    trainable_without_head: int
    model: Callable[[O], AdaptedModel]


@dataclass(frozen=True)
class RunData(Generic[O]):
    """The clips that a run uses, what its head tells apart, a dataset for each split, and clips that were set aside."""

    clips: Sequence[Clip]
    outputs: O
    datasets: dict[str, DynamicItemDataset]
    skipped: Sequence[tuple[Clip, str]] = ()


class Task(ABC, Generic[S, O]):
    """One kind of work, such as classification. A new one is a subclass in a file of its own."""

    name: ClassVar[str]
    schema: ClassVar[type[TaskSettings]]
    placeholder: ClassVar[Any]  # outputs of a model that is only counted

    # What a subclass says

    @abstractmethod
    def assemble(self, settings: S, weights: Weights, like: Backbone | None = None) -> Assembly[O]:
        """Loads the backbone and says how its model is made.

        `weights` are ``pretrained``; ``random``, drawn; or ``meta``: shapes without values, at once and without memory.
        A backbone without pretrained weights has the architecture of `like`, if that is given.
        """

    @abstractmethod
    def find_outputs(self, settings: S, clips: Sequence[Clip]) -> O:
        """What the head tells apart, given all clips: the labels with their indices, or the characters."""

    @abstractmethod
    def make_datasets(
        self, settings: S, components: RunComponents[O], clips: Sequence[Clip], outputs: O
    ) -> dict[str, DynamicItemDataset]:
        """A dataset for each split."""

    @abstractmethod
    def make_brain(
        self, model: AdaptedModel, components: RunComponents[O], recipe: Recipe[S], outputs: O
    ) -> AdaptationBrain:
        """The training loop of a model."""

    @abstractmethod
    def describe_adapter(self, model: AdaptedModel, settings: S, outputs: O) -> AdapterDescription:
        """All that inference needs to know of an adapter."""

    @abstractmethod
    def result_row(self, brain: Any, settings: S, data: RunData[O], tested: Tested) -> dict[str, Any]:
        """What results.json says of this kind of work, beside what `describe_run` says of every run."""

    @abstractmethod
    def summary(self, results: dict[str, Any], output_folder: str) -> str:
        """The short table at the end of a run."""

    def augmentations(self, settings: S) -> list[Callable[..., Any]]:
        """The augmentations of training, in order."""
        return list(settings.augment or [])

    def choose_method(self, settings: S) -> tuple[Method, float]:
        """The method, and its learning rate."""
        of_backbone = (settings.backbones or {}).get(base_name(settings.backbone))
        changes = of_backbone, settings.method_settings
        return choose_method(settings.method, settings.methods, *changes, variants=self.variants(settings))

    def variants(self, settings: S) -> Variants:
        """Classes of methods that others replace."""
        return {}

    def reading(self, settings: S, backbone: Backbone) -> tuple[Extract, dict[str, Any]]:
        """How a clip's waveform becomes a signal, and what that depends on."""
        return backbone.extract, backbone.signal_settings

    def list_clips(self, settings: S, components: RunComponents[O]) -> list[Clip]:
        """The checked clips of a run."""
        return list_run_clips(settings, components.list_clips, components.backbone)

    def set_aside(
        self, settings: S, components: RunComponents[O], clips: list[Clip], outputs: O
    ) -> tuple[list[Clip], list[tuple[Clip, str]]]:
        """The clips that can be used, and the others with the reason."""
        return clips, []

    def is_new(self, settings: S) -> bool:
        """Whether the recipe makes its backbone instead of loading one."""
        return False

    def tested_epoch(self, settings: S) -> Literal["best", "last"]:
        """The epoch whose weights are kept and reported."""
        return "best"

    def before_training(self, brain: Any, settings: S, data: RunData[O]) -> Any:
        """What is looked at before training, for `write_files`."""

    def write_files(self, brain: Any, settings: S, data: RunData[O], before: Any) -> None:
        """Writes the files of a finished run beside results.json and the adapter; called by all processes."""

    def after_adapter(self, model: Any, settings: S) -> None:
        """Writes what is made of the model itself, once its adapter is saved; it may be merged here."""

    def rebuild(self, description: Any, location: str | None, weights: Weights) -> AdaptedModel:
        """Builds the model that an adapter's description names, before its trained weights are loaded.

        `weights` are ``pretrained``, or ``meta``: shapes without values.
        """
        raise NotImplementedError

    def rebuild_without_weights(self, description: Any, location: str | None) -> AdaptedModel:
        """The model that a description names, as shapes without values."""
        with torch.random.fork_rng(devices=[]), without_weights(description):
            return self.rebuild(description, location, "meta")

    def restore(self, adapter: Adapter, location: str | None = None, verify: bool = True) -> AdaptedModel:
        """The model that an adapter describes.

        `location` is a folder with the backbone, if that has moved. The shapes of all tensors are checked before memory
        is taken for them; with `verify` the model must answer its probe as it did when it was saved.
        """
        self.rebuild_without_weights(adapter.description, location).check_delta(adapter.weights)
        with torch.random.fork_rng(devices=[]):
            model = self.rebuild(adapter.description, location, "pretrained")
        model.load_delta(adapter.weights)
        if verify and adapter.probe:
            check_probe(partial(output_on_cpu, model), adapter.probe, adapter.description.method)
        return model

    # What all tasks do alike

    def build(self, recipe: Recipe[S], weights: Weights = "pretrained") -> RunComponents[O]:
        """Puts the components of a run together, with `weights` as in `assemble`.

        What does not exist, does not take its settings or does not fit raises one `ConfigError`, before anything is
        written.
        """
        settings = recipe.settings
        faults = Faults()
        with faults:
            list_clips = choose("dataset", settings.dataset, settings.datasets)
        with faults:
            check_logger(settings.logger, settings.loggers)
        with faults:
            augment = self.augmentations(settings)
        with faults:
            method, method_lr = self.choose_method(settings)
        with faults:
            optimizer = choose_optimizer(settings)
        with faults:
            backbone, make_model = self.assemble(settings, weights)
        faults.raise_all()
        extract, signal_settings = self.reading(settings, backbone)
        counts = self._without_weights(settings, backbone, method).count_parameters()
        return RunComponents(
            list_clips=list_clips,
            backbone=backbone,
            method=method,
            optimizer=optimizer,
            lr=settings.lr or method_lr * optimizer.lr_scale,
            augment=augment,
            extract=extract,
            signal_settings=signal_settings,
            trainable_without_head=counts["trainable_without_head"],
            model=lambda outputs: make_model(method, outputs),
        )

    def _without_weights(self, settings: S, backbone: Backbone, method: Method) -> AdaptedModel:
        """The model on torch's meta device, which shows whether all of it goes together."""
        with torch.random.fork_rng(devices=[]):
            _, make_model = self.assemble(settings, "meta", like=backbone)
            with torch.device("meta"):
                return make_model(method, self.placeholder)

    def prepare_data(self, settings: S, components: RunComponents[O]) -> RunData[O]:
        """Lists and checks the clips, and makes a dataset for each split."""
        clips = self.list_clips(settings, components)
        outputs = self.find_outputs(settings, clips)
        usable, skipped = self.set_aside(settings, components, clips, outputs)
        return RunData(usable, outputs, self.make_datasets(settings, components, usable, outputs), skipped)

    def run(self, recipe: Recipe[S]) -> dict[str, Any] | None:
        """Does one run, or goes on with it.

        Returns
        -------
        dict[str, Any] | None
            What results.json says; None in all processes but the first.
        """
        settings, folder = recipe.settings, recipe.settings.output_folder
        try:
            components = self.build(recipe)
        except UsageError:
            with contextlib.suppress(OSError):  # of a folder with something in it
                os.removedirs(settings.save_folder)  # which the checkpointer made
            raise
        begin_run(recipe, components.method)
        data = self.prepare_data(settings, components)
        fingerprint = None if self.is_new(settings) else components.backbone.fingerprint()
        model = components.model(data.outputs)
        description = self.describe_adapter(model, settings, data.outputs)
        register_adapter(settings.checkpointer, model, description)
        brain = self.make_brain(model, components, recipe, data.outputs)
        before = self.before_training(brain, settings, data)
        tested = train_and_test(brain, settings, data.datasets, self.tested_epoch(settings))
        self.write_files(brain, settings, data, before)
        results = None
        if if_main_process():
            splits = Counter(clip.split for clip in data.clips)
            results = {
                "format": FORMAT,
                "task": self.name,
                **describe_run(brain, settings),
                **{f"n_{split}": splits[split] for split in ("train", "valid", "test")},
                **self.result_row(brain, settings, data, tested),
                **extension_of(folder),
            }
            described = {
                "backbone_sha256": fingerprint,
                "dataset": settings.data_name(),
                "licence": settings.licence,
                "training": training_summary(results),
            }
            save_adapter(model, Path(folder, FOLDER), description.model_copy(update=described), results)
            self.after_adapter(model, settings)
            write_json(results, Path(folder, "results.json"))
            silent = silent_classes(data.clips, settings.prepare["manifest_folder"])
            last_words = filter(None, (self.summary(results, folder), warning_of_silence(silent)))
            print(*last_words, sep="\n")  # noqa: T201
        ddp_barrier()  # until all have read the checkpoints, which --debug removes
        return results


def choose_optimizer(settings: TaskSettings) -> OptimizerEntry:
    """Picks the optimiser, with what ``optimizer_settings`` changes in its entry."""
    name = settings.optimizer
    changes = (settings.optimizer_settings or {}).get(name) or {}
    entry = as_entry(choose("optimizer", name, settings.optimizers)).with_settings(changes)
    try:
        entry.build(torch.nn.Linear(1, 1), lr=1.0)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The optimizer {name!r} was asked for, with {changes} beside what its entry sets.",
            f"It does not take them: {error}.",
            "Write settings that hparams/optimizers.yaml shows for it",
        ) from error
    return entry


def extension_of(folder: str) -> dict[str, object]:
    """What results.json says of a run that was extended; nothing of others."""
    extension = read_extension(folder)
    return dict(extension) if extension["extended_from"] else {}


def begin_run(recipe: Recipe[Any], method: Method) -> None:
    """Claims the output folder, and leaves SpeechBrain's records there."""
    settings = recipe.settings
    check_output_folder(recipe, settings.output_folder, settings.save_folder, not method.depends_on_length)
    overrides = recipe.overrides_text()
    sb.create_experiment_directory(settings.output_folder, recipe.file, overrides)


def list_run_clips(settings: TaskSettings, list_clips: Callable[..., list[Clip]], backbone: Backbone) -> list[Clip]:
    """Lists and checks the clips once, in the first process, and reads the manifest that this leaves."""
    arguments = {
        "list_clips": list_clips,
        "trained": bool(settings.checkpointer.list_checkpoints()),
        "channel": settings.channel,
        "longest_clip": settings.length_limit(backbone),
        "long_clips": settings.long_clips,
    }
    run_on_main(prepare_manifest, kwargs={**arguments, **settings.prepare})
    return read_manifest(f"{settings.prepare['manifest_folder']}/manifest.csv")


def clip_reader(settings: TaskSettings, components: RunComponents[Any]) -> Callable[[Clip], torch.Tensor]:
    """Reads a clip's signal, through the cache where the recipe has one."""
    cache_folder = settings.cache_folder if settings.cache_features else None
    signal_settings, sample_rate = components.signal_settings, components.backbone.sample_rate
    return make_reader(components.extract, signal_settings, sample_rate, cache_folder, settings.channel)


def brain_hparams(settings: TaskSettings, components: RunComponents[Any]) -> dict[str, Any]:
    """What SpeechBrain's Brain takes as hparams: the settings, the augmentations, and all loggers."""
    loggers = make_loggers(settings.train_logger, settings.logger, settings.loggers)
    return {**dict(settings), "augment": components.augment, "train_loggers": loggers}


def train_and_test(
    brain: AdaptationBrain,
    settings: TaskSettings,
    datasets: dict[str, DynamicItemDataset],
    tested_epoch: Literal["best", "last"],
) -> Tested:
    """Trains, or goes on, then tests the best epoch and the last; the weights of `tested_epoch` are left loaded."""
    train_set, train_loader = training_batches(
        datasets["train"], settings.batch_size, settings.batch_seconds, settings.sorting, settings.seed
    )
    brain.fit(
        settings.epoch_counter,
        train_set,
        datasets["valid"],
        train_loader_kwargs={**train_loader, "num_workers": settings.num_workers},
        valid_loader_kwargs=loader_options(settings),
    )
    return brain.test_epochs(datasets["test"], tested_epoch, loader_options(settings))


def loader_options(settings: TaskSettings) -> dict[str, int]:
    """Arguments of the loaders that validate and test."""
    return {"batch_size": settings.batch_size, "num_workers": settings.num_workers}
