"""brainplug export: writes what a run trained for other programs: as an ONNX file, or as a model of transformers."""

import argparse
from pathlib import Path

from brainplug.errors import CheckpointError, ConfigError
from brainplug.inference import Classifier, load_run
from brainplug.inference.export import Exported, check_packages, check_path, export_onnx


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("run", help="a finished run's output folder, a copy of its adapter, or a hub id OWNER/NAME")
    parser.add_argument("--onnx", metavar="FILE", help="an ONNX file of a classifier; it ends with .onnx")
    parser.add_argument(
        "--waveform", action="store_true", help="take waveforms at 16 kHz, and compute the spectrogram in the file too"
    )
    parser.add_argument(
        "--merged",
        metavar="FOLDER",
        help="the backbone with what was trained added to its weights, as transformers saves it; without the head",
    )
    parser.add_argument("--backbone", help="the folder of the run's backbone, if it has moved")


def run(arguments: argparse.Namespace) -> int:
    """Writes what was asked for, and prints what it takes and how well it agrees with the run."""
    asked = f"An export of {arguments.run} was asked for."
    if arguments.onnx is None and arguments.merged is None:
        raise ConfigError(asked, "No file is named.", "Write --onnx=FILE.onnx, or --merged=FOLDER")
    if arguments.onnx is not None:
        check_path(Path(arguments.onnx))
        check_packages()
    if arguments.merged is not None and Path(arguments.merged).exists():
        raise ConfigError(asked, f"{arguments.merged} exists.", "Write --merged=FOLDER with a new folder")
    model = load_run(arguments.run, backbone=arguments.backbone)
    if arguments.onnx is not None:
        if not isinstance(model, Classifier):
            problem = "The run there recognises speech, which is not exported yet."
            raise CheckpointError(asked, problem, "Name a run of classification")
        print(_describe(export_onnx(model, Path(arguments.onnx), arguments.waveform)))
    if arguments.merged is not None:
        model.model.merge()
        model.backbone.save_pretrained(arguments.merged)
        print(f"{arguments.merged}: transformers loads it with AutoModel.from_pretrained")
    return 0


def _describe(exported: Exported) -> str:
    inputs = ", ".join(f"{name} [{', '.join(map(str, axes))}]" for name, axes in exported.inputs.items())
    return (
        f"{exported.path}: {exported.path.stat().st_size / 1e6:.1f} MB\n"
        f"inputs: {inputs}\n"
        f"on noise the largest difference from the run is {exported.logits:.1e} in logits, "
        f"{exported.probabilities:.1e} in probabilities"
    )
