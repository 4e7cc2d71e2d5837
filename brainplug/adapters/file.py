"""Adapter files: what training made and nothing else, as safetensors with a description in JSON."""

import json
from functools import partial
from pathlib import Path

import safetensors.torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.distributed import main_process_only

from brainplug.files import atomic_file, write_json
from brainplug.models.adapted import AdaptedModel


def save_delta(model: AdaptedModel, path: Path, description: dict) -> None:
    """Writes what training made as safetensors, with its description in the file's header.

    Arguments
    ---------
    model : AdaptedModel
        Its delta is written.
    path : Path
        The file; it appears when it is whole.
    description : dict
        JSON values: method and settings, backbone and revision, labels.
    """
    delta = {name: tensor.detach().cpu().contiguous() for name, tensor in model.delta().items()}
    with atomic_file(path, "wb") as file:
        file.write(safetensors.torch.save(delta, metadata={"brainplug": json.dumps(description)}))


def save_adapter(model: AdaptedModel, folder: str, description: dict) -> None:
    """Writes the adapter of a finished run: ``adapter.safetensors`` and ``adapter.json``.

    Arguments
    ---------
    model : AdaptedModel
        With the weights that were tested.
    folder : str
        The run's output folder.
    description : dict
        As for `save_delta`.
    """
    save_delta(model, Path(folder, "adapter.safetensors"), description)
    write_json(description, Path(folder, "adapter.json"))


def load_delta(model: AdaptedModel, path: Path) -> None:
    """Loads what `save_delta` wrote.

    Arguments
    ---------
    model : AdaptedModel
        Built with the same method, backbone and number of classes.
    path : Path
        The file.

    Raises
    ------
    UsageError
        The file does not fit the model.
    """
    model.load_delta(safetensors.torch.load_file(path))


def register_adapter(checkpointer: Checkpointer, model: AdaptedModel, description: dict) -> None:
    """Has a checkpointer keep of a model what training made, and nothing else.

    Arguments
    ---------
    checkpointer : Checkpointer
        It saves and loads the model under the name ``model``.
    model : AdaptedModel
        The model.
    description : dict
        As for `save_delta`.
    """
    checkpointer.add_recoverable(
        "model",
        model,
        custom_save_hook=main_process_only(partial(save_delta, description=description)),
        custom_load_hook=lambda model, path, end_of_epoch: load_delta(model, path),
    )
