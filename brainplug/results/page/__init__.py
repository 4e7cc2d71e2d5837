"""A page of all runs below a folder: tables and pictures in one HTML file that needs no network."""

from pathlib import Path

from brainplug.errors import UsageError
from brainplug.files import atomic_file, find_files
from brainplug.results.page.documents import Block, read_markdown
from brainplug.results.page.kept import Run, find_runs, missing_files
from brainplug.results.page.sections import make_sections
from brainplug.results.plots.canvas import needing_plot
from brainplug.results.report import read_results, results_table

NAME = "report.html"
PICTURES = "pictures"
MOST_CLIPS = 60  # that are named of one pair of classes


def write_page(folder: str) -> Path:
    """Writes ``report.html``, and its pictures to ``pictures/``.

    Arguments
    ---------
    folder : str
        Any folder above runs.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UsageError
        There are no runs, the extra ``plot`` is not installed, or the folder cannot be written.
    """
    with needing_plot(f"The page {folder}/{NAME} was asked for."):
        import jinja2
        import matplotlib  # noqa: F401 - fails before the work
    read_results(folder)
    try:
        return _write(folder, jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True))
    except OSError as error:
        raise UsageError(
            f"The page {folder}/{NAME} was asked for.", f"It cannot be made: {error}.",
            "Make room there, or copy the runs to a folder that can be read and written",
        ) from error  # fmt: skip


def _write(folder: str, environment: object) -> Path:
    runs, path = find_runs(folder), Path(folder, NAME)
    page = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8")).render(
        title=f"Results in {Path(folder).absolute().name}",
        introduction=introduction(runs),
        missing=missing_files(runs),
        documents=_documents(Path(folder), runs),
        sections=make_sections(runs, Path(folder, PICTURES)),
        most_clips=MOST_CLIPS,
    )
    with atomic_file(str(path), encoding="utf-8") as file:
        file.write(page)
    return path


def introduction(runs: list[Run]) -> str:
    """Says what the pictures show.

    Arguments
    ---------
    runs : list[Run]
        All.

    Returns
    -------
    str
        Sentences.
    """
    sentences = [f"{len(runs)} finished runs." if len(runs) != 1 else "One finished run."]
    if len({(run.task, run.few_shot) for run in runs}) > len({run.task for run in runs}):
        sentences.append(
            "But for the curves over few training clips, pictures show the runs with all training clips, or with the "
            "most a class where no run has all."
        )
    return " ".join(sentences)


def _documents(folder: Path, runs: list[Run]) -> list[tuple[str, list[Block]]]:
    """The tables that were run as such, and one of the other runs."""
    paths = find_files(folder, "table.md")
    found = [
        (f"Table {path.parent.absolute().name}", read_markdown(path.read_text(encoding="utf-8"))) for path in paths
    ]
    tables = [path.parent for path in paths]
    others = [run.results for run in runs if not any(run.folder.is_relative_to(table) for table in tables)]
    if others:
        found.append(("Other runs" if tables else "", read_markdown(results_table(others))))
    return found
