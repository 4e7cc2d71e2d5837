"""AdaLoRA: low-rank changes whose ranks are spread over the layers while they are trained.

Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", 2023, sections 3.1 and 3.2,
https://arxiv.org/abs/2303.10512. The layers and the allocation are peft's; here they are told of the run's steps, and
what the allocation has learned is kept in checkpoints.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import safetensors.torch
import torch
from peft.tuners.adalora import AdaLoraModel
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import UsageError
from brainplug.methods.peft_method import ADAPTER_NAME, PeftMethod


@register_checkpoint_hooks
class RankAllocation:
    """peft's allocation of ranks, with a state that a checkpoint can keep.

    Arguments
    ---------
    tuner : AdaLoraModel
        Holds the allocation and the layers.
    """

    def __init__(self, tuner: AdaLoraModel):
        self.tuner = tuner

    def after_step(self, step: int, total_steps: int) -> None:
        """Measures what each rank is worth, and sets those to zero that the budget of this step does not cover.

        Arguments
        ---------
        step, total_steps : int
            Steps that are done, and those of the whole run.

        Raises
        ------
        UsageError
            The run is too short for the schedule.
        """
        config = self.tuner.peft_config[ADAPTER_NAME]
        if config.tinit >= total_steps - config.tfinal:
            raise UsageError(
                f"AdaLoRA with tinit: {config.tinit} and tfinal: {config.tfinal} was asked for.",
                f"The run has {total_steps} steps; none is left in which the ranks could be spread.",
                "Write fewer steps for the two, or a higher --number_of_epochs",
            )
        config.total_step = total_steps
        self.tuner.update_and_allocate(step)

    def penalty(self) -> torch.Tensor:
        """How far the factors are from orthogonal ones; section 3.1, equation 4, but the norm unsquared as in peft."""
        config, distances = self.tuner.peft_config[ADAPTER_NAME], []
        for name, factor in self.tuner.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                products = factor @ factor.t() if "lora_A" in name else factor.t() @ factor  # [rank, rank]
                distances.append(torch.linalg.norm(products - torch.eye(len(products), device=factor.device)))
        return config.orth_reg_weight * torch.stack(distances).mean()

    @mark_as_saver
    def save(self, path: str) -> None:
        """Writes the running means of importance and its uncertainty, and which ranks are left."""
        with open(path, "wb") as file:
            file.write(safetensors.torch.save(dict(self._state())))

    @mark_as_loader
    def load(self, path: str, end_of_epoch: bool) -> None:
        """Goes on from what was written."""
        allocator, pattern = self.tuner.rankallocator, {}
        means = {"importance": allocator.exp_avg_ipt, "uncertainty": allocator.exp_avg_unc}
        for key, tensor in safetensors.torch.load_file(path).items():
            kind, _, name = key.partition("/")
            if kind == "ranks":
                pattern[name] = tensor.tolist()
            else:
                means[kind][name] = tensor.to(self.tuner.get_parameter(f"model.{name}").device)
                allocator.ipt[name] = torch.zeros_like(means[kind][name])  # marks the name as known
        self.tuner.peft_config[ADAPTER_NAME].rank_pattern = pattern or None

    def _state(self) -> Iterator[tuple[str, torch.Tensor]]:
        allocator = self.tuner.rankallocator
        for kind, tensors in (("importance", allocator.exp_avg_ipt), ("uncertainty", allocator.exp_avg_unc)):
            yield from ((f"{kind}/{name}", tensor.contiguous()) for name, tensor in tensors.items())
        for name, left in (self.tuner.peft_config[ADAPTER_NAME].rank_pattern or {}).items():
            yield f"ranks/{name}", torch.tensor(left)


@dataclass(frozen=True)
class AdaLoRA(PeftMethod):
    """A peft `AdaLoraConfig` that follows the run's steps.

    Its ``total_step`` is the run's own number of steps; ``tinit`` and ``tfinal`` count steps too.

    Example
    -------
    >>> from peft import AdaLoraConfig
    >>> AdaLoRA(AdaLoraConfig(total_step=1, init_r=4)).config.init_r
    4
    """

    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Lets peft put its layers in, and keeps hold of its allocation."""
        model.rank_allocation = RankAllocation(self.tune(model, spec))

    def after_step(self, model: torch.nn.Module, step: int, total_steps: int) -> None:
        """See `RankAllocation.after_step`."""
        model.rank_allocation.after_step(step, total_steps)

    def penalty(self, model: torch.nn.Module) -> torch.Tensor:
        """See `RankAllocation.penalty`."""
        return model.rank_allocation.penalty()

    def recoverables(self, model: torch.nn.Module) -> dict[str, object]:
        """The allocation."""
        return {"rank_allocation": model.rank_allocation}
