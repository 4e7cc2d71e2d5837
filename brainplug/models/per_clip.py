"""Modules whose trained weights differ from clip to clip of a batch, whatever the method that made them."""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.func import functional_call

from brainplug.backbones.spec import TokenMask
from brainplug.models.batched_products import BATCHED, Tensors


@dataclass(eq=False)
class ClipWeights:
    """The trained weights of the current batch, by name.

    They are ``[clips, ...]`` if there are several adapters, and `clips` then lists the clips of each of these; else
    they are ``[...]``.
    """

    tensors: Tensors = field(default_factory=dict)
    clips: list[list[int]] = field(default_factory=list)


class PerClip(torch.nn.Module):
    """Computes what a module computes, for each clip with the weights that are its own.

    The module is mapped over the clips, whatever it does, by `torch.vmap`, which turns a product with one matrix for
    each clip into one batched product. What torch cannot map is computed for one adapter after the other.

    Arguments
    ---------
    module : torch.nn.Module
        Takes and returns tensors whose first axis is the clips, or clips and heads; other arguments are passed on.
    names : dict[str, str]
        Its tensors that are replaced, and the names of these in `weights`.
    weights, token_mask : ClipWeights, TokenMask
        Of the current batch; the mask is what the module's parts read.
    takes_clips : bool
        Whether the module takes weights ``[clips, ...]`` itself.

    Example
    -------
    >>> scales = torch.tensor([[1.0] * 4, [2.0] * 4])  # of two clips
    >>> norm, weights = torch.nn.LayerNorm(4), ClipWeights({"scale": scales}, clips=[[0], [1]])
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
        takes_clips: bool = False,
    ):
        super().__init__()
        self.module, self.names, self.weights = module, names, weights
        self.token_mask, self.takes_clips, self.can_be_mapped = token_mask, takes_clips, True

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Takes and returns the same as the module."""
        tensors = {own: self.weights.tensors[name] for own, name in self.names.items()}
        if not self.weights.clips or self.takes_clips:
            return functional_call(self.module, tensors, inputs, named)
        if type(self.module) in BATCHED:
            batched: torch.Tensor = BATCHED[type(self.module)](self.module, tensors, *inputs, **named)
            return batched
        return self._compute_each(tensors, inputs, named)

    def _compute_each(self, tensors: Tensors, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        mask = self.token_mask.tokens
        results: list[Any] = []

        def compute(tensors: Tensors, values: list[Any]) -> list[torch.Tensor]:
            self.token_mask.tokens, *rest = values
            own_inputs, own_named = rest[: len(inputs)], dict(zip(named, rest[len(inputs) :], strict=True))
            result = functional_call(self.module, tensors, tuple(own_inputs), own_named)
            results[:] = result if isinstance(result, tuple) else [result]
            return [value for value in results if isinstance(value, torch.Tensor)]

        # Each clip becomes a batch of its own: [clips, 1, ...], or [clips, heads, ...].
        clips = sum(map(len, self.weights.clips))
        given = mask, *inputs, *named.values()
        values = [value.unflatten(0, (clips, -1)) if isinstance(value, torch.Tensor) else value for value in given]
        try:
            made = iter(self._map_or_loop(compute, tensors, values))
        finally:
            self.token_mask.tokens = mask
        # Attention returns a tuple, in which the weights may be None.
        outputs = [next(made).flatten(0, 1) if isinstance(value, torch.Tensor) else value for value in results]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _map_or_loop(
        self, compute: Callable[[Tensors, list[Any]], list[torch.Tensor]], tensors: Tensors, values: list[Any]
    ) -> list[torch.Tensor]:
        if self.can_be_mapped:
            axes = [0 if isinstance(value, torch.Tensor) else None for value in values]
            try:
                mapped: list[torch.Tensor] = torch.vmap(compute, in_dims=(0, axes))(tensors, values)
                return mapped
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # what peft's OFT does, for example: to write into a new tensor
                self.can_be_mapped = False
        parts = []
        for rows in self.weights.clips:
            of_adapter = {name: tensor[rows[0]] for name, tensor in tensors.items()}
            own = [value[rows].flatten(0, 1) if isinstance(value, torch.Tensor) else value for value in values]
            parts.append([result.unflatten(0, (len(rows), -1)) for result in compute(of_adapter, own)])
        return [in_order(of_output, self.weights.clips) for of_output in zip(*parts, strict=True)]


def in_order(parts: Sequence[torch.Tensor], rows: Sequence[list[int]]) -> torch.Tensor:
    """Puts parts together, given the numbers of the rows of each."""
    order = torch.tensor([row for own in rows for row in own]).argsort()
    return torch.cat(list(parts))[order.to(parts[0].device)]


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
        takes_clips = all(getattr(owner, "takes_weights_of_clips", False) for owner in owners)
        model.set_submodule(path, PerClip(module, names, weights, token_mask, takes_clips))


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
    """The smallest modules that compute with trained tensors whenever they are called, with their paths.

    A method's module may read the weights of its parts without calling them, unless it says that it calls them.
    """
    children = {name: child for name, child in module.named_children() if _has_trained(child, trained)}
    calls_its_parts = module in pretrained or getattr(module, "calls_its_parts", False)
    cannot_be_called = any(child not in pretrained and _has_no_forward(child) for child in children.values())
    if _owns(module, trained) or cannot_be_called or (children and not calls_its_parts):
        yield path, module
        return
    for name, child in children.items():
        yield from _smallest(child, f"{path}.{name}".lstrip("."), trained, pretrained)


def _has_trained(module: torch.nn.Module, trained: dict[int, str]) -> bool:
    return any(id(tensor) in trained for _, tensor in tensors_of(module))


def _has_no_forward(module: torch.nn.Module) -> bool:
    return type(module).forward is torch.nn.Module.forward
