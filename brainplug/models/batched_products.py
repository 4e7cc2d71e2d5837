"""Frequent modules whose weights differ from clip to clip, as batched products: faster than what `torch.vmap` makes.

Each function takes a module, its tensors ``[clips, ...]`` by name, and tokens ``[clips, tokens, dim]``.
"""

from collections.abc import Callable
from typing import Any

import torch

from brainplug.methods.bottleneck import BottleneckBlock
from brainplug.methods.lora import LoRALinear

Tensors = dict[str, torch.Tensor]


def lora(module: LoRALinear, tensors: Tensors, tokens: torch.Tensor) -> torch.Tensor:
    """The frozen map once for all clips, and each clip's change added in its product."""
    frozen, low_rank = module.linear(tokens), torch.bmm(tokens, tensors["down.weight"].mT)
    return torch.baddbmm(frozen, low_rank, tensors["up.weight"].mT, alpha=module.scaling)


def bottleneck(module: BottleneckBlock, tensors: Tensors, tokens: torch.Tensor) -> torch.Tensor:
    """Down, GELU, up."""
    channels = torch.baddbmm(tensors["down.bias"][:, None], tokens, tensors["down.weight"].mT)
    return torch.baddbmm(tensors["expert_bias"], module.bottleneck(channels), tensors["up.weight"].mT)


# By the exact class, since a subclass may compute something else.
BATCHED: dict[type[torch.nn.Module], Callable[[Any, Tensors, torch.Tensor], torch.Tensor]] = {
    LoRALinear: lora,
    BottleneckBlock: bottleneck,
}
