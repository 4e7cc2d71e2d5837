"""Any configuration of the peft library as a method: DoRA, IA3, VeRA, OFT and more.

peft puts its layers into the model; what is trained and saved is decided here, as for every other method.
"""

import copy
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from peft import PeftConfig, PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import UsageError
from brainplug.methods.base import Method

ADAPTER_NAME = "default"  # peft can hold several adapters in one layer; here it holds one
WORDS = ("query", "key", "value", "output", "feed_forward_in", "feed_forward_out", "norms")


@dataclass(frozen=True)
class PeftMethod(Method):
    """Wraps a peft configuration.

    Arguments
    ---------
    config : PeftConfig
        Without ``target_modules`` it adapts the query and value projections. The words query, key, value, output,
        feed_forward_in, feed_forward_out and norms in ``target_modules`` and ``feedforward_modules`` stand for the
        backbone's own names of these modules.

    Example
    -------
    >>> from peft import LoraConfig
    >>> PeftMethod(LoraConfig(r=4)).config.r
    4
    """

    config: PeftConfig

    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Lets peft put its layers in."""
        self.tune(model, spec)

    def tune(self, model: torch.nn.Module, spec: BackboneSpec) -> BaseTuner:
        """Lets peft put its layers where the configuration says.

        Arguments
        ---------
        model : torch.nn.Module
            A frozen transformer, changed in place.
        spec : BackboneSpec
            Where it keeps its parts.

        Returns
        -------
        BaseTuner
            peft's hold on the model.

        Raises
        ------
        UsageError
            The configuration puts nothing into this model.
        """
        config = copy.deepcopy(self.config)
        wanted = getattr(config, "target_modules", None) or ["query", "value"]
        config.target_modules = _own_names(wanted, model, spec)
        if getattr(config, "feedforward_modules", None):
            config.feedforward_modules = _own_names(config.feedforward_modules, model, spec)
        if isinstance(config, PromptLearningConfig):
            raise UsageError(
                f"The configuration {type(config).__name__} was asked for.",
                "It puts no layers into a model (peft runs it around one).",
                "Write the methods prompt_shallow, prompt_deep or prefix, or a peft configuration with target_modules",
            )
        try:
            with warnings.catch_warnings():  # peft does not count layer norms among its layers, and says so for each
                warnings.filterwarnings("ignore", "Unsupported layer type")
                return PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, config, ADAPTER_NAME)
        except ValueError as error:
            raise UsageError(
                f"{type(config).__name__} on {wanted if isinstance(wanted, str) else sorted(wanted)} was asked for.",
                f"peft cannot adapt it: {error}",
                f"Write target_modules: some of {', '.join(WORDS)}, or paths such as {spec.query}",
            ) from error

    def merge(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Lets peft merge its layers, where it can."""
        for name, module in list(model.named_modules()):
            if not isinstance(module, BaseTunerLayer):
                continue
            try:
                module.merge()
            except (AttributeError, NotImplementedError, ValueError) as error:
                raise UsageError(
                    f"Merging {type(self.config).__name__} into the backbone was asked for.",
                    f"peft cannot merge it: {error}",
                    "Keep the adapter file beside the backbone",
                ) from error
            model.set_submodule(name, module.get_base_layer())


def _own_names(wanted: str | Iterable[str], model: torch.nn.Module, spec: BackboneSpec) -> str | list[str]:
    """Replaces the words of `WORDS` by the backbone's paths in every layer; a text is a pattern and stays."""
    if isinstance(wanted, str):
        return wanted
    names = []
    for part in wanted:
        found = getattr(spec, part) if part in WORDS else None
        paths = [found] if isinstance(found, str) else found
        layers = range(len(spec.layers_of(model)))
        names += [part] if paths is None else [f"{spec.layers}.{layer}.{path}" for layer in layers for path in paths]
    return sorted(names)
