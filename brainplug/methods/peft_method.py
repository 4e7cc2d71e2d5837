"""Any configuration of the peft library as a method: LoRA (Hu et al., 2021, https://arxiv.org/abs/2106.09685) and more.

peft puts its layers into the model; what is trained and saved is decided here, as for every other method.
"""

import copy
from dataclasses import dataclass

import torch
from peft import PeftConfig, inject_adapter_in_model

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import UsageError
from brainplug.methods.base import Method


@dataclass(frozen=True)
class PeftMethod(Method):
    """Wraps a peft configuration.

    Arguments
    ---------
    config : PeftConfig
        Without ``target_modules`` it adapts the query and value projections. The words query, key, value and output
        in ``target_modules`` stand for the backbone's own names of these projections.

    Example
    -------
    >>> from peft import LoraConfig
    >>> PeftMethod(LoraConfig(r=4)).config.r
    4
    """

    config: PeftConfig

    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Lets peft put its layers into the projections of the attention."""
        config = copy.deepcopy(self.config)
        wanted = config.target_modules or ("query", "value")
        if not isinstance(wanted, str):
            config.target_modules = {
                getattr(spec, part) if part in ("query", "key", "value", "output") else part for part in wanted
            }
        try:
            inject_adapter_in_model(config, model)
        except ValueError as error:
            raise UsageError(
                f"{type(config).__name__} on {sorted(wanted)} was asked for.",
                f"peft found nothing to adapt: {error}",
                f"Write target_modules: [query, value], or paths such as {spec.query}",
            ) from error
