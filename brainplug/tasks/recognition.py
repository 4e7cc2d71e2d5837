"""What the runs of all recognisers do alike: their files, their data, training and test."""

from collections.abc import Callable, Sequence
from functools import partial

import speechbrain as sb
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import run_on_main

from brainplug.config.output_folder import check_output_folder
from brainplug.config.recipe import Experiment
from brainplug.data.characters import Characters
from brainplug.data.manifest import Clip, read_manifest
from brainplug.data.pipeline import make_reader, training_batches
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.data.transcripts import list_transcribed, make_transcribed_datasets, write_skipped
from brainplug.tasks.components import Parts
from brainplug.training.loggers import make_loggers
from brainplug.training.recognition import RecognitionBrain


def begin_run(experiment: Experiment, list_clips: Callable[..., list[Clip]]) -> list[Clip]:
    """Claims the output folder, sets up what is logged, and lists the clips in the manifest there.

    Arguments
    ---------
    experiment : Experiment
        The recipe.
    list_clips : Callable
        Lists the corpus.

    Returns
    -------
    list[Clip]
        All clips, with normalised transcripts.

    Raises
    ------
    UsageError
        The folder is another run's, or the clips cannot be used.
    """
    hparams = experiment.hparams
    check_output_folder(experiment)
    sb.create_experiment_directory(hparams["output_folder"], experiment.recipe_file, experiment.overrides)
    hparams["train_loggers"] = make_loggers(hparams)
    trained = bool(hparams["checkpointer"].list_checkpoints())
    transcribed = partial(list_transcribed, list_clips, hparams["characters"])
    run_on_main(prepare_manifest, kwargs={"list_clips": transcribed, "trained": trained, **hparams["prepare"]})
    return read_manifest(f"{hparams['prepare']['manifest_folder']}/manifest.csv")


def make_run_datasets(
    hparams: dict,
    parts: Parts,
    characters: Characters,
    clips: Sequence[Clip],
    skipped: Sequence[tuple[Clip, str]],
) -> dict[str, DynamicItemDataset]:
    """Makes one dataset a split, read through the cache if there is one, and writes down which clips are in none.

    Arguments
    ---------
    hparams : dict
        The loaded recipe.
    parts : Parts
        What the run consists of.
    characters : Characters
        The vocabulary.
    clips, skipped : Sequence
        As `set_aside` returns them.

    Returns
    -------
    dict[str, DynamicItemDataset]
        A dataset for each split.
    """
    run_on_main(write_skipped, args=[skipped, f"{hparams['output_folder']}/skipped.csv"])
    cache_folder = hparams["cache_folder"] if hparams["cache_features"] else None
    reader = make_reader(parts.extract, parts.signal_settings, parts.backbone.sample_rate, cache_folder)
    return make_transcribed_datasets(clips, characters, reader)


def train_and_test(
    brain: RecognitionBrain, hparams: dict, datasets: dict[str, DynamicItemDataset]
) -> dict[str, dict[str, float]]:
    """Trains, or goes on, then tests the best epoch and the last.

    Arguments
    ---------
    brain : RecognitionBrain
        With its checkpointer.
    hparams : dict
        The loaded recipe.
    datasets : dict[str, DynamicItemDataset]
        Of the splits train, valid and test.

    Returns
    -------
    dict[str, dict[str, float]]
        As `RecognitionBrain.test_epochs`; the best epoch's weights are loaded.
    """
    train_set, train_loader = training_batches(
        datasets["train"], hparams["batch_size"], hparams["batch_seconds"], hparams["sorting"], hparams["seed"]
    )
    workers = {"num_workers": hparams["num_workers"]}
    loaders = {"batch_size": hparams["batch_size"], **workers}
    brain.fit(
        hparams["epoch_counter"],
        train_set,
        datasets["valid"],
        train_loader_kwargs={**train_loader, **workers},
        valid_loader_kwargs=loaders,
    )
    return brain.test_epochs(datasets["test"], "best", loaders)
