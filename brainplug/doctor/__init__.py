"""`brainplug doctor` examines the machine, a recipe and its data before a run."""

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

from huggingface_hub.constants import HF_HUB_OFFLINE
from speechbrain.utils.distributed import infer_device

from brainplug.backbones import known_config
from brainplug.backbones.loading import HUB_NAMES, find_source
from brainplug.config.recipe import Recipe
from brainplug.data.features import cache_folder
from brainplug.data.manifest import Clip
from brainplug.data.protocol.length import limit_length
from brainplug.doctor.data import examine_audio, examine_content, examine_durations, examine_splits, list_corpus
from brainplug.doctor.finding import Finding, as_finding, counted, size
from brainplug.doctor.machine import examine_folders, examine_machine, memory_bytes, room
from brainplug.doctor.rehearsal import STEPS, Rehearsal, load_first, loads_offline, rehearse
from brainplug.errors import ConfigError
from brainplug.synthetic.espeak import in_fresh_process
from brainplug.tasks import find_task, task_of
from brainplug.tasks.base import RunComponents, choose_optimizer
from brainplug.tasks.classification import draw_examples
from brainplug.tasks.settings import TaskSettings

NEARLY_FULL = 0.8  # share of the memory


def examine(arguments: Sequence[str], full: bool = False) -> Iterator[Finding]:
    """Examines the machine, and a recipe where one is named; yields findings as soon as they are known.

    `arguments` are those of train.py. `full` decodes all clips instead of a sample, and compares what was decoded.
    Nothing is written into the results folder.
    """
    if not arguments:
        yield Finding("", "Machine")
        yield from examine_machine()
        yield from examine_folders("results", cache_folder())
        return
    if arguments[0].startswith("-"):
        raise ConfigError(
            f"{' '.join(arguments)} was asked for.",
            "That names no recipe.",
            "Write: doctor hparams/train.yaml --seed=1",
        )
    results = load_first(arguments, None, inspect=True).settings.output_folder
    with tempfile.TemporaryDirectory(prefix="brainplug-doctor-") as folder:
        recipe = load_first(arguments, folder, inspect=True)
        yield Finding("", "Machine")
        yield from examine_machine()
        yield from examine_folders(results, _cache_folder(recipe.settings))
        yield Finding("", f"\nRecipe {recipe.file}")
        components = yield from _examine_components(recipe)
        yield Finding("", "\nData")
        _copy_splits(results, folder, recipe.settings.prepare.get("splits_file"))
        clips = yield from list_corpus(recipe.settings)
        if clips:
            yield from _examine_data(arguments, folder, recipe, components, clips, full)


def _examine_data(
    arguments: Sequence[str],
    folder: str,
    recipe: Recipe[Any],
    components: RunComponents[Any] | None,
    clips: list[Clip],
    full: bool,
) -> Iterator[Finding]:
    """Splits, audio, contents and durations, then an estimate of time and memory."""
    settings, task = recipe.settings, task_of(recipe)
    yield from examine_splits(clips)
    checked = yield from examine_audio(clips, settings, folder, full)
    yield from examine_content(clips, checked, full)
    if getattr(settings, "few_shot", None):
        clips = (yield from as_finding(draw_examples, clips, settings)) or []
    outputs = clips and (yield from as_finding(task.find_outputs, settings, clips))
    if clips and checked and components and outputs:
        yield from examine_durations(checked, components.backbone, settings)
        checked = limit_length(checked, settings.length_limit(components.backbone), "cut")
        yield Finding("", "\nTime and memory, of a few steps that were measured")
        yield from _estimate(arguments, folder, recipe, clips, checked, outputs)


def summary(findings: Sequence[Finding]) -> str:
    """Sums up a report in one line.

    Example
    -------
    >>> summary([Finding("ok", ""), Finding("error", ""), Finding("error", "")])
    '2 errors, 0 warnings: train.py would stop, or its results could not be trusted.'
    """
    counts = Counter(finding.level for finding in findings)
    errors, warnings = counted(counts["error"], "error"), counted(counts["warning"], "warning")
    outcome = "train.py would stop, or its results could not be trusted" if counts["error"] else "nothing stops a run"
    return f"{errors}, {warnings}: {outcome}."


def _cache_folder(settings: TaskSettings) -> str | None:
    return settings.cache_folder if settings.cache_features else None


def _copy_splits(results: str, folder: str, splits_file: str | None) -> None:
    """Copies the splits that earlier runs drew, which train.py would keep."""
    if splits_file and Path(splits_file).is_relative_to(folder):
        drawn = Path(results, Path(splits_file).relative_to(folder))
        if drawn.is_file():
            shutil.copy(drawn, splits_file)


def _examine_components(recipe: Recipe[Any]) -> Generator[Finding, None, RunComponents[Any] | None]:
    """Names all that train.py refuses at once; returns the components without weights, if a run could start."""
    settings, task = recipe.settings, task_of(recipe)
    optimizer = yield from as_finding(choose_optimizer, settings)
    method = yield from as_finding(task.choose_method, settings)
    backbone_is_known = task.is_new(settings) or (yield from _examine_backbone(settings))
    if not (optimizer and method and backbone_is_known):
        return None
    components = yield from as_finding(task.build, recipe, "meta")
    if components:
        names = f"{settings.method} on {settings.backbone}, with {settings.optimizer}"
        yield Finding("ok", f"{names}: {components.trainable_without_head:,} trained parameters without the head")
    return components


def _examine_backbone(settings: TaskSettings) -> Generator[Finding, None, bool]:
    """Whether the backbone's configuration is known, if not its weights."""
    name, revision = settings.backbone, settings.backbone_revision
    source = yield from as_finding(find_source, name)
    if source is None:
        return False
    if loads_offline(source, revision):
        yield Finding("ok", f"The backbone {name} loads offline")
    elif Path(source).is_dir():
        yield Finding("error", f"The backbone {name}: its folder lacks files; copy all of them there")
        return False
    else:
        level = "error" if HF_HUB_OFFLINE else "warning"  # nothing is downloaded where HF_HUB_OFFLINE is set
        yield Finding(level, f"The backbone {name} is not on this machine; to have it: hf download {source}")
        if source not in HUB_NAMES.values():
            return False
    return (yield from as_finding(known_config, name)) is not None


# The first epoch


def _estimate(
    arguments: Sequence[str],
    folder: str,
    recipe: Recipe[Any],
    clips: Sequence[Clip],
    checked: Sequence[Clip],
    outputs: Any,
) -> Iterator[Finding]:
    """Measures a few steps in a process of its own, and estimates the epochs."""
    settings, labels = recipe.settings, {clip.label for clip in clips}
    usable = [clip for clip in checked if clip.label in labels]
    parts = [[clip for clip in usable if clip.split == split] for split in ("train", "valid")]
    if not all(parts):
        yield Finding("warning", "No estimate: it takes usable clips of the same classes in train and valid")
        return
    batches = math.ceil(sum(clip.split == "train" for clip in clips) / settings.batch_size)
    factor = recipe.run_opts.grad_accumulation_factor
    if not (settings.batch_seconds or 1 <= factor <= batches):
        yield Finding(
            "error",
            f"Steps of {factor} batches, where an epoch has {batches}; write another --grad_accumulation_factor",
        )
        return
    sample = [clip for part in parts for clip in part[: STEPS * settings.batch_size]]
    try:
        measured: Any = in_fresh_process(rehearse, arguments, folder, sample, outputs)
    except BrokenProcessPool:
        measured = "its process was ended, as happens where memory is short; write a smaller --batch_size"
    if isinstance(measured, str):
        yield Finding("error", f"A few steps of this recipe fail: {measured}")
        return
    yield from _epochs(measured, settings, clips)
    total = memory_bytes(recipe.run_opts.device or infer_device())
    level, advice = "ok", ""
    if measured.peak_bytes > NEARLY_FULL * total:
        level, advice = "warning", "; write a smaller --batch_size, or --gradient_checkpointing=True"
    yield Finding(level, f"{size(measured.peak_bytes)} of {size(total)} memory at most{advice}")


def _epochs(measured: Rehearsal, settings: TaskSettings, clips: Sequence[Clip]) -> Iterator[Finding]:
    splits = Counter(clip.split for clip in clips)
    train, valid = (math.ceil(splits[split] / settings.batch_size) for split in ("train", "valid"))
    cache, epochs = _cache_folder(settings), settings.number_of_epochs
    first = measured.seconds(train, valid, settings.num_workers)
    later = measured.seconds(train, valid, settings.num_workers, cached=cache is not None)
    if not find_task(settings.task).is_new(settings) and not loads_offline(
        find_source(settings.backbone), settings.backbone_revision
    ):
        yield Finding("ok", f"Measured with random weights, since those of {settings.backbone} are not here")
    if settings.batch_seconds:
        yield Finding("warning", "Time and memory are those of batches of --batch_size clips, not of --batch_seconds")
    times = f"{measured.read:.2g} s to read, {measured.train:.2g} s to train with, {measured.valid:.2g} s to validate"
    yield Finding("ok", f"A batch of {settings.batch_size}: {times}")
    steps = f"{train:,} steps of training and {valid:,} of validation"
    whole = _minutes(first + (epochs - 1) * later)
    yield Finding("ok", f"First epoch, {steps}: {_minutes(first)}; all {epochs} epochs: {whole}")
    if cache:
        filled = measured.signal_bytes * len(clips)
        _, free = room(cache)
        level, advice = ("warning", "; write --cache_features=False") if filled > free else ("ok", "")
        yield Finding(level, f"The feature cache takes {size(filled)} of {size(free)} free{advice}")


def _minutes(seconds: float) -> str:
    """A time, with the precision of an estimate."""
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"
