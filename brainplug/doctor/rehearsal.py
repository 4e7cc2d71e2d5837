"""A few steps of a recipe, measured before the run: what its first epoch will take."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import huggingface_hub
import speechbrain as sb
from speechbrain.dataio.dataset import DynamicItemDataset

from brainplug.backbones import Backbone, known_config, load_backbone, random_backbone
from brainplug.backbones.loading import find_source
from brainplug.config.recipe import Experiment, load_aside, parse_arguments
from brainplug.data.manifest import Clip
from brainplug.data.pipeline import make_datasets, make_reader
from brainplug.errors import UsageError
from brainplug.models.adapted import AudioClassifier
from brainplug.results.report import peak_memory_bytes
from brainplug.tasks.components import choose_parts
from brainplug.training.brain import AudioBrain

STEPS = 3  # of training, and as many of validation; the first one takes longer and does not count
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
SETTINGS = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Rehearsal:
    """What steps of a recipe take.

    Arguments
    ---------
    read, train, valid : float
        Seconds to read a batch, to train with it, and to classify it.
    peak_bytes : int
        The most memory held, of the process or of the GPU.
    signal_bytes : int
        Of one clip's signal, as the feature cache keeps it.
    """

    read: float
    train: float
    valid: float
    peak_bytes: int
    signal_bytes: int

    def seconds(self, train_batches: int, valid_batches: int, workers: int = 0, cached: bool = False) -> float:
        """Estimates an epoch.

        Arguments
        ---------
        train_batches, valid_batches : int
            How many it has.
        workers : int
            Processes that read while the model computes; with none, it waits.
        cached : bool
            Nothing is decoded, since all signals lie in the cache.

        Returns
        -------
        float
            Seconds.

        Example
        -------
        >>> rehearsal = Rehearsal(read=2.0, train=3.0, valid=1.0, peak_bytes=0, signal_bytes=0)
        >>> [rehearsal.seconds(10, 1), rehearsal.seconds(10, 1, workers=1), rehearsal.seconds(10, 1, cached=True)]
        [53.0, 32.0, 31.0]
        """
        read = 0.0 if cached else self.read
        train, valid = (max(read / workers, step) if workers else read + step for step in (self.train, self.valid))
        return train_batches * train + valid_batches * valid


def load_recipe(arguments: list[str], folder: str) -> Experiment:
    """Loads a recipe as train.py does, but for another output folder; of all folds it takes the first.

    Arguments
    ---------
    arguments : list[str]
        The command line of train.py.
    folder : str
        The folder that takes its place.

    Returns
    -------
    Experiment
        The recipe.

    Raises
    ------
    UsageError
        As `load_experiment`.
    """
    recipe_file, run_opts, overrides = parse_arguments(arguments)
    lines = ["fold: 1" if line == "fold: all" else line for line in overrides.splitlines()]
    return load_aside(recipe_file, run_opts, "\n".join(lines), folder)


def loads_offline(source: str, revision: str | None = None) -> bool:
    """Says whether a backbone's files are on this machine: settings and weights.

    Arguments
    ---------
    source : str
        A folder or a hub id.
    revision : str, optional
        The hub's revision.

    Returns
    -------
    bool
        Whether it loads without a network.

    Example
    -------
    >>> loads_offline(find_source("nano-ast"))
    True
    """

    def is_here(name: str) -> bool:
        if Path(source).is_dir():
            return Path(source, name).is_file()
        return isinstance(huggingface_hub.try_to_load_from_cache(source, name, revision=revision), str)

    return all(map(is_here, SETTINGS)) and any(map(is_here, WEIGHTS))


def rehearse(arguments: list[str], folder: str, clips: Sequence[Clip], labels: dict[str, int]) -> Rehearsal | str:
    """Trains and validates a few steps; to be called in a process of its own, whose memory is measured.

    Arguments
    ---------
    arguments : list[str]
        The command line of train.py.
    folder : str
        Where the recipe may write.
    clips : Sequence[Clip]
        Of the splits train and valid, enough for `STEPS` batches of each.
    labels : dict[str, int]
        Label -> index, of all classes.

    Returns
    -------
    Rehearsal | str
        What the steps took; the reason, where they fail. (The error itself could not leave its process.)
    """
    try:
        return _rehearse(load_recipe(arguments, folder), clips, labels)
    except (UsageError, RuntimeError) as error:  # torch's errors of memory and of shapes are RuntimeErrors
        return " ".join(str(error).split())


def _rehearse(experiment: Experiment, clips: Sequence[Clip], labels: dict[str, int]) -> Rehearsal:
    hparams = experiment.hparams
    parts = choose_parts(hparams, _load_backbone)
    reader = make_reader(parts.extract, parts.signal_settings, parts.backbone.sample_rate, None)
    datasets = make_datasets(clips, labels, reader)
    hparams["augment"] = parts.augment
    model = AudioClassifier(
        parts.backbone, parts.method, len(labels), hparams["pooling"], hparams["gradient_checkpointing"]
    )
    brain = AudioBrain(model, parts.method, parts.optimizer, parts.lr, hparams, experiment.run_opts)
    brain.total_steps = STEPS * hparams["number_of_epochs"]
    brain.on_fit_start()
    reads, trains = _take_steps(brain, datasets["train"], sb.Stage.TRAIN, brain.fit_batch)
    validate = partial(brain.evaluate_batch, stage=sb.Stage.VALID)
    _, valids = _take_steps(brain, datasets["valid"], sb.Stage.VALID, validate)
    signal = datasets["train"][0]["signal"]
    return Rehearsal(_usual(reads), _usual(trains), _usual(valids), peak_memory_bytes(brain.device), 4 * signal.numel())


def _load_backbone(name: str, revision: str | None, **settings: object) -> Backbone:
    """With random weights where the real ones are not on this machine."""
    if loads_offline(find_source(name), revision):
        return load_backbone(name, revision, **settings)
    return random_backbone(known_config(name), **settings)


def _take_steps(
    brain: AudioBrain, dataset: DynamicItemDataset, stage: sb.Stage, step: Callable
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
