"""python -m brainplug COMMAND: what there is to choose from."""

import argparse
import sys
from pathlib import Path

from hyperpyyaml import load_hyperpyyaml

from brainplug.backbones import load_backbone
from brainplug.errors import UsageError
from brainplug.experiment import run_command
from brainplug.import_petl_ast import add_arguments, import_petl_ast
from brainplug.methods import choose_method
from brainplug.model import AudioClassifier
from brainplug.report import read_results, results_table, write_table


def list_methods(folder: str, backbone: str, n_classes: int) -> str:
    """Lists the methods of a file with what they train on a backbone.

    Arguments
    ---------
    folder : str
        With ``methods.yaml``, and ``backbones.yaml`` which says what a backbone changes there.
    backbone : str
        Name of a backbone.
    n_classes : int
        Classes of the head.

    Returns
    -------
    str
        One row a method.

    Raises
    ------
    UsageError
        A file is missing, or the backbone is unknown.
    """
    try:
        methods, backbones = (
            load_hyperpyyaml(Path(folder, name).read_text()) for name in ("methods.yaml", "backbones.yaml")
        )
    except OSError as error:
        raise UsageError(
            f"The methods in the folder {folder!r} were asked for.", f"They cannot be read: {error}.",
            "Write --hparams=FOLDER, one with methods.yaml and backbones.yaml",
        ) from error  # fmt: skip
    rows = [f"{'method':<16}{'trainable':>12}{'without head':>14}{'share':>9}  learning rate, class"]
    for name in methods:
        method, lr = choose_method(name, methods, backbones.get(backbone))
        counts = AudioClassifier(load_backbone(backbone), method, n_classes).count_parameters()
        rows.append(
            f"{name:<16}{counts['trainable']:>12,}{counts['trainable_without_head']:>14,}"
            f"{counts['trainable'] / counts['total']:>9.2%}  {lr:g}, {type(getattr(method, 'config', method)).__name__}"
        )
    return "\n".join(rows)


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
    report = commands.add_parser("report", help="the results of all runs below a folder, as a table")
    report.add_argument("folder", nargs="?", default="results")
    report.add_argument("--write", metavar="DOCUMENT", help="also puts the table into a document, between its marks")
    add_arguments(commands.add_parser("import-petl-ast", help="the published code's checkpoints and command lines"))
    chosen = parser.parse_args(arguments)
    if chosen.command == "import-petl-ast":
        print(import_petl_ast(chosen))
        return
    if chosen.command == "methods":
        print(list_methods(chosen.hparams, chosen.backbone, chosen.n_classes))
        return
    table = results_table(read_results(chosen.folder))
    print(table)
    if chosen.write:
        write_table(table, chosen.write)


if __name__ == "__main__":
    sys.exit(run_command(main))
