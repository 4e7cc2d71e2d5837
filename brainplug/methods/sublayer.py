"""The one wrapper that places an adapter around a sub-layer of a transformer."""

from collections.abc import Callable

import torch

from brainplug.backbones.spec import BackboneSpec, find_module
from brainplug.errors import UsageError, nearest

LOCATIONS = {"ffn": ("feed_forward",), "mhsa": ("attention",), "houlsby": ("attention", "feed_forward")}
NATURAL_READING = {"parallel": "before", "sequential": "after"}


class AdaptedSublayer(torch.nn.Module):
    """A sub-layer s with an adapter A; the layer's own skip connection stays as it is.

    With z the sub-layer's input and B(z) = A(z), or A(z) + z with residual, the output is

    - ``s(z) + B(z)``: parallel, reads before
    - ``s(z) + B(s(z))``: parallel, reads after
    - ``B(s(z))``: sequential, reads after
    - ``s(B(z))``: sequential, reads before; the published code adds ``B(z)`` once more

    Arguments
    ---------
    sublayer : torch.nn.Module
        Attention (which returns a tuple, tokens first) or feed-forward.
    adapter : torch.nn.Module
        Maps tokens ``[batch, tokens, dim]`` to the same shape.
    placement : str
        ``parallel`` or ``sequential``.
    reads : str, optional
        ``before`` or ``after`` the sub-layer; by default what is natural for the placement.
    residual : bool
        Adds the adapter's input to its output.
    paper_code : bool
        Adds what the published code adds.

    Example
    -------
    >>> linear = torch.nn.Linear(3, 3)
    >>> tokens = torch.randn(2, 5, 3)
    >>> adapted = AdaptedSublayer(linear, torch.nn.Identity(), "parallel")
    >>> bool((adapted(tokens) == linear(tokens) + tokens).all())
    True
    """

    def __init__(
        self,
        sublayer: torch.nn.Module,
        adapter: torch.nn.Module,
        placement: str,
        reads: str | None = None,
        residual: bool = False,
        paper_code: bool = False,
    ):
        super().__init__()
        self.sublayer, self.adapter, self.residual = sublayer, adapter, residual
        self.parallel, self.reads_before = placement == "parallel", (reads or NATURAL_READING[placement]) == "before"
        self.adds = self.parallel or (paper_code and self.reads_before)

    def forward(self, hidden_states: torch.Tensor, *inputs: object, **named: object) -> torch.Tensor | tuple:
        """Takes and returns what the sub-layer does."""
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
    """Makes sure that a location exists.

    Arguments
    ---------
    location : str
        Name of a location.

    Raises
    ------
    UsageError
        It does not.

    Example
    -------
    >>> check_location("houlsby")
    """
    if location not in LOCATIONS:
        raise UsageError(
            f"The location {location!r} was asked for.",
            "It does not exist.",
            f"Write one of: {nearest(location, LOCATIONS)}",
        )


def check_placement(placement: str, reads: str | None, residual: bool, paper_code: bool) -> None:
    """Makes sure that a placement exists and lets the adapted model start as the backbone.

    Arguments
    ---------
    placement, reads : str
        As in `AdaptedSublayer`.
    residual : bool
        Whether the adapter's input is added.
    paper_code : bool
        Allows what the published code allows: a start elsewhere.

    Raises
    ------
    UsageError
        It does not.

    Example
    -------
    >>> check_placement("parallel", None, residual=False, paper_code=False)
    """
    for name, value, known in (("placement", placement, NATURAL_READING), ("reads", reads, ("before", "after", None))):
        if value not in known:
            known = [some for some in known if some]
            raise UsageError(
                f"The setting {name}: {value!r} was asked for.",
                "It does not exist.",
                f"Write one of: {nearest(str(value), known)}",
            )
    if residual != (placement == "sequential") and not paper_code:
        raise UsageError(
            f"A {placement} adapter {'with' if residual else 'without'} residual was asked for.",
            "The adapted model would not start as the backbone.",
            "Write residual: False beside placement: parallel, or residual: True beside placement: sequential",
        )


def adapt_sublayers(
    model: torch.nn.Module, spec: BackboneSpec, location: str, adapt: Callable[[torch.nn.Module], torch.nn.Module]
) -> None:
    """Replaces sub-layers of every layer, and trains the layer norms whose output they read.

    Arguments
    ---------
    model : torch.nn.Module
        Changed in place.
    spec : BackboneSpec
        Where it keeps its parts.
    location : str
        ``ffn``, ``mhsa`` or ``houlsby``: which sub-layers.
    adapt : Callable[[torch.nn.Module], torch.nn.Module]
        Takes a sub-layer and returns what stands at its place.
    """
    for layer in spec.layers_of(model):
        for sublayer in LOCATIONS[location]:
            path = getattr(spec, sublayer)
            layer.set_submodule(path, adapt(find_module(layer, path)))
            norm = getattr(spec, f"norm_before_{sublayer}")
            if norm:
                find_module(layer, norm).requires_grad_(True)
