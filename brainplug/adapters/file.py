"""Adapter files: a folder with the trained weights, what describes them, a probe, and a card for people.

Reading them runs no code: weights are safetensors, everything else is JSON. All of it but the card is checked to the
last byte.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import JsonValue
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.distributed import main_process_only

from brainplug.adapters.card import write_card
from brainplug.adapters.description import (
    COPY_AGAIN,
    AdapterDescription,
    current_name,
    parse_description,
    parse_json,
)
from brainplug.adapters.hub import find_adapter
from brainplug.adapters.layout import (
    DESCRIPTION_NAME,
    ECHO_CONFIG,
    HEADER_KEY,
    PROBE_NAME,
    WEIGHTS_NAME,
    Layout,
)
from brainplug.adapters.peft_format import backbone_copies, own_names, peft_values, stored_names
from brainplug.adapters.probe import Tensors, make_probe
from brainplug.compat.petl_ast.methods import PUBLISHED
from brainplug.errors import CheckpointError
from brainplug.files import atomic_file, read_json, write_json
from brainplug.methods import restore_method
from brainplug.models.adapted import AdaptedModel

MOST_JSON = 2**24  # bytes of a description: a million labels


@dataclass(frozen=True)
class Adapter:
    """An adapter: what describes the model, the trained weights by name, and the probe, where there is one."""

    description: AdapterDescription
    weights: Tensors
    probe: Tensors = field(default_factory=dict)


def save_delta(model: AdaptedModel, path: Path, description: AdapterDescription | None = None) -> None:
    """Writes the trained weights as safetensors, with their description in the file's header."""
    _write_tensors(model.delta(), path, {} if description is None else description.without_checksum.to_dict())


def load_delta(model: AdaptedModel, path: Path) -> None:
    """Loads the weights that `save_delta` wrote into a model with the same backbone, method and head.

    Raises
    ------
    UsageError
        The file does not fit the model.
    """
    model.load_delta(_with_current_names(safetensors.torch.load_file(path)))


def save_adapter(
    model: AdaptedModel, folder: str | Path, description: AdapterDescription, results: Mapping[str, Any] | None = None
) -> None:
    """Writes an adapter into a folder: weights, description, probe, and a card with what results.json says."""
    folder = Path(folder)
    _write_tensors(make_probe(model), folder / PROBE_NAME)
    description = description.model_copy(update={"probe_sha256": _sha256(folder / PROBE_NAME)})
    of_peft = peft_values(model)
    names = stored_names(model) if of_peft else {}
    tensors = {names.get(name, name): tensor for name, tensor in model.delta().items()}
    if of_peft:
        tensors |= backbone_copies(model, of_peft)
    values = {**of_peft, HEADER_KEY: description.without_checksum.to_dict()}
    _write_tensors(tensors, folder / WEIGHTS_NAME, values)
    described = description.model_copy(update={"weights_sha256": _sha256(folder / WEIGHTS_NAME)})
    write_card(described, folder, results or {})
    write_json({**values, HEADER_KEY: described.to_dict()}, folder / DESCRIPTION_NAME)


def _write_tensors(
    tensors: Mapping[str, torch.Tensor], path: Path, header: Mapping[str, JsonValue] | None = None
) -> None:
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {HEADER_KEY: json.dumps(header or {})}  # one key: safetensors writes several in any order
    with atomic_file(str(path), "wb") as file:
        file.write(safetensors.torch.save(contiguous, metadata=metadata))


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


def read_description(source: str | Path, revision: str | None = None) -> AdapterDescription:
    """Reads what describes an adapter, given as for `read_adapter`.

    Raises
    ------
    CheckpointError
        A file is missing, the run has not finished, or the description is damaged or of a newer format.
    """
    folder, layout = find_adapter(source, revision)
    return _describe(_read_values(folder / layout.description), folder, layout)


def read_adapter(source: str | Path, revision: str | None = None) -> Adapter:
    """Reads an adapter and verifies its files.

    Arguments
    ---------
    source, revision : str | Path, str
        The output folder of a finished run, the folder of an adapter, or a hub id such as ``owner/name``, and its
        revision, which may also follow the id: ``owner/name@v1``.

    Raises
    ------
    CheckpointError
        Files are missing, cut short, altered, of a newer format, or describe different adapters.
    """
    folder, layout = find_adapter(source, revision)
    values = _read_values(folder / layout.description)
    description = _describe(values, folder, layout)
    weights, header, checksum = _read_tensors(folder / layout.weights, description.weights_sha256)
    if _without_checksum(parse_json(header, f"in {folder / layout.weights}")) != _without_checksum(values):
        raise CheckpointError(
            f"The adapter in {folder} was asked for.",
            f"{layout.weights}: its header describes another adapter than {layout.description} does.",
            f"Copy both {layout.weights} and {layout.description} from one run",
        )
    probe: Tensors = {}
    if description.probe_sha256:
        probe, *_ = _read_tensors(folder / PROBE_NAME, description.probe_sha256)
    described = description.model_copy(update={"weights_sha256": checksum})
    method = restore_method(description.method_settings, PUBLISHED)
    return Adapter(described, own_names(_with_current_names(weights), values, method), probe)


def read_peft(folder: str | Path) -> tuple[dict[str, JsonValue], Tensors]:
    """The description and the tensors of an adapter that peft wrote, as they are in its files."""
    description, weights = Path(folder, DESCRIPTION_NAME), Path(folder, WEIGHTS_NAME)
    if Path(folder, "adapter_model.bin").exists() and not weights.exists():
        problem = "Its weights are in adapter_model.bin, which runs code when it is read."
        write = "Save it with peft's save_pretrained, which writes safetensors"
        raise CheckpointError(f"Peft's adapter {folder} was asked for.", problem, write)
    return _read_values(description), _read_tensors(weights, None)[0]


def _read_values(path: Path) -> dict[str, JsonValue]:
    try:
        if path.stat().st_size > MOST_JSON:
            raise OSError(f"it has {path.stat().st_size:,} bytes, a description {MOST_JSON:,} at most")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} was asked for.", f"It cannot be read: {error}.", COPY_AGAIN) from error
    return parse_json(text, str(path))


def _describe(values: dict[str, JsonValue], folder: Path, layout: Layout) -> AdapterDescription:
    if layout.key is None:
        description = parse_description(values, str(folder / layout.description))
        if (folder / ECHO_CONFIG).is_file() and hasattr(description, "echo"):
            return description.model_copy(update={"echo": read_json(folder / ECHO_CONFIG)})
        return description
    if layout.key not in values and "peft_type" in values:
        problem, write = "Peft wrote it.", f"Write: brainplug import-peft {folder} --out=FOLDER"
        raise CheckpointError(f"The adapter {folder} was asked for.", problem, write)
    return parse_description(values.get(layout.key), str(folder / layout.description))


def _without_checksum(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The values of a description, in whatever layout, without what the header of the weights cannot have."""
    inner = values.get(HEADER_KEY, values)
    if not isinstance(inner, dict):
        return values
    rest = {key: value for key, value in inner.items() if key != "weights_sha256"}
    return {**values, HEADER_KEY: rest} if HEADER_KEY in values else rest


def _read_tensors(path: Path, expected: str | None) -> tuple[Tensors, str, str]:
    """The tensors of a file, our part of its header, and its SHA-256.

    The tensors are mapped, and take no memory before they are used.
    """
    asked = f"The adapter's file {path} was asked for."
    try:
        checksum = _sha256(path)
        if expected not in (None, checksum):
            problem = f"It is not the one that {DESCRIPTION_NAME} describes: it is cut short or was altered."
            raise CheckpointError(asked, problem, COPY_AGAIN)
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY, "")
        return safetensors.torch.load_file(path), header, checksum
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(asked, f"The file is cut short or is no safetensors: {error}.", COPY_AGAIN) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_current_names(weights: Tensors) -> Tensors:
    return {current_name(name): tensor for name, tensor in weights.items()}
