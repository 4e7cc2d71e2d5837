"""AdaLoRA: low-rank changes whose ranks are distributed over the layers during training.

Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", 2023, sections 3.1 and 3.2,
https://arxiv.org/abs/2303.10512. The layers and the allocation are peft's; this module passes the run's steps to them
and keeps the state of the allocation in checkpoints.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, cast

import safetensors.torch
import torch
from peft import AdaLoraConfig
from peft.tuners.adalora import AdaLoraModel
from transformers import PreTrainedModel

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import ConfigError
from brainplug.methods.base import MethodState, Recoverable
from brainplug.methods.peft_method import ADAPTER_NAME, PeftMethod


class RankAllocation(MethodState):
    """peft's allocation of ranks, with a state for checkpoints."""

    def __init__(self, tuner: AdaLoraModel):
        self.tuner = tuner

    @property
    def config(self) -> AdaLoraConfig:
        """The settings of this model."""
        return cast(AdaLoraConfig, self.tuner.peft_config[ADAPTER_NAME])

    def after_step(self, step: int, total_steps: int) -> None:
        """Updates the importance of each rank, and sets ranks beyond the budget of this step to zero.

        Raises
        ------
        ConfigError
            The run is too short for the schedule.
        """
        config = self.config
        if config.tinit >= total_steps - config.tfinal:
            raise ConfigError(
                f"AdaLoRA with tinit: {config.tinit} and tfinal: {config.tfinal} was asked for.",
                f"The run has {total_steps} steps; none remains in which the ranks could be distributed.",
                "Write fewer steps for the two, or a higher --number_of_epochs",
            )
        config.total_step = total_steps
        self.tuner.update_and_allocate(step)

    def penalty(self) -> torch.Tensor:
        """Distance of the factors from orthogonal ones; section 3.1, equation 4, but the norm unsquared as in peft."""
        distances = []
        for name, factor in self.tuner.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                products = factor @ factor.t() if "lora_A" in name else factor.t() @ factor  # [rank, rank]
                distances.append(torch.linalg.norm(products - torch.eye(len(products), device=factor.device)))
        return self.config.orth_reg_weight * torch.stack(distances).mean()

    def recoverables(self) -> dict[str, Recoverable]:
        """The allocation itself."""
        return {"rank_allocation": self}

    def save(self, path: str) -> None:
        """Writes the running means of importance and its uncertainty, and which ranks remain."""
        with open(path, "wb") as file:
            file.write(safetensors.torch.save(dict(self._state())))

    def load(self, path: str, end_of_epoch: bool) -> None:
        """Reads what `save` wrote."""
        allocator, pattern = self.tuner.rankallocator, {}
        means = {"importance": allocator.exp_avg_ipt, "uncertainty": allocator.exp_avg_unc}
        for key, tensor in safetensors.torch.load_file(path).items():
            kind, _, name = key.partition("/")
            if kind == "ranks":
                pattern[name] = tensor.tolist()
            else:
                means[kind][name] = tensor.to(self.tuner.get_parameter(f"model.{name}").device)
                allocator.ipt[name] = torch.zeros_like(means[kind][name])  # else peft would start the means anew
        self.config.rank_pattern = pattern or None

    def _state(self) -> Iterator[tuple[str, torch.Tensor]]:
        allocator = self.tuner.rankallocator
        for kind, tensors in (("importance", allocator.exp_avg_ipt), ("uncertainty", allocator.exp_avg_unc)):
            yield from ((f"{kind}/{name}", tensor.contiguous()) for name, tensor in tensors.items())
        for name, ranks in (self.config.rank_pattern or {}).items():
            yield f"ranks/{name}", torch.tensor(ranks)


@dataclass(frozen=True)
class AdaLoRA(PeftMethod):
    """A peft `AdaLoraConfig` that follows the run's steps.

    The run's number of steps replaces ``total_step``; ``tinit`` and ``tfinal`` count optimiser steps.
    """

    depends_on_length: ClassVar[bool] = True

    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> RankAllocation:
        """Adds peft's layers, and returns their allocation."""
        return RankAllocation(cast(AdaLoraModel, self.tune(model, spec)))
