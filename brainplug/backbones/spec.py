"""How a backbone describes itself, so that a method never has to know which one it adapts."""

from dataclasses import dataclass, field

import torch

from brainplug.errors import UsageError, nearest


class TokenMask:
    """Which tokens of the batch in hand are not padding: a backbone says it, what mixes tokens reads it.

    Arguments
    ---------
    tokens : torch.Tensor, optional
        ``[batch, tokens]``, True where a token counts; None where all do.
    """

    def __init__(self, tokens: torch.Tensor | None = None):
        self.tokens = tokens


@dataclass(frozen=True)
class BackboneSpec:
    """Where a family of transformers keeps its parts.

    Arguments
    ---------
    model_types : tuple[str, ...]
        The families' names in transformers (``config.model_type``).
    signal : str
        What it takes: ``log_mel`` ``[batch, frames, mel_bands]`` or ``waveform`` ``[batch, samples]``.
    layers : str
        Path of the list of layers, from the model.
    attention, feed_forward : str
        Paths of the two sub-layers, from a layer.
    query, key, value, output : str
        Paths of the attention's projections, from a layer.
    feed_forward_in, feed_forward_out : str
        Paths of the feed-forward's two linear maps, from a layer.
    norms : tuple[str, ...]
        Paths of a layer's norms, from the layer.
    norm_before_attention, norm_before_feed_forward : str, optional
        Path of the layer norm whose output the sub-layer reads, from a layer; None where none stands before it.
    final_norm : str, optional
        Path of the layer norm that is trained along with the head, from the model; None where there is none.
    special_tokens : int
        Tokens that stand before those of the clip; the first of them is [CLS].
    mask_embedding : str, optional
        Path of the vector that stands for masked frames, from the model; no classifier reads it.
    convolutions : str, optional
        Path of what makes frames of samples, from the model; None where it takes no waveform.
    token_mask : TokenMask
        Of the batch that one model computes; a backbone that masks padding sets its own, others leave it empty.

    Example
    -------
    >>> model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Identity()])})
    >>> spec = BackboneSpec(("toy",), "waveform", "layers", "a", "f", "q", "k", "v", "o", "f.0", "f.1", ("n",))
    >>> len(spec.layers_of(model))
    1
    """

    model_types: tuple[str, ...]
    signal: str
    layers: str
    attention: str
    feed_forward: str
    query: str
    key: str
    value: str
    output: str
    feed_forward_in: str
    feed_forward_out: str
    norms: tuple[str, ...]
    norm_before_attention: str | None = None
    norm_before_feed_forward: str | None = None
    final_norm: str | None = None
    special_tokens: int = 0
    mask_embedding: str | None = None
    convolutions: str | None = None
    token_mask: TokenMask = field(default_factory=TokenMask, compare=False)

    def layers_of(self, model: torch.nn.Module) -> torch.nn.ModuleList:
        """The transformer layers of a model.

        Arguments
        ---------
        model : torch.nn.Module
            A model of this family.

        Returns
        -------
        torch.nn.ModuleList
            Its layers, first to last.

        Raises
        ------
        UsageError
            There are none at that path.
        """
        return find_module(model, self.layers)


def find_module(parent: torch.nn.Module, path: str) -> torch.nn.Module:
    """Finds a module by its path.

    Arguments
    ---------
    parent : torch.nn.Module
        Where the path starts.
    path : str
        Names separated by dots.

    Returns
    -------
    torch.nn.Module
        What lies there.

    Raises
    ------
    UsageError
        Nothing lies there; the nearest paths are named.

    Example
    -------
    >>> find_module(torch.nn.Sequential(torch.nn.Linear(2, 3)), "0").out_features
    3
    """
    try:
        return parent.get_submodule(path)
    except AttributeError:
        paths = [name for name, _ in parent.named_modules() if name]
        raise UsageError(
            f"The module {path!r} of {type(parent).__name__} was asked for.",
            "It does not exist.",
            f"Write one of: {nearest(path, paths)}",
        ) from None
