"""brainplug report: shows the results of all runs in a folder, as a table and as a page with pictures."""

import argparse

from brainplug.files import RESULTS, find_files
from brainplug.optim.fam import RECORD_NAME
from brainplug.results.documents import RESULTS_MARKS, write_between_marks
from brainplug.results.page import write_page
from brainplug.results.plots.fam import draw_records
from brainplug.results.schema import read_results
from brainplug.results.tables import tables_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("folder", nargs="?", default="results")
    parser.add_argument("--write", metavar="DOCUMENT", help="also writes the table into a document, between marks")


def run(options: argparse.Namespace) -> int:
    """Prints the table, draws FAM's records, which may be all that there is, and writes the page."""
    records, results_files = (find_files(options.folder, name) for name in (RECORD_NAME, RESULTS))
    only_records = bool(records) and not results_files and not options.write
    if not only_records:
        table = tables_of(read_results(options.folder))
        print(table, flush=True)
        if options.write:
            write_between_marks(table, options.write, RESULTS_MARKS)
    for path in draw_records(options.folder):
        print(f"Drawn: {path}")
    if not only_records:
        print(f"Written: {write_page(options.folder)}")
    return 0
