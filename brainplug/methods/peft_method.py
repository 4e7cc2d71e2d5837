"""Any configuration of the peft library as a method: DoRA, IA3, VeRA, OFT and more.

peft adds its layers to the model; what is trained and saved is decided here, as for every other method.
"""

import copy
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from peft import PeftConfig, PeftType, PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from transformers import PreTrainedModel

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import ConfigError
from brainplug.methods.base import Method, MethodState

ADAPTER_NAME = "default"  # peft can hold several adapters in one layer; here it holds one
WORDS = ("query", "key", "value", "output", "feed_forward_in", "feed_forward_out", "norms")


@dataclass(frozen=True)
class PeftMethod(Method):
    """Wraps a peft configuration.

    Arguments
    ---------
    config : PeftConfig
        Without ``target_modules`` it adapts the query and value projections. In ``target_modules`` and
        ``feedforward_modules``, the words query, key, value, output, feed_forward_in, feed_forward_out and norms mean
        the backbone's own names of these modules.
    """

    config: PeftConfig

    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> MethodState | None:
        """Adds peft's layers."""
        self.tune(model, spec)
        return None

    def tune(self, model: PreTrainedModel, spec: BackboneSpec) -> BaseTuner:
        """Adds peft's layers where the configuration says, in place; returns peft's handle of the model."""
        config: Any = copy.deepcopy(self.config)  # each class has fields of its own
        if isinstance(config, PromptLearningConfig):
            raise ConfigError(
                f"The configuration {type(config).__name__} was asked for.",
                "It adds no layers to a model (peft runs it around one).",
                "Write the methods prompt_shallow, prompt_deep or prefix, or a peft configuration with target_modules",
            )
        targets = getattr(config, "target_modules", None) or ["query", "value"]
        config.target_modules = _own_names(targets, model, spec)
        if getattr(config, "feedforward_modules", None):
            config.feedforward_modules = _own_names(config.feedforward_modules, model, spec)
        try:
            with warnings.catch_warnings():  # peft warns for each layer norm that it is not among its layer types
                warnings.filterwarnings("ignore", "Unsupported layer type")
                tuner: type[BaseTuner] = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
                return tuner(model, config, ADAPTER_NAME)
        except ValueError as error:
            raise ConfigError(
                f"{type(config).__name__} on {targets if isinstance(targets, str) else sorted(targets)} was asked for.",
                f"peft cannot adapt it: {error}",
                f"Write target_modules: some of {', '.join(WORDS)}, or paths such as {spec.query}",
            ) from error

    def with_targets_of(self, model: torch.nn.Module) -> Self:
        """The same configuration with the path of each module that peft has adapted."""
        config: Any = copy.deepcopy(self.config)
        layers: dict[str, Any] = {
            name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
        }
        config.target_modules = sorted(layers)
        for choice in ("exclude_modules", "layers_to_transform", "layers_pattern"):
            if hasattr(config, choice):
                setattr(config, choice, None)
        if getattr(config, "feedforward_modules", None):
            config.feedforward_modules = sorted(name for name in layers if layers[name].is_feedforward)
        for pattern, setting in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
            if getattr(config, pattern, None):
                setattr(
                    config, pattern, {name: getattr(layers[name], setting)[ADAPTER_NAME] for name in sorted(layers)}
                )
        return replace(self, config=config)

    def as_peft(self, model: PreTrainedModel, spec: BackboneSpec) -> PeftConfig:
        """The configuration itself; VeRA's random projections are drawn again from its key."""
        config: Any = self.with_targets_of(model).config
        if hasattr(config, "save_projection"):
            config.save_projection = False
        return config

    def peft_name(self, name: str) -> str:
        """Without the adapter's name."""
        return name.replace(f".{ADAPTER_NAME}.", ".").removesuffix(f".{ADAPTER_NAME}")

    def own_name(self, peft_name: str) -> str:
        """With the adapter's name behind that of the tensor."""
        word, *_ = PEFT_TYPE_TO_PREFIX_MAPPING[PeftType(self.config.peft_type)].split("_")
        return re.sub(rf"(\.(?:{word}_\w+|ranknum))(?=\.|$)", rf"\1.{ADAPTER_NAME}", peft_name)

    def merge(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Merges peft's layers where peft can, and removes them."""
        for name, module in list(model.named_modules()):
            if not isinstance(module, BaseTunerLayer):
                continue
            try:
                module.merge()
            except (AttributeError, NotImplementedError, ValueError) as error:
                raise ConfigError(
                    f"Merging {type(self.config).__name__} into the backbone was asked for.",
                    f"peft cannot merge it: {error}",
                    "Keep the adapter file beside the backbone",
                ) from error
            model.set_submodule(name, module.get_base_layer())
        del model.peft_config  # peft's own mark of an adapted model


def _own_names(names: str | Iterable[str], model: torch.nn.Module, spec: BackboneSpec) -> str | list[str]:
    """Replaces `WORDS` by the backbone's paths in every layer; a string is a regular expression and stays."""
    if isinstance(names, str):
        return names
    own_names = []
    for name in names:
        paths = getattr(spec, name) if name in WORDS else None
        if paths is None:
            own_names.append(name)
            continue
        for layer in range(len(spec.layers_of(model))):
            own_names += [f"{spec.layers}.{layer}.{path}" for path in ([paths] if isinstance(paths, str) else paths)]
    return sorted(own_names)
