"""python -m brainplug import-petl-ast: published checkpoints become adapters, published command lines new ones."""

import argparse
import json
import pickle
import sys
from pathlib import Path

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import safetensors.torch
import torch
from safetensors import SafetensorError
from transformers import ASTConfig

from brainplug.adapters.description import ClassifierDescription, package_versions
from brainplug.adapters.file import save_adapter
from brainplug.backbones import known_config
from brainplug.backbones.audio_spectrogram import SPECIAL_TOKENS
from brainplug.compat.petl_ast.command_line import entry_of, new_command, read_command
from brainplug.compat.petl_ast.flags import Flags
from brainplug.compat.petl_ast.weights import load_reference, without_prefix
from brainplug.errors import UsageError
from brainplug.methods import method_settings
from brainplug.methods.full import FullFineTuning
from brainplug.models.classifier import AudioClassifier

HEAD, POSITIONS = "classification_head.weight", "embeddings.position_embeddings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Of the command.
    """
    parser.add_argument("checkpoint", nargs="?", help=".pt, .pth or .safetensors; without it, --flags is translated")
    parser.add_argument("--flags", default="", help='the published command line, as --flags="--method LoRA ..."')
    parser.add_argument("--method", help="the published method, where --flags does not say it")
    parser.add_argument("--pooling", default="ALL", help="final_output of the published YAML")
    parser.add_argument("--out", help="the folder for adapter.safetensors and adapter.json")
    parser.add_argument("--labels", help="a file with one class a line, in the order of the head")
    parser.add_argument("--backbone", help="its name here; by default ast or wav2vec2")
    parser.add_argument("--config", help="the backbone's config.json, where its name does not say it")


def import_petl_ast(chosen: argparse.Namespace) -> str:
    """Imports a checkpoint, or translates a command line where there is none.

    Arguments
    ---------
    chosen : argparse.Namespace
        The options of `add_arguments`.

    Returns
    -------
    str
        What to print. Warnings go to standard error.

    Raises
    ------
    UsageError
        The flags or the checkpoint cannot be understood, or do not fit each other.

    Example
    -------
    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> flags = "--dataset_name ESC-50 --is_AST True --method BitFit --is_few_shot_exp True --few_shot_samples 8"
    >>> "--method=bitfit" in import_petl_ast(parser.parse_args([f"--flags={flags}"]))
    True
    """
    method = f" --method {chosen.method}" if chosen.method else ""
    command = read_command(chosen.flags + method)
    sys.stderr.writelines(f"warning: {warning}\n" for warning in command.warnings)
    if not chosen.checkpoint:
        return new_command(command, chosen.pooling)
    if not chosen.out:
        raise UsageError(f"The import of {chosen.checkpoint} was asked for.", "It has no place.", "Write --out=FOLDER")
    published = read_checkpoint(chosen.checkpoint)
    model = build(
        published, command.value("method"), command.model_flags, chosen.pooling, chosen.backbone, chosen.config
    )
    labels = read_labels(chosen.labels, model.head.out_features)
    description = ClassifierDescription(
        backbone=model.backbone.name,
        backbone_revision=model.backbone.revision,
        signal=model.backbone.signal_settings,
        method=entry_of(model.method),
        method_settings=method_settings(model.method),
        versions=package_versions(),
        paper_code=True,
        positions="published",
        pooling=model.pooling,
        labels=sorted(labels, key=labels.__getitem__),
    )
    save_adapter(model, chosen.out, description)
    trained = model.count_parameters()["trainable"]
    what = f"{description.method} on {model.backbone.name}, {len(labels)} classes"
    return f"{chosen.out}: {what}, {trained:,} trained parameters"


def read_checkpoint(path: str) -> dict[str, torch.Tensor]:
    """Reads a checkpoint; nothing in it is executed.

    Arguments
    ---------
    path : str
        A ``.safetensors`` file, or what ``torch.save`` wrote of a state dict.

    Returns
    -------
    dict[str, torch.Tensor]
        Published name, without a leading ``model.``, -> tensor.

    Raises
    ------
    UsageError
        It cannot be read, or is no state dict.

    Example
    -------
    >>> path = getfixture("tmp_path") / "model.pt"
    >>> torch.save({"model.layernorm.bias": torch.zeros(2)}, path)
    >>> list(read_checkpoint(str(path)))
    ['layernorm.bias']
    """
    try:
        if path.endswith(".safetensors"):
            found = safetensors.torch.load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).partition("\n")[0] or "it is empty"
        raise UsageError(
            f"The published checkpoint {path!r} was asked for.",
            f"It cannot be read as tensors alone: {reason}.",
            "Name a file that holds a model's state dict",
        ) from error
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        kind = f"a dict with {', '.join(map(repr, list(found)[:5]))}" if isinstance(found, dict) else type(found)
        raise UsageError(
            f"The published checkpoint {path!r} was asked for.",
            f"It holds no state dict, but {kind}.",
            "Name a file that holds a model's state dict",
        )
    return without_prefix(found)


def build(
    published: dict[str, torch.Tensor],
    method: str,
    flags: Flags,
    pooling: str = "ALL",
    backbone: str | None = None,
    config_file: str | None = None,
) -> AudioClassifier:
    """Builds the model that a checkpoint belongs to, with its weights.

    Arguments
    ---------
    published : dict[str, torch.Tensor]
        As `read_checkpoint` returns it.
    method : str
        The published method.
    flags : Flags
        The published flags of the model.
    pooling : str
        The published ``final_output``.
    backbone : str, optional
        Its name here; by default ``ast`` or ``wav2vec2``, as the parameters' names say.
    config_file : str, optional
        The backbone's ``config.json``; by default what is known of its name.

    Returns
    -------
    AudioClassifier
        Adapted; its backbone has the checkpoint's weights.

    Raises
    ------
    UsageError
        The checkpoint is of no such model.
    """
    is_ast = _is_ast(published)
    name = backbone or ("ast" if is_ast else "wav2vec2")
    config = _read_config(config_file) if config_file else known_config(name).to_dict()
    fitted = _with_frames(config, published[POSITIONS]) if is_ast else config
    model = load_reference(
        method,
        flags,
        is_AST=is_ast,
        final_output=pooling,
        num_classes=len(published[HEAD]),
        config=fitted,
        state_dict=published,
    ).classifier
    if fitted != config and not isinstance(model.method, FullFineTuning) and published[POSITIONS].any():
        raise UsageError(
            "A published checkpoint was to be imported.",
            "Its positions are frozen, and are neither the backbone's own nor zero: an adapter would not hold them.",
            "Write --config=FILE, the config.json of its backbone",
        )
    model.backbone.name, model.backbone.revision = name, "unknown"
    return model


def _is_ast(published: dict[str, torch.Tensor]) -> bool:
    """Tells the backbones apart by the names of their layers."""
    kinds = {name.split(".")[1] for name in published if name.startswith("encoder.layer")}
    if kinds == {"layer"} and {HEAD, POSITIONS} <= published.keys():
        return True
    if "layers" in kinds and HEAD in published:
        return False
    raise UsageError(
        "A published checkpoint was to be imported.",
        f"Its names are those of neither AST nor wav2vec 2.0 with a head, such as {', '.join(list(published)[:3])}.",
        "Name a checkpoint that the published code wrote",
    )


def _read_config(path: str) -> dict:
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The configuration {path!r} was asked for.", f"It cannot be read: {error}.", "Name a config.json"
        ) from error


def _with_frames(config: dict, table: torch.Tensor) -> dict:
    """Gives an AST's configuration the length of clips that its table of positions is for."""
    sizes = ASTConfig(**config)
    bands = (sizes.num_mel_bins - sizes.patch_size) // sizes.frequency_stride + 1
    times, rest = divmod(table.shape[1] - SPECIAL_TOKENS, bands)
    if rest or times < 1:
        raise UsageError(
            "A published checkpoint was to be imported.",
            f"Its {table.shape[1] - SPECIAL_TOKENS} positions are not {bands} bands of patches.",
            "Write --config=FILE, the config.json of its backbone",
        )
    if times == (sizes.max_length - sizes.patch_size) // sizes.time_stride + 1:
        return config
    return config | {"max_length": (times - 1) * sizes.time_stride + sizes.patch_size}


def read_labels(path: str | None, n_classes: int) -> dict[str, int]:
    """Reads the names of the classes.

    Arguments
    ---------
    path : str, optional
        A file with one a line; None numbers them.
    n_classes : int
        How many there are.

    Returns
    -------
    dict[str, int]
        Label -> index.

    Raises
    ------
    UsageError
        The file cannot be read, or has not as many different names.

    Example
    -------
    >>> read_labels(None, 2)
    {'0': 0, '1': 1}
    """
    try:
        names = [*map(str, range(n_classes))] if path is None else Path(path).read_text().splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The labels in {path!r} were asked for.", f"They cannot be read: {error}.", "Name a text file in UTF-8"
        ) from error
    labels = {name: index for index, name in enumerate(names)}
    if not len(labels) == len(names) == n_classes:
        raise UsageError(
            f"The labels in {path!r} were asked for.",
            f"It has {len(names)} lines, {len(labels)} of them different; the head has {n_classes} classes.",
            "Write one name a line, in the order of the head",
        )
    return labels


def run(chosen: argparse.Namespace) -> int:
    """Imports the checkpoint, or translates the command line, and prints the outcome."""
    print(import_petl_ast(chosen))
    return 0
