"""A page of all runs below a folder: tables and pictures in one HTML file that needs no network."""

from pathlib import Path
from typing import TYPE_CHECKING

from brainplug.errors import UsageError
from brainplug.files import atomic_file, find_files
from brainplug.results.page.markdown import Block, read_markdown
from brainplug.results.page.runs import Run, find_runs, missing_files
from brainplug.results.page.sections import make_sections
from brainplug.results.plots.canvas import needing_plot
from brainplug.results.schema import read_results
from brainplug.results.tables import tables_of

if TYPE_CHECKING:
    import jinja2

NAME = "report.html"
PICTURES = "pictures"
MOST_CLIPS = 60  # listed of one pair of classes


def write_page(folder: str) -> Path:
    """Writes ``report.html`` into a folder above runs, and its pictures into ``pictures/``; returns the page.

    Raises
    ------
    UsageError
        There are no runs, the extra ``plot`` is not installed, or the folder cannot be written.
    """
    asked = f"The page {folder}/{NAME} was asked for."
    with needing_plot(asked):
        import jinja2
        import matplotlib  # noqa: F401 - fails before the work
    read_results(folder)
    try:
        return _write(folder, jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True))
    except OSError as error:
        raise UsageError(
            asked, f"It cannot be made: {error}.", "Make room there, or copy the runs to a folder that you may write to"
        ) from error


def _write(folder: str, environment: "jinja2.Environment") -> Path:
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
    """Says how many runs there are and which of them the pictures show."""
    sentences = [f"{len(runs)} finished runs." if len(runs) != 1 else "One finished run."]
    if len({(run.benchmark, run.few_shot) for run in runs}) > len({run.benchmark for run in runs}):
        sentences.append(
            "Except for the curves over few training clips, pictures show the runs with all training clips, or with "
            "the most a class where no run has all."
        )
    return " ".join(sentences)


def _documents(folder: Path, runs: list[Run]) -> list[tuple[str, list[Block]]]:
    """The documents of `brainplug table`, and a table of the other runs."""
    paths = find_files(folder, "table.md")
    documents = [
        (f"Table {path.parent.absolute().name}", read_markdown(path.read_text(encoding="utf-8"))) for path in paths
    ]
    folders = [path.parent for path in paths]
    others = [run.results for run in runs if not any(run.folder.is_relative_to(table) for table in folders)]
    if others:
        documents.append(("Other runs" if folders else "", read_markdown(tables_of(others))))
    return documents
