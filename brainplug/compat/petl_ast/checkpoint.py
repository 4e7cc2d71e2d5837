"""Published checkpoints: how they are read, and the classifier that one belongs to."""

import json
import pickle
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from transformers import ASTConfig

from brainplug.backbones import known_config
from brainplug.backbones.audio_spectrogram import SPECIAL_TOKENS
from brainplug.compat.petl_ast.flags import Flags
from brainplug.compat.petl_ast.weights import load_reference, without_prefix
from brainplug.errors import CheckpointError, ConfigError
from brainplug.methods.full import FullFineTuning
from brainplug.models.classifier import AudioClassifier

HEAD, POSITIONS = "classification_head.weight", "embeddings.position_embeddings"


def read_checkpoint(path: str) -> dict[str, torch.Tensor]:
    """Reads a ``.safetensors`` file, or a state dict that ``torch.save`` wrote: published name -> tensor.

    Nothing in it is executed. Names have no leading ``model.``.
    """
    asked, write = f"The published checkpoint {path!r} was asked for.", "Name a file that holds a model's state dict"
    try:
        if path.endswith(".safetensors"):
            content = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).partition("\n")[0] or "it is empty"
        raise CheckpointError(asked, f"It cannot be read as tensors alone: {reason}.", write) from error
    if not isinstance(content, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        names = f"a dict with {', '.join(map(repr, list(content)[:5]))}" if isinstance(content, dict) else type(content)
        raise CheckpointError(asked, f"It holds no state dict, but {names}.", write)
    return without_prefix(content)


def build_classifier(
    published: dict[str, torch.Tensor],
    method: str,
    flags: Flags,
    pooling: str = "ALL",
    backbone: str | None = None,
    config_file: str | None = None,
) -> AudioClassifier:
    """Builds the adapted classifier that a checkpoint belongs to, with its weights.

    Arguments
    ---------
    published : dict[str, torch.Tensor]
        As `read_checkpoint` returns it.
    method, flags, pooling : str, Flags, str
        The published method, the flags of the model, and the published ``final_output``.
    backbone : str, optional
        The backbone's name here; by default ``ast`` or ``wav2vec2``, after the names of the parameters.
    config_file : str, optional
        The backbone's ``config.json``; by default the configuration that belongs to its name.
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
        raise CheckpointError(
            "A published checkpoint was to be imported.",
            "Its positions are frozen, and are neither the backbone's own nor zero: an adapter would not hold them.",
            "Write --config=FILE, the config.json of its backbone",
        )
    model.backbone.name, model.backbone.revision = name, "unknown"
    return model


def _is_ast(published: dict[str, torch.Tensor]) -> bool:
    """Whether the names of the layers are those of AST; else they are those of wav2vec 2.0."""
    kinds = {name.split(".")[1] for name in published if name.startswith("encoder.layer")}
    if kinds == {"layer"} and {HEAD, POSITIONS} <= published.keys():
        return True
    if "layers" in kinds and HEAD in published:
        return False
    raise CheckpointError(
        "A published checkpoint was to be imported.",
        f"Its names are those of neither AST nor wav2vec 2.0 with a head, such as {', '.join(list(published)[:3])}.",
        "Name a checkpoint that the published code wrote",
    )


def _read_config(path: str) -> dict[str, Any]:
    try:
        return dict(json.loads(Path(path).read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The configuration {path!r} was asked for.", f"It cannot be read: {error}.", "Name a config.json"
        ) from error


def _with_frames(config: dict[str, Any], table: torch.Tensor) -> dict[str, Any]:
    """An AST's configuration for clips of the length that its table of positions is for."""
    sizes = ASTConfig(**config).to_dict()
    patch, stride = sizes["patch_size"], sizes["time_stride"]
    bands = (sizes["num_mel_bins"] - patch) // sizes["frequency_stride"] + 1
    times, rest = divmod(table.shape[1] - SPECIAL_TOKENS, bands)
    if rest or times < 1:
        raise CheckpointError(
            "A published checkpoint was to be imported.",
            f"Its {table.shape[1] - SPECIAL_TOKENS} positions are not {bands} bands of patches.",
            "Write --config=FILE, the config.json of its backbone",
        )
    if times == (sizes["max_length"] - patch) // stride + 1:
        return config
    return config | {"max_length": (times - 1) * stride + patch}
