"""Backbones for tasks: with pretrained weights, random ones, or shapes alone; and the backbone of a finished run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from transformers import PreTrainedConfig

from brainplug.adapters.description import COPY_AGAIN, AdapterDescription
from brainplug.backbones import Backbone, backbone_without_weights, known_config, load_backbone, random_backbone
from brainplug.backbones.hub import fetch_config
from brainplug.backbones.loading import RANDOM, find_source
from brainplug.compat.petl_ast.methods import PUBLISHED
from brainplug.errors import CheckpointError, UsageError
from brainplug.methods import Method, restore_method

# These revisions name weights that no hub has: a folder's hash, a new model, weights without a name.
NOT_OF_THE_HUB = ("sha256-", "random", "unknown")

# What torch, transformers and peft raise where settings make no sense.
FAULTS_OF_SETTINGS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError),
    ImportError,
)
Loaded = TypeVar("Loaded")
Weights = Literal["pretrained", "random", "meta"]


def load_weights(
    name: str,
    revision: str | None,
    weights: Weights,
    like: Backbone | None = None,
    frames: int | None = None,
    positions: str = "crop",
) -> Backbone:
    """Loads a backbone, or makes one of the same architecture; `weights` and `like` are as in `Task.assemble`."""
    if weights == "pretrained":
        return load_backbone(name, revision, frames, positions)
    if like is not None:
        return backbone_without_weights(like.model.config) if weights == "meta" else random_backbone(like.model.config)
    make = backbone_without_weights if weights == "meta" else random_backbone
    return make(known_config(name), frames, positions)


def restore_backbone(
    description: AdapterDescription, location: str | None = None, weights: Weights = "pretrained"
) -> tuple[Backbone, Method]:
    """Loads the backbone that an adapter was trained on, and makes the method that adapted it.

    `location` is a folder with the backbone, if that has moved; `weights` may be ``meta``, for shapes alone. A
    `CheckpointError` is raised if the backbone is missing or another one, or if its weights were random and are in no
    file.
    """
    backbone = load_as_described(description, location, weights)
    if weights == "pretrained":
        check_same(description, backbone)
    return backbone, restored_method(description)


def load_as_described(
    description: AdapterDescription, location: str | None = None, weights: Weights = "pretrained"
) -> Backbone:
    """As `restore_backbone`, for the backbone alone, which may turn out to be another one."""
    frames, positions = cast("int | None", description.signal.get("frames")), description.positions or "crop"
    settings: dict[str, Any] = {"frames": frames, "positions": positions}
    if weights == "meta":
        return backbone_without_weights(load_again(description, location, config_of), **settings)
    return load_again(description, location, lambda name, revision: load_backbone(name, revision, **settings))


def config_of(name: str, revision: str | None) -> PreTrainedConfig:
    """The configuration of a backbone, downloaded if it is not on this machine; `revision` is one of the hub."""
    revision = None if name.startswith(RANDOM) else revision
    fetch_config(find_source(name), revision)
    return known_config(name, revision)


def restored_method(description: AdapterDescription) -> Method:
    """The method that an adapter's description names."""
    return restore_method(description.method_settings, PUBLISHED)


@contextmanager
def without_weights(description: AdapterDescription) -> Iterator[None]:
    """Makes modules as shapes without values; settings with which none can be made raise a `CheckpointError`."""
    try:
        with torch.device("meta"):
            yield
    except UsageError:
        raise
    except FAULTS_OF_SETTINGS as error:
        raise CheckpointError(
            f"An adapter with the method {description.method} was asked for.",
            f"No model can be made with its settings: {type(error).__name__}: {error}.",
            COPY_AGAIN,
        ) from error


def load_again(
    description: AdapterDescription, location: str | None, load: Callable[[str, str | None], Loaded]
) -> Loaded:
    """Loads what an adapter was trained on, by `load`, called with a name and a revision.

    The revision is None for weights that no hub has.
    """
    name, revision = location or description.backbone, description.backbone_revision
    asked = f"A model that adapts the backbone {name!r}, {revision}, was asked for."
    write = "Name a folder with a copy of it: backbone=FOLDER in Python, --backbone=FOLDER on the command line"
    # The hub would take the path of a missing folder for the id of another model.
    if revision.startswith("sha256-") and "/" in name and not Path(name, "config.json").is_file():
        raise CheckpointError(asked, f"The folder {name} does not exist here, or has no config.json.", write)
    try:
        return load(name, None if revision.startswith(NOT_OF_THE_HUB) else revision)
    except UsageError as error:
        raise CheckpointError(asked, f"The backbone cannot be loaded: {error}.", write) from error


def check_same(description: AdapterDescription, backbone: Backbone, fingerprint: str | None = None) -> None:
    """Refuses a backbone that is not the one that an adapter was trained on, or reads clips otherwise.

    `fingerprint` is the backbone's, where it has been computed before.
    """
    asked = f"A model that adapts the backbone {backbone.name!r} was asked for."
    expected, revision = description.backbone_revision, backbone.revision
    if expected == "random":
        raise CheckpointError(
            asked, "Its weights were random, and are in no file.", "Train with a backbone that has a file"
        )
    write = "Put the backbone's own files back, or name their folder: backbone=FOLDER, --backbone=FOLDER"
    if revision != expected:
        raise CheckpointError(asked, f"Its weights were {expected}; those here are {revision}.", write)
    if description.backbone_sha256 not in (None, fingerprint or backbone.fingerprint()):
        problem = "Its weights are not those that the adapter was trained on, though they have the same name."
        raise CheckpointError(asked, problem, write)
    if backbone.signal_settings != description.signal:
        problem = f"It read clips with {description.signal}; the one here reads them with {backbone.signal_settings}."
        raise CheckpointError(asked, problem, write)
