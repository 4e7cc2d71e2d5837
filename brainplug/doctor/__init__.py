"""python -m brainplug doctor: looks at the machine, a recipe and its data before a run, and says what it finds."""

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import yaml
from huggingface_hub.constants import HF_HUB_OFFLINE
from hyperpyyaml import resolve_references
from speechbrain.utils.distributed import infer_device

from brainplug.backbones import Backbone, backbone_without_weights, base_name, known_config
from brainplug.backbones.loading import HUB_NAMES, find_source
from brainplug.config.recipe import Experiment, RecipeLoader, choose_optimizer, parse_arguments
from brainplug.data.features import cache_folder
from brainplug.data.manifest import Clip, label_map
from brainplug.data.protocol.few_shot import keep_examples
from brainplug.doctor.data import examine_audio, examine_content, examine_durations, examine_splits, list_corpus
from brainplug.doctor.finding import Finding, counted, size, tried
from brainplug.doctor.machine import examine_folders, examine_machine, memory_bytes, room
from brainplug.doctor.rehearsal import STEPS, Rehearsal, load_recipe, loads_offline, rehearse
from brainplug.errors import UsageError
from brainplug.methods import choose_method
from brainplug.models.adapted import classifier_without_weights
from brainplug.synthetic.espeak import in_fresh_process
from brainplug.tasks.components import check_is_for_train

NEARLY_FULL = 0.8  # share of the memory


def examine(arguments: list[str], full: bool = False) -> Iterator[Finding]:
    """Examines the machine, and a recipe where one is named; nothing is written into its results folder.

    Arguments
    ---------
    arguments : list[str]
        The command line of train.py: a recipe, and what changes in it; empty for the machine alone.
    full : bool
        Decodes all clips instead of a sample, and compares what was decoded.

    Yields
    ------
    Finding
        One line each, as soon as it is known.

    Raises
    ------
    UsageError
        The recipe cannot be loaded.

    Example
    -------
    >>> next(examine([])).text
    'Machine'
    """
    if not arguments:
        yield Finding("", "Machine")
        yield from examine_machine()
        yield from examine_folders("results", cache_folder())
        return
    if arguments[0].startswith("-"):
        raise UsageError(
            f"{' '.join(arguments)} was asked for.",
            "That names no recipe.",
            "Write: doctor hparams/train.yaml --seed=1",
        )
    with tempfile.TemporaryDirectory(prefix="brainplug-doctor-") as folder:
        experiment = load_recipe(arguments, folder)
        hparams = experiment.hparams
        check_is_for_train(experiment.recipe_file, hparams)
        yield Finding("", "Machine")
        yield from examine_machine()
        results = _output_folder(arguments, hparams)
        yield from examine_folders(results, _cache_folder(hparams))
        yield Finding("", f"\nRecipe {experiment.recipe_file}")
        backbone = yield from _examine_settings(hparams)
        yield Finding("", "\nData")
        _take_over_splits(results, folder, hparams["prepare"].get("splits_file"))
        clips = yield from list_corpus(hparams)
        if not clips:
            return
        yield from examine_splits(clips)
        checked = yield from examine_audio(clips, hparams, folder, full)
        yield from examine_content(clips, checked, full)
        if hparams["few_shot"]:
            how = {"first": hparams["paper_code"], "short": hparams["few_shot_short"]}
            clips = yield from tried(keep_examples, clips, hparams["few_shot"], hparams["seed"], **how)
        if clips and checked and backbone:
            yield from examine_durations(checked, backbone)
            yield Finding("", "\nTime and memory, of a few steps that were measured")
            yield from _estimate(arguments, folder, experiment, clips, checked)


def summary(findings: Sequence[Finding]) -> str:
    """Sums up a report.

    Arguments
    ---------
    findings : Sequence[Finding]
        All of it.

    Returns
    -------
    str
        One line.

    Example
    -------
    >>> summary([Finding("ok", ""), Finding("error", ""), Finding("error", "")])
    '2 errors, 0 warnings: train.py would stop, or its results could not be trusted.'
    """
    counts = Counter(finding.level for finding in findings)
    errors, warnings = counted(counts["error"], "error"), counted(counts["warning"], "warning")
    outcome = "train.py would stop, or its results could not be trusted" if counts["error"] else "nothing stops a run"
    return f"{errors}, {warnings}: {outcome}."


# The recipe


def _cache_folder(hparams: dict) -> str | None:
    return hparams["cache_folder"] if hparams["cache_features"] else None


def _output_folder(arguments: list[str], hparams: dict) -> str:
    """Where train.py would write, read without loading the recipe, which would make the folder."""
    recipe_file, _, overrides = parse_arguments(arguments)
    lines = [line for line in overrides.splitlines() if not line.startswith("experiment:")]
    if "experiment" in hparams:  # with what loading adds to its name
        lines.append(f"experiment: {hparams['experiment']}")
    with open(recipe_file) as file:
        keys = yaml.compose(resolve_references(file, "\n".join(lines)), Loader=RecipeLoader).value
    return next(value.value for key, value in keys if key.value == "output_folder")


def _take_over_splits(results: str, folder: str, splits_file: str | None) -> None:
    """What earlier runs drew and wrote down, and train.py would stay with."""
    if splits_file and Path(splits_file).is_relative_to(folder):
        drawn = Path(results, Path(splits_file).relative_to(folder))
        if drawn.is_file():
            shutil.copy(drawn, splits_file)


def _examine_settings(hparams: dict) -> Generator[Finding, None, Backbone | None]:
    """Looks at all that train.py refuses at once; returns the backbone, without weights, if a run could start."""
    optimizer = yield from tried(choose_optimizer, hparams)
    method = yield from tried(
        choose_method,
        hparams["method"],
        hparams["methods"],
        hparams["backbones"].get(base_name(hparams["backbone"])),
        hparams["method_settings"],
        paper_code=hparams["paper_code"],
    )
    backbone = yield from _examine_backbone(hparams)
    if not (optimizer and method and backbone):
        return None
    model = yield from tried(
        classifier_without_weights, backbone.model.config, method[0], n_classes=2, pooling=hparams["pooling"]
    )
    if model:
        trained = model.count_parameters()["trainable_without_head"]
        names = f"{hparams['method']} on {hparams['backbone']}, with {hparams['optimizer']}"
        yield Finding("ok", f"{names}: {trained:,} trained parameters without the head")
    return backbone if model else None


def _examine_backbone(hparams: dict) -> Generator[Finding, None, Backbone | None]:
    name, revision = hparams["backbone"], hparams["backbone_revision"]
    source = yield from tried(find_source, name)
    if source is None:
        return None
    if loads_offline(source, revision):
        yield Finding("ok", f"The backbone {name} loads offline")
    elif Path(source).is_dir():
        yield Finding("error", f"The backbone {name}: its folder lacks files; copy all of them there")
        return None
    else:
        level = "error" if HF_HUB_OFFLINE else "warning"  # nothing is downloaded where HF_HUB_OFFLINE is set
        yield Finding(level, f"The backbone {name} is not on this machine; to have it: hf download {source}")
        if source not in HUB_NAMES.values():
            return None
    config = yield from tried(known_config, name)
    if config is None:
        return None
    settings = {name: hparams[name] for name in ("frames", "positions")}
    return (yield from tried(backbone_without_weights, config, **settings))


# The first epoch


def _estimate(
    arguments: list[str], folder: str, experiment: Experiment, clips: Sequence[Clip], checked: Sequence[Clip]
) -> Iterator[Finding]:
    """Measures a few steps in a process of its own, and reckons up."""
    hparams, labels = experiment.hparams, label_map(clips)
    known = [clip for clip in checked if clip.label in labels]
    parts = [[clip for clip in known if clip.split == split] for split in ("train", "valid")]
    if not all(parts):
        yield Finding("warning", "No estimate: it takes usable clips of the same classes in train and valid")
        return
    batches = math.ceil(sum(clip.split == "train" for clip in clips) / hparams["batch_size"])
    factor = experiment.run_opts.grad_accumulation_factor
    if not (hparams["batch_seconds"] or 1 <= factor <= batches):
        yield Finding("error", f"Steps of {factor} batches, where an epoch has {batches}; "
                      "write another --grad_accumulation_factor")  # fmt: skip
        return
    rehearsed = [clip for part in parts for clip in part[: STEPS * hparams["batch_size"]]]
    try:
        measured = in_fresh_process(rehearse, arguments, folder, rehearsed, labels)
    except BrokenProcessPool:
        measured = "its process was ended, as happens where memory is short; write a smaller --batch_size"
    if isinstance(measured, str):
        yield Finding("error", f"A few steps of this recipe fail: {measured}")
        return
    yield from _reckon(measured, hparams, clips)
    total = memory_bytes(experiment.run_opts.device or infer_device())
    level, advice = "ok", ""
    if measured.peak_bytes > NEARLY_FULL * total:
        level, advice = "warning", "; write a smaller --batch_size, or --gradient_checkpointing=True"
    yield Finding(level, f"{size(measured.peak_bytes)} of {size(total)} memory at most{advice}")


def _reckon(measured: Rehearsal, hparams: dict, clips: Sequence[Clip]) -> Iterator[Finding]:
    splits = Counter(clip.split for clip in clips)
    batches = [math.ceil(splits[split] / hparams["batch_size"]) for split in ("train", "valid")]
    cache, epochs = _cache_folder(hparams), hparams["number_of_epochs"]
    first = measured.seconds(*batches, hparams["num_workers"])
    later = measured.seconds(*batches, hparams["num_workers"], cached=cache is not None)
    if not loads_offline(find_source(hparams["backbone"]), hparams["backbone_revision"]):
        yield Finding("ok", f"Measured with random weights, since those of {hparams['backbone']} are not here")
    if hparams["batch_seconds"]:
        yield Finding("warning", "Time and memory are those of batches of --batch_size clips, not of --batch_seconds")
    yield Finding("ok", f"A batch of {hparams['batch_size']}: {measured.read:.2g} s to read, {measured.train:.2g} s to "
                  f"train with, {measured.valid:.2g} s to classify")  # fmt: skip
    yield Finding("ok", f"First epoch, {batches[0]:,} steps of training and {batches[1]:,} of validation: "
                  f"{_minutes(first)}; all {epochs} epochs: {_minutes(first + (epochs - 1) * later)}")  # fmt: skip
    if cache:
        filled = measured.signal_bytes * len(clips)
        _, free = room(cache)
        level, advice = ("warning", "; write --cache_features=False") if filled > free else ("ok", "")
        yield Finding(level, f"The feature cache takes {size(filled)} of {size(free)} free{advice}")


def _minutes(seconds: float) -> str:
    """A time as far as an estimate knows it."""
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"
