"""Modules whose trained weights differ from clip to clip of a batch, whatever the method that made them."""

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.func import functional_call

from brainplug.backbones.spec import TokenMask

Tensors = dict[str, torch.Tensor]


@dataclass(eq=False)
class ClipWeights:
    """The trained weights of the current batch by name: ``[clips, ...]`` if each clip has its own, else ``[...]``."""

    tensors: Tensors = field(default_factory=dict)
    differ: bool = False


class PerClip(torch.nn.Module):
    """Computes what a module computes, for each clip with the weights that are its own.

    The module is mapped over the clips, whatever it does, by `torch.vmap`, which turns a product with one matrix for
    each clip into one batched product. A module that inserts tokens is not mapped: it takes ``[clips, ...]`` itself.

    Arguments
    ---------
    module : torch.nn.Module
        Takes and returns tensors whose first axis is the clips, or clips and heads; other arguments are passed on.
    names : dict[str, str]
        Its tensors that are replaced, and the names of these in `weights`.
    weights, token_mask : ClipWeights, TokenMask
        Of the current batch; the mask is what the module's parts read.
    is_mapped : bool
        False for a module that takes weights ``[clips, ...]`` itself.

    Example
    -------
    >>> norm, weights = torch.nn.LayerNorm(4), ClipWeights({"scale": torch.tensor([[1.0] * 4, [2.0] * 4])}, differ=True)
    >>> tokens = torch.randn(1, 3, 4).repeat(2, 1, 1)
    >>> one, twice = PerClip(norm, {"weight": "scale"}, weights, TokenMask())(tokens)
    >>> torch.allclose(2 * one, twice)
    True
    """

    def __init__(
        self,
        module: torch.nn.Module,
        names: dict[str, str],
        weights: ClipWeights,
        token_mask: TokenMask,
        is_mapped: bool = True,
    ):
        super().__init__()
        self.module, self.names, self.weights = module, names, weights
        self.token_mask, self.is_mapped = token_mask, is_mapped

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Takes and returns the same as the module."""
        tensors = {own: self.weights.tensors[name] for own, name in self.names.items()}
        if not (self.weights.differ and self.is_mapped):
            return functional_call(self.module, tensors, inputs, named)
        return self._mapped(tensors, inputs, named)

    def _mapped(self, tensors: Tensors, inputs: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor:
        clips, mask = len(next(iter(tensors.values()))), self.token_mask.tokens

        def of_one_clip(
            tensors: Tensors, mask: torch.Tensor | None, inputs: tuple[Any, ...], named: dict[str, Any]
        ) -> torch.Tensor:
            self.token_mask.tokens = mask
            result: torch.Tensor = functional_call(self.module, tensors, inputs, named)
            return result

        # Each clip becomes a batch of its own: [clips, 1, ...].
        split = [_split(value, clips) for value in (mask, *inputs, *named.values())]
        axes = [0 if isinstance(value, torch.Tensor) else None for value in split]
        count = 1 + len(inputs)
        values = split[0], tuple(split[1:count]), dict(zip(named, split[count:], strict=True))
        in_dims = axes[0], tuple(axes[1:count]), dict(zip(named, axes[count:], strict=True))
        try:
            return torch.vmap(of_one_clip, in_dims=(0, *in_dims))(tensors, *values).flatten(0, 1)
        finally:
            self.token_mask.tokens = mask


def _split(value: Any, clips: int) -> Any:
    return value.unflatten(0, (clips, -1)) if isinstance(value, torch.Tensor) else value


def make_per_clip(
    model: torch.nn.Module,
    trained: dict[int, str],
    pretrained: Set[torch.nn.Module],
    weights: ClipWeights,
    token_mask: TokenMask,
) -> None:
    """Puts `PerClip` around the smallest modules of an adapted model that compute with trained tensors, in place.

    Arguments
    ---------
    model : torch.nn.Module
        A transformer that a method has adapted.
    trained : dict[int, str]
        The `id` of each trained tensor, and its name in `weights`.
    pretrained : Set[torch.nn.Module]
        The modules that the transformer had before.
    weights, token_mask : ClipWeights, TokenMask
        As in `PerClip`.
    """
    for path, module in list(_smallest(model, "", trained, pretrained)):
        names = {name: trained[id(tensor)] for name, tensor in tensors_of(module) if id(tensor) in trained}
        owners = [part for part in module.modules() if _owns(part, trained)]
        is_mapped = not all(getattr(owner, "takes_weights_of_clips", False) for owner in owners)
        model.set_submodule(path, PerClip(module, names, weights, token_mask, is_mapped))


def tensors_of(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All parameters and buffers, with each name of those that have several."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _owns(module: torch.nn.Module, trained: dict[int, str]) -> bool:
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(id(tensor) in trained for tensor in own)


def _smallest(
    module: torch.nn.Module, path: str, trained: dict[int, str], pretrained: Set[torch.nn.Module]
) -> Iterator[tuple[str, torch.nn.Module]]:
    """The smallest modules that can be called by themselves, with their paths.

    The parts of a method's module cannot, since it may read their weights without calling them, but a part of the
    backbone that it only stands beside can.
    """
    children = {name: child for name, child in module.named_children() if _has_trained(child, trained)}
    surrounds = any(part in pretrained and any(part.children()) for part in module.modules())
    cannot_be_called = any(child not in pretrained and _has_no_forward(child) for child in children.values())
    if _owns(module, trained) or cannot_be_called or (children and module not in pretrained and not surrounds):
        yield path, module
        return
    for name, child in children.items():
        yield from _smallest(child, f"{path}.{name}".lstrip("."), trained, pretrained)


def _has_trained(module: torch.nn.Module, trained: dict[int, str]) -> bool:
    return any(id(tensor) in trained for _, tensor in tensors_of(module))


def _has_no_forward(module: torch.nn.Module) -> bool:
    return type(module).forward is torch.nn.Module.forward
