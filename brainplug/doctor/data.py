"""Examines a corpus: counts, splits, leaks, files that cannot be used, durations."""

import heapq
import inspect
import math
import os
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from brainplug.backbones import Backbone
from brainplug.config.recipe import choose
from brainplug.data.features import SHIFT, WINDOW
from brainplug.data.manifest import Clip
from brainplug.data.protocol.checks import QUARANTINE, check_clips
from brainplug.data.protocol.labels import doubtful_labels
from brainplug.data.protocol.leaks import draw_sample, in_two_splits, overlapping, same_content
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.data.protocol.splits import SPLITS, check_splits
from brainplug.data.protocol.summary import read_rows, remarks, silent_classes
from brainplug.doctor.finding import SHOWN, Finding, as_finding, counted, listed
from brainplug.doctor.rehearsal import STEPS
from brainplug.tasks.settings import TaskSettings

SAMPLE = 100  # clips that are decoded, unless all are
LARGEST = 5  # files that are among them, which may be too long
MOSTLY_PADDING = 0.5  # share of the frames


def list_corpus(settings: TaskSettings) -> Generator[Finding, None, list[Clip] | None]:
    """Lists the clips of a recipe's corpus; None where they cannot be listed."""
    list_clips = yield from as_finding(choose, "dataset", settings.dataset, settings.datasets)
    if list_clips is None:
        return None
    of_prepare = inspect.signature(prepare_manifest).parameters  # the others are for the corpus
    arguments = {name: value for name, value in settings.prepare.items() if name not in of_prepare}
    clips = yield from as_finding(list_clips, **arguments)
    if clips == []:
        yield Finding("error", f"{settings.dataset} lists no clip; look at --data_folder")
    return clips


def examine_splits(clips: Sequence[Clip]) -> Iterator[Finding]:
    """Counts clips and classes, then names all that `check_splits` refuses.

    Example
    -------
    >>> clips = [Clip(split, f"{split}.wav", "dog", split, group="Rex") for split in SPLITS]
    >>> [finding.text for finding in examine_splits(clips) if finding.level == "error"]
    ['Groups in two splits: Rex (test, train, valid); put all clips of a group into one']
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)  # class -> split -> clips
    for clip in clips:
        counts[clip.label][clip.split] += 1
    splits = Counter(clip.split for clip in clips)
    numbers = ", ".join(f"{split} {splits[split]:,}" for split in SPLITS)
    yield Finding("ok", f"{counted(len(clips), 'clip')} ({numbers}), {counted(len(counts), 'label')}")
    yield Finding("", _table(counts))
    faults = [*_split_faults(splits), *_id_faults(clips), *_class_faults(counts), *_leaks(clips)]
    yield from faults
    if not any(fault.level == "error" for fault in faults):
        refused = list(as_finding(check_splits, clips))  # it has the last word
        yield from refused or [Finding("ok", "No file and no group stands in two splits")]


def _table(counts: dict[str, Counter[str]]) -> str:
    """Clips of each class and split; of many classes those with the fewest and the most training clips."""
    labels = sorted(counts, key=lambda label: (counts[label]["train"], label))
    rows = [(label, *(f"{counts[label][split]:,}" for split in SPLITS)) for label in labels]
    if len(rows) > 2 * SHOWN + 1:
        between = (f"... {len(rows) - 2 * SHOWN} classes ...", "", "", "")
        rows = [*rows[:SHOWN], between, *rows[-SHOWN:]]
    lines = [("class", *SPLITS), *rows]
    width = max(len(line[0]) for line in lines)
    texts = [f"         {label:<{width}} {train:>8} {valid:>8} {test:>8}" for label, train, valid, test in lines]
    return "\n".join(text.rstrip() for text in texts)


def _split_faults(splits: Counter[str]) -> Iterator[Finding]:
    unknown = [repr(split) for split in splits if split not in SPLITS]
    if unknown:
        yield Finding("error", f"Unknown splits: {listed(unknown)}; write {', '.join(SPLITS)}")
    for split in SPLITS:
        if not splits[split]:
            yield Finding("error", f"The split {split} is empty; put clips into it")


def _id_faults(clips: Sequence[Clip]) -> Iterator[Finding]:
    twice = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        yield Finding(
            "error", f"{counted(len(twice), 'id')} of several clips: {listed(twice)}; give each clip an id of its own"
        )


def _class_faults(counts: dict[str, Counter[str]]) -> Iterator[Finding]:
    lacking = [label for label, of_split in counts.items() if not of_split["train"]]
    untested = [label for label, of_split in counts.items() if not of_split["valid"] + of_split["test"]]
    single = [label for label, of_split in counts.items() if of_split["train"] == 1]
    for level, fault, labels, advice in (
        ("error", "not in train", lacking, "put clips of them into train, or leave them out"),
        ("error", "in train alone", untested, "put clips of them into valid or test, or leave them out"),
        ("warning", "with one training clip", single, "record more, or leave them out"),
    ):
        if labels:
            yield Finding(level, f"Classes {fault}: {listed(sorted(labels))}; {advice}")
    for doubtful in doubtful_labels(counts):
        yield Finding("warning", f"{doubtful}; write the same label where the same is meant")


def _leaks(clips: Sequence[Clip]) -> Iterator[Finding]:
    groups = in_two_splits(clips, lambda clip: clip.group)
    if groups:
        shared_groups = [f"{group} ({_splits_of(clips_of_it)})" for group, clips_of_it in groups.items()]
        yield Finding("error", f"Groups in two splits: {listed(shared_groups)}; put all clips of a group into one")
    files = in_two_splits(clips, lambda clip: os.path.realpath(clip.path))
    leaking = {path: clips_of_it for path, clips_of_it in files.items() if overlapping(clips_of_it)}
    divided = {path: clips_of_it for path, clips_of_it in files.items() if path not in leaking}
    for level, fault, of_path, advice in (
        ("error", "Files in two splits", leaking, "put each into one"),
        ("warning", "Files with other parts in other splits", divided, "a room or a voice may tell them; group them"),
    ):
        if of_path:
            names = [f"{path} ({_splits_of(clips_of_it)})" for path, clips_of_it in of_path.items()]
            yield Finding(level, f"{fault}: {listed(names)}; {advice}")


def _splits_of(clips: Sequence[Clip]) -> str:
    return ", ".join(sorted({clip.split for clip in clips}))


def examine_audio(
    clips: Sequence[Clip], settings: TaskSettings, folder: str, full: bool
) -> Generator[Finding, None, list[Clip]]:
    """Decodes a sample of the clips, or all with `full`, as a run would; returns the usable ones with durations."""
    parameters, prepare = inspect.signature(prepare_manifest).parameters, settings.prepare
    minimum_seconds, max_fraction = (
        prepare.get(name, parameters[name].default) for name in ("minimum_seconds", "max_fraction")
    )
    existing = [clip for clip in clips if os.path.isfile(clip.path)]
    chosen = existing if full else _sample(existing, settings)
    checked = check_clips(chosen, folder, minimum_seconds, max_fraction=1.0, channel=settings.channel)
    bad = [f"{row['path']}: {row['reason']}" for row in read_rows(folder, QUARANTINE)]
    missing = [f"{clip.path}: the file does not exist" for clip in clips if not os.path.isfile(clip.path)]
    for text in [*missing[:SHOWN], *bad]:
        yield Finding("warning", f"{text}; mend or remove it, else the run sets it aside")
    share = (len(missing) + len(bad) / max(1, len(chosen)) * len(existing)) / len(clips)
    text = f"{len(bad):,} of {counted(len(chosen), 'decoded clip')} unusable, {counted(len(missing), 'file')} missing"
    if share > max_fraction:
        yield Finding("error", f"{text}; train.py refuses more than {max_fraction:.0%}: mend or remove the files")
    else:
        advice = "" if len(chosen) == len(existing) else f"; --full decodes all {len(existing):,}"
        yield Finding("ok", text + advice)
    yield from _odd(checked, folder)
    return checked


def _odd(checked: Sequence[Clip], folder: str) -> Iterator[Finding]:
    """Clips that a run uses though they are odd, such as silent ones."""
    for text in remarks(folder):
        yield Finding("warning", text)
    silent = silent_classes(checked, folder)
    if silent:
        yield Finding("error", f"All decoded clips are silent of the classes {listed(silent)}; record them anew")


def _sample(clips: Sequence[Clip], settings: TaskSettings) -> list[Clip]:
    """A sample that has the largest files, and enough of train and valid to be rehearsed with."""
    drawn = draw_sample(clips, len(clips), settings.seed)
    parts = [[clip for clip in drawn if clip.split == split] for split in ("train", "valid")]
    batches = [part[: STEPS * settings.batch_size] for part in parts]
    largest = heapq.nlargest(LARGEST, drawn, key=lambda clip: os.path.getsize(clip.path))
    return list(dict.fromkeys([*drawn[:SAMPLE], *batches[0], *batches[1], *largest]))


def examine_content(clips: Sequence[Clip], checked: Sequence[Clip], full: bool) -> Iterator[Finding]:
    """Looks for the same content of files in two splits; with `full` for the same decoded samples too."""
    alike = same_content(clips)
    if full:
        named = {clip.path for same in alike for clip in same}
        decoded = same_content(checked, decode=True)
        alike += [same for same in decoded if not named.issuperset(clip.path for clip in same)]
    for same in alike[:SHOWN]:
        names = listed([f"{clip.path} ({clip.split})" for clip in same])
        yield Finding("error", f"The same content: {names}; keep it in one split")
    if len(alike) > SHOWN:
        yield Finding("error", f"{len(alike) - SHOWN} more contents in two splits; keep each in one")
    if not alike:
        yield Finding("ok", f"No two splits share {'decoded audio' if full else 'a content of files'}")


def examine_durations(clips: Sequence[Clip], backbone: Backbone, settings: TaskSettings) -> Iterator[Finding]:
    """Compares the clips' durations with the length that the backbone takes."""
    seconds = np.array([clip.duration for clip in clips])
    low, half, high, longest = np.percentile(seconds, [0, 50, 95, 100])
    text = f"Seconds: least {low:.2f}, median {half:.2f}, 95 % up to {high:.2f}, most {longest:.2f}"
    frames = backbone.signal_settings.get("frames")
    if frames is None:
        limit, over = settings.length_limit(backbone), "the backbone takes clips of any length"
        if limit is not None:
            over = f"at most {limit:g} s are taken (longest_clip; what happens to longer clips: {settings.long_clips})"
        is_refused = limit is not None and longest > limit and settings.long_clips == "refuse"
        advice = f"; write --long_clips=cut or split, or --longest_clip={math.ceil(longest)}" if is_refused else ""
        yield Finding("error" if is_refused else "ok", f"{text}; {over}{advice}")
        return
    yield Finding("ok", text)
    limit = (frames * SHIFT + WINDOW - SHIFT) / 1000  # seconds: the last window ends there
    cut, padding = np.mean(seconds > limit), 1 - np.mean(np.minimum(seconds / limit, 1))
    enough = math.ceil(1000 * high / SHIFT)
    if cut:
        yield Finding("warning", f"{cut:.1%} of the clips are cut after {limit:.2f} s; --frames={enough} holds 95 %, "
                      f"--frames={math.ceil(1000 * longest / SHIFT)} all of them")  # fmt: skip
    level, advice = ("warning", f"; --frames={enough} holds 95 %") if padding > MOSTLY_PADDING else ("ok", "")
    yield Finding(level, f"{padding:.0%} of the {frames} frames are padding{advice}")
