"""Measures a few steps of a recipe before the run, to estimate its first epoch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import huggingface_hub
import speechbrain as sb
from speechbrain.dataio.dataset import DynamicItemDataset

from brainplug.backbones.loading import find_source
from brainplug.config.recipe import Recipe
from brainplug.data.manifest import Clip
from brainplug.errors import UsageError
from brainplug.tasks import load_recipe, read_arguments, task_of
from brainplug.tasks.results import peak_memory_bytes
from brainplug.training.brain import AdaptationBrain

STEPS = 3  # of training, and as many of validation; the first one takes longer and does not count
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
SETTINGS = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Rehearsal:
    """Seconds to read a batch, to train and to validate with it, peak memory, and the bytes of one clip's signal."""

    read: float
    train: float
    valid: float
    peak_bytes: int
    signal_bytes: int

    def seconds(self, train_batches: int, valid_batches: int, workers: int = 0, cached: bool = False) -> float:
        """Estimates an epoch, in seconds.

        `workers` are processes that read while the model computes; without any, it waits. With `cached` nothing is
        decoded.

        Example
        -------
        >>> rehearsal = Rehearsal(read=2.0, train=3.0, valid=1.0, peak_bytes=0, signal_bytes=0)
        >>> [rehearsal.seconds(10, 1), rehearsal.seconds(10, 1, workers=1), rehearsal.seconds(10, 1, cached=True)]
        [53.0, 32.0, 31.0]
        """
        read = 0.0 if cached else self.read
        train, valid = (max(read / workers, step) if workers else read + step for step in (self.train, self.valid))
        return train_batches * train + valid_batches * valid


def load_first(arguments: Sequence[str], folder: str | None, inspect: bool) -> Recipe[Any]:
    """Loads a recipe as train.py does, of all folds the first; with a `folder` in place of its output folder."""
    file, run_opts, overrides = read_arguments(arguments)
    overrides |= {"fold": 1} if overrides.get("fold") == "all" else {}
    overrides |= {"output_folder": folder} if folder else {}
    return load_recipe(file, overrides, run_opts, inspect)


def loads_offline(source: str, revision: str | None = None) -> bool:
    """Whether the settings and weights of a backbone, a folder or a hub id, are on this machine."""

    def is_here(name: str) -> bool:
        if Path(source).is_dir():
            return Path(source, name).is_file()
        return isinstance(huggingface_hub.try_to_load_from_cache(source, name, revision=revision), str)

    return all(map(is_here, SETTINGS)) and any(map(is_here, WEIGHTS))


def rehearse(arguments: Sequence[str], folder: str, clips: Sequence[Clip], outputs: Any) -> Rehearsal | str:
    """Trains and validates a few steps; to be called in a process of its own, whose memory is measured.

    `clips` are enough for `STEPS` batches of train and of valid; `outputs` is what the task's `find_outputs` returns
    for all clips. If the steps fail, the reason is returned: the error itself could not leave its process.
    """
    try:
        return _rehearse(load_first(arguments, folder, inspect=False), clips, outputs)
    except (UsageError, RuntimeError) as error:  # torch's errors of memory and of shapes are RuntimeErrors
        return " ".join(str(error).split())


def _rehearse(recipe: Recipe[Any], clips: Sequence[Clip], outputs: Any) -> Rehearsal:
    settings, task = recipe.settings, task_of(recipe)
    offline = task.is_new(settings) or loads_offline(find_source(settings.backbone), settings.backbone_revision)
    components = task.build(recipe, "pretrained" if offline else "random")
    uncached = settings.model_copy(update={"cache_features": False})
    datasets = task.make_datasets(uncached, components, clips, outputs)
    brain = task.make_brain(components.model(outputs), components, recipe, outputs)
    brain.total_steps = STEPS * settings.number_of_epochs
    brain.on_fit_start()
    reads, trains = _take_steps(brain, datasets["train"], sb.Stage.TRAIN, brain.fit_batch)
    validate = partial(brain.evaluate_batch, stage=sb.Stage.VALID)
    _, valids = _take_steps(brain, datasets["valid"], sb.Stage.VALID, validate)
    signal = datasets["train"][0]["signal"]
    peak = peak_memory_bytes(brain.device)
    return Rehearsal(_usual(reads), _usual(trains), _usual(valids), peak, 4 * signal.numel())


def _take_steps(
    brain: AdaptationBrain, dataset: DynamicItemDataset, stage: sb.Stage, step: Callable[..., Any]
) -> tuple[list[float], list[float]]:
    """Seconds to read, and to compute, of each batch."""
    brain.on_stage_start(stage, 1)
    brain.modules.train(stage == sb.Stage.TRAIN)
    reads, computes = [], []
    start = time.perf_counter()
    for batch in brain.make_dataloader(dataset, stage, batch_size=brain.hparams.batch_size):
        read = time.perf_counter()
        brain.step += 1
        step(batch)  # its loss comes to the CPU, so that a GPU has finished too
        reads.append(read - start)
        start = time.perf_counter()
        computes.append(start - read)
    return reads, computes


def _usual(seconds: list[float]) -> float:
    return median(seconds[1:] or seconds)
