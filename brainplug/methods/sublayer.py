"""The one wrapper that places an adapter around a sub-layer of a transformer."""

import torch

from brainplug.backbones.spec import BackboneSpec, find_module
from brainplug.errors import UsageError

PLACEMENTS = ("parallel", "sequential")


class AdaptedSublayer(torch.nn.Module):
    """A sub-layer s with an adapter A; the layer's own skip connection stays as it is.

    With z the sub-layer's input, the output is ``s(z) + A(z)`` (parallel) or ``A(s(z))`` (sequential). The residual
    adds the adapter's input once more: ``s(z) + A(z) + z`` or ``A(s(z)) + s(z)``.

    Arguments
    ---------
    sublayer : torch.nn.Module
        Attention (which returns a tuple, tokens first) or feed-forward.
    adapter : torch.nn.Module
        Maps tokens ``[batch, tokens, dim]`` to the same shape.
    placement : str
        ``parallel`` or ``sequential``.
    residual : bool
        Adds the adapter's input to its output.

    Example
    -------
    >>> linear = torch.nn.Linear(3, 3)
    >>> tokens = torch.randn(2, 5, 3)
    >>> adapted = AdaptedSublayer(linear, torch.nn.Identity(), "parallel", residual=False)
    >>> bool((adapted(tokens) == linear(tokens) + tokens).all())
    True
    """

    def __init__(self, sublayer: torch.nn.Module, adapter: torch.nn.Module, placement: str, residual: bool):
        super().__init__()
        self.sublayer, self.adapter = sublayer, adapter
        self.placement, self.residual = placement, residual

    def forward(self, tokens: torch.Tensor, *inputs: object, **named: object) -> torch.Tensor | tuple:
        """Takes and returns what the sub-layer does."""
        outputs = self.sublayer(tokens, *inputs, **named)
        result = outputs[0] if isinstance(outputs, tuple) else outputs
        if self.placement == "parallel":
            result = result + self._adapt(tokens)
        else:
            result = self._adapt(result)
        return (result, *outputs[1:]) if isinstance(outputs, tuple) else result

    def _adapt(self, tokens: torch.Tensor) -> torch.Tensor:
        adapted = self.adapter(tokens)
        return adapted + tokens if self.residual else adapted


def check_placement(placement: str, residual: bool) -> None:
    """Makes sure that a placement exists and lets the adapted model start as the backbone.

    Arguments
    ---------
    placement : str
        Name of a placement.
    residual : bool
        Whether the adapter's input is added.

    Raises
    ------
    UsageError
        It does not.

    Example
    -------
    >>> check_placement("parallel", residual=False)
    """
    if placement not in PLACEMENTS:
        raise UsageError(
            f"The placement {placement!r} was asked for.",
            "It does not exist.",
            f"Write one of: {', '.join(PLACEMENTS)}",
        )
    if residual != (placement == "sequential"):
        raise UsageError(
            f"A {placement} adapter {'with' if residual else 'without'} residual was asked for.",
            "The adapted model would not start as the backbone.",
            "Write residual: False beside placement: parallel, or residual: True beside placement: sequential",
        )


def adapt_feed_forward(
    model: torch.nn.Module, spec: BackboneSpec, adapters: list[torch.nn.Module], placement: str, residual: bool
) -> None:
    """Places one adapter at the feed-forward of each layer, and trains the layer norm that stands before it.

    Arguments
    ---------
    model : torch.nn.Module
        Changed in place.
    spec : BackboneSpec
        Where it keeps its parts.
    adapters : list[torch.nn.Module]
        One a layer.
    placement, residual : str, bool
        As in `AdaptedSublayer`.
    """
    for layer, adapter in zip(spec.layers_of(model), adapters, strict=True):
        sublayer = find_module(layer, spec.feed_forward)
        layer.set_submodule(spec.feed_forward, AdaptedSublayer(sublayer, adapter, placement, residual))
        if spec.norm_before_feed_forward:
            find_module(layer, spec.norm_before_feed_forward).requires_grad_(True)
