"""brainplug backbones: lists the backbones that have a short name, without any weight."""

import argparse

from brainplug.backbones import backbone_without_weights, known_config
from brainplug.backbones.loading import BUNDLED_FOLDER, CHECKPOINTS, HUB_NAMES, bundled_names
from brainplug.results.tables import markdown_table

COLUMNS = (
    "backbone", "layers", "width", "million parameters", "MB", "signal", "licence", "from", "how it was made"
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no arguments."""


def run(_: argparse.Namespace) -> int:
    """Prints the table."""
    print(list_backbones())
    return 0


def list_backbones() -> str:
    """A Markdown table with one row a backbone: its size, computed from its configuration alone, and its origin.

    Example
    -------
    >>> "MIT/ast-finetuned" in list_backbones()
    True
    """
    return markdown_table(COLUMNS, [_row(name) for name in (*bundled_names(), *HUB_NAMES)])


def _row(name: str) -> tuple[str, ...]:
    backbone = backbone_without_weights(known_config(name))
    layers = len(backbone.spec.layers_of(backbone.model))
    millions = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6
    weights = BUNDLED_FOLDER / name / "model.safetensors"
    megabytes = f"{weights.stat().st_size / 1e6:.1f}" if weights.is_file() else "-"
    sizes = str(layers), str(backbone.dim), f"{millions:.2f}", megabytes
    checkpoint = CHECKPOINTS[name]
    return (
        name, *sizes, backbone.spec.signal, checkpoint.licence, checkpoint.hub_id or "bundled", checkpoint.made
    )  # fmt: skip
