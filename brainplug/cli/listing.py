"""What there is to choose from: methods with what they train on a backbone, and backbones, without any weight."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from transformers import PreTrainedConfig

from brainplug.backbones import base_name, known_config, random_backbone
from brainplug.backbones.about import ABOUT
from brainplug.backbones.loading import BUNDLED_FOLDER, HUB_NAMES, bundled_names
from brainplug.config.recipe import choose
from brainplug.errors import UsageError
from brainplug.methods import Method, choose_method
from brainplug.methods.peft_method import PeftMethod
from brainplug.models.adapted import classifier_without_weights
from brainplug.optim.entry import as_entry
from brainplug.results.tables import markdown_table


def read_methods(folder: str, backbone: str) -> tuple[dict[str, dict], dict[str, dict]]:
    """Reads the entries of the methods, and what a backbone changes in them.

    Arguments
    ---------
    folder : str
        With ``methods.yaml`` and ``backbones.yaml``.
    backbone : str
        Name of a backbone.

    Returns
    -------
    tuple[dict[str, dict], dict[str, dict]]
        Both as `choose_method` takes them; the changes are empty for a backbone without an entry.

    Raises
    ------
    UsageError
        A file cannot be read.

    Example
    -------
    >>> methods, changes = read_methods("hparams", "nano-ast")
    >>> changes.keys() <= methods.keys()
    True
    """
    methods, backbones = _read_blocks(folder, ("methods.yaml", "backbones.yaml"))
    return methods, backbones.get(base_name(backbone)) or {}


def _read_blocks(folder: str, names: Sequence[str]) -> list[dict]:
    try:
        return [load_hyperpyyaml(Path(folder, name).read_text()) for name in names]
    except OSError as error:
        raise UsageError(
            f"The settings in the folder {folder!r} were asked for.", f"They cannot be read: {error}.",
            f"Write --hparams=FOLDER, one with {' and '.join(names)}",
        ) from error  # fmt: skip


def list_methods(folder: str, backbone: str, n_classes: int) -> str:
    """Lists the methods of a file with what they train on a backbone, of which the configuration alone is read.

    Arguments
    ---------
    folder : str
        With ``methods.yaml``, and ``backbones.yaml`` which says what a backbone changes there.
    backbone : str
        As in `known_config`.
    n_classes : int
        Classes of the head.

    Returns
    -------
    str
        Markdown: one row a method. One that cannot serve the backbone has its reason there instead of numbers.

    Raises
    ------
    UsageError
        A file is missing, or the backbone is unknown.

    Example
    -------
    >>> "| linear " in list_methods("hparams", "ast", n_classes=50)
    True
    """
    methods, changes = read_methods(folder, backbone)
    config, rows = known_config(backbone), []
    for name, entry in methods.items():
        method, lr = choose_method(name, methods, changes)
        given = {**getattr(entry["settings"], "keywords", {}), **(changes.get(name) or {})}
        counts = count_on_meta(config, method, n_classes)
        if isinstance(counts, str):
            rows.append((name, "-", "-", "-", f"{lr:g}", f"-: {counts}"))
            continue
        trainable, without_head, total = counts.values()
        numbers = f"{trainable:,}", f"{without_head:,}", f"{trainable / total:.2%}", f"{lr:g}"
        rows.append((name, *numbers, describe_settings(method, given)))
    columns = ("method", "trainable", "without head", "share", "learning rate", "settings")
    return markdown_table(columns, rows)


def describe_settings(method: Method, given: dict) -> str:
    """A method's settings as YAML on one line, those left out that are null.

    Arguments
    ---------
    method : Method
        Any method.
    given : dict
        What its entry sets, which is all that is shown of a peft configuration: it has dozens of settings.

    Returns
    -------
    str
        Such as a recipe's `method_settings` takes.

    Example
    -------
    >>> from brainplug.methods.lora import LoRA
    >>> describe_settings(LoRA(rank=6, targets=["query"]), {})
    'rank: 6, alpha: 8, scaling: rank, targets: [query]'
    """
    settings = given if isinstance(method, PeftMethod) else asdict(method)
    shown = {name: value for name, value in settings.items() if value is not None and name not in ("paper_code", "lr")}
    return ", ".join(f"{name}: {value}" for name, value in shown.items()).replace("'", "")


def count_on_meta(config: PreTrainedConfig, method: Method, n_classes: int) -> dict[str, int] | str:
    """Counts what a method trains, on tensors without memory.

    Arguments
    ---------
    config : PreTrainedConfig
        Of the backbone.
    method : Method
        Adapts it.
    n_classes : int
        Classes of the head.

    Returns
    -------
    dict[str, int] | str
        As `AudioClassifier.count_parameters`; the reason, where the method cannot serve the backbone.

    Example
    -------
    >>> from brainplug.methods.linear import LinearProbe
    >>> count_on_meta(known_config("ast"), LinearProbe(), n_classes=2)["trainable_without_head"] == 2 * 768
    True
    """
    try:
        return classifier_without_weights(config, method, n_classes).count_parameters()
    except UsageError as error:
        return " ".join(str(error).split()).replace("|", "\\|")


def list_optimizer_groups(folder: str, optimizer: str, backbone: str, method: str, n_classes: int) -> str:
    """Lists which parameters an optimiser treats alike, and how, of a model that has no weights.

    Arguments
    ---------
    folder : str
        With ``optimizers.yaml``, ``methods.yaml`` and ``backbones.yaml``.
    optimizer, method : str
        Names of entries there.
    backbone : str
        As in `known_config`.
    n_classes : int
        Classes of the head.

    Returns
    -------
    str
        Markdown: one row a group. In the names of its parameters * stands for a number.

    Raises
    ------
    UsageError
        A file is missing, or there is no such entry or backbone, or the method cannot serve it.

    Example
    -------
    >>> "| conv " in list_optimizer_groups("hparams", "fam", "nano-ast", "conformer", n_classes=10)
    True
    """
    methods, changes = read_methods(folder, backbone)
    [optimizers] = _read_blocks(folder, ("optimizers.yaml",))
    entry = as_entry(choose("optimizer", optimizer, optimizers))
    adaptation, lr = choose_method(method, methods, changes)
    model = classifier_without_weights(known_config(backbone), adaptation, n_classes)
    names = {parameter: name for name, parameter in model.named_parameters()}
    rows = []
    for group in entry.build(model, lr * entry.lr_scale).param_groups:
        parameters = group["params"]
        kinds = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", names[parameter]) for parameter in parameters)
        count = sum(parameter.numel() for parameter in parameters)
        settings = [str(group.get(name, "-")) for name in ("alpha", "n_bands", "handler")]
        numbers = f"{len(parameters)}", f"{count:,}", f"{group['lr']:g}", f"{group['weight_decay']:g}"
        rows.append((group.get("name", "all"), *numbers, *settings, ", ".join(kinds)))
    columns = ("group", "tensors", "parameters", "learning rate", "decay", "alpha", "bands", "handler", "which")
    return markdown_table(columns, rows)


def list_backbones() -> str:
    """Lists the backbones that have a short name: their size from their configurations alone, and where they come from.

    Returns
    -------
    str
        Markdown: one row a backbone.

    Example
    -------
    >>> "MIT/ast-finetuned" in list_backbones()
    True
    """
    rows = []
    for name in (*bundled_names(), *HUB_NAMES):
        with torch.device("meta"):
            backbone = random_backbone(known_config(name))
        layers = len(backbone.spec.layers_of(backbone.model))
        millions = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6
        weights = BUNDLED_FOLDER / name / "model.safetensors"
        megabytes = f"{weights.stat().st_size / 1e6:.1f}" if weights.is_file() else "-"
        sizes = str(layers), str(backbone.dim), f"{millions:.2f}", megabytes
        about, where = ABOUT[name], HUB_NAMES.get(name, "bundled")
        rows.append((name, *sizes, backbone.spec.signal, about.licence, where, about.made))
    of_size = "layers", "width", "million parameters", "MB"
    columns = "backbone", *of_size, "signal", "licence", "from", "how it was made"
    return markdown_table(columns, rows)
