"""brainplug export: writes what a run trained as one file that other programs run without Python."""

import argparse
from pathlib import Path

from brainplug.errors import CheckpointError
from brainplug.inference import Classifier, load_run
from brainplug.inference.export import Exported, check_packages, check_path, export_onnx


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("run", help="a finished run's output folder, a copy of its adapter, or a hub id OWNER/NAME")
    parser.add_argument("--onnx", required=True, metavar="FILE", help="the file to write; it ends with .onnx")
    parser.add_argument(
        "--waveform", action="store_true", help="take waveforms at 16 kHz, and compute the spectrogram in the file too"
    )
    parser.add_argument("--backbone", help="the folder of the run's backbone, if it has moved")


def run(arguments: argparse.Namespace) -> int:
    """Writes the file, and prints what it takes and how well it agrees with the run."""
    path = Path(arguments.onnx)
    check_path(path)
    check_packages()
    model = load_run(arguments.run, backbone=arguments.backbone)
    if not isinstance(model, Classifier):
        problem = "The run there recognises speech, which is not exported yet."
        raise CheckpointError(
            f"An ONNX file of {arguments.run} was asked for.", problem, "Name a run of classification"
        )
    print(_describe(export_onnx(model, path, arguments.waveform)))
    return 0


def _describe(exported: Exported) -> str:
    inputs = ", ".join(f"{name} [{', '.join(map(str, axes))}]" for name, axes in exported.inputs.items())
    return (
        f"{exported.path}: {exported.path.stat().st_size / 1e6:.1f} MB\n"
        f"inputs: {inputs}\n"
        f"on noise the largest difference from the run is {exported.logits:.1e} in logits, "
        f"{exported.probabilities:.1e} in probabilities"
    )
