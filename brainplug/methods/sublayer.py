"""The one wrapper that places an adapter around a sub-layer of a transformer."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from brainplug.backbones.spec import BackboneSpec, find_module
from brainplug.errors import ConfigError, nearest

LOCATIONS = {"ffn": ("feed_forward",), "mhsa": ("attention",), "houlsby": ("attention", "feed_forward")}
DEFAULT_READS = {"parallel": "before", "sequential": "after"}  # by placement


class AdaptedSublayer(torch.nn.Module):
    """A sub-layer s with an adapter A; the layer's own skip connection does not change.

    With z the input of the sub-layer, and B(z) = A(z), or A(z) + z with residual, the output is

    - ``s(z) + B(z)``: parallel, reads before
    - ``s(z) + B(s(z))``: parallel, reads after
    - ``B(s(z))``: sequential, reads after
    - ``s(B(z))``: sequential, reads before

    Arguments
    ---------
    sublayer : torch.nn.Module
        Attention (which returns a tuple, tokens first) or feed-forward.
    adapter : torch.nn.Module
        Maps tokens ``[batch, tokens, dim]`` to the same shape.
    placement : str
        ``parallel`` or ``sequential``.
    reads : str, optional
        ``before`` or ``after`` the sub-layer; default: as in `DEFAULT_READS`.
    residual : bool
        Adds the adapter's input to its output.
    """

    calls_its_parts: ClassVar[bool] = True

    def __init__(
        self,
        sublayer: torch.nn.Module,
        adapter: torch.nn.Module,
        placement: str,
        reads: str | None = None,
        residual: bool = False,
    ):
        super().__init__()
        self.sublayer, self.adapter, self.residual = sublayer, adapter, residual
        self.parallel = self.adds = placement == "parallel"
        self.reads_before = (reads or DEFAULT_READS[placement]) == "before"

    def forward(self, hidden_states: torch.Tensor, *inputs: object, **named: object) -> torch.Tensor | tuple[Any, ...]:
        """Takes and returns the same as the sub-layer."""
        adapted = self._adapt(hidden_states) if self.reads_before else None
        outputs = self.sublayer(hidden_states if self.parallel or adapted is None else adapted, *inputs, **named)
        result = outputs[0] if isinstance(outputs, tuple) else outputs
        if adapted is None:
            adapted = self._adapt(result)
            result = result + adapted if self.adds else adapted
        elif self.adds:
            result = result + adapted
        return (result, *outputs[1:]) if isinstance(outputs, tuple) else result

    def _adapt(self, tokens: torch.Tensor) -> torch.Tensor:
        adapted = self.adapter(tokens)
        return adapted + tokens if self.residual else adapted


def check_location(location: str) -> None:
    """Raises a `ConfigError` if there is no such location."""
    _check_choice(f"The location {location!r}", location, list(LOCATIONS))


def check_placement(placement: str, reads: str | None) -> None:
    """Raises a `ConfigError` if there is no such placement, or no such side to read."""
    _check_choice(f"The setting placement: {placement!r}", placement, list(DEFAULT_READS))
    if reads is not None:
        _check_choice(f"The setting reads: {reads!r}", reads, ["before", "after"])


def _check_choice(asked: str, value: str, choices: list[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{asked} was asked for.", "It does not exist.", f"Write one of: {nearest(value, choices)}")


def adapt_sublayers(
    model: torch.nn.Module, spec: BackboneSpec, location: str, adapt: Callable[[torch.nn.Module], torch.nn.Module]
) -> None:
    """Replaces the sub-layers at one of `LOCATIONS` by `adapt` of them, and trains the layer norms before them."""
    for layer in spec.layers_of(model):
        for sublayer in LOCATIONS[location]:
            path = getattr(spec, sublayer)
            layer.set_submodule(path, adapt(find_module(layer, path)))
            norm = getattr(spec, f"norm_before_{sublayer}")
            if norm:
                find_module(layer, norm).requires_grad_(True)
