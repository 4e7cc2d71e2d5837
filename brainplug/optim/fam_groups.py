"""Parameter groups for FAM, by the kind of each parameter's module and by its name.

The kinds and their settings are those of https://github.com/sine2pi/FAMOptimizer (``get_parameter_groups``), but
``layer`` in a name does not mark a norm, as it does there for everything in a list of layers.
"""

from collections.abc import Iterator
from typing import Any

import torch

# Kind -> factor of the learning rate, factor of the decay, α, bands of a spectrum, handler.
SETTINGS = {
    "conv": (1.0, 1.0, 0.90, 10, "conv"),
    "attention": (1.0, 1.0, 0.92, 12, "attention"),
    "embed": (0.8, 1.5, 0.95, 8, "embedding"),
    "norm": (1.0, 0.0, 0.90, 4, "default"),
    "other": (1.0, 1.0, 0.90, 8, "default"),
}
NORMS = (torch.nn.LayerNorm, torch.nn.RMSNorm, torch.nn.GroupNorm, torch.nn.modules.batchnorm._NormBase)
CONVOLUTIONS = torch.nn.modules.conv._ConvNd
# Kind -> words in the names of its modules and parameters; the first row that matches counts.
KEYWORDS = (
    ("norm", ("norm", "ln_")),
    ("embed", ("embed", "token", "prompt", "prefix", "slot")),
    ("conv", ("conv", "cnn")),
    ("attention", ("attention", "attn", "mha")),
)


def fam_parameter_groups(model: torch.nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Groups the trained parameters of a model, each kind with the settings that FAM has for it.

    Embeddings have 0.8 of the learning rate and 1.5 times the weight decay, norms no decay. No group is empty.

    Example
    -------
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 2, 3), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    >>> groups = fam_parameter_groups(model, lr=0.1, weight_decay=0.01)
    >>> [(group["name"], group["param_names"]) for group in groups]
    [('conv', ['0.weight', '0.bias']), ('norm', ['1.weight', '1.bias']), ('other', ['2.weight', '2.bias'])]
    """
    kinds: dict[str, list[tuple[str, torch.nn.Parameter]]] = {kind: [] for kind in SETTINGS}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kinds[parameter_kind(model, name)].append((name, parameter))
    return [_group(kind, named, lr, weight_decay) for kind, named in kinds.items() if named]


def parameter_kind(model: torch.nn.Module, name: str) -> str:
    """The kind of a parameter, a key of `SETTINGS`, from the modules that it lies in and their names.

    A module's type counts before any name. What is called ``down`` or ``up`` beside a convolution is a convolution over
    single tokens: the linear maps of an adapter. Otherwise the last name on the way to the parameter counts that names
    a kind.

    Example
    -------
    >>> model = torch.nn.ModuleDict({"attention": torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2)})})
    >>> parameter_kind(model, "attention.q_proj.weight")
    'attention'
    """
    owners = list(_owners(model, name))
    if isinstance(owners[-1], NORMS):
        return "norm"
    if isinstance(owners[-1], torch.nn.Embedding):
        return "embed"
    if any(isinstance(owner, CONVOLUTIONS) for owner in owners) or _is_around_a_convolution(owners, name):
        return "conv"
    if isinstance(owners[-1], torch.nn.MultiheadAttention):
        return "attention"
    return _named_kind(name)


def _owners(model: torch.nn.Module, name: str) -> Iterator[torch.nn.Module]:
    """The modules that a parameter lies in, outermost first."""
    yield model
    for part in name.split(".")[:-1]:
        model = model.get_submodule(part)
        yield model


def _is_around_a_convolution(owners: list[torch.nn.Module], name: str) -> bool:
    """Whether a parameter maps down or up around a convolution of its module."""
    return any(
        part.startswith(("down", "up", "expert_bias"))
        and any(isinstance(child, CONVOLUTIONS) for child in owner.children())
        for owner, part in zip(owners, name.split("."), strict=True)
    )


def _named_kind(name: str) -> str:
    for part in reversed(name.lower().split(".")):
        for kind, keywords in KEYWORDS:
            if any(keyword in part for keyword in keywords):
                return kind
    return "other"


def _group(kind: str, named: list[tuple[str, torch.nn.Parameter]], lr: float, weight_decay: float) -> dict[str, Any]:
    lr_factor, decay_factor, alpha, n_bands, handler = SETTINGS[kind]
    names, parameters = zip(*named, strict=True)
    return {
        "params": list(parameters),
        "param_names": list(names),
        "name": kind,
        "lr": lr * lr_factor,
        "weight_decay": weight_decay * decay_factor,
        "alpha": alpha,
        "n_bands": n_bands,
        "handler": handler,
    }
