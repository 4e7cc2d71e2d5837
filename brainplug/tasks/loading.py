"""Backbones for tasks: with pretrained weights, random ones, or shapes alone; and the backbone of a finished run."""

from typing import Literal

from brainplug.adapters.description import AdapterDescription
from brainplug.backbones import Backbone, backbone_without_weights, known_config, load_backbone, random_backbone
from brainplug.errors import CheckpointError
from brainplug.methods import Method, restore_method


def load_weights(
    name: str,
    revision: str | None,
    weights: Literal["pretrained", "random", "meta"],
    like: Backbone | None = None,
    **input_settings: object,
) -> Backbone:
    """Loads a backbone, or makes one of the same architecture.

    Arguments
    ---------
    name, revision : str, str
        As in `load_backbone`.
    weights : str
        ``pretrained``; ``random``, drawn; ``meta``: shapes without values.
    like : Backbone, optional
        Whose configuration one without pretrained weights has, where it is loaded already.
    **input_settings : object
        ``frames`` and ``positions``, for families that take them.
    """
    if weights == "pretrained":
        return load_backbone(name, revision, **input_settings)
    if like is not None:
        return backbone_without_weights(like.model.config) if weights == "meta" else random_backbone(like.model.config)
    make = backbone_without_weights if weights == "meta" else random_backbone
    return make(known_config(name), **input_settings)


def restore_backbone(description: AdapterDescription, location: str | None = None) -> tuple[Backbone, Method]:
    """Loads the backbone that an adapter was trained on, and makes the method that adapted it.

    Arguments
    ---------
    description : AdapterDescription
        Of the adapter.
    location : str, optional
        A folder that holds the backbone, where it is not where the run found it.

    Raises
    ------
    CheckpointError
        The backbone is another one, or its weights were random and are in no file.
    """
    frames, positions = description.signal.get("frames"), description.positions or "crop"
    name = location or description.backbone
    backbone = load_backbone(name, pinned_revision(description), frames=frames, positions=positions)
    check_revision(description, backbone)
    return backbone, restored_method(description)


def restored_method(description: AdapterDescription) -> Method:
    """The method that an adapter's description names."""
    return restore_method(dict(description.method_settings))


def pinned_revision(description: AdapterDescription) -> str | None:
    """The revision to load a backbone with; a folder's weights have no name but their own hash."""
    revision = description.backbone_revision
    return None if revision.startswith(("sha256-", "random")) else revision


def check_revision(description: AdapterDescription, backbone: Backbone) -> None:
    """Refuses another backbone than the one that an adapter was trained on."""
    revision = description.backbone_revision
    if backbone.revision != revision or revision == "random":
        raise CheckpointError(
            f"The backbone {description.backbone}, revision {revision}, was asked for.",
            f"The backbone {backbone.name} has the revision {backbone.revision}.",
            "Put the backbone's own files back; random weights are in no file",
        )
