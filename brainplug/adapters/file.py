"""Adapter files: the trained weights as safetensors, beside their description as JSON. Reading them runs no code."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.distributed import main_process_only

from brainplug.adapters.description import (
    COPY_AGAIN,
    DESCRIPTION_NAME,
    WEIGHTS_NAME,
    AdapterDescription,
    current_name,
    parse_description,
)
from brainplug.errors import CheckpointError
from brainplug.files import atomic_file, write_json
from brainplug.models.adapted import AdaptedModel

HEADER_KEY = "brainplug"  # of the metadata in the header of a safetensors file
MADE_BY_RUNS = ("hyperparams.yaml", "save")  # from its first minute on


@dataclass(frozen=True)
class Adapter:
    """An adapter file: what describes the model, and the trained weights by name."""

    description: AdapterDescription
    weights: dict[str, torch.Tensor]


def save_delta(model: AdaptedModel, path: Path, description: AdapterDescription | None = None) -> None:
    """Writes the trained weights as safetensors, with their description in the file's header."""
    delta = {name: tensor.detach().cpu().contiguous() for name, tensor in model.delta().items()}
    header = json.dumps({} if description is None else description.without_checksum.to_dict())
    with atomic_file(str(path), "wb") as file:
        file.write(safetensors.torch.save(delta, metadata={HEADER_KEY: header}))


def load_delta(model: AdaptedModel, path: Path) -> None:
    """Loads the weights that `save_delta` wrote into a model with the same backbone, method and head.

    Raises
    ------
    UsageError
        The file does not fit the model.
    """
    model.load_delta(_with_current_names(safetensors.torch.load_file(path)))


def save_adapter(model: AdaptedModel, folder: str | Path, description: AdapterDescription) -> None:
    """Writes the adapter of a finished run: ``adapter.safetensors`` and ``adapter.json``."""
    path = Path(folder, WEIGHTS_NAME)
    save_delta(model, path, description)
    described = description.model_copy(update={"weights_sha256": _sha256(path)})
    write_json(described.to_dict(), Path(folder, DESCRIPTION_NAME))


def register_adapter(
    checkpointer: Checkpointer, model: AdaptedModel, description: AdapterDescription | None = None
) -> None:
    """Has a checkpointer save and load a model's trained weights, and no others, under the name ``model``."""
    checkpointer.add_recoverable(
        "model",
        model,
        custom_save_hook=main_process_only(partial(save_delta, description=description)),
        custom_load_hook=lambda model, path, end_of_epoch: load_delta(model, path),
    )


def read_description(folder: str | Path) -> AdapterDescription:
    """Reads ``adapter.json``.

    Raises
    ------
    CheckpointError
        A file is missing, the run has not finished, or `parse_description` refuses the text.
    """
    _check_complete(Path(folder))
    path = Path(folder, DESCRIPTION_NAME)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} was asked for.", f"It cannot be read: {error}.", COPY_AGAIN) from error
    return parse_description(text, str(path))


def read_adapter(folder: str | Path) -> Adapter:
    """Reads an adapter, in a finished run's folder or in any folder with its two files, and verifies it.

    Files that are missing, cut short, altered, or that describe different adapters raise a `CheckpointError`.
    """
    description, path = read_description(folder), Path(folder, WEIGHTS_NAME)
    asked = f"The adapter's weights {path} were asked for."
    checksum = _sha256(path)
    if description.weights_sha256 not in (None, checksum):
        problem = f"They are not those that {DESCRIPTION_NAME} describes: the file is cut short or was altered."
        raise CheckpointError(asked, problem, COPY_AGAIN)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY, "")
        weights = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(asked, f"The file is cut short or is no safetensors: {error}.", COPY_AGAIN) from error
    if parse_description(header, f"in {path}") != description.without_checksum:
        problem = f"Their header describes another adapter than {DESCRIPTION_NAME} does."
        raise CheckpointError(asked, problem, f"Copy both {WEIGHTS_NAME} and {DESCRIPTION_NAME} from one run")
    return Adapter(description.model_copy(update={"weights_sha256": checksum}), _with_current_names(weights))


def _check_complete(folder: Path) -> None:
    missing = [name for name in (DESCRIPTION_NAME, WEIGHTS_NAME) if not (folder / name).is_file()]
    if not missing:
        return
    problem, write = f"It lacks {' and '.join(missing)}.", "Name the output folder of a finished run"
    if not folder.is_dir():
        problem = "There is no such folder."
    elif any((folder / name).exists() for name in MADE_BY_RUNS):
        problem = f"Its run has not finished: {' and '.join(missing)} is missing."
        write = "Give the run's command again: it goes on where it stopped, and writes the adapter at its end"
    raise CheckpointError(f"The adapter in {folder} was asked for.", problem, write)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_current_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {current_name(name): tensor for name, tensor in weights.items()}
