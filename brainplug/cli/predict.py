"""brainplug predict: classifies or transcribes files with what a run trained."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar, cast

import torch
from tqdm import tqdm

from brainplug.cli.rows import CLIP_COLUMNS, Row, RowFile, clip_columns, csv_line, format_row, key_of, to_text
from brainplug.cli.windows import SAMPLE_RATE, EventFinder, add_window_arguments, read_windows_options
from brainplug.config.lock import hold
from brainplug.data.manifest import Clip
from brainplug.data.windows import Windows, mean_spectra
from brainplug.errors import ConfigError, UsageError
from brainplug.inference import Classifier, SpeechRecognizer, load_run
from brainplug.inference.base import OnError
from brainplug.inference.classifier import Prediction
from brainplug.inference.inputs import list_inputs

Result = TypeVar("Result")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_common_arguments(parser)
    add_window_arguments(parser)
    parser.add_argument("--output", help="a file for the results; the same command continues it")
    parser.add_argument("--format", choices=("table", "csv", "json"), help="json: an object in each line")
    parser.add_argument("--top_k", type=int, help="how many classes are shown of each clip, the most probable first")


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of all commands that use a trained model."""
    parser.add_argument("run", help="a finished run's output folder, a copy of its adapter, or a hub id OWNER/NAME")
    parser.add_argument("inputs", nargs="+", help="audio files, folders, and CSV lists with the column path")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", help="such as cuda:0; by default a GPU where there is one")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or fp16")
    parser.add_argument("--backbone", help="the folder of the run's backbone, if it has moved")
    parser.add_argument("--revision", help="of the adapter on the hub")
    parser.add_argument("--no_verify", action="store_true", help="do not compare the model's output for its probe")
    parser.add_argument("--longest_clip", type=float, help="seconds that are taken, in place of the run's limit")


def run(arguments: argparse.Namespace) -> int:
    """Writes a row for each clip; returns 1 if there are clips that cannot be read, else 0."""
    form = _format(arguments)
    clips, model = open_common(arguments)
    columns = _result_columns(model, arguments.top_k)
    windows, finder = read_windows_options(arguments, clips, model)
    with hold_output(arguments.output):
        done, write = _open_output(arguments, form, clips, model, columns, windows)
        if windows is None:
            return compute(clips, done, lambda left, on_error: _rows(model, left, columns, arguments, on_error), write)
        predictions = _window_predictions(cast(Classifier, model), windows, arguments, finder, done)
        code = compute(clips, set(), predictions, lambda window: write(_row_of(window, columns)), counts_clips=False)
        channel = model.description.channel
        finder.write(lambda: mean_spectra(clips[0], windows, SAMPLE_RATE, channel))
        return code


def _window_predictions(
    model: Classifier,
    windows: Windows,
    arguments: argparse.Namespace,
    finder: EventFinder,
    done: set[tuple[str, ...]],
) -> Callable[[Sequence[Clip], OnError], Iterator[Prediction]]:
    """What yields the predictions of windows that have no row yet; events need those of the others too."""

    def is_done(clip: Clip) -> bool:
        return key_of(clip_columns(clip)) in done

    def predict(clips: Sequence[Clip], on_error: OnError) -> Iterator[Prediction]:
        skip = None if finder.needs_all else is_done
        for window in model.classify_files(clips, arguments.batch_size, on_error, windows, skip):
            finder.add(window)
            if key_of(clip_columns(window)) not in done:
                yield window

    return predict


def _open_output(
    arguments: argparse.Namespace,
    form: str,
    clips: Sequence[Clip],
    model: Classifier | SpeechRecognizer,
    columns: Sequence[str],
    windows: Windows | None,
) -> tuple[set[tuple[str, ...]], Callable[[Row], None]]:
    """Which clips are done already, and what writes a row."""
    if arguments.output:
        file = RowFile(Path(arguments.output), [*CLIP_COLUMNS, *columns], adapter_of(model), form == "json")
        return file.done, file.write
    if form == "table":
        return set(), _table_printer(clips, model, columns, windows is not None)
    if form == "csv":
        show(csv_line([*CLIP_COLUMNS, *columns]))
    return set(), lambda row: show(format_row(row, form == "json"))


def hold_output(output: str | None) -> AbstractContextManager[None]:
    """Keeps other processes from a file of results while this one adds rows."""
    return hold(Path(f"{output}.lock"), f"The output {output}", "--output") if output else nullcontext()


def open_common(arguments: argparse.Namespace) -> tuple[list[Clip], Classifier | SpeechRecognizer]:
    """Lists the clips and loads the model."""
    for name in ("batch_size", "longest_clip"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise ConfigError(f"--{name}={value} was asked for.", "It is too small.", "Write a number above 0")
    clips = list_inputs(arguments.inputs)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    options = arguments.backbone, arguments.revision, not arguments.no_verify
    model = load_run(arguments.run, device, arguments.precision, *options)
    model.longest_clip = arguments.longest_clip or model.longest_clip
    return clips, model


def adapter_of(model: Classifier | SpeechRecognizer) -> str:
    """Names the trained weights in a row of results."""
    return (model.description.weights_sha256 or "")[:12]


def compute(
    clips: Sequence[Clip],
    done: set[tuple[str, ...]],
    results: Callable[[Sequence[Clip], OnError], Iterator[Result]],
    write: Callable[[Result], None],
    counts_clips: bool = True,
) -> int:
    """Computes and writes the results of the clips that are not done yet, and lists the clips that cannot be read.

    The progress counts clips, or results, whose number is not known before.

    Returns
    -------
    int
        The command's exit code.
    """
    left = [clip for clip in clips if key_of(clip_columns(clip)) not in done]
    bad = []
    total, unit = (len(clips), "clip") if counts_clips else (None, "window")
    with tqdm(total=total, initial=len(clips) - len(left), unit=unit, disable=None) as progress:

        def on_error(_: Clip, error: UsageError) -> None:
            bad.append(str(error))
            progress.update()

        for result in results(left, on_error):
            write(result)
            progress.update()
    if bad:
        what = "clips cannot be used" if counts_clips else "recordings cannot be read to their end, or not at all"
        print(f"{len(bad)} of {len(clips)} {what}:", *bad, sep="\n", file=sys.stderr)
    return int(bool(bad))


def show(line: str) -> None:
    """Prints a line above the progress bar; bytes of a file's name that are no text are replaced."""
    tqdm.write(line.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), sys.stdout, end="")


def _format(arguments: argparse.Namespace) -> str:
    if not arguments.output:
        return arguments.format or "table"
    if arguments.format == "table":
        raise ConfigError(
            "A table in a file was asked for.", "It could not be continued.", "Write --format=csv, or json"
        )
    return arguments.format or ("json" if Path(arguments.output).suffix in (".json", ".jsonl") else "csv")


def _result_columns(model: Classifier | SpeechRecognizer, top_k: int | None) -> list[str]:
    if isinstance(model, SpeechRecognizer):
        if top_k is not None:
            problem = "The run recognises speech; it has no classes."
            raise ConfigError(f"--top_k={top_k} was asked for.", problem, "Leave it out")
        return ["text"]
    if top_k is not None and not 1 <= top_k <= len(model.labels):
        problem = f"The run has {len(model.labels)} classes."
        raise ConfigError(f"--top_k={top_k} was asked for.", problem, "Write a number from 1 to that")
    numbers = ["", *(f"_{rank}" for rank in range(2, (top_k or 1) + 1))]
    return [f"{name}{number}" for number in numbers for name in ("label", "probability")]


def _rows(
    model: Classifier | SpeechRecognizer,
    clips: Sequence[Clip],
    columns: Sequence[str],
    arguments: argparse.Namespace,
    on_error: OnError,
) -> Iterator[Row]:
    if isinstance(model, SpeechRecognizer):
        for transcript in model.transcribe_files(clips, arguments.batch_size, on_error):
            yield {**clip_columns(transcript), "text": transcript.text}
        return
    for prediction in model.classify_files(clips, arguments.batch_size, on_error):
        yield _row_of(prediction, columns)


def _row_of(prediction: Prediction, columns: Sequence[str]) -> Row:
    top = [value for label, share in prediction.top(len(columns) // 2) for value in (label, round(share, 6))]
    return {**clip_columns(prediction), **dict(zip(columns, top, strict=True))}


def _table_printer(
    clips: Sequence[Clip], model: Classifier | SpeechRecognizer, columns: Sequence[str], in_windows: bool
) -> Callable[[Row], None]:
    """Prints the heading of a table, whose columns are as wide as their widest value will be."""
    are_parts = in_windows or any(clip.start is not None or clip.stop is not None for clip in clips)
    shown = [*(CLIP_COLUMNS if are_parts else CLIP_COLUMNS[:1]), *columns]
    widest = {"path": max(len(clip.path) for clip in clips)}
    if isinstance(model, Classifier):
        widest |= dict.fromkeys((name for name in columns if name.startswith("label")), max(map(len, model.labels)))

    def print_row(row: Row) -> None:
        texts = (to_text(name, row[name]).ljust(max(widest.get(name, 8), len(name))) for name in shown)
        show("  ".join(texts).rstrip() + "\n")

    show("  ".join(name.ljust(max(widest.get(name, 8), len(name))) for name in shown).rstrip() + "\n")
    return print_row
