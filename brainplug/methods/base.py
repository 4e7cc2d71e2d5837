"""The contract of every method: settings that attach themselves to a backbone."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import torch
from peft import PeftConfig
from transformers import PreTrainedModel

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import ConfigError


class Recoverable(Protocol):
    """A part of a checkpoint, which reads and writes its own file."""

    def save(self, path: str) -> None:
        """Writes the file."""

    def load(self, path: str, end_of_epoch: bool) -> None:
        """Reads the file."""


class MethodState:
    """What a method computes and keeps during training beside its modules; here nothing."""

    def penalty(self) -> torch.Tensor | float:
        """The term that the method adds to the loss of a training step."""
        return 0.0

    def after_step(self, step: int, total_steps: int) -> None:
        """Acts after the optimiser's step number `step`, while the gradients are still there."""

    def recoverables(self) -> dict[str, Recoverable]:
        """What a checkpoint keeps beside the weights, by name."""
        return {}


@dataclass(frozen=True)
class Method(ABC):
    """A way to adapt a frozen transformer: a dataclass of settings.

    `attach` adds the method's modules to the model and marks what it trains; everything else stays frozen. The head,
    and the final layer norm where the backbone has one, belong to `AdaptedModel`.
    """

    depends_on_length: ClassVar[bool] = False  # True: it plans over all steps of a run, which cannot become more then
    trains_final_norm: ClassVar[bool] = True  # False: the method decides what of the final layer norm is trained

    @property
    def prompts(self) -> int:
        """Number of tokens that the method inserts between the special tokens and those of the clip."""
        return 0

    @abstractmethod
    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> MethodState | None:
        """Adapts a frozen transformer in place; returns what the training loop calls, or None without calls.

        Settings that do not fit the model raise a `ConfigError`.
        """

    def training_modules(self, model: torch.nn.Module, spec: BackboneSpec) -> Iterable[torch.nn.Module]:
        """The backbone's modules that switch to training mode (dropout, layer drop); called before `attach`."""
        return []

    def special_tokens(self, spec: BackboneSpec) -> int:
        """How many of the backbone's special tokens remain."""
        return spec.special_tokens

    def may_leave_unused(self, model: torch.nn.Module) -> bool:
        """Whether a step may leave trainable weights without a gradient; distributed training has to know."""
        return False

    def with_targets_of(self, model: torch.nn.Module) -> Self:
        """The same method, naming each module of `model` that it has adapted instead of patterns of names."""
        return self

    def as_peft(self, model: PreTrainedModel, spec: BackboneSpec) -> PeftConfig | None:
        """The configuration with which peft makes the same modules as this method did in `model`; None if peft cannot.

        The modules have their own paths there, and their tensors the names that `peft_name` gives them.
        """
        return None

    def peft_name(self, name: str) -> str:
        """Peft's name, in a file, of a tensor that this method calls `name` in the backbone's model."""
        return name

    def own_name(self, peft_name: str) -> str:
        """The inverse of `peft_name`."""
        return peft_name

    def merge(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Adds the trained changes to the backbone's own weights and removes the method's modules, in place.

        Raises
        ------
        ConfigError
            The method is not a linear change of the backbone's weights.
        """
        raise ConfigError(
            f"Merging {type(self).__name__} into the backbone was asked for.",
            "Its modules are not a linear change of the backbone's weights.",
            "Keep the adapter file beside the backbone; LoRA, BitFit and fine-tuned weights can be merged",
        )
