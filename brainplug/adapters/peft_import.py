"""Adapters that peft wrote, as classifiers of ours: peft's names, transformers' heads, and names of older versions."""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from pydantic import JsonValue, ValidationError
from transformers import AutoModelForAudioClassification

from brainplug.adapters.description import PACKAGES, ClassifierDescription
from brainplug.adapters.file import read_peft
from brainplug.adapters.layout import HEADER_KEY
from brainplug.adapters.peft_format import OWN, PEFT
from brainplug.adapters.probe import Tensors
from brainplug.backbones import Backbone, load_backbone
from brainplug.backbones.hub import load_tensors
from brainplug.backbones.loading import find_source
from brainplug.config.versions import package_versions
from brainplug.errors import CheckpointError
from brainplug.methods import restore_method
from brainplug.models.classifier import AudioClassifier

HEADS = ("classifier", "projector", "score")  # modules of transformers' classifiers that are not the backbone's
CHANGE_THE_BACKBONE = ("pissa", "olora", "corda", "loftq")  # ways to begin with other weights of the backbone
# Settings that choose modules, which are named one by one here, and what other programs do with them.
NOT_NEEDED = {"exclude_modules", "layers_to_transform", "layers_pattern", "auto_mapping", "base_model_name_or_path"}


def import_peft(folder: str | Path, backbone: str | None = None) -> tuple[AudioClassifier, ClassifierDescription]:
    """Builds the classifier that peft's adapter makes of a model such as ``ASTForAudioClassification``.

    Arguments
    ---------
    folder : str | Path
        With ``adapter_config.json`` and ``adapter_model.safetensors``.
    backbone : str, optional
        Where the model is now that the adapter was trained on; its head is taken too where the adapter has none.

    Returns
    -------
    The classifier, and its description, whose labels are those of the model's configuration, or ``LABEL_0``.
    """
    asked = f"The import of peft's adapter {folder} was asked for."
    values, weights = read_peft(folder)
    if HEADER_KEY in values or "peft_type" not in values:
        problem = "It was written by brainplug." if HEADER_KEY in values else "Its description has no peft_type."
        raise CheckpointError(asked, problem, "Use it as it is: brainplug predict FOLDER, or name an adapter of peft")
    _check_settings(asked, values)
    name = backbone or str(values.get("base_model_name_or_path"))
    revision = None if values.get("revision") is None else str(values["revision"])
    loaded = load_backbone(name, revision)
    word = _first_word(asked, values)
    tensors = {tensor.removeprefix(PEFT).replace(".modules_to_save", ""): weights[tensor] for tensor in weights}
    of_head = {tensor: tensors[tensor] for tensor in tensors if tensor.split(".")[0] in HEADS}
    modules = {path for path, _ in loaded.model.named_modules()}
    names = {tensor: _own_name(asked, tensor, loaded, modules, word) for tensor in tensors.keys() - of_head.keys()}
    head = _read_head(asked, of_head, name, revision, loaded)
    known = list((loaded.model.config.id2label or {}).values())
    numbered = [f"LABEL_{number}" for number in range(len(head.bias))]
    classes = known if len(known) == len(head.bias) else numbered
    settings = _settings(values, names, {tensor: tensors[tensor] for tensor in names}, word)
    try:
        description = ClassifierDescription(
            backbone=loaded.name,
            backbone_revision=loaded.revision,
            backbone_sha256=loaded.fingerprint(),
            signal=loaded.signal_settings,
            method=str(values["peft_type"]).lower(),
            method_settings=settings,
            paper_code=False,
            versions=package_versions(PACKAGES),
            pooling=head.pooling,
            head_norm=head.norm_epsilon,
            labels=classes,
        )
    except ValidationError as error:
        reason = "; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
        raise CheckpointError(asked, f"Its settings are refused: {reason}.", "Name another adapter") from error
    method = restore_method(settings)
    model = AudioClassifier(loaded, method, len(classes), head.pooling, head_norm=head.norm_epsilon)
    trained = {OWN + method.own_name(names[tensor]): tensors[tensor].float() for tensor in names}
    untouched = {tensor: value for tensor, value in model.delta().items() if tensor.startswith(_final_norm(loaded))}
    model.load_delta({**untouched, **trained, **head.tensors()})
    return model.eval(), description


@dataclass(frozen=True)
class Head:
    """A head of transformers: how it pools, and its weights after a norm, where it has one."""

    pooling: str
    weight: torch.Tensor  # [classes, dim]
    bias: torch.Tensor  # [classes]
    norm: tuple[torch.Tensor, torch.Tensor] | None = None  # weight and bias, [dim]
    norm_epsilon: float | None = None

    def tensors(self) -> Tensors:
        """As an `AudioClassifier` names them."""
        if self.norm is None:
            return {"head.weight": self.weight, "head.bias": self.bias}
        names = ("head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias")
        return dict(zip(names, (*self.norm, self.weight, self.bias), strict=True))


def _check_settings(asked: str, values: Mapping[str, JsonValue]) -> None:
    reason = None
    if values.get("bias", "none") != "none":
        reason = f"It trains biases of the backbone (bias: {values['bias']!r})."
    if str(values.get("init_lora_weights")).startswith(CHANGE_THE_BACKBONE):
        reason = f"It began with other weights of the backbone (init_lora_weights: {values['init_lora_weights']!r})."
    if reason:
        raise CheckpointError(asked, reason, "Merge it with peft, and name the merged model as the backbone")


def _first_word(asked: str, values: Mapping[str, JsonValue]) -> str:
    """With what the names of the tensors of peft's method begin, such as ``lora``."""
    prefixes = PEFT_TYPE_TO_PREFIX_MAPPING
    kinds = {kind.value: prefixes[kind] for kind in PEFT_TYPE_TO_TUNER_MAPPING if kind in prefixes}
    kind = str(values["peft_type"])
    if kind not in kinds:
        raise CheckpointError(asked, f"Its method {kind} adds no layers.", f"Name one of {', '.join(sorted(kinds))}")
    return kinds[kind].split("_")[0] + "_"


def _own_name(asked: str, tensor: str, backbone: Backbone, modules: Set[str], word: str) -> str:
    """The name in the backbone's own model of a tensor of peft's, which may be below a model with a head.

    `modules` are the paths of the backbone's modules.
    """
    parts = tensor.split(".")
    end = next((number for number, part in enumerate(parts) if part.startswith(word)), len(parts) - 1)
    path = ".".join(parts[:end])
    for pattern, new in backbone.old_names:
        path = re.sub(pattern, new, path)
    words = path.split(".")
    for start in range(len(words)):
        if (candidate := ".".join(words[start:])) in modules:
            rest = ["lora_magnitude_vector", "weight"] if parts[-1] == "lora_magnitude_vector" else parts[end:]
            return ".".join([candidate, *rest])
    write = "Name the model that it was trained on: --backbone=FOLDER, or a hub id"
    raise CheckpointError(asked, f"{backbone.name} has no module {path}.", write)


def _settings(
    values: Mapping[str, JsonValue], names: Mapping[str, str], tensors: Tensors, word: str
) -> dict[str, JsonValue]:
    """Peft's settings, with each adapted module by its path in place of patterns of names."""
    paths = {tensor: own.partition(f".{word}")[0] for tensor, own in names.items() if f".{word}" in own}
    targets = sorted(set(paths.values()))
    changed: dict[str, JsonValue] = {"target_modules": [*targets], "modules_to_save": None, "inference_mode": False}
    changed |= dict.fromkeys(values.keys() & NOT_NEEDED)
    if values.get("rank_pattern"):
        changed["rank_pattern"] = {
            path: len(tensors[tensor]) for tensor, path in paths.items() if names[tensor].endswith("lora_A.weight")
        }
    if values.get("feedforward_modules"):  # IA3 scales their input, [1, dim], and the output of the others, [dim, 1]
        changed["feedforward_modules"] = [path for tensor, path in paths.items() if len(tensors[tensor]) == 1]
    return {**values, **changed}


def _final_norm(backbone: Backbone) -> str:
    return f"{OWN}{backbone.spec.final_norm}."


def _read_head(asked: str, of_adapter: Tensors, name: str, revision: str | None, backbone: Backbone) -> Head:
    """The head of the adapter, completed by that of the model that it was trained on."""
    config: Any = backbone.model.config
    if getattr(config, "use_weighted_layer_sum", False):
        raise CheckpointError(
            asked, "Its head reads all layers (use_weighted_layer_sum).", "Train a head on the last one"
        )
    is_ast = backbone.spec.special_tokens > 0
    wanted = ("classifier.layernorm", "classifier.dense") if is_ast else ("projector", "classifier")
    tensors = [f"{module}.{kind}" for module in wanted for kind in ("weight", "bias")]
    head = dict(of_adapter)
    if missing := [tensor for tensor in tensors if tensor not in head]:
        head |= load_tensors(AutoModelForAudioClassification, find_source(name), revision, missing)
    if absent := [tensor for tensor in tensors if tensor not in head]:
        raise CheckpointError(
            asked,
            f"Neither it nor {name} has {', '.join(absent)}: they were drawn at random, and are in no file.",
            f"Train it again with modules_to_save={list(dict.fromkeys(part.split('.')[0] for part in absent))}",
        )
    first, first_bias, weight, bias = (head[tensor].float() for tensor in tensors)
    if is_ast:
        return Head("SPECIAL", weight, bias, (first, first_bias), float(config.layer_norm_eps))
    return Head("ALL", weight @ first, weight @ first_bias + bias)  # the mean commutes with the projector
