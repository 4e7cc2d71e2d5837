"""One frozen backbone for several adapted models: what lies below the first adapted layer is computed once."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch.func import functional_call
from torch.nn.functional import layer_norm

from brainplug.backbones import Backbone
from brainplug.backbones.spec import find_module
from brainplug.methods.base import Method
from brainplug.models.batched_products import Tensors
from brainplug.models.classifier import AudioClassifier
from brainplug.models.per_clip import ClipWeights, in_order, make_per_clip, tensors_of

HEAD = "head."  # at the beginning of a tensor's name


@dataclass(frozen=True)
class Activations:
    """What a layer is called with, and the masks that a backbone made.

    Arguments
    ---------
    clips : list[int]
        The number of the clip that each row is of.
    tokens : torch.Tensor
        ``[rows, tokens, dim]``.
    inputs, named : tuple, dict
        The other arguments of a layer; in tensors the first axis is the rows, or rows and heads.
    mask, token_mask : torch.Tensor, optional
        What `Backbone.forward` returns beside the tokens, and the mask in its `BackboneSpec`.
    """

    clips: list[int]
    tokens: torch.Tensor
    inputs: tuple[Any, ...] = ()
    named: dict[str, Any] | None = None
    mask: torch.Tensor | None = None
    token_mask: torch.Tensor | None = None

    def of(self, clips: list[int]) -> Self:
        """The rows of these clips, one for each."""
        if clips == self.clips:
            return self
        index = torch.tensor([self.clips.index(clip) for clip in clips], device=self.tokens.device)

        def rows(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return value.unflatten(0, (len(self.clips), -1)).index_select(0, index).flatten(0, 1)

        named = {name: rows(value) for name, value in (self.named or {}).items()}
        values = rows(self.tokens), tuple(map(rows, self.inputs)), named, rows(self.mask), rows(self.token_mask)
        return type(self)(clips, *values)

    def after(self, layers: Iterable[torch.nn.Module]) -> Self:
        """What the layer behind these ones is called with."""
        tokens, named = self.tokens, self.named or {}
        for layer in layers:
            outputs = layer(tokens, *self.inputs, **named)
            tokens = outputs[0] if isinstance(outputs, tuple) else outputs
            if "position_bias" in named:  # each layer of WavLM hands it to the next
                named = {**named, "position_bias": outputs[1]}
        return replace(self, tokens=tokens, named=named)


class Recorder(torch.nn.Module):
    """Stands for all layers of a transformer, and keeps what the first one is called with."""

    inputs: tuple[Any, ...]
    named: dict[str, Any]

    def forward(self, hidden_states: torch.Tensor, *inputs: Any, **named: Any) -> Any:
        """Returns the tokens as they are."""
        self.inputs, self.named = inputs, named
        return (hidden_states, None) if "position_bias" in named else hidden_states


def share(backbone: Backbone) -> Backbone:
    """A copy of a backbone's modules, with the same tensors."""
    tensors = [*backbone.parameters(), *backbone.buffers()]
    return copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})


class LowerPart(torch.nn.Module):
    """A frozen backbone up to one of its layers, with the hash of its weights."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone, self.stem, self.recorder = backbone, share(backbone), Recorder()
        self.fingerprint = backbone.fingerprint()
        spec, model = self.stem.spec, self.stem.model
        model.set_submodule(spec.layers, torch.nn.ModuleList([self.recorder]))
        if spec.final_norm:
            model.set_submodule(spec.final_norm, torch.nn.Identity())

    def before_layers(self, signals: Activations) -> Activations:
        """What the first layer is called with, from what `Backbone.forward` is called with."""
        tokens, mask = self.stem(signals.tokens, *signals.inputs)
        recorded, token_mask = self.recorder, self.stem.spec.token_mask.tokens
        return Activations(signals.clips, tokens, recorded.inputs, recorded.named, mask, token_mask)

    def between(self, activations: Activations, start: int, stop: int) -> Activations:
        """What the layer `stop` is called with, from what `start` is called with."""
        return activations.after(list(self.backbone.spec.layers_of(self.backbone.model))[start:stop])


class UpperPart(torch.nn.Module):
    """A model from its first adapted layer on, for all adapters of the same method.

    Its frozen tensors are the backbone's own; the trained ones are given for each batch.

    Arguments
    ---------
    backbone : Backbone
        Stays as it is.
    method, pooling, head_norm : Method, str, float
        As in `AudioClassifier`.
    """

    def __init__(self, backbone: Backbone, method: Method, pooling: str = "ALL", head_norm: float | None = None):
        super().__init__()
        self.backbone = copied = share(backbone)
        pretrained = set(copied.modules())
        matrices = {id(tensor) for tensor in copied.parameters() if tensor.dim() > 1}
        with torch.random.fork_rng(devices=[]):
            model = AudioClassifier(copied, method, 1, pooling).eval().requires_grad_(False)
        model.to(next(backbone.parameters()).device)
        self.pool, self.head_norm = model.pool, head_norm
        tensors = dict(tensors_of(model))
        delta = {name: tensors[name] for name in model.delta() if not name.startswith(HEAD)}
        self.expected = {name: torch.empty_like(tensor, device="meta") for name, tensor in delta.items()}
        # Only training reads the number of batches that a batch norm has seen, and the embedding of masked frames.
        unused = f"backbone.model.{copied.spec.mask_embedding}"
        self.names = [name for name, tensor in delta.items() if tensor.is_floating_point() and name != unused]
        trained = {id(tensors[name]): name for name in self.names}
        self.start = _first_adapted(copied, trained)
        self.weights = ClipWeights()
        # No clip has a copy of the backbone's own matrices: where they are trained, each adapter computes by itself.
        self.is_stacked = not matrices & trained.keys()
        if self.is_stacked:
            make_per_clip(copied.model, trained, pretrained, self.weights, copied.spec.token_mask)

    def flatten(self, weights: Tensors) -> torch.Tensor:
        """The trained weights of an adapter one behind the other, ``[numbers]``."""
        flat = [weights[name].float().flatten() for name in self.names]
        return torch.cat(flat) if flat else torch.zeros(0)

    def _unflatten(self, flat: torch.Tensor) -> Tensors:
        """Undoes `flatten` for ``[numbers]`` or ``[rows, numbers]``, without a copy."""
        shapes = [self.expected[name].shape for name in self.names]
        parts = flat.split([shape.numel() for shape in shapes], dim=-1)
        rows = flat.shape[:-1]
        return {name: part.view(*rows, *shape) for name, part, shape in zip(self.names, parts, shapes, strict=True)}

    def vectors(self, activations: Activations, adapters: Sequence[torch.Tensor]) -> torch.Tensor:
        """What a head's linear map takes, ``[rows, dim]``.

        `activations` are those with which the layer `start` is called; `adapters` has the weights of each row, flat.
        """
        distinct = list({id(adapter): adapter for adapter in adapters}.values())
        rows = [[row for row, adapter in enumerate(adapters) if adapter is one] for one in distinct]
        if len(distinct) == 1:
            return self._with_weights(activations, distinct[0], [])
        if self.is_stacked:
            return self._with_weights(activations, torch.stack(list(adapters)), rows)
        parts = [activations.of([activations.clips[row] for row in own]) for own in rows]
        return in_order([self._with_weights(part, one, []) for part, one in zip(parts, distinct, strict=True)], rows)

    def _with_weights(self, activations: Activations, flat: torch.Tensor, rows: list[list[int]]) -> torch.Tensor:
        tensors = self._unflatten(flat)
        if not self.is_stacked:
            return functional_call(self, tensors, activations)
        self.weights.tensors, self.weights.clips = tensors, rows
        try:
            return self(activations)
        finally:
            self.weights.tensors = {}

    def forward(self, activations: Activations) -> torch.Tensor:
        """As `vectors`, with the weights that were given; the scale and shift of the head's norm are left out."""
        vectors = self.pool(*self._tokens(activations))
        return vectors if self.head_norm is None else layer_norm(vectors, vectors.shape[-1:], eps=self.head_norm)

    def _tokens(self, activations: Activations) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.start is None:
            tokens, mask = self.backbone(activations.tokens, *activations.inputs)
            return tokens, mask
        spec = self.backbone.spec
        spec.token_mask.tokens = activations.token_mask
        layers = list(spec.layers_of(self.backbone.model))[self.start :]
        return self.backbone.after_layers(activations.after(layers).tokens), activations.mask


def _first_adapted(backbone: Backbone, trained: dict[int, str]) -> int | None:
    """The first layer with a trained tensor; their number if there is none, and None if one lies before the layers."""
    spec, model = backbone.spec, backbone.model
    layers = spec.layers_of(model)
    norm = find_module(model, spec.final_norm) if spec.final_norm else torch.nn.Identity()
    in_layers = [{id(tensor) for _, tensor in tensors_of(layer)} & trained.keys() for layer in layers]
    of_norm = {id(tensor) for _, tensor in tensors_of(norm)}
    if trained.keys() - of_norm - set().union(*in_layers):
        return None
    return next((index for index, own in enumerate(in_layers) if own), len(layers))


@dataclass(frozen=True)
class Row:
    """One clip of a batch with one adapter: the clip's number, the part that is adapted, its weights ``[numbers]``."""

    clip: int
    upper: UpperPart
    adapter: torch.Tensor


def pooled_vectors(lower: LowerPart, signal: torch.Tensor, lengths: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """What the heads' linear maps take, ``[rows, dim]``; `signal` and `lengths` are those of `Backbone.forward`.

    What lies below a clip's first adapted layer is computed once, however many adapters the clip has.
    """
    signals = Activations(list(range(len(signal))), signal, (lengths,))
    uppers = sorted({row.upper for row in rows}, key=lambda upper: -1 if upper.start is None else upper.start)
    numbers = [[number for number, row in enumerate(rows) if row.upper is upper] for upper in uppers]
    parts, below, reached = [], None, 0
    for position, (upper, own) in enumerate(zip(uppers, numbers, strict=True)):
        given = signals
        if upper.start is not None:
            remaining = sorted({rows[number].clip for others in numbers[position:] for number in others})
            below = lower.before_layers(signals.of(remaining)) if below is None else below.of(remaining)
            given = below = lower.between(below, reached, upper.start)
            reached = upper.start
        clips, adapters = [rows[number].clip for number in own], [rows[number].adapter for number in own]
        parts.append(upper.vectors(given.of(clips), adapters))
    return in_order(parts, numbers)
