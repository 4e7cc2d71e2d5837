"""What a run leaves behind: results.json, the adapter, and the short table at the end."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev

from brainplug.errors import UsageError
from brainplug.files import atomic_file, find_files
from brainplug.methods import Method
from brainplug.methods.peft_method import PeftMethod


def method_settings(method: Method) -> dict:
    """A method's settings as JSON values.

    Arguments
    ---------
    method : Method
        Any method.

    Returns
    -------
    dict
        Setting -> value.

    Example
    -------
    >>> from brainplug.methods.conformer import ConformerAdapter
    >>> method_settings(ConformerAdapter(kernel_size=8))["kernel_size"]
    8
    """
    settings = method.config.to_dict() if isinstance(method, PeftMethod) else asdict(method)
    return json.loads(json.dumps({"class": type(method).__name__, **settings}, default=_as_json))


def _as_json(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)


def code_name(paper_code: bool) -> str:
    """Names what a run computed.

    Arguments
    ---------
    paper_code : bool
        Its switch.

    Returns
    -------
    str
        ``published`` or ``repaired``; see docs/reproduction.md.

    Example
    -------
    >>> code_name(False)
    'repaired'
    """
    return "published" if paper_code else "repaired"


def table_marks(name: str, command: str) -> tuple[str, str]:
    """The lines of a document between which a table stands.

    Arguments
    ---------
    name : str
        What the table shows.
    command : str
        What writes it.

    Returns
    -------
    tuple[str, str]
        The line before and the line after.

    Example
    -------
    >>> table_marks("results", "python -m brainplug report")[1]
    '<!-- end of results -->'
    """
    return f"<!-- {name}: written by `{command}` -->", f"<!-- end of {name} -->"


RESULTS_MARKS = table_marks("results", "python -m brainplug report")
METHODS_MARKS = table_marks("methods", "python -m brainplug methods")


def read_results(folder: str) -> list[dict]:
    """Reads every results.json below a folder.

    Arguments
    ---------
    folder : str
        Any folder above runs.

    Returns
    -------
    list[dict]
        One entry a finished run.

    Raises
    ------
    UsageError
        There is none.
    """
    found = find_files(folder, "results.json")
    if not found:
        raise UsageError(
            f"The results in {folder!r} were asked for.", "There is no results.json.", "Name a folder above runs"
        )
    return [json.loads(path.read_text()) for path in found]


def results_table(results: list[dict]) -> str:
    """A Markdown table of runs: one row a data set, backbone, code, method and number of epochs, over folds and seeds.

    Arguments
    ---------
    results : list[dict]
        As `read_results` returns them.

    Returns
    -------
    str
        Markdown.

    Example
    -------
    >>> run = {"dataset": "esc50", "backbone": "nano-ast", "method": "linear", "fold": 1, "seed": 1, "epochs": 2,
    ...     "test_accuracy_last_epoch": 0.5, "trainable_without_head": 384, "seconds": 60.0, "n_classes": 10,
    ...     "few_shot": None, "paper_code": False, "test_accuracy": 0.5, "test_accuracy_best_epoch": 0.5}
    >>> rows = results_table([run, {**run, "test_accuracy_best_epoch": 0.7, "fold": 2}])
    >>> "| repaired |" in rows, "60.0 ± 14.1" in rows
    (True, True)
    """
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for run in results:
        shots = "all" if run["few_shot"] is None else str(run["few_shot"])
        code = code_name(run["paper_code"])
        kind = (run["dataset"], run["n_classes"], shots, run["backbone"], code, method_name(run))
        groups[kind, run["epochs"]].append(run)
    lines = [
        "| data | classes | clips a class | backbone | code | method | trainable without head | epochs | runs "
        "| test accuracy, best validation epoch (%) | last epoch (%) | minutes a run |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    ordered = sorted(groups.items(), key=lambda item: (item[0][0][:-1], -mean(r["test_accuracy"] for r in item[1])))
    for (kind, epochs), runs in ordered:
        first, minutes = runs[0], mean(run["seconds"] for run in runs) / 60
        lines.append(
            f"| {' | '.join(map(str, kind))} | {first['trainable_without_head']:,} "
            f"| {epochs} | {len(runs)} "
            f"| {_spread(run.get('test_accuracy_best_epoch', run['test_accuracy']) for run in runs)} "
            f"| {_spread(run['test_accuracy_last_epoch'] for run in runs)} | {minutes:.1f} |"
        )
    return "\n".join(lines)


def recognition_table(results: list[dict]) -> str:
    """A Markdown table of runs of recognition: a row for each of what `results_table` has one, fewest errors first.

    Arguments
    ---------
    results : list[dict]
        As `read_results` returns them.

    Returns
    -------
    str
        Markdown.

    Example
    -------
    >>> run = {"dataset": "spoken", "backbone": "hubert", "method": "full", "decoding": "greedy", "epochs": 2,
    ...     "trainable": 100, "test_wer": 0.1, "test_cer": 0.05, "test_wer_last_epoch": 0.12,
    ...     "test_cer_last_epoch": 0.06, "seconds": 60.0}
    >>> print(recognition_table([run]).splitlines()[-1])
    | spoken | hubert | full | greedy | 100 | 2 | 1 | 10.0 | 5.0 | 12.0 | 6.0 | 1.0 |
    """
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for run in results:
        kind = (run["dataset"], run["backbone"], method_name(run), run["decoding"])
        groups[kind, run["epochs"]].append(run)
    lines = [
        "| data | backbone | method | decoding | trainable | epochs | runs | WER, best validation epoch (%) | CER (%) "
        "| WER, last epoch (%) | CER (%) | minutes a run |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    ordered = sorted(groups.items(), key=lambda item: (item[0][0][:2], mean(r["test_wer"] for r in item[1])))
    for (kind, epochs), runs in ordered:
        rates = ("test_wer", "test_cer", "test_wer_last_epoch", "test_cer_last_epoch")
        spreads = " | ".join(_spread(run[rate] for run in runs) for rate in rates)
        minutes = mean(run["seconds"] for run in runs) / 60
        counts = f"{runs[0]['trainable']:,} | {epochs} | {len(runs)}"
        lines.append(f"| {' | '.join(kind)} | {counts} | {spreads} | {minutes:.1f} |")
    return "\n".join(lines)


def tables_of(results: list[dict]) -> str:
    """The tables of runs: one of those that classify, one of those that recognise speech.

    Arguments
    ---------
    results : list[dict]
        As `read_results` returns them.

    Returns
    -------
    str
        Markdown.
    """
    classify, recognise = ([run for run in results if classifies(run) == wanted] for wanted in (True, False))
    tables = [results_table(classify)] if classify else []
    return "\n\n".join(tables + ([recognition_table(recognise)] if recognise else []))


def classifies(results: dict) -> bool:
    """Whether a run was one of classification.

    Arguments
    ---------
    results : dict
        As in results.json.

    Returns
    -------
    bool
        False where speech was recognised.

    Example
    -------
    >>> classifies({"test_accuracy": 0.5})
    True
    """
    return "test_accuracy" in results


def method_name(results: dict) -> str:
    """A method with the place of its adapters, without which its number says little, and the optimiser.

    Arguments
    ---------
    results : dict
        As in results.json.

    Returns
    -------
    str
        The name, the location where the method has one, and the optimiser where it is not AdamW.

    Example
    -------
    >>> method_name({"method": "conformer", "method_settings": {"location": "ffn"}, "optimizer": "fam"})
    'conformer (ffn), fam'
    """
    location = results.get("method_settings", {}).get("location")
    optimizer = results.get("optimizer", "adamw")
    placed = f"{results['method']} ({location})" if location else results["method"]
    return placed if optimizer == "adamw" else f"{placed}, {optimizer}"


def _spread(shares: Iterable[float]) -> str:
    """Mean and standard deviation in per cent; the mean alone of a single run."""
    values = [100 * share for share in shares]
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that can be read as it is: cells are filled up to their column's width.

    Arguments
    ---------
    columns : Sequence[str]
        Their names.
    rows : Sequence[Sequence[str]]
        Cells. All columns but the first and the last hold numbers and stand to the right.

    Returns
    -------
    str
        Markdown.

    Example
    -------
    >>> print(markdown_table(("method", "count", "settings"), [("linear", "7", ""), ("lora", "1,234", "rank: 6")]))
    | method | count | settings |
    | ------ | ----: | --- |
    | linear |     7 |  |
    | lora   | 1,234 | rank: 6 |
    """
    # Two at least: without a hyphen before its colon the rule, and with it the table, would be text.
    first, *widths = [max(2, *map(len, column)) for column in zip(columns, *rows, strict=True)][:-1]

    def line(cells: Sequence[str]) -> str:
        numbers = [f"{cell:>{width}}" for cell, width in zip(cells[1:-1], widths, strict=True)]
        return f"| {' | '.join([f'{cells[0]:<{first}}', *numbers, cells[-1]])} |"

    rule = ["-" * first, *("-" * (width - 1) + ":" for width in widths), "---"]
    return "\n".join(map(line, (columns, rule, *rows)))


def write_table(table: str, document: str, marks: tuple[str, str]) -> None:
    """Puts a table between the two marks of a document.

    Arguments
    ---------
    table : str
        Markdown.
    document : str
        A file with the marks.
    marks : tuple[str, str]
        As `table_marks` returns them.

    Raises
    ------
    UsageError
        The document cannot be read, or has no such lines.
    """
    try:
        text = Path(document).read_text()
    except OSError as error:
        raise UsageError(
            f"A table was to be written into {document}.", f"It cannot be read: {error}.", "Name a document with marks"
        ) from error
    before, start, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end:
        raise UsageError(
            f"A table was to be written into {document}.",
            "It lacks the marks between which it stands.",
            f"Write the lines {marks[0]} and {marks[1]} there",
        )
    with atomic_file(document) as file:
        file.write(f"{before}{start}\n{table}\n{end}{after}")
