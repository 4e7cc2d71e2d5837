"""python -m brainplug COMMAND: what there is to choose from."""

import argparse
import sys

from brainplug.cli import embed, predict
from brainplug.cli.import_petl_ast import add_arguments, import_petl_ast
from brainplug.cli.listing import list_backbones, list_methods, list_optimizer_groups
from brainplug.doctor import examine, summary
from brainplug.errors import run_command
from brainplug.files import find_files
from brainplug.optim.fam import RECORD_NAME
from brainplug.results.documents import METHODS_MARKS, RESULTS_MARKS, write_between_marks
from brainplug.results.page import write_page
from brainplug.results.plots.fam import draw_records
from brainplug.results.schema import read_results
from brainplug.results.tables import tables_of
from brainplug.sweep.command import add_arguments as add_table_arguments
from brainplug.sweep.command import run_table
from brainplug.synthetic.sound.render import render


def main(arguments: list[str]) -> None:
    """Reads the command line and prints.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.
    """
    parser = argparse.ArgumentParser(prog="python -m brainplug", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    methods = commands.add_parser("methods", help="the methods, and what they train on a backbone")
    methods.add_argument("--backbone", default="nano-ast")
    methods.add_argument("--hparams", default="hparams", help="the folder with methods.yaml")
    methods.add_argument("--n_classes", type=int, default=50)
    methods.set_defaults(
        table=lambda chosen: list_methods(chosen.hparams, chosen.backbone, chosen.n_classes), marks=METHODS_MARKS
    )
    backbones = commands.add_parser("backbones", help="the backbones that have a short name, and what they are")
    backbones.set_defaults(table=lambda chosen: list_backbones(), write=None)
    groups = commands.add_parser("optimizers", help="which parameters an optimiser treats alike, and how")
    groups.add_argument("--backbone", default="nano-ast")
    groups.add_argument("--method", default="conformer")
    groups.add_argument("--optimizer", default="fam")
    groups.add_argument("--hparams", default="hparams", help="the folder with optimizers.yaml and methods.yaml")
    groups.add_argument("--n_classes", type=int, default=50)
    groups.set_defaults(
        table=lambda chosen: list_optimizer_groups(
            chosen.hparams, chosen.optimizer, chosen.backbone, chosen.method, chosen.n_classes
        ),
        write=None,
    )
    report = commands.add_parser(
        "report",
        help="the results of all runs below a folder: a table, and a page with pictures; FAM's records are drawn",
    )
    report.add_argument("folder", nargs="?", default="results")
    report.set_defaults(marks=RESULTS_MARKS)
    published = commands.add_parser("import-petl-ast", help="the published code's checkpoints and command lines")
    add_arguments(published)
    published.set_defaults(table=import_petl_ast, write=None)
    doctor = commands.add_parser(
        "doctor", allow_abbrev=False, help="looks at the machine, and at a recipe and its data, before a run"
    )
    doctor.add_argument("recipe", nargs="?", help="and after it, what else train.py would be given")
    doctor.add_argument("--full", action="store_true", help="decodes all clips, not a sample")
    for command in (methods, report):
        command.add_argument("--write", metavar="DOCUMENT", help="also puts the table into a document, between marks")
    sound = commands.add_parser("sound", help="makes sound to pre-train on: spoken words, events, free recordings")
    sound.add_argument("folder")
    sound.add_argument("--spoken_clips", type=int, default=9000)
    sound.add_argument("--event_clips", type=int, default=2000)
    sound.add_argument("--recordings_folder", default="/", help="where Debian's packages are installed")
    sound.add_argument("--recordings", type=int, help="how many recordings are used; all, if it is left out")
    sound.add_argument("--seed", type=int, default=1000)
    sound.set_defaults(table=_sound, write=None)
    for name, command in (("predict", predict), ("embed", embed)):
        users = commands.add_parser(name, help=command.__doc__.partition(": ")[2])
        command.add_arguments(users)
        users.set_defaults(run_command=command.run)
    sweep = commands.add_parser(
        "table", allow_abbrev=False, help="runs all cells of a table, or goes on with it, and writes the table"
    )
    add_table_arguments(sweep)
    chosen, others = parser.parse_known_args(arguments)
    if chosen.command == "table":
        sys.exit(run_table(chosen, others))
    if chosen.command == "doctor":
        sys.exit(_doctor([chosen.recipe, *others] if chosen.recipe else others, chosen.full))
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if hasattr(chosen, "run_command"):
        sys.exit(chosen.run_command(chosen))
    if chosen.command == "report":
        _report(chosen)
    else:
        _print_table(chosen.table(chosen), chosen)


def _print_table(table: str, chosen: argparse.Namespace) -> None:
    print(table, flush=True)
    if chosen.write:
        write_between_marks(table, chosen.write, chosen.marks)


def _sound(chosen: argparse.Namespace) -> str:
    made = render(
        chosen.folder, chosen.spoken_clips, chosen.event_clips, chosen.recordings_folder, chosen.seed, chosen.recordings
    )
    counts = ", ".join(f"{count} {kind}" for kind, count in made["clips"].items())
    return f"{chosen.folder}: {counts} clips, {made['hours']:.2f} hours, {made['left_out']} left out"


def _doctor(arguments: list[str], full: bool) -> int:
    """Prints findings as they come; 1 where there is an error."""
    findings = []
    for finding in examine(arguments, full):
        print(finding, flush=True)
        findings.append(finding)
    print(f"\n{summary(findings)}")
    return int(any(finding.level == "error" for finding in findings))


def _report(chosen: argparse.Namespace) -> None:
    """The table of the results, then what is drawn: FAM's records, which may stand alone, and the page."""
    records, results = (find_files(chosen.folder, name) for name in (RECORD_NAME, "results.json"))
    only_records = records and not results and not chosen.write
    if not only_records:
        results = read_results(chosen.folder)
        _print_table(tables_of(results), chosen)
    for path in draw_records(chosen.folder):
        print(f"Drawn: {path}")
    if not only_records:
        print(f"Written: {write_page(chosen.folder)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
