"""LoRA: a low-rank change of the attention's projections.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.1, https://arxiv.org/abs/2106.09685
"""

from dataclasses import dataclass
from typing import cast

import torch
from peft import LoraConfig
from transformers import PreTrainedConfig, PreTrainedModel

from brainplug.backbones.spec import BackboneSpec, find_module
from brainplug.errors import ConfigError, nearest
from brainplug.methods.adapter import bottleneck_width
from brainplug.methods.base import Method

PROJECTIONS = ("query", "key", "value", "output")
SCALINGS = ("rank", "reduction_rate")


class LoRALinear(torch.nn.Module):
    """``W x + b + scaling * B A x`` with a frozen linear map W, b. B starts with zeros.

    Example
    -------
    >>> linear = torch.nn.Linear(8, 6)
    >>> vectors = torch.randn(2, 5, 8)
    >>> bool((LoRALinear(linear, rank=2, scaling=0.5)(vectors) == linear(vectors)).all())
    True
    """

    def __init__(self, linear: torch.nn.Linear, rank: int, scaling: float):
        super().__init__()
        self.linear, self.scaling = linear, scaling
        self.down = torch.nn.Linear(linear.in_features, rank, bias=False)  # A
        self.up = torch.nn.Linear(rank, linear.out_features, bias=False)  # B
        torch.nn.init.zeros_(self.up.weight)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Maps ``[..., in_features]`` to ``[..., out_features]``."""
        frozen, low_rank = self.linear(vectors), self.down(vectors)
        # addmm adds in one product, without a second tensor of the output's size.
        changed = torch.addmm(frozen.flatten(0, -2), low_rank.flatten(0, -2), self.up.weight.t(), alpha=self.scaling)
        return changed.view_as(frozen)

    def merged(self) -> torch.nn.Linear:
        """The frozen map with the change added to its weight."""
        with torch.no_grad():
            self.linear.weight += self.scaling * self.up.weight @ self.down.weight
        return self.linear


@dataclass(frozen=True)
class LoRA(Method):
    """Settings of LoRA: either the rank or the reduction rate.

    Arguments
    ---------
    rank : int, optional
        Rank of the change.
    reduction_rate : float, optional
        Width of a token over the rank.
    alpha : float
        The change is scaled by ``alpha / rank`` or ``alpha / reduction_rate``.
    scaling : str
        ``rank`` (Hu et al.) or ``reduction_rate`` (the published PETL code).
    targets : tuple[str, ...]
        Any of ``query``, ``key``, ``value``, ``output``.

    Example
    -------
    >>> LoRA(rank=6, alpha=12).scale_and_rank(dim=768)
    (2.0, 6)
    >>> LoRA(reduction_rate=64, alpha=8, scaling="reduction_rate").scale_and_rank(dim=768)
    (0.125, 12)
    """

    rank: int | None = None
    reduction_rate: float | None = None
    alpha: float = 8
    scaling: str = "rank"
    targets: tuple[str, ...] = ("query", "value")

    def __post_init__(self) -> None:
        if (self.rank is None) == (self.reduction_rate is None):
            raise ConfigError(
                f"LoRA with rank: {self.rank} and reduction_rate: {self.reduction_rate} was asked for.",
                "Exactly one of the two sets the rank.",
                "Write rank: 6, for example, and leave reduction_rate out (null)",
            )
        if self.scaling not in SCALINGS:
            raise ConfigError(
                f"The setting scaling: {self.scaling!r} was asked for.",
                "alpha is divided by the rank or by the reduction rate.",
                f"Write one of: {nearest(self.scaling, SCALINGS)}",
            )
        unknown = [target for target in self.targets if target not in PROJECTIONS]
        if unknown or not self.targets:
            raise ConfigError(
                f"LoRA with targets: {list(self.targets)} was asked for.",
                f"No projection is called {unknown[0]!r}." if unknown else "They match nothing.",
                f"Write some of: {', '.join(PROJECTIONS)}",
            )

    def scale_and_rank(self, dim: int) -> tuple[float, int]:
        """The scaling and the rank for tokens of this width; a `ConfigError` if the rank is not from 1 to `dim`."""
        rank = bottleneck_width(dim, self.reduction_rate) if self.reduction_rate is not None else self.rank
        if rank is None or not 1 <= rank <= dim:
            raise ConfigError(
                f"The rank {rank} was asked for.", f"The backbone's tokens are {dim} wide.", f"Write 1 to {dim}"
            )
        if self.scaling == "rank":
            return self.alpha / rank, rank
        return self.alpha / (self.reduction_rate or dim / rank), rank

    def adapt(self, linear: torch.nn.Linear, config: PreTrainedConfig) -> LoRALinear:
        """Adds a low-rank change to one projection, for a backbone with this configuration."""
        scaling, rank = self.scale_and_rank(config.hidden_size)
        return LoRALinear(linear, rank, scaling)

    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> None:
        """Adapts the projections of every layer."""
        for layer in spec.layers_of(model):
            for target in self.targets:
                path = getattr(spec, target)
                linear = cast(torch.nn.Linear, find_module(layer, path))
                layer.set_submodule(path, self.adapt(linear, model.config))

    def as_peft(self, model: PreTrainedModel, spec: BackboneSpec) -> LoraConfig:
        """Peft's LoRA, which scales by ``lora_alpha / r``."""
        scaling, rank = self.scale_and_rank(model.config.hidden_size)
        paths = [getattr(spec, target) for target in self.targets]
        targets = [f"{spec.layers}.{layer}.{path}" for layer in range(len(spec.layers_of(model))) for path in paths]
        return LoraConfig(r=rank, lora_alpha=scaling * rank, target_modules=targets)  # type: ignore[arg-type]

    def peft_name(self, name: str) -> str:
        """A and B."""
        return name.replace(".down.weight", ".lora_A.weight").replace(".up.weight", ".lora_B.weight")

    def own_name(self, peft_name: str) -> str:
        """``down`` and ``up``."""
        return peft_name.replace(".lora_A.weight", ".down.weight").replace(".lora_B.weight", ".up.weight")

    def merge(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Adds each change to the weight of its projection."""
        for layer in spec.layers_of(model):
            for target in self.targets:
                path = getattr(spec, target)
                layer.set_submodule(path, cast(LoRALinear, find_module(layer, path)).merged())
